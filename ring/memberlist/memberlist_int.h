/* One process of the cluster: the core, its lock, its sockets and threads. README.md says who owns what. */
#pragma once

#include <pthread.h>
#include <stdatomic.h>

#include "ring/memberlist/core_int.h"
#include "ring/memberlist/memberlist.h"

enum conn_kind { CONN_IN, CONN_OUT_PACKET, CONN_OUT_STREAM };

/* One TCP connection: one packet, or one question and its answer. Owned by the event thread. */
struct conn {
    struct conn *next;
    int fd;
    enum conn_kind kind;
    bool is_join;
    bool dialed;  /* a packet's connection stands: its deadline is now that of writing */
    bool writing; /* what out holds goes before anything else is read */
    bool dead;    /* closed at the end of the round */
    struct buf in;
    size_t need_bytes; /* not worth a look before in has so many */
    struct buf out;
    size_t out_at;
    int64_t deadline_ms;
};

struct kv_watch {
    char *key;
    bool is_prefix;
    const struct kv_codec *codec;
    kv_watch_fn *fn;
    void *arg;
    bool running;                       /* in fn, without the lock */
    uint64_t seen[MEMBERLIST_KEYS_MAX]; /* version told of the entry of this place */
    int64_t told_ms[MEMBERLIST_KEYS_MAX];
};

struct memberlist {
    struct kv kv;
    struct memberlist_config cfg; /* strings are ours; immutable after new */
    char *strings[6];
    char **seeds, **rejoin_seeds;
    uint16_t port;

    pthread_mutex_t lock;
    pthread_cond_t changed; /* a value, an answer to a join, the end of a watch's call, stopping */
    /* guarded by lock */
    struct core core;
    bool stopping;
    bool joined; /* ever */
    bool first_try_done;
    size_t first_try_reached;
    size_t joins_done; /* join streams of this try that ended, well or not, */
    size_t joins_ok;   /* and well */
    size_t n_out;      /* connections out, as of the last round */
    struct kv_watch *watches[MEMBERLIST_WATCHES_MAX];
    struct memberlist_stats exported; /* what /metrics has been told */
    bool exports;                     /* owned by whoever owns m */

    /* event thread */
    struct conn *conns;
    size_t n_conns_in, n_conns_out;
    int listen_fd, epoll_fd, wake_fd;

    bool started;
    pthread_t event_thread, notify_thread, join_thread;
};

/* --- interfaces.c --- */
/* This machine's first address that others can reach: private IPv4, then other IPv4, then IPv6. False: there is none.
 */
bool first_private_addr(struct gossip_addr *ret);
/* --- event.c --- */
bool event_init(struct memberlist *m, struct err *err); /* binds, listens, sets m->port */
void event_release(struct memberlist *m);
void *event_main(void *m);
void event_wake(struct memberlist *m);
/* --- join.c --- */
void *join_main(void *m);
/* --- values.c --- */
extern const struct kv_ops memberlist_kv_ops;
void *notify_main(void *m);
/* Calls that watchers wait for. With the lock held. */
size_t values_pending(const struct memberlist *m);
/* --- metrics.c --- */
void metrics_withdraw(struct memberlist *m);
