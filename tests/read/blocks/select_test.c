#include <criterion/criterion.h>

#include "tests/read/blocks/blocks_rig.h"

static struct rig rig;

static void setup(void)
{
    rig_new(&rig);
}

static void teardown(void)
{
    rig_stop(&rig);
}

TestSuite(blocks, .init = setup, .fini = teardown, .timeout = 60);

#define ALL (~0u)
#define EXPECT(bits) cr_expect(is_exactly(&rig, rig_read(&rig), (bits)), "%s", rig.err.text)

static void expect_error(enum err_code code, const char *text)
{
    struct read_result *got = rig_read(&rig);
    cr_expect(!got->ok);
    cr_expect_eq(rig.err.code, code, "%s: %s", err_name(rig.err.code), rig.err.text);
    cr_expect(strstr(rig.err.text, text), "%s", rig.err.text);
    free(got);
}

/* Blocks whose series are partly the same, partly not; two have the same chunks. */
static void some_blocks(void)
{
    rig_block(&rig, 0, 300, 10000);
    rig_block(&rig, 100, 300, 20000);
    rig_block(&rig, 0, 700, 30000);
    rig_block(&rig, 50, 1, 40000);
    rig_block(&rig, 0, 600, 30000)->stride = 3;
    rig_block(&rig, 0, 900, 50000)->stride = 7;
}

static void gateways(size_t n)
{
    for (size_t i = 0; i < n; i++)
        rig_gateway(&rig, (const char *[]){"a", "b", "c"}[i % 3]);
}

Test(blocks, series_of_all_blocks_come_once_and_sorted)
{
    some_blocks();
    gateways(5);
    rig.replication = 1;
    rig_start(&rig);
    EXPECT(ALL);
}

Test(blocks, any_size_of_batches_gives_the_same)
{
    some_blocks();
    gateways(4);
    rig.fakes[0].batch = 1;
    rig.fakes[1].batch = 17;
    rig_start(&rig);
    for (size_t batch = 1; batch < 64; batch += 7)
        cr_expect(is_exactly(&rig, read_all(&rig, &rig.ctx, &rig.params, batch, -1, &rig.err), ALL), "%zu: %s", batch, rig.err.text);
}

Test(blocks, without_an_index_or_blocks_there_are_no_series)
{
    gateways(1);
    rig_start(&rig);
    EXPECT(0);
    rig.cache.err = (struct err){.code = ERR_NOT_FOUND};
    EXPECT(0);
    cr_expect_eq(atomic_load(&rig.fakes[0].requests), 0);
}

Test(blocks, an_index_that_is_too_old_fails_the_query)
{
    some_blocks();
    gateways(1);
    rig.cache.err.code = ERR_BUCKET_INDEX_TOO_OLD;
    snprintf(rig.cache.err.text, sizeof(rig.cache.err.text), "the bucket index is too old");
    rig_start(&rig);
    expect_error(ERR_BUCKET_INDEX_TOO_OLD, "too old");
}

Test(blocks, only_blocks_of_the_range_are_asked_for)
{
    some_blocks();
    gateways(3);
    rig_start(&rig);
    rig.params.min_t = 24000; /* where the second block has ended */
    rig.params.max_t = 39999;
    EXPECT(1u << 2 | 1u << 4);
    rig.params.min_t = 23999;
    rig.params.max_t = 40000;
    EXPECT(1u << 1 | 1u << 2 | 1u << 3 | 1u << 4);
}

Test(blocks, a_deletion_mark_counts_when_it_is_old_enough)
{
    some_blocks();
    gateways(3);
    rig_start(&rig);
    rig_mark(&rig, &rig.blocks[0], 49 * 60);
    rig_mark(&rig, &rig.blocks[2], 51 * 60);
    EXPECT(ALL & ~(1u << 2));
}

Test(blocks, replicas_share_the_load)
{
    rig_block(&rig, 0, 5, 10000);
    gateways(3);
    rig_start(&rig);
    for (int i = 0; i < 90; i++)
        EXPECT(ALL);
    for (size_t i = 0; i < 3; i++)
        cr_expect_gt(atomic_load(&rig.fakes[i].requests), 10);
}

Test(blocks, one_call_a_gateway)
{
    some_blocks();
    gateways(3);
    rig.zone = "b";
    rig_start(&rig);
    EXPECT(ALL);
    cr_expect_eq(atomic_load(&rig.fakes[1].requests), 1, "the own zone's, which has all blocks");
    cr_expect_eq(atomic_load(&rig.fakes[0].requests) + atomic_load(&rig.fakes[2].requests), 0);
    cr_expect_str_eq(rig.fakes[1].metadata, "t|t|1234567890|");
}

