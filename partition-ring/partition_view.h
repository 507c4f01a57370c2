/*
 * The partitions ring as writers and readers follow it.
 *
 * A view is one version of the document: immutable, refcounted. Writers take its ring of ACTIVE partitions; readers its list of partitions that may
 * hold data (ACTIVE and INACTIVE, never PENDING) and, of each, the owners that can be asked now.
 * Any thread may call everything here.
 */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/err.h"
#include "base/slice.h"
#include "partition-ring/partition_desc.h"
#include "partition-ring/partition_ring.h"
#include "ring/ring.h"

struct partition_view;

/* Takes d. One reference. */
struct partition_view *partition_view_new(struct partition_desc *d);
struct partition_view *partition_view_ref(struct partition_view *v);
/* Gives one reference back; NULL is fine. */
void partition_view_free(struct partition_view *v);
const struct partition_desc *partition_view_desc(const struct partition_view *v);

/* For writers; the view's, take a reference to keep it longer. */
struct partition_ring *partition_view_writers(const struct partition_view *v);
/* For readers: ids ascending, ret_n of them; the view's. */
const int32_t *partition_view_readers(const struct partition_view *v, size_t *ret_n);

/*
 * The partitions that may hold a tenant's data of the last lookback_ms: its shuffle shard and those that were in it then (docs/formats.md 3.4). shard_size
 * <= 0: all that readers read. Ids ascending into ret, which has room for as many as partition_view_readers says; returns how many.
 */
size_t partition_view_tenant_readers(const struct partition_view *v, struct slice tenant, int64_t shard_size, int64_t lookback_ms,
                                     int64_t now_ms, int32_t *ret);

/*
 * Whom to ask about a partition: its owners that are in the instance ring and healthy for reading. One answer is enough: max_errors is n - 1. The instances
 * are the snapshot's. ERR_UNAVAILABLE when there is none: the query must fail, for no other has the data.
 */
bool partition_view_owners(const struct partition_view *v, int32_t partition, const struct ring_snapshot *instances, int64_t now_ms,
                           struct replication_set *ret, struct err *err);

/* --- following a key ---
 */
struct partition_watcher;

/* The store must outlive the watcher. NULL when the store has no room for a watch. */
struct partition_watcher *partition_watcher_new(struct kv *kv, struct slice key, struct err *err);
void partition_watcher_free(struct partition_watcher *w);
/* The newest view, with a reference for the caller; an empty one when the key is not there. */
struct partition_view *partition_watcher_current(struct partition_watcher *w);
