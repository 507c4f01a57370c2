/*
 * The store of one process: keys in a list, a version for each, callers' threads do all the work.
 *
 * One clock counts all changes of the store; an entry carries the clock of its last change, a watch the clock up to which it has been told. Whoever
 * changes something then tells the watches, and if another thread is at it already leaves it to that one: so a watch hears one call at a
 * time, in order, no lock is held while it hears, and a callback may change the store itself. A deleted entry stays as a grave until all watches know.
 *
 * Memory: max_keys entries and KV_INMEMORY_WATCHES_MAX watches. A ring's process has about ten keys, so a list is enough.
 * Lock: `lock` guards everything in struct kv_inmemory and is innermost. Copies of values are made under it, since the next change frees the value;
 * callers' functions run without it, but for kv_list's.
 */
#include <pthread.h>
#include <stdlib.h>

#include "base/assert.h"
#include "ring/kv.h"

struct entry {
    struct entry *next;
    const struct kv_codec *codec;
    void *value; /* owned; NULL: deleted */
    uint64_t version;
    size_t key_n;
    char key[];
};

struct kv_watch {
    struct kv_watch *next;
    const struct kv_codec *codec;
    kv_watch_fn *fn;
    void *arg;
    uint64_t told; /* all changes up to this clock */
    bool is_prefix;
    bool running; /* fn is being called by `teller` */
    size_t key_n;
    char key[];
};

struct kv_inmemory {
    struct kv kv;
    pthread_mutex_t lock;
    pthread_cond_t told; /* a watch stopped running */
    struct entry *entries;
    size_t n_entries; /* graves included */
    size_t max_keys;
    struct kv_watch *watches;
    size_t n_watches;
    uint64_t clock;
    bool telling; /* a thread is in tell_watches */
    pthread_t teller;
};

static struct kv_inmemory *self_of(struct kv *kv)
{
    return CONTAINER_OF(kv, struct kv_inmemory, kv);
}

static struct slice entry_key(const struct entry *e)
{
    return slice_make(e->key, e->key_n);
}

static struct entry *find(struct kv_inmemory *m, struct slice key)
{
    for (struct entry *e = m->entries; e; e = e->next)
        if (slice_eq(entry_key(e), key))
            return e;
    return NULL;
}

static void entry_free(struct entry *e)
{
    e->codec->free(e->value);
    free(e);
}

static bool watch_wants(const struct kv_watch *w, const struct entry *e)
{
    struct slice key = slice_make(w->key, w->key_n);
    return e->version > w->told && (w->is_prefix ? slice_has_prefix(entry_key(e), key) : slice_eq(entry_key(e), key));
}

/* The oldest change that some watch has not heard of. Under the lock. */
static struct kv_watch *find_untold(struct kv_inmemory *m, struct entry **ret_entry)
{
    for (struct kv_watch *w = m->watches; w; w = w->next) {
        struct entry *oldest = NULL;
        for (struct entry *e = m->entries; e; e = e->next)
            if (watch_wants(w, e) && (!oldest || e->version < oldest->version))
                oldest = e;
        if (oldest) {
            *ret_entry = oldest;
            return w;
        }
    }
    return NULL;
}

static void tell_one(struct kv_inmemory *m, struct kv_watch *w, struct entry *e)
{
    char *key = malloc(e->key_n + 1);
    ASSERT(key);
    memcpy(key, e->key, e->key_n);
    size_t key_n = e->key_n;
    const struct kv_codec *codec = e->codec;
    ASSERT(codec == w->codec);
    void *value = e->value ? codec->clone(e->value) : NULL;
    w->told = e->version;
    w->running = true;
    pthread_mutex_unlock(&m->lock);
    w->fn(w->arg, slice_make(key, key_n), value);
    codec->free(value);
    free(key);
    pthread_mutex_lock(&m->lock);
    w->running = false;
    pthread_cond_broadcast(&m->told);
}

/* Everyone has been told: graves have no purpose any more. Under the lock. */
static void drop_graves(struct kv_inmemory *m)
{
    for (struct entry **at = &m->entries; *at;) {
        struct entry *e = *at;
        if (e->value) {
            at = &e->next;
            continue;
        }
        *at = e->next;
        m->n_entries--;
        entry_free(e);
    }
}

/* Under the lock, which it leaves while watches run. */
static void tell_watches(struct kv_inmemory *m)
{
    if (m->telling)
        return;
    m->telling = true;
    m->teller = pthread_self();
    struct entry *e;
    for (struct kv_watch *w; (w = find_untold(m, &e));)
        tell_one(m, w, e);
    drop_graves(m);
    m->telling = false;
}

static bool inmemory_get(struct kv *kv, struct slice key, const struct kv_codec *codec, void **ret_value, struct err *err)
{
    (void)err;
    struct kv_inmemory *m = self_of(kv);
    pthread_mutex_lock(&m->lock);
    struct entry *e = find(m, key);
    ASSERT(!e || e->codec == codec);
    *ret_value = e && e->value ? codec->clone(e->value) : NULL;
    pthread_mutex_unlock(&m->lock);
    return true;
}

/* Under the lock. NULL when the store is full. */
static struct entry *entry_add(struct kv_inmemory *m, struct slice key, const struct kv_codec *codec)
{
    if (m->n_entries >= m->max_keys)
        return NULL;
    struct entry *e = calloc(1, sizeof(*e) + key.n);
    ASSERT(e);
    e->codec = codec;
    e->key_n = key.n;
    if (key.n)
        memcpy(e->key, key.p, key.n);
    e->next = m->entries;
    m->entries = e;
    m->n_entries++;
    return e;
}

