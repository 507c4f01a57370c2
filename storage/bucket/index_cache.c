/*
 * The cache of bucket indexes. A hash table of tenants under one lock; what is in it:
 *
 *   empty    nobody has loaded it yet, or the load was broken off by its caller's deadline: the next reader loads
 *   loading  one thread reads the object, without the lock; others wait on the condition, or, when there is an old snapshot, take that
 *   loaded   a snapshot, or the error of the last load
 *
 * The thread wakes every second, takes one tenant after the other that is due, and loads it as a reader would. A reader that finds a snapshot never
 * waits for a refresh.
 *
 * Memory: the snapshots, of some 180 bytes a block, and 200 bytes a tenant. The lock is a leaf: nothing is called under it but malloc, free and metrics.
 */
#include "storage/bucket/index_cache.h"

#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <time.h>

#include "base/assert.h"
#include "base/clock.h"
#include "base/logger.h"

#define METRICS_ROOM index_cache
#define METRICS_DEF "storage/bucket/index_cache_metrics.def"
#define METRICS_DEFINE
#include "base/metrics_table.h"

#define LOOK_MS 40          /* how often a waiting reader looks whether it is still wanted */
#define REFRESH_LOOK_MS 1000
#define REFRESH_TIMEOUT_MS 60000
#define FIRST_BUCKETS 64
#define UPDATED_LIMIT_S ((int64_t)1 << 40) /* beyond any calendar, and far from overflowing */

const struct flag_def index_cache_flags[] = {
#define FLAG(...) FLAG_ROW(index_cache_config, __VA_ARGS__)
#include "storage/bucket/index_cache_flags.def"
#undef FLAG
};
const size_t index_cache_flags_n = ARRAY_LEN(index_cache_flags);

struct index_snapshot {
    _Atomic size_t refs; /* relaxed up; down: release, and acquire before the end */
    struct arena arena;
    struct bucket_index index; /* immutable */
};

struct entry {
    struct entry *next;
    char *tenant; /* owned */
    size_t tenant_n;
    const struct index_snapshot *snapshot; /* one reference; NULL: none, and failed says why, if loaded_ms is not 0 */
    struct err failed;
    int64_t loaded_ms;    /* when the last load ended; 0: never. Monotonic, as the next */
    int64_t requested_ms;
    bool loading;
};

struct index_cache {
    struct objstore *store;
    struct index_cache_config cfg;
    int64_t update_ms;
    pthread_mutex_t lock;
    pthread_cond_t changed; /* a load ended, or stop */
    struct entry **table;   /* guarded by lock, as the rest */
    size_t n_table;         /* a power of two */
    size_t n_entries;
    bool stopping;
    bool running; /* the thread is; of the thread that starts and stops */
    pthread_t thread;
    atomic_bool cancel; /* ends the refresh that the thread is in; relaxed */
};

/* --- snapshots --------------------------------------------------------------------------------------------------------------- */

const struct bucket_index *index_snapshot_index(const struct index_snapshot *s)
{
    return &s->index;
}

const struct index_snapshot *index_snapshot_ref(const struct index_snapshot *s)
{
    struct index_snapshot *own = (struct index_snapshot *)(uintptr_t)s;
    atomic_fetch_add_explicit(&own->refs, 1, memory_order_relaxed);
    return s;
}

void index_snapshot_unref(const struct index_snapshot *s)
{
    struct index_snapshot *own = (struct index_snapshot *)(uintptr_t)s;
    if (!own || atomic_fetch_sub_explicit(&own->refs, 1, memory_order_acq_rel) != 1)
        return;
    arena_release(&own->arena);
    free(own);
}

/* One reference. */
static struct index_snapshot *snapshot_read(struct index_cache *c, const struct ctx *ctx, struct slice tenant, struct err *err)
{
    struct index_snapshot *s = calloc(1, sizeof(*s));
    ASSERT(s);
    atomic_init(&s->refs, 1);
    arena_init(&s->arena, 0);
    if (bucket_index_read(c->store, ctx, tenant, &s->arena, &s->index, err))
        return s;
    index_snapshot_unref(s);
    return NULL;
}

