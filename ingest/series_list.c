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
#include "ingest/head_list_int.h"
#include "ingest/ingest_metrics_int.h"
#include "ingest/ingester_int.h"

#define CURSOR_BATCH 64u
#define NOT_IN_HEAD UINT32_MAX

/* One block's series in order. */
struct cursor {
    struct local_block *block;
    struct series_set *set;
    struct arena select; /* of the set */
    struct arena batch;
    struct series series[CURSOR_BATCH];
    size_t n;
    size_t at;
    bool open;
};

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
    struct local_block_refs refs;
    struct select_params params; /* matchers are the caller's */
    struct slice tenant;
    size_t budget_bytes;
    bool united;
    bool no_chunks;
    struct cursor *cursors; /* refs.n */
    struct united *items;
    size_t n;
    size_t cap;
    uint16_t *sources; /* numbers of blocks */
    size_t n_sources;
    size_t cap_sources;
    struct arena names;
    size_t next; /* series whose chunks come next */
};

/* --- cursors --- */

static struct ctx cursor_ctx(const struct series_list *l, const struct ctx *ctx, struct arena *arena)
{
    struct ctx own = ctx ? *ctx : (struct ctx){.tenant = l->tenant};
    own.arena = arena;
    return own;
}

static bool block_failed(struct cursor *c, struct err *err, const struct err *why)
{
    local_block_failed(c->block, why);
    if (err)
        *err = *why;
    return false;
}

static void cursor_close(struct cursor *c)
{
    if (!c->open)
        return;
    series_set_release(c->set);
    arena_release(&c->select);
    arena_release(&c->batch);
    c->open = false;
}

static bool cursor_open(struct series_list *l, struct cursor *c, const struct ctx *ctx, bool no_chunks, struct err *err)
{
    struct select_params p = l->params;
    struct err why = ERR_NONE;
    p.no_chunks = no_chunks;
    p.limit = 0;
    arena_init(&c->select, l->budget_bytes);
    arena_init(&c->batch, l->budget_bytes);
    c->n = c->at = 0;
    c->open = true;
    struct ctx own = cursor_ctx(l, ctx, &c->select);
    c->set = block_select(local_block_reader(c->block), &own, &p, &why);
    return c->set || block_failed(c, err, &why);
}

/* Fills the batch when it is used up; n == at: the end. */
static bool cursor_fill(struct series_list *l, struct cursor *c, const struct ctx *ctx, struct err *err)
{
    struct err why = ERR_NONE;
    if (c->at < c->n)
        return true;
    arena_clear(&c->batch);
    c->at = 0;
    struct ctx own = cursor_ctx(l, ctx, &c->batch);
    return series_set_next(c->set, &own, c->series, CURSOR_BATCH, &c->n, &why) || block_failed(c, err, &why);
}

static bool cursors_open(struct series_list *l, const struct ctx *ctx, bool no_chunks, struct err *err)
{
    for (size_t i = 0; i < l->refs.n; i++) {
        cursor_close(&l->cursors[i]);
        l->cursors[i].block = l->refs.blocks[i];
        if (!cursor_open(l, &l->cursors[i], ctx, no_chunks, err))
            return false;
    }
    return true;
}

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

