/*
 * gatewaypb.StoreGateway, for queriers of other processes (docs/formats.md 8.3).
 *
 * A handler runs on the gRPC server's pool and streams from it: what waits for a slow querier is a batch of series, one of chunks, and the mebibyte that rpc_send lets wait.
 *
 * Series: the hints; batches of series, the statistics before the last; how many chunks to expect; batches of chunks. A tenant of whom nothing is here: no message at all.
 */
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "model/proto_put.h"
#include "model/tenant.h"
#include "storage/gateway/gateway_int.h"

#define BATCH_DEFAULT 256u /* series in a message, when the querier does not say how many */
#define BATCH_MAX 5000u
#define MESSAGE_BYTES ((size_t)1 << 20) /* messages of chunks are sent when they have grown to this */
#define CHUNKS_AT_ONCE 128u             /* series whose chunks are taken from the blocks at a time */

/* One call, on the stack of its handler. */
struct call {
    struct gateway *g;
    struct rpc_request *req;
    struct ctx *ctx;
    struct err err;
    struct buf out;
    struct matcher *matchers; /* in the arena; made for the call, released at its end */
    size_t n_matchers;
    struct request request;
};

/* --- beginning --- */

static bool begin(struct call *c)
{
    if (!tenant_parse(rpc_metadata(c->req, "x-scope-orgid"), &c->ctx->tenant, &c->err))
        return false;
    struct slice own = rpc_metadata(c->req, STOREGATEWAY_TENANT_METADATA);
    struct slice tenant;
    enum downsample_resolution resolution;
    enum downsample_aggregate aggregate;
    if (!own.p || !own.n)
        return err_set(&c->err, ERR_UNAUTHENTICATED, "no userID");
    bool is_room = downsample_room_of(own, &resolution, &aggregate);
    if (!tenant_parse(is_room ? downsample_tenant_of(own) : own, &tenant, &c->err))
        return false;
    c->ctx->tenant = is_room ? own : tenant; /* the place that blocks are looked for in */
    return true;
}

static bool make_matchers(struct call *c, const struct matcher_set *set)
{
    c->matchers = ARENA_ARRAY(c->ctx->arena, struct matcher, set->n + 1);
    if (!c->matchers)
        return gateway_no_memory(&c->err);
    for (; c->n_matchers < set->n; c->n_matchers++) {
        const struct matcher_spec *m = &set->matchers[c->n_matchers];
        if (!matcher_init(&c->matchers[c->n_matchers], m->type, m->name, m->value, &c->err))
            return false;
    }
    return true;
}

typedef bool decode_fn(struct slice message, struct arena *arena, struct storegateway_request *ret, struct err *err);

/* When the querier's bucket index was written, in Unix seconds. 0: it does not say, or no sensible time. */
static int64_t index_time_s(const struct call *c)
{
    struct slice text = rpc_metadata(c->req, STOREGATEWAY_INDEX_METADATA);
    int64_t s = 0;
    if (text.n > 12)
        return 0;
    for (size_t i = 0; i < text.n; i++) {
        if (text.p[i] < '0' || text.p[i] > '9')
            return 0;
        s = s * 10 + (text.p[i] - '0');
    }
    return s;
}

/* The request, its matchers and its blocks, open. */
static bool read_request(struct call *c, decode_fn *decode, struct storegateway_request *r, struct gateway_found *ret_found)
{
    if (!decode(rpc_body(c->req), c->ctx->arena, r, &c->err)) {
        if (c->err.code == ERR_BAD_DATA)
            err_prefix(&c->err, "grpc: error unmarshalling request: ");
        return false;
    }
    if (!make_matchers(c, &r->matchers))
        return false;
    const struct select_params p = {
        .min_t = r->min_t,
        .max_t = r->max_t,
        .matchers = c->matchers,
        .n_matchers = c->n_matchers,
        .no_chunks = r->skip_chunks,
        .limit = r->limit > 0 ? (size_t)r->limit : 0,
    };
    r->blocks.index_s = index_time_s(c);
    return request_begin(&c->request, c->g, c->ctx, &p, &r->blocks, ret_found, &c->err);
}

/* --- Series --- */

static bool send(struct call *c)
{
    if (c->out.failed)
        return err_set(&c->err, ERR_NO_MEMORY, "no memory for an answer");
    bool ok = rpc_send(c->req, &c->out, &c->err);
    buf_release(&c->out);
    return ok;
}

