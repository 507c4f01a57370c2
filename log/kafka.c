/*
 * The Kafka back end: life cycle and topic.
 *
 * The bytes in Kafka are Mimir's (docs/formats.md section 2): key = tenant, value = WriteRequest in the record's
 * version, header Version only above version 0, partition chosen by the caller. The parts stand in kafka_int.h.
 *
 * Open asks for the topic to be made when that is wanted, and waits for its partitions. Brokers that are away are waited for, as a start may come before
 * theirs; then the error says what was missing. Later a thread looks whether the topic has grown: new partitions are there within 10 seconds, or a
 * second after somebody asked for one.
 */
#include <inttypes.h>
#include <stdlib.h>

#include "base/assert.h"
#include "base/clock.h"
#include "base/logger.h"
#include "log/kafka_int.h"

#define OPEN_TIMEOUT_MS 60000
#define REQUEST_TIMEOUT_MS 5000
#define CREATE_TIMEOUT_MS 15000 /* as Mimir's */
#define RETRY_MS 200
#define WATCH_MS 10000
#define WATCH_AGAIN_MS 1000
#define WATCH_TIMEOUT_MS 2000

static void kafka_set_needed_from(struct plog *log, int32_t partition, int64_t offset)
{
    (void)log, (void)partition, (void)offset; /* retention is the brokers' */
}

static void kafka_free(struct kafka *k)
{
    for (int32_t i = 0; i < plog_partitions(&k->base); i++) {
        pthread_mutex_destroy(&k->part[i]->lock);
        free(k->part[i]);
    }
    pthread_mutex_destroy(&k->watch.lock);
    pthread_cond_destroy(&k->watch.more);
    pthread_rwlock_destroy(&k->producer.lock);
    pthread_mutex_destroy(&k->producer.late_lock);
    pthread_mutex_destroy(&k->groups_lock);
    if (k->client)
        rd_kafka_destroy(k->client);
    free(k->part);
    free(k);
}

static void watch_stop(struct kafka *k)
{
    if (!k->watch.started)
        return;
    pthread_mutex_lock(&k->watch.lock);
    k->watch.closing = true;
    pthread_cond_signal(&k->watch.more);
    pthread_mutex_unlock(&k->watch.lock);
    pthread_join(k->watch.thread, NULL);
}

static void kafka_missing(struct plog *log)
{
    struct kafka *k = CONTAINER_OF(log, struct kafka, base);
    pthread_mutex_lock(&k->watch.lock);
    k->watch.missing = true;
    pthread_cond_signal(&k->watch.more);
    pthread_mutex_unlock(&k->watch.lock);
}

static void kafka_close(struct plog *log)
{
    struct kafka *k = CONTAINER_OF(log, struct kafka, base);
    watch_stop(k);
    kafka_producer_stop(k);
    kafka_consumers_stop(k);
    kafka_groups_stop(k);
    kafka_free(k);
}

static const struct plog_ops kafka_ops = {
    .wants_plain = true,
    .close = kafka_close,
    .produce = kafka_produce,
    .fetch = kafka_fetch,
    .offsets = kafka_offsets,
    .ends = kafka_ends,
    .offset_at = kafka_offset_at,
    .commit = kafka_commit,
    .committed = kafka_committed,
    .set_needed_from = kafka_set_needed_from,
    .wake = kafka_wake,
    .missing = kafka_missing,
    .acknowledged = kafka_acknowledged,
};

/* --- the topic --- */

static rd_kafka_resp_err_t create_result(rd_kafka_event_t *event)
{
    rd_kafka_resp_err_t code = rd_kafka_event_error(event);
    const rd_kafka_CreateTopics_result_t *result = rd_kafka_event_CreateTopics_result(event);
    size_t n = 0;
    const rd_kafka_topic_result_t **topics = result ? rd_kafka_CreateTopics_result_topics(result, &n) : NULL;
    if (!code && n == 1)
        code = rd_kafka_topic_result_error(topics[0]);
    return code == RD_KAFKA_RESP_ERR_TOPIC_ALREADY_EXISTS ? RD_KAFKA_RESP_ERR_NO_ERROR : code;
}

