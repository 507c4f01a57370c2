/* Stores on servers. See kv_remote_int.h. */
#include "ring/kv_remote_int.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <time.h>

#include "base/assert.h"
#include "base/clock.h"
#include "base/logger.h"

#define BACKOFF_MIN_MS 100
#define BACKOFF_MAX_MS 2000
#define OPERATION_MS 20000 /* after so long there is no other try: a process that stops waits for its heartbeat's operation */

static struct remote *remote_of(struct kv *kv)
{
    return CONTAINER_OF(kv, struct remote, kv);
}

/* Between half of it and all of it, so that processes that failed together do not come back together. */
static int64_t jitter(int64_t ms)
{
    uint32_t v = 0;
    ssize_t n = getrandom(&v, sizeof(v), 0);
    ASSERT(n == (ssize_t)sizeof(v));
    return ms / 2 + (int64_t)(v % (uint64_t)(ms / 2 + 1));
}

static void sleep_ms(int64_t ms)
{
    struct timespec t = {.tv_sec = ms / 1000, .tv_nsec = ms % 1000 * 1000000};
    while (nanosleep(&t, &t) != 0 && errno == EINTR)
        ;
}

static int64_t next_backoff(int64_t backoff_ms)
{
    return backoff_ms ? MIN(backoff_ms * 2, BACKOFF_MAX_MS) : BACKOFF_MIN_MS;
}

/* The tries of one operation. */
struct tries {
    int left;
    int64_t until_ms;
    int64_t backoff_ms;
};

static struct tries tries_of(const struct remote *r)
{
    return (struct tries){.left = r->tries, .until_ms = clock_mono_ms() + OPERATION_MS};
}

/* After a failure: sleeps and returns true when there is another try. */
static bool try_again(struct tries *t, const struct err *err)
{
    if ((err->code != ERR_UNAVAILABLE && err->code != ERR_TIMEOUT) || --t->left <= 0 ||
        clock_mono_ms() >= t->until_ms)
        return false;
    t->backoff_ms = next_backoff(t->backoff_ms);
    sleep_ms(jitter(t->backoff_ms));
    return true;
}

static bool fail(struct err *err, const struct err *why)
{
    return err_set(err, why->code, "%s", why->text);
}

/* What readers see. NULL, true: the key is not there. */
static bool decode(const struct kv_codec *codec, struct slice bytes, void **ret, struct err *err)
{
    void *value = codec->decode(bytes, err);
    if (!value)
        return false;
    codec->remove_tombstones(value, INT64_MAX, NULL, NULL);
    *ret = value;
    return true;
}

/* One try to read and decode. */
static bool read_value(struct remote *r, struct slice key, const struct kv_codec *codec, void **ret_value, uint64_t *ret_version,
                       struct err *err)
{
    struct remote_document doc = {0};
    buf_init(&doc.bytes, 0);
    *ret_value = NULL;
    bool ok = r->ops->read(r, key, &doc, err) && (doc.version == 0 || decode(codec, buf_slice(&doc.bytes), ret_value, err));
    *ret_version = doc.version;
    buf_release(&doc.bytes);
    return ok;
}

static bool remote_get(struct kv *kv, struct slice key, const struct kv_codec *codec, void **ret_value, struct err *err)
{
    struct remote *r = remote_of(kv);
    struct tries t = tries_of(r);
    struct err why = ERR_NONE;
    uint64_t version;
    do {
        void *value;
        if (read_value(r, key, codec, &value, &version, &why)) {
            *ret_value = value;
            return true;
        }
    } while (try_again(&t, &why));
    return fail(err, &why);
}

enum step { STEP_DONE, STEP_CONFLICT, STEP_FAILED, STEP_REFUSED };

static bool write_value(struct remote *r, struct slice key, const struct kv_codec *codec, const void *value, uint64_t version,
                        bool *ret_conflict, struct err *err)
{
    struct buf bytes;
    buf_init(&bytes, KV_DOCUMENT_MAX);
    codec->encode(value, &bytes);
    bool ok = !bytes.failed ? r->ops->write(r, key, buf_slice(&bytes), version, ret_conflict, err)
                            : err_set(err, ERR_TOO_LARGE, "the document is larger than %zu bytes", KV_DOCUMENT_MAX);
    buf_release(&bytes);
    return ok;
}

/* One try: read, change, write. An error that is the change function's own goes to err, all others to why. */
static enum step cas_step(struct remote *r, struct slice key, const struct kv_codec *codec, kv_cas_fn *fn, void *arg, struct err *err,
                          struct err *why)
{
    void *value;
    uint64_t version;
    if (!read_value(r, key, codec, &value, &version, why))
        return STEP_FAILED;
    enum kv_cas wish = fn(arg, &value, err);
    enum step step = wish == KV_CAS_KEEP ? STEP_DONE : STEP_REFUSED;
    if (wish == KV_CAS_STORE) {
        bool conflict = false;
        ASSERT(value);
        bool ok = write_value(r, key, codec, value, version, &conflict, why);
        step = !ok ? STEP_FAILED : conflict ? STEP_CONFLICT : STEP_DONE;
    }
    codec->free(value);
    return step;
}

