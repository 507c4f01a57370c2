/*
 * Every record that a real Mimir wrote (mimir/records of the shared folder) is decoded and held against index.json,
 * whole: order of series and labels, bits of values, histograms, exemplars, metadata, source and flags. Then what
 * docs/differences.md promises, and records that are none.
 */
#include <criterion/criterion.h>
#include <dirent.h>
#include <jansson.h>
#include <math.h>
#include <snappy-c.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>

#include "log/record.h"
#include "model/histogram.h"
#include "tests/model/wire.h"

#define RECORDS TEST_SHARED_DIR "/mimir/records/"
#define SEED 0x1234567890abcdefULL

/* --- comparing with index.json --------------------------------------------------------------------------------------
 */

/* Numbers, or the strings that stand for what JSON lacks. */
static uint64_t json_bits(const json_t *j)
{
    uint64_t bits;
    double v;
    const char *s = json_string_value(j);
    if (s && strncmp(s, "NaN:", 4) == 0)
        return strtoull(s + 4, NULL, 16);
    if (s && strcmp(s, "stale") == 0)
        return STALE_NAN_BITS;
    if (s)
        v = strcmp(s, "-Inf") == 0 ? -INFINITY : INFINITY;
    else
        v = json_number_value(j);
    memcpy(&bits, &v, 8);
    return bits;
}

static void expect_double(double v, const json_t *want, const char *where, const char *what)
{
    uint64_t bits;
    memcpy(&bits, &v, 8);
    /* An absent key is a field that was left out: +0.0. */
    uint64_t want_bits = want ? json_bits(want) : 0;
    cr_expect_eq(bits, want_bits, "%s: %s is %a", where, what, v);
}

static bool slice_is_json(struct slice s, const json_t *j)
{
    return slice_eq(s, slice_make(json_string_value(j), json_string_length(j)));
}

static void expect_labels(struct slice span, const json_t *want, const char *where)
{
    struct write_label_iter it = write_label_iter(span);
    struct label l;
    size_t n = 0;
    int r;
    while ((r = write_label_next(&it, &l)) > 0) {
        const json_t *pair = json_array_get(want, n++);
        cr_assert(pair, "%s: more labels than the index has", where);
        cr_expect(slice_is_json(l.name, json_array_get(pair, 0)), "%s: label name %.*s", where, SL_FMT(l.name));
        cr_expect(slice_is_json(l.value, json_array_get(pair, 1)), "%s: label value %.*s", where, SL_FMT(l.value));
    }
    cr_expect_eq(r, 0, "%s", where);
    cr_expect_eq(n, json_array_size(want), "%s: number of labels", where);
}

static void expect_samples(const struct write_request *req, const struct write_series *s, const json_t *want,
                           const char *where)
{
    cr_assert_eq(s->n_samples, json_array_size(want), "%s: number of samples", where);
    for (uint32_t i = 0; i < s->n_samples; i++) {
        const json_t *pair = json_array_get(want, i);
        const struct write_sample *sample = &req->samples[s->first_sample + i];
        cr_expect_eq(sample->t, json_integer_value(json_array_get(pair, 0)), "%s: time of sample %u", where, i);
        expect_double(sample->v, json_array_get(pair, 1), where, "sample");
    }
}

static void expect_spans(const struct histogram_span *spans, uint32_t n, const json_t *want, const char *where)
{
    cr_assert_eq(n, json_array_size(want), "%s: number of spans", where);
    for (uint32_t i = 0; i < n; i++) {
        const json_t *pair = json_array_get(want, i);
        cr_expect_eq(spans[i].offset, json_integer_value(json_array_get(pair, 0)), "%s: span offset", where);
        cr_expect_eq(spans[i].length, json_integer_value(json_array_get(pair, 1)), "%s: span length", where);
    }
}

static void expect_deltas(const int64_t *v, uint32_t n, const json_t *want, const char *where)
{
    cr_assert_eq(n, json_array_size(want), "%s: number of deltas", where);
    for (uint32_t i = 0; i < n; i++)
        cr_expect_eq(v[i], json_integer_value(json_array_get(want, i)), "%s: delta", where);
}

