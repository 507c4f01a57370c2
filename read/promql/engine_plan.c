/*
 * From the tree to operators. Subtrees whose value does not depend on the step are planned for one step and spread over all of them.
 */
#include "read/promql/engine_int.h"

#include <string.h>

const struct node *unwrap(const struct node *n)
{
    while (n->kind == NODE_PAREN)
        n = n->paren;
    return n;
}

/* Functions whose value depends on the evaluation time although their arguments do not. */
static bool depends_on_time(int fn)
{
    switch (fn) {
    case PROMQL_FN_DAYS_IN_MONTH:
    case PROMQL_FN_DAY_OF_MONTH:
    case PROMQL_FN_DAY_OF_WEEK:
    case PROMQL_FN_DAY_OF_YEAR:
    case PROMQL_FN_HOUR:
    case PROMQL_FN_MINUTE:
    case PROMQL_FN_MONTH:
    case PROMQL_FN_YEAR:
    case PROMQL_FN_PREDICT_LINEAR:
    case PROMQL_FN_TIME:
    case PROMQL_FN_TIMESTAMP:
    case PROMQL_FN_START_TIMESTAMP:
        return true;
    default:
        return false;
    }
}

static bool call_is_invariant(const struct node *n)
{
    if (n->call.fn->id == PROMQL_FN_TIMESTAMP && unwrap(n->call.args[0])->kind == NODE_VECTOR_SELECTOR)
        return is_invariant(n->call.args[0]); /* the sample's own time */
    if (depends_on_time(n->call.fn->id))
        return false;
    if (n->call.fn->id == PROMQL_FN_INFO) /* its second argument is a list of matchers, not something evaluated */
        return is_invariant(n->call.args[0]);
    for (size_t i = 0; i < n->call.n_args; i++)
        if (!is_invariant(n->call.args[i]))
            return false;
    return true;
}

bool is_invariant(const struct node *n)
{
    switch (n->kind) {
    case NODE_NUMBER:
    case NODE_STRING:
        return true;
    case NODE_PAREN:
        return is_invariant(n->paren);
    case NODE_UNARY:
        return is_invariant(n->unary.expr);
    case NODE_BINARY:
        return is_invariant(n->binary.lhs) && is_invariant(n->binary.rhs);
    case NODE_CALL:
        return call_is_invariant(n);
    case NODE_AGGREGATE:
        return is_invariant(n->aggregate.expr); /* as upstream, which takes the parameter of the first step then */
    case NODE_VECTOR_SELECTOR:
        return n->selector.at != AT_NONE;
    case NODE_MATRIX_SELECTOR:
        return is_invariant(n->matrix.selector);
    case NODE_SUBQUERY:
        return n->subquery.at != AT_NONE;
    }
    return false;
}

struct op *op_new(struct env *env, size_t size, const struct op_ops *ops, const struct grid *g)
{
    struct op *op = env_zalloc(env, env->root, 1, size);
    if (!op)
        return NULL;
    op->ops = ops;
    op->env = env;
    op->grid = *g;
    op->count = env->count;
    return op;
}

struct time_shift time_shift_of(const struct env *env, enum at_kind at, int64_t at_ms, int64_t offset_ms)
{
    struct time_shift s = {.fixed = at != AT_NONE, .at_ms = sane_ms(at_ms), .offset_ms = sane_ms(offset_ms)};
    if (at == AT_START)
        s.at_ms = env->query->start_ms;
    else if (at == AT_END)
        s.at_ms = env->query->end_ms;
    return s;
}

/* --- one step spread over all --------------------------------------------------------------------------------------------------- */

struct spread_op {
    struct op op;
    struct op *child;
    struct batch *in; /* what of the child's batch is not handed out yet */
    size_t in_i;
    struct batch *out;
};

