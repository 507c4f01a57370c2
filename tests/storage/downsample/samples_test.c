/*
 * What aggregates say is what the raw samples say: for ranges whose ends are multiples of the resolution, of aggregates of raw samples, of aggregates made
 * again, and of a series that is cut into two blocks in the middle of a window.
 */
#include <criterion/criterion.h>
#include <math.h>
#include <string.h>

#include "storage/downsample/downsample.h"
#include "tests/storage/chunk/random.h"

#define R5 INT64_C(300000)
#define R60 INT64_C(3600000)
#define SAMPLES_MAX 3000

static struct arena arena;

static void begin(void)
{
    arena_init(&arena, 0);
}

static void end(void)
{
    arena_release(&arena);
}

/* --- the naive answers: each sample of the range looked at ------------------------------------------------------------------------- */

struct answer {
    size_t n;
    double sum, sum_abs, min, max, increase;
    int64_t first_t, last_t;
    double first, last;
    size_t resets;
};

static double correction(const double *v, size_t i)
{
    return v[i] < v[i - 1] ? v[i - 1] : 0;
}

/* Of (from, to], as PromQL's functions over ranges have it. */
static struct answer answer_of(const struct downsample_column *c, int64_t from, int64_t to)
{
    struct answer a = {0};
    size_t lo = 0, hi = 0;
    while (lo < c->n && c->t[lo] <= from)
        lo++;
    for (hi = lo; hi < c->n && c->t[hi] <= to; hi++)
        ;
    if (lo == hi)
        return a;
    long double sum = 0;
    a.min = a.max = c->v[lo];
    for (size_t i = lo; i < hi; i++) {
        sum += c->v[i];
        a.sum_abs += fabs(c->v[i]);
        if (isnan(a.min) || c->v[i] < a.min)
            a.min = c->v[i];
        if (isnan(a.max) || c->v[i] > a.max)
            a.max = c->v[i];
    }
    a.n = hi - lo;
    a.sum = (double)sum;
    a.first_t = c->t[lo];
    a.last_t = c->t[hi - 1];
    a.first = c->v[lo];
    a.last = c->v[hi - 1];
    a.increase = a.last - a.first;
    for (size_t i = lo + 1; i < hi; i++) {
        a.increase += correction(c->v, i);
        a.resets += c->v[i] < c->v[i - 1];
    }
    return a;
}

static bool same_bits(double x, double y)
{
    return memcmp(&x, &y, 8) == 0 || (isnan(x) && isnan(y));
}

struct aggregated {
    struct downsample_column of[DOWNSAMPLE_AGGREGATES];
};

static struct aggregated aggregate(const struct downsample_column *raw, int64_t resolution_ms)
{
    struct aggregated g;
    for (unsigned a = 0; a < DOWNSAMPLE_AGGREGATES; a++)
        cr_assert(downsample_column(a, false, resolution_ms, raw, &arena, &g.of[a]));
    return g;
}

static struct aggregated aggregate_again(const struct aggregated *fine, int64_t resolution_ms)
{
    struct aggregated g;
    for (unsigned a = 0; a < DOWNSAMPLE_AGGREGATES; a++)
        cr_assert(downsample_column(a, true, resolution_ms, &fine->of[a], &arena, &g.of[a]));
    return g;
}

static struct downsample_column concat(const struct downsample_column *x, const struct downsample_column *y)
{
    int64_t *t = ARENA_ARRAY(&arena, int64_t, x->n + y->n + 1);
    double *v = ARENA_ARRAY(&arena, double, x->n + y->n + 1);
    memcpy(t, x->t, x->n * 8);
    memcpy(v, x->v, x->n * 8);
    memcpy(t + x->n, y->t, y->n * 8);
    memcpy(v + x->n, y->v, y->n * 8);
    return (struct downsample_column){x->n + y->n, t, v};
}

