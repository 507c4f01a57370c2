/*
 * The list of a tenant's series: those of its head alone (head_list.c), or, where local blocks have something in the time asked for, the union of both.
 *
 * For the union the labels of the head's sorted list and of each block's series, which come sorted, are merged once; of each series is kept where it is: its
 * place in the head's list and the numbers of the blocks. Chunks are then read in the same order, with each block's series taken again one after the other: a
 * block does not change, so the second pass meets what the first one met. Labels of series that only blocks have are kept (their texts lie in the mapping).
 *
 * The head is asked before the list of blocks is taken: what a cut takes out of a head was in that list before. What is seen twice is equal, and merged by
 * whoever reads the chunks.
 */
#include "ingest/series_list.h"

#include <stdlib.h>
#include <string.h>

#include "base/assert.h"
#include "ingest/block_cursors_int.h"
#include "ingest/head_list_int.h"
#include "ingest/ingest_metrics_int.h"
#include "ingest/ingester_int.h"

#define NOT_IN_HEAD UINT32_MAX

struct united {
    uint32_t in_head; /* place in the head's list */
    uint32_t n_chunks;
    const struct label *labels; /* of one that is in no head; in the arena `names` */
    uint32_t n_labels;
    uint32_t n_blocks;
    size_t blocks; /* place in `sources` */
};

struct series_list {
    struct head_list *head; /* NULL: there is none */
    struct block_cursors blocks;
    size_t budget_bytes;
    bool united;
    bool no_chunks;
    struct united *items;
    size_t n;
    size_t cap;
    uint16_t *sources; /* numbers of blocks */
    size_t n_sources;
    size_t cap_sources;
    struct arena names;
    size_t next; /* series whose chunks come next */
};

/* --- the union --- */

static void add_source(struct series_list *l, size_t block)
{
    if (l->n_sources == l->cap_sources) {
        l->cap_sources = MAX((size_t)256, 2 * l->cap_sources);
        l->sources = xrealloc(l->sources, l->cap_sources * sizeof(*l->sources));
    }
    l->sources[l->n_sources++] = (uint16_t)block;
}

static struct united *add_item(struct series_list *l)
{
    size_t bytes = l->cap * sizeof(*l->items) + l->cap_sources * sizeof(*l->sources);
    if (l->budget_bytes && bytes > l->budget_bytes)
        return NULL;
    if (l->n == l->cap) {
        l->cap = MAX((size_t)256, 2 * l->cap);
        l->items = xrealloc(l->items, l->cap * sizeof(*l->items));
    }
    l->items[l->n] = (struct united){.in_head = NOT_IN_HEAD, .blocks = l->n_sources};
    return &l->items[l->n++];
}

static bool keep_labels(struct series_list *l, struct united *u, const struct labels *labels)
{
    struct label *copy = ARENA_ARRAY(&l->names, struct label, labels->n + 1);
    if (!copy)
        return false;
    if (labels->n)
        memcpy(copy, labels->items, labels->n * sizeof(*copy));
    u->labels = copy;
    u->n_labels = (uint32_t)labels->n;
    return true;
}

/* What a series has in a block, about: the list is made without a look at chunks. */
static uint32_t chunks_in(const struct block_cursor *c)
{
    const struct block_stats *s = &block_meta_of(local_block_reader(c->block))->stats;
    return s->series ? (uint32_t)MIN((s->chunks + s->series - 1) / s->series, (uint64_t)UINT16_MAX) : 1;
}

/* Moves the cursors that stand at the least labels on, and notes them; u NULL: the series is not wanted. The labels may lie in one of their batches: these are
 * filled anew when nobody looks at them any more. */
static bool take_from_blocks(struct series_list *l, const struct ctx *ctx, struct united *u, struct err *err)
{
    for (size_t i = 0; i < l->blocks.refs.n; i++) {
        struct block_cursor *c = &l->blocks.items[i];
        if (!c->least)
            continue;
        c->at++;
        if (!u)
            continue;
        add_source(l, i);
        u->n_blocks++;
        u->n_chunks += chunks_in(c);
    }
    return block_cursors_fill(&l->blocks, ctx, err);
}

