/*
 * A cache in memcached servers, spoken to by libmemcached in the text protocol.
 *
 * Keys.     "b" and the XXH3-128 of the caller's key in hexadecimal: any bytes become a key of 33.
 * Values.   the bytes, then CRC-32C (little endian) of the whole key, the value and VALUE_VERSION: what was cut, mixed up or written by others is a miss.
 * Puts.     a ring bounded in number and in bytes, emptied by a few threads. Full, or a server at rest: the put is dropped.
 * Names.    addresses with dns+ are looked up at the start and every LOOKUP_MS after, by the first of those threads.
 *
 * Locks: the ring's, the gate's, and those of memcached_servers.c; none is held while another is taken, nor across I/O.
 */
#include "storage/cache/cache_int.h"

#ifndef BRUNN_MEMCACHED

struct cache *cache_memcached_new(const struct cache_config *cfg, const char *flag_prefix, const struct cache_labels *labels, struct err *err)
{
    (void)cfg, (void)labels;
    err_set(err, ERR_CONFIG, "-%sbackend: this build has no memcached", flag_prefix);
    return NULL;
}

#else

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define XXH_INLINE_ALL
#include <xxhash.h>

#include "base/assert.h"
#include "base/clock.h"
#include "storage/block/crc32c.h"
#include "storage/cache/memcached_int.h"

#define VALUE_VERSION 1u
#define KEY_BYTES 33u
#define LOOKUP_MS 30000
#define PUT_THREADS_MAX 8
#define PUT_BYTES_MAX ((size_t)64 << 20)
#define TTL_MAX_S (30 * 24 * 3600) /* memcached takes more for a date */
#define BATCH_MAX 1024

/* One put that waits. */
struct waiting {
    char key[KEY_BYTES + 1];
    uint64_t hash;
    int64_t ttl_s;
    size_t n;
    char bytes[]; /* value and checksum */
};

struct failures {
    struct metric *timeout, *other;
};

struct memcached {
    struct cache base;
    struct servers servers;
    size_t batch, max_item_bytes;
    struct metric *get_duration, *put_duration, *dropped, *too_large;
    struct failures get_failures, put_failures;

    pthread_mutex_t gate_lock;
    pthread_cond_t gate_open;
    size_t gate_free; /* guarded by gate_lock; SIZE_MAX: no limit */

    pthread_mutex_t ring_lock;
    pthread_cond_t ring_filled;
    struct waiting **ring; /* guarded by ring_lock, as the rest is; cap_ring of them */
    size_t ring_from, n_ring, cap_ring, ring_bytes;
    bool stopping;
    pthread_t threads[PUT_THREADS_MAX];
    size_t n_threads;
};

static void count_failure(const struct failures *f, memcached_return_t rc)
{
    metric_inc(rc == MEMCACHED_TIMEOUT || rc == MEMCACHED_SERVER_TEMPORARILY_DISABLED ? f->timeout : f->other);
}

/* --- gets --- */

struct wanted_key {
    char text[KEY_BYTES + 1];
    uint64_t hash;
    bool found;
};

static uint64_t key_text(struct slice key, char text[static KEY_BYTES + 1])
{
    XXH128_hash_t h = XXH3_128bits(key.p, key.n);
    snprintf(text, KEY_BYTES + 1, "b%016llx%016llx", (unsigned long long)h.high64, (unsigned long long)h.low64);
    return h.low64;
}

static uint32_t checksum(struct slice key, const char *value, size_t n)
{
    uint8_t version = VALUE_VERSION;
    return crc32c(crc32c(crc32c(0, key.p, key.n), value, n), &version, 1);
}

static bool value_is_good(struct slice key, const char *p, size_t n)
{
    uint32_t sum;
    if (n < sizeof(sum))
        return false;
    memcpy(&sum, p + n - sizeof(sum), sizeof(sum));
    return sum == checksum(key, p, n - sizeof(sum));
}

struct getting {
    struct memcached *c;
    const struct slice *keys;
    struct wanted_key *wanted;
    cache_found_fn *fn;
    void *arg;
    int64_t end_ms;
    size_t found;
};

/* One answer; the keys of the batch are wanted[which[0 .. n)]. */
static void take_result(struct getting *g, const size_t *which, size_t n, memcached_result_st *r)
{
    const char *text = memcached_result_key_value(r);
    for (size_t i = 0; i < n; i++) {
        struct wanted_key *w = &g->wanted[which[i]];
        if (w->found || memcached_result_key_length(r) != KEY_BYTES || memcmp(w->text, text, KEY_BYTES) != 0)
            continue;
        const char *p = memcached_result_value(r);
        size_t bytes = memcached_result_length(r);
        if (value_is_good(g->keys[which[i]], p, bytes)) {
            g->fn(g->arg, which[i], slice_make(p, bytes - sizeof(uint32_t)));
            w->found = true;
            g->found++;
        }
    }
}

