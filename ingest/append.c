#include "ingest/append_int.h"

#include <math.h>
#include <string.h>

#include "base/assert.h"

/* --- full chunks --- */

static void close_float_chunk(struct appender *a, uint32_t ref)
{
    struct series_hot *hot = series_hot(a->data, ref);
    if (!hot->chunk)
        return;
    enum chunk_encoding enc;
    int64_t min_t;
    struct slice bytes = series_open_chunk(a->data, ref, &enc, &min_t);
    if (bytes.n)
        series_add_chunk(a->data, ref, chunk_store_append(a->chunks, enc, 0, hot->app.n, bytes, min_t, hot->app.t));
    slab_free(&a->data->slabs, hot->chunk);
    hot->chunk = 0;
    hot->chunk_units = 0;
}

static void store_histograms(struct appender *a, uint32_t ref, const struct histogram_appender *h, uint8_t flags,
                             int64_t min_t, int64_t max_t)
{
    enum chunk_encoding enc = histogram_appender_is_float(h) ? CHUNK_FLOAT_HISTOGRAM : CHUNK_HISTOGRAM;
    series_add_chunk(a->data, ref,
                     chunk_store_append(a->chunks, enc, flags, histogram_appender_count(h), histogram_appender_bytes(h),
                                        min_t, max_t));
}

static void close_histogram_chunk(struct appender *a, uint32_t ref)
{
    struct series_hot *hot = series_hot(a->data, ref);
    struct histogram_appender **place = hist_at(a->data, hot->chunk);
    store_histograms(a, ref, *place, 0, (int64_t)hot->app.v, hot->app.t);
    histogram_appender_free(*place);
    *place = NULL;
    a->data->free_hist = MIN(a->data->free_hist, hot->chunk - 1);
    hot->chunk = 0;
    hot->flags &= (uint8_t)~SERIES_HISTOGRAM;
}

/* --- floats, in order --- */

static void open_float_chunk(struct appender *a, struct series_hot *hot)
{
    if (hot->flags & SERIES_HISTOGRAM)
        close_histogram_chunk(a, (uint32_t)(hot - series_hot(a->data, 0)));
    xor_appender_init(&hot->app);
    hot->chunk = slab_alloc(&a->data->slabs, OPEN_CHUNK_FIRST_BYTES);
    hot->chunk_units = (uint8_t)(slab_size(&a->data->slabs, hot->chunk) / SLAB_UNIT);
    hot->next_at_ms = CHUNK_RANGE_MS;
    a->chunks_created++;
}

/* After a quarter of a chunk's samples their rate is known: the rest of the range is divided into chunks of about
 * CHUNK_SAMPLES each. */
static void plan_cut(struct appender *a, struct series_hot *hot, int64_t range_start)
{
    enum chunk_encoding enc;
    int64_t start;
    series_open_chunk(a->data, (uint32_t)(hot - series_hot(a->data, 0)), &enc, &start);
    double rest = (double)hot->next_at_ms - (double)(start - range_start);
    double n = rest / ((double)(hot->app.t - start + 1) * 4);
    if (n > 1)
        hot->next_at_ms = (uint32_t)(start - range_start + (int64_t)(rest / floor(n)));
}

/* Is the open chunk complete before a sample at t? */
static bool float_chunk_full(struct appender *a, struct series_hot *hot, int64_t t)
{
    int64_t range_start = chunk_range_start(hot->app.t);
    if (xor_size(&hot->app) > OPEN_CHUNK_CUT_BYTES)
        return true;
    if (hot->app.n == CHUNK_SAMPLES / 4)
        plan_cut(a, hot, range_start);
    return t >= saturating_add(range_start, hot->next_at_ms) || hot->app.n >= 2 * CHUNK_SAMPLES;
}

