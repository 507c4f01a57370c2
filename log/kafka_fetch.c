/*
 * Fetching from Kafka: one consumer a partition, on exactly one partition, without a group.
 *
 * librdkafka reads ahead in the background; a fetch takes messages off its queue and pins them in the batch, so that
 * slices point into the bytes as they came (a message keeps its buffer alive until it is released). A fetch that does
 * not go on where the last one ended starts the consumer anew at its offset: what was read ahead is thrown away.
 *
 * Broker trouble is not the reader's: librdkafka connects, finds the new leader and goes on by itself. Only a fetch
 * whose time ends with nothing but errors says so, and the next one starts anew.
 */
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "base/assert.h"
#include "base/clock.h"
#include "base/logger.h"
#include "log/kafka_int.h"

/* When nothing is known of the end, a fetch gives the broker so long to answer whatever its timeout is. */
#define FIRST_ANSWER_MS 1000
#define WAKE_LOOK_MS 50 /* librdkafka's wait cannot be interrupted: plog_wake takes so long at most */

/* The messages of a batch, in its arena. */
struct pin {
    size_t n, cap;
    rd_kafka_message_t **messages;
};

struct fetch {
    struct kafka *k;
    struct kafka_part *part;
    int32_t partition;
    size_t max_bytes, bytes, cap;
    struct plog_batch *ret;
    struct pin *pin;
    rd_kafka_resp_err_t trouble; /* the last passing error */
};

static void unpin(void *arg)
{
    struct pin *pin = arg;
    for (size_t i = 0; i < pin->n; i++)
        rd_kafka_message_destroy(pin->messages[i]);
}

/* --- until when it is complete --- */

#define API_FETCH 1 /* in Kafka's protocol */

/* On a thread of librdkafka, before the answer is looked at. What is known of an answer is as old as its question: the process may have stood still since. */
static rd_kafka_resp_err_t note_answer(rd_kafka_t *rk, int fd, const char *broker, int32_t id, int16_t api, int16_t version, int32_t correlation,
                                       size_t size, int64_t rtt_us, rd_kafka_resp_err_t code, void *arg)
{
    struct kafka_part *part = arg;
    (void)rk, (void)fd, (void)broker, (void)id, (void)version, (void)correlation, (void)size;
    if (api != API_FETCH || code || rtt_us < 0)
        return RD_KAFKA_RESP_ERR_NO_ERROR;
    atomic_store(&part->asked_before_ms, atomic_load(&part->asked_ms));
    atomic_store(&part->asked_ms, clock_mono_ms() - (rtt_us + 999) / 1000);
    return RD_KAFKA_RESP_ERR_NO_ERROR;
}

rd_kafka_resp_err_t kafka_consumer_made(rd_kafka_t *rk, const rd_kafka_conf_t *conf, void *part, char *text, size_t n)
{
    (void)conf, (void)text, (void)n;
    return rd_kafka_interceptor_add_on_response_received(rk, "complete", note_answer, part);
}

/*
 * The end that librdkafka knows is that of the newest answer it has read. Of the last one that came it may not have read anything yet, so what is consumed up to
 * that end is complete as of the one before. Read in this order: an end that is known later is no lower.
 */
static int64_t complete_ms(const struct fetch *f)
{
    int64_t first, next, asked_ms = atomic_load(&f->part->asked_before_ms);
    rd_kafka_resp_err_t code = rd_kafka_get_watermark_offsets(f->part->rk, f->k->cfg.kafka_topic, f->partition, &first, &next);
    return !code && next >= 0 && f->part->position >= next ? asked_ms : 0;
}

/* --- the consumer --- */

static void consumer_halt(struct kafka_part *part, int32_t partition)
{
    if (part->position >= 0)
        rd_kafka_consume_stop(part->topic, partition);
    part->position = -1;
    part->at_end = false;
    atomic_store(&part->asked_ms, 0);
    atomic_store(&part->asked_before_ms, 0);
}

static bool consumer_make(struct kafka *k, struct kafka_part *part, struct err *err)
{
    part->rk = kafka_handle_new(&k->cfg, KAFKA_CONSUMER, NULL, part, k, err);
    if (!part->rk)
        return false;
    part->topic = rd_kafka_topic_new(part->rk, k->cfg.kafka_topic, NULL);
    if (part->topic)
        return true;
    rd_kafka_destroy(part->rk);
    part->rk = NULL;
    return kafka_err(err, rd_kafka_last_error(), "Kafka topic");
}

