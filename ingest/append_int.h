/*
 * Appending samples to the series of a shard: in order into the open chunk, late ones into the out-of-order block when
 * the tenant has a window for them, else refused with a reason. Chunks are cut as Prometheus's head cuts them
 * (docs/formats.md 6.7).
 *
 * The caller holds the shard's writer mutex and its lock exclusively.
 */
#pragma once

#include "ingest/shard_int.h"
#include "model/histogram.h"

enum refusal {
    REFUSAL_NONE,
#define REFUSAL(id, reason) REFUSAL_##id,
#include "ingest/refusals.def"
#undef REFUSAL
    REFUSALS
};

/* What the samples of one record may be, by what came before the record. */
struct append_bounds {
    int64_t min_valid; /* older samples are never in order */
    int64_t ooo_min;   /* older samples are refused; INT64_MAX: no out-of-order window */
};

struct appender {
    struct shard_data *data;
    struct chunk_store *chunks;
    struct arena *scratch;
    uint64_t ooo_samples;    /* out: stored out of order */
    uint64_t chunks_created; /* out: open chunks begun */
};

enum refusal append_float(struct appender *a, const struct append_bounds *b, uint32_t ref, int64_t t, double v);
enum refusal append_histogram(struct appender *a, const struct append_bounds *b, uint32_t ref, int64_t t,
                              const struct histogram *h);

/* Would a series that does not exist yet take a sample of this time? Else why not. */
enum refusal append_check_new(const struct append_bounds *b, int64_t t);

/*
 * For a cut: the series' open chunk, if all of it is older than `cut`, and its late samples older than that become full chunks. What
 * the series has in chunks afterwards does not change any more.
 */
void append_seal(struct appender *a, uint32_t ref, int64_t cut);

/* The two-hour range that t lies in starts here; timestamps are anything that fits 64 bits. */
static inline int64_t chunk_range_start(int64_t t)
{
    int64_t r = t % CHUNK_RANGE_MS;
    int64_t start;
    return __builtin_sub_overflow(t, r < 0 ? r + CHUNK_RANGE_MS : r, &start) ? INT64_MIN : start;
}

static inline int64_t saturating_add(int64_t a, int64_t b)
{
    int64_t r;
    return __builtin_add_overflow(a, b, &r) ? INT64_MAX : r;
}
