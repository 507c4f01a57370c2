/*
 * Tenant deletion, and the page of a tenant's blocks.
 *
 * Each call asks the bucket and may wait for it, so the handlers put it on the cleaner's own thread: neither pushes nor queries wait behind a listing.
 */
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "base/json.h"
#include "base/logger.h"
#include "model/tenant.h"
#include "net/page.h"
#include "storage/compactor/cleaner/cleaner_int.h"

#define PAGE_BLOCKS_MAX 10000
#define PAGE_MARKS_MAX 1000

struct call {
    struct cleaner *c;
    struct http_request *req;
    void (*fn)(struct cleaner *c, struct http_request *req, struct arena *arena);
};

static void run_call(void *job, struct arena *arena)
{
    struct call call = *(struct call *)job;
    free(job);
    call.fn(call.c, call.req, arena);
}

static void later(struct cleaner *c, struct http_request *req, void (*fn)(struct cleaner *c, struct http_request *req, struct arena *arena))
{
    struct call *call = malloc(sizeof(*call));
    ASSERT(call);
    *call = (struct call){c, req, fn};
    if (pool_submit(c->http, run_call, call))
        return;
    free(call);
    http_respond_text_error(req, 503, "too many requests wait for the bucket, try again later");
}

/* --- tenant deletion ----------------------------------------------------------------------------------------------------- */

static void delete_tenant(struct cleaner *c, struct http_request *req, struct arena *arena)
{
    (void)arena;
    struct ctx *ctx = http_ctx(req);
    struct tenant_mark mark = {.deletion_time_s = clock_wall_ms() / 1000};
    struct err err = ERR_NONE;
    if (!bucket_write_tenant_mark(c->parts.bucket, ctx, ctx->tenant, &mark, &err)) {
        LOG_WARN("a tenant could not be marked for deletion", {"user", LOG_SLICE(ctx->tenant)}, {"err", LOG_ERR(&err)});
        http_respond_text_error(req, 500, err.text);
        return;
    }
    LOG_INFO("a tenant is marked for deletion", {"user", LOG_SLICE(ctx->tenant)});
    http_respond_status(req, 200);
}

static void delete_tenant_status(struct cleaner *c, struct http_request *req, struct arena *arena)
{
    struct ctx *ctx = http_ctx(req);
    struct err err = ERR_NONE;
    const struct ulid *blocks;
    size_t n;
    if (!bucket_blocks(c->parts.bucket, ctx, ctx->tenant, arena, &blocks, &n, &err)) {
        http_respond_text_error(req, 500, err.text);
        return;
    }
    struct buf out = {0};
    struct json j;
    json_init(&j, &out);
    json_obj(&j);
    json_key(&j, SL("tenant_id"));
    json_str(&j, ctx->tenant);
    json_key(&j, SL("blocks_deleted"));
    json_bool(&j, n == 0);
    json_obj_end(&j);
    http_respond(req, 200, "application/json", &out);
}

/* --- the page of a tenant's blocks ------------------------------------------------------------------------------------------ */

/* A block on the page. */
struct row {
    const struct index_block *block;
    const struct index_deletion *mark; /* NULL: none */
    struct slice no_compact;           /* why it is not compacted; p == NULL: it is */
    uint64_t bytes;
};

struct sizes {
    struct row *rows; /* by id */
    size_t n;
    size_t prefix_n; /* "<tenant>/" */
};

static int by_id(const void *a, const void *b)
{
    return memcmp(((const struct row *)a)->block->id.text, ((const struct row *)b)->block->id.text, ULID_TEXT_LEN);
}

static int newest_first(const void *a, const void *b)
{
    const struct index_block *x = ((const struct row *)a)->block, *y = ((const struct row *)b)->block;
    if (x->min_t != y->min_t)
        return x->min_t < y->min_t ? 1 : -1;
    return by_id(a, b);
}

static bool add_size(void *arg, struct slice name, bool is_prefix, const struct objstore_attributes *attributes)
{
    struct sizes *s = arg;
    struct index_block key;
    if (is_prefix || name.n < s->prefix_n + ULID_TEXT_LEN || !ulid_parse(slice_make(name.p + s->prefix_n, ULID_TEXT_LEN), &key.id))
        return true;
    struct row *row = bsearch(&(struct row){.block = &key}, s->rows, s->n, sizeof(*s->rows), by_id);
    if (row)
        row->bytes += attributes->size;
    return true;
}

