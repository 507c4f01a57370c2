/*
 * Private to storage/chunk: the state that a writer and a reader of a histogram chunk share, and the layout of its buckets.
 *
 * A layout is a struct histogram of which only schema, zero threshold, spans, bounds and the numbers of buckets count. All samples of
 * a chunk have the chunk's layout, but for stale samples, which have no buckets.
 */
#pragma once

#include <stdbool.h>
#include <stdint.h>

#include "base/arena.h"
#include "model/histogram.h"
#include "storage/chunk/bits_int.h"
#include "storage/chunk/chunk.h"

#define HISTOGRAM_HEADER_BITS 24

/* High bits of the chunk's third byte. */
enum reset_header { HEADER_UNKNOWN = 0x00, HEADER_NOT_RESET = 0x40, HEADER_RESET = 0x80, HEADER_GAUGE = 0xC0 };
#define HEADER_MASK 0xC0

/* One number that is tracked over samples: as an integer with its last difference, or as a double with its XOR window. */
union histogram_field {
    struct {
        int64_t v;
        int64_t delta;
    } i;
    struct {
        uint64_t v;
        uint8_t leading;
        uint8_t trailing;
    } x;
};

struct histogram_state {
    struct histogram layout; /* arrays belong to whoever made the state */
    bool is_float;
    uint16_t n; /* samples so far */
    int64_t t;
    int64_t t_delta;
    union histogram_field count;
    union histogram_field zero;
    union histogram_field sum;      /* always XOR */
    union histogram_field *buckets; /* positive ones, then negative ones: values as in the proto (delta-coded, or absolute counts) */
};

static inline bool state_is_stale(const struct histogram_state *s)
{
    return s->n && s->sum.x.v == STALE_NAN_BITS;
}

/* --- histogram_layout.c --- */

/* Room that layout_put may need. */
uint64_t layout_max_bits(const struct histogram *layout);
uint64_t layout_put(const struct histogram *layout, uint8_t *bytes, uint64_t pos);
/* Arrays in the arena. Checks everything that later code relies on: numbers of buckets against the bits that are left, offsets, bounds. */
bool layout_get(struct bit_reader *r, struct arena *arena, struct histogram *ret, struct err *err);

/* Bucket by bucket over spans. */
struct bucket_iter {
    const struct histogram_span *span;
    const struct histogram_span *end;
    uint32_t k; /* within the span */
    int64_t index;
};
struct bucket_iter bucket_iter(const struct histogram_span *spans, uint32_t n);
bool bucket_next(struct bucket_iter *it, int64_t *ret_index);

struct spans {
    const struct histogram_span *p;
    uint32_t n;
};
static inline struct spans positive_spans(const struct histogram *h) { return (struct spans){h->positive_spans, h->n_positive_spans}; }
static inline struct spans negative_spans(const struct histogram *h) { return (struct spans){h->negative_spans, h->n_negative_spans}; }

/* The buckets of both, as few spans as possible. False when a gap is too wide for a span or the arena is full. */
bool spans_union(struct spans a, struct spans b, struct arena *arena, struct spans *ret, uint32_t *ret_n_buckets);
/* Buckets of one layout in a wider one: 0 where there was none. Delta-coded or absolute. `to` has all buckets of `from`. */
void spans_remap(struct spans from, const void *buckets, struct spans to, bool is_float, void *ret);

/* --- histogram_sample.c --- */

uint64_t state_max_sample_bits(const struct histogram_state *s);
/* h has the state's layout, or it is stale. Adds it to the stream. */
uint64_t state_put(struct histogram_state *s, uint8_t *bytes, uint64_t pos, int64_t t, const struct histogram *h);
/* The next sample of the stream; false when bits are missing. */
bool state_get(struct histogram_state *s, struct bit_reader *r);
/* The sample that was read or written last; buckets has room for all buckets, and is not touched for a stale one. */
void state_histogram(const struct histogram_state *s, void *buckets, struct histogram *ret);

/*
 * Opens a chunk for reading: header and layout. Arrays in the arena. *ret_n is what the header says, checked to be possible; *ret_header one of
 * enum reset_header.
 */
bool histogram_chunk_open(bool is_float, struct slice data, struct arena *arena, struct histogram_state *ret_state,
                          struct bit_reader *ret_reader, uint16_t *ret_n, uint8_t *ret_header, struct err *err);
bool histogram_chunk_decode(bool is_float, struct slice data, struct arena *arena, struct chunk_columns *ret, struct err *err);

/* --- histogram_follow.c --- */

/* How the buckets of one side of a sample differ from the chunk's. */
struct side_diff {
    bool reset;    /* a bucket went back, or one that was in use is gone */
    bool forward;  /* the sample has buckets that the chunk lacks */
    bool backward; /* the chunk has buckets that the sample lacks */
};

struct verdict {
    bool ok;
    uint8_t header; /* of the next chunk when not ok; for counters */
    struct side_diff positive;
    struct side_diff negative;
};

/* The chunk whose last sample is in s and whose header is given; the sample that comes next. */
struct verdict judge_counter(const struct histogram_state *s, uint8_t header, const struct histogram *h);
struct verdict judge_gauge(const struct histogram_state *s, uint8_t header, const struct histogram *h);
