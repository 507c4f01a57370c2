/* The door of the log: checks what is common to all back ends, then dispatches. */
#include "log/plog.h"

#include <inttypes.h>
#include <stdatomic.h>
#include <string.h>

#include "base/assert.h"
#include "base/clock.h"
#include "log/plog_int.h"

const struct flag_def plog_flags[] = {
#define FLAG(...) FLAG_ROW(plog_config, __VA_ARGS__)
#include "log/log_flags.def"
#undef FLAG
};
const size_t plog_flags_n = ARRAY_LEN(plog_flags);

bool plog_config_validate(const struct plog_config *cfg, struct err *err)
{
    if (!cfg->enabled)
        return err_set(err, ERR_CONFIG, "-ingest-storage.enabled=false: writes always go through the log");
    if (cfg->send_to_ingesters || cfg->ignore_errors || cfg->migration_max_wait != 0)
        return err_set(err, ERR_CONFIG,
                       "-ingest-storage.migration.*: there is no other way for writes than the log, so there is nothing to migrate");
    if (cfg->kafka_offset_poll_interval < 0)
        return err_set(err, ERR_CONFIG, "-ingest-storage.kafka.last-produced-offset-poll-interval must not be negative");
    return cfg->kafka_address.n == 0 || kafka_config_check(cfg, err);
}

#define METRICS_ROOM log
#define METRICS_DEF "log/log_metrics.def"
#define METRICS_DEFINE
#define METRICS_DEFINE_ONLY
#include "base/metrics_table.h"

struct metric *log_metric(enum log_metric_id id, const char *label_value)
{
    struct slice value = slice_of(label_value);
    return metric_get(log_metrics[id], &value);
}

void plog_hint_ref(struct plog_hint *h)
{
    /* Relaxed: whoever refs holds a reference already. */
    atomic_fetch_add_explicit(&h->refs, 1, memory_order_relaxed);
}

void plog_hint_unref(struct plog_hint *h)
{
    /* Release and acquire: what others did to the hint happens before its end. */
    if (h && atomic_fetch_sub_explicit(&h->refs, 1, memory_order_acq_rel) == 1)
        h->free(h);
}

/* --- what back ends share of producing --- */

void log_writer_metrics_init(struct log_writer_metrics *m, uint64_t buffered_bytes_limit)
{
    log_metrics_register();
    *m = (struct log_writer_metrics){
        .latency_ok = log_metric(LOG_WRITER_LATENCY, "success"),
        .latency_failed = log_metric(LOG_WRITER_LATENCY, "failure"),
        .buffered_bytes = metric_single(log_metrics[LOG_BUFFERED_BYTES]),
        .enqueued = metric_single(log_metrics[LOG_RECORDS_ENQUEUED]),
        .input_bytes = metric_single(log_metrics[LOG_INPUT_BYTES]),
        .sent_bytes = metric_single(log_metrics[LOG_SENT_BYTES]),
    };
    metric_set(metric_single(log_metrics[LOG_BUFFERED_BYTES_LIMIT]), (double)buffered_bytes_limit);
}

uint64_t log_produce_begin(struct plog_produce *p)
{
    int64_t now_ms = clock_wall_ms();
    uint64_t value_bytes = 0;
    p->queued_ns = clock_mono_ns();
    for (size_t i = 0; i < p->n; i++) {
        if (p->records[i].timestamp_ms == 0)
            p->records[i].timestamp_ms = now_ms;
        value_bytes += p->records[i].value.n;
    }
    return value_bytes;
}

void log_count_failed(size_t n_records, const char *reason)
{
    metric_add(log_metric(LOG_RECORDS_FAILED, reason), (double)n_records);
}

bool log_refuse_full(const struct plog_produce *p, uint64_t waiting_bytes, uint64_t limit_bytes, struct err *err)
{
    return err_set(err, p->bytes > limit_bytes ? ERR_TOO_LARGE : ERR_UNAVAILABLE,
                   "the log's produce buffer is full: %" PRIu64 " bytes wait to become durable, %zu more would exceed "
                   "-ingest-storage.kafka.producer-max-buffered-bytes=%" PRIu64,
                   waiting_bytes, p->bytes, limit_bytes);
}

/* --- the door --- */

static bool no_partition(struct plog *log, int32_t partition, enum err_code code, struct err *err)
{
    if (log->ops->missing)
        log->ops->missing(log);
    return err_set(err, code, "the log has no partition %" PRId32 ", it has %" PRId32, partition, plog_partitions(log));
}

