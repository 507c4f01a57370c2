/* The loop and its jobs over a bucket: every sample stays, each once, whatever fails or ends. */
#include "tests/storage/compactor/compactor_util.h"

static void run(struct site *r)
{
    struct err err = ERR_NONE;
    struct ctx ctx = {0};
    cr_assert(compactor_run(r->compactor, &ctx, &err), "%s", err.text);
}

static void same_samples(const struct bucket_facts *got, const struct bucket_facts *want, const char *when)
{
    cr_expect(got->hash == want->hash && got->n_samples == want->n_samples, "%s: %zu samples of %zu", when, got->n_samples, want->n_samples);
}

Test(compactor, makes_few_blocks_of_many, .init = begin, .fini = teardown)
{
    struct site r;
    site_open(&r);
    for (int range = 0; range < 4; range++)
        for (int replica = 0; replica < 3; replica++)
            put_block(&r, TENANT, range, replica);
    struct bucket_facts before = look(&r, TENANT);
    site_start(&r);
    run(&r);
    struct bucket_facts after = look(&r, TENANT);
    same_samples(&after, &before, "merged");
    cr_expect(after.n_blocks == 1 && after.n_again == 0 && after.max_level == 3, "%zu blocks, %zu samples twice, level %u", after.n_blocks, after.n_again,
              after.max_level);
    run(&r);
    after = look(&r, TENANT);
    cr_expect(after.n_blocks == 1 && after.max_level == 3, "there was nothing more to do");
    site_close(&r);
}

Test(compactor, splits_by_series_where_the_tenant_is_to_be_split, .init = begin, .fini = teardown)
{
    struct site r;
    site_open(&r);
    r.limits.compactor_split_and_merge_shards = 4;
    r.limits.compactor_split_groups = 2;
    r.cfg.compaction_concurrency = 2;
    for (int range = 0; range < 3; range++)
        for (int replica = 0; replica < 3; replica++)
            put_block(&r, TENANT, range, replica);
    struct bucket_facts before = look(&r, TENANT);
    site_start(&r);
    run(&r);
    struct bucket_facts after = look(&r, TENANT);
    same_samples(&after, &before, "split");
    cr_expect(after.n_blocks == 4 && after.n_again == 0, "%zu blocks, %zu samples twice", after.n_blocks, after.n_again);
    site_close(&r);
}

Test(compactor, leaves_tenants_alone_that_are_not_its_own_or_to_be_deleted, .init = begin, .fini = teardown)
{
    struct site r;
    struct ctx ctx = test_ctx();
    const char *disabled = "tenant-b";
    site_open(&r);
    static const char *const tenants[] = {"tenant-a", "tenant-b", "tenant-c"};
    for (size_t i = 0; i < 3; i++)
        for (int replica = 0; replica < 2; replica++)
            put_block(&r, slice_of(tenants[i]), 0, replica);
    r.cfg.disabled_tenants = (struct flag_list){&disabled, 1};
    cr_assert(bucket_write_tenant_mark(r.store, &ctx, SL("tenant-c"), &(struct tenant_mark){.deletion_time_s = 1}, NULL));
    site_start(&r);
    run(&r);
    cr_expect_eq(look(&r, SL("tenant-a")).n_blocks, 1);
    cr_expect_eq(look(&r, SL("tenant-b")).n_blocks, 2);
    cr_expect_eq(look(&r, SL("tenant-c")).n_blocks, 2);
    site_close(&r);
}

Test(compactor, waits_for_blocks_that_came_just_now, .init = begin, .fini = teardown)
{
    struct site r;
    site_open(&r);
    r.cfg.first_level_compaction_wait_period = 25 * 60000;
    put_block(&r, TENANT, 0, 0);
    put_block(&r, TENANT, 0, 1);
    site_start(&r);
    run(&r);
    cr_expect_eq(look(&r, TENANT).n_blocks, 2);
    site_close(&r);
}

/* --- bad blocks ------------------------------------------------------------------------------------------------------------------------------ */

static const char *object(struct site *r, const struct ulid *id, const char *file)
{
    (void)r;
    return arena_printf(&arena, "%s/bucket/%.*s/%s/%s", folder, SL_FMT(TENANT), id->text, file);
}

static void flip(const char *path, size_t at)
{
    struct slice whole = read_file(path);
    char *bytes = arena_alloc(&arena, whole.n);
    memcpy(bytes, whole.p, whole.n);
    bytes[at] = (char)(bytes[at] ^ 4);
    write_file(path, slice_make(bytes, whole.n));
}

enum damage { CHUNK_FLIPPED, INDEX_FLIPPED, CHUNKS_MISSING, CHUNKS_SHORT, DAMAGES };