/* The one that comes next in the head, and the one that comes next in blocks: the lesser becomes an item, or both together. */
static bool unite_one(struct series_list *l, const struct ctx *ctx, const struct series_filter *f, const struct labels *own, uint32_t own_chunks,
                      size_t *at, const struct labels *other, struct err *err)
{
    int c = !own ? 1 : !other ? -1 : labels_cmp(*own, *other);
    if (c > 0 && f->shard.count && query_shard_hash(*other) % f->shard.count != f->shard.index)
        return take_from_blocks(l, ctx, NULL, err);
    struct united *u = add_item(l);
    if (!u || (c > 0 && !keep_labels(l, u, other)))
        return query_memory_error(ctx, err);
    if (c <= 0) {
        u->in_head = (uint32_t)(*at)++;
        u->n_chunks = own_chunks;
    }
    return c < 0 || take_from_blocks(l, ctx, u, err);
}

static bool unite(struct series_list *l, const struct ctx *ctx, const struct series_filter *f, struct err *err)
{
    struct arena scratch;
    size_t n = l->head ? head_list_len(l->head) : 0;
    size_t at = 0;
    bool ok = block_cursors_open(&l->blocks, ctx, true, err) && block_cursors_fill(&l->blocks, ctx, err);
    arena_init(&scratch, 0);
    for (size_t i = 0; ok; i++) {
        struct labels own = {NULL, 0};
        struct labels other = {NULL, 0};
        uint32_t own_chunks = 0;
        if (i % 256 == 0)
            arena_clear(&scratch);
        bool has_own = at < n;
        bool has_other = block_cursors_least(&l->blocks, &other);
        if (!has_own && !has_other)
            break;
        if (has_own && !head_list_labels(l->head, at, &scratch, &own, &own_chunks))
            ok = query_memory_error(ctx, err);
        ok = ok && (i % 1024 || ctx_check(ctx, err)) &&
             unite_one(l, ctx, f, has_own ? &own : NULL, own_chunks, &at, has_other ? &other : NULL, err);
    }
    arena_release(&scratch);
    block_cursors_close(&l->blocks);
    return ok;
}

/* --- the list --- */

static bool make_head_list(struct series_list *l, struct head *h, struct ctx *ctx, const struct select_params *p, struct series_filter f,
                           struct err *err)
{
    struct select_params own = *p;
    head_list_free(l->head);
    l->head = NULL;
    f.sorted |= l->united;
    if (l->united)
        own.limit = 0;
    return !h || (l->head = head_list_new(h, ctx, &own, &f, NULL, err));
}

static bool make_list(struct series_list *l, struct ingester *ing, struct ctx *ctx, const struct select_params *p, const struct series_filter *f,
                      struct err *err)
{
    struct head *h = tenants_find(&ing->tenants, ctx->tenant);
    bool of_head = f->native_histograms || f->active_since_s;
    if (!make_head_list(l, h, ctx, p, *f, err))
        return false;
    if (of_head)
        return true;
    struct local_block_refs refs;
    if (!local_blocks_get(ing->blocks, ctx->tenant, p->min_t, p->max_t, &refs, err))
        return false;
    block_cursors_init(&l->blocks, refs, ctx, p);
    l->united = l->blocks.refs.n > 0;
    if (!l->united)
        return true;
    /* Once more, in order and to the end. */
    if ((!f->sorted || p->limit) && !make_head_list(l, h, ctx, p, *f, err))
        return false;
    if (!unite(l, ctx, f, err))
        return false;
    if (p->limit)
        l->n = MIN(l->n, p->limit);
    return true;
}

bool ingester_list_series(struct ingester *ing, struct ctx *ctx, const struct select_params *p, const struct series_filter *f,
                          struct series_list **ret, struct err *err)
{
    metric_inc(metric_single(ingest_metrics[INGESTER_QUERIES]));
    struct series_list *l = xcalloc(1, sizeof(*l));
    l->budget_bytes = ctx->arena->budget_bytes;
    l->no_chunks = p->no_chunks;
    arena_init(&l->names, l->budget_bytes);
    *ret = NULL;
    if (!make_list(l, ing, ctx, p, f, err)) {
        series_list_free(l);
        return false;
    }
    if (!l->head && !l->united) { /* nobody knows the tenant */
        series_list_free(l);
        return true;
    }
    *ret = l;
    return true;
}

void series_list_free(struct series_list *l)
{
    if (!l)
        return;
    metric_observe(metric_get(ingest_metrics[INGESTER_QUERIED_SERIES], &SL("send")), (double)series_list_len(l));
    if (!l->no_chunks && l->head)
        metric_observe(metric_single(ingest_metrics[INGESTER_QUERIED_SAMPLES]), (double)head_list_samples(l->head));
    head_list_free(l->head);
    block_cursors_release(&l->blocks);
    arena_release(&l->names);
    free(l->items);
    free(l->sources);
    free(l);
}

