/*
 * Samples of a histogram chunk, written and read over the same state.
 *
 *     u16 big-endian number of samples; byte with the counter reset header in its two high bits; layout (histogram_layout.c)
 *     integer, first:  varbit_int t; varbit_uint count; varbit_uint zero count; 64 bits sum; varbit_int each bucket delta
 *     integer, others: varbit_int dod of t, count, zero count; XOR sum; varbit_int dod of each bucket delta
 *     float, first:    varbit_int t; 64 bits each: count, zero count, sum, buckets
 *     float, others:   varbit_int dod of t; XOR each of count, zero count, sum, buckets, with a window of its own
 *
 * "dod" is the difference to the last difference, which is 0 before the second sample. A stale sample says so in its sum; its counts are
 * written as if they went on as before (integer) or were zero (float), and it has no buckets. Only stale samples may follow it.
 */
#include "storage/chunk/histogram_int.h"

#define FIELD_MAX_BITS 80

uint64_t state_max_sample_bits(const struct histogram_state *s)
{
    return FIELD_MAX_BITS * (4 + (uint64_t)histogram_n_buckets(&s->layout));
}

/* --- one field ------------------------------------------------------------------------------------------------------------ */

static uint64_t put_dod(union histogram_field *f, uint8_t *bytes, uint64_t pos, int64_t v)
{
    int64_t delta = wrap_sub(v, f->i.v);
    int64_t dod = wrap_sub(delta, f->i.delta);
    f->i.v = v;
    f->i.delta = delta;
    return varbit_put_int(bytes, pos, dod);
}

static void get_dod(union histogram_field *f, struct bit_reader *r)
{
    f->i.delta = wrap_add(f->i.delta, varbit_get_int(r));
    f->i.v = wrap_add(f->i.v, f->i.delta);
}

static uint64_t put_raw(union histogram_field *f, uint8_t *bytes, uint64_t pos, double v)
{
    f->x.v = double_bits(v);
    f->x.leading = XOR_NO_WINDOW;
    f->x.trailing = 0;
    return bits_put(bytes, pos, f->x.v, 64);
}

static void get_raw(union histogram_field *f, struct bit_reader *r)
{
    f->x.v = bits_get(r, 64);
    f->x.leading = XOR_NO_WINDOW;
    f->x.trailing = 0;
}

static uint64_t put_xor(union histogram_field *f, uint8_t *bytes, uint64_t pos, double v)
{
    uint64_t delta = f->x.v ^ double_bits(v);
    f->x.v = double_bits(v);
    return xor_put(bytes, pos, delta, &f->x.leading, &f->x.trailing);
}

static void get_xor(union histogram_field *f, struct bit_reader *r)
{
    f->x.v = xor_get(r, f->x.v, &f->x.leading, &f->x.trailing);
}

/* --- writing -------------------------------------------------------------------------------------------------------------- */

static uint64_t put_first_int(struct histogram_state *s, uint8_t *bytes, uint64_t pos, const struct histogram *h)
{
    s->count.i.v = (int64_t)h->count_int;
    s->zero.i.v = (int64_t)h->zero_count_int;
    s->count.i.delta = s->zero.i.delta = 0;
    pos = varbit_put_uint(bytes, pos, h->count_int);
    pos = varbit_put_uint(bytes, pos, h->zero_count_int);
    pos = put_raw(&s->sum, bytes, pos, h->sum);
    union histogram_field *f = s->buckets;
    for (uint32_t i = 0; i < h->n_positive; i++, f++) {
        *f = (union histogram_field){.i = {h->positive_deltas[i], 0}};
        pos = varbit_put_int(bytes, pos, f->i.v);
    }
    for (uint32_t i = 0; i < h->n_negative; i++, f++) {
        *f = (union histogram_field){.i = {h->negative_deltas[i], 0}};
        pos = varbit_put_int(bytes, pos, f->i.v);
    }
    return pos;
}

