#include <criterion/criterion.h>

#include "read/ingesters/ingesters_int.h"
#include "tests/read/ingesters/ingesters_rig.h"

static struct rig rig;

static void setup(void)
{
    rig_new(&rig);
}

static void teardown(void)
{
    rig_stop(&rig);
}

TestSuite(ingesters, .init = setup, .fini = teardown, .timeout = 60);

#define EXPECT_ALL(n, samples) cr_expect(is_exactly(rig_read(&rig), 0, (n), (samples)), "%s", rig.err.text)

static void expect_error(enum err_code code, const char *text)
{
    struct read_result *got = rig_read(&rig);
    cr_expect(!got->ok);
    cr_expect_eq(rig.err.code, code, "%s: %s", err_name(rig.err.code), rig.err.text);
    cr_expect(strstr(rig.err.text, text), "%s", rig.err.text);
    free(got);
}

Test(ingesters, series_of_all_partitions_come_once)
{
    rig_add(&rig, "a", 0, 0, 300);
    rig_add(&rig, "a", 1, 300, 1);
    rig_add(&rig, "a", 2, 301, 1000);
    rig_add(&rig, "a", 3, 0, 0);
    rig_start(&rig);
    EXPECT_ALL(1301, 4);
}

Test(ingesters, one_owner_of_a_partition_is_asked)
{
    rig_add(&rig, "a", 0, 0, 5);
    rig_add(&rig, "b", 0, 0, 5);
    rig_start(&rig);
    for (int i = 0; i < 64; i++)
        EXPECT_ALL(5, 4);
    int a = atomic_load(&rig.fakes[0].requests), b = atomic_load(&rig.fakes[1].requests);
    cr_expect_eq(a + b, 64);
    cr_expect(a > 10 && b > 10, "%d and %d: the load is spread", a, b);
}

Test(ingesters, the_own_zone_is_asked_first)
{
    rig_add(&rig, "a", 0, 0, 5);
    rig_add(&rig, "b", 0, 0, 5);
    rig.zone = "b";
    rig_start(&rig);
    for (int i = 0; i < 20; i++)
        EXPECT_ALL(5, 4);
    cr_expect_eq(atomic_load(&rig.fakes[0].requests), 0);
}

Test(ingesters, preferred_zones_come_before_the_own_one)
{
    rig_add(&rig, "a", 0, 0, 5);
    rig_add(&rig, "b", 0, 0, 5);
    rig_add(&rig, "c", 0, 0, 5);
    const char *zones[] = {"a", "c"};
    rig.cfg.preferred_zones = (struct flag_list){zones, 2};
    rig.zone = "b";
    rig_start(&rig);
    for (int i = 0; i < 40; i++)
        EXPECT_ALL(5, 4);
    cr_expect_eq(atomic_load(&rig.fakes[1].requests), 0);
    cr_expect_gt(atomic_load(&rig.fakes[2].requests), 5);
}

Test(ingesters, a_request_says_who_asks_and_how)
{
    rig_add(&rig, "a", 0, 0, 5);
    struct fake *f = rig_add(&rig, "a", 1, 5, 5);
    const struct ctx_tag tags[] = {{SL(READ_LEVEL_TAG), SL("strong")}, {SL(READ_OFFSETS_TAG), SL("v1=0:41,1:-1")}};
    rig.ctx.tags = tags;
    rig.ctx.n_tags = 2;
    rig_start(&rig);
    EXPECT_ALL(10, 4);
    cr_expect_str_eq(f->metadata, "t|true|strong|v1=1:-1|");
    cr_expect_str_eq(rig.fakes[0].metadata, "t|true|strong|v1=0:41|");
    cr_expect(f->left_ms > 50000 && f->left_ms <= 60000, "%lld", (long long)f->left_ms);
}

