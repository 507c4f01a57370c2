/*
 * Blocks merged: N local ones become one, or one for each shard of the series.
 *
 * Series come in the order of their labels from all blocks at once; those that are the same are joined. Chunks that touch no other's time are copied, bytes
 * as they are (or packed: see `pack`); of chunks that are the same byte for byte one is kept; others that overlap are decoded, merged by time (of samples at one time the first
 * block's wins), and encoded anew in chunks of at most 120 samples, as Prometheus's vertical compaction does it. The shard of a series is
 * query_shard_hash modulo the shards (model/query_shard.h).
 *
 * Memory: 16 bytes and a bit a shard for each symbol, 4 bytes for each symbol of each block, one series of each block with its overlapping chunks decoded, and
 * what a block_writer of each shard needs; pages of the sources are let go as they are read. One thread; ctx is looked at about every hundred series.
 */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/ctx.h"
#include "base/err.h"
#include "storage/block/block.h"
#include "storage/join/join.h"

#define MERGE_MAX_BLOCKS 4096
#define MERGE_MAX_SHARDS 1024

struct merge_params {
    struct block *const *blocks; /* open; in any order: they are taken by min_t, then ULID */
    size_t n_blocks;
    const char *dir; /* where the results are made: <dir>/<ulid> */
    uint32_t shards; /* 0: one block, with the shard label that the sources have, if any */
    const struct block_label *labels; /* of the results, by name, without BLOCK_LABEL_SHARD where shards > 0 */
    size_t n_labels;
    int64_t now_ms; /* of the ULIDs */
    bool pack; /* small chunks of floats become larger ones (storage/join); without, the results are those of Mimir's compactor, byte for byte */
};

struct merge_result {
    struct block_meta *blocks; /* strings in the arena; in order of shards, without those that have no series */
    uint32_t *shards;          /* of each, from 1; 0 without shards */
    size_t n_blocks;           /* 0: there were no samples */
    struct join_stats stats;
};

/*
 * Level, sources, parents, times, labels and source ("compactor") are set as Mimir's compactor does. Nothing is left behind on failure. ERR_CORRUPT names the
 * file that could not be read; ERR_TOO_LARGE: an index would outgrow its format.
 */
bool blocks_merge(const struct merge_params *p, const struct ctx *ctx, struct arena *arena, struct merge_result *ret, struct err *err);

/*
 * A source looked through before it is merged: every series and chunk that merging reads, decoded, and the counts of meta.json. Chunks that overlap are no
 * fault, since merging mends them. ERR_CORRUPT says what is. ERR_OUT_OF_RANGE: samples within a chunk are out of order.
 */
bool merge_check_source(struct block *b, const struct ctx *ctx, struct err *err);
