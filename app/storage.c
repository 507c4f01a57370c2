/*
 * Long-term storage in this process: the bucket; the store-gateway, which reads its blocks; the compactor, which keeps it in order.
 *
 * One bucket, of -blocks-storage.*, is opened for whoever is here. A single process has all of it, and asks its own store-gateway without gRPC.
 */
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "app/modules.h"
#include "base/assert.h"
#include "base/logger.h"

#define BUCKET_FLAGS "blocks-storage."
#define COMMON_BUCKET_FLAGS "common.storage."

static const struct flag_def common_bucket_flags[] = {
#define FLAG(...) FLAG_ROW(objstore_config, __VA_ARGS__)
#define OBJSTORE_FLAG COMMON_BUCKET_FLAGS
#define OBJSTORE_YAML "common.storage."
#include "storage/objstore/objstore_flags.def"
#undef OBJSTORE_FLAG
#undef OBJSTORE_YAML
};

static const struct flag_def bucket_flags[] = {
#define OBJSTORE_FLAG BUCKET_FLAGS
#define OBJSTORE_YAML "blocks_storage."
#include "storage/objstore/objstore_flags.def"
#undef OBJSTORE_FLAG
#undef OBJSTORE_YAML
#undef FLAG
};

void storage_add_flags(struct process *p)
{
    struct storage_config *c = &p->storage;
    flag_set_add(p->flags, "Object storage in common", common_bucket_flags, ARRAY_LEN(common_bucket_flags), &c->common_bucket);
    flag_set_add(p->flags, "Blocks storage", bucket_flags, ARRAY_LEN(bucket_flags), &c->bucket);
    flag_set_add(p->flags, "Blocks storage", index_cache_flags, index_cache_flags_n, &c->indexes);
    flag_set_add(p->flags, "Ingester", shipper_flags, shipper_flags_n, &c->shipper);
    flag_set_add(p->flags, "Store-gateway", gateway_flags, gateway_flags_n, &c->gateway);
    flag_set_add(p->flags, "Store-gateway", store_flags, store_flags_n, &c->store);
    flag_set_add(p->flags, "Store-gateway", store_index_cache_flags, store_cache_flags_n, &c->index_cache);
    flag_set_add(p->flags, "Store-gateway", store_chunks_cache_flags, store_cache_flags_n, &c->chunks_cache);
    flag_set_add(p->flags, "Store-gateway ring", gateway_kv_flags, gateway_kv_flags_n, &c->gateway_ring.kv);
    flag_set_add(p->flags, "Store-gateway ring", gateway_member_flags, gateway_member_flags_n, &c->gateway_ring.member);
    flag_set_add(p->flags, "Store-gateway ring", gateway_sharding_flags, gateway_sharding_flags_n, &c->gateway_ring.sharding);
    flag_set_add(p->flags, "Compactor", compactor_flags, compactor_flags_n, &c->compactor);
    flag_set_add(p->flags, "Compactor ring", compactor_kv_flags, compactor_kv_flags_n, &c->compactor_kv);
    flag_set_add(p->flags, "Compactor ring", compactor_member_flags, compactor_member_flags_n, &c->compactor_member);
    flag_set_add(p->flags, "Querier", blocks_flags, blocks_flags_n, &c->blocks);
    flag_set_add(p->flags, "Querier", merged_flags, merged_flags_n, &c->merged);
}

/*
 * What the flags say, after they were parsed. A folder that nobody named would be another one for each process of a cluster: what ingesters put there
 * queriers would never find, and their answers would be short.
 */
bool storage_check_flags(struct process *p, struct err *err)
{
    struct storage_config *c = &p->storage;
    flag_set_inherit(p->flags, COMMON_BUCKET_FLAGS, BUCKET_FLAGS);
    if (!process_is_alone(p) && p->roles & BUCKET_ROLES && strcmp(c->bucket.backend, "filesystem") == 0 && !c->bucket.filesystem_dir[0])
        return err_set(err, ERR_CONFIG,
                       "-blocks-storage.filesystem.dir must name a folder that all processes of the cluster share, unless -blocks-storage.backend is "
                       "an object store");
    if (process_is_alone(p))
        c->gateway_ring.kv.store = c->compactor_kv.store = "inmemory";
    return blocks_config_check(&c->blocks, err) && merged_config_check(&c->merged, &p->limits, err);
}

/* --- the bucket ------------------------------------------------------------------------------------------------------------ */

static void in_data_dir(const struct process *p, const char *name, char out[PATH_MAX])
{
    snprintf(out, PATH_MAX, "%s/%s", p->app.data_dir, name);
}

bool bucket_start(struct process *p, struct err *err)
{
    char dir[PATH_MAX];
    in_data_dir(p, "blocks", dir);
    return (p->bucket = objstore_open(&p->storage.bucket, BUCKET_FLAGS, dir, err)) != NULL;
}

