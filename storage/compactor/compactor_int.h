/* Private to storage/compactor/. */
#pragma once

#include <math.h>

#include "storage/compactor/compactor.h"

extern const double COMPACTOR_BUCKETS_JOB[], COMPACTOR_BUCKETS_DELAY[], COMPACTOR_BUCKETS_BLOCKS[];

#define METRICS_ROOM compactor
#define METRICS_DEF "storage/compactor/compactor_metrics.def"
#include "base/metrics_table.h"
