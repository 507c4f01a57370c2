/*
 * Native histograms: the checks of the TSDB, change of resolution, and small helpers.
 *
 * The checks, their order and their texts are Prometheus's (model/histogram there), because users meet the texts in their
 * Prometheus's log. Where it works with wrapping 64-bit integers, so does this file, on unsigned types. Bucket indexes are
 * 64 bits wide here: offsets of spans are 32 bits each, and their sum is whatever a client sends.
 */
#include "model/histogram.h"

#include <math.h>
#include <stdio.h>

#include "base/assert.h"
#include "base/dtoa.h"

double stale_nan(void)
{
    uint64_t bits = STALE_NAN_BITS;
    double d;
    memcpy(&d, &bits, 8);
    return d;
}

/* --- validation ---------------------------------------------------------------------------------------------------------- */

static bool check_spans_fit(const struct histogram_span *spans, uint32_t n_spans, uint32_t n_buckets, const char *side,
                            bool first_may_be_negative, struct err *err)
{
    uint64_t need = 0;
    for (uint32_t i = 0; i < n_spans; i++) {
        if (spans[i].offset < 0 && !(i == 0 && first_may_be_negative))
            return err_set(err, ERR_NATIVE_HISTOGRAM_SPAN_NEGATIVE_OFFSET,
                           "%s: span number %u with offset %d: histogram has a span whose offset is negative", side, i + 1,
                           spans[i].offset);
        need += spans[i].length;
    }
    if (need != n_buckets)
        return err_set(err, ERR_NATIVE_HISTOGRAM_SPANS_BUCKETS_MISMATCH,
                       "%s: spans need %llu buckets, have %u buckets: histogram spans specify different number of buckets "
                       "than provided",
                       side, (unsigned long long)need, n_buckets);
    return true;
}

/* As Go's %f: C writes infinities in another way, all else is the same. */
static const char *print_bound(double v, char text[DTOA_MAX])
{
    if (isinf(v))
        return v < 0 ? "-Inf" : "+Inf";
    snprintf(text, DTOA_MAX, "%f", v);
    return text;
}

static bool check_bounds(const struct histogram *h, struct err *err)
{
    double prev = -INFINITY;
    for (uint32_t i = 0; i < h->n_custom_values; i++) {
        double cur = h->custom_values[i];
        char text[2][DTOA_MAX];
        if (isnan(cur))
            return err_set(err, ERR_NATIVE_HISTOGRAM_CUSTOM_BUCKETS_INVALID,
                           "custom buckets: histogram custom bounds must not be NaN");
        if (cur <= prev)
            return err_set(err, ERR_NATIVE_HISTOGRAM_CUSTOM_BUCKETS_INVALID,
                           "custom buckets: previous bound is %s and current is %s: histogram custom bounds must be in "
                           "strictly increasing order",
                           print_bound(prev, text[0]), print_bound(cur, text[1]));
        prev = cur;
    }
    if (prev == INFINITY)
        return err_set(err, ERR_NATIVE_HISTOGRAM_CUSTOM_BUCKETS_INFINITE,
                       "custom buckets: last +Inf bound must not be explicitly defined: histogram custom bounds must be "
                       "finite");
    return true;
}

static bool check_custom(const struct histogram *h, struct err *err)
{
    if (!check_bounds(h, err))
        return false;
    if (!check_spans_fit(h->positive_spans, h->n_positive_spans, h->n_positive, "custom buckets", false, err))
        return false;
    int64_t total = 0;
    for (uint32_t i = 0; i < h->n_positive_spans; i++)
        total += (int64_t)h->positive_spans[i].offset + h->positive_spans[i].length;
    if ((int64_t)h->n_custom_values + 1 < total)
        return err_set(err, ERR_NATIVE_HISTOGRAM_CUSTOM_BUCKETS_MISMATCH,
                       "custom buckets: only %u custom bounds defined which is insufficient to cover total span length of "
                       "%lld: histogram custom bounds are too few",
                       h->n_custom_values, (long long)total);
    if (h->is_float ? h->zero_count != 0 : h->zero_count_int != 0)
        return err_set(err, ERR_BAD_DATA, "custom buckets: must have zero count of 0");
    if (h->zero_threshold != 0)
        return err_set(err, ERR_BAD_DATA, "custom buckets: must have zero threshold of 0");
    if (h->n_negative_spans)
        return err_set(err, ERR_BAD_DATA, "custom buckets: must not have negative spans");
    if (h->n_negative)
        return err_set(err, ERR_BAD_DATA, "custom buckets: must not have negative buckets");
    return true;
}

