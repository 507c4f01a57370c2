/*
 * brunn tool block cat-index: the index of a block as it stands, entry by entry:
 *
 *     index 01.../index: version 2, 2588 bytes, 61 symbols, 6 label names, 26 series
 *     label job: 2 values
 *     series 16 {__name__="up", job="a"}
 *       chunk 000001:8 1763596800000 1763600400000
 *
 * The number of a series is its reference, a chunk's is the segment and the offset in it.
 */
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "app/tools/tools_int.h"
#include "base/assert.h"
#include "storage/block/index.h"

static void print_head(const struct index *ix, size_t n_series)
{
    printf("index %s: version %u, %zu bytes, %" PRIu32 " symbols, %zu label names, %zu series\n", ix->path, ix->version, ix->n, ix->n_symbols, ix->n_names,
           n_series);
    for (size_t i = 0; i < ix->n_names; i++)
        printf("label %.*s: %" PRIu32 " values\n", SL_FMT(ix->names[i].name), ix->names[i].n);
}

static void print_series(uint32_t ref, const struct index_series *s)
{
    struct buf text;
    buf_init(&text, 0);
    labels_print_set((struct labels){s->labels, s->n_labels}, &text);
    printf("series %" PRIu32 " %s\n", ref, buf_cstr(&text));
    for (size_t i = 0; i < s->n_chunks; i++)
        printf("  chunk %06" PRIu64 ":%" PRIu32 " %" PRId64 " %" PRId64 "\n", (s->chunks[i].ref >> 32) + 1, (uint32_t)s->chunks[i].ref, s->chunks[i].min_t,
               s->chunks[i].max_t);
    buf_release(&text);
}

static bool print_index(const struct index *ix, struct err *err)
{
    struct arena arena;
    struct postings all;
    struct index_series s = {0};
    arena_init(&arena, 0);
    bool good = index_postings_read(ix, ix->all_postings, &arena, &all, err);
    if (good)
        print_head(ix, all.n);
    for (size_t i = 0; good && i < all.n; i++) {
        good = index_series_read(ix, all.refs[i], &s, err);
        if (good)
            print_series(all.refs[i], &s);
    }
    index_series_release(&s);
    arena_release(&arena);
    return good;
}

static bool cat_one(const char *dir, void *arg, struct err *err)
{
    (void)arg;
    char path[4096];
    struct stat st;
    snprintf(path, sizeof(path), "%s/index", dir);
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0 || fstat(fd, &st) != 0) {
        err_errno(err, ERR_IO, errno, "%s", path);
        if (fd >= 0)
            close(fd);
        return false;
    }
    size_t n = (size_t)st.st_size;
    void *p = n ? mmap(NULL, n, PROT_READ, MAP_SHARED, fd, 0) : MAP_FAILED;
    close(fd);
    if (p == MAP_FAILED)
        return err_set(err, ERR_IO, "%s: cannot be mapped", path);
    struct index ix = {0};
    bool good = index_open(&ix, path, p, n, false, err);
    if (good)
        good = print_index(&ix, err);
    index_release(&ix);
    munmap(p, n);
    return good;
}

int block_cat_index(int argc, char **argv)
{
    static const char usage[] = "block cat-index DIR...";
    struct tool_args args;
    struct err err = ERR_NONE;
    int status = TOOL_USAGE;
    tool_args_init(&args);
    if (tool_args_parse(&args, argc, argv, usage) && args.n_words > 0)
        status = each_block_folder(args.words, args.n_words, cat_one, NULL, &err) ? TOOL_OK : tool_fail(&err);
    else if (args.n_words == 0)
        fprintf(stderr, "usage: brunn tool %s\n", usage);
    tool_args_release(&args);
    return status;
}
