/*
 * Everything of the distributor at once, for the thread sanitizer: pushes of many tenants over one another's series, more tenants than there is room
 * for, known series that grow, age out and are forgotten, scrapes. Stops before the log. Exits 0 when every push was accepted.
 *
 *   write_push_stress [seconds = 10]
 */
#include <snappy-c.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

#include "base/assert.h"
#include "base/clock.h"
#include "tests/write/partitions.h"
#include "write/push.h"

enum { PUSHERS = 4, SERIES = 300, TENANTS = 9, TENANTS_MAX = 6 };

static struct distributor *distributor;
static atomic_bool stop;
static atomic_uint_fast64_t n_pushes, n_wrong;

static uint64_t next_random(uint64_t *state)
{
    *state ^= *state << 13;
    *state ^= *state >> 7;
    *state ^= *state << 17;
    return *state;
}

static void put_bytes(struct buf *b, unsigned field, struct slice s)
{
    buf_put_uvarint(b, field << 3 | 2);
    buf_put_uvarint(b, s.n);
    buf_put_slice(b, s);
}

static void put_label(struct buf *series, const char *name, const char *value)
{
    struct buf l = {0};
    put_bytes(&l, 1, slice_of(name));
    put_bytes(&l, 2, slice_of(value));
    put_bytes(series, 1, buf_slice(&l));
    buf_release(&l);
}

static struct buf make_body(uint64_t *random)
{
    struct buf m = {0}, body = {0};
    for (int i = 0; i < SERIES; i++) {
        char value[32];
        snprintf(value, sizeof(value), "%llu", (unsigned long long)(next_random(random) % 5000));
        struct buf s = {0};
        put_label(&s, i % 10 ? "__name__" : "aaa", i % 10 ? "m" : "unsorted");
        put_label(&s, i % 10 ? "i" : "__name__", i % 10 ? value : "m");
        put_bytes(&s, 2, SL("\x09\0\0\0\0\0\0\xf0\x3f\x10\x01"));
        put_bytes(&m, 1, buf_slice(&s));
        buf_release(&s);
    }
    size_t n = snappy_max_compressed_length(m.n);
    buf_reserve(&body, n);
    snappy_status status = snappy_compress(m.p, m.n, body.p, &n);
    ASSERT(status == SNAPPY_OK);
    body.n = n;
    buf_release(&m);
    return body;
}

static void *push_all_the_time(void *arg)
{
    uint64_t random = 88172645463325252ULL + (uint64_t)(uintptr_t)arg;
    while (!atomic_load(&stop)) {
        char name[16];
        uint64_t r = next_random(&random) >> 8;
        int len = snprintf(name, sizeof(name), "tenant-%d", (int)(r % (r >> 32 & 31 ? 3 : TENANTS))); /* most are of three */
        struct write_tenant *t = write_tenants_get(distributor->tenants, slice_make(name, (size_t)len), clock_mono_ms());
        if (!t) {
            atomic_fetch_add(&n_wrong, 1);
            continue;
        }
        struct push *p = push_new(distributor, t);
        p->body = make_body(&random);
        bool ok = push_prepare(p);
        push_count(p);
        if (!ok || p->error.code != ERR_OK || p->accepted.samples != SERIES)
            atomic_fetch_add(&n_wrong, 1);
        atomic_fetch_sub(&distributor->inflight_bytes, p->inflight_bytes);
        push_free(p);
        atomic_fetch_add(&n_pushes, 1);
    }
    return NULL;
}

static void *scrape_all_the_time(void *arg)
{
    (void)arg;
    while (!atomic_load(&stop)) {
        struct buf out = {0};
        metrics_write_text(&out, NULL, 0);
        buf_release(&out);
    }
    return NULL;
}

int main(int argc, char **argv)
{
    const int seconds = argc > 1 ? atoi(argv[1]) : 10;
    struct write_config cfg;
    struct limits limits;
    struct flag_set *flags = flag_set_new();
    flag_set_add(flags, "write", write_flags, write_flags_n, &cfg);
    flag_set_add(flags, "limits", limits_flags, limits_flags_n, &limits);
    limits.ingestion_rate = 1e12;
    limits.ingestion_burst_size = 1000000000;
    limits.ingestion_partitions_tenant_shard_size = 2;
    cfg.max_tenants = TENANTS_MAX;
    cfg.known_series_max = 2000;
    struct limits_provider provider = {&limits};
    struct partitions partitions;
    partitions_start(&partitions, 5);
    distributor = distributor_new(&cfg, &provider, NULL, partitions.watcher, 7);
    pthread_t threads[PUSHERS + 1];
    for (uintptr_t i = 0; i < PUSHERS; i++)
        pthread_create(&threads[i], NULL, push_all_the_time, (void *)i);
    pthread_create(&threads[PUSHERS], NULL, scrape_all_the_time, NULL);
    /* Meanwhile partitions go and come. */
    enum partition_state states[5] = {PARTITION_ACTIVE, PARTITION_ACTIVE, PARTITION_ACTIVE, PARTITION_ACTIVE, PARTITION_ACTIVE};
    int64_t until = clock_mono_ms() + 1000 * (int64_t)seconds;
    for (size_t i = 0; clock_mono_ms() < until; i++) {
        states[i % 5] = states[i % 5] == PARTITION_ACTIVE ? PARTITION_INACTIVE : PARTITION_ACTIVE;
        states[0] = PARTITION_ACTIVE;
        partitions_set(&partitions, 5, states);
        nanosleep(&(struct timespec){.tv_nsec = 20000000}, NULL);
    }
    atomic_store(&stop, true);
    for (int i = 0; i <= PUSHERS; i++)
        pthread_join(threads[i], NULL);
    printf("%llu pushes, %llu wrong, %zu tenants at the end\n", (unsigned long long)atomic_load(&n_pushes),
           (unsigned long long)atomic_load(&n_wrong), write_tenants_count(distributor->tenants));
    distributor_free(distributor);
    partitions_stop(&partitions);
    flag_set_free(flags);
    return atomic_load(&n_wrong) ? 1 : 0;
}
