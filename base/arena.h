/*
 * Arena: memory of one request or one query, freed all at once.
 *
 * An arena has a budget in bytes. When it is used up arena_alloc returns NULL and sets `overflow`, which the owner may
 * check once at the end of a stage instead of at each call.
 * Owned by one thread at a time. Blocks grow from 4 KiB (or the size given) to 1 MiB; larger requests get a block of
 * their own. Memory is 16-byte aligned and not zeroed, but for the z-variants.
 */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include "base/slice.h"

struct arena_block;

struct arena {
    char *cur; /* next free byte of the newest block */
    char *end;
    struct arena_block *blocks; /* newest first */
    size_t used_bytes;          /* bytes taken from the system */
    size_t budget_bytes;        /* 0 = no limit */
    size_t next_block_bytes;
    bool overflow;
};

void arena_init(struct arena *a, size_t budget_bytes);
void arena_release(struct arena *a);
/* Frees all but the first block and starts again: for reuse by the next request of a worker. */
void arena_clear(struct arena *a);

/*
 * As arena_clear, for work that comes in rounds that need about as much: several blocks become one of their size, up to 1 MiB, so that after two rounds nothing is allocated any more.
 */
void arena_rewind(struct arena *a);

void *arena_grow(struct arena *a, size_t n); /* slow path */

static inline void *arena_alloc(struct arena *a, size_t n)
{
    n = (n + 15) & ~(size_t)15;
    if (__builtin_expect((size_t)(a->end - a->cur) >= n, 1)) {
        void *p = a->cur;
        a->cur += n;
        return p;
    }
    return arena_grow(a, n);
}

static inline void *arena_zalloc(struct arena *a, size_t n)
{
    void *p = arena_alloc(a, n);
    if (p)
        memset(p, 0, n);
    return p;
}

/* n * size with overflow check. */
void *arena_array(struct arena *a, size_t n, size_t size);
#define ARENA_NEW(a, type) ((type *)arena_zalloc((a), sizeof(type)))
#define ARENA_ARRAY(a, type, n) ((type *)arena_array((a), (n), sizeof(type)))

/* A copy inside the arena; the copy is followed by a NUL that is not counted. {NULL,0} on overflow. */
struct slice arena_dup(struct arena *a, struct slice s);
char *arena_printf(struct arena *a, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
