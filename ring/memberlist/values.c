/* The store as ring/kv.h wants it, and the notify thread, which calls the watchers. */
#include <stdlib.h>

#include "base/assert.h"
#include "base/clock.h"
#include "ring/memberlist/memberlist_int.h"

static struct memberlist *of(struct kv *kv)
{
    return CONTAINER_OF(kv, struct memberlist, kv);
}

/* A copy without tombstones, NULL when there is none. With the lock held. */
static void *copy_value(struct memberlist *m, struct slice key, const struct kv_codec *codec, uint64_t *ret_version,
                        bool *ret_ok)
{
    const struct entry *e = store_find(&m->core, key);
    *ret_version = e ? e->version : 0;
    *ret_ok = !e || e->codec == codec;
    if (!e || e->codec != codec || e->deleted)
        return NULL;
    void *value = must(codec->clone(e->value));
    codec->remove_tombstones(value, INT64_MAX, NULL, NULL);
    return value;
}

static bool wrong_codec(struct slice key, const struct kv_codec *codec, struct err *err)
{
    return err_set(err, ERR_INTERNAL, "memberlist: %.*s is no %s", SL_FMT(key), codec->id);
}

static bool values_get(struct kv *kv, struct slice key, const struct kv_codec *codec, void **ret_value, struct err *err)
{
    struct memberlist *m = of(kv);
    uint64_t version;
    bool ok;
    pthread_mutex_lock(&m->lock);
    void *value = copy_value(m, key, codec, &version, &ok);
    pthread_mutex_unlock(&m->lock);
    if (!ok)
        return wrong_codec(key, codec, err);
    *ret_value = value;
    return true;
}

enum store_result { STORED, CHANGED_MEANWHILE, FULL, GONE };

static enum store_result store_if_same(struct memberlist *m, struct slice key, const struct kv_codec *codec,
                                       const void *value, uint64_t version)
{
    enum store_result r = STORED;
    pthread_mutex_lock(&m->lock);
    const struct entry *e = store_find(&m->core, key);
    uint64_t before = m->core.version;
    if ((e ? e->version : 0) != version)
        r = CHANGED_MEANWHILE;
    else if (e && e->deleted)
        r = GONE;
    else if (!store_merge(&m->core, key, codec, value, true, true, false, 0))
        r = FULL;
    if (m->core.version != before)
        pthread_cond_broadcast(&m->changed);
    pthread_mutex_unlock(&m->lock);
    return r;
}

static bool stored(enum store_result r, struct slice key, struct err *err)
{
    if (r == FULL)
        return err_set(err, ERR_NO_SPACE, "memberlist: no room for the key %.*s", SL_FMT(key));
    if (r == GONE) /* deleted never becomes undeleted: the flag has to be forgotten by all first */
        return err_set(err, ERR_UNAVAILABLE, "memberlist: %.*s was deleted a moment ago", SL_FMT(key));
    return true;
}

static bool try_cas(struct memberlist *m, struct slice key, const struct kv_codec *codec, kv_cas_fn *fn, void *arg,
                    struct err *err)
{
    for (int i = 0; i < KV_CAS_TRIES; i++) {
        uint64_t version;
        bool ok;
        pthread_mutex_lock(&m->lock);
        void *value = copy_value(m, key, codec, &version, &ok);
        m->core.stats.cas_attempts++;
        pthread_mutex_unlock(&m->lock);
        if (!ok)
            return wrong_codec(key, codec, err);
        enum kv_cas want = fn(arg, &value, err);
        enum store_result r = STORED;
        if (want == KV_CAS_STORE && value)
            r = store_if_same(m, key, codec, value, version);
        codec->free(value);
        if (want != KV_CAS_STORE)
            return want == KV_CAS_KEEP;
        if (r != CHANGED_MEANWHILE)
            return stored(r, key, err);
    }
    return err_set(err, ERR_CONFLICT, "memberlist: %.*s was changed by others %d times", SL_FMT(key), KV_CAS_TRIES);
}

static bool values_cas(struct kv *kv, struct slice key, const struct kv_codec *codec, kv_cas_fn *fn, void *arg,
                       struct err *err)
{
    struct memberlist *m = of(kv);
    bool ok = try_cas(m, key, codec, fn, arg, err);
    pthread_mutex_lock(&m->lock);
    if (ok)
        m->core.stats.cas_successes++;
    else
        m->core.stats.cas_failures++;
    pthread_mutex_unlock(&m->lock);
    return ok;
}

static bool values_remove(struct kv *kv, struct slice key, struct err *err)
{
    struct memberlist *m = of(kv);
    (void)err;
    pthread_mutex_lock(&m->lock);
    store_remove(&m->core, key);
    pthread_cond_broadcast(&m->changed);
    pthread_mutex_unlock(&m->lock);
    return true;
}

static bool values_list(struct kv *kv, struct slice prefix, kv_name_fn *fn, void *arg, struct err *err)
{
    struct memberlist *m = of(kv);
    (void)err;
    pthread_mutex_lock(&m->lock);
    for (size_t i = 0; i < MEMBERLIST_KEYS_MAX; i++) {
        const struct entry *e = &m->core.entries[i];
        if (e->key && !e->deleted && slice_has_prefix(slice_of(e->key), prefix))
            fn(arg, slice_of(e->key));
    }
    pthread_mutex_unlock(&m->lock);
    return true;
}

