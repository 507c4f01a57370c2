/*
 * The layout at the head of a histogram chunk, and arithmetic with spans of buckets.
 *
 *     zero threshold: byte 0 for 0; byte e + 243 for 0.5 * 2^e with -242 <= e <= 11; else byte 255 and the double
 *     varbit_int schema
 *     positive spans, negative spans: varbit_uint number, each varbit_uint length, varbit_int offset
 *     schema -53 only: varbit_uint number of bounds, each varbit_uint(1000 x + 1) when 1000 x is a whole number up to 33554430,
 *                      else '0' and the double
 */
#include "storage/chunk/histogram_int.h"

#include <math.h>

#define VARBIT_MAX_BITS 72
#define THRESHOLD_BIAS 243
#define THRESHOLD_RAW 255
#define BOUND_MAX_MILLI 33554430.0

/* --- writing -------------------------------------------------------------------------------------------------------------- */

uint64_t layout_max_bits(const struct histogram *l)
{
    uint64_t spans = (uint64_t)l->n_positive_spans + l->n_negative_spans;
    return VARBIT_MAX_BITS * (5 + 2 * spans + l->n_custom_values);
}

static uint64_t put_threshold(uint8_t *bytes, uint64_t pos, double threshold)
{
    int exponent;
    if (threshold == 0)
        return bits_put(bytes, pos, 0, 8);
    if (frexp(threshold, &exponent) == 0.5 && exponent >= -242 && exponent <= 11)
        return bits_put(bytes, pos, (uint64_t)(exponent + THRESHOLD_BIAS), 8);
    pos = bits_put(bytes, pos, THRESHOLD_RAW, 8);
    return bits_put(bytes, pos, double_bits(threshold), 64);
}

static uint64_t put_spans(uint8_t *bytes, uint64_t pos, const struct histogram_span *spans, uint32_t n)
{
    pos = varbit_put_uint(bytes, pos, n);
    for (uint32_t i = 0; i < n; i++) {
        pos = varbit_put_uint(bytes, pos, spans[i].length);
        pos = varbit_put_int(bytes, pos, spans[i].offset);
    }
    return pos;
}

static uint64_t put_bound(uint8_t *bytes, uint64_t pos, double bound)
{
    double milli = bound * 1000;
    if (milli >= 0 && milli <= BOUND_MAX_MILLI && round(milli) / 1000 == bound)
        return varbit_put_uint(bytes, pos, (uint64_t)round(milli) + 1);
    pos = bits_put(bytes, pos, 0, 1);
    return bits_put(bytes, pos, double_bits(bound), 64);
}

uint64_t layout_put(const struct histogram *l, uint8_t *bytes, uint64_t pos)
{
    pos = put_threshold(bytes, pos, l->zero_threshold);
    pos = varbit_put_int(bytes, pos, l->schema);
    pos = put_spans(bytes, pos, l->positive_spans, l->n_positive_spans);
    pos = put_spans(bytes, pos, l->negative_spans, l->n_negative_spans);
    if (l->schema != HISTOGRAM_CUSTOM_BUCKETS)
        return pos;
    pos = varbit_put_uint(bytes, pos, l->n_custom_values);
    for (uint32_t i = 0; i < l->n_custom_values; i++)
        pos = put_bound(bytes, pos, l->custom_values[i]);
    return pos;
}

/* --- reading -------------------------------------------------------------------------------------------------------------- */

static double get_threshold(struct bit_reader *r)
{
    unsigned b = (unsigned)bits_get(r, 8);
    if (b == 0)
        return 0;
    if (b == THRESHOLD_RAW)
        return bits_double(bits_get(r, 64));
    return ldexp(0.5, (int)b - THRESHOLD_BIAS);
}

static bool corrupt(struct err *err, const char *what)
{
    return err_set(err, ERR_CORRUPT, "histogram chunk: %s", what);
}

/* A span takes two bits at least, a bucket one in the first sample: that bounds both before anything is allocated. */
static bool get_spans(struct bit_reader *r, struct arena *arena, const struct histogram_span **ret, uint32_t *ret_n,
                      uint32_t *ret_buckets, struct err *err)
{
    uint64_t n = varbit_get_uint(r);
    uint64_t buckets = 0;
    if (r->failed || n > bits_left(r) / 2 || n > UINT32_MAX)
        return corrupt(err, "more spans than bytes");
    struct histogram_span *spans = n ? arena_array(arena, n, sizeof(*spans)) : NULL;
    if (n && !spans)
        return err_set(err, ERR_NO_MEMORY, "not enough memory for the layout of a histogram chunk");
    for (uint64_t i = 0; i < n; i++) {
        uint64_t length = varbit_get_uint(r);
        int64_t offset = varbit_get_int(r);
        if (r->failed || length > bits_left(r) - MIN(buckets, bits_left(r)))
            return corrupt(err, "more buckets than bytes");
        if (offset > INT32_MAX || offset < (i ? 0 : INT32_MIN))
            return corrupt(err, "offset of a span out of range");
        spans[i] = (struct histogram_span){(int32_t)offset, (uint32_t)length};
        buckets += length;
    }
    if (buckets > UINT32_MAX)
        return corrupt(err, "more buckets than 32 bits count");
    *ret = spans;
    *ret_n = (uint32_t)n;
    *ret_buckets = (uint32_t)buckets;
    return true;
}

static bool get_bounds(struct bit_reader *r, struct arena *arena, struct histogram *l, struct err *err)
{
    uint64_t n = varbit_get_uint(r);
    if (r->failed || n > bits_left(r) || n > UINT32_MAX)
        return corrupt(err, "more bounds than bytes");
    double *bounds = n ? arena_array(arena, n, sizeof(*bounds)) : NULL;
    if (n && !bounds)
        return err_set(err, ERR_NO_MEMORY, "not enough memory for the layout of a histogram chunk");
    for (uint64_t i = 0; i < n; i++) {
        uint64_t milli = varbit_get_uint(r);
        bounds[i] = milli ? (double)(milli - 1) / 1000 : bits_double(bits_get(r, 64));
    }
    l->custom_values = bounds;
    l->n_custom_values = (uint32_t)n;
    return true;
}

