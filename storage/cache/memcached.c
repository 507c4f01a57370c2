/*
 * A cache in memcached servers, spoken to by libmemcached in the text protocol.
 *
 * Keys.     "b" and the XXH3-128 of the caller's key in hexadecimal: any bytes become a key of 33. Which server has it: the one whose own hash with the key's is
 *           the highest, so that a server that goes takes only its own keys along.
 * Values.   the bytes, then CRC-32C (little endian) of the whole key, the value and VALUE_VERSION: what was cut, mixed up or written by others is a miss.
 * Servers.  each has a stack of unused connections (libmemcached handles of one server). A connection that failed is closed; after FAILS_MAX failures in a row
 *           nothing is asked of the server for REST_MS: a dead server costs one timeout a second, not one a get.
 * Puts.     a ring bounded in number and in bytes, emptied by a few threads. Full, or a server at rest: the put is dropped.
 * Names.    addresses with dns+ are looked up at the first use and every LOOKUP_MS after, by the first of those threads; servers that stay keep their
 *           connections.
 *
 * Locks: the ring's, the list of servers', a server's stack; none is held while another is taken, nor across I/O.
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
#include <netdb.h>
#include <arpa/inet.h>
#include <libmemcached/memcached.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define XXH_INLINE_ALL
#include <xxhash.h>

#include "base/assert.h"
#include "base/clock.h"
#include "base/logger.h"
#include "storage/block/crc32c.h"

#define VALUE_VERSION 1u
#define KEY_BYTES 33u
#define FAILS_MAX 3
#define REST_MS 1000
#define LOOKUP_MS 30000
#define PUT_THREADS_MAX 8
#define PUT_BYTES_MAX ((size_t)64 << 20)
#define TTL_MAX_S (30 * 24 * 3600) /* memcached takes more for a date */
#define BATCH_MAX 1024

/* --- servers --- */

struct server {
    char *host; /* owned */
    in_port_t port;
    uint64_t seed; /* hash of host and port */
    atomic_uint refs;
    atomic_int fails;           /* in a row; relaxed, as rest_until_ms */
    _Atomic int64_t rest_until_ms;
    pthread_mutex_t lock;
    memcached_st **idle; /* owned; guarded by lock; cap of them */
    size_t n_idle, cap_idle;
};

static void server_unref(struct server *s)
{
    if (atomic_fetch_sub_explicit(&s->refs, 1, memory_order_acq_rel) != 1)
        return;
    for (size_t i = 0; i < s->n_idle; i++)
        memcached_free(s->idle[i]);
    free(s->idle);
    pthread_mutex_destroy(&s->lock);
    free(s->host);
    free(s);
}

static struct server *server_new(const char *host, in_port_t port, size_t max_idle)
{
    struct server *s = calloc(1, sizeof(*s));
    ASSERT(s);
    s->host = strdup(host);
    s->idle = calloc(max_idle, sizeof(memcached_st *));
    ASSERT(s->host && s->idle);
    s->port = port;
    s->seed = XXH3_64bits_withSeed(host, strlen(host), port);
    s->cap_idle = max_idle;
    atomic_init(&s->refs, 1);
    pthread_mutex_init(&s->lock, NULL);
    return s;
}

static bool server_rests(struct server *s)
{
    return atomic_load_explicit(&s->rest_until_ms, memory_order_relaxed) > clock_mono_ms();
}

static void server_was_good(struct server *s, bool good)
{
    if (good)
        atomic_store_explicit(&s->fails, 0, memory_order_relaxed);
    else if (atomic_fetch_add_explicit(&s->fails, 1, memory_order_relaxed) + 1 >= FAILS_MAX)
        atomic_store_explicit(&s->rest_until_ms, clock_mono_ms() + REST_MS, memory_order_relaxed);
}

struct server_list {
    struct server **items; /* owned, with a reference each */
    size_t n;
};

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
    int32_t timeout_ms, connect_timeout_ms;
    size_t max_idle, batch, max_item_bytes;
    char **addresses; /* owned, n_addresses */
    size_t n_addresses;
    bool has_names; /* some address is to be looked up */
    struct metric *get_duration, *put_duration, *dropped, *too_large;
    struct failures get_failures, put_failures;

    pthread_mutex_t servers_lock;
    struct server_list servers; /* guarded by servers_lock */

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

/* --- names --- */

static void list_release(struct server_list *l)
{
    for (size_t i = 0; i < l->n; i++)
        server_unref(l->items[i]);
    free(l->items);
    *l = (struct server_list){0};
}

