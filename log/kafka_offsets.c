/*
 * Questions to Kafka: ends of a partition, offset by time, and a consumer group's committed offset.
 *
 * Nobody joins the groups. As in Mimir a group is a name under which one number a partition is kept, and the number is
 * the last consumed offset, not the next one. librdkafka binds a handle to its group, so each name has one. (Its admin
 * calls for groups need none, but those of 2.0 abort the process when a broker goes away at the wrong moment.)
 */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/assert.h"
#include "base/clock.h"
#include "log/kafka_int.h"

#define GROUP_TIMEOUT_MS 10000
#define RETRY_MS 100

/* --- ends --- */

/* Questions and their outcome, counted as Mimir counts them: first offsets and last ones apart, by partition. */
static const enum log_metric_id first_metrics[] = {LOG_FIRST_OFFSET_REQUESTS, LOG_FIRST_OFFSET_FAILURES, LOG_FIRST_OFFSET_SECONDS};
static const enum log_metric_id last_metrics[] = {LOG_LAST_OFFSET_REQUESTS, LOG_LAST_OFFSET_FAILURES, LOG_LAST_OFFSET_SECONDS};

static void count_question(const struct kafka *k, const enum log_metric_id ids[3], int32_t partition, int64_t begin_ms, bool ok)
{
    char text[16];
    snprintf(text, sizeof(text), "%" PRId32, partition);
    const struct slice labels[] = {slice_of(text), slice_of(k->cfg.kafka_topic)};
    metric_inc(metric_get(log_metrics[ids[0]], labels));
    metric_add(metric_get(log_metrics[ids[1]], labels), ok ? 0 : 1);
    metric_observe(metric_get(log_metrics[ids[2]], labels), (double)(clock_mono_ms() - begin_ms) / 1e3);
}

/* A partition may be without a leader for a moment: after its topic was made, and when the leader moves. */
bool kafka_offsets(struct plog *log, int32_t partition, int64_t *ret_first, int64_t *ret_next, struct err *err)
{
    struct kafka *k = CONTAINER_OF(log, struct kafka, base);
    int64_t begin_ms = clock_mono_ms(), end_ms = begin_ms + k->cfg.kafka_offset_timeout, left_ms;
    rd_kafka_resp_err_t code = RD_KAFKA_RESP_ERR__TIMED_OUT;
    while ((left_ms = end_ms - clock_mono_ms()) > 0) {
        code = rd_kafka_query_watermark_offsets(k->client, k->cfg.kafka_topic, partition, ret_first, ret_next,
                                                (int)left_ms);
        if (!code || !kafka_err_is_passing(code))
            break;
        kafka_sleep_ms(RETRY_MS);
    }
    count_question(k, first_metrics, partition, begin_ms, !code);
    count_question(k, last_metrics, partition, begin_ms, !code);
    return code ? kafka_err(err, code, "asking Kafka for the first and last offset") : true;
}

/* One question for all of them; the code of the first partition that got none. */
static rd_kafka_resp_err_t ask_ends(struct kafka *k, rd_kafka_topic_partition_list_t *list, int64_t timeout_ms)
{
    for (int i = 0; i < list->cnt; i++)
        list->elems[i].offset = RD_KAFKA_OFFSET_END; /* as a time it is the protocol's word for the end */
    rd_kafka_resp_err_t code = rd_kafka_offsets_for_times(k->client, list, (int)timeout_ms);
    for (int i = 0; !code && i < list->cnt; i++)
        code = list->elems[i].err ? list->elems[i].err
                                  : list->elems[i].offset < 0 ? RD_KAFKA_RESP_ERR__BAD_MSG : RD_KAFKA_RESP_ERR_NO_ERROR;
    return code;
}

