/*
 * A real Mimir's bucket (shared/mimir/blocks/compacted), served by three real store-gateways with real bucket indexes, directly and over gRPC: every sample that was written must come out, and no other.
 */
#include <arpa/inet.h>
#include <criterion/criterion.h>
#include <jansson.h>
#include <netinet/in.h>
#include <sys/socket.h>

#include "read/blocks/blocks.h"

#define CLAIM(cond, ...) cr_assert(cond, __VA_ARGS__)
#include "tests/storage/gateway/gateway_rig.h"

#define NODES 3u

static struct gw_rig rig;
static struct real {
    struct flag_set *flags;
    struct blocks_config cfg;
    struct rpc_config rpc;
    struct rpc_config rpcs[NODES];
    struct rpc_server *servers[NODES];
    struct index_cache_config index_cfg;
    struct index_cache *indexes;
    struct gateway_ring *ring;
    struct queryable *q;
} real;

/* --- the rig ------------------------------------------------------------------------------------------------------------------------------------ */

static int free_port(const char *address)
{
    struct sockaddr_in a = {.sin_family = AF_INET};
    socklen_t len = sizeof(a);
    int fd = socket(AF_INET, SOCK_STREAM, 0);
    cr_assert_eq(inet_pton(AF_INET, address, &a.sin_addr), 1);
    cr_assert(bind(fd, (struct sockaddr *)&a, sizeof(a)) == 0 && getsockname(fd, (struct sockaddr *)&a, &len) == 0);
    close(fd);
    return ntohs(a.sin_port);
}

static void node(size_t i)
{
    struct err err = ERR_NONE;
    char address[32];
    snprintf(address, sizeof(address), "127.0.0.%zu", i + 1);
    rig.ring.member.instance_port = free_port(address);
    struct gw_node *n = gw_node(&rig, i);
    real.rpcs[i] = real.rpc;
    real.rpcs[i].grpc_listen_address = n->addr;
    real.rpcs[i].grpc_listen_port = n->ring.member.instance_port;
    real.rpcs[i].grpc_workers = 4;
    real.servers[i] = rpc_server_new(&real.rpcs[i]);
    rpc_server_add(real.servers[i], gateway_methods, gateway_methods_n, n->gateway);
    cr_assert(rpc_server_start(real.servers[i], &err), "%s", err.text);
    cr_assert(gateway_start(n->gateway, &err), "%s", err.text);
}

static void setup(void)
{
    gw_new(&rig);
    gw_shell("cp -r %s/mimir/blocks/compacted/. %s/ && chmod -R u+w %s", TEST_SHARED_DIR, rig.bucket_dir, rig.bucket_dir);
    gw_index(&rig, "tenant-a"); /* the marks and blocks are its own; only the time of the index is new */
    gw_index(&rig, "tenant-b");
    memset(&real, 0, sizeof(real));
    real.flags = flag_set_new();
    flag_set_add(real.flags, "Querier", blocks_flags, blocks_flags_n, &real.cfg);
    flag_set_add(real.flags, "gRPC server", rpc_flags, rpc_flags_n, &real.rpc);
    flag_set_add(real.flags, "Indexes", index_cache_flags, index_cache_flags_n, &real.index_cfg);
    real.indexes = index_cache_new(rig.bucket, &real.index_cfg, 900000);
    index_cache_start(real.indexes);
}

static void start_querier(struct gateway *local)
{
    struct err err = ERR_NONE;
    struct local_gateway direct;
    real.ring = gateway_ring_open(&rig.ring, &rig.stores, "store-gateway-client", &err);
    cr_assert(real.ring, "%s", err.text);
    if (local)
        direct = local_gateway_of(local);
    real.q = blocks_queryable_new(&(struct blocks_parts){.cfg = &real.cfg,
                                                         .limits = &rig.provider,
                                                         .indexes = real.indexes,
                                                         .gateways = gateway_ring_view(real.ring),
                                                         .local = local ? &direct : NULL});
}

