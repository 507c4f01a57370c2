/* The doors of the parser: text in, tree or error out. How it works is told in parse_int.h. */
#include "read/promql/ast.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "base/utf8.h"
#include "grammar.h"
#include "model/labels.h"
#include "read/promql/parse_int.h"

/* --- errors ----------------------------------------------------------------------------------------------------------------- */

void promql_position(struct slice text, int32_t offset, int *ret_line, int *ret_col)
{
    int line = 1;
    int32_t line_start = 0;
    for (int32_t i = 0; i < offset && (size_t)i < text.n; i++) {
        if (text.p[i] == '\n') {
            line++;
            line_start = i + 1;
        }
    }
    *ret_line = line;
    *ret_col = offset - line_start + 1;
}

void parse_fail(struct parser *p, int32_t pos, const char *fmt, ...)
{
    if (p->failed)
        return;
    p->failed = true;
    char where[48] = "unknown position";
    if (p->text.n) {
        int line, col;
        promql_position(p->text, pos, &line, &col);
        snprintf(where, sizeof(where), "%d:%d", line, col);
    }
    char text[ERR_TEXT_MAX];
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(text, sizeof(text), fmt, ap);
    va_end(ap);
    err_set(p->err, ERR_BAD_DATA, "%s: parse error: %s", where, text);
}

void *parse_no_memory(struct parser *p)
{
    if (!p->failed)
        err_set(p->err, ERR_BAD_DATA, "the query is too large to be parsed");
    p->failed = true;
    return NULL;
}

static void put_cut(struct buf *out, struct slice s)
{
    size_t n = 0;
    for (int runes = 0; n < s.n && runes < 10; runes++) {
        size_t size;
        utf8_decode(slice_make(s.p + n, s.n - n), &size);
        n += size;
    }
    put_quoted(out, slice_make(s.p, n));
    buf_puts(out, "...");
}

/* What a token is called in a message. Relies on the order of %token in grammar.y. */
static void describe_token(struct parser *p, struct token t, struct buf *out)
{
    struct slice text = slice_make(p->text.p + t.start, (size_t)(t.end - t.start));
    switch (t.type) {
    case T_EOF: buf_puts(out, "end of input"); return;
    case T_IDENTIFIER: buf_puts(out, "identifier "); put_quoted(out, text); return;
    case T_METRIC_IDENTIFIER: buf_puts(out, "metric identifier "); put_quoted(out, text); return;
    case T_STRING: buf_puts(out, "string "); break;
    case T_NUMBER: buf_puts(out, "number "); break;
    case T_DURATION: buf_puts(out, "duration "); break;
    default: break;
    }
    if (t.type >= T_ADD && t.type <= T_ATAN2)
        buf_printf(out, "<op:%.*s>", SL_FMT(text));
    else if (t.type >= T_AVG && t.type <= T_LIMIT_RATIO)
        buf_printf(out, "<aggr:%.*s>", SL_FMT(text));
    else if (t.type >= T_BOOL && t.type <= T_WITHOUT)
        buf_printf(out, "<%.*s>", SL_FMT(text));
    else if (text.n > 10)
        put_cut(out, text);
    else
        put_quoted(out, text);
}

void parse_unexpected(struct parser *p, const char *context, const char *expected)
{
    if (p->failed)
        return;
    struct buf *b = &p->message;
    buf_clear(b);
    buf_puts(b, "unexpected ");
    describe_token(p, p->token, b);
    if (*context)
        buf_printf(b, " in %s", context);
    if (*expected)
        buf_printf(b, ", expected %s", expected);
    parse_fail(p, p->token.start, "%s", buf_cstr(b));
}

/* --- quoting ----------------------------------------------------------------------------------------------------------------- */

void put_quoted(struct buf *out, struct slice s)
{
    labels_put_quoted(s, out);
}

void put_quoted_rune(struct buf *out, uint32_t rune)
{
    char bytes[4];
    struct slice s = slice_make(bytes, utf8_encode(rune, bytes));
    if (rune == '\'' || rune == '"') {
        buf_puts(out, rune == '"' ? "'\"'" : "'\\''");
        return;
    }
    size_t at = out->n;
    put_quoted(out, s);
    if (!out->failed)
        out->p[at] = out->p[out->n - 1] = '\'';
}

void put_unicode(struct buf *out, uint32_t rune)
{
    buf_printf(out, "U+%04X", (unsigned)rune);
    size_t at = out->n;
    buf_puts(out, " ");
    put_quoted_rune(out, rune);
    bool escaped = !out->failed && out->p[at + 2] == '\\' && rune != '\\' && rune != '\'';
    if (out->failed || escaped) { /* not printable: the number says it all */
        out->n = at;
    } else if (out->p[at + 2] == '\\') {
        out->n = at;
        buf_printf(out, " '%c'", (int)rune);
    }
}

/* --- life of a parse --------------------------------------------------------------------------------------------------------- */

#define TEXT_MAX ((size_t)INT32_MAX / 2)

static bool parser_init(struct parser *p, struct slice text, struct arena *arena, struct err *err)
{
    *p = (struct parser){.arena = arena, .err = err};
    if (text.n > TEXT_MAX) {
        parse_no_memory(p);
        return false;
    }
    p->text = arena_dup(arena, text); /* names and strings of the tree point into it */
    if (!p->text.p) {
        parse_no_memory(p);
        return false;
    }
    buf_init(&p->message, ERR_TEXT_MAX * 8);
    p->lexer = (struct lexer){.text = p->text.p, .cur = p->text.p, .end = p->text.p + text.n, .message = &p->message};
    return true;
}

