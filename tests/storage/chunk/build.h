/* Histograms made of buckets that are named by index. */
#pragma once

#include <criterion/criterion.h>

#include "base/arena.h"
#include "model/histogram.h"

struct bucket {
    int index;
    double count;
};

#define BUCKETS(...) ((struct bucket[]){__VA_ARGS__}), sizeof((struct bucket[]){__VA_ARGS__}) / sizeof(struct bucket)

/* One side, spans as few as possible; adds the counts to *sum. */
static inline void build_side(struct arena *a, bool is_float, const struct bucket *b, size_t n, const struct histogram_span **spans,
                              uint32_t *n_spans, const void **buckets, uint32_t *n_buckets, double *sum)
{
    struct histogram_span *s = ARENA_ARRAY(a, struct histogram_span, n + 1);
    int64_t *deltas = ARENA_ARRAY(a, int64_t, n + 1);
    double *counts = ARENA_ARRAY(a, double, n + 1);
    uint32_t k = 0;
    for (size_t i = 0; i < n; i++) {
        int gap = i ? b[i].index - b[i - 1].index - 1 : b[i].index;
        if (i && gap == 0)
            s[k - 1].length++;
        else
            s[k++] = (struct histogram_span){gap, 1};
        deltas[i] = (int64_t)b[i].count - (i ? (int64_t)b[i - 1].count : 0);
        counts[i] = b[i].count;
        *sum += b[i].count;
    }
    *spans = s;
    *n_spans = k;
    *buckets = is_float ? (const void *)counts : (const void *)deltas;
    *n_buckets = (uint32_t)n;
}

/* Schema 1, zero threshold 0.25, the sum is the count. */
static inline struct histogram *build(struct arena *a, bool is_float, double zero, const struct bucket *p, size_t np,
                                      const struct bucket *n, size_t nn)
{
    struct histogram *h = arena_zalloc(a, sizeof(*h));
    const void *buckets;
    double count = zero;
    h->schema = 1;
    h->zero_threshold = 0.25;
    h->is_float = is_float;
    build_side(a, is_float, p, np, &h->positive_spans, &h->n_positive_spans, &buckets, &h->n_positive, &count);
    h->positive_deltas = buckets;
    build_side(a, is_float, n, nn, &h->negative_spans, &h->n_negative_spans, &buckets, &h->n_negative, &count);
    h->negative_deltas = buckets;
    h->sum = count;
    if (is_float) {
        h->zero_count = zero;
        h->count = count;
    } else {
        h->zero_count_int = (uint64_t)zero;
        h->count_int = (uint64_t)count;
    }
    return h;
}

static inline struct histogram *positive(struct arena *a, bool is_float, const struct bucket *p, size_t n)
{
    return build(a, is_float, 0, p, n, NULL, 0);
}

static inline struct histogram *stale(struct arena *a, bool is_float)
{
    struct histogram *h = arena_zalloc(a, sizeof(*h));
    h->is_float = is_float;
    h->sum = stale_nan();
    return h;
}
