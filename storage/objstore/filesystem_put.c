/*
 * How objects come into the folder and leave it. filesystem.c's head says what may be relied upon.
 *
 * A put of bytes writes a temporary file, syncs it and renames it. A put of a file links that file itself where this can be done: a bucket's folder mostly lies on
 * the disk of the blocks that go there, and a copy would be the same bytes once more on their way to the disk, with whoever syncs something small waiting behind
 * them, and twice the page cache. The link is made at the object's own name: where that is taken, linking beside it and renaming would be in vain (a rename onto a
 * link to the same file does nothing), and a copy is made.
 */
#include "storage/objstore/filesystem_int.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <unistd.h>

#include "base/assert.h"
#include "base/big_file.h"

#define PLACE_TRIES 32

/* --- folders ------------------------------------------------------------------------------------------------------- */

static bool sync_folder(const struct filesystem *f, const char *path, struct err *err)
{
    int fd = openat(f->dir, path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (fd < 0 && errno == ENOENT)
        return true; /* removed with its last object, by somebody else */
    bool ok = fd >= 0 && fsync(fd) == 0;
    if (!ok)
        err_errno(err, ERR_IO, errno, "fsync of the folder");
    if (fd >= 0)
        close(fd);
    return ok;
}

/* Cuts the last segment off; "." when there is no more. */
static void go_up(char *path)
{
    char *slash = strrchr(path, '/');
    if (slash)
        *slash = 0;
    else
        strcpy(path, ".");
}

/*
 * What path needs to be found after a crash: the folder that it is in and, where this put has made some of those above, they too, from the bottom up. One that
 * another put has just made needs nothing: filesystems write such changes down in the order in which they were made.
 */
static bool sync_folders(const struct filesystem *f, const char *path, bool made, struct err *err)
{
    char up[FILESYSTEM_NAME_CAP];
    strcpy(up, path);
    do {
        go_up(up);
        if (!sync_folder(f, up, err))
            return false;
    } while (made && strcmp(up, ".") != 0);
    return true;
}

/* *made stays as it is when all are there. */
static bool make_folders(const struct filesystem *f, const char *path, bool *made, struct err *err)
{
    char part[FILESYSTEM_NAME_CAP];
    strcpy(part, path);
    for (char *slash = strchr(part, '/'); slash; slash = strchr(slash + 1, '/')) {
        *slash = 0;
        if (mkdirat(f->dir, part, 0750) == 0)
            *made = true;
        /* ENOENT: the folder above was removed just now. Whoever wants them finds out. */
        else if (errno != EEXIST && errno != ENOENT)
            return filesystem_fail(err, errno, "mkdir");
        *slash = '/';
    }
    return true;
}

/* --- bytes --------------------------------------------------------------------------------------------------------- */

struct tmp {
    int fd;
    char path[64];
};

static bool tmp_open(const struct filesystem *f, struct tmp *t, struct err *err)
{
    uint64_t v[2];
    ssize_t n = getrandom(v, sizeof(v), 0);
    ASSERT(n == (ssize_t)sizeof(v));
    snprintf(t->path, sizeof(t->path), FILESYSTEM_TMP "/%016" PRIx64 "%016" PRIx64, v[0], v[1]);
    for (int i = 0; i < 2; i++) {
        t->fd = openat(f->dir, t->path, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0640);
        if (t->fd >= 0)
            return true;
        if (errno != ENOENT || (mkdirat(f->dir, FILESYSTEM_TMP, 0750) != 0 && errno != EEXIST))
            break;
    }
    return err_errno(err, errno == EACCES || errno == EROFS ? ERR_PERMISSION : ERR_IO, errno, "making a temporary file");
}

static bool write_all(int fd, const struct ctx *ctx, struct slice bytes, struct err *err)
{
    while (bytes.n) {
        if (!ctx_check(ctx, err))
            return false;
        ssize_t n = write(fd, bytes.p, MIN(bytes.n, FILESYSTEM_STEP_BYTES));
        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0)
            return err_errno(err, ERR_IO, errno, "write");
        bytes.p += n;
        bytes.n -= (size_t)n;
    }
    return true;
}

/* Renames what is written and synced to its place, durably. */
static bool place(const struct filesystem *f, const struct tmp *t, const char *path, struct err *err)
{
    bool made = false;
    for (int i = 0; i < PLACE_TRIES; i++) {
        if (renameat(f->dir, t->path, f->dir, path) == 0)
            return sync_folders(f, path, made, err);
        if (errno != ENOENT)
            return filesystem_fail(err, errno, "rename");
        if (!make_folders(f, path, &made, err))
            return false;
    }
    return err_set(err, ERR_UNAVAILABLE, "its folder is removed again and again");
}

