/* Remote read over HTTP: what is asked, refused and limited. The messages themselves: tests/read/remote. */
#include <snappy-c.h>

#include "model/proto_put.h"
#include "tests/read/api/api_rig.h"

static struct api_rig rig;

static void setup(void)
{
    api_rig_new(&rig);
}

static void teardown(void)
{
    api_rig_stop(&rig);
}

TestSuite(remote_read_api, .init = setup, .fini = teardown);

/* A query for q_m{i=~"<re>"}. */
static void put_query(struct buf *b, int64_t start_ms, int64_t end_ms, const char *re)
{
    size_t query = proto_put_begin(b, 1);
    proto_put_varint(b, 1, (uint64_t)start_ms);
    proto_put_varint(b, 2, (uint64_t)end_ms);
    size_t matcher = proto_put_begin(b, 3);
    proto_put_varint(b, 1, 2);
    proto_put_string(b, 2, SL("i"));
    proto_put_string(b, 3, slice_of(re));
    proto_put_end(b, matcher);
    proto_put_end(b, query);
}

static struct reply post(struct buf *plain)
{
    char block[4096];
    size_t n = sizeof(block);
    cr_assert_eq(snappy_compress(plain->p, plain->n, block, &n), SNAPPY_OK);
    buf_release(plain);
    return rig_ask(&rig.http, "POST", "/prometheus/api/v1/read", "X-Scope-OrgID: t\r\nContent-Encoding: snappy\r\n", block, n);
}

static void check(struct buf *plain, int status, const char *text)
{
    struct reply r = post(plain);
    cr_expect_eq(r.status, status, "%d %s", r.status, r.body);
    cr_expect_eq(strncmp(r.body, text, strlen(text)), 0, "%s", r.body);
    reply_free(&r);
}

Test(remote_read_api, both_forms_are_answered)
{
    api_rig_start(&rig);
    struct buf b = {0};
    put_query(&b, 0, 600000, "[12]");
    struct reply r = post(&b);
    cr_assert_eq(r.status, 200, "%s", r.body);
    cr_expect_str_eq(reply_header(&r, "Content-Type"), "application/x-protobuf");
    cr_expect_str_eq(reply_header(&r, "Content-Encoding"), "snappy");
    size_t n;
    cr_assert_eq(snappy_uncompressed_length(r.body, r.n, &n), SNAPPY_OK);
    cr_expect_gt(n, 2 * STORE_SAMPLES * 10);
    reply_free(&r);
    put_query(&b, 0, 600000, "[12]");
    proto_put_varint_element(&b, 2, 1);
    r = post(&b);
    cr_assert_eq(r.status, 200, "%s", r.body);
    cr_expect_str_eq(reply_header(&r, "Content-Type"), "application/x-streamed-protobuf; proto=prometheus.ChunkedReadResponse");
    cr_expect_null(reply_header(&r, "Content-Encoding"));
    cr_expect_neq(memmem(r.body, r.n, rig.store.chunks[1].data.p, rig.store.chunks[1].data.n), NULL);
    cr_expect_neq(memmem(r.body, r.n, rig.store.chunks[2].data.p, rig.store.chunks[2].data.n), NULL);
    cr_expect_null(memmem(r.body, r.n, rig.store.chunks[3].data.p, rig.store.chunks[3].data.n));
    reply_free(&r);
    cr_expect_eq(rig.barriers, 2);
    cr_expect_eq(rig.store.open_sets, 0);
}

/* Results are in the order of the queries, however many run at once. */
Test(remote_read_api, so_many_queries_run_at_once_as_the_flag_says)
{
    static const struct {
        int64_t flag;
        int meet, most;
    } cases[] = {{1, 0, 1}, {2, 2, 2}, {0, 4, 4}, {-1, 4, 4}, {100, 4, 4}};
    static const size_t order[] = {3, 1, 2, 0}; /* of series, each of which one query selects */
    api_rig_start(&rig);
    for (size_t k = 0; k < ARRAY_LEN(cases); k++) {
        struct buf b = {0};
        const char *at = NULL;
        rig.cfg.max_concurrent_remote_read_queries = cases[k].flag;
        rig.store.meet = cases[k].meet;
        rig.store.most_open = 0;
        for (size_t q = 0; q < ARRAY_LEN(order); q++)
            put_query(&b, 0, 600000, (const char[]){(char)('0' + order[q]), 0});
        proto_put_varint_element(&b, 2, 1);
        struct reply r = post(&b);
        cr_assert_eq(r.status, 200, "%s", r.body);
        for (size_t q = 0; q < ARRAY_LEN(order); q++) {
            struct slice chunk = rig.store.chunks[order[q]].data;
            const char *found = memmem(r.body, r.n, chunk.p, chunk.n);
            cr_expect(found > at, "query %zu of case %zu", q, k);
            at = found;
        }
        cr_expect_eq(rig.store.most_open, cases[k].most, "case %zu: %d", k, rig.store.most_open);
        cr_expect_eq(rig.store.open_sets, 0);
        reply_free(&r);
    }
}

Test(remote_read_api, nothing_asked_is_nothing_answered)
{
    api_rig_start(&rig);
    struct buf b = {0};
    struct reply r = post(&b);
    cr_expect(r.status == 200 && r.n == 1 && r.body[0] == 0); /* a block of no bytes */
    reply_free(&r);
    proto_put_element(&b, 1, SL("\x10\x05")); /* no matchers */
    put_query(&b, 9000, 8000, "1");           /* ends before it begins */
    r = post(&b);
    char plain[16];
    size_t n = sizeof(plain);
    cr_assert_eq(snappy_uncompress(r.body, r.n, plain, &n), SNAPPY_OK);
    cr_expect(n == 4 && memcmp(plain, "\x0a\0\x0a\0", 4) == 0);
    reply_free(&r);
}

Test(remote_read_api, what_cannot_be_read_is_500_as_with_mimir)
{
    api_rig_start(&rig);
    struct buf b = {0};
    put_query(&b, 0, 1000, "(");
    check(&b, 500, "error parsing regexp: missing closing ): `(`\n");
    buf_puts(&b, "\x0a\x05");
    check(&b, 500, "unexpected EOF\n");
    struct reply r = rig_ask(&rig.http, "POST", "/prometheus/api/v1/read", "X-Scope-OrgID: t\r\n", "\xff\xff", 2);
    cr_expect_eq(r.status, 500);
    reply_free(&r);
    r = rig_ask(&rig.http, "GET", "/prometheus/api/v1/read", "X-Scope-OrgID: t\r\n", NULL, 0);
    cr_expect_eq(r.status, 405);
    reply_free(&r);
    put_query(&b, 0, 1000, "1");
    proto_put_varint_element(&b, 2, 7);
    check(&b, 400, "server does not support any of the requested response types: [7]; supported: map[SAMPLES:{} STREAMED_XOR_CHUNKS:{}]\n");
}

Test(remote_read_api, limits_of_the_tenant_are_400)
{
    rig.limits.max_fetched_series_per_query = 1;
    rig.limits.max_partial_query_length = 3600000;
    api_rig_start(&rig);
    struct buf b = {0};
    put_query(&b, 0, 600000, "[12]");
    check(&b, 400, "the query exceeded the maximum number of series (limit: 1 series) (err-mimir-max-series-per-query). Consider");
    put_query(&b, 0, 7200000, "1");
    check(&b, 400, "the query time range exceeds the limit (query length: 2h0m0s, limit: 1h0m0s) (err-mimir-max-query-length).");
    rig.barrier_fails = true;
    put_query(&b, 0, 600000, "1");
    check(&b, 503, "timed out waiting for the log\n");
}
