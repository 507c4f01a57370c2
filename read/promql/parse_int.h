/*
 * What the lexer, the grammar, the checks and the printer share.
 *
 * One query text is parsed like this: promql_parse (parse.c) asks the lexer for a token, hands it to the grammar, lets the grammar do every
 * reduction that needs no further token, and goes on. The grammar's actions call the node_* and dur_* functions of build.c. The first error ends the parse, so only
 * one is ever kept. check.c then finds the types.
 *
 * Everything lives on one thread and in the caller's arena; the grammar's stack is a fixed array on the C stack.
 */
#pragma once

#include "base/arena.h"
#include "base/assert.h"
#include "base/buf.h"
#include "base/err.h"
#include "read/promql/ast.h"

struct token {
    int type; /* T_* of grammar.h */
    int32_t start;
    int32_t end;
};

/* --- lexer.re ------------------------------------------------------------------------------------------------------------ */

enum lex_state { LEX_EXPRESSION, LEX_BRACES, LEX_DURATION };

struct lexer {
    const char *text; /* ended by a NUL that is not part of it */
    const char *end;
    const char *cur;
    enum lex_state state;
    int paren_depth;
    bool bracket_open; /* inside [ ] */
    bool got_colon;
    bool got_duration;
    struct buf *message; /* of the T_ERROR token; its position is token.start */
};

/* The next token, comments and blanks passed over. T_ERROR: the message is in lx->message. T_EOF at the end, again and again. */
struct token promql_lex(struct lexer *lx);

/* --- parser state --------------------------------------------------------------------------------------------------------- */

struct parser {
    struct slice text;
    struct arena *arena;
    struct lexer lexer;
    struct buf message; /* scratch for error texts */
    struct err *err;
    bool failed; /* err is set */
    struct token token; /* last one from the lexer: what "unexpected" is about */
    struct node *result;
    struct matcher_item *matchers; /* every matcher made, so that a failed parse frees its regexes */
};

/* Keeps the first error only: "line:column: parse error: text". */
void parse_fail(struct parser *p, int32_t pos, const char *fmt, ...) __attribute__((format(printf, 3, 4)));
/* "unexpected <token> in <context>, expected <expected>"; either may be "". */
void parse_unexpected(struct parser *p, const char *context, const char *expected);
/* The arena is full. Returns NULL. */
void *parse_no_memory(struct parser *p);

/* --- lists, in the order of the text ---------------------------------------------------------------------------------------- */

struct node_item {
    struct node_item *next;
    struct node *node;
};
struct node_list {
    struct node_item *first, *last;
    size_t n;
};
struct arguments {
    struct node_list *list;
    int32_t end; /* past the closing parenthesis */
};
struct name_item {
    struct name_item *next;
    struct slice name;
};
struct name_list {
    struct name_item *first, *last;
    size_t n;
    int32_t end;
};
struct grouping {
    struct name_list *labels;
    bool without;
};
struct matcher_item {
    struct matcher_item *next;      /* of its selector */
    struct matcher_item *next_made; /* of the parser */
    struct matcher m;
};
struct matcher_list {
    struct matcher_item *first, *last;
    size_t n;
    struct pos_range pos; /* of the braces */
};

/* --- build.c, selector.c: what the grammar's actions call. All of them return NULL after an error. -------------------------------------- */

/* l NULL: a new list; nothing to add (NULL, type 0): only the list. */
struct node_list *list_nodes(struct parser *p, struct node_list *l, struct node *n);
struct name_list *list_names(struct parser *p, struct name_list *l, struct token name);
struct matcher_list *list_matchers(struct parser *p, struct matcher_list *l, struct matcher_item *m);

struct node *node_new(struct parser *p, enum node_kind kind, int32_t start, int32_t end);
void node_adopt(struct parser *p, struct node *n, const struct node *child); /* child gets n as its parent: counts depth */
struct slice token_name(struct parser *p, struct token t);                   /* as it stands, or unquoted for T_STRING */