/* librdkafka groups a list by leader, and may reorder it: partitions are looked up in it again. */
bool kafka_ends(struct plog *log, const int32_t *partitions, size_t n, int64_t *ret_next, struct err *err)
{
    struct kafka *k = CONTAINER_OF(log, struct kafka, base);
    int64_t begin_ms = clock_mono_ms(), end_ms = begin_ms + k->cfg.kafka_offset_timeout, left_ms;
    rd_kafka_resp_err_t code = RD_KAFKA_RESP_ERR__TIMED_OUT;
    rd_kafka_topic_partition_list_t *list = rd_kafka_topic_partition_list_new((int)n);
    for (size_t i = 0; i < n; i++)
        if (!rd_kafka_topic_partition_list_find(list, k->cfg.kafka_topic, partitions[i]))
            rd_kafka_topic_partition_list_add(list, k->cfg.kafka_topic, partitions[i]);
    while ((left_ms = end_ms - clock_mono_ms()) > 0) {
        code = ask_ends(k, list, left_ms);
        if (!code || !kafka_err_is_passing(code))
            break;
        kafka_sleep_ms(RETRY_MS);
    }
    for (size_t i = 0; i < n; i++)
        count_question(k, last_metrics, partitions[i], begin_ms, !code);
    for (size_t i = 0; !code && i < n; i++)
        ret_next[i] = rd_kafka_topic_partition_list_find(list, k->cfg.kafka_topic, partitions[i])->offset;
    rd_kafka_topic_partition_list_destroy(list);
    return code ? kafka_err(err, code, "asking Kafka for the last produced offsets") : true;
}

bool kafka_offset_at(struct plog *log, int32_t partition, int64_t t, int64_t *ret_offset, struct err *err)
{
    struct kafka *k = CONTAINER_OF(log, struct kafka, base);
    int64_t first, next;
    if (!kafka_offsets(log, partition, &first, &next, err))
        return false;
    rd_kafka_topic_partition_list_t *list = rd_kafka_topic_partition_list_new(1);
    rd_kafka_topic_partition_t *entry = rd_kafka_topic_partition_list_add(list, k->cfg.kafka_topic, partition);
    entry->offset = MAX(t, 0); /* negative ones are Kafka's words for the first and the last */
    rd_kafka_resp_err_t code = rd_kafka_offsets_for_times(k->client, list, (int)k->cfg.kafka_offset_timeout);
    if (!code)
        code = entry->err;
    *ret_offset = entry->offset >= 0 ? entry->offset : next;
    rd_kafka_topic_partition_list_destroy(list);
    return code ? kafka_err(err, code, "asking Kafka for an offset by time") : true;
}

bool kafka_acknowledged(struct plog *log, int32_t partition, int64_t *ret_next, struct err *err)
{
    struct kafka *k = CONTAINER_OF(log, struct kafka, base);
    struct kafka_part *part = k->part[partition];
    if (atomic_exchange(&part->offset_unknown, false)) {
        int64_t first, next;
        if (!kafka_offsets(log, partition, &first, &next, err)) {
            atomic_store(&part->offset_unknown, true);
            return false;
        }
        int64_t before = atomic_load(&part->acknowledged);
        while (before < next && !atomic_compare_exchange_weak(&part->acknowledged, &before, next))
            ;
    }
    *ret_next = atomic_load(&part->acknowledged);
    return true;
}

/* --- groups --- */

/* The handle of a group; NULL: none can be made. */
static rd_kafka_t *group_handle(struct kafka *k, const char *name, struct err *err)
{
    pthread_mutex_lock(&k->groups_lock);
    size_t n = 0;
    struct kafka_group *g = k->groups;
    for (; g && strcmp(g->name, name) != 0; g = g->next)
        n++;
    if (!g && n >= KAFKA_GROUPS_MAX) {
        err_set(err, ERR_UNAVAILABLE, "more than %d consumer groups are in use", KAFKA_GROUPS_MAX);
    } else if (!g) {
        rd_kafka_t *rk = kafka_handle_new(&k->cfg, KAFKA_GROUP, name, NULL, k, err);
        if (rk) {
            g = calloc(1, sizeof(*g));
            ASSERT(g);
            g->rk = rk;
            snprintf(g->name, sizeof(g->name), "%s", name);
            g->next = k->groups;
            k->groups = g;
        }
    }
    pthread_mutex_unlock(&k->groups_lock);
    return g ? g->rk : NULL;
}

void kafka_groups_stop(struct kafka *k)
{
    while (k->groups) {
        struct kafka_group *g = k->groups;
        k->groups = g->next;
        rd_kafka_destroy(g->rk);
        free(g);
    }
}

