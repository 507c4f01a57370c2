/*
 * The store-gateway: serves the blocks of the object store that are its share, to queriers of other processes (gatewaypb.StoreGateway) and of this one (gateway_select ...).
 *
 * Which blocks: every block belongs to the replication-factor store-gateways that follow its token in the ring, within the tenant's shuffle shard. Bucket indexes are read at the
 * start, every sync-interval, and when the ring has changed; blocks that went to others are kept until one of those can be asked. A block's index-header is made ahead of queries and
 * mapped when a query first needs it. README.md tells the story of one request.
 *
 * Answers are exact or errors: series in order of their labels, each once, and the list of the blocks that they come from. A block that is asked for and not here is not in
 * that list, and no error: the querier asks another replica. A block that cannot be read is an error that names it.
 *
 * Errors beside those of storage/store/store.h: ERR_UNAVAILABLE (not started, or too busy: ask another), ERR_MAX_SERIES_PER_QUERY and ERR_MAX_CHUNKS_PER_QUERY with Mimir's
 * texts, by the tenant's limits. Any thread may ask; start, leave, stop and free are their owner's.
 */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/ctx.h"
#include "base/err.h"
#include "base/flags.h"
#include "model/limits.h"
#include "net/http.h"
#include "net/rpc/rpc.h"
#include "ring/config.h"
#include "ring/ring.h"
#include "storage/messages/storegateway_messages.h"
#include "storage/objstore/objstore.h"
#include "storage/queryable.h"
#include "storage/store/store.h"

/* --- flags: four tables, each added by itself (flag_set_add) with its struct -------------------------------------------------- */

#define FLAG FLAG_FIELD
struct gateway_config {
#include "storage/gateway/gateway_flags.def"
};
struct gateway_sharding_config {
#include "storage/gateway/gateway_ring_flags.def"
};
#undef FLAG
extern const struct flag_def gateway_flags[];
extern const size_t gateway_flags_n;
extern const struct flag_def gateway_sharding_flags[];
extern const size_t gateway_sharding_flags_n;
extern const struct flag_def gateway_kv_flags[]; /* struct kv_config */
extern const size_t gateway_kv_flags_n;
extern const struct flag_def gateway_member_flags[]; /* struct ring_member_config */
extern const size_t gateway_member_flags_n;
#define GATEWAY_RING_FLAGS "store-gateway.sharding-ring."

/* All that the flags say of the ring. */
struct gateway_ring_config {
    struct kv_config kv;
    struct ring_member_config member;
    struct gateway_sharding_config sharding;
};

/* --- the ring, as anybody sees it --------------------------------------------------------------------------------------------- */

/*
 * A view of the ring with a store of its own: for the querier, and in here. name: of the metrics, "store-gateway" (a gateway's own) or "store-gateway-client" (who asks gateways); one of
 * a name in a process. cfg and what stores has must outlive it. NULL and ERR_CONFIG.
 */
struct gateway_ring;
struct gateway_ring *gateway_ring_open(const struct gateway_ring_config *cfg, const struct kv_stores *stores, const char *name, struct err *err);
void gateway_ring_close(struct gateway_ring *r); /* NULL is fine */
struct ring *gateway_ring_view(struct gateway_ring *r);
struct kv *gateway_ring_store(struct gateway_ring *r);
/* The tenant's part of the ring by its limits (store_gateway_tenant_shard_size, or by zone): whose blocks are looked for there. One reference for the caller. */
struct ring_snapshot *gateway_tenant_ring(struct ring_snapshot *s, const struct limits *limits, struct slice tenant);

/* --- life cycle --------------------------------------------------------------------------------------------------------------- */

struct gateway;

/* All of it must outlive the gateway; strings are copied. */
struct gateway_deps {
    const struct gateway_config *cfg;
    const struct gateway_ring_config *ring;
    const struct kv_stores *stores;
    const struct limits_provider *limits;
    struct objstore *bucket; /* component "store-gateway" */
    struct store *store;     /* over the same bucket */
    const char *sync_dir;    /* where no flag says one; made if need be */
    uint16_t grpc_port;      /* at which others reach us */
    /* The whole cluster is this process: the ring lives in memory (stores->inmemory), and nobody has to hear of us. */
    bool alone;
};

/* Nothing is read yet. NULL: ERR_CONFIG, or the folder cannot be made. */
struct gateway *gateway_new(const struct gateway_deps *deps, struct err *err);
/*
 * Joins the ring (JOINING), and has a thread load the blocks, become ACTIVE, and keep up with bucket and ring. Fails when the ring's store does. The gRPC server should be listening
 * when the gateway becomes ACTIVE, so this comes after it, or soon before.
 */
bool gateway_start(struct gateway *g, struct err *err);
/* Serving: the blocks are known, and the ring says ACTIVE. ret (may be NULL): what is being waited for. */
bool gateway_ready(struct gateway *g, struct err *ret);
/* Leaves the ring, so that others are asked; answers go on. Before the servers stop. */
void gateway_leave(struct gateway *g);
/* Ends the threads; what is asked from now on is ERR_UNAVAILABLE. After the servers have stopped. Without leave it leaves, too. */
void gateway_stop(struct gateway *g);
void gateway_free(struct gateway *g); /* stopped or never started, all sets released; before the store; NULL is fine */

/* Of this process in the ring. */
const char *gateway_id(const struct gateway *g);
struct gateway_ring *gateway_own_ring(struct gateway *g);

/* --- asked in this process ---------------------------------------------------------------------------------------------------- */

/* The blocks that an answer comes from; in ctx->arena. Those that were asked for, that are here, and that are read or, by their times, have nothing to say. */
struct gateway_found {
    const struct ulid *blocks;
    size_t n;
};

/*
 * The tenant is ctx->tenant; or a room of its downsampled blocks (downsample_room), which has those alone. blocks->all: all of the tenant's blocks that touch [p->min_t, p->max_t]; p->matchers may hold a shard of the query (storage/store/store.h) and must live
 * as long as the set. Series in order of their labels, each once, with the chunks of all blocks by their beginning: chunks that several blocks have are there several times.
 * Labels are valid until the release, chunks until the next call on the set. p->limit: of series. Memory: what store_select_new says, in arenas of the set's own, which together may be as
 * large as ctx->arena. NULL on error. A tenant of whom nothing is here has no series.
 */
struct series_set *gateway_select(struct gateway *g, struct ctx *ctx, const struct select_params *p, const struct block_hints *blocks, struct gateway_found *ret_found,
                                  struct err *err);
/* Sorted, unique, in ctx->arena; p->limit: of strings, 0 = none. */
bool gateway_label_names(struct gateway *g, struct ctx *ctx, const struct select_params *p, const struct block_hints *blocks, struct gateway_found *ret_found,
                         const struct slice **ret, size_t *ret_n, struct err *err);
bool gateway_label_values(struct gateway *g, struct ctx *ctx, struct slice name, const struct select_params *p, const struct block_hints *blocks,
                          struct gateway_found *ret_found, const struct slice **ret, size_t *ret_n, struct err *err);

/* --- asked by others ---------------------------------------------------------------------------------------------------------- */

/* rpc_server_add(server, gateway_methods, gateway_methods_n, gateway). */
extern const struct rpc_method gateway_methods[];
extern const size_t gateway_methods_n;

/* Pages and endpoints but the ring's: http_server_add(server, prefix, gateway_routes, gateway_routes_n, gateway). */
extern const struct http_route gateway_routes[];
extern const size_t gateway_routes_n;
