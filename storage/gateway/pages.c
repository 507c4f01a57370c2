/* The store-gateway's pages: tenants, a tenant's blocks, and the switch before a stop that is for good. Answers are Mimir's (http.md 4.4); the pages are ours. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "base/json.h"
#include "model/tenant.h"
#include "net/page.h"
#include "storage/gateway/gateway_int.h"

#define BLOCKS_MAX 20000u            /* on one page */
#define META_ARENA_BYTES ((size_t)64 << 20) /* of one meta.json */

static http_handler tenants_page, blocks_page, prepare_shutdown_handler;

const struct http_route gateway_routes[] = {
#define ROUTE(methods, path, pool, flags, handler, help) {methods, path, HTTP_POOL_##pool, flags, handler, help},
#include "storage/gateway/gateway_routes.def"
#undef ROUTE
};
const size_t gateway_routes_n = ARRAY_LEN(gateway_routes);

static void json_now(struct json *j)
{
    char now[CLOCK_RFC3339_MAX];
    int64_t ms = clock_wall_ms();
    clock_rfc3339(ms / 1000, (int32_t)(ms % 1000) * 1000000, CLOCK_AS_NEEDED, now);
    json_key(j, SL("now"));
    json_str(j, slice_of(now));
}

static void end_json(struct http_request *req, struct json *j, struct buf *out)
{
    json_obj_end(j);
    buf_putc(out, '\n');
    http_respond(req, 200, "application/json", out);
}

/* --- tenants --- */

static size_t blocks_here(struct gateway *g, struct slice tenant)
{
    pthread_mutex_lock(&g->lock);
    const struct served_tenant *t = table_find(&g->table, tenant);
    size_t n = t ? t->n : 0;
    pthread_mutex_unlock(&g->lock);
    return n;
}

static void tenants_json(struct http_request *req, const struct slice *tenants, size_t n)
{
    struct buf out;
    struct json j;
    buf_init(&out, 0);
    json_init(&j, &out);
    json_obj(&j);
    json_now(&j);
    if (n) {
        json_key(&j, SL("tenants"));
        json_arr(&j);
        for (size_t i = 0; i < n; i++)
            json_str(&j, tenants[i]);
        json_arr_end(&j);
    }
    end_json(req, &j, &out);
}

static void tenants_html(struct http_request *req, struct gateway *g, const struct slice *tenants, size_t n)
{
    struct buf out;
    buf_init(&out, 0);
    page_begin(req, &out, "Store-gateway");
    buf_printf(&out, "<h1>Store-gateway: tenants</h1>\n<p>%zu tenants have a folder in the bucket.</p>\n"
                     "<div class=\"pane\"><table>\n<tr><th>Tenant</th><th>Blocks served here</th></tr>\n",
               n);
    for (size_t i = 0; i < n; i++) {
        buf_puts(&out, "<tr><td><a href=\"tenant/");
        page_text(&out, tenants[i]); /* a tenant id has no characters that a path must escape */
        buf_puts(&out, "/blocks\">");
        page_text(&out, tenants[i]);
        buf_printf(&out, "</a></td><td>%zu</td></tr>\n", blocks_here(g, tenants[i]));
    }
    buf_puts(&out, "</table></div>\n");
    page_end(req, &out);
}

static void tenants_page(struct http_request *req, void *arg)
{
    struct gateway *g = arg;
    const struct slice *tenants;
    size_t n;
    struct err err = ERR_NONE;
    if (!bucket_tenants(g->bucket, http_ctx(req), http_ctx(req)->arena, &tenants, &n, &err)) {
        http_respond_err(req, &err);
        return;
    }
    if (page_wants_json(req))
        tenants_json(req, tenants, n);
    else
        tenants_html(req, g, tenants, n);
}

/* --- blocks --- */

struct shown_block {
    struct ulid id;
    bool marked; /* for deletion */
    struct arena arena;
    struct block_meta meta;
    struct err err;
};

struct blocks_query {
    struct gateway *g;
    const struct ctx *ctx;
    struct slice tenant;
    struct shown_block *blocks; /* owned: it outlives the request, which ends with the answer */
    size_t n;
};

static int compare_ulids(const void *a, const void *b)
{
    return strcmp(((const struct ulid *)a)->text, ((const struct ulid *)b)->text);
}