static void append_in_order(struct appender *a, uint32_t ref, int64_t t, double v)
{
    struct series_hot *hot = series_hot(a->data, ref);
    if (UNLIKELY(!hot->chunk || (hot->flags & SERIES_HISTOGRAM))) {
        open_float_chunk(a, hot);
    } else if (UNLIKELY(float_chunk_full(a, hot, t))) {
        close_float_chunk(a, ref);
        open_float_chunk(a, hot);
    }
    size_t size = xor_size(&hot->app);
    if (UNLIKELY(size + XOR_SAMPLE_MAX_BYTES > (size_t)hot->chunk_units * SLAB_UNIT)) {
        hot->chunk = slab_move(&a->data->slabs, hot->chunk, size + XOR_SAMPLE_MAX_BYTES, size);
        hot->chunk_units = (uint8_t)(slab_size(&a->data->slabs, hot->chunk) / SLAB_UNIT);
    }
    xor_append(&hot->app, slab_ptr(&a->data->slabs, hot->chunk), t, v);
}

/* --- out of order --- */

static void ooo_store_chunk(struct appender *a, uint32_t ref, const struct ooo_sample *samples, uint32_t n)
{
    uint8_t bytes[(OOO_CHUNK_SAMPLES + 1) * XOR_SAMPLE_MAX_BYTES];
    struct xor_appender x;
    xor_appender_init(&x);
    for (uint32_t i = 0; i < n; i++)
        xor_append(&x, bytes, samples[i].t, samples[i].v);
    struct chunk_entry e = chunk_store_append(a->chunks, CHUNK_XOR, CHUNK_OUT_OF_ORDER, (int)n,
                                              slice_make(bytes, xor_size(&x)), samples[0].t, samples[n - 1].t);
    series_add_chunk(a->data, ref, e);
    a->chunks_created++;
}

/* The first n samples become chunks, one for each two-hour range: what goes into different blocks shares no chunk. */
static void ooo_store(struct appender *a, uint32_t ref, uint32_t n)
{
    struct shard_data *d = a->data;
    struct ooo_block *block = slab_ptr(&d->slabs, series_cold(d, ref)->ooo);
    struct ooo_sample samples[OOO_CHUNK_SAMPLES];
    uint32_t rest = block->n - n;
    memcpy(samples, block->samples, n * sizeof(samples[0]));
    memmove(block->samples, block->samples + n, rest * sizeof(samples[0]));
    block->n = rest;
    if (rest == 0) {
        slab_free(&d->slabs, series_cold(d, ref)->ooo);
        series_cold(d, ref)->ooo = 0;
        d->n_ooo_blocks--;
    }
    for (uint32_t from = 0, to; from < n; from = to) {
        int64_t range = chunk_range_start(samples[from].t);
        for (to = from + 1; to < n && chunk_range_start(samples[to].t) == range; to++)
            ;
        ooo_store_chunk(a, ref, samples + from, to - from);
    }
}

static void ooo_flush(struct appender *a, uint32_t ref)
{
    ooo_store(a, ref, ((struct ooo_block *)slab_ptr(&a->data->slabs, series_cold(a->data, ref)->ooo))->n);
}

/* The series' block with room for one more sample at t. */
static struct ooo_block *ooo_room(struct appender *a, uint32_t ref, int64_t t)
{
    struct slabs *slabs = &a->data->slabs;
    struct series_cold *c = series_cold(a->data, ref);
    if (c->ooo) {
        struct ooo_block *b = slab_ptr(slabs, c->ooo);
        /* A chunk entry holds spans of up to 49 days. */
        uint64_t span = (uint64_t)MAX(t, b->samples[b->n - 1].t) - (uint64_t)MIN(t, b->samples[0].t);
        if (b->n == OOO_CHUNK_SAMPLES || span > UINT32_MAX)
            ooo_flush(a, ref);
    }
    if (!c->ooo) {
        c->ooo = slab_alloc(slabs, sizeof(struct ooo_block) + 3 * sizeof(struct ooo_sample));
        ((struct ooo_block *)slab_ptr(slabs, c->ooo))->n = 0;
        a->data->n_ooo_blocks++;
    }
    struct ooo_block *b = slab_ptr(slabs, c->ooo);
    size_t used = sizeof(*b) + b->n * sizeof(b->samples[0]);
    if (used + sizeof(b->samples[0]) > slab_size(slabs, c->ooo)) {
        c->ooo = slab_move(slabs, c->ooo, used + MAX(used / 2, sizeof(b->samples[0])), used);
        b = slab_ptr(slabs, c->ooo);
    }
    return b;
}

