/*
 * What the query engine costs, without storage and network: CPU of one thread, from encoded chunks in memory to the result.
 *
 *     bench_query_engine [series] [samples] [rounds] [part of a query]        defaults 4000 960 5, all queries
 *
 * Counters `m_total` (a third of them idle, increments of some hundreds, a restart now and then), the same number of bucket series `b_bucket` of
 * classic histograms with ten bounds, gauges `g`; scrapes every 15 s, in a tenth of the series with jitter of some milliseconds. Range queries
 * step over all the samples at 15 s. Printed is the best of the rounds, and samples decoded per second of CPU. Where thousands of series are the
 * result, half of the time is the kernel's, for pages of fresh memory: MALLOC_TRIM_THRESHOLD_=1000000000 MALLOC_MMAP_THRESHOLD_=1000000000
 * shows the engine's own.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "base/assert.h"
#include "base/err.h"
#include "read/promql/engine.h"
#include "storage/chunk/chunk.h"

#define SCRAPE_MS 15000
#define START_MS INT64_C(1700000000000)

struct bench_store {
    struct queryable queryable;
    struct arena arena;
    struct series *series;
    size_t n;
};

struct bench_set {
    struct series_set set;
    const struct bench_store *store;
    struct select_params p;
    bool all; /* the name is all that is asked for */
    size_t i, end;
};

static uint64_t mix(uint64_t x)
{
    x += 0x9E3779B97F4A7C15ULL;
    x = (x ^ (x >> 30)) * 0xBF58476D1CE4E5B9ULL;
    x = (x ^ (x >> 27)) * 0x94D049BB133111EBULL;
    return x ^ (x >> 31);
}

/* --- the store ---------------------------------------------------------------------------------------------------------------------- */

static bool set_next(struct series_set *set, struct ctx *ctx, struct series *ret, size_t max, size_t *ret_n, struct err *err)
{
    struct bench_set *s = (struct bench_set *)set;
    (void)ctx, (void)err;
    for (*ret_n = 0; s->i < s->end && *ret_n < max; s->i++)
        if (s->all || matchers_match(s->p.matchers, s->p.n_matchers, s->store->series[s->i].labels))
            ret[(*ret_n)++] = s->store->series[s->i];
    return true;
}

static void set_release(struct series_set *set)
{
    free(set);
}

static struct series_set *store_select(struct queryable *q, struct ctx *ctx, const struct select_params *p, struct err *err)
{
    static const struct series_set_ops ops = {set_next, set_release};
    (void)ctx;
    struct bench_set *s = malloc(sizeof(*s));
    if (!s) {
        err_set(err, ERR_NO_MEMORY, "no memory");
        return NULL;
    }
    *s = (struct bench_set){.set = {&ops}, .store = (struct bench_store *)q, .p = *p, .all = p->n_matchers == 1};
    /* Series of one name lie together; the first matcher of a selector with a name is not always its own. */
    size_t third = s->store->n / 3;
    for (size_t i = 0; i < p->n_matchers; i++)
        if (slice_eq(p->matchers[i].name, SL(METRIC_NAME_LABEL)))
            s->i = third * (p->matchers[i].value.p[0] == 'm' ? 0 : p->matchers[i].value.p[0] == 'b' ? 1 : 2);
    s->end = s->i + third;
    return &s->set;
}

/* --- data ----------------------------------------------------------------------------------------------------------------------------- */

static double next_value(char kind, uint64_t id, uint64_t i, double v)
{
    uint64_t r = mix(id << 32 | i);
    if (kind == 'g')
        return (double)(r % 10000) / 100;
    if (id % 3 == 0)
        return v;
    return r % 2000 == 0 ? (double)(r >> 32 & 63) : v + (double)(r >> 40 & 511);
}

