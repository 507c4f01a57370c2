/* Rounds, tenants' turns, threads. */
#include "storage/compactor/cleaner/cleaner.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "base/clock.h"
#include "base/logger.h"
#include "base/parallel.h"
#include "storage/compactor/cleaner/cleaner_int.h"

#define METRICS_ROOM cleaner
#define METRICS_DEF "storage/compactor/cleaner/cleaner_metrics.def"
#define METRICS_DEFINE_ONLY
#include "base/metrics_table.h"

#define HTTP_QUEUE 64

/* --- series of tenants --------------------------------------------------------------------------------------------- */

void cleaner_forget_metrics(struct slice tenant)
{
    static const enum cleaner_metric_id by_user[] = {CLEANER_BLOCKS, CLEANER_MARKED, CLEANER_PARTIALS, CLEANER_INDEX_UPDATED};
    for (size_t i = 0; i < ARRAY_LEN(by_user); i++)
        metric_remove(cleaner_metrics[by_user[i]], &tenant);
    metric_remove(cleaner_metrics[CLEANER_JOBS], (const struct slice[]){SL("split"), tenant});
    metric_remove(cleaner_metrics[CLEANER_JOBS], (const struct slice[]){SL("merge"), tenant});
}

static void free_known(struct cleaner *c)
{
    for (size_t i = 0; i < c->n_known; i++)
        free(c->known[i]);
    free(c->known);
    c->known = NULL;
    c->n_known = 0;
}

static int by_text(const void *a, const void *b)
{
    return strcmp(*(char *const *)a, *(char *const *)b);
}

/* Who has gone, or is another compactor's now, has no series here. ours is sorted. */
static void know_tenants(struct cleaner *c, const struct slice *ours, size_t n)
{
    char **known = calloc(n + 1, sizeof(*known));
    ASSERT(known);
    for (size_t i = 0; i < n; i++)
        known[i] = slice_strdup(ours[i]);
    qsort(known, n, sizeof(*known), by_text);
    for (size_t i = 0; i < c->n_known; i++)
        if (!n || !bsearch(&c->known[i], known, n, sizeof(*known), by_text))
            cleaner_forget_metrics(slice_of(c->known[i]));
    free_known(c);
    c->known = known;
    c->n_known = n;
}

/* --- a round ------------------------------------------------------------------------------------------------------- */

struct round {
    struct cleaner *c;
    const struct ctx *ctx;
    const struct slice *tenants;
    pthread_mutex_t lock;
    struct err err; /* the last; guarded by lock */
    bool failed;    /* guarded by lock */
};

static bool take_turn(struct tenant_turn *t, struct err *err)
{
    struct tenant_mark mark;
    struct err why = ERR_NONE;
    if (!ctx_check(t->ctx, err))
        return false;
    if (bucket_read_tenant_mark(t->c->parts.bucket, t->ctx, t->tenant, &mark, &why))
        return cleaner_delete_tenant(t, &mark, err);
    if (why.code != ERR_NOT_FOUND)
        return err_set(err, why.code, "%s", why.text);
    return cleaner_clean(t, err) && cleaner_clean_rooms(t, err);
}

/* One tenant's fault is no other's: never false. */
static bool tenant_job(void *arg, size_t job, struct err *unused)
{
    (void)unused;
    struct round *r = arg;
    struct slice tenant = r->tenants[job];
    if (!r->c->parts.owns(r->c->parts.owns_arg, tenant))
        return true; /* the ring has changed since the round began */
    int64_t retention_ms = limits_of(r->c->parts.limits, tenant)->compactor_blocks_retention_period;
    struct tenant_turn t = {
        .c = r->c, .ctx = r->ctx, .tenant = tenant, .user = tenant, .retention_ms = retention_ms, .now_s = clock_wall_ms() / 1000};
    struct err err = ERR_NONE;
    arena_init(&t.arena, CLEANER_TURN_BYTES);
    bool good = take_turn(&t, &err);
    arena_release(&t.arena);
    if (good)
        return true;
    pthread_mutex_lock(&r->lock);
    r->failed = true;
    r->err = err;
    pthread_mutex_unlock(&r->lock);
    if (err.code == ERR_CANCELED)
        return true;
    metric_inc(metric_single(cleaner_metrics[CLEANER_TENANTS_FAILED]));
    LOG_WARN("a tenant's blocks could not be cleaned", {"user", LOG_SLICE(tenant)}, {"err", LOG_ERR(&err)});
    return true;
}

