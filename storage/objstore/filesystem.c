/*
 * The store in a folder: an object is a file, slashes are folders.
 *
 * put: the bytes go into <dir>/.brunn-tmp/<random>, are fsynced, and are renamed to their place; then every folder from there up to <dir> is fsynced, because
 * another call may have made one of them and not have synced it yet. A crash leaves a temporary file at most; those older than an hour are removed when the
 * store is opened (not younger ones: another process may be writing them). Folders that become empty are removed with their last object, so a
 * put may find that its folder went between mkdir and rename: it makes it again.
 *
 * A filesystem cannot have all names that S3 can: segments longer than 255 bytes, an object "a" beside an object "a/b", and what begins with .brunn-tmp. They
 * are refused with ERR_BAD_DATA.
 *
 * Any thread, any number of processes; no locks and no state but the folder's descriptor.
 */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "base/assert.h"
#include "storage/objstore/objstore_int.h"

#define TMP_FOLDER ".brunn-tmp"
#define TMP_KEPT_S 3600
#define STEP_BYTES ((size_t)1 << 20) /* between looks at ctx */
#define PLACE_TRIES 32
#define DEPTH_MAX 64
#define NAME_CAP 1025

struct filesystem {
    struct objstore objstore;
    int dir;
};

static struct filesystem *filesystem_of(struct objstore *s)
{
    return CONTAINER_OF(s, struct filesystem, objstore);
}

/* The class of errno where a name, not the disk, may be what is wrong. */
static bool fail(struct err *err, int errnum, const char *what)
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

/* As a path below the folder. */
static bool path_of(struct slice name, char ret[NAME_CAP], struct err *err)
{
    ASSERT(name.n < NAME_CAP);
    memcpy(ret, name.p, name.n);
    ret[name.n] = 0;
    if (slice_has_prefix(name, SL(TMP_FOLDER)))
        return err_set(err, ERR_BAD_DATA, "names that begin with " TMP_FOLDER " are the store's own");
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
        fail(err, errno == ENOTDIR ? ENOENT : errno, "open");
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
        size_t step = (size_t)MIN(n, (uint64_t)STEP_BYTES);
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
    char path[NAME_CAP];
    struct stat st;
    int fd = path_of(name, path, err) ? open_object(filesystem_of(s), path, &st, err) : -1;
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

static struct objstore_attributes attributes_of(const struct stat *st)
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
    char path[NAME_CAP];
    struct stat st;
    if (!path_of(name, path, err))
        return false;
    if (fstatat(filesystem_of(s)->dir, path, &st, 0) != 0)
        return fail(err, errno == ENOTDIR ? ENOENT : errno, "stat");
    if (!S_ISREG(st.st_mode))
        return err_set(err, ERR_NOT_FOUND, "there is no such object");
    *ret = attributes_of(&st);
    return true;
}

/* --- writing ------------------------------------------------------------------------------------------------------- */

struct tmp {
    int fd;
    char path[64];
};

static bool tmp_open(const struct filesystem *f, struct tmp *t, struct err *err)
{
    uint64_t v[2];
    ssize_t n = getrandom(v, sizeof(v), 0);
    ASSERT(n == (ssize_t)sizeof(v));
    snprintf(t->path, sizeof(t->path), TMP_FOLDER "/%016" PRIx64 "%016" PRIx64, v[0], v[1]);
    for (int i = 0; i < 2; i++) {
        t->fd = openat(f->dir, t->path, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0640);
        if (t->fd >= 0)
            return true;
        if (errno != ENOENT || (mkdirat(f->dir, TMP_FOLDER, 0750) != 0 && errno != EEXIST))
            break;
    }
    return err_errno(err, errno == EACCES || errno == EROFS ? ERR_PERMISSION : ERR_IO, errno, "making a temporary file");
}

static bool write_all(int fd, const struct ctx *ctx, struct slice bytes, struct err *err)
{
    while (bytes.n) {
        if (!ctx_check(ctx, err))
            return false;
        ssize_t n = write(fd, bytes.p, MIN(bytes.n, STEP_BYTES));
        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0)
            return err_errno(err, ERR_IO, errno, "write");
        bytes.p += n;
        bytes.n -= (size_t)n;
    }
    return true;
}

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

/* Everything that path needs to be found after a crash, from the bottom up. */
static bool sync_folders(const struct filesystem *f, const char *path, struct err *err)
{
    char up[NAME_CAP];
    strcpy(up, path);
    do {
        go_up(up);
        if (!sync_folder(f, up, err))
            return false;
    } while (strcmp(up, ".") != 0);
    return true;
}