static bool consumer_start_at(struct kafka *k, struct kafka_part *part, int32_t partition, int64_t offset,
                              struct err *err)
{
    consumer_halt(part, partition);
    if (!part->rk && !consumer_make(k, part, err))
        return false;
    if (rd_kafka_consume_start(part->topic, partition, offset) != 0)
        return kafka_err(err, rd_kafka_last_error(), "starting to read a partition of Kafka");
    part->position = offset;
    return true;
}

void kafka_consumers_stop(struct kafka *k)
{
    for (int32_t i = 0; i < plog_partitions(&k->base); i++) {
        struct kafka_part *part = k->part[i];
        if (!part->rk)
            continue;
        consumer_halt(part, i);
        rd_kafka_topic_destroy(part->topic);
        rd_kafka_destroy(part->rk);
    }
}

void kafka_wake(struct plog *log, int32_t partition)
{
    struct kafka *k = CONTAINER_OF(log, struct kafka, base);
    atomic_store(&k->part[partition]->woken, true);
}

/* --- one message --- */

/* The header Version: 4 bytes, big endian; absent is 0. One of another length is a version that nobody knows. */
static uint32_t version_of(const rd_kafka_message_t *m)
{
    rd_kafka_headers_t *headers;
    const void *value;
    size_t n;
    if (rd_kafka_message_headers(m, &headers) || rd_kafka_header_get_last(headers, "Version", &value, &n))
        return 0;
    if (n != 4)
        return UINT32_MAX;
    const unsigned char *b = value;
    return (uint32_t)b[0] << 24 | (uint32_t)b[1] << 16 | (uint32_t)b[2] << 8 | b[3];
}

/* Room for one more message and record. */
static bool grow(struct fetch *f)
{
    if (f->ret->n < f->cap)
        return true;
    size_t cap = f->cap ? 2 * f->cap : 16;
    struct pin *pin = f->pin ? f->pin : ARENA_NEW(&f->ret->arena, struct pin);
    struct plog_record *records = ARENA_ARRAY(&f->ret->arena, struct plog_record, cap);
    rd_kafka_message_t **messages = ARENA_ARRAY(&f->ret->arena, rd_kafka_message_t *, cap);
    if (!pin || !records || !messages)
        return false;
    if (f->ret->n) {
        memcpy(records, f->ret->records, f->ret->n * sizeof(*records));
        memcpy(messages, pin->messages, pin->n * sizeof(*messages));
    }
    f->ret->records = records;
    pin->messages = messages;
    pin->cap = f->cap = cap;
    f->pin = pin;
    f->ret->pin = pin;
    f->ret->unpin = unpin;
    return true;
}

static void take(struct fetch *f, rd_kafka_message_t *m)
{
    rd_kafka_timestamp_type_t type;
    int64_t timestamp_ms = rd_kafka_message_timestamp(m, &type);
    f->pin->messages[f->pin->n++] = m;
    f->ret->records[f->ret->n++] = (struct plog_record){
        .partition = f->partition,
        .offset = m->offset,
        .timestamp_ms = type == RD_KAFKA_TIMESTAMP_NOT_AVAILABLE ? 0 : timestamp_ms,
        .tenant = slice_make(m->key, m->key_len),
        .version = version_of(m),
        .form = PLOG_PLAIN,
        .value = slice_make(m->payload, m->len),
    };
    f->bytes += m->len;
    f->part->position = m->offset + 1;
    f->part->at_end = false;
}

/* The broker has no such offset. Below the first: on at the first. */
static bool out_of_range(struct fetch *f, struct err *err)
{
    int64_t offset = f->part->position, first, next;
    consumer_halt(f->part, f->partition);
    if (!kafka_offsets(&f->k->base, f->partition, &first, &next, err))
        return false;
    if (offset > next)
        return err_set(err, ERR_NOT_FOUND,
                       "offset %" PRId64 " is beyond the end of partition %" PRId32 ", which is %" PRId64, offset,
                       f->partition, next);
    return consumer_start_at(f->k, f->part, f->partition, MAX(offset, first), err);
}

