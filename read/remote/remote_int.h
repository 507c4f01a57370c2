/* The parts of an answer: answer.c (series taken, sorted), spill.c (where their bytes wait), samples.c and frames.c (the two forms, encoded and read out). */
#pragma once

#include <pthread.h>

#include "read/remote/remote.h"
#include "storage/join/join.h"

/* --- spill.c: bytes that are written once, one behind the other, and then read in any order --- */

#define SPILL_MEMORY_BYTES ((size_t)1 << 20) /* at most so much waits in memory; then it goes to the file */

struct spill {
    const char *dir; /* not owned */
    int fd;          /* -1: all is in memory */
    struct buf tail; /* what is not in the file (yet) */
    uint64_t n_filed;
    uint64_t max_bytes;
};
void spill_init(struct spill *s, const char *dir, uint64_t max_bytes);
void spill_release(struct spill *s);
static inline uint64_t spill_size(const struct spill *s)
{
    return s->n_filed + s->tail.n;
}
/* Where to append; after each series, or so, spill_flush. */
static inline struct buf *spill_tail(struct spill *s)
{
    return &s->tail;
}
/* Writes to the file what is too much for memory. ERR_EXECUTION: it is more than max_bytes. */
bool spill_flush(struct spill *s, struct err *err);
/* All is there: memory that is not needed is given back. */
void spill_finish(struct spill *s);
/* Bytes [at, at + n), which are there, appended to out. */
bool spill_read(const struct spill *s, uint64_t at, size_t n, struct buf *out, struct err *err);

/* --- answer.c --- */

/* One series: canonical label bytes (fields 1 of both messages), then its body: fields of TimeSeries, or chunks of ChunkedSeries. */
struct entry {
    struct labels labels; /* until it is sorted */
    uint64_t at;          /* in the spill */
    uint64_t n_body;
    uint32_t n_labels;
};

struct result {
    struct entry *entries; /* owned; sorted when its query is done */
    size_t n, cap;
    uint64_t n_bytes; /* REMOTE_SAMPLES: of the message QueryResult */
};

struct remote_answer {
    enum remote_form form;
    struct remote_limits limits;
    struct spill spill;
    struct join join;
    struct arena decoded; /* of the chunk at hand */
    struct result *results; /* owned; one a query */
    size_t n_results;
    uint64_t memory_bytes; /* of entries */
    struct remote_stats stats;
    pthread_mutex_t lock; /* while results are added: guards spill, join, decoded, memory_bytes and stats, also while the spill is written; innermost */

    /* Reading out, after finish. */
    size_t result, entry; /* the one at hand */
    uint64_t at;          /* of its bytes; samples.c: of labels and body; frames.c: of the body */
    bool begun;           /* samples.c: the header of the result at hand has been given */
    uint64_t total_bytes; /* samples.c: of the ReadResponse */
    bool headed;          /* samples.c: the block's length has been given */
    struct buf raw;       /* samples.c: not compressed yet */
    struct buf window;    /* frames.c: the spill's bytes from window_at on */
    uint64_t window_at;
    struct buf frame;     /* frames.c */
};

/* --- samples.c --- */

/* Appends the samples within the query's range to the spill; *ret_n: how many. */
bool samples_put(struct remote_answer *a, const struct remote_query *q, const struct series_chunk *chunks, size_t n, uint64_t *ret_n, struct err *err);
uint64_t samples_series_bytes(const struct entry *e); /* of the field timeseries */
bool samples_finish(struct remote_answer *a, struct err *err);
bool samples_next(struct remote_answer *a, size_t piece_bytes, struct buf *out, struct err *err);

/* --- frames.c --- */

void frames_put(struct remote_answer *a, const struct series_chunk *chunks, size_t n);
bool frames_next(struct remote_answer *a, size_t piece_bytes, struct buf *out, struct err *err);
