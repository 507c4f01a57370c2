/*
 * Range functions over floats: the sweep and its kernels.
 *
 * A kernel computes one window. The sweep is instantiated for each of them, so that the kernel is inlined into its loop; mixed windows call the same
 * kernels one at a time (window_floats).
 */
#include <string.h>

#include "read/promql/eval_range_int.h"

typedef bool kernel_fn(const struct sweep *s, size_t lo, size_t hi, size_t step, double *out);

static inline __attribute__((always_inline)) bool sweep_steps(const struct sweep *s, struct column *out, kernel_fn kernel)
{
    const struct grid *g = &s->r->op.grid;
    size_t lo = 0, hi = 0;
    for (size_t i = 0; i < g->n; i++) {
        int64_t end = time_shift_apply(&s->r->shift, grid_t(g, i)), start = end - s->r->range_ms;
        while (hi < s->n && s->t[hi] <= end)
            hi++;
        while (lo < hi && s->t[lo] <= start)
            lo++;
        if (!env_work(s->r->op.env, hi - lo))
            return false;
        if (lo == hi || !kernel(s, lo, hi, i, &out->v[i]))
            continue;
        bit_set(out->present, i);
    }
    return true;
}

static inline bool k_rate_of(const struct sweep *s, size_t lo, size_t hi, size_t step, size_t n, double *out)
{
    bool zero = s->start_t && starts_in_window(s, lo, step);
    if (s->start_t)
        note_overlap(s, lo, hi);
    if (n < 2 && !zero)
        return false;
    const double *v = s->v;
    double delta = v[hi - 1] - v[lo];
    if (s->next_reset)
        for (size_t j = s->next_reset[lo + 1]; j < hi; j = s->next_reset[j + 1])
            delta += v[j - 1];
    if (zero) {
        *out = (delta + v[lo]) * start_factor(s, lo, n, step);
        return true;
    }
    const struct range_op *r = s->r;
    int64_t end = time_shift_apply(&r->shift, grid_t(&r->op.grid, step));
    struct rate_window w = {.start_t = end - r->range_ms, .end_t = end, .first_t = s->t[lo], .last_t = s->t[hi - 1], .n = n,
                            .first = v[lo], .delta = delta, .counter = r->counter};
    double factor = rate_factor(&w);
    if (r->fn == PROMQL_FN_RATE)
        factor /= (double)r->range_ms / 1e3;
    *out = delta * factor;
    return true;
}

static inline bool k_rate(const struct sweep *s, size_t lo, size_t hi, size_t step, double *out)
{
    return k_rate_of(s, lo, hi, step, hi - lo, out);
}

bool rate_of_window(const struct sweep *s, size_t lo, size_t hi, size_t step, size_t n, double *out)
{
    return k_rate_of(s, lo, hi, step, n, out);
}

static inline bool k_irate(const struct sweep *s, size_t lo, size_t hi, size_t step, double *out)
{
    (void)step;
    if (hi - lo < 2)
        return false;
    double prev = s->v[hi - 2], last = s->v[hi - 1];
    bool rate = s->r->fn == PROMQL_FN_IRATE;
    double d = rate && (last < prev || start_is_reset(s->t, s->start_t, hi - 1)) ? last : last - prev;
    int64_t interval = s->t[hi - 1] - s->t[hi - 2];
    if (interval == 0)
        return false;
    *out = rate ? d / ((double)interval / 1e3) : d;
    return true;
}

static inline bool k_sum(const struct sweep *s, size_t lo, size_t hi, size_t step, double *out)
{
    (void)step;
    double sum = 0, comp = 0;
    for (size_t i = lo; i < hi; i++)
        kahan_add(s->v[i], &sum, &comp);
    *out = isinf(sum) ? sum : sum + comp;
    return true;
}

static inline bool k_avg(const struct sweep *s, size_t lo, size_t hi, size_t step, double *out)
{
    (void)step;
    struct mean m;
    mean_init(&m, s->v[lo]);
    for (size_t i = lo + 1; i < hi; i++)
        mean_add(&m, s->v[i]);
    *out = mean_result(&m);
    return true;
}

static inline bool k_count(const struct sweep *s, size_t lo, size_t hi, size_t step, double *out)
{
    (void)s, (void)step;
    *out = (double)(hi - lo);
    return true;
}

static inline bool k_present(const struct sweep *s, size_t lo, size_t hi, size_t step, double *out)
{
    (void)s, (void)lo, (void)hi, (void)step;
    *out = 1;
    return true;
}

static inline bool k_first(const struct sweep *s, size_t lo, size_t hi, size_t step, double *out)
{
    (void)hi, (void)step;
    *out = s->v[lo];
    return true;
}

static inline bool k_last(const struct sweep *s, size_t lo, size_t hi, size_t step, double *out)
{
    (void)lo, (void)step;
    *out = s->v[hi - 1];
    return true;
}

static inline bool k_ts_first(const struct sweep *s, size_t lo, size_t hi, size_t step, double *out)
{
    (void)hi, (void)step;
    *out = (double)s->t[lo] / 1e3;
    return true;
}

static inline bool k_ts_last(const struct sweep *s, size_t lo, size_t hi, size_t step, double *out)
{
    (void)lo, (void)step;
    *out = (double)s->t[hi - 1] / 1e3;
    return true;
}

/* NaN only when there is nothing else. */
static inline size_t index_of_extreme(const double *v, size_t lo, size_t hi, bool max)
{
    size_t best = lo;
    for (size_t i = lo + 1; i < hi; i++)
        if (isnan(v[best]) || (max ? v[i] >= v[best] : v[i] <= v[best]))
            best = i;
    return best;
}

