/*
 * Select on a head. The refs of every shard are resolved at once; series are materialised batch by batch as the query
 * asks for them, each batch under one hold of its shard's shared lock. The set keeps the shards' data and the chunk
 * files alive.
 *
 * A series costs some 800 ns of cache misses when nobody asks for its lines ahead of time: its hot and cold part, then its labels,
 * its list of full chunks and its open chunk, then the full chunks in their files. What is fetched ahead is said where it is done.
 */
#include <stdlib.h>
#include <string.h>

#include "base/assert.h"
#include "base/logger.h"
#include "ingest/block_cursors_int.h"
#include "ingest/ingest_metrics_int.h"
#include "ingest/query_int.h"

/* Series materialised under one hold of a shard's lock: some 50 us. */
#define LOCK_BATCH 256u
#define AHEAD 16u      /* the series whose fixed parts are fetched */
#define AHEAD_PARTS 8u /* ... whose labels, list of chunks and open chunk are: the fixed parts are there by then */
#define AHEAD_FULL 3u  /* ... whose full chunks are, when these are read */
#define KEPT_LABELS_MAX 8u

struct set_part {
    struct shard_data *data; /* referenced */
    const uint32_t *refs;    /* arena */
    size_t n;
    uint64_t *given; /* a bit for each ref: head_set_take gave it; NULL: none */
    uint32_t kept[KEPT_LABELS_MAX]; /* symbols of the names of labels that are asked for; SYMBOL_NONE: no series has it */
};

struct head_set {
    struct series_set base;
    struct chunk_taker taker;
    bool no_chunks;
    bool all_labels;
    size_t n_kept; /* labels a series at most, unless it has all of them */
    size_t left; /* of the limit */
    uint32_t part;
    size_t at;
    uint64_t n_series;
    struct set_part parts[];
};

bool query_memory_error(const struct ctx *ctx, struct err *err)
{
    return err_set(err, ERR_MAX_QUERY_MEMORY,
                   "the query exceeded the maximum allowed estimated amount of memory consumed by a single query "
                   "(limit: %zu bytes)",
                   ctx->arena->budget_bytes);
}

/* --- one series --- */

static bool entry_overlaps(const struct chunk_entry *e, int64_t min_t, int64_t max_t)
{
    return e->min_t <= max_t && e->min_t + e->span_ms >= min_t;
}

/* The out-of-order samples not yet in a chunk; NULL when there are none in the range. */
static const struct ooo_block *ooo_in_range(const struct shard_data *d, const struct series_cold *c, int64_t min_t,
                                            int64_t max_t)
{
    if (!c->ooo)
        return NULL;
    const struct ooo_block *b = slab_ptr(&d->slabs, c->ooo);
    return b->samples[0].t <= max_t && b->samples[b->n - 1].t >= min_t ? b : NULL;
}

static bool open_in_range(const struct shard_data *d, uint32_t ref, int64_t min_t, int64_t max_t)
{
    enum chunk_encoding enc;
    int64_t open_min;
    return series_open_chunk(d, ref, &enc, &open_min).n && open_min <= max_t && series_hot(d, ref)->app.t >= min_t;
}

bool series_overlaps(const struct shard_data *d, uint32_t ref, int64_t min_t, int64_t max_t)
{
    if (open_in_range(d, ref, min_t, max_t))
        return true;
    const struct series_cold *c = series_cold(d, ref);
    const struct chunk_entry *e = series_chunks(d, c);
    for (uint32_t i = 0; i < c->n_chunks; i++)
        if (entry_overlaps(&e[i], min_t, max_t))
            return true;
    return ooo_in_range(d, c, min_t, max_t) != NULL;
}

uint32_t series_count_chunks(const struct shard_data *d, uint32_t ref, int64_t min_t, int64_t max_t)
{
    const struct series_cold *c = series_cold(d, ref);
    const struct chunk_entry *e = series_chunks(d, c);
    uint32_t n = open_in_range(d, ref, min_t, max_t) ? 1 : 0;
    n += ooo_in_range(d, c, min_t, max_t) != NULL;
    for (uint32_t i = 0; i < c->n_chunks; i++)
        n += entry_overlaps(&e[i], min_t, max_t);
    return n;
}

bool series_materialise_labels(const struct shard_data *d, uint32_t ref, struct arena *arena, struct labels *ret)
{
    uint16_t n = series_hot(d, ref)->n_labels;
    const uint32_t *symbols = series_labels(d, ref);
    struct label *items = ARENA_ARRAY(arena, struct label, n);
    if (!items && n)
        return false;
    for (uint16_t i = 0; i < n; i++) {
        const struct symbol *s = symbol_at(d, symbols[i]);
        items[i] = (struct label){.name = symbol_text(d, s->name), .value = string_at(d, s->string)};
    }
    *ret = (struct labels){items, n};
    return true;
}

