/*
 * Cutting: what is older than a time leaves a head as blocks, one for each two-hour range.
 *
 * A cut takes the set X: the full chunks that lie below a mark of the chunk store and whose newest sample is older than the cut. Full chunks never change, and
 * nothing is appended below a mark; so X is fixed from the moment at which the mark is taken, whatever arrives meanwhile. The steps:
 *
 *     seal      shard by shard: open chunks that are older than the cut become full, late samples that are older leave their block as chunks (append_seal);
 *               then the mark is taken
 *     write     for each range that X touches a block below pending/: series in order of their labels, chunks as they are or, where they overlap, merged
 *     add       the blocks are opened and listed: readers see X twice, and merge it by time
 *     truncate  the shards are built anew without X; the blocks' names are noted. Under cuts.lock, so that a checkpoint has all of it or none
 *     save      a checkpoint that names the blocks, durable; then they are published by a rename
 *
 * kill -9 before the checkpoint is durable: the start finds X in the heads (the old checkpoint, or the log) and removes the pending blocks. After: it publishes
 * the blocks that are named. At no moment is a sample in both, or in none.
 *
 * One cut at a time a head. Any thread; the cutter's as a rule.
 */
#pragma once

#include "base/priority.h"
#include "ingest/blocks/local_blocks.h"
#include "ingest/head_int.h"

/* A cut that takes everything. */
#define CUT_ALL INT64_MAX

/* How a cut goes on: its share of one core, and whether it is to end. All may be zero: as fast as possible, to the end. */
struct cut_pace {
    double share;                 /* 0 or 1: without pauses */
    const _Atomic int *hurry;     /* more than 0: without pauses from now on */
    atomic_bool *stop;            /* ERR_CANCELED soon after it is set */
    int64_t rested_ns;            /* CPU time of the thread at the last pause */
    struct priority_yield *yield; /* of the thread; NULL: it does not give way */
    void (*at)(void *arg, const char *point); /* tests: called at "sealed", "written", "added", "truncating", "truncated", "saved", "published" */
    void *arg;
};
static inline void cut_point(const struct cut_pace *pace, const char *point)
{
    if (pace && pace->at)
        pace->at(pace->arg, point);
}
/* Often: pauses after each quarter of a millisecond of work. False: stopped. */
bool cut_rest(struct cut_pace *pace, struct err *err);

struct cut_result {
    uint64_t n_blocks;
    uint64_t n_series; /* in all blocks */
    uint64_t n_samples;
    uint64_t n_removed; /* series that left the head */
};

/* Is a cut ready, as newest samples go? Its time, else INT64_MIN. */
int64_t head_cut_ready(struct head *h);
/*
 * The steps down to truncate. On failure nothing is cut, but for the seal, and no block stays. out_of_order_label: of the tenant's limits. pace may be NULL.
 */
bool head_cut(struct head *h, struct local_blocks *lb, bool out_of_order_label, int64_t cut, struct cut_pace *pace, struct cut_result *ret,
              struct err *err);
/* The checkpoint as head_checkpoint, and the publication of the blocks that it names. Under the lock of checkpoint rounds. */
bool head_save(struct head *h, struct local_blocks *lb, int64_t consumed, struct cut_pace *pace, uint64_t *ret_bytes, struct err *err);

/* The first step; *ret_mark is the mark. */
bool head_seal(struct head *h, int64_t cut, struct cut_pace *pace, uint64_t *ret_mark, struct err *err);
/* Chunks of X leave the head, and series that have nothing left; the number of those. Under cuts.lock. */
uint64_t head_truncate(struct head *h, int64_t cut, uint64_t mark, struct cut_pace *pace);

/* Series without samples leave, however new; true when none is left. */
bool head_forget_series(struct head *h);

/*
 * The chunks of a series as a block has them: in order, not overlapping, within [start, end). in: by their beginning, as readers get them; of two samples of
 * one time the one that a reader would take stays. Chunks that overlap nothing are passed on as they are. *ret_damaged counts those that are no chunks, and are
 * left out. False: the arena is full.
 */
bool cut_series(const struct series_chunk *in, size_t n, int64_t start, int64_t end, struct arena *arena, const struct series_chunk **ret,
                size_t *ret_n, uint64_t *ret_damaged);
