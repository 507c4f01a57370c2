/*
 * The pages of the compactor's tenants and of what is to be done for one of them, as far as the bucket index tells; with what was set aside, and why. The
 * fields of the JSON are Mimir's (docs/mimir-http.md 4.4), those behind them ours.
 */
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "base/assert.h"
#include "base/clock.h"
#include "base/json.h"
#include "model/tenant.h"
#include "net/page.h"
#include "storage/compactor/compactor_int.h"

#define PAGE_TIMEOUT_MS 30000
#define MARKS_MAX 1000 /* of blocks set aside that are read for one page */

/* The page asks the bucket, and must not do so for ever. */
static struct ctx page_ctx(struct http_request *req)
{
    struct ctx ctx = *http_ctx(req);
    ctx.deadline_ms = clock_mono_ms() + PAGE_TIMEOUT_MS;
    return ctx;
}

static void json_time(struct json *j, struct slice name, int64_t ms, int decimals)
{
    char text[CLOCK_RFC3339_MAX];
    json_key(j, name);
    if (!clock_rfc3339(ms / 1000, (int32_t)(ms % 1000) * 1000000, decimals, text))
        strcpy(text, CLOCK_NO_TIME);
    json_str(j, slice_of(text));
}

static void html_time(struct buf *out, int64_t ms)
{
    char text[CLOCK_RFC3339_MAX];
    if (!clock_rfc3339(ms / 1000, (int32_t)(ms % 1000) * 1000000, 0, text))
        strcpy(text, CLOCK_NO_TIME);
    buf_puts(out, text);
}

static double hours(int64_t ms)
{
    return (double)ms / 3600000;
}

/* --- all tenants ------------------------------------------------------------------------------------------------------------------------ */

static void tenants_json(struct http_request *req, const struct slice *tenants, size_t n)
{
    struct buf out;
    struct json j;
    buf_init(&out, 0);
    json_init(&j, &out);
    json_obj(&j);
    json_time(&j, SL("now"), clock_wall_ms(), CLOCK_AS_NEEDED);
    if (n) {
        json_key(&j, SL("tenants"));
        json_arr(&j);
        for (size_t i = 0; i < n; i++)
            json_str(&j, tenants[i]);
        json_arr_end(&j);
    }
    json_obj_end(&j);
    buf_putc(&out, '\n');
    http_respond(req, 200, "application/json", &out);
}

static void status_cells(struct compactor *c, struct slice tenant, struct buf *out)
{
    const struct tenant_status *s = NULL;
    pthread_mutex_lock(&c->lock);
    for (size_t i = 0; i < c->n_statuses && !s; i++)
        if (slice_eq(slice_of(c->statuses[i].tenant), tenant))
            s = &c->statuses[i];
    if (s) {
        buf_puts(out, "<td>");
        html_time(out, s->at_ms);
        buf_printf(out, "</td><td>%zu</td><td>%.1f</td><td>", s->jobs, hours(s->lag_ms));
        page_text(out, slice_of(s->err.text));
        buf_puts(out, "</td>");
    }
    pthread_mutex_unlock(&c->lock);
    if (!s)
        buf_puts(out, "<td></td><td></td><td></td><td></td>");
}

static void tenants_html(struct http_request *req, struct compactor *c, const struct slice *tenants, size_t n)
{
    struct buf out;
    buf_init(&out, 0);
    page_begin(req, &out, "Compactor");
    buf_puts(&out, "<h1>Tenants of the compactor</h1>\n<p>Those that the bucket has. The columns behind the name are of their last compaction by this "
                   "compactor.</p>\n<div class=\"pane\"><table>\n"
                   "<tr><th>Tenant</th><th>Compacted</th><th>Jobs due</th><th>Lag in hours</th><th>Error</th></tr>\n");
    for (size_t i = 0; i < n; i++) {
        buf_puts(&out, "<tr><td><a href=\"tenant/");
        page_text(&out, tenants[i]);
        buf_puts(&out, "/planned_jobs\">");
        page_text(&out, tenants[i]);
        buf_puts(&out, "</a></td>");
        status_cells(c, tenants[i], &out);
        buf_puts(&out, "</tr>\n");
    }
    buf_puts(&out, n ? "</table></div>\n" : "<tr><td colspan=\"5\">none</td></tr></table></div>\n");
    page_end(req, &out);
}

