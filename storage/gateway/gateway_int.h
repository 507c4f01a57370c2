/* The parts of the store-gateway. README.md says how they fit together. */
#pragma once

#include <pthread.h>
#include <stdatomic.h>

#include "base/assert.h"
#include "base/pool.h"
#include "ring/lifecycler.h"
#include "storage/bucket/bucket.h"
#include "storage/downsample/downsample.h"
#include "storage/gateway/gateway.h"

#define METRICS_ROOM gateway
#define METRICS_DEF "storage/gateway/gateway_metrics.def"
#include "base/metrics_table.h"

#define GATEWAY_COMPONENT SL("store-gateway")
/* A family whose only label is the component. */
struct metric *gateway_metric(enum gateway_metric_id id);
/* Always false. */
bool gateway_no_memory(struct err *err);
/* Waits on cond, whose clock is the monotonic one, for at most ms. */
void gateway_wait(pthread_cond_t *cond, pthread_mutex_t *lock, int64_t ms);
void gateway_cond_init(pthread_cond_t *cond);

/* --- gates: so many at a time, the others wait in line (gate.c) ---------------------------------------------------------------- */

struct gate {
    int64_t max;        /* 0: no limit */
    int64_t timeout_ms; /* 0: as long as the deadline allows */
    const char *name;
    struct metric *in_flight, *seconds_admitted;
    pthread_mutex_t lock;
    pthread_cond_t freed;
    int64_t n; /* within; under the lock */
};
void gate_init(struct gate *g, const char *name, int64_t max, int64_t timeout_ms);
void gate_release(struct gate *g);
/* ERR_UNAVAILABLE after the timeout, or ctx's own end. */
bool gate_enter(struct gate *g, const struct ctx *ctx, struct err *err);
void gate_leave(struct gate *g);

/*
 * fn(arg, i) for each i below n, by this thread and, when that has taken it alone_us, those of the pool that are idle; returns when all are done. pool may be NULL. Never waits for a
 * thread to become idle.
 */
void together(struct pool *pool, int64_t alone_us, size_t n, void (*fn)(void *arg, size_t i), void *arg);

/* --- the blocks that are served (table.c) --------------------------------------------------------------------------------------- */

/* BUSY: one thread opens or prepares it, without the lock. */
enum served_state { SERVED_CLOSED, SERVED_BUSY, SERVED_OPEN };

/* Where a block comes from, as the bucket index says. */
struct block_origin {
    char source[24];
    uint32_t level;
    bool out_of_order;
};

struct served_block {
    struct ulid id;
    int64_t min_t, max_t; /* ms; max exclusive */
    char *tenant;         /* these are immutable */
    char *dir;
    struct block_origin origin;
    /* under the gateway's lock */
    unsigned refs; /* the table's, and one of each who uses it */
    enum served_state state;
    struct store_block *open; /* in SERVED_OPEN: our reference */
    bool prepared;            /* its index-header has been made */
    int64_t prepare_after_ms; /* monotonic; not again before */
    int64_t used_ms;          /* monotonic; by a query */
};

struct served_tenant {
    char *name;
    struct served_block **blocks; /* by id */
    size_t n;
    int64_t index_s; /* when the bucket index was written that says so; 0: it did not say */
};

/* The gateway's lock guards all of it. Only the thread that syncs changes which tenants and blocks there are. */
struct table {
    struct served_tenant *tenants; /* by name */
    size_t n, cap;
    struct served_block **dropped; /* let go, but perhaps in use; and their folders are still there */
    size_t n_dropped, cap_dropped;
};

#define CATCH_UP_MAX 64

struct gateway {
    const struct gateway_config *cfg;
    const struct gateway_ring_config *ring_cfg;
    const struct limits_provider *limits;
    struct objstore *bucket;
    struct store *store;
    bool alone;
    char *sync_dir; /* owned; immutable */
    struct ring_member_identity self;

    struct gateway_ring *ring; /* owned: our view */
    struct kv *member_kv;      /* owned: what the lifecycler writes to */
    struct lifecycler *lifecycler;
    struct gate queries, loads;
    struct pool *helpers;   /* for requests */
    int64_t alone_us;       /* before a request calls them; immutable */
    struct pool *preparers; /* of index-headers */

