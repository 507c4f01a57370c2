#include "ingest/ingester_int.h"

#include <dirent.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "base/assert.h"
#include "base/clock.h"
#include "base/logger.h"
#include "ingest/files_int.h"
#include "model/tenant.h"

const struct flag_def ingest_flags[] = {
#define FLAG(...) FLAG_ROW(ingest_config, __VA_ARGS__)
#include "ingest/ingest_flags.def"
#undef FLAG
};
const size_t ingest_flags_n = ARRAY_LEN(ingest_flags);

/* --- tenants --- */

static size_t tenants_place(const struct tenants *t, struct slice tenant)
{
    size_t lo = 0;
    size_t hi = t->n;
    while (lo < hi) {
        size_t mid = (lo + hi) / 2;
        if (slice_cmp(t->heads[mid]->tenant, tenant) < 0)
            lo = mid + 1;
        else
            hi = mid;
    }
    return lo;
}

struct head *tenants_find(struct tenants *t, struct slice tenant)
{
    pthread_rwlock_rdlock(&t->lock);
    size_t i = tenants_place(t, tenant);
    struct head *h = i < t->n && slice_eq(t->heads[i]->tenant, tenant) ? t->heads[i] : NULL;
    pthread_rwlock_unlock(&t->lock);
    return h;
}

void tenants_add(struct tenants *t, struct head *h)
{
    pthread_rwlock_wrlock(&t->lock);
    if (t->n == t->cap) {
        t->cap = MAX((size_t)16, t->cap * 2);
        t->heads = xrealloc(t->heads, t->cap * sizeof(struct head *));
    }
    size_t i = tenants_place(t, h->tenant);
    memmove(&t->heads[i + 1], &t->heads[i], (t->n - i) * sizeof(struct head *));
    t->heads[i] = h;
    t->n++;
    pthread_rwlock_unlock(&t->lock);
}

struct head **tenants_list(struct tenants *t, size_t *ret_n)
{
    pthread_rwlock_rdlock(&t->lock);
    struct head **list = xmalloc(t->n * sizeof(struct head *));
    if (t->n)
        memcpy(list, t->heads, t->n * sizeof(struct head *));
    *ret_n = t->n;
    pthread_rwlock_unlock(&t->lock);
    return list;
}

/* Those that are not closed. */
static size_t tenants_open(struct tenants *t)
{
    size_t n = 0;
    pthread_rwlock_rdlock(&t->lock);
    for (size_t i = 0; i < t->n; i++)
        n += !atomic_load(&t->heads[i]->closed);
    pthread_rwlock_unlock(&t->lock);
    return n;
}

void head_dir(const struct ingester *ing, struct slice tenant, char *out, size_t cap)
{
    snprintf(out, cap, "%s/tenants/%.*s", ing->dir, SL_FMT(tenant));
}

struct head *ingester_head(struct ingester *ing, struct slice tenant, struct err *err)
{
    struct head *h = tenants_find(&ing->tenants, tenant);
    if (h)
        return h;
    if (ing->cfg.max_tenants && ing->tenants.n >= ing->cfg.max_tenants && tenants_open(&ing->tenants) >= ing->cfg.max_tenants) {
        err_set(err, ERR_INGESTER_MAX_TENANTS, "the ingester exceeded the allowed number of tenants");
        return NULL;
    }
    char dir[4096];
    char chunks[4096 + 16];
    head_dir(ing, tenant, dir, sizeof(dir));
    snprintf(chunks, sizeof(chunks), "%s/chunks", dir);
    struct chunk_store *cs = chunk_store_new(chunks, err);
    if (!cs)
        return NULL;
    h = head_new(tenant, dir, ing->hash_seed, (uint32_t)ing->cfg.head_shards, cs, &ing->totals);
    tenants_add(&ing->tenants, h);
    return h;
}

struct local_blocks *ingester_local_blocks(struct ingester *ing)
{
    return ing->blocks;
}

/* --- life cycle --- */

static void cond_init_monotonic(pthread_cond_t *c)
{
    pthread_condattr_t attr;
    pthread_condattr_init(&attr);
    pthread_condattr_setclock(&attr, CLOCK_MONOTONIC);
    pthread_cond_init(c, &attr);
    pthread_condattr_destroy(&attr);
}

