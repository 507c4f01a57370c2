/*
 * Is shard data that came from disk safe to use? Checksums tell damage; this tells whether indices, lengths and owners
 * fit together, so that no bytes whatever can lead outside the regions or make two owners of one block. One pass over
 * everything: about 150 ns a series.
 */
#include <stdlib.h>

#include "base/assert.h"
#include "ingest/checkpoint_int.h"

/* Blocks of the slabs that are free or have an owner: a bit a unit. */
struct claims {
    const struct slabs *slabs;
    uint64_t *bits;
};

static bool claim(struct claims *c, uint32_t handle, size_t n)
{
    if (!slab_check(c->slabs, handle, n))
        return false;
    uint64_t bit = 1ULL << ((handle - 1) % 64);
    uint64_t *word = &c->bits[(handle - 1) / 64];
    if (*word & bit)
        return false;
    *word |= bit;
    return true;
}

static void claim_free_blocks(struct claims *c)
{
    uint32_t n_pages = (uint32_t)(c->slabs->pages.n / sizeof(struct slab_page));
    const struct slab_page *pages = slab_pages(c->slabs);
    for (uint32_t page = 0; page < n_pages; page += pages[page].pages) {
        if (pages[page].kind != SLAB_BLOCKS)
            continue;
        uint32_t units = slab_class_units[pages[page].cls];
        for (uint16_t at = pages[page].free; at;) {
            uint32_t unit = page * SLAB_PAGE_UNITS + (at - 1u) * units;
            c->bits[unit / 64] |= 1ULL << (unit % 64);
            __builtin_memcpy(&at, slab_ptr(c->slabs, unit + 1), sizeof(at));
        }
    }
}

/* --- strings and symbols --- */

static bool string_ok(const struct strings *s, uint32_t string)
{
    uint64_t off = (uint64_t)string * 4;
    if (off + sizeof(uint32_t) > s->used || !s->pages[off / STRING_PAGE])
        return false;
    size_t first = (size_t)(off / STRING_PAGE);
    if (off % STRING_PAGE + sizeof(uint32_t) > STRING_PAGE)
        return false;
    size_t run = 1;
    while (first + run < s->n_pages && !s->pages[first + run])
        run++;
    uint64_t end = MIN(s->used, (uint64_t)(first + run) * STRING_PAGE);
    uint32_t n;
    __builtin_memcpy(&n, s->pages[first] + off % STRING_PAGE, sizeof(n));
    return n <= end - off - sizeof(n);
}

static bool list_ok(const struct shard_data *d, struct claims *c, uint32_t symbol)
{
    const struct symbol *s = symbol_at(d, symbol);
    bool is_name = s->name == SYMBOL_IS_NAME;
    if (s->n > 2) {
        if (!claim(c, s->list[0], (size_t)s->list[1] * sizeof(uint32_t)) || s->n > s->list[1])
            return false;
    }
    const uint32_t *list = symbol_list(d, s);
    for (uint32_t i = 0; i < s->n; i++) {
        if (i > 0 && list[i] <= list[i - 1])
            return false;
        if (is_name ? list[i] >= d->n_symbols || symbol_at(d, list[i])->name != symbol : list[i] >= d->n_series)
            return false;
    }
    return true;
}

static bool symbols_ok(const struct shard_data *d, struct claims *c)
{
    uint64_t n_names = 0;
    uint64_t n_values = 0;
    uint64_t listed = 0;
    for (uint32_t i = 0; i < d->n_symbols; i++) {
        const struct symbol *s = symbol_at(d, i);
        bool is_name = s->name == SYMBOL_IS_NAME;
        if (!is_name && (s->name >= d->n_symbols || symbol_at(d, s->name)->name != SYMBOL_IS_NAME))
            return false;
        if (!string_ok(&d->strings, s->string) || !list_ok(d, c, i))
            return false;
        n_names += is_name;
        n_values += !is_name;
        listed += is_name ? s->n : 0;
    }
    return n_names == d->n_names && n_values == listed;
}

/* --- series --- */

static bool labels_ok(const struct shard_data *d, uint32_t ref)
{
    uint16_t n = series_hot(d, ref)->n_labels;
    if ((uint64_t)series_cold(d, ref)->labels + n > d->labels.n / sizeof(uint32_t))
        return false;
    const uint32_t *labels = series_labels(d, ref);
    for (uint16_t i = 0; i < n; i++)
        if (labels[i] >= d->n_symbols || symbol_at(d, labels[i])->name == SYMBOL_IS_NAME)
            return false;
    return true;
}

