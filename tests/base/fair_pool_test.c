/* The pool that owners share: turns, the bound of one owner, long jobs that go behind and leave a core, the end. */
#include <criterion/criterion.h>
#include <errno.h>
#include <pthread.h>
#include <sched.h>
#include <semaphore.h>
#include <stdatomic.h>
#include <sys/resource.h>
#include <time.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/fair_pool.h"
#include "base/priority.h"

/* Jobs that note their order, and wait for a gate where they are told to. */
struct order {
    pthread_mutex_t lock;
    pthread_cond_t opened;
    bool open;
    char text[4096];
    size_t n;
    atomic_int running, most;
};

struct job {
    struct order *order;
    char letter;
    bool waits;
};

static void note(void *arg, struct arena *arena)
{
    struct job *j = arg;
    struct order *o = j->order;
    cr_assert_not_null(arena_alloc(arena, 100));
    int running = atomic_fetch_add(&o->running, 1) + 1, most = atomic_load(&o->most);
    while (running > most && !atomic_compare_exchange_weak(&o->most, &most, running))
        ;
    pthread_mutex_lock(&o->lock);
    while (j->waits && !o->open)
        pthread_cond_wait(&o->opened, &o->lock);
    o->text[o->n++] = j->letter;
    pthread_mutex_unlock(&o->lock);
    atomic_fetch_sub(&o->running, 1);
}

static void order_init(struct order *o)
{
    *o = (struct order){.open = false};
    pthread_mutex_init(&o->lock, NULL);
    pthread_cond_init(&o->opened, NULL);
}

static void open_gate(struct order *o)
{
    pthread_mutex_lock(&o->lock);
    o->open = true;
    pthread_cond_broadcast(&o->opened);
    pthread_mutex_unlock(&o->lock);
}

static void pause_ms(long ms)
{
    nanosleep(&(struct timespec){ms / 1000, ms % 1000 * 1000000}, NULL);
}

/* Waits until so many are done. */
static bool wait_for(struct order *o, size_t n)
{
    size_t done = 0;
    for (int i = 0; i < 10000 && done < n; i++) {
        pthread_mutex_lock(&o->lock);
        done = o->n;
        pthread_mutex_unlock(&o->lock);
        pause_ms(1);
    }
    return done >= n;
}

/* One place, at which each post of `events` brings in a job of "a" (where twice: two at once), until `ended`. */
struct arrivals {
    struct fair_pool *_Atomic pool;
    sem_t events;
    atomic_bool ended, twice;
    atomic_int leaves;
    _Atomic pthread_t waiter, runner;
    atomic_bool block; /* jobs last */
    atomic_int began, ran;
};

static void arrived(void *arg, struct arena *arena)
{
    (void)arena;
    struct arrivals *a = arg;
    a->runner = pthread_self();
    a->began++;
    while (a->block)
        pause_ms(1);
    a->ran++;
}

static bool wait_for_arrivals(void *arg, size_t place, bool block)
{
    struct arrivals *a = arg;
    (void)place;
    while (!fair_pool_holds()) {
        if ((block ? sem_wait(&a->events) : sem_trywait(&a->events)) != 0)
            return true;
        if (a->ended)
            return false;
        a->waiter = pthread_self();
        cr_assert(fair_pool_submit_here(a->pool, SL("a"), arrived, a));
        if (a->twice)
            cr_assert(fair_pool_submit_here(a->pool, SL("a"), arrived, a));
    }
    return true;
}

static void leave_arrivals(void *arg, size_t place)
{
    (void)place;
    ((struct arrivals *)arg)->leaves++;
}

static void arrivals_start(struct arrivals *a, size_t n_threads)
{
    *a = (struct arrivals){.ended = false};
    sem_init(&a->events, 0, 0);
    a->pool = fair_pool_new_at("test", n_threads, 8, 0,
                               &(struct fair_pool_source){.wait = wait_for_arrivals, .leave = leave_arrivals, .arg = a, .n = 1});
}