/* The first of two late samples with the same time stays, as in Prometheus's head. */
static void append_out_of_order(struct appender *a, uint32_t ref, int64_t t, double v)
{
    uint32_t ooo = series_cold(a->data, ref)->ooo;
    if (ooo) {
        const struct ooo_block *b = slab_ptr(&a->data->slabs, ooo);
        for (uint32_t i = 0; i < b->n; i++)
            if (b->samples[i].t == t)
                return;
    }
    struct ooo_block *b = ooo_room(a, ref, t);
    uint32_t at = b->n;
    while (at > 0 && b->samples[at - 1].t > t) {
        b->samples[at] = b->samples[at - 1];
        at--;
    }
    b->samples[at] = (struct ooo_sample){t, v};
    b->n++;
    a->ooo_samples++;
}

/* Late histograms are rare: each becomes a chunk of its own. */
static void append_histogram_out_of_order(struct appender *a, uint32_t ref, int64_t t, const struct histogram *h)
{
    struct histogram_appender *one = histogram_appender_new(h->is_float);
    ASSERT(one);
    enum histogram_append_result r = histogram_append(one, t, h);
    ASSERT(r == HISTOGRAM_APPENDED);
    store_histograms(a, ref, one, CHUNK_OUT_OF_ORDER, t, t);
    histogram_appender_free(one);
    a->ooo_samples++;
    a->chunks_created++;
}

/* --- which way --- */

enum way { WAY_IN_ORDER, WAY_OUT_OF_ORDER, WAY_SAME_TIME, WAY_REFUSED };

static enum way choose_way(const struct append_bounds *b, const struct series_hot *hot, int64_t t, enum refusal *ret)
{
    if (LIKELY(t > hot->app.t && t >= b->min_valid))
        return WAY_IN_ORDER;
    if (t == hot->app.t && t >= b->min_valid)
        return WAY_SAME_TIME;
    if (b->ooo_min != INT64_MAX && t >= b->ooo_min)
        return WAY_OUT_OF_ORDER;
    if (b->ooo_min != INT64_MAX)
        *ret = REFUSAL_BEYOND_WINDOW;
    else
        *ret = t < b->min_valid ? REFUSAL_TOO_OLD : REFUSAL_OUT_OF_ORDER;
    return WAY_REFUSED;
}

enum refusal append_check_new(const struct append_bounds *b, int64_t t)
{
    if (t >= b->min_valid || t >= b->ooo_min)
        return REFUSAL_NONE;
    return b->ooo_min == INT64_MAX ? REFUSAL_TOO_OLD : REFUSAL_BEYOND_WINDOW;
}

/* A float stale marker ends a series of histograms as a histogram, so that it does not cut the chunk. */
static enum refusal append_stale_histogram(struct appender *a, const struct append_bounds *b, uint32_t ref, int64_t t)
{
    const struct histogram_appender *open = *hist_at(a->data, series_hot(a->data, ref)->chunk);
    struct histogram h = {.is_float = histogram_appender_is_float(open), .sum = stale_nan()};
    return append_histogram(a, b, ref, t, &h);
}

enum refusal append_float(struct appender *a, const struct append_bounds *b, uint32_t ref, int64_t t, double v)
{
    const struct series_hot *hot = series_hot(a->data, ref);
    enum refusal refusal = REFUSAL_NONE;
    if (UNLIKELY((hot->flags & SERIES_HISTOGRAM) && is_stale_nan(v)))
        return append_stale_histogram(a, b, ref, t);
    switch (choose_way(b, hot, t, &refusal)) {
    case WAY_IN_ORDER:
        append_in_order(a, ref, t, v);
        break;
    case WAY_OUT_OF_ORDER:
        append_out_of_order(a, ref, t, v);
        break;
    case WAY_SAME_TIME: {
        uint64_t bits;
        memcpy(&bits, &v, sizeof(bits));
        if ((hot->flags & SERIES_HISTOGRAM) || bits != hot->app.v)
            refusal = REFUSAL_NEW_VALUE;
        break;
    }
    case WAY_REFUSED:
        break;
    }
    return refusal;
}

/* --- histograms --- */

