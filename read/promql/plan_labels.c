/*
 * Projection: which labels of a selector's series are looked at.
 *
 * An aggregation by some labels forgets the others, and with them all that would tell its series apart. Where nothing between it and a selector looks at labels either the store need not
 * make the rest. What is in between is walked through from the aggregation, and only through what is known to look at nothing but the name: a function's window or value, signs, an
 * operation with a scalar. A selector whose series are told apart by their names does not qualify, since they are compared when these are dropped; nor does what another place of the query
 * reads as well.
 */
#include "read/promql/engine_int.h"

/* Functions of values or windows, series by series. */
static bool keeps_series(const struct node *call)
{
    switch (call->call.fn->id) {
    case PROMQL_FN_ABSENT:
    case PROMQL_FN_ABSENT_OVER_TIME:
    case PROMQL_FN_HISTOGRAM_FRACTION:
    case PROMQL_FN_HISTOGRAM_QUANTILE:
    case PROMQL_FN_HISTOGRAM_QUANTILES:
    case PROMQL_FN_INFO:
    case PROMQL_FN_LABEL_JOIN:
    case PROMQL_FN_LABEL_REPLACE:
    case PROMQL_FN_SORT:
    case PROMQL_FN_SORT_BY_LABEL:
    case PROMQL_FN_SORT_BY_LABEL_DESC:
    case PROMQL_FN_SORT_DESC:
    case PROMQL_FN_VECTOR:
        return false;
    default:
        return call->type == VALUE_VECTOR;
    }
}

/* The one that gives series to the expression, one step down; NULL: there is none, or several, or labels are looked at. */
static const struct node *source_of(const struct node *n)
{
    switch (n->kind) {
    case NODE_UNARY:
        return n->unary.expr;
    case NODE_BINARY:
        if (n->binary.lhs->type == VALUE_SCALAR)
            return n->binary.rhs->type == VALUE_VECTOR ? n->binary.rhs : NULL;
        return n->binary.rhs->type == VALUE_SCALAR ? n->binary.lhs : NULL;
    case NODE_CALL:
        if (n->call.n_args == 0 || !keeps_series(n))
            return NULL;
        return n->call.args[n->call.fn->id == PROMQL_FN_QUANTILE_OVER_TIME ? 1 : 0];
    case NODE_MATRIX_SELECTOR:
        return n->matrix.selector;
    default:
        return NULL;
    }
}

static bool is_shared(const struct env *env, const struct node *n)
{
    uint64_t hash;
    return shares_uses(env, n, &hash) > 1;
}

const struct node *plan_projection(const struct env *env, const struct node *aggregate)
{
    const struct node *n = unwrap(aggregate->aggregate.expr);
    enum aggregate_op op = aggregate->aggregate.op;
    bool chooses = op == AGG_TOPK || op == AGG_BOTTOMK || op == AGG_LIMITK || op == AGG_LIMIT_RATIO;
    if (chooses || aggregate->aggregate.without || env->query->start_times)
        return NULL;
    while (n && !is_shared(env, n) && n->kind != NODE_VECTOR_SELECTOR)
        n = (n = source_of(n)) ? unwrap(n) : NULL;
    bool ok = n && n->kind == NODE_VECTOR_SELECTOR && !is_shared(env, n) && !is_nothing(n) && selector_is_unique(n);
    return ok ? n : NULL;
}
