/*
 * Range functions over floats whose windows share their work: every sample costs the same, however many windows it lies in.
 *
 *   rate, increase, delta   The times of most windows look like those of the window before: what extrapolation makes of them is computed when they change.
 *                           A reset costs only the windows it lies in.
 *   min, max, and when      A window is a stack of two parts. The left one, [lo, mid), has the best of each of its tails; of the right one, [mid, hi),
 *                           only the best is known. When lo reaches mid, all there is becomes the left part: a sample is looked at three times.
 *   sum, avg                The same with compensated sums. Nothing is ever subtracted, so no digits get lost. Series with values that could overflow,
 *                           or that are not finite, go the long way (false from slide_floats).
 *   changes, resets         Differences of running counts.
 */
#include <string.h>

#include "read/promql/eval_range_int.h"

/* Of values below it no sum of a series overflows. */
#define SUM_SAFE 1e290

struct windows {
    const int64_t *t;
    size_t n, lo, hi;
    int64_t end, range, step;
};

static inline struct windows windows_of(const struct sweep *s)
{
    const struct range_op *r = s->r;
    return (struct windows){.t = s->t, .n = s->n, .end = time_shift_apply(&r->shift, r->op.grid.start_ms), .range = r->range_ms,
                            .step = r->shift.fixed ? 0 : r->op.grid.step_ms};
}

/* [lo, hi) of the window that ends at w->end. */
static inline void windows_move(struct windows *w)
{
    size_t lo = w->lo, hi = w->hi;
    while (hi < w->n && w->t[hi] <= w->end)
        hi++;
    while (lo < hi && w->t[lo] <= w->end - w->range)
        lo++;
    w->lo = lo;
    w->hi = hi;
}

/* Runs a body for every window, with its index `i`; the body sets `has` when the window has a value. */
#define EACH_WINDOW(s, w, out, ...)                                                                                    \
    for (size_t i = 0, n_ = (s)->r->op.grid.n, word_ = 0; i < n_; word_++) {                                           \
        uint64_t bits_ = 0;                                                                                            \
        size_t stop_ = n_ - i < 64 ? n_ : i + 64;                                                                      \
        for (unsigned b_ = 0; i < stop_; i++, b_++, (w).end += (w).step) {                                             \
            bool has = false;                                                                                          \
            windows_move(&(w));                                                                                        \
            __VA_ARGS__;                                                                                               \
            bits_ |= (uint64_t)has << b_;                                                                              \
        }                                                                                                              \
        (out)->present[word_] = bits_;                                                                                 \
    }

/* --- rate ------------------------------------------------------------------------------------------------------------------------------ */

static void slide_rate(const struct sweep *s, struct column *out)
{
    const struct range_op *r = s->r;
    const double *v = s->v;
    const uint32_t *resets = s->next_reset;
    const double seconds = r->fn == PROMQL_FN_RATE ? (double)r->range_ms / 1e3 : 1;
    double *values = out->v;
    struct windows w = windows_of(s);
    struct rate_times times = {0};
    int64_t had_gap = -1, had_span = -1;
    size_t had_n = 0;
    double factor = 0;
    EACH_WINDOW (s, w, out, {
        size_t lo = w.lo, hi = w.hi;
        if (hi - lo < 2)
            continue;
        int64_t span = w.t[hi - 1] - w.t[lo], gap = w.t[lo] - (w.end - w.range);
        if (span != had_span || gap != had_gap || hi - lo != had_n) {
            had_span = span;
            had_gap = gap;
            had_n = hi - lo;
            rate_times_of(gap, span, w.end - w.t[hi - 1], had_n, &times);
            factor = rate_factor_at(&times, times.to_start) / seconds;
        }
        double first = v[lo], delta = v[hi - 1] - first;
        if (resets)
            for (size_t j = resets[lo + 1]; j < hi; j = resets[j + 1])
                delta += v[j - 1];
        values[i] = delta * factor;
        has = true;
        /* A counter does not start below zero; most windows are far from it, which is seen without a division. */
        if (r->counter && delta > 0 && first >= 0 && !(times.sampled * first > times.to_start * delta * (1 + 1e-9)))
            values[i] = delta * (rate_factor_at(&times, rate_to_zero(&times, first, delta)) / seconds);
    });
}

/* --- min, max --------------------------------------------------------------------------------------------------------------------------- */

/* The better of two samples, a before b: NaN only when there is nothing else, of equal ones the later. */
static inline uint32_t better(const double *v, uint32_t a, uint32_t b, bool max)
{
    return isnan(v[a]) || (max ? v[b] >= v[a] : v[b] <= v[a]) ? b : a;
}

