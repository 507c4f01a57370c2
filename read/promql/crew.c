/* Series in parallel: see crew_int.h. */
#include "read/promql/crew_int.h"

#include <errno.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "base/clock.h"
#include "base/fair_pool.h"

#define CREW_QUEUE 1024
#define HELPER_SLICE_MS 20 /* then it stands at the end of its tenant's queue again */
#define HELPER_WAITS_NS 1000000 /* for the query's thread to read more */

struct engine_crew {
    struct fair_pool *pool;
    size_t threads;
    size_t min_series;
    atomic_size_t runs; /* that go on now */
};

enum lane_state { LANE_FREE, LANE_READY, LANE_RUNNING, LANE_DONE, LANE_HELD };

struct lane {
    enum lane_state state;
    struct env env;
    struct ctx ctx;
    struct err err;
    struct op *op;
    struct batch *out;
    struct arena *mem; /* of its series: what the set makes for them, and copies of chunks that it gives for one call only */
    struct series series[LANE_SERIES];
    size_t n;
    size_t done; /* series worked on; with failed the last of them is the one */
    bool failed;
    bool unread; /* the series could not be had: err says why */
    atomic_size_t used_bytes;
};

struct crew_run {
    struct crew_run *next; /* of the query's */
    struct env *env;
    struct op *op;
    struct reader *reader;
    const struct lane_ops *ops;
    struct engine_crew *crew;
    struct slice tenant; /* of the query: valid until run_end */
    pthread_mutex_t lock;
    pthread_cond_t done, ready;
    size_t refs, helpers, running;
    size_t helpers_waiting;
    bool closed, at_end;
    size_t first, in_use; /* lanes from first on, in the order of their series */
    size_t n_lanes;
    struct lane *lanes;
};

/* --- the crew -------------------------------------------------------------------------------------------------------------------------- */

struct engine_crew *engine_crew_new(size_t threads, size_t min_series)
{
    if (threads < 2)
        return NULL;
    struct engine_crew *c = calloc(1, sizeof(*c));
    ASSERT(c);
    c->threads = threads;
    c->min_series = min_series;
    c->pool = fair_pool_new("query-help", threads - 1, CREW_QUEUE, 0);
    return c;
}

void engine_crew_free(struct engine_crew *c)
{
    if (!c)
        return;
    fair_pool_stop(c->pool);
    free(c);
}

static size_t lane_cap(const struct grid *g)
{
    return MIN(batch_cap_for(g), (size_t)LANE_SERIES);
}

static size_t lanes_of(const struct engine_crew *c)
{
    return c->threads * 2 + 2;
}

bool run_wanted(const struct op *op, const struct reader *r)
{
    const struct env *env = op->env;
    const struct engine_crew *crew = env->cfg->crew;
    uint64_t max = env->cfg->max_memory_bytes;
    if (!crew || r->n_series < crew->min_series)
        return false;
    /* Columns, and about as much for decoding. */
    uint64_t lane = (lane_cap(&op->grid) * op->grid.n + 2 * r->cap) * 2 * sizeof(double);
    return max == 0 || (env->used_bytes < max && lane * lanes_of(crew) < (max - env->used_bytes) / 4);
}

/* --- one lane -------------------------------------------------------------------------------------------------------------------------- */

static bool lane_init(struct crew_run *run, struct lane *l)
{
    struct env *env = run->env;
    l->ctx = (struct ctx){.tenant = env->ctx->tenant, .deadline_ms = env->ctx->deadline_ms, .canceled = env->ctx->canceled};
    l->env = (struct env){.cfg = env->cfg, .query = env->query, .ctx = &l->ctx, .err = &l->err, .lookback_ms = env->lookback_ms, .over_time = env->over_time};
    if (!(l->env.root = env_arena(&l->env)) || !(l->env.notes = env_arena(&l->env)) || !(l->mem = env_arena(&l->env)))
        return false;
    if (run->op->count.tally && !(l->env.count.tally = tally_new(&l->env, run->op->grid.n)))
        return false;
    return (l->op = run->ops->copy(run->op, &l->env, lane_cap(&run->op->grid), &l->out)) != NULL;
}

static void lane_count(struct lane *l)
{
    size_t n = 0;
    for (const struct mem *m = l->env.mems; m; m = m->next)
        n += m->arena.used_bytes;
    atomic_store_explicit(&l->used_bytes, n, memory_order_relaxed);
}

static void lane_work(struct crew_run *run, struct lane *l)
{
    l->done = 0;
    l->failed = !batch_begin(&l->env, l->out);
    while (!l->failed && l->done < l->n)
        l->failed = !run->ops->one(l->op, &l->series[l->done++]);
    lane_count(l);
}