/* What is no record: ends, damage, trouble. False: the fetch fails. */
static bool take_event(struct fetch *f, const rd_kafka_message_t *m, struct err *err)
{
    switch (m->err) {
    case RD_KAFKA_RESP_ERR__PARTITION_EOF:
        f->part->at_end = true;
        f->part->position = MAX(f->part->position, m->offset); /* markers that are no records may lie there */
        return true;
    case RD_KAFKA_RESP_ERR__AUTO_OFFSET_RESET:
    case RD_KAFKA_RESP_ERR_OFFSET_OUT_OF_RANGE:
        return out_of_range(f, err);
    case RD_KAFKA_RESP_ERR__BAD_MSG:
    case RD_KAFKA_RESP_ERR__BAD_COMPRESSION:
        metric_inc(f->k->m.corrupt_records);
        LOG_ERROR("records of the log are damaged and are passed over", {"partition", LOG_I64(f->partition)},
                  {"offset", LOG_I64(m->offset)}, {"err", LOG_STR(rd_kafka_message_errstr(m))});
        return true;
    default:
        metric_inc(f->k->m.fetch_errors);
        if (!kafka_err_is_passing(m->err))
            return kafka_err(err, m->err, "reading from Kafka");
        f->trouble = m->err;
        return true;
    }
}

/* --- a fetch --- */

/* Time until the fetch has to return when nothing comes. */
static int64_t patience_ms(const struct fetch *f, int64_t begin_ms, int64_t timeout_ms)
{
    int64_t allowed = f->part->at_end ? timeout_ms : MAX(timeout_ms, FIRST_ANSWER_MS);
    return MAX(begin_ms + allowed - clock_mono_ms(), 0);
}

static bool fetch_all(struct fetch *f, int64_t timeout_ms, struct err *err)
{
    int64_t begin_ms = clock_mono_ms(), begin = f->part->position;
    for (;;) {
        if (!grow(f))
            return f->ret->n > 0 ? true : err_set(err, ERR_NO_MEMORY, "no memory for a batch of records");
        int64_t wait_ms = f->ret->n ? 0 : patience_ms(f, begin_ms, timeout_ms);
        rd_kafka_message_t *m = rd_kafka_consume(f->part->topic, f->partition, (int)MIN(wait_ms, WAKE_LOOK_MS));
        if (!m) {
            if (f->ret->n || wait_ms == 0 || atomic_exchange(&f->part->woken, false))
                return true;
            continue;
        }
        if (!m->err) {
            take(f, m);
            if (f->bytes >= f->max_bytes)
                return true;
            continue;
        }
        /* A failure behind records that are here already shows again at the next fetch, which starts anew. */
        bool ok = take_event(f, m, f->ret->n ? NULL : err);
        rd_kafka_message_destroy(m);
        if (!ok) {
            consumer_halt(f->part, f->partition);
            return f->ret->n > 0;
        }
        if (f->ret->n || f->part->position > begin)
            return true;
    }
}

bool kafka_fetch(struct plog *log, int32_t partition, int64_t offset, size_t max_bytes, int64_t timeout_ms,
                 struct plog_batch *ret, struct err *err)
{
    struct kafka *k = CONTAINER_OF(log, struct kafka, base);
    struct kafka_part *part = k->part[partition];
    *ret = (struct plog_batch){0};
    arena_init(&ret->arena, 0);
    offset = MAX(offset, 0);
    struct fetch f = {.k = k, .part = part, .partition = partition, .max_bytes = max_bytes, .ret = ret};
    pthread_mutex_lock(&part->lock);
    bool ok = part->position == offset || consumer_start_at(k, part, partition, offset, err);
    ok = ok && fetch_all(&f, MIN(MAX(timeout_ms, 0), 86400 * 1000LL), err);
    if (ok && ret->n == 0 && f.trouble && part->position <= offset) {
        consumer_halt(part, partition);
        ok = kafka_err(err, f.trouble, "reading from Kafka");
    }
    ret->next_offset = ret->n ? ret->records[ret->n - 1].offset + 1 : MAX(part->position, offset);
    ret->complete_ms = ok && part->position >= 0 ? complete_ms(&f) : 0;
    pthread_mutex_unlock(&part->lock);
    metric_add(k->m.fetched, (double)ret->n);
    if (!ok)
        plog_batch_release(ret);
    return ok;
}
