#include <criterion/criterion.h>
#include <dirent.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "read/promql/ast.h"

/* --- helpers -------------------------------------------------------------------------------------------------------------------- */

static struct arena arena;
static struct err err;

static void setup(void)
{
    arena_init(&arena, 0);
    err = ERR_NONE;
}

static void teardown(void)
{
    arena_release(&arena);
}

TestSuite(promql_parser, .init = setup, .fini = teardown);

static struct node *parse(const char *text)
{
    struct node *n = promql_parse(slice_of(text), NULL, &arena, &err);
    cr_assert_not_null(n, "%s: %s", text, err.text);
    return n;
}

static char *print(const struct node *n, void (*fn)(const struct node *, struct buf *))
{
    struct buf b;
    buf_init(&b, 0);
    fn(n, &b);
    buf_putc(&b, 0);
    size_t size;
    return buf_steal(&b, &size);
}

static void unescape(char *s)
{
    char *out = s;
    for (; *s; s++) {
        if (*s == '\\' && s[1]) {
            s++;
            *out++ = *s == 'n' ? '\n' : *s == 'r' ? '\r' : *s == 't' ? '\t' : *s;
        } else {
            *out++ = *s;
        }
    }
    *out = 0;
}

/* --- against Prometheus --------------------------------------------------------------------------------------------------------- */

static int n_golden;

static void check_golden(const char *text, const char *error, const char *string, const char *pretty)
{
    n_golden++;
    arena_clear(&arena);
    err = ERR_NONE;
    struct node *n = promql_parse(slice_of(text), NULL, &arena, &err);
    if (error) {
        cr_expect_null(n, "%s", text);
        cr_expect_str_eq(err.text, error, "%s\n  have %s\n  want %s", text, err.text, error);
        cr_expect(n || err.code == ERR_BAD_DATA);
    } else if (n) {
        char *s = print(n, promql_print);
        char *p = print(n, promql_pretty);
        cr_expect_str_eq(s, string, "%s\n  have %s\n  want %s", text, s, string);
        cr_expect_str_eq(p, pretty, "%s\n  have %s\n  want %s", text, p, pretty);
        free(s);
        free(p);
    } else {
        cr_expect_fail("%s: %s", text, err.text);
    }
    promql_release(n);
}

Test(promql_parser, says_what_prometheus_says)
{
    FILE *f = fopen(TEST_SOURCE_DIR "/tests/read/promql/golden.txt", "r");
    cr_assert_not_null(f);
    static char line[8192], text[8192], string[8192];
    while (fgets(line, sizeof(line), f)) {
        line[strcspn(line, "\n")] = 0;
        if (line[0] == '#' || line[0] == 0)
            continue;
        unescape(line + 2);
        if (line[0] == 'Q')
            strcpy(text, line + 2);
        else if (line[0] == 'S')
            strcpy(string, line + 2);
        else if (line[0] == 'P')
            check_golden(text, NULL, string, line + 2);
        else
            check_golden(text, line + 2, NULL, NULL);
    }
    fclose(f);
    cr_assert_gt(n_golden, 500);
}

/* --- every expression of the promqltest scripts ---------------------------------------------------------------------------------- */

static int n_scripts;

/* The expression of an eval line, NULL for other lines. */
static const char *expression_of(const char *line)
{
    while (*line == ' ' || *line == '\t')
        line++;
    if (strncmp(line, "eval", 4) != 0)
        return NULL;
    int n = 0;
    char a[64], b[64], c[64];
    if (sscanf(line, "%*s instant at %63s %n", a, &n) == 1 && n)
        return line + n;
    if (sscanf(line, "%*s range from %63s to %63s step %63s %n", a, b, c, &n) == 3 && n)
        return line + n;
    return NULL;
}

static void check_round_trip(const char *text)
{
    n_scripts++;
    arena_clear(&arena);
    struct node *n = promql_parse(slice_of(text), NULL, &arena, &err);
    if (!n) {
        cr_expect_fail("%s: %s", text, err.text);
        return;
    }
    char *once = print(n, promql_print);
    char *pretty = print(n, promql_pretty);
    struct node *from_print = promql_parse(slice_of(once), NULL, &arena, &err);
    struct node *from_pretty = promql_parse(slice_of(pretty), NULL, &arena, &err);
    cr_expect(from_print && from_pretty, "%s -> %s", text, once);
    if (from_print && from_pretty) {
        char *twice = print(from_print, promql_print);
        char *third = print(from_pretty, promql_print);
        cr_expect_str_eq(twice, once);
        cr_expect_str_eq(third, once);
        free(twice);
        free(third);
    }
    promql_release(from_pretty);
    promql_release(from_print);
    promql_release(n);
    free(pretty);
    free(once);
}

