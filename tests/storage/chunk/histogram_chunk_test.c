/* Histogram chunks: what may follow what, what the header says, how layouts widen, and what comes back. */
#include <criterion/criterion.h>
#include <string.h>

#include "storage/chunk/chunk.h"
#include "tests/storage/chunk/build.h"
#include "tests/storage/chunk/compare.h"
#include "tests/storage/chunk/random.h"

enum { UNKNOWN = 0x00, NOT_RESET = 0x40, RESET = 0x80, GAUGE = 0xC0 };

static struct arena arena;

static void setup(void)
{
    arena_init(&arena, 0);
}

static void teardown(void)
{
    arena_release(&arena);
}

TestSuite(histogram_chunk, .init = setup, .fini = teardown);

static struct slice bytes_of(const struct histogram_appender *a)
{
    return histogram_appender_bytes(a);
}

static uint8_t header(const struct histogram_appender *a)
{
    return (uint8_t)bytes_of(a).p[2];
}

static struct chunk_columns decode(const struct histogram_appender *a)
{
    struct chunk_columns cols;
    struct err err = ERR_NONE;
    enum chunk_encoding enc = histogram_appender_is_float(a) ? CHUNK_FLOAT_HISTOGRAM : CHUNK_HISTOGRAM;
    cr_assert(chunk_decode(enc, bytes_of(a), &arena, &cols, &err), "%s", err.text);
    cr_assert_eq(cols.n, histogram_appender_count(a));
    return cols;
}

/* --- the table ---------------------------------------------------------------------------------------------------------------- */

/* What is different about the second sample, which else is a counter that went on. */
static void change(struct histogram *h, const char *how)
{
    double *counts = (double *)h->positive_counts;
    if (strcmp(how, "nothing") == 0)
        return;
    if (strcmp(how, "hint reset") == 0)
        h->hint = HISTOGRAM_HINT_RESET;
    else if (strcmp(how, "hint not reset") == 0)
        h->hint = HISTOGRAM_HINT_NOT_RESET;
    else if (strcmp(how, "hint gauge") == 0)
        h->hint = HISTOGRAM_HINT_GAUGE;
    else if (strcmp(how, "schema") == 0)
        h->schema = 2;
    else if (strcmp(how, "zero threshold") == 0)
        h->zero_threshold = 0.5;
    else if (strcmp(how, "stale") == 0)
        *h = *stale(&arena, h->is_float);
    else
        cr_assert_fail("%s %p", how, (void *)counts);
}

struct row {
    const char *first;  /* change of the first sample, or a name below */
    const char *second;
    bool fits;
    uint8_t header_int;   /* of the next chunk, when it does not fit; when it does: of a next chunk after a cut */
    uint8_t header_float; /* the same for float histograms that did not fit */
    uint8_t header_float_cut;
};

static const struct row rows[] = {
    {"nothing", "nothing", true, NOT_RESET, NOT_RESET, NOT_RESET},
    {"nothing", "hint not reset", true, NOT_RESET, NOT_RESET, NOT_RESET},
    {"hint gauge", "nothing", false, NOT_RESET, UNKNOWN, NOT_RESET},                /* row 1 */
    {"nothing", "hint reset", false, RESET, RESET, RESET},                          /* row 2 */
    {"hint gauge", "hint reset", false, RESET, RESET, RESET},                       /* the hint decides the header all the same */
    {"nothing", "stale", true, NOT_RESET, NOT_RESET, NOT_RESET},                    /* row 3 */
    {"stale", "nothing", false, UNKNOWN, UNKNOWN, NOT_RESET},                       /* row 4 */
    {"stale", "stale", true, NOT_RESET, NOT_RESET, NOT_RESET},                      /* row 3 before 4 */
    {"nothing", "schema", false, UNKNOWN, UNKNOWN, NOT_RESET},                      /* row 6 */
    {"nothing", "zero threshold", false, UNKNOWN, UNKNOWN, NOT_RESET},              /* row 6 */
    {"nothing", "hint gauge", false, GAUGE, GAUGE, GAUGE},
    {"hint gauge", "hint gauge", true, GAUGE, GAUGE, GAUGE},
    {"hint gauge", "stale", false, NOT_RESET, UNKNOWN, NOT_RESET},                  /* a stale mark has no gauge hint */
};