/* Which blocks are set aside, and why, for as many as a page has room for. */
static bool add_no_compact(struct cleaner *c, const struct ctx *ctx, struct slice tenant, struct arena *arena, const struct sizes *s, struct err *err)
{
    const struct ulid *marked;
    struct block_mark mark;
    size_t n;
    if (!bucket_list_marks(c->parts.bucket, ctx, tenant, BLOCK_MARK_NO_COMPACT, arena, &marked, &n, err))
        return false;
    for (size_t i = 0; i < n && i < PAGE_MARKS_MAX; i++) {
        const struct index_block key = {.id = marked[i]};
        struct row *row = bsearch(&(struct row){.block = &key}, s->rows, s->n, sizeof(*s->rows), by_id);
        struct err why = ERR_NONE;
        if (!row)
            continue;
        row->no_compact = bucket_read_mark(c->parts.bucket, ctx, tenant, &marked[i], BLOCK_MARK_NO_COMPACT, arena, &mark, &why) ? mark.reason : SL("unknown");
    }
    return true;
}

/* The blocks of the index with their marks, and what they take in the bucket. */
static bool collect(struct cleaner *c, const struct ctx *ctx, struct slice tenant, const struct bucket_index *index, struct arena *arena, struct sizes *ret,
                    struct err *err)
{
    struct bucket_name prefix = bucket_tenant_file(tenant, "");
    struct row *rows = ARENA_ARRAY(arena, struct row, index->n_blocks + 1);
    if (!rows)
        return err_set(err, ERR_NO_MEMORY, "the bucket index needs too much memory");
    for (size_t i = 0; i < index->n_blocks; i++)
        rows[i] = (struct row){.block = &index->blocks[i]};
    *ret = (struct sizes){rows, index->n_blocks, prefix.n};
    if (ret->n == 0)
        return true;
    qsort(rows, ret->n, sizeof(*rows), by_id);
    for (size_t i = 0; i < index->n_deletions; i++) {
        const struct index_block key = {.id = index->deletions[i].block};
        struct row *row = bsearch(&(struct row){.block = &key}, rows, ret->n, sizeof(*rows), by_id);
        if (row)
            row->mark = &index->deletions[i];
    }
    if (!add_no_compact(c, ctx, tenant, arena, ret, err) ||
        !objstore_list(c->parts.bucket, ctx, bucket_name_slice(&prefix), false, add_size, ret, err))
        return false;
    qsort(rows, ret->n, sizeof(*rows), newest_first);
    return true;
}

static void put_time(struct buf *out, int64_t ms)
{
    char text[CLOCK_RFC3339_MAX];
    clock_rfc3339(ms / 1000, (int32_t)(ms % 1000) * 1000000, CLOCK_AS_NEEDED, text);
    buf_puts(out, text);
}

static void json_time(struct json *j, const char *key, int64_t ms)
{
    char text[CLOCK_RFC3339_MAX];
    clock_rfc3339(ms / 1000, (int32_t)(ms % 1000) * 1000000, CLOCK_AS_NEEDED, text);
    json_key(j, slice_of(key));
    json_str(j, slice_of(text));
}

static void respond_json(struct http_request *req, struct slice tenant, const struct bucket_index *index, const struct sizes *s)
{
    struct buf out = {0};
    struct json j;
    json_init(&j, &out);
    json_obj(&j);
    json_time(&j, "now", clock_wall_ms());
    json_time(&j, "bucket_index_updated", index->updated_at_s * 1000);
    json_key(&j, SL("tenant"));
    json_str(&j, tenant);
    json_key(&j, SL("blocks"));
    json_arr(&j);
    for (size_t i = 0; i < s->n; i++) {
        const struct row *r = &s->rows[i];
        json_obj(&j);
        json_key(&j, SL("block_id"));
        json_str(&j, slice_of(r->block->id.text));
        json_time(&j, "min_time", r->block->min_t);
        json_time(&j, "max_time", r->block->max_t);
        json_time(&j, "uploaded_at", r->block->uploaded_at_s * 1000);
        if (r->mark)
            json_time(&j, "marked_for_deletion", r->mark->time_s * 1000);
        if (r->no_compact.p) {
            json_key(&j, SL("no_compact"));
            json_str(&j, r->no_compact);
        }
        json_key(&j, SL("size_bytes"));
        json_u64(&j, r->bytes);
        json_key(&j, SL("compaction_level"));
        json_u64(&j, r->block->level);
        json_key(&j, SL("source"));
        json_str(&j, r->block->source);
        json_key(&j, SL("compactor_shard_id"));
        json_str(&j, r->block->shard);
        json_key(&j, SL("out_of_order"));
        json_bool(&j, r->block->out_of_order);
        json_obj_end(&j);
    }
    json_arr_end(&j);
    json_obj_end(&j);
    http_respond(req, 200, "application/json", &out);
}

