/*
 * The start of an ingester: what its checkpoint has, where consumption begins, and when it has caught up.
 *
 * Where (README.md says why):
 *
 *     checkpoint   -consume-from-position-at-startup   first offset
 *     good         last-offset, start                  the checkpoint's + 1
 *     good         end, timestamp                      the later of that and the one the flag names
 *     none, bad    last-offset                         the first record of the retention period
 *     none, bad    start | end | timestamp             the log's first | its end | the first record of that time
 *
 * The log's first offset where that is later; a checkpoint beyond the log's end is one of another log.
 *
 * Caught up: the log's end is asked for, everything below it is consumed, and the lag is the time since the question.
 */
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
#include "ingest/ingester_int.h"
#include "model/tenant.h"

#define ASK_FOR_MS 60000
#define ASK_AGAIN_MIN_MS 100
#define ASK_AGAIN_MAX_MS 2000
/* Smaller ones are seconds, or a mistake: this is 1998. */
#define TIMESTAMP_MIN_MS 900000000000

/* --- configuration --- */

bool start_config_check(const struct ingest_config *cfg, struct err *err)
{
    static const char *const positions[] = {"last-offset", "start", "end", "timestamp"};
    size_t i = 0;
    while (i < ARRAY_LEN(positions) && strcmp(cfg->consume_from_position, positions[i]) != 0)
        i++;
    if (i == ARRAY_LEN(positions))
        return err_set(err, ERR_CONFIG,
                       "-ingest-storage.kafka.consume-from-position-at-startup must be last-offset, start, end or "
                       "timestamp, not %s",
                       cfg->consume_from_position);
    if ((i == 3 || cfg->consume_from_timestamp != 0) && cfg->consume_from_timestamp < TIMESTAMP_MIN_MS)
        return err_set(err, ERR_CONFIG,
                       "-ingest-storage.kafka.consume-from-timestamp-at-startup must be unix milliseconds, not %lld",
                       (long long)cfg->consume_from_timestamp);
    if (cfg->offset_commit_interval <= 0)
        return err_set(err, ERR_CONFIG,
                       "-ingest-storage.kafka.consumer-group-offset-commit-interval must be more than 0");
    if (cfg->max_consumer_lag < 0 || cfg->target_consumer_lag < 0 ||
        (cfg->max_consumer_lag == 0) != (cfg->target_consumer_lag == 0))
        return err_set(err, ERR_CONFIG,
                       "-ingest-storage.kafka.target-consumer-lag-at-startup and -max-consumer-lag-at-startup must "
                       "both be 0 or both be more");
    if (cfg->target_consumer_lag > cfg->max_consumer_lag)
        return err_set(err, ERR_CONFIG,
                       "-ingest-storage.kafka.target-consumer-lag-at-startup must not be more than "
                       "-max-consumer-lag-at-startup");
    return true;
}

char *group_name(const struct ingest_config *cfg, int32_t partition, const char *instance_id, struct err *err)
{
    const char *rest = cfg->consumer_group[0] ? cfg->consumer_group : instance_id;
    static const char placeholder[] = "<partition>";
    struct buf b;
    buf_init(&b, 0);
    for (const char *at; cfg->consumer_group[0] && (at = strstr(rest, placeholder)); rest = at + strlen(placeholder)) {
        buf_put(&b, rest, (size_t)(at - rest));
        buf_printf(&b, "%d", partition);
    }
    buf_puts(&b, rest);
    char *name = NULL;
    if (b.n == 0 || b.n > PLOG_GROUP_NAME_MAX) {
        err_set(err, ERR_CONFIG,
                "-ingest-storage.kafka.consumer-group makes a name of %zu bytes, from 1 to %d are possible", b.n,
                PLOG_GROUP_NAME_MAX);
    } else {
        name = xmalloc(b.n + 1);
        memcpy(name, buf_cstr(&b), b.n + 1);
    }
    buf_release(&b);
    return name;
}

/* --- what there is --- */

/* What the log holds and what the manifest says. */
struct start {
    int64_t first;
    int64_t next;
    int64_t asked_ms;    /* when the log was asked; monotonic */
    int64_t manifest;    /* offset; -1 = none */
    bool from_beginning; /* something was lost that only a replay brings back */
};

static void sleep_ms(int64_t ms)
{
    struct timespec t = {.tv_sec = ms / 1000, .tv_nsec = ms % 1000 * 1000000};
    nanosleep(&t, NULL);
}

