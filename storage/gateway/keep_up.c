/*
 * Keeping up with bucket and ring.
 *
 * The thread: wait until the ring has us (and is stable), look at the bucket until that has gone well once, become ACTIVE, then look again every sync-interval, when the ring has changed, and
 * when somebody asked for a block that is not here (catch_up.c: at once, when they know a newer index).
 */
#include <string.h>
#include <sys/random.h>

#include "base/clock.h"
#include "base/logger.h"
#include "storage/gateway/gateway_int.h"

#define LOOK_MS 5000          /* at the ring */
#define SEEN_MS 20            /* between looks for our own entry */
#define REWRITE_MS 1000
#define GOSSIP_MS 1500
#define RETRY_MIN_MS 500      /* of the first look at the bucket */
#define RETRY_MAX_MS 30000
#define EARLY_SYNC_MS 30000   /* between looks because somebody asked for what is not here */

/* False when the gateway stops. */
static bool sleep_for(struct gateway *g, int64_t ms)
{
    int64_t until_ms = clock_mono_ms() + ms, left_ms;
    pthread_mutex_lock(&g->lock);
    while (!gateway_stopping(g) && (left_ms = until_ms - clock_mono_ms()) > 0)
        gateway_wait(&g->changed, &g->lock, left_ms);
    pthread_mutex_unlock(&g->lock);
    return !gateway_stopping(g);
}

static bool wants_sync(struct gateway *g)
{
    pthread_mutex_lock(&g->lock);
    bool wants = g->wants_sync;
    pthread_mutex_unlock(&g->lock);
    return wants;
}

static void fulfil_wish(struct gateway *g)
{
    pthread_mutex_lock(&g->lock);
    g->wants_sync = false;
    pthread_mutex_unlock(&g->lock);
}

static void waits_for(struct gateway *g, const char *what)
{
    pthread_mutex_lock(&g->lock);
    g->waits_for = what;
    pthread_mutex_unlock(&g->lock);
}

static uint64_t fingerprint(struct gateway *g)
{
    struct ring_snapshot *s = ring_current(gateway_ring_view(g->ring));
    uint64_t h = ring_fingerprint(s, clock_wall_ms());
    ring_snapshot_free(s);
    return h;
}

static bool is_seen_as(struct gateway *g, enum ring_state state)
{
    struct ring_snapshot *s = ring_current(gateway_ring_view(g->ring));
    const struct ring_instance *in = ring_desc_find(ring_snapshot_desc(s), slice_of(g->self.id));
    bool seen = in && in->state == (int32_t)state;
    ring_snapshot_free(s);
    return seen;
}

/*
 * Our view of the ring may lag behind what we wrote. Gossip tells versions of an entry apart by their second, so that of two states within one second the later is lost: it is
 * written again until it is seen, which the next heartbeat would do much later.
 */
static bool wait_until_seen(struct gateway *g, enum ring_state state)
{
    waits_for(g, "the store-gateway is waiting for its entry in the ring");
    for (int64_t wrote_ms = clock_mono_ms(); !is_seen_as(g, state);) {
        if (!sleep_for(g, SEEN_MS))
            return false;
        if (clock_mono_ms() - wrote_ms < REWRITE_MS)
            continue;
        lifecycler_heartbeat(g->lifecycler, NULL); /* what fails is tried again a second later */
        wrote_ms = clock_mono_ms();
    }
    return true;
}

/* When many are started at once, each would load what will be others' a moment later. */
static bool wait_until_stable(struct gateway *g)
{
    const struct gateway_sharding_config *cfg = &g->ring_cfg->sharding;
    if (g->alone || cfg->wait_stability_min_duration <= 0)
        return true;
    waits_for(g, "the store-gateway is waiting for the ring to be stable");
    int64_t begin_ms = clock_mono_ms(), since_ms = begin_ms;
    uint64_t last = fingerprint(g);
    while (clock_mono_ms() - since_ms < cfg->wait_stability_min_duration && clock_mono_ms() - begin_ms < cfg->wait_stability_max_duration) {
        if (!sleep_for(g, MIN(MAX(cfg->wait_stability_min_duration / 10, 10), 1000)))
            return false;
        uint64_t now = fingerprint(g);
        if (now != last)
            since_ms = clock_mono_ms();
        last = now;
    }
    return true;
}

