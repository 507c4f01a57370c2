/*
 * Series in order of their labels, without a lock while they are sorted: strings of a shard never move (shard_int.h),
 * so it is enough to copy the numbers of a series' strings under the lock, and the addresses of the shard's pages after
 * the last series. Each shard's series are sorted by themselves, where equal numbers are equal texts and most labels
 * need no look; the sorted runs are then merged.
 */
#include "ingest/head_list_int.h"

#include <stdlib.h>
#include <string.h>

#define XXH_INLINE_ALL
#include <xxhash.h>

#include "base/assert.h"
#include "ingest/ingest_metrics_int.h"
#include "ingest/query_int.h"

/* Series looked at under one hold of a shard's lock. */
#define LOCK_BATCH 512u

/* Strings of the shard. */
struct label_strings {
    uint32_t name;
    uint32_t value;
};

struct listed {
    const struct label_strings *labels; /* in the arena `names` */
    uint32_t ref;
    uint32_t n_chunks;
    uint16_t n_labels;
    uint8_t shard;
};
_Static_assert(HEAD_MAX_SHARDS <= UINT8_MAX, "the number of a shard is a byte");

struct list_shard {
    struct shard_data *data; /* referenced */
    char **pages;            /* a copy, owned */
    size_t begin;            /* its items, until they are merged */
    size_t end;
};

struct head_list {
    struct chunk_taker taker;
    struct arena names;
    struct listed *items; /* in the request's arena */
    size_t n;
    bool no_chunks;
    struct list_shard shards[];
};

static struct slice text_at(const struct list_shard *s, uint32_t string)
{
    uint64_t off = (uint64_t)string * 4;
    const char *p = s->pages[off / STRING_PAGE] + off % STRING_PAGE;
    uint32_t n;
    memcpy(&n, p, sizeof(n));
    return slice_make(p + sizeof(n), n);
}

/* --- collecting --- */

struct collect {
    struct head_list *list;
    const struct series_filter *filter;
    struct ctx *ctx;
    struct err *err;
};

static bool wanted(const struct series_filter *f, const struct series_hot *hot)
{
    if (f->active_since_s && hot->active_s < f->active_since_s)
        return false;
    return !f->native_histograms || (hot->flags & SERIES_HISTOGRAM);
}

static uint32_t count_chunks(const struct chunk_taker *t, const struct shard_data *d, uint32_t ref)
{
    if (!t->mark)
        return series_count_chunks(d, ref, t->min_t, t->max_t);
    const struct series_cold *c = series_cold(d, ref);
    const struct chunk_entry *e = series_chunks(d, c);
    uint32_t n = 0;
    for (uint32_t i = 0; i < c->n_chunks; i++)
        n += chunk_in_cut(&e[i], t->mark, t->cut) && e[i].min_t <= t->max_t && e[i].min_t + e[i].span_ms >= t->min_t;
    return n;
}

/* Under the shard's lock. False: no memory. */
static bool collect_one(const struct collect *c, uint32_t shard, uint32_t ref)
{
    struct head_list *l = c->list;
    const struct shard_data *d = l->shards[shard].data;
    const struct series_hot *hot = series_hot(d, ref);
    if (!wanted(c->filter, hot))
        return true;
    uint32_t n_chunks = count_chunks(&l->taker, d, ref);
    if (!n_chunks)
        return true;
    const uint32_t *symbols = series_labels(d, ref);
    struct label_strings *labels = ARENA_ARRAY(&l->names, struct label_strings, hot->n_labels);
    if (!labels && hot->n_labels)
        return false;
    for (uint16_t i = 0; i < hot->n_labels; i++) {
        const struct symbol *s = symbol_at(d, symbols[i]);
        labels[i] = (struct label_strings){symbol_at(d, s->name)->string, s->string};
    }
    l->items[l->n++] = (struct listed){labels, ref, n_chunks, hot->n_labels, (uint8_t)shard};
    return true;
}

