/*
 * One gossip node as a program, for the tests with real peers and for measuring:
 *
 *     memberlist_node NAME PORT SEED|- SECONDS [leave]
 *
 * puts an instance NAME into collectors/ring and prints every second its members ("member NAME STATE"), the instances
 * of the ring ("instance ID STATE") and what it has cost ("cost CPU_MS BYTES_IN BYTES_OUT").
 */
#include <stdio.h>
#include <stdlib.h>
#include <sys/resource.h>
#include <time.h>
#include <unistd.h>

#include "base/clock.h"
#include "ring/desc.h"
#include "ring/memberlist/memberlist.h"

#define KEY SL("collectors/ring")

static enum kv_cas register_self(void *arg, void **value, struct err *err)
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

static long cpu_ms(void)
{
    struct rusage u;
    getrusage(RUSAGE_SELF, &u);
    return (u.ru_utime.tv_sec + u.ru_stime.tv_sec) * 1000 + (u.ru_utime.tv_usec + u.ru_stime.tv_usec) / 1000;
}

static void print_all(struct memberlist *m)
{
    struct memberlist_member members[64];
    struct memberlist_stats stats;
    void *value = NULL;
    size_t n = memberlist_members(m, members, 64);
    for (size_t i = 0; i < n && i < 64; i++)
        printf("member %s %s\n", members[i].name, members[i].state);
    if (kv_get(memberlist_kv(m), KEY, &ring_desc_codec, &value, NULL) && value) {
        const struct ring_desc *d = value;
        for (size_t i = 0; i < d->n; i++)
            printf("instance %s %s\n", d->instances[i].id, ring_state_name(d->instances[i].state));
    }
    ring_desc_codec.free(value);
    memberlist_stats(m, &stats);
    printf("cost %ld %lu %lu\n", cpu_ms(), (unsigned long)stats.bytes_in, (unsigned long)stats.bytes_out);
    fflush(stdout);
}

int main(int argc, char **argv)
{
    struct memberlist_config cfg;
    struct kv_codecs codecs = {0};
    struct err err = ERR_NONE;
    if (argc < 5)
        return 2;
    memberlist_config_default(&cfg);
    cfg.node_name = argv[1];
    cfg.randomize_node_name = false;
    cfg.bind_addr = "127.0.0.1";
    cfg.bind_port = (uint16_t)atoi(argv[2]);
    const char *seeds[] = {argv[3]};
    cfg.join = seeds;
    cfg.n_join = argv[3][0] != '-';
    kv_codecs_add(&codecs, &ring_desc_codec);
    struct memberlist *m = memberlist_new(&cfg, &codecs, &err);
    if (!m || !memberlist_start(m, &err) ||
        !kv_cas(memberlist_kv(m), KEY, &ring_desc_codec, register_self, argv[1], &err)) {
        fprintf(stderr, "%s\n", err.text);
        return 1;
    }
    for (int i = atoi(argv[4]); i > 0; i--) {
        sleep(1);
        print_all(m);
    }
    if (argc > 5)
        memberlist_leave(m);
    memberlist_free(m);
    return 0;
}
