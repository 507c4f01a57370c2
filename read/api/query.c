/* query and query_range: parameters in Mimir's order of checks, then the engine, then JSON. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "read/api/api_int.h"

#define MAX_POINTS 11000

struct query_params {
    struct slice text;
    struct engine_query query;
    bool is_range;
    size_t limit;    /* series of the answer; 0 = all */
    bool with_stats; /* the stats parameter was given */
    bool with_steps; /* and asks for each step's */
    int64_t prepare_ns;
};

/* --- parameters -------------------------------------------------------------------------------------------------------------------- */

/* A timeout can only shorten the querier's. */
static bool param_timeout(struct call *c)
{
    struct slice text = http_param(c->req, "timeout");
    int64_t ms;
    if (!text.n)
        return true;
    if (!parse_duration(text, &ms, &c->err))
        return invalid_param(c, "timeout");
    int64_t deadline = clock_mono_ms() + (ms < 0 ? 0 : ms);
    if (c->ctx.deadline_ms == 0 || deadline < c->ctx.deadline_ms)
        c->ctx.deadline_ms = deadline;
    return true;
}

/* As Go's strconv.Atoi shows it. */
static bool param_result_limit(struct call *c, size_t *ret)
{
    struct slice text = http_param(c->req, "limit");
    *ret = 0;
    if (!text.n)
        return true;
    size_t i = text.p[0] == '-' || text.p[0] == '+';
    bool range = false;
    bool syntax = i == text.n;
    for (; i < text.n && !syntax; i++) {
        syntax = text.p[i] < '0' || text.p[i] > '9';
        range = range || *ret > (size_t)INT64_MAX / 20;
        *ret = range ? 0 : *ret * 10 + (size_t)(text.p[i] - '0');
    }
    if (syntax || range) {
        err_set(&c->err, ERR_BAD_DATA, "strconv.Atoi: parsing \"%.*s\": %s", SL_FMT(text), syntax ? "invalid syntax" : "value out of range");
        return invalid_param(c, "limit");
    }
    if (text.p[0] == '-' && *ret) {
        err_set(&c->err, ERR_BAD_DATA, "limit must be non-negative");
        return invalid_param(c, "limit");
    }
    return true;
}

static bool param_lookback(struct call *c, int64_t *ret_ms)
{
    struct slice text = http_param(c->req, "lookback_delta");
    *ret_ms = c->api->cfg->lookback_delta;
    if (!text.n)
        return true;
    if (!parse_duration(text, ret_ms, &c->err))
        return invalid_param(c, "lookback_delta");
    if (*ret_ms > 0)
        return true;
    err_set(&c->err, ERR_BAD_DATA, "must be greater than 0, got %.*s", SL_FMT(text));
    return invalid_param(c, "lookback_delta");
}

/* Thanos's parameter. It never makes an answer another one: what may be read is the tenant's limit too, and only where the answer is the same. */
static bool param_source_resolution(struct call *c, int64_t *ret_ms)
{
    struct slice text = http_param(c->req, "max_source_resolution");
    *ret_ms = INT64_MAX;
    if (!text.n || slice_eq(text, SL("auto")))
        return true;
    if (!parse_duration(text, ret_ms, &c->err))
        return invalid_param(c, "max_source_resolution");
    if (*ret_ms >= 0)
        return true;
    err_set(&c->err, ERR_BAD_DATA, "must not be negative, got %.*s", SL_FMT(text));
    return invalid_param(c, "max_source_resolution");
}

static bool required_time(struct call *c, const char *name, int64_t *ret_ms)
{
    struct slice text = http_param(c->req, name);
    if (!text.n)
        return err_set(&c->err, ERR_BAD_DATA, "missing required parameter \"%s\"", name);
    return parse_time(text, ret_ms, &c->err) || invalid_param(c, name);
}

static bool param_step(struct call *c, int64_t *ret_ms)
{
    struct slice text = http_param(c->req, "step");
    if (!text.n)
        return err_set(&c->err, ERR_BAD_DATA, "missing required parameter \"step\"");
    if (!parse_duration(text, ret_ms, &c->err))
        return invalid_param(c, "step");
    if (*ret_ms > 0)
        return true;
    err_set(&c->err, ERR_BAD_DATA, "zero or negative query resolution step widths are not accepted. Try a positive integer");
    return invalid_param(c, "step");
}

