/*
 * The log: partitions of records with offsets, durable before they are acknowledged. The only write-ahead log of the
 * system.
 *
 * Two back ends fit behind this door: embedded (one node, LMDB; embedded.c) and Kafka. Nothing above log/ knows which
 * one it has.
 *
 * Promises
 *   1. plog_produce's done(NULL) runs after every record of the request is durable. Records of one request to one
 *      partition keep their order.
 *   2. Offsets of a partition are dense from the first produced one (Kafka may leave gaps: readers use the record's own
 *      offset).
 *   3. A fetched record has exactly the key, version, value and timestamp that were produced.
 *   4. At a full disk or over the bound of buffered bytes a produce fails with a clear, retriable error, and it heals
 *      when space returns. A failed produce is not stored; only when the process dies before the log was told of the
 *      failure by the disk may a part of the log's end hold it (as with any log, a producer that got no answer does not
 *      know).
 *   5. A record whose bytes are damaged on disk is counted, logged with its offset and passed over: a reader sees a
 *      gap, never wrong bytes.
 *
 * Any thread may call any function; plog_close when no other call is under way or comes after it.
 */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/arena.h"
#include "base/err.h"
#include "base/flags.h"
#include "base/slice.h"

struct plog;

struct plog_config {
#define FLAG FLAG_FIELD
#include "log/log_flags.def"
#undef FLAG
};
extern const struct flag_def plog_flags[];
extern const size_t plog_flags_n;

enum plog_value_form {
    PLOG_PLAIN, /* value is the WriteRequest */
    PLOG_SNAPPY, /* value is a snappy block of the WriteRequest; in the embedded log only, never on Kafka's wire */
};

/*
 * Work that the producer has done already, for a consumer in the same process: the record, parsed. The log keeps it
 * beside the newest records within a bound (-ingest-storage.embedded.max-hint-bytes) and may drop it at any time; the
 * bytes stay the truth. Refcounted, any thread.
 */
struct plog_hint {
    _Atomic int refs;
    size_t size_bytes; /* what it holds in memory */
    void (*free)(struct plog_hint *hint);
};
void plog_hint_ref(struct plog_hint *h);
void plog_hint_unref(struct plog_hint *h); /* NULL is fine */

#define PLOG_TENANT_MAX 1024               /* bytes of a record's key */
#define PLOG_VALUE_MAX (256 * 1024 * 1024) /* bytes of a record's value; producers keep far below it */
#define PLOG_GROUP_NAME_MAX 255

struct plog_record {
    int32_t partition;
    int64_t offset;       /* set by the log */
    int64_t timestamp_ms; /* when it was produced (set by the caller; 0 = now) */
    struct slice tenant;  /* the record key */
    uint32_t version;     /* of the value: 0, 1, 2 (header "Version"; absent = 0) */
    enum plog_value_form form;
    struct slice value;
    struct plog_hint *hint; /* NULL = none */
    uint64_t value_sum;     /* the log's */
};

/* What can be said of the flags without opening anything: ERR_CONFIG. plog_open_* look at the rest. */
bool plog_config_validate(const struct plog_config *cfg, struct err *err);

/* --- life cycle --- */

/* dir: the log's own folder, made when absent. Errors name the folder and what is wrong with it. */
struct plog *plog_open_embedded(const struct plog_config *cfg, const char *dir, struct err *err);
/*
 * The brokers at -ingest-storage.kafka.address. Waits up to a minute for them and the topic, which is made when that is
 * wanted. cfg's strings outlive the log.
 */
struct plog *plog_open_kafka(const struct plog_config *cfg, struct err *err);
/* Waits until queued produces are durable. */
void plog_close(struct plog *log);               /* NULL is fine */
int32_t plog_partitions(const struct plog *log); /* ids are 0 .. n-1; a topic may grow while the process runs */
/* The log compresses what it stores by itself: values are best handed over plain. */
bool plog_wants_plain(const struct plog *log); /* ids are 0 .. n-1 */

/* --- produce --- */

/*
 * A produce request. The caller owns it and everything its records point to until done has run. done runs once, on a
 * thread of the log: it must be short and must not call plog_produce. err is NULL when all records are durable; their
 * offsets are filled in then.
 */