static struct histogram *sample(bool is_float, const char *how, int i)
{
    struct histogram *h = build(&arena, is_float, 1 + i, BUCKETS({0, 2 + i}, {3, 1 + i}), BUCKETS({1, 5 + i}));
    change(h, how);
    return h;
}

static void check_row(const struct row *r, bool is_float)
{
    struct histogram_appender *a = histogram_appender_new(is_float);
    struct histogram *h = sample(is_float, r->second, 1);
    cr_assert_eq(histogram_append(a, 1000, sample(is_float, r->first, 0)), HISTOGRAM_APPENDED);
    cr_assert_eq(header(a), strcmp(r->first, "hint gauge") == 0 ? GAUGE : UNKNOWN);

    /* After a cut the sample opens a chunk without having been tried. */
    struct histogram_appender *cut = histogram_appender_next(a, is_float);
    cr_assert_eq(histogram_append(cut, 2000, h), HISTOGRAM_APPENDED);
    cr_assert_eq(header(cut), is_float ? r->header_float_cut : r->header_int, "%s, %s, cut: %02x", r->first, r->second, header(cut));

    enum histogram_append_result got = histogram_append(a, 2000, h);
    cr_assert_eq(got, r->fits ? HISTOGRAM_APPENDED : HISTOGRAM_NEW_CHUNK, "%s, %s", r->first, r->second);
    cr_assert_eq(histogram_appender_count(a), r->fits ? 2 : 1);
    if (!r->fits) {
        struct histogram_appender *next = histogram_appender_next(a, is_float);
        cr_assert_eq(histogram_append(next, 2000, h), HISTOGRAM_APPENDED);
        cr_assert_eq(header(next), is_float ? r->header_float : r->header_int, "%s, %s: %02x", r->first, r->second, header(next));
        histogram_appender_free(next);
    }
    histogram_appender_free(cut);
    histogram_appender_free(a);
}

Test(histogram_chunk, what_may_follow_what_and_what_the_next_header_says)
{
    for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
        check_row(&rows[i], false);
        check_row(&rows[i], true);
    }
}

/* Appends both; says whether the second fits, and the header of the next chunk if not. */
static int follow(const struct histogram *first, const struct histogram *second)
{
    struct histogram_appender *a = histogram_appender_new(first->is_float);
    cr_assert_eq(histogram_append(a, 1, first), HISTOGRAM_APPENDED);
    int got = -1;
    if (histogram_append(a, 2, second) == HISTOGRAM_NEW_CHUNK) {
        struct histogram_appender *next = histogram_appender_next(a, first->is_float);
        histogram_append(next, 2, second);
        got = header(next);
        histogram_appender_free(next);
    }
    histogram_appender_free(a);
    return got;
}

#define FITS (-1)

Test(histogram_chunk, a_count_that_went_back_is_a_reset)
{
    for (int f = 0; f < 2; f++) {
        struct histogram *a = positive(&arena, f, BUCKETS({0, 5}, {1, 5}));
        cr_assert_eq(follow(a, positive(&arena, f, BUCKETS({0, 5}, {1, 5}))), FITS);
        cr_assert_eq(follow(a, positive(&arena, f, BUCKETS({0, 5}, {1, 4}))), RESET);
        /* The count is looked at before the schema (row 5 before 6). */
        struct histogram *b = positive(&arena, f, BUCKETS({0, 1}));
        b->schema = 3;
        cr_assert_eq(follow(a, b), RESET);
    }
}

Test(histogram_chunk, a_zero_count_that_went_back_is_a_reset)
{
    for (int f = 0; f < 2; f++)
        cr_assert_eq(follow(build(&arena, f, 3, BUCKETS({0, 5}), NULL, 0), build(&arena, f, 2, BUCKETS({0, 9}), NULL, 0)), RESET);
}