/* Takes the server from old where it was known before. */
static void list_add(struct server_list *l, const struct server_list *old, const char *host, in_port_t port, size_t max_idle)
{
    struct server *s = NULL;
    for (size_t i = 0; i < l->n; i++)
        if (l->items[i]->port == port && strcmp(l->items[i]->host, host) == 0)
            return;
    for (size_t i = 0; i < old->n && !s; i++)
        if (old->items[i]->port == port && strcmp(old->items[i]->host, host) == 0)
            s = old->items[i];
    if (s)
        atomic_fetch_add_explicit(&s->refs, 1, memory_order_relaxed);
    else
        s = server_new(host, port, max_idle);
    struct server **items = realloc(l->items, (l->n + 1) * sizeof(struct server *));
    ASSERT(items);
    l->items = items;
    l->items[l->n++] = s;
}

/* Host and port of an address whose form was checked. */
static in_port_t split(const char *address, char *host, size_t cap)
{
    const char *colon = strrchr(address, ':');
    snprintf(host, cap, "%.*s", (int)(colon - address), address);
    return (in_port_t)atoi(colon + 1);
}

static void look_up(struct memcached *c, const char *address, const struct server_list *old, struct server_list *l)
{
    char host[256], text[INET6_ADDRSTRLEN];
    in_port_t port = split(address, host, sizeof(host));
    struct addrinfo hints = {.ai_socktype = SOCK_STREAM}, *found = NULL;
    int rc = getaddrinfo(host, NULL, &hints, &found);
    if (rc != 0)
        LOG_WARN("memcached: a host has no address", {"host", LOG_STR(host)}, {"error", LOG_STR(gai_strerror(rc))});
    for (struct addrinfo *a = found; a; a = a->ai_next)
        if (getnameinfo(a->ai_addr, a->ai_addrlen, text, sizeof(text), NULL, 0, NI_NUMERICHOST) == 0)
            list_add(l, old, text, port, c->max_idle);
    if (found)
        freeaddrinfo(found);
}

/* Makes the list anew. A name that has no address now keeps nothing: the servers of the others have its keys. */
static void find_servers(struct memcached *c)
{
    struct server_list fresh = {0}, old;
    pthread_mutex_lock(&c->servers_lock);
    old = c->servers; /* only this thread changes it */
    pthread_mutex_unlock(&c->servers_lock);
    for (size_t i = 0; i < c->n_addresses; i++) {
        const char *address = c->addresses[i];
        char host[256];
        if (strncmp(address, "dns+", 4) == 0)
            look_up(c, address + 4, &old, &fresh);
        else
            list_add(&fresh, &old, host, split(address, host, sizeof(host)), c->max_idle);
    }
    pthread_mutex_lock(&c->servers_lock);
    c->servers = fresh;
    pthread_mutex_unlock(&c->servers_lock);
    list_release(&old);
}

/* With a reference; NULL when there is none, or when it rests. */
static struct server *server_of(struct memcached *c, uint64_t hash)
{
    struct server *best = NULL;
    uint64_t best_score = 0;
    pthread_mutex_lock(&c->servers_lock);
    for (size_t i = 0; i < c->servers.n; i++) {
        uint64_t score = XXH3_64bits_withSeed(&hash, sizeof(hash), c->servers.items[i]->seed);
        if (!best || score > best_score) {
            best = c->servers.items[i];
            best_score = score;
        }
    }
    if (best)
        atomic_fetch_add_explicit(&best->refs, 1, memory_order_relaxed);
    pthread_mutex_unlock(&c->servers_lock);
    if (best && server_rests(best)) {
        server_unref(best);
        best = NULL;
    }
    return best;
}

/* --- connections --- */

static memcached_st *connection_new(const struct memcached *c, const struct server *s)
{
    memcached_st *m = memcached_create(NULL);
    if (!m)
        return NULL;
    memcached_behavior_set(m, MEMCACHED_BEHAVIOR_NO_BLOCK, 1);
    memcached_behavior_set(m, MEMCACHED_BEHAVIOR_TCP_NODELAY, 1);
    memcached_behavior_set(m, MEMCACHED_BEHAVIOR_CONNECT_TIMEOUT, (uint64_t)c->connect_timeout_ms);
    memcached_behavior_set(m, MEMCACHED_BEHAVIOR_POLL_TIMEOUT, (uint64_t)c->timeout_ms);
    memcached_behavior_set(m, MEMCACHED_BEHAVIOR_RETRY_TIMEOUT, 0);
    if (memcached_server_add(m, s->host, s->port) == MEMCACHED_SUCCESS)
        return m;
    memcached_free(m);
    return NULL;
}

static memcached_st *connection_take(const struct memcached *c, struct server *s)
{
    memcached_st *m = NULL;
    pthread_mutex_lock(&s->lock);
    if (s->n_idle)
        m = s->idle[--s->n_idle];
    pthread_mutex_unlock(&s->lock);
    return m ? m : connection_new(c, s);
}

