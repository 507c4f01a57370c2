/* The store-gateway's life: made, joining the ring, leaving it, stopped. What the thread does between is in sync.c. */
#include "storage/gateway/gateway.h"

#include <errno.h>
#include <fcntl.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/logger.h"
#include "storage/gateway/gateway_int.h"

/* Of what are summaries without quantiles in Mimir: dashboards use their sums and counts. */
static const double gateway_buckets_none[] = {INFINITY};
static const double gateway_buckets_discovery[] = {60, 300, 600, 900, 1200, 1800, 2700, 3600, 7200, INFINITY};

#define METRICS_DEFINE_ONLY
#define METRICS_ROOM gateway
#define METRICS_DEF "storage/gateway/gateway_metrics.def"
#include "base/metrics_table.h"

#define MARKER_FILE "shutdown-requested.txt"
#define HELPERS_QUEUE 4096
#define ALONE_US 200 /* of a request where a read of the bucket waits for no network: then small ones end alone */
#define PREPARERS_QUEUE 1024
#define PREPARER_ARENA_BYTES ((size_t)256 << 20)

struct metric *gateway_metric(enum gateway_metric_id id)
{
    return METRIC_WITH(gateway_metrics[id], GATEWAY_COMPONENT);
}

bool gateway_no_memory(struct err *err)
{
    return err_set(err, ERR_MAX_QUERY_MEMORY, "no memory for a request to the store-gateway");
}

/* --- making --- */

static bool check_config(const struct gateway_deps *d, struct err *err)
{
    const struct gateway_sharding_config *ring = &d->ring->sharding;
    if (ring->num_tokens < 1 || ring->num_tokens > RING_TOKENS_MAX)
        return err_set(err, ERR_CONFIG, "-%snum-tokens must be from 1 to %d", GATEWAY_RING_FLAGS, RING_TOKENS_MAX);
    if (d->ring->member.heartbeat_period <= 0 || d->ring->member.heartbeat_timeout <= 0)
        return err_set(err, ERR_CONFIG, "-%sheartbeat-period and -heartbeat-timeout must be greater than 0", GATEWAY_RING_FLAGS);
    if (d->cfg->sync_interval <= 0)
        return err_set(err, ERR_CONFIG, "-blocks-storage.bucket-store.sync-interval must be greater than 0");
    if (d->cfg->block_sync_concurrency < 1 || d->cfg->tenant_sync_concurrency < 1 || d->cfg->meta_sync_concurrency < 1)
        return err_set(err, ERR_CONFIG, "-blocks-storage.bucket-store.*-sync-concurrency must be greater than 0");
    if (d->cfg->max_concurrent < 0 || d->cfg->lazy_loading_concurrency < 0 || d->cfg->batch_series_size < 1)
        return err_set(err, ERR_CONFIG, "-blocks-storage.bucket-store.max-concurrent, -index-header.lazy-loading-concurrency and -batch-series-size must not be negative");
    if (d->cfg->query_threads < 1 || d->cfg->query_threads > 1024)
        return err_set(err, ERR_CONFIG, "-store-gateway.block-query-concurrency must be from 1 to 1024");
    return true;
}

static bool make_folder(struct gateway *g, const char *sync_dir, struct err *err)
{
    g->sync_dir = slice_strdup(slice_of(g->cfg->sync_dir[0] ? g->cfg->sync_dir : sync_dir));
    size_t n = strlen(g->sync_dir);
    while (n > 1 && g->sync_dir[n - 1] == '/')
        g->sync_dir[--n] = '\0';
    if (mkdir(g->sync_dir, 0777) != 0 && errno != EEXIST)
        return err_errno(err, ERR_IO, errno, "making folder %s", g->sync_dir);
    return true;
}

