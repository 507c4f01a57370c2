/*
 * A cache in this process: least recently used items go first.
 *
 * Items are spread over SHARDS parts by the hash of their key; each part has a lock, a hash table and a list by use, and a share of the bytes. What is found
 * is held by a count of references while the caller reads it, outside the lock; an item that goes meanwhile is freed by its last reader. Bytes count what is
 * allocated for an item; the tables (8 bytes an item, doubled as they fill) come on top.
 */
#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

#define XXH_INLINE_ALL
#include <xxhash.h>

#include "base/assert.h"
#include "base/clock.h"
#include "storage/cache/cache_int.h"

#define SHARDS 16u
#define TABLE_MIN 64u
#define ITEM_OVERHEAD 24u /* of the allocator and the table */

struct item {
    struct item *next_in_bucket;
    struct item *newer, *older; /* guarded by the shard's lock, as the others above the bytes are */
    atomic_uint refs;           /* 1 of the shard; acquire-release, so that the last one sees the others done */
    enum cache_item kind;
    uint64_t hash;
    int64_t end_ms; /* monotonic */
    size_t key_n, value_n;
    char bytes[]; /* key, value; immutable */
};

struct shard {
    _Alignas(CACHE_LINE) pthread_mutex_t lock;
    struct item **table; /* owned; cap of them, a power of 2 */
    size_t n, cap;
    struct item *newest, *oldest;
    size_t bytes;
};

struct kind_metrics {
    struct metric *requests, *hits, *added, *evicted, *overflowed, *items, *item_bytes, *total_bytes; /* NULL: this is not the index cache */
};

struct inmemory {
    struct cache base;
    size_t shard_max_bytes, max_item_bytes;
    struct kind_metrics kinds[CACHE_ITEMS];
    struct shard shards[SHARDS];
};

static size_t size_of(const struct item *x)
{
    return sizeof(*x) + x->key_n + x->value_n + ITEM_OVERHEAD;
}

static void item_unref(struct item *x)
{
    if (atomic_fetch_sub_explicit(&x->refs, 1, memory_order_acq_rel) == 1)
        free(x);
}

static void count(struct metric *m, double v)
{
    if (m)
        metric_add(m, v);
}

/* --- one shard; its lock is held --- */

static struct item **bucket_of(struct shard *s, uint64_t hash)
{
    return &s->table[hash / SHARDS & (s->cap - 1)];
}

static struct item **find(struct shard *s, uint64_t hash, struct slice key)
{
    struct item **at = bucket_of(s, hash);
    while (*at && ((*at)->hash != hash || (*at)->key_n != key.n || memcmp((*at)->bytes, key.p, key.n) != 0))
        at = &(*at)->next_in_bucket;
    return at;
}

static void list_remove(struct shard *s, struct item *x)
{
    *(x->newer ? &x->newer->older : &s->newest) = x->older;
    *(x->older ? &x->older->newer : &s->oldest) = x->newer;
}

static void list_add(struct shard *s, struct item *x)
{
    x->newer = NULL;
    x->older = s->newest;
    *(s->newest ? &s->newest->newer : &s->oldest) = x;
    s->newest = x;
}

static void drop(struct inmemory *c, struct shard *s, struct item **at)
{
    struct item *x = *at;
    *at = x->next_in_bucket;
    list_remove(s, x);
    s->n--;
    s->bytes -= size_of(x);
    count(c->kinds[x->kind].items, -1);
    count(c->kinds[x->kind].item_bytes, -(double)x->value_n);
    count(c->kinds[x->kind].total_bytes, -(double)size_of(x));
    item_unref(x);
}

static void grow(struct shard *s)
{
    struct item **old = s->table, **table = calloc(2 * s->cap, sizeof(*table));
    if (!table)
        return; /* longer buckets */
    size_t n = s->cap;
    s->table = table;
    s->cap = 2 * n;
    for (size_t i = 0; i < n; i++)
        for (struct item *x = old[i], *next; x; x = next) {
            struct item **at = bucket_of(s, x->hash);
            next = x->next_in_bucket;
            x->next_in_bucket = *at;
            *at = x;
        }
    free(old);
}

static void add(struct inmemory *c, struct shard *s, struct item *x)
{
    struct item **at = find(s, x->hash, slice_make(x->bytes, x->key_n));
    if (*at)
        drop(c, s, at);
    if (s->n >= s->cap)
        grow(s);
    at = bucket_of(s, x->hash);
    x->next_in_bucket = *at;
    *at = x;
    list_add(s, x);
    s->n++;
    s->bytes += size_of(x);
    const struct kind_metrics *k = &c->kinds[x->kind];
    count(k->added, 1);
    count(k->items, 1);
    count(k->item_bytes, (double)x->value_n);
    count(k->total_bytes, (double)size_of(x));
    while (s->bytes > c->shard_max_bytes && s->oldest != x) {
        struct item *old = s->oldest;
        count(c->kinds[old->kind].evicted, 1);
        drop(c, s, find(s, old->hash, slice_make(old->bytes, old->key_n)));
    }
}

/* --- the vtable --- */

