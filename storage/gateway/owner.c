/*
 * Which tenants and blocks are ours, by the ring at one moment.
 *
 * A block is owned by the replicas of its token within the tenant's shard of the ring. One that others own now stays here until one of these is ACTIVE: queriers ask the next instance of the
 * ring as long as an owner is not, and that is us. When we are not in the ring ourselves, or the heartbeats of the others are missing, nothing is let go: then it is not known who has what.
 */
#include <string.h>

#include "storage/gateway/gateway_int.h"

void ownership_take(struct ownership *o, struct ring *ring, const char *self, int64_t now_ms)
{
    *o = (struct ownership){.ring = ring_current(ring), .self = self, .now_ms = now_ms};
    const struct ring_instance *in = ring_desc_find(ring_snapshot_desc(o->ring), slice_of(self));
    o->healthy = in && ring_snapshot_is_healthy(o->ring, in, &ring_op_blocks_owner_sync, now_ms);
}

void ownership_release(struct ownership *o)
{
    ring_snapshot_free(o->ring);
    o->ring = NULL;
}

bool ownership_of_tenant(const struct ownership *o, const struct ring_snapshot *shard)
{
    return ring_desc_find(ring_snapshot_desc(shard), slice_of(o->self)) != NULL;
}

static bool includes(const struct replication_set *set, const char *id)
{
    for (size_t i = 0; i < set->n; i++)
        if (strcmp(set->instances[i]->id, id) == 0)
            return true;
    return false;
}

/* One of the block's owners can be asked for it. */
static bool has_readable_owner(const struct ownership *o, const struct ring_snapshot *shard, uint32_t token)
{
    struct replication_set set;
    if (!ring_snapshot_get_healthy(shard, token, &ring_op_blocks_owner_read, o->now_ms, &set, NULL))
        return false;
    replication_set_release(&set);
    return true;
}

bool ownership_of_block(const struct ownership *o, const struct ring_snapshot *shard, const struct ulid *id, bool is_here)
{
    struct replication_set set;
    uint32_t token = ulid_ring_token(id);
    if (!o->healthy || !ring_snapshot_get_healthy(shard, token, &ring_op_blocks_owner_sync, o->now_ms, &set, NULL))
        return is_here;
    bool ours = includes(&set, o->self);
    replication_set_release(&set);
    return ours || (is_here && !has_readable_owner(o, shard, token));
}

static uint64_t mix(uint64_t h, const void *bytes, size_t n)
{
    const unsigned char *p = bytes;
    for (size_t i = 0; i < n; i++)
        h = (h ^ p[i]) * UINT64_C(1099511628211); /* FNV-1a */
    return h;
}

uint64_t ring_fingerprint(const struct ring_snapshot *s, int64_t now_ms)
{
    uint64_t h = UINT64_C(14695981039346656037);
    const struct ring_desc *d = ring_snapshot_desc(s);
    for (size_t i = 0; i < d->n; i++) {
        const struct ring_instance *in = &d->instances[i];
        if (!ring_snapshot_is_healthy(s, in, &ring_op_blocks_owner_sync, now_ms))
            continue;
        h = mix(h, in->id, strlen(in->id) + 1);
        h = mix(h, in->addr, strlen(in->addr) + 1);
        h = mix(h, in->zone, strlen(in->zone) + 1);
        h = mix(h, &in->state, sizeof(in->state));
        h = mix(h, &in->read_only, sizeof(in->read_only));
        if (in->n_tokens)
            h = mix(h, in->tokens, in->n_tokens * sizeof(in->tokens[0]));
    }
    return h;
}
