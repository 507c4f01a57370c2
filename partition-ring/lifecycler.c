/* An ingester's part in the life of partitions. See lifecycler.h. */
#include "partition-ring/lifecycler.h"

#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

#include "base/assert.h"
#include "base/logger.h"
#include "partition-ring/metrics_int.h"
#include "ring/beat.h"

struct partition_lifecycler {
    struct kv *kv;
    struct lifecycler_env env;
    char *key, *owner; /* owned; immutable, like the next three */
    int32_t partition;
    struct partition_rules rules;
    atomic_bool create_on_start; /* any thread, relaxed: a switch that the next poll or stop reads */
    atomic_bool remove_owner_on_stop;
    struct beat beat;
};

static beat_fn poll_and_log;

struct partition_lifecycler *partition_lifecycler_new(struct kv *kv, const struct partition_lifecycler_config *config,
                                                      const struct lifecycler_env *env)
{
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
    atomic_init(&l->create_on_start, config->create_on_start);
    atomic_init(&l->remove_owner_on_stop, config->remove_owner_on_stop);
    beat_init(&l->beat, config->poll_ms, poll_and_log, l);
    return l;
}

void partition_lifecycler_free(struct partition_lifecycler *l)
{
    if (!l)
        return;
    beat_release(&l->beat);
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

static void poll_and_log(void *arg)
{
    struct partition_lifecycler *l = arg;
    struct err err = ERR_NONE;
    bool joined;
    if (!partition_lifecycler_poll(l, &joined, &err))
        LOG_WARN("the partitions ring could not be written", {"partition", LOG_I64(l->partition)}, {"err", LOG_ERR(&err)});
}

void partition_lifecycler_start(struct partition_lifecycler *l)
{
    beat_start(&l->beat, true);
}

static enum kv_cas do_disown(void *arg, void **value, struct err *err)
{
    (void)err;
    struct errand *e = arg;
    return *value && partition_disown(*value, slice_of(e->l->owner)) ? KV_CAS_STORE : KV_CAS_KEEP;
}

bool partition_lifecycler_stop(struct partition_lifecycler *l, struct err *err)
{
    beat_stop(&l->beat);
    struct errand e = {.l = l};
    return !atomic_load_explicit(&l->remove_owner_on_stop, memory_order_relaxed) || cas(l, do_disown, &e, err);
}
