/* Native histograms: the wire form, the TSDB's checks with its texts, change of resolution. */
#include <criterion/criterion.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>

#include "base/buf.h"
#include "model/histogram.h"
#include "tests/model/wire.h"

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

TestSuite(histogram, .init = setup, .fini = teardown);

/* --- the wire form --------------------------------------------------------------------------------------------------------- */

static const struct histogram_span spans[] = {{-3, 2}, {4, 1}};
static const int64_t deltas[] = {5, -2, 300};
static const double counts[] = {5, 3.5, 303};
static const double bounds[] = {0.5, 1, 2.5};

static struct histogram int_histogram(void)
{
    return (struct histogram){.schema = 3, .hint = HISTOGRAM_HINT_NOT_RESET, .zero_threshold = 0.001, .sum = 12.5, .count_int = 313,
                              .zero_count_int = 2, .positive_spans = spans, .n_positive_spans = 2, .positive_deltas = deltas,
                              .n_positive = 3, .negative_spans = spans, .n_negative_spans = 2, .negative_deltas = deltas, .n_negative = 3};
}

static struct histogram float_histogram(void)
{
    return (struct histogram){.is_float = true, .schema = -4, .hint = HISTOGRAM_HINT_GAUGE, .sum = -1, .count = 311.5, .zero_count = 0.25,
                              .positive_spans = spans, .n_positive_spans = 2, .positive_counts = counts, .n_positive = 3};
}

static struct histogram decode(struct slice msg, int64_t *t)
{
    struct histogram h;
    cr_assert(histogram_decode_proto(msg, &arena, &h, t, &err), "%s", err.text);
    return h;
}

Test(histogram, what_is_encoded_is_decoded)
{
    struct histogram custom = {.schema = HISTOGRAM_CUSTOM_BUCKETS, .custom_values = bounds, .n_custom_values = 3, .sum = -0.0};
    struct histogram stale = {.sum = stale_nan(), .is_float = true};
    struct histogram all[] = {int_histogram(), float_histogram(), custom, stale, {0}};
    static const int64_t times[] = {0, -1, 1700000000000};
    for (size_t i = 0; i < sizeof(all) / sizeof(all[0]); i++) {
        struct buf b = {0};
        int64_t t;
        histogram_encode_proto(&all[i], times[i % 3], &b);
        struct histogram got = decode(buf_slice(&b), &t);
        cr_assert(histogram_eq(&got, &all[i]), "%zu", i);
        cr_assert_eq(t, times[i % 3]);
        buf_release(&b);
    }
}

Test(histogram, bytes_of_the_wire_form)
{
    static const uint8_t want[] = {0x08, 7, 0x19, 0, 0, 0, 0, 0, 0, 0xF8, 0x3F, 0x20, 0x69, 0x30, 0,
                                   0x5A, 4, 0x08, 5, 0x10, 2, 0x62, 3, 4, 0xAC, 0x02, 0x70, 1, 0x78, 9};
    static const struct histogram_span s[] = {{-3, 2}};
    static const int64_t d[] = {2, 150};
    struct histogram h = {.count_int = 7, .sum = 1.5, .schema = -53, .positive_spans = s, .n_positive_spans = 1, .positive_deltas = d,
                          .n_positive = 2, .hint = HISTOGRAM_HINT_RESET};
    struct buf b = {0};
    histogram_encode_proto(&h, 9, &b);
    cr_assert_eq(b.n, sizeof(want));
    cr_assert_arr_eq(b.p, want, sizeof(want));
    buf_release(&b);
}

Test(histogram, the_oneofs_are_written_even_when_zero)
{
    static const uint8_t want_int[] = {0x08, 0, 0x30, 0};
    static const uint8_t want_float[] = {0x11, 0, 0, 0, 0, 0, 0, 0, 0, 0x39, 0, 0, 0, 0, 0, 0, 0, 0};
    struct buf b = {0};
    histogram_encode_proto(&(struct histogram){.is_float = false}, 0, &b);
    cr_assert(slice_eq(buf_slice(&b), slice_make(want_int, sizeof(want_int))));
    buf_clear(&b);
    histogram_encode_proto(&(struct histogram){.is_float = true}, 0, &b);
    cr_assert(slice_eq(buf_slice(&b), slice_make(want_float, sizeof(want_float))));
    buf_release(&b);
}

