#include "cleaner_rig.h"

static struct clean_rig c;

static void setup(void)
{
    clean_new(&c);
}

static void teardown(void)
{
    clean_free(&c);
}

TestSuite(cleaner, .init = setup, .fini = teardown);

Test(cleaner, the_index_follows_the_bucket)
{
    struct bucket_index index;
    put_block(&c, "a", 1);
    put_block(&c, "a", 2);
    put_block(&c, "b", 3);
    clean_round(&c);
    cr_assert(index_now(&c, "a", &index));
    cr_expect_eq(index.n_blocks, 2);
    cr_expect_eq(index.updated_at_s, START_MS / 1000);
    cr_expect(index_has(&index, 1) && index_has(&index, 2));
    cr_assert(index_now(&c, "b", &index));
    cr_expect_eq(index.n_blocks, 1);
    put_block(&c, "a", 4);
    mark_block(&c, "a", 1);
    clean_at(&c, START_MS + 15 * MINUTE_MS);
    clean_round(&c);
    cr_assert(index_now(&c, "a", &index));
    cr_expect_eq(index.n_blocks, 3);
    cr_expect_eq(index.n_deletions, 1);
    cr_expect(index_marks(&index, 1));
    cr_expect(metrics_hold("cortex_bucket_blocks_count{user=\"a\"} 3\n"));
    cr_expect(metrics_hold("cortex_bucket_blocks_marked_for_deletion_count{user=\"a\"} 1\n"));
    cr_expect(metrics_hold("cortex_bucket_blocks_partials_count{user=\"a\"} 0\n"));
    cr_expect(metrics_hold("cortex_bucket_index_last_successful_update_timestamp_seconds{user=\"a\"} 1.7952009e+09\n"));
    cr_expect(metrics_hold("cortex_bucket_index_estimated_compaction_jobs{type=\"split\",user=\"a\"} 3\n"));
    cr_expect(metrics_hold("cortex_bucket_index_estimated_compaction_jobs{type=\"merge\",user=\"b\"} 7\n"));
    cr_expect(metrics_hold("cortex_compactor_block_cleanup_completed_total 2\n"));
}

Test(cleaner, tenants_of_others_are_left_alone_and_lose_their_series)
{
    struct bucket_index index;
    put_block(&c, "a", 1);
    clean_round(&c);
    cr_expect(metrics_hold("cortex_bucket_blocks_count{user=\"a\"}"));
    c.owned = false;
    put_block(&c, "a", 2);
    put_block(&c, "b", 2);
    clean_round(&c);
    cr_assert(index_now(&c, "a", &index));
    cr_expect_eq(index.n_blocks, 1);
    cr_expect_not(index_now(&c, "b", &index));
    cr_expect_not(metrics_hold("user=\"a\""));
}

Test(cleaner, marked_blocks_go_after_the_delay_and_not_before)
{
    struct bucket_index index;
    put_block(&c, "a", 1);
    put_block(&c, "a", 2);
    mark_block(&c, "a", 1);
    clean_round(&c);
    clean_at(&c, START_MS + 12 * HOUR_MS - 1000);
    clean_round(&c);
    cr_expect(has_block(&c, "a", 1));
    clean_at(&c, START_MS + 12 * HOUR_MS);
    clean_round(&c);
    cr_expect_not(has_block(&c, "a", 1));
    cr_expect_not(has(&c, name_of("a", 1, "index")));
    cr_expect_not(has(&c, name_of("a", 1, "deletion-mark.json")));
    cr_expect_not(has(&c, global_of("a", 1, "deletion-mark.json")));
    cr_expect(has_block(&c, "a", 2));
    cr_assert(index_now(&c, "a", &index));
    cr_expect_eq(index.n_blocks, 1);
    cr_expect_eq(index.n_deletions, 0);
    cr_expect(metrics_hold("cortex_compactor_blocks_cleaned_total 1\n"));
}