/* As Mimir: partitions by flag, everything else the brokers' defaults. That the topic exists is no error. */
static rd_kafka_resp_err_t create_topic(const struct kafka *k)
{
    char text[256];
    rd_kafka_NewTopic_t *topic = rd_kafka_NewTopic_new(
        k->cfg.kafka_topic, (int)k->cfg.kafka_auto_create_topic_partitions, -1, text, sizeof(text));
    if (!topic)
        return RD_KAFKA_RESP_ERR__INVALID_ARG;
    rd_kafka_AdminOptions_t *options = rd_kafka_AdminOptions_new(k->client, RD_KAFKA_ADMIN_OP_CREATETOPICS);
    rd_kafka_AdminOptions_set_operation_timeout(options, CREATE_TIMEOUT_MS, text, sizeof(text));
    rd_kafka_AdminOptions_set_request_timeout(options, CREATE_TIMEOUT_MS, text, sizeof(text));
    rd_kafka_queue_t *queue = rd_kafka_queue_new(k->client);
    rd_kafka_CreateTopics(k->client, &topic, 1, options, queue);
    rd_kafka_event_t *event = rd_kafka_queue_poll(queue, CREATE_TIMEOUT_MS + REQUEST_TIMEOUT_MS);
    rd_kafka_resp_err_t code = event ? create_result(event) : RD_KAFKA_RESP_ERR__TIMED_OUT;
    if (event)
        rd_kafka_event_destroy(event);
    rd_kafka_queue_destroy(queue);
    rd_kafka_AdminOptions_destroy(options);
    rd_kafka_NewTopic_destroy(topic);
    return code;
}

static rd_kafka_resp_err_t ask_partitions(const struct kafka *k, int timeout_ms, int32_t *ret_n)
{
    const struct rd_kafka_metadata *md;
    rd_kafka_topic_t *topic = rd_kafka_topic_new(k->client, k->cfg.kafka_topic, NULL);
    if (!topic)
        return rd_kafka_last_error();
    rd_kafka_resp_err_t code = rd_kafka_metadata(k->client, 0, topic, &md, timeout_ms);
    rd_kafka_topic_destroy(topic);
    if (code)
        return code;
    code = md->topic_cnt == 1 ? md->topics[0].err : RD_KAFKA_RESP_ERR__UNKNOWN_TOPIC;
    *ret_n = md->topic_cnt == 1 ? md->topics[0].partition_cnt : 0;
    rd_kafka_metadata_destroy(md);
    return !code && *ret_n <= 0 ? RD_KAFKA_RESP_ERR__UNKNOWN_TOPIC : code;
}

static bool is_missing(rd_kafka_resp_err_t code)
{
    return code == RD_KAFKA_RESP_ERR_UNKNOWN_TOPIC_OR_PART || code == RD_KAFKA_RESP_ERR__UNKNOWN_TOPIC;
}

/* Creates only when brokers have answered that there is no such topic. */
static bool find_topic(struct kafka *k, int32_t *ret_n, struct err *err)
{
    int64_t end_ms = clock_mono_ms() + OPEN_TIMEOUT_MS;
    bool create = k->cfg.kafka_auto_create_topic_enabled;
    rd_kafka_resp_err_t code;
    for (;;) {
        code = ask_partitions(k, REQUEST_TIMEOUT_MS, ret_n);
        if (!code)
            return true;
        if (is_missing(code) && create) {
            code = create_topic(k);
            create = code && kafka_err_is_passing(code);
        } else if (is_missing(code) && !k->cfg.kafka_auto_create_topic_enabled) {
            break;
        }
        if ((code && !kafka_err_is_passing(code)) || clock_mono_ms() > end_ms)
            break;
        kafka_sleep_ms(RETRY_MS);
    }
    kafka_err(err, code, k->cfg.kafka_topic);
    return err_prefix(err, "Kafka topic ");
}

/* --- open --- */

static void get_metrics(struct kafka *k)
{
    log_writer_metrics_init(&k->m.writer, k->cfg.producer_max_buffered_bytes);
    k->m.buffered_records = metric_single(log_metrics[LOG_BUFFERED_RECORDS]);
    k->m.enqueue_seconds = metric_single(log_metrics[LOG_ENQUEUE_SECONDS]);
    k->m.fetched = log_metric(LOG_FETCHED_RECORDS, "kafka");
    k->m.fetch_errors = metric_single(log_metrics[LOG_KAFKA_FETCH_ERRORS]);
    k->m.corrupt_records = metric_single(log_metrics[LOG_CORRUPT_RECORDS]);
}