static bool arrivals_ran(struct arrivals *a, int n)
{
    for (int i = 0; i < 10000 && a->ran < n; i++)
        pause_ms(1);
    return a->ran >= n;
}

static void arrivals_stop(struct arrivals *a)
{
    a->ended = true;
    sem_post(&a->events);
    fair_pool_stop(a->pool);
    sem_destroy(&a->events);
}

Test(fair_pool, who_brings_a_job_in_runs_it_and_comes_back)
{
    struct arrivals a;
    arrivals_start(&a, 2);
    for (int i = 1; i <= 20; i++) {
        sem_post(&a.events);
        cr_assert(arrivals_ran(&a, i));
        cr_assert(pthread_equal(a.waiter, a.runner));
    }
    arrivals_stop(&a);
    cr_assert_eq(a.ran, 20);
    cr_assert_eq(a.leaves, 0);
}

Test(fair_pool, a_second_job_wakes_another_worker)
{
    struct arrivals a;
    arrivals_start(&a, 2);
    a.twice = a.block = true;
    sem_post(&a.events);
    for (int i = 0; i < 10000 && a.began < 2; i++)
        pause_ms(1);
    cr_assert_eq(a.began, 2, "both have been taken up, though neither ends");
    a.block = false;
    cr_assert(arrivals_ran(&a, 2));
    arrivals_stop(&a);
}

Test(fair_pool, who_goes_behind_leaves_its_place_to_another)
{
    struct arrivals a;
    arrivals_start(&a, 1);
    a.block = true;
    sem_post(&a.events);
    for (int i = 0; i < 10000 && fair_pool_behind(a.pool) < 1; i++)
        pause_ms(1);
    pthread_t first = a.runner;
    a.block = false;
    cr_assert(arrivals_ran(&a, 1));
    sem_post(&a.events);
    cr_assert(arrivals_ran(&a, 2));
    cr_assert(!pthread_equal(first, a.waiter));
    arrivals_stop(&a);
    cr_assert_eq(a.leaves, 1);
}

Test(fair_pool, owners_take_turns)
{
    struct order o;
    order_init(&o);
    struct fair_pool *p = fair_pool_new("test", 1, 64, 0);
    struct job gate = {&o, '.', true}, a = {&o, 'a', false}, b = {&o, 'b', false}, c = {&o, 'c', false};
    cr_assert(fair_pool_submit(p, SL("gate"), note, &gate));
    while (fair_pool_queued(p))
        pause_ms(1);
    for (int i = 0; i < 6; i++)
        cr_assert(fair_pool_submit(p, SL("a"), note, &a));
    for (int i = 0; i < 2; i++)
        cr_assert(fair_pool_submit(p, SL("b"), note, &b));
    cr_assert(fair_pool_submit(p, SL(""), note, &c));
    open_gate(&o);
    fair_pool_stop(p);
    cr_assert_str_eq(o.text, ".abcabaaaa");
}

Test(fair_pool, long_jobs_go_behind_and_leave_their_workers_to_others)
{
    struct order o;
    order_init(&o);
    struct fair_pool *p = fair_pool_new("test", 3, 64, 0);
    struct job heavy = {&o, 'h', true}, light = {&o, 'l', false};
    for (int i = 0; i < 20; i++)
        cr_assert(fair_pool_submit(p, SL("heavy"), note, &heavy));
    for (int i = 0; i < 10000 && fair_pool_behind(p) < 3; i++)
        pause_ms(1);
    cr_assert_eq(fair_pool_behind(p), 3);
    cr_assert(fair_pool_submit(p, SL("light"), note, &light));
    cr_assert(wait_for(&o, 1), "the light job has run beside the heavy ones");
    cr_assert_eq(o.text[0], 'l');
    cr_assert_leq(atomic_load(&o.most), 4, "three of one owner, and one");
    cr_assert_eq(fair_pool_queued(p), 17);
    open_gate(&o);
    fair_pool_stop(p);
    cr_assert_eq(o.n, 21);
}

