/* The door of the log: checks what is common to all back ends, then dispatches. */
#include "log/plog.h"

#include <inttypes.h>
#include <stdatomic.h>
#include <string.h>

#include "base/assert.h"
#include "log/plog_int.h"

const struct flag_def plog_flags[] = {
#define FLAG(...) FLAG_ROW(plog_config, __VA_ARGS__)
#include "log/log_flags.def"
#undef FLAG
};
const size_t plog_flags_n = ARRAY_LEN(plog_flags);

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

static bool check_partition(const struct plog *log, int32_t partition, struct err *err)
{
    if (partition >= 0 && partition < log->n_partitions)
        return true;
    return err_set(err, ERR_NOT_FOUND, "the log has no partition %" PRId32 ", it has %" PRId32, partition,
                   log->n_partitions);
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
    return log->n_partitions;
}

bool plog_wants_plain(const struct plog *log)
{
    return log->ops->wants_plain;
}

bool plog_produce(struct plog *log, struct plog_produce *p, struct err *err)
{
    for (size_t i = 0; i < p->n; i++) {
        const struct plog_record *r = &p->records[i];
        if (!check_partition(log, r->partition, err))
            return false;
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
    ASSERT(partition >= 0 && partition < log->n_partitions);
    log->ops->set_needed_from(log, partition, offset);
}
