/*
 * A store of thousands of series for tests of the engine's crew: counters with resets and stale markers, gauges, native histograms here and there, names
 * that warn. Chunks are copied into memory that the next call overwrites, unless they stay. All randomness is seeded.
 */
#pragma once

#include <stdlib.h>
#include <string.h>

#include "base/assert.h"
#include "base/err.h"
#include "model/histogram.h"
#include "read/promql/engine.h"
#include "storage/chunk/chunk.h"

#define FAKE_SAMPLES 90
#define FAKE_STEP_MS 15000
#define FAKE_END_MS (FAKE_SAMPLES * FAKE_STEP_MS)
#define FAKE_STALE 0x7ff0000000000002ull

struct fake_store {
    struct queryable queryable;
    struct arena arena;
    struct series *series;
    size_t n;
    size_t fails_after; /* series; 0: never */
    bool stay;
};

struct fake_set {
    struct series_set set;
    const struct fake_store *store;
    size_t i;
    struct arena batch;
};

static uint64_t fake_mix(uint64_t x)
{
    x = (x ^ x >> 31) * 0x9E3779B97F4A7C15u;
    return x ^ x >> 29;
}

static bool fake_stays(const struct series_set *s)
{
    return ((const struct fake_set *)s)->store->stay;
}

static bool fake_next(struct series_set *base, struct ctx *ctx, struct series *ret, size_t max, size_t *ret_n, struct err *err)
{
    struct fake_set *s = (struct fake_set *)base;
    size_t n = MIN(MIN(max, (size_t)50), s->store->n - s->i);
    (void)ctx;
    if (s->store->fails_after && s->i >= s->store->fails_after)
        return err_set(err, ERR_EXECUTION, "the store broke after %zu series", s->i);
    if (s->store->fails_after)
        n = MIN(n, s->store->fails_after - s->i); /* after so many, however many are asked for at once */
    if (!s->store->stay)
        for (struct { char *p, *end; } m = {s->batch.cur, s->batch.end}; m.p && m.p < m.end; m.p++)
            *m.p = 0x55;
    arena_clear(&s->batch);
    for (size_t i = 0; i < n; i++) {
        ret[i] = s->store->series[s->i + i];
        if (s->store->stay)
            continue;
        struct series_chunk *c = ARENA_ARRAY(&s->batch, struct series_chunk, ret[i].n_chunks);
        for (size_t k = 0; k < ret[i].n_chunks; k++) {
            c[k] = ret[i].chunks[k];
            c[k].data = arena_dup(&s->batch, c[k].data);
        }
        ret[i].chunks = c;
    }
    s->i += n;
    *ret_n = n;
    return true;
}

static void fake_release(struct series_set *base)
{
    arena_release(&((struct fake_set *)base)->batch);
    free(base);
}

static struct series_set *fake_select(struct queryable *q, struct ctx *ctx, const struct select_params *p, struct err *err)
{
    static const struct series_set_ops ops = {fake_next, fake_release};
    static const struct series_set_traits traits = {.chunks_stay = fake_stays};
    struct fake_set *s = calloc(1, sizeof(*s));
    (void)ctx, (void)p, (void)err;
    ASSERT(s);
    s->set.ops = &ops;
    s->set.traits = &traits;
    s->store = (const struct fake_store *)q;
    arena_init(&s->batch, 0);
    return &s->set;
}

static struct slice fake_floats(struct arena *a, uint64_t seed, int first, int n)
{
    uint8_t *bytes = malloc((size_t)(n + 1) * XOR_SAMPLE_MAX_BYTES);
    struct xor_appender x;
    double v = 0;
    ASSERT(bytes);
    xor_appender_init(&x);
    for (int i = first; i < first + n; i++) {
        uint64_t r = fake_mix(seed * 1000 + (uint64_t)i);
        double stale;
        memcpy(&stale, &(uint64_t){FAKE_STALE}, sizeof(stale));
        v = r % 31 == 0 ? 0 : v + (double)(r % 1000) / 7;
        xor_append(&x, bytes, (int64_t)i * FAKE_STEP_MS + (int64_t)(r % 5), r % 37 == 0 ? stale : v);
    }
    struct slice s = arena_dup(a, slice_make(bytes, xor_size(&x)));
    free(bytes);
    return s;
}