Test(histogram, repeated_fields_come_packed_or_not_and_in_pieces)
{
    struct buf b = {0};
    int64_t t;
    wire_varint(&b, 12, 4);                                   /* delta 2 */
    wire_bytes(&b, 12, slice_make("\x01\x06", 2));            /* deltas -1, 3 */
    wire_varint(&b, 12, 1);                                   /* -1 */
    wire_double(&b, 16, 0.5);
    wire_bytes(&b, 16, slice_make((double[]){1, 2}, 16));
    wire_bytes(&b, 12, SL(""));
    struct histogram h = decode(buf_slice(&b), &t);
    cr_assert_eq(h.n_positive, 4);
    cr_assert_arr_eq(h.positive_deltas, ((int64_t[]){2, -1, 3, -1}), 32);
    cr_assert_eq(h.n_custom_values, 3);
    cr_assert_arr_eq(h.custom_values, ((double[]){0.5, 1, 2}), 24);
    buf_release(&b);
}

/* Last one wins within a oneof; the zero count of the other form counts as zero, and so do buckets of the other form. */
Test(histogram, the_counts_member_decides_the_form)
{
    struct buf b = {0};
    int64_t t;
    wire_varint(&b, 1, 5);
    wire_varint(&b, 6, 4);
    wire_double(&b, 2, 2.5);
    wire_double(&b, 13, 1.5);
    wire_varint(&b, 12, 8);
    struct histogram h = decode(buf_slice(&b), &t);
    cr_assert(h.is_float && h.count == 2.5 && h.zero_count == 0 && h.n_positive == 1 && h.positive_counts[0] == 1.5);
    wire_varint(&b, 1, 5);
    h = decode(buf_slice(&b), &t);
    cr_assert(!h.is_float && h.count_int == 5 && h.zero_count_int == 4 && h.n_positive == 1 && h.positive_deltas[0] == 4);
    buf_release(&b);
}

Test(histogram, unknown_fields_are_passed_over)
{
    struct buf b = {0};
    int64_t t;
    wire_varint(&b, 17, 12345);
    wire_double(&b, 99, 1);
    wire_str(&b, 1000, "text");
    wire_varint(&b, 15, 77);
    decode(buf_slice(&b), &t);
    cr_assert_eq(t, 77);
    buf_release(&b);
}

static const struct {
    const char *bytes;
    size_t n;
    const char *text;
} malformed[] = {
    {"\x08", 1, "unexpected EOF"},
    {"\x11\0\0\0", 4, "unexpected EOF"},
    {"\x62\x05\x01", 3, "unexpected EOF"},
    {"\x62\x01\x80", 3, "unexpected EOF"},
    {"\x6A\x04\0\0\0\0", 6, "unexpected EOF"},
    {"\x09\0\0\0\0\0\0\0\0", 9, "proto: wrong wireType = 1 for field CountInt"},
    {"\x10\x01", 2, "proto: wrong wireType = 0 for field CountFloat"},
    {"\x5D\0\0\0\0", 5, "proto: wrong wireType = 5 for field PositiveSpans"},
    {"\x68\x01", 2, "proto: wrong wireType = 0 for field PositiveCounts"},
    {"\x5A\x02\x0A\0", 4, "proto: wrong wireType = 2 for field Offset"},
    {"\x5A\x02\x15\0", 4, "proto: wrong wireType = 5 for field Length"},
    {"\x5A\x01\x08", 3, "unexpected EOF"},
    {"\0", 1, "proto: Histogram: illegal tag 0 (wire type 0)"},
    {"\x5A\x01\x04", 3, "proto: BucketSpan: wiretype end group for non-group"},
    {"\x62\xFF\xFF\xFF\xFF\xFF\xFF\xFF\xFF\xFF\x01", 11, "proto: negative length found during unmarshaling"},
    {"\x08\x80\x80\x80\x80\x80\x80\x80\x80\x80\x80\x01", 12, "proto: integer overflow"},
};

