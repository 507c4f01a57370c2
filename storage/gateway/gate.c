/* Gates, and work that several threads do together. */
#include <stdlib.h>
#include <time.h>

#include "base/clock.h"
#include "storage/gateway/gateway_int.h"

void gateway_cond_init(pthread_cond_t *cond)
{
    pthread_condattr_t attr;
    pthread_condattr_init(&attr);
    pthread_condattr_setclock(&attr, CLOCK_MONOTONIC);
    pthread_cond_init(cond, &attr);
    pthread_condattr_destroy(&attr);
}

void gateway_wait(pthread_cond_t *cond, pthread_mutex_t *lock, int64_t ms)
{
    int64_t until_ns = clock_mono_ns() + ms * 1000000;
    struct timespec until = {.tv_sec = until_ns / 1000000000, .tv_nsec = until_ns % 1000000000};
    pthread_cond_timedwait(cond, lock, &until);
}

/* --- gates --- */

void gate_init(struct gate *g, const char *name, int64_t max, int64_t timeout_ms)
{
    struct slice label = slice_of(name);
    *g = (struct gate){.max = max, .timeout_ms = timeout_ms, .name = name};
    pthread_mutex_init(&g->lock, NULL);
    gateway_cond_init(&g->freed);
    metric_set(METRIC_WITH(gateway_metrics[GATEWAY_GATE_MAX], GATEWAY_COMPONENT, label), (double)max);
    g->in_flight = METRIC_WITH(gateway_metrics[GATEWAY_GATE_IN_FLIGHT], GATEWAY_COMPONENT, label);
    g->seconds_admitted = METRIC_WITH(gateway_metrics[GATEWAY_GATE_SECONDS], GATEWAY_COMPONENT, label, SL("permitted"));
}

void gate_release(struct gate *g)
{
    pthread_cond_destroy(&g->freed);
    pthread_mutex_destroy(&g->lock);
}

/* A cancellation wakes nobody, so it is looked for ten times a second. */
static bool wait_for_place(struct gate *g, const struct ctx *ctx, int64_t since_ms, struct err *err)
{
    while (g->max > 0 && g->n >= g->max) {
        if (!ctx_check(ctx, err))
            return false;
        if (g->timeout_ms > 0 && clock_mono_ms() - since_ms >= g->timeout_ms)
            return err_set(err, ERR_UNAVAILABLE, "timeout waiting for concurrency gate");
        gateway_wait(&g->freed, &g->lock, g->timeout_ms > 0 ? MIN(g->timeout_ms, 100) : 100);
    }
    return true;
}

static void observe_refusal(const struct gate *g, const struct err *why, double seconds)
{
    struct slice outcome = why->code == ERR_CANCELED  ? SL("rejected_canceled")
                           : why->code == ERR_TIMEOUT ? SL("rejected_deadline_exceeded")
                                                      : SL("rejected_other");
    metric_observe(METRIC_WITH(gateway_metrics[GATEWAY_GATE_SECONDS], GATEWAY_COMPONENT, slice_of(g->name), outcome), seconds);
}

bool gate_enter(struct gate *g, const struct ctx *ctx, struct err *err)
{
    int64_t since_ms = clock_mono_ms();
    struct err why = ERR_NONE;
    pthread_mutex_lock(&g->lock);
    bool ok = wait_for_place(g, ctx, since_ms, &why);
    g->n += ok;
    pthread_mutex_unlock(&g->lock);
    double seconds = (double)(clock_mono_ms() - since_ms) / 1000;
    if (!ok) {
        observe_refusal(g, &why, seconds);
        if (err)
            *err = why;
        return false;
    }
    metric_observe(g->seconds_admitted, seconds);
    metric_add(g->in_flight, 1);
    return true;
}

void gate_leave(struct gate *g)
{
    pthread_mutex_lock(&g->lock);
    g->n--;
    pthread_cond_signal(&g->freed);
    pthread_mutex_unlock(&g->lock);
    metric_add(g->in_flight, -1);
}

/* --- together --- */

#define TOGETHER_MAX 32 /* threads at one thing */

/*
 * Shared by the caller and the helpers, which may come late or never: who comes when all is taken goes again. So it is freed by the last of them, and what fn and arg
 * point to is touched only while the caller waits.
 *
 * Waking a thread costs more than the part of a small query does. So the caller is alone at first, for as long as it says, and whoever comes calls one more: there are as many at it
 * as there was time for.
 */
struct batch {
    struct pool *pool;
    void (*fn)(void *arg, size_t i);
    void *arg;
    pthread_mutex_t lock;
    pthread_cond_t done;
    size_t next, n_done, n; /* under the lock, as all that follows */
    size_t callable;        /* helpers */
    size_t refs;
};

static void batch_unref(struct batch *b)
{
    pthread_mutex_lock(&b->lock);
    bool last = --b->refs == 0;
    pthread_mutex_unlock(&b->lock);
    if (!last)
        return;
    pthread_cond_destroy(&b->done);
    pthread_mutex_destroy(&b->lock);
    free(b);
}

static void help(void *job, struct arena *arena);

/* For what is left besides what the calling thread takes next. Under the lock. */
static void call_helper(struct batch *b)
{
    if (b->callable == 0 || b->n - b->next < 2)
        return;
    b->callable--;
    b->refs++;
    if (!pool_submit(b->pool, help, b)) {
        b->callable = 0;
        b->refs--;
    }
}

/* Until all is taken; from call_ns on with help. */
static void batch_work(struct batch *b, int64_t call_ns)
{
    pthread_mutex_lock(&b->lock);
    while (b->next < b->n) {
        if (clock_mono_ns() >= call_ns) {
            call_helper(b);
            call_ns = INT64_MAX;
        }
        size_t i = b->next++;
        pthread_mutex_unlock(&b->lock);
        b->fn(b->arg, i);
        pthread_mutex_lock(&b->lock);
        if (++b->n_done == b->n)
            pthread_cond_broadcast(&b->done);
    }
    pthread_mutex_unlock(&b->lock);
}

static void help(void *job, struct arena *arena)
{
    (void)arena;
    batch_work(job, 0);
    batch_unref(job);
}

void together(struct pool *pool, int64_t alone_us, size_t n, void (*fn)(void *arg, size_t i), void *arg)
{
    if (n <= 1 || !pool) {
        for (size_t i = 0; i < n; i++)
            fn(arg, i);
        return;
    }
    struct batch *b = calloc(1, sizeof(*b));
    ASSERT(b);
    *b = (struct batch){.pool = pool, .fn = fn, .arg = arg, .n = n, .callable = MIN(n, (size_t)TOGETHER_MAX) - 1, .refs = 1};
    pthread_mutex_init(&b->lock, NULL);
    pthread_cond_init(&b->done, NULL);
    batch_work(b, clock_mono_ns() + alone_us * 1000);
    pthread_mutex_lock(&b->lock);
    while (b->n_done < b->n)
        pthread_cond_wait(&b->done, &b->lock);
    pthread_mutex_unlock(&b->lock);
    batch_unref(b);
}
