/*
 * The grammar of PromQL, for lemon.
 *
 * It accepts what Prometheus 3.15 accepts. Errors are found where Prometheus finds them: the rules with `error` name the context of a message
 * ("in label matching, expected string"), and the nearest one on the stack wins. Only the first message of a text is kept, and the driver stops
 * after it, so that no rule has to care for what follows an error but for NULL values.
 *
 * A duration after `offset` ends before an operator, `foo offset 5m + 1` being `(foo offset 5m) + 1`, unless it begins with a parenthesis or two signs:
 * hence offset and offset_open beside duration.
 *
 * The first token says what is wanted: T_START_EXPRESSION or T_START_SELECTOR.
 */
%name promql_grammar
%token_prefix T_
%token_type {struct token}
%extra_context {struct parser *p}
%stack_size 4000
%start_symbol start

%include {
#include "read/promql/parse_int.h"

/* The parser is a local variable of the driver: no allocation. */
#define promql_grammar_ENGINEALWAYSONSTACK 1
#ifndef NDEBUG
#define NDEBUG /* lempar's tracing; our own checks are ASSERT */
#endif
}

%stack_overflow { parse_fail(p, p->token.start, "expression is nested too deeply"); }
%parse_failure { parse_unexpected(p, "", ""); }

/* Groups of tokens, in the order that token_class() in parse.c relies on. */
%token EOF ERROR START_EXPRESSION START_SELECTOR.
%token IDENTIFIER METRIC_IDENTIFIER STRING NUMBER DURATION.
%token EQL COLON COMMA LEFT_BRACE LEFT_BRACKET LEFT_PAREN RIGHT_BRACE RIGHT_BRACKET RIGHT_PAREN.
%token START END STEP RANGE MAX_OF MIN_OF.
%token ADD DIV EQLC EQL_REGEX GTE GTR TRIM_UPPER TRIM_LOWER LAND LOR LSS LTE LUNLESS MOD MUL NEQ NEQ_REGEX POW SUB AT ATAN2.
%token AVG BOTTOMK COUNT COUNT_VALUES GROUP MAX MIN QUANTILE STDDEV STDVAR SUM TOPK LIMITK LIMIT_RATIO.
%token BOOL BY GROUP_LEFT GROUP_RIGHT FILL FILL_LEFT FILL_RIGHT IGNORING OFFSET SMOOTHED ANCHORED ON WITHOUT.

/* LOWEST is never lexed: the precedence of rules that end as soon as nothing more can be taken in. */
%nonassoc LOWEST.
%nonassoc LEFT_PAREN FILL FILL_LEFT FILL_RIGHT.
%left LOR.
%left LAND LUNLESS.
%left EQLC GTE GTR LSS LTE NEQ TRIM_UPPER TRIM_LOWER.
%left ADD SUB.
%left MUL DIV MOD ATAN2.
%right POW.
%nonassoc OFFSET AT SMOOTHED ANCHORED.
%right LEFT_BRACKET.

start ::= START_EXPRESSION EOF. { parse_fail(p, 0, "no expression found in input"); }
start ::= START_EXPRESSION expr(E) EOF. { p->result = E; }
start ::= START_SELECTOR vector_selector(E) EOF. { p->result = E; }

%type expr {struct node *}
expr(A) ::= number(A).
expr(A) ::= STRING(S). { A = node_string(p, S); }
expr(A) ::= LEFT_PAREN(L) expr(E) RIGHT_PAREN(R). { A = node_paren(p, L, E, R); }
expr(A) ::= vector_selector(A).
expr(A) ::= aggregation(A).
expr(A) ::= call(A).
expr(A) ::= sign(S) expr(E). [MUL] { A = node_unary(p, S, E); }

%type number {struct node *}
number(A) ::= NUMBER(T). { A = node_number(p, T); }
number(A) ::= DURATION(T). { A = node_number(p, T); }

%type sign {struct token}
sign(A) ::= ADD(A).
sign(A) ::= SUB(A).

/* --- operators -------------------------------------------------------------------------------------------------------------- */

