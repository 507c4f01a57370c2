/* The parts of an ingester: ingester.c (life, tenants), reads.c (queryable), start.c (where consumption begins, when it has caught up), consumer.c, keeper.c,
 * cutter.c. */
#pragma once

#include "ingest/checkpoint_int.h"
#include "ingest/cut_int.h"
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

/* With records there but none consumed for this long the ingester is not ready any more. */
#define STUCK_MS 30000

/* The consumer looks at the log at least this often: FETCH_WAIT_MS, RETRY_MAX_MS. When it did not, the process stood still. */
#define STOOD_STILL_MS 3000
/* A read waits no longer than this for what was missed meanwhile. */
#define AWAKE_WAIT_MS 5000

/* The wait for a small lag at start (start.c); consumer, once it runs. */
struct catch_up {
    _Atomic int64_t target; /* the log's end when it was last asked; readers any */
    int64_t asked_ms;       /* just before it was asked; monotonic */
    int64_t settle_ms;      /* the lag is small enough, and a smaller one is waited for until then; 0 = not so far */
};

struct ingester {
    struct ingest_config cfg; /* immutable, as all down to `totals` */
    const struct limits_provider *limits;
    struct plog *log;
    int32_t partition;
    char *dir;
    char *group; /* consumer group */
    uint64_t hash_seed;
    struct head_totals totals;
    struct tenants tenants;
    struct local_blocks *blocks;
    struct queryable queryable;

    bool started;
    pthread_t consumer;
    pthread_t keeper;
    _Atomic bool stop_consumer; /* after what this process has produced; stays set */
    _Atomic bool stop_keeper;
    _Atomic bool checkpoint_wanted; /* any thread sets, the keeper takes it back */

    pthread_mutex_t progress_lock;
    pthread_cond_t progress;  /* consumed has grown, or the consumer has ended */
    bool consumer_ended;      /* progress_lock */
    _Atomic int64_t consumed; /* last offset applied, -1 = none; writer: consumer under progress_lock (release), readers
                                 any (acquire) */
    _Atomic int64_t progress_ms; /* when consumed last grew or there was nothing to consume; monotonic */
    _Atomic int64_t complete_ms; /* what was produced before is in the heads, 0 = not known; monotonic. Writer: consumer */
    _Atomic int64_t fetched_ms;  /* when the newest consumed record was fetched, 0 = none was; monotonic. Writer: consumer */
    _Atomic int64_t newest_ms;   /* wall time at which the newest consumed record was produced. Writer: consumer */
    _Atomic bool applying;       /* the consumer has records in its hands. Writer: consumer */
    int64_t position;            /* next offset to fetch; consumer, set before it starts */
    _Atomic int64_t looked_ms;   /* when the consumer last looked at the log, 0 = never; monotonic. Writer: consumer (release) */
    _Atomic int64_t missed;      /* the process stood still: all below this offset is to be consumed, INT64_MAX: it is not known yet, 0: nothing. Writer: consumer,
                                    before looked_ms */
    _Atomic bool ready;          /* has caught up once. Writer: consumer, start */
    _Atomic bool stalled;
    _Atomic bool stuck; /* records are there and none is consumed. Writer: keeper */
    struct catch_up catch_up;
    _Atomic uint64_t record_bytes; /* of messages consumed since the last checkpoint */

    pthread_t cutter;
    atomic_bool stop_cuts;      /* the cutter ends, and flushes do */
    _Atomic bool flush_on_stop;
    _Atomic int hurry;          /* flushes that wait for a cut under way or are at work: it makes no pauses */
    pthread_mutex_t cut_lock;   /* one cut at a time; above checkpoint_lock */
    pthread_cond_t cutter_wake; /* with keeper_lock */

    pthread_mutex_t keeper_lock;
    pthread_cond_t keeper_wake;
    pthread_mutex_t checkpoint_lock; /* one round at a time; above every lock of the heads */
    int64_t durable;                 /* offset of the last checkpoint; checkpoint_lock */
    int64_t committed;               /* keeper, set before it starts; -1 = nothing, or it is not known */

    int64_t log_line_ms; /* consumer: when it last wrote a line about a bad record */
    uint64_t log_line_skipped;

    /* by partition */
    struct metric *m_consumed, *m_committed, *m_commits, *m_commit_failures, *m_commit_seconds, *m_stalled, *m_stuck,
        *m_resets;
};

/* The tenant's head, made when absent; NULL when the instance's limit of tenants is reached or its folder cannot be
 * made. For the consumer. */
struct head *ingester_head(struct ingester *ing, struct slice tenant, struct err *err);
void head_dir(const struct ingester *ing, struct slice tenant, char *out, size_t cap);

/* Of start.c: called whenever all below the target is consumed and the ingester is not ready: ready now, or a new
 * target. Consumer, and start. */
void catch_up_check(struct ingester *ing);
/* The consumer group's name by flag; ERR_CONFIG when it is too long. To be freed. */
char *group_name(const struct ingest_config *cfg, int32_t partition, const char *instance_id, struct err *err);
bool start_config_check(const struct ingest_config *cfg, struct err *err);

void reads_init(struct ingester *ing);
void *consumer_main(void *arg);
void *keeper_main(void *arg);
/* One checkpoint round; the keeper commits its offset later. Any thread. */
bool keeper_checkpoint(struct ingester *ing, struct err *err);
/* Of one head, at once: its cut is to be durable. Any thread. */
bool keeper_save_head(struct ingester *ing, struct head *h, struct cut_pace *pace, uint64_t *ret_bytes, struct err *err);
/* Closes the head when it has nothing and no start would need its records. Cutter. */
enum head_close keeper_close_head(struct ingester *ing, struct head *h);
void *cutter_main(void *arg);
/* Ends the thread; flushes, if that is wanted. When the consumer has ended. */
void cutter_stop(struct ingester *ing);
/* Sets consumed and wakes the waiting. Consumer, and start. */
void ingester_publish(struct ingester *ing, int64_t consumed);
/*
 * The log is another one than the heads were made from: shards take what comes from offset on. Their checkpoints, which
 * still know the old log's offsets, are written anew before anything of the new log is consumed. Consumer, and start.
 */
bool ingester_rewind(struct ingester *ing, int64_t offset, struct err *err);