static void expect_counts(const double *v, uint32_t n, const json_t *want, const char *where)
{
    cr_assert_eq(n, json_array_size(want), "%s: number of values", where);
    for (uint32_t i = 0; i < n; i++)
        expect_double(v[i], json_array_get(want, i), where, "value");
}

static void expect_histogram(struct slice msg, const json_t *want, struct arena *arena, const char *where)
{
    struct histogram h;
    int64_t t;
    struct err err = ERR_NONE;
    cr_assert(histogram_decode_proto(msg, arena, &h, &t, &err), "%s: %s", where, err.text);
    cr_expect_eq(t, json_integer_value(json_object_get(want, "timestamp")), "%s", where);
    cr_expect_eq(h.schema, json_integer_value(json_object_get(want, "schema")), "%s", where);
    cr_expect_eq(h.hint, json_integer_value(json_object_get(want, "reset_hint")), "%s", where);
    cr_expect_eq(h.is_float, json_object_get(want, "count_float") != NULL, "%s", where);
    expect_double(h.sum, json_object_get(want, "sum"), where, "sum");
    expect_double(h.zero_threshold, json_object_get(want, "zero_threshold"), where, "zero_threshold");
    expect_spans(h.positive_spans, h.n_positive_spans, json_object_get(want, "positive_spans"), where);
    expect_spans(h.negative_spans, h.n_negative_spans, json_object_get(want, "negative_spans"), where);
    expect_counts(h.custom_values, h.n_custom_values, json_object_get(want, "custom_values"), where);
    if (h.is_float) {
        expect_double(h.count, json_object_get(want, "count_float"), where, "count");
        expect_double(h.zero_count, json_object_get(want, "zero_count_float"), where, "zero_count");
        expect_counts(h.positive_counts, h.n_positive, json_object_get(want, "positive_counts"), where);
        expect_counts(h.negative_counts, h.n_negative, json_object_get(want, "negative_counts"), where);
    } else {
        cr_expect_eq(h.count_int, (uint64_t)json_integer_value(json_object_get(want, "count_int")), "%s", where);
        cr_expect_eq(h.zero_count_int, (uint64_t)json_integer_value(json_object_get(want, "zero_count_int")), "%s",
                     where);
        expect_deltas(h.positive_deltas, h.n_positive, json_object_get(want, "positive_deltas"), where);
        expect_deltas(h.negative_deltas, h.n_negative, json_object_get(want, "negative_deltas"), where);
    }
}

static void expect_exemplars(const struct write_request *req, const struct write_series *s, const json_t *want,
                             const char *where)
{
    cr_assert_eq(s->n_exemplars, json_array_size(want), "%s: number of exemplars", where);
    for (uint32_t i = 0; i < s->n_exemplars; i++) {
        const json_t *j = json_array_get(want, i);
        const struct write_exemplar *ex = &req->exemplars[s->first_exemplar + i];
        expect_labels(ex->labels, json_object_get(j, "labels"), where);
        expect_double(ex->v, json_object_get(j, "value"), where, "exemplar");
        cr_expect_eq(ex->t, json_integer_value(json_object_get(j, "timestamp")), "%s", where);
    }
}

static void expect_series(const struct write_request *req, const struct write_series *s, const json_t *want,
                          struct arena *arena, const char *where)
{
    cr_expect((s->flags & WRITE_SERIES_CANONICAL) && !(s->flags & WRITE_SERIES_REJECTED), "%s", where);
    cr_expect(label_span_is_canonical(s->labels), "%s", where);
    cr_expect(series_hash_eq(s->hash, series_hash_of(s->labels, SEED)), "%s", where);
    expect_labels(s->labels, json_object_get(want, "labels"), where);
    expect_samples(req, s, json_object_get(want, "samples"), where);
    expect_exemplars(req, s, json_object_get(want, "exemplars"), where);
    const json_t *histograms = json_object_get(want, "histograms");
    cr_assert_eq(s->n_histograms, json_array_size(histograms), "%s: number of histograms", where);
    for (uint32_t i = 0; i < s->n_histograms; i++)
        expect_histogram(req->histograms[s->first_histogram + i], json_array_get(histograms, i), arena, where);
    cr_expect_eq(s->created_t, json_integer_value(json_object_get(want, "created_timestamp")), "%s", where);
}

