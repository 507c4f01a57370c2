/*
 * What a head costs: ns a new series, ns a sample once the series are there, memory a series, checkpoint and load.
 *
 *     bench_head [series] [scrapes] [shards]        defaults 1000000 10 8
 *
 * The series are those of a fleet of pods with 100 series of 11 labels each (bucket series 12): buckets of a histogram,
 * counters with code and method, plain counters, gauges. A request has 2,000 series, as a batch parsed and hashed by
 * the distributor. Only head_apply is timed.
 */
#include <ftw.h>
#include <malloc.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "base/clock.h"
#include "ingest/checkpoint_int.h"
#include "ingest/cut_int.h"
#include "ingest/ingest_metrics_int.h"
#include "ingest/query_int.h"

#define PER_REQUEST 2000u
#define PER_POD 100u
#define SEED 7u

static uint64_t mix(uint64_t x)
{
    x += 0x9E3779B97F4A7C15ULL;
    x = (x ^ (x >> 30)) * 0xBF58476D1CE4E5B9ULL;
    x = (x ^ (x >> 27)) * 0x94D049BB133111EBULL;
    return x ^ (x >> 31);
}

static int64_t cpu_ns(void)
{
    struct timespec t;
    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &t);
    return t.tv_sec * 1000000000LL + t.tv_nsec;
}

/* Resident anonymous bytes of the process. */
static size_t rss_anon(void)
{
    FILE *f = fopen("/proc/self/status", "r");
    char line[256];
    size_t kib = 0;
    while (f && fgets(line, sizeof(line), f))
        if (sscanf(line, "RssAnon: %zu kB", &kib) == 1)
            break;
    if (f)
        fclose(f);
    return kib * 1024;
}

#define make_label(a, name, ...) ((struct label){slice_of(name), slice_of(arena_printf((a), __VA_ARGS__))})

static struct slice make_labels(struct arena *a, uint32_t i)
{
    static const char *const codes[] = {"200", "201", "400", "404", "500"};
    static const char *const methods[] = {"GET", "POST", "PUT", "DELETE"};
    unsigned long pod = i / PER_POD;
    unsigned long k = i % PER_POD;
    struct label l[16];
    size_t n = 0;
    l[n++] = make_label(a, "cluster", "prod-eu-west-%lu", pod % 4);
    l[n++] = make_label(a, "namespace", "team-%lu", pod / 10 % 40);
    l[n++] = make_label(a, "job", "service-%04lu", pod / 10);
    l[n++] = make_label(a, "instance", "10.%lu.0.1:8080", pod);
    l[n++] = make_label(a, "pod", "service-%016lx", mix(pod));
    l[n++] = make_label(a, "node", "ip-10-0-%lu", pod / 30);
    l[n++] = make_label(a, "container", "app-%lu", pod / 10 % 7);
    l[n++] = make_label(a, "region", "eu-west-%lu", pod % 4);
    l[n++] = make_label(a, "version", "v1.2.%lu", pod / 10 % 20);
    if (k < 28) {
        l[n++] = make_label(a, METRIC_NAME_LABEL, "http_request_duration_seconds_%s", k % 14 < 12 ? "bucket" : "sum");
        l[n++] = make_label(a, "handler", "/api/v1/thing/%lu", k / 14);
        l[n++] = make_label(a, "le", "0.%lu", k % 14);
    } else if (k < 48) {
        l[n++] = make_label(a, METRIC_NAME_LABEL, "http_requests_total");
        l[n++] = make_label(a, "code", "%s", codes[(k - 28) / 4]);
        l[n++] = make_label(a, "method", "%s", methods[k % 4]);
    } else {
        l[n++] = make_label(a, METRIC_NAME_LABEL, "process_metric_%lu_total", k);
        l[n++] = make_label(a, "env", "production");
    }
    labels_sort(l, n);
    struct buf b;
    buf_init(&b, 0);
    labels_put_canonical((struct labels){l, n}, &b);
    struct slice s = arena_dup(a, buf_slice(&b));
    buf_release(&b);
    return s;
}

