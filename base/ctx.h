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

/* Something that a request carries along, to other processes too (as gRPC metadata). Names are lower case. */
struct ctx_tag {
    struct slice name;
    struct slice value;
};

struct ctx {
    struct slice tenant;     /* "" where no tenant applies */
    int64_t deadline_ms;     /* monotonic clock (clock_mono_ms); 0 = none */
    atomic_bool *canceled;   /* NULL = cannot be canceled */
    struct arena *arena;     /* memory of the request */
    const struct ctx_tag *tags;
    size_t n_tags;
};

/* The value of the first tag of this name; p == NULL when there is none. */
struct slice ctx_tag_find(const struct ctx *ctx, struct slice name);
/* Adds one behind the others; name and value stay the caller's, and the list that was there before is left alone. False: the arena is used up. */
bool ctx_tag_add(struct ctx *ctx, struct slice name, struct slice value);

/* True while the work may go on; else sets ERR_CANCELED ("context canceled") or ERR_TIMEOUT ("context deadline exceeded"). */
bool ctx_check(const struct ctx *ctx, struct err *err);
