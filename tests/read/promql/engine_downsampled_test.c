/*
 * Answers from aggregates and samples against those from samples alone: a store that gives, for blocks that it has downsampled, what was asked for. The aggregates are made by
 * storage/downsample itself. Chunks of samples reach into the time of the aggregates, as those of an ingester may.
 */
#include <criterion/criterion.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/assert.h"
#include "model/histogram.h"
#include "read/promql/engine.h"
#include "storage/downsample/downsample.h"

#define MINUTE INT64_C(60000)
#define HOUR (60 * MINUTE)
#define T0 (INT64_C(495000) * HOUR)
#define BLOCK (2 * HOUR)
#define N_BLOCKS 4 /* the last is not downsampled */
#define END (T0 + N_BLOCKS * BLOCK)
#define N_SERIES 8
#define SAMPLES_MAX 4000
#define PER_CHUNK 100

struct fixture {
    struct queryable q;
    struct arena arena;
    enum downsample_resolution resolution;
    size_t n_series;
    struct downsample_column raw[N_SERIES]; /* stale markers among them */
    const struct series_chunk *extra;       /* of the first series; NULL: none */
    int hinted, plain;                      /* selects */
    struct engine_crew *crew;
};

struct set {
    struct series_set base;
    struct fixture *f;
    struct arena arena;
    unsigned aggregates; /* 0: samples alone */
    size_t i;
};

/* --- data ------------------------------------------------------------------------------------------------------------------------- */

static uint64_t next(uint64_t *state)
{
    *state = *state * 6364136223846793005u + 1442695040888963407u;
    return *state >> 33;
}

/* What a series does with each sample; a falling one is no counter. */
enum kind { COUNTER, RESETS, GAPS, NANS, STALE, LATE, EARLY, SPARSE };

static double value_after(enum kind kind, double v, uint64_t *state)
{
    if (kind == NANS && next(state) % 40 == 0)
        return NAN;
    if (kind == STALE && next(state) % 50 == 0)
        return stale_nan();
    if (kind == RESETS && next(state) % 400 == 0)
        return 0;
    return (isnan(v) ? 0 : v) + (double)(next(state) % 1000) / 8;
}

static struct downsample_column make_column(struct arena *a, enum kind kind, uint64_t *state)
{
    int64_t *t = ARENA_ARRAY(a, int64_t, SAMPLES_MAX);
    double *v = ARENA_ARRAY(a, double, SAMPLES_MAX), last = 0;
    size_t n = 0;
    for (int64_t at = T0 - 7000; at < END && n < SAMPLES_MAX; at += kind == SPARSE ? (int64_t)(next(state) % (3 * 600000)) + 1 : 15000) {
        if (kind == GAPS && next(state) % 200 == 0)
            at += (int64_t)(next(state) % (2 * HOUR));
        if ((kind == LATE && at < T0 + 3 * BLOCK) || (kind == EARLY && at >= T0 + BLOCK))
            continue;
        t[n] = next(state) % 20 ? at : (at + 5 * MINUTE - 1) / (5 * MINUTE) * (5 * MINUTE); /* some at the very ends of windows */
        if (n && t[n] <= t[n - 1])
            continue;
        v[n] = last = value_after(kind, last, state);
        n++;
    }
    return (struct downsample_column){n, t, v};
}

static size_t put_chunks(struct arena *a, const struct downsample_column *c, enum chunk_encoding encoding, struct series_chunk *out)
{
    size_t n = 0;
    for (size_t from = 0; from < c->n; from += PER_CHUNK, n++) {
        struct xor_appender x;
        size_t to = MIN(from + PER_CHUNK, c->n);
        uint8_t *bytes = arena_alloc(a, (to - from + 1) * XOR_SAMPLE_MAX_BYTES + 8);
        xor_appender_init(&x);
        for (size_t i = from; i < to; i++)
            xor_append(&x, bytes, c->t[i], c->v[i]);
        out[n] = (struct series_chunk){c->t[from], c->t[to - 1], encoding, slice_make(bytes, xor_size(&x))};
    }
    return n;
}

static struct downsample_column part_of(struct arena *a, const struct downsample_column *c, int64_t min_t, int64_t max_t, bool stale)
{
    int64_t *t = ARENA_ARRAY(a, int64_t, c->n + 1);
    double *v = ARENA_ARRAY(a, double, c->n + 1);
    size_t n = 0;
    for (size_t i = 0; i < c->n; i++) {
        if (c->t[i] < min_t || c->t[i] >= max_t || (!stale && is_stale_nan(c->v[i])))
            continue;
        t[n] = c->t[i];
        v[n++] = c->v[i];
    }
    return (struct downsample_column){n, t, v};
}

