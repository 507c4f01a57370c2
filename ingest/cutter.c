/*
 * The cutter thread: cuts heads into blocks, closes those of tenants that send nothing any more, deletes old blocks. And flushes, on their callers' threads.
 *
 * What is ready at the same time, an hour after the end of a range, is spread by the hash of the tenant over ten intervals; one head at a time, with a share of
 * one core and a low priority, and yields, so that pushes and queries do not notice. Heads can wait: what is not cut yet is answered from memory.
 */
#include <stdlib.h>
#include <time.h>
#include <unistd.h>

#define XXH_INLINE_ALL
#include <xxhash.h>

#include "base/assert.h"
#include "base/clock.h"
#include "base/logger.h"
#include "base/priority.h"
#include "ingest/ingester_int.h"

#define SPREAD_INTERVALS 10
/* Idle times are up to a quarter longer, by tenant, as Mimir has it. */
#define IDLE_JITTER 4

static uint64_t tenant_hash(const struct head *h)
{
    return XXH3_64bits(h->tenant.p, h->tenant.n);
}

/* --- one head --- */

/* Under cut_lock. */
static bool cut_head(struct ingester *ing, struct head *h, int64_t cut, struct cut_pace *pace, struct err *err)
{
    int64_t begin_ms = clock_mono_ms();
    struct cut_result r;
    uint64_t bytes = 0;
    bool label = limits_of(ing->limits, h->tenant)->out_of_order_blocks_external_label_enabled;
    metric_inc(metric_single(ingest_metrics[INGESTER_COMPACTIONS_TRIGGERED]));
    bool ok = head_cut(h, ing->blocks, label, cut, pace, &r, err);
    ok = ok && keeper_save_head(ing, h, pace, &bytes, err);
    if (!ok) {
        if (err->code != ERR_CANCELED) {
            metric_inc(metric_single(ingest_metrics[INGESTER_COMPACTIONS_FAILED]));
            LOG_ERROR("a head could not be cut into blocks, or not be saved then; no sample is lost", {"tenant", LOG_SLICE(h->tenant)}, {"err", LOG_ERR(err)});
        }
        return false;
    }
    int64_t ms = clock_mono_ms() - begin_ms;
    metric_add(metric_single(ingest_metrics[INGESTER_COMPACTIONS]), (double)r.n_blocks);
    metric_observe(metric_single(ingest_metrics[INGESTER_COMPACTION_SECONDS]), (double)ms / 1e3);
    if (r.n_blocks)
        LOG_INFO("blocks were cut", {"tenant", LOG_SLICE(h->tenant)}, {"blocks", LOG_U64(r.n_blocks)}, {"series", LOG_U64(r.n_series)},
                 {"samples", LOG_U64(r.n_samples)}, {"series_removed", LOG_U64(r.n_removed)}, {"ms", LOG_I64(ms)});
    return true;
}

static bool cut_alone(struct ingester *ing, struct head *h, int64_t cut, struct cut_pace *pace, struct err *err)
{
    pthread_mutex_lock(&ing->cut_lock);
    bool ok = cut_head(ing, h, cut, pace, err);
    pthread_mutex_unlock(&ing->cut_lock);
    return ok;
}

static bool head_has_samples(struct head *h)
{
    return atomic_load(&h->min_t) != INT64_MAX;
}

/* --- flush --- */

static bool flush_heads(struct ingester *ing, struct slice tenant, atomic_bool *stop, struct err *err)
{
    struct cut_pace pace = {.stop = stop};
    size_t n;
    struct head **heads = tenants_list(&ing->tenants, &n);
    bool ok = true;
    atomic_fetch_add(&ing->hurry, 1);
    metric_add(metric_single(ingest_metrics[INGESTER_FORCED_COMPACTIONS]), 1);
    for (size_t i = 0; i < n; i++) {
        struct err why = ERR_NONE;
        if ((tenant.p && !slice_eq(tenant, heads[i]->tenant)) || !head_has_samples(heads[i]))
            continue;
        if (cut_alone(ing, heads[i], CUT_ALL, &pace, &why))
            continue;
        if (ok && err)
            *err = why;
        ok = false;
        if (why.code == ERR_CANCELED)
            break;
    }
    metric_add(metric_single(ingest_metrics[INGESTER_FORCED_COMPACTIONS]), -1);
    atomic_fetch_sub(&ing->hurry, 1);
    free(heads);
    return ok;
}

bool ingester_flush(struct ingester *ing, struct slice tenant, struct err *err)
{
    return flush_heads(ing, tenant, &ing->stop_cuts, err);
}

void ingester_flush_on_stop(struct ingester *ing, bool on)
{
    atomic_store(&ing->flush_on_stop, on);
}

bool ingester_flushes_on_stop(struct ingester *ing)
{
    return atomic_load(&ing->flush_on_stop);
}

/* --- the thread --- */

