/* Functions of labels and of the set of series: label_replace, label_join, the sorts, absent. */
#include "read/promql/engine_int.h"

#include <stdlib.h>
#include <string.h>

#include "base/regex.h"
#include "base/utf8.h"

/* --- label_replace, label_join ----------------------------------------------------------------------------------------------------- */

struct label_op {
    struct op op;
    struct op *child;
    struct slice dst;
    struct regex *regex; /* label_replace */
    struct slice replacement, src;
    struct slice separator; /* label_join */
    struct slice *parts;
    size_t n_parts;
    struct buf buf;
};

/* The new value of dst; false in *ret_change: the series stays as it is. */
static bool new_value(struct label_op *l, const struct labels *labels, struct slice *ret, bool *ret_change)
{
    struct env *env = l->op.env;
    struct buf b;
    buf_init(&b, 1 << 20);
    *ret_change = true;
    if (l->regex) {
        struct slice src = labels_get(*labels, l->src);
        *ret_change = regex_expand(l->regex, src.n ? src : SL(""), l->replacement, &b); /* groups point into the text: it has an address */
    } else {
        for (size_t i = 0; i < l->n_parts; i++) {
            if (i)
                buf_put_slice(&b, l->separator);
            buf_put_slice(&b, labels_get(*labels, l->parts[i]));
        }
    }
    *ret = b.n ? arena_dup(env->root, buf_slice(&b)) : (struct slice){0};
    bool ok = !b.failed && (b.n == 0 || ret->p);
    buf_release(&b);
    return ok || env_memory_error(env);
}

static bool label_next(struct op *op, struct batch **ret)
{
    struct label_op *l = (struct label_op *)op;
    if (!op_next(l->child, ret))
        return false;
    for (size_t i = 0; *ret && i < (*ret)->n; i++) {
        struct column *c = &(*ret)->cols[i];
        struct slice value;
        bool change;
        if (!new_value(l, &c->labels, &value, &change))
            return false;
        if (!change)
            continue;
        if (!labels_set(op->env, (*ret)->mem, c->labels, l->dst, value, &c->labels))
            return false;
        if (slice_eq(l->dst, SL(METRIC_NAME_LABEL)))
            c->drop_name = false;
    }
    return true;
}

static const struct op_ops label_ops = {.next = label_next};

static bool check_label_name(struct env *env, struct slice name, const char *what, const char *fn)
{
    if (name.n && utf8_valid(name))
        return true;
    return env_fail(env, ERR_EXECUTION, "invalid %s label name in %s(): %.*s", what, fn, SL_FMT(name));
}

static bool plan_replace(struct label_op *l, struct node **args)
{
    struct env *env = l->op.env;
    struct slice pattern;
    if (!eval_string(env, args[1], &l->dst) || !eval_string(env, args[2], &l->replacement) || !eval_string(env, args[3], &l->src) ||
        !eval_string(env, args[4], &pattern))
        return false;
    struct regex_ref *ref = ENV_NEW(env, struct regex_ref);
    if (!ref)
        return false;
    if (!(l->regex = regex_new(pattern, NULL)))
        return env_fail(env, ERR_EXECUTION, "invalid regular expression in label_replace(): %.*s", SL_FMT(pattern));
    ref->regex = l->regex;
    ref->next = env->regexes;
    env->regexes = ref;
    return check_label_name(env, l->dst, "destination", "label_replace");
}

static bool plan_join(struct label_op *l, struct node **args, size_t n)
{
    struct env *env = l->op.env;
    if (!eval_string(env, args[1], &l->dst) || !eval_string(env, args[2], &l->separator))
        return false;
    l->n_parts = n - 3;
    if (!(l->parts = ENV_ARRAY(env, struct slice, l->n_parts)))
        return false;
    for (size_t i = 3; i < n; i++)
        if (!eval_string(env, args[i], &l->parts[i - 3]) || !check_label_name(env, l->parts[i - 3], "source", "label_join"))
            return false;
    return check_label_name(env, l->dst, "destination", "label_join");
}

