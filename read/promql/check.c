/*
 * Types, and what Prometheus refuses although its grammar allows it. The order of the checks is Prometheus's, as the first error is the one shown:
 * children first, but for the number of a call's arguments.
 */
#include "read/promql/parse_int.h"

static enum value_type check(struct parser *p, struct node *n, bool in_info);

const char *value_type_name(enum value_type t)
{
    switch (t) {
    case VALUE_NONE: return "none";
    case VALUE_SCALAR: return "scalar";
    case VALUE_VECTOR: return "instant vector";
    case VALUE_MATRIX: return "range vector";
    case VALUE_STRING: return "string";
    }
    ASSERT(false && "value type");
    return "";
}

static void expect(struct parser *p, struct node *n, enum value_type want, const char *context)
{
    enum value_type t = check(p, n, false);
    if (t != want)
        parse_fail(p, n->pos.start, "expected type %s in %s, got %s", value_type_name(want), context, value_type_name(t));
}

/* --- aggregations and calls ----------------------------------------------------------------------------------------------------- */

static enum value_type check_aggregate(struct parser *p, struct node *n)
{
    expect(p, n->aggregate.expr, VALUE_VECTOR, "aggregation expression");
    if (n->aggregate.param)
        expect(p, n->aggregate.param, n->aggregate.op == AGG_COUNT_VALUES ? VALUE_STRING : VALUE_SCALAR, "aggregation parameter");
    return VALUE_VECTOR;
}

static void check_argument_count(struct parser *p, const struct node *n)
{
    const struct promql_function *fn = n->call.fn;
    int got = (int)n->call.n_args;
    int least = fn->variadic ? fn->n_args - 1 : fn->n_args;
    int most = fn->variadic ? least + fn->variadic : fn->n_args;
    if (!fn->variadic && got != least)
        parse_fail(p, n->pos.start, "expected %d argument(s) in call to \"%s\", got %d", least, fn->name, got);
    else if (got < least)
        parse_fail(p, n->pos.start, "expected at least %d argument(s) in call to \"%s\", got %d", least, fn->name, got);
    else if (fn->variadic > 0 && got > most)
        parse_fail(p, n->pos.start, "expected at most %d argument(s) in call to \"%s\", got %d", most, fn->name, got);
}

/* The type of a node whose children are not checked yet. */
static enum value_type type_of(const struct node *n)
{
    switch (n->kind) {
    case NODE_NUMBER: return VALUE_SCALAR;
    case NODE_STRING: return VALUE_STRING;
    case NODE_PAREN: return type_of(n->paren);
    case NODE_UNARY: return type_of(n->unary.expr);
    case NODE_BINARY:
        return type_of(n->binary.lhs) == VALUE_SCALAR && type_of(n->binary.rhs) == VALUE_SCALAR ? VALUE_SCALAR : VALUE_VECTOR;
    case NODE_CALL: return n->call.fn->returns;
    case NODE_AGGREGATE:
    case NODE_VECTOR_SELECTOR: return VALUE_VECTOR;
    case NODE_MATRIX_SELECTOR:
    case NODE_SUBQUERY: return VALUE_MATRIX;
    }
    ASSERT(false && "node kind");
    return VALUE_NONE;
}

/* info's second argument is a selector of labels, not of series. */
static void check_info(struct parser *p, const struct node *n)
{
    const struct node *arg = n->call.args[1];
    if (type_of(arg) != VALUE_VECTOR)
        parse_fail(p, n->pos.start, "expected type instant vector in call to function \"info\", got %s", value_type_name(type_of(arg)));
    else if (arg->kind != NODE_VECTOR_SELECTOR)
        parse_fail(p, arg->pos.start, "expected label selectors only");
    else if (arg->selector.name.n)
        parse_fail(p, arg->pos.start, "expected label selectors only, got vector selector instead");
}

static enum value_type check_call(struct parser *p, struct node *n)
{
    const struct promql_function *fn = n->call.fn;
    check_argument_count(p, n);
    bool is_info = fn->id == PROMQL_FN_INFO;
    if (is_info && n->call.n_args > 1 && !p->failed)
        check_info(p, n);
    for (size_t i = 0; i < n->call.n_args && !p->failed; i++) {
        enum value_type want = fn->args[(int)i < fn->n_args ? (int)i : fn->n_args - 1];
        struct node *arg = n->call.args[i];
        enum value_type got = check(p, arg, is_info && i == 1);
        if (got != want)
            parse_fail(p, arg->pos.start, "expected type %s in call to function \"%s\", got %s", value_type_name(want), fn->name,
                       value_type_name(got));
    }
    return fn->returns;
}

/* --- binary operators ------------------------------------------------------------------------------------------------------------ */

static bool is_space(char c)
{
    return c == ' ' || c == '\t' || c == '\n' || c == '\r';
}

/* Where the operator stands: after the left side and blanks. */
static int32_t op_position(const struct parser *p, const struct node *n)
{
    int32_t at = n->binary.lhs->pos.end;
    while ((size_t)at < p->text.n && is_space(p->text.p[at]))
        at++;
    return at;
}

static void check_group_labels(struct parser *p, const struct node *n)
{
    const struct vector_matching *m = n->binary.matching;
    for (size_t i = 0; m->on && i < m->n_labels; i++) {
        for (size_t k = 0; k < m->n_include; k++) {
            if (!slice_eq(m->labels[i], m->include[k]))
                continue;
            buf_clear(&p->message);
            put_quoted(&p->message, m->labels[i]);
            parse_fail(p, op_position(p, n), "label %s must not occur in ON and GROUP clause at once", buf_cstr(&p->message));
            return;
        }
    }
}