/* The least labels that any cursor stands at; false: all are at their ends. */
static bool least_of_blocks(struct series_list *l, struct labels *ret)
{
    bool any = false;
    for (size_t i = 0; i < l->refs.n; i++) {
        const struct cursor *c = &l->cursors[i];
        if (c->at == c->n || (any && labels_cmp(c->series[c->at].labels, *ret) >= 0))
            continue;
        *ret = c->series[c->at].labels;
        any = true;
    }
    return any;
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
static uint32_t chunks_in(const struct cursor *c)
{
    const struct block_stats *s = &block_meta_of(local_block_reader(c->block))->stats;
    return s->series ? (uint32_t)MIN((s->chunks + s->series - 1) / s->series, (uint64_t)UINT16_MAX) : 1;
}

/* Moves the cursors that stand at these labels on, and notes them; u NULL: the series is not wanted. The labels may lie in one of their batches: these are
 * filled anew only when all are compared. */
static bool take_from_blocks(struct series_list *l, const struct ctx *ctx, struct united *u, const struct labels *labels, struct err *err)
{
    bool ok = true;
    for (size_t i = 0; i < l->refs.n; i++) {
        struct cursor *c = &l->cursors[i];
        if (c->at == c->n || !labels_eq(c->series[c->at].labels, *labels))
            continue;
        c->at++;
        if (!u)
            continue;
        add_source(l, i);
        u->n_blocks++;
        u->n_chunks += chunks_in(c);
    }
    for (size_t i = 0; ok && i < l->refs.n; i++)
        ok = cursor_fill(l, &l->cursors[i], ctx, err);
    return ok;
}

/* The one that comes next in the head, and the one that comes next in blocks: the lesser becomes an item, or both together. */
static bool unite_one(struct series_list *l, const struct ctx *ctx, const struct series_filter *f, const struct labels *own, uint32_t own_chunks,
                      size_t *at, const struct labels *other, struct err *err)
{
    int c = !own ? 1 : !other ? -1 : labels_cmp(*own, *other);
    if (c > 0 && f->shard.count && query_shard_hash(*other) % f->shard.count != f->shard.index)
        return take_from_blocks(l, ctx, NULL, other, err);
    struct united *u = add_item(l);
    if (!u || (c > 0 && !keep_labels(l, u, other)))
        return query_memory_error(ctx, err);
    if (c <= 0) {
        u->in_head = (uint32_t)(*at)++;
        u->n_chunks = own_chunks;
    }
    return c < 0 || take_from_blocks(l, ctx, u, other, err);
}

static bool unite(struct series_list *l, const struct ctx *ctx, const struct series_filter *f, struct err *err)
{
    struct arena scratch;
    size_t n = l->head ? head_list_len(l->head) : 0;
    size_t at = 0;
    bool ok = cursors_open(l, ctx, true, err);
    for (size_t i = 0; ok && i < l->refs.n; i++)
        ok = cursor_fill(l, &l->cursors[i], ctx, err);
    arena_init(&scratch, 0);
    for (size_t i = 0; ok; i++) {
        struct labels own = {NULL, 0};
        struct labels other = {NULL, 0};
        uint32_t own_chunks = 0;
        if (i % 256 == 0)
            arena_clear(&scratch);
        bool has_own = at < n;
        bool has_other = least_of_blocks(l, &other);
        if (!has_own && !has_other)
            break;
        if (has_own && !head_list_labels(l->head, at, &scratch, &own, &own_chunks))
            ok = query_memory_error(ctx, err);
        ok = ok && (i % 1024 || ctx_check(ctx, err)) &&
             unite_one(l, ctx, f, has_own ? &own : NULL, own_chunks, &at, has_other ? &other : NULL, err);
    }
    arena_release(&scratch);
    for (size_t i = 0; i < l->refs.n; i++)
        cursor_close(&l->cursors[i]);
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
    if (!local_blocks_get(ing->blocks, ctx->tenant, p->min_t, p->max_t, &l->refs, err))
        return false;
    l->united = l->refs.n > 0;
    if (!l->united)
        return true;
    /* Once more, in order and to the end. */
    if ((!f->sorted || p->limit) && !make_head_list(l, h, ctx, p, *f, err))
        return false;
    l->cursors = xcalloc(l->refs.n, sizeof(*l->cursors));
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
    l->params = *p;
    l->tenant = ctx->tenant;
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
    for (size_t i = 0; l->cursors && i < l->refs.n; i++)
        cursor_close(&l->cursors[i]);
    head_list_free(l->head);
    local_block_refs_release(&l->refs);
    arena_release(&l->names);
    free(l->cursors);
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

/* Stable: of equal times the head's come first, then those of blocks by their beginning. */
static void sort_by_min_t(struct series_chunk *chunks, size_t n)
{
    for (size_t i = 1; i < n; i++) {
        struct series_chunk c = chunks[i];
        size_t at = i;
        for (; at > 0 && chunks[at - 1].min_t > c.min_t; at--)
            chunks[at] = chunks[at - 1];
        chunks[at] = c;
    }
}

/* Puts the chunks of the blocks that have the series before those of the head, and sorts them: blocks are older, so there is little to do. */
static bool add_block_chunks(struct series_list *l, const struct united *u, struct arena *arena, struct series *s, struct err *err)
{
    size_t n = s->n_chunks;
    bool ok = true;
    for (uint32_t i = 0; ok && i < u->n_blocks; i++) {
        struct cursor *c = &l->cursors[l->sources[u->blocks + i]];
        ok = cursor_fill(l, c, NULL, err);
        if (ok && c->at == c->n)
            return err_set(err, ERR_INTERNAL, "a block has fewer series than before");
        n += ok ? c->series[c->at].n_chunks : 0;
    }
    struct series_chunk *all = ok ? ARENA_ARRAY(arena, struct series_chunk, n + 1) : NULL;
    if (!all)
        return ok ? err_set(err, ERR_MAX_QUERY_MEMORY, "no memory for a batch of series") : false;
    size_t at = 0;
    for (uint32_t i = 0; i < u->n_blocks; i++) {
        struct cursor *c = &l->cursors[l->sources[u->blocks + i]];
        const struct series *other = &c->series[c->at++];
        if (other->n_chunks)
            memcpy(all + at, other->chunks, other->n_chunks * sizeof(*all));
        at += other->n_chunks;
    }
    if (s->n_chunks)
        memcpy(all + at, s->chunks, s->n_chunks * sizeof(*all));
    sort_by_min_t(all, n);
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
    if (from == 0 && !cursors_open(l, NULL, false, err))
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

/* --- as a set --- */

struct list_set {
    struct series_set base;
    struct series_list *list;
    size_t at;
};

static bool set_next_in(struct series_set *base, struct ctx *ctx, struct arena *mem, struct series *ret, size_t max, size_t *ret_n, struct err *err)
{
    struct list_set *s = CONTAINER_OF(base, struct list_set, base);
    size_t n = MIN(MIN(max, (size_t)SERIES_LIST_BATCH), series_list_len(s->list) - s->at);
    *ret_n = 0;
    if (!ctx_check(ctx, err))
        return false;
    if (n && !s->list->no_chunks && !series_list_chunks(s->list, s->at, n, mem, ret, err))
        return false;
    for (size_t i = 0; i < n; i++) {
        uint32_t n_chunks;
        if (s->list->no_chunks)
            ret[i] = (struct series){.chunks = NULL};
        if (!series_list_labels(s->list, s->at + i, mem, &ret[i].labels, &n_chunks))
            return query_memory_error(ctx, err);
    }
    s->at += n;
    *ret_n = n;
    return true;
}

static bool set_next(struct series_set *base, struct ctx *ctx, struct series *ret, size_t max, size_t *ret_n, struct err *err)
{
    return set_next_in(base, ctx, ctx->arena, ret, max, ret_n, err);
}

static void set_release(struct series_set *base)
{
    struct list_set *s = CONTAINER_OF(base, struct list_set, base);
    series_list_free(s->list);
    free(s);
}

/* What is copied lies in the arena of the query or of the call, the rest in mappings that the list holds. */
static bool chunks_stay(const struct series_set *base)
{
    (void)base;
    return true;
}

struct series_set *series_list_set(struct series_list *l)
{
    static const struct series_set_ops ops = {set_next, set_release};
    static const struct series_set_traits traits = {.chunks_stay = chunks_stay, .next_in = set_next_in};
    struct list_set *s = xcalloc(1, sizeof(*s));
    s->base.ops = &ops;
    s->base.traits = &traits;
    s->list = l;
    return &s->base;
}
