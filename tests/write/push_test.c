/* Bodies, limits, partitions and records: docs/mimir-http.md 1.2, 1.6 and 2, docs/formats.md 2.4. */
#include "push_fixture.h"

#include <math.h>

static struct fixture f;
static void start(void) { fixture_start(&f, 1); }
static void stop(void) { fixture_stop(&f); }
TestSuite(push, .init = start, .fini = stop);

/* --- bodies ---------------------------------------------------------------------------------------------------------------------- */

static struct buf bytes_of(const char *p, size_t n)
{
    struct buf b = {0};
    buf_put(&b, p, n);
    return b;
}
#define BYTES(lit) bytes_of(lit, sizeof(lit) - 1)

static void expect_body(struct buf body, enum push_version version, enum err_code code, const char *text)
{
    struct push *p = push_of_body(&f, body, version);
    cr_expect_eq(p->error.code, code, "%d %s", p->error.code, push_text(p));
    cr_expect_str_eq(push_text(p), text);
    cr_expect_eq(p->produce.n, 0u);
    push_done(&f, p);
}

static struct buf snappy_of(const char *p, size_t n)
{
    struct buf m = bytes_of(p, n);
    return compressed(&m);
}
#define SNAPPY(lit) snappy_of(lit, sizeof(lit) - 1)

#define TOO_LARGE(n, which)                                                                                                       \
    "the incoming push request has been rejected because its message size of " n " bytes (" which                                 \
    ") is larger than the allowed limit of 104857600 bytes (err-mimir-distributor-max-write-message-size). To adjust the "          \
    "related limit, configure -distributor.max-recv-msg-size, or contact your service administrator."

Test(push, bodies_that_are_no_write_requests_are_400_with_a_reason)
{
    expect_body((struct buf){0}, PUSH_RW1, ERR_BAD_DATA, "getting snappy decoded length: snappy: corrupt input");
    expect_body(BYTES("\xff\xff\xff\xff\xff\xff\xff"), PUSH_RW1, ERR_BAD_DATA,
                "getting snappy decoded length: snappy: corrupt input");
    expect_body(BYTES("hello, this is no snappy"), PUSH_RW1, ERR_BAD_DATA, "decompress snappy: snappy: corrupt input");
    expect_body(BYTES("\x1f\x8b\x08\x00\x00\x00\x00\x00\x00\x03"), PUSH_RW1, ERR_BAD_DATA,
                "decompress snappy: snappy: corrupt input");
    expect_body(BYTES("\xff\xff\xff\xff\x0f"), PUSH_RW1, ERR_MESSAGE_TOO_LARGE, TOO_LARGE("4294967295", "uncompressed"));
    expect_body(BYTES("\x81\x80\x80\x32"), PUSH_RW1, ERR_MESSAGE_TOO_LARGE, TOO_LARGE("104857601", "uncompressed"));
    expect_body(BYTES("\x80\x80\x80\x32zzzz"), PUSH_RW1, ERR_BAD_DATA, "decompress snappy: snappy: corrupt input");
    expect_body(SNAPPY("\x0a\x7f"), PUSH_RW1, ERR_BAD_DATA, "unexpected EOF");
    expect_body(SNAPPY("\x0b\x7f"), PUSH_RW1, ERR_BAD_DATA, "proto: wrong wireType = 3 for field Timeseries");
    expect_body(SNAPPY("\x00\x7f"), PUSH_RW1, ERR_BAD_DATA, "proto: WriteRequest: illegal tag 0 (wire type 0)");
    expect_body(SNAPPY(""), PUSH_RW1, ERR_OK, "");
    expect_body(SNAPPY("\x0a\x00"), PUSH_RW2, ERR_BAD_DATA,
                "proto: Remote Write 1.0 field Timeseries in non-Remote Write 1.0 message");
    expect_body(SNAPPY("\x22\x00"), PUSH_RW1, ERR_BAD_DATA, "proto: Remote Write 2.0 field Symbols in non-Remote Write 2.0 message");
    expect_body(SNAPPY("\x22\x01x"), PUSH_RW2, ERR_BAD_DATA, "proto: Remote Write 2.0 symbols must start with empty string");
}

