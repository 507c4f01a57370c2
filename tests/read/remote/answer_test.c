/* Answers, taken apart again. */
#include "model/histogram.h"
#include "storage/block/crc32c.h"
#include "tests/read/remote/remote_rig.h"

static const struct remote_limits no_limits;
static const struct remote_query all = {.start_ms = INT64_MIN, .end_ms = INT64_MAX};

static void setup(void)
{
    arena_init(&made, 0);
    fault = ERR_NONE;
}

static void teardown(void)
{
    arena_release(&made);
}

TestSuite(remote_answer, .init = setup, .fini = teardown);

/* --- samples ------------------------------------------------------------------------------------------------------------------ */

static struct slice unpack(const struct buf *b)
{
    size_t n;
    cr_assert_eq(snappy_uncompressed_length(b->p, b->n, &n), SNAPPY_OK);
    char *plain = arena_alloc(&made, n + 1);
    cr_assert_eq(snappy_uncompress(b->p, b->n, plain, &n), SNAPPY_OK);
    return slice_make(plain, n);
}

/* Fields 1 of a message. */
static size_t elements(struct slice msg, struct slice *ret, size_t cap)
{
    struct proto p = message(msg);
    uint32_t f;
    uint64_t v;
    struct slice s;
    size_t n = 0;
    while (field(&p, &f, &v, &s))
        if (f == 1 && n < cap)
            ret[n++] = s;
    return n;
}

static size_t samples_of(struct slice series, int64_t *ret_t, double *ret_v, size_t cap)
{
    struct proto p = message(series);
    uint32_t f;
    uint64_t v;
    struct slice sample, s;
    size_t n = 0;
    while (field(&p, &f, &v, &sample))
        if (f == 2 && n < cap) {
            struct proto inside = message(sample);
            ret_t[n] = 0;
            ret_v[n] = 0;
            while (field(&inside, &f, &v, &s))
                memcpy(f == 1 ? (void *)&ret_v[n] : (void *)&ret_t[n], &v, 8);
            n++;
        }
    return n;
}

Test(remote_answer, the_bytes_of_a_small_answer_are_those_of_go)
{
    struct series_chunk *c = chunks(1);
    c[0] = floats(1000, 1, 1, 2.5);
    const struct series s = series_of(7, c, 1);
    const struct series *lists[] = {&s};
    struct buf b = answer_to(REMOTE_SAMPLES, &no_limits, &all, lists, (size_t[]){1}, 1, 1 << 18, NULL);
    struct slice want = SL("\x0a\x2c\x0a\x2a\x0a\x0d\x0a\x08__name__\x12\x01m\x0a\x0b\x0a\x01i\x12\x06" "000007\x12\x0c\x09\0\0\0\0\0\0\x04\x40\x10\xe8\x07");
    struct slice have = unpack(&b);
    cr_expect(slice_eq(have, want));
    buf_release(&b);
    b = answer_to(REMOTE_CHUNKS, &no_limits, &all, lists, (size_t[]){1}, 1, 1 << 18, NULL);
    /* ChunkedReadResponse{chunked_series: {labels, chunks: [{1000, 1000, XOR, data}]}} */
    struct buf frame = {0};
    size_t series = proto_put_begin(&frame, 1);
    buf_put_slice(&frame, SL("\x0a\x0d\x0a\x08__name__\x12\x01m\x0a\x0b\x0a\x01i\x12\x06" "000007"));
    size_t chunk = proto_put_begin(&frame, 2);
    buf_put_slice(&frame, SL("\x08\xe8\x07\x10\xe8\x07\x18\x01\x22"));
    buf_put_uvarint(&frame, c[0].data.n);
    buf_put_slice(&frame, c[0].data);
    proto_put_end(&frame, chunk);
    proto_put_end(&frame, series);
    cr_assert_eq(b.n, frame.n + 5);
    cr_expect_eq((size_t)b.p[0], frame.n);
    uint32_t crc = crc32c(0, frame.p, frame.n);
    const uint8_t *at = (const uint8_t *)b.p + 1;
    cr_expect_eq((uint32_t)at[0] << 24 | (uint32_t)at[1] << 16 | (uint32_t)at[2] << 8 | at[3], crc);
    cr_expect_eq(memcmp(b.p + 5, frame.p, frame.n), 0);
    buf_release(&frame);
    buf_release(&b);
}

