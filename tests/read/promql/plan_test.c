/* What the planner asks the store for: how often, and with how many matchers; and what it says of a query. */
#include <criterion/criterion.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/buf.h"
#include "read/promql/engine.h"

/* A store without series that counts what it is asked. */
struct fake {
    struct queryable q;
    size_t selects, matchers;
    char labels[64]; /* of the last select: the names it asks for, "all" or "none" */
};

static bool fake_next(struct series_set *s, struct ctx *ctx, struct series *ret, size_t max, size_t *ret_n, struct err *err)
{
    (void)s, (void)ctx, (void)ret, (void)max, (void)err;
    *ret_n = 0;
    return true;
}

static void fake_release(struct series_set *s)
{
    free(s);
}

static struct series_set *fake_select(struct queryable *q, struct ctx *ctx, const struct select_params *p, struct err *err)
{
    static const struct series_set_ops ops = {fake_next, fake_release};
    struct fake *f = (struct fake *)q;
    (void)ctx, (void)err;
    f->selects++;
    f->matchers += p->n_matchers;
    snprintf(f->labels, sizeof(f->labels), "%s", p->labels ? "none" : "all");
    for (size_t i = 0, n = 0; p->labels && i < p->labels->n; i++)
        n += (size_t)snprintf(f->labels + n, sizeof(f->labels) - n, "%s%.*s", i ? " " : "", SL_FMT(p->labels->names[i]));
    struct series_set *s = calloc(1, sizeof(*s));
    s->ops = &ops;
    return s;
}

static const struct queryable_ops fake_ops = {.select = fake_select};
static const struct engine_config config = {.lookback_delta_ms = 300000, .default_evaluation_interval_ms = 60000, .max_samples = 1 << 20};

static struct node *parse(const char *text, struct arena *a)
{
    struct err err = ERR_NONE;
    struct node *n = promql_parse(slice_of(text), NULL, a, &err);
    cr_assert(n, "%s: %s", text, err.text);
    cr_assert(promql_resolve_durations(n, 15000, 600000, &err), "%s", err.text);
    return n;
}

static struct fake run(const char *text)
{
    struct fake f = {.q = {&fake_ops}};
    struct arena a;
    struct err err = ERR_NONE;
    arena_init(&a, 0);
    struct ctx ctx = {.arena = &a};
    struct engine_result res;
    struct node *n = parse(text, &a);
    struct engine_query q = {.expr = n, .text = slice_of(text), .start_ms = 0, .end_ms = 600000, .step_ms = 15000};
    cr_assert(engine_exec(&config, &f.q, &ctx, &q, &res, &err), "%s: %s", text, err.text);
    promql_release(n);
    arena_release(&a);
    return f;
}

Test(plan, equal_expressions_are_read_once)
{
    static const struct {
        const char *text;
        size_t selects;
    } cases[] = {
        {"sum(a) / sum(a)", 1},
        {"sum(a) / sum(b)", 2},
        {"sum(rate(a[5m])) / (sum(rate(a[5m])) + sum(rate(b[5m])))", 2},
        {"sum(a) + max(sum(a)) + abs(sum(a))", 1},
        {"max(sum(a)) + max(sum(a))", 1},
        {"sum(a) + sum(a offset 1m)", 2},
        {"sum by (x) (a) + sum by (y) (a)", 1},
        {"sum by (x) (a) + sum without (x) (a)", 1},
        {"topk(1, a) + topk(2, a)", 1},
        {"quantile(0.1, a) + quantile(0.1, a)", 1},
        {"sum(a{x=\"1\"}) + sum(a{x=\"2\"}) + sum(a{x=~\"1\"})", 3},
        {"sum(a{x=\"1\", x=\"1\"}) + sum(a{x=\"1\"})", 1},
        {"sum(a) + max_over_time(sum(a)[5m:1m])", 2},
        {"max_over_time(sum(a)[5m:1m]) + min_over_time(sum(a)[5m:1m])", 1},
        {"max_over_time(sum(a)[5m:1m]) + min_over_time(sum(a)[6m:1m])", 2},
        {"histogram_count(sum(a)) + sum(a)", 2},
        {"a + a", 1},
        {"a + (a + (a)) > a", 1},
        {"rate(a[5m]) / rate(a[5m])", 1},
        {"rate(a[5m]) / rate(a[4m])", 2},
        {"rate(a[5m]) / a", 2},
        {"a - a offset 1m", 2},
        {"a offset 1m - (a offset 1m)", 1},
        {"a - timestamp(a)", 2},
        {"timestamp(a) - timestamp(a)", 1},
        {"abs(a) - ceil(a)", 1},
        {"a and a @ 60", 2},
        {"a @ 60 + a @ 60", 1},
        {"-a + -a", 1},
        {"histogram_quantile(0.5, a) + histogram_quantile(0.6, a)", 1},
        {"rate(a[5m]) + max_over_time(rate(a[5m])[5m:1m])", 2},
    };
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++)
        cr_expect_eq(run(cases[i].text).selects, cases[i].selects, "%s: %zu", cases[i].text, run(cases[i].text).selects);
}

