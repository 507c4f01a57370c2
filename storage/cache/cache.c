/* The door: which back end, and what every one of them counts. See cache.h. */
#include "storage/cache/cache_int.h"

#include <string.h>

#include "base/assert.h"

#define METRICS_ROOM cache
#define METRICS_DEF "storage/cache/cache_metrics.def"
#define METRICS_DEFINE_ONLY
#include "base/metrics_table.h"

static bool check_flags(const struct cache_config *cfg, const char *flag_prefix, struct err *err)
{
    if (cfg->memcached_tls_enabled)
        return err_set(err, ERR_CONFIG, "-%smemcached.tls-enabled: memcached servers are spoken to without TLS", flag_prefix);
    if (strcmp(cfg->backend, "inmemory") == 0 || strcmp(cfg->backend, "memcached") == 0 || !*cfg->backend)
        return true;
    return err_set(err, ERR_CONFIG, "-%sbackend: \"%s\" is neither inmemory nor memcached", flag_prefix, cfg->backend);
}

bool cache_open(const struct cache_config *cfg, const char *flag_prefix, const char *component, const char *name, struct cache **ret, struct err *err)
{
    struct cache_labels labels = {slice_of(component), slice_of(name)};
    cache_metrics_register();
    if (!check_flags(cfg, flag_prefix, err))
        return false;
    struct cache *c = NULL;
    if (strcmp(cfg->backend, "inmemory") == 0)
        c = cache_inmemory_new(cfg->inmemory_max_size_bytes, &labels);
    else if (*cfg->backend && !(c = cache_memcached_new(cfg, flag_prefix, &labels, err)))
        return false;
    if (c) {
        c->requests = METRIC_WITH(cache_metrics[CACHE_M_REQUESTS], labels.component, labels.name);
        c->hits = METRIC_WITH(cache_metrics[CACHE_M_HITS], labels.component, labels.name);
        c->gets = METRIC_WITH(cache_metrics[CACHE_M_OPERATIONS], labels.component, labels.name, SL("getmulti"));
        c->puts = METRIC_WITH(cache_metrics[CACHE_M_OPERATIONS], labels.component, labels.name, SL("set"));
    }
    *ret = c;
    return true;
}

void cache_close(struct cache *c)
{
    if (c)
        c->ops->close(c);
}

size_t cache_get_multi(struct cache *c, const struct ctx *ctx, enum cache_item item, const struct slice *keys, size_t n, cache_found_fn *fn, void *arg)
{
    if (!c || n == 0)
        return 0;
    metric_inc(c->gets);
    metric_add(c->requests, (double)n);
    size_t found = c->ops->get_multi(c, ctx, item, keys, n, fn, arg);
    if (found)
        metric_add(c->hits, (double)found);
    return found;
}

static void append(void *arg, size_t i, struct slice value)
{
    (void)i;
    buf_put_slice(arg, value);
}

bool cache_get(struct cache *c, const struct ctx *ctx, enum cache_item item, struct slice key, struct buf *out)
{
    size_t before = out->n;
    if (out->failed || cache_get_multi(c, ctx, item, &key, 1, append, out) == 0)
        return false;
    if (!out->failed)
        return true;
    /* The value is larger than what out may hold: as good as not there. */
    out->failed = false;
    out->n = before;
    return false;
}

void cache_put(struct cache *c, enum cache_item item, struct slice key, struct slice value, int64_t ttl_ms)
{
    ASSERT(key.n <= CACHE_KEY_MAX && ttl_ms > 0);
    if (!c)
        return;
    metric_inc(c->puts);
    c->ops->put(c, item, key, value, ttl_ms);
}
