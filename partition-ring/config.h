/*
 * The flags -ingester.partition-ring.* that belong to the life of partitions. Where the document is kept (store, prefix, etcd, consul) is in the table
 * that all rings share, ring/kv_flags.def.
 */
#pragma once

#include <stdbool.h>
#include <stddef.h>

#include "base/err.h"
#include "base/flags.h"
#include "partition-ring/lifecycle.h"

struct partition_ring_config {
#define FLAG FLAG_FIELD
#include "partition-ring/partition_ring_flags.def"
#undef FLAG
};
extern const struct flag_def partition_ring_flags[];
extern const size_t partition_ring_flags_n;

/* The rules that the flags ask for. ERR_CONFIG names the flag. */
bool partition_rules_from_flags(const struct partition_ring_config *flags, struct partition_rules *ret, struct err *err);