static void teardown(void)
{
    blocks_queryable_free(real.q);
    gateway_ring_close(real.ring);
    for (size_t i = 0; i < NODES; i++)
        if (real.servers[i])
            rpc_server_stop(real.servers[i], 1000);
    for (size_t i = 0; i < NODES; i++)
        rpc_server_free(real.servers[i]);
    index_cache_stop(real.indexes);
    index_cache_free(real.indexes);
    flag_set_free(real.flags);
    gw_free(&rig);
}

TestSuite(real_gateways, .init = setup, .fini = teardown, .timeout = 120);

/* --- what is expected --------------------------------------------------------------------------------------------------------------------------- */

/* {a="b", ...} -> {"f": {time: bits of the value}, "h": {time: true}} of a select, or of expected.json. */
static void put_bits(json_t *series, int64_t t, int64_t bits)
{
    char time[32];
    snprintf(time, sizeof(time), "%lld", (long long)t);
    json_t *old = json_object_get(json_object_get(series, "f"), time);
    cr_assert(!old || json_integer_value(old) == bits, "two values at %s", time);
    json_object_set_new(json_object_get(series, "f"), time, json_integer(bits));
}

static void put_float(json_t *series, int64_t t, double v)
{
    int64_t bits;
    memcpy(&bits, &v, sizeof(bits));
    put_bits(series, t, bits);
}

static void put_histogram(json_t *series, int64_t t)
{
    char time[32];
    snprintf(time, sizeof(time), "%lld", (long long)t);
    json_object_set_new(json_object_get(series, "h"), time, json_true());
}

static json_t *add_series(json_t *all, struct labels labels)
{
    struct buf name = {0};
    labels_print_set(labels, &name);
    json_t *series = json_pack("{s:{}, s:{}}", "f", "h");
    cr_assert_null(json_object_get(all, buf_cstr(&name)), "%s comes twice", buf_cstr(&name));
    json_object_set_new(all, buf_cstr(&name), series);
    buf_release(&name);
    return series;
}

/* A number, "+Inf", "stale", or "NaN:" and its bits. */
static void put_value(json_t *series, int64_t t, const json_t *v)
{
    const char *text = json_string_value(v);
    if (text && strcmp(text, "stale") == 0)
        put_bits(series, t, 0x7ff0000000000002);
    else if (text && strncmp(text, "NaN:", 4) == 0)
        put_bits(series, t, (int64_t)strtoull(text + 4, NULL, 16));
    else
        put_float(series, t, text ? strtod(text, NULL) : json_number_value(v));
}

static json_t *expected(const char *tenant)
{
    json_error_t error;
    json_t *file = json_load_file(TEST_SHARED_DIR "/mimir/blocks/expected.json", 0, &error), *s, *v, *all = json_object();
    const char *name;
    size_t i, k;
    cr_assert(file, "%s", error.text);
    json_array_foreach(json_object_get(file, tenant), i, s) {
        struct label items[32];
        size_t n = 0;
        json_object_foreach(json_object_get(s, "labels"), name, v)
            items[n++] = (struct label){slice_of(name), slice_of(json_string_value(v))};
        labels_sort(items, n);
        json_t *series = add_series(all, (struct labels){items, n});
        json_array_foreach(json_object_get(s, "floats"), k, v)
            put_value(series, json_integer_value(json_array_get(v, 0)), json_array_get(v, 1));
        json_array_foreach(json_object_get(s, "histograms"), k, v)
            put_histogram(series, json_integer_value(json_array_get(v, 0)));
    }
    json_decref(file);
    return all;
}

static void take_chunk(json_t *series, const struct series_chunk *c)
{
    struct err err = ERR_NONE;
    struct chunk_columns cols;
    struct arena a;
    arena_init(&a, 0);
    cr_assert(chunk_decode(c->encoding, c->data, &a, &cols, &err), "%s", err.text);
    for (size_t i = 0; i < cols.n; i++)
        c->encoding == CHUNK_XOR ? put_float(series, cols.t[i], cols.v[i]) : put_histogram(series, cols.t[i]);
    arena_release(&a);
}

