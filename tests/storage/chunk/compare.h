/* Samples compared by what they mean: histograms may differ in spans and in buckets that are empty, and in their hints. */
#pragma once

#include <stdbool.h>
#include <string.h>

#include "model/histogram.h"

struct sample {
    int64_t t;
    bool is_histogram;
    double v;
    struct histogram h;
};

static inline bool same_bits(double a, double b)
{
    return memcmp(&a, &b, 8) == 0;
}

/* Absolute count of the bucket with that index; 0 when there is none. */
static inline double bucket_at(const struct histogram *h, bool negative, int64_t index)
{
    const struct histogram_span *spans = negative ? h->negative_spans : h->positive_spans;
    uint32_t n = negative ? h->n_negative_spans : h->n_positive_spans;
    int64_t x = 0, count = 0;
    size_t b = 0;
    for (uint32_t i = 0; i < n; i++) {
        x += spans[i].offset;
        for (uint32_t k = 0; k < spans[i].length; k++, x++, b++) {
            if (!h->is_float)
                count += (negative ? h->negative_deltas : h->positive_deltas)[b];
            if (x == index)
                return h->is_float ? (negative ? h->negative_counts : h->positive_counts)[b] : (double)count;
        }
    }
    return 0;
}

/* Does b have every bucket of a with the same count? */
static inline bool covers(const struct histogram *a, const struct histogram *b, bool negative)
{
    const struct histogram_span *spans = negative ? a->negative_spans : a->positive_spans;
    uint32_t n = negative ? a->n_negative_spans : a->n_positive_spans;
    int64_t x = 0;
    for (uint32_t i = 0; i < n; i++) {
        x += spans[i].offset;
        for (uint32_t k = 0; k < spans[i].length; k++, x++)
            if (bucket_at(a, negative, x) != bucket_at(b, negative, x))
                return false;
    }
    return true;
}

static inline bool same_histogram(const struct histogram *a, const struct histogram *b)
{
    if (is_stale_nan(a->sum) || is_stale_nan(b->sum))
        return same_bits(a->sum, b->sum) && a->is_float == b->is_float;
    if (a->is_float != b->is_float || a->schema != b->schema || a->count_int != b->count_int ||
        a->zero_count_int != b->zero_count_int || !same_bits(a->sum, b->sum) || a->zero_threshold != b->zero_threshold ||
        a->n_custom_values != b->n_custom_values)
        return false;
    for (uint32_t i = 0; i < a->n_custom_values; i++)
        if (a->custom_values[i] != b->custom_values[i])
            return false;
    return covers(a, b, false) && covers(b, a, false) && covers(a, b, true) && covers(b, a, true);
}

static inline bool same_sample(const struct sample *a, const struct sample *b)
{
    if (a->t != b->t || a->is_histogram != b->is_histogram)
        return false;
    return a->is_histogram ? same_histogram(&a->h, &b->h) : same_bits(a->v, b->v);
}
