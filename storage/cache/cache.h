/*
 * A cache of bytes by key, so that an object store is asked less often: in this process, or in memcached servers that several processes share.
 *
 * It is never needed for a right answer: whatever goes wrong is a miss, what is put may be gone at once, and nothing waits for a put. What comes out is what
 * was put under the key, or nothing: values that lie outside this process carry a checksum over key and value.
 *
 *   inmemory    least recently used values go when the bound in bytes is reached; locks by key; a value that is being read stays whole.
 *   memcached   keys are spread over the servers by consistent hashing; gets wait no longer than the flags say, in bounded numbers; puts go through a bounded
 *               queue and threads of their own, and are dropped when it is full.
 *
 * Any thread. Keys are any bytes, at most CACHE_KEY_MAX; whoever uses one cache for several things tells them apart in the key.
 */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/buf.h"
#include "base/ctx.h"
#include "base/err.h"
#include "base/flags.h"
#include "base/slice.h"

#define CACHE_KEY_MAX 200u /* memcached takes 250 */

/*
 * One cache's flags. Whoever has a cache makes a table under its own names:
 *
 *     const struct flag_def index_cache_flags[] = {
 *     #define CACHE_FLAG "blocks-storage.bucket-store.index-cache."
 *     #define CACHE_YAML "blocks_storage.bucket_store.index_cache."
 *     #define CACHE_BACKEND "inmemory"
 *     #define FLAG(...) FLAG_ROW(cache_config, __VA_ARGS__)
 *     #include "storage/cache/cache_flags.def"
 *     #undef FLAG
 *     };
 *
 * The three of the store-gateway are made in storage/store/store.h.
 */
struct cache_config {
#define FLAG FLAG_FIELD
#include "storage/cache/cache_flags.def"
#undef FLAG
};

/* What an item is: label item_type of the metrics. */
enum cache_item {
#define CACHE_ITEM(id, name) CACHE_##id,
#include "storage/cache/cache_items.def"
#undef CACHE_ITEM
    CACHE_ITEMS
};

struct cache;

/*
 * The cache that the flags name; *ret NULL, which all functions take, when the backend is "". flag_prefix: what the flags start with, for errors. component and
 * name: labels of the metrics, "store-gateway" and "index-cache", "chunks-cache" or "metadata-cache". ERR_CONFIG names the flag. No server is connected yet.
 */
bool cache_open(const struct cache_config *cfg, const char *flag_prefix, const char *component, const char *name, struct cache **ret, struct err *err);
void cache_close(struct cache *c); /* nobody else may be using it; NULL is fine */

/* Called for each key that was found, in no order; the value lives during the call, which must not call the cache. */
typedef void cache_found_fn(void *arg, size_t i, struct slice value);
/* How many of the keys were found. ctx bounds the wait, and may be NULL. */
size_t cache_get_multi(struct cache *c, const struct ctx *ctx, enum cache_item item, const struct slice *keys, size_t n, cache_found_fn *fn, void *arg);
/* Appends the value to out; false: it is not there. */
bool cache_get(struct cache *c, const struct ctx *ctx, enum cache_item item, struct slice key, struct buf *out);
/* ttl_ms > 0. Key and value are copied. */
void cache_put(struct cache *c, enum cache_item item, struct slice key, struct slice value, int64_t ttl_ms);
