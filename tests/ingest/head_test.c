/* What a head takes, refuses and answers. */
#include <criterion/criterion.h>
#include <math.h>

#include "tests/ingest/head_rig.h"

TestSuite(head);

Test(head, keeps_samples_by_series)
{
    struct rig *r = rig_new(4);
    rig_push(r, "up,job=a", T0, 1);
    rig_push(r, "up,job=b", T0, 2);
    rig_push(r, "up,job=a", T0 + 1000, 3);
    cr_expect_str_eq(ASK_ALL(r), "up,job=a: 0=1 1000=3\nup,job=b: 0=2\n");
    cr_expect_eq(atomic_load(&r->head->n_series), 2);
    rig_free(r);
}

Test(head, takes_a_series_twice_in_one_record)
{
    struct rig *r = rig_new(4);
    rig_series(r, "up,job=a");
    rig_sample(r, T0, 1);
    rig_series(r, "up,job=a");
    rig_sample(r, T0 + 1000, 2);
    rig_apply(r);
    cr_expect_eq(r->counts.created, 1);
    cr_expect_str_eq(ASK_ALL(r), "up,job=a: 0=1 1000=2\n");
    rig_free(r);
}

Test(head, matchers)
{
    struct rig *r = rig_new(4);
    rig_push(r, "up,job=a,zone=x", T0, 1);
    rig_push(r, "up,job=b,zone=y", T0, 1);
    rig_push(r, "up,job=c", T0, 1);
    rig_push(r, "down,job=a", T0, 1);
#define A "up,job=a,zone=x: 0=1\n"
#define B "up,job=b,zone=y: 0=1\n"
#define C "up,job=c: 0=1\n"
#define D "down,job=a: 0=1\n"
    cr_expect_str_eq(ASK(r, EQ("__name__", "up")), A B C);
    cr_expect_str_eq(ASK(r, EQ("__name__", "up"), EQ("job", "a")), A);
    cr_expect_str_eq(ASK(r, EQ("job", "a")), D A);
    cr_expect_str_eq(ASK(r, EQ("job", "nobody")), "");
    cr_expect_str_eq(ASK(r, EQ("nothing", "a")), "");
    cr_expect_str_eq(ASK(r, EQ("nothing", "")), D A B C);
    cr_expect_str_eq(ASK(r, EQ("zone", "")), D C);
    cr_expect_str_eq(ASK(r, NEQ("zone", "")), A B);
    cr_expect_str_eq(ASK(r, EQ("__name__", "up"), NEQ("zone", "x")), B C);
    cr_expect_str_eq(ASK(r, EQ("__name__", "up"), RE("job", "a|b")), A B);
    cr_expect_str_eq(ASK(r, EQ("__name__", "up"), NRE("job", "a|b")), C);
    cr_expect_str_eq(ASK(r, RE("job", "[ab]"), NRE("zone", "x.*")), D B);
    cr_expect_str_eq(ASK(r, RE("zone", ".+")), A B);
    cr_expect_str_eq(ASK(r, RE("zone", ".*")), D A B C);
    cr_expect_str_eq(ASK(r, NRE("zone", ".+")), D C);
    cr_expect_str_eq(ASK(r, NRE("zone", ".*")), "");
    cr_expect_str_eq(ASK(r, RE("zone", "x|")), D A C);
    cr_expect_str_eq(ASK(r, NRE("zone", "x|")), B);
    cr_expect_str_eq(ASK(r, EQ("__name__", "up"), EQ("job", "a"), EQ("zone", "y")), "");
    rig_free(r);
}

