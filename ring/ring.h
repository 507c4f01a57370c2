/*
 * The instance ring as its readers see it: who is healthy, who owns a key, whom to ask for a complete answer.
 *
 * A struct ring follows one key of a store. Readers take a snapshot: immutable, refcounted, good for as long as they hold it, whatever the ring becomes
 * meanwhile. Health is judged when it is asked, by the time that is passed in: a snapshot ages well.
 * Any thread may call everything here.
 */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/err.h"
#include "ring/desc.h"
#include "ring/kv.h"

struct ring_config {
    size_t replication_factor;    /* at least 1 */
    int64_t heartbeat_timeout_ms; /* 0: heartbeats do not matter */
    bool zone_awareness;
    /*
     * Zones that are treated as if they were not there, for moving out of one: their instances get no keys and are not asked. Must outlive the ring and its
     * snapshots.
     */
    const char *const *excluded_zones;
    size_t n_excluded_zones;
    /* name of the metrics cortex_ring_*, "ingester" or "distributor"; one ring of a name in a process. NULL: none. Must outlive the ring. */
    const char *name;
};

/* What an operation asks of an instance; sets of enum ring_state as bits. */
struct ring_op {
    uint8_t healthy; /* states that can do it */
    uint8_t extend;  /* states in which an instance is chosen and one more beside it */
};
extern const struct ring_op ring_op_write;     /* ACTIVE; others are extended */
extern const struct ring_op ring_op_read;      /* ACTIVE, PENDING, LEAVING; JOINING and PENDING are extended */
extern const struct ring_op ring_op_reporting; /* all but LEFT, no extension */
/* Of the ring of store-gateways. Who can be asked for a block: ACTIVE; whoever is anything else stands beside the next, who has kept the block. */
extern const struct ring_op ring_op_blocks_read;
extern const struct ring_op ring_op_blocks_owner_sync; /* who shall have a block: JOINING, ACTIVE, LEAVING; no extension */
extern const struct ring_op ring_op_blocks_owner_read; /* who shall have it and can be asked: ACTIVE; no extension */

/*
 * Whom to ask. Without zones all but max_errors must answer; with zones all instances of all but max_unavailable_zones zones.
 * The instances belong to the snapshot; the array is freed by replication_set_release.
 */
struct replication_set {
    const struct ring_instance **instances;
    size_t n;
    size_t max_errors;
    size_t max_unavailable_zones;
    bool zone_aware;
};
void replication_set_release(struct replication_set *set);

struct ring_snapshot;

/* Takes d. One reference. */
struct ring_snapshot *ring_snapshot_new(struct ring_desc *d, const struct ring_config *config);
struct ring_snapshot *ring_snapshot_ref(struct ring_snapshot *s);
/* Gives one reference back; NULL is fine. */
void ring_snapshot_free(struct ring_snapshot *s);
const struct ring_desc *ring_snapshot_desc(const struct ring_snapshot *s);

bool ring_snapshot_is_healthy(const struct ring_snapshot *s, const struct ring_instance *in, const struct ring_op *op,
                              int64_t now_ms);
/*
 * The replicas of a key: the owners of the first tokens greater than the key, each instance and (with zones) each zone once. ERR_UNAVAILABLE when the
 * ring is empty or fewer than a quorum of them are healthy.
 */
bool ring_snapshot_get(const struct ring_snapshot *s, uint32_t key, const struct ring_op *op, int64_t now_ms,
                       struct replication_set *ret, struct err *err);
/*
 * The same however few are healthy, for what every replica has as a whole (blocks of a bucket): one answer is enough. max_errors is all but one.
 * ERR_UNAVAILABLE when the ring is empty or none of them is healthy.
 */
bool ring_snapshot_get_healthy(const struct ring_snapshot *s, uint32_t key, const struct ring_op *op, int64_t now_ms,
                               struct replication_set *ret, struct err *err);
/* All healthy instances, with how many may fail for the answer still to hold every key. ERR_UNAVAILABLE when too many are unhealthy. */
bool ring_snapshot_get_all(const struct ring_snapshot *s, const struct ring_op *op, int64_t now_ms, struct replication_set *ret,
                           struct err *err);

/*
 * A tenant's part of the ring (shuffle sharding, docs/formats.md 3.6): `size` instances of it, spread evenly over the zones when the ring is aware of zones,
 * the same everywhere for the same ring. As a snapshot of its own, with one reference; whoever leaves or joins changes it by one instance. Read-only
 * instances are left out: they take in nothing new.
 * size 0: all instances but the read-only.
 */
struct ring_snapshot *ring_snapshot_shuffle(struct ring_snapshot *s, struct slice tenant, size_t size);
/* The same with everyone who belonged to it within the last lookback_ms (> 0), for readers of what was written then. */
struct ring_snapshot *ring_snapshot_shuffle_lookback(struct ring_snapshot *s, struct slice tenant, size_t size, int64_t lookback_ms,
                                                     int64_t now_ms);

struct ring;

/* Follows key; the store must outlive the ring. NULL when the store has no room for a watch. */
struct ring *ring_new(struct kv *kv, struct slice key, const struct ring_config *config, struct err *err);
void ring_free(struct ring *r);
/* The newest snapshot, with a reference for the caller; of an empty ring when the key is not there. */
struct ring_snapshot *ring_current(struct ring *r);