Test(cleaner, a_mark_that_no_reader_could_see_is_published_first)
{
    struct bucket_index index;
    put_block(&c, "a", 1);
    put_block(&c, "a", 2);
    clean_round(&c);
    mark_block(&c, "a", 1);
    clean_at(&c, START_MS + 20 * HOUR_MS); /* the cleaner was away */
    clean_round(&c);
    cr_expect(has_block(&c, "a", 1));
    cr_assert(index_now(&c, "a", &index));
    cr_expect(index_marks(&index, 1));
    clean_at(&c, c.now_ms + HOUR_MS - 1000); /* who has read the index just before may use it for an hour */
    clean_round(&c);
    cr_expect(has_block(&c, "a", 1));
    clean_at(&c, c.now_ms + 1000);
    clean_round(&c);
    cr_expect_not(has_block(&c, "a", 1));
}

Test(cleaner, without_a_delay_a_published_mark_is_acted_on_in_the_next_round)
{
    c.cfg.deletion_delay = 0;
    put_block(&c, "a", 1);
    put_block(&c, "a", 2);
    mark_block(&c, "a", 1);
    clean_round(&c);
    cr_expect(has_block(&c, "a", 1));
    clean_round(&c);
    cr_expect_not(has_block(&c, "a", 1));
}

Test(cleaner, retention_marks_what_is_too_old_once)
{
    struct bucket_index index;
    c.limit_values.compactor_blocks_retention_period = 48 * HOUR_MS;
    put_block(&c, "a", 1);
    clean_at(&c, START_MS + 48 * HOUR_MS);
    put_block(&c, "a", 2);
    clean_round(&c);
    cr_expect_not(has(&c, name_of("a", 1, "deletion-mark.json")));
    clean_at(&c, START_MS + 48 * HOUR_MS + 1000);
    n_marked_retention = 0;
    clean_round(&c);
    cr_assert(index_now(&c, "a", &index));
    cr_expect(index_marks(&index, 1));
    cr_expect_not(index_marks(&index, 2));
    struct slice mark = object(&c.bucket, name_of("a", 1, "deletion-mark.json"));
    char want[256];
    snprintf(want, sizeof(want), "{\"id\":\"%s\",\"version\":1,\"details\":\"block exceeding retention of 48h0m0s\",\"deletion_time\":%lld}", nth_block(1).text,
             (long long)(c.now_ms / 1000));
    cr_expect(slice_eq(mark, slice_of(want)), "%.*s", SL_FMT(mark));
    cr_expect(slice_eq(mark, object(&c.bucket, global_of("a", 1, "deletion-mark.json"))));
    clean_round(&c);
    cr_expect_eq(n_marked_retention, 1);
    clean_at(&c, c.now_ms + 12 * HOUR_MS);
    clean_round(&c);
    cr_expect_not(has_block(&c, "a", 1));
}

Test(cleaner, retention_works_when_the_index_is_made_anew)
{
    c.limit_values.compactor_blocks_retention_period = 48 * HOUR_MS;
    put_block(&c, "a", 1);
    clean_at(&c, START_MS + 50 * HOUR_MS);
    clean_round(&c);
    cr_expect(has(&c, name_of("a", 1, "deletion-mark.json")));
}

/* --- partial blocks ---------------------------------------------------------------------------------------------------------- */

Test(cleaner, a_partial_block_is_marked_when_it_has_grown_old_and_then_removed)
{
    put_block(&c, "a", 1);
    put_files(&c, "a", 2);
    clean_at(&c, START_MS + 24 * HOUR_MS - 1000);
    clean_round(&c);
    cr_expect(has(&c, name_of("a", 2, "index")));
    cr_expect_not(has(&c, name_of("a", 2, "deletion-mark.json")));
    cr_expect(metrics_hold("cortex_bucket_blocks_partials_count{user=\"a\"} 1\n"));
    clean_at(&c, START_MS + 24 * HOUR_MS);
    n_marked_partial = 0;
    clean_round(&c);
    cr_expect(has(&c, name_of("a", 2, "index")));
    cr_expect(has(&c, name_of("a", 2, "deletion-mark.json")));
    cr_expect_eq(n_marked_partial, 1);
    clean_round(&c);
    cr_expect_not(has(&c, name_of("a", 2, "index")));
    cr_expect_not(has(&c, name_of("a", 2, "deletion-mark.json")));
    cr_expect_not(has(&c, global_of("a", 2, "deletion-mark.json")));
    cr_expect(metrics_hold("cortex_bucket_blocks_partials_count{user=\"a\"} 0\n"));
}

