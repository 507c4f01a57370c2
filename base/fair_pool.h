/*
 * A pool of worker threads that owners (tenants) share, so that one owner's long jobs do not stand in the way of the others' short ones.
 *
 *   in turn   Each owner's jobs wait in a queue of their own, and free workers take from the owners in turn.
 *   bounded   No owner has more than n_threads jobs running at a time.
 *   behind    Workers are in front or behind; those behind have a lower priority and yield (base/priority.h). A worker whose job runs for longer than
 *             FAIR_POOL_LONG_MS goes behind, and another thread takes its place, so that there are always n_threads workers in front for what comes next.
 *             The jobs of an owner that has used much CPU of late are not taken up in front at all.
 *             (A thread's priority cannot be raised again without privileges, so a worker that has gone behind stays there.)
 *   a core    While others do short work, those behind leave them one core: in the second after priority_short_work (base/priority.h), which the pool itself calls
 *             when a job ends in front while another owner's runs behind. With nobody else about those behind use all, and are as fast as anybody.
 *
 * Jobs may come in by way of the pool itself (struct fair_pool_source): then a worker that has nothing to do waits where they come from, and runs the job that it
 * has brought in itself, in its turn, with no other thread woken. There are as many more workers in front as may wait so; no more jobs run for it.
 *
 * All queues together are bounded by max_queued, and an owner may have as many waiting as there are places left: alone half of them, and others still find
 * room. fair_pool_submit never blocks, it says no. Each worker owns an arena that is cleared between jobs and handed
 * to the job. All functions may be called from any thread.
 */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/pool.h"
#include "base/slice.h"

#define FAIR_POOL_LONG_MS 50
#define FAIR_POOL_BEHIND 1 /* times n_threads: at most so many jobs run behind; long ones past it keep their workers in front */
/* An owner has used much when the CPU time of its jobs, weighted by exp(-age / FAIR_POOL_MEMORY_MS), is more than this: a fifth of a core all the time. */
#define FAIR_POOL_MUCH_MS 1000
#define FAIR_POOL_MEMORY_MS 5000

struct fair_pool;

/* name: thread name, at most 12 characters. Never NULL (asserts when threads or memory cannot be had). */
struct fair_pool *fair_pool_new(const char *name, size_t n_threads, size_t max_queued, size_t arena_budget_bytes);

/*
 * Where jobs come from: n places, at each of which one worker in front may wait. Whoever else can see to a place does so while no worker is there: a worker that
 * has gone for a job comes back when it is done, if that does not take long.
 */
#define FAIR_POOL_MAX_PLACES 16
struct fair_pool_source {
    /*
     * Called by a worker: does what there is to be done at the place, which may submit jobs. block: waits for more, until fair_pool_holds; else returns at once.
     * False: the source has ended, and is not asked again. It ends before fair_pool_stop.
     */
    bool (*wait)(void *arg, size_t place, bool block);
    /* Called instead, by a worker that has gone behind with the job it had brought in: it does not come back. */
    void (*leave)(void *arg, size_t place);
    void *arg;
    size_t n;
};
/* The source is copied. */
struct fair_pool *fair_pool_new_at(const char *name, size_t n_threads, size_t max_queued, size_t arena_budget_bytes, const struct fair_pool_source *source);
/* For wait, else as fair_pool_submit: wakes nobody, if this thread can take a job up itself and has brought in no other one yet. It shall return soon. */
bool fair_pool_submit_here(struct fair_pool *p, struct slice owner, pool_fn *fn, void *job);
/* Such a job is there. */
bool fair_pool_holds(void);
/* The calling thread has other things to do first: another worker is woken for it. */
void fair_pool_offer(void);
/* owner is copied. */
bool fair_pool_submit(struct fair_pool *p, struct slice owner, pool_fn *fn, void *job);
size_t fair_pool_queued(struct fair_pool *p);
/* Jobs that run behind. */
size_t fair_pool_behind(struct fair_pool *p);
/* Runs what is queued, joins all threads, frees; NULL is fine. */
void fair_pool_stop(struct fair_pool *p);