static void add_series(struct bench_store *s, char kind, uint64_t id, size_t samples)
{
    static const char *const les[] = {"0.005", "0.01", "0.05", "0.1", "0.5", "1", "2.5", "5", "10", "+Inf"};
    struct arena *a = &s->arena;
    uint64_t entity = kind == 'b' ? id / 10 : id;
    struct label *l = ARENA_ARRAY(a, struct label, 8);
    size_t n = 0;
    l[n++] = (struct label){SL(METRIC_NAME_LABEL), slice_of(kind == 'm' ? "m_total" : kind == 'b' ? "b_bucket" : "g")};
    l[n++] = (struct label){SL("cluster"), SL("prod-eu-west-1")};
    l[n++] = (struct label){SL("instance"), slice_of(arena_printf(a, "10.0.%d.%d:8080", (int)(entity >> 8), (int)(entity & 255)))};
    l[n++] = (struct label){SL("job"), slice_of(arena_printf(a, "service-%d", (int)(entity % 40)))};
    if (kind == 'b')
        l[n++] = (struct label){SL("le"), slice_of(les[id % 10])};
    l[n++] = (struct label){SL("pod"), slice_of(arena_printf(a, "service-%d-%016llx", (int)(entity % 40), (unsigned long long)mix(entity)))};
    l[n++] = (struct label){SL("x"), slice_of(arena_printf(a, "%d", (int)(entity % 20)))};
    size_t n_chunks = (samples + CHUNK_SAMPLES - 1) / CHUNK_SAMPLES;
    struct series_chunk *chunks = ARENA_ARRAY(a, struct series_chunk, n_chunks);
    double v = kind == 'b' ? (double)(id % 10 * 1000) : (double)(mix(id) % 1000000);
    for (size_t c = 0; c < n_chunks; c++) {
        uint8_t bytes[CHUNK_SAMPLES * XOR_SAMPLE_MAX_BYTES + 64];
        struct xor_appender app;
        xor_appender_init(&app);
        for (size_t i = c * CHUNK_SAMPLES; i < samples && i < (c + 1) * CHUNK_SAMPLES; i++) {
            int64_t t = START_MS + (int64_t)i * SCRAPE_MS + (int64_t)(mix(entity) % 15000);
            if (entity % 10 == 0)
                t += (int64_t)(mix(entity << 32 ^ i) % 5);
            v = next_value(kind, id, i, v);
            xor_append(&app, bytes, t, v);
            if (i == c * CHUNK_SAMPLES)
                chunks[c].min_t = t;
            chunks[c].max_t = t;
        }
        chunks[c].encoding = CHUNK_XOR;
        chunks[c].data = arena_dup(a, slice_make(bytes, xor_size(&app)));
    }
    s->series[s->n++] = (struct series){.labels = {l, n}, .chunks = chunks, .n_chunks = n_chunks};
}

/* --- running --------------------------------------------------------------------------------------------------------------------------- */

static int64_t cpu_ns(void)
{
    struct timespec t;
    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &t);
    return t.tv_sec * 1000000000LL + t.tv_nsec;
}

struct outcome {
    int64_t ns;
    uint64_t samples;
    size_t n_series;
    double check; /* sum of all values: to compare builds */
};

static bool run(struct bench_store *s, const char *text, int64_t start, int64_t end, int64_t step, struct outcome *ret)
{
    struct engine_config cfg = {.lookback_delta_ms = 300000, .default_evaluation_interval_ms = 60000, .max_memory_bytes = (uint64_t)4 << 30};
    struct arena a;
    struct err err = ERR_NONE;
    arena_init(&a, 0);
    int64_t began = cpu_ns();
    struct node *n = promql_parse(slice_of(text), NULL, &a, &err);
    struct ctx ctx = {.arena = &a};
    struct engine_query q = {.expr = n, .text = slice_of(text), .start_ms = start, .end_ms = end, .step_ms = step};
    struct engine_result res;
    bool ok = n && promql_resolve_durations(n, step, end - start, &err) && engine_exec(&cfg, &s->queryable, &ctx, &q, &res, &err);
    if (n)
        promql_release(n);
    if (!ok) {
        printf("%s: %s\n", text, err.text);
        arena_release(&a);
        return false;
    }
    *ret = (struct outcome){.ns = cpu_ns() - began, .samples = res.samples_read, .n_series = res.n_series};
    for (size_t i = 0; i < res.n_series; i++)
        for (size_t k = 0; k < res.series[i].n; k++)
            ret->check += res.series[i].v[k];
    began = cpu_ns();
    arena_release(&a);
    ret->ns += cpu_ns() - began;
    return true;
}

