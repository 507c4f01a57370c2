/* What of mapped files stays in the page tables: at most the bound, and nothing that is read changes. */
#include <criterion/criterion.h>
#include <errno.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "base/resident.h"

#define WINDOW ((size_t)1 << RESIDENT_WINDOW_SHIFT)
#define WINDOWS 64
#define BYTES (WINDOWS * WINDOW)
#define BOUND (4 * WINDOW)

/* A file whose window i has i + 1 in all bytes, mapped. */
static const char *map_numbered_file(void)
{
    char path[] = "/tmp/resident-test-XXXXXX";
    int fd = mkstemp(path);
    cr_assert_geq(fd, 0);
    unlink(path);
    char *window = malloc(WINDOW);
    cr_assert_not_null(window);
    for (int i = 0; i < WINDOWS; i++) {
        memset(window, i + 1, WINDOW);
        cr_assert_eq(write(fd, window, WINDOW), (ssize_t)WINDOW);
    }
    free(window);
    const char *p = mmap(NULL, BYTES, PROT_READ, MAP_SHARED, fd, 0);
    cr_assert(p != MAP_FAILED);
    close(fd);
    return p;
}

/* Of the mapping that begins at p, as the kernel counts it. */
static size_t resident_bytes(const void *p)
{
    char line[512], begin[32];
    size_t kib = 0;
    bool found = false;
    snprintf(begin, sizeof(begin), "%lx-", (unsigned long)(uintptr_t)p);
    FILE *f = fopen("/proc/self/smaps", "r");
    cr_assert_not_null(f);
    while (fgets(line, sizeof(line), f)) {
        if (strchr(line, '-') && strncmp(line, begin, strlen(begin)) == 0)
            found = true;
        else if (found && sscanf(line, "Rss: %zu kB", &kib) == 1)
            break;
    }
    fclose(f);
    cr_assert(found);
    return kib << 10;
}

static void read_windows(struct resident_map *m, const char *p, int n)
{
    for (int i = 0; i < n; i++) {
        const char *at = p + (size_t)i * WINDOW + 100;
        cr_assert_eq(*(const volatile char *)at, i + 1);
        resident_map_touch(m, at, 1);
    }
}

Test(resident, a_sweep_leaves_no_more_than_the_bound)
{
    const char *p = map_numbered_file();
    struct resident_map *m = resident_map_new(p, BYTES, BOUND);
    m->pause_ns = 0;
    for (int i = 0; i < WINDOWS; i++) {
        const char *at = p + (size_t)i * WINDOW + 100;
        resident_map_touch(m, at, 1);
        cr_assert_eq(*(const volatile char *)at, i + 1);
        /* Where the mapping is not aligned to windows a fault maps parts of two of them. */
        cr_assert_leq(resident_bytes(p), BOUND + WINDOW, "after window %d", i);
    }
    read_windows(m, p, WINDOWS); /* from the beginning, and the same bytes */
    resident_map_free(m);
}

Test(resident, what_is_read_again_and_again_stays)
{
    const char *p = map_numbered_file();
    struct resident_map *m = resident_map_new(p, BYTES, 8 * WINDOW);
    read_windows(m, p, 4);
    size_t before = resident_bytes(p);
    cr_assert_gt(before, 0);
    for (int round = 0; round < 100; round++)
        read_windows(m, p, 4);
    cr_assert_eq(resident_bytes(p), before);
    resident_map_free(m);
}

Test(resident, a_sweep_right_after_another_is_not_held_up)
{
    const char *p = map_numbered_file();
    struct resident_map *m = resident_map_new(p, BYTES, BOUND);
    m->pause_ns = INT64_C(60000000000);
    read_windows(m, p, WINDOWS);
    size_t after = resident_bytes(p);
    cr_assert_geq(after, BYTES / 2); /* forgotten once, after the first few */
    read_windows(m, p, WINDOWS);
    cr_assert_geq(resident_bytes(p), after);
    resident_map_free(m);
}

Test(resident, a_read_over_several_windows_notes_all_of_them)
{
    const char *p = map_numbered_file();
    struct resident_map *m = resident_map_new(p, BYTES, BOUND);
    read_windows(m, p, 1);
    resident_map_touch(m, p, BYTES); /* more than the bound: nothing of before stays */
    cr_assert_eq(resident_bytes(p), 0);
    resident_map_free(m);
}

static int answer = 41;
static int *const relocated = &answer;

Test(resident, code_and_relocated_data_are_there_when_they_are_needed)
{
    resident_forget_code();
    cr_assert_eq(++*relocated, 42);
    cr_assert_str_eq(strerror(ENOENT), "No such file or directory");
}