static void check_script(const char *path)
{
    FILE *f = fopen(path, "r");
    cr_assert_not_null(f);
    static char line[65536];
    while (fgets(line, sizeof(line), f)) {
        line[strcspn(line, "\r\n")] = 0;
        const char *text = expression_of(line);
        if (text && *text)
            check_round_trip(text);
    }
    fclose(f);
}

Test(promql_parser, parses_and_reprints_every_script)
{
    DIR *dir = opendir(TEST_SHARED_DIR "/promqltest");
    if (!dir)
        cr_skip_test("no scripts at " TEST_SHARED_DIR "/promqltest");
    for (struct dirent *e; (e = readdir(dir));) {
        char path[1024];
        const char *dot = strrchr(e->d_name, '.');
        if (!dot || strcmp(dot, ".test") != 0)
            continue;
        snprintf(path, sizeof(path), "%s/%s", TEST_SHARED_DIR "/promqltest", e->d_name);
        check_script(path);
    }
    closedir(dir);
    cr_assert_gt(n_scripts, 2000);
}

/* --- trees ------------------------------------------------------------------------------------------------------------------------ */

Test(promql_parser, selector_keeps_everything)
{
    struct node *n = parse("foo{a=\"b\",c!~\"d.*\"}[5m] @ 12.5 offset -1m30s");
    cr_assert(n->kind == NODE_MATRIX_SELECTOR && n->type == VALUE_MATRIX);
    cr_assert_eq(n->matrix.range_ms, 300000);
    const struct vector_selector *s = &n->matrix.selector->selector;
    cr_assert(slice_eq(s->name, SL("foo")));
    cr_assert_eq(s->n_matchers, 3);
    cr_assert(slice_eq(s->matchers[2].name, SL("__name__")) && slice_eq(s->matchers[2].value, SL("foo")));
    cr_assert(s->matchers[1].type == MATCH_NRE && s->matchers[1].regex);
    cr_assert(s->at == AT_TIMESTAMP && s->at_ms == 12500);
    cr_assert_eq(s->offset_ms, -90000);
    promql_release(n);
}

Test(promql_parser, quoted_names_and_escapes)
{
    struct node *n = parse("{\"my.metric\", \"label.x\"=\"a\\tb\\u00e9\", l=`r\\n`}");
    const struct vector_selector *s = &n->selector;
    cr_assert_eq(s->name.n, 0);
    cr_assert(slice_eq(s->matchers[0].name, SL("__name__")) && slice_eq(s->matchers[0].value, SL("my.metric")));
    cr_assert(slice_eq(s->matchers[1].name, SL("label.x")) && slice_eq(s->matchers[1].value, SL("a\tb\xc3\xa9")));
    cr_assert(slice_eq(s->matchers[2].value, SL("r\\n")));
    promql_release(n);
}

Test(promql_parser, matching_is_kept_between_vectors_only)
{
    struct node *n = parse("a * on (x, \"y z\") group_left (v) fill_right (-1) b");
    const struct vector_matching *m = n->binary.matching;
    cr_assert(m && m->on && m->card == CARD_MANY_TO_ONE && m->n_labels == 2 && m->n_include == 1);
    cr_assert(slice_eq(m->labels[1], SL("y z")));
    cr_assert(!m->has_fill_left && m->has_fill_right && m->fill_right == -1);
    cr_assert_null(parse("a * 2")->binary.matching);
    cr_assert_eq(parse("a and b")->binary.matching->card, CARD_MANY_TO_MANY);
}

Test(promql_parser, power_binds_right_and_above_the_sign)
{
    struct node *n = parse("2 ^ 3 ^ 2");
    cr_assert(n->binary.rhs->kind == NODE_BINARY && n->binary.lhs->kind == NODE_NUMBER);
    n = parse("-a ^ 2");
    cr_assert(n->kind == NODE_UNARY && n->unary.negative && n->unary.expr->kind == NODE_BINARY);
    n = parse("-1");
    cr_assert(n->kind == NODE_NUMBER && n->number.value == -1 && n->pos.start == 0 && n->pos.end == 2);
}

Test(promql_parser, offset_ends_before_an_operator)
{
    struct node *n = parse("foo offset 5m + 1");
    cr_assert(n->kind == NODE_BINARY && n->binary.lhs->selector.offset_ms == 300000);
    n = parse("foo offset (5m + 1m)");
    cr_assert(n->kind == NODE_VECTOR_SELECTOR && n->selector.offset_expr);
}

