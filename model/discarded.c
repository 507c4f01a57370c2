#include "model/discarded.h"

#include <pthread.h>

#include "base/assert.h"
#include "base/metrics.h"

static const struct metric_def defs[] = {
#define COUNTER(id, name_, help_, ...) {.kind = METRIC_COUNTER, .name = name_, .help = help_, .labels = {__VA_ARGS__}},
#include "model/discarded_metrics.def"
#undef COUNTER
};

static struct metric_family *families[ARRAY_LEN(defs)];
static pthread_once_t once = PTHREAD_ONCE_INIT;

static void register_families(void)
{
    metrics_register(defs, ARRAY_LEN(defs), families);
}

void discard_count(enum discard_kind kind, const char *reason, struct slice tenant, uint64_t n)
{
    if (n == 0)
        return;
    pthread_once(&once, register_families);
    const struct slice values[] = {slice_of(reason), tenant, SL("")};
    metric_add(metric_get(families[kind], values), (double)n);
}