/* With custom buckets the positive buckets are indexes into the bounds: readers count on it. */
static bool check_custom(const struct histogram *l, struct err *err)
{
    int64_t total = 0;
    for (uint32_t i = 0; i < l->n_positive_spans; i++) {
        if (l->positive_spans[i].offset < 0)
            return corrupt(err, "offset of a span out of range");
        total += (int64_t)l->positive_spans[i].offset + l->positive_spans[i].length;
    }
    if (total > (int64_t)l->n_custom_values + 1 || l->n_negative)
        return corrupt(err, "custom buckets outside of their bounds");
    return true;
}

bool layout_get(struct bit_reader *r, struct arena *arena, struct histogram *ret, struct err *err)
{
    struct histogram l = {0};
    l.zero_threshold = get_threshold(r);
    int64_t schema = varbit_get_int(r);
    if (!r->failed && schema != HISTOGRAM_CUSTOM_BUCKETS && (schema < HISTOGRAM_SCHEMA_MIN || schema > HISTOGRAM_SCHEMA_MAX))
        return err_set(err, ERR_CORRUPT, "histogram chunk: schema %lld is not supported", (long long)schema);
    l.schema = (int32_t)schema;
    if (!get_spans(r, arena, &l.positive_spans, &l.n_positive_spans, &l.n_positive, err) ||
        !get_spans(r, arena, &l.negative_spans, &l.n_negative_spans, &l.n_negative, err))
        return false;
    if (schema == HISTOGRAM_CUSTOM_BUCKETS && (!get_bounds(r, arena, &l, err) || !check_custom(&l, err)))
        return false;
    if (r->failed || (uint64_t)l.n_positive + l.n_negative > bits_left(r))
        return corrupt(err, "layout is cut short");
    *ret = l;
    return true;
}

/* --- spans ---------------------------------------------------------------------------------------------------------------- */

struct bucket_iter bucket_iter(const struct histogram_span *spans, uint32_t n)
{
    if (n == 0)
        return (struct bucket_iter){NULL, NULL, 0, 0};
    return (struct bucket_iter){spans, spans + n, 0, spans[0].offset};
}

bool bucket_next(struct bucket_iter *it, int64_t *ret_index)
{
    while (it->span < it->end) {
        if (it->k < it->span->length) {
            it->k++;
            *ret_index = it->index++;
            return true;
        }
        it->k = 0;
        if (++it->span < it->end)
            it->index += it->span->offset;
    }
    return false;
}

/* Spans are written into `out`, or only counted when it is NULL. */
static bool merge_spans(struct spans a, struct spans b, struct histogram_span *out, uint32_t *ret_spans, uint32_t *ret_buckets)
{
    struct bucket_iter ai = bucket_iter(a.p, a.n), bi = bucket_iter(b.p, b.n);
    int64_t ax = 0, bx = 0, last = 0;
    bool more_a = bucket_next(&ai, &ax), more_b = bucket_next(&bi, &bx);
    uint32_t spans = 0, buckets = 0;
    while (more_a || more_b) {
        int64_t x = !more_b || (more_a && ax < bx) ? ax : bx;
        int64_t gap = spans ? x - last - 1 : x;
        if (spans && gap == 0) {
            if (out)
                out[spans - 1].length++;
        } else {
            if (gap > INT32_MAX || gap < INT32_MIN)
                return false;
            if (out)
                out[spans] = (struct histogram_span){(int32_t)gap, 1};
            spans++;
        }
        buckets++;
        last = x;
        if (more_a && ax == x)
            more_a = bucket_next(&ai, &ax);
        if (more_b && bx == x)
            more_b = bucket_next(&bi, &bx);
    }
    *ret_spans = spans;
    *ret_buckets = buckets;
    return true;
}

bool spans_union(struct spans a, struct spans b, struct arena *arena, struct spans *ret, uint32_t *ret_n_buckets)
{
    uint32_t n;
    if (!merge_spans(a, b, NULL, &n, ret_n_buckets))
        return false;
    struct histogram_span *out = arena_array(arena, MAX(n, 1u), sizeof(*out));
    if (!out)
        return false;
    merge_spans(a, b, out, &n, ret_n_buckets);
    *ret = (struct spans){out, n};
    return true;
}

void spans_remap(struct spans from, const void *buckets, struct spans to, bool is_float, void *ret)
{
    struct bucket_iter fi = bucket_iter(from.p, from.n), ti = bucket_iter(to.p, to.n);
    int64_t fx = 0, tx;
    uint64_t count = 0, last = 0; /* integer form: absolute counts of the bucket of `from`, and of the one written last */
    size_t f = 0, n = 0;
    bool more = bucket_next(&fi, &fx);
    if (more && !is_float)
        count = (uint64_t)((const int64_t *)buckets)[0];
    while (bucket_next(&ti, &tx)) {
        bool hit = more && fx == tx;
        if (is_float) {
            ((double *)ret)[n++] = hit ? ((const double *)buckets)[f] : 0;
        } else {
            uint64_t v = hit ? count : 0;
            ((int64_t *)ret)[n++] = (int64_t)(v - last);
            last = v;
        }
        if (!hit)
            continue;
        f++;
        more = bucket_next(&fi, &fx);
        if (more && !is_float)
            count += (uint64_t)((const int64_t *)buckets)[f];
    }
    SLOW_ASSERT(!more);
}
