/*
 * A float and a histogram of one time and one label set, which the unary minus and the label functions may make: a result shows both, a vector the histogram.
 * Scripts cannot say so: each step has one value there.
 */
#include <criterion/criterion.h>

#include "base/buf.h"
#include "read/promql/engine.h"
#include "storage/chunk/chunk.h"
#include "tests/read/promql/few_series.h"

#define STEP_MS 60000

static struct label float_labels[] = {{SL("__name__"), SL("floats")}, {SL("i"), SL("1")}}, hist_labels[] = {{SL("__name__"), SL("hists")}, {SL("i"), SL("1")}};

/* floats at steps 1, 2, 4, 5; histograms at 0, 3, 4, 6: with a lookback of less than a step only step 4 has both. */
struct fake {
    struct few_series store;
    struct series_chunk chunks[2];
    struct series series[2];
    struct arena arena;
};

static void fake_init(struct fake *f)
{
    static const int64_t floats_at[] = {1, 2, 4, 5}, hists_at[] = {0, 3, 4, 6};
    uint8_t bytes[4 * XOR_SAMPLE_MAX_BYTES + 64];
    struct xor_appender x;
    struct histogram_appender *h = histogram_appender_new(true);
    *f = (struct fake){.store = few_series_of(f->series, 2)};
    arena_init(&f->arena, 0);
    xor_appender_init(&x);
    for (size_t i = 0; i < 4; i++) {
        struct histogram hist = {.is_float = true, .sum = 1};
        hist.count = hist.zero_count = (double)hists_at[i];
        xor_append(&x, bytes, floats_at[i] * STEP_MS, (double)floats_at[i]);
        cr_assert_eq(histogram_append(h, hists_at[i] * STEP_MS, &hist), HISTOGRAM_APPENDED);
    }
    f->chunks[0] = (struct series_chunk){STEP_MS, 5 * STEP_MS, CHUNK_XOR, arena_dup(&f->arena, slice_make(bytes, xor_size(&x)))};
    f->chunks[1] = (struct series_chunk){0, 6 * STEP_MS, CHUNK_FLOAT_HISTOGRAM, arena_dup(&f->arena, histogram_appender_bytes(h))};
    f->series[0] = (struct series){{float_labels, 2}, &f->chunks[0], 1};
    f->series[1] = (struct series){{hist_labels, 2}, &f->chunks[1], 1};
    histogram_appender_free(h);
}

/* "1=-1 2=-2": the points of the only series, by step; a histogram's count is in brackets. What fails is its text. */
static void ask(struct fake *f, const char *text, int64_t first, int64_t last, bool delayed, struct buf *out)
{
    const struct engine_config cfg = {.lookback_delta_ms = STEP_MS, .default_evaluation_interval_ms = STEP_MS, .delayed_name_removal = delayed};
    struct arena a;
    struct err err = ERR_NONE;
    struct engine_result res;
    arena_init(&a, 0);
    struct ctx ctx = {.arena = &a};
    struct node *n = promql_parse(slice_of(text), NULL, &a, &err);
    cr_assert(n, "%s: %s", text, err.text);
    int64_t step = first == last ? 0 : STEP_MS;
    struct engine_query q = {.expr = n, .text = slice_of(text), .start_ms = first * STEP_MS, .end_ms = last * STEP_MS, .step_ms = step};
    cr_assert(promql_resolve_durations(n, step, q.end_ms - q.start_ms, &err));
    buf_clear(out);
    if (engine_exec(&cfg, &f->store.q, &ctx, &q, &res, &err)) {
        cr_assert_leq(res.n_series, 1, "%s: %zu series", text, res.n_series);
        const struct result_series *s = res.series;
        for (size_t i = 0; res.n_series && i < s->n; i++) {
            buf_printf(out, "%s%lld=", i ? " " : "", (long long)(s->t[i] / STEP_MS));
            if (s->h && s->h[i])
                buf_printf(out, "{%g}", s->h[i]->count);
            else
                buf_printf(out, "%g", s->v[i]);
        }
    } else {
        buf_puts(out, err.text);
    }
    promql_release(n);
    arena_release(&a);
}

#define BOTH "{i=\"1\"}"
#define RENAMED "label_replace(" BOTH ", \"__name__\", \"x\", \"\", \"\")"
#define JOINED "label_join(" BOTH ", \"__name__\", \"\")"

Test(merge, a_float_and_a_histogram_of_one_time)
{
    static const char all[] = "0={-0} 1=-1 2=-2 3={-3} 4=-4 4={-4} 5=-5 6={-6}",
                      same[] = "vector cannot contain metrics with the same labelset";
    static const struct {
        const char *text;
        int64_t first, last;
        const char *want, *want_delayed; /* NULL: the same */
    } cases[] = {
        {"-" BOTH, 0, 6, all, NULL},
        {"-" BOTH, 4, 4, "4={-4}", NULL},
        {"-" BOTH, 3, 3, "3={-3}", NULL},
        {"-" RENAMED, 0, 6, all, NULL},
        {"--" RENAMED, 4, 4, "4={4}", NULL},
        {"-" JOINED, 0, 6, all, NULL},
        {"(-" BOTH ")[2m:1m]", 5, 5, "4=-4 4={-4} 5=-5", NULL},
        {"count_over_time((-" BOTH ")[2m:1m])", 5, 5, "5=3", same},
        {"count_over_time(" JOINED "[2m:1m])", 4, 6, "4=3 5=3 6=2", NULL},
        {"count_over_time(" RENAMED "[2m:1m]) + count_over_time(" RENAMED "[2m:1m])", 5, 5, "5=6", NULL},
        {"count_over_time(" RENAMED "[2m:1m]) + count_over_time(sum by (i) (" RENAMED ")[2m:1m])", 5, 5, "5=5", NULL},
        /* Who computes with them sees the float, and after that none of the histograms. */
        {"sum(-" BOTH ")", 4, 4, "4=-4", ""}, /* names that go late are still there: a mix */
        {"sum by (i) (" RENAMED ")", 0, 6, "0={0} 1=1 2=2 3={3} 4=4 5=5", NULL},
        {"1 * -" RENAMED, 0, 6, "0={-0} 1=-1 2=-2 3={-3} 4=-4 5=-5", NULL},
        /* All else may only take turns, or meet in the result, where names go late. */
        {"1 * " BOTH, 4, 4, same, "4={4}"},
        {"1 * " BOTH, 0, 3, "0={0} 1=1 2=2 3={3}", NULL},
    };
    struct fake f;
    struct buf out;
    buf_init(&out, 0);
    fake_init(&f);
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++)
        for (int delayed = 0; delayed < 2; delayed++) {
            const char *want = delayed && cases[i].want_delayed ? cases[i].want_delayed : cases[i].want;
            ask(&f, cases[i].text, cases[i].first, cases[i].last, delayed, &out);
            cr_expect_str_eq(buf_cstr(&out), want, "%s%s: %s, not %s", cases[i].text, delayed ? " (names late)" : "", buf_cstr(&out), want);
        }
    buf_release(&out);
    arena_release(&f.arena);
}
