/*
 * Opening a block: its files are mapped, and checked as far as can be without reading all of it.
 *
 * Truncated files. A file that becomes shorter while it is mapped would end the process with SIGBUS at the next touch. The folder of a block is written by this
 * process alone, under a temporary name, and never changed after the rename that makes it visible (removing files does not hurt a mapping), so that what
 * remains is a file that was cut before it was opened: sizes are compared with meta.json at open, and every offset with the size that was mapped.
 */
#include "storage/block/block_int.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/assert.h"
#include "storage/block/bytes.h"
#include "storage/block/crc32c.h"

#define SEGMENTS_MAX 131072 /* 64 TiB of chunks */

/* --- mapped files --- */

static bool map_fd(struct mapping *m, int fd, struct err *err)
{
    struct stat st;
    if (fstat(fd, &st) != 0)
        return err_errno(err, ERR_IO, errno, "%s", m->path);
    if (!S_ISREG(st.st_mode))
        return err_set(err, ERR_IO, "%s: no regular file", m->path);
    m->n = (size_t)st.st_size;
    if (m->n == 0)
        return true;
    void *p = mmap(NULL, m->n, PROT_READ, MAP_SHARED, fd, 0);
    if (p == MAP_FAILED)
        return err_errno(err, ERR_IO, errno, "mapping %s", m->path);
    m->p = p;
    m->resident = resident_map_new(p, m->n, MAPPING_RESIDENT);
    return true;
}

static void mapping_release(struct mapping *m)
{
    if (m->p)
        munmap((void *)(uintptr_t)m->p, m->n);
    resident_map_free(m->resident);
    free(m->path);
    *m = (struct mapping){0};
}

/* ERR_NOT_FOUND when there is none. */
static bool map_file(const char *dir, const char *name, struct mapping *ret, struct err *err)
{
    *ret = (struct mapping){0};
    if (asprintf(&ret->path, "%s/%s", dir, name) < 0) {
        ret->path = NULL;
        return err_set(err, ERR_NO_MEMORY, "no memory for a path");
    }
    int fd = open(ret->path, O_RDONLY | O_CLOEXEC);
    bool good = fd >= 0 ? map_fd(ret, fd, err) : err_errno(err, errno == ENOENT ? ERR_NOT_FOUND : ERR_IO, errno, "%s", ret->path);
    if (fd >= 0)
        close(fd);
    if (!good)
        mapping_release(ret);
    return good;
}

/* --- the files of a block --- */

static bool open_meta(struct block *b, struct err *err)
{
    struct mapping m;
    if (!map_file(b->dir, "meta.json", &m, err))
        return false;
    bool good = block_meta_decode(slice_make(m.p, m.n), &b->arena, &b->meta, err);
    if (!good)
        err_prefix(err, "%s: ", b->dir);
    mapping_release(&m);
    return good;
}

/* What meta.json says of a file's size, where it says anything. */
static bool check_size(const struct block *b, const struct mapping *m, struct err *err)
{
    struct slice name = slice_of(m->path + strlen(b->dir) + 1);
    for (size_t i = 0; i < b->meta.n_files; i++) {
        const struct block_file *f = &b->meta.files[i];
        if (slice_eq(f->path, name) && f->size && f->size != m->n)
            return err_set(err, ERR_CORRUPT, "%s: %zu bytes, and meta.json says %llu", m->path, m->n, (unsigned long long)f->size);
    }
    return true;
}

static bool open_index(struct block *b, struct err *err)
{
    return map_file(b->dir, "index", &b->index_file, err) && check_size(b, &b->index_file, err) &&
           index_open(&b->index, b->index_file.path, b->index_file.p, b->index_file.n, false, err);
}

static bool add_segment(struct block *b, struct mapping *m, struct err *err)
{
    struct mapping *files = realloc(b->segment_files, (b->n_segments + 1) * sizeof(*files));
    if (files)
        b->segment_files = files;
    struct segment *segments = realloc(b->segments, (b->n_segments + 1) * sizeof(*segments));
    if (segments)
        b->segments = segments;
    if (!files || !segments) {
        mapping_release(m);
        return err_set(err, ERR_NO_MEMORY, "no memory for the segments of a block");
    }
    files[b->n_segments] = *m;
    b->n_segments++;
    return check_size(b, m, err) && segment_open(&segments[b->n_segments - 1], m->path, m->p, m->n, false, err);
}

/* No segment that meta.json lists may be missing. */
static bool check_segments(const struct block *b, struct err *err)
{
    size_t listed = 0;
    for (size_t i = 0; i < b->meta.n_files; i++)
        listed += slice_has_prefix(b->meta.files[i].path, SL("chunks/"));
    return listed <= b->n_segments || err_set(err, ERR_CORRUPT, "%s: %zu segments of chunks, and meta.json lists %zu", b->dir, b->n_segments, listed);
}

