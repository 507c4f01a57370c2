/*
 * Blocks that lie in an object store, read in ranges: nothing is downloaded whole but what the index-header is made of.
 *
 * A block's index-header (docs/formats.md 7.4) is a local file with the symbols and the postings offset table of the block's index, byte for byte as Mimir's;
 * beside it lies the sparse-index-header (7.5), which says where every 32nd entry of both is, so that opening takes milliseconds. Both are made when they are
 * missing or damaged. A select then reads postings, series and chunks from the bucket: ranges that lie close are read as one, several at a time; what the
 * caches hold is not read again. Every checksum is verified; a damaged byte is ERR_CORRUPT that names the object and the offset in it, and ends that select.
 *
 * Threads: a store and its blocks may be used by any number of threads; a select by one. Calls block on the bucket as long as their ctx allows.
 * Errors: those of storage/objstore/objstore.h, ERR_CORRUPT, ERR_MAX_QUERY_MEMORY (ctx->arena is used up), ERR_NO_SPACE and ERR_IO (of local files),
 * ERR_NOT_FOUND (the block is not in the bucket, or no longer).
 */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/ctx.h"
#include "base/err.h"
#include "base/flags.h"
#include "base/slice.h"
#include "storage/block/ulid.h"
#include "storage/cache/cache.h"
#include "storage/objstore/objstore.h"
#include "storage/queryable.h"

/* --- flags: three tables, each added by itself (flag_set_add) with its struct --- */

struct store_config {
#define FLAG FLAG_FIELD
#include "storage/store/store_flags.def"
#undef FLAG
};
extern const struct flag_def store_flags[];
extern const size_t store_flags_n;
/* cache_config of blocks-storage.bucket-store.index-cache and -chunks-cache. */
extern const struct flag_def store_index_cache_flags[];
extern const struct flag_def store_chunks_cache_flags[];
extern const size_t store_cache_flags_n; /* of each of the two */
#define STORE_INDEX_CACHE_FLAGS "blocks-storage.bucket-store.index-cache."
#define STORE_CHUNKS_CACHE_FLAGS "blocks-storage.bucket-store.chunks-cache."

/* --- the store: what all blocks of a process share --- */

struct store;

/* Nothing here is owned; all must outlive the store. Caches may be NULL: then all is read from the bucket each time. */
struct store_deps {
    struct objstore *bucket;
    struct cache *index_cache;  /* postings, parts of the series section */
    struct cache *chunks_cache; /* parts of segments, their sizes */
};
struct store *store_new(const struct store_config *cfg, const struct store_deps *deps);
void store_free(struct store *s); /* when all of its blocks are closed; NULL is fine */

/* --- one block --- */

struct store_block;

/*
 * Makes sure that the index-header lies in dir (<sync-dir>/<tenant>/<ULID>, made if need be) and is whole: reads what is missing from the bucket, and costs a
 * look at the file else. Without it store_block_open does the same. For a gateway that loads lazily.
 */
bool store_block_prepare(struct store *s, const struct ctx *ctx, struct slice tenant, const struct ulid *id, const char *dir, struct err *err);
/*
 * Maps the index-header and checks it; a damaged one is made anew. One reference is the caller's. Any number of blocks may be open; of one block (one dir) only
 * one open may run at a time: the caller's to see to.
 */
struct store_block *store_block_open(struct store *s, const struct ctx *ctx, struct slice tenant, const struct ulid *id, const char *dir, struct err *err);
struct store_block *store_block_ref(struct store_block *b);
/* The last one unmaps; selects hold one of their own, so that a block may be let go of while it is being read. Files stay. NULL is fine. */
void store_block_unref(struct store_block *b);
const struct ulid *store_block_id(const struct store_block *b);
uint64_t store_block_header_bytes(const struct store_block *b); /* of the mapped file */
uint64_t store_block_index_bytes(const struct store_block *b);  /* of the index in the bucket */

/* --- selects --- */

struct store_select; /* holds a reference of its block */

/* What a select has done so far. Bytes as the bucket gave them, with the gaps that were read along. */
struct store_stats {
    uint64_t postings_fetched_bytes, postings_touched;
    uint64_t series_fetched_bytes, series_touched;
    uint64_t chunks_fetched_bytes, chunks_touched;
    uint64_t postings_fetched, series_fetched, chunks_fetched; /* those of which some bytes came from the bucket; such as lie close together count together */
    uint64_t postings_touched_bytes, series_touched_bytes, chunks_touched_bytes; /* of exactly what was looked at, wherever it came from */
    uint64_t cached_bytes; /* what came from the caches */
};

void store_stats_add(struct store_stats *to, const struct store_stats *from);

/* One series of the first phase. Labels stay valid until store_select_free; their array is in the arena of the call's ctx. */
struct store_series {
    struct labels labels;
    uint32_t n_chunks; /* that touch the time asked for; not 0 */
};

/*
 * Series that match p and have a chunk that touches [p->min_t, p->max_t]. p->matchers may hold a shard of the query, __query_shard__="2_of_16": the series
 * whose labels' stable hash is 1 modulo 16; ERR_BAD_DATA when its value is none. Matchers must live as long as the select. Finds the postings: the first reads
 * from the bucket are done here. Memory in ctx->arena: 4 bytes a candidate. What the first phase notes for the second, some 10 bytes a chunk, may have as much
 * as that arena's budget besides.
 *
 * Two phases, each from the first series to the last, in ascending order of labels:
 *   1. store_select_series: labels, batch by batch
 *   2. store_select_chunks: the chunks of the same series in the same order, batch by batch
 * The second may follow the first at any distance, but does not overtake it: a caller may go through all series first and all chunks then, or ask for the
 * chunks of each batch as it comes. With p->no_chunks there is no second phase. Buffers of a select are bounded, some
 * 4 MiB in each phase, whatever the caller asks for; what is small takes little.
 */
struct store_select *store_select_new(struct store_block *b, struct ctx *ctx, const struct select_params *p, struct err *err);
/* Up to max series into ret; *ret_n == 0: the end. */
bool store_select_series(struct store_select *s, struct ctx *ctx, struct store_series *ret, size_t max, size_t *ret_n, struct err *err);
/*
 * Chunks of the next 1 to max series that phase 1 has given; *ret_n == 0: all of those are done. ret[i].labels is empty; chunks are those that touch the time
 * asked for, by min_t. Valid until the next call of this function, and of store_select_free.
 */
bool store_select_chunks(struct store_select *s, struct ctx *ctx, struct series *ret, size_t max, size_t *ret_n, struct err *err);
const struct store_stats *store_select_stats(const struct store_select *s);
void store_select_free(struct store_select *s); /* NULL is fine */

/*
 * The same as a set of series with their chunks, batch by batch; chunks live until the next call on the set. ret_stats may be NULL; else it is kept up to date
 * until the set is released.
 */
struct series_set *store_block_select(struct store_block *b, struct ctx *ctx, const struct select_params *p, struct store_stats *ret_stats, struct err *err);

/* Sorted, unique, copied to ctx->arena; of the whole block where there are no matchers. Times are not looked at. ret_stats may be NULL; it is added to. */
bool store_block_label_names(struct store_block *b, struct ctx *ctx, const struct select_params *p, const struct slice **ret, size_t *ret_n,
                             struct store_stats *ret_stats, struct err *err);
bool store_block_label_values(struct store_block *b, struct ctx *ctx, struct slice name, const struct select_params *p, const struct slice **ret, size_t *ret_n,
                              struct store_stats *ret_stats, struct err *err);