Test(blocks, the_cluster_label_goes_with_calls_of_one_answer)
{
    some_blocks();
    gateways(1);
    rig.cfg.client.cluster_label = "prod";
    rig_start(&rig);
    EXPECT(ALL);
    cr_expect_str_eq(rig.fakes[0].metadata, "t|t|1234567890|");
    const struct slice *names;
    size_t n;
    cr_expect(rig.q->ops->label_names(rig.q, &rig.ctx, &rig.params, &names, &n, &rig.err), "%s", rig.err.text);
    cr_expect_str_eq(rig.fakes[0].metadata, "t|t|1234567890|prod");
}

Test(blocks, blocks_that_a_gateway_does_not_know_are_asked_of_others)
{
    some_blocks();
    gateways(3);
    rig_start(&rig);
    atomic_store(&rig.fakes[0].forgets, 0x15);
    atomic_store(&rig.fakes[1].forgets, 0x2a);
    for (int i = 0; i < 20; i++)
        EXPECT(ALL);
    atomic_store(&rig.fakes[0].forgets, ALL);
    atomic_store(&rig.fakes[1].silent, true);
    for (int i = 0; i < 20; i++)
        EXPECT(ALL);
}

Test(blocks, a_block_that_nobody_knows_fails_the_query_by_name)
{
    some_blocks();
    gateways(3);
    rig_start(&rig);
    for (size_t i = 0; i < 3; i++)
        atomic_store(&rig.fakes[i].forgets, 1u << 3 | 1u << 1);
    char text[256];
    snprintf(text, sizeof(text), "failed to fetch some blocks (err-mimir-store-consistency-check-failed). The failed blocks are: %s %s", rig.blocks[1].id.text,
             rig.blocks[3].id.text);
    expect_error(ERR_STORE_CONSISTENCY_CHECK_FAILED, text);
    cr_expect_str_eq(rig.err.text, text);
    cr_expect_str_eq(err_public_id(rig.err.code), "store-consistency-check-failed");
}

Test(blocks, three_gateways_are_asked_for_a_block_and_no_more)
{
    rig_block(&rig, 0, 5, 10000);
    gateways(6);
    rig.replication = 6;
    rig_start(&rig);
    for (size_t i = 0; i < 6; i++)
        atomic_store(&rig.fakes[i].forgets, 1);
    expect_error(ERR_STORE_CONSISTENCY_CHECK_FAILED, rig.blocks[0].id.text);
    int n = 0;
    for (size_t i = 0; i < 6; i++)
        n += atomic_load(&rig.fakes[i].requests);
    cr_expect_eq(n, 3);
}

Test(blocks, a_block_that_was_uploaded_just_now_may_be_missing)
{
    some_blocks();
    gateways(3);
    rig.upload_grace_ms = 45 * 60000;
    rig_start(&rig);
    for (size_t i = 0; i < 3; i++)
        atomic_store(&rig.fakes[i].forgets, 1u << 3);
    rig.index_blocks[3].uploaded_at_s = clock_wall_ms() / 1000 - 44 * 60;
    EXPECT(ALL & ~(1u << 3));
    rig.index_blocks[3].uploaded_at_s = clock_wall_ms() / 1000 - 46 * 60;
    expect_error(ERR_STORE_CONSISTENCY_CHECK_FAILED, rig.blocks[3].id.text);
    rig.index_blocks[3].uploaded_at_s = clock_wall_ms() / 1000 - 44 * 60;
    atomic_store(&rig.fakes[1].forgets, 0);
    EXPECT(ALL);
}

Test(blocks, a_failing_gateway_is_replaced)
{
    some_blocks();
    gateways(3);
    rig.zone = "a";
    rig_start(&rig);
    static const int codes[] = {RPC_UNAVAILABLE, RPC_INTERNAL, RPC_RESOURCE_EXHAUSTED, RPC_UNKNOWN, RPC_DEADLINE_EXCEEDED, RPC_CANCELED};
    for (size_t i = 0; i < ARRAY_LEN(codes); i++) {
        atomic_store(&rig.fakes[0].fail_code, codes[i]);
        EXPECT(ALL);
    }
    fake_stop(&rig.fakes[0]);
    EXPECT(ALL);
}

