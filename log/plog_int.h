/* Private to log/: what a back end gives to plog.c, and the room's metrics. */
#pragma once

#include <stdatomic.h>

#include "log/plog.h"

#define METRICS_ROOM log
#define METRICS_DEF "log/log_metrics.def"
#include "base/metrics_table.h"

/* One function for each of plog.h, same promises; the partition has been checked. */
struct plog_ops {
    bool wants_plain;
    void (*close)(struct plog *log);
    bool (*produce)(struct plog *log, struct plog_produce *p, struct err *err);
    bool (*fetch)(struct plog *log, int32_t partition, int64_t offset, size_t max_bytes, int64_t timeout_ms,
                  struct plog_batch *ret, struct err *err);
    bool (*offsets)(struct plog *log, int32_t partition, int64_t *ret_first, int64_t *ret_next, struct err *err);
    bool (*offset_at)(struct plog *log, int32_t partition, int64_t t, int64_t *ret_offset, struct err *err);
    bool (*commit)(struct plog *log, struct slice group, int32_t partition, int64_t offset, struct err *err);
    bool (*committed)(struct plog *log, struct slice group, int32_t partition, int64_t *ret_offset, struct err *err);
    void (*set_needed_from)(struct plog *log, int32_t partition, int64_t offset);
    bool (*ends)(struct plog *log, const int32_t *partitions, size_t n, int64_t *ret_next, struct err *err); /* NULL = offsets */
    void (*wake)(struct plog *log, int32_t partition);
    void (*missing)(struct plog *log); /* somebody asked for a partition that is not there; NULL = it will never be */
    bool (*acknowledged)(struct plog *log, int32_t partition, int64_t *ret_next, struct err *err); /* NULL = offsets */
};

/* The first member of a back end's own struct. */
struct plog {
    const struct plog_ops *ops;   /* immutable */
    _Atomic int32_t n_partitions; /* only grows; what a partition needs is there before it counts (release, acquire) */
};

/* metric_get by one label value. */
struct metric *log_metric(enum log_metric_id id, const char *label_value);

/* kafka_client.c: the flags of Kafka, as far as they can be judged without it. */
bool kafka_config_check(const struct plog_config *cfg, struct err *err);

/* --- what back ends share of producing --- */

struct log_writer_metrics {
    struct metric *latency_ok, *latency_failed, *buffered_bytes, *enqueued, *input_bytes, *sent_bytes;
};
/* Registers the room's metrics too. */
void log_writer_metrics_init(struct log_writer_metrics *m, uint64_t buffered_bytes_limit);
/* Times that are 0 become now, p->queued_ns is set; returns the bytes of the values. */
uint64_t log_produce_begin(struct plog_produce *p);
void log_count_failed(size_t n_records, const char *reason);
/* p->bytes do not fit beside what waits; returns false. A request that never will fit is told so. */
bool log_refuse_full(const struct plog_produce *p, uint64_t waiting_bytes, uint64_t limit_bytes, struct err *err);
