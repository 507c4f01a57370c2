/* The flags, and the ring of store-gateways as anybody sees it. */
#include <stdlib.h>
#include <string.h>

#include "base/assert.h"
#include "storage/gateway/gateway.h"

const struct flag_def gateway_flags[] = {
#define FLAG(...) FLAG_ROW(gateway_config, __VA_ARGS__)
#include "storage/gateway/gateway_flags.def"
#undef FLAG
};
const size_t gateway_flags_n = ARRAY_LEN(gateway_flags);

const struct flag_def gateway_sharding_flags[] = {
#define FLAG(...) FLAG_ROW(gateway_sharding_config, __VA_ARGS__)
#include "storage/gateway/gateway_ring_flags.def"
#undef FLAG
};
const size_t gateway_sharding_flags_n = ARRAY_LEN(gateway_sharding_flags);

#define RING_FLAG GATEWAY_RING_FLAGS
#define RING_YAML "store_gateway.sharding_ring."
const struct flag_def gateway_kv_flags[] = {
#define FLAG(...) FLAG_ROW(kv_config, __VA_ARGS__)
#include "ring/kv_flags.def"
#undef FLAG
};
const size_t gateway_kv_flags_n = ARRAY_LEN(gateway_kv_flags);

const struct flag_def gateway_member_flags[] = {
#define FLAG(...) FLAG_ROW(ring_member_config, __VA_ARGS__)
#include "ring/member_flags.def"
#undef FLAG
};
const size_t gateway_member_flags_n = ARRAY_LEN(gateway_member_flags);

struct gateway_ring {
    struct kv *kv;     /* owned */
    struct ring *ring; /* owned */
};

struct gateway_ring *gateway_ring_open(const struct gateway_ring_config *cfg, const struct kv_stores *stores, const char *name, struct err *err)
{
    const struct gateway_sharding_config *sharding = &cfg->sharding;
    if (sharding->replication_factor < 1) {
        err_set(err, ERR_CONFIG, "-%sreplication-factor must be greater than 0", GATEWAY_RING_FLAGS);
        return NULL;
    }
    const struct ring_config config = {
        .replication_factor = (size_t)sharding->replication_factor,
        .heartbeat_timeout_ms = cfg->member.heartbeat_timeout,
        .zone_awareness = sharding->zone_awareness_enabled,
        .excluded_zones = sharding->excluded_zones.items,
        .n_excluded_zones = sharding->excluded_zones.n,
        .name = name,
    };
    struct gateway_ring *r = calloc(1, sizeof(*r));
    ASSERT(r);
    r->kv = kv_open(&cfg->kv, &(struct kv_user){GATEWAY_RING_FLAGS, name}, stores, err);
    if (r->kv)
        r->ring = ring_new(r->kv, SL(RING_KEY_STORE_GATEWAYS), &config, err);
    if (r->ring)
        return r;
    gateway_ring_close(r);
    return NULL;
}

void gateway_ring_close(struct gateway_ring *r)
{
    if (!r)
        return;
    ring_free(r->ring);
    kv_free(r->kv);
    free(r);
}

struct ring *gateway_ring_view(struct gateway_ring *r)
{
    return r->ring;
}

struct kv *gateway_ring_store(struct gateway_ring *r)
{
    return r->kv;
}

/* How many zones the instances are in. */
static size_t count_zones(const struct ring_desc *d)
{
    size_t n = 0;
    for (size_t i = 0; i < d->n; i++) {
        size_t k = 0;
        while (strcmp(d->instances[k].zone, d->instances[i].zone) != 0)
            k++;
        n += k == i;
    }
    return n;
}

struct ring_snapshot *gateway_tenant_ring(struct ring_snapshot *s, const struct limits *limits, struct slice tenant)
{
    int64_t size = limits->store_gateway_tenant_shard_size;
    if (limits->store_gateway_tenant_shard_size_per_zone > 0)
        size = limits->store_gateway_tenant_shard_size_per_zone * (int64_t)count_zones(ring_snapshot_desc(s));
    return ring_snapshot_shuffle(s, tenant, size > 0 ? (size_t)size : 0);
}
