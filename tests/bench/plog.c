/*
 * What the embedded log costs, in its steady state: it appends until retention has removed several times the log's
 * size, then measures.
 *
 *   bench_plog <folder> [record bytes = 60000] [producers = 16] [seconds = 10] [log bytes = 1 GiB] [segment bytes = 256
 *   MiB]
 *
 * Prints records/s, MB/s, CPU per record (all threads, of which the producers' checksums are a part), bytes written per
 * byte of record, records a commit, and the time of a commit; then the same for reading it all back. Bytes written are
 * those given to write calls (wchar of /proc/self/io) and those of dirtied memory (write_bytes), which counts whole
 * folios on kernels that cache files in large ones: the disk sees something between the two.
 */
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>

#include "base/clock.h"
#include "base/logger.h"
#include "log/plog.h"
#include "log/plog_int.h"

static struct plog *plog;
static size_t record_bytes;
static atomic_bool stop;
static _Atomic uint64_t n_done;
static _Atomic int64_t next_offset;

struct producer {
    struct plog_produce p;
    struct plog_record record;
    pthread_mutex_t lock;
    pthread_cond_t cond;
    bool finished, ok;
};

static void on_done(struct plog_produce *p, const struct err *err)
{
    struct producer *me = (struct producer *)p;
    if (err)
        fprintf(stderr, "%s\n", err->text);
    pthread_mutex_lock(&me->lock);
    me->finished = true;
    me->ok = !err;
    pthread_cond_signal(&me->cond);
    pthread_mutex_unlock(&me->lock);
}

static void *produce(void *arg)
{
    struct producer me = {.lock = PTHREAD_MUTEX_INITIALIZER, .cond = PTHREAD_COND_INITIALIZER};
    char *value = malloc(record_bytes + 8);
    uint64_t x = (uint64_t)(uintptr_t)arg + 1;
    for (size_t i = 0; i < record_bytes; i += 8, x = x * 6364136223846793005u + 1442695040888963407u)
        memcpy(value + i, &x, 8);
    while (!stop) {
        struct err err = ERR_NONE;
        me.record = (struct plog_record){.tenant = SL("anonymous"), .value = {value, record_bytes}};
        me.p = (struct plog_produce){.records = &me.record, .n = 1, .done = on_done};
        me.finished = false;
        if (!plog_produce(plog, &me.p, &err)) {
            fprintf(stderr, "%s\n", err.text);
            break;
        }
        pthread_mutex_lock(&me.lock);
        while (!me.finished)
            pthread_cond_wait(&me.cond, &me.lock);
        pthread_mutex_unlock(&me.lock);
        if (!me.ok)
            break;
        n_done++;
        int64_t o = next_offset;
        while (o <= me.record.offset && !atomic_compare_exchange_weak(&next_offset, &o, me.record.offset + 1))
            continue;
    }
    free(value);
    return NULL;
}

static double cpu_seconds(void)
{
    struct rusage u;
    getrusage(RUSAGE_SELF, &u);
    return (double)(u.ru_utime.tv_sec + u.ru_stime.tv_sec) + (double)(u.ru_utime.tv_usec + u.ru_stime.tv_usec) / 1e6;
}

static double io_counter(const char *name)
{
    char line[100];
    unsigned long long n = 0;
    FILE *f = fopen("/proc/self/io", "r");
    while (f && fgets(line, sizeof(line), f))
        if (strncmp(line, name, strlen(name)) == 0)
            n = strtoull(line + strlen(name), NULL, 10);
    if (f)
        fclose(f);
    return (double)n;
}

struct sample {
    double t, cpu, calls, written, n, commits, records;
};

static struct sample sample(void)
{
    return (struct sample){(double)clock_mono_ns() / 1e9,
                           cpu_seconds(),
                           io_counter("wchar: "),
                           io_counter("write_bytes: "),
                           (double)n_done,
                           metric_value(metric_single(log_metrics[LOG_COMMITS])),
                           metric_value(metric_single(log_metrics[LOG_COMMIT_RECORDS]))};
}

