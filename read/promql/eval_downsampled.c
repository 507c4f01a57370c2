/*
 * Aggregates in the place of samples (storage/downsample): which functions can do with which, and their windows.
 *
 * A store that was told what a selector is for may give, for some of its time, chunks of aggregates (struct select_hints). They are read as if they were samples,
 * between the samples of the rest: the sum of sums and samples is the sum, the least of the minima and samples the least, and a counter's first, last and fallen samples rise by as
 * much as all of them. Where a function depends on how many samples there are, a second column has a 1 for each sample and the counts of the windows.
 *
 * What the aggregates cannot say of a series is found here, when it is read: then the query begins again without hints. That is cheap, aggregates being few, and rare: a sum that may
 * have overflowed, a series that falls too often to have been taken for a counter, or one that is a histogram at times.
 */
#include <string.h>

#include "read/promql/eval_range_int.h"

/* A sum of smaller ones cannot have overflowed on its way, in whatever order. */
#define SUM_SAFE 1e290

enum counts { COUNTS_NONE, COUNTS_COMPARED, COUNTS_USED };

struct downsampled_use {
    int fn;
    enum downsample_aggregate values;
    /* COMPARED: only to see that the other aggregate has all series. */
    enum counts counts;
};

static const struct downsampled_use uses[] = {
    {PROMQL_FN_COUNT_OVER_TIME, DOWNSAMPLE_COUNT, COUNTS_USED},
    {PROMQL_FN_PRESENT_OVER_TIME, DOWNSAMPLE_COUNT, COUNTS_NONE},
    {PROMQL_FN_ABSENT_OVER_TIME, DOWNSAMPLE_COUNT, COUNTS_NONE},
    {PROMQL_FN_MIN_OVER_TIME, DOWNSAMPLE_MIN, COUNTS_NONE},
    {PROMQL_FN_MAX_OVER_TIME, DOWNSAMPLE_MAX, COUNTS_NONE},
    {PROMQL_FN_SUM_OVER_TIME, DOWNSAMPLE_SUM, COUNTS_NONE},
    {PROMQL_FN_AVG_OVER_TIME, DOWNSAMPLE_SUM, COUNTS_USED},
    {PROMQL_FN_RATE, DOWNSAMPLE_COUNTER, COUNTS_USED},
    {PROMQL_FN_INCREASE, DOWNSAMPLE_COUNTER, COUNTS_USED},
    {PROMQL_FN_DELTA, DOWNSAMPLE_COUNTER, COUNTS_USED},
    {PROMQL_FN_RESETS, DOWNSAMPLE_COUNTER, COUNTS_COMPARED},
    {PROMQL_FN_FIRST_OVER_TIME, DOWNSAMPLE_COUNTER, COUNTS_COMPARED},
    {PROMQL_FN_LAST_OVER_TIME, DOWNSAMPLE_COUNTER, COUNTS_COMPARED},
};

const struct downsampled_use *downsampled_use_of(int fn)
{
    for (size_t i = 0; i < ARRAY_LEN(uses); i++)
        if (uses[i].fn == fn)
            return &uses[i];
    return NULL;
}

unsigned downsampled_aggregates(const struct downsampled_use *use)
{
    return 1u << use->values | (use->counts == COUNTS_NONE ? 0 : 1u << DOWNSAMPLE_COUNT);
}

static bool refuse(struct reader *r, const char *why)
{
    atomic_store_explicit(r->downsampled.refused, true, memory_order_relaxed);
    return env_fail(r->env, ERR_INTERNAL, "the downsampled samples will not do: %s", why);
}

/* --- columns -------------------------------------------------------------------------------------------------------------------- */

static bool is_spanned(const struct select_downsampled *d, int64_t t)
{
    for (size_t i = 0; i < d->n && d->spans[i].min_t <= t; i++)
        if (t < d->spans[i].max_t)
            return true;
    return false;
}

/* Takes samples out of [from, *n) that the aggregates speak of. With `ones` the others become ones, but for stale markers, which go when all is read. */
static void keep_samples(struct reader *to, const struct select_downsampled *d, bool ones, size_t from, size_t *n)
{
    size_t k = from;
    for (size_t i = from; i < *n; i++) {
        if (is_spanned(d, to->t[i]))
            continue;
        to->t[k] = to->t[i];
        to->v[k++] = ones && !is_stale_nan(to->v[i]) ? 1 : to->v[i];
    }
    *n = k;
}

