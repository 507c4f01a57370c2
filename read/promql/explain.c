/* The plan of a query in words, one operator a line, for `brunn tool promql explain`. It asks what planning asks, and reads nothing. */
#include <stdio.h>

#include "base/buf.h"
#include "read/promql/eval_range_int.h"
#include "read/promql/parse_int.h"

struct explainer {
    struct env *env;
    struct buf *out;
    bool many_steps;
    bool stats, buckets; /* as env.hist_stats and env.hist_buckets */
    const struct node *projected, *by; /* a selector, and the aggregation that looks at some of its labels only */
    uint64_t *seen;      /* hashes of the shared expressions so far: the index + 1 is their number */
    size_t n_seen;
};

static void put_slices(struct buf *out, const struct slice *items, size_t n)
{
    buf_puts(out, " (");
    for (size_t i = 0; i < n; i++)
        buf_printf(out, "%s%.*s", i ? ", " : "", SL_FMT(items[i]));
    buf_puts(out, ")");
}

static void put_duration(struct buf *out, int64_t ms)
{
    static const struct {
        int64_t ms;
        const char *unit;
    } units[] = {{86400000, "d"}, {3600000, "h"}, {60000, "m"}, {1000, "s"}, {1, "ms"}};
    size_t i = 0;
    while (i < 4 && (ms == 0 || ms % units[i].ms))
        i++;
    buf_printf(out, "%lld%s", (long long)(ms / units[i].ms), units[i].unit);
}

/* " on (x) group_left (y)" */
static void put_matching(struct buf *out, const struct vector_matching *m)
{
    if (m->on || m->n_labels) {
        buf_puts(out, m->on ? " on" : " ignoring");
        put_slices(out, m->labels, m->n_labels);
    }
    if (m->card == CARD_MANY_TO_ONE || m->card == CARD_ONE_TO_MANY) {
        buf_puts(out, m->card == CARD_MANY_TO_ONE ? " group_left" : " group_right");
        put_slices(out, m->include, m->n_include);
    }
    if (m->has_fill_left || m->has_fill_right)
        buf_puts(out, " with what is missing filled in");
}

/* The line's own words; children in the order of evaluation. */
static void put_binary(struct explainer *e, const struct node *n)
{
    bool l = n->binary.lhs->type == VALUE_SCALAR, r = n->binary.rhs->type == VALUE_SCALAR;
    const char *op = op_symbol(n->binary.op);
    if (l && r) {
        buf_printf(e->out, "scalar %s scalar", op);
    } else if (l || r) {
        buf_printf(e->out, l ? "scalar %s each value of a series" : "each value of a series %s scalar", op);
    } else {
        buf_printf(e->out, "match %s", op);
        put_matching(e->out, n->binary.matching);
    }
}

static void put_call(struct explainer *e, const struct node *n)
{
    buf_printf(e->out, "%s()", n->call.fn->name);
    if (!function_takes_range(n))
        return;
    const struct node *arg = unwrap(n->call.args[n->call.fn->id == PROMQL_FN_QUANTILE_OVER_TIME ? 1 : 0]);
    bool sub = arg->kind == NODE_SUBQUERY;
    buf_puts(e->out, " over ");
    put_duration(e->out, sub ? arg->subquery.range_ms : arg->matrix.range_ms);
    if (sub) {
        buf_puts(e->out, ", of a subquery each ");
        put_duration(e->out, arg->subquery.step_ms ? arg->subquery.step_ms : e->env->cfg->default_evaluation_interval_ms);
    }
    buf_puts(e->out, function_slides(n->call.fn->id) ? " [one pass for all windows]" : " [window by window]");
}

static void put_aggregate(struct explainer *e, const struct node *n)
{
    buf_puts(e->out, aggregate_op_text(n->aggregate.op));
    if (n->aggregate.n_grouping || n->aggregate.without) {
        buf_puts(e->out, n->aggregate.without ? " without" : " by");
        put_slices(e->out, n->aggregate.grouping, n->aggregate.n_grouping);
    }
}

/* False: it reads what an earlier one has made, which has been explained. */
static bool put_share(struct explainer *e, const struct node *n)
{
    uint64_t hash;
    size_t uses = shares_uses(e->env, n, &hash);
    if (uses < 2)
        return true;
    for (size_t i = 0; i < e->n_seen; i++)
        if (e->seen[i] == hash) {
            buf_printf(e->out, " [reads #%zu]", i + 1);
            return false;
        }
    e->seen[e->n_seen++] = hash;
    buf_printf(e->out, " [#%zu, evaluated once, read %zu times]", e->n_seen, uses);
    return true;
}

