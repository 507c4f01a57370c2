#include "app/data_dir.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/random.h>
#include <sys/stat.h>
#include <unistd.h>

bool data_dir_make(const char *path, struct err *err)
{
    char part[PATH_MAX];
    if (snprintf(part, sizeof(part), "%s", path) >= PATH_MAX)
        return err_set(err, ERR_CONFIG, "data folder %s: name too long", path);
    for (char *slash = part + 1; (slash = strchr(slash, '/')); slash++) {
        *slash = '\0';
        if (mkdir(part, 0777) != 0 && errno != EEXIST)
            return err_errno(err, ERR_IO, errno, "making data folder %s", path);
        *slash = '/';
    }
    if (mkdir(path, 0777) != 0 && errno != EEXIST)
        return err_errno(err, ERR_IO, errno, "making data folder %s", path);
    return true;
}

static bool lock_dir(struct data_dir *d, struct err *err)
{
    char file[PATH_MAX], pid[32] = "";
    snprintf(file, sizeof(file), "%s/lock", d->path);
    d->lock_fd = open(file, O_RDWR | O_CREAT | O_CLOEXEC, 0666);
    if (d->lock_fd < 0)
        return err_errno(err, ERR_IO, errno, "data folder %s is not writable", d->path);
    if (flock(d->lock_fd, LOCK_EX | LOCK_NB) != 0) {
        ssize_t n = read(d->lock_fd, pid, sizeof(pid) - 1);
        pid[n > 0 ? strcspn(pid, "\n") : 0] = '\0';
        return err_set(err, ERR_CONFLICT, "data folder %s is in use by another process (pid %s)", d->path, pid);
    }
    int n = snprintf(pid, sizeof(pid), "%d\n", (int)getpid());
    if (ftruncate(d->lock_fd, 0) != 0 || write(d->lock_fd, pid, (size_t)n) != n)
        return err_errno(err, ERR_IO, errno, "writing %s", file);
    return true;
}

static bool read_seed(const char *file, uint64_t *ret, bool *ret_absent, struct err *err)
{
    FILE *f = fopen(file, "re");
    *ret_absent = !f && errno == ENOENT;
    if (!f)
        return *ret_absent ? true : err_errno(err, ERR_IO, errno, "reading %s", file);
    char text[32] = "", *end = text;
    if (fgets(text, sizeof(text), f))
        *ret = strtoull(text, &end, 16);
    fclose(f);
    return end == text + 16 && *end == '\n' ? true : err_set(err, ERR_CORRUPT, "%s does not hold 16 hex digits", file);
}

/* Beside, synced, renamed: a crash leaves either no seed or a whole one. */
static bool write_seed(const char *file, uint64_t seed, struct err *err)
{
    char tmp[PATH_MAX + 8];
    snprintf(tmp, sizeof(tmp), "%s.tmp", file);
    FILE *f = fopen(tmp, "we");
    if (!f)
        return err_errno(err, ERR_IO, errno, "writing %s", tmp);
    bool ok = fprintf(f, "%016" PRIx64 "\n", seed) > 0 && fflush(f) == 0 && fsync(fileno(f)) == 0;
    int errnum = errno;
    fclose(f);
    if (ok && rename(tmp, file) == 0)
        return true;
    return err_errno(err, ERR_IO, ok ? errno : errnum, "writing %s", file);
}

static bool load_seed(struct data_dir *d, struct err *err)
{
    char file[PATH_MAX];
    bool absent;
    snprintf(file, sizeof(file), "%s/hash-seed", d->path);
    if (!read_seed(file, &d->hash_seed, &absent, err))
        return false;
    if (!absent)
        return true;
    if (getrandom(&d->hash_seed, sizeof(d->hash_seed), 0) != sizeof(d->hash_seed))
        return err_errno(err, ERR_IO, errno, "getrandom");
    return write_seed(file, d->hash_seed, err);
}

bool data_dir_open(struct data_dir *d, const char *path, struct err *err)
{
    *d = (struct data_dir){.path = path, .lock_fd = -1};
    if (data_dir_make(path, err) && lock_dir(d, err) && load_seed(d, err))
        return true;
    data_dir_close(d);
    return false;
}

void data_dir_close(struct data_dir *d)
{
    if (d->lock_fd >= 0)
        close(d->lock_fd);
    d->lock_fd = -1;
}
