/* The files of a chunk store: made, mapped, opened again, dropped; spares among them. */
#include "ingest/chunk_files_int.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/big_file.h"
#include "base/logger.h"
#include "ingest/region_int.h"

void chunk_file_path(const struct chunk_store *cs, uint32_t number, char *out, size_t cap)
{
    snprintf(out, cap, "%s/%06" PRIu32, cs->dir, number);
}

static void spare_path(const struct chunk_store *cs, unsigned number, char *out, size_t cap)
{
    snprintf(out, cap, "%s/spare-%u", cs->dir, number);
}

bool chunk_file_unref(struct chunk_file *f)
{
    if (atomic_fetch_sub_explicit(&f->refs, 1, memory_order_acq_rel) != 1)
        return false;
    char *map = atomic_load_explicit(&f->map, memory_order_relaxed);
    if (map)
        munmap(map, f->map_bytes);
    resident_map_free(f->resident);
    if (f->fd >= 0)
        close(f->fd);
    free(f);
    return true;
}

struct chunk_file *chunk_file_add(struct chunk_store *cs, uint32_t number)
{
    struct chunk_file *f = xcalloc(1, sizeof(*f));
    f->number = number;
    f->fd = -1;
    f->min_t = INT64_MAX;
    f->max_t = INT64_MIN;
    atomic_init(&f->refs, 1);
    cs->files = xrealloc(cs->files, (cs->n_files + 1) * sizeof(*cs->files));
    cs->files[cs->n_files++] = f;
    cs->next_number = number + 1;
    return f;
}

static bool named(const char *name, const struct chunk_file_state *files, size_t n)
{
    char *end;
    unsigned long number = strtoul(name, &end, 10);
    for (size_t i = 0; i < n && *end == 0; i++)
        if (files[i].number == number)
            return true;
    return false;
}

static bool is_ours(const char *name)
{
    return (name[0] >= '0' && name[0] <= '9') || strncmp(name, "spare-", 6) == 0;
}

bool chunk_files_remove_others(const char *dir, const struct chunk_file_state *files, size_t n, struct err *err)
{
    DIR *d = opendir(dir);
    if (!d)
        return err_errno(err, ERR_IO, errno, "opening %s", dir);
    bool ok = true;
    for (struct dirent *e; ok && (e = readdir(d));)
        if (is_ours(e->d_name) && !named(e->d_name, files, n) &&
            unlinkat(dirfd(d), e->d_name, 0) != 0)
            ok = err_errno(err, ERR_IO, errno, "removing %s/%s", dir, e->d_name);
    closedir(d);
    return ok;
}

/* Maps the whole address range that the file may still grow to; pages past its end are not touched before they exist.
 */
static bool file_map(struct chunk_file *f, const char *path, struct err *err)
{
    f->map_bytes = CHUNK_FILE_MAP;
    char *map = mmap(NULL, f->map_bytes, PROT_READ, MAP_SHARED | MAP_NORESERVE, f->fd, 0);
    if (map == MAP_FAILED)
        return err_errno(err, ERR_IO, errno, "mapping %s", path);
    f->resident = resident_map_new(map, f->map_bytes, CHUNK_FILE_RESIDENT);
    atomic_store_explicit(&f->map, map, memory_order_release);
    return true;
}

bool chunk_file_open(struct chunk_store *cs, const struct chunk_file_state *st, struct err *err)
{
    char path[4096];
    chunk_file_path(cs, st->number, path, sizeof(path));
    struct chunk_file *f = chunk_file_add(cs, st->number);
    f->fd = open(path, O_RDWR | O_CLOEXEC);
    struct stat sb;
    if (f->fd < 0 || fstat(f->fd, &sb) != 0)
        return err_errno(err, ERR_IO, errno, "opening %s", path);
    char head[CHUNK_FILE_HEADER];
    if (st->len < CHUNK_FILE_HEADER || st->len > CHUNK_FILE_MAP || (uint64_t)sb.st_size < st->len ||
        pread(f->fd, head, sizeof(head), 0) != (ssize_t)sizeof(head) || memcmp(head, chunk_file_magic, sizeof(chunk_file_magic)) != 0)
        return err_set(err, ERR_CORRUPT, "%s is shorter than its checkpoint says or is no chunk file", path);
    if (ftruncate(f->fd, st->len) != 0)
        return err_errno(err, ERR_IO, errno, "truncating %s", path);
    f->len = st->len;
    f->synced = st->len;
    f->min_t = st->min_t;
    f->max_t = st->max_t;
    atomic_store(&f->flushed, st->len);
    return file_map(f, path, err);
}

/* The last spare gets the name, if there is one. Only a name that nothing refers to yet is ever made. */
static void take_spare(struct chunk_store *cs, const char *path)
{
    char spare[4096];
    if (cs->n_spares == 0)
        return;
    spare_path(cs, --cs->n_spares, spare, sizeof(spare));
    (void)rename(spare, path); /* else a new one is made */
}

bool chunk_file_make(struct chunk_store *cs, struct chunk_file *f, struct err *err)
{
    char path[4096];
    chunk_file_path(cs, f->number, path, sizeof(path));
    take_spare(cs, path);
    f->fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0640);
    if (f->fd < 0)
        return err_errno(err, ERR_IO, errno, "making %s", path);
    (void)big_file_blank(f->fd);
    cs->dir_dirty = true;
    if (!file_map(f, path, err)) {
        close(f->fd);
        f->fd = -1;
        return false;
    }
    return true;
}

/* The next file that the checkpoint left out, taken off the list. The caller holds io. */
static struct chunk_file *take_left_out(struct chunk_store *cs)
{
    struct chunk_file *f = NULL;
    pthread_mutex_lock(&cs->lock);
    for (size_t i = 0; i < cs->n_files && !f; i++) {
        if (!cs->files[i]->left_out)
            continue;
        f = cs->files[i];
        memmove(&cs->files[i], &cs->files[i + 1], (cs->n_files - i - 1) * sizeof(*cs->files));
        cs->n_files--;
    }
    pthread_mutex_unlock(&cs->lock);
    return f;
}

/* True: the file is a spare. The caller holds io. */
static bool make_spare(struct chunk_store *cs, const char *path)
{
    char spare[4096];
    spare_path(cs, cs->n_spares, spare, sizeof(spare));
    if (cs->n_spares == CHUNK_SPARES_MAX || rename(path, spare) != 0)
        return false;
    cs->n_spares++;
    return true;
}

/* False: there is none. A file that a reader has pinned goes with the last pin. *ret_fd: of one that is to be freed, or -1. */
static bool drop_left_out(struct chunk_store *cs, int *ret_fd)
{
    char path[4096];
    *ret_fd = -1;
    pthread_mutex_lock(&cs->io);
    struct chunk_file *f = take_left_out(cs);
    if (f) {
        chunk_file_path(cs, f->number, path, sizeof(path));
        bool is_unused = chunk_file_unref(f);
        if (is_unused && !make_spare(cs, path))
            *ret_fd = open(path, O_WRONLY | O_CLOEXEC);
        if (unlink(path) != 0 && errno != ENOENT)
            LOG_WARN("could not remove a chunk file", {"path", LOG_STR(path)}, {"err", LOG_STR(strerror(errno))});
    }
    pthread_mutex_unlock(&cs->io);
    return f;
}

void chunk_store_unlink_dead(struct chunk_store *cs)
{
    for (int fd; drop_left_out(cs, &fd);)
        if (fd >= 0)
            big_file_free(fd);
}