static void partition_metrics(struct ingester *ing)
{
    char text[16];
    snprintf(text, sizeof(text), "%d", ing->partition);
    struct slice p = slice_of(text);
    ing->m_consumed = metric_get(ingest_metrics[READER_LAST_CONSUMED], &p);
    ing->m_committed = metric_get(ingest_metrics[READER_LAST_COMMITTED], &p);
    ing->m_commits = metric_get(ingest_metrics[READER_COMMITS], &p);
    ing->m_commit_failures = metric_get(ingest_metrics[READER_COMMIT_FAILURES], &p);
    ing->m_commit_seconds = metric_get(ingest_metrics[READER_COMMIT_SECONDS], &p);
    ing->m_stalled = metric_get(ingest_metrics[INGESTER_STALLED], &p);
    ing->m_stuck = metric_get(ingest_metrics[READER_NO_PROGRESS], &p);
    ing->m_resets = metric_get(ingest_metrics[READER_BAD_OFFSETS], &p);
    metric_set(ing->m_consumed, -1);
    metric_set(ing->m_committed, -1);
    metric_set(metric_get(ingest_metrics[INGESTER_INSTANCE_LIMITS], &SL("max_series")), (double)ing->cfg.max_series);
    metric_set(metric_get(ingest_metrics[INGESTER_INSTANCE_LIMITS], &SL("max_tenants")), (double)ing->cfg.max_tenants);
}

static bool config_check(const struct ingest_config *cfg, struct err *err)
{
    int64_t s = cfg->head_shards;
    if (s < 1 || s > HEAD_MAX_SHARDS || (s & (s - 1)))
        return err_set(err, ERR_CONFIG, "-ingester.head-shards must be a power of two from 1 to %u, not %lld",
                       HEAD_MAX_SHARDS, (long long)s);
    if (cfg->checkpoint_interval <= 0)
        return err_set(err, ERR_CONFIG, "-ingester.checkpoint-interval must be more than 0");
    if (cfg->active_series_update_period <= 0 || cfg->active_series_idle_timeout <= 0)
        return err_set(err, ERR_CONFIG,
                       "-ingester.active-series-metrics-update-period and -idle-timeout must be more than 0");
    if (cfg->head_compaction_interval <= 0)
        return err_set(err, ERR_CONFIG, "-blocks-storage.tsdb.head-compaction-interval must be more than 0");
    if (!(cfg->block_cut_cpu_share > 0 && cfg->block_cut_cpu_share <= 1))
        return err_set(err, ERR_CONFIG, "-ingester.block-cut-cpu-share must be more than 0 and at most 1");
    return start_config_check(cfg, err);
}

/* What queriers ask the store for by default: -querier.query-store-after. */
#define STORE_HAS_IT_MS (12 * 3600 * 1000LL)

static struct local_blocks *open_blocks(const struct ingest_config *cfg, const char *dir, struct err *err)
{
    char path[4096];
    snprintf(path, sizeof(path), "%s/blocks", dir);
    const struct local_blocks_config blocks = {path, cfg->retention_period, STORE_HAS_IT_MS};
    return local_blocks_new(&blocks, err);
}

struct ingester *ingester_new(const struct ingest_config *cfg, const struct limits_provider *limits, struct plog *log,
                              int32_t partition, const char *dir, const char *instance_id, uint64_t hash_seed,
                              struct err *err)
{
    ingest_metrics_register();
    char tenants_dir[4096];
    if ((size_t)snprintf(tenants_dir, sizeof(tenants_dir), "%s/tenants", dir) >= sizeof(tenants_dir)) {
        err_set(err, ERR_CONFIG, "the path %.200s... is too long", dir);
        return NULL;
    }
    char *group = config_check(cfg, err) ? group_name(cfg, partition, instance_id, err) : NULL;
    struct local_blocks *blocks = NULL;
    if (!group || !dir_make(tenants_dir, err) || !(blocks = open_blocks(cfg, dir, err))) {
        free(group);
        return NULL;
    }
    struct ingester *ing = xcalloc(1, sizeof(*ing));
    ing->blocks = blocks;
    atomic_init(&ing->flush_on_stop, cfg->flush_blocks_on_shutdown);
    ing->cfg = *cfg;
    ing->limits = limits;
    ing->log = log;
    ing->partition = partition;
    ing->dir = slice_strdup(slice_of(dir));
    ing->group = group;
    ing->hash_seed = hash_seed;
    ing->totals.max_series = cfg->max_series;
    reads_init(ing);
    ing->durable = -1;
    ing->committed = -1;
    atomic_init(&ing->consumed, -1);
    pthread_rwlock_init(&ing->tenants.lock, NULL);
    pthread_mutex_init(&ing->progress_lock, NULL);
    pthread_mutex_init(&ing->keeper_lock, NULL);
    pthread_mutex_init(&ing->checkpoint_lock, NULL);
    pthread_mutex_init(&ing->cut_lock, NULL);
    cond_init_monotonic(&ing->progress);
    cond_init_monotonic(&ing->keeper_wake);
    cond_init_monotonic(&ing->cutter_wake);
    partition_metrics(ing);
    return ing;
}