static json_t *select_all(const char *tenant, struct err *err)
{
    struct matcher m;
    struct series batch[7];
    size_t n = 1;
    json_t *all = json_object();
    rig.ctx.tenant = slice_of(tenant);
    rig.ctx.deadline_ms = clock_mono_ms() + 20000;
    cr_assert(matcher_init(&m, MATCH_NEQ, SL("__name__"), SL(""), NULL));
    const struct select_params p = {.min_t = 0, .max_t = INT64_MAX / 2, .matchers = &m, .n_matchers = 1};
    struct series_set *set = real.q->ops->select(real.q, &rig.ctx, &p, err);
    while (set && n && series_set_next(set, &rig.ctx, batch, ARRAY_LEN(batch), &n, err))
        for (size_t i = 0; i < n; i++) {
            json_t *series = add_series(all, batch[i].labels);
            for (size_t k = 0; k < batch[i].n_chunks; k++)
                take_chunk(series, &batch[i].chunks[k]);
        }
    series_set_release(set);
    matcher_release(&m);
    return all;
}

static void expect_tenant(const char *tenant)
{
    struct err err = ERR_NONE;
    json_t *want = expected(tenant), *got = select_all(tenant, &err);
    cr_expect_eq(err.code, ERR_OK, "%s: %s", tenant, err.text);
    cr_expect_geq(json_object_size(want), 3);
    cr_expect(json_equal(want, got), "%s: %zu series, not %zu", tenant, json_object_size(got), json_object_size(want));
    json_decref(want);
    json_decref(got);
}

/* --- tests ------------------------------------------------------------------------------------------------------------------------------------------- */

Test(real_gateways, over_grpc_all_samples_of_a_real_bucket_come_out)
{
    rig.ring.sharding.replication_factor = 1; /* each has some blocks only */
    for (size_t i = 0; i < NODES; i++)
        node(i);
    for (size_t i = 0; i < NODES; i++)
        gw_wait_ready(&rig.nodes[i]);
    start_querier(NULL);
    expect_tenant("tenant-a");
    expect_tenant("tenant-b");
}

Test(real_gateways, directly_all_samples_of_a_real_bucket_come_out)
{
    node(0);
    gw_wait_ready(&rig.nodes[0]);
    start_querier(rig.nodes[0].gateway);
    expect_tenant("tenant-a");
    expect_tenant("tenant-b");
}

Test(real_gateways, one_here_and_others_there)
{
    rig.ring.sharding.replication_factor = 1;
    for (size_t i = 0; i < NODES; i++)
        node(i);
    for (size_t i = 0; i < NODES; i++)
        gw_wait_ready(&rig.nodes[i]);
    start_querier(rig.nodes[1].gateway);
    expect_tenant("tenant-a");
    expect_tenant("tenant-b");
}

/* Two replicas each: one may go without a word. */
Test(real_gateways, a_gateway_that_dies_is_not_missed)
{
    rig.ring.sharding.replication_factor = 2;
    for (size_t i = 0; i < NODES; i++)
        node(i);
    for (size_t i = 0; i < NODES; i++)
        gw_wait_ready(&rig.nodes[i]);
    start_querier(NULL);
    expect_tenant("tenant-a");
    rpc_server_stop(real.servers[2], 0);
    for (int i = 0; i < 5; i++)
        expect_tenant("tenant-a");
}

Test(real_gateways, label_names_and_values)
{
    struct err err = ERR_NONE;
    const struct slice *names, *values;
    size_t n_names, n_values;
    node(0);
    gw_wait_ready(&rig.nodes[0]);
    start_querier(NULL);
    rig.ctx.tenant = SL("tenant-a");
    const struct select_params p = {.min_t = 0, .max_t = INT64_MAX / 2};
    cr_assert(real.q->ops->label_names(real.q, &rig.ctx, &p, &names, &n_names, &err), "%s", err.text);
    cr_expect(n_names > 1 && slice_eq(names[0], SL("__name__")));
    cr_assert(real.q->ops->label_values(real.q, &rig.ctx, SL("__name__"), &p, &values, &n_values, &err), "%s", err.text);
    cr_expect_gt(n_values, 1);
    rig.ctx.tenant = SL("nobody");
    cr_assert(real.q->ops->label_names(real.q, &rig.ctx, &p, &names, &n_names, &err), "%s", err.text);
    cr_expect_eq(n_names, 0);
}
