/* Samples, native histograms, exemplars and metadata: docs/mimir-http.md 1.3, 1.4 and 1.7. */
#include "push_fixture.h"

static struct fixture f;
static void start(void) { fixture_start(&f, 1); }
static void stop(void) { fixture_stop(&f); }
TestSuite(push_samples, .init = start, .fini = stop);

static void expect_reason(struct push *p, enum discard_reason reason, uint64_t n)
{
    for (int r = 0; r < REASON_N; r++)
        cr_expect_eq(p->discards[r], r == (int)reason ? n : 0, "reason %d: %llu", r, (unsigned long long)p->discards[r]);
}

/* The times of the only series' samples in the only record. */
static size_t stored_times(struct push *p, int64_t *ret)
{
    cr_assert_eq(p->produce.n, 1u);
    struct decoded dec;
    decode_record(&p->produce.records[0], &dec);
    cr_assert_eq(dec.req.n_series, 1u);
    size_t n = dec.req.series[0].n_samples;
    for (size_t i = 0; i < n; i++)
        ret[i] = dec.req.samples[dec.req.series[0].first_sample + i].t;
    arena_release(&dec.arena);
    return n;
}

static struct push *push_times(const int64_t *times, size_t n)
{
    struct buf m = {0}, s = {0};
    pb_labels(&s, LABELS("__name__", "m", "a", "b"));
    for (size_t i = 0; i < n; i++)
        pb_sample(&s, (double)i, times[i]);
    pb_sub(&m, 1, &s);
    return push_of(&f, &m);
}
#define TIMES(...) ((const int64_t[]){__VA_ARGS__}), sizeof((const int64_t[]){__VA_ARGS__}) / sizeof(int64_t)

Test(push_samples, too_far_in_the_future_is_refused_and_the_others_of_the_series_are_kept)
{
    struct push *p = push_times(TIMES(NOW_MS, NOW_MS + 600001, NOW_MS + 600000));
    cr_expect_str_eq(push_text(p),
                     "received a sample whose timestamp is too far in the future, timestamp: 1700000600001 series: 'm' "
                     "(err-mimir-too-far-in-future). To adjust the related per-tenant limit, configure "
                     "-validation.create-grace-period, or contact your service administrator.");
    expect_reason(p, REASON_TOO_FAR_IN_FUTURE, 1);
    int64_t got[8];
    cr_assert_eq(stored_times(p, got), 2u);
    cr_expect(got[0] == NOW_MS && got[1] == NOW_MS + 600000);
    cr_expect_eq(p->latest_ms, NOW_MS + 600000);
    push_done(&f, p);

    p = push_times(TIMES(NOW_MS + 600001));
    cr_expect_eq(p->error.code, ERR_TOO_FAR_IN_FUTURE);
    cr_expect_eq(p->produce.n, 0u);
    push_done(&f, p);
}

Test(push_samples, too_far_in_the_past_is_refused_where_a_period_is_set)
{
    struct push *p = push_times(TIMES(0, -5));
    cr_expect_eq(p->error.code, ERR_OK);
    push_done(&f, p);
    f.limits.past_grace_period = 60000;
    f.limits.out_of_order_time_window = 1000;
    p = push_times(TIMES(NOW_MS - 61001, NOW_MS - 61000));
    cr_expect_str_eq(push_text(p),
                     "received a sample whose timestamp is too far in the past, timestamp: 1699999938999 series: 'm' "
                     "(err-mimir-too-far-in-past). To adjust the related per-tenant limit, configure "
                     "-validation.past-grace-period, or contact your service administrator.");
    expect_reason(p, REASON_TOO_FAR_IN_PAST, 1);
    push_done(&f, p);
}