static void wait_ms(int64_t ms)
{
    for (int64_t until = clock_mono_ms() + ms; clock_mono_ms() < until;) {
        struct timespec nap = {.tv_nsec = 10000000};
        nanosleep(&nap, NULL);
        plog_set_needed_from(plog, 0, next_offset);
    }
}

static void report_writes(struct sample a, struct sample b)
{
    double n = b.n - a.n, s = b.t - a.t, bytes = n * (double)record_bytes;
    printf("append: %.0f records/s, %.0f MB/s, CPU %.1f us/record (%.2f ns/byte), written %.3f B/B (dirtied %.3f), "
           "%.1f records/commit, %.3f ms/commit\n",
           n / s, bytes / s / 1e6, (b.cpu - a.cpu) / n * 1e6, (b.cpu - a.cpu) / bytes * 1e9,
           (b.calls - a.calls) / bytes, (b.written - a.written) / bytes,
           (b.records - a.records) / (b.commits - a.commits), s / (b.commits - a.commits) * 1e3);
}

static void read_back(void)
{
    int64_t first, next;
    struct err err = ERR_NONE;
    plog_offsets(plog, 0, &first, &next, &err);
    double cpu = cpu_seconds(), t = (double)clock_mono_ns() / 1e9, n = (double)(next - first);
    for (int64_t o = first; o < next;) {
        struct plog_batch b;
        if (!plog_fetch(plog, 0, o, 1 << 20, 0, &b, &err)) {
            fprintf(stderr, "%s\n", err.text);
            exit(1);
        }
        o = b.next_offset;
        plog_batch_release(&b);
    }
    t = (double)clock_mono_ns() / 1e9 - t;
    printf("read back: %.0f records, %.0f records/s, %.0f MB/s, CPU %.1f us/record\n", n, n / t,
           n * (double)record_bytes / t / 1e6, (cpu_seconds() - cpu) / n * 1e6);
}

int main(int argc, char **argv)
{
    if (argc < 2) {
        fprintf(stderr, "usage: %s <folder> [record bytes] [producers] [seconds] [log bytes] [segment bytes]\n",
                argv[0]);
        return 2;
    }
    record_bytes = argc > 2 ? strtoull(argv[2], NULL, 10) : 60000;
    size_t producers = argc > 3 ? strtoull(argv[3], NULL, 10) : 16;
    int64_t seconds = argc > 4 ? atoll(argv[4]) : 10;
    log_min_level = LOG_LEVEL_WARN;
    struct plog_config cfg = {
        .producer_max_buffered_bytes = (uint64_t)1 << 30,
        .embedded_partitions = 1,
        .embedded_segment_bytes = argc > 6 ? strtoull(argv[6], NULL, 10) : (uint64_t)256 << 20,
        .embedded_retention_size_bytes = argc > 5 ? strtoull(argv[5], NULL, 10) : (uint64_t)1 << 30,
    };
    struct err err = ERR_NONE;
    plog = plog_open_embedded(&cfg, argv[1], &err);
    if (!plog) {
        fprintf(stderr, "%s\n", err.text);
        return 1;
    }
    pthread_t threads[256];
    for (size_t i = 0; i < producers && i < 256; i++)
        pthread_create(&threads[i], NULL, produce, (void *)i);
    /* Steady: twice the log's size has gone through. */
    while ((double)n_done * (double)record_bytes < 2.0 * (double)cfg.embedded_retention_size_bytes && !stop)
        wait_ms(100);
    struct sample a = sample();
    wait_ms(seconds * 1000);
    struct sample b = sample();
    stop = true;
    for (size_t i = 0; i < producers && i < 256; i++)
        pthread_join(threads[i], NULL);
    int64_t first, next;
    plog_offsets(plog, 0, &first, &next, NULL);
    printf("%zu producers of %zu bytes; %ld records went, %ld are kept\n", producers, record_bytes, (long)first,
           (long)(next - first));
    report_writes(a, b);
    read_back();
    plog_close(plog);
    return 0;
}