Test(push, a_body_over_the_limit_is_refused_unread)
{
    f.cfg.max_recv_msg_size = 10;
    struct push *p = push_of_body(&f, BYTES("0123456789a"), PUSH_RW1);
    cr_expect(strstr(push_text(p), "its message size of 11 bytes (compressed) is larger than the allowed limit of 10 bytes"), "%s",
              push_text(p));
    cr_expect_null(p->batch);
    push_done(&f, p);
}

Test(push, unknown_fields_are_passed_over)
{
    struct buf m = {0};
    pb_series(&m, LABELS("__name__", "m"));
    pb_varint(&m, 77, 5);
    pb_str(&m, 78, "x");
    struct push *p = push_of(&f, &m);
    cr_expect_eq(p->error.code, ERR_OK);
    cr_expect_eq(p->produce.n, 1u);
    push_done(&f, p);
}

Test(push, content_type_decides_the_protocol)
{
    static const struct {
        const char *type;
        enum push_version version;
        const char *text; /* NULL: accepted */
    } cases[] = {
        {NULL, PUSH_RW1, NULL},
        {"application/json", PUSH_RW1, NULL},
        {"application/x-protobuf", PUSH_RW1, NULL},
        {"application/x-protobuf;foo=bar", PUSH_RW1, NULL},
        {"APPLICATION/X-PROTOBUF;proto=io.prometheus.write.v2.Request", PUSH_RW1, NULL},
        {"application/x-protobuf;proto=prometheus.WriteRequest", PUSH_RW1, NULL},
        {"application/x-protobuf;proto=io.prometheus.write.v2.Request", PUSH_RW2, NULL},
        {"application/x-protobuf; proto=io.prometheus.write.v2.Request", PUSH_RW2, NULL},
        {"application/x-protobuf;proto=foo.Bar", PUSH_RW1,
         "got application/x-protobuf;proto=foo.Bar content type; expected prometheus.WriteRequest or "
         "io.prometheus.write.v2.Request"},
        {"application/x-protobuf;proto", PUSH_RW1,
         "as per https://www.rfc-editor.org/rfc/rfc9110#parameter expected parameters to be key-values, got proto in "
         "application/x-protobuf;proto content-type"},
    };
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        enum push_version got;
        struct err err = ERR_NONE;
        bool ok = push_version_of(slice_of(cases[i].type), &got, &err);
        cr_expect_eq(ok, cases[i].text == NULL, "%s", cases[i].type);
        cr_expect_str_eq(err.text, cases[i].text ? cases[i].text : "");
        cr_expect(!ok || got == cases[i].version, "%s", cases[i].type);
    }
}

Test(push, retry_after_doubles_and_is_bounded)
{
    const uint64_t lowest = 0, highest = UINT64_MAX;
    cr_expect_eq(push_retry_after_s(&f.cfg, SL(""), lowest), 6);
    cr_expect_eq(push_retry_after_s(&f.cfg, SL(""), highest), 9);
    cr_expect_eq(push_retry_after_s(&f.cfg, SL("x"), lowest), 6);
    cr_expect_eq(push_retry_after_s(&f.cfg, SL("3"), lowest), 12);
    cr_expect_eq(push_retry_after_s(&f.cfg, SL("3"), highest), 36);
    cr_expect_eq(push_retry_after_s(&f.cfg, SL("20"), lowest), 48);
    cr_expect_eq(push_retry_after_s(&f.cfg, SL("99999999999999999999"), highest), 96);
}

Test(push, texts_are_made_valid_utf8)
{
    struct buf out = {0};
    push_put_valid(&out, SL("a\xff\xfe z\xc3\xa4\xc3"));
    cr_expect_str_eq(buf_cstr(&out), "a\xef\xbf\xbd z\xc3\xa4\xef\xbf\xbd");
    buf_release(&out);
}

/* --- rate limits --------------------------------------------------------------------------------------------------------------------- */