Test(head, many_series_by_every_way_of_filtering)
{
    struct rig *r = rig_new(2);
    for (int i = 0; i < 3000; i++) {
        char text[64];
        snprintf(text, sizeof(text), "m%d,pod=p%d,n=%d", i % 3, i, i % 100);
        rig_series(r, text);
        rig_sample(r, T0, i);
    }
    rig_apply(r);
    const char *hits = ASK(r, EQ("__name__", "m1"), RE("pod", "p1.1"), NEQ("n", "11"));
    cr_expect_str_eq(hits, "m1,n=21,pod=p121: 0=121\nm1,n=51,pod=p151: 0=151\nm1,n=81,pod=p181: 0=181\n", "%s", hits);
    cr_expect_str_eq(ASK(r, RE("pod", "p(7|2999|nope)")), "m1,n=7,pod=p7: 0=7\nm2,n=99,pod=p2999: 0=2999\n");
    cr_expect_str_eq(ASK(r, RE("n", "5"), EQ("__name__", "m0"), RE("pod", "p.05")),
                     "m0,n=5,pod=p105: 0=105\nm0,n=5,pod=p405: 0=405\nm0,n=5,pod=p705: 0=705\n");
    rig_free(r);
}

Test(head, time_range_leaves_out_what_is_outside)
{
    struct rig *r = rig_new(1);
    rig_push(r, "a", T0, 1);
    rig_push(r, "b", T0 + 60000, 1);
    cr_expect_str_eq(ASK_RANGE(r, T0 + 1, T0 + 70000), "b: 60000=1\n");
    cr_expect_str_eq(ASK_RANGE(r, T0 - 10, T0), "a: 0=1\n");
    cr_expect_str_eq(ASK_RANGE(r, T0 + 70000, T0 + 80000), "");
    rig_free(r);
}

Test(head, refuses_late_and_changed_samples_with_mimirs_reasons)
{
    struct rig *r = rig_new(2);
    rig_push(r, "a", T0 + 2 * HOUR_MS, 1);
    rig_push(r, "a", T0 + 2 * HOUR_MS - 1, 1);
    cr_expect_eq(r->counts.refused[REFUSAL_OUT_OF_ORDER], 1);
    rig_push(r, "a", T0 + 2 * HOUR_MS, 2);
    cr_expect_eq(r->counts.refused[REFUSAL_NEW_VALUE], 1);
    rig_push(r, "a", T0 + 2 * HOUR_MS, 1);
    cr_expect_eq(r->counts.samples, 1, "the same again is fine");
    rig_push(r, "a", T0, 1);
    cr_expect_eq(r->counts.refused[REFUSAL_TOO_OLD], 1);
    rig_push(r, "b", T0 + HOUR_MS - 1, 1);
    cr_expect_eq(r->counts.refused[REFUSAL_TOO_OLD], 1);
    cr_expect_eq(r->counts.created, 0);
    rig_push(r, "b", T0 + HOUR_MS, 1);
    cr_expect_eq(r->counts.created, 1, "half a chunk range before the newest is still fine");
    cr_expect_str_eq(ASK_ALL(r), "a: 7200000=1\nb: 3600000=1\n");
    rig_free(r);
}

Test(head, counts_against_series_limits)
{
    struct rig *r = rig_new(4);
    r->limits.max_global_series_per_user = 3;
    r->limits.max_global_series_per_metric = 2;
    rig_push(r, "a,x=1", T0, 1);
    rig_push(r, "a,x=2", T0, 1);
    rig_push(r, "a,x=3", T0, 1);
    cr_expect_eq(r->counts.refused[REFUSAL_METRIC_LIMIT], 1);
    rig_push(r, "b", T0, 1);
    cr_expect_eq(r->counts.created, 1);
    rig_push(r, "c", T0, 1);
    cr_expect_eq(r->counts.refused[REFUSAL_USER_LIMIT], 1);
    rig_push(r, "a,x=1", T0 + 1, 1);
    cr_expect_eq(r->counts.samples, 1, "known series go on");
    rig_free(r);
}

Test(head, instance_limit_refuses_new_series_only)
{
    struct rig *r = rig_new(1);
    r->totals.max_series = 1;
    rig_push(r, "a", T0, 1);
    rig_push(r, "b", T0, 1);
    cr_expect_eq(r->counts.refused[REFUSAL_INSTANCE_LIMIT], 1);
    rig_push(r, "a", T0 + 1, 1);
    cr_expect_eq(r->counts.samples, 1);
    rig_free(r);
}

