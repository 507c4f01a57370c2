/*
 * This compactor among the others: its entry in their ring, and what falls to it.
 *
 * A tenant belongs to all compactors of its shuffle shard, a job of it to the one of them that owns the key's hash (FNV-1a), the cleaning to the one that owns
 * the tenant's. Where the owner is no longer ACTIVE the next one takes over; where it has died, when its entry is forgotten.
 */
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "base/assert.h"
#include "base/clock.h"
#include "base/logger.h"
#include "ring/lifecycler.h"
#include "storage/compactor/compactor.h"

#define RING_FLAG "compactor.ring."
#define RING_YAML "compactor.sharding_ring."
#define TOKENS 512
#define POLL_MS 50

const struct flag_def compactor_kv_flags[] = {
#define FLAG(...) FLAG_ROW(kv_config, __VA_ARGS__)
#include "ring/kv_flags.def"
#undef FLAG
};
const size_t compactor_kv_flags_n = ARRAY_LEN(compactor_kv_flags);

const struct flag_def compactor_member_flags[] = {
#define FLAG(...) FLAG_ROW(ring_member_config, __VA_ARGS__)
#include "ring/member_flags.def"
#undef FLAG
};
const size_t compactor_member_flags_n = ARRAY_LEN(compactor_member_flags);

/* Immutable after new, but for what says otherwise. */
struct compactor_ring {
    const struct compactor_config *cfg;   /* not owned */
    const struct limits_provider *limits; /* not owned */
    struct kv *writer;                    /* the same store under the two names of its metrics */
    struct kv *reader;
    struct lifecycler *lifecycler; /* the owner's; NULL: has left */
    atomic_bool left;              /* writer: leave; readers any */
    struct ring *ring;
    char id[256];
};

static bool open_stores(struct compactor_ring *r, const struct kv_config *kv, const struct kv_stores *stores, struct err *err)
{
    r->writer = kv_open(kv, &(struct kv_user){RING_FLAG, "compactor-lifecycler"}, stores, err);
    r->reader = r->writer ? kv_open(kv, &(struct kv_user){RING_FLAG, "compactor-ring"}, stores, err) : NULL;
    return r->reader != NULL;
}

static bool check_periods(const struct ring_member_config *member, struct err *err)
{
    if (member->heartbeat_period <= 0)
        return err_set(err, ERR_CONFIG, "-compactor.ring.heartbeat-period must be above 0");
    if (member->heartbeat_timeout < 0)
        return err_set(err, ERR_CONFIG, "-compactor.ring.heartbeat-timeout must not be negative");
    return true;
}

/* Follows the ring and appears in it. An entry that is still there, of a process that was killed, is taken over with its tokens. */
static bool appear(struct compactor_ring *r, const struct ring_member_config *member, const struct ring_member_identity *self, struct err *err)
{
    struct ring_config ring = {.replication_factor = 1, .heartbeat_timeout_ms = member->heartbeat_timeout, .name = "compactor"};
    r->ring = ring_new(r->reader, SL(RING_KEY_COMPACTORS), &ring, err);
    if (!r->ring)
        return false;
    struct lifecycler_config config = {
        .key = RING_KEY_COMPACTORS,
        .name = "compactor",
        .id = self->id,
        .addr = self->addr,
        .zone = self->zone,
        .n_tokens = TOKENS,
        .heartbeat_period_ms = member->heartbeat_period,
        .forget_after_ms = r->cfg->ring_auto_forget_periods * member->heartbeat_timeout,
        .unregister_on_stop = true,
    };
    r->lifecycler = lifecycler_new(r->writer, &config, &lifecycler_env_system);
    if (lifecycler_register(r->lifecycler, RING_JOINING, err) && lifecycler_set_state(r->lifecycler, RING_ACTIVE, err)) {
        lifecycler_start(r->lifecycler);
        return true;
    }
    lifecycler_free(r->lifecycler);
    r->lifecycler = NULL;
    return false;
}

static bool identity(const struct ring_member_config *member, uint16_t grpc_port, bool alone, struct ring_member_identity *ret, struct err *err)
{
    if (!alone)
        return ring_member_resolve(member, RING_FLAG, grpc_port, ret, err);
    snprintf(ret->id, sizeof(ret->id), "compactor");
    snprintf(ret->addr, sizeof(ret->addr), "127.0.0.1:%u", (unsigned)grpc_port);
    ret->zone[0] = '\0';
    return true;
}

struct compactor_ring *compactor_ring_new(const struct compactor_config *cfg, const struct kv_config *kv, const struct ring_member_config *member,
                                          const struct limits_provider *limits, const struct kv_stores *stores, uint16_t grpc_port, bool alone,
                                          struct err *err)
{
    struct ring_member_identity self;
    struct kv_config own = *kv;
    if (alone)
        own.store = "inmemory";
    if (!check_periods(member, err) || !identity(member, grpc_port, alone, &self, err))
        return NULL;
    struct compactor_ring *r = calloc(1, sizeof(*r));
    ASSERT(r);
    r->cfg = cfg;
    r->limits = limits;
    snprintf(r->id, sizeof(r->id), "%s", self.id);
    if (!open_stores(r, &own, stores, err) || !appear(r, member, &self, err)) {
        compactor_ring_free(r);
        return NULL;
    }
    return r;
}

void compactor_ring_leave(struct compactor_ring *r)
{
    struct err err = ERR_NONE;
    if (!r || !r->lifecycler)
        return;
    atomic_store(&r->left, true);
    if (!lifecycler_stop(r->lifecycler, &err))
        LOG_WARN("the compactor's entry stays in the ring", {"err", LOG_ERR(&err)});
    lifecycler_free(r->lifecycler);
    r->lifecycler = NULL;
}

