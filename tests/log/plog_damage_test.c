/*
 * Damaged, cut and missing files: what is whole is read, what is damaged is passed over with its offsets, nothing
 * crashes, no offset is given out twice, and the log goes on taking records.
 */
#include <criterion/criterion.h>
#include <fcntl.h>
#include <sys/wait.h>

#include "base/assert.h"
#include "base/clock.h"
#include "tests/log/plog_util.h"

enum { RECORDS = 60, RECORD_BYTES = 50000, SMALL_RECORDS = 400 };

static char *dir;
static struct plog_config cfg;
static unsigned rng = 7;

static unsigned next_random(void)
{
    rng = rng * 1664525 + 1013904223;
    return rng >> 8;
}

static struct plog *open_log(void)
{
    struct err err = ERR_NONE;
    struct plog *log = plog_open_embedded(&cfg, dir, &err);
    cr_assert(log, "%s", err.text);
    return log;
}

/*
 * Large and small records in a few segments. crash: as by a process that is gone in the middle, so that the newest
 * segment has no row.
 */
static void fill_log(bool crash)
{
    pid_t pid = fork();
    if (pid == 0) {
        struct plog *log = open_log();
        for (uint64_t i = 0; i < RECORDS; i++)
            if (!produce_filled(log, 0, i, RECORD_BYTES, NULL, NULL))
                _exit(1);
        static struct plog_record r[SMALL_RECORDS];
        static char values[SMALL_RECORDS][50];
        for (uint64_t i = 0; i < SMALL_RECORDS; i++) {
            fill_value(values[i], 50, 0, RECORDS + i);
            r[i] = (struct plog_record){.timestamp_ms = 1000, .tenant = SL("t1"), .value = {values[i], 50}};
        }
        if (!produce_wait(log, r, SMALL_RECORDS, NULL))
            _exit(1);
        if (!crash)
            plog_close(log);
        _exit(0);
    }
    int status;
    waitpid(pid, &status, 0);
    cr_assert_eq(status, 0);
}

/* Reads from the start to the end; every record that is given is right. Returns how many there were. */
static size_t read_what_is_there(struct plog *log, int64_t *ret_next)
{
    int64_t first, next;
    size_t n = 0;
    cr_assert(plog_offsets(log, 0, &first, &next, NULL));
    for (int64_t o = first; o < next;) {
        struct plog_batch b;
        struct err err = ERR_NONE;
        cr_assert(plog_fetch(log, 0, o, 300000, 0, &b, &err), "%s", err.text);
        for (size_t i = 0; i < b.n; i++) {
            cr_assert_geq(b.records[i].offset, o);
            o = b.records[i].offset + 1;
            cr_assert(value_is(b.records[i].value, 0, (uint64_t)b.records[i].offset));
        }
        cr_assert_geq(b.next_offset, o);
        cr_assert(b.n || b.next_offset > o || o == next, "no progress at %ld", (long)o);
        o = b.next_offset;
        n += b.n;
        plog_batch_release(&b);
    }
    int64_t at;
    cr_assert(plog_offset_at(log, 0, 1030, &at, NULL));
    *ret_next = next;
    return n;
}

/* Opens, reads, appends, reads again, opens again. Returns how many of the first records were readable. */
static size_t works(void)
{
    struct plog *log = open_log();
    int64_t next, again;
    size_t n = read_what_is_there(log, &next);
    cr_assert_geq(next, RECORDS + SMALL_RECORDS, "offsets %ld would be given out again", (long)next);
    for (int64_t i = 0; i < 3; i++) {
        int64_t offset;
        cr_assert(produce_filled(log, 0, (uint64_t)(next + i), 100, &offset, NULL));
        cr_assert_eq(offset, next + i);
    }
    cr_assert_eq(read_what_is_there(log, &again), n + 3);
    cr_assert_eq(again, next + 3);
    plog_close(log);
    log = open_log();
    cr_assert_eq(read_what_is_there(log, &again), n + 3);
    cr_assert_eq(again, next + 3);
    plog_close(log);
    return n;
}

static size_t file_size(const char *path)
{
    struct stat st;
    cr_assert_eq(stat(path, &st), 0);
    return (size_t)st.st_size;
}

static void flip(const char *path, size_t at, unsigned char with)
{
    int fd = open(path, O_RDWR);
    unsigned char c;
    cr_assert_geq(fd, 0);
    cr_assert_eq(pread(fd, &c, 1, (off_t)at), 1);
    c ^= with;
    cr_assert_eq(pwrite(fd, &c, 1, (off_t)at), 1);
    close(fd);
}

static void copy_file(const char *from, const char *to)
{
    char cmd[1200];
    snprintf(cmd, sizeof(cmd), "cp %s %s", from, to);
    cr_assert_eq(system(cmd), 0);
}

static void setup(void)
{
    log_min_level = LOG_LEVEL_ERROR + 1;
    dir = temp_dir();
    cfg = small_config();
}

static void teardown(void)
{
    remove_dir(dir);
}

TestSuite(plog_damage, .init = setup, .fini = teardown, .timeout = 280);

Test(plog_damage, an_undamaged_log_is_read_whole)
{
    fill_log(true);
    cr_expect_eq(works(), RECORDS + SMALL_RECORDS);
}

Test(plog_damage, a_flipped_bit_in_a_value_costs_that_record)
{
    fill_log(true);
    char paths[16][512];
    list_segments(dir, paths, 16);
    flip(paths[0], file_size(paths[0]) / 2, 1);
    cr_expect_eq(works(), RECORDS + SMALL_RECORDS - 1);
}