expr(A) ::= expr(L) ADD(O) modifiers(M) expr(R). { A = node_binary(p, L, O, M, R); }
expr(A) ::= expr(L) SUB(O) modifiers(M) expr(R). { A = node_binary(p, L, O, M, R); }
expr(A) ::= expr(L) MUL(O) modifiers(M) expr(R). { A = node_binary(p, L, O, M, R); }
expr(A) ::= expr(L) DIV(O) modifiers(M) expr(R). { A = node_binary(p, L, O, M, R); }
expr(A) ::= expr(L) MOD(O) modifiers(M) expr(R). { A = node_binary(p, L, O, M, R); }
expr(A) ::= expr(L) POW(O) modifiers(M) expr(R). { A = node_binary(p, L, O, M, R); }
expr(A) ::= expr(L) ATAN2(O) modifiers(M) expr(R). { A = node_binary(p, L, O, M, R); }
expr(A) ::= expr(L) EQLC(O) modifiers(M) expr(R). { A = node_binary(p, L, O, M, R); }
expr(A) ::= expr(L) NEQ(O) modifiers(M) expr(R). { A = node_binary(p, L, O, M, R); }
expr(A) ::= expr(L) GTR(O) modifiers(M) expr(R). { A = node_binary(p, L, O, M, R); }
expr(A) ::= expr(L) LSS(O) modifiers(M) expr(R). { A = node_binary(p, L, O, M, R); }
expr(A) ::= expr(L) GTE(O) modifiers(M) expr(R). { A = node_binary(p, L, O, M, R); }
expr(A) ::= expr(L) LTE(O) modifiers(M) expr(R). { A = node_binary(p, L, O, M, R); }
expr(A) ::= expr(L) TRIM_UPPER(O) modifiers(M) expr(R). { A = node_binary(p, L, O, M, R); }
expr(A) ::= expr(L) TRIM_LOWER(O) modifiers(M) expr(R). { A = node_binary(p, L, O, M, R); }
expr(A) ::= expr(L) LAND(O) modifiers(M) expr(R). { A = node_binary(p, L, O, M, R); }
expr(A) ::= expr(L) LOR(O) modifiers(M) expr(R). { A = node_binary(p, L, O, M, R); }
expr(A) ::= expr(L) LUNLESS(O) modifiers(M) expr(R). { A = node_binary(p, L, O, M, R); }

/* What may stand after an operator gathers in a binary node that has no sides yet. */
%type modifiers {struct node *}
modifiers(A) ::= matching(A). [LOWEST]
modifiers(A) ::= matching(M) FILL fill_value(V). [LOWEST] { A = modifiers_fill(p, M, V, V); }
modifiers(A) ::= matching(M) FILL_LEFT fill_value(L). [LOWEST] { A = modifiers_fill(p, M, L, NULL); }
modifiers(A) ::= matching(M) FILL_RIGHT fill_value(R). [LOWEST] { A = modifiers_fill(p, M, NULL, R); }
modifiers(A) ::= matching(M) FILL_LEFT fill_value(L) FILL_RIGHT fill_value(R). { A = modifiers_fill(p, M, L, R); }
modifiers(A) ::= matching(M) FILL_RIGHT fill_value(R) FILL_LEFT fill_value(L). { A = modifiers_fill(p, M, L, R); }

%type matching {struct node *}
matching(A) ::= bool(A).
matching(A) ::= on_or_ignoring(A).
matching(A) ::= on_or_ignoring(M) GROUP_LEFT optional_grouping(G). { A = modifiers_group(p, M, CARD_MANY_TO_ONE, G); }
matching(A) ::= on_or_ignoring(M) GROUP_RIGHT optional_grouping(G). { A = modifiers_group(p, M, CARD_ONE_TO_MANY, G); }

%type on_or_ignoring {struct node *}
on_or_ignoring(A) ::= bool(M) ON grouping(G). { A = modifiers_match(p, M, true, G); }
on_or_ignoring(A) ::= bool(M) IGNORING grouping(G). { A = modifiers_match(p, M, false, G); }

%type bool {struct node *}
bool(A) ::= . { A = modifiers_new(p, false); }
bool(A) ::= BOOL. { A = modifiers_new(p, true); }

%type fill_value {struct node *}
fill_value(A) ::= LEFT_PAREN number(V) RIGHT_PAREN. { A = V; }
fill_value(A) ::= LEFT_PAREN sign(S) number(V) RIGHT_PAREN. { A = node_unary(p, S, V); }