static bool is_kept(const struct head_set *s, const struct set_part *part, uint32_t name)
{
    for (size_t i = 0; i < s->n_kept; i++)
        if (part->kept[i] == name)
            return true;
    return false;
}

/* As series_materialise_labels, but only of those that are asked for. */
static bool some_labels(const struct head_set *s, const struct set_part *part, uint32_t ref, struct arena *arena, struct labels *ret)
{
    const struct shard_data *d = part->data;
    uint16_t n = series_hot(d, ref)->n_labels;
    const uint32_t *symbols = series_labels(d, ref);
    struct label *items = ARENA_ARRAY(arena, struct label, s->n_kept);
    size_t kept = 0;
    if (!items)
        return false;
    for (uint16_t i = 0; i < n && kept < s->n_kept; i++) {
        const struct symbol *l = symbol_at(d, symbols[i]);
        if (is_kept(s, part, l->name))
            items[kept++] = (struct label){.name = symbol_text(d, l->name), .value = string_at(d, l->string)};
    }
    *ret = (struct labels){items, kept};
    return true;
}

/* Encodes the block as an XOR chunk in the arena. */
static bool ooo_chunk(const struct ooo_block *b, struct arena *arena, struct series_chunk *ret)
{
    uint8_t *bytes = arena_alloc(arena, (b->n + 1) * (size_t)XOR_SAMPLE_MAX_BYTES);
    if (!bytes)
        return false;
    struct xor_appender x;
    xor_appender_init(&x);
    for (uint32_t i = 0; i < b->n; i++)
        xor_append(&x, bytes, b->samples[i].t, b->samples[i].v);
    *ret = (struct series_chunk){b->samples[0].t, b->samples[b->n - 1].t, CHUNK_XOR, slice_make(bytes, xor_size(&x))};
    return true;
}

static int by_min_t(const void *a, const void *b)
{
    const struct series_chunk *x = a;
    const struct series_chunk *y = b;
    return (x->min_t > y->min_t) - (x->min_t < y->min_t);
}

/* Stable for equal times, which qsort is not: chunks in order come before late ones. Lists are short and nearly sorted.
 */
static void sort_chunks(struct series_chunk *chunks, size_t n)
{
    if (n > 64) {
        qsort(chunks, n, sizeof(*chunks), by_min_t);
        return;
    }
    chunks_sort_by_min_t(chunks, n);
}

static bool take_open_chunk(struct chunk_taker *s, const struct shard_data *d, uint32_t ref, struct arena *arena,
                            struct taken_chunks *out)
{
    enum chunk_encoding enc;
    int64_t min_t;
    struct slice bytes = series_open_chunk(d, ref, &enc, &min_t);
    const struct series_hot *hot = series_hot(d, ref);
    struct slice copy = arena_dup(arena, bytes);
    if (!copy.p)
        return false;
    out->chunks[out->n_chunks++] = (struct series_chunk){min_t, hot->app.t, enc, copy};
    s->n_samples += enc == CHUNK_XOR ? hot->app.n : histogram_appender_count(*hist_at(d, hot->chunk));
    return true;
}

bool series_take_chunks(struct chunk_taker *s, const struct shard_data *d, uint32_t ref, struct arena *arena,
                        struct taken_chunks *out)
{
    const struct series_cold *c = series_cold(d, ref);
    const struct chunk_entry *e = series_chunks(d, c);
    struct chunk_entry *full = NULL;
    out->from = d;
    for (uint32_t i = 0; i < c->n_chunks; i++) {
        if (!entry_overlaps(&e[i], s->min_t, s->max_t) || (s->mark && !chunk_in_cut(&e[i], s->mark, s->cut)))
            continue;
        if (!full && !(full = ARENA_ARRAY(arena, struct chunk_entry, c->n_chunks - i)))
            return false;
        full[out->n_full++] = e[i];
    }
    out->full = full;
    bool open = !s->mark && open_in_range(d, ref, s->min_t, s->max_t);
    const struct ooo_block *ooo = s->mark ? NULL : ooo_in_range(d, c, s->min_t, s->max_t);
    if (!out->n_full && !open && !ooo)
        return true;
    out->chunks = ARENA_ARRAY(arena, struct series_chunk, out->n_full + 2);
    if (!out->chunks || (open && !take_open_chunk(s, d, ref, arena, out)))
        return false;
    if (!ooo)
        return true;
    s->n_samples += ooo->n;
    return ooo_chunk(ooo, arena, &out->chunks[out->n_chunks++]);
}

