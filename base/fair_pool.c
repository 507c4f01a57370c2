/* The door of the pool that owners share: see fair_pool_int.h. */
#include "base/fair_pool.h"

#include <stdlib.h>
#include <string.h>

#include "base/assert.h"
#include "base/clock.h"
#include "base/fair_pool_int.h"

struct fair_pool *fair_pool_new(const char *name, size_t n_threads, size_t max_queued, size_t arena_budget_bytes)
{
    return fair_pool_new_at(name, n_threads, max_queued, arena_budget_bytes, &(struct fair_pool_source){.n = 0});
}

struct fair_pool *fair_pool_new_at(const char *name, size_t n_threads, size_t max_queued, size_t arena_budget_bytes, const struct fair_pool_source *source)
{
    ASSERT(n_threads > 0 && max_queued > 0 && strlen(name) < sizeof((struct fair_pool){0}.name) && source->n <= FAIR_POOL_MAX_PLACES);
    struct fair_pool *p = calloc(1, sizeof(*p));
    ASSERT(p);
    p->jobs = calloc(max_queued, sizeof(*p->jobs));
    ASSERT(p->jobs);
    for (size_t i = 0; i < max_queued; i++) {
        p->jobs[i].next = p->free_jobs;
        p->free_jobs = &p->jobs[i];
    }
    p->n_threads = n_threads;
    p->source = *source;
    p->max_queued = max_queued;
    priority_cores_init(&p->cores);
    p->arena_budget_bytes = arena_budget_bytes;
    memcpy(p->name, name, strlen(name));
    pthread_condattr_t monotonic;
    pthread_condattr_init(&monotonic);
    pthread_condattr_setclock(&monotonic, CLOCK_MONOTONIC);
    pthread_mutex_init(&p->lock, NULL);
    pthread_cond_init(&p->watch, &monotonic);
    pthread_condattr_destroy(&monotonic);
    fair_pool_start_workers(p);
    int rc = pthread_create(&p->watcher, NULL, fair_pool_watcher_main, p); /* and has the workers from now on */
    ASSERT(rc == 0);
    pthread_setname_np(p->watcher, p->name);
    return p;
}

static bool submit(struct fair_pool *p, struct slice owner, pool_fn *fn, void *job, struct worker *w)
{
    pthread_mutex_lock(&p->lock);
    struct owner *o = p->stopping ? NULL : fair_pool_owner(p, owner);
    bool taken = o && o->queued < p->max_queued - p->queued;
    if (taken)
        fair_pool_enqueue(p, o, fn, job);
    if (o)
        fair_pool_settle(p, o, clock_mono_ms());
    if (taken && w && w->pool == p && !w->holds && fair_pool_may_take(p, IN_FRONT)) {
        w->holds = true;
        pthread_mutex_unlock(&p->lock);
    } else {
        fair_pool_leave(p);
    }
    return taken;
}

bool fair_pool_submit(struct fair_pool *p, struct slice owner, pool_fn *fn, void *job)
{
    return submit(p, owner, fn, job, NULL);
}

bool fair_pool_submit_here(struct fair_pool *p, struct slice owner, pool_fn *fn, void *job)
{
    return submit(p, owner, fn, job, fair_pool_waiting_worker);
}

bool fair_pool_holds(void)
{
    return fair_pool_waiting_worker && fair_pool_waiting_worker->holds;
}

void fair_pool_offer(void)
{
    if (!fair_pool_holds())
        return;
    struct worker *w = fair_pool_waiting_worker;
    w->holds = false;
    pthread_mutex_lock(&w->pool->lock);
    fair_pool_leave(w->pool);
}

size_t fair_pool_queued(struct fair_pool *p)
{
    pthread_mutex_lock(&p->lock);
    size_t n = p->queued;
    pthread_mutex_unlock(&p->lock);
    return n;
}

size_t fair_pool_behind(struct fair_pool *p)
{
    pthread_mutex_lock(&p->lock);
    size_t n = p->running_behind;
    pthread_mutex_unlock(&p->lock);
    return n;
}

void fair_pool_stop(struct fair_pool *p)
{
    if (!p)
        return;
    pthread_mutex_lock(&p->lock);
    p->stopping = true;
    fair_pool_wake_all(p);
    pthread_cond_signal(&p->watch);
    pthread_mutex_unlock(&p->lock);
    pthread_join(p->watcher, NULL);
    pthread_cond_destroy(&p->watch);
    pthread_mutex_destroy(&p->lock);
    for (size_t i = 0; i < OWNER_BUCKETS; i++)
        while (p->owners[i])
            fair_pool_owner_free(p, p->owners[i]);
    free(p->jobs);
    free(p);
}
