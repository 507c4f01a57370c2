/* Private to read/ingesters. README.md tells the story; everything here but struct ingesters belongs to the query's thread. */
#pragma once

#include <stdatomic.h>

#include "base/arena.h"
#include "base/assert.h"
#include "base/buf.h"
#include "read/ingesters/ingesters.h"
#include "read/peers/peers.h"
#include "read/series/series.h"
#include "storage/messages/ingester_messages.h"

#define METRICS_ROOM ingesters
#define METRICS_DEF "read/ingesters/ingesters_metrics.def"
#include "base/metrics_table.h"

extern const double ingesters_buckets_seconds[];
#define ENGINE_LABEL SL("brunn")

/* --- ingesters.c -------------------------------------------------------------------------------------------------------------- */

struct ingesters {
    struct queryable base;
    const struct ingesters_config *cfg;
    const struct limits_provider *limits;
    struct partition_watcher *partitions;
    struct ring *instances;
    struct local_ingester *local; /* immutable, with the strings */
    size_t n_local;
    char *zone;
    struct peers peers;
    atomic_uint_fast64_t calls; /* relaxed: the seed of the order in which owners are asked */
};

static inline struct ingesters *ingesters_of(struct queryable *q)
{
    return CONTAINER_OF(q, struct ingesters, base);
}

/* An owner of a partition; strings are the ring snapshot's. */
struct owner {
    const struct ring_instance *instance;
    struct queryable *local; /* NULL: another process */
    uint8_t rank;            /* lower ones are asked first */
    uint8_t tries;
    bool unavailable; /* its last try ended so: worth another one when all others have failed */
    bool lagging;     /* it was asked, and would rather not answer, being this far behind: it is asked again when nobody better is left */
    int64_t behind_ms;
};

/* One partition of a call. */
struct part {
    int32_t partition;
    struct owner *owners; /* in the order of asking */
    size_t n_owners;
    struct attempt *running;  /* not yet complete */
    struct attempt *answered; /* the one that counts, NULL as long as there is none; of a select the chunks may still be coming */
    int64_t heard_ms;         /* when one of them last said something, or was asked */
    bool dispensable;         /* nobody to ask is no error: is_dispensable in ingesters.c */
    bool left_out;            /* dispensable, and nobody could be asked: goes when the others have answered */
    struct err why;           /* of the last failure */
};

/* Memory is the ctx's arena. ERR_UNAVAILABLE names a partition without a healthy owner; a dispensable one is left out instead. */
bool plan_parts(struct ingesters *q, struct ctx *ctx, const struct partition_view *view, const struct ring_snapshot *instances, struct part **ret,
                size_t *ret_n, struct err *err);

/* --- series.c: the series of a select ------------------------------------------------------------------------------------------ */

/* A series that some partition has named. */
struct entry {
    struct known_labels known; /* arena */
    const struct series_chunk *chunks; /* kept, of partitions that have given theirs while others owe */
    size_t n_chunks;
    uint32_t owed; /* partitions that will still give chunks */
    uint32_t mark;
    bool given; /* to the reader */
};

struct entry_table {
    struct labels_table labels; /* of struct entry */
    uint32_t mark;              /* the last one used */
};

/* Finds or makes. copy: the labels' bytes are copied when it is made. NULL: the arena is used up. */
static inline struct entry *entry_get(struct entry_table *t, struct arena *arena, struct labels labels, bool copy)
{
    t->labels.entry_bytes = sizeof(struct entry);
    return labels_table_get(&t->labels, arena, labels, copy);
}
/* Adds chunks to what is kept, by time; of equal ones one stays. copy: their bytes too. False: the arena is used up. */
bool entry_keep(struct entry *e, struct arena *arena, const struct series_chunk *chunks, size_t n, bool copy);

enum listed_state {
    LISTED_OWED,
    LISTED_OPTIONAL, /* named with no chunks: none need come */
    LISTED_SETTLED   /* its chunks came, or those of an earlier attempt did */
};

/* The i-th series that an attempt named. */
struct listed {
    struct entry *entry;
    enum listed_state state;
    uint32_t n_chunks;
    const struct series_chunk *chunks; /* where they came with the name: owners of this process */
};

struct listing {
    struct listed *items; /* arena */
    size_t n;
    size_t cap;
    size_t next; /* all before it are settled */
    size_t sorted; /* so many at its beginning are known to be in the order of their labels */
};

bool listing_add(struct listing *l, struct arena *arena, struct listed item);
/* False: a series is named twice. */
bool listing_is_unique(const struct listing *l, struct entry_table *t);
/* The series owe from now on. The listing is unique. */
void listing_settle(struct listing *l);
/*
 * `from` broke off and `to` takes its place: what was given stays given, what `from` still owed `to` owes if it has it. Series that nobody owes any more and that
 * have chunks kept are added to done[*n_done], which has room for all of from's. Both are unique.
 */
void listing_replace(struct listing *from, struct listing *to, struct entry_table *t, struct entry **done, size_t *n_done);
/* Is it in the order of labels from the next series on? Looks at each series once. */
bool listing_is_sorted(struct listing *l);
/* The next series that is not settled; NULL: all are. */
struct listed *listing_next(struct listing *l);

/* --- fetch.c: asking one owner of each partition -------------------------------------------------------------------------------- */