static bool send_series_batch(struct call *c, const struct labels *labels, size_t n, bool last)
{
    if (last) {
        storegateway_stats_put(merge_index_bytes(&c->request), &c->out);
        if (!send(c))
            return false;
    }
    size_t begin_at = storegateway_series_begin(&c->out);
    for (size_t i = 0; i < n; i++)
        storegateway_series_add(&labels[i], &c->out);
    storegateway_series_end(begin_at, last, &c->out);
    return send(c);
}

/* A batch is sent when it is known whether another one follows. */
static bool send_series(struct call *c, size_t batch)
{
    struct labels *now = ARENA_ARRAY(c->ctx->arena, struct labels, batch);
    struct labels *next = ARENA_ARRAY(c->ctx->arena, struct labels, batch);
    size_t n, n_next;
    if (!now || !next)
        return gateway_no_memory(&c->err);
    if (!merge_series(&c->request, now, batch, &n, &c->err))
        return false;
    do {
        n_next = 0;
        if (n == batch && !merge_series(&c->request, next, batch, &n_next, &c->err))
            return false;
        if (!send_series_batch(c, now, n, n_next == 0))
            return false;
        struct labels *swap = now;
        now = next;
        next = swap;
        n = n_next;
    } while (n > 0);
    return true;
}

static size_t chunk_bytes(const struct series *s)
{
    size_t n = 0;
    for (size_t i = 0; i < s->n_chunks; i++)
        n += s->chunks[i].data.n;
    return n;
}

struct chunks_message {
    size_t begin; /* where it begins in out */
    size_t n;     /* series in it */
    size_t bytes; /* of chunks */
};

static bool send_chunks_message(struct call *c, struct chunks_message *m)
{
    if (m->n == 0)
        return true;
    storegateway_chunks_end(m->begin, &c->out);
    metric_observe(gateway_metric(GATEWAY_SENT_CHUNK_BYTES), (double)m->bytes);
    *m = (struct chunks_message){0};
    return send(c);
}

static bool send_chunks(struct call *c, size_t batch)
{
    struct series series[CHUNKS_AT_ONCE];
    struct chunks_message m = {0};
    uint64_t number = 0;
    for (size_t n;;) {
        if (!merge_chunks(&c->request, series, CHUNKS_AT_ONCE, &n, &c->err))
            return false;
        if (n == 0)
            return send_chunks_message(c, &m);
        for (size_t i = 0; i < n; i++) {
            if (m.n == 0)
                m.begin = storegateway_chunks_begin(&c->out);
            storegateway_chunks_add(number++, series[i].chunks, series[i].n_chunks, &c->out);
            m.n++;
            m.bytes += chunk_bytes(&series[i]);
            if ((m.n >= batch || c->out.n >= MESSAGE_BYTES) && !send_chunks_message(c, &m))
                return false;
        }
    }
}

static bool series(struct call *c)
{
    struct storegateway_request r;
    struct gateway_found found;
    int64_t since_ns = clock_mono_ns();
    if (!read_request(c, storegateway_series_request_decode, &r, &found))
        return false;
    if (!c->request.known)
        return true;
    size_t batch = r.chunks_batch ? (size_t)MIN(r.chunks_batch, (uint64_t)BATCH_MAX) : BATCH_DEFAULT;
    storegateway_hints_put(found.blocks, found.n, &c->out);
    if (!send(c) || !merge_begin(&c->request, &c->err))
        return false;
    observe_stage("expand_postings", &since_ns);
    if (!send_series(c, batch))
        return false;
    observe_stage("fetch_series_and_chunks", &since_ns);
    metric_add(metric_single(gateway_metrics[GATEWAY_SERIES_SENT]), (double)c->request.n_series);
    if (r.skip_chunks || c->request.n_series == 0)
        return true;
    storegateway_chunks_estimate_put(c->request.n_chunks, &c->out);
    bool ok = send(c) && send_chunks(c, batch);
    observe_stage("send", &since_ns);
    return ok;
}

/* --- LabelNames, LabelValues --- */

static bool strings_of(struct call *c, decode_fn *decode, enum gateway_strings what, struct storegateway_strings *ret)
{
    struct storegateway_request r;
    struct gateway_found found;
    if (!read_request(c, decode, &r, &found) || !request_strings(&c->request, what, r.label_name, &ret->strings, &ret->n, &c->err))
        return false;
    ret->queried = (struct block_hints){.blocks = found.blocks, .n = found.n};
    return true;
}

