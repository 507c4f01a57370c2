/* Label names, label values and exemplars of a head. */
#include <endian.h>
#include <stdlib.h>
#include <string.h>
#include <xxhash.h>

#include "base/assert.h"
#include "ingest/ingest_metrics_int.h"
#include "ingest/query_int.h"

/*
 * Texts collected from several shards, each once: they point into the data of the shards, which is held until they are copied. Most shards have the
 * values of a name that most series have, so doubles are found as they come, by hash, and only what is left is sorted: by the first eight bytes, which
 * lie beside the pointer, and by the rest where those are equal.
 */
struct text {
    uint64_t begins; /* the first eight bytes, big-endian, zeros behind the end */
    struct slice s;
};

struct texts {
    struct text *items;
    size_t n;
    size_t cap;
    uint32_t *table; /* index + 1, 0 = free; by XXH3 */
    size_t table_size; /* a power of two, more than twice n */
};

static uint64_t text_begins(struct slice s)
{
    uint8_t first[8] = {0};
    memcpy(first, s.p, MIN(s.n, sizeof(first)));
    uint64_t v;
    memcpy(&v, first, sizeof(v));
    return be64toh(v);
}

/* The slot of s: its own or a free one. */
static uint32_t *texts_slot(const struct texts *t, struct slice s)
{
    size_t i = (size_t)XXH3_64bits(s.p, s.n) & (t->table_size - 1);
    while (t->table[i] && !slice_eq(t->items[t->table[i] - 1].s, s))
        i = (i + 1) & (t->table_size - 1);
    return &t->table[i];
}

static void texts_grow(struct texts *t)
{
    t->cap = MAX((size_t)64, t->cap * 2);
    t->items = xrealloc(t->items, t->cap * sizeof(*t->items));
    free(t->table);
    t->table_size = t->cap * 4;
    t->table = xcalloc(t->table_size, sizeof(*t->table));
    for (size_t i = 0; i < t->n; i++)
        *texts_slot(t, t->items[i].s) = (uint32_t)i + 1;
}

static void texts_add(struct texts *t, struct slice s)
{
    if (t->n == t->cap)
        texts_grow(t);
    uint32_t *slot = texts_slot(t, s);
    if (*slot)
        return;
    t->items[t->n++] = (struct text){text_begins(s), s};
    *slot = (uint32_t)t->n;
}

static int by_text(const void *a, const void *b)
{
    const struct text *x = a, *y = b;
    if (x->begins != y->begins)
        return x->begins < y->begins ? -1 : 1;
    return slice_cmp(x->s, y->s);
}

/* Sorts, copies at most limit to the arena, as one block. */
static bool texts_finish(struct texts *t, size_t limit, struct arena *arena, const struct slice **ret, size_t *ret_n)
{
    size_t bytes = 0, n = limit ? MIN(t->n, limit) : t->n;
    if (t->n)
        qsort(t->items, t->n, sizeof(*t->items), by_text);
    for (size_t i = 0; i < n; i++)
        bytes += t->items[i].s.n;
    struct slice *out = ARENA_ARRAY(arena, struct slice, n + 1);
    char *copy = out ? arena_alloc(arena, bytes + 1) : NULL;
    if (!copy)
        return false;
    for (size_t i = 0; i < n; i++) {
        struct slice s = t->items[i].s;
        memcpy(copy, s.p, s.n);
        out[i] = slice_make(copy, s.n);
        copy += s.n;
    }
    *ret = out;
    *ret_n = n;
    return true;
}

/* What one shard is asked for: names (value_of == NULL), or the values of a name. */
struct ask {
    const struct slice *value_of;
    const struct select_params *p;
    struct arena *arena;
};

static void add_list(const struct shard_data *d, const uint32_t *symbols, uint32_t n, struct texts *out)
{
    for (uint32_t i = 0; i < n; i++)
        texts_add(out, symbol_text(d, symbols[i]));
}

/* Without matchers: every name or value there is, as Prometheus's head answers. */
static void ask_all(const struct shard_data *d, const struct ask *a, struct texts *out)
{
    if (a->value_of) {
        uint32_t name = symbol_find(d, SYMBOL_IS_NAME, *a->value_of);
        if (name != SYMBOL_NONE)
            add_list(d, symbol_list(d, symbol_at(d, name)), symbol_at(d, name)->n, out);
        return;
    }
    for (uint32_t i = 0; i < d->n_symbols; i++)
        if (symbol_at(d, i)->name == SYMBOL_IS_NAME && symbol_at(d, i)->n > 0)
            texts_add(out, symbol_text(d, i));
}

static bool ask_matching(const struct shard_data *d, const struct ask *a, struct texts *out)
{
    const uint32_t *refs;
    size_t n;
    if (!postings_select(d, a->p->matchers, a->p->n_matchers, a->arena, &refs, &n))
        return false;
    uint32_t name = a->value_of ? symbol_find(d, SYMBOL_IS_NAME, *a->value_of) : SYMBOL_NONE;
    if (a->value_of && name == SYMBOL_NONE)
        return true;
    uint8_t *seen = xcalloc(d->n_symbols, 1);
    for (size_t i = 0; i < n; i++) {
        if (!series_overlaps(d, refs[i], a->p->min_t, a->p->max_t))
            continue;
        const uint32_t *labels = series_labels(d, refs[i]);
        for (uint16_t k = 0; k < series_hot(d, refs[i])->n_labels; k++) {
            uint32_t own_name = symbol_at(d, labels[k])->name;
            uint32_t symbol = a->value_of ? labels[k] : own_name;
            if ((a->value_of && own_name != name) || seen[symbol])
                continue;
            seen[symbol] = 1;
            texts_add(out, symbol_text(d, symbol));
        }
    }
    free(seen);
    return true;
}