/* --- the store ---------------------------------------------------------------------------------------------------------------------- */

static int by_time(const void *a, const void *b)
{
    const struct series_chunk *x = a, *y = b;
    return (x->min_t > y->min_t) - (x->min_t < y->min_t);
}

static size_t put_aggregates(struct set *s, const struct downsample_column *raw, struct series_chunk *out)
{
    size_t n = 0;
    for (int b = 0; b < N_BLOCKS - 1; b++) {
        struct downsample_column part = part_of(&s->arena, raw, T0 + b * BLOCK, T0 + (b + 1) * BLOCK, false), made;
        for (unsigned a = 0; a < DOWNSAMPLE_AGGREGATES; a++)
            if ((s->aggregates & 1u << a) && part.n && (a != DOWNSAMPLE_COUNTER || downsample_is_counter(&part))) {
                cr_assert(downsample_column(a, false, downsample_resolution_ms(s->f->resolution), &part, &s->arena, &made));
                n += put_chunks(&s->arena, &made, CHUNK_OF_AGGREGATE(a), out + n);
            }
    }
    return n;
}

static bool set_next(struct series_set *base, struct ctx *ctx, struct series *ret, size_t max, size_t *ret_n, struct err *err)
{
    struct set *s = (struct set *)base;
    const struct fixture *f = s->f;
    (void)ctx, (void)max, (void)err;
    *ret_n = 0;
    if (s->i == f->n_series)
        return true;
    const struct downsample_column *raw = &f->raw[s->i];
    struct series_chunk *chunks = ARENA_ARRAY(&s->arena, struct series_chunk, 400);
    struct label *l = ARENA_ARRAY(&s->arena, struct label, 2);
    l[0] = (struct label){SL("__name__"), SL("m_total")};
    l[1] = (struct label){SL("s"), slice_of(arena_printf(&s->arena, "%zu", s->i))};
    size_t n = s->aggregates ? put_aggregates(s, raw, chunks) : 0;
    struct downsample_column rest = part_of(&s->arena, raw, s->aggregates ? T0 + (N_BLOCKS - 1) * BLOCK - 20 * MINUTE : 0, INT64_MAX, true);
    struct downsample_column before = part_of(&s->arena, raw, 0, s->aggregates ? T0 : 0, true);
    n += put_chunks(&s->arena, &before, CHUNK_XOR, chunks + n);
    n += put_chunks(&s->arena, &rest, CHUNK_XOR, chunks + n);
    if (f->extra && s->i == 0)
        chunks[n++] = *f->extra;
    qsort(chunks, n, sizeof(*chunks), by_time);
    cr_assert(n <= 400);
    ret[0] = (struct series){{l, 2}, chunks, n};
    *ret_n = 1;
    s->i++;
    return true;
}

static void set_release(struct series_set *base)
{
    arena_release(&((struct set *)base)->arena);
    free(base);
}

static struct series_set *store_select(struct queryable *q, struct ctx *ctx, const struct select_params *p, struct err *err)
{
    static const struct series_set_ops ops = {set_next, set_release};
    static const struct time_span span = {T0, T0 + (N_BLOCKS - 1) * BLOCK};
    struct set *s = calloc(1, sizeof(*s));
    const struct select_hints *h = p->hints;
    int64_t r = downsample_resolution_ms(((struct fixture *)q)->resolution);
    (void)ctx, (void)err;
    s->base.ops = &ops;
    s->f = (struct fixture *)q;
    arena_init(&s->arena, 0);
    if (h)
        cr_assert(h->last_ms >= h->first_ms && p->min_t == h->first_ms - h->range_ms + 1 && p->max_t == h->last_ms && h->aggregates && h->max_resolution_ms > 0);
    if (h && h->range_ms % r == 0 && h->first_ms % r == 0 && h->step_ms % r == 0) {
        s->aggregates = h->aggregates;
        h->ret->spans = &span;
        h->ret->n = 1;
        s->f->hinted++;
    } else {
        s->f->plain++;
    }
    return &s->base;
}

/* --- asking -------------------------------------------------------------------------------------------------------------------------- */