void bucket_stop(struct process *p)
{
    objstore_free(p->bucket);
    p->bucket = NULL;
}

/* --- the ingesters' way into it ---------------------------------------------------------------------------------------------- */

bool shipper_open(struct process *p, struct err *err)
{
    struct ingester **ingesters = calloc(p->n_seats, sizeof(ingesters[0]));
    struct local_blocks **sources = calloc(p->n_seats, sizeof(sources[0]));
    ASSERT(ingesters && sources);
    for (size_t i = 0; i < p->n_seats; i++) {
        ingesters[i] = p->seats[i].ingester;
        sources[i] = ingester_local_blocks(ingesters[i]);
    }
    p->shipper_bucket = objstore_as(p->bucket, "ingester");
    p->shipper = shipper_new(p->shipper_bucket, sources, p->n_seats, &p->limits_provider, &p->storage.shipper, err);
    if (p->shipper)
        p->flusher = flusher_new(ingesters, p->n_seats, p->shipper, process_is_alone(p) ? wait_for_log : NULL, p);
    free(ingesters);
    free(sources);
    return p->shipper != NULL;
}

/* A stop that flushes has cut blocks which nobody else will ship. */
static void ship_last_blocks(struct process *p)
{
    struct err err = ERR_NONE;
    struct ctx ctx = {0};
    bool flushed = false;
    for (size_t i = 0; i < p->n_seats; i++)
        flushed |= ingester_flushes_on_stop(p->seats[i].ingester);
    if (flushed && !shipper_ship(p->shipper, &ctx, (struct slice){NULL, 0}, &err))
        LOG_ERROR("blocks stay on this disk that could not be shipped", {"err", LOG_ERR(&err)});
}

void shipper_close(struct process *p)
{
    if (p->shipper) {
        ship_last_blocks(p);
        shipper_stop(p->shipper);
    }
    shipper_free(p->shipper);
    objstore_free(p->shipper_bucket);
    p->shipper = NULL;
    p->shipper_bucket = NULL;
}

/* --- the store-gateway ------------------------------------------------------------------------------------------------------- */

static bool open_caches(struct process *p, struct err *err)
{
    const struct storage_config *c = &p->storage;
    return cache_open(&c->index_cache, STORE_INDEX_CACHE_FLAGS, "store-gateway", "index-cache", &p->index_cache, err) &&
           cache_open(&c->chunks_cache, STORE_CHUNKS_CACHE_FLAGS, "store-gateway", "chunks-cache", &p->chunks_cache, err);
}

bool gateway_service_start(struct process *p, struct err *err)
{
    char dir[PATH_MAX];
    in_data_dir(p, "tsdb-sync", dir);
    p->gateway_bucket = objstore_as(p->bucket, "store-gateway");
    if (!open_caches(p, err))
        return false;
    p->store = store_new(&p->storage.store, &(struct store_deps){p->gateway_bucket, p->index_cache, p->chunks_cache});
    p->gateway = gateway_new(
        &(struct gateway_deps){
            .cfg = &p->storage.gateway,
            .ring = &p->storage.gateway_ring,
            .stores = &p->stores,
            .limits = &p->limits_provider,
            .bucket = p->gateway_bucket,
            .store = p->store,
            .sync_dir = dir,
            .grpc_port = (uint16_t)p->rpc.grpc_listen_port,
            .alone = process_is_alone(p),
        },
        err);
    return p->gateway != NULL;
}

void gateway_service_stop(struct process *p)
{
    if (p->gateway)
        gateway_stop(p->gateway);
    gateway_free(p->gateway);
    store_free(p->store);
    cache_close(p->chunks_cache);
    cache_close(p->index_cache);
    objstore_free(p->gateway_bucket);
    p->gateway = NULL;
    p->store = NULL;
    p->chunks_cache = p->index_cache = NULL;
    p->gateway_bucket = NULL;
}

bool gateway_membership_start(struct process *p, struct err *err)
{
    return gateway_start(p->gateway, err);
}

void gateway_membership_stop(struct process *p)
{
    if (p->gateway)
        gateway_leave(p->gateway);
}

bool gateway_membership_ready(struct process *p, struct err *ret)
{
    return gateway_ready(p->gateway, ret);
}

/* --- the querier's side -------------------------------------------------------------------------------------------------------- */

