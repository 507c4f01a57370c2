/* Downsampled blocks of a tenant: made once compaction has come to rest, whole or again whatever ends or fails, remade when their day changes, and never among the others. */
#include "storage/downsample/downsample.h"
#include "tests/storage/compactor/compactor_util.h"

static void run(struct site *r)
{
    struct err err = ERR_NONE;
    struct ctx ctx = {0};
    cr_assert(compactor_run(r->compactor, &ctx, &err), "%s", err.text);
}

static void open_downsampling(struct site *r)
{
    site_open(r);
    r->limits.compactor_downsample_enabled = true;
    r->cfg.block_sync_concurrency = 1;
}

/* The days of the tests lie long ago: everything is old enough. */
static void start_downsampling(struct site *r)
{
    open_downsampling(r);
    site_start(r);
}

static struct slice room_of(enum downsample_resolution r, enum downsample_aggregate a)
{
    struct bucket_name room = downsample_room(TENANT, r, a);
    return arena_dup(&arena, bucket_name_slice(&room));
}

/* The sum of what a room's blocks of counts say; marked ones are removed first. */
static uint64_t counted(struct site *site, enum downsample_resolution r, size_t *ret_blocks)
{
    struct err err = ERR_NONE;
    struct ctx ctx = test_ctx();
    const struct ulid *ids;
    size_t n;
    uint64_t total = 0;
    struct slice room = room_of(r, DOWNSAMPLE_COUNT);
    *ret_blocks = look(site, room).n_blocks;
    cr_assert(bucket_blocks(site->store, &ctx, room, &arena, &ids, &n, &err), "%s", err.text);
    for (size_t i = 0; i < n; i++) {
        struct series s;
        bool more;
        cr_assert(bucket_download_block(site->store, &ctx, room, &ids[i], folder, &err), "%s", err.text);
        const char *dir = path_of(folder, ids[i].text);
        struct block *b = open_block(dir);
        struct block_scan *scan = block_scan_new(b, &err);
        while (block_scan_next(scan, &s, &more, &err) && more)
            for (size_t c = 0; c < s.n_chunks; c++) {
                struct chunk_columns col;
                cr_assert(chunk_decode(s.chunks[c].encoding, s.chunks[c].data, &arena, &col, &err), "%s", err.text);
                for (size_t k = 0; k < col.n; k++)
                    total += (uint64_t)col.v[k];
            }
        block_scan_free(scan);
        block_close(b);
        nftw(dir, util_remove, 8, FTW_DEPTH | FTW_PHYS);
    }
    return total;
}

/* Every room has one block for each of the tenant's, all whole, and their counts are those of its samples. */
static void expect_complete(struct site *site, const char *when)
{
    struct bucket_facts raw = look(site, TENANT);
    for (unsigned r = 0; r < DOWNSAMPLE_RESOLUTIONS; r++) {
        size_t n;
        uint64_t total = counted(site, r, &n);
        cr_expect(total == raw.n_samples && n == raw.n_blocks, "%s: %zu blocks of %zu, %llu samples of %zu", when, n, raw.n_blocks,
                  (unsigned long long)total, raw.n_samples);
        for (unsigned a = 0; a < DOWNSAMPLE_AGGREGATES; a++) {
            struct bucket_facts facts = look(site, room_of(r, a));
            cr_expect(facts.n_blocks == raw.n_blocks && facts.n_partial == 0 && facts.n_again == 0, "%s: %s: %zu blocks, %zu partial", when,
                      downsample_aggregate_name(a), facts.n_blocks, facts.n_partial);
        }
    }
}

static size_t n_all(struct site *site)
{
    size_t n = 0;
    for (unsigned r = 0; r < DOWNSAMPLE_RESOLUTIONS; r++)
        for (unsigned a = 0; a < DOWNSAMPLE_AGGREGATES; a++)
            n += look(site, room_of(r, a)).n_blocks;
    return n;
}

static void put_day(struct site *r, int day)
{
    for (int range = 0; range < 2; range++)
        for (int replica = 0; replica < 2; replica++)
            put_block(r, TENANT, 12 * day + range, replica);
}

