/* What each module does at its start and stop; the modules of a cluster are in cluster.c. */
#include <errno.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/random.h>

#include "app/explorer/explorer.h"
#include "app/modules.h"
#include "base/assert.h"
#include "model/tenant.h"
#include "net/page.h"
#include "storage/messages/ingester_messages.h"

/* Distributors and queriers keep nothing on disk. */
static bool data_dir_start(struct process *p, struct err *err)
{
    if (p->roles & DISK_ROLES)
        return data_dir_open(&p->data_dir, p->app.data_dir, err);
    p->data_dir.lock_fd = -1;
    if (getrandom(&p->data_dir.hash_seed, sizeof(p->data_dir.hash_seed), 0) != sizeof(p->data_dir.hash_seed))
        return err_errno(err, ERR_INTERNAL, errno, "random numbers of the system");
    return true;
}

static void data_dir_stop(struct process *p)
{
    if (p->data_dir.lock_fd >= 0)
        data_dir_close(&p->data_dir);
}

static bool log_start(struct process *p, struct err *err)
{
    char dir[PATH_MAX];
    snprintf(dir, sizeof(dir), "%s/log", p->app.data_dir);
    p->log = process_is_alone(p) ? plog_open_embedded(&p->log_cfg, dir, err) : plog_open_kafka(&p->log_cfg, err);
    if (p->log)
        p->last_produced = last_produced_new(p->log, &p->log_cfg);
    return p->log != NULL;
}

static void log_stop(struct process *p)
{
    last_produced_free(p->last_produced);
    plog_close(p->log);
    p->last_produced = NULL;
    p->log = NULL;
}

static bool distributor_start(struct process *p, struct err *err)
{
    p->distributor = distributor_new(&p->write, &p->limits_provider, p->log, p->partitions, p->data_dir.hash_seed);
    return process_is_alone(p) || distributor_join(p->distributor, &p->cluster.distributor_kv, &p->cluster.distributor_member, &p->stores,
                                                   (uint16_t)p->rpc.grpc_listen_port, err);
}

static void distributor_stop(struct process *p)
{
    if (p->distributor)
        distributor_leave(p->distributor);
    distributor_free(p->distributor);
    p->distributor = NULL;
}

bool wait_for_log(void *arg, struct ctx *ctx, struct err *err)
{
    struct process *p = arg;
    for (size_t i = 0; i < p->n_seats; i++) {
        int64_t next;
        if (!plog_acknowledged(p->log, (int32_t)i, &next, err) || !ingester_wait(p->seats[i].ingester, next, ctx, err))
            return false;
    }
    return true;
}

static void open_alone(struct process *p)
{
    struct queryable **parts = calloc(p->n_seats, sizeof(parts[0]));
    ASSERT(parts);
    for (size_t i = 0; i < p->n_seats; i++)
        parts[i] = ingester_queryable(p->seats[i].ingester);
    p->recent = queryable_fanout_new(parts, p->n_seats);
    free(parts);
}

static void open_cluster(struct process *p)
{
    struct local_ingester local[1];
    ASSERT(p->n_seats <= ARRAY_LEN(local));
    for (size_t i = 0; i < p->n_seats; i++)
        local[i] = (struct local_ingester){p->seats[i].id, ingest_service_queryable(p->seats[i].service)};
    p->recent = ingesters_queryable_new(&(struct ingesters_parts){
        .cfg = &p->ingesters_cfg,
        .limits = &p->limits_provider,
        .partitions = p->partitions,
        .instances = p->instances,
        .local = local,
        .n_local = p->n_seats,
        .zone = p->cluster.member.instance_availability_zone,
    });
}

static bool querier_start(struct process *p, struct err *err)
{
    process_is_alone(p) ? open_alone(p) : open_cluster(p);
    if (!stored_start(p, err))
        return false;
    p->consistency = (struct ingesters_consistency){p->last_produced, p->partitions};
    p->api = process_is_alone(p)
                 ? query_api_new(&p->read, &p->limits_provider, p->queryable, wait_for_log, p)
                 : query_api_new(&p->read, &p->limits_provider, p->queryable, ingesters_consistency, &p->consistency);
    query_api_spill_to(p->api, p->data_dir.path);
    return true;
}

static void querier_stop(struct process *p)
{
    query_api_free(p->api);
    stored_stop(p);
    process_is_alone(p) ? queryable_fanout_free(p->recent) : ingesters_queryable_free(p->recent);
    p->api = NULL;
    p->recent = NULL;
}