Test(blocks, the_querys_own_fault_is_told_once)
{
    some_blocks();
    gateways(3);
    rig_start(&rig);
    for (size_t i = 0; i < 3; i++)
        atomic_store(&rig.fakes[i].fail_code, 422);
    rig.zone = "a";
    expect_error(ERR_EXECUTION, "made up");
}

/* With one replica nobody else could be asked: a gateway that has come back is found. */
Test(blocks, a_gateway_that_restarts_is_asked_again)
{
    some_blocks();
    gateways(1);
    rig_start(&rig);
    EXPECT(ALL);
    for (int i = 0; i < 5; i++) {
        fake_stop(&rig.fakes[0]);
        expect_error(ERR_STORE_CONSISTENCY_CHECK_FAILED, "gateway-a-0");
        fake_start(&rig.fakes[0]);
        usleep(300000);
        EXPECT(ALL);
    }
}

Test(blocks, an_answer_that_breaks_off_anywhere_is_taken_over)
{
    some_blocks();
    gateways(3);
    rig_start(&rig);
    for (size_t i = 0; i < 3; i++)
        rig.fakes[i].batch = 20;
    for (int after = 0; after < 60; after++) {
        atomic_store(&rig.fakes[after % 2].break_after, after);
        EXPECT(ALL);
        atomic_store(&rig.fakes[after % 2].break_after, -1);
    }
}

Test(blocks, two_answers_that_break_off_are_taken_over)
{
    some_blocks();
    gateways(3);
    rig_start(&rig);
    for (size_t i = 0; i < 3; i++)
        rig.fakes[i].batch = 10;
    for (int i = 0; i < 40; i++) {
        atomic_store(&rig.fakes[i % 3].break_after, i);
        atomic_store(&rig.fakes[(i + 1) % 3].break_after, 60 - i);
        EXPECT(ALL);
        atomic_store(&rig.fakes[i % 3].break_after, -1);
        atomic_store(&rig.fakes[(i + 1) % 3].break_after, -1);
    }
}

Test(blocks, an_answer_that_ends_too_early_is_no_answer)
{
    some_blocks();
    gateways(3);
    rig_start(&rig);
    rig.zone = "a";
    atomic_store(&rig.fakes[0].short_answer, true);
    atomic_store(&rig.fakes[1].skip, 77);
    for (int i = 0; i < 10; i++)
        EXPECT(ALL);
    atomic_store(&rig.fakes[2].backwards, true);
    expect_error(ERR_STORE_CONSISTENCY_CHECK_FAILED, "The failed blocks are");
}

/* Blocks do not change: whoever takes over must have what was promised. */
Test(blocks, whoever_takes_over_must_name_the_same_series)
{
    rig_block(&rig, 0, 700, 10000);
    rig_gateway(&rig, "a");
    rig_gateway(&rig, "b");
    rig.zone = "a";
    rig_start(&rig);
    rig.fakes[0].batch = 10;
    atomic_store(&rig.fakes[0].break_after, 15);
    EXPECT(ALL);
    atomic_store(&rig.fakes[1].hides, 699);
    expect_error(ERR_INTERNAL, "different series");
    atomic_store(&rig.fakes[1].hides, 3); /* it was given already */
    EXPECT(ALL);
}

Test(blocks, the_deadline_ends_a_query_that_waits)
{
    some_blocks();
    gateways(2);
    rig_start(&rig);
    for (size_t i = 0; i < 2; i++)
        atomic_store(&rig.fakes[i].delay_ms, 5000);
    rig.ctx.deadline_ms = clock_mono_ms() + 200;
    expect_error(ERR_TIMEOUT, "deadline");
    for (size_t i = 0; i < 2; i++) {
        atomic_store(&rig.fakes[i].delay_ms, 0);
        atomic_store(&rig.fakes[i].stall_after, 3);
    }
    rig.ctx.deadline_ms = clock_mono_ms() + 200;
    expect_error(ERR_TIMEOUT, "deadline");
}

static void *cancel_soon(void *arg)
{
    (void)arg;
    usleep(100000);
    atomic_store(&rig.canceled, true);
    return NULL;
}