bool stored_start(struct process *p, struct err *err)
{
    const struct storage_config *c = &p->storage;
    p->gateways = gateway_ring_open(&c->gateway_ring, &p->stores, "store-gateway-client", err);
    if (!p->gateways)
        return false;
    p->querier_bucket = objstore_as(p->bucket, "querier");
    p->indexes = index_cache_new(p->querier_bucket, &c->indexes, c->gateway.sync_interval);
    index_cache_start(p->indexes);
    const struct local_gateway local = p->gateway ? local_gateway_of(p->gateway) : (struct local_gateway){0};
    p->stored = blocks_queryable_new(&(struct blocks_parts){
        .cfg = &c->blocks,
        .limits = &p->limits_provider,
        .indexes = p->indexes,
        .gateways = gateway_ring_view(p->gateways),
        .local = p->gateway ? &local : NULL,
        .preferred_zones = &p->ingesters_cfg.preferred_zones,
        .zone = p->cluster.member.instance_availability_zone,
        .upload_grace_ms = 3 * c->gateway.sync_interval,
    });
    p->queryable = merged_queryable_new(&(struct merged_parts){&c->merged, &p->limits_provider, p->recent, p->stored});
    return true;
}

void stored_stop(struct process *p)
{
    merged_queryable_free(p->queryable);
    blocks_queryable_free(p->stored);
    if (p->indexes)
        index_cache_stop(p->indexes);
    index_cache_free(p->indexes);
    objstore_free(p->querier_bucket);
    gateway_ring_close(p->gateways);
    p->queryable = p->stored = NULL;
    p->indexes = NULL;
    p->querier_bucket = NULL;
    p->gateways = NULL;
}

/* --- the compactor --------------------------------------------------------------------------------------------------------------- */

static bool estimate_jobs(void *compactor, struct slice tenant, const struct bucket_index *index, size_t *ret_split, size_t *ret_merge, struct err *err)
{
    return compactor_estimate_jobs(compactor, tenant, index, ret_split, ret_merge, err);
}

static bool owns_cleaning(void *ring, struct slice tenant)
{
    return compactor_ring_owns_cleaning(ring, tenant);
}

static bool wait_for_ring(void *ring, const struct ctx *ctx, struct err *err)
{
    return compactor_ring_wait(ring, ctx, err);
}

bool compactor_service_start(struct process *p, struct err *err)
{
    const struct storage_config *c = &p->storage;
    char dir[PATH_MAX];
    in_data_dir(p, "data-compactor", dir);
    p->compactor_bucket = objstore_as(p->bucket, "compactor");
    p->compactor_ring = compactor_ring_new(&c->compactor, &c->compactor_kv, &c->compactor_member, &p->limits_provider, &p->stores,
                                           (uint16_t)p->rpc.grpc_listen_port, process_is_alone(p), err);
    if (!p->compactor_ring)
        return false;
    p->compactor = compactor_new(&c->compactor, p->compactor_ring, &p->limits_provider, p->compactor_bucket, dir, err);
    if (!p->compactor)
        return false;
    p->cleaner = cleaner_new(&(struct cleaner_parts){
        .cfg = &c->compactor,
        .limits = &p->limits_provider,
        .bucket = p->compactor_bucket,
        .owns = owns_cleaning,
        .owns_arg = p->compactor_ring,
        .wait = wait_for_ring,
        .wait_arg = p->compactor_ring,
        .count_mark = compactor_count_deletion_mark,
        .estimate = estimate_jobs,
        .estimate_arg = p->compactor,
    });
    p->upload = upload_new(
        &(struct upload_parts){.cfg = &c->compactor, .limits = &p->limits_provider, .bucket = p->compactor_bucket, .default_dir = dir}, err);
    return p->upload && compactor_start(p->compactor, err) && cleaner_start(p->cleaner, err);
}

void compactor_service_stop(struct process *p)
{
    if (p->upload)
        upload_stop(p->upload);
    if (p->compactor)
        compactor_stop(p->compactor);
    if (p->cleaner)
        cleaner_stop(p->cleaner);
    if (p->compactor_ring)
        compactor_ring_leave(p->compactor_ring);
    upload_free(p->upload);
    cleaner_free(p->cleaner);
    compactor_free(p->compactor);
    compactor_ring_free(p->compactor_ring);
    objstore_free(p->compactor_bucket);
    p->upload = NULL;
    p->cleaner = NULL;
    p->compactor = NULL;
    p->compactor_ring = NULL;
    p->compactor_bucket = NULL;
}

/* --- pages and endpoints ------------------------------------------------------------------------------------------------------------ */

void storage_add_routes(struct process *p)
{
    const char *prefix = p->app.prometheus_http_prefix;
    if (p->flusher)
        http_server_add(p->server, prefix, flush_routes, flush_routes_n, p->flusher);
    if (p->gateway)
        http_server_add(p->server, prefix, gateway_routes, gateway_routes_n, p->gateway);
    if (!p->compactor)
        return;
    http_server_add(p->server, prefix, compactor_routes, compactor_routes_n, p->compactor);
    http_server_add(p->server, prefix, cleaner_routes, cleaner_routes_n, p->cleaner);
    http_server_add(p->server, prefix, upload_routes, upload_routes_n, p->upload);
    http_server_on_spool(p->server, upload_routes, upload_spool);
}