static void check_matching(struct parser *p, struct node *n, bool vectors)
{
    struct vector_matching *m = n->binary.matching;
    bool fills = m->has_fill_left || m->has_fill_right;
    if (!vectors) {
        if (m->n_labels)
            parse_fail(p, n->pos.start, "vector matching only allowed between instant vectors");
        if (fills)
            parse_fail(p, n->pos.start, "filling in missing series only allowed between instant vectors");
        n->binary.matching = NULL;
    } else if (binary_op_is_set(n->binary.op)) {
        if (m->card != CARD_MANY_TO_MANY)
            parse_fail(p, n->pos.start, "no grouping allowed for \"%s\" operation", binary_op_text(n->binary.op));
        if (fills)
            parse_fail(p, n->pos.start, "filling in missing series not allowed for set operators");
    }
}

static enum value_type check_binary(struct parser *p, struct node *n)
{
    enum binary_op op = n->binary.op;
    struct node *lhs = n->binary.lhs;
    struct node *rhs = n->binary.rhs;
    enum value_type lt = check(p, lhs, false);
    enum value_type rt = check(p, rhs, false);
    if (p->failed)
        return VALUE_VECTOR;
    if (n->binary.return_bool && !binary_op_is_comparison(op))
        parse_fail(p, op_position(p, n), "bool modifier can only be used on comparison operators");
    if (binary_op_is_comparison(op) && !n->binary.return_bool && lt == VALUE_SCALAR && rt == VALUE_SCALAR)
        parse_fail(p, op_position(p, n), "comparisons between scalars must use BOOL modifier");
    if (binary_op_is_set(op) && n->binary.matching->card == CARD_ONE_TO_ONE)
        n->binary.matching->card = CARD_MANY_TO_MANY;
    check_group_labels(p, n);
    if (lt != VALUE_SCALAR && lt != VALUE_VECTOR)
        parse_fail(p, lhs->pos.start, "binary expression must contain only scalar and instant vector types");
    if (rt != VALUE_SCALAR && rt != VALUE_VECTOR)
        parse_fail(p, rhs->pos.start, "binary expression must contain only scalar and instant vector types");
    check_matching(p, n, lt == VALUE_VECTOR && rt == VALUE_VECTOR);
    if ((lt == VALUE_SCALAR || rt == VALUE_SCALAR) && binary_op_is_set(op))
        parse_fail(p, n->pos.start, "set operator \"%s\" not allowed in binary scalar expression", binary_op_text(op));
    return lt == VALUE_SCALAR && rt == VALUE_SCALAR ? VALUE_SCALAR : VALUE_VECTOR;
}

/* --- selectors and the rest ------------------------------------------------------------------------------------------------------- */

static void check_selector(struct parser *p, const struct node *n, bool may_be_empty)
{
    const struct vector_selector *s = &n->selector;
    bool selects = may_be_empty;
    if (s->name.n) { /* its matcher is the last one */
        for (size_t i = 0; i + 1 < s->n_matchers; i++) {
            if (!slice_eq(s->matchers[i].name, SL(METRIC_NAME_LABEL)))
                continue;
            buf_clear(&p->message);
            put_quoted(&p->message, s->name);
            buf_puts(&p->message, " or ");
            put_quoted(&p->message, s->matchers[i].value);
            parse_fail(p, n->pos.start, "metric name must not be set twice: %s", buf_cstr(&p->message));
        }
        return;
    }
    for (size_t i = 0; i < s->n_matchers && !selects; i++)
        selects = !matcher_matches_empty(&s->matchers[i]);
    if (!selects)
        parse_fail(p, n->pos.start, "vector selector must contain at least one non-empty matcher");
}

static enum value_type check_unary(struct parser *p, struct node *n)
{
    enum value_type t = check(p, n->unary.expr, false);
    if (t != VALUE_SCALAR && t != VALUE_VECTOR)
        parse_fail(p, n->pos.start, "unary expression only allowed on expressions of type scalar or instant vector, got \"%s\"",
                   value_type_name(t));
    return t;
}

static enum value_type check_subquery(struct parser *p, struct node *n)
{
    enum value_type t = check(p, n->subquery.expr, false);
    /* Prometheus shows its internal names here. */
    const char *name = t == VALUE_MATRIX ? "matrix" : value_type_name(t);
    if (t != VALUE_VECTOR)
        parse_fail(p, n->pos.start, "subquery is only allowed on instant vector, got %s instead", name);
    return VALUE_MATRIX;
}

static enum value_type check_kind(struct parser *p, struct node *n, bool in_info)
{
    switch (n->kind) {
    case NODE_NUMBER: return VALUE_SCALAR;
    case NODE_STRING: return VALUE_STRING;
    case NODE_PAREN: return check(p, n->paren, false);
    case NODE_UNARY: return check_unary(p, n);
    case NODE_BINARY: return check_binary(p, n);
    case NODE_CALL: return check_call(p, n);
    case NODE_AGGREGATE: return check_aggregate(p, n);
    case NODE_VECTOR_SELECTOR: check_selector(p, n, in_info); return VALUE_VECTOR;
    case NODE_MATRIX_SELECTOR: check(p, n->matrix.selector, false); return VALUE_MATRIX;
    case NODE_SUBQUERY: return check_subquery(p, n);
    }
    ASSERT(false && "node kind");
    return VALUE_NONE;
}

static enum value_type check(struct parser *p, struct node *n, bool in_info)
{
    n->type = check_kind(p, n, in_info);
    return n->type;
}

void promql_check(struct parser *p, struct node *n)
{
    buf_init(&p->message, ERR_TEXT_MAX * 8);
    check(p, n, false);
    buf_release(&p->message);
}
