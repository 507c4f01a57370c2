/* A series as a head keeps it, for tests: appends samples, cuts chunks by docs/formats.md 6.7, and keeps the finished bytes. */
#pragma once

#include <criterion/criterion.h>
#include <stdlib.h>
#include <string.h>

#include "storage/chunk/chunk.h"

#define CUT_RANGE_MS INT64_C(7200000)
#define CUT_MAX_CHUNKS 256

struct cut_chunk {
    enum chunk_encoding enc;
    uint8_t *p;
    size_t n;
};

struct cut_series {
    struct cut_chunk done[CUT_MAX_CHUNKS];
    size_t n_done;
    enum chunk_encoding open;
    struct xor_appender xor;
    uint8_t bytes[CHUNK_MAX_BYTES + 64];
    int64_t xor_start;
    int64_t xor_next_at;
    struct histogram_appender *histogram;
    struct histogram_appender *before;
    int64_t range_end;
};

static inline int64_t cut_range_end(int64_t t)
{
    return t / CUT_RANGE_MS * CUT_RANGE_MS + CUT_RANGE_MS;
}

static inline void cut_close(struct cut_series *s)
{
    struct slice b = s->open == CHUNK_XOR ? slice_make(s->bytes, xor_size(&s->xor)) : SL("");
    if (s->open > CHUNK_XOR)
        b = histogram_appender_bytes(s->histogram);
    if (s->open == CHUNK_NONE || b.n == 0)
        return;
    cr_assert_lt(s->n_done, CUT_MAX_CHUNKS);
    struct cut_chunk *c = &s->done[s->n_done++];
    *c = (struct cut_chunk){s->open, malloc(b.n), b.n};
    memcpy(c->p, b.p, b.n);
    s->open = CHUNK_NONE;
}

static inline void cut_float(struct cut_series *s, int64_t t, double v)
{
    struct xor_appender *a = &s->xor;
    if (s->open == CHUNK_XOR && a->n == CHUNK_SAMPLES / 4)
        s->xor_next_at = chunk_end_time(s->xor_start, a->t, s->xor_next_at, 4);
    bool full = s->open == CHUNK_XOR &&
                (xor_size(a) > CHUNK_MAX_BYTES - 19 || t >= s->xor_next_at || a->n >= 2 * CHUNK_SAMPLES);
    if (s->open != CHUNK_XOR || full) {
        cut_close(s);
        s->open = CHUNK_XOR;
        xor_appender_init(a);
        s->xor_start = t;
        s->xor_next_at = cut_range_end(t);
    }
    xor_append(a, s->bytes, t, v);
}

static inline void cut_next_histogram(struct cut_series *s, int64_t t, bool is_float)
{
    enum chunk_encoding enc = is_float ? CHUNK_FLOAT_HISTOGRAM : CHUNK_HISTOGRAM;
    struct histogram_appender *next =
        s->open == enc ? histogram_appender_next(s->histogram, is_float) : histogram_appender_new(is_float);
    cut_close(s);
    histogram_appender_free(s->histogram);
    s->histogram = next;
    s->open = enc;
    s->range_end = cut_range_end(t);
}

static inline void cut_histogram(struct cut_series *s, int64_t t, const struct histogram *h)
{
    enum chunk_encoding enc = h->is_float ? CHUNK_FLOAT_HISTOGRAM : CHUNK_HISTOGRAM;
    if (s->open != enc || histogram_appender_full(s->histogram, t, s->range_end))
        cut_next_histogram(s, t, h->is_float);
    if (histogram_append(s->histogram, t, h) == HISTOGRAM_NEW_CHUNK) {
        cut_next_histogram(s, t, h->is_float);
        cr_assert_eq(histogram_append(s->histogram, t, h), HISTOGRAM_APPENDED);
    }
}

static inline void cut_release(struct cut_series *s)
{
    for (size_t i = 0; i < s->n_done; i++)
        free(s->done[i].p);
    histogram_appender_free(s->histogram);
    memset(s, 0, sizeof(*s));
}