Test(histogram_chunk, a_bucket_that_went_back_is_a_reset)
{
    for (int f = 0; f < 2; f++) {
        cr_assert_eq(follow(positive(&arena, f, BUCKETS({0, 5}, {4, 5})), positive(&arena, f, BUCKETS({0, 9}, {4, 4}))), RESET);
        cr_assert_eq(follow(build(&arena, f, 0, NULL, 0, BUCKETS({-3, 5}, {4, 5})), build(&arena, f, 0, NULL, 0, BUCKETS({-3, 9}, {4, 4}))),
                     RESET);
    }
}

Test(histogram_chunk, a_used_bucket_that_vanished_is_a_reset_and_an_empty_one_is_not)
{
    for (int f = 0; f < 2; f++) {
        cr_assert_eq(follow(positive(&arena, f, BUCKETS({0, 5}, {4, 1})), positive(&arena, f, BUCKETS({0, 9}))), RESET);
        cr_assert_eq(follow(positive(&arena, f, BUCKETS({-4, 1}, {0, 5})), positive(&arena, f, BUCKETS({0, 9}))), RESET);
        cr_assert_eq(follow(positive(&arena, f, BUCKETS({-4, 0}, {0, 5}, {4, 0})), positive(&arena, f, BUCKETS({0, 9}))), FITS);
        cr_assert_eq(follow(positive(&arena, f, BUCKETS({0, 5}, {4, 0})), positive(&arena, f, BUCKETS({0, 9}, {5, 1}))), FITS);
    }
}

static struct histogram *custom(bool is_float, double count, const double *bounds, uint32_t n)
{
    struct histogram *h = positive(&arena, is_float, BUCKETS({0, count}, {1, 1}));
    h->schema = HISTOGRAM_CUSTOM_BUCKETS;
    h->zero_threshold = 0;
    h->custom_values = bounds;
    h->n_custom_values = n;
    return h;
}

Test(histogram_chunk, other_bounds_are_a_reset)
{
    static const double a[] = {1, 2, 3}, b[] = {1, 2, 4}, c[] = {1, 2};
    for (int f = 0; f < 2; f++) {
        cr_assert_eq(follow(custom(f, 1, a, 3), custom(f, 2, a, 3)), FITS);
        cr_assert_eq(follow(custom(f, 1, a, 3), custom(f, 2, b, 3)), RESET);
        cr_assert_eq(follow(custom(f, 1, a, 3), custom(f, 2, c, 2)), RESET);
        cr_assert_eq(follow(positive(&arena, f, BUCKETS({0, 1})), custom(f, 2, a, 3)), UNKNOWN);
    }
}

Test(histogram_chunk, the_other_form_needs_a_chunk_of_its_own)
{
    struct histogram_appender *a = histogram_appender_new(false);
    cr_assert_eq(histogram_append(a, 1, positive(&arena, false, BUCKETS({0, 1}))), HISTOGRAM_APPENDED);
    struct histogram *h = positive(&arena, true, BUCKETS({0, 2}));
    cr_assert_eq(histogram_append(a, 2, h), HISTOGRAM_NEW_CHUNK);
    struct histogram_appender *next = histogram_appender_next(a, true);
    cr_assert_eq(histogram_append(next, 2, h), HISTOGRAM_APPENDED);
    cr_assert_eq(header(next), UNKNOWN); /* the chunk before is of the other kind: nothing is known */
    histogram_appender_free(next);
    histogram_appender_free(a);
}

