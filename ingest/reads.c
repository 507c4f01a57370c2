/*
 * The queryable of an ingester: the head's answer and that of local blocks. The head is asked first, then for the list of blocks: what a cut takes out of a head
 * was in the list before.
 */
#include <string.h>

#include "base/assert.h"
#include "ingest/ingester_int.h"
#include "ingest/query_int.h"
#include "ingest/union_int.h"

static struct ingester *of(struct queryable *q)
{
    return CONTAINER_OF(q, struct ingester, queryable);
}

static struct head *query_head(struct queryable *q, const struct ctx *ctx)
{
    metric_inc(metric_single(ingest_metrics[INGESTER_QUERIES]));
    return tenants_find(&of(q)->tenants, ctx->tenant);
}

static bool empty_next(struct series_set *s, struct ctx *ctx, struct series *ret, size_t max, size_t *ret_n,
                       struct err *err)
{
    (void)s, (void)ctx, (void)ret, (void)max, (void)err;
    *ret_n = 0;
    return true;
}

static void empty_release(struct series_set *s)
{
    (void)s;
}

static struct series_set *empty_set(void)
{
    static const struct series_set_ops empty_ops = {empty_next, empty_release};
    static struct series_set empty = {.ops = &empty_ops};
    return &empty;
}

/* --- series --- */

/* Most queries are of times that only the head has. */
static struct series_set *q_select(struct queryable *q, struct ctx *ctx, const struct select_params *p, struct err *err)
{
    struct local_block_refs refs;
    struct head *h = query_head(q, ctx);
    struct series_set *set = h ? head_select(h, ctx, p, err) : empty_set();
    if (!set)
        return NULL;
    if (!local_blocks_get(of(q)->blocks, ctx->tenant, p->min_t, p->max_t, &refs, err)) {
        series_set_release(set);
        return NULL;
    }
    return refs.n ? union_set_new(h ? set : NULL, h, refs, ctx, p, err) : set;
}

/* --- names and values --- */

/* Two sorted lists as one, each text once, at most limit of them. */
static bool merge_texts(struct ctx *ctx, const struct slice *a, size_t n_a, const struct slice *b, size_t n_b, size_t limit, const struct slice **ret,
                        size_t *ret_n, struct err *err)
{
    struct slice *out = ARENA_ARRAY(ctx->arena, struct slice, n_a + n_b + 1);
    size_t n = 0;
    if (!out)
        return query_memory_error(ctx, err);
    for (size_t i = 0, k = 0; i < n_a || k < n_b;) {
        int c = i == n_a ? 1 : k == n_b ? -1 : slice_cmp(a[i], b[k]);
        out[n++] = c <= 0 ? a[i] : b[k];
        i += c <= 0;
        k += c >= 0;
    }
    *ret = out;
    *ret_n = limit ? MIN(n, limit) : n;
    return true;
}

/* Texts of a block lie in its mapping, which may go before the answer does. */
static bool copy_texts(struct ctx *ctx, const struct slice *texts, size_t n, const struct slice **ret)
{
    struct slice *copy = ARENA_ARRAY(ctx->arena, struct slice, n + 1);
    for (size_t i = 0; copy && i < n; i++)
        copy[i] = arena_dup(ctx->arena, texts[i]);
    *ret = copy;
    return copy && !ctx->arena->overflow;
}

/* Adds the names (name NULL) or values of each block that overlaps to what the head has. */
static bool add_blocks(struct ingester *ing, struct ctx *ctx, const struct select_params *p, const struct slice *name, const struct slice **ret,
                       size_t *ret_n, struct err *err)
{
    struct local_block_refs refs;
    bool ok = local_blocks_get(ing->blocks, ctx->tenant, p->min_t, p->max_t, &refs, err);
    for (size_t i = 0; ok && i < refs.n; i++) {
        struct block *b = local_block_reader(refs.blocks[i]);
        const struct slice *texts;
        size_t n;
        struct err why = ERR_NONE;
        ok = name ? block_label_values(b, ctx, *name, p, &texts, &n, &why) : block_label_names(b, ctx, p, &texts, &n, &why);
        if (!ok) {
            local_block_failed(refs.blocks[i], &why);
            if (err)
                *err = why;
            break;
        }
        ok = (copy_texts(ctx, texts, n, &texts) || query_memory_error(ctx, err)) &&
             merge_texts(ctx, *ret, *ret_n, texts, n, p->limit, ret, ret_n, err);
    }
    local_block_refs_release(&refs);
    return ok;
}

static bool q_label_names(struct queryable *q, struct ctx *ctx, const struct select_params *p, const struct slice **ret,
                          size_t *ret_n, struct err *err)
{
    struct head *h = query_head(q, ctx);
    *ret = NULL;
    *ret_n = 0;
    return (!h || head_label_names(h, ctx, p, ret, ret_n, err)) && add_blocks(of(q), ctx, p, NULL, ret, ret_n, err);
}

static bool q_label_values(struct queryable *q, struct ctx *ctx, struct slice name, const struct select_params *p,
                           const struct slice **ret, size_t *ret_n, struct err *err)
{
    struct head *h = query_head(q, ctx);
    *ret = NULL;
    *ret_n = 0;
    return (!h || head_label_values(h, ctx, name, p, ret, ret_n, err)) && add_blocks(of(q), ctx, p, &name, ret, ret_n, err);
}

/* --- what only the head has --- */

static bool q_metadata(struct queryable *q, struct ctx *ctx, const struct metric_metadata **ret, size_t *ret_n,
                       struct err *err)
{
    struct head *h = query_head(q, ctx);
    *ret = NULL;
    *ret_n = 0;
    return !h || metadata_list(&h->metadata, ctx->arena, ret, ret_n) || query_memory_error(ctx, err);
}

static bool q_exemplars(struct queryable *q, struct ctx *ctx, const struct select_params *p,
                        const struct exemplar_series **ret, size_t *ret_n, struct err *err)
{
    struct head *h = query_head(q, ctx);
    *ret = NULL;
    *ret_n = 0;
    return !h || head_exemplars(h, ctx, p, ret, ret_n, err);
}

static const struct queryable_ops queryable_ops = {
    .select = q_select, .label_names = q_label_names, .label_values = q_label_values, .metadata = q_metadata, .exemplars = q_exemplars};

void reads_init(struct ingester *ing)
{
    ing->queryable.ops = &queryable_ops;
}

struct queryable *ingester_queryable(struct ingester *ing)
{
    return &ing->queryable;
}