/* --- the table: under the lock ----------------------------------------------------------------------------------------------- */

static size_t hash(struct slice s)
{
    uint64_t h = UINT64_C(14695981039346656037);
    for (size_t i = 0; i < s.n; i++)
        h = (h ^ (uint8_t)s.p[i]) * UINT64_C(1099511628211);
    return (size_t)(h ^ h >> 32);
}

static struct slice tenant_of(const struct entry *e)
{
    return slice_make(e->tenant, e->tenant_n);
}

static struct entry **find(struct index_cache *c, struct slice tenant)
{
    struct entry **at = &c->table[hash(tenant) & (c->n_table - 1)];
    while (*at && !slice_eq(tenant_of(*at), tenant))
        at = &(*at)->next;
    return at;
}

static void grow(struct index_cache *c)
{
    size_t n = c->n_table * 2;
    struct entry **table = calloc(n, sizeof(struct entry *)), *e;
    ASSERT(table);
    for (size_t i = 0; i < c->n_table; i++)
        while ((e = c->table[i])) {
            struct entry **to = &table[hash(tenant_of(e)) & (n - 1)];
            c->table[i] = e->next;
            e->next = *to;
            *to = e;
        }
    free(c->table);
    c->table = table;
    c->n_table = n;
}

static void drop(struct index_cache *c, struct entry **at)
{
    struct entry *e = *at;
    ASSERT(!e->loading);
    *at = e->next;
    c->n_entries--;
    if (e->snapshot)
        metric_add(metric_single(index_cache_metrics[INDEX_CACHE_M_LOADED]), -1);
    index_snapshot_unref(e->snapshot);
    free(e->tenant);
    free(e);
}

/* Drops what nobody has asked for since before_ms. */
static void drop_idle(struct index_cache *c, int64_t before_ms)
{
    for (size_t i = 0; i < c->n_table; i++)
        for (struct entry **at = &c->table[i]; *at;) {
            if (!(*at)->loading && (*at)->requested_ms < before_ms)
                drop(c, at);
            else
                at = &(*at)->next;
        }
}

static void drop_oldest(struct index_cache *c)
{
    struct entry **oldest = NULL;
    for (size_t i = 0; i < c->n_table; i++)
        for (struct entry **at = &c->table[i]; *at; at = &(*at)->next)
            if (!(*at)->loading && (!oldest || (*at)->requested_ms < (*oldest)->requested_ms))
                oldest = at;
    if (oldest)
        drop(c, oldest);
}

static struct entry *find_or_add(struct index_cache *c, struct slice tenant)
{
    struct entry *e = *find(c, tenant);
    if (e)
        return e;
    if (c->n_entries >= INDEX_CACHE_MAX_TENANTS)
        drop_oldest(c);
    if (c->n_entries >= c->n_table)
        grow(c);
    e = calloc(1, sizeof(*e));
    ASSERT(e);
    e->tenant = slice_strdup(tenant);
    ASSERT(e->tenant);
    e->tenant_n = tenant.n;
    *find(c, tenant) = e;
    c->n_entries++;
    return e;
}

/* What readers get errors of, because it failed or is too old for them, is read again sooner. */
static bool is_due(const struct index_cache *c, const struct entry *e, int64_t now_ms)
{
    if (e->loading || !e->loaded_ms)
        return false;
    bool is_bad = e->failed.code != ERR_OK || !bucket_index_check_age(&e->snapshot->index, clock_wall_ms(), c->cfg.max_stale_period, NULL);
    return now_ms - e->loaded_ms >= (is_bad ? MIN(c->cfg.update_on_error_interval, c->update_ms) : c->update_ms);
}

/* --- loading ----------------------------------------------------------------------------------------------------------------- */

