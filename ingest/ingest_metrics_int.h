/* Ids and families of ingest_metrics.def. */
#pragma once

#define METRICS_ROOM ingest
#define METRICS_DEF "ingest/ingest_metrics.def"
#include "base/metrics_table.h"

extern const double ingest_buckets_samples[];
extern const double ingest_buckets_series[];
extern const double ingest_buckets_records[];
