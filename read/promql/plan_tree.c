/*
 * What the tree of a query can lose before operators are made of it. The tree itself is not changed: nodes on the way to a change are copied.
 *
 *   constants   Arithmetic on numbers becomes a number, and so do pi(), min_of() and max_of() of numbers, and scalar(vector()) of one.
 *   matchers    One that another of the same selector makes superfluous goes: written twice, =~".*", or on a label that another fixes to a value it allows.
 *   nothing     A label fixed to a value that another matcher excludes: the selector gives nothing, which is written as a selector without matchers. So do
 *               functions and aggregations of it that have no other argument, and matches with it on either side (but for fill and `or`), whose other
 *               side is not read. As in Mimir, what that would have been warned of is not.
 *
 * absent() and info() read matchers as they were written: what is below them stays.
 */
#include <string.h>

#include "read/promql/engine_int.h"

bool is_nothing(const struct node *n)
{
    return n->kind == NODE_VECTOR_SELECTOR && n->selector.n_matchers == 0;
}

static struct node *copy_of(const struct node *n, struct arena *a)
{
    struct node *copy = ARENA_NEW(a, struct node);
    if (copy)
        *copy = *n;
    return copy;
}

static struct node *nothing(const struct node *n, struct arena *a)
{
    struct node *copy = ARENA_NEW(a, struct node);
    if (!copy)
        return NULL;
    *copy = (struct node){.kind = NODE_VECTOR_SELECTOR, .type = VALUE_VECTOR, .depth = 1, .pos = n->pos};
    if (n->kind == NODE_VECTOR_SELECTOR)
        copy->selector = n->selector; /* modifiers may still be wrong */
    copy->selector.matchers = NULL;
    copy->selector.n_matchers = 0;
    return copy;
}

static struct node *number(const struct node *n, struct arena *a, double v)
{
    struct node *copy = ARENA_NEW(a, struct node);
    if (copy)
        *copy = (struct node){.kind = NODE_NUMBER, .type = VALUE_SCALAR, .depth = 1, .pos = n->pos, .number = {.value = v}};
    return copy;
}

/* --- matchers ---------------------------------------------------------------------------------------------------------------------------- */

static bool same_matcher(const struct matcher *a, const struct matcher *b)
{
    return a->type == b->type && slice_eq(a->name, b->name) && slice_eq(a->value, b->value);
}

/* Which of the others makes m superfluous? Of two equal ones the first stays. */
static bool superfluous(const struct vector_selector *s, size_t i)
{
    const struct matcher *m = &s->matchers[i];
    if (m->type == MATCH_RE && slice_eq(m->value, SL(".*")) && s->n_matchers > 1)
        return true;
    for (size_t k = 0; k < s->n_matchers; k++) {
        const struct matcher *o = &s->matchers[k];
        if (k == i || !slice_eq(o->name, m->name))
            continue;
        if (same_matcher(o, m) ? k < i : o->type == MATCH_EQ && m->type != MATCH_EQ && matcher_matches(m, o->value))
            return true;
    }
    return false;
}

static bool contradictory(const struct vector_selector *s)
{
    for (size_t i = 0; i < s->n_matchers; i++)
        for (size_t k = 0; k < s->n_matchers && s->matchers[i].type == MATCH_EQ; k++)
            if (slice_eq(s->matchers[i].name, s->matchers[k].name) && !matcher_matches(&s->matchers[k], s->matchers[i].value))
                return true;
    return false;
}

#define MATCHERS_LOOKED_AT 64 /* of more, which nobody writes, each pair is not compared */