/* Every range with ends that are multiples of step over the column, of a few lengths. */
static void compare(const struct downsample_column *raw, const struct aggregated *g, int64_t step, const char *what)
{
    int64_t first = raw->t[0] / step * step - step, last = raw->t[raw->n - 1] + 2 * step;
    for (int64_t range = step; range <= 12 * step; range = range * 2 + step)
        for (int64_t to = first; to <= last; to += step) {
            struct answer want = answer_of(raw, to - range, to);
            struct answer count = answer_of(&g->of[DOWNSAMPLE_COUNT], to - range, to);
            struct answer sum = answer_of(&g->of[DOWNSAMPLE_SUM], to - range, to);
            struct answer min = answer_of(&g->of[DOWNSAMPLE_MIN], to - range, to), max = answer_of(&g->of[DOWNSAMPLE_MAX], to - range, to);
            struct answer counter = answer_of(&g->of[DOWNSAMPLE_COUNTER], to - range, to);
            cr_assert_eq((size_t)count.sum, want.n, "%s: count", what);
            cr_assert(same_bits(min.min, want.min) && same_bits(max.max, want.max), "%s: min, max", what);
            cr_assert(same_bits(counter.first, want.first) && same_bits(counter.last, want.last) && counter.first_t == want.first_t &&
                          counter.last_t == want.last_t && same_bits(counter.increase, want.increase) && counter.resets == want.resets,
                      "%s: counter %.17g %.17g", what, counter.increase, want.increase);
            cr_assert(want.n == 0 || count.last_t == want.last_t, "%s: the time of the last sample", what);
            if (!isfinite(want.sum_abs) || want.n == 0)
                continue;
            cr_assert(fabs(sum.sum - want.sum) <= 0x1p-51 * want.sum_abs, "%s: sum %.17g %.17g", what, sum.sum, want.sum);
            cr_assert(fabs(sum.sum / count.sum - want.sum / (double)want.n) <= 0x1p-50 * want.sum_abs / (double)want.n, "%s: mean", what);
        }
}

/* --- series ----------------------------------------------------------------------------------------------------------------------- */

enum kind { COUNTER, COUNTER_WITH_RESETS, GAUGE, WHOLE_NUMBERS, ANYTHING, ON_THE_MINUTE, KINDS };

static double value_of(struct rnd *r, enum kind kind, double before)
{
    double v;
    switch (kind) {
    case COUNTER:
    case ON_THE_MINUTE: return before + (double)rnd_below(r, 1000) / 7;
    case COUNTER_WITH_RESETS: return rnd_below(r, 20) ? before + (double)rnd_below(r, 1000) / 7 : (double)rnd_below(r, 10);
    case GAUGE: return (double)rnd_below(r, 1000000) / 1e3 - 500;
    case WHOLE_NUMBERS: return (double)rnd_below(r, 1000) - 500;
    case ANYTHING:
    case KINDS: break;
    }
    do
        v = rnd_double(r, before);
    while (is_stale_nan(v));
    return v;
}

/* Gaps, samples at the very ends of windows, some a millisecond apart; times before 1970 too. */
static struct downsample_column random_series(struct rnd *r, enum kind kind)
{
    size_t n = 1 + rnd_below(r, SAMPLES_MAX);
    int64_t *t = ARENA_ARRAY(&arena, int64_t, n);
    double *v = ARENA_ARRAY(&arena, double, n);
    int64_t at = (int64_t)rnd_below(r, 10 * R60) - 5 * R60;
    double before = 0;
    for (size_t i = 0; i < n; i++) {
        switch (kind == ON_THE_MINUTE ? 99 : rnd_below(r, 12)) {
        case 99: at = (at / 60000 + 1) * 60000; break;
        case 0: at += 1; break;
        case 1: at += (int64_t)rnd_below(r, 3 * R60); break;
        case 2: at = (at / R5 + 1) * R5; break;
        default: at += 15000; break;
        }
        t[i] = at;
        v[i] = before = value_of(r, kind, before);
    }
    return (struct downsample_column){n, t, v};
}

Test(downsample, aggregates_answer_as_the_raw_samples_do_over_whole_windows, .init = begin, .fini = end)
{
    struct rnd r = {7};
    for (int round = 0; round < 120; round++) {
        enum kind kind = (enum kind)(round % KINDS);
        arena_clear(&arena);
        struct downsample_column raw = random_series(&r, kind);
        struct aggregated fine = aggregate(&raw, R5), coarse = aggregate(&raw, R60), again = aggregate_again(&fine, R60);
        compare(&raw, &fine, R5, "5m");
        compare(&raw, &coarse, R60, "1h");
        compare(&raw, &again, R60, "1h of 5m");
    }
}

Test(downsample, a_series_may_be_cut_into_blocks_anywhere, .init = begin, .fini = end)
{
    struct rnd r = {11};
    for (int round = 0; round < 120; round++) {
        arena_clear(&arena);
        struct downsample_column raw = random_series(&r, (enum kind)(round % KINDS));
        size_t cut = rnd_below(&r, raw.n + 1);
        struct downsample_column left = {cut, raw.t, raw.v}, right = {raw.n - cut, raw.t + cut, raw.v + cut};
        struct aggregated a = aggregate(&left, R5), b = aggregate(&right, R5), both;
        struct aggregated a60 = aggregate_again(&a, R60), b60 = aggregate_again(&b, R60), both60;
        for (unsigned k = 0; k < DOWNSAMPLE_AGGREGATES; k++) {
            both.of[k] = concat(&a.of[k], &b.of[k]);
            both60.of[k] = concat(&a60.of[k], &b60.of[k]);
            for (size_t i = 1; i < both.of[k].n; i++)
                cr_assert(both.of[k].t[i] > both.of[k].t[i - 1], "no time twice");
        }
        compare(&raw, &both, R5, "5m of two blocks");
        compare(&raw, &both60, R60, "1h of two blocks");
    }
}

