/*
 * Read consistency: how fresh an answer must be, as it travels from a query's headers to the ingesters (docs/formats.md 2.11).
 *
 * A strong read waits until the ingester has consumed up to the partition's last produced offset. The offsets are asked for once, by whoever
 * takes the query, and travel along; an ingester that finds none for its partition asks the log itself.
 *
 * A query takes its wish from HTTP headers; between processes it is gRPC metadata, in this process the ctx's tags: the same three names and texts.
 */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/buf.h"
#include "base/ctx.h"
#include "base/err.h"
#include "base/slice.h"

enum read_consistency { READ_EVENTUAL, READ_STRONG };

#define READ_LEVEL_TAG "__consistency_level__"         /* "strong", "eventual" */
#define READ_OFFSETS_TAG "__consistency_offsets__"     /* "v1=0:41,1:-1" */
#define READ_MAX_DELAY_TAG "__consistency_max_delay__" /* a Go duration */
/*
 * A Go duration, of ours: an owner of a partition that is further behind says so (ERR_LAGGING) instead of answering, as another one may be less so. Who has asked
 * them all asks again without it. Unlike the maximum above it is no client's demand; Mimir neither sends nor reads it.
 */
#define READ_PREFER_DELAY_TAG "__brunn_prefer_delay__"
#define READ_LEVEL_HEADER "X-Read-Consistency"
#define READ_OFFSETS_HEADER "X-Read-Consistency-Offsets"
#define READ_MAX_DELAY_HEADER "X-Read-Consistency-Max-Delay"

/* "strong" or "eventual"; false for any other text. */
bool read_consistency_parse(struct slice text, enum read_consistency *ret);

struct partition_offset {
    int32_t partition;
    int64_t offset; /* last produced; -1: the partition is empty */
};
/* Appends "v1=0:41,1:-1"; nothing when n is 0. */
void read_offsets_put(const struct partition_offset *offsets, size_t n, struct buf *out);
/* The offset of a partition in such a text; false when it is not in it, or any part of the text cannot be read. */
bool read_offsets_find(struct slice text, int32_t partition, int64_t *ret_offset);

/* What the tags ask of the ingester of a partition. */
struct read_wish {
    enum read_consistency level;
    bool has_offset; /* strong: wait until this offset is consumed; else until the last produced one is, which is to be found out */
    int64_t offset;
    int64_t max_delay_ms; /* eventual: fail when the ingester is further behind; 0 = it does not matter */
    int64_t prefer_delay_ms; /* eventual: ERR_LAGGING when the ingester is further behind; 0 = it does not matter */
};
/* Tags that are absent or cannot be read count as not there. */
struct read_wish read_wish_of(const struct ctx *ctx, int32_t partition);

/* ERR_LAGGING with a text that says how far behind: returns false. In gRPC it is FAILED_PRECONDITION with that text. */
bool read_lag_err(int64_t behind_ms, struct err *err);
/* Reads such a text; false for any other. */
bool read_lag_parse(struct slice text, int64_t *ret_behind_ms);
