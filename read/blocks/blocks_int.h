/* Private to read/blocks. README.md tells the story; everything here but struct blocks belongs to the query's thread. */
#pragma once

#include <stdatomic.h>

#include "base/arena.h"
#include "base/assert.h"
#include "base/buf.h"
#include "read/blocks/blocks.h"
#include "read/peers/peers.h"
#include "read/series/series.h"
#include "storage/downsample/downsample.h"
#include "storage/messages/storegateway_messages.h"

extern const double blocks_buckets_seconds[];
extern const double blocks_buckets_instances[];
extern const double blocks_buckets_refetches[];

#define METRICS_ROOM blocks
#define METRICS_DEF "read/blocks/blocks_metrics.def"
#include "base/metrics_table.h"

struct blocks {
    struct queryable base;
    const struct blocks_config *cfg;
    const struct limits_provider *limits;
    struct index_cache *indexes;
    struct ring *gateways;
    struct local_gateway local; /* ops NULL: none; id owned */
    const struct flag_list *preferred_zones;
    char *zone;
    int64_t upload_grace_ms;
    struct peers peers;
    atomic_uint_fast64_t calls; /* relaxed: the seed of the order in which replicas are asked */
};

static inline struct blocks *blocks_of(struct queryable *q)
{
    return CONTAINER_OF(q, struct blocks, base);
}

/* --- plan.c: the blocks of a call, and whom to ask for them ------------------------------------------------------------------------ */

/* Where blocks lie: with the tenant, or in a room of its downsampled ones. */
struct place {
    struct slice name;                  /* in the place of a tenant's; arena */
    const struct index_snapshot *index; /* counted */
    struct rpc_kv metadata[3];
    bool is_room;
    enum downsample_aggregate aggregate; /* of a room */
};
/* A select may read every resolution, and two aggregates. */
#define PLACES_MAX (1 + DOWNSAMPLE_RESOLUTIONS * 2)

enum block_state { BLOCK_OPEN, BLOCK_ASKED, BLOCK_ANSWERED, BLOCK_LEFT_OUT, BLOCK_MISSING };

struct block {
    const struct index_block *in_index; /* of the place's snapshot */
    const struct place *place;
    enum block_state state;
    bool dispensable; /* uploaded within the grace time: its absence is no error */
    uint8_t tries; /* those that others were faster than are not counted */
    uint8_t n_tried;
    struct {
        const struct ring_instance *gateway;
        bool unavailable; /* could not be reached: worth another try when all others have failed */
        bool outrun;      /* others answered first and it was canceled: as good as one that was not asked */
        uint8_t given_up; /* it was slow with its chunks and others took over: the first that was is 1, the next 2; 0: it was not */
    } tried[BLOCK_TRIES_MAX];
    uint8_t n_given_up;
    uint8_t n_slow;
    struct attempt *slow[BLOCK_TRIES_MAX - 1]; /* running ones that were asked for it, are silent, and may still answer first: hedge.c */
    struct block *next; /* of the attempt that asks for it, or has answered from it */
};

struct fetch;

/* The blocks of the bucket index that the params touch, into f->blocks. False: the arena is used up. */
bool blocks_plan(struct fetch *f, const struct select_params *p);
/* Those of an index that were marked for deletion before then, sorted. NULL: the arena is used up. */
struct ulid *blocks_plan_deleted(struct arena *arena, const struct bucket_index *index, int64_t before_s, size_t *ret_n);
bool blocks_plan_is_in(const struct ulid *sorted, size_t n, const struct ulid *id);
/* May the block have something that the params ask for? */
bool blocks_plan_touches(const struct select_params *p, const struct index_block *b);
bool blocks_plan_is_young(const struct blocks *q, const struct index_block *b, int64_t now_ms);
/* downsampled.c: puts aggregates in the place of planned blocks, where the params say what for and the answer is the same. False: the arena is used up. */
bool blocks_plan_downsampled(struct fetch *f, const struct select_params *p);
/* May the block be asked of another than this one, which is slow? */
bool blocks_plan_has_other(struct fetch *f, const struct block *b, const struct ring_instance *slow);
/* A store-gateway that was not yet asked for the block, or one that was slow, or could not be reached. NULL: nobody is left; *why says so. */
const struct ring_instance *blocks_plan_replica(struct fetch *f, struct block *b, bool *ret_renew, struct err *why);

