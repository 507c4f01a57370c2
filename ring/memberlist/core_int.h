/*
 * The protocol without sockets, threads or clocks: packets and streams come in as bytes, what shall be sent lies in an
 * outbox, time is told. memberlist.c puts sockets, a lock and a thread around it; tests put a simulated network around
 * many of them.
 *
 * A node's state, and the function that makes the step (nodes.c):
 *
 *     alive ──core_suspect──> suspect ──timer, core_dead──> dead ──30 s, core_reap──> forgotten
 *       ^ ^                      |                           |
 *       | └──────core_alive──────┘ newer incarnation         |
 *       └────────────────────────core_alive──────────────────┘
 *     alive, suspect ──core_dead from the node itself──> left ──30 s, core_reap──> forgotten
 *
 * Owned by whoever holds memberlist.lock; a test owns its own.
 */
#pragma once

#include "ring/memberlist/memberlist.h"
#include "ring/memberlist/wire_int.h"

#define CORE_RELAYS_MAX 256
#define CORE_OUTBOX_MAX 1024
#define CORE_SUSPICION_K 2
#define CORE_AWARENESS_MAX 7
#define CORE_INDIRECT_PROBES 3
#define CORE_PACKET_MAX_BYTES ((size_t)10 << 20)

struct gossip_addr {
    uint8_t n; /* 4 or 16, as the node told it */
    uint8_t ip[16];
    uint16_t port;
};

struct node {
    char *name;
    uint32_t name_hash;
    struct gossip_addr addr;
    uint16_t meta_n;
    bool meta_nil;
    char meta[WIRE_META_MAX_BYTES];
    uint8_t vsn[WIRE_VSN_BYTES];
    uint32_t incarnation;
    enum node_state state;
    int64_t changed_ms;
    /* while suspect */
    int64_t suspect_deadline_ms; /* 0 = no timer */
    int64_t suspect_min_ms, suspect_max_ms;
    int suspect_k;
    int suspect_n;                               /* confirmations */
    uint32_t suspect_from[CORE_SUSPICION_K + 1]; /* hashes of the names that said it, the first accuser included */
};

struct broadcast {
    char *name; /* node, or key of the store */
    char *bytes;
    size_t n;
    int transmits;
    uint64_t id;        /* newer = higher */
    uint64_t version;   /* store: version of the value */
    struct buf content; /* store: names of the entries, each NUL-ended, sorted by the codec's own order */
};
struct queue {
    struct broadcast **items;
    size_t n, cap, bytes;
    size_t max_items, max_bytes;
    uint64_t next_id;
};

struct outgoing {
    struct gossip_addr to;
    bool is_stream;
    bool is_join;
    struct buf bytes; /* all that is written, the first byte included */
};

struct relay {
    uint32_t seq, for_seq;
    struct gossip_addr back_to;
    bool nack;
    int64_t deadline_ms; /* 0 = free */
};

struct probe {
    uint32_t seq; /* 0 = none under way */
    char *name;
    bool indirect;
    int64_t indirect_at_ms, deadline_ms;
    int nacks_expected, nacks;
};

struct entry {
    char *key; /* NULL = free slot */
    const struct kv_codec *codec;
    void *value;
    uint64_t version;
    bool deleted;
    int64_t update_time_ms;
    uint64_t tombstones_removed; /* ever */
};

struct core {
    struct memberlist_config cfg; /* strings belong to memberlist, or to the test */
    struct kv_codecs codecs;
    char *name;
    struct gossip_addr addr;
    char addr_text[64];
    struct slice meta;
    char meta_bytes[32];
    int64_t now_ms, wall_ms;
    uint64_t random;

    struct node **nodes; /* nodes[0] may be anybody */
    size_t n_nodes;
    struct node *self;
    uint32_t incarnation;
    uint32_t seq;
    int awareness;
    bool leaving, left;

    struct queue node_queue, local_queue, forward_queue;
    struct probe probe;
    size_t probe_index;
    struct relay relays[CORE_RELAYS_MAX];
    int64_t next_gossip_ms, next_probe_ms, next_push_pull_ms, next_clean_ms;

    struct outgoing outbox[CORE_OUTBOX_MAX];
    size_t n_outbox;

    struct entry entries[MEMBERLIST_KEYS_MAX];
    uint64_t version; /* of the newest change of any key */
    struct memberlist_stats stats;
};

/* addr is what others are told; random is any number. */
void core_init(struct core *c, const struct memberlist_config *cfg, const struct kv_codecs *codecs, const char *name,
               const struct gossip_addr *addr, uint64_t random, int64_t now_ms, int64_t wall_ms);