Test(remote_answer, samples_are_cut_to_the_range_and_series_sorted)
{
    struct series list[300];
    for (size_t i = 0; i < ARRAY_LEN(list); i++) {
        struct series_chunk *c = chunks(2);
        c[0] = floats(0, 1000, 100, 0);
        c[1] = floats(100000, 1000, 100, 100);
        list[i] = series_of((i * 7 + 3) % ARRAY_LEN(list), c, i % 10 == 9 ? 1 : 2);
    }
    const struct remote_query late = {.start_ms = 150000, .end_ms = 160000};
    const struct remote_query queries[] = {all, late, late};
    const struct series *lists[] = {list, list, NULL};
    struct buf b = answer_to(REMOTE_SAMPLES, &no_limits, queries, lists, (size_t[]){300, 300, 0}, 3, 1000, NULL);
    struct slice results[4], series[301];
    cr_assert_eq(elements(unpack(&b), results, 4), 3);
    cr_assert_eq(elements(results[0], series, 301), 300);
    int64_t t[201];
    double v[201];
    for (size_t i = 1; i < 300; i++)
        cr_expect(slice_cmp(value_of_i(series[i - 1]), value_of_i(series[i])) < 0);
    cr_assert_eq(samples_of(series[3], t, v, 201), 200);
    cr_expect(t[0] == 0 && v[0] == 0 && t[199] == 199000 && v[199] == 199);
    cr_assert_eq(elements(results[1], series, 301), 270); /* without those that end before */
    cr_assert_eq(samples_of(series[0], t, v, 201), 11);
    cr_expect(t[0] == 150000 && t[10] == 160000 && v[10] == 160);
    cr_expect_eq(results[2].n, 0);
    buf_release(&b);
}

Test(remote_answer, overlapping_chunks_are_merged)
{
    struct series_chunk *c = chunks(3);
    c[0] = floats(0, 10, 100, 0);
    c[1] = floats(5, 10, 100, 1000);
    c[2] = floats(5000, 10, 10, 7);
    const struct series s = series_of(1, c, 3);
    const struct series *lists[] = {&s};
    struct buf b = answer_to(REMOTE_SAMPLES, &no_limits, &all, lists, (size_t[]){1}, 1, 1 << 18, NULL);
    struct slice result, series;
    int64_t t[300];
    double v[300];
    cr_assert_eq(elements(unpack(&b), &result, 1), 1);
    cr_assert_eq(elements(result, &series, 1), 1);
    cr_assert_eq(samples_of(series, t, v, 300), 210);
    for (size_t i = 0; i < 200; i++)
        cr_expect(t[i] == (int64_t)i * 5 && v[i] == (double)(i % 2 ? 1000 + i / 2 : i / 2));
    buf_release(&b);
}