static void expect_metadata(const struct write_metadata *m, const json_t *want, const json_t *family, const char *where)
{
    static const char *const types[] = {"unknown",        "counter", "gauge", "histogram",
                                        "gaugehistogram", "summary", "info",  "stateset"};
    cr_expect(slice_is_json(m->family, family), "%s: family %.*s", where, SL_FMT(m->family));
    cr_assert_lt(m->type, 8);
    cr_expect_str_eq(types[m->type], json_string_value(json_object_get(want, "type")), "%s", where);
    cr_expect(slice_is_json(m->help, json_object_get(want, "help")), "%s: help %.*s", where, SL_FMT(m->help));
    cr_expect(slice_is_json(m->unit, json_object_get(want, "unit")), "%s: unit %.*s", where, SL_FMT(m->unit));
}

/* Metadata of version 2 stands in the series list; entries without samples are there for it only. */
static bool carries_only_metadata(const json_t *ts)
{
    return json_array_size(json_object_get(json_object_get(ts, "metadata"), "fields")) &&
           !json_object_get(ts, "samples") && !json_object_get(ts, "histograms") && !json_object_get(ts, "exemplars");
}

static void expect_decoded(const struct write_request *req, const json_t *want, struct arena *arena, const char *where)
{
    const json_t *list = json_object_get(want, "timeseries"), *ts, *m;
    size_t i, n_series = 0, n_metadata = 0;
    json_array_foreach(list, i, ts)
    {
        const json_t *meta = json_object_get(ts, "metadata");
        if (json_array_size(json_object_get(meta, "fields"))) {
            cr_assert_lt(n_metadata, req->n_metadata, "%s", where);
            const json_t *name = json_array_get(json_array_get(json_object_get(ts, "labels"), 0), 1);
            expect_metadata(&req->metadata[n_metadata++], meta, name, where);
        }
        if (carries_only_metadata(ts))
            continue;
        cr_assert_lt(n_series, req->n_series, "%s", where);
        expect_series(req, &req->series[n_series++], ts, arena, where);
    }
    json_array_foreach(json_object_get(want, "metadata"), i, m)
    {
        cr_assert_lt(n_metadata, req->n_metadata, "%s", where);
        expect_metadata(&req->metadata[n_metadata++], m, json_object_get(m, "metric_family_name"), where);
    }
    cr_expect_eq(req->n_series, n_series, "%s: number of series", where);
    cr_expect_eq(req->n_metadata, n_metadata, "%s: number of metadata entries", where);
    cr_expect_eq(req->n_unlabelled_series, 0, "%s", where);
    cr_expect_eq(req->source, json_integer_value(json_object_get(want, "source")), "%s: source", where);
    cr_expect_eq(req->skip_label_validation, json_is_true(json_object_get(want, "skip_label_validation")), "%s", where);
    cr_expect_not(req->skip_label_count_validation, "%s", where);
}

/* The large records are described by numbers: how many series, the label "i" of each, the families. */
static void expect_summary(const struct write_request *req, const json_t *want, const char *where)
{
    const json_t *is = json_object_get(want, "first_labels_i"), *families = json_object_get(want, "families"), *j;
    size_t i, n = 0;
    json_array_foreach(is, i, j)
    {
        if (json_is_null(j))
            continue; /* an entry of version 2 that is there for its metadata */
        cr_assert_lt(n, req->n_series, "%s", where);
        struct write_label_iter it = write_label_iter(req->series[n++].labels);
        struct label l;
        bool found = false;
        while (write_label_next(&it, &l) > 0)
            found = found || (slice_eq(l.name, SL("i")) && slice_is_json(l.value, j));
        cr_expect(found, "%s: series %zu", where, i);
    }
    cr_expect_eq(req->n_series, n, "%s", where);
    cr_expect_eq(req->n_metadata, json_array_size(families) + json_array_size(is) - n, "%s", where);
    json_array_foreach(families, i, j) cr_expect(slice_is_json(req->metadata[i].family, j), "%s", where);
}

static char *read_file(const char *path, size_t *ret_n)
{
    FILE *f = fopen(path, "rb");
    cr_assert(f, "%s", path);
    fseek(f, 0, SEEK_END);
    size_t n = (size_t)ftell(f);
    rewind(f);
    char *p = malloc(n ? n : 1);
    cr_assert_eq(fread(p, 1, n, f), n);
    fclose(f);
    *ret_n = n;
    return p;
}

