/*
 * What of mapped files stays in the page tables of the process. A page of a file that was read once counts as the process's memory until its mapping ends, though
 * nobody may read it again and the kernel keeps it in the page cache in any case. Taking it out of the page tables costs the next reader a fault, not a read of
 * the disk: the kernel maps 64 KiB around each fault of what it has in the page cache.
 *
 *     resident_forget_code    of the program and its libraries, what only the start has needed
 *     resident_map            of one mapped file, so many bytes of what readers have touched; more while they touch much in a short time
 *
 * Nobody else may write to these mappings: what is forgotten is read from the file again.
 */
#pragma once

#include <stdatomic.h>
#include <stddef.h>
#include <stdint.h>

/* Once, when the process is up. Relocated data stays: only segments that are never writable are looked at. Any thread. */
void resident_forget_code(void);

#define RESIDENT_WINDOW_SHIFT 16 /* what the kernel maps around a fault */
#define RESIDENT_PAUSE_NS 50000 /* a window that is mapped anew costs 1 to 2 us: at most 4 % of a core go there */

/*
 * A window that is touched is noted; with the first one too many the whole mapping is taken out of the page tables, and counting begins anew. Then, for as many pauses as it had
 * windows, nothing more is forgotten of any mapping of the process: who reads all of a big file in no order would else have a fault for each window that it comes to. So a
 * working set below the bound stays mapped, and what was read once goes with the next reader. Pointers into the mapping stay good. What is read through them after that,
 * without being touched again, is not counted.
 */
struct resident_map {
    char *p;
    size_t n_bytes;
    size_t max_windows;
    int64_t pause_ns; /* RESIDENT_PAUSE_NS; other in tests */
    _Atomic size_t n_seen;
    size_t n_words;
    _Atomic uint64_t seen[]; /* a bit a window; all relaxed: a bit that is set too late or too early costs a fault, or is counted twice */
};

/* Of n_bytes at p, mapped shared and read-only, of which max_bytes stay. Never NULL. The mapping is the caller's, and ends after this. */
struct resident_map *resident_map_new(const void *p, size_t n_bytes, size_t max_bytes);
void resident_map_free(struct resident_map *m); /* NULL is fine */
void resident_map_note(struct resident_map *m, size_t window);

static inline size_t resident_window(const struct resident_map *m, const char *p)
{
    return ((uintptr_t)p >> RESIDENT_WINDOW_SHIFT) - ((uintptr_t)m->p >> RESIDENT_WINDOW_SHIFT);
}

/* Somebody reads n bytes, n > 0, at p inside of the mapping. Any thread. */
static inline void resident_map_touch(struct resident_map *m, const void *p, size_t n)
{
    size_t last = resident_window(m, (const char *)p + n - 1);
    for (size_t w = resident_window(m, p); w <= last; w++)
        if (!(atomic_load_explicit(&m->seen[w / 64], memory_order_relaxed) >> w % 64 & 1))
            resident_map_note(m, w);
}