static bool param_steps(struct call *c, struct engine_query *q)
{
    if (!required_time(c, "start", &q->start_ms) || !required_time(c, "end", &q->end_ms))
        return false;
    if (q->end_ms < q->start_ms) {
        err_set(&c->err, ERR_BAD_DATA, "end timestamp must not be before start time");
        return invalid_param(c, "end");
    }
    if (!param_step(c, &q->step_ms))
        return false;
    /* Unsigned: the distance of two far times does not fit an int64. */
    if (((uint64_t)q->end_ms - (uint64_t)q->start_ms) / (uint64_t)q->step_ms > MAX_POINTS)
        return err_set(&c->err, ERR_BAD_DATA,
                       "exceeded maximum resolution of 11,000 points per timeseries. Try decreasing the query resolution (?step=XX)");
    return true;
}

static bool param_instant(struct call *c, struct engine_query *q)
{
    struct slice text = http_param(c->req, "time");
    q->start_ms = clock_wall_ms();
    if (text.n && !parse_time(text, &q->start_ms, &c->err)) {
        err_prefix(&c->err, "invalid time value for 'time': ");
        return invalid_param(c, "time");
    }
    q->end_ms = q->start_ms;
    return true;
}

static bool read_params(struct call *c, struct query_params *p)
{
    p->text = http_param(c->req, "query");
    p->query.text = p->text;
    p->with_stats = p->query.count_samples = http_param(c->req, "stats").n > 0;
    p->with_steps = slice_eq(http_param(c->req, "stats"), SL("all"));
    return (p->is_range ? param_steps(c, &p->query) : param_instant(c, &p->query)) && param_timeout(c) && param_result_limit(c, &p->limit) &&
           param_lookback(c, &p->query.lookback_delta_ms) && param_source_resolution(c, &p->query.max_source_resolution_ms) && limit_expression(c, p->text);
}

/* --- running ------------------------------------------------------------------------------------------------------------------------- */

static struct node *parse_query(struct call *c, const struct query_params *p)
{
    struct promql_parse_options opt = parse_options(c);
    struct node *n = promql_parse(p->text, &opt, &c->arena, &c->err);
    if (!n) {
        invalid_param(c, "query");
        return NULL;
    }
    if (p->is_range && n->type != VALUE_VECTOR && n->type != VALUE_SCALAR) {
        err_set(&c->err, ERR_BAD_DATA,
                "query expression produces a %s, but expression for range queries must produce an instant vector or scalar", value_type_name(n->type));
        invalid_param(c, "query");
        promql_release(n);
        return NULL;
    }
    return n;
}

static struct engine_config engine_config_of(const struct call *c)
{
    const struct limits *l = c->limits;
    return (struct engine_config){
        .crew = c->api->crew,
        .lookback_delta_ms = c->api->cfg->lookback_delta,
        .default_evaluation_interval_ms = c->api->cfg->default_evaluation_interval,
        .max_samples = c->api->cfg->max_samples,
        .max_memory_bytes = c->memory_budget_bytes,
        .max_series = l->max_fetched_series_per_query > 0 ? (uint64_t)l->max_fetched_series_per_query : 0,
        .max_chunks = l->max_fetched_chunks_per_query > 0 ? (uint64_t)l->max_fetched_chunks_per_query : 0,
        .max_chunk_bytes = l->max_fetched_chunk_bytes_per_query > 0 ? (uint64_t)l->max_fetched_chunk_bytes_per_query : 0,
        .delayed_name_removal = l->enable_delayed_name_removal,
        .prometheus_errors = strcmp(c->api->cfg->query_engine, "prometheus") == 0,
    };
}

static bool execute(struct call *c, const struct node *expr, struct query_params *p, struct engine_result *ret)
{
    bool empty;
    if (!limit_query_time(c, expr, &p->query, &empty))
        return false;
    *ret = (struct engine_result){.type = p->is_range ? VALUE_MATRIX : VALUE_VECTOR};
    if (empty)
        return true;
    struct engine_config cfg = engine_config_of(c);
    int64_t began = clock_mono_ns();
    bool ok = ctx_check(&c->ctx, &c->err) && engine_exec(&cfg, c->api->q, &c->ctx, &p->query, ret, &c->err);
    c->engine_ns = clock_mono_ns() - began;
    c->samples_read = ok ? ret->samples_read : 0;
    if (ret->run_again)
        metric_inc(METRIC_WITH(api_metrics[API_M_RUN_AGAIN], c->ctx.tenant));
    return ok;
}

/* --- the answer ------------------------------------------------------------------------------------------------------------------------ */