static void put_row(struct buf *out, const struct row *r)
{
    buf_printf(out, "<tr><td><code>%s</code></td><td>", r->block->id.text);
    put_time(out, r->block->min_t);
    buf_puts(out, "</td><td>");
    put_time(out, r->block->max_t);
    buf_printf(out, "</td><td>%.2f MB</td><td>%u</td><td>", (double)r->bytes / 1e6, r->block->level);
    page_text(out, r->block->source);
    buf_puts(out, "</td><td>");
    page_text(out, r->block->shard);
    buf_printf(out, "</td><td>%s</td><td>", r->block->out_of_order ? "yes" : "");
    put_time(out, r->block->uploaded_at_s * 1000);
    buf_puts(out, "</td><td>");
    if (r->mark)
        put_time(out, r->mark->time_s * 1000);
    buf_puts(out, "</td><td>");
    page_text(out, r->no_compact);
    buf_puts(out, "</td></tr>\n");
}

static void respond_page(struct http_request *req, struct slice tenant, const struct bucket_index *index, const struct sizes *s)
{
    struct buf out = {0};
    uint64_t bytes = 0;
    for (size_t i = 0; i < s->n; i++)
        bytes += s->rows[i].bytes;
    page_begin(req, &out, "Compactor");
    buf_puts(&out, "<h1>Blocks of ");
    page_text(&out, tenant);
    buf_printf(&out, "</h1>\n<p>%zu blocks, %.2f MB, as the bucket index of ", s->n, (double)bytes / 1e6);
    put_time(&out, index->updated_at_s * 1000);
    buf_puts(&out, " has them.");
    if (s->n > PAGE_BLOCKS_MAX)
        buf_printf(&out, " The newest %d are shown.", PAGE_BLOCKS_MAX);
    buf_puts(&out, " <a href=\"planned_jobs\">Planned jobs</a></p>\n<div class=\"pane\"><table class=\"wide\">\n<thead><tr><th>Block</th><th>From</th><th>To</th><th>Size</th><th>Level</th><th>Source</th><th>Shard</th>"
                   "<th>Out of order</th><th>Uploaded</th><th>Marked for deletion</th><th>Not compacted</th></tr></thead>\n<tbody>\n");
    for (size_t i = 0; i < s->n && i < PAGE_BLOCKS_MAX; i++)
        put_row(&out, &s->rows[i]);
    buf_puts(&out, "</tbody>\n</table></div>\n");
    page_end(req, &out);
}

static void show_blocks(struct cleaner *c, struct http_request *req, struct arena *arena)
{
    struct slice tenant = http_path_var(req, "tenant");
    struct bucket_index index;
    struct sizes sizes;
    struct err err = ERR_NONE;
    if (!tenant_id_valid(tenant, &err)) {
        http_respond_text_error(req, 400, err.text);
        return;
    }
    if (!bucket_index_read(c->parts.bucket, http_ctx(req), tenant, arena, &index, &err) ||
        !collect(c, http_ctx(req), tenant, &index, arena, &sizes, &err)) {
        http_respond_text_error(req, err.code == ERR_NOT_FOUND ? 404 : 500, err.code == ERR_NOT_FOUND ? "the tenant has no bucket index" : err.text);
        return;
    }
    if (page_wants_json(req))
        respond_json(req, tenant, &index, &sizes);
    else
        respond_page(req, tenant, &index, &sizes);
}

/* --- routes ----------------------------------------------------------------------------------------------------------------- */

static void handle_delete_tenant(struct http_request *req, void *arg)
{
    later(arg, req, delete_tenant);
}

static void handle_delete_tenant_status(struct http_request *req, void *arg)
{
    later(arg, req, delete_tenant_status);
}

static void handle_show_blocks(struct http_request *req, void *arg)
{
    later(arg, req, show_blocks);
}

const struct http_route cleaner_routes[] = {
#define ROUTE(methods, path, pool, flags, handler, help) {methods, path, HTTP_POOL_##pool, flags, handler, help},
#include "storage/compactor/cleaner/cleaner_routes.def"
#undef ROUTE
};
const size_t cleaner_routes_n = ARRAY_LEN(cleaner_routes);
