/* The table of clients. One is kept as long as an instance of the ring has its address, and dropped at a sweep afterwards, with its last request. */
#include "read/peers/peers.h"

#include <stdlib.h>
#include <string.h>

#include "base/assert.h"
#include "base/clock.h"

#define SWEEP_EVERY_MS 10000
#define RENEW_AFTER_MS 250

struct rpc_client_config peer_client_config(const struct peer_client_config *cfg)
{
    return (struct rpc_client_config){
        .max_recv_msg_bytes = cfg->max_recv_msg_size > 0 ? (uint64_t)cfg->max_recv_msg_size : 0,
        .connect_timeout_ms = cfg->connect_timeout,
        .backoff_min_ms = cfg->backoff_base_delay,
        .backoff_max_ms = cfg->backoff_max_delay,
        .compression = cfg->compression,
        .cluster_label = cfg->cluster_label,
        .tls = cfg->tls,
    };
}

void peers_init(struct peers *p, const struct rpc_client_config *cfg, struct metric *gauge)
{
    *p = (struct peers){.clients = rpc_clients_new(cfg), .gauge = gauge, .swept_ms = clock_mono_ms()};
    pthread_mutex_init(&p->lock, NULL);
}

static void peer_free(struct peers *p, struct peer *peer)
{
    rpc_client_free(peer->client);
    free(peer->addr);
    free(peer);
    metric_add(p->gauge, -1);
}

void peers_release(struct peers *p)
{
    for (size_t i = 0; i < p->n; i++) {
        ASSERT(p->items[i]->refs == 0);
        peer_free(p, p->items[i]);
    }
    free(p->items);
    rpc_clients_free(p->clients);
    pthread_mutex_destroy(&p->lock);
}

/* The first place whose address is not below this one. */
static size_t place_of(const struct peers *p, const char *addr)
{
    size_t low = 0, high = p->n;
    while (low < high) {
        size_t mid = low + (high - low) / 2;
        if (strcmp(p->items[mid]->addr, addr) < 0)
            low = mid + 1;
        else
            high = mid;
    }
    return low;
}

static struct peer *insert(struct peers *p, size_t at, const char *addr)
{
    if (p->n == p->cap) {
        p->cap = p->cap ? p->cap * 2 : 16;
        p->items = realloc(p->items, p->cap * sizeof(*p->items));
        ASSERT(p->items);
    }
    struct peer *peer = calloc(1, sizeof(*peer));
    ASSERT(peer);
    peer->addr = strdup(addr);
    ASSERT(peer->addr);
    peer->client = rpc_client_new(p->clients, addr);
    peer->born_ms = clock_mono_ms();
    memmove(&p->items[at + 1], &p->items[at], (p->n - at) * sizeof(*p->items));
    p->items[at] = peer;
    p->n++;
    metric_add(p->gauge, 1);
    return peer;
}

/* Needs the lock. NULL: requests run on it, the last of them frees it. */
static struct peer *take_out(struct peers *p, size_t at)
{
    struct peer *peer = p->items[at];
    memmove(&p->items[at], &p->items[at + 1], (p->n - at - 1) * sizeof(*p->items));
    p->n--;
    peer->dropped = true;
    return peer->refs ? NULL : peer;
}

/*
 * Renewing is for an address that is the last hope: a client that could not connect refuses calls until its back-off is over, though the process may have come back by now. Not
 * more often than four times a second, so that an address that answers nothing does not gather threads that connect to it.
 */
struct peer *peers_get(struct peers *p, const char *addr, bool renew)
{
    struct peer *old = NULL;
    pthread_mutex_lock(&p->lock);
    size_t at = place_of(p, addr);
    bool found = at < p->n && strcmp(p->items[at]->addr, addr) == 0;
    if (found && renew && clock_mono_ms() - p->items[at]->born_ms >= RENEW_AFTER_MS) {
        old = take_out(p, at);
        found = false;
    }
    struct peer *peer = found ? p->items[at] : insert(p, at, addr);
    peer->refs++;
    pthread_mutex_unlock(&p->lock);
    if (old)
        peer_free(p, old);
    return peer;
}

void peers_put(struct peers *p, struct peer *peer)
{
    pthread_mutex_lock(&p->lock);
    bool last = --peer->refs == 0 && peer->dropped;
    pthread_mutex_unlock(&p->lock);
    if (last)
        peer_free(p, peer);
}

