/*
 * One gossip node as a program, for the tests with real peers and for measuring:
 *
 *     memberlist_node NAME PORT SEED|- SECONDS [leave] [inactivate=PARTITION]
 *
 * puts an instance NAME into collectors/ring, and into collectors/ingester-partitions the partition whose number ends the name (brunn-3), with itself as
 * its owner. Every second it prints its members ("member NAME STATE"), what the rings hold ("instance ID STATE", "partition ID STATE tokens N",
 * "owner ID of PARTITION"), and what it has cost ("cost CPU_MS BYTES_IN BYTES_OUT"). With inactivate=PARTITION it makes that partition inactive as soon
 * as it sees it active.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <time.h>
#include <unistd.h>

#include "base/clock.h"
#include "partition-ring/lifecycle.h"
#include "ring/desc.h"
#include "ring/memberlist/memberlist.h"

#define INSTANCES SL("collectors/ring")
#define PARTITIONS SL("collectors/ingester-partitions")

static enum kv_cas register_instance(void *arg, void **value, struct err *err)
{
    (void)err;
    if (!*value)
        *value = ring_desc_new();
    struct ring_instance *in = ring_desc_add(*value, slice_of(arg));
    uint32_t token = (uint32_t)getpid();
    ring_string_set(&in->addr, SL("127.0.0.1:9095"));
    in->timestamp_s = clock_wall_ms() / 1000;
    in->registered_s = in->timestamp_s;
    ring_instance_set_tokens(in, &token, 1);
    return KV_CAS_STORE;
}

static enum kv_cas register_owner(void *arg, void **value, struct err *err)
{
    (void)err;
    const char *name = arg, *number = strrchr(name, '-');
    int32_t id = number ? atoi(number + 1) : 0;
    if (!*value)
        *value = partition_desc_new();
    partition_create(*value, id, clock_wall_ms());
    partition_own(*value, slice_of(name), id, clock_wall_ms());
    return KV_CAS_STORE;
}

static enum kv_cas inactivate(void *arg, void **value, struct err *err)
{
    bool changed = false;
    int32_t id = *(int32_t *)arg;
    const struct partition *p = *value ? partition_desc_find(*value, id) : NULL;
    if (p && p->state == PARTITION_ACTIVE)
        partition_change_state(*value, id, PARTITION_INACTIVE, clock_wall_ms(), &changed, err);
    return changed ? KV_CAS_STORE : KV_CAS_KEEP;
}

static long cpu_ms(void)
{
    struct rusage u;
    getrusage(RUSAGE_SELF, &u);
    return (u.ru_utime.tv_sec + u.ru_stime.tv_sec) * 1000 + (u.ru_utime.tv_usec + u.ru_stime.tv_usec) / 1000;
}

static void print_rings(struct kv *kv)
{
    void *value = NULL;
    if (kv_get(kv, INSTANCES, &ring_desc_codec, &value, NULL) && value) {
        const struct ring_desc *d = value;
        for (size_t i = 0; i < d->n; i++)
            printf("instance %s %s\n", d->instances[i].id, ring_state_name(d->instances[i].state));
    }
    ring_desc_codec.free(value);
    value = NULL;
    if (kv_get(kv, PARTITIONS, &partition_desc_codec, &value, NULL) && value) {
        const struct partition_desc *d = value;
        for (size_t i = 0; i < d->n_partitions; i++)
            printf("partition %d %s tokens %zu\n", d->partitions[i].id,
                   partition_state_name(d->partitions[i].state) + strlen("Partition"), d->partitions[i].n_tokens);
        for (size_t i = 0; i < d->n_owners; i++)
            printf("owner %s of %d\n", d->owners[i].id, d->owners[i].partition);
    }
    partition_desc_codec.free(value);
}

static void print_all(struct memberlist *m)
{
    struct memberlist_member members[64];
    struct memberlist_stats stats;
    size_t n = memberlist_members(m, members, 64);
    for (size_t i = 0; i < n && i < 64; i++)
        printf("member %s %s\n", members[i].name, members[i].state);
    print_rings(memberlist_kv(m));
    memberlist_stats(m, &stats);
    printf("cost %ld %lu %lu\n", cpu_ms(), (unsigned long)stats.bytes_in, (unsigned long)stats.bytes_out);
    fflush(stdout);
}

static bool start(struct memberlist *m, char *name, struct err *err)
{
    return m && memberlist_start(m, err) &&
           kv_cas(memberlist_kv(m), INSTANCES, &ring_desc_codec, register_instance, name, err) &&
           kv_cas(memberlist_kv(m), PARTITIONS, &partition_desc_codec, register_owner, name, err);
}

int main(int argc, char **argv)
{
    struct memberlist_config cfg;
    struct kv_codecs codecs = {0};
    struct err err = ERR_NONE;
    bool leave = false;
    int32_t inactive = -1;
    if (argc < 5)
        return 2;
    for (int i = 5; i < argc; i++) {
        leave |= strcmp(argv[i], "leave") == 0;
        if (strncmp(argv[i], "inactivate=", 11) == 0)
            inactive = atoi(argv[i] + 11);
    }
    memberlist_config_default(&cfg);
    cfg.node_name = argv[1];
    cfg.randomize_node_name = false;
    cfg.bind_addr = "127.0.0.1";
    cfg.bind_port = (uint16_t)atoi(argv[2]);
    const char *seeds[] = {argv[3]};
    cfg.join = seeds;
    cfg.n_join = argv[3][0] != '-';
    kv_codecs_add(&codecs, &ring_desc_codec);
    kv_codecs_add(&codecs, &partition_desc_codec);
    struct memberlist *m = memberlist_new(&cfg, &codecs, &err);
    if (!start(m, argv[1], &err)) {
        fprintf(stderr, "%s\n", err.text);
        return 1;
    }
    for (int i = atoi(argv[4]); i > 0; i--) {
        sleep(1);
        if (inactive >= 0)
            kv_cas(memberlist_kv(m), PARTITIONS, &partition_desc_codec, inactivate, &inactive, NULL);
        print_all(m);
    }
    if (leave)
        memberlist_leave(m);
    memberlist_free(m);
    return 0;
}
