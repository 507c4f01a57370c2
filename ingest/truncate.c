/*
 * Truncation: samples older than a cutoff leave the head. A shard with any of them is built anew from its other series
 * and swapped in. The writer's mutex is held while building (some 150 ms at 125k series), so the consumer waits for
 * that one shard; readers go on with the old data, and those that are in the middle of a select keep it until they are
 * done.
 */
#include <stdlib.h>
#include <string.h>

#include "base/assert.h"
#include "ingest/head_int.h"
#include "ingest/ingest_metrics_int.h"

/* Chunk files go when they are this much older than what series were trimmed to: an append that was under way may just
 * have named one. */
#define FILE_MARGIN_MS (3600 * 1000LL)

struct rebuild {
    const struct shard_data *from;
    struct shard_data *to;
    uint32_t *symbols; /* of from -> of to; SYMBOL_NONE = not yet */
    int64_t cutoff;
    struct head *head;
    uint64_t removed_series;
    uint64_t removed_chunks;
};

static int64_t entry_max_t(const struct chunk_entry *e)
{
    return e->min_t + e->span_ms;
}

/* The newest sample, late ones included. */
static int64_t series_max_t(const struct shard_data *d, uint32_t ref)
{
    const struct series_cold *c = series_cold(d, ref);
    int64_t t = series_hot(d, ref)->app.t;
    const struct chunk_entry *e = series_chunks(d, c);
    for (uint32_t i = 0; i < c->n_chunks; i++)
        t = MAX(t, entry_max_t(&e[i]));
    if (c->ooo) {
        const struct ooo_block *b = slab_ptr(&d->slabs, c->ooo);
        t = MAX(t, b->samples[b->n - 1].t);
    }
    return t;
}

static bool series_needs_work(const struct shard_data *d, uint32_t ref, int64_t cutoff)
{
    const struct series_cold *c = series_cold(d, ref);
    const struct chunk_entry *e = series_chunks(d, c);
    for (uint32_t i = 0; i < c->n_chunks; i++)
        if (entry_max_t(&e[i]) < cutoff)
            return true;
    return series_hot(d, ref)->app.t < cutoff && series_max_t(d, ref) < cutoff;
}

static bool shard_needs_work(struct shard *s, int64_t cutoff)
{
    bool found = false;
    uint32_t n = 1;
    for (uint32_t from = 0; !found && from < n; from += 4096) {
        pthread_rwlock_rdlock(&s->lock);
        n = s->data->n_series;
        for (uint32_t ref = from; !found && ref < MIN(n, from + 4096); ref++)
            found = series_needs_work(s->data, ref, cutoff);
        pthread_rwlock_unlock(&s->lock);
    }
    return found;
}

/* --- building --- */

static uint32_t map_symbol(struct rebuild *r, uint32_t symbol)
{
    if (r->symbols[symbol] == SYMBOL_NONE) {
        uint32_t name = symbol_at(r->from, symbol)->name;
        uint32_t to_name = name == SYMBOL_IS_NAME ? SYMBOL_IS_NAME : map_symbol(r, name);
        r->symbols[symbol] = symbol_intern(r->to, to_name, symbol_text(r->from, symbol));
    }
    return r->symbols[symbol];
}

static uint32_t copy_block(struct rebuild *r, uint32_t slab, size_t n)
{
    uint32_t copy = slab_alloc(&r->to->slabs, n);
    memcpy(slab_ptr(&r->to->slabs, copy), slab_ptr(&r->from->slabs, slab), n);
    return copy;
}

/* Old data stays as it is for its readers, so an open histogram chunk is made anew from its bytes. */
static void copy_open_chunk(struct rebuild *r, uint32_t ref, uint32_t to_ref)
{
    const struct series_hot *from = series_hot(r->from, ref);
    struct series_hot *to = series_hot(r->to, to_ref);
    to->app = from->app;
    to->next_at_ms = from->next_at_ms;
    to->active_s = from->active_s;
    if (from->flags & SERIES_HISTOGRAM) {
        enum chunk_encoding enc;
        int64_t min_t;
        struct slice bytes = series_open_chunk(r->from, ref, &enc, &min_t);
        struct histogram_appender *a = histogram_appender_resume(enc, bytes);
        ASSERT(a);
        to->chunk = hist_put(r->to, a);
        to->flags = from->flags;
    } else if (from->chunk) {
        size_t cap = (size_t)from->chunk_units * SLAB_UNIT;
        to->chunk = slab_alloc(&r->to->slabs, cap);
        to->chunk_units = from->chunk_units;
        memcpy(slab_ptr(&r->to->slabs, to->chunk), slab_ptr(&r->from->slabs, from->chunk), xor_size(&from->app));
    }
}

