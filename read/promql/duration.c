/*
 * Durations: literals (1h30m), expressions over them ([5m + step()]), and their evaluation for a query.
 *
 * A literal alone is folded into milliseconds when the text is parsed; an expression stays with its selector and is evaluated by
 * promql_resolve_durations once step and range of the query are known. Values are seconds in doubles, as in Prometheus; a range must fit
 * nanoseconds in an int64, which is where its "out of range" comes from.
 */
#include <math.h>

#include "base/utf8.h"
#include "grammar.h"
#include "read/promql/parse_int.h"

#define NS_LIMIT_SECONDS (0x1p63 / 1e9)

static const struct {
    const char *name;
    uint64_t ns;
} units[] = {
    {"y", 365ULL * 86400 * 1000000000}, {"w", 7ULL * 86400 * 1000000000}, {"d", 86400ULL * 1000000000}, {"h", 3600ULL * 1000000000},
    {"m", 60ULL * 1000000000},          {"s", 1000000000},                {"ms", 1000000},
};

/* --- literals ----------------------------------------------------------------------------------------------------------------- */

static bool is_digit(char c)
{
    return c >= '0' && c <= '9';
}

enum duration_fault { DURATION_OK, DURATION_BAD, DURATION_UNKNOWN_UNIT, DURATION_TOO_LONG };

/* 1d2h30m: digits and units in turn, units from the largest to the smallest. */
static enum duration_fault parse_duration(struct slice text, uint64_t *ret_ns, struct slice *ret_unit)
{
    const char *s = text.p;
    const char *end = text.p + text.n;
    size_t next_unit = 0;
    unsigned __int128 total_ns = 0;
    if (!text.n)
        return DURATION_BAD;
    while (s < end) {
        if (!is_digit(*s))
            return DURATION_BAD;
        unsigned __int128 v = 0;
        for (; s < end && is_digit(*s); s++) {
            v = v * 10 + (unsigned)(*s - '0');
            if (v > UINT64_MAX)
                return DURATION_BAD;
        }
        const char *unit = s;
        while (s < end && !is_digit(*s))
            s++;
        *ret_unit = slice_make(unit, (size_t)(s - unit));
        size_t u = 0;
        while (u < ARRAY_LEN(units) && !slice_eq(*ret_unit, slice_of(units[u].name)))
            u++;
        if (u == ARRAY_LEN(units) || u < next_unit)
            return u == ARRAY_LEN(units) && ret_unit->n ? DURATION_UNKNOWN_UNIT : DURATION_BAD;
        next_unit = u + 1;
        total_ns += v * units[u].ns;
        if (total_ns > INT64_MAX)
            return DURATION_TOO_LONG;
    }
    *ret_ns = (uint64_t)total_ns;
    return DURATION_OK;
}

bool promql_parse_duration(struct slice text, int64_t *ret_ms)
{
    uint64_t ns;
    struct slice unit;
    if (parse_duration(text, &ns, &unit) != DURATION_OK)
        return false;
    *ret_ms = (int64_t)(ns / 1000000);
    return true;
}

double parse_duration_seconds(struct parser *p, struct token t)
{
    struct slice s = slice_make(p->text.p + t.start, (size_t)(t.end - t.start));
    struct slice unit;
    uint64_t ns = 0;
    switch (parse_duration(s, &ns, &unit)) {
    case DURATION_OK: break;
    case DURATION_BAD: parse_fail(p, t.start, "not a valid duration string: \"%.*s\"", SL_FMT(s)); break;
    case DURATION_UNKNOWN_UNIT: parse_fail(p, t.start, "unknown unit \"%.*s\" in duration \"%.*s\"", SL_FMT(unit), SL_FMT(s)); break;
    case DURATION_TOO_LONG: parse_fail(p, t.start, "duration out of range"); break;
    }
    return (double)(ns / 1000000000) + (double)(ns % 1000000000) / 1e9;
}

static struct duration_expr *new_dur(struct parser *p, enum duration_op op, int32_t start, int32_t end)
{
    if (p->failed)
        return NULL;
    struct duration_expr *d = ARENA_NEW(p->arena, struct duration_expr);
    if (!d)
        return parse_no_memory(p);
    d->op = op;
    d->depth = 1;
    d->pos = (struct pos_range){start, end};
    return d;
}

static void adopt_dur(struct parser *p, struct duration_expr *d, const struct duration_expr *child)
{
    if (child->depth >= PROMQL_MAX_DEPTH)
        parse_fail(p, child->pos.start, "expression is nested too deeply");
    else if (child->depth >= d->depth)
        d->depth = (uint16_t)(child->depth + 1);
}

