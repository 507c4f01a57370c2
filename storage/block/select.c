/*
 * Reading a block: all its series one after the other (block_scan), those that matchers ask for (block_select), names and values.
 *
 * The times of meta.json are not looked at: which blocks a query needs is the caller's to say, and what a block has is what its index says.
 */
#include <stdlib.h>
#include <string.h>

#include "base/assert.h"
#include "storage/block/block_int.h"
#include "storage/block/bytes.h"

#define CHECK_EVERY 256 /* series between two looks at the deadline: some 100 us */

static bool over_memory(struct err *err)
{
    return err_set(err, ERR_MAX_QUERY_MEMORY, "the request used up its memory while reading a block");
}

static bool overlaps(const struct index_chunk *c, const struct select_params *p)
{
    return c->min_t <= p->max_t && c->max_t >= p->min_t;
}

/* --- all series --- */

struct block_scan {
    const struct block *b;
    const uint8_t *refs; /* of the list of all series, which was checked */
    size_t n, at;
    struct index_series series;
    struct series_chunk *chunks; /* owned, cap_chunks */
    size_t cap_chunks;
};

struct block_scan *block_scan_new(const struct block *b, struct err *err)
{
    struct arena scratch;
    struct postings all;
    arena_init(&scratch, 0);
    /* Checks the list; the scan reads it where it lies, so that it needs no memory of its own. */
    bool good = index_postings_read(&b->index, b->index.all_postings, &scratch, &all, err);
    size_t n = good ? all.n : 0;
    arena_release(&scratch);
    if (!good)
        return NULL;
    struct block_scan *s = calloc(1, sizeof(*s));
    if (!s) {
        err_set(err, ERR_NO_MEMORY, "no memory to read a block");
        return NULL;
    }
    s->b = b;
    s->refs = b->index.p + b->index.all_postings + 8;
    s->n = n;
    return s;
}

static bool scan_chunks(struct block_scan *s, struct err *err)
{
    if (s->series.n_chunks > s->cap_chunks) {
        struct series_chunk *chunks = realloc(s->chunks, s->series.n_chunks * sizeof(*chunks));
        if (!chunks)
            return err_set(err, ERR_NO_MEMORY, "no memory to read a block");
        s->chunks = chunks;
        s->cap_chunks = s->series.n_chunks;
    }
    for (size_t i = 0; i < s->series.n_chunks; i++)
        if (!block_read_chunk(s->b, &s->series.chunks[i], &s->chunks[i], err))
            return false;
    return true;
}

bool block_scan_next(struct block_scan *s, struct series *ret, bool *ret_more, struct err *err)
{
    *ret_more = s->at < s->n;
    if (!*ret_more)
        return true;
    if (!block_read_series(s->b, get_be32(s->refs + 4 * s->at), &s->series, err) || !scan_chunks(s, err))
        return false;
    s->at++;
    *ret = (struct series){{s->series.labels, s->series.n_labels}, s->chunks, s->series.n_chunks};
    return true;
}

bool block_scan_next_labels(struct block_scan *s, struct labels *ret, const uint32_t **ret_symbols, bool *ret_more, struct err *err)
{
    *ret_more = s->at < s->n;
    if (!*ret_more)
        return true;
    if (!block_read_series(s->b, get_be32(s->refs + 4 * s->at), &s->series, err))
        return false;
    s->at++;
    *ret = (struct labels){s->series.labels, s->series.n_labels};
    *ret_symbols = s->series.symbols;
    return true;
}

void block_scan_free(struct block_scan *s)
{
    if (!s)
        return;
    index_series_release(&s->series);
    free(s->chunks);
    free(s);
}

/* --- select --- */

static bool find_series(struct block *b, struct ctx *ctx, const struct select_params *p, struct postings *ret, struct err *err)
{
    struct arena scratch;
    arena_init(&scratch, ctx->arena->budget_bytes);
    bool good = index_postings_match(&b->index, p->matchers, p->n_matchers, &scratch, ctx->arena, ret, err);
    arena_release(&scratch);
    return good;
}

struct block_set {
    struct series_set base;
    struct block *b;
    struct select_params params;
    struct postings postings; /* in the query's arena */
    size_t at;
    size_t given;
    struct index_series series;
};

static bool give_labels(struct block_set *s, struct ctx *ctx, struct series *ret, struct err *err)
{
    size_t n = s->series.n_labels;
    struct label *labels = ARENA_ARRAY(ctx->arena, struct label, n + 1);
    if (!labels)
        return over_memory(err);
    if (n)
        memcpy(labels, s->series.labels, n * sizeof(*labels));
    *ret = (struct series){.labels = {labels, n}};
    return true;
}

static bool give_chunks(struct block_set *s, struct ctx *ctx, size_t n, struct series *ret, struct err *err)
{
    struct series_chunk *chunks = ARENA_ARRAY(ctx->arena, struct series_chunk, n + 1);
    if (!chunks)
        return over_memory(err);
    for (size_t i = 0; i < s->series.n_chunks; i++) {
        const struct index_chunk *c = &s->series.chunks[i];
        if (overlaps(c, &s->params) && !block_read_chunk(s->b, c, &chunks[ret->n_chunks++], err))
            return false;
    }
    ret->chunks = chunks;
    return true;
}

/* *ret_n 0 when the series has nothing in the time asked for. */
static bool give_series(struct block_set *s, struct ctx *ctx, struct series *ret, size_t *ret_n, struct err *err)
{
    size_t n = 0;
    *ret_n = 0;
    if (!block_read_series(s->b, s->postings.refs[s->at], &s->series, err))
        return false;
    for (size_t i = 0; i < s->series.n_chunks; i++)
        n += overlaps(&s->series.chunks[i], &s->params);
    if (n == 0)
        return true;
    *ret_n = 1;
    return give_labels(s, ctx, ret, err) && (s->params.no_chunks || give_chunks(s, ctx, n, ret, err));
}