Test(histogram, malformed_bytes_are_named)
{
    for (size_t i = 0; i < sizeof(malformed) / sizeof(malformed[0]); i++) {
        struct histogram h;
        int64_t t;
        err = ERR_NONE;
        char *exact = malloc(malformed[i].n);
        memcpy(exact, malformed[i].bytes, malformed[i].n);
        cr_assert(!histogram_decode_proto(slice_make(exact, malformed[i].n), &arena, &h, &t, &err), "%zu", i);
        cr_assert_eq(err.code, ERR_BAD_DATA);
        cr_assert_str_eq(err.text, malformed[i].text);
        free(exact);
    }
}

Test(histogram, cut_anywhere_it_is_no_crash)
{
    struct histogram h = int_histogram(), got;
    struct buf b = {0};
    int64_t t;
    histogram_encode_proto(&h, 1, &b);
    for (size_t n = 0; n < b.n; n++) {
        char *exact = malloc(n + 1);
        memcpy(exact, b.p, n);
        (void)histogram_decode_proto(slice_make(exact, n), &arena, &got, &t, NULL);
        free(exact);
    }
    buf_release(&b);
}

Test(histogram, a_full_arena_is_an_error)
{
    struct arena small;
    struct histogram h = {0}, got;
    static double many[4096];
    struct buf b = {0};
    int64_t t;
    h.custom_values = many;
    h.n_custom_values = 4096;
    histogram_encode_proto(&h, 1, &b);
    arena_init(&small, 4096);
    cr_assert(!histogram_decode_proto(buf_slice(&b), &small, &got, &t, &err));
    cr_assert_eq(err.code, ERR_NO_MEMORY);
    arena_release(&small);
    buf_release(&b);
}

/* --- checks ------------------------------------------------------------------------------------------------------------------- */

static void refused(const struct histogram *h, enum err_code code, const char *text)
{
    err = ERR_NONE;
    cr_assert(!histogram_validate(h, &err), "accepted, not: %s", text);
    cr_assert_str_eq(err.text, text);
    cr_assert_eq(err.code, code, "%s", text);
}

/* A side with its own spans and deltas; compound literals live as long as the caller's block. */
#define SIDE(side, span_count, span_list, count, list)                                                                                     \
    .side##_spans = span_list, .n_##side##_spans = span_count, .side##_deltas = list, .n_##side = count
#define SPANS(...) ((const struct histogram_span[]){__VA_ARGS__})
#define DELTAS(...) ((const int64_t[]){__VA_ARGS__})
#define DOUBLES(...) ((const double[]){__VA_ARGS__})

Test(histogram, good_ones_pass)
{
    struct histogram h = {.schema = 8, .count_int = 5, .zero_count_int = 1, SIDE(positive, 1, SPANS({-9, 2}), 2, DELTAS(1, 0)),
                          SIDE(negative, 2, SPANS({0, 1}, {3, 1}), 2, DELTAS(2, -2))};
    cr_assert(histogram_validate(&h, &err), "%s", err.text);
    h.schema = -4;
    cr_assert(histogram_validate(&h, &err), "%s", err.text);
    h.sum = NAN;
    h.count_int = 9; /* NaN observations are in no bucket */
    cr_assert(histogram_validate(&h, &err), "%s", err.text);
    struct histogram custom = {.schema = HISTOGRAM_CUSTOM_BUCKETS, .count_int = 3, .custom_values = bounds, .n_custom_values = 3,
                               SIDE(positive, 2, SPANS({0, 1}, {1, 2}), 3, DELTAS(1, 0, 0))};
    cr_assert(histogram_validate(&custom, &err), "%s", err.text);
    struct histogram f = float_histogram();
    f.count = 1; /* not compared with the buckets */
    cr_assert(histogram_validate(&f, &err), "%s", err.text);
    struct histogram stale = {.sum = stale_nan()};
    cr_assert(histogram_validate(&stale, &err), "%s", err.text);
    cr_assert(histogram_validate(&stale, NULL));
}

