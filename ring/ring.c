/*
 * Following a key. Lock: `lock` guards the pointer only; it is taken by the store's thread to swap and by readers to take a reference.
 */
#include "ring/ring.h"

#include <pthread.h>
#include <stdlib.h>

#include "base/assert.h"

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
    return r;
}

void ring_free(struct ring *r)
{
    if (!r)
        return;
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
