/* The shipper, with blocks as a real ingester left them and a store that fails. */
#include "ingest/ship/ship.h"

#include "base/metrics.h"
#include "ingest/ship/memory_int.h"
#include "tests/storage/bucket/rig.h"

static struct limits_provider provider(bool label)
{
    static struct limits limits;
    static struct limits_provider p = {.defaults = &limits};
    limits.out_of_order_blocks_external_label_enabled = label;
    return p;
}

struct dock {
    struct rig rig;
    struct local_blocks *lb;
    struct limits_provider limits;
    struct shipper *s;
};

/* An ingester's folder: blocks of level1 with the meta.json that they had there, nothing in the bucket. */
static void dock_new(struct dock *d)
{
    if (access(REAL, F_OK) != 0)
        cr_skip_test("no blocks at %s", REAL);
    rig_new(&d->rig);
    d->lb = NULL;
    d->s = NULL;
    shell("cp -r %s/level1/tenant-a %s/level1/tenant-b %s/ && chmod -R u+w %s", REAL, REAL, d->rig.local, d->rig.local);
    shell("cd %s/ingester-local/after-flush && for m in tenant-[ab]/*/meta.json; do cp $m %s/$m; done", REAL, d->rig.local);
}

static void dock_open(struct dock *d, int64_t interval_ms, bool label)
{
    struct local_blocks_config local = {.dir = d->rig.local};
    struct shipper_config cfg = {.ship_interval = interval_ms, .ship_concurrency = 2};
    struct err err = ERR_NONE;
    d->limits = provider(label);
    d->lb = local_blocks_new(&local, &err);
    cr_assert(d->lb, "%s", err.text);
    d->s = shipper_new(d->rig.s, &d->lb, 1, &d->limits, &cfg, &err);
    cr_assert(d->s, "%s", err.text);
    cr_assert(local_blocks_load(d->lb, &err), "%s", err.text);
    shipper_start(d->s);
}

static void dock_close(struct dock *d)
{
    shipper_stop(d->s);
    shipper_free(d->s);
    local_blocks_free(d->lb);
}

static bool ship(struct dock *d)
{
    struct err err = ERR_NONE;
    bool good = shipper_ship(d->s, &no_hurry, slice_make(NULL, 0), &err);
    cr_expect(good == (err.code == ERR_OK));
    return good;
}

static size_t n_shipped(struct dock *d, const char *tenant, size_t *ret_n)
{
    size_t n, shipped = 0;
    struct local_block_info *blocks = local_blocks_list(d->lb, slice_of(tenant), &n);
    for (size_t i = 0; i < n; i++)
        shipped += blocks[i].shipped_ms != 0;
    free(blocks);
    *ret_n = n;
    return shipped;
}

static bool all_shipped(struct dock *d)
{
    size_t a, b;
    return n_shipped(d, "tenant-a", &a) == a && n_shipped(d, "tenant-b", &b) == b && a == 5 && b > 0;
}

Test(shipper, makes_the_bucket_of_mimirs)
{
    struct dock d;
    dock_new(&d);
    dock_open(&d, 0, false);
    cr_expect(ship(&d) && all_shipped(&d));
    shell("cd %s/level1/tenant-a && for b in 01*; do diff -r $b %s/tenant-a/$b || exit 1; done", REAL, d.rig.bucket);
    int puts = d.rig.faulty.n_puts, looks = d.rig.faulty.n_attributes;
    cr_expect(ship(&d));
    cr_expect(d.rig.faulty.n_puts == puts && d.rig.faulty.n_attributes == looks, "nothing is left to do");
    dock_close(&d);
    rig_free(&d.rig);
}

Test(shipper, labels_blocks_of_out_of_order_samples_where_a_limit_says_so)
{
    struct dock d;
    dock_new(&d);
    dock_open(&d, 0, true);
    cr_expect(ship(&d));
    shell("cd %s/level1/tenant-b && for b in 01*; do diff -r $b %s/tenant-b/$b || exit 1; done", REAL, d.rig.bucket);
    dock_close(&d);
    rig_free(&d.rig);
}

Test(shipper, remembers_what_it_shipped)
{
    struct dock d;
    dock_new(&d);
    dock_open(&d, 0, false);
    cr_assert(ship(&d));
    dock_close(&d);
    int asked = d.rig.faulty.n_attributes + d.rig.faulty.n_gets;
    dock_open(&d, 0, false);
    cr_expect(all_shipped(&d), "told at the start");
    cr_expect(ship(&d) && d.rig.faulty.n_attributes + d.rig.faulty.n_gets == asked);
    dock_close(&d);
    shell("echo '{' > %s/tenant-a/" MEMORY_FILE " && rm %s/tenant-b/" MEMORY_FILE, d.rig.local, d.rig.local);
    int puts = d.rig.faulty.n_puts;
    dock_open(&d, 0, false);
    cr_expect(!all_shipped(&d));
    cr_expect(ship(&d) && all_shipped(&d) && d.rig.faulty.n_puts == puts, "without its memory it asks the bucket");
    cr_expect(exists("%s/tenant-b/" MEMORY_FILE, d.rig.local));
    dock_close(&d);
    rig_free(&d.rig);
}

