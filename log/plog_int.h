/* Private to log/: what a back end gives to plog.c, and the room's metrics. */
#pragma once

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
    bool (*acknowledged)(struct plog *log, int32_t partition, int64_t *ret_next, struct err *err); /* NULL = offsets */
};

/* The first member of a back end's own struct. Immutable after open. */
struct plog {
    const struct plog_ops *ops;
    int32_t n_partitions;
};

/* metric_get by one label value. */
struct metric *log_metric(enum log_metric_id id, const char *label_value);