/* docs/formats.md 6.7: 15 s apart, two hours of samples come out as four chunks of 120. */
Test(head, cuts_chunks_as_prometheus_does)
{
    struct rig *r = rig_new(1);
    for (int i = 0; i < 480; i++)
        rig_push(r, "a", T0 + i * 15000, i);
    const struct series_cold *c = series_cold(r->head->shards[0].data, 0);
    cr_assert_eq(c->n_chunks, 3);
    const struct chunk_entry *e = series_chunks(r->head->shards[0].data, c);
    for (int i = 0; i < 3; i++) {
        cr_expect_eq(e[i].count, 120, "%u", e[i].count);
        cr_expect_eq(e[i].min_t, T0 + i * 120 * 15000);
    }
    const char *all = ASK_ALL(r);
    cr_expect_eq(strncmp(all, "a: 0=0 15000=1", 14), 0);
    cr_expect(strstr(all, " 7185000=479\n"));
    cr_expect_null(strstr(all, "wrong-range"));
    rig_free(r);
}

Test(head, cuts_at_two_hours_and_at_1024_bytes)
{
    struct rig *r = rig_new(1);
    rig_push(r, "slow", T0 + 2 * HOUR_MS - 1, 1);
    rig_push(r, "slow", T0 + 2 * HOUR_MS, 1);
    cr_expect_str_eq(ASK_ALL(r), "slow: 7199999=1 | 7200000=1\n");
    for (int i = 0; i < 200; i++)
        rig_push(r, "wild", T0 + 2 * HOUR_MS + i, sin(i) * pow(10, i % 30));
    const struct shard_data *d = r->head->shards[0].data;
    cr_assert_geq(series_cold(d, 1)->n_chunks, 1);
    rig_free(r);
}

Test(head, stale_marker_and_special_values_keep_their_bits)
{
    struct rig *r = rig_new(1);
    rig_push(r, "a", T0, -0.0);
    rig_push(r, "a", T0 + 1, stale_nan());
    const struct series_hot *hot = series_hot(r->head->shards[0].data, 0);
    cr_expect_eq(hot->app.v, STALE_NAN_BITS);
    rig_push(r, "a", T0 + 1, stale_nan());
    cr_expect_eq(r->counts.samples, 1);
    rig_push(r, "a", T0 + 2, INFINITY);
    cr_expect_str_eq(ASK_ALL(r), "a: 0=-0 1=NaN 2=+Inf\n");
    rig_free(r);
}

/* --- out of order --- */

Test(head, out_of_order_window)
{
    struct rig *r = rig_new(2);
    r->limits.out_of_order_time_window = 30 * 60000;
    rig_push(r, "a", T0 + HOUR_MS, 9);
    rig_push(r, "a", T0 + HOUR_MS - 1000, 8);
    rig_push(r, "a", T0 + HOUR_MS - 3000, 6);
    rig_push(r, "a", T0 + HOUR_MS - 2000, 7);
    cr_expect_eq(r->counts.ooo_samples, 1);
    rig_push(r, "a", T0 + HOUR_MS - 2000, 70);
    cr_expect_eq(r->counts.samples, 1, "200 upstream, and the first value stays");
    cr_expect_eq(r->counts.ooo_samples, 0);
    rig_push(r, "a", T0 + HOUR_MS - 31 * 60000, 1);
    cr_expect_eq(r->counts.refused[REFUSAL_BEYOND_WINDOW], 1);
    cr_expect_str_eq(ASK_ALL(r), "a: 3597000=6 3598000=7 3599000=8 | 3600000=9\n");
    rig_push(r, "new", T0 + HOUR_MS - 29 * 60000, 1);
    cr_expect_eq(r->counts.created, 1);
    rig_free(r);
}

