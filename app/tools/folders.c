#include <dirent.h>
#include <errno.h>
#include <ftw.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "app/tools/tools_int.h"
#include "base/assert.h"

#define PATH_CAP 4096

static bool is_block(const char *dir)
{
    char path[PATH_CAP];
    struct stat st;
    return (size_t)snprintf(path, sizeof(path), "%s/meta.json", dir) < sizeof(path) && stat(path, &st) == 0;
}

static int named_as_block(const struct dirent *entry)
{
    struct ulid u;
    return ulid_parse(slice_of(entry->d_name), &u);
}

static bool each_within(const char *dir, block_folder_fn *fn, void *arg, struct err *err)
{
    struct dirent **entries;
    int n = scandir(dir, &entries, named_as_block, alphasort);
    if (n < 0)
        return err_errno(err, ERR_IO, errno, "%s", dir);
    bool good = n > 0 || err_set(err, ERR_NOT_FOUND, "%s: no block, and none in it", dir);
    for (int i = 0; i < n; i++) {
        char path[PATH_CAP];
        if (good && (size_t)snprintf(path, sizeof(path), "%s/%s", dir, entries[i]->d_name) >= sizeof(path))
            good = err_set(err, ERR_BAD_DATA, "%s: too long a path", dir);
        good = good && fn(path, arg, err);
        free(entries[i]);
    }
    free(entries);
    return good;
}

bool each_block_folder(char **words, int n_words, block_folder_fn *fn, void *arg, struct err *err)
{
    for (int i = 0; i < n_words; i++)
        if (!(is_block(words[i]) ? fn(words[i], arg, err) : each_within(words[i], fn, arg, err)))
            return false;
    return true;
}

/* --- one block ---------------------------------------------------------------------------------------------------------------- */

static bool read_meta(const char *dir, struct arena *arena, struct block_meta *ret, struct err *err)
{
    char path[PATH_CAP];
    snprintf(path, sizeof(path), "%s/meta.json", dir);
    FILE *f = fopen(path, "re");
    if (!f)
        return err_errno(err, errno == ENOENT ? ERR_NOT_FOUND : ERR_IO, errno, "%s", path);
    struct buf json;
    size_t got = 1;
    buf_init(&json, BLOCK_META_MAX_BYTES);
    while (got && buf_reserve(&json, 65536)) {
        got = fread(json.p + json.n, 1, 65536, f);
        json.n += got;
    }
    bool good = !ferror(f) && !json.failed ? block_meta_decode(buf_slice(&json), arena, ret, err) : err_set(err, ERR_IO, "it cannot be read");
    fclose(f);
    buf_release(&json);
    return good || err_prefix(err, "%s: ", path);
}

static uint64_t size_of(const char *dir, const char *name)
{
    char path[PATH_CAP];
    struct stat st;
    snprintf(path, sizeof(path), "%s/%s", dir, name);
    return stat(path, &st) == 0 ? (uint64_t)st.st_size : 0;
}

bool read_block_folder(const char *dir, struct arena *arena, struct block_meta *ret, uint64_t *ret_bytes, struct err *err)
{
    if (!read_meta(dir, arena, ret, err))
        return false;
    *ret_bytes = size_of(dir, "index") + size_of(dir, "meta.json") + size_of(dir, "tombstones");
    for (unsigned i = 1;; i++) {
        char name[32];
        snprintf(name, sizeof(name), "chunks/%06u", i);
        uint64_t bytes = size_of(dir, name);
        if (bytes == 0)
            return true;
        *ret_bytes += bytes;
    }
}

static int remove_one(const char *path, const struct stat *st, int type, struct FTW *ftw)
{
    (void)st, (void)type, (void)ftw;
    if (remove(path) != 0)
        fprintf(stderr, "brunn: removing %s: %s\n", path, strerror(errno));
    return 0;
}

void remove_folder(const char *dir)
{
    nftw(dir, remove_one, 16, FTW_DEPTH | FTW_PHYS);
}