static uint64_t put_next_int(struct histogram_state *s, uint8_t *bytes, uint64_t pos, const struct histogram *h)
{
    if (is_stale_nan(h->sum)) {
        pos = bits_put(bytes, pos, 0, 2); /* two differences of differences that are zero */
        return put_xor(&s->sum, bytes, pos, h->sum);
    }
    pos = put_dod(&s->count, bytes, pos, (int64_t)h->count_int);
    pos = put_dod(&s->zero, bytes, pos, (int64_t)h->zero_count_int);
    pos = put_xor(&s->sum, bytes, pos, h->sum);
    union histogram_field *f = s->buckets;
    for (uint32_t i = 0; i < h->n_positive; i++)
        pos = put_dod(f++, bytes, pos, h->positive_deltas[i]);
    for (uint32_t i = 0; i < h->n_negative; i++)
        pos = put_dod(f++, bytes, pos, h->negative_deltas[i]);
    return pos;
}

static uint64_t put_float(struct histogram_state *s, uint8_t *bytes, uint64_t pos, const struct histogram *h)
{
    uint64_t (*put)(union histogram_field *, uint8_t *, uint64_t, double) = s->n == 0 ? put_raw : put_xor;
    bool stale = is_stale_nan(h->sum);
    pos = put(&s->count, bytes, pos, stale ? 0 : h->count);
    pos = put(&s->zero, bytes, pos, stale ? 0 : h->zero_count);
    pos = put(&s->sum, bytes, pos, h->sum);
    if (stale)
        return pos;
    union histogram_field *f = s->buckets;
    for (uint32_t i = 0; i < h->n_positive; i++)
        pos = put(f++, bytes, pos, h->positive_counts[i]);
    for (uint32_t i = 0; i < h->n_negative; i++)
        pos = put(f++, bytes, pos, h->negative_counts[i]);
    return pos;
}

uint64_t state_put(struct histogram_state *s, uint8_t *bytes, uint64_t pos, int64_t t, const struct histogram *h)
{
    SLOW_ASSERT(is_stale_nan(h->sum) ||
                (h->n_positive == s->layout.n_positive && h->n_negative == s->layout.n_negative));
    if (s->n == 0) {
        s->t_delta = 0;
        pos = varbit_put_int(bytes, pos, t);
        pos = s->is_float ? put_float(s, bytes, pos, h) : put_first_int(s, bytes, pos, h);
    } else {
        int64_t delta = wrap_sub(t, s->t);
        pos = varbit_put_int(bytes, pos, wrap_sub(delta, s->t_delta));
        s->t_delta = delta;
        pos = s->is_float ? put_float(s, bytes, pos, h) : put_next_int(s, bytes, pos, h);
    }
    s->t = t;
    s->n++;
    bytes[0] = (uint8_t)(s->n >> 8);
    bytes[1] = (uint8_t)s->n;
    return pos;
}

/* --- reading -------------------------------------------------------------------------------------------------------------- */

static void get_first(struct histogram_state *s, struct bit_reader *r)
{
    uint32_t n = histogram_n_buckets(&s->layout);
    s->t = varbit_get_int(r);
    s->t_delta = 0;
    if (s->is_float) {
        get_raw(&s->count, r);
        get_raw(&s->zero, r);
    } else {
        s->count = (union histogram_field){.i = {(int64_t)varbit_get_uint(r), 0}};
        s->zero = (union histogram_field){.i = {(int64_t)varbit_get_uint(r), 0}};
    }
    get_raw(&s->sum, r);
    for (uint32_t i = 0; i < n; i++) {
        if (s->is_float)
            get_raw(&s->buckets[i], r);
        else
            s->buckets[i] = (union histogram_field){.i = {varbit_get_int(r), 0}};
    }
}

static void get_next(struct histogram_state *s, struct bit_reader *r)
{
    void (*get)(union histogram_field *, struct bit_reader *) = s->is_float ? get_xor : get_dod;
    uint32_t n = histogram_n_buckets(&s->layout);
    s->t_delta = wrap_add(s->t_delta, varbit_get_int(r));
    s->t = wrap_add(s->t, s->t_delta);
    get(&s->count, r);
    get(&s->zero, r);
    get_xor(&s->sum, r);
    if (s->sum.x.v == STALE_NAN_BITS)
        return;
    for (uint32_t i = 0; i < n; i++)
        get(&s->buckets[i], r);
}

bool state_get(struct histogram_state *s, struct bit_reader *r)
{
    if (s->n == 0)
        get_first(s, r);
    else
        get_next(s, r);
    s->n++;
    return !r->failed;
}

