/* Which blocks are where: sharding, changes of the ring and of the bucket, and what is kept when something cannot be read. */
#include <criterion/criterion.h>

#define CLAIM(cond, ...) cr_assert(cond, __VA_ARGS__)
#include "tests/storage/gateway/gateway_rig.h"

#define H INT64_C(3600000)
#define BLOCKS 24u

static struct gw_rig rig;
static struct ulid ids[BLOCKS];

static void setup(void)
{
    gw_new(&rig);
    rig.cfg.sync_interval = 200;
}

static void teardown(void)
{
    gw_free(&rig);
}

static struct ulid one_block(const char *tenant, int64_t begin_h)
{
    const struct gw_series s = {"__name__=m", begin_h * H, 1000, 10, 1};
    return gw_block(&rig, tenant, &s, 1, begin_h * H, (begin_h + 2) * H);
}

static void many_blocks(void)
{
    for (size_t i = 0; i < BLOCKS; i++)
        ids[i] = one_block("t", 2 * (int64_t)i);
    gw_index(&rig, "t");
}

static struct gateway *node(size_t i)
{
    return rig.nodes[i].gateway;
}

/* Waits until the nodes have `want` blocks together. */
static void wait_for_total(size_t nodes, const char *tenant, size_t want)
{
    size_t total = 0;
    for (int tries = 0; tries < 1000; tries++) {
        total = 0;
        for (size_t i = 0; i < nodes; i++)
            total += node(i) ? gw_count(&rig, node(i), tenant) : 0;
        if (total == want)
            return;
        usleep(20000);
    }
    cr_assert_fail("%zu blocks on all nodes, not %zu", total, want);
}

/* On how many nodes each block is, and that they answer for it. */
static void expect_replicas(size_t nodes, size_t want)
{
    for (size_t b = 0; b < BLOCKS; b++) {
        size_t replicas = 0;
        const struct block_hints asked = {.blocks = &ids[b], .n = 1};
        const struct select_params p = {.min_t = INT64_MIN, .max_t = INT64_MAX};
        for (size_t i = 0; i < nodes; i++) {
            struct gateway_found found;
            struct err err = ERR_NONE;
            const char *text = node(i) ? gw_select(&rig, node(i), "t", &p, &asked, &found, 3, &err) : "";
            cr_assert(text, "%s", err.text);
            cr_expect_eq(strlen(text) > 0, node(i) && found.n == 1);
            replicas += strlen(text) > 0;
        }
        cr_expect_eq(replicas, want, "block %zu is on %zu nodes", b, replicas);
    }
}

Test(gateway_sync, spreads_blocks_over_the_ring, .init = setup, .fini = teardown)
{
    many_blocks();
    rig.ring.sharding.replication_factor = 2;
    for (size_t i = 0; i < 3; i++)
        gw_start(&rig, i);
    wait_for_total(3, "t", 2 * BLOCKS);
    expect_replicas(3, 2);
    for (size_t i = 0; i < 3; i++)
        cr_expect(gw_count(&rig, node(i), "t") < BLOCKS);
}

Test(gateway_sync, has_every_block_on_every_node_of_a_small_ring, .init = setup, .fini = teardown)
{
    many_blocks();
    for (size_t i = 0; i < 2; i++)
        gw_start(&rig, i);
    expect_replicas(2, 2);
}

Test(gateway_sync, hands_blocks_over_when_nodes_come_and_go, .init = setup, .fini = teardown)
{
    many_blocks();
    rig.ring.sharding.replication_factor = 1;
    gw_start(&rig, 0);
    cr_expect_eq(gw_count(&rig, node(0), "t"), BLOCKS);
    gw_start(&rig, 1);
    wait_for_total(2, "t", BLOCKS);
    expect_replicas(2, 1);
    cr_expect(gw_count(&rig, node(1), "t") > 0);
    gw_stop(&rig, 0);
    wait_for_total(2, "t", BLOCKS);
    cr_expect_eq(gw_count(&rig, node(1), "t"), BLOCKS);
}