/* Stores value if the key is still at `version`. Takes value in any case. */
static bool store(struct kv_inmemory *m, struct slice key, const struct kv_codec *codec, uint64_t version, void *value,
                  bool *ret_stored, struct err *err)
{
    bool ok = true;
    *ret_stored = false;
    pthread_mutex_lock(&m->lock);
    struct entry *e = find(m, key);
    if ((e ? e->version : 0) == version) {
        if (!e && !(e = entry_add(m, key, codec)))
            ok = err_set(err, ERR_NO_SPACE, "the key-value store is full: it holds %zu keys", m->max_keys);
        else {
            void *old = e->value;
            e->value = value;
            e->version = ++m->clock;
            value = old;
            *ret_stored = true;
            tell_watches(m);
        }
    }
    pthread_mutex_unlock(&m->lock);
    codec->free(value);
    return ok;
}

static bool inmemory_cas(struct kv *kv, struct slice key, const struct kv_codec *codec, kv_cas_fn *fn, void *arg, struct err *err)
{
    struct kv_inmemory *m = self_of(kv);
    for (int i = 0; i < KV_CAS_TRIES; i++) {
        pthread_mutex_lock(&m->lock);
        struct entry *e = find(m, key);
        ASSERT(!e || e->codec == codec);
        uint64_t version = e ? e->version : 0;
        void *value = e && e->value ? codec->clone(e->value) : NULL;
        pthread_mutex_unlock(&m->lock);
        enum kv_cas wish = fn(arg, &value, err);
        if (wish != KV_CAS_STORE) {
            codec->free(value);
            return wish == KV_CAS_KEEP;
        }
        ASSERT(value);
        bool stored;
        if (!store(m, key, codec, version, value, &stored, err))
            return false;
        if (stored)
            return true;
    }
    return err_set(err, ERR_CONFLICT, "key %.*s was changed by others in each of %d tries", SL_FMT(key), KV_CAS_TRIES);
}

static bool inmemory_remove(struct kv *kv, struct slice key, struct err *err)
{
    (void)err;
    struct kv_inmemory *m = self_of(kv);
    pthread_mutex_lock(&m->lock);
    struct entry *e = find(m, key);
    if (e && e->value) {
        e->codec->free(e->value);
        e->value = NULL;
        e->version = ++m->clock;
        tell_watches(m);
    }
    pthread_mutex_unlock(&m->lock);
    return true;
}

static bool inmemory_list(struct kv *kv, struct slice prefix, kv_name_fn *fn, void *arg, struct err *err)
{
    (void)err;
    struct kv_inmemory *m = self_of(kv);
    pthread_mutex_lock(&m->lock);
    for (struct entry *e = m->entries; e; e = e->next)
        if (e->value && slice_has_prefix(entry_key(e), prefix))
            fn(arg, entry_key(e));
    pthread_mutex_unlock(&m->lock);
    return true;
}

static struct kv_watch *inmemory_watch(struct kv *kv, struct slice key, bool is_prefix, const struct kv_codec *codec,
                                       kv_watch_fn *fn, void *arg, struct err *err)
{
    struct kv_inmemory *m = self_of(kv);
    struct kv_watch *w = calloc(1, sizeof(*w) + key.n);
    ASSERT(w);
    w->codec = codec;
    w->fn = fn;
    w->arg = arg;
    w->is_prefix = is_prefix;
    w->key_n = key.n;
    if (key.n)
        memcpy(w->key, key.p, key.n);
    pthread_mutex_lock(&m->lock);
    if (m->n_watches >= KV_INMEMORY_WATCHES_MAX) {
        pthread_mutex_unlock(&m->lock);
        free(w);
        err_set(err, ERR_NO_SPACE, "the key-value store has %d watches already", KV_INMEMORY_WATCHES_MAX);
        return NULL;
    }
    m->n_watches++;
    w->next = m->watches;
    m->watches = w;
    tell_watches(m);
    pthread_mutex_unlock(&m->lock);
    return w;
}

static void inmemory_unwatch(struct kv *kv, struct kv_watch *watch)
{
    struct kv_inmemory *m = self_of(kv);
    pthread_mutex_lock(&m->lock);
    struct kv_watch **at = &m->watches;
    while (*at != watch) {
        ASSERT(*at);
        at = &(*at)->next;
    }
    *at = watch->next;
    m->n_watches--;
    ASSERT(!watch->running || !pthread_equal(m->teller, pthread_self()));
    while (watch->running)
        pthread_cond_wait(&m->told, &m->lock);
    pthread_mutex_unlock(&m->lock);
    free(watch);
}

static void inmemory_free(struct kv *kv)
{
    struct kv_inmemory *m = self_of(kv);
    ASSERT(!m->watches && !m->telling);
    while (m->entries) {
        struct entry *e = m->entries;
        m->entries = e->next;
        entry_free(e);
    }
    pthread_cond_destroy(&m->told);
    pthread_mutex_destroy(&m->lock);
    free(m);
}

static const struct kv_ops inmemory_ops = {
    .name = "inmemory",
    .get = inmemory_get,
    .cas = inmemory_cas,
    .remove = inmemory_remove,
    .list = inmemory_list,
    .watch = inmemory_watch,
    .unwatch = inmemory_unwatch,
    .free = inmemory_free,
};

struct kv *kv_inmemory_new(size_t max_keys)
{
    struct kv_inmemory *m = calloc(1, sizeof(*m));
    ASSERT(m);
    m->kv.ops = &inmemory_ops;
    m->max_keys = max_keys;
    pthread_mutex_init(&m->lock, NULL);
    pthread_cond_init(&m->told, NULL);
    return &m->kv;
}
