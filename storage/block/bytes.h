/*
 * Numbers of the block formats (docs/formats.md 6): big endian words, varints as Go's. A reader never goes past its end: what is missing reads as 0 and sets
 * `bad`, which is checked once an entry.
 */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/slice.h"

struct dec {
    const uint8_t *p;
    const uint8_t *end;
    bool bad;
};

static inline struct dec dec_of(const uint8_t *p, size_t n)
{
    return (struct dec){p, p + n, false};
}

static inline uint32_t get_be32(const uint8_t *p)
{
    return (uint32_t)p[0] << 24 | (uint32_t)p[1] << 16 | (uint32_t)p[2] << 8 | p[3];
}

static inline uint64_t get_be64(const uint8_t *p)
{
    return (uint64_t)get_be32(p) << 32 | get_be32(p + 4);
}

static inline void put_be32(uint8_t *p, uint32_t v)
{
    p[0] = (uint8_t)(v >> 24);
    p[1] = (uint8_t)(v >> 16);
    p[2] = (uint8_t)(v >> 8);
    p[3] = (uint8_t)v;
}

static inline size_t dec_left(const struct dec *d)
{
    return (size_t)(d->end - d->p);
}

static inline uint64_t dec_uvarint(struct dec *d)
{
    uint64_t v = 0;
    for (unsigned shift = 0; shift < 64 && d->p < d->end; shift += 7) {
        uint8_t c = *d->p++;
        v |= (uint64_t)(c & 0x7F) << shift;
        if (c < 0x80) {
            d->bad |= shift == 63 && c > 1;
            return v;
        }
    }
    d->bad = true;
    return 0;
}

static inline int64_t dec_varint(struct dec *d)
{
    uint64_t u = dec_uvarint(d);
    return (int64_t)(u >> 1 ^ (0 - (u & 1)));
}

/* A length and as many bytes. */
static inline struct slice dec_str(struct dec *d)
{
    uint64_t n = dec_uvarint(d);
    if (d->bad || n > dec_left(d)) {
        d->bad = true;
        return slice_make(NULL, 0);
    }
    struct slice s = slice_make(d->p, (size_t)n);
    d->p += n;
    return s;
}

#define UVARINT_MAX_BYTES 10

static inline size_t put_uvarint(uint8_t *p, uint64_t v)
{
    size_t n = 0;
    for (; v >= 0x80; v >>= 7)
        p[n++] = (uint8_t)(v | 0x80);
    p[n++] = (uint8_t)v;
    return n;
}

static inline size_t uvarint_size(uint64_t v)
{
    size_t n = 1;
    for (; v >= 0x80; v >>= 7)
        n++;
    return n;
}

static inline uint64_t zigzag(int64_t v)
{
    return (uint64_t)v << 1 ^ (v < 0 ? UINT64_MAX : 0);
}