/* The samples and those of the aggregate, by time, into the columns of `to`: r's own or those of its counts. */
static bool read_column(struct reader *r, struct reader *to, const struct series *s, enum downsample_aggregate a, bool ones, struct samples *ret)
{
    size_t n = 0;
    for (size_t i = 0; i < s->n_chunks; i++) {
        struct series_chunk c = s->chunks[i];
        bool aggregate = chunk_is_aggregate(c.encoding);
        size_t before = n;
        if (c.max_t < r->min_t || c.min_t > r->max_t || (aggregate && c.encoding != CHUNK_OF_AGGREGATE(a)))
            continue;
        if (!aggregate && c.encoding != CHUNK_XOR)
            return refuse(r, "the series has histograms");
        c.encoding = CHUNK_XOR;
        if (!reader_floats(to, &c, &n))
            return false;
        for (size_t k = before; aggregate && a == DOWNSAMPLE_SUM && k < n; k++)
            if (fabs(to->v[k]) >= SUM_SAFE)
                return refuse(r, "a sum may have overflowed");
        if (!aggregate)
            keep_samples(to, &r->downsampled, ones, before, &n);
        if (!reader_merge(to, before, &n))
            return false;
    }
    *ret = (struct samples){.n = n, .t = to->t, .v = to->v};
    return true;
}

/* Every window that was counted, and every sample, is there: each column has the last sample of every window. */
static bool has_all(const struct samples *s, const struct samples *counts)
{
    size_t k = 0;
    for (size_t i = 0; i < counts->n; i++) {
        while (k < s->n && s->t[k] < counts->t[i])
            k++;
        if (k == s->n || s->t[k] != counts->t[i])
            return false;
    }
    return true;
}

static bool read_counts(struct reader *r, const struct series *s, struct samples *ret)
{
    struct samples counts;
    if (!r->counts && (!(r->counts = ENV_NEW(r->env, struct reader)) || !reader_open_lane(r->counts, r->env, r->min_t, r->max_t)))
        return false;
    if (!read_column(r, r->counts, s, DOWNSAMPLE_COUNT, true, &counts))
        return false;
    strip_stale(r->counts, &counts);
    if (!has_all(ret, &counts))
        return refuse(r, "the series was not taken for a counter");
    if (r->use->counts != COUNTS_USED)
        return true;
    double sum = 0;
    for (size_t i = 0; i < counts.n; i++)
        r->counts->v[i] = sum += counts.v[i];
    ret->count_t = counts.t;
    ret->counted = counts.v;
    ret->n_counts = counts.n;
    return true;
}

bool downsampled_in(const struct series *s)
{
    for (size_t i = 0; i < s->n_chunks; i++)
        if (chunk_is_aggregate(s->chunks[i].encoding))
            return true;
    return false;
}

bool downsampled_decode(struct reader *r, const struct series *s, struct samples *ret)
{
    return read_column(r, r, s, r->use->values, false, ret) && (r->use->counts == COUNTS_NONE || read_counts(r, s, ret));
}

/* --- windows --------------------------------------------------------------------------------------------------------------------------- */

/* A window of values, and how many samples it is of. */
static bool window_value(const struct sweep *s, size_t lo, size_t hi, size_t step, double n, double *out)
{
    const struct range_op *r = s->r;
    switch (r->fn) {
    case PROMQL_FN_COUNT_OVER_TIME:
        *out = n;
        return true;
    case PROMQL_FN_AVG_OVER_TIME: {
        double sum = 0, comp = 0;
        for (size_t i = lo; i < hi; i++)
            kahan_add(s->v[i], &sum, &comp);
        *out = isinf(sum) ? sum : sum / n + comp / n;
        return true;
    }
    default:
        return rate_of_window(s, lo, hi, step, (size_t)n, out);
    }
}

bool sweep_downsampled(const struct sweep *s, const struct samples *in, struct column *out)
{
    const struct range_op *r = s->r;
    const struct grid *g = &r->op.grid;
    size_t lo = 0, hi = 0, from = 0, to = 0;
    for (size_t i = 0; i < g->n; i++) {
        int64_t end = time_shift_apply(&r->shift, grid_t(g, i)), start = end - r->range_ms;
        while (hi < s->n && s->t[hi] <= end)
            hi++;
        while (lo < hi && s->t[lo] <= start)
            lo++;
        while (to < in->n_counts && in->count_t[to] <= end)
            to++;
        while (from < to && in->count_t[from] <= start)
            from++;
        if (!env_work(r->op.env, hi - lo))
            return false;
        if (from == to)
            continue;
        double n = in->counted[to - 1] - (from ? in->counted[from - 1] : 0);
        if (window_value(s, lo, hi, i, n, &out->v[i]))
            bit_set(out->present, i);
    }
    return true;
}
