/* Estimates from histograms, classic and native: quantiles, fractions, variance; and their text. */
#include "read/promql/kernel_int.h"

#include <float.h>
#include <stdlib.h>

#include "base/dtoa.h"

/* Relative difference between neighbouring cumulative counts that is taken for rounding. */
#define SMALL_DELTA 1e-12

/* --- classic ------------------------------------------------------------------------------------------------------------------ */

static int cmp_bucket(const void *a, const void *b)
{
    double x = ((const struct bucket *)a)->upper, y = ((const struct bucket *)b)->upper;
    return (x > y) - (x < y);
}

size_t buckets_sort(struct bucket *b, size_t n)
{
    qsort(b, n, sizeof(*b), cmp_bucket);
    size_t out = 0;
    for (size_t i = 0; i < n; i++) {
        if (out && b[out - 1].upper == b[i].upper)
            b[out - 1].count += b[i].count;
        else
            b[out++] = b[i];
    }
    return out;
}

static bool nearly_equal(double a, double b, double tolerance)
{
    if (a == b)
        return true;
    double sum = fabs(a) + fabs(b), diff = fabs(a - b);
    if (a == 0 || b == 0 || sum < DBL_MIN)
        return diff < tolerance * DBL_MIN;
    return diff / fmin(sum, DBL_MAX) < tolerance;
}

void bucket_fix_merge(struct bucket_fix *fix, const struct bucket_fix *more)
{
    if (!more->forced)
        return;
    if (!fix->forced) {
        *fix = *more;
        return;
    }
    fix->min_bucket = fmin(fix->min_bucket, more->min_bucket);
    fix->max_bucket = fmax(fix->max_bucket, more->max_bucket);
    fix->max_diff = fmax(fix->max_diff, more->max_diff);
}

static void make_monotonic(struct bucket *b, size_t n, struct bucket_fix *fix)
{
    double prev = b[0].count;
    for (size_t i = 1; i < n; i++) {
        double cur = b[i].count;
        if (cur == prev)
            continue;
        if (nearly_equal(prev, cur, SMALL_DELTA)) {
            b[i].count = prev;
        } else if (cur < prev) {
            b[i].count = prev;
            bucket_fix_merge(fix, &(struct bucket_fix){true, b[i].upper, b[i].upper, prev - cur});
        } else {
            prev = cur;
        }
    }
}

double bucket_quantile(double q, struct bucket *b, size_t n, struct bucket_fix *ret_fix)
{
    if (isnan(q))
        return NAN;
    if (q < 0)
        return -INFINITY;
    if (q > 1)
        return INFINITY;
    if (n == 0 || !(isinf(b[n - 1].upper) && b[n - 1].upper > 0))
        return NAN;
    make_monotonic(b, n, ret_fix);
    if (n < 2 || b[n - 1].count == 0)
        return NAN;
    double rank = q * b[n - 1].count;
    size_t i = 0;
    while (i < n - 1 && !(b[i].count >= rank))
        i++;
    if (i == n - 1)
        return b[n - 2].upper;
    if (i == 0 && b[0].upper <= 0)
        return b[0].upper;
    double start = 0, count = b[i].count;
    if (i > 0) {
        start = b[i - 1].upper;
        count -= b[i - 1].count;
        rank -= b[i - 1].count;
    }
    return start + (b[i].upper - start) * (rank / count);
}

/* The cumulative count at v, found while walking buckets upwards: for the classic form each with its own cumulative count. */
struct rank_finder {
    double v;
    double rank;
    bool set;
};

double bucket_fraction(double lower, double upper, const struct bucket *b, size_t n)
{
    if (n == 0 || !(isinf(b[n - 1].upper) && b[n - 1].upper > 0))
        return NAN;
    double total = b[n - 1].count;
    if (total == 0 || isnan(lower) || isnan(upper))
        return NAN;
    if (lower >= upper)
        return 0;
    struct rank_finder f[2] = {{.v = lower}, {.v = upper}};
    double rank = 0;
    for (size_t i = 0; i < n; i++) {
        double lo = i ? b[i - 1].upper : b[0].upper > 0 ? 0 : -INFINITY;
        for (int k = 0; k < 2; k++) {
            if (f[k].set)
                continue;
            if (lo >= f[k].v) {
                f[k].rank = rank;
                f[k].set = true;
            } else if (b[i].upper > f[k].v) {
                /* No estimate inside a bucket without a lower bound: all of it counts as below. */
                f[k].rank = isinf(lo) ? b[i].count : rank + (b[i].count - rank) * (f[k].v - lo) / (b[i].upper - lo);
                f[k].set = true;
            }
        }
        rank = b[i].count;
    }
    for (int k = 0; k < 2; k++)
        if (!f[k].set || f[k].rank > total)
            f[k].rank = total;
    return (f[1].rank - f[0].rank) / total;
}