/* The newcomer is JOINING until its blocks are known: so long the others have them, too. */
Test(gateway_sync, at_every_moment_somebody_has_each_block, .init = setup, .fini = teardown)
{
    struct err err = ERR_NONE;
    many_blocks();
    rig.ring.sharding.replication_factor = 1;
    gw_start(&rig, 0);
    struct gw_node *late = gw_node(&rig, 1);
    cr_assert(gateway_start(late->gateway, &err), "%s", err.text);
    for (int i = 0; i < 50; i++) {
        size_t mine = gw_count(&rig, node(0), "t");
        bool ready = gateway_ready(late->gateway, NULL);
        cr_assert(mine == BLOCKS || ready, "%zu blocks while nobody else serves", mine);
        usleep(5000);
    }
    gw_wait_ready(late);
    wait_for_total(2, "t", BLOCKS);
}

Test(gateway_sync, keeps_a_tenant_within_its_shard, .init = setup, .fini = teardown)
{
    size_t with = 0;
    many_blocks();
    rig.limits.store_gateway_tenant_shard_size = 2;
    for (size_t i = 0; i < 4; i++)
        gw_start(&rig, i);
    wait_for_total(4, "t", 2 * BLOCKS);
    for (size_t i = 0; i < 4; i++)
        with += gw_count(&rig, node(i), "t") > 0;
    cr_expect_eq(with, 2);
}

Test(gateway_sync, finds_new_blocks_and_lets_marked_ones_go, .init = setup, .fini = teardown)
{
    ids[0] = one_block("t", 0);
    gw_index(&rig, "t");
    gw_start(&rig, 0);
    cr_expect_eq(gw_count(&rig, node(0), "t"), 1);
    ids[1] = one_block("t", 2);
    gw_index(&rig, "t");
    wait_for_total(1, "t", 2);
    gw_mark(&rig, "t", &ids[0], 1800); /* of half an hour ago: that is not yet to be looked at */
    ids[2] = one_block("t", 4);
    gw_index(&rig, "t");
    wait_for_total(1, "t", 3);
    gw_mark(&rig, "t", &ids[1], 3700);
    gw_index(&rig, "t");
    wait_for_total(1, "t", 2);
}

Test(gateway_sync, leaves_young_blocks_to_the_ingesters, .init = setup, .fini = teardown)
{
    int64_t now_h = clock_wall_ms() / H;
    one_block("t", now_h - 3);
    one_block("t", now_h - 13);
    gw_index(&rig, "t");
    gw_start(&rig, 0);
    cr_expect_eq(gw_count(&rig, node(0), "t"), 1);
}

Test(gateway_sync, serves_the_tenants_that_it_shall, .init = setup, .fini = teardown)
{
    static const char *tenants[] = {"a", "b", "c"}, *enabled[] = {"a", "b"}, *disabled[] = {"b"};
    for (size_t i = 0; i < 3; i++) {
        one_block(tenants[i], 0);
        gw_index(&rig, tenants[i]);
    }
    rig.cfg.enabled_tenants = (struct flag_list){enabled, 2};
    rig.cfg.disabled_tenants = (struct flag_list){disabled, 1};
    gw_start(&rig, 0);
    cr_expect_eq(gw_count(&rig, node(0), "a"), 1);
    cr_expect_eq(gw_count(&rig, node(0), "b"), 0);
    cr_expect_eq(gw_count(&rig, node(0), "c"), 0);
}

Test(gateway_sync, keeps_blocks_while_their_index_cannot_be_read, .init = setup, .fini = teardown)
{
    one_block("t", 0);
    one_block("other", 0);
    one_block("unindexed", 0);
    gw_index(&rig, "t");
    gw_index(&rig, "other");
    gw_start(&rig, 0);
    cr_expect_eq(gw_count(&rig, node(0), "unindexed"), 0); /* no index: no blocks yet */
    gw_shell("cp %s/t/bucket-index.json.gz %s/saved && echo no gzip > %s/t/bucket-index.json.gz", rig.bucket_dir, rig.dir, rig.bucket_dir);
    one_block("other", 2);
    gw_index(&rig, "other");
    wait_for_total(1, "other", 2); /* so it has looked since */
    cr_expect_eq(gw_count(&rig, node(0), "t"), 1);
    gw_shell("rm %s/t/bucket-index.json.gz", rig.bucket_dir); /* a tenant that was deleted */
    wait_for_total(1, "t", 0);
}

