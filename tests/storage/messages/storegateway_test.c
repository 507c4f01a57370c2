/* Requests to and answers of a live Mimir's store-gateway (shared/mimir/grpc: README.md there says how they were taken). */
#include <criterion/criterion.h>
#include <jansson.h>
#include <stdio.h>
#include <string.h>

#include "base/assert.h"
#include "tests/storage/messages/storegateway_reencode.h"

#define CAPTURES TEST_SHARED_DIR "/mimir/grpc/"

static struct arena arena;

static void release(void)
{
    arena_release(&arena);
}

static struct slice read_file(const char *name)
{
    char path[512];
    snprintf(path, sizeof(path), CAPTURES "%s", name);
    FILE *f = fopen(path, "rb");
    cr_assert(f, "%s", path);
    char *bytes = arena_alloc(&arena, 1 << 16);
    size_t n = fread(bytes, 1, 1 << 16, f);
    cr_assert(n < 1 << 16);
    fclose(f);
    return slice_make(bytes, n);
}

static size_t check_files(json_t *messages, storegateway_reencode *fn)
{
    size_t i;
    json_t *message;
    json_array_foreach(messages, i, message)
    {
        const char *file = json_string_value(json_object_get(message, "file"));
        struct buf out = {0};
        struct err err = ERR_NONE;
        struct slice bytes = read_file(file);
        cr_expect(fn(bytes, &arena, &out, &err), "%s: %s", file, err.text);
        cr_expect(slice_eq(buf_slice(&out), bytes), "%s: %zu bytes, and not those %zu", file, out.n, bytes.n);
        buf_release(&out);
        arena_clear(&arena);
    }
    return json_array_size(messages);
}

/* Those by hand have one form of hints only, so that they come out longer than they went in. */
static bool is_written_as_we_do(const char *name)
{
    return !strstr(name, "-by-hints") && !strstr(name, "-by-request_hints") && !strstr(name, "-unknown-block");
}

Test(storegateway_messages, what_mimir_wrote_is_read_and_written_with_the_same_bytes, .fini = release)
{
    json_error_t error;
    json_t *index = json_load_file(CAPTURES "index.json", JSON_DECODE_INT_AS_REAL, &error);
    cr_assert(index, "%s", error.text);
    size_t n[ARRAY_LEN(storegateway_reencoders)] = {0}, answers[ARRAY_LEN(storegateway_reencoders)] = {0};
    size_t i;
    json_t *call;
    json_array_foreach(index, i, call)
    {
        const char *method = json_string_value(json_object_get(call, "method"));
        const char *name = json_string_value(json_object_get(call, "name"));
        for (size_t m = 0; m < ARRAY_LEN(storegateway_reencoders); m++) {
            if (strcmp(method, storegateway_reencoders[m].method) != 0)
                continue;
            if (is_written_as_we_do(name))
                n[m] += check_files(json_object_get(call, "requests"), storegateway_reencoders[m].request);
            answers[m] += check_files(json_object_get(call, "responses"), storegateway_reencoders[m].response);
        }
    }
    json_decref(index);
    for (size_t m = 0; m < ARRAY_LEN(storegateway_reencoders); m++)
        cr_expect(n[m] > 0 && answers[m] > 0, "no capture of %s", storegateway_reencoders[m].method);
}

Test(storegateway_messages, a_request_says_which_blocks_it_is_about, .fini = release)
{
    static const char *const files[] = {"64-Series-sg-one-block-by-hints.request0.bin",
                                        "65-Series-sg-one-block-by-request_hints.request0.bin"};
    for (size_t i = 0; i < ARRAY_LEN(files); i++) {
        struct storegateway_request r;
        struct err err = ERR_NONE;
        cr_assert(storegateway_series_request_decode(read_file(files[i]), &arena, &r, &err), "%s", err.text);
        cr_expect(!r.blocks.all);
        cr_assert_eq(r.blocks.n, 1, "%s", files[i]);
        cr_expect_str_eq(r.blocks.blocks[0].text, "01M7Y7WV8DSG1FW9JSPE6ZPX48");
        cr_expect_eq(r.min_t, 1763596800000);
        cr_expect_eq(r.max_t, 1763604000000);
        cr_expect_eq(r.chunks_batch, 100);
        cr_assert_eq(r.matchers.n, 1);
    }
    struct storegateway_request r;
    cr_assert(storegateway_series_request_decode(read_file("46-Series-sg-batch-0.request0.bin"), &arena, &r, NULL));
    cr_expect(r.blocks.all);
}

Test(storegateway_messages, a_request_for_no_block_is_not_one_for_all, .fini = release)
{
    const struct storegateway_request want = {.min_t = 1, .label_name = SL("")};
    struct storegateway_request r;
    struct err err = ERR_NONE;
    struct buf out = {0};
    storegateway_series_request_put(&want, &out);
    cr_assert(storegateway_series_request_decode(buf_slice(&out), &arena, &r, &err), "%s", err.text);
    cr_expect(!r.blocks.all);
    cr_expect_eq(r.blocks.n, 0);
    buf_release(&out);
}

