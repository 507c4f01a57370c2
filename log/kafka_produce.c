/*
 * Producing to Kafka.
 *
 * plog_produce hands each record to librdkafka's queue of its partition, without a copy of the value, and returns.
 * librdkafka gathers a few milliseconds of records into a batch, sends it, repeats it until every in-sync replica has
 * it or -ingest-storage.kafka.write-timeout is over, and reports each record to kafka_delivered on the poll thread.
 * The last report of a request runs its done: with no error only when each record was acknowledged.
 *
 * A request may fail half-way while it is handed over. What was handed over cannot be taken back: the request goes on
 * with an error set and is done when these have their reports. The hand-over holds one count of its own, so that the
 * request does not end below it; when that count is the last one, the poll thread ends the request (the `late` list),
 * as done runs on a thread of the log.
 *
 * The idempotent producer can get into a state that it does not come out of (a fatal error: the broker has lost its
 * sequence numbers). Then its records fail and it is replaced by a new one.
 */
#include <arpa/inet.h>
#include <inttypes.h>
#include <snappy-c.h>
#include <stdlib.h>
#include <string.h>

#include "base/assert.h"
#include "base/clock.h"
#include "base/logger.h"
#include "log/kafka_int.h"

#define POLL_MS 50
#define RECORD_OVERHEAD_BYTES 256 /* what librdkafka keeps beside a record's own bytes, roughly */

/* One record: what its delivery report finds. */
struct item {
    struct kafka_request *request;
    size_t index;
};

struct kafka_request {
    struct plog_produce *p;
    struct kafka_request *next; /* in the late list */
    uint64_t value_bytes;
    _Atomic size_t left; /* reports to come, and one of the hand-over */
    _Atomic int error;   /* the first rd_kafka_resp_err_t */
    struct item item[];
};

static const char *reason_of(rd_kafka_resp_err_t code)
{
    switch (code) {
    case RD_KAFKA_RESP_ERR__MSG_TIMED_OUT:
    case RD_KAFKA_RESP_ERR_REQUEST_TIMED_OUT:
        return "timeout";
    case RD_KAFKA_RESP_ERR_MSG_SIZE_TOO_LARGE:
        return "record-too-large";
    default:
        return "other";
    }
}

/* --- the end of a request --- */

static void describe_failure(rd_kafka_resp_err_t code, struct err *err)
{
    if (code == RD_KAFKA_RESP_ERR_MSG_SIZE_TOO_LARGE)
        err_set(
            err, ERR_UNAVAILABLE,
            "Kafka refuses a record for its size: message.max.bytes of the brokers (max.message.bytes of the topic) "
            "is below %d",
            KAFKA_MESSAGE_MAX_BYTES);
    else
        kafka_err(err, code, "the records were not acknowledged by Kafka");
}

static void release_bytes(struct kafka *k, const struct plog_produce *p)
{
    uint64_t left = atomic_fetch_sub(&k->producer.buffered_bytes, p->bytes) - p->bytes;
    metric_set(k->m.writer.buffered_bytes, (double)left);
    metric_add(k->m.buffered_records, -(double)p->n);
}

static void finish(struct kafka *k, struct kafka_request *req)
{
    struct plog_produce *p = req->p;
    rd_kafka_resp_err_t code = (rd_kafka_resp_err_t)atomic_load(&req->error);
    double seconds = (double)(clock_mono_ns() - p->queued_ns) / 1e9;
    release_bytes(k, p);
    if (code) {
        struct err err;
        describe_failure(code, &err);
        log_count_failed(p->n, reason_of(code));
        metric_observe(k->m.writer.latency_failed, seconds);
        p->done(p, &err);
    } else {
        metric_add(k->m.writer.sent_bytes, (double)req->value_bytes);
        metric_observe(k->m.writer.latency_ok, seconds);
        p->done(p, NULL);
    }
    free(req);
}

static void note_offset(struct kafka_part *part, struct plog_record *r, int64_t offset)
{
    r->offset = offset;
    if (offset < 0) { /* a repeated send that the broker had already: it does not say where */
        r->offset = -1;
        atomic_store(&part->offset_unknown, true);
        return;
    }
    int64_t before = atomic_load(&part->acknowledged);
    while (before < offset + 1 && !atomic_compare_exchange_weak(&part->acknowledged, &before, offset + 1))
        ;
}

