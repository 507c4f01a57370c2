/* What the back ends share: the vtable, and how they are made. */
#pragma once

#include "storage/cache/cache.h"

#define METRICS_ROOM cache
#define METRICS_DEF "storage/cache/cache_metrics.def"
#include "base/metrics_table.h"

struct cache_ops {
    size_t (*get_multi)(struct cache *c, const struct ctx *ctx, enum cache_item item, const struct slice *keys, size_t n, cache_found_fn *fn, void *arg);
    void (*put)(struct cache *c, enum cache_item item, struct slice key, struct slice value, int64_t ttl_ms);
    void (*close)(struct cache *c);
};

/* First member of a back end's own struct. Immutable once it is made. */
struct cache {
    const struct cache_ops *ops;
    struct metric *requests, *hits, *gets, *puts;
};

/* Labels of the metrics; they live during the call. */
struct cache_labels {
    struct slice component, name;
};

struct cache *cache_inmemory_new(uint64_t max_bytes, const struct cache_labels *labels);
struct cache *cache_memcached_new(const struct cache_config *cfg, const char *flag_prefix, const struct cache_labels *labels, struct err *err);

static inline const char *cache_item_name(enum cache_item item)
{
    static const char *const names[] = {
#define CACHE_ITEM(id, name) name,
#include "storage/cache/cache_items.def"
#undef CACHE_ITEM
    };
    return names[item];
}