    pthread_t thread; /* keep_up.c */
    bool has_thread;  /* owner's */
    bool left;        /* owner's: the ring was left */
    atomic_bool stopping;

    pthread_mutex_t lock;
    pthread_cond_t changed; /* a block's state, or stopping */
    struct table table;
    bool serving;       /* the blocks are known, and we have not been stopped */
    bool ready;         /* ... and the ring says ACTIVE */
    char *behind[CATCH_UP_MAX]; /* tenants whose index is to be read at once (catch_up.c); owned */
    size_t n_behind;
    uint64_t catch_ups_begun, catch_ups_done;
    bool has_caller;    /* the thread looks at behind */
    bool wants_sync;    /* somebody asked for a block that is not here */
    bool prepared_down; /* /store-gateway/prepare-shutdown */
    const char *waits_for; /* static text, for gateway_ready */
};

static inline bool gateway_stopping(struct gateway *g)
{
    return atomic_load_explicit(&g->stopping, memory_order_acquire);
}

/* The tenant's entry or NULL. Under the lock. */
struct served_tenant *table_find(const struct table *t, struct slice tenant);
struct served_block *served_find(const struct served_tenant *t, const struct ulid *id);
/* What is wanted of a block that the tenant shall have. */
struct wanted_block {
    struct ulid id;
    int64_t min_t, max_t;
    struct block_origin origin;
};
/* Makes the tenant's blocks these (by id, no doubles), of an index that was written then. The syncing thread's; takes the lock. */
void table_set(struct gateway *g, struct slice tenant, const struct wanted_block *wanted, size_t n, int64_t index_s);
/* Frees what was dropped and is no longer in use, with its files. The syncing thread's; takes the lock. */
void table_reap(struct gateway *g);
/* Removes folders below sync_dir that are of no block. The syncing thread's. */
void table_clear_folders(struct gateway *g);
/* With lazy loading: closes what no query has needed for long. */
void table_close_idle(struct gateway *g);
/* Has the next few index-headers made that are missing. */
void table_prepare(struct gateway *g);
void table_free(struct gateway *g);
/* Gives a reference back. */
void served_unref(struct gateway *g, struct served_block *b);
/* Open, by us or whoever is at it; one reference of the store's block for the caller. */
struct store_block *served_open(struct gateway *g, struct served_block *b, const struct ctx *ctx, struct err *err);

/* --- what is ours (owner.c) ------------------------------------------------------------------------------------------------------- */

/* The ring at one moment. */
struct ownership {
    struct ring_snapshot *ring; /* owned */
    const char *self;
    int64_t now_ms;
    bool healthy; /* we are in the ring, and alive */
};
void ownership_take(struct ownership *o, struct ring *ring, const char *self, int64_t now_ms);
void ownership_release(struct ownership *o);
/* Whether anything of the tenant may be ours; shard is the tenant's part of the ring. */
bool ownership_of_tenant(const struct ownership *o, const struct ring_snapshot *shard);
/* Whether the block shall be here. A block that is here stays until somebody else has it, and as long as nobody can say. */
bool ownership_of_block(const struct ownership *o, const struct ring_snapshot *shard, const struct ulid *id, bool is_here);
/* Changes when the ring changes in what ownership looks at; heartbeats do not change it. */
uint64_t ring_fingerprint(const struct ring_snapshot *s, int64_t now_ms);

/* --- keeping up (keep_up.c, sync.c) ---------------------------------------------------------------------------------------------------------- */

/* Looks at all tenants. False: something could not be read, and what is here of it stays. */
bool gateway_sync(struct gateway *g, const char *reason);
/* Looks at these only. The syncing thread's. */
void gateway_sync_tenants(struct gateway *g, const struct slice *tenants, size_t n);
/* The thread. */
void *sync_main(void *arg);
bool tenant_is_allowed(const struct gateway_config *cfg, struct slice tenant);

/* --- tenants of whom others know newer blocks (catch_up.c) -------------------------------------------------------------------------- */

