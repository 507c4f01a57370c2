/* Reading chunks: from mappings that are pinned, or from the tail. */
#include "ingest/chunk_files_int.h"

#include <stdlib.h>
#include <string.h>

#define XXH_INLINE_ALL
#include <xxhash.h>

#include "base/assert.h"
#include "ingest/region_int.h"

#define FETCH_BYTES 256u /* of a chunk that is read soon */

void chunk_pins_release(struct chunk_pins *pins)
{
    for (size_t i = 0; i < pins->n; i++)
        chunk_file_unref(pins->files[i]);
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