static bool negative_bucket(const char *side, uint32_t i, const char *count, size_t n, struct err *err)
{
    return err_set(err, ERR_NATIVE_HISTOGRAM_NEGATIVE_BUCKET_COUNT,
                   "%s: bucket number %u has observation count of %.*s: histogram has a bucket whose observation count is "
                   "negative",
                   side, i + 1, (int)n, count);
}

/* Adds the buckets to *sum, wrapping. */
static bool check_deltas(const int64_t *deltas, uint32_t n, const char *side, uint64_t *sum, struct err *err)
{
    uint64_t count = 0;
    for (uint32_t i = 0; i < n; i++) {
        count += (uint64_t)deltas[i];
        if ((int64_t)count < 0) {
            char text[24];
            int len = snprintf(text, sizeof(text), "%lld", (long long)count);
            return negative_bucket(side, i, text, (size_t)len, err);
        }
        *sum += count;
    }
    return true;
}

static bool check_counts(const double *counts, uint32_t n, const char *side, struct err *err)
{
    for (uint32_t i = 0; i < n; i++) {
        if (counts[i] < 0) {
            char text[DTOA_MAX];
            return negative_bucket(side, i, text, dtoa_g(counts[i], text), err);
        }
    }
    return true;
}

static bool check_observations(const struct histogram *h, uint64_t in_buckets, struct err *err)
{
    uint64_t found = in_buckets + h->zero_count_int;
    bool nan = isnan(h->sum); /* NaN observations count, but are in no bucket */
    if (nan ? found <= h->count_int : found == h->count_int)
        return true;
    return err_set(err,
                   nan ? ERR_NATIVE_HISTOGRAM_COUNT_NOT_BIG_ENOUGH : ERR_NATIVE_HISTOGRAM_COUNT_MISMATCH,
                   "%llu observations found in buckets, but the Count field is %llu: histogram's observation count should %s",
                   (unsigned long long)found, (unsigned long long)h->count_int,
                   nan ? "be at least the number of observations found in the buckets"
                       : "equal the number of observations found in the buckets (in absence of NaN)");
}

bool histogram_validate(const struct histogram *h, struct err *err)
{
    uint64_t sum = 0;
    if (h->schema == HISTOGRAM_CUSTOM_BUCKETS) {
        if (!check_custom(h, err))
            return false;
    } else if (h->schema < HISTOGRAM_SCHEMA_MIN || h->schema > HISTOGRAM_SCHEMA_MAX) {
        return err_set(err, ERR_INVALID_NATIVE_HISTOGRAM_SCHEMA,
                       "received a native histogram sample with an invalid schema: %d", h->schema);
    } else {
        if (!check_spans_fit(h->positive_spans, h->n_positive_spans, h->n_positive, "positive side", true, err) ||
            !check_spans_fit(h->negative_spans, h->n_negative_spans, h->n_negative, "negative side", true, err))
            return false;
        if (!(h->is_float ? check_counts(h->negative_counts, h->n_negative, "negative side", err)
                          : check_deltas(h->negative_deltas, h->n_negative, "negative side", &sum, err)))
            return false;
        if (h->n_custom_values)
            return err_set(err, ERR_BAD_DATA, "histogram with exponential schema must not have custom bounds");
    }
    if (h->is_float) /* rounding makes a comparison of the counts meaningless */
        return check_counts(h->positive_counts, h->n_positive, "positive side", err);
    return check_deltas(h->positive_deltas, h->n_positive, "positive side", &sum, err) &&
           check_observations(h, sum, err);
}