/* Waits until the tenant's index was read, if blocks are asked for that are not here by someone whose index is newer. False: the request was given up meanwhile. */
bool catch_up_wait(struct gateway *g, const struct ctx *ctx, const struct block_hints *blocks, struct err *err);
/* The syncing thread's: sleeps for so long, or until somebody waits (true). */
bool catch_up_is_called(struct gateway *g, int64_t wait_ms);
/* The syncing thread's: reads the indexes of those that are waited for. */
void catch_up(struct gateway *g);
void catch_up_free(struct gateway *g);

/* --- one request (request.c, merge.c) --------------------------------------------------------------------------------------------- */

/* A block of a request, with memory of its own: several threads work on a request's parts at once, each on one. */
struct part {
    struct served_block *block; /* a reference */
    struct store_block *open;   /* a reference, or NULL */
    struct arena arena;
    struct ctx ctx; /* the request's, with that arena */
    struct err err;
    struct store_select *select;
    /* of label APIs */
    const struct slice *strings;
    size_t n_strings;
    struct store_stats label_stats;
    /* of the first phase: series that were read ahead */
    struct store_series *ahead;
    size_t ahead_at, n_ahead, cap_ahead;
    bool ended;
    /* merged series that have chunks here, by number; those before members_at have been given */
    uint32_t *members;
    size_t members_at, n_members, cap_members;
    /* of the second: chunks of the next members */
    struct series *chunks;
    size_t chunks_at, n_chunks, cap_chunks;
};

struct request {
    struct gateway *g;
    struct ctx *ctx;
    struct select_params p;
    struct part *parts; /* in ctx->arena; blocks that are to be read, by the time of their beginning */
    size_t n;
    bool gated;
    bool known; /* there is such a tenant here */
    struct slice label_name; /* of label values */
    /* merge.c */
    size_t *heap; /* parts with series ahead, the smallest labels first */
    size_t n_heap;
    size_t *chosen; /* of request_some */
    uint64_t n_series, n_chunks; /* merged so far */
    uint64_t chunks_at;          /* the first merged series whose chunks have not been given */
    uint64_t chunks_until;       /* of the batch that is being made */
    struct arena scratch;        /* of a batch of chunks */
};

/* --- stats.c --- */

/* What a request has read, to the metrics; once, when it is done. */
void request_observe(const struct request *r);
/* A part of a request has taken so long since *since_ns, which becomes now. */
void observe_stage(const char *stage, int64_t *since_ns);
void observe_stage_ns(const char *stage, int64_t ns);

/* Enters the gate, finds the blocks and opens them. What is begun must be ended, also when it fails. */
bool request_begin(struct request *r, struct gateway *g, struct ctx *ctx, const struct select_params *p, const struct block_hints *blocks, struct gateway_found *ret_found,
                   struct err *err);
void request_leave_gate(struct request *r);
void request_end(struct request *r);
/* fn for all parts at once; false with the first error, the block named. */
bool request_each(struct request *r, void (*fn)(void *request, size_t part), struct err *err);
/* The same for the parts that need it. */
bool request_some(struct request *r, bool (*needs)(const struct request *r, const struct part *p), void (*fn)(void *request, size_t part), struct err *err);

/* Begins the selects. */
bool merge_begin(struct request *r, struct err *err);
/* Phase 1: labels of the next up to max series; *ret_n == 0: the end. */
bool merge_series(struct request *r, struct labels *ret, size_t max, size_t *ret_n, struct err *err);
/* Phase 2: chunks of the next up to max series that phase 1 gave, without their labels; valid until the next call. */
bool merge_chunks(struct request *r, struct series *ret, size_t max, size_t *ret_n, struct err *err);
uint64_t merge_index_bytes(const struct request *r);

enum gateway_strings { GATEWAY_LABEL_NAMES, GATEWAY_LABEL_VALUES };
/* The union of all parts' names or values; of a request that was begun. */
bool request_strings(struct request *r, enum gateway_strings what, struct slice name, const struct slice **ret, size_t *ret_n, struct err *err);

/* /store-gateway/prepare-shutdown (membership.c); the marker is a file in sync_dir. */
bool gateway_set_prepared(struct gateway *g, bool prepared, struct err *err);
