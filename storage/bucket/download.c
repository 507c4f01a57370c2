/*
 * A block from the bucket into <dir>/<ulid>, by way of <dir>/<ulid>.tmp-for-creation: each file in steps, synced, then the folders, then the rename. What a
 * killed process leaves has the temporary name, which block_remove_unfinished clears away. Only files that belong to a block are taken, whatever
 * meta.json lists: its names come from elsewhere, and go into paths.
 */
#include <errno.h>
#include <fcntl.h>
#include <ftw.h>
#include <inttypes.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/assert.h"
#include "storage/bucket/bucket_int.h"

#define STEP_BYTES ((uint64_t)8 << 20)

struct download {
    struct objstore *s;
    const struct ctx *ctx;
    struct slice tenant;
    const struct ulid *block;
    const char *final, *temporary; /* in the arena */
    struct arena arena;
    struct buf step; /* bytes of a file on their way */
};

/* --- local files ------------------------------------------------------------------------------------------------------------- */

static int remove_one(const char *path, const struct stat *st, int type, struct FTW *ftw)
{
    (void)st, (void)type, (void)ftw;
    return remove(path) == 0 || errno == ENOENT ? 0 : -1;
}

static bool remove_tree(const char *dir, struct err *err)
{
    if (nftw(dir, remove_one, 8, FTW_DEPTH | FTW_PHYS) == 0 || errno == ENOENT)
        return true;
    return err_errno(err, ERR_IO, errno, "removing %s", dir);
}

