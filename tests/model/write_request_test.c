#include <criterion/criterion.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>

#include "model/write_request.h"
#include "tests/model/wire.h"

enum form { RW1, RW2, RECORD_V2 };

static bool scan(enum form form, struct slice msg, struct arena *a, struct write_request *req, struct err *err)
{
    return form == RW1
               ? write_request_scan(msg, a, req, err)
               : write_request_scan_v2(msg, form == RW2 ? WRITE_SYMBOLS_RW2 : WRITE_SYMBOLS_RECORD_V2, a, req, err);
}

/* The scan works on a copy of exactly the message's size, so that a read past its end is seen by the sanitizer. */
struct scanned {
    struct arena arena;
    char *copy;
    struct write_request req;
    struct err err;
    bool ok;
};

static struct scanned scan_exact(enum form form, struct slice msg)
{
    struct scanned s = {.err = ERR_NONE};
    arena_init(&s.arena, 0);
    s.copy = malloc(msg.n ? msg.n : 1);
    if (msg.n)
        memcpy(s.copy, msg.p, msg.n);
    s.ok = scan(form, slice_make(s.copy, msg.n), &s.arena, &s.req, &s.err);
    return s;
}

static void scanned_release(struct scanned *s)
{
    arena_release(&s->arena);
    free(s->copy);
}

static void expect_failure(enum form form, struct slice msg, const char *text)
{
    struct scanned s = scan_exact(form, msg);
    cr_expect_not(s.ok, "should fail with: %s", text);
    cr_expect_eq(s.err.code, ERR_BAD_DATA);
    cr_expect_str_eq(s.err.text, text);
    scanned_release(&s);
}

/* The labels of a span as name=value, */
static void expect_labels(struct slice span, const char *want)
{
    struct buf b = {0};
    struct write_label_iter it = write_label_iter(span);
    struct label l;
    int r;
    while ((r = write_label_next(&it, &l)) > 0)
        buf_printf(&b, "%.*s=%.*s,", SL_FMT(l.name), SL_FMT(l.value));
    cr_expect_eq(r, 0);
    cr_expect_str_eq(buf_cstr(&b), want);
    buf_release(&b);
}

/* --- remote write 1.0 -----------------------------------------------------------------------------------------------
 */

Test(write_request, an_empty_message_is_a_request_of_nothing)
{
    struct scanned s = scan_exact(RW1, (struct slice){NULL, 0});
    cr_expect(s.ok);
    cr_expect_eq(s.req.n_series + s.req.n_metadata + s.req.n_samples, 0);
    scanned_release(&s);
}

Test(write_request, a_request_with_everything_in_it)
{
    struct buf msg = {0}, ts = {0}, ex = {0}, md = {0};
    wire_label(&ts, "__name__", "up");
    wire_label(&ts, "job", "x");
    wire_sample(&ts, 1700000000000, 1.5);
    wire_sample(&ts, -5, -0.0);
    wire_label(&ex, "trace_id", "abc");
    wire_double(&ex, 2, 7);
    wire_varint(&ex, 3, 1700000000001);
    wire_message(&ts, 3, &ex);
    wire_str(&ts, 4, "histogram bytes");
    wire_varint(&ts, 6, 1699999999999);
    wire_message(&msg, 1, &ts);
    wire_label(&ts, "__name__", "down");
    wire_sample(&ts, 1, 2);
    wire_message(&msg, 1, &ts);
    wire_varint(&msg, 2, 1);
    wire_varint(&md, 1, 4);
    wire_str(&md, 2, "up");
    wire_str(&md, 4, "Help.");
    wire_str(&md, 5, "s");
    wire_message(&msg, 3, &md);
    wire_varint(&msg, 1000, 1);
    wire_varint(&msg, 1001, 1);
    wire_str(&msg, 777, "unknown");

    struct scanned s = scan_exact(RW1, buf_slice(&msg));
    cr_assert(s.ok, "%s", s.err.text);
    const struct write_request *r = &s.req;
    cr_assert_eq(r->n_series, 2);
    const struct write_series *up = &r->series[0];
    cr_expect_eq(up->flags, WRITE_SERIES_SPAN_WHOLE);
    expect_labels(up->labels, "__name__=up,job=x,");
    cr_expect(label_span_is_canonical(up->labels));
    cr_assert_eq(up->n_samples, 2);
    cr_expect_eq(r->samples[up->first_sample].t, 1700000000000);
    cr_expect_float_eq(r->samples[up->first_sample].v, 1.5, 0);
    cr_expect_eq(r->samples[up->first_sample + 1].t, -5);
    cr_expect(signbit(r->samples[up->first_sample + 1].v));
    cr_assert_eq(up->n_exemplars, 1);
    const struct write_exemplar *e = &r->exemplars[up->first_exemplar];
    expect_labels(e->labels, "trace_id=abc,");
    cr_expect_eq(e->t, 1700000000001);
    cr_expect_float_eq(e->v, 7, 0);
    cr_assert_eq(up->n_histograms, 1);
    cr_expect(slice_eq(r->histograms[up->first_histogram], SL("histogram bytes")));
    cr_expect_eq(up->created_t, 1699999999999);
    cr_expect_eq(r->series[1].n_samples, 1);
    cr_expect_eq(r->samples[r->series[1].first_sample].t, 1);
    cr_expect_eq(r->source, 1);
    cr_assert_eq(r->n_metadata, 1);
    cr_expect_eq(r->metadata[0].type, 4);
    cr_expect(slice_eq(r->metadata[0].family, SL("up")));
    cr_expect(slice_eq(r->metadata[0].help, SL("Help.")));
    cr_expect(slice_eq(r->metadata[0].unit, SL("s")));
    cr_expect(r->skip_label_validation && r->skip_label_count_validation);
    scanned_release(&s);
    buf_release(&msg), buf_release(&ts), buf_release(&ex), buf_release(&md);
}

