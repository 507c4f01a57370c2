/*
 * A ring's view of a store: keys get the prefix on their way in and lose it on their way out, and what is done is timed.
 *
 * Immutable once it is open, so there are no locks; the store beneath has its own.
 */
#include <stdlib.h>
#include <string.h>

#include "base/assert.h"
#include "base/clock.h"
#include "ring/config.h"
#include "ring/kv_stores_int.h"
#include "ring/ring_metrics_int.h"

struct view {
    struct kv kv;
    struct kv_ops ops; /* view_ops with the name of the store */
    struct kv *store;
    bool owns_store;
    char *prefix; /* owned */
    char *name;   /* owned */
    struct metric_family *durations;
};

struct kv_watch {
    struct kv_watch *inner;
    size_t prefix_n;
    kv_watch_fn *fn;
    void *arg;
};

static struct view *view_of(struct kv *kv)
{
    return CONTAINER_OF(kv, struct view, kv);
}

/* The key in the store: freed with free(ret.p). */
static struct slice full_key(const struct view *v, struct slice key)
{
    size_t n = strlen(v->prefix);
    char *p = malloc(n + key.n + 1);
    ASSERT(p);
    memcpy(p, v->prefix, n);
    if (key.n)
        memcpy(p + n, key.p, key.n);
    return slice_make(p, n + key.n);
}

static void observe(const struct view *v, const char *operation, int64_t start_ns, bool ok)
{
    struct metric *m = METRIC_WITH(v->durations, slice_of(v->name), slice_of(operation), SL("primary"), ok ? SL("200") : SL("500"),
                                   slice_of(v->store->ops->name));
    metric_observe(m, (double)(clock_mono_ns() - start_ns) / 1e9);
}

static bool view_get(struct kv *kv, struct slice key, const struct kv_codec *codec, void **ret_value, struct err *err)
{
    struct view *v = view_of(kv);
    struct slice full = full_key(v, key);
    int64_t start_ns = clock_mono_ns();
    bool ok = kv_get(v->store, full, codec, ret_value, err);
    observe(v, "GET", start_ns, ok);
    free((char *)full.p);
    return ok;
}

static bool view_cas(struct kv *kv, struct slice key, const struct kv_codec *codec, kv_cas_fn *fn, void *arg, struct err *err)
{
    struct view *v = view_of(kv);
    struct slice full = full_key(v, key);
    int64_t start_ns = clock_mono_ns();
    bool ok = kv_cas(v->store, full, codec, fn, arg, err);
    observe(v, "CAS", start_ns, ok);
    free((char *)full.p);
    return ok;
}

static bool view_remove(struct kv *kv, struct slice key, struct err *err)
{
    struct view *v = view_of(kv);
    struct slice full = full_key(v, key);
    int64_t start_ns = clock_mono_ns();
    bool ok = kv_delete(v->store, full, err);
    observe(v, "Delete", start_ns, ok);
    free((char *)full.p);
    return ok;
}

struct listing {
    size_t prefix_n;
    kv_name_fn *fn;
    void *arg;
};

static void list_one(void *arg, struct slice key)
{
    struct listing *l = arg;
    l->fn(l->arg, slice_make(key.p + l->prefix_n, key.n - l->prefix_n));
}

static bool view_list(struct kv *kv, struct slice prefix, kv_name_fn *fn, void *arg, struct err *err)
{
    struct view *v = view_of(kv);
    struct slice full = full_key(v, prefix);
    struct listing l = {strlen(v->prefix), fn, arg};
    int64_t start_ns = clock_mono_ns();
    bool ok = kv_list(v->store, full, list_one, &l, err);
    observe(v, "List", start_ns, ok);
    free((char *)full.p);
    return ok;
}

static void watch_one(void *arg, struct slice key, const void *value)
{
    struct kv_watch *w = arg;
    w->fn(w->arg, slice_make(key.p + w->prefix_n, key.n - w->prefix_n), value);
}

static struct kv_watch *view_watch(struct kv *kv, struct slice key, bool is_prefix, const struct kv_codec *codec, kv_watch_fn *fn,
                                   void *arg, struct err *err)
{
    struct view *v = view_of(kv);
    struct kv_watch *w = malloc(sizeof(*w));
    ASSERT(w);
    *w = (struct kv_watch){.prefix_n = strlen(v->prefix), .fn = fn, .arg = arg};
    struct slice full = full_key(v, key);
    w->inner = v->store->ops->watch(v->store, full, is_prefix, codec, watch_one, w, err);
    free((char *)full.p);
    if (!w->inner) {
        free(w);
        return NULL;
    }
    return w;
}

static void view_unwatch(struct kv *kv, struct kv_watch *watch)
{
    kv_unwatch(view_of(kv)->store, watch->inner);
    free(watch);
}

static void view_free(struct kv *kv)
{
    struct view *v = view_of(kv);
    if (v->owns_store)
        kv_free(v->store);
    free(v->prefix);
    free(v->name);
    free(v);
}

static const struct kv_ops view_ops = {
    .get = view_get,
    .cas = view_cas,
    .remove = view_remove,
    .list = view_list,
    .watch = view_watch,
    .unwatch = view_unwatch,
    .free = view_free,
};

/* The store of that name. */
static struct kv *find_store(const struct kv_config *cfg, const struct kv_user *user, const struct kv_stores *stores, bool *ret_owned,
                             struct err *err)
{
    struct slice name = slice_of(cfg->store);
    *ret_owned = false;
    struct kv *store = slice_eq(name, SL("inmemory"))     ? stores->inmemory
                       : slice_eq(name, SL("memberlist")) ? stores->memberlist
                                                          : NULL;
    if (store)
        return store;
    *ret_owned = true;
    if (slice_eq(name, SL("etcd")))
        return kv_etcd_new(cfg, user->flag, err);
    if (slice_eq(name, SL("consul")))
        return kv_consul_new(cfg, user->flag, err);
    if (slice_eq(name, SL("inmemory")) || slice_eq(name, SL("memberlist")))
        err_set(err, ERR_CONFIG, "-%sstore is %s, which this process does not have", user->flag, cfg->store);
    else if (slice_eq(name, SL("multi")))
        err_set(err, ERR_CONFIG, "-%sstore: multi is not supported; the stores are consul, etcd, inmemory, memberlist", user->flag);
    else
        err_set(err, ERR_CONFIG, "-%sstore: there is no store \"%s\"; the stores are consul, etcd, inmemory, memberlist", user->flag,
                cfg->store);
    return NULL;
}

struct kv *kv_open(const struct kv_config *cfg, const struct kv_user *user, const struct kv_stores *stores, struct err *err)
{
    bool owned;
    struct kv *store = find_store(cfg, user, stores, &owned, err);
    if (!store)
        return NULL;
    ring_metrics_register();
    struct view *v = calloc(1, sizeof(*v));
    ASSERT(v);
    v->ops = view_ops;
    v->ops.name = store->ops->name;
    v->kv.ops = &v->ops;
    v->store = store;
    v->owns_store = owned;
    v->prefix = slice_strdup(slice_of(cfg->prefix));
    v->name = slice_strdup(slice_of(user->name));
    v->durations = ring_metrics[slice_has_prefix(slice_of(user->name), SL("ingester-partitions")) ? RING_M_PARTITIONS_KV : RING_M_KV];
    return &v->kv;
}
