#include "ingest/head_int.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define XXH_INLINE_ALL
#include <xxhash.h>

#include "base/assert.h"
#include "base/clock.h"
#include "base/logger.h"
#include "ingest/cut_int.h"
#include "ingest/files_int.h"
#include "ingest/ingest_metrics_int.h"
#include "model/discarded.h"

const char *refusal_reason(enum refusal r)
{
    static const char *const reasons[REFUSALS] = {
        [REFUSAL_NONE] = "",
#define REFUSAL(id, reason) [REFUSAL_##id] = reason,
#include "ingest/refusals.def"
#undef REFUSAL
    };
    return reasons[r];
}

/* --- series by metric name --- */

struct metric_count {
    uint64_t hash; /* 0 = free */
    uint64_t n;
};

void metric_counts_init(struct metric_counts *m)
{
    pthread_mutex_init(&m->lock, NULL);
    m->n_slots = 64;
    m->n = 0;
    m->slots = xcalloc(m->n_slots, sizeof(*m->slots));
}

void metric_counts_release(struct metric_counts *m)
{
    free(m->slots);
    pthread_mutex_destroy(&m->lock);
}

/* 64 bits are enough to count by: a collision makes two metrics share one limit. */
static struct metric_count *count_slot(const struct metric_counts *m, uint64_t hash)
{
    uint32_t i = (uint32_t)hash & (m->n_slots - 1);
    while (m->slots[i].hash && m->slots[i].hash != hash)
        i = (i + 1) & (m->n_slots - 1);
    return &m->slots[i];
}

static uint64_t metric_hash(struct slice metric)
{
    uint64_t h = XXH3_64bits(metric.p, metric.n);
    return h ? h : 1;
}

static void counts_double(struct metric_counts *m)
{
    struct metric_count *old = m->slots;
    uint32_t n = m->n_slots;
    m->n_slots *= 2;
    m->slots = xcalloc(m->n_slots, sizeof(*m->slots));
    for (uint32_t i = 0; i < n; i++)
        if (old[i].hash)
            *count_slot(m, old[i].hash) = old[i];
    free(old);
}

uint64_t metric_counts_get(struct metric_counts *m, struct slice metric)
{
    pthread_mutex_lock(&m->lock);
    uint64_t n = count_slot(m, metric_hash(metric))->n;
    pthread_mutex_unlock(&m->lock);
    return n;
}

void metric_counts_add(struct metric_counts *m, struct slice metric, int64_t delta)
{
    uint64_t hash = metric_hash(metric);
    pthread_mutex_lock(&m->lock);
    if ((m->n + 1) * 4 > m->n_slots * 3)
        counts_double(m);
    struct metric_count *s = count_slot(m, hash);
    if (!s->hash) {
        s->hash = hash;
        m->n++;
    }
    s->n = (uint64_t)((int64_t)s->n + delta);
    pthread_mutex_unlock(&m->lock);
}

/* --- life cycle --- */

static struct metric *user_metric(enum ingest_metric_id id, struct slice tenant)
{
    return metric_get(ingest_metrics[id], &tenant);
}

static void head_metrics_init(struct head_metrics *m, struct slice tenant)
{
    m->created = user_metric(INGESTER_SERIES_CREATED, tenant);
    m->removed = user_metric(INGESTER_SERIES_REMOVED, tenant);
    m->samples = user_metric(INGESTER_INGESTED_SAMPLES, tenant);
    m->failures = user_metric(INGESTER_INGESTED_SAMPLES_FAILURES, tenant);
    m->chunks_created = user_metric(INGESTER_HEAD_CHUNKS_CREATED, tenant);
    m->chunks_removed = user_metric(INGESTER_HEAD_CHUNKS_REMOVED, tenant);
    m->ooo_samples = user_metric(INGESTER_OOO_SAMPLES, tenant);
    m->exemplars = user_metric(INGESTER_EXEMPLARS_APPENDED, tenant);
    m->active = user_metric(INGESTER_ACTIVE_SERIES, tenant);
    m->metadata_created = user_metric(INGESTER_METADATA_CREATED, tenant);
    m->metadata_removed = user_metric(INGESTER_METADATA_REMOVED, tenant);
}