static void connection_give(struct server *s, memcached_st *m, bool good)
{
    server_was_good(s, good);
    pthread_mutex_lock(&s->lock);
    if (good && s->n_idle < s->cap_idle) {
        s->idle[s->n_idle++] = m;
        m = NULL;
    }
    pthread_mutex_unlock(&s->lock);
    memcached_free(m);
}

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
        memcached_st *m = connection_take(g->c, s);
        if (!m)
            return;
        connection_give(s, m, get_batch(g, m, which + from, MIN(n - from, g->c->batch)));
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
        of[i] = server_of(g->c, g->wanted[i].hash);
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
    g.end_ms = start_ns / 1000000 + 10 * (int64_t)c->timeout_ms;
    if (ctx && ctx->deadline_ms)
        g.end_ms = MIN(g.end_ms, ctx->deadline_ms);
    if (!gate_enter(c, MIN(g.end_ms, start_ns / 1000000 + c->timeout_ms))) {
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
    struct server *s = server_of(c, w->hash);
    memcached_st *m = s ? connection_take(c, s) : NULL;
    if (!m) {
        metric_inc(c->dropped);
    } else {
        memcached_return_t rc = memcached_set(m, w->key, KEY_BYTES, w->bytes, w->n, (time_t)w->ttl_s, 0);
        bool good = rc == MEMCACHED_SUCCESS || rc == MEMCACHED_STORED || rc == MEMCACHED_BUFFERED;
        /* A server that says no to one value is well. */
        connection_give(s, m, good || rc == MEMCACHED_E2BIG);
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
        if (c->has_names && clock_mono_ms() >= next_ms) {
            find_servers(c);
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
    list_release(&c->servers);
    for (size_t i = 0; i < c->n_addresses; i++)
        free(c->addresses[i]);
    free(c->addresses);
    pthread_mutex_destroy(&c->ring_lock);
    pthread_mutex_destroy(&c->gate_lock);
    pthread_mutex_destroy(&c->servers_lock);
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

static bool address_is_good(const char *address)
{
    const char *colon = strrchr(address, ':');
    char *end;
    long port = colon ? strtol(colon + 1, &end, 10) : 0;
    return colon && colon > address && colon - address < 250 && end != colon + 1 && *end == 0 && port > 0 && port < 65536;
}

static bool check_addresses(const struct cache_config *cfg, const char *flag_prefix, struct err *err)
{
    for (size_t i = 0; i < cfg->memcached_addresses.n; i++) {
        const char *a = cfg->memcached_addresses.items[i];
        if (!address_is_good(strncmp(a, "dns+", 4) == 0 ? a + 4 : a) || strncmp(a, "dnssrv", 6) == 0)
            return err_set(err, ERR_CONFIG, "-%smemcached.addresses: \"%s\" is not host:port or dns+host:port", flag_prefix, a);
    }
    return cfg->memcached_addresses.n || err_set(err, ERR_CONFIG, "-%smemcached.addresses: no server is named", flag_prefix);
}

static void start(struct memcached *c, size_t n_threads)
{
    pthread_condattr_t attr;
    pthread_condattr_init(&attr);
    pthread_condattr_setclock(&attr, CLOCK_MONOTONIC);
    pthread_mutex_init(&c->servers_lock, NULL);
    pthread_mutex_init(&c->gate_lock, NULL);
    pthread_mutex_init(&c->ring_lock, NULL);
    pthread_cond_init(&c->gate_open, &attr);
    pthread_cond_init(&c->ring_filled, &attr);
    pthread_condattr_destroy(&attr);
    if (!c->has_names)
        find_servers(c);
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
    c->timeout_ms = (int32_t)MIN(MAX(cfg->memcached_timeout, 1), 60000);
    c->connect_timeout_ms = (int32_t)MIN(MAX(cfg->memcached_connect_timeout, 1), 60000);
    c->max_idle = (size_t)MIN(MAX(cfg->memcached_max_idle_connections, 1), 10000);
    c->batch = cfg->memcached_max_get_multi_batch_size > 0 ? (size_t)MIN(cfg->memcached_max_get_multi_batch_size, BATCH_MAX) : BATCH_MAX;
    c->max_item_bytes = (size_t)MAX(cfg->memcached_max_item_size, 0);
    c->gate_free = cfg->memcached_max_get_multi_concurrency > 0 ? (size_t)cfg->memcached_max_get_multi_concurrency : SIZE_MAX;
    c->cap_ring = (size_t)MIN(MAX(cfg->memcached_max_async_buffer_size, 1), 1000000);
    c->ring = calloc(c->cap_ring, sizeof(struct waiting *));
    c->n_addresses = cfg->memcached_addresses.n;
    c->addresses = calloc(c->n_addresses, sizeof(char *));
    ASSERT(c->ring && c->addresses);
    for (size_t i = 0; i < c->n_addresses; i++) {
        c->addresses[i] = strdup(cfg->memcached_addresses.items[i]);
        ASSERT(c->addresses[i]);
        c->has_names |= strncmp(c->addresses[i], "dns+", 4) == 0;
    }
    find_metrics(c, labels);
    start(c, (size_t)MIN(MAX(cfg->memcached_max_async_concurrency, 1), PUT_THREADS_MAX));
    return &c->base;
}

#endif
