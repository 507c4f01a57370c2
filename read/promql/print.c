/*
 * Trees as text: promql_print is Prometheus's String(), on one line; promql_pretty is its Prettify, which breaks what is longer than 100
 * characters. Printing a parsed text and parsing the result gives the same tree.
 */
#include <math.h>
#include <stdlib.h>

#include "base/dtoa.h"
#include "model/labels.h"
#include "read/promql/parse_int.h"

const char *binary_op_text(enum binary_op op)
{
    static const char *const texts[] = {
        [OP_ADD] = "+",   [OP_SUB] = "-",   [OP_MUL] = "*",      [OP_DIV] = "/",  [OP_MOD] = "%",         [OP_POW] = "^",
        [OP_EQ] = "==",   [OP_NEQ] = "!=",  [OP_GTR] = ">",      [OP_LSS] = "<",  [OP_GTE] = ">=",        [OP_LTE] = "<=",
        [OP_AND] = "and", [OP_OR] = "or",   [OP_UNLESS] = "unless", [OP_ATAN2] = "atan2", [OP_TRIM_UPPER] = "</", [OP_TRIM_LOWER] = ">/",
    };
    return texts[op];
}

const char *aggregate_op_text(enum aggregate_op op)
{
    static const char *const texts[] = {
        [AGG_SUM] = "sum",       [AGG_MIN] = "min",       [AGG_MAX] = "max",     [AGG_AVG] = "avg",       [AGG_GROUP] = "group",
        [AGG_STDDEV] = "stddev", [AGG_STDVAR] = "stdvar", [AGG_COUNT] = "count", [AGG_COUNT_VALUES] = "count_values",
        [AGG_BOTTOMK] = "bottomk", [AGG_TOPK] = "topk",   [AGG_QUANTILE] = "quantile", [AGG_LIMITK] = "limitk", [AGG_LIMIT_RATIO] = "limit_ratio",
    };
    return texts[op];
}

/* --- pieces --------------------------------------------------------------------------------------------------------------------- */

/* 90d rather than 12w6d: years and weeks only where nothing is left. */
static void put_duration(struct buf *out, int64_t ms)
{
    static const struct {
        const char *name;
        uint64_t ms;
        bool exact;
    } units[] = {{"y", 31536000000, true}, {"w", 604800000, true}, {"d", 86400000, false}, {"h", 3600000, false},
                 {"m", 60000, false},      {"s", 1000, false},     {"ms", 1, false}};
    uint64_t left = ms < 0 ? -(uint64_t)ms : (uint64_t)ms;
    if (ms < 0)
        buf_putc(out, '-');
    if (left == 0)
        buf_puts(out, "0s");
    for (size_t i = 0; i < ARRAY_LEN(units); i++) {
        uint64_t n = left / units[i].ms;
        if (n == 0 || (units[i].exact && left % units[i].ms))
            continue;
        buf_put_u64(out, n);
        buf_puts(out, units[i].name);
        left -= n * units[i].ms;
    }
}

static void put_number(struct buf *out, double v, bool is_duration)
{
    if (is_duration) {
        if (v < 0)
            buf_putc(out, '-');
        put_duration(out, seconds_to_ms(fabs(v)));
    } else {
        char text[DTOA_MAX];
        buf_put(out, text, dtoa_fixed(v, text));
    }
}

static void put_labels(struct buf *out, const struct slice *labels, size_t n)
{
    buf_putc(out, '(');
    for (size_t i = 0; i < n; i++) {
        if (i)
            buf_puts(out, ", ");
        if (label_name_is_legacy(labels[i]))
            buf_put_slice(out, labels[i]);
        else
            put_quoted(out, labels[i]);
    }
    buf_putc(out, ')');
}