/* A write whose answer was lost may have been done; the next try then finds it, and changes it once more. */
static bool remote_cas(struct kv *kv, struct slice key, const struct kv_codec *codec, kv_cas_fn *fn, void *arg, struct err *err)
{
    struct remote *r = remote_of(kv);
    struct tries t = tries_of(r);
    int conflicts = 0;
    for (;;) {
        struct err why = ERR_NONE;
        enum step step = cas_step(r, key, codec, fn, arg, err, &why);
        if (step == STEP_DONE || step == STEP_REFUSED)
            return step == STEP_DONE;
        if (step == STEP_FAILED && !try_again(&t, &why))
            return fail(err, &why);
        if (step == STEP_CONFLICT && ++conflicts >= KV_CAS_TRIES)
            return err_set(err, ERR_CONFLICT, "key %.*s was changed by others in each of %d tries", SL_FMT(key), KV_CAS_TRIES);
        if (step == STEP_CONFLICT && r->conflict_delay_ms > 0)
            sleep_ms(jitter(r->conflict_delay_ms));
    }
}

static bool remote_remove(struct kv *kv, struct slice key, struct err *err)
{
    struct remote *r = remote_of(kv);
    struct tries t = tries_of(r);
    struct err why = ERR_NONE;
    do {
        if (r->ops->remove(r, key, &why))
            return true;
    } while (try_again(&t, &why));
    return fail(err, &why);
}

static bool remote_list(struct kv *kv, struct slice prefix, kv_name_fn *fn, void *arg, struct err *err)
{
    /* Once: fn may have heard of keys already when it fails. */
    struct remote *r = remote_of(kv);
    return r->ops->list(r, prefix, fn, arg, err);
}

/* --- watches ---------------------------------------------------------------------------------------------------------- */

static struct remote_known *find_known(struct kv_watch *w, struct slice key)
{
    for (size_t i = 0; i < w->n_known; i++)
        if (slice_eq(slice_make(w->known[i].key, w->known[i].key_n), key))
            return &w->known[i];
    return NULL;
}

static struct remote_known *add_known(struct kv_watch *w, struct slice key)
{
    struct remote_known *all = realloc(w->known, (w->n_known + 1) * sizeof(*all));
    ASSERT(all);
    w->known = all;
    all[w->n_known] = (struct remote_known){.key = slice_strdup(key), .key_n = key.n};
    return &all[w->n_known++];
}

void watch_snapshot_begin(struct kv_watch *w)
{
    for (size_t i = 0; i < w->n_known; i++)
        w->known[i].seen = false;
}

/* Forgets keys that are gone, so that a prefix under which keys come and go takes no memory for the latter. */
static void drop_gone(struct kv_watch *w)
{
    size_t kept = 0;
    for (size_t i = 0; i < w->n_known; i++) {
        if (w->known[i].version)
            w->known[kept++] = w->known[i];
        else
            free(w->known[i].key);
    }
    w->n_known = kept;
}

static void tell_gone(struct kv_watch *w, struct remote_known *k)
{
    k->version = 0;
    w->fn(w->arg, slice_make(k->key, k->key_n), NULL);
}

static void set_begun(struct kv_watch *w)
{
    pthread_mutex_lock(&w->lock);
    w->begun = true;
    pthread_cond_broadcast(&w->changed);
    pthread_mutex_unlock(&w->lock);
}

void watch_snapshot_end(struct kv_watch *w)
{
    for (size_t i = 0; i < w->n_known; i++)
        if (!w->known[i].seen)
            tell_gone(w, &w->known[i]);
    drop_gone(w);
    set_begun(w);
}

void watch_tell(struct kv_watch *w, struct slice key, struct slice bytes, uint64_t version)
{
    struct remote_known *k = find_known(w, key);
    if (!k)
        k = add_known(w, key);
    k->seen = true;
    if (k->version == version || watch_stopping(w))
        return;
    k->version = version;
    struct err err = ERR_NONE;
    void *value;
    if (!decode(w->codec, bytes, &value, &err)) {
        LOG_WARN("a document of the key-value store is damaged", {"key", LOG_SLICE(key)}, {"err", LOG_ERR(&err)});
        return;
    }
    w->fn(w->arg, key, value);
    w->codec->free(value);
}

void watch_tell_gone(struct kv_watch *w, struct slice key)
{
    struct remote_known *k = find_known(w, key);
    if (!k || watch_stopping(w))
        return;
    tell_gone(w, k);
    drop_gone(w);
}

