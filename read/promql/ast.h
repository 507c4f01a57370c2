/*
 * The tree of a PromQL expression, as Prometheus 3's parser builds it. Nodes, lists and strings live in the arena given to promql_parse and are
 * immutable after it, but for what promql_resolve_durations fills in.
 */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/arena.h"
#include "base/buf.h"
#include "base/err.h"
#include "base/slice.h"
#include "model/matcher.h"

enum value_type { VALUE_NONE, VALUE_SCALAR, VALUE_VECTOR, VALUE_MATRIX, VALUE_STRING };
const char *value_type_name(enum value_type t); /* "scalar" "instant vector" "range vector" "string" (documented names) */

enum node_kind {
    NODE_NUMBER,
    NODE_STRING,
    NODE_PAREN,
    NODE_UNARY,
    NODE_BINARY,
    NODE_CALL,
    NODE_AGGREGATE,
    NODE_VECTOR_SELECTOR,
    NODE_MATRIX_SELECTOR,
    NODE_SUBQUERY,
};

/*
 * The deepest tree: a level is a node above another, so that a chain of 1,000 operators counts as 1,000 levels. Whoever walks a tree by recursion may
 * rely on it.
 */
#define PROMQL_MAX_DEPTH 1000

/* Byte offsets into the query text: [start, end). Messages show them as line:column, 1-based, columns in bytes as Prometheus does. */
struct pos_range {
    int32_t start;
    int32_t end;
};

enum binary_op {
    OP_ADD, OP_SUB, OP_MUL, OP_DIV, OP_MOD, OP_POW, OP_ATAN2,
    OP_EQ, OP_NEQ, OP_GTR, OP_LSS, OP_GTE, OP_LTE,
    OP_AND, OP_OR, OP_UNLESS,
    OP_TRIM_UPPER, OP_TRIM_LOWER, /* </ and >/ on native histograms */
};

enum aggregate_op {
    AGG_SUM, AGG_MIN, AGG_MAX, AGG_AVG, AGG_GROUP, AGG_STDDEV, AGG_STDVAR, AGG_COUNT, AGG_COUNT_VALUES, AGG_BOTTOMK, AGG_TOPK, AGG_QUANTILE,
    AGG_LIMITK, AGG_LIMIT_RATIO,
};

enum card { CARD_ONE_TO_ONE, CARD_MANY_TO_ONE, CARD_ONE_TO_MANY, CARD_MANY_TO_MANY };

struct vector_matching {
    enum card card;
    bool on;                 /* on(...), else ignoring(...) */
    const struct slice *labels;
    size_t n_labels;
    const struct slice *include; /* group_left / group_right labels */
    size_t n_include;
    bool has_fill_left, has_fill_right; /* fill(x), fill_left(x), fill_right(x) */
    double fill_left, fill_right;
};

enum at_kind { AT_NONE, AT_TIMESTAMP, AT_START, AT_END };

/* A duration as written: a plain number of milliseconds, or an expression over step(), range(), min, max and arithmetic. */
enum duration_op { DUR_LITERAL, DUR_STEP, DUR_RANGE, DUR_NEG, DUR_PAREN, DUR_ADD, DUR_SUB, DUR_MUL, DUR_DIV, DUR_MOD, DUR_POW, DUR_MIN, DUR_MAX };
struct duration_expr {
    enum duration_op op;
    double seconds; /* DUR_LITERAL */
    bool is_number; /* the literal was written as a number, not as a duration: how it is printed */
    uint16_t depth;
    struct duration_expr *lhs, *rhs; /* DUR_NEG and DUR_PAREN: rhs alone */
    struct pos_range pos;
};