struct head *head_new(struct slice tenant, const char *dir, uint64_t seed, uint32_t n_shards, struct chunk_store *cs,
                      struct head_totals *totals)
{
    ASSERT(n_shards >= 1 && n_shards <= HEAD_MAX_SHARDS && (n_shards & (n_shards - 1)) == 0);
    struct head *h = xcalloc(1, sizeof(*h));
    h->tenant = slice_make(slice_strdup(tenant), tenant.n);
    h->dir = xmalloc(strlen(dir) + 1);
    strcpy(h->dir, dir);
    h->seed = seed;
    h->n_shards = n_shards;
    h->shards = xcalloc(n_shards, sizeof(*h->shards));
    for (uint32_t i = 0; i < n_shards; i++)
        shard_init(&h->shards[i], seed);
    h->chunks = cs;
    h->totals = totals;
    h->enforce_from = -1;
    atomic_init(&h->max_t, INT64_MIN);
    atomic_init(&h->min_t, INT64_MAX);
    atomic_init(&h->min_valid, INT64_MIN);
    atomic_init(&h->settled_t, INT64_MIN);
    atomic_init(&h->young_min, INT64_MAX);
    atomic_init(&h->applied_ms, clock_mono_ms());
    pthread_mutex_init(&h->cuts.lock, NULL);
    pthread_mutex_init(&h->open_lock, NULL);
    h->cuts.until = INT64_MIN;
    exemplars_init(&h->exemplars);
    metadata_init(&h->metadata);
    metric_counts_init(&h->metrics_counts);
    head_metrics_init(&h->metrics, h->tenant);
    metric_add(metric_single(ingest_metrics[INGESTER_MEMORY_USERS]), 1);
    return h;
}

void head_free(struct head *h)
{
    if (!h)
        return;
    if (!atomic_load(&h->closed))
        metric_add(metric_single(ingest_metrics[INGESTER_MEMORY_USERS]), -1);
    metric_add(metric_single(ingest_metrics[INGESTER_MEMORY_SERIES]), -(double)atomic_load(&h->n_series));
    metric_add(h->metrics.active, -(double)atomic_load(&h->n_active));
    atomic_fetch_sub(&h->totals->n_series, atomic_load(&h->n_series));
    for (uint32_t i = 0; i < h->n_shards; i++)
        shard_release(&h->shards[i]);
    free(h->shards);
    chunk_store_free(h->chunks);
    exemplars_release(&h->exemplars);
    metadata_release(&h->metadata);
    metric_counts_release(&h->metrics_counts);
    pthread_mutex_destroy(&h->cuts.lock);
    pthread_mutex_destroy(&h->open_lock);
    free(h->cuts.names);
    free(h->dir);
    free((char *)h->tenant.p);
    free(h);
}

/* --- idle heads --- */

bool head_enter(struct head *h, struct err *err)
{
    char path[4096];
    bool ok = true;
    snprintf(path, sizeof(path), "%s/chunks", h->dir);
    pthread_mutex_lock(&h->open_lock);
    if (atomic_load_explicit(&h->closed, memory_order_relaxed) && (ok = dir_make(path, err))) {
        atomic_store(&h->closed, false);
        metric_add(metric_single(ingest_metrics[INGESTER_MEMORY_USERS]), 1);
    }
    h->busy = ok;
    pthread_mutex_unlock(&h->open_lock);
    return ok;
}

void head_leave(struct head *h)
{
    pthread_mutex_lock(&h->open_lock);
    h->busy = false;
    pthread_mutex_unlock(&h->open_lock);
}

/* The checkpoint first: without it a start takes the rest for leftovers. */
static bool remove_files(struct head *h)
{
    char path[4096];
    struct err err;
    snprintf(path, sizeof(path), "%s/head.ckpt", h->dir);
    bool ok = unlink(path) == 0 || errno == ENOENT || err_errno(&err, ERR_IO, errno, "removing %s", path);
    ok = ok && dir_sync(h->dir, &err) && dir_remove(h->dir, &err);
    if (!ok)
        LOG_WARN("the folder of an idle tenant could not be removed", {"err", LOG_ERR(&err)});
    return ok;
}

/* A start would know nothing of it: what comes next is to be decided in the same way. */
static void forget_times(struct head *h)
{
    atomic_store(&h->max_t, INT64_MIN);
    atomic_store(&h->settled_t, INT64_MIN);
    atomic_store(&h->min_t, INT64_MAX);
    atomic_store(&h->min_valid, INT64_MIN);
    pthread_mutex_lock(&h->cuts.lock);
    h->cuts.until = INT64_MIN;
    pthread_mutex_unlock(&h->cuts.lock);
}

