#include "base/arena.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>

#include "base/assert.h"

#define ARENA_BLOCK_MIN ((size_t)4 << 10)
#define ARENA_BLOCK_MAX ((size_t)1 << 20)

struct arena_block {
    struct arena_block *next;
    size_t size; /* of the whole allocation, this header included */
    _Alignas(16) char bytes[];
};

void arena_init(struct arena *a, size_t budget_bytes)
{
    *a = (struct arena){.budget_bytes = budget_bytes, .next_block_bytes = ARENA_BLOCK_MIN};
}

static void free_blocks(struct arena *a, struct arena_block *keep)
{
    while (a->blocks != keep) {
        struct arena_block *next = a->blocks->next;
        a->used_bytes -= a->blocks->size;
        free(a->blocks);
        a->blocks = next;
    }
}

void arena_release(struct arena *a)
{
    free_blocks(a, NULL);
    arena_init(a, a->budget_bytes);
}

void arena_clear(struct arena *a)
{
    struct arena_block *first = a->blocks;
    while (first && first->next)
        first = first->next;
    free_blocks(a, first);
    a->overflow = false;
    a->next_block_bytes = ARENA_BLOCK_MIN;
    a->cur = first ? first->bytes : NULL;
    a->end = first ? (char *)first + first->size : NULL;
#ifdef BRUNN_SLOW_ASSERTS
    if (first)
        memset(a->cur, 0xA5, (size_t)(a->end - a->cur)); /* who still reads it is found out */
#endif
}

void arena_rewind(struct arena *a)
{
    if (!a->blocks || !a->blocks->next) {
        arena_clear(a);
        return;
    }
    size_t before = a->used_bytes;
    free_blocks(a, NULL);
    a->overflow = false;
    a->cur = a->end = NULL;
    a->next_block_bytes = MIN(before - a->used_bytes, ARENA_BLOCK_MAX);
}

static struct arena_block *new_block(struct arena *a, size_t size)
{
    if (a->budget_bytes && (size > a->budget_bytes || a->used_bytes > a->budget_bytes - size))
        return NULL;
    struct arena_block *b = malloc(size);
    if (b) {
        b->size = size;
        a->used_bytes += size;
    }
    return b;
}

void *arena_grow(struct arena *a, size_t n)
{
    if (n > SIZE_MAX / 2) {
        a->overflow = true;
        return NULL;
    }
    size_t need = (n + 15 + sizeof(struct arena_block)) & ~(size_t)15;
    /* What would leave most of a block unused gets one of its own, behind the block that is being filled. */
    bool own = a->blocks && need > a->next_block_bytes / 2;
    struct arena_block *b = new_block(a, own ? need : MAX(need, a->next_block_bytes));
    if (!b && !own)
        b = new_block(a, need); /* the last bytes of a budget */
    if (!b) {
        a->overflow = true;
        return NULL;
    }
    if (own) {
        b->next = a->blocks->next;
        a->blocks->next = b;
        return b->bytes;
    }
    b->next = a->blocks;
    a->blocks = b;
    a->cur = b->bytes + ((n + 15) & ~(size_t)15);
    a->end = (char *)b + b->size;
    a->next_block_bytes = MIN(a->next_block_bytes * 2, ARENA_BLOCK_MAX);
    return b->bytes;
}

void *arena_array(struct arena *a, size_t n, size_t size)
{
    size_t bytes;
    if (__builtin_mul_overflow(n, size, &bytes)) {
        a->overflow = true;
        return NULL;
    }
    /* An array of nothing has an address too: NULL means that there was no memory, and a new arena has none to point at. */
    return arena_alloc(a, bytes ? bytes : 1);
}

struct slice arena_dup(struct arena *a, struct slice s)
{
    char *p = arena_alloc(a, s.n + 1);
    if (!p)
        return (struct slice){NULL, 0};
    if (s.n)
        memcpy(p, s.p, s.n);
    p[s.n] = '\0';
    return slice_make(p, s.n);
}

char *arena_printf(struct arena *a, const char *fmt, ...)
{
    va_list ap;
    va_start(ap, fmt);
    va_list again;
    va_copy(again, ap);
    int n = vsnprintf(NULL, 0, fmt, ap);
    ASSERT(n >= 0);
    char *p = arena_alloc(a, (size_t)n + 1);
    if (p)
        vsnprintf(p, (size_t)n + 1, fmt, again);
    va_end(again);
    va_end(ap);
    return p;
}
