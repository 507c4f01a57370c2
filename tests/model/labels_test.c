#include <criterion/criterion.h>
#include <stdio.h>
#include <stdlib.h>

#include "model/labels.h"
#include "model/write_request.h"
#include "tests/model/wire.h"

static struct label L(const char *name, const char *value) {
    return (struct label){slice_of(name), slice_of(value)};
}

static void
expect_text(struct buf *b, const char *want)
{
    cr_expect_str_eq(buf_cstr(b), want);
    buf_clear(b);
}

Test(labels, get_finds_a_value_and_says_absent_with_the_empty_slice)
{
    struct label items[] = {L("__name__", "up"), L("job", "node")};
    struct labels l = {items, 2};
    cr_expect(slice_eq(labels_get(l, SL("job")), SL("node")));
    cr_expect_eq(labels_get(l, SL("jo")).n, 0);
}

Test(labels, cmp_orders_by_label_then_by_number_of_labels)
{
    struct label a[] = {L("a", "1"), L("b", "2")};
    struct label b[] = {L("a", "1"), L("b", "3")};
    struct label c[] = {L("a", "1"), L("c", "0")};
    cr_expect_lt(labels_cmp((struct labels){a, 2}, (struct labels){b, 2}), 0);
    cr_expect_lt(labels_cmp((struct labels){a, 2}, (struct labels){c, 2}), 0);
    cr_expect_lt(labels_cmp((struct labels){a, 1}, (struct labels){a, 2}), 0);
    cr_expect(labels_eq((struct labels){a, 2}, (struct labels){a, 2}));
}

Test(labels, hash_tells_apart_sets_whose_bytes_run_together)
{
    struct label a[] = {L("ab", "c")};
    struct label b[] = {L("a", "bc")};
    cr_expect_neq(labels_hash((struct labels){a, 1}), labels_hash((struct labels){b, 1}));
    cr_expect_eq(labels_hash((struct labels){a, 1}), labels_hash((struct labels){a, 1}));
}

Test(labels, quotes_as_go_does)
{
    static const struct {
        struct slice in;
        const char *want;
    } cases[] = {
        {{"", 0}, "\"\""},
        {{"plain", 5}, "\"plain\""},
        {{"a\"b\\c", 5}, "\"a\\\"b\\\\c\""},
        {{"\a\b\t\n\v\f\r", 7}, "\"\\a\\b\\t\\n\\v\\f\\r\""},
        {{"\0\x1f\x7f", 3}, "\"\\x00\\x1f\\x7f\""},
        {{"x\xffy", 3}, "\"x\\xffy\""},
        {{"Z\xc3\xbcrich", 7}, "\"Z\xc3\xbcrich\""},
        {{"\xc2\xa0", 2}, "\"\\u00a0\""},                  /* no-break space */
        {{"\xe2\x80\xa8", 3}, "\"\\u2028\""},              /* line separator */
        {{"\xef\xbf\xbd", 3}, "\"\xef\xbf\xbd\""},         /* a real U+FFFD */
        {{"\xf0\x9f\xa6\x80", 4}, "\"\xf0\x9f\xa6\x80\""}, /* an emoji */
        {{"\xf3\xa0\x80\x81", 4}, "\"\\U000e0001\""},      /* a tag character */
    };
    struct buf b = {0};
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        labels_put_quoted(cases[i].in, &b);
        expect_text(&b, cases[i].want);
    }
    buf_release(&b);
}

Test(labels, prints_the_form_of_the_write_path)
{
    struct label two[] = {L("__name__", "m"), L("a", "b"), L("bad-name", "c\n")};
    struct buf b = {0};
    labels_print((struct labels){two, 3}, &b);
    expect_text(&b, "m{a=\"b\", bad-name=\"c\\n\"}");
    labels_print((struct labels){two, 1}, &b);
    expect_text(&b, "m");
    labels_print((struct labels){two + 1, 1}, &b);
    expect_text(&b, "{a=\"b\"}");
    labels_print((struct labels){NULL, 0}, &b);
    expect_text(&b, "{}");
    buf_release(&b);
}

Test(labels, prints_the_form_of_query_errors)
{
    struct label two[] = {L("__name__", "m"), L("bad-name", "c")};
    struct buf b = {0};
    labels_print_set((struct labels){two, 2}, &b);
    expect_text(&b, "{__name__=\"m\", \"bad-name\"=\"c\"}");
    buf_release(&b);
}

