/*
 * Kernels: arithmetic on values, without operators, queries or annotations. Pure functions; memory comes from the arena that is given, NULL
 * or false means that it is used up.
 *
 * struct fhist is how the engine holds a native histogram: always floats, each side a list of populated buckets by ascending index.
 * An index i of an exponential schema is the bucket (base^(i-1), base^i] with base = 2^(2^-schema); of custom buckets it is
 * (custom[i-1], custom[i]]. Buckets with a count of zero are not kept: every operation would have to step over them, and none tells
 * them from absent ones.
 */
#pragma once

#include <math.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/arena.h"
#include "base/buf.h"
#include "model/histogram.h"

/* Neumaier's compensated addition, with the rule that an infinite sum has no compensation. */
static inline void kahan_add(double inc, double *sum, double *comp)
{
    double t = *sum + inc;
    if (isinf(t))
        *comp = 0;
    else if (fabs(*sum) >= fabs(inc))
        *comp += (*sum - t) + inc;
    else
        *comp += (inc - t) + *sum;
    *sum = t;
}

/* The same n times: adds v[i] to sum[i] and comp[i]. */
void kahan_add_each(const double *v, double *sum, double *comp, size_t n);

bool floats_any_nan(const double *v, size_t n);
/* Is a value below the one before it? */
bool floats_ever_fall(const double *v, size_t n);

/* The mean of n values whose sum may overflow: a compensated sum as long as it is finite, then an incremental mean. */
struct mean {
    double sum;
    double comp;
    double n;
    bool incremental; /* sum is the mean from here on */
};
static inline void mean_init(struct mean *m, double v)
{
    *m = (struct mean){.sum = v, .n = 1};
}
void mean_add_slowly(struct mean *m, double v);
static inline void mean_add(struct mean *m, double v)
{
    double sum = m->sum, comp = m->comp;
    kahan_add(v, &sum, &comp);
    if (m->incremental || isinf(sum)) {
        mean_add_slowly(m, v);
        return;
    }
    m->n++;
    m->sum = sum;
    m->comp = comp;
}
static inline double mean_result(const struct mean *m)
{
    return m->incremental ? m->sum + m->comp : m->sum / m->n + m->comp / m->n;
}

/* The q-quantile of n > 0 values, which are sorted in place with NaN as the smallest. */
double quantile_of(double q, double *values, size_t n);
/* Least squares over (t, v); x is seconds from intercept_t. */
void linear_regression(const int64_t *t, const double *v, size_t n, int64_t intercept_t, double *ret_slope, double *ret_intercept);

/* Extrapolation of rate, increase and delta: the factor by which last - first is multiplied. Times in ms. */
struct rate_window {
    int64_t start_t, end_t;  /* of the range */
    int64_t first_t, last_t; /* of the samples in it */
    size_t n;                /* samples, at least 2 */
    double first;            /* value (or histogram count) of the first sample */
    double delta;            /* increase between the first and the last, resets added */
    bool counter;
};
double rate_factor(const struct rate_window *w);
/* The same in two halves: what follows from the times alone, in seconds, and the rest. */
struct rate_times {
    double sampled, to_start, to_end;
};
/* In ms: from the range's start to the first sample, from that to the last one, from that to the range's end. */
void rate_times_of(int64_t before, int64_t span, int64_t after, size_t n, struct rate_times *ret);
/* to_start of a counter that rises by delta > 0 from first >= 0: it does not start below zero. */
static inline double rate_to_zero(const struct rate_times *t, double first, double delta)
{
    double to_zero = t->sampled * (first / delta);
    return to_zero < t->to_start ? to_zero : t->to_start;
}
static inline double rate_factor_at(const struct rate_times *t, double to_start)
{
    return (t->sampled + to_start + t->to_end) / t->sampled;
}

/* As Go's math.Min and math.Max: the infinity on the function's side wins, then NaN, and -0 is less than 0. */
static inline double go_min(double a, double b)
{
    if (a == -INFINITY || b == -INFINITY)
        return -INFINITY;
    if (isnan(a) || isnan(b))
        return NAN;
    return a == b ? (signbit(a) ? a : b) : a < b ? a : b;
}
static inline double go_max(double a, double b)
{
    if (a == INFINITY || b == INFINITY)
        return INFINITY;
    if (isnan(a) || isnan(b))
        return NAN;
    return a == b ? (signbit(a) ? b : a) : a > b ? a : b;
}

/* Date parts of seconds since the epoch, UTC. Past the year 292,277,026,596 they start again from the other end, as upstream's. */
struct date_parts {
    int64_t year;
    int month, day, weekday, yearday, hour, minute, days_in_month;
};
void date_parts_of(int64_t seconds, struct date_parts *ret);