Test(cleaner, one_new_object_keeps_a_partial_block)
{
    put_files(&c, "a", 2);
    clean_at(&c, START_MS + 30 * HOUR_MS);
    put_at(&c, name_of("a", 2, "chunks/000002"), "more");
    clean_round(&c);
    cr_expect_not(has(&c, name_of("a", 2, "deletion-mark.json")));
}

Test(cleaner, a_delay_below_four_hours_switches_it_off)
{
    c.limit_values.compactor_partial_block_deletion_delay = 3 * HOUR_MS;
    put_files(&c, "a", 2);
    clean_at(&c, START_MS + 300 * HOUR_MS);
    clean_round(&c);
    c.limit_values.compactor_partial_block_deletion_delay = 0;
    clean_round(&c);
    cr_expect_not(has(&c, name_of("a", 2, "deletion-mark.json")));
}

Test(cleaner, what_a_removal_left_goes_at_once)
{
    put_files(&c, "a", 2);
    clean_at(&c, START_MS + HOUR_MS);
    mark_block(&c, "a", 2);
    clean_round(&c);
    cr_expect_not(has(&c, name_of("a", 2, "index")));
    cr_expect_not(has(&c, global_of("a", 2, "deletion-mark.json")));
}

Test(cleaner, an_upload_that_goes_on_after_the_mark_keeps_its_files_and_its_block)
{
    struct bucket_index index;
    put_files(&c, "a", 2);
    clean_at(&c, START_MS + 25 * HOUR_MS);
    clean_round(&c);
    cr_expect(has(&c, name_of("a", 2, "deletion-mark.json")));
    clean_at(&c, c.now_ms + MINUTE_MS);
    put_at(&c, name_of("a", 2, "chunks/000002"), "more");
    clean_at(&c, c.now_ms + 15 * MINUTE_MS);
    clean_round(&c);
    cr_expect(has(&c, name_of("a", 2, "index")), "somebody is at work on it");
    put_meta(&c, "a", 2, c.now_ms, "receive");
    clean_at(&c, c.now_ms + 15 * MINUTE_MS);
    clean_round(&c);
    cr_assert(index_now(&c, "a", &index));
    cr_expect(index_has(&index, 2));
    cr_expect_not(index_marks(&index, 2));
    cr_expect_not(has(&c, name_of("a", 2, "deletion-mark.json")));
    cr_expect_not(has(&c, global_of("a", 2, "deletion-mark.json")));
    cr_expect(metrics_hold("brunn_compactor_void_deletion_marks_total 1\n"));
    clean_at(&c, c.now_ms + 13 * HOUR_MS);
    clean_round(&c);
    cr_expect(has_block(&c, "a", 2));
}

Test(cleaner, half_of_a_void_mark_is_void_too)
{
    struct bucket_index index;
    put_block(&c, "a", 2);
    mark_with(&c, "a", 2, "stale partial block: last modified x");
    shell("rm %s/%s", c.bucket.bucket, name_of("a", 2, "deletion-mark.json"));
    put_block(&c, "a", 3);
    mark_block(&c, "a", 3);
    clean_round(&c);
    cr_assert(index_now(&c, "a", &index));
    cr_expect_not(index_marks(&index, 2));
    cr_expect(index_marks(&index, 3));
}

Test(cleaner, a_damaged_meta_json_is_left_alone)
{
    put_block(&c, "a", 1);
    put_files(&c, "a", 2);
    put_at(&c, name_of("a", 2, "meta.json"), "{");
    mark_block(&c, "a", 2);
    clean_at(&c, START_MS + 11 * HOUR_MS);
    clean_round(&c);
    clean_round(&c);
    cr_expect(has_block(&c, "a", 2));
    cr_expect(metrics_hold("cortex_bucket_blocks_partials_count{user=\"a\"} 1\n"));
}

Test(cleaner, an_empty_folder_is_no_block)
{
    put_block(&c, "a", 1);
    shell("mkdir -p %s/a/%s/chunks %s/empty/markers", c.bucket.bucket, nth_block(2).text, c.bucket.bucket);
    clean_round(&c);
    cr_expect(metrics_hold("cortex_bucket_blocks_partials_count{user=\"a\"} 0\n"));
    cr_expect_not(has(&c, name_of("a", 2, "deletion-mark.json")));
}

