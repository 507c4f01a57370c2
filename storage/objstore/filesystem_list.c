/* Listings: a walk through the folders that the prefix may lie in. What is removed meanwhile is passed over. */
#include "storage/objstore/filesystem_int.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/assert.h"

#define DEPTH_MAX 64

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

/* Whether there is an object somewhere within: folders of a put that is under way or was cut off are none. */
static bool has_object(int at, const char *name, int depth)
{
    bool ok, found = false;
    struct stat st;
    DIR *d = filesystem_open_folder(at, name, &ok, NULL);
    for (const struct dirent *e; d && !found && (e = filesystem_next_entry(d));) {
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
        return errno == ENOENT || filesystem_fail(w->err, errno, "stat"); /* gone meanwhile */
    if (S_ISREG(st.st_mode)) {
        struct objstore_attributes a = filesystem_attributes_of(&st);
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
    DIR *d = filesystem_open_folder(at, name, &ok, w->err);
    while (d && ok && !w->ended) {
        const struct dirent *e = filesystem_next_entry(d);
        size_t before;
        if (!e && errno)
            ok = err_errno(w->err, ERR_IO, errno, "reading a folder");
        if (!e)
            break;
        if (w->path[0] == 0 && strncmp(e->d_name, FILESYSTEM_TMP, strlen(FILESYSTEM_TMP)) == 0)
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

bool filesystem_list(struct objstore *s, const struct ctx *ctx, struct slice prefix, bool delimited, objstore_list_fn *fn, void *arg,
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
