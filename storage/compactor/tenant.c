/*
 * One tenant: rounds of looking, marking what is superseded, planning and running what is due and ours, until a round finds nothing to do.
 *
 * What this run has marked is remembered, so that a listing that does not show it yet makes no round go over the same blocks again.
 */
#include <stdlib.h>
#include <string.h>

#include "base/assert.h"
#include "base/clock.h"
#include "base/logger.h"
#include "base/parallel.h"
#include "storage/compactor/compactor_int.h"

#define ROUNDS_MAX 1000
#define OUTDATED_DETAILS "outdated block"

struct ulid_list {
    struct ulid *items; /* owned */
    size_t n, cap;
};

struct tenant_run {
    struct compactor *c;
    const struct ctx *ctx;
    struct slice tenant;
    int64_t until_ms; /* monotonic; no job is begun after it. 0: without limit */
    struct ulid_list gone, aside; /* marked in this run */
    struct tenant_blocks *blocks; /* of this round; owned */
    struct arena arena;           /* of this round */
    const struct compaction_job *all_jobs; /* whoever's, and due or not */
    size_t n_all_jobs;
    const struct compaction_job **jobs; /* due, ours, and not to wait */
    size_t n_jobs;
    size_t n_due;   /* whoever's they are */
    int64_t lag_ms; /* of the oldest of them */
    enum job_end *ends; /* of each job; in the arena */
    bool *begun;
    struct err *errs;
    char **failed;    /* owned: keys of jobs that failed in this run, which are not begun again in it */
    size_t n_failed, cap_failed;
    struct err first; /* why the first of them did */
    pthread_mutex_t lock; /* guards the lists while jobs run; innermost */
};

static void list_add(struct ulid_list *l, const struct ulid *id)
{
    if (l->n == l->cap) {
        l->cap = MAX(l->cap * 2, 64);
        l->items = realloc(l->items, l->cap * sizeof(*l->items));
        ASSERT(l->items);
    }
    l->items[l->n++] = *id;
}

static bool list_has(const struct ulid_list *l, const struct ulid *id)
{
    for (size_t i = 0; i < l->n; i++)
        if (strcmp(l->items[i].text, id->text) == 0)
            return true;
    return false;
}

static bool no_memory(struct err *err)
{
    return err_set(err, ERR_NO_MEMORY, "no memory for a compaction");
}

static bool has_failed(const struct tenant_run *r, const char *key)
{
    for (size_t i = 0; i < r->n_failed; i++)
        if (strcmp(r->failed[i], key) == 0)
            return true;
    return false;
}

static void remember_failure(struct tenant_run *r, const char *key, const struct err *why)
{
    if (r->n_failed == r->cap_failed) {
        r->cap_failed = MAX(r->cap_failed * 2, 16);
        r->failed = realloc(r->failed, r->cap_failed * sizeof(char *));
        ASSERT(r->failed);
    }
    if (r->n_failed == 0)
        r->first = *why;
    r->failed[r->n_failed] = strdup(key);
    ASSERT(r->failed[r->n_failed]);
    r->n_failed++;
}

/* --- looking --------------------------------------------------------------------------------------------------------------------------- */

static void leave_out(struct tenant_blocks *t, const struct ulid_list *gone, const struct ulid_list *aside)
{
    size_t n = 0;
    t->n_no_compact = 0;
    for (size_t i = 0; i < t->n; i++) {
        if (list_has(gone, &t->blocks[i].id))
            continue;
        t->blocks[n] = t->blocks[i];
        t->no_compact[n] = t->no_compact[i] || list_has(aside, &t->blocks[i].id);
        t->n_no_compact += t->no_compact[n++];
    }
    t->n = n;
}

static bool mark_superseded(struct tenant_run *r, const struct plan_block *b, struct err *err)
{
    bool is_new = false;
    struct block_mark mark = {.block = b->id, .time_s = clock_wall_ms() / 1000, .details = SL(OUTDATED_DETAILS)};
    if (!bucket_mark_block(r->c->bucket, r->ctx, r->tenant, BLOCK_MARK_DELETION, &mark, &is_new, err))
        return false;
    if (is_new) {
        compactor_count_deletion_mark("compaction");
        LOG_INFO("another block has all that this one has", {"user", LOG_SLICE(r->tenant)}, {"block", LOG_STR(b->id.text)});
    }
    list_add(&r->gone, &b->id);
    return true;
}