Test(plan, an_aggregation_asks_for_the_labels_it_groups_by)
{
    static const struct {
        const char *text, *labels;
    } cases[] = {
        {"a", "all"},
        {"sum(a)", "none"},
        {"count by (x, y) (a)", "x y"},
        {"sum without (x) (a)", "all"},
        {"sum by (x) (-(rate(a[5m]) * 2 > 1))", "x"},
        {"avg by (x) (quantile_over_time(0.5, a[5m]))", "x"},
        {"max by (x) (clamp(abs(a), 0, 1))", "x"},
        {"sum by (x) (timestamp(a))", "x"},
        {"sum by (x) (max by (x, y) (a))", "x y"},
        {"quantile by (x) (0.5, a)", "x"},
        {"count_values by (x) (\"v\", a)", "x"},
        {"histogram_quantile(0.9, sum by (le) (rate(a[5m])))", "le"},
        {"max_over_time(sum by (x) (a)[5m:1m])", "x"},
        {"sum by (x) (max_over_time(a[5m:1m]))", "all"},
        {"topk(1, a)", "all"},
        {"limitk(1, a)", "all"},
        {"sum by (x) (topk(1, a))", "all"},
        {"sum by (x) (a + a)", "all"},
        {"sum by (x) (a * on (x) b)", "all"},
        {"sum by (x) (sort(a))", "all"},
        {"sum by (x) (label_replace(a, \"x\", \"$1\", \"y\", \"(.*)\"))", "all"},
        {"sum by (x) (histogram_quantile(0.9, a))", "all"},
        {"sum by (x) (absent(a))", "all"},
        {"sum by (x) (rate({y=\"1\"}[5m]))", "all"},
        {"sum by (x) (a) + topk(1, a)", "all"},
    };
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++)
        cr_expect_str_eq(run(cases[i].text).labels, cases[i].labels, "%s: %s", cases[i].text, run(cases[i].text).labels);
}

Test(plan, what_selects_nothing_is_not_asked_for_nor_its_other_side)
{
    static const struct {
        const char *text;
        size_t selects;
    } cases[] = {
        {"a{x=\"1\", x=\"2\"}", 0},
        {"a{x=\"1\", x!~\"1|2\"}", 0},
        {"a{x=\"\", x=~\".+\"}", 0},
        {"sum(b) * a{x=\"1\", x=\"2\"}", 0},
        {"b and a{x=\"1\", x=\"2\"}", 0},
        {"b unless a{x=\"1\", x=\"2\"}", 1},
        {"a{x=\"1\", x=\"2\"} unless b", 0},
        {"b or a{x=\"1\", x=\"2\"}", 1},
        {"b + fill(0) a{x=\"1\", x=\"2\"}", 1},
        {"rate(a{x=\"1\", x=\"2\"}[5m])", 0},
        {"sum(-(a{x=\"1\", x=\"2\"})) > 3", 0},
        {"sum(rate(a{x=\"1\", x=\"2\"}[5m])) / sum(b)", 0},
        {"b * on (y) group_left () max by (y) (abs(a{x=\"1\", x=\"2\"}))", 0},
        {"b - max_over_time(sum(a{x=\"1\", x=\"2\"})[5m:1m])", 0},
        {"b or absent(a{x=\"1\", x=\"2\"})", 2},
        {"b * vector(scalar(a{x=\"1\", x=\"2\"}))", 1},
        {"b * count_values(\"v\", a{x=\"1\", x=\"2\"})", 1},
    };
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++)
        cr_expect_eq(run(cases[i].text).selects, cases[i].selects, "%s: %zu", cases[i].text, run(cases[i].text).selects);
}

Test(plan, matchers_that_say_nothing_more_are_not_handed_on)
{
    static const struct {
        const char *text;
        size_t matchers;
    } cases[] = {
        {"a{x=\"1\"}", 2},
        {"a{x=\"1\", x=\"1\"}", 2},
        {"a{x=~\".*\"}", 1},
        {"a{x=\"1\", x=~\"1|2\", x!=\"3\", x!~\"4.*\"}", 2},
        {"a{x!=\"1\", x=~\".+\"}", 3},
        {"{__name__=~\"a.*\", x=~\".*\"}", 1},
    };
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++)
        cr_expect_eq(run(cases[i].text).matchers, cases[i].matchers, "%s: %zu", cases[i].text, run(cases[i].text).matchers);
}

static void explain(const char *text, struct buf *out)
{
    struct arena a;
    struct err err = ERR_NONE;
    arena_init(&a, 0);
    buf_clear(out);
    struct ctx ctx = {.arena = &a};
    struct node *n = parse(text, &a);
    struct engine_query q = {.expr = n, .text = slice_of(text), .start_ms = 0, .end_ms = 600000, .step_ms = 15000};
    cr_assert(engine_explain(&config, &ctx, &q, out, &err), "%s", err.text);
    promql_release(n);
    arena_release(&a);
}

