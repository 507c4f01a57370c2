/*
 * Bit streams and the number codes of chunks (docs/formats.md 6.6). Bits go from the most significant down; the last byte is padded with zeros.
 *
 * Writing is in place and unchecked: the caller has made room for 8 bytes past the last one that gets a bit. A write keeps the bits
 * before its position, and clears what follows in the bytes it touches, so that the bytes are always a finished stream.
 * Reading is checked: past the end it gives zeros and sets `failed`, which is looked at once a sample.
 */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include "base/assert.h"

static inline uint64_t load_be64(const uint8_t *p)
{
    uint64_t v;
    memcpy(&v, p, 8);
    return __builtin_bswap64(v);
}

static inline void store_be64(uint8_t *p, uint64_t v)
{
    v = __builtin_bswap64(v);
    memcpy(p, &v, 8);
}

static inline uint64_t double_bits(double v)
{
    uint64_t bits;
    memcpy(&bits, &v, 8);
    return bits;
}

static inline double bits_double(uint64_t bits)
{
    double v;
    memcpy(&v, &bits, 8);
    return v;
}

/* Differences wrap around, as Go's do; so that corrupt or absurd input is no undefined behaviour here. */
static inline int64_t wrap_sub(int64_t a, int64_t b) { return (int64_t)((uint64_t)a - (uint64_t)b); }
static inline int64_t wrap_add(int64_t a, int64_t b) { return (int64_t)((uint64_t)a + (uint64_t)b); }

/* --- writing -------------------------------------------------------------------------------------------------------------- */

/* The low n bits of v (all others zero), 1 <= n <= 64, at bit `pos`. Returns the position behind them. */
static inline uint64_t bits_put(uint8_t *bytes, uint64_t pos, uint64_t v, unsigned n)
{
    uint8_t *p = bytes + (pos >> 3);
    unsigned used = (unsigned)(pos & 7);
    uint64_t left = v << (64 - n);
    uint64_t keep = (uint64_t)(*p & (uint8_t)(0xFF00u >> used)) << 56;
    store_be64(p, keep | left >> used);
    if (used + n > 64)
        p[8] = (uint8_t)(left << (8 - used));
    return pos + n;
}

/* Does v fit the code's range of n bits: -(2^(n-1) - 1) <= v <= 2^(n-1)? */
static inline bool bits_in_range(int64_t v, unsigned n)
{
    return v >= -((INT64_C(1) << (n - 1)) - 1) && v <= INT64_C(1) << (n - 1);
}

/* Payload sizes of varbit_int and varbit_uint by the number of ones in the prefix; 8 ones have no closing zero. */
static const uint8_t varbit_sizes[9] = {0, 3, 6, 9, 12, 18, 25, 56, 64};

static inline uint64_t varbit_put_prefix(uint8_t *bytes, uint64_t pos, unsigned ones, uint64_t payload)
{
    unsigned n = varbit_sizes[ones];
    uint64_t prefix = ones == 8 ? 0xFF : ((UINT64_C(1) << ones) - 1) << 1;
    pos = bits_put(bytes, pos, prefix, ones == 8 ? 8 : ones + 1);
    return bits_put(bytes, pos, n == 64 ? payload : payload & ((UINT64_C(1) << n) - 1), n);
}

static inline uint64_t varbit_put_int(uint8_t *bytes, uint64_t pos, int64_t v)
{
    if (v == 0)
        return bits_put(bytes, pos, 0, 1);
    unsigned ones = 1;
    while (ones < 8 && !bits_in_range(v, varbit_sizes[ones]))
        ones++;
    return varbit_put_prefix(bytes, pos, ones, (uint64_t)v);
}

static inline uint64_t varbit_put_uint(uint8_t *bytes, uint64_t pos, uint64_t v)
{
    if (v == 0)
        return bits_put(bytes, pos, 0, 1);
    unsigned ones = 1;
    while (ones < 8 && v >> varbit_sizes[ones])
        ones++;
    return varbit_put_prefix(bytes, pos, ones, v);
}

/* The window of significant bits that XOR values share until one does not fit it. */
#define XOR_NO_WINDOW 0xFF

