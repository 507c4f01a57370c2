/*
 * Functions that work on each value by itself: math, time, parts of native histograms, clamp and round, the unary minus. The batch of the child
 * is changed in place and handed on.
 */
#include "read/promql/engine_int.h"

enum { MAP_NEGATE = -1, MAP_DROP_NAME = -2 }; /* beside the function ids */

struct map_op {
    struct op op;
    struct op *child;
    int fn;
    double *p1, *p2;
};

static inline double sgn(double v)
{
    return v < 0 ? -1 : v > 0 ? 1 : v;
}
static inline double deg(double v)
{
    return v * 180 / M_PI;
}
static inline double rad(double v)
{
    return v * M_PI / 180;
}

#define MATH_FUNCTIONS(X)                                                                                              \
    X(ABS, fabs)                                                                                                       \
    X(CEIL, ceil)                                                                                                      \
    X(FLOOR, floor)                                                                                                    \
    X(EXP, exp)                                                                                                        \
    X(SQRT, sqrt)                                                                                                      \
    X(LN, log)                                                                                                         \
    X(LOG2, log2)                                                                                                      \
    X(LOG10, log10)                                                                                                    \
    X(SIN, sin)                                                                                                        \
    X(COS, cos)                                                                                                        \
    X(TAN, tan)                                                                                                        \
    X(ASIN, asin)                                                                                                      \
    X(ACOS, acos)                                                                                                      \
    X(ATAN, atan)                                                                                                      \
    X(SINH, sinh)                                                                                                      \
    X(COSH, cosh)                                                                                                      \
    X(TANH, tanh)                                                                                                      \
    X(ASINH, asinh)                                                                                                    \
    X(ACOSH, acosh)                                                                                                    \
    X(ATANH, atanh)                                                                                                    \
    X(DEG, deg)                                                                                                        \
    X(RAD, rad)                                                                                                        \
    X(SGN, sgn)

static bool is_math(int fn)
{
    switch (fn) {
#define CASE(id, f) case PROMQL_FN_##id:
        MATH_FUNCTIONS(CASE)
#undef CASE
        return true;
    default:
        return false;
    }
}

/* All steps are computed, present or not: what is not present is not looked at, and a loop without branches is faster. */
static void math_column(int fn, double *v, size_t n)
{
    switch (fn) {
#define CASE(id, f)                                                                                                    \
    case PROMQL_FN_##id:                                                                                               \
        for (size_t i = 0; i < n; i++)                                                                                 \
            v[i] = f(v[i]);                                                                                            \
        return;
        MATH_FUNCTIONS(CASE)
#undef CASE
    default:
        return;
    }
}

static double date_part(int fn, double seconds)
{
    /* What does not fit is the smallest integer on the machines that upstream runs on. */
    bool fits = seconds >= -0x1p63 && seconds < 0x1p63;
    struct date_parts d;
    date_parts_of(fits ? (int64_t)seconds : INT64_MIN, &d);
    switch (fn) {
    case PROMQL_FN_YEAR:
        return (double)d.year;
    case PROMQL_FN_MONTH:
        return d.month;
    case PROMQL_FN_DAY_OF_MONTH:
        return d.day;
    case PROMQL_FN_DAY_OF_WEEK:
        return d.weekday;
    case PROMQL_FN_DAY_OF_YEAR:
        return d.yearday;
    case PROMQL_FN_DAYS_IN_MONTH:
        return d.days_in_month;
    case PROMQL_FN_HOUR:
        return d.hour;
    default:
        return d.minute;
    }
}

static bool is_date(int fn)
{
    switch (fn) {
    case PROMQL_FN_YEAR:
    case PROMQL_FN_MONTH:
    case PROMQL_FN_DAY_OF_MONTH:
    case PROMQL_FN_DAY_OF_WEEK:
    case PROMQL_FN_DAY_OF_YEAR:
    case PROMQL_FN_DAYS_IN_MONTH:
    case PROMQL_FN_HOUR:
    case PROMQL_FN_MINUTE:
        return true;
    default:
        return false;
    }
}

