/*
 * A native histogram as Prometheus's JSON: {"count":"6","sum":"10.5","buckets":[[1,"-1","-0.5","1"],[3,"-0.001","0.001","1"],[0,"0.5","1","2"]]}
 *
 * A bucket is [kind, lower, upper, count]; kind says which bounds belong to it: 0 the upper, 1 the lower, 2 none, 3 both. Buckets go from the most
 * negative to the most positive, empty ones are left out, and a bound inside the zero bucket is moved to the zero bucket's.
 */
#include <float.h>
#include <math.h>

#include "base/assert.h"
#include "read/api/api_int.h"

static bool is_custom(const struct histogram *h)
{
    return h->schema == HISTOGRAM_CUSTOM_BUCKETS;
}

/* Upper bound of bucket idx of the positive side. */
static double bound(const struct histogram *h, int64_t idx)
{
    if (is_custom(h)) {
        if (idx < 0)
            return -INFINITY;
        return (uint64_t)idx < h->n_custom_values ? h->custom_values[idx] : INFINITY;
    }
    double exponent;
    double fraction = 1;
    if (h->schema <= 0) {
        exponent = (double)idx * (double)((int64_t)1 << -h->schema);
    } else {
        int64_t per_power = (int64_t)1 << h->schema;
        int64_t rest = idx & (per_power - 1);
        exponent = (double)((idx - rest) / per_power);
        fraction = h->schema > 8 ? exp2((double)rest / (double)per_power) : bucket_fraction_bound(h->schema, (int32_t)rest);
    }
    if (exponent == 1024 && fraction == 1)
        return DBL_MAX; /* the bucket after it is the one of infinity */
    return ldexp(fraction, exponent > 4000 ? 4000 : exponent < -4000 ? -4000 : (int)exponent);
}

struct bucket {
    double lower, upper, count;
    bool lower_inclusive, upper_inclusive;
};

struct bucket_list {
    struct buf *out;
    bool any;
};

static void put_bucket(struct bucket_list *l, const struct bucket *b)
{
    static const char kinds[2][2] = {{'2', '0'}, {'1', '3'}}; /* [lower_inclusive][upper_inclusive] */
    if (b->count == 0)
        return;
    buf_puts(l->out, l->any ? ",[" : ",\"buckets\":[[");
    l->any = true;
    buf_putc(l->out, kinds[b->lower_inclusive][b->upper_inclusive]);
    buf_putc(l->out, ',');
    put_value(l->out, b->lower);
    buf_putc(l->out, ',');
    put_value(l->out, b->upper);
    buf_putc(l->out, ',');
    put_value(l->out, b->count);
    buf_putc(l->out, ']');
}

static void put_side_bucket(struct bucket_list *l, const struct histogram *h, bool negative, int64_t idx, double count)
{
    struct bucket b = {.upper = bound(h, idx), .lower = bound(h, idx - 1), .count = count};
    double zero = h->zero_threshold;
    if (b.lower > 0 && b.lower < zero)
        b.lower = zero;
    if (is_custom(h)) {
        b.lower_inclusive = idx == 0;
        b.upper_inclusive = true;
    } else if (negative) {
        double upper = b.upper;
        b.upper = -b.lower;
        b.lower = -upper;
        b.lower_inclusive = true;
    } else {
        b.upper_inclusive = true;
    }
    put_bucket(l, &b);
}

static void put_positive(struct bucket_list *l, const struct histogram *h)
{
    int64_t idx = 0;
    uint32_t k = 0;
    for (uint32_t s = 0; s < h->n_positive_spans; s++) {
        idx += h->positive_spans[s].offset;
        for (uint32_t i = 0; i < h->positive_spans[s].length && k < h->n_positive; i++)
            put_side_bucket(l, h, false, idx++, h->positive_counts[k++]);
    }
}

/* From the largest index down: the most negative bucket comes first. */
static void put_negative(struct bucket_list *l, const struct histogram *h)
{
    int64_t idx = 0;
    for (uint32_t s = 0; s < h->n_negative_spans; s++)
        idx += (int64_t)h->negative_spans[s].offset + h->negative_spans[s].length;
    uint32_t k = h->n_negative;
    for (uint32_t s = h->n_negative_spans; s-- > 0;) {
        for (uint32_t i = 0; i < h->negative_spans[s].length && k > 0; i++)
            put_side_bucket(l, h, true, --idx, h->negative_counts[--k]);
        idx -= h->negative_spans[s].offset;
    }
}

void put_histogram(struct buf *out, const struct histogram *h)
{
    ASSERT(h->is_float); /* the engine computes with floats only */
    buf_puts(out, "{\"count\":");
    put_value(out, h->count);
    buf_puts(out, ",\"sum\":");
    put_value(out, h->sum);
    struct bucket_list l = {.out = out};
    put_negative(&l, h);
    struct bucket zero = {-h->zero_threshold, h->zero_threshold, h->zero_count, true, true};
    /* Upstream does not show a zero bucket below 0, which other buckets may be after a subtraction. */
    if (!is_custom(h) && h->zero_count > 0)
        put_bucket(&l, &zero);
    put_positive(&l, h);
    buf_puts(out, l.any ? "]}" : "}");
}
