/*
 * Private to ring/: what stores on servers share. Such a store has documents as bytes, each with a version; it can read one, write one if its version is
 * still so, and follow changes. kv_remote.c makes a struct kv of that: decoding, compare-and-swap, repetition, watches.
 *
 * Threads: operations run on their callers' threads. Each watch has a thread, which alone runs `follow` and the callback; the watch's lock guards its stop
 * and its beginning only. Limits: KV_REMOTE_WATCHES_MAX watches a store; documents are bounded by kv_snappy_open, answers by each transport.
 */
#pragma once

#include <pthread.h>
#include <stdatomic.h>

#include "ring/kv_stores_int.h"

#define KV_REMOTE_WATCHES_MAX 64

struct remote;

struct remote_document {
    struct buf bytes;
    uint64_t version; /* 0: there is no such key */
};

/*
 * One try each. ERR_UNAVAILABLE and ERR_TIMEOUT are worth another one. An error of a write or removal leaves it open whether it was done.
 */
struct remote_ops {
    const char *name;
    bool (*read)(struct remote *r, struct slice key, struct remote_document *ret, struct err *err);
    /* Stores bytes if the key's version is `version` (0: is not there); else *ret_conflict. */
    bool (*write)(struct remote *r, struct slice key, struct slice bytes, uint64_t version, bool *ret_conflict, struct err *err);
    bool (*remove)(struct remote *r, struct slice key, struct err *err);
    bool (*list)(struct remote *r, struct slice prefix, kv_name_fn *fn, void *arg, struct err *err);
    /*
     * Tells w a snapshot and then changes, until w->stopping or the server is lost (false, with the reason). Runs again after a while. No older version may be
     * told after a newer one.
     */
    bool (*follow)(struct remote *r, struct kv_watch *w, struct err *err);
    /* Makes follow look at w->stopping. Any thread; NULL: it looks often enough. */
    void (*wake)(struct kv_watch *w);
    void (*free)(struct remote *r);
};

/* A store on a server starts with this member. Immutable but for n_watches. */
struct remote {
    struct kv kv;
    struct kv_ops kv_ops;
    const struct remote_ops *ops;
    int tries;                 /* of an operation whose server does not answer */
    int64_t conflict_delay_ms; /* at most, before a compare-and-swap is tried again */
    atomic_size_t n_watches;
};

void remote_init(struct remote *r, const struct remote_ops *ops, int tries, int64_t conflict_delay_ms);

/* A key that a watch has told of. */
struct remote_known {
    char *key; /* owned */
    size_t key_n;
    uint64_t version; /* 0: gone */
    bool seen;        /* in the snapshot that is being told */
};

struct kv_watch {
    struct remote *store;
    const struct kv_codec *codec;
    kv_watch_fn *fn;
    void *arg;
    bool is_prefix;
    pthread_t thread;
    atomic_bool stopping; /* writer: unwatch; readers: the thread, relaxed */
    pthread_mutex_t lock;
    pthread_cond_t changed; /* stopping or begun */
    bool begun;             /* the first snapshot was told or could not be had; guarded by lock */
    void *transport;        /* of the thread, but for ops->wake; guarded by lock where it is replaced */
    struct remote_known *known; /* owned by the thread */
    size_t n_known;
    size_t key_n;
    char key[];
};

static inline struct slice watch_key(const struct kv_watch *w)
{
    return slice_make(w->key, w->key_n);
}

static inline bool watch_stopping(const struct kv_watch *w)
{
    return atomic_load_explicit(&w->stopping, memory_order_relaxed);
}

/* For follow. A snapshot is begun, all keys are told, and it is ended: keys that were not in it are gone. Later changes are told one by one. */
void watch_snapshot_begin(struct kv_watch *w);
void watch_snapshot_end(struct kv_watch *w);
/* A version that was told already is not told again. A document that is damaged is logged and left out. */
void watch_tell(struct kv_watch *w, struct slice key, struct slice bytes, uint64_t version);
void watch_tell_gone(struct kv_watch *w, struct slice key);
/* Sleeps; false when the watch is to stop. */
bool watch_sleep(struct kv_watch *w, int64_t ms);
