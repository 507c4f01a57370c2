/* Series validation: docs/mimir-http.md 1.3, one row a case. */
#include "push_fixture.h"

static struct fixture f;
static void start(void) { fixture_start(&f, 1); }
static void stop(void) { fixture_stop(&f); }
TestSuite(push_labels, .init = start, .fini = stop);


static char text_a[4096];
static const char *repeat(char c, size_t n)
{
    static char pool[8][5000];
    static int next;
    char *s = pool[next++ % 8];
    memset(s, c, n);
    s[n] = 0;
    return s;
}

static const struct label_case {
    const char *what;
    const char *labels[12];
    enum discard_reason reason; /* REASON_N: accepted */
    enum err_code code;
    const char *text;
} label_cases[] = {
    {"plain", {"__name__", "m", "a", "b"}, REASON_N, ERR_OK, ""},
    {"no metric name", {"a", "b"}, REASON_MISSING_METRIC_NAME, ERR_MISSING_METRIC_NAME,
     "received series has no metric name (err-mimir-missing-metric-name)"},
    {"empty metric name", {"__name__", "", "a", "b"}, REASON_MISSING_METRIC_NAME, ERR_MISSING_METRIC_NAME,
     "received series has no metric name (err-mimir-missing-metric-name)"},
    {"no labels left", {"__name__", "", "a", ""}, REASON_NO_LABELS, ERR_OK, ""},
    {"bad metric name", {"__name__", "a-b"}, REASON_METRIC_NAME_INVALID, ERR_METRIC_NAME_INVALID,
     "received a series with invalid metric name: 'a-b' (err-mimir-metric-name-invalid)"},
    {"non-ascii metric name", {"__name__", "a\xc3\xa4-b"}, REASON_METRIC_NAME_INVALID, ERR_METRIC_NAME_INVALID,
     "received a series with invalid metric name: 'a-b (non-ascii characters removed)' (err-mimir-metric-name-invalid)"},
    {"bad label name", {"__name__", "m", "a-b", "c"}, REASON_LABEL_INVALID, ERR_LABEL_INVALID,
     "received a series with an invalid label: 'a-b' series: 'm{a-b=\"c\"}' (err-mimir-label-invalid)"},
    {"colon in a label name", {"__name__", "m", "a:b", "c"}, REASON_LABEL_INVALID, ERR_LABEL_INVALID,
     "received a series with an invalid label: 'a:b' series: 'm{a:b=\"c\"}' (err-mimir-label-invalid)"},
    {"empty label name", {"", "c", "__name__", "m"}, REASON_LABEL_INVALID, ERR_LABEL_INVALID,
     "received a series with an invalid label: '' series: 'm{=\"c\"}' (err-mimir-label-invalid)"},
    {"duplicate label", {"__name__", "m", "a", "b", "a", "c"}, REASON_DUPLICATE_LABEL_NAMES, ERR_DUPLICATE_LABEL_NAMES,
     "received a series with duplicate label name, label: 'a' series: 'm{a=\"b\", a=\"c\"}' (err-mimir-duplicate-label-names)"},
    {"duplicate label, equal value, unsorted", {"b", "x", "a", "b", "b", "x", "__name__", "m"}, REASON_DUPLICATE_LABEL_NAMES,
     ERR_DUPLICATE_LABEL_NAMES,
     "received a series with duplicate label name, label: 'b' series: 'm{a=\"b\", b=\"x\", b=\"x\"}' "
     "(err-mimir-duplicate-label-names)"},
    {"two metric names", {"__name__", "m", "__name__", "n"}, REASON_DUPLICATE_LABEL_NAMES, ERR_DUPLICATE_LABEL_NAMES,
     "received a series with duplicate label name, label: '__name__' series: 'm{__name__=\"n\"}' (err-mimir-duplicate-label-names)"},
    {"unsorted", {"b", "x", "__name__", "m", "a", "b"}, REASON_N, ERR_OK, ""},
    {"bad UTF-8 in a value", {"__name__", "m", "a", "x\xffy"}, REASON_LABEL_VALUE_INVALID, ERR_LABEL_VALUE_INVALID,
     "received a series with invalid value in label 'a': 'x\xffy' metric: 'm' (err-mimir-label-value-invalid)"},
    {"empty value", {"__name__", "m", "a", ""}, REASON_N, ERR_OK, ""},
    {"reserved label", {"__name__", "m", "__x__", "1"}, REASON_N, ERR_OK, ""},
};

Test(push_labels, one_bad_series_is_refused_with_mimirs_words)
{
    for (size_t i = 0; i < sizeof(label_cases) / sizeof(label_cases[0]); i++) {
        const struct label_case *c = &label_cases[i];
        struct buf m = {0};
        pb_series(&m, c->labels);
        pb_series(&m, LABELS("__name__", "good"));
        struct push *p = push_of(&f, &m);
        cr_expect_eq(p->error.code, c->code, "%s: %s", c->what, push_text(p));
        cr_expect_str_eq(push_text(p), c->text, "%s: %s", c->what, push_text(p));
        cr_expect_eq(p->accepted.samples, c->reason == REASON_N ? 2u : 1u, "%s", c->what);
        cr_expect_eq(p->produce.n, 1u, "%s", c->what);
        for (int r = 0; r < REASON_N; r++)
            cr_expect_eq(p->discards[r], r == (int)c->reason, "%s: reason %d", c->what, r);
        push_done(&f, p);
    }
}