struct node *node_number(struct parser *p, struct token t); /* T_NUMBER or T_DURATION */
struct node *node_string(struct parser *p, struct token t);
struct node *node_paren(struct parser *p, struct token open, struct node *expr, struct token close);
struct node *node_unary(struct parser *p, struct token op, struct node *expr);
struct node *node_binary(struct parser *p, struct node *lhs, struct token op, struct node *modifiers, struct node *rhs);
struct node *node_call(struct parser *p, struct token name, struct arguments args);
struct node *node_aggregate(struct parser *p, struct token op, struct grouping grouping, struct arguments args, int32_t end);
struct node *node_selector(struct parser *p, const struct token *name, struct matcher_list *matchers);
struct node *node_matrix(struct parser *p, struct node *expr, struct token open, struct duration_expr *range, struct token close);
struct node *node_subquery(struct parser *p, struct node *expr, struct duration_expr *range, struct duration_expr *step, struct token close);

/* A binary node under construction: everything between the operator and the right side. */
struct node *modifiers_new(struct parser *p, bool return_bool);
struct node *modifiers_match(struct parser *p, struct node *m, bool on, struct name_list *labels);
struct node *modifiers_group(struct parser *p, struct node *m, enum card card, struct name_list *include);
struct node *modifiers_fill(struct parser *p, struct node *m, struct node *left, struct node *right); /* NULL: none */

struct matcher_item *matcher_new(struct parser *p, struct token name, struct token op, struct token value);
struct matcher_item *matcher_of_name(struct parser *p, struct token name);
void check_grouping_label(struct parser *p, struct token name);
/* After group_left without labels: fails unless the next token can begin the right side. */
void check_no_grouping(struct parser *p);

/* Modifiers of a selector or subquery; they change n and return it. */
struct node *apply_offset(struct parser *p, struct node *n, struct duration_expr *offset);
struct node *apply_at(struct parser *p, struct node *n, struct node *number, bool negative);
struct node *apply_at_edge(struct parser *p, struct node *n, struct token edge, struct token close);
struct node *apply_extended(struct parser *p, struct node *n, struct token modifier);

/* --- duration.c ------------------------------------------------------------------------------------------------------------- */

struct duration_expr *dur_literal(struct parser *p, struct token t);
/* positive: must be above zero when it is a literal. */
struct duration_expr *dur_positive(struct parser *p, struct duration_expr *d);
struct duration_expr *dur_unary(struct parser *p, struct token op, struct duration_expr *d);
struct duration_expr *dur_paren(struct parser *p, struct token open, struct duration_expr *d, struct token close);
struct duration_expr *dur_binary(struct parser *p, struct duration_expr *lhs, struct token op, struct duration_expr *rhs);
struct duration_expr *dur_call(struct parser *p, struct token name, struct duration_expr *a, struct duration_expr *b, struct token close);

double parse_duration_seconds(struct parser *p, struct token t);
/* Fractions of a millisecond are cut off. */
int64_t seconds_to_ms(double seconds);
/* A literal becomes *ret_ms, an expression *ret_expr. */
void dur_store(struct duration_expr *d, int64_t *ret_ms, struct duration_expr **ret_expr);

/* grammar.y: feeds a text to its end or its first error; first is T_START_EXPRESSION or T_START_SELECTOR. */
void promql_grammar_run(struct parser *p, int first);

/* --- check.c, print.c ---------------------------------------------------------------------------------------------------------- */

/* Finds every node's type and refuses what Prometheus refuses. */
void promql_check(struct parser *p, struct node *n);

const char *binary_op_text(enum binary_op op);
const char *aggregate_op_text(enum aggregate_op op);
static inline bool binary_op_is_comparison(enum binary_op op) { return op >= OP_EQ && op <= OP_LTE; }
static inline bool binary_op_is_set(enum binary_op op) { return op >= OP_AND && op <= OP_UNLESS; }
static inline bool aggregate_op_has_param(enum aggregate_op op) { return op >= AGG_COUNT_VALUES; }

/* Go's %q of a string and of a rune; its %#U. */
void put_quoted(struct buf *out, struct slice s);
void put_quoted_rune(struct buf *out, uint32_t rune);
void put_unicode(struct buf *out, uint32_t rune);