static bool make_folders(const struct filesystem *f, const char *path, struct err *err)
{
    char part[NAME_CAP];
    strcpy(part, path);
    for (char *slash = strchr(part, '/'); slash; slash = strchr(slash + 1, '/')) {
        *slash = 0;
        /* ENOENT: the folder above was removed just now. The rename finds out. */
        if (mkdirat(f->dir, part, 0750) != 0 && errno != EEXIST && errno != ENOENT)
            return fail(err, errno, "mkdir");
        *slash = '/';
    }
    return true;
}

/* Renames what is written and synced to its place, durably. */
static bool place(const struct filesystem *f, const struct tmp *t, const char *path, struct err *err)
{
    for (int i = 0; i < PLACE_TRIES; i++) {
        if (!make_folders(f, path, err))
            return false;
        if (renameat(f->dir, t->path, f->dir, path) == 0)
            return sync_folders(f, path, err);
        if (errno != ENOENT)
            return fail(err, errno, "rename");
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

static bool filesystem_put(struct objstore *s, const struct ctx *ctx, struct slice name, struct slice bytes, struct err *err)
{
    struct filesystem *f = filesystem_of(s);
    char path[NAME_CAP];
    struct tmp t;
    if (!path_of(name, path, err) || !tmp_open(f, &t, err))
        return false;
    return tmp_finish(f, ctx, &t, write_all(t.fd, ctx, bytes, err), path, err);
}

static bool copy_file(int from, int to, const struct ctx *ctx, uint64_t size, struct err *err)
{
    uint64_t done = 0;
    char *step = malloc(STEP_BYTES);
    ASSERT(step);
    bool ok = true;
    while (ok) {
        ssize_t n = read(from, step, STEP_BYTES);
        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0)
            ok = err_errno(err, ERR_IO, errno, "reading the local file");
        if (n <= 0)
            break;
        ok = write_all(to, ctx, slice_make(step, (size_t)n), err);
        done += (uint64_t)n;
    }
    free(step);
    if (ok && done != size)
        ok = err_set(err, ERR_IO, "the local file had %" PRIu64 " bytes, and then %" PRIu64, size, done);
    return ok;
}

static bool filesystem_put_file(struct objstore *s, const struct ctx *ctx, struct slice name, const char *file, struct err *err)
{
    struct filesystem *f = filesystem_of(s);
    char path[NAME_CAP];
    struct tmp t;
    struct stat st;
    if (!path_of(name, path, err))
        return false;
    int from = open(file, O_RDONLY | O_CLOEXEC);
    if (from < 0 || fstat(from, &st) != 0) {
        err_errno(err, ERR_IO, errno, "opening %s", file);
        if (from >= 0)
            close(from);
        return false;
    }
    bool ok = tmp_open(f, &t, err) && tmp_finish(f, ctx, &t, copy_file(from, t.fd, ctx, (uint64_t)st.st_size, err), path, err);
    close(from);
    return ok;
}

static bool filesystem_remove(struct objstore *s, const struct ctx *ctx, struct slice name, struct err *err)
{
    (void)ctx;
    struct filesystem *f = filesystem_of(s);
    char path[NAME_CAP];
    if (!path_of(name, path, err))
        return false;
    if (unlinkat(f->dir, path, 0) != 0) {
        /* EISDIR: a folder is no object, so the object is not there. */
        if (errno == ENOENT || errno == ENOTDIR || errno == EISDIR)
            return true;
        return fail(err, errno, "unlink");
    }
    for (;;) {
        go_up(path);
        if (!sync_folder(f, path, err))
            return false;
        if (strcmp(path, ".") == 0 || unlinkat(f->dir, path, AT_REMOVEDIR) != 0)
            return true;
    }
}

/* --- listing ------------------------------------------------------------------------------------------------------- */

struct walk {
    const struct ctx *ctx;
    struct slice prefix;
    bool delimited;
    objstore_list_fn *fn;
    void *arg;
    bool ended; /* by fn */
    struct err *err;
    char path[4096]; /* of where we are; no slash at its end */
};

/* Any number of bytes may stand before an entry: foreign files may have longer names than our own. */
static bool push(struct walk *w, const char *segment, size_t *ret_before)
{
    size_t n = strlen(w->path), more = strlen(segment);
    *ret_before = n;
    if (n + more + 3 > sizeof(w->path))
        return false;
    if (n)
        w->path[n++] = '/';
    memcpy(w->path + n, segment, more + 1);
    return true;
}

/* The folder `name` of `at`, to be read; NULL with *ret_ok when it is gone. */
static DIR *open_folder(int at, const char *name, bool *ret_ok, struct err *err)
{
    int fd = openat(at, name, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    DIR *d = fd >= 0 ? fdopendir(fd) : NULL;
    *ret_ok = d || errno == ENOENT || errno == ENOTDIR;
    if (!*ret_ok)
        fail(err, errno, "opening a folder");
    if (!d && fd >= 0)
        close(fd);
    return d;
}

/* The next entry but . and .. ; NULL at the end, with errno 0. */
static const struct dirent *next_entry(DIR *d)
{
    for (;;) {
        errno = 0;
        const struct dirent *e = readdir(d);
        if (!e || (strcmp(e->d_name, ".") != 0 && strcmp(e->d_name, "..") != 0))
            return e;
    }
}

/* Whether there is an object somewhere within: folders of a put that is under way or was cut off are none. */
static bool has_object(int at, const char *name, int depth)
{
    bool ok, found = false;
    struct stat st;
    DIR *d = open_folder(at, name, &ok, NULL);
    for (const struct dirent *e; d && !found && (e = next_entry(d));) {
        if (fstatat(dirfd(d), e->d_name, &st, 0) != 0)
            continue;
        found = S_ISREG(st.st_mode) || (S_ISDIR(st.st_mode) && depth < DEPTH_MAX && has_object(dirfd(d), e->d_name, depth + 1));
    }
    if (d)
        closedir(d);
    return found;
}

static bool walk_folder(struct walk *w, int at, const char *name, int depth);

/* w->path is the entry's. */
static bool walk_entry(struct walk *w, int at, const char *name, int depth)
{
    struct stat st;
    struct slice path = slice_of(w->path);
    if (fstatat(at, name, &st, 0) != 0)
        return errno == ENOENT || fail(w->err, errno, "stat"); /* gone meanwhile */
    if (S_ISREG(st.st_mode)) {
        struct objstore_attributes a = attributes_of(&st);
        if (slice_has_prefix(path, w->prefix))
            w->ended = !w->fn(w->arg, path, false, &a);
        return true;
    }
    if (!S_ISDIR(st.st_mode))
        return true;
    if (!w->delimited)
        return walk_folder(w, at, name, depth + 1);
    if (slice_has_prefix(path, w->prefix) && has_object(at, name, depth + 1)) {
        struct objstore_attributes none = {0};
        w->path[path.n] = '/';
        w->ended = !w->fn(w->arg, slice_make(path.p, path.n + 1), true, &none);
    }
    return true;
}

static bool walk_folder(struct walk *w, int at, const char *name, int depth)
{
    bool ok;
    if (depth > DEPTH_MAX)
        return err_set(w->err, ERR_IO, "%s has more than %d folders within each other", w->path, DEPTH_MAX);
    DIR *d = open_folder(at, name, &ok, w->err);
    while (d && ok && !w->ended) {
        const struct dirent *e = next_entry(d);
        size_t before;
        if (!e && errno)
            ok = err_errno(w->err, ERR_IO, errno, "reading a folder");
        if (!e)
            break;
        if (w->path[0] == 0 && strncmp(e->d_name, TMP_FOLDER, strlen(TMP_FOLDER)) == 0)
            continue;
        ok = ctx_check(w->ctx, w->err);
        if (!push(w, e->d_name, &before))
            continue; /* longer than any name that could be asked for */
        /* Within a folder of the prefix only what begins like it is looked at. */
        struct slice path = slice_of(w->path);
        size_t both = MIN(path.n, w->prefix.n);
        if (ok && memcmp(path.p, w->prefix.p ? w->prefix.p : "", both) == 0)
            ok = walk_entry(w, dirfd(d), e->d_name, depth);
        w->path[before] = 0;
    }
    if (d)
        closedir(d);
    return ok;
}

static bool filesystem_list(struct objstore *s, const struct ctx *ctx, struct slice prefix, bool delimited, objstore_list_fn *fn, void *arg,
                            struct err *err)
{
    struct walk *w = calloc(1, sizeof(*w));
    ASSERT(w);
    *w = (struct walk){.ctx = ctx, .prefix = prefix, .delimited = delimited, .fn = fn, .arg = arg, .err = err};
    size_t folder_n = prefix.n;
    while (folder_n && prefix.p[folder_n - 1] != '/')
        folder_n--;
    if (folder_n)
        memcpy(w->path, prefix.p, folder_n - 1);
    bool ok = walk_folder(w, filesystem_of(s)->dir, w->path[0] ? w->path : ".", 0);
    free(w);
    return ok;
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
    DIR *d = open_folder(f->dir, TMP_FOLDER, &ok, NULL);
    for (const struct dirent *e; d && (e = next_entry(d));)
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