/* Numbered from 1 without a gap; the first that is missing ends them. */
static bool open_segments(struct block *b, struct err *err)
{
    while (b->n_segments < SEGMENTS_MAX) {
        struct mapping m;
        struct err missing = ERR_NONE;
        char name[32];
        snprintf(name, sizeof(name), "chunks/%06zu", b->n_segments + 1);
        if (!map_file(b->dir, name, &m, &missing))
            return missing.code == ERR_NOT_FOUND ? check_segments(b, err) : err_set(err, missing.code, "%s", missing.text);
        if (!add_segment(b, &m, err))
            return false;
    }
    return err_set(err, ERR_CORRUPT, "%s: more segments of chunks than a block can have", b->dir);
}

/*
 * Nobody deletes samples from Brunn's or Mimir's blocks; Prometheus can, and remembers it in tombstones until its next compaction. A block with such marks is
 * refused: without them what was deleted would come back.
 */
static bool check_tombstones(const struct mapping *m, struct err *err)
{
    const uint8_t *p = m->p;
    if (m->n < TOMBSTONES_HEADER_BYTES + 4 || get_be32(p) != TOMBSTONES_MAGIC || p[4] != 1)
        return err_set(err, ERR_CORRUPT, "%s: offset 0: these are no tombstones", m->path);
    size_t n = m->n - TOMBSTONES_HEADER_BYTES - 4;
    if (crc32c(0, p + TOMBSTONES_HEADER_BYTES, n) != get_be32(p + TOMBSTONES_HEADER_BYTES + n))
        return err_set(err, ERR_CORRUPT, "%s: offset %d: the checksum does not fit", m->path, TOMBSTONES_HEADER_BYTES);
    if (n)
        return err_set(err, ERR_BAD_DATA, "%s: samples of this block were deleted, but are still in it; clean the tombstones where it was made", m->path);
    return true;
}

static bool open_tombstones(struct block *b, struct err *err)
{
    struct mapping m;
    struct err missing = ERR_NONE;
    if (!map_file(b->dir, "tombstones", &m, &missing))
        return missing.code == ERR_NOT_FOUND || err_set(err, missing.code, "%s", missing.text);
    bool good = check_tombstones(&m, err);
    mapping_release(&m);
    return good;
}

struct block *block_open(const char *dir, struct err *err)
{
    struct block *b = calloc(1, sizeof(*b));
    if (!b || !(b->dir = strdup(dir))) {
        free(b);
        err_set(err, ERR_NO_MEMORY, "no memory for a block");
        return NULL;
    }
    arena_init(&b->arena, 0);
    if (open_meta(b, err) && open_index(b, err) && open_segments(b, err) && open_tombstones(b, err))
        return b;
    block_close(b);
    return NULL;
}

void block_close(struct block *b)
{
    if (!b)
        return;
    index_release(&b->index);
    mapping_release(&b->index_file);
    for (size_t i = 0; i < b->n_segments; i++)
        mapping_release(&b->segment_files[i]);
    free(b->segment_files);
    free(b->segments);
    arena_release(&b->arena);
    free(b->dir);
    free(b);
}

/* --- what the others need --- */

const struct block_meta *block_meta_of(const struct block *b)
{
    return &b->meta;
}

size_t block_symbols(const struct block *b, const struct slice **ret, struct arena *arena)
{
    uint32_t n = b->index.n_symbols;
    struct slice *symbols = ARENA_ARRAY(arena, struct slice, (size_t)n + 1);
    *ret = symbols;
    if (!symbols)
        return 0;
    for (uint32_t i = 0; i < n; i++)
        symbols[i] = index_symbol(&b->index, i);
    return n;
}

static void forget_pages(const struct mapping *m)
{
    if (m->p)
        madvise((void *)(uintptr_t)m->p, m->n, MADV_DONTNEED);
}

void block_forget_pages(const struct block *b)
{
    forget_pages(&b->index_file);
    for (size_t i = 0; i < b->n_segments; i++)
        forget_pages(&b->segment_files[i]);
}

size_t block_n_symbols(const struct block *b)
{
    return b->index.n_symbols;
}

struct slice block_symbol(const struct block *b, size_t i)
{
    return index_symbol(&b->index, (uint32_t)i);
}

bool block_read_series(const struct block *b, uint32_t ref, struct index_series *ret, struct err *err)
{
    if (!index_series_read(&b->index, ref, ret, err))
        return false;
    resident_map_touch(b->index_file.resident, b->index.p + ret->end - 1, 1);
    return true;
}

bool block_read_chunk(const struct block *b, const struct index_chunk *c, struct series_chunk *ret, struct err *err)
{
    uint64_t segment = c->ref >> 32;
    if (segment >= b->n_segments)
        return err_set(err, ERR_CORRUPT, "%s: a chunk in segment %llu, and there are %zu", b->index.path, (unsigned long long)segment + 1, b->n_segments);
    ret->min_t = c->min_t;
    ret->max_t = c->max_t;
    if (!segment_chunk(&b->segments[segment], (uint32_t)c->ref, &ret->encoding, &ret->data, err))
        return false;
    resident_map_touch(b->segment_files[segment].resident, ret->data.p - 1, ret->data.n + 1); /* with the encoding, so that it is never empty */
    return true;
}