static void read_meta(void *arg, size_t i)
{
    struct blocks_query *q = arg;
    struct shown_block *b = &q->blocks[i];
    arena_init(&b->arena, META_ARENA_BYTES);
    bucket_read_meta(q->g->bucket, q->ctx, q->tenant, &b->id, &b->arena, &b->meta, &b->err);
}

/* The newest first: what ends the list when there are too many is the oldest. */
static bool choose_blocks(struct blocks_query *q, bool with_deleted, struct err *err)
{
    struct arena *arena = q->ctx->arena;
    const struct ulid *ids, *marked;
    size_t n_ids, n_marked;
    if (!bucket_blocks(q->g->bucket, q->ctx, q->tenant, arena, &ids, &n_ids, err) ||
        !bucket_list_marks(q->g->bucket, q->ctx, q->tenant, BLOCK_MARK_DELETION, arena, &marked, &n_marked, err))
        return false;
    q->blocks = calloc(MIN(n_ids, (size_t)BLOCKS_MAX) + 1, sizeof(*q->blocks));
    ASSERT(q->blocks);
    for (size_t i = n_ids; i-- > 0 && q->n < BLOCKS_MAX;) {
        bool is_marked = n_marked && bsearch(&ids[i], marked, n_marked, sizeof(*marked), compare_ulids);
        if (!is_marked || with_deleted)
            q->blocks[q->n++] = (struct shown_block){.id = ids[i], .marked = is_marked, .err = ERR_NONE};
    }
    return true;
}

static bool load_blocks(struct blocks_query *q, bool with_deleted, struct err *err)
{
    if (!choose_blocks(q, with_deleted, err))
        return false;
    int64_t threads = MIN(q->g->cfg->meta_sync_concurrency, (int64_t)q->n);
    struct pool *pool = threads > 1 ? pool_new("gw-metas", (size_t)threads - 1, 1024, 1 << 20) : NULL;
    together(pool, 0, q->n, read_meta, q);
    pool_stop(pool);
    return ctx_check(q->ctx, err);
}

static void release_blocks(struct blocks_query *q)
{
    for (size_t i = 0; i < q->n; i++)
        arena_release(&q->blocks[i].arena);
    free(q->blocks);
}

static void blocks_json(struct http_request *req, const struct blocks_query *q)
{
    struct buf out, meta;
    struct json j;
    buf_init(&out, 0);
    buf_init(&meta, 0);
    json_init(&j, &out);
    json_obj(&j);
    json_now(&j);
    json_key(&j, SL("tenant"));
    json_str(&j, q->tenant);
    json_key(&j, SL("metas"));
    json_arr(&j);
    for (size_t i = 0; i < q->n; i++) {
        if (q->blocks[i].err.code != ERR_OK)
            continue; /* partial blocks are no blocks */
        buf_clear(&meta);
        block_meta_encode(&q->blocks[i].meta, &meta);
        if (!meta.failed)
            json_raw(&j, buf_slice(&meta));
    }
    json_arr_end(&j);
    buf_release(&meta);
    end_json(req, &j, &out);
}

static void html_time(struct buf *out, int64_t ms)
{
    char text[CLOCK_RFC3339_MAX];
    clock_rfc3339(ms / 1000, 0, 0, text);
    buf_puts(out, text);
}

static uint64_t size_of(const struct block_meta *m)
{
    uint64_t n = 0;
    for (size_t i = 0; i < m->n_files; i++)
        n += m->files[i].size;
    return n;
}

static void html_labels(struct buf *out, const struct block_meta *m)
{
    for (size_t i = 0; i < m->n_labels; i++) {
        buf_puts(out, i ? " " : "");
        page_text(out, m->labels[i].name);
        buf_putc(out, '=');
        page_text(out, m->labels[i].value);
    }
}

static bool is_here(struct gateway *g, struct slice tenant, const struct ulid *id)
{
    pthread_mutex_lock(&g->lock);
    const struct served_tenant *t = table_find(&g->table, tenant);
    bool here = t && served_find(t, id);
    pthread_mutex_unlock(&g->lock);
    return here;
}

