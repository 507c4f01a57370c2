/*
 * One thread that waits for many streams. It hangs its waiter on each of them; whoever changes a stream wakes it. The
 * waiter lives on the thread's stack: it is taken off again, under the streams' locks, before the call returns.
 */
#include <time.h>

#include "base/clock.h"
#include "net/rpc/rpc_client_int.h"

struct rpc_waiter {
    pthread_mutex_t lock; /* taken with a stream's lock held, never the other way */
    pthread_cond_t woken; /* lock */
    bool is_woken;        /* guarded by lock */
};

void rpc_stream_changed(struct rpc_stream *st)
{
    pthread_cond_broadcast(&st->changed);
    struct rpc_waiter *w = st->waiter;
    if (!w)
        return;
    pthread_mutex_lock(&w->lock);
    w->is_woken = true;
    pthread_cond_signal(&w->woken);
    pthread_mutex_unlock(&w->lock);
}

static void waiter_init(struct rpc_waiter *w)
{
    pthread_condattr_t attr;
    *w = (struct rpc_waiter){0};
    pthread_mutex_init(&w->lock, NULL);
    pthread_condattr_init(&attr);
    pthread_condattr_setclock(&attr, CLOCK_MONOTONIC);
    pthread_cond_init(&w->woken, &attr);
    pthread_condattr_destroy(&attr);
}

static void waiter_release(struct rpc_waiter *w)
{
    pthread_cond_destroy(&w->woken);
    pthread_mutex_destroy(&w->lock);
}

static void waiter_sleep(struct rpc_waiter *w, int64_t until_ms)
{
    struct timespec until = {.tv_sec = until_ms / 1000, .tv_nsec = until_ms % 1000 * 1000000};
    pthread_mutex_lock(&w->lock);
    if (!w->is_woken)
        pthread_cond_timedwait(&w->woken, &w->lock, &until);
    w->is_woken = false;
    pthread_mutex_unlock(&w->lock);
}

/* Whether rpc_stream_next would return at once; if not, the waiter hangs on it. A deadline that has passed is an end. */
static bool ready_or_hang(struct rpc_stream *st, struct rpc_waiter *w)
{
    struct client_stream *cs = rpc_client_stream_of(st);
    pthread_mutex_lock(&st->lock);
    bool ready = st->got.first || st->closed || !rpc_client_may_wait(cs->ctx, cs->deadline_ms, NULL);
    st->waiter = ready ? NULL : w;
    pthread_mutex_unlock(&st->lock);
    return ready;
}

static void take_off(struct rpc_stream *st)
{
    pthread_mutex_lock(&st->lock);
    st->waiter = NULL;
    pthread_mutex_unlock(&st->lock);
}

static int64_t next_look_ms(struct rpc_stream *const streams[], size_t n, int64_t until_ms)
{
    for (size_t i = 0; i < n; i++)
        if (streams[i]) {
            const struct client_stream *cs = rpc_client_stream_of(streams[i]);
            until_ms = MIN(until_ms, rpc_client_next_look_ms(cs->deadline_ms, cs->ctx));
        }
    return until_ms;
}

static int first_ready(struct rpc_stream *const streams[], size_t n, struct rpc_waiter *w)
{
    for (size_t i = 0; i < n; i++)
        if (streams[i] && ready_or_hang(streams[i], w))
            return (int)i;
    return -1;
}

int rpc_stream_wait_any(struct rpc_stream *const streams[], size_t n, int64_t timeout_ms)
{
    ASSERT(n <= INT32_MAX);
    struct rpc_waiter w;
    int64_t until_ms = clock_mono_ms() + MIN(MAX(timeout_ms, (int64_t)0), (int64_t)INT32_MAX);
    waiter_init(&w);
    int found = first_ready(streams, n, &w);
    while (found < 0 && clock_mono_ms() < until_ms) {
        waiter_sleep(&w, next_look_ms(streams, n, until_ms));
        found = first_ready(streams, n, &w);
    }
    for (size_t i = 0; i < n; i++)
        if (streams[i])
            take_off(streams[i]);
    waiter_release(&w);
    return found;
}
