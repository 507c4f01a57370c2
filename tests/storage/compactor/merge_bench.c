/*
 * What merging blocks costs.
 *
 *     merge_bench <folder on a disk> [series, default 100000] [blocks, default 6] [shards, default 0]
 *
 * Blocks of 2 h with a sample every 15 s, 8 labels a series, counters. Three ways: blocks that follow each other (chunks are copied), replicas that cut alike (one
 * of each chunk is kept), replicas whose chunks differ (all are decoded and encoded). Each merge runs in a process of its own: CPU time with all syncs, and its
 * memory at its highest with and without the pages of mapped files.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "base/clock.h"
#include "storage/compactor/merge.h"

#define N_LABELS 8
#define STEP_MS 15000
#define RANGE_MS INT64_C(7200000)
#define SAMPLES ((size_t)(RANGE_MS / STEP_MS))
#define INSTANCES 1000
#define BLOCKS_MAX 64

enum way { FOLLOWING, ALIKE, DIFFERENT, WAYS };
static const char *const way_names[WAYS] = {"following each other", "replicas alike", "replicas that differ"};

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

/* Of the blocks that differ the second half of each chunk begins elsewhere, and every third sample is missing in one of them. */
static size_t make_chunks(uint8_t *bytes, int64_t from_t, enum way way, size_t replica, uint64_t seed, struct series_chunk *ret)
{
    size_t n = 0, at = 0;
    while (at < SAMPLES) {
        struct xor_appender a;
        size_t want = way == DIFFERENT && replica % 2 && n == 0 ? CHUNK_SAMPLES / 2 : CHUNK_SAMPLES;
        struct series_chunk c = {.encoding = CHUNK_XOR};
        xor_appender_init(&a);
        for (; at < SAMPLES && a.n < want; at++) {
            int64_t t = from_t + (int64_t)at * STEP_MS;
            if (way == DIFFERENT && at % 3 == replica % 3)
                continue;
            if (a.n == 0)
                c.min_t = t;
            xor_append(&a, bytes, t, (double)(seed + at * 7 + at * seed % 13));
            c.max_t = t;
        }
        c.data = slice_make(bytes, xor_size(&a));
        bytes += xor_size(&a) + XOR_SAMPLE_MAX_BYTES + 8;
        if (a.n)
            ret[n++] = c;
    }
    return n;
}

static int cmp(const void *a, const void *b)
{
    return slice_cmp(*(const struct slice *)a, *(const struct slice *)b);
}

static struct ulid make_block(const char *dir, size_t n_series, enum way way, size_t replica)
{
    static const char *const names[N_LABELS] = {"__name__", "cluster", "env", "instance", "job", "namespace", "region", "team"};
    struct err err = ERR_NONE;
    struct arena arena;
    struct series_chunk chunks[16];
    struct label l[N_LABELS];
    arena_init(&arena, 0);
    int64_t from_t = way == FOLLOWING ? (int64_t)replica * RANGE_MS : 0;
    size_t n_metrics = n_series / INSTANCES + 1, n_all = 0, n = 0;
    struct slice *metrics = ARENA_ARRAY(&arena, struct slice, n_metrics), *instances = ARENA_ARRAY(&arena, struct slice, INSTANCES);
    struct slice *all = ARENA_ARRAY(&arena, struct slice, n_metrics + INSTANCES + 2 * N_LABELS);
    uint8_t *bytes = arena_alloc(&arena, SAMPLES * XOR_SAMPLE_MAX_BYTES * 2);
    for (size_t i = 0; i < n_metrics; i++)
        all[n_all++] = metrics[i] = slice_of(arena_printf(&arena, "node_some_metric_of_length_%06zu_total", i));
    for (size_t i = 0; i < INSTANCES; i++)
        all[n_all++] = instances[i] = slice_of(arena_printf(&arena, "host-%04zu.example:9100", i));
    for (size_t i = 0; i < N_LABELS; i++) {
        all[n_all++] = slice_of(names[i]);
        l[i] = (struct label){slice_of(names[i]), slice_of(arena_printf(&arena, "value-of-%zu", i))};
        all[n_all++] = l[i].value;
    }
    qsort(all, n_all, sizeof(*all), cmp);
    struct ulid id = ulid_new(1000000000 + (int64_t)replica);
    struct block_meta meta = {.ulid = id, .min_t = from_t, .max_t = from_t + RANGE_MS, .level = 1, .sources = &id, .n_sources = 1, .has_thanos = true,
                              .source = SL("test")};
    struct block_writer *w = block_writer_new(dir, &meta, all, n_all, &err);
    if (!w)
        die(&err);
    for (size_t i = 0; i < n_series; i++) {
        l[0].value = metrics[i / INSTANCES];
        l[3].value = instances[i % INSTANCES];
        if (i % 64 == 0)
            n = make_chunks(bytes, from_t, way, replica, i, chunks);
        if (!block_writer_add(w, &(struct labels){l, N_LABELS}, chunks, n, &err))
            die(&err);
    }
    if (!block_writer_finish(w, &arena, NULL, &err))
        die(&err);
    block_writer_free(w);
    arena_release(&arena);
    return id;
}