/* A third stands still, gauges wander, counters grow by small whole numbers. */
static double next_value(uint32_t i, uint32_t scrape, double v)
{
    uint64_t x = mix(((uint64_t)scrape << 32) + i);
    uint32_t k = i % PER_POD;
    if (k >= 28 && mix(i) % 100 < 30)
        return v;
    return k >= 71 ? (double)(x % 1000000) / 1000 : v + (double)(x % 50);
}

struct bench {
    struct head *head;
    struct limits limits;
    uint32_t n;
    struct series_hash *hashes;
    double *values;
    struct head_row rows[PER_REQUEST], sorted[PER_REQUEST];
    struct write_series series[PER_REQUEST];
    struct write_sample samples[PER_REQUEST];
};

/* One scrape of all; returns the CPU time in head_apply. */
static int64_t scrape(struct bench *b, uint32_t round, bool with_labels)
{
    int64_t spent = 0;
    static int64_t offset;
    struct arena a;
    struct arena scratch;
    arena_init(&a, 0);
    arena_init(&scratch, 0);
    for (uint32_t from = 0; from < b->n; from += PER_REQUEST) {
        uint32_t k = MIN(PER_REQUEST, b->n - from);
        struct write_request req = {.series = b->series, .n_series = k, .samples = b->samples, .n_samples = k};
        arena_clear(&a);
        for (uint32_t i = 0; i < k; i++) {
            uint32_t s = from + i;
            b->series[i] = (struct write_series){.n_samples = 1, .first_sample = i};
            if (with_labels) {
                b->series[i].labels = make_labels(&a, s);
                b->hashes[s] = series_hash_of(b->series[i].labels, SEED);
            }
            b->values[s] = next_value(s, round, b->values[s]);
            b->samples[i] = (struct write_sample){1700006400000LL + (int64_t)round * 15000, b->values[s]};
            b->rows[i] = (struct head_row){.hash = b->hashes[s], .series = &b->series[i]};
        }
        struct head_record rec = {.req = &req, .offset = offset++, .timestamp_ms = 1700006400000LL};
        struct head_counts counts;
        int64_t begin = cpu_ns();
        head_apply(b->head, &b->limits, &rec, 1, b->rows, b->sorted, k, &scratch, &counts);
        spent += cpu_ns() - begin;
        if (counts.samples != k)
            abort();
    }
    arena_release(&a);
    arena_release(&scratch);
    return spent;
}

static void print_memory(const struct bench *b)
{
    struct shard_memory sum = {0};
    for (uint32_t i = 0; i < b->head->n_shards; i++) {
        struct shard_memory m;
        shard_data_memory(b->head->shards[i].data, &m);
        sum.slots += m.slots;
        sum.hot += m.hot;
        sum.cold += m.cold;
        sum.labels += m.labels;
        sum.symbols += m.symbols;
        sum.symslots += m.symslots;
        sum.strings += m.strings;
        sum.slabs += m.slabs;
    }
    double n = b->n;
    printf("  B/series: slots %.1f hot %.1f cold %.1f labels %.1f symbols %.1f symslots %.1f strings %.1f slabs %.1f\n",
           (double)sum.slots / n, (double)sum.hot / n, (double)sum.cold / n, (double)sum.labels / n,
           (double)sum.symbols / n, (double)sum.symslots / n, (double)sum.strings / n, (double)sum.slabs / n);
}

static void measure_select(struct bench *b)
{
    struct matcher m[2];
    struct err err;
    struct arena arena;
    arena_init(&arena, 0);
    struct ctx ctx = {.tenant = SL("t"), .arena = &arena};
    matcher_init(&m[0], MATCH_EQ, SL(METRIC_NAME_LABEL), SL("http_requests_total"), &err);
    matcher_init(&m[1], MATCH_RE, SL("pod"), SL("service-.*[02468ace]"), &err);
    struct select_params p = {.min_t = 0, .max_t = INT64_MAX, .matchers = m, .n_matchers = 2};
    int64_t begin = cpu_ns();
    struct series_set *set = head_select(b->head, &ctx, &p, &err);
    int64_t resolved = cpu_ns();
    static struct series batch[512];
    size_t n;
    size_t total = 0;
    while (series_set_next(set, &ctx, batch, 512, &n, &err) && n)
        total += n;
    int64_t end = cpu_ns();
    printf("select name + regex: %zu series, postings %.1f ms, materialise %.0f ns a series\n", total,
           (double)(resolved - begin) / 1e6, (double)(end - resolved) / (double)MAX(total, (size_t)1));
    series_set_release(set);
    matcher_release(&m[0]);
    matcher_release(&m[1]);
    arena_release(&arena);
}