static struct push *push_n_series(int n)
{
    struct buf m = {0};
    for (int i = 0; i < n; i++) {
        char value[16];
        snprintf(value, sizeof(value), "%d", i);
        pb_series(&m, LABELS("__name__", "m", "i", value));
    }
    return push_of(&f, &m);
}

Test(push, a_request_over_the_burst_is_429_and_nothing_of_it_is_stored)
{
    f.limits.ingestion_rate = 1;
    f.limits.ingestion_burst_size = 3;
    struct push *p = push_n_series(4);
    cr_expect_str_eq(push_text(p),
                     "the request has been rejected because the tenant exceeded the ingestion burst size limit, set to 3, with 4 "
                     "items. This limit is applied on the total number of samples, exemplars and metadata received across all "
                     "distributors (err-mimir-tenant-max-ingestion-rate). To adjust the related per-tenant limit, configure "
                     "-distributor.ingestion-burst-size, or contact your service administrator.");
    cr_expect_eq(err_http_status(p->error.code), 429);
    cr_expect_eq(p->discards[REASON_SAMPLES_RATE_LIMITED], 4u);
    cr_expect_eq(p->produce.n, 0u);
    cr_expect_eq(p->accepted.samples, 0u);
    push_done(&f, p);
}

Test(push, a_rate_of_zero_lets_the_burst_through_once)
{
    f.limits.ingestion_rate = 0;
    f.limits.ingestion_burst_size = 3;
    struct push *p = push_n_series(2);
    cr_expect_eq(p->error.code, ERR_OK);
    push_done(&f, p);
    p = push_n_series(2);
    cr_expect_str_eq(push_text(p),
                     "the request has been rejected because the tenant exceeded the ingestion rate limit, set to 0 items/s with a "
                     "maximum allowed burst of 3. This limit is applied on the total number of samples, exemplars and metadata "
                     "received across all distributors (err-mimir-tenant-max-ingestion-rate). To adjust the related per-tenant "
                     "limits, configure -distributor.ingestion-rate-limit and -distributor.ingestion-burst-size, or contact your "
                     "service administrator.");
    push_done(&f, p);
    p = push_n_series(1);
    cr_expect_eq(p->error.code, ERR_OK);
    push_done(&f, p);
    p = push_n_series(1);
    cr_expect_eq(p->error.code, ERR_TENANT_MAX_INGESTION_RATE);
    cr_expect_eq(p->discards[REASON_SAMPLES_RATE_LIMITED], 1u);
    push_done(&f, p);
}

Test(push, bytes_in_progress_are_bounded)
{
    f.cfg.max_inflight_push_requests_bytes = 100;
    struct push *p = push_n_series(10);
    cr_expect_eq(p->error.code, ERR_DISTRIBUTOR_MAX_INFLIGHT_BYTES);
    cr_expect_eq(err_http_status(p->error.code), 503);
    cr_expect(strstr(push_text(p), "allowed total size in bytes of inflight push requests "
                                   "(err-mimir-distributor-max-inflight-push-requests-bytes). To adjust the related limit, configure "
                                   "-distributor.instance-limits.max-inflight-push-requests-bytes, or contact"));
    push_done(&f, p);
    p = push_n_series(1);
    cr_expect_eq(p->error.code, ERR_OK);
    push_done(&f, p);
    cr_expect_eq(atomic_load(&f.d->inflight_bytes), 0);
}

/* --- records ---------------------------------------------------------------------------------------------------------------------------- */

Test(push, an_accepted_request_becomes_its_own_frame)
{
    struct push *p = push_n_series(50);
    cr_assert_eq(p->produce.n, 1u);
    const struct plog_record *r = &p->produce.records[0];
    cr_expect(r->value.p == p->body.p && r->value.n == p->body.n);
    cr_expect_eq(r->form, PLOG_SNAPPY);
    cr_expect_eq(r->version, 0u);
    cr_expect(slice_eq(r->tenant, SL("t")));
    const struct record_hint *hint = (const struct record_hint *)r->hint;
    cr_expect_null(hint->series);
    cr_expect(hint->batch->hashed && hint->batch->hash_seed == 12345);
    push_done(&f, p);
}

