/*
 * XOR chunks: Facebook's Gorilla encoding (VLDB 2015) as Prometheus writes it.
 *
 *     u16 big-endian: number of samples
 *     sample 0:  time as zigzag varint (bytes), 64 bits of the value
 *     sample 1:  difference of times as uvarint (bytes), value code
 *     sample n:  time code of the difference of differences, value code
 *     time code: 0 -> '0'; else by range of 14, 17, 20 bits '10' '110' '1110' + bits; else '1111' + 64 bits
 *     value code: XOR with the value before: '0' equal; '10' + bits in the window of before; '11' + 5 bits leading zeros + 6 bits
 *                 number of significant bits (64 as 0) + those
 *
 * Two functions own the cost: xor_append (at most four 8-byte stores) and decode_run, which reads all that a usual sample needs with
 * one 8-byte load, and its value with a second. The loads reach at most 21 bytes past the byte a sample begins in, so the loop
 * runs on the chunk itself until 24 bytes are left, and then on a zero-padded copy of these: no bounds check a load, only one a
 * sample. Bits read past the end are noticed by the position.
 */
#include "storage/chunk/chunk.h"

#include "base/assert.h"
#include "storage/chunk/bits_int.h"

#define HEADER_BITS 16
#define VARINT_MAX 10
#define TAIL_BYTES 24

void xor_appender_init(struct xor_appender *a)
{
    *a = (struct xor_appender){.bits = HEADER_BITS, .leading = XOR_NO_WINDOW};
}

/* The stream is at a byte boundary where varints are. */
static uint64_t put_uvarint(uint8_t *bytes, uint64_t pos, uint64_t v)
{
    for (; v >= 0x80; v >>= 7)
        pos = bits_put(bytes, pos, (v & 0x7F) | 0x80, 8);
    return bits_put(bytes, pos, v, 8);
}

static inline uint64_t put_time(uint8_t *bytes, uint64_t pos, int64_t dod)
{
    if (LIKELY(dod == 0))
        return bits_put(bytes, pos, 0, 1);
    if (bits_in_range(dod, 14))
        return bits_put(bytes, pos, UINT64_C(2) << 14 | ((uint64_t)dod & 0x3FFF), 16);
    if (bits_in_range(dod, 17))
        return bits_put(bytes, pos, UINT64_C(6) << 17 | ((uint64_t)dod & 0x1FFFF), 20);
    if (bits_in_range(dod, 20))
        return bits_put(bytes, pos, UINT64_C(14) << 20 | ((uint64_t)dod & 0xFFFFF), 24);
    pos = bits_put(bytes, pos, 15, 4);
    return bits_put(bytes, pos, (uint64_t)dod, 64);
}

void xor_append(struct xor_appender *a, uint8_t *bytes, int64_t t, double v)
{
    uint64_t value = double_bits(v);
    uint64_t pos = (uint64_t)a->bits;
    ASSERT(a->n < UINT16_MAX);
    if (LIKELY(a->n > 1)) {
        uint64_t delta = (uint64_t)t - (uint64_t)a->t;
        pos = put_time(bytes, pos, (int64_t)(delta - a->t_delta));
        pos = xor_put(bytes, pos, value ^ a->v, &a->leading, &a->trailing);
        a->t_delta = delta;
    } else if (a->n == 1) {
        a->t_delta = (uint64_t)t - (uint64_t)a->t;
        pos = put_uvarint(bytes, pos, a->t_delta);
        pos = xor_put(bytes, pos, value ^ a->v, &a->leading, &a->trailing);
    } else {
        pos = put_uvarint(bytes, pos, ((uint64_t)t << 1) ^ (uint64_t)(t >> 63));
        pos = bits_put(bytes, pos, value, 64);
    }
    a->t = t;
    a->v = value;
    a->bits = (int32_t)pos;
    a->n++;
    bytes[0] = (uint8_t)(a->n >> 8);
    bytes[1] = (uint8_t)a->n;
}

/* --- reading -------------------------------------------------------------------------------------------------------------- */

int xor_count(struct slice data)
{
    if (data.n < 2)
        return -1;
    return (uint8_t)data.p[0] << 8 | (uint8_t)data.p[1];
}

/* What a decoder knows after a sample: enough to go on appending. */
struct decoder {
    int64_t t;
    uint64_t v;
    uint64_t t_delta;
    uint64_t pos; /* bits from the begin of the chunk */
    uint8_t leading;
    uint8_t trailing;
    bool window; /* some value has set or used the window */
};