size_t series_list_len(const struct series_list *l)
{
    if (l->united)
        return l->n;
    return l->head ? head_list_len(l->head) : 0;
}

bool series_list_labels(const struct series_list *l, size_t i, struct arena *arena, struct labels *ret, uint32_t *ret_chunks)
{
    if (!l->united)
        return head_list_labels(l->head, i, arena, ret, ret_chunks);
    ASSERT(i < l->n);
    const struct united *u = &l->items[i];
    uint32_t own_chunks;
    if (u->in_head != NOT_IN_HEAD && !head_list_labels(l->head, u->in_head, arena, ret, &own_chunks))
        return false;
    if (u->in_head == NOT_IN_HEAD)
        *ret = (struct labels){u->labels, u->n_labels};
    *ret_chunks = u->n_chunks;
    return true;
}

void series_list_drop_labels(struct series_list *l)
{
    if (l->head)
        head_list_drop_labels(l->head);
    arena_release(&l->names);
}

/* --- chunks --- */

/* Puts the chunks of the blocks that have the series before those of the head, and sorts them: blocks are older, so there is little to do. */
static bool add_block_chunks(struct series_list *l, const struct united *u, struct arena *arena, struct series *s, struct err *err)
{
    size_t n = s->n_chunks;
    bool ok = true;
    for (uint32_t i = 0; ok && i < u->n_blocks; i++) {
        struct block_cursor *c = &l->blocks.items[l->sources[u->blocks + i]];
        ok = block_cursor_fill(&l->blocks, c, NULL, err);
        if (ok && c->at == c->n)
            return err_set(err, ERR_INTERNAL, "a block has fewer series than before");
        n += ok ? c->series[c->at].n_chunks : 0;
    }
    struct series_chunk *all = ok ? ARENA_ARRAY(arena, struct series_chunk, n + 1) : NULL;
    if (!all)
        return ok ? err_set(err, ERR_MAX_QUERY_MEMORY, "no memory for a batch of series") : false;
    size_t at = 0;
    for (uint32_t i = 0; i < u->n_blocks; i++) {
        struct block_cursor *c = &l->blocks.items[l->sources[u->blocks + i]];
        const struct series *other = &c->series[c->at++];
        if (other->n_chunks)
            memcpy(all + at, other->chunks, other->n_chunks * sizeof(*all));
        at += other->n_chunks;
    }
    if (s->n_chunks)
        memcpy(all + at, s->chunks, s->n_chunks * sizeof(*all));
    chunks_sort_by_min_t(all, n);
    s->chunks = all;
    s->n_chunks = n;
    return true;
}

static bool no_memory(struct err *err)
{
    return err_set(err, ERR_MAX_QUERY_MEMORY, "no memory for a batch of series");
}

/* The head's chunks of those of the batch that it has: they stand in its list one after the other. */
static bool head_chunks(struct series_list *l, size_t from, size_t n, struct arena *arena, struct series *ret)
{
    struct series own[SERIES_LIST_BATCH];
    size_t first = SIZE_MAX;
    size_t n_own = 0;
    for (size_t i = 0; i < n; i++) {
        uint32_t in_head = l->items[from + i].in_head;
        if (in_head == NOT_IN_HEAD)
            continue;
        first = MIN(first, (size_t)in_head);
        n_own++;
    }
    if (n_own && !head_list_chunks(l->head, first, n_own, arena, own))
        return false;
    for (size_t i = 0; i < n; i++) {
        uint32_t in_head = l->items[from + i].in_head;
        ret[i] = in_head == NOT_IN_HEAD ? (struct series){.chunks = NULL} : own[in_head - first];
    }
    return true;
}

bool series_list_chunks(struct series_list *l, size_t from, size_t n, struct arena *arena, struct series *ret, struct err *err)
{
    if (!l->united)
        return head_list_chunks(l->head, from, n, arena, ret) || no_memory(err);
    ASSERT(n <= SERIES_LIST_BATCH && from + n <= l->n && from == l->next);
    if (from == 0 && !block_cursors_open(&l->blocks, NULL, false, err))
        return false;
    l->next = from + n;
    if (!head_chunks(l, from, n, arena, ret))
        return no_memory(err);
    for (size_t i = 0; i < n; i++)
        if (l->items[from + i].n_blocks && !add_block_chunks(l, &l->items[from + i], arena, &ret[i], err))
            return false;
    return true;
}

bool series_list_buckets(struct series_list *l, size_t from, size_t n, struct arena *arena, uint64_t *ret)
{
    ASSERT(!l->united);
    return head_list_buckets(l->head, from, n, arena, ret);
}