Test(head, full_out_of_order_blocks_become_chunks)
{
    struct rig *r = rig_new(1);
    r->limits.out_of_order_time_window = HOUR_MS;
    rig_push(r, "a", T0 + HOUR_MS, 1);
    for (int i = 0; i < 70; i++)
        rig_push(r, "a", T0 + HOUR_MS - 1000 * (i + 1), i);
    const struct shard_data *d = r->head->shards[0].data;
    cr_expect_eq(series_cold(d, 0)->n_chunks, 2);
    cr_expect_eq(series_chunks(d, series_cold(d, 0))[0].flags, CHUNK_OUT_OF_ORDER);
    cr_expect_eq(series_chunks(d, series_cold(d, 0))[0].count, OOO_CHUNK_SAMPLES);
    const char *all = ASK_ALL(r);
    int n = 0;
    for (const char *p = all; (p = strchr(p, '=')); p++)
        n++;
    cr_expect_eq(n, 71, "%s", all);
    cr_expect_null(strstr(all, "wrong-range"));
    rig_free(r);
}

/* --- native histograms --- */

static struct histogram simple_histogram(uint64_t n, int64_t *deltas)
{
    static const struct histogram_span span = {0, 2};
    deltas[0] = (int64_t)n;
    deltas[1] = 1;
    return (struct histogram){.schema = 1,
                              .zero_threshold = 0.001,
                              .count_int = 2 * n + 1,
                              .sum = 1.5,
                              .positive_spans = &span,
                              .n_positive_spans = 1,
                              .positive_deltas = deltas,
                              .n_positive = 2};
}

Test(head, histograms_and_floats_may_alternate)
{
    struct rig *r = rig_new(2);
    int64_t deltas[2];
    rig_push(r, "a", T0, 1);
    for (int i = 1; i <= 3; i++) {
        struct histogram h = simple_histogram((uint64_t)i, deltas);
        rig_series(r, "a");
        rig_histogram(r, T0 + i, &h);
        rig_apply(r);
        cr_expect_eq(r->counts.samples, 1);
    }
    rig_push(r, "a", T0 + 3, 1);
    cr_expect_eq(r->counts.refused[REFUSAL_NEW_VALUE], 1);
    rig_push(r, "a", T0 + 4, 2);
    cr_expect_str_eq(ASK_ALL(r), "a: 0=1 | 1=h3 2=h5 3=h7 | 4=2\n");
    rig_free(r);
}

Test(head, same_histogram_again_is_fine_another_is_not)
{
    struct rig *r = rig_new(2);
    int64_t deltas[2];
    struct histogram h = simple_histogram(5, deltas);
    rig_series(r, "a");
    rig_histogram(r, T0, &h);
    rig_histogram(r, T0, &h);
    rig_apply(r);
    cr_expect_eq(r->counts.samples, 2);
    h = simple_histogram(6, deltas);
    rig_series(r, "a");
    rig_histogram(r, T0, &h);
    rig_apply(r);
    cr_expect_eq(r->counts.refused[REFUSAL_NEW_VALUE], 1);
    rig_free(r);
}

Test(head, float_stale_marker_ends_a_histogram_series_as_a_histogram)
{
    struct rig *r = rig_new(2);
    int64_t deltas[2];
    struct histogram h = simple_histogram(5, deltas);
    rig_series(r, "a");
    rig_histogram(r, T0, &h);
    rig_apply(r);
    rig_push(r, "a", T0 + 1, stale_nan());
    const char *all = ASK_ALL(r);
    cr_expect(strstr(all, "a: 0=h11 1=h") && strstr(all, "stale"), "%s", all);
    rig_free(r);
}

Test(head, wrong_histograms_are_counted_and_passed)
{
    struct rig *r = rig_new(2);
    int64_t deltas[2];
    struct histogram h = simple_histogram(5, deltas);
    h.count_int++;
    rig_series(r, "a");
    rig_histogram(r, T0, &h);
    rig_apply(r);
    cr_expect_eq(r->counts.refused[REFUSAL_INVALID_HISTOGRAM], 1);
    cr_expect_eq(atomic_load(&r->head->n_series), 0);
    rig_free(r);
}

