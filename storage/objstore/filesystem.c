/*
 * The store in a folder: an object is a file, slashes are folders.
 *
 * put: the bytes go into <dir>/.brunn-tmp/<random>, are fsynced, and are renamed to their place; then the folder is fsynced, and with it those above that this
 * put has made. A local file on the same filesystem is not copied but linked (filesystem_put.c): it and the object are one, and it must never be changed in place.
 * A crash leaves a temporary file at most; those older than an hour are removed when the store is opened (not younger ones: another process may be writing
 * them). Folders that become empty are removed with their last object, so a put may find that its folder went between mkdir and rename: it makes it again.
 *
 * A filesystem cannot have all names that S3 can: segments longer than 255 bytes, an object "a" beside an object "a/b", and what begins with .brunn-tmp. They
 * are refused with ERR_BAD_DATA.
 *
 * Any thread, any number of processes; no locks and no state but the folder's descriptor.
 */
#include "storage/objstore/filesystem_int.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "base/assert.h"

#define TMP_KEPT_S 3600

struct filesystem *filesystem_of(struct objstore *s)
{
    return CONTAINER_OF(s, struct filesystem, objstore);
}

bool filesystem_fail(struct err *err, int errnum, const char *what)
{
    switch (errnum) {
    case ENOENT:
        return err_set(err, ERR_NOT_FOUND, "there is no such object");
    case EACCES:
    case EPERM:
    case EROFS:
        return err_errno(err, ERR_PERMISSION, errnum, "%s", what);
    case ENOTDIR:
    case EISDIR:
    case ENAMETOOLONG:
    case EEXIST:
    case ENOTEMPTY:
        return err_errno(err, ERR_BAD_DATA, errnum, "a folder cannot have this object beside the others: %s", what);
    default:
        return err_errno(err, ERR_IO, errnum, "%s", what);
    }
}

bool filesystem_path(struct slice name, char ret[FILESYSTEM_NAME_CAP], struct err *err)
{
    ASSERT(name.n < FILESYSTEM_NAME_CAP);
    memcpy(ret, name.p, name.n);
    ret[name.n] = 0;
    if (slice_has_prefix(name, SL(FILESYSTEM_TMP)))
        return err_set(err, ERR_BAD_DATA, "names that begin with " FILESYSTEM_TMP " are the store's own");
    for (const char *p = ret; *p;) {
        size_t n = strcspn(p, "/");
        if (n > NAME_MAX)
            return err_set(err, ERR_BAD_DATA, "a folder cannot have names of more than %d bytes between slashes", NAME_MAX);
        p += n + (p[n] == '/');
    }
    return true;
}

/* --- reading ------------------------------------------------------------------------------------------------------- */

/* The file of an object. ERR_NOT_FOUND for what is not there or is a folder. */
static int open_object(const struct filesystem *f, const char *path, struct stat *ret_st, struct err *err)
{
    int fd = openat(f->dir, path, O_RDONLY | O_CLOEXEC);
    if (fd < 0) {
        filesystem_fail(err, errno == ENOTDIR ? ENOENT : errno, "open");
        return -1;
    }
    if (fstat(fd, ret_st) == 0 && S_ISREG(ret_st->st_mode))
        return fd;
    err_set(err, ERR_NOT_FOUND, "there is no such object");
    close(fd);
    return -1;
}

static bool read_range(int fd, const struct ctx *ctx, uint64_t offset, uint64_t n, struct buf *out, struct err *err)
{
    while (n > 0) {
        size_t step = (size_t)MIN(n, (uint64_t)FILESYSTEM_STEP_BYTES);
        if (!ctx_check(ctx, err))
            return false;
        if (!buf_reserve(out, step))
            return err_set(err, ERR_TOO_LARGE, "the object is larger than the %zu bytes that there is room for", out->max);
        ssize_t got = pread(fd, out->p + out->n, step, (off_t)offset);
        if (got < 0 && errno == EINTR)
            continue;
        if (got < 0)
            return err_errno(err, ERR_IO, errno, "read");
        if (got == 0)
            return err_set(err, ERR_IO, "the file became shorter while it was read");
        out->n += (size_t)got;
        offset += (uint64_t)got;
        n -= (uint64_t)got;
    }
    return true;
}

/* Before anything is allocated: whether out may have that much more. */
static bool has_room(const struct buf *out, uint64_t n)
{
    size_t max = out->max ? out->max : BUF_MAX_DEFAULT;
    return n <= max - out->n;
}

