/*
 * A second door of the ingester, for its gRPC service: selects in two phases, and what cardinality analysis counts.
 *
 * A stream to a querier sends the labels of all series first, in order, and their chunks afterwards in the same order,
 * at the querier's pace. A series_list holds the first phase: 24 bytes a series, and 8 bytes a label until
 * series_list_drop_labels (where local blocks have a part in it: 40 bytes more a series, and 32 a label of those that only blocks have); chunks are materialised a batch at a time when the stream gets there. No lock is held in
 * between, nor while sorting; samples that arrive meanwhile may or may not be seen.
 *
 * A list is used by one thread.
 */
#pragma once

#include "ingest/ingest.h"
#include "model/query_shard.h"

/* Which of a select's series; all zero: all of them, in no order. */
struct series_filter {
    bool sorted;             /* by labels */
    bool native_histograms;  /* only those whose newest sample is one */
    uint32_t active_since_s; /* only those with a sample produced then (seconds since the epoch) or later; 0 = all */
    struct query_shard shard; /* of the query; count 0 = all */
};

struct series_list;

/*
 * The series of the head and of the local blocks; those of the head alone where the filter asks for what only the head knows (native_histograms,
 * active_since_s). True with *ret == NULL: the tenant is unknown. p->limit counts; p->no_chunks: no sample will be asked for. p's matchers must live as long as
 * the list.
 */
bool ingester_list_series(struct ingester *ing, struct ctx *ctx, const struct select_params *p,
                          const struct series_filter *f, struct series_list **ret, struct err *err);
void series_list_free(struct series_list *l); /* NULL is fine */
size_t series_list_len(const struct series_list *l);

/* Labels of the series, its array in the arena, strings as long as the list; and how many chunks it has now. False: the
 * arena is full. */
bool series_list_labels(const struct series_list *l, size_t i, struct arena *arena, struct labels *ret,
                        uint32_t *ret_chunks);
/* Gives back the memory of the labels: not to be asked for any more. */
void series_list_drop_labels(struct series_list *l);

#define SERIES_LIST_BATCH 256u
/*
 * Chunks of the series from .. from + n, at most SERIES_LIST_BATCH of them: ret[i].chunks as in a series_set,
 * ret[i].labels empty; a series may have lost its chunks in between. Valid as long as the list and the arena. In order: each call goes on where the
 * one before ended. ERR_MAX_QUERY_MEMORY: the arena is full; ERR_CORRUPT: a block is damaged.
 */
bool series_list_chunks(struct series_list *l, size_t from, size_t n, struct arena *arena, struct series *ret, struct err *err);
/* How many buckets the newest histogram of these series has; 0 where there is none. As series_list_chunks. */
bool series_list_buckets(struct series_list *l, size_t from, size_t n, struct arena *arena, uint64_t *ret);

/* The values of a label name by bytes, with the number of series that have it and match and (active_since_s > 0) are
 * active; those with none are left out. */
struct value_count {
    struct slice value;
    uint64_t series;
};
bool ingester_count_values(struct ingester *ing, struct ctx *ctx, struct slice name, const struct matcher *matchers,
                           size_t n_matchers, uint32_t active_since_s, const struct value_count **ret, size_t *ret_n,
                           struct err *err);