static bool get_batch(struct getting *g, memcached_st *m, const size_t *which, size_t n)
{
    const char *texts[BATCH_MAX];
    size_t lengths[BATCH_MAX];
    for (size_t i = 0; i < n; i++) {
        texts[i] = g->wanted[which[i]].text;
        lengths[i] = KEY_BYTES;
    }
    memcached_return_t rc = memcached_mget(m, texts, lengths, n);
    memcached_result_st result;
    memcached_result_create(m, &result);
    while (rc == MEMCACHED_SUCCESS && memcached_fetch_result(m, &result, &rc)) {
        take_result(g, which, n, &result);
        if (clock_mono_ms() > g->end_ms)
            rc = MEMCACHED_TIMEOUT;
    }
    memcached_result_free(&result);
    bool good = rc == MEMCACHED_END || rc == MEMCACHED_NOTFOUND || rc == MEMCACHED_SUCCESS;
    if (!good)
        count_failure(&g->c->get_failures, rc);
    return good;
}

/* The keys of one server, batch by batch. */
static void get_from(struct getting *g, struct server *s, const size_t *which, size_t n)
{
    for (size_t from = 0; from < n && !server_rests(s) && clock_mono_ms() < g->end_ms; from += g->c->batch) {
        memcached_st *m = server_take(&g->c->servers, s);
        if (!m)
            return;
        server_give(s, m, get_batch(g, m, which + from, MIN(n - from, g->c->batch)));
    }
}

static bool gate_enter(struct memcached *c, int64_t end_ms)
{
    bool entered = true;
    pthread_mutex_lock(&c->gate_lock);
    while (c->gate_free == 0 && entered) {
        struct timespec t = {end_ms / 1000, end_ms % 1000 * 1000000};
        entered = pthread_cond_timedwait(&c->gate_open, &c->gate_lock, &t) != ETIMEDOUT;
    }
    entered = c->gate_free > 0;
    if (entered && c->gate_free != SIZE_MAX)
        c->gate_free--;
    pthread_mutex_unlock(&c->gate_lock);
    return entered;
}

static void gate_leave(struct memcached *c)
{
    pthread_mutex_lock(&c->gate_lock);
    if (c->gate_free != SIZE_MAX)
        c->gate_free++;
    pthread_cond_signal(&c->gate_open);
    pthread_mutex_unlock(&c->gate_lock);
}

static void get_all(struct getting *g, size_t n, size_t *which)
{
    struct server **of = calloc(n, sizeof(struct server *));
    ASSERT(of);
    for (size_t i = 0; i < n; i++)
        of[i] = servers_find(&g->c->servers, g->wanted[i].hash);
    for (size_t i = 0; i < n; i++) {
        struct server *s = of[i];
        size_t k = 0;
        for (size_t j = i; s && j < n; j++)
            if (of[j] == s) {
                which[k++] = j;
                of[j] = NULL;
            }
        if (!s)
            continue;
        get_from(g, s, which, k);
        for (; k; k--)
            server_unref(s);
    }
    free(of);
}

static size_t memcached_get_multi(struct cache *base, const struct ctx *ctx, enum cache_item item, const struct slice *keys, size_t n,
                                  cache_found_fn *fn, void *arg)
{
    struct memcached *c = CONTAINER_OF(base, struct memcached, base);
    struct getting g = {.c = c, .keys = keys, .fn = fn, .arg = arg};
    int64_t start_ns = clock_mono_ns();
    (void)item;
    /* Many batches from many servers: each may take its time, but the whole no more than ten of them. */
    g.end_ms = start_ns / 1000000 + 10 * (int64_t)c->servers.timeout_ms;
    if (ctx && ctx->deadline_ms)
        g.end_ms = MIN(g.end_ms, ctx->deadline_ms);
    if (!gate_enter(c, MIN(g.end_ms, start_ns / 1000000 + c->servers.timeout_ms))) {
        metric_inc(c->get_failures.timeout);
        return 0;
    }
    g.wanted = calloc(n, sizeof(*g.wanted));
    size_t *which = calloc(n, sizeof(*which));
    ASSERT(g.wanted && which);
    for (size_t i = 0; i < n; i++)
        g.wanted[i].hash = key_text(keys[i], g.wanted[i].text);
    get_all(&g, n, which);
    free(which);
    free(g.wanted);
    gate_leave(c);
    metric_observe(c->get_duration, (double)(clock_mono_ns() - start_ns) / 1e9);
    return g.found;
}

