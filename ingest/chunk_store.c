#include "ingest/chunk_store_int.h"

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

#define XXH_INLINE_ALL
#include <xxhash.h>

#include "base/assert.h"
#include "base/big_file.h"
#include "base/clock.h"
#include "base/logger.h"
#include "ingest/files_int.h"
#include "ingest/region_int.h"

#define RETRY_MS 1000
#define FETCH_BYTES 256u /* of a chunk that is read soon */

/* A part of the tail: bytes of one file from file_off on. A chunk never straddles two. */
struct chunk_tail_block {
    struct chunk_tail_block *next;
    struct chunk_file *file;
    uint32_t file_off;
    uint32_t used;    /* writer: appender under lock */
    uint32_t flushed; /* writer: flusher under lock */
    uint32_t cap;
    char data[];
};

static const char magic[12] = "BRUNNCHUNKS";

static void file_path(const struct chunk_store *cs, uint32_t number, char *out, size_t cap)
{
    snprintf(out, cap, "%s/%06" PRIu32, cs->dir, number);
}

static void spare_path(const struct chunk_store *cs, unsigned number, char *out, size_t cap)
{
    snprintf(out, cap, "%s/spare-%u", cs->dir, number);
}

/* True: nobody has it any more. */
static bool file_unref(struct chunk_file *f)
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

/* --- life cycle --- */

static struct chunk_store *store_alloc(const char *dir)
{
    struct chunk_store *cs = xcalloc(1, sizeof(*cs));
    cs->dir = xmalloc(strlen(dir) + 1);
    strcpy(cs->dir, dir);
    pthread_mutex_init(&cs->io, NULL);
    pthread_mutex_init(&cs->lock, NULL);
    cs->next_number = 1;
    cs->tail_max = CHUNK_TAIL_MAX;
    return cs;
}

static struct chunk_file *file_add(struct chunk_store *cs, uint32_t number)
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

/* Removes what the checkpoint does not name: chunks that the replay will make again, and spares. */
static bool remove_others(const char *dir, const struct chunk_file_state *files, size_t n, struct err *err)
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

