/*
 * The partitions ring: which partition a token belongs to (docs/formats.md section 3).
 *
 * Here: an immutable ring of ACTIVE partitions 0..n-1 with the spread-minimising tokens, and the sub-rings of tenants that use only
 * some of the partitions (shuffle shards). Tokens and shards are the same numbers that Mimir's distributors compute, so that both can
 * write to one topic. A ring never changes after it was made; it is refcounted and any thread may use it.
 */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/err.h"
#include "base/slice.h"

#define PARTITION_TOKENS 512
#define PARTITIONS_MAX 16384

struct partition_ring;

/* n_partitions ACTIVE partitions (1 .. PARTITIONS_MAX, else ERR_CONFIG). Costs 0.1 to 0.3 ms a partition. */
struct partition_ring *partition_ring_new(int32_t n_partitions, struct err *err);
/* The same for callers who know that the number is good. */
struct partition_ring *partition_ring_new_static(int32_t n_partitions);
/*
 * The ACTIVE partitions of a document that have tokens, for writers; there may be none. All that partition_ring_lookup and partition_ring_tenant answer
 * is what a ring of all states answers, for the others are passed over there.
 */
struct partition_desc;
struct partition_ring *partition_ring_new_active(const struct partition_desc *d);
/* One more reference to the same ring; each is given back with partition_ring_free. Returns r. */
struct partition_ring *partition_ring_ref(struct partition_ring *r);
/* Gives one reference back; the last one frees. NULL is fine. */
void partition_ring_free(struct partition_ring *r);

/* How many partitions the ring (or sub-ring) has, and their ids in ascending order. */
int32_t partition_ring_count(const struct partition_ring *r);
const int32_t *partition_ring_members(const struct partition_ring *r);

/* The sorted tokens of one partition (0 .. PARTITIONS_MAX-1). All lower partitions are simulated on the way. */
void partition_tokens(int32_t partition, uint32_t ret[PARTITION_TOKENS]);

/*
 * The sub-ring of a tenant; shard_size <= 0 or >= count: the whole ring. Not cached: whoever asks often keeps the result. The caller owns the
 * reference and gives it back with partition_ring_free; it may outlive r's own.
 */
struct partition_ring *partition_ring_tenant(struct partition_ring *r, struct slice tenant, int64_t shard_size);

/* The ACTIVE partition that owns the token: token t owns the keys in [the token before, t). -1 when there is none ("no active partition found"). */
int32_t partition_ring_lookup(const struct partition_ring *r, uint32_t token);