Test(head, late_histograms_are_kept_within_the_window)
{
    struct rig *r = rig_new(2);
    r->limits.out_of_order_time_window = HOUR_MS;
    int64_t deltas[2];
    struct histogram h = simple_histogram(5, deltas);
    rig_series(r, "a");
    rig_histogram(r, T0 + 2000, &h);
    rig_histogram(r, T0 + 1000, &h);
    rig_apply(r);
    cr_expect_eq(r->counts.samples, 2);
    cr_expect_str_eq(ASK_ALL(r), "a: 1000=h11 | 2000=h11\n");
    rig_free(r);
}

/* --- labels and the like --- */

static const char *names(struct rig *r, const struct rig_matcher *m, size_t n, const char *of)
{
    return rig_ask(r, (struct rig_ask){.m = m, .n = n, .min_t = T0, .max_t = T0 + HOUR_MS, .values_of = of});
}

Test(head, label_names_and_values)
{
    struct rig *r = rig_new(4);
    rig_push(r, "up,job=a,zone=x", T0, 1);
    rig_push(r, "up,job=b", T0, 1);
    rig_push(r, "down,job=c,rack=1", T0, 1);
    const struct rig_matcher up[] = {EQ("__name__", "up")};
    cr_expect_str_eq(names(r, NULL, 0, ""), "__name__ job rack zone");
    cr_expect_str_eq(names(r, up, 1, ""), "__name__ job zone");
    cr_expect_str_eq(names(r, NULL, 0, "job"), "a b c");
    cr_expect_str_eq(names(r, up, 1, "job"), "a b");
    cr_expect_str_eq(names(r, up, 1, "rack"), "");
    cr_expect_str_eq(names(r, NULL, 0, "nothing"), "");
    cr_expect_str_eq(rig_ask(r, (struct rig_ask){.min_t = T0, .max_t = T0, .values_of = "job", .limit = 2}), "a b");
    cr_expect_str_eq(rig_ask(r, (struct rig_ask){.min_t = T0 + 1, .max_t = T0 + 9, .values_of = "job"}), "",
                     "the head has nothing there");
    rig_free(r);
}

Test(head, series_only_and_limit)
{
    struct rig *r = rig_new(4);
    rig_push(r, "up,job=a", T0, 1);
    rig_push(r, "up,job=b", T0, 1);
    cr_expect_str_eq(rig_ask(r, (struct rig_ask){.min_t = T0, .max_t = T0, .no_chunks = true}), "up,job=a\nup,job=b\n");
    const char *one = rig_ask(r, (struct rig_ask){.min_t = T0, .max_t = T0, .no_chunks = true, .limit = 1});
    cr_expect_eq(strlen(one), strlen("up,job=a\n"));
    rig_free(r);
}

Test(head, a_query_over_its_budget_is_an_error)
{
    struct rig *r = rig_new(1);
    for (int i = 0; i < 200; i++) {
        char text[32];
        snprintf(text, sizeof(text), "a,i=%d", i);
        rig_push(r, text, T0, 1);
    }
    const char *all = rig_ask(r, (struct rig_ask){.min_t = T0, .max_t = T0, .budget_bytes = 8192});
    cr_expect_eq(strncmp(all, "error MAX_QUERY_MEMORY\n", 23), 0, "%s", all);
    rig_free(r);
}