Test(push_samples, the_out_of_order_window_is_enforced_where_the_tenant_wants_it)
{
    f.limits.enforce_out_of_order_window_on_distributor = true;
    struct push *p = push_times(TIMES(0));
    cr_expect_eq(p->error.code, ERR_OK, "no window, no check");
    push_done(&f, p);
    f.limits.out_of_order_time_window = 1000;
    p = push_times(TIMES(NOW_MS - 1001));
    cr_expect_str_eq(push_text(p),
                     "received a sample whose timestamp is older than the out-of-order time window, timestamp: 1699999998999 "
                     "series: 'm' (err-mimir-sample-timestamp-too-old). To adjust the related per-tenant limit, configure "
                     "-ingester.out-of-order-time-window, or contact your service administrator.");
    expect_reason(p, REASON_SAMPLE_TIMESTAMP_TOO_OLD, 1);
    push_done(&f, p);
}

Test(push_samples, of_equal_times_the_first_is_kept_and_the_others_are_counted)
{
    struct push *p = push_times(TIMES(NOW_MS, NOW_MS - 5, NOW_MS, NOW_MS - 5, NOW_MS, NOW_MS + 1));
    cr_expect_eq(p->error.code, ERR_OK);
    expect_reason(p, REASON_SAMPLE_DUPLICATE_TIMESTAMP, 3);
    int64_t got[8];
    cr_assert_eq(stored_times(p, got), 3u);
    cr_expect(got[0] == NOW_MS && got[1] == NOW_MS - 5 && got[2] == NOW_MS + 1, "order is the client's");
    push_done(&f, p);
}

Test(push_samples, stale_markers_and_bits_of_values_are_kept)
{
    const uint64_t bits[] = {STALE_NAN_BITS, 0x7ff8000000000001, 0x8000000000000000};
    struct buf m = {0}, s = {0};
    pb_labels(&s, LABELS("b", "1", "__name__", "m")); /* unsorted: built anew */
    for (int i = 0; i < 3; i++) {
        double v;
        memcpy(&v, &bits[i], 8);
        pb_sample(&s, v, NOW_MS + i);
    }
    pb_sub(&m, 1, &s);
    struct push *p = push_of(&f, &m);
    struct decoded dec;
    decode_record(&p->produce.records[0], &dec);
    cr_assert_eq(dec.req.n_samples, 3u);
    for (int i = 0; i < 3; i++) {
        uint64_t got;
        memcpy(&got, &dec.req.samples[i].v, 8);
        cr_expect_eq(got, bits[i]);
    }
    arena_release(&dec.arena);
    push_done(&f, p);
}

Test(push_samples, a_series_without_labels_is_counted)
{
    struct buf m = {0}, s = {0};
    pb_sample(&s, 1, NOW_MS);
    pb_sample(&s, 1, NOW_MS + 1);
    pb_sub(&m, 1, &s);
    pb_series(&m, LABELS("__name__", "m"));
    struct push *p = push_of(&f, &m);
    cr_expect_eq(p->error.code, ERR_OK);
    expect_reason(p, REASON_NO_LABELS, 2);
    cr_expect_eq(p->accepted.samples, 1u);
    cr_expect_eq(p->n_values, 1u, "not the client's own bytes");
    push_done(&f, p);
}

/* --- native histograms ---------------------------------------------------------------------------------------------------------- */

struct nh {
    int32_t schema;
    uint64_t count;
    uint64_t zero_count;
    double sum;
    int64_t deltas[8];
    int n_deltas;
    int32_t span_offset[4];
    uint32_t span_length[4];
    int n_spans;
    bool negative; /* the same on the other side */
    double custom[8];
    int n_custom;
    int64_t t;
};

static void pb_spans(struct buf *b, unsigned field, const struct nh *h)
{
    for (int i = 0; i < h->n_spans; i++) {
        struct buf s = {0};
        pb_varint(&s, 1, zigzag(h->span_offset[i]));
        pb_varint(&s, 2, h->span_length[i]);
        pb_sub(b, field, &s);
    }
}

static void pb_deltas(struct buf *b, unsigned field, const struct nh *h)
{
    struct buf d = {0};
    for (int i = 0; i < h->n_deltas; i++)
        buf_put_uvarint(&d, zigzag(h->deltas[i]));
    pb_sub(b, field, &d);
}