/* One float; false takes the value away. */
static bool map_float(const struct map_op *m, size_t step, double *v)
{
    switch (m->fn) {
    case MAP_NEGATE:
        *v = -*v;
        return true;
    case MAP_DROP_NAME:
        return true;
    case PROMQL_FN_CLAMP:
        if (m->p2[step] < m->p1[step])
            return false;
        *v = go_max(m->p1[step], go_min(m->p2[step], *v));
        return true;
    case PROMQL_FN_CLAMP_MIN:
        *v = go_max(m->p1[step], *v);
        return true;
    case PROMQL_FN_CLAMP_MAX:
        *v = go_min(m->p1[step], *v);
        return true;
    case PROMQL_FN_ROUND: {
        /* Halves go up; dividing by the inverse is kinder to 0.1 and the like than multiplying by the value. */
        double inverse = m->p1 ? 1 / m->p1[step] : 1;
        *v = floor(*v * inverse + 0.5) / inverse;
        return true;
    }
    case PROMQL_FN_TIMESTAMP:
        *v = (double)grid_t(&m->op.grid, step) / 1e3;
        return true;
    default:
        if (!is_date(m->fn))
            return false;
        *v = date_part(m->fn, *v);
        return true;
    }
}

/* One histogram to a float. */
static bool map_hist(const struct map_op *m, size_t step, const struct fhist *h, double *v)
{
    switch (m->fn) {
    case PROMQL_FN_HISTOGRAM_COUNT:
        *v = h->count;
        return true;
    case PROMQL_FN_HISTOGRAM_SUM:
        *v = h->sum;
        return true;
    case PROMQL_FN_HISTOGRAM_AVG:
        *v = h->sum / h->count;
        return true;
    case PROMQL_FN_HISTOGRAM_STDVAR:
        *v = fhist_variance(h);
        return true;
    case PROMQL_FN_HISTOGRAM_STDDEV:
        *v = sqrt(fhist_variance(h));
        return true;
    case PROMQL_FN_TIMESTAMP:
        *v = (double)grid_t(&m->op.grid, step) / 1e3;
        return true;
    default:
        return false;
    }
}

static bool map_column(struct map_op *m, struct batch *b, struct column *c)
{
    struct env *env = m->op.env;
    const struct grid *g = &m->op.grid;
    if (is_math(m->fn)) {
        if (c->h)
            FOR_PRESENT (i, c, g)
                if (c->h[i])
                    bit_clear(c->present, i);
        math_column(m->fn, c->v, g->n);
    } else {
        FOR_PRESENT (i, c, g) {
            const struct fhist *h = c->h ? c->h[i] : NULL;
            if (h && m->fn == MAP_NEGATE) {
                if (!(c->h[i] = fhist_scale(h, -1, b->mem)))
                    return env_memory_error(env);
                continue;
            }
            if (!(h ? map_hist(m, i, h, &c->v[i]) : map_float(m, i, &c->v[i])))
                bit_clear(c->present, i);
        }
    }
    if (m->fn != MAP_NEGATE)
        c->h = NULL;
    return column_drop_name(env, b->mem, c);
}

static bool map_next(struct op *op, struct batch **ret)
{
    struct map_op *m = (struct map_op *)op;
    if (!op_next(m->child, ret))
        return false;
    for (size_t i = 0; *ret && i < (*ret)->n; i++)
        if (!map_column(m, *ret, &(*ret)->cols[i]))
            return false;
    return true;
}

static const struct op_ops map_ops = {.next = map_next};

static struct op *map_new(struct env *env, const struct grid *g, struct op *child, int fn, double *p1, double *p2)
{
    if (!child)
        return NULL;
    struct map_op *m = (struct map_op *)op_new(env, sizeof(*m), &map_ops, g);
    if (!m)
        return NULL;
    m->child = child;
    m->fn = fn;
    m->p1 = p1;
    m->p2 = p2;
    m->op.unique = child->unique;
    return op_merge_names(&m->op, fn == MAP_NEGATE ? MERGE_KINDS : MERGE_TURNS);
}

