/* The parts of a merge: merge.c (sources, shards, results), merge_symbols.c (which symbols each result needs); storage/join joins the chunks of one series. */
#pragma once

#include "base/arena.h"
#include "model/query_shard.h"
#include "storage/compactor/merge.h"

/* Bytes of chunks after which the pages of the sources are let go. */
#define MERGE_FORGET_BYTES ((size_t)32 << 20)

/* --- merge_symbols.c --- */

/* All symbols of the blocks together, and which of them each result uses. */
struct merge_symbols {
    struct slice *all; /* owned; sorted, unique; slices of the blocks */
    size_t n, cap;
    uint64_t **used;   /* owned; of each result a bit a symbol */
    uint64_t *series;  /* owned; of each result: how many it gets at most, the same series of several blocks counted each */
    uint32_t n_results;
};
/* One pass over the labels of all series. n_results is the shards, or 1. */
bool merge_symbols_read(struct merge_symbols *m, struct block *const *blocks, size_t n, uint32_t n_results, const struct ctx *ctx, struct err *err);
/* Those of one result, in order, with "" as Mimir has it; malloc'ed. NULL: no memory. */
struct slice *merge_symbols_of(const struct merge_symbols *m, uint32_t result, size_t *ret_n);
void merge_symbols_release(struct merge_symbols *m);

/* From 0. */
static inline uint32_t merge_shard_of(struct labels l, uint32_t n_results)
{
    return n_results > 1 ? (uint32_t)(query_shard_hash(l) % n_results) : 0;
}
