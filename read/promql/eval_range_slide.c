/*
 * Range functions over floats whose windows share their work: every sample costs the same, however many windows it lies in.
 *
 *   rate, increase, delta   The times of most windows look like those of the window before: what extrapolation makes of them is computed when
 *                           they change (of each window in turn between two samples, where steps are shorter), and over a stretch of equally distant samples, of whose
 *                           distance a step is a multiple, all windows are done in one plain loop. A reset costs only the windows it lies in.
 *   min, max, and when      A window is a stack of two parts. The left one, [lo, mid), has the best of each of its tails; of the right one,
 *                           [mid, hi), only the best is known. When lo reaches mid, all there is becomes the left part: a sample is looked at
 *                           three times.
 *   sum, avg                The same with compensated sums. Nothing is ever subtracted, so no digits get lost. Series with values that could
 *                           overflow, or that are not finite, go the long way (false from slide_floats).
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

/* A stretch of samples [first, last] at equal distances of which a step is a multiple: each window is the one before, `shift` samples later. */
struct stretch {
    size_t first, last, shift; /* shift == 0: a step is no multiple */
    int64_t distance;
};

/* Of at most max windows after this one, how many have the same times, relative to their ends, and none of the samples from `stop` on? */
static size_t windows_alike(const struct windows *w, struct stretch *st, size_t max, size_t stop)
{
    const int64_t *t = w->t;
    if (w->lo >= st->last) {
        size_t last = w->lo + 1;
        int64_t d = t[last] - t[w->lo];
        while (last + 1 < w->n && t[last + 1] - t[last] == d)
            last++;
        bool fits = d > 0 && w->step % d == 0; /* damaged chunks may have times that stand still */
        *st = (struct stretch){w->lo, last, fits ? (size_t)(w->step / d) : 0, d};
    }
    if (st->shift == 0 || w->lo < st->first || w->hi > st->last + 1 || stop < w->hi)
        return 0;
    if (t[w->lo] - st->distance > w->end - w->range || t[w->hi - 1] + st->distance <= w->end)
        return 0;
    /* The sample after the last window has to be in the stretch too, if there is one. */
    size_t limit = st->last + 1 == w->n ? w->n : st->last;
    if (limit > stop)
        limit = stop;
    size_t n = limit > w->hi ? (limit - w->hi) / st->shift : 0;
    return n < max ? n : max;
}

/* What the windows of one series share as long as their times are the same. */
struct rate_factors {
    struct rate_times times;
    int64_t gap, span;
    size_t n;
    double seconds;   /* of the range, or 1 */
    double factor;    /* of a series that goes on on both sides */
    double zero_test; /* to_start, with a margin */
    bool counter;
};

static inline void rate_factors_for(struct rate_factors *f, int64_t gap, int64_t span, int64_t after, size_t n)
{
    if (span == f->span && gap == f->gap && n == f->n)
        return;
    f->span = span;
    f->gap = gap;
    f->n = n;
    rate_times_of(gap, span, after, n, &f->times);
    f->factor = rate_factor_at(&f->times, f->times.to_start) / f->seconds;
    f->zero_test = f->times.to_start * (1 + 1e-9);
}

/* A counter does not start below zero. Most windows are far from it, which is seen without a division. */
static inline bool near_zero(const struct rate_factors *f, double first, double delta)
{
    return f->counter & (delta > 0) & (first >= 0) & !(f->times.sampled * first > f->zero_test * delta);
}

static inline double rate_of(const struct rate_factors *f, double first, double delta)
{
    if (!near_zero(f, first, delta))
        return delta * f->factor;
    return delta * (rate_factor_at(&f->times, rate_to_zero(&f->times, first, delta)) / f->seconds);
}

/* n windows without resets, of the same times; first and last point to their first and last samples. */
static void rate_many(const struct rate_factors *f, const double *first, const double *last, size_t shift, size_t n, double *out)
{
    bool any = false;
    for (size_t i = 0, k = 0; i < n; i++, k += shift) {
        double delta = last[k] - first[k];
        any |= near_zero(f, first[k], delta);
        out[i] = delta * f->factor;
    }
    for (size_t i = 0; any && i < n; i++)
        out[i] = rate_of(f, first[i * shift], last[i * shift] - first[i * shift]);
}