static json_t *read_index(void)
{
    json_error_t error;
    json_t *index = json_load_file(RECORDS "index.json", 0, &error);
    if (!index) {
        cr_assert_null(getenv("CI"), "no records in " RECORDS ": put the shared folder beside the clone (%s)",
                       error.text);
        cr_skip_test("no shared folder");
    }
    return index;
}

static struct plog_record record_of(const json_t *entry, struct slice value)
{
    const json_t *key = json_object_get(entry, "key");
    const char *version = json_string_value(json_object_get(json_object_get(entry, "headers"), "Version"));
    return (struct plog_record){
        .tenant = slice_make(json_string_value(key), json_string_length(key)),
        .version = version ? (uint32_t)strtoul(version, NULL, 16) : 0,
        .value = value,
    };
}

static void check_record(const json_t *entry, enum plog_value_form form)
{
    const char *file = json_string_value(json_object_get(entry, "file"));
    char path[512];
    size_t n;
    snprintf(path, sizeof(path), RECORDS "%s", file);
    char *bytes = read_file(path, &n);
    struct plog_record rec = record_of(entry, slice_make(bytes, n));
    char *packed = NULL;
    if (form == PLOG_SNAPPY) {
        size_t packed_n = snappy_max_compressed_length(n);
        packed = malloc(packed_n);
        cr_assert_eq(snappy_compress(bytes, n, packed, &packed_n), SNAPPY_OK);
        rec.value = slice_make(packed, packed_n);
        rec.form = form;
    }
    struct arena arena;
    arena_init(&arena, 0);
    struct write_request req;
    struct err err = ERR_NONE;
    cr_assert(record_decode(&rec, SEED, &arena, &req, &err), "%s: %s", file, err.text);
    const json_t *decoded = json_object_get(entry, "decoded");
    if (json_object_get(decoded, "timeseries"))
        expect_decoded(&req, decoded, &arena, file);
    else
        expect_summary(&req, decoded, file);
    arena_release(&arena);
    free(bytes);
    free(packed);
}

static void check_all_records(enum plog_value_form form)
{
    json_t *index = read_index();
    const json_t *records = json_object_get(index, "records"), *entry;
    size_t i, versions[3] = {0};
    json_array_foreach(records, i, entry)
    {
        check_record(entry, form);
        versions[json_integer_value(json_object_get(entry, "version_flag"))]++;
    }
    cr_expect(versions[0] > 40 && versions[1] > 40 && versions[2] > 40);
    json_decref(index);
}

Test(record, every_record_of_mimir_decodes_to_its_index)
{
    check_all_records(PLOG_PLAIN);
}

Test(record, every_record_of_mimir_decodes_from_a_snappy_value)
{
    check_all_records(PLOG_SNAPPY);
}

Test(record, version_0_written_again_is_mimirs_own_bytes)
{
    json_t *index = read_index();
    const json_t *entry;
    size_t i, n_same = 0;
    json_array_foreach(json_object_get(index, "records"), i, entry)
    {
        const char *file = json_string_value(json_object_get(entry, "file"));
        char path[512];
        size_t n;
        snprintf(path, sizeof(path), RECORDS "%s", file);
        char *bytes = read_file(path, &n);
        struct plog_record rec = record_of(entry, slice_make(bytes, n));
        struct arena arena;
        struct write_request req;
        arena_init(&arena, 0);
        cr_assert(record_decode(&rec, SEED, &arena, &req, NULL));
        struct buf out = {0};
        record_encode_v0(&req, NULL, 0, NULL, 0, &out);
        cr_expect_leq(out.n, record_encoded_size_max(&req, NULL, 0, NULL, 0));
        if (rec.version < 2) {
            cr_expect(slice_eq(buf_slice(&out), rec.value), "%s", file);
            n_same++;
        }
        buf_release(&out);
        arena_release(&arena);
        free(bytes);
    }
    cr_expect_gt(n_same, 80);
    json_decref(index);
}

/* --- what is no record ----------------------------------------------------------------------------------------------
 */