/* --- classic histograms ------------------------------------------------------------------------------------------------------------- */

struct bucket {
    double upper;
    double count; /* cumulative */
};
struct bucket_fix {
    bool forced; /* a count had to be raised by more than rounding; then: */
    double min_bucket, max_bucket; /* the least and the greatest bound of such counts */
    double max_diff;               /* and the most by which one was raised */
};
void bucket_fix_merge(struct bucket_fix *fix, const struct bucket_fix *more);
/* Sorts by upper bound and merges equal bounds; returns the new number. */
size_t buckets_sort(struct bucket *b, size_t n);
double bucket_quantile(double q, struct bucket *b, size_t n, struct bucket_fix *ret_fix);
double bucket_fraction(double lower, double upper, const struct bucket *b, size_t n);

/* --- native histograms ----------------------------------------------------------------------------------------------------------------- */

struct blist {
    uint32_t n;
    int32_t *idx;
    double *c;
};

struct fhist {
    int32_t schema;
    uint8_t hint; /* enum histogram_hint */
    bool stale;
    double zero_threshold;
    double zero_count;
    double count;
    double sum;
    struct blist pos;
    struct blist neg;
    const double *custom;
    uint32_t n_custom;
    uint32_t stored_size; /* of a store's sample, empty buckets included; 0: it was computed, see fhist_size */
};

static inline bool fhist_is_custom(const struct fhist *h)
{
    return h->schema == HISTOGRAM_CUSTOM_BUCKETS;
}

/* From and to the form that chunks and results have. */
struct fhist *fhist_from(const struct histogram *h, struct arena *a);
struct histogram *fhist_to_histogram(const struct fhist *h, struct arena *a);
/* Upstream's measure of it in statistics: how many float samples take as much memory. */
uint32_t fhist_size(const struct fhist *h);

enum fhist_note { FHIST_MISMATCHED_BOUNDS = 1, FHIST_RESET_CONFLICT = 2 };
enum fhist_status { FHIST_OK, FHIST_NO_MEMORY, FHIST_INCOMPATIBLE };

/* l + sign * r as a new histogram. *notes gets enum fhist_note bits. */
enum fhist_status fhist_add(const struct fhist *l, const struct fhist *r, double sign, struct arena *a, struct fhist **ret, unsigned *notes);
struct fhist *fhist_scale(const struct fhist *h, double factor, struct arena *a);
struct fhist *fhist_div(const struct fhist *h, double divisor, struct arena *a);
struct fhist *fhist_copy(const struct fhist *h, struct arena *a); /* shallow: the lists are shared */
struct fhist *fhist_dup(const struct fhist *h, struct arena *a);  /* deep */
struct fhist *fhist_to_schema(const struct fhist *h, int32_t schema, struct arena *a);
bool fhist_eq(const struct fhist *l, const struct fhist *r);
/* Did a counter restart between prev and cur? Scratch from a. */
bool fhist_is_reset(const struct fhist *cur, const struct fhist *prev, struct arena *a);

/* A compensated sum (or mean) of histograms that widens in place. */
struct hacc_side {
    uint32_t n, cap;
    int32_t *idx;
    double *c;
    double *comp;
};
struct hacc {
    bool mean;        /* a mean that avoids overflow of count, sum or a bucket */
    bool incremental;
    uint8_t hints_seen; /* bit by enum histogram_hint */
    double n;
    struct fhist h; /* its lists are not used; count, sum and zero_count are */
    double count_comp, sum_comp, zero_comp;
    struct hacc_side pos, neg;
};
bool hacc_init(struct hacc *acc, bool mean, const struct fhist *first, struct arena *a);
enum fhist_status hacc_add(struct hacc *acc, const struct fhist *h, struct arena *a, struct arena *scratch, unsigned *notes);
struct fhist *hacc_result(const struct hacc *acc, struct arena *a);

double fhist_quantile(const struct fhist *h, double q, struct arena *a, bool *ret_nan_result, bool *ret_nan_skew);
double fhist_fraction(const struct fhist *h, double lower, double upper, bool *ret_nan);
double fhist_variance(const struct fhist *h);
/* h </ bound (keep what is below) or h >/ bound. */
struct fhist *fhist_trim(const struct fhist *h, double bound, bool keep_lower, struct arena *a);
/* {count:20, sum:10, [-2,-1):2, ...}: the label value count_values gives. */
void fhist_print(const struct fhist *h, struct buf *out);
double fhist_bound(int32_t idx, const struct fhist *h);
