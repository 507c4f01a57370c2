/*
 * Head: the recent data of one tenant in one partition. Shards of series, full chunks, exemplars, metadata.
 *
 * Made by the consumer, lives until the ingester is freed. head_apply runs on the consumer; everything that reads may
 * run on any thread.
 *
 * Oldest valid time. As in Prometheus a sample is too old for a series when it is more than half a chunk range (1 h)
 * older than the newest sample of the head. Here "the newest" is taken over the records before the sample's own one,
 * whether those samples were stored or not: so the bound depends on nothing but the log, and a replay decides as the
 * first run did.
 */
#pragma once

#include "base/ctx.h"
#include "base/metrics.h"
#include "ingest/append_int.h"
#include "ingest/exemplars_int.h"
#include "ingest/metadata_int.h"
#include "model/limits.h"
#include "model/write_request.h"
#include "storage/block/ulid.h"

#define HEAD_MAX_SHARDS 64u

struct decoded_histogram {
    struct histogram h;
    int64_t t;
    bool bad;
};

/* One record of the tenant, to be applied. */
struct head_record {
    const struct write_request *req;
    int64_t offset;
    int64_t timestamp_ms;
    struct append_bounds bounds;          /* by head_apply */
    struct decoded_histogram *histograms; /* by head_apply: as req->histograms, NULL when there are none */
};

/* One series of a record. */
struct head_row {
    struct series_hash hash;
    const struct write_series *series;
    uint32_t record;
};

/* What was added in one head_apply; the consumer hands it to the metrics. */
struct head_counts {
    uint64_t samples;      /* stored; repeated ones too */
    uint64_t rule_samples; /* of these, made by rules */
    uint64_t ooo_samples;
    uint64_t created; /* series */
    uint64_t chunks_created;
    uint64_t exemplars;
    uint64_t refused[REFUSALS]; /* samples */
};

/* How many series each metric name has, for the limit; entries of names that are gone stay at 0. */
struct metric_counts {
    pthread_mutex_t lock;
    struct metric_count *slots; /* open addressing by hash of the name */
    uint32_t n_slots;
    uint32_t n;
};
void metric_counts_init(struct metric_counts *m);
void metric_counts_release(struct metric_counts *m);
uint64_t metric_counts_get(struct metric_counts *m, struct slice metric);
void metric_counts_add(struct metric_counts *m, struct slice metric, int64_t delta);

/* Shared by the heads of an ingester: what all tenants together have. */
struct head_totals {
    _Atomic uint64_t n_series;
    uint64_t max_series; /* 0 = no limit; immutable */
};

struct head_metrics {
    struct metric *created, *removed, *samples, *failures, *chunks_created, *chunks_removed, *ooo_samples, *exemplars,
        *active, *metadata_created, *metadata_removed;
};

/* What was cut out of a head. See cut_int.h. */
struct head_cuts {
    pthread_mutex_t lock; /* held while a cut's chunks leave the shards, and by the checkpoint, which must see all of them or none; below the tenants' lock,
                             above the shards' */
    int64_t until;        /* all in-order data below is in blocks; INT64_MIN: nothing was cut. lock */
    struct ulid *names;   /* blocks that the next checkpoint names, and then publishes; owned. lock */
    size_t n_names;
};