Test(plog_damage, a_cut_segment_is_passed_over)
{
    for (int newest = 0; newest < 2; newest++) {
        fill_log(newest);
        char paths[16][512];
        size_t n = list_segments(dir, paths, 16);
        cr_assert_gt(n, 2);
        const char *path = paths[newest ? n - 1 : 1];
        cr_assert_eq(truncate(path, (off_t)file_size(path) / 2), 0);
        size_t left = works();
        cr_expect(left < RECORDS + SMALL_RECORDS && left >= 40, "%zu", left);
        teardown();
        setup();
    }
}

Test(plog_damage, an_empty_newest_segment_does_not_give_its_offsets_out_again)
{
    fill_log(true);
    char paths[16][512];
    size_t n = list_segments(dir, paths, 16);
    cr_assert_eq(truncate(paths[n - 1], 0), 0);
    cr_expect_lt(works(), RECORDS + SMALL_RECORDS);
}

Test(plog_damage, a_lost_newest_segment_does_not_give_its_offsets_out_again)
{
    for (int crash = 0; crash < 2; crash++) {
        fill_log(crash);
        char paths[16][512];
        size_t n = list_segments(dir, paths, 16);
        cr_assert_eq(unlink(paths[n - 1]), 0);
        cr_expect_lt(works(), RECORDS + SMALL_RECORDS);
        teardown();
        setup();
    }
}

Test(plog_damage, a_lost_meta_file_costs_committed_offsets_only)
{
    fill_log(true);
    char path[512];
    snprintf(path, sizeof(path), "%s/meta.mdb", dir);
    cr_assert_eq(unlink(path), 0);
    cr_expect_eq(works(), RECORDS + SMALL_RECORDS);
}

Test(plog_damage, a_damaged_meta_file_is_a_named_error)
{
    fill_log(false);
    char path[512];
    snprintf(path, sizeof(path), "%s/meta.mdb", dir);
    cr_assert_eq(truncate(path, 8192), 0);
    struct err err = ERR_NONE;
    cr_expect_null(plog_open_embedded(&cfg, dir, &err));
    cr_expect_eq(err.code, ERR_CORRUPT);
    cr_expect(strstr(err.text, path), "%s", err.text);
}

Test(plog_damage, a_fetch_behind_lost_records_waits_and_moves_on)
{
    fill_log(true);
    char paths[16][512];
    size_t n = list_segments(dir, paths, 16);
    cr_assert_eq(unlink(paths[n - 1]), 0);
    struct plog *log = open_log();
    int64_t first, next;
    cr_assert(plog_offsets(log, 0, &first, &next, NULL));
    struct plog_batch b;
    int64_t before = clock_mono_ms();
    cr_assert(plog_fetch(log, 0, RECORDS + SMALL_RECORDS - 1, 1000, 100, &b, NULL));
    cr_expect_eq(b.n, 0);
    cr_expect_eq(b.next_offset, next);
    cr_expect_geq(clock_mono_ms() - before, 99);
    plog_batch_release(&b);
    int64_t offset;
    cr_assert(produce_filled(log, 0, 5, 100, &offset, NULL));
    cr_assert(plog_fetch(log, 0, RECORDS + SMALL_RECORDS - 1, 1000, 100, &b, NULL));
    cr_expect_eq(b.n, 1);
    cr_expect_eq(b.records[0].offset, next);
    plog_batch_release(&b);
    plog_close(log);
}

Test(plog_damage, a_file_that_is_no_segment_is_passed_over)
{
    fill_log(false);
    char path[512];
    snprintf(path, sizeof(path), "%s/%020d.seg", dir, 100);
    FILE *f = fopen(path, "w");
    fputs("hello", f);
    fclose(f);
    cr_expect_eq(works(), RECORDS + SMALL_RECORDS);
}

/* Bits flipped anywhere, mostly in the pages that are trees, with and without rows in meta.mdb. */
Test(plog_damage, random_damage_never_crashes_and_never_gives_wrong_bytes)
{
    fill_log(true);
    const char *seed = getenv("BRUNN_DAMAGE_SEED");
    rng = seed ? (unsigned)atoi(seed) : 7;
    char *origin = dir;
    char paths[16][512];
    size_t n = list_segments(origin, paths, 16), worst = SIZE_MAX;
    for (int round = 0; round < 150; round++) {
        dir = temp_dir();
        for (size_t i = 0; i < n; i++)
            copy_file(paths[i], dir);
        if (round % 2) {
            char meta[512];
            snprintf(meta, sizeof(meta), "%s/meta.mdb", origin);
            copy_file(meta, dir);
        }
        char path[512];
        snprintf(path, sizeof(path), "%s/%s", dir, strrchr(paths[next_random() % n], '/') + 1);
        size_t size = file_size(path);
        for (unsigned i = 0, flips = 1 + next_random() % 8; i < flips; i++) {
            /* Heads of pages and the two meta pages hold what LMDB follows. */
            size_t page = next_random() % 4 ? next_random() % (size / 4096) : next_random() % 12;
            size_t at = MIN(page * 4096 + (next_random() % 4 ? next_random() % 200 : next_random() % 4096), size - 1);
            if (at / 4096 < 2 && at % 4096 >= 144 && at % 4096 < 152)
                continue; /* a meta page's transaction: one bit can make it the commit before, which nothing tells */
            flip(path, at, (unsigned char)(1u << next_random() % 8));
        }
        worst = MIN(worst, works());
        remove_dir(dir);
    }
    dir = origin;
    cr_expect_lt(worst, RECORDS + SMALL_RECORDS);
}
