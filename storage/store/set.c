/*
 * A select as a set of series: both phases taken in turns.
 *
 * Labels are read SERIES_MAX at a time, and the chunks of as many of them as a batch has room for; callers are handed what is ready, in portions of their own.
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
    struct store_series *labels; /* owned, SERIES_MAX; [labels_at, n_labels) have no chunks yet */
    size_t labels_at, n_labels;
    struct series *ready; /* owned, SERIES_MAX; [ready_at, n_ready) were not handed out yet */
    size_t ready_at, n_ready;
};

/* Fills ready from labels. */
static bool read_chunks(struct set *s, struct ctx *ctx, struct err *err)
{
    size_t n = s->n_labels - s->labels_at;
    if (s->no_chunks)
        for (size_t i = 0; i < n; i++)
            s->ready[i] = (struct series){0};
    else if (!store_select_chunks(s->select, ctx, s->ready, n, &n, err))
        return false;
    for (size_t i = 0; i < n; i++)
        s->ready[i].labels = s->labels[s->labels_at++].labels;
    s->ready_at = 0;
    s->n_ready = n;
    return true;
}

static bool refill(struct set *s, struct ctx *ctx, struct err *err)
{
    if (s->labels_at == s->n_labels) {
        s->labels_at = 0;
        s->n_labels = 0;
        if (!store_select_series(s->select, ctx, s->labels, SERIES_MAX, &s->n_labels, err))
            return false;
    }
    return s->n_labels == 0 || read_chunks(s, ctx, err);
}

static bool set_next(struct series_set *base, struct ctx *ctx, struct series *ret, size_t max, size_t *ret_n, struct err *err)
{
    struct set *s = CONTAINER_OF(base, struct set, base);
    *ret_n = 0;
    if (s->ready_at == s->n_ready) {
        s->ready_at = s->n_ready = 0;
        bool good = refill(s, ctx, err);
        if (s->stats)
            *s->stats = *store_select_stats(s->select);
        if (!good)
            return false;
    }
    while (*ret_n < max && s->ready_at < s->n_ready)
        ret[(*ret_n)++] = s->ready[s->ready_at++];
    return true;
}

static void set_release(struct series_set *base)
{
    struct set *s = CONTAINER_OF(base, struct set, base);
    store_select_free(s->select);
    free(s->labels);
    free(s->ready);
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
    s->labels = calloc(SERIES_MAX, sizeof(*s->labels));
    s->ready = calloc(SERIES_MAX, sizeof(*s->ready));
    ASSERT(s->labels && s->ready);
    if (ret_stats)
        *ret_stats = *store_select_stats(select);
    return &s->base;
}
