/* See beat.h. */
#include "ring/beat.h"

#include <time.h>

#include "base/assert.h"
#include "base/clock.h"

void beat_init(struct beat *b, int64_t period_ms, beat_fn *fn, void *arg)
{
    ASSERT(period_ms > 0);
    *b = (struct beat){.fn = fn, .arg = arg, .period_ms = period_ms};
    pthread_mutex_init(&b->lock, NULL);
    pthread_condattr_t attr;
    pthread_condattr_init(&attr);
    pthread_condattr_setclock(&attr, CLOCK_MONOTONIC);
    pthread_cond_init(&b->wake, &attr);
    pthread_condattr_destroy(&attr);
}

void beat_release(struct beat *b)
{
    ASSERT(!b->started);
    pthread_cond_destroy(&b->wake);
    pthread_mutex_destroy(&b->lock);
}

/* Sleeps a period or until it shall stop. Under the lock. */
static void wait_period(struct beat *b)
{
    int64_t until_ns = clock_mono_ns() + b->period_ms * 1000000;
    struct timespec until = {.tv_sec = until_ns / 1000000000, .tv_nsec = until_ns % 1000000000};
    while (!b->stopping && pthread_cond_timedwait(&b->wake, &b->lock, &until) == 0)
        ;
}

static void beat_on(struct beat *b, bool at_once)
{
    pthread_mutex_lock(&b->lock);
    if (!at_once)
        wait_period(b);
    for (; !b->stopping; wait_period(b)) {
        pthread_mutex_unlock(&b->lock);
        b->fn(b->arg);
        pthread_mutex_lock(&b->lock);
    }
    pthread_mutex_unlock(&b->lock);
}

static void *run_at_once(void *arg)
{
    beat_on(arg, true);
    return NULL;
}

static void *run_later(void *arg)
{
    beat_on(arg, false);
    return NULL;
}

void beat_start(struct beat *b, bool at_once)
{
    ASSERT(!b->started);
    b->started = true;
    b->stopping = false;
    int failed = pthread_create(&b->thread, NULL, at_once ? run_at_once : run_later, b);
    ASSERT(!failed);
}

void beat_stop(struct beat *b)
{
    if (!b->started)
        return;
    pthread_mutex_lock(&b->lock);
    b->stopping = true;
    pthread_cond_broadcast(&b->wake);
    pthread_mutex_unlock(&b->lock);
    pthread_join(b->thread, NULL);
    b->started = false;
}