static inline uint64_t xor_put(uint8_t *bytes, uint64_t pos, uint64_t delta, uint8_t *leading, uint8_t *trailing)
{
    if (delta == 0)
        return bits_put(bytes, pos, 0, 1);
    unsigned lead = (unsigned)__builtin_clzll(delta);
    unsigned trail = (unsigned)__builtin_ctzll(delta);
    if (lead > 31)
        lead = 31; /* five bits say it */
    if (*leading != XOR_NO_WINDOW && lead >= *leading && trail >= *trailing) {
        pos = bits_put(bytes, pos, 2, 2);
        return bits_put(bytes, pos, delta >> *trailing, 64u - *leading - *trailing);
    }
    unsigned sig = 64 - lead - trail;
    *leading = (uint8_t)lead;
    *trailing = (uint8_t)trail;
    pos = bits_put(bytes, pos, 3u << 11 | lead << 6 | (sig & 63), 13);
    return bits_put(bytes, pos, delta >> trail, sig);
}

/* --- reading -------------------------------------------------------------------------------------------------------------- */

struct bit_reader {
    const uint8_t *p;
    uint64_t pos;
    uint64_t end; /* bits */
    bool failed;
};

static inline uint64_t bits_left(const struct bit_reader *r) { return r->end - r->pos; }

/* The next 8 bytes from the byte of `pos` on, then one more: zeros past the end. */
static inline uint64_t bits_window(const struct bit_reader *r, uint8_t *ret_ninth)
{
    size_t at = r->pos >> 3, n = r->end >> 3;
    uint8_t tail[9] = {0};
    if (LIKELY(n - at >= 9)) {
        *ret_ninth = r->p[at + 8];
        return load_be64(r->p + at);
    }
    memcpy(tail, r->p + at, n - at);
    *ret_ninth = tail[8];
    return load_be64(tail);
}

/* 0 <= n <= 64 bits. */
static inline uint64_t bits_get(struct bit_reader *r, unsigned n)
{
    if (UNLIKELY(bits_left(r) < n)) {
        r->failed = true;
        r->pos = r->end;
        return 0;
    }
    if (n == 0)
        return 0;
    uint8_t ninth;
    unsigned used = (unsigned)(r->pos & 7);
    uint64_t w = bits_window(r, &ninth) << used;
    if (used + n > 64)
        w |= (uint64_t)ninth >> (8 - used);
    r->pos += n;
    return w >> (64 - n);
}

/* The prefix of ones of a varbit code, its closing zero included; and the number of payload bits. */
static inline unsigned varbit_get_size(struct bit_reader *r)
{
    uint8_t ninth;
    uint64_t w = bits_window(r, &ninth) << (r->pos & 7);
    unsigned ones = w == UINT64_MAX ? 8 : (unsigned)__builtin_clzll(~w);
    if (ones > 8)
        ones = 8;
    bits_get(r, ones == 8 ? 8 : ones + 1);
    return varbit_sizes[ones];
}

static inline int64_t varbit_get_int(struct bit_reader *r)
{
    unsigned n = varbit_get_size(r);
    uint64_t v = bits_get(r, n);
    if (n != 0 && n != 64 && v > UINT64_C(1) << (n - 1))
        v -= UINT64_C(1) << n;
    return (int64_t)v;
}

static inline uint64_t varbit_get_uint(struct bit_reader *r)
{
    return bits_get(r, varbit_get_size(r));
}

/* The value behind `old`. A reused window that was never set spans all 64 bits, as Prometheus's reader has it. */
static inline uint64_t xor_get(struct bit_reader *r, uint64_t old, uint8_t *leading, uint8_t *trailing)
{
    if (bits_get(r, 1) == 0)
        return old;
    if (bits_get(r, 1)) {
        unsigned head = (unsigned)bits_get(r, 11);
        unsigned lead = head >> 6, sig = head & 63 ? head & 63 : 64;
        if (lead + sig > 64) {
            r->failed = true;
            return old;
        }
        *leading = (uint8_t)lead;
        *trailing = (uint8_t)(64 - lead - sig);
    } else if (*leading == XOR_NO_WINDOW) {
        *leading = *trailing = 0;
    }
    return old ^ bits_get(r, 64u - *leading - *trailing) << *trailing;
}