Test(downsample, counts_minima_maxima_and_counters_made_again_are_those_made_at_once, .init = begin, .fini = end)
{
    struct rnd r = {13};
    for (int round = 0; round < 60; round++) {
        arena_clear(&arena);
        struct downsample_column raw = random_series(&r, (enum kind)(round % KINDS));
        struct aggregated fine = aggregate(&raw, R5), coarse = aggregate(&raw, R60), again = aggregate_again(&fine, R60);
        for (unsigned a = 0; a < DOWNSAMPLE_AGGREGATES; a++) {
            cr_assert_eq(again.of[a].n, coarse.of[a].n);
            for (size_t i = 0; i < again.of[a].n; i++)
                cr_assert(again.of[a].t[i] == coarse.of[a].t[i] && (a == DOWNSAMPLE_SUM || same_bits(again.of[a].v[i], coarse.of[a].v[i])));
        }
    }
}

Test(downsample, the_window_of_a_sample_on_a_multiple_is_the_one_that_ends_there, .init = begin, .fini = end)
{
    const int64_t t[] = {-R5 - 1, -R5, -R5 + 1, 0, 1, R5 - 1, R5, R5 + 1, 2 * R5};
    const double v[] = {1, 2, 3, 4, 5, 6, 7, 8, 9}, want[] = {2, 2, 3, 2};
    struct downsample_column raw = {9, t, v}, count;
    cr_assert(downsample_column(DOWNSAMPLE_COUNT, false, R5, &raw, &arena, &count));
    cr_assert_eq(count.n, 4);
    for (size_t i = 0; i < 4; i++)
        cr_expect_eq(count.v[i], want[i], "window %zu: %g", i, count.v[i]);
    cr_expect_eq(count.t[0], -R5);
    cr_expect_eq(count.t[2], R5);
}

Test(downsample, times_at_the_ends_of_all_times_have_windows, .init = begin, .fini = end)
{
    const int64_t t[] = {INT64_MIN, INT64_MIN + 1, INT64_MAX - 1, INT64_MAX};
    const double v[] = {1, 2, 3, 4};
    struct downsample_column raw = {4, t, v}, sum;
    cr_assert(downsample_column(DOWNSAMPLE_SUM, false, R60, &raw, &arena, &sum));
    cr_assert_eq(sum.n, 2);
    cr_expect(sum.v[0] == 3 && sum.v[1] == 7);
}

Test(downsample, a_counter_keeps_few_samples_and_a_gauge_is_known_by_its_falls, .init = begin, .fini = end)
{
    size_t n = 5760;
    int64_t *t = ARENA_ARRAY(&arena, int64_t, n);
    double *up = ARENA_ARRAY(&arena, double, n), *waves = ARENA_ARRAY(&arena, double, n);
    for (size_t i = 0; i < n; i++) {
        t[i] = (int64_t)i * 15000 + 7;
        up[i] = (double)(i % 2000);
        waves[i] = (double)(i % 3);
    }
    struct downsample_column counter = {n, t, up}, gauge = {n, t, waves}, kept;
    cr_expect(downsample_is_counter(&counter));
    cr_expect(!downsample_is_counter(&gauge));
    cr_assert(downsample_column(DOWNSAMPLE_COUNTER, false, R5, &counter, &arena, &kept));
    cr_expect(kept.n <= 2 * 288 + 2 * 2, "%zu", kept.n);
    cr_assert(downsample_column(DOWNSAMPLE_COUNTER, false, R60, &counter, &arena, &kept));
    cr_expect(kept.n <= 2 * 24 + 2 * 2, "%zu", kept.n);
}

Test(downsample, rooms_have_names_that_are_read_back, .init = begin, .fini = end)
{
    for (unsigned r = 0; r < DOWNSAMPLE_RESOLUTIONS; r++)
        for (unsigned a = 0; a < DOWNSAMPLE_AGGREGATES; a++) {
            enum downsample_resolution got_r;
            enum downsample_aggregate got_a;
            struct bucket_name room = downsample_room(SL("t"), r, a);
            struct slice name = bucket_name_slice(&room), prefix = SL("t/" DOWNSAMPLE_FOLDER);
            cr_assert(slice_has_prefix(name, prefix), "%s", room.text);
            cr_assert(downsample_room_parse(slice_make(name.p + prefix.n, name.n - prefix.n), &got_r, &got_a));
            cr_expect(got_r == r && got_a == a);
        }
    enum downsample_resolution r;
    enum downsample_aggregate a;
    cr_expect(!downsample_room_parse(SL("5m"), &r, &a) && !downsample_room_parse(SL("5m-avg"), &r, &a) && !downsample_room_parse(SL(""), &r, &a));
}