static bool is_idle(const struct ingester *ing, const struct head *h, int64_t timeout_ms, int64_t now_ms)
{
    if (timeout_ms <= 0 || !atomic_load(&ing->ready))
        return false;
    int64_t jitter_ms = (int64_t)(tenant_hash(h) % (uint64_t)(timeout_ms / IDLE_JITTER + 1));
    return now_ms - atomic_load_explicit(&h->applied_ms, memory_order_relaxed) > timeout_ms + jitter_ms;
}

/* When a cut that has become ready begins. */
static int64_t due_at(const struct ingester *ing, const struct head *h, int64_t now_ms)
{
    uint64_t spread_ms = (uint64_t)(SPREAD_INTERVALS * ing->cfg.head_compaction_interval);
    return now_ms + (int64_t)(tenant_hash(h) % (spread_ms + 1));
}

static void close_when_idle(struct ingester *ing, struct head *h, int64_t now_ms)
{
    static const char *const results[] = {[HEAD_CLOSED] = "idle_closed", [HEAD_NOT_EMPTY] = "not_compacted", [HEAD_NOT_SAVED] = "not_shipped"};
    if (atomic_load(&h->closed) || !is_idle(ing, h, ing->cfg.close_idle_tsdb_timeout, now_ms))
        return;
    enum head_close r = HEAD_NOT_SAVED;
    if (!local_blocks_waiting(ing->blocks, h->tenant))
        r = keeper_close_head(ing, h);
    metric_inc(metric_get(ingest_metrics[INGESTER_IDLE_CHECKS], &(struct slice){results[r], strlen(results[r])}));
    if (r == HEAD_CLOSED)
        LOG_INFO("an idle tenant's head is closed", {"tenant", LOG_SLICE(h->tenant)});
}

static void look_at_head(struct ingester *ing, struct head *h, struct cut_pace *pace)
{
    int64_t now_ms = clock_mono_ms();
    int64_t cut = head_cut_ready(h);
    struct err err;
    if (is_idle(ing, h, ing->cfg.head_compaction_idle_timeout, now_ms) && head_has_samples(h)) {
        cut = CUT_ALL;
    } else if (cut == INT64_MIN) {
        h->cut_due_ms = 0;
        close_when_idle(ing, h, now_ms);
        return;
    }
    if (h->cut_due_ms == 0)
        h->cut_due_ms = due_at(ing, h, now_ms);
    if (now_ms < h->cut_due_ms)
        return;
    bool ok = cut_alone(ing, h, cut, pace, &err);
    h->cut_due_ms = ok ? 0 : clock_mono_ms() + ing->cfg.head_compaction_interval;
}

static void wait_interval(struct ingester *ing, int64_t ms)
{
    struct timespec at;
    clock_gettime(CLOCK_MONOTONIC, &at);
    at.tv_sec += ms / 1000;
    at.tv_nsec += ms % 1000 * 1000000;
    at.tv_sec += at.tv_nsec / 1000000000;
    at.tv_nsec %= 1000000000;
    pthread_mutex_lock(&ing->keeper_lock);
    if (!atomic_load(&ing->stop_cuts))
        pthread_cond_timedwait(&ing->cutter_wake, &ing->keeper_lock, &at);
    pthread_mutex_unlock(&ing->keeper_lock);
}

void *cutter_main(void *arg)
{
    struct ingester *ing = arg;
    struct priority_yield yield;
    struct cut_pace pace = {.share = ing->cfg.block_cut_cpu_share, .stop = &ing->stop_cuts, .hurry = &ing->hurry, .yield = &yield};
    pthread_setname_np(pthread_self(), "cutter");
    priority_lower(gettid(), PRIORITY_LONG_WORK);
    priority_yield_init(&yield, gettid());
    /* Ten looks an interval, so that the spread is one. */
    int64_t look_ms = MIN(MAX(ing->cfg.head_compaction_interval / SPREAD_INTERVALS, (int64_t)50), (int64_t)5000);
    int64_t expire_ms = 0;
    while (!atomic_load(&ing->stop_cuts)) {
        size_t n;
        struct head **heads = tenants_list(&ing->tenants, &n);
        for (size_t i = 0; i < n && !atomic_load(&ing->stop_cuts); i++)
            look_at_head(ing, heads[i], &pace);
        free(heads);
        if (clock_mono_ms() >= expire_ms) {
            local_blocks_expire(ing->blocks, clock_wall_ms());
            expire_ms = clock_mono_ms() + ing->cfg.head_compaction_interval;
        }
        wait_interval(ing, look_ms);
    }
    priority_yield_end(&yield);
    return NULL;
}

void cutter_stop(struct ingester *ing)
{
    pthread_mutex_lock(&ing->keeper_lock);
    atomic_store(&ing->stop_cuts, true);
    pthread_cond_broadcast(&ing->cutter_wake);
    pthread_mutex_unlock(&ing->keeper_lock);
    pthread_join(ing->cutter, NULL);
    struct err err;
    if (ingester_flushes_on_stop(ing) && !flush_heads(ing, (struct slice){NULL, 0}, NULL, &err))
        LOG_ERROR("not all heads were flushed; they stay on this disk", {"err", LOG_ERR(&err)});
}
