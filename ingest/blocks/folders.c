#include "ingest/blocks/folders_int.h"

#include <errno.h>
#include <fcntl.h>
#include <ftw.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define OPEN_FOLDERS 8

bool folder_make(const char *path, struct err *err)
{
    char part[4096];
    size_t n = strlen(path);
    if (n >= sizeof(part))
        return err_set(err, ERR_IO, "the path %.200s... is too long", path);
    for (size_t i = 1; i <= n; i++) {
        if (path[i] != '/' && path[i] != 0)
            continue;
        memcpy(part, path, i);
        part[i] = 0;
        if (mkdir(part, 0755) != 0 && errno != EEXIST)
            return err_errno(err, ERR_IO, errno, "making %s", part);
    }
    return true;
}

bool folder_sync(const char *path, struct err *err)
{
    int fd = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (fd < 0)
        return err_errno(err, ERR_IO, errno, "opening %s", path);
    bool ok = fsync(fd) == 0 || err_errno(err, ERR_IO, errno, "syncing %s", path);
    close(fd);
    return ok;
}

static int remove_one(const char *path, const struct stat *st, int type, struct FTW *f)
{
    (void)st, (void)type, (void)f;
    return remove(path);
}

bool folder_remove(const char *path, struct err *err)
{
    if (nftw(path, remove_one, OPEN_FOLDERS, FTW_DEPTH | FTW_PHYS) == 0 || errno == ENOENT)
        return true;
    return err_errno(err, ERR_IO, errno, "removing %s", path);
}
