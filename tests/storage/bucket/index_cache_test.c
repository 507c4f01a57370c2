/* The cache of bucket indexes: what is read when, what is remembered, what is too old. */
#include "storage/bucket/index_cache.h"

#include <pthread.h>

#include "tests/storage/bucket/rig.h"

static const struct index_cache_config config = {.update_on_error_interval = 50, .idle_timeout = 3600000, .max_stale_period = 3600000};

static void write_index(struct rig *r, const char *tenant, int64_t updated_at_s)
{
    struct bucket_index index = {.updated_at_s = updated_at_s};
    struct err err = ERR_NONE;
    cr_assert(bucket_index_write(r->store, &no_hurry, slice_of(tenant), &index, &err), "%s", err.text);
}

static int64_t now_s(void)
{
    return clock_wall_ms() / 1000;
}

/* The time of the index that the cache has, 0 when it has none, -1 on an error. */
static int64_t time_in(struct index_cache *c, const char *tenant)
{
    struct err err = ERR_NONE;
    const struct index_snapshot *s = index_cache_get(c, &no_hurry, slice_of(tenant), &err);
    int64_t at = s ? index_snapshot_index(s)->updated_at_s : err.code == ERR_NOT_FOUND ? 0 : -1;
    index_snapshot_unref(s);
    return at;
}

/* Until it is that, within five seconds. */
static bool becomes(struct index_cache *c, const char *tenant, int64_t at)
{
    for (int i = 0; i < 500; i++) {
        if (time_in(c, tenant) == at)
            return true;
        usleep(10000);
    }
    return false;
}

Test(index_cache, reads_an_index_once)
{
    struct rig r;
    rig_new(&r);
    struct index_cache *c = index_cache_new(r.s, &config, 900000);
    int64_t at = now_s();
    write_index(&r, "a", at);
    for (int i = 0; i < 5; i++)
        cr_expect_eq(time_in(c, "a"), at);
    cr_expect_eq(r.faulty.n_gets, 1);
    cr_expect_eq(time_in(c, "b"), 0, "a tenant without an index is no fault");
    cr_expect_eq(time_in(c, "b"), 0);
    cr_expect_eq(r.faulty.n_gets, 2);
    index_cache_free(c);
    rig_free(&r);
}

Test(index_cache, a_snapshot_outlives_the_cache)
{
    struct rig r;
    rig_new(&r);
    struct index_cache *c = index_cache_new(r.s, &config, 900000);
    struct err err = ERR_NONE;
    write_index(&r, "a", now_s());
    const struct index_snapshot *s = index_cache_get(c, &no_hurry, SL("a"), &err), *also = index_snapshot_ref(s);
    index_cache_free(c);
    index_snapshot_unref(s);
    cr_expect_eq(index_snapshot_index(also)->n_blocks, 0);
    index_snapshot_unref(also);
    rig_free(&r);
}

Test(index_cache, an_old_index_is_mimirs_error)
{
    struct rig r;
    rig_new(&r);
    struct index_cache *c = index_cache_new(r.s, &config, 900000);
    struct err err = ERR_NONE;
    write_index(&r, "a", 1795237548);
    clock_fake_wall_ms(1795237548000 + 3600000);
    cr_expect_eq(time_in(c, "a"), 1795237548);
    clock_fake_wall_ms(1795237548000 + 3600001);
    cr_expect(!index_cache_get(c, &no_hurry, SL("a"), &err) && err.code == ERR_BUCKET_INDEX_TOO_OLD);
    cr_expect_str_eq(err.text, "the bucket index is too old. It was last updated at 2026-11-21T05:05:48Z, which exceeds the maximum allowed staleness period of "
                               "1h0m0s (err-mimir-bucket-index-too-old)");
    clock_fake_wall_ms(0);
    struct bucket_index extreme = {.updated_at_s = INT64_MIN};
    cr_expect(!bucket_index_check_age(&extreme, 0, 1, &err));
    extreme.updated_at_s = INT64_MAX;
    cr_expect(bucket_index_check_age(&extreme, 0, 1, &err));
    index_cache_free(c);
    rig_free(&r);
}