Test(histogram, schemas_out_of_range_are_refused)
{
    static const int32_t bad[] = {9, 20, 52, 53, -5, -52, -54, INT32_MAX, INT32_MIN};
    for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
        struct histogram h = {.schema = bad[i]};
        char want[100];
        snprintf(want, sizeof(want), "received a native histogram sample with an invalid schema: %d", bad[i]);
        refused(&h, ERR_INVALID_NATIVE_HISTOGRAM_SCHEMA, want);
    }
}

Test(histogram, counts_that_do_not_add_up)
{
    struct histogram h = {.count_int = 4, .zero_count_int = 1, SIDE(positive, 1, SPANS({0, 2}), 2, DELTAS(1, 0))};
    refused(&h, ERR_NATIVE_HISTOGRAM_COUNT_MISMATCH,
            "3 observations found in buckets, but the Count field is 4: histogram's observation count should equal the number of "
            "observations found in the buckets (in absence of NaN)");
    h.sum = NAN;
    h.count_int = 2;
    refused(&h, ERR_NATIVE_HISTOGRAM_COUNT_NOT_BIG_ENOUGH,
            "3 observations found in buckets, but the Count field is 2: histogram's observation count should be at least the number of "
            "observations found in the buckets");
}

Test(histogram, negative_buckets)
{
    struct histogram h = {SIDE(positive, 1, SPANS({0, 2}), 2, DELTAS(1, -2))};
    refused(&h, ERR_NATIVE_HISTOGRAM_NEGATIVE_BUCKET_COUNT,
            "positive side: bucket number 2 has observation count of -1: histogram has a bucket whose observation count is negative");
    struct histogram n = {SIDE(negative, 1, SPANS({0, 1}), 1, DELTAS(-7))};
    refused(&n, ERR_NATIVE_HISTOGRAM_NEGATIVE_BUCKET_COUNT,
            "negative side: bucket number 1 has observation count of -7: histogram has a bucket whose observation count is negative");
    struct histogram f = {.is_float = true, .positive_spans = SPANS({0, 1}), .n_positive_spans = 1, .positive_counts = DOUBLES(-0.5),
                          .n_positive = 1};
    refused(&f, ERR_NATIVE_HISTOGRAM_NEGATIVE_BUCKET_COUNT,
            "positive side: bucket number 1 has observation count of -0.5: histogram has a bucket whose observation count is negative");
}

Test(histogram, spans_with_negative_gaps)
{
    struct histogram h = {SIDE(positive, 2, SPANS({-5, 1}, {-1, 1}), 2, DELTAS(0, 0))};
    refused(&h, ERR_NATIVE_HISTOGRAM_SPAN_NEGATIVE_OFFSET,
            "positive side: span number 2 with offset -1: histogram has a span whose offset is negative");
}

Test(histogram, spans_that_do_not_match_the_buckets)
{
    struct histogram h = {SIDE(positive, 1, SPANS({0, 3}), 2, DELTAS(0, 0))};
    refused(&h, ERR_NATIVE_HISTOGRAM_SPANS_BUCKETS_MISMATCH,
            "positive side: spans need 3 buckets, have 2 buckets: histogram spans specify different number of buckets than provided");
    struct histogram n = {SIDE(negative, 3, SPANS({0, UINT32_MAX}, {0, UINT32_MAX}, {0, 2}), 0, NULL)};
    refused(&n, ERR_NATIVE_HISTOGRAM_SPANS_BUCKETS_MISMATCH,
            "negative side: spans need 8589934592 buckets, have 0 buckets: histogram spans specify different number of buckets than "
            "provided");
}

static struct histogram custom(const double *b, uint32_t n)
{
    return (struct histogram){.schema = HISTOGRAM_CUSTOM_BUCKETS, .custom_values = b, .n_custom_values = n};
}