static bool check_partition(struct plog *log, int32_t partition, struct err *err)
{
    return (partition >= 0 && partition < plog_partitions(log)) ||
           no_partition(log, partition, log->ops->missing ? ERR_UNAVAILABLE : ERR_NOT_FOUND, err);
}

static bool check_group(struct slice group, struct err *err)
{
    if (group.n > 0 && group.n <= PLOG_GROUP_NAME_MAX)
        return true;
    return err_set(err, ERR_BAD_DATA, "a consumer group's name has 1 to %d bytes, this one has %zu",
                   PLOG_GROUP_NAME_MAX, group.n);
}

void plog_close(struct plog *log)
{
    if (log)
        log->ops->close(log);
}

int32_t plog_partitions(const struct plog *log)
{
    return atomic_load_explicit(&log->n_partitions, memory_order_acquire); /* pairs with whoever grows it */
}

bool plog_wants_plain(const struct plog *log)
{
    return log->ops->wants_plain;
}

bool plog_produce(struct plog *log, struct plog_produce *p, struct err *err)
{
    for (size_t i = 0; i < p->n; i++) {
        const struct plog_record *r = &p->records[i];
        if (r->partition < 0 || r->partition >= plog_partitions(log))
            return no_partition(log, r->partition, ERR_UNAVAILABLE, err);
        if (r->tenant.n > PLOG_TENANT_MAX || r->value.n > PLOG_VALUE_MAX)
            return err_set(err, ERR_TOO_LARGE,
                           "a record's key may have %d bytes and its value %d, these have %zu and %zu", PLOG_TENANT_MAX,
                           PLOG_VALUE_MAX, r->tenant.n, r->value.n);
    }
    return log->ops->produce(log, p, err);
}

bool plog_fetch(struct plog *log, int32_t partition, int64_t offset, size_t max_bytes, int64_t timeout_ms,
                struct plog_batch *ret, struct err *err)
{
    return check_partition(log, partition, err) &&
           log->ops->fetch(log, partition, offset, max_bytes, timeout_ms, ret, err);
}

void plog_batch_release(struct plog_batch *b)
{
    for (size_t i = 0; i < b->n; i++)
        plog_hint_unref(b->records[i].hint);
    if (b->pin)
        b->unpin(b->pin);
    arena_release(&b->arena);
    *b = (struct plog_batch){0};
}

void plog_wake(struct plog *log, int32_t partition)
{
    if (check_partition(log, partition, NULL))
        log->ops->wake(log, partition);
}

bool plog_offsets(struct plog *log, int32_t partition, int64_t *ret_first, int64_t *ret_next, struct err *err)
{
    return check_partition(log, partition, err) && log->ops->offsets(log, partition, ret_first, ret_next, err);
}

bool plog_ends(struct plog *log, const int32_t *partitions, size_t n, int64_t *ret_next, struct err *err)
{
    for (size_t i = 0; i < n; i++)
        if (!check_partition(log, partitions[i], err))
            return false;
    if (log->ops->ends)
        return n == 0 || log->ops->ends(log, partitions, n, ret_next, err);
    int64_t first;
    for (size_t i = 0; i < n; i++)
        if (!log->ops->offsets(log, partitions[i], &first, &ret_next[i], err))
            return false;
    return true;
}

bool plog_acknowledged(struct plog *log, int32_t partition, int64_t *ret_next, struct err *err)
{
    int64_t first;
    if (!log->ops->acknowledged)
        return plog_offsets(log, partition, &first, ret_next, err);
    return check_partition(log, partition, err) && log->ops->acknowledged(log, partition, ret_next, err);
}

bool plog_offset_at(struct plog *log, int32_t partition, int64_t t, int64_t *ret_offset, struct err *err)
{
    return check_partition(log, partition, err) && log->ops->offset_at(log, partition, t, ret_offset, err);
}

bool plog_commit(struct plog *log, struct slice group, int32_t partition, int64_t offset, struct err *err)
{
    if (!check_partition(log, partition, err) || !check_group(group, err))
        return false;
    if (offset < -1)
        return err_set(err, ERR_BAD_DATA, "offset %" PRId64 " cannot be committed", offset);
    return log->ops->commit(log, group, partition, offset, err);
}

bool plog_committed(struct plog *log, struct slice group, int32_t partition, int64_t *ret_offset, struct err *err)
{
    return check_partition(log, partition, err) && check_group(group, err) &&
           log->ops->committed(log, group, partition, ret_offset, err);
}

void plog_set_needed_from(struct plog *log, int32_t partition, int64_t offset)
{
    ASSERT(partition >= 0 && partition < plog_partitions(log));
    log->ops->set_needed_from(log, partition, offset);
}
