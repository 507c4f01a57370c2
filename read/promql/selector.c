/* What the grammar's actions build, second part: selectors, their matchers, ranges, offsets and @. */
#include <math.h>

#include "base/regex.h"
#include "grammar.h"
#include "read/promql/parse_int.h"

/* --- matchers ----------------------------------------------------------------------------------------------------------------- */

/* A text of a megabyte may hold 100,000 regexes: they count as memory of the query, although they do not lie in the arena. */
static bool charge_regex(struct arena *a, const struct matcher *m)
{
    size_t bytes = m->regex ? regex_bytes(m->regex) : 0;
    if (a->budget_bytes && (bytes > a->budget_bytes || a->used_bytes > a->budget_bytes - bytes))
        return false;
    a->used_bytes += bytes;
    return true;
}

static struct matcher_item *make_matcher(struct parser *p, enum matcher_type type, struct slice name, struct slice value, int32_t pos)
{
    if (p->failed)
        return NULL;
    struct matcher_item *item = ARENA_NEW(p->arena, struct matcher_item);
    if (!item)
        return parse_no_memory(p);
    struct err err = ERR_NONE;
    if (!matcher_init(&item->m, type, name, value, &err)) {
        parse_fail(p, pos, "%s", err.text);
        return NULL;
    }
    item->next_made = p->matchers;
    p->matchers = item;
    return charge_regex(p->arena, &item->m) ? item : parse_no_memory(p);
}

static enum matcher_type matcher_type_of(int token)
{
    switch (token) {
    case T_EQL: return MATCH_EQ;
    case T_NEQ: return MATCH_NEQ;
    case T_EQL_REGEX: return MATCH_RE;
    case T_NEQ_REGEX: return MATCH_NRE;
    default: ASSERT(false && "match operator"); return MATCH_EQ;
    }
}

struct matcher_item *matcher_new(struct parser *p, struct token name, struct token op, struct token value)
{
    return make_matcher(p, matcher_type_of(op.type), token_name(p, name), token_name(p, value), name.start);
}

struct matcher_item *matcher_of_name(struct parser *p, struct token name)
{
    return make_matcher(p, MATCH_EQ, SL(METRIC_NAME_LABEL), token_name(p, name), name.start);
}

/* --- selectors ---------------------------------------------------------------------------------------------------------------- */

struct node *node_selector(struct parser *p, const struct token *name, struct matcher_list *matchers)
{
    int32_t start = name ? name->start : matchers ? matchers->pos.start : 0;
    int32_t end = matchers ? matchers->pos.end : name ? name->end : 0;
    struct node *n = node_new(p, NODE_VECTOR_SELECTOR, start, end);
    if (!n)
        return NULL;
    struct vector_selector *s = &n->selector;
    struct matcher_item *of_name = NULL;
    if (name) {
        s->name = token_name(p, *name);
        of_name = make_matcher(p, MATCH_EQ, SL(METRIC_NAME_LABEL), s->name, start);
    }
    size_t room = (matchers ? matchers->n : 0) + 1;
    s->matchers = ARENA_ARRAY(p->arena, struct matcher, room);
    if (!s->matchers || p->failed)
        return parse_no_memory(p);
    for (struct matcher_item *i = matchers ? matchers->first : NULL; i; i = i->next)
        s->matchers[s->n_matchers++] = i->m;
    if (of_name)
        s->matchers[s->n_matchers++] = of_name->m;
    return n;
}

static bool has_offset(const struct vector_selector *s)
{
    return s->offset_ms != 0 || s->offset_expr;
}

struct node *node_matrix(struct parser *p, struct node *expr, struct token open, struct duration_expr *range, struct token close)
{
    if (p->failed)
        return NULL;
    if (expr->kind != NODE_VECTOR_SELECTOR)
        parse_fail(p, open.start, "ranges only allowed for vector selectors");
    else if (has_offset(&expr->selector))
        parse_fail(p, open.start, "no offset modifiers allowed before range");
    else if (expr->selector.at != AT_NONE)
        parse_fail(p, open.start, "no @ modifiers allowed before range");
    struct node *n = node_new(p, NODE_MATRIX_SELECTOR, expr->pos.start, close.end);
    if (!n)
        return NULL;
    n->matrix.selector = expr;
    dur_store(range, &n->matrix.range_ms, &n->matrix.range_expr);
    node_adopt(p, n, expr);
    return n;
}

