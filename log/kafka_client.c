/* From our flags, which are Mimir's, to librdkafka's properties; from its errors and log lines to ours. */
#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <time.h>

#include "base/assert.h"
#include "base/buf.h"
#include "base/logger.h"
#include "log/kafka_int.h"

bool kafka_config_check(const struct plog_config *cfg, struct err *err)
{
    if (!cfg->kafka_topic[0])
        return err_set(err, ERR_CONFIG,
                       "-ingest-storage.kafka.topic is empty, but -ingest-storage.kafka.address is set");
    if (cfg->kafka_auto_create_topic_partitions == 0 || cfg->kafka_auto_create_topic_partitions < -1)
        return err_set(err, ERR_CONFIG,
                       "-ingest-storage.kafka.auto-create-topic-default-partitions is %" PRId64
                       ": it must be -1 (the broker's default) or at least 1",
                       cfg->kafka_auto_create_topic_partitions);
    if (cfg->kafka_linger < 0 || cfg->kafka_linger >= cfg->kafka_write_timeout)
        return err_set(err, ERR_CONFIG, "-ingest-storage.kafka.producer-linger must be below -ingest-storage.kafka.write-timeout");
    static const char *const codecs[] = {"none", "gzip", "snappy", "lz4", "zstd"};
    size_t codec = 0;
    while (codec < ARRAY_LEN(codecs) && strcmp(cfg->kafka_compression, codecs[codec]) != 0)
        codec++;
    if (codec == ARRAY_LEN(codecs))
        return err_set(err, ERR_CONFIG,
                       "invalid value for flag -ingest-storage.kafka.producer-compression: \"%s\" is not none, gzip, snappy, lz4 or zstd",
                       cfg->kafka_compression);
    if (cfg->kafka_record_version < 0 || cfg->kafka_record_version > 1)
        return err_set(err, ERR_CONFIG,
                       "-ingest-storage.kafka.producer-record-version=%" PRId64 ": records of version 0 and 1 can be written",
                       cfg->kafka_record_version);
    if (cfg->kafka_write_timeout < 1000 || cfg->kafka_write_timeout > 900000)
        return err_set(err, ERR_CONFIG, "-ingest-storage.kafka.write-timeout must be from 1s to 15m");
    return kafka_security_check(cfg, err);
}

/* --- properties --- */

void kafka_prop_set(struct kafka_props *p, const char *name, const char *value)
{
    char text[256];
    if (p->ok && rd_kafka_conf_set(p->conf, name, value, text, sizeof(text)) != RD_KAFKA_CONF_OK)
        p->ok = err_set(p->err, ERR_CONFIG, "Kafka client: %s: %s", name, text);
}

void kafka_prop_set_unless_empty(struct kafka_props *p, const char *name, const char *value)
{
    if (value[0])
        kafka_prop_set(p, name, value);
}

static void set_i64(struct kafka_props *p, const char *name, int64_t value)
{
    char text[32];
    snprintf(text, sizeof(text), "%" PRId64, value);
    kafka_prop_set(p, name, text);
}

static void set_connection(struct kafka_props *p, const struct plog_config *cfg)
{
    struct buf servers;
    buf_init(&servers, 0);
    for (size_t i = 0; i < cfg->kafka_address.n; i++)
        buf_printf(&servers, "%s%s", i ? "," : "", cfg->kafka_address.items[i]);
    kafka_prop_set(p, "bootstrap.servers", buf_cstr(&servers));
    buf_release(&servers);
    kafka_prop_set(p, "client.id", cfg->kafka_client_id[0] ? cfg->kafka_client_id : "brunn");
    kafka_prop_set_unless_empty(p, "client.rack", cfg->kafka_client_rack);
    set_i64(p, "socket.connection.setup.timeout.ms", MAX(cfg->kafka_dial_timeout, 1000));
    kafka_prop_set(p, "socket.nagle.disable", "true");
    kafka_prop_set(p, "socket.keepalive.enable", "true");
    kafka_prop_set(p, "reconnect.backoff.max.ms", "1000"); /* an outage heals within a second of its end */
    /* As Mimir's: so soon a refusal (no right to the topic) is forgotten that the brokers do not repeat. */
    kafka_prop_set(p, "topic.metadata.refresh.interval.ms", "10000");
    set_i64(p, "message.max.bytes", KAFKA_MESSAGE_MAX_BYTES);
}