static bool resolve(struct gateway *g, uint16_t grpc_port, struct err *err)
{
    if (!g->alone)
        return ring_member_resolve(&g->ring_cfg->member, GATEWAY_RING_FLAGS, grpc_port, &g->self, err);
    snprintf(g->self.id, sizeof(g->self.id), "store-gateway");
    snprintf(g->self.addr, sizeof(g->self.addr), "127.0.0.1:%u", grpc_port);
    return true;
}

static bool join_ring(struct gateway *g, const struct kv_stores *stores, struct err *err)
{
    const struct gateway_sharding_config *ring = &g->ring_cfg->sharding;
    int64_t timeout_ms = g->ring_cfg->member.heartbeat_timeout;
    const struct lifecycler_config cfg = {
        .name = "store-gateway",
        .key = RING_KEY_STORE_GATEWAYS,
        .id = g->self.id,
        .addr = g->self.addr,
        .zone = g->self.zone,
        .n_tokens = (size_t)ring->num_tokens,
        .heartbeat_period_ms = g->ring_cfg->member.heartbeat_period,
        .forget_after_ms = ring->auto_forget_enabled ? ring->auto_forget_unhealthy_periods * timeout_ms : 0,
        .unregister_on_stop = ring->unregister_on_shutdown,
        .tokens_file = ring->tokens_file_path,
    };
    struct gateway_ring_config own = *g->ring_cfg;
    if (g->alone)
        own.kv.store = "inmemory";
    if (!(g->ring = gateway_ring_open(&own, stores, "store-gateway", err)) ||
        !(g->member_kv = kv_open(&own.kv, &(struct kv_user){GATEWAY_RING_FLAGS, "store-gateway-lifecycler"}, stores, err)))
        return false;
    g->lifecycler = lifecycler_new(g->member_kv, &cfg, &lifecycler_env_system);
    return true;
}

static void make_threads(struct gateway *g)
{
    const struct gateway_config *c = g->cfg;
    gate_init(&g->queries, "query", c->max_concurrent, c->max_concurrent_queue_timeout);
    gate_init(&g->loads, "index_header", c->lazy_loading_enabled ? c->lazy_loading_concurrency : 0, c->lazy_loading_queue_timeout);
    g->alone_us = objstore_request_bytes(g->bucket) == UINT64_MAX ? 0 : ALONE_US;
    g->helpers = pool_new("gw-blocks", (size_t)c->query_threads, HELPERS_QUEUE, 1 << 20);
    g->preparers = pool_new("gw-headers", (size_t)c->block_sync_concurrency, PREPARERS_QUEUE, PREPARER_ARENA_BYTES);
}

static void marker_path(const struct gateway *g, char *ret, size_t n)
{
    snprintf(ret, n, "%s/" MARKER_FILE, g->sync_dir);
}

static void set_prepared(struct gateway *g, bool prepared)
{
    pthread_mutex_lock(&g->lock);
    g->prepared_down = prepared;
    pthread_mutex_unlock(&g->lock);
    lifecycler_set_unregister_on_stop(g->lifecycler, prepared || g->ring_cfg->sharding.unregister_on_shutdown);
    metric_set(metric_single(gateway_metrics[GATEWAY_PREPARE_SHUTDOWN]), prepared);
}

struct gateway *gateway_new(const struct gateway_deps *deps, struct err *err)
{
    if (!check_config(deps, err))
        return NULL;
    gateway_metrics_register();
    struct gateway *g = calloc(1, sizeof(*g));
    ASSERT(g);
    g->cfg = deps->cfg;
    g->ring_cfg = deps->ring;
    g->limits = deps->limits;
    g->bucket = deps->bucket;
    g->store = deps->store;
    g->alone = deps->alone;
    g->waits_for = "the store-gateway has not been started";
    pthread_mutex_init(&g->lock, NULL);
    gateway_cond_init(&g->changed);
    make_threads(g);
    if (!make_folder(g, deps->sync_dir, err) || !resolve(g, deps->grpc_port, err) || !join_ring(g, deps->stores, err)) {
        gateway_free(g);
        return NULL;
    }
    char marker[4096];
    marker_path(g, marker, sizeof(marker));
    set_prepared(g, access(marker, F_OK) == 0);
    return g;
}