static void put_duration_expr(struct buf *out, const struct duration_expr *d)
{
    static const char *const ops[] = {[DUR_ADD] = " + ", [DUR_SUB] = " - ", [DUR_MUL] = " * ", [DUR_DIV] = " / ", [DUR_MOD] = " % ", [DUR_POW] = " ^ "};
    switch (d->op) {
    case DUR_LITERAL: put_number(out, d->seconds, !d->is_number); return;
    case DUR_STEP: buf_puts(out, "step()"); return;
    case DUR_RANGE: buf_puts(out, "range()"); return;
    case DUR_NEG:
        buf_putc(out, '-');
        put_duration_expr(out, d->rhs);
        return;
    case DUR_PAREN:
        buf_putc(out, '(');
        put_duration_expr(out, d->rhs);
        buf_putc(out, ')');
        return;
    case DUR_MIN:
    case DUR_MAX:
        buf_puts(out, d->op == DUR_MIN ? "min_of(" : "max_of(");
        put_duration_expr(out, d->lhs);
        buf_puts(out, ", ");
        put_duration_expr(out, d->rhs);
        buf_putc(out, ')');
        return;
    case DUR_ADD: case DUR_SUB: case DUR_MUL: case DUR_DIV: case DUR_MOD: case DUR_POW:
        put_duration_expr(out, d->lhs);
        buf_puts(out, ops[d->op]);
        put_duration_expr(out, d->rhs);
        return;
    }
}

static void put_duration_or_expr(struct buf *out, int64_t ms, const struct duration_expr *expr)
{
    if (expr)
        put_duration_expr(out, expr);
    else
        put_duration(out, ms);
}

static void put_offset(struct buf *out, int64_t ms, const struct duration_expr *expr)
{
    if (!ms && !expr)
        return;
    buf_puts(out, " offset ");
    put_duration_or_expr(out, ms, expr);
}

static void put_at(struct buf *out, enum at_kind at, int64_t at_ms)
{
    if (at == AT_TIMESTAMP)
        buf_printf(out, " @ %.3f", (double)at_ms / 1000);
    else if (at != AT_NONE)
        buf_puts(out, at == AT_START ? " @ start()" : " @ end()");
}

/* --- selectors ------------------------------------------------------------------------------------------------------------------ */

static int by_bytes(const void *a, const void *b)
{
    return slice_cmp(*(const struct slice *)a, *(const struct slice *)b);
}

static bool is_name_matcher(const struct vector_selector *s, const struct matcher *m)
{
    return m->type == MATCH_EQ && m->value.n && slice_eq(m->name, SL(METRIC_NAME_LABEL)) && slice_eq(m->value, s->name);
}

/* Matchers are sorted by their text. A selector of nothing, which only info() takes, prints as {}: upstream's nothing does not read back. */
static void put_matchers(struct buf *out, const struct vector_selector *s)
{
    struct buf text;
    buf_init(&text, 0);
    struct slice *parts = malloc((s->n_matchers + 1) * sizeof(*parts));
    size_t *starts = malloc((s->n_matchers + 1) * sizeof(*starts));
    size_t n = 0;
    for (size_t i = 0; parts && starts && i < s->n_matchers; i++) {
        if (is_name_matcher(s, &s->matchers[i]))
            continue;
        starts[n++] = text.n;
        matcher_print(&s->matchers[i], &text);
    }
    if (!parts || !starts || text.failed) {
        out->failed = true;
        n = 0;
    }
    for (size_t i = 0; i < n; i++)
        parts[i] = slice_make(text.p + starts[i], (i + 1 < n ? starts[i + 1] : text.n) - starts[i]);
    if (n) {
        qsort(parts, n, sizeof(*parts), by_bytes);
        for (size_t i = 0; i < n; i++) {
            buf_putc(out, i ? ',' : '{');
            buf_put_slice(out, parts[i]);
        }
        buf_putc(out, '}');
    } else if (s->name.n == 0) {
        buf_puts(out, "{}");
    }
    free(starts);
    free(parts);
    buf_release(&text);
}

static void put_extended(struct buf *out, const struct vector_selector *s)
{
    if (s->anchored || s->smoothed)
        buf_puts(out, s->anchored ? " anchored" : " smoothed");
}

static void put_vector_selector(struct buf *out, const struct vector_selector *s)
{
    buf_put_slice(out, s->name);
    put_matchers(out, s);
    put_at(out, s->at, s->at_ms);
    put_extended(out, s);
    put_offset(out, s->offset_ms, s->offset_expr);
}

