/*
 * One lock guards everything; jobs are whole queries (tens of microseconds at least), so the lock is not what costs. Threads behind take it too, and whoever is
 * taken from a core while holding it lets everybody wait. So nothing is done under it that lets another thread run: who is to be woken is woken behind it
 * (leave), and threads are made, joined and moved by the watcher without it.
 *
 * An owner exists while it has jobs that wait or run, or has used some CPU of late. While it has waiting jobs and may run one more it is in one of two
 * rings of turns, that of the workers in front or that of those behind. A worker takes the first job of the owner at its ring's head and moves that owner to the
 * ring's end.
 *
 * The watcher looks every WATCH_MS at what runs, as long as something has run in the last second; else it sleeps without a timeout, so that an idle
 * process stays idle. It puts workers behind and makes new ones, joins those that have ended, and forgets owners.
 */
#include "base/fair_pool.h"

#include <math.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "base/assert.h"
#include "base/clock.h"
#include "base/priority.h"

#define WATCH_MS 20
#define WATCH_ON_MS 1000
#define OWNER_BUCKETS 256
#define REMEMBERED_MS 5 /* less CPU than that is not remembered */

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
    size_t queued, running;
    size_t name_n;
    char name[];
};

struct worker {
    struct fair_pool *pool;
    /* The watcher's. */
    struct worker *next;
    pthread_t thread;
    bool lowered, spares; /* priority; a core */
    /* Guarded by the pool's lock. */
    pid_t tid;        /* 0 until the thread runs */
    int64_t began_ms; /* of the job; 0: none */
    enum place place;
    bool ended;
};

struct fair_pool {
    pthread_mutex_t lock;
    pthread_cond_t work[PLACES], watch;
    /* All guarded by lock. */
    struct owner *owners[OWNER_BUCKETS];
    struct owner *turn[PLACES]; /* the rings' heads */
    struct waiting *jobs, *free_jobs;
    size_t queued, running, running_behind;
    size_t n_workers[PLACES], n_idle[PLACES];
    size_t n_owners;
    int64_t last_ms;  /* a job began */
    int64_t short_ms; /* a job ended in front */
    bool stopping, watcher_sleeps;
    struct worker *workers; /* the watcher's */
    /* Immutable. */
    size_t n_threads, max_queued, arena_budget_bytes;
    const _Atomic int64_t *others_ms;
    struct priority_cores cores;
    pthread_t watcher;
    char name[16];
};

/* --- owners ---------------------------------------------------------------------------------------------------------------------------- */

static struct owner **bucket_of(struct fair_pool *p, struct slice name)
{
    uint32_t h = 2166136261u;
    for (size_t i = 0; i < name.n; i++)
        h = (h ^ (uint8_t)name.p[i]) * 16777619u;
    return &p->owners[h % OWNER_BUCKETS];
}

static struct owner *owner_get(struct fair_pool *p, struct slice name)
{
    struct owner **bucket = bucket_of(p, name);
    for (struct owner *o = *bucket; o; o = o->next)
        if (slice_eq(slice_make(o->name, o->name_n), name))
            return o;
    struct owner *o = calloc(1, sizeof(*o) + name.n);
    ASSERT(o);
    o->name_n = name.n;
    if (name.n)
        memcpy(o->name, name.p, name.n);
    o->next = *bucket;
    p->n_owners++;
    return *bucket = o;
}

static void leave_turn(struct fair_pool *p, struct owner *o)
{
    if (!o->in_turn)
        return;
    o->in_turn = false;
    if (o->turn_next == o) {
        p->turn[o->place] = NULL;
        return;
    }
    o->turn_prev->turn_next = o->turn_next;
    o->turn_next->turn_prev = o->turn_prev;
    if (p->turn[o->place] == o)
        p->turn[o->place] = o->turn_next;
}

static void join_turn(struct fair_pool *p, struct owner *o, enum place place)
{
    struct owner **head = &p->turn[place];
    if (o->in_turn)
        return;
    o->in_turn = true;
    o->place = place;
    if (!*head)
        *head = o->turn_next = o->turn_prev = o;
    o->turn_next = *head;
    o->turn_prev = (*head)->turn_prev;
    o->turn_prev->turn_next = o->turn_next->turn_prev = o;
}

static double used_by(const struct owner *o, int64_t now_ms)
{
    return o->used_ms > 0 ? o->used_ms * exp((double)(o->used_at_ms - now_ms) / FAIR_POOL_MEMORY_MS) : 0;
}

static void owner_free(struct fair_pool *p, struct owner *o)
{
    struct owner **at = bucket_of(p, slice_make(o->name, o->name_n));
    while (*at != o)
        at = &(*at)->next;
    *at = o->next;
    p->n_owners--;
    free(o);
}

