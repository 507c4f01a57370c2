/* The query API's life, its routes, and what all calls have in common. */
#include "read/api/api_int.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/assert.h"
#include "base/clock.h"
#include "base/logger.h"

#define QUERY_THREADS_MAX 8
#define CREW_MIN_SERIES 1024 /* less are decoded sooner than others can be woken */

#define METRICS_ROOM api
#define METRICS_DEF "read/api/api_metrics.def"
#define METRICS_DEFINE_ONLY
#include "base/metrics_table.h"

const double api_buckets_expression[] = {16, 64, 256, 1024, 4096, 16384, 65536, 262144, 1048576, INFINITY};

const struct flag_def read_flags[] = {
#define FLAG(...) FLAG_ROW(read_config, __VA_ARGS__)
#include "read/read_flags.def"
#undef FLAG
};
const size_t read_flags_n = ARRAY_LEN(read_flags);

bool read_config_validate(const struct read_config *cfg, struct err *err)
{
    if (strcmp(cfg->query_engine, "mimir") != 0 && strcmp(cfg->query_engine, "prometheus") != 0)
        return err_set(err, ERR_CONFIG, "querier.query_engine: invalid value \"%s\", allowed are: mimir, prometheus", cfg->query_engine);
    return true;
}

const struct http_route read_routes[] = {
#define ROUTE(methods_, path_, pool_, flags_, handler_, help_) {methods_, path_, HTTP_POOL_##pool_, flags_, handler_, help_},
#include "read/api/read_routes.def"
#undef ROUTE
};
const size_t read_routes_n = ARRAY_LEN(read_routes);

/* All cores, but no more than what one query has a use for. */
static size_t default_query_threads(void)
{
    long cores = sysconf(_SC_NPROCESSORS_ONLN);
    return cores < 1 ? 1 : MIN((size_t)cores, (size_t)QUERY_THREADS_MAX);
}

struct query_api *query_api_new(const struct read_config *cfg, const struct limits_provider *limits, struct queryable *q,
                                read_barrier_fn *barrier, void *barrier_arg)
{
    api_metrics_register();
    struct query_api *api = calloc(1, sizeof(*api));
    ASSERT(api);
    *api = (struct query_api){.cfg = cfg, .limits = limits, .q = q, .barrier = barrier, .barrier_arg = barrier_arg, .spill_dir = "/tmp"};
    api->crew = engine_crew_new(cfg->query_threads ? (size_t)cfg->query_threads : default_query_threads(), CREW_MIN_SERIES);
    return api;
}

void query_api_spill_to(struct query_api *api, const char *dir)
{
    if (dir)
        api->spill_dir = dir;
}

void query_api_free(struct query_api *api)
{
    if (api)
        engine_crew_free(api->crew);
    free(api);
}

/* --- errors ------------------------------------------------------------------------------------------------------------------- */

/* Prometheus's errorType of an error, by its HTTP status. */
static const char *error_type(const struct err *err)
{
    if (err->code == ERR_TIMEOUT)
        return "timeout";
    switch (err_http_status(err->code)) {
    case 400: return "bad_data";
    case 404: return "not_found";
    case 406: return "not_acceptable";
    case 422: return "execution";
    case 429: return "too_many_requests";
    case 499: return "canceled";
    case 503: return "unavailable";
    default: return "internal";
    }
}

static void put_error(struct buf *out, const char *type, struct slice text)
{
    buf_puts(out, "{\"status\":\"error\",\"errorType\":\"");
    buf_puts(out, type);
    buf_puts(out, "\",\"error\":");
    json_put_quoted(out, text);
    buf_putc(out, '}');
}

static void respond_error(struct call *c)
{
    struct buf body;
    buf_init(&body, 0);
    put_error(&body, error_type(&c->err), slice_of(c->err.text));
    int status = err_http_status(c->err.code);
    if (status == 503)
        http_set_header(c->req, "Retry-After", "1");
    http_respond(c->req, status, "application/json", &body);
}

void query_api_refuse(struct http_request *req, enum http_refusal why, uint64_t n_bytes, uint64_t limit_bytes, void *arg)
{
    (void)n_bytes;
    (void)limit_bytes;
    (void)arg;
    if (why == HTTP_REFUSED_BODY_TOO_LARGE) {
        http_respond_text_error(req, 413, "http: request body too large");
        return;
    }
    struct buf body;
    buf_init(&body, 0);
    bool queue = why == HTTP_REFUSED_QUEUE_FULL;
    put_error(&body, queue ? "too_many_requests" : "unavailable",
              queue ? SL("too many outstanding requests") : SL("too many request bodies are held in memory, try again later"));
    http_respond(req, queue ? 429 : 503, "application/json", &body);
}

/* --- one call ------------------------------------------------------------------------------------------------------------------- */

static int64_t earlier(int64_t a, int64_t b)
{
    return a == 0 || (b != 0 && b < a) ? b : a;
}

