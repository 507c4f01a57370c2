/*
 * What a sample costs in a chunk: append, decode, resume; floats of several kinds and histograms. CPU time of this process.
 *
 *     bench_chunk [rounds]
 *
 * "hot" repeats one chunk that stays in the first-level cache; "cold" walks 200,000 chunks of their own (some 60 MB), in order for decoding as a
 * query does, and one sample a chunk for appending as a scrape does.
 */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "base/arena.h"
#include "storage/chunk/chunk.h"

#define N CHUNK_SAMPLES
#define COLD_CHUNKS 200000
#define COLD_BYTES 512
#define BUCKETS 20

static double cpu_ns(void)
{
    struct timespec t;
    clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &t);
    return (double)t.tv_sec * 1e9 + (double)t.tv_nsec;
}

static uint64_t seed = 88172645463325252;

static uint64_t rnd(void)
{
    seed ^= seed << 13;
    seed ^= seed >> 7;
    return seed ^= seed << 17;
}

struct kind {
    const char *name;
    int64_t jitter_ms;
    double (*next)(double before, int i);
};

static double next_constant(double v, int i) { return i ? v : 42; }
static double next_counter(double v, int i) { return (i ? v : 100000) + (double)(rnd() % 500); }
static double next_ratio(double v, int i) { return (i ? v : 0.5) + ((double)(rnd() % 2001) - 1000) / 100003; }
static double next_idle(double v, int i) { return i && rnd() % 10 ? v : (double)(rnd() % 1000); }

static const struct kind kinds[] = {
    {"constant", 0, next_constant},
    {"mostly constant", 0, next_idle},
    {"counter", 0, next_counter},
    {"counter, jitter", 5, next_counter},
    {"ratio, jitter", 5, next_ratio},
};

static void make(const struct kind *k, int64_t *t, double *v)
{
    double last = 0;
    for (int i = 0; i < N; i++) {
        int64_t jitter = k->jitter_ms ? (int64_t)(rnd() % (uint64_t)(2 * k->jitter_ms)) - k->jitter_ms : 0;
        t[i] = 1700000000000 + i * INT64_C(15000) + jitter;
        v[i] = last = k->next(last, i);
    }
}

static size_t encode(struct xor_appender *a, uint8_t *bytes, const int64_t *t, const double *v)
{
    xor_appender_init(a);
    for (int i = 0; i < N; i++)
        xor_append(a, bytes, t[i], v[i]);
    return xor_size(a);
}

static void bench_hot(const struct kind *k, int rounds)
{
    static uint8_t bytes[N * XOR_SAMPLE_MAX_BYTES];
    int64_t t[N], out_t[N];
    double v[N], out_v[N];
    struct xor_appender a;
    size_t size = 0;
    make(k, t, v);
    double start = cpu_ns();
    for (int r = 0; r < rounds; r++)
        size = encode(&a, bytes, t, v);
    double appended = cpu_ns();
    for (int r = 0; r < rounds; r++)
        if (xor_decode(slice_make(bytes, size), out_t, out_v, N) != N)
            abort();
    double decoded = cpu_ns();
    for (int r = 0; r < rounds; r++)
        if (!xor_resume(&a, slice_make(bytes, size)))
            abort();
    double resumed = cpu_ns(), samples = (double)rounds * N;
    printf("%-18s hot   %5.2f B/sample  append %5.1f  decode %5.1f  resume %5.1f ns\n", k->name, (double)size / N,
           (appended - start) / samples, (decoded - appended) / samples, (resumed - decoded) / samples);
}

struct cold {
    struct xor_appender a;
    double v;
};

