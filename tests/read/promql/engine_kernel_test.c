/* Kernels of the engine: numbers and native histograms. */
#include <criterion/criterion.h>

#include "read/promql/kernel_int.h"

#define NEAR(a, b) cr_assert(fabs((double)(a) - (double)(b)) <= 1e-12 * (1 + fabs((double)(b))), "%.17g is not %.17g", (double)(a), (double)(b))

Test(kernel, compensated_sum_keeps_small_values_beside_large_ones)
{
    double v[] = {1, 1e100, 1, -1e100}, sum = 0, comp = 0;
    for (size_t i = 0; i < 4; i++)
        kahan_add(v[i], &sum, &comp);
    cr_assert_eq(sum + comp, 2);
}

Test(kernel, mean_survives_a_sum_that_overflows)
{
    struct mean m;
    mean_init(&m, 1.7e308);
    mean_add(&m, 1.7e308);
    mean_add(&m, 1.7e308);
    NEAR(mean_result(&m) / 1.7e308, 1);
}

Test(kernel, mean_of_infinities_keeps_their_sign)
{
    struct mean m;
    mean_init(&m, INFINITY);
    mean_add(&m, 3);
    mean_add(&m, INFINITY);
    cr_assert_eq(mean_result(&m), INFINITY);
}

Test(kernel, quantile_interpolates_and_takes_nan_for_the_smallest)
{
    static const struct {
        double q, v[4];
        size_t n;
        double want;
    } cases[] = {
        {0.5, {0, 1}, 2, 0.5}, {0.8, {1, 4, 0}, 3, 2.8}, {0.8, {0, 1, NAN}, 3, 0.6}, {-0.1, {1}, 1, -INFINITY}, {1.1, {1}, 1, INFINITY},
    };
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        double v[4];
        memcpy(v, cases[i].v, sizeof(v));
        double got = quantile_of(cases[i].q, v, cases[i].n);
        cr_assert(got == cases[i].want || fabs(got - cases[i].want) < 1e-12, "case %zu: %g", i, got);
    }
}

Test(kernel, rate_extrapolates_half_a_distance_past_a_gap)
{
    /* Samples every 10 s from 100 s to 140 s, range (0, 150]: full to the right, half a distance to the left. */
    struct rate_window w = {.start_t = 0, .end_t = 150000, .first_t = 100000, .last_t = 140000, .n = 5, .first = 1000, .delta = 40};
    NEAR(rate_factor(&w), (40.0 + 5 + 10) / 40);
}

Test(kernel, rate_of_a_counter_does_not_go_below_zero)
{
    struct rate_window w = {.start_t = 0, .end_t = 50000, .first_t = 10000, .last_t = 50000, .n = 5, .first = 4, .delta = 40, .counter = true};
    NEAR(rate_factor(&w), (40.0 + 4) / 40); /* it was 0 four seconds before the first sample */
}

Test(kernel, regression_finds_slope_and_intercept)
{
    int64_t t[] = {0, 10000, 20000, 30000};
    double v[] = {1, 3, 5, 7}, slope, intercept;
    linear_regression(t, v, 4, 10000, &slope, &intercept);
    NEAR(slope, 0.2);
    NEAR(intercept, 3);
}

Test(kernel, dates_hold_before_the_epoch_and_in_leap_years)
{
    static const struct {
        int64_t s;
        int year, month, day, weekday, yearday, hour, minute, days;
    } cases[] = {
        {0, 1970, 1, 1, 4, 1, 0, 0, 31},
        {-1, 1969, 12, 31, 3, 365, 23, 59, 31},
        {951825600, 2000, 2, 29, 2, 60, 12, 0, 29},
        {1483191420, 2016, 12, 31, 6, 366, 13, 37, 31},
        {4107542400, 2100, 3, 1, 1, 60, 0, 0, 31},
    };
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        struct date_parts d;
        date_parts_of(cases[i].s, &d);
        cr_assert(d.year == cases[i].year && d.month == cases[i].month && d.day == cases[i].day && d.weekday == cases[i].weekday &&
                      d.yearday == cases[i].yearday && d.hour == cases[i].hour && d.minute == cases[i].minute && d.days_in_month == cases[i].days,
                  "%lld: %ld-%d-%d weekday %d day %d %d:%d of %d", (long long)cases[i].s, d.year, d.month, d.day, d.weekday, d.yearday, d.hour,
                  d.minute, d.days_in_month);
    }
}

Test(kernel, classic_quantile_raises_counts_that_fall_and_says_so)
{
    struct bucket b[] = {{0.1, 20}, {1, 10}, {10, 50}, {INFINITY, 50}};
    struct bucket_fix fix = {0};
    NEAR(bucket_quantile(0.2, b, 4, &fix), 0.05);
    cr_assert(fix.forced);
    struct bucket rounding[] = {{1, 10}, {2, 10 - 1e-13}, {INFINITY, 20}};
    fix.forced = false;
    bucket_quantile(0.5, rounding, 3, &fix);
    cr_assert_not(fix.forced);
}

