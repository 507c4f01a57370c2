/* What the memcached back end is made of: servers with their connections (memcached_servers.c), gets and puts (memcached.c). */
#pragma once

#include <libmemcached/memcached.h>
#include <pthread.h>
#include <stdatomic.h>

#include "storage/cache/cache_int.h"

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

struct server_list {
    struct server **items; /* owned, with a reference each */
    size_t n;
};

struct servers {
    char **addresses; /* owned, n_addresses */
    size_t n_addresses;
    bool has_names; /* some address is to be looked up */
    int32_t timeout_ms, connect_timeout_ms;
    size_t max_idle; /* connections of a server */
    pthread_mutex_t lock;
    struct server_list list; /* guarded by lock; changed by one thread alone */
};

/* Addresses must be good. Those that are no names are there at once, the others after servers_look_up. */
bool server_address_is_good(const char *address);
void servers_init(struct servers *s, const struct cache_config *cfg);
void servers_release(struct servers *s);
/* Makes the list anew. One thread at a time; the others go on meanwhile. */
void servers_look_up(struct servers *s);
/* The one that has the keys of this hash, with a reference; NULL when there is none, or when it rests. */
struct server *servers_find(struct servers *s, uint64_t hash);
bool server_rests(struct server *s);
void server_unref(struct server *s);
/* An unused connection, or a new one that connects when it is used; NULL: no memory. */
memcached_st *server_take(const struct servers *s, struct server *of);
void server_give(struct server *s, memcached_st *m, bool good);