void core_release(struct core *c);
/* Does what is due. */
void core_tick(struct core *c, int64_t now_ms, int64_t wall_ms);
/* When the next thing will be due. */
int64_t core_next_ms(const struct core *c);
/* The frame after its first byte 01. */
void core_on_packet(struct core *c, struct slice frame);
/* The stream after its first byte 02, as far as it came. OK: reply is what to answer (perhaps nothing). SHORT:
 * *ret_need bytes are needed at least. */
enum wire_result core_on_stream(struct core *c, struct slice in, struct buf *reply, size_t *ret_need);
/* The server's answer to our push/pull. */
enum wire_result core_on_reply(struct core *c, struct slice in, size_t *ret_need);
void core_join(struct core *c, const struct gossip_addr *to);
/* Says good-bye; it is told when core_left_told. */
void core_leave(struct core *c);
bool core_left_told(const struct core *c);
/* What this process changed has been told often enough, or there is nobody to tell. */
bool core_changes_told(const struct core *c);

/* --- nodes.c --- */
struct node *core_find(struct core *c, struct slice name);
void core_alive(struct core *c, const struct wire_msg *m, bool is_bootstrap);
void core_suspect(struct core *c, struct slice name, struct slice from, uint32_t incarnation);
void core_dead(struct core *c, struct slice name, struct slice from, uint32_t incarnation);
void core_check_suspects(struct core *c);
void core_reap(struct core *c);
void node_to_wire(const struct node *n, struct wire_msg *ret_m);
uint64_t core_random(struct core *c);
/*
 * Zone-aware routing: whether gossip, probes and push/pull go from here to that node. Members talk inside their zone,
 * bridges to the bridges of other zones too. Nodes without a zone are talked to by all, and all talk to all while our
 * zone has no bridge that lives: it would be cut off.
 */
bool core_zone_talks(const struct core *c, const struct node *n);
/* Up to max nodes that ok says yes to, at random, never ourselves. */
size_t core_pick(struct core *c, bool (*ok)(const struct core *c, const struct node *n, const void *arg),
                 const void *arg, struct node **ret, size_t max);
uint32_t name_hash(struct slice name);
void *must(void *p); /* p, which out of memory has not made NULL */

/* --- probe.c --- */
void core_probe_tick(struct core *c);
void core_on_ping(struct core *c, const struct wire_msg *m, const struct gossip_addr *from);
void core_on_indirect_ping(struct core *c, const struct wire_msg *m, const struct gossip_addr *from);
void core_on_ack(struct core *c, uint32_t seq);
void core_on_nack(struct core *c, uint32_t seq);
void core_awareness_add(struct core *c, int delta);

/* --- send.c --- */
int core_transmit_limit(const struct core *c);
void core_send(struct core *c, const struct gossip_addr *to, bool crc, const struct slice *messages, size_t n);
/* One message and as many broadcasts as fit. */
void core_send_piggyback(struct core *c, const struct gossip_addr *to, struct slice message);
void core_gossip(struct core *c);
void core_push_pull(struct core *c, const struct gossip_addr *to, bool is_join);
void core_state(struct core *c, bool is_join, struct buf *out);
void core_send_stream(struct core *c, const struct gossip_addr *to, bool is_join, struct slice message);
bool addr_from_wire(struct slice ip, uint16_t port, struct gossip_addr *ret);
bool addr_from_text(struct slice text, struct gossip_addr *ret);
void addr_to_text(const struct gossip_addr *a, char *ret, size_t n);

/* --- queue.c --- */
/* Takes b over. Drops what it replaces: the same name and, with a version, a subset of the names and no higher version.
 */
bool queue_add(struct queue *q, struct broadcast *b);
struct broadcast *broadcast_new(struct slice name, struct slice bytes);
/* Up to max messages that together are at most *budget bytes (2 for each are counted), the least transmitted first;
 * valid until the next call. */
size_t queue_take(struct queue *q, int transmit_limit, size_t *budget, struct slice *ret, size_t max);
bool queue_has(const struct queue *q, struct slice name, int transmit_limit);
size_t queue_pending(const struct queue *q, int transmit_limit);
void queue_release(struct queue *q);

/* --- store.c --- */
void store_on_pair(struct core *c, struct slice bytes);
void store_put_state(struct core *c, struct buf *out);
struct entry *store_find(struct core *c, struct slice key);
/* Merges incoming (which is not taken over) and queues what changed; false when there is no room for another key. */
bool store_merge(struct core *c, struct slice key, const struct kv_codec *codec, const void *incoming, bool is_local,
                 bool is_cas, bool deleted, int64_t update_time_ms);
void store_remove(struct core *c, struct slice key);
void store_clean(struct core *c);
void store_release(struct core *c);