static void pb_histogram(struct buf *series, const struct nh *h)
{
    struct buf b = {0}, custom = {0};
    pb_varint(&b, 1, h->count);
    pb_double(&b, 3, h->sum);
    pb_varint(&b, 4, zigzag(h->schema));
    pb_varint(&b, 6, h->zero_count);
    if (h->negative) {
        pb_spans(&b, 8, h);
        pb_deltas(&b, 9, h);
    }
    pb_spans(&b, 11, h);
    pb_deltas(&b, 12, h);
    pb_varint(&b, 15, (uint64_t)(h->t ? h->t : NOW_MS));
    for (int i = 0; i < h->n_custom; i++)
        buf_put(&custom, &h->custom[i], 8);
    if (custom.n)
        pb_sub(&b, 16, &custom);
    pb_sub(series, 4, &b);
}

static struct push *push_histogram(const struct nh *h)
{
    struct buf m = {0}, s = {0};
    pb_labels(&s, LABELS("__name__", "nh1"));
    pb_histogram(&s, h);
    pb_sub(&m, 1, &s);
    return push_of(&f, &m);
}

#define GOOD .count = 3, .sum = 1, .deltas = {1, 1}, .n_deltas = 2, .span_length = {2}, .n_spans = 1

static const struct nh_case {
    const char *what;
    struct nh h;
    enum err_code code;
    enum discard_reason reason;
    const char *part; /* of the text */
} nh_cases[] = {
    {"good", {GOOD}, ERR_OK, REASON_N, ""},
    {"schema 9", {.schema = 9, GOOD}, ERR_INVALID_NATIVE_HISTOGRAM_SCHEMA, REASON_INVALID_NATIVE_HISTOGRAM_SCHEMA,
     "received a native histogram sample with an invalid schema: 9 (err-mimir-invalid-native-histogram-schema)"},
    {"schema -5", {.schema = -5, GOOD}, ERR_INVALID_NATIVE_HISTOGRAM_SCHEMA, REASON_INVALID_NATIVE_HISTOGRAM_SCHEMA,
     "invalid schema: -5 (err"},
    {"schema -52", {.schema = -52, GOOD}, ERR_INVALID_NATIVE_HISTOGRAM_SCHEMA, REASON_INVALID_NATIVE_HISTOGRAM_SCHEMA,
     "invalid schema: -52 (err"},
    {"count", {.count = 4, .sum = 1, .deltas = {1, 1}, .n_deltas = 2, .span_length = {2}, .n_spans = 1},
     ERR_NATIVE_HISTOGRAM_COUNT_MISMATCH, REASON_INVALID_NATIVE_HISTOGRAM,
     "err: 3 observations found in buckets, but the Count field is 4: histogram's observation count should equal the number of "
     "observations found in the buckets (in absence of NaN). timestamp=2023-11-14T22:13:20Z, series=[{__name__ nh1}] "
     "(err-mimir-native-histogram-count-mismatch)"},
    {"negative bucket", {.count = 0, .sum = 1, .deltas = {1, -2}, .n_deltas = 2, .span_length = {2}, .n_spans = 1},
     ERR_NATIVE_HISTOGRAM_NEGATIVE_BUCKET_COUNT, REASON_INVALID_NATIVE_HISTOGRAM,
     "err: positive side: bucket number 2 has observation count of -1: histogram has a bucket whose observation count is negative. "},
    {"span offset", {.count = 3, .sum = 1, .deltas = {1, 1}, .n_deltas = 2, .span_offset = {0, -1}, .span_length = {1, 1}, .n_spans = 2},
     ERR_NATIVE_HISTOGRAM_SPAN_NEGATIVE_OFFSET, REASON_INVALID_NATIVE_HISTOGRAM,
     "err: positive side: span number 2 with offset -1: histogram has a span whose offset is negative. "},
    {"spans and buckets", {.count = 3, .sum = 1, .deltas = {1, 1}, .n_deltas = 2, .span_length = {3}, .n_spans = 1},
     ERR_NATIVE_HISTOGRAM_SPANS_BUCKETS_MISMATCH, REASON_INVALID_NATIVE_HISTOGRAM,
     "err: positive side: spans need 3 buckets, have 2 buckets: histogram spans specify different number of buckets than provided. "},
    {"custom, good", {.schema = -53, GOOD, .custom = {1, 2}, .n_custom = 2}, ERR_OK, REASON_N, ""},
    {"custom, falling bounds", {.schema = -53, GOOD, .custom = {2, 1}, .n_custom = 2}, ERR_NATIVE_HISTOGRAM_CUSTOM_BUCKETS_INVALID,
     REASON_INVALID_NATIVE_HISTOGRAM,
     "previous bound is 2.000000 and current is 1.000000: histogram custom bounds must be in strictly increasing order. "},
    {"custom, a zero count", {.schema = -53, .zero_count = 1, .count = 4, .sum = 1, .deltas = {1, 1}, .n_deltas = 2,
                              .span_length = {2}, .n_spans = 1, .custom = {1, 2}, .n_custom = 2},
     ERR_BAD_DATA, REASON_INVALID_NATIVE_HISTOGRAM, "custom buckets: must have zero count of 0"},
    {"custom, negative spans", {.schema = -53, GOOD, .negative = true, .custom = {1, 2}, .n_custom = 2}, ERR_BAD_DATA,
     REASON_INVALID_NATIVE_HISTOGRAM, "custom buckets: must not have negative spans"},
    {"custom bounds on an exponential schema", {GOOD, .custom = {1, 2}, .n_custom = 2}, ERR_BAD_DATA, REASON_INVALID_NATIVE_HISTOGRAM,
     "histogram with exponential schema must not have custom bounds"},
    {"future", {GOOD, .t = NOW_MS + 600001}, ERR_TOO_FAR_IN_FUTURE, REASON_TOO_FAR_IN_FUTURE, "too far in the future"},
};