static bool spread_one(struct spread_op *s, const struct column *from)
{
    struct grid *g = &s->op.grid;
    struct column *to = batch_slot(s->op.env, s->out, g);
    if (!to)
        return false;
    size_t slot = s->out->n - 1;
    to->labels = from->labels;
    to->drop_name = from->drop_name;
    bool hist = column_is_hist(from, 0);
    if (hist && !column_need_hists(s->op.env, s->out, slot, g))
        return false;
    for (size_t i = 0; i < g->n; i++) {
        to->v[i] = from->v[0];
        bit_set(to->present, i);
        if (hist)
            to->h[i] = from->h[0];
    }
    return true;
}

static bool spread_next(struct op *op, struct batch **ret)
{
    struct spread_op *s = (struct spread_op *)op;
    if (!s->out && !(s->out = batch_new(op->env, batch_cap_for(&op->grid))))
        return false;
    if (!batch_begin(op->env, s->out))
        return false;
    while (s->out->n < s->out->cap) {
        if (!s->in || s->in_i == s->in->n) {
            /* What is in our batch may point into the child's: hand it out before the child goes on. */
            if (s->out->n)
                break;
            if (!op_next(s->child, &s->in))
                return false;
            s->in_i = 0;
            if (!s->in || s->in->n == 0)
                break;
        }
        const struct column *c = &s->in->cols[s->in_i++];
        if (bit_get(c->present, 0) && !spread_one(s, c))
            return false;
    }
    *ret = s->out;
    return true;
}

static void spread_end(struct op *op)
{
    batch_end(op->env, ((struct spread_op *)op)->out);
}

static const struct op_ops spread_ops = {.next = spread_next, .end = spread_end};

static struct op *plan_any(struct env *env, const struct node *n, const struct grid *g);

static struct op *plan_spread(struct env *env, const struct node *n, const struct grid *g)
{
    struct grid one = {g->start_ms, g->step_ms, 1};
    bool over_time = env->over_time, spread = env->count.spread;
    env->over_time = false;
    env->count.spread = true;
    struct op *child = plan_any(env, n, &one);
    env->count.spread = spread;
    env->over_time = over_time;
    if (!child)
        return NULL;
    struct spread_op *s = (struct spread_op *)op_new(env, sizeof(*s), &spread_ops, g);
    if (s) {
        s->child = child;
        s->op.unique = child->unique;
    }
    return (struct op *)s;
}

/* --- series that are all there ----------------------------------------------------------------------------------------------------- */

struct columns_op {
    struct op op;
    struct columns cs;
    size_t i;
    struct batch batch;
};

static bool columns_next(struct op *op, struct batch **ret)
{
    struct columns_op *c = (struct columns_op *)op;
    size_t n = MIN(c->cs.n - c->i, (size_t)BATCH_CAP_MAX);
    if (op->env->any_pair && n > 1 && c->i + n < c->cs.n && labels_eq(c->cs.cols[c->i + n - 1].labels, c->cs.cols[c->i + n].labels))
        n--; /* a pair stays together */
    c->batch.n = 0;
    if (!batch_begin(op->env, &c->batch))
        return false;
    c->batch.cols = c->cs.n ? c->cs.cols + c->i : NULL;
    c->batch.h_store = NULL;
    c->batch.n = c->batch.cap = n;
    c->i += n;
    *ret = &c->batch;
    return true;
}

static void columns_end(struct op *op)
{
    batch_end(op->env, &((struct columns_op *)op)->batch);
}

static const struct op_ops columns_ops = {.next = columns_next, .end = columns_end};

struct op *op_columns(struct env *env, const struct grid *g, struct columns cs)
{
    struct columns_op *c = (struct columns_op *)op_new(env, sizeof(*c), &columns_ops, g);
    if (!c || !(c->batch.mem = env_arena(env)))
        return NULL;
    c->cs = cs;
    return (struct op *)c;
}

/* --- dispatch ------------------------------------------------------------------------------------------------------------------------ */

