/*
 * What a query engine asks of a store of series, whoever keeps them: a head in this process, an ingester over RPC, blocks.
 *
 * A select gives batches of series with their chunks still encoded. Labels stay valid until series_set_release, chunks at least until the next call on
 * the set (those of a head in this process until its release too). What had to be copied is charged to ctx->arena. A set is used by one thread.
 */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/ctx.h"
#include "model/labels.h"
#include "model/matcher.h"
#include "storage/chunk/chunk.h"

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

struct select_params {
    int64_t min_t; /* inclusive, ms */
    int64_t max_t; /* inclusive */
    const struct matcher *matchers;
    size_t n_matchers;
    bool no_chunks; /* series only: label and series APIs */
    size_t limit;   /* 0 = none */
};

struct series_set;

struct series_set_ops {
    /* Up to max series into ret. *ret_n == 0: the end. */
    bool (*next)(struct series_set *s, struct ctx *ctx, struct series *ret, size_t max, size_t *ret_n, struct err *err);
    void (*release)(struct series_set *s);
};

/* What helps who merges sets; each may be NULL. */
struct series_set_traits {
    /* True: the chunks that the last next gave stay valid until the release. NULL: they do not. */
    bool (*chunks_stay)(const struct series_set *s);
    /* Labels that no series which is still to come is below, in labels_cmp's order; valid as labels are. False, or NULL: nothing is known. */
    bool (*low_water)(struct series_set *s, struct labels *ret);
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
};

struct queryable {
    const struct queryable_ops *ops;
};

static inline bool series_set_next(struct series_set *s, struct ctx *ctx, struct series *ret, size_t max, size_t *ret_n, struct err *err)
{
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