/* After the bytes were written, or not: ok. */
static bool tmp_finish(const struct filesystem *f, const struct ctx *ctx, struct tmp *t, bool ok, const char *path, struct err *err)
{
    if (ok && fsync(t->fd) != 0)
        ok = err_errno(err, ERR_IO, errno, "fsync");
    if (close(t->fd) != 0 && ok)
        ok = err_errno(err, ERR_IO, errno, "close");
    ok = ok && ctx_check(ctx, err) && place(f, t, path, err);
    if (!ok)
        unlinkat(f->dir, t->path, 0);
    return ok;
}

bool filesystem_put(struct objstore *s, const struct ctx *ctx, struct slice name, struct slice bytes, struct err *err)
{
    struct filesystem *f = filesystem_of(s);
    char path[FILESYSTEM_NAME_CAP];
    struct tmp t;
    if (!filesystem_path(name, path, err) || !tmp_open(f, &t, err))
        return false;
    return tmp_finish(f, ctx, &t, write_all(t.fd, ctx, bytes, err), path, err);
}

/* --- files --------------------------------------------------------------------------------------------------------- */

/*
 * Gives the file the object's name, durably. Its time becomes that of the put: others take it for the age of an upload. *ret_linked false: it is to be copied,
 * because it lies on another filesystem, or one without links, is somebody else's, or has no name (a temporary file, which is written again perhaps); or there
 * is such an object.
 */
static bool link_file(const struct filesystem *f, int from, const struct stat *st, const char *path, bool *ret_linked, struct err *err)
{
    char self[32];
    uint64_t behind = 0;
    bool made = false;
    *ret_linked = false;
    if (st->st_nlink == 0 || futimens(from, NULL) != 0)
        return true;
    /* Next to nothing to do where whoever wrote it has synced it. */
    big_file_write_behind(from, (uint64_t)st->st_size, &behind);
    if (fdatasync(from) != 0)
        return err_errno(err, ERR_IO, errno, "fdatasync of the local file");
    snprintf(self, sizeof(self), "/proc/self/fd/%d", from);
    for (int i = 0; i < 2 && !*ret_linked; i++) {
        *ret_linked = linkat(AT_FDCWD, self, f->dir, path, AT_SYMLINK_FOLLOW) == 0;
        if (!*ret_linked && (errno != ENOENT || !make_folders(f, path, &made, NULL)))
            return true;
    }
    return !*ret_linked || sync_folders(f, path, made, err);
}

static bool copy_file(int from, int to, const struct ctx *ctx, uint64_t size, struct err *err)
{
    uint64_t done = 0, behind = 0;
    char *step = malloc(FILESYSTEM_STEP_BYTES);
    ASSERT(step);
    bool ok = true;
    while (ok) {
        ssize_t n = read(from, step, FILESYSTEM_STEP_BYTES);
        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0)
            ok = err_errno(err, ERR_IO, errno, "reading the local file");
        if (n <= 0)
            break;
        ok = write_all(to, ctx, slice_make(step, (size_t)n), err);
        done += (uint64_t)n;
        big_file_write_behind(to, done, &behind);
    }
    free(step);
    if (ok && done != size)
        ok = err_set(err, ERR_IO, "the local file had %" PRIu64 " bytes, and then %" PRIu64, size, done);
    return ok;
}

static bool put_open_file(const struct filesystem *f, const struct ctx *ctx, int from, const struct stat *st, const char *path, struct err *err)
{
    struct tmp t;
    bool linked;
    if (!ctx_check(ctx, err) || !link_file(f, from, st, path, &linked, err))
        return false;
    return linked || (tmp_open(f, &t, err) && tmp_finish(f, ctx, &t, copy_file(from, t.fd, ctx, (uint64_t)st->st_size, err), path, err));
}

bool filesystem_put_file(struct objstore *s, const struct ctx *ctx, struct slice name, const char *file, struct err *err)
{
    char path[FILESYSTEM_NAME_CAP];
    struct stat st;
    if (!filesystem_path(name, path, err))
        return false;
    int from = open(file, O_RDONLY | O_CLOEXEC);
    bool ok = from >= 0 && fstat(from, &st) == 0;
    if (!ok)
        err_errno(err, ERR_IO, errno, "opening %s", file);
    ok = ok && put_open_file(filesystem_of(s), ctx, from, &st, path, err);
    if (from >= 0)
        close(from);
    return ok;
}

/* --- removal ------------------------------------------------------------------------------------------------------- */

bool filesystem_remove(struct objstore *s, const struct ctx *ctx, struct slice name, struct err *err)
{
    (void)ctx;
    struct filesystem *f = filesystem_of(s);
    char path[FILESYSTEM_NAME_CAP];
    if (!filesystem_path(name, path, err))
        return false;
    if (unlinkat(f->dir, path, 0) != 0) {
        /* EISDIR: a folder is no object, so the object is not there. */
        if (errno == ENOENT || errno == ENOTDIR || errno == EISDIR)
            return true;
        return filesystem_fail(err, errno, "unlink");
    }
    for (;;) {
        go_up(path);
        if (!sync_folder(f, path, err))
            return false;
        if (strcmp(path, ".") == 0 || unlinkat(f->dir, path, AT_REMOVEDIR) != 0)
            return true;
    }
}
