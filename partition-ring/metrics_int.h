/* Metrics of the room: partition_ring_metrics[PARTITION_RING_M_...]. */
#pragma once

#define PARTITION_RING_NAME "ingester-partitions"

#define METRICS_ROOM partition_ring
#define METRICS_DEF "partition-ring/partition_ring_metrics.def"
#include "base/metrics_table.h"