/* VmHWM counts mapped files too; RssAnon is what could not be dropped. */
static long anonymous_kb(void)
{
    char line[256];
    long kb = 0;
    FILE *f = fopen("/proc/self/status", "r");
    while (f && fgets(line, sizeof(line), f))
        if (sscanf(line, "RssAnon: %ld", &kb) == 1)
            break;
    if (f)
        fclose(f);
    return kb;
}

static void merge(const char *dir, const struct ulid *ids, size_t n, uint32_t shards, enum way way)
{
    struct err err = ERR_NONE;
    struct block *blocks[BLOCKS_MAX];
    struct arena arena;
    struct ctx ctx = {0};
    struct merge_result r;
    arena_init(&arena, 0);
    for (size_t i = 0; i < n; i++) {
        char path[4096];
        snprintf(path, sizeof(path), "%s/%s", dir, ids[i].text);
        if (!(blocks[i] = block_open(path, &err)))
            die(&err);
    }
    double start = cpu_s();
    for (size_t i = 0; i < n; i++)
        if (!merge_check_source(blocks[i], &ctx, &err))
            die(&err);
    double checked = cpu_s() - start;
    int64_t wall = clock_mono_ns();
    start = cpu_s();
    if (!blocks_merge(&(struct merge_params){.blocks = blocks, .n_blocks = n, .dir = dir, .shards = shards, .now_ms = 2000000000, .pack = true}, &ctx, &arena, &r, &err))
        die(&err);
    double s = cpu_s() - start;
    struct rusage usage;
    getrusage(RUSAGE_SELF, &usage);
    double in = (double)r.stats.samples_in;
    printf("%-22s %6.1f M samples -> %6.1f M in %zu blocks: %5.2f s of CPU (%.2f s wall), %6.1f M samples/s; checked before at %.1f M/s; %ld MB, of it %ld MB "
           "not files (at the end)\n",
           way_names[way], in / 1e6, (double)r.stats.samples_out / 1e6, r.n_blocks, s, (double)(clock_mono_ns() - wall) / 1e9, in / 1e6 / s,
           in / 1e6 / checked, usage.ru_maxrss / 1024, anonymous_kb() / 1024);
    fflush(stdout);
}

int main(int argc, char **argv)
{
    if (argc < 2)
        return fprintf(stderr, "usage: merge_bench <folder> [series] [blocks] [shards]\n"), 1;
    size_t n_series = argc > 2 ? strtoul(argv[2], NULL, 10) : 100000, n = argc > 3 ? strtoul(argv[3], NULL, 10) : 6;
    uint32_t shards = argc > 4 ? (uint32_t)strtoul(argv[4], NULL, 10) : 0;
    if (n > BLOCKS_MAX)
        n = BLOCKS_MAX;
    for (enum way way = 0; way < WAYS; way++) {
        struct ulid ids[BLOCKS_MAX];
        size_t n_way = way == DIFFERENT ? 2 : n;
        for (size_t i = 0; i < n_way; i++)
            ids[i] = make_block(argv[1], n_series, way, i);
        pid_t pid = fork();
        if (pid == 0) {
            merge(argv[1], ids, n_way, shards, way);
            _exit(0);
        }
        waitpid(pid, NULL, 0);
    }
    return 0;
}
