/*
 * Workers of the pool that owners share. An idle one sleeps on a semaphore of its own. On a condition it would come back taking the lock as if others waited
 * for it too, and each letting go would then be a system call; and the one woken would be the one that has slept longest, where here it is the one
 * whose memory is still in a cache.
 *
 * No wake-up is lost: a worker looks at its ring and goes to the idle ones without letting go of the lock in between, and a semaphore that is posted before it is
 * waited for does not wait. Whatever fills a ring (a job comes, a job ends, an owner is forgiven) is followed by fair_pool_leave, which takes one
 * worker off the idle ones for each ring that is not empty; that worker takes a job and leaves likewise, which wakes the next while there is more. A worker that
 * runs a job looks at its own ring again behind it.
 *
 * With a source, workers that find nothing wait at its places first, and are not idle ones then: nobody wakes them. That leaves no job behind, since there are
 * source.n more workers than n_threads: as long as a job may be taken up in front, somebody is idle, or about to look. A job that a worker has brought in
 * itself wakes nobody either (`holds`); it looks at the ring next. A worker that runs such a job keeps its place meanwhile, unless it goes behind.
 */
#include <errno.h>
#include <unistd.h>

#include "base/assert.h"
#include "base/clock.h"
#include "base/fair_pool_int.h"

_Thread_local struct worker *fair_pool_waiting_worker;

/* --- who is woken ------------------------------------------------------------------------------------------------------------------------- */

/* NULL: there is none. The caller posts; until then the worker does not end. */
static struct worker *take_idle(struct fair_pool *p, int place)
{
    struct worker *w = p->idle[place];
    if (w) {
        p->idle[place] = w->next_idle;
        p->n_waking[place]++;
    }
    return w;
}

bool fair_pool_lacks_behind(const struct fair_pool *p)
{
    return p->turn[BEHIND] && !p->idle[BEHIND] && p->n_waking[BEHIND] == 0 && p->n_workers[BEHIND] < FAIR_POOL_BEHIND * p->n_threads;
}

bool fair_pool_may_take(const struct fair_pool *p, enum place place)
{
    return p->turn[place] && (place == BEHIND || p->running - p->running_behind < p->n_threads);
}

void fair_pool_leave(struct fair_pool *p)
{
    struct worker *workers[PLACES];
    for (int i = 0; i < PLACES; i++)
        workers[i] = fair_pool_may_take(p, (enum place)i) ? take_idle(p, i) : NULL;
    bool watch = fair_pool_lacks_behind(p) || (p->watcher_sleeps && p->running);
    pthread_mutex_unlock(&p->lock);
    for (int i = 0; i < PLACES; i++)
        if (workers[i])
            sem_post(&workers[i]->wake);
    if (watch)
        pthread_cond_signal(&p->watch);
}

void fair_pool_wake_all(struct fair_pool *p)
{
    for (int i = 0; i < PLACES; i++)
        for (struct worker *w; (w = take_idle(p, i));)
            sem_post(&w->wake);
}

/* With the lock, which is let go meanwhile. */
static void sleep_idle(struct worker *w)
{
    struct fair_pool *p = w->pool;
    w->next_idle = p->idle[w->place];
    p->idle[w->place] = w;
    pthread_mutex_unlock(&p->lock);
    while (sem_wait(&w->wake) != 0)
        ASSERT(errno == EINTR);
    pthread_mutex_lock(&p->lock);
    p->n_waking[w->place]--;
}

/* --- what they do ------------------------------------------------------------------------------------------------------------------------- */

static double thread_cpu_ms(void)
{
    return (double)clock_thread_cpu_ns() / 1e6;
}

/* With the lock. An owner is not in the way of itself: its own short work does not keep its long work off a core. */
static void job_ended(struct fair_pool *p, struct worker *w, double cpu_ms)
{
    struct owner *o = w->owner;
    int64_t now_ms = clock_mono_ms();
    w->owner = NULL;
    p->running--;
    o->running--;
    if (w->place == BEHIND) {
        p->running_behind--;
        o->running_behind--;
    } else if (p->running_behind > o->running_behind) {
        priority_short_work(now_ms);
    }
    fair_pool_used(o, cpu_ms, now_ms);
    fair_pool_settle(p, o, now_ms);
}