static void put_matrix_selector(struct buf *out, const struct node *n)
{
    const struct vector_selector *s = &n->matrix.selector->selector;
    buf_put_slice(out, s->name);
    put_matchers(out, s);
    buf_putc(out, '[');
    put_duration_or_expr(out, n->matrix.range_ms, n->matrix.range_expr);
    buf_putc(out, ']');
    put_extended(out, s);
    put_at(out, s->at, s->at_ms);
    put_offset(out, s->offset_ms, s->offset_expr);
}

static void put_subquery_suffix(struct buf *out, const struct node *n)
{
    buf_putc(out, '[');
    put_duration_or_expr(out, n->subquery.range_ms, n->subquery.range_expr);
    buf_putc(out, ':');
    if (n->subquery.step_ms || n->subquery.step_expr)
        put_duration_or_expr(out, n->subquery.step_ms, n->subquery.step_expr);
    buf_putc(out, ']');
    put_at(out, n->subquery.at, n->subquery.at_ms);
    put_offset(out, n->subquery.offset_ms, n->subquery.offset_expr);
}

/* --- operators ------------------------------------------------------------------------------------------------------------------ */

static void put_fill(struct buf *out, const char *word, double v)
{
    buf_printf(out, " %s (", word);
    char text[DTOA_MAX];
    buf_put(out, text, dtoa_g(v, text));
    buf_putc(out, ')');
}

/* The operator and all that belongs to it, without blanks around. */
static void put_operator(struct buf *out, const struct node *n)
{
    buf_puts(out, binary_op_text(n->binary.op));
    if (n->binary.return_bool)
        buf_puts(out, " bool");
    const struct vector_matching *m = n->binary.matching;
    if (!m)
        return;
    bool grouped = m->card == CARD_MANY_TO_ONE || m->card == CARD_ONE_TO_MANY;
    if (m->n_labels || m->on || grouped) {
        buf_puts(out, m->on ? " on " : " ignoring ");
        put_labels(out, m->labels, m->n_labels);
    }
    if (grouped) {
        buf_puts(out, m->card == CARD_MANY_TO_ONE ? " group_left " : " group_right ");
        put_labels(out, m->include, m->n_include);
    }
    if (m->has_fill_left && m->has_fill_right && m->fill_left == m->fill_right) {
        put_fill(out, "fill", m->fill_left);
        return;
    }
    if (m->has_fill_left)
        put_fill(out, "fill_left", m->fill_left);
    if (m->has_fill_right)
        put_fill(out, "fill_right", m->fill_right);
}

/* "sum by (a) " with the blank; "sum" alone. */
static void put_aggregator(struct buf *out, const struct node *n)
{
    buf_puts(out, aggregate_op_text(n->aggregate.op));
    if (!n->aggregate.without && !n->aggregate.n_grouping)
        return;
    buf_puts(out, n->aggregate.without ? " without " : " by ");
    put_labels(out, n->aggregate.grouping, n->aggregate.n_grouping);
    buf_putc(out, ' ');
}

/* --- one line --------------------------------------------------------------------------------------------------------------------- */

static void print_call(const struct node *n, struct buf *out)
{
    buf_puts(out, n->call.fn->name);
    buf_putc(out, '(');
    for (size_t i = 0; i < n->call.n_args; i++) {
        if (i)
            buf_puts(out, ", ");
        promql_print(n->call.args[i], out);
    }
    buf_putc(out, ')');
}

static void print_aggregate(const struct node *n, struct buf *out)
{
    put_aggregator(out, n);
    buf_putc(out, '(');
    if (n->aggregate.param) {
        promql_print(n->aggregate.param, out);
        buf_puts(out, ", ");
    }
    promql_print(n->aggregate.expr, out);
    buf_putc(out, ')');
}

void promql_print(const struct node *n, struct buf *out)
{
    if (out->failed) /* full: the pretty printer's test of length stops here */
        return;
    switch (n->kind) {
    case NODE_NUMBER: put_number(out, n->number.value, n->number.is_duration); return;
    case NODE_STRING: put_quoted(out, n->string); return;
    case NODE_PAREN:
        buf_putc(out, '(');
        promql_print(n->paren, out);
        buf_putc(out, ')');
        return;
    case NODE_UNARY:
        buf_putc(out, n->unary.negative ? '-' : '+');
        promql_print(n->unary.expr, out);
        return;
    case NODE_BINARY:
        promql_print(n->binary.lhs, out);
        buf_putc(out, ' ');
        put_operator(out, n);
        buf_putc(out, ' ');
        promql_print(n->binary.rhs, out);
        return;
    case NODE_CALL: print_call(n, out); return;
    case NODE_AGGREGATE: print_aggregate(n, out); return;
    case NODE_VECTOR_SELECTOR: put_vector_selector(out, &n->selector); return;
    case NODE_MATRIX_SELECTOR: put_matrix_selector(out, n); return;
    case NODE_SUBQUERY:
        promql_print(n->subquery.expr, out);
        put_subquery_suffix(out, n);
        return;
    }
}

