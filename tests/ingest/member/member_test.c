/* The life of a membership: joining, being ready, restarts, going. */
#include <criterion/criterion.h>

#include "tests/ingest/member/member_rig.h"

TestSuite(member, .timeout = 120);

Test(member, the_partition_is_the_number_at_the_end_of_the_id)
{
    static const struct {
        const char *id;
        int32_t partition; /* -1: none */
    } cases[] = {{"ingester-zone-a-7", 7},
                 {"ingester-0", 0},
                 {"x-16383", 16383},
                 {"ingester-007", 7},
                 {"ingester", -1},
                 {"ingester-", -1},
                 {"7", -1},
                 {"-7", 7},
                 {"ingester7", -1},
                 {"ingester-7a", -1},
                 {"x-16384", -1},
                 {"x-99999999999999999999", -1},
                 {"", -1}};
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        int32_t partition = -1;
        struct err err = ERR_NONE;
        cr_expect_eq(member_partition_of(cases[i].id, &partition, &err), cases[i].partition >= 0, "%s", cases[i].id);
        cr_expect_eq(partition, cases[i].partition, "%s", cases[i].id);
        if (cases[i].partition < 0)
            cr_expect(strstr(err.text, "-ingester.ring.instance-id"), "%s", err.text);
    }
}

Test(member, joins_the_rings_once_the_log_is_replayed)
{
    struct world *w = world_new();
    struct err err;
    world_make(w);
    cr_assert(member_start(w->m, &err));
    usleep(100000);
    cr_expect_str_eq(entry(w), "JOINING 8");
    cr_expect_str_eq(partition(w), "", "nobody could read a partition whose owner is not there");
    cr_expect_not(member_ready(w->m, &err));
    cr_expect(strstr(err.text, "partition 3: replayed up to offset"), "%s", err.text);
    world_replay(w);
    EVENTUALLY(world_joined(w));
    cr_expect_str_eq(entry(w), "ACTIVE 8");
    cr_expect_str_eq(partition(w), "PartitionPending 0 owned 0");
    cr_expect(member_ready(w->m, &err), "%s", err.text);
    w->now_ms += 9000;
    usleep(50000);
    cr_expect_str_eq(partition(w), "PartitionPending 0 owned 0", "the owner has not been there for long enough");
    w->now_ms += 2000;
    EVENTUALLY(strcmp(partition(w), "PartitionActive 11 owned 0") == 0);
    world_free(w);
}

Test(member, is_ready_when_it_has_joined_for_long_enough)
{
    struct world *w = world_new();
    struct err err;
    w->cfg.min_ready_ms = 15000;
    world_start(w);
    cr_expect_not(member_ready(w->m, &err));
    cr_expect_str_eq(err.text, "waiting for 15s after being ready");
    w->now_ms += 14999;
    cr_expect_not(member_ready(w->m, &err));
    w->now_ms += 1;
    cr_expect(member_ready(w->m, &err));
    member_leave(w->m);
    cr_expect_str_eq(entry(w), "LEAVING 8");
    cr_expect_not(member_ready(w->m, &err));
    world_free(w);
}

Test(member, stays_joining_while_it_observes)
{
    struct world *w = world_new();
    struct err err;
    w->cfg.observe_ms = 5000;
    world_make(w);
    world_replay(w);
    cr_assert(member_start(w->m, &err));
    usleep(100000);
    cr_expect_str_eq(entry(w), "JOINING 8");
    cr_expect_not(member_ready(w->m, &err));
    cr_expect_str_eq(err.text, "not ACTIVE in the ring yet");
    w->now_ms += 5000;
    EVENTUALLY(strcmp(entry(w), "ACTIVE 8") == 0);
    world_free(w);
}

