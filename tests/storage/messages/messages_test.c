/* Messages made by hand: what real ones do not show. */
#include <criterion/criterion.h>

#include "model/proto_put.h"
#include "tests/storage/messages/reencode.h"

static struct arena arena;
static struct buf out;

static void release(void)
{
    arena_release(&arena);
    buf_release(&out);
}

TestSuite(messages, .fini = release);

#define LABELS(...)                                                                                                    \
    ((struct labels){(struct label[]){__VA_ARGS__}, sizeof((struct label[]){__VA_ARGS__}) / sizeof(struct label)})

Test(messages, long_messages_inside_get_a_longer_length)
{
    static char text[70000];
    memset(text, 'x', sizeof(text));
    for (size_t n = 0; n < sizeof(text); n = n * 2 + 1) {
        struct slice value = slice_make(text, n);
        buf_clear(&out);
        label_names_and_values_put(SL("name"), &value, 1, &out);
        const struct label_name_values *items;
        size_t n_items;
        struct err err;
        cr_assert(label_names_and_values_decode(buf_slice(&out), &arena, &items, &n_items, &err));
        cr_assert_eq(n_items, 1);
        cr_assert(slice_eq(items[0].values[0], value), "%zu", n);
    }
}

Test(messages, a_series_without_chunks_has_its_place_in_the_stream)
{
    streamed_chunks_put(0, NULL, 0, &out);
    streamed_chunks_put(1, NULL, 0, &out);
    struct query_stream_response r;
    struct err err;
    cr_assert(query_stream_response_decode(buf_slice(&out), &arena, &r, &err));
    cr_assert_eq(r.n_chunks, 2);
    cr_expect_eq(r.chunks[0].n, 0);
    cr_expect_eq(r.chunks[1].series_index, 1);
}

Test(messages, an_unknown_chunk_encoding_is_a_corrupt_answer)
{
    for (uint64_t encoding = 0; encoding < 12; encoding++) {
        buf_clear(&out);
        size_t series = proto_put_begin(&out, 5);
        size_t chunk = proto_put_begin(&out, 2);
        proto_put_varint(&out, 3, encoding);
        proto_put_end(&out, chunk);
        proto_put_end(&out, series);
        struct query_stream_response r;
        struct err err = ERR_NONE;
        bool known = encoding >= 4 && encoding <= 6;
        cr_expect_eq(query_stream_response_decode(buf_slice(&out), &arena, &r, &err), known, "%d", (int)encoding);
        cr_expect_eq(err.code, known ? ERR_OK : ERR_CORRUPT);
    }
}

Test(messages, labels_of_a_series_must_be_in_order_and_have_values)
{
    static const struct {
        struct label a, b;
        bool good;
    } cases[] = {
        {{SL("a"), SL("1")}, {SL("b"), SL("1")}, true},
        {{SL("b"), SL("1")}, {SL("a"), SL("1")}, false},
        {{SL("a"), SL("1")}, {SL("a"), SL("2")}, false},
        {{SL("a"), SL("1")}, {SL("b"), SL("")}, false},
    };
    for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
        struct labels l = LABELS(cases[i].a, cases[i].b);
        buf_clear(&out);
        metrics_response_put(&l, &out);
        const struct labels *list;
        size_t n;
        struct err err = ERR_NONE;
        cr_expect_eq(metrics_response_decode(buf_slice(&out), &arena, &list, &n, &err), cases[i].good, "%zu", i);
        cr_expect_eq(err.code, cases[i].good ? ERR_OK : ERR_CORRUPT);
    }
}

Test(messages, labels_of_exemplars_may_be_anything)
{
    struct exemplar e = {.labels = LABELS({SL("z"), SL("1")}, {SL("a"), SL("")}), .v = -0.5, .t = -1};
    struct exemplar_series s = {.labels = LABELS({SL("a"), SL("1")}), .exemplars = &e, .n = 1};
    exemplar_response_put(&s, &out);
    const struct exemplar_series *list;
    size_t n;
    struct err err;
    cr_assert(exemplar_response_decode(buf_slice(&out), &arena, &list, &n, &err));
    cr_assert_eq(n, 1);
    cr_assert_eq(list[0].n, 1);
    cr_expect_eq(list[0].exemplars[0].t, -1);
    cr_expect_eq(list[0].exemplars[0].v, -0.5);
    cr_expect(slice_eq(list[0].exemplars[0].labels.items[0].name, SL("z")));
}

Test(messages, matchers_are_counted)
{
    struct matcher_spec many[MESSAGE_MATCHERS_MAX + 1];
    for (size_t i = 0; i < ARRAY_LEN(many); i++)
        many[i] = (struct matcher_spec){MATCH_NRE, SL("a"), SL("b")};
    for (size_t more = 0; more < 2; more++) {
        struct matcher_set set = {many, MESSAGE_MATCHERS_MAX + more};
        struct ingester_request r = {.sets = &set, .n_sets = 1};
        struct err err = ERR_NONE;
        buf_clear(&out);
        query_request_put(&r, &out);
        cr_expect_eq(query_request_decode(buf_slice(&out), &arena, &r, &err), more == 0);
        cr_expect_eq(err.code, more ? ERR_BAD_DATA : ERR_OK);
    }
}