static void spoil(struct site *r, const struct ulid *id, enum damage how)
{
    const char *chunks = object(r, id, "chunks/000001"), *index = object(r, id, "index");
    switch (how) {
    case CHUNK_FLIPPED: flip(chunks, 100); break;
    case INDEX_FLIPPED: flip(index, 300); break;
    case CHUNKS_MISSING: cr_assert_eq(unlink(chunks), 0); break;
    case CHUNKS_SHORT: cr_assert_eq(truncate(chunks, 90), 0); break;
    case DAMAGES: break;
    }
}

Test(compactor, sets_a_bad_block_aside_and_goes_on_with_the_others)
{
    for (enum damage how = 0; how < DAMAGES; how++) {
        struct site r;
        struct ctx ctx;
        struct block_mark mark;
        begin();
        ctx = test_ctx();
        site_open(&r);
        put_block(&r, TENANT, 0, 0);
        struct ulid bad = put_block(&r, TENANT, 0, 1);
        put_block(&r, TENANT, 0, 2);
        put_block(&r, TENANT, 1, 0);
        put_block(&r, TENANT, 1, 1);
        spoil(&r, &bad, how);
        site_start(&r);
        run(&r);
        cr_assert(bucket_read_mark(r.store, &ctx, TENANT, &bad, BLOCK_MARK_NO_COMPACT, &arena, &mark, NULL), "damage %d", (int)how);
        cr_expect(slice_eq(mark.reason, SL(NO_COMPACT_CRITICAL)) && mark.details.n > 20, "%.*s: %.*s", SL_FMT(mark.reason), SL_FMT(mark.details));
        cr_expect(slice_has_prefix(mark.details, slice_of(bad.text)) || memmem(mark.details.p, mark.details.n, "tenant-a/", 9), "no folder of this machine");
        cr_expect_eq(n_no_compact(&r, TENANT), 1);
        cr_assert(bucket_delete_block(r.store, &ctx, TENANT, &bad, NULL));
        struct bucket_facts after = look(&r, TENANT);
        cr_expect(after.n_blocks == 1 && after.max_level == 3, "damage %d: %zu blocks of level %u", (int)how, after.n_blocks, after.max_level);
        site_close(&r);
        teardown();
    }
}

Test(compactor, a_job_that_fails_holds_up_no_other, .init = begin, .fini = teardown)
{
    struct site r;
    struct err err = ERR_NONE;
    struct ctx ctx = {0};
    site_open(&r);
    struct ulid first = put_block(&r, TENANT, 0, 0);
    put_block(&r, TENANT, 0, 1);
    for (int range = 6; range < 9; range++) /* the second half of the day */
        for (int replica = 0; replica < 2; replica++)
            put_block(&r, TENANT, range, replica);
    r.faulty.out_of_reach = arena_printf(&arena, "%s/index", first.text);
    site_start(&r);
    cr_expect(!compactor_run(r.compactor, &ctx, &err) && strstr(err.text, first.text), "%s", err.text);
    struct bucket_facts facts = look(&r, TENANT);
    cr_expect(facts.n_blocks == 3 && facts.max_level == 3, "%zu blocks, level %u", facts.n_blocks, facts.max_level);
    cr_expect_eq(n_no_compact(&r, TENANT), 0, "a bucket that is out of reach says nothing of its blocks");
    r.faulty.out_of_reach = NULL;
    run(&r);
    cr_expect_eq(look(&r, TENANT).n_blocks, 1);
    site_close(&r);
}

/* --- the process ends at any point -------------------------------------------------------------------------------------------------------------- */

/* In a process of its own: how it ended. */
static int run_apart(uint32_t shards, int die_before, int die_after)
{
    pid_t pid = fork();
    if (pid == 0) {
        struct site r;
        struct err err = ERR_NONE;
        struct ctx ctx = {0};
        site_open(&r);
        r.limits.compactor_split_and_merge_shards = shards;
        r.cfg.block_sync_concurrency = 1; /* the same order each time */
        r.faulty.die_before = die_before;
        r.faulty.die_after = die_after;
        site_start(&r);
        _exit(compactor_run(r.compactor, &ctx, &err) ? 0 : 1);
    }
    int status;
    waitpid(pid, &status, 0);
    return WIFEXITED(status) ? WEXITSTATUS(status) : -1;
}

static void fill(void)
{
    struct site r;
    site_open(&r);
    for (int replica = 0; replica < 2; replica++)
        for (int range = 0; range < 2; range++)
            put_block(&r, TENANT, range, replica);
    site_close(&r);
}

static struct bucket_facts look_apart(void)
{
    struct site r;
    site_open(&r);
    struct bucket_facts facts = look(&r, TENANT);
    site_close(&r);
    return facts;
}

