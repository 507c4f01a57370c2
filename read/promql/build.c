/*
 * What the grammar's actions build: nodes, lists, selectors and their modifiers. Durations are in duration.c.
 *
 * Every function here may be called with NULL for a part that failed; the parse has failed then, and so all of them return NULL at once.
 */
#include <math.h>
#include <string.h>

#include "base/dtoa.h"
#include "base/utf8.h"
#include "grammar.h"
#include "read/promql/parse_int.h"

static struct slice text_of(const struct parser *p, struct token t)
{
    return slice_make(p->text.p + t.start, (size_t)(t.end - t.start));
}

struct node *node_new(struct parser *p, enum node_kind kind, int32_t start, int32_t end)
{
    if (p->failed)
        return NULL;
    struct node *n = ARENA_NEW(p->arena, struct node);
    if (!n)
        return parse_no_memory(p);
    n->kind = kind;
    n->pos = (struct pos_range){start, end};
    n->depth = 1;
    return n;
}

/* n stands above child from now on. */
void node_adopt(struct parser *p, struct node *n, const struct node *child)
{
    if (child->depth >= PROMQL_MAX_DEPTH)
        parse_fail(p, n->pos.start, "expression is nested too deeply");
    else if (child->depth >= n->depth)
        n->depth = (uint16_t)(child->depth + 1);
}

/* --- strings and numbers ------------------------------------------------------------------------------------------------------ */

static uint32_t hex_value(const char *s, int n, uint32_t base)
{
    uint32_t v = 0;
    for (int i = 0; i < n; i++) {
        char c = s[i];
        uint32_t d = c <= '9' ? (uint32_t)(c - '0') : (uint32_t)((c | 0x20) - 'a') + 10;
        v = v * base + d;
    }
    return v;
}

/* One escape at s (after the backslash), which the lexer has found to be well formed. Returns how many bytes it has. */
static size_t unescape(const char *s, char **out)
{
    static const char letters[] = "abfnrtv";
    static const char values[] = "\a\b\f\n\r\t\v";
    const char *found = strchr(letters, *s);
    if (found) {
        *(*out)++ = values[found - letters];
        return 1;
    }
    if (*s >= '0' && *s <= '7') {
        *(*out)++ = (char)hex_value(s, 3, 8);
        return 3;
    }
    if (*s == 'x') {
        *(*out)++ = (char)hex_value(s + 1, 2, 16);
        return 3;
    }
    if (*s == 'u' || *s == 'U') {
        int n = *s == 'u' ? 4 : 8;
        *out += utf8_encode(hex_value(s + 1, n, 16), *out);
        return (size_t)n + 1;
    }
    *(*out)++ = *s; /* a backslash or the quote */
    return 1;
}

static struct slice unquote(struct parser *p, struct token t)
{
    struct slice s = text_of(p, t);
    char quote = s.p[0];
    s = slice_make(s.p + 1, s.n - 2);
    if (quote == '`' || !s.n || !memchr(s.p, '\\', s.n))
        return s;
    char *buf = arena_alloc(p->arena, s.n); /* no escape is shorter than what it stands for */
    if (!buf) {
        parse_no_memory(p);
        return SL("");
    }
    char *out = buf;
    for (size_t i = 0; i < s.n;) {
        if (s.p[i] == '\\')
            i += 1 + unescape(s.p + i + 1, &out);
        else
            *out++ = s.p[i++];
    }
    return slice_make(buf, (size_t)(out - buf));
}

/* A name as it stands, or a quoted one. */
struct slice token_name(struct parser *p, struct token t)
{
    return t.type == T_STRING ? unquote(p, t) : text_of(p, t);
}

static bool is_base_digit(char c, uint32_t base)
{
    return base == 16 || (c >= '0' && c < (char)('0' + base));
}

/* Digits of base 8 or 16 that fit int64; as Go's ParseInt with base 0. */
static bool parse_based(struct slice digits, uint32_t base, double *ret)
{
    uint64_t v = 0;
    for (size_t i = 0; i < digits.n; i++) {
        if (!is_base_digit(digits.p[i], base) || v > (uint64_t)INT64_MAX / base)
            return false;
        v = v * base + hex_value(digits.p + i, 1, base);
    }
    *ret = (double)v;
    return digits.n > 0 && v <= INT64_MAX;
}

