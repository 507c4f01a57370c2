/*
 * The parts of the compactor: compactor.c (life, the loop over tenants), tenant.c (one tenant), tenant_blocks.c (what the bucket has of it), job.c (one job),
 * downsampling.c, pages.c.
 *
 * Locks: `lock` guards what stands behind it and is held for moments alone. Of the rest each member belongs to the loop's thread or is immutable.
 */
#pragma once

#include <math.h>
#include <pthread.h>
#include <stdatomic.h>

#include "storage/bucket/bucket.h"
#include "storage/compactor/compactor.h"
#include "storage/compactor/plan.h"

extern const double COMPACTOR_BUCKETS_JOB[], COMPACTOR_BUCKETS_DELAY[], COMPACTOR_BUCKETS_BLOCKS[];

#define METRICS_ROOM compactor
#define METRICS_DEF "storage/compactor/compactor_metrics.def"
#include "base/metrics_table.h"

/* What the pages tell of a tenant, as of its last compaction here. */
struct tenant_status {
    char *tenant; /* owned */
    int64_t at_ms;  /* wall clock */
    int64_t lag_ms; /* of the oldest job that is due */
    size_t jobs;    /* that are due, whoever's they are */
    struct err err; /* of the last one; ERR_OK */
};

struct compactor {
    const struct compactor_config *cfg; /* not owned, as are the next three */
    struct compactor_ring *ring;
    const struct limits_provider *limits;
    struct objstore *bucket;
    char *dir; /* owned */
    int64_t ranges_ms[COMPACTOR_RANGES_MAX];
    size_t n_ranges;
    enum compaction_order order;
    int64_t retry_ms; /* the first pause after a failure; tests have less of it */
    struct tenant_blocks *cache; /* owned; a list: what was last known of each tenant */
    size_t n_cached;             /* blocks in it */

    atomic_bool canceled; /* writer: stop; readers: all that the loop calls, by ctx */
    pthread_t thread;
    bool started; /* the owner's */

    pthread_mutex_t lock;
    pthread_cond_t wake; /* stop was called */
    struct tenant_status *statuses; /* lock; owned */
    size_t n_statuses, cap_statuses;
};

/* --- tenant_blocks.c --- */

#define COMPACTOR_CACHED_BLOCKS_MAX 200000

/* The blocks of a tenant that are not marked for deletion, by ULID. */
struct tenant_blocks {
    struct tenant_blocks *next;
    char *tenant; /* owned */
    struct arena arena;
    struct plan_block *blocks;
    bool *no_compact; /* of each */
    size_t n;
    size_t n_no_compact;
};
/* tenant: or the room of an aggregate (downsample_room). What was read before is not read again. Of blocks that have no meta.json, or none that can be read, nothing is known. */
struct tenant_blocks *tenant_blocks_read(struct compactor *c, const struct ctx *ctx, struct slice tenant, struct err *err);
/* Kept for the next read, or freed when there is no room for it. */
void tenant_blocks_keep(struct compactor *c, struct tenant_blocks *t);
void tenant_blocks_free(struct tenant_blocks *t); /* NULL is fine */
/* A listing may be old: is the block there now, and not marked for deletion? */
bool block_is_there(struct compactor *c, const struct ctx *ctx, struct slice tenant, const struct ulid *id, bool *ret, struct err *err);

/* --- tenant.c --- */

/* All that is to be done for the tenant now, within -compactor.max-compaction-time. */
bool compact_tenant(struct compactor *c, const struct ctx *ctx, struct slice tenant, struct err *err);
/* How long the job has been due. */
int64_t compaction_lag_ms(const struct compaction_job *job, int64_t now_ms);
/* Params of the tenant as of now. */
struct plan_params compactor_plan_params(const struct compactor *c, struct slice tenant, int64_t now_ms);

/* --- job.c --- */

enum job_end {
    JOB_FAILED,    /* err says why */
    JOB_DONE,      /* the sources are marked */
    JOB_SET_ASIDE, /* one of the sources is: what is left may be another job */
};
/*
 * all: what the bucket has, to find a result that is there already. ret_aside[n_blocks], all false before: the sources that were set aside. Any thread; jobs of
 * one tenant may run at a time.
 */
enum job_end job_run(struct compactor *c, const struct ctx *ctx, struct slice tenant, const struct compaction_job *job, const struct tenant_blocks *all,
                     bool *ret_aside, struct err *err);

/* --- downsampling.c --- */

/*
 * Makes what the tenant's settled days lack of downsampled blocks, if its limits ask for them. blocks: the tenant's; jobs: all that are planned. Called when a round
 * has found nothing more to compact; by the loop's thread.
 */
bool downsample_tenant(struct compactor *c, const struct ctx *ctx, struct slice tenant, const struct tenant_blocks *blocks, const struct compaction_job *jobs,
                       size_t n_jobs, struct err *err);

/* --- compactor.c --- */

void compactor_set_status(struct compactor *c, struct slice tenant, size_t jobs, int64_t lag_ms, const struct err *err);
/* The tenant is gone, or another's: its status and its series of metrics go. */
void compactor_forget(struct compactor *c, struct slice tenant);
/* Waits; false when the compactor is being stopped. */
bool compactor_sleep(struct compactor *c, int64_t ms);
