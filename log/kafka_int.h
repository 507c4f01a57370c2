/*
 * Private to the Kafka back end: Apache Kafka behind plog.h, through librdkafka.
 *
 *   kafka.c           open, close, the vtable; the topic and its partitions
 *   kafka_client.c    flags to librdkafka's properties; its errors to ours; its log lines to ours
 *   kafka_security.c  SASL and TLS
 *   kafka_produce.c   records out, delivery reports in, the poll thread
 *   kafka_fetch.c     records in
 *   kafka_offsets.c   watermarks, offsets by time, a group's committed offset
 *
 * Handles of librdkafka, each with threads and connections of its own:
 *   producer    one. Replaced by the poll thread after a fatal error of the idempotent producer.
 *   client      one, for questions: metadata, offsets. Never waits behind a fetch or a produce.
 *   groups      one a consumer group whose committed offset is used.
 *   consumers   one a partition that is fetched, made by the first fetch: a long poll of one partition does not hold up
 *               another, and a process that fetches nothing has none.
 *
 * Threads of ours: the producer's poll thread, and one that looks every 10 seconds, or when a partition was asked for that is not there, whether the topic has
 * grown.
 *
 * Locks: watch.lock, producer.lock (the handle; read-held while a request is handed over, written at a replacement), late_lock
 * (list of requests that failed half-way), part.lock (a partition's consumer, held through a whole fetch: a partition
 * has one reader). None is taken while another is held.
 *
 * Memory: records that wait to be acknowledged are the producers' own bytes, not copied (but for those that come
 * compressed), at most -ingest-storage.kafka.producer-max-buffered-bytes. Each consumer holds at most
 * -ingest-storage.kafka.max-buffered-bytes, never more than KAFKA_QUEUED_MAX_BYTES, and one fetch more.
 */
#pragma once

#include <librdkafka/rdkafka.h>
#include <pthread.h>
#include <stdatomic.h>

#include "log/plog_int.h"

#define KAFKA_QUEUED_MAX_BYTES ((uint64_t)64 << 20)
#define KAFKA_PARTITIONS_MAX 16384
/* A broker that has nothing new says so this often, whatever it may hold a fetch for: else nobody would know how old is what an idle partition's reader has. */
#define KAFKA_FETCH_WAIT_MAX_MS 300
#define KAFKA_MESSAGE_MAX_BYTES 16000000 /* Mimir's batch bound; its largest record is 16 KiB less */

/* Requests of one plog_produce. Freed when the last of its records has its report. */
struct kafka_request;

struct kafka_producer {
    pthread_rwlock_t lock;
    rd_kafka_t *rk; /* NULL while it is being replaced; guarded by lock */
    rd_kafka_topic_t *topic;
    pthread_t poller;
    _Atomic bool closing;
    _Atomic uint64_t buffered_bytes;
    pthread_mutex_t late_lock;
    struct kafka_request *late; /* guarded by late_lock */
};

struct kafka_part {
    pthread_mutex_t lock;
    rd_kafka_t *rk; /* NULL until the first fetch; guarded by lock, as are the next three */
    rd_kafka_topic_t *topic;
    int64_t position;             /* of the next record that the consumer will give; -1 = not started */
    _Atomic bool woken;           /* the fetch that waits, or else the next, does not; any thread */
    bool at_end;                  /* the broker said that nothing is there from position on */
    /* When the last answer to a fetch was asked for, and the one before it, whose records librdkafka knows by now; monotonic, 0 = none. Writer: its thread of the
     * partition's leader. */
    _Atomic int64_t asked_ms, asked_before_ms;
    _Atomic int64_t acknowledged; /* beyond the newest record of this process whose offset the broker told */
    _Atomic bool offset_unknown;  /* there is an acknowledged one whose offset it did not tell */
};

/* A consumer group whose offset is asked for or committed; its handle lives until the log is closed. */
struct kafka_group {
    struct kafka_group *next;
    rd_kafka_t *rk;
    char name[PLOG_GROUP_NAME_MAX + 1];
};
#define KAFKA_GROUPS_MAX 1024 /* no process uses more than one a partition */

struct kafka_metrics {
    struct log_writer_metrics writer;
    struct metric *buffered_records, *enqueue_seconds, *fetched, *fetch_errors, *corrupt_records;
};