static void tenants_page(struct http_request *req, void *arg)
{
    struct compactor *c = arg;
    struct ctx ctx = page_ctx(req);
    struct err err = ERR_NONE;
    const struct slice *tenants;
    size_t n;
    if (!bucket_tenants(c->bucket, &ctx, ctx.arena, &tenants, &n, &err)) {
        http_respond_err(req, &err);
        return;
    }
    if (page_wants_json(req))
        tenants_json(req, tenants, n);
    else
        tenants_html(req, c, tenants, n);
}

/* --- one tenant -------------------------------------------------------------------------------------------------------------------------- */

struct planned {
    struct compactor *c;
    struct slice tenant;
    int64_t now_ms;
    int64_t updated_ms; /* of the index */
    const struct compaction_job *jobs;
    size_t n_jobs, n_split;
    const struct block_mark *aside;
    size_t n_aside, n_aside_all;
    int64_t lag_ms;
    struct plan_params params;
};

static bool is_marked(const struct bucket_index *index, const struct ulid *aside, size_t n_aside, const struct ulid *id)
{
    for (size_t i = 0; i < index->n_deletions; i++)
        if (strcmp(index->deletions[i].block.text, id->text) == 0)
            return true;
    for (size_t i = 0; i < n_aside; i++)
        if (strcmp(aside[i].text, id->text) == 0)
            return true;
    return false;
}

/* The jobs that an index shows. aside: blocks that are not to be compacted. */
static bool plan_index(const struct compactor *c, struct slice tenant, const struct bucket_index *index, const struct ulid *aside, size_t n_aside,
                       int64_t now_ms, struct arena *arena, const struct compaction_job **ret, size_t *ret_n, struct err *err)
{
    size_t n = 0;
    struct plan_params p = compactor_plan_params(c, tenant, now_ms);
    const struct limits *limits = limits_of(c->limits, tenant);
    struct plan_block *blocks = ARENA_ARRAY(arena, struct plan_block, index->n_blocks + 1);
    if (!blocks)
        return err_set(err, ERR_NO_MEMORY, "no memory to plan a compaction");
    for (size_t i = 0; i < index->n_blocks; i++) {
        const struct index_block *b = &index->blocks[i];
        if (is_marked(index, aside, n_aside, &b->id))
            continue;
        if (!plan_block_of_index(b, arena, &blocks[n]))
            return err_set(err, ERR_NO_MEMORY, "no memory to plan a compaction");
        n += !plan_is_too_old(limits, &blocks[n], now_ms);
    }
    return plan_compaction(&p, blocks, n, arena, ret, ret_n, err);
}

bool compactor_estimate_jobs(void *arg, struct slice tenant, const struct bucket_index *index, size_t *ret_split, size_t *ret_merge, struct err *err)
{
    struct compactor *c = arg;
    struct arena arena;
    const struct compaction_job *jobs;
    const struct ulid *aside;
    struct ctx ctx = {.deadline_ms = clock_mono_ms() + PAGE_TIMEOUT_MS};
    size_t n, n_aside;
    arena_init(&arena, 0);
    bool good = bucket_list_marks(c->bucket, &ctx, tenant, BLOCK_MARK_NO_COMPACT, &arena, &aside, &n_aside, err) &&
                plan_index(c, tenant, index, aside, n_aside, clock_wall_ms(), &arena, &jobs, &n, err);
    if (good) {
        *ret_split = *ret_merge = 0;
        for (size_t i = 0; i < n; i++)
            ++*(jobs[i].stage == COMPACTION_SPLIT ? ret_split : ret_merge);
    }
    arena_release(&arena);
    return good;
}

/* Marks that cannot be read, because they are gone in the meantime, are passed over. */
static bool read_aside(struct planned *p, const struct ctx *ctx, const struct ulid *ids, size_t n, struct err *err)
{
    struct block_mark *marks = ARENA_ARRAY(ctx->arena, struct block_mark, MIN(n, MARKS_MAX) + 1);
    if (!marks)
        return err_set(err, ERR_NO_MEMORY, "no memory for the marks of blocks");
    p->n_aside_all = n;
    for (size_t i = 0; i < MIN(n, MARKS_MAX); i++)
        if (bucket_read_mark(p->c->bucket, ctx, p->tenant, &ids[i], BLOCK_MARK_NO_COMPACT, ctx->arena, &marks[p->n_aside], NULL))
            p->n_aside++;
    p->aside = marks;
    return true;
}

