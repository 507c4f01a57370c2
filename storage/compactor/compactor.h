/*
 * The compactor: merges the blocks of a tenant's bucket into few large ones, split by series where the tenant is large.
 *
 * Two objects. `struct compactor_ring` is this process's seat among the compactors and says who works on what; the loop here and the cleaner
 * (storage/compactor/cleaner) share one. `struct compactor` is the loop: tenant by tenant it reads what the bucket has, marks what other blocks contain as a
 * whole, plans (plan.h) and runs the jobs that are its own: download, verify, merge (merge.h), verify, upload, mark the sources for deletion.
 *
 * Promises
 *   1. A sample that is in the bucket stays in it: sources are marked only when every block of the result is in the bucket, whole and verified.
 *   2. Whatever ends the process, at any point, costs repeated work alone. Blocks of a result that are there already are recognised (same sources, same
 *      labels) and not made twice; two compactors that run one job at the same time leave one block too many, which the next run marks.
 *   3. A block that cannot be read is marked no-compact, with a reason, in the log, on the tenant's page and in a metric, and the rest goes on without it.
 *   4. Memory of a job: the symbols of its blocks and one series (merge.h). Disk: its sources and its results.
 *
 * Threads: one for the loop, and as many for jobs as flags say. Any thread may call what has no other word; new, start, stop and free are the owner's.
 */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/ctx.h"
#include "base/err.h"
#include "base/flags.h"
#include "base/slice.h"
#include "model/limits.h"
#include "net/http.h"
#include "ring/config.h"
#include "ring/ring.h"
#include "storage/bucket/bucket.h"
#include "storage/objstore/objstore.h"

/* --- configuration ---------------------------------------------------------------------------------------------------------- */

/* -compactor.*, those of the cleaner and of the block upload too. */
struct compactor_config {
#define FLAG FLAG_FIELD
#include "storage/compactor/compactor_flags.def"
#undef FLAG
};
extern const struct flag_def compactor_flags[];
extern const size_t compactor_flags_n;
extern const struct flag_def compactor_kv_flags[]; /* of a struct kv_config */
extern const size_t compactor_kv_flags_n;
extern const struct flag_def compactor_member_flags[]; /* of a struct ring_member_config */
extern const size_t compactor_member_flags_n;

#define COMPACTOR_RANGES_MAX 16
/* -compactor.block-ranges in ms. ERR_CONFIG when they are no durations, do not ascend, or do not divide each other. */
bool compactor_ranges(const struct compactor_config *cfg, int64_t ret[COMPACTOR_RANGES_MAX], size_t *ret_n, struct err *err);
/* By -compactor.enabled-tenants and -compactor.disabled-tenants. */
bool compactor_tenant_allowed(const struct compactor_config *cfg, struct slice tenant);

/* --- who does what ---------------------------------------------------------------------------------------------------------- */

#define RING_KEY_COMPACTORS "compactor"

struct compactor_ring;

/*
 * Joins the ring (512 tokens) and follows it; beats in a thread of its own. cfg, limits, stores must outlive it. alone: a process by itself, whose ring is in
 * memory whatever the flags say. Nothing is waited for.
 */
struct compactor_ring *compactor_ring_new(const struct compactor_config *cfg, const struct kv_config *kv, const struct ring_member_config *member,
                                          const struct limits_provider *limits, const struct kv_stores *stores, uint16_t grpc_port, bool alone,
                                          struct err *err);
/* Leaves the ring: from now on nothing is ours. Fine twice. */
void compactor_ring_leave(struct compactor_ring *r);
void compactor_ring_free(struct compactor_ring *r); /* NULL is fine */
struct kv *compactor_ring_store(struct compactor_ring *r); /* for /compactor/ring; lives as long as the ring */

/*
 * Waits until this instance is ACTIVE in the ring as it is seen here, and the ring has stood still as the flags ask. False when that took too long
 * (ERR_TIMEOUT) or ctx has ended. To be called by whoever starts working, in the thread that works.
 */
bool compactor_ring_wait(struct compactor_ring *r, const struct ctx *ctx, struct err *err);
/*
 * Whether this instance, now, is one of those that compact the tenant (its shuffle shard: compactor_tenant_shard_size). False too for tenants that are not
 * allowed here, and when the ring has no healthy instance.
 */
bool compactor_ring_owns_tenant(struct compactor_ring *r, struct slice tenant);
/* Whether it is the one of them that cleans: bucket index, retention, removal, tenant deletion. */
bool compactor_ring_owns_cleaning(struct compactor_ring *r, struct slice tenant);
/* Whether it is the one that runs the job with this key (struct compaction_job). */
bool compactor_ring_owns_job(struct compactor_ring *r, struct slice tenant, const char *job_key);

/* --- the loop --------------------------------------------------------------------------------------------------------------- */

struct compactor;

/* default_dir: of -compactor.data-dir when that is empty. All else must outlive the compactor; cfg is read while it runs. ERR_CONFIG names the flag. */
struct compactor *compactor_new(const struct compactor_config *cfg, struct compactor_ring *ring, const struct limits_provider *limits,
                                struct objstore *bucket, const char *default_dir, struct err *err);
/* Clears the data dir of what a killed process left, and starts the loop. */
bool compactor_start(struct compactor *c, struct err *err);
/* Breaks off what runs, within seconds, and ends the threads. Fine without start, and twice. */
void compactor_stop(struct compactor *c);
void compactor_free(struct compactor *c); /* NULL is fine */

/* One run over all tenants now, in the caller's thread, as the loop does it; not beside a started loop. False when a tenant failed; the last error. */
bool compactor_run(struct compactor *c, const struct ctx *ctx, struct err *err);

/* GET /compactor/tenants and /compactor/tenant/{tenant}/planned_jobs; arg: the compactor. /compactor/ring is a struct ring_page of app's. */
extern const struct http_route compactor_routes[];
extern const size_t compactor_routes_n;

/* How many jobs a bucket index shows, for the cleaner's metric; lists the blocks that were set aside. arg: the compactor. Any thread. */
bool compactor_estimate_jobs(void *arg, struct slice tenant, const struct bucket_index *index, size_t *ret_split, size_t *ret_merge, struct err *err);

/* --- counted here for all who mark ------------------------------------------------------------------------------------------ */

/* cortex_compactor_blocks_marked_for_deletion_total{reason}: "compaction", "partial", "retention". */
void compactor_count_deletion_mark(const char *reason);
/* cortex_compactor_blocks_marked_for_no_compaction_total{reason} */
void compactor_count_no_compact_mark(const char *reason);
