/* Requests and answers of a live Mimir (shared/mimir/grpc: README.md there says how they were taken). */
#include <criterion/criterion.h>
#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>

#include "tests/storage/messages/reencode.h"

#define CAPTURES TEST_SHARED_DIR "/mimir/grpc/"

static struct slice read_file(const char *name, struct arena *arena)
{
    char path[512];
    snprintf(path, sizeof(path), CAPTURES "%s", name);
    FILE *f = fopen(path, "rb");
    cr_assert(f, "%s", path);
    char *bytes = arena_alloc(arena, 1 << 16);
    size_t n = fread(bytes, 1, 1 << 16, f);
    cr_assert(n < 1 << 16);
    fclose(f);
    return slice_make(bytes, n);
}

static size_t check_files(json_t *messages, reencode *fn)
{
    size_t i;
    json_t *message;
    json_array_foreach(messages, i, message)
    {
        const char *file = json_string_value(json_object_get(message, "file"));
        struct arena arena;
        arena_init(&arena, 0);
        struct buf out = {0};
        struct err err = ERR_NONE;
        struct slice bytes = read_file(file, &arena);
        cr_expect(fn(bytes, &arena, &out, &err), "%s: %s", file, err.text);
        cr_expect(slice_eq(buf_slice(&out), bytes), "%s: %zu bytes, and not those %zu", file, out.n, bytes.n);
        buf_release(&out);
        arena_release(&arena);
    }
    return json_array_size(messages);
}

Test(ingester_messages, what_mimir_wrote_is_read_and_written_with_the_same_bytes)
{
    json_error_t error;
    json_t *index = json_load_file(CAPTURES "index.json", JSON_DECODE_INT_AS_REAL, &error);
    cr_assert(index, "%s", error.text);
    size_t n[ARRAY_LEN(reencoders)] = {0};
    size_t i;
    json_t *call;
    json_array_foreach(index, i, call)
    {
        const char *method = json_string_value(json_object_get(call, "method"));
        for (size_t m = 0; m < ARRAY_LEN(reencoders); m++) {
            if (strcmp(method, reencoders[m].method) != 0)
                continue;
            n[m] += check_files(json_object_get(call, "requests"), reencoders[m].request) > 0;
            check_files(json_object_get(call, "responses"), reencoders[m].response);
        }
    }
    json_decref(index);
    for (size_t m = 0; m < ARRAY_LEN(reencoders); m++)
        cr_expect(n[m] > 0, "no capture of %s", reencoders[m].method);
}

static struct arena arena;

static void release(void)
{
    arena_release(&arena);
}

static struct query_stream_response stream_message(const char *file)
{
    struct err err = ERR_NONE;
    struct query_stream_response r;
    cr_assert(query_stream_response_decode(read_file(file, &arena), &arena, &r, &err), "%s", err.text);
    return r;
}

Test(ingester_messages, series_of_a_stream_have_their_labels_and_chunk_counts, .fini = release)
{
    struct query_stream_response r = stream_message("03-QueryStream-instant-recent.response0.bin");
    cr_assert_eq(r.n_series, 5);
    cr_expect(r.end_of_series);
    cr_expect_eq(r.n_chunks, 0);
    cr_expect(slice_eq(labels_get(r.series[0].labels, SL("__name__")), SL("live_fhist")));
    cr_expect(slice_eq(labels_get(r.series[4].labels, SL("i")), SL("2")));
    cr_expect_eq(r.series[4].chunk_count, 1);
}

Test(ingester_messages, chunks_of_a_stream_have_the_encodings_of_chunk_files, .fini = release)
{
    struct query_stream_response r = stream_message("03-QueryStream-instant-recent.response1.bin");
    static const enum chunk_encoding expected[] = {CHUNK_FLOAT_HISTOGRAM, CHUNK_HISTOGRAM, CHUNK_XOR, CHUNK_XOR,
                                                   CHUNK_XOR};
    cr_assert_eq(r.n_chunks, ARRAY_LEN(expected));
    for (size_t i = 0; i < r.n_chunks; i++) {
        cr_assert_eq(r.chunks[i].n, 1);
        cr_expect_eq(r.chunks[i].series_index, i);
        const struct series_chunk *c = &r.chunks[i].chunks[0];
        cr_expect_eq(c->encoding, expected[i]);
        struct chunk_columns cols;
        struct err err;
        cr_assert(chunk_decode(c->encoding, c->data, &arena, &cols, &err));
        cr_expect_eq(cols.n, 4);
        cr_expect_eq(cols.t[0], c->min_t);
        cr_expect_eq(cols.t[3], c->max_t);
        cr_expect_eq(c->min_t, 1795238727000);
    }
}

Test(ingester_messages, a_request_has_its_times_matchers_and_batch, .fini = release)
{
    struct err err;
    struct ingester_request r;
    cr_assert(query_request_decode(read_file("58-QueryStream-query-shard.request0.bin", &arena), &arena, &r, &err));
    cr_expect_eq(r.start_ms, 1795238487000);
    cr_expect_eq(r.end_ms, 1795238787000);
    cr_expect_eq(r.chunks_batch, 64);
    cr_assert_eq(r.n_sets, 1);
    cr_assert_eq(r.sets[0].n, 2);
    cr_expect_eq(r.sets[0].matchers[1].type, MATCH_EQ);
    cr_expect(slice_eq(r.sets[0].matchers[1].name, SL("__query_shard__")));
    cr_expect(slice_eq(r.sets[0].matchers[1].value, SL("2_of_16")));
}

Test(ingester_messages, limits_of_metadata_are_signed, .fini = release)
{
    struct err err;
    struct metadata_request r;
    cr_assert(metadata_request_decode(read_file("19-MetricsMetadata-metadata.request0.bin", &arena), &r, &err));
    cr_expect_eq(r.limit, 5);
    cr_expect_eq(r.limit_per_metric, -1);
}

Test(ingester_messages, why_a_push_is_refused_is_told_with_mimirs_bytes)
{
    /* 43-Push-push-refused: grpc-status-details-bin */
    static const char *const hex =
        "080c1235696e67657374657220697320636f6e66696775726564207769746820507573682067525043206d6574686f642064697361626c"
        "65641a2f0a29747970652e676f6f676c65617069732e636f6d2f636f7274657870622e4572726f7244657461696c731202080b";
    struct buf out = {0}, text = {0};
    error_details_put(12, SL("ingester is configured with Push gRPC method disabled"), ERROR_CAUSE_METHOD_NOT_ALLOWED,
                      &out);
    for (size_t i = 0; i < out.n; i++)
        buf_printf(&text, "%02x", (unsigned char)out.p[i]);
    cr_expect_str_eq(buf_cstr(&text), hex);
    buf_release(&out);
    buf_release(&text);
}