static void expect_refused(struct plog_record rec, const char *text)
{
    struct arena arena;
    struct write_request req;
    struct err err = ERR_NONE;
    arena_init(&arena, 64 << 20);
    cr_expect_not(record_decode(&rec, SEED, &arena, &req, &err));
    cr_expect_eq(err.code, ERR_BAD_DATA);
    cr_expect_str_eq(err.text, text);
    arena_release(&arena);
}

Test(record, what_is_no_record_is_refused)
{
    struct slice t = SL("t");
    expect_refused((struct plog_record){.version = 0}, "received a record without a key: it belongs to no tenant");
    expect_refused((struct plog_record){.tenant = t, .version = 3},
                   "received a record with an unsupported version: 3, max supported version: 2");
    expect_refused((struct plog_record){.tenant = t, .value = SL("\x0A")}, "unexpected EOF");
    expect_refused((struct plog_record){.tenant = t, .version = 2, .value = SL("\x0A\x00")},
                   "proto: Remote Write 1.0 field Timeseries in non-Remote Write 1.0 message");
    expect_refused((struct plog_record){.tenant = t, .value = SL("\x0A\x04\x0A\x02\x08\x01")},
                   "proto: wrong wireType = 0 for field Name");
    expect_refused((struct plog_record){.tenant = t, .form = PLOG_SNAPPY, .value = SL("\xff\xff\xff\xff\x0f")},
                   "the record's snappy length is corrupt");
    expect_refused((struct plog_record){.tenant = t, .form = PLOG_SNAPPY, .value = SL("\x10\x00")},
                   "the record's snappy block is corrupt");
    expect_refused((struct plog_record){.tenant = t, .form = PLOG_SNAPPY}, "the record's snappy length is corrupt");
}

Test(record, an_empty_value_is_a_record_of_nothing)
{
    struct plog_record rec = {.tenant = SL("t")};
    struct arena arena;
    struct write_request req;
    arena_init(&arena, 0);
    cr_expect(record_decode(&rec, SEED, &arena, &req, NULL));
    cr_expect_eq(req.n_series + req.n_metadata, 0);
    arena_release(&arena);
}

/* --- labels of foreign writers --------------------------------------------------------------------------------------
 */

Test(record, labels_become_canonical_and_hopeless_series_are_marked)
{
    struct buf msg = {0}, ts = {0}, want = {0};
    wire_label(&ts, "job", "x"), wire_label(&ts, "empty", ""), wire_label(&ts, "__name__", "up");
    wire_sample(&ts, 1, -0.0);
    wire_message(&msg, 1, &ts);
    wire_label(&ts, "a", "1"), wire_label(&ts, "a", "2");
    wire_message(&msg, 1, &ts);
    wire_label(&ts, "a", "");
    wire_message(&msg, 1, &ts);
    wire_label(&ts, "__name__", "up"), wire_sample(&ts, 1, 1), wire_label(&ts, "job", "x");
    wire_message(&msg, 1, &ts);
    struct plog_record rec = {.tenant = SL("t"), .value = buf_slice(&msg)};
    struct arena arena;
    struct write_request req;
    struct err err = ERR_NONE;
    arena_init(&arena, 0);
    cr_assert(record_decode(&rec, SEED, &arena, &req, &err), "%s", err.text);
    cr_assert_eq(req.n_series, 4);
    wire_label(&want, "__name__", "up"), wire_label(&want, "job", "x");
    const unsigned built = WRITE_SERIES_SPAN_WHOLE | WRITE_SERIES_CANONICAL | WRITE_SERIES_REENCODED;
    cr_expect_eq(req.series[0].flags, built);
    cr_expect(slice_eq(req.series[0].labels, buf_slice(&want)));
    cr_expect(req.series[1].flags & WRITE_SERIES_REJECTED);
    cr_expect(req.series[2].flags & WRITE_SERIES_REJECTED);
    cr_expect_eq(req.series[3].flags, built);
    cr_expect(series_hash_eq(req.series[0].hash, req.series[3].hash));

    /* Written again: two series, and the sign of the zero is there. */
    struct buf out = {0};
    struct write_request again;
    record_encode_v0(&req, NULL, 0, NULL, 0, &out);
    rec.value = buf_slice(&out);
    cr_assert(record_decode(&rec, SEED, &arena, &again, NULL));
    cr_expect_eq(again.n_series, 2);
    cr_expect(signbit(again.samples[0].v));
    arena_release(&arena);
    buf_release(&msg), buf_release(&ts), buf_release(&want), buf_release(&out);
}