/* A file that is gone from the store may still be held for the readers of data that was swapped out. */
static enum chunk_read read_full_chunk(struct chunk_taker *s, const struct taken_chunks *p, const struct chunk_entry *e,
                                       struct arena *arena, struct slice *ret)
{
    enum chunk_read r = chunk_store_read(&s->pins, e, arena, ret);
    if (r != CHUNK_READ_CORRUPT)
        return r;
    const struct chunk_pins *held = atomic_load_explicit(&p->from->held, memory_order_acquire);
    return held ? chunk_pins_read(held, e, ret) : r;
}

bool series_read_full_chunks(struct chunk_taker *s, struct taken_chunks *p, struct arena *arena)
{
    for (size_t i = 0; i < p->n_full; i++) {
        const struct chunk_entry *e = &p->full[i];
        struct slice data;
        switch (read_full_chunk(s, p, e, arena, &data)) {
        case CHUNK_READ_OK:
            p->chunks[p->n_chunks++] =
                (struct series_chunk){e->min_t, e->min_t + e->span_ms, (enum chunk_encoding)e->encoding, data};
            s->n_samples += e->count;
            break;
        case CHUNK_READ_CORRUPT:
            s->n_damaged++;
            metric_inc(metric_single(ingest_metrics[INGESTER_CHUNK_CORRUPTIONS]));
            LOG_ERROR("a chunk is damaged and left out of the answer", {"tenant", LOG_SLICE(s->head->tenant)},
                      {"file", LOG_U64(e->file)}, {"position", LOG_U64(e->pos)});
            break;
        case CHUNK_READ_NO_MEMORY:
            return false;
        }
    }
    sort_chunks(p->chunks, p->n_chunks);
    return true;
}

/* --- ahead --- */

static void fetch_parts(const struct shard_data *d, uint32_t ref)
{
    const struct series_hot *hot = series_hot(d, ref);
    const struct series_cold *cold = series_cold(d, ref);
    __builtin_prefetch(series_labels(d, ref));
    if (cold->n_chunks)
        __builtin_prefetch(series_chunks(d, cold));
    if (!hot->chunk || hot->flags & SERIES_HISTOGRAM)
        return;
    const char *open = slab_ptr(&d->slabs, hot->chunk);
    for (unsigned at = 0; at < hot->chunk_units * SLAB_UNIT && at < 4 * 64; at += 64)
        __builtin_prefetch(open + at);
}

void series_fetch_ahead(const struct shard_data *d, const uint32_t *refs, size_t n)
{
    if (n > AHEAD) {
        __builtin_prefetch(series_hot(d, refs[AHEAD]));
        __builtin_prefetch(series_cold(d, refs[AHEAD]));
    }
    if (n > AHEAD_PARTS)
        fetch_parts(d, refs[AHEAD_PARTS]);
}

void taken_fetch_ahead(const struct chunk_taker *s, const struct taken_chunks *taken, size_t n)
{
    if (n > AHEAD_FULL)
        chunk_pins_fetch(&s->pins, taken[AHEAD_FULL].full, taken[AHEAD_FULL].n_full);
}

void chunk_taker_init(struct chunk_taker *s, struct head *h, int64_t min_t, int64_t max_t)
{
    *s = (struct chunk_taker){.head = h, .min_t = min_t, .max_t = max_t};
    chunk_pins_init(&s->pins, h->chunks);
}

void chunk_taker_release(struct chunk_taker *s)
{
    chunk_pins_release(&s->pins);
}

/* --- the set --- */

static bool take_one(struct head_set *s, const struct set_part *part, uint32_t ref, struct arena *arena, struct series *ret,
                     struct taken_chunks *taken, bool *ret_has)
{
    *taken = (struct taken_chunks){0};
    *ret = (struct series){0};
    if (s->no_chunks)
        *ret_has = series_overlaps(part->data, ref, s->taker.min_t, s->taker.max_t);
    else if (series_take_chunks(&s->taker, part->data, ref, arena, taken))
        *ret_has = taken->n_full + taken->n_chunks > 0;
    else
        return false;
    if (!*ret_has)
        return true;
    return s->all_labels ? series_materialise_labels(part->data, ref, arena, &ret->labels) : some_labels(s, part, ref, arena, &ret->labels);
}