/* --- puts --- */

static void memcached_put(struct cache *base, enum cache_item item, struct slice key, struct slice value, int64_t ttl_ms)
{
    struct memcached *c = CONTAINER_OF(base, struct memcached, base);
    uint32_t sum = checksum(key, value.p, value.n);
    (void)item;
    if (c->max_item_bytes && value.n + sizeof(sum) > c->max_item_bytes) {
        metric_inc(c->too_large);
        return;
    }
    struct waiting *w = malloc(sizeof(*w) + value.n + sizeof(sum));
    ASSERT(w);
    w->hash = key_text(key, w->key);
    w->ttl_s = MIN(MAX(ttl_ms / 1000, 1), TTL_MAX_S);
    w->n = value.n + sizeof(sum);
    if (value.n)
        memcpy(w->bytes, value.p, value.n);
    memcpy(w->bytes + value.n, &sum, sizeof(sum));
    pthread_mutex_lock(&c->ring_lock);
    if (c->n_ring < c->cap_ring && c->ring_bytes + w->n <= PUT_BYTES_MAX) {
        c->ring[(c->ring_from + c->n_ring++) % c->cap_ring] = w;
        c->ring_bytes += w->n;
        w = NULL;
        pthread_cond_signal(&c->ring_filled);
    }
    pthread_mutex_unlock(&c->ring_lock);
    if (w)
        metric_inc(c->dropped);
    free(w);
}

static void put_one(struct memcached *c, const struct waiting *w)
{
    int64_t start_ns = clock_mono_ns();
    struct server *s = servers_find(&c->servers, w->hash);
    memcached_st *m = s ? server_take(&c->servers, s) : NULL;
    if (!m) {
        metric_inc(c->dropped);
    } else {
        memcached_return_t rc = memcached_set(m, w->key, KEY_BYTES, w->bytes, w->n, (time_t)w->ttl_s, 0);
        bool good = rc == MEMCACHED_SUCCESS || rc == MEMCACHED_STORED || rc == MEMCACHED_BUFFERED;
        /* A server that says no to one value is well. */
        server_give(s, m, good || rc == MEMCACHED_E2BIG);
        if (good)
            metric_observe(c->put_duration, (double)(clock_mono_ns() - start_ns) / 1e9);
        else
            count_failure(&c->put_failures, rc);
    }
    if (s)
        server_unref(s);
}

/* Waits for a put; NULL: there is none. until_ms 0: for ever. */
static struct waiting *next_put(struct memcached *c, int64_t until_ms, bool *ret_stopping)
{
    struct waiting *w = NULL;
    int rc = 0;
    pthread_mutex_lock(&c->ring_lock);
    while (!c->stopping && c->n_ring == 0 && rc != ETIMEDOUT) {
        struct timespec t = {until_ms / 1000, until_ms % 1000 * 1000000};
        rc = until_ms ? pthread_cond_timedwait(&c->ring_filled, &c->ring_lock, &t) : pthread_cond_wait(&c->ring_filled, &c->ring_lock);
    }
    if (!c->stopping && c->n_ring) {
        w = c->ring[c->ring_from];
        c->ring_from = (c->ring_from + 1) % c->cap_ring;
        c->n_ring--;
        c->ring_bytes -= w->n;
    }
    *ret_stopping = c->stopping;
    pthread_mutex_unlock(&c->ring_lock);
    return w;
}

static void *put_puts(void *arg)
{
    struct memcached *c = arg;
    for (bool stopping = false; !stopping;) {
        struct waiting *w = next_put(c, 0, &stopping);
        if (w)
            put_one(c, w);
        free(w);
    }
    return NULL;
}

/* The first thread, which looks names up too. */
static void *put_and_look_up(void *arg)
{
    struct memcached *c = arg;
    int64_t next_ms = 0;
    for (bool stopping = false; !stopping;) {
        if (c->servers.has_names && clock_mono_ms() >= next_ms) {
            servers_look_up(&c->servers);
            next_ms = clock_mono_ms() + LOOKUP_MS;
        }
        struct waiting *w = next_put(c, next_ms, &stopping);
        if (w)
            put_one(c, w);
        free(w);
    }
    return NULL;
}

/* --- life --- */

