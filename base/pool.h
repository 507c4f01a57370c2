/*
 * A pool of worker threads behind one bounded queue. The pool never blocks a producer: pool_submit says no when the queue
 * is full, and the caller turns that into an error for its client.
 *
 * Each worker owns an arena that is cleared between jobs and handed to the job. pool_stop runs what is queued, then joins.
 *
 * Threads are started as work comes: one is there from the beginning, and then one more than have ever been busy at a time, up to n_threads. One that has never
 * worked costs 50 KiB, of stack and of what the allocator keeps for it, and most pools are made for the worst day.
 */
#pragma once

#include <stdbool.h>
#include <stddef.h>

#include "base/arena.h"

struct pool;

typedef void pool_fn(void *job, struct arena *arena);

/* name: thread name, at most 12 characters. arena_budget_bytes is each worker's. Never NULL (asserts when no thread at all can be made). */
struct pool *pool_new(const char *name, size_t n_threads, size_t max_queued, size_t arena_budget_bytes);
bool pool_submit(struct pool *p, pool_fn *fn, void *job); /* returns before pool_stop is called */
size_t pool_queued(struct pool *p);
void pool_stop(struct pool *p); /* and free; NULL is fine */