/* --- lists of labels -------------------------------------------------------------------------------------------------------- */

/* Keywords that may be the name of a label. */
%token_class label_word IDENTIFIER|METRIC_IDENTIFIER|AVG|BOOL|BOTTOMK|BY|COUNT|COUNT_VALUES|GROUP|GROUP_LEFT|GROUP_RIGHT|FILL|FILL_LEFT
    |FILL_RIGHT|IGNORING|LAND|LOR|LUNLESS|MAX|MIN|OFFSET|ON|QUANTILE|STDDEV|STDVAR|SUM|TOPK|START|END|ATAN2|LIMITK|LIMIT_RATIO|STEP|RANGE
    |ANCHORED|SMOOTHED|MAX_OF|MIN_OF.

%type optional_grouping {struct name_list *}
optional_grouping(A) ::= . [LOWEST] { check_no_grouping(p); A = NULL; }
optional_grouping(A) ::= grouping(A).

%type grouping {struct name_list *}
grouping(A) ::= LEFT_PAREN grouping_labels(L) RIGHT_PAREN(R). { A = L; if (A) A->end = R.end; }
grouping(A) ::= LEFT_PAREN grouping_labels(L) COMMA RIGHT_PAREN(R). { A = L; if (A) A->end = R.end; }
grouping(A) ::= LEFT_PAREN RIGHT_PAREN(R). { A = list_names(p, NULL, (struct token){0}); if (A) A->end = R.end; }
grouping(A) ::= error. { parse_unexpected(p, "grouping opts", "\"(\""); A = NULL; }

%type grouping_labels {struct name_list *}
grouping_labels(A) ::= grouping_labels(L) COMMA grouping_label(N). { A = list_names(p, L, N); }
grouping_labels(A) ::= grouping_label(N). { A = list_names(p, NULL, N); }
grouping_labels(A) ::= grouping_labels(L) error. { parse_unexpected(p, "grouping opts", "\",\" or \")\""); A = L; }

%type grouping_label {struct token}
grouping_label(A) ::= label_word(A).
grouping_label(A) ::= STRING(A). { check_grouping_label(p, A); }
grouping_label(A) ::= error. { parse_unexpected(p, "grouping opts", "label"); A = (struct token){0}; }

/* --- aggregations and calls ------------------------------------------------------------------------------------------------- */

%type aggregation {struct node *}
aggregation(A) ::= aggregator(O) aggregator_modifier(M) arguments(L). { A = node_aggregate(p, O, M, L, L.end); }
aggregation(A) ::= aggregator(O) arguments(L) aggregator_modifier(M). { A = node_aggregate(p, O, M, L, M.labels ? M.labels->end : L.end); }
aggregation(A) ::= aggregator(O) arguments(L). { A = node_aggregate(p, O, (struct grouping){0}, L, L.end); }
aggregation(A) ::= aggregator error. { parse_unexpected(p, "aggregation", ""); A = NULL; }

%type aggregator_modifier {struct grouping}
aggregator_modifier(A) ::= BY grouping(G). { A = (struct grouping){G, false}; }
aggregator_modifier(A) ::= WITHOUT grouping(G). { A = (struct grouping){G, true}; }

%type aggregator {struct token}
aggregator(A) ::= AVG(A).
aggregator(A) ::= BOTTOMK(A).
aggregator(A) ::= COUNT(A).
aggregator(A) ::= COUNT_VALUES(A).
aggregator(A) ::= GROUP(A).
aggregator(A) ::= MAX(A).
aggregator(A) ::= MIN(A).
aggregator(A) ::= QUANTILE(A).
aggregator(A) ::= STDDEV(A).
aggregator(A) ::= STDVAR(A).
aggregator(A) ::= SUM(A).
aggregator(A) ::= TOPK(A).
aggregator(A) ::= LIMITK(A).
aggregator(A) ::= LIMIT_RATIO(A).

%type call {struct node *}
call(A) ::= function_name(F) arguments(L). { A = node_call(p, F, L); }