struct node {
    enum node_kind kind;
    enum value_type type;
    uint16_t depth; /* of the tree below and with this node */
    struct pos_range pos;
    union {
        struct {
            double value;
            bool is_duration; /* written as 5m: printed so */
        } number;
        struct slice string;
        struct node *paren;
        struct {
            bool negative; /* else a plus */
            struct node *expr;
        } unary;
        struct {
            enum binary_op op;
            bool return_bool;
            struct node *lhs, *rhs;
            struct vector_matching *matching; /* NULL unless both sides are vectors */
        } binary;
        struct {
            const struct promql_function *fn;
            struct node **args;
            size_t n_args;
        } call;
        struct {
            enum aggregate_op op;
            struct node *expr;
            struct node *param; /* NULL when the operator has none */
            const struct slice *grouping;
            size_t n_grouping;
            bool without;
        } aggregate;
        struct vector_selector {
            struct slice name; /* the metric name as written before the braces; "" when none */
            struct matcher *matchers; /* including the one for __name__ */
            size_t n_matchers;
            int64_t offset_ms;
            struct duration_expr *offset_expr; /* NULL when the offset is a literal */
            enum at_kind at;
            int64_t at_ms; /* AT_TIMESTAMP */
            bool anchored, smoothed;
        } selector;
        struct {
            struct node *selector; /* NODE_VECTOR_SELECTOR: offset and @ are on it */
            int64_t range_ms;
            struct duration_expr *range_expr;
        } matrix;
        struct {
            struct node *expr;
            int64_t range_ms;
            int64_t step_ms; /* 0 = the default evaluation interval */
            struct duration_expr *range_expr, *step_expr;
            int64_t offset_ms;
            struct duration_expr *offset_expr;
            enum at_kind at;
            int64_t at_ms;
        } subquery;
    };
};

/* --- functions: functions.def, one row each ------------------------------------------------------------------------------- */

#define PROMQL_MAX_ARGS 8
struct promql_function {
    const char *name;
    int id;                   /* enum promql_function_id */
    enum value_type args[PROMQL_MAX_ARGS];
    int n_args;
    int variadic;             /* 0: exactly n_args; else at least n_args - 1, and at most n_args - 1 + k when k > 0; the last type repeats */
    enum value_type returns;
    bool experimental;
};
enum promql_function_id {
#define PROMQL_FUNCTION(id, ...) PROMQL_FN_##id,
#include "read/promql/functions.def"
#undef PROMQL_FUNCTION
    PROMQL_FUNCTIONS
};
const struct promql_function *promql_function_find(struct slice name); /* NULL when unknown */

/* --- parse ------------------------------------------------------------------------------------------------------------------ */

/* Experimental parts of the language, which a tenant may have disabled. */
enum promql_experimental { PROMQL_EXPERIMENTAL_FUNCTION, PROMQL_EXPERIMENTAL_AGGREGATION, PROMQL_EXPERIMENTAL_MODIFIER /* anchored, smoothed */ };
typedef bool promql_allowed_fn(void *arg, enum promql_experimental kind, struct slice name);

struct promql_parse_options {
    promql_allowed_fn *allowed; /* NULL: everything is */
    void *arg;
};

/*
 * The first use of an experimental function, aggregation or extended range selector modifier, in the order of the text, that `allowed` says no
 * to (NULL: to all). False: there is none.
 */
bool promql_find_experimental(const struct node *n, promql_allowed_fn *allowed, void *arg, enum promql_experimental *ret_kind,
                              struct slice *ret_name);

/*
 * Parses and type-checks. On failure ERR_BAD_DATA with Prometheus's text, "1:5: parse error: unexpected end of input inside braces"; for an
 * experimental part that is not allowed Mimir's, 'experimental function "sort_by_label" is not enabled for tenant'. opt may be NULL. Depth is
 * bounded (PROMQL_MAX_DEPTH) and so is the text (the caller's limit).
 */
struct node *promql_parse(struct slice text, const struct promql_parse_options *opt, struct arena *arena, struct err *err);
/* A metric selector alone, for match[]: its matchers. */
bool promql_parse_selector(struct slice text, struct arena *arena, const struct matcher **ret, size_t *ret_n, struct err *err);
/* Regexes of matchers are owned by the tree: call before the arena goes. */
void promql_release(struct node *n);
void promql_release_matchers(const struct matcher *m, size_t n);

/* Evaluates duration expressions for this query (step() is step_ms) into the *_ms members. */
bool promql_resolve_durations(struct node *n, int64_t step_ms, int64_t query_range_ms, struct err *err);

/* A duration as Prometheus writes it (1d2h30m, 250ms), alone: for parameters of requests. */
bool promql_parse_duration(struct slice text, int64_t *ret_ms);

/* As Prometheus's String(): one line. */
void promql_print(const struct node *n, struct buf *out);
/* As Prometheus's Prettify (format_query): breaks lines past 100 characters. */
void promql_pretty(const struct node *n, struct buf *out);
/* line:column of an offset in the text, as error messages and annotations show it. */
void promql_position(struct slice text, int32_t offset, int *ret_line, int *ret_col);
