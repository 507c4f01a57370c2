#include "ingest/region_int.h"

#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "base/assert.h"
#include "base/logger.h"

_Noreturn void memory_exhausted(size_t bytes)
{
    LOG_ERROR("out of memory: the ingester ends here and goes on from its log at the next start",
              {"bytes", LOG_U64(bytes)});
    abort();
}

void *xmalloc(size_t n)
{
    void *p = malloc(n ? n : 1);
    if (!p)
        memory_exhausted(n);
    return p;
}

void *xcalloc(size_t n, size_t size)
{
    void *p = calloc(n ? n : 1, size ? size : 1);
    if (!p)
        memory_exhausted(n);
    return p;
}

void *xrealloc(void *p, size_t n)
{
    void *q = realloc(p, n ? n : 1);
    if (!q)
        memory_exhausted(n);
    return q;
}

void region_release(struct region *r)
{
    if (r->cap >= REGION_MAP_MIN)
        munmap(r->p, r->cap);
    else
        free(r->p);
    *r = (struct region){0};
}

/* Anonymous pages are zero until written, so only malloc'ed regions are cleared by hand. */
static char *map_bytes(const struct region *r, size_t cap)
{
    char *p;
    if (r->cap >= REGION_MAP_MIN) {
        p = mremap(r->p, r->cap, cap, MREMAP_MAYMOVE);
    } else {
        p = mmap(NULL, cap, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
        if (p != MAP_FAILED && r->n)
            memcpy(p, r->p, r->n);
    }
    if (p == MAP_FAILED)
        memory_exhausted(cap);
    return p;
}

void region_grow(struct region *r, size_t more)
{
    size_t need = r->n + more;
    ASSERT(need >= more);
    size_t cap = MAX(need, r->cap + r->cap / 2);
    if (cap < REGION_MAP_MIN) {
        cap = MAX(cap, (size_t)256);
        r->p = xrealloc(r->p, cap);
        memset(r->p + r->n, 0, cap - r->n);
        r->cap = cap;
        return;
    }
    cap = (cap + REGION_MAP_MIN - 1) & ~(REGION_MAP_MIN - 1);
    char *p = map_bytes(r, cap);
    if (r->cap < REGION_MAP_MIN)
        free(r->p);
    r->p = p;
    r->cap = cap;
}

void region_forget(struct region *r, size_t from, size_t n)
{
    const size_t page = (size_t)sysconf(_SC_PAGESIZE);
    ASSERT(from <= r->n && n <= r->n - from);
    size_t end = (from + n) & ~(page - 1);
    from = (from + page - 1) & ~(page - 1);
    if (r->cap >= REGION_MAP_MIN && from < end)
        (void)madvise(r->p + from, end - from, MADV_DONTNEED);
}

void region_remake(struct region *r, size_t n)
{
    region_release(r);
    memset(region_extend(r, n), 0, n);
}