static void set_error(struct kafka_request *req, rd_kafka_resp_err_t code)
{
    int none = 0;
    atomic_compare_exchange_strong(&req->error, &none, (int)code);
}

/* On the poll thread. */
void kafka_delivered(rd_kafka_t *rk, const rd_kafka_message_t *message, void *opaque)
{
    (void)rk;
    struct kafka *k = opaque;
    const struct item *item = message->_private;
    struct kafka_request *req = item->request;
    struct plog_record *r = &req->p->records[item->index];
    if (message->err)
        set_error(req, message->err);
    else
        note_offset(k->part[r->partition], r, message->offset);
    if (atomic_fetch_sub(&req->left, 1) == 1)
        finish(k, req);
}

static void finish_late(struct kafka *k)
{
    pthread_mutex_lock(&k->producer.late_lock);
    struct kafka_request *req = k->producer.late;
    k->producer.late = NULL;
    pthread_mutex_unlock(&k->producer.late_lock);
    while (req) {
        struct kafka_request *next = req->next;
        finish(k, req);
        req = next;
    }
}

/* --- handing over --- */

/* The bytes as they go to Kafka; *ret_owned when they are to be freed. Values on Kafka's wire are never compressed
 * twice. */
static bool plain_value(const struct plog_record *r, struct slice *ret, bool *ret_owned, struct err *err)
{
    *ret = r->value;
    *ret_owned = false;
    if (r->form == PLOG_PLAIN)
        return true;
    size_t n;
    if (snappy_uncompressed_length(r->value.p, r->value.n, &n) != SNAPPY_OK || n > PLOG_VALUE_MAX)
        return err_set(err, ERR_INTERNAL, "a record's value is no snappy block");
    char *plain = malloc(n ? n : 1);
    if (!plain)
        return err_set(err, ERR_NO_MEMORY, "no memory for a record of %zu bytes", n);
    if (snappy_uncompress(r->value.p, r->value.n, plain, &n) != SNAPPY_OK) {
        free(plain);
        return err_set(err, ERR_INTERNAL, "a record's value is no snappy block");
    }
    *ret = slice_make(plain, n);
    *ret_owned = true;
    return true;
}

static bool hand_over(struct kafka *k, struct item *item, struct err *err)
{
    struct plog_record *r = &item->request->p->records[item->index];
    struct slice value;
    bool owned;
    if (!plain_value(r, &value, &owned, err))
        return false;
    item->request->value_bytes += value.n;
    uint32_t number = MAX(r->version, (uint32_t)k->cfg.kafka_record_version), version = htonl(number); /* 1 is 0 by another name */
    union { /* librdkafka's struct takes pointers that are not const; it does not write through them */
        const char *in;
        char *out;
    } v = {.in = value.p}, key = {.in = r->tenant.p};
    char none = 0;
    rd_kafka_vu_t args[8] = {
        {.vtype = RD_KAFKA_VTYPE_RKT, .u.rkt = k->producer.topic},
        {.vtype = RD_KAFKA_VTYPE_PARTITION, .u.i32 = r->partition},
        {.vtype = RD_KAFKA_VTYPE_VALUE, .u.mem = {v.out ? v.out : &none, value.n}},
        {.vtype = RD_KAFKA_VTYPE_KEY, .u.mem = {key.out ? key.out : &none, r->tenant.n}},
        {.vtype = RD_KAFKA_VTYPE_TIMESTAMP, .u.i64 = r->timestamp_ms},
        {.vtype = RD_KAFKA_VTYPE_OPAQUE, .u.ptr = item},
        {.vtype = RD_KAFKA_VTYPE_MSGFLAGS,
         .u.i = owned     ? RD_KAFKA_MSG_F_FREE
                : value.n ? 0
                          : RD_KAFKA_MSG_F_COPY},
        {.vtype = RD_KAFKA_VTYPE_HEADER, .u.header = {.name = "Version", .val = &version, .size = sizeof(version)}},
    };
    rd_kafka_error_t *error = rd_kafka_produceva(k->producer.rk, args, number ? 8 : 7);
    if (!error)
        return true;
    rd_kafka_resp_err_t code = rd_kafka_error_code(error);
    if (code == RD_KAFKA_RESP_ERR_MSG_SIZE_TOO_LARGE)
        err_set(
            err, ERR_BAD_DATA,
            "the write request contains a timeseries or metadata item which is larger that the maximum allowed size of "
            "%d bytes",
            KAFKA_MESSAGE_MAX_BYTES - 16384);
    else
        err_set(err, ERR_UNAVAILABLE, "Kafka client: %s", rd_kafka_error_string(error));
    set_error(item->request, code);
    rd_kafka_error_destroy(error);
    if (owned)
        free(v.out);
    return false;
}

