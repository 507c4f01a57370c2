/*
 * One series of a block: chunks that overlap, or that stick out of the block's range, are decoded, merged and encoded anew, as the head would have cut them:
 * 120 floats, or histograms as far as their appender takes them. Then small float chunks are packed (storage/join): what is in blocks is read seldom, and is smaller
 * with fewer chunks.
 */
#include <stdlib.h>
#include <string.h>

#include "base/assert.h"
#include "ingest/append_int.h"
#include "ingest/cut_int.h"
#include "storage/join/join.h"

/* Chunks are added to an array in the arena. */
struct chunks_out {
    struct arena *arena;
    struct series_chunk *items;
    size_t n;
    size_t cap;
};

static bool out_add(struct chunks_out *o, struct series_chunk c)
{
    if (o->n == o->cap) {
        size_t cap = MAX((size_t)16, 2 * o->cap);
        struct series_chunk *items = ARENA_ARRAY(o->arena, struct series_chunk, cap);
        if (!items)
            return false;
        if (o->n)
            memcpy(items, o->items, o->n * sizeof(*items));
        o->items = items;
        o->cap = cap;
    }
    o->items[o->n++] = c;
    return true;
}

/* --- encoding --- */

struct encoder {
    struct chunks_out *out;
    int64_t end; /* of the range */
    int64_t min_t;
    int64_t max_t;
    struct xor_appender xor; /* n > 0: a chunk of floats is open */
    uint8_t *bytes;          /* its own, OPEN_CHUNK_CUT_BYTES and room */
    struct histogram_appender *hist;
};

static bool close_floats(struct encoder *e)
{
    if (!e->xor.n)
        return true;
    struct slice data = arena_dup(e->out->arena, slice_make(e->bytes, xor_size(&e->xor)));
    xor_appender_init(&e->xor);
    return data.p && out_add(e->out, (struct series_chunk){e->min_t, e->max_t, CHUNK_XOR, data});
}

/* The appender stays for the one after it to be made from. */
static bool emit_histograms(struct encoder *e)
{
    struct slice data = arena_dup(e->out->arena, histogram_appender_bytes(e->hist));
    enum chunk_encoding enc = histogram_appender_is_float(e->hist) ? CHUNK_FLOAT_HISTOGRAM : CHUNK_HISTOGRAM;
    return data.p && out_add(e->out, (struct series_chunk){e->min_t, e->max_t, enc, data});
}

static bool close_histograms(struct encoder *e)
{
    bool ok = !e->hist || emit_histograms(e);
    histogram_appender_free(e->hist);
    e->hist = NULL;
    return ok;
}

static bool put_float(struct encoder *e, int64_t t, double v)
{
    bool full = e->xor.n >= CHUNK_SAMPLES || xor_size(&e->xor) > OPEN_CHUNK_CUT_BYTES;
    if (!close_histograms(e) || (full && !close_floats(e)))
        return false;
    if (!e->xor.n)
        e->min_t = t;
    xor_append(&e->xor, e->bytes, t, v);
    e->max_t = t;
    return true;
}

static bool next_histograms(struct encoder *e, bool is_float)
{
    struct histogram_appender *next = histogram_appender_next(e->hist, is_float);
    ASSERT(next);
    bool ok = emit_histograms(e);
    histogram_appender_free(e->hist);
    e->hist = next;
    return ok;
}

static bool put_histogram(struct encoder *e, int64_t t, const struct histogram *h)
{
    if (!close_floats(e))
        return false;
    if (!e->hist) {
        e->hist = histogram_appender_new(h->is_float);
        ASSERT(e->hist);
    } else if ((histogram_appender_is_float(e->hist) != h->is_float || histogram_appender_full(e->hist, t, e->end)) &&
               !next_histograms(e, h->is_float)) {
        return false;
    }
    if (histogram_append(e->hist, t, h) != HISTOGRAM_APPENDED) {
        if (!next_histograms(e, h->is_float))
            return false;
        enum histogram_append_result r = histogram_append(e->hist, t, h);
        ASSERT(r == HISTOGRAM_APPENDED);
    }
    if (histogram_appender_count(e->hist) == 1)
        e->min_t = t;
    e->max_t = t;
    return true;
}

static bool encode(struct chunks_out *out, const struct chunk_samples *s, int64_t start, int64_t end)
{
    uint8_t bytes[CHUNK_MAX_BYTES + 2 * XOR_SAMPLE_MAX_BYTES];
    struct encoder e = {.out = out, .end = end, .bytes = bytes};
    xor_appender_init(&e.xor);
    bool ok = true;
    for (size_t i = 0; ok && i < s->n; i++) {
        if (s->t[i] < start || s->t[i] >= end)
            continue;
        ok = s->h && s->h[i] ? put_histogram(&e, s->t[i], s->h[i]) : put_float(&e, s->t[i], s->v[i]);
    }
    ok = ok && close_floats(&e) && (!e.hist || close_histograms(&e));
    histogram_appender_free(e.hist);
    return ok;
}

/* --- groups --- */

/* Chunks that hang together: decoded, merged, encoded. */
static bool merge_group(struct chunks_out *out, const struct series_chunk *in, size_t n, int64_t start, int64_t end, uint64_t *ret_damaged)
{
    struct chunk_columns *cols = ARENA_ARRAY(out->arena, struct chunk_columns, n);
    struct chunk_samples merged;
    size_t n_cols = 0;
    if (!cols)
        return false;
    for (size_t i = 0; i < n; i++) {
        struct err err = ERR_NONE;
        if (chunk_decode(in[i].encoding, in[i].data, out->arena, &cols[n_cols], &err))
            n_cols++;
        else if (out->arena->overflow)
            return false;
        else
            ++*ret_damaged;
    }
    if (n_cols == 0)
        return true;
    return chunk_columns_merge(cols, n_cols, out->arena, &merged, NULL) && encode(out, &merged, start, end);
}

bool cut_series(const struct series_chunk *in, size_t n, int64_t start, int64_t end, struct arena *arena, const struct series_chunk **ret,
                size_t *ret_n, uint64_t *ret_damaged)
{
    struct chunks_out out = {.arena = arena};
    bool ok = true;
    for (size_t from = 0, to; ok && from < n; from = to) {
        int64_t max_t = in[from].max_t;
        for (to = from + 1; to < n && in[to].min_t <= max_t; to++)
            max_t = MAX(max_t, in[to].max_t);
        bool as_it_is = to == from + 1 && in[from].min_t >= start && max_t < end;
        ok = as_it_is ? out_add(&out, in[from]) : merge_group(&out, in + from, to - from, start, end, ret_damaged);
    }
    ok = ok && join_pack(out.items, &out.n, arena, NULL);
    *ret = out.items;
    *ret_n = out.n;
    return ok;
}
