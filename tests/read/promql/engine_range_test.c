/*
 * A range query gives at each step what an instant query gives there, whatever windows share: series of many shapes, functions, ranges and steps.
 */
#include <criterion/criterion.h>
#include <math.h>
#include <stdio.h>

#include "base/assert.h"
#include "read/promql/engine.h"
#include "tests/read/promql/few_series.h"

#define SAMPLES 200
#define END_MS (SAMPLES * 15000)
#define STALE UINT64_C(0x7ff0000000000002)

enum shape { REGULAR, JITTER, GAPS, RESETS, NEAR_ZERO, FALLING, WITH_NAN, WITH_INFINITY, HUGE_VALUES, CANCELING, WITH_STALE, TWO_SPEEDS, SHAPES };

struct fake {
    struct few_series store;
    struct series series[SHAPES];
    struct series_chunk chunks[SHAPES][4];
    struct label labels[SHAPES][2];
    struct arena arena;
};

static uint64_t seed = 7;

static uint64_t next_random(void)
{
    seed ^= seed << 13;
    seed ^= seed >> 7;
    seed ^= seed << 17;
    return seed;
}

static double bits_to_double(uint64_t bits)
{
    double d;
    memcpy(&d, &bits, sizeof(d));
    return d;
}

static double make_value(enum shape shape, int i, double v)
{
    uint64_t r = next_random();
    switch (shape) {
    case RESETS:
        return r % 12 == 0 ? (double)(r % 5) : v + (double)(r % 100);
    case NEAR_ZERO:
        return i < 20 ? 0 : v + (double)(r % 3);
    case FALLING:
        return (double)(r % 1000) / 7;
    case WITH_NAN:
        return r % 5 == 0 ? NAN : (double)(r % 50);
    case WITH_INFINITY:
        return r % 40 == 0 ? INFINITY : r % 41 == 0 ? -INFINITY : (double)(r % 50);
    case HUGE_VALUES:
        return r % 2 ? 1e308 : -1e308;
    case CANCELING:
        return (r % 2 ? 1e15 : -1e15) + (double)(r % 100) / 3;
    case WITH_STALE:
        return r % 15 == 0 ? bits_to_double(STALE) : v + 1;
    default:
        return v + (double)(r % 100);
    }
}

static int64_t make_time(enum shape shape, int64_t t)
{
    switch (shape) {
    case JITTER:
        return t + 15000 + (int64_t)(next_random() % 9) - 4;
    case GAPS:
        return t + 15000 * (next_random() % 20 == 0 ? 30 : 1 + (int64_t)(next_random() % 8 == 0));
    case TWO_SPEEDS:
        return t + (t > END_MS / 3 ? 10000 : 15000);
    default:
        return t + 15000;
    }
}

static void make_series(struct fake *f, enum shape shape)
{
    int64_t t = 1 + (int64_t)(next_random() % 15000);
    double v = shape == NEAR_ZERO ? 0 : 1000;
    for (int c = 0; c < 4; c++) {
        uint8_t bytes[SAMPLES / 4 * XOR_SAMPLE_MAX_BYTES + 64];
        struct xor_appender a;
        xor_appender_init(&a);
        f->chunks[shape][c] = (struct series_chunk){.min_t = t, .encoding = CHUNK_XOR};
        for (int i = 0; i < SAMPLES / 4; i++) {
            double x = make_value(shape, c * SAMPLES / 4 + i, v);
            if (!isnan(x))
                v = x;
            xor_append(&a, bytes, t, x);
            f->chunks[shape][c].max_t = t;
            t = make_time(shape, t);
        }
        f->chunks[shape][c].data = arena_dup(&f->arena, slice_make(bytes, xor_size(&a)));
    }
    f->labels[shape][0] = (struct label){SL(METRIC_NAME_LABEL), SL("m_total")};
    f->labels[shape][1] = (struct label){SL("shape"), slice_of(arena_printf(&f->arena, "%c", 'a' + (int)shape))};
    f->series[shape] = (struct series){{f->labels[shape], 2}, f->chunks[shape], 4};
}

