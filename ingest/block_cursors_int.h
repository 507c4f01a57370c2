/*
 * The series of several local blocks as one sequence in the order of their labels: each block's come sorted, and are merged as they are read. A series that several
 * blocks have comes once. Used by one thread.
 */
#pragma once

#include "ingest/blocks/local_blocks.h"
#include "storage/block/block.h"
#include "storage/queryable.h"

#define BLOCK_CURSOR_BATCH 64u

/* One block's series in order. */
struct block_cursor {
    struct local_block *block;
    struct series_set *set;
    struct arena select; /* of the set */
    struct arena batch;
    struct series series[BLOCK_CURSOR_BATCH]; /* at .. n: what is still to come of the batch */
    size_t n;
    size_t at;
    bool open;
    bool least; /* stands at the labels that block_cursors_least gave */
};

struct block_cursors {
    struct local_block_refs refs; /* owned */
    struct select_params params;  /* matchers are the caller's */
    struct slice tenant;
    size_t budget_bytes;
    struct block_cursor *items; /* refs.n */
};

/* Takes the references over. Matchers of p must live as long as the cursors; limits are not theirs. */
void block_cursors_init(struct block_cursors *bc, struct local_block_refs refs, const struct ctx *ctx, const struct select_params *p);
void block_cursors_release(struct block_cursors *bc); /* all zero is fine */

/* Begins at the first series (again). ctx NULL: without a deadline. What is damaged is told to local_blocks. */
bool block_cursors_open(struct block_cursors *bc, const struct ctx *ctx, bool no_chunks, struct err *err);
void block_cursors_close(struct block_cursors *bc);
/* Fills the batch when it is used up; n == at: the end. What its batch held before is gone. */
bool block_cursor_fill(struct block_cursors *bc, struct block_cursor *c, const struct ctx *ctx, struct err *err);
bool block_cursors_fill(struct block_cursors *bc, const struct ctx *ctx, struct err *err);
/* The least labels that any cursor stands at, and `least` of all cursors; false: all are at the end of their batches. */
bool block_cursors_least(struct block_cursors *bc, struct labels *ret);

/* Stable: of equal times what stood first stays first. */
void chunks_sort_by_min_t(struct series_chunk *chunks, size_t n);
