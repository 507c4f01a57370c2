#include "base/parallel.h"

#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>

#include "base/assert.h"

#define THREADS_MAX 64

struct parallel {
    size_t n;
    parallel_fn *fn;
    void *arg;
    atomic_size_t next;  /* relaxed: only says who takes what */
    atomic_bool failed;  /* relaxed: a late look begins one more item */
    pthread_mutex_t lock; /* guards err; innermost */
    struct err err;       /* of the first that failed */
};

static void *work(void *arg)
{
    struct parallel *p = arg;
    while (!atomic_load_explicit(&p->failed, memory_order_relaxed)) {
        struct err err = ERR_NONE;
        size_t i = atomic_fetch_add_explicit(&p->next, 1, memory_order_relaxed);
        if (i >= p->n)
            break;
        if (p->fn(p->arg, i, &err))
            continue;
        pthread_mutex_lock(&p->lock);
        if (!atomic_exchange_explicit(&p->failed, true, memory_order_relaxed))
            p->err = err;
        pthread_mutex_unlock(&p->lock);
    }
    return NULL;
}

bool parallel_run(size_t n, size_t n_threads, parallel_fn *fn, void *arg, struct err *err)
{
    struct parallel p = {.n = n, .fn = fn, .arg = arg};
    pthread_t threads[THREADS_MAX];
    size_t started = 0, want = MIN(MIN(n_threads, n), THREADS_MAX);
    pthread_mutex_init(&p.lock, NULL);
    /* The caller works too. A thread that cannot be had is done without. */
    while (started + 1 < want && pthread_create(&threads[started], NULL, work, &p) == 0)
        started++;
    work(&p);
    for (size_t i = 0; i < started; i++)
        pthread_join(threads[i], NULL);
    pthread_mutex_destroy(&p.lock);
    bool good = !atomic_load_explicit(&p.failed, memory_order_relaxed);
    if (!good && err)
        *err = p.err;
    return good;
}
