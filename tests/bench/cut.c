/*
 * What cutting a block costs those who push, and what it costs at all.
 *
 *     bench_cut FOLDER [SERIES [PUSHES_A_SECOND [CPU_SHARE [ROUNDS]]]]      defaults 100000 100 0.25 5
 *
 * A partition of the embedded log and its ingester are filled with two hours of SERIES series (tests/bench/load_series.h), 120 samples of each. Then requests of
 * 1,000 series are pushed at an even pace, whatever the answers take, first while nothing else happens, then from the moment at which the range is ready until
 * its block is published, and for as long after. So ROUNDS times, with a range each. A push is timed from its body on: decompressed, produced, durable in the log, as the distributor does it; the same process
 * applies it meanwhile. Prints percentiles of both phases, and CPU and time a sample cut.
 */
#include <dirent.h>
#include <pthread.h>
#include <snappy-c.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "base/assert.h"
#include "base/clock.h"
#include "base/flags.h"
#include "base/logger.h"
#include "ingest/ingest.h"
#include "log/plog.h"
#include "model/limits.h"
#include "tests/bench/load_series.h"

#define A_RECORD 1000
#define T0 1700006400000LL
#define MINUTE_MS 60000LL
#define MAX_PUSHES 1000000
#define WARM_S 5 /* after the filling: disks are busy for a while */
#define QUIET_S 2

static void die(const char *what)
{
    fprintf(stderr, "%s\n", what);
    exit(1);
}

struct push {
    struct plog_produce p;
    struct plog_record rec;
    int64_t begin_ns;
    int phase;
    char *value;
};

enum { QUIET, CUTTING, FILLING, PHASES };

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t changed = PTHREAD_COND_INITIALIZER;
static long in_flight;
static int phase = FILLING;
static double *times_us[PHASES];
static size_t n_times[PHASES];