%type function_name {struct token}
function_name(A) ::= IDENTIFIER(A).
function_name(A) ::= START(A).
function_name(A) ::= END(A).
function_name(A) ::= STEP(A).
function_name(A) ::= RANGE(A).
function_name(A) ::= MAX_OF(A).
function_name(A) ::= MIN_OF(A).

%type arguments {struct arguments}
arguments(A) ::= LEFT_PAREN argument_list(L) RIGHT_PAREN(R). { A = (struct arguments){L, R.end}; }
arguments(A) ::= LEFT_PAREN RIGHT_PAREN(R). { A = (struct arguments){list_nodes(p, NULL, NULL), R.end}; }

%type argument_list {struct node_list *}
argument_list(A) ::= argument_list(L) COMMA expr(E). { A = list_nodes(p, L, E); }
argument_list(A) ::= expr(E). { A = list_nodes(p, NULL, E); }
argument_list(A) ::= argument_list(L) COMMA(C). { parse_fail(p, C.start, "trailing commas not allowed in function call args"); A = L; }

/* --- selectors -------------------------------------------------------------------------------------------------------------- */

%type vector_selector {struct node *}
vector_selector(A) ::= metric_name(N) matchers(M). { A = node_selector(p, &N, M); }
vector_selector(A) ::= metric_name(N). { A = node_selector(p, &N, NULL); }
vector_selector(A) ::= matchers(M). { A = node_selector(p, NULL, M); }

%type metric_name {struct token}
metric_name(A) ::= IDENTIFIER(A).
metric_name(A) ::= METRIC_IDENTIFIER(A).
metric_name(A) ::= AVG(A).
metric_name(A) ::= BOTTOMK(A).
metric_name(A) ::= BY(A).
metric_name(A) ::= COUNT(A).
metric_name(A) ::= COUNT_VALUES(A).
metric_name(A) ::= FILL(A).
metric_name(A) ::= FILL_LEFT(A).
metric_name(A) ::= FILL_RIGHT(A).
metric_name(A) ::= GROUP(A).
metric_name(A) ::= LAND(A).
metric_name(A) ::= LOR(A).
metric_name(A) ::= LUNLESS(A).
metric_name(A) ::= MAX(A).
metric_name(A) ::= MIN(A).
metric_name(A) ::= OFFSET(A).
metric_name(A) ::= QUANTILE(A).
metric_name(A) ::= STDDEV(A).
metric_name(A) ::= STDVAR(A).
metric_name(A) ::= SUM(A).
metric_name(A) ::= TOPK(A).
metric_name(A) ::= WITHOUT(A).
metric_name(A) ::= START(A).
metric_name(A) ::= END(A).
metric_name(A) ::= LIMITK(A).
metric_name(A) ::= LIMIT_RATIO(A).
metric_name(A) ::= STEP(A).
metric_name(A) ::= RANGE(A).
metric_name(A) ::= ANCHORED(A).
metric_name(A) ::= SMOOTHED(A).
metric_name(A) ::= MAX_OF(A).
metric_name(A) ::= MIN_OF(A).

%type matchers {struct matcher_list *}
matchers(A) ::= LEFT_BRACE(L) matcher_list(M) RIGHT_BRACE(R). { A = M; if (A) A->pos = (struct pos_range){L.start, R.end}; }
matchers(A) ::= LEFT_BRACE(L) matcher_list(M) COMMA RIGHT_BRACE(R). { A = M; if (A) A->pos = (struct pos_range){L.start, R.end}; }
matchers(A) ::= LEFT_BRACE(L) RIGHT_BRACE(R). { A = list_matchers(p, NULL, NULL); if (A) A->pos = (struct pos_range){L.start, R.end}; }

%type matcher_list {struct matcher_list *}
matcher_list(A) ::= matcher_list(L) COMMA matcher(M). { A = list_matchers(p, L, M); }
matcher_list(A) ::= matcher(M). { A = list_matchers(p, NULL, M); }
matcher_list(A) ::= matcher_list(L) error. { parse_unexpected(p, "label matching", "\",\" or \"}\""); A = L; }