/* --- native --------------------------------------------------------------------------------------------------------------------- */

struct native_bucket {
    double lower, upper, count;
    bool zero; /* the zero bucket */
};

/* Bucket k of all in ascending order of value: negative side, zero bucket when it is above 0 (as upstream), positive side. */
static size_t native_n(const struct fhist *h)
{
    return h->neg.n + (h->zero_count > 0) + h->pos.n;
}

static struct native_bucket native_at(const struct fhist *h, size_t k)
{
    double zero = fhist_is_custom(h) ? 0 : h->zero_threshold;
    struct native_bucket b = {0};
    if (k < h->neg.n) {
        uint32_t i = h->neg.n - 1 - (uint32_t)k;
        b = (struct native_bucket){-fhist_bound(h->neg.idx[i], h), -fhist_bound(h->neg.idx[i] - 1, h), h->neg.c[i], false};
        if (b.upper > -zero)
            b.upper = -zero; /* it begins where the zero bucket ends */
        return b;
    }
    k -= h->neg.n;
    if (h->zero_count > 0) {
        if (k == 0)
            return (struct native_bucket){-h->zero_threshold, h->zero_threshold, h->zero_count, true};
        k--;
    }
    b = (struct native_bucket){fhist_bound(h->pos.idx[k] - 1, h), fhist_bound(h->pos.idx[k], h), h->pos.c[k], false};
    if (b.lower > 0 && b.lower < zero)
        b.lower = zero;
    return b;
}

/* The zero bucket of a histogram that is populated on one side only is taken to lie on that side. */
static void bias_zero_bucket(const struct fhist *h, struct native_bucket *b)
{
    if (!b->zero)
        return;
    if (h->neg.n == 0 && h->pos.n > 0)
        b->lower = 0;
    else if (h->pos.n == 0 && h->neg.n > 0)
        b->upper = 0;
}

static double interpolate_quantile(const struct fhist *h, const struct native_bucket *b, double fraction)
{
    if (fhist_is_custom(h) || b->zero)
        return b->lower + (b->upper - b->lower) * fraction;
    /* Observations in an exponential bucket are spread evenly over the logarithm. */
    double lo = log2(fabs(b->lower)), up = log2(fabs(b->upper));
    if (b->lower > 0)
        return exp2(lo + (up - lo) * fraction);
    return -exp2(up + (lo - up) * (1 - fraction));
}

double fhist_quantile(const struct fhist *h, double q, struct arena *a, bool *ret_nan_result, bool *ret_nan_skew)
{
    (void)a;
    if (q < 0)
        return -INFINITY;
    if (q > 1)
        return INFINITY;
    if (h->count == 0 || isnan(q))
        return NAN;
    /* NaN observations are in the count but in no bucket: then ranks only make sense from below. */
    bool forward = isnan(h->sum) || q < 0.5;
    double rank = forward ? q * h->count : (1 - q) * h->count;
    struct native_bucket b = {0};
    double count = 0;
    size_t n = native_n(h), k = 0;
    while (k < n) {
        b = native_at(h, forward ? k : n - 1 - k);
        k++;
        count += b.count;
        if (count >= rank)
            break;
    }
    if (fhist_is_custom(h)) {
        if (isinf(b.lower) && b.lower < 0) {
            if (b.upper <= 0)
                return b.upper;
            b.lower = 0;
        } else if (isinf(b.upper)) {
            return b.lower;
        }
    } else {
        bias_zero_bucket(h, &b);
    }
    if (count > h->count)
        count = h->count;
    if (count < rank) {
        if (isnan(h->sum)) {
            *ret_nan_result = true;
            return NAN;
        }
        return b.upper; /* of the bucket looked at last, whichever way it went */
    }
    double all = count; /* a sum of NaN may come from -Inf and +Inf too: then no observation is missing from the buckets */
    for (; isnan(h->sum) && k < n; k++)
        all += native_at(h, k).count;
    *ret_nan_skew = isnan(h->sum) && all < h->count;
    rank = forward ? rank - (count - b.count) : count - rank;
    return interpolate_quantile(h, &b, rank / b.count);
}