/* A listing may show a block that is gone: one is marked only when the other is there now. */
static bool mark_all_superseded(struct tenant_run *r, struct err *err)
{
    struct tenant_blocks *t = r->blocks;
    size_t *by = ARENA_ARRAY(&r->arena, size_t, t->n + 1);
    if (!by)
        return no_memory(err);
    if (!plan_superseded(t->blocks, t->n, by, err))
        return false;
    for (size_t i = 0; i < t->n; i++) {
        bool there;
        if (by[i] == PLAN_NOT_SUPERSEDED)
            continue;
        if (!block_is_there(r->c, r->ctx, r->tenant, &t->blocks[by[i]].id, &there, err) || (there && !mark_superseded(r, &t->blocks[i], err)))
            return false;
    }
    leave_out(t, &r->gone, &r->aside);
    return true;
}

static bool collect_garbage(struct tenant_run *r, struct err *err)
{
    int64_t start = clock_mono_ms();
    metric_inc(metric_single(compactor_metrics[COMPACTOR_M_GC]));
    if (mark_all_superseded(r, err)) {
        metric_observe(metric_single(compactor_metrics[COMPACTOR_M_GC_DURATION]), (double)(clock_mono_ms() - start) / 1e3);
        return true;
    }
    metric_inc(metric_single(compactor_metrics[COMPACTOR_M_GC_FAILURES]));
    return false;
}

/* --- planning --------------------------------------------------------------------------------------------------------------------------- */

int64_t compaction_lag_ms(const struct compaction_job *job, int64_t now_ms)
{
    int64_t since = job->end;
    for (size_t i = 0; i < job->n_blocks; i++)
        since = MAX(since, MAX(job->blocks[i]->uploaded_ms, ulid_time_ms(&job->blocks[i]->id)));
    return MAX(now_ms - since, 0);
}

struct plan_params compactor_plan_params(const struct compactor *c, struct slice tenant, int64_t now_ms)
{
    struct plan_params p = {.ranges_ms = c->ranges_ms,
                            .n_ranges = c->n_ranges,
                            .wait_ms = c->ranges_ms[0] + c->cfg->first_level_compaction_wait_period,
                            .now_ms = now_ms,
                            .order = c->order};
    plan_params_of_limits(limits_of(c->limits, tenant), &p);
    return p;
}

static bool plan(struct tenant_run *r, struct err *err)
{
    size_t n = 0, n_all;
    int64_t now_ms = clock_wall_ms();
    const struct limits *limits = limits_of(r->c->limits, r->tenant);
    const struct tenant_blocks *t = r->blocks;
    const struct compaction_job *all;
    struct plan_params p = compactor_plan_params(r->c, r->tenant, now_ms);
    struct plan_block *blocks = ARENA_ARRAY(&r->arena, struct plan_block, t->n + 1);
    if (!blocks)
        return no_memory(err);
    for (size_t i = 0; i < t->n; i++)
        if (!t->no_compact[i] && !plan_is_too_old(limits, &t->blocks[i], now_ms))
            blocks[n++] = t->blocks[i];
    if (!plan_compaction(&p, blocks, n, &r->arena, &all, &n_all, err))
        return false;
    r->jobs = ARENA_ARRAY(&r->arena, const struct compaction_job *, n_all + 1);
    if (!r->jobs)
        return no_memory(err);
    r->all_jobs = all;
    r->n_all_jobs = n_all;
    r->n_jobs = r->n_due = 0;
    r->lag_ms = 0;
    for (size_t i = 0; i < n_all; i++) {
        if (plan_must_wait(r->c->cfg, &all[i], now_ms))
            continue;
        r->n_due++;
        r->lag_ms = MAX(r->lag_ms, compaction_lag_ms(&all[i], now_ms));
        if (!has_failed(r, all[i].key) && compactor_ring_owns_job(r->c->ring, r->tenant, all[i].key))
            r->jobs[r->n_jobs++] = &all[i];
    }
    return true;
}

/* --- running ---------------------------------------------------------------------------------------------------------------------------- */

static bool time_is_up(const struct tenant_run *r)
{
    return r->until_ms && clock_mono_ms() >= r->until_ms;
}

