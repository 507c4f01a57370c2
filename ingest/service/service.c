#include "ingest/service/service_int.h"

#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "model/tenant.h"

#define METRICS_DEFINE_ONLY
#define METRICS_ROOM ingest_service
#define METRICS_DEF "ingest/service/service_metrics.def"
#include "base/metrics_table.h"

#define TENANT_METADATA "x-scope-orgid"

/* --- life cycle --- */

struct ingest_service *ingest_service_new(const struct ingest_config *cfg, struct ingester *ing, int32_t partition,
                                          struct last_produced *last_produced)
{
    static const struct slice component = {"partition-reader", 16};
    struct ingest_service *s = calloc(1, sizeof(*s));
    ASSERT(s);
    ingest_service_metrics_register();
    s->cfg = *cfg;
    s->ing = ing;
    s->partition = partition;
    s->last_produced = last_produced;
    s->strong_with_offset = METRIC_WITH(ingest_service_metrics[SERVICE_STRONG_REQUESTS], component, SL("true"));
    s->strong_without_offset = METRIC_WITH(ingest_service_metrics[SERVICE_STRONG_REQUESTS], component, SL("false"));
    s->strong_failures = METRIC_WITH(ingest_service_metrics[SERVICE_STRONG_FAILURES], component);
    s->strong_seconds = METRIC_WITH(ingest_service_metrics[SERVICE_STRONG_SECONDS], component);
    service_queryable_init(s);
    return s;
}

void ingest_service_free(struct ingest_service *s)
{
    free(s);
}

struct queryable *ingest_service_queryable(struct ingest_service *s)
{
    return &s->queryable;
}

/* --- what calls need --- */

bool call_unreadable(struct call *c)
{
    if (c->err.code == ERR_BAD_DATA) {
        err_prefix(&c->err, "grpc: error unmarshalling request: ");
        c->err.code = ERR_INTERNAL;
    }
    return false;
}

bool call_matchers(struct call *c, const struct matcher_set *set, const struct matcher **ret, size_t *ret_n)
{
    struct call_matchers *m = arena_alloc(c->ctx->arena, sizeof(*m) + (set->n + 1) * sizeof(m->all[0]));
    if (!m)
        return err_set(&c->err, ERR_MAX_QUERY_MEMORY, "no memory for matchers");
    m->next = c->matchers;
    m->n = 0;
    c->matchers = m;
    for (; m->n < set->n; m->n++) {
        const struct matcher_spec *spec = &set->matchers[m->n];
        if (!matcher_init(&m->all[m->n], spec->type, spec->name, spec->value, &c->err))
            return false;
    }
    *ret = m->all;
    *ret_n = m->n;
    return true;
}

bool call_sharded_matchers(struct call *c, const struct matcher_set *set, struct series_filter *filter,
                           const struct matcher **ret, size_t *ret_n)
{
    struct matcher_spec *specs = ARENA_ARRAY(c->ctx->arena, struct matcher_spec, set->n + 1);
    if (!specs)
        return err_set(&c->err, ERR_MAX_QUERY_MEMORY, "no memory for matchers");
    struct matcher_set rest = {specs, 0};
    for (size_t i = 0; i < set->n; i++) {
        const struct matcher_spec *m = &set->matchers[i];
        if (m->type != MATCH_EQ || !slice_eq(m->name, SL(QUERY_SHARD_LABEL)))
            specs[rest.n++] = *m;
        else if (!query_shard_parse(m->value, &filter->shard))
            return err_set(&c->err, ERR_INTERNAL, "invalid query shard \"%.*s\"", SL_FMT(m->value));
    }
    return call_matchers(c, &rest, ret, ret_n);
}

bool call_send(struct call *c)
{
    if (c->out.failed)
        return err_set(&c->err, ERR_NO_MEMORY, "no memory for an answer");
    bool ok = rpc_send(c->req, &c->out, &c->err);
    buf_release(&c->out);
    return ok;
}

uint32_t call_active_since_s(const struct call *c)
{
    int64_t since_s = (clock_wall_ms() - c->service->cfg.active_series_idle_timeout) / 1000;
    return (uint32_t)MIN(MAX(since_s, 1), (int64_t)UINT32_MAX);
}

/* --- beginning and end of a call --- */

/* The wishes of the read, in the names that they have in ctx too. */
static bool take_tags(struct call *c)
{
    static const char *const names[] = {READ_LEVEL_TAG, READ_OFFSETS_TAG, READ_MAX_DELAY_TAG, READ_PREFER_DELAY_TAG};
    struct ctx_tag *tags = ARENA_ARRAY(c->ctx->arena, struct ctx_tag, ARRAY_LEN(names));
    size_t n = 0;
    if (!tags)
        return err_set(&c->err, ERR_MAX_QUERY_MEMORY, "no memory for metadata");
    for (size_t i = 0; i < ARRAY_LEN(names); i++) {
        struct slice value = rpc_metadata(c->req, names[i]);
        if (value.p)
            tags[n++] = (struct ctx_tag){slice_of(names[i]), value};
    }
    c->ctx->tags = tags;
    c->ctx->n_tags = n;
    return true;
}