/* --- growing --- */

/* By open, then by the watch alone. */
static void grow_to(struct kafka *k, int32_t n)
{
    n = MIN(n, KAFKA_PARTITIONS_MAX);
    for (int32_t i = plog_partitions(&k->base); i < n; i++) {
        struct kafka_part *part = calloc(1, sizeof(*part));
        ASSERT(part);
        pthread_mutex_init(&part->lock, NULL);
        part->position = -1;
        k->part[i] = part;
        atomic_store_explicit(&k->base.n_partitions, i + 1, memory_order_release);
    }
}

/* Waits until it is time to look again; false: closing. */
static bool watch_wait(struct kafka *k, int64_t looked_ms)
{
    struct kafka_topic_watch *w = &k->watch;
    pthread_mutex_lock(&w->lock);
    for (;;) {
        int64_t at_ms = looked_ms + (w->missing ? WATCH_AGAIN_MS : WATCH_MS);
        if (w->closing || clock_mono_ms() >= at_ms)
            break;
        struct timespec t = {.tv_sec = at_ms / 1000, .tv_nsec = at_ms % 1000 * 1000000};
        pthread_cond_timedwait(&w->more, &w->lock, &t);
    }
    w->missing = false;
    bool go_on = !w->closing;
    pthread_mutex_unlock(&w->lock);
    return go_on;
}

static void *watch_main(void *arg)
{
    struct kafka *k = arg;
    while (watch_wait(k, clock_mono_ms())) {
        int32_t n, before = plog_partitions(&k->base);
        if (ask_partitions(k, WATCH_TIMEOUT_MS, &n) || n <= before)
            continue; /* brokers that are away are told of by those who need them */
        grow_to(k, n);
        LOG_INFO("the topic has grown", {"topic", LOG_STR(k->cfg.kafka_topic)}, {"partitions", LOG_I64(n)}, {"before", LOG_I64(before)});
    }
    return NULL;
}

static bool watch_start(struct kafka *k, struct err *err)
{
    int rc = pthread_create(&k->watch.thread, NULL, watch_main, k);
    k->watch.started = rc == 0;
    return rc == 0 || err_errno(err, ERR_INTERNAL, rc, "starting the thread that watches the topic");
}

static void init_locks(struct kafka *k)
{
    pthread_condattr_t attr;
    pthread_condattr_init(&attr);
    pthread_condattr_setclock(&attr, CLOCK_MONOTONIC);
    pthread_cond_init(&k->watch.more, &attr);
    pthread_condattr_destroy(&attr);
    pthread_mutex_init(&k->watch.lock, NULL);
    pthread_rwlock_init(&k->producer.lock, NULL);
    pthread_mutex_init(&k->producer.late_lock, NULL);
    pthread_mutex_init(&k->groups_lock, NULL);
}

static bool start(struct kafka *k, struct err *err)
{
    int32_t n;
    k->client = kafka_handle_new(&k->cfg, KAFKA_CLIENT, NULL, NULL, k, err);
    if (!k->client || !find_topic(k, &n, err))
        return false;
    grow_to(k, n);
    if (!watch_start(k, err))
        return false;
    if (kafka_producer_start(k, err))
        return true;
    watch_stop(k);
    return false;
}

struct plog *plog_open_kafka(const struct plog_config *cfg, struct err *err)
{
    if (!kafka_config_check(cfg, err))
        return NULL;
    struct kafka *k = calloc(1, sizeof(*k));
    ASSERT(k);
    k->base.ops = &kafka_ops;
    k->cfg = *cfg;
    k->part = calloc(KAFKA_PARTITIONS_MAX, sizeof(struct kafka_part *));
    ASSERT(k->part);
    init_locks(k);
    get_metrics(k);
    if (!start(k, err)) {
        kafka_free(k);
        return NULL;
    }
    LOG_INFO("opened the log in Kafka", {"topic", LOG_STR(cfg->kafka_topic)}, {"partitions", LOG_I64(plog_partitions(&k->base))});
    return &k->base;
}