/* With the lock held, which is let go while the lane is worked on. */
static void work_on(struct crew_run *run, struct lane *l)
{
    l->state = LANE_RUNNING;
    run->running++;
    pthread_mutex_unlock(&run->lock);
    lane_work(run, l);
    pthread_mutex_lock(&run->lock);
    l->state = LANE_DONE;
    run->running--;
}

static struct lane *lane_at(const struct crew_run *run, size_t i)
{
    return &run->lanes[(run->first + i) % run->n_lanes];
}

static struct lane *ready_lane(const struct crew_run *run)
{
    for (size_t i = 0; i < run->in_use; i++)
        if (lane_at(run, i)->state == LANE_READY)
            return lane_at(run, i);
    return NULL;
}

/* --- helpers --------------------------------------------------------------------------------------------------------------------------- */

static void run_unref(struct crew_run *run)
{
    bool last = --run->refs == 0;
    pthread_mutex_unlock(&run->lock);
    if (!last)
        return;
    pthread_mutex_destroy(&run->lock);
    pthread_cond_destroy(&run->done);
    pthread_cond_destroy(&run->ready);
    free(run->lanes);
    free(run);
}

static bool wait_for_work(struct crew_run *run)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    t.tv_nsec += HELPER_WAITS_NS;
    t.tv_sec += t.tv_nsec / 1000000000;
    t.tv_nsec %= 1000000000;
    run->helpers_waiting++;
    int rc = pthread_cond_timedwait(&run->ready, &run->lock, &t);
    run->helpers_waiting--;
    return rc != ETIMEDOUT;
}

/* With as many queries as threads all cores have work: help would only be in the way of who waits for a core. */
static bool cores_are_busy(const struct engine_crew *c)
{
    return atomic_load_explicit(&c->runs, memory_order_relaxed) >= c->threads || fair_pool_queued(c->pool) > 0;
}

static void help(void *job, struct arena *arena)
{
    struct crew_run *run = job;
    int64_t until_ms = clock_mono_ms() + HELPER_SLICE_MS;
    (void)arena;
    pthread_mutex_lock(&run->lock);
    while (!run->closed) {
        struct lane *l = ready_lane(run);
        if (!l && (run->at_end || !wait_for_work(run)))
            break;
        if (!l)
            continue;
        work_on(run, l);
        pthread_cond_signal(&run->done);
        if (clock_mono_ms() < until_ms || run->closed)
            continue;
        if (!cores_are_busy(run->crew) && fair_pool_submit(run->crew->pool, run->tenant, help, run)) {
            pthread_mutex_unlock(&run->lock); /* the reference is the next job's */
            return;
        }
        break;
    }
    run->helpers--;
    run_unref(run);
}

/* With the lock held. */
static void call_helpers(struct crew_run *run)
{
    if (run->helpers_waiting) {
        pthread_cond_signal(&run->ready);
        return;
    }
    if (run->helpers + 1 >= run->crew->threads || cores_are_busy(run->crew))
        return;
    if (fair_pool_submit(run->crew->pool, run->tenant, help, run)) {
        run->helpers++;
        run->refs++;
    }
}

/* --- the query's thread ------------------------------------------------------------------------------------------------------------------ */

struct crew_run *run_new(struct op *op, struct reader *reader, const struct lane_ops *ops)
{
    struct env *env = op->env;
    size_t n_lanes = lanes_of(env->cfg->crew);
    ASSERT(reader_is_empty(reader)); /* its series were of the batch before */
    struct crew_run *run = calloc(1, sizeof(*run));
    struct lane *lanes = calloc(n_lanes, sizeof(*lanes));
    if (!run || !lanes) {
        free(run);
        free(lanes);
        env_memory_error(env);
        return NULL;
    }
    *run = (struct crew_run){.env = env, .op = op, .reader = reader, .ops = ops, .crew = env->cfg->crew, .tenant = env->ctx->tenant,
                             .refs = 1, .n_lanes = n_lanes, .lanes = lanes};
    pthread_condattr_t monotonic;
    pthread_condattr_init(&monotonic);
    pthread_condattr_setclock(&monotonic, CLOCK_MONOTONIC);
    pthread_mutex_init(&run->lock, NULL);
    pthread_cond_init(&run->done, NULL);
    pthread_cond_init(&run->ready, &monotonic);
    pthread_condattr_destroy(&monotonic);
    run->next = env->runs;
    env->runs = run;
    atomic_fetch_add_explicit(&run->crew->runs, 1, memory_order_relaxed);
    return run;
}

/* The chunks of a set that keeps them for one call only. */
static bool copy_chunks(struct lane *l)
{
    for (size_t i = 0; i < l->n; i++) {
        struct series *s = &l->series[i];
        struct series_chunk *chunks = env_zalloc(&l->env, l->mem, s->n_chunks, sizeof(*chunks));
        if (!chunks)
            return false;
        for (size_t k = 0; k < s->n_chunks; k++) {
            chunks[k] = s->chunks[k];
            if (!(chunks[k].data = arena_dup(l->mem, s->chunks[k].data)).p)
                return env_memory_error(&l->env);
        }
        s->chunks = chunks;
    }
    return true;
}