static bool collect_shard(const struct collect *c, uint32_t shard, const uint32_t *refs, size_t n)
{
    struct head_list *l = c->list;
    struct list_shard *s = &l->shards[shard];
    pthread_rwlock_t *lock = &l->taker.head->shards[shard].lock;
    s->begin = l->n;
    for (size_t from = 0; from < n;) {
        size_t end = MIN(n, from + LOCK_BATCH);
        bool ok = true;
        if (!ctx_check(c->ctx, c->err))
            return false;
        pthread_rwlock_rdlock(lock);
        for (; ok && from < end; from++) {
            series_fetch_ahead(s->data, refs + from, n - from);
            ok = collect_one(c, shard, refs[from]);
        }
        pthread_rwlock_unlock(lock);
        if (!ok)
            return query_memory_error(c->ctx, c->err);
    }
    s->end = l->n;
    pthread_rwlock_rdlock(lock);
    size_t n_pages = s->data->strings.n_pages;
    s->pages = xmalloc((n_pages + 1) * sizeof(*s->pages));
    if (n_pages)
        memcpy(s->pages, s->data->strings.pages, n_pages * sizeof(*s->pages));
    pthread_rwlock_unlock(lock);
    return true;
}

/* --- query sharding: XXH64 of name FF value FF ..., Prometheus's stable hash --- */

static uint64_t stable_hash(const struct head_list *l, const struct listed *x)
{
    const struct list_shard *s = &l->shards[x->shard];
    XXH64_state_t h;
    XXH64_reset(&h, 0);
    for (uint16_t i = 0; i < x->n_labels; i++) {
        struct slice name = text_at(s, x->labels[i].name), value = text_at(s, x->labels[i].value);
        XXH64_update(&h, name.p, name.n);
        XXH64_update(&h, "\xff", 1);
        XXH64_update(&h, value.p, value.n);
        XXH64_update(&h, "\xff", 1);
    }
    return XXH64_digest(&h);
}

static void keep_query_shard(struct head_list *l, const struct series_filter *f, struct list_shard *s)
{
    size_t kept = s->begin;
    for (size_t i = s->begin; i < s->end; i++)
        if (stable_hash(l, &l->items[i]) % f->shard.count == f->shard.index)
            l->items[kept++] = l->items[i];
    s->end = l->n = kept;
}

/* --- sorting --- */

/* Of one shard: equal strings of equal names have equal numbers. */
static int by_labels(const void *a, const void *b, void *arg)
{
    const struct listed *x = a, *y = b;
    const struct list_shard *s = arg;
    uint16_t n = MIN(x->n_labels, y->n_labels);
    for (uint16_t i = 0; i < n; i++) {
        if (x->labels[i].name != y->labels[i].name)
            return slice_cmp(text_at(s, x->labels[i].name), text_at(s, y->labels[i].name));
        if (x->labels[i].value != y->labels[i].value)
            return slice_cmp(text_at(s, x->labels[i].value), text_at(s, y->labels[i].value));
    }
    return (x->n_labels > y->n_labels) - (x->n_labels < y->n_labels);
}

static int by_texts(const struct head_list *l, const struct listed *x, const struct listed *y)
{
    const struct list_shard *s = &l->shards[x->shard], *t = &l->shards[y->shard];
    uint16_t n = MIN(x->n_labels, y->n_labels);
    for (uint16_t i = 0; i < n; i++) {
        int c = slice_cmp(text_at(s, x->labels[i].name), text_at(t, y->labels[i].name));
        if (!c)
            c = slice_cmp(text_at(s, x->labels[i].value), text_at(t, y->labels[i].value));
        if (c)
            return c;
    }
    return (x->n_labels > y->n_labels) - (x->n_labels < y->n_labels);
}