static bool block_set_next(struct series_set *base, struct ctx *ctx, struct series *ret, size_t max, size_t *ret_n, struct err *err)
{
    struct block_set *s = CONTAINER_OF(base, struct block_set, base);
    if (s->params.limit)
        max = MIN(max, s->params.limit - s->given);
    *ret_n = 0;
    for (; *ret_n < max && s->at < s->postings.n; s->at++) {
        size_t given;
        if (s->at % CHECK_EVERY == 0 && !ctx_check(ctx, err))
            return false;
        if (!give_series(s, ctx, &ret[*ret_n], &given, err))
            return false;
        *ret_n += given;
        s->given += given;
    }
    return true;
}

static void block_set_release(struct series_set *base)
{
    struct block_set *s = CONTAINER_OF(base, struct block_set, base);
    index_series_release(&s->series);
    free(s);
}

static const struct series_set_ops block_set_ops = {block_set_next, block_set_release};

struct series_set *block_select(struct block *b, struct ctx *ctx, const struct select_params *p, struct err *err)
{
    struct block_set *s = calloc(1, sizeof(*s));
    if (!s) {
        err_set(err, ERR_NO_MEMORY, "no memory to read a block");
        return NULL;
    }
    s->base.ops = &block_set_ops;
    s->b = b;
    s->params = *p;
    if (find_series(b, ctx, p, &s->postings, err))
        return &s->base;
    free(s);
    return NULL;
}

/* --- names and values --- */

/* Symbols that were seen, a bit each: in their order they are sorted and unique. */
static bool list_seen(const struct index *ix, const uint64_t *seen, struct ctx *ctx, const struct slice **ret, size_t *ret_n, struct err *err)
{
    size_t words = (size_t)ix->n_symbols / 64 + 1, n = 0, at = 0;
    for (size_t w = 0; w < words; w++)
        n += (size_t)__builtin_popcountll(seen[w]);
    struct slice *list = ARENA_ARRAY(ctx->arena, struct slice, n + 1);
    if (!list)
        return over_memory(err);
    for (size_t w = 0; w < words; w++)
        for (uint64_t bits = seen[w]; bits; bits &= bits - 1)
            list[at++] = index_symbol(ix, (uint32_t)(64 * w) + (uint32_t)__builtin_ctzll(bits));
    *ret = list;
    *ret_n = n;
    return true;
}

static void mark(uint64_t *seen, uint32_t symbol)
{
    seen[symbol / 64] |= UINT64_C(1) << symbol % 64;
}

/* Names (name NULL), or the values of one name, of the series that match. */
static bool mark_series(struct block *b, struct ctx *ctx, const struct select_params *p, const struct slice *name, uint64_t *seen, struct err *err)
{
    struct postings found;
    struct index_series series = {0};
    if (!find_series(b, ctx, p, &found, err))
        return false;
    bool good = true;
    for (size_t i = 0; good && i < found.n; i++) {
        good = (i % CHECK_EVERY || ctx_check(ctx, err)) && block_read_series(b, found.refs[i], &series, err);
        for (size_t k = 0; good && k < series.n_labels; k++)
            if (!name || slice_eq(series.labels[k].name, *name))
                mark(seen, series.symbols[2 * k + (name != NULL)]);
    }
    index_series_release(&series);
    return good;
}

static bool of_matching(struct block *b, struct ctx *ctx, const struct select_params *p, const struct slice *name, const struct slice **ret,
                        size_t *ret_n, struct err *err)
{
    uint64_t *seen = calloc((size_t)b->index.n_symbols / 64 + 1, sizeof(*seen));
    if (!seen)
        return err_set(err, ERR_NO_MEMORY, "no memory to read a block");
    bool good = mark_series(b, ctx, p, name, seen, err) && list_seen(&b->index, seen, ctx, ret, ret_n, err);
    free(seen);
    return good;
}

static bool cut_to_limit(const struct select_params *p, size_t *ret_n)
{
    if (p->limit && *ret_n > p->limit)
        *ret_n = p->limit;
    return true;
}

bool block_label_names(struct block *b, struct ctx *ctx, const struct select_params *p, const struct slice **ret, size_t *ret_n, struct err *err)
{
    if (p->n_matchers)
        return of_matching(b, ctx, p, NULL, ret, ret_n, err) && cut_to_limit(p, ret_n);
    struct slice *list = ARENA_ARRAY(ctx->arena, struct slice, b->index.n_names + 1);
    if (!list)
        return over_memory(err);
    for (size_t i = 0; i < b->index.n_names; i++)
        list[i] = b->index.names[i].name;
    *ret = list;
    *ret_n = b->index.n_names;
    return cut_to_limit(p, ret_n);
}

bool block_label_values(struct block *b, struct ctx *ctx, struct slice name, const struct select_params *p, const struct slice **ret, size_t *ret_n,
                        struct err *err)
{
    if (p->n_matchers)
        return of_matching(b, ctx, p, &name, ret, ret_n, err) && cut_to_limit(p, ret_n);
    const struct index_name *found = index_find_name(&b->index, name);
    uint32_t n = found ? found->n : 0;
    struct slice *list = ARENA_ARRAY(ctx->arena, struct slice, (size_t)n + 1);
    if (!list)
        return over_memory(err);
    for (uint32_t i = 0; i < n; i++) {
        uint64_t offset;
        list[i] = index_entry_value(&b->index, found->first + i, &offset);
    }
    *ret = list;
    *ret_n = n;
    return cut_to_limit(p, ret_n);
}