/* --- life --- */

/*
 * Whatever state an earlier life left, the entry begins as JOINING, with its old tokens if they are there. The heartbeats begin at once, so that the entry lives through a long look at the
 * bucket.
 */
bool gateway_start(struct gateway *g, struct err *err)
{
    if (!lifecycler_register(g->lifecycler, RING_JOINING, err))
        return false;
    lifecycler_start(g->lifecycler);
    ASSERT(pthread_create(&g->thread, NULL, sync_main, g) == 0);
    g->has_thread = true;
    return true;
}

bool gateway_ready(struct gateway *g, struct err *ret)
{
    pthread_mutex_lock(&g->lock);
    bool ready = g->ready;
    const char *why = g->waits_for;
    pthread_mutex_unlock(&g->lock);
    return ready || err_set(ret, ERR_UNAVAILABLE, "%s", why);
}

static void stop_thread(struct gateway *g)
{
    atomic_store_explicit(&g->stopping, true, memory_order_release);
    pthread_mutex_lock(&g->lock);
    g->ready = false;
    g->waits_for = "the store-gateway has been stopped";
    pthread_cond_broadcast(&g->changed);
    pthread_mutex_unlock(&g->lock);
    if (g->has_thread)
        pthread_join(g->thread, NULL);
    g->has_thread = false;
}

/* The thread ends first: it could still make the entry ACTIVE, and a ring without us gives no blocks to anybody here. */
void gateway_leave(struct gateway *g)
{
    struct err err = ERR_NONE;
    bool joined = g->has_thread;
    stop_thread(g);
    if (!joined || g->left)
        return;
    g->left = true;
    if (!lifecycler_stop(g->lifecycler, &err))
        LOG_WARN("the store-gateway's entry stays in the ring", {"err", LOG_ERR(&err)});
    char marker[4096];
    marker_path(g, marker, sizeof(marker));
    pthread_mutex_lock(&g->lock);
    bool prepared = g->prepared_down;
    pthread_mutex_unlock(&g->lock);
    if (prepared)
        unlink(marker); /* it was for this stop */
}

void gateway_stop(struct gateway *g)
{
    gateway_leave(g);
    pthread_mutex_lock(&g->lock);
    g->serving = false;
    pthread_mutex_unlock(&g->lock);
}

void gateway_free(struct gateway *g)
{
    if (!g)
        return;
    ASSERT(!g->has_thread);
    pool_stop(g->preparers);
    pool_stop(g->helpers);
    lifecycler_free(g->lifecycler);
    gateway_ring_close(g->ring);
    kv_free(g->member_kv);
    table_free(g);
    catch_up_free(g);
    gate_release(&g->queries);
    gate_release(&g->loads);
    pthread_cond_destroy(&g->changed);
    pthread_mutex_destroy(&g->lock);
    free(g->sync_dir);
    free(g);
}

const char *gateway_id(const struct gateway *g)
{
    return g->self.id;
}

struct gateway_ring *gateway_own_ring(struct gateway *g)
{
    return g->ring;
}

/* --- the stop that is for good --- */

/* The marker survives a restart before that stop. */
bool gateway_set_prepared(struct gateway *g, bool prepared, struct err *err)
{
    char marker[4096];
    marker_path(g, marker, sizeof(marker));
    if (prepared) {
        int fd = open(marker, O_WRONLY | O_CREAT | O_CLOEXEC, 0666);
        if (fd < 0)
            return err_errno(err, ERR_IO, errno, "making %s", marker);
        close(fd);
    } else if (unlink(marker) != 0 && errno != ENOENT) {
        return err_errno(err, ERR_IO, errno, "removing %s", marker);
    }
    set_prepared(g, prepared);
    return true;
}