/* --- resolution ---------------------------------------------------------------------------------------------------------- */

/* One side of a histogram; 8 bytes a bucket in either form. */
struct side {
    const struct histogram_span *spans;
    uint32_t n_spans;
    const void *buckets;
    uint32_t n;
};

static struct side positive_side(const struct histogram *h)
{
    return (struct side){h->positive_spans, h->n_positive_spans, h->positive_deltas, h->n_positive};
}

static struct side negative_side(const struct histogram *h)
{
    return (struct side){h->negative_spans, h->n_negative_spans, h->negative_deltas, h->n_negative};
}

/* Where reduce_side writes. */
struct reduced {
    struct histogram_span *spans;
    uint32_t n_spans;
    void *buckets;
    uint32_t n;
    int64_t last; /* target index of the bucket written last */
    uint64_t last_count;
    uint64_t prev_count; /* integer form: absolute count of the bucket before the last */
};

/* Opens the bucket `index` of the result: longer span, or a new one behind a gap. False when the gap is wider than a span can say. */
static bool reduced_open(struct reduced *r, int64_t index)
{
    int64_t gap = r->n ? index - r->last - 1 : index;
    if (r->n && gap == 0) {
        r->spans[r->n_spans - 1].length++;
    } else {
        if (gap < INT32_MIN || gap > INT32_MAX)
            return false;
        r->spans[r->n_spans++] = (struct histogram_span){(int32_t)gap, 1};
    }
    r->last = index;
    r->n++;
    return true;
}

static bool reduce_side(struct side s, unsigned shift, bool is_float, struct reduced *r)
{
    int64_t index = 0;
    uint64_t count = 0; /* integer form: absolute count of the input bucket */
    uint32_t b = 0;
    for (uint32_t i = 0; i < s.n_spans; i++) {
        index += s.spans[i].offset;
        if (s.spans[i].length > s.n - b)
            return false;
        for (uint32_t k = 0; k < s.spans[i].length; k++, b++, index++) {
            /* Bucket i is (base^(i-1), base^i]: buckets 2i-1 and 2i become bucket i. Shifting rounds down, as wanted. */
            int64_t target = ((index - 1) >> shift) + 1;
            bool fresh = r->n == 0 || target != r->last;
            if (fresh && !reduced_open(r, target))
                return false;
            if (is_float) {
                double *out = r->buckets;
                double v = ((const double *)s.buckets)[b];
                out[r->n - 1] = fresh ? v : out[r->n - 1] + v;
                continue;
            }
            count += (uint64_t)((const int64_t *)s.buckets)[b];
            if (fresh) {
                r->prev_count = r->last_count;
                r->last_count = 0;
            }
            r->last_count += count;
            ((int64_t *)r->buckets)[r->n - 1] = (int64_t)(r->last_count - r->prev_count);
        }
    }
    return b == s.n;
}

bool histogram_reduce(const struct histogram *h, int32_t to_schema, struct arena *arena, struct histogram *ret)
{
    if (h->schema < HISTOGRAM_SCHEMA_MIN || h->schema > HISTOGRAM_SCHEMA_MAX || to_schema < HISTOGRAM_SCHEMA_MIN ||
        to_schema > h->schema)
        return false;
    unsigned shift = (unsigned)(h->schema - to_schema);
    struct side sides[2] = {positive_side(h), negative_side(h)};
    struct reduced out[2] = {0};
    for (int i = 0; i < 2; i++) {
        /* A result has no more buckets than its input, and no span without a bucket. */
        out[i].spans = arena_array(arena, MAX(sides[i].n, 1u), sizeof(struct histogram_span));
        out[i].buckets = arena_array(arena, MAX(sides[i].n, 1u), 8);
        if (!out[i].spans || !out[i].buckets || !reduce_side(sides[i], shift, h->is_float, &out[i]))
            return false;
    }
    *ret = *h;
    ret->schema = to_schema;
    ret->positive_spans = out[0].spans;
    ret->n_positive_spans = out[0].n_spans;
    ret->positive_deltas = out[0].buckets;
    ret->n_positive = out[0].n;
    ret->negative_spans = out[1].spans;
    ret->n_negative_spans = out[1].n_spans;
    ret->negative_deltas = out[1].buckets;
    ret->n_negative = out[1].n;
    return true;
}

