/* Blocks that need not be there, because another one has all that they have. */
#include <stdlib.h>
#include <string.h>

#include "storage/compactor/plan.h"

bool plan_is_too_old(const struct limits *l, const struct plan_block *b, int64_t now_ms)
{
    return l->compactor_max_lookback > 0 && ulid_time_ms(&b->id) < now_ms - l->compactor_max_lookback;
}

/* A block with its sources in order. */
struct item {
    const struct plan_block *b;
    struct ulid *sources; /* owned */
};

static int by_text(const void *a, const void *b)
{
    return strcmp(((const struct ulid *)a)->text, ((const struct ulid *)b)->text);
}

static bool same_labels(const struct plan_block *x, const struct plan_block *y)
{
    if (x->n_labels != y->n_labels || x->resolution_ms != y->resolution_ms || !slice_eq(x->shard, y->shard))
        return false;
    for (size_t i = 0; i < x->n_labels; i++)
        if (!slice_eq(x->labels[i].name, y->labels[i].name) || !slice_eq(x->labels[i].value, y->labels[i].value))
            return false;
    return true;
}

static bool is_subset(const struct item *x, const struct item *y)
{
    size_t k = 0;
    for (size_t i = 0; i < x->b->n_sources; i++, k++) {
        while (k < y->b->n_sources && strcmp(y->sources[k].text, x->sources[i].text) < 0)
            k++;
        if (k == y->b->n_sources || strcmp(y->sources[k].text, x->sources[i].text) != 0)
            return false;
    }
    return true;
}

/* Of two that contain each other the one of the higher level stays, then the older. The order is total, so that two compactors decide alike. */
static bool is_better(const struct plan_block *x, const struct plan_block *y)
{
    return x->level != y->level ? x->level > y->level : strcmp(x->id.text, y->id.text) < 0;
}

/* The cheap comparisons come first: most pairs end there. */
static bool supersedes(const struct item *y, const struct item *x)
{
    const struct plan_block *a = x->b, *b = y->b;
    return b->min_t <= a->min_t && b->max_t >= a->max_t && b->n_sources >= a->n_sources && a != b && same_labels(a, b) && is_subset(x, y) &&
           (!(a->n_sources == b->n_sources && a->min_t == b->min_t && a->max_t == b->max_t) || is_better(b, a));
}

bool plan_superseded(const struct plan_block *blocks, size_t n, size_t *ret_by, struct err *err)
{
    struct item *items = calloc(n + 1, sizeof(*items));
    bool good = items != NULL;
    for (size_t i = 0; good && i < n; i++) {
        items[i].b = &blocks[i];
        items[i].sources = calloc(blocks[i].n_sources + 1, sizeof(struct ulid));
        good = items[i].sources != NULL;
        if (!good || !blocks[i].n_sources)
            continue;
        memcpy(items[i].sources, blocks[i].sources, blocks[i].n_sources * sizeof(struct ulid));
        qsort(items[i].sources, blocks[i].n_sources, sizeof(struct ulid), by_text);
    }
    for (size_t i = 0; good && i < n; i++) {
        ret_by[i] = PLAN_NOT_SUPERSEDED;
        for (size_t k = 0; blocks[i].n_sources && k < n && ret_by[i] == PLAN_NOT_SUPERSEDED; k++)
            if (supersedes(&items[k], &items[i]))
                ret_by[i] = k;
    }
    /* What supersedes a block supersedes all that it supersedes. */
    for (size_t i = 0; good && i < n; i++)
        while (ret_by[i] != PLAN_NOT_SUPERSEDED && ret_by[ret_by[i]] != PLAN_NOT_SUPERSEDED)
            ret_by[i] = ret_by[ret_by[i]];
    for (size_t i = 0; items && i < n; i++)
        free(items[i].sources);
    free(items);
    return good || err_set(err, ERR_NO_MEMORY, "no memory to look for blocks that are superseded");
}
