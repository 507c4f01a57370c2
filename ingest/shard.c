#include "ingest/shard_int.h"

#include <stdlib.h>
#include <string.h>

#include "base/assert.h"
#include "model/write_request.h"

#define FIRST_SLOTS 64u

struct shard_data *shard_data_new(uint64_t seed)
{
    struct shard_data *d = xcalloc(1, sizeof(*d));
    atomic_init(&d->refs, 1);
    d->seed = seed;
    region_extend(&d->slots, FIRST_SLOTS * sizeof(struct series_slot));
    region_extend(&d->symslots, SYMBOL_FIRST_SLOTS * sizeof(struct symbol_slot));
    return d;
}

void shard_data_ref(struct shard_data *d)
{
    atomic_fetch_add_explicit(&d->refs, 1, memory_order_relaxed);
}

void shard_data_unref(struct shard_data *d)
{
    if (!d || atomic_fetch_sub_explicit(&d->refs, 1, memory_order_acq_rel) != 1)
        return;
    region_release(&d->slots);
    region_release(&d->hot);
    region_release(&d->cold);
    region_release(&d->labels);
    region_release(&d->symbols);
    region_release(&d->symslots);
    slabs_release(&d->slabs);
    for (size_t i = 0; i < d->strings.n_pages; i++)
        free(d->strings.pages[i]);
    free(d->strings.pages);
    for (uint32_t i = 0; i < d->n_hists; i++)
        histogram_appender_free(d->hists[i]);
    free(d->hists);
    struct chunk_pins *held = atomic_load_explicit(&d->held, memory_order_relaxed);
    if (held)
        chunk_pins_release(held);
    free(held);
    free(d);
}

void shard_init(struct shard *s, uint64_t seed)
{
    pthread_mutex_init(&s->writer, NULL);
    pthread_rwlockattr_t attr;
    pthread_rwlockattr_init(&attr);
    /* Readers come in a steady stream; without this the consumer could wait for ever. */
    pthread_rwlockattr_setkind_np(&attr, PTHREAD_RWLOCK_PREFER_WRITER_NONRECURSIVE_NP);
    pthread_rwlock_init(&s->lock, &attr);
    pthread_rwlockattr_destroy(&attr);
    s->data = shard_data_new(seed);
    s->applied = -1;
}

void shard_release(struct shard *s)
{
    shard_data_unref(s->data);
    pthread_mutex_destroy(&s->writer);
    pthread_rwlock_destroy(&s->lock);
}

void shard_data_memory(const struct shard_data *d, struct shard_memory *ret)
{
    *ret = (struct shard_memory){
        .slots = d->slots.n,
        .hot = d->hot.n,
        .cold = d->cold.n,
        .labels = d->labels.n,
        .symbols = d->symbols.n,
        .symslots = d->symslots.n,
        .strings = d->strings.used,
        .slabs = d->slabs.mem.n + d->slabs.pages.n,
        .hists = d->cap_hists * sizeof(*d->hists),
    };
    for (uint32_t i = 0; i < d->n_hists; i++)
        if (d->hists[i])
            ret->hists += histogram_appender_memory(d->hists[i]);
}

/* --- the table of series --- */

static struct series_slot *slots_of(const struct shard_data *d)
{
    return (struct series_slot *)(void *)d->slots.p;
}

uint32_t series_probe(const struct shard_data *d, struct series_hash h)
{
    const struct series_slot *slots = slots_of(d);
    uint32_t mask = slot_mask(d);
    uint32_t tag = (uint32_t)(h.lo >> 32);
    for (uint32_t i = (uint32_t)h.lo & mask; slots[i].ref; i = (i + 1) & mask)
        if (slots[i].tag == tag)
            return slots[i].ref - 1;
    return SERIES_NONE;
}

uint32_t series_find(const struct shard_data *d, struct series_hash h)
{
    const struct series_slot *slots = slots_of(d);
    uint32_t mask = slot_mask(d);
    uint32_t tag = (uint32_t)(h.lo >> 32);
    for (uint32_t i = (uint32_t)h.lo & mask; slots[i].ref; i = (i + 1) & mask)
        if (slots[i].tag == tag && series_hash_eq(series_hot(d, slots[i].ref - 1)->hash, h))
            return slots[i].ref - 1;
    return SERIES_NONE;
}

static void slot_put(struct shard_data *d, struct series_hash h, uint32_t ref)
{
    struct series_slot *slots = slots_of(d);
    uint32_t mask = slot_mask(d);
    uint32_t i = (uint32_t)h.lo & mask;
    while (slots[i].ref)
        i = (i + 1) & mask;
    slots[i] = (struct series_slot){.tag = (uint32_t)(h.lo >> 32), .ref = ref + 1};
}

/* From the hot parts, which lie in order, not from the old slots. */
static void slots_resize(struct shard_data *d, size_t n)
{
    region_remake(&d->slots, n * sizeof(struct series_slot));
    for (uint32_t ref = 0; ref < d->n_series; ref++)
        slot_put(d, series_hot(d, ref)->hash, ref);
}

bool shard_data_index(struct shard_data *d)
{
    size_t n = FIRST_SLOTS;
    while (n * 3 < ((size_t)d->n_series + 1) * 4)
        n *= 2;
    slots_resize(d, n);
    for (uint32_t ref = 0; ref < d->n_series; ref++)
        if (series_find(d, series_hot(d, ref)->hash) != ref)
            return false;
    return symbols_index(d);
}