static bool in_ring(const struct ring_desc *d, const char *addr)
{
    for (size_t i = 0; i < d->n; i++)
        if (strcmp(d->instances[i].addr, addr) == 0)
            return true;
    return false;
}

/* Takes out of the table whoever has left the ring; those without requests are listed in idle[p->n]. Needs the lock. */
static size_t drop_locked(struct peers *p, const struct ring_desc *d, struct peer **idle)
{
    size_t n = 0, n_idle = 0;
    for (size_t i = 0; i < p->n; i++) {
        struct peer *peer = p->items[i];
        peer->dropped = !in_ring(d, peer->addr);
        if (!peer->dropped)
            p->items[n++] = peer;
        else if (peer->refs == 0)
            idle[n_idle++] = peer;
    }
    p->n = n;
    return n_idle;
}

void peers_sweep(struct peers *p, const struct ring_snapshot *instances)
{
    struct peer **idle = NULL;
    size_t n_idle = 0;
    pthread_mutex_lock(&p->lock);
    if (clock_mono_ms() - p->swept_ms >= SWEEP_EVERY_MS) {
        p->swept_ms = clock_mono_ms();
        idle = calloc(p->n + 1, sizeof(*idle));
        ASSERT(idle);
        n_idle = drop_locked(p, ring_snapshot_desc(instances), idle);
    }
    pthread_mutex_unlock(&p->lock);
    for (size_t i = 0; i < n_idle; i++)
        peer_free(p, idle[i]);
    free(idle);
}

/* --- whom to ask ----------------------------------------------------------------------------------------------------------------- */

void peers_note_silence(struct peers *p, struct peer *peer, int64_t until_ms)
{
    pthread_mutex_lock(&p->lock);
    peer->silent_until_ms = MAX(peer->silent_until_ms, until_ms);
    int64_t last_ms = atomic_load_explicit(&p->silent_until_ms, memory_order_relaxed);
    atomic_store_explicit(&p->silent_until_ms, MAX(last_ms, until_ms), memory_order_relaxed);
    pthread_mutex_unlock(&p->lock);
}

bool peers_is_silent(struct peers *p, const char *addr, int64_t now_ms)
{
    if (now_ms >= atomic_load_explicit(&p->silent_until_ms, memory_order_relaxed))
        return false;
    pthread_mutex_lock(&p->lock);
    size_t at = place_of(p, addr);
    bool is = at < p->n && strcmp(p->items[at]->addr, addr) == 0 && now_ms < p->items[at]->silent_until_ms;
    pthread_mutex_unlock(&p->lock);
    return is;
}

bool peer_zone_is_preferred(const struct flag_list *zones, const char *own, const char *zone)
{
    if (!zones || zones->n == 0)
        return own[0] && strcmp(own, zone) == 0;
    for (size_t i = 0; i < zones->n; i++)
        if (strcmp(zones->items[i], zone) == 0)
            return true;
    return false;
}

uint64_t peer_random(uint64_t *state)
{
    uint64_t x = *state += 0x9e3779b97f4a7c15u;
    x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9u;
    x = (x ^ (x >> 27)) * 0x94d049bb133111ebu;
    return x ^ (x >> 31);
}

/* --- how calls end --------------------------------------------------------------------------------------------------------------- */

struct slice peer_status_class(int code)
{
    if (code == RPC_OK)
        return SL("2xx");
    if (code == RPC_CANCELED)
        return SL("cancel");
    if (code >= 400 && code < 500)
        return SL("4xx");
    return code >= 500 && code < 600 ? SL("5xx") : SL("error");
}

bool peer_err_of_status(const struct rpc_status *st, struct err *err)
{
    char name[RPC_CODE_NAME_MAX];
    enum err_code code = ERR_UNAVAILABLE;
    if (st->code == RPC_DEADLINE_EXCEEDED)
        code = ERR_TIMEOUT;
    else if (st->code == RPC_INVALID_ARGUMENT || (st->code >= 400 && st->code < 500 && st->code != 429))
        code = ERR_EXECUTION;
    else if (st->code != RPC_UNAVAILABLE)
        code = ERR_INTERNAL;
    if (code == ERR_EXECUTION)
        return err_set(err, code, "%s", st->text);
    return err_set(err, code, "rpc error: code = %s desc = %s", rpc_code_name(st->code, name), st->text);
}

bool peer_err_is_final(const struct err *err)
{
    int status = err_http_status(err->code);
    return status >= 400 && status < 500 && status != 429 && status != 499;
}