static bool head_ask(struct head *h, struct ctx *ctx, const struct ask *a, const struct slice **ret, size_t *ret_n,
                     struct err *err)
{
    struct shard_data *held[HEAD_MAX_SHARDS];
    struct texts texts = {0};
    uint32_t n_held = 0;
    bool ok = true;
    bool in_range = atomic_load(&h->max_t) >= a->p->min_t && atomic_load(&h->min_t) <= a->p->max_t;
    for (uint32_t i = 0; ok && in_range && i < h->n_shards; i++) {
        struct shard *s = &h->shards[i];
        pthread_rwlock_rdlock(&s->lock);
        held[n_held++] = s->data;
        shard_data_ref(s->data);
        if (a->p->n_matchers)
            ok = ask_matching(s->data, a, &texts);
        else
            ask_all(s->data, a, &texts);
        pthread_rwlock_unlock(&s->lock);
    }
    ok = ok && texts_finish(&texts, a->p->limit, ctx->arena, ret, ret_n);
    for (uint32_t i = 0; i < n_held; i++)
        shard_data_unref(held[i]);
    free(texts.items);
    free(texts.table);
    return ok || query_memory_error(ctx, err);
}

bool head_label_names(struct head *h, struct ctx *ctx, const struct select_params *p, const struct slice **ret,
                      size_t *ret_n, struct err *err)
{
    struct ask a = {.p = p, .arena = ctx->arena};
    return head_ask(h, ctx, &a, ret, ret_n, err);
}

bool head_label_values(struct head *h, struct ctx *ctx, struct slice name, const struct select_params *p,
                       const struct slice **ret, size_t *ret_n, struct err *err)
{
    struct ask a = {.value_of = &name, .p = p, .arena = ctx->arena};
    return head_ask(h, ctx, &a, ret, ret_n, err);
}

/* --- exemplars --- */

/* A series' exemplars, copied out under the exemplars' lock; labels are looked up afterwards, because the shard's lock
 * ranks above it. */
struct found {
    struct found *next;
    struct series_hash series;
    struct exemplar *exemplars;
    size_t n;
};

struct find {
    struct arena *arena;
    struct found *list;
    size_t n;
};

static bool copy_exemplars(void *arg, struct series_hash series, const struct exemplar_view *views, size_t n)
{
    struct find *f = arg;
    struct found *x = ARENA_NEW(f->arena, struct found);
    if (!x || !(x->exemplars = ARENA_ARRAY(f->arena, struct exemplar, n)))
        return false;
    for (size_t i = 0; i < n; i++) {
        struct slice span = arena_dup(f->arena, views[i].labels);
        if (!span.p)
            return false;
        /* What is no list of labels has none: it passed the distributor of somebody else. */
        if (!labels_from_span(span, f->arena, &x->exemplars[i].labels))
            x->exemplars[i].labels = (struct labels){NULL, 0};
        x->exemplars[i].t = views[i].t;
        x->exemplars[i].v = views[i].v;
    }
    x->series = series;
    x->n = n;
    x->next = f->list;
    f->list = x;
    f->n++;
    return true;
}

/* The labels of a series that matches, copied; false: the arena is full. *ret_n labels == 0 and items == NULL: it does
 * not match or is gone. */
static bool labels_if_matching(struct head *h, struct series_hash series, const struct select_params *p,
                               struct arena *arena, bool *ret_match, struct labels *ret)
{
    struct shard *s = &h->shards[head_shard_of(h, series)];
    bool ok = true;
    *ret_match = false;
    pthread_rwlock_rdlock(&s->lock);
    uint32_t ref = series_find(s->data, series);
    struct labels l;
    if (ref != SERIES_NONE && (ok = series_materialise_labels(s->data, ref, arena, &l)) &&
        matchers_match(p->matchers, p->n_matchers, l)) {
        *ret = labels_dup(arena, l);
        *ret_match = true;
    }
    pthread_rwlock_unlock(&s->lock);
    return ok && !arena->overflow;
}

static int by_labels(const void *a, const void *b)
{
    return labels_cmp(((const struct exemplar_series *)a)->labels, ((const struct exemplar_series *)b)->labels);
}

bool head_exemplars(struct head *h, struct ctx *ctx, const struct select_params *p, const struct exemplar_series **ret,
                    size_t *ret_n, struct err *err)
{
    struct find f = {.arena = ctx->arena};
    if (!exemplars_each(&h->exemplars, p->min_t, p->max_t, copy_exemplars, &f))
        return query_memory_error(ctx, err);
    struct exemplar_series *out = ARENA_ARRAY(ctx->arena, struct exemplar_series, f.n + 1);
    if (!out)
        return query_memory_error(ctx, err);
    size_t n = 0;
    size_t n_exemplars = 0;
    for (const struct found *x = f.list; x; x = x->next) {
        bool match;
        struct labels labels;
        if (!labels_if_matching(h, x->series, p, ctx->arena, &match, &labels))
            return query_memory_error(ctx, err);
        if (!match)
            continue;
        out[n++] = (struct exemplar_series){labels, x->exemplars, x->n};
        n_exemplars += x->n;
    }
    qsort(out, n, sizeof(*out), by_labels);
    metric_observe(metric_single(ingest_metrics[INGESTER_QUERIED_EXEMPLARS]), (double)n_exemplars);
    *ret = out;
    *ret_n = n;
    return true;
}
