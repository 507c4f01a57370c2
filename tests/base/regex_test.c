#include "base/regex.h"

#include <criterion/criterion.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/buf.h"
#include "base/cxx_int.h"

/* Printed by Go 1.26: syntax.Parse(pattern, Perl|DotNL). */
static const struct {
    const char *pattern, *error;
} bad[] = {
    {"(foo", "error parsing regexp: missing closing ): `(foo`"},
    {"foo)", "error parsing regexp: unexpected ): `foo)`"},
    {"*", "error parsing regexp: missing argument to repetition operator: `*`"},
    {"+a", "error parsing regexp: missing argument to repetition operator: `+`"},
    {"a|*", "error parsing regexp: missing argument to repetition operator: `*`"},
    {"a**", "error parsing regexp: invalid nested repetition operator: `**`"},
    {"a???", "error parsing regexp: invalid nested repetition operator: `???`"},
    {"\\q", "error parsing regexp: invalid escape sequence: `\\q`"},
    {"\\C", "error parsing regexp: invalid escape sequence: `\\C`"},
    {"\\Z", "error parsing regexp: invalid escape sequence: `\\Z`"},
    {"[z-a]", "error parsing regexp: invalid character class range: `z-a`"},
    {"[a", "error parsing regexp: missing closing ]: `[a`"},
    {"x[]a", "error parsing regexp: missing closing ]: `[]a`"},
    {"a{1001}", "error parsing regexp: invalid repeat count: `{1001}`"},
    {"a{2,1}", "error parsing regexp: invalid repeat count: `{2,1}`"},
    {"a\\", "error parsing regexp: trailing backslash at end of expression: ``"},
    {"(?P<n", "error parsing regexp: invalid named capture: `(?P<n`"},
    {"(?z)", "error parsing regexp: invalid or unsupported Perl syntax: `(?z`"},
    {"(?=a)", "error parsing regexp: invalid or unsupported Perl syntax: `(?=`"},
    {"\\p{Foo}", "error parsing regexp: invalid character class range: `\\p{Foo}`"},
    {"[[:foo:]]", "error parsing regexp: invalid character class range: `[:foo:]`"},
};

Test(regex, errors_are_worded_as_go_does)
{
    for (size_t i = 0; i < sizeof(bad) / sizeof(*bad); i++) {
        struct err err = ERR_NONE;
        cr_assert_null(regex_new(slice_of(bad[i].pattern), &err), "%s", bad[i].pattern);
        cr_assert_eq(err.code, ERR_BAD_DATA);
        cr_expect_str_eq(err.text, bad[i].error);
    }
}

Test(regex, a_program_too_large_is_refused)
{
    struct err err = ERR_NONE;
    cr_assert_null(regex_new(SL("((((\\pL{30}){30}){30}){30})"), &err));
    cr_assert(strstr(err.text, "error parsing regexp: ") == err.text, "%s", err.text);
}

static struct regex *compile(const char *pattern)
{
    struct err err = ERR_NONE;
    struct regex *r = regex_new(slice_of(pattern), &err);
    cr_assert_not_null(r, "%s: %s", pattern, err.text);
    return r;
}

Test(regex, matches_the_whole_text)
{
    static const struct {
        const char *pattern, *text;
        bool match;
    } cases[] = {
        {"foo", "foo", true},          {"foo", "xfoo", false},      {"foo", "foox", false},    {"a|ab", "ab", true},     {"^foo$", "foo", true},
        {"a|b$", "b", true},           {"^a|b", "a", true},         {"a.c", "a\nc", true},     {".*", "", true},         {".+", "", false},
        {".+", "\n", true},            {"", "", true},              {"", "x", false},          {"(?i)FOO", "foo", true}, {"fo{2,3}", "fooo", true},
        {"a.*a", "a", false},          {"a.*a", "aa", true},        {".*b.*", "abc", true},    {".*b.*", "ac", false},   {"[^a]", "b", true},
        {"\\d+", "123", true},         {"x\\.y", "x.y", true},      {"x\\.y", "xzy", false},   {"(?<n>a)b", "ab", true}, {"\xc3\xa9|e", "\xc3\xa9", true},
        {"[\xc3\xa9]", "\xc3\xa9", true}, {"[\\](?<]x", "<x", true}, {"\\Q(?<\\E", "(?<", true}, {"a{,3}", "a{,3}", true}, {"(a|b)?c", "c", true},
    };
    for (size_t i = 0; i < sizeof(cases) / sizeof(*cases); i++) {
        struct regex *r = compile(cases[i].pattern);
        cr_expect_eq(regex_match(r, slice_of(cases[i].text)), cases[i].match, "%s on %s", cases[i].pattern, cases[i].text);
        regex_free(r);
    }
}