/* Held for the caller; NULL: it is not there, or no longer. */
static struct item *take(struct inmemory *c, struct slice key, int64_t now_ms)
{
    uint64_t hash = XXH3_64bits(key.p, key.n);
    struct shard *s = &c->shards[hash % SHARDS];
    pthread_mutex_lock(&s->lock);
    struct item **at = find(s, hash, key), *x = *at;
    if (x && x->end_ms <= now_ms) {
        drop(c, s, at);
        x = NULL;
    }
    if (x) {
        list_remove(s, x);
        list_add(s, x);
        atomic_fetch_add_explicit(&x->refs, 1, memory_order_relaxed);
    }
    pthread_mutex_unlock(&s->lock);
    return x;
}

static size_t inmemory_get_multi(struct cache *base, const struct ctx *ctx, enum cache_item item, const struct slice *keys, size_t n,
                                 cache_found_fn *fn, void *arg)
{
    struct inmemory *c = CONTAINER_OF(base, struct inmemory, base);
    int64_t now_ms = clock_mono_ms();
    size_t found = 0;
    (void)ctx;
    for (size_t i = 0; i < n; i++) {
        struct item *x = take(c, keys[i], now_ms);
        if (!x)
            continue;
        fn(arg, i, slice_make(x->bytes + x->key_n, x->value_n));
        item_unref(x);
        found++;
    }
    count(c->kinds[item].requests, (double)n);
    count(c->kinds[item].hits, (double)found);
    return found;
}

static void inmemory_put(struct cache *base, enum cache_item item, struct slice key, struct slice value, int64_t ttl_ms)
{
    struct inmemory *c = CONTAINER_OF(base, struct inmemory, base);
    uint64_t hash = XXH3_64bits(key.p, key.n);
    struct item *x = value.n <= c->max_item_bytes ? malloc(sizeof(*x) + key.n + value.n) : NULL;
    if (!x) {
        count(c->kinds[item].overflowed, 1);
        return;
    }
    *x = (struct item){.kind = item, .hash = hash, .end_ms = clock_mono_ms() + ttl_ms, .key_n = key.n, .value_n = value.n};
    atomic_init(&x->refs, 1);
    if (key.n)
        memcpy(x->bytes, key.p, key.n);
    if (value.n)
        memcpy(x->bytes + key.n, value.p, value.n);
    struct shard *s = &c->shards[hash % SHARDS];
    pthread_mutex_lock(&s->lock);
    add(c, s, x);
    pthread_mutex_unlock(&s->lock);
}

static void inmemory_close(struct cache *base)
{
    struct inmemory *c = CONTAINER_OF(base, struct inmemory, base);
    for (size_t i = 0; i < SHARDS; i++) {
        struct shard *s = &c->shards[i];
        while (s->oldest)
            drop(c, s, find(s, s->oldest->hash, slice_make(s->oldest->bytes, s->oldest->key_n)));
        free(s->table);
        pthread_mutex_destroy(&s->lock);
    }
    free(c);
}

static const struct cache_ops inmemory_ops = {inmemory_get_multi, inmemory_put, inmemory_close};

static void find_metrics(struct inmemory *c, const struct cache_labels *labels)
{
    if (!slice_eq(labels->name, SL("index-cache")))
        return;
    for (int i = 0; i < CACHE_ITEMS; i++) {
        struct slice kind = slice_of(cache_item_name((enum cache_item)i));
        struct metric *m[CACHE_M_INDEX_TOTAL_BYTES + 1];
        for (int k = CACHE_M_INDEX_REQUESTS; k <= CACHE_M_INDEX_TOTAL_BYTES; k++)
            m[k] = METRIC_WITH(cache_metrics[k], labels->component, kind);
        c->kinds[i] = (struct kind_metrics){m[CACHE_M_INDEX_REQUESTS], m[CACHE_M_INDEX_HITS],       m[CACHE_M_INDEX_ADDED],
                                            m[CACHE_M_INDEX_EVICTED],  m[CACHE_M_INDEX_OVERFLOWED], m[CACHE_M_INDEX_ITEMS],
                                            m[CACHE_M_INDEX_ITEMS_BYTES], m[CACHE_M_INDEX_TOTAL_BYTES]};
    }
    metric_set(METRIC_WITH(cache_metrics[CACHE_M_INDEX_MAX_BYTES], labels->component), (double)(c->shard_max_bytes * SHARDS));
    metric_set(METRIC_WITH(cache_metrics[CACHE_M_INDEX_MAX_ITEM_BYTES], labels->component), (double)c->max_item_bytes);
}

struct cache *cache_inmemory_new(uint64_t max_bytes, const struct cache_labels *labels)
{
    struct inmemory *c = aligned_alloc(CACHE_LINE, (sizeof(*c) + CACHE_LINE - 1) / CACHE_LINE * CACHE_LINE);
    ASSERT(c);
    memset(c, 0, sizeof(*c));
    c->base.ops = &inmemory_ops;
    c->shard_max_bytes = max_bytes / SHARDS;
    c->max_item_bytes = c->shard_max_bytes / 2;
    for (size_t i = 0; i < SHARDS; i++) {
        struct shard *s = &c->shards[i];
        pthread_mutex_init(&s->lock, NULL);
        s->cap = TABLE_MIN;
        s->table = calloc(s->cap, sizeof(struct item *));
        ASSERT(s->table);
    }
    find_metrics(c, labels);
    return &c->base;
}
