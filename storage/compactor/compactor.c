/*
 * The loop over the tenants: at the start, then every -compactor.compaction-interval, the first time after a random part of it, so that compactors that were
 * started together do not run together.
 *
 * The disk below the data dir is nobody's but a job's: it is cleared at the start.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "base/assert.h"
#include "base/clock.h"
#include "base/logger.h"
#include "base/priority.h"
#include "ring/lifecycler.h"
#include "storage/compactor/compactor_int.h"
#include "storage/compactor/tree_int.h"

#define RETRY_MIN_MS 10000 /* as Mimir */
#define RETRY_MAX_MS 60000
#define STATUSES_MAX 10000

/* --- what the pages tell --------------------------------------------------------------------------------------------------------------- */

void compactor_set_status(struct compactor *c, struct slice tenant, size_t jobs, int64_t lag_ms, const struct err *err)
{
    struct tenant_status *s = NULL;
    pthread_mutex_lock(&c->lock);
    for (size_t i = 0; i < c->n_statuses && !s; i++)
        if (slice_eq(slice_of(c->statuses[i].tenant), tenant))
            s = &c->statuses[i];
    if (!s && c->n_statuses < STATUSES_MAX) {
        if (c->n_statuses == c->cap_statuses) {
            c->cap_statuses = MAX(c->cap_statuses * 2, 16);
            c->statuses = realloc(c->statuses, c->cap_statuses * sizeof(*c->statuses));
            ASSERT(c->statuses);
        }
        s = &c->statuses[c->n_statuses++];
        *s = (struct tenant_status){.tenant = slice_strdup(tenant)};
    }
    if (s) {
        s->at_ms = clock_wall_ms();
        s->jobs = jobs;
        s->lag_ms = lag_ms;
        s->err = *err;
    }
    pthread_mutex_unlock(&c->lock);
}

void compactor_forget(struct compactor *c, struct slice tenant)
{
    bool known = false;
    pthread_mutex_lock(&c->lock);
    for (size_t i = 0; i < c->n_statuses && !known; i++) {
        if (!slice_eq(slice_of(c->statuses[i].tenant), tenant))
            continue;
        known = true;
        free(c->statuses[i].tenant);
        c->statuses[i] = c->statuses[--c->n_statuses];
    }
    pthread_mutex_unlock(&c->lock);
    if (!known)
        return;
    metric_remove(compactor_metrics[COMPACTOR_M_LAG], &tenant);
    metric_remove(compactor_metrics[COMPACTOR_M_SET_ASIDE], &tenant);
}

static int by_name(const void *a, const void *b)
{
    return slice_cmp(*(const struct slice *)a, *(const struct slice *)b);
}

/* Tenants that the bucket has no more; the list is by name. */
static void forget_gone(struct compactor *c, const struct slice *tenants, size_t n)
{
    for (size_t i = c->n_statuses; i-- > 0;) { /* only the loop's thread changes the list */
        char *tenant = strdup(c->statuses[i].tenant);
        struct slice key = slice_of(tenant);
        if (tenant && (n == 0 || !bsearch(&key, tenants, n, sizeof(*tenants), by_name)))
            compactor_forget(c, key);
        free(tenant);
    }
}

/* --- waiting ------------------------------------------------------------------------------------------------------------------------------ */

bool compactor_sleep(struct compactor *c, int64_t ms)
{
    struct timespec until;
    clock_gettime(CLOCK_MONOTONIC, &until);
    until.tv_sec += ms / 1000;
    until.tv_nsec += ms % 1000 * 1000000;
    if (until.tv_nsec >= 1000000000) {
        until.tv_sec++;
        until.tv_nsec -= 1000000000;
    }
    pthread_mutex_lock(&c->lock);
    while (!atomic_load(&c->canceled) && pthread_cond_timedwait(&c->wake, &c->lock, &until) == 0)
        ;
    bool go_on = !atomic_load(&c->canceled);
    pthread_mutex_unlock(&c->lock);
    return go_on;
}

/* --- one run ---------------------------------------------------------------------------------------------------------------------------------- */

/* Sleeps in small steps, so that a run that is not the loop's is canceled by its ctx as well. */
static bool pause_before_retry(struct compactor *c, const struct ctx *ctx, int64_t ms)
{
    for (int64_t until = clock_mono_ms() + ms; clock_mono_ms() < until;)
        if (!compactor_sleep(c, MIN(until - clock_mono_ms(), 100)) || !ctx_check(ctx, NULL))
            return false;
    return true;
}

