/* Store-gateways that are silent or slow: others are asked beside them, nothing comes twice, and nobody is given up who is the only one left. */
#include <criterion/criterion.h>

#include "read/blocks/blocks_int.h"
#include "tests/read/blocks/blocks_rig.h"

static struct rig rig;

static void setup(void)
{
    rig_new(&rig);
    rig.cfg.hedging_delay = 40;
    rig_block(&rig, 0, 300, 10000);
    rig_block(&rig, 100, 300, 20000);
    rig_block(&rig, 0, 700, 30000);
    rig_block(&rig, 50, 1, 40000);
    rig_block(&rig, 0, 600, 30000)->stride = 3;
    rig_block(&rig, 0, 900, 50000)->stride = 7;
}

static void teardown(void)
{
    rig_stop(&rig);
}

TestSuite(hedge, .init = setup, .fini = teardown, .timeout = 120);

#define ALL (~0u)

static void gateways(size_t n)
{
    for (size_t i = 0; i < n; i++)
        rig_gateway(&rig, "a");
    rig_start(&rig);
}

static void expect_all_within(int64_t ms)
{
    int64_t begin_ms = clock_mono_ms();
    rig.ctx.deadline_ms = begin_ms + 60000;
    cr_expect(is_exactly(&rig, rig_read(&rig), ALL), "%s", rig.err.text);
    int64_t took_ms = clock_mono_ms() - begin_ms;
    cr_expect_lt(took_ms, ms, "%lld ms", (long long)took_ms);
}

static int requests(void)
{
    int n = 0;
    for (size_t i = 0; i < rig.n; i++)
        n += atomic_load(&rig.fakes[i].requests);
    return n;
}

/* A stalled one says no more for ten seconds. */
Test(hedge, a_gateway_that_falls_silent_anywhere_is_replaced)
{
    gateways(3);
    for (int after = 0; after < 14; after++)
        for (int i = 0; i < 3; i++) {
            atomic_store(&rig.fakes[i].stall_after, after);
            expect_all_within(5000);
            atomic_store(&rig.fakes[i].stall_after, -1);
        }
}

Test(hedge, two_silent_gateways_are_replaced_by_the_third)
{
    gateways(3);
    atomic_store(&rig.fakes[0].stall_after, 0);
    atomic_store(&rig.fakes[2].stall_after, 0);
    for (int i = 0; i < 10; i++)
        expect_all_within(5000);
}

Test(hedge, nobody_is_asked_beside_gateways_that_answer)
{
    rig.cfg.hedging_delay = 2000;
    gateways(3);
    for (int i = 0; i < 10; i++)
        expect_all_within(60000);
    cr_expect_leq(requests(), 30);
}

Test(hedge, the_only_replica_is_waited_for)
{
    rig.replication = 1;
    gateways(3);
    for (int i = 0; i < 3; i++)
        atomic_store(&rig.fakes[i].delay_ms, 300);
    expect_all_within(60000);
    cr_expect_leq(requests(), 3);
}

Test(hedge, when_all_are_slow_the_first_one_counts)
{
    gateways(3);
    for (int i = 0; i < 3; i++)
        atomic_store(&rig.fakes[i].delay_ms, 300);
    for (int i = 0; i < 5; i++)
        expect_all_within(60000);
}

Test(hedge, without_a_delay_a_slow_gateway_is_waited_for)
{
    rig.cfg.hedging_delay = 0;
    gateways(3);
    for (int i = 0; i < 3; i++)
        atomic_store(&rig.fakes[i].delay_ms, 200);
    expect_all_within(60000);
    cr_expect_leq(requests(), 3);
}

Test(hedge, a_slow_gateway_answers_when_those_asked_beside_it_fail)
{
    gateways(3);
    for (int good = 0; good < 3; good++) {
        for (int i = 0; i < 3; i++) {
            atomic_store(&rig.fakes[i].fail_code, i == good ? 0 : RPC_UNAVAILABLE);
            atomic_store(&rig.fakes[i].delay_ms, i == good ? 300 : 60);
        }
        expect_all_within(60000);
    }
}

/* The one of the querier's zone is asked for all blocks first. */
static void gateways_with_one_at_hand(void)
{
    rig.zone = "a";
    rig_gateway(&rig, "a");
    rig_gateway(&rig, "b");
    rig_gateway(&rig, "b");
    for (int i = 0; i < 3; i++)
        rig.fakes[i].batch = 5;
    rig_start(&rig);
}

#define AMID_CHUNKS 14 /* messages: names are in the first ten */