/* What a load found goes into the entry; s is taken over. A refresh that failed leaves the old snapshot, but for an index that is gone. */
static void keep(struct entry *e, struct index_snapshot *s, const struct err *err)
{
    bool had = e->snapshot != NULL;
    e->loaded_ms = MAX(clock_mono_ms(), 1);
    e->failed = *err;
    if (s || err->code == ERR_NOT_FOUND) {
        index_snapshot_unref(e->snapshot);
        e->snapshot = s;
    }
    metric_add(metric_single(index_cache_metrics[INDEX_CACHE_M_LOADED]), (e->snapshot != NULL) - had);
}

/*
 * With the lock, which is given up meanwhile; e stays, since it is loading. A load that is broken off says nothing of the index: that of a reader whose patience
 * ended, or the thread's at its stop. When the thread's patience ends the load has failed.
 */
static void load(struct index_cache *c, const struct ctx *ctx, struct entry *e, bool is_refresh)
{
    struct err err = ERR_NONE;
    e->loading = true;
    pthread_mutex_unlock(&c->lock);
    int64_t from_ns = clock_mono_ns();
    metric_inc(metric_single(index_cache_metrics[INDEX_CACHE_M_LOADS]));
    struct index_snapshot *s = snapshot_read(c, ctx, tenant_of(e), &err);
    bool broken_off = !s && (is_refresh ? atomic_load_explicit(&c->cancel, memory_order_relaxed) : !ctx_check(ctx, NULL));
    metric_observe(metric_single(index_cache_metrics[INDEX_CACHE_M_DURATION]), (double)(clock_mono_ns() - from_ns) / 1e9);
    if (!s && err.code != ERR_NOT_FOUND && !broken_off) {
        metric_inc(metric_single(index_cache_metrics[INDEX_CACHE_M_FAILURES]));
        LOG_WARN("the bucket index cannot be loaded", {"user", LOG_SLICE(tenant_of(e))}, {"err", LOG_ERR(&err)});
    }
    pthread_mutex_lock(&c->lock);
    if (!broken_off)
        keep(e, s, &err);
    e->loading = false;
    pthread_cond_broadcast(&c->changed);
}

static void wait_ms(struct index_cache *c, int64_t ms)
{
    struct timespec until;
    clock_gettime(CLOCK_MONOTONIC, &until);
    until.tv_nsec += ms % 1000 * 1000000;
    until.tv_sec += ms / 1000 + until.tv_nsec / 1000000000;
    until.tv_nsec %= 1000000000;
    pthread_cond_timedwait(&c->changed, &c->lock, &until);
}

/* Until the entry has a snapshot or an error: one of the readers that want it loads, the others wait. With the lock. */
static struct entry *await(struct index_cache *c, const struct ctx *ctx, struct slice tenant, struct err *err)
{
    for (;;) {
        /* Found anew each time: while the lock was given up the entry may have been dropped. */
        struct entry *e = find_or_add(c, tenant);
        e->requested_ms = clock_mono_ms();
        if (e->snapshot || (e->loaded_ms && !e->loading))
            return e;
        if (!ctx_check(ctx, err))
            return NULL;
        if (e->loading)
            wait_ms(c, LOOK_MS);
        else
            load(c, ctx, e, false);
    }
}

const struct index_snapshot *index_cache_get(struct index_cache *c, const struct ctx *ctx, struct slice tenant, struct err *err)
{
    const struct index_snapshot *s = NULL;
    pthread_mutex_lock(&c->lock);
    const struct entry *e = await(c, ctx, tenant, err);
    if (e && e->snapshot)
        s = index_snapshot_ref(e->snapshot);
    else if (e)
        err_set(err, e->failed.code, "%s", e->failed.text);
    pthread_mutex_unlock(&c->lock);
    if (!s || bucket_index_check_age(&s->index, clock_wall_ms(), c->cfg.max_stale_period, err))
        return s;
    index_snapshot_unref(s);
    return NULL;
}

