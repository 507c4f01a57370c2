/*
 * Inside the pool that owners share. Each file has one part:
 *
 *   fair_pool.c          the door: new, submit, stop
 *   fair_pool_turns.c    owners, and whose job is next
 *   fair_pool_workers.c  the threads that run jobs: who is woken, who ends
 *   fair_pool_watcher.c  the thread that looks at what runs: workers are made, put behind, kept off a core and joined there, owners forgotten
 *
 * One lock guards everything; jobs are whole queries (tens of microseconds at least), so the lock is not what costs. Threads behind take it too, and whoever is
 * taken from a core while holding it lets everybody wait. So nothing is done under it that lets another thread run: who is to be woken is woken behind it
 * (fair_pool_leave), and threads are made, joined and moved by the watcher without it. Only the end of the pool wakes under it.
 */
#pragma once

#include <pthread.h>
#include <semaphore.h>

#include "base/fair_pool.h"
#include "base/priority.h"

#define OWNER_BUCKETS 256

struct waiting {
    pool_fn *fn;
    void *job;
    struct waiting *next;
};

enum place { IN_FRONT, BEHIND, PLACES };

struct owner {
    struct owner *next; /* of its bucket */
    struct owner *turn_next, *turn_prev;
    bool in_turn;
    enum place place; /* of the ring it is in */
    double used_ms;   /* CPU, as of used_at_ms */
    int64_t used_at_ms;
    struct waiting *first, *last;
    size_t queued, running, running_behind;
    size_t name_n;
    char name[];
};

struct worker {
    struct fair_pool *pool;
    sem_t wake; /* posted once by whoever takes the worker off the idle ones */
    bool holds; /* a job; the worker's own, while it waits at a place */
    /* The watcher's. */
    struct worker *next;
    pthread_t thread;
    bool lowered, spares; /* priority; a core */
    struct priority_yield yield; /* once lowered */
    /* Guarded by the pool's lock. */
    struct worker *next_idle;
    bool at_place; /* it waits there, or runs a job that it held and comes back */
    size_t at;     /* the place */
    struct owner *owner; /* of the job; NULL: none runs */
    int64_t began_ms;    /* of the job */
    pid_t tid;           /* 0 until the thread runs */
    enum place place;
    bool ended;
};

struct fair_pool {
    pthread_mutex_t lock;
    pthread_cond_t watch;
    /* All guarded by lock. */
    struct owner *owners[OWNER_BUCKETS];
    struct owner *turn[PLACES];  /* the rings' heads */
    struct worker *idle[PLACES]; /* who has worked last is first */
    struct waiting *jobs, *free_jobs;
    size_t queued, running, running_behind;
    size_t n_workers[PLACES];
    size_t n_waking[PLACES]; /* taken off the idle ones, and have not looked yet */
    size_t n_owners;
    int64_t last_ms; /* a job began */
    bool stopping, watcher_sleeps;
    bool source_ended;
    bool taken[FAIR_POOL_MAX_PLACES]; /* of the source, by a worker in front */
    struct worker *workers; /* the watcher's */
    /* Immutable. */
    size_t n_threads, max_queued, arena_budget_bytes;
    struct priority_cores cores;
    struct fair_pool_source source; /* n: 0, none */
    pthread_t watcher;
    char name[16];
};

/* All with the lock, but where it says otherwise. */

/* Made if there is none; one without jobs goes with the next settle. */
struct owner *fair_pool_owner(struct fair_pool *p, struct slice name);
void fair_pool_owner_free(struct fair_pool *p, struct owner *o);
/* Puts the owner in a ring, or in none, as its jobs want; frees it when it has none and is forgotten. */
void fair_pool_settle(struct fair_pool *p, struct owner *o, int64_t now_ms);
void fair_pool_used(struct owner *o, double cpu_ms, int64_t now_ms);
/* There is a place in the queue. */
void fair_pool_enqueue(struct fair_pool *p, struct owner *o, pool_fn *fn, void *job);
/* The next job of a ring, which is not empty; its owner is then in *ret_owner. */
struct waiting fair_pool_take(struct fair_pool *p, enum place place, int64_t now_ms, struct owner **ret_owner);

/* Is there a job for a worker of this place? No more than n_threads run in front. */
bool fair_pool_may_take(const struct fair_pool *p, enum place place);
/* The worker that the calling thread is, while it waits at a place of its pool's source; else NULL. */
extern _Thread_local struct worker *fair_pool_waiting_worker;
/* Does work behind wait for a worker that is to be made? */
bool fair_pool_lacks_behind(const struct fair_pool *p);
/* Lets go of the lock, then wakes whoever has something to do by now. Whatever may have filled a ring ends with this. */
void fair_pool_leave(struct fair_pool *p);
void fair_pool_wake_all(struct fair_pool *p);
/* Once, without the lock: of a worker that has gone behind, or is about to begin there. */
void fair_pool_lower(struct worker *w);
/* A thread of its own; arg: its struct worker. */
void *fair_pool_worker_main(void *arg);

/* The first workers, before there is a watcher; without the lock. */
void fair_pool_start_workers(struct fair_pool *p);
/* A thread of its own; arg: the pool. */
void *fair_pool_watcher_main(void *arg);