static void put_selector(struct explainer *e, const struct node *n)
{
    if (is_nothing(n)) {
        buf_puts(e->out, "nothing [matchers exclude each other]");
        return;
    }
    buf_puts(e->out, "series ");
    promql_print(n, e->out);
    if (e->stats && !e->buckets)
        buf_puts(e->out, " [without the buckets of histograms]");
    if (n != e->projected)
        return;
    buf_puts(e->out, e->by->aggregate.n_grouping ? " [of the labels" : " [without labels");
    if (e->by->aggregate.n_grouping)
        put_slices(e->out, e->by->aggregate.grouping, e->by->aggregate.n_grouping);
    buf_puts(e->out, "]");
}

/* As put_share. */
static bool put_line(struct explainer *e, const struct node *n)
{
    switch (n->kind) {
    case NODE_UNARY:
        buf_puts(e->out, n->unary.negative ? "negate" : "as it is");
        break;
    case NODE_BINARY:
        put_binary(e, n);
        break;
    case NODE_CALL:
        put_call(e, n);
        break;
    case NODE_AGGREGATE:
        put_aggregate(e, n);
        break;
    case NODE_VECTOR_SELECTOR:
        put_selector(e, n);
        break;
    case NODE_SUBQUERY:
        buf_puts(e->out, "subquery over ");
        put_duration(e->out, n->subquery.range_ms);
        break;
    default:
        promql_print(n, e->out);
        break;
    }
    return put_share(e, n);
}

/* What is below a function that needs of histograms only counts and sums, or buckets too. */
static void look_at_needs(struct explainer *e, const struct node *n)
{
    int fn = n->kind == NODE_CALL ? n->call.fn->id : -1;
    e->stats |= fn == PROMQL_FN_HISTOGRAM_COUNT || fn == PROMQL_FN_HISTOGRAM_SUM || fn == PROMQL_FN_HISTOGRAM_AVG;
    e->buckets |= fn == PROMQL_FN_HISTOGRAM_STDDEV || fn == PROMQL_FN_HISTOGRAM_STDVAR || fn == PROMQL_FN_HISTOGRAM_QUANTILE ||
                  fn == PROMQL_FN_HISTOGRAM_QUANTILES || fn == PROMQL_FN_HISTOGRAM_FRACTION || n->kind == NODE_SUBQUERY ||
                  (n->kind == NODE_BINARY && (n->binary.op == OP_TRIM_UPPER || n->binary.op == OP_TRIM_LOWER));
}

static void explain(struct explainer *e, const struct node *n, int depth);

static void explain_children(struct explainer *e, const struct node *n, int depth)
{
    const struct node *children[PROMQL_MAX_ARGS];
    size_t k = node_children(n, children);
    bool range = n->kind == NODE_CALL && function_takes_range(n);
    for (size_t i = 0; i < k; i++) {
        const struct node *c = unwrap(children[i]);
        /* Windows and their subquery are one line. */
        bool many = e->many_steps, sub = c->kind == NODE_SUBQUERY || n->kind == NODE_SUBQUERY;
        if (range && c->kind == NODE_SUBQUERY) {
            look_at_needs(e, c);
            c = c->subquery.expr;
        }
        e->many_steps |= sub; /* its own */
        explain(e, c->kind == NODE_MATRIX_SELECTOR ? c->matrix.selector : c, depth);
        e->many_steps = many;
    }
}

static void explain(struct explainer *e, const struct node *n, int depth)
{
    n = unwrap(n);
    bool stats = e->stats, buckets = e->buckets, many = e->many_steps;
    for (int i = 0; i < depth; i++)
        buf_puts(e->out, "  ");
    bool whole = put_line(e, n);
    if (many && n->kind != NODE_NUMBER && n->kind != NODE_STRING && is_invariant(n)) {
        buf_puts(e->out, " [one step stands for all]");
        e->many_steps = false;
    }
    buf_puts(e->out, "\n");
    look_at_needs(e, n);
    if (n->kind == NODE_AGGREGATE) {
        e->projected = plan_projection(e->env, n);
        e->by = n;
    }
    if (whole)
        explain_children(e, n, depth + 1);
    e->stats = stats;
    e->buckets = buckets;
    e->many_steps = many;
}

bool engine_explain(const struct engine_config *cfg, struct ctx *ctx, const struct engine_query *query, struct buf *out, struct err *err)
{
    struct env env = {.cfg = cfg, .query = query, .ctx = ctx, .err = err};
    env.root = env_arena(&env);
    bool ok = env.root != NULL && env_tick(&env);
    const struct node *n = ok ? plan_simplify(query->expr, env.root) : NULL;
    ok = n && shares_find(&env, n);
    struct explainer e = {.env = &env, .out = out, .many_steps = query->end_ms > query->start_ms};
    ok = ok && (e.seen = ENV_ARRAY(&env, uint64_t, shares_count(&env) + 1));
    if (ok)
        explain(&e, n, 0);
    else if (err->code == ERR_OK)
        env_memory_error(&env);
    env_release(&env);
    return ok;
}