static void set_bits(uint64_t *present, size_t from, size_t n)
{
    for (size_t i = from; i < from + n;) {
        size_t in_word = 64 - (i & 63), left = from + n - i, take = left < in_word ? left : in_word;
        present[i >> 6] |= (take == 64 ? UINT64_MAX : ((uint64_t)1 << take) - 1) << (i & 63);
        i += take;
    }
}

/* Where k steps lie between two samples, each window has the times of the k-th one before it. 1 when that is not known. */
#define PHASES_MAX 16
static size_t phases_of(const struct windows *w)
{
    int64_t d = w->n < 2 ? 0 : w->t[1] - w->t[0];
    return w->step > 0 && d > w->step && d % w->step == 0 && d / w->step <= PHASES_MAX ? (size_t)(d / w->step) : 1;
}

static void slide_rate(const struct sweep *s, struct column *out)
{
    const struct range_op *r = s->r;
    const double *v = s->v;
    const uint32_t *resets = s->next_reset;
    size_t n = r->op.grid.n;
    struct windows w = windows_of(s);
    struct stretch stretch = {0};
    size_t n_phases = phases_of(&w), phase = 0;
    struct rate_factors factors[PHASES_MAX];
    for (size_t i = 0; i < n_phases; i++)
        factors[i] = (struct rate_factors){.gap = -1, .seconds = r->fn == PROMQL_FN_RATE ? (double)r->range_ms / 1e3 : 1, .counter = r->counter};
    for (size_t i = 0; i < n; i++, w.end += w.step) {
        struct rate_factors *f = &factors[phase];
        phase = phase + 1 < n_phases ? phase + 1 : 0;
        windows_move(&w);
        if (w.hi - w.lo < 2)
            continue;
        rate_factors_for(f, w.t[w.lo] - (w.end - w.range), w.t[w.hi - 1] - w.t[w.lo], w.end - w.t[w.hi - 1], w.hi - w.lo);
        double delta = v[w.hi - 1] - v[w.lo];
        if (resets) {
            size_t n_resets = 0;
            for (size_t j = resets[w.lo + 1]; j < w.hi; j = resets[j + 1], n_resets++)
                delta += v[j - 1];
            if (!env_work(r->op.env, n_resets))
                return; /* the operator looks at the deadline after each series, and fails */
        }
        out->v[i] = rate_of(f, v[w.lo], delta);
        size_t more = w.step == 0 ? 0 : windows_alike(&w, &stretch, n - i - 1, resets ? resets[w.lo + 1] : w.n);
        set_bits(out->present, i, 1 + more);
        if (more == 0)
            continue;
        size_t shift = stretch.shift;
        rate_many(f, v + w.lo + shift, v + w.hi - 1 + shift, shift, more, out->v + i + 1);
        i += more;
        w.lo += more * shift;
        w.hi += more * shift;
        w.end += (int64_t)more * w.step;
    }
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

bool function_slides(int fn)
{
    switch (fn) {
    case PROMQL_FN_RATE:
    case PROMQL_FN_INCREASE:
    case PROMQL_FN_DELTA:
    case PROMQL_FN_MIN_OVER_TIME:
    case PROMQL_FN_MAX_OVER_TIME:
    case PROMQL_FN_TS_OF_MIN_OVER_TIME:
    case PROMQL_FN_TS_OF_MAX_OVER_TIME:
    case PROMQL_FN_SUM_OVER_TIME:
    case PROMQL_FN_AVG_OVER_TIME:
    case PROMQL_FN_CHANGES:
    case PROMQL_FN_RESETS:
        return true;
    default:
        return false;
    }
}

bool slide_floats(const struct sweep *s, struct column *out)
{
    if (s->start_t)
        return false;
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
