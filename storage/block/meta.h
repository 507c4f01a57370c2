/*
 * meta.json of a block (docs/formats.md 6.2): read from Prometheus, Thanos or Mimir, written as Mimir writes it. Strings and arrays of a decoded meta
 * lie in the arena given. Fields that are not known are passed over.
 */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/arena.h"
#include "base/buf.h"
#include "base/err.h"
#include "storage/block/ulid.h"

#define BLOCK_META_MAX_BYTES (16u << 20)
#define BLOCK_HINT_OUT_OF_ORDER "from-out-of-order"
#define BLOCK_LABEL_SHARD "__compactor_shard_id__"
#define BLOCK_LABEL_OUT_OF_ORDER "__out_of_order__"

struct block_stats {
    uint64_t samples, float_samples, histogram_samples, series, chunks, tombstones;
};

struct block_parent {
    struct ulid ulid;
    int64_t min_t, max_t;
};

struct block_label {
    struct slice name, value;
};

struct block_file {
    struct slice path; /* "chunks/000001" */
    uint64_t size;     /* 0: not written, as of meta.json itself */
};

struct block_meta {
    struct ulid ulid;
    int64_t min_t; /* inclusive, ms */
    int64_t max_t; /* exclusive */
    struct block_stats stats;
    uint32_t level;
    const struct ulid *sources;
    size_t n_sources;
    const struct block_parent *parents;
    size_t n_parents;
    const struct slice *hints;
    size_t n_hints;
    bool deletable, failed;
    bool out_of_order; /* the JSON's own field */
    bool has_thanos;   /* absent in local blocks, whose meta.json ends without a newline */
    const struct block_label *labels; /* by name */
    size_t n_labels;
    bool labels_null;      /* there are none, and they are written as null, as the block-builder does; else as {} */
    int64_t resolution_ms; /* thanos.downsample.resolution */
    struct slice source;   /* "receive", "compactor", "upload" */
    const struct block_file *files;
    size_t n_files;
};

/* ERR_CORRUPT on what is no meta.json of version 1 with a ULID and times in order; ERR_NO_MEMORY when the arena is used up. */
bool block_meta_decode(struct slice json, struct arena *arena, struct block_meta *ret, struct err *err);
/* Mimir's bytes; `out` says when it failed. thanos.segment_files is made from the files below chunks/. */
void block_meta_encode(const struct block_meta *m, struct buf *out);
bool block_meta_is_out_of_order(const struct block_meta *m); /* by its hint */
struct slice block_meta_label(const struct block_meta *m, struct slice name); /* p == NULL: it has none */