%type matcher {struct matcher_item *}
matcher(A) ::= IDENTIFIER(N) match_op(O) STRING(V). { A = matcher_new(p, N, O, V); }
matcher(A) ::= quoted_name(N) match_op(O) STRING(V). { A = matcher_new(p, N, O, V); }
matcher(A) ::= quoted_name(N). { A = matcher_of_name(p, N); }
matcher(A) ::= quoted_name match_op error. { parse_unexpected(p, "label matching", "string"); A = NULL; }
matcher(A) ::= IDENTIFIER match_op error. { parse_unexpected(p, "label matching", "string"); A = NULL; }
matcher(A) ::= IDENTIFIER error. { parse_unexpected(p, "label matching", "label matching operator"); A = NULL; }
matcher(A) ::= error. { parse_unexpected(p, "label matching", "identifier or \"}\""); A = NULL; }

%type quoted_name {struct token}
quoted_name(A) ::= STRING(A).

%type match_op {struct token}
match_op(A) ::= EQL(A).
match_op(A) ::= NEQ(A).
match_op(A) ::= EQL_REGEX(A).
match_op(A) ::= NEQ_REGEX(A).

/* --- modifiers of selectors ------------------------------------------------------------------------------------------------- */

expr(A) ::= expr(E) OFFSET offset(D). { A = apply_offset(p, E, D); }
expr(A) ::= expr(E) OFFSET error. { parse_unexpected(p, "offset", "number, duration, step(), or range()"); A = E; }
expr(A) ::= expr(E) ANCHORED(M). { A = apply_extended(p, E, M); }
expr(A) ::= expr(E) SMOOTHED(M). { A = apply_extended(p, E, M); }

expr(A) ::= expr(E) AT number(T). { A = apply_at(p, E, T, false); }
expr(A) ::= expr(E) AT sign(S) number(T). { A = apply_at(p, E, T, S.type == T_SUB); }
expr(A) ::= expr(E) AT START(W) LEFT_PAREN RIGHT_PAREN(R). { A = apply_at_edge(p, E, W, R); }
expr(A) ::= expr(E) AT END(W) LEFT_PAREN RIGHT_PAREN(R). { A = apply_at_edge(p, E, W, R); }
expr(A) ::= expr(E) AT error. { parse_unexpected(p, "@", "timestamp"); A = E; }

expr(A) ::= expr(E) LEFT_BRACKET(L) positive(D) RIGHT_BRACKET(R). { A = node_matrix(p, E, L, D, R); }
expr(A) ::= expr(E) LEFT_BRACKET positive(D) COLON positive(S) RIGHT_BRACKET(R). { A = node_subquery(p, E, D, S, R); }
expr(A) ::= expr(E) LEFT_BRACKET positive(D) COLON RIGHT_BRACKET(R). { A = node_subquery(p, E, D, NULL, R); }
expr(A) ::= expr(E) LEFT_BRACKET positive COLON positive error. { parse_unexpected(p, "subquery selector", "\"]\""); A = E; }
expr(A) ::= expr(E) LEFT_BRACKET positive COLON error. {
    parse_unexpected(p, "subquery selector", "number, duration, step(), range(), or \"]\"");
    A = E;
}
expr(A) ::= expr(E) LEFT_BRACKET positive error. { parse_unexpected(p, "subquery or range", "\":\" or \"]\""); A = E; }
expr(A) ::= expr(E) LEFT_BRACKET error. { parse_unexpected(p, "subquery or range selector", "number, duration, step(), or range()"); A = E; }

/* --- durations -------------------------------------------------------------------------------------------------------------- */

%type positive {struct duration_expr *}
positive(A) ::= duration(D). { A = dur_positive(p, D); }

%type duration {struct duration_expr *}
duration(A) ::= duration_literal(A).
duration(A) ::= sign(S) duration(D). [MUL] { A = dur_unary(p, S, D); }
duration(A) ::= duration(L) ADD(O) duration(R). { A = dur_binary(p, L, O, R); }
duration(A) ::= duration(L) SUB(O) duration(R). { A = dur_binary(p, L, O, R); }
duration(A) ::= duration(L) MUL(O) duration(R). { A = dur_binary(p, L, O, R); }
duration(A) ::= duration(L) DIV(O) duration(R). { A = dur_binary(p, L, O, R); }
duration(A) ::= duration(L) MOD(O) duration(R). { A = dur_binary(p, L, O, R); }
duration(A) ::= duration(L) POW(O) duration(R). { A = dur_binary(p, L, O, R); }
duration(A) ::= duration_call(A).
duration(A) ::= LEFT_PAREN(L) duration(D) RIGHT_PAREN(R). { A = dur_paren(p, L, D, R); }