static struct fhist *hist(struct arena *a, int32_t schema, int32_t first, size_t n, const double *counts)
{
    struct fhist *h = ARENA_NEW(a, struct fhist);
    h->schema = schema;
    h->pos.idx = ARENA_ARRAY(a, int32_t, n);
    h->pos.c = ARENA_ARRAY(a, double, n);
    for (size_t i = 0; i < n; i++) {
        h->pos.idx[i] = first + (int32_t)i;
        h->pos.c[i] = counts[i];
        h->count += counts[i];
    }
    h->pos.n = (uint32_t)n;
    return h;
}

Test(kernel, histograms_of_two_resolutions_add_in_the_coarser_one)
{
    struct arena a;
    arena_init(&a, 0);
    struct fhist *fine = hist(&a, 1, -1, 4, (double[]){1, 2, 3, 4}), *coarse = hist(&a, 0, 0, 2, (double[]){10, 20}), *sum;
    unsigned notes = 0;
    cr_assert_eq(fhist_add(fine, coarse, 1, &a, &sum, &notes), FHIST_OK);
    cr_assert_eq(sum->schema, 0);
    cr_assert_eq(sum->pos.n, 2); /* -1 and 0 fall together, 1 and 2 too */
    cr_assert(sum->pos.c[0] == 13 && sum->pos.c[1] == 27);
    arena_release(&a);
}

Test(kernel, a_zero_bucket_never_ends_inside_a_populated_bucket)
{
    struct arena a;
    arena_init(&a, 0);
    struct fhist *wide = hist(&a, 0, 5, 1, (double[]){1}), *narrow = hist(&a, 0, 0, 2, (double[]){3, 4}), *sum;
    wide->zero_threshold = 0.7; /* inside (0.5, 1], which narrow has filled */
    wide->zero_count = 2;
    unsigned notes = 0;
    cr_assert_eq(fhist_add(wide, narrow, 1, &a, &sum, &notes), FHIST_OK);
    cr_assert_eq(sum->zero_threshold, 1);
    cr_assert_eq(sum->zero_count, 5);
    cr_assert_eq(sum->pos.n, 2);
    arena_release(&a);
}

Test(kernel, custom_buckets_meet_at_the_bounds_both_have)
{
    struct arena a;
    arena_init(&a, 0);
    static const double lb[] = {2, 4, 6}, rb[] = {1, 2, 3, 4, 5};
    struct fhist *l = hist(&a, HISTOGRAM_CUSTOM_BUCKETS, 0, 4, (double[]){1, 2, 3, 4});
    struct fhist *r = hist(&a, HISTOGRAM_CUSTOM_BUCKETS, 0, 6, (double[]){1, 1, 1, 1, 1, 1}), *sum;
    l->custom = lb, l->n_custom = 3, r->custom = rb, r->n_custom = 5;
    unsigned notes = 0;
    cr_assert_eq(fhist_add(l, r, 1, &a, &sum, &notes), FHIST_OK);
    cr_assert(notes & FHIST_MISMATCHED_BOUNDS);
    cr_assert_eq(sum->n_custom, 2);
    cr_assert(sum->pos.n == 3 && sum->pos.c[0] == 3 && sum->pos.c[1] == 4 && sum->pos.c[2] == 9);
    arena_release(&a);
}

Test(kernel, resets_are_seen_in_single_buckets)
{
    struct arena a;
    arena_init(&a, 0);
    struct fhist *prev = hist(&a, 0, 0, 3, (double[]){1, 2, 1}), *cur = hist(&a, 0, 0, 3, (double[]){1, 1, 3});
    cr_assert(fhist_is_reset(cur, prev, &a));
    cr_assert_not(fhist_is_reset(prev, prev, &a));
    cur->hint = HISTOGRAM_HINT_NOT_RESET;
    cr_assert_not(fhist_is_reset(cur, prev, &a));
    arena_release(&a);
}

Test(kernel, accumulator_takes_buckets_in_any_order)
{
    struct arena a;
    arena_init(&a, 0);
    struct hacc acc = {0};
    unsigned notes = 0;
    cr_assert(hacc_init(&acc, false, hist(&a, 0, 5, 2, (double[]){1, 2}), &a));
    cr_assert_eq(hacc_add(&acc, hist(&a, 0, -3, 2, (double[]){3, 4}), &a, &a, &notes), FHIST_OK);
    cr_assert_eq(hacc_add(&acc, hist(&a, 0, -2, 9, (double[]){1, 1, 1, 1, 1, 1, 1, 1, 1}), &a, &a, &notes), FHIST_OK);
    struct fhist *sum = hacc_result(&acc, &a);
    static const double want[] = {3, 5, 1, 1, 1, 1, 1, 1, 2, 3};
    cr_assert_eq(sum->pos.n, 10);
    for (uint32_t i = 0; i < 10; i++)
        cr_assert(sum->pos.idx[i] == (int32_t)i - 3 && sum->pos.c[i] == want[i], "bucket %u", i);
    arena_release(&a);
}

Test(kernel, round_trip_through_spans)
{
    struct arena a;
    arena_init(&a, 0);
    struct fhist *h = hist(&a, 2, -4, 6, (double[]){1, 2, 0.5, 4, 5, 6});
    h->pos.idx[4] = 100, h->pos.idx[5] = 102;
    struct fhist *back = fhist_from(fhist_to_histogram(h, &a), &a);
    cr_assert(fhist_eq(h, back));
    arena_release(&a);
}
