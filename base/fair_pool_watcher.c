/*
 * The watcher looks every WATCH_MS at what runs, as long as something has run in the last second; else it sleeps without a timeout, so that an idle
 * process stays idle. It puts workers behind and makes new ones, joins those that have ended, and forgets owners.
 */
#include <stdlib.h>
#include <time.h>

#include "base/assert.h"
#include "base/clock.h"
#include "base/fair_pool_int.h"

#define WATCH_MS 20
#define WATCH_ON_MS 1000

/* How many workers are made, without the lock, by add_workers; they count as there from now on. */
static void want_workers(struct fair_pool *p, size_t n, enum place place, size_t ret_n[static PLACES])
{
    p->n_workers[place] += n;
    ret_n[place] += n;
}

static void add_workers(struct fair_pool *p, const size_t n[static PLACES])
{
    for (int place = 0; place < PLACES; place++)
        for (size_t i = 0; i < n[place]; i++) {
            struct worker *w = calloc(1, sizeof(*w));
            ASSERT(w);
            *w = (struct worker){.pool = p, .place = (enum place)place, .lowered = place == BEHIND, .next = p->workers};
            p->workers = w;
            sem_init(&w->wake, 0, 0);
            int rc = pthread_create(&w->thread, NULL, fair_pool_worker_main, w);
            ASSERT(rc == 0);
            pthread_setname_np(w->thread, p->name);
        }
}

/* A worker whose job is long goes behind, and another will take its place. */
static void look_at_workers(struct fair_pool *p, int64_t now_ms, size_t ret_new[static PLACES])
{
    for (struct worker *w = p->workers; w; w = w->next)
        if (w->place == BEHIND && w->owner) {
            priority_yield(&w->yield);
        } else if (w->owner && now_ms - w->began_ms >= FAIR_POOL_LONG_MS && p->running_behind < FAIR_POOL_BEHIND * p->n_threads) {
            w->place = BEHIND;
            if (w->at_place)
                p->taken[w->at] = false;
            p->n_workers[IN_FRONT]--;
            p->n_workers[BEHIND]++;
            p->running_behind++;
            w->owner->running_behind++;
            want_workers(p, 1, IN_FRONT, ret_new);
        }
    if (fair_pool_lacks_behind(p))
        want_workers(p, 1, BEHIND, ret_new);
}

/* Owners that wait behind may have been forgiven, and others forgotten. */
static void look_at_owners(struct fair_pool *p, int64_t now_ms)
{
    for (size_t i = 0; i < OWNER_BUCKETS && p->n_owners; i++)
        for (struct owner *o = p->owners[i], *next; o; o = next) {
            next = o->next;
            fair_pool_settle(p, o, now_ms);
        }
}

/* Takes those that have ended out of the list: the next of a list of their own. */
static struct worker *take_ended(struct fair_pool *p)
{
    struct worker *gone = NULL;
    for (struct worker **at = &p->workers; *at;) {
        struct worker *w = *at;
        if (!w->ended) {
            at = &w->next;
            continue;
        }
        *at = w->next;
        w->next = gone;
        gone = w;
    }
    return gone;
}

static void join_all(struct worker *w)
{
    while (w) {
        struct worker *next = w->next;
        pthread_join(w->thread, NULL);
        priority_yield_end(&w->yield);
        sem_destroy(&w->wake);
        free(w);
        w = next;
    }
}

/* Without the lock: those behind stay behind, and none is joined but by the watcher. */
static void move_workers(struct fair_pool *p, bool spare)
{
    for (struct worker *w = p->workers; w; w = w->next) {
        if (w->place != BEHIND)
            continue;
        if (!w->lowered) {
            fair_pool_lower(w);
            priority_yield(&w->yield);
        }
        if (w->spares != spare)
            priority_spare_a_core(w->thread, &p->cores, spare);
        w->lowered = true;
        w->spares = spare;
    }
}

static void watch_wait(struct fair_pool *p, int64_t now_ms)
{
    p->watcher_sleeps = !p->stopping && p->n_owners == 0 && now_ms - p->last_ms > WATCH_ON_MS && p->running == 0;
    if (p->watcher_sleeps) {
        pthread_cond_wait(&p->watch, &p->lock);
    } else {
        struct timespec until;
        clock_gettime(CLOCK_MONOTONIC, &until);
        until.tv_nsec += WATCH_MS * 1000000L;
        until.tv_sec += until.tv_nsec / 1000000000;
        until.tv_nsec %= 1000000000;
        pthread_cond_timedwait(&p->watch, &p->lock, &until);
    }
    p->watcher_sleeps = false;
}

void fair_pool_start_workers(struct fair_pool *p)
{
    size_t new[PLACES] = {0, 0};
    want_workers(p, p->n_threads + p->source.n, IN_FRONT, new);
    add_workers(p, new);
}

void *fair_pool_watcher_main(void *arg)
{
    struct fair_pool *p = arg;
    pthread_mutex_lock(&p->lock);
    while (!p->stopping || p->workers) {
        int64_t now_ms = clock_mono_ms();
        size_t new[PLACES] = {0, 0};
        struct worker *gone = take_ended(p);
        look_at_owners(p, now_ms);
        look_at_workers(p, now_ms, new);
        bool spare = now_ms - priority_short_work_ms() < WATCH_ON_MS;
        fair_pool_leave(p);
        join_all(gone);
        add_workers(p, new);
        move_workers(p, spare);
        pthread_mutex_lock(&p->lock);
        if ((!p->stopping || p->workers) && !fair_pool_lacks_behind(p))
            watch_wait(p, now_ms);
    }
    pthread_mutex_unlock(&p->lock);
    return NULL;
}