/* Counts p against the bound of buffered bytes, or refuses it. */
static bool reserve(struct kafka *k, struct plog_produce *p, struct err *err)
{
    uint64_t limit = k->cfg.producer_max_buffered_bytes, before = atomic_load(&k->producer.buffered_bytes);
    do {
        if (p->bytes > limit || before > limit - p->bytes)
            return log_refuse_full(p, before, limit, err);
    } while (!atomic_compare_exchange_weak(&k->producer.buffered_bytes, &before, before + p->bytes));
    metric_set(k->m.writer.buffered_bytes, (double)(before + p->bytes));
    metric_add(k->m.buffered_records, (double)p->n);
    return true;
}

static uint64_t prepare(struct plog_produce *p)
{
    uint64_t value_bytes = log_produce_begin(p);
    p->bytes = 0;
    for (size_t i = 0; i < p->n; i++) {
        const struct plog_record *r = &p->records[i];
        size_t n = r->value.n;
        /* A compressed value is there twice until it is acknowledged. */
        if (r->form == PLOG_SNAPPY && snappy_uncompressed_length(r->value.p, r->value.n, &n) == SNAPPY_OK)
            n += r->value.n;
        p->bytes += n + r->tenant.n + RECORD_OVERHEAD_BYTES;
    }
    return value_bytes;
}

/* Returns how many records were handed over; fewer than all of them: err is set. */
static size_t hand_over_all(struct kafka *k, struct kafka_request *req, struct err *err)
{
    size_t n = req->p->n, i = 0;
    pthread_rwlock_rdlock(&k->producer.lock);
    if (!k->producer.rk) {
        err_set(err, ERR_UNAVAILABLE, "the Kafka producer is being replaced after a fatal error");
    } else {
        while (i < n) {
            req->item[i] = (struct item){req, i};
            if (!hand_over(k, &req->item[i], err))
                break;
            i++;
        }
    }
    pthread_rwlock_unlock(&k->producer.lock);
    return i;
}

/* Gives up n counts of the request; the poll thread ends it when they were the last. */
static void drop_counts(struct kafka *k, struct kafka_request *req, size_t n)
{
    if (atomic_fetch_sub(&req->left, n) != n)
        return;
    pthread_mutex_lock(&k->producer.late_lock);
    req->next = k->producer.late;
    k->producer.late = req;
    pthread_mutex_unlock(&k->producer.late_lock);
}

bool kafka_produce(struct plog *log, struct plog_produce *p, struct err *err)
{
    struct kafka *k = CONTAINER_OF(log, struct kafka, base);
    size_t n = p->n; /* p may be gone as soon as it is handed over */
    metric_add(k->m.writer.input_bytes, (double)prepare(p));
    if (!reserve(k, p, err)) {
        log_count_failed(n, "buffer-full");
        return false;
    }
    struct kafka_request *req = calloc(1, sizeof(*req) + n * sizeof(req->item[0]));
    ASSERT(req);
    req->p = p;
    atomic_init(&req->left, n + 1);
    struct err why = ERR_NONE;
    int64_t begin_ns = p->queued_ns;
    size_t handed = hand_over_all(k, req, &why);
    metric_observe(k->m.enqueue_seconds, (double)(clock_mono_ns() - begin_ns) / 1e9);
    if (handed < n && handed == 0) {
        release_bytes(k, p);
        log_count_failed(n, "other");
        free(req);
        if (err)
            *err = why;
        return false;
    }
    if (handed < n)
        set_error(req, RD_KAFKA_RESP_ERR__FAIL); /* unless it has a better one already */
    metric_add(k->m.writer.enqueued, (double)n);
    drop_counts(k, req, n - handed + 1);
    return true;
}