/* Underscores may stand between digits, and after 0x. Copies the rest to out, which has room for it. */
static bool strip_underscores(struct slice s, char *out, size_t *ret_n)
{
    size_t n = 0;
    bool hex = s.n > 1 && (s.p[1] | 0x20) == 'x';
    for (size_t i = 0; i < s.n; i++) {
        if (s.p[i] != '_') {
            out[n++] = s.p[i];
            continue;
        }
        bool before = i > 0 && ((s.p[i - 1] >= '0' && s.p[i - 1] <= '9') || hex);
        bool after = i + 1 < s.n && s.p[i + 1] != '_' && ((s.p[i + 1] >= '0' && s.p[i + 1] <= '9') || hex);
        if (!before || !after)
            return false;
    }
    *ret_n = n;
    return true;
}

/* [digits][.digits][e[+-]digits]: the lexer has seen to it that there are digits, one point and one exponent at most, but not to their order. */
static bool is_decimal(struct slice s)
{
    const char *e = s.n ? memchr(s.p, 'e', s.n) : NULL;
    if (!e && s.n)
        e = memchr(s.p, 'E', s.n);
    const char *last = s.p + s.n - 1;
    int points = 0;
    for (size_t i = 0; i < s.n; i++)
        points += s.p[i] == '.';
    return s.n && points <= 1 && *last >= '0' && *last <= '9' && !(e && memchr(e, '.', (size_t)(last - e))) && (s.p[0] != '0' || s.n < 2 || (s.p[1] | 0x20) != 'x');
}

static double parse_number(struct parser *p, struct token t)
{
    struct slice s = text_of(p, t);
    double v = 0;
    char *plain = arena_alloc(p->arena, s.n);
    if (!plain) {
        parse_no_memory(p);
        return 0;
    }
    size_t n = 0;
    bool ok = strip_underscores(s, plain, &n);
    if (ok && n > 2 && plain[0] == '0' && (plain[1] | 0x20) == 'x')
        ok = parse_based(slice_make(plain + 2, n - 2), 16, &v);
    else if (ok && !(n > 1 && plain[0] == '0' && parse_based(slice_make(plain + 1, n - 1), 8, &v)))
        ok = dtoa_parse(slice_make(plain, n), &v);
    if (!ok) {
        bool range = is_decimal(slice_make(plain, n)); /* well-formed, so it is too large */
        buf_clear(&p->message);
        put_quoted(&p->message, s);
        parse_fail(p, t.start, "error parsing number: strconv.ParseFloat: parsing %s: %s", buf_cstr(&p->message),
                   range ? "value out of range" : "invalid syntax");
    }
    return v;
}

struct node *node_number(struct parser *p, struct token t)
{
    struct node *n = node_new(p, NODE_NUMBER, t.start, t.end);
    if (!n)
        return NULL;
    n->number.is_duration = t.type == T_DURATION;
    n->number.value = n->number.is_duration ? parse_duration_seconds(p, t) : parse_number(p, t);
    return n;
}

struct node *node_string(struct parser *p, struct token t)
{
    struct node *n = node_new(p, NODE_STRING, t.start, t.end);
    if (n)
        n->string = unquote(p, t);
    return n;
}

/* --- lists -------------------------------------------------------------------------------------------------------------------- */

/* Appends a zeroed item to a list that has first, last and n. */
#define LIST_APPEND(p, list, type, ret_item)                                                                                           \
    do {                                                                                                                               \
        (ret_item) = ARENA_NEW((p)->arena, type);                                                                                      \
        if (!(ret_item))                                                                                                               \
            return parse_no_memory(p);                                                                                                 \
        if ((list)->last)                                                                                                              \
            (list)->last->next = (ret_item);                                                                                           \
        else                                                                                                                           \
            (list)->first = (ret_item);                                                                                                \
        (list)->last = (ret_item);                                                                                                     \
        (list)->n++;                                                                                                                   \
    } while (0)

struct node_list *list_nodes(struct parser *p, struct node_list *l, struct node *n)
{
    if (p->failed || (!l && !(l = ARENA_NEW(p->arena, struct node_list))))
        return parse_no_memory(p);
    if (n) {
        struct node_item *item;
        LIST_APPEND(p, l, struct node_item, item);
        item->node = n;
    }
    return l;
}

struct name_list *list_names(struct parser *p, struct name_list *l, struct token name)
{
    if (p->failed || (!l && !(l = ARENA_NEW(p->arena, struct name_list))))
        return parse_no_memory(p);
    if (name.type) {
        struct name_item *item;
        LIST_APPEND(p, l, struct name_item, item);
        item->name = token_name(p, name);
    }
    return l;
}