uint32_t series_add(struct shard_data *d, struct series_hash h, const uint32_t *symbols, uint16_t n)
{
    if ((uint64_t)(d->n_series + 1) * 4 > (uint64_t)(slot_mask(d) + 1) * 3)
        slots_resize(d, 2 * (size_t)(slot_mask(d) + 1));
    uint32_t ref = d->n_series++;
    ASSERT(ref < SERIES_NONE - 1);
    slot_put(d, h, ref);
    uint32_t labels = (uint32_t)(d->labels.n / sizeof(uint32_t));
    uint32_t *own = region_extend(&d->labels, n * sizeof(uint32_t));
    if (n)
        memcpy(own, symbols, n * sizeof(uint32_t));
    struct series_hot *hot = region_extend(&d->hot, sizeof(*hot));
    xor_appender_init(&hot->app);
    hot->app.t = INT64_MIN;
    hot->hash = h;
    hot->n_labels = n;
    struct series_cold *cold = region_extend(&d->cold, sizeof(*cold));
    cold->labels = labels;
    for (uint16_t i = 0; i < n; i++)
        symbol_list_add(d, symbols[i], ref);
    return ref;
}

bool series_create(struct shard_data *d, struct series_hash h, struct slice canonical, uint32_t *ret_ref,
                   struct slice *ret_metric)
{
    uint32_t symbols[256];
    uint32_t *all = symbols;
    size_t n = 0;
    size_t cap = ARRAY_LEN(symbols);
    struct write_label_iter it = write_label_iter(canonical);
    struct label l;
    int r;
    *ret_metric = (struct slice){NULL, 0};
    while ((r = write_label_next(&it, &l)) == 1 && n < SERIES_MAX_LABELS) {
        if (n == cap) {
            cap *= 2;
            uint32_t *more = xmalloc(cap * sizeof(*more));
            memcpy(more, all, n * sizeof(*more));
            if (all != symbols)
                free(all);
            all = more;
        }
        uint32_t name = symbol_intern(d, SYMBOL_IS_NAME, l.name);
        all[n] = symbol_intern(d, name, l.value);
        if (slice_eq(l.name, SL(METRIC_NAME_LABEL)))
            *ret_metric = symbol_text(d, all[n]);
        n++;
    }
    if (r == 0)
        *ret_ref = series_add(d, h, all, (uint16_t)n);
    if (all != symbols)
        free(all);
    return r == 0;
}

/* --- chunks of a series --- */

void series_add_chunk(struct shard_data *d, uint32_t ref, struct chunk_entry e)
{
    struct series_cold *c = series_cold(d, ref);
    size_t used = c->n_chunks * sizeof(e);
    if (c->n_chunks == 0)
        c->chunks = slab_alloc(&d->slabs, 2 * sizeof(e));
    else if (used + sizeof(e) > slab_size(&d->slabs, c->chunks))
        c->chunks = slab_move(&d->slabs, c->chunks, used + MAX(used / 2, sizeof(e)), used);
    struct chunk_entry *list = slab_ptr(&d->slabs, c->chunks);
    list[c->n_chunks++] = e;
    d->n_full_chunks++;
}

/* The first timestamp of an XOR chunk is a signed varint behind the count. */
static int64_t xor_first_t(const uint8_t *bytes)
{
    uint64_t u = 0;
    for (unsigned i = 0; i < 10; i++) {
        u |= (uint64_t)(bytes[2 + i] & 0x7F) << (7 * i);
        if (!(bytes[2 + i] & 0x80))
            break;
    }
    return (int64_t)(u >> 1) ^ -(int64_t)(u & 1);
}

struct slice series_open_chunk(const struct shard_data *d, uint32_t ref, enum chunk_encoding *ret_enc,
                               int64_t *ret_min_t)
{
    const struct series_hot *hot = series_hot(d, ref);
    if (hot->flags & SERIES_HISTOGRAM) {
        const struct histogram_appender *a = *hist_at(d, hot->chunk);
        *ret_enc = histogram_appender_is_float(a) ? CHUNK_FLOAT_HISTOGRAM : CHUNK_HISTOGRAM;
        *ret_min_t = (int64_t)hot->app.v;
        return histogram_appender_bytes(a);
    }
    if (hot->chunk == 0 || hot->app.n == 0)
        return (struct slice){NULL, 0};
    const uint8_t *bytes = slab_ptr(&d->slabs, hot->chunk);
    *ret_enc = CHUNK_XOR;
    *ret_min_t = xor_first_t(bytes);
    return slice_make(bytes, xor_size(&hot->app));
}

uint32_t hist_put(struct shard_data *d, struct histogram_appender *a)
{
    while (d->free_hist < d->n_hists && d->hists[d->free_hist])
        d->free_hist++;
    if (d->free_hist == d->cap_hists) {
        d->cap_hists = MAX(16u, d->cap_hists + d->cap_hists / 2);
        d->hists = xrealloc(d->hists, d->cap_hists * sizeof(*d->hists));
    }
    if (d->free_hist == d->n_hists)
        d->n_hists++;
    d->hists[d->free_hist] = a;
    return ++d->free_hist;
}