Test(push, what_a_consumer_decodes_is_what_the_hint_says)
{
    struct push *p = push_n_series(20);
    struct decoded dec;
    decode_record(&p->produce.records[0], &dec);
    cr_assert_eq(dec.req.n_series, p->req->n_series);
    for (size_t i = 0; i < dec.req.n_series; i++) {
        cr_expect(series_hash_eq(dec.req.series[i].hash, p->req->series[i].hash));
        cr_expect(slice_eq(dec.req.series[i].labels, p->req->series[i].labels));
        cr_expect(p->req->series[i].flags & WRITE_SERIES_CANONICAL);
    }
    arena_release(&dec.arena);
    push_done(&f, p);
}

/* Checks hints against bytes for all records of a push; returns the series. */
static size_t count_records(struct fixture *fx, struct push *p, size_t *ret_metadata)
{
    size_t n = 0;
    *ret_metadata = 0;
    for (size_t r = 0; r < p->produce.n; r++) {
        const struct record_hint *hint = (const struct record_hint *)p->produce.records[r].hint;
        struct partition_ring *ring = partitions_ring(&fx->partitions);
        struct decoded dec;
        decode_record(&p->produce.records[r], &dec);
        cr_assert_eq(dec.req.n_series, hint->n_series, "%zu %zu", dec.req.n_series, hint->n_series);
        cr_assert_eq(dec.req.n_metadata, hint->n_metadata);
        for (size_t i = 0; i < dec.req.n_series; i++) {
            const struct write_series *s = &p->req->series[hint->series[i]];
            cr_assert(series_hash_eq(s->hash, dec.req.series[i].hash));
            cr_assert_eq(partition_ring_lookup(ring, s->token), p->produce.records[r].partition);
        }
        n += dec.req.n_series;
        *ret_metadata += dec.req.n_metadata;
        arena_release(&dec.arena);
        partition_ring_free(ring);
    }
    return n;
}

Test(push, series_and_metadata_go_to_the_partitions_of_their_tokens)
{
    fixture_stop(&f);
    fixture_start(&f, 10);
    struct buf m = {0};
    for (int i = 0; i < 500; i++) {
        char value[16];
        snprintf(value, sizeof(value), "%d", i);
        pb_series(&m, LABELS("__name__", "m", "i", value));
        if (i % 5 == 0)
            pb_metadata(&m, value, "help", "");
    }
    struct push *p = push_of(&f, &m);
    cr_expect_eq(p->produce.n, 10u);
    size_t n_metadata;
    cr_expect_eq(count_records(&f, p, &n_metadata), 500u);
    cr_expect_eq(n_metadata, 100u);
    push_done(&f, p);

    f.limits.ingestion_partitions_tenant_shard_size = 1;
    p = push_n_series(100);
    cr_assert_eq(p->produce.n, 1u);
    cr_expect_eq(p->n_values, 0u, "one partition takes the client's own frame");
    push_done(&f, p);
}

Test(push, tokens_are_fnv_over_the_tenant_and_the_sorted_labels)
{
    fixture_stop(&f);
    fixture_start(&f, 3);
    f.d->token_kind = TOKEN_FNV32;
    struct write_tenant *t = write_tenants_get(f.d->tenants, SL("user-1"), 1);
    t->token_start = token_add(TOKEN_FNV32, TOKEN_EMPTY, SL("user-1"));
    cr_expect_eq(t->token_start, 3956040770u);
    struct push *p = push_new(f.d, t);
    struct buf m = {0};
    pb_series(&m, LABELS("job", "prometheus", "__name__", "up", "instance", "a"));
    p->body = compressed(&m);
    cr_assert(push_prepare(p));
    cr_expect_eq(p->req->series[0].token, 3649973271u);
    cr_expect_eq(p->produce.records[0].partition, 2);
    push_done(&f, p);
}