struct group_call {
    rd_kafka_t *rk;
    rd_kafka_topic_partition_list_t *list; /* of one partition */
};

static bool group_call_init(struct group_call *c, struct kafka *k, struct slice group, int32_t partition,
                            int64_t offset, struct err *err)
{
    char name[PLOG_GROUP_NAME_MAX + 1];
    ASSERT(group.n < sizeof(name));
    memcpy(name, group.p, group.n);
    name[group.n] = 0;
    c->rk = group_handle(k, name, err);
    if (!c->rk)
        return false;
    c->list = rd_kafka_topic_partition_list_new(1);
    rd_kafka_topic_partition_list_add(c->list, k->cfg.kafka_topic, partition)->offset = offset;
    return true;
}

static rd_kafka_resp_err_t send_commit(const struct group_call *c, int64_t timeout_ms)
{
    rd_kafka_queue_t *queue = rd_kafka_queue_new(c->rk);
    rd_kafka_resp_err_t code = rd_kafka_commit_queue(c->rk, c->list, queue, NULL, NULL);
    rd_kafka_event_t *event = code ? NULL : rd_kafka_queue_poll(queue, (int)timeout_ms);
    if (!code && !event)
        code = RD_KAFKA_RESP_ERR__TIMED_OUT;
    if (event) {
        const rd_kafka_topic_partition_list_t *list = rd_kafka_event_topic_partition_list(event);
        code = rd_kafka_event_error(event);
        if (!code && list && list->cnt == 1)
            code = list->elems[0].err;
        rd_kafka_event_destroy(event);
    }
    rd_kafka_queue_destroy(queue);
    return code;
}

static rd_kafka_resp_err_t send_question(const struct group_call *c, int64_t timeout_ms)
{
    rd_kafka_resp_err_t code = rd_kafka_committed(c->rk, c->list, (int)timeout_ms);
    return code ? code : c->list->elems[0].err;
}

/* A coordinator that is just being found or loaded (the first commit ever makes its topic) is waited for. */
static bool group_run(const struct group_call *c, rd_kafka_resp_err_t (*send)(const struct group_call *, int64_t),
                      const char *what, struct err *err)
{
    int64_t end_ms = clock_mono_ms() + GROUP_TIMEOUT_MS, left_ms;
    rd_kafka_resp_err_t code = RD_KAFKA_RESP_ERR__TIMED_OUT;
    while ((left_ms = end_ms - clock_mono_ms()) > 0) {
        code = send(c, left_ms);
        if (!code || !kafka_err_is_passing(code))
            break;
        kafka_sleep_ms(RETRY_MS);
    }
    return code ? kafka_err(err, code, what) : true;
}

bool kafka_committed(struct plog *log, struct slice group, int32_t partition, int64_t *ret_offset, struct err *err)
{
    struct kafka *k = CONTAINER_OF(log, struct kafka, base);
    struct group_call c;
    if (!group_call_init(&c, k, group, partition, RD_KAFKA_OFFSET_INVALID, err))
        return false;
    bool ok = group_run(&c, send_question, "asking Kafka for a committed offset", err);
    *ret_offset = MAX(c.list->elems[0].offset, -1);
    rd_kafka_topic_partition_list_destroy(c.list);
    return ok;
}

/* What was committed cannot be taken back in Kafka by a client that is no member: -1 is only possible before the first.
 */
static bool commit_nothing(struct plog *log, struct slice group, int32_t partition, struct err *err)
{
    int64_t offset;
    if (!kafka_committed(log, group, partition, &offset, err))
        return false;
    return offset < 0 ||
           err_set(err, ERR_BAD_DATA, "the group has committed offset %" PRId64 " in Kafka already", offset);
}

bool kafka_commit(struct plog *log, struct slice group, int32_t partition, int64_t offset, struct err *err)
{
    struct kafka *k = CONTAINER_OF(log, struct kafka, base);
    struct group_call c;
    if (offset < 0)
        return commit_nothing(log, group, partition, err);
    if (!group_call_init(&c, k, group, partition, offset, err))
        return false;
    bool ok = group_run(&c, send_commit, "committing an offset in Kafka", err);
    rd_kafka_topic_partition_list_destroy(c.list);
    return ok;
}
