/*
 * Queries over the union and over one store of the same samples have the same answers, however the samples are cut into chunks, spread over the two sides and held by both.
 */
#include <criterion/criterion.h>
#include <stdlib.h>
#include <string.h>

#include "base/assert.h"
#include "read/merged/merged.h"
#include "read/promql/ast.h"
#include "read/promql/engine.h"
#include "storage/chunk/chunk.h"

#define SERIES 30
#define SAMPLES 400
#define STEP_MS 15000

struct store {
    struct queryable base;
    struct series series[SERIES];
    size_t n;
    bool stays;
};

struct store_set {
    struct series_set base;
    const struct store *store;
    size_t at;
};

static struct arena mem;
static unsigned seed = 5;
static int64_t times[SERIES][SAMPLES];
static double values[SERIES][SAMPLES];

static size_t below(size_t n)
{
    return (size_t)rand_r(&seed) % n;
}

/* --- stores ------------------------------------------------------------------------------------------------------------------------------------- */

static bool store_next(struct series_set *base, struct ctx *ctx, struct series *ret, size_t max, size_t *ret_n, struct err *err)
{
    struct store_set *s = CONTAINER_OF(base, struct store_set, base);
    (void)ctx, (void)err;
    *ret_n = MIN(max, s->store->n - s->at);
    if (*ret_n)
        memcpy(ret, s->store->series + s->at, *ret_n * sizeof(*ret));
    s->at += *ret_n;
    return true;
}

static void store_release(struct series_set *base)
{
    free(CONTAINER_OF(base, struct store_set, base));
}

static bool store_stays(const struct series_set *base)
{
    return CONTAINER_OF(base, const struct store_set, base)->store->stays;
}

static struct series_set *store_select(struct queryable *q, struct ctx *ctx, const struct select_params *p, struct err *err)
{
    static const struct series_set_ops ops = {store_next, store_release};
    static const struct series_set_traits traits = {.chunks_stay = store_stays};
    (void)ctx, (void)p, (void)err;
    struct store_set *s = calloc(1, sizeof(*s));
    ASSERT(s);
    *s = (struct store_set){.base = {.ops = &ops, .traits = &traits}, .store = CONTAINER_OF(q, struct store, base)};
    return &s->base;
}

static const struct queryable_ops store_ops = {.select = store_select};

static struct labels labels_of(size_t s)
{
    struct label *items = ARENA_ARRAY(&mem, struct label, 3);
    items[0] = (struct label){SL("__name__"), SL("m")};
    items[1] = (struct label){SL("g"), slice_of(arena_printf(&mem, "%zu", s % 3))};
    items[2] = (struct label){SL("s"), slice_of(arena_printf(&mem, "%02zu", s))};
    return (struct labels){items, 3};
}

static struct series_chunk chunk_of(size_t s, size_t from, size_t to)
{
    struct xor_appender a;
    uint8_t *bytes = arena_zalloc(&mem, (to - from) * XOR_SAMPLE_MAX_BYTES + 64);
    xor_appender_init(&a);
    for (size_t i = from; i < to; i++)
        xor_append(&a, bytes, times[s][i], values[s][i]);
    return (struct series_chunk){times[s][from], times[s][to - 1], CHUNK_XOR, slice_make(bytes, xor_size(&a))};
}

static int by_min_t(const void *a, const void *b)
{
    const struct series_chunk *x = a, *y = b;
    return x->min_t < y->min_t ? -1 : x->min_t > y->min_t;
}

/* A series with these chunks, if there are any. */
static void add_series(struct store *store, size_t s, struct series_chunk *chunks, size_t n)
{
    if (n == 0)
        return;
    qsort(chunks, n, sizeof(*chunks), by_min_t);
    store->series[store->n++] = (struct series){labels_of(s), chunks, n};
}

static void make_samples(void)
{
    for (size_t s = 0; s < SERIES; s++) {
        double v = 0;
        int64_t t = (int64_t)below(60000);
        for (size_t i = 0; i < SAMPLES; i++) {
            t += STEP_MS + (int64_t)below(2000) + (below(50) == 0 ? 600000 : 0);
            v = below(40) == 0 ? 0 : v + (double)below(100);
            times[s][i] = t;
            values[s][i] = v;
        }
    }
}

