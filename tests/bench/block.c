/*
 * What a block costs: written, opened, verified, asked.
 *
 *     bench_block <folder on a disk> [series, default 200000] [samples a series, default 240]
 *
 * Series have 8 labels, as a fleet of machines has them; values are counters. CPU time and wall time of this process, with all syncs.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <time.h>

#include "base/clock.h"
#include "storage/block/block.h"

#define N_LABELS 8
#define STEP_MS 15000
#define INSTANCES 1000

static double cpu_s(void)
{
    struct timespec t;
    clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &t);
    return (double)t.tv_sec + (double)t.tv_nsec / 1e9;
}

static void die(const struct err *err)
{
    fprintf(stderr, "%s\n", err->text);
    exit(1);
}

static int cmp(const void *a, const void *b)
{
    return slice_cmp(*(const struct slice *)a, *(const struct slice *)b);
}

/* The names and values of all series; metrics are numbered with leading zeros, so that counting up is the order of series. */
struct words {
    struct slice *metrics, *instances, *all;
    size_t n_metrics, n_all;
};

static const char *const names[N_LABELS] = {"__name__", "cluster", "env", "instance", "job", "namespace", "region", "team"};

static struct words make_words(struct arena *a, size_t n_series)
{
    struct words w = {.n_metrics = n_series / INSTANCES + 1};
    w.metrics = ARENA_ARRAY(a, struct slice, w.n_metrics);
    w.instances = ARENA_ARRAY(a, struct slice, INSTANCES);
    w.all = ARENA_ARRAY(a, struct slice, w.n_metrics + INSTANCES + 3 * N_LABELS);
    for (size_t i = 0; i < w.n_metrics; i++)
        w.all[w.n_all++] = w.metrics[i] = slice_of(arena_printf(a, "node_some_metric_of_length_%06zu_total", i));
    for (size_t i = 0; i < INSTANCES; i++)
        w.all[w.n_all++] = w.instances[i] = slice_of(arena_printf(a, "host-%04zu.example:9100", i));
    for (size_t i = 0; i < N_LABELS; i++) {
        w.all[w.n_all++] = slice_of(names[i]);
        w.all[w.n_all++] = slice_of(arena_printf(a, "value-of-%zu", i));
    }
    qsort(w.all, w.n_all, sizeof(*w.all), cmp);
    return w;
}

static size_t make_chunks(uint8_t *bytes, size_t n_samples, struct series_chunk *ret, uint64_t seed)
{
    size_t n = 0;
    for (size_t from = 0; from < n_samples; from += CHUNK_SAMPLES, n++) {
        struct xor_appender a;
        size_t to = from + CHUNK_SAMPLES < n_samples ? from + CHUNK_SAMPLES : n_samples;
        xor_appender_init(&a);
        for (size_t i = from; i < to; i++)
            xor_append(&a, bytes, (int64_t)i * STEP_MS, (double)(seed + i * 7 + i * seed % 13));
        ret[n] = (struct series_chunk){(int64_t)from * STEP_MS, (int64_t)(to - 1) * STEP_MS, CHUNK_XOR, slice_make(bytes, xor_size(&a))};
        bytes += xor_size(&a) + XOR_SAMPLE_MAX_BYTES + 8;
    }
    return n;
}

static void write_one(const char *dir, const struct words *w, size_t n_series, size_t n_samples, struct block_meta *meta, struct arena *arena)
{
    struct err err = ERR_NONE;
    size_t n_chunks = n_samples / CHUNK_SAMPLES + 1, n = 0;
    uint8_t *bytes = calloc(n_chunks, CHUNK_SAMPLES * XOR_SAMPLE_MAX_BYTES + 64);
    struct series_chunk *chunks = calloc(n_chunks, sizeof(*chunks));
    double making = 0, cpu = cpu_s();
    int64_t wall = clock_mono_ns();
    struct block_writer *writer = block_writer_new(dir, meta, w->all, w->n_all, &err);
    if (!writer)
        die(&err);
    for (size_t i = 0; i < n_series; i++) {
        struct label l[N_LABELS];
        for (size_t k = 0; k < N_LABELS; k++) {
            char value[32];
            int len = snprintf(value, sizeof(value), "value-of-%zu", k);
            struct slice key = slice_make(value, (size_t)len);
            l[k] = (struct label){slice_of(names[k]), *(struct slice *)bsearch(&key, w->all, w->n_all, sizeof(key), cmp)};
        }
        l[0].value = w->metrics[i / INSTANCES];
        l[3].value = w->instances[i % INSTANCES];
        if (i % 64 == 0) {
            double before = cpu_s();
            n = make_chunks(bytes, n_samples, chunks, i);
            making += cpu_s() - before;
        }
        if (!block_writer_add(writer, &(struct labels){l, N_LABELS}, chunks, n, &err))
            die(&err);
    }
    double added = cpu_s() - cpu - making;
    if (!block_writer_finish(writer, arena, meta, &err))
        die(&err);
    block_writer_free(writer);
    double s = cpu_s() - cpu - making, wall_s = (double)(clock_mono_ns() - wall) / 1e9;
    uint64_t total = 0;
    for (size_t i = 0; i < meta->n_files; i++) {
        total += meta->files[i].size;
        printf("%-16.*s %12llu bytes\n", SL_FMT(meta->files[i].path), (unsigned long long)meta->files[i].size);
    }
    printf("written: %.2f s of CPU (%.2f s of it series), %.2f s of wall time: %.0f series/s, %.0f MB/s, %.3f bytes a sample\n", s, added, wall_s,
           (double)n_series / s, (double)total / 1e6 / s, (double)total / (double)meta->stats.samples);
    free(bytes);
    free(chunks);
}

