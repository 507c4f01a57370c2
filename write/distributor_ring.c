/*
 * This distributor among the others: its entry in their ring, and how many of them there are.
 *
 * The lifecycler beats on a thread of its own. Pushes need the number of healthy distributors, which changes with time alone (heartbeats grow old): one
 * push a second counts anew, the others read what it found. A newcomer counts from its first entry on; one that died until its heartbeat is too old, and
 * meanwhile the others let through less than they might, never more than the limit.
 */
#include <stdlib.h>

#include "base/assert.h"
#include "base/clock.h"
#include "base/logger.h"
#include "ring/lifecycler.h"
#include "write/write_int.h"

#define RING_FLAG "distributor.ring."
#define RING_YAML "distributor.ring."
#define COUNT_EVERY_MS 1000
#define TOKENS 1 /* nothing is looked up in this ring */

const struct flag_def distributor_kv_flags[] = {
#define FLAG(...) FLAG_ROW(kv_config, __VA_ARGS__)
#include "ring/kv_flags.def"
#undef FLAG
};
const size_t distributor_kv_flags_n = ARRAY_LEN(distributor_kv_flags);

const struct flag_def distributor_member_flags[] = {
#define FLAG(...) FLAG_ROW(ring_member_config, __VA_ARGS__)
#include "ring/member_flags.def"
#undef FLAG
};
const size_t distributor_member_flags_n = ARRAY_LEN(distributor_member_flags);

struct distributor_membership {
    struct kv *writer; /* the same store under the two names of its metrics */
    struct kv *reader;
    struct lifecycler *lifecycler; /* NULL: has left, or not yet joined */
    struct ring *ring;
    atomic_int_fast64_t counted_ms; /* monotonic; any thread, relaxed, as is the next: a number that is a second old */
    atomic_int_fast64_t n_healthy;
};

static bool open_stores(struct distributor_membership *m, const struct kv_config *kv, const struct kv_stores *stores,
                        struct err *err)
{
    m->writer = kv_open(kv, &(struct kv_user){RING_FLAG, "distributor-lifecycler"}, stores, err);
    m->reader = m->writer ? kv_open(kv, &(struct kv_user){RING_FLAG, "distributor-ring"}, stores, err) : NULL;
    return m->reader != NULL;
}

static bool check_periods(const struct ring_member_config *member, struct err *err)
{
    if (member->heartbeat_period <= 0)
        return err_set(err, ERR_CONFIG, "-distributor.ring.heartbeat-period must be above 0");
    if (member->heartbeat_timeout < 0)
        return err_set(err, ERR_CONFIG, "-distributor.ring.heartbeat-timeout must not be negative");
    return true;
}

/* Follows the ring and appears in it. */
static bool appear(struct distributor_membership *m, const struct ring_member_config *member, int64_t forget_periods,
                   uint16_t grpc_port, struct err *err)
{
    struct ring_member_identity self;
    if (!ring_member_resolve(member, RING_FLAG, grpc_port, &self, err))
        return false;
    struct ring_config ring = {.replication_factor = 1, .heartbeat_timeout_ms = member->heartbeat_timeout, .name = "distributor"};
    m->ring = ring_new(m->reader, SL(RING_KEY_DISTRIBUTORS), &ring, err);
    if (!m->ring)
        return false;
    struct lifecycler_config config = {
        .key = RING_KEY_DISTRIBUTORS,
        .name = "distributor",
        .id = self.id,
        .addr = self.addr,
        .zone = self.zone,
        .n_tokens = TOKENS,
        .heartbeat_period_ms = member->heartbeat_period,
        .forget_after_ms = forget_periods * member->heartbeat_timeout,
        .unregister_on_stop = true,
    };
    m->lifecycler = lifecycler_new(m->writer, &config, &lifecycler_env_system);
    if (lifecycler_register(m->lifecycler, RING_ACTIVE, err)) {
        lifecycler_start(m->lifecycler);
        return true;
    }
    lifecycler_free(m->lifecycler);
    m->lifecycler = NULL;
    return false;
}

bool distributor_join(struct distributor *d, const struct kv_config *kv, const struct ring_member_config *member,
                      const struct kv_stores *stores, uint16_t grpc_port, struct err *err)
{
    ASSERT(!d->member);
    struct distributor_membership *m = calloc(1, sizeof(*m));
    ASSERT(m);
    atomic_init(&m->n_healthy, 1);
    atomic_init(&m->counted_ms, clock_mono_ms() - COUNT_EVERY_MS);
    if (!check_periods(member, err) || !open_stores(m, kv, stores, err) ||
        !appear(m, member, d->cfg->ring_auto_forget_periods, grpc_port, err)) {
        distributor_membership_free(m);
        return false;
    }
    d->member = m;
    return true;
}

static void leave(struct distributor_membership *m)
{
    struct err err = ERR_NONE;
    if (!m->lifecycler)
        return;
    if (!lifecycler_stop(m->lifecycler, &err))
        LOG_WARN("the distributor's entry stays in the ring", {"err", LOG_ERR(&err)});
    lifecycler_free(m->lifecycler);
    m->lifecycler = NULL;
}

void distributor_leave(struct distributor *d)
{
    if (d->member)
        leave(d->member);
}

void distributor_membership_free(struct distributor_membership *m)
{
    if (!m)
        return;
    leave(m);
    ring_free(m->ring);
    kv_free(m->reader);
    kv_free(m->writer);
    free(m);
}

struct ring *distributor_ring(struct distributor *d)
{
    return d->member ? d->member->ring : NULL;
}

struct kv *distributor_ring_store(struct distributor *d)
{
    return d->member ? d->member->writer : NULL;
}

static int64_t count_healthy(struct ring *ring)
{
    int64_t n = 0, now_ms = clock_wall_ms();
    struct ring_snapshot *s = ring_current(ring);
    const struct ring_desc *d = ring_snapshot_desc(s);
    for (size_t i = 0; i < d->n; i++)
        n += ring_snapshot_is_healthy(s, &d->instances[i], &ring_op_write, now_ms);
    ring_snapshot_free(s);
    return MAX(n, 1);
}

int64_t distributor_n_healthy(struct distributor *d)
{
    struct distributor_membership *m = d->member;
    if (!m)
        return 1;
    int64_t now_ms = clock_mono_ms();
    int_fast64_t counted_ms = atomic_load_explicit(&m->counted_ms, memory_order_relaxed);
    if (now_ms - counted_ms >= COUNT_EVERY_MS &&
        atomic_compare_exchange_strong_explicit(&m->counted_ms, &counted_ms, now_ms, memory_order_relaxed, memory_order_relaxed))
        atomic_store_explicit(&m->n_healthy, count_healthy(m->ring), memory_order_relaxed);
    return atomic_load_explicit(&m->n_healthy, memory_order_relaxed);
}
