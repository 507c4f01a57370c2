/* Private to base/metrics*.c: how a series lies in memory. */
#pragma once

#include <pthread.h>
#include <stdatomic.h>

#include "base/assert.h"
#include "base/metrics.h"

/* One thread slot's part of a counter: whole numbers apart, so that the common add is one atomic instruction. */
struct metric_cell {
    _Alignas(CACHE_LINE) _Atomic uint64_t whole;
    _Atomic uint64_t fraction; /* bits of a double */
};

/*
 * One series: written by any thread (relaxed atomics), freed under scrape lock + family lock.
 * A histogram's row of one slot is [sum as bits of a double][bucket 0]...[bucket +Inf], padded to whole cache lines.
 */
struct metric {
    struct metric_family *family;
    struct metric *next; /* hash chain; guarded by the family's lock */
    uint64_t hash;
    _Atomic uint64_t gauge; /* bits of a double: gauges, and the last answer of a callback */
    double (*_Atomic fn)(void *arg); /* called, and changed, under the scrape lock */
    void *arg;
    struct metric_cell *cells;       /* counter: METRIC_SHARDS */
    _Atomic uint64_t *rows;          /* histogram: METRIC_SHARDS rows */
    struct slice values[METRIC_MAX_LABELS]; /* bytes behind the struct */
};

struct metric_family {
    const struct metric_def *def;
    size_t n_labels;
    size_t n_buckets; /* with +Inf */
    size_t row_words; /* distance of two rows of a histogram */
    pthread_mutex_t lock;
    /* Guarded by lock. */
    struct metric **table; /* n_table chains, a power of two */
    size_t n_table;
    struct metric **order; /* n_series pointers; by label values when sorted */
    size_t n_series;
    size_t cap_order;
    bool sorted;
};

static inline double metric_from_bits(uint64_t bits)
{
    double v;
    memcpy(&v, &bits, sizeof v);
    return v;
}

static inline uint64_t metric_to_bits(double v)
{
    uint64_t bits;
    memcpy(&bits, &v, sizeof bits);
    return bits;
}

/* Sums over the slots. Any thread. */
double metric_counter_sum(const struct metric *m);
/* ret_buckets gets the family's n_buckets counts, not cumulative; returns the sum of what was observed. */
double metric_histogram_sum(const struct metric *m, uint64_t *ret_buckets);

/* Needs the scrape lock, which this takes and gives back (metrics.c owns it). */
void metrics_scrape_begin(void);
void metrics_scrape_end(void);
/* Families by name; needs the scrape lock. Returns a malloced array. */
struct metric_family **metrics_families_by_name(size_t *ret_n);
