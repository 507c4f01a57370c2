/*
 * Reading a head: what the queryable asks for, for one tenant. Any thread; the head's locks are taken here.
 */
#pragma once

#include "ingest/head_int.h"
#include "storage/queryable.h"

/*
 * The refs of the shard's series that all matchers match, ascending, in the arena. The caller holds the shard's lock or
 * a swapped-out data. False: the arena is full.
 */
bool postings_select(const struct shard_data *d, const struct matcher *matchers, size_t n, struct arena *arena,
                     const uint32_t **ret, size_t *ret_n);

/* Has the series a sample in [min_t, max_t], as far as chunks tell? */
bool series_overlaps(const struct shard_data *d, uint32_t ref, int64_t min_t, int64_t max_t);
/* Its labels; the strings live as long as d. False: the arena is full. */
bool series_materialise_labels(const struct shard_data *d, uint32_t ref, struct arena *arena, struct labels *ret);

bool query_memory_error(const struct ctx *ctx, struct err *err);

struct series_set *head_select(struct head *h, struct ctx *ctx, const struct select_params *p, struct err *err);
bool head_label_names(struct head *h, struct ctx *ctx, const struct select_params *p, const struct slice **ret,
                      size_t *ret_n, struct err *err);
bool head_label_values(struct head *h, struct ctx *ctx, struct slice name, const struct select_params *p,
                       const struct slice **ret, size_t *ret_n, struct err *err);
bool head_exemplars(struct head *h, struct ctx *ctx, const struct select_params *p, const struct exemplar_series **ret,
                    size_t *ret_n, struct err *err);