struct head {
    struct slice tenant; /* owned, NUL-terminated */
    char *dir;           /* <ingester's>/tenants/<tenant> */
    uint64_t seed;
    uint32_t n_shards; /* power of two; immutable */
    struct shard *shards;
    struct chunk_store *chunks;
    struct exemplars exemplars;
    struct metadata_store metadata;
    struct metric_counts metrics_counts;
    struct head_totals *totals;
    struct head_metrics metrics;
    _Atomic uint64_t n_series; /* consumer and truncation write, any reads */
    _Atomic uint64_t n_active; /* by the keeper */
    _Atomic int64_t max_t;     /* newest sample of the records applied; INT64_MIN = none. Writer: consumer */
    _Atomic int64_t settled_t; /* max_t of the records that all shards have; writer: consumer (release), readers any (acquire) */
    _Atomic int64_t min_t;     /* not newer than the oldest one kept, nor much older; INT64_MAX = none */
    _Atomic int64_t young_min; /* the oldest one of the records applied since a truncation began */
    _Atomic int64_t min_valid; /* nothing older is taken; INT64_MIN but for checkpoints of earlier versions. Immutable after load */
    struct head_cuts cuts;
    _Atomic int64_t applied_ms; /* when samples were last applied, monotonic; when it was made or loaded at first. Writer: consumer */
    pthread_mutex_t open_lock;  /* no other lock is taken over it, but those of the shards */
    bool busy;                  /* the consumer is at it; open_lock */
    _Atomic bool closed;        /* idle: it has nothing, neither here nor on disk; written under open_lock, readers any */
    int64_t cut_due_ms;         /* cutter: when the cut that is ready begins, monotonic; 0 = none is */
    _Atomic uint64_t changes;  /* grows with every batch applied: is a checkpoint needed? */
    uint64_t checkpointed;     /* `changes` before the last checkpoint; the lock of checkpoint rounds */
    bool has_checkpoint;       /* likewise */
    int64_t enforce_from;      /* series limits hold for records above this offset; consumer, set at load */
    _Atomic uint64_t n_api;    /* samples stored since the rates were taken, pushed */
    _Atomic uint64_t n_rule;   /* and made by rules */
    _Atomic double api_rate;   /* a second; keeper */
    _Atomic double rule_rate;
};

/* dir is made when absent. cs: the tenant's chunk store, owned from now on. */
struct head *head_new(struct slice tenant, const char *dir, uint64_t seed, uint32_t n_shards, struct chunk_store *cs,
                      struct head_totals *totals);
void head_free(struct head *h);

/*
 * Applies records in order of offset: rows are those of recs[0..n), in order. What a shard has (offset <= its applied
 * one) it passes over. rows is sorted by shard in place of `sorted`, which has as many places. scratch: for decoded
 * histograms.
 */
void head_apply(struct head *h, const struct limits *limits, struct head_record *recs, size_t n_recs,
                const struct head_row *rows, struct head_row *sorted, size_t n_rows, struct arena *scratch,
                struct head_counts *ret);

static inline uint32_t head_shard_of(const struct head *h, struct series_hash hash)
{
    return h->n_shards == 1 ? 0 : (uint32_t)(hash.lo >> (64 - __builtin_ctz(h->n_shards)));
}

/* Hands counts to the metrics of the tenant, and refusals to cortex_discarded_samples_total. */
void head_publish(struct head *h, const struct head_counts *c);
/* Takes the rates of the last seconds into the moving averages. Keeper. */
void head_update_rates(struct head *h, double seconds);

/* Series with a sample produced since `since_s`; the locks are held for a part of a shard at a time. */
uint64_t head_count_active(struct head *h, uint32_t since_s);

/*
 * A head that has nothing any more is closed rather than freed: its folder goes, and a few KiB stay, since readers need no reference to a head. The
 * consumer enters before it applies, which opens it again. ERR_IO: its folder cannot be made.
 */
bool head_enter(struct head *h, struct err *err);
void head_leave(struct head *h);
/* durable: the offset that a start would begin after. Under checkpoint_lock. */
enum head_close { HEAD_CLOSED, HEAD_NOT_EMPTY, HEAD_NOT_SAVED };
enum head_close head_close(struct head *h, int64_t durable);

/* The oldest time that is still in order: half a chunk range before `newest`; INT64_MIN: none is too old. */
static inline int64_t head_oldest_in_order(int64_t newest)
{
    int64_t t;
    return newest == INT64_MIN || __builtin_sub_overflow(newest, CHUNK_RANGE_MS / 2, &t) ? INT64_MIN : t;
}

const char *refusal_reason(enum refusal r);