/* With the lock, which is let go meanwhile. *cpu_ms: of the thread, up to the end of its last job; each look at that clock is a system call. */
static void run_one(struct worker *w, struct arena *arena, double *cpu_ms)
{
    struct fair_pool *p = w->pool;
    int64_t now_ms = clock_mono_ms();
    struct waiting job = fair_pool_take(p, w->place, now_ms, &w->owner);
    w->holds = false;
    w->began_ms = p->last_ms = now_ms;
    p->running++;
    bool behind = w->place == BEHIND;
    if (behind) {
        p->running_behind++;
        w->owner->running_behind++;
    }
    fair_pool_leave(p);
    if (behind)
        priority_yield(&w->yield);
    job.fn(job.job, arena);
    arena_clear(arena);
    double before_ms = *cpu_ms;
    *cpu_ms = thread_cpu_ms();
    pthread_mutex_lock(&p->lock);
    job_ended(p, w, *cpu_ms - before_ms);
    if (p->turn[!w->place]) { /* where the owner may be now; the worker looks at its own ring next */
        fair_pool_leave(p);
        pthread_mutex_lock(&p->lock);
    }
}

/* With the lock. */
static bool find_place(struct worker *w)
{
    struct fair_pool *p = w->pool;
    for (size_t i = 0; w->place == IN_FRONT && !p->source_ended && i < p->source.n; i++)
        if (!p->taken[i]) {
            p->taken[i] = w->at_place = true;
            w->at = i;
            return true;
        }
    return false;
}

/*
 * With the lock, which is let go meanwhile. What a worker does at a place is nobody's job, and its time not charged to the owner of the next one. The jobs
 * that are there already are not kept waiting for it.
 */
static void wait_at_place(struct worker *w, double *cpu_ms)
{
    struct fair_pool *p = w->pool;
    bool block = !fair_pool_may_take(p, w->place);
    fair_pool_leave(p);
    w->holds = false;
    fair_pool_waiting_worker = w;
    bool goes_on = p->source.wait(p->source.arg, w->at, block);
    fair_pool_waiting_worker = NULL;
    *cpu_ms = thread_cpu_ms();
    pthread_mutex_lock(&p->lock);
    p->source_ended |= !goes_on;
    if (!w->holds)
        p->taken[w->at] = w->at_place = false;
}

/* The same for a worker that has gone behind meanwhile; its place is not its own any more. */
static void leave_place(struct worker *w)
{
    struct fair_pool *p = w->pool;
    w->at_place = false;
    pthread_mutex_unlock(&p->lock);
    p->source.leave(p->source.arg, w->at);
    pthread_mutex_lock(&p->lock);
}

/* Is there nothing to be done any more, or is one idle worker enough behind? Each thread that has worked leaves memory with the allocator for a while. */
static bool may_end(const struct fair_pool *p, const struct worker *w)
{
    return (p->stopping && p->queued == 0) || (w->place == BEHIND && p->idle[BEHIND]);
}

static void worker_ends(struct worker *w)
{
    struct fair_pool *p = w->pool;
    p->n_workers[w->place]--;
    w->ended = true;
    if (p->stopping)
        fair_pool_wake_all(p); /* all look whether anything is left */
    pthread_mutex_unlock(&p->lock);
    pthread_cond_signal(&p->watch); /* the watcher, and with it the pool, stays until it has joined this thread */
}

void fair_pool_lower(struct worker *w)
{
    priority_lower(w->tid, PRIORITY_LONG_WORK);
    priority_yield_init(&w->yield, w->tid);
}

void *fair_pool_worker_main(void *arg)
{
    struct worker *w = arg;
    struct fair_pool *p = w->pool;
    double cpu_ms = 0;
    struct arena arena;
    arena_init(&arena, p->arena_budget_bytes);
    pthread_mutex_lock(&p->lock);
    w->tid = gettid();
    if (w->place == BEHIND) {
        pthread_mutex_unlock(&p->lock);
        fair_pool_lower(w);
        pthread_mutex_lock(&p->lock);
    }
    for (;;) {
        if (w->at_place && w->place == BEHIND)
            leave_place(w);
        else if (w->at_place && !w->holds)
            wait_at_place(w, &cpu_ms);
        else if (fair_pool_may_take(p, w->place))
            run_one(w, &arena, &cpu_ms);
        else if (w->at_place || find_place(w))
            wait_at_place(w, &cpu_ms);
        else if (may_end(p, w))
            break;
        else
            sleep_idle(w);
    }
    worker_ends(w);
    arena_release(&arena);
    return NULL;
}
