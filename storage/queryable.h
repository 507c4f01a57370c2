/*
 * What a query engine asks of a store of series, whoever keeps them: a head in this process, an ingester over RPC, blocks.
 *
 * A select gives batches of series with their chunks still encoded. Labels stay valid until series_set_release, chunks at least until the next call on
 * the set (those of a head in this process until its release too). What had to be copied is charged to ctx->arena, unless the caller names another arena
 * (series_set_next_in), which he may clear from time to time. A set is used by one thread.
 */
#pragma once

#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/ctx.h"
#include "model/labels.h"
#include "model/matcher.h"
#include "storage/chunk/chunk.h"

/* --- aggregates: a few samples in the place of many (storage/downsample) -------------------------------------------------------- */

enum downsample_aggregate { DOWNSAMPLE_COUNT, DOWNSAMPLE_SUM, DOWNSAMPLE_MIN, DOWNSAMPLE_MAX, DOWNSAMPLE_COUNTER, DOWNSAMPLE_AGGREGATES };

/*
 * Chunks of an aggregate, in answers to selects that asked for it, have an encoding of their own: nobody takes them for samples who does not know them. Their bytes are
 * those of CHUNK_XOR.
 */
#define CHUNK_AGGREGATES 64
#define CHUNK_OF_AGGREGATE(a) ((enum chunk_encoding)(CHUNK_AGGREGATES + (int)(a)))
static inline bool chunk_is_aggregate(enum chunk_encoding e)
{
    return (int)e >= CHUNK_AGGREGATES;
}

/* What is done with the samples of a select, and what comes of it: with it a store may give aggregates where the answer is the same. */
struct select_hints {
    unsigned aggregates; /* bits of enum downsample_aggregate: all of these together answer in the place of samples */
    /* Evaluated are the samples of (e - range, e], for e from first to last in steps; step 0: one e. All in ms. */
    int64_t range_ms, first_ms, last_ms, step_ms;
    int64_t max_resolution_ms; /* of windows; INT64_MAX: any */
    int64_t before_ms;         /* only of samples before it: others are asked for what is later */
    struct select_downsampled *ret;
};

struct time_span {
    int64_t min_t, max_t; /* max exclusive */
};

/* What of a select is answered from aggregates: filled in by the call. */
struct select_downsampled {
    const struct time_span *spans; /* apart, by time; in ctx->arena. Samples that other chunks have of these times are among what the aggregates say */
    size_t n;
    /*
     * Without aggregates the answer would be the same, or one can be given at all: set by the store when they cannot be read, by the reader when they are not good enough for some
     * series. The call that found it fails, and the query is to be run again without hints. Relaxed: whoever reads it has seen the failure.
     */
    atomic_bool *refused;
};

struct series_chunk {
    int64_t min_t;
    int64_t max_t;
    enum chunk_encoding encoding;
    struct slice data;
};

struct series {
    struct labels labels;
    const struct series_chunk *chunks; /* by min_t; they may overlap (out-of-order data): readers merge by time, first in the list wins */
    size_t n_chunks;
};

struct label_names {
    const struct slice *names;
    size_t n;
};

struct select_params {
    int64_t min_t; /* inclusive, ms */
    int64_t max_t; /* inclusive */
    const struct matcher *matchers;
    size_t n_matchers;
    bool no_chunks; /* series only: label and series APIs */
    size_t limit;   /* 0 = none */
    /* What will be looked at of the labels, beside the metric name: a store may leave out others. NULL: all are needed. Lives as long as the set. */
    const struct label_names *labels;
    const struct select_hints *hints; /* NULL: samples, and nothing but samples. Read in the call only, but for what ret points to */
};

struct series_set;

struct series_set_ops {
    /* Up to max series into ret. *ret_n == 0: the end. */
    bool (*next)(struct series_set *s, struct ctx *ctx, struct series *ret, size_t max, size_t *ret_n, struct err *err);
    void (*release)(struct series_set *s);
};