Test(blocks, a_query_that_is_canceled_cancels_its_calls)
{
    pthread_t t;
    for (int i = 0; i < 4; i++) /* replicas are chosen by chance: of so many blocks each gateway has large ones */
        some_blocks();
    gateways(2);
    rig_start(&rig);
    for (size_t i = 0; i < 2; i++)
        atomic_store(&rig.fakes[i].stall_after, 4);
    pthread_create(&t, NULL, cancel_soon, NULL);
    int64_t began = clock_mono_ms();
    expect_error(ERR_CANCELED, "cancel");
    cr_expect_lt(clock_mono_ms() - began, 3000);
    pthread_join(t, NULL);
    for (int i = 0; i < 200 && atomic_load(&rig.fakes[0].canceled) + atomic_load(&rig.fakes[1].canceled) < 2; i++)
        usleep(10000);
    cr_expect_eq(atomic_load(&rig.fakes[0].canceled) + atomic_load(&rig.fakes[1].canceled), 2);
}

Test(blocks, a_set_that_is_released_half_way_cancels_its_calls)
{
    some_blocks();
    gateways(2);
    rig_start(&rig);
    rig.fakes[0].batch = rig.fakes[1].batch = 1;
    for (int calls = 0; calls < 8; calls++)
        free(read_all(&rig, &rig.ctx, &rig.params, 10, calls, &rig.err));
    cr_expect_eq(rig.err.code, ERR_OK, "%s", rig.err.text);
}

Test(blocks, series_without_chunks)
{
    some_blocks();
    gateways(3);
    rig_start(&rig);
    rig.params.no_chunks = true;
    EXPECT(ALL);
}

Test(blocks, a_limit_of_series_is_kept)
{
    some_blocks();
    gateways(3);
    rig_start(&rig);
    rig.params.limit = 70;
    struct read_result *got = rig_read(&rig);
    cr_expect(got->ok && got->n == 70);
    free(got);
}

Test(blocks, too_many_series_fail_before_their_chunks_are_read)
{
    some_blocks();
    gateways(3);
    rig.limits.max_fetched_series_per_query = 500;
    rig_start(&rig);
    expect_error(ERR_MAX_SERIES_PER_QUERY, "the query exceeded the maximum number of series (limit: 500 series) (err-mimir-max-series-per-query).");
}

Test(blocks, the_querys_memory_is_a_limit)
{
    some_blocks();
    gateways(3);
    rig_start(&rig);
    struct arena small;
    arena_init(&small, 60000);
    rig.ctx.arena = &small;
    expect_error(ERR_MAX_QUERY_MEMORY, "60000");
    arena_release(&small);
}

/* Labels are, chunks are not: of those only the messages at hand are in memory. */
Test(blocks, chunks_pass_through_a_memory_that_they_would_not_fit)
{
    struct arena small;
    size_t all = 0;
    for (int i = 0; i < 16; i++)
        rig_block(&rig, 0, 1900, 10000 * (i + 1));
    gateways(3);
    rig.replication = 1;
    rig_start(&rig);
    struct fake_chunks *c = calloc(1, sizeof(*c));
    fake_chunks(&rig, ALL, 1, c);
    for (size_t i = 0; i < c->n; i++)
        all += 1900 * (c->chunks[i].data.n + sizeof(c->chunks[i]));
    free(c);
    arena_init(&small, all / 2);
    rig.ctx.arena = &small;
    EXPECT(ALL);
    cr_expect_lt(small.used_bytes, all / 2, "%zu of %zu", small.used_bytes, all);
    arena_release(&small);
}

static void shard(size_t i, const char *text)
{
    rig.index_blocks[i].shard = slice_of(text);
}

Test(blocks, a_sharded_query_passes_over_blocks_of_other_shards)
{
    struct err err = ERR_NONE;
    struct matcher matchers[2] = {rig.matcher};
    gateways(1);
    for (size_t i = 0; i < 4; i++)
        rig_block(&rig, (int)i * 10, 10, 10000);
    shard(0, "1_of_4");
    shard(1, "2_of_4");
    shard(2, "3_of_4");
    shard(3, "2_of_3");
    rig_start(&rig);
    cr_assert(matcher_init(&matchers[1], MATCH_EQ, SL("__query_shard__"), SL("1_of_2"), &err));
    rig.params.matchers = matchers;
    rig.params.n_matchers = 2;
    EXPECT(1u | 1u << 2 | 1u << 3);
    matchers[1].value = SL("2_of_8");
    EXPECT(1u << 1 | 1u << 3);
    matchers[1].value = SL("2_of_6");
    EXPECT(1u << 1 | 1u << 3);
    matchers[1].value = SL("1_of_6");
    EXPECT(1u | 1u << 2);
    matcher_release(&matchers[1]);
}