/* --- faults ------------------------------------------------------------------------------------------------------------------ */

Test(cleaner, a_late_listing_takes_nothing_away)
{
    struct bucket_index index;
    put_block(&c, "a", 1);
    put_block(&c, "a", 2);
    clean_round(&c);
    c.bucket.faulty.hidden = nth_block(2).text;
    static char hidden[32];
    strcpy(hidden, c.bucket.faulty.hidden);
    c.bucket.faulty.hidden = hidden;
    clean_round(&c);
    cr_assert(index_now(&c, "a", &index));
    cr_expect(index_has(&index, 2));
    c.bucket.faulty.hidden = "meta.json"; /* a block of which the listing lacks the newest object */
    clean_at(&c, START_MS + 40 * HOUR_MS);
    clean_round(&c);
    clean_round(&c);
    cr_expect(has_block(&c, "a", 1) && has_block(&c, "a", 2));
}

Test(cleaner, a_mark_counts_from_when_the_index_has_it_where_readers_may_be_staler_than_the_delay)
{
    struct bucket_index index;
    struct ulid id = nth_block(1);
    c.cfg.deletion_delay = 15000;
    put_block(&c, "a", 1);
    mark_block(&c, "a", 1);
    for (int i = 1; i < 3; i++) {
        clean_at(&c, START_MS + i * 1000);
        clean_round(&c);
        cr_assert(index_now(&c, "a", &index));
        cr_expect_eq(bucket_index_deletion(&index, &id)->time_s, START_MS / 1000 + 1, "what the first round said stays");
    }
}

Test(cleaner, a_damaged_index_is_made_anew_with_the_marks_that_had_no_copy)
{
    struct bucket_index index;
    put_block(&c, "a", 1);
    put_block(&c, "a", 2);
    mark_block(&c, "a", 1);
    struct block_mark no_compact = {.block = nth_block(2), .time_s = 5, .reason = SL("manual")};
    cr_assert(bucket_mark_block(c.bucket.store, &no_hurry, SL("a"), BLOCK_MARK_NO_COMPACT, &no_compact, NULL, NULL));
    shell("rm -r %s/a/markers", c.bucket.bucket);
    put_at(&c, "a/bucket-index.json.gz", "no gzip");
    clean_round(&c);
    cr_assert(index_now(&c, "a", &index));
    cr_expect_eq(index.n_blocks, 2);
    cr_expect(index_marks(&index, 1));
    cr_expect(has(&c, global_of("a", 2, "no-compact-mark.json")));
}

Test(cleaner, marks_of_blocks_that_are_gone_go)
{
    put_block(&c, "a", 1);
    mark_block(&c, "a", 7);
    put_at(&c, global_of("a", 8, "no-compact-mark.json"), "{}");
    put_at(&c, global_of("a", 1, "no-compact-mark.json"), "{}");
    clean_round(&c);
    cr_expect_not(has(&c, global_of("a", 8, "no-compact-mark.json")));
    cr_expect(has(&c, global_of("a", 1, "no-compact-mark.json")));
    clean_at(&c, START_MS + 12 * HOUR_MS);
    clean_round(&c);
    cr_expect_not(has(&c, global_of("a", 7, "deletion-mark.json")));
}

Test(cleaner, the_last_block_takes_index_and_debug_data_with_it)
{
    put_block(&c, "a", 1);
    put_at(&c, "a/debug/metas/x.json", "{}");
    mark_block(&c, "a", 1);
    clean_round(&c);
    clean_at(&c, START_MS + 12 * HOUR_MS);
    clean_round(&c);
    cr_expect_not(exists("%s/a", c.bucket.bucket));
    cr_expect_not(metrics_hold("user=\"a\""));
}