Test(remote_answer, histograms_come_as_messages_and_as_chunks)
{
    const struct histogram_span span = {0, 2};
    const int64_t deltas[] = {3, -1};
    struct histogram h = {.schema = 1, .count_int = 5, .sum = 12, .positive_spans = &span, .n_positive_spans = 1, .positive_deltas = deltas, .n_positive = 2};
    struct histogram_appender *a = histogram_appender_new(false);
    cr_assert_eq(histogram_append(a, 1000, &h), HISTOGRAM_APPENDED);
    struct series_chunk *c = chunks(2);
    c[0] = (struct series_chunk){1000, 1000, CHUNK_HISTOGRAM, arena_dup(&made, histogram_appender_bytes(a))};
    c[1] = floats(2000, 1, 1, 9);
    histogram_appender_free(a);
    const struct series s = series_of(1, c, 2);
    const struct series *lists[] = {&s};
    struct buf b = answer_to(REMOTE_SAMPLES, &no_limits, &all, lists, (size_t[]){1}, 1, 1 << 18, NULL);
    struct slice result, series, f_s;
    cr_assert_eq(elements(unpack(&b), &result, 1), 1);
    cr_assert_eq(elements(result, &series, 1), 1);
    struct proto p = message(series);
    uint32_t f;
    uint64_t x;
    int n_histograms = 0;
    while (field(&p, &f, &x, &f_s))
        if (f == 4) {
            struct histogram back;
            int64_t t;
            cr_assert(histogram_decode_proto(f_s, &made, &back, &t, &fault));
            cr_expect(t == 1000 && back.count_int == 5 && back.sum == 12 && back.positive_deltas[1] == -1);
            n_histograms++;
        }
    cr_expect_eq(n_histograms, 1);
    buf_release(&b);
    b = answer_to(REMOTE_CHUNKS, &no_limits, &all, lists, (size_t[]){1}, 1, 1 << 18, NULL);
    cr_expect_neq(memmem(b.p, b.n, "\x18\x02\x22", 3), NULL); /* type HISTOGRAM, data */
    buf_release(&b);
}

/* --- frames ------------------------------------------------------------------------------------------------------------------- */

struct frame {
    struct slice series;
    uint64_t query, n_chunks;
    size_t n_bytes;
};

static size_t frames_of(const struct buf *b, struct frame *ret, size_t cap)
{
    struct proto p = message(buf_slice(b));
    size_t n = 0;
    while (proto_more(&p) && n < cap) {
        struct slice data, s;
        uint64_t v, length;
        uint32_t f, crc;
        cr_assert(proto_varint(&p, &length));
        memcpy(&crc, p.p, 4);
        p.p += 4;
        data = slice_make(p.p, (size_t)length);
        p.p += length;
        cr_assert_leq(p.p, p.end);
        cr_expect_eq(__builtin_bswap32(crc), crc32c(0, data.p, data.n));
        struct frame *r = &ret[n++];
        *r = (struct frame){.n_bytes = data.n};
        struct proto inside = message(data);
        while (field(&inside, &f, &v, &s))
            f == 1 ? (void)(r->series = s) : (void)(r->query = v);
        struct proto series = message(r->series);
        while (field(&series, &f, &v, &s))
            r->n_chunks += f == 2;
    }
    return n;
}

Test(remote_answer, a_frame_ends_with_the_chunk_that_reaches_its_size)
{
    /* Random-looking values: some 1.2 KB a chunk of 120. */
    size_t n = 3000;
    struct series_chunk *c = chunks(n);
    for (size_t i = 0; i < n; i++)
        c[i] = floats((int64_t)i * 1000000, 777 + (int64_t)(i * i % 1000), 100, 1.0 / (double)(i + 3));
    const struct series list[] = {series_of(2, c, n), series_of(1, c, 10)};
    const struct series *lists[] = {list, NULL, list + 1};
    const struct remote_query queries[] = {all, all, all};
    struct remote_stats stats;
    struct buf b = answer_to(REMOTE_CHUNKS, &no_limits, queries, lists, (size_t[]){2, 0, 1}, 3, 300000, &stats);
    cr_expect(stats.spilled);
    struct frame frames[20];
    size_t n_frames = frames_of(&b, frames, 20);
    cr_assert_gt(n_frames, 3);
    cr_expect(slice_eq(value_of_i(frames[0].series), SL("000001")));
    cr_expect_eq(frames[0].n_chunks, 10);
    uint64_t sum = 0;
    for (size_t i = 1; i + 1 < n_frames; i++) {
        cr_expect(slice_eq(value_of_i(frames[i].series), SL("000002")));
        cr_expect_eq(frames[i].query, 0);
        cr_expect_lt(frames[i].n_bytes, REMOTE_FRAME_BYTES + 20000); /* tags and lengths are not counted */
        cr_expect(i + 2 == n_frames || frames[i].n_bytes > REMOTE_FRAME_BYTES);
        sum += frames[i].n_chunks;
    }
    cr_expect_eq(sum, n);
    cr_expect_eq(frames[n_frames - 1].query, 2);
    buf_release(&b);
}

