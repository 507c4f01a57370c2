/* The gRPC service: how calls end that do not end well, and the shape of streams. Whole answers are compared with Mimir's in mimir_test.c. */
#include <criterion/criterion.h>
#include <pthread.h>

#define CLAIM(cond, ...) cr_assert(cond, __VA_ARGS__)
#include "tests/storage/gateway/gateway_rig.h"
#include "tests/storage/gateway/rpc_rig.h"

static struct gw_rig rig;
static struct rpc_rig rpc;

#define SERIES 300u

static void setup(void)
{
    static char names[SERIES][40];
    static struct gw_series all[SERIES];
    gw_new(&rig);
    for (size_t i = 0; i < SERIES; i++) {
        snprintf(names[i], sizeof(names[i]), "__name__=m,i=%03zu", i);
        all[i] = (struct gw_series){names[i], 0, 1000, 5, (double)i};
    }
    gw_block(&rig, "t", all, SERIES, 0, 7200000);
    gw_block(&rig, "t", all, SERIES / 2, 0, 7200000);
    gw_index(&rig, "t");
    rpc_rig_new(&rpc, gw_start(&rig, 0));
}

static void teardown(void)
{
    rpc_rig_free(&rpc);
    gw_free(&rig);
}

static void ask(const char *method, const struct storegateway_request *r, const char *tenant, struct rpc_answer *ret)
{
    struct buf request = {0};
    storegateway_series_request_put(r, &request);
    rpc_rig_ask(&rpc, method, buf_slice(&request), tenant, tenant, &rig.arena, ret);
    buf_release(&request);
}

static const struct matcher_spec of_m = {MATCH_EQ, {"__name__", 8}, {"m", 1}};
#define REQUEST ((struct storegateway_request){.max_t = 7200000, .matchers = {&of_m, 1}, .blocks = {.all = true}})

Test(gateway_service, sends_as_many_series_a_message_as_it_is_asked_for, .init = setup, .fini = teardown)
{
    static const uint64_t batches[] = {0, 7, 100, SERIES, SERIES + 1, UINT64_MAX};
    for (size_t b = 0; b < ARRAY_LEN(batches); b++) {
        struct storegateway_request r = REQUEST;
        struct rpc_answer a;
        size_t batch = batches[b] == 0 ? 256 : (size_t)MIN(batches[b], (uint64_t)SERIES), series = 0, chunks = 0, of_series = 0;
        r.chunks_batch = batches[b];
        ask(STOREGATEWAY_SERIES, &r, "t", &a);
        cr_assert_eq(a.code, RPC_OK, "%s", a.text);
        for (size_t i = 0; i < a.n; i++) {
            struct storegateway_series_response m;
            cr_assert(storegateway_series_response_decode(a.messages[i], &rig.arena, &m, NULL));
            series += m.n_series;
            of_series += m.n_chunks;
            cr_expect(m.n_series <= batch && m.n_chunks <= batch);
            if (m.part == STOREGATEWAY_SERIES_BATCH)
                cr_expect_eq(m.end_of_series, series == SERIES);
            if (m.part == STOREGATEWAY_CHUNKS_ESTIMATE)
                cr_expect_eq(m.estimated_chunks, SERIES + SERIES / 2);
            for (size_t k = 0; k < m.n_chunks; k++)
                chunks += m.chunks[k].n;
        }
        cr_expect_eq(series, SERIES);
        cr_expect_eq(of_series, SERIES);
        cr_expect_eq(chunks, SERIES + SERIES / 2);
    }
}