struct query {
    const char *text;
    bool instant;
};

static const struct query queries[] = {
    {"sum(rate(m_total[5m]))", false},
    {"sum by (x) (rate(m_total[5m]))", false},
    {"sum by (pod) (rate(m_total[5m]))", false},
    {"rate(m_total[5m])", false},
    {"increase(m_total[1h])", false},
    {"max_over_time(g[30m])", false},
    {"sum(avg_over_time(g[5m]))", false},
    {"histogram_quantile(0.9, sum by (le) (rate(b_bucket[5m])))", false},
    {"topk(10, m_total)", false},
    {"sum(m_total)", false},
    {"count(g > 50)", false},
    {"sum by (x) (m_total) / sum by (x) (g)", false},
    {"sum(rate(m_total[5m]))", true},
};
static const struct query of_one_series[] = {{"g", true}, {"sum(rate(m_total[5m]))", true}};

static bool measure(struct bench_store *s, const struct query *q, size_t samples, int rounds)
{
    int64_t end = START_MS + (int64_t)(samples - 1) * SCRAPE_MS, start = START_MS + SCRAPE_MS;
    struct outcome best = {0}, now;
    for (int r = 0; r < rounds; r++) {
        if (!run(s, q->text, q->instant ? end : start, end, q->instant ? 0 : SCRAPE_MS, &now))
            return false;
        if (r == 0 || now.ns < best.ns)
            best = now;
    }
    double ms = (double)best.ns / 1e6;
    printf("%9.3f ms %8.1f Msamples/s %6zu series  %s%s  [%.12g]\n", ms, (double)best.samples / 1e3 / ms, best.n_series,
           q->instant ? "instant " : "", q->text, best.check);
    return true;
}

static void fill(struct bench_store *s, size_t series, size_t samples)
{
    static const struct queryable_ops ops = {.select = store_select};
    *s = (struct bench_store){.queryable = {&ops}};
    arena_init(&s->arena, 0);
    s->series = ARENA_ARRAY(&s->arena, struct series, series * 3);
    for (const char *kind = "mbg"; *kind; kind++)
        for (size_t i = 0; i < series; i++)
            add_series(s, *kind, i, samples);
}

int main(int argc, char **argv)
{
    size_t series = argc > 1 ? (size_t)atol(argv[1]) : 4000, samples = argc > 2 ? (size_t)atol(argv[2]) : 960;
    int rounds = argc > 3 ? atoi(argv[3]) : 5;
    const char *only = argc > 4 ? argv[4] : "";
    struct bench_store s, one;
    fill(&s, series, samples);
    fill(&one, 1, samples);
    printf("%zu series each of m_total, b_bucket, g; %zu samples; %zu steps\n", series, samples, samples - 1);
    bool ok = true;
    for (size_t i = 0; i < ARRAY_LEN(queries) && ok; i++)
        if (strstr(queries[i].text, only))
            ok = measure(&s, &queries[i], samples, rounds);
    printf("one series each\n");
    for (size_t i = 0; i < ARRAY_LEN(of_one_series) && ok; i++)
        ok = measure(&one, &of_one_series[i], samples, rounds);
    arena_release(&s.arena);
    arena_release(&one.arena);
    return ok ? 0 : 1;
}