/* As Mimir's clients: streams go without it. */
Test(ingesters, the_cluster_label_goes_with_calls_of_one_answer)
{
    struct fake *f = rig_add(&rig, "a", 0, 0, 5);
    rig.cfg.client.cluster_label = "prod";
    rig_start(&rig);
    EXPECT_ALL(5, 4);
    cr_expect_str_eq(f->metadata, "t|true|||");
    const struct select_params p = {.max_t = 1000000, .matchers = &rig.matcher, .n_matchers = 1, .no_chunks = true};
    free(read_all(&rig, &rig.ctx, &p, -1, &rig.err));
    cr_expect_str_eq(f->metadata, "t|true|||prod");
}

Test(ingesters, tls_without_its_files_is_refused_at_the_start)
{
    cr_expect(ingesters_config_check(&rig.cfg, &rig.err), "%s", rig.err.text);
    rig.cfg.client.tls.enabled = true;
    rig.cfg.client.tls.ca_path = "/nowhere/ca.pem";
    cr_expect(!ingesters_config_check(&rig.cfg, &rig.err));
    cr_expect(strstr(rig.err.text, "/nowhere/ca.pem"), "%s", rig.err.text);
}

Test(ingesters, a_failing_owner_is_replaced_at_once)
{
    rig.zone = "a";
    struct fake *f = rig_add(&rig, "a", 0, 0, 5);
    rig_add(&rig, "b", 0, 0, 5);
    rig_start(&rig);
    static const int codes[] = {RPC_UNAVAILABLE, RPC_INTERNAL, RPC_RESOURCE_EXHAUSTED, RPC_UNKNOWN, RPC_DEADLINE_EXCEEDED, RPC_CANCELED};
    for (size_t i = 0; i < ARRAY_LEN(codes); i++) {
        atomic_store(&f->fail_code, codes[i]);
        EXPECT_ALL(5, 4);
    }
    fake_stop(f);
    EXPECT_ALL(5, 4);
}

Test(ingesters, a_slow_owner_is_hedged_and_canceled)
{
    rig.zone = "a";
    rig.cfg.hedging_delay = 50;
    struct fake *slow = rig_add(&rig, "a", 0, 0, 5);
    struct fake *other = rig_add(&rig, "b", 0, 0, 5);
    rig_start(&rig);
    atomic_store(&slow->delay_ms, 5000);
    int64_t began = clock_mono_ms();
    EXPECT_ALL(5, 4);
    int64_t took = clock_mono_ms() - began;
    cr_expect(took >= 50 && took < 2000, "%lld ms", (long long)took);
    cr_expect_eq(atomic_load(&other->requests), 1);
    for (int i = 0; i < 2000 && !atomic_load(&slow->canceled); i++)
        usleep(1000);
    cr_expect_eq(atomic_load(&slow->canceled), 1);
}

Test(ingesters, the_first_owner_counts_when_it_answers_before_the_hedge)
{
    rig.zone = "a";
    rig.cfg.hedging_delay = 50;
    struct fake *slow = rig_add(&rig, "a", 0, 0, 5);
    struct fake *other = rig_add(&rig, "b", 0, 0, 5);
    atomic_store(&slow->delay_ms, 150);
    atomic_store(&other->delay_ms, 5000);
    rig_start(&rig);
    int64_t began = clock_mono_ms();
    EXPECT_ALL(5, 4);
    cr_expect_lt(clock_mono_ms() - began, 2000);
    cr_expect_eq(atomic_load(&other->requests), 1);
    cr_expect_eq(atomic_load(&slow->finished), 1);
}

Test(ingesters, an_answer_that_nobody_has_read_yet_is_no_silence)
{
    rig.zone = "a";
    rig.cfg.hedging_delay = 50;
    rig_add(&rig, "a", 0, 0, 500);
    struct fake *other = rig_add(&rig, "b", 0, 0, 500);
    rig_start(&rig);
    const struct select_params p = {.max_t = 1000000, .matchers = &rig.matcher, .n_matchers = 1};
    struct series_set *set = rig.q->ops->select(rig.q, &rig.ctx, &p, &rig.err);
    struct series batch[64];
    size_t n = 1, total = 0;
    while (n) {
        usleep(100000);
        cr_assert(series_set_next(set, &rig.ctx, batch, 64, &n, &rig.err), "%s", rig.err.text);
        total += n;
    }
    series_set_release(set);
    cr_expect_eq(total, 500);
    cr_expect_eq(atomic_load(&other->requests), 0);
}