/* A series of n labels in all. */
static void series_of(struct buf *m, const char *name, int n)
{
    struct buf s = {0};
    pb_label(&s, "__name__", name);
    for (int i = 1; i < n; i++) {
        char label[32];
        snprintf(label, sizeof(label), "l%06d", i);
        pb_label(&s, label, "v");
    }
    pb_sample(&s, 1, NOW_MS);
    pb_sub(m, 1, &s);
}

static void expect_count(const char *name, int n, enum err_code code, const char *start, const char *end)
{
    struct buf m = {0};
    series_of(&m, name, n);
    struct push *p = push_of(&f, &m);
    cr_expect_eq(p->error.code, code, "%d labels: %s", n, push_text(p));
    cr_expect(slice_has_prefix(slice_of(push_text(p)), slice_of(start)), "%s", push_text(p));
    cr_expect(slice_has_suffix(slice_of(push_text(p)), slice_of(end)), "%s", push_text(p));
    push_done(&f, p);
}

Test(push_labels, number_of_labels_is_limited_and_info_series_may_have_more)
{
    expect_count("m", 30, ERR_OK, "", "");
    expect_count("m", 31, ERR_MAX_LABEL_NAMES_PER_SERIES,
                 "received a series whose number of labels exceeds the limit (actual: 31, limit: 30) series: 'm{l000001=\"v\", ",
                 "\xe2\x80\xa6' (err-mimir-max-label-names-per-series). To adjust the related per-tenant limit, configure "
                 "-validation.max-label-names-per-series, or contact your service administrator.");
    expect_count("m_info", 80, ERR_OK, "", "");
    expect_count("m_info", 81, ERR_MAX_LABEL_NAMES_PER_INFO_SERIES,
                 "received an info series whose number of labels exceeds the limit (actual: 81, limit: 80) series: 'm_info{",
                 "-validation.max-label-names-per-info-series, or contact your service administrator.");
    expect_count("m", 200000, ERR_MAX_LABEL_NAMES_PER_SERIES,
                 "received a series whose number of labels exceeds the limit (actual: 200000, limit: 30) series: 'm{l000001=\"v\", ",
                 "or contact your service administrator.");
}

Test(push_labels, lengths_of_names_and_values_are_limited)
{
    struct buf m = {0};
    pb_series(&m, LABELS("__name__", "m", repeat('a', 1024), repeat('v', 2048)));
    struct push *p = push_of(&f, &m);
    cr_expect_eq(p->error.code, ERR_OK, "%s", push_text(p));
    push_done(&f, p);

    pb_series(&m, LABELS("__name__", "m", repeat('a', 1025), "v"));
    p = push_of(&f, &m);
    snprintf(text_a, sizeof(text_a),
             "received a series whose label name length exceeds the limit, label: '%s' series: 'm{%s' "
             "(err-mimir-label-name-too-long). To adjust the related per-tenant limit, configure -validation.max-length-label-name, "
             "or contact your service administrator.",
             repeat('a', 200), repeat('a', 198));
    cr_expect_str_eq(push_text(p), text_a);
    cr_expect_eq(p->discards[REASON_LABEL_NAME_TOO_LONG], 1u);
    push_done(&f, p);

    pb_series(&m, LABELS("__name__", "m", "a", repeat('v', 2049)));
    p = push_of(&f, &m);
    snprintf(text_a, sizeof(text_a),
             "received a series whose label value length of 2049 exceeds the limit of 2048, label: 'a', value: '%s' (truncated) "
             "series: 'm{a=\"%s' (err-mimir-label-value-too-long). To adjust the related per-tenant limit, configure "
             "-validation.max-length-label-value, or contact your service administrator.",
             repeat('v', 200), repeat('v', 195));
    cr_expect_str_eq(push_text(p), text_a);
    push_done(&f, p);
}

Test(push_labels, over_long_values_are_shortened_where_the_tenant_wants_it)
{
    static const char *const strategies[] = {"truncate", "drop"};
    for (int i = 0; i < 2; i++) {
        f.limits.label_value_length_over_limit_strategy = strategies[i];
        f.limits.max_label_value_length = 80;
        struct buf m = {0};
        pb_series(&m, LABELS("__name__", "m", "a", repeat('v', 100)));
        struct push *p = push_of(&f, &m);
        cr_expect_eq(p->error.code, ERR_OK);
        struct decoded dec;
        decode_record(&p->produce.records[0], &dec);
        struct labels l;
        cr_assert(labels_from_span(dec.req.series[0].labels, &dec.arena, &l));
        struct slice v = labels_get(l, SL("a"));
        cr_expect_eq(v.n, i ? 71u : 80u);
        cr_expect(slice_has_prefix(v, i ? SL("(hash:") : SL("vvvvvvvvv(hash:")), "%.*s", SL_FMT(v));
        cr_expect(slice_has_suffix(v, SL(")")));
        arena_release(&dec.arena);
        push_done(&f, p);
    }
}