Test(blocks, tls_without_its_files_is_refused_at_the_start)
{
    cr_expect(blocks_config_check(&rig.cfg, &rig.err), "%s", rig.err.text);
    rig.cfg.client.tls.enabled = true;
    rig.cfg.client.tls.ca_path = "/nowhere/ca.pem";
    cr_expect(!blocks_config_check(&rig.cfg, &rig.err));
    cr_expect(strstr(rig.err.text, "/nowhere/ca.pem"), "%s", rig.err.text);
}

Test(blocks, a_tenant_with_a_shard_size_has_gateways_of_its_own)
{
    some_blocks();
    gateways(6);
    rig.limits.store_gateway_tenant_shard_size = 2;
    rig_start(&rig);
    for (int i = 0; i < 20; i++)
        EXPECT(ALL);
    int n = 0;
    for (size_t i = 0; i < 6; i++)
        n += atomic_load(&rig.fakes[i].requests) > 0;
    cr_expect_eq(n, 2);
}

Test(blocks, a_gateway_that_is_not_active_is_not_asked)
{
    some_blocks();
    gateways(4);
    rig.replication = 2; /* two leave their place to the next, one is dead: one is left for each block */
    rig.ring_doc->instances[1].state = RING_LEAVING;
    rig.ring_doc->instances[2].state = RING_JOINING;
    rig.ring_doc->instances[3].timestamp_s -= 3600;
    rig_start(&rig);
    for (int i = 0; i < 10; i++)
        EXPECT(ALL);
    cr_expect_gt(atomic_load(&rig.fakes[0].requests), 0);
    for (size_t i = 1; i < 4; i++)
        cr_expect_eq(atomic_load(&rig.fakes[i].requests), 0);
}

/* --- names and values ------------------------------------------------------------------------------------------------------------------------ */

Test(blocks, label_values_of_all_blocks_sorted_and_once)
{
    const struct slice *values;
    size_t n;
    some_blocks();
    gateways(3);
    rig_start(&rig);
    for (int i = 0; i < 10; i++) {
        atomic_store(&rig.fakes[i % 3].forgets, 0x15);
        cr_expect(rig.q->ops->label_values(rig.q, &rig.ctx, SL("s"), &rig.params, &values, &n, &rig.err), "%s", rig.err.text);
        size_t expected = 0;
        for (int s = 0; s < FAKE_SERIES_MAX; s++)
            expected += any_has(&rig, ALL, s);
        cr_expect_eq(n, expected);
        for (size_t k = 1; k < n; k++)
            cr_expect(slice_cmp(values[k - 1], values[k]) < 0);
        atomic_store(&rig.fakes[i % 3].forgets, 0);
    }
    rig.params.limit = 3;
    cr_expect(rig.q->ops->label_values(rig.q, &rig.ctx, SL("s"), &rig.params, &values, &n, &rig.err));
    cr_expect_eq(n, 3);
}

Test(blocks, label_names_miss_no_block)
{
    const struct slice *names;
    size_t n;
    some_blocks();
    gateways(3);
    rig_start(&rig);
    cr_expect(rig.q->ops->label_names(rig.q, &rig.ctx, &rig.params, &names, &n, &rig.err), "%s", rig.err.text);
    cr_expect_eq(n, rig.n_blocks + 1);
    for (size_t i = 0; i < 3; i++)
        atomic_store(&rig.fakes[i].forgets, 2);
    cr_expect(!rig.q->ops->label_names(rig.q, &rig.ctx, &rig.params, &names, &n, &rig.err));
    cr_expect_eq(rig.err.code, ERR_STORE_CONSISTENCY_CHECK_FAILED);
    for (size_t i = 0; i < 3; i++)
        atomic_store(&rig.fakes[i].fail_code, RPC_INTERNAL);
    cr_expect(!rig.q->ops->label_names(rig.q, &rig.ctx, &rig.params, &names, &n, &rig.err));
    cr_expect(strstr(rig.err.text, "made up"), "%s", rig.err.text);
}

Test(blocks, there_are_neither_metadata_nor_exemplars)
{
    const struct metric_metadata *m;
    const struct exemplar_series *e;
    size_t n = 1;
    rig_start(&rig);
    cr_expect(rig.q->ops->metadata(rig.q, &rig.ctx, &m, &n, &rig.err) && n == 0);
    n = 1;
    cr_expect(rig.q->ops->exemplars(rig.q, &rig.ctx, &rig.params, &e, &n, &rig.err) && n == 0);
}
