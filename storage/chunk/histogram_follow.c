/*
 * Which histogram may follow which in a chunk: the table of docs/formats.md 6.6. The order of its rows is Prometheus's, because it decides what the header
 * of the next chunk says when the sample does not fit.
 */
#include "storage/chunk/histogram_int.h"

/* Absolute counts of the chunk's and the sample's bucket, walked in step. */
struct walk {
    struct bucket_iter it;
    bool more;
    int64_t x;
    size_t i;
    int64_t count_int;
    double count;
};

static void walk_load(struct walk *w, bool is_float, uint64_t bits)
{
    if (is_float)
        w->count = bits_double(bits);
    else
        w->count_int = wrap_add(w->count_int, (int64_t)bits);
}

static void walk_chunk(struct walk *w, bool is_float, const union histogram_field *buckets)
{
    w->more = bucket_next(&w->it, &w->x);
    if (w->more)
        walk_load(w, is_float, buckets[w->i++].x.v);
}

static void walk_sample(struct walk *w, bool is_float, const int64_t *buckets)
{
    uint64_t bits;
    w->more = bucket_next(&w->it, &w->x);
    if (!w->more)
        return;
    memcpy(&bits, &buckets[w->i++], 8);
    walk_load(w, is_float, bits);
}

static struct side_diff diff_side(struct spans chunk, const union histogram_field *chunk_buckets, struct spans sample,
                                  const int64_t *sample_buckets, bool is_float, bool gauge)
{
    struct side_diff d = {false, false, false};
    struct walk c = {.it = bucket_iter(chunk.p, chunk.n)}, s = {.it = bucket_iter(sample.p, sample.n)};
    walk_chunk(&c, is_float, chunk_buckets);
    walk_sample(&s, is_float, sample_buckets);
    while (c.more || s.more) {
        bool in_chunk = c.more && (!s.more || c.x <= s.x), in_sample = s.more && (!c.more || s.x <= c.x);
        if (in_chunk && in_sample) {
            if (!gauge && (is_float ? c.count > s.count : c.count_int > s.count_int))
                d.reset = true;
        } else if (in_chunk) {
            if (!gauge && !(is_float ? c.count == 0 : c.count_int == 0))
                d.reset = true;
            d.backward = true;
        } else {
            d.forward = true;
        }
        if (in_chunk)
            walk_chunk(&c, is_float, chunk_buckets);
        if (in_sample)
            walk_sample(&s, is_float, sample_buckets);
    }
    return d;
}

static void diff_sides(const struct histogram_state *s, const struct histogram *h, bool gauge, struct verdict *v)
{
    v->positive = diff_side(positive_spans(&s->layout), s->buckets, positive_spans(h), h->positive_deltas, s->is_float, gauge);
    v->negative = diff_side(negative_spans(&s->layout), s->buckets + s->layout.n_positive, negative_spans(h),
                            h->negative_deltas, s->is_float, gauge);
}

static bool same_bounds(const struct histogram *a, const struct histogram *b)
{
    if (a->schema != HISTOGRAM_CUSTOM_BUCKETS)
        return true;
    if (a->n_custom_values != b->n_custom_values)
        return false;
    for (uint32_t i = 0; i < a->n_custom_values; i++)
        if (a->custom_values[i] != b->custom_values[i])
            return false;
    return true;
}

static bool same_resolution(const struct histogram *a, const struct histogram *b)
{
    return a->schema == b->schema && a->zero_threshold == b->zero_threshold;
}

static struct verdict refuse(uint8_t header)
{
    return (struct verdict){.ok = false, .header = header};
}

/* The table of docs/formats.md 6.6, row by row. */
struct verdict judge_counter(const struct histogram_state *s, uint8_t header, const struct histogram *h)
{
    struct verdict v = {.ok = true, .header = HEADER_NOT_RESET};
    if (header == HEADER_GAUGE)
        return refuse(HEADER_NOT_RESET); /* nothing is known, but this is what Prometheus writes */
    if (h->hint == HISTOGRAM_HINT_RESET)
        return refuse(HEADER_RESET);
    if (is_stale_nan(h->sum))
        return v;
    if (state_is_stale(s))
        return refuse(HEADER_UNKNOWN);
    if (s->is_float ? h->count < bits_double(s->count.x.v) : h->count_int < s->count.x.v)
        return refuse(HEADER_RESET);
    if (!same_resolution(h, &s->layout))
        return refuse(HEADER_UNKNOWN);
    if (!same_bounds(h, &s->layout))
        return refuse(HEADER_RESET);
    if (s->is_float ? h->zero_count < bits_double(s->zero.x.v) : h->zero_count_int < s->zero.x.v)
        return refuse(HEADER_RESET);
    diff_sides(s, h, false, &v);
    if (v.positive.reset || v.negative.reset)
        return refuse(HEADER_RESET);
    return v;
}

struct verdict judge_gauge(const struct histogram_state *s, uint8_t header, const struct histogram *h)
{
    struct verdict v = {.ok = true, .header = HEADER_GAUGE};
    if (header != HEADER_GAUGE)
        return refuse(HEADER_GAUGE);
    if (is_stale_nan(h->sum))
        return v;
    if (state_is_stale(s) || !same_resolution(h, &s->layout) || !same_bounds(h, &s->layout))
        return refuse(HEADER_GAUGE);
    diff_sides(s, h, true, &v);
    return v;
}