Test(write_request, timestamps_of_every_length)
{
    struct buf msg = {0}, ts = {0};
    int64_t t[64];
    wire_label(&ts, "__name__", "m");
    for (int i = 0; i < 64; i++) {
        t[i] = (int64_t)((i % 2 ? 0x5a5a5a5a5a5a5a5aULL : ~0ULL) >> (63 - i));
        wire_sample(&ts, t[i], i);
    }
    wire_message(&msg, 1, &ts);
    struct scanned s = scan_exact(RW1, buf_slice(&msg));
    cr_assert(s.ok);
    cr_assert_eq(s.req.n_samples, 64);
    for (int i = 0; i < 64; i++) {
        cr_expect_eq(s.req.samples[i].t, t[i], "%d", i);
        cr_expect_float_eq(s.req.samples[i].v, i, 0);
    }
    scanned_release(&s);
    buf_release(&msg), buf_release(&ts);
}

Test(write_request, samples_with_fields_absent_swapped_or_unknown)
{
    struct buf msg = {0}, ts = {0}, sample = {0};
    wire_label(&ts, "__name__", "m");
    wire_message(&ts, 2, &sample); /* empty: 0 at 0 */
    wire_varint(&sample, 2, 9);
    wire_double(&sample, 1, 8);
    wire_message(&ts, 2, &sample);
    wire_double(&sample, 1, 7);
    wire_varint(&sample, 2, 6);
    wire_varint(&sample, 3, 5);
    wire_message(&ts, 2, &sample);
    wire_message(&msg, 1, &ts);
    struct scanned s = scan_exact(RW1, buf_slice(&msg));
    cr_assert(s.ok, "%s", s.err.text);
    cr_assert_eq(s.req.n_samples, 3);
    cr_expect_eq(s.req.samples[0].t, 0);
    cr_expect(s.req.samples[1].t == 9 && s.req.samples[1].v == 8);
    cr_expect(s.req.samples[2].t == 6 && s.req.samples[2].v == 7);
    scanned_release(&s);
    buf_release(&msg), buf_release(&ts), buf_release(&sample);
}

Test(write_request, labels_that_are_not_in_one_run_are_still_all_there)
{
    struct buf msg = {0}, ts = {0};
    wire_label(&ts, "__name__", "m");
    wire_sample(&ts, 1, 1);
    wire_label(&ts, "a", "b");
    wire_label(&ts, "c", "d");
    wire_message(&msg, 1, &ts);
    wire_sample(&ts, 1, 1);
    wire_label(&ts, "__name__", "late");
    wire_label(&ts, "a", "b");
    wire_message(&msg, 1, &ts);
    struct scanned s = scan_exact(RW1, buf_slice(&msg));
    cr_assert(s.ok);
    cr_expect_eq(s.req.series[0].flags, 0);
    expect_labels(s.req.series[0].labels, "__name__=m,a=b,c=d,");
    cr_expect_not(label_span_is_canonical(s.req.series[0].labels));
    cr_expect_eq(s.req.series[1].flags, WRITE_SERIES_SPAN_WHOLE);
    expect_labels(s.req.series[1].labels, "__name__=late,a=b,");
    scanned_release(&s);
    buf_release(&msg), buf_release(&ts);
}

