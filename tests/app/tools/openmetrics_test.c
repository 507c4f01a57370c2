/* OpenMetrics lines: what they say, and which are refused. What Prometheus makes of whole texts is compared in tests/e2e/test_block_tools.py. */
#include "app/tools/openmetrics.h"

#include <criterion/criterion.h>
#include <math.h>

#include "base/assert.h"

static struct openmetrics o;

static void setup(void)
{
    openmetrics_init(&o);
}

static void teardown(void)
{
    openmetrics_release(&o);
}

static bool line(const char *text, enum openmetrics_kind *ret, struct openmetrics_sample *s, struct err *err)
{
    *err = ERR_NONE;
    return openmetrics_line(&o, slice_of(text), ret, s, err);
}

Test(openmetrics, says_what_a_sample_is, .init = setup, .fini = teardown)
{
    static const struct {
        const char *line, *labels;
        double v;
        bool has_time;
        int64_t t;
    } cases[] = {
        {"m 1", "{__name__=\"m\"}", 1, false, 0},
        {"m{} +Inf 0", "{__name__=\"m\"}", INFINITY, true, 0},
        {"a:b{z=\"1\",a=\"x y\",} -1.5e3 1600000000.123", "{__name__=\"a:b\", a=\"x y\", z=\"1\"}", -1500, true, 1600000000123},
        {"m{a=\"\",b=\"\\\"\\\\\\n\\x\"} 1 1.0019", "{__name__=\"m\", b=\"\\\"\\\\\\n\\\\x\"}", 1, true, 1001},
        {"{\"a b\",\"c d\"=\"e\"} 1 -0.5", "{__name__=\"a b\", \"c d\"=\"e\"}", 1, true, -500},
        {"{c=\"e\",\"a\"} 1 1", "{__name__=\"a\", c=\"e\"}", 1, true, 1000},
        {"m 1 # {a=\"b\"} 2", "{__name__=\"m\"}", 1, false, 0},
        {"m 1 7 # {} 2 1.5", "{__name__=\"m\"}", 1, true, 7000},
        {"m infinity 1e3", "{__name__=\"m\"}", INFINITY, true, 1000000},
    };
    for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
        enum openmetrics_kind kind;
        struct openmetrics_sample s;
        struct err err;
        struct buf text = {0};
        cr_assert(line(cases[i].line, &kind, &s, &err) && kind == OPENMETRICS_SAMPLE, "%s: %s", cases[i].line, err.text);
        labels_print_set(s.labels, &text);
        cr_expect_str_eq(buf_cstr(&text), cases[i].labels);
        cr_expect(s.v == cases[i].v && s.has_time == cases[i].has_time && s.t == cases[i].t, "%s: %g %d %ld", cases[i].line, s.v, s.has_time, (long)s.t);
        buf_release(&text);
    }
}

Test(openmetrics, writes_le_and_quantile_as_floats_by_the_last_type, .init = setup, .fini = teardown)
{
    static const struct {
        const char *type, *line, *value;
    } cases[] = {
        {"# TYPE x histogram", "x_bucket{le=\"1\"} 1", "1.0"},         {"# TYPE x histogram", "x_bucket{le=\"1e9\"} 1", "1e+09"},
        {"# TYPE x histogram", "x_bucket{le=\"+Inf\"} 1", "+Inf"},     {"# TYPE x histogram", "x_bucket{le=\"soon\"} 1", "soon"},
        {"# TYPE x histogram", "x_bucket{quantile=\"1\"} 1", "1"},     {"# TYPE x summary", "x{quantile=\"0\"} 1", "0.0"},
        {"# TYPE x gauge", "x{le=\"1\"} 1", "1"},                      {"# HELP x y", "x{le=\"1\"} 1", "1"},
    };
    for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
        enum openmetrics_kind kind;
        struct openmetrics_sample s;
        struct err err;
        cr_assert(line(cases[i].type, &kind, &s, &err) && kind == OPENMETRICS_OTHER, "%s", err.text);
        cr_assert(line(cases[i].line, &kind, &s, &err), "%s", err.text);
        cr_expect(slice_eq(s.labels.items[1].value, slice_of(cases[i].value)), "%s: %.*s", cases[i].line, SL_FMT(s.labels.items[1].value));
    }
}

Test(openmetrics, knows_the_lines_that_are_no_samples, .init = setup, .fini = teardown)
{
    static const char *const cases[] = {"# HELP m some \\n text", "# TYPE m unknown", "# UNIT m_seconds seconds", "# UNIT m ", "# HELP \"a b\" text"};
    enum openmetrics_kind kind;
    struct openmetrics_sample s;
    struct err err;
    for (size_t i = 0; i < ARRAY_LEN(cases); i++)
        cr_expect(line(cases[i], &kind, &s, &err) && kind == OPENMETRICS_OTHER, "%s: %s", cases[i], err.text);
    cr_expect(line("# EOF", &kind, &s, &err) && kind == OPENMETRICS_END);
}

Test(openmetrics, refuses_what_is_none, .init = setup, .fini = teardown)
{
    static const char *const cases[] = {
        "", " ", "m", "m ", "m  1", "m 1 ", "m 1  1", "1m 1", "m{a} 1", "m{a=b} 1", "m{a=\"b} 1", "m{a=\"b\"", "m{a=\"b\"}1", "m{a=\"b\\\"} 1", "{} 1", "{a=\"b\"} 1",
        "m{\"n\"} 1", "m{a=\"1\",a=\"2\"} 1", "m{a=\"\xff\"} 1", "m x", "m 0x1p3", "m 1_0", "m 1 x", "m 1 NaN", "m 1 1e300", "m 1 1 1", "m 1 # {", "m 1 # {a=\"b\"}", "m 1 # {} x",
        "m 1 # {} 1 1 1", "m 1 # {} 1  1", "m{,} 1", "#", "# ", "#EOF", "# EOF ", "# HELP", "# HELP m", "# TYPE m", "# TYPE m sometimes", "# UNIT m seconds", "# FOO m x", "# HELP 1 x",
    };
    for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
        enum openmetrics_kind kind;
        struct openmetrics_sample s;
        struct err err;
        cr_expect(!line(cases[i], &kind, &s, &err) && err.code == ERR_BAD_DATA && err.text[0], "%s", cases[i]);
    }
}
