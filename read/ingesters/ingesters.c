/* Life of the queryable, and the plan of a call: which partitions, and in which order the owners of each are asked. */
#include "read/ingesters/ingesters.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "read/ingesters/ingesters_int.h"

#define METRICS_ROOM ingesters
#define METRICS_DEF "read/ingesters/ingesters_metrics.def"
#define METRICS_DEFINE_ONLY
#include "base/metrics_table.h"

const double ingesters_buckets_seconds[] = {0.001, 0.004, 0.016, 0.064, 0.256, 1.024, 4.096, 16.384, INFINITY};

const struct flag_def ingesters_flags[] = {
#define FLAG(...) FLAG_ROW(ingesters_config, __VA_ARGS__)
#include "read/ingesters/ingesters_flags.def"
#undef FLAG
#define PEER_FLAG "ingester.client."
#define PEER_YAML "ingester_client.grpc_client_config."
#define PEER_ONE "an ingester"
#define PEER_MANY "ingesters"
#define FLAG(field, ...) FLAG_ROW(ingesters_config, client.field, __VA_ARGS__)
#include "read/peers/client_flags.def"
#undef FLAG
#define TLS_FLAG "ingester.client."
#define TLS_YAML "ingester_client.grpc_client_config."
#define FLAG(field, ...) FLAG_ROW(ingesters_config, client.tls.field, __VA_ARGS__)
#include "net/tls_flags.def"
#undef FLAG
};
const size_t ingesters_flags_n = ARRAY_LEN(ingesters_flags);

static const struct queryable_ops ingesters_ops = {
    .select = ingesters_select,
    .label_names = ingesters_label_names,
    .label_values = ingesters_label_values,
    .metadata = ingesters_metadata,
    .exemplars = ingesters_exemplars,
};

bool ingesters_config_check(const struct ingesters_config *cfg, struct err *err)
{
    struct rpc_client_config rpc = peer_client_config(&cfg->client);
    return rpc_client_config_check(&rpc, err);
}

struct queryable *ingesters_queryable_new(const struct ingesters_parts *parts)
{
    ingesters_metrics_register();
    struct ingesters *q = calloc(1, sizeof(*q));
    ASSERT(q);
    q->base.ops = &ingesters_ops;
    q->cfg = parts->cfg;
    q->limits = parts->limits;
    q->partitions = parts->partitions;
    q->instances = parts->instances;
    q->zone = strdup(parts->zone ? parts->zone : "");
    q->local = calloc(parts->n_local + 1, sizeof(*q->local));
    ASSERT(q->zone && q->local);
    for (size_t i = 0; i < parts->n_local; i++) {
        const char *id = strdup(parts->local[i].id);
        ASSERT(id);
        q->local[q->n_local++] = (struct local_ingester){id, parts->local[i].queryable};
    }
    atomic_init(&q->calls, (uint_fast64_t)clock_wall_ns());
    struct rpc_client_config cfg = peer_client_config(&parts->cfg->client);
    peers_init(&q->peers, &cfg, metric_single(ingesters_metrics[INGESTERS_M_CLIENTS]));
    return &q->base;
}

void ingesters_queryable_free(struct queryable *base)
{
    if (!base)
        return;
    struct ingesters *q = ingesters_of(base);
    peers_release(&q->peers);
    for (size_t i = 0; i < q->n_local; i++)
        free((char *)q->local[i].id);
    free(q->local);
    free(q->zone);
    free(q);
}

/* --- the order of owners -------------------------------------------------------------------------------------------------------- */

enum { RANK_LOCAL, RANK_ZONE, RANK_OTHER };

static struct owner owner_of(const struct ingesters *q, const struct ring_instance *in)
{
    struct owner o = {.instance = in, .rank = peer_zone_is_preferred(&q->cfg->preferred_zones, q->zone, in->zone) ? RANK_ZONE : RANK_OTHER};
    for (size_t i = 0; i < q->n_local; i++)
        if (strcmp(q->local[i].id, in->id) == 0) {
            o.local = q->local[i].queryable;
            o.rank = RANK_LOCAL;
        }
    return o;
}

/* Each into a random place among those before it of its own rank: every order of equals is as likely. */
static void put_owner(struct part *p, struct owner o, uint64_t *random)
{
    size_t lower = 0;
    while (lower < p->n_owners && p->owners[lower].rank < o.rank)
        lower++;
    size_t upper = lower;
    while (upper < p->n_owners && p->owners[upper].rank == o.rank)
        upper++;
    size_t at = lower + (size_t)(peer_random(random) % (upper - lower + 1));
    memmove(&p->owners[at + 1], &p->owners[at], (p->n_owners - at) * sizeof(o));
    p->owners[at] = o;
    p->n_owners++;
}

