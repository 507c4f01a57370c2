/* The request. Bytes are what Go's protobuf writes for the message in the comment. */
#include "tests/read/remote/remote_rig.h"

static struct remote_request r;

static void setup(void)
{
    arena_init(&made, 0);
    fault = ERR_NONE;
}

static void teardown(void)
{
    remote_request_release(&r);
    arena_release(&made);
}

TestSuite(remote_request, .init = setup, .fini = teardown);

static bool read_max(struct slice plain, size_t max)
{
    size_t n = snappy_max_compressed_length(plain.n);
    char *block = arena_alloc(&made, n);
    cr_assert_eq(snappy_compress(plain.p, plain.n, block, &n), SNAPPY_OK);
    return remote_request_read(slice_make(block, n), max, &made, &r, &fault);
}

static bool read_plain(struct slice plain)
{
    return read_max(plain, 1 << 20);
}

/* {queries: [{start: 1000, end: 2000, matchers: [{EQ, __name__, up}, {NRE, job, a.*}], hints: {step: 5, func: "rate", start: 1500, end: 1900}}], types: [1, 0] packed} */
#define QUERY "\x08\xe8\x07\x10\xd0\x0f\x1a\x0e\x12\x08__name__\x1a\x02up\x1a\x0c\x08\x03\x12\x03job\x1a\x03" "a.*"
#define HINTS "\x22\x0e\x08\x05\x12\x04rate\x18\xdc\x0b\x20\xec\x0e"

Test(remote_request, queries_matchers_hints_and_types_are_read)
{
    cr_assert(read_plain(SL("\x0a\x34" QUERY HINTS "\x12\x02\x01\x00")), "%s", fault.text);
    cr_assert_eq(r.n_queries, 1);
    const struct remote_query *q = &r.queries[0];
    cr_expect_eq(q->start_ms, 1500); /* the hints' */
    cr_expect_eq(q->end_ms, 1900);
    cr_expect(!q->only_series);
    cr_assert_eq(q->n_matchers, 2);
    cr_expect_eq(q->matchers[0].type, MATCH_EQ);
    cr_expect(slice_eq(q->matchers[0].value, SL("up")));
    cr_expect_eq(q->matchers[1].type, MATCH_NRE);
    cr_expect(!matcher_matches(&q->matchers[1], SL("abc")));
    cr_expect_eq(r.n_types, 2);
    enum remote_form form;
    cr_assert(remote_request_form(&r, &form, &fault));
    cr_expect_eq(form, REMOTE_CHUNKS);
}

Test(remote_request, without_hints_the_query_says_the_range)
{
    cr_assert(read_plain(SL("\x0a\x24" QUERY "\x0a\x00\x10\x00")), "%s", fault.text);
    cr_assert_eq(r.n_queries, 2);
    cr_expect_eq(r.queries[0].start_ms, 1000);
    cr_expect_eq(r.queries[0].end_ms, 2000);
    cr_expect_eq(r.queries[1].n_matchers, 0);
    enum remote_form form;
    cr_assert(remote_request_form(&r, &form, &fault));
    cr_expect_eq(form, REMOTE_SAMPLES);
}

Test(remote_request, types_that_there_are_not_are_named)
{
    cr_assert(read_plain(SL("\x10\x07\x10\x09")));
    enum remote_form form;
    cr_assert(!remote_request_form(&r, &form, &fault));
    cr_expect_str_eq(fault.text,
                     "server does not support any of the requested response types: [7 9]; supported: map[SAMPLES:{} STREAMED_XOR_CHUNKS:{}]");
}

Test(remote_request, what_is_none_is_refused)
{
    const struct slice bad[] = {
        SL("\x0a\x05" QUERY),                                  /* cut within the query */
        SL("\x0a\x02\x1a\x05"),                                /* a matcher longer than its query */
        SL("\x0a\x09\x1a\x07\x08\x02\x12\x01" "a\x1a\x01("),     /* a bad regular expression */
        SL("\x0a\x09\x1a\x07\x08\x04\x12\x01" "a\x1a\x01" "b"),    /* a matcher of type 4 */
        SL("\x0b"),                                            /* a group that does not end */
    };
    for (size_t i = 0; i < ARRAY_LEN(bad); i++) {
        cr_expect(!read_plain(bad[i]), "%zu", i);
        remote_request_release(&r);
    }
    cr_expect(!remote_request_read(SL(""), 1 << 20, &made, &r, &fault));
    cr_expect(!remote_request_read(SL("\x05\xff\xff"), 1 << 20, &made, &r, &fault));
    cr_expect(!read_max(SL("\x0a\x24" QUERY), 10));
    cr_expect_eq(fault.code, ERR_TOO_LARGE);
}
