/*
 * Bucket indexes as queriers and store-gateways read them: loaded when a tenant is first asked for, kept, refreshed by a thread, dropped when nobody asks any
 * more. Never older than -blocks-storage.bucket-store.bucket-index.max-stale-period, or an error: a stale index has not all blocks, and an answer would be short.
 *
 * A reader gets a snapshot: immutable, counted, valid until it is given back, whatever happens to the cache. Readers of one tenant that come while its index
 * is being loaded wait for that load. A load that fails is remembered for update-on-error-interval; a refresh that fails leaves the old index in place, until
 * that is too old. One that is too old is read again after update-on-error-interval too.
 *
 * Any thread, but for new, start, stop and free. One lock guards the table; it is not held while something is read.
 */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/ctx.h"
#include "base/err.h"
#include "base/flags.h"
#include "base/slice.h"
#include "storage/bucket/bucket.h"

struct index_cache_config {
#define FLAG FLAG_FIELD
#include "storage/bucket/index_cache_flags.def"
#undef FLAG
};
/* A table to be added to the flags by whoever wires the process; once, however many caches there are. */
extern const struct flag_def index_cache_flags[];
extern const size_t index_cache_flags_n;

/* More tenants than this are not kept: who was not asked for the longest goes. */
#define INDEX_CACHE_MAX_TENANTS ((size_t)1 << 17)

struct index_cache;
struct index_snapshot;

/*
 * s must outlive the cache. cfg is copied. update_ms: how old an index is read again (-blocks-storage.bucket-store.sync-interval, 15m, in Mimir). Nothing is
 * read before start or the first get.
 */
struct index_cache *index_cache_new(struct objstore *s, const struct index_cache_config *cfg, int64_t update_ms);
void index_cache_start(struct index_cache *c);
/* Ends the thread, with the read that it may be in. get still works. Fine without start, and twice. */
void index_cache_stop(struct index_cache *c);
/* No get may be under way; snapshots may still be out. NULL is fine. */
void index_cache_free(struct index_cache *c);

/*
 * The tenant's index, or NULL: ERR_NOT_FOUND (the tenant has no index: no blocks yet), ERR_BUCKET_INDEX_TOO_OLD with Mimir's text, ERR_CORRUPT, or the store's. One
 * reference for the caller. The load of a tenant that is new here happens within ctx.
 */
const struct index_snapshot *index_cache_get(struct index_cache *c, const struct ctx *ctx, struct slice tenant, struct err *err);
const struct bucket_index *index_snapshot_index(const struct index_snapshot *s);
const struct index_snapshot *index_snapshot_ref(const struct index_snapshot *s);
void index_snapshot_unref(const struct index_snapshot *s); /* NULL is fine */
/* The check by itself, for who reads indexes without a cache. now_ms: wall clock. max_stale_ms 0: never too old. */
bool bucket_index_check_age(const struct bucket_index *index, int64_t now_ms, int64_t max_stale_ms, struct err *err);