Test(write_request, label_entries_in_any_encoding_are_read)
{
    struct buf msg = {0}, ts = {0}, pair = {0};
    wire_str(&pair, 2, "v");
    wire_str(&pair, 1, "swapped");
    wire_message(&ts, 1, &pair);
    wire_str(&pair, 1, "novalue");
    wire_message(&ts, 1, &pair);
    wire_str(&pair, 1, "old");
    wire_str(&pair, 1, "twice");
    wire_varint(&pair, 9, 1);
    wire_str(&pair, 2, "v");
    wire_message(&ts, 1, &pair);
    buf_put(&ts, "\x8A\x00\x06\x0A\x01x\x12\x01y", 9); /* a tag of two bytes */
    wire_message(&msg, 1, &ts);
    struct scanned s = scan_exact(RW1, buf_slice(&msg));
    cr_assert(s.ok);
    cr_expect_eq(s.req.series[0].flags, WRITE_SERIES_SPAN_WHOLE);
    expect_labels(s.req.series[0].labels, "swapped=v,novalue=,twice=v,x=y,");
    scanned_release(&s);
    buf_release(&msg), buf_release(&ts), buf_release(&pair);
}

Test(write_request, malformed_labels_are_found_by_the_walk)
{
    struct buf msg = {0}, ts = {0}, pair = {0};
    wire_varint(&pair, 1, 3);
    wire_message(&ts, 1, &pair);
    wire_message(&msg, 1, &ts);
    struct scanned s = scan_exact(RW1, buf_slice(&msg));
    cr_assert(s.ok);
    struct write_label_iter it = write_label_iter(s.req.series[0].labels);
    struct label l;
    struct err err = ERR_NONE;
    cr_expect_eq(write_label_next(&it, &l), -1);
    cr_expect_not(write_labels_check(s.req.series[0].labels, &err));
    cr_expect_str_eq(err.text, "proto: wrong wireType = 0 for field Name");
    scanned_release(&s);
    buf_release(&msg), buf_release(&ts), buf_release(&pair);
}

Test(write_request, series_without_labels_are_counted_and_not_kept)
{
    struct buf msg = {0}, ts = {0};
    wire_sample(&ts, 1, 1);
    wire_sample(&ts, 2, 1);
    wire_str(&ts, 3, "");
    wire_message(&msg, 1, &ts);
    wire_message(&msg, 1, &ts);
    wire_label(&ts, "__name__", "m");
    wire_sample(&ts, 3, 1);
    wire_message(&msg, 1, &ts);
    struct scanned s = scan_exact(RW1, buf_slice(&msg));
    cr_assert(s.ok, "%s", s.err.text);
    cr_expect_eq(s.req.n_unlabelled_series, 2);
    cr_expect_eq(s.req.n_unlabelled_samples, 2);
    cr_expect_eq(s.req.n_unlabelled_exemplars, 1);
    cr_assert_eq(s.req.n_series, 1);
    cr_expect_eq(s.req.samples[s.req.series[0].first_sample].t, 3);
    cr_expect_eq(s.req.n_samples, 1);
    scanned_release(&s);
    buf_release(&msg), buf_release(&ts);
}