static bool filesystem_get(struct objstore *s, const struct ctx *ctx, struct slice name, uint64_t offset, uint64_t n, struct buf *out,
                           struct err *err)
{
    char path[FILESYSTEM_NAME_CAP];
    struct stat st;
    int fd = filesystem_path(name, path, err) ? open_object(filesystem_of(s), path, &st, err) : -1;
    if (fd < 0)
        return false;
    uint64_t size = (uint64_t)st.st_size;
    bool ok = false;
    if (offset > size || (n != OBJSTORE_ALL && n > size - offset))
        err_set(err, ERR_OUT_OF_RANGE, "the range is not within its %" PRIu64 " bytes", size);
    else if (!has_room(out, n == OBJSTORE_ALL ? size - offset : n))
        err_set(err, ERR_TOO_LARGE, "its %" PRIu64 " bytes are more than there is room for", size);
    else
        ok = read_range(fd, ctx, offset, n == OBJSTORE_ALL ? size - offset : n, out, err);
    close(fd);
    return ok;
}

struct objstore_attributes filesystem_attributes_of(const struct stat *st)
{
    return (struct objstore_attributes){
        .size = (uint64_t)st->st_size,
        .modified_ms = (int64_t)st->st_mtim.tv_sec * 1000 + st->st_mtim.tv_nsec / 1000000,
    };
}

static bool filesystem_attributes(struct objstore *s, const struct ctx *ctx, struct slice name, struct objstore_attributes *ret,
                                  struct err *err)
{
    (void)ctx;
    char path[FILESYSTEM_NAME_CAP];
    struct stat st;
    if (!filesystem_path(name, path, err))
        return false;
    if (fstatat(filesystem_of(s)->dir, path, &st, 0) != 0)
        return filesystem_fail(err, errno == ENOTDIR ? ENOENT : errno, "stat");
    if (!S_ISREG(st.st_mode))
        return err_set(err, ERR_NOT_FOUND, "there is no such object");
    *ret = filesystem_attributes_of(&st);
    return true;
}

DIR *filesystem_open_folder(int at, const char *name, bool *ret_ok, struct err *err)
{
    int fd = openat(at, name, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    DIR *d = fd >= 0 ? fdopendir(fd) : NULL;
    *ret_ok = d || errno == ENOENT || errno == ENOTDIR;
    if (!*ret_ok)
        filesystem_fail(err, errno, "opening a folder");
    if (!d && fd >= 0)
        close(fd);
    return d;
}

const struct dirent *filesystem_next_entry(DIR *d)
{
    for (;;) {
        errno = 0;
        const struct dirent *e = readdir(d);
        if (!e || (strcmp(e->d_name, ".") != 0 && strcmp(e->d_name, "..") != 0))
            return e;
    }
}

/* --- life cycle ----------------------------------------------------------------------------------------------------- */

static void filesystem_free(struct objstore *s)
{
    struct filesystem *f = filesystem_of(s);
    close(f->dir);
    free(f);
}

/* Opening a file and reading a range of it takes as long as reading that much more of it. Measured by bench_store. */
#define REQUEST_BYTES ((uint64_t)16 << 10)

static const struct objstore_ops filesystem_ops = {
    .name = "filesystem",
    .request_bytes = REQUEST_BYTES,
    .get = filesystem_get,
    .attributes = filesystem_attributes,
    .put = filesystem_put,
    .put_file = filesystem_put_file,
    .remove = filesystem_remove,
    .list = filesystem_list,
    .free = filesystem_free,
};

/* Temporary files of processes that were killed. */
static void remove_leftovers(const struct filesystem *f)
{
    bool ok;
    struct stat st;
    DIR *d = filesystem_open_folder(f->dir, FILESYSTEM_TMP, &ok, NULL);
    for (const struct dirent *e; d && (e = filesystem_next_entry(d));)
        if (fstatat(dirfd(d), e->d_name, &st, AT_SYMLINK_NOFOLLOW) == 0 && S_ISREG(st.st_mode) && time(NULL) - st.st_mtime > TMP_KEPT_S)
            unlinkat(dirfd(d), e->d_name, 0);
    if (d)
        closedir(d);
}

/* mkdir -p. */
static bool make_root(const char *dir)
{
    char path[4096];
    if (strlen(dir) >= sizeof(path)) {
        errno = ENAMETOOLONG;
        return false;
    }
    strcpy(path, dir);
    for (char *slash = path; (slash = strchr(slash + 1, '/'));) {
        *slash = 0;
        if (mkdir(path, 0750) != 0 && errno != EEXIST)
            return false;
        *slash = '/';
    }
    return mkdir(path, 0750) == 0 || errno == EEXIST;
}

struct objstore *objstore_filesystem_new(const char *dir, struct err *err)
{
    int fd = make_root(dir) ? open(dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC) : -1;
    if (fd < 0) {
        err_errno(err, ERR_CONFIG, errno, "the folder \"%s\"", dir);
        return NULL;
    }
    struct filesystem *f = malloc(sizeof(*f));
    ASSERT(f);
    *f = (struct filesystem){.objstore.ops = &filesystem_ops, .dir = fd};
    remove_leftovers(f);
    return &f->objstore;
}