/* --- the poll thread --- */

static bool producer_make(struct kafka *k, rd_kafka_t **ret_rk, rd_kafka_topic_t **ret_topic, struct err *err)
{
    *ret_rk = kafka_handle_new(&k->cfg, KAFKA_PRODUCER, NULL, NULL, k, err);
    if (!*ret_rk)
        return false;
    *ret_topic = rd_kafka_topic_new(*ret_rk, k->cfg.kafka_topic, NULL);
    if (*ret_topic)
        return true;
    rd_kafka_destroy(*ret_rk);
    return kafka_err(err, rd_kafka_last_error(), "Kafka topic");
}

static void swap_handle(struct kafka *k, rd_kafka_t *rk, rd_kafka_topic_t *topic)
{
    pthread_rwlock_wrlock(&k->producer.lock);
    k->producer.rk = rk;
    k->producer.topic = topic;
    pthread_rwlock_unlock(&k->producer.lock);
}

static void drain(rd_kafka_t *rk)
{
    rd_kafka_purge(rk, RD_KAFKA_PURGE_F_QUEUE | RD_KAFKA_PURGE_F_INFLIGHT);
    while (rd_kafka_outq_len(rk) > 0)
        rd_kafka_poll(rk, POLL_MS);
}

/* What was not acknowledged fails; the next request goes to a new producer. Returns its handle. */
static rd_kafka_t *replace(struct kafka *k, rd_kafka_t *rk)
{
    rd_kafka_topic_t *topic = k->producer.topic;
    struct err err = ERR_NONE;
    char text[256];
    rd_kafka_fatal_error(rk, text, sizeof(text));
    LOG_ERROR("the Kafka producer had a fatal error and is replaced", {"err", LOG_STR(text)});
    swap_handle(k, NULL, NULL);
    drain(rk);
    rd_kafka_topic_destroy(topic);
    rd_kafka_destroy(rk);
    while (!producer_make(k, &rk, &topic, &err)) { /* no threads or memory: it is as good as down until there are */
        LOG_ERROR("no Kafka producer can be made", {"err", LOG_ERR(&err)});
        kafka_sleep_ms(1000);
    }
    swap_handle(k, rk, topic);
    return rk;
}

static void *poll_main(void *arg)
{
    struct kafka *k = arg;
    rd_kafka_t *rk = k->producer.rk; /* only this thread replaces it */
    int64_t end_ms = 0;
    for (;;) {
        rd_kafka_poll(rk, POLL_MS);
        finish_late(k);
        if (rd_kafka_fatal_error(rk, NULL, 0))
            rk = replace(k, rk);
        if (!atomic_load(&k->producer.closing))
            continue;
        if (rd_kafka_outq_len(rk) == 0)
            return NULL;
        if (!end_ms)
            end_ms = clock_mono_ms() + 2 * k->cfg.kafka_write_timeout;
        if (clock_mono_ms() > end_ms)
            drain(rk);
    }
}

bool kafka_producer_start(struct kafka *k, struct err *err)
{
    struct kafka_producer *p = &k->producer;
    if (!producer_make(k, &p->rk, &p->topic, err))
        return false;
    int rc = pthread_create(&p->poller, NULL, poll_main, k);
    if (rc == 0)
        return true;
    rd_kafka_topic_destroy(p->topic);
    rd_kafka_destroy(p->rk);
    p->rk = NULL;
    return err_errno(err, ERR_INTERNAL, rc, "starting the Kafka producer's thread");
}

void kafka_producer_stop(struct kafka *k)
{
    struct kafka_producer *p = &k->producer;
    if (!p->rk)
        return;
    atomic_store(&p->closing, true);
    pthread_join(p->poller, NULL);
    finish_late(k);
    rd_kafka_topic_destroy(p->topic);
    rd_kafka_destroy(p->rk);
}
