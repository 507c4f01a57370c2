/* The parts of an ingester: ingester.c (life, tenants, queryable), consumer.c, keeper.c. */
#pragma once

#include "ingest/checkpoint_int.h"
#include "ingest/ingest.h"
#include "ingest/ingest_metrics_int.h"

struct tenants {
    pthread_rwlock_t lock;
    struct head **heads; /* by tenant, byte order; heads live until the ingester is freed */
    size_t n;
    size_t cap;
};

struct head *tenants_find(struct tenants *t, struct slice tenant);
void tenants_add(struct tenants *t, struct head *h);
/* A copy of the list, to be freed. */
struct head **tenants_list(struct tenants *t, size_t *ret_n);

struct ingester {
    struct ingest_config cfg; /* immutable, as all down to `totals` */
    const struct limits_provider *limits;
    struct plog *log;
    int32_t partition;
    char *dir;
    char *instance_id;
    uint64_t hash_seed;
    struct head_totals totals;
    struct tenants tenants;
    struct queryable queryable;

    bool started;
    pthread_t consumer;
    pthread_t keeper;
    _Atomic bool stop_consumer; /* after what is in the log now */
    _Atomic bool stop_keeper;

    pthread_mutex_t progress_lock;
    pthread_cond_t progress;  /* consumed has grown, or the consumer has ended */
    bool consumer_ended;      /* progress_lock */
    _Atomic int64_t consumed; /* last offset applied, -1 = none; writer: consumer under progress_lock (release), readers
                                 any (acquire) */
    _Atomic int64_t progress_ms; /* when consumed last grew or there was nothing to consume; monotonic */
    int64_t position;            /* next offset to fetch; consumer, set before it starts */
    int64_t target;              /* ready when everything below it is consumed; immutable after start */
    _Atomic bool ready;
    _Atomic bool stalled;
    _Atomic uint64_t record_bytes; /* of messages consumed since the last checkpoint */

    pthread_mutex_t keeper_lock;
    pthread_cond_t keeper_wake;
    pthread_mutex_t checkpoint_lock; /* one round at a time; above every lock of the heads */
    int64_t committed;               /* checkpoint_lock */

    int64_t log_line_ms; /* consumer: when it last wrote a line about a bad record */
    uint64_t log_line_skipped;

    /* by partition */
    struct metric *m_consumed, *m_committed, *m_commits, *m_commit_failures, *m_stalled, *m_stuck, *m_resets;
};

/* The tenant's head, made when absent; NULL when the instance's limit of tenants is reached or its folder cannot be
 * made. For the consumer. */
struct head *ingester_head(struct ingester *ing, struct slice tenant, struct err *err);
void head_dir(const struct ingester *ing, struct slice tenant, char *out, size_t cap);

void *consumer_main(void *arg);
void *keeper_main(void *arg);
/* One checkpoint round and its commit. Keeper; and whoever has rewound. */
bool keeper_checkpoint(struct ingester *ing, struct err *err);
/* Sets consumed and wakes the waiting. Consumer, and start. */
void ingester_publish(struct ingester *ing, int64_t consumed);
/*
 * The log is another one than the heads were made from: shards take what comes from offset on. Their checkpoints, which
 * still know the old log's offsets, are written anew before anything of the new log is consumed. Consumer, and start.
 */
bool ingester_rewind(struct ingester *ing, int64_t offset, struct err *err);
