/* The pool of workers: started as there is work, all at once when jobs wait for each other, joined at the end. */
#include <criterion/criterion.h>
#include <dirent.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>

#include "base/pool.h"

#define THREADS 16

struct together {
    pthread_barrier_t met;
    _Atomic size_t done;
};

static void meet(void *job, struct arena *arena)
{
    struct together *t = job;
    cr_assert_not_null(arena_alloc(arena, 100));
    pthread_barrier_wait(&t->met);
    atomic_fetch_add(&t->done, 1);
}

static void count(void *job, struct arena *arena)
{
    (void)arena;
    atomic_fetch_add((_Atomic size_t *)job, 1);
}

/* Threads of this process with that name. */
static size_t threads_named(const char *name)
{
    size_t n = 0;
    DIR *d = opendir("/proc/self/task");
    cr_assert_not_null(d);
    for (struct dirent *e; (e = readdir(d));) {
        char path[300], comm[32] = "";
        snprintf(path, sizeof(path), "/proc/self/task/%s/comm", e->d_name);
        FILE *f = fopen(path, "r");
        if (f && fgets(comm, sizeof(comm), f)) {
            comm[strcspn(comm, "\n")] = 0;
            n += strcmp(comm, name) == 0;
        }
        if (f)
            fclose(f);
    }
    closedir(d);
    return n;
}

Test(pool, jobs_that_wait_for_each_other_all_run)
{
    struct pool *p = pool_new("together", THREADS, THREADS, 1 << 20);
    struct together t = {.done = 0};
    pthread_barrier_init(&t.met, NULL, THREADS);
    for (int i = 0; i < THREADS; i++)
        cr_assert(pool_submit(p, meet, &t));
    pool_stop(p);
    cr_assert_eq(atomic_load(&t.done), THREADS);
    pthread_barrier_destroy(&t.met);
}

Test(pool, threads_are_started_as_there_is_work)
{
    struct pool *p = pool_new("lazy", THREADS, THREADS, 1 << 20);
    pool_queued(p); /* the name is set under the same lock */
    cr_assert_eq(threads_named("lazy"), 1);
    struct together t = {.done = 0};
    pthread_barrier_init(&t.met, NULL, 3);
    cr_assert(pool_submit(p, meet, &t));
    cr_assert(pool_submit(p, meet, &t));
    pthread_barrier_wait(&t.met); /* two are busy */
    pool_queued(p);
    cr_assert_eq(threads_named("lazy"), 3);
    pool_stop(p);
    cr_assert_eq(atomic_load(&t.done), 2);
    cr_assert_eq(threads_named("lazy"), 0);
    pthread_barrier_destroy(&t.met);
}

Test(pool, what_is_queued_when_it_stops_is_run)
{
    struct pool *p = pool_new("stops", 4, 1000, 1 << 20);
    _Atomic size_t n = 0;
    for (int i = 0; i < 1000; i++)
        cr_assert(pool_submit(p, count, &n));
    pool_stop(p);
    cr_assert_eq(atomic_load(&n), 1000);
}

Test(pool, a_full_queue_says_no)
{
    struct pool *p = pool_new("full", 1, 1, 1 << 20);
    struct together t = {.done = 0};
    pthread_barrier_init(&t.met, NULL, 2);
    cr_assert(pool_submit(p, meet, &t));
    while (pool_queued(p))
        sched_yield();
    _Atomic size_t n = 0;
    cr_assert(pool_submit(p, count, &n));
    cr_assert_not(pool_submit(p, count, &n));
    pthread_barrier_wait(&t.met);
    pool_stop(p);
    cr_assert_eq(atomic_load(&n), 1);
    pthread_barrier_destroy(&t.met);
}