bool bucket_index_check_age(const struct bucket_index *index, int64_t now_ms, int64_t max_stale_ms, struct err *err)
{
    int64_t updated_s = MIN(MAX(index->updated_at_s, -UPDATED_LIMIT_S), UPDATED_LIMIT_S);
    if (max_stale_ms <= 0 || now_ms - updated_s * 1000 <= max_stale_ms)
        return true;
    char at[CLOCK_RFC3339_MAX];
    struct buf period;
    buf_init(&period, 0);
    clock_rfc3339(updated_s, 0, CLOCK_AS_NEEDED, at);
    duration_print(max_stale_ms, &period);
    err_set(err, ERR_BUCKET_INDEX_TOO_OLD,
            "the bucket index is too old. It was last updated at %s, which exceeds the maximum allowed staleness period of %s (err-mimir-%s)", at,
            buf_cstr(&period), err_public_id(ERR_BUCKET_INDEX_TOO_OLD));
    buf_release(&period);
    return false;
}

/* --- the thread -------------------------------------------------------------------------------------------------------------- */

static struct entry *next_due(struct index_cache *c)
{
    int64_t now_ms = clock_mono_ms();
    for (size_t i = 0; i < c->n_table; i++)
        for (struct entry *e = c->table[i]; e; e = e->next)
            if (is_due(c, e, now_ms))
                return e;
    return NULL;
}

static void *refresh(void *arg)
{
    struct index_cache *c = arg;
    pthread_mutex_lock(&c->lock);
    while (!c->stopping) {
        drop_idle(c, clock_mono_ms() - c->cfg.idle_timeout);
        struct entry *e = next_due(c);
        if (!e) {
            wait_ms(c, REFRESH_LOOK_MS);
            continue;
        }
        struct ctx ctx = {.deadline_ms = clock_mono_ms() + REFRESH_TIMEOUT_MS, .canceled = &c->cancel};
        load(c, &ctx, e, true);
    }
    pthread_mutex_unlock(&c->lock);
    return NULL;
}

/* --- life cycle -------------------------------------------------------------------------------------------------------------- */

struct index_cache *index_cache_new(struct objstore *s, const struct index_cache_config *cfg, int64_t update_ms)
{
    struct index_cache *c = calloc(1, sizeof(*c));
    ASSERT(c);
    index_cache_metrics_register();
    c->store = s;
    c->cfg = *cfg;
    c->update_ms = update_ms;
    c->n_table = FIRST_BUCKETS;
    c->table = calloc(c->n_table, sizeof(struct entry *));
    ASSERT(c->table);
    pthread_mutex_init(&c->lock, NULL);
    pthread_condattr_t attr;
    pthread_condattr_init(&attr);
    pthread_condattr_setclock(&attr, CLOCK_MONOTONIC);
    pthread_cond_init(&c->changed, &attr);
    pthread_condattr_destroy(&attr);
    return c;
}

void index_cache_start(struct index_cache *c)
{
    ASSERT(!c->running);
    c->stopping = false;
    atomic_store_explicit(&c->cancel, false, memory_order_relaxed);
    c->running = pthread_create(&c->thread, NULL, refresh, c) == 0;
    ASSERT(c->running);
    pthread_setname_np(c->thread, "index-cache");
}

void index_cache_stop(struct index_cache *c)
{
    if (!c->running)
        return;
    pthread_mutex_lock(&c->lock);
    c->stopping = true;
    atomic_store_explicit(&c->cancel, true, memory_order_relaxed);
    pthread_cond_broadcast(&c->changed);
    pthread_mutex_unlock(&c->lock);
    pthread_join(c->thread, NULL);
    c->running = false;
}

void index_cache_free(struct index_cache *c)
{
    if (!c)
        return;
    index_cache_stop(c);
    drop_idle(c, INT64_MAX);
    ASSERT(c->n_entries == 0);
    free(c->table);
    pthread_cond_destroy(&c->changed);
    pthread_mutex_destroy(&c->lock);
    free(c);
}