/* The log may be away for a moment: a process that gave up at once would be started again, and find it no sooner. */
static bool ask_log(struct ingester *ing, struct start *st, struct err *err)
{
    int64_t until_ms = clock_mono_ms() + ASK_FOR_MS;
    for (int64_t pause_ms = ASK_AGAIN_MIN_MS;; pause_ms = MIN(2 * pause_ms, ASK_AGAIN_MAX_MS)) {
        struct err why;
        st->asked_ms = clock_mono_ms();
        if (plog_offsets(ing->log, ing->partition, &st->first, &st->next, &why))
            return true;
        if (!err_retriable(why.code) || clock_mono_ms() + pause_ms > until_ms) {
            *err = why;
            return false;
        }
        LOG_WARN("the log does not say what it holds", {"partition", LOG_I64(ing->partition)}, {"err", LOG_ERR(&why)});
        sleep_ms(pause_ms);
    }
}

/* From here on the log has what the heads would keep. A record holds samples of its own time or older ones. */
static bool retention_start(struct ingester *ing, const struct start *st, int64_t *ret, struct err *err)
{
    *ret = st->first;
    return ing->cfg.retention_period <= 0 ||
           plog_offset_at(ing->log, ing->partition, clock_wall_ms() - ing->cfg.retention_period, ret, err);
}