static bool get_uvarint(struct slice data, uint64_t *pos, uint64_t *ret)
{
    uint64_t v = 0;
    size_t at = *pos >> 3;
    for (unsigned i = 0; i < VARINT_MAX && at < data.n; i++) {
        uint8_t b = (uint8_t)data.p[at++];
        if (i == VARINT_MAX - 1 && b > 1)
            return false;
        v |= (uint64_t)(b & 0x7F) << (7 * i);
        if (b < 0x80) {
            *pos = (uint64_t)at << 3;
            *ret = v;
            return true;
        }
    }
    return false;
}

/* The first two samples are unlike the rest; up to two of them are read here, with checked reads. */
static bool decode_start(struct decoder *d, struct slice data, int n, int64_t *ret_t, double *ret_v)
{
    uint64_t u;
    *d = (struct decoder){.pos = HEADER_BITS};
    if (!get_uvarint(data, &d->pos, &u))
        return false;
    struct bit_reader r = {(const uint8_t *)data.p, d->pos, (uint64_t)data.n << 3, false};
    d->t = (int64_t)((u >> 1) ^ (0 - (u & 1)));
    d->v = bits_get(&r, 64);
    if (ret_t) {
        ret_t[0] = d->t;
        ret_v[0] = bits_double(d->v);
    }
    if (n > 1 && !r.failed) {
        if (!get_uvarint(data, &r.pos, &d->t_delta))
            return false;
        d->t = wrap_add(d->t, (int64_t)d->t_delta);
        d->leading = XOR_NO_WINDOW;
        d->v = xor_get(&r, d->v, &d->leading, &d->trailing);
        d->window = d->leading != XOR_NO_WINDOW;
        if (!d->window)
            d->leading = 0;
        if (ret_t) {
            ret_t[1] = d->t;
            ret_v[1] = bits_double(d->v);
        }
    }
    d->pos = r.pos;
    return !r.failed;
}

/* How many bits follow the prefix of a time code, by its number of ones. */
static const uint8_t time_sizes[5] = {0, 14, 17, 20, 64};

/* The 64 bits at pos; nine bytes are read. */
static inline uint64_t load_bits(const uint8_t *p, uint64_t pos)
{
    p += pos >> 3;
    unsigned used = (unsigned)(pos & 7);
    return load_be64(p) << used | (uint64_t)p[8] >> (8 - used);
}

/*
 * Samples [from, n) while they begin before bit `limit` of p. Returns the index behind the last one read, or -1 on an impossible
 * window. The bytes at p must be readable up to 21 past the one of `limit`.
 */
static inline __attribute__((always_inline)) int decode_run(struct decoder *ret_d, const uint8_t *p, uint64_t limit, int from,
                                                            int n, int64_t *ret_t, double *ret_v)
{
    struct decoder d = *ret_d;
    int i = from;
    for (; i < n && d.pos < limit; i++) {
        uint64_t w = load_be64(p + (d.pos >> 3)) << (d.pos & 7); /* at least 57 bits are true */
        if (w >> 63 == 0) {
            w <<= 1;
            d.pos += 1;
        } else {
            unsigned ones = (unsigned)__builtin_clzll(~w | UINT64_C(1) << 59);
            unsigned size = time_sizes[ones];
            if (ones == 4) {
                d.t_delta += load_bits(p, d.pos + 4);
                d.pos += 4 + 64;
                w = load_be64(p + (d.pos >> 3)) << (d.pos & 7);
            } else {
                uint64_t bits = w << (ones + 1) >> (64 - size);
                if (bits > UINT64_C(1) << (size - 1))
                    bits -= UINT64_C(1) << size;
                d.t_delta += bits;
                d.pos += ones + 1 + size;
                w <<= ones + 1 + size; /* 33 bits or more are left, 13 are needed */
            }
        }
        d.t = wrap_add(d.t, (int64_t)d.t_delta);
        if (w >> 63 == 0) {
            d.pos += 1;
        } else {
            unsigned sig;
            if (w >> 62 == 3) {
                unsigned head = (unsigned)(w >> 51) & 0x7FF;
                unsigned lead = head >> 6;
                sig = head & 63 ? head & 63 : 64;
                if (UNLIKELY(lead + sig > 64))
                    return -1;
                d.leading = (uint8_t)lead;
                d.trailing = (uint8_t)(64 - lead - sig);
                d.pos += 13;
                w <<= 13;
            } else {
                sig = 64u - d.leading - d.trailing;
                d.pos += 2;
            }
            d.window = true;
            d.v ^= load_bits(p, d.pos) >> (64 - sig) << d.trailing;
            d.pos += sig;
        }
        if (ret_t) {
            ret_t[i] = d.t;
            ret_v[i] = bits_double(d.v);
        }
    }
    *ret_d = d;
    return i;
}

