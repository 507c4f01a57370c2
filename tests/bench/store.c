/*
 * What it costs to read a 2 h block out of a bucket (a filesystem's, so that what is measured is our own work).
 *
 *     bench_store [series, 100000] [folder, /tmp]
 *
 * Of each select: CPU time a series, requests to the bucket, and bytes against the ideal: the postings, entries and chunks of exactly the series that match.
 */
#include <ftw.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>

#include "base/assert.h"
#include "storage/block/block.h"
#include "storage/store/store.h"

#define CLAIM(cond, ...) ((cond) ? (void)0 : (fprintf(stderr, __VA_ARGS__), fputc('\n', stderr), exit(1)))
#define BLOCKS 200
#define STEP_MS 30000
#define SAMPLES 120
#define CHUNKS 2
#define PODS 100
#define LABELS 8

static char folder[256];
static size_t n_series = 100000;
static struct ulid id;

static double cpu_s(void)
{
    struct timespec t;
    clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &t);
    return (double)t.tv_sec + (double)t.tv_nsec / 1e9;
}

/* --- a bucket that counts --- */

static struct objstore *inner;
static atomic_ullong gets;

static bool count_get(struct objstore *s, const struct ctx *ctx, struct slice name, uint64_t offset, uint64_t n, struct buf *out, struct err *err)
{
    (void)s;
    atomic_fetch_add(&gets, 1);
    return objstore_get(inner, ctx, name, offset, n, out, err);
}

static bool count_attributes(struct objstore *s, const struct ctx *ctx, struct slice name, struct objstore_attributes *ret, struct err *err)
{
    (void)s;
    atomic_fetch_add(&gets, 1);
    return objstore_attributes(inner, ctx, name, ret, err);
}

static struct objstore_ops ops = {.name = "counter", .is_view = true, .get = count_get, .attributes = count_attributes};
static struct objstore bucket = {&ops};

static void open_bucket(const char *dir)
{
    static const struct flag_def defs[] = {
#define OBJSTORE_FLAG "b."
#define OBJSTORE_YAML "b."
#define FLAG(...) FLAG_ROW(objstore_config, __VA_ARGS__)
#include "storage/objstore/objstore_flags.def"
#undef FLAG
    };
    struct objstore_config cfg;
    struct err err = ERR_NONE;
    struct flag_set *fs = flag_set_new();
    flag_set_add(fs, "bucket", defs, ARRAY_LEN(defs), &cfg);
    inner = objstore_open(&cfg, "b.", dir, &err);
    CLAIM(inner, "%s", err.text);
    ops.request_bytes = objstore_request_bytes(inner);
    flag_set_free(fs);
}

/* --- the block: n_series of PODS pods, 8 labels each --- */

static int cmp(const void *a, const void *b)
{
    return slice_cmp(*(const struct slice *)a, *(const struct slice *)b);
}