Test(downsampling, gives_each_settled_day_a_block_for_each_aggregate, .init = begin, .fini = teardown)
{
    struct site r;
    start_downsampling(&r);
    put_day(&r, 0);
    put_day(&r, 1);
    struct bucket_facts before = look(&r, TENANT);
    run(&r);
    struct bucket_facts after = look(&r, TENANT);
    cr_expect(after.hash == before.hash && after.n_blocks == 2, "the others are what they were");
    expect_complete(&r, "made");
    atomic_store(&r.faulty.n_changes, 0);
    run(&r);
    cr_expect_eq(atomic_load(&r.faulty.n_changes), 0, "there was nothing more to do");
    site_close(&r);
}

Test(downsampling, of_shards_is_made_of_each, .init = begin, .fini = teardown)
{
    struct site r;
    open_downsampling(&r);
    r.limits.compactor_split_and_merge_shards = 2;
    r.cfg.compaction_concurrency = 2;
    site_start(&r);
    put_day(&r, 0);
    run(&r);
    cr_expect_eq(look(&r, TENANT).n_blocks, 2);
    expect_complete(&r, "split");
    site_close(&r);
}

Test(downsampling, is_off_unless_the_tenant_asks_for_it, .init = begin, .fini = teardown)
{
    struct site r;
    site_open(&r);
    site_start(&r);
    put_day(&r, 0);
    run(&r);
    cr_expect_eq(n_all(&r), 0);
    site_close(&r);
}

Test(downsampling, leaves_a_day_alone_whose_blocks_may_have_the_same_samples, .init = begin, .fini = teardown)
{
    struct site r;
    struct ctx ctx = test_ctx();
    start_downsampling(&r);
    struct ulid apart = put_block(&r, TENANT, 0, 0);
    put_block(&r, TENANT, 0, 1);
    put_block(&r, TENANT, 12, 0);
    struct block_mark mark = {.block = apart, .time_s = 1, .reason = SL(NO_COMPACT_MANUAL)};
    cr_assert(bucket_mark_block(r.store, &ctx, TENANT, BLOCK_MARK_NO_COMPACT, &mark, NULL, NULL));
    run(&r);
    cr_expect_eq(n_all(&r), DOWNSAMPLE_RESOLUTIONS * DOWNSAMPLE_AGGREGATES, "the other day's alone");
    site_close(&r);
}

Test(downsampling, waits_until_a_day_is_old_enough_and_makes_nothing_that_has_expired, .init = begin, .fini = teardown)
{
    static const struct {
        int64_t after_day_ms, retention_5m, retention_1h;
        size_t n_5m, n_1h;
    } cases[] = {
        {39 * 3600000ll, 0, 0, 0, 0},       {40 * 3600000ll, 0, 0, 1, 0},          {239 * 3600000ll, 0, 0, 1, 0},
        {240 * 3600000ll, 0, 0, 1, 1},      {240 * 3600000ll, 86400000, 0, 0, 0},  {240 * 3600000ll, 0, 86400000, 1, 0},
    };
    for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
        struct site r;
        if (i)
            begin();
        open_downsampling(&r);
        r.limits.compactor_downsample_5m_retention = cases[i].retention_5m;
        r.limits.compactor_downsample_1h_retention = cases[i].retention_1h;
        site_start(&r);
        put_block(&r, TENANT, 0, 0);
        clock_fake_wall_ms(T0 + 12 * RANGE + cases[i].after_day_ms);
        run(&r);
        clock_fake_wall_ms(0);
        cr_expect_eq(look(&r, room_of(DOWNSAMPLE_5M, DOWNSAMPLE_SUM)).n_blocks, cases[i].n_5m, "case %zu", i);
        cr_expect_eq(look(&r, room_of(DOWNSAMPLE_1H, DOWNSAMPLE_SUM)).n_blocks, cases[i].n_1h, "case %zu", i);
        site_close(&r);
        if (i + 1 < ARRAY_LEN(cases))
            teardown();
    }
}

