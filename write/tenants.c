/* See tenants.h. */
#include "write/tenants.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/assert.h"
#include "write/write_int.h"

#define BUCKETS 4096 /* chains of two or three at the default bound */
#define SWEEP_EVERY_MS 60000

struct write_tenants {
    pthread_mutex_t turnover; /* held while tenants are made or freed */
    pthread_mutex_t lock;
    struct write_tenant *buckets[BUCKETS]; /* guarded by lock */
    atomic_size_t n;                       /* writers hold lock; read by the scrape without it */
    int64_t swept_ms;                      /* guarded by lock */
    size_t max;                            /* the rest is immutable */
    int64_t idle_ms;
    enum token_kind token_kind;
    size_t known_max;
    struct known_budget *budget;
};

struct write_tenants *write_tenants_new(size_t max_tenants, int64_t idle_ms, enum token_kind token_kind, size_t known_max,
                                        struct known_budget *budget)
{
    struct write_tenants *t = calloc(1, sizeof(*t));
    ASSERT(t);
    pthread_mutex_init(&t->turnover, NULL);
    pthread_mutex_init(&t->lock, NULL);
    t->max = max_tenants;
    t->idle_ms = idle_ms;
    t->token_kind = token_kind;
    t->known_max = known_max;
    t->budget = budget;
    return t;
}

static uint64_t hash_name(struct slice name)
{
    return series_hash_of(name, 0).lo;
}

static void make_metrics(struct write_tenant *t)
{
    struct tenant_metrics *m = &t->metrics;
    m->requests_in[0] = METRIC_WITH(write_metrics[WRITE_M_REQUESTS_IN], t->name, SL("1.0"));
    m->requests_in[1] = METRIC_WITH(write_metrics[WRITE_M_REQUESTS_IN], t->name, SL("2.0"));
    m->samples_in = METRIC_WITH(write_metrics[WRITE_M_SAMPLES_IN], t->name);
    m->received_requests = METRIC_WITH(write_metrics[WRITE_M_RECEIVED_REQUESTS], t->name);
    m->received_samples = METRIC_WITH(write_metrics[WRITE_M_RECEIVED_SAMPLES], t->name);
    m->received_bytes = METRIC_WITH(write_metrics[WRITE_M_RECEIVED_BYTES], t->name);
    m->latest_seen = METRIC_WITH(write_metrics[WRITE_M_LATEST_SEEN], t->name);
    m->samples_per_request = METRIC_WITH(write_metrics[WRITE_M_SAMPLES_PER_REQUEST], t->name);
    m->body_size = METRIC_WITH(write_metrics[WRITE_M_BODY_SIZE], SL("push"), t->name);
}

/* Families with the one label "user", all of whose series of this tenant are ours. */
static const enum write_metric_id by_user[] = {
    WRITE_M_SAMPLES_IN,        WRITE_M_EXEMPLARS_IN,       WRITE_M_METADATA_IN,
    WRITE_M_RECEIVED_REQUESTS, WRITE_M_RECEIVED_SAMPLES,   WRITE_M_RECEIVED_EXEMPLARS,
    WRITE_M_RECEIVED_METADATA, WRITE_M_RECEIVED_HISTOGRAM_SAMPLES, WRITE_M_RECEIVED_HISTOGRAM_BUCKETS,
    WRITE_M_RECEIVED_BYTES,    WRITE_M_DROPPED_HISTOGRAMS, WRITE_M_LATEST_SEEN,
    WRITE_M_SAMPLES_PER_REQUEST, WRITE_M_EXEMPLARS_PER_REQUEST,
};

static void remove_metrics(const struct write_tenant *t)
{
    for (size_t i = 0; i < ARRAY_LEN(by_user); i++)
        metric_remove(write_metrics[by_user[i]], (const struct slice[]){t->name});
    metric_remove(write_metrics[WRITE_M_REQUESTS_IN], (const struct slice[]){t->name, SL("1.0")});
    metric_remove(write_metrics[WRITE_M_REQUESTS_IN], (const struct slice[]){t->name, SL("2.0")});
    metric_remove(write_metrics[WRITE_M_BODY_SIZE], (const struct slice[]){SL("push"), t->name});
    metric_remove(write_metrics[WRITE_M_DISCARDED_REQUESTS], (const struct slice[]){SL("rate_limited"), t->name});
}

static struct write_tenant *tenant_new(struct write_tenants *all, struct slice name, uint64_t hash)
{
    struct write_tenant *t = calloc(1, sizeof(*t) + name.n);
    ASSERT(t);
    char *copy = (char *)(t + 1);
    memcpy(copy, name.p, name.n);
    t->name = slice_make(copy, name.n);
    t->name_hash = hash;
    t->token_start = token_add(all->token_kind, TOKEN_EMPTY, name);
    t->latest_seen_s = -INFINITY;
    pthread_mutex_init(&t->lock, NULL);
    known_series_init(&t->known, all->known_max, all->budget);
    make_metrics(t);
    return t;
}

static void tenant_free(struct write_tenant *t)
{
    remove_metrics(t);
    known_series_release(&t->known);
    partition_ring_free(t->shard);
    partition_ring_free(t->whole);
    pthread_mutex_destroy(&t->lock);
    free(t);
}

/* Takes *at out of its chain, onto the list. Table lock held, nobody holds the tenant. */
static void unlink_tenant(struct write_tenants *all, struct write_tenant **at, struct write_tenant **list)
{
    struct write_tenant *t = *at;
    ASSERT(t->refs == 0);
    *at = t->next;
    t->next = *list;
    *list = t;
    atomic_fetch_sub_explicit(&all->n, 1, memory_order_relaxed);
}

