/*
 * A real full disk: a small tmpfs. Needs the right to mount; without it the faults in plog_test.c stand in
 * (a_failing_disk_fails_one_group_and_no_more).
 */
#include <criterion/criterion.h>
#include <errno.h>
#include <fcntl.h>
#include <sys/mount.h>

#include "base/assert.h"
#include "tests/log/plog_util.h"

static char *dir;
static struct plog_config cfg;

static bool mount_small(void)
{
    dir = temp_dir();
    if (mount("none", dir, "tmpfs", 0, "size=8m") == 0)
        return true;
    rmdir(dir);
    free(dir);
    dir = NULL;
    cr_skip_test("cannot mount a tmpfs: %s", strerror(errno));
    return false;
}

static void unmount_small(void)
{
    if (!dir)
        return;
    umount2(dir, MNT_DETACH);
    rmdir(dir);
    free(dir);
}

/* Takes all the space that is left but `leave` bytes. */
static void eat_space(const char *path, off_t leave)
{
    int fd = open(path, O_WRONLY | O_CREAT, 0600);
    char block[4096] = {1};
    while (write(fd, block, sizeof(block)) == sizeof(block))
        continue;
    off_t size = lseek(fd, 0, SEEK_END);
    cr_assert_eq(ftruncate(fd, size > leave ? size - leave : 0), 0);
    close(fd);
}

static uint64_t read_all(struct plog *log)
{
    int64_t first, next;
    uint64_t n = 0;
    cr_assert(plog_offsets(log, 0, &first, &next, NULL));
    for (int64_t o = first; o < next;) {
        struct plog_batch b;
        struct err err = ERR_NONE;
        cr_assert(plog_fetch(log, 0, o, 500000, 0, &b, &err), "%s", err.text);
        cr_assert_gt(b.n, 0);
        for (size_t i = 0; i < b.n; i++) {
            cr_assert_eq(b.records[i].offset, o + (int64_t)i);
            cr_assert(value_is(b.records[i].value, 0, (uint64_t)b.records[i].offset));
        }
        n += b.n;
        o = b.next_offset;
        plog_batch_release(&b);
    }
    return n;
}

static struct plog *open_log(const char *path)
{
    struct err err = ERR_NONE;
    struct plog *log = plog_open_embedded(&cfg, path, &err);
    cr_assert(log, "%s", err.text);
    return log;
}

TestSuite(plog_space, .fini = unmount_small, .timeout = 120);

/*
 * At every size of a last record and with every bit of space left: produce fails with the right words, reads go on, it
 * heals.
 */
Test(plog_space, a_full_disk_refuses_and_heals_when_space_returns)
{
    if (!mount_small())
        return;
    log_min_level = LOG_LEVEL_ERROR + 1;
    cfg = small_config();
    cfg.embedded_segment_bytes = 2 * MIB;
    char path[300], ballast[300];
    snprintf(path, sizeof(path), "%s/log", dir);
    snprintf(ballast, sizeof(ballast), "%s/ballast", dir);
    struct plog *log = open_log(path);
    struct err err = ERR_NONE;
    uint64_t seq = 0;
    for (int round = 0; round < 25; round++) {
        eat_space(ballast, round * 8192);
        uint64_t before = seq;
        while (produce_filled(log, 0, seq, 30000, NULL, &err))
            cr_assert_lt(++seq, before + 100);
        cr_expect_eq(err.code, ERR_NO_SPACE, "%s", err.text);
        cr_expect(strstr(err.text, "No space left on device"), "%s", err.text);
        cr_expect(err_retriable(err.code));
        cr_expect_eq(read_all(log), seq);
        cr_expect_not(plog_commit(log, SL("g"), 0, 1, &err) && round == 0);
        if (round % 8 == 7) { /* a start with a full disk can read */
            plog_close(log);
            log = open_log(path);
            cr_expect_eq(read_all(log), seq);
            cr_expect_not(produce_filled(log, 0, seq, 30000, NULL, &err));
        }
        unlink(ballast);
        for (int i = 0; i < 3; i++, seq++)
            cr_assert(produce_filled(log, 0, seq, 30000, NULL, &err), "%s", err.text);
        cr_assert(plog_commit(log, SL("g"), 0, round, &err), "%s", err.text);
    }
    plog_close(log);
    log = open_log(path);
    cr_expect_eq(read_all(log), seq);
    plog_close(log);
}

Test(plog_space, a_full_disk_takes_what_nobody_needs)
{
    if (!mount_small())
        return;
    log_min_level = LOG_LEVEL_ERROR + 1;
    cfg = small_config();
    char path[300];
    snprintf(path, sizeof(path), "%s/log", dir);
    struct plog *log = open_log(path);
    struct err err = ERR_NONE;
    for (uint64_t seq = 0; seq < 1000; seq++) { /* 30 MB through 8 MB of disk, retention switched off */
        cr_assert(produce_filled(log, 0, seq, 30000, NULL, &err), "%lu: %s", (unsigned long)seq, err.text);
        plog_set_needed_from(log, 0, (int64_t)seq);
    }
    cr_expect_gt(read_all(log), 50);
    plog_close(log);
}