static bool open_chunk_ok(const struct shard_data *d, struct claims *c, uint8_t *hist_owned, uint32_t ref)
{
    const struct series_hot *hot = series_hot(d, ref);
    const struct xor_appender *x = &hot->app;
    if (hot->next_at_ms > CHUNK_RANGE_MS || (hot->flags & ~SERIES_HISTOGRAM))
        return false;
    if (hot->flags & SERIES_HISTOGRAM) {
        if (hot->chunk == 0 || hot->chunk > d->n_hists || !d->hists[hot->chunk - 1] || hist_owned[hot->chunk - 1])
            return false;
        hist_owned[hot->chunk - 1] = 1;
        if (histogram_appender_count(d->hists[hot->chunk - 1]) == 0)
            return false;
        return (int64_t)x->v <= x->t && (int64_t)x->v >= chunk_range_start(x->t);
    }
    if (hot->chunk == 0)
        return x->n == 0;
    size_t cap = (size_t)hot->chunk_units * SLAB_UNIT;
    if (!claim(c, hot->chunk, cap) || cap < OPEN_CHUNK_FIRST_BYTES || x->n == 0 || x->n > 2 * CHUNK_SAMPLES)
        return false;
    /* A window that the encoder would shift by too much. */
    if (x->leading != 0xFF && (x->leading > 31 || x->trailing > 63 || x->leading + x->trailing > 63))
        return false;
    /* The next sample is not to be written over the first one, whose time the chunk's range is known by. */
    const uint8_t *bytes = slab_ptr(&d->slabs, hot->chunk);
    int first_t_bytes = 1;
    while (first_t_bytes < 10 && (bytes[1 + first_t_bytes] & 0x80))
        first_t_bytes++;
    if (x->bits < 16 + 8 * first_t_bytes + 64 || xor_size(x) > cap ||
        xor_size(x) > CHUNK_MAX_BYTES + XOR_SAMPLE_MAX_BYTES)
        return false;
    enum chunk_encoding enc;
    int64_t min_t;
    series_open_chunk(d, ref, &enc, &min_t);
    return min_t <= x->t && min_t >= chunk_range_start(x->t);
}

static bool full_chunks_ok(const struct shard_data *d, struct claims *c, uint32_t ref)
{
    const struct series_cold *cold = series_cold(d, ref);
    if (cold->n_chunks == 0)
        return true;
    if (!claim(c, cold->chunks, (size_t)cold->n_chunks * sizeof(struct chunk_entry)))
        return false;
    const struct chunk_entry *e = series_chunks(d, cold);
    for (uint32_t i = 0; i < cold->n_chunks; i++)
        if (e[i].encoding < CHUNK_XOR || e[i].encoding > CHUNK_FLOAT_HISTOGRAM || e[i].min_t > INT64_MAX - UINT32_MAX)
            return false;
    return true;
}

static bool ooo_ok(const struct shard_data *d, struct claims *c, uint32_t ref)
{
    uint32_t ooo = series_cold(d, ref)->ooo;
    if (ooo == 0)
        return true;
    if (!slab_check(&d->slabs, ooo, sizeof(struct ooo_block)))
        return false;
    const struct ooo_block *b = slab_ptr(&d->slabs, ooo);
    if (b->n == 0 || b->n > OOO_CHUNK_SAMPLES || !claim(c, ooo, sizeof(*b) + b->n * sizeof(b->samples[0])))
        return false;
    for (uint32_t i = 1; i < b->n; i++)
        if (b->samples[i].t <= b->samples[i - 1].t)
            return false;
    return (uint64_t)b->samples[b->n - 1].t - (uint64_t)b->samples[0].t <= UINT32_MAX;
}

bool shard_data_verify(struct shard_data *d)
{
    if (d->hot.n != (size_t)d->n_series * sizeof(struct series_hot) ||
        d->cold.n != (size_t)d->n_series * sizeof(struct series_cold) ||
        d->symbols.n != (size_t)d->n_symbols * sizeof(struct symbol) || d->n_series >= SERIES_NONE - 1 ||
        d->n_symbols >= SYMBOL_NONE - 1 || d->labels.n % sizeof(uint32_t) != 0 || !slabs_verify(&d->slabs))
        return false;
    struct claims c = {.slabs = &d->slabs, .bits = xcalloc(d->slabs.mem.n / SLAB_UNIT / 64 + 1, sizeof(uint64_t))};
    uint8_t *hist_owned = xcalloc(d->n_hists, 1);
    claim_free_blocks(&c);
    bool ok = symbols_ok(d, &c);
    for (uint32_t ref = 0; ok && ref < d->n_series; ref++)
        ok = labels_ok(d, ref) && open_chunk_ok(d, &c, hist_owned, ref) && full_chunks_ok(d, &c, ref) &&
             ooo_ok(d, &c, ref);
    free(c.bits);
    free(hist_owned);
    return ok;
}
