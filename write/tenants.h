/*
 * What the distributor remembers of each tenant: known series, rate limits, sub-ring, metric series. Private to write/.
 *
 * A bounded table. A push takes a reference on its tenant and gives it back when it is answered. Tenants that nobody holds are forgotten after an
 * idle time, or when the table is full and a new one comes (the one unused for longest). Their metric series go with them: a tenant leaves the
 * table only while nobody holds it, and its series are removed before a tenant of that name can be made again, so pointers to series
 * never outlive them.
 *
 * Locks, in order: turnover (tenants are made or freed; removing metric series may wait for a scrape, and meanwhile only pushes of tenants that are
 * new here wait), the table's lock (never held for more than a walk of the table), a tenant's lock. Known series have a lock of their own, taken last.
 */
#pragma once

#include <pthread.h>
#include <stdatomic.h>
#include <stdint.h>

#include "base/metrics.h"
#include "base/slice.h"
#include "model/limits.h"
#include "partition-ring/partition_view.h"
#include "write/known_series.h"
#include "write/rate_limit.h"
#include "write/token.h"

/* Metric series of a tenant that are counted at every push; the others are looked up when they are needed. */
struct tenant_metrics {
    struct metric *requests_in[2]; /* by remote write version 1.0, 2.0 */
    struct metric *samples_in;
    struct metric *received_requests;
    struct metric *received_samples;
    struct metric *received_bytes;
    struct metric *latest_seen;
    struct metric *samples_per_request;
    struct metric *body_size;
};

struct write_tenant {
    struct slice name;            /* in the same allocation */
    uint64_t name_hash;
    uint32_t token_start;         /* state of the token's hash after the tenant's bytes */
    struct write_tenant *next;    /* of the bucket; guarded by the table's lock */
    int refs;                     /* guarded by the table's lock */
    int64_t used_ms;              /* guarded by the table's lock; monotonic */
    struct known_series known;
    struct tenant_metrics metrics; /* immutable */

    pthread_mutex_t lock;
    struct token_bucket requests;    /* guarded by lock */
    struct token_bucket items;       /* guarded by lock */
    struct partition_ring *whole;    /* guarded by lock; what shard was made of; NULL before its first use */
    struct partition_ring *shard;    /* guarded by lock */
    int64_t shard_size;              /* guarded by lock; what shard was made for */
    double latest_seen_s;            /* guarded by lock */
};

struct write_tenants;

struct write_tenants *write_tenants_new(size_t max_tenants, int64_t idle_ms, enum token_kind token_kind, size_t known_max,
                                        struct known_budget *budget);
void write_tenants_free(struct write_tenants *t);

/* The tenant, made when absent; with a reference. NULL when the table is full of tenants in use. */
struct write_tenant *write_tenants_get(struct write_tenants *t, struct slice name, int64_t now_ms);
void write_tenants_put(struct write_tenants *t, struct write_tenant *tenant);
size_t write_tenants_count(const struct write_tenants *t);

/*
 * The tenant's sub-ring of the whole one, with a reference for the caller (partition_ring_free). It is made anew when another whole ring comes or another
 * size; the tenant holds the whole one, so the same pointer is the same ring.
 */
struct partition_ring *write_tenant_ring(struct write_tenant *t, struct partition_ring *whole, int64_t shard_size);
/* latest_seen := max(latest_seen, ms). */
void write_tenant_saw(struct write_tenant *t, int64_t sample_ms);