Test(gateway_sync, becomes_ready_although_one_tenants_index_is_damaged, .init = setup, .fini = teardown)
{
    one_block("t", 0);
    one_block("other", 0);
    gw_index(&rig, "t");
    gw_index(&rig, "other");
    gw_shell("echo no gzip > %s/t/bucket-index.json.gz", rig.bucket_dir);
    gw_start(&rig, 0);
    cr_expect_eq(gw_count(&rig, node(0), "other"), 1);
}

/* tenant/folder/file, the last ones perhaps empty */
static bool exists(const char *tenant, const char *block, const char *file)
{
    char path[512];
    snprintf(path, sizeof(path), "%s/%s/%s/%s", rig.nodes[0].dir, tenant, block, file);
    return access(path, F_OK) == 0;
}

Test(gateway_sync, makes_index_headers_ahead_and_clears_away_those_of_others, .init = setup, .fini = teardown)
{
    struct ulid foreign = ulid_new(5);
    ids[0] = one_block("t", 0);
    gw_index(&rig, "t");
    gw_shell("mkdir -p %s/sync-0/gone/%s %s/sync-0/t/keep", rig.dir, foreign.text, rig.dir);
    gw_shell("touch %s/sync-0/gone/%s/index-header %s/sync-0/t/keep/index-header", rig.dir, foreign.text, rig.dir);
    gw_start(&rig, 0);
    for (int i = 0; i < 500 && !exists("t", ids[0].text, "index-header"); i++)
        usleep(10000);
    cr_expect(exists("t", ids[0].text, "index-header"), "nobody has asked, and it is there");
    cr_expect(!exists("gone", "", ""));
    cr_expect(exists("t", "keep", "index-header"), "what is no block's is none of ours");
    gw_mark(&rig, "t", &ids[0], 7200);
    gw_index(&rig, "t");
    for (int i = 0; i < 500 && exists("t", ids[0].text, ""); i++)
        usleep(10000);
    cr_expect(!exists("t", ids[0].text, ""));
}

Test(gateway_sync, unmaps_what_nobody_asks_for, .init = setup, .fini = teardown)
{
    struct gateway_found found;
    struct err err = ERR_NONE;
    many_blocks();
    rig.cfg.lazy_loading_idle_timeout = 50;
    gw_start(&rig, 0);
    for (int i = 0; i < 5; i++) {
        const char *text = gw_everything(&rig, node(0), "t", &found, &err);
        cr_assert(text, "%s", err.text);
        cr_expect_eq(found.n, BLOCKS);
        usleep(250000);
    }
    static const struct slice family = {"cortex_bucket_store_indexheader_lazy_unload_total", 49};
    struct buf out = {0};
    metrics_write_text(&out, &family, 1);
    buf_putc(&out, 0);
    const char *value = strstr(out.p, "_total{");
    cr_expect(value && !strstr(value, "} 0\n"), "%s", out.p);
    buf_release(&out);
}

Test(gateway_sync, maps_all_at_once_where_that_is_wanted, .init = setup, .fini = teardown)
{
    struct gateway_found found;
    struct err err = ERR_NONE;
    many_blocks();
    rig.cfg.lazy_loading_enabled = false;
    gw_start(&rig, 0);
    cr_expect(gw_everything(&rig, node(0), "t", &found, &err), "%s", err.text);
    cr_expect_eq(found.n, BLOCKS);
}

Test(gateway_sync, alone_needs_nobody, .init = setup, .fini = teardown)
{
    struct err err = ERR_NONE;
    struct gateway_found found;
    many_blocks();
    rig.ring.kv.store = "memberlist";
    struct store *store = store_new(&rig.store_cfg, &(struct store_deps){.bucket = rig.bucket});
    struct gateway *g = gateway_new(&(struct gateway_deps){&rig.cfg, &rig.ring, &rig.stores, &rig.provider, rig.bucket, store, rig.local, 9095, true}, &err);
    cr_assert(g, "%s", err.text);
    cr_assert(gateway_start(g, &err), "%s", err.text);
    for (int i = 0; i < 500 && !gateway_ready(g, NULL); i++)
        usleep(10000);
    cr_expect_str_eq(gateway_id(g), "store-gateway");
    cr_expect(gw_everything(&rig, g, "t", &found, &err), "%s", err.text);
    cr_expect_eq(found.n, BLOCKS);
    gateway_stop(g);
    gateway_free(g);
    store_free(store);
}