/* --- fetch.c: asking ----------------------------------------------------------------------------------------------------------------- */

/* A series that some store-gateway has named. */
struct name {
    struct known_labels known;
    uint32_t mark; /* fetch.mark, when a takeover has seen it */
};

#define LOCAL_WINDOW 128

/* A request to one store-gateway, for some blocks. */
struct attempt {
    struct attempt *next; /* of the fetch's running, or answered, ones */
    const struct ring_instance *gateway;
    const struct place *place; /* of all its blocks */
    struct ctx ctx;            /* of a gateway of this process that is asked about a room: the call's, with the room's name */
    struct block *blocks;
    bool renew;
    struct peer *peer;         /* with a reference; NULL: the gateway is of this process */
    struct rpc_stream *stream; /* the same */
    int64_t began_ns;
    int64_t heard_ms; /* when it last said something, or was asked */
    bool slow;        /* was silent: its blocks are asked of others too */
    bool given_up;    /* was silent while chunks were read: others take over */
    bool counted; /* its duration, in the metrics */
    struct gateway_found found; /* arena */
    /* Unary calls: the answer; arena. */
    bool has_answer;
    const struct slice *strings;
    size_t n_strings;
    /* Select. The series it named, in the order of their labels; the first `at` of them are given or passed over. */
    struct name **names; /* arena */
    size_t n, cap, at;
    uint64_t head_id; /* == fetch.head_id: its next series is the one that is given next */
    bool ended; /* unary calls and series without chunks: the stream has said all */
    /* The message with chunks that is being read: chunk_at is the first that is not taken. */
    struct buf msg; /* owned */
    struct arena decoded;
    const struct streamed_chunks *chunks;
    size_t n_chunks, chunk_at;
    uint64_t next_index; /* the series that the stream's next chunks are of */
    /* A gateway of this process: series as they come. */
    struct series_set *set; /* owned */
    struct series *window;  /* LOCAL_WINDOW; owned */
    size_t win_at, win_n;
    struct labels last; /* the last series taken from it */
    bool has_last;
};

enum fetch_step { FETCH_MORE, FETCH_COMPLETE, FETCH_FAILED };

/* What differs between calls. err says why an answer is no good: then other replicas are asked, unless the error is the query's own. */
struct fetch_ops {
    const char *method;
    bool unary;
    void (*put)(const struct storegateway_request *r, struct buf *out);
    /* A message came; its bytes are freed afterwards. COMPLETE: what is to be known before chunks are read is known. */
    enum fetch_step (*message)(struct fetch *f, struct attempt *a, const struct buf *msg, struct err *err);
    /* The stream has ended well before that. */
    enum fetch_step (*end)(struct fetch *f, struct attempt *a, struct err *err);
    bool (*local)(struct fetch *f, struct attempt *a, const struct block_hints *blocks, struct err *err);
};

struct fetch {
    struct blocks *q;
    const struct fetch_ops *ops;
    struct ctx *ctx;    /* of the call that runs now; its arena holds what stays */
    struct ctx rpc_ctx; /* a copy that lives as long as the streams */
    struct select_params params;
    struct slice label_name;
    struct matcher_set matchers;         /* arena */
    struct place places[PLACES_MAX];     /* the tenant's own first; none: the tenant has no index */
    size_t n_places;
    atomic_bool *refused; /* where to say that samples would do; NULL: nothing but samples was asked for, or they would not */
    struct ring_snapshot *ring;          /* counted: the tenant's part */
    uint64_t random;
    struct block *blocks; /* arena */
    size_t n_blocks;
    struct attempt *running;
    struct attempt *answered;
    size_t n_missing; /* blocks that nobody is left for: the call fails when all others are answered, so that it names all of them */
    size_t n_hedged;  /* attempts that were silent */
    size_t n_instances, n_refetches; /* for the metrics: requests; how often the block that was asked for most was asked for again */
    struct labels_table names;       /* select; of struct name */
    uint32_t mark;
    uint64_t head_id;
    struct arena scratch; /* of decoding a message */
    struct err why;       /* of the last failure */
    bool counted;
};

