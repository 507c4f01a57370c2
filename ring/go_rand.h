/*
 * Go's math/rand generator, bit for bit, and its seeds: shuffle shards must come out as Mimir's. Private to the rings and their tests.
 *
 * An additive lagged Fibonacci generator over 64-bit words, lengths 607 and 273 (docs/formats.md 3.5). Owned by one thread.
 */
#pragma once

#include <stdint.h>

#include "base/slice.h"

#define GO_RAND_LEN 607

struct go_rand {
    uint64_t vec[GO_RAND_LEN];
    uint32_t tap;
    uint32_t feed;
};

void go_rand_seed(struct go_rand *r, int64_t seed);
uint64_t go_rand_u64(struct go_rand *r);

static inline int64_t go_rand_int63(struct go_rand *r)
{
    return (int64_t)(go_rand_u64(r) & INT64_MAX);
}

static inline uint32_t go_rand_u32(struct go_rand *r)
{
    return (uint32_t)(go_rand_int63(r) >> 31);
}

/* The table that seeds are mixed with; computed once, about 10 ms. */
const uint64_t *go_rand_cooked(void);

/* What Mimir seeds it with: the first 8 bytes of the MD5 of id, or of id, a zero byte and the zone when there is one (docs/formats.md 3.4). */
int64_t shuffle_seed(struct slice id, struct slice zone);