/* Looks whether the topic has grown. */
struct kafka_topic_watch {
    pthread_t thread;
    bool started; /* owned by open and close */
    pthread_mutex_t lock;
    pthread_cond_t more;
    bool closing; /* guarded by lock, as is the next */
    bool missing; /* somebody asked for a partition that is not there */
};

struct kafka {
    struct plog base;
    struct plog_config cfg; /* immutable; its strings live as long as the process's flags */
    struct kafka_metrics m;
    rd_kafka_t *client;
    struct kafka_producer producer;
    struct kafka_part **part; /* by partition, room for KAFKA_PARTITIONS_MAX; those below base.n_partitions are there and stay */
    struct kafka_topic_watch watch;
    pthread_mutex_t groups_lock;
    struct kafka_group *groups; /* guarded by groups_lock; only added to while open */
};

/* kafka_client.c: properties; after one that was refused the others do nothing */
struct kafka_props {
    rd_kafka_conf_t *conf;
    struct err *err;
    bool ok;
};
void kafka_prop_set(struct kafka_props *p, const char *name, const char *value);
void kafka_prop_set_unless_empty(struct kafka_props *p, const char *name, const char *value);

/* kafka_security.c: SASL and TLS. check: the flags; set: the properties; start: what a handle needs once it is made. */
bool kafka_security_check(const struct plog_config *cfg, struct err *err);
void kafka_security_set(struct kafka_props *p, const struct plog_config *cfg);
bool kafka_security_start(rd_kafka_t *rk, const struct plog_config *cfg, struct err *err);

/* kafka_client.c */
enum kafka_role { KAFKA_PRODUCER, KAFKA_CONSUMER, KAFKA_CLIENT, KAFKA_GROUP };
/* group: of KAFKA_GROUP, else NULL. part: of KAFKA_CONSUMER, else NULL. opaque: what the handle's callbacks get. NULL: a
 * property that librdkafka refuses, named. */
rd_kafka_t *kafka_handle_new(const struct plog_config *cfg, enum kafka_role role, const char *group,
                             struct kafka_part *part, void *opaque, struct err *err);
/* Sets err to what code means to a caller, "<what>: <text>"; returns false. */
bool kafka_err(struct err *err, rd_kafka_resp_err_t code, const char *what);
/* Errors of a moment: the same request may succeed when the cluster is well again. */
bool kafka_err_is_passing(rd_kafka_resp_err_t code);
void kafka_sleep_ms(int64_t ms);

/* kafka_produce.c */
bool kafka_producer_start(struct kafka *k, struct err *err);
/* Waits for the reports of all records. */
void kafka_producer_stop(struct kafka *k);
bool kafka_produce(struct plog *log, struct plog_produce *p, struct err *err);
void kafka_delivered(rd_kafka_t *rk, const rd_kafka_message_t *message, void *opaque);

/* kafka_fetch.c */
bool kafka_fetch(struct plog *log, int32_t partition, int64_t offset, size_t max_bytes, int64_t timeout_ms,
                 struct plog_batch *ret, struct err *err);
void kafka_consumers_stop(struct kafka *k);
/* An interceptor of librdkafka, of a consumer that is being made; part: struct kafka_part. */
rd_kafka_resp_err_t kafka_consumer_made(rd_kafka_t *rk, const rd_kafka_conf_t *conf, void *part, char *text, size_t n);
void kafka_wake(struct plog *log, int32_t partition);

/* kafka_offsets.c */
bool kafka_offsets(struct plog *log, int32_t partition, int64_t *ret_first, int64_t *ret_next, struct err *err);
bool kafka_ends(struct plog *log, const int32_t *partitions, size_t n, int64_t *ret_next, struct err *err);
bool kafka_offset_at(struct plog *log, int32_t partition, int64_t t, int64_t *ret_offset, struct err *err);
bool kafka_commit(struct plog *log, struct slice group, int32_t partition, int64_t offset, struct err *err);
bool kafka_committed(struct plog *log, struct slice group, int32_t partition, int64_t *ret_offset, struct err *err);
void kafka_groups_stop(struct kafka *k);
bool kafka_acknowledged(struct plog *log, int32_t partition, int64_t *ret_next, struct err *err);