static struct node *simplify_selector(struct node *n, struct arena *a)
{
    const struct vector_selector *s = &n->selector;
    if (s->n_matchers < 2 || s->n_matchers > MATCHERS_LOOKED_AT)
        return n;
    if (contradictory(s))
        return nothing(n, a);
    struct matcher kept[MATCHERS_LOOKED_AT];
    size_t k = 0;
    for (size_t i = 0; i < s->n_matchers; i++)
        if (!superfluous(s, i))
            kept[k++] = s->matchers[i];
    if (k == s->n_matchers || k == 0) /* k == 0: all of them are =~".*" */
        return n;
    struct node *copy = copy_of(n, a);
    struct matcher *ms = copy ? ARENA_ARRAY(a, struct matcher, k) : NULL;
    if (!ms)
        return NULL;
    memcpy(ms, kept, k * sizeof(*ms));
    copy->selector.matchers = ms;
    copy->selector.n_matchers = k;
    return copy;
}

/* --- nodes -------------------------------------------------------------------------------------------------------------------------------- */

static struct node *simplify(struct node *n, struct arena *a);

static struct node *fold(const struct node *n, const struct node *l, const struct node *r, struct arena *a)
{
    bool keep;
    double v = binary_float(n->binary.op, l->number.value, r->number.value, &keep);
    return number(n, a, op_is_comparison(n->binary.op) ? keep : v);
}

/* A match of which at least one side is nothing. */
static struct node *match_with_nothing(struct node *n, struct node *l, struct node *r, struct arena *a)
{
    const struct vector_matching *m = n->binary.matching;
    switch (n->binary.op) {
    case OP_OR:
        return is_nothing(l) ? r : l;
    case OP_UNLESS:
        return l;
    default:
        return m && (m->has_fill_left || m->has_fill_right) ? NULL : nothing(n, a);
    }
}

static struct node *simplify_binary(struct node *n, struct arena *a)
{
    struct node *l = simplify(n->binary.lhs, a), *r = l ? simplify(n->binary.rhs, a) : NULL;
    if (!r)
        return NULL;
    if (l->kind == NODE_NUMBER && r->kind == NODE_NUMBER && !op_is_trim(n->binary.op)) /* that is an error, when it is evaluated */
        return fold(n, l, r, a);
    if (is_nothing(l) || is_nothing(r)) {
        struct node *less = match_with_nothing(n, l, r, a);
        if (less)
            return less;
    }
    if (l == n->binary.lhs && r == n->binary.rhs)
        return n;
    struct node *copy = copy_of(n, a);
    if (copy) {
        copy->binary.lhs = l;
        copy->binary.rhs = r;
    }
    return copy;
}

/* NULL: it is no constant, or out of memory, which the caller finds out in another way. */
static struct node *constant_call(const struct node *n, struct node *const *args, struct arena *a)
{
    size_t numbers = 0;
    for (size_t i = 0; i < n->call.n_args; i++)
        numbers += unwrap(args[i])->kind == NODE_NUMBER;
    double x = numbers > 0 ? unwrap(args[0])->number.value : 0, y = numbers > 1 ? unwrap(args[1])->number.value : 0;
    if (numbers < n->call.n_args)
        return NULL;
    switch (n->call.fn->id) {
    case PROMQL_FN_PI:
        return number(n, a, M_PI);
    case PROMQL_FN_MIN_OF:
        return number(n, a, go_min(x, y));
    case PROMQL_FN_MAX_OF:
        return number(n, a, go_max(x, y));
    default:
        return NULL;
    }
}

/* The number that a scalar is made of, or NULL. */
static const struct node *number_in_vector(const struct node *n)
{
    const struct node *inner = n->call.fn->id == PROMQL_FN_SCALAR ? unwrap(n->call.args[0]) : NULL;
    if (!inner || inner->kind != NODE_CALL || inner->call.fn->id != PROMQL_FN_VECTOR)
        return NULL;
    inner = unwrap(inner->call.args[0]);
    return inner->kind == NODE_NUMBER ? inner : NULL;
}