static void ask(struct block *b, const char *what, enum matcher_type type, const char *name, const char *value, bool no_chunks, int rounds)
{
    struct matcher m;
    struct err err = ERR_NONE;
    size_t total = 0, n;
    if (!matcher_init(&m, type, slice_of(name), slice_of(value), &err))
        die(&err);
    double cpu = cpu_s();
    for (int i = 0; i < rounds; i++) {
        struct arena arena;
        struct series batch[64];
        arena_init(&arena, 0);
        struct ctx ctx = {.arena = &arena};
        struct select_params p = {.min_t = INT64_MIN, .max_t = INT64_MAX, .matchers = &m, .n_matchers = 1, .no_chunks = no_chunks};
        struct series_set *set = block_select(b, &ctx, &p, &err);
        if (!set)
            die(&err);
        while (series_set_next(set, &ctx, batch, 64, &n, &err) && n)
            total += n;
        series_set_release(set);
        arena_release(&arena);
    }
    double s = (cpu_s() - cpu) / rounds;
    printf("%-34s %9zu series %10.1f us, %7.0f ns a series\n", what, total / (size_t)rounds, s * 1e6, s * 1e9 / ((double)total / rounds));
    matcher_release(&m);
}

int main(int argc, char **argv)
{
    if (argc < 2)
        return fprintf(stderr, "usage: bench_block <folder> [series] [samples]\n"), 1;
    size_t n_series = argc > 2 ? strtoul(argv[2], NULL, 10) : 200000, n_samples = argc > 3 ? strtoul(argv[3], NULL, 10) : 240;
    struct arena arena;
    struct err err = ERR_NONE;
    char path[4096];
    arena_init(&arena, 0);
    struct words w = make_words(&arena, n_series);
    struct block_meta meta = {.ulid = ulid_new(clock_wall_ms()), .max_t = (int64_t)n_samples * STEP_MS, .level = 1, .has_thanos = true, .source = SL("test")};
    snprintf(path, sizeof(path), "%s/%s", argv[1], meta.ulid.text);
    write_one(argv[1], &w, n_series, n_samples, &meta, &arena);
    struct rusage usage;
    getrusage(RUSAGE_SELF, &usage);
    printf("memory at its highest: %ld MB\n", usage.ru_maxrss / 1024);
    double cpu = cpu_s();
    struct block *b = block_open(path, &err);
    if (!b)
        die(&err);
    printf("opened: %.1f ms\n", (cpu_s() - cpu) * 1e3);
    ask(b, "one metric, no chunks", MATCH_EQ, "__name__", "node_some_metric_of_length_000001_total", true, 100);
    ask(b, "one metric with chunks", MATCH_EQ, "__name__", "node_some_metric_of_length_000001_total", false, 100);
    ask(b, "one instance, no chunks", MATCH_EQ, "instance", "host-0007.example:9100", true, 100);
    ask(b, "ten instances, a regex", MATCH_RE, "instance", "host-000.\\.example:9100", true, 20);
    ask(b, "all series, no chunks", MATCH_RE, "instance", ".+", true, 1);
    cpu = cpu_s();
    if (!block_verify(b, &err))
        die(&err);
    printf("verified: %.2f s\n", cpu_s() - cpu);
    block_close(b);
    arena_release(&arena);
    return 0;
}