void state_histogram(const struct histogram_state *s, void *buckets, struct histogram *ret)
{
    if (state_is_stale(s)) {
        *ret = (struct histogram){.is_float = s->is_float, .sum = bits_double(s->sum.x.v)};
        return;
    }
    *ret = s->layout;
    ret->is_float = s->is_float;
    ret->sum = bits_double(s->sum.x.v);
    /* Both forms keep their 8 bytes at the same place of the field. */
    ret->count_int = s->count.x.v;
    ret->zero_count_int = s->zero.x.v;
    uint64_t *out = buckets;
    for (uint32_t i = 0; i < histogram_n_buckets(&s->layout); i++)
        out[i] = s->buckets[i].x.v;
    ret->positive_deltas = ret->n_positive ? buckets : NULL;
    ret->negative_deltas = ret->n_negative ? (const int64_t *)buckets + ret->n_positive : NULL;
}

bool histogram_chunk_open(bool is_float, struct slice data, struct arena *arena, struct histogram_state *ret_state,
                          struct bit_reader *ret_reader, uint16_t *ret_n, uint8_t *ret_header, struct err *err)
{
    _Static_assert(offsetof(union histogram_field, i.v) == offsetof(union histogram_field, x.v), "state_histogram needs it");
    if (data.n < HISTOGRAM_HEADER_BITS / 8)
        return err_set(err, ERR_CORRUPT, "histogram chunk: %zu bytes are too few", data.n);
    struct bit_reader r = {(const uint8_t *)data.p, HISTOGRAM_HEADER_BITS, (uint64_t)data.n << 3, false};
    struct histogram_state s = {.is_float = is_float};
    uint16_t n = (uint16_t)(r.p[0] << 8 | r.p[1]);
    if (n) {
        if (!layout_get(&r, arena, &s.layout, err))
            return false;
        /* Time, two counts and the sum are a bit each at the very least. */
        if (bits_left(&r) / 4 < n)
            return err_set(err, ERR_CORRUPT, "histogram chunk: %zu bytes cannot hold %u samples", data.n, n);
        s.buckets = arena_array(arena, MAX(histogram_n_buckets(&s.layout), 1u), sizeof(*s.buckets));
        if (!s.buckets)
            return err_set(err, ERR_NO_MEMORY, "not enough memory for a histogram chunk");
    }
    *ret_state = s;
    *ret_reader = r;
    *ret_n = n;
    *ret_header = r.p[2] & HEADER_MASK;
    return true;
}

static uint8_t hint_of_sample(uint8_t header, uint16_t i)
{
    if (header == HEADER_GAUGE)
        return HISTOGRAM_HINT_GAUGE;
    /* What the header says of the first sample is not trusted: the chunk before it may be gone, or have come later. */
    return i ? HISTOGRAM_HINT_NOT_RESET : HISTOGRAM_HINT_UNKNOWN;
}

bool histogram_chunk_decode(bool is_float, struct slice data, struct arena *arena, struct chunk_columns *ret, struct err *err)
{
    struct histogram_state s;
    struct bit_reader r;
    uint16_t n;
    uint8_t header;
    if (!histogram_chunk_open(is_float, data, arena, &s, &r, &n, &header, err))
        return false;
    int64_t *t = arena_array(arena, MAX(n, 1), sizeof(*t));
    struct histogram *h = arena_array(arena, MAX(n, 1), sizeof(*h));
    uint32_t buckets = histogram_n_buckets(&s.layout);
    bool enough = t && h;
    for (uint16_t i = 0; i < n && enough; i++) {
        if (!state_get(&s, &r))
            return err_set(err, ERR_CORRUPT, "histogram chunk: cut short at sample %u of %u", i, n);
        void *own = NULL;
        if (buckets && !state_is_stale(&s)) {
            own = arena_array(arena, buckets, 8);
            enough = own;
            if (!enough)
                break;
        }
        t[i] = s.t;
        state_histogram(&s, own, &h[i]);
        if (!state_is_stale(&s))
            h[i].hint = hint_of_sample(header, i);
    }
    if (!enough)
        return err_set(err, ERR_NO_MEMORY, "not enough memory for a histogram chunk of %u samples", n);
    *ret = (struct chunk_columns){.n = n, .t = t, .h = h};
    return true;
}
