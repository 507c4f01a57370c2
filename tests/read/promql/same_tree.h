/* Are two trees of PromQL the same, but for where their parts stand in the text? For the fuzz target and the tests of printing. */
#pragma once

#include <math.h>

#include "read/promql/ast.h"

static inline bool same_number(double a, double b)
{
    return (isnan(a) && isnan(b)) || (a == b && signbit(a) == signbit(b));
}

static inline bool same_slices(const struct slice *a, size_t n_a, const struct slice *b, size_t n_b)
{
    bool same = n_a == n_b;
    for (size_t i = 0; same && i < n_a; i++)
        same = slice_eq(a[i], b[i]);
    return same;
}

static inline bool same_duration(const struct duration_expr *a, const struct duration_expr *b)
{
    if (!a || !b)
        return a == b;
    return a->op == b->op && (a->op != DUR_LITERAL || same_number(a->seconds, b->seconds)) && a->is_number == b->is_number &&
           same_duration(a->lhs, b->lhs) && same_duration(a->rhs, b->rhs);
}

static inline bool same_matching(const struct vector_matching *a, const struct vector_matching *b)
{
    if (!a || !b)
        return a == b;
    return a->card == b->card && a->on == b->on && same_slices(a->labels, a->n_labels, b->labels, b->n_labels) &&
           same_slices(a->include, a->n_include, b->include, b->n_include) && a->has_fill_left == b->has_fill_left &&
           a->has_fill_right == b->has_fill_right && (!a->has_fill_left || same_number(a->fill_left, b->fill_left)) &&
           (!a->has_fill_right || same_number(a->fill_right, b->fill_right));
}

static inline size_t count_matcher(const struct vector_selector *s, const struct matcher *m)
{
    size_t n = 0;
    for (size_t i = 0; i < s->n_matchers; i++)
        n += s->matchers[i].type == m->type && slice_eq(s->matchers[i].name, m->name) && slice_eq(s->matchers[i].value, m->value);
    return n;
}

/* Matchers are printed in the order of their texts, as Prometheus does. */
static inline bool same_selector(const struct vector_selector *a, const struct vector_selector *b)
{
    bool same = a->n_matchers == b->n_matchers && a->offset_ms == b->offset_ms && same_duration(a->offset_expr, b->offset_expr) && a->at == b->at &&
                (a->at != AT_TIMESTAMP || a->at_ms == b->at_ms) && a->anchored == b->anchored && a->smoothed == b->smoothed;
    for (size_t i = 0; same && i < a->n_matchers; i++)
        same = count_matcher(a, &a->matchers[i]) == count_matcher(b, &a->matchers[i]);
    return same;
}

static inline bool same_tree(const struct node *a, const struct node *b)
{
    if (!a || !b || a->kind != b->kind || a->type != b->type)
        return a == b;
    bool same;
    switch (a->kind) {
    case NODE_NUMBER:
        return same_number(a->number.value, b->number.value) && a->number.is_duration == b->number.is_duration;
    case NODE_STRING:
        return slice_eq(a->string, b->string);
    case NODE_PAREN:
        return same_tree(a->paren, b->paren);
    case NODE_UNARY:
        return a->unary.negative == b->unary.negative && same_tree(a->unary.expr, b->unary.expr);
    case NODE_BINARY:
        return a->binary.op == b->binary.op && a->binary.return_bool == b->binary.return_bool && same_matching(a->binary.matching, b->binary.matching) &&
               same_tree(a->binary.lhs, b->binary.lhs) && same_tree(a->binary.rhs, b->binary.rhs);
    case NODE_CALL:
        same = a->call.fn == b->call.fn && a->call.n_args == b->call.n_args;
        for (size_t i = 0; same && i < a->call.n_args; i++)
            same = same_tree(a->call.args[i], b->call.args[i]);
        return same;
    case NODE_AGGREGATE:
        return a->aggregate.op == b->aggregate.op && a->aggregate.without == b->aggregate.without &&
               same_slices(a->aggregate.grouping, a->aggregate.n_grouping, b->aggregate.grouping, b->aggregate.n_grouping) &&
               same_tree(a->aggregate.param, b->aggregate.param) && same_tree(a->aggregate.expr, b->aggregate.expr);
    case NODE_VECTOR_SELECTOR:
        return same_selector(&a->selector, &b->selector);
    case NODE_MATRIX_SELECTOR:
        return a->matrix.range_ms == b->matrix.range_ms && same_duration(a->matrix.range_expr, b->matrix.range_expr) &&
               same_tree(a->matrix.selector, b->matrix.selector);
    case NODE_SUBQUERY:
        return a->subquery.range_ms == b->subquery.range_ms && a->subquery.step_ms == b->subquery.step_ms && a->subquery.offset_ms == b->subquery.offset_ms &&
               same_duration(a->subquery.range_expr, b->subquery.range_expr) && same_duration(a->subquery.step_expr, b->subquery.step_expr) &&
               same_duration(a->subquery.offset_expr, b->subquery.offset_expr) && a->subquery.at == b->subquery.at &&
               (a->subquery.at != AT_TIMESTAMP || a->subquery.at_ms == b->subquery.at_ms) && same_tree(a->subquery.expr, b->subquery.expr);
    }
    return false;
}
