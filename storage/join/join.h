/*
 * The chunks of one series from several sources, joined into chunks in order that do not overlap: what merging blocks and remote reads have in common.
 *
 * Chunks that touch no other's time are handed on, bytes as they are; of chunks that are the same byte for byte one is kept; others that overlap are decoded,
 * merged by time (of samples at one time the first source's wins), and encoded anew in chunks of at most 120 samples, as Prometheus's vertical compaction
 * does it.
 *
 * One struct join serves one series after the other and belongs to one thread.
 */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/arena.h"
#include "base/err.h"
#include "storage/queryable.h"

/* A chunk with the place of its source: of samples at one time the lowest source's wins. */
struct join_chunk {
    struct series_chunk chunk;
    uint32_t source;
};

/* What became of the samples: in = out + duplicates. */
struct join_stats {
    uint64_t series, samples_in, samples_out, duplicates; /* series: the caller counts them */
    uint64_t chunks_copied, chunks_merged, chunks_encoded; /* as they were; decoded; made of the latter */
};

struct join {
    struct join_chunk *in; /* owned; filled by join_put */
    size_t n_in, cap_in;
    struct series_chunk *out; /* owned; valid until the next start, as the bytes in `encoded` */
    size_t n_out, cap_out;
    struct arena decoded; /* of the overlapping chunks at hand */
    struct arena encoded;
    size_t n_bytes;       /* of chunks put; the caller takes it back to 0 */
    struct join_stats stats;
};

/* budget_bytes: of the decoded chunks of one group, and of the encoded ones of one series; 0 = no limit. Past it: ERR_NO_MEMORY. */
void join_init(struct join *m, size_t budget_bytes);
void join_release(struct join *m);
/* Another series. */
void join_start(struct join *m);
/* The chunks' bytes stay the caller's, and must stay until the result has been used. */
bool join_put(struct join *m, uint32_t source, const struct series_chunk *chunks, size_t n, struct err *err);
/* What was put, as chunks in order that do not overlap: m->out. ERR_CORRUPT: a chunk that is none. */
bool join_finish(struct join *m, struct err *err);

/*
 * Neighbours among chunks in order that are small floats' become one, of at most JOIN_PACK_SAMPLES samples and CHUNK_MAX_BYTES bytes: in place, new bytes in the
 * arena. Blocks get smaller by it (tests/bench/blocks). Chunks that cannot be read are left as they are.
 */
#define JOIN_PACK_SAMPLES (3 * CHUNK_SAMPLES)
bool join_pack(struct series_chunk *chunks, size_t *n, struct arena *arena, struct err *err);