/* Up to max series of the current part, under its shard's lock. False: the arena is full. */
static bool take_batch(struct head_set *s, struct arena *arena, struct series *ret, size_t max,
                       struct taken_chunks *taken, size_t *ret_n)
{
    const struct set_part *part = &s->parts[s->part];
    size_t end = MIN(part->n, s->at + LOCK_BATCH);
    for (; s->at < end && *ret_n < max; s->at++) {
        bool has;
        if (part->given && part->given[s->at / 64] >> s->at % 64 & 1)
            continue;
        series_fetch_ahead(part->data, part->refs + s->at, part->n - s->at);
        if (!take_one(s, part, part->refs[s->at], arena, &ret[*ret_n], &taken[*ret_n], &has))
            return false;
        *ret_n += has;
    }
    return true;
}

static bool fill_batch(struct head_set *s, struct arena *arena, struct series *ret, size_t max, size_t *ret_n)
{
    struct taken_chunks taken[LOCK_BATCH];
    size_t n = 0;
    struct shard *shard = &s->taker.head->shards[s->part];
    pthread_rwlock_rdlock(&shard->lock);
    bool ok = take_batch(s, arena, ret, MIN(max, (size_t)LOCK_BATCH), taken, &n);
    pthread_rwlock_unlock(&shard->lock);
    size_t kept = 0;
    for (size_t i = 0; ok && i < n; i++) {
        taken_fetch_ahead(&s->taker, taken + i, n - i);
        if (!s->no_chunks) {
            ok = series_read_full_chunks(&s->taker, &taken[i], arena);
            ret[i].chunks = taken[i].chunks;
            ret[i].n_chunks = taken[i].n_chunks;
        }
        ret[kept] = ret[i];
        /* All its chunks damaged: then there is nothing to say about it. */
        kept += s->no_chunks || ret[i].n_chunks;
    }
    *ret_n = kept;
    return ok;
}

static bool set_next_in(struct series_set *base, struct ctx *ctx, struct arena *mem, struct series *ret, size_t max, size_t *ret_n,
                        struct err *err)
{
    struct head_set *s = CONTAINER_OF(base, struct head_set, base);
    *ret_n = 0;
    max = MIN(max, s->left);
    while (*ret_n < max && s->part < s->taker.head->n_shards) {
        if (s->at == s->parts[s->part].n) {
            s->part++;
            s->at = 0;
            continue;
        }
        if (!ctx_check(ctx, err))
            return false;
        size_t n;
        if (!fill_batch(s, mem, ret + *ret_n, max - *ret_n, &n))
            return query_memory_error(ctx, err);
        *ret_n += n;
    }
    s->left -= *ret_n;
    s->n_series += *ret_n;
    return true;
}

static bool set_next(struct series_set *base, struct ctx *ctx, struct series *ret, size_t max, size_t *ret_n, struct err *err)
{
    return set_next_in(base, ctx, ctx->arena, ret, max, ret_n, err);
}

static void set_release(struct series_set *base)
{
    struct head_set *s = CONTAINER_OF(base, struct head_set, base);
    metric_observe(metric_get(ingest_metrics[INGESTER_QUERIED_SERIES], &SL("send")), (double)s->n_series);
    if (!s->no_chunks)
        metric_observe(metric_single(ingest_metrics[INGESTER_QUERIED_SAMPLES]), (double)s->taker.n_samples);
    for (uint32_t i = 0; i < s->taker.head->n_shards; i++) {
        shard_data_unref(s->parts[i].data);
        free(s->parts[i].given);
    }
    chunk_taker_release(&s->taker);
    free(s);
}

/* Until the release, which is when readers let go of the head; or as long as the arena that they were copied to. */
static bool chunks_stay(const struct series_set *base)
{
    (void)base;
    return true;
}

static const struct series_set_ops set_ops = {.next = set_next, .release = set_release};
static const struct series_set_traits set_traits = {.chunks_stay = chunks_stay, .next_in = set_next_in};

/* Of the current names of the shard: series of names that come later are not among the refs. */
static void find_kept(struct set_part *part, const struct label_names *labels)
{
    part->kept[0] = symbol_find(part->data, SYMBOL_IS_NAME, SL(METRIC_NAME_LABEL));
    for (size_t i = 0; i < labels->n; i++)
        part->kept[i + 1] = symbol_find(part->data, SYMBOL_IS_NAME, labels->names[i]);
}

