/*
 * The compactor's housekeeping: bucket indexes kept true, blocks removed when their time has come, tenants deleted.
 *
 * Every -compactor.cleanup-interval, for each tenant that is ours (a predicate given by whoever starts it), in this order:
 *   1. the bucket index is read (a damaged or missing one is made anew, and marks that lie below blocks only get their copies below markers/) and updated,
 *   2. blocks beyond compactor_blocks_retention_period are marked for deletion,
 *   3. blocks whose mark is older than -compactor.deletion-delay, *and was in the index that was read*, are removed,
 *   4. partial blocks (no meta.json) are removed when they have a mark, or marked when nothing of them has moved for
 *      compactor_partial_block_deletion_delay,
 *   5. the index is written; a tenant without any block loses its index, markers and debug data instead,
 *   6. the same is done in each room of its downsampled blocks (storage/downsample), whose retention period is compactor_downsample_<resolution>_retention.
 * A tenant with a deletion mark: its index goes first, then all blocks, then the mark says when that was done, and -compactor.tenant-cleanup-delay later
 * the rest of its folder goes, the mark last.
 *
 * Promises
 *   1. Whoever follows an index that it may still use (-blocks-storage.bucket-store.bucket-index.max-stale-period) finds every block in it, but those whose
 *      mark in it is older than -compactor.deletion-delay. That is what "was in the index that was read" is for: after a pause of the cleaner, or a
 *      listing that was late, a mark is published first and acted on when no reader can have an index without it any more (CLEANER_READERS_STALE_MS).
 *   2. Breaking off at any point leaves what the next round goes on with; nothing is removed that a restart would need.
 *   3. Lists are not believed where they say that something is gone: a block is partial, or a marker without a block, only when its meta.json is asked for by name.
 *   4. A block that somebody is uploading is left alone: objects newer than the block's mark keep it until they too have grown old. A mark that was made
 *      because a block seemed to have been given up is void, and taken away, when the block was completed after it.
 *   5. One tenant's fault costs only that tenant's round.
 *
 * Threads: one for the rounds, -compactor.cleanup-concurrency for tenants while a round runs, CLEANER_REMOVERS for each tenant while blocks are
 * removed, one for the HTTP routes. Memory: a tenant's index, twice.
 */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/ctx.h"
#include "base/err.h"
#include "base/slice.h"
#include "model/limits.h"
#include "net/http.h"
#include "storage/bucket/bucket.h"
#include "storage/compactor/compactor.h"
#include "storage/objstore/objstore.h"

#define CLEANER_REMOVERS 8
/* Mimir's default of -blocks-storage.bucket-store.bucket-index.max-stale-period: readers refuse an older index. */
#define CLEANER_READERS_STALE_MS ((int64_t)3600 * 1000)
/* Shorter values of compactor_partial_block_deletion_delay switch the removal of unmarked partial blocks off, as in Mimir: an upload may take that long. */
#define CLEANER_PARTIAL_DELAY_MIN_MS ((int64_t)4 * 3600 * 1000)

/* Everything must outlive the cleaner; functions are called by its threads. */
struct cleaner_parts {
    const struct compactor_config *cfg;
    const struct limits_provider *limits;
    struct objstore *bucket; /* as component "compactor" */
    /* Whether this process cleans the tenant; asked at the beginning of a round and again when the tenant's turn comes. compactor_ring_owns_cleaning. */
    bool (*owns)(void *arg, struct slice tenant);
    void *owns_arg;
    /* Before the first round, on the rounds' thread: waits until owns knows what it says. False: the rounds begin all the same, unless ctx has ended. May be NULL. */
    bool (*wait)(void *arg, const struct ctx *ctx, struct err *err);
    void *wait_arg;
    /* Counts a block that was marked: reasons "retention" and "partial". compactor_count_deletion_mark. */
    void (*count_mark)(const char *reason);
    /* How many jobs the planner sees in an index, for cortex_bucket_index_estimated_compaction_jobs. May be NULL: then there is no such series. */
    bool (*estimate)(void *arg, struct slice tenant, const struct bucket_index *index, size_t *ret_split, size_t *ret_merge, struct err *err);
    void *estimate_arg;
};

struct cleaner;

struct cleaner *cleaner_new(const struct cleaner_parts *parts);
/* The first round begins at once. */
bool cleaner_start(struct cleaner *c, struct err *err);
/* Breaks off what runs, within a second or two, and ends the threads. Fine without start, and twice. HTTP routes must be stopped before. */
void cleaner_stop(struct cleaner *c);
void cleaner_free(struct cleaner *c); /* NULL is fine */

/* One round over all tenants now, in the caller's thread; not beside a started cleaner. False when a tenant failed; the last error. */
bool cleaner_run(struct cleaner *c, const struct ctx *ctx, struct err *err);

/* --- HTTP ------------------------------------------------------------------------------------------------------------------- */

/* POST /compactor/delete_tenant, GET /compactor/delete_tenant_status, GET /compactor/tenant/{tenant}/blocks; arg: the cleaner. */
extern const struct http_route cleaner_routes[];
extern const size_t cleaner_routes_n;