Test(shipper, goes_on_after_any_fault)
{
    struct dock d;
    dock_new(&d);
    dock_open(&d, 0, false);
    bool done = false;
    int n = 0;
    for (; !done && n < 200; n++) {
        d.rig.faulty.left = n;
        done = ship(&d);
        cr_expect_eq(done, all_shipped(&d));
        shell("cd %s && for m in */*/meta.json; do test ! -e $m || test -e $(dirname $m)/index -a -e $(dirname $m)/chunks/000001 || exit 1; done", d.rig.bucket);
    }
    cr_expect(done && n > 5, "%d", n);
    dock_close(&d);
    rig_free(&d.rig);
}

Test(shipper, uploads_nothing_of_a_tenant_that_is_to_be_deleted)
{
    struct dock d;
    dock_new(&d);
    struct err err = ERR_NONE;
    struct tenant_mark mark = {.deletion_time_s = 5};
    cr_assert(bucket_write_tenant_mark(d.rig.store, &no_hurry, TENANT, &mark, &err), "%s", err.text);
    dock_open(&d, 0, false);
    cr_expect(ship(&d) && all_shipped(&d));
    shell("test $(ls %s/tenant-a) = markers && test $(ls %s/tenant-b | wc -l) -gt 3", d.rig.bucket, d.rig.bucket);
    dock_close(&d);
    rig_free(&d.rig);
}

Test(shipper, ships_one_tenant_when_asked)
{
    struct dock d;
    dock_new(&d);
    dock_open(&d, 0, false);
    struct err err = ERR_NONE;
    size_t n;
    cr_assert(shipper_ship(d.s, &no_hurry, SL("tenant-b"), &err), "%s", err.text);
    cr_expect(n_shipped(&d, "tenant-a", &n) == 0 && n_shipped(&d, "tenant-b", &n) > 0 && !exists("%s/tenant-a", d.rig.bucket));
    dock_close(&d);
    rig_free(&d.rig);
}

static bool comes(bool (*what)(struct dock *), struct dock *d)
{
    for (int i = 0; i < 500 && !what(d); i++)
        usleep(10000);
    return what(d);
}

Test(shipper, its_rounds_back_off_and_come_back)
{
    struct dock d;
    dock_new(&d);
    d.rig.faulty.left = 0;
    dock_open(&d, 20, false);
    usleep(500000);
    int tries = d.rig.faulty.n_gets;
    cr_expect(tries >= 4 && tries <= 14, "%d looks at tenants' marks in 25 intervals", tries);
    d.rig.faulty.left = -1;
    cr_expect(comes(all_shipped, &d));
    dock_close(&d);
    rig_free(&d.rig);
}

Test(shipper, a_round_ends_with_the_patience_of_who_asked)
{
    struct dock d;
    dock_new(&d);
    dock_open(&d, 0, false);
    struct err err = ERR_NONE;
    struct ctx ctx = {.deadline_ms = clock_mono_ms() + 100};
    d.rig.faulty.slow_ms = 200;
    cr_expect(!shipper_ship(d.s, &ctx, slice_make(NULL, 0), &err) && err.code == ERR_TIMEOUT, "%s", err.text);
    shipper_stop(d.s);
    err = ERR_NONE;
    cr_expect(!shipper_ship(d.s, &no_hurry, slice_make(NULL, 0), &err) && err.code == ERR_CANCELED, "%s", err.text);
    dock_close(&d);
    rig_free(&d.rig);
}

Test(shipper_memory, of_mimirs_is_written_again_with_the_same_bytes)
{
    struct rig r;
    if (access(REAL, F_OK) != 0)
        cr_skip_test("no blocks at %s", REAL);
    rig_new(&r);
    struct slice json = file_bytes(&r, REAL "/ingester-local/after-flush/tenant-a/" MEMORY_FILE);
    struct memory m = {0};
    struct err err = ERR_NONE;
    struct buf out = {0};
    cr_assert(memory_decode(&m, json, &err), "%s", err.text);
    cr_expect_eq(m.n, 5);
    memory_encode(&m, &out);
    cr_expect(slice_eq(json, buf_slice(&out)), "%.*s", SL_FMT(buf_slice(&out)));
    memory_release(&m);
    buf_clear(&out);
    memory_encode(&m, &out);
    cr_expect_str_eq(buf_cstr(&out), "{\n\t\"version\": 1,\n\t\"shipped\": {}\n}\n");
    buf_release(&out);
    rig_free(&r);
}

Test(shipper_memory, that_is_wrong_is_refused)
{
    static const char *const cases[] = {
        "", "[]", "{}", "{\"version\":2}", "{\"version\":1,\"shipped\":[]}", "{\"version\":1,\"shipped\":{\"x\":1}}",
        "{\"version\":1,\"shipped\":{\"01M7Y7WR36RNAK3M75MGY89WZT\":\"1\"}}", "{\"version\":1,\"shipped\":{\"01M7Y7WR36RNAK3M75MGY89WZT\":1e300}}",
    };
    for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
        struct memory m = {0};
        struct err err = ERR_NONE;
        cr_expect(!memory_decode(&m, slice_of(cases[i]), &err) && err.code == ERR_CORRUPT, "%s: %s", cases[i], err.text);
        memory_release(&m);
    }
}
