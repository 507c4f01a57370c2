/*
 * The keeper thread: everything that happens by the clock. Checkpoints and commits, active series, rates, expiry of
 * metadata.
 */
#include <stdlib.h>
#include <time.h>
#include <unistd.h>

#include "base/assert.h"
#include "base/clock.h"
#include "base/logger.h"
#include "base/priority.h"
#include "ingest/ingester_int.h"

#define TICK_MS 500
/* After a failed checkpoint: at a full disk a try costs little, but each leaves a line in the log. */
#define RETRY_MS 10000
/* Between two questions to the log whether it has something for a consumer that stands still. */
#define STUCK_ASK_MS 10000
#define COMMIT_RETRY_MAX_MS 30000

struct keeper {
    struct ingester *ing;
    int64_t checkpoint_at_ms; /* all monotonic */
    int64_t active_at_ms;
    int64_t rates_at_ms;
    int64_t rates_since_ms;
    int64_t stuck_ask_at_ms;
    int64_t commit_at_ms;
    int64_t commit_pause_ms; /* grows while commits fail */
};

/* --- checkpoint --- */

/* Under checkpoint_lock. */
static bool save_head(struct ingester *ing, struct head *h, int64_t consumed, struct cut_pace *pace, uint64_t *bytes, struct err *err)
{
    /* Before the shards are looked at: what is applied meanwhile makes the next round write it again. */
    uint64_t changes = atomic_load_explicit(&h->changes, memory_order_acquire);
    uint64_t written = 0;
    if (atomic_load(&h->closed) || (h->has_checkpoint && changes == h->checkpointed))
        return true;
    if (!head_save(h, ing->blocks, consumed, pace, &written, err))
        return false;
    h->checkpointed = changes;
    h->has_checkpoint = true;
    *bytes += written;
    return true;
}

bool keeper_save_head(struct ingester *ing, struct head *h, struct cut_pace *pace, uint64_t *ret_bytes, struct err *err)
{
    pthread_mutex_lock(&ing->checkpoint_lock);
    int64_t consumed = atomic_load_explicit(&ing->consumed, memory_order_acquire);
    bool ok = save_head(ing, h, consumed, pace, ret_bytes, err);
    pthread_mutex_unlock(&ing->checkpoint_lock);
    return ok;
}

enum head_close keeper_close_head(struct ingester *ing, struct head *h)
{
    pthread_mutex_lock(&ing->checkpoint_lock);
    bool saved = h->has_checkpoint && atomic_load(&h->changes) == h->checkpointed;
    enum head_close r = saved ? head_close(h, ing->durable) : HEAD_NOT_SAVED;
    if (r == HEAD_CLOSED)
        h->has_checkpoint = false;
    pthread_mutex_unlock(&ing->checkpoint_lock);
    return r;
}

static bool checkpoint_heads(struct ingester *ing, int64_t consumed, uint64_t *bytes, struct err *err)
{
    size_t n;
    struct head **heads = tenants_list(&ing->tenants, &n);
    bool ok = true;
    for (size_t i = 0; i < n; i++) {
        struct err why;
        /* The others are written all the same: what they have need not be replayed. The first error is the one reported. */
        if (!save_head(ing, heads[i], consumed, NULL, bytes, &why)) {
            if (ok)
                *err = why;
            ok = false;
        }
    }
    free(heads);
    return ok;
}

static bool checkpoint_round(struct ingester *ing, struct err *err)
{
    int64_t begin = clock_mono_ms();
    uint64_t bytes = 0;
    /* First the offset, then the heads: they may hold more, which their shards' own offsets tell. */
    int64_t consumed = atomic_load_explicit(&ing->consumed, memory_order_acquire);
    metric_inc(metric_single(ingest_metrics[INGESTER_CHECKPOINTS]));
    uint64_t record_bytes = atomic_load(&ing->record_bytes);
    if (!checkpoint_heads(ing, consumed, &bytes, err) ||
        !manifest_write(ing->dir, ing->partition, ing->hash_seed, consumed, err)) {
        metric_inc(metric_single(ingest_metrics[INGESTER_CHECKPOINT_FAILURES]));
        return false;
    }
    ing->durable = consumed;
    plog_set_needed_from(ing->log, ing->partition, consumed + 1);
    atomic_fetch_sub(&ing->record_bytes, record_bytes);
    int64_t ms = clock_mono_ms() - begin;
    metric_observe(metric_single(ingest_metrics[INGESTER_CHECKPOINT_SECONDS]), (double)ms / 1e3);
    metric_add(metric_single(ingest_metrics[INGESTER_CHECKPOINT_BYTES]), (double)bytes);
    if (bytes)
        LOG_INFO("checkpoint", {"partition", LOG_I64(ing->partition)}, {"offset", LOG_I64(consumed)},
                 {"bytes", LOG_U64(bytes)}, {"ms", LOG_I64(ms)});
    return true;
}

