/*
 * Token bucket with the meaning of Go's x/time/rate, which Mimir's limits are made of: it starts full, refills by `rate` a second up to `burst`, and
 * a request takes all its items or none. Private to write/. Guarded by its owner's lock.
 */
#pragma once

#include <stdbool.h>
#include <stdint.h>

struct token_bucket {
    double tokens;
    int64_t at_ns; /* monotonic; 0 = never used: full */
};

/* Rate and burst may change from call to call. */
bool token_bucket_take(struct token_bucket *b, int64_t now_ns, double rate, double burst, double n);
/* What could be taken now. */
double token_bucket_peek(const struct token_bucket *b, int64_t now_ns, double rate, double burst);

/* Moving average of events a second: ticks of one second, the newest weighs 0.2, as dskit's. Guarded by its owner's lock. */
struct moving_rate {
    int64_t tick_ns;
    double pending;
    double per_second;
    bool started;
};
void moving_rate_add(struct moving_rate *r, int64_t now_ns, double n);
double moving_rate_get(struct moving_rate *r, int64_t now_ns);