static bool compact_with_retries(struct compactor *c, const struct ctx *ctx, struct slice tenant, struct err *err)
{
    int64_t pause = c->retry_ms;
    for (int64_t i = 0;; i++) {
        struct err why = ERR_NONE;
        if (compact_tenant(c, ctx, tenant, &why))
            return true;
        if (i >= c->cfg->compaction_retries || !ctx_check(ctx, NULL) || !pause_before_retry(c, ctx, pause)) {
            if (err)
                *err = why;
            return false;
        }
        pause = MIN(pause * 2, RETRY_MAX_MS);
    }
}

static size_t random_below(size_t n)
{
    return n ? lifecycler_env_system.random_u32(lifecycler_env_system.arg) % n : 0;
}

static void shuffle(const struct slice **tenants, size_t n)
{
    for (size_t i = n; i > 1; i--) {
        size_t k = random_below(i);
        const struct slice *t = tenants[i - 1];
        tenants[i - 1] = tenants[k];
        tenants[k] = t;
    }
}

/* *ret_skip: not ours, or to be deleted. */
static bool look_at(struct compactor *c, const struct ctx *ctx, struct slice tenant, bool *ret_skip, struct err *err)
{
    struct tenant_mark mark;
    struct err why = ERR_NONE;
    *ret_skip = !compactor_ring_owns_tenant(c->ring, tenant);
    if (*ret_skip)
        return true;
    *ret_skip = bucket_read_tenant_mark(c->bucket, ctx, tenant, &mark, &why);
    if (*ret_skip || why.code == ERR_NOT_FOUND)
        return true;
    if (err)
        *err = why;
    return false;
}

static void count(enum compactor_metric_id id)
{
    metric_add(metric_single(compactor_metrics[id]), 1);
}

static void reset_gauges(void)
{
    metric_set(metric_single(compactor_metrics[COMPACTOR_M_TENANTS_DISCOVERED]), 0);
    metric_set(metric_single(compactor_metrics[COMPACTOR_M_TENANTS_SKIPPED]), 0);
    metric_set(metric_single(compactor_metrics[COMPACTOR_M_TENANTS_SUCCEEDED]), 0);
    metric_set(metric_single(compactor_metrics[COMPACTOR_M_TENANTS_FAILED]), 0);
}

/* One tenant's failure is its own. */
static bool run_tenant(struct compactor *c, const struct ctx *ctx, struct slice tenant, struct err *err)
{
    struct err why = ERR_NONE;
    bool skip = false;
    bool good = look_at(c, ctx, tenant, &skip, &why) && (skip || compact_with_retries(c, ctx, tenant, &why));
    count(!good ? COMPACTOR_M_TENANTS_FAILED : skip ? COMPACTOR_M_TENANTS_SKIPPED : COMPACTOR_M_TENANTS_SUCCEEDED);
    if (good && skip)
        compactor_forget(c, tenant);
    if (good)
        return true;
    if (why.code != ERR_CANCELED)
        LOG_ERROR("a tenant's blocks could not be compacted", {"user", LOG_SLICE(tenant)}, {"err", LOG_ERR(&why)});
    if (err)
        *err = why;
    return false;
}

static bool run_all(struct compactor *c, const struct ctx *ctx, struct arena *arena, struct err *err)
{
    const struct slice *tenants;
    size_t n;
    if (!bucket_tenants(c->bucket, ctx, arena, &tenants, &n, err))
        return false;
    const struct slice **order = ARENA_ARRAY(arena, const struct slice *, n + 1);
    if (!order)
        return err_set(err, ERR_NO_MEMORY, "no memory for the tenants");
    for (size_t i = 0; i < n; i++)
        order[i] = &tenants[i];
    shuffle(order, n);
    forget_gone(c, tenants, n);
    metric_set(metric_single(compactor_metrics[COMPACTOR_M_TENANTS_DISCOVERED]), (double)n);
    bool good = true;
    for (size_t i = 0; i < n; i++) {
        if (!ctx_check(ctx, err))
            return false;
        good = run_tenant(c, ctx, *order[i], err) && good;
    }
    return good;
}

bool compactor_run(struct compactor *c, const struct ctx *ctx, struct err *err)
{
    struct arena arena;
    count(COMPACTOR_M_RUNS_STARTED);
    arena_init(&arena, 0);
    bool good = run_all(c, ctx, &arena, err);
    arena_release(&arena);
    reset_gauges();
    if (good) {
        count(COMPACTOR_M_RUNS_COMPLETED);
        metric_set(metric_single(compactor_metrics[COMPACTOR_M_LAST_SUCCESS]), (double)(clock_wall_ms() / 1000));
    } else {
        bool shutdown = !ctx_check(ctx, NULL);
        metric_inc(METRIC_WITH(compactor_metrics[COMPACTOR_M_RUNS_FAILED], shutdown ? SL("shutdown") : SL("error")));
    }
    return good;
}

