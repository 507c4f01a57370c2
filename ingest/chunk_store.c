#include "ingest/chunk_files_int.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define XXH_INLINE_ALL
#include <xxhash.h>

#include "base/assert.h"
#include "base/clock.h"
#include "ingest/files_int.h"
#include "ingest/region_int.h"

#define RETRY_MS 1000

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

struct chunk_store *chunk_store_new(const char *dir, struct err *err)
{
    return chunk_store_open(dir, NULL, 0, err);
}

struct chunk_store *chunk_store_open(const char *dir, const struct chunk_file_state *files, size_t n, struct err *err)
{
    if (!dir_make(dir, err) || !chunk_files_remove_others(dir, files, n, err))
        return NULL;
    struct chunk_store *cs = store_alloc(dir);
    for (size_t i = 0; i < n; i++) {
        bool ascending = files[i].number >= cs->next_number && files[i].number < UINT32_MAX;
        if (!ascending)
            err_set(err, ERR_CORRUPT, "chunk files of %s are not in order", dir);
        if (!ascending || !chunk_file_open(cs, &files[i], err)) {
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
        chunk_file_unref(cs->files[i]);
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
        f = chunk_file_add(cs, cs->next_number);
        struct chunk_tail_block *b = tail_add(cs, f, need + CHUNK_FILE_HEADER);
        uint32_t version = 1;
        memcpy(b->data, chunk_file_magic, sizeof(chunk_file_magic));
        memcpy(b->data + sizeof(chunk_file_magic), &version, sizeof(version));
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

/* Writes one block's bytes up to `used`. The caller holds io, so that the block stays. */
static bool flush_block(struct chunk_store *cs, struct chunk_tail_block *b, uint32_t used, struct err *err)
{
    struct chunk_file *f = b->file;
    if (f->fd < 0 && !chunk_file_make(cs, f, err))
        return false;
    if (!write_at(f->fd, b->data + b->flushed, used - b->flushed, (off_t)b->file_off + b->flushed)) {
        char path[4096];
        int saved = errno;
        chunk_file_path(cs, f->number, path, sizeof(path));
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
        chunk_file_unref(cs->files[i]);
    cs->n_files = 0;
    cs->n_spares = 0;
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