static bool read_series(struct crew_run *run, struct lane *l)
{
    struct reader *r = run->reader;
    bool stay = false;
    arena_rewind(l->mem);
    if (!series_set_next_in(r->set, run->env->ctx, l->mem, l->series, lane_cap(&run->op->grid), &l->n, run->env->err))
        return false;
    if (r->set->traits && r->set->traits->chunks_stay)
        stay = r->set->traits->chunks_stay(r->set);
    return stay || copy_chunks(l) || (*run->env->err = l->err, false);
}

/* Fills the next lane, which is free. What goes wrong is told when its turn comes. */
static void fill(struct crew_run *run, struct lane *l)
{
    struct env *env = run->env;
    l->n = l->done = 0;
    l->failed = false;
    l->unread = !env_tick(env);
    if (!l->unread) {
        l->env.outside_bytes = env->used_bytes - MIN(env->used_bytes, atomic_load_explicit(&l->used_bytes, memory_order_relaxed));
        l->unread = !l->op && !lane_init(run, l) ? (*env->err = l->err, true) : !read_series(run, l);
    }
    if (l->unread)
        l->err = *env->err;
}

static void fill_lanes(struct crew_run *run)
{
    while (!run->at_end && run->in_use < run->n_lanes) {
        struct lane *l = lane_at(run, run->in_use);
        pthread_mutex_unlock(&run->lock);
        fill(run, l);
        pthread_mutex_lock(&run->lock);
        run->at_end = l->unread || l->n == 0;
        if (!l->unread && l->n == 0)
            return;
        run->in_use++;
        l->state = l->unread ? LANE_DONE : LANE_READY;
        if (!l->unread)
            call_helpers(run);
    }
}

/* What one thread would have counted, in its order. */
static bool lane_account(struct crew_run *run, struct lane *l)
{
    struct env *env = run->env, *own = &l->env;
    for (size_t i = 0; i < l->done; i++)
        if (!reader_charge(run->reader, &l->series[i]))
            return false;
    if (l->failed || l->unread) {
        *env->err = l->err;
        return false;
    }
    env->samples_read += own->samples_read;
    bool many = env->cfg->max_samples && env->samples_held + own->samples_most > env->cfg->max_samples;
    own->samples_read = own->samples_most = 0;
    if (own->count.tally)
        tally_move(&run->op->count, own->count.tally);
    if (many)
        return env_too_many_samples(env);
    annotations_move(env, own);
    return true;
}

/* With the lock held: the first lane's batch is there. */
static struct lane *first_done(struct crew_run *run)
{
    for (;;) {
        fill_lanes(run);
        if (run->in_use == 0)
            return NULL;
        struct lane *first = lane_at(run, 0), *l;
        if (first->state == LANE_DONE)
            return first;
        if ((l = ready_lane(run)))
            work_on(run, l);
        else
            pthread_cond_wait(&run->done, &run->lock);
    }
}

bool run_next(struct crew_run *run, struct batch **ret)
{
    *ret = NULL;
    for (;;) {
        pthread_mutex_lock(&run->lock);
        if (run->in_use && lane_at(run, 0)->state == LANE_HELD) {
            lane_at(run, 0)->state = LANE_FREE;
            run->first = (run->first + 1) % run->n_lanes;
            run->in_use--;
        }
        struct lane *l = first_done(run);
        if (l)
            l->state = LANE_HELD;
        pthread_mutex_unlock(&run->lock);
        if (!l)
            return true;
        if (!lane_account(run, l))
            return false;
        if (l->out->n) {
            *ret = l->out;
            return true;
        }
    }
}

void run_end(struct crew_run *run)
{
    if (!run)
        return;
    struct crew_run **at = &run->env->runs;
    while (*at && *at != run)
        at = &(*at)->next;
    if (*at)
        *at = run->next;
    atomic_fetch_sub_explicit(&run->crew->runs, 1, memory_order_relaxed);
    pthread_mutex_lock(&run->lock);
    run->closed = true;
    pthread_cond_broadcast(&run->ready);
    while (run->running)
        pthread_cond_wait(&run->done, &run->lock);
    for (size_t i = 0; i < run->n_lanes; i++)
        env_release(&run->lanes[i].env);
    run_unref(run);
}

uint64_t runs_used_bytes(const struct env *env)
{
    uint64_t n = 0;
    for (const struct crew_run *r = env->runs; r; r = r->next)
        for (size_t i = 0; i < r->n_lanes; i++)
            n += atomic_load_explicit(&r->lanes[i].used_bytes, memory_order_relaxed);
    return n;
}

void runs_release(struct env *env)
{
    while (env->runs)
        run_end(env->runs);
}