Test(write_request, errors_of_the_top_level_and_below)
{
    static const struct {
        struct slice msg;
        const char *text;
    } cases[] = {
        {SL("\x0A"), "unexpected EOF"},
        {SL("\x0A\x05\x0A"), "unexpected EOF"},
        {SL("\x0A\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01"), "proto: negative length found during unmarshaling"},
        {SL("\x0A\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01"), "proto: integer overflow"},
        {SL("\x0B"), "proto: wrong wireType = 3 for field Timeseries"},
        {SL("\x08\x01"), "proto: wrong wireType = 0 for field Timeseries"},
        {SL("\x00"), "proto: WriteRequest: illegal tag 0 (wire type 0)"},
        {SL("\x0C"), "proto: WriteRequest: wiretype end group for non-group"},
        {SL("\x12\x01x"), "proto: wrong wireType = 2 for field Source"},
        {SL("\x18\x01"), "proto: wrong wireType = 0 for field Metadata"},
        {SL("\x22\x00"), "proto: Remote Write 2.0 field Symbols in non-Remote Write 2.0 message"},
        {SL("\x2A\x00"), "proto: Remote Write 2.0 field Timeseries in non-Remote Write 2.0 message"},
        {SL("\x3E"), "proto: illegal wireType 6"},
        {SL("\x39\x01"), "unexpected EOF"},
        {SL("\x3D\x01"), "unexpected EOF"},
        {SL("\x3A\x05x"), "unexpected EOF"},
        {SL("\x3B\x3B\x3C"), "unexpected EOF"}, /* a group that does not end */
        {SL("\x0A\x01\x0A"), "unexpected EOF"},
        {SL("\x0A\x02\x0A\x01"), "unexpected EOF"},
        {SL("\x0A\x02\x08\x01"), "proto: wrong wireType = 0 for field Labels"},
        {SL("\x0A\x02\x10\x01"), "proto: wrong wireType = 0 for field Samples"},
        {SL("\x0A\x01\x04"), "proto: TimeSeries: wiretype end group for non-group"},
        {SL("\x0A\x02\x32\x00"), "proto: wrong wireType = 2 for field CreatedTimestamp"},
        {SL("\x0A\x04\x12\x02\x08\x01"), "proto: wrong wireType = 0 for field Value"},
        {SL("\x0A\x04\x12\x02\x09\x01"), "unexpected EOF"},
        {SL("\x0A\x04\x12\x02\x12\x00"), "proto: wrong wireType = 2 for field TimestampMs"},
        {SL("\x0A\x04\x1A\x02\x08\x00"), "proto: wrong wireType = 0 for field Labels"},
        {SL("\x1A\x02\x10\x00"), "proto: wrong wireType = 0 for field MetricFamilyName"},
        {SL("\x1A\x01\x00"), "proto: MetricMetadata: illegal tag 0 (wire type 0)"},
    };
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++)
        expect_failure(RW1, cases[i].msg, cases[i].text);
}

Test(write_request, every_truncation_of_a_message_is_handled)
{
    struct buf msg = {0}, ts = {0}, ex = {0};
    wire_label(&ts, "__name__", "up");
    wire_label(&ts, "job", "x");
    wire_sample(&ts, 1700000000000, 1.5);
    wire_label(&ex, "trace_id", "abc");
    wire_double(&ex, 2, 7);
    wire_message(&ts, 3, &ex);
    wire_message(&msg, 1, &ts);
    for (size_t n = 1; n < msg.n; n++)
        expect_failure(RW1, slice_make(msg.p, n), "unexpected EOF");
    buf_release(&msg), buf_release(&ts), buf_release(&ex);
}

Test(write_request, unknown_groups_are_passed_over)
{
    struct scanned s = scan_exact(RW1, SL("\x3B\x40\x01\x43\x44\x3C\x10\x01")); /* 7 { 8: 1, 8 {} } 2: 1 */
    cr_expect(s.ok, "%s", s.err.text);
    cr_expect_eq(s.req.source, 1);
    scanned_release(&s);
}

/* --- bounds ---------------------------------------------------------------------------------------------------------
 */

static struct buf repeat(const char *bytes, size_t n_bytes, size_t times)
{
    struct buf b = {0};
    for (size_t i = 0; i < times; i++)
        buf_put(&b, bytes, n_bytes);
    return b;
}

static void expect_bounded(enum form form, struct buf *msg)
{
    struct scanned s = scan_exact(form, buf_slice(msg));
    /* The arena may round up what it takes from the system. */
    size_t max = WRITE_ITEMS_FACTOR * msg->n + WRITE_ITEMS_FREE;
    cr_expect_leq(s.arena.used_bytes, max + max / 4 + ((size_t)2 << 20), "%zu of %zu", s.arena.used_bytes, max);
    scanned_release(&s);
    buf_release(msg);
}

Test(write_request, bombs_of_tiny_messages_are_bounded_by_their_size)
{
    struct buf empty_series = repeat("\x0A\x00", 2, 500000);
    struct buf empty_label = repeat("\x0A\x02\x0A\x00", 4, 300000);
    struct buf metadata = repeat("\x1A\x00", 2, 500000);
    struct buf symbols = repeat("\x22\x00", 2, 500000);
    struct buf series_v2 = repeat("\x2A\x00", 2, 500000);
    expect_bounded(RW1, &empty_series);
    expect_bounded(RW1, &empty_label);
    expect_bounded(RW1, &metadata);
    expect_bounded(RW2, &symbols);
    expect_bounded(RW2, &series_v2);

    static const char *const items[] = {"\x12\x00", "\x1A\x00", "\x22\x00"};
    for (size_t i = 0; i < 3; i++) {
        struct buf msg = {0}, ts = {0};
        wire_label(&ts, "__name__", "m");
        struct buf many = repeat(items[i], 2, 500000);
        buf_put(&ts, many.p, many.n);
        wire_message(&msg, 1, &ts);
        expect_bounded(RW1, &msg);
        buf_release(&ts), buf_release(&many);
    }
}

