/*
 * The union of a head and local blocks, in no particular order: first what blocks have, a batch at a time and merged by
 * labels (block_cursors.c), each with what the head has of it, then what only the head has.
 *
 * A series of a block is found in the head as an append finds it, by the hash of its labels: nothing of the head is
 * sorted or compared, and an entry of a block's index is read once. A batch ends where that of a block ends, so that
 * labels and chunks can be used where they lie until it is given; what is given lies in the caller's arena.
 */
#include "ingest/union_int.h"

#include <stdlib.h>
#include <string.h>

#include "base/buf.h"
#include "ingest/block_cursors_int.h"
#include "ingest/ingest_metrics_int.h"
#include "ingest/query_int.h"

struct union_set {
    struct series_set base;
    struct series_set *head; /* NULL: there is none */
    struct block_cursors blocks;
    const struct label_names *labels; /* NULL: all are needed */
    struct series_hasher hasher;
    struct buf canonical;
    bool blocks_done;
    size_t left;       /* of the limit */
    uint64_t n_series; /* of blocks */
};

/* --- a batch of series of blocks --- */

/* Moves the cursors that stand at the least labels on; s gets the chunks that they have. False: the arena is full. */
static bool take_least(struct union_set *u, struct arena *mem, struct series *s)
{
    const struct series *first = NULL;
    size_t n_have = 0;
    s->n_chunks = 0;
    for (size_t i = 0; i < u->blocks.refs.n; i++) {
        const struct block_cursor *c = &u->blocks.items[i];
        if (!c->least)
            continue;
        first = first ? first : &c->series[c->at];
        s->n_chunks += c->series[c->at].n_chunks;
        n_have++;
    }
    struct series_chunk *all = n_have > 1 ? ARENA_ARRAY(mem, struct series_chunk, s->n_chunks + 1) : NULL;
    if (n_have > 1 && !all)
        return false;
    s->chunks = all ? all : first->chunks;
    for (size_t i = 0; i < u->blocks.refs.n; i++) {
        struct block_cursor *c = &u->blocks.items[i];
        if (!c->least)
            continue;
        const struct series *own = &c->series[c->at++];
        if (all && own->n_chunks) {
            memcpy(all, own->chunks, own->n_chunks * sizeof(*all));
            all += own->n_chunks;
        }
    }
    return true;
}

static bool any_used_up(const struct union_set *u)
{
    for (size_t i = 0; i < u->blocks.refs.n; i++)
        if (u->blocks.items[i].n && u->blocks.items[i].at == u->blocks.items[i].n)
            return true;
    return false;
}

/* Their labels and, unless one block alone has the series, lists of chunks are not yet copied. */
static bool gather(struct union_set *u, struct ctx *ctx, struct arena *mem, struct series *ret, size_t max,
                   size_t *ret_n, struct err *err)
{
    *ret_n = 0;
    if (!block_cursors_fill(&u->blocks, ctx, err))
        return false;
    while (*ret_n < max && !any_used_up(u) && block_cursors_least(&u->blocks, &ret[*ret_n].labels))
        if (!take_least(u, mem, &ret[(*ret_n)++]))
            return query_memory_error(ctx, err);
    return true;
}

static bool hash_all(struct union_set *u, const struct series *series, size_t n, struct series_hash *ret)
{
    for (size_t i = 0; i < n; i++) {
        buf_clear(&u->canonical);
        labels_put_canonical(series[i].labels, &u->canonical);
        if (u->canonical.failed)
            return false;
        ret[i] = series_hasher_hash(&u->hasher, buf_slice(&u->canonical));
    }
    return true;
}

static bool label_wanted(const struct label_names *names, struct slice name)
{
    if (!names || slice_eq(name, SL(METRIC_NAME_LABEL)))
        return true;
    for (size_t i = 0; i < names->n; i++)
        if (slice_eq(name, names->names[i]))
            return true;
    return false;
}

static bool copy_labels(const struct union_set *u, struct arena *mem, struct labels *labels)
{
    struct label *copy = ARENA_ARRAY(mem, struct label, labels->n + 1);
    size_t n = 0;
    for (size_t i = 0; copy && i < labels->n; i++)
        if (label_wanted(u->labels, labels->items[i].name))
            copy[n++] = labels->items[i];
    *labels = (struct labels){copy, n};
    return copy != NULL;
}