Test(histogram, custom_bounds)
{
    struct histogram h = custom(DOUBLES(2, 1), 2);
    refused(&h, ERR_NATIVE_HISTOGRAM_CUSTOM_BUCKETS_INVALID,
            "custom buckets: previous bound is 2.000000 and current is 1.000000: histogram custom bounds must be in strictly increasing order");
    h = custom(DOUBLES(-INFINITY, 1), 2);
    refused(&h, ERR_NATIVE_HISTOGRAM_CUSTOM_BUCKETS_INVALID,
            "custom buckets: previous bound is -Inf and current is -Inf: histogram custom bounds must be in strictly increasing order");
    h = custom(DOUBLES(1, INFINITY), 2);
    refused(&h, ERR_NATIVE_HISTOGRAM_CUSTOM_BUCKETS_INFINITE,
            "custom buckets: last +Inf bound must not be explicitly defined: histogram custom bounds must be finite");
    h = custom(DOUBLES(1, NAN), 2);
    refused(&h, ERR_NATIVE_HISTOGRAM_CUSTOM_BUCKETS_INVALID, "custom buckets: histogram custom bounds must not be NaN");
    h = custom(DOUBLES(1, 2), 2);
    h.positive_spans = SPANS({1, 2}, {0, 2});
    h.n_positive_spans = 2;
    h.positive_deltas = DELTAS(0, 0, 0, 0);
    h.n_positive = 4;
    refused(&h, ERR_NATIVE_HISTOGRAM_CUSTOM_BUCKETS_MISMATCH,
            "custom buckets: only 2 custom bounds defined which is insufficient to cover total span length of 5: histogram custom bounds are "
            "too few");
    h.positive_spans = SPANS({-1, 4});
    h.n_positive_spans = 1;
    refused(&h, ERR_NATIVE_HISTOGRAM_SPAN_NEGATIVE_OFFSET,
            "custom buckets: span number 1 with offset -1: histogram has a span whose offset is negative");
}

/* Upstream answers 500 to these, and its reader stops for ever at such a record. They are mistakes of the client like any other. */
Test(histogram, what_must_not_come_with_custom_buckets)
{
    struct histogram h = custom(bounds, 3);
    h.zero_count_int = 1;
    refused(&h, ERR_BAD_DATA, "custom buckets: must have zero count of 0");
    h.zero_count_int = 0;
    h.zero_threshold = 0.1;
    refused(&h, ERR_BAD_DATA, "custom buckets: must have zero threshold of 0");
    h.zero_threshold = 0;
    h.negative_spans = SPANS({0, 1});
    h.n_negative_spans = 1;
    refused(&h, ERR_BAD_DATA, "custom buckets: must not have negative spans");
    h.n_negative_spans = 0;
    h.negative_deltas = DELTAS(1);
    h.n_negative = 1;
    refused(&h, ERR_BAD_DATA, "custom buckets: must not have negative buckets");
    struct histogram e = {.schema = 0, .custom_values = bounds, .n_custom_values = 3};
    refused(&e, ERR_BAD_DATA, "histogram with exponential schema must not have custom bounds");
}

/* --- resolution ------------------------------------------------------------------------------------------------------------------ */

/* Buckets 2i-1 and 2i become bucket i: -3 -2 | -1 0 | 1 2 | 3 4. */
Test(histogram, reduced_by_one_schema_pairs_of_buckets_become_one)
{
    struct histogram h = {.schema = 2, .count_int = 21, SIDE(positive, 2, SPANS({-2, 4}, {1, 2}), 6, DELTAS(1, 1, 1, 1, 1, 1)),
                          SIDE(negative, 1, SPANS({5, 1}), 1, DELTAS(4))};
    struct histogram r;
    cr_assert(histogram_reduce(&h, 1, &arena, &r));
    cr_assert_eq(r.schema, 1);
    /* indexes -2 -1 0 1 | 3 4 with counts 1 2 3 4 | 5 6: into -1: 1, 0: 2+3, 1: 4, 2: 5+6 */
    cr_assert_eq(r.n_positive_spans, 1);
    cr_assert(r.positive_spans[0].offset == -1 && r.positive_spans[0].length == 4);
    cr_assert_arr_eq(r.positive_deltas, ((int64_t[]){1, 4, -1, 7}), 32);
    cr_assert(r.n_negative == 1 && r.negative_spans[0].offset == 3 && r.negative_deltas[0] == 4);
    struct histogram *f = histogram_to_float(&h, &arena), g;
    cr_assert(histogram_reduce(f, 1, &arena, &g));
    cr_assert_arr_eq(g.positive_counts, ((double[]){1, 5, 4, 11}), 32);
}