static inline bool k_min(const struct sweep *s, size_t lo, size_t hi, size_t step, double *out)
{
    (void)step;
    *out = s->v[index_of_extreme(s->v, lo, hi, false)];
    return true;
}

static inline bool k_max(const struct sweep *s, size_t lo, size_t hi, size_t step, double *out)
{
    (void)step;
    *out = s->v[index_of_extreme(s->v, lo, hi, true)];
    return true;
}

static inline bool k_ts_min(const struct sweep *s, size_t lo, size_t hi, size_t step, double *out)
{
    (void)step;
    *out = (double)s->t[index_of_extreme(s->v, lo, hi, false)] / 1e3;
    return true;
}

static inline bool k_ts_max(const struct sweep *s, size_t lo, size_t hi, size_t step, double *out)
{
    (void)step;
    *out = (double)s->t[index_of_extreme(s->v, lo, hi, true)] / 1e3;
    return true;
}

static inline bool k_changes(const struct sweep *s, size_t lo, size_t hi, size_t step, double *out)
{
    (void)step;
    size_t n = 0;
    for (size_t i = lo + 1; i < hi; i++)
        n += s->v[i] != s->v[i - 1] && !(isnan(s->v[i]) && isnan(s->v[i - 1]));
    *out = (double)n;
    return true;
}

static inline bool k_resets(const struct sweep *s, size_t lo, size_t hi, size_t step, double *out)
{
    (void)step;
    size_t n = 0;
    for (size_t i = lo + 1; i < hi; i++)
        n += s->v[i] < s->v[i - 1] || start_is_reset(s->t, s->start_t, i);
    *out = (double)n;
    return true;
}

static inline bool k_stdvar(const struct sweep *s, size_t lo, size_t hi, size_t step, double *out)
{
    (void)step;
    double mean = 0, mean_comp = 0, aux = 0, aux_comp = 0, n = 0;
    for (size_t i = lo; i < hi; i++) {
        n++;
        double delta = s->v[i] - (mean + mean_comp);
        kahan_add(delta / n, &mean, &mean_comp);
        kahan_add(delta * (s->v[i] - (mean + mean_comp)), &aux, &aux_comp);
    }
    double var = (aux + aux_comp) / n;
    *out = s->r->fn == PROMQL_FN_STDDEV_OVER_TIME ? sqrt(var) : var;
    return true;
}

static inline bool k_deriv(const struct sweep *s, size_t lo, size_t hi, size_t step, double *out)
{
    if (hi - lo < 2)
        return false;
    const struct range_op *r = s->r;
    double slope, intercept;
    if (r->fn == PROMQL_FN_DERIV) {
        linear_regression(s->t + lo, s->v + lo, hi - lo, s->t[lo], &slope, &intercept);
        *out = slope;
        return true;
    }
    /* From the evaluation time, whatever offset and @ say. */
    linear_regression(s->t + lo, s->v + lo, hi - lo, grid_t(&r->op.grid, step), &slope, &intercept);
    *out = slope * r->param[step] + intercept;
    return true;
}

static inline bool k_smoothing(const struct sweep *s, size_t lo, size_t hi, size_t step, double *out)
{
    if (hi - lo < 2)
        return false;
    double sf = s->r->param[step], tf = s->r->param2[step];
    double s0 = 0, s1 = s->v[lo], trend = s->v[lo + 1] - s->v[lo];
    for (size_t i = lo + 1; i < hi; i++) {
        if (i > lo + 1)
            trend = tf * (s1 - s0) + (1 - tf) * trend;
        double next = sf * s->v[i] + (1 - sf) * (s1 + trend);
        s0 = s1;
        s1 = next;
    }
    *out = s1;
    return true;
}

static inline bool k_quantile(const struct sweep *s, size_t lo, size_t hi, size_t step, double *out)
{
    struct range_op *r = s->r;
    double q = r->param[step];
    if (isnan(q) || q < 0 || q > 1)
        warn_quantile(r->op.env, q, r->call->call.args[0]->pos.start);
    memcpy(r->values, s->v + lo, (hi - lo) * sizeof(double));
    *out = quantile_of(q, r->values, hi - lo);
    return true;
}

static inline bool k_mad(const struct sweep *s, size_t lo, size_t hi, size_t step, double *out)
{
    (void)step;
    double *v = s->r->values;
    size_t n = hi - lo;
    *out = NAN;
    for (size_t i = lo; i < hi; i++)
        if (isnan(v[i - lo] = s->v[i]))
            return true;
    double median = quantile_of(0.5, v, n);
    for (size_t i = 0; i < n; i++)
        v[i] = fabs(v[i] - median);
    *out = quantile_of(0.5, v, n);
    return true;
}

bool sweep_floats(const struct sweep *s, struct column *out)
{
    if (slide_floats(s, out))
        return true;
    switch (s->r->fn) {
#define CASE(id, kernel)                                                                                               \
    case PROMQL_FN_##id:                                                                                               \
        return sweep_steps(s, out, kernel);
        RANGE_KERNELS(CASE)
#undef CASE
    default:
        ASSERT(false); /* a range function without a kernel */
        return false;
    }
}

bool window_floats(const struct sweep *s, size_t lo, size_t hi, size_t step, double *out)
{
    switch (s->r->fn) {
#define CASE(id, kernel)                                                                                               \
    case PROMQL_FN_##id:                                                                                               \
        return kernel(s, lo, hi, step, out);
        RANGE_KERNELS(CASE)
#undef CASE
    default:
        return false;
    }
}

bool function_takes_range(const struct node *call)
{
    switch (call->call.fn->id) {
#define CASE(id, kernel) case PROMQL_FN_##id:
        RANGE_KERNELS(CASE)
#undef CASE
        return true;
    default:
        return false;
    }
}
