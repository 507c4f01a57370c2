#include "ingest/files_int.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "ingest/region_int.h"

bool dir_make(const char *path, struct err *err)
{
    char part[4096];
    size_t n = strlen(path);
    if (n >= sizeof(part))
        return err_set(err, ERR_IO, "the path %.200s... is too long", path);
    memcpy(part, path, n + 1);
    for (size_t i = 1; i <= n; i++) {
        if (part[i] != '/' && part[i] != 0)
            continue;
        char c = part[i];
        part[i] = 0;
        if (mkdir(part, 0750) != 0 && errno != EEXIST)
            return err_errno(err, ERR_IO, errno, "making the folder %s", part);
        part[i] = c;
    }
    return true;
}

bool dir_sync(const char *path, struct err *err)
{
    int fd = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (fd < 0)
        return err_errno(err, ERR_IO, errno, "opening %s", path);
    bool ok = fsync(fd) == 0;
    int saved = errno;
    close(fd);
    return ok || err_errno(err, ERR_IO, saved, "syncing %s", path);
}

bool dir_remove(const char *path, struct err *err)
{
    DIR *d = opendir(path);
    if (!d)
        return errno == ENOENT || err_errno(err, ERR_IO, errno, "opening %s", path);
    bool ok = true;
    for (struct dirent *e; ok && (e = readdir(d));) {
        if (strcmp(e->d_name, ".") == 0 || strcmp(e->d_name, "..") == 0)
            continue;
        char sub[4096];
        if ((size_t)snprintf(sub, sizeof(sub), "%s/%s", path, e->d_name) >= sizeof(sub))
            ok = err_set(err, ERR_IO, "a path below %s is too long", path);
        else if (unlinkat(dirfd(d), e->d_name, 0) != 0)
            ok = errno == EISDIR || errno == EPERM ? dir_remove(sub, err)
                                                   : err_errno(err, ERR_IO, errno, "removing %s", sub);
    }
    closedir(d);
    if (ok && rmdir(path) != 0)
        return err_errno(err, ERR_IO, errno, "removing %s", path);
    return ok;
}

bool write_at(int fd, const void *p, size_t n, off_t off)
{
    const char *at = p;
    while (n > 0) {
        ssize_t w = pwrite(fd, at, n, off);
        if (w < 0 && errno == EINTR)
            continue;
        if (w <= 0) {
            errno = w == 0 ? ENOSPC : errno;
            return false;
        }
        at += w;
        off += w;
        n -= (size_t)w;
    }
    return true;
}

bool read_at(int fd, void *p, size_t n, off_t off)
{
    char *at = p;
    while (n > 0) {
        ssize_t r = pread(fd, at, n, off);
        if (r < 0 && errno == EINTR)
            continue;
        if (r <= 0) {
            errno = r == 0 ? ENODATA : errno;
            return false;
        }
        at += r;
        off += r;
        n -= (size_t)r;
    }
    return true;
}

bool file_read(const char *path, size_t max, char **ret, size_t *ret_n, struct err *err)
{
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0)
        return err_errno(err, errno == ENOENT ? ERR_NOT_FOUND : ERR_IO, errno, "opening %s", path);
    struct stat sb;
    bool ok = fstat(fd, &sb) == 0;
    if (ok && (size_t)sb.st_size > max) {
        close(fd);
        return err_set(err, ERR_CORRUPT, "%s is larger than %zu bytes", path, max);
    }
    size_t n = ok ? (size_t)sb.st_size : 0;
    char *p = xmalloc(n);
    ok = ok && read_at(fd, p, n, 0);
    int saved = errno;
    close(fd);
    if (!ok) {
        free(p);
        return err_errno(err, ERR_IO, saved, "reading %s", path);
    }
    *ret = p;
    *ret_n = n;
    return true;
}

bool file_replace(const char *dir, const char *name, struct slice bytes, struct err *err)
{
    char tmp[4096];
    char path[4096];
    int a = snprintf(tmp, sizeof(tmp), "%s/%s.tmp", dir, name);
    snprintf(path, sizeof(path), "%s/%s", dir, name);
    if ((size_t)a >= sizeof(tmp))
        return err_set(err, ERR_IO, "the path %.200s... is too long", dir);
    int fd = open(tmp, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0640);
    if (fd < 0)
        return err_errno(err, ERR_IO, errno, "making %s", tmp);
    bool ok = write_at(fd, bytes.p, bytes.n, 0) && fsync(fd) == 0;
    int saved = errno;
    close(fd);
    if (ok && rename(tmp, path) != 0) {
        ok = false;
        saved = errno;
    }
    if (!ok) {
        unlink(tmp);
        return err_errno(err, ERR_IO, saved, "writing %s", path);
    }
    return dir_sync(dir, err);
}