Test(record, bits_of_values_are_kept_in_version_2)
{
    /* {__name__="up"}: -0.0 at 5, spelled out. */
    static const char bytes[] =
        "\x22\x00\x22\x02up\x2A\x13\x0A\x02\x01\x41\x12\x0B\x09\x00\x00\x00\x00\x00\x00\x00\x80\x10\x05\x2A\x00";
    struct plog_record rec = {.tenant = SL("t"), .version = 2, .value = {bytes, sizeof(bytes) - 1}};
    struct arena arena;
    struct write_request req;
    struct err err = ERR_NONE;
    arena_init(&arena, 0);
    cr_assert(record_decode(&rec, SEED, &arena, &req, &err), "%s", err.text);
    cr_assert_eq(req.n_samples, 1);
    cr_expect(req.samples[0].v == 0 && signbit(req.samples[0].v) && req.samples[0].t == 5);
    arena_release(&arena);
}

/* --- encoding chosen parts ------------------------------------------------------------------------------------------
 */

Test(record, encodes_the_named_series_and_metadata)
{
    struct buf msg = {0}, ts = {0}, out = {0};
    static const char *const names[] = {"a", "b", "c"};
    for (int i = 0; i < 3; i++) {
        wire_label(&ts, "__name__", names[i]);
        wire_sample(&ts, 1, i);
        wire_message(&msg, 1, &ts);
        wire_str(&ts, 2, names[i]);
        wire_message(&msg, 3, &ts);
    }
    wire_varint(&msg, 2, 2);
    wire_varint(&msg, 1000, 1);
    wire_varint(&msg, 1001, 1);
    struct arena arena;
    struct write_request req, back;
    arena_init(&arena, 0);
    cr_assert(write_request_scan(buf_slice(&msg), &arena, &req, NULL));

    record_encode_v0(&req, (uint32_t[]){2, 0}, 2, (uint32_t[]){1}, 1, &out);
    cr_expect_leq(out.n, record_encoded_size_max(&req, (uint32_t[]){2, 0}, 2, (uint32_t[]){1}, 1));
    cr_assert(write_request_scan(buf_slice(&out), &arena, &back, NULL));
    cr_assert_eq(back.n_series, 2);
    cr_expect(slice_eq(back.series[0].raw, req.series[2].raw));
    cr_expect(slice_eq(back.series[1].raw, req.series[0].raw));
    cr_assert_eq(back.n_metadata, 1);
    cr_expect(slice_eq(back.metadata[0].family, SL("b")));
    cr_expect_eq(back.source, 2);
    cr_expect(back.skip_label_validation);
    cr_expect_not(back.skip_label_count_validation, "field 1001 reaches no record");

    buf_clear(&out);
    record_encode_v0(&req, NULL, 0, RECORD_NONE, 0, &out);
    cr_assert(write_request_scan(buf_slice(&out), &arena, &back, NULL));
    cr_expect_eq(back.n_series, 3);
    cr_expect_eq(back.n_metadata, 0);
    arena_release(&arena);
    buf_release(&msg), buf_release(&ts), buf_release(&out);
}

/* --- hints ----------------------------------------------------------------------------------------------------------
 */

Test(record, a_batch_lives_as_long_as_its_last_hint)
{
    struct record_batch *batch = record_batch_new(1 << 20);
    cr_assert(batch);
    struct slice copy = arena_dup(&batch->arena, SL("\x10\x01"));
    cr_assert(write_request_scan(copy, &batch->arena, &batch->req, NULL));
    struct record_hint *a = record_hint_new(batch), *b = record_hint_new(batch);
    cr_assert(a && b);
    cr_expect_geq(a->hint.size_bytes, batch->arena.used_bytes);
    record_batch_unref(batch);
    a->hint.free(&a->hint); /* what plog_hint_unref does with the last reference */
    cr_expect_eq(atomic_load(&batch->refs), 1);
    cr_expect_eq(b->batch->req.source, 1);
    b->hint.free(&b->hint);
    record_batch_unref(NULL);
}
