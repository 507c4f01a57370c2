/*
 * Questions to Kafka: ends of a partition, offset by time, and a consumer group's committed offset.
 *
 * Nobody joins the groups. As in Mimir a group is a name under which one number a partition is kept, and the number is
 * the last consumed offset, not the next one.
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

/* A partition may be without a leader for a moment: after its topic was made, and when the leader moves. */
bool kafka_offsets(struct plog *log, int32_t partition, int64_t *ret_first, int64_t *ret_next, struct err *err)
{
    struct kafka *k = CONTAINER_OF(log, struct kafka, base);
    int64_t begin_ms = clock_mono_ms(), end_ms = begin_ms + k->cfg.kafka_offset_timeout, left_ms;
    rd_kafka_resp_err_t code = RD_KAFKA_RESP_ERR__TIMED_OUT;
    metric_inc(k->m.offset_requests);
    while ((left_ms = end_ms - clock_mono_ms()) > 0) {
        code = rd_kafka_query_watermark_offsets(k->client, k->cfg.kafka_topic, partition, ret_first, ret_next,
                                                (int)left_ms);
        if (!code || !kafka_err_is_passing(code))
            break;
        kafka_sleep_ms(RETRY_MS);
    }
    metric_observe(k->m.offset_seconds, (double)(clock_mono_ms() - begin_ms) / 1e3);
    if (!code)
        return true;
    metric_inc(k->m.offset_failures);
    return kafka_err(err, code, "asking Kafka for the first and last offset");
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
    struct kafka_part *part = &k->part[partition];
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

struct group_call {
    struct kafka *k;
    char group[PLOG_GROUP_NAME_MAX + 1];
    rd_kafka_topic_partition_list_t *list;
    int64_t offset; /* the answer of a question */
};

/* Sends one request and gives the event that answers it. */
typedef rd_kafka_resp_err_t group_fn(struct group_call *c, rd_kafka_AdminOptions_t *options, rd_kafka_queue_t *queue);

static rd_kafka_resp_err_t group_answer(struct group_call *c, rd_kafka_event_t *event,
                                        const rd_kafka_group_result_t **groups, size_t n)
{
    rd_kafka_resp_err_t code = rd_kafka_event_error(event);
    if (code)
        return code;
    if (n != 1)
        return RD_KAFKA_RESP_ERR__BAD_MSG;
    const rd_kafka_error_t *error = rd_kafka_group_result_error(groups[0]);
    if (error)
        return rd_kafka_error_code(error);
    const rd_kafka_topic_partition_list_t *list = rd_kafka_group_result_partitions(groups[0]);
    if (!list || list->cnt != 1)
        return RD_KAFKA_RESP_ERR__BAD_MSG;
    c->offset = list->elems[0].offset;
    return list->elems[0].err;
}

static rd_kafka_resp_err_t send_alter(struct group_call *c, rd_kafka_AdminOptions_t *options, rd_kafka_queue_t *queue)
{
    rd_kafka_AlterConsumerGroupOffsets_t *request = rd_kafka_AlterConsumerGroupOffsets_new(c->group, c->list);
    rd_kafka_AlterConsumerGroupOffsets(c->k->client, &request, 1, options, queue);
    rd_kafka_AlterConsumerGroupOffsets_destroy(request);
    rd_kafka_event_t *event = rd_kafka_queue_poll(queue, 2 * GROUP_TIMEOUT_MS);
    if (!event)
        return RD_KAFKA_RESP_ERR__TIMED_OUT;
    size_t n = 0;
    const rd_kafka_AlterConsumerGroupOffsets_result_t *result = rd_kafka_event_AlterConsumerGroupOffsets_result(event);
    const rd_kafka_group_result_t **groups =
        result ? rd_kafka_AlterConsumerGroupOffsets_result_groups(result, &n) : NULL;
    rd_kafka_resp_err_t code = group_answer(c, event, groups, n);
    rd_kafka_event_destroy(event);
    return code;
}

static rd_kafka_resp_err_t send_delete(struct group_call *c, rd_kafka_AdminOptions_t *options, rd_kafka_queue_t *queue)
{
    rd_kafka_DeleteConsumerGroupOffsets_t *request = rd_kafka_DeleteConsumerGroupOffsets_new(c->group, c->list);
    rd_kafka_DeleteConsumerGroupOffsets(c->k->client, &request, 1, options, queue);
    rd_kafka_DeleteConsumerGroupOffsets_destroy(request);
    rd_kafka_event_t *event = rd_kafka_queue_poll(queue, 2 * GROUP_TIMEOUT_MS);
    if (!event)
        return RD_KAFKA_RESP_ERR__TIMED_OUT;
    size_t n = 0;
    const rd_kafka_DeleteConsumerGroupOffsets_result_t *result =
        rd_kafka_event_DeleteConsumerGroupOffsets_result(event);
    const rd_kafka_group_result_t **groups =
        result ? rd_kafka_DeleteConsumerGroupOffsets_result_groups(result, &n) : NULL;
    rd_kafka_resp_err_t code = group_answer(c, event, groups, n);
    rd_kafka_event_destroy(event);
    return code == RD_KAFKA_RESP_ERR_GROUP_ID_NOT_FOUND ? RD_KAFKA_RESP_ERR_NO_ERROR : code;
}

static rd_kafka_resp_err_t send_list(struct group_call *c, rd_kafka_AdminOptions_t *options, rd_kafka_queue_t *queue)
{
    rd_kafka_ListConsumerGroupOffsets_t *request = rd_kafka_ListConsumerGroupOffsets_new(c->group, c->list);
    rd_kafka_ListConsumerGroupOffsets(c->k->client, &request, 1, options, queue);
    rd_kafka_ListConsumerGroupOffsets_destroy(request);
    rd_kafka_event_t *event = rd_kafka_queue_poll(queue, 2 * GROUP_TIMEOUT_MS);
    if (!event)
        return RD_KAFKA_RESP_ERR__TIMED_OUT;
    size_t n = 0;
    const rd_kafka_ListConsumerGroupOffsets_result_t *result = rd_kafka_event_ListConsumerGroupOffsets_result(event);
    const rd_kafka_group_result_t **groups =
        result ? rd_kafka_ListConsumerGroupOffsets_result_groups(result, &n) : NULL;
    rd_kafka_resp_err_t code = group_answer(c, event, groups, n);
    rd_kafka_event_destroy(event);
    if (code == RD_KAFKA_RESP_ERR_GROUP_ID_NOT_FOUND) {
        c->offset = -1;
        return RD_KAFKA_RESP_ERR_NO_ERROR;
    }
    return code;
}

/* A coordinator that is just being found or loaded (the first commit ever makes its topic) is waited for. */
static bool group_run(struct group_call *c, rd_kafka_admin_op_t op, group_fn *send, const char *what, struct err *err)
{
    char text[256];
    int64_t end_ms = clock_mono_ms() + GROUP_TIMEOUT_MS;
    rd_kafka_AdminOptions_t *options = rd_kafka_AdminOptions_new(c->k->client, op);
    rd_kafka_queue_t *queue = rd_kafka_queue_new(c->k->client);
    rd_kafka_AdminOptions_set_request_timeout(options, GROUP_TIMEOUT_MS, text, sizeof(text));
    rd_kafka_resp_err_t code;
    while ((code = send(c, options, queue)) && kafka_err_is_passing(code) && clock_mono_ms() < end_ms)
        kafka_sleep_ms(RETRY_MS);
    rd_kafka_queue_destroy(queue);
    rd_kafka_AdminOptions_destroy(options);
    return code ? kafka_err(err, code, what) : true;
}

static void group_call_init(struct group_call *c, struct kafka *k, struct slice group, int32_t partition,
                            int64_t offset)
{
    *c = (struct group_call){.k = k, .list = rd_kafka_topic_partition_list_new(1), .offset = -1};
    ASSERT(group.n < sizeof(c->group));
    memcpy(c->group, group.p, group.n);
    rd_kafka_topic_partition_list_add(c->list, k->cfg.kafka_topic, partition)->offset = offset;
}

bool kafka_commit(struct plog *log, struct slice group, int32_t partition, int64_t offset, struct err *err)
{
    struct group_call c;
    group_call_init(&c, CONTAINER_OF(log, struct kafka, base), group, partition, offset);
    bool ok = offset >= 0 ? group_run(&c, RD_KAFKA_ADMIN_OP_ALTERCONSUMERGROUPOFFSETS, send_alter,
                                      "committing an offset in Kafka", err)
                          : group_run(&c, RD_KAFKA_ADMIN_OP_DELETECONSUMERGROUPOFFSETS, send_delete,
                                      "deleting a committed offset in Kafka", err);
    rd_kafka_topic_partition_list_destroy(c.list);
    return ok;
}

bool kafka_committed(struct plog *log, struct slice group, int32_t partition, int64_t *ret_offset, struct err *err)
{
    struct group_call c;
    group_call_init(&c, CONTAINER_OF(log, struct kafka, base), group, partition, RD_KAFKA_OFFSET_INVALID);
    bool ok = group_run(&c, RD_KAFKA_ADMIN_OP_LISTCONSUMERGROUPOFFSETS, send_list,
                        "asking Kafka for a committed offset", err);
    rd_kafka_topic_partition_list_destroy(c.list);
    *ret_offset = MAX(c.offset, -1);
    return ok;
}
