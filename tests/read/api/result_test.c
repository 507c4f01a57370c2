#include <criterion/criterion.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "read/api/api_int.h"

static struct buf out;

static void setup(void)
{
    buf_init(&out, 0);
}

static void teardown(void)
{
    buf_release(&out);
}

TestSuite(api_result, .init = setup, .fini = teardown);

static const struct histogram_span two = {0, 2};

/* The form of docs/mimir-http.md 3.4; the empty bucket is left out. */
Test(api_result, histograms_as_mimir_shows_them)
{
    static const double negative[] = {0, 1};
    static const double positive[] = {2, 2};
    struct histogram h = {.schema = 0,
                          .is_float = true,
                          .zero_threshold = 0.001,
                          .zero_count = 1,
                          .count = 6,
                          .sum = 10.5,
                          .positive_spans = &two,
                          .n_positive_spans = 1,
                          .positive_counts = positive,
                          .n_positive = 2,
                          .negative_spans = &two,
                          .n_negative_spans = 1,
                          .negative_counts = negative,
                          .n_negative = 2};
    put_histogram(&out, &h);
    cr_assert_str_eq(buf_cstr(&out), "{\"count\":\"6\",\"sum\":\"10.5\",\"buckets\":[[1,\"-2\",\"-1\",\"1\"],[3,\"-0.001\",\"0.001\",\"1\"],"
                                     "[0,\"0.5\",\"1\",\"2\"],[0,\"1\",\"2\",\"2\"]]}");
}

Test(api_result, spans_with_gaps_from_the_most_negative_up)
{
    static const struct histogram_span spans[] = {{-1, 1}, {2, 2}};
    static const double counts[] = {1, 2, 3};
    struct histogram h = {.schema = 1, .is_float = true, .count = 6, .sum = NAN, .negative_spans = spans, .n_negative_spans = 2, .negative_counts = counts, .n_negative = 3};
    put_histogram(&out, &h);
    cr_assert_str_eq(buf_cstr(&out), "{\"count\":\"6\",\"sum\":\"NaN\",\"buckets\":[[1,\"-2.82842712474619\",\"-2\",\"3\"],[1,\"-2\",\"-1.414213562373095\","
                                     "\"2\"],[1,\"-0.7071067811865475\",\"-0.5\",\"1\"]]}");
}

Test(api_result, custom_buckets_and_none_at_all)
{
    static const double bounds[] = {1, 5};
    static const struct histogram_span span = {0, 3};
    static const double counts[] = {4, 0, 2};
    struct histogram h = {.schema = HISTOGRAM_CUSTOM_BUCKETS,
                          .is_float = true,
                          .count = 6,
                          .sum = 20,
                          .custom_values = bounds,
                          .n_custom_values = 2,
                          .positive_spans = &span,
                          .n_positive_spans = 1,
                          .positive_counts = counts,
                          .n_positive = 3};
    put_histogram(&out, &h);
    cr_assert_str_eq(buf_cstr(&out), "{\"count\":\"6\",\"sum\":\"20\",\"buckets\":[[3,\"-Inf\",\"1\",\"4\"],[0,\"5\",\"+Inf\",\"2\"]]}");
    buf_clear(&out);
    struct histogram none = {.is_float = true};
    put_histogram(&out, &none);
    cr_assert_str_eq(buf_cstr(&out), "{\"count\":\"0\",\"sum\":\"0\"}");
}

Test(api_result, matrix_of_floats_and_histograms)
{
    static const int64_t t[] = {-1500, 0, 1000, 2000, 2345};
    static const double v[] = {1, -0.0, INFINITY, 0.1, 7};
    struct histogram h = {.is_float = true, .count = 1};
    const struct histogram *hs[] = {NULL, NULL, &h, NULL, NULL};
    struct label label = {SL("a\"\\\n"), SL("<&>\xc3\xa9\x01")};
    struct result_series series[] = {{{&label, 1}, t, v, hs, 5}, {{NULL, 0}, t + 1, v + 1, NULL, 3}};
    struct engine_result r = {.type = VALUE_MATRIX, .series = series, .n_series = 2};
    struct engine_query q = {.start_ms = 0, .end_ms = 3000, .step_ms = 1000};
    put_result(&out, &r, &q);
    cr_assert_str_eq(buf_cstr(&out),
                     "{\"status\":\"success\",\"data\":{\"resultType\":\"matrix\",\"result\":[{\"metric\":{\"a\\\"\\\\\\n\":\"<&>\xc3\xa9\\u0001\"},\"values\":[[-1."
                     "500,\"1\"],[0,\"-0\"],[2,\"0.1\"],[2.345,\"7\"]],\"histograms\":[[1,{\"count\":\"1\",\"sum\":\"0\"}]]},{\"metric\":{},\"values\":[[0,\"-0\"],[1,"
                     "\"+Inf\"],[2,\"0.1\"]]}]");
}

Test(api_result, times_of_all_forms)
{
    static const struct {
        const char *text;
        int64_t ms;
    } good[] = {
        {"0", 0},
        {"1435781430.781", 1435781430781},
        {"-1.5", -1500},
        {"1e3", 1000000},
        {"2015-07-01T20:10:30Z", 1435781430000},
        {"2015-07-01T20:10:30.7819Z", 1435781430781},
        {"2015-07-01T22:10:30.5+02:00", 1435781430500},
        {"2016-02-29T23:59:59-01:30", 1456795799000},
        {"-292273086-05-16T16:47:06Z", INT64_MIN},
        {"292277025-08-18T07:12:54.999999999Z", INT64_MAX},
    };
    static const char *const bad[] = {"", "foo", "1e30", "NaN", "Inf", "2015-07-01", "2015-07-01T20:10:30", "2015-13-01T20:10:30Z", "2015-02-29T20:10:30Z",
                                      "2015-07-01T24:10:30Z", "2015-07-01T20:10:30.Z", "2015-07-01T20:10:30Zx", "2015-07-01t20:10:30Z"};
    int64_t ms;
    for (size_t i = 0; i < sizeof(good) / sizeof(*good); i++)
        cr_expect(parse_time(slice_of(good[i].text), &ms, NULL) && ms == good[i].ms, "%s: %ld", good[i].text, (long)ms);
    for (size_t i = 0; i < sizeof(bad) / sizeof(*bad); i++)
        cr_expect_not(parse_time(slice_of(bad[i]), &ms, NULL), "%s", bad[i]);
}

Test(api_result, durations_of_all_forms)
{
    int64_t ms;
    cr_assert(parse_duration(SL("1.5"), &ms, NULL) && ms == 1500);
    cr_assert(parse_duration(SL("1h30m"), &ms, NULL) && ms == 5400000);
    cr_assert(parse_duration(SL("-1"), &ms, NULL) && ms == -1000);
    cr_assert_not(parse_duration(SL("1x"), &ms, NULL));
    cr_assert_not(parse_duration(SL("NaN"), &ms, NULL));
    cr_assert_not(parse_duration(SL(""), &ms, NULL));
}