/* A function of nothing else than nothing. What a modifier is not made for is an error all the same. */
static bool call_of_nothing(const struct node *n)
{
    const struct node *arg = n->call.n_args == 1 ? unwrap(n->call.args[0]) : NULL;
    if (!arg || n->type != VALUE_VECTOR)
        return false;
    if (arg->kind == NODE_MATRIX_SELECTOR)
        arg = unwrap(arg->matrix.selector);
    else if (arg->kind == NODE_SUBQUERY)
        arg = unwrap(arg->subquery.expr);
    return is_nothing(arg) && !arg->selector.anchored && !arg->selector.smoothed;
}

static struct node *simplify_call(struct node *n, struct arena *a)
{
    struct node *args[PROMQL_MAX_ARGS], *copy;
    size_t n_args = n->call.n_args;
    bool changed = false;
    int fn = n->call.fn->id;
    if (fn == PROMQL_FN_ABSENT || fn == PROMQL_FN_ABSENT_OVER_TIME || fn == PROMQL_FN_INFO || n_args > PROMQL_MAX_ARGS)
        return n;
    for (size_t i = 0; i < n_args; i++) {
        if (!(args[i] = simplify(n->call.args[i], a)))
            return NULL;
        changed |= args[i] != n->call.args[i];
    }
    if ((copy = constant_call(n, args, a)))
        return copy;
    if (changed) {
        if (!(copy = copy_of(n, a)) || !(copy->call.args = ARENA_ARRAY(a, struct node *, n_args)))
            return NULL;
        memcpy(copy->call.args, args, n_args * sizeof(*args));
        n = copy;
    }
    const struct node *inside = number_in_vector(n);
    return inside ? number(n, a, inside->number.value) : call_of_nothing(n) ? nothing(n, a) : n;
}

/* The node with another only child. */
static struct node *with_child(struct node *n, struct arena *a, size_t offset, struct node *child)
{
    if (!child || child == *(struct node **)((char *)n + offset))
        return child ? n : NULL;
    struct node *copy = copy_of(n, a);
    if (copy)
        *(struct node **)((char *)copy + offset) = child;
    return copy;
}

static struct node *simplify_aggregate(struct node *n, struct arena *a)
{
    n = with_child(n, a, offsetof(struct node, aggregate.expr), simplify(n->aggregate.expr, a));
    if (!n)
        return NULL;
    if (!n->aggregate.param)
        return is_nothing(unwrap(n->aggregate.expr)) ? nothing(n, a) : n;
    return with_child(n, a, offsetof(struct node, aggregate.param), simplify(n->aggregate.param, a));
}

/* NULL: out of memory. */
static struct node *simplify(struct node *n, struct arena *a)
{
    struct node *child;
    switch (n->kind) {
    case NODE_PAREN:
        child = simplify(n->paren, a);
        return child && (child->kind == NODE_NUMBER || is_nothing(child)) ? child : with_child(n, a, offsetof(struct node, paren), child);
    case NODE_UNARY:
        child = simplify(n->unary.expr, a);
        if (child && child->kind == NODE_NUMBER)
            return number(n, a, n->unary.negative ? -child->number.value : child->number.value);
        return child && is_nothing(child) ? child : with_child(n, a, offsetof(struct node, unary.expr), child);
    case NODE_BINARY:
        return simplify_binary(n, a);
    case NODE_CALL:
        return simplify_call(n, a);
    case NODE_AGGREGATE:
        return simplify_aggregate(n, a);
    case NODE_VECTOR_SELECTOR:
        return simplify_selector(n, a);
    case NODE_MATRIX_SELECTOR:
        return with_child(n, a, offsetof(struct node, matrix.selector), simplify(n->matrix.selector, a));
    case NODE_SUBQUERY:
        return with_child(n, a, offsetof(struct node, subquery.expr), simplify(n->subquery.expr, a));
    default:
        return n;
    }
}

const struct node *plan_simplify(const struct node *n, struct arena *a)
{
    return simplify((struct node *)n, a); /* what it gets it does not change, but what it gives may be handed on as a child */
}