Test(cleaner, leftovers_of_an_upload_go_when_its_block_is_complete)
{
    put_files(&c, "a", 1);
    put_at(&c, name_of("a", 1, "uploading-meta.json"), "{}");
    put_at(&c, name_of("a", 1, "validation.json"), "{}");
    clean_round(&c);
    cr_expect(has(&c, name_of("a", 1, "uploading-meta.json")));
    put_meta(&c, "a", 1, c.now_ms, "upload");
    clean_round(&c);
    cr_expect_not(has(&c, name_of("a", 1, "uploading-meta.json")));
    cr_expect_not(has(&c, name_of("a", 1, "validation.json")));
    cr_expect(has_block(&c, "a", 1));
}

Test(cleaner, one_tenants_fault_is_only_its_own)
{
    struct bucket_index index;
    put_block(&c, "a", 1);
    put_at(&c, "a/markers/tenant-deletion-mark.json", "not json");
    put_block(&c, "b", 1);
    struct err err = ERR_NONE;
    cr_expect_not(cleaner_run(c.cleaner, &no_hurry, &err));
    cr_expect(strstr(err.text, "a/markers/tenant-deletion-mark.json"), "%s", err.text);
    cr_expect(has_block(&c, "a", 1));
    cr_expect(index_now(&c, "b", &index));
    cr_expect(metrics_hold("cortex_compactor_block_cleanup_failed_total 1\n"));
    cr_expect(metrics_hold("brunn_compactor_cleanup_tenant_failures_total 1\n"));
}

/* --- deleted tenants ------------------------------------------------------------------------------------------------------------ */

static void mark_tenant(const char *tenant)
{
    struct tenant_mark m = {.deletion_time_s = c.now_ms / 1000};
    cr_assert(bucket_write_tenant_mark(c.bucket.store, &no_hurry, slice_of(tenant), &m, NULL));
}

Test(cleaner, a_deleted_tenant_goes_in_mimirs_order)
{
    static const char *const mark = "a/markers/tenant-deletion-mark.json";
    put_block(&c, "a", 1);
    put_block(&c, "a", 2);
    put_files(&c, "a", 3);
    mark_block(&c, "a", 1);
    put_at(&c, "a/debug/metas/x.json", "{}");
    put_at(&c, "a/markers/something-else.json", "{}");
    clean_round(&c);
    mark_tenant("a");
    clean_at(&c, START_MS + HOUR_MS);
    clean_round(&c);
    cr_expect_not(has(&c, "a/bucket-index.json.gz"));
    cr_expect_not(has_block(&c, "a", 1) || has_block(&c, "a", 2) || has(&c, name_of("a", 3, "index")));
    cr_expect(slice_eq(object(&c.bucket, mark), SL("{\"deletion_time\":1795200000,\"finished_time\":1795203600}")), "%.*s", SL_FMT(object(&c.bucket, mark)));
    cr_expect(has(&c, "a/debug/metas/x.json"));
    cr_expect_not(metrics_hold("user=\"a\""));
    clean_at(&c, START_MS + 3 * HOUR_MS);
    put_block(&c, "a", 9); /* an ingester that had not seen the mark */
    clean_round(&c);
    cr_expect_not(has_block(&c, "a", 9));
    clean_at(&c, START_MS + 9 * HOUR_MS - 1000);
    clean_round(&c);
    cr_expect(has(&c, mark) && has(&c, "a/debug/metas/x.json"));
    clean_at(&c, START_MS + 9 * HOUR_MS);
    clean_round(&c);
    cr_expect_not(exists("%s/a", c.bucket.bucket));
}

Test(cleaner, stop_ends_what_runs)
{
    for (unsigned i = 0; i < 40; i++)
        put_block(&c, "a", i);
    c.bucket.faulty.slow_ms = 100;
    struct err err = ERR_NONE;
    cr_assert(cleaner_start(c.cleaner, &err));
    usleep(200000);
    int64_t before = clock_mono_ms();
    cleaner_stop(c.cleaner);
    cr_expect_lt(clock_mono_ms() - before, 1000);
}

Test(cleaner, rounds_repeat)
{
    c.cfg.cleanup_interval = 100;
    put_block(&c, "a", 1);
    struct err err = ERR_NONE;
    cr_assert(cleaner_start(c.cleaner, &err));
    for (int i = 0; i < 100 && !metrics_hold("cortex_compactor_block_cleanup_completed_total 3\n"); i++)
        usleep(20000);
    cleaner_stop(c.cleaner);
    cr_expect_not(metrics_hold("cortex_compactor_block_cleanup_completed_total 0\n"));
    cr_expect_not(metrics_hold("cortex_compactor_block_cleanup_completed_total 1\n"));
}