/* Whatever the moment: among the series, at their end, among the chunks, before the last of them. */
Test(ingesters, a_stream_that_breaks_off_is_taken_over)
{
    rig.zone = "a";
    struct fake *f = rig_add(&rig, "a", 0, 0, 500);
    rig_add(&rig, "b", 0, 0, 500);
    struct fake *g = rig_add(&rig, "a", 1, 500, 300);
    rig_add(&rig, "b", 1, 500, 300)->batch = 7;
    f->batch = g->batch = 20;
    rig_start(&rig);
    for (int i = 0; i < 31; i++) {
        atomic_store(&f->break_after, i);
        atomic_store(&g->break_after, i % 11);
        EXPECT_ALL(800, 4);
    }
}

Test(ingesters, another_order_of_the_other_owner_is_no_matter)
{
    rig.zone = "a";
    struct fake *f = rig_add(&rig, "a", 0, 0, 500);
    rig_add(&rig, "b", 0, 0, 500)->backwards = true;
    f->batch = 20;
    rig_start(&rig);
    for (int i = 4; i < 30; i += 5) {
        atomic_store(&f->break_after, i);
        EXPECT_ALL(500, 4);
    }
}

Test(ingesters, a_killed_process_is_taken_over)
{
    rig.zone = "a";
    struct fake *f = rig_add(&rig, "a", 0, 0, 500);
    rig_add(&rig, "b", 0, 0, 500);
    f->batch = 20;
    atomic_store(&f->stall_after, 9);
    rig_start(&rig);
    const struct select_params p = {.max_t = 1000000, .matchers = &rig.matcher, .n_matchers = 1};
    struct series_set *set = rig.q->ops->select(rig.q, &rig.ctx, &p, &rig.err);
    struct series batch[16];
    size_t n;
    int total = 0;
    for (int i = 0; series_set_next(set, &rig.ctx, batch, 16, &n, &rig.err) && n; i++) {
        total += (int)n;
        if (i == 2)
            fake_stop(f);
    }
    series_set_release(set);
    cr_expect_eq(total, 500, "%s", rig.err.text);
}

Test(ingesters, a_stream_that_stands_still_is_taken_over)
{
    rig.zone = "a";
    rig.cfg.hedging_delay = 50;
    struct fake *f = rig_add(&rig, "a", 0, 0, 500);
    rig_add(&rig, "b", 0, 0, 500);
    f->batch = 20;
    atomic_store(&f->stall_after, 9);
    rig_start(&rig);
    int64_t began = clock_mono_ms();
    EXPECT_ALL(500, 4);
    cr_expect_lt(clock_mono_ms() - began, 3000);
    cr_expect_eq(atomic_load(&f->requests), 1);
}

/* A rolling restart: the second owner goes as soon as the first is back. */
Test(ingesters, the_last_hope_does_not_wait_for_the_back_off)
{
    rig.zone = "a";
    rig.cfg.client.backoff_base_delay = rig.cfg.client.backoff_max_delay = 60000;
    struct fake *f = rig_add(&rig, "a", 0, 0, 50);
    struct fake *g = rig_add(&rig, "b", 0, 0, 50);
    rig_start(&rig);
    fake_stop(f);
    EXPECT_ALL(50, 4);
    usleep(300000);
    fake_start(f);
    fake_stop(g);
    EXPECT_ALL(50, 4);
    cr_expect_eq(atomic_load(&f->requests), 1);
    cr_expect_eq(ingesters_of(rig.q)->peers.n, 2);
}

/* It was canceled because the other answered, not because it failed. */
Test(ingesters, an_owner_that_was_too_slow_is_asked_when_the_other_breaks_off)
{
    rig.zone = "a";
    rig.cfg.hedging_delay = 30;
    struct fake *slow = rig_add(&rig, "a", 0, 0, 500);
    struct fake *other = rig_add(&rig, "b", 0, 0, 500);
    other->batch = 20;
    atomic_store(&slow->delay_ms, 200);
    rig_start(&rig);
    for (int i = 4; i < 29; i += 6) {
        atomic_store(&other->break_after, i);
        EXPECT_ALL(500, 4);
    }
}