/* --- the plan -------------------------------------------------------------------------------------------------------------------- */

static bool plan_part(struct ingesters *q, struct ctx *ctx, const struct partition_view *view, const struct ring_snapshot *instances, int64_t now_ms,
                      uint64_t *random, struct part *p, struct err *err)
{
    struct replication_set set;
    struct err why;
    if (!partition_view_owners(view, p->partition, instances, now_ms, &set, &why)) {
        p->left_out = p->dispensable;
        return p->left_out || err_set(err, why.code, "%s", why.text);
    }
    p->owners = arena_array(ctx->arena, set.n, sizeof(*p->owners));
    for (size_t i = 0; i < set.n && p->owners; i++)
        put_owner(p, owner_of(q, set.instances[i]), random);
    replication_set_release(&set);
    return p->owners || query_over_memory(ctx, err);
}

/*
 * INACTIVE since before queries reach back: what was written to it is older than that. It is asked as long as somebody has it. But its owners go one after the
 * other when it is scaled down, and until the ring forgets it there is nobody; that must not fail queries.
 */
static bool is_past(const struct partition *p, int64_t lookback_ms, int64_t now_ms)
{
    return p->state == PARTITION_INACTIVE && lookback_ms > 0 && p->state_s * 1000 < now_ms - lookback_ms;
}

/*
 * Adds the PENDING partitions. Distributors may have heard that one is ACTIVE before this process has, and write to it; its owners serve before it exists, and it
 * is PENDING for long enough to be known here.
 */
static size_t add_pending(const struct partition_view *view, int32_t *ids, size_t n)
{
    const struct partition_desc *d = partition_view_desc(view);
    for (size_t i = 0; i < d->n_partitions; i++)
        if (d->partitions[i].state == PARTITION_PENDING)
            ids[n++] = d->partitions[i].id;
    return n;
}

/* PENDING or past: nobody to ask is no error. */
static bool is_dispensable(const struct partition_view *view, int32_t partition, int64_t lookback_ms, int64_t now_ms)
{
    const struct partition *p = partition_desc_find(partition_view_desc(view), partition);
    return p && (p->state == PARTITION_PENDING || is_past(p, lookback_ms, now_ms));
}

/* As many as readers read, or fewer for a tenant with a shard size. */
static size_t tenant_partitions(const struct ingesters *q, const struct ctx *ctx, const struct partition_view *view, int64_t now_ms, int32_t *ret)
{
    const struct limits *l = limits_of(q->limits, ctx->tenant);
    int64_t lookback_ms = l->query_ingesters_within;
    /* Without a lookback nothing says which partitions the tenant used to have. */
    bool sharded = q->cfg->shuffle_sharding && lookback_ms > 0;
    return partition_view_tenant_readers(view, ctx->tenant, sharded ? l->ingestion_partitions_tenant_shard_size : 0, lookback_ms, now_ms, ret);
}

bool plan_parts(struct ingesters *q, struct ctx *ctx, const struct partition_view *view, const struct ring_snapshot *instances, struct part **ret,
                size_t *ret_n, struct err *err)
{
    int64_t now_ms = clock_wall_ms();
    size_t n_all = partition_view_desc(view)->n_partitions;
    if (n_all == 0)
        return err_set(err, ERR_INTERNAL, "empty ring");
    int32_t *ids = ARENA_ARRAY(ctx->arena, int32_t, n_all);
    struct part *parts = arena_zalloc(ctx->arena, n_all * sizeof(*parts));
    if (!ids || !parts)
        return query_over_memory(ctx, err);
    size_t n = add_pending(view, ids, tenant_partitions(q, ctx, view, now_ms, ids));
    uint64_t random = atomic_fetch_add_explicit(&q->calls, 1, memory_order_relaxed);
    int64_t lookback_ms = limits_of(q->limits, ctx->tenant)->query_ingesters_within;
    size_t n_parts = 0;
    for (size_t i = 0; i < n; i++) {
        struct part *p = &parts[n_parts];
        *p = (struct part){.partition = ids[i], .dispensable = is_dispensable(view, ids[i], lookback_ms, now_ms)};
        if (!plan_part(q, ctx, view, instances, now_ms, &random, p, err))
            return false;
        n_parts += !p->left_out;
    }
    *ret = parts;
    *ret_n = n_parts;
    return true;
}