Test(downsampling, is_made_anew_when_a_late_block_has_changed_the_day, .init = begin, .fini = teardown)
{
    struct site r;
    struct ctx ctx = test_ctx();
    const struct ulid *old;
    size_t n_old;
    start_downsampling(&r);
    put_day(&r, 0);
    run(&r);
    expect_complete(&r, "at first");
    cr_assert(bucket_blocks(r.store, &ctx, TENANT, &arena, &old, &n_old, NULL) && n_old == 1);
    put_block(&r, TENANT, 5, 0);
    run(&r);
    cr_expect_eq(look(&r, TENANT).n_blocks, 1);
    struct bucket_name gone = bucket_block_file(room_of(DOWNSAMPLE_5M, DOWNSAMPLE_SUM), &old[0], BUCKET_DELETION_MARK);
    struct objstore_attributes attributes;
    cr_expect(objstore_attributes(r.store, &ctx, bucket_name_slice(&gone), &attributes, NULL), "the old one is marked, not removed at once");
    expect_complete(&r, "with the late block");
    site_close(&r);
}

Test(downsampling, stays_when_the_block_that_it_was_made_of_has_expired, .init = begin, .fini = teardown)
{
    struct site r;
    struct ctx ctx = test_ctx();
    const struct ulid *ids;
    size_t n;
    start_downsampling(&r);
    put_day(&r, 0);
    run(&r);
    cr_assert(bucket_blocks(r.store, &ctx, TENANT, &arena, &ids, &n, NULL));
    for (size_t i = 0; i < n; i++)
        cr_assert(bucket_delete_block(r.store, &ctx, TENANT, &ids[i], NULL));
    /* Few samples that come late are no reason to throw away what there is. */
    put_block(&r, TENANT, 5, 0);
    run(&r);
    cr_expect_eq(look(&r, room_of(DOWNSAMPLE_5M, DOWNSAMPLE_MAX)).n_blocks, 2);
    cr_expect_eq(look(&r, room_of(DOWNSAMPLE_1H, DOWNSAMPLE_COUNTER)).n_blocks, 2);
    site_close(&r);
}

static void delete_one(struct site *r, struct slice place, const struct ulid *id)
{
    struct ctx ctx = test_ctx();
    cr_assert(bucket_delete_block(r->store, &ctx, place, id, NULL));
}

Test(downsampling, of_a_shard_stays_when_that_has_expired_and_others_have_not, .init = begin, .fini = teardown)
{
    struct site r;
    struct ctx ctx = test_ctx();
    const struct ulid *ids;
    size_t n;
    open_downsampling(&r);
    r.limits.compactor_split_and_merge_shards = 2;
    site_start(&r);
    put_day(&r, 0);
    run(&r);
    look(&r, TENANT);
    cr_assert(bucket_blocks(r.store, &ctx, TENANT, &arena, &ids, &n, NULL) && n == 2);
    delete_one(&r, TENANT, &ids[0]);
    run(&r);
    cr_expect_eq(n_all(&r), 2 * DOWNSAMPLE_RESOLUTIONS * DOWNSAMPLE_AGGREGATES);
    site_close(&r);
}

Test(downsampling, of_a_block_whose_heir_has_expired_as_well_goes_for_that_of_the_heir, .init = begin, .fini = teardown)
{
    struct site r;
    struct ctx ctx = test_ctx();
    const struct ulid *first, *second, *all;
    size_t n;
    start_downsampling(&r);
    put_day(&r, 0);
    run(&r);
    look(&r, TENANT);
    cr_assert(bucket_blocks(r.store, &ctx, TENANT, &arena, &first, &n, NULL) && n == 1);
    /* Keep the old aggregates as if nobody had marked them. */
    struct slice room = room_of(DOWNSAMPLE_5M, DOWNSAMPLE_SUM);
    put_block(&r, TENANT, 5, 0);
    run(&r);
    look(&r, TENANT);
    cr_assert(bucket_blocks(r.store, &ctx, TENANT, &arena, &second, &n, NULL) && n == 1);
    for (size_t i = 0; i < 2; i++) {
        struct bucket_name own = bucket_block_file(room, &first[0], BUCKET_DELETION_MARK), copy = bucket_global_mark(room, &first[0], BUCKET_DELETION_MARK);
        cr_assert(objstore_remove(r.store, &ctx, bucket_name_slice(i ? &copy : &own), NULL));
    }
    cr_assert(bucket_blocks(r.store, &ctx, room, &arena, &all, &n, NULL) && n == 2);
    delete_one(&r, TENANT, &second[0]);
    run(&r);
    cr_expect_eq(look(&r, room).n_blocks, 1);
    cr_assert(bucket_blocks(r.store, &ctx, room, &arena, &all, &n, NULL) && n == 1);
    cr_expect_str_eq(all[0].text, second[0].text);
    site_close(&r);
}

