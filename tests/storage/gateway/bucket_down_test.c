/* A bucket that cannot be read for a while: at the start, between two looks, and within a query. */
#include <criterion/criterion.h>
#include <stdatomic.h>

#define CLAIM(cond, ...) cr_assert(cond, __VA_ARGS__)
#include "tests/storage/gateway/gateway_rig.h"

#define H INT64_C(3600000)

/* Another store's door, which fails when it is told to. */
struct faulty {
    struct objstore objstore;
    struct objstore *inner;
    atomic_bool lists_fail, gets_fail;
    atomic_int asked;
};

static struct faulty faulty;
static struct gw_rig rig;

static struct faulty *faulty_of(struct objstore *s)
{
    struct faulty *f = CONTAINER_OF(s, struct faulty, objstore);
    atomic_fetch_add(&f->asked, 1);
    return f;
}

static bool fail(struct err *err)
{
    return err_set(err, ERR_UNAVAILABLE, "the bucket is down");
}

static bool faulty_get(struct objstore *s, const struct ctx *ctx, struct slice name, uint64_t offset, uint64_t n, struct buf *out, struct err *err)
{
    struct faulty *f = faulty_of(s);
    return atomic_load(&f->gets_fail) ? fail(err) : objstore_get(f->inner, ctx, name, offset, n, out, err);
}

static bool faulty_attributes(struct objstore *s, const struct ctx *ctx, struct slice name, struct objstore_attributes *ret, struct err *err)
{
    struct faulty *f = faulty_of(s);
    return atomic_load(&f->gets_fail) ? fail(err) : objstore_attributes(f->inner, ctx, name, ret, err);
}

static bool faulty_list(struct objstore *s, const struct ctx *ctx, struct slice prefix, bool delimited, objstore_list_fn *fn, void *arg, struct err *err)
{
    struct faulty *f = faulty_of(s);
    return atomic_load(&f->lists_fail) ? fail(err) : objstore_list(f->inner, ctx, prefix, delimited, fn, arg, err);
}

static struct ulid one_block(int64_t begin_h)
{
    const struct gw_series s = {"__name__=m", begin_h * H, 1000, 10, 1};
    struct ulid id = gw_block(&rig, "t", &s, 1, begin_h * H, (begin_h + 2) * H);
    gw_index(&rig, "t");
    return id;
}

/* Blocks are put by the real store, gateways see the faulty one. */
static struct gw_node *node(void)
{
    static const struct objstore_ops ops = {.name = "faulty", .is_view = true, .get = faulty_get, .attributes = faulty_attributes, .list = faulty_list};
    struct objstore *real = rig.bucket;
    faulty.objstore.ops = &ops;
    faulty.inner = real;
    rig.bucket = &faulty.objstore;
    struct gw_node *n = gw_node(&rig, 0);
    rig.bucket = real;
    return n;
}

static void setup(void)
{
    gw_new(&rig);
    rig.cfg.sync_interval = 100;
}

static void teardown(void)
{
    gw_free(&rig);
}

static void wait_for_looks(int n)
{
    int before = atomic_load(&faulty.asked);
    for (int i = 0; i < 1000 && atomic_load(&faulty.asked) < before + n; i++)
        usleep(10000);
    cr_assert(atomic_load(&faulty.asked) >= before + n);
}

Test(gateway_bucket_down, is_not_ready_until_it_has_seen_the_bucket, .init = setup, .fini = teardown)
{
    struct err err = ERR_NONE;
    struct gateway_found found;
    one_block(0);
    struct gw_node *n = node();
    atomic_store(&faulty.lists_fail, true);
    cr_assert(gateway_start(n->gateway, &err), "%s", err.text);
    wait_for_looks(2);
    cr_expect(!gateway_ready(n->gateway, &err));
    cr_expect(strstr(err.text, "looking at the bucket"), "%s", err.text);
    cr_expect_null(gw_everything(&rig, n->gateway, "t", &found, &err));
    cr_expect_eq(err.code, ERR_UNAVAILABLE);
    atomic_store(&faulty.lists_fail, false);
    atomic_store(&faulty.gets_fail, true); /* a tenant's index that may be there tomorrow is waited for, too */
    wait_for_looks(2);
    cr_expect(!gateway_ready(n->gateway, NULL));
    atomic_store(&faulty.gets_fail, false);
    gw_wait_ready(n);
    cr_expect_eq(gw_count(&rig, n->gateway, "t"), 1);
}

Test(gateway_bucket_down, stops_at_once_while_it_waits_for_the_bucket, .init = setup, .fini = teardown)
{
    struct err err = ERR_NONE;
    struct gw_node *n = node();
    atomic_store(&faulty.lists_fail, true);
    cr_assert(gateway_start(n->gateway, &err), "%s", err.text);
    wait_for_looks(3); /* so that it pauses for seconds */
    int64_t since_ms = clock_mono_ms();
    gw_stop(&rig, 0);
    cr_expect(clock_mono_ms() - since_ms < 1000);
}

Test(gateway_bucket_down, keeps_its_blocks, .init = setup, .fini = teardown)
{
    struct err err = ERR_NONE;
    one_block(0);
    struct gw_node *n = node();
    cr_assert(gateway_start(n->gateway, &err), "%s", err.text);
    gw_wait_ready(n);
    atomic_store(&faulty.lists_fail, true);
    wait_for_looks(3);
    cr_expect_eq(gw_count(&rig, n->gateway, "t"), 1);
    atomic_store(&faulty.lists_fail, false);
    atomic_store(&faulty.gets_fail, true);
    wait_for_looks(4);
    atomic_store(&faulty.gets_fail, false);
    cr_expect_eq(gw_count(&rig, n->gateway, "t"), 1);
}

Test(gateway_bucket_down, a_query_fails_and_the_next_one_does_not, .init = setup, .fini = teardown)
{
    struct err err = ERR_NONE;
    struct gateway_found found;
    struct ulid id = one_block(0);
    rig.cfg.sync_interval = 60000;
    struct gw_node *n = node();
    cr_assert(gateway_start(n->gateway, &err), "%s", err.text);
    gw_wait_ready(n);
    cr_assert(gw_everything(&rig, n->gateway, "t", &found, &err), "%s", err.text);
    atomic_store(&faulty.gets_fail, true);
    cr_expect_null(gw_everything(&rig, n->gateway, "t", &found, &err));
    cr_expect_eq(err.code, ERR_UNAVAILABLE, "%s", err.text);
    atomic_store(&faulty.gets_fail, false);
    cr_expect(gw_everything(&rig, n->gateway, "t", &found, &err), "%s", err.text);
    cr_expect(gw_has(&found, &id));
}