%type duration_literal {struct duration_expr *}
duration_literal(A) ::= NUMBER(T). { A = dur_literal(p, T); }
duration_literal(A) ::= DURATION(T). { A = dur_literal(p, T); }

%type duration_call {struct duration_expr *}
duration_call(A) ::= STEP(N) LEFT_PAREN RIGHT_PAREN(R). { A = dur_call(p, N, NULL, NULL, R); }
duration_call(A) ::= RANGE(N) LEFT_PAREN RIGHT_PAREN(R). { A = dur_call(p, N, NULL, NULL, R); }
duration_call(A) ::= MAX_OF(N) LEFT_PAREN duration(X) COMMA duration(Y) RIGHT_PAREN(R). { A = dur_call(p, N, X, Y, R); }
duration_call(A) ::= MIN_OF(N) LEFT_PAREN duration(X) COMMA duration(Y) RIGHT_PAREN(R). { A = dur_call(p, N, X, Y, R); }

%type offset {struct duration_expr *}
offset(A) ::= duration_literal(A).
offset(A) ::= sign(S) duration_literal(D). { A = dur_unary(p, S, D); }
offset(A) ::= duration_call(A).
offset(A) ::= sign(S) duration_call(D). { A = dur_unary(p, S, D); }
offset(A) ::= sign(S) LEFT_PAREN(L) duration(D) RIGHT_PAREN(R). { A = dur_unary(p, S, dur_paren(p, L, D, R)); }
offset(A) ::= offset_open(A). [LOWEST]

%type offset_open {struct duration_expr *}
offset_open(A) ::= LEFT_PAREN(L) duration(D) RIGHT_PAREN(R). { A = dur_paren(p, L, D, R); }
offset_open(A) ::= sign(S) signed_duration(D). { A = dur_unary(p, S, D); }
offset_open(A) ::= offset_open(L) ADD(O) duration(R). { A = dur_binary(p, L, O, R); }
offset_open(A) ::= offset_open(L) SUB(O) duration(R). { A = dur_binary(p, L, O, R); }
offset_open(A) ::= offset_open(L) MUL(O) duration(R). { A = dur_binary(p, L, O, R); }
offset_open(A) ::= offset_open(L) DIV(O) duration(R). { A = dur_binary(p, L, O, R); }
offset_open(A) ::= offset_open(L) MOD(O) duration(R). { A = dur_binary(p, L, O, R); }
offset_open(A) ::= offset_open(L) POW(O) duration(R). { A = dur_binary(p, L, O, R); }

%type signed_duration {struct duration_expr *}
signed_duration(A) ::= sign(S) duration(D). [MUL] { A = dur_unary(p, S, D); }

%code {
/*
 * Does the reductions that are due whatever comes next. Prometheus's parser does them before it asks the lexer for more, so that an unknown function
 * is reported before a bad character behind it.
 */
static void promql_grammar_settle(yyParser *y)
{
    YYACTIONTYPE action = y->yytos->stateno;
    while (action >= YY_MIN_REDUCE)
        action = yy_reduce(y, (unsigned)(action - YY_MIN_REDUCE), YYNOCODE, (struct token){0}, y->p);
}

/* Feeds one kind of text, from `first` (a START token) to its end or its first error. */
void promql_grammar_run(struct parser *p, int first)
{
    yyParser y;
    promql_grammarInit(&y, p);
    struct token t = {.type = first};
    promql_grammar(&y, first, t);
    while (!p->failed) {
        promql_grammar_settle(&y);
        if (p->failed)
            break;
        t = promql_lex(&p->lexer);
        if (t.type == T_ERROR) {
            parse_fail(p, t.start, "%.*s", SL_FMT(buf_slice(p->lexer.message)));
            break;
        }
        p->token = t;
        promql_grammar(&y, t.type, t);
        if (t.type == T_EOF) {
            promql_grammar_settle(&y);
            if (!p->failed)
                promql_grammar(&y, 0, t);
            break;
        }
    }
    promql_grammarFinalize(&y);
}
}
