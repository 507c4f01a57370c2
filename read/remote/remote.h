/*
 * Remote read: the request and the two answers of Prometheus's remote read protocol (docs/formats.md 1.4). The HTTP handler is read/api/remote_read.c.
 *
 * An answer has its series in the order of their labels (clients merge by it), while stores give them in none. So it is made in two steps: series are taken as
 * they come, encoded, into a spill (memory, then an unnamed file), and only their labels are kept; sorted, they say in which order the spill is read while the
 * answer is sent. README.md tells more. An answer is used by one thread at a time, but that the queries of a request may be answered by several.
 */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/arena.h"
#include "base/buf.h"
#include "base/ctx.h"
#include "base/err.h"
#include "base/slice.h"
#include "model/matcher.h"
#include "storage/queryable.h"

/* --- the request ------------------------------------------------------------------------------------------------------------ */

#define REMOTE_MAX_QUERIES 1024
#define REMOTE_MAX_MATCHERS 4096 /* of one query */

enum remote_form {
    REMOTE_SAMPLES = 0, /* snappy block of a ReadResponse */
    REMOTE_CHUNKS = 1,  /* STREAMED_XOR_CHUNKS: frames of ChunkedReadResponse */
};

struct remote_query {
    int64_t start_ms, end_ms; /* inclusive; the hints' where they say so */
    struct matcher *matchers;
    size_t n_matchers;
    bool only_series; /* the hint's func is "series": nobody looks at the samples */
};

struct remote_request {
    struct remote_query *queries; /* arena */
    size_t n_queries;
    const int32_t *types; /* accepted_response_types; arena */
    size_t n_types;
};

/* body: a snappy block, of at most max_bytes when decoded. Everything is in the arena but regular expressions; to be released, also after a failure. */
bool remote_request_read(struct slice body, size_t max_bytes, struct arena *arena, struct remote_request *ret, struct err *err);
void remote_request_release(struct remote_request *r);
/* The first of the accepted types that there is; none given: samples. ERR_BAD_DATA with Mimir's text when there is none. */
bool remote_request_form(const struct remote_request *r, enum remote_form *ret, struct err *err);

/* --- the answer --------------------------------------------------------------------------------------------------------------- */

#define REMOTE_FRAME_BYTES ((size_t)1 << 20)

struct remote_limits { /* of one request; 0 = none */
    uint64_t max_series, max_chunks, max_chunk_bytes; /* Mimir's errors */
    uint64_t max_memory_bytes; /* of the list of series, and of overlapping chunks that are merged: ERR_MAX_QUERY_MEMORY */
    uint64_t max_answer_bytes; /* before compression: ERR_EXECUTION */
};

struct remote_answer;

/* Of so many queries. spill_dir: where the file is made when more than some megabytes come; must outlive the answer. */
struct remote_answer *remote_answer_new(enum remote_form form, size_t n_queries, const struct remote_limits *limits, const char *spill_dir);
void remote_answer_free(struct remote_answer *a); /* NULL is fine */

/*
 * The result of query i, once: all series of set, or none when it is NULL. The set may be released afterwards. Samples outside of the query's range are left out, of
 * chunks only whole ones. Any thread, several at once: sets are read side by side, what they give is taken one batch after the other.
 */
bool remote_answer_add(struct remote_answer *a, size_t i, const struct remote_query *q, struct series_set *set, struct ctx *ctx, struct err *err);
/* All queries are there. */
bool remote_answer_finish(struct remote_answer *a, struct err *err);
/* After finish: appends the next piece to out, between piece_bytes and that and a frame; nothing at all: the end. ERR_IO: the spill cannot be read. */
bool remote_answer_next(struct remote_answer *a, size_t piece_bytes, struct buf *out, struct err *err);
const char *remote_content_type(enum remote_form form);

/* What was taken. */
struct remote_stats {
    uint64_t series, chunks, chunk_bytes, samples; /* samples: of REMOTE_SAMPLES only */
    bool spilled; /* to a file */
};
struct remote_stats remote_answer_stats(const struct remote_answer *a);
