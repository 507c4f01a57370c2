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
#include "ingest/query_int.h"
#include "model/tenant.h"

/* With records there but none consumed for this long the ingester is not ready any more. */
#define STUCK_MS 30000

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

void head_dir(const struct ingester *ing, struct slice tenant, char *out, size_t cap)
{
    snprintf(out, cap, "%s/tenants/%.*s", ing->dir, SL_FMT(tenant));
}

struct head *ingester_head(struct ingester *ing, struct slice tenant, struct err *err)
{
    struct head *h = tenants_find(&ing->tenants, tenant);
    if (h)
        return h;
    if (ing->cfg.max_tenants && ing->tenants.n >= ing->cfg.max_tenants) {
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

/* --- queryable --- */

static struct head *query_head(struct queryable *q, const struct ctx *ctx)
{
    struct ingester *ing = CONTAINER_OF(q, struct ingester, queryable);
    metric_inc(metric_single(ingest_metrics[INGESTER_QUERIES]));
    return tenants_find(&ing->tenants, ctx->tenant);
}

static bool empty_next(struct series_set *s, struct ctx *ctx, struct series *ret, size_t max, size_t *ret_n,
                       struct err *err)
{
    (void)s, (void)ctx, (void)ret, (void)max, (void)err;
    *ret_n = 0;
    return true;
}

static void empty_release(struct series_set *s)
{
    (void)s;
}

static struct series_set *q_select(struct queryable *q, struct ctx *ctx, const struct select_params *p, struct err *err)
{
    static const struct series_set_ops empty_ops = {empty_next, empty_release};
    static struct series_set empty = {&empty_ops};
    struct head *h = query_head(q, ctx);
    return h ? head_select(h, ctx, p, err) : &empty;
}

static bool q_label_names(struct queryable *q, struct ctx *ctx, const struct select_params *p, const struct slice **ret,
                          size_t *ret_n, struct err *err)
{
    struct head *h = query_head(q, ctx);
    *ret = NULL;
    *ret_n = 0;
    return !h || head_label_names(h, ctx, p, ret, ret_n, err);
}

static bool q_label_values(struct queryable *q, struct ctx *ctx, struct slice name, const struct select_params *p,
                           const struct slice **ret, size_t *ret_n, struct err *err)
{
    struct head *h = query_head(q, ctx);
    *ret = NULL;
    *ret_n = 0;
    return !h || head_label_values(h, ctx, name, p, ret, ret_n, err);
}

static bool q_metadata(struct queryable *q, struct ctx *ctx, const struct metric_metadata **ret, size_t *ret_n,
                       struct err *err)
{
    struct head *h = query_head(q, ctx);
    *ret = NULL;
    *ret_n = 0;
    return !h || metadata_list(&h->metadata, ctx->arena, ret, ret_n) || query_memory_error(ctx, err);
}

static bool q_exemplars(struct queryable *q, struct ctx *ctx, const struct select_params *p,
                        const struct exemplar_series **ret, size_t *ret_n, struct err *err)
{
    struct head *h = query_head(q, ctx);
    *ret = NULL;
    *ret_n = 0;
    return !h || head_exemplars(h, ctx, p, ret, ret_n, err);
}

static const struct queryable_ops queryable_ops = {q_select, q_label_names, q_label_values, q_metadata, q_exemplars};

struct queryable *ingester_queryable(struct ingester *ing)
{
    return &ing->queryable;
}

/* --- life cycle --- */

static char *copy_text(const char *s)
{
    char *p = xmalloc(strlen(s) + 1);
    strcpy(p, s);
    return p;
}

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
    if (cfg->truncation_interval <= 0)
        return err_set(err, ERR_CONFIG, "-ingester.head-truncation-interval must be more than 0");
    return true;
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
    if (!config_check(cfg, err) || !dir_make(tenants_dir, err))
        return NULL;
    struct ingester *ing = xcalloc(1, sizeof(*ing));
    ing->cfg = *cfg;
    ing->limits = limits;
    ing->log = log;
    ing->partition = partition;
    ing->dir = copy_text(dir);
    ing->instance_id = copy_text(instance_id);
    ing->hash_seed = hash_seed;
    ing->totals.max_series = cfg->max_series;
    ing->queryable.ops = &queryable_ops;
    ing->committed = -1;
    atomic_init(&ing->consumed, -1);
    pthread_rwlock_init(&ing->tenants.lock, NULL);
    pthread_mutex_init(&ing->progress_lock, NULL);
    pthread_mutex_init(&ing->keeper_lock, NULL);
    pthread_mutex_init(&ing->checkpoint_lock, NULL);
    cond_init_monotonic(&ing->progress);
    cond_init_monotonic(&ing->keeper_wake);
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
    pthread_rwlock_destroy(&ing->tenants.lock);
    pthread_mutex_destroy(&ing->progress_lock);
    pthread_mutex_destroy(&ing->keeper_lock);
    pthread_mutex_destroy(&ing->checkpoint_lock);
    pthread_cond_destroy(&ing->progress);
    pthread_cond_destroy(&ing->keeper_wake);
    free(ing->dir);
    free(ing->instance_id);
    free(ing);
}

/* --- start --- */

/* What the log holds and what the manifest says. */
struct start {
    int64_t first;
    int64_t next;
    int64_t manifest;    /* offset; -1 = none */
    bool from_beginning; /* something was lost that only a replay of everything brings back */
};

/* A damaged piece is given up when the log still has everything, else the start is refused. */
static bool give_up(const struct start *st, const char *dir, const struct err *why, struct err *err)
{
    if (st->first != 0) {
        err_set(err, ERR_CORRUPT,
                "%s; the log begins at offset %lld, so it cannot be replayed: restore the file or remove %s", why->text,
                (long long)st->first, dir);
        return false;
    }
    LOG_ERROR("damaged, replaying the log from its start", {"err", LOG_ERR(why)});
    return true;
}

static bool load_tenant(struct ingester *ing, struct start *st, struct slice tenant, struct err *err)
{
    char dir[4096];
    struct err why;
    head_dir(ing, tenant, dir, sizeof(dir));
    struct head *h = head_load(tenant, dir, ing->hash_seed, st->manifest, &ing->totals, &why);
    if (h) {
        tenants_add(&ing->tenants, h);
        return true;
    }
    if (why.code != ERR_NOT_FOUND && why.code != ERR_CORRUPT) {
        *err = why;
        return false;
    }
    if (why.code == ERR_CORRUPT) {
        if (!give_up(st, dir, &why, err))
            return false;
        st->from_beginning = true;
    }
    /* Without a checkpoint the folder has chunks of records that will be replayed. */
    return dir_remove(dir, err);
}

static bool load_tenants(struct ingester *ing, struct start *st, struct err *err)
{
    char path[4096];
    snprintf(path, sizeof(path), "%s/tenants", ing->dir);
    DIR *d = opendir(path);
    if (!d)
        return err_errno(err, ERR_IO, errno, "opening %s", path);
    bool ok = true;
    for (struct dirent *e; ok && (e = readdir(d));) {
        struct slice tenant = slice_of(e->d_name);
        if (tenant_id_valid(tenant, NULL))
            ok = load_tenant(ing, st, tenant, err);
    }
    closedir(d);
    return ok;
}

static bool read_manifest(struct ingester *ing, struct start *st, struct err *err)
{
    struct err why;
    st->manifest = -1;
    if (manifest_read(ing->dir, ing->partition, ing->hash_seed, &st->manifest, &why) || why.code == ERR_NOT_FOUND)
        return true;
    if (why.code != ERR_CORRUPT) {
        *err = why;
        return false;
    }
    st->from_beginning = true;
    return give_up(st, ing->dir, &why, err);
}

bool ingester_rewind(struct ingester *ing, int64_t offset, struct err *err)
{
    size_t n;
    struct head **heads = tenants_list(&ing->tenants, &n);
    for (size_t i = 0; i < n; i++) {
        heads[i]->enforce_from = -1;
        for (uint32_t s = 0; s < heads[i]->n_shards; s++) {
            pthread_mutex_lock(&heads[i]->shards[s].writer);
            heads[i]->shards[s].applied = offset - 1;
            pthread_mutex_unlock(&heads[i]->shards[s].writer);
        }
        atomic_fetch_add(&heads[i]->changes, 1);
    }
    free(heads);
    metric_inc(ing->m_resets);
    ingester_publish(ing, offset - 1);
    return keeper_checkpoint(ing, err);
}

static bool choose_position(struct ingester *ing, const struct start *st, struct err *err)
{
    int64_t position = st->from_beginning ? st->first : st->manifest + 1;
    if (st->manifest < 0)
        position = st->first;
    if (position > st->next) {
        LOG_ERROR("the position to read from is beyond the end of the log: reading all of it",
                  {"partition", LOG_I64(ing->partition)}, {"position", LOG_I64(position)}, {"end", LOG_I64(st->next)});
        if (!ingester_rewind(ing, st->first, err))
            return false;
        position = st->first;
    }
    if (position < st->first) {
        LOG_WARN("records are gone from the log that were not consumed", {"partition", LOG_I64(ing->partition)},
                 {"from", LOG_I64(position)}, {"to", LOG_I64(st->first)});
        metric_add(metric_single(ingest_metrics[READER_MISSED_RECORDS]), (double)(st->first - position));
        position = st->first;
    }
    ing->position = position;
    ing->target = st->next;
    plog_set_needed_from(ing->log, ing->partition, position);
    ingester_publish(ing, position - 1);
    return true;
}

static void start_threads(struct ingester *ing)
{
    int a = pthread_create(&ing->consumer, NULL, consumer_main, ing);
    int b = a == 0 ? pthread_create(&ing->keeper, NULL, keeper_main, ing) : 0;
    ASSERT(a == 0 && b == 0);
    ing->started = true;
}

bool ingester_start(struct ingester *ing, struct err *err)
{
    int64_t begin = clock_mono_ms();
    struct start st = {0};
    if (!plog_offsets(ing->log, ing->partition, &st.first, &st.next, err) || !read_manifest(ing, &st, err) ||
        !load_tenants(ing, &st, err))
        return false;
    ing->committed = st.manifest;
    if (!choose_position(ing, &st, err))
        return false;
    LOG_INFO("the ingester has its heads", {"partition", LOG_I64(ing->partition)}, {"tenants", LOG_U64(ing->tenants.n)},
             {"series", LOG_U64(atomic_load(&ing->totals.n_series))}, {"ms", LOG_I64(clock_mono_ms() - begin)},
             {"to_replay", LOG_I64(ing->target - ing->position)});
    start_threads(ing);
    return true;
}

/* --- progress --- */

void ingester_publish(struct ingester *ing, int64_t consumed)
{
    pthread_mutex_lock(&ing->progress_lock);
    atomic_store_explicit(&ing->consumed, consumed, memory_order_release);
    atomic_store_explicit(&ing->progress_ms, clock_mono_ms(), memory_order_relaxed);
    if (consumed + 1 >= ing->target)
        atomic_store(&ing->ready, true);
    pthread_cond_broadcast(&ing->progress);
    pthread_mutex_unlock(&ing->progress_lock);
    metric_set(ing->m_consumed, (double)consumed);
}

bool ingester_ready(struct ingester *ing, struct err *ret)
{
    int64_t done = atomic_load(&ing->consumed) + 1;
    if (!atomic_load(&ing->ready))
        return err_set(ret, ERR_UNAVAILABLE, "partition %d: replayed up to offset %lld of %lld", ing->partition,
                       (long long)done, (long long)ing->target);
    int64_t idle_ms = clock_mono_ms() - atomic_load_explicit(&ing->progress_ms, memory_order_relaxed);
    int64_t first;
    int64_t next;
    if (idle_ms > STUCK_MS && plog_offsets(ing->log, ing->partition, &first, &next, NULL) && next > done)
        return err_set(ret, ERR_UNAVAILABLE, "partition %d: no progress at offset %lld for %lld s", ing->partition,
                       (long long)done, (long long)(idle_ms / 1000));
    return true;
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

/* --- stop --- */

void ingester_stop(struct ingester *ing)
{
    if (!ing->started)
        return;
    atomic_store(&ing->stop_consumer, true);
    pthread_join(ing->consumer, NULL);
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
    if (!h)
        return false;
    *ret = (struct ingester_user_stats){
        .num_series = atomic_load(&h->n_series),
        .active_series = atomic_load(&h->n_active),
        .api_ingestion_rate = atomic_load(&h->api_rate),
        .rule_ingestion_rate = atomic_load(&h->rule_rate),
    };
    return true;
}