struct matcher_list *list_matchers(struct parser *p, struct matcher_list *l, struct matcher_item *m)
{
    if (p->failed || (!l && !(l = ARENA_NEW(p->arena, struct matcher_list))))
        return parse_no_memory(p);
    if (m) {
        if (l->last)
            l->last->next = m;
        else
            l->first = m;
        l->last = m;
        l->n++;
    }
    return l;
}

static const struct slice *names_to_array(struct parser *p, const struct name_list *l, size_t *ret_n)
{
    *ret_n = 0;
    if (!l || !l->n)
        return NULL;
    struct slice *names = ARENA_ARRAY(p->arena, struct slice, l->n);
    if (!names)
        return parse_no_memory(p);
    for (const struct name_item *i = l->first; i; i = i->next)
        names[(*ret_n)++] = i->name;
    return names;
}

void check_grouping_label(struct parser *p, struct token name)
{
    struct slice s = unquote(p, name);
    if (s.n && utf8_valid(s))
        return;
    buf_clear(&p->message);
    put_quoted(&p->message, s);
    parse_fail(p, name.start, "invalid label name for grouping: %s", buf_cstr(&p->message));
}

static bool may_begin_operand(int type)
{
    switch (type) {
    case T_IDENTIFIER: case T_METRIC_IDENTIFIER: case T_STRING: case T_NUMBER: case T_DURATION:
    case T_LEFT_BRACE: case T_LEFT_PAREN: case T_ADD: case T_SUB:
    case T_LAND: case T_LOR: case T_LUNLESS:
    case T_BY: case T_WITHOUT: case T_OFFSET: case T_SMOOTHED: case T_ANCHORED: case T_FILL: case T_FILL_LEFT: case T_FILL_RIGHT:
        return true;
    default: return (type >= T_START && type <= T_MIN_OF) || (type >= T_AVG && type <= T_LIMIT_RATIO);
    }
}

void check_no_grouping(struct parser *p)
{
    if (!may_begin_operand(p->token.type))
        parse_unexpected(p, "grouping opts", "\"(\"");
}

/* --- simple expressions --------------------------------------------------------------------------------------------------------- */

struct node *node_paren(struct parser *p, struct token open, struct node *expr, struct token close)
{
    struct node *n = node_new(p, NODE_PAREN, open.start, close.end);
    if (!n)
        return NULL;
    n->paren = expr;
    node_adopt(p, n, expr);
    return n;
}

struct node *node_unary(struct parser *p, struct token op, struct node *expr)
{
    if (p->failed)
        return NULL;
    bool negative = op.type == T_SUB;
    if (expr->kind == NODE_NUMBER) { /* the sign is a part of the literal */
        if (negative)
            expr->number.value = -expr->number.value;
        expr->pos.start = op.start;
        return expr;
    }
    struct node *n = node_new(p, NODE_UNARY, op.start, expr->pos.end);
    if (!n)
        return NULL;
    n->unary.negative = negative;
    n->unary.expr = expr;
    node_adopt(p, n, expr);
    return n;
}

struct node *node_call(struct parser *p, struct token name, struct arguments args)
{
    struct node *n = node_new(p, NODE_CALL, name.start, args.end);
    if (!n)
        return NULL;
    struct slice text = text_of(p, name);
    n->call.fn = promql_function_find(text);
    if (!n->call.fn) {
        parse_fail(p, name.start, "unknown function with name \"%.*s\"", SL_FMT(text));
        return NULL;
    }
    n->call.args = ARENA_ARRAY(p->arena, struct node *, args.list->n + 1);
    if (!n->call.args)
        return parse_no_memory(p);
    for (struct node_item *i = args.list->first; i; i = i->next) {
        n->call.args[n->call.n_args++] = i->node;
        node_adopt(p, n, i->node);
    }
    return n;
}

static enum aggregate_op aggregate_op_of(int token)
{
    switch (token) {
    case T_SUM: return AGG_SUM;
    case T_MIN: return AGG_MIN;
    case T_MAX: return AGG_MAX;
    case T_AVG: return AGG_AVG;
    case T_GROUP: return AGG_GROUP;
    case T_STDDEV: return AGG_STDDEV;
    case T_STDVAR: return AGG_STDVAR;
    case T_COUNT: return AGG_COUNT;
    case T_COUNT_VALUES: return AGG_COUNT_VALUES;
    case T_BOTTOMK: return AGG_BOTTOMK;
    case T_TOPK: return AGG_TOPK;
    case T_QUANTILE: return AGG_QUANTILE;
    case T_LIMITK: return AGG_LIMITK;
    case T_LIMIT_RATIO: return AGG_LIMIT_RATIO;
    default: ASSERT(false && "aggregator"); return AGG_SUM;
    }
}