Test(write_request, symbols_that_expand_without_end_are_refused)
{
    static char symbol[1 << 20];
    memset(symbol, 'x', sizeof(symbol));
    struct buf msg = {0}, ts = {0};
    wire_str(&msg, 4, "");
    wire_bytes(&msg, 4, slice_make(symbol, sizeof(symbol)));
    for (int i = 0; i < 1000; i++) {
        uint32_t refs[] = {1, 1};
        wire_refs(&ts, 1, refs, 2);
        wire_message(&msg, 5, &ts);
    }
    struct scanned s = scan_exact(RW2, buf_slice(&msg));
    cr_expect_not(s.ok);
    cr_expect_eq(s.err.code, ERR_BAD_DATA);
    cr_expect_eq(strncmp(s.err.text, "the symbols of the write request expand", 39), 0, "%s", s.err.text);
    scanned_release(&s);
    buf_release(&msg), buf_release(&ts);
}

Test(write_request, a_series_of_a_million_labels_costs_one_struct)
{
    struct buf msg = {0}, ts = {0};
    for (int i = 0; i < 1000000; i++) {
        char name[16];
        snprintf(name, sizeof(name), "l%06d", i);
        wire_label(&ts, name, "v");
    }
    wire_sample(&ts, 1, 1);
    wire_message(&msg, 1, &ts);
    struct scanned s = scan_exact(RW1, buf_slice(&msg));
    cr_assert(s.ok);
    cr_expect_leq(s.arena.used_bytes, 65536);
    cr_expect(label_span_is_canonical(s.req.series[0].labels));
    scanned_release(&s);
    buf_release(&msg), buf_release(&ts);
}

Test(write_request, memory_is_about_one_struct_a_series)
{
    struct buf msg = {0}, ts = {0};
    for (int i = 0; i < 20000; i++) {
        wire_label(&ts, "__name__", "some_metric_name_total");
        wire_label(&ts, "instance", "host-1:9090");
        wire_sample(&ts, 1700000000000, i);
        wire_message(&msg, 1, &ts);
    }
    struct scanned s = scan_exact(RW1, buf_slice(&msg));
    cr_assert(s.ok);
    cr_expect_leq(s.arena.used_bytes, 20000 * (sizeof(struct write_series) + sizeof(struct write_sample)) + 65536);
    scanned_release(&s);
    buf_release(&msg), buf_release(&ts);
}

Test(write_request, an_arena_that_is_used_up_is_an_error)
{
    struct buf msg = repeat("\x0A\x13\x0A\x0D\x0A\x08__name__\x12\x01m\x12\x02\x10\x01", 21, 10000);
    struct arena arena;
    arena_init(&arena, 100000);
    struct write_request req;
    struct err err = ERR_NONE;
    cr_expect_not(write_request_scan(buf_slice(&msg), &arena, &req, &err));
    cr_expect_eq(err.code, ERR_BAD_DATA);
    arena_release(&arena);
    buf_release(&msg);
}

/* --- canonical spans ------------------------------------------------------------------------------------------------
 */