Test(hedge, who_was_slow_with_chunks_is_asked_again_when_those_that_took_over_fail)
{
    gateways_with_one_at_hand();
    atomic_store(&rig.fakes[0].stall_after, AMID_CHUNKS);
    atomic_store(&rig.fakes[0].stalls, 1);
    for (int i = 1; i < 3; i++)
        atomic_store(&rig.fakes[i].break_after, AMID_CHUNKS + 1);
    expect_all_within(60000);
    cr_expect_geq(atomic_load(&rig.fakes[0].requests), 2);
}

Test(hedge, a_slow_gateway_is_waited_for_in_the_end_though_all_others_hang)
{
    gateways_with_one_at_hand();
    atomic_store(&rig.fakes[0].stall_after, AMID_CHUNKS);
    atomic_store(&rig.fakes[0].stalls, 1);
    for (int i = 1; i < 3; i++)
        atomic_store(&rig.fakes[i].stall_after, AMID_CHUNKS + 1);
    expect_all_within(9000);
    for (int i = 0; i < 3; i++)
        cr_expect_geq(atomic_load(&rig.fakes[i].canceled), 1, "nobody is waited for to the end");
}

static bool is_silent(const struct fake *f, int64_t at_ms)
{
    return peers_is_silent(&blocks_of(rig.q)->peers, f->addr, at_ms);
}

Test(hedge, silence_is_remembered_for_a_while_and_the_next_queries_ask_others)
{
    rig.cfg.hedging_delay = 1000;
    gateways_with_one_at_hand();
    atomic_store(&rig.fakes[0].stall_after, 0);
    expect_all_within(60000);
    int64_t now_ms = clock_mono_ms();
    cr_expect(is_silent(&rig.fakes[0], now_ms));
    cr_expect_not(is_silent(&rig.fakes[1], now_ms) || is_silent(&rig.fakes[2], now_ms));
    cr_expect_not(is_silent(&rig.fakes[0], now_ms + 12000));
    int asked = atomic_load(&rig.fakes[0].requests);
    expect_all_within(60000);
    cr_expect_eq(atomic_load(&rig.fakes[0].requests), asked);
}

Test(hedge, silence_of_all_keeps_no_block_from_being_read)
{
    gateways(3);
    struct peers *peers = &blocks_of(rig.q)->peers;
    for (int i = 0; i < 3; i++) {
        struct peer *peer = peers_get(peers, rig.fakes[i].addr, false);
        peers_note_silence(peers, peer, INT64_MAX);
        peers_put(peers, peer);
    }
    expect_all_within(60000);
}

Test(hedge, each_block_is_taken_from_whoever_has_it)
{
    gateways(3);
    for (int slow = 0; slow < 3; slow++) {
        for (unsigned i = 0; i < 3; i++) {
            atomic_store(&rig.fakes[i].forgets, 011u << i); /* every block is unknown to one of them */
            atomic_store(&rig.fakes[i].delay_ms, (int)i == slow ? 200 : 0);
        }
        expect_all_within(60000);
    }
}

Test(hedge, any_mixture_of_slow_failing_and_forgetful_gateways_gives_all)
{
    rig.cfg.hedging_delay = 5;
    gateways(3);
    srand(5);
    for (int round = 0; round < 150; round++) {
        int good = rand() % 3; /* slow, perhaps, but it has all */
        for (int i = 0; i < 3; i++) {
            struct fake *f = &rig.fakes[i];
            atomic_store(&f->delay_ms, rand() % 2 ? rand() % 25 : 0);
            atomic_store(&f->forgets, i == good ? 0 : (unsigned)rand() & (unsigned)rand());
            atomic_store(&f->fail_code, i != good && rand() % 3 == 0 ? RPC_UNAVAILABLE : 0);
            atomic_store(&f->break_after, i != good && rand() % 3 == 0 ? rand() % 14 : -1);
            atomic_store(&f->stall_after, i != good && rand() % 3 == 0 ? rand() % 14 : -1);
        }
        expect_all_within(60000);
    }
}

Test(hedge, label_values_are_asked_of_others_too)
{
    gateways(3);
    atomic_store(&rig.fakes[0].delay_ms, 10000);
    atomic_store(&rig.fakes[1].delay_ms, 10000);
    int64_t begin_ms = clock_mono_ms();
    const struct slice *values;
    size_t n;
    bool ok = rig.q->ops->label_values(rig.q, &rig.ctx, SL("s"), &rig.params, &values, &n, &rig.err);
    cr_expect(ok, "%s", rig.err.text);
    size_t expected = 0;
    for (int s = 0; s < FAKE_SERIES_MAX; s++)
        expected += any_has(&rig, ALL, s);
    cr_expect_eq(n, expected);
    cr_expect_lt(clock_mono_ms() - begin_ms, 5000);
}
