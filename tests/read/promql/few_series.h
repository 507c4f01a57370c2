/* A store of a few series that answers each select with all of them. */
#ifndef BRUNN_TESTS_READ_PROMQL_FEW_SERIES_H
#define BRUNN_TESTS_READ_PROMQL_FEW_SERIES_H

#include <criterion/criterion.h>
#include <stdlib.h>
#include <string.h>

#include "storage/queryable.h"

struct few_series {
    struct queryable q;
    const struct series *series;
    size_t n;
};

struct few_series_set {
    struct series_set base;
    const struct few_series *of;
    bool done;
};

static bool few_series_next(struct series_set *base, struct ctx *ctx, struct series *ret, size_t max, size_t *ret_n, struct err *err)
{
    struct few_series_set *s = (struct few_series_set *)base;
    (void)ctx, (void)err;
    cr_assert(max >= s->of->n);
    *ret_n = s->done ? 0 : s->of->n;
    memcpy(ret, s->of->series, *ret_n * sizeof(*ret));
    s->done = true;
    return true;
}

static void few_series_release(struct series_set *base)
{
    free(base);
}

static struct series_set *few_series_select(struct queryable *q, struct ctx *ctx, const struct select_params *p, struct err *err)
{
    static const struct series_set_ops ops = {few_series_next, few_series_release};
    struct few_series_set *s = calloc(1, sizeof(*s));
    (void)ctx, (void)p, (void)err;
    cr_assert(s);
    *s = (struct few_series_set){.base.ops = &ops, .of = (const struct few_series *)q};
    return &s->base;
}

static inline struct few_series few_series_of(const struct series *series, size_t n)
{
    static const struct queryable_ops ops = {.select = few_series_select};
    return (struct few_series){{&ops}, series, n};
}

#endif