static bool run_one(void *arg, size_t i, struct err *err)
{
    struct tenant_run *r = arg;
    const struct compaction_job *job = r->jobs[i];
    if (!ctx_check(r->ctx, err))
        return false;
    /* A long time may have gone by since the plan. */
    if (time_is_up(r) || !compactor_ring_owns_job(r->c->ring, r->tenant, job->key))
        return true;
    bool *aside = calloc(job->n_blocks, sizeof(*aside));
    if (!aside)
        return no_memory(err);
    r->begun[i] = true;
    r->ends[i] = job_run(r->c, r->ctx, r->tenant, job, r->blocks, aside, &r->errs[i]);
    pthread_mutex_lock(&r->lock);
    for (size_t k = 0; k < job->n_blocks; k++) {
        if (r->ends[i] == JOB_DONE)
            list_add(&r->gone, &job->blocks[k]->id);
        else if (aside[k])
            list_add(&r->aside, &job->blocks[k]->id);
    }
    pthread_mutex_unlock(&r->lock);
    free(aside);
    return true;
}

/* A job that fails keeps none of the others from running, nor the rounds after this one. *ret_progress: something was done that another round may build on. */
static bool run_jobs(struct tenant_run *r, bool *ret_progress, struct err *err)
{
    r->ends = ARENA_ARRAY(&r->arena, enum job_end, r->n_jobs + 1);
    r->begun = arena_zalloc(&r->arena, r->n_jobs + 1);
    r->errs = arena_zalloc(&r->arena, (r->n_jobs + 1) * sizeof(*r->errs));
    if (!r->ends || !r->begun || !r->errs)
        return no_memory(err);
    *ret_progress = false;
    if (!parallel_run(r->n_jobs, (size_t)MAX(r->c->cfg->compaction_concurrency, 1), run_one, r, err))
        return false;
    for (size_t i = 0; i < r->n_jobs; i++) {
        if (!r->begun[i])
            continue;
        if (r->ends[i] == JOB_FAILED)
            remember_failure(r, r->jobs[i]->key, &r->errs[i]);
        else
            *ret_progress = true;
    }
    return ctx_check(r->ctx, err);
}

static bool run_round(struct tenant_run *r, bool *ret_progress, struct err *err)
{
    *ret_progress = false;
    r->blocks = tenant_blocks_read(r->c, r->ctx, r->tenant, err);
    if (!r->blocks)
        return false;
    leave_out(r->blocks, &r->gone, &r->aside);
    return collect_garbage(r, err) && plan(r, err) && run_jobs(r, ret_progress, err);
}

static void tell_status(struct tenant_run *r, const struct err *err)
{
    size_t n = r->blocks ? r->blocks->n_no_compact : 0;
    compactor_set_status(r->c, r->tenant, r->n_due, r->lag_ms, err);
    metric_set(METRIC_WITH(compactor_metrics[COMPACTOR_M_LAG], r->tenant), (double)r->lag_ms / 1e3);
    metric_set(METRIC_WITH(compactor_metrics[COMPACTOR_M_SET_ASIDE], r->tenant), (double)n);
}

bool compact_tenant(struct compactor *c, const struct ctx *ctx, struct slice tenant, struct err *err)
{
    struct tenant_run r = {.c = c, .ctx = ctx, .tenant = tenant};
    struct err why = ERR_NONE;
    bool good = true, progress = true;
    if (c->cfg->max_compaction_time > 0)
        r.until_ms = clock_mono_ms() + c->cfg->max_compaction_time;
    pthread_mutex_init(&r.lock, NULL);
    arena_init(&r.arena, 0);
    for (size_t i = 0; good && progress && i < ROUNDS_MAX && !time_is_up(&r); i++) {
        arena_clear(&r.arena);
        good = run_round(&r, &progress, &why);
        if (good && !progress)
            good = downsample_tenant(c, ctx, tenant, r.blocks, r.all_jobs, r.n_all_jobs, &why);
        if (!good || !progress)
            tell_status(&r, good ? &r.first : &why);
        if (r.blocks)
            tenant_blocks_keep(c, r.blocks);
        r.blocks = NULL;
    }
    arena_release(&r.arena);
    pthread_mutex_destroy(&r.lock);
    free(r.gone.items);
    free(r.aside.items);
    for (size_t i = 0; i < r.n_failed; i++)
        free(r.failed[i]);
    free(r.failed);
    if (good && r.n_failed) {
        good = false;
        why = r.first;
    }
    if (!good && err)
        *err = why;
    return good;
}
