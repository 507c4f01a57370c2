/* An ingester's part in the life of partitions. See lifecycler.h; lock: `lock` guards `stopping` and is innermost. */
#include "partition-ring/lifecycler.h"

#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "base/assert.h"
#include "base/clock.h"
#include "base/logger.h"
#include "partition-ring/metrics_int.h"

struct partition_lifecycler {
    struct kv *kv;
    struct lifecycler_env env;
    char *key, *owner; /* owned; immutable, like the next three */
    int32_t partition;
    struct partition_rules rules;
    int64_t poll_ms;
    atomic_bool create_on_start; /* any thread, relaxed: a switch that the next poll or stop reads */
    atomic_bool remove_owner_on_stop;
    pthread_t thread;
    bool started; /* owned by who starts and stops */
    pthread_mutex_t lock;
    pthread_cond_t wake;
    bool stopping;
};

struct partition_lifecycler *partition_lifecycler_new(struct kv *kv, const struct partition_lifecycler_config *config,
                                                      const struct lifecycler_env *env)
{
    ASSERT(config->poll_ms > 0);
    partition_ring_metrics_register();
    struct partition_lifecycler *l = calloc(1, sizeof(*l));
    ASSERT(l);
    l->kv = kv;
    l->env = *env;
    l->key = strdup(config->key);
    l->owner = strdup(config->owner);
    ASSERT(l->key && l->owner);
    l->partition = config->partition;
    l->rules = config->rules;
    l->poll_ms = config->poll_ms;
    atomic_init(&l->create_on_start, config->create_on_start);
    atomic_init(&l->remove_owner_on_stop, config->remove_owner_on_stop);
    pthread_mutex_init(&l->lock, NULL);
    pthread_condattr_t attr;
    pthread_condattr_init(&attr);
    pthread_condattr_setclock(&attr, CLOCK_MONOTONIC);
    pthread_cond_init(&l->wake, &attr);
    pthread_condattr_destroy(&attr);
    return l;
}

void partition_lifecycler_free(struct partition_lifecycler *l)
{
    if (!l)
        return;
    ASSERT(!l->started);
    pthread_cond_destroy(&l->wake);
    pthread_mutex_destroy(&l->lock);
    free(l->key);
    free(l->owner);
    free(l);
}

/* One poll's or one wish's errand into the document. */
struct errand {
    struct partition_lifecycler *l;
    enum partition_state to;
    bool joined;
};

static bool cas(struct partition_lifecycler *l, kv_cas_fn *fn, struct errand *e, struct err *err)
{
    return kv_cas(l->kv, slice_of(l->key), &partition_desc_codec, fn, e, err);
}

static enum kv_cas do_poll(void *arg, void **value, struct err *err)
{
    (void)err;
    struct errand *e = arg;
    struct partition_lifecycler *l = e->l;
    int64_t now_ms = l->env.now_ms(l->env.arg);
    if (!*value)
        *value = partition_desc_new();
    struct partition_desc *d = *value;
    bool changed = false;
    if (atomic_load_explicit(&l->create_on_start, memory_order_relaxed))
        changed |= partition_create(d, l->partition, now_ms);
    e->joined = partition_desc_find(d, l->partition) != NULL;
    if (e->joined)
        changed |= partition_own(d, slice_of(l->owner), l->partition, now_ms);
    changed |= partition_activate(d, l->partition, &l->rules, now_ms);
    changed |= partition_delete_abandoned(d, l->partition, &l->rules, now_ms) > 0;
    return changed ? KV_CAS_STORE : KV_CAS_KEEP;
}

static void count(enum partition_ring_metric_id family)
{
    metric_inc(METRIC_WITH(partition_ring_metrics[family], SL(PARTITION_RING_NAME), SL("owned-partition")));
    metric_inc(METRIC_WITH(partition_ring_metrics[family], SL(PARTITION_RING_NAME), SL("other-partitions")));
}

bool partition_lifecycler_poll(struct partition_lifecycler *l, bool *ret_joined, struct err *err)
{
    struct errand e = {.l = l};
    count(PARTITION_RING_M_RECONCILES);
    if (!cas(l, do_poll, &e, err)) {
        count(PARTITION_RING_M_RECONCILES_FAILED);
        return false;
    }
    *ret_joined = e.joined;
    return true;
}

