/*
 * Region: one growable run of bytes, for data that refers to itself by index only. Small ones are malloc'ed, larger
 * ones are mappings of their own that grow by mremap, which moves page tables and not bytes: growth costs nothing a
 * byte, and pages never written take no memory.
 *
 * Growing may move the bytes: pointers into a region live no longer than the lock they were taken under.
 * When the system has no memory left the process ends with one line: a head that lost the middle of an append cannot go
 * on, and the log holds everything. Owned by whoever owns the structure around it.
 */
#pragma once

#include <stddef.h>
#include <stdint.h>

struct region {
    char *p;
    size_t n;   /* bytes in use */
    size_t cap; /* bytes reserved; a mapping when >= REGION_MAP_MIN */
};

#define REGION_MAP_MIN ((size_t)64 << 10)

void region_release(struct region *r);
void region_grow(struct region *r, size_t more);

/* `more` new bytes at the end, zeroed. */
static inline void *region_extend(struct region *r, size_t more)
{
    if (__builtin_expect(r->cap - r->n < more, 0))
        region_grow(r, more);
    void *p = r->p + r->n;
    r->n += more;
    return p;
}

/*
 * Makes the region `n` zero bytes and nothing else, with all their pages: for tables, which are read at random before
 * they are written. A page that is read first costs two faults, and the second one interrupts all cores.
 */
void region_remake(struct region *r, size_t n);

/* Nobody needs what stands in these bytes any more: their memory goes back to the system until they are written again. A small region keeps it. */
void region_forget(struct region *r, size_t from, size_t n);

_Noreturn void memory_exhausted(size_t bytes);
/* malloc and friends that do not return NULL. */
void *xmalloc(size_t n);
void *xcalloc(size_t n, size_t size);
void *xrealloc(void *p, size_t n);