Test(ingesters, both_owners_may_break_off_in_turn)
{
    struct fake *f = rig_add(&rig, "a", 0, 0, 500);
    struct fake *g = rig_add(&rig, "b", 0, 0, 500);
    rig.zone = "a";
    f->batch = g->batch = 20;
    rig_start(&rig);
    atomic_store(&f->break_after, 10);
    atomic_store(&g->break_after, 20);
    struct read_result *got = rig_read(&rig);
    cr_expect(!got->ok && rig.err.code == ERR_UNAVAILABLE, "they break off again and again");
    cr_expect(strstr(rig.err.text, "broken off"), "%s", rig.err.text);
    cr_expect_eq(atomic_load(&f->requests), 2);
    cr_expect_eq(atomic_load(&g->requests), 2);
    free(got);
}

Test(ingesters, a_client_is_kept_while_its_ingester_is_in_the_ring)
{
    rig_add(&rig, "a", 0, 0, 5);
    struct fake *f = rig_add(&rig, "a", 1, 5, 5);
    rig_start(&rig);
    for (int i = 0; i < 3; i++)
        EXPECT_ALL(10, 4);
    struct peers *peers = &ingesters_of(rig.q)->peers;
    cr_expect_eq(peers->n, 2);
    ring_desc_remove(rig.ring_doc, ring_desc_find(rig.ring_doc, slice_of(f->id)));
    partition_desc_find(rig.partition_doc, 1)->state = PARTITION_PENDING;
    rig_publish(&rig);
    EXPECT_ALL(5, 4);
    cr_expect_eq(peers->n, 2, "not at once");
    peers->swept_ms -= 60000;
    EXPECT_ALL(5, 4);
    cr_expect_eq(peers->n, 1);
}

Test(ingesters, a_short_answer_is_no_answer)
{
    rig.zone = "a";
    struct fake *f = rig_add(&rig, "a", 0, 0, 50);
    rig_add(&rig, "b", 0, 0, 50);
    atomic_store(&f->short_answer, true);
    rig_start(&rig);
    EXPECT_ALL(50, 4);
    atomic_store(&rig.fakes[1].short_answer, true);
    expect_error(ERR_UNAVAILABLE, "the answer ended before the chunks of all series had come");
}

Test(ingesters, chunks_beside_the_last_series_are_taken)
{
    rig_add(&rig, "a", 0, 0, 50)->merged_end = true;
    rig_add(&rig, "a", 1, 50, 2)->merged_end = true;
    rig_start(&rig);
    EXPECT_ALL(52, 4);
}

Test(ingesters, the_only_owner_is_asked_again_when_its_connection_breaks)
{
    struct fake *f = rig_add(&rig, "a", 0, 0, 50);
    rig_start(&rig);
    EXPECT_ALL(50, 4);
    fake_stop(f);
    fake_start(f);
    EXPECT_ALL(50, 4);
}

Test(ingesters, no_owner_left_names_the_partition_and_the_cause)
{
    rig_add(&rig, "a", 0, 0, 5);
    struct fake *f = rig_add(&rig, "a", 7, 5, 5);
    rig_start(&rig);
    atomic_store(&f->fail_code, RPC_INTERNAL);
    expect_error(ERR_UNAVAILABLE, "partition 7: a-7: rpc error: code = Internal desc = made up");
    atomic_store(&f->fail_code, RPC_DEADLINE_EXCEEDED);
    expect_error(ERR_TIMEOUT, "partition 7: a-7: rpc error: code = DeadlineExceeded desc = made up");
    fake_stop(f);
    expect_error(ERR_UNAVAILABLE, "partition 7: a-7: rpc error: code = Unavailable");
}

