/* /ingester/flush: an ingester with its log, a bucket of its own, and what lies there afterwards. */
#include "ingest/ship/flush.h"

#include <criterion/criterion.h>
#include <glob.h>

#include "storage/objstore/objstore.h"
#include "tests/ingest/ingester_rig.h"

TestSuite(flush, .timeout = 60);

struct quay {
    struct world *w;
    struct objstore *bucket;
    struct shipper *shipper;
    struct flusher *flusher;
    int catches_up; /* calls */
};

static bool catch_up(void *arg, struct ctx *ctx, struct err *err)
{
    struct quay *q = arg;
    int64_t next;
    q->catches_up++;
    return plog_acknowledged(q->w->log, 0, &next, err) && ingester_wait(q->w->ing, next, ctx, err);
}

static void quay_open(struct quay *q)
{
    static const struct shipper_config shipping = {.ship_concurrency = 1}; /* no rounds of its own */
    struct objstore_config cfg = {.backend = "filesystem", .storage_prefix = "", .filesystem_dir = ""};
    struct err err = ERR_NONE;
    char dir[128];
    *q = (struct quay){.w = world_new()};
    world_open_log(q->w);
    snprintf(dir, sizeof(dir), "%s/ingester", q->w->dir);
    q->w->ing = ingester_new(&q->w->cfg, &q->w->limits, q->w->log, 0, dir, "ingester-0", RIG_SEED, &err);
    cr_assert(q->w->ing, "%s", err.text);
    snprintf(dir, sizeof(dir), "%s/bucket", q->w->dir);
    cr_assert(q->bucket = objstore_open(&cfg, "blocks-storage.", dir, &err), "%s", err.text);
    struct local_blocks *sources[] = {ingester_local_blocks(q->w->ing)};
    cr_assert(q->shipper = shipper_new(q->bucket, sources, 1, &q->w->limits, &shipping, &err), "%s", err.text);
    cr_assert(ingester_start(q->w->ing, &err), "%s", err.text);
    shipper_start(q->shipper);
    q->flusher = flusher_new(&q->w->ing, 1, q->shipper, catch_up, q);
}

static void quay_close(struct quay *q)
{
    flusher_free(q->flusher);
    ingester_stop(q->w->ing);
    shipper_stop(q->shipper);
    shipper_free(q->shipper);
    objstore_free(q->bucket);
    world_free(q->w);
}

static size_t in_bucket(const struct quay *q, const char *tenant)
{
    char pattern[256];
    glob_t found;
    snprintf(pattern, sizeof(pattern), "%s/bucket/%s/*/meta.json", q->w->dir, tenant);
    size_t n = glob(pattern, 0, NULL, &found) == 0 ? found.gl_pathc : 0;
    globfree(&found);
    return n;
}

Test(flush, what_was_acknowledged_is_in_the_bucket_when_it_is_done)
{
    struct quay q;
    quay_open(&q);
    world_push(q.w, "a", "m{x=1}", T0, 1);
    world_push(q.w, "b", "m{x=1}", T0, 1);
    flusher_ask(q.flusher, NULL, 0, true);
    cr_expect_eq(in_bucket(&q, "a"), 1);
    cr_expect_eq(in_bucket(&q, "b"), 1);
    cr_expect_eq(q.catches_up, 1);
    flusher_ask(q.flusher, NULL, 0, true);
    cr_expect_eq(in_bucket(&q, "a"), 1, "nothing is left");
    quay_close(&q);
}

Test(flush, only_of_the_tenants_that_are_named)
{
    struct quay q;
    struct slice tenants[] = {SL("a"), SL("c"), SL("unknown")};
    quay_open(&q);
    world_push(q.w, "a", "m{x=1}", T0, 1);
    world_push(q.w, "b", "m{x=1}", T0, 1);
    world_push(q.w, "c", "m{x=1}", T0, 1);
    flusher_ask(q.flusher, tenants, ARRAY_LEN(tenants), true);
    cr_expect_eq(in_bucket(&q, "a"), 1);
    cr_expect_eq(in_bucket(&q, "b"), 0);
    cr_expect_eq(in_bucket(&q, "c"), 1);
    quay_close(&q);
}

Test(flush, what_nobody_waits_for_is_done_all_the_same)
{
    struct quay q;
    quay_open(&q);
    world_push(q.w, "a", "m{x=1}", T0, 1);
    flusher_ask(q.flusher, NULL, 0, false);
    for (int i = 0; i < 1000 && in_bucket(&q, "a") == 0; i++)
        usleep(10000);
    cr_expect_eq(in_bucket(&q, "a"), 1);
    quay_close(&q);
}
