#include "ingest/ingest_metrics_int.h"

#include <math.h>

/* 10 * 8^i, as Mimir has them for both. */
const double ingest_buckets_samples[] = {10, 80, 640, 5120, 40960, 327680, 2621440, 20971520, INFINITY};
const double ingest_buckets_series[] = {10, 80, 640, 5120, 40960, 327680, 2621440, INFINITY};
const double ingest_buckets_records[] = {1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024, 2048, 4096, INFINITY};

#define METRICS_ROOM ingest
#define METRICS_DEF "ingest/ingest_metrics.def"
#define METRICS_DEFINE_ONLY
#include "base/metrics_table.h"
