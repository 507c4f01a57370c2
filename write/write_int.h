/*
 * The distributor's own struct and its metrics. Private to write/ and its tests.
 */
#pragma once

#include <pthread.h>
#include <stdatomic.h>

#include "write/known_series.h"
#include "write/rate_limit.h"
#include "write/tenants.h"
#include "write/token.h"
#include "write/write.h"

extern const double write_buckets_items[];
extern const double write_buckets_ratio[];

#define METRICS_ROOM write
#define METRICS_DEF "write/write_metrics.def"
#include "base/metrics_table.h"

struct distributor {
    const struct write_config *cfg;         /* not owned; immutable, as are the next five */
    const struct limits_provider *limits;   /* not owned */
    struct plog *log;                       /* not owned; NULL in tests that stop before produce */
    struct partition_watcher *partitions;   /* not owned */
    uint64_t hash_seed;
    bool plain;                             /* the log compresses by itself: records are made plain */
    enum token_kind token_kind;
    struct write_tenants *tenants;          /* owned */
    struct known_budget known_budget;
    atomic_int_fast64_t inflight;           /* any thread, relaxed */
    atomic_int_fast64_t inflight_bytes;     /* any thread, relaxed */
    struct distributor_membership *member;  /* owned; NULL: alone; immutable once it has joined */
    pthread_mutex_t rate_lock;
    struct moving_rate rate;                /* guarded by rate_lock */
};

/* Healthy distributors of the ring, this one among them; at least 1. Looked at once a second; any thread. */
int64_t distributor_n_healthy(struct distributor *d);
/* distributor_leave, and forgets the ring. */
void distributor_membership_free(struct distributor_membership *m);

/* Items taken in, for the moving average; and that average. Any thread. */
void distributor_count_items(struct distributor *d, uint64_t n);
double distributor_rate(struct distributor *d);