void ingester_free(struct ingester *ing)
{
    if (!ing)
        return;
    ASSERT(!ing->started);
    for (size_t i = 0; i < ing->tenants.n; i++)
        head_free(ing->tenants.heads[i]);
    free(ing->tenants.heads);
    local_blocks_free(ing->blocks);
    pthread_rwlock_destroy(&ing->tenants.lock);
    pthread_mutex_destroy(&ing->progress_lock);
    pthread_mutex_destroy(&ing->keeper_lock);
    pthread_mutex_destroy(&ing->checkpoint_lock);
    pthread_mutex_destroy(&ing->cut_lock);
    pthread_cond_destroy(&ing->progress);
    pthread_cond_destroy(&ing->keeper_wake);
    pthread_cond_destroy(&ing->cutter_wake);
    free(ing->dir);
    free(ing->group);
    free(ing);
}

/* --- progress --- */

void ingester_publish(struct ingester *ing, int64_t consumed)
{
    pthread_mutex_lock(&ing->progress_lock);
    atomic_store_explicit(&ing->consumed, consumed, memory_order_release);
    atomic_store_explicit(&ing->progress_ms, clock_mono_ms(), memory_order_relaxed);
    pthread_mutex_unlock(&ing->progress_lock);
    pthread_cond_broadcast(&ing->progress); /* who wakes finds the lock free */
    metric_set(ing->m_consumed, (double)consumed);
}

/* The services of Mimir have these states, and this is what its ingester says in them. */
static bool unavailable(const char *state, struct err *err)
{
    return err_set(err, ERR_UNAVAILABLE, "ingester is unavailable (current state: %s)", state);
}

bool ingester_stopped(struct ingester *ing, struct err *err)
{
    if (atomic_load(&ing->stop_keeper))
        return !unavailable("Terminated", err);
    return atomic_load(&ing->stop_consumer) && !unavailable("Stopping", err);
}

bool ingester_serving(struct ingester *ing, struct err *err)
{
    return !ingester_stopped(ing, err) && (atomic_load(&ing->ready) || unavailable("Starting", err));
}

bool ingester_ready(struct ingester *ing, struct err *ret)
{
    long long done = (long long)atomic_load(&ing->consumed) + 1;
    if (!atomic_load(&ing->ready) && !atomic_load(&ing->stop_consumer))
        return err_set(ret, ERR_UNAVAILABLE, "partition %d: replayed up to offset %lld of %lld", ing->partition, done,
                       (long long)atomic_load(&ing->catch_up.target));
    if (!ingester_serving(ing, ret))
        return false;
    int64_t idle_ms = clock_mono_ms() - atomic_load_explicit(&ing->progress_ms, memory_order_relaxed);
    if (idle_ms > STUCK_MS && (atomic_load(&ing->applying) || atomic_load(&ing->stuck)))
        return err_set(ret, ERR_UNAVAILABLE, "partition %d: no progress at offset %lld for %lld s", ing->partition,
                       done, (long long)(idle_ms / 1000));
    return true;
}

int64_t ingester_delay_ms(struct ingester *ing)
{
    int64_t complete_ms = atomic_load_explicit(&ing->complete_ms, memory_order_acquire);
    int64_t newest_ms = atomic_load_explicit(&ing->newest_ms, memory_order_relaxed);
    int64_t fetched_ms = atomic_load_explicit(&ing->fetched_ms, memory_order_relaxed);
    int64_t now_ms = clock_mono_ms();
    /* Whatever the producer's clock says, a record is no newer than the fetch that brought it. */
    int64_t by_record = MAX(clock_wall_ms() - newest_ms, fetched_ms ? now_ms - fetched_ms : 0);
    return MAX(MIN(complete_ms ? now_ms - complete_ms : INT64_MAX, by_record), 0);
}