static bool out_of_range(struct parser *p, const struct duration_expr *d, int32_t pos)
{
    if (!(d->seconds > NS_LIMIT_SECONDS || d->seconds < -NS_LIMIT_SECONDS))
        return false;
    parse_fail(p, pos, "duration out of range");
    return true;
}

struct duration_expr *dur_literal(struct parser *p, struct token t)
{
    struct node *n = node_number(p, t);
    struct duration_expr *d = new_dur(p, DUR_LITERAL, t.start, t.end);
    if (!n || !d)
        return NULL;
    d->seconds = n->number.value;
    d->is_number = !n->number.is_duration;
    return out_of_range(p, d, t.start) ? NULL : d;
}

struct duration_expr *dur_positive(struct parser *p, struct duration_expr *d)
{
    if (!p->failed && d->op == DUR_LITERAL && d->seconds <= 0)
        parse_fail(p, d->pos.start, "duration must be greater than 0");
    return p->failed ? NULL : d;
}

/* --- expressions -------------------------------------------------------------------------------------------------------------- */

struct duration_expr *dur_unary(struct parser *p, struct token op, struct duration_expr *d)
{
    if (p->failed || op.type == T_ADD) { /* a plus changes nothing and is not printed */
        if (d && d->op == DUR_LITERAL)
            d->pos.start = op.start;
        return p->failed ? NULL : d;
    }
    if (d->op == DUR_LITERAL) {
        d->seconds = -d->seconds;
        d->pos.start = op.start;
        return d;
    }
    struct duration_expr *neg = new_dur(p, DUR_NEG, op.start, d->pos.end);
    if (!neg)
        return NULL;
    neg->rhs = d;
    adopt_dur(p, neg, d);
    return neg;
}

/* Parentheses are kept for printing, once however many there are. */
struct duration_expr *dur_paren(struct parser *p, struct token open, struct duration_expr *d, struct token close)
{
    if (p->failed || d->op == DUR_PAREN)
        return d;
    struct duration_expr *paren = new_dur(p, DUR_PAREN, d->pos.start, d->pos.end);
    if (!paren)
        return NULL;
    if (d->op == DUR_LITERAL)
        paren->pos = (struct pos_range){open.start, close.end};
    paren->rhs = d;
    adopt_dur(p, paren, d);
    return paren;
}

static enum duration_op duration_op_of(int token)
{
    switch (token) {
    case T_ADD: return DUR_ADD;
    case T_SUB: return DUR_SUB;
    case T_MUL: return DUR_MUL;
    case T_DIV: return DUR_DIV;
    case T_MOD: return DUR_MOD;
    case T_POW: return DUR_POW;
    case T_STEP: return DUR_STEP;
    case T_RANGE: return DUR_RANGE;
    case T_MIN_OF: return DUR_MIN;
    case T_MAX_OF: return DUR_MAX;
    default: ASSERT(false && "duration operator"); return DUR_ADD;
    }
}

static struct duration_expr *dur_of_two(struct parser *p, enum duration_op op, struct duration_expr *lhs, struct duration_expr *rhs)
{
    struct duration_expr *d = new_dur(p, op, lhs->pos.start, rhs->pos.end);
    if (!d)
        return NULL;
    d->lhs = lhs;
    d->rhs = rhs;
    adopt_dur(p, d, lhs);
    adopt_dur(p, d, rhs);
    return d;
}

struct duration_expr *dur_binary(struct parser *p, struct duration_expr *lhs, struct token op, struct duration_expr *rhs)
{
    if (p->failed)
        return NULL;
    bool zero = rhs->op == DUR_LITERAL && rhs->seconds == 0;
    if (zero && (op.type == T_DIV || op.type == T_MOD)) {
        parse_fail(p, op.start, "%s by zero", op.type == T_DIV ? "division" : "modulo");
        return NULL;
    }
    return dur_of_two(p, duration_op_of(op.type), lhs, rhs);
}

struct duration_expr *dur_call(struct parser *p, struct token name, struct duration_expr *a, struct duration_expr *b, struct token close)
{
    if (p->failed)
        return NULL;
    enum duration_op op = duration_op_of(name.type);
    if (op == DUR_STEP || op == DUR_RANGE)
        return new_dur(p, op, name.start, close.end);
    return dur_of_two(p, op, a, b);
}

int64_t seconds_to_ms(double seconds)
{
    double ms = seconds * 1000;
    double whole = round(ms);
    if (!(whole < 0x1p63 / 1e6 && whole > -0x1p63 / 1e6)) /* NaN too: the least number, as in Go */
        return whole > 0 ? INT64_MAX / 1000000 : INT64_MIN / 1000000;
    /* Whole milliseconds of a long duration must not lose one to the division by 1000 that made seconds of them. */
    if (fabs(ms - whole) <= 1e-9 * (1 + fabs(whole)))
        return (int64_t)whole;
    return (int64_t)ms;
}