static void begin(struct fixture *f, enum downsample_resolution r)
{
    static const struct queryable_ops ops = {.select = store_select};
    uint64_t state = 77 + (uint64_t)r;
    *f = (struct fixture){.q.ops = &ops, .resolution = r, .n_series = N_SERIES};
    arena_init(&f->arena, 0);
    for (int i = 0; i < N_SERIES; i++)
        f->raw[i] = make_column(&f->arena, (enum kind)i, &state);
}

static struct engine_result ask(struct fixture *f, const char *text, int64_t start, int64_t end, int64_t step, int64_t max_resolution_ms)
{
    const struct engine_config cfg = {.crew = f->crew, .lookback_delta_ms = 5 * MINUTE, .default_evaluation_interval_ms = MINUTE};
    struct err err = ERR_NONE;
    struct ctx ctx = {.arena = &f->arena};
    struct engine_result ret;
    struct node *n = promql_parse(slice_of(text), NULL, &f->arena, &err);
    cr_assert(n, "%s: %s", text, err.text);
    struct engine_query q = {.expr = n, .text = slice_of(text), .start_ms = start, .end_ms = end, .step_ms = step, .max_source_resolution_ms = max_resolution_ms};
    cr_assert(promql_resolve_durations(n, step, end - start, &err) && engine_exec(&cfg, &f->q, &ctx, &q, &ret, &err), "%s: %s", text, err.text);
    promql_release(n);
    return ret;
}

static bool same(double a, double b)
{
    return a == b || (isnan(a) && isnan(b)) || fabs(a - b) <= 1e-9 * fmax(fabs(a), fabs(b));
}

/* The same answer either way; selects that were given aggregates, of those of the first way. */
static int compare(struct fixture *f, const char *text, int64_t start, int64_t end, int64_t step)
{
    f->hinted = f->plain = 0;
    struct engine_result got = ask(f, text, start, end, step, INT64_MAX);
    int hinted = f->hinted, again = f->plain;
    struct engine_result want = ask(f, text, start, end, step, 0);
    cr_assert_eq(f->hinted, hinted);
    cr_assert_eq(got.n_series, want.n_series, "%s: %zu series, not %zu", text, got.n_series, want.n_series);
    for (size_t i = 0; i < got.n_series; i++) {
        const struct result_series *x = &got.series[i], *y = &want.series[i];
        cr_assert(labels_eq(x->labels, y->labels) && x->n == y->n, "%s: series %zu has %zu values, not %zu", text, i, x->n, y->n);
        for (size_t k = 0; k < x->n; k++)
            cr_assert(x->t[k] == y->t[k] && same(x->v[k], y->v[k]), "%s: series %zu, at %lld: %.17g, not %.17g", text, i, (long long)(x->t[k] - T0), x->v[k], y->v[k]);
    }
    return again ? -hinted : hinted;
}

static const char *const functions[] = {"count_over_time", "present_over_time", "absent_over_time", "min_over_time", "max_over_time", "sum_over_time", "avg_over_time",
                                        "rate",            "increase",          "delta",            "resets",        "first_over_time", "last_over_time"};

Test(engine_downsampled, gives_the_answers_of_samples)
{
    static const struct {
        const char *range;
        int64_t step;
    } windows[] = {{"1h", HOUR}, {"2h", HOUR}, {"5h", 2 * HOUR}, {"10m", 5 * MINUTE}, {"5m", 15 * MINUTE}};
    for (unsigned r = 0; r < DOWNSAMPLE_RESOLUTIONS; r++) {
        struct fixture f;
        begin(&f, r);
        for (size_t i = 0; i < ARRAY_LEN(functions); i++)
            for (size_t w = 0; w < ARRAY_LEN(windows); w++) {
                char text[128];
                bool fits = r == DOWNSAMPLE_5M || windows[w].step % HOUR == 0;
                snprintf(text, sizeof(text), "%s(m_total[%s])", functions[i], windows[w].range);
                cr_expect_eq(compare(&f, text, T0 - HOUR, END + HOUR, windows[w].step), fits, "%s", text);
                snprintf(text, sizeof(text), "%s(m_total[%s] offset 1h)", functions[i], windows[w].range);
                cr_expect_eq(compare(&f, text, T0, END, windows[w].step), fits, "%s", text);
            }
        cr_expect_eq(compare(&f, "sum(rate(m_total[1h] @ end()))", T0 + 1, T0 + 4 * HOUR, 7 * MINUTE), 1);
        cr_expect_eq(compare(&f, "max_over_time(sum_over_time(m_total[1h])[4h:1h])", T0 + 4 * HOUR, END, 10 * MINUTE), 1);
        arena_release(&f.arena);
    }
}

