/*
 * Evaluates a PromQL expression over a queryable. See README.md in this folder for how values flow.
 */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/buf.h"
#include "base/ctx.h"
#include "model/histogram.h"
#include "model/labels.h"
#include "read/promql/ast.h"
#include "storage/queryable.h"

/*
 * Threads that help queries whose selectors find thousands of series, shared by all queries; tenants take turns. Results do not depend on it.
 */
struct engine_crew;
/* A query uses up to `threads` at a time, its own included: less than 2 give NULL. min_series: those that a selector gives before help is asked for. */
struct engine_crew *engine_crew_new(size_t threads, size_t min_series);
void engine_crew_free(struct engine_crew *c); /* no query runs any more; NULL is fine */

struct engine_config {
    struct engine_crew *crew;              /* NULL: each query runs on its own thread alone */
    int64_t lookback_delta_ms;             /* -querier.lookback-delta */
    int64_t default_evaluation_interval_ms; /* subqueries without a step */
    uint64_t max_samples;                  /* -querier.max-samples */
    uint64_t max_memory_bytes;             /* of one query; 0 = none */
    uint64_t max_series;                   /* fetched; 0 = none */
    uint64_t max_chunks;
    uint64_t max_chunk_bytes;
    bool delayed_name_removal;             /* -querier.enable-delayed-name-removal: __name__ goes at the end, so that label functions still see it */
    bool prometheus_errors;                /* -querier.query-engine=prometheus: errors of vector matching as Prometheus's own engine words them */
    bool type_and_unit_labels;             /* __type__ and __unit__ go where __name__ goes */
};

/*
 * Start timestamps: when the count that a sample shows began at zero. A store that knows some of its samples' gives them beside its series, since the
 * encodings of chunks have no room for them. rate, increase, irate, resets and start_timestamp look at them. None of Brunn's own stores has any, as
 * Mimir, which leaves out those that remote write 2.0 brings.
 */
struct start_time {
    int64_t t;       /* the sample's, ms */
    int64_t start_t; /* ms, not 0, which means unknown */
};
struct start_times {
    /* Those of one series, by t, of samples in [min_t, max_t] at least; valid until the end of the query. Called on the query's thread, which then does without a crew. */
    void (*of_series)(struct start_times *s, struct labels series, int64_t min_t, int64_t max_t, const struct start_time **ret, size_t *ret_n);
};

struct engine_query {
    const struct node *expr;
    struct slice text;   /* for positions in annotations */
    int64_t start_ms;
    int64_t end_ms;      /* == start for an instant query */
    int64_t step_ms;     /* >= 1 for a range query, 0 for an instant query */
    int64_t lookback_delta_ms; /* 0 = the engine's */
    struct start_times *start_times; /* NULL: the queryable has none; not owned */
    /* Aggregates of windows no longer than this may be read in the place of samples, where the answer is the same. 0: samples alone. */
    int64_t max_source_resolution_ms;
    bool count_samples; /* fill in engine_result.counts */
};

/* One series of a result: values at the steps where present. */
struct result_series {
    struct labels labels;
    const int64_t *t;
    const double *v;                 /* floats; v[i] is meaningful where h == NULL or h[i] == NULL */
    const struct histogram *const *h; /* NULL when the series has no histograms */
    size_t n;
};

/* Samples as Prometheus counts them: at each step those that it looks at, a histogram as so many floats as take its memory. All zero when the query did not ask. */
struct engine_counts {
    uint64_t seen;           /* by all steps: a sample counts at each of them */
    uint64_t read;           /* once, at the first step that looks at it */
    const uint64_t *seen_at; /* each step's */
    const uint64_t *read_at;
    size_t n_steps;
};

struct engine_result {
    enum value_type type; /* VECTOR and SCALAR, STRING for instant queries; MATRIX for range queries and instant range selectors */
    const struct result_series *series;
    size_t n_series;      /* a matrix is sorted by labels; an instant vector is in the order Prometheus gives (sort() and topk keep theirs) */
    double scalar;
    int64_t scalar_t;
    struct slice string;
    const struct slice *warnings; /* "PromQL warning: ... (1:10)", sorted, unique, at most 10 of each kind and then "n more ..." */
    size_t n_warnings;
    const struct slice *infos;
    size_t n_infos;
    uint64_t samples_read; /* that were decoded */
    struct engine_counts counts;
    bool run_again; /* aggregates that were read would not do: it was run a second time, over samples */
};

/* Everything in ret lives in ctx->arena. Errors: ERR_EXECUTION, ERR_TIMEOUT, ERR_CANCELED, ERR_MAX_* with Mimir's texts. */
bool engine_exec(const struct engine_config *cfg, struct queryable *q, struct ctx *ctx, const struct engine_query *query,
                 struct engine_result *ret, struct err *err);

/* The plan in words, one operator a line: what `brunn tool promql explain` prints. Nothing is read. */
bool engine_explain(const struct engine_config *cfg, struct ctx *ctx, const struct engine_query *query, struct buf *out, struct err *err);

/* 2^(i / 2^schema) for i below 2^schema, as histograms' bounds show it: Prometheus's last digits. 0 <= schema <= 8. */
double bucket_fraction_bound(int32_t schema, int32_t i);
