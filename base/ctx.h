/*
 * What travels with one request or query: who asks, how long, whether anybody still listens, and its memory.
 *
 * Owned by the request's thread. `canceled` is atomic: set by the HTTP server when the client goes away (writer: any
 * thread, relaxed), read by long loops through ctx_check about every millisecond of work.
 */
#pragma once

#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

#include "base/arena.h"
#include "base/err.h"
#include "base/slice.h"

struct ctx {
    struct slice tenant;     /* "" where no tenant applies */
    int64_t deadline_ms;     /* monotonic clock (clock_mono_ms); 0 = none */
    atomic_bool *canceled;   /* NULL = cannot be canceled */
    struct arena *arena;     /* memory of the request */
};

/* True while the work may go on; else sets ERR_CANCELED ("context canceled") or ERR_TIMEOUT ("context deadline exceeded"). */
bool ctx_check(const struct ctx *ctx, struct err *err);
