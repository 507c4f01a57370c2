/* A folder of a test's own, blocks in it, and what the tests look at in them. */
#pragma once

#include <criterion/criterion.h>
#include <dirent.h>
#include <ftw.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/assert.h"
#include "base/ctx.h"
#include "storage/block/block.h"
#include "tests/storage/chunk/compare.h"
#include "tests/storage/chunk/random.h"

static struct arena arena;
static char folder[64];

static inline int util_remove(const char *path, const struct stat *st, int type, struct FTW *ftw)
{
    (void)st, (void)type, (void)ftw;
    return remove(path);
}

static inline void setup(void)
{
    arena_init(&arena, 0);
    /* In memory where there is such a folder: what is written here is small, and a bucket waits for the disk with each object. */
    strcpy(folder, "/dev/shm/brunn-block-XXXXXX");
    if (!mkdtemp(folder))
        cr_assert(mkdtemp(strcpy(folder, "/tmp/brunn-block-XXXXXX")));
}

static inline void teardown(void)
{
    nftw(folder, util_remove, 8, FTW_DEPTH | FTW_PHYS);
    arena_release(&arena);
}

static inline struct slice read_file(const char *path)
{
    struct buf b = {0};
    char part[65536];
    size_t n;
    FILE *f = fopen(path, "rb");
    cr_assert(f, "%s", path);
    while ((n = fread(part, 1, sizeof(part), f)) > 0)
        buf_put(&b, part, n);
    fclose(f);
    struct slice s = arena_dup(&arena, buf_slice(&b));
    buf_release(&b);
    return s;
}

static inline void write_file(const char *path, struct slice bytes)
{
    FILE *f = fopen(path, "wb");
    cr_assert(f && fwrite(bytes.p, 1, bytes.n, f) == bytes.n && fclose(f) == 0, "%s", path);
}

static inline const char *path_of(const char *dir, const char *name)
{
    return arena_printf(&arena, "%s/%s", dir, name);
}

/* Calls fn for each folder below path that has an index; their number. */
static inline size_t each_block(const char *path, void (*fn)(const char *dir))
{
    size_t n = 0;
    DIR *d = opendir(path);
    struct dirent *e;
    while (d && (e = readdir(d))) {
        char *sub;
        if (e->d_name[0] == '.' || e->d_type != DT_DIR)
            continue;
        cr_assert(asprintf(&sub, "%s/%s", path, e->d_name) > 0);
        if (access(path_of(sub, "index"), R_OK) == 0) {
            fn(sub);
            n++;
        } else {
            n += each_block(sub, fn);
        }
        free(sub);
    }
    if (d)
        closedir(d);
    return n;
}

#define REAL_BLOCKS TEST_SHARED_DIR "/mimir/blocks"

/* --- writing --- */

static inline int util_cmp_slices(const void *a, const void *b)
{
    return slice_cmp(*(const struct slice *)a, *(const struct slice *)b);
}

static inline size_t sort_unique(struct slice *s, size_t n)
{
    size_t k = 0;
    qsort(s, n, sizeof(*s), util_cmp_slices);
    for (size_t i = 0; i < n; i++)
        if (i == 0 || !slice_eq(s[i], s[k - 1]))
            s[k++] = s[i];
    return k;
}

static inline struct block_meta meta_of_times(int64_t min_t, int64_t max_t)
{
    struct ulid *self = ARENA_NEW(&arena, struct ulid);
    *self = ulid_new(max_t);
    return (struct block_meta){.ulid = *self, .min_t = min_t, .max_t = max_t, .level = 1, .sources = self, .n_sources = 1, .has_thanos = true,
                               .source = SL("receive")};
}

static inline struct labels labels_of(const char *text)
{
    struct label *items = ARENA_ARRAY(&arena, struct label, 32);
    size_t n = 0;
    char *copy = arena_printf(&arena, "%s", text), *save = NULL;
    for (char *part = strtok_r(copy, ",", &save); part; part = strtok_r(NULL, ",", &save)) {
        char *eq = strchr(part, '=');
        items[n++] = (struct label){slice_make(part, (size_t)(eq - part)), slice_of(eq + 1)};
    }
    return (struct labels){items, n};
}