struct op *plan_label_call(struct env *env, const struct node *call, const struct grid *g)
{
    struct label_op *l = (struct label_op *)op_new(env, sizeof(*l), &label_ops, g);
    if (!l || !(l->child = plan_vector(env, call->call.args[0], g)))
        return NULL;
    bool replace = call->call.fn->id == PROMQL_FN_LABEL_REPLACE;
    if (!(replace ? plan_replace(l, call->call.args) : plan_join(l, call->call.args, call->call.n_args)))
        return NULL;
    struct op *m = op_merge(&l->op, MERGE_KINDS);
    if (m)
        m->unique = false; /* names are kept: only the whole label sets are unique */
    return m;
}

/* --- sort --------------------------------------------------------------------------------------------------------------------------- */

struct sort_op {
    struct op op;
    struct op *child;
    int fn;
    struct slice *by;
    size_t n_by;
    struct op *out;
};

/* NaN goes last in both directions. */
static int cmp_values(double a, double b, bool desc)
{
    if (isnan(a) || isnan(b))
        return isnan(a) - isnan(b);
    return desc ? (a < b) - (a > b) : (a > b) - (a < b);
}

static bool is_digit(char c)
{
    return c >= '0' && c <= '9';
}

/* Natural order: runs of digits compare as numbers. */
static int cmp_natural(struct slice a, struct slice b)
{
    size_t i = 0, j = 0;
    while (i < a.n && j < b.n) {
        if (!is_digit(a.p[i]) || !is_digit(b.p[j])) {
            if (a.p[i] != b.p[j])
                return (unsigned char)a.p[i] < (unsigned char)b.p[j] ? -1 : 1;
            i++, j++;
            continue;
        }
        size_t ai = i, bj = j;
        while (ai < a.n && a.p[ai] == '0')
            ai++;
        while (bj < b.n && b.p[bj] == '0')
            bj++;
        size_t ae = ai, be = bj;
        while (ae < a.n && is_digit(a.p[ae]))
            ae++;
        while (be < b.n && is_digit(b.p[be]))
            be++;
        if (ae - ai != be - bj)
            return ae - ai < be - bj ? -1 : 1;
        int c = ae > ai ? memcmp(a.p + ai, b.p + bj, ae - ai) : 0;
        if (c)
            return c;
        i = ae, j = be;
    }
    if ((i < a.n) != (j < b.n))
        return i < a.n ? 1 : -1;
    return slice_cmp(a, b);
}

static int cmp_columns(const void *pa, const void *pb, const void *arg)
{
    const struct column *a = pa, *b = pb;
    const struct sort_op *s = arg;
    if (s->fn == PROMQL_FN_SORT || s->fn == PROMQL_FN_SORT_DESC)
        return cmp_values(a->v[0], b->v[0], s->fn == PROMQL_FN_SORT_DESC);
    int c = 0;
    for (size_t i = 0; c == 0 && i < s->n_by; i++)
        c = cmp_natural(labels_get(a->labels, s->by[i]), labels_get(b->labels, s->by[i]));
    if (c == 0)
        c = labels_cmp(a->labels, b->labels);
    return s->fn == PROMQL_FN_SORT_BY_LABEL_DESC ? -c : c;
}

/* sort and sort_desc drop histograms; qsort_r is not stable, and neither is the order of equal values upstream. */
static bool sort_columns(struct sort_op *s, struct columns *cs)
{
    bool by_value = s->fn == PROMQL_FN_SORT || s->fn == PROMQL_FN_SORT_DESC;
    size_t n = 0;
    for (size_t i = 0; i < cs->n; i++) {
        struct column *c = &cs->cols[i];
        if (by_value && c->h) {
            FOR_PRESENT (k, c, &s->op.grid)
                if (c->h[k])
                    bit_clear(c->present, k);
            c->h = NULL;
        }
        if (!column_empty(c, &s->op.grid))
            cs->cols[n++] = *c;
    }
    cs->n = n;
    return s->op.grid.n > 1 || env_sort(s->op.env, cs->cols, n, sizeof(*cs->cols), cmp_columns, s);
}

static bool sort_next(struct op *op, struct batch **ret)
{
    struct sort_op *s = (struct sort_op *)op;
    if (!s->out) {
        struct columns cs;
        if (!op_drain(s->child, &cs) || !sort_columns(s, &cs) || !(s->out = op_columns(op->env, &op->grid, cs)))
            return false;
    }
    return op_next(s->out, ret);
}

