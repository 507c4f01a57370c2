/*
 * Races at the stop of the pool that owners share, and wake-ups that get lost: pools are made, given jobs of random length from many threads, and stopped at a
 * random moment, over and over. Jobs submit others too, also while the pool stops. Each job that was taken must have run when the stop is over; should a stop
 * hang, an alarm ends the program. Run under TSan and ASan.
 *
 *     fair_pool_stress [seconds]
 */
#include <errno.h>
#include <pthread.h>
#include <semaphore.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>
#include <unistd.h>

#include "base/assert.h"
#include "base/clock.h"
#include "base/fair_pool.h"
#include "base/priority.h"

#define LANES 3 /* each with a pool of its own at a time */
#define SUBMITTERS 3
#define OWNERS 5
#define HANG_SECONDS 60

struct lane {
    struct fair_pool *pool;
    uint64_t seed;
    size_t jobs_each;
    bool lasting; /* until workers go behind */
    atomic_size_t taken, ran;
    sem_t events; /* jobs that workers bring in themselves */
    atomic_bool ended;
    size_t stops, all_ran;
};

static int64_t until_ms;

static uint64_t next(uint64_t *r)
{
    *r = *r * 6364136223846793005u + 1442695040888963407u;
    return *r >> 33;
}

static void burn_us(uint64_t us)
{
    int64_t end_ns = clock_mono_ns() + (int64_t)us * 1000;
    while (clock_mono_ns() < end_ns)
        ;
}

static void nap_us(uint64_t us)
{
    nanosleep(&(struct timespec){(time_t)(us / 1000000), (long)(us % 1000000) * 1000}, NULL);
}

static void work(void *arg, struct arena *arena);

typedef bool submit_fn(struct fair_pool *p, struct slice owner, pool_fn *fn, void *job);

static void submit_by(struct lane *l, uint64_t *r, submit_fn *fn)
{
    char owner[] = {(char)('a' + next(r) % OWNERS), 0};
    bool taken = fn(l->pool, slice_of(owner), work, l);
    atomic_fetch_add(&l->taken, taken);
}

static void submit(struct lane *l, uint64_t *r)
{
    submit_by(l, r, fair_pool_submit);
}

/* A worker at the source: each event is a job, which it mostly keeps. */
static bool wait_for_events(void *arg, size_t place, bool block)
{
    struct lane *l = arg;
    uint64_t r = (uint64_t)clock_mono_ns() ^ place;
    while (!fair_pool_holds()) {
        int rc = block ? sem_wait(&l->events) : sem_trywait(&l->events);
        if (rc != 0 && errno == EAGAIN)
            return true;
        if (rc != 0)
            continue;
        if (atomic_load(&l->ended)) {
            sem_post(&l->events); /* the other place's */
            return false;
        }
        submit_by(l, &r, fair_pool_submit_here);
        if (next(&r) % 4 == 0)
            fair_pool_offer();
    }
    return true;
}

static void leave_events(void *arg, size_t place)
{
    (void)place;
    sem_post(&((struct lane *)arg)->events);
}

/* Mostly next to nothing; sometimes a while on the core or asleep; where it lasts, now and then until the worker is behind. */
static void work(void *arg, struct arena *arena)
{
    struct lane *l = arg;
    uint64_t r = (uint64_t)clock_mono_ns() ^ (uint64_t)(uintptr_t)arena, what = next(&r) % 64;
    ASSERT(arena_alloc(arena, 1 + next(&r) % 100));
    if (what < 8)
        burn_us(next(&r) % 300);
    else if (what < 12)
        nap_us(next(&r) % 2000);
    else if (what < 14 && l->lasting)
        nap_us((FAIR_POOL_LONG_MS + next(&r) % 60) * 1000);
    if (what % 3 == 0)
        submit(l, &r);
    if (what == 40)
        priority_short_work(clock_mono_ms());
    atomic_fetch_add(&l->ran, 1);
}

static void *submitter(void *arg)
{
    struct lane *l = arg;
    uint64_t r = l->seed ^ (uint64_t)(uintptr_t)&r;
    size_t n = next(&r) % (l->jobs_each + 1);
    for (size_t i = 0; i < n; i++) {
        if (next(&r) % 2)
            submit(l, &r);
        else
            sem_post(&l->events);
        if (next(&r) % 8 == 0)
            nap_us(next(&r) % 200);
    }
    return NULL;
}

/* Nobody may submit from outside once a pool has been freed: the submitters end before the stop, the jobs' own go on. */
static void one_pool(struct lane *l, uint64_t *r)
{
    pthread_t threads[SUBMITTERS];
    size_t n = next(r) % (SUBMITTERS + 1);
    atomic_store(&l->taken, 0);
    atomic_store(&l->ran, 0);
    l->lasting = next(r) % 64 == 0;
    l->jobs_each = next(r) % 4 == 0 ? 0 : next(r) % 60;
    l->seed = next(r);
    sem_init(&l->events, 0, 0);
    atomic_store(&l->ended, false);
    struct fair_pool_source source = {.wait = wait_for_events, .leave = leave_events, .arg = l, .n = next(r) % 3};
    l->pool = fair_pool_new_at("stress", 1 + next(r) % 4, 1 + next(r) % 40, 0, &source);
    for (size_t i = 0; i < n; i++)
        ASSERT(pthread_create(&threads[i], NULL, submitter, l) == 0);
    for (size_t i = 0; i < n; i++)
        pthread_join(threads[i], NULL);
    if (next(r) % 3 == 0)
        nap_us(next(r) % (l->lasting ? 200000 : 3000));
    if (next(r) % 256 == 0)
        nap_us(1200000); /* the watcher sleeps */
    atomic_store(&l->ended, true);
    sem_post(&l->events);
    fair_pool_stop(l->pool);
    sem_destroy(&l->events);
    ASSERT(atomic_load(&l->taken) == atomic_load(&l->ran));
    l->all_ran += atomic_load(&l->ran);
    l->stops++;
}

static void *lane_main(void *arg)
{
    struct lane *l = arg;
    uint64_t r = l->seed;
    while (clock_mono_ms() < until_ms) {
        alarm(HANG_SECONDS);
        one_pool(l, &r);
    }
    return NULL;
}

int main(int argc, char **argv)
{
    static struct lane lanes[LANES];
    pthread_t threads[LANES];
    size_t stops = 0, ran = 0;
    until_ms = clock_mono_ms() + (argc > 1 ? atoi(argv[1]) : 5) * 1000;
    for (size_t i = 0; i < LANES; i++) {
        lanes[i].seed = (uint64_t)clock_mono_ns() + i;
        ASSERT(pthread_create(&threads[i], NULL, lane_main, &lanes[i]) == 0);
    }
    for (size_t i = 0; i < LANES; i++) {
        pthread_join(threads[i], NULL);
        stops += lanes[i].stops;
        ran += lanes[i].all_ran;
    }
    printf("%zu pools stopped, %zu jobs run\n", stops, ran);
    return 0;
}