Test(promql_parser, positions_cover_the_text)
{
    static const struct {
        const char *text;
        int start, end;
    } cases[] = {
        {" rate( foo[5m] offset 1m ) ", 1, 26}, {"sum by (a) (foo) ", 0, 16}, {"sum(foo)  by (a) ", 0, 16}, {"(foo + bar) ", 0, 11},
        {"foo[5m:1m] @ start() ", 0, 20},       {"- foo", 0, 5},              {"{a=\"b\"} offset 5m", 0, 17}, {"foo{a=\"b\"} @ 5", 0, 14},
    };
    for (size_t i = 0; i < sizeof(cases) / sizeof(*cases); i++) {
        struct node *n = parse(cases[i].text);
        cr_expect(n->pos.start == cases[i].start && n->pos.end == cases[i].end, "%s: %d %d", cases[i].text, n->pos.start, n->pos.end);
        promql_release(n);
    }
    int line, col;
    promql_position(SL("ab\ncd\n e"), 7, &line, &col);
    cr_assert(line == 3 && col == 2);
}

Test(promql_parser, selectors_for_match_parameters)
{
    const struct matcher *m;
    size_t n;
    cr_assert(promql_parse_selector(SL("foo{a=~\"b|c\"}"), &arena, &m, &n, &err));
    cr_assert(n == 2 && m[0].type == MATCH_RE && slice_eq(m[1].value, SL("foo")));
    promql_release_matchers(m, n);
    cr_assert(promql_parse_selector(SL("{}"), &arena, &m, &n, &err) && n == 0);
    cr_assert_not(promql_parse_selector(SL("foo[5m]"), &arena, &m, &n, &err));
    cr_assert_str_eq(err.text, "1:4: parse error: unexpected \"[\"");
    cr_assert_not(promql_parse_selector(SL("q_m{"), &arena, &m, &n, &err));
    cr_assert_str_eq(err.text, "1:5: parse error: unexpected end of input inside braces");
    cr_assert_not(promql_parse_selector(SL("{a=~\"x\", b=~\"(\"}"), &arena, &m, &n, &err));
}

/* --- durations -------------------------------------------------------------------------------------------------------------------- */

Test(promql_parser, durations_resolve_with_the_query)
{
    static const struct {
        const char *text;
        int64_t ms; /* 0: an error */
        const char *error;
    } cases[] = {
        {"foo[step()]", 30000, NULL},
        {"foo[range() / 2 + 1s]", 1801000, NULL},
        {"foo[max_of(step(), 1m) * 2]", 120000, NULL},
        {"foo[min_of(step(), 1m) ^ 1]", 30000, NULL},
        {"foo[-(1m) + 2m]", 60000, NULL},
        {"foo[7 % 4]", 3000, NULL},
        {"foo[5m - 5m]", 0, "4:11: duration must be greater than 0"},
        {"foo[1m / (1m - 60)]", 0, "4:17: division by zero"},
        {"foo[1m % (1m - 60)]", 0, "4:17: modulo by zero"},
        {"foo[10 ^ 400]", 0, "4:12: duration is NaN or infinite"},
        {"foo[10 ^ 300]", 0, "4:12: duration is out of range"},
    };
    for (size_t i = 0; i < sizeof(cases) / sizeof(*cases); i++) {
        struct node *n = parse(cases[i].text);
        err = ERR_NONE;
        bool ok = promql_resolve_durations(n, 30000, 3600000, &err);
        cr_expect_eq(ok, cases[i].error == NULL, "%s: %s", cases[i].text, err.text);
        cr_expect(!ok || n->matrix.range_ms == cases[i].ms, "%s: %ld", cases[i].text, (long)n->matrix.range_ms);
        cr_expect(ok || strcmp(err.text, cases[i].error) == 0, "%s: %s", cases[i].text, err.text);
    }
    struct node *n = parse("sum(foo offset -step()) + max_over_time(max_over_time(foo[range() + 0s:step()])[1h:] offset (1m))");
    cr_assert(promql_resolve_durations(n, 30000, 3600000, &err));
    cr_assert_eq(n->binary.lhs->aggregate.expr->selector.offset_ms, -30000);
    cr_assert_eq(n->binary.rhs->call.args[0]->subquery.offset_ms, 60000);
    cr_assert_eq(n->binary.rhs->call.args[0]->subquery.step_ms, 0);
    cr_assert_eq(n->binary.rhs->call.args[0]->subquery.expr->call.args[0]->subquery.range_ms, 3600000);
}

/* --- bounds ----------------------------------------------------------------------------------------------------------------------- */