Test(push, a_large_request_is_split_into_series_and_then_metadata)
{
    f.limits.ingestion_burst_size = 1000000;
    f.cfg.max_record_size_bytes = 5000;
    struct buf m = {0};
    for (int i = 0; i < 400; i++) {
        char value[16];
        snprintf(value, sizeof(value), "%d", i);
        pb_series(&m, LABELS("__name__", "m", "i", value));
        pb_metadata(&m, value, "some help text", "");
    }
    struct push *p = push_of(&f, &m);
    cr_expect_eq(p->error.code, ERR_OK, "%s", push_text(p));
    cr_expect_gt(p->produce.n, 4u);
    bool metadata_began = false;
    for (size_t i = 0; i < p->produce.n; i++) {
        const struct record_hint *hint = (const struct record_hint *)p->produce.records[i].hint;
        size_t n;
        snappy_uncompressed_length(p->produce.records[i].value.p, p->produce.records[i].value.n, &n);
        cr_expect_leq(n, 5000u);
        cr_expect(!hint->n_series || !hint->n_metadata);
        metadata_began = metadata_began || hint->n_metadata;
        cr_expect(!metadata_began || !hint->n_series);
    }
    size_t n_metadata;
    cr_expect_eq(count_records(&f, p, &n_metadata), 400u);
    cr_expect_eq(n_metadata, 400u);
    push_done(&f, p);

    struct buf s = {0};
    pb_label(&s, "__name__", "m");
    for (int i = 0; i < 500; i++)
        pb_sample(&s, 1, NOW_MS + i);
    pb_sub(&m, 1, &s);
    p = push_of(&f, &m);
    cr_expect_str_eq(push_text(p),
                     "send data to partitions: failed pushing to partitions: the write request contains a timeseries or metadata item "
                     "which is larger that the maximum allowed size of 5000 bytes "
                     "(err-mimir-distributor-max-write-request-data-item-size)");
    cr_expect_eq(err_http_status(p->error.code), 400);
    push_done(&f, p);
}

Test(push, labels_in_an_odd_encoding_become_canonical)
{
    struct buf m = {0}, s = {0}, l = {0};
    pb_str(&l, 1, "__name__");
    buf_put(&l, "\x12\x81\x00m", 4); /* the length 1 in two bytes */
    pb_sub(&s, 1, &l);
    pb_sample(&s, 1, NOW_MS);
    pb_label(&s, "b", "2"); /* after the sample */
    pb_label(&s, "a", "1");
    pb_label(&s, "c", "");
    pb_sub(&m, 1, &s);
    struct push *p = push_of(&f, &m);
    cr_expect_eq(p->error.code, ERR_OK, "%s", push_text(p));
    struct series_hash odd = p->req->series[0].hash;
    struct decoded dec;
    decode_record(&p->produce.records[0], &dec);
    cr_expect(label_span_is_canonical(dec.req.series[0].labels));
    arena_release(&dec.arena);
    push_done(&f, p);
    pb_series(&m, LABELS("__name__", "m", "a", "1", "b", "2"));
    p = push_of(&f, &m);
    cr_expect(series_hash_eq(p->req->series[0].hash, odd));
    push_done(&f, p);
}

/* --- remote write 2.0 ------------------------------------------------------------------------------------------------------------------- */

static void rw2_series(struct buf *request, const char *refs, size_t n_refs, int64_t t)
{
    struct buf s = {0}, sample = {0};
    pb_bytes(&s, 1, refs, n_refs);
    pb_double(&sample, 1, 7);
    pb_varint(&sample, 2, (uint64_t)t);
    pb_sub(&s, 2, &sample);
    struct buf metadata = {0};
    pb_varint(&metadata, 1, 1);
    pb_varint(&metadata, 3, 5);
    pb_sub(&s, 5, &metadata);
    pb_sub(request, 5, &s);
}