static inline __attribute__((always_inline)) void slide_extremes(const struct sweep *s, uint32_t *best, bool max, bool when, struct column *out)
{
    const double *v = s->v;
    struct windows w = windows_of(s);
    size_t mid = 0, seen = 0; /* the right part is [mid, seen) */
    uint32_t right = 0;
    EACH_WINDOW (s, w, out, {
        if (w.lo == w.hi)
            continue;
        for (; seen < w.hi; seen++)
            right = seen == mid ? (uint32_t)seen : better(v, right, (uint32_t)seen, max);
        if (w.lo >= mid) {
            mid = w.hi;
            uint32_t b = (uint32_t)(mid - 1);
            best[b] = b;
            for (size_t k = mid - 1; k-- > w.lo;)
                best[k] = b = better(v, (uint32_t)k, b, max);
        }
        uint32_t k = best[w.lo];
        if (mid < w.hi)
            k = better(v, k, right, max);
        out->v[i] = when ? (double)w.t[k] / 1e3 : v[k];
        has = true;
    });
}

/* --- sum, avg ---------------------------------------------------------------------------------------------------------------------------- */

static inline __attribute__((always_inline)) void slide_sums(const struct sweep *s, struct partial_sum *tails, bool mean, struct column *out)
{
    const double *v = s->v;
    struct windows w = windows_of(s);
    size_t mid = 0, seen = 0;
    struct partial_sum right = {0};
    EACH_WINDOW (s, w, out, {
        if (w.lo == w.hi)
            continue;
        for (; seen < w.hi; seen++)
            kahan_add(v[seen], &right.sum, &right.comp);
        if (w.lo >= mid) {
            struct partial_sum tail = {0};
            mid = w.hi;
            for (size_t k = mid; k-- > w.lo;) {
                kahan_add(v[k], &tail.sum, &tail.comp);
                tails[k] = tail;
            }
            right = (struct partial_sum){0};
        }
        struct partial_sum all = tails[w.lo];
        kahan_add(right.sum, &all.sum, &all.comp);
        all.comp += right.comp;
        double n = (double)(w.hi - w.lo);
        out->v[i] = mean ? all.sum / n + all.comp / n : all.sum + all.comp;
        has = true;
    });
}

static bool sums_are_safe(const double *v, size_t n)
{
    bool safe = true;
    for (size_t i = 0; i < n; i++)
        safe &= fabs(v[i]) < SUM_SAFE;
    return safe;
}

/* --- changes, resets ------------------------------------------------------------------------------------------------------------------------ */

static void slide_counts(const struct sweep *s, uint32_t *counts, struct column *out)
{
    const double *v = s->v;
    bool resets = s->r->fn == PROMQL_FN_RESETS;
    struct windows w = windows_of(s);
    counts[0] = 0;
    for (size_t i = 1; i < s->n; i++)
        counts[i] = counts[i - 1] + (resets ? v[i] < v[i - 1] : v[i] != v[i - 1] && !(isnan(v[i]) && isnan(v[i - 1])));
    EACH_WINDOW (s, w, out, {
        if (w.lo == w.hi)
            continue;
        out->v[i] = (double)(counts[w.hi - 1] - counts[w.lo]);
        has = true;
    });
}

bool slide_floats(const struct sweep *s, struct column *out)
{
    switch (s->r->fn) {
    case PROMQL_FN_RATE:
    case PROMQL_FN_INCREASE:
    case PROMQL_FN_DELTA:
        slide_rate(s, out);
        return true;
    case PROMQL_FN_MIN_OVER_TIME:
        slide_extremes(s, s->r->slide, false, false, out);
        return true;
    case PROMQL_FN_MAX_OVER_TIME:
        slide_extremes(s, s->r->slide, true, false, out);
        return true;
    case PROMQL_FN_TS_OF_MIN_OVER_TIME:
        slide_extremes(s, s->r->slide, false, true, out);
        return true;
    case PROMQL_FN_TS_OF_MAX_OVER_TIME:
        slide_extremes(s, s->r->slide, true, true, out);
        return true;
    case PROMQL_FN_SUM_OVER_TIME:
    case PROMQL_FN_AVG_OVER_TIME:
        if (!sums_are_safe(s->v, s->n))
            return false;
        slide_sums(s, s->r->slide, s->r->fn == PROMQL_FN_AVG_OVER_TIME, out);
        return true;
    case PROMQL_FN_CHANGES:
    case PROMQL_FN_RESETS:
        slide_counts(s, s->r->slide, out);
        return true;
    default:
        return false;
    }
}