static void write_block(const char *dir)
{
    struct arena a;
    struct err err = ERR_NONE;
    size_t per_pod = n_series / PODS, n = 0;
    arena_init(&a, 0);
    struct slice *symbols = ARENA_ARRAY(&a, struct slice, per_pod + 2 * PODS + 32), *metrics = ARENA_ARRAY(&a, struct slice, per_pod);
    struct slice pods[PODS], instances[PODS];
    static const char *const fixed[] = {"__name__", "cluster", "instance", "job", "namespace", "pod", "zone", "container", "eu-1", "kubelet", "default", "a", "app"};
    for (size_t i = 0; i < ARRAY_LEN(fixed); i++)
        symbols[n++] = slice_of(fixed[i]);
    for (size_t i = 0; i < per_pod; i++)
        symbols[n++] = metrics[i] = slice_of(arena_printf(&a, "metric_%06zu_total", i));
    for (size_t i = 0; i < PODS; i++) {
        symbols[n++] = pods[i] = slice_of(arena_printf(&a, "pod-%04zu-abcdef", i));
        symbols[n++] = instances[i] = slice_of(arena_printf(&a, "10.0.0.%zu:9100", i));
    }
    qsort(symbols, n, sizeof(*symbols), cmp);
    qsort(instances, PODS, sizeof(*instances), cmp);
    id = ulid_new(1000);
    struct block_meta meta = {.ulid = id, .max_t = 7200000, .level = 1, .sources = &id, .n_sources = 1, .has_thanos = true, .source = SL("test")};
    struct block_writer *w = block_writer_new(dir, &meta, symbols, n, &err);
    CLAIM(w, "%s", err.text);
    for (size_t i = 0; i < per_pod; i++)
        for (size_t k = 0; k < PODS; k++) {
            struct label labels[] = {{SL("__name__"), metrics[i]}, {SL("cluster"), SL("eu-1")}, {SL("container"), SL("app")}, {SL("instance"), instances[k]},
                                     {SL("job"), SL("kubelet")}, {SL("namespace"), SL("default")}, {SL("pod"), pods[k]}, {SL("zone"), SL("a")}};
            uint8_t bytes[CHUNKS][SAMPLES * XOR_SAMPLE_MAX_BYTES];
            struct series_chunk chunks[CHUNKS];
            double v = (double)(i * k);
            for (int c = 0; c < CHUNKS; c++) {
                struct xor_appender x;
                int64_t t = (int64_t)c * SAMPLES * STEP_MS;
                xor_appender_init(&x);
                for (int j = 0; j < SAMPLES; j++)
                    xor_append(&x, bytes[c], t + j * STEP_MS, v += (double)(rand() % 100));
                chunks[c] = (struct series_chunk){t, t + (SAMPLES - 1) * STEP_MS, CHUNK_XOR, slice_make(bytes[c], xor_size(&x))};
            }
            CLAIM(block_writer_add(w, &(struct labels){labels, ARRAY_LEN(labels)}, chunks, CHUNKS, &err), "%s", err.text);
        }
    CLAIM(block_writer_finish(w, NULL, NULL, &err), "%s", err.text);
    block_writer_free(w);
    arena_release(&a);
}

/* --- selects --- */

struct asked {
    const char *what, *name, *value;
    enum matcher_type type;
};

/* Chunks of what a local block gives for the same, with their frames; of each series 4 bytes of postings, and its entry. */
static uint64_t ideal_bytes(const char *dir, const struct select_params *p, uint64_t entry_bytes)
{
    struct arena arena;
    struct ctx ctx = {.arena = &arena};
    struct series batch[256];
    size_t n;
    uint64_t bytes = 0;
    arena_init(&arena, 0);
    struct block *b = block_open(dir, NULL);
    struct series_set *set = block_select(b, &ctx, p, NULL);
    while (series_set_next(set, &ctx, batch, ARRAY_LEN(batch), &n, NULL) && n)
        for (size_t i = 0; i < n; i++) {
            bytes += entry_bytes + 4;
            for (size_t k = 0; k < batch[i].n_chunks; k++)
                bytes += batch[i].chunks[k].data.n + 7;
        }
    series_set_release(set);
    block_close(b);
    arena_release(&arena);
    return bytes;
}

static void select_once(struct store_block *b, const struct asked *q, const char *how, const char *local)
{
    struct arena arena;
    struct ctx ctx = {.arena = &arena};
    struct err err = ERR_NONE;
    struct series batch[256];
    struct matcher m;
    struct store_stats stats;
    size_t n = 0, total = 0;
    arena_init(&arena, 0);
    CLAIM(matcher_init(&m, q->type, slice_of(q->name), slice_of(q->value), &err), "%s", err.text);
    struct select_params p = {.min_t = 0, .max_t = INT64_MAX, .matchers = &m, .n_matchers = 1};
    uint64_t before = atomic_load(&gets);
    double start = cpu_s();
    struct series_set *set = store_block_select(b, &ctx, &p, &stats, &err);
    while (set && series_set_next(set, &ctx, batch, ARRAY_LEN(batch), &n, &err) && n)
        total += n;
    double took = cpu_s() - start;
    CLAIM(set && err.code == ERR_OK, "%s", err.text);
    /* An index has postings of each label and of all series besides. */
    uint64_t entry = (store_block_index_bytes(b) - store_block_header_bytes(b)) / n_series - 4 * (LABELS + 1);
    uint64_t bytes = stats.postings_fetched_bytes + stats.series_fetched_bytes + stats.chunks_fetched_bytes;
    printf("%-12s %-6s %7zu series  %6.0f ns CPU a series  %4llu requests  %8.2f MB read (ideal %.2f, cached %.2f)\n", q->what, how, total,
           took * 1e9 / (double)total, (unsigned long long)(atomic_load(&gets) - before), (double)bytes / 1e6, (double)ideal_bytes(local, &p, entry) / 1e6,
           (double)stats.cached_bytes / 1e6);
    series_set_release(set);
    matcher_release(&m);
    arena_release(&arena);
}

