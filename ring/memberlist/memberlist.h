/*
 * Gossip: hashicorp/memberlist's protocol over dskit's TCP transport, and dskit's key-value store on top of it. A
 * process that speaks it is a member of a cluster of Mimirs, Loki and the like (docs/formats.md section 5): it hears
 * who is there and who died, and shares the documents of ring/kv.h.
 *
 * No broker, no leader: each process has all keys, changes are merged (the codec's merge) and told on. A change reaches
 * everybody within a few gossip intervals; every 30 s two processes exchange all they have, which repairs what was
 * lost.
 *
 * README.md tells the story, the threads and the locks.
 */
#pragma once

#include <stdbool.h>
#include <stdint.h>

#include "base/err.h"
#include "base/flags.h"
#include "ring/kv.h"

/* The flags -memberlist.*; memberlist_config_from_flags makes a configuration of them. */
struct memberlist_flags_config {
#define FLAG FLAG_FIELD
#include "ring/memberlist/memberlist_flags.def"
#undef FLAG
};
extern const struct flag_def memberlist_flags[];
extern const size_t memberlist_flags_n;

enum memberlist_role { MEMBERLIST_NO_ZONE, MEMBERLIST_MEMBER, MEMBERLIST_BRIDGE };

/* Strings are copied by memberlist_new. Defaults are dskit's, from memberlist_config_default. */
struct memberlist_config {
    const char *node_name;      /* "" = host name */
    bool randomize_node_name;   /* appends - and 8 hex digits, so that a restart is a new node */
    const char *bind_addr;      /* an IP address; "" = all */
    uint16_t bind_port;         /* 0 = any free one */
    const char *advertise_addr; /* an IP address; "" = the bind address if it is definite, else this machine's first
                                 * private one */
    uint16_t advertise_port;    /* 0 = the bind port */
    const char *cluster_label;  /* at most 255 bytes */
    bool cluster_label_verification_disabled;
    bool compression_enabled;
    const char *zone; /* at most 16 bytes; told to others with the role */
    enum memberlist_role role;

    /* host:port, host (our bind port), dns+host:port, dnssrv+name, dnssrvnoa+name */
    const char *const *join;
    size_t n_join;
    const char *const *rejoin_seeds; /* whom to ask at the rejoin interval; none = those of join */
    size_t n_rejoin_seeds;
    int64_t min_join_backoff_ms;
    int64_t max_join_backoff_ms;
    int max_join_retries;
    int64_t rejoin_interval_ms; /* 0 = never */
    size_t
        fast_join_min_nodes;  /* memberlist_start fails when the first try reaches fewer; 0 = it never does for that */
    bool abort_if_join_fails; /* when no try has reached anybody, on_join_failed is called, once, by the join thread */
    void (*on_join_failed)(void *arg);
    void *on_join_failed_arg;

    int64_t gossip_interval_ms;
    size_t gossip_nodes;
    int64_t gossip_to_dead_ms;
    int64_t probe_interval_ms;
    int64_t probe_timeout_ms;
    int64_t push_pull_interval_ms; /* 0 = never */
    int retransmit_factor;
    int64_t stream_timeout_ms;
    int64_t packet_dial_timeout_ms;
    int64_t packet_write_timeout_ms;
    int64_t notify_interval_ms;          /* a watch hears of one key at most once in this time; 0 = at once */
    int64_t broadcast_timeout_ms;        /* leaving waits so long for our last changes to be told, */
    int64_t leave_timeout_ms;            /* and then so long for the good-bye */
    int64_t dead_node_reclaim_ms;        /* 0 = never */
    int64_t left_ingesters_timeout_ms;   /* tombstones older than this go */
    int64_t obsolete_entries_timeout_ms; /* deleted keys go after this */

    /* Limits. What does not fit is dropped and counted; the next push/pull repairs it. */
    size_t max_nodes;
    size_t max_keys; /* at most MEMBERLIST_KEYS_MAX */
    size_t max_queued_messages;
    size_t max_queued_bytes;
    size_t max_connections_in;
    size_t max_connections_out;

