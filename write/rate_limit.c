#include "write/rate_limit.h"

#include <math.h>

#include "base/assert.h"

#define SECOND_NS 1000000000LL
#define WEIGHT 0.2

double token_bucket_peek(const struct token_bucket *b, int64_t now_ns, double rate, double burst)
{
    if (b->at_ns == 0)
        return burst;
    double seconds = (double)MAX(now_ns - b->at_ns, 0) / SECOND_NS;
    return fmin(burst, b->tokens + seconds * rate);
}

bool token_bucket_take(struct token_bucket *b, int64_t now_ns, double rate, double burst, double n)
{
    if (isinf(rate))
        return true;
    double have = token_bucket_peek(b, now_ns, rate, burst);
    if (n > have)
        return false; /* the state stays: tokens and the time they were counted at */
    b->tokens = have - n;
    b->at_ns = now_ns;
    return true;
}

static void tick(struct moving_rate *r, int64_t now_ns)
{
    if (r->tick_ns == 0)
        r->tick_ns = now_ns;
    /* After a minute of silence nothing of the old average is left: no need to count every tick of a long pause. */
    if (now_ns - r->tick_ns > 60 * SECOND_NS) {
        *r = (struct moving_rate){.tick_ns = now_ns};
        return;
    }
    for (; now_ns - r->tick_ns >= SECOND_NS; r->tick_ns += SECOND_NS) {
        r->per_second = r->started ? r->per_second + WEIGHT * (r->pending - r->per_second) : r->pending;
        r->started = r->started || r->pending > 0;
        r->pending = 0;
    }
}

void moving_rate_add(struct moving_rate *r, int64_t now_ns, double n)
{
    tick(r, now_ns);
    r->pending += n;
}

double moving_rate_get(struct moving_rate *r, int64_t now_ns)
{
    tick(r, now_ns);
    return r->per_second;
}