/* Blocks are older than what the head has, so that there is little to sort. */
static bool copy_chunks(struct arena *mem, struct series *s, const struct series *of_head)
{
    size_t n = s->n_chunks + of_head->n_chunks;
    struct series_chunk *all = ARENA_ARRAY(mem, struct series_chunk, n + 1);
    if (!all)
        return false;
    if (s->n_chunks)
        memcpy(all, s->chunks, s->n_chunks * sizeof(*all));
    if (of_head->n_chunks)
        memcpy(all + s->n_chunks, of_head->chunks, of_head->n_chunks * sizeof(*all));
    chunks_sort_by_min_t(all, n);
    s->chunks = all;
    s->n_chunks = n;
    return true;
}

static bool next_of_blocks(struct union_set *u, struct ctx *ctx, struct arena *mem, struct series *ret, size_t max,
                           size_t *ret_n, struct err *err)
{
    struct series of_head[HEAD_SET_TAKE_MAX] = {0};
    struct series_hash hashes[HEAD_SET_TAKE_MAX];
    if (!gather(u, ctx, mem, ret, MIN(max, (size_t)HEAD_SET_TAKE_MAX), ret_n, err))
        return false;
    bool ok = !u->head || (hash_all(u, ret, *ret_n, hashes) && head_set_take(u->head, mem, hashes, *ret_n, of_head));
    for (size_t i = 0; ok && i < *ret_n; i++)
        ok = copy_labels(u, mem, &ret[i].labels) && copy_chunks(mem, &ret[i], &of_head[i]);
    u->n_series += *ret_n;
    return ok || query_memory_error(ctx, err);
}

/* --- the set --- */

static bool set_next_in(struct series_set *base, struct ctx *ctx, struct arena *mem, struct series *ret, size_t max,
                        size_t *ret_n, struct err *err)
{
    struct union_set *u = CONTAINER_OF(base, struct union_set, base);
    max = MIN(max, u->left);
    *ret_n = 0;
    if (max == 0)
        return true;
    if (!ctx_check(ctx, err))
        return false;
    if (!u->blocks_done && !next_of_blocks(u, ctx, mem, ret, max, ret_n, err))
        return false;
    if (*ret_n == 0) {
        u->blocks_done = true;
        if (u->head && !series_set_next_in(u->head, ctx, mem, ret, max, ret_n, err))
            return false;
    }
    u->left -= *ret_n;
    return true;
}

static bool set_next(struct series_set *base, struct ctx *ctx, struct series *ret, size_t max, size_t *ret_n,
                     struct err *err)
{
    return set_next_in(base, ctx, ctx->arena, ret, max, ret_n, err);
}

static void set_release(struct series_set *base)
{
    struct union_set *u = CONTAINER_OF(base, struct union_set, base);
    if (!u->head) /* which counts those of blocks with its own */
        metric_observe(metric_get(ingest_metrics[INGESTER_QUERIED_SERIES], &SL("send")), (double)u->n_series);
    series_set_release(u->head);
    block_cursors_release(&u->blocks);
    buf_release(&u->canonical);
    free(u);
}

/* What is copied lies in the arena of the query or of the call, the rest in mappings that the set holds. */
static bool chunks_stay(const struct series_set *base)
{
    (void)base;
    return true;
}

struct series_set *union_set_new(struct series_set *head, const struct head *h, struct local_block_refs refs,
                                 struct ctx *ctx, const struct select_params *p, struct err *err)
{
    static const struct series_set_ops ops = {set_next, set_release};
    static const struct series_set_traits traits = {.chunks_stay = chunks_stay, .next_in = set_next_in};
    struct union_set *u = xcalloc(1, sizeof(*u));
    u->base.ops = &ops;
    u->base.traits = &traits;
    u->head = head;
    u->labels = p->labels;
    u->left = p->limit ? p->limit : SIZE_MAX;
    buf_init(&u->canonical, 0);
    if (head)
        series_hasher_init(&u->hasher, h->seed);
    block_cursors_init(&u->blocks, refs, ctx, p);
    if (block_cursors_open(&u->blocks, ctx, p->no_chunks, err))
        return &u->base;
    set_release(&u->base);
    return NULL;
}