static bool read_planned(struct planned *p, const struct ctx *ctx, struct err *err)
{
    struct bucket_index index;
    const struct ulid *aside;
    size_t n_aside;
    if (!bucket_index_read(p->c->bucket, ctx, p->tenant, ctx->arena, &index, err) ||
        !bucket_list_marks(p->c->bucket, ctx, p->tenant, BLOCK_MARK_NO_COMPACT, ctx->arena, &aside, &n_aside, err) ||
        !plan_index(p->c, p->tenant, &index, aside, n_aside, p->now_ms, ctx->arena, &p->jobs, &p->n_jobs, err) ||
        !read_aside(p, ctx, aside, n_aside, err))
        return false;
    p->updated_ms = index.updated_at_s * 1000;
    for (size_t i = 0; i < p->n_jobs; i++) {
        p->n_split += p->jobs[i].stage == COMPACTION_SPLIT;
        p->lag_ms = MAX(p->lag_ms, compaction_lag_ms(&p->jobs[i], p->now_ms));
    }
    return true;
}

static void json_job(struct json *j, const struct planned *p, const struct compaction_job *job)
{
    json_obj(j);
    json_key(j, SL("key"));
    json_str(j, slice_of(job->key));
    json_time(j, SL("min_time"), job->min_t, 0);
    json_time(j, SL("max_time"), job->max_t, 0);
    json_key(j, SL("blocks"));
    json_arr(j);
    for (size_t i = 0; i < job->n_blocks; i++)
        json_str(j, slice_of(job->blocks[i]->id.text));
    json_arr_end(j);
    json_key(j, SL("stage"));
    json_str(j, slice_of(compaction_stage_name(job->stage)));
    json_key(j, SL("lag_hours"));
    json_double(j, hours(compaction_lag_ms(job, p->now_ms)));
    json_obj_end(j);
}

static void json_aside(struct json *j, const struct planned *p)
{
    json_key(j, SL("blocks_set_aside"));
    json_arr(j);
    for (size_t i = 0; i < p->n_aside; i++) {
        json_obj(j);
        json_key(j, SL("block"));
        json_str(j, slice_of(p->aside[i].block.text));
        json_key(j, SL("reason"));
        json_str(j, p->aside[i].reason);
        json_key(j, SL("details"));
        json_str(j, p->aside[i].details);
        json_time(j, SL("since"), p->aside[i].time_s * 1000, 0);
        json_obj_end(j);
    }
    json_arr_end(j);
}

static void json_count(struct json *j, struct slice name, uint64_t n)
{
    json_key(j, name);
    json_u64(j, n);
}

static void planned_json(struct http_request *req, const struct planned *p)
{
    struct buf out;
    struct json j;
    buf_init(&out, 0);
    json_init(&j, &out);
    json_obj(&j);
    json_time(&j, SL("now"), p->now_ms, CLOCK_AS_NEEDED);
    json_time(&j, SL("bucket_index_updated"), p->updated_ms, 0);
    json_key(&j, SL("tenant"));
    json_str(&j, p->tenant);
    json_key(&j, SL("jobs"));
    json_arr(&j);
    for (size_t i = 0; i < p->n_jobs; i++)
        json_job(&j, p, &p->jobs[i]);
    json_arr_end(&j);
    json_count(&j, SL("split_jobs_count"), p->n_split);
    json_count(&j, SL("merge_jobs_count"), p->n_jobs - p->n_split);
    json_count(&j, SL("tenant_split_groups"), p->params.split_groups);
    json_count(&j, SL("tenant_merge_shards"), p->params.shards);
    json_key(&j, SL("lag_hours"));
    json_double(&j, hours(p->lag_ms));
    json_aside(&j, p);
    json_obj_end(&j);
    buf_putc(&out, '\n');
    http_respond(req, 200, "application/json", &out);
}