static void memcached_close(struct cache *base)
{
    struct memcached *c = CONTAINER_OF(base, struct memcached, base);
    pthread_mutex_lock(&c->ring_lock);
    c->stopping = true;
    pthread_cond_broadcast(&c->ring_filled);
    pthread_mutex_unlock(&c->ring_lock);
    for (size_t i = 0; i < c->n_threads; i++)
        pthread_join(c->threads[i], NULL);
    for (; c->n_ring; c->n_ring--, c->ring_from = (c->ring_from + 1) % c->cap_ring)
        free(c->ring[c->ring_from]);
    free(c->ring);
    servers_release(&c->servers);
    pthread_mutex_destroy(&c->ring_lock);
    pthread_mutex_destroy(&c->gate_lock);
    pthread_cond_destroy(&c->ring_filled);
    pthread_cond_destroy(&c->gate_open);
    free(c);
}

static const struct cache_ops memcached_ops = {memcached_get_multi, memcached_put, memcached_close};

static void find_metrics(struct memcached *c, const struct cache_labels *l)
{
    struct slice get = SL("getmulti"), set = SL("set");
    c->get_duration = METRIC_WITH(cache_metrics[CACHE_M_DURATION], l->component, l->name, get);
    c->put_duration = METRIC_WITH(cache_metrics[CACHE_M_DURATION], l->component, l->name, set);
    c->dropped = METRIC_WITH(cache_metrics[CACHE_M_SKIPPED], l->component, l->name, set, SL("queue-full"));
    c->too_large = METRIC_WITH(cache_metrics[CACHE_M_SKIPPED], l->component, l->name, set, SL("max-item-size"));
    c->get_failures.timeout = METRIC_WITH(cache_metrics[CACHE_M_FAILURES], l->component, l->name, get, SL("timeout"));
    c->get_failures.other = METRIC_WITH(cache_metrics[CACHE_M_FAILURES], l->component, l->name, get, SL("other"));
    c->put_failures.timeout = METRIC_WITH(cache_metrics[CACHE_M_FAILURES], l->component, l->name, set, SL("timeout"));
    c->put_failures.other = METRIC_WITH(cache_metrics[CACHE_M_FAILURES], l->component, l->name, set, SL("other"));
}

static bool check_addresses(const struct cache_config *cfg, const char *flag_prefix, struct err *err)
{
    for (size_t i = 0; i < cfg->memcached_addresses.n; i++) {
        const char *a = cfg->memcached_addresses.items[i];
        if (!server_address_is_good(a))
            return err_set(err, ERR_CONFIG, "-%smemcached.addresses: \"%s\" is not host:port or dns+host:port", flag_prefix, a);
    }
    return cfg->memcached_addresses.n || err_set(err, ERR_CONFIG, "-%smemcached.addresses: no server is named", flag_prefix);
}

static void start(struct memcached *c, size_t n_threads)
{
    pthread_condattr_t attr;
    pthread_condattr_init(&attr);
    pthread_condattr_setclock(&attr, CLOCK_MONOTONIC);
    pthread_mutex_init(&c->gate_lock, NULL);
    pthread_mutex_init(&c->ring_lock, NULL);
    pthread_cond_init(&c->gate_open, &attr);
    pthread_cond_init(&c->ring_filled, &attr);
    pthread_condattr_destroy(&attr);
    for (; c->n_threads < n_threads; c->n_threads++) {
        int rc = pthread_create(&c->threads[c->n_threads], NULL, c->n_threads ? put_puts : put_and_look_up, c);
        ASSERT(rc == 0);
    }
}

struct cache *cache_memcached_new(const struct cache_config *cfg, const char *flag_prefix, const struct cache_labels *labels, struct err *err)
{
    if (!check_addresses(cfg, flag_prefix, err))
        return NULL;
    struct memcached *c = calloc(1, sizeof(*c));
    ASSERT(c);
    c->base.ops = &memcached_ops;
    servers_init(&c->servers, cfg);
    c->batch = cfg->memcached_max_get_multi_batch_size > 0 ? (size_t)MIN(cfg->memcached_max_get_multi_batch_size, BATCH_MAX) : BATCH_MAX;
    c->max_item_bytes = (size_t)MAX(cfg->memcached_max_item_size, 0);
    c->gate_free = cfg->memcached_max_get_multi_concurrency > 0 ? (size_t)cfg->memcached_max_get_multi_concurrency : SIZE_MAX;
    c->cap_ring = (size_t)MIN(MAX(cfg->memcached_max_async_buffer_size, 1), 1000000);
    c->ring = calloc(c->cap_ring, sizeof(struct waiting *));
    ASSERT(c->ring);
    find_metrics(c, labels);
    start(c, (size_t)MIN(MAX(cfg->memcached_max_async_concurrency, 1), PUT_THREADS_MAX));
    return &c->base;
}

#endif