Test(index_cache, the_thread_reads_again_and_a_failure_leaves_the_old_one)
{
    struct rig r;
    rig_new(&r);
    struct index_cache *c = index_cache_new(r.s, &config, 100);
    int64_t at = now_s();
    write_index(&r, "a", at);
    cr_assert_eq(time_in(c, "a"), at);
    cr_assert_eq(time_in(c, "b"), 0);
    index_cache_start(c);
    write_index(&r, "a", at + 1);
    cr_expect(becomes(c, "a", at + 1));
    write_index(&r, "b", at + 2);
    cr_expect(becomes(c, "b", at + 2), "what was not found is tried again");
    r.faulty.left = 0;
    int gets = r.faulty.n_gets;
    while (r.faulty.n_gets < gets + 3)
        usleep(10000);
    cr_expect_eq(time_in(c, "a"), at + 1);
    r.faulty.left = -1;
    write_index(&r, "a", at + 3);
    cr_expect(becomes(c, "a", at + 3));
    shell("rm -r %s/a", r.bucket);
    cr_expect(becomes(c, "a", 0), "an index that is gone is not kept");
    index_cache_stop(c);
    index_cache_free(c);
    rig_free(&r);
}

Test(index_cache, one_that_is_too_old_is_read_again_soon)
{
    struct rig r;
    rig_new(&r);
    struct index_cache *c = index_cache_new(r.s, &config, 900000);
    int64_t at = now_s();
    write_index(&r, "a", at - 7200);
    cr_expect_eq(time_in(c, "a"), -1);
    index_cache_start(c);
    write_index(&r, "a", at);
    cr_expect(becomes(c, "a", at));
    index_cache_free(c);
    rig_free(&r);
}

Test(index_cache, drops_what_nobody_asks_for)
{
    struct rig r;
    rig_new(&r);
    struct index_cache_config short_lived = config;
    short_lived.idle_timeout = 100;
    struct index_cache *c = index_cache_new(r.s, &short_lived, 900000);
    write_index(&r, "a", now_s());
    index_cache_start(c);
    cr_assert_gt(time_in(c, "a"), 0);
    usleep(1500000);
    cr_assert_eq(r.faulty.n_gets, 1);
    cr_assert_gt(time_in(c, "a"), 0);
    cr_assert_eq(r.faulty.n_gets, 2);
    index_cache_free(c);
    rig_free(&r);
}

Test(index_cache, a_fault_is_remembered_for_a_while)
{
    struct rig r;
    rig_new(&r);
    struct index_cache *c = index_cache_new(r.s, &config, 900000);
    write_index(&r, "a", now_s());
    r.faulty.left = 0;
    cr_expect_eq(time_in(c, "a"), -1);
    r.faulty.left = -1;
    cr_expect_eq(time_in(c, "a"), -1);
    cr_expect_eq(r.faulty.n_gets, 1);
    index_cache_start(c);
    cr_expect(becomes(c, "a", now_s()) || time_in(c, "a") > 0);
    index_cache_free(c);
    rig_free(&r);
}

struct reader {
    struct index_cache *c;
    int64_t patience_ms;
    enum err_code code;
};

static void *read_one(void *arg)
{
    struct reader *r = arg;
    struct ctx ctx = {.deadline_ms = clock_mono_ms() + r->patience_ms};
    struct err err = ERR_NONE;
    index_snapshot_unref(index_cache_get(r->c, &ctx, SL("a"), &err));
    r->code = err.code;
    return NULL;
}

Test(index_cache, readers_that_come_together_share_one_load)
{
    struct rig r;
    rig_new(&r);
    struct index_cache *c = index_cache_new(r.s, &config, 900000);
    pthread_t threads[8];
    struct reader readers[8];
    write_index(&r, "a", now_s());
    r.faulty.slow_ms = 300;
    for (int i = 0; i < 8; i++) {
        readers[i] = (struct reader){c, i == 7 ? 60 : 10000, ERR_OK};
        pthread_create(&threads[i], NULL, read_one, &readers[i]);
        usleep(10000);
    }
    for (int i = 0; i < 8; i++) {
        pthread_join(threads[i], NULL);
        cr_expect_eq(readers[i].code, i == 7 ? ERR_TIMEOUT : ERR_OK, "%d: %d", i, readers[i].code);
    }
    cr_expect_eq(r.faulty.n_gets, 1);
    index_cache_free(c);
    rig_free(&r);
}

Test(index_cache, a_reader_whose_patience_ends_leaves_no_error_to_others)
{
    struct rig r;
    rig_new(&r);
    struct index_cache *c = index_cache_new(r.s, &config, 900000);
    struct reader hasty = {c, 50, ERR_OK};
    write_index(&r, "a", now_s());
    r.faulty.slow_ms = 100;
    read_one(&hasty);
    cr_expect_eq(hasty.code, ERR_TIMEOUT);
    cr_expect_gt(time_in(c, "a"), 0);
    index_cache_free(c);
    rig_free(&r);
}
