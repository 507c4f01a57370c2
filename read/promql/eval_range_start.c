/*
 * Rates of samples that know when their count began: what floats and histograms share. A reset that a start timestamp tells of is found with those that
 * values tell of (start_is_reset); here are what the first sample's start does to extrapolation, and the warning of starts that cannot be.
 */
#include "read/promql/eval_range_int.h"

static int64_t window_start(const struct sweep *s, size_t step)
{
    const struct range_op *r = s->r;
    return time_shift_apply(&r->shift, grid_t(&r->op.grid, step)) - r->range_ms;
}

bool starts_in_window(const struct sweep *s, size_t lo, size_t step)
{
    int64_t start = s->start_t ? s->start_t[lo] : 0;
    return s->r->counter && start != 0 && start > window_start(s, step) && start < s->t[lo];
}

double start_factor(const struct sweep *s, size_t lo, size_t n, size_t step)
{
    const struct range_op *r = s->r;
    int64_t first = s->t[lo], last = s->t[lo + n - 1], end = window_start(s, step) + r->range_ms;
    struct rate_times t = {.to_end = 0}; /* of a single sample it is not known when the next was due */
    if (n > 1)
        rate_times_of(0, last - first, end - last, n, &t);
    t.sampled = (double)(last - s->start_t[lo]) / 1e3;
    double factor = rate_factor_at(&t, 0);
    return r->fn == PROMQL_FN_RATE ? factor / ((double)r->range_ms / 1e3) : factor;
}

void note_overlap(const struct sweep *s, size_t lo, size_t hi)
{
    struct env *env = s->r->op.env;
    for (size_t i = lo + 1; i < hi; i++) {
        if (!start_overlaps(s->t, s->start_t, i))
            continue;
        struct labels l = s->r->out->cols[s->r->out->n - 1].labels; /* the series worked on */
        annotate_count(env, range_pos(s->r), "sample has start time that overlaps with previous sample timestamp for metric %s",
                       quoted(env, metric_name(l)));
        return;
    }
}
