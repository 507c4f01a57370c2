/*
 * The key-value store behind the rings: a handful of keys, each one document that several processes change.
 *
 * A key is "ring" and the like, behind a prefix that the servers see, "collectors/". Its value is a document of one kind (an instance ring, a partitions ring); a codec knows the
 * kind: how it is written as bytes, how two versions become one. Stores differ in how they agree: `inmemory` lives in this process, gossip merges what
 * others say (ring/memberlist), etcd compares and swaps on a server. To the rings they look the same.
 *
 * Values cross this door decoded, as void * of the codec's own type. Bytes are seen only where they leave the process, and there they are what
 * dskit writes: a snappy block of a protobuf message (docs/formats.md 4.5).
 *
 * Any thread may call every function here. No function may be called with a lock held that a watcher's callback takes.
 */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/buf.h"
#include "base/err.h"
#include "base/slice.h"

/* --- codecs ---------------------------------------------------------------------------------------------------------
 */

/* Called once for each name; the bytes live during the call. */
typedef void kv_name_fn(void *arg, struct slice name);

/*
 * A kind of document. Immutable; one static object for each kind. All functions are pure but for their arguments, so any thread may call
 * them on values of its own. They return NULL or false only where it is written here; out of memory ends the process.
 */
struct kv_codec {
    const char *id; /* as on the wire: "ringDesc", "partitionRingDesc" */

    /* Wire bytes to a value that the caller owns. No bytes at all are an empty document. NULL and ERR_CORRUPT when they are damaged. */
    void *(*decode)(struct slice bytes, struct err *err);
    /* Appends the wire bytes to out; look at out->failed. Maps are written in the order of their keys. */
    void (*encode)(const void *value, struct buf *out);
    void *(*clone)(const void *value);
    void (*free)(void *value); /* NULL is fine */

    /*
     * Merges `incoming` into `local` and returns what changed: a smaller document of the same kind that the caller owns, for telling
     * others; NULL when nothing changed. local_cas says that incoming is the wanted whole state of this process, made from local, so that
     * entries that it lacks were removed and become tombstones of now_s (unix seconds). Without local_cas merges are idempotent, and commutative and
     * associative as long as nobody writes two different states of one entry with the same time.
     * A key seen for the first time is merged into decode(empty), without local_cas.
     */
    void *(*merge)(void *local, const void *incoming, bool local_cas, int64_t now_s);

    /*
     * Removes tombstones older than limit_s (unix seconds; INT64_MAX: all, as readers want it). ret_removed and ret_left count tombstones; either may
     * be NULL.
     */
    void (*remove_tombstones)(void *value, int64_t limit_s, size_t *ret_removed, size_t *ret_left);

    /* Names of the entries of the document (instances; partitions as decimal numbers, owners): a newer message with a superset of them replaces an older. */
    void (*content)(const void *value, kv_name_fn *fn, void *arg);
    bool (*is_empty)(const void *value); /* no entries at all: such a change is not sent */
};

/* A set of codecs to look up by id; filled before threads start, immutable afterwards. */
#define KV_CODECS_MAX 8
struct kv_codecs {
    const struct kv_codec *codecs[KV_CODECS_MAX];
    size_t n;
};

void kv_codecs_add(struct kv_codecs *set, const struct kv_codec *codec);
/* NULL when there is none of this id. */
const struct kv_codec *kv_codecs_find(const struct kv_codecs *set, struct slice id);

/*
 * What the codecs share: documents are snappy blocks. Opening gives bytes that the caller frees with free(), at most KV_DOCUMENT_MAX of them; no bytes
 * are an empty document. NULL and ERR_CORRUPT when damaged.
 */
#define KV_DOCUMENT_MAX ((size_t)64 << 20)
char *kv_snappy_open(struct slice bytes, size_t *ret_n, struct err *err);
void kv_snappy_put(const struct buf *document, struct buf *out);

/* --- the store ------------------------------------------------------------------------------------------------------
 */

