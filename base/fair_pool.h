/*
 * A pool of worker threads that owners (tenants) share, so that one owner's long jobs do not stand in the way of the others' short ones.
 *
 *   in turn   Each owner's jobs wait in a queue of their own, and free workers take from the owners in turn.
 *   bounded   No owner has more than n_threads jobs running at a time.
 *   behind    Workers are in front or behind; those behind have a lower priority (FAIR_POOL_NICE, base/priority.h). A worker whose job runs for longer than
 *             FAIR_POOL_LONG_MS goes behind, and another thread takes its place, so that there are always n_threads workers in front for what comes next.
 *             The jobs of an owner that has used much CPU of late are not taken up in front at all.
 *             (A thread's priority cannot be raised again without privileges, so a worker that has gone behind stays there.)
 *   a core    While others do short work, those behind leave them one core: in the second after priority_short_work (base/priority.h), which the pool itself calls
 *             when a job ends in front while another owner's runs behind. With nobody else about those behind use all, and are as fast as anybody.
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
#define FAIR_POOL_NICE 10
/* An owner has used much when the CPU time of its jobs, weighted by exp(-age / FAIR_POOL_MEMORY_MS), is more than this: a fifth of a core all the time. */
#define FAIR_POOL_MUCH_MS 1000
#define FAIR_POOL_MEMORY_MS 5000

struct fair_pool;

/* name: thread name, at most 12 characters. Never NULL (asserts when threads or memory cannot be had). */
struct fair_pool *fair_pool_new(const char *name, size_t n_threads, size_t max_queued, size_t arena_budget_bytes);
/* owner is copied. */
bool fair_pool_submit(struct fair_pool *p, struct slice owner, pool_fn *fn, void *job);
size_t fair_pool_queued(struct fair_pool *p);
/* Jobs that run behind. */
size_t fair_pool_behind(struct fair_pool *p);
/* Runs what is queued, joins all threads, frees; NULL is fine. */
void fair_pool_stop(struct fair_pool *p);