static enum kv_cas do_change_state(void *arg, void **value, struct err *err)
{
    struct errand *e = arg;
    struct partition_lifecycler *l = e->l;
    if (!*value)
        *value = partition_desc_new();
    bool changed;
    if (!partition_change_state(*value, l->partition, e->to, l->env.now_ms(l->env.arg), &changed, err))
        return KV_CAS_FAIL;
    return changed ? KV_CAS_STORE : KV_CAS_KEEP;
}

bool partition_lifecycler_change_state(struct partition_lifecycler *l, enum partition_state to, struct err *err)
{
    struct errand e = {.l = l, .to = to};
    return cas(l, do_change_state, &e, err);
}

bool partition_lifecycler_state(struct partition_lifecycler *l, enum partition_state *ret_state, int64_t *ret_changed_s,
                                struct err *err)
{
    void *d;
    if (!kv_get(l->kv, slice_of(l->key), &partition_desc_codec, &d, err))
        return false;
    const struct partition *p = d ? partition_desc_find(d, l->partition) : NULL;
    bool ok = p != NULL;
    if (ok) {
        bool known = p->state > PARTITION_UNKNOWN && p->state < PARTITION_STATES;
        *ret_state = known ? (enum partition_state)p->state : PARTITION_UNKNOWN;
        *ret_changed_s = p->state_s;
    } else {
        err_set(err, ERR_NOT_FOUND, PARTITION_NOT_THERE);
    }
    partition_desc_free(d);
    return ok;
}

void partition_lifecycler_set_create_on_start(struct partition_lifecycler *l, bool create)
{
    atomic_store_explicit(&l->create_on_start, create, memory_order_relaxed);
}

void partition_lifecycler_set_remove_owner_on_stop(struct partition_lifecycler *l, bool remove)
{
    atomic_store_explicit(&l->remove_owner_on_stop, remove, memory_order_relaxed);
}

/* Sleeps a period or until it shall stop. Under the lock. */
static void wait_period(struct partition_lifecycler *l)
{
    int64_t until_ns = clock_mono_ns() + l->poll_ms * 1000000;
    struct timespec until = {.tv_sec = until_ns / 1000000000, .tv_nsec = until_ns % 1000000000};
    while (!l->stopping && pthread_cond_timedwait(&l->wake, &l->lock, &until) == 0)
        ;
}

static void *poll_until_stopped(void *arg)
{
    struct partition_lifecycler *l = arg;
    pthread_mutex_lock(&l->lock);
    for (; !l->stopping; wait_period(l)) {
        pthread_mutex_unlock(&l->lock);
        struct err err = ERR_NONE;
        bool joined;
        if (!partition_lifecycler_poll(l, &joined, &err))
            LOG_WARN("the partitions ring could not be written", {"partition", LOG_I64(l->partition)}, {"err", LOG_ERR(&err)});
        pthread_mutex_lock(&l->lock);
    }
    pthread_mutex_unlock(&l->lock);
    return NULL;
}

void partition_lifecycler_start(struct partition_lifecycler *l)
{
    ASSERT(!l->started);
    l->started = true;
    l->stopping = false;
    int failed = pthread_create(&l->thread, NULL, poll_until_stopped, l);
    ASSERT(!failed);
}

static enum kv_cas do_disown(void *arg, void **value, struct err *err)
{
    (void)err;
    struct errand *e = arg;
    return *value && partition_disown(*value, slice_of(e->l->owner)) ? KV_CAS_STORE : KV_CAS_KEEP;
}

bool partition_lifecycler_stop(struct partition_lifecycler *l, struct err *err)
{
    pthread_mutex_lock(&l->lock);
    l->stopping = true;
    pthread_cond_broadcast(&l->wake);
    pthread_mutex_unlock(&l->lock);
    if (l->started)
        pthread_join(l->thread, NULL);
    l->started = false;
    struct errand e = {.l = l};
    return !atomic_load_explicit(&l->remove_owner_on_stop, memory_order_relaxed) || cas(l, do_disown, &e, err);
}
