#include "storage/queryable.h"

#include <stdlib.h>

#include "base/assert.h"

struct fanout {
    struct queryable base;
    size_t n;
    struct queryable *parts[]; /* not owned; immutable */
};

/* --- select: the parts' sets, one after the other ------------------------------------------------------------------ */

struct fanout_set {
    struct series_set base;
    struct fanout *fanout;
    struct select_params params; /* a copy: the caller's is gone after the select */
    size_t opened;          /* parts that have been asked */
    size_t current;         /* the set being read */
    size_t given;           /* series given so far, for params.limit */
    struct series_set *sets[]; /* sets of earlier parts stay open: what they gave must stay valid */
};

static bool fanout_set_open(struct fanout_set *s, struct ctx *ctx, struct err *err)
{
    struct queryable *part = s->fanout->parts[s->opened];
    struct series_set *set = part->ops->select(part, ctx, &s->params, err);
    if (!set)
        return false;
    s->sets[s->opened++] = set;
    return true;
}

static bool fanout_set_next_in(struct series_set *base, struct ctx *ctx, struct arena *mem, struct series *ret, size_t max, size_t *ret_n, struct err *err)
{
    struct fanout_set *s = CONTAINER_OF(base, struct fanout_set, base);
    if (s->params.limit)
        max = MIN(max, s->params.limit - s->given);
    *ret_n = 0;
    for (; max && s->current < s->fanout->n; s->current++) {
        if (s->current == s->opened && !fanout_set_open(s, ctx, err))
            return false;
        if (!series_set_next_in(s->sets[s->current], ctx, mem, ret, max, ret_n, err))
            return false;
        if (*ret_n)
            break;
    }
    s->given += *ret_n;
    return true;
}

static bool fanout_set_next(struct series_set *base, struct ctx *ctx, struct series *ret, size_t max, size_t *ret_n, struct err *err)
{
    return fanout_set_next_in(base, ctx, ctx->arena, ret, max, ret_n, err);
}

static void fanout_set_release(struct series_set *base)
{
    struct fanout_set *s = CONTAINER_OF(base, struct fanout_set, base);
    for (size_t i = 0; i < s->opened; i++)
        series_set_release(s->sets[i]);
    free(s);
}

static bool fanout_chunks_stay(const struct series_set *base)
{
    const struct fanout_set *s = CONTAINER_OF(base, const struct fanout_set, base);
    const struct series_set *from = s->current < s->opened ? s->sets[s->current] : NULL;
    return from && from->traits && from->traits->chunks_stay && from->traits->chunks_stay(from);
}

static const struct series_set_ops fanout_set_ops = {fanout_set_next, fanout_set_release};
static const struct series_set_traits fanout_set_traits = {.chunks_stay = fanout_chunks_stay, .next_in = fanout_set_next_in};

static struct series_set *fanout_select(struct queryable *q, struct ctx *ctx, const struct select_params *p, struct err *err)
{
    struct fanout *f = CONTAINER_OF(q, struct fanout, base);
    if (f->n == 1)
        return f->parts[0]->ops->select(f->parts[0], ctx, p, err);
    struct fanout_set *s = calloc(1, sizeof(*s) + f->n * sizeof(s->sets[0]));
    if (!s) {
        err_set(err, ERR_NO_MEMORY, "out of memory");
        return NULL;
    }
    s->base.ops = &fanout_set_ops;
    s->base.traits = &fanout_set_traits;
    s->fanout = f;
    s->params = *p;
    return &s->base;
}

/* --- names, values: merged and unique -------------------------------------------------------------------------------- */

/* The union of two sorted unique lists; false when the arena is used up. */
static bool merge_sorted(struct arena *arena, const struct slice **list, size_t *n, const struct slice *more, size_t n_more)
{
    if (n_more == 0)
        return true;
    struct slice *out = ARENA_ARRAY(arena, struct slice, *n + n_more);
    if (!out)
        return false;
    size_t i = 0, j = 0, k = 0;
    while (i < *n || j < n_more) {
        int c = i == *n ? 1 : j == n_more ? -1 : slice_cmp((*list)[i], more[j]);
        out[k++] = c <= 0 ? (*list)[i] : more[j];
        i += c <= 0;
        j += c >= 0;
    }
    *list = out;
    *n = k;
    return true;
}

