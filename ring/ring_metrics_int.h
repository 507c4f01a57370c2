/* Private to ring/. */
#pragma once

#define METRICS_ROOM ring
#define METRICS_DEF "ring/ring_metrics.def"
#include "base/metrics_table.h"