    /* For tests: whether a packet or stream to this port may leave. NULL = all may. */
    bool (*may_reach)(void *arg, uint16_t port);
    void *may_reach_arg;
};

#define MEMBERLIST_KEYS_MAX 256
#define MEMBERLIST_WATCHES_MAX 256
#define MEMBERLIST_GOSSIP_NODES_MAX 16

void memberlist_config_default(struct memberlist_config *cfg);
/* Points into flags, which must stay until memberlist_new. ERR_CONFIG names the flag. on_join_failed is left NULL. */
bool memberlist_config_from_flags(const struct memberlist_flags_config *flags, struct memberlist_config *ret,
                                  struct err *err);

struct memberlist;

/* Binds and listens; nothing moves yet. The codecs are copied. NULL and ERR_CONFIG or ERR_IO otherwise. */
struct memberlist *memberlist_new(const struct memberlist_config *cfg, const struct kv_codecs *codecs, struct err *err);
/*
 * Starts the threads and waits for the first try to join, so that who starts after us finds the rings as the others
 * know them: as long as the resolver takes, and twice stream_timeout_ms. Further tries are made in the background.
 * False when a thread cannot be started, or (ERR_UNAVAILABLE) fast_join_min_nodes asks for more than answered.
 */
bool memberlist_start(struct memberlist *m, struct err *err);
/* Tells the others what we changed last, and that we go (broadcast_timeout_ms and leave_timeout_ms at most). No traffic
 * afterwards. */
void memberlist_leave(struct memberlist *m);
/* Stops the threads, without telling anybody if leave was not called, and frees. All watches must be gone. NULL is
 * fine. */
void memberlist_free(struct memberlist *m);

uint16_t memberlist_port(const struct memberlist *m);
const char *memberlist_node_name(const struct memberlist *m);
/* True once a seed has answered; waits at most timeout_ms. */
bool memberlist_wait_joined(struct memberlist *m, int64_t timeout_ms);

/* The store; it lives as long as m, kv_free on it does nothing. */
struct kv *memberlist_kv(struct memberlist *m);

struct memberlist_member {
    char name[256];
    char addr[64];     /* ip:port */
    const char *state; /* "alive", "suspect", "dead", "left" */
    uint32_t incarnation;
    int64_t state_age_ms;
};
/* At most max members, ourselves included; returns how many there are. */
size_t memberlist_members(struct memberlist *m, struct memberlist_member *ret, size_t max);

struct memberlist_stats {
    uint64_t packets_in, packet_bytes_in;
    uint64_t packets_in_errors; /* malformed, wrong label or checksum, limits, too slow */
    uint64_t packets_out, packet_bytes_out;
    uint64_t packets_out_errors; /* failed connections */
    uint64_t packets_unsent;     /* no room in the outbox */
    uint64_t streams_in, streams_out, streams_failed;
    uint64_t unknown_connections;
    uint64_t bytes_in, bytes_out; /* of packets and streams */
    uint64_t state_pushes, state_push_bytes;
    uint64_t state_pulls, state_pull_bytes;
    uint64_t user_messages_in, user_bytes_in, user_invalid; /* changes of values that came in packets */
    uint64_t cas_attempts, cas_successes, cas_failures;
    uint64_t bad_digests; /* processed all the same */
    uint64_t broadcasts_dropped;
    uint64_t conflicts;  /* two processes of one name */
    uint64_t bad_values; /* keys or codecs that are unknown, values that are damaged */
    size_t queued;
    int awareness; /* 0 = we are well */
};
void memberlist_stats(struct memberlist *m, struct memberlist_stats *ret);

/* From now on /metrics shows this member, under Mimir's names, until it is freed. One member of a process at a time. */
void memberlist_metrics_export(struct memberlist *m);
