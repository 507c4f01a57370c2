/*
 * Native histograms: one struct for the integer and the float form, as remote write and the TSDB carry them.
 *
 * Exponential schemas -4..8; schema HISTOGRAM_CUSTOM_BUCKETS (-53) has custom_values (strictly increasing finite upper bounds) and only the positive
 * side. Integer form: buckets are deltas (first absolute, then difference to the bucket before). Float form: absolute counts.
 * Arrays belong to whoever made the struct, usually an arena.
 */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/arena.h"
#include "base/err.h"
#include "base/slice.h"

#define HISTOGRAM_CUSTOM_BUCKETS (-53)
#define HISTOGRAM_SCHEMA_MIN (-4)
#define HISTOGRAM_SCHEMA_MAX 8
/* Bits of the stale marker: a float sample's value, a histogram's sum. */
#define STALE_NAN_BITS 0x7FF0000000000002ULL

enum histogram_hint { HISTOGRAM_HINT_UNKNOWN, HISTOGRAM_HINT_RESET, HISTOGRAM_HINT_NOT_RESET, HISTOGRAM_HINT_GAUGE };

struct histogram_span {
    int32_t offset;
    uint32_t length;
};

struct histogram {
    int32_t schema;
    uint8_t hint; /* enum histogram_hint */
    bool is_float;
    double zero_threshold;
    double sum;
    union { uint64_t count_int; double count; };
    union { uint64_t zero_count_int; double zero_count; };
    const struct histogram_span *positive_spans;
    const struct histogram_span *negative_spans;
    uint32_t n_positive_spans;
    uint32_t n_negative_spans;
    union { const int64_t *positive_deltas; const double *positive_counts; };
    union { const int64_t *negative_deltas; const double *negative_counts; };
    uint32_t n_positive; /* buckets */
    uint32_t n_negative;
    const double *custom_values;
    uint32_t n_custom_values;
};

static inline bool is_stale_nan(double v)
{
    uint64_t bits;
    __builtin_memcpy(&bits, &v, 8);
    return bits == STALE_NAN_BITS;
}

double stale_nan(void);

/*
 * Decodes the proto message Histogram (remote write field 4 of TimeSeries). *ret_t is field 15. Arrays in the arena, sized by what the message
 * really holds. No check beyond the encoding's is made. Errors: ERR_BAD_DATA with the wording of docs/mimir-http.md 1.2.
 */
bool histogram_decode_proto(struct slice msg, struct arena *arena, struct histogram *ret, int64_t *ret_t, struct err *err);
/* The inverse, appended to out (without a tag or length of its own). */
struct buf;
void histogram_encode_proto(const struct histogram *h, int64_t t, struct buf *out);

/*
 * The checks that a TSDB makes before it stores a histogram. On failure err has Prometheus's text (see docs/mimir-http.md 1.4: "3 observations
 * found in buckets, but the Count field is 4: histogram's observation count should equal ...") and one of the ERR_NATIVE_HISTOGRAM_* codes,
 * ERR_INVALID_NATIVE_HISTOGRAM_SCHEMA, or ERR_BAD_DATA for what has no public id.
 */
bool histogram_validate(const struct histogram *h, struct err *err);
/* Number of populated bucket slots of both sides. */
static inline uint32_t histogram_n_buckets(const struct histogram *h) { return h->n_positive + h->n_negative; }
/*
 * Lowers the resolution to to_schema, merging buckets (two into one for each step). Result in the arena, its custom values shared with h.
 * False for custom buckets, for to_schema above h->schema or below the minimum, for spans that do not fit the buckets (validate
 * first) and when the arena is full.
 */
bool histogram_reduce(const struct histogram *h, int32_t to_schema, struct arena *arena, struct histogram *ret);
/* The float form of an integer histogram (or a shallow copy of a float one); arrays in the arena. NULL on arena overflow. */
struct histogram *histogram_to_float(const struct histogram *h, struct arena *arena);
struct histogram *histogram_dup(const struct histogram *h, struct arena *arena);
/* Same form, layout, counts, sum and hint. Doubles are compared bitwise. Not compared: time. */
bool histogram_eq(const struct histogram *a, const struct histogram *b);