/* --- downsampled blocks ------------------------------------------------------------------------------------------------- */

#define ROOM_5M "a/downsampled/5m-sum"
#define ROOM_1H "a/downsampled/1h-max"

Test(cleaner, downsampled_blocks_have_indexes_of_their_own_and_are_in_no_other)
{
    struct bucket_index index;
    put_block(&c, "a", 1);
    put_block(&c, ROOM_5M, 1);
    put_block(&c, ROOM_5M, 2);
    put_block(&c, ROOM_1H, 1);
    put_block(&c, "a/downsampled/7m-sum", 1); /* nobody's */
    clean_round(&c);
    cr_assert(index_now(&c, "a", &index));
    cr_expect_eq(index.n_blocks, 1);
    cr_assert(index_now(&c, ROOM_5M, &index));
    cr_expect(index.n_blocks == 2 && index_has(&index, 1) && index_has(&index, 2));
    cr_assert(index_now(&c, ROOM_1H, &index));
    cr_expect_eq(index.n_blocks, 1);
    cr_expect_not(index_now(&c, "a/downsampled/7m-sum", &index));
    cr_expect(metrics_hold("cortex_bucket_blocks_count{user=\"a\"} 1\n"));
    cr_expect_not(metrics_hold("downsampled"));
}

Test(cleaner, downsampled_blocks_have_retention_periods_of_their_own)
{
    c.limit_values.compactor_blocks_retention_period = 24 * HOUR_MS;
    c.limit_values.compactor_downsample_5m_retention = 48 * HOUR_MS;
    put_block(&c, "a", 1);
    put_block(&c, ROOM_5M, 1);
    put_block(&c, ROOM_1H, 1); /* as the others */
    clean_round(&c);
    for (int64_t hours = 25; hours <= 25 + 13; hours += 13) {
        clean_at(&c, START_MS + hours * HOUR_MS);
        clean_round(&c);
    }
    cr_expect(!has_block(&c, "a", 1) && has_block(&c, ROOM_5M, 1) && !has_block(&c, ROOM_1H, 1));
    for (int64_t hours = 49; hours <= 49 + 13; hours += 13) {
        clean_at(&c, START_MS + hours * HOUR_MS);
        clean_round(&c);
    }
    cr_expect_not(has_block(&c, ROOM_5M, 1));
    cr_expect_not(has(&c, ROOM_5M "/bucket-index.json.gz"));
}

Test(cleaner, downsampled_blocks_that_are_marked_or_partial_go_like_others)
{
    put_block(&c, "a", 1);
    put_block(&c, ROOM_5M, 1);
    put_block(&c, ROOM_5M, 2);
    put_files(&c, ROOM_5M, 3);
    mark_block(&c, ROOM_5M, 2);
    clean_round(&c);
    cr_expect(has_block(&c, ROOM_5M, 2));
    clean_at(&c, START_MS + 13 * HOUR_MS);
    clean_round(&c);
    cr_expect(has_block(&c, ROOM_5M, 1) && !has_block(&c, ROOM_5M, 2) && has(&c, name_of(ROOM_5M, 3, "index")));
    clean_at(&c, START_MS + 25 * HOUR_MS);
    clean_round(&c);
    clean_round(&c);
    cr_expect_not(has(&c, name_of(ROOM_5M, 3, "index")));
}

Test(cleaner, a_deleted_tenant_takes_its_downsampled_blocks_with_it)
{
    put_block(&c, "a", 1);
    put_block(&c, ROOM_5M, 1);
    clean_round(&c);
    cr_assert(bucket_write_tenant_mark(c.bucket.store, &no_hurry, SL("a"), &(struct tenant_mark){.deletion_time_s = START_MS / 1000}, NULL));
    clean_round(&c);
    cr_expect(!has_block(&c, "a", 1) && !has_block(&c, ROOM_5M, 1) && !has(&c, ROOM_5M "/bucket-index.json.gz"));
}
