#include "ingest/block_cursors_int.h"

#include <stdlib.h>

#include "base/assert.h"
#include "ingest/region_int.h"

void block_cursors_init(struct block_cursors *bc, struct local_block_refs refs, const struct ctx *ctx,
                        const struct select_params *p)
{
    *bc = (struct block_cursors){
        .refs = refs, .params = *p, .tenant = ctx->tenant, .budget_bytes = ctx->arena->budget_bytes};
    bc->items = xcalloc(MAX((size_t)1, refs.n), sizeof(*bc->items));
    for (size_t i = 0; i < refs.n; i++)
        bc->items[i].block = refs.blocks[i];
}

void block_cursors_release(struct block_cursors *bc)
{
    block_cursors_close(bc);
    local_block_refs_release(&bc->refs);
    free(bc->items);
}

static void cursor_close(struct block_cursor *c)
{
    if (!c->open)
        return;
    series_set_release(c->set);
    arena_release(&c->select);
    arena_release(&c->batch);
    c->open = false;
}

void block_cursors_close(struct block_cursors *bc)
{
    for (size_t i = 0; bc->items && i < bc->refs.n; i++)
        cursor_close(&bc->items[i]);
}

static struct ctx cursor_ctx(const struct block_cursors *bc, const struct ctx *ctx, struct arena *arena)
{
    struct ctx own = ctx ? *ctx : (struct ctx){.tenant = bc->tenant};
    own.arena = arena;
    return own;
}

static bool block_failed(struct block_cursor *c, struct err *err, const struct err *why)
{
    local_block_failed(c->block, why);
    if (err)
        *err = *why;
    return false;
}

static bool cursor_open(struct block_cursors *bc, struct block_cursor *c, const struct ctx *ctx, bool no_chunks,
                        struct err *err)
{
    struct select_params p = bc->params;
    struct err why = ERR_NONE;
    p.no_chunks = no_chunks;
    p.limit = 0;
    arena_init(&c->select, bc->budget_bytes);
    arena_init(&c->batch, bc->budget_bytes);
    c->n = c->at = 0;
    c->open = true;
    struct ctx own = cursor_ctx(bc, ctx, &c->select);
    c->set = block_select(local_block_reader(c->block), &own, &p, &why);
    return c->set || block_failed(c, err, &why);
}

bool block_cursors_open(struct block_cursors *bc, const struct ctx *ctx, bool no_chunks, struct err *err)
{
    block_cursors_close(bc);
    for (size_t i = 0; i < bc->refs.n; i++)
        if (!cursor_open(bc, &bc->items[i], ctx, no_chunks, err))
            return false;
    return true;
}

bool block_cursor_fill(struct block_cursors *bc, struct block_cursor *c, const struct ctx *ctx, struct err *err)
{
    struct err why = ERR_NONE;
    if (c->at < c->n)
        return true;
    arena_clear(&c->batch);
    c->at = 0;
    struct ctx own = cursor_ctx(bc, ctx, &c->batch);
    return series_set_next(c->set, &own, c->series, BLOCK_CURSOR_BATCH, &c->n, &why) || block_failed(c, err, &why);
}

bool block_cursors_fill(struct block_cursors *bc, const struct ctx *ctx, struct err *err)
{
    for (size_t i = 0; i < bc->refs.n; i++)
        if (!block_cursor_fill(bc, &bc->items[i], ctx, err))
            return false;
    return true;
}

bool block_cursors_least(struct block_cursors *bc, struct labels *ret)
{
    size_t first = SIZE_MAX; /* of those that are the least so far */
    for (size_t i = 0; i < bc->refs.n; i++) {
        struct block_cursor *c = &bc->items[i];
        c->least = false;
        if (c->at == c->n)
            continue;
        int order = first == SIZE_MAX ? -1 : labels_cmp(c->series[c->at].labels, *ret);
        if (order > 0)
            continue;
        for (size_t k = first; order < 0 && k < i; k++)
            bc->items[k].least = false;
        if (order < 0) {
            *ret = c->series[c->at].labels;
            first = i;
        }
        c->least = true;
    }
    return first != SIZE_MAX;
}

void chunks_sort_by_min_t(struct series_chunk *chunks, size_t n)
{
    for (size_t i = 1; i < n; i++) {
        struct series_chunk c = chunks[i];
        size_t at = i;
        for (; at > 0 && chunks[at - 1].min_t > c.min_t; at--)
            chunks[at] = chunks[at - 1];
        chunks[at] = c;
    }
}