static void html_jobs(struct buf *out, const struct planned *p)
{
    buf_puts(out, "<div class=\"pane\"><table class=\"wide\">\n<tr><th>From</th><th>To</th><th>Stage</th><th>Shard</th><th>Blocks</th><th>Lag in hours</th><th>Here</th>"
                  "<th>Job</th></tr>\n");
    for (size_t i = 0; i < p->n_jobs; i++) {
        const struct compaction_job *job = &p->jobs[i];
        buf_puts(out, "<tr><td>");
        html_time(out, job->min_t);
        buf_puts(out, "</td><td>");
        html_time(out, job->max_t);
        buf_printf(out, "</td><td>%s</td><td>", compaction_stage_name(job->stage));
        page_text(out, job->shard);
        buf_printf(out, "</td><td title=\"");
        for (size_t k = 0; k < job->n_blocks; k++)
            buf_printf(out, "%s%s", k ? "\n" : "", job->blocks[k]->id.text);
        buf_printf(out, "\">%zu</td><td>%.1f</td><td>%s</td><td>", job->n_blocks, hours(compaction_lag_ms(job, p->now_ms)),
                   compactor_ring_owns_job(p->c->ring, p->tenant, job->key) ? "yes" : "no");
        page_text(out, slice_of(job->key));
        buf_puts(out, "</td></tr>\n");
    }
    buf_puts(out, p->n_jobs ? "</table></div>\n" : "<tr><td colspan=\"8\">none</td></tr></table></div>\n");
}

static void html_aside(struct buf *out, const struct planned *p)
{
    buf_printf(out, "<h2>Blocks set aside: %zu</h2>\n<div class=\"pane\"><table>\n<tr><th>Block</th><th>Reason</th><th>Since</th><th>Details</th></tr>\n",
               p->n_aside_all);
    for (size_t i = 0; i < p->n_aside; i++) {
        buf_printf(out, "<tr><td>%s</td><td>", p->aside[i].block.text);
        page_text(out, p->aside[i].reason);
        buf_puts(out, "</td><td>");
        html_time(out, p->aside[i].time_s * 1000);
        buf_puts(out, "</td><td>");
        page_text(out, p->aside[i].details);
        buf_puts(out, "</td></tr>\n");
    }
    buf_puts(out, p->n_aside ? "</table></div>\n" : "<tr><td colspan=\"4\">none</td></tr></table></div>\n");
}

static void planned_html(struct http_request *req, const struct planned *p)
{
    struct buf out;
    buf_init(&out, 0);
    page_begin(req, &out, "Compactor");
    buf_puts(&out, "<h1>Planned compaction of ");
    page_text(&out, p->tenant);
    buf_printf(&out, "</h1>\n<p>%zu jobs to split, %zu to merge, %.1f hours behind; %u shards, %u split groups. Bucket index of ", p->n_split,
               p->n_jobs - p->n_split, hours(p->lag_ms), p->params.shards, p->params.split_groups);
    html_time(&out, p->updated_ms);
    buf_puts(&out, ". <a href=\"blocks\">All blocks</a></p>\n");
    html_jobs(&out, p);
    html_aside(&out, p);
    page_end(req, &out);
}

static void planned_page(struct http_request *req, void *arg)
{
    struct ctx ctx = page_ctx(req);
    struct err err = ERR_NONE;
    struct planned p = {.c = arg, .tenant = http_path_var(req, "tenant"), .now_ms = clock_wall_ms()};
    if (!tenant_id_valid(p.tenant, &err)) {
        http_respond_err(req, &err);
        return;
    }
    p.params = compactor_plan_params(p.c, p.tenant, p.now_ms);
    if (!read_planned(&p, &ctx, &err)) {
        /* Mimir's answer, to be read by people: 200 whatever it was that failed. */
        struct buf out;
        buf_init(&out, 0);
        buf_puts(&out, "Failed to read bucket index for tenant");
        http_respond(req, 200, "text/plain", &out);
        return;
    }
    if (page_wants_json(req))
        planned_json(req, &p);
    else
        planned_html(req, &p);
}

const struct http_route compactor_routes[] = {
#define ROUTE(methods, path, pool, flags, handler, help) {methods, path, HTTP_POOL_##pool, flags, handler, help},
#include "storage/compactor/compactor_routes.def"
#undef ROUTE
};
const size_t compactor_routes_n = ARRAY_LEN(compactor_routes);