Test(storegateway_messages, hints_that_are_no_list_of_blocks_are_refused, .fini = release)
{
    /* request_hints {block_matchers {type, name, value}} */
    static const struct {
        const char *bytes;
        size_t n;
    } cases[] = {
        {"\x72\x10\x0a\x0e\x08\x02\x12\x0a__block_id", 18 - 1},                   /* cut */
        {"\x72\x13\x0a\x11\x08\x02\x12\x0a__block_id\x1a\x01x", 21},            /* no ulid */
        {"\x72\x12\x0a\x10\x08\x01\x12\x0a__block_id\x1a\x00", 20},             /* not equal */
        {"\x72\x09\x0a\x07\x12\x05other", 11},                                    /* another label */
        {"\x4a\x09\x0a\x07unknown", 11},                                            /* an Any of another type */
    };
    for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
        struct storegateway_request r;
        struct err err = ERR_NONE;
        cr_expect(!storegateway_series_request_decode(slice_make(cases[i].bytes, cases[i].n), &arena, &r, &err), "case %zu", i);
        cr_expect_eq(err.code, ERR_BAD_DATA, "case %zu: %s", i, err.text);
    }
}

static struct storegateway_series_response answer(const char *file)
{
    struct err err = ERR_NONE;
    struct storegateway_series_response r;
    cr_assert(storegateway_series_response_decode(read_file(file), &arena, &r, &err), "%s: %s", file, err.text);
    return r;
}

Test(storegateway_messages, a_stream_has_hints_statistics_series_an_estimate_and_chunks, .fini = release)
{
    struct storegateway_series_response r = answer("46-Series-sg-batch-0.response0.bin");
    cr_assert_eq(r.part, STOREGATEWAY_HINTS);
    cr_assert_eq(r.queried.n, 10);
    cr_expect_str_eq(r.queried.blocks[0].text, "01M7Y7WTZC20WGE5Z5HF7WE0E1");
    r = answer("46-Series-sg-batch-0.response1.bin");
    cr_assert_eq(r.part, STOREGATEWAY_STATS);
    cr_expect_eq(r.fetched_index_bytes, 128);
    r = answer("46-Series-sg-batch-0.response2.bin");
    cr_assert_eq(r.part, STOREGATEWAY_SERIES_BATCH);
    cr_expect(r.end_of_series);
    cr_assert_eq(r.n_series, 1);
    cr_expect(slice_eq(labels_get(r.series[0], SL("instance")), SL("host-3:9100")));
    r = answer("46-Series-sg-batch-0.response3.bin");
    cr_assert_eq(r.part, STOREGATEWAY_CHUNKS_ESTIMATE);
    cr_expect_eq(r.estimated_chunks, 3);
    r = answer("46-Series-sg-batch-0.response4.bin");
    cr_assert_eq(r.part, STOREGATEWAY_CHUNKS_BATCH);
    cr_assert_eq(r.n_chunks, 1);
    cr_expect_eq(r.chunks[0].series_index, 0);
    cr_assert_eq(r.chunks[0].n, 3);
    for (size_t i = 0; i < 3; i++) {
        struct chunk_columns cols;
        struct err err = ERR_NONE;
        const struct series_chunk *c = &r.chunks[0].chunks[i];
        cr_expect_eq(c->encoding, CHUNK_XOR);
        cr_assert(chunk_decode(c->encoding, c->data, &arena, &cols, &err), "%s", err.text);
        cr_expect_eq(cols.t[0], c->min_t);
        cr_expect_eq(cols.t[cols.n - 1], c->max_t);
    }
}

Test(storegateway_messages, chunks_have_the_encodings_of_chunk_files, .fini = release)
{
    struct storegateway_series_response r = answer("69-Series-sg-ooo-histograms.response4.bin");
    bool seen[CHUNK_FLOAT_HISTOGRAM + 1] = {0};
    for (size_t i = 0; i < r.n_chunks; i++)
        for (size_t k = 0; k < r.chunks[i].n; k++) {
            struct chunk_columns cols;
            const struct series_chunk *c = &r.chunks[i].chunks[k];
            struct err err = ERR_NONE;
            seen[c->encoding] = true;
            cr_assert(chunk_decode(c->encoding, c->data, &arena, &cols, &err), "%s", err.text);
        }
    cr_expect(seen[CHUNK_HISTOGRAM] && seen[CHUNK_FLOAT_HISTOGRAM]);
}

Test(storegateway_messages, an_answer_of_unknown_parts_is_passed_over, .fini = release)
{
    struct storegateway_series_response r;
    cr_assert(storegateway_series_response_decode(SL("\x7a\x01x"), &arena, &r, NULL));
    cr_expect_eq(r.part, STOREGATEWAY_OTHER);
    /* response_hints, which a later Mimir may send in place of hints */
    cr_assert(storegateway_series_response_decode(SL("\x42\x1e\x0a\x1c\x0a\x1a" "01M7Y7WTZC20WGE5Z5HF7WE0E1"), &arena, &r, NULL));
    cr_assert_eq(r.part, STOREGATEWAY_HINTS);
    cr_expect_eq(r.queried.n, 1);
}

Test(storegateway_messages, damaged_answers_are_corrupt, .fini = release)
{
    static const char *const files[] = {"46-Series-sg-batch-0.response0.bin", "46-Series-sg-batch-0.response2.bin",
                                        "46-Series-sg-batch-0.response4.bin"};
    for (size_t i = 0; i < ARRAY_LEN(files); i++) {
        struct slice whole = read_file(files[i]);
        struct storegateway_series_response r;
        struct err err = ERR_NONE;
        cr_expect(!storegateway_series_response_decode(slice_make(whole.p, whole.n - 1), &arena, &r, &err));
        cr_expect_eq(err.code, ERR_CORRUPT, "%s", err.text);
    }
}