enum kv_cas {
    KV_CAS_STORE, /* *value is what shall be */
    KV_CAS_KEEP,  /* leave the key as it is; the cas is done and has succeeded */
    KV_CAS_FAIL,  /* the cas fails with the error that was set */
};

/*
 * The heart of a compare-and-swap: changes *value in place or replaces it (and frees the old one). *value is a copy of its own without tombstones, NULL
 * when the key is not there; whatever it is afterwards belongs to the store. Called again, on the newest value, when another writer was faster: it must not
 * remember what it did the last time. No locks are held.
 */
typedef enum kv_cas kv_cas_fn(void *arg, void **value, struct err *err);

/*
 * Tells a watcher the newest value of a key, without tombstones, NULL when the key was deleted. The value is the store's: copy what shall stay.
 * Versions may be left out, but the last one always comes, and never an older after a newer. One call at a time for each watch. No locks are held; it may
 * call the store, but not kv_unwatch on its own watch.
 */
typedef void kv_watch_fn(void *arg, struct slice key, const void *value);

struct kv;
struct kv_watch; /* each store has its own */

struct kv_ops {
    const char *name; /* "inmemory", "memberlist", "etcd", "consul": for pages and logs */
    bool (*get)(struct kv *kv, struct slice key, const struct kv_codec *codec, void **ret_value, struct err *err);
    bool (*cas)(struct kv *kv, struct slice key, const struct kv_codec *codec, kv_cas_fn *fn, void *arg, struct err *err);
    bool (*remove)(struct kv *kv, struct slice key, struct err *err);
    bool (*list)(struct kv *kv, struct slice prefix, kv_name_fn *fn, void *arg, struct err *err);
    struct kv_watch *(*watch)(struct kv *kv, struct slice key, bool is_prefix, const struct kv_codec *codec, kv_watch_fn *fn,
                              void *arg, struct err *err);
    void (*unwatch)(struct kv *kv, struct kv_watch *watch);
    void (*free)(struct kv *kv);
};

/* A store starts with this member. */
struct kv {
    const struct kv_ops *ops;
};

/* The value without tombstones, which the caller frees with codec->free; *ret_value = NULL when there is no such key. */
bool kv_get(struct kv *kv, struct slice key, const struct kv_codec *codec, void **ret_value, struct err *err);
/* Runs fn until its result could be stored, KV_CAS_TRIES times at most (then ERR_CONFLICT). */
#define KV_CAS_TRIES 10
bool kv_cas(struct kv *kv, struct slice key, const struct kv_codec *codec, kv_cas_fn *fn, void *arg, struct err *err);
/* Deletes the key. A key that is not there is fine. */
bool kv_delete(struct kv *kv, struct slice key, struct err *err);
/* The keys that start with prefix, in no order; fn must not call the store. */
bool kv_list(struct kv *kv, struct slice prefix, kv_name_fn *fn, void *arg, struct err *err);
/* fn hears of the key's value now, if there is one, and of each change until kv_unwatch. NULL when the store cannot have another watch. */
struct kv_watch *kv_watch_key(struct kv *kv, struct slice key, const struct kv_codec *codec, kv_watch_fn *fn, void *arg,
                              struct err *err);
/* The same for all keys that start with prefix, which must all be of this codec. */
struct kv_watch *kv_watch_prefix(struct kv *kv, struct slice prefix, const struct kv_codec *codec, kv_watch_fn *fn, void *arg,
                                 struct err *err);
/* When it returns no call of fn is running and none will come. NULL is fine. */
void kv_unwatch(struct kv *kv, struct kv_watch *watch);
/* All watches must be gone. NULL is fine. */
void kv_free(struct kv *kv);

/* --- the store of one process ---------------------------------------------------------------------------------------
 */

#define KV_INMEMORY_WATCHES_MAX 256

/* Holds at most max_keys keys; a cas that would make one more fails with ERR_NO_SPACE. There is no merging: a cas stores what its function made. */
struct kv *kv_inmemory_new(size_t max_keys);
