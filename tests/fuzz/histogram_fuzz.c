/* The proto message Histogram: decode, check, reduce, convert, and encode to the same again. */
#include <stdint.h>
#include <string.h>

#include "base/assert.h"
#include "base/buf.h"
#include "model/histogram.h"

static void round_trip(const struct histogram *h, int64_t t, struct arena *arena)
{
    struct histogram back;
    int64_t back_t;
    struct buf b = {0};
    histogram_encode_proto(h, t, &b);
    ASSERT(!b.failed);
    if (histogram_decode_proto(buf_slice(&b), arena, &back, &back_t, NULL))
        ASSERT(histogram_eq(h, &back) && t == back_t);
    else
        ASSERT(arena->overflow);
    buf_release(&b);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct arena arena;
    struct histogram h, reduced;
    struct err err = ERR_NONE;
    int64_t t;
    arena_init(&arena, (size_t)64 << 20);
    if (histogram_decode_proto(slice_make(data, size), &arena, &h, &t, &err)) {
        round_trip(&h, t, &arena);
        bool valid = histogram_validate(&h, &err);
        ASSERT(valid == (err.code == ERR_OK));
        bool can = histogram_reduce(&h, h.schema > HISTOGRAM_SCHEMA_MIN ? h.schema - 1 : h.schema, &arena, &reduced);
        if (can && valid) {
            /* Merging buckets neither makes nor loses observations; but counts of 2^62 and more may add up to no 63-bit number. */
            ASSERT(reduced.n_positive <= h.n_positive && reduced.n_negative <= h.n_negative);
            ASSERT(histogram_validate(&reduced, &err) || err.code == ERR_NATIVE_HISTOGRAM_NEGATIVE_BUCKET_COUNT);
        }
        struct histogram *f = histogram_to_float(&h, &arena);
        struct histogram *d = histogram_dup(&h, &arena);
        ASSERT((f && d) || arena.overflow);
        if (f)
            ASSERT(f->is_float && f->n_positive == h.n_positive);
        if (d)
            ASSERT(histogram_eq(d, &h));
    } else {
        ASSERT(err.code != ERR_OK && err.text[0]);
    }
    arena_release(&arena);
    return 0;
}
