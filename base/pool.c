/*
 * A ring of jobs under one lock, workers waiting on one condition. Jobs here are whole requests (tens of microseconds at
 * least), so the lock is not what costs.
 *
 * A worker that takes a job and leaves no idle one for what is queued, or for what comes next, starts one. So while there are fewer than n_threads one is always
 * idle or on its way, and no job waits for another to end. It is the workers that start workers, not those who submit: a thread inherits the priority
 * of the one that started it, and cannot raise it.
 */
#include "base/pool.h"

#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>

#include "base/assert.h"

struct pool_job {
    pool_fn *fn;
    void *job;
};

struct pool {
    pthread_mutex_t lock;
    pthread_cond_t not_empty;
    struct pool_job *ring; /* guarded by lock */
    size_t max_queued;
    size_t head;   /* guarded by lock */
    size_t queued; /* guarded by lock */
    bool stopping; /* guarded by lock */
    size_t arena_budget_bytes;
    size_t max_threads;
    size_t n_idle;       /* guarded by lock */
    size_t n_threads;    /* guarded by lock */
    char name[16];       /* the kernel's limit */
    pthread_t threads[]; /* the first n_threads; guarded by lock */
};

static void *worker(void *arg);

/* With the lock, or before anybody has the pool. Where the system has no more threads those that run do the work. */
static bool start_one(struct pool *p)
{
    if (pthread_create(&p->threads[p->n_threads], NULL, worker, p) != 0)
        return false;
    pthread_setname_np(p->threads[p->n_threads++], p->name);
    return true;
}

/* False when the pool stops and nothing is left. */
static bool take(struct pool *p, struct pool_job *ret)
{
    pthread_mutex_lock(&p->lock);
    p->n_idle++;
    while (p->queued == 0 && !p->stopping)
        pthread_cond_wait(&p->not_empty, &p->lock);
    p->n_idle--;
    bool found = p->queued > 0;
    if (found) {
        *ret = p->ring[p->head];
        p->head = (p->head + 1) % p->max_queued;
        p->queued--;
        if (p->n_idle <= p->queued && p->n_threads < p->max_threads)
            (void)start_one(p);
    }
    pthread_mutex_unlock(&p->lock);
    return found;
}

static void *worker(void *arg)
{
    struct pool *p = arg;
    struct arena arena;
    arena_init(&arena, p->arena_budget_bytes);
    struct pool_job job;
    while (take(p, &job)) {
        job.fn(job.job, &arena);
        arena_clear(&arena);
    }
    arena_release(&arena);
    return NULL;
}

struct pool *pool_new(const char *name, size_t n_threads, size_t max_queued, size_t arena_budget_bytes)
{
    ASSERT(n_threads > 0 && max_queued > 0);
    struct pool *p = calloc(1, sizeof(*p) + n_threads * sizeof(p->threads[0]));
    ASSERT(p);
    p->ring = calloc(max_queued, sizeof(p->ring[0]));
    ASSERT(p->ring);
    p->max_queued = max_queued;
    p->arena_budget_bytes = arena_budget_bytes;
    p->max_threads = n_threads;
    snprintf(p->name, sizeof(p->name), "%s", name);
    pthread_mutex_init(&p->lock, NULL);
    pthread_cond_init(&p->not_empty, NULL);
    pthread_mutex_lock(&p->lock);
    ASSERT(start_one(p));
    pthread_mutex_unlock(&p->lock);
    return p;
}

bool pool_submit(struct pool *p, pool_fn *fn, void *job)
{
    pthread_mutex_lock(&p->lock);
    bool ok = p->queued < p->max_queued && !p->stopping;
    if (ok) {
        p->ring[(p->head + p->queued) % p->max_queued] = (struct pool_job){fn, job};
        p->queued++;
    }
    pthread_mutex_unlock(&p->lock);
    if (ok)
        pthread_cond_signal(&p->not_empty); /* who wakes finds the lock free */
    return ok;
}

size_t pool_queued(struct pool *p)
{
    pthread_mutex_lock(&p->lock);
    size_t n = p->queued;
    pthread_mutex_unlock(&p->lock);
    return n;
}

/* False: there is no thread i. Those that thread i has started are there when it has ended. */
static bool join(struct pool *p, size_t i)
{
    pthread_mutex_lock(&p->lock);
    bool there = i < p->n_threads;
    pthread_t thread = there ? p->threads[i] : pthread_self();
    pthread_mutex_unlock(&p->lock);
    if (there)
        pthread_join(thread, NULL);
    return there;
}

void pool_stop(struct pool *p)
{
    if (!p)
        return;
    pthread_mutex_lock(&p->lock);
    p->stopping = true;
    pthread_cond_broadcast(&p->not_empty);
    pthread_mutex_unlock(&p->lock);
    for (size_t i = 0; join(p, i); i++)
        ;
    pthread_cond_destroy(&p->not_empty);
    pthread_mutex_destroy(&p->lock);
    free(p->ring);
    free(p);
}