/* A request to one owner. */
struct attempt {
    struct attempt *next; /* of the part's running ones */
    struct part *part;
    struct owner *owner;
    struct peer *peer;         /* with a reference; NULL: the owner is of this process */
    struct rpc_stream *stream; /* the same */
    int64_t began_ns;
    bool counted; /* its duration, in the metrics */
    bool anyway;  /* asked however far behind it is */
    /* What it answered, in the ctx's arena. */
    struct listing listing; /* select */
    uint64_t next_index;    /* select: the least number that the next series with chunks may have */
    bool has_all;           /* select: no chunks are to come */
    bool has_answer;        /* unary calls: the message has come */
    const void *items;
    size_t n_items;
    struct series_set *set; /* owned: a local select's */
    struct buf held;        /* owned: a message with chunks that came together with the last series */
};

struct fetch;
enum fetch_step { FETCH_MORE, FETCH_COMPLETE, FETCH_FAILED };

/* What differs between calls. err says why an answer is no good: then another owner is asked, unless the error is the query's own (is_final). */
struct fetch_ops {
    const char *method;
    bool unary;
    /* A message came; its bytes are freed afterwards unless they are taken. COMPLETE: the partition is answered. */
    enum fetch_step (*message)(struct fetch *f, struct attempt *a, struct buf *msg, struct err *err);
    /* The stream has ended well before that. COMPLETE or FAILED. */
    enum fetch_step (*end)(struct fetch *f, struct attempt *a, struct err *err);
    bool (*local)(struct fetch *f, struct attempt *a, struct err *err);
};

struct fetch {
    struct ingesters *q;
    const struct fetch_ops *ops;
    struct ctx *ctx;    /* of the call that runs now; its arena holds what stays */
    struct ctx rpc_ctx; /* a copy that lives as long as the streams */
    struct select_params params;
    struct slice label_name;
    struct partition_view *view;     /* counted */
    struct ring_snapshot *instances; /* counted */
    struct part *parts;
    size_t n_parts;
    struct buf request;
    struct rpc_kv *metadata; /* arena */
    size_t n_metadata;
    struct slice offsets; /* of a strong read, or empty */
    struct slice prefer;  /* how far behind an owner may be that is asked first, or empty: it does not matter */
    struct arena scratch; /* of decoding a message */
    struct entry_table table; /* select */
    int64_t began_ns;
    bool counted; /* the call's duration, in the metrics */
    /* What is waited for: arena, room for all that may run at once. */
    struct attempt **live;
    struct rpc_stream **streams; /* live[i]->stream */
    size_t n_live;
    struct attempt *dead; /* local ones that failed half-way: the table may point into their sets */
};

/* Plans; f->request is the caller's to fill before ingesters_fetch_start. To be released, also when it fails. */
bool ingesters_fetch_init(struct fetch *f, struct ingesters *q, struct ctx *ctx, const struct fetch_ops *ops, const struct select_params *p, struct err *err);
void ingesters_fetch_release(struct fetch *f);
/* Sends the first requests to other processes. Does not wait. */
void ingesters_fetch_start(struct fetch *f);
/* Waits until every partition is answered. */
bool ingesters_fetch_finish(struct fetch *f, struct ctx *ctx, struct err *err);

/* The next message of an answered attempt; other owners are asked when it breaks off, or says nothing for too long. */
enum fetch_next {
    FETCH_NEXT_MESSAGE, /* ret_msg is the caller's */
    FETCH_NEXT_END,
    FETCH_NEXT_OTHER, /* p->answered is another attempt now; *ret_old was it before and is the caller's, for attempt_free */
    FETCH_NEXT_FAILED
};
enum fetch_next fetch_next(struct fetch *f, struct part *p, struct buf *ret_msg, struct attempt **ret_old, struct err *err);
/* The answered attempt is no good, as why says: FETCH_NEXT_OTHER or FETCH_NEXT_FAILED as above. */
enum fetch_next ingesters_fetch_replace(struct fetch *f, struct part *p, const struct err *why, struct attempt **ret_old, struct err *err);

/* --- attempt.c ------------------------------------------------------------------------------------------------------------------ */

/* One of the part's running ones, of an owner of this process until it is sent. An owner that lagged is asked anyway now. */
struct attempt *attempt_new(struct part *p, struct owner *o);
/* Other owners of the part are to be preferred if this one lags. */
bool attempt_prefers(const struct fetch *f, const struct attempt *a);
/* It has not failed, but is not needed: the owner may be asked again as if it had not been. */
void attempt_forgive(struct attempt *a);
/* The part's running ones are without it from here on. */
void attempt_take_off(struct attempt *a);
/* To the owner's process; does not wait. */
void attempt_send(struct fetch *f, struct attempt *a);
/* The request is over with this code: its duration goes into the metrics, once. */
void attempt_count(const struct fetch *f, struct attempt *a, int code);
/* Cancels what still runs of it. NULL is fine. */
void attempt_free(struct fetch *f, struct attempt *a);

/* --- select.c, labels.c -------------------------------------------------------------------------------------------------------- */

struct series_set *ingesters_select(struct queryable *q, struct ctx *ctx, const struct select_params *p, struct err *err);
bool ingesters_label_names(struct queryable *q, struct ctx *ctx, const struct select_params *p, const struct slice **ret, size_t *ret_n, struct err *err);
bool ingesters_label_values(struct queryable *q, struct ctx *ctx, struct slice name, const struct select_params *p, const struct slice **ret, size_t *ret_n,
                            struct err *err);
bool ingesters_metadata(struct queryable *q, struct ctx *ctx, const struct metric_metadata **ret, size_t *ret_n, struct err *err);
bool ingesters_exemplars(struct queryable *q, struct ctx *ctx, const struct select_params *p, const struct exemplar_series **ret, size_t *ret_n, struct err *err);
/* The params' matchers as the one set of a request. False: the arena is used up. */
bool request_matchers(struct ctx *ctx, const struct select_params *p, struct ingester_request *ret);