struct call *call_new(struct http_request *req, struct query_api *api)
{
    struct call *c = malloc(sizeof(*c));
    ASSERT(c);
    *c = (struct call){.api = api, .req = req, .err = ERR_NONE, .began_ns = clock_mono_ns()};
    const struct ctx *ctx = http_ctx(req);
    c->limits = limits_of(api->limits, ctx->tenant);
    uint64_t limit = c->limits->max_estimated_memory_consumption_per_query;
    uint64_t most = api->cfg->max_memory_bytes;
    c->memory_budget_bytes = limit && (most == 0 || limit < most) ? limit : most;
    arena_init(&c->arena, c->memory_budget_bytes);
    c->ctx = *ctx;
    c->ctx.arena = &c->arena;
    if (api->cfg->timeout > 0)
        c->ctx.deadline_ms = earlier(ctx->deadline_ms, clock_mono_ms() + api->cfg->timeout);
    buf_init(&c->body, api->cfg->max_response_bytes);
    return c;
}

void call_free(struct call *c)
{
    buf_release(&c->body);
    arena_release(&c->arena);
    free(c);
}

bool wait_for_writes(struct call *c)
{
    return add_consistency(c) && (!c->api->barrier || c->api->barrier(c->api->barrier_arg, &c->ctx, &c->err));
}

static bool check_size(struct call *c)
{
    if (!c->body.failed)
        return true;
    return err_set(&c->err, ERR_EXECUTION,
                   "the answer is larger than %llu bytes. Ask for fewer series or points, or raise -querier.max-response-bytes",
                   (unsigned long long)c->api->cfg->max_response_bytes);
}

static void count_query(const struct call *c)
{
    double seconds = (double)(clock_mono_ns() - c->began_ns) / 1e9;
    metric_add(METRIC_WITH(api_metrics[API_M_SECONDS], SL("false"), c->ctx.tenant), seconds);
    if (c->samples_read) {
        metric_add(METRIC_WITH(api_metrics[API_M_SAMPLES], c->ctx.tenant), (double)c->samples_read);
        metric_add(METRIC_WITH(api_metrics[API_M_ENGINE_SAMPLES], SL("brunn")), (double)c->samples_read);
    }
    int64_t slow_ms = c->api->cfg->log_queries_longer_than;
    if (slow_ms > 0 && seconds * 1000 >= (double)slow_ms)
        LOG_INFO("slow query", {"user", LOG_SLICE(c->ctx.tenant)}, {"seconds", LOG_F64(seconds)},
                 {"samples", LOG_U64(c->samples_read)}, {"query", LOG_SLICE(http_param(c->req, "query"))});
}

static void set_timing_header(struct call *c)
{
    char text[160];
    long long engine_us = c->engine_ns / 1000, whole_us = (clock_mono_ns() - c->began_ns) / 1000; /* printing doubles takes longer than parsing the query */
    snprintf(text, sizeof(text), "querier_wall_time;dur=%lld.%03lld, response_time;dur=%lld.%03lld, samples_processed;val=%llu", engine_us / 1000, engine_us % 1000,
             whole_us / 1000, whole_us % 1000, (unsigned long long)c->samples_read);
    http_set_header(c->req, "Server-Timing", text);
}

/* --- answers that are written while they are sent -------------------------------------------------------------------------- */

static bool next_piece(void *arg, struct buf *out, struct err *err)
{
    struct call *c = arg;
    return ctx_check(&c->ctx, err) && c->more(c, out, err);
}

static void end_call(void *arg)
{
    struct call *c = arg;
    c->end(c);
    call_free(c);
}

/* Takes over c. */
static void respond_success(struct call *c)
{
    struct http_request *req = c->req;
    if (c->more) {
        http_respond_stream(req, 200, "application/json", (struct http_source){next_piece, end_call, c});
        return;
    }
    if (c->is_query)
        buf_putc(&c->body, '\n');
    if (c->is_query && c->api->cfg->query_stats_enabled)
        set_timing_header(c);
    http_respond(req, 200, "application/json", &c->body);
    call_free(c);
}

void serve(struct http_request *req, struct query_api *api, const char *op, int kind, call_fn *fn)
{
    struct call *c = call_new(req, api);
    c->is_query = kind & CALL_IS_QUERY;
    struct metric *in_progress = metric_single(api_metrics[API_M_IN_PROGRESS]);
    metric_add(in_progress, 1);
    metric_inc(METRIC_WITH(api_metrics[API_M_QUERIES], slice_of(op), c->ctx.tenant));
    bool ok = http_params_check(req, &c->err) && (!(kind & CALL_READS) || wait_for_writes(c)) && fn(c) && check_size(c);
    if (c->is_query)
        count_query(c);
    metric_add(in_progress, -1);
    if (ok) {
        respond_success(c);
        return;
    }
    respond_error(c);
    call_free(c);
}
