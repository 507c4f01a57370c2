/*
 * What a push costs between its body and its record, on one thread: decompress, scan, hash, known series, checks, partition. Nothing of HTTP or
 * of the log.
 *
 *     bench_distributor bodies.bin [partitions [rounds]]
 *
 * bodies.bin: request bodies, each behind its length as a uint32, as load.c writes them:
 *     load --dump bodies.bin --series 100000 --scrapes 6
 * The first round meets every series for the first time. Figures are thread CPU ns a sample: the first round, then minimum and median of the others.
 * With more than one partition requests are split and framed anew.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "base/assert.h"
#include "base/clock.h"
#include "tests/write/partitions.h"
#include "write/push.h"

enum { ROUNDS_MAX = 100 };

static double cpu_ns(void)
{
    struct timespec t;
    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &t);
    return (double)t.tv_sec * 1e9 + (double)t.tv_nsec;
}

static struct buf read_file(const char *path)
{
    struct buf b;
    buf_init(&b, (size_t)4 << 30);
    FILE *f = fopen(path, "rb");
    if (!f) {
        perror(path);
        exit(1);
    }
    size_t n;
    do {
        buf_reserve(&b, 1 << 20);
        n = fread(b.p + b.n, 1, 1 << 20, f);
        b.n += n;
    } while (n);
    fclose(f);
    return b;
}

struct round {
    double ns;
    uint64_t samples;
    uint64_t records;
};

static struct round run(struct distributor *d, struct slice bodies)
{
    struct round r = {0};
    for (size_t at = 0; at + 4 <= bodies.n;) {
        uint32_t n;
        memcpy(&n, bodies.p + at, 4);
        struct buf body = {0};
        buf_put(&body, bodies.p + at + 4, n); /* not timed: the server hands the bytes over */
        at += 4 + n;
        double start = cpu_ns();
        struct push *p = push_new(d, write_tenants_get(d->tenants, SL("tenant"), clock_mono_ms()));
        p->body = body;
        if (!push_prepare(p) || p->error.code != ERR_OK) {
            printf("refused: %s\n", buf_cstr(&p->error.text));
            exit(1);
        }
        push_count(p);
        r.samples += p->accepted.samples;
        r.records += p->produce.n;
        atomic_fetch_sub(&d->inflight_bytes, p->inflight_bytes);
        push_free(p);
        r.ns += cpu_ns() - start;
    }
    return r;
}

static int compare_double(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

int main(int argc, char **argv)
{
    if (argc < 2) {
        fprintf(stderr, "usage: bench_distributor bodies.bin [partitions [rounds]]\n");
        return 2;
    }
    const int partitions = argc > 2 ? atoi(argv[2]) : 1;
    const int rounds = argc > 3 ? MIN(atoi(argv[3]), ROUNDS_MAX) : 7;
    struct write_config cfg;
    struct limits limits;
    struct flag_set *flags = flag_set_new();
    flag_set_add(flags, "write", write_flags, write_flags_n, &cfg);
    flag_set_add(flags, "limits", limits_flags, limits_flags_n, &limits);
    limits.ingestion_rate = 1e12;
    limits.ingestion_burst_size = 1000000000;
    struct limits_provider provider = {&limits};
    struct partitions ring;
    partitions_start(&ring, partitions);
    struct distributor *d = distributor_new(&cfg, &provider, NULL, ring.watcher, 99);
    struct buf bodies = read_file(argv[1]);
    struct round first = run(d, buf_slice(&bodies));
    double per_sample[ROUNDS_MAX];
    for (int i = 0; i < rounds; i++) {
        struct round r = run(d, buf_slice(&bodies));
        per_sample[i] = r.ns / (double)r.samples;
    }
    qsort(per_sample, (size_t)rounds, sizeof(per_sample[0]), compare_double);
    printf("%llu samples, %llu records, %d partitions\n", (unsigned long long)first.samples, (unsigned long long)first.records,
           partitions);
    printf("first round %6.1f ns a sample\n", first.ns / (double)first.samples);
    printf("steady      %6.1f min  %6.1f median\n", per_sample[0], per_sample[rounds / 2]);
    distributor_free(d);
    partitions_stop(&ring);
    buf_release(&bodies);
    flag_set_free(flags);
    return 0;
}
