/*
 * Both rings under threads: four instances beat, poll and change their states a thousand times a second while two readers take
 * snapshots. For the thread sanitizer, where Criterion does not start. Exits 0 when the two that shall stay are left.
 */
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <unistd.h>

#include "base/assert.h"
#include "partition-ring/lifecycler.h"
#include "partition-ring/partition_view.h"
#include "ring/lifecycler.h"
#include "ring/ring.h"

#define INSTANCES 4

struct readers {
    struct ring *ring;
    struct partition_watcher *partitions;
    atomic_bool stop;
};

static void *read_rings(void *arg)
{
    struct readers *r = arg;
    while (!atomic_load(&r->stop)) {
        struct ring_snapshot *s = ring_current(r->ring);
        struct replication_set set = {0};
        if (ring_snapshot_get_all(s, &ring_op_read, 0, &set, NULL))
            replication_set_release(&set);
        struct partition_view *v = partition_watcher_current(r->partitions);
        partition_ring_lookup(partition_view_writers(v), 5);
        partition_view_free(v);
        ring_snapshot_free(s);
    }
    return NULL;
}

struct instance {
    struct lifecycler *entry;
    struct partition_lifecycler *partition;
};

static void instance_start(struct instance *in, struct kv *kv, int i)
{
    static const char *const ids[INSTANCES] = {"a", "b", "c", "d"};
    struct lifecycler_config entry = {
        .key = "ring", .id = ids[i], .n_tokens = 16, .heartbeat_period_ms = 1, .unregister_on_stop = i % 2 == 1};
    in->entry = lifecycler_new(kv, &entry, &lifecycler_env_system);
    ASSERT(lifecycler_register(in->entry, RING_JOINING, NULL));
    lifecycler_start(in->entry);
    struct partition_lifecycler_config partition = {.key = "partitions",
                                                    .owner = ids[i],
                                                    .partition = i,
                                                    .rules = {.min_owners = 1, .delete_inactive_ms = 1000},
                                                    .poll_ms = 1,
                                                    .create_on_start = true,
                                                    .remove_owner_on_stop = true};
    in->partition = partition_lifecycler_new(kv, &partition, &lifecycler_env_system);
    partition_lifecycler_start(in->partition);
}

/* The store may have been changed by others in each try: the next one makes up for it. */
static void instance_change(struct instance *in, bool even)
{
    (void)lifecycler_set_state(in->entry, RING_ACTIVE, NULL);
    (void)lifecycler_set_read_only(in->entry, even, NULL);
    (void)partition_lifecycler_change_state(in->partition, even ? PARTITION_ACTIVE : PARTITION_INACTIVE, NULL);
}

static void instance_stop(struct instance *in)
{
    if (!lifecycler_stop(in->entry, NULL))
        ASSERT(lifecycler_stop(in->entry, NULL));
    (void)partition_lifecycler_stop(in->partition, NULL);
    lifecycler_free(in->entry);
    partition_lifecycler_free(in->partition);
}

int main(void)
{
    struct kv *kv = kv_inmemory_new(8);
    struct ring_config config = {.replication_factor = 1};
    struct readers r = {.ring = ring_new(kv, SL("ring"), &config, NULL),
                        .partitions = partition_watcher_new(kv, SL("partitions"), NULL)};
    pthread_t threads[2];
    for (int i = 0; i < 2; i++)
        pthread_create(&threads[i], NULL, read_rings, &r);
    struct instance in[INSTANCES];
    for (int i = 0; i < INSTANCES; i++)
        instance_start(&in[i], kv, i);
    for (int k = 0; k < 40; k++, usleep(50000))
        for (int i = 0; i < INSTANCES; i++)
            instance_change(&in[i], k % 2 == 0);
    for (int i = 0; i < INSTANCES; i++)
        instance_stop(&in[i]);
    atomic_store(&r.stop, true);
    for (int i = 0; i < 2; i++)
        pthread_join(threads[i], NULL);
    struct ring_snapshot *s = ring_current(r.ring);
    size_t left = ring_snapshot_desc(s)->n;
    ring_snapshot_free(s);
    ring_free(r.ring);
    partition_watcher_free(r.partitions);
    kv_free(kv);
    printf("%zu instances are left\n", left);
    return left == 2 ? 0 : 1;
}