/* Two runs that lie behind each other: [a, b) and [b, c). */
static void merge_runs(const struct head_list *l, struct listed *to, size_t a, size_t b, size_t c)
{
    size_t i = a, j = b;
    for (size_t at = a; at < c; at++) {
        bool left = j == c || (i < b && by_texts(l, &l->items[i], &l->items[j]) <= 0);
        to[at] = l->items[left ? i++ : j++];
    }
}

/* bounds: where the n_runs runs begin, and the end. */
static void merge_all(struct head_list *l, size_t *bounds, size_t n_runs)
{
    struct listed *other = n_runs > 1 ? xmalloc(MAX((size_t)1, l->n) * sizeof(*other)) : NULL;
    struct listed *scratch = other;
    struct listed *own = l->items;
    while (n_runs > 1) {
        size_t merged = 0;
        for (size_t i = 0; i < n_runs; i += 2) {
            size_t a = bounds[i], b = bounds[i + 1], c = i + 1 < n_runs ? bounds[i + 2] : b;
            merge_runs(l, other, a, b, c);
            bounds[merged++] = a;
        }
        bounds[merged] = l->n;
        n_runs = merged;
        struct listed *sorted = other;
        other = l->items;
        l->items = sorted;
    }
    if (l->items == scratch && scratch) {
        memcpy(own, scratch, l->n * sizeof(*own));
        l->items = own;
    }
    free(scratch);
}

static bool sort_list(struct head_list *l, struct ctx *ctx, struct err *err)
{
    size_t bounds[HEAD_MAX_SHARDS + 1];
    uint32_t n = l->taker.head->n_shards;
    for (uint32_t i = 0; i < n; i++) {
        struct list_shard *s = &l->shards[i];
        if (!ctx_check(ctx, err))
            return false;
        if (s->end > s->begin)
            qsort_r(l->items + s->begin, s->end - s->begin, sizeof(*l->items), by_labels, s);
        bounds[i] = s->begin;
    }
    bounds[n] = l->n;
    merge_all(l, bounds, n);
    return ctx_check(ctx, err);
}

/* --- the list --- */

/* The refs of all shards, and room for as many items. */
static bool resolve(struct head_list *l, struct ctx *ctx, const struct select_params *p, const uint32_t **refs,
                    size_t *n_refs)
{
    struct head *h = l->taker.head;
    size_t total = 0;
    bool ok = true;
    for (uint32_t i = 0; ok && i < h->n_shards; i++) {
        pthread_rwlock_rdlock(&h->shards[i].lock);
        l->shards[i].data = h->shards[i].data;
        shard_data_ref(l->shards[i].data);
        ok = postings_select(l->shards[i].data, p->matchers, p->n_matchers, ctx->arena, &refs[i], &n_refs[i]);
        pthread_rwlock_unlock(&h->shards[i].lock);
        total += ok ? n_refs[i] : 0;
    }
    return ok && (l->items = ARENA_ARRAY(ctx->arena, struct listed, total + 1));
}

static bool fill(struct head_list *l, struct ctx *ctx, const struct select_params *p, const struct series_filter *f,
                 struct err *err)
{
    const uint32_t *refs[HEAD_MAX_SHARDS];
    size_t n_refs[HEAD_MAX_SHARDS];
    struct collect c = {l, f, ctx, err};
    if (!resolve(l, ctx, p, refs, n_refs))
        return query_memory_error(ctx, err);
    for (uint32_t i = 0; i < l->taker.head->n_shards; i++) {
        if (!collect_shard(&c, i, refs[i], n_refs[i]))
            return false;
        if (f->shard.count)
            keep_query_shard(l, f, &l->shards[i]);
    }
    if (f->sorted && !sort_list(l, ctx, err))
        return false;
    if (p->limit)
        l->n = MIN(l->n, p->limit);
    return true;
}