static bool clean_all(struct cleaner *c, const struct ctx *ctx, struct arena *arena, struct err *err)
{
    const struct slice *all;
    size_t n_all, n = 0;
    if (!bucket_tenants(c->parts.bucket, ctx, arena, &all, &n_all, err))
        return false;
    struct slice *ours = ARENA_ARRAY(arena, struct slice, n_all + 1);
    ASSERT(ours);
    for (size_t i = 0; i < n_all; i++)
        if (c->parts.owns(c->parts.owns_arg, all[i]))
            ours[n++] = all[i];
    struct round r = {.c = c, .ctx = ctx, .tenants = ours, .lock = PTHREAD_MUTEX_INITIALIZER};
    know_tenants(c, ours, n);
    (void)parallel_run(n, (size_t)MAX(c->parts.cfg->cleanup_concurrency, (int64_t)1), tenant_job, &r, NULL);
    pthread_mutex_destroy(&r.lock);
    return r.failed ? err_set(err, r.err.code, "%s", r.err.text) : ctx_check(ctx, err);
}

bool cleaner_run(struct cleaner *c, const struct ctx *ctx, struct err *err)
{
    struct arena arena;
    arena_init(&arena, 0);
    metric_inc(metric_single(cleaner_metrics[CLEANER_STARTED]));
    bool good = clean_all(c, ctx, &arena, err);
    arena_release(&arena);
    metric_inc(metric_single(cleaner_metrics[good ? CLEANER_COMPLETED : CLEANER_FAILED]));
    if (good)
        metric_set(metric_single(cleaner_metrics[CLEANER_LAST_SUCCESS]), (double)(clock_wall_ms() / 1000));
    return good;
}

/* --- the thread ------------------------------------------------------------------------------------------------------ */

/* False: the cleaner stops. */
static bool sleep_until(struct cleaner *c, int64_t until_ms)
{
    struct timespec until = {.tv_sec = until_ms / 1000, .tv_nsec = until_ms % 1000 * 1000000};
    pthread_mutex_lock(&c->lock);
    while (!c->stopping && pthread_cond_timedwait(&c->wake, &c->lock, &until) != ETIMEDOUT)
        ;
    bool stopping = c->stopping;
    pthread_mutex_unlock(&c->lock);
    return !stopping;
}

static void *rounds(void *arg)
{
    struct cleaner *c = arg;
    struct err err = ERR_NONE;
    if (c->parts.wait && !c->parts.wait(c->parts.wait_arg, &c->ctx, &err) && ctx_check(&c->ctx, NULL))
        LOG_WARN("the cleaner begins without a settled ring of compactors", {"err", LOG_ERR(&err)});
    int64_t next_ms = clock_mono_ms();
    do {
        err = ERR_NONE;
        if (!ctx_check(&c->ctx, NULL))
            break;
        if (!cleaner_run(c, &c->ctx, &err) && err.code != ERR_CANCELED)
            LOG_WARN("a round of the cleaner was not without faults", {"err", LOG_ERR(&err)});
        next_ms = MAX(next_ms + MAX(c->parts.cfg->cleanup_interval, (int64_t)100), clock_mono_ms());
    } while (sleep_until(c, next_ms));
    return NULL;
}

struct cleaner *cleaner_new(const struct cleaner_parts *parts)
{
    struct cleaner *c = calloc(1, sizeof(*c));
    ASSERT(c && parts->cfg && parts->limits && parts->bucket && parts->owns && parts->count_mark);
    cleaner_metrics_register();
    c->parts = *parts;
    c->ctx.canceled = &c->canceled;
    c->http = pool_new("cleaner-http", 1, HTTP_QUEUE, 0);
    pthread_mutex_init(&c->lock, NULL);
    pthread_condattr_t attr;
    pthread_condattr_init(&attr);
    pthread_condattr_setclock(&attr, CLOCK_MONOTONIC);
    pthread_cond_init(&c->wake, &attr);
    pthread_condattr_destroy(&attr);
    return c;
}

bool cleaner_start(struct cleaner *c, struct err *err)
{
    ASSERT(!c->running);
    int rc = pthread_create(&c->thread, NULL, rounds, c);
    c->running = rc == 0;
    return c->running || err_errno(err, ERR_INTERNAL, rc, "a thread for the cleaner");
}

void cleaner_stop(struct cleaner *c)
{
    atomic_store(&c->canceled, true);
    pthread_mutex_lock(&c->lock);
    c->stopping = true;
    pthread_cond_broadcast(&c->wake);
    pthread_mutex_unlock(&c->lock);
    if (c->running)
        pthread_join(c->thread, NULL);
    c->running = false;
    pool_stop(c->http);
    c->http = NULL;
}

void cleaner_free(struct cleaner *c)
{
    if (!c)
        return;
    cleaner_stop(c);
    for (size_t i = 0; i < c->n_known; i++)
        cleaner_forget_metrics(slice_of(c->known[i]));
    free_known(c);
    pthread_cond_destroy(&c->wake);
    pthread_mutex_destroy(&c->lock);
    free(c);
}