static const struct op_ops sort_ops = {.next = sort_next};

struct op *plan_sort(struct env *env, const struct node *call, const struct grid *g)
{
    struct sort_op *s = (struct sort_op *)op_new(env, sizeof(*s), &sort_ops, g);
    if (!s || !(s->child = plan_vector(env, call->call.args[0], g)))
        return NULL;
    if (env->over_time && !is_invariant(call)) /* what does not depend on the step has one time only */
        WARN(env, call->pos.start, "sort is ineffective for range queries since results are always ordered by labels");
    s->fn = call->call.fn->id;
    s->op.unique = s->child->unique;
    s->n_by = call->call.n_args - 1;
    if (!(s->by = ENV_ARRAY(env, struct slice, s->n_by)))
        return NULL;
    for (size_t i = 0; i < s->n_by; i++)
        if (!eval_string(env, call->call.args[i + 1], &s->by[i]) || !check_label_name(env, s->by[i], "sort", call->call.fn->name))
            return NULL;
    return &s->op;
}

/* --- absent ---------------------------------------------------------------------------------------------------------------------------- */

struct absent_op {
    struct op op;
    struct op *child;
    const struct node *arg;
    struct op *out;
};

bool absent_labels(struct env *env, const struct node *arg, struct labels *ret)
{
    arg = unwrap(arg);
    if (arg->kind == NODE_MATRIX_SELECTOR)
        arg = unwrap(arg->matrix.selector);
    *ret = (struct labels){0};
    if (arg->kind != NODE_VECTOR_SELECTOR)
        return true;
    const struct vector_selector *sel = &arg->selector;
    struct label *items = ENV_ARRAY(env, struct label, sel->n_matchers);
    if (!items)
        return false;
    size_t n = 0;
    for (size_t i = 0; i < sel->n_matchers; i++) {
        const struct matcher *m = &sel->matchers[i];
        /* A label is known when one equality is all that is said about it. */
        bool known = m->type == MATCH_EQ && m->value.n && !slice_eq(m->name, SL(METRIC_NAME_LABEL));
        for (size_t j = 0; known && j < sel->n_matchers; j++)
            known = j == i || !slice_eq(m->name, sel->matchers[j].name);
        if (known)
            items[n++] = (struct label){m->name, m->value};
    }
    labels_sort(items, n);
    *ret = (struct labels){items, n};
    return true;
}

static bool absent_run(struct absent_op *a, struct column *c)
{
    const struct grid *g = &a->op.grid;
    for (size_t i = 0; i < g->n; i++) {
        c->v[i] = 1;
        bit_set(c->present, i);
    }
    for (;;) {
        struct batch *b;
        if (!op_next(a->child, &b))
            return false;
        if (!b || b->n == 0)
            return true;
        for (size_t i = 0; i < b->n; i++)
            for (size_t w = 0; w < grid_words(g); w++)
                c->present[w] &= ~b->cols[i].present[w];
    }
}

static bool absent_next(struct op *op, struct batch **ret)
{
    struct absent_op *a = (struct absent_op *)op;
    if (!a->out) {
        struct columns cs = {0};
        struct column *c;
        if (!columns_push(op->env, &cs, &c) || !column_alloc(op->env, op->env->root, &op->grid, false, c) ||
            !absent_labels(op->env, a->arg, &c->labels) || !absent_run(a, c))
            return false;
        if (column_empty(c, &op->grid))
            cs.n = 0;
        if (!(a->out = op_columns(op->env, &op->grid, cs)))
            return false;
    }
    return op_next(a->out, ret);
}

static const struct op_ops absent_ops = {.next = absent_next};

struct op *plan_absent(struct env *env, const struct node *call, const struct grid *g)
{
    struct absent_op *a = (struct absent_op *)op_new(env, sizeof(*a), &absent_ops, g);
    if (!a || !(a->child = plan_vector(env, call->call.args[0], g)))
        return NULL;
    a->arg = call->call.args[0];
    a->op.unique = true;
    return &a->op;
}