/* --- life ------------------------------------------------------------------------------------------------------------------------------------ */

/* ms, give or take a twentieth. */
static int64_t with_jitter(int64_t ms)
{
    int64_t part = MAX(ms / 10, 1);
    return ms - part / 2 + (int64_t)random_below((size_t)part);
}

static void *loop(void *arg)
{
    struct compactor *c = arg;
    struct ctx ctx = {.canceled = &c->canceled};
    struct err err = ERR_NONE;
    priority_lower(gettid(), PRIORITY_LONG_WORK); /* in the single process pushes and queries go before; threads that it starts have it from it */
    int64_t interval = MAX(c->cfg->compaction_interval, 1000), pause = (int64_t)random_below((size_t)interval);
    if (!compactor_ring_wait(c->ring, &ctx, &err) && ctx_check(&ctx, NULL))
        LOG_WARN("compacting begins all the same", {"err", LOG_ERR(&err)});
    while (ctx_check(&ctx, NULL)) {
        err = ERR_NONE;
        if (!compactor_run(c, &ctx, &err) && err.code != ERR_CANCELED)
            LOG_WARN("a run of the compactor had failures", {"err", LOG_ERR(&err)});
        if (!compactor_sleep(c, pause))
            break;
        pause = with_jitter(interval);
    }
    return NULL;
}

struct compactor *compactor_new(const struct compactor_config *cfg, struct compactor_ring *ring, const struct limits_provider *limits,
                                struct objstore *bucket, const char *default_dir, struct err *err)
{
    struct compactor *c = calloc(1, sizeof(*c));
    ASSERT(c);
    *c = (struct compactor){.cfg = cfg, .ring = ring, .limits = limits, .bucket = bucket, .retry_ms = RETRY_MIN_MS};
    pthread_condattr_t attr;
    pthread_condattr_init(&attr);
    pthread_condattr_setclock(&attr, CLOCK_MONOTONIC);
    pthread_cond_init(&c->wake, &attr);
    pthread_condattr_destroy(&attr);
    pthread_mutex_init(&c->lock, NULL);
    c->dir = strdup(*cfg->data_dir ? cfg->data_dir : default_dir);
    ASSERT(c->dir);
    compactor_metrics_register();
    metric_set(metric_single(compactor_metrics[COMPACTOR_M_INTERVAL]), (double)cfg->compaction_interval / 1e3);
    metric_set(METRIC_WITH(compactor_metrics[COMPACTOR_M_INFO], SL("split-and-merge")), 1);
    bool good = compactor_ranges(cfg, c->ranges_ms, &c->n_ranges, err);
    if (good && !compaction_order_parse(slice_of(cfg->compaction_jobs_order), &c->order))
        good = err_set(err, ERR_CONFIG, "-compactor.compaction-jobs-order: no such order: %s", cfg->compaction_jobs_order);
    if (good)
        return c;
    compactor_free(c);
    return NULL;
}

/* What a killed process left. Only our own folder in it: the data dir may be somebody's home by mistake. */
static bool clear_dir(struct compactor *c, struct err *err)
{
    char *path;
    int n = asprintf(&path, "%s/compact", c->dir);
    ASSERT(n > 0);
    bool good = tree_make(c->dir, err) && tree_remove(path, err);
    free(path);
    return good;
}

bool compactor_start(struct compactor *c, struct err *err)
{
    ASSERT(!c->started);
    atomic_store(&c->canceled, false);
    if (!clear_dir(c, err))
        return false;
    int failed = pthread_create(&c->thread, NULL, loop, c);
    if (failed)
        return err_errno(err, ERR_NO_MEMORY, failed, "starting the compactor");
    pthread_setname_np(c->thread, "compactor");
    c->started = true;
    return true;
}

void compactor_stop(struct compactor *c)
{
    if (!c->started)
        return;
    pthread_mutex_lock(&c->lock);
    atomic_store(&c->canceled, true);
    pthread_cond_broadcast(&c->wake);
    pthread_mutex_unlock(&c->lock);
    pthread_join(c->thread, NULL);
    c->started = false;
}

void compactor_free(struct compactor *c)
{
    if (!c)
        return;
    compactor_stop(c);
    while (c->cache) {
        struct tenant_blocks *t = c->cache;
        c->cache = t->next;
        tenant_blocks_free(t);
    }
    for (size_t i = 0; i < c->n_statuses; i++)
        free(c->statuses[i].tenant);
    free(c->statuses);
    free(c->dir);
    pthread_cond_destroy(&c->wake);
    pthread_mutex_destroy(&c->lock);
    free(c);
}
