/*
 * Making an index-header out of the index in the bucket, by ranges: the TOC at its end, its symbols, its postings offset table. Bytes go to the file piece by
 * piece; before it gets its name everything in it is checked, so that a file of that name is whole or damaged later.
 */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/assert.h"
#include "storage/block/bytes.h"
#include "storage/block/crc32c.h"
#include "storage/store/store_int.h"

#define PIECE_BYTES ((uint64_t)4 << 20)
#define PATH_BYTES 4096

/* --- local files --- */

static bool make_dirs(const char *dir, struct err *err)
{
    char path[PATH_BYTES];
    if (snprintf(path, sizeof(path), "%s", dir) >= (int)sizeof(path))
        return err_set(err, ERR_IO, "%s: too long for a path", dir);
    for (char *slash = path + 1;; slash++) {
        char c = *slash;
        if (c != '/' && c != 0)
            continue;
        *slash = 0;
        if (mkdir(path, 0755) != 0 && errno != EEXIST)
            return err_errno(err, ERR_IO, errno, "making %s", path);
        if (c == 0)
            return true;
        *slash = '/';
    }
}

static bool write_all(int fd, const char *path, const void *p, size_t n, struct err *err)
{
    for (const char *at = p; n;) {
        ssize_t done = write(fd, at, n);
        if (done < 0 && errno != EINTR)
            return err_errno(err, ERR_IO, errno, "writing %s", path);
        if (done > 0) {
            at += done;
            n -= (size_t)done;
        }
    }
    return true;
}