static void copy_series(struct rebuild *r, uint32_t ref)
{
    const struct series_hot *hot = series_hot(r->from, ref);
    const uint32_t *labels = series_labels(r->from, ref);
    uint32_t *mapped = xmalloc(hot->n_labels * sizeof(*mapped));
    for (uint16_t i = 0; i < hot->n_labels; i++)
        mapped[i] = map_symbol(r, labels[i]);
    uint32_t to_ref = series_add(r->to, hot->hash, mapped, hot->n_labels);
    free(mapped);
    copy_open_chunk(r, ref, to_ref);
    const struct series_cold *c = series_cold(r->from, ref);
    const struct chunk_entry *e = series_chunks(r->from, c);
    for (uint32_t i = 0; i < c->n_chunks; i++) {
        if (entry_max_t(&e[i]) >= r->cutoff)
            series_add_chunk(r->to, to_ref, e[i]);
        else
            r->removed_chunks++;
    }
    if (c->ooo) {
        const struct ooo_block *b = slab_ptr(&r->from->slabs, c->ooo);
        uint32_t copy = copy_block(r, c->ooo, sizeof(*b) + b->n * sizeof(b->samples[0]));
        series_cold(r->to, to_ref)->ooo = copy;
        r->to->n_ooo_blocks++;
    }
}

static void forget_series(struct rebuild *r, uint32_t ref)
{
    const uint32_t *labels = series_labels(r->from, ref);
    struct slice metric = {NULL, 0};
    for (uint16_t i = 0; i < series_hot(r->from, ref)->n_labels; i++)
        if (slice_eq(symbol_text(r->from, symbol_at(r->from, labels[i])->name), SL(METRIC_NAME_LABEL)))
            metric = symbol_text(r->from, labels[i]);
    metric_counts_add(&r->head->metrics_counts, metric, -1);
    r->removed_series++;
    r->removed_chunks += series_cold(r->from, ref)->n_chunks + (series_hot(r->from, ref)->chunk != 0);
}

static void rebuild_shard(struct head *h, struct shard *s, struct rebuild *r)
{
    pthread_mutex_lock(&s->writer);
    r->from = s->data;
    r->to = shard_data_new(h->seed);
    r->symbols = xmalloc(r->from->n_symbols * sizeof(*r->symbols));
    memset(r->symbols, 0xFF, r->from->n_symbols * sizeof(*r->symbols));
    for (uint32_t ref = 0; ref < r->from->n_series; ref++) {
        if (series_max_t(r->from, ref) >= r->cutoff)
            copy_series(r, ref);
        else
            forget_series(r, ref);
    }
    free(r->symbols);
    struct shard_data *old = s->data;
    pthread_rwlock_wrlock(&s->lock);
    s->data = r->to;
    pthread_rwlock_unlock(&s->lock);
    pthread_mutex_unlock(&s->writer);
    shard_data_unref(old);
}

uint64_t head_truncate(struct head *h, int64_t cutoff)
{
    if (cutoff <= atomic_load(&h->min_valid))
        return 0;
    atomic_store(&h->min_valid, cutoff);
    struct rebuild r = {.cutoff = cutoff, .head = h};
    uint64_t rebuilt = 0;
    for (uint32_t i = 0; i < h->n_shards; i++) {
        if (!shard_needs_work(&h->shards[i], cutoff))
            continue;
        rebuild_shard(h, &h->shards[i], &r);
        rebuilt++;
    }
    size_t dead_files = chunk_store_drop_before(h->chunks, cutoff - FILE_MARGIN_MS);
    if (!rebuilt && !dead_files)
        return 0;
    atomic_fetch_sub(&h->n_series, r.removed_series);
    atomic_fetch_sub(&h->totals->n_series, r.removed_series);
    metric_add(metric_single(ingest_metrics[INGESTER_MEMORY_SERIES]), -(double)r.removed_series);
    metric_add(h->metrics.removed, (double)r.removed_series);
    metric_add(h->metrics.chunks_removed, (double)r.removed_chunks);
    metric_inc(metric_single(ingest_metrics[INGESTER_TRUNCATIONS]));
    atomic_fetch_add_explicit(&h->changes, 1, memory_order_release);
    return r.removed_series;
}