/* Turnover lock held, table lock not: removing metric series may wait for a scrape. */
static void free_list(struct write_tenant *list)
{
    while (list) {
        struct write_tenant *next = list->next;
        tenant_free(list);
        list = next;
    }
}

void write_tenants_free(struct write_tenants *all)
{
    if (!all)
        return;
    struct write_tenant *list = NULL;
    for (size_t i = 0; i < BUCKETS; i++)
        while (all->buckets[i])
            unlink_tenant(all, &all->buckets[i], &list);
    free_list(list);
    pthread_mutex_destroy(&all->lock);
    pthread_mutex_destroy(&all->turnover);
    free(all);
}

/* Table lock held. */
static void unlink_idle(struct write_tenants *all, int64_t now_ms, struct write_tenant **list)
{
    for (size_t i = 0; i < BUCKETS; i++) {
        for (struct write_tenant **at = &all->buckets[i]; *at;) {
            if ((*at)->refs == 0 && now_ms - (*at)->used_ms > all->idle_ms)
                unlink_tenant(all, at, list);
            else
                at = &(*at)->next;
        }
    }
}

/* The one unused for longest, if there is one that nobody holds. Table lock held. */
static void unlink_oldest(struct write_tenants *all, struct write_tenant **list)
{
    struct write_tenant **oldest = NULL;
    for (size_t i = 0; i < BUCKETS; i++)
        for (struct write_tenant **at = &all->buckets[i]; *at; at = &(*at)->next)
            if ((*at)->refs == 0 && (!oldest || (*at)->used_ms < (*oldest)->used_ms))
                oldest = at;
    if (oldest)
        unlink_tenant(all, oldest, list);
}

/* Table lock held; with a reference. */
static struct write_tenant *find(struct write_tenants *all, struct slice name, uint64_t hash, int64_t now_ms)
{
    for (struct write_tenant *t = all->buckets[hash % BUCKETS]; t; t = t->next) {
        if (t->name_hash == hash && slice_eq(t->name, name)) {
            t->refs++;
            t->used_ms = now_ms;
            return t;
        }
    }
    return NULL;
}

/* Turnover lock held, so nobody else makes tenants. */
static struct write_tenant *find_or_make(struct write_tenants *all, struct slice name, uint64_t hash, int64_t now_ms)
{
    struct write_tenant *list = NULL;
    pthread_mutex_lock(&all->lock);
    struct write_tenant *t = find(all, name, hash, now_ms);
    if (!t && atomic_load_explicit(&all->n, memory_order_relaxed) >= all->max)
        unlink_oldest(all, &list);
    bool room = atomic_load_explicit(&all->n, memory_order_relaxed) < all->max;
    pthread_mutex_unlock(&all->lock);
    free_list(list);
    if (t || !room)
        return t;
    t = tenant_new(all, name, hash);
    t->refs = 1;
    t->used_ms = now_ms;
    pthread_mutex_lock(&all->lock);
    t->next = all->buckets[hash % BUCKETS];
    all->buckets[hash % BUCKETS] = t;
    atomic_fetch_add_explicit(&all->n, 1, memory_order_relaxed);
    pthread_mutex_unlock(&all->lock);
    return t;
}

/* Once a minute one caller forgets the idle tenants; if another thread is making one right now, the next caller does. */
static void sweep(struct write_tenants *all, int64_t now_ms)
{
    if (pthread_mutex_trylock(&all->turnover) != 0)
        return;
    struct write_tenant *list = NULL;
    pthread_mutex_lock(&all->lock);
    unlink_idle(all, now_ms, &list);
    all->swept_ms = now_ms;
    pthread_mutex_unlock(&all->lock);
    free_list(list);
    pthread_mutex_unlock(&all->turnover);
}

struct write_tenant *write_tenants_get(struct write_tenants *all, struct slice name, int64_t now_ms)
{
    uint64_t hash = hash_name(name);
    pthread_mutex_lock(&all->lock);
    struct write_tenant *t = find(all, name, hash, now_ms);
    bool due = now_ms - all->swept_ms >= SWEEP_EVERY_MS;
    pthread_mutex_unlock(&all->lock);
    if (due)
        sweep(all, now_ms);
    if (t)
        return t;
    pthread_mutex_lock(&all->turnover);
    t = find_or_make(all, name, hash, now_ms);
    pthread_mutex_unlock(&all->turnover);
    return t;
}

void write_tenants_put(struct write_tenants *all, struct write_tenant *tenant)
{
    if (!tenant)
        return;
    pthread_mutex_lock(&all->lock);
    ASSERT(tenant->refs > 0);
    tenant->refs--;
    pthread_mutex_unlock(&all->lock);
}

size_t write_tenants_count(const struct write_tenants *all)
{
    return atomic_load_explicit(&all->n, memory_order_relaxed);
}

struct partition_ring *write_tenant_ring(struct write_tenant *t, struct partition_ring *whole, int64_t shard_size)
{
    pthread_mutex_lock(&t->lock);
    if (t->whole != whole || t->shard_size != shard_size) {
        partition_ring_free(t->shard);
        partition_ring_free(t->whole);
        t->whole = partition_ring_ref(whole);
        t->shard = partition_ring_tenant(whole, t->name, shard_size);
        t->shard_size = shard_size;
    }
    struct partition_ring *ring = partition_ring_ref(t->shard);
    pthread_mutex_unlock(&t->lock);
    return ring;
}

void write_tenant_saw(struct write_tenant *t, int64_t sample_ms)
{
    double s = (double)sample_ms / 1000;
    pthread_mutex_lock(&t->lock);
    if (s > t->latest_seen_s) {
        t->latest_seen_s = s;
        metric_set(t->metrics.latest_seen, s);
    }
    pthread_mutex_unlock(&t->lock);
}