/* Decodes the whole chunk of n samples; ret_t and ret_v may both be NULL. */
static inline __attribute__((always_inline)) bool decode_all(struct decoder *d, struct slice data, int n, int64_t *ret_t,
                                                             double *ret_v)
{
    if (!decode_start(d, data, n, ret_t, ret_v))
        return false;
    int i = n < 2 ? n : 2;
    if (data.n > TAIL_BYTES) {
        i = decode_run(d, (const uint8_t *)data.p, (uint64_t)(data.n - TAIL_BYTES) << 3, i, n, ret_t, ret_v);
        if (i < 0)
            return false;
    }
    uint64_t end = (uint64_t)data.n << 3;
    if (d->pos > end)
        return false;
    if (i < n) {
        uint8_t tail[2 * TAIL_BYTES + 8] = {0};
        size_t skip = d->pos >> 3;
        memcpy(tail, data.p + skip, data.n - skip);
        d->pos -= (uint64_t)skip << 3;
        i = decode_run(d, tail, (uint64_t)(data.n - skip) << 3, i, n, ret_t, ret_v);
        d->pos += (uint64_t)skip << 3;
    }
    return i == n && d->pos <= end;
}

int xor_decode(struct slice data, int64_t *ret_t, double *ret_v, size_t cap)
{
    struct decoder d;
    int n = xor_count(data);
    if (n <= 0)
        return n;
    if ((size_t)n > cap || !decode_all(&d, data, n, ret_t, ret_v))
        return -1;
    return n;
}

bool xor_resume(struct xor_appender *a, struct slice data)
{
    struct decoder d;
    int n = xor_count(data);
    xor_appender_init(a);
    if (data.n == 0)
        return true;
    if (n <= 0)
        return n == 0;
    if (data.n > (size_t)INT32_MAX / 8 || !decode_all(&d, data, n, NULL, NULL))
        return false;
    *a = (struct xor_appender){
        .t = d.t,
        .v = d.v,
        .bits = (int32_t)d.pos,
        .n = (uint16_t)n,
        .leading = d.window ? d.leading : XOR_NO_WINDOW,
        .trailing = d.trailing,
        .t_delta = d.t_delta,
    };
    return true;
}

/* --- joining -------------------------------------------------------------------------------------------------------------- */

static void skip_time(struct bit_reader *r)
{
    unsigned ones = 0;
    while (ones < 4 && bits_get(r, 1))
        ones++;
    bits_get(r, time_sizes[ones]);
}

/* With r at the value of sample 1: does the first value that differs from the one before say its window, as every appender's does? */
static bool sets_its_window(struct bit_reader r, int n)
{
    for (int i = 1; i < n; i++) {
        if (i > 1)
            skip_time(&r);
        if (bits_get(&r, 1))
            return bits_get(&r, 1) && !r.failed;
    }
    return !r.failed;
}

static uint64_t copy_bits(uint8_t *bytes, uint64_t pos, struct bit_reader *r)
{
    while (bits_left(r) >= 64)
        pos = bits_put(bytes, pos, bits_get(r, 64), 64);
    unsigned rest = (unsigned)bits_left(r);
    return rest ? bits_put(bytes, pos, bits_get(r, rest), rest) : pos;
}

bool xor_join(struct slice a, struct slice b, uint8_t *bytes, size_t *ret_n)
{
    struct xor_appender end;
    struct decoder d;
    uint64_t u, delta_1 = 0;
    int n_a = xor_count(a), n_b = xor_count(b);
    if (n_a <= 0 || n_b <= 0 || n_a + n_b > UINT16_MAX || !xor_resume(&end, a) || !decode_start(&d, b, 1, NULL, NULL) || d.t <= end.t)
        return false;
    u = d.pos;
    if (n_b > 1 && !get_uvarint(b, &u, &delta_1))
        return false;
    struct bit_reader rest = {(const uint8_t *)b.p, u, (uint64_t)b.n << 3, false};
    if (!sets_its_window(rest, n_b))
        return false;
    memcpy(bytes, a.p, xor_size(&end));
    uint64_t pos = (uint64_t)end.bits, delta = (uint64_t)d.t - (uint64_t)end.t;
    uint8_t leading = XOR_NO_WINDOW, trailing = 0;
    pos = n_a == 1 ? put_uvarint(bytes, pos, delta) : put_time(bytes, pos, (int64_t)(delta - end.t_delta));
    pos = xor_put(bytes, pos, d.v ^ end.v, &leading, &trailing);
    if (n_b > 1) {
        pos = put_time(bytes, pos, (int64_t)(delta_1 - delta));
        pos = copy_bits(bytes, pos, &rest);
    }
    bytes[0] = (uint8_t)((n_a + n_b) >> 8);
    bytes[1] = (uint8_t)(n_a + n_b);
    *ret_n = (size_t)(pos + 7) / 8;
    return true;
}
