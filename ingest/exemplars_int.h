/*
 * Exemplars of one tenant: a ring of the newest ones, as many as the limit max_global_exemplars_per_user says; 0 keeps
 * none.
 *
 * Each series with exemplars has one entry in an index by series hash, which points to its newest exemplar; exemplars
 * of a series are chained towards the older ones. An exemplar must be newer than the series' newest one; the same one
 * again is passed over without a word: so a replay does no harm. Guarded by its own mutex; any thread.
 */
#pragma once

#include <pthread.h>
#include <stdbool.h>
#include <stdint.h>

#include "base/buf.h"
#include "model/labels.h"

struct exemplar_entry;
struct exemplar_index;

struct exemplars {
    pthread_mutex_t lock;
    struct exemplar_entry *ring; /* cap places */
    uint32_t cap;
    uint32_t next; /* the place to be overwritten */
    uint32_t n;
    struct exemplar_index *index; /* open addressing */
    uint32_t n_slots;
    uint32_t n_series;
};

void exemplars_init(struct exemplars *x);
void exemplars_release(struct exemplars *x);
/* Changes the number of places; the newest are kept. */
void exemplars_resize(struct exemplars *x, uint32_t cap);

enum exemplar_result { EXEMPLAR_STORED, EXEMPLAR_SAME, EXEMPLAR_OUT_OF_ORDER, EXEMPLAR_OFF };
/* labels: a span of label entries; copied. */
enum exemplar_result exemplars_add(struct exemplars *x, struct series_hash series, struct slice labels, int64_t t,
                                   double v);

/* Calls fn for each series that has exemplars in [min_t, max_t], with them in order of time; under the lock: fn copies
 * what it wants. Stops when fn says false. */
struct exemplar_view {
    struct slice labels; /* span of label entries */
    int64_t t;
    double v;
};
bool exemplars_each(struct exemplars *x, int64_t min_t, int64_t max_t,
                    bool (*fn)(void *arg, struct series_hash series, const struct exemplar_view *views, size_t n),
                    void *arg);

/* Checkpoint: all of them, oldest first, as bytes; and back. False on bytes that are none. */
void exemplars_save(struct exemplars *x, struct buf *out);
bool exemplars_load(struct exemplars *x, struct slice bytes);