Test(write_request, canonical_means_one_encoding_only)
{
    static const struct {
        struct slice span;
        bool want;
    } cases[] = {
        {{NULL, 0}, true},
        {SL("\x0A\x06\x0A\x01"
            "a\x12\x01"
            "1"),
         true},
        {SL("\x0A\x06\x0A\x01"
            "a\x12\x01"
            "1\x0A\x06\x0A\x01"
            "b\x12\x01"
            "1"),
         true},
        {SL("\x0A\x07\x0A\x01"
            "a\x12\x02"
            "11\x0A\x07\x0A\x02"
            "ab\x12\x01"
            "1"),
         true}, /* a < ab */
        {SL("\x0A\x07\x0A\x02"
            "ab\x12\x01"
            "1\x0A\x06\x0A\x01"
            "a\x12\x01"
            "1"),
         false},
        {SL("\x0A\x06\x0A\x01"
            "b\x12\x01"
            "1\x0A\x06\x0A\x01"
            "a\x12\x01"
            "1"),
         false}, /* order */
        {SL("\x0A\x06\x0A\x01"
            "a\x12\x01"
            "1\x0A\x06\x0A\x01"
            "a\x12\x01"
            "2"),
         false}, /* twice */
        {SL("\x0A\x05\x0A\x01"
            "a\x12\x00"),
         false}, /* empty value */
        {SL("\x0A\x03\x0A\x01"
            "a"),
         false}, /* no value */
        {SL("\x0A\x06\x12\x01"
            "1\x0A\x01"
            "a"),
         false}, /* swapped */
        {SL("\x0A\x86\x00\x0A\x01"
            "a\x12\x01"
            "1"),
         false}, /* long varint */
        {SL("\x0A\x07\x0A\x81\x00"
            "a\x12\x01"
            "1"),
         false}, /* long varint inside */
        {SL("\x0A\x08\x0A\x01"
            "a\x12\x01"
            "1\x18\x01"),
         false}, /* another field */
        {SL("\x0A\x06\x0A\x01"
            "a\x12\x01"
            "1\x12\x00"),
         false}, /* a sample */
        {SL("\x0A\x06\x0A\x01"
            "a\x12\x01"),
         false}, /* cut */
        {SL("\x0A\x06\x0A\x01"
            "\xff\x12\x01"
            "1\x0A\x06\x0A\x01"
            "a\x12\x01"
            "1"),
         false}, /* bytes are unsigned */
    };
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++)
        cr_expect_eq(label_span_is_canonical(cases[i].span), cases[i].want, "case %zu", i);
}

/* --- the symbol form ------------------------------------------------------------------------------------------------
 */

static void put_symbols(struct buf *msg, const char *const *symbols)
{
    for (; *symbols; symbols++)
        wire_str(msg, 4, *symbols);
}

Test(write_request, the_symbol_form_becomes_messages_of_version_1)
{
    static const char *const symbols[] = {"", "__name__", "up", "job", "x", "trace_id", "abc", "Help.", "s", NULL};
    struct buf msg = {0}, ts = {0}, in = {0};
    put_symbols(&msg, symbols);
    wire_refs(&ts, 1, (uint32_t[]){1, 2, 3, 4}, 4);
    wire_sample(&ts, 1700000000000, -0.0);
    wire_str(&ts, 3, "histogram bytes");
    wire_refs(&in, 1, (uint32_t[]){5, 6}, 2);
    wire_double(&in, 2, 3);
    wire_varint(&in, 3, 99);
    wire_message(&ts, 4, &in);
    wire_varint(&in, 1, 1);
    wire_varint(&in, 3, 7);
    wire_varint(&in, 4, 8);
    wire_message(&ts, 5, &in);
    wire_varint(&ts, 6, 42);
    wire_message(&msg, 5, &ts);

    struct scanned s = scan_exact(RW2, buf_slice(&msg));
    cr_assert(s.ok, "%s", s.err.text);
    cr_assert_eq(s.req.n_series, 1);
    const struct write_series *series = &s.req.series[0];
    cr_expect_eq(series->flags, WRITE_SERIES_SPAN_WHOLE | WRITE_SERIES_REENCODED);
    expect_labels(series->labels, "__name__=up,job=x,");
    cr_expect(label_span_is_canonical(series->labels));
    cr_expect_eq(series->labels.p, series->raw.p);

    /* What was built is scanned again, as the log's reader will. */
    struct buf again = {0};
    wire_bytes(&again, 1, series->raw);
    wire_bytes(&again, 3, s.req.metadata[0].raw);
    struct scanned t = scan_exact(RW1, buf_slice(&again));
    cr_assert(t.ok, "%s", t.err.text);
    const struct write_request *r = &t.req;
    cr_assert_eq(r->n_samples, 1);
    cr_expect(signbit(r->samples[0].v) && r->samples[0].v == 0);
    cr_expect_eq(r->samples[0].t, 1700000000000);
    cr_assert_eq(r->n_histograms, 1);
    cr_expect(slice_eq(r->histograms[0], SL("histogram bytes")));
    cr_assert_eq(r->n_exemplars, 1);
    expect_labels(r->exemplars[0].labels, "trace_id=abc,");
    cr_expect(r->exemplars[0].t == 99 && r->exemplars[0].v == 3);
    cr_expect_eq(r->series[0].created_t, 42);
    cr_assert_eq(r->n_metadata, 1);
    cr_expect_eq(r->metadata[0].type, 1);
    cr_expect(slice_eq(r->metadata[0].family, SL("up")));
    cr_expect(slice_eq(r->metadata[0].help, SL("Help.")));
    cr_expect(slice_eq(r->metadata[0].unit, SL("s")));
    scanned_release(&s), scanned_release(&t);
    buf_release(&again), buf_release(&msg), buf_release(&ts), buf_release(&in);
}

