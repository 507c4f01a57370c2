/*
 * What gossip costs: many members in this process, on loopback, with dskit's intervals, each with an instance of 128 tokens in one ring that it
 * refreshes every 15 s, as ingesters do.
 *
 *   bench_gossip [members = 50] [seconds of steady state = 60]
 *
 * Prints for each phase: how long until all agreed, CPU of a member (all threads of the process over the members), and bytes and packets that a member
 * sent. Phases: the start of all, the steady state, one that joins, one that is killed and comes back under another name, the steady state with lost
 * packets, and the two halves without a way between them for 30 s, and then with one.
 */
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/logger.h"
#include "ring/desc.h"
#include "ring/memberlist/memberlist.h"

#define KEY SL("collectors/ring")
#define MEMBERS_MAX 200
#define HEARTBEAT_MS 15000
#define TOKENS 128
#define PATIENCE_MS 300000

struct member {
    struct memberlist *m;
    char name[32];
    char instance[32];
    uint16_t port;
    int64_t next_beat_ms;
    bool left_half;
    _Atomic uint32_t random;
};

static struct member members[MEMBERS_MAX];
static size_t n_members;
static atomic_int loss_percent;
static atomic_bool walled;
static struct kv_codecs codecs = {.codecs = {&ring_desc_codec}, .n = 1};

static bool may_reach(void *arg, uint16_t port)
{
    struct member *from = arg;
    uint32_t r = atomic_load(&from->random) * 1664525 + 1013904223;
    atomic_store(&from->random, r);
    if ((int)(r >> 8) % 100 < atomic_load(&loss_percent))
        return false;
    if (!atomic_load(&walled))
        return true;
    for (size_t i = 0; i < n_members; i++)
        if (members[i].port == port)
            return members[i].left_half == from->left_half;
    return true;
}

static enum kv_cas beat(void *arg, void **value, struct err *err)
{
    (void)err;
    const struct member *b = arg;
    if (!*value)
        *value = ring_desc_new();
    struct ring_instance *in = ring_desc_add(*value, slice_of(b->instance));
    in->timestamp_s = clock_wall_ms() / 1000;
    in->state = RING_ACTIVE;
    if (in->n_tokens)
        return KV_CAS_STORE;
    uint32_t tokens[TOKENS], at = (uint32_t)(b - members);
    for (uint32_t i = 0; i < TOKENS; i++)
        tokens[i] = (i * MEMBERS_MAX + at) * 2654435761U;
    ring_string_set(&in->addr, SL("10.0.0.1:9095"));
    ring_string_set(&in->zone, SL("zone-a"));
    in->registered_s = in->timestamp_s;
    ring_instance_set_tokens(in, tokens, TOKENS);
    return KV_CAS_STORE;
}

static void start(struct member *b, const char *name)
{
    struct memberlist_config cfg;
    struct err err = ERR_NONE;
    char seed[2][32];
    const char *seeds[] = {seed[0], seed[1]};
    memberlist_config_default(&cfg);
    snprintf(b->name, sizeof b->name, "%s", name);
    snprintf(b->instance, sizeof b->instance, "ingester-%zu", (size_t)(b - members));
    cfg.node_name = b->name;
    cfg.randomize_node_name = false;
    cfg.bind_addr = "127.0.0.1";
    cfg.bind_port = 0;
    cfg.may_reach = may_reach;
    cfg.may_reach_arg = b;
    cfg.join = seeds;
    for (size_t i = 0; i < 2 && i < n_members && &members[i] != b; i++)
        snprintf(seed[cfg.n_join++], sizeof seed[0], "127.0.0.1:%u", members[i].port);
    b->m = memberlist_new(&cfg, &codecs, &err);
    if (!b->m || !memberlist_start(b->m, &err)) {
        fprintf(stderr, "%s\n", err.text);
        exit(1);
    }
    b->port = memberlist_port(b->m);
    atomic_store(&b->random, b->port);
    b->left_half = (b - members) % 2;
    b->next_beat_ms = clock_mono_ms() + HEARTBEAT_MS;
    kv_cas(memberlist_kv(b->m), KEY, &ring_desc_codec, beat, b, NULL);
}

static void beat_those_due(void)
{
    for (size_t i = 0; i < n_members; i++) {
        struct member *b = &members[i];
        if (!b->m || clock_mono_ms() < b->next_beat_ms)
            continue;
        kv_cas(memberlist_kv(b->m), KEY, &ring_desc_codec, beat, b, NULL);
        b->next_beat_ms += HEARTBEAT_MS;
    }
}

static size_t count(struct member *b, const char *state)
{
    static struct memberlist_member list[2 * MEMBERS_MAX];
    size_t n = memberlist_members(b->m, list, 2 * MEMBERS_MAX), found = 0;
    for (size_t i = 0; i < n; i++)
        found += strcmp(list[i].state, state) == 0;
    return found;
}

static bool all_see(size_t alive)
{
    for (size_t i = 0; i < n_members; i++)
        if (members[i].m && count(&members[i], "alive") != alive)
            return false;
    return true;
}

static bool all_have(const char *instance)
{
    for (size_t i = 0; i < n_members; i++) {
        void *value = NULL;
        if (!members[i].m || !kv_get(memberlist_kv(members[i].m), KEY, &ring_desc_codec, &value, NULL))
            continue;
        bool found = value && ring_desc_find(value, slice_of(instance));
        ring_desc_codec.free(value);
        if (!found)
            return false;
    }
    return true;
}

/* --- measuring -------------------------------------------------------------------------------------------------------- */

struct cost {
    int64_t at_ms;
    double cpu_ms;
    uint64_t bytes, packets, streams;
};

