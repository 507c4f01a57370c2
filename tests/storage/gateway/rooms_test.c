/* Rooms of downsampled blocks, served as tenants are: where the tenant's queries read them, with its limits and its part of the ring. */
#include <criterion/criterion.h>

#define CLAIM(cond, ...) cr_assert(cond, __VA_ARGS__)
#include "tests/storage/gateway/gateway_rig.h"
#include "tests/storage/gateway/rpc_rig.h"

#define H INT64_C(3600000)
#define ROOM "t/downsampled/5m-sum"
#define OTHER_ROOM "t/downsampled/1h-max"

static struct gw_rig rig;

static void setup(void)
{
    static const struct gw_series raw = {"__name__=raw", 0, 1000, 10, 1}, sum = {"__name__=sum", 0, 1000, 10, 1}, max[] = {{"__name__=max,a=1", 0, 1000, 10, 1}, {"__name__=max,a=2", 0, 1000, 10, 1}};
    gw_new(&rig);
    rig.cfg.sync_interval = 200;
    rig.limits.compactor_downsample_enabled = true;
    gw_block(&rig, "t", &raw, 1, 0, 24 * H);
    gw_block(&rig, ROOM, &sum, 1, 0, 24 * H);
    gw_block(&rig, OTHER_ROOM, max, 2, 0, 24 * H);
    gw_block(&rig, "t/downsampled/7m-sum", &sum, 1, 0, 24 * H);
    static const char *const places[] = {"t", ROOM, OTHER_ROOM, "t/downsampled/7m-sum"};
    for (size_t i = 0; i < ARRAY_LEN(places); i++)
        gw_index(&rig, places[i]);
}

static void teardown(void)
{
    gw_free(&rig);
}

static void expect(struct gateway *g, const char *place, const char *want)
{
    struct gateway_found found;
    struct err err = ERR_NONE;
    const char *got = gw_everything(&rig, g, place, &found, &err);
    cr_assert(got, "%s: %s", place, err.text);
    cr_expect_str_eq(got, want, "%s: %s, not %s", place, got, want);
}

/* The path below the folder of a node, made of index-headers, is there. */
static bool is_kept(size_t node, const char *path)
{
    char all[512];
    snprintf(all, sizeof(all), "%s/%s", rig.nodes[node].dir, path);
    return access(all, F_OK) == 0;
}

Test(gateway_rooms, are_served_by_their_names, .init = setup, .fini = teardown)
{
    struct gateway *g = gw_start(&rig, 0);
    expect(g, "t", "{__name__=\"raw\"} 0-9000\n");
    expect(g, ROOM, "{__name__=\"sum\"} 0-9000\n");
    expect(g, OTHER_ROOM, "{__name__=\"max\", a=\"1\"} 0-9000\n{__name__=\"max\", a=\"2\"} 0-9000\n");
    expect(g, "t/downsampled/7m-sum", "");
    cr_expect(is_kept(0, ROOM));
}

Test(gateway_rooms, are_served_only_where_queries_read_them, .init = setup, .fini = teardown)
{
    rig.limits.querier_max_source_resolution = 0;
    expect(gw_start(&rig, 0), ROOM, "");
    gw_stop(&rig, 0);
    rig.limits.querier_max_source_resolution = H;
    struct gateway *g = gw_start(&rig, 0);
    cr_expect_eq(gw_count(&rig, g, ROOM), 1);
    expect(g, ROOM, "{__name__=\"sum\"} 0-9000\n");
    rig.limits.compactor_downsample_enabled = false;
    for (int i = 0; i < 1000 && (gw_count(&rig, g, ROOM) || is_kept(0, "t/downsampled")); i++)
        usleep(20000);
    cr_expect_eq(gw_count(&rig, g, ROOM), 0);
    cr_expect_not(is_kept(0, "t/downsampled"));
    expect(g, "t", "{__name__=\"raw\"} 0-9000\n");
}

Test(gateway_rooms, have_the_limits_of_the_tenant, .init = setup, .fini = teardown)
{
    struct gateway_found found;
    struct err err = ERR_NONE;
    struct gateway *g = gw_start(&rig, 0);
    rig.limits.max_fetched_series_per_query = 1;
    cr_expect_not(gw_everything(&rig, g, OTHER_ROOM, &found, &err));
    cr_expect_eq(err.code, ERR_MAX_SERIES_PER_QUERY, "%s", err.text);
}

/* The same gateways have a block and its aggregates, as they have the same name. */
Test(gateway_rooms, lie_in_the_tenants_part_of_the_ring, .init = setup, .fini = teardown)
{
    rig.limits.store_gateway_tenant_shard_size = 1;
    rig.ring.sharding.replication_factor = 1;
    for (size_t i = 0; i < 3; i++)
        gw_start(&rig, i);
    for (int tries = 0; tries < 1000; tries++) {
        size_t n = 0;
        for (size_t i = 0; i < 3; i++)
            n += gw_count(&rig, rig.nodes[i].gateway, ROOM) + gw_count(&rig, rig.nodes[i].gateway, "t");
        if (n == 2)
            break;
        usleep(20000);
    }
    for (size_t i = 0; i < 3; i++)
        cr_expect_eq(gw_count(&rig, rig.nodes[i].gateway, ROOM), gw_count(&rig, rig.nodes[i].gateway, "t"), "gateway %zu", i);
}

Test(gateway_rooms, are_asked_for_by_other_processes, .init = setup, .fini = teardown)
{
    static const struct {
        const char *place;
        int code;
        size_t series;
    } cases[] = {{ROOM, RPC_OK, 1}, {OTHER_ROOM, RPC_OK, 2}, {"t/downsampled/7m-sum", RPC_UNKNOWN, 0}, {"../downsampled/5m-sum", RPC_UNKNOWN, 0}, {"t/downsampled/5m-sum/x", RPC_UNKNOWN, 0}};
    static const struct matcher_spec any = {MATCH_NEQ, {"__name__", 8}, {"", 0}};
    const struct storegateway_request r = {.max_t = 24 * H, .matchers = {&any, 1}, .blocks = {.all = true}};
    struct rpc_rig rpc;
    struct buf request = {0};
    rpc_rig_new(&rpc, gw_start(&rig, 0));
    storegateway_series_request_put(&r, &request);
    for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
        struct rpc_answer a;
        size_t series = 0;
        rpc_rig_ask(&rpc, STOREGATEWAY_SERIES, buf_slice(&request), "t", cases[i].place, &rig.arena, &a);
        cr_expect_eq(a.code, cases[i].code, "%s: %d %s", cases[i].place, a.code, a.text);
        for (size_t k = 0; k < a.n; k++) {
            struct storegateway_series_response m;
            cr_assert(storegateway_series_response_decode(a.messages[k], &rig.arena, &m, NULL));
            series += m.n_series;
        }
        cr_expect_eq(series, cases[i].series, "%s", cases[i].place);
    }
    buf_release(&request);
    rpc_rig_free(&rpc);
}