struct head_list *head_list_new(struct head *h, struct ctx *ctx, const struct select_params *p, const struct series_filter *f,
                                const struct head_list_cut *cut, struct err *err)
{
    struct head_list *l = xcalloc(1, sizeof(*l) + h->n_shards * sizeof(l->shards[0]));
    chunk_taker_init(&l->taker, h, p->min_t, p->max_t);
    if (cut) {
        l->taker.mark = cut->mark;
        l->taker.cut = cut->cut;
    }
    arena_init(&l->names, ctx->arena->budget_bytes);
    l->no_chunks = p->no_chunks;
    if (fill(l, ctx, p, f, err))
        return l;
    l->n = 0;
    head_list_free(l);
    return NULL;
}

void head_list_free(struct head_list *l)
{
    if (!l)
        return;
    for (uint32_t i = 0; i < l->taker.head->n_shards; i++) {
        free(l->shards[i].pages);
        shard_data_unref(l->shards[i].data);
    }
    chunk_taker_release(&l->taker);
    arena_release(&l->names);
    free(l);
}

uint64_t head_list_samples(const struct head_list *l)
{
    return l->taker.n_samples;
}

uint64_t head_list_damaged(const struct head_list *l)
{
    return l->taker.n_damaged;
}

size_t head_list_len(const struct head_list *l)
{
    return l->n;
}

bool head_list_labels(const struct head_list *l, size_t i, struct arena *arena, struct labels *ret,
                        uint32_t *ret_chunks)
{
    ASSERT(i < l->n);
    const struct listed *x = &l->items[i];
    const struct list_shard *s = &l->shards[x->shard];
    struct label *items = ARENA_ARRAY(arena, struct label, x->n_labels);
    if (!items && x->n_labels)
        return false;
    for (uint16_t k = 0; k < x->n_labels; k++)
        items[k] = (struct label){text_at(s, x->labels[k].name), text_at(s, x->labels[k].value)};
    *ret = (struct labels){items, x->n_labels};
    *ret_chunks = x->n_chunks;
    return true;
}

void head_list_drop_labels(struct head_list *l)
{
    arena_release(&l->names);
}

/* --- chunks --- */

/* Calls take under the shard's lock for each series of the batch. */
typedef bool take_one(struct head_list *l, const struct listed *x, struct arena *arena, void *to);

static bool take_batch(struct head_list *l, size_t from, size_t n, struct arena *arena, take_one *take, void *to,
                       size_t size)
{
    bool ok = true;
    ASSERT(n <= SERIES_LIST_BATCH && from + n <= l->n);
    for (uint32_t shard = 0; ok && shard < l->taker.head->n_shards; shard++) {
        uint32_t refs[SERIES_LIST_BATCH];
        size_t own[SERIES_LIST_BATCH], n_own = 0;
        for (size_t i = 0; i < n; i++) {
            own[n_own] = i;
            refs[n_own] = l->items[from + i].ref;
            n_own += l->items[from + i].shard == shard;
        }
        if (n_own == 0)
            continue;
        pthread_rwlock_rdlock(&l->taker.head->shards[shard].lock);
        for (size_t i = 0; ok && i < n_own; i++) {
            series_fetch_ahead(l->shards[shard].data, refs + i, n_own - i);
            ok = take(l, &l->items[from + own[i]], arena, (char *)to + own[i] * size);
        }
        pthread_rwlock_unlock(&l->taker.head->shards[shard].lock);
    }
    return ok;
}

static bool take_chunks(struct head_list *l, const struct listed *x, struct arena *arena, void *to)
{
    return series_take_chunks(&l->taker, l->shards[x->shard].data, x->ref, arena, to);
}