static bool begin(struct call *c)
{
    return tenant_parse(rpc_metadata(c->req, TENANT_METADATA), &c->ctx->tenant, &c->err) && take_tags(c) &&
           service_admit(c->service, c->ctx, &c->err);
}

/*
 * Mimir's codes: what is wrong with a read is Internal, whosever fault it is, since a querier that gets InvalidArgument
 * takes it for its own; absent tenants are Unknown, for that is what an error of Go without a code becomes.
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
    case ERR_LAGGING:
        return RPC_FAILED_PRECONDITION;
    case ERR_MAX_QUERY_MEMORY:
    case ERR_TOO_MANY_REQUESTS:
        return RPC_RESOURCE_EXHAUSTED;
    case ERR_UNAUTHENTICATED:
        return strcmp(err->text, "no org id") == 0 ? RPC_UNKNOWN : RPC_INTERNAL;
    default:
        return RPC_INTERNAL;
    }
}

static void fail(struct call *c)
{
    int code = code_of(&c->err);
    struct slice text = slice_of(c->err.text);
    struct buf details = {0};
    if (code == RPC_UNAVAILABLE)
        error_details_put(code, text, ERROR_CAUSE_SERVICE_UNAVAILABLE, &details);
    rpc_finish(c->req, code, text, buf_slice(&details));
    buf_release(&details);
}

static void end(struct call *c)
{
    while (c->matchers) {
        for (size_t i = 0; i < c->matchers->n; i++)
            matcher_release(&c->matchers->all[i]);
        c->matchers = c->matchers->next;
    }
    buf_release(&c->out);
}

typedef bool method_body(struct call *c);

/* The arena of the request, where the matchers lie, goes with the request: so they are released before it is finished.
 */
static void run(struct rpc_request *req, void *arg, method_body *body, bool streams)
{
    struct call c = {.service = arg, .req = req, .ctx = rpc_ctx(req), .err = ERR_NONE};
    bool ok = begin(&c) && body(&c);
    if (ok && c.out.failed)
        ok = err_set(&c.err, ERR_NO_MEMORY, "no memory for an answer");
    struct buf out = c.out;
    c.out = (struct buf){0};
    end(&c);
    if (!ok)
        fail(&c);
    else if (streams)
        rpc_finish(req, RPC_OK, SL(""), SL(""));
    else
        rpc_respond(req, &out);
    buf_release(&out);
}

#define METHOD(body, streams)                                                                                          \
    static void handle_##body(struct rpc_request *req, void *arg)                                                      \
    {                                                                                                                  \
        run(req, arg, body, streams);                                                                                  \
    }
METHOD(query_stream, true)
METHOD(label_names, false)
METHOD(label_values, false)
METHOD(metrics_for_label_matchers, false)
METHOD(metrics_metadata, false)
METHOD(query_exemplars, false)
METHOD(user_stats, false)
METHOD(all_user_stats, false)
METHOD(label_names_and_values, true)
METHOD(label_values_cardinality, true)
METHOD(active_series, true)

/* With the log in front nobody pushes to ingesters. */
static void handle_push(struct rpc_request *req, void *arg)
{
    (void)arg;
    static const char *const text = "ingester is configured with Push gRPC method disabled";
    struct buf details = {0};
    error_details_put(RPC_UNIMPLEMENTED, slice_of(text), ERROR_CAUSE_METHOD_NOT_ALLOWED, &details);
    rpc_finish(req, RPC_UNIMPLEMENTED, slice_of(text), buf_slice(&details));
    buf_release(&details);
}

const struct rpc_method ingest_service_methods[] = {
    {INGESTER_QUERY_STREAM, handle_query_stream, true},
    {INGESTER_LABEL_NAMES, handle_label_names, false},
    {INGESTER_LABEL_VALUES, handle_label_values, false},
    {INGESTER_METRICS_FOR_MATCHERS, handle_metrics_for_label_matchers, false},
    {INGESTER_METRICS_METADATA, handle_metrics_metadata, false},
    {INGESTER_QUERY_EXEMPLARS, handle_query_exemplars, false},
    {INGESTER_USER_STATS, handle_user_stats, false},
    {INGESTER_ALL_USER_STATS, handle_all_user_stats, false},
    {INGESTER_LABEL_NAMES_AND_VALUES, handle_label_names_and_values, true},
    {INGESTER_LABEL_VALUES_CARDINALITY, handle_label_values_cardinality, true},
    {INGESTER_ACTIVE_SERIES, handle_active_series, true},
    {INGESTER_PUSH, handle_push, false},
};
const size_t ingest_service_methods_n = ARRAY_LEN(ingest_service_methods);