/*
 * A batch stays below a megabyte before compression, so that it passes a broker left at its default of 1 MiB; only a
 * record that is larger alone makes a larger one.
 */
static void set_producer(struct kafka_props *p, const struct plog_config *cfg)
{
    kafka_prop_set(p, "enable.idempotence", "true"); /* with it: acks=all, order kept across retries */
    kafka_prop_set(p, "acks", "all");
    set_i64(p, "linger.ms", cfg->kafka_linger);
    kafka_prop_set(p, "batch.size", "1000000");
    kafka_prop_set(p, "compression.codec", cfg->kafka_compression);
    set_i64(p, "delivery.timeout.ms", cfg->kafka_write_timeout);
    set_i64(p, "request.timeout.ms", cfg->kafka_write_timeout);
    /* The bound is ours: kafka_produce.c. */
    kafka_prop_set(p, "queue.buffering.max.messages", "10000000");
    kafka_prop_set(p, "queue.buffering.max.kbytes", "2147483647");
    rd_kafka_conf_set_dr_msg_cb(p->conf, kafka_delivered);
}

static void set_consumer(struct kafka_props *p, const struct plog_config *cfg)
{
    kafka_prop_set(p, "auto.offset.reset", "error"); /* kafka_fetch.c decides */
    kafka_prop_set(p, "enable.partition.eof", "true");
    kafka_prop_set(p, "enable.auto.commit", "false");
    kafka_prop_set(p, "auto.commit.enable", "false");
    kafka_prop_set(p, "check.crcs", "true");
    kafka_prop_set(p, "isolation.level", "read_uncommitted");
    set_i64(p, "fetch.wait.max.ms", MIN(cfg->kafka_fetch_max_wait, KAFKA_FETCH_WAIT_MAX_MS));
    kafka_prop_set(p, "fetch.message.max.bytes", "16000000");
    kafka_prop_set(p, "fetch.max.bytes", "50000000");
    kafka_prop_set(p, "fetch.error.backoff.ms", "100");
    set_i64(p, "queued.max.messages.kbytes",
            (int64_t)MAX(MIN(cfg->kafka_max_buffered_bytes, KAFKA_QUEUED_MAX_BYTES) / 1024, 1));
}

/* --- the handle --- */

/*
 * librdkafka has syslog's levels. What it calls an error is a broker that is away: it goes on by itself. Its opinions
 * of properties (CONFWARN) are for us, not for who runs this.
 */
static void log_line(const rd_kafka_t *rk, int level, const char *facility, const char *text)
{
    if (level <= 4 && strcmp(facility, "CONFWARN") != 0)
        LOG_WARN("kafka client", {"client", LOG_STR(rk ? rd_kafka_name(rk) : "")}, {"what", LOG_STR(facility)},
                 {"detail", LOG_STR(text)});
    else
        LOG_DEBUG("kafka client", {"what", LOG_STR(facility)}, {"detail", LOG_STR(text)});
}