Test(gateway_service, ends_calls_with_mimirs_codes, .init = setup, .fini = teardown)
{
    struct rpc_answer a;
    struct storegateway_request r = REQUEST;
    rig.limits.max_fetched_series_per_query = 10;
    ask(STOREGATEWAY_SERIES, &r, "t", &a);
    cr_expect_eq(a.code, 422);
    cr_expect(strstr(a.text, "err-mimir-max-series-per-query"), "%s", a.text);
    cr_expect(memmem(a.details.p, a.details.n, "httpgrpc.HTTPResponse", 21));
    rig.limits.max_fetched_series_per_query = 0;
    const struct matcher_spec bad = {MATCH_RE, SL("__name__"), SL("(")};
    r.matchers = (struct matcher_set){&bad, 1};
    ask(STOREGATEWAY_SERIES, &r, "t", &a);
    cr_expect(a.code == RPC_INVALID_ARGUMENT || a.code == RPC_INTERNAL, "%d", a.code);
    rpc_rig_ask(&rpc, STOREGATEWAY_SERIES, SL("\x0f"), "t", "t", &rig.arena, &a);
    cr_expect_eq(a.code, RPC_INVALID_ARGUMENT);
    cr_expect(strstr(a.text, "grpc: error unmarshalling request"), "%s", a.text);
    r = REQUEST;
    ask(STOREGATEWAY_SERIES, &r, "a/b", &a);
    cr_expect_eq(a.code, RPC_UNKNOWN, "%s", a.text);
    gateway_leave(rig.nodes[0].gateway);
    gateway_stop(rig.nodes[0].gateway);
    ask(STOREGATEWAY_SERIES, &r, "t", &a);
    cr_expect_eq(a.code, RPC_UNAVAILABLE);
    cr_expect(a.details.n > 0, "the cause that has the querier ask another");
}

Test(gateway_service, a_block_that_is_gone_is_an_internal_error, .init = setup, .fini = teardown)
{
    struct rpc_answer a;
    gw_shell("rm -r %s/t/0*", rig.bucket_dir);
    ask(STOREGATEWAY_SERIES, &REQUEST, "t", &a);
    cr_expect_eq(a.code, RPC_INTERNAL, "%d %s", a.code, a.text);
}

/* How many of these blocks the answer comes from. */
static size_t found_blocks(const char *tenant, const struct ulid *ids, size_t n)
{
    struct storegateway_request r = REQUEST;
    struct rpc_answer a;
    size_t found = 0;
    r.blocks = (struct block_hints){.blocks = ids, .n = n};
    ask(STOREGATEWAY_SERIES, &r, tenant, &a);
    cr_assert_eq(a.code, RPC_OK, "%s", a.text);
    for (size_t i = 0; i < a.n; i++) {
        struct storegateway_series_response m;
        cr_assert(storegateway_series_response_decode(a.messages[i], &rig.arena, &m, NULL));
        found += m.part == STOREGATEWAY_HINTS ? m.queried.n : 0;
    }
    return found;
}

Test(gateway_service, looks_for_blocks_when_the_querier_knows_a_newer_index, .init = setup, .fini = teardown)
{
    struct gw_series s = {"__name__=m,i=new", 0, 1000, 5, 1};
    for (int i = 0; i < 2; i++) {
        const char *tenant = i == 0 ? "t" : "new";
        struct ulid id = gw_block(&rig, tenant, &s, 1, 0, 7200000);
        gw_index(&rig, tenant);
        cr_expect_eq(found_blocks(tenant, &id, 1), 0, "without a word about its index nobody waits");
        rpc.index = "1000000000";
        cr_expect_eq(found_blocks(tenant, &id, 1), i == 0 ? 0 : 1, "an older index than ours has nothing new");
        rpc.index = "9999999999";
        cr_expect_eq(found_blocks(tenant, &id, 1), 1);
        const struct ulid both[] = {id, ulid_new(1)};
        int64_t begin_ms = clock_mono_ms();
        cr_expect_eq(found_blocks(tenant, both, 2), 1, "what is nowhere is not found, and not waited for");
        cr_expect_lt(clock_mono_ms() - begin_ms, 2500);
        rpc.index = "what";
        cr_expect_eq(found_blocks(tenant, both, 2), 1);
        rpc.index = NULL;
    }
}

static void *ask_on(void *arg)
{
    *(size_t *)arg = found_blocks("t", (const struct ulid[]){ulid_new(1)}, 1);
    return NULL;
}

Test(gateway_service, a_stop_does_not_wait_for_those_who_wait_for_a_newer_index, .init = setup, .fini = teardown)
{
    size_t found = 1;
    pthread_t thread;
    rpc.index = "9999999999";
    cr_assert_eq(pthread_create(&thread, NULL, ask_on, &found), 0);
    int64_t begin_ms = clock_mono_ms();
    gateway_leave(rig.nodes[0].gateway);
    pthread_join(thread, NULL);
    cr_expect_lt(clock_mono_ms() - begin_ms, 2500);
    cr_expect_eq(found, 0);
}