static void join_set(const struct regex_facts *f, char *out, size_t cap)
{
    size_t n = 0;
    for (size_t i = 0; i < f->set_n && n < cap; i++)
        n += (size_t)snprintf(out + n, cap - n, "%s%.*s", i ? "," : "", SL_FMT(f->set[i]));
    out[n < cap ? n : cap - 1] = 0;
}

Test(regex, facts_name_what_a_pattern_says)
{
    static const struct {
        const char *pattern, *set, *prefix, *suffix, *contains;
    } cases[] = {
        {"foo|bar", "bar,foo", "", "", ""},
        {"foo", "foo", "foo", "foo", "foo"},
        {"a(b|c)d", "abd,acd", "a", "d", NULL},
        {"^(prod|dev)-[0-2]$", "dev-0,dev-1,dev-2,prod-0,prod-1,prod-2", "", "", NULL},
        {"x\\.y?", "x.,x.y", "x.", "", NULL},
        {"foo|foo|", ",foo", "", "", NULL},
        {"api-.*", "", "api-", "", NULL},
        {".*-server", "", "", "-server", NULL},
        {".*err.*", "", "", "", "err"},
        {"5..", "", "5", "", "5"},
        {"(abc)+d", "", "abc", "abcd", NULL},
        {"(?i)foo", "", "", "", ""},
        {"a\\bb", "", "", "", ""},
        {"[a-z]+", "", "", "", ""},
    };
    for (size_t i = 0; i < sizeof(cases) / sizeof(*cases); i++) {
        struct regex *r = compile(cases[i].pattern);
        const struct regex_facts *f = regex_get_facts(r);
        char set[512];
        join_set(f, set, sizeof(set));
        cr_expect_str_eq(set, cases[i].set);
        cr_expect(slice_eq(f->prefix, slice_of(cases[i].prefix)), "%s", cases[i].pattern);
        cr_expect(slice_eq(f->suffix, slice_of(cases[i].suffix)), "%s", cases[i].pattern);
        cr_expect(!cases[i].contains || slice_eq(f->contains, slice_of(cases[i].contains)), "%s", cases[i].pattern);
        regex_free(r);
    }
    struct regex *any = compile(".*");
    struct regex *some = compile("^.+$");
    cr_assert(regex_get_facts(any)->any && !regex_get_facts(any)->any_nonempty);
    cr_assert(regex_get_facts(some)->any_nonempty && !regex_get_facts(some)->any);
    regex_free(any);
    regex_free(some);
}

Test(regex, sets_stop_at_256)
{
    struct regex *r = compile("[0-9a-f][0-9a-f]");
    cr_assert_eq(regex_get_facts(r)->set_n, 256);
    regex_free(r);
    r = compile("[0-9a-f][0-9a-g]");
    cr_assert_eq(regex_get_facts(r)->set_n, 0);
    regex_free(r);
}

static uint64_t rng = 0x9E3779B97F4A7C15ULL;

static uint32_t next(uint32_t below)
{
    rng ^= rng << 13;
    rng ^= rng >> 7;
    rng ^= rng << 17;
    return (uint32_t)(rng >> 33) % below;
}

static void random_pattern(char *out, size_t cap)
{
    static const char *const pieces[] = {"a",  "b",    "ab",   "c",    "(",     ")",       "|",  "*",   "+",     "?",    ".*",    ".+",      ".",     "[ab]", "[^a]",
                                         "^",  "$",    "\\.",  "\\d",  "{2}",   "{0,1}",   "{2,}", "(?:", "(?i)", "\\b",  "[a-c]", "\\w",     "\\x61", "\xc3\xa9", "{",
                                         "0",  "{0}",  "??",   "\\n",  "(?P<x>", "\\Qa\\E", "[.]", "}",   "]",     "(?s)", "(?m)",  "\\pL",    "a|b",   "[0-9]", "bc"};
    size_t n = 0;
    for (uint32_t k = 1 + next(7); k > 0; k--) {
        const char *s = pieces[next(sizeof(pieces) / sizeof(*pieces))];
        n += (size_t)snprintf(out + n, cap - n, "%s", s);
    }
}

