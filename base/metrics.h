/*
 * Metrics, in the Prometheus data model, written by many threads and read by /metrics.
 *
 * A room declares its families in a table, <room>_metrics.def, with rows
 *
 *     COUNTER(id, "name_total", "help", "label1", "label2")
 *     GAUGE(id, "name", "help")
 *     HISTOGRAM(id, "name_seconds", "help", METRIC_BUCKETS_SECONDS, "label")
 *
 * and makes of it (a) an enum of ids, (b) an array of struct metric_def, and (c) a registration with metrics_register.
 * docs/reference/metrics.md is generated from the same tables. A family with labels has one series per combination of label
 * values; metric_get finds or makes it (a lock and a hash lookup: callers on a hot path keep the pointer). Series of a tenant go
 * with metrics_remove_matching when the tenant goes.
 *
 * Adding is wait-free: each series keeps METRIC_SHARDS cache lines, a thread adds (relaxed) to the one of its thread slot, a
 * reader sums them. Gauges are one atomic double. A gauge or counter may instead be a callback evaluated at scrape time.
 * Memory: 8 lines = 512 B a counter, 8 lines and 8 rows of buckets a histogram. Any thread, any time after registration.
 */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/buf.h"
#include "base/slice.h"

#define METRIC_MAX_LABELS 6

enum metric_kind { METRIC_COUNTER, METRIC_GAUGE, METRIC_HISTOGRAM };

struct metric_def {
    enum metric_kind kind;
    const char *name;
    const char *help;
    const double *buckets; /* histogram: upper bounds, ascending, ended by +Inf (INFINITY) */
    const char *labels[METRIC_MAX_LABELS];
};

extern const double METRIC_BUCKETS_SECONDS[]; /* .005 .01 .025 .05 .1 .25 .5 1 2.5 5 10 25 50 100 +Inf, as Mimir's request durations */
extern const double METRIC_BUCKETS_BYTES[];   /* 1 KiB ... 1 GiB in powers of 4, +Inf */

struct metric;        /* one series */
struct metric_family; /* one name */

/* Registers defs[0..n); ret_families gets n pointers. Registering a name twice asserts. Families live as long as the process. */
void metrics_register(const struct metric_def *defs, size_t n, struct metric_family **ret_families);

/* The series with these label values (as many as the family has labels), made when absent. Never NULL; values are copied. */
struct metric *metric_get(struct metric_family *f, const struct slice *values);
/* For families without labels. */
struct metric *metric_single(struct metric_family *f);

void metric_add(struct metric *m, double v); /* counter (v >= 0) or gauge */
void metric_inc(struct metric *m);
void metric_set(struct metric *m, double v);     /* gauge */
void metric_observe(struct metric *m, double v); /* histogram */
double metric_value(struct metric *m);           /* counter, gauge: the sum now; histogram: count */

/* The value of the series is fn(arg) at each scrape (or its values are added by collect, below). */
void metric_set_callback(struct metric *m, double (*fn)(void *arg), void *arg);
/* fn(arg) runs at the start of each scrape: the place to refresh many gauges at once. */
void metrics_on_scrape(void (*fn)(void *arg), void *arg);
void metrics_remove_on_scrape(void (*fn)(void *arg), void *arg);

/* Drops every series of every family whose label `label` has this value. Pointers to them die. */
void metrics_remove_matching(struct slice label, struct slice value);
/* Drops one series. */
void metric_remove(struct metric_family *f, const struct slice *values);

/* The text exposition format 0.0.4, families sorted by name, series by labels; only the families named if n_names > 0. */
void metrics_write_text(struct buf *out, const struct slice *names, size_t n_names);

/* Every registered family in order of registration: for the generated reference. */
void metrics_each_def(void (*fn)(const struct metric_def *def, void *arg), void *arg);
