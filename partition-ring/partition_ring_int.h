/* Private to partition-ring/ and its tests. */
#pragma once

#include "partition-ring/partition_ring.h"

/* The tokens of partitions 0..n-1, each partition's sorted, into ret[n * PARTITION_TOKENS]. */
void partition_tokens_all(int32_t n, uint32_t *ret);

/*
 * Shuffle shard of docs/formats.md 3.4 without lookback: `size` of r's partitions for this tenant, in the order in which they are chosen, into
 * ret[size]. Returns how many. r must be a whole ring.
 */
int32_t partition_shuffle_shard(const struct partition_ring *r, struct slice tenant, int32_t size, int32_t *ret);
int64_t partition_shuffle_seed(struct slice tenant);
