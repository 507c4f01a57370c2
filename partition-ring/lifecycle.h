/*
 * What may happen to a partition (docs/formats.md 4.4; drawn in README.md): each transition is one function on the document, pure but for the
 * document it changes. Who calls them, and when, is partition-ring/lifecycler.h.
 */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/err.h"
#include "partition-ring/partition_desc.h"

struct partition_rules {
    size_t min_owners;             /* -ingester.partition-ring.min-partition-owners-count */
    int64_t min_owners_ms;         /* -ingester.partition-ring.min-partition-owners-duration */
    int64_t delete_inactive_ms;    /* -ingester.partition-ring.delete-inactive-partition-after; 0: never */
};

/* Texts of errors, which are Mimir's. */
#define PARTITION_NOT_THERE "the partition does not exist"
#define PARTITION_STATE_LOCKED "partition state change is locked"

/* Absent -> Pending, with its tokens. False when it is there already. id is 0 .. PARTITIONS_MAX-1. */
bool partition_create(struct partition_desc *d, int32_t id, int64_t now_ms);
/* Pending -> Active, when enough owners have been there for long enough and it is not locked. False when not. */
bool partition_activate(struct partition_desc *d, int32_t id, const struct partition_rules *rules, int64_t now_ms);
/*
 * Pending -> Active, Pending -> Inactive, Active <-> Inactive, on somebody's wish. To stay is no change and fine. ERR_NOT_FOUND; ERR_CONFLICT when it is
 * locked or the change is not one of these.
 */
bool partition_change_state(struct partition_desc *d, int32_t id, enum partition_state to, int64_t now_ms, bool *ret_changed,
                            struct err *err);
/* Inactive -> absent (the store makes Deleted of it): all but `own` that are Inactive for long enough and have no owner. Returns how many. */
size_t partition_delete_abandoned(struct partition_desc *d, int32_t own, const struct partition_rules *rules, int64_t now_ms);

/* The lock on the state. Returns false when it is so already or there is no such partition. */
bool partition_set_lock(struct partition_desc *d, int32_t id, bool locked, int64_t now_ms);

/* The owner, ACTIVE. False when it is so already: its time is that of the beginning. */
bool partition_own(struct partition_desc *d, struct slice owner, int32_t id, int64_t now_ms);
bool partition_disown(struct partition_desc *d, struct slice owner);