/* In a ring, or in none, as its jobs want; an owner without jobs goes when it is forgotten. */
static void owner_settle(struct fair_pool *p, struct owner *o, int64_t now_ms)
{
    bool wants = o->first && o->running < p->n_threads;
    enum place place = used_by(o, now_ms) > FAIR_POOL_MUCH_MS ? BEHIND : IN_FRONT;
    if (!wants || o->place != place)
        leave_turn(p, o);
    if (wants)
        join_turn(p, o, place);
    if (!o->first && !o->running && used_by(o, now_ms) < REMEMBERED_MS)
        owner_free(p, o);
}

/* The next job of a ring, of an owner that is then in *ret_owner. There is one. */
static struct waiting take(struct fair_pool *p, enum place place, int64_t now_ms, struct owner **ret_owner)
{
    struct owner *o = p->turn[place];
    struct waiting *w = o->first, job = *w;
    if (!(o->first = w->next))
        o->last = NULL;
    w->next = p->free_jobs;
    p->free_jobs = w;
    p->queued--;
    o->queued--;
    o->running++;
    p->turn[place] = o->turn_next;
    owner_settle(p, o, now_ms);
    *ret_owner = o;
    return job;
}

/* --- who is woken ------------------------------------------------------------------------------------------------------------------------- */

static bool lacks_behind(const struct fair_pool *p)
{
    return p->turn[BEHIND] && p->n_idle[BEHIND] == 0 && p->n_workers[BEHIND] < FAIR_POOL_BEHIND * p->n_threads;
}

/* Lets go of the lock, then wakes whoever has something to do by now. */
static void leave(struct fair_pool *p)
{
    bool work[PLACES];
    for (int i = 0; i < PLACES; i++)
        work[i] = p->turn[i] && p->n_idle[i];
    bool watch = lacks_behind(p) || (p->watcher_sleeps && p->running);
    pthread_mutex_unlock(&p->lock);
    for (int i = 0; i < PLACES; i++)
        if (work[i])
            pthread_cond_signal(&p->work[i]);
    if (watch)
        pthread_cond_signal(&p->watch);
}

/* --- workers ------------------------------------------------------------------------------------------------------------------------------ */

static double thread_cpu_ms(void)
{
    struct timespec ts;
    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &ts);
    return (double)ts.tv_sec * 1e3 + (double)ts.tv_nsec / 1e6;
}

/* With the lock, which is let go meanwhile. */
static void run_one(struct fair_pool *p, struct worker *w, struct arena *arena)
{
    struct owner *o;
    int64_t now_ms = clock_mono_ms();
    struct waiting job = take(p, w->place, now_ms, &o);
    w->began_ms = p->last_ms = now_ms;
    p->running++;
    p->running_behind += w->place == BEHIND;
    leave(p);
    double cpu_ms = thread_cpu_ms();
    job.fn(job.job, arena);
    arena_clear(arena);
    cpu_ms = thread_cpu_ms() - cpu_ms;
    pthread_mutex_lock(&p->lock);
    now_ms = clock_mono_ms();
    p->running--;
    p->running_behind -= w->place == BEHIND;
    if (w->place == IN_FRONT)
        p->short_ms = now_ms;
    w->began_ms = 0;
    o->running--;
    o->used_ms = used_by(o, now_ms) + cpu_ms;
    o->used_at_ms = now_ms;
    owner_settle(p, o, now_ms);
    if (p->turn[!w->place]) { /* where the owner may be now; the worker looks at its own ring next */
        leave(p);
        pthread_mutex_lock(&p->lock);
    }
}

/* Is there nothing to be done any more, or is one idle worker enough behind? Each thread that has worked leaves memory with the allocator for a while. */
static bool may_end(const struct fair_pool *p, const struct worker *w)
{
    return (p->stopping && p->queued == 0) || (w->place == BEHIND && p->n_idle[BEHIND] > 0);
}

static void worker_ends(struct fair_pool *p, struct worker *w)
{
    bool stopping = p->stopping;
    p->n_workers[w->place]--;
    w->ended = true;
    pthread_mutex_unlock(&p->lock);
    for (int i = 0; stopping && i < PLACES; i++) /* all look whether anything is left */
        pthread_cond_broadcast(&p->work[i]);
    pthread_cond_signal(&p->watch);
}