/* Pieces of at most 120 samples, one after the other with now and then some samples of the one before again; each is in one store or in both. */
static void split(size_t s, struct store *recent, struct store *stored)
{
    struct series_chunk *a = ARENA_ARRAY(&mem, struct series_chunk, SAMPLES), *b = ARENA_ARRAY(&mem, struct series_chunk, SAMPLES);
    size_t n_a = 0, n_b = 0, whose = below(5);
    for (size_t from = 0, to; from < SAMPLES; from = to) {
        size_t again = below(3) == 0 ? below(30) : 0, begin = from - MIN(from, again);
        size_t side = whose < 2 ? whose : below(3);
        to = from + 1 + below(119);
        to = MIN(to, MIN(begin + 120, (size_t)SAMPLES));
        if (side != 1)
            a[n_a++] = chunk_of(s, begin, to);
        if (side != 0)
            b[n_b++] = chunk_of(s, begin, to);
    }
    add_series(recent, s, a, n_a);
    add_series(stored, s, b, n_b);
}

static void whole(size_t s, struct store *store)
{
    struct series_chunk *all = ARENA_ARRAY(&mem, struct series_chunk, SAMPLES);
    size_t n = 0;
    for (size_t from = 0; from < SAMPLES; from += 100)
        all[n++] = chunk_of(s, from, MIN(from + 100, (size_t)SAMPLES));
    add_series(store, s, all, n);
}

static void shuffle(struct store *s)
{
    for (size_t i = s->n; i > 1; i--) {
        size_t k = below(i);
        struct series t = s->series[i - 1];
        s->series[i - 1] = s->series[k];
        s->series[k] = t;
    }
}

/* --- queries -------------------------------------------------------------------------------------------------------------------------------------- */

static void run(struct queryable *q, const char *text, struct arena *a, struct engine_result *ret)
{
    struct err err = ERR_NONE;
    const struct engine_config cfg = {.lookback_delta_ms = 300000, .default_evaluation_interval_ms = 60000};
    struct ctx ctx = {.tenant = SL("t"), .arena = a};
    struct node *n = promql_parse(slice_of(text), NULL, a, &err);
    cr_assert(n, "%s", err.text);
    const struct engine_query query = {.expr = n, .text = slice_of(text), .end_ms = SAMPLES * (STEP_MS + 1000), .step_ms = 30000};
    cr_assert(engine_exec(&cfg, q, &ctx, &query, ret, &err), "%s: %s", text, err.text);
    promql_release(n);
}

static void expect_same(const char *text, const struct engine_result *a, const struct engine_result *b)
{
    cr_assert(a->n_series == b->n_series && a->n_series > 0, "%s: %zu series, not %zu", text, b->n_series, a->n_series);
    for (size_t i = 0; i < a->n_series; i++) {
        const struct result_series *x = &a->series[i], *y = &b->series[i];
        cr_assert(labels_eq(x->labels, y->labels) && x->n == y->n, "%s: series %zu has %zu points, not %zu", text, i, y->n, x->n);
        cr_assert(memcmp(x->t, y->t, x->n * sizeof(*x->t)) == 0 && memcmp(x->v, y->v, x->n * sizeof(*x->v)) == 0, "%s: series %zu differs", text, i);
    }
}

Test(merged_engine, any_split_of_samples_answers_as_one_store)
{
    static const char *const queries[] = {"m",
                                          "rate(m[5m])",
                                          "count_over_time(m[7m])",
                                          "sum by (g) (m)",
                                          "max by (g) (increase(m[3m]))",
                                          "changes(m[1h])",
                                          "m offset 10m - m",
                                          "absent_over_time(m{s=\"03\"}[1m]) or m"};
    for (int round = 0; round < 25; round++) {
        static struct store one, recent, stored;
        const struct merged_config cfg = {.query_store_after = 0};
        const struct limits limits = {.query_ingesters_within = 0};
        const struct limits_provider provider = {&limits};
        arena_init(&mem, 0);
        one.n = recent.n = stored.n = 0;
        one.base.ops = recent.base.ops = stored.base.ops = &store_ops;
        recent.stays = round % 2;
        make_samples();
        for (size_t s = 0; s < SERIES; s++) {
            whole(s, &one);
            split(s, &recent, &stored);
        }
        shuffle(&recent);
        struct queryable *q = merged_queryable_new(&(struct merged_parts){&cfg, &provider, &recent.base, &stored.base});
        for (size_t i = 0; i < ARRAY_LEN(queries); i++) {
            struct engine_result want, got;
            struct arena a;
            arena_init(&a, 0);
            run(&one.base, queries[i], &a, &want);
            run(q, queries[i], &a, &got);
            expect_same(queries[i], &want, &got);
            arena_release(&a);
        }
        merged_queryable_free(q);
        arena_release(&mem);
    }
}