/* What some sets can, or promise; each may be NULL. */
struct series_set_traits {
    /* True: the chunks that the last next gave stay valid until the release. NULL: they do not. */
    bool (*chunks_stay)(const struct series_set *s);
    /* Labels that no series which is still to come is below, in labels_cmp's order; valid as labels are. False, or NULL: nothing is known. */
    bool (*low_water)(struct series_set *s, struct labels *ret);
    /* As next, for series_set_next_in. NULL: mem is not used. */
    bool (*next_in)(struct series_set *s, struct ctx *ctx, struct arena *mem, struct series *ret, size_t max, size_t *ret_n, struct err *err);
};

/* First member of an implementation's own struct. */
struct series_set {
    const struct series_set_ops *ops;
    const struct series_set_traits *traits; /* NULL: none */
};

struct metric_metadata {
    struct slice family;
    const char *type; /* "counter", ... "unknown" */
    struct slice help;
    struct slice unit;
};

struct exemplar {
    struct labels labels;
    double v;
    int64_t t;
};

struct exemplar_series {
    struct labels labels;
    const struct exemplar *exemplars;
    size_t n;
};

struct queryable;
struct label_call; /* the implementation's own */

struct queryable_ops {
    /*
     * The tenant is ctx->tenant; an unknown tenant has no series. NULL on error. Series come in no particular order. p is read in the call
     * only; its matchers must live as long as the set.
     */
    struct series_set *(*select)(struct queryable *q, struct ctx *ctx, const struct select_params *p, struct err *err);
    /* Sorted, unique; slices in ctx->arena. */
    bool (*label_names)(struct queryable *q, struct ctx *ctx, const struct select_params *p, const struct slice **ret, size_t *ret_n,
                        struct err *err);
    bool (*label_values)(struct queryable *q, struct ctx *ctx, struct slice name, const struct select_params *p,
                         const struct slice **ret, size_t *ret_n, struct err *err);
    /* All metadata of the tenant, by family. */
    bool (*metadata)(struct queryable *q, struct ctx *ctx, const struct metric_metadata **ret, size_t *ret_n, struct err *err);
    bool (*exemplars)(struct queryable *q, struct ctx *ctx, const struct select_params *p, const struct exemplar_series **ret,
                      size_t *ret_n, struct err *err);
    /*
     * label_names (name NULL) or label_values in two, for whoever asks others meanwhile: what can be on its way is when the first returns. It is ended once, by the same thread,
     * in which ctx, name and matchers still live; with ret NULL it is given up. Both NULL: there is nothing that could be on its way.
     */
    struct label_call *(*label_begin)(struct queryable *q, struct ctx *ctx, const struct slice *name, const struct select_params *p, struct err *err);
    bool (*label_end)(struct label_call *c, const struct slice **ret, size_t *ret_n, struct err *err);
};

struct queryable {
    const struct queryable_ops *ops;
};

static inline bool series_set_next(struct series_set *s, struct ctx *ctx, struct series *ret, size_t max, size_t *ret_n, struct err *err)
{
    return s->ops->next(s, ctx, ret, max, ret_n, err);
}

/*
 * As series_set_next, for who is done with some series before the query's end: arrays of labels, lists of chunks and copies of chunks may lie in mem, and are gone when that is
 * cleared. Names and values of labels live until the release all the same.
 */
static inline bool series_set_next_in(struct series_set *s, struct ctx *ctx, struct arena *mem, struct series *ret, size_t max, size_t *ret_n, struct err *err)
{
    if (s->traits && s->traits->next_in)
        return s->traits->next_in(s, ctx, mem, ret, max, ret_n, err);
    return s->ops->next(s, ctx, ret, max, ret_n, err);
}

static inline void series_set_release(struct series_set *s)
{
    if (s)
        s->ops->release(s);
}

/*
 * One store out of several whose series are disjoint, as the partitions of one process are: selects run one after the other,
 * names and values are merged. parts are not owned. With n == 1 the part itself is asked through one more call.
 */
struct queryable *queryable_fanout_new(struct queryable *const *parts, size_t n);
void queryable_fanout_free(struct queryable *q);