static void *worker_main(void *arg)
{
    struct worker *w = arg;
    struct fair_pool *p = w->pool;
    struct arena arena;
    arena_init(&arena, p->arena_budget_bytes);
    pthread_mutex_lock(&p->lock);
    w->tid = gettid();
    if (w->place == BEHIND) {
        pthread_mutex_unlock(&p->lock);
        priority_lower(w->tid, FAIR_POOL_NICE);
        pthread_mutex_lock(&p->lock);
    }
    for (;;) {
        if (p->turn[w->place]) {
            run_one(p, w, &arena);
            continue;
        }
        if (may_end(p, w))
            break;
        p->n_idle[w->place]++;
        pthread_cond_wait(&p->work[w->place], &p->lock);
        p->n_idle[w->place]--;
    }
    worker_ends(p, w);
    arena_release(&arena);
    return NULL;
}

/* --- the watcher --------------------------------------------------------------------------------------------------------------------------- */

/* How many workers are made, without the lock, by add_workers; they count as there from now on. */
static void want_workers(struct fair_pool *p, size_t n, enum place place, size_t ret_n[static PLACES])
{
    p->n_workers[place] += n;
    ret_n[place] += n;
}

static void add_workers(struct fair_pool *p, const size_t n[static PLACES])
{
    for (int place = 0; place < PLACES; place++)
        for (size_t i = 0; i < n[place]; i++) {
            struct worker *w = calloc(1, sizeof(*w));
            ASSERT(w);
            *w = (struct worker){.pool = p, .place = (enum place)place, .lowered = place == BEHIND, .next = p->workers};
            p->workers = w;
            int rc = pthread_create(&w->thread, NULL, worker_main, w);
            ASSERT(rc == 0);
            pthread_setname_np(w->thread, p->name);
        }
}

/* A worker whose job is long goes behind, and another will take its place. */
static void look_at_workers(struct fair_pool *p, int64_t now_ms, size_t ret_new[static PLACES])
{
    for (struct worker *w = p->workers; w; w = w->next)
        if (w->place == IN_FRONT && w->began_ms && now_ms - w->began_ms >= FAIR_POOL_LONG_MS &&
            p->running_behind < FAIR_POOL_BEHIND * p->n_threads) {
            w->place = BEHIND;
            p->n_workers[IN_FRONT]--;
            p->n_workers[BEHIND]++;
            p->running_behind++;
            want_workers(p, 1, IN_FRONT, ret_new);
        }
    if (lacks_behind(p))
        want_workers(p, 1, BEHIND, ret_new);
}

/* Owners that wait behind may have been forgiven, and others forgotten. */
static void look_at_owners(struct fair_pool *p, int64_t now_ms)
{
    for (size_t i = 0; i < OWNER_BUCKETS && p->n_owners; i++)
        for (struct owner *o = p->owners[i], *next; o; o = next) {
            next = o->next;
            owner_settle(p, o, now_ms);
        }
}

/* Takes those that have ended out of the list: the next of a list of their own. */
static struct worker *take_ended(struct fair_pool *p)
{
    struct worker *gone = NULL;
    for (struct worker **at = &p->workers; *at;) {
        struct worker *w = *at;
        if (!w->ended) {
            at = &w->next;
            continue;
        }
        *at = w->next;
        w->next = gone;
        gone = w;
    }
    return gone;
}

static void join_all(struct worker *w)
{
    while (w) {
        struct worker *next = w->next;
        pthread_join(w->thread, NULL);
        free(w);
        w = next;
    }
}

/* Without the lock: those behind stay behind, and none is joined but by the watcher. */
static void move_workers(struct fair_pool *p, bool spare)
{
    for (struct worker *w = p->workers; w; w = w->next) {
        if (w->place != BEHIND)
            continue;
        if (!w->lowered)
            priority_lower(w->tid, FAIR_POOL_NICE);
        if (w->spares != spare)
            priority_spare_a_core(w->thread, &p->cores, spare);
        w->lowered = true;
        w->spares = spare;
    }
}

/* Has anybody who does short work been about in the last second? */
static bool others_work(const struct fair_pool *p, int64_t now_ms)
{
    int64_t others_ms = p->others_ms ? atomic_load_explicit(p->others_ms, memory_order_relaxed) : now_ms;
    return now_ms - others_ms < WATCH_ON_MS || now_ms - p->short_ms < WATCH_ON_MS;
}

static void watch_wait(struct fair_pool *p, int64_t now_ms)
{
    p->watcher_sleeps = !p->stopping && p->n_owners == 0 && now_ms - p->last_ms > WATCH_ON_MS && p->running == 0;
    if (p->watcher_sleeps) {
        pthread_cond_wait(&p->watch, &p->lock);
    } else {
        struct timespec until;
        clock_gettime(CLOCK_MONOTONIC, &until);
        until.tv_nsec += WATCH_MS * 1000000L;
        until.tv_sec += until.tv_nsec / 1000000000;
        until.tv_nsec %= 1000000000;
        pthread_cond_timedwait(&p->watch, &p->lock, &until);
    }
    p->watcher_sleeps = false;
}