Test(histogram_chunk, gauges_go_up_and_down_and_their_buckets_come_and_go)
{
    for (int f = 0; f < 2; f++) {
        struct histogram *all[4] = {
            positive(&arena, f, BUCKETS({0, 5}, {1, 7})),
            positive(&arena, f, BUCKETS({0, 2}, {2, 1})),
            build(&arena, f, 0, BUCKETS({-2, 1}), BUCKETS({3, 3})),
            positive(&arena, f, BUCKETS({0, 1})),
        };
        struct histogram_appender *a = histogram_appender_new(f);
        for (int i = 0; i < 4; i++) {
            all[i]->hint = HISTOGRAM_HINT_GAUGE;
            cr_assert_eq(histogram_append(a, i, all[i]), HISTOGRAM_APPENDED);
        }
        struct chunk_columns c = decode(a);
        cr_assert_eq(header(a), GAUGE);
        for (int i = 0; i < 4; i++) {
            cr_assert(same_histogram(&c.h[i], all[i]));
            cr_assert_eq(c.h[i].hint, HISTOGRAM_HINT_GAUGE);
            cr_assert_eq(c.h[i].n_positive, 4); /* -2, 0, 1, 2 */
            cr_assert_eq(c.h[i].n_negative, 1);
        }
        histogram_appender_free(a);
    }
}

Test(histogram_chunk, a_gauge_of_other_schema_or_after_a_stale_mark_needs_a_new_chunk)
{
    struct histogram *a = positive(&arena, false, BUCKETS({0, 5})), *b = positive(&arena, false, BUCKETS({0, 5}));
    a->hint = b->hint = HISTOGRAM_HINT_GAUGE;
    cr_assert_eq(follow(a, b), FITS);
    b->schema = 3;
    cr_assert_eq(follow(a, b), GAUGE);
    struct histogram *s = stale(&arena, false);
    s->hint = HISTOGRAM_HINT_GAUGE;
    cr_assert_eq(follow(a, s), FITS);
    cr_assert_eq(follow(s, a), GAUGE);
}

/* --- widening ------------------------------------------------------------------------------------------------------------------ */

/* New buckets: the chunk is what it had been if its layout had been wide from the start; header and count stay. */
Test(histogram_chunk, new_buckets_widen_the_chunk)
{
    for (int f = 0; f < 2; f++) {
        struct histogram_appender *a = histogram_appender_new(f), *b = histogram_appender_new(f);
        struct histogram *last = positive(&arena, f, BUCKETS({-1, 1}, {0, 9}, {1, 2}, {5, 9}, {7, 1}));
        struct histogram *hint = positive(&arena, f, BUCKETS({0, 2}, {5, 1}));
        hint->hint = HISTOGRAM_HINT_RESET;
        histogram_append(a, 10, hint);
        histogram_append(a, 20, positive(&arena, f, BUCKETS({0, 3}, {5, 4})));
        histogram_append(a, 30, last);
        struct histogram *wide = positive(&arena, f, BUCKETS({-1, 0}, {0, 2}, {1, 0}, {5, 1}, {7, 0}));
        wide->hint = HISTOGRAM_HINT_RESET;
        histogram_append(b, 10, wide);
        histogram_append(b, 20, positive(&arena, f, BUCKETS({-1, 0}, {0, 3}, {1, 0}, {5, 4}, {7, 0})));
        histogram_append(b, 30, last);
        cr_assert(slice_eq(bytes_of(a), bytes_of(b)));
        cr_assert_eq(header(a), RESET);
        cr_assert(histogram_eq(&decode(a).h[2], &decode(b).h[2]));
        histogram_appender_free(a);
        histogram_appender_free(b);
    }
}

Test(histogram_chunk, a_sample_without_the_chunks_empty_buckets_is_widened)
{
    for (int f = 0; f < 2; f++) {
        struct histogram_appender *a = histogram_appender_new(f);
        histogram_append(a, 10, positive(&arena, f, BUCKETS({0, 2}, {1, 0}, {4, 0})));
        size_t before = bytes_of(a).n;
        struct histogram *h = positive(&arena, f, BUCKETS({0, 3}));
        histogram_append(a, 20, h);
        struct chunk_columns c = decode(a);
        cr_assert_eq(c.h[1].n_positive, 3);
        cr_assert_eq(c.h[1].n_positive_spans, 2);
        cr_assert(same_histogram(&c.h[1], h));
        cr_assert_lt(bytes_of(a).n, before + 40);
        histogram_appender_free(a);
    }
}