static void exec(struct fake *f, const char *text, int64_t start, int64_t end, int64_t step, struct arena *a, struct engine_result *ret)
{
    static const struct engine_config cfg = {.lookback_delta_ms = 300000, .default_evaluation_interval_ms = 60000};
    struct err err = ERR_NONE;
    struct ctx ctx = {.arena = a};
    struct node *n = promql_parse(slice_of(text), NULL, a, &err);
    cr_assert(n, "%s: %s", text, err.text);
    struct engine_query q = {.expr = n, .text = slice_of(text), .start_ms = start, .end_ms = end, .step_ms = step};
    cr_assert(promql_resolve_durations(n, step, end - start, &err) && engine_exec(&cfg, &f->store.q, &ctx, &q, ret, &err), "%s: %s", text, err.text);
    promql_release(n);
}

static const double *value_at(const struct engine_result *r, struct labels l, int64_t t)
{
    for (size_t i = 0; i < r->n_series; i++)
        if (labels_eq(r->series[i].labels, l))
            for (size_t k = 0; k < r->series[i].n; k++)
                if (r->series[i].t[k] == t)
                    return &r->series[i].v[k];
    return NULL;
}

static bool equal(double a, double b)
{
    return a == b || (isnan(a) && isnan(b)) || fabs(a - b) <= 1e-12 * fmax(fabs(a), fabs(b));
}

static size_t count_points(const struct engine_result *r)
{
    size_t n = 0;
    for (size_t i = 0; i < r->n_series; i++)
        n += r->series[i].n;
    return n;
}

static void compare(struct fake *f, const char *text, int64_t step)
{
    struct arena a;
    struct engine_result range;
    size_t points = 0;
    arena_init(&a, 0);
    exec(f, text, 0, END_MS, step, &a, &range);
    for (int64_t t = 0; t <= END_MS; t += step) {
        struct arena b;
        struct engine_result at;
        arena_init(&b, 0);
        exec(f, text, t, t, 0, &b, &at);
        for (size_t i = 0; i < at.n_series; i++) {
            const double *got = value_at(&range, at.series[i].labels, t);
            cr_assert(got, "%s step %lld: no value at %lld", text, (long long)step, (long long)t);
            cr_assert(equal(*got, at.series[i].v[0]), "%s step %lld at %lld, shape %.*s: %.17g, alone %.17g", text, (long long)step, (long long)t,
                      SL_FMT(labels_get(at.series[i].labels, SL("shape"))), *got, at.series[i].v[0]);
        }
        points += at.n_series;
        arena_release(&b);
    }
    cr_assert_eq(count_points(&range), points, "%s step %lld: %zu points, alone %zu", text, (long long)step, count_points(&range), points);
    arena_release(&a);
}

Test(promql_engine, a_range_query_gives_what_instant_queries_give)
{
    static const char *const functions[] = {"rate", "increase", "delta", "irate", "min_over_time", "max_over_time", "ts_of_min_over_time",
                                            "ts_of_max_over_time", "sum_over_time", "avg_over_time", "changes", "resets", "count_over_time",
                                            "stddev_over_time", "last_over_time"};
    static const char *const ranges[] = {"[14s]", "[15s]", "[1m]", "[5m]", "[15m] offset 7s"};
    static const int64_t steps[] = {5000, 15000, 30000, 61000};
    static struct fake f;
    f = (struct fake){.store = few_series_of(f.series, SHAPES)};
    arena_init(&f.arena, 0);
    for (int i = 0; i < SHAPES; i++)
        make_series(&f, (enum shape)i);
    for (size_t i = 0; i < ARRAY_LEN(steps); i++) {
        compare(&f, "m_total", steps[i]);
        compare(&f, "m_total > 50", steps[i]);
        compare(&f, "50 >= bool m_total", steps[i]);
        compare(&f, "topk by (shape) (1, m_total)", steps[i]);
        for (size_t k = 0; k < ARRAY_LEN(functions); k++)
            for (size_t j = 0; j < ARRAY_LEN(ranges); j++) {
                char text[128];
                snprintf(text, sizeof(text), "%s(m_total%s)", functions[k], ranges[j]);
                compare(&f, text, steps[i]);
            }
    }
    arena_release(&f.arena);
}
