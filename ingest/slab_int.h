/*
 * Slabs: blocks of varying size inside one region, named by u32 handles (16-byte units from the region's start, plus
 * one; 0 = none).
 *
 * The region is cut into pages of 4 KiB. A run of pages serves one size class (1 page for blocks up to 320 bytes, 4
 * pages up to 3 KiB), or one large block. An empty run goes back to the free runs and is merged with its neighbours:
 * series that grow in step leave whole pages of the smaller class behind, which the next class takes over. (With free
 * lists a class alone, a chunk that grows from 32 to 1024 bytes leaves every smaller size behind for good.)
 *
 * The state (struct slabs_state, page descriptors, region) holds no pointers: it is written to a checkpoint as it is.
 * slabs_verify checks what came back from disk, so that no handle that passes slabs_check can lead outside the region.
 *
 * Cost: 28 bytes of descriptor a page; blocks waste at most an eighth (from 64 bytes up). Limit: 64 GiB a region. Owned
 * by the shard's writer.
 */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/assert.h"
#include "ingest/region_int.h"

#define SLAB_UNIT 16u
#define SLAB_PAGE 4096u
#define SLAB_PAGE_UNITS (SLAB_PAGE / SLAB_UNIT)
#define SLAB_CLASSES 26
#define SLAB_BINS 64 /* free runs of 1 .. 63 pages; the last bin has all longer ones */
#define SLAB_MAX_CLASS_BYTES 3072u

enum slab_page_kind { SLAB_FREE = 0, SLAB_BLOCKS = 1, SLAB_LARGE = 2, SLAB_INSIDE = 3 };

/* Of the first page of a run and the last one of a FREE run. Pages between have kind INSIDE and `first`; in a FREE run
 * they say nothing. */
struct slab_page {
    uint8_t kind;
    uint8_t cls;
    uint16_t used;  /* blocks in use; of a FREE run 1: slabs_give_back has had it */
    uint16_t bump;  /* blocks ever handed out */
    uint16_t free;  /* first free block + 1; 0 = none; the next one's number is in the block */
    uint32_t pages; /* length of the run; of a FREE run's last page too */
    uint32_t first; /* first page of the run */
    uint32_t next;  /* list of runs: partial ones of the class, or free ones of the bin; page + 1, 0 = end */
    uint32_t prev;
};

struct slabs_state {
    uint32_t partial[SLAB_CLASSES]; /* page + 1 */
    uint32_t bins[SLAB_BINS];
};

struct slabs {
    struct slabs_state state;
    struct region mem;
    struct region pages; /* struct slab_page[] */
};

extern const uint16_t slab_class_units[SLAB_CLASSES];

void slabs_release(struct slabs *s);
/* A block of at least n bytes, n > 0; its contents are whatever was there. */
uint32_t slab_alloc(struct slabs *s, size_t n);
void slab_free(struct slabs *s, uint32_t handle);
/* Moves a block to one of at least n bytes, keeping the first `keep` bytes. */
uint32_t slab_move(struct slabs *s, uint32_t handle, size_t n, size_t keep);

/*
 * Gives the memory of free runs back to the system, but for short ones, which the next blocks fill. Series start their chunks together, at the beginning of
 * a range, and then most of what the full ones took is free for the better part of that range. A run is given back once; what was taken from it meanwhile is written anew, a
 * fault a page.
 */
void slabs_give_back(struct slabs *s);

static inline void *slab_ptr(const struct slabs *s, uint32_t handle)
{
    return s->mem.p + (size_t)(handle - 1) * SLAB_UNIT;
}

static inline struct slab_page *slab_pages(const struct slabs *s)
{
    return (struct slab_page *)(void *)s->pages.p;
}

/* Bytes that the block really has. */
size_t slab_size(const struct slabs *s, uint32_t handle);

/* For state read from disk: is everything in it within bounds and consistent with itself? */
bool slabs_verify(struct slabs *s);
/* For a handle read from disk: does it name a block of at least n bytes? */
bool slab_check(const struct slabs *s, uint32_t handle, size_t n);
