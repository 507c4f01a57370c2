/* A partitions ring in this process for a distributor: n ACTIVE partitions, whose states a test may change. */
#pragma once

#include <stdlib.h>
#include <time.h>

#include "base/assert.h"
#include "base/clock.h"
#include "partition-ring/partition_ring_int.h"
#include "partition-ring/partition_view.h"

#define PARTITIONS_KEY "collectors/ingester-partitions"

struct partitions {
    struct kv *kv;
    struct partition_watcher *watcher;
};

struct partitions_wish {
    int32_t n;
    const enum partition_state *states; /* NULL: all ACTIVE */
};

static inline enum kv_cas partitions_change(void *arg, void **value, struct err *err)
{
    (void)err;
    const struct partitions_wish *wish = arg;
    struct partition_desc *d = *value ? *value : partition_desc_new();
    uint32_t *tokens = malloc((size_t)MAX(wish->n, 1) * PARTITION_TOKENS * sizeof(*tokens));
    ASSERT(tokens);
    if (wish->n)
        partition_tokens_all(wish->n, tokens);
    for (int32_t i = 0; i < wish->n; i++) {
        struct partition *p = partition_desc_add(d, i);
        p->state = (int32_t)(wish->states ? wish->states[i] : PARTITION_ACTIVE);
        p->state_s = p->state_s ? p->state_s + 1 : clock_wall_ms() / 1000;
        if (p->n_tokens == 0)
            partition_set_tokens(p, tokens + (size_t)i * PARTITION_TOKENS, PARTITION_TOKENS);
    }
    free(tokens);
    *value = d;
    return KV_CAS_STORE;
}

/* The writers' ring of now, with a reference. */
static inline struct partition_ring *partitions_ring(struct partitions *p)
{
    struct partition_view *v = partition_watcher_current(p->watcher);
    struct partition_ring *ring = partition_ring_ref(partition_view_writers(v));
    partition_view_free(v);
    return ring;
}

static inline size_t partitions_n_active(struct partitions *p)
{
    struct partition_ring *ring = partitions_ring(p);
    size_t n = (size_t)partition_ring_count(ring);
    partition_ring_free(ring);
    return n;
}

/* Returns when the watcher has it. */
static inline void partitions_set(struct partitions *p, int32_t n, const enum partition_state *states)
{
    struct partitions_wish wish = {n, states};
    bool ok = kv_cas(p->kv, SL(PARTITIONS_KEY), &partition_desc_codec, partitions_change, &wish, NULL);
    ASSERT(ok);
    size_t active = 0;
    for (int32_t i = 0; i < n; i++)
        active += !states || states[i] == PARTITION_ACTIVE;
    while (partitions_n_active(p) != active)
        nanosleep(&(struct timespec){.tv_nsec = 1000000}, NULL);
}

static inline void partitions_start(struct partitions *p, int32_t n)
{
    p->kv = kv_inmemory_new(4);
    p->watcher = partition_watcher_new(p->kv, SL(PARTITIONS_KEY), NULL);
    ASSERT(p->watcher);
    partitions_set(p, n, NULL);
}

static inline void partitions_stop(struct partitions *p)
{
    partition_watcher_free(p->watcher);
    kv_free(p->kv);
}
