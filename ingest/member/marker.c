/* shutdown-requested.txt: the time of the request (RFC 3339, UTC); that it is there is what counts. Written beside, synced and renamed. */
#include <errno.h>
#include <fcntl.h>
#include <libgen.h>
#include <limits.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/buf.h"
#include "base/clock.h"
#include "ingest/member/member_int.h"

static bool write_all(int fd, struct slice bytes)
{
    while (bytes.n > 0) {
        ssize_t n = write(fd, bytes.p, bytes.n);
        if (n < 0 && errno != EINTR)
            return false;
        if (n > 0)
            bytes = slice_make((const char *)bytes.p + n, bytes.n - (size_t)n);
    }
    return true;
}

/* Makes names in the folder of the path durable. */
static bool sync_folder_of(const char *path, struct err *err)
{
    char copy[PATH_MAX];
    snprintf(copy, sizeof(copy), "%s", path);
    const char *dir = dirname(copy);
    int fd = open(dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    bool ok = fd >= 0 && fsync(fd) == 0;
    if (!ok)
        err_errno(err, ERR_IO, errno, "syncing folder %s", dir);
    if (fd >= 0)
        close(fd);
    return ok;
}

static bool replace(const char *path, struct slice bytes, struct err *err)
{
    char tmp[PATH_MAX];
    if ((size_t)snprintf(tmp, sizeof(tmp), "%s.tmp", path) >= sizeof(tmp))
        return err_set(err, ERR_CONFIG, "the path %.200s... is too long", path);
    int fd = open(tmp, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0666);
    if (fd < 0)
        return err_errno(err, ERR_IO, errno, "writing %s", tmp);
    bool ok = write_all(fd, bytes) && fsync(fd) == 0;
    int why = errno;
    ok = close(fd) == 0 && ok;
    if (!ok || rename(tmp, path) != 0) {
        err_errno(err, ERR_IO, ok ? errno : why, "writing %s", path);
        unlink(tmp);
        return false;
    }
    return sync_folder_of(path, err);
}

/* --- marker --- */

static bool marker_path(const char *dir, char *ret, size_t cap, struct err *err)
{
    return (size_t)snprintf(ret, cap, "%s/" MEMBER_MARKER, dir) < cap ||
           err_set(err, ERR_CONFIG, "the path %.200s... is too long", dir);
}

bool marker_write(const char *dir, int64_t now_ms, struct err *err)
{
    char path[PATH_MAX], text[CLOCK_RFC3339_MAX];
    clock_rfc3339(now_ms / 1000, 0, 0, text);
    return marker_path(dir, path, sizeof(path), err) && replace(path, slice_of(text), err);
}

bool marker_there(const char *dir, bool *ret, struct err *err)
{
    char path[PATH_MAX];
    struct stat st;
    if (!marker_path(dir, path, sizeof(path), err))
        return false;
    *ret = stat(path, &st) == 0;
    return *ret || errno == ENOENT || err_errno(err, ERR_IO, errno, "looking for %s", path);
}

bool marker_remove(const char *dir, struct err *err)
{
    char path[PATH_MAX];
    if (!marker_path(dir, path, sizeof(path), err))
        return false;
    if (unlink(path) == 0)
        return sync_folder_of(path, err);
    return errno == ENOENT || err_errno(err, ERR_IO, errno, "removing %s", path);
}
