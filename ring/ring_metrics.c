/* The families of this room's table. */
#include "ring/ring_metrics_int.h"

#define METRICS_ROOM ring
#define METRICS_DEF "ring/ring_metrics.def"
#define METRICS_DEFINE_ONLY
#include "base/metrics_table.h"
