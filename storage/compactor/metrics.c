#include "storage/compactor/compactor_int.h"

/* A second to two days. */
const double COMPACTOR_BUCKETS_JOB[] = {1, 4, 16, 60, 240, 600, 1800, 3600, 10800, 43200, 86400, 172800, INFINITY};
/* Half an hour to two weeks. */
const double COMPACTOR_BUCKETS_DELAY[] = {1800, 3600, 7200, 10800, 14400, 21600, 43200, 86400, 172800, 604800, 1209600, INFINITY};
const double COMPACTOR_BUCKETS_BLOCKS[] = {1, 2, 4, 8, 16, 32, 64, 128, 256, INFINITY};

#define METRICS_ROOM compactor
#define METRICS_DEF "storage/compactor/compactor_metrics.def"
#define METRICS_DEFINE_ONLY
#include "base/metrics_table.h"

void compactor_count_deletion_mark(const char *reason)
{
    compactor_metrics_register();
    metric_inc(METRIC_WITH(compactor_metrics[COMPACTOR_M_MARKED_DELETION], slice_of(reason)));
}

void compactor_count_no_compact_mark(const char *reason)
{
    compactor_metrics_register();
    metric_inc(METRIC_WITH(compactor_metrics[COMPACTOR_M_MARKED_NO_COMPACT], slice_of(reason)));
}