Test(member, a_restart_keeps_the_owner_and_the_partition)
{
    struct world *w = world_new();
    world_start(w);
    world_activate(w);
    cr_expect_str_eq(partition(w), "PartitionActive 11 owned 0");
    world_stop(w);
    cr_expect_str_eq(entry(w), "", "unregistered, as the flag says");
    cr_expect_str_eq(partition(w), "PartitionActive 11 owned 0");
    w->now_ms += 5000;
    world_start(w);
    cr_expect_str_eq(entry(w), "ACTIVE 8");
    cr_expect_str_eq(partition(w), "PartitionActive 11 owned 0");
    world_free(w);
}

Test(member, without_unregistering_the_entry_stays_with_its_tokens)
{
    struct world *w = world_new();
    uint32_t before[RING_TOKENS_MAX], after[RING_TOKENS_MAX];
    w->cfg.instance.unregister_on_stop = false;
    world_start(w);
    size_t n = entry_tokens(w, before);
    world_stop(w);
    cr_expect_str_eq(entry(w), "LEAVING 8");
    world_start(w);
    cr_expect_str_eq(entry(w), "ACTIVE 8");
    cr_expect_eq(entry_tokens(w, after), n);
    cr_expect_arr_eq(before, after, n * sizeof(before[0]));
    world_free(w);
}

Test(member, tokens_survive_in_their_file_when_the_ring_does_not)
{
    struct world *w = world_new();
    uint32_t before[RING_TOKENS_MAX], after[RING_TOKENS_MAX];
    w->cfg.tokens_file = w->tokens_file;
    world_start(w);
    size_t n = entry_tokens(w, before);
    world_stop(w);
    world_new_store(w);
    world_start(w);
    cr_assert_eq(entry_tokens(w, after), n);
    cr_expect_arr_eq(before, after, n * sizeof(before[0]));
    cr_expect_str_eq(entry(w), "ACTIVE 8");
    world_free(w);
}

static enum kv_cas take_token(void *arg, void **value, struct err *err)
{
    (void)err;
    struct ring_desc *d = *value ? *value : ring_desc_new();
    ring_instance_set_tokens(ring_desc_add(d, SL("other-1")), arg, 1);
    *value = d;
    return KV_CAS_STORE;
}

Test(member, a_token_that_another_has_meanwhile_is_left_to_it)
{
    struct world *w = world_new();
    uint32_t before[RING_TOKENS_MAX], after[RING_TOKENS_MAX];
    w->cfg.tokens_file = w->tokens_file;
    world_start(w);
    entry_tokens(w, before);
    world_stop(w);
    world_new_store(w);
    cr_assert(kv_cas(w->store.inner, SL("ring"), &ring_desc_codec, take_token, &before[2], NULL));
    world_start(w);
    cr_assert_eq(entry_tokens(w, after), 8);
    size_t kept = 0;
    for (size_t i = 0; i < 8; i++) {
        cr_expect_neq(after[i], before[2]);
        for (size_t k = 0; k < 8; k++)
            kept += after[i] == before[k];
    }
    cr_expect_eq(kept, 7);
    world_free(w);
}

Test(member, a_damaged_file_of_tokens_costs_the_tokens_only)
{
    static const char *const texts[] = {
        "", "{", "null", "{\"tokens\":null}", "{\"tokens\":[1,-2]}", "{\"tokens\":[4294967296]}", "[1,2]"};
    struct world *w = world_new();
    w->cfg.tokens_file = w->tokens_file;
    for (size_t i = 0; i < sizeof(texts) / sizeof(texts[0]); i++) {
        FILE *f = fopen(w->tokens_file, "w");
        fputs(texts[i], f);
        fclose(f);
        world_start(w);
        cr_expect_str_eq(entry(w), "ACTIVE 8", "%s", texts[i]);
        world_stop(w);
    }
    world_free(w);
}

static enum kv_cas put_twin(void *arg, void **value, struct err *err)
{
    (void)err;
    struct ring_desc *d = ring_desc_new();
    struct ring_instance *in = ring_desc_add(d, SL(ID));
    ring_string_set(&in->addr, SL("10.9.9.9:9095"));
    in->timestamp_s = *(const int64_t *)arg;
    in->registered_s = 5;
    *value = d;
    return KV_CAS_STORE;
}

