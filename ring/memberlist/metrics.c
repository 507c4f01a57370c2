/* What a scrape shows of this process's member: differences of the core's counts since the last scrape, and its state
 * now. */
#include <stdlib.h>

#include "base/assert.h"
#include "ring/memberlist/memberlist_int.h"

#define METRICS_ROOM memberlist
#define METRICS_DEF "ring/memberlist/memberlist_metrics.def"
#define METRICS_DEFINE
#include "base/metrics_table.h"

static const struct {
    enum memberlist_metric_id id;
    size_t offset;
} counters[] = {
#define ROW(id, field)                                                                                                 \
    {                                                                                                                  \
        MEMBERLIST_M_##id, offsetof(struct memberlist_stats, field)                                                    \
    }
    ROW(CAS_ATTEMPT, cas_attempts),
    ROW(CAS_SUCCESS, cas_successes),
    ROW(CAS_FAILURE, cas_failures),
    ROW(BROADCASTS_DROPPED, broadcasts_dropped),
    ROW(RECEIVED, user_messages_in),
    ROW(RECEIVED_BYTES, user_bytes_in),
    ROW(RECEIVED_INVALID, user_invalid),
    ROW(PULLS, state_pulls),
    ROW(PULLS_BYTES, state_pull_bytes),
    ROW(PUSHES, state_pushes),
    ROW(PUSHES_BYTES, state_push_bytes),
    ROW(STREAMS_IN, streams_in),
    ROW(STREAMS_OUT, streams_out),
    ROW(STREAMS_OUT_ERRORS, streams_failed),
    ROW(PACKETS_DROPPED, packets_unsent),
    ROW(PACKETS_IN, packets_in),
    ROW(PACKETS_IN_BYTES, packet_bytes_in),
    ROW(PACKETS_IN_ERRORS, packets_in_errors),
    ROW(PACKETS_OUT, packets_out),
    ROW(PACKETS_OUT_BYTES, packet_bytes_out),
    ROW(PACKETS_OUT_ERRORS, packets_out_errors),
    ROW(BYTES_IN, bytes_in),
    ROW(BYTES_OUT, bytes_out),
    ROW(UNKNOWN, unknown_connections),
#undef ROW
};

static void set(enum memberlist_metric_id id, double value)
{
    metric_set(metric_single(memberlist_metrics[id]), value);
}

/* With the lock held; the registry's locks are below it. */
static void show_state(struct memberlist *m)
{
    const struct core *c = &m->core;
    size_t members = 0, keys = 0;
    for (size_t i = 0; i < c->n_nodes; i++)
        members += c->nodes[i]->state <= NODE_SUSPECT;
    for (size_t i = 0; i < MEMBERLIST_KEYS_MAX; i++) {
        const struct entry *e = &c->entries[i];
        size_t left = 0;
        if (!e->key)
            continue;
        keys++;
        e->codec->remove_tombstones(e->value, INT64_MIN, NULL, &left); /* removes none */
        metric_set(METRIC_WITH(memberlist_metrics[MEMBERLIST_M_TOMBSTONES], slice_of(e->key)), (double)left);
        struct metric *removed = METRIC_WITH(memberlist_metrics[MEMBERLIST_M_TOMBSTONES_REMOVED], slice_of(e->key));
        metric_add(removed, MAX(0, (double)e->tombstones_removed - metric_value(removed)));
    }
    set(MEMBERLIST_M_MEMBERS, (double)members);
    set(MEMBERLIST_M_KEYS, (double)keys);
    set(MEMBERLIST_M_HEALTH, c->awareness);
    metric_set(METRIC_WITH(memberlist_metrics[MEMBERLIST_M_QUEUE], SL("local")), (double)c->local_queue.n);
    metric_set(METRIC_WITH(memberlist_metrics[MEMBERLIST_M_QUEUE], SL("gossip")), (double)c->forward_queue.n);
    set(MEMBERLIST_M_QUEUE_BYTES, (double)(c->local_queue.bytes + c->forward_queue.bytes));
    set(MEMBERLIST_M_PENDING, (double)values_pending(m));
}

static void on_scrape(void *arg)
{
    struct memberlist *m = arg;
    pthread_mutex_lock(&m->lock);
    for (size_t i = 0; i < ARRAY_LEN(counters); i++) {
        const uint64_t *now = (const void *)((const char *)&m->core.stats + counters[i].offset);
        uint64_t *told = (void *)((char *)&m->exported + counters[i].offset);
        metric_add(metric_single(memberlist_metrics[counters[i].id]), (double)(*now - *told));
        *told = *now;
    }
    show_state(m);
    pthread_mutex_unlock(&m->lock);
}

void memberlist_metrics_export(struct memberlist *m)
{
    ASSERT(!m->exports);
    m->exports = true;
    memberlist_metrics_register();
    metrics_on_scrape(on_scrape, m);
}

void metrics_withdraw(struct memberlist *m)
{
    if (m->exports)
        metrics_remove_on_scrape(on_scrape, m);
    m->exports = false;
}
