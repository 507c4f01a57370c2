/*
 * The partitions ring: which partition a token belongs to (FORMATS.md section 3).
 *
 * Here: an immutable ring of ACTIVE partitions 0..n-1 with the spread-minimising tokens, and per-tenant shuffle shards. A snapshot is
 * immutable and shared; any thread.
 */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/err.h"
#include "base/slice.h"

#define PARTITION_TOKENS 512

struct partition_ring;

/* n_partitions ACTIVE partitions. */
struct partition_ring *partition_ring_new_static(int32_t n_partitions);
void partition_ring_free(struct partition_ring *r);
int32_t partition_ring_count(const struct partition_ring *r);

/* The sorted tokens of one partition. */
void partition_tokens(int32_t partition, uint32_t ret[PARTITION_TOKENS]);

/* The sub-ring of a tenant (shard_size <= 0 or >= count: the whole ring); cached in the ring, valid as long as it. */
const struct partition_ring *partition_ring_tenant(struct partition_ring *r, struct slice tenant, int64_t shard_size);
/* The ACTIVE partition that owns the token; -1 when there is none ("no active partition found"). */
int32_t partition_ring_lookup(const struct partition_ring *r, uint32_t token);