Test(push_samples, a_histogram_that_a_tsdb_would_refuse_is_refused_at_the_push)
{
    for (size_t i = 0; i < sizeof(nh_cases) / sizeof(nh_cases[0]); i++) {
        const struct nh_case *c = &nh_cases[i];
        struct push *p = push_histogram(&c->h);
        cr_expect_eq(err_http_status(p->error.code), c->code == ERR_OK ? 200 : 400, "%s: %d", c->what, p->error.code);
        if (c->code != ERR_BAD_DATA)
            cr_expect_eq(p->error.code, c->code, "%s: %s", c->what, push_text(p));
        cr_expect(strstr(push_text(p), c->part), "%s: %s", c->what, push_text(p));
        expect_reason(p, c->reason, 1);
        cr_expect_eq(p->produce.n, c->code == ERR_OK ? 1u : 0u, "%s", c->what);
        push_done(&f, p);
    }
}

Test(push_samples, too_many_buckets_are_merged_where_that_helps)
{
    struct nh wide = {.count = 10, .sum = 1, .deltas = {1, 1, 1, 1}, .n_deltas = 4, .span_length = {4}, .n_spans = 1};
    f.limits.max_native_histogram_buckets = 2;
    struct push *p = push_histogram(&wide);
    cr_expect_eq(p->error.code, ERR_OK, "%s", push_text(p));
    struct decoded dec;
    decode_record(&p->produce.records[0], &dec);
    struct histogram h;
    int64_t t;
    cr_assert(histogram_decode_proto(dec.req.histograms[0], &dec.arena, &h, &t, NULL));
    cr_expect_leq(histogram_n_buckets(&h), 2);
    cr_expect(h.schema < 0 && t == NOW_MS && h.count_int == 10);
    arena_release(&dec.arena);
    push_done(&f, p);

    wide.schema = -4;
    wide.span_offset[0] = 1;
    p = push_histogram(&wide);
    cr_expect_str_eq(push_text(p),
                     "received a native histogram sample with too many buckets and cannot reduce, timestamp: 1700000000000 series: "
                     "nh1, buckets: 4, limit: 2 (err-mimir-not-reducible-native-histogram)");
    expect_reason(p, REASON_MAX_NATIVE_HISTOGRAM_BUCKETS, 1);
    push_done(&f, p);

    f.limits.reduce_native_histogram_over_max_buckets = false;
    wide.schema = 0;
    p = push_histogram(&wide);
    cr_expect_eq(p->error.code, ERR_MAX_NATIVE_HISTOGRAM_BUCKETS);
    push_done(&f, p);
}