Test(messages, sets_of_matchers_are_counted)
{
    struct matcher_set sets[MESSAGE_MATCHER_SETS_MAX + 1] = {0};
    for (size_t more = 0; more < 2; more++) {
        struct ingester_request r = {.sets = sets, .n_sets = MESSAGE_MATCHER_SETS_MAX + more};
        struct err err = ERR_NONE;
        buf_clear(&out);
        metrics_request_put(&r, &out);
        cr_expect_eq(metrics_request_decode(buf_slice(&out), &arena, &r, &err), more == 0);
    }
}

Test(messages, an_unknown_matcher_type_is_a_bad_request)
{
    size_t matcher = proto_put_begin(&out, 3);
    proto_put_varint(&out, 1, 4);
    proto_put_end(&out, matcher);
    struct ingester_request r;
    struct err err = ERR_NONE;
    cr_expect_not(query_request_decode(buf_slice(&out), &arena, &r, &err));
    cr_expect_eq(err.code, ERR_BAD_DATA);
}

Test(messages, label_matchers_that_come_twice_are_one_set)
{
    struct matcher_spec a = {MATCH_EQ, SL("a"), SL("1")}, b = {MATCH_EQ, SL("b"), SL("2")};
    for (int i = 0; i < 2; i++) {
        struct matcher_set set = {i ? &b : &a, 1};
        struct ingester_request r = {.sets = &set, .n_sets = 1};
        label_names_request_put(&r, &out);
    }
    struct ingester_request r;
    struct err err;
    cr_assert(label_names_request_decode(buf_slice(&out), &arena, &r, &err));
    cr_assert_eq(r.n_sets, 1);
    cr_assert_eq(r.sets[0].n, 2);
    cr_expect(slice_eq(r.sets[0].matchers[1].name, SL("b")));
}

Test(messages, unknown_fields_are_passed_over)
{
    struct matcher_spec a = {MATCH_EQ, SL("a"), SL("1")};
    struct matcher_set set = {&a, 1};
    struct ingester_request q = {.start_ms = 1, .end_ms = 2, .sets = &set, .n_sets = 1};
    query_request_put(&q, &out);
    proto_put_varint(&out, 4, 1);            /* projection_include */
    proto_put_element(&out, 5, SL("label")); /* projection_labels */
    proto_put_double(&out, 1000, 3.5);
    struct ingester_request r;
    struct err err;
    cr_assert(query_request_decode(buf_slice(&out), &arena, &r, &err));
    cr_expect_eq(r.end_ms, 2);
    cr_expect_eq(r.sets[0].n, 1);
}

Test(messages, active_native_histograms_come_with_their_buckets)
{
    struct labels a = LABELS({SL("a"), SL("1")}), b = LABELS({SL("a"), SL("2")});
    uint64_t counts[] = {0, 300};
    active_series_put(&a, &out);
    active_series_put(&b, &out);
    active_series_bucket_counts_put(counts, 2, &out);
    struct active_series_response r;
    struct err err;
    cr_assert(active_series_decode(buf_slice(&out), &arena, &r, &err));
    cr_assert_eq(r.n_metrics, 2);
    cr_assert_eq(r.n_bucket_counts, 2);
    cr_expect_eq(r.bucket_counts[1], 300);
}

Test(messages, a_full_arena_is_the_querys_limit)
{
    struct arena small;
    arena_init(&small, 16 << 10);
    struct labels l = LABELS({SL("a"), SL("1")});
    for (int i = 0; i < 1000; i++)
        metrics_response_put(&l, &out);
    const struct labels *list;
    size_t n;
    struct err err = ERR_NONE;
    cr_expect_not(metrics_response_decode(buf_slice(&out), &small, &list, &n, &err));
    cr_expect_eq(err.code, ERR_MAX_QUERY_MEMORY);
    arena_release(&small);
}

Test(messages, no_message_cut_short_is_read_past_its_end)
{
    struct labels l = LABELS({SL("__name__"), SL("up")}, {SL("job"), SL("x")});
    struct series_chunk c = {1, 2, CHUNK_XOR, SL("0123456789")};
    streamed_series_put(&l, 1, &out);
    streamed_chunks_put(0, &c, 1, &out);
    size_t whole = 0;
    for (size_t n = 0; n <= out.n; n++) {
        /* A copy of just these bytes, so that the address sanitizer sees a step beyond. */
        char *cut = malloc(n + !n);
        memcpy(cut, out.p, n);
        struct query_stream_response r;
        whole += query_stream_response_decode(slice_make(cut, n), &arena, &r, NULL);
        free(cut);
    }
    cr_expect_eq(whole, 3); /* nothing, the series, the series and the chunks */
}
