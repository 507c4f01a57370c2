/*
 * A select as a set of series: both phases taken in turns. Labels are read SERIES_MAX at a time.
 */
#include <stdlib.h>

#include "base/assert.h"
#include "storage/store/select_int.h"

#define SERIES_MAX 4096

struct set {
    struct series_set base;
    struct store_select *select; /* owned */
    struct store_stats *stats;   /* not owned; may be NULL */
    bool no_chunks;
    struct store_series *series; /* owned, SERIES_MAX; [at, n) were not handed out yet */
    size_t at, n;
};

static bool next_chunks(struct set *s, struct ctx *ctx, struct series *ret, size_t *n, struct err *err)
{
    if (!s->no_chunks)
        return store_select_chunks(s->select, ctx, ret, *n, n, err);
    for (size_t i = 0; i < *n; i++)
        ret[i] = (struct series){0};
    return true;
}

static bool next(struct set *s, struct ctx *ctx, struct series *ret, size_t max, size_t *ret_n, struct err *err)
{
    if (s->at == s->n) {
        s->at = s->n = 0;
        if (!store_select_series(s->select, ctx, s->series, SERIES_MAX, &s->n, err))
            return false;
    }
    size_t n = MIN(max, s->n - s->at);
    if (n && !next_chunks(s, ctx, ret, &n, err))
        return false;
    for (size_t i = 0; i < n; i++)
        ret[i].labels = s->series[s->at++].labels;
    *ret_n = n;
    return true;
}

static bool set_next(struct series_set *base, struct ctx *ctx, struct series *ret, size_t max, size_t *ret_n, struct err *err)
{
    struct set *s = CONTAINER_OF(base, struct set, base);
    *ret_n = 0;
    bool good = next(s, ctx, ret, max, ret_n, err);
    if (s->stats)
        *s->stats = *store_select_stats(s->select);
    return good;
}

static void set_release(struct series_set *base)
{
    struct set *s = CONTAINER_OF(base, struct set, base);
    store_select_free(s->select);
    free(s->series);
    free(s);
}

static const struct series_set_ops set_ops = {set_next, set_release};

struct series_set *store_block_select(struct store_block *b, struct ctx *ctx, const struct select_params *p, struct store_stats *ret_stats, struct err *err)
{
    struct store_select *select = store_select_new(b, ctx, p, err);
    if (!select)
        return NULL;
    struct set *s = calloc(1, sizeof(*s));
    ASSERT(s);
    *s = (struct set){.base.ops = &set_ops, .select = select, .stats = ret_stats, .no_chunks = p->no_chunks};
    s->series = calloc(SERIES_MAX, sizeof(*s->series));
    ASSERT(s->series);
    if (ret_stats)
        *ret_stats = *store_select_stats(select);
    return &s->base;
}