static void expect_plan(const char *text, const char *want)
{
    struct buf out;
    buf_init(&out, 1 << 20);
    explain(text, &out);
    cr_expect_str_eq(buf_cstr(&out), want, "%s:\n%s", text, buf_cstr(&out));
    buf_release(&out);
}

Test(plan, explained)
{
    expect_plan("2 * 3 + 1", "7\n");
    expect_plan("max_of(2, min_of(3, 4)) * scalar(vector((5))) + (pi() - pi())", "15\n");
    expect_plan("sum(rate(g{x=\"1\", x=\"2\"}[5m])) / h", "nothing [matchers exclude each other]\n");
    expect_plan("a{x=\"1\", x=~\".*\"} + (2 * 3)", "each value of a series + scalar\n"
                                                   "  series a{x=\"1\"}\n"
                                                   "  6\n");
    expect_plan("sum by (x) (rate(a[5m])) / on (x) group_left () sum by (x) (rate(a[5m]))",
                "match / on (x) group_left ()\n"
                "  sum by (x) [#1, evaluated once, read 2 times]\n"
                "    rate() over 5m [one pass for all windows]\n"
                "      series a [of the labels (x)]\n"
                "  sum by (x) [reads #1]\n");
    expect_plan("max_over_time(sum(a)[1h:1m]) > sum(b @ 5)", "match >\n"
                                                             "  max_over_time() over 1h, of a subquery each 1m [one pass for all windows]\n"
                                                             "    sum\n"
                                                             "      series a [without labels]\n"
                                                             "  sum [one step stands for all]\n"
                                                             "    series b @ 5.000 [without labels]\n");
    expect_plan("rate(a[5m]) / (rate(a[5m]) + b)", "match /\n"
                                                  "  rate() over 5m [one pass for all windows] [#1, evaluated once, read 2 times]\n"
                                                  "    series a\n"
                                                  "  match +\n"
                                                  "    rate() over 5m [one pass for all windows] [reads #1]\n"
                                                  "    series b\n");
    expect_plan("histogram_count(h) unless g{x=\"1\", x=\"2\"}", "histogram_count()\n"
                                                                 "  series h [without the buckets of histograms]\n");
    expect_plan("g * g{x=\"1\", x=\"2\"}", "nothing [matchers exclude each other]\n");
}

/* What does not depend on the step is evaluated at one, as Prometheus's StepInvariantExpr is, however much of the query that is. */
Test(plan, what_does_not_depend_on_the_step_is_evaluated_once)
{
    static const struct {
        const char *text, *once; /* the line that says so */
    } cases[] = {
        {"a @ 60", "series a @ 60.000"},
        {"a + b @ start()", "series b @ start()"},
        {"a - b @ end() offset 1m", "series b @ end() offset 1m"},
        {"a / sum(rate(b[5m] @ end()))", "sum"},
        {"abs(histogram_quantile(0.9, rate(a[5m] @ 60))) > b", "abs()"},
        {"max_over_time(a[10m:1m] @ end()) + b", "max_over_time() over 10m, of a subquery each 1m [one pass for all windows]"},
        {"max_over_time((a @ 60)[10m:1m])", "series a @ 60.000"},
        {"max_over_time(sum(a @ 60 + b)[10m:1m] @ 30)", "max_over_time() over 10m, of a subquery each 1m [one pass for all windows]"},
        {"max_over_time(sum(a @ 60 + b)[10m:1m] @ 30)", "series a @ 60.000"},
        {"a * vector(2)", "vector()"},
        {"a + on () group_left () (vector(1) or vector(2))", "match or"},
        {"timestamp(a @ 60) - b", "timestamp()"},
        {"topk(time(), a @ 60) or b", "topk"},
        {"clamp_max(a @ 60, 3) unless b", "clamp_max()"},
        {"b > scalar(a @ 60)", "scalar()"},
    };
    static const char *const each[] = {"a", "timestamp(abs(a @ 60))", "hour(a @ 60) + time()", "predict_linear(a[5m] @ 60, 1)", "max_over_time(a[10m:1m])", "vector(time())"};
    struct buf out, line;
    buf_init(&out, 1 << 20);
    buf_init(&line, 1 << 10);
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        explain(cases[i].text, &out);
        buf_clear(&line);
        buf_printf(&line, "%s [one step stands for all]\n", cases[i].once);
        cr_expect(strstr(buf_cstr(&out), buf_cstr(&line)), "%s:\n%s", cases[i].text, buf_cstr(&out));
    }
    for (size_t i = 0; i < sizeof(each) / sizeof(each[0]); i++) {
        explain(each[i], &out);
        const char *first_line_end = strchr(buf_cstr(&out), '\n'), *once = strstr(buf_cstr(&out), "[one step");
        cr_expect(!once || once > first_line_end, "%s:\n%s", each[i], buf_cstr(&out));
    }
    buf_release(&out);
    buf_release(&line);
}