Test(histogram, reduced_at_once_or_step_by_step_is_the_same)
{
    static const struct histogram_span s[] = {{-40, 7}, {0, 1}, {9, 20}, {100, 3}};
    int64_t d[31];
    for (int i = 0; i < 31; i++)
        d[i] = (i * 7) % 5 - (i ? 1 : 0);
    struct histogram h = {.schema = 8, .positive_spans = s, .n_positive_spans = 4, .positive_deltas = d, .n_positive = 31};
    struct histogram steps = h, once;
    for (int32_t to = 7; to >= -4; to--) {
        struct histogram next;
        cr_assert(histogram_reduce(&steps, to, &arena, &next));
        steps = next;
        cr_assert(histogram_reduce(&h, to, &arena, &once));
        cr_assert(histogram_eq(&steps, &once), "%d", to);
    }
    cr_assert(histogram_reduce(&h, 8, &arena, &once));
    cr_assert_eq(once.n_positive, 31);
}

Test(histogram, what_cannot_be_reduced)
{
    struct histogram h = {.schema = 0}, r;
    cr_assert(!histogram_reduce(&h, 1, &arena, &r));
    cr_assert(!histogram_reduce(&h, -5, &arena, &r));
    h.schema = HISTOGRAM_CUSTOM_BUCKETS;
    cr_assert(!histogram_reduce(&h, -54, &arena, &r));
    struct histogram wrong = {.schema = 1, SIDE(positive, 1, SPANS({0, 3}), 2, DELTAS(1, 1))};
    cr_assert(!histogram_reduce(&wrong, 0, &arena, &r));
}

/* --- copies ------------------------------------------------------------------------------------------------------------------------ */

Test(histogram, the_float_form_has_absolute_counts)
{
    struct histogram h = int_histogram();
    struct histogram *f = histogram_to_float(&h, &arena);
    cr_assert(f->is_float && f->count == 313 && f->zero_count == 2 && f->sum == 12.5 && f->hint == HISTOGRAM_HINT_NOT_RESET);
    cr_assert_arr_eq(f->positive_counts, ((double[]){5, 3, 303}), 24);
    cr_assert_arr_eq(f->negative_counts, ((double[]){5, 3, 303}), 24);
    struct histogram *same = histogram_to_float(f, &arena);
    cr_assert(same != f && histogram_eq(same, f));
}

Test(histogram, a_copy_is_equal_and_its_own)
{
    struct histogram h = int_histogram();
    struct histogram *d = histogram_dup(&h, &arena);
    cr_assert(histogram_eq(d, &h));
    cr_assert(d->positive_spans != h.positive_spans && d->positive_deltas != h.positive_deltas);
    struct histogram empty = {0};
    cr_assert(histogram_eq(histogram_dup(&empty, &arena), &empty));
    struct arena small;
    arena_init(&small, 64);
    cr_assert_null(histogram_dup(&h, &small));
    cr_assert_null(histogram_to_float(&h, &small));
    arena_release(&small);
}

Test(histogram, equality_is_of_bits)
{
    struct histogram a = int_histogram(), b = a;
    b.sum = a.sum = 0.0;
    b.sum = -0.0;
    cr_assert(!histogram_eq(&a, &b));
    a.sum = b.sum = NAN;
    cr_assert(histogram_eq(&a, &b));
    b.sum = stale_nan();
    cr_assert(!histogram_eq(&a, &b));
    b = a;
    b.hint = HISTOGRAM_HINT_GAUGE;
    cr_assert(!histogram_eq(&a, &b));
    b = a;
    b.n_positive = 2;
    cr_assert(!histogram_eq(&a, &b));
    cr_assert(is_stale_nan(stale_nan()) && !is_stale_nan(NAN));
}