Test(push_labels, a_body_with_broken_labels_is_refused_as_a_whole)
{
    struct buf m = {0}, s = {0};
    pb_series(&m, LABELS("__name__", "good"));
    pb_bytes(&s, 1, "\x0a\x7fz", 3); /* a label whose name reaches past its end */
    pb_sample(&s, 1, NOW_MS);
    pb_sub(&m, 1, &s);
    struct push *p = push_of(&f, &m);
    cr_expect_eq(p->error.code, ERR_BAD_DATA);
    cr_expect_str_eq(push_text(p), "unexpected EOF");
    cr_expect_eq(p->produce.n, 0u);
    push_done(&f, p);
}

Test(push_labels, the_first_error_in_the_requests_order_is_named)
{
    struct buf m = {0}, s = {0};
    pb_labels(&s, LABELS("__name__", "early"));
    pb_sample(&s, 1, NOW_MS + 3600000);
    pb_sub(&m, 1, &s);
    pb_series(&m, LABELS("a", "b")); /* its labels are looked at before any sample */
    struct push *p = push_of(&f, &m);
    cr_expect_eq(p->error.code, ERR_TOO_FAR_IN_FUTURE, "%s", push_text(p));
    push_done(&f, p);
}

Test(push_labels, a_known_series_is_not_validated_again_until_the_limits_change)
{
    struct buf m = {0};
    for (int i = 0; i < 3; i++) {
        pb_series(&m, LABELS("__name__", "m", "a", "b", "c", "d"));
        struct push *p = push_of(&f, &m);
        cr_expect_eq(p->error.code, ERR_OK);
        cr_expect_eq(known_series_count(&p->tenant->known), 1u);
        push_done(&f, p);
    }
    f.limits.max_label_names_per_series = 2;
    pb_series(&m, LABELS("__name__", "m", "a", "b", "c", "d"));
    struct push *p = push_of(&f, &m);
    cr_expect_eq(p->error.code, ERR_MAX_LABEL_NAMES_PER_SERIES);
    push_done(&f, p);
}

Test(push_labels, checks_are_skipped_only_when_header_and_body_ask_for_it)
{
    static const struct {
        bool header, field;
        enum err_code want;
    } cases[] = {{false, false, ERR_LABEL_INVALID}, {true, false, ERR_LABEL_INVALID}, {false, true, ERR_LABEL_INVALID}, {true, true, ERR_OK}};
    for (int again = 0; again < 2; again++) { /* the one that was let through must not make it known */
        for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
            struct buf m = {0};
            pb_series(&m, LABELS("__name__", "m", "a-b", "c"));
            if (cases[i].field)
                pb_varint(&m, 1000, 1);
            struct push *p = push_new(f.d, write_tenants_get(f.d->tenants, SL("t"), 1));
            p->body = compressed(&m);
            p->skip_names_header = cases[i].header;
            push_prepare(p);
            cr_expect_eq(p->error.code, cases[i].want, "case %zu: %s", i, push_text(p));
            push_done(&f, p);
        }
    }
}

Test(push_labels, dropped_labels_do_not_reach_the_record)
{
    static const char *names[] = {"b", "nope"};
    f.limits.drop_labels = (struct flag_list){names, 2};
    struct buf m = {0};
    pb_series(&m, LABELS("__name__", "m", "a", "1", "b", "2"));
    struct push *p = push_of(&f, &m);
    cr_expect_eq(p->error.code, ERR_OK);
    struct decoded dec;
    decode_record(&p->produce.records[0], &dec);
    struct labels l;
    cr_assert(labels_from_span(dec.req.series[0].labels, &dec.arena, &l));
    cr_expect_eq(l.n, 2u);
    cr_expect(slice_eq(labels_get(l, SL("a")), SL("1")));
    arena_release(&dec.arena);
    push_done(&f, p);
}

Test(push_labels, the_utf8_scheme_takes_any_valid_name)
{
    f.limits.name_validation_scheme = "utf8";
    struct buf m = {0};
    pb_series(&m, LABELS("__name__", "m-x\xc3\xa4", "a-b", "c"));
    struct push *p = push_of(&f, &m);
    cr_expect_eq(p->error.code, ERR_OK, "%s", push_text(p));
    push_done(&f, p);
    pb_series(&m, LABELS("__name__", "m\xff"));
    p = push_of(&f, &m);
    cr_expect_eq(p->error.code, ERR_METRIC_NAME_INVALID);
    push_done(&f, p);
}