static void pushed(struct plog_produce *p, const struct err *err)
{
    struct push *mine = CONTAINER_OF(p, struct push, p);
    if (err)
        die(err->text);
    double us = (double)(clock_mono_ns() - mine->begin_ns) / 1e3;
    int at = mine->phase;
    free(mine->value);
    free(mine);
    pthread_mutex_lock(&lock);
    if (n_times[at] < MAX_PUSHES)
        times_us[at][n_times[at]++] = us;
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

static void push(struct plog *log, struct block *b, long scrape, int64_t t_ms)
{
    struct body body = block_body(b, scrape, t_ms);
    struct push *mine = calloc(1, sizeof(*mine));
    size_t n = body.raw_n;
    struct err err;
    mine->begin_ns = clock_mono_ns();
    mine->phase = phase;
    if (!(mine->value = malloc(n)) || snappy_uncompress(body.p, body.n, mine->value, &n) != SNAPPY_OK)
        die("a body cannot be read");
    free(body.p);
    mine->rec = (struct plog_record){.tenant = SL("anonymous"), .value = slice_make(mine->value, n), .timestamp_ms = clock_wall_ms()};
    mine->p = (struct plog_produce){.records = &mine->rec, .n = 1, .done = pushed};
    wait_below(1000);
    pthread_mutex_lock(&lock);
    in_flight++;
    pthread_mutex_unlock(&lock);
    if (!plog_produce(log, &mine->p, &err))
        die(err.text);
}

static int by_value(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

static double percentiles(const char *name, int of)
{
    double *t = times_us[of];
    size_t n = n_times[of];
    qsort(t, n, sizeof(*t), by_value);
    double p99 = t[n * 99 / 100];
    printf("%-8s %7zu pushes: p50 %8.0f us, p90 %8.0f us, p99 %8.0f us, max %8.0f us\n", name, n, t[n / 2], t[n * 9 / 10], p99, t[n - 1]);
    return p99;
}

/* CPU time of the thread of that name. */
static double thread_seconds(const char *name)
{
    DIR *d = opendir("/proc/self/task");
    double found = 0;
    for (struct dirent *e; d && (e = readdir(d));) {
        char path[300], comm[64] = "";
        unsigned long long ns = 0;
        snprintf(path, sizeof(path), "/proc/self/task/%s/comm", e->d_name);
        FILE *f = fopen(path, "r");
        if (f && fscanf(f, "%63s", comm) == 1 && strcmp(comm, name) == 0) {
            char stat[300];
            snprintf(stat, sizeof(stat), "/proc/self/task/%s/schedstat", e->d_name);
            FILE *s = fopen(stat, "r");
            if (s && fscanf(s, "%llu", &ns) == 1)
                found += (double)ns / 1e9;
            if (s)
                fclose(s);
        }
        if (f)
            fclose(f);
    }
    if (d)
        closedir(d);
    return found;
}

static size_t rss_kib(const char *what)
{
    FILE *f = fopen("/proc/self/status", "r");
    char line[256];
    size_t kib = 0, n = strlen(what);
    while (f && fgets(line, sizeof(line), f))
        if (strncmp(line, what, n) == 0)
            kib = strtoul(line + n, NULL, 10);
    if (f)
        fclose(f);
    return kib;
}

static size_t n_published(struct ingester *ing)
{
    size_t n;
    free(local_blocks_list(ingester_local_blocks(ing), SL("anonymous"), &n));
    return n;
}

static uint64_t samples_of_blocks(struct ingester *ing)
{
    size_t n;
    uint64_t samples = 0;
    struct local_block_info *list = local_blocks_list(ingester_local_blocks(ing), SL("anonymous"), &n);
    for (size_t i = 0; i < n; i++) {
        struct err err;
        struct block *b = block_open(list[i].path, &err);
        if (!b)
            die(err.text);
        samples += block_meta_of(b)->stats.samples;
        printf("block: %.1f MB, %llu series, %.2f bytes a sample with the index\n", (double)list[i].bytes / 1e6,
               (unsigned long long)block_meta_of(b)->stats.series, (double)list[i].bytes / (double)block_meta_of(b)->stats.samples);
        block_close(b);
    }
    free(list);
    return samples;
}

struct load {
    struct plog *log;
    struct block *blocks;
    long n;
    long scrape;
    long at; /* the block that is next */
    int64_t t_ms;
};

/* One push at its time; the scrape's time goes on by a second with each round. */
static void push_next(struct load *l)
{
    push(l->log, &l->blocks[l->at], l->scrape, l->t_ms);
    if (++l->at == l->n) {
        l->at = 0;
        l->scrape++;
        l->t_ms += 1000;
    }
}

/* For so many seconds, or until there are so many blocks; how long it took. */
static double at_pace(struct load *l, double rate, double seconds, struct ingester *ing, size_t n_blocks)
{
    int64_t begin_ns = clock_mono_ns();
    for (long i = 0;; i++) {
        int64_t due_ns = begin_ns + (int64_t)((double)i * 1e9 / rate);
        int64_t now_ns = clock_mono_ns();
        if (now_ns < due_ns)
            nanosleep(&(struct timespec){.tv_nsec = due_ns - now_ns}, NULL);
        double s = (double)(now_ns - begin_ns) / 1e9;
        if (n_blocks ? n_published(ing) >= n_blocks : s >= seconds)
            return s;
        push_next(l);
    }
}

/* Two hours from R on, of which the round before has pushed one; applied and on disk. */
static void fill_range(struct load *l, struct ingester *ing, int64_t r, bool first)
{
    int64_t from = first ? r : r + 61 * MINUTE_MS;
    int64_t step = (r + 121 * MINUTE_MS - from) / 120;
    int64_t begin, next;
    struct arena arena;
    struct err err;
    phase = FILLING;
    for (int i = 0; i < 120; i++, l->scrape++)
        for (long k = 0; k < l->n; k++)
            push(l->log, &l->blocks[k], l->scrape, from + i * step);
    wait_below(1);
    n_times[FILLING] = 0;
    l->at = 0;
    l->t_ms = r + 121 * MINUTE_MS;
    arena_init(&arena, 0);
    struct ctx ctx = {.arena = &arena};
    if (!plog_offsets(l->log, 0, &begin, &next, &err) || !ingester_wait(ing, next, &ctx, &err) || !ingester_checkpoint(ing, &err))
        die(err.text);
    arena_release(&arena);
    /* What the filling has written is not to be written while pushes are timed. */
    sync();
}

int main(int argc, char **argv)
{
    if (argc < 2)
        die("usage: bench_cut FOLDER [SERIES [PUSHES_A_SECOND [CPU_SHARE [ROUNDS]]]]");
    long series = argc > 2 ? atol(argv[2]) : 100000;
    double rate = argc > 3 ? atof(argv[3]) : 100;
    int rounds = argc > 5 ? atoi(argv[5]) : 5;
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
    cfg.retention_period = 0;
    cfg.head_compaction_interval = 10;
    cfg.checkpoint_interval = 3600 * 1000;
    cfg.checkpoint_record_bytes = 0;
    if (argc > 4)
        cfg.block_cut_cpu_share = atof(argv[4]);
    struct err err;
    char dir[4096];
    snprintf(dir, sizeof(dir), "%s/log", argv[1]);
    struct load l = {.n = (series + A_RECORD - 1) / A_RECORD};
    for (int i = 0; i < PHASES; i++)
        if (!(times_us[i] = calloc(MAX_PUSHES, sizeof(double))))
            die("no memory");
    l.blocks = calloc((size_t)l.n, sizeof(*l.blocks));
    l.log = plog_open_embedded(&log_cfg, dir, &err);
    if (!l.log || !l.blocks)
        die(err.text);
    snprintf(dir, sizeof(dir), "%s/ingester", argv[1]);
    struct ingester *ing = ingester_new(&cfg, &provider, l.log, 0, dir, "ingester-0", 1, &err);
    if (!ing || !ingester_start(ing, &err))
        die(err.text);
    for (long i = 0; i < l.n; i++)
        block_init(&l.blocks[i], i * A_RECORD, A_RECORD);
    double s = 0, cpu = thread_seconds("cutter");
    for (int round = 0; round < rounds; round++) {
        int64_t r = T0 + round * 120 * MINUTE_MS;
        fill_range(&l, ing, r, round == 0);
        at_pace(&l, rate, WARM_S, ing, 0);
        wait_below(1);
        phase = QUIET;
        at_pace(&l, rate, QUIET_S, ing, 0);
        wait_below(1);
        l.t_ms = r + 180 * MINUTE_MS;
        phase = CUTTING;
        double took = at_pace(&l, rate, 0, ing, (size_t)round + 1);
        wait_below(1);
        s += took;
        phase = QUIET;
        at_pace(&l, rate, took, ing, 0);
        wait_below(1);
    }
    cpu = thread_seconds("cutter") - cpu;
    double quiet = percentiles("quiet", QUIET), cutting = percentiles("cutting", CUTTING);
    uint64_t samples = samples_of_blocks(ing);
    printf("cut: %llu samples in %.1f s, %.1f ns CPU a sample, %.1f%% of a core; resident memory at most %zu MiB\n",
           (unsigned long long)samples, s, cpu * 1e9 / (double)samples, cpu / s * 100, rss_kib("VmHWM:") / 1024);
    printf("p99 while cutting: %.2f times quiet\n", cutting / quiet);
    ingester_stop(ing);
    ingester_free(ing);
    plog_close(l.log);
    for (long i = 0; i < l.n; i++)
        block_release(&l.blocks[i]);
    free(l.blocks);
    for (int i = 0; i < PHASES; i++)
        free(times_us[i]);
    flag_set_free(flags);
    return 0;
}