bool ingester_wait(struct ingester *ing, int64_t offset, struct ctx *ctx, struct err *err)
{
    if (atomic_load_explicit(&ing->consumed, memory_order_acquire) + 1 >= offset)
        return true;
    bool ok = true;
    pthread_mutex_lock(&ing->progress_lock);
    while (ok && atomic_load_explicit(&ing->consumed, memory_order_acquire) + 1 < offset) {
        if (ing->consumer_ended) {
            ok = err_set(err, ERR_UNAVAILABLE, "the ingester is stopping");
            break;
        }
        if (!(ok = ctx_check(ctx, err)))
            break;
        /* The deadline and a caller that goes away are looked at every so often. */
        struct timespec at;
        clock_gettime(CLOCK_MONOTONIC, &at);
        at.tv_nsec += 20 * 1000 * 1000;
        if (at.tv_nsec >= 1000000000) {
            at.tv_sec++;
            at.tv_nsec -= 1000000000;
        }
        pthread_cond_timedwait(&ing->progress, &ing->progress_lock, &at);
    }
    pthread_mutex_unlock(&ing->progress_lock);
    return ok;
}

static bool is_behind_after_sleep(const struct ingester *ing)
{
    int64_t looked_ms = atomic_load_explicit(&ing->looked_ms, memory_order_acquire);
    if (looked_ms == 0 || atomic_load_explicit(&ing->stalled, memory_order_relaxed))
        return false;
    return clock_mono_ms() - looked_ms > STOOD_STILL_MS ||
           atomic_load_explicit(&ing->consumed, memory_order_acquire) + 1 < atomic_load_explicit(&ing->missed, memory_order_relaxed);
}

bool ingester_awake(struct ingester *ing, struct ctx *ctx, struct err *err)
{
    int64_t until_ms = 0;
    while (is_behind_after_sleep(ing)) {
        int64_t now_ms = clock_mono_ms();
        if (!until_ms)
            until_ms = now_ms + AWAKE_WAIT_MS;
        if (!ctx_check(ctx, err))
            return false;
        if (now_ms > until_ms || atomic_load(&ing->stop_consumer))
            break;
        nanosleep(&(struct timespec){.tv_nsec = 5 * 1000 * 1000}, NULL);
    }
    return true;
}

/* --- stop --- */

void ingester_stop(struct ingester *ing)
{
    if (!ing->started)
        return;
    atomic_store(&ing->stop_consumer, true);
    plog_wake(ing->log, ing->partition);
    pthread_join(ing->consumer, NULL);
    cutter_stop(ing);
    pthread_mutex_lock(&ing->keeper_lock);
    atomic_store(&ing->stop_keeper, true);
    pthread_cond_broadcast(&ing->keeper_wake);
    pthread_mutex_unlock(&ing->keeper_lock);
    pthread_join(ing->keeper, NULL);
    ing->started = false;
}

bool ingester_user_stats(struct ingester *ing, struct slice tenant, struct ingester_user_stats *ret)
{
    struct head *h = tenants_find(&ing->tenants, tenant);
    if (!h || atomic_load(&h->closed))
        return false;
    *ret = (struct ingester_user_stats){
        .num_series = atomic_load(&h->n_series),
        .active_series = atomic_load(&h->n_active),
        .api_ingestion_rate = atomic_load(&h->api_rate),
        .rule_ingestion_rate = atomic_load(&h->rule_rate),
    };
    return true;
}

/* --- tenants, for pages --- */

static void describe(struct ingester *ing, struct head *h, struct ingester_tenant *ret)
{
    const struct limits *limits = limits_of(ing->limits, h->tenant);
    int64_t max_t = atomic_load_explicit(&h->max_t, memory_order_relaxed);
    int64_t min_valid = atomic_load_explicit(&h->min_valid, memory_order_relaxed);
    *ret = (struct ingester_tenant){
        .tenant = h->tenant,
        .num_series = atomic_load(&h->n_series),
        .min_t = atomic_load_explicit(&h->min_t, memory_order_relaxed),
        .max_t = max_t,
        .min_valid = max_t < INT64_MIN + CHUNK_RANGE_MS ? min_valid : MAX(min_valid, max_t - CHUNK_RANGE_MS / 2),
        .past_grace_ms = limits->past_grace_period,
        .future_grace_ms = limits->creation_grace_period,
    };
}

struct ingester_tenant *ingester_tenants(struct ingester *ing, size_t *ret_n)
{
    size_t n;
    struct head **heads = tenants_list(&ing->tenants, &n);
    struct ingester_tenant *list = n ? xcalloc(n, sizeof(*list)) : NULL;
    size_t n_open = 0;
    for (size_t i = 0; i < n; i++)
        if (!atomic_load(&heads[i]->closed))
            describe(ing, heads[i], &list[n_open++]);
    free(heads);
    *ret_n = n_open;
    return list;
}

bool ingester_tenant(struct ingester *ing, struct slice tenant, struct ingester_tenant *ret)
{
    struct head *h = tenants_find(&ing->tenants, tenant);
    if (!h || atomic_load(&h->closed))
        return false;
    describe(ing, h, ret);
    return true;
}