Test(write_request, symbols_may_follow_the_series_and_references_may_be_unpacked)
{
    static const char *const symbols[] = {"", "__name__", "up", NULL};
    struct buf msg = {0}, ts = {0};
    wire_varint(&ts, 1, 1);
    wire_sample(&ts, 1, 1);
    wire_refs(&ts, 1, (uint32_t[]){2}, 1);
    wire_message(&msg, 5, &ts);
    put_symbols(&msg, symbols);
    struct scanned s = scan_exact(RW2, buf_slice(&msg));
    cr_assert(s.ok, "%s", s.err.text);
    expect_labels(s.req.series[0].labels, "__name__=up,");
    scanned_release(&s);
    buf_release(&msg), buf_release(&ts);
}

Test(write_request, errors_of_the_symbol_form)
{
    static const struct {
        struct slice msg;
        const char *text;
    } cases[] = {
        {SL("\x22\x01x"), "proto: Remote Write 2.0 symbols must start with empty string"},
        {SL("\x22\x00\x2A\x03\x0A\x01\x00"), "proto: Remote Write 2.0 odd number of label references"},
        {SL("\x22\x00\x2A\x04\x0A\x02\x00\x01"), "proto: Remote Write 2.0 invalid label reference"},
        {SL("\x2A\x04\x0A\x02\x00\x00"), "proto: Remote Write 2.0 invalid label reference"},
        {SL("\x22\x00\x2A\x04\x2A\x02\x18\x07"), "proto: Remote Write 2.0 invalid help reference"},
        {SL("\x22\x00\x2A\x04\x2A\x02\x20\x07"), "proto: Remote Write 2.0 invalid unit reference"},
        {SL("\x22\x00\x2A\x05\x22\x03\x0A\x01\x00"), "proto: Remote Write 2.0 odd number of label references"},
        {SL("\x0A\x00"), "proto: Remote Write 1.0 field Timeseries in non-Remote Write 1.0 message"},
        {SL("\x1A\x00"), "proto: Remote Write 1.0 field Metadata in non-Remote Write 1.0 message"},
        {SL("\x0B"), "proto: wrong wireType = 3 for field Timeseries"},
        {SL("\x2A\x02\x0A"), "unexpected EOF"},
        {SL("\x28\x01"), "proto: wrong wireType = 0 for field TimeseriesRW2"},
        {SL("\x20\x01"), "proto: wrong wireType = 0 for field SymbolsRW2"},
    };
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++)
        expect_failure(RW2, cases[i].msg, cases[i].text);
}

Test(write_request, common_symbols_exist_in_records_only)
{
    /* The example of docs/formats.md 2.3: {__name__="up",job="x"}, 1.0 at 1000 ms. */
    static const char bytes[] =
        "\x22\x00\x22\x02up\x22\x01x\x2A\x16\x0A\x04\x01\x41\x13\x42\x12\x0C\x09\x00\x00\x00\x00\x00\x00\xF0\x3F"
        "\x10\xE8\x07\x2A\x00";
    struct slice msg = slice_make(bytes, sizeof(bytes) - 1);
    struct scanned s = scan_exact(RECORD_V2, msg);
    cr_assert(s.ok, "%s", s.err.text);
    cr_assert_eq(s.req.n_series, 1);
    expect_labels(s.req.series[0].labels, "__name__=up,job=x,");
    cr_expect(s.req.samples[0].t == 1000 && s.req.samples[0].v == 1);
    scanned_release(&s);
    expect_failure(RW2, msg, "proto: Remote Write 2.0 invalid label reference");
    /* 36 to 63 mean nothing. */
    expect_failure(RECORD_V2, SL("\x22\x00\x2A\x04\x0A\x02\x01\x24"),
                   "proto: Remote Write 2.0 invalid label reference");
    expect_failure(RECORD_V2, SL("\x22\x00\x2A\x04\x0A\x02\x01\x3F"),
                   "proto: Remote Write 2.0 invalid label reference");
}

/* A series {__name__=<symbol 2>} with metadata of a type and help <symbol 3>. */
static void put_family(struct buf *msg, uint32_t name, uint32_t type, uint32_t help)
{
    struct buf ts = {0}, in = {0};
    wire_refs(&ts, 1, (uint32_t[]){1, name}, 2);
    wire_varint(&in, 1, type);
    wire_varint(&in, 3, help);
    wire_message(&ts, 5, &in);
    wire_message(msg, 5, &ts);
    buf_release(&ts), buf_release(&in);
}