static bool sync_folder(const char *dir, struct err *err)
{
    int fd = open(dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    bool good = (fd >= 0 && fsync(fd) == 0) || err_errno(err, ERR_IO, errno, "syncing %s", dir);
    if (fd >= 0)
        close(fd);
    return good;
}

static bool write_all(int fd, struct slice bytes, const char *path, struct err *err)
{
    while (bytes.n) {
        ssize_t n = write(fd, bytes.p, bytes.n);
        if (n < 0 && errno != EINTR)
            return err_errno(err, ERR_IO, errno, "writing %s", path);
        if (n > 0) {
            bytes.p += n;
            bytes.n -= (size_t)n;
        }
    }
    return true;
}

/* fill writes it. */
static bool make_file(struct download *d, struct slice name, bool (*fill)(struct download *, int fd, const char *path, void *arg, struct err *),
                      void *arg, struct err *err)
{
    char *path = arena_printf(&d->arena, "%s/%.*s", d->temporary, SL_FMT(name));
    if (!path)
        return bucket_no_memory(err);
    int fd = open(path, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0644);
    if (fd < 0)
        return err_errno(err, ERR_IO, errno, "making %s", path);
    bool good = fill(d, fd, path, arg, err) && (fsync(fd) == 0 || err_errno(err, ERR_IO, errno, "syncing %s", path));
    if (close(fd) != 0 && good)
        good = err_errno(err, ERR_IO, errno, "closing %s", path);
    return good;
}

/* --- objects ----------------------------------------------------------------------------------------------------------------- */

struct object {
    struct bucket_name name;
    uint64_t size;
};

static bool fill_from_object(struct download *d, int fd, const char *path, void *arg, struct err *err)
{
    const struct object *o = arg;
    for (uint64_t at = 0; at < o->size; at += STEP_BYTES) {
        buf_clear(&d->step);
        if (!objstore_get(d->s, d->ctx, bucket_name_slice(&o->name), at, MIN(STEP_BYTES, o->size - at), &d->step, err) ||
            !write_all(fd, buf_slice(&d->step), path, err))
            return false;
    }
    return true;
}

static bool fill_from_bytes(struct download *d, int fd, const char *path, void *arg, struct err *err)
{
    (void)d;
    return write_all(fd, *(const struct slice *)arg, path, err);
}

/* said: what meta.json says of its size; 0: nothing. */
static bool fetch(struct download *d, struct slice file, uint64_t said, struct err *err)
{
    struct object o = {.name = bucket_block_file(d->tenant, d->block, file.p)}; /* NUL-terminated by the arena */
    struct objstore_attributes there;
    struct err why = ERR_NONE;
    if (!objstore_attributes(d->s, d->ctx, bucket_name_slice(&o.name), &there, &why))
        return err_set(err, why.code == ERR_NOT_FOUND ? ERR_CORRUPT : why.code, "%s", why.text);
    if (said && there.size != said)
        return err_set(err, ERR_CORRUPT, "%s: %" PRIu64 " bytes, and meta.json says %" PRIu64, o.name.text, there.size, said);
    o.size = there.size;
    return make_file(d, file, fill_from_object, &o, err);
}

/* Of a block, and of it alone. The sparse index-header, the marks, and what others put there are not. */
static bool is_of_block(struct slice path)
{
    struct slice folder = SL("chunks/");
    if (slice_eq(path, SL("index")))
        return true;
    if (!slice_has_prefix(path, folder) || path.n < folder.n + 6)
        return false;
    for (size_t i = folder.n; i < path.n; i++)
        if (path.p[i] < '0' || path.p[i] > '9')
            return false;
    return true;
}

/* Blocks of old have no list in their meta.json: what the bucket lists is it then. */
static bool list_files(struct download *d, struct block_meta *m, struct err *err)
{
    const struct bucket_object *objects;
    size_t n;
    if (m->n_files)
        return true;
    if (!bucket_block_files(d->s, d->ctx, d->tenant, d->block, &d->arena, &objects, &n, err))
        return false;
    struct block_file *files = ARENA_ARRAY(&d->arena, struct block_file, n + 1);
    if (!files)
        return bucket_no_memory(err);
    for (size_t i = 0; i < n; i++)
        files[i] = (struct block_file){objects[i].name, objects[i].size};
    m->files = files;
    m->n_files = n;
    return true;
}

static bool fetch_files(struct download *d, const struct block_meta *m, struct err *err)
{
    bool index = false;
    for (size_t i = 0; i < m->n_files; i++) {
        if (!is_of_block(m->files[i].path))
            continue;
        index |= slice_eq(m->files[i].path, SL("index"));
        if (!fetch(d, m->files[i].path, m->files[i].size, err))
            return false;
    }
    return index || err_set(err, ERR_CORRUPT, "%.*s/%s: the block has no index", SL_FMT(d->tenant), d->block->text);
}

/* --- all of it --------------------------------------------------------------------------------------------------------------- */

static bool make_folders(struct download *d, struct err *err)
{
    struct stat st;
    if (stat(d->final, &st) == 0)
        return err_set(err, ERR_CONFLICT, "%s is there already", d->final);
    char *chunks = arena_printf(&d->arena, "%s/chunks", d->temporary);
    if (!chunks)
        return bucket_no_memory(err);
    if (!remove_tree(d->temporary, err))
        return false;
    if (mkdir(d->temporary, 0755) != 0 || mkdir(chunks, 0755) != 0)
        return err_errno(err, ERR_IO, errno, "making %s", chunks);
    return true;
}

static bool show(struct download *d, const char *dir, struct err *err)
{
    char *chunks = arena_printf(&d->arena, "%s/chunks", d->temporary);
    if (!chunks)
        return bucket_no_memory(err);
    if (!sync_folder(chunks, err) || !sync_folder(d->temporary, err))
        return false;
    if (rename(d->temporary, d->final) != 0)
        return err_errno(err, ERR_IO, errno, "renaming %s", d->temporary);
    return sync_folder(dir, err);
}

/* The meta.json as it lies in the bucket, to the byte. */
static bool fetch_block(struct download *d, const char *dir, struct err *err)
{
    struct bucket_name name = bucket_block_file(d->tenant, d->block, BUCKET_META);
    struct block_meta m;
    struct buf json;
    bool good = bucket_get_small(d->s, d->ctx, &name, BLOCK_META_MAX_BYTES, &json, err);
    struct slice bytes = buf_slice(&json);
    if (good && !block_meta_decode(bytes, &d->arena, &m, err))
        good = err_prefix(err, "%s: ", name.text);
    if (good && ulid_cmp(&m.ulid, d->block) != 0)
        good = err_set(err, ERR_CORRUPT, "%s: it is the meta.json of block %s", name.text, m.ulid.text);
    good = good && make_folders(d, err);
    if (good) {
        good = list_files(d, &m, err) && fetch_files(d, &m, err) && make_file(d, SL(BUCKET_META), fill_from_bytes, &bytes, err) && show(d, dir, err);
        if (!good)
            (void)remove_tree(d->temporary, NULL); /* the next start tries again */
    }
    buf_release(&json);
    return good;
}

bool bucket_download_block(struct objstore *s, const struct ctx *ctx, struct slice tenant, const struct ulid *block, const char *dir,
                           struct err *err)
{
    struct download d = {.s = s, .ctx = ctx, .tenant = tenant, .block = block};
    arena_init(&d.arena, 0);
    buf_init(&d.step, STEP_BYTES);
    d.final = arena_printf(&d.arena, "%s/%s", dir, block->text);
    d.temporary = arena_printf(&d.arena, "%s/%s.tmp-for-creation", dir, block->text);
    bool good = d.final && d.temporary ? fetch_block(&d, dir, err) : bucket_no_memory(err);
    buf_release(&d.step);
    arena_release(&d.arena);
    return good;
}
