/* Random data that is the same on every run: xorshift64*. */
#pragma once

#include <math.h>
#include <stdint.h>
#include <string.h>

#include "model/histogram.h"

struct rnd {
    uint64_t s;
};

static inline uint64_t rnd_next(struct rnd *r)
{
    r->s ^= r->s >> 12;
    r->s ^= r->s << 25;
    r->s ^= r->s >> 27;
    return r->s * UINT64_C(0x2545F4914F6CDD1D);
}

static inline uint64_t rnd_below(struct rnd *r, uint64_t n)
{
    return (rnd_next(r) >> 11) % n;
}

/* Any bits, and more often than chance would have it: special values, small integers, values like the one before. */
static inline double rnd_double(struct rnd *r, double before)
{
    static const double special[] = {0, -0.0, INFINITY, -INFINITY, NAN, 1, -1, 5e-324, 1.7976931348623157e308, 0.1};
    uint64_t bits = rnd_next(r);
    double v;
    switch (rnd_below(r, 8)) {
    case 0: return special[rnd_below(r, sizeof(special) / sizeof(special[0]))];
    case 1: return stale_nan();
    case 2: return before;
    case 3: return before + 1;
    case 4: return (double)rnd_below(r, 100000);
    case 5: return (double)rnd_below(r, 1000) / 8;
    case 6: bits &= ~UINT64_C(0) << rnd_below(r, 64); break;
    default: break;
    }
    memcpy(&v, &bits, 8);
    return v;
}
