/*
 * Makes a room's enum, array of families and registration out of its <room>_metrics.def; how to use it stands in base/metrics.h.
 * Included on purpose more than once: no include guard. Takes METRICS_ROOM, METRICS_DEF and perhaps METRICS_DEFINE or
 * METRICS_DEFINE_ONLY, and undefines them.
 */
#include <pthread.h>

#include "base/metrics.h"

#ifndef METRICS_ROOM
#error "METRICS_ROOM must be the room's prefix"
#endif

#define METRICS_GLUE_(a, b) a##b
#define METRICS_GLUE(a, b) METRICS_GLUE_(a, b)
#define METRICS_NAME(suffix) METRICS_GLUE(METRICS_ROOM, suffix)

#ifndef METRICS_DEFINE_ONLY
enum METRICS_NAME(_metric_id) {
#define COUNTER(id, ...) id,
#define GAUGE(id, ...) id,
#define HISTOGRAM(id, ...) id,
#include METRICS_DEF
#undef COUNTER
#undef GAUGE
#undef HISTOGRAM
    METRICS_NAME(_metrics_n)
};

extern struct metric_family *METRICS_NAME(_metrics)[METRICS_NAME(_metrics_n)];
void METRICS_NAME(_metrics_register)(void);
#endif

#if defined(METRICS_DEFINE) || defined(METRICS_DEFINE_ONLY)
static const struct metric_def METRICS_NAME(_metric_defs)[] = {
#define COUNTER METRIC_DEF_COUNTER
#define GAUGE METRIC_DEF_GAUGE
#define HISTOGRAM METRIC_DEF_HISTOGRAM
#include METRICS_DEF
#undef COUNTER
#undef GAUGE
#undef HISTOGRAM
};
struct metric_family *METRICS_NAME(_metrics)[METRICS_NAME(_metrics_n)];

static void METRICS_NAME(_metrics_register_once)(void)
{
    metrics_register(METRICS_NAME(_metric_defs), METRICS_NAME(_metrics_n), METRICS_NAME(_metrics));
}

void METRICS_NAME(_metrics_register)(void)
{
    static pthread_once_t once = PTHREAD_ONCE_INIT;
    pthread_once(&once, METRICS_NAME(_metrics_register_once));
}
#endif

#undef METRICS_GLUE_
#undef METRICS_GLUE
#undef METRICS_NAME
#undef METRICS_ROOM
#undef METRICS_DEF
#undef METRICS_DEFINE
#undef METRICS_DEFINE_ONLY
