/*
 * Remote read: POST <prefix>/api/v1/read. Messages and answers are read/remote's; here is what a call is: limits of the tenant, the read barrier, time.
 *
 * A few queries of one request run at a time, and all of them before the first byte is sent, so that whatever fails has a status of its own. From then on
 * the answer lives without the call: its bytes wait in a spill, and no set of series is open however slow the client is. Errors are plain text, as Mimir's.
 */
#include <stdlib.h>

#include "base/assert.h"
#include "base/clock.h"
#include "base/parallel.h"
#include "read/api/api_int.h"
#include "read/remote/remote.h"

/* An answer on its way. */
struct sending {
    struct remote_answer *answer;
    int64_t deadline_ms; /* 0 = none */
};

static bool send_more(void *arg, struct buf *out, struct err *err)
{
    struct sending *s = arg;
    if (s->deadline_ms && clock_mono_ms() > s->deadline_ms)
        return err_set(err, ERR_TIMEOUT, "the remote read was not sent within -querier.timeout");
    return remote_answer_next(s->answer, HTTP_PIECE_BYTES, out, err);
}

static void send_end(void *arg)
{
    struct sending *s = arg;
    remote_answer_free(s->answer);
    free(s);
}

static uint64_t limit_of(int64_t limit)
{
    return limit > 0 ? (uint64_t)limit : 0;
}

static struct remote_answer *answer_new(const struct call *c, enum remote_form form, size_t n_queries)
{
    const struct remote_limits limits = {
        .max_series = limit_of(c->limits->max_fetched_series_per_query),
        .max_chunks = limit_of(c->limits->max_fetched_chunks_per_query),
        .max_chunk_bytes = limit_of(c->limits->max_fetched_chunk_bytes_per_query),
        .max_memory_bytes = c->memory_budget_bytes,
        .max_answer_bytes = c->api->cfg->max_response_bytes,
    };
    return remote_answer_new(form, n_queries, &limits, c->api->spill_dir);
}

/* The queries of a request, which several threads run; immutable meanwhile, but for the answer. */
struct run {
    const struct call *c;
    const struct remote_request *request;
    const bool *empty; /* of each query: it asks for nothing */
    enum remote_form form;
    struct remote_answer *answer;
};

/* What a select needs is given back after each query. */
static bool run_query(void *arg, size_t i, struct err *err)
{
    const struct run *r = arg;
    const struct remote_query *q = &r->request->queries[i];
    struct queryable *store = r->c->api->q;
    struct ctx ctx = r->c->ctx;
    if (r->empty[i])
        return remote_answer_add(r->answer, i, q, NULL, &ctx, err);
    struct arena arena;
    arena_init(&arena, r->c->memory_budget_bytes);
    ctx.arena = &arena;
    struct select_params p = {.min_t = q->start_ms,
                              .max_t = q->end_ms,
                              .matchers = q->matchers,
                              .n_matchers = q->n_matchers,
                              .no_chunks = q->only_series && r->form == REMOTE_SAMPLES};
    struct series_set *set = store->ops->select(store, &ctx, &p, err);
    bool good = set && remote_answer_add(r->answer, i, q, set, &ctx, err);
    series_set_release(set);
    arena_release(&arena);
    return good;
}

static bool run_queries(struct call *c, const struct remote_request *request, enum remote_form form, struct remote_answer *answer)
{
    int64_t at_once = c->api->cfg->max_concurrent_remote_read_queries;
    bool *empty = ARENA_ARRAY(&c->arena, bool, request->n_queries + 1);
    if (!empty)
        return err_set(&c->err, ERR_MAX_QUERY_MEMORY, "out of memory for the request");
    for (size_t i = 0; i < request->n_queries; i++) {
        struct remote_query *q = &request->queries[i];
        if (!limit_read_time(c, &q->start_ms, q->end_ms, &empty[i]))
            return false;
        empty[i] |= q->n_matchers == 0;
    }
    struct run run = {c, request, empty, form, answer};
    return parallel_run(request->n_queries, at_once > 0 ? (size_t)at_once : request->n_queries, run_query, &run, &c->err);
}

/* NULL: c->err says why. */
static struct remote_answer *run(struct call *c, const struct remote_request *r, enum remote_form form)
{
    struct remote_answer *a = answer_new(c, form, r->n_queries);
    if (wait_for_writes(c) && run_queries(c, r, form, a) && remote_answer_finish(a, &c->err)) {
        metric_add(METRIC_WITH(api_metrics[API_M_SAMPLES], c->ctx.tenant), (double)remote_answer_stats(a).samples);
        return a;
    }
    remote_answer_free(a);
    return NULL;
}

/* Limits are 400 here, where the query API has 422. */
static void respond_error(struct call *c)
{
    int status = err_http_status(c->err.code);
    if (status == 503)
        http_set_header(c->req, "Retry-After", "1");
    http_respond_text_error(c->req, status == 422 ? 400 : status, c->err.text);
}

static void respond(struct call *c, enum remote_form form, struct remote_answer *a)
{
    struct sending *s = malloc(sizeof(*s));
    ASSERT(s);
    *s = (struct sending){a, c->ctx.deadline_ms};
    if (form == REMOTE_SAMPLES)
        http_set_header(c->req, "Content-Encoding", "snappy");
    http_respond_stream(c->req, 200, remote_content_type(form), (struct http_source){send_more, send_end, s});
}

static void read_and_respond(struct call *c)
{
    struct remote_request r;
    enum remote_form form;
    struct remote_answer *a = NULL;
    bool readable = remote_request_read(http_body(c->req), c->api->cfg->max_body_size, &c->arena, &r, &c->err);
    if (readable && remote_request_form(&r, &form, &c->err))
        a = run(c, &r, form);
    remote_request_release(&r);
    if (a)
        respond(c, form, a);
    else if (!readable && c->err.code != ERR_TOO_LARGE && c->err.code != ERR_MAX_QUERY_MEMORY)
        http_respond_text_error(c->req, 500, c->err.text); /* Mimir's status, too; with its activity tracker on, it hides the text */
    else
        respond_error(c);
}

void remote_read_handler(struct http_request *req, void *arg)
{
    struct call *c = call_new(req, arg);
    struct metric *running = metric_single(api_metrics[API_M_REMOTE_READS]);
    metric_add(running, 1);
    metric_inc(METRIC_WITH(api_metrics[API_M_QUERIES], SL("remote_read"), c->ctx.tenant));
    read_and_respond(c);
    metric_add(running, -1);
    call_free(c);
}
