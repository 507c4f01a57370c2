/*
 * What is to be merged with what: Mimir's split-and-merge planning as pure functions over what meta.json or the bucket index say of a tenant's blocks.
 *
 * Blocks with the same labels (but for the shard) and resolution go together. For each block range, the smallest first:
 *   split   blocks of the smallest range that have no shard, once splitting is on: in up to split_groups jobs by the hash of their ULIDs, each of which makes
 *           a block for each shard. A single block is split too.
 *   merge   two blocks or more of one range and one shard (or of none) become one.
 * A job is left for a later run when its time touches that of a smaller job that changes its blocks, and when its range is not over: it ends after the
 * newest block, does not fill the range, and by the clock the range's last blocks may still come.
 */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/arena.h"
#include "base/err.h"
#include "model/limits.h"
#include "storage/block/meta.h"
#include "storage/bucket/bucket.h"
#include "storage/compactor/compactor.h"

struct plan_block {
    struct ulid id;
    int64_t min_t, max_t; /* ms; max exclusive */
    int64_t uploaded_ms;  /* when meta.json was put; 0: unknown, long ago */
    int64_t resolution_ms;
    uint32_t level;
    bool out_of_order;
    struct slice shard;   /* "1_of_4", or empty */
    const struct block_label *labels; /* all external labels, by name */
    size_t n_labels;
    const struct ulid *sources;
    size_t n_sources;     /* 0: unknown (of a bucket index) */
};
bool plan_block_of_meta(const struct block_meta *m, int64_t uploaded_ms, struct arena *arena, struct plan_block *ret);
bool plan_block_of_index(const struct index_block *b, struct arena *arena, struct plan_block *ret);

enum compaction_stage { COMPACTION_SPLIT, COMPACTION_MERGE };
enum compaction_order { COMPACTION_SMALLEST_RANGE_OLDEST_FIRST, COMPACTION_NEWEST_FIRST };

struct compaction_job {
    enum compaction_stage stage;
    const char *key;      /* "<labels>-split-1_of_2-<start>-<end>": names the job on pages and in logs, and hashes onto the ring with the tenant */
    struct slice shard;   /* split: the group "1_of_2"; merge: the blocks' shard, or empty */
    int64_t start, end;   /* the range, ms */
    uint32_t shards;      /* split: into how many; merge: 0 */
    const struct plan_block **blocks; /* by min_t, then ULID */
    size_t n_blocks;
    int64_t min_t, max_t; /* of the blocks */
};
const char *compaction_stage_name(enum compaction_stage s); /* "split", "merge" */

struct plan_params {
    const int64_t *ranges_ms; /* compactor_ranges */
    size_t n_ranges;
    uint32_t shards, ooo_shards; /* powers of two or 0 */
    uint32_t split_groups;       /* at least 1 */
    int64_t wait_ms;             /* of the first level: how much later than a range's end its last blocks may come */
    int64_t now_ms;
    enum compaction_order order;
};
/* The tenant's limits, rounded and bounded as planning takes them; the rest is left alone. */
void plan_params_of_limits(const struct limits *l, struct plan_params *ret);
bool compaction_order_parse(struct slice text, enum compaction_order *ret);

/* In the order in which they are to run. Jobs and keys lie in the arena and point to blocks; nothing is read afterwards but them. */
bool plan_compaction(const struct plan_params *p, const struct plan_block *blocks, size_t n, struct arena *arena, const struct compaction_job **ret,
                     size_t *ret_n, struct err *err);

/* Whether the job has to wait because a block of an ingester is too young (-compactor.first-level-compaction-*). */
bool plan_must_wait(const struct compactor_config *cfg, const struct compaction_job *job, int64_t now_ms);

/*
 * Blocks whose samples another block has as well: all of its sources are among the other's, with the same labels and resolution and within its times. Of two
 * that are equal in this the older one stays. ret_by[n]: which block it is, itself not superseded; PLAN_NOT_SUPERSEDED where there is none.
 */
#define PLAN_NOT_SUPERSEDED SIZE_MAX
bool plan_superseded(const struct plan_block *blocks, size_t n, size_t *ret_by, struct err *err);
/* -compactor.max-lookback: the block was made longer ago. */
bool plan_is_too_old(const struct limits *l, const struct plan_block *b, int64_t now_ms);
/*
 * Which blocks are the last word on their day (range_ms: the largest range), so that what is made of each of them may be added up. Such a day has no block that
 * reaches out of it, no job (jobs: all that are planned, due or not), and no two blocks that could have a sample both: they are apart in time, or shards of the same
 * split of the same labels. ret_settled[n].
 */
bool plan_settled(const struct plan_block *blocks, size_t n, const struct compaction_job *jobs, size_t n_jobs, int64_t range_ms, bool *ret_settled,
                  struct err *err);