/* Which part of the bucket lies below v, which is inside it. */
static double part_below(const struct fhist *h, const struct native_bucket *b, double v)
{
    if (fhist_is_custom(h) || b->zero) {
        if (isinf(b->lower))
            return 1;
        return (v - b->lower) / (b->upper - b->lower);
    }
    double lo = log2(fabs(b->lower)), up = log2(fabs(b->upper)), at = log2(fabs(v));
    return v > 0 ? (at - lo) / (up - lo) : 1 - (at - up) / (lo - up);
}

double fhist_fraction(const struct fhist *h, double lower, double upper, bool *ret_nan)
{
    if (h->count == 0 || isnan(lower) || isnan(upper))
        return NAN;
    if (lower >= upper)
        return 0;
    struct rank_finder f[2] = {{.v = lower}, {.v = upper}};
    double rank = 0;
    for (size_t i = 0, n = native_n(h); i < n; i++) {
        struct native_bucket b = native_at(h, i);
        bias_zero_bucket(h, &b);
        if (fhist_is_custom(h) && isinf(b.lower) && b.upper > 0)
            b.lower = 0;
        for (int k = 0; k < 2; k++) {
            if (f[k].set)
                continue;
            if (b.lower >= f[k].v) {
                f[k].rank = rank;
                f[k].set = true;
            } else if (b.upper > f[k].v) {
                f[k].rank = rank + b.count * part_below(h, &b, f[k].v);
                f[k].set = true;
            }
        }
        rank += b.count;
    }
    double total = isnan(h->sum) ? rank : h->count;
    *ret_nan |= total < h->count;
    for (int k = 0; k < 2; k++)
        if (!f[k].set || f[k].rank > total)
            f[k].rank = total;
    return (f[1].rank - f[0].rank) / h->count;
}

double fhist_variance(const struct fhist *h)
{
    double mean = h->sum / h->count, var = 0, comp = 0;
    for (size_t i = 0, n = native_n(h); i < n; i++) {
        struct native_bucket b = native_at(h, i);
        double v;
        if (fhist_is_custom(h))
            v = (b.upper + b.lower) / 2;
        else if (b.zero)
            v = 0;
        else
            v = b.upper < 0 ? -sqrt(b.upper * b.lower) : sqrt(b.upper * b.lower);
        kahan_add(b.count * (v - mean) * (v - mean), &var, &comp);
    }
    return (var + comp) / h->count;
}

static void put_number(double v, struct buf *out)
{
    char text[DTOA_MAX];
    buf_put(out, text, dtoa_g(v, text));
}

static void print_bucket(double lower, double upper, double count, bool with_lower, bool with_upper, struct buf *out)
{
    buf_puts(out, with_lower ? ", [" : ", (");
    put_number(lower, out);
    buf_putc(out, ',');
    put_number(upper, out);
    buf_puts(out, with_upper ? "]:" : "):");
    put_number(count, out);
}

/* The layout's own bounds, the zero bucket whatever its sign. */
void fhist_print(const struct fhist *h, struct buf *out)
{
    buf_puts(out, "{count:");
    put_number(h->count, out);
    buf_puts(out, ", sum:");
    put_number(h->sum, out);
    for (uint32_t i = h->neg.n; i-- > 0;)
        print_bucket(-fhist_bound(h->neg.idx[i], h), -fhist_bound(h->neg.idx[i] - 1, h), h->neg.c[i], true, false, out);
    if (h->zero_count != 0)
        print_bucket(-h->zero_threshold, h->zero_threshold, h->zero_count, true, true, out);
    for (uint32_t i = 0; i < h->pos.n; i++) {
        double lower = fhist_bound(h->pos.idx[i] - 1, h);
        print_bucket(lower, fhist_bound(h->pos.idx[i], h), h->pos.c[i], isinf(lower), true, out);
    }
    buf_putc(out, '}');
}