Test(downsampling, leaves_a_bad_block_and_goes_on_with_the_others, .init = begin, .fini = teardown)
{
    struct site r;
    open_downsampling(&r);
    r.cfg.compaction_retries = 0;
    struct ulid bad = put_block(&r, TENANT, 0, 0);
    put_block(&r, TENANT, 12, 0);
    const char *path = arena_printf(&arena, "%s/bucket/%.*s/%s/chunks/000001", folder, SL_FMT(TENANT), bad.text);
    struct slice whole = read_file(path);
    char *bytes = arena_alloc(&arena, whole.n);
    memcpy(bytes, whole.p, whole.n);
    bytes[100] = (char)(bytes[100] ^ 4);
    write_file(path, slice_make(bytes, whole.n));
    site_start(&r);
    run(&r);
    cr_expect_eq(look(&r, room_of(DOWNSAMPLE_5M, DOWNSAMPLE_SUM)).n_blocks, 1);
    cr_expect_eq(look(&r, room_of(DOWNSAMPLE_1H, DOWNSAMPLE_SUM)).n_blocks, 1);
    write_file(path, whole);
    run(&r);
    expect_complete(&r, "mended");
    site_close(&r);
}

/* --- the process ends at any point ------------------------------------------------------------------------------------------------------------ */

static int run_apart(int die_before, int die_after)
{
    pid_t pid = fork();
    if (pid == 0) {
        struct site r;
        struct err err = ERR_NONE;
        struct ctx ctx = {0};
        open_downsampling(&r);
        r.faulty.die_before = die_before;
        r.faulty.die_after = die_after;
        site_start(&r);
        _exit(compactor_run(r.compactor, &ctx, &err) ? 0 : 1);
    }
    int status;
    waitpid(pid, &status, 0);
    return WIFEXITED(status) ? WEXITSTATUS(status) : -1;
}

Test(downsampling, loses_and_doubles_nothing_wherever_the_process_ends)
{
    for (int after = 0; after < 2; after++)
        for (int at = 1;; at++) {
            struct site r;
            begin();
            site_open(&r);
            put_block(&r, TENANT, 0, 0); /* one block, which is not compacted: each change is a downsampling's */
            site_close(&r);
            int status = run_apart(after ? 0 : at, after ? at : 0);
            cr_assert(status == 42 || status == 0, "change %d: %d", at, status);
            cr_assert_eq(run_apart(0, 0), 0);
            site_open(&r);
            expect_complete(&r, "after the end");
            site_close(&r);
            teardown();
            if (status == 0)
                break;
        }
}

Test(downsampling, comes_to_the_same_through_a_bucket_that_fails_and_lists_late, .init = begin, .fini = teardown)
{
    struct site r;
    open_downsampling(&r);
    put_day(&r, 0);
    put_block(&r, TENANT, 12, 0);
    r.faulty.fail_percent = 3;
    r.faulty.stale_percent = 30;
    site_start(&r);
    for (int i = 0; i < 30; i++) {
        struct err err = ERR_NONE;
        struct ctx ctx = {0};
        (void)compactor_run(r.compactor, &ctx, &err); /* some fail */
    }
    r.faulty.fail_percent = r.faulty.stale_percent = 0;
    run(&r);
    expect_complete(&r, "in the end");
    site_close(&r);
}