static void die_everywhere(uint32_t shards, size_t n_blocks)
{
    int end = 42;
    for (int k = 2; end == 42; k++) {
        char when[64];
        begin();
        fill();
        struct bucket_facts before = look_apart();
        end = k % 2 ? run_apart(shards, 0, k / 2) : run_apart(shards, k / 2, 0);
        snprintf(when, sizeof(when), "%s change %d", k % 2 ? "after" : "before", k / 2);
        cr_assert(end == 42 || end == 0, "%s: %d", when, end);
        cr_assert_eq(run_apart(shards, 0, 0), 0, "%s", when);
        struct bucket_facts after = look_apart();
        same_samples(&after, &before, when);
        cr_expect(after.n_again == 0 && after.n_blocks == n_blocks, "%s: %zu blocks, %zu samples twice", when, after.n_blocks, after.n_again);
        teardown();
        cr_assert(k < 400);
    }
}

Test(compactor, killed_at_any_change_of_the_bucket_loses_nothing_and_doubles_nothing)
{
    die_everywhere(0, 1);
}

Test(compactor, killed_while_it_splits_loses_nothing_and_doubles_nothing)
{
    die_everywhere(2, 2);
}

Test(compactor, clears_away_what_a_killed_process_left, .init = begin, .fini = teardown)
{
    struct site r;
    struct err err = ERR_NONE;
    site_open(&r);
    const char *left = path_of(folder, "data/compact/tenant-a/0@1-merge--0-1/in");
    cr_assert_eq(system(arena_printf(&arena, "mkdir -p '%s' && touch '%s/x' '%s/data/mine'", left, left, folder)), 0);
    site_start(&r);
    cr_assert(compactor_start(r.compactor, &err), "%s", err.text);
    cr_expect(access(path_of(left, "x"), F_OK) != 0);
    cr_expect(access(path_of(folder, "data/mine"), F_OK) == 0, "what is not the compactor's stays");
    site_close(&r);
}

/* --- the bucket fails ------------------------------------------------------------------------------------------------------------------------------- */

Test(compactor, goes_on_until_it_is_done_when_one_of_ten_operations_fails, .init = begin, .fini = teardown)
{
    struct site r;
    struct err err = ERR_NONE;
    struct ctx ctx = {0};
    site_open(&r);
    r.limits.compactor_split_and_merge_shards = 2;
    r.cfg.block_sync_concurrency = r.cfg.meta_sync_concurrency = 1; /* one thread asks the generator of faults */
    for (int replica = 0; replica < 2; replica++)
        put_block(&r, TENANT, 0, replica);
    struct bucket_facts before = look(&r, TENANT);
    r.faulty.fail_percent = 10;
    site_start(&r);
    bool good = false;
    for (int i = 0; i < 500 && !good; i++)
        good = compactor_run(r.compactor, &ctx, &err);
    cr_assert(good, "%s", err.text);
    struct bucket_facts after = look(&r, TENANT);
    same_samples(&after, &before, "after faults");
    cr_expect(after.n_blocks == 2 && after.n_again == 0 && n_no_compact(&r, TENANT) == 0, "%zu blocks", after.n_blocks);
    site_close(&r);
}

/* Blocks arrive and marked ones are removed between the runs, and two of three listings are old. */
Test(compactor, keeps_every_sample_when_listings_are_old, .init = begin, .fini = teardown)
{
    struct site r;
    struct ctx ctx = {0};
    struct bucket_facts before, after;
    site_open(&r);
    r.limits.compactor_split_and_merge_shards = 2;
    for (int range = 0; range < 4; range++)
        for (int replica = 0; replica < 2; replica++)
            put_block(&r, TENANT, range, replica);
    before = look(&r, TENANT);
    site_start(&r);
    r.faulty.stale_percent = 66;
    for (int i = 0; i < 20; i++) {
        compactor_run(r.compactor, &ctx, NULL); /* fails where a listing shows what is gone */
        after = look(&r, TENANT);               /* and removes what is marked */
        same_samples(&after, &before, arena_printf(&arena, "run %d", i));
    }
    r.faulty.stale_percent = 0;
    run(&r);
    after = look(&r, TENANT);
    same_samples(&after, &before, "at the end");
    cr_expect(after.n_blocks == 2 && after.n_again == 0 && n_no_compact(&r, TENANT) == 0, "%zu blocks, %zu samples twice", after.n_blocks, after.n_again);
    site_close(&r);
}

Test(compactor, stops_within_moments_in_the_midst_of_a_job, .init = begin, .fini = teardown)
{
    struct site r;
    struct err err = ERR_NONE;
    site_open(&r);
    put_block(&r, TENANT, 0, 0);
    put_block(&r, TENANT, 0, 1);
    r.faulty.slow_ms = 60000;
    site_start(&r);
    cr_assert(compactor_start(r.compactor, &err), "%s", err.text);
    nanosleep(&(struct timespec){.tv_nsec = 300000000}, NULL);
    int64_t start = clock_mono_ms();
    compactor_stop(r.compactor);
    cr_expect(clock_mono_ms() - start < 3000);
    site_close(&r);
}