static bool over_memory(struct err *err)
{
    return err_set(err, ERR_MAX_QUERY_MEMORY, "the request used up its memory while merging the partitions' answers");
}

static bool fanout_label_names(struct queryable *q, struct ctx *ctx, const struct select_params *p, const struct slice **ret,
                               size_t *ret_n, struct err *err)
{
    struct fanout *f = CONTAINER_OF(q, struct fanout, base);
    const struct slice *list = NULL, *part;
    size_t n = 0, n_part;
    for (size_t i = 0; i < f->n; i++) {
        if (!f->parts[i]->ops->label_names(f->parts[i], ctx, p, &part, &n_part, err))
            return false;
        if (!merge_sorted(ctx->arena, &list, &n, part, n_part))
            return over_memory(err);
    }
    *ret = list;
    *ret_n = n;
    return true;
}

static bool fanout_label_values(struct queryable *q, struct ctx *ctx, struct slice name, const struct select_params *p,
                                const struct slice **ret, size_t *ret_n, struct err *err)
{
    struct fanout *f = CONTAINER_OF(q, struct fanout, base);
    const struct slice *list = NULL, *part;
    size_t n = 0, n_part;
    for (size_t i = 0; i < f->n; i++) {
        if (!f->parts[i]->ops->label_values(f->parts[i], ctx, name, p, &part, &n_part, err))
            return false;
        if (!merge_sorted(ctx->arena, &list, &n, part, n_part))
            return over_memory(err);
    }
    *ret = list;
    *ret_n = n;
    return true;
}

/* --- metadata, exemplars: concatenated -------------------------------------------------------------------------------- */

/* list + part in fresh arena memory; NULL when it is used up. */
static void *concat(struct arena *arena, const void *list, size_t n, const void *part, size_t n_part, size_t size)
{
    char *out = arena_array(arena, n + n_part, size);
    if (!out)
        return NULL;
    if (n)
        memcpy(out, list, n * size);
    if (n_part)
        memcpy(out + n * size, part, n_part * size);
    return out;
}

static bool fanout_metadata(struct queryable *q, struct ctx *ctx, const struct metric_metadata **ret, size_t *ret_n, struct err *err)
{
    struct fanout *f = CONTAINER_OF(q, struct fanout, base);
    struct metric_metadata *all = NULL;
    size_t n = 0;
    for (size_t i = 0; i < f->n; i++) {
        const struct metric_metadata *part;
        size_t n_part;
        if (!f->parts[i]->ops->metadata(f->parts[i], ctx, &part, &n_part, err))
            return false;
        all = concat(ctx->arena, all, n, part, n_part, sizeof(*all));
        if (!all)
            return over_memory(err);
        n += n_part;
    }
    *ret = all;
    *ret_n = n;
    return true;
}

static bool fanout_exemplars(struct queryable *q, struct ctx *ctx, const struct select_params *p, const struct exemplar_series **ret,
                             size_t *ret_n, struct err *err)
{
    struct fanout *f = CONTAINER_OF(q, struct fanout, base);
    struct exemplar_series *all = NULL;
    size_t n = 0;
    for (size_t i = 0; i < f->n; i++) {
        const struct exemplar_series *part;
        size_t n_part;
        if (!f->parts[i]->ops->exemplars(f->parts[i], ctx, p, &part, &n_part, err))
            return false;
        all = concat(ctx->arena, all, n, part, n_part, sizeof(*all));
        if (!all)
            return over_memory(err);
        n += n_part;
    }
    *ret = all;
    *ret_n = n;
    return true;
}

static const struct queryable_ops fanout_ops = {
    .select = fanout_select,
    .label_names = fanout_label_names,
    .label_values = fanout_label_values,
    .metadata = fanout_metadata,
    .exemplars = fanout_exemplars,
};

struct queryable *queryable_fanout_new(struct queryable *const *parts, size_t n)
{
    struct fanout *f = calloc(1, sizeof(*f) + n * sizeof(f->parts[0]));
    ASSERT(f);
    f->base.ops = &fanout_ops;
    f->n = n;
    memcpy(f->parts, parts, n * sizeof(parts[0]));
    return &f->base;
}

void queryable_fanout_free(struct queryable *q)
{
    if (q)
        free(CONTAINER_OF(q, struct fanout, base));
}