static int remove_visit(const char *path, const struct stat *st, int flag, struct FTW *ftw)
{
    (void)st, (void)flag, (void)ftw;
    return remove(path);
}

int main(int argc, char **argv)
{
    static struct bench b;
    b.n = argc > 1 ? (uint32_t)atoi(argv[1]) : 1000000;
    uint32_t scrapes = argc > 2 ? (uint32_t)atoi(argv[2]) : 10;
    uint32_t n_shards = argc > 3 ? (uint32_t)atoi(argv[3]) : 8;
    char dir[] = "/tmp/brunn-bench-XXXXXX";
    char head_folder[64];
    char chunks_folder[64];
    struct err err = ERR_NONE;
    if (!mkdtemp(dir))
        return 1;
    snprintf(head_folder, sizeof(head_folder), "%s/t", dir);
    snprintf(chunks_folder, sizeof(chunks_folder), "%s/t/chunks", dir);
    ingest_metrics_register();
    struct head_totals totals = {0};
    b.hashes = calloc(b.n, sizeof(*b.hashes));
    b.values = calloc(b.n, sizeof(*b.values));
    memset(b.hashes, 1, b.n * sizeof(*b.hashes));
    memset(b.values, 0, b.n * sizeof(*b.values));
    struct chunk_store *cs = chunk_store_new(chunks_folder, &err);
    size_t before = rss_anon();
    b.head = head_new(SL("t"), head_folder, SEED, n_shards, cs, &totals);

    int64_t ns = scrape(&b, 0, true);
    printf("%u series, %u shards\nnew series: %.0f ns each\n", b.n, n_shards, (double)ns / b.n);
    ns = 0;
    for (uint32_t r = 1; r < scrapes; r++)
        ns += scrape(&b, r, false);
    malloc_trim(0);
    printf("steady: %.1f ns a sample over %u scrapes\n", (double)ns / b.n / MAX(scrapes - 1, 1u), scrapes - 1);
    printf("RssAnon: %.1f B a series\n", (double)(rss_anon() - before) / b.n);
    print_memory(&b);
    measure_select(&b);

    uint64_t bytes;
    int64_t begin = clock_mono_ns();
    if (!head_checkpoint(b.head, 0, &bytes, &err)) {
        fprintf(stderr, "%s\n", err.text);
        return 1;
    }
    printf("checkpoint: %.1f ms, %.1f B a series\n", (double)(clock_mono_ns() - begin) / 1e6, (double)bytes / b.n);
    head_free(b.head);
    begin = clock_mono_ns();
    b.head = head_load(SL("t"), head_folder, SEED, -1, &totals, &err);
    printf("load: %.1f ms\n", (double)(clock_mono_ns() - begin) / 1e6);
    if (!b.head) {
        fprintf(stderr, "%s\n", err.text);
        return 1;
    }
    int64_t cutoff = 1700006400000LL + 15000LL * scrapes - 1000;
    begin = clock_mono_ns();
    b.n = b.n / 2;
    scrape(&b, scrapes, false);
    begin = clock_mono_ns();
    uint64_t mark;
    if (!head_seal(b.head, cutoff, NULL, &mark, &err)) {
        fprintf(stderr, "%s\n", err.text);
        return 1;
    }
    pthread_mutex_lock(&b.head->cuts.lock);
    head_truncate(b.head, cutoff, mark, NULL);
    pthread_mutex_unlock(&b.head->cuts.lock);
    printf("truncate half away: %.1f ms\n", (double)(clock_mono_ns() - begin) / 1e6);
    head_free(b.head);
    nftw(dir, remove_visit, 16, FTW_DEPTH | FTW_PHYS);
    return 0;
}