static void put_steps(struct json *j, struct slice key, const struct query_params *p, const uint64_t *at, size_t n_steps)
{
    json_key(j, key);
    json_arr(j);
    for (size_t i = 0; i < n_steps; i++) {
        json_arr(j);
        json_raw(j, SL("")); /* the time, which has another way of writing numbers */
        put_timestamp(j->out, p->query.start_ms + (int64_t)i * p->query.step_ms);
        json_u64(j, at[i]);
        json_arr_end(j);
    }
    json_arr_end(j);
}

/* Samples as Prometheus counts them, but for the peak, which is what was decoded: there is no moment at which all of it is in memory. */
static void put_samples(struct call *c, struct json *j, const struct query_params *p, const struct engine_counts *n)
{
    bool steps = p->with_steps && n->n_steps;
    json_key(j, SL("samples"));
    json_obj(j);
    if (steps)
        put_steps(j, SL("totalQueryableSamplesPerStep"), p, n->seen_at, n->n_steps);
    json_key(j, SL("totalQueryableSamples"));
    json_u64(j, n->seen);
    if (steps)
        put_steps(j, SL("samplesReadPerStep"), p, n->read_at, n->n_steps);
    json_key(j, SL("samplesRead"));
    json_u64(j, n->read);
    json_key(j, SL("peakSamples"));
    json_u64(j, c->samples_read);
    json_obj_end(j);
}

static void put_stats(struct call *c, const struct query_params *p, const struct engine_counts *n)
{
    struct json j;
    json_init(&j, &c->body);
    double engine = (double)c->engine_ns / 1e9;
    double prepare = (double)p->prepare_ns / 1e9;
    buf_puts(&c->body, ",\"stats\":");
    json_obj(&j);
    json_key(&j, SL("timings"));
    json_obj(&j);
    json_key(&j, SL("evalTotalTime"));
    json_double(&j, engine + prepare);
    json_key(&j, SL("resultSortTime"));
    json_double(&j, 0);
    json_key(&j, SL("queryPreparationTime"));
    json_double(&j, prepare);
    json_key(&j, SL("innerEvalTime"));
    json_double(&j, engine);
    json_key(&j, SL("execQueueTime"));
    json_double(&j, 0);
    json_key(&j, SL("execTotalTime"));
    json_double(&j, engine + prepare);
    json_obj_end(&j);
    put_samples(c, &j, p, n);
    json_obj_end(&j);
}

static bool put_answer(struct call *c, const struct query_params *p, struct engine_result *r)
{
    const struct slice *warnings = r->warnings;
    size_t n_warnings = r->n_warnings;
    if (p->limit && r->n_series > p->limit) {
        r->n_series = p->limit;
        struct slice *more = ARENA_ARRAY(&c->arena, struct slice, n_warnings + 1);
        if (!more)
            return err_set(&c->err, ERR_MAX_QUERY_MEMORY, "out of memory for the query");
        if (n_warnings)
            memcpy(more, warnings, n_warnings * sizeof(*more));
        more[n_warnings++] = SL("results truncated due to limit");
        warnings = more;
    }
    put_result(&c->body, r, &p->query);
    if (p->with_stats)
        put_stats(c, p, &r->counts);
    buf_putc(&c->body, '}');
    put_annotations(&c->body, "warnings", warnings, n_warnings);
    put_annotations(&c->body, "infos", r->infos, r->n_infos);
    buf_putc(&c->body, '}');
    return true;
}

static bool run_query(struct call *c, bool is_range)
{
    struct query_params p = {.is_range = is_range};
    if (!read_params(c, &p))
        return false;
    int64_t began = clock_mono_ns();
    struct node *expr = parse_query(c, &p);
    if (!expr)
        return false;
    struct engine_result result;
    bool ok = promql_resolve_durations(expr, p.query.step_ms, p.query.end_ms - p.query.start_ms, &c->err) ||
              invalid_param(c, "query");
    p.prepare_ns = clock_mono_ns() - began;
    p.query.expr = expr;
    ok = ok && execute(c, expr, &p, &result) && put_answer(c, &p, &result);
    promql_release(expr);
    return ok;
}

static bool run_instant(struct call *c)
{
    return run_query(c, false);
}

static bool run_range(struct call *c)
{
    return run_query(c, true);
}

void query_handler(struct http_request *req, void *arg)
{
    serve(req, arg, "query", CALL_READS | CALL_IS_QUERY, run_instant);
}

void query_range_handler(struct http_request *req, void *arg)
{
    serve(req, arg, "query_range", CALL_READS | CALL_IS_QUERY, run_range);
}