static bool same_as_last(struct appender *a, uint32_t ref, const struct histogram *h)
{
    enum chunk_encoding enc;
    int64_t min_t;
    struct slice bytes = series_open_chunk(a->data, ref, &enc, &min_t);
    struct chunk_columns cols;
    if (!bytes.n || enc == CHUNK_XOR || !chunk_decode(enc, bytes, a->scratch, &cols, NULL) || cols.n == 0)
        return false;
    /* The hint as stored is about the chunk, not about the sample. */
    cols.h[cols.n - 1].hint = h->hint;
    return histogram_eq(&cols.h[cols.n - 1], h);
}

static void open_histogram_chunk(struct appender *a, uint32_t ref, int64_t t, struct histogram_appender *first)
{
    ASSERT(first);
    uint32_t handle = hist_put(a->data, first);
    struct series_hot *hot = series_hot(a->data, ref);
    hot->chunk = handle;
    hot->flags |= SERIES_HISTOGRAM;
    hot->app.n = 0;
    hot->app.v = (uint64_t)t;
    a->chunks_created++;
}

/* Ends the open chunk and begins the next, which takes over what its header depends on. */
static void next_histogram_chunk(struct appender *a, uint32_t ref, int64_t t, bool is_float)
{
    struct series_hot *hot = series_hot(a->data, ref);
    struct histogram_appender *next = histogram_appender_next(*hist_at(a->data, hot->chunk), is_float);
    close_histogram_chunk(a, ref);
    open_histogram_chunk(a, ref, t, next);
}

static void append_histogram_in_order(struct appender *a, uint32_t ref, int64_t t, const struct histogram *h)
{
    struct series_hot *hot = series_hot(a->data, ref);
    if (!(hot->flags & SERIES_HISTOGRAM)) {
        close_float_chunk(a, ref);
        open_histogram_chunk(a, ref, t, histogram_appender_new(h->is_float));
    } else {
        struct histogram_appender *open = *hist_at(a->data, hot->chunk);
        int64_t range_end = saturating_add(chunk_range_start(hot->app.t), CHUNK_RANGE_MS);
        if (histogram_appender_is_float(open) != h->is_float || histogram_appender_full(open, t, range_end))
            next_histogram_chunk(a, ref, t, h->is_float);
    }
    if (histogram_append(*hist_at(a->data, hot->chunk), t, h) == HISTOGRAM_NEW_CHUNK) {
        next_histogram_chunk(a, ref, t, h->is_float);
        enum histogram_append_result r = histogram_append(*hist_at(a->data, hot->chunk), t, h);
        ASSERT(r == HISTOGRAM_APPENDED);
    }
    hot->app.t = t;
}

enum refusal append_histogram(struct appender *a, const struct append_bounds *b, uint32_t ref, int64_t t,
                              const struct histogram *h)
{
    const struct series_hot *hot = series_hot(a->data, ref);
    enum refusal refusal = REFUSAL_NONE;
    switch (choose_way(b, hot, t, &refusal)) {
    case WAY_IN_ORDER:
        append_histogram_in_order(a, ref, t, h);
        break;
    case WAY_OUT_OF_ORDER:
        append_histogram_out_of_order(a, ref, t, h);
        break;
    case WAY_SAME_TIME:
        if (!same_as_last(a, ref, h))
            refusal = REFUSAL_NEW_VALUE;
        break;
    case WAY_REFUSED:
        break;
    }
    return refusal;
}

/* --- cutting --- */

void append_seal(struct appender *a, uint32_t ref, int64_t cut)
{
    struct series_hot *hot = series_hot(a->data, ref);
    if (hot->chunk && hot->app.t < cut) {
        if (hot->flags & SERIES_HISTOGRAM)
            close_histogram_chunk(a, ref);
        else
            close_float_chunk(a, ref);
        hot->app.n = 0;
    }
    uint32_t ooo = series_cold(a->data, ref)->ooo;
    if (!ooo)
        return;
    const struct ooo_block *block = slab_ptr(&a->data->slabs, ooo);
    uint32_t n = 0;
    while (n < block->n && block->samples[n].t < cut)
        n++;
    if (n)
        ooo_store(a, ref, n);
}