/* --- copies and comparison ------------------------------------------------------------------------------------------------ */

static const double *absolute_counts(const int64_t *deltas, uint32_t n, struct arena *arena)
{
    double *out = arena_array(arena, MAX(n, 1u), sizeof(double));
    uint64_t count = 0;
    for (uint32_t i = 0; out && i < n; i++) {
        count += (uint64_t)deltas[i];
        out[i] = (double)(int64_t)count;
    }
    return out;
}

struct histogram *histogram_to_float(const struct histogram *h, struct arena *arena)
{
    struct histogram *f = arena_alloc(arena, sizeof(*f));
    if (!f)
        return NULL;
    *f = *h;
    if (h->is_float)
        return f;
    f->is_float = true;
    f->count = (double)h->count_int;
    f->zero_count = (double)h->zero_count_int;
    f->positive_counts = absolute_counts(h->positive_deltas, h->n_positive, arena);
    f->negative_counts = absolute_counts(h->negative_deltas, h->n_negative, arena);
    return f->positive_counts && f->negative_counts ? f : NULL;
}

/* All arrays have elements of 8 bytes. Clears *ok on overflow. */
static const void *dup8(const void *p, uint32_t n, struct arena *arena, bool *ok)
{
    if (n == 0)
        return NULL;
    void *out = arena_array(arena, n, 8);
    if (out)
        memcpy(out, p, (size_t)n * 8);
    else
        *ok = false;
    return out;
}

struct histogram *histogram_dup(const struct histogram *h, struct arena *arena)
{
    struct histogram *d = arena_alloc(arena, sizeof(*d));
    if (!d)
        return NULL;
    bool ok = true;
    *d = *h;
    d->positive_spans = dup8(h->positive_spans, h->n_positive_spans, arena, &ok);
    d->negative_spans = dup8(h->negative_spans, h->n_negative_spans, arena, &ok);
    d->positive_deltas = dup8(h->positive_deltas, h->n_positive, arena, &ok);
    d->negative_deltas = dup8(h->negative_deltas, h->n_negative, arena, &ok);
    d->custom_values = dup8(h->custom_values, h->n_custom_values, arena, &ok);
    return ok ? d : NULL;
}

static bool eq8(const void *a, uint32_t na, const void *b, uint32_t nb)
{
    return na == nb && (na == 0 || memcmp(a, b, (size_t)na * 8) == 0);
}

bool histogram_eq(const struct histogram *a, const struct histogram *b)
{
    /* Bytes, not numbers: NaNs are told apart and minus zero is not zero. The union members are 8 bytes in either form. */
    return a->schema == b->schema && a->hint == b->hint && a->is_float == b->is_float && a->count_int == b->count_int &&
           a->zero_count_int == b->zero_count_int && memcmp(&a->sum, &b->sum, 8) == 0 &&
           memcmp(&a->zero_threshold, &b->zero_threshold, 8) == 0 &&
           eq8(a->positive_spans, a->n_positive_spans, b->positive_spans, b->n_positive_spans) &&
           eq8(a->negative_spans, a->n_negative_spans, b->negative_spans, b->n_negative_spans) &&
           eq8(a->positive_deltas, a->n_positive, b->positive_deltas, b->n_positive) &&
           eq8(a->negative_deltas, a->n_negative, b->negative_deltas, b->n_negative) &&
           eq8(a->custom_values, a->n_custom_values, b->custom_values, b->n_custom_values);
}