bool head_list_chunks(struct head_list *l, size_t from, size_t n, struct arena *arena, struct series *ret)
{
    struct taken_chunks taken[SERIES_LIST_BATCH];
    memset(taken, 0, n * sizeof(*taken));
    if (!take_batch(l, from, n, arena, take_chunks, taken, sizeof(*taken)))
        return false;
    for (size_t i = 0; i < n; i++) {
        taken_fetch_ahead(&l->taker, taken + i, n - i);
        if (!series_read_full_chunks(&l->taker, &taken[i], arena))
            return false;
        ret[i] = (struct series){.chunks = taken[i].chunks, .n_chunks = taken[i].n_chunks};
    }
    return true;
}

/* The bytes of an open histogram chunk, to be decoded when the lock is gone. */
struct open_chunk {
    enum chunk_encoding encoding;
    struct slice data;
};

static bool take_open(struct head_list *l, const struct listed *x, struct arena *arena, void *to)
{
    struct open_chunk *c = to;
    int64_t min_t;
    const struct shard_data *d = l->shards[x->shard].data;
    struct slice bytes = series_open_chunk(d, x->ref, &c->encoding, &min_t);
    if (!bytes.n || c->encoding == CHUNK_XOR)
        return true;
    c->data = arena_dup(arena, bytes);
    return c->data.p != NULL;
}

bool head_list_buckets(struct head_list *l, size_t from, size_t n, struct arena *arena, uint64_t *ret)
{
    struct open_chunk open[SERIES_LIST_BATCH];
    memset(open, 0, n * sizeof(*open));
    if (!take_batch(l, from, n, arena, take_open, open, sizeof(*open)))
        return false;
    for (size_t i = 0; i < n; i++) {
        struct chunk_columns cols;
        ret[i] = 0;
        if (!open[i].data.n)
            continue;
        if (!chunk_decode(open[i].encoding, open[i].data, arena, &cols, NULL))
            return false;
        ret[i] = cols.n ? histogram_n_buckets(&cols.h[cols.n - 1]) : 0;
    }
    return true;
}

/* --- symbols --- */

static int by_text(const void *a, const void *b)
{
    return slice_cmp(*(const struct slice *)a, *(const struct slice *)b);
}

struct texts {
    struct slice *items;
    size_t n;
    size_t cap;
};

/* Strings stand every four bytes at most: a bit for each place tells which were seen. */
static void add_string(struct texts *t, uint64_t *seen, const struct list_shard *s, uint32_t string)
{
    if (seen[string / 64] >> string % 64 & 1)
        return;
    seen[string / 64] |= 1ULL << string % 64;
    if (t->n == t->cap) {
        t->cap = MAX((size_t)1024, 2 * t->cap);
        t->items = xrealloc(t->items, t->cap * sizeof(*t->items));
    }
    t->items[t->n++] = text_at(s, string);
}

static void add_strings(const struct head_list *l, uint32_t shard, struct texts *t)
{
    const struct list_shard *s = &l->shards[shard];
    pthread_rwlock_rdlock(&l->taker.head->shards[shard].lock);
    size_t places = (size_t)(s->data->strings.used / 4) + 1;
    pthread_rwlock_unlock(&l->taker.head->shards[shard].lock);
    uint64_t *seen = xcalloc(places / 64 + 1, sizeof(*seen));
    for (size_t i = 0; i < l->n; i++) {
        const struct listed *x = &l->items[i];
        for (uint16_t k = 0; x->shard == shard && k < x->n_labels; k++) {
            add_string(t, seen, s, x->labels[k].name);
            add_string(t, seen, s, x->labels[k].value);
        }
    }
    free(seen);
}

struct slice *head_list_symbols(const struct head_list *l, size_t *ret_n)
{
    struct texts t = {0};
    for (uint32_t i = 0; i < l->taker.head->n_shards; i++)
        add_strings(l, i, &t);
    if (t.n)
        qsort(t.items, t.n, sizeof(*t.items), by_text);
    size_t n = 0;
    for (size_t i = 0; i < t.n; i++)
        if (n == 0 || !slice_eq(t.items[i], t.items[n - 1]))
            t.items[n++] = t.items[i];
    *ret_n = n;
    return t.items;
}
