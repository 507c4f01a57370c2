/*
 * Evaluates a PromQL expression over a queryable. See README.md in this folder for how values flow.
 */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/ctx.h"
#include "model/histogram.h"
#include "model/labels.h"
#include "read/promql/ast.h"
#include "storage/queryable.h"

struct engine_config {
    int64_t lookback_delta_ms;             /* -querier.lookback-delta */
    int64_t default_evaluation_interval_ms; /* subqueries without a step */
    uint64_t max_samples;                  /* -querier.max-samples */
    uint64_t max_memory_bytes;             /* of one query; 0 = none */
    uint64_t max_series;                   /* fetched; 0 = none */
    uint64_t max_chunks;
    uint64_t max_chunk_bytes;
    bool delayed_name_removal;             /* -querier.enable-delayed-name-removal: __name__ goes at the end, so that label functions still see it */
    bool type_and_unit_labels;             /* __type__ and __unit__ go where __name__ goes */
};

struct engine_query {
    const struct node *expr;
    struct slice text;   /* for positions in annotations */
    int64_t start_ms;
    int64_t end_ms;      /* == start for an instant query */
    int64_t step_ms;     /* >= 1 for a range query, 0 for an instant query */
    int64_t lookback_delta_ms; /* 0 = the engine's */
};

/* One series of a result: values at the steps where present. */
struct result_series {
    struct labels labels;
    const int64_t *t;
    const double *v;                 /* floats; v[i] is meaningful where h == NULL or h[i] == NULL */
    const struct histogram *const *h; /* NULL when the series has no histograms */
    size_t n;
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
    uint64_t samples_read;
};

/* Everything in ret lives in ctx->arena. Errors: ERR_EXECUTION, ERR_TIMEOUT, ERR_CANCELED, ERR_MAX_* with Mimir's texts. */
bool engine_exec(const struct engine_config *cfg, struct queryable *q, struct ctx *ctx, const struct engine_query *query,
                 struct engine_result *ret, struct err *err);

/* 2^(i / 2^schema) for i below 2^schema, as histograms' bounds show it: Prometheus's last digits. 0 <= schema <= 8. */
double bucket_fraction_bound(int32_t schema, int32_t i);