Test(histogram_chunk, both_at_once)
{
    for (int f = 0; f < 2; f++) {
        struct histogram_appender *a = histogram_appender_new(f);
        struct histogram *one = build(&arena, f, 0, BUCKETS({0, 2}, {1, 0}, {4, 0}), BUCKETS({2, 0}));
        struct histogram *two = build(&arena, f, 0, BUCKETS({0, 3}, {3, 1}), BUCKETS({5, 1}));
        histogram_append(a, 10, one);
        cr_assert_eq(histogram_append(a, 20, two), HISTOGRAM_APPENDED);
        struct chunk_columns c = decode(a);
        cr_assert_eq(c.h[0].n_positive, 4);
        cr_assert_eq(c.h[0].n_positive_spans, 2); /* 0-1, 3-4 */
        cr_assert_eq(c.h[0].n_negative, 2);
        cr_assert(same_histogram(&c.h[0], one));
        cr_assert(same_histogram(&c.h[1], two));
        histogram_appender_free(a);
    }
}

Test(histogram_chunk, buckets_too_far_apart_for_a_span_do_not_share_a_chunk)
{
    struct histogram *a = positive(&arena, false, BUCKETS({-2147483647, 0}));
    struct histogram *b = positive(&arena, false, BUCKETS({2147483647, 1}));
    cr_assert_eq(follow(a, b), NOT_RESET);
}

/* Spans that say the same with empty or needless spans are no difference. */
Test(histogram_chunk, needless_spans_are_no_difference)
{
    static const struct histogram_span odd[] = {{-1, 0}, {1, 1}, {0, 1}, {3, 0}, {2, 1}};
    struct histogram *a = positive(&arena, false, BUCKETS({0, 1}, {1, 2}, {7, 3}));
    struct histogram *b = positive(&arena, false, BUCKETS({0, 2}, {1, 3}, {7, 4}));
    struct histogram_appender *x = histogram_appender_new(false);
    b->positive_spans = odd;
    b->n_positive_spans = 5;
    histogram_append(x, 1, a);
    cr_assert_eq(histogram_append(x, 2, b), HISTOGRAM_APPENDED);
    struct chunk_columns c = decode(x);
    cr_assert_eq(c.h[1].n_positive_spans, 2);
    cr_assert(same_histogram(&c.h[1], b));
    histogram_appender_free(x);
}

/* --- the format ----------------------------------------------------------------------------------------------------------------- */

/*
 * Integer, t = 0, all zero but schema 1: count 1, header 00, threshold byte 0, schema '10'+001, no spans '0' '0', t '0', count '0', zero '0',
 * sum 64 zeros. Worked out by hand from the format.
 */
Test(histogram_chunk, bytes_of_a_small_chunk)
{
    static const uint8_t want[] = {0, 1, 0, 0, 0x88, 0, 0, 0, 0, 0, 0, 0, 0, 0};
    struct histogram h = {.schema = 1};
    struct histogram_appender *a = histogram_appender_new(false);
    histogram_append(a, 0, &h);
    cr_assert_eq(bytes_of(a).n, sizeof(want));
    cr_assert_arr_eq(bytes_of(a).p, want, sizeof(want));
    histogram_appender_free(a);
}

/* The layout of a stale first sample is empty, whatever came beside the mark. */
Test(histogram_chunk, a_stale_first_sample_has_an_empty_layout)
{
    for (int f = 0; f < 2; f++) {
        struct histogram *h = positive(&arena, f, BUCKETS({0, 1}, {1, 2}));
        h->sum = stale_nan();
        struct histogram_appender *a = histogram_appender_new(f);
        cr_assert_eq(histogram_append(a, 5, h), HISTOGRAM_APPENDED);
        cr_assert_eq(histogram_append(a, 6, stale(&arena, f)), HISTOGRAM_APPENDED);
        struct chunk_columns c = decode(a);
        cr_assert(c.h[1].n_positive == 0 && c.h[1].schema == 0 && c.h[1].hint == HISTOGRAM_HINT_UNKNOWN);
        cr_assert(is_stale_nan(c.h[0].sum) && is_stale_nan(c.h[1].sum) && c.t[1] == 6);
        histogram_appender_free(a);
    }
}