Test(member, takes_the_place_of_another_with_its_id)
{
    struct world *w = world_new();
    int64_t now_s = T0_MS / 1000;
    cr_assert(kv_cas(w->store.inner, SL("ring"), &ring_desc_codec, put_twin, &now_s, NULL));
    world_start(w);
    void *d;
    cr_assert(kv_get(w->store.inner, SL("ring"), &ring_desc_codec, &d, NULL));
    const struct ring_instance *in = ring_desc_find(d, SL(ID));
    cr_expect_str_eq(in->addr, "10.0.0.1:9095");
    cr_expect_eq(in->registered_s, 5);
    ring_desc_free(d);
    world_free(w);
}

Test(member, a_store_that_is_down_at_the_start_is_an_error)
{
    struct world *w = world_new();
    struct err err;
    world_make(w);
    atomic_store(&w->store.down, true);
    cr_expect_not(member_start(w->m, &err));
    cr_expect_str_eq(err.text, "the store is down");
    member_leave(w->m);
    member_stop(w->m);
    world_free(w);
}

Test(member, a_store_that_is_down_later_is_waited_for)
{
    struct world *w = world_new();
    struct err err;
    world_make(w);
    cr_assert(member_start(w->m, &err));
    atomic_store(&w->store.down, true);
    world_replay(w);
    usleep(100000);
    cr_expect_not(member_ready(w->m, &err));
    atomic_store(&w->store.down, false);
    EVENTUALLY(world_joined(w));
    cr_expect_str_eq(entry(w), "ACTIVE 8");
    world_free(w);
}

Test(member, a_stop_before_it_has_joined_leaves_as_well)
{
    struct world *w = world_new();
    struct err err;
    world_make(w);
    cr_assert(member_start(w->m, &err));
    cr_expect_str_eq(entry(w), "JOINING 8");
    world_stop(w);
    cr_expect_str_eq(entry(w), "");
    world_free(w);
}

Test(member, flags_become_a_configuration)
{
    struct ingester_ring_config ring;
    struct ring_member_config shared;
    struct partition_ring_config partitions;
    struct ring_member_identity self = {.id = "i-4", .addr = "h:1", .zone = "z"};
    struct flag_set *flags = flag_set_new();
    struct err err;
    flag_set_add(flags, "a", ingester_ring_flags, ingester_ring_flags_n, &ring);
    flag_set_add(flags, "b", ingester_ring_member_flags, ingester_ring_member_flags_n, &shared);
    flag_set_add(flags, "c", partition_ring_flags, partition_ring_flags_n, &partitions);
    struct member_config cfg;
    cr_assert(member_config_of(&ring, &shared, &partitions, &self, 4, "dir", &cfg, &err), "%s", err.text);
    cr_expect_str_eq(cfg.instance.key, "ring");
    cr_expect_str_eq(cfg.partition.key, "ingester-partitions");
    cr_expect_str_eq(cfg.partition.owner, "i-4");
    cr_expect_eq(cfg.instance.n_tokens, 128);
    cr_expect_eq(cfg.instance.heartbeat_period_ms, 15000);
    cr_expect_eq(cfg.heartbeat_timeout_ms, 60000);
    cr_expect_eq(cfg.min_ready_ms, 15000);
    cr_expect(cfg.instance.unregister_on_stop && cfg.partition.create_on_start);
    cr_expect_eq(cfg.partition.rules.min_owners_ms, 10000);
    ring.num_tokens = 0;
    cr_expect_not(member_config_of(&ring, &shared, &partitions, &self, 4, "dir", &cfg, &err));
    cr_expect(strstr(err.text, "-ingester.ring.num-tokens"));
    flag_set_free(flags);
}