Test(push_samples, histograms_are_dropped_and_counted_apart_where_they_are_off)
{
    f.limits.native_histograms_ingestion_enabled = false;
    struct push *p = push_histogram(&(struct nh){GOOD});
    cr_expect_eq(p->error.code, ERR_OK);
    cr_expect_eq(p->dropped_histograms, 1u);
    cr_expect_eq(p->produce.n, 0u);
    expect_reason(p, REASON_N, 0);
    push_done(&f, p);
}

Test(push_samples, of_histograms_at_one_time_the_first_is_kept)
{
    struct buf m = {0}, s = {0};
    pb_labels(&s, LABELS("__name__", "nh"));
    pb_histogram(&s, &(struct nh){GOOD});
    pb_histogram(&s, &(struct nh){GOOD});
    pb_histogram(&s, &(struct nh){GOOD, .t = NOW_MS + 1});
    pb_sub(&m, 1, &s);
    struct push *p = push_of(&f, &m);
    expect_reason(p, REASON_SAMPLE_DUPLICATE_TIMESTAMP, 1);
    cr_expect_eq(p->accepted.histograms, 2u);
    push_done(&f, p);
}

/* --- exemplars ----------------------------------------------------------------------------------------------------------------------- */

static void pb_exemplar(struct buf *series, const char *const *labels, int64_t t)
{
    struct buf e = {0};
    pb_labels(&e, labels);
    pb_double(&e, 2, 1);
    pb_varint(&e, 3, (uint64_t)t);
    pb_sub(series, 3, &e);
}

Test(push_samples, bad_exemplars_are_left_out_and_counted_and_the_answer_is_200)
{
    static const char long_value[] = "0123456789012345678901234567890123456789012345678901234567890123456789"
                                     "0123456789012345678901234567890123456789012345678901234567";
    static const struct {
        const char *labels[4];
        int64_t t;
        enum discard_reason reason;
    } cases[] = {
        {{"trace", "x"}, NOW_MS, REASON_N},
        {{NULL}, NOW_MS, REASON_EXEMPLAR_LABELS_MISSING},
        {{"", "x"}, NOW_MS, REASON_EXEMPLAR_LABELS_BLANK},
        {{"trace", ""}, NOW_MS, REASON_EXEMPLAR_LABELS_BLANK},
        {{"a", long_value}, NOW_MS, REASON_EXEMPLAR_LABELS_TOO_LONG},
        {{"trace", "x"}, 0, REASON_EXEMPLAR_TIMESTAMP_INVALID},
        {{"trace", "x"}, NOW_MS - 600000, REASON_EXEMPLAR_TOO_OLD},
        {{"trace", "x"}, NOW_MS + 600001, REASON_EXEMPLAR_TOO_FAR_IN_FUTURE},
    };
    f.limits.max_global_exemplars_per_user = 100;
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        struct buf m = {0}, s = {0};
        pb_labels(&s, LABELS("__name__", "m"));
        pb_sample(&s, 1, NOW_MS);
        pb_exemplar(&s, cases[i].labels, cases[i].t);
        pb_sub(&m, 1, &s);
        struct push *p = push_of(&f, &m);
        cr_expect_eq(p->error.code, ERR_OK);
        expect_reason(p, cases[i].reason, 1);
        struct decoded dec;
        decode_record(&p->produce.records[0], &dec);
        cr_expect_eq(dec.req.n_exemplars, cases[i].reason == REASON_N, "case %zu", i);
        arena_release(&dec.arena);
        push_done(&f, p);
    }
}