/* Plans; ERR_OK with no blocks is an empty answer. To be released, also when it fails. */
bool blocks_fetch_init(struct fetch *f, struct blocks *q, struct ctx *ctx, const struct fetch_ops *ops, const struct select_params *p, struct err *err);
void blocks_fetch_release(struct fetch *f);
/* Sends the first requests. Does not wait; store-gateways of this process are asked by blocks_fetch_finish. */
bool blocks_fetch_start(struct fetch *f, struct err *err);
/* Waits until all blocks are answered, or may be missing. */
bool blocks_fetch_finish(struct fetch *f, struct ctx *ctx, struct err *err);
/*
 * The answer of `a` breaks off, for this reason: other replicas answer for its blocks, and a is freed. Their attempts pass over what a has given. False: the
 * call fails with err; a is freed with the rest.
 */
bool blocks_fetch_take_over(struct fetch *f, struct attempt *a, const struct err *why, struct err *err);

/* --- hedge.c: who is silent ------------------------------------------------------------------------------------------------------------- */

/* When others are to be asked beside it; INT64_MAX: never. */
int64_t blocks_hedge_at_ms(const struct fetch *f, const struct attempt *a);
/* Opens the blocks of all attempts that have been silent for too long; after what they sent has been read. */
void blocks_hedge(struct fetch *f);
/* Nobody else is left to ask for the open block: it belongs to an attempt that is silent. False: there is none. */
bool blocks_hedge_give_back(struct block *b);
/* The attempt fails: no block waits for it; calls failed(b, a, why) for those that did. */
void blocks_hedge_failed(struct fetch *f, const struct attempt *a, void (*failed)(struct block *b, const struct attempt *a, const struct err *why), const struct err *why);
/* It is complete, and has its own answered blocks: it gets those that waited for it too, if they are found. Nobody waits for others about any of them. */
void blocks_hedge_answered(struct fetch *f, struct attempt *a, bool (*found)(const struct attempt *a, const struct block *b));
/* Others take over from it, since it was silent: it did not fail, and may be asked for the block again. */
void blocks_hedge_given_up(struct block *b, const struct attempt *a);
/* Cancels running attempts that others were faster than. */
void blocks_hedge_sweep(struct fetch *f);
/* Waits for the stream's next chunks. False: they take long, and others have not been asked: it is to be taken over. */
bool blocks_hedge_wait(struct fetch *f, struct attempt *a, struct err *why);

/* --- attempt.c --------------------------------------------------------------------------------------------------------------------------- */

struct attempt *blocks_attempt_new(struct fetch *f, const struct ring_instance *gateway, const struct place *place, bool renew);
/* With which a gateway of this process is asked. */
struct ctx *blocks_attempt_ctx(const struct fetch *f, struct attempt *a);
/* Cancels what still runs of it. */
void blocks_attempt_free(struct fetch *f, struct attempt *a);
/* The blocks it is about, in the arena. False: that is used up. */
bool blocks_attempt_list(const struct fetch *f, const struct attempt *a, struct block_hints *ret);
/* To the gateway's process; does not wait. */
bool blocks_attempt_send(struct fetch *f, struct attempt *a, struct err *err);
/* How long it took goes into the metrics, once. */
void blocks_attempt_count(const struct fetch *f, struct attempt *a, int code);
void blocks_attempt_count_bytes(const struct attempt *a, size_t n);

/* --- select.c, labels.c ---------------------------------------------------------------------------------------------------------------- */

struct series_set *blocks_select(struct queryable *q, struct ctx *ctx, const struct select_params *p, struct err *err);
struct label_call *blocks_label_begin(struct queryable *q, struct ctx *ctx, const struct slice *name, const struct select_params *p, struct err *err);
bool blocks_label_end(struct label_call *c, const struct slice **ret, size_t *ret_n, struct err *err);
bool blocks_label_names(struct queryable *q, struct ctx *ctx, const struct select_params *p, const struct slice **ret, size_t *ret_n, struct err *err);
bool blocks_label_values(struct queryable *q, struct ctx *ctx, struct slice name, const struct select_params *p, const struct slice **ret, size_t *ret_n,
                         struct err *err);
