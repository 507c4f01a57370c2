/*
 * What a query pays for knowing whom to ask: partitions of a tenant's shard with lookback, and the healthy owners of each of them.
 *
 *   bench_partition_view [partitions = 1000]
 *
 * Two owners a partition, all in the instance ring. Prints the price of making a view, of the partitions of a tenant for several shard sizes, and of
 * the owners of all of these partitions.
 */
#include <stdio.h>
#include <stdlib.h>

#include "base/clock.h"
#include "partition-ring/lifecycle.h"
#include "partition-ring/partition_view.h"

#define NOW_MS 1700000000000

static struct partition_desc *make_partitions(int32_t n)
{
    struct partition_desc *d = partition_desc_new();
    char owner[32];
    for (int32_t id = 0; id < n; id++) {
        struct partition *p = partition_desc_add(d, id);
        p->state = id % 50 == 49 ? PARTITION_INACTIVE : PARTITION_ACTIVE;
        p->state_s = NOW_MS / 1000 - (id % 50 == 49 ? 3600 : 1000000);
        for (char zone = 'a'; zone <= 'b'; zone++) {
            snprintf(owner, sizeof(owner), "ingester-zone-%c-%d", zone, id);
            partition_own(d, slice_of(owner), id, NOW_MS - 1000000);
        }
    }
    return d; /* without tokens: the view derives them */
}

static struct ring_snapshot *make_instances(const struct partition_desc *d)
{
    struct ring_desc *r = ring_desc_new();
    for (size_t i = 0; i < d->n_owners; i++)
        ring_desc_add(r, slice_of(d->owners[i].id))->timestamp_s = NOW_MS / 1000;
    struct ring_config config = {.replication_factor = 1, .heartbeat_timeout_ms = 60000};
    return ring_snapshot_new(r, &config);
}

static double us_since(int64_t from_ns, int turns)
{
    return (double)(clock_mono_ns() - from_ns) / 1e3 / turns;
}

int main(int argc, char **argv)
{
    int32_t n = argc > 1 ? atoi(argv[1]) : 1000;
    struct partition_desc *d = make_partitions(n);
    struct ring_snapshot *instances = make_instances(d);
    int64_t from_ns = clock_mono_ns();
    struct partition_view *first = partition_view_new(partition_desc_clone(d));
    printf("view of %d partitions, tokens derived:  %9.0f us\n", n, us_since(from_ns, 1));
    struct partition_desc *full = partition_desc_clone(partition_view_desc(first));
    from_ns = clock_mono_ns();
    struct partition_view *v = partition_view_new(full);
    printf("view of %d partitions, tokens given:    %9.0f us\n", n, us_since(from_ns, 1));
    int32_t *ids = malloc((size_t)n * sizeof(*ids));
    const int64_t sizes[] = {0, 3, 10, 100, n / 2, n - 1, n};
    for (size_t s = 0; s < sizeof(sizes) / sizeof(*sizes); s++) {
        const int turns = 200;
        size_t n_ids = 0, n_owners = 0;
        char tenant[32];
        from_ns = clock_mono_ns();
        for (int t = 0; t < turns; t++) {
            snprintf(tenant, sizeof(tenant), "tenant-%d", t);
            n_ids = partition_view_tenant_readers(v, slice_of(tenant), sizes[s], 13 * 3600000, NOW_MS, ids);
        }
        double readers_us = us_since(from_ns, turns);
        from_ns = clock_mono_ns();
        for (int t = 0; t < turns; t++)
            for (size_t i = 0; i < n_ids; i++) {
                struct replication_set set;
                if (!partition_view_owners(v, ids[i], instances, NOW_MS, &set, NULL))
                    return 1;
                n_owners += set.n;
                replication_set_release(&set);
            }
        printf("shard of %4d: %4zu partitions  %7.1f us; their owners  %7.1f us (%.1f each)\n", (int)sizes[s], n_ids, readers_us,
               us_since(from_ns, turns), (double)n_owners / turns / (double)n_ids);
    }
    free(ids);
    partition_view_free(first);
    partition_view_free(v);
    ring_snapshot_free(instances);
    partition_desc_free(d);
    return 0;
}