struct node *node_subquery(struct parser *p, struct node *expr, struct duration_expr *range, struct duration_expr *step, struct token close)
{
    if (p->failed)
        return NULL;
    struct node *n = node_new(p, NODE_SUBQUERY, expr->pos.start, close.end);
    if (!n)
        return NULL;
    n->subquery.expr = expr;
    dur_store(range, &n->subquery.range_ms, &n->subquery.range_expr);
    if (step)
        dur_store(step, &n->subquery.step_ms, &n->subquery.step_expr);
    node_adopt(p, n, expr);
    return n;
}

/* --- modifiers ---------------------------------------------------------------------------------------------------------------- */

/* The selector that carries n's modifiers, NULL when n is none. */
static struct vector_selector *selector_of(struct node *n)
{
    if (n->kind == NODE_VECTOR_SELECTOR)
        return &n->selector;
    return n->kind == NODE_MATRIX_SELECTOR ? &n->matrix.selector->selector : NULL;
}

struct node *apply_offset(struct parser *p, struct node *n, struct duration_expr *offset)
{
    if (p->failed)
        return NULL;
    struct vector_selector *s = selector_of(n);
    if (!s && n->kind != NODE_SUBQUERY) {
        parse_fail(p, n->pos.start, "offset modifier must be preceded by an instant vector selector or range vector selector or a subquery");
        return NULL;
    }
    int64_t *ms = s ? &s->offset_ms : &n->subquery.offset_ms;
    struct duration_expr **expr = s ? &s->offset_expr : &n->subquery.offset_expr;
    if (*ms != 0 || *expr) {
        parse_fail(p, n->pos.start, "offset may not be set multiple times");
        return NULL;
    }
    dur_store(offset, ms, expr);
    n->pos.end = offset->pos.end;
    return n;
}

/* Where n keeps its @; NULL after an error. */
static enum at_kind *at_of(struct parser *p, struct node *n, int64_t **ret_ms)
{
    struct vector_selector *s = selector_of(n);
    if (!s && n->kind != NODE_SUBQUERY) {
        parse_fail(p, n->pos.start, "@ modifier must be preceded by an instant vector selector or range vector selector or a subquery");
        return NULL;
    }
    enum at_kind *at = s ? &s->at : &n->subquery.at;
    if (*at != AT_NONE) {
        parse_fail(p, n->pos.start, "@ <timestamp> may not be set multiple times");
        return NULL;
    }
    *ret_ms = s ? &s->at_ms : &n->subquery.at_ms;
    return at;
}

struct node *apply_at(struct parser *p, struct node *n, struct node *number, bool negative)
{
    if (p->failed)
        return NULL;
    double seconds = negative ? -number->number.value : number->number.value;
    if (!isfinite(seconds) || seconds >= 0x1p63 || seconds <= -0x1p63) {
        if (isfinite(seconds))
            parse_fail(p, n->pos.start, "timestamp out of bounds for @ modifier: %f", seconds);
        else
            parse_fail(p, n->pos.start, "timestamp out of bounds for @ modifier: %s", isnan(seconds) ? "NaN" : seconds > 0 ? "+Inf" : "-Inf");
        return NULL;
    }
    int64_t *ms;
    enum at_kind *at = at_of(p, n, &ms);
    if (!at)
        return NULL;
    double v = round(seconds * 1000);
    *at = AT_TIMESTAMP;
    *ms = v >= 0x1p63 ? INT64_MAX : v <= -0x1p63 ? INT64_MIN : (int64_t)v;
    n->pos.end = number->pos.end;
    return n;
}

struct node *apply_at_edge(struct parser *p, struct node *n, struct token edge, struct token close)
{
    if (p->failed)
        return NULL;
    int64_t *ms;
    enum at_kind *at = at_of(p, n, &ms);
    if (!at)
        return NULL;
    *at = edge.type == T_START ? AT_START : AT_END;
    n->pos.end = close.end;
    return n;
}

struct node *apply_extended(struct parser *p, struct node *n, struct token modifier)
{
    if (p->failed)
        return NULL;
    const char *word = modifier.type == T_ANCHORED ? "anchored" : "smoothed";
    struct vector_selector *s = selector_of(n);
    if (!s) {
        if (n->kind == NODE_SUBQUERY)
            parse_fail(p, n->pos.start, "%s modifier is not supported for subqueries", word);
        else
            parse_fail(p, n->pos.start, "%s modifier not implemented", word);
        return NULL;
    }
    if (modifier.type == T_ANCHORED)
        s->anchored = true;
    else
        s->smoothed = true;
    if (s->anchored && s->smoothed)
        parse_fail(p, n->pos.start, "anchored and smoothed modifiers cannot be used together");
    n->pos.end = modifier.end;
    return n;
}