static bool sync_dir(const char *dir, struct err *err)
{
    int fd = open(dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    bool good = fd >= 0 && fsync(fd) == 0;
    if (!good)
        err_errno(err, ERR_IO, errno, "syncing %s", dir);
    if (fd >= 0)
        close(fd);
    return good;
}

/* A file that is being written under another name. */
struct draft {
    const char *dir;
    char path[PATH_BYTES], final[PATH_BYTES];
    int fd;
};

static bool draft_open(struct draft *d, const char *dir, const char *name, struct err *err)
{
    d->dir = dir;
    d->fd = -1;
    snprintf(d->path, sizeof(d->path), "%s/%s.tmp", dir, name);
    if (snprintf(d->final, sizeof(d->final), "%s/%s", dir, name) >= (int)sizeof(d->final) - 4)
        return err_set(err, ERR_IO, "%s: too long for a path", dir);
    if (!make_dirs(dir, err))
        return false;
    d->fd = open(d->path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0644);
    return d->fd >= 0 || err_errno(err, ERR_IO, errno, "making %s", d->path);
}

static bool draft_sync(struct draft *d, struct err *err)
{
    int rc = fsync(d->fd) | close(d->fd);
    d->fd = -1;
    return rc == 0 || err_errno(err, ERR_IO, errno, "syncing %s", d->path);
}

static bool draft_rename(struct draft *d, struct err *err)
{
    return (rename(d->path, d->final) == 0 || err_errno(err, ERR_IO, errno, "renaming %s", d->path)) && sync_dir(d->dir, err);
}

/* Returns good. */
static bool draft_end(struct draft *d, bool good)
{
    if (d->fd >= 0)
        close(d->fd);
    if (!good)
        unlink(d->path);
    return good;
}

bool header_write_file(const char *dir, const char *name, struct slice bytes, struct err *err)
{
    struct draft d;
    bool good = draft_open(&d, dir, name, err) && write_all(d.fd, d.path, bytes.p, bytes.n, err) && draft_sync(&d, err) && draft_rename(&d, err);
    return draft_end(&d, good);
}

/* --- the index-header --- */

struct build {
    struct store *store;
    const struct ctx *ctx;
    struct slice name; /* of the index */
    struct index index;
    struct index_toc toc;
    uint64_t index_bytes;
    struct buf piece;
    struct draft *draft;
};

static bool get(struct build *b, uint64_t from, uint64_t to, struct err *err)
{
    buf_clear(&b->piece);
    if (objstore_get(b->store->bucket, b->ctx, b->name, from, to - from, &b->piece, err))
        return true;
    return err->code == ERR_OUT_OF_RANGE ? index_corrupt(&b->index, from, "the index became shorter", err) : false;
}

static bool read_toc(struct build *b, struct err *err)
{
    struct objstore_attributes attributes;
    if (!objstore_attributes(b->store->bucket, b->ctx, b->name, &attributes, err))
        return false;
    b->index_bytes = attributes.size;
    if (attributes.size < INDEX_HEADER_BYTES + INDEX_TOC_BYTES || attributes.size > INT64_MAX)
        return index_corrupt(&b->index, 0, "too short for an index", err);
    return get(b, attributes.size - INDEX_TOC_BYTES, attributes.size, err) &&
           index_decode_toc(&b->index, (const uint8_t *)b->piece.p, attributes.size, &b->toc, err);
}

static bool put(struct build *b, const void *p, size_t n, struct err *err)
{
    return write_all(b->draft->fd, b->draft->path, p, n, err);
}

static bool put_begin(struct build *b, struct err *err)
{
    uint8_t fixed[HEADER_FIXED_BYTES];
    put_be32(fixed, HEADER_MAGIC);
    fixed[4] = 1;
    fixed[5] = (uint8_t)b->piece.p[4];
    put_be32(fixed + 6, (uint32_t)(b->toc.label_indices_table >> 32));
    put_be32(fixed + 10, (uint32_t)b->toc.label_indices_table);
    if (get_be32((const uint8_t *)b->piece.p) != INDEX_MAGIC)
        return index_corrupt(&b->index, 0, "this is no index", err);
    if (fixed[5] != 2 && fixed[5] != 3)
        return index_corrupt(&b->index, 4, "a version of the index that is not known", err);
    return put(b, fixed, sizeof(fixed), err);
}

/* The beginning of the file is read along with the symbols, which it stands before. */
static bool put_symbols(struct build *b, struct err *err)
{
    for (uint64_t from = 0, to; from < b->toc.series; from = to) {
        to = MIN(b->toc.series, from + PIECE_BYTES);
        uint64_t skip = b->toc.symbols > from ? MIN(b->toc.symbols, to) - from : 0;
        if (!get(b, from, to, err) || (from == 0 && !put_begin(b, err)) || !put(b, b->piece.p + skip, to - from - skip, err))
            return false;
    }
    return true;
}

static bool put_table(struct build *b, struct err *err)
{
    for (uint64_t from = b->toc.postings_table, to; from < b->index_bytes; from = to) {
        to = MIN(b->index_bytes, from + PIECE_BYTES);
        if (!get(b, from, to, err) || !put(b, b->piece.p, to - from, err))
            return false;
    }
    return true;
}

static bool put_end(struct build *b, struct err *err)
{
    uint8_t toc[HEADER_TOC_BYTES] = {0};
    uint64_t table_at = HEADER_FIXED_BYTES + (b->toc.series - b->toc.symbols);
    put_be32(toc + 4, HEADER_FIXED_BYTES);
    put_be32(toc + 8, (uint32_t)(table_at >> 32));
    put_be32(toc + 12, (uint32_t)table_at);
    put_be32(toc + 16, crc32c(0, toc, 16));
    return put(b, toc, sizeof(toc), err);
}

/* What is damaged in the file now was damaged in the bucket. */
static bool check(struct build *b, struct err *err)
{
    struct header h;
    struct err why = ERR_NONE;
    if (header_open(&h, b->draft->path, b->index.path, &why)) {
        header_release(&h);
        return true;
    }
    return err_set(err, why.code, "%s: its index-header: %s", b->index.path, why.text);
}

bool header_build(struct store *s, const struct ctx *ctx, struct slice index_name, const char *dir, struct err *err)
{
    struct draft draft = {.fd = -1};
    char path[OBJECT_NAME_MAX];
    snprintf(path, sizeof(path), "%.*s", SL_FMT(index_name));
    struct build b = {.store = s, .ctx = ctx, .name = index_name, .draft = &draft};
    b.index.path = path;
    buf_init(&b.piece, PIECE_BYTES);
    bool good = read_toc(&b, err) && draft_open(&draft, dir, HEADER_FILE, err);
    if (good) {
        good = put_symbols(&b, err) && put_table(&b, err) && put_end(&b, err) && draft_sync(&draft, err) && check(&b, err) && draft_rename(&draft, err);
        draft_end(&draft, good);
    }
    buf_release(&b.piece);
    if (good)
        metric_inc(s->built);
    return good;
}