/* A damaged piece is given up when the log still has all that was in it, else the start is refused. */
static bool give_up(struct ingester *ing, const struct start *st, const char *dir, const struct err *why,
                    struct err *err)
{
    int64_t needed;
    if (!retention_start(ing, st, &needed, err))
        return false;
    if (st->first != 0 && needed <= st->first) {
        err_set(err, ERR_CORRUPT,
                "%s; the log begins at offset %lld, so it cannot be replayed: restore the file or remove %s", why->text,
                (long long)st->first, dir);
        return false;
    }
    LOG_ERROR("damaged, replaying the log", {"err", LOG_ERR(why)});
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
        return local_blocks_publish_named(ing->blocks, tenant, h->cuts.names, h->cuts.n_names, err);
    }
    if (why.code != ERR_NOT_FOUND && why.code != ERR_CORRUPT) {
        *err = why;
        return false;
    }
    if (why.code == ERR_CORRUPT) {
        if (!give_up(ing, st, dir, &why, err))
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
    return give_up(ing, st, ing->dir, &why, err);
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

/* --- where consumption begins --- */

static bool position_by_flag(struct ingester *ing, const struct start *st, bool has_checkpoint, int64_t *ret,
                             struct err *err)
{
    const char *flag = ing->cfg.consume_from_position;
    *ret = st->first;
    if (strcmp(flag, "end") == 0)
        *ret = st->next;
    else if (strcmp(flag, "timestamp") == 0)
        return plog_offset_at(ing->log, ing->partition, ing->cfg.consume_from_timestamp, ret, err);
    else if (strcmp(flag, "last-offset") == 0 && !has_checkpoint)
        return retention_start(ing, st, ret, err);
    return true;
}

/* The records from..to are not consumed. */
static void note_skipped(struct ingester *ing, int64_t from, int64_t to)
{
    LOG_WARN("records are passed over, as -ingest-storage.kafka.consume-from-position-at-startup wants it",
             {"partition", LOG_I64(ing->partition)}, {"from", LOG_I64(from)}, {"to", LOG_I64(to)});
}

static void note_gone(struct ingester *ing, int64_t from, int64_t to)
{
    LOG_WARN("records are gone from the log that were not consumed", {"partition", LOG_I64(ing->partition)},
             {"from", LOG_I64(from)}, {"to", LOG_I64(to)});
    metric_add(metric_single(ingest_metrics[READER_MISSED_RECORDS]), (double)(to - from));
}

static bool choose_position(struct ingester *ing, const struct start *st, int64_t *ret, struct err *err)
{
    bool has_checkpoint = st->manifest >= 0 && !st->from_beginning;
    int64_t by_flag;
    if (!position_by_flag(ing, st, has_checkpoint, &by_flag, err))
        return false;
    int64_t own = has_checkpoint ? st->manifest + 1 : 0;
    if (st->manifest >= st->next) {
        LOG_ERROR("the checkpoint is beyond the end of the log: reading all of it",
                  {"partition", LOG_I64(ing->partition)}, {"position", LOG_I64(st->manifest + 1)},
                  {"end", LOG_I64(st->next)});
        if (!ingester_rewind(ing, st->first, err))
            return false;
        own = st->first;
    } else if (has_checkpoint && own < st->first) {
        note_gone(ing, own, st->first);
        own = st->first;
    }
    if (by_flag > own && has_checkpoint)
        note_skipped(ing, own, by_flag);
    *ret = MAX(MAX(own, by_flag), st->first);
    return true;
}

/* The group's offset is what others are told, and tells us nothing: what lay on a disk that is gone is not here. */
static void ask_committed(struct ingester *ing)
{
    struct err err;
    if (plog_committed(ing->log, slice_of(ing->group), ing->partition, &ing->committed, &err)) {
        metric_set(ing->m_committed, (double)ing->committed);
        return;
    }
    ing->committed = -1;
    LOG_WARN("the committed offset is not known", {"group", LOG_STR(ing->group)},
             {"partition", LOG_I64(ing->partition)}, {"err", LOG_ERR(&err)});
}

/* --- catching up --- */

static bool waits_for_lag(const struct ingester *ing)
{
    return ing->cfg.max_consumer_lag > 0 && strcmp(ing->cfg.consume_from_position, "end") != 0;
}

/* Is a lag good enough to be ready? Once it is below the maximum a better one is waited for, but not for ever. */
static bool lag_will_do(struct ingester *ing, int64_t lag_ms, int64_t now_ms)
{
    struct catch_up *c = &ing->catch_up;
    if (lag_ms <= ing->cfg.target_consumer_lag)
        return true;
    if (lag_ms > ing->cfg.max_consumer_lag)
        return false;
    if (!c->settle_ms)
        c->settle_ms = now_ms + 2 * ing->cfg.max_consumer_lag;
    return now_ms >= c->settle_ms;
}

void catch_up_check(struct ingester *ing)
{
    struct catch_up *c = &ing->catch_up;
    bool known = true;
    while (known && (!waits_for_lag(ing) || ing->position >= atomic_load(&c->target))) {
        int64_t now_ms = clock_mono_ms();
        int64_t lag_ms = now_ms - c->asked_ms;
        if (!waits_for_lag(ing) || lag_will_do(ing, lag_ms, now_ms)) {
            atomic_store(&ing->ready, true);
            LOG_INFO("the ingester serves", {"partition", LOG_I64(ing->partition)},
                     {"offset", LOG_I64(ing->position - 1)}, {"lag_ms", LOG_I64(lag_ms)});
            return;
        }
        /* An end that cannot be found out is no reason to be ready; it is asked for again after the next fetch. */
        int64_t first;
        int64_t next;
        known = plog_offsets(ing->log, ing->partition, &first, &next, NULL);
        if (known) {
            c->asked_ms = now_ms;
            atomic_store(&c->target, next);
        }
    }
}

static void start_threads(struct ingester *ing)
{
    int a = pthread_create(&ing->consumer, NULL, consumer_main, ing);
    int b = a == 0 ? pthread_create(&ing->keeper, NULL, keeper_main, ing) : 0;
    int c = b == 0 ? pthread_create(&ing->cutter, NULL, cutter_main, ing) : 0;
    ASSERT(a == 0 && b == 0 && c == 0);
    ing->started = true;
}

bool ingester_start(struct ingester *ing, struct err *err)
{
    int64_t begin = clock_mono_ms();
    struct start st = {0};
    int64_t position;
    if (!ask_log(ing, &st, err) || !read_manifest(ing, &st, err) || !load_tenants(ing, &st, err) || !local_blocks_load(ing->blocks, err))
        return false;
    ing->durable = st.manifest;
    if (!choose_position(ing, &st, &position, err))
        return false;
    ask_committed(ing);
    ing->position = position;
    atomic_store(&ing->catch_up.target, st.next);
    ing->catch_up.asked_ms = st.asked_ms;
    plog_set_needed_from(ing->log, ing->partition, position);
    ingester_publish(ing, position - 1);
    LOG_INFO("the ingester has its heads", {"partition", LOG_I64(ing->partition)}, {"tenants", LOG_U64(ing->tenants.n)},
             {"series", LOG_U64(atomic_load(&ing->totals.n_series))}, {"ms", LOG_I64(clock_mono_ms() - begin)},
             {"checkpoint", LOG_I64(st.manifest)}, {"committed", LOG_I64(ing->committed)},
             {"position", LOG_I64(position)}, {"to_replay", LOG_I64(MAX(st.next - position, 0))});
    if (position >= st.next || !waits_for_lag(ing))
        catch_up_check(ing);
    start_threads(ing);
    return true;
}