static void *watcher_main(void *arg)
{
    struct fair_pool *p = arg;
    pthread_mutex_lock(&p->lock);
    while (!p->stopping || p->workers) {
        int64_t now_ms = clock_mono_ms();
        size_t new[PLACES] = {0, 0};
        struct worker *gone = take_ended(p);
        look_at_owners(p, now_ms);
        look_at_workers(p, now_ms, new);
        bool spare = others_work(p, now_ms);
        leave(p);
        join_all(gone);
        add_workers(p, new);
        move_workers(p, spare);
        pthread_mutex_lock(&p->lock);
        if ((!p->stopping || p->workers) && !lacks_behind(p))
            watch_wait(p, now_ms);
    }
    pthread_mutex_unlock(&p->lock);
    return NULL;
}

/* --- the pool --------------------------------------------------------------------------------------------------------------------------------- */

struct fair_pool *fair_pool_new(const char *name, size_t n_threads, size_t max_queued, size_t arena_budget_bytes, const _Atomic int64_t *others_ms)
{
    ASSERT(n_threads > 0 && max_queued > 0 && strlen(name) < sizeof((struct fair_pool){0}.name));
    struct fair_pool *p = calloc(1, sizeof(*p));
    ASSERT(p);
    p->jobs = calloc(max_queued, sizeof(*p->jobs));
    ASSERT(p->jobs);
    for (size_t i = 0; i < max_queued; i++) {
        p->jobs[i].next = p->free_jobs;
        p->free_jobs = &p->jobs[i];
    }
    p->n_threads = n_threads;
    p->max_queued = max_queued;
    p->others_ms = others_ms;
    priority_cores_init(&p->cores);
    p->arena_budget_bytes = arena_budget_bytes;
    memcpy(p->name, name, strlen(name));
    pthread_condattr_t monotonic;
    pthread_condattr_init(&monotonic);
    pthread_condattr_setclock(&monotonic, CLOCK_MONOTONIC);
    pthread_mutex_init(&p->lock, NULL);
    for (int i = 0; i < PLACES; i++)
        pthread_cond_init(&p->work[i], NULL);
    pthread_cond_init(&p->watch, &monotonic);
    pthread_condattr_destroy(&monotonic);
    size_t new[PLACES] = {0, 0};
    want_workers(p, n_threads, IN_FRONT, new);
    add_workers(p, new);
    int rc = pthread_create(&p->watcher, NULL, watcher_main, p); /* and has the workers from now on */
    ASSERT(rc == 0);
    pthread_setname_np(p->watcher, p->name);
    return p;
}

static void enqueue(struct fair_pool *p, struct owner *o, pool_fn *fn, void *job)
{
    struct waiting *w = p->free_jobs;
    p->free_jobs = w->next;
    *w = (struct waiting){.fn = fn, .job = job};
    if (o->last)
        o->last->next = w;
    else
        o->first = w;
    o->last = w;
    o->queued++;
    p->queued++;
}

bool fair_pool_submit(struct fair_pool *p, struct slice owner, pool_fn *fn, void *job)
{
    pthread_mutex_lock(&p->lock);
    struct owner *o = p->stopping ? NULL : owner_get(p, owner);
    bool taken = o && o->queued < p->max_queued - p->queued;
    if (taken)
        enqueue(p, o, fn, job);
    if (o)
        owner_settle(p, o, clock_mono_ms());
    leave(p);
    return taken;
}

size_t fair_pool_queued(struct fair_pool *p)
{
    pthread_mutex_lock(&p->lock);
    size_t n = p->queued;
    pthread_mutex_unlock(&p->lock);
    return n;
}

size_t fair_pool_behind(struct fair_pool *p)
{
    pthread_mutex_lock(&p->lock);
    size_t n = p->running_behind;
    pthread_mutex_unlock(&p->lock);
    return n;
}

void fair_pool_stop(struct fair_pool *p)
{
    if (!p)
        return;
    pthread_mutex_lock(&p->lock);
    p->stopping = true;
    for (int i = 0; i < PLACES; i++)
        pthread_cond_broadcast(&p->work[i]);
    pthread_cond_signal(&p->watch);
    pthread_mutex_unlock(&p->lock);
    pthread_join(p->watcher, NULL);
    for (int i = 0; i < PLACES; i++)
        pthread_cond_destroy(&p->work[i]);
    pthread_cond_destroy(&p->watch);
    pthread_mutex_destroy(&p->lock);
    for (size_t i = 0; i < OWNER_BUCKETS; i++)
        while (p->owners[i])
            owner_free(p, p->owners[i]);
    free(p->jobs);
    free(p);
}
