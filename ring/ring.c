/*
 * Following a key. Lock: `lock` guards the pointer only; it is taken by the store's thread to swap, and by readers and scrapes to take a reference.
 */
#include "ring/ring.h"

#include <pthread.h>
#include <stdlib.h>

#include "base/assert.h"
#include "base/clock.h"
#include "ring/ring_metrics_int.h"

struct ring {
    struct kv *kv;
    struct kv_watch *watch;
    struct ring_config config;
    pthread_mutex_t lock;
    struct ring_snapshot *current; /* owned: one reference */
};

static void swap_snapshot(void *arg, struct slice key, const void *value)
{
    (void)key;
    struct ring *r = arg;
    struct ring_desc *d = value ? ring_desc_clone(value) : ring_desc_new();
    struct ring_snapshot *fresh = ring_snapshot_new(d, &r->config);
    pthread_mutex_lock(&r->lock);
    struct ring_snapshot *old = r->current;
    r->current = fresh;
    pthread_mutex_unlock(&r->lock);
    ring_snapshot_free(old);
}

/* --- metrics: what a scrape finds ------------------------------------------------------------------------------------ */

#define UNHEALTHY RING_LEFT /* no row of its own: who has left is unhealthy, too */

static const char *metric_state(int state)
{
    return state == UNHEALTHY ? "Unhealthy" : ring_state_name(state);
}

static void measure(void *arg)
{
    struct ring *r = arg;
    struct slice name = slice_of(r->config.name);
    struct ring_snapshot *s = ring_current(r);
    const struct ring_desc *d = ring_snapshot_desc(s);
    int64_t oldest_s[RING_STATES] = {0}, now_ms = clock_wall_ms();
    size_t n[RING_STATES] = {0}, tokens = 0;
    for (size_t i = 0; i < d->n; i++) {
        const struct ring_instance *in = &d->instances[i];
        int state = ring_snapshot_is_healthy(s, in, &ring_op_reporting, now_ms) ? (int)in->state : UNHEALTHY;
        oldest_s[state] = n[state] ? MIN(oldest_s[state], in->timestamp_s) : in->timestamp_s;
        n[state]++;
        tokens += in->n_tokens;
    }
    ring_snapshot_free(s);
    for (int state = 0; state < RING_STATES; state++) {
        struct slice label = slice_of(metric_state(state));
        metric_set(METRIC_WITH(ring_metrics[RING_M_MEMBERS], name, label), (double)n[state]);
        metric_set(METRIC_WITH(ring_metrics[RING_M_OLDEST], name, label), (double)oldest_s[state]);
    }
    metric_set(METRIC_WITH(ring_metrics[RING_M_TOKENS], name), (double)tokens);
}

static void remove_metrics(struct ring *r)
{
    metrics_remove_on_scrape(measure, r);
    for (int state = 0; state < RING_STATES; state++) {
        const struct slice labels[] = {slice_of(r->config.name), slice_of(metric_state(state))};
        metric_remove(ring_metrics[RING_M_MEMBERS], labels);
        metric_remove(ring_metrics[RING_M_OLDEST], labels);
    }
    metric_remove(ring_metrics[RING_M_TOKENS], (const struct slice[]){slice_of(r->config.name)});
}

/* --- life cycle ------------------------------------------------------------------------------------------------------ */

struct ring *ring_new(struct kv *kv, struct slice key, const struct ring_config *config, struct err *err)
{
    struct ring *r = calloc(1, sizeof(*r));
    ASSERT(r);
    r->kv = kv;
    r->config = *config;
    pthread_mutex_init(&r->lock, NULL);
    r->current = ring_snapshot_new(ring_desc_new(), config);
    r->watch = kv_watch_key(kv, key, &ring_desc_codec, swap_snapshot, r, err);
    if (!r->watch) {
        ring_free(r);
        return NULL;
    }
    if (config->name) {
        ring_metrics_register();
        metrics_on_scrape(measure, r);
    }
    return r;
}

void ring_free(struct ring *r)
{
    if (!r)
        return;
    if (r->watch && r->config.name)
        remove_metrics(r);
    kv_unwatch(r->kv, r->watch);
    ring_snapshot_free(r->current);
    pthread_mutex_destroy(&r->lock);
    free(r);
}

struct ring_snapshot *ring_current(struct ring *r)
{
    pthread_mutex_lock(&r->lock);
    struct ring_snapshot *s = ring_snapshot_ref(r->current);
    pthread_mutex_unlock(&r->lock);
    return s;
}