static bool tenant_of(void *arg, struct slice header, struct slice *ret, struct err *err)
{
    const struct process *p = arg;
    if (p->app.multitenancy_enabled)
        return tenant_parse(header, ret, err);
    *ret = slice_of(p->app.no_auth_tenant);
    return true;
}

static bool server_start(struct process *p, struct err *err)
{
    struct http_limits limits = {.max_body_bytes = p->read.max_body_size, .max_push_body_bytes = p->write.max_recv_msg_size};
    const char *prefix = p->app.prometheus_http_prefix;
    app_pages_start(p);
    p->server = http_server_new(&p->http, limits, tenant_of, p);
    http_server_add(p->server, prefix, page_routes, page_routes_n, p);
    http_server_add(p->server, prefix, explorer_routes, explorer_routes_n, p);
    cluster_add_routes(p);
    storage_add_routes(p);
    if (p->distributor) {
        http_server_add(p->server, prefix, write_routes, write_routes_n, p->distributor);
        http_server_on_refusal(p->server, write_routes, write_refuse);
    }
    if (p->api) {
        http_server_add(p->server, prefix, read_routes, read_routes_n, p->api);
        http_server_on_refusal(p->server, read_routes, query_api_refuse);
    }
    return http_server_start(p->server, err);
}

static void server_stop(struct process *p)
{
    if (p->server)
        http_server_stop(p->server, p->app.graceful_shutdown_timeout);
    http_server_free(p->server);
    cluster_free_routes(p);
    p->server = NULL;
}

static bool rpc_start(struct process *p, struct err *err)
{
    p->rpc_server = rpc_server_new(&p->rpc);
    rpc_server_set_common(p->rpc_server, &p->http);
    /* Several ingesters are in one process only when there is nobody else who would ask them. */
    if (p->n_seats == 1)
        rpc_server_add(p->rpc_server, ingest_service_methods, ingest_service_methods_n, p->seats[0].service);
    if (p->gateway)
        rpc_server_add(p->rpc_server, gateway_methods, gateway_methods_n, p->gateway);
    return rpc_server_start(p->rpc_server, err);
}

static void rpc_stop(struct process *p)
{
    if (p->rpc_server)
        rpc_server_stop(p->rpc_server, p->app.graceful_shutdown_timeout);
    rpc_server_free(p->rpc_server);
    p->rpc_server = NULL;
}

/*
 * Whatever a module uses is above it. The servers stop before what answers their requests; membership is last, so that the others look for us elsewhere
 * before we stop, and find us when everything is there. The log outlives the ingesters, who at their stop consume what is durable and commit.
 */
const struct module modules[] = {
    {"data-dir", ALL_ROLES, data_dir_start, data_dir_stop, NULL},
    {"memberlist-kv", ALL_ROLES, gossip_start, gossip_stop, gossip_ready},
    {"blocks-storage", BUCKET_ROLES, bucket_start, bucket_stop, NULL},
    {"log", LOG_ROLES, log_start, log_stop, NULL},
    {"ingester-ring", LOG_ROLES, instance_ring_start, instance_ring_stop, NULL},
    {"ingester-partitions-ring", LOG_ROLES, partition_ring_start, partition_ring_stop, NULL},
    {"ingester-service", ROLE_INGESTER, ingesters_start, ingesters_stop, NULL},
    {"distributor-service", ROLE_DISTRIBUTOR, distributor_start, distributor_stop, NULL},
    {"store-gateway-service", ROLE_STORE_GATEWAY, gateway_service_start, gateway_service_stop, NULL},
    {"compactor", ROLE_COMPACTOR, compactor_service_start, compactor_service_stop, NULL},
    {"querier", ROLE_QUERIER, querier_start, querier_stop, NULL},
    {"server", ALL_ROLES, server_start, server_stop, NULL},
    {"grpc-server", ALL_ROLES, rpc_start, rpc_stop, NULL},
    {"store-gateway", ROLE_STORE_GATEWAY, gateway_membership_start, gateway_membership_stop, gateway_membership_ready},
    {"ingester", ROLE_INGESTER, membership_start, membership_stop, membership_ready},
};
const size_t n_modules = ARRAY_LEN(modules);
_Static_assert(ARRAY_LEN(modules) <= PROCESS_MAX_MODULES, "PROCESS_MAX_MODULES is too small");
