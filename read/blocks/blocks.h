/*
 * Stored data: one queryable over the blocks of the object store, each read through a store-gateway that has it.
 *
 * Which blocks there are is said by the tenant's bucket index. Each is asked of one of its replicas in the store-gateways' ring: one of this process first, then one of the preferred zones,
 * then any other, at random; one call a store-gateway for all blocks it is asked for. A store-gateway says which blocks its answer comes from. Those that are missing, and
 * those of a store-gateway that fails, also in the middle of its answer, are asked of other replicas, up to BLOCK_TRIES_MAX failures in all. Then the query fails with
 * ERR_STORE_CONSISTENCY_CHECK_FAILED, which names the blocks: never a short answer.
 *
 * A select gives series in the order of their labels, each once, with the chunks of all blocks, equal chunks once. Of chunks it has in memory at most a message or two of each
 * store-gateway; labels of all series are in the query's arena. Labels are valid until the set is released, chunks until the next call on it.
 * A select with hints gives aggregates of downsampled blocks (storage/downsample) where they answer the same; struct select_hints says how they come.
 * Any thread may call; each set belongs to one thread.
 */
#pragma once

#include <stdint.h>

#include "base/flags.h"
#include "model/limits.h"
#include "read/peers/peers.h"
#include "ring/ring.h"
#include "storage/block/ulid.h"
#include "storage/bucket/index_cache.h"
#include "storage/gateway/gateway.h"
#include "storage/queryable.h"

/* Store-gateways that a block is asked of; Mimir's number. */
#define BLOCK_TRIES_MAX 3

struct blocks_config {
#define FLAG FLAG_FIELD
#include "read/blocks/blocks_flags.def"
#undef FLAG
    struct peer_client_config client; /* -querier.store-gateway-client.*, in the same table */
};
extern const struct flag_def blocks_flags[];
extern const size_t blocks_flags_n;

/* How a store-gateway of this process is asked, with nothing put into messages: as gateway_select, gateway_label_names and gateway_label_values say (storage/gateway/gateway.h). */
struct local_gateway_ops {
    struct series_set *(*select)(void *gateway, struct ctx *ctx, const struct select_params *p, const struct block_hints *blocks, struct gateway_found *ret_found,
                                 struct err *err);
    bool (*label_names)(void *gateway, struct ctx *ctx, const struct select_params *p, const struct block_hints *blocks, struct gateway_found *ret_found,
                        const struct slice **ret, size_t *ret_n, struct err *err);
    bool (*label_values)(void *gateway, struct ctx *ctx, struct slice name, const struct select_params *p, const struct block_hints *blocks,
                         struct gateway_found *ret_found, const struct slice **ret, size_t *ret_n, struct err *err);
};

struct local_gateway {
    const char *id; /* its instance id in the ring */
    const struct local_gateway_ops *ops;
    void *gateway;
};
/* The real one. */
struct local_gateway local_gateway_of(struct gateway *g);

/* All of it must outlive the queryable; local and zone are copied. */
struct blocks_parts {
    const struct blocks_config *cfg;
    const struct limits_provider *limits;
    struct index_cache *indexes;
    struct ring *gateways;             /* gateway_ring_view of the ring "store-gateway-client" */
    const struct local_gateway *local; /* NULL: none in this process */
    const struct flag_list *preferred_zones; /* -querier.prefer-availability-zones; NULL or empty: this process's own */
    const char *zone;                        /* this process's own, "" or NULL = none */
    /*
     * Blocks that were uploaded within this time may be missing from answers: store-gateways may not have heard of them, and ingesters still have what is in them. Mimir's is three
     * times -blocks-storage.bucket-store.sync-interval. 0: none may be missing.
     */
    int64_t upload_grace_ms;
};

/* ERR_CONFIG: TLS' files cannot be read, or its words are not known. */
bool blocks_config_check(const struct blocks_config *cfg, struct err *err);
struct queryable *blocks_queryable_new(const struct blocks_parts *parts);
/* All sets must have been released. NULL is fine. */
void blocks_queryable_free(struct queryable *q);
