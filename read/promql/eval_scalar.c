/* Scalars and strings: computed at once, as a column of one double a step. */
#include "read/promql/engine_int.h"

#include <string.h>

bool eval_string(struct env *env, const struct node *n, struct slice *ret)
{
    n = unwrap(n);
    if (n->kind != NODE_STRING)
        return env_fail(env, ERR_EXECUTION, "expected a string literal");
    *ret = n->string;
    return true;
}

/* scalar(v): the value where exactly one float is there, else NaN. */
static bool scalar_of_vector(struct env *env, const struct node *arg, const struct grid *g, double *out)
{
    struct op *op = plan_vector(env, arg, g);
    uint8_t *seen = op ? env_zalloc(env, env->root, g->n, 1) : NULL;
    if (!seen)
        return false;
    for (;;) {
        struct batch *b;
        if (!op_next(op, &b))
            return false;
        if (!b || b->n == 0)
            break;
        for (size_t k = 0; k < b->n; k++) {
            const struct column *c = &b->cols[k];
            FOR_PRESENT (i, c, g) {
                if (column_is_hist(c, i))
                    continue;
                out[i] = c->v[i];
                if (seen[i] < 2)
                    seen[i]++;
            }
        }
    }
    for (size_t i = 0; i < g->n; i++)
        if (seen[i] != 1)
            out[i] = NAN;
    return true;
}

static void fill(double *out, const struct grid *g, double v)
{
    for (size_t i = 0; i < g->n; i++)
        out[i] = v;
}

static bool extreme_of(struct env *env, const struct node *call, const struct grid *g, bool max, double *out)
{
    double *a, *b;
    if (!eval_scalar(env, call->call.args[0], g, &a) || !eval_scalar(env, call->call.args[1], g, &b))
        return false;
    for (size_t i = 0; i < g->n; i++)
        out[i] = max ? go_max(a[i], b[i]) : go_min(a[i], b[i]);
    return true;
}

bool eval_scalar_call(struct env *env, const struct node *call, const struct grid *g, double *out)
{
    const struct engine_query *q = env->query;
    switch (call->call.fn->id) {
    case PROMQL_FN_TIME:
        for (size_t i = 0; i < g->n; i++)
            out[i] = (double)grid_t(g, i) / 1e3;
        return true;
    case PROMQL_FN_PI:
        fill(out, g, M_PI);
        return true;
    case PROMQL_FN_START:
        fill(out, g, (double)q->start_ms / 1e3);
        return true;
    case PROMQL_FN_END:
        fill(out, g, (double)q->end_ms / 1e3);
        return true;
    case PROMQL_FN_STEP:
        fill(out, g, q->start_ms == q->end_ms ? 0 : (double)q->step_ms / 1e3); /* as upstream */
        return true;
    case PROMQL_FN_RANGE:
        fill(out, g, (double)(q->end_ms - q->start_ms) / 1e3);
        return true;
    case PROMQL_FN_MIN_OF:
    case PROMQL_FN_MAX_OF:
        return extreme_of(env, call, g, call->call.fn->id == PROMQL_FN_MAX_OF, out);
    case PROMQL_FN_SCALAR:
        return scalar_of_vector(env, call->call.args[0], g, out);
    default:
        return env_fail(env, ERR_EXECUTION, "function %s is not supported yet", call->call.fn->name);
    }
}

static bool scalar_binary(struct env *env, const struct node *n, const struct grid *g, double *out)
{
    double *l, *r;
    if (!eval_scalar(env, n->binary.lhs, g, &l) || !eval_scalar(env, n->binary.rhs, g, &r))
        return false;
    if (op_is_trim(n->binary.op))
        return env_fail(env, ERR_EXECUTION, "operator \"%s\" not allowed for Scalar operations", op_symbol(n->binary.op));
    for (size_t i = 0; i < g->n; i++) {
        bool keep;
        double v = binary_float(n->binary.op, l[i], r[i], &keep);
        out[i] = op_is_comparison(n->binary.op) ? keep : v;
    }
    return true;
}

bool scalar_extremes(const double *v, size_t n, double *ret_least, double *ret_most)
{
    bool any_nan = false;
    *ret_least = *ret_most = v[0];
    for (size_t i = 0; i < n; i++) {
        *ret_least = go_min(*ret_least, v[i]);
        *ret_most = go_max(*ret_most, v[i]);
        any_nan |= isnan(v[i]);
    }
    return any_nan;
}

static bool eval_steps(struct env *env, const struct node *n, const struct grid *g, double *out)
{
    switch (n->kind) {
    case NODE_NUMBER:
        fill(out, g, n->number.value);
        return true;
    case NODE_UNARY: {
        double *v;
        if (!eval_scalar(env, n->unary.expr, g, &v))
            return false;
        for (size_t i = 0; i < g->n; i++)
            out[i] = n->unary.negative ? -v[i] : v[i];
        return true;
    }
    case NODE_BINARY:
        return scalar_binary(env, n, g, out);
    case NODE_CALL:
        return eval_scalar_call(env, n, g, out);
    default:
        return env_fail(env, ERR_EXECUTION, "expected a scalar expression");
    }
}

bool eval_scalar(struct env *env, const struct node *n, const struct grid *g, double **ret)
{
    n = unwrap(n);
    double *out = ENV_ARRAY(env, double, g->n);
    if (!out)
        return false;
    *ret = out;
    if (g->n == 1 || !is_invariant(n))
        return eval_steps(env, n, g, out);
    struct grid one = {g->start_ms, g->step_ms, 1};
    bool spread = env->count.spread;
    env->count.spread = true;
    bool ok = eval_steps(env, n, &one, out);
    env->count.spread = spread;
    if (!ok)
        return false;
    fill(out, g, out[0]);
    return true;
}