static bool parser_run(struct parser *p, int first)
{
    promql_grammar_run(p, first);
    buf_release(&p->message);
    return !p->failed;
}

/* The regexes of a text that did not become a tree. */
static void release_made(struct parser *p)
{
    for (struct matcher_item *m = p->matchers; m; m = m->next_made)
        matcher_release(&m->m);
}

static bool refuse_experimental(const struct node *n, const struct promql_parse_options *opt, struct err *err)
{
    static const char *const names[] = {
        [PROMQL_EXPERIMENTAL_FUNCTION] = "function",
        [PROMQL_EXPERIMENTAL_AGGREGATION] = "aggregation",
        [PROMQL_EXPERIMENTAL_MODIFIER] = "extended range selector modifier",
    };
    enum promql_experimental kind;
    struct slice name;
    if (!opt || !opt->allowed || !promql_find_experimental(n, opt->allowed, opt->arg, &kind, &name))
        return false;
    err_set(err, ERR_BAD_DATA, "experimental %s \"%.*s\" is not enabled for tenant", names[kind], SL_FMT(name));
    return true;
}

struct node *promql_parse(struct slice text, const struct promql_parse_options *opt, struct arena *arena, struct err *err)
{
    struct parser p;
    if (!parser_init(&p, text, arena, err))
        return NULL;
    if (parser_run(&p, T_START_EXPRESSION))
        promql_check(&p, p.result);
    if (p.failed || refuse_experimental(p.result, opt, err)) {
        release_made(&p);
        return NULL;
    }
    return p.result;
}

bool promql_parse_selector(struct slice text, struct arena *arena, const struct matcher **ret, size_t *ret_n, struct err *err)
{
    struct parser p;
    if (!parser_init(&p, text, arena, err))
        return false;
    if (!parser_run(&p, T_START_SELECTOR)) {
        release_made(&p);
        return false;
    }
    *ret = p.result->selector.matchers;
    *ret_n = p.result->selector.n_matchers;
    return true;
}

/* --- walks of a finished tree ------------------------------------------------------------------------------------------------- */

/* The i-th child in the order of the text, NULL past the last. A parameter stands before the aggregated expression. */
static struct node *child_at(const struct node *n, size_t i)
{
    switch (n->kind) {
    case NODE_NUMBER:
    case NODE_STRING:
    case NODE_VECTOR_SELECTOR: return NULL;
    case NODE_PAREN: return i == 0 ? n->paren : NULL;
    case NODE_UNARY: return i == 0 ? n->unary.expr : NULL;
    case NODE_BINARY: return i == 0 ? n->binary.lhs : i == 1 ? n->binary.rhs : NULL;
    case NODE_CALL: return i < n->call.n_args ? n->call.args[i] : NULL;
    case NODE_AGGREGATE:
        if (n->aggregate.param)
            return i == 0 ? n->aggregate.param : i == 1 ? n->aggregate.expr : NULL;
        return i == 0 ? n->aggregate.expr : NULL;
    case NODE_MATRIX_SELECTOR: return i == 0 ? n->matrix.selector : NULL;
    case NODE_SUBQUERY: return i == 0 ? n->subquery.expr : NULL;
    }
    ASSERT(false && "node kind");
    return NULL;
}

void promql_release(struct node *n)
{
    if (!n)
        return;
    if (n->kind == NODE_VECTOR_SELECTOR)
        promql_release_matchers(n->selector.matchers, n->selector.n_matchers);
    struct node *child;
    for (size_t i = 0; (child = child_at(n, i)); i++)
        promql_release(child);
}

void promql_release_matchers(const struct matcher *m, size_t n)
{
    for (size_t i = 0; i < n; i++)
        matcher_release((struct matcher *)&m[i]);
}

static bool is_experimental(const struct node *n, enum promql_experimental *ret_kind, struct slice *ret_name)
{
    if (n->kind == NODE_CALL && n->call.fn->experimental) {
        *ret_kind = PROMQL_EXPERIMENTAL_FUNCTION;
        *ret_name = slice_of(n->call.fn->name);
        return true;
    }
    if (n->kind == NODE_AGGREGATE && (n->aggregate.op == AGG_LIMITK || n->aggregate.op == AGG_LIMIT_RATIO)) {
        *ret_kind = PROMQL_EXPERIMENTAL_AGGREGATION;
        *ret_name = slice_of(aggregate_op_text(n->aggregate.op));
        return true;
    }
    if (n->kind == NODE_VECTOR_SELECTOR && (n->selector.anchored || n->selector.smoothed)) {
        *ret_kind = PROMQL_EXPERIMENTAL_MODIFIER;
        *ret_name = n->selector.anchored ? SL("anchored") : SL("smoothed");
        return true;
    }
    return false;
}

bool promql_find_experimental(const struct node *n, promql_allowed_fn *allowed, void *arg, enum promql_experimental *ret_kind,
                              struct slice *ret_name)
{
    enum promql_experimental kind;
    struct slice name;
    if (is_experimental(n, &kind, &name) && !(allowed && allowed(arg, kind, name))) {
        *ret_kind = kind;
        *ret_name = name;
        return true;
    }
    const struct node *child;
    for (size_t i = 0; (child = child_at(n, i)); i++)
        if (promql_find_experimental(child, allowed, arg, ret_kind, ret_name))
            return true;
    return false;
}
