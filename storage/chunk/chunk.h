/*
 * Chunks: runs of samples of one series, in Prometheus's encodings (docs/formats.md 6.6), byte for byte.
 *
 * XOR chunks are appended to in place by the head, whose hot struct holds the appender; readers decode whole chunks into columns. Histogram
 * chunks have an appender object of their own. Pure code: no locks, no I/O; every function may be called from any thread on its own data.
 * README.md in this folder tells how the files go together.
 */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/arena.h"
#include "base/buf.h"
#include "base/err.h"
#include "base/slice.h"
#include "model/histogram.h"

enum chunk_encoding {
    CHUNK_NONE = 0,
    CHUNK_XOR = 1,
    CHUNK_HISTOGRAM = 2,
    CHUNK_FLOAT_HISTOGRAM = 3,
};

#define CHUNK_SAMPLES 120              /* where a float chunk is aimed to be cut */
#define CHUNK_MAX_BYTES 1024           /* a float chunk never grows past this */
#define XOR_SAMPLE_MAX_BYTES 20        /* room that one append may need beyond the bytes used */

/*
 * When a chunk should end, so that the chunks up to max_t become about equally long: it began at `start`, its last sample is at `cur`, and
 * it would be full ratio_to_full times later (4 for floats at a quarter of CHUNK_SAMPLES; see docs/formats.md 6.7).
 */
int64_t chunk_end_time(int64_t start, int64_t cur, int64_t max_t, double ratio_to_full);

/* --- XOR: floats ---------------------------------------------------------------------------------------------------- */

/*
 * Appender of one open XOR chunk: 32 bytes, kept by value by its owner. The bytes are the owner's: at least (bits + 7) / 8 +
 * XOR_SAMPLE_MAX_BYTES of them, zeroed or not (bits past the end are overwritten). After n samples the chunk is bytes[0 .. xor_size()).
 */
struct xor_appender {
    int64_t t;        /* last timestamp */
    uint64_t v;       /* bits of the last value */
    int32_t bits;     /* bits used, the 16-bit count included */
    uint16_t n;       /* samples */
    uint8_t leading;  /* 0xFF = no window yet */
    uint8_t trailing;
    uint64_t t_delta; /* last difference of timestamps */
};
void xor_appender_init(struct xor_appender *a);
/*
 * t must be greater than a->t when n > 0. Writes the sample and the chunk's count. Bytes before the one of a->bits are not written, but for
 * the first two (the count). At most 65535 samples (asserted).
 */
void xor_append(struct xor_appender *a, uint8_t *bytes, int64_t t, double v);
static inline size_t xor_size(const struct xor_appender *a) { return a->n == 0 ? 0 : (size_t)(a->bits + 7) / 8; }
/*
 * A finished or snapshot chunk to columns: at most `cap` samples (cap >= the chunk's count is the caller's to ensure: xor_count). Returns the number
 * of samples, or -1 on bytes that are no chunk.
 */
int xor_decode(struct slice data, int64_t *ret_t, double *ret_v, size_t cap);
int xor_count(struct slice data); /* the 16-bit count; -1 when there are not even two bytes */
/* Rebuilds the appender state from a chunk's bytes (none: an empty one), to go on appending after a restart. False on corrupt bytes. */
bool xor_resume(struct xor_appender *a, struct slice data);
/*
 * One chunk of the samples of a and then of b, whose first is later than a's last, into bytes: room for a.n + b.n + XOR_JOIN_ROOM. What b's values say of each
 * other is copied bit by bit, so that this costs hardly more than decoding a, and saves most of b's beginning (some 20 bytes). False, and no chunk: one of them is
 * none or empty, they are not in order, they are too many, or b has a value that reuses a window before one was set.
 */
#define XOR_JOIN_ROOM 48
bool xor_join(struct slice a, struct slice b, uint8_t *bytes, size_t *ret_n);

/* --- histograms ------------------------------------------------------------------------------------------------------ */

struct histogram_appender; /* one open chunk of integer or float histograms, with its bytes */

enum histogram_append_result {
    HISTOGRAM_APPENDED,  /* it is in the chunk (which may have been re-encoded with a wider layout) */
    HISTOGRAM_NEW_CHUNK, /* it does not fit: the caller closes this chunk and appends to the next one made by histogram_appender_next */
    HISTOGRAM_NO_MEMORY, /* nothing has changed */
};

/* The first chunk of a series. is_float chooses the encoding. NULL when memory is short. */
struct histogram_appender *histogram_appender_new(bool is_float);
/*
 * The chunk after prev (which the caller still owns and may free): carries over what decides the counter reset header of the new chunk
 * (docs/formats.md 6.6). Whether prev was full or has refused the sample is known from its last append. NULL when memory is short.
 */
struct histogram_appender *histogram_appender_next(const struct histogram_appender *prev, bool is_float);
void histogram_appender_free(struct histogram_appender *a);
/* h must have passed histogram_validate, and t must be greater than the time before; an empty appender takes any h of its form. */
enum histogram_append_result histogram_append(struct histogram_appender *a, int64_t t, const struct histogram *h);
/* Should the next sample at time t go to a new chunk because of size or time (docs/formats.md 6.7)? range_end is the end of the head's chunk range. */
bool histogram_appender_full(struct histogram_appender *a, int64_t t, int64_t range_end);
struct slice histogram_appender_bytes(const struct histogram_appender *a); /* valid until the next append */
uint16_t histogram_appender_count(const struct histogram_appender *a);
int64_t histogram_appender_last_t(const struct histogram_appender *a); /* time of the last sample; 0 when there is none */
bool histogram_appender_is_float(const struct histogram_appender *a);
size_t histogram_appender_memory(const struct histogram_appender *a);
/* From a chunk's bytes, to go on after a restart. NULL on corrupt bytes. */
struct histogram_appender *histogram_appender_resume(enum chunk_encoding enc, struct slice data);

/* --- reading any encoding -------------------------------------------------------------------------------------------- */

/*
 * Decodes a chunk into columns in the arena. Exactly one of v and h is not NULL: v for XOR, h (float or integer form as stored, with counter reset
 * hints as docs/formats.md 6.6 gives them on read) for histogram encodings.
 */
struct chunk_columns {
    size_t n;
    int64_t *t;
    double *v;
    struct histogram *h;
};
bool chunk_decode(enum chunk_encoding enc, struct slice data, struct arena *arena, struct chunk_columns *ret, struct err *err);
/* Number of samples by the header; -1 when malformed. */
int chunk_count(enum chunk_encoding enc, struct slice data);

/*
 * All samples of one series in one column. Where h is NULL all are floats; else sample i is a histogram if h[i] is not NULL, and a float if
 * it is (v[i] is 0 beside a histogram).
 */
struct chunk_samples {
    size_t n;
    const int64_t *t;
    const double *v;
    const struct histogram *const *h;
};
/*
 * Merges columns of chunks that may overlap (out-of-order data) into one that is sorted by time with no time twice: on equal times the
 * column that comes first in the list wins. Each input is sorted (a time that is not later than the one before it in its own column is left out).
 * Integer and float histograms and floats may be mixed. Where a histogram does not follow the sample it followed in its chunk, its hint "not
 * reset" is no longer true, and becomes "unknown" (in place, in cols).
 *
 * Costs a copy, and a look at every column for each run of samples that comes from one of them; no copy when a single column of floats has
 * all samples. Everything is in the arena or shared with cols.
 */
bool chunk_columns_merge(const struct chunk_columns *cols, size_t n_cols, struct arena *arena, struct chunk_samples *ret,
                         struct err *err);
