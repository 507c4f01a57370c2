/*
 * One push, from its body to the records for the log. Private to write/ and its tests.
 *
 * Life: push_new, the caller sets body, push_prepare, then either the answer at once or the records are produced and the answer comes
 * after; push_free. Owned by one thread at a time: the write pool's until the records are produced, then the log's. Nothing here waits.
 *
 * Stages of push_prepare, each over all series of the request before the next begins (a request is a batch):
 *   decompress -> scan -> hash all -> look all up among the known series -> validate and tokenise the unknown -> check samples, histograms,
 *   exemplars, metadata -> rate limit -> partitions -> records.
 *
 * Partial writes: what is invalid is left out and counted; the answer is 400 with the first error in the order of the request. Anything
 * that fails the request as a whole (push_fail) stores nothing of it.
 */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/arena.h"
#include "base/buf.h"
#include "base/err.h"
#include "log/record.h"
#include "model/histogram.h"
#include "write/write_int.h"

enum push_version { PUSH_RW1, PUSH_RW2 };

enum discard_reason {
#define REASON(id, kind, label) REASON_##id,
#include "write/discard_reasons.def"
#undef REASON
    REASON_N
};

/* What the request is answered with; ERR_OK: 200. */
struct push_error {
    enum err_code code;
    size_t at;       /* place in the request: index of the series, then of metadata; only the first error is kept */
    struct buf text;
};

struct push_counts {
    uint64_t samples;
    uint64_t histograms;
    uint64_t histogram_buckets;
    uint64_t exemplars;
    uint64_t metadata;
};

/* Times between which samples are accepted, inclusive. */
struct push_bounds {
    int64_t past_min;   /* -validation.past-grace-period */
    int64_t window_min; /* out-of-order window, where the distributor enforces it */
    int64_t min;        /* the larger of both */
    int64_t max;        /* -validation.create-grace-period */
    int64_t exemplar_min;
};

struct push {
    struct distributor *d;
    struct write_tenant *tenant; /* one reference */
    const struct limits *limits;
    struct http_request *http; /* NULL in tests */
    int64_t inflight_bytes;    /* of this push, in d->inflight_bytes */

    /* set by the caller of push_prepare */
    enum push_version version;
    bool skip_names_header; /* the headers that switch checks off, where the flags honour them */
    bool skip_count_header;
    int64_t now_ms;  /* wall clock */
    struct buf body; /* owned */

    /* the request and what was found out about it */
    struct record_batch *batch; /* one reference; holds the message, the scan and the records */
    struct write_request *req;  /* in batch */
    struct arena scratch;       /* of one stage at a time */
    bool skip_names;
    bool skip_count;
    uint64_t rules; /* fingerprint of what the verdicts of known series depend on */
    struct push_bounds bounds;
    struct push_counts decoded;  /* for the headers of remote write 2.0 and the _in metrics */
    struct push_counts accepted;
    uint64_t dropped_histograms; /* of a tenant who has them switched off */
    size_t n_rejected;   /* series with WRITE_SERIES_REJECTED */
    size_t n_reencoded;  /* series or metadata whose bytes are not the client's */
    int64_t latest_ms;   /* newest accepted sample; INT64_MIN: none */
    uint32_t *metadata;  /* indexes of the accepted metadata, in the batch's arena */
    size_t n_metadata;
    uint64_t discards[REASON_N];
    struct push_error error;

    /* the records */
    struct plog_produce produce; /* records in the batch's arena */
    char **values;               /* owned, each from malloc: values that are not the body itself */
    size_t n_values;
};

/* Takes over the reference on tenant. */
struct push *push_new(struct distributor *d, struct write_tenant *tenant);
void push_free(struct push *p); /* NULL is fine */

/*
 * True: p->produce.n records to be produced (perhaps none), and p->error says what to answer when they are durable. False: the request is
 * refused as a whole with p->error.
 */
bool push_prepare(struct push *p);
/* Adds what was taken in and what was discarded to the metrics; once, after push_prepare. */
void push_count(struct push *p);

/* --- stages; false: p->error is set and fails the request ---------------------------------------------------------------- */

bool push_check_labels(struct push *p, const uint32_t *unknown, size_t n);
bool push_check_samples(struct push *p);
bool push_check_histograms(struct push *p, size_t at); /* of one series; moves those kept together */
void push_check_exemplars(struct push *p, size_t at);  /* the same */
/* False: a sample at t is outside the accepted times; it was counted and, if it is the first, named. */
bool push_time_is_accepted(struct push *p, size_t at, int64_t t);
/* Which of n times (stride bytes apart) came before in the list; NULL: none did. In p->scratch. */
bool *push_find_repeated(struct push *p, const int64_t *times, size_t stride, size_t n);
bool push_check_metadata(struct push *p);
bool push_make_records(struct push *p);

/* --- parts of the handler that tests look at ----------------------------------------------------------------------------- */

/* By Content-Type. ERR_BAD_DATA for a message that is neither. */
bool push_version_of(struct slice content_type, enum push_version *ret, struct err *err);
/* Seconds for Retry-After; random: 64 bits. */
int64_t push_retry_after_s(const struct write_config *cfg, struct slice attempt_header, uint64_t random);

/* --- errors ---------------------------------------------------------------------------------------------------------------- */

/* Fails the request as a whole; returns false. push_fail_limit: with what to do about it: the flag and its level. */
bool push_fail(struct push *p, enum err_code code, const char *fmt, ...) __attribute__((format(printf, 3, 4)));
bool push_fail_err(struct push *p, const struct err *err);

/*
 * An error about one item: begin gives the buffer to write the text into, or NULL when an error about an earlier item stands already.
 * end adds " (err-mimir-<id>)" and, for a flag, how to adjust the limit.
 */
struct buf *push_error_begin(struct push *p, size_t at, enum err_code code);
void push_error_end(struct push *p, const char *flag);
/* The two hints for flags: what "end" adds, for whole-request errors; flag2 may be NULL. */
void push_put_id(struct buf *out, enum err_code code);
void push_put_hint(struct buf *out, const char *flag, const char *flag2, bool per_tenant);

/* What the row "body over the limit" of docs/mimir-http.md 1.2 says; which: compressed or uncompressed. */
void push_put_too_large(struct buf *out, uint64_t n, const char *which, uint64_t limit);
/* text with every run of bytes that are no UTF-8 replaced by one U+FFFD. */
void push_put_valid(struct buf *out, struct slice text);

/* At most n runes of s, as Go's %.<n>s; a byte that is no UTF-8 counts as one. */
void push_put_cut(struct buf *out, struct slice s, size_t n);
/* name{a="b"} of a series, at most 200 runes; returns whether it was cut. labels_of: from its bytes. */
bool push_put_series(struct buf *out, struct labels l);
/* The series' metric name, "" when there is none. */
struct slice push_metric_name(const struct write_series *s);

/* Refuses a series: counts its samples (at least one) under the reason. */
void push_reject(struct push *p, struct write_series *s, enum discard_reason reason);