Test(engine_downsampled, gives_the_answers_of_samples_with_several_threads)
{
    struct fixture f;
    begin(&f, DOWNSAMPLE_5M);
    f.crew = engine_crew_new(3, 1);
    for (int falls = 0; falls < 2; falls++) {
        for (size_t i = 0; i < ARRAY_LEN(functions); i++) {
            char text[64];
            snprintf(text, sizeof(text), "%s(m_total[1h])", functions[i]);
            cr_expect_eq(compare(&f, text, T0, END, HOUR), falls && i >= 7 ? -1 : 1, "%s", text);
        }
        double *v = (double *)f.raw[0].v; /* no counter any more */
        for (size_t i = 0; i < f.raw[0].n; i++)
            v[i] = (double)(i % 2);
    }
    engine_crew_free(f.crew);
    arena_release(&f.arena);
}

Test(engine_downsampled, is_not_asked_for_other_functions)
{
    static const char *const others[] = {"m_total", "irate(m_total[1h])", "changes(m_total[1h])", "deriv(m_total[1h])", "quantile_over_time(0.5, m_total[1h])", "stddev_over_time(m_total[1h])",
                                         "sum_over_time(m_total[61m])", "sum_over_time(m_total[1h] offset 1m)"};
    struct fixture f;
    begin(&f, DOWNSAMPLE_5M);
    for (size_t i = 0; i < ARRAY_LEN(others); i++)
        cr_expect_eq(compare(&f, others[i], T0, END, HOUR), 0, "%s", others[i]);
    cr_expect_eq(compare(&f, "sum_over_time(m_total[1h])", T0, END, 61 * MINUTE), 0);
    cr_expect_eq(compare(&f, "sum_over_time(m_total[1h])", T0 + MINUTE, END, HOUR), 0);
    arena_release(&f.arena);
}

/* The first column falls with every second sample: it is no counter, of which only one function wants to know. */
Test(engine_downsampled, reads_samples_when_a_series_was_not_taken_for_a_counter)
{
    struct fixture f;
    begin(&f, DOWNSAMPLE_5M);
    double *v = (double *)f.raw[0].v;
    for (size_t i = 0; i < f.raw[0].n; i++)
        v[i] = (double)(i % 2 * 100 + i % 7);
    for (size_t i = 0; i < ARRAY_LEN(functions); i++) {
        char text[64];
        snprintf(text, sizeof(text), "%s(m_total[1h])", functions[i]);
        cr_expect_eq(compare(&f, text, T0, END, HOUR), i < 7 ? 1 : -1, "%s", text);
    }
    arena_release(&f.arena);
}

Test(engine_downsampled, reads_samples_when_a_sum_may_have_overflowed)
{
    static const double values[] = {1.7e308, -1.7e308, INFINITY, 3e290, 1e290};
    for (size_t i = 0; i < ARRAY_LEN(values); i++) {
        struct fixture f;
        begin(&f, DOWNSAMPLE_1H);
        double *v = (double *)f.raw[1].v;
        v[300] = v[310] = values[i];
        cr_expect_eq(compare(&f, "sum_over_time(m_total[2h])", T0, END, HOUR), -1);
        cr_expect_eq(compare(&f, "avg_over_time(m_total[2h])", T0, END, HOUR), -1);
        cr_expect_eq(compare(&f, "max_over_time(m_total[2h])", T0, END, HOUR), 1);
        arena_release(&f.arena);
    }
}

Test(engine_downsampled, reads_samples_when_a_series_has_histograms_elsewhere)
{
    static const struct histogram_span span = {0, 1};
    static const int64_t delta = 5;
    const struct histogram h = {.count_int = 5, .sum = 1, .positive_spans = &span, .n_positive_spans = 1, .positive_deltas = &delta, .n_positive = 1};
    struct histogram_appender *a = histogram_appender_new(false);
    struct fixture f;
    begin(&f, DOWNSAMPLE_5M);
    cr_assert(a && histogram_append(a, END + 1, &h) == HISTOGRAM_APPENDED);
    const struct series_chunk chunk = {END + 1, END + 1, CHUNK_HISTOGRAM, histogram_appender_bytes(a)};
    f.extra = &chunk;
    cr_expect_eq(compare(&f, "count_over_time(m_total[1h])", T0, END + HOUR, HOUR), -1);
    histogram_appender_free(a);
    arena_release(&f.arena);
}