/* A scrape after the other over all series: each append meets a cold appender and cold bytes. */
static void bench_cold(const struct kind *k)
{
    struct cold *c = calloc(COLD_CHUNKS, sizeof(*c));
    uint8_t *bytes = malloc((size_t)COLD_CHUNKS * COLD_BYTES);
    int64_t out_t[N];
    double out_v[N];
    const int scrapes = 40;
    double spent = 0;
    double *v = malloc(COLD_CHUNKS * sizeof(*v));
    if (!c || !bytes || !v)
        abort();
    memset(bytes, 1, (size_t)COLD_CHUNKS * COLD_BYTES);
    for (size_t i = 0; i < COLD_CHUNKS; i++)
        xor_appender_init(&c[i].a);
    for (int s = 0; s < scrapes; s++) {
        for (size_t i = 0; i < COLD_CHUNKS; i++)
            v[i] = c[i].v = k->next(c[i].v, s);
        double start = cpu_ns();
        for (size_t i = 0; i < COLD_CHUNKS; i++)
            xor_append(&c[i].a, bytes + i * COLD_BYTES, 1700000000000 + s * INT64_C(15000), v[i]);
        if (s > 0)
            spent += cpu_ns() - start;
    }
    double start = cpu_ns();
    for (size_t i = 0; i < COLD_CHUNKS; i++)
        if (xor_decode(slice_make(bytes + i * COLD_BYTES, xor_size(&c[i].a)), out_t, out_v, N) != scrapes)
            abort();
    double decoded = cpu_ns() - start;
    printf("%-18s cold                  append %5.1f  decode %5.1f ns\n", k->name, spent / ((scrapes - 1.0) * COLD_CHUNKS),
           decoded / ((double)scrapes * COLD_CHUNKS));
    free(c);
    free(bytes);
    free(v);
}

/* --- histograms -------------------------------------------------------------------------------------------------------------- */

static void grow(struct histogram *h, int64_t *deltas, double *counts)
{
    double *abs = counts;
    for (int k = 0; k < 6; k++)
        abs[rnd() % BUCKETS] += (double)(rnd() % 20);
    h->count_int = 0;
    for (int i = 0; i < BUCKETS; i++) {
        deltas[i] = (int64_t)(abs[i] - (i ? abs[i - 1] : 0));
        h->count_int += (uint64_t)abs[i];
    }
    h->sum += (double)(rnd() % 1000) / 8;
    if (h->is_float)
        h->count = (double)h->count_int;
}

static void bench_histograms(bool is_float, int rounds)
{
    static const struct histogram_span spans[] = {{-8, BUCKETS}};
    static struct histogram all[N];
    static int64_t deltas[N][BUCKETS];
    static double counts[N][BUCKETS];
    struct histogram h = {.schema = 3, .zero_threshold = 0x1p-128, .is_float = is_float, .positive_spans = spans, .n_positive_spans = 1,
                          .n_positive = BUCKETS};
    for (int i = 0; i < N; i++) {
        if (i)
            memcpy(counts[i], counts[i - 1], sizeof(counts[i]));
        grow(&h, deltas[i], counts[i]);
        all[i] = h;
        if (is_float)
            all[i].positive_counts = counts[i];
        else
            all[i].positive_deltas = deltas[i];
    }
    struct histogram_appender *a = NULL;
    double start = cpu_ns();
    for (int r = 0; r < rounds; r++) {
        histogram_appender_free(a);
        a = histogram_appender_new(is_float);
        for (int i = 0; i < N; i++)
            if (histogram_append(a, i * INT64_C(15000), &all[i]) != HISTOGRAM_APPENDED)
                abort();
    }
    double appended = cpu_ns();
    struct arena arena;
    struct chunk_columns cols;
    arena_init(&arena, 0);
    for (int r = 0; r < rounds; r++) {
        arena_clear(&arena);
        if (!chunk_decode(is_float ? CHUNK_FLOAT_HISTOGRAM : CHUNK_HISTOGRAM, histogram_appender_bytes(a), &arena, &cols, NULL))
            abort();
    }
    double decoded = cpu_ns(), samples = (double)rounds * N;
    printf("%-18s hot   %5.2f B/sample  append %5.0f  decode %5.0f ns  (%d buckets; open chunk %zu B)\n",
           is_float ? "float histogram" : "histogram", (double)histogram_appender_bytes(a).n / N, (appended - start) / samples,
           (decoded - appended) / samples, BUCKETS, histogram_appender_memory(a));
    histogram_appender_free(a);
    arena_release(&arena);
}

int main(int argc, char **argv)
{
    int rounds = argc > 1 ? atoi(argv[1]) : 20000;
    for (size_t i = 0; i < sizeof(kinds) / sizeof(kinds[0]); i++)
        bench_hot(&kinds[i], rounds);
    for (size_t i = 1; i < 3; i++)
        bench_cold(&kinds[i]);
    bench_histograms(false, rounds / 20 + 1);
    bench_histograms(true, rounds / 20 + 1);
    return 0;
}