bool watch_sleep(struct kv_watch *w, int64_t ms)
{
    int64_t until_ns = clock_mono_ns() + ms * 1000000;
    struct timespec until = {.tv_sec = until_ns / 1000000000, .tv_nsec = until_ns % 1000000000};
    pthread_mutex_lock(&w->lock);
    while (!watch_stopping(w) && pthread_cond_timedwait(&w->changed, &w->lock, &until) == 0)
        ;
    pthread_mutex_unlock(&w->lock);
    return !watch_stopping(w);
}

/* Follows, and again when the server was lost; the first loss is told to the log, and each one after a while of following. */
static void *run_watch(void *arg)
{
    struct kv_watch *w = arg;
    int64_t backoff_ms = 0;
    while (!watch_stopping(w)) {
        struct err err = ERR_NONE;
        int64_t start_ms = clock_mono_ms();
        if (w->store->ops->follow(w->store, w, &err) || watch_stopping(w))
            continue;
        set_begun(w);
        if (clock_mono_ms() - start_ms > BACKOFF_MAX_MS)
            backoff_ms = 0;
        if (backoff_ms == 0)
            LOG_WARN("watching the key-value store was interrupted", {"store", LOG_STR(w->store->ops->name)},
                     {"key", LOG_SLICE(watch_key(w))}, {"err", LOG_ERR(&err)});
        backoff_ms = next_backoff(backoff_ms);
        watch_sleep(w, jitter(backoff_ms));
    }
    return NULL;
}

static struct kv_watch *watch_new(struct remote *r, struct slice key, bool is_prefix, const struct kv_codec *codec, kv_watch_fn *fn,
                                  void *arg)
{
    struct kv_watch *w = calloc(1, sizeof(*w) + key.n);
    ASSERT(w);
    w->store = r;
    w->codec = codec;
    w->fn = fn;
    w->arg = arg;
    w->is_prefix = is_prefix;
    w->key_n = key.n;
    if (key.n)
        memcpy(w->key, key.p, key.n);
    pthread_mutex_init(&w->lock, NULL);
    pthread_condattr_t attr;
    pthread_condattr_init(&attr);
    pthread_condattr_setclock(&attr, CLOCK_MONOTONIC);
    pthread_cond_init(&w->changed, &attr);
    pthread_condattr_destroy(&attr);
    return w;
}

/* Returns when the first snapshot was told, so that a ring is filled when it is made; or when the server did not answer: then it comes later. */
static struct kv_watch *remote_watch(struct kv *kv, struct slice key, bool is_prefix, const struct kv_codec *codec, kv_watch_fn *fn,
                                     void *arg, struct err *err)
{
    struct remote *r = remote_of(kv);
    if (atomic_fetch_add(&r->n_watches, 1) >= KV_REMOTE_WATCHES_MAX) {
        atomic_fetch_sub(&r->n_watches, 1);
        err_set(err, ERR_NO_SPACE, "the key-value store has %d watches already", KV_REMOTE_WATCHES_MAX);
        return NULL;
    }
    struct kv_watch *w = watch_new(r, key, is_prefix, codec, fn, arg);
    int failed = pthread_create(&w->thread, NULL, run_watch, w);
    ASSERT(!failed);
    pthread_mutex_lock(&w->lock);
    while (!w->begun)
        pthread_cond_wait(&w->changed, &w->lock);
    pthread_mutex_unlock(&w->lock);
    return w;
}

static void remote_unwatch(struct kv *kv, struct kv_watch *w)
{
    struct remote *r = remote_of(kv);
    ASSERT(!pthread_equal(w->thread, pthread_self()));
    pthread_mutex_lock(&w->lock);
    atomic_store_explicit(&w->stopping, true, memory_order_relaxed);
    pthread_cond_broadcast(&w->changed);
    if (r->ops->wake)
        r->ops->wake(w);
    pthread_mutex_unlock(&w->lock);
    pthread_join(w->thread, NULL);
    for (size_t i = 0; i < w->n_known; i++)
        free(w->known[i].key);
    free(w->known);
    pthread_cond_destroy(&w->changed);
    pthread_mutex_destroy(&w->lock);
    free(w);
    atomic_fetch_sub(&r->n_watches, 1);
}

static void remote_free(struct kv *kv)
{
    struct remote *r = remote_of(kv);
    ASSERT(atomic_load(&r->n_watches) == 0);
    r->ops->free(r);
}

void remote_init(struct remote *r, const struct remote_ops *ops, int tries, int64_t conflict_delay_ms)
{
    r->kv_ops = (struct kv_ops){
        .name = ops->name,
        .get = remote_get,
        .cas = remote_cas,
        .remove = remote_remove,
        .list = remote_list,
        .watch = remote_watch,
        .unwatch = remote_unwatch,
        .free = remote_free,
    };
    r->kv.ops = &r->kv_ops;
    r->ops = ops;
    r->tries = tries;
    r->conflict_delay_ms = conflict_delay_ms;
    atomic_init(&r->n_watches, 0);
}