Test(fair_pool, so_many_are_behind_and_no_more)
{
    struct order o;
    order_init(&o);
    struct fair_pool *p = fair_pool_new("test", 2, 64, 0);
    struct job heavy = {&o, 'h', true};
    static const char *const owners[] = {"a", "b", "c", "d", "e"};
    for (int i = 0; i < 10; i++)
        cr_assert(fair_pool_submit(p, slice_of(owners[i / 2]), note, &heavy));
    pause_ms(20 * FAIR_POOL_LONG_MS);
    cr_assert_eq(fair_pool_behind(p), 2 * FAIR_POOL_BEHIND);
    cr_assert_eq(atomic_load(&o.running), 2 * FAIR_POOL_BEHIND + 2);
    open_gate(&o);
    fair_pool_stop(p);
    cr_assert_eq(o.n, 10);
}

static void burn(void *arg, struct arena *arena)
{
    struct timespec from, now;
    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &from);
    do
        clock_gettime(CLOCK_THREAD_CPUTIME_ID, &now);
    while ((now.tv_sec - from.tv_sec) * 1000 + (now.tv_nsec - from.tv_nsec) / 1000000 < FAIR_POOL_MUCH_MS / 2);
    note(arg, arena);
}

static atomic_int nice_values[2];

static void note_nice(void *arg, struct arena *arena)
{
    errno = 0;
    atomic_store(&nice_values[((struct job *)arg)->letter == 'h'], getpriority(PRIO_PROCESS, (id_t)gettid()));
    note(arg, arena);
}

Test(fair_pool, who_has_used_much_works_behind)
{
    struct order o;
    order_init(&o);
    struct fair_pool *p = fair_pool_new("test", 2, 64, 0);
    struct job heavy = {&o, 'h', false}, light = {&o, 'l', false};
    for (int i = 0; i < 6; i++)
        cr_assert(fair_pool_submit(p, SL("heavy"), burn, &heavy));
    cr_assert(wait_for(&o, 6));
    cr_assert(fair_pool_submit(p, SL("heavy"), note_nice, &heavy));
    cr_assert(fair_pool_submit(p, SL("light"), note_nice, &light));
    cr_assert(wait_for(&o, 8));
    int mine = getpriority(PRIO_PROCESS, (id_t)gettid());
    cr_assert_eq(atomic_load(&nice_values[0]), mine);
    cr_assert_eq(atomic_load(&nice_values[1]), PRIORITY_LONG_WORK > mine ? PRIORITY_LONG_WORK : mine);
    fair_pool_stop(p);
}

Test(fair_pool, who_has_as_many_waiting_as_there_are_places_left_must_go)
{
    struct order o;
    order_init(&o);
    struct fair_pool *p = fair_pool_new("test", 1, 8, 0);
    struct job gate = {&o, '.', true};
    static const struct {
        const char *owner;
        int taken;
    } fill[] = {{"a", 4}, {"b", 2}, {"c", 1}, {"d", 1}, {"e", 0}, {"a", 0}};
    cr_assert(fair_pool_submit(p, SL("a"), note, &gate));
    while (fair_pool_queued(p))
        pause_ms(1);
    for (size_t i = 0; i < sizeof fill / sizeof fill[0]; i++) {
        for (int k = 0; k < fill[i].taken; k++)
            cr_assert(fair_pool_submit(p, slice_of(fill[i].owner), note, &gate), "%s, job %d", fill[i].owner, k);
        cr_assert_not(fair_pool_submit(p, slice_of(fill[i].owner), note, &gate), "%s has its share", fill[i].owner);
    }
    open_gate(&o);
    fair_pool_stop(p);
    cr_assert_eq(o.n, 9);
}