Test(write_request, metadata_of_the_symbol_form_is_kept_once_a_family)
{
    static const char *const symbols[] = {"",      "__name__",  "hh_bucket", "hh_count", "ss_sum",
                                          "c_sum", "gh_gcount", "First.",    "Second.",  NULL};
    struct buf msg = {0};
    put_symbols(&msg, symbols);
    put_family(&msg, 2, 3, 7); /* hh_bucket, histogram */
    put_family(&msg, 3, 3, 8); /* hh_count: the same family */
    put_family(&msg, 4, 5, 7); /* ss_sum, summary */
    put_family(&msg, 5, 1, 7); /* c_sum, counter: no suffix */
    put_family(&msg, 6, 4, 7); /* gh_gcount, gauge histogram */
    struct scanned s = scan_exact(RW2, buf_slice(&msg));
    cr_assert(s.ok);
    cr_assert_eq(s.req.n_metadata, 4);
    static const char *const want[] = {"hh", "ss", "c_sum", "gh"};
    for (size_t i = 0; i < 4; i++)
        cr_expect(slice_eq(s.req.metadata[i].family, slice_of(want[i])), "%s", want[i]);
    cr_expect(slice_eq(s.req.metadata[0].help, SL("First.")));
    cr_expect_eq(s.req.n_series, 5);
    scanned_release(&s);
    buf_release(&msg);
}

Test(write_request, metadata_of_records_is_taken_as_it_is)
{
    static const char *const symbols[] = {"", "hh_bucket", "First.", NULL};
    struct buf msg = {0};
    put_symbols(&msg, symbols);
    put_family(&msg, 65, 3, 66);
    put_family(&msg, 65, 3, 66);
    struct scanned s = scan_exact(RECORD_V2, buf_slice(&msg));
    cr_assert(s.ok);
    cr_assert_eq(s.req.n_metadata, 2);
    cr_expect(slice_eq(s.req.metadata[1].family, SL("hh_bucket")));
    cr_expect_eq(s.req.n_series, 0, "they are there for their metadata only");
    scanned_release(&s);
    buf_release(&msg);
}

/* --- building anew --------------------------------------------------------------------------------------------------
 */

Test(write_request, a_rebuilt_series_has_its_new_labels_and_what_its_counts_name)
{
    struct buf msg = {0}, ts = {0};
    wire_label(&ts, "b", "2");
    wire_sample(&ts, 1, 10);
    wire_label(&ts, "a", "1");
    wire_sample(&ts, 2, 20);
    wire_sample(&ts, 3, 0);
    wire_str(&ts, 4, "h1");
    wire_str(&ts, 4, "h2");
    wire_varint(&ts, 6, 7);
    wire_message(&msg, 1, &ts);
    struct scanned s = scan_exact(RW1, buf_slice(&msg));
    cr_assert(s.ok);
    struct write_series *series = &s.req.series[0];
    struct labels l;
    cr_assert(labels_from_span(series->labels, &s.arena, &l));
    labels_sort((struct label *)l.items, l.n);
    s.req.samples[series->first_sample + 1] = s.req.samples[series->first_sample + 2]; /* the second one is dropped */
    series->n_samples = 2;
    series->n_histograms = 1;
    cr_assert(write_series_rebuild(&s.req, series, &l, &s.arena));
    cr_expect_eq(series->flags, WRITE_SERIES_SPAN_WHOLE | WRITE_SERIES_REENCODED);

    struct buf again = {0};
    wire_bytes(&again, 1, series->raw);
    struct scanned t = scan_exact(RW1, buf_slice(&again));
    cr_assert(t.ok, "%s", t.err.text);
    expect_labels(t.req.series[0].labels, "a=1,b=2,");
    cr_expect(slice_eq(t.req.series[0].labels, series->labels));
    cr_assert_eq(t.req.n_samples, 2);
    cr_expect(t.req.samples[1].t == 3 && t.req.samples[1].v == 0);
    cr_expect_eq(t.req.n_histograms, 1);
    cr_expect_eq(t.req.series[0].created_t, 7);

    series->n_samples = 1;
    cr_assert(write_series_rebuild(&s.req, series, NULL, &s.arena), "its own labels");
    expect_labels(series->labels, "a=1,b=2,");
    scanned_release(&s), scanned_release(&t);
    buf_release(&again), buf_release(&msg), buf_release(&ts);
}
