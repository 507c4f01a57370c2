/*
 * Servers of the memcached back end, and connections to them.
 *
 * Each server has a stack of unused connections (libmemcached handles of one server). A connection that failed is closed; after FAILS_MAX failures in a row
 * nothing is asked of the server for REST_MS: a dead server costs one timeout a second, not one a get. A key belongs to the server whose own hash with the
 * key's is the highest, so that a server that goes takes only its own keys along.
 */
#ifdef BRUNN_MEMCACHED

#include "storage/cache/memcached_int.h"

#include <arpa/inet.h>
#include <netdb.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define XXH_INLINE_ALL
#include <xxhash.h>

#include "base/assert.h"
#include "base/clock.h"
#include "base/logger.h"

#define FAILS_MAX 3
#define REST_MS 1000

/* --- one server --- */

void server_unref(struct server *s)
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

bool server_rests(struct server *s)
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

/* --- connections --- */

static memcached_st *connection_new(const struct servers *c, const struct server *s)
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

memcached_st *server_take(const struct servers *s, struct server *of)
{
    memcached_st *m = NULL;
    pthread_mutex_lock(&of->lock);
    if (of->n_idle)
        m = of->idle[--of->n_idle];
    pthread_mutex_unlock(&of->lock);
    return m ? m : connection_new(s, of);
}

void server_give(struct server *s, memcached_st *m, bool good)
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

/* --- addresses --- */

static bool is_name(const char *address)
{
    return strncmp(address, "dns+", 4) == 0;
}

bool server_address_is_good(const char *address)
{
    const char *host = is_name(address) ? address + 4 : address, *colon = strrchr(host, ':');
    char *end;
    long port = colon ? strtol(colon + 1, &end, 10) : 0;
    return colon && colon > host && colon - host < 250 && end != colon + 1 && *end == 0 && port > 0 && port < 65536 && strncmp(host, "dnssrv", 6) != 0;
}

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

static void look_up(struct servers *s, const char *address, const struct server_list *old, struct server_list *l)
{
    char host[256], text[INET6_ADDRSTRLEN];
    in_port_t port = split(address, host, sizeof(host));
    struct addrinfo hints = {.ai_socktype = SOCK_STREAM}, *found = NULL;
    int rc = getaddrinfo(host, NULL, &hints, &found);
    if (rc != 0)
        LOG_WARN("memcached: a host has no address", {"host", LOG_STR(host)}, {"error", LOG_STR(gai_strerror(rc))});
    for (struct addrinfo *a = found; a; a = a->ai_next)
        if (getnameinfo(a->ai_addr, a->ai_addrlen, text, sizeof(text), NULL, 0, NI_NUMERICHOST) == 0)
            list_add(l, old, text, port, s->max_idle);
    if (found)
        freeaddrinfo(found);
}

/* A name that has no address now keeps nothing: the servers of the others have its keys. */
void servers_look_up(struct servers *s)
{
    struct server_list fresh = {0}, old;
    pthread_mutex_lock(&s->lock);
    old = s->list;
    pthread_mutex_unlock(&s->lock);
    for (size_t i = 0; i < s->n_addresses; i++) {
        const char *address = s->addresses[i];
        char host[256];
        if (is_name(address))
            look_up(s, address + 4, &old, &fresh);
        else
            list_add(&fresh, &old, host, split(address, host, sizeof(host)), s->max_idle);
    }
    pthread_mutex_lock(&s->lock);
    s->list = fresh;
    pthread_mutex_unlock(&s->lock);
    list_release(&old);
}

struct server *servers_find(struct servers *s, uint64_t hash)
{
    struct server *best = NULL;
    uint64_t best_score = 0;
    pthread_mutex_lock(&s->lock);
    for (size_t i = 0; i < s->list.n; i++) {
        uint64_t score = XXH3_64bits_withSeed(&hash, sizeof(hash), s->list.items[i]->seed);
        if (!best || score > best_score) {
            best = s->list.items[i];
            best_score = score;
        }
    }
    if (best)
        atomic_fetch_add_explicit(&best->refs, 1, memory_order_relaxed);
    pthread_mutex_unlock(&s->lock);
    if (best && server_rests(best)) {
        server_unref(best);
        best = NULL;
    }
    return best;
}

void servers_init(struct servers *s, const struct cache_config *cfg)
{
    *s = (struct servers){.n_addresses = cfg->memcached_addresses.n};
    s->timeout_ms = (int32_t)MIN(MAX(cfg->memcached_timeout, 1), 60000);
    s->connect_timeout_ms = (int32_t)MIN(MAX(cfg->memcached_connect_timeout, 1), 60000);
    s->max_idle = (size_t)MIN(MAX(cfg->memcached_max_idle_connections, 1), 10000);
    s->addresses = calloc(s->n_addresses, sizeof(char *));
    ASSERT(s->addresses);
    for (size_t i = 0; i < s->n_addresses; i++) {
        s->addresses[i] = strdup(cfg->memcached_addresses.items[i]);
        ASSERT(s->addresses[i]);
        s->has_names |= is_name(s->addresses[i]);
    }
    pthread_mutex_init(&s->lock, NULL);
    if (!s->has_names)
        servers_look_up(s);
}

void servers_release(struct servers *s)
{
    list_release(&s->list);
    for (size_t i = 0; i < s->n_addresses; i++)
        free(s->addresses[i]);
    free(s->addresses);
    pthread_mutex_destroy(&s->lock);
}

#endif