bool keeper_checkpoint(struct ingester *ing, struct err *err)
{
    pthread_mutex_lock(&ing->checkpoint_lock);
    bool ok = checkpoint_round(ing, err);
    pthread_mutex_unlock(&ing->checkpoint_lock);
    return ok;
}

bool ingester_checkpoint(struct ingester *ing, struct err *err)
{
    return keeper_checkpoint(ing, err);
}

void ingester_checkpoint_soon(struct ingester *ing)
{
    pthread_mutex_lock(&ing->keeper_lock);
    atomic_store(&ing->checkpoint_wanted, true);
    pthread_cond_broadcast(&ing->keeper_wake);
    pthread_mutex_unlock(&ing->keeper_lock);
}

static void checkpoint_when_due(struct keeper *k, int64_t now)
{
    struct ingester *ing = k->ing;
    bool much = ing->cfg.checkpoint_record_bytes && atomic_load(&ing->record_bytes) >= ing->cfg.checkpoint_record_bytes;
    bool wanted = atomic_exchange(&ing->checkpoint_wanted, false);
    if (!wanted && now < k->checkpoint_at_ms && !(much && k->checkpoint_at_ms - now < ing->cfg.checkpoint_interval))
        return;
    struct err err;
    bool ok = keeper_checkpoint(ing, &err);
    if (!ok)
        LOG_ERROR("no checkpoint could be written; the log keeps what is not in one", {"err", LOG_ERR(&err)});
    k->checkpoint_at_ms =
        clock_mono_ms() + (ok ? ing->cfg.checkpoint_interval : MIN(ing->cfg.checkpoint_interval, RETRY_MS));
}

/* --- commit --- */

/* Tells the group how far the checkpoint goes; it was durable before. Nobody's correctness hangs on it, so a log that
 * does not take it costs a line and a later try. */
static bool commit(struct ingester *ing)
{
    pthread_mutex_lock(&ing->checkpoint_lock);
    int64_t offset = ing->durable;
    pthread_mutex_unlock(&ing->checkpoint_lock);
    if (offset < 0 || offset == ing->committed)
        return true;
    struct err err;
    int64_t begin_ns = clock_mono_ns();
    metric_inc(ing->m_commits);
    bool ok = plog_commit(ing->log, slice_of(ing->group), ing->partition, offset, &err);
    metric_observe(ing->m_commit_seconds, (double)(clock_mono_ns() - begin_ns) / 1e9);
    if (!ok) {
        metric_inc(ing->m_commit_failures);
        LOG_WARN("an offset could not be committed", {"group", LOG_STR(ing->group)},
                 {"partition", LOG_I64(ing->partition)}, {"offset", LOG_I64(offset)}, {"err", LOG_ERR(&err)});
        return false;
    }
    ing->committed = offset;
    metric_set(ing->m_committed, (double)offset);
    return true;
}

static void commit_when_due(struct keeper *k, int64_t now)
{
    if (now < k->commit_at_ms)
        return;
    int64_t interval = k->ing->cfg.offset_commit_interval;
    k->commit_pause_ms = commit(k->ing) ? interval : MIN(MAX(2 * k->commit_pause_ms, interval), COMMIT_RETRY_MAX_MS);
    k->commit_at_ms = clock_mono_ms() + k->commit_pause_ms;
}

/* --- the rest --- */

static void each_head(struct ingester *ing, void (*fn)(struct ingester *ing, struct head *h, void *arg), void *arg)
{
    size_t n;
    struct head **heads = tenants_list(&ing->tenants, &n);
    for (size_t i = 0; i < n && !atomic_load(&ing->stop_keeper); i++)
        fn(ing, heads[i], arg);
    free(heads);
}

static void update_active(struct ingester *ing, struct head *h, void *arg)
{
    int64_t now_ms = *(const int64_t *)arg;
    head_count_active(h, (uint32_t)MAX((now_ms - ing->cfg.active_series_idle_timeout) / 1000, 0));
    if (ing->cfg.metadata_retain_period > 0)
        metric_add(h->metrics.metadata_removed,
                   (double)metadata_expire(&h->metadata, now_ms - ing->cfg.metadata_retain_period));
}

/* The checkpoint, too, holds a shard for as long as it takes; here it is some system calls. */
static void give_back(struct ingester *ing, struct head *h, void *arg)
{
    (void)ing, (void)arg;
    for (uint32_t i = 0; i < h->n_shards; i++) {
        pthread_mutex_lock(&h->shards[i].writer);
        slabs_give_back(&h->shards[i].data->slabs);
        pthread_mutex_unlock(&h->shards[i].writer);
    }
}

