/*
 * The processes that a querier calls: one gRPC client an address, kept as long as an instance of a ring has that address; and how calls to them end.
 *
 * Any thread may call. One lock guards the table for the time of a look-up; clients are freed outside of it.
 */
#pragma once

#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/err.h"
#include "base/flags.h"
#include "base/metrics.h"
#include "net/rpc/rpc.h"
#include "net/tls.h"
#include "ring/ring.h"

/* Who has a kind of peers makes rows of read/peers/client_flags.def under its own names, and of net/tls_flags.def for tls. */
struct peer_client_config {
#define FLAG FLAG_FIELD
#include "read/peers/client_flags.def"
#undef FLAG
    struct tls_client_config tls;
};
struct rpc_client_config peer_client_config(const struct peer_client_config *cfg);

struct peer {
    char *addr;
    struct rpc_client *client;
    int64_t born_ms;
    int64_t silent_until_ms; /* clock_mono_ms(), guarded by peers.lock; 0: it has not been silent */
    size_t refs;  /* requests that run, guarded by peers.lock */
    bool dropped; /* not in the ring any more and so not in the table: goes with its last request; the same lock */
};

struct peers {
    struct rpc_clients *clients;
    struct metric *gauge; /* how many clients there are */
    pthread_mutex_t lock;
    /* Guarded by lock. */
    struct peer **items; /* by address */
    size_t n;
    size_t cap;
    int64_t swept_ms;
    atomic_int_least64_t silent_until_ms; /* when the last silence is forgotten; relaxed: whoever reads an old one asks a silent peer once more */
};

/* gauge is counted up and down; it lives as long as the process. */
void peers_init(struct peers *p, const struct rpc_client_config *cfg, struct metric *gauge);
/* No request may run. */
void peers_release(struct peers *p);
/* The address's peer, with a reference for a request. renew: one that connects at once, whatever happened before (at most four times a second). */
struct peer *peers_get(struct peers *p, const char *addr, bool renew);
void peers_put(struct peers *p, struct peer *peer);
/* Drops those that are in the ring no longer; does something at most every ten seconds, so call it with every query. */
void peers_sweep(struct peers *p, const struct ring_snapshot *instances);

/* --- whom to ask ------------------------------------------------------------------------------------------------------------------------- */

/* It did not answer in time: until then (clock_mono_ms()) others are better asked first. */
void peers_note_silence(struct peers *p, struct peer *peer, int64_t until_ms);
/* Is that so at this time? Costs nothing while nobody is silent. */
bool peers_is_silent(struct peers *p, const char *addr, int64_t now_ms);

/* Is the zone one of those to be asked first? Without a list that is the own one. */
bool peer_zone_is_preferred(const struct flag_list *zones, const char *own, const char *zone);
/* splitmix64: good enough to spread load, and needs no state but *state. */
uint64_t peer_random(uint64_t *state);

/* --- how calls end ------------------------------------------------------------------------------------------------------------------------ */

/* Mimir's value of the label status_code for the end of a call: "2xx", "4xx", "5xx", "cancel", "error". */
struct slice peer_status_class(int code);
/* A status that is not OK as an error: ERR_TIMEOUT, ERR_UNAVAILABLE, ERR_INTERNAL with Go's text; ERR_EXECUTION with the bare text for what is the query's own
 * fault. Returns false. */
bool peer_err_of_status(const struct rpc_status *st, struct err *err);
/* Whoever were asked would say the same. */
bool peer_err_is_final(const struct err *err);