struct node *node_aggregate(struct parser *p, struct token op, struct grouping grouping, struct arguments arguments, int32_t end)
{
    struct node *n = node_new(p, NODE_AGGREGATE, op.start, end);
    if (!n)
        return NULL;
    const struct node_list *args = arguments.list;
    n->aggregate.op = aggregate_op_of(op.type);
    n->aggregate.without = grouping.without;
    n->aggregate.grouping = names_to_array(p, grouping.labels, &n->aggregate.n_grouping);
    size_t want = aggregate_op_has_param(n->aggregate.op) ? 2 : 1;
    if (args->n == 0) {
        parse_fail(p, op.start, "no arguments for aggregate expression provided");
    } else if (args->n != want) {
        parse_fail(p, op.start, "wrong number of arguments for aggregate expression provided, expected %zu, got %zu", want, args->n);
    } else {
        n->aggregate.expr = args->last->node;
        node_adopt(p, n, n->aggregate.expr);
        if (want == 2) {
            n->aggregate.param = args->first->node;
            node_adopt(p, n, n->aggregate.param);
        }
    }
    return n;
}

/* --- binary operators ----------------------------------------------------------------------------------------------------------- */

static enum binary_op binary_op_of(int token)
{
    switch (token) {
    case T_ADD: return OP_ADD;
    case T_SUB: return OP_SUB;
    case T_MUL: return OP_MUL;
    case T_DIV: return OP_DIV;
    case T_MOD: return OP_MOD;
    case T_POW: return OP_POW;
    case T_ATAN2: return OP_ATAN2;
    case T_EQLC: return OP_EQ;
    case T_NEQ: return OP_NEQ;
    case T_GTR: return OP_GTR;
    case T_LSS: return OP_LSS;
    case T_GTE: return OP_GTE;
    case T_LTE: return OP_LTE;
    case T_LAND: return OP_AND;
    case T_LOR: return OP_OR;
    case T_LUNLESS: return OP_UNLESS;
    case T_TRIM_UPPER: return OP_TRIM_UPPER;
    case T_TRIM_LOWER: return OP_TRIM_LOWER;
    default: ASSERT(false && "operator"); return OP_ADD;
    }
}

struct node *modifiers_new(struct parser *p, bool return_bool)
{
    struct node *n = node_new(p, NODE_BINARY, 0, 0);
    if (!n)
        return NULL;
    n->binary.return_bool = return_bool;
    n->binary.matching = ARENA_NEW(p->arena, struct vector_matching);
    return n->binary.matching ? n : parse_no_memory(p);
}

struct node *modifiers_match(struct parser *p, struct node *m, bool on, struct name_list *labels)
{
    if (p->failed)
        return NULL;
    m->binary.matching->on = on;
    m->binary.matching->labels = names_to_array(p, labels, &m->binary.matching->n_labels);
    return m;
}

struct node *modifiers_group(struct parser *p, struct node *m, enum card card, struct name_list *include)
{
    if (p->failed)
        return NULL;
    m->binary.matching->card = card;
    m->binary.matching->include = names_to_array(p, include, &m->binary.matching->n_include);
    return m;
}

struct node *modifiers_fill(struct parser *p, struct node *m, struct node *left, struct node *right)
{
    if (p->failed)
        return NULL;
    struct vector_matching *v = m->binary.matching;
    if (left) {
        v->has_fill_left = true;
        v->fill_left = left->number.value;
    }
    if (right) {
        v->has_fill_right = true;
        v->fill_right = right->number.value;
    }
    return m;
}

struct node *node_binary(struct parser *p, struct node *lhs, struct token op, struct node *modifiers, struct node *rhs)
{
    if (p->failed)
        return NULL;
    struct node *n = modifiers;
    n->pos = (struct pos_range){lhs->pos.start, rhs->pos.end};
    n->binary.op = binary_op_of(op.type);
    n->binary.lhs = lhs;
    n->binary.rhs = rhs;
    node_adopt(p, n, lhs);
    node_adopt(p, n, rhs);
    return n;
}