static struct store_block *open_one(struct store *s, const char *dir)
{
    struct ctx ctx = {0};
    struct err err = ERR_NONE;
    struct store_block *b = store_block_open(s, &ctx, SL("t"), &id, dir, &err);
    CLAIM(b, "%s", err.text);
    return b;
}

static void open_many(struct store *s, const char *dir)
{
    struct store_block *blocks[BLOCKS];
    double start = cpu_s();
    blocks[0] = open_one(s, dir);
    printf("index-header of %.2f MB made of an index of %.2f MB in %.1f ms CPU\n", (double)store_block_header_bytes(blocks[0]) / 1e6,
           (double)store_block_index_bytes(blocks[0]) / 1e6, (cpu_s() - start) * 1e3);
    start = cpu_s();
    for (int i = 1; i < BLOCKS; i++)
        blocks[i] = open_one(s, dir);
    printf("%d blocks opened, files there: %.3f ms CPU each\n", BLOCKS - 1, (cpu_s() - start) * 1e3 / (BLOCKS - 1));
    for (int i = 0; i < BLOCKS; i++)
        store_block_unref(blocks[i]);
}

static int drop(const char *path, const struct stat *st, int type, struct FTW *ftw)
{
    (void)st, (void)type, (void)ftw;
    return remove(path);
}

int main(int argc, char **argv)
{
    static const struct asked asked[] = {
        {"one metric", "__name__", "metric_000123_total", MATCH_EQ}, {"one pod", "pod", "pod-0042-abcdef", MATCH_EQ}, {"all", "__name__", ".+", MATCH_RE}};
    struct store_config cfg;
    struct cache_config cache_cfg;
    struct cache *cache;
    struct flag_set *fs = flag_set_new();
    char dir[512], sync[512];
    if (argc > 1)
        n_series = (size_t)atol(argv[1]);
    snprintf(folder, sizeof(folder), "%s/brunn-bench-store-XXXXXX", argc > 2 ? argv[2] : "/tmp");
    CLAIM(mkdtemp(folder), "no folder");
    snprintf(dir, sizeof(dir), "%s/bucket", folder);
    mkdir(dir, 0755);
    open_bucket(dir);
    snprintf(dir, sizeof(dir), "%s/bucket/t", folder);
    mkdir(dir, 0755);
    write_block(dir);
    snprintf(dir, sizeof(dir), "%s/bucket/t/%s", folder, id.text);
    snprintf(sync, sizeof(sync), "%s/sync/t/%s", folder, id.text);
    flag_set_add(fs, "store", store_flags, store_flags_n, &cfg);
    flag_set_add(fs, "cache", store_index_cache_flags, store_cache_flags_n, &cache_cfg);
    CLAIM(cache_open(&cache_cfg, "x", "bench", "index-cache", &cache, NULL), "no cache");
    struct store *cold = store_new(&cfg, &(struct store_deps){&bucket, NULL, NULL}), *warm = store_new(&cfg, &(struct store_deps){&bucket, cache, cache});
    open_many(cold, sync);
    struct store_block *c = open_one(cold, sync), *w = open_one(warm, sync);
    for (size_t i = 0; i < ARRAY_LEN(asked); i++) {
        select_once(c, &asked[i], "none", dir);
        select_once(w, &asked[i], "cold", dir);
        select_once(w, &asked[i], "warm", dir);
    }
    store_block_unref(c);
    store_block_unref(w);
    store_free(cold);
    store_free(warm);
    cache_close(cache);
    objstore_free(inner);
    flag_set_free(fs);
    nftw(folder, drop, 8, FTW_DEPTH | FTW_PHYS);
    return 0;
}
