/*
 * Truncation: the chunks that a cut has put into blocks leave the head. A shard with any of them is built anew from what is left and swapped in. The
 * writer's mutex is held while building (some 150 ms at 125k series), so the consumer waits for that one shard; readers go on with the old data, and those
 * that are in the middle of a select keep it, and the chunk files that it refers to, until they are done.
 *
 * A series without samples stays while its newest one is so new that the next may still be in order: what is in order does not depend on cuts.
 */
#include <stdlib.h>
#include <string.h>

#include "base/assert.h"
#include "ingest/cut_int.h"
#include "ingest/ingest_metrics_int.h"
#include "ingest/query_int.h"

struct rebuild {
    const struct shard_data *from;
    struct shard_data *to;
    uint32_t *symbols; /* of from -> of to; SYMBOL_NONE = not yet */
    uint64_t mark;
    int64_t cut;
    int64_t keep_t; /* series with a newer sample stay */
    struct head *head;
    struct chunk_files_used files;
    int64_t min_t; /* of what is left */
    uint64_t removed_series;
    uint64_t removed_chunks;
    uint64_t rebuilt;
};

/* What the cut leaves of a series. */
struct left {
    uint32_t n_chunks;
    bool any; /* it stays */
};

static struct left what_is_left(const struct rebuild *r, uint32_t ref)
{
    const struct series_cold *c = series_cold(r->from, ref);
    const struct series_hot *hot = series_hot(r->from, ref);
    const struct chunk_entry *e = series_chunks(r->from, c);
    struct left left = {0, hot->chunk != 0 || c->ooo != 0 || hot->app.t >= r->keep_t};
    for (uint32_t i = 0; i < c->n_chunks; i++)
        left.n_chunks += !chunk_in_cut(&e[i], r->mark, r->cut);
    left.any |= left.n_chunks > 0;
    return left;
}

/* Notes what a series that stays refers to. */
static void note_left(struct rebuild *r, uint32_t ref)
{
    const struct series_cold *c = series_cold(r->from, ref);
    const struct chunk_entry *e = series_chunks(r->from, c);
    enum chunk_encoding enc;
    int64_t open_min;
    for (uint32_t i = 0; i < c->n_chunks; i++) {
        if (chunk_in_cut(&e[i], r->mark, r->cut))
            continue;
        chunk_files_use(&r->files, e[i].file);
        r->min_t = MIN(r->min_t, e[i].min_t);
    }
    if (series_open_chunk(r->from, ref, &enc, &open_min).n)
        r->min_t = MIN(r->min_t, open_min);
    if (c->ooo)
        r->min_t = MIN(r->min_t, ((const struct ooo_block *)slab_ptr(&r->from->slabs, c->ooo))->samples[0].t);
}

/* Under the writer's mutex. */
static bool shard_needs_work(struct rebuild *r)
{
    bool found = false;
    for (uint32_t ref = 0; ref < r->from->n_series; ref++) {
        struct left left = what_is_left(r, ref);
        found |= !left.any || left.n_chunks < series_cold(r->from, ref)->n_chunks;
        note_left(r, ref);
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
        if (chunk_in_cut(&e[i], r->mark, r->cut))
            r->removed_chunks++;
        else
            series_add_chunk(r->to, to_ref, e[i]);
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
    r->removed_chunks += series_cold(r->from, ref)->n_chunks;
}

/* Nothing is added to the old data any more, and the files of today are all that it refers to. */
static struct chunk_pins *hold_files(struct chunk_store *cs)
{
    struct chunk_pins *pins = xmalloc(sizeof(*pins));
    chunk_pins_init(pins, cs);
    return pins;
}

static void rebuild_shard(struct head *h, struct shard *s, struct rebuild *r)
{
    pthread_mutex_lock(&s->writer);
    struct shard_data *old = s->data;
    r->from = old;
    if (!shard_needs_work(r)) {
        pthread_mutex_unlock(&s->writer);
        return;
    }
    r->rebuilt++;
    r->to = shard_data_new(h->seed);
    r->symbols = xmalloc(old->n_symbols * sizeof(*r->symbols));
    memset(r->symbols, 0xFF, old->n_symbols * sizeof(*r->symbols));
    for (uint32_t ref = 0; ref < old->n_series; ref++) {
        if (what_is_left(r, ref).any)
            copy_series(r, ref);
        else
            forget_series(r, ref);
    }
    free(r->symbols);
    atomic_store_explicit(&old->held, hold_files(h->chunks), memory_order_release);
    pthread_rwlock_wrlock(&s->lock);
    s->data = r->to;
    pthread_rwlock_unlock(&s->lock);
    pthread_mutex_unlock(&s->writer);
    shard_data_unref(old);
}

/* Of a batch that is applied meanwhile young_min knows when it is done, and settle() lowers them in this order. */
static void raise_min_t(struct head *h, const struct rebuild *r)
{
    int64_t young = atomic_load(&h->young_min);
    atomic_store(&h->min_t, MIN(r->min_t, young));
    young = atomic_load(&h->young_min);
    int64_t now = atomic_load(&h->min_t);
    while (young < now && !atomic_compare_exchange_weak(&h->min_t, &now, young))
        ;
}

static uint64_t rebuild_head(struct head *h, struct rebuild r, struct cut_pace *pace)
{
    r.head = h;
    r.min_t = INT64_MAX;
    chunk_files_used_init(&r.files, h->chunks);
    atomic_store(&h->young_min, INT64_MAX);
    for (uint32_t i = 0; i < h->n_shards; i++) {
        rebuild_shard(h, &h->shards[i], &r);
        cut_point(pace, "truncating");
        (void)cut_rest(pace, NULL); /* what has begun is done to its end */
    }
    raise_min_t(h, &r);
    size_t dead_files = chunk_store_drop(h->chunks, &r.files, r.mark);
    chunk_files_used_release(&r.files);
    if (!r.rebuilt && !dead_files)
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

uint64_t head_truncate(struct head *h, int64_t cut, uint64_t mark, struct cut_pace *pace)
{
    int64_t keep_t = head_oldest_in_order(atomic_load_explicit(&h->settled_t, memory_order_acquire));
    return rebuild_head(h, (struct rebuild){.cut = cut, .mark = mark, .keep_t = keep_t}, pace);
}

bool head_forget_series(struct head *h)
{
    rebuild_head(h, (struct rebuild){.cut = INT64_MIN, .keep_t = INT64_MAX}, NULL);
    return atomic_load(&h->n_series) == 0;
}