static void update_rates(struct ingester *ing, struct head *h, void *arg)
{
    (void)ing;
    head_update_rates(h, *(const double *)arg);
}

struct time_range {
    int64_t min_t;
    int64_t max_t;
};

static void widen_range(struct ingester *ing, struct head *h, void *arg)
{
    (void)ing;
    struct time_range *r = arg;
    r->min_t = MIN(r->min_t, atomic_load_explicit(&h->min_t, memory_order_relaxed));
    r->max_t = MAX(r->max_t, atomic_load_explicit(&h->max_t, memory_order_relaxed));
}

static void update_gauges(struct ingester *ing)
{
    struct time_range r = {INT64_MAX, INT64_MIN};
    each_head(ing, widen_range, &r);
    if (r.max_t != INT64_MIN) {
        metric_set(metric_single(ingest_metrics[INGESTER_HEAD_MIN_TIMESTAMP]), (double)r.min_t / 1e3);
        metric_set(metric_single(ingest_metrics[INGESTER_HEAD_MAX_TIMESTAMP]), (double)r.max_t / 1e3);
    }
}

/* Is the consumer standing still while the log has something for it? The log is asked by this thread only, since it may
 * take long to answer. */
static void check_progress(struct keeper *k, int64_t now)
{
    struct ingester *ing = k->ing;
    int64_t first;
    int64_t next;
    if (now - atomic_load_explicit(&ing->progress_ms, memory_order_relaxed) <= STUCK_MS) {
        k->stuck_ask_at_ms = 0;
        atomic_store(&ing->stuck, false);
    } else if (now >= k->stuck_ask_at_ms) {
        bool known = plog_offsets(ing->log, ing->partition, &first, &next, NULL);
        atomic_store(&ing->stuck, known && next > atomic_load(&ing->consumed) + 1);
        k->stuck_ask_at_ms = clock_mono_ms() + STUCK_ASK_MS;
    }
    metric_set(ing->m_stuck, atomic_load(&ing->stuck));
}

static void tick(struct keeper *k)
{
    struct ingester *ing = k->ing;
    int64_t now = clock_mono_ms();
    checkpoint_when_due(k, now);
    commit_when_due(k, now);
    check_progress(k, now);
    if (now >= k->rates_at_ms) {
        double seconds = (double)(now - k->rates_since_ms) / 1e3;
        if (seconds > 0)
            each_head(ing, update_rates, &seconds);
        k->rates_since_ms = now;
        k->rates_at_ms = now + MAX(ing->cfg.rate_update_period, TICK_MS);
    }
    if (now >= k->active_at_ms) {
        int64_t wall = clock_wall_ms();
        each_head(ing, update_active, &wall);
        each_head(ing, give_back, NULL);
        update_gauges(ing);
        k->active_at_ms = now + ing->cfg.active_series_update_period;
    }
}

static void wait_tick(struct ingester *ing)
{
    struct timespec at;
    clock_gettime(CLOCK_MONOTONIC, &at);
    at.tv_nsec += TICK_MS * 1000000L;
    at.tv_sec += at.tv_nsec / 1000000000;
    at.tv_nsec %= 1000000000;
    pthread_mutex_lock(&ing->keeper_lock);
    if (!atomic_load(&ing->stop_keeper) && !atomic_load(&ing->checkpoint_wanted))
        pthread_cond_timedwait(&ing->keeper_wake, &ing->keeper_lock, &at);
    pthread_mutex_unlock(&ing->keeper_lock);
}

void *keeper_main(void *arg)
{
    struct ingester *ing = arg;
    int64_t now = clock_mono_ms();
    struct keeper k = {.ing = ing,
                       .checkpoint_at_ms = now + ing->cfg.checkpoint_interval,
                       .rates_since_ms = now,
                       .rates_at_ms = now + ing->cfg.rate_update_period};
    /* Soon after the start, so that the count is there; not at once, because the replay comes first. */
    k.active_at_ms = now + MIN(ing->cfg.active_series_update_period, 5000);
    pthread_setname_np(pthread_self(), "keeper");
    priority_lower(gettid(), 0); /* a checkpoint is long work, but shards wait for it */
    while (!atomic_load(&ing->stop_keeper)) {
        tick(&k);
        wait_tick(ing);
    }
    struct err err;
    if (!keeper_checkpoint(ing, &err))
        LOG_ERROR("no last checkpoint could be written; the next start replays more of the log",
                  {"err", LOG_ERR(&err)});
    (void)commit(ing);
    return NULL;
}