Test(labels, canonical_bytes_are_those_of_remote_write)
{
    struct label items[] = {L("__name__", "up"), L("job", "x")};
    struct buf b = {0}, want = {0};
    labels_put_canonical((struct labels){items, 2}, &b);
    wire_label(&want, "__name__", "up");
    wire_label(&want, "job", "x");
    cr_expect(slice_eq(buf_slice(&b), buf_slice(&want)));
    cr_expect(label_span_is_canonical(buf_slice(&b)));
    buf_release(&b);
    buf_release(&want);
}

Test(labels, from_span_is_the_inverse_of_put_canonical_also_for_long_ones)
{
    static char long_value[40000];
    memset(long_value, 'v', sizeof(long_value) - 1);
    struct label items[] = {L("a", "1"), L("long", long_value), L("z", "2")};
    struct buf b = {0};
    struct arena arena;
    arena_init(&arena, 0);
    labels_put_canonical((struct labels){items, 3}, &b);
    struct labels back;
    cr_assert(labels_from_span(buf_slice(&b), &arena, &back));
    cr_expect(labels_eq(back, (struct labels){items, 3}));
    cr_expect(label_span_is_canonical(buf_slice(&b)));
    cr_expect_not(labels_from_span(slice_make(b.p, b.n - 1), &arena, &back));
    struct labels copy = labels_dup(&arena, back);
    buf_release(&b);
    cr_expect(labels_eq(copy, (struct labels){items, 3}), "a copy does not need the bytes it was made of");
    arena_release(&arena);
}

Test(labels, sort_is_right_and_stable_for_small_and_large_sets)
{
    enum { N = 20000 };
    static char names[N][24], values[N][24];
    static struct label items[N];
    static const size_t sizes[] = {0, 1, 2, 48, 49, 97, 1000, N};
    for (size_t k = 0; k < sizeof(sizes) / sizeof(sizes[0]); k++) {
        size_t n = sizes[k];
        for (size_t i = 0; i < n; i++) {
            snprintf(names[i], 24, "n%zu", i * 7919 % 5003 / 2);
            snprintf(values[i], 24, "%zu", i);
            items[i] = L(names[i], values[i]);
        }
        cr_assert(labels_sort(items, n));
        for (size_t i = 1; i < n; i++) {
            int c = slice_cmp(items[i - 1].name, items[i].name);
            cr_assert(c < 0 || (c == 0 && atoi(items[i - 1].value.p) < atoi(items[i].value.p)), "n %zu at %zu", n, i);
        }
    }
}

Test(labels, hash_of_a_series_depends_on_every_byte_and_the_seed)
{
    struct slice a = SL("0123456789abcdef0123456789abcdef0123456789");
    struct slice b = SL("0123456789abcdef0123456789abcdef012345678a");
    cr_expect(series_hash_eq(series_hash_of(a, 1), series_hash_of(a, 1)));
    cr_expect_not(series_hash_eq(series_hash_of(a, 1), series_hash_of(b, 1)));
    cr_expect_not(series_hash_eq(series_hash_of(a, 1), series_hash_of(a, 2)));
}

Test(labels, hasher_gives_the_hashes_of_its_seed_at_every_length)
{
    static char bytes[1100];
    for (size_t i = 0; i < sizeof(bytes); i++)
        bytes[i] = (char)(i * 37 + i / 256);
    for (uint64_t seed = 0; seed < 3; seed++) {
        struct series_hasher hasher;
        series_hasher_init(&hasher, seed * UINT64_C(0x9e3779b97f4a7c15));
        for (size_t n = 0; n <= sizeof(bytes); n++) {
            struct slice s = slice_make(bytes, n);
            cr_assert(series_hash_eq(series_hasher_hash(&hasher, s), series_hash_of(s, hasher.seed)), "%zu bytes", n);
        }
    }
}

Test(labels, legacy_names)
{
    static const struct {
        const char *s;
        bool metric, label;
    } cases[] = {
        {"up", true, true}, {"a:b", true, false},  {"_x9", true, true},          {"9x", false, false},
        {"", false, false}, {"a-b", false, false}, {"gr\xc3\xb6", false, false}, {":", true, false},
    };
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        cr_expect_eq(metric_name_is_legacy(slice_of(cases[i].s)), cases[i].metric, "%s", cases[i].s);
        cr_expect_eq(label_name_is_legacy(slice_of(cases[i].s)), cases[i].label, "%s", cases[i].s);
    }
}