Test(push_samples, exemplars_of_a_tenant_without_them_are_not_looked_at)
{
    struct buf m = {0}, s = {0};
    pb_labels(&s, LABELS("__name__", "m"));
    pb_sample(&s, 1, NOW_MS);
    pb_exemplar(&s, LABELS("", ""), 0);
    pb_sub(&m, 1, &s);
    struct push *p = push_of(&f, &m);
    expect_reason(p, REASON_N, 0);
    cr_expect_eq(p->decoded.exemplars, 0u);
    cr_expect_eq(p->req->series[0].n_exemplars, 0u);
    push_done(&f, p);
}

Test(push_samples, surplus_exemplars_of_a_series_are_counted)
{
    f.limits.max_global_exemplars_per_user = 100;
    f.limits.max_exemplars_per_series_per_request = 2;
    struct buf m = {0}, s = {0};
    pb_labels(&s, LABELS("__name__", "m"));
    pb_sample(&s, 1, NOW_MS);
    for (int i = 0; i < 5; i++)
        pb_exemplar(&s, LABELS("trace", "x"), NOW_MS + i);
    pb_sub(&m, 1, &s);
    struct push *p = push_of(&f, &m);
    expect_reason(p, REASON_TOO_MANY_EXEMPLARS, 3);
    cr_expect_eq(p->accepted.exemplars, 2u);
    push_done(&f, p);
}

/* --- metadata ------------------------------------------------------------------------------------------------------------------------ */

static const char *repeat(char c, size_t n)
{
    static char pool[4][2000];
    static int next;
    char *s = pool[next++ % 4];
    memset(s, c, n);
    s[n] = 0;
    return s;
}

Test(push_samples, metadata_is_validated)
{
    struct buf m = {0};
    pb_metadata(&m, "", "help", "unit");
    pb_metadata(&m, repeat('n', 1025), "help", "unit");
    pb_metadata(&m, "mu", "help", repeat('u', 1025));
    pb_metadata(&m, "a-b", "help", "s");
    struct push *p = push_of(&f, &m);
    cr_expect_str_eq(push_text(p),
                     "received a metric metadata with no metric name (err-mimir-metadata-missing-metric-name)");
    cr_expect_eq(p->discards[REASON_METADATA_MISSING_METRIC_NAME], 1u);
    cr_expect_eq(p->discards[REASON_METADATA_METRIC_NAME_TOO_LONG], 1u);
    cr_expect_eq(p->discards[REASON_METADATA_UNIT_TOO_LONG], 1u);
    struct decoded dec;
    decode_record(&p->produce.records[0], &dec);
    cr_assert_eq(dec.req.n_metadata, 1u);
    cr_expect(slice_eq(dec.req.metadata[0].family, SL("a-b")));
    cr_expect_eq(dec.req.metadata[0].type, 1u);
    arena_release(&dec.arena);
    push_done(&f, p);

    pb_metadata(&m, "mu", "help", repeat('u', 1025));
    p = push_of(&f, &m);
    char want[600];
    snprintf(want, sizeof(want),
             "received a metric metadata whose unit name length exceeds the limit, unit: '%s' metric name: 'mu' "
             "(err-mimir-unit-too-long). To adjust the related per-tenant limit, configure -validation.max-metadata-length, or contact "
             "your service administrator.",
             repeat('u', 200));
    cr_expect_str_eq(push_text(p), want);
    push_done(&f, p);
}

Test(push_samples, a_long_help_is_cut_at_a_rune)
{
    char help[1100];
    memset(help, 'h', sizeof(help));
    memcpy(help + 1023, "\xc3\xa4", 3);
    struct buf m = {0};
    pb_metadata(&m, "m", help, "");
    struct push *p = push_of(&f, &m);
    cr_expect_eq(p->error.code, ERR_OK);
    struct decoded dec;
    decode_record(&p->produce.records[0], &dec);
    cr_expect_eq(dec.req.metadata[0].help.n, 1023u);
    cr_expect(slice_eq(dec.req.metadata[0].family, SL("m")));
    arena_release(&dec.arena);
    push_done(&f, p);
}