rd_kafka_t *kafka_handle_new(const struct plog_config *cfg, enum kafka_role role, const char *group,
                             struct kafka_part *part, void *opaque, struct err *err)
{
    struct kafka_props p = {.conf = rd_kafka_conf_new(), .err = err, .ok = true};
    set_connection(&p, cfg);
    kafka_security_set(&p, cfg);
    if (role == KAFKA_PRODUCER)
        set_producer(&p, cfg);
    else
        set_consumer(&p, cfg);
    if (role == KAFKA_GROUP) {
        kafka_prop_set(&p, "group.id", group);
        kafka_prop_set(&p, "session.timeout.ms", "10000"); /* so long a commit waits for the coordinator */
    }
    if (role == KAFKA_CONSUMER && rd_kafka_conf_interceptor_add_on_new(p.conf, "complete", kafka_consumer_made, part))
        p.ok = err_set(err, ERR_CONFIG, "Kafka client: an interceptor is refused");
    rd_kafka_conf_set_opaque(p.conf, opaque);
    rd_kafka_conf_set_log_cb(p.conf, log_line);
    char text[512];
    rd_kafka_t *rk = NULL;
    if (p.ok) {
        rk = rd_kafka_new(role == KAFKA_PRODUCER ? RD_KAFKA_PRODUCER : RD_KAFKA_CONSUMER, p.conf, text, sizeof(text));
        if (!rk)
            err_set(err, ERR_CONFIG, "Kafka client: %s", text);
    }
    if (!rk) { /* a handle that was made owns the configuration */
        rd_kafka_conf_destroy(p.conf);
    } else if (!kafka_security_start(rk, cfg, err)) {
        rd_kafka_destroy(rk);
        return NULL;
    }
    return rk;
}

/* --- errors --- */

bool kafka_err_is_passing(rd_kafka_resp_err_t code)
{
    switch (code) {
    case RD_KAFKA_RESP_ERR__TRANSPORT:
    case RD_KAFKA_RESP_ERR__RESOLVE:
    case RD_KAFKA_RESP_ERR__ALL_BROKERS_DOWN:
    case RD_KAFKA_RESP_ERR__TIMED_OUT:
    case RD_KAFKA_RESP_ERR__TIMED_OUT_QUEUE:
    case RD_KAFKA_RESP_ERR__WAIT_COORD:
    case RD_KAFKA_RESP_ERR__WAIT_CACHE:
    case RD_KAFKA_RESP_ERR__UNKNOWN_TOPIC:
    case RD_KAFKA_RESP_ERR__UNKNOWN_PARTITION:
    case RD_KAFKA_RESP_ERR_UNKNOWN_TOPIC_OR_PART:
    case RD_KAFKA_RESP_ERR_LEADER_NOT_AVAILABLE:
    case RD_KAFKA_RESP_ERR_NOT_LEADER_FOR_PARTITION:
    case RD_KAFKA_RESP_ERR_REQUEST_TIMED_OUT:
    case RD_KAFKA_RESP_ERR_BROKER_NOT_AVAILABLE:
    case RD_KAFKA_RESP_ERR_REPLICA_NOT_AVAILABLE:
    case RD_KAFKA_RESP_ERR_NETWORK_EXCEPTION:
    case RD_KAFKA_RESP_ERR_COORDINATOR_LOAD_IN_PROGRESS:
    case RD_KAFKA_RESP_ERR_COORDINATOR_NOT_AVAILABLE:
    case RD_KAFKA_RESP_ERR_NOT_COORDINATOR:
    case RD_KAFKA_RESP_ERR_NOT_ENOUGH_REPLICAS:
    case RD_KAFKA_RESP_ERR_NOT_ENOUGH_REPLICAS_AFTER_APPEND:
    case RD_KAFKA_RESP_ERR_NOT_CONTROLLER:
    case RD_KAFKA_RESP_ERR_KAFKA_STORAGE_ERROR:
    case RD_KAFKA_RESP_ERR_OFFSET_NOT_AVAILABLE:
    case RD_KAFKA_RESP_ERR_FENCED_LEADER_EPOCH:
    case RD_KAFKA_RESP_ERR_UNKNOWN_LEADER_EPOCH:
        return true;
    default:
        return false;
    }
}

bool kafka_err(struct err *err, rd_kafka_resp_err_t code, const char *what)
{
    return err_set(err, ERR_UNAVAILABLE, "%s: %s", what, rd_kafka_err2str(code));
}

void kafka_sleep_ms(int64_t ms)
{
    struct timespec t = {.tv_sec = ms / 1000, .tv_nsec = ms % 1000 * 1000000};
    nanosleep(&t, NULL);
}
