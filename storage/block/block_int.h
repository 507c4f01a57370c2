/* What the reading half of the room shares: the open block. Immutable after block_open, but for the notes of what is resident. */
#pragma once

#include "base/resident.h"
#include "storage/block/block.h"
#include "storage/block/index.h"
#include "storage/block/segment_int.h"

#define TOMBSTONES_MAGIC UINT32_C(0x0130BA30)
#define TOMBSTONES_HEADER_BYTES 5
#define MAPPING_RESIDENT ((size_t)2 << 20) /* of what readers have touched of a file, so much stays in the page tables */

struct mapping {
    char *path;    /* owned */
    const void *p; /* NULL when the file is empty */
    size_t n;
    struct resident_map *resident; /* owned, NULL as long as p is */
};

struct block {
    char *dir;          /* owned */
    struct arena arena; /* the strings of meta */
    struct block_meta meta;
    struct mapping index_file;
    struct index index;
    struct mapping *segment_files; /* owned, n_segments */
    struct segment *segments;      /* owned */
    size_t n_segments;
};

/* index_series_read of the mapping. */
bool block_read_series(const struct block *b, uint32_t ref, struct index_series *ret, struct err *err);
/* The chunk that the index describes, its bytes in the mapping. */
bool block_read_chunk(const struct block *b, const struct index_chunk *c, struct series_chunk *ret, struct err *err);