/* A look at the bucket is one bucket index a tenant, however many blocks there are. */
Test(gateway_sync, is_ready_within_a_second_with_200_blocks, .init = setup, .fini = teardown)
{
    for (int64_t i = 0; i < 200; i++)
        one_block("t", 2 * i);
    gw_index(&rig, "t");
    int64_t since_ms = clock_mono_ms();
    gw_start(&rig, 0);
    cr_expect(clock_mono_ms() - since_ms < 1000, "%lld ms", (long long)(clock_mono_ms() - since_ms));
    cr_expect_eq(gw_count(&rig, node(0), "t"), 200);
}

Test(gateway_sync, waits_for_the_ring_to_be_stable_but_not_for_ever, .init = setup, .fini = teardown)
{
    static const struct {
        int64_t min_ms, max_ms, want_ms;
    } cases[] = {{400, 5000, 400}, {60000, 300, 300}};
    many_blocks();
    for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
        rig.ring.sharding.wait_stability_min_duration = cases[i].min_ms;
        rig.ring.sharding.wait_stability_max_duration = cases[i].max_ms;
        int64_t since_ms = clock_mono_ms();
        gw_start(&rig, i);
        cr_expect(clock_mono_ms() - since_ms >= cases[i].want_ms, "%lld ms", (long long)(clock_mono_ms() - since_ms));
    }
}

/* A store that loses its n-th write, as gossip does with the later of two within a second. */
struct forgetful {
    struct kv kv;
    struct kv *inner;
    int loses;
};

static struct kv *inner_of(struct kv *kv)
{
    return CONTAINER_OF(kv, struct forgetful, kv)->inner;
}

static bool forgetful_get(struct kv *kv, struct slice key, const struct kv_codec *codec, void **ret, struct err *err)
{
    return kv_get(inner_of(kv), key, codec, ret, err);
}

static bool forgetful_cas(struct kv *kv, struct slice key, const struct kv_codec *codec, kv_cas_fn *fn, void *arg, struct err *err)
{
    return CONTAINER_OF(kv, struct forgetful, kv)->loses-- == 0 || kv_cas(inner_of(kv), key, codec, fn, arg, err);
}

static struct kv_watch *forgetful_watch(struct kv *kv, struct slice key, bool is_prefix, const struct kv_codec *codec, kv_watch_fn *fn, void *arg, struct err *err)
{
    cr_assert(!is_prefix);
    return kv_watch_key(inner_of(kv), key, codec, fn, arg, err);
}

static void forgetful_unwatch(struct kv *kv, struct kv_watch *watch)
{
    kv_unwatch(inner_of(kv), watch);
}

static void forgetful_free(struct kv *kv)
{
    (void)kv;
}

Test(gateway_sync, writes_its_state_again_when_it_was_lost, .init = setup, .fini = teardown)
{
    static const struct kv_ops ops = {
        .name = "forgetful", .get = forgetful_get, .cas = forgetful_cas, .watch = forgetful_watch, .unwatch = forgetful_unwatch, .free = forgetful_free};
    many_blocks();
    rig.ring.member.heartbeat_period = 60000; /* which would make it good, later */
    for (int loses = 0; loses < 2; loses++) { /* JOINING, ACTIVE */
        struct forgetful store = {{&ops}, rig.memory, loses};
        rig.stores.inmemory = &store.kv;
        gw_start(&rig, 0);
        struct ring_snapshot *s = ring_current(gateway_ring_view(gateway_own_ring(node(0))));
        cr_expect_eq(ring_desc_find(ring_snapshot_desc(s), SL("gateway-0"))->state, RING_ACTIVE);
        ring_snapshot_free(s);
        gw_stop(&rig, 0);
    }
}
