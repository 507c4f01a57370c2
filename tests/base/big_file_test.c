#include "base/big_file.h"

#include <criterion/criterion.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

#define MIB ((off_t)1 << 20)

static int make(char *path, off_t size)
{
    strcpy(path, "/tmp/big-file-XXXXXX");
    int fd = mkstemp(path);
    cr_assert(fd >= 0 && ftruncate(fd, size) == 0 && pwrite(fd, "end", 3, size - 3) == 3);
    return fd;
}

Test(big_file, goes_behind_in_whole_steps)
{
    char path[32];
    static const struct {
        uint64_t behind, written, want;
    } cases[] = {{0, 0, 0}, {0, 262143, 0}, {0, 262144, 262144}, {262144, 262144, 262144}, {262144, 3 << 20, 3 << 20}, {262144, 1000000, 786432}};
    int fd = make(path, 4 * MIB);
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        uint64_t behind = cases[i].behind;
        big_file_write_behind(fd, cases[i].written, &behind);
        cr_expect_eq(behind, cases[i].want, "case %zu: %llu", i, (unsigned long long)behind);
    }
    close(fd);
    unlink(path);
}

Test(big_file, that_is_blank_has_its_length_and_nothing_in_it)
{
    char path[32], end[3] = "any";
    struct stat st;
    int fd = make(path, 4 * MIB);
    cr_expect_eq(big_file_blank(fd), 4 * MIB);
    cr_expect(fstat(fd, &st) == 0 && st.st_size == 4 * MIB);
    cr_expect(pread(fd, end, 3, 4 * MIB - 3) == 3 && memcmp(end, "\0\0\0", 3) == 0);
    cr_expect(ftruncate(fd, 0) == 0 && big_file_blank(fd) == 0);
    close(fd);
    unlink(path);
}

Test(big_file, with_a_name_it_is_only_closed)
{
    char path[32];
    struct stat st;
    int fd = make(path, 4 * MIB);
    big_file_free(fd);
    cr_expect(fcntl(fd, F_GETFD) < 0);
    cr_expect(stat(path, &st) == 0 && st.st_size == 4 * MIB);
    unlink(path);
}

Test(big_file, with_another_name_it_is_only_closed)
{
    char path[32], other[40];
    struct stat st;
    int fd = make(path, 4 * MIB);
    snprintf(other, sizeof(other), "%s-other", path);
    cr_assert(link(path, other) == 0 && unlink(path) == 0);
    big_file_free(fd);
    cr_expect(stat(other, &st) == 0 && st.st_size == 4 * MIB);
    unlink(other);
}

/* *ret_same: another descriptor of it. */
static int make_without_name(off_t size, int *ret_same)
{
    char path[32];
    int fd = make(path, size);
    *ret_same = dup(fd);
    cr_assert(unlink(path) == 0);
    return fd;
}

Test(big_file, without_a_name_its_blocks_are_freed_before_it_is_closed)
{
    struct stat st;
    int same, fd = make_without_name(4 * MIB, &same);
    big_file_free(fd);
    cr_expect(fstat(same, &st) == 0 && st.st_size == MIB, "%lld", (long long)st.st_size);
    close(same);
}

Test(big_file, is_freed_aside_while_its_owner_goes_on)
{
    struct stat st;
    int same, fd = make_without_name(4 * MIB, &same);
    big_file_free_aside(fd);
    for (int i = 0; i < 1000 && fstat(same, &st) == 0 && st.st_size > MIB; i++)
        usleep(10000);
    cr_expect_eq(st.st_size, MIB);
    close(same);
}