struct core_count {
    struct fair_pool *pool;
    bool others; /* do short work meanwhile */
    int wanted, seen;
};

/* Waits until its thread is behind and may use as many cores as are wanted. */
static void count_cores(void *arg, struct arena *arena)
{
    struct core_count *c = arg;
    cpu_set_t mine;
    (void)arena;
    for (int i = 0; i < 10000 && (c->seen != c->wanted || fair_pool_behind(c->pool) == 0); i++) {
        if (c->others)
            priority_short_work(clock_mono_ms());
        pause_ms(1);
        cr_assert_eq(sched_getaffinity(0, sizeof(mine), &mine), 0);
        c->seen = CPU_COUNT(&mine);
    }
}

static int all_cores(void)
{
    cpu_set_t all;
    cr_assert_eq(sched_getaffinity(0, sizeof(all), &all), 0);
    return CPU_COUNT(&all);
}

static void expect_cores(bool others, int cores)
{
    struct core_count c = {fair_pool_new("test", 1, 64, 0), others, cores, 0};
    cr_assert(fair_pool_submit(c.pool, SL("heavy"), count_cores, &c));
    fair_pool_stop(c.pool);
    cr_assert_eq(c.seen, cores);
}

Test(fair_pool, those_behind_leave_a_core_to_others)
{
    expect_cores(true, all_cores() > 1 ? all_cores() - 1 : 1);
}

Test(fair_pool, with_nobody_about_those_behind_use_all_cores)
{
    expect_cores(false, all_cores());
}

/* Whether a job of the owner, ended beside one of "heavy" that is behind, counts as short work. */
static bool is_in_the_way(struct slice owner)
{
    struct order o, gate;
    order_init(&o);
    order_init(&gate);
    struct fair_pool *p = fair_pool_new("test", 2, 64, 0);
    struct job heavy = {&gate, 'h', true}, light = {&o, 'l', false};
    int64_t before_ms = priority_short_work_ms();
    cr_assert(fair_pool_submit(p, SL("heavy"), note, &heavy));
    for (int i = 0; i < 10000 && fair_pool_behind(p) == 0; i++)
        pause_ms(1);
    cr_assert(fair_pool_submit(p, owner, note, &light));
    cr_assert(wait_for(&o, 1));
    pause_ms(20); /* the job has noted its end before its worker has */
    cr_assert_eq(fair_pool_behind(p), 1);
    bool noted = priority_short_work_ms() != before_ms;
    open_gate(&gate);
    fair_pool_stop(p);
    return noted;
}

Test(fair_pool, an_owners_short_work_is_not_in_the_way_of_its_own_long_work)
{
    cr_assert_not(is_in_the_way(SL("heavy")));
    cr_assert(is_in_the_way(SL("light")));
}

struct many {
    struct fair_pool *pool;
    struct job job;
    int taken;
};

static void *submit_many(void *arg)
{
    struct many *m = arg;
    for (int i = 0; i < 1000; i++) {
        char owner[2] = {(char)('a' + i % 7), 0};
        m->taken += fair_pool_submit(m->pool, slice_of(owner), note, &m->job);
    }
    return NULL;
}

Test(fair_pool, stop_runs_what_was_taken_from_many_threads)
{
    struct order o;
    order_init(&o);
    struct fair_pool *p = fair_pool_new("test", 4, 32, 0);
    struct many many[4];
    pthread_t threads[4];
    size_t taken = 0;
    for (int i = 0; i < 4; i++) {
        many[i] = (struct many){.pool = p, .job = {&o, 'x', false}};
        pthread_create(&threads[i], NULL, submit_many, &many[i]);
    }
    for (int i = 0; i < 4; i++) {
        pthread_join(threads[i], NULL);
        taken += (size_t)many[i].taken;
    }
    fair_pool_stop(p);
    cr_assert_eq(o.n, taken);
    cr_assert_geq(taken, 16); /* who is alone is given as many places */
    fair_pool_stop(NULL);
}