/* --- many lines ------------------------------------------------------------------------------------------------------------------- */

#define LINE_MAX_BYTES 100

static void pretty(const struct node *n, int level, struct buf *out);

/* Is its one line too long? Costs at most a line's worth of printing. */
static bool needs_split(const struct node *n)
{
    struct buf line;
    buf_init(&line, LINE_MAX_BYTES + 64);
    promql_print(n, &line);
    bool too_long = line.failed || line.n > LINE_MAX_BYTES;
    buf_release(&line);
    return too_long;
}

static void indent(int level, struct buf *out)
{
    for (int i = 0; i < level; i++)
        buf_puts(out, "  ");
}

static void pretty_aggregate(const struct node *n, int level, struct buf *out)
{
    put_aggregator(out, n);
    buf_puts(out, "(\n");
    if (n->aggregate.param) {
        pretty(n->aggregate.param, level + 1, out);
        buf_puts(out, ",\n");
    }
    pretty(n->aggregate.expr, level + 1, out);
    buf_putc(out, '\n');
    indent(level, out);
    buf_putc(out, ')');
}

static void pretty_call(const struct node *n, int level, struct buf *out)
{
    buf_puts(out, n->call.fn->name);
    buf_puts(out, "(\n");
    for (size_t i = 0; i < n->call.n_args; i++) {
        if (i)
            buf_puts(out, ",\n");
        pretty(n->call.args[i], level + 1, out);
    }
    buf_putc(out, '\n');
    indent(level, out);
    buf_putc(out, ')');
}

static void pretty_binary(const struct node *n, int level, struct buf *out)
{
    pretty(n->binary.lhs, level + 1, out);
    buf_putc(out, '\n');
    indent(level, out);
    put_operator(out, n);
    buf_putc(out, '\n');
    pretty(n->binary.rhs, level + 1, out);
}

/* The sign stands at the indent, and its operand follows without one. */
static void pretty_unary(const struct node *n, int level, struct buf *out)
{
    indent(level, out);
    buf_putc(out, n->unary.negative ? '-' : '+');
    size_t at = out->n;
    pretty(n->unary.expr, level, out);
    if (out->failed)
        return;
    size_t blanks = 0;
    while (at + blanks < out->n && (out->p[at + blanks] == ' ' || out->p[at + blanks] == '\n'))
        blanks++;
    memmove(out->p + at, out->p + at + blanks, out->n - at - blanks);
    out->n -= blanks;
}

static void pretty(const struct node *n, int level, struct buf *out)
{
    if (n->kind == NODE_UNARY) {
        pretty_unary(n, level, out);
        return;
    }
    bool split = needs_split(n);
    if (n->kind == NODE_SUBQUERY) { /* Prometheus does not indent one that fits its line */
        if (split) {
            pretty(n->subquery.expr, level, out);
            put_subquery_suffix(out, n);
        } else {
            promql_print(n, out);
        }
        return;
    }
    if (split && n->kind == NODE_BINARY) {
        pretty_binary(n, level, out);
        return;
    }
    indent(level, out);
    if (split && n->kind == NODE_AGGREGATE) {
        pretty_aggregate(n, level, out);
    } else if (split && n->kind == NODE_CALL) {
        pretty_call(n, level, out);
    } else if (split && n->kind == NODE_PAREN) {
        buf_puts(out, "(\n");
        pretty(n->paren, level + 1, out);
        buf_putc(out, '\n');
        indent(level, out);
        buf_putc(out, ')');
    } else {
        promql_print(n, out);
    }
}

void promql_pretty(const struct node *n, struct buf *out)
{
    pretty(n, 0, out);
}