Test(ingesters, a_query_that_is_refused_is_not_tried_elsewhere)
{
    rig_add(&rig, "a", 0, 0, 5);
    rig_add(&rig, "b", 0, 0, 5);
    rig_start(&rig);
    for (int i = 0; i < 2; i++)
        atomic_store(&rig.fakes[i].fail_code, RPC_INVALID_ARGUMENT);
    expect_error(ERR_EXECUTION, "made up");
    cr_expect_eq(atomic_load(&rig.fakes[0].requests) + atomic_load(&rig.fakes[1].requests), 1);
}

Test(ingesters, no_healthy_owner_is_an_error)
{
    rig_add(&rig, "a", 0, 0, 5);
    rig_add(&rig, "a", 7, 5, 5);
    rig_start(&rig);
    ring_desc_find(rig.ring_doc, SL("a-7"))->timestamp_s -= 3600;
    rig_publish(&rig);
    expect_error(ERR_UNAVAILABLE, "partition 7: no healthy owner");
}

Test(ingesters, an_empty_ring_is_an_error)
{
    rig_start(&rig);
    expect_error(ERR_INTERNAL, "empty ring");
}

/* Distributors may know already that it is ACTIVE; but nobody must be there yet. */
Test(ingesters, inactive_partitions_are_read_and_pending_ones_that_can_be)
{
    rig_add(&rig, "a", 0, 0, 5);
    rig_add(&rig, "a", 1, 5, 5);
    struct fake *pending = rig_add(&rig, "a", 2, 10, 5);
    partition_desc_find(rig.partition_doc, 1)->state = PARTITION_INACTIVE;
    partition_desc_find(rig.partition_doc, 2)->state = PARTITION_PENDING;
    rig_start(&rig);
    EXPECT_ALL(15, 4);
    atomic_store(&pending->fail_code, RPC_UNAVAILABLE);
    EXPECT_ALL(10, 4);
}

/* What is scaled down leaves owner by owner; with the last one gone there is nothing in it that a query reaches. */
Test(ingesters, a_partition_that_is_past_needs_nobody)
{
    rig_add(&rig, "a", 0, 0, 5);
    struct fake *f = rig_add(&rig, "a", 1, 5, 5);
    struct partition *p = partition_desc_find(rig.partition_doc, 1);
    p->state = PARTITION_INACTIVE; /* since 1970 */
    rig.limits.query_ingesters_within = 60000;
    rig_start(&rig);
    EXPECT_ALL(10, 4);
    atomic_store(&f->fail_code, RPC_UNAVAILABLE);
    EXPECT_ALL(5, 4);
    ring_desc_remove(rig.ring_doc, ring_desc_find(rig.ring_doc, slice_of(f->id)));
    rig_publish(&rig);
    EXPECT_ALL(5, 4);
    p->state_s = clock_wall_ms() / 1000 - 30;
    rig_publish(&rig);
    expect_error(ERR_UNAVAILABLE, "partition 1: no healthy owner");
}

Test(ingesters, a_tenant_with_a_shard_is_asked_for_where_it_is)
{
    for (int i = 0; i < 6; i++)
        rig_add(&rig, "a", i, 0, 0);
    rig.limits.ingestion_partitions_tenant_shard_size = 2;
    rig_start(&rig);
    free(rig_read(&rig));
    int asked = 0;
    for (int i = 0; i < 6; i++)
        asked += atomic_exchange(&rig.fakes[i].requests, 0);
    cr_expect_eq(asked, 2);
    rig.cfg.shuffle_sharding = false;
    free(rig_read(&rig));
    for (int i = 0; i < 6; i++)
        cr_expect_eq(atomic_load(&rig.fakes[i].requests), 1);
}

/* --- one series in two partitions --------------------------------------------------------------------------------------------------- */

Test(ingesters, a_series_of_two_partitions_comes_once_with_all_chunks)
{
    rig_add(&rig, "a", 0, 0, 400);
    rig_add(&rig, "a", 1, 0, 400)->t0 = 100000;
    rig_add(&rig, "a", 2, 0, 400)->t0 = 50000;
    rig.fakes[1].backwards = true;
    rig.fakes[2].batch = 3;
    rig_start(&rig);
    EXPECT_ALL(400, 12);
}