/* --- watches ------------------------------------------------------------------------------------------------------ */

static struct kv_watch *values_watch(struct kv *kv, struct slice key, bool is_prefix, const struct kv_codec *codec,
                                     kv_watch_fn *fn, void *arg, struct err *err)
{
    struct memberlist *m = of(kv);
    struct kv_watch *w = must(calloc(1, sizeof *w));
    *w = (struct kv_watch){.is_prefix = is_prefix, .codec = codec, .fn = fn, .arg = arg};
    w->key = must(strndup(key.p ? key.p : "", key.n));
    pthread_mutex_lock(&m->lock);
    size_t i = 0;
    while (i < MEMBERLIST_WATCHES_MAX && m->watches[i])
        i++;
    if (i < MEMBERLIST_WATCHES_MAX)
        m->watches[i] = w;
    pthread_cond_broadcast(&m->changed);
    pthread_mutex_unlock(&m->lock);
    if (i < MEMBERLIST_WATCHES_MAX)
        return w;
    free(w->key);
    free(w);
    err_set(err, ERR_NO_SPACE, "memberlist: more than %d watches", MEMBERLIST_WATCHES_MAX);
    return NULL;
}

static void values_unwatch(struct kv *kv, struct kv_watch *w)
{
    struct memberlist *m = of(kv);
    if (!w)
        return;
    pthread_mutex_lock(&m->lock);
    for (size_t i = 0; i < MEMBERLIST_WATCHES_MAX; i++)
        if (m->watches[i] == w)
            m->watches[i] = NULL;
    while (w->running)
        pthread_cond_wait(&m->changed, &m->lock);
    pthread_mutex_unlock(&m->lock);
    free(w->key);
    free(w);
}

static bool wants(const struct kv_watch *w, const struct entry *e)
{
    struct slice key = slice_of(w->key);
    return e->codec == w->codec &&
           (w->is_prefix ? slice_has_prefix(slice_of(e->key), key) : slice_eq(slice_of(e->key), key));
}

size_t values_pending(const struct memberlist *m)
{
    size_t n = 0;
    for (size_t i = 0; i < MEMBERLIST_WATCHES_MAX; i++)
        for (size_t k = 0; m->watches[i] && k < MEMBERLIST_KEYS_MAX; k++) {
            const struct entry *e = &m->core.entries[k];
            n += e->key && e->version > m->watches[i]->seen[k] && wants(m->watches[i], e);
        }
    return n;
}

/* Tells one watch of one entry, without the lock meanwhile. */
static void notify(struct memberlist *m, struct kv_watch *w, const struct entry *e)
{
    uint64_t version;
    bool ok;
    char *key = must(strdup(e->key));
    const struct kv_codec *codec = e->codec;
    void *value = copy_value(m, slice_of(key), codec, &version, &ok);
    w->running = true;
    pthread_mutex_unlock(&m->lock);
    w->fn(w->arg, slice_of(key), value);
    codec->free(value);
    free(key);
    pthread_mutex_lock(&m->lock);
    w->running = false;
    pthread_cond_broadcast(&m->changed);
}

/*
 * One call that is due; false when all have been told, or (*ret_due_ms) those that are left must wait. With the lock
 * held, which is let go for the call.
 */
static bool notify_one(struct memberlist *m, int64_t *ret_due_ms)
{
    int64_t now_ms = m->cfg.notify_interval_ms > 0 ? clock_mono_ms() : 0;
    *ret_due_ms = INT64_MAX;
    for (size_t i = 0; i < MEMBERLIST_WATCHES_MAX; i++) {
        struct kv_watch *w = m->watches[i];
        for (size_t k = 0; w && k < MEMBERLIST_KEYS_MAX; k++) {
            const struct entry *e = &m->core.entries[k];
            if (!e->key || e->version <= w->seen[k] || !wants(w, e))
                continue;
            if (m->cfg.notify_interval_ms > 0 && w->told_ms[k] && now_ms < w->told_ms[k] + m->cfg.notify_interval_ms) {
                *ret_due_ms = MIN(*ret_due_ms, w->told_ms[k] + m->cfg.notify_interval_ms);
                continue;
            }
            w->told_ms[k] = now_ms;
            w->seen[k] = e->version;
            notify(m, w, e);
            return true;
        }
    }
    return false;
}

void *notify_main(void *arg)
{
    struct memberlist *m = arg;
    pthread_mutex_lock(&m->lock);
    while (!m->stopping) {
        int64_t due_ms;
        if (notify_one(m, &due_ms))
            continue;
        if (due_ms == INT64_MAX) {
            pthread_cond_wait(&m->changed, &m->lock);
        } else {
            struct timespec ts = {.tv_sec = due_ms / 1000, .tv_nsec = due_ms % 1000 * 1000000};
            pthread_cond_timedwait(&m->changed, &m->lock, &ts);
        }
    }
    pthread_mutex_unlock(&m->lock);
    return NULL;
}

/* The store lives as long as the memberlist. */
static void values_free(struct kv *kv)
{
    (void)kv;
}

const struct kv_ops memberlist_kv_ops = {
    .name = "memberlist",
    .get = values_get,
    .cas = values_cas,
    .remove = values_remove,
    .list = values_list,
    .watch = values_watch,
    .unwatch = values_unwatch,
    .free = values_free,
};