void dur_store(struct duration_expr *d, int64_t *ret_ms, struct duration_expr **ret_expr)
{
    if (d->op == DUR_LITERAL)
        *ret_ms = seconds_to_ms(d->seconds);
    else
        *ret_expr = d;
}

/* --- evaluation --------------------------------------------------------------------------------------------------------------- */

struct resolver {
    double step;
    double range;
    struct err *err;
};

static bool fail_at(struct resolver *r, const struct duration_expr *d, const char *what)
{
    return err_set(r->err, ERR_BAD_DATA, "%d:%d: %s", (int)d->pos.start, (int)d->pos.end, what);
}

static bool evaluate(struct resolver *r, const struct duration_expr *d, double *ret)
{
    double a = 0, b = 0;
    if ((d->lhs && !evaluate(r, d->lhs, &a)) || (d->rhs && !evaluate(r, d->rhs, &b)))
        return false;
    switch (d->op) {
    case DUR_LITERAL: *ret = d->seconds; return true;
    case DUR_STEP: *ret = r->step; return true;
    case DUR_RANGE: *ret = r->range; return true;
    case DUR_NEG: *ret = -b; return true;
    case DUR_PAREN: *ret = b; return true;
    case DUR_ADD: *ret = a + b; return true;
    case DUR_SUB: *ret = a - b; return true;
    case DUR_MUL: *ret = a * b; return true;
    case DUR_DIV: *ret = a / b; return b != 0 || fail_at(r, d, "division by zero");
    case DUR_MOD: *ret = fmod(a, b); return b != 0 || fail_at(r, d, "modulo by zero");
    case DUR_POW: *ret = pow(a, b); return true;
    case DUR_MIN: *ret = isnan(a) || isnan(b) ? NAN : fmin(a, b); return true;
    case DUR_MAX: *ret = isnan(a) || isnan(b) ? NAN : fmax(a, b); return true;
    }
    ASSERT(false && "duration operator");
    return false;
}

static bool resolve(struct resolver *r, const struct duration_expr *d, bool may_be_negative, int64_t *ret_ms)
{
    double v;
    if (!d)
        return true;
    if (!evaluate(r, d, &v))
        return false;
    if (!isfinite(v))
        return fail_at(r, d, "duration is NaN or infinite");
    if (v <= 0 && !may_be_negative)
        return fail_at(r, d, "duration must be greater than 0");
    if (v > NS_LIMIT_SECONDS || v < -NS_LIMIT_SECONDS)
        return fail_at(r, d, "duration is out of range");
    *ret_ms = (int64_t)(v * 1000);
    return true;
}

static bool resolve_node(struct resolver *r, struct node *n)
{
    switch (n->kind) {
    case NODE_NUMBER:
    case NODE_STRING: return true;
    case NODE_PAREN: return resolve_node(r, n->paren);
    case NODE_UNARY: return resolve_node(r, n->unary.expr);
    case NODE_BINARY: return resolve_node(r, n->binary.lhs) && resolve_node(r, n->binary.rhs);
    case NODE_CALL:
        for (size_t i = 0; i < n->call.n_args; i++)
            if (!resolve_node(r, n->call.args[i]))
                return false;
        return true;
    case NODE_AGGREGATE:
        return resolve_node(r, n->aggregate.expr) && (!n->aggregate.param || resolve_node(r, n->aggregate.param));
    case NODE_VECTOR_SELECTOR: return resolve(r, n->selector.offset_expr, true, &n->selector.offset_ms);
    case NODE_MATRIX_SELECTOR:
        return resolve(r, n->matrix.range_expr, false, &n->matrix.range_ms) && resolve_node(r, n->matrix.selector);
    case NODE_SUBQUERY:
        return resolve(r, n->subquery.offset_expr, true, &n->subquery.offset_ms) &&
               resolve(r, n->subquery.step_expr, false, &n->subquery.step_ms) &&
               resolve(r, n->subquery.range_expr, false, &n->subquery.range_ms) && resolve_node(r, n->subquery.expr);
    }
    ASSERT(false && "node kind");
    return false;
}

bool promql_resolve_durations(struct node *n, int64_t step_ms, int64_t query_range_ms, struct err *err)
{
    struct resolver r = {.step = (double)step_ms / 1000, .range = (double)query_range_ms / 1000, .err = err};
    return resolve_node(&r, n);
}