Test(ingesters, equal_chunks_of_two_partitions_come_once)
{
    rig_add(&rig, "a", 0, 0, 400);
    rig_add(&rig, "a", 1, 0, 400);
    rig_start(&rig);
    EXPECT_ALL(400, 4);
}

Test(ingesters, shared_series_survive_streams_that_break_off)
{
    rig.zone = "a";
    for (int i = 0; i < 2; i++) {
        struct fake *f = rig_add(&rig, "a", i, 100 * i, 300);
        struct fake *g = rig_add(&rig, "b", i, 100 * i, 300);
        f->t0 = g->t0 = 100000 * i;
        f->batch = g->batch = 10;
        g->backwards = i == 1;
    }
    rig_start(&rig);
    for (int i = 0; i < 33; i++) {
        atomic_store(&rig.fakes[0].break_after, i);
        atomic_store(&rig.fakes[2].break_after, 33 - i);
        struct read_result *got = rig_read(&rig);
        cr_expect(got->ok && got->n == 400, "%d: %d series %s", i, got->n, rig.err.text);
        for (int s = 0; s < 400; s++)
            cr_expect(got->times[s] == 1 && got->samples[s] == (s >= 100 && s < 300 ? 8 : 4), "%d: series %d: %d times, %d samples", i, s,
                      got->times[s], got->samples[s]);
        free(got);
    }
}

/* The other owner is not as far: it lacks what the first had not given yet, and has what the first did not know. */
Test(ingesters, what_the_other_owner_has_is_the_answer)
{
    rig.zone = "a";
    struct fake *f = rig_add(&rig, "a", 0, 0, 100);
    rig_add(&rig, "b", 0, 5, 100);
    f->batch = 10;
    atomic_store(&f->break_after, 5);
    rig_start(&rig);
    EXPECT_ALL(105, 4);
}

/* --- deadline, cancellation, memory ---------------------------------------------------------------------------------------------------- */

Test(ingesters, a_deadline_ends_the_wait)
{
    struct fake *f = rig_add(&rig, "a", 0, 0, 5);
    atomic_store(&f->delay_ms, 5000);
    rig_start(&rig);
    rig.ctx.deadline_ms = clock_mono_ms() + 100;
    int64_t began = clock_mono_ms();
    expect_error(ERR_TIMEOUT, "context deadline exceeded");
    cr_expect_lt(clock_mono_ms() - began, 2000);
}

static void *cancel_soon(void *arg)
{
    usleep(100000);
    atomic_store((atomic_bool *)arg, true);
    return NULL;
}

Test(ingesters, a_cancellation_reaches_the_ingester)
{
    struct fake *f = rig_add(&rig, "a", 0, 0, 5);
    rig_add(&rig, "b", 0, 0, 5);
    pthread_t thread;
    for (int i = 0; i < 2; i++)
        atomic_store(&rig.fakes[i].delay_ms, 5000);
    rig_start(&rig);
    cr_assert_eq(pthread_create(&thread, NULL, cancel_soon, &rig.canceled), 0);
    int64_t began = clock_mono_ms();
    expect_error(ERR_CANCELED, "context canceled");
    cr_expect_lt(clock_mono_ms() - began, 2000);
    pthread_join(thread, NULL);
    for (int i = 0; i < 2000 && !atomic_load(&f->canceled) && !atomic_load(&rig.fakes[1].canceled); i++)
        usleep(1000);
    cr_expect_eq(atomic_load(&f->canceled) + atomic_load(&rig.fakes[1].canceled), 1);
}

Test(ingesters, a_set_released_early_cancels_its_streams)
{
    struct fake *f = rig_add(&rig, "a", 0, 0, 4000);
    f->batch = 5;
    atomic_store(&f->stall_after, 200);
    rig_start(&rig);
    const struct select_params p = {.max_t = 1000000, .matchers = &rig.matcher, .n_matchers = 1};
    free(read_all(&rig, &rig.ctx, &p, 2, &rig.err));
    for (int i = 0; i < 2000 && !atomic_load(&f->canceled); i++)
        usleep(1000);
    cr_expect_eq(atomic_load(&f->canceled), 1);
}

