/*
 * Query sharding: a query that is split by the stable hash of the labels, which all who hold series compute alike. A compactor's split of a block
 * (__compactor_shard_id__) goes by the same hash.
 */
#pragma once

#include <stdbool.h>
#include <stdint.h>

#include "base/slice.h"
#include "model/labels.h"

#define QUERY_SHARD_LABEL "__query_shard__"

/* Series whose hash is index modulo count; count 0: all of them. */
struct query_shard {
    uint64_t index; /* from 0 */
    uint64_t count;
};

/* "2_of_16", counted from 1. False: it is none. */
bool query_shard_parse(struct slice text, struct query_shard *ret);
/* Prometheus's stable hash: XXH64 of name FF value FF, label by label. */
uint64_t query_shard_hash(struct labels l);
