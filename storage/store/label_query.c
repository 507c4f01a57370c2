/*
 * Names and values: of the whole block from the index-header alone, of the series that match by reading their entries. Symbols that were seen are marked, a
 * bit each: in their order they are sorted and unique.
 */
#include <stdlib.h>

#include "base/assert.h"
#include "storage/store/select_int.h"

static bool over_memory(struct err *err)
{
    return err_set(err, ERR_MAX_QUERY_MEMORY, "the request used up its memory while reading the labels of a block");
}

/* A list in the arena that grows. */
struct list {
    struct arena *arena;
    struct slice *items;
    size_t n, cap, limit;
};

static bool list_add(struct list *l, struct slice s, struct err *err)
{
    if (l->limit && l->n == l->limit)
        return true;
    if (l->n == l->cap) {
        size_t cap = l->cap ? 2 * l->cap : 64;
        struct slice *items = ARENA_ARRAY(l->arena, struct slice, cap);
        if (!items)
            return over_memory(err);
        if (l->n)
            memcpy(items, l->items, l->n * sizeof(*items));
        l->items = items;
        l->cap = cap;
    }
    struct slice copy = arena_dup(l->arena, s);
    if (!copy.p)
        return over_memory(err);
    l->items[l->n++] = copy;
    return true;
}

static bool add_value(void *arg, const struct header_entry *e, struct err *err)
{
    return list_add(arg, e->value, err);
}

static bool list_seen(const struct index *ix, const uint64_t *seen, struct list *l, struct err *err)
{
    for (size_t w = 0; w < (size_t)ix->n_symbols / 64 + 1; w++)
        for (uint64_t bits = seen[w]; bits; bits &= bits - 1)
            if (!list_add(l, index_symbol(ix, (uint32_t)(64 * w) + (uint32_t)__builtin_ctzll(bits)), err))
                return false;
    return true;
}

static void mark(uint64_t *seen, uint32_t symbol)
{
    seen[symbol / 64] |= UINT64_C(1) << symbol % 64;
}

/* Names (name NULL), or the values of one name, of the series that match. */
static bool mark_series(struct store_select *s, struct ctx *ctx, const struct slice *name, uint64_t *seen, struct err *err)
{
    for (bool more = true; more;) {
        if (!select_next(s, ctx, &more, err))
            return false;
        for (size_t i = 0; more && i < s->series.n_labels; i++)
            if (!name || slice_eq(s->series.labels[i].name, *name))
                mark(seen, s->series.symbols[2 * i + (name != NULL)]);
    }
    return true;
}

static bool of_matching(struct store_block *b, struct ctx *ctx, const struct select_params *p, const struct slice *name, struct list *l,
                        struct store_stats *stats, struct err *err)
{
    if (name && !header_find_name(&b->header, *name))
        return true;
    struct store_select *s = store_select_new(b, ctx, p, err);
    if (!s)
        return false;
    uint64_t *seen = calloc((size_t)b->header.index.n_symbols / 64 + 1, sizeof(*seen));
    ASSERT(seen);
    bool good = mark_series(s, ctx, name, seen, err) && list_seen(&b->header.index, seen, l, err);
    if (stats)
        store_stats_add(stats, store_select_stats(s));
    free(seen);
    store_select_free(s);
    return good;
}

bool store_block_label_names(struct store_block *b, struct ctx *ctx, const struct select_params *p, const struct slice **ret, size_t *ret_n,
                             struct store_stats *ret_stats, struct err *err)
{
    struct list l = {.arena = ctx->arena, .limit = p->limit};
    bool good = !p->n_matchers || of_matching(b, ctx, p, NULL, &l, ret_stats, err);
    for (size_t i = 0; good && !p->n_matchers && i < b->header.n_names; i++)
        good = list_add(&l, b->header.names[i].name, err);
    if (!good)
        return false;
    *ret = l.items;
    *ret_n = l.n;
    return true;
}

bool store_block_label_values(struct store_block *b, struct ctx *ctx, struct slice name, const struct select_params *p, const struct slice **ret,
                              size_t *ret_n, struct store_stats *ret_stats, struct err *err)
{
    struct list l = {.arena = ctx->arena, .limit = p->limit};
    const struct header_name *found = header_find_name(&b->header, name);
    if (p->n_matchers ? !of_matching(b, ctx, p, &name, &l, ret_stats, err) : found && !header_each_value(&b->header, found, add_value, &l, err))
        return false;
    *ret = l.items;
    *ret_n = l.n;
    return true;
}