Test(ingesters, names_of_series_count_against_the_query_memory)
{
    rig_add(&rig, "a", 0, 0, 2000)->pad = 1000;
    rig_start(&rig);
    arena_release(&rig.arena);
    arena_init(&rig.arena, 1 << 20);
    expect_error(ERR_MAX_QUERY_MEMORY, "the query exceeded the maximum allowed estimated amount of memory");
}

Test(ingesters, a_limit_ends_the_answer)
{
    rig_add(&rig, "a", 0, 0, 300);
    rig_add(&rig, "a", 1, 300, 300);
    rig_start(&rig);
    const struct select_params p = {.max_t = 1000000, .matchers = &rig.matcher, .n_matchers = 1, .limit = 70};
    struct read_result *got = read_all(&rig, &rig.ctx, &p, -1, &rig.err);
    cr_expect(got->ok && got->n == 70);
    free(got);
}

/* --- what merging wants to know ------------------------------------------------------------------------------------------------------------------- */

/* Reads all, and holds the set to what it says of what is to come. Returns how often it said something; -1: it was wrong. */
static int check_low_water(size_t max)
{
    const struct select_params p = {.max_t = 1000000, .matchers = &rig.matcher, .n_matchers = 1};
    struct series batch[64];
    struct series_set *set = rig.q->ops->select(rig.q, &rig.ctx, &p, &rig.err);
    struct labels low;
    size_t n = 1;
    int told = 0, series = 0;
    bool known = false;
    cr_assert(set && set->traits);
    cr_expect(!set->traits->low_water(set, &low), "nothing is known before the first call");
    while (n && told >= 0 && series_set_next(set, &rig.ctx, batch, max, &n, &rig.err)) {
        series += (int)n;
        for (size_t i = 0; i < n && known; i++)
            told = labels_cmp(batch[i].labels, low) < 0 ? -1 : told;
        if (told >= 0 && (known = set->traits->low_water(set, &low)))
            told++;
    }
    cr_expect(told < 0 || series == 1000, "%d: %s", series, rig.err.text);
    series_set_release(set);
    return told;
}

Test(ingesters, sorted_partitions_say_how_far_they_are)
{
    for (int i = 0; i < 3; i++) {
        rig_add(&rig, "a", i, i * 250, 500)->batch = 7 + 5 * (size_t)i;
        rig_add(&rig, "b", i, i * 250, 500)->batch = 30;
    }
    rig.zone = "a";
    rig_start(&rig);
    for (size_t max = 1; max < 64; max += 20) {
        cr_expect_gt(check_low_water(max), 10);
        atomic_store(&rig.fakes[2].break_after, 12);
        cr_expect_gt(check_low_water(max), 10, "also when one is taken over");
        atomic_store(&rig.fakes[2].break_after, -1);
    }
}

Test(ingesters, partitions_that_are_not_sorted_say_nothing)
{
    rig_add(&rig, "a", 0, 0, 600)->batch = 10;
    struct fake *f = rig_add(&rig, "a", 1, 400, 600);
    f->backwards = true;
    f->batch = 10;
    rig_start(&rig);
    cr_expect_geq(check_low_water(20), 0, "or what is true");
}

Test(ingesters, chunks_of_messages_do_not_stay)
{
    struct series batch[10];
    size_t n;
    const struct select_params p = {.max_t = 1000000, .matchers = &rig.matcher, .n_matchers = 1};
    rig_add(&rig, "a", 0, 0, 20);
    rig_start(&rig);
    struct series_set *set = rig.q->ops->select(rig.q, &rig.ctx, &p, &rig.err);
    cr_expect(series_set_next(set, &rig.ctx, batch, 10, &n, &rig.err) && n == 10);
    cr_expect(!set->traits->chunks_stay(set));
    series_set_release(set);
}