static bool first_sync(struct gateway *g)
{
    waits_for(g, "the store-gateway is looking at the bucket for the first time");
    for (int64_t pause_ms = RETRY_MIN_MS; !gateway_sync(g, "initial"); pause_ms = MIN(2 * pause_ms, RETRY_MAX_MS))
        if (!sleep_for(g, pause_ms))
            return false;
    return !gateway_stopping(g);
}

static bool become_active(struct gateway *g)
{
    struct err err = ERR_NONE;
    waits_for(g, "the store-gateway is waiting for the ring's store");
    for (int64_t pause_ms = RETRY_MIN_MS; !lifecycler_set_state(g->lifecycler, RING_ACTIVE, &err); pause_ms = MIN(2 * pause_ms, RETRY_MAX_MS)) {
        LOG_WARN("the store-gateway could not become ACTIVE in the ring yet", {"err", LOG_ERR(&err)});
        if (!sleep_for(g, pause_ms))
            return false;
    }
    return wait_until_seen(g, RING_ACTIVE);
}

/* Some of them a little earlier, some later, so that not all ask for the same at once. */
static int64_t next_interval_ms(const struct gateway *g)
{
    uint32_t r = 0;
    ssize_t got = getrandom(&r, sizeof(r), 0);
    (void)got; /* without chance it is the exact interval's lower end */
    int64_t tenth = g->cfg->sync_interval / 10;
    return g->cfg->sync_interval - tenth / 2 + (tenth > 0 ? (int64_t)(r % (uint32_t)MIN(tenth, INT32_MAX)) : 0);
}

static void keep_up(struct gateway *g)
{
    pthread_mutex_lock(&g->lock);
    g->has_caller = true;
    pthread_mutex_unlock(&g->lock);
    uint64_t ring = fingerprint(g);
    int64_t synced_ms = clock_mono_ms(), interval_ms = next_interval_ms(g);
    for (;;) {
        if (catch_up_is_called(g, MIN(LOOK_MS, interval_ms)))
            catch_up(g);
        if (gateway_stopping(g))
            return;
        uint64_t now = fingerprint(g);
        int64_t age_ms = clock_mono_ms() - synced_ms;
        bool asked = age_ms >= EARLY_SYNC_MS && wants_sync(g);
        const char *reason = now != ring ? "ring-change" : age_ms >= interval_ms ? "periodic" : asked ? "asked-for" : NULL;
        if (reason) {
            fulfil_wish(g);
            ring = now;
            gateway_sync(g, reason);
            synced_ms = clock_mono_ms();
            interval_ms = next_interval_ms(g);
        }
        table_reap(g);
        table_close_idle(g);
        table_prepare(g);
    }
}

/*
 * Ready means that the next one may be stopped: in a rolling restart it may have the only other replicas. So queriers must know that we are here, whom gossip tells in some
 * rounds of 200 ms.
 */
static bool wait_for_gossip(struct gateway *g)
{
    if (g->alone || strcmp(g->ring_cfg->kv.store, "memberlist") != 0)
        return true;
    waits_for(g, "the store-gateway is waiting until others know that it is ACTIVE");
    return sleep_for(g, GOSSIP_MS);
}

static void set_serving(struct gateway *g, bool ready)
{
    pthread_mutex_lock(&g->lock);
    g->serving = true;
    g->ready = ready;
    pthread_mutex_unlock(&g->lock);
}

void *sync_main(void *arg)
{
    struct gateway *g = arg;
    pthread_setname_np(pthread_self(), "store-gateway");
    if (!wait_until_seen(g, RING_JOINING) || !wait_until_stable(g) || !first_sync(g))
        return NULL;
    set_serving(g, false);
    if (!become_active(g) || !wait_for_gossip(g))
        return NULL;
    set_serving(g, true);
    LOG_INFO("the store-gateway serves its blocks", {"id", LOG_STR(g->self.id)});
    keep_up(g);
    return NULL;
}
