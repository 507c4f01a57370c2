/*
 * What the files of the query API share.
 *
 * A handler runs on a thread of the query pool from beginning to end and is one call: serve() makes the struct call (its arena, deadline, limits),
 * waits for the read barrier where asked to, lets the handler's function write the whole answer into one buffer (or say how it is written piece by piece), and
 * sends that or the error.
 */
#pragma once

#include "base/arena.h"
#include "base/buf.h"
#include "base/ctx.h"
#include "base/json.h"
#include "read/api/api.h"

#define METRICS_ROOM api
#define METRICS_DEF "read/api/api_metrics.def"
#include "base/metrics_table.h"

extern const double api_buckets_expression[];

struct query_api {
    const struct read_config *cfg;
    const struct limits_provider *limits;
    struct queryable *q;
    read_barrier_fn *barrier;
    void *barrier_arg;
    const char *spill_dir; /* of large remote reads; not owned */
    struct engine_crew *crew; /* NULL: each query runs on its own thread alone */
};

struct call {
    struct query_api *api;
    struct http_request *req;
    const struct limits *limits; /* the tenant's */
    struct arena arena;          /* all memory of the call */
    uint64_t memory_budget_bytes;
    struct ctx ctx; /* with that arena and the call's deadline */
    struct err err;
    struct buf body;
    /*
     * An answer that may be large is not written to body, but piece by piece while it is sent: the call's function sets these instead. more appends about HTTP_PIECE_BYTES
     * to out, nothing at all at the end. end runs once when no more is wanted; the call and its arena live until then.
     */
    bool (*more)(struct call *c, struct buf *out, struct err *err);
    void (*end)(struct call *c);
    void *state;
    int64_t began_ns;
    /* for the Server-Timing header and the metrics of queries */
    int64_t engine_ns;
    uint64_t samples_read;
    bool is_query;
};

/* Writes the answer into c->body, or sets c->err. */
typedef bool call_fn(struct call *c);

enum call_kind {
    CALL_LOCAL = 0,   /* reads no samples: no barrier */
    CALL_READS = 1,   /* waits until acknowledged writes are visible */
    CALL_IS_QUERY = 2 /* the answer ends with a newline and has a Server-Timing header */
};
void serve(struct http_request *req, struct query_api *api, const char *op, int kind, call_fn *fn);

/* What serve is made of, for handlers whose answers are not JSON. NULL never. */
struct call *call_new(struct http_request *req, struct query_api *api);
void call_free(struct call *c);
/* Says to the store how fresh the answer must be, and waits here if that is done here. */
bool wait_for_writes(struct call *c);

/* Runs on the server's threads; arg is the struct query_api. */
#define ROUTE(methods, path, pool, flags, handler, help) http_handler handler;
#include "read/api/read_routes.def"
#undef ROUTE

/* --- consistency.c ------------------------------------------------------------------------------------------------------------- */

/* The request's wish, as tags of c->ctx. */
bool add_consistency(struct call *c);

/* --- params.c: every function sets c->err on failure ------------------------------------------------------------------------- */

/* Unix seconds or RFC 3339. "cannot parse ... to a valid timestamp" */
bool parse_time(struct slice text, int64_t *ret_ms, struct err *err);
/* Seconds or 1h30m. */
bool parse_duration(struct slice text, int64_t *ret_ms, struct err *err);
/* Puts 'invalid parameter "name": ' before the text of c->err; returns false. */
bool invalid_param(struct call *c, const char *name);
/* start and end of the label and series endpoints; absent: all of time. */
bool param_range(struct call *c, int64_t *ret_start_ms, int64_t *ret_end_ms);
/* limit of the label and series endpoints: 0 = none. */
bool param_limit(struct call *c, size_t *ret);

struct match_set {
    const struct matcher *matchers;
    size_t n;
};
/* All match[]; prefixed: errors begin with 'invalid parameter "match[]": '. To be released, also after a failure. */
struct match_sets {
    struct match_set *sets;
    size_t n;
};
bool param_match_sets(struct call *c, bool prefixed, struct match_sets *ret);
void match_sets_release(struct match_sets *m);

/* --- limits.c ------------------------------------------------------------------------------------------------------------------ */

/* Refuses or cuts a query by the tenant's limits on time. *ret_empty: the whole of it is older than the tenant may see. */
bool limit_query_time(struct call *c, const struct node *expr, struct engine_query *q, bool *ret_empty);
/* The same for a range that is read as it is: a remote read. */
bool limit_read_time(struct call *c, int64_t *start_ms, int64_t end_ms, bool *ret_empty);
/* Cuts the range of a label or series request. */
void limit_label_time(struct call *c, int64_t *start_ms, int64_t *end_ms, bool *ret_empty);
/* The parse options that let through the experimental parts the tenant has enabled. */
struct promql_parse_options parse_options(struct call *c);
bool limit_expression(struct call *c, struct slice text);

/* --- result_json.c, result_histogram.c ---------------------------------------------------------------------------------------- */

/* {"status":"success","data":{"resultType":...,"result":[...]: the object of data is left open. */
void put_result(struct buf *out, const struct engine_result *r, const struct engine_query *q);
void put_labels(struct buf *out, struct labels l);
/* 373 or 373.500 */
void put_timestamp(struct buf *out, int64_t ms);
/* "1.5" with the quotes */
void put_value(struct buf *out, double v);
void put_histogram(struct buf *out, const struct histogram *h);
/* ,"name":["a","b"] when there are any. */
void put_annotations(struct buf *out, const char *name, const struct slice *texts, size_t n);