Test(histogram_chunk, hints_on_read_are_unknown_first_and_not_reset_then)
{
    struct histogram_appender *a = histogram_appender_new(false);
    struct histogram *h = positive(&arena, false, BUCKETS({0, 1}));
    h->hint = HISTOGRAM_HINT_RESET;
    histogram_append(a, 1, h);
    histogram_append(a, 2, positive(&arena, false, BUCKETS({0, 2})));
    histogram_append(a, 3, positive(&arena, false, BUCKETS({0, 3})));
    struct chunk_columns c = decode(a);
    cr_assert_eq(header(a), RESET);
    cr_assert_eq(c.h[0].hint, HISTOGRAM_HINT_UNKNOWN);
    cr_assert_eq(c.h[1].hint, HISTOGRAM_HINT_NOT_RESET);
    cr_assert_eq(c.h[2].hint, HISTOGRAM_HINT_NOT_RESET);
    histogram_appender_free(a);
}

Test(histogram_chunk, zero_thresholds_and_bounds_come_back_bit_for_bit)
{
    static const double thresholds[] = {0, 0.25, 1e-128, 2.938735877055719e-39, 1024, 2048, 0x1p-243, 0x1p-244, 0.3, 1e300};
    static const double bounds[] = {-1, 0, 0.001, 0.005, 0.1, 1.0 / 3, 33554.43, 33554.431, 1e9, 1e300};
    for (int f = 0; f < 2; f++) {
        for (size_t i = 0; i < sizeof(thresholds) / 8; i++) {
            struct histogram_appender *a = histogram_appender_new(f);
            struct histogram *h = positive(&arena, f, BUCKETS({0, 1}));
            h->zero_threshold = thresholds[i];
            histogram_append(a, 1, h);
            cr_assert(same_bits(decode(a).h[0].zero_threshold, thresholds[i]), "%g", thresholds[i]);
            histogram_appender_free(a);
        }
        struct histogram_appender *a = histogram_appender_new(f);
        histogram_append(a, 1, custom(f, 3, bounds, 10));
        struct histogram got = decode(a).h[0];
        cr_assert_eq(got.n_custom_values, 10);
        cr_assert_arr_eq(got.custom_values, bounds, sizeof(bounds));
        histogram_appender_free(a);
    }
}

/* --- cutting --------------------------------------------------------------------------------------------------------------------- */

Test(histogram_chunk, full_by_size_and_time)
{
    struct histogram_appender *a = histogram_appender_new(true);
    struct rnd r = {3};
    double counts[20] = {0};
    int64_t t = 0;
    cr_assert(!histogram_appender_full(a, 0, 7200000));
    while (!histogram_appender_full(a, t, 7200000)) {
        struct bucket b[20];
        for (int i = 0; i < 20; i++) {
            counts[i] += (double)rnd_next(&r) / 1e10;
            b[i] = (struct bucket){i, counts[i]};
        }
        cr_assert_eq(histogram_append(a, t, positive(&arena, true, b, 20)), HISTOGRAM_APPENDED);
        t += 15000;
    }
    /* The end predicted at a quarter of the aimed size had come long before, but a chunk has 10 samples at least. */
    cr_assert_eq(histogram_appender_count(a), 10);
    cr_assert_gt(bytes_of(a).n, 1024);
    /* The end of the range cuts with fewer. */
    struct histogram_appender *b = histogram_appender_new(true);
    histogram_append(b, 1, positive(&arena, true, BUCKETS({0, 1})));
    cr_assert(!histogram_appender_full(b, 7199999, 7200000));
    cr_assert(histogram_appender_full(b, 7200000, 7200000));
    histogram_appender_free(a);
    histogram_appender_free(b);
}