static void fake_store_init(struct fake_store *s, size_t n, bool stay)
{
    static const struct queryable_ops ops = {.select = fake_select};
    *s = (struct fake_store){.queryable.ops = &ops, .n = n, .stay = stay};
    arena_init(&s->arena, 0);
    ASSERT((s->series = ARENA_ARRAY(&s->arena, struct series, n)));
    for (size_t i = 0; i < n; i++) {
        struct label *l = ARENA_ARRAY(&s->arena, struct label, 3);
        struct series_chunk *c = ARENA_ARRAY(&s->arena, struct series_chunk, 2);
        /* In order of names as a store need not be: by fives. */
        l[0] = (struct label){SL("__name__"), slice_of(arena_printf(&s->arena, "m%zu_%s", i % 7, i % 3 ? "total" : "gauge"))};
        l[1] = (struct label){SL("group"), slice_of(arena_printf(&s->arena, "g%zu", i % 11))};
        l[2] = (struct label){SL("i"), slice_of(arena_printf(&s->arena, "%zu", i))};
        for (int k = 0; k < 2; k++)
            c[k] = (struct series_chunk){(int64_t)k * 45 * FAKE_STEP_MS, (int64_t)(k * 45 + 44) * FAKE_STEP_MS + 4, CHUNK_XOR,
                                         fake_floats(&s->arena, i, k * 45, 45)};
        s->series[i] = (struct series){{l, 3}, c, 2};
    }
}

static const char *const fake_queries[] = {
    "sum(rate({i=~\".+\"}[5m]))",
    "sum by (group) (increase({i=~\".+\"}[5m]))",
    "avg by (group) ({i=~\".+\"})",
    "topk(3, max_over_time({i=~\".+\"}[2m]))",
    "quantile by (group) (0.9, deriv({i=~\".+\"}[3m]))",
    "rate({i=~\".+\"}[5m])",
    "{i=~\".+\"}",
    "sum({i=~\".+\"} * on (i) rate({i=~\".+\"}[5m]))",
    "max_over_time(sum(irate({i=~\".+\"}[1m]))[5m:1m])",
    "count(quantile_over_time(2, {i=~\".+\"}[2m]) > 10)",
    "sum(timestamp({i=~\".+\"}))",
    "sum(predict_linear({i=~\".+\"}[3m], 60)) by (group)",
    "limitk(5, {i=~\".+\"})",
    "sum(double_exponential_smoothing({i=~\".+\"}[2m], 2, 0.5))",
};

/* One query, whose samples are counted. cfg's limits, crew and all. */
static bool fake_exec_at(struct fake_store *s, const struct engine_config *cfg, const char *text, int64_t start, int64_t end, int64_t step, struct ctx *ctx,
                         struct engine_result *ret, struct err *err)
{
    struct node *n = promql_parse(slice_of(text), NULL, ctx->arena, err);
    if (!n)
        return false;
    struct engine_query q = {.expr = n, .text = slice_of(text), .start_ms = start, .end_ms = end, .step_ms = step, .count_samples = true};
    bool ok = promql_resolve_durations(n, step, end - start, err) && engine_exec(cfg, &s->queryable, ctx, &q, ret, err);
    promql_release(n);
    return ok;
}

static bool fake_exec(struct fake_store *s, const struct engine_config *cfg, const char *text, bool instant, struct ctx *ctx, struct engine_result *ret, struct err *err)
{
    int64_t start = instant ? FAKE_END_MS / 2 : 60000;
    return fake_exec_at(s, cfg, text, start, instant ? start : FAKE_END_MS, instant ? 0 : 20000, ctx, ret, err);
}

static bool fake_same_texts(const struct slice *a, size_t n_a, const struct slice *b, size_t n_b)
{
    bool same = n_a == n_b;
    for (size_t i = 0; same && i < n_a; i++)
        same = slice_eq(a[i], b[i]);
    return same;
}

/* To the last bit. */
static bool fake_same(const struct engine_result *a, const struct engine_result *b)
{
    if (a->n_series != b->n_series || a->samples_read != b->samples_read || !fake_same_texts(a->warnings, a->n_warnings, b->warnings, b->n_warnings) ||
        !fake_same_texts(a->infos, a->n_infos, b->infos, b->n_infos))
        return false;
    const struct engine_counts *n = &a->counts, *m = &b->counts;
    if (n->n_steps != m->n_steps || memcmp(n->seen_at, m->seen_at, n->n_steps * sizeof(*n->seen_at)) != 0 ||
        memcmp(n->read_at, m->read_at, n->n_steps * sizeof(*n->read_at)) != 0)
        return false;
    for (size_t i = 0; i < a->n_series; i++) {
        const struct result_series *x = &a->series[i], *y = &b->series[i];
        if (x->n != y->n || !labels_eq(x->labels, y->labels) || memcmp(x->v, y->v, x->n * sizeof(*x->v)) != 0 || memcmp(x->t, y->t, x->n * sizeof(*x->t)) != 0)
            return false;
    }
    return true;
}