Test(push, remote_write_2_is_stored_in_the_form_of_1)
{
    static const char *const symbols[] = {"", "__name__", "up", "job", "x", "is it up"};
    struct buf m = {0};
    for (int i = 0; i < 6; i++)
        pb_str(&m, 4, symbols[i]);
    rw2_series(&m, "\x03\x04\x01\x02", 4, NOW_MS); /* job before __name__: sorted here */
    rw2_series(&m, "\x03\x04", 2, NOW_MS);
    struct push *p = push_of_body(&f, compressed(&m), PUSH_RW2);
    cr_expect_eq(p->error.code, ERR_MISSING_METRIC_NAME, "%s", push_text(p));
    cr_expect_eq(p->decoded.samples, 2u, "what was decoded is reported");
    cr_expect_eq(p->accepted.samples, 1u);
    struct decoded dec;
    decode_record(&p->produce.records[0], &dec);
    cr_assert_eq(dec.req.n_series, 1u);
    struct labels l;
    cr_assert(labels_from_span(dec.req.series[0].labels, &dec.arena, &l));
    cr_expect(slice_eq(l.items[0].value, SL("up")) && slice_eq(l.items[1].value, SL("x")));
    cr_assert_eq(dec.req.n_metadata, 1u);
    cr_expect(slice_eq(dec.req.metadata[0].help, SL("is it up")));
    arena_release(&dec.arena);
    push_done(&f, p);
}

/* --- the partitions ring changes ---------------------------------------------------------------------------------------------------- */

static void expect_partitions(struct fixture *fx, uint64_t want)
{
    struct buf message = {0};
    for (int i = 0; i < 200; i++) {
        char name[16];
        snprintf(name, sizeof(name), "m_%d", i);
        pb_series(&message, LABELS("__name__", name));
    }
    struct push *p = push_of(fx, &message);
    uint64_t got = 0;
    for (size_t i = 0; i < p->produce.n; i++)
        got |= 1ULL << p->produce.records[i].partition;
    cr_expect_eq(got, want, "%llx %llx", (unsigned long long)got, (unsigned long long)want);
    cr_expect_eq(p->error.code, ERR_OK);
    push_done(fx, p);
}

Test(push, follows_the_partitions_that_are_active)
{
    static const enum partition_state some[] = {PARTITION_ACTIVE, PARTITION_INACTIVE, PARTITION_PENDING, PARTITION_ACTIVE};
    static const enum partition_state all[] = {PARTITION_ACTIVE, PARTITION_ACTIVE, PARTITION_ACTIVE, PARTITION_ACTIVE};
    expect_partitions(&f, 1);
    partitions_set(&f.partitions, 4, some);
    expect_partitions(&f, 1 | 8);
    partitions_set(&f.partitions, 4, all);
    expect_partitions(&f, 15);
}

Test(push, is_refused_while_no_partition_is_active)
{
    static const enum partition_state none[] = {PARTITION_INACTIVE};
    partitions_set(&f.partitions, 1, none);
    struct buf message = {0};
    pb_series(&message, LABELS("__name__", "up"));
    struct push *p = push_of(&f, &message);
    cr_expect_eq(err_http_status(p->error.code), 500);
    cr_expect_str_eq(push_text(p), "send data to partitions: no active partition found");
    cr_expect_eq(p->produce.n, 0u);
    push_done(&f, p);
    static const enum partition_state again[] = {PARTITION_ACTIVE};
    partitions_set(&f.partitions, 1, again);
    expect_partitions(&f, 1);
}

/* --- a log that compresses by itself -------------------------------------------------------------------------------------------------- */

Test(push, gives_plain_values_without_hints_to_a_log_that_compresses)
{
    static const enum partition_state two[] = {PARTITION_ACTIVE, PARTITION_ACTIVE};
    f.d->plain = true;
    struct push *whole = push_n_series(20);
    cr_assert_eq(whole->produce.n, 1u);
    const struct plog_record *r = &whole->produce.records[0];
    cr_expect(r->form == PLOG_PLAIN && !r->hint && slice_eq(r->value, whole->req->message));
    push_done(&f, whole);
    partitions_set(&f.partitions, 2, two);
    struct push *split = push_n_series(20);
    cr_assert_eq(split->produce.n, 2u);
    size_t n = 0;
    for (size_t i = 0; i < 2; i++) {
        struct decoded dec;
        cr_expect(split->produce.records[i].form == PLOG_PLAIN && !split->produce.records[i].hint);
        decode_record(&split->produce.records[i], &dec);
        n += dec.req.n_series;
        arena_release(&dec.arena);
    }
    cr_expect_eq(n, 20u);
    push_done(&f, split);
}