static void html_block(struct buf *out, const struct blocks_query *q, const struct shown_block *b)
{
    const struct block_meta *m = &b->meta;
    buf_printf(out, "<tr><td><code>%s</code></td>", b->id.text);
    if (b->err.code != ERR_OK) {
        buf_puts(out, "<td class=\"bad\" colspan=\"10\">");
        page_text(out, slice_of(b->err.text));
        buf_puts(out, "</td></tr>\n");
        return;
    }
    buf_puts(out, "<td>");
    html_time(out, ulid_time_ms(&b->id));
    buf_puts(out, "</td><td>");
    html_time(out, m->min_t);
    buf_puts(out, "</td><td>");
    html_time(out, m->max_t);
    buf_puts(out, "</td><td>");
    duration_print((m->max_t - m->min_t) / 1000 * 1000, out);
    buf_printf(out, "</td><td>%u</td><td>%zu</td><td>%llu</td><td>%.1f</td><td>", m->level, m->n_sources, (unsigned long long)m->stats.series,
               (double)size_of(m) / (1 << 20));
    page_text(out, m->source);
    buf_puts(out, block_meta_is_out_of_order(m) ? ", out of order" : "");
    buf_puts(out, b->marked ? ", <span class=\"bad\">marked for deletion</span>" : "");
    buf_puts(out, is_here(q->g, q->tenant, &b->id) ? ", <span class=\"good\">served here</span>" : "");
    buf_puts(out, "</td><td>");
    html_labels(out, m);
    buf_puts(out, "</td></tr>\n");
}

static void blocks_html(struct http_request *req, const struct blocks_query *q, bool with_deleted)
{
    struct buf out;
    uint64_t bytes = 0;
    for (size_t i = 0; i < q->n; i++)
        bytes += q->blocks[i].err.code == ERR_OK ? size_of(&q->blocks[i].meta) : 0;
    buf_init(&out, 0);
    page_begin(req, &out, "Store-gateway");
    buf_puts(&out, "<h1>Blocks of ");
    page_text(&out, q->tenant);
    buf_printf(&out, "</h1>\n<p>%zu blocks, %.1f MiB. <a href=\"%s</a></p>\n", q->n, (double)bytes / (1 << 20),
               with_deleted ? "?\">Hide those that are marked for deletion" : "?show_deleted=on\">Show those that are marked for deletion, too");
    buf_puts(&out, "<div class=\"pane\"><table class=\"wide\">\n<tr><th>Block</th><th>Made</th><th>From</th><th>To</th><th>Range</th><th>Level</th><th>Sources</th><th>Series</th>"
                   "<th>MiB</th><th>What</th><th>Labels</th></tr>\n");
    for (size_t i = 0; i < q->n; i++)
        html_block(&out, q, &q->blocks[i]);
    buf_puts(&out, "</table></div>\n");
    page_end(req, &out);
}

static void blocks_page(struct http_request *req, void *arg)
{
    struct blocks_query q = {.g = arg, .ctx = http_ctx(req), .tenant = http_path_var(req, "tenant")};
    struct err err = ERR_NONE;
    bool with_deleted = slice_eq(http_param(req, "show_deleted"), SL("on"));
    if (!tenant_id_valid(q.tenant, &err) || !load_blocks(&q, with_deleted, &err))
        http_respond_err(req, &err);
    else if (page_wants_json(req))
        blocks_json(req, &q);
    else
        blocks_html(req, &q, with_deleted);
    release_blocks(&q);
}

/* --- the stop that is for good --- */

static void respond_prepared(struct http_request *req, struct gateway *g)
{
    struct buf out;
    buf_init(&out, 0);
    pthread_mutex_lock(&g->lock);
    buf_puts(&out, g->prepared_down ? "set\n" : "unset\n");
    pthread_mutex_unlock(&g->lock);
    http_respond(req, 200, "text/plain", &out);
}

static void prepare_shutdown_handler(struct http_request *req, void *arg)
{
    struct gateway *g = arg;
    struct err err = ERR_NONE;
    if (http_method(req) == HTTP_GET)
        respond_prepared(req, g);
    else if (gateway_set_prepared(g, http_method(req) == HTTP_POST, &err))
        http_respond_status(req, 204);
    else
        http_respond_err(req, &err);
}
