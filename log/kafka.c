/*
 * The Kafka back end: life cycle and topic.
 *
 * The bytes in Kafka are Mimir's (docs/formats.md section 2): key = tenant, value = WriteRequest in the record's
 * version, header Version only above version 0, partition chosen by the caller. The parts stand in kafka_int.h.
 *
 * Open asks for the topic to be made when that is wanted, and waits for its partitions, whose number is fixed from then
 * on. Brokers that are away are waited for, as a start may come before theirs; then the error says what was missing.
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

static void kafka_set_needed_from(struct plog *log, int32_t partition, int64_t offset)
{
    (void)log, (void)partition, (void)offset; /* retention is the brokers' */
}

static void kafka_free(struct kafka *k)
{
    for (int32_t i = 0; k->part && i < k->base.n_partitions; i++)
        pthread_mutex_destroy(&k->part[i].lock);
    pthread_rwlock_destroy(&k->producer.lock);
    pthread_mutex_destroy(&k->producer.late_lock);
    pthread_mutex_destroy(&k->groups_lock);
    if (k->client)
        rd_kafka_destroy(k->client);
    free(k->part);
    free(k);
}

static void kafka_close(struct plog *log)
{
    struct kafka *k = CONTAINER_OF(log, struct kafka, base);
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

static rd_kafka_resp_err_t ask_partitions(const struct kafka *k, int32_t *ret_n)
{
    const struct rd_kafka_metadata *md;
    rd_kafka_topic_t *topic = rd_kafka_topic_new(k->client, k->cfg.kafka_topic, NULL);
    if (!topic)
        return rd_kafka_last_error();
    rd_kafka_resp_err_t code = rd_kafka_metadata(k->client, 0, topic, &md, REQUEST_TIMEOUT_MS);
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
static bool find_topic(struct kafka *k, struct err *err)
{
    int64_t end_ms = clock_mono_ms() + OPEN_TIMEOUT_MS;
    bool create = k->cfg.kafka_auto_create_topic_enabled;
    rd_kafka_resp_err_t code;
    for (;;) {
        code = ask_partitions(k, &k->base.n_partitions);
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
    log_metrics_register();
    k->m = (struct kafka_metrics){
        .latency_ok = log_metric(LOG_WRITER_LATENCY, "success"),
        .latency_failed = log_metric(LOG_WRITER_LATENCY, "failure"),
        .buffered_bytes = metric_single(log_metrics[LOG_BUFFERED_BYTES]),
        .enqueued = metric_single(log_metrics[LOG_RECORDS_ENQUEUED]),
        .input_bytes = metric_single(log_metrics[LOG_INPUT_BYTES]),
        .sent_bytes = metric_single(log_metrics[LOG_SENT_BYTES]),
        .fetched = log_metric(LOG_FETCHED_RECORDS, "kafka"),
        .fetch_errors = metric_single(log_metrics[LOG_KAFKA_FETCH_ERRORS]),
        .corrupt_records = metric_single(log_metrics[LOG_CORRUPT_RECORDS]),
        .offset_requests = metric_single(log_metrics[LOG_KAFKA_OFFSET_REQUESTS]),
        .offset_failures = metric_single(log_metrics[LOG_KAFKA_OFFSET_FAILURES]),
        .offset_seconds = metric_single(log_metrics[LOG_KAFKA_OFFSET_SECONDS]),
    };
    metric_set(metric_single(log_metrics[LOG_BUFFERED_BYTES_LIMIT]), (double)k->cfg.producer_max_buffered_bytes);
}

static void make_parts(struct kafka *k)
{
    k->part = calloc((size_t)k->base.n_partitions, sizeof(k->part[0]));
    ASSERT(k->part);
    for (int32_t i = 0; i < k->base.n_partitions; i++) {
        pthread_mutex_init(&k->part[i].lock, NULL);
        k->part[i].position = -1;
    }
}

struct plog *plog_open_kafka(const struct plog_config *cfg, struct err *err)
{
    if (!kafka_config_check(cfg, err))
        return NULL;
    struct kafka *k = calloc(1, sizeof(*k));
    ASSERT(k);
    k->base.ops = &kafka_ops;
    k->cfg = *cfg;
    pthread_rwlock_init(&k->producer.lock, NULL);
    pthread_mutex_init(&k->producer.late_lock, NULL);
    pthread_mutex_init(&k->groups_lock, NULL);
    get_metrics(k);
    k->client = kafka_handle_new(cfg, KAFKA_CLIENT, NULL, k, err);
    if (!k->client || !find_topic(k, err)) {
        kafka_free(k);
        return NULL;
    }
    make_parts(k);
    if (!kafka_producer_start(k, err)) {
        kafka_free(k);
        return NULL;
    }
    LOG_INFO("opened the log in Kafka", {"topic", LOG_STR(cfg->kafka_topic)},
             {"partitions", LOG_I64(k->base.n_partitions)});
    return &k->base;
}