static inline struct series_chunk float_chunk(int64_t t, int64_t step, size_t n, double v)
{
    struct xor_appender a;
    uint8_t *bytes = arena_zalloc(&arena, n * XOR_SAMPLE_MAX_BYTES + 64);
    xor_appender_init(&a);
    for (size_t i = 0; i < n; i++)
        xor_append(&a, bytes, t + (int64_t)i * step, v + (double)i);
    return (struct series_chunk){t, t + (int64_t)(n - 1) * step, CHUNK_XOR, slice_make(bytes, xor_size(&a))};
}

static inline size_t symbols_of(const struct series *series, size_t n, struct slice **ret)
{
    size_t total = 0, k = 0;
    for (size_t i = 0; i < n; i++)
        total += 2 * series[i].labels.n;
    *ret = ARENA_ARRAY(&arena, struct slice, total + 1);
    for (size_t i = 0; i < n; i++)
        for (size_t j = 0; j < series[i].labels.n; j++) {
            (*ret)[k++] = series[i].labels.items[j].name;
            (*ret)[k++] = series[i].labels.items[j].value;
        }
    return sort_unique(*ret, k);
}

static inline struct block_writer *writer_for(const struct series *series, size_t n, const struct block_meta *meta)
{
    struct err err = ERR_NONE;
    struct slice *symbols;
    size_t n_symbols = symbols_of(series, n, &symbols);
    struct block_writer *w = block_writer_new(folder, meta, symbols, n_symbols, &err);
    cr_assert(w, "%s", err.text);
    return w;
}

/* The path of the block. */
static inline const char *write_block(const struct series *series, size_t n, struct block_meta meta)
{
    struct err err = ERR_NONE;
    struct block_writer *w = writer_for(series, n, &meta);
    for (size_t i = 0; i < n; i++)
        cr_assert(block_writer_add(w, &series[i].labels, series[i].chunks, series[i].n_chunks, &err), "%s", err.text);
    cr_assert(block_writer_finish(w, &arena, NULL, &err), "%s", err.text);
    block_writer_free(w);
    return path_of(folder, meta.ulid.text);
}

/* --- reading --- */

static inline struct block *open_block(const char *dir)
{
    struct err err = ERR_NONE;
    struct block *b = block_open(dir, &err);
    cr_assert(b, "%s: %s", dir, err.text);
    return b;
}

static inline struct ctx test_ctx(void)
{
    return (struct ctx){.arena = &arena};
}

/* All that a block gives, as text that two blocks can be compared by: a line a series, with the bytes of its chunks. */
static inline bool select_text(struct block *b, const struct select_params *p, struct buf *out, struct err *err)
{
    struct ctx ctx = test_ctx();
    struct series batch[7];
    size_t n;
    struct series_set *set = block_select(b, &ctx, p, err);
    if (!set)
        return false;
    bool good;
    while ((good = series_set_next(set, &ctx, batch, ARRAY_LEN(batch), &n, err)) && n) {
        for (size_t i = 0; i < n; i++) {
            labels_print_set(batch[i].labels, out);
            for (size_t j = 0; j < batch[i].n_chunks; j++) {
                const struct series_chunk *c = &batch[i].chunks[j];
                buf_printf(out, " %lld-%lld:%d:", (long long)c->min_t, (long long)c->max_t, (int)c->encoding);
                for (size_t k = 0; k < c->data.n; k++)
                    buf_printf(out, "%02x", (uint8_t)c->data.p[k]);
            }
            buf_putc(out, '\n');
        }
    }
    series_set_release(set);
    return good;
}

#define EVERYTHING ((struct select_params){.min_t = INT64_MIN, .max_t = INT64_MAX})