static enum head_close close_unused(struct head *h, int64_t durable)
{
    pthread_mutex_lock(&h->shards[0].writer);
    int64_t applied = h->shards[0].applied;
    pthread_mutex_unlock(&h->shards[0].writer);
    pthread_mutex_lock(&h->cuts.lock);
    size_t n_names = h->cuts.n_names;
    pthread_mutex_unlock(&h->cuts.lock);
    if (applied > durable || n_names > 0)
        return HEAD_NOT_SAVED;
    if (atomic_load(&h->min_t) != INT64_MAX || !head_forget_series(h))
        return HEAD_NOT_EMPTY;
    if (!remove_files(h))
        return HEAD_NOT_SAVED;
    chunk_store_forget(h->chunks);
    forget_times(h);
    atomic_store(&h->closed, true);
    metric_add(metric_single(ingest_metrics[INGESTER_MEMORY_USERS]), -1);
    return HEAD_CLOSED;
}

enum head_close head_close(struct head *h, int64_t durable)
{
    pthread_mutex_lock(&h->open_lock);
    enum head_close r = h->busy ? HEAD_NOT_EMPTY : close_unused(h, durable);
    pthread_mutex_unlock(&h->open_lock);
    return r;
}

/* --- numbers --- */

void head_publish(struct head *h, const struct head_counts *c)
{
    if (c->samples) {
        metric_add(h->metrics.samples, (double)c->samples);
        atomic_fetch_add_explicit(&h->n_api, c->samples - c->rule_samples, memory_order_relaxed);
        atomic_fetch_add_explicit(&h->n_rule, c->rule_samples, memory_order_relaxed);
    }
    if (c->created) {
        metric_add(h->metrics.created, (double)c->created);
        metric_add(metric_single(ingest_metrics[INGESTER_MEMORY_SERIES]), (double)c->created);
    }
    if (c->chunks_created)
        metric_add(h->metrics.chunks_created, (double)c->chunks_created);
    if (c->ooo_samples)
        metric_add(h->metrics.ooo_samples, (double)c->ooo_samples);
    if (c->exemplars)
        metric_add(h->metrics.exemplars, (double)c->exemplars);
    uint64_t failed = 0;
    for (int r = 1; r < REFUSALS; r++) {
        discard_count(DISCARD_SAMPLES, refusal_reason((enum refusal)r), h->tenant, c->refused[r]);
        failed += c->refused[r];
    }
    if (failed)
        metric_add(h->metrics.failures, (double)failed);
}

/* As Mimir's: an exponentially weighted average in which the newest period counts a fifth; the first one counts whole.
 */
static void update_rate(_Atomic uint64_t *n, _Atomic double *rate, double seconds)
{
    double now = (double)atomic_exchange(n, 0) / seconds;
    double before = atomic_load(rate);
    atomic_store(rate, before == 0 ? now : before + 0.2 * (now - before));
}

void head_update_rates(struct head *h, double seconds)
{
    update_rate(&h->n_api, &h->api_rate, seconds);
    update_rate(&h->n_rule, &h->rule_rate, seconds);
}

/* How many series are looked at under one hold of the lock: a quarter of a millisecond. */
#define ACTIVE_STEP 16384u

static uint64_t shard_count_active(struct shard *s, uint32_t since_s)
{
    uint64_t n = 0;
    uint32_t n_series = 1;
    for (uint32_t from = 0; from < n_series; from += ACTIVE_STEP) {
        pthread_rwlock_rdlock(&s->lock);
        n_series = s->data->n_series;
        for (uint32_t ref = from; ref < MIN(n_series, from + ACTIVE_STEP); ref++)
            n += series_hot(s->data, ref)->active_s >= since_s;
        pthread_rwlock_unlock(&s->lock);
    }
    return n;
}

uint64_t head_count_active(struct head *h, uint32_t since_s)
{
    uint64_t n = 0;
    for (uint32_t i = 0; i < h->n_shards; i++)
        n += shard_count_active(&h->shards[i], since_s);
    metric_add(h->metrics.active, (double)n - (double)atomic_load(&h->n_active));
    atomic_store(&h->n_active, n);
    return n;
}