struct op *plan_negate(struct env *env, const struct node *n, const struct grid *g)
{
    return map_new(env, g, plan_vector(env, n->unary.expr, g), MAP_NEGATE, NULL, NULL);
}

/* hour() and its kin without an argument work on the evaluation time. */
static struct op *eval_times(struct env *env, const struct grid *g)
{
    struct columns cs = {0};
    struct column *c;
    if (!columns_push(env, &cs, &c) || !column_alloc(env, env->root, g, false, c))
        return NULL;
    for (size_t i = 0; i < g->n; i++) {
        c->v[i] = (double)grid_t(g, i) / 1e3;
        bit_set(c->present, i);
    }
    struct op *op = op_columns(env, g, cs);
    if (op)
        op->unique = true;
    return op;
}

/* timestamp(selector) gives the time of the sample, timestamp(anything else) that of the evaluation. */
static struct op *plan_timestamp(struct env *env, const struct node *call, const struct grid *g)
{
    const struct node *arg = unwrap(call->call.args[0]);
    if (arg->kind != NODE_VECTOR_SELECTOR)
        return map_new(env, g, plan_vector(env, arg, g), PROMQL_FN_TIMESTAMP, NULL, NULL);
    return map_new(env, g, plan_selector(env, arg, g, SELECT_TIMES), MAP_DROP_NAME, NULL, NULL);
}

/* Start timestamps get lost on the way through an expression: then there is no result, and none from a store that has none. */
static struct op *plan_start_timestamp(struct env *env, const struct node *call, const struct grid *g)
{
    const struct node *arg = unwrap(call->call.args[0]);
    if (arg->kind != NODE_VECTOR_SELECTOR || !env->query->start_times)
        return op_columns(env, g, (struct columns){0});
    return map_new(env, g, plan_selector(env, arg, g, SELECT_START_TIMES), MAP_DROP_NAME, NULL, NULL);
}

static bool is_known(int fn)
{
    switch (fn) {
    case PROMQL_FN_CLAMP:
    case PROMQL_FN_CLAMP_MIN:
    case PROMQL_FN_CLAMP_MAX:
    case PROMQL_FN_ROUND:
    case PROMQL_FN_HISTOGRAM_COUNT:
    case PROMQL_FN_HISTOGRAM_SUM:
    case PROMQL_FN_HISTOGRAM_AVG:
    case PROMQL_FN_HISTOGRAM_STDVAR:
    case PROMQL_FN_HISTOGRAM_STDDEV:
        return true;
    default:
        return is_math(fn) || is_date(fn);
    }
}

struct op *plan_map_call(struct env *env, const struct node *call, const struct grid *g)
{
    int fn = call->call.fn->id;
    struct node **args = call->call.args;
    size_t n = call->call.n_args;
    if (fn == PROMQL_FN_TIMESTAMP)
        return plan_timestamp(env, call, g);
    if (fn == PROMQL_FN_START_TIMESTAMP)
        return plan_start_timestamp(env, call, g);
    if (!is_known(fn)) {
        env_fail(env, ERR_EXECUTION, "function %s is not supported yet", call->call.fn->name);
        return NULL;
    }
    bool stats = env->hist_stats, buckets = env->hist_buckets;
    if (fn == PROMQL_FN_HISTOGRAM_COUNT || fn == PROMQL_FN_HISTOGRAM_SUM || fn == PROMQL_FN_HISTOGRAM_AVG)
        env->hist_stats = true;
    else if (fn == PROMQL_FN_HISTOGRAM_STDDEV || fn == PROMQL_FN_HISTOGRAM_STDVAR)
        env->hist_buckets = true;
    struct op *child = n ? plan_vector(env, args[0], g) : eval_times(env, g);
    env->hist_stats = stats;
    env->hist_buckets = buckets;
    double *p1 = NULL, *p2 = NULL;
    if (!child || (n > 1 && !eval_scalar(env, args[1], g, &p1)) || (n > 2 && !eval_scalar(env, args[2], g, &p2)))
        return NULL;
    return map_new(env, g, child, fn, p1, p2);
}