struct chunk_store *chunk_store_new(const char *dir, struct err *err)
{
    return chunk_store_open(dir, NULL, 0, err);
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

static bool file_open_existing(struct chunk_store *cs, const struct chunk_file_state *st, struct err *err)
{
    char path[4096];
    file_path(cs, st->number, path, sizeof(path));
    struct chunk_file *f = file_add(cs, st->number);
    f->fd = open(path, O_RDWR | O_CLOEXEC);
    struct stat sb;
    if (f->fd < 0 || fstat(f->fd, &sb) != 0)
        return err_errno(err, ERR_IO, errno, "opening %s", path);
    char head[CHUNK_FILE_HEADER];
    if (st->len < CHUNK_FILE_HEADER || st->len > CHUNK_FILE_MAP || (uint64_t)sb.st_size < st->len ||
        pread(f->fd, head, sizeof(head), 0) != (ssize_t)sizeof(head) || memcmp(head, magic, sizeof(magic)) != 0)
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

struct chunk_store *chunk_store_open(const char *dir, const struct chunk_file_state *files, size_t n, struct err *err)
{
    if (!dir_make(dir, err) || !remove_others(dir, files, n, err))
        return NULL;
    struct chunk_store *cs = store_alloc(dir);
    for (size_t i = 0; i < n; i++) {
        bool ascending = files[i].number >= cs->next_number && files[i].number < UINT32_MAX;
        if (!ascending)
            err_set(err, ERR_CORRUPT, "chunk files of %s are not in order", dir);
        if (!ascending || !file_open_existing(cs, &files[i], err)) {
            chunk_store_free(cs);
            return NULL;
        }
    }
    return cs;
}

void chunk_store_free(struct chunk_store *cs)
{
    if (!cs)
        return;
    for (struct chunk_tail_block *b = cs->tail_first, *next; b; b = next) {
        next = b->next;
        free(b);
    }
    for (size_t i = 0; i < cs->n_files; i++)
        file_unref(cs->files[i]);
    free(cs->files);
    free(cs->dir);
    pthread_mutex_destroy(&cs->io);
    pthread_mutex_destroy(&cs->lock);
    free(cs);
}

/* --- append --- */

static struct chunk_tail_block *tail_add(struct chunk_store *cs, struct chunk_file *f, uint32_t need)
{
    uint32_t cap = MAX(need, CHUNK_TAIL_FLUSH);
    /* The first blocks are small: most tenants write few chunks. */
    if (!cs->tail_first)
        cap = MAX(need, 16u << 10);
    struct chunk_tail_block *b = xmalloc(sizeof(*b) + cap);
    *b = (struct chunk_tail_block){.file = f, .file_off = f->len, .cap = cap};
    if (cs->tail_last)
        cs->tail_last->next = b;
    else
        cs->tail_first = b;
    cs->tail_last = b;
    return b;
}

/* The file and block that take `need` more bytes. Out-of-order chunks widen the span at once: a short file is not
 * rolled for it. */
static struct chunk_tail_block *tail_for(struct chunk_store *cs, uint32_t need, int64_t min_t, int64_t max_t)
{
    struct chunk_file *f = cs->n_files ? cs->files[cs->n_files - 1] : NULL;
    bool roll = !f || f->dead || f->len + need > CHUNK_FILE_BYTES ||
                (f->len > CHUNK_FILE_SHORT &&
                 (uint64_t)MAX(f->max_t, max_t) - (uint64_t)MIN(f->min_t, min_t) > CHUNK_FILE_SPAN_MS);
    if (roll) {
        f = file_add(cs, cs->next_number);
        struct chunk_tail_block *b = tail_add(cs, f, need + CHUNK_FILE_HEADER);
        uint32_t version = 1;
        memcpy(b->data, magic, sizeof(magic));
        memcpy(b->data + sizeof(magic), &version, sizeof(version));
        b->used = f->len = CHUNK_FILE_HEADER;
        return b;
    }
    struct chunk_tail_block *b = cs->tail_last;
    return b && b->file == f && b->cap - b->used >= need ? b : tail_add(cs, f, need);
}

struct chunk_entry chunk_store_append(struct chunk_store *cs, enum chunk_encoding enc, uint8_t flags, int count,
                                      struct slice data, int64_t min_t, int64_t max_t)
{
    ASSERT(data.n <= CHUNK_MAX_DATA && max_t >= min_t && max_t - min_t <= UINT32_MAX);
    uint32_t need = (CHUNK_HEADER + (uint32_t)data.n + 3) & ~3u;
    pthread_mutex_lock(&cs->lock);
    struct chunk_tail_block *b = tail_for(cs, need, min_t, max_t);
    struct chunk_file *f = b->file;
    char *p = b->data + b->used;
    memset(p + need - 4, 0, 4);
    uint32_t len = (uint32_t)data.n;
    uint16_t n = (uint16_t)count;
    memcpy(p + 4, &len, 4);
    memcpy(p + 8, &n, 2);
    p[10] = (char)enc;
    p[11] = (char)flags;
    memcpy(p + CHUNK_HEADER, data.p, data.n);
    uint32_t sum = (uint32_t)XXH3_64bits(p + 4, CHUNK_HEADER - 4 + data.n);
    memcpy(p, &sum, 4);
    struct chunk_entry e = {.min_t = min_t,
                            .span_ms = (uint32_t)(max_t - min_t),
                            .file = f->number,
                            .pos = f->len,
                            .count = n,
                            .encoding = (uint8_t)enc,
                            .flags = flags};
    b->used += need;
    f->len += need;
    f->min_t = MIN(f->min_t, min_t);
    f->max_t = MAX(f->max_t, max_t);
    atomic_fetch_add_explicit(&cs->tail_bytes, need, memory_order_relaxed);
    pthread_mutex_unlock(&cs->lock);
    return e;
}

/* --- flush --- */

/* The last spare gets the name, if there is one. Only a name that nothing refers to yet is ever made. */
static void take_spare(struct chunk_store *cs, const char *path)
{
    char spare[4096];
    if (cs->n_spares == 0)
        return;
    spare_path(cs, --cs->n_spares, spare, sizeof(spare));
    (void)rename(spare, path); /* else a new one is made */
}

static bool file_make(struct chunk_store *cs, struct chunk_file *f, struct err *err)
{
    char path[4096];
    file_path(cs, f->number, path, sizeof(path));
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

/* Writes one block's bytes up to `used`. The caller holds io, so that the block stays. */
static bool flush_block(struct chunk_store *cs, struct chunk_tail_block *b, uint32_t used, struct err *err)
{
    struct chunk_file *f = b->file;
    if (f->fd < 0 && !file_make(cs, f, err))
        return false;
    if (!write_at(f->fd, b->data + b->flushed, used - b->flushed, (off_t)b->file_off + b->flushed)) {
        char path[4096];
        int saved = errno;
        file_path(cs, f->number, path, sizeof(path));
        return err_errno(err, ERR_IO, saved, "writing %s", path);
    }
    /* On its way at once and not awaited: the next checkpoint's sync would hold up the log's while it wrote all that has gathered. */
    (void)sync_file_range(f->fd, (off_t)b->file_off + b->flushed, used - b->flushed, SYNC_FILE_RANGE_WRITE);
    atomic_store_explicit(&f->flushed, b->file_off + used, memory_order_release);
    return true;
}

static bool flush_tail(struct chunk_store *cs, struct err *err)
{
    for (;;) {
        pthread_mutex_lock(&cs->lock);
        struct chunk_tail_block *b = cs->tail_first;
        uint32_t used = b ? b->used : 0;
        bool last = b == cs->tail_last;
        pthread_mutex_unlock(&cs->lock);
        if (!b || (last && used == b->flushed))
            return true;
        if (used > b->flushed && !flush_block(cs, b, used, err))
            return false;
        pthread_mutex_lock(&cs->lock);
        atomic_fetch_sub_explicit(&cs->tail_bytes, MIN(used - b->flushed, atomic_load(&cs->tail_bytes)),
                                  memory_order_relaxed);
        b->flushed = used;
        /* The last block goes too once it is full enough: the next append makes a new one. */
        bool done = b->used == used && (b != cs->tail_last || b->cap - b->used < CHUNK_MAX_BYTES);
        if (done) {
            cs->tail_first = b->next;
            if (!b->next)
                cs->tail_last = NULL;
        }
        pthread_mutex_unlock(&cs->lock);
        if (done)
            free(b);
    }
}

bool chunk_store_flush(struct chunk_store *cs, bool all, struct err *err)
{
    if (!all && (atomic_load_explicit(&cs->tail_bytes, memory_order_relaxed) < CHUNK_TAIL_FLUSH ||
                 clock_mono_ms() < atomic_load_explicit(&cs->retry_at_ms, memory_order_relaxed)))
        return true;
    pthread_mutex_lock(&cs->io);
    bool ok = flush_tail(cs, err);
    pthread_mutex_unlock(&cs->io);
    atomic_store_explicit(&cs->retry_at_ms, ok ? 0 : clock_mono_ms() + RETRY_MS, memory_order_relaxed);
    return ok;
}

/* --- checkpoint --- */

/* final_len: of a file that gets no more bytes; UINT32_MAX for the one that is appended to. */
static bool sync_file(struct chunk_store *cs, struct chunk_file *f, uint32_t final_len, struct err *err)
{
    uint32_t flushed = atomic_load_explicit(&f->flushed, memory_order_relaxed);
    if (f->synced < flushed && fdatasync(f->fd) != 0)
        return err_errno(err, ERR_IO, errno, "syncing %s/%06" PRIu32, cs->dir, f->number);
    f->synced = flushed;
    if (f->fd >= 0 && f->synced == final_len) {
        close(f->fd);
        f->fd = -1;
    }
    return true;
}

/* The caller holds io: files are added under lock, but removed only under io. */
static bool sync_files(struct chunk_store *cs, struct chunk_file_state *ret, size_t n, size_t *ret_n, struct err *err)
{
    for (size_t i = 0; i < n; i++) {
        pthread_mutex_lock(&cs->lock);
        struct chunk_file *f = cs->files[i];
        uint32_t final_len = i + 1 == cs->n_files ? UINT32_MAX : f->len;
        pthread_mutex_unlock(&cs->lock);
        if (!sync_file(cs, f, final_len, err))
            return false;
        pthread_mutex_lock(&cs->lock);
        f->left_out = f->dead;
        if (!f->dead && f->synced > 0)
            ret[(*ret_n)++] = (struct chunk_file_state){f->number, f->synced, f->min_t, f->max_t};
        pthread_mutex_unlock(&cs->lock);
    }
    return true;
}

bool chunk_store_sync(struct chunk_store *cs, struct chunk_file_state **ret, size_t *ret_n, struct err *err)
{
    pthread_mutex_lock(&cs->io);
    bool ok = flush_tail(cs, err);
    pthread_mutex_lock(&cs->lock);
    size_t n = cs->n_files;
    pthread_mutex_unlock(&cs->lock);
    struct chunk_file_state *states = xcalloc(n, sizeof(*states));
    size_t n_states = 0;
    ok = ok && sync_files(cs, states, n, &n_states, err);
    if (ok && cs->dir_dirty) {
        ok = dir_sync(cs->dir, err);
        cs->dir_dirty = !ok;
    }
    pthread_mutex_unlock(&cs->io);
    if (!ok) {
        free(states);
        return false;
    }
    *ret = states;
    *ret_n = n_states;
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
        file_path(cs, f->number, path, sizeof(path));
        bool is_unused = file_unref(f);
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

/* Is all of the file on disk? A last block with nothing left to write goes, so that nobody appends to the file any
 * more. */
static bool file_settled(struct chunk_store *cs, const struct chunk_file *f)
{
    struct chunk_tail_block *b = cs->tail_last;
    if (atomic_load_explicit(&f->flushed, memory_order_relaxed) != f->len)
        return false;
    if (b && b->file == f) {
        ASSERT(b == cs->tail_first && b->flushed == b->used);
        free(b);
        cs->tail_first = cs->tail_last = NULL;
    }
    return true;
}

uint64_t chunk_store_mark(struct chunk_store *cs)
{
    pthread_mutex_lock(&cs->lock);
    const struct chunk_file *f = cs->n_files ? cs->files[cs->n_files - 1] : NULL;
    uint64_t mark = f ? (uint64_t)f->number << 32 | f->len : (uint64_t)cs->next_number << 32;
    pthread_mutex_unlock(&cs->lock);
    return mark;
}

void chunk_files_used_init(struct chunk_files_used *u, struct chunk_store *cs)
{
    pthread_mutex_lock(&cs->lock);
    u->first = cs->n_files ? cs->files[0]->number : cs->next_number;
    u->n = cs->next_number - u->first;
    pthread_mutex_unlock(&cs->lock);
    u->used = xcalloc((size_t)u->n + 1, 1);
}

void chunk_files_used_release(struct chunk_files_used *u)
{
    free(u->used);
    u->used = NULL;
}

size_t chunk_store_drop(struct chunk_store *cs, const struct chunk_files_used *u, uint64_t mark)
{
    size_t n = 0;
    pthread_mutex_lock(&cs->io);
    pthread_mutex_lock(&cs->lock);
    for (size_t i = 0; i < cs->n_files; i++) {
        struct chunk_file *f = cs->files[i];
        bool looked_at = f->number - u->first < u->n && ((uint64_t)f->number << 32 | f->len) <= mark;
        /* A file with bytes in the tail is still to be written: it goes at the next truncation. */
        if (!f->dead && looked_at && !u->used[f->number - u->first] && file_settled(cs, f)) {
            f->dead = true;
            n++;
        }
    }
    pthread_mutex_unlock(&cs->lock);
    pthread_mutex_unlock(&cs->io);
    return n;
}

void chunk_store_forget(struct chunk_store *cs)
{
    pthread_mutex_lock(&cs->io);
    pthread_mutex_lock(&cs->lock);
    for (struct chunk_tail_block *b = cs->tail_first, *next; b; b = next) {
        next = b->next;
        free(b);
    }
    cs->tail_first = cs->tail_last = NULL;
    atomic_store(&cs->tail_bytes, 0);
    for (size_t i = 0; i < cs->n_files; i++)
        file_unref(cs->files[i]);
    cs->n_files = 0;
    pthread_mutex_unlock(&cs->lock);
    pthread_mutex_unlock(&cs->io);
}

uint64_t chunk_store_disk_bytes(struct chunk_store *cs)
{
    uint64_t n = 0;
    pthread_mutex_lock(&cs->lock);
    for (size_t i = 0; i < cs->n_files; i++)
        n += atomic_load_explicit(&cs->files[i]->flushed, memory_order_relaxed);
    pthread_mutex_unlock(&cs->lock);
    return n;
}

/* --- readers --- */

void chunk_pins_release(struct chunk_pins *pins)
{
    for (size_t i = 0; i < pins->n; i++)
        file_unref(pins->files[i]);
    free(pins->files);
    pins->files = NULL;
    pins->n = 0;
}

void chunk_pins_init(struct chunk_pins *pins, struct chunk_store *cs)
{
    *pins = (struct chunk_pins){.cs = cs};
    pthread_mutex_lock(&cs->lock);
    if (cs->n_files) {
        pins->files = xmalloc(cs->n_files * sizeof(*pins->files));
        pins->n = cs->n_files;
        for (size_t i = 0; i < cs->n_files; i++) {
            pins->files[i] = cs->files[i];
            atomic_fetch_add_explicit(&cs->files[i]->refs, 1, memory_order_relaxed);
        }
    }
    pthread_mutex_unlock(&cs->lock);
}

static struct chunk_file *pins_find(const struct chunk_pins *pins, uint32_t number)
{
    size_t lo = 0;
    size_t hi = pins->n;
    while (lo < hi) {
        size_t mid = (lo + hi) / 2;
        if (pins->files[mid]->number < number)
            lo = mid + 1;
        else
            hi = mid;
    }
    return lo < pins->n && pins->files[lo]->number == number ? pins->files[lo] : NULL;
}

/* Files made since the pins were taken come after the pinned ones; earlier pins stay, as slices point into their
 * mappings. */
static void pins_refresh(struct chunk_pins *pins)
{
    struct chunk_store *cs = pins->cs;
    uint32_t newest = pins->n ? pins->files[pins->n - 1]->number : 0;
    pthread_mutex_lock(&cs->lock);
    size_t from = cs->n_files;
    while (from > 0 && cs->files[from - 1]->number > newest)
        from--;
    if (from < cs->n_files)
        pins->files = xrealloc(pins->files, (pins->n + cs->n_files - from) * sizeof(*pins->files));
    for (size_t i = from; i < cs->n_files; i++) {
        pins->files[pins->n++] = cs->files[i];
        atomic_fetch_add_explicit(&cs->files[i]->refs, 1, memory_order_relaxed);
    }
    pthread_mutex_unlock(&cs->lock);
}

/* Checks the chunk at p, of which `have` bytes are there. */
static bool chunk_at(const char *p, size_t have, struct slice *ret)
{
    uint32_t sum;
    uint32_t len;
    if (have < CHUNK_HEADER)
        return false;
    memcpy(&sum, p, 4);
    memcpy(&len, p + 4, 4);
    if (len > have - CHUNK_HEADER || (uint32_t)XXH3_64bits(p + 4, CHUNK_HEADER - 4 + (size_t)len) != sum)
        return false;
    *ret = slice_make(p + CHUNK_HEADER, len);
    return true;
}

/* The chunk from the tail, copied; CHUNK_READ_CORRUPT also when it is no longer there, because it was flushed
 * meanwhile. */
static enum chunk_read read_tail(struct chunk_store *cs, const struct chunk_file *f, uint32_t pos, struct arena *arena,
                                 struct slice *ret)
{
    enum chunk_read result = CHUNK_READ_CORRUPT;
    pthread_mutex_lock(&cs->lock);
    for (struct chunk_tail_block *b = cs->tail_first; b; b = b->next) {
        if (b->file != f || pos < b->file_off || pos - b->file_off >= b->used)
            continue;
        struct slice found;
        if (chunk_at(b->data + (pos - b->file_off), b->used - (pos - b->file_off), &found)) {
            *ret = arena_dup(arena, found);
            result = ret->p ? CHUNK_READ_OK : CHUNK_READ_NO_MEMORY;
        }
        break;
    }
    pthread_mutex_unlock(&cs->lock);
    return result;
}

void chunk_pins_fetch(const struct chunk_pins *pins, const struct chunk_entry *e, size_t n)
{
    for (size_t i = 0; i < n; i++) {
        const struct chunk_file *f = pins_find(pins, e[i].file);
        const char *map = f ? atomic_load_explicit(&f->map, memory_order_acquire) : NULL;
        if (!map || e[i].pos >= atomic_load_explicit(&f->flushed, memory_order_acquire))
            continue;
        /* What the processor fetches by itself follows from there. */
        for (unsigned at = 0; at < FETCH_BYTES; at += 64)
            __builtin_prefetch(map + e[i].pos + at);
    }
}

enum chunk_read chunk_pins_read(const struct chunk_pins *pins, const struct chunk_entry *e, struct slice *ret)
{
    struct chunk_file *f = pins_find(pins, e->file);
    uint32_t flushed = f ? atomic_load_explicit(&f->flushed, memory_order_acquire) : 0;
    const char *map = f ? atomic_load_explicit(&f->map, memory_order_acquire) : NULL;
    if (!map || e->pos >= flushed || !chunk_at(map + e->pos, flushed - e->pos, ret))
        return CHUNK_READ_CORRUPT;
    resident_map_touch(f->resident, map + e->pos, CHUNK_HEADER + ret->n);
    return CHUNK_READ_OK;
}

enum chunk_read chunk_store_read(struct chunk_pins *pins, const struct chunk_entry *e, struct arena *arena,
                                 struct slice *ret)
{
    struct chunk_file *f = pins_find(pins, e->file);
    if (!f) {
        pins_refresh(pins);
        f = pins_find(pins, e->file);
    }
    if (!f)
        return CHUNK_READ_CORRUPT;
    if (e->pos >= atomic_load_explicit(&f->flushed, memory_order_acquire)) {
        enum chunk_read r = read_tail(pins->cs, f, e->pos, arena, ret);
        if (r != CHUNK_READ_CORRUPT)
            return r;
    }
    return chunk_pins_read(pins, e, ret);
}