Test(head, exemplars)
{
    struct rig *r = rig_new(2);
    r->limits.max_global_exemplars_per_user = 3;
    for (int i = 0; i < 4; i++) {
        rig_series(r, i % 2 ? "b" : "a");
        rig_sample(r, T0 + i, i);
        rig_exemplar(r, "trace_id=x", T0 + i, i);
        rig_exemplar(r, "trace_id=x", T0 + i, i);
        rig_exemplar(r, "trace_id=y", T0 + i - 10, i);
        rig_apply(r);
        cr_expect_eq(r->counts.exemplars, 1);
    }
    cr_expect_str_eq(rig_ask(r, (struct rig_ask){.min_t = T0, .max_t = T0 + 9, .exemplars = true}),
                     "a: 2=2{,trace_id=x}\nb: 1=1{,trace_id=x} 3=3{,trace_id=x}\n");
    cr_expect_str_eq(rig_ask(r, (struct rig_ask){.min_t = T0 + 3, .max_t = T0 + 9, .exemplars = true}),
                     "b: 3=3{,trace_id=x}\n");
    r->limits.max_global_exemplars_per_user = 1;
    rig_push(r, "a", T0 + 50, 1);
    cr_expect_str_eq(rig_ask(r, (struct rig_ask){.min_t = T0, .max_t = T0 + 9, .exemplars = true}),
                     "b: 3=3{,trace_id=x}\n");
    r->limits.max_global_exemplars_per_user = 0;
    rig_push(r, "a", T0 + 60, 1);
    cr_expect_str_eq(rig_ask(r, (struct rig_ask){.min_t = T0, .max_t = T0 + 9, .exemplars = true}), "");
    rig_free(r);
}

Test(head, metadata_latest_first_bounded_and_expiring)
{
    struct rig *r = rig_new(1);
    struct metadata_store *m = &r->head->metadata;
    r->limits.max_global_metadata_per_user = 2;
    r->limits.max_global_metadata_per_metric = 2;
    struct write_metadata a1 = {.type = 1, .family = SL("a"), .help = SL("one"), .unit = SL("s")};
    struct write_metadata a2 = {.type = 2, .family = SL("a"), .help = SL("two")};
    struct write_metadata a3 = {.type = 3, .family = SL("a"), .help = SL("three")};
    struct write_metadata b = {.type = 99, .family = SL("b")};
    struct write_metadata c = {.type = 1, .family = SL("c")};
    cr_expect_eq(metadata_add(m, &r->limits, &a1, 100), METADATA_NEW);
    cr_expect_eq(metadata_add(m, &r->limits, &a2, 200), METADATA_NEW);
    cr_expect_eq(metadata_add(m, &r->limits, &a3, 200), METADATA_METRIC_LIMIT);
    cr_expect_eq(metadata_add(m, &r->limits, &b, 200), METADATA_NEW);
    cr_expect_eq(metadata_add(m, &r->limits, &c, 200), METADATA_USER_LIMIT);
    cr_expect_eq(metadata_add(m, &r->limits, &a1, 300), METADATA_SEEN);
    struct arena arena;
    arena_init(&arena, 0);
    const struct metric_metadata *list;
    size_t n;
    cr_assert(metadata_list(m, &arena, &list, &n));
    cr_assert_eq(n, 3);
    cr_expect(slice_eq(list[0].help, SL("one")));
    cr_expect_str_eq(list[0].type, "counter");
    cr_expect(slice_eq(list[0].unit, SL("s")));
    cr_expect(slice_eq(list[1].help, SL("two")));
    cr_expect_str_eq(list[2].type, "unknown");
    cr_expect_eq(metadata_expire(m, 250), 2);
    cr_expect_eq(metadata_count(m), 1);
    arena_release(&arena);
    rig_free(r);
}

Test(head, active_series_are_those_with_new_samples)
{
    struct rig *r = rig_new(2);
    rig_push(r, "a", T0, 1);
    rig_push(r, "b", T0, 1);
    cr_expect_eq(head_count_active(r->head, T0 / 1000), 2);
    cr_expect_eq(head_count_active(r->head, T0 / 1000 + 1), 0);
    rig_free(r);
}

Test(head, timestamps_at_the_ends_of_their_type)
{
    struct rig *r = rig_new(1);
    rig_push(r, "a", INT64_MIN + 1, 1);
    rig_push(r, "a", INT64_MIN + 2, 1);
    rig_push(r, "a", INT64_MAX - 1, 1);
    rig_push(r, "a", INT64_MAX, 1);
    cr_expect_eq(atomic_load(&r->head->n_series), 1);
    cr_expect_gt(strlen(rig_ask(r, (struct rig_ask){.min_t = INT64_MIN, .max_t = INT64_MAX, .no_chunks = true})), 0);
    rig_free(r);
}