Test(remote_answer, chunks_outside_of_the_range_are_left_out)
{
    struct series_chunk *c = chunks(3);
    for (int64_t i = 0; i < 3; i++)
        c[i] = floats(i * 1000, 10, 50, 0);
    const struct series list[] = {series_of(1, c, 3), series_of(2, c, 1)};
    const struct series *lists[] = {list};
    const struct remote_query q = {.start_ms = 1200, .end_ms = 1900};
    struct buf b = answer_to(REMOTE_CHUNKS, &no_limits, &q, lists, (size_t[]){2}, 1, 1 << 18, NULL);
    struct frame frames[3];
    cr_assert_eq(frames_of(&b, frames, 3), 1);
    cr_expect_eq(frames[0].n_chunks, 1);
    buf_release(&b);
}

/* --- large and limited ---------------------------------------------------------------------------------------------------------- */

Test(remote_answer, a_large_answer_passes_through_a_file)
{
    size_t n = 5000;
    struct series *list = arena_zalloc(&made, n * sizeof(*list));
    struct series_chunk *c = chunks(1);
    c[0] = floats(0, 1000, 120, 0.1);
    for (size_t i = 0; i < n; i++)
        list[i] = series_of(n - i, c, 1);
    const struct series *lists[] = {list};
    struct remote_stats stats;
    struct buf b = answer_to(REMOTE_SAMPLES, &no_limits, &all, lists, &n, 1, 1 << 18, &stats);
    cr_expect(stats.spilled);
    cr_expect_eq(stats.samples, n * 120);
    struct slice result, *series = arena_zalloc(&made, (n + 1) * sizeof(*series));
    cr_assert_eq(elements(unpack(&b), &result, 1), 1);
    cr_assert_eq(elements(result, series, n + 1), n);
    int64_t t[121];
    double v[121];
    for (size_t i = 0; i < n; i++) {
        cr_expect_eq(samples_of(series[i], t, v, 121), 120);
        cr_expect_eq(strtoul(arena_dup(&made, value_of_i(series[i])).p, NULL, 10), i + 1);
    }
    buf_release(&b);
}

Test(remote_answer, limits_have_mimirs_texts)
{
    struct series_chunk *c = chunks(2);
    c[0] = floats(0, 1, 10, 0);
    c[1] = floats(100, 1, 10, 0);
    const struct series list[] = {series_of(1, c, 2), series_of(2, c, 2)};
    const struct {
        struct remote_limits limits;
        const char *text;
        enum err_code code;
    } cases[] = {
        {{.max_series = 1}, "the query exceeded the maximum number of series (limit: 1 series) (err-mimir-max-series-per-query). Consider", ERR_MAX_SERIES_PER_QUERY},
        {{.max_chunks = 3}, "the query exceeded the maximum number of chunks (limit: 3 chunks) (err-mimir-max-chunks-per-query). Consider", ERR_MAX_CHUNKS_PER_QUERY},
        {{.max_chunk_bytes = 20}, "the query exceeded the aggregated chunks size limit (limit: 20 bytes) (err-mimir-max-chunks-bytes-per-query). Consider",
         ERR_MAX_CHUNK_BYTES_PER_QUERY},
        {{.max_answer_bytes = 100}, "the answer is larger than 100 bytes", ERR_EXECUTION},
        {{.max_memory_bytes = 100}, "out of memory for the series of a remote read", ERR_MAX_QUERY_MEMORY},
    };
    for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
        struct remote_answer *a = remote_answer_new(REMOTE_CHUNKS, 1, &cases[i].limits, "/tmp");
        struct made_set set = {{&made_ops, NULL}, list, 2, 0};
        cr_expect(!remote_answer_add(a, 0, &all, &set.base, &made_ctx, &fault), "%zu", i);
        cr_expect_eq(fault.code, cases[i].code);
        cr_expect_eq(strncmp(fault.text, cases[i].text, strlen(cases[i].text)), 0, "%s", fault.text);
        remote_answer_free(a);
    }
}