void compactor_ring_free(struct compactor_ring *r)
{
    if (!r)
        return;
    compactor_ring_leave(r);
    ring_free(r->ring);
    kv_free(r->reader);
    kv_free(r->writer);
    free(r);
}

struct kv *compactor_ring_store(struct compactor_ring *r)
{
    return r->writer;
}

/* --- waiting at the start ------------------------------------------------------------------------------------------------------ */

static bool pause_for(const struct ctx *ctx, struct err *err)
{
    nanosleep(&(struct timespec){.tv_nsec = POLL_MS * 1000000L}, NULL);
    return ctx_check(ctx, err);
}

static bool sees_itself(struct compactor_ring *r)
{
    struct ring_snapshot *s = ring_current(r->ring);
    const struct ring_instance *self = ring_desc_find(ring_snapshot_desc(s), slice_of(r->id));
    bool active = self && self->state == RING_ACTIVE;
    ring_snapshot_free(s);
    return active;
}

static bool wait_active(struct compactor_ring *r, const struct ctx *ctx, struct err *err)
{
    int64_t until = clock_mono_ms() + r->cfg->ring_wait_active_instance_timeout;
    while (!sees_itself(r)) {
        if (clock_mono_ms() >= until)
            return err_set(err, ERR_TIMEOUT, "this compactor has not become ACTIVE in its ring within -compactor.ring.wait-active-instance-timeout");
        if (!pause_for(ctx, err))
            return false;
    }
    return true;
}

/* Who is there, in what state, with which tokens: heartbeats aside. */
static bool same_ring(const struct ring_desc *a, const struct ring_desc *b)
{
    if (a->n != b->n)
        return false;
    for (size_t i = 0; i < a->n; i++) {
        const struct ring_instance *x = &a->instances[i], *y = &b->instances[i];
        if (strcmp(x->id, y->id) != 0 || x->state != y->state || x->n_tokens != y->n_tokens ||
            (x->n_tokens && memcmp(x->tokens, y->tokens, x->n_tokens * sizeof(x->tokens[0])) != 0))
            return false;
    }
    return true;
}

static bool wait_stable(struct compactor_ring *r, const struct ctx *ctx, struct err *err)
{
    int64_t start = clock_mono_ms(), since = start;
    struct ring_snapshot *before = ring_current(r->ring);
    bool good = true;
    for (;;) {
        int64_t now = clock_mono_ms();
        if (now - since >= r->cfg->ring_wait_stability_min_duration || now - start >= r->cfg->ring_wait_stability_max_duration ||
            !(good = pause_for(ctx, err)))
            break;
        struct ring_snapshot *s = ring_current(r->ring);
        if (!same_ring(ring_snapshot_desc(before), ring_snapshot_desc(s)))
            since = clock_mono_ms();
        ring_snapshot_free(before);
        before = s;
    }
    ring_snapshot_free(before);
    return good;
}

bool compactor_ring_wait(struct compactor_ring *r, const struct ctx *ctx, struct err *err)
{
    return wait_active(r, ctx, err) && (r->cfg->ring_wait_stability_min_duration <= 0 || wait_stable(r, ctx, err));
}

/* --- who does what -------------------------------------------------------------------------------------------------------------- */

static uint32_t fnv1a32(uint32_t h, struct slice s)
{
    for (size_t i = 0; i < s.n; i++)
        h = (h ^ (uint8_t)s.p[i]) * UINT32_C(16777619);
    return h;
}

/* NULL: the tenant is none of this compactor's. */
static struct ring_snapshot *shard_of(struct compactor_ring *r, struct slice tenant)
{
    if (atomic_load(&r->left) || !compactor_tenant_allowed(r->cfg, tenant))
        return NULL;
    struct ring_snapshot *all = ring_current(r->ring);
    struct ring_snapshot *shard = ring_snapshot_shuffle(all, tenant, (size_t)limits_of(r->limits, tenant)->compactor_tenant_shard_size);
    ring_snapshot_free(all);
    if (shard && !ring_desc_find(ring_snapshot_desc(shard), slice_of(r->id))) {
        ring_snapshot_free(shard);
        return NULL;
    }
    return shard;
}

static bool owns(struct compactor_ring *r, struct slice tenant, uint32_t hash)
{
    struct replication_set set;
    struct ring_snapshot *shard = shard_of(r, tenant);
    if (!shard)
        return false;
    bool mine = false;
    if (ring_snapshot_get_healthy(shard, hash, &ring_op_write, clock_wall_ms(), &set, NULL)) {
        mine = set.n > 0 && strcmp(set.instances[0]->id, r->id) == 0;
        replication_set_release(&set);
    }
    ring_snapshot_free(shard);
    return mine;
}

bool compactor_ring_owns_tenant(struct compactor_ring *r, struct slice tenant)
{
    struct ring_snapshot *shard = shard_of(r, tenant);
    ring_snapshot_free(shard);
    return shard != NULL;
}

#define FNV_START UINT32_C(2166136261)

bool compactor_ring_owns_cleaning(struct compactor_ring *r, struct slice tenant)
{
    return owns(r, tenant, fnv1a32(FNV_START, tenant));
}

bool compactor_ring_owns_job(struct compactor_ring *r, struct slice tenant, const char *job_key)
{
    return owns(r, tenant, fnv1a32(fnv1a32(fnv1a32(FNV_START, tenant), SL("-")), slice_of(job_key)));
}
