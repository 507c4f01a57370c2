#include <criterion/criterion.h>
#include <stdio.h>
#include <stdlib.h>

#include "model/matcher.h"

static bool matches(enum matcher_type type, const char *pattern, const char *value)
{
    struct matcher m;
    struct err err = ERR_NONE;
    cr_assert(matcher_init(&m, type, SL("l"), slice_of(pattern), &err), "%s: %s", pattern, err.text);
    bool r = matcher_matches(&m, slice_of(value));
    matcher_release(&m);
    return r;
}

Test(matcher, equality)
{
    cr_expect(matches(MATCH_EQ, "a", "a"));
    cr_expect_not(matches(MATCH_EQ, "a", "b"));
    cr_expect(matches(MATCH_EQ, "", ""));
    cr_expect(matches(MATCH_NEQ, "a", ""));
    cr_expect_not(matches(MATCH_NEQ, "", ""));
}

Test(matcher, regular_expressions_match_whole_values)
{
    static const struct {
        const char *pattern, *value;
        bool want;
    } cases[] = {
        {"foo", "foo", true},
        {"foo", "foobar", false},
        {"foo|bar", "bar", true},
        {"foo|bar", "foobar", false},
        {"a(b|c)", "ac", true},
        {"a(b|c)", "a", false},
        {".*", "", true},
        {".*", "a\nb", true},
        {".+", "", false},
        {".+", "\n", true},
        {"foo.*", "foobar", true},
        {"foo.*", "fobar", false},
        {".*bar", "foobar", true},
        {".*bar", "barf", false},
        {".*oba.*", "foobar", true},
        {".*oba.*", "", false},
        {"(?i)foo", "FOO", true},
        {"[0-9]{3}", "404", true},
        {"[0-9]{3}", "4040", false},
        {"", "", true},
        {"", "a", false},
        {"foo.+bar", "foobar", false},
        {"foo.+bar", "foo-bar", true},
        {"a.*b.*c", "a1b2c", true},
        {"a.*b.*c", "a12c", false},
        {"5..", "503", true},
        {"|a", "", true},
    };
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        cr_expect_eq(matches(MATCH_RE, cases[i].pattern, cases[i].value), cases[i].want, "%s =~ %s", cases[i].value,
                     cases[i].pattern);
        cr_expect_neq(matches(MATCH_NRE, cases[i].pattern, cases[i].value), cases[i].want, "%s !~ %s", cases[i].value,
                      cases[i].pattern);
    }
}

Test(matcher, long_lists_of_alternatives)
{
    struct buf b = {0};
    for (int i = 0; i < 200; i++)
        buf_printf(&b, "%spod-%d", i ? "|" : "", i);
    struct matcher m;
    cr_assert(matcher_init(&m, MATCH_RE, SL("pod"), buf_slice(&b), NULL));
    for (int i = 0; i < 250; i++) {
        char pod[16];
        snprintf(pod, sizeof(pod), "pod-%d", i);
        cr_expect_eq(matcher_matches(&m, slice_of(pod)), i < 200, "%s", pod);
    }
    cr_expect_not(matcher_matches_empty(&m));
    matcher_release(&m);
    buf_release(&b);
}

Test(matcher, a_bad_pattern_is_an_error_with_go_s_wording)
{
    struct matcher m;
    struct err err = ERR_NONE;
    cr_assert_not(matcher_init(&m, MATCH_RE, SL("l"), SL("(foo"), &err));
    cr_expect_eq(err.code, ERR_BAD_DATA);
    static const char want[] = "error parsing regexp: missing closing ): `";
    cr_expect_eq(strncmp(err.text, want, sizeof(want) - 1), 0, "%s", err.text);
    matcher_release(&m);
}

Test(matcher, absent_labels_have_the_empty_value)
{
    struct label items[] = {{SL("__name__"), SL("up")}};
    struct labels l = {items, 1};
    struct matcher ms[2];
    cr_assert(matcher_init(&ms[0], MATCH_EQ, SL("__name__"), SL("up"), NULL));
    cr_assert(matcher_init(&ms[1], MATCH_EQ, SL("job"), SL(""), NULL));
    cr_expect(matchers_match(ms, 2, l));
    matcher_release(&ms[1]);
    cr_assert(matcher_init(&ms[1], MATCH_RE, SL("job"), SL(".+"), NULL));
    cr_expect_not(matchers_match(ms, 2, l));
    matcher_release(&ms[0]);
    matcher_release(&ms[1]);
}

Test(matcher, prints_as_in_a_query)
{
    struct buf b = {0};
    struct matcher m;
    cr_assert(matcher_init(&m, MATCH_NRE, SL("job"), SL("a.*\""), NULL));
    matcher_print(&m, &b);
    matcher_release(&m);
    cr_assert(matcher_init(&m, MATCH_EQ, SL("a-b"), SL("c"), NULL));
    matcher_print(&m, &b);
    matcher_release(&m);
    cr_expect_str_eq(buf_cstr(&b), "job!~\"a.*\\\"\"\"a-b\"=\"c\"");
    buf_release(&b);
}
