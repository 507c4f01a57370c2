/* Writes the chunks of a block into segments of at most 512 MiB; a new one is begun where Prometheus's writer begins one. One thread. */
#pragma once

#include "storage/block/out_int.h"
#include "storage/block/segment_int.h"
#include "storage/queryable.h"

#define SEGMENT_MAX_BYTES (UINT64_C(512) << 20)

struct segment_writer {
    const char *dir; /* not owned: the folder chunks/ */
    struct out out;  /* of the segment at hand */
    uint64_t *sizes; /* owned; of the segments before it */
    size_t n, cap;   /* of sizes */
    uint64_t max_bytes;
};

void segment_writer_init(struct segment_writer *w, const char *dir);
/* The chunks of one series; their references. */
bool segment_writer_add(struct segment_writer *w, const struct series_chunk *chunks, size_t n, uint64_t *ret_refs, struct err *err);
bool segment_writer_finish(struct segment_writer *w, struct err *err);
void segment_writer_release(struct segment_writer *w);