/* vector(s): one series without labels. */
static struct op *plan_vector_call(struct env *env, const struct node *n, const struct grid *g)
{
    struct columns cs = {0};
    struct column *c;
    double *v;
    if (!eval_scalar(env, n->call.args[0], g, &v) || !columns_push(env, &cs, &c) || !column_alloc(env, env->root, g, false, c))
        return NULL;
    c->v = v;
    for (size_t i = 0; i < g->n; i++)
        bit_set(c->present, i);
    struct op *op = op_columns(env, g, cs);
    if (op)
        op->unique = true;
    return op;
}

static struct op *plan_call(struct env *env, const struct node *n, const struct grid *g)
{
    switch (n->call.fn->id) {
    case PROMQL_FN_VECTOR:
        return plan_vector_call(env, n, g);
    case PROMQL_FN_ABSENT:
        return plan_absent(env, n, g);
    case PROMQL_FN_ABSENT_OVER_TIME:
        return plan_absent_over_time(env, n, g);
    case PROMQL_FN_LABEL_REPLACE:
    case PROMQL_FN_LABEL_JOIN:
        return plan_label_call(env, n, g);
    case PROMQL_FN_SORT:
    case PROMQL_FN_SORT_DESC:
    case PROMQL_FN_SORT_BY_LABEL:
    case PROMQL_FN_SORT_BY_LABEL_DESC:
        return plan_sort(env, n, g);
    case PROMQL_FN_HISTOGRAM_QUANTILE:
    case PROMQL_FN_HISTOGRAM_QUANTILES:
    case PROMQL_FN_HISTOGRAM_FRACTION:
        return plan_histogram_quantile(env, n, g);
    case PROMQL_FN_INFO:
        return plan_info(env, n, g);
    default:
        if (function_takes_range(n))
            return plan_range_call(env, n, g);
        return plan_map_call(env, n, g);
    }
}

static struct op *plan_aggregation(struct env *env, const struct node *n, const struct grid *g)
{
    switch (n->aggregate.op) {
    case AGG_TOPK:
    case AGG_BOTTOMK:
    case AGG_LIMITK:
    case AGG_LIMIT_RATIO:
        return plan_aggregate_k(env, n, g);
    default:
        return plan_aggregate(env, n, g);
    }
}

static struct op *plan_kind(struct env *env, const struct node *n, const struct grid *g)
{
    switch (n->kind) {
    case NODE_VECTOR_SELECTOR:
        return plan_selector(env, n, g, SELECT_VALUES);
    case NODE_UNARY:
        return n->unary.negative ? plan_negate(env, n, g) : plan_vector(env, n->unary.expr, g);
    case NODE_BINARY:
        if (n->binary.lhs->type == VALUE_SCALAR || n->binary.rhs->type == VALUE_SCALAR)
            return plan_vector_scalar(env, n, g);
        return op_is_set(n->binary.op) ? plan_set_op(env, n, g) : plan_binary(env, n, g);
    case NODE_AGGREGATE:
        return plan_aggregation(env, n, g);
    case NODE_CALL:
        return plan_call(env, n, g);
    default:
        env_fail(env, ERR_EXECUTION, "expression of type %s cannot be evaluated as an instant vector", value_type_name(n->type));
        return NULL;
    }
}

static struct op *plan_any(struct env *env, const struct node *n, const struct grid *g)
{
    return plan_shared(env, n, g, plan_kind);
}

/* Does it hand on its input's columns, each as one of its own? */
static bool keeps_pairs(const struct node *n)
{
    return n->kind == NODE_UNARY || (n->kind == NODE_CALL && (n->call.fn->id == PROMQL_FN_LABEL_REPLACE || n->call.fn->id == PROMQL_FN_LABEL_JOIN));
}

struct op *plan_vector(struct env *env, const struct node *n, const struct grid *g)
{
    n = unwrap(n);
    bool straight = env->straight;
    env->straight = straight && keeps_pairs(n);
    struct op *op = g->n > 1 && is_invariant(n) ? plan_spread(env, n, g) : plan_any(env, n, g);
    env->straight = straight;
    return op;
}