static struct cost cost_now(void)
{
    struct rusage u;
    getrusage(RUSAGE_SELF, &u);
    struct cost c = {.at_ms = clock_mono_ms()};
    c.cpu_ms = (double)(u.ru_utime.tv_sec + u.ru_stime.tv_sec) * 1e3 + (double)(u.ru_utime.tv_usec + u.ru_stime.tv_usec) / 1e3;
    for (size_t i = 0; i < n_members; i++) {
        struct memberlist_stats s;
        if (!members[i].m)
            continue;
        memberlist_stats(members[i].m, &s);
        c.bytes += s.bytes_out;
        c.packets += s.packets_out;
        c.streams += s.streams_out;
    }
    return c;
}

/* Looking has its price too, so agreement is looked for ten times a second and the price is printed with the rest. */
static void report(const char *phase, const struct cost *from, int64_t agreed_ms)
{
    struct cost to = cost_now();
    double s = (double)(to.at_ms - from->at_ms) / 1e3, n = (double)n_members;
    printf("%-34s %6.1f s  ", phase, s);
    if (agreed_ms >= 0)
        printf("agreed after %6.1f s  ", (double)agreed_ms / 1e3);
    else
        printf("%22s  ", "");
    printf("a member: %7.3f ms CPU/s, %8.0f B/s, %5.2f packets/s, %5.2f exchanges/s\n", (to.cpu_ms - from->cpu_ms) / s / n,
           (double)(to.bytes - from->bytes) / s / n, (double)(to.packets - from->packets) / s / n,
           (double)(to.streams - from->streams) / s / n);
    fflush(stdout);
}

static void run(int64_t ms)
{
    for (int64_t until_ms = clock_mono_ms() + ms; clock_mono_ms() < until_ms; usleep(100000))
        beat_those_due();
}

static int64_t run_until(bool (*done)(size_t), size_t arg)
{
    int64_t from_ms = clock_mono_ms();
    while (!done(arg) && clock_mono_ms() < from_ms + PATIENCE_MS)
        run(100);
    return clock_mono_ms() - from_ms;
}

static bool agreed(size_t alive)
{
    return all_see(alive) && all_have(members[0].instance) && all_have(members[n_members - 1].instance);
}

/* --- phases ------------------------------------------------------------------------------------------------------------ */

static void start_all(size_t n)
{
    struct cost from = cost_now();
    for (size_t i = 0; i < n; i++) {
        char name[32];
        snprintf(name, sizeof name, "node-%zu", i);
        n_members = i + 1;
        start(&members[i], name);
    }
    report("all start", &from, run_until(agreed, n));
}

static void join_one(void)
{
    struct cost from = cost_now();
    n_members++;
    start(&members[n_members - 1], "late");
    report("one joins", &from, run_until(agreed, n_members));
}

/* The one that came back, by its new name, whatever they think of the old one. */
static bool all_know_again(size_t unused)
{
    (void)unused;
    static struct memberlist_member list[2 * MEMBERS_MAX];
    for (size_t i = 0; i < n_members; i++) {
        size_t n = memberlist_members(members[i].m, list, 2 * MEMBERS_MAX), found = 0;
        for (size_t k = 0; k < n; k++)
            found += strcmp(list[k].name, "again") == 0;
        if (!found)
            return false;
    }
    return true;
}

/* Members that live and that some view does not hold for alive, all views together. */
static size_t n_missing(void)
{
    size_t n = 0;
    for (size_t i = 0; i < n_members; i++)
        n += n_members - count(&members[i], "alive");
    return n;
}

static bool dead_for_all(size_t n_dead)
{
    for (size_t i = 0; i < n_members; i++)
        if (strcmp(members[i].name, "again") != 0 && count(&members[i], "dead") != n_dead)
            return false;
    return true;
}

static void kill_one(void)
{
    struct member *b = &members[n_members / 2];
    memberlist_free(b->m); /* without a good-bye */
    b->m = NULL;
    struct cost from = cost_now();
    start(b, "again");
    int64_t ms = run_until(all_know_again, 0);
    report("killed, back as another", &from, ms);
    from = cost_now();
    report("... the old one suspected by all", &from, run_until(all_see, n_members));
    from = cost_now();
    report("... and dead for all", &from, run_until(dead_for_all, 1));
}

static void lose(int percent, int64_t ms)
{
    char phase[40];
    snprintf(phase, sizeof phase, "steady, %d%% of packets lost", percent);
    struct cost from = cost_now();
    atomic_store(&loss_percent, percent);
    run(ms);
    report(phase, &from, -1);
    printf("%34s of %zu views of others at its end, %zu held a living one for suspect or dead\n", "", n_members * (n_members - 1), n_missing());
    atomic_store(&loss_percent, 0);
    from = cost_now();
    report("... until all are well", &from, run_until(agreed, n_members));
}

static void divide(int64_t ms)
{
    struct cost from = cost_now();
    atomic_store(&walled, true);
    run(ms);
    report("two halves", &from, -1);
    atomic_store(&walled, false);
    from = cost_now();
    report("... healed", &from, run_until(agreed, n_members));
}

int main(int argc, char **argv)
{
    size_t n = argc > 1 ? (size_t)atoi(argv[1]) : 50;
    int64_t steady_ms = (argc > 2 ? atoi(argv[2]) : 60) * (int64_t)1000;
    if (n < 2 || n >= MEMBERS_MAX)
        return 2;
    log_min_level = LOG_LEVEL_ERROR;
    start_all(n);
    run(HEARTBEAT_MS);
    struct cost from = cost_now();
    run(steady_ms);
    report("steady state", &from, -1);
    join_one();
    kill_one();
    lose(20, 30000);
    divide(30000);
    for (size_t i = 0; i < n_members; i++)
        memberlist_free(members[i].m);
    return 0;
}