static bool label_names(struct call *c)
{
    struct storegateway_strings s = {0};
    if (!strings_of(c, storegateway_label_names_request_decode, GATEWAY_LABEL_NAMES, &s))
        return false;
    storegateway_label_names_put(&s, &c->out);
    return true;
}

static bool label_values(struct call *c)
{
    struct storegateway_strings s = {0};
    if (!strings_of(c, storegateway_label_values_request_decode, GATEWAY_LABEL_VALUES, &s))
        return false;
    storegateway_label_values_put(&s, &c->out);
    return true;
}

/* --- ends --- */

/*
 * Codes as Mimir's: limits are the HTTP status 422 as a code, since queriers tell them by that from what another replica may answer better; a store-gateway that is too busy is
 * Unavailable with the cause that says so; absent tenants are Unknown, which is what an error of Go without a code becomes.
 */
static int code_of(const struct err *err)
{
    switch (err->code) {
    case ERR_CANCELED:
        return RPC_CANCELED;
    case ERR_TIMEOUT:
        return RPC_DEADLINE_EXCEEDED;
    case ERR_UNAVAILABLE:
        return RPC_UNAVAILABLE;
    case ERR_MAX_SERIES_PER_QUERY:
    case ERR_MAX_CHUNKS_PER_QUERY:
    case ERR_MAX_QUERY_MEMORY:
        return err_http_status(err->code);
    case ERR_BAD_DATA:
        return RPC_INVALID_ARGUMENT;
    case ERR_UNAUTHENTICATED:
        return RPC_UNKNOWN;
    default:
        return RPC_INTERNAL;
    }
}

/* A google.rpc.Status whose detail is a httpgrpc.HTTPResponse {1 code  3 body}: how HTTP's errors travel. */
static void put_http_details(int code, struct slice text, struct buf *out)
{
    proto_put_varint(out, 1, (uint64_t)code);
    proto_put_string(out, 2, text);
    size_t any = proto_put_begin(out, 3);
    proto_put_string(out, 1, SL("type.googleapis.com/httpgrpc.HTTPResponse"));
    size_t value = proto_put_begin(out, 2);
    proto_put_varint(out, 1, (uint64_t)code);
    proto_put_string(out, 3, text);
    proto_put_end(out, value);
    proto_put_end(out, any);
}

static void fail(struct call *c)
{
    int code = code_of(&c->err);
    struct slice text = slice_of(c->err.text);
    struct buf details = {0};
    if (code == RPC_UNAVAILABLE)
        error_details_put(code, text, ERROR_CAUSE_INSTANCE_LIMIT, &details);
    else if (code > RPC_UNAUTHENTICATED)
        put_http_details(code, text, &details);
    rpc_finish(c->req, code, text, buf_slice(&details));
    buf_release(&details);
}

typedef bool method_body(struct call *c);

/* The arena of the request, where matchers and parts lie, goes with the request: so they end before it is finished. */
static void run(struct rpc_request *req, void *arg, method_body *body, bool streams)
{
    struct call c = {.g = arg, .req = req, .ctx = rpc_ctx(req), .err = ERR_NONE};
    bool ok = begin(&c) && body(&c);
    if (ok && c.out.failed)
        ok = err_set(&c.err, ERR_NO_MEMORY, "no memory for an answer");
    struct buf out = c.out;
    if (c.request.g)
        request_end(&c.request);
    for (size_t i = 0; i < c.n_matchers; i++)
        matcher_release(&c.matchers[i]);
    if (!ok)
        fail(&c);
    else if (streams)
        rpc_finish(req, RPC_OK, SL(""), SL(""));
    else
        rpc_respond(req, &out);
    buf_release(&out);
}

#define METHOD(body, streams)                                                                                                                                    \
    static void handle_##body(struct rpc_request *req, void *arg)                                                                                                \
    {                                                                                                                                                            \
        run(req, arg, body, streams);                                                                                                                            \
    }
METHOD(series, true)
METHOD(label_names, false)
METHOD(label_values, false)

const struct rpc_method gateway_methods[] = {
    {STOREGATEWAY_SERIES, handle_series, true},
    {STOREGATEWAY_LABEL_NAMES, handle_label_names, false},
    {STOREGATEWAY_LABEL_VALUES, handle_label_values, false},
};
const size_t gateway_methods_n = ARRAY_LEN(gateway_methods);