static char *repeat(const char *head, const char *piece, const char *tail, int n)
{
    char *s = malloc(strlen(head) + (strlen(piece) + strlen(tail)) * (size_t)n + 16);
    char *p = stpcpy(s, head);
    for (int i = 0; i < n; i++)
        p = stpcpy(p, piece);
    p = stpcpy(p, "a");
    for (int i = 0; i < n; i++)
        p = stpcpy(p, tail);
    return s;
}

Test(promql_parser, depth_is_bounded)
{
    static const char *const pieces[][2] = {{"(", ")"},         {"-(", ")"},        {"a+", ""},  {"2^", ""}, {"abs(", ")"}, {"sum by (x) (", ")"}, {"", " + a"},
                                            {"a + on(x) group_left(y) (", ")"}, {"- ", ""}, {"rate(", "[5m:])"}};
    for (size_t i = 0; i < sizeof(pieces) / sizeof(*pieces); i++) {
        char *ok = repeat("", pieces[i][0], pieces[i][1], 300);
        struct node *n = promql_parse(slice_of(ok), NULL, &arena, &err);
        cr_expect(n && n->depth <= PROMQL_MAX_DEPTH, "%s: %s", pieces[i][0], err.text);
        promql_release(n);
        char *deep = repeat("", pieces[i][0], pieces[i][1], 20000);
        cr_expect_null(promql_parse(slice_of(deep), NULL, &arena, &err));
        cr_expect(strstr(err.text, "parse error: expression is nested too deeply"), "%s: %s", pieces[i][0], err.text);
        free(ok);
        free(deep);
        arena_clear(&arena);
    }
    char *dur = repeat("foo[5m", "+5m", "", 20000);
    dur[strlen(dur) - 1] = ']';
    cr_assert_null(promql_parse(slice_of(dur), NULL, &arena, &err));
    cr_assert(strstr(err.text, "nested too deeply"), "%s", err.text);
    free(dur);
}

Test(promql_parser, a_full_arena_is_an_error)
{
    static const char text[] = "sum by (a, b) (rate(foo{bar=~\"x.*\",baz!=\"y\\n\"}[5m])) / on (a) group_left (c) {\"d.e\"} offset (1m + step())";
    int failed = 0;
    for (size_t budget = 64; budget < 16384; budget += 16) {
        struct arena small;
        arena_init(&small, budget);
        err = ERR_NONE;
        struct node *n = promql_parse(slice_of(text), NULL, &small, &err);
        cr_assert(n || err.code != ERR_OK);
        failed += n == NULL;
        promql_release(n);
        arena_release(&small);
    }
    cr_assert_gt(failed, 0);
}

/* --- experimental ------------------------------------------------------------------------------------------------------------------ */

static bool allow_info(void *arg, enum promql_experimental kind, struct slice name)
{
    (void)arg;
    return kind == PROMQL_EXPERIMENTAL_FUNCTION && slice_eq(name, SL("info"));
}

Test(promql_parser, experimental_parts_can_be_refused)
{
    static const struct {
        const char *text, *error; /* NULL: accepted */
    } cases[] = {
        {"sum(rate(foo[5m]))", NULL},
        {"info(foo)", NULL},
        {"info(sort_by_label(foo, \"a\"))", "experimental function \"sort_by_label\" is not enabled for tenant"},
        {"1 + limitk(1, foo)", "experimental aggregation \"limitk\" is not enabled for tenant"},
        {"rate(foo[5m] smoothed)", "experimental extended range selector modifier \"smoothed\" is not enabled for tenant"},
        {"foo offset 5m anchored", "experimental extended range selector modifier \"anchored\" is not enabled for tenant"},
    };
    const struct promql_parse_options opt = {.allowed = allow_info};
    for (size_t i = 0; i < sizeof(cases) / sizeof(*cases); i++) {
        err = ERR_NONE;
        struct node *n = promql_parse(slice_of(cases[i].text), &opt, &arena, &err);
        cr_expect_eq(n != NULL, cases[i].error == NULL, "%s: %s", cases[i].text, err.text);
        cr_expect(n || strcmp(err.text, cases[i].error) == 0, "%s: %s", cases[i].text, err.text);
        promql_release(n);
    }
}

Test(promql_parser, finds_every_function_by_name)
{
    static const char *const names[] = {
#define PROMQL_FUNCTION(id, name, ...) name,
#include "read/promql/functions.def"
#undef PROMQL_FUNCTION
    };
    for (int i = 0; i < PROMQL_FUNCTIONS; i++) {
        const struct promql_function *f = promql_function_find(slice_of(names[i]));
        cr_assert(f && f->id == i && strcmp(f->name, names[i]) == 0, "%s", names[i]);
    }
    cr_assert_null(promql_function_find(SL("Rate")));
    cr_assert_null(promql_function_find(SL("")));
}
