/* How many series have each value of a label: out of the postings, whose lengths are the answer when nothing narrows
 * it. */
#include <stdlib.h>
#include <string.h>

#include "base/assert.h"
#include "ingest/ingest_metrics_int.h"
#include "ingest/ingester_int.h"
#include "ingest/query_int.h"
#include "ingest/series_list.h"

struct counts {
    struct value_count *items; /* values point into the shards' data, which is held */
    size_t n;
    size_t cap;
};

static void counts_add(struct counts *c, struct slice value, uint64_t series)
{
    if (c->n == c->cap) {
        c->cap = MAX((size_t)64, c->cap * 2);
        c->items = xrealloc(c->items, c->cap * sizeof(*c->items));
    }
    c->items[c->n++] = (struct value_count){value, series};
}

struct ask {
    struct slice name;
    const struct matcher *matchers;
    size_t n_matchers;
    uint32_t active_since_s;
    struct arena *arena;
};

/* A bit for each of the shard's series that counts. *ret NULL: all of them do. False: no memory. */
static bool counted_series(const struct shard_data *d, const struct ask *a, uint8_t **ret)
{
    *ret = NULL;
    if (!a->n_matchers && !a->active_since_s)
        return true;
    const uint32_t *refs;
    size_t n;
    if (!postings_select(d, a->matchers, a->n_matchers, a->arena, &refs, &n))
        return false;
    *ret = xcalloc((size_t)d->n_series / 8 + 1, 1);
    for (size_t i = 0; i < n; i++)
        if (series_hot(d, refs[i])->active_s >= a->active_since_s)
            (*ret)[refs[i] / 8] |= (uint8_t)(1u << refs[i] % 8);
    return true;
}

static uint64_t count_postings(const struct shard_data *d, const struct symbol *s, const uint8_t *counted)
{
    if (!counted)
        return s->n;
    const uint32_t *refs = symbol_list(d, s);
    uint64_t n = 0;
    for (uint32_t i = 0; i < s->n; i++)
        n += counted[refs[i] / 8] >> refs[i] % 8 & 1;
    return n;
}

/* Under the shard's lock. */
static bool count_shard(const struct shard_data *d, const struct ask *a, struct counts *out)
{
    uint32_t name = symbol_find(d, SYMBOL_IS_NAME, a->name);
    uint8_t *counted;
    if (name == SYMBOL_NONE)
        return true;
    if (!counted_series(d, a, &counted))
        return false;
    const struct symbol *s = symbol_at(d, name);
    const uint32_t *values = symbol_list(d, s);
    for (uint32_t i = 0; i < s->n; i++) {
        uint64_t series = count_postings(d, symbol_at(d, values[i]), counted);
        if (series)
            counts_add(out, symbol_text(d, values[i]), series);
    }
    free(counted);
    return true;
}

static int by_value(const void *a, const void *b)
{
    return slice_cmp(((const struct value_count *)a)->value, ((const struct value_count *)b)->value);
}

/* Sorted, each value once, in the arena. */
static bool finish(struct counts *c, struct arena *arena, const struct value_count **ret, size_t *ret_n)
{
    size_t n = 0;
    if (c->n)
        qsort(c->items, c->n, sizeof(*c->items), by_value);
    for (size_t i = 0; i < c->n; i++) {
        if (n && slice_eq(c->items[n - 1].value, c->items[i].value))
            c->items[n - 1].series += c->items[i].series;
        else
            c->items[n++] = c->items[i];
    }
    struct value_count *out = ARENA_ARRAY(arena, struct value_count, n + 1);
    for (size_t i = 0; out && i < n; i++)
        out[i] = (struct value_count){arena_dup(arena, c->items[i].value), c->items[i].series};
    *ret = out;
    *ret_n = n;
    return out && !arena->overflow;
}

bool ingester_count_values(struct ingester *ing, struct ctx *ctx, struct slice name, const struct matcher *matchers,
                           size_t n_matchers, uint32_t active_since_s, const struct value_count **ret, size_t *ret_n,
                           struct err *err)
{
    struct ask a = {name, matchers, n_matchers, active_since_s, ctx->arena};
    struct head *h = tenants_find(&ing->tenants, ctx->tenant);
    struct shard_data *held[HEAD_MAX_SHARDS];
    struct counts counts = {0};
    uint32_t n_held = 0;
    bool ok = true;
    *ret = NULL;
    *ret_n = 0;
    for (uint32_t i = 0; ok && h && i < h->n_shards; i++) {
        struct shard *s = &h->shards[i];
        pthread_rwlock_rdlock(&s->lock);
        held[n_held++] = s->data;
        shard_data_ref(s->data);
        ok = count_shard(s->data, &a, &counts);
        pthread_rwlock_unlock(&s->lock);
    }
    ok = ok && finish(&counts, ctx->arena, ret, ret_n);
    for (uint32_t i = 0; i < n_held; i++)
        shard_data_unref(held[i]);
    free(counts.items);
    return ok || query_memory_error(ctx, err);
}
