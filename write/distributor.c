/* The distributor's life: limits, tenants, the gauges that are read at a scrape. */
#include "write/write_int.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "base/assert.h"
#include "base/clock.h"
#include "base/logger.h"

#define METRICS_ROOM write
#define METRICS_DEF "write/write_metrics.def"
#define METRICS_DEFINE_ONLY
#include "base/metrics_table.h"

const double write_buckets_items[] = {1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 2000, 5000, 10000, 20000, 50000, 100000, INFINITY};
const double write_buckets_ratio[] = {1, 1.5, 2, 3, 4, 5, 6, 8, 10, 12, 15, 20, INFINITY};

#define RECORD_SIZE_MIN 1048576
#define RECORD_SIZE_MAX 15983616

const struct flag_def write_flags[] = {
#define FLAG(...) FLAG_ROW(write_config, __VA_ARGS__)
#include "write/write_flags.def"
#undef FLAG
};
const size_t write_flags_n = ARRAY_LEN(write_flags);

bool write_config_validate(const struct write_config *cfg, struct err *err)
{
    if (strcmp(cfg->sharding_hash, "fnv32a") != 0 && strcmp(cfg->sharding_hash, "fnv32") != 0)
        return err_set(err, ERR_CONFIG, "distributor.sharding_hash: invalid value \"%s\", allowed are: fnv32a, fnv32",
                       cfg->sharding_hash);
    if (cfg->max_record_size_bytes < RECORD_SIZE_MIN || cfg->max_record_size_bytes > RECORD_SIZE_MAX)
        return err_set(err, ERR_CONFIG,
                       "ingest_storage.kafka.producer_max_record_size_bytes: must be between %d and %d", RECORD_SIZE_MIN,
                       RECORD_SIZE_MAX);
    if (cfg->retry_after_min_backoff < 1000 || cfg->retry_after_max_backoff < cfg->retry_after_min_backoff)
        return err_set(err, ERR_CONFIG,
                       "distributor.retry_after_header: min_backoff must be at least 1s and max_backoff no less than it");
    if (cfg->ring_auto_forget_periods < 0)
        return err_set(err, ERR_CONFIG, "distributor.ring.auto_forget_unhealthy_periods: must not be negative");
    if (cfg->max_tenants < 1 || cfg->known_series_max < 0 || cfg->max_inflight_push_requests < 0 || cfg->max_ingestion_rate < 0)
        return err_set(err, ERR_CONFIG, "distributor: limits must not be negative, and max_tenants at least 1");
    return true;
}

static void set_limit_gauge(const char *limit, double v)
{
    metric_set(METRIC_WITH(write_metrics[WRITE_M_INSTANCE_LIMITS], slice_of(limit)), v);
}

/* At each scrape. Takes no lock but the rate's, which is never held while a metric is removed. */
static void refresh_gauges(void *arg)
{
    struct distributor *d = arg;
    metric_set(metric_single(write_metrics[WRITE_M_INFLIGHT]), (double)atomic_load_explicit(&d->inflight, memory_order_relaxed));
    metric_set(metric_single(write_metrics[WRITE_M_INFLIGHT_BYTES]),
               (double)atomic_load_explicit(&d->inflight_bytes, memory_order_relaxed));
    metric_set(metric_single(write_metrics[WRITE_M_INGESTION_RATE]), distributor_rate(d));
    metric_set(metric_single(write_metrics[WRITE_M_KNOWN_BYTES]),
               (double)atomic_load_explicit(&d->known_budget.used_bytes, memory_order_relaxed));
    metric_set(metric_single(write_metrics[WRITE_M_TENANTS]), (double)write_tenants_count(d->tenants));
}

struct distributor *distributor_new(const struct write_config *cfg, const struct limits_provider *limits, struct plog *log,
                                    struct partition_watcher *partitions, uint64_t hash_seed)
{
    write_metrics_register();
    struct distributor *d = calloc(1, sizeof(*d));
    ASSERT(d);
    d->cfg = cfg;
    d->limits = limits;
    d->log = log;
    d->partitions = partitions;
    d->plain = log && plog_wants_plain(log);
    d->hash_seed = hash_seed;
    d->token_kind = strcmp(cfg->sharding_hash, "fnv32") == 0 ? TOKEN_FNV32 : TOKEN_FNV32A;
    d->known_budget.max_bytes = cfg->known_series_max_bytes;
    pthread_mutex_init(&d->rate_lock, NULL);
    d->tenants = write_tenants_new((size_t)cfg->max_tenants, cfg->tenant_idle_timeout, d->token_kind,
                                   (size_t)cfg->known_series_max, &d->known_budget);
    set_limit_gauge("max_inflight_push_requests", (double)cfg->max_inflight_push_requests);
    set_limit_gauge("max_inflight_push_requests_bytes", (double)cfg->max_inflight_push_requests_bytes);
    set_limit_gauge("max_ingestion_rate", cfg->max_ingestion_rate);
    metric_set(metric_single(write_metrics[WRITE_M_INGEST_STORAGE]), 1);
    metrics_on_scrape(refresh_gauges, d);
    return d;
}

void distributor_free(struct distributor *d)
{
    if (!d)
        return;
    /* At the end of the process; the log answers every produce, so this ends. */
    while (atomic_load_explicit(&d->inflight, memory_order_acquire) > 0)
        nanosleep(&(struct timespec){.tv_nsec = 1000000}, NULL);
    metrics_remove_on_scrape(refresh_gauges, d);
    distributor_membership_free(d->member);
    write_tenants_free(d->tenants);
    pthread_mutex_destroy(&d->rate_lock);
    free(d);
}

void distributor_count_items(struct distributor *d, uint64_t n)
{
    pthread_mutex_lock(&d->rate_lock);
    moving_rate_add(&d->rate, clock_mono_ns(), (double)n);
    pthread_mutex_unlock(&d->rate_lock);
}

double distributor_rate(struct distributor *d)
{
    pthread_mutex_lock(&d->rate_lock);
    double rate = moving_rate_get(&d->rate, clock_mono_ns());
    pthread_mutex_unlock(&d->rate_lock);
    return rate;
}