struct series_set *head_select(struct head *h, struct ctx *ctx, const struct select_params *p, struct err *err)
{
    struct head_set *s = xcalloc(1, sizeof(*s) + h->n_shards * sizeof(s->parts[0]));
    s->base.ops = &set_ops;
    s->base.traits = &set_traits;
    chunk_taker_init(&s->taker, h, p->min_t, p->max_t);
    s->no_chunks = p->no_chunks;
    s->left = p->limit ? p->limit : SIZE_MAX;
    s->all_labels = !p->labels || p->labels->n >= KEPT_LABELS_MAX;
    s->n_kept = s->all_labels ? 0 : p->labels->n + 1;
    bool ok = true;
    for (uint32_t i = 0; ok && i < h->n_shards; i++) {
        struct set_part *part = &s->parts[i];
        pthread_rwlock_rdlock(&h->shards[i].lock);
        part->data = h->shards[i].data;
        shard_data_ref(part->data);
        if (!s->all_labels)
            find_kept(part, p->labels);
        ok = postings_select(part->data, p->matchers, p->n_matchers, ctx->arena, &part->refs, &part->n);
        pthread_rwlock_unlock(&h->shards[i].lock);
    }
    if (ok)
        return &s->base;
    set_release(&s->base);
    query_memory_error(ctx, err);
    return NULL;
}

/* --- series that are known from elsewhere --- */

/* Place of the ref among those of the part; n: it is not there. */
static size_t find_ref(const struct set_part *part, uint32_t ref)
{
    size_t from = 0, to = part->n;
    while (from < to) {
        size_t mid = from + (to - from) / 2;
        if (part->refs[mid] < ref)
            from = mid + 1;
        else
            to = mid;
    }
    return from < part->n && part->refs[from] == ref ? from : part->n;
}

/* Under the shard's lock. ret_at: which of the hashes are of series of the part, ret_refs: which these are. */
static size_t find_series(struct set_part *part, const struct head *h, uint32_t shard, const struct series_hash *hashes, size_t n, size_t *ret_at,
                          uint32_t *ret_refs)
{
    size_t found = 0;
    for (size_t i = 0; i < n; i++) {
        if (i + AHEAD < n)
            __builtin_prefetch(slot_first(part->data, hashes[i + AHEAD]));
        if (head_shard_of(h, hashes[i]) != shard)
            continue;
        uint32_t ref = series_find(part->data, hashes[i]);
        size_t place = ref == SERIES_NONE ? part->n : find_ref(part, ref);
        if (place == part->n)
            continue;
        if (!part->given)
            part->given = xcalloc(part->n / 64 + 1, sizeof(*part->given));
        part->given[place / 64] |= UINT64_C(1) << place % 64;
        ret_at[found] = i;
        ret_refs[found++] = ref;
    }
    return found;
}

static bool take_of_shard(struct head_set *s, uint32_t shard, const struct series_hash *hashes, size_t n, struct arena *mem, struct taken_chunks *taken)
{
    size_t at[HEAD_SET_TAKE_MAX];
    uint32_t refs[HEAD_SET_TAKE_MAX];
    struct set_part *part = &s->parts[shard];
    pthread_rwlock_t *lock = &s->taker.head->shards[shard].lock;
    bool ok = true;
    if (part->n == 0)
        return true;
    pthread_rwlock_rdlock(lock);
    size_t found = find_series(part, s->taker.head, shard, hashes, n, at, refs);
    for (size_t i = 0; ok && !s->no_chunks && i < found; i++) {
        series_fetch_ahead(part->data, refs + i, found - i);
        ok = series_take_chunks(&s->taker, part->data, refs[i], mem, &taken[at[i]]);
    }
    pthread_rwlock_unlock(lock);
    return ok;
}

bool head_set_take(struct series_set *set, struct arena *mem, const struct series_hash *hashes, size_t n, struct series *ret)
{
    struct head_set *s = CONTAINER_OF(set, struct head_set, base);
    struct taken_chunks taken[HEAD_SET_TAKE_MAX];
    ASSERT(n <= HEAD_SET_TAKE_MAX && s->part == 0 && s->at == 0);
    memset(taken, 0, n * sizeof(*taken));
    for (uint32_t i = 0; i < s->taker.head->n_shards; i++)
        if (!take_of_shard(s, i, hashes, n, mem, taken))
            return false;
    for (size_t i = 0; i < n; i++) {
        taken_fetch_ahead(&s->taker, taken + i, n - i);
        if (!series_read_full_chunks(&s->taker, &taken[i], mem))
            return false;
        ret[i].chunks = taken[i].chunks;
        ret[i].n_chunks = taken[i].n_chunks;
    }
    s->n_series += n;
    return true;
}