struct plog_produce {
    struct plog_record *records;
    size_t n;
    void (*done)(struct plog_produce *p, const struct err *err);
    struct plog_produce *next; /* the log's */
    size_t bytes;              /* the log's */
    int64_t queued_ns;         /* the log's */
};
/*
 * Sets timestamps that are 0. The log takes a reference of its own on each hint it keeps; the caller's stay the
 * caller's. False: refused at once (bound reached, not a partition of the log, closing); done does not run then. A
 * partition that is not there is ERR_UNAVAILABLE: a topic may yet grow to it.
 */
bool plog_produce(struct plog *log, struct plog_produce *p, struct err *err);

/* --- fetch --- */

struct plog_batch {
    struct plog_record *records;
    size_t n;
    int64_t next_offset; /* where the next fetch begins: beyond the last record and damaged ones behind it */
    /*
     * All that was produced before this moment (clock_mono_ms) lies below next_offset, as far as is known; 0: nothing is. Never the time of the fetch alone: a
     * broker that does not answer says nothing about its end, and a process that was stopped for a while has heard nothing since.
     */
    int64_t complete_ms;
    struct arena arena;  /* holds the records, and their bytes when they are copied; hints are referenced */
    void *pin;           /* the log's: keeps alive what the slices of the records point into otherwise */
    void (*unpin)(void *pin);
};
/*
 * The next records from `offset` on: at least one when there is one, at most about max_bytes of values. Waits up to
 * timeout_ms for one to come; n == 0 is no error. A consumer's position is next_offset, also when n == 0: it has moved
 * when there were damaged records only. An offset below the first gives records from the first on (the caller sees the
 * gap); beyond the end: ERR_NOT_FOUND.
 *
 * A record carries either its hint or its value: with hint != NULL value is {NULL, 0}. A hint is handed out once, to
 * the first fetch that gets there; fetching the same record again gives the value. So a consumer that could not use a
 * hint fetches from that offset again. Tenant, version, form and timestamp are always there. The batch is to be
 * released, also when n == 0, and before the log is closed.
 */
bool plog_fetch(struct plog *log, int32_t partition, int64_t offset, size_t max_bytes, int64_t timeout_ms,
                struct plog_batch *ret, struct err *err);
void plog_batch_release(struct plog_batch *b);
/* A fetch of the partition that waits for records ends now, or the next one does not wait: for who wants to stop its reader. */
void plog_wake(struct plog *log, int32_t partition);

/* --- offsets --- */

/* First retained offset, and the one that the next record will get. first == next: empty. */
bool plog_offsets(struct plog *log, int32_t partition, int64_t *ret_first, int64_t *ret_next, struct err *err);
/*
 * Of several partitions the offset that the next record will get, ret_next[i] of partitions[i]; with Kafka one request to each broker that leads some of
 * them. All or nothing.
 */
bool plog_ends(struct plog *log, const int32_t *partitions, size_t n, int64_t *ret_next, struct err *err);
/*
 * An offset beyond every record whose produce by this process was acknowledged before the call. In the embedded log that
 * is the end. With Kafka it costs no request and needs no broker; 0 when this process has produced nothing yet.
 */
bool plog_acknowledged(struct plog *log, int32_t partition, int64_t *ret_next, struct err *err);
/* First offset whose record has timestamp_ms >= t; next when none. */
bool plog_offset_at(struct plog *log, int32_t partition, int64_t t, int64_t *ret_offset, struct err *err);
/*
 * The last consumed offset of a group (Mimir's convention: not the next one). -1 when nothing was committed. Durable
 * when commit returns.
 */
bool plog_commit(struct plog *log, struct slice group, int32_t partition, int64_t offset, struct err *err);
bool plog_committed(struct plog *log, struct slice group, int32_t partition, int64_t *ret_offset, struct err *err);
/*
 * Records of the partition below `offset` are not needed by this process any more. Retention by age and size removes
 * only what is not needed; until this has been called for a partition, all of it is.
 */
void plog_set_needed_from(struct plog *log, int32_t partition, int64_t offset);
