/* Life of the queryable. */
#include "read/blocks/blocks.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "read/blocks/blocks_int.h"

#define METRICS_ROOM blocks
#define METRICS_DEF "read/blocks/blocks_metrics.def"
#define METRICS_DEFINE_ONLY
#include "base/metrics_table.h"

const double blocks_buckets_seconds[] = {0.001, 0.004, 0.016, 0.064, 0.256, 1.024, 4.096, 16.384, INFINITY};
const double blocks_buckets_instances[] = {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, INFINITY};
const double blocks_buckets_refetches[] = {0, 1, 2, INFINITY};

const struct flag_def blocks_flags[] = {
#define FLAG(...) FLAG_ROW(blocks_config, __VA_ARGS__)
#include "read/blocks/blocks_flags.def"
#undef FLAG
#define PEER_FLAG "querier.store-gateway-client."
#define PEER_YAML "querier.store_gateway_client."
#define PEER_ONE "a store-gateway"
#define PEER_MANY "store-gateways"
#define FLAG(field, ...) FLAG_ROW(blocks_config, client.field, __VA_ARGS__)
#include "read/peers/client_flags.def"
#undef FLAG
#define TLS_FLAG "querier.store-gateway-client."
#define TLS_YAML "querier.store_gateway_client."
#define FLAG(field, ...) FLAG_ROW(blocks_config, client.tls.field, __VA_ARGS__)
#include "net/tls_flags.def"
#undef FLAG
};
const size_t blocks_flags_n = ARRAY_LEN(blocks_flags);

/* Blocks have neither metadata nor exemplars. */
static bool blocks_metadata(struct queryable *q, struct ctx *ctx, const struct metric_metadata **ret, size_t *ret_n, struct err *err)
{
    (void)q, (void)ctx, (void)err;
    *ret = NULL;
    *ret_n = 0;
    return true;
}

static bool blocks_exemplars(struct queryable *q, struct ctx *ctx, const struct select_params *p, const struct exemplar_series **ret, size_t *ret_n, struct err *err)
{
    (void)q, (void)ctx, (void)p, (void)err;
    *ret = NULL;
    *ret_n = 0;
    return true;
}

static const struct queryable_ops blocks_ops = {
    .select = blocks_select,
    .label_names = blocks_label_names,
    .label_values = blocks_label_values,
    .label_begin = blocks_label_begin,
    .label_end = blocks_label_end,
    .metadata = blocks_metadata,
    .exemplars = blocks_exemplars,
};

bool blocks_config_check(const struct blocks_config *cfg, struct err *err)
{
    struct rpc_client_config rpc = peer_client_config(&cfg->client);
    return rpc_client_config_check(&rpc, err);
}

struct queryable *blocks_queryable_new(const struct blocks_parts *parts)
{
    blocks_metrics_register();
    struct blocks *q = calloc(1, sizeof(*q));
    ASSERT(q);
    q->base.ops = &blocks_ops;
    q->cfg = parts->cfg;
    q->limits = parts->limits;
    q->indexes = parts->indexes;
    q->gateways = parts->gateways;
    q->preferred_zones = parts->preferred_zones;
    q->upload_grace_ms = parts->upload_grace_ms;
    q->zone = strdup(parts->zone ? parts->zone : "");
    ASSERT(q->zone);
    if (parts->local) {
        q->local = *parts->local;
        q->local.id = strdup(parts->local->id);
        ASSERT(q->local.id);
    }
    atomic_init(&q->calls, (uint_fast64_t)clock_wall_ns());
    struct rpc_client_config cfg = peer_client_config(&parts->cfg->client);
    peers_init(&q->peers, &cfg, METRIC_WITH(blocks_metrics[BLOCKS_M_CLIENTS], SL("querier")));
    return &q->base;
}

void blocks_queryable_free(struct queryable *base)
{
    if (!base)
        return;
    struct blocks *q = blocks_of(base);
    peers_release(&q->peers);
    free((char *)q->local.id);
    free(q->zone);
    free(q);
}
