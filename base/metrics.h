/*
 * Metrics, in the Prometheus data model, written by many threads and read by /metrics.
 *
 * A room declares its families in a table, <room>_metrics.def, with rows
 *
 *     COUNTER(ID, "name_total", "help", "label1", "label2")
 *     GAUGE(ID, "name", "help")
 *     HISTOGRAM(ID, "name_seconds", "help", METRIC_BUCKETS_SECONDS, "label")
 *
 * (ID is an enum constant of the room, so it carries the room's prefix: WRITE_M_SAMPLES). base/metrics_table.h makes the rest of it. In the
 * only .c file that counts:
 *
 *     #define METRICS_ROOM write
 *     #define METRICS_DEF "write/write_metrics.def"
 *     #define METRICS_DEFINE
 *     #include "base/metrics_table.h"
 *
 * gives the enum of the ids, `struct metric_family *write_metrics[]` indexed by it, and `void write_metrics_register(void)`, which
 * may be called many times and from any thread; the room calls it in its constructor (distributor_new, http_server_new, ...). Where several
 * files count, the private header has these lines without METRICS_DEFINE, and one .c file repeats them with METRICS_DEFINE_ONLY.
 *
 * docs/reference/metrics.md is generated from the same tables. A family without labels has its series, with value 0, from registration on.
 * A family with labels has one series per combination of label values; metric_get finds or makes it (a lock and a hash lookup: callers on a
 * hot path keep the pointer). Series of a tenant go with metrics_remove_matching when the tenant goes.
 *
 * Adding: each series keeps METRIC_SHARDS cache lines, a thread adds (relaxed) to the one of its thread slot, a reader sums them. Whole
 * numbers are added wait-free; fractions and histogram sums by compare-and-swap on a line that few threads share. Gauges are one atomic
 * double. A gauge or counter may instead be a callback evaluated at scrape time.
 * Memory: 8 lines = 512 B a counter, 8 rows of buckets (1 KiB with METRIC_BUCKETS_SECONDS) a histogram. Any thread, any time after registration.
 *
 * Locks, in order: scrape lock (recursive; held by a scrape while it runs callbacks, and by removals and callback registration), registry
 * lock, a family's lock. So never remove a series, or add or remove a callback, while holding a lock that a callback takes.
 */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/buf.h"
#include "base/slice.h"

#define METRIC_MAX_LABELS 6
#define METRIC_SHARDS 8

enum metric_kind { METRIC_COUNTER, METRIC_GAUGE, METRIC_HISTOGRAM };

struct metric_def {
    enum metric_kind kind;
    const char *name;
    const char *help;
    const double *buckets; /* histogram: upper bounds, ascending, ended by +Inf (INFINITY) */
    const char *labels[METRIC_MAX_LABELS];
};

/* One row of a table as a struct metric_def: `#define COUNTER METRIC_DEF_COUNTER`, and so on, around its #include. */
#define METRIC_DEF_COUNTER(id, name_, help_, ...) {METRIC_COUNTER, name_, help_, NULL, {__VA_ARGS__}},
#define METRIC_DEF_GAUGE(id, name_, help_, ...) {METRIC_GAUGE, name_, help_, NULL, {__VA_ARGS__}},
#define METRIC_DEF_HISTOGRAM(id, name_, help_, bounds_, ...) {METRIC_HISTOGRAM, name_, help_, bounds_, {__VA_ARGS__}},

extern const double METRIC_BUCKETS_SECONDS[]; /* .005 .01 .025 .05 .1 .25 .5 1 2.5 5 10 25 50 100 +Inf, as Mimir's request durations */
extern const double METRIC_BUCKETS_BYTES[];   /* 1 KiB ... 1 GiB in powers of 4, +Inf */

struct metric;        /* one series */
struct metric_family; /* one name */

/* Registers defs[0..n); ret_families gets n pointers. Registering a name twice asserts. Families live as long as the process. */
void metrics_register(const struct metric_def *defs, size_t n, struct metric_family **ret_families);

/* The series with these label values (as many as the family has labels), made when absent. Never NULL; values are copied. */
struct metric *metric_get(struct metric_family *f, const struct slice *values);
/* METRIC_WITH(f, SL("in"), tenant): as metric_get. */
#define METRIC_WITH(f, ...) metric_get((f), (const struct slice[]){__VA_ARGS__})
/* For families without labels. */
struct metric *metric_single(struct metric_family *f);

void metric_add(struct metric *m, double v); /* counter (v >= 0) or gauge */
void metric_inc(struct metric *m);
void metric_set(struct metric *m, double v);     /* gauge */
void metric_observe(struct metric *m, double v); /* histogram */
double metric_value(struct metric *m);           /* counter, gauge: the sum now; histogram: count */

/* The value of the series is fn(arg), asked at each scrape and by metric_value; fn NULL ends that. */
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

/*
 * process_cpu_seconds_total, process_resident_memory_bytes, process_virtual_memory_bytes, process_open_fds, process_max_fds,
 * process_start_time_seconds, read from /proc at each scrape. May be called many times.
 */
void metrics_register_process(void);