static void random_text(char *out)
{
    static const char *const pieces[] = {"a", "b", "c", "0", ".", "\n", "\xc3\xa9", "A", "{", "ab", "abc"};
    *out = 0;
    for (uint32_t k = next(6); k > 0; k--)
        strcat(out, pieces[next(sizeof(pieces) / sizeof(*pieces))]);
}

static bool in_set(const struct regex_facts *f, struct slice text)
{
    for (size_t i = 0; i < f->set_n; i++)
        if (slice_eq(f->set[i], text))
            return true;
    return false;
}

Test(regex, never_disagrees_with_re2)
{
    char pattern[128], text[64], arg[64];
    int n_compiled = 0;
    for (int i = 0; i < 20000; i++) {
        random_pattern(pattern, sizeof(pattern));
        enum cxx_re2_error code;
        struct cxx_re2 *re = cxx_re2_new(pattern, strlen(pattern), 8 << 20, &code, arg, sizeof(arg));
        struct regex *r = regex_new(slice_of(pattern), NULL);
        cr_assert_eq(re != NULL, r != NULL, "%s", pattern);
        if (!re)
            continue;
        n_compiled++;
        const struct regex_facts *f = regex_get_facts(r);
        for (size_t k = 0; k < f->set_n; k++)
            cr_assert(cxx_re2_match(re, f->set[k].p, f->set[k].n, NULL, 0), "%s claims %.*s", pattern, SL_FMT(f->set[k]));
        for (int k = 0; k < 40; k++) {
            random_text(text);
            struct slice t = slice_of(text);
            bool want = cxx_re2_match(re, t.p, t.n, NULL, 0);
            cr_assert_eq(regex_match(r, t), want, "%s on %s", pattern, text);
            if (!want)
                continue;
            cr_assert(f->set_n == 0 || in_set(f, t), "%s set lacks %s", pattern, text);
            cr_assert(slice_has_prefix(t, f->prefix) && slice_has_suffix(t, f->suffix), "%s on %s", pattern, text);
            cr_assert(f->contains.n == 0 || memmem(t.p, t.n, f->contains.p, f->contains.n), "%s on %s", pattern, text);
        }
        regex_free(r);
        cxx_re2_free(re);
    }
    cr_assert_gt(n_compiled, 5000);
}

Test(regex, expands_templates_as_go_does)
{
    static const struct {
        const char *pattern, *text, *tmpl, *want; /* want NULL: no match */
    } cases[] = {
        {"(.*):(\\d+)", "host:80", "$1", "host"},
        {"(.*):(\\d+)", "host:80", "${2}x$1", "80xhost"},
        {"(.*):(\\d+)", "host:80", "$1x", ""},
        {"(.*):(\\d+)", "host:80", "$3|$$|$", "|$|$"},
        {"(.*):(\\d+)", "host:80", "${1", "${1"},
        {"(.*):(\\d+)", "host:80", "$0", "host:80"},
        {"(?P<name>.*)-x", "a-x", "${name}=$name", "a=a"},
        {"(a)|(b)", "b", "[$1][$2]", "[][b]"},
        {"(.*)", "", "$1_", ""},
        {"(.*)", "", "$1-", "-"},
        {"foo", "bar", "x", NULL},
        {"(a|ab)(c|bcd)?", "abcd", "$1,$2", "a,bcd"},
        {"(a*)(a*)", "aaa", "${1}_$2", "aaa_"},
    };
    for (size_t i = 0; i < sizeof(cases) / sizeof(*cases); i++) {
        struct regex *r = compile(cases[i].pattern);
        struct buf out;
        buf_init(&out, 0);
        bool matched = regex_expand(r, slice_of(cases[i].text), slice_of(cases[i].tmpl), &out);
        cr_expect_eq(matched, cases[i].want != NULL);
        cr_expect_str_eq(buf_cstr(&out), cases[i].want ? cases[i].want : "");
        buf_release(&out);
        regex_free(r);
    }
}

Test(regex, many_groups_expand)
{
    char pattern[256] = "";
    for (int i = 0; i < 40; i++)
        strcat(pattern, "(.)");
    struct regex *r = compile(pattern);
    struct buf out;
    buf_init(&out, 0);
    cr_assert(regex_expand(r, SL("0123456789abcdefghijklmnopqrstuvwxyzABCD"), SL("$1$40$17"), &out));
    cr_assert_str_eq(buf_cstr(&out), "0Dg");
    buf_release(&out);
    regex_free(r);
}
