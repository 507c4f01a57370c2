/*
 * Catching up: how fast an ingester replays a partition, from the embedded log or from Kafka.
 *
 *     ingest_replay_bench FOLDER [SERIES SCRAPES [BROKERS TOPIC]]
 *
 * Writes SCRAPES scrapes of SERIES series (tests/bench/load_series.h; 1,000 a record, uncompressed as on Kafka's wire),
 * then starts an ingester without a checkpoint and waits until it is ready. Prints samples a second and how many times
 * faster than real time that is, scrapes being 15 s apart.
 */
#include <pthread.h>
#include <snappy-c.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <unistd.h>

#include "base/assert.h"
#include "base/clock.h"
#include "base/flags.h"
#include "base/logger.h"
#include "ingest/ingest.h"
#include "log/plog.h"
#include "model/limits.h"
#include "tests/bench/load_series.h"

#define SERIES_A_RECORD 1000
#define SCRAPE_MS 15000

static void die(const char *what)
{
    fprintf(stderr, "%s\n", what);
    exit(1);
}

struct produce {
    struct plog_produce p;
    struct plog_record rec;
    char *value;
};

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t changed = PTHREAD_COND_INITIALIZER;
static long in_flight;

static void produced(struct plog_produce *p, const struct err *err)
{
    struct produce *mine = CONTAINER_OF(p, struct produce, p);
    if (err)
        die(err->text);
    free(mine->value);
    free(mine);
    pthread_mutex_lock(&lock);
    in_flight--;
    pthread_cond_signal(&changed);
    pthread_mutex_unlock(&lock);
}

static void wait_below(long limit)
{
    pthread_mutex_lock(&lock);
    while (in_flight >= limit)
        pthread_cond_wait(&changed, &lock);
    pthread_mutex_unlock(&lock);
}

static size_t write_one(struct plog *log, struct block *b, long scrape, int64_t t_ms)
{
    struct body body = block_body(b, scrape, t_ms);
    struct produce *mine = calloc(1, sizeof(*mine));
    size_t n = body.raw_n;
    struct err err;
    if (!mine || !(mine->value = malloc(n)) || snappy_uncompress(body.p, body.n, mine->value, &n) != SNAPPY_OK)
        die("a body cannot be read");
    free(body.p);
    mine->rec = (struct plog_record){.tenant = SL("anonymous"), .value = slice_make(mine->value, n)};
    mine->p = (struct plog_produce){.records = &mine->rec, .n = 1, .done = produced};
    wait_below(64);
    pthread_mutex_lock(&lock);
    in_flight++;
    pthread_mutex_unlock(&lock);
    if (!plog_produce(log, &mine->p, &err))
        die(err.text);
    return n;
}

static double fill(struct plog *log, long series, long scrapes)
{
    double bytes = 0;
    int64_t begin_ms = clock_wall_ms() - scrapes * SCRAPE_MS;
    long n_blocks = (series + SERIES_A_RECORD - 1) / SERIES_A_RECORD;
    struct block *blocks = calloc((size_t)n_blocks, sizeof(*blocks));
    if (!blocks)
        die("no memory");
    for (long i = 0; i < n_blocks; i++)
        block_init(&blocks[i], i * SERIES_A_RECORD, SERIES_A_RECORD);
    for (long s = 0; s < scrapes; s++)
        for (long i = 0; i < n_blocks; i++)
            bytes += (double)write_one(log, &blocks[i], s, begin_ms + s * SCRAPE_MS);
    wait_below(1);
    for (long i = 0; i < n_blocks; i++)
        block_release(&blocks[i]);
    free(blocks);
    return bytes;
}

static double cpu_seconds(void)
{
    struct rusage u;
    getrusage(RUSAGE_SELF, &u);
    return (double)(u.ru_utime.tv_sec + u.ru_stime.tv_sec) + (double)(u.ru_utime.tv_usec + u.ru_stime.tv_usec) / 1e6;
}

int main(int argc, char **argv)
{
    if (argc < 2)
        die("usage: ingest_replay_bench FOLDER [SERIES SCRAPES [BROKERS TOPIC]]");
    long series = argc > 2 ? atol(argv[2]) : 100000, scrapes = argc > 3 ? atol(argv[3]) : 60;
    struct ingest_config cfg;
    struct plog_config log_cfg;
    struct limits limits;
    struct flag_set *flags = flag_set_new();
    flag_set_add(flags, "limits", limits_flags, limits_flags_n, &limits);
    flag_set_add(flags, "ingest", ingest_flags, ingest_flags_n, &cfg);
    flag_set_add(flags, "log", plog_flags, plog_flags_n, &log_cfg);
    const struct limits_provider provider = {.defaults = &limits};
    log_min_level = LOG_LEVEL_WARN;
    limits.max_global_series_per_user = 0;
    struct err err;
    char dir[4096];
    snprintf(dir, sizeof(dir), "%s/log", argv[1]);
    const char *brokers = argc > 5 ? argv[4] : "";
    log_cfg.kafka_address = (struct flag_list){&brokers, 1};
    log_cfg.kafka_topic = argc > 5 ? argv[5] : "";
    struct plog *log = argc > 5 ? plog_open_kafka(&log_cfg, &err) : plog_open_embedded(&log_cfg, dir, &err);
    if (!log)
        die(err.text);
    double bytes = fill(log, series, scrapes);
    snprintf(dir, sizeof(dir), "%s/ingester", argv[1]);
    double cpu = cpu_seconds();
    int64_t begin_ms = clock_mono_ms();
    struct ingester *ing = ingester_new(&cfg, &provider, log, 0, dir, "ingester-0", 1, &err);
    if (!ing || !ingester_start(ing, &err))
        die(err.text);
    while (!ingester_ready(ing, &err))
        usleep(1000);
    double s = (double)(clock_mono_ms() - begin_ms) / 1e3, samples = (double)series * (double)scrapes;
    struct ingester_user_stats st = {0};
    ingester_user_stats(ing, SL("anonymous"), &st);
    printf("%ld series, %ld scrapes, %.0f MB: %.2f s, %.0f samples/s, %.0f ns CPU a sample, %.0f times real time, %lu "
           "series here\n",
           series, scrapes, bytes / 1e6, s, samples / s, (cpu_seconds() - cpu) * 1e9 / samples,
           (double)scrapes * SCRAPE_MS / 1e3 / s, (unsigned long)st.num_series);
    ingester_stop(ing);
    ingester_free(ing);
    plog_close(log);
    flag_set_free(flags);
    return 0;
}
