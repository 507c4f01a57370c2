/*
 * Range functions over the extended range selectors, m[5m] anchored and m[5m] smoothed.
 *
 * anchored: the last sample at or before the start of the range (within the lookback) belongs to it; nothing is extrapolated.
 * smoothed: the values at both ends of the range are interpolated between the samples around them; where there is none before the start the
 * first sample stands in, where there is none after the end the last. A counter that was reset between two samples is taken to have
 * started from 0 at the first of them.
 *
 * These are windows of few samples in rare queries: values go through one code for floats and histograms.
 */
#include "read/promql/eval_range_int.h"

struct ext {
    struct range_op *r;
    const struct samples *in;
    struct column *out;
    struct slice name;
    size_t step;
    int64_t start, end;
    size_t lo, hi;   /* samples in (start, end] */
    bool prev, next; /* is there a sample before lo, after hi, near enough? */
};

static struct env *env_of(const struct ext *x)
{
    return x->r->op.env;
}

static struct value value_at(const struct ext *x, size_t i)
{
    return (struct value){x->in->v[i], x->in->h ? x->in->h[i] : NULL};
}

static bool is_reset(const struct ext *x, struct value cur, struct value prev)
{
    return cur.h ? fhist_is_reset(cur.h, prev.h, x->r->window_mem) : cur.f < prev.f;
}

/* a + sign * b into *ret; says so where bounds had to be reconciled. Layouts have been checked. */
static bool add_noted(struct env *env, struct arena *mem, int32_t pos, const struct fhist *a, const struct fhist *b, double sign, struct fhist **ret)
{
    unsigned notes = 0;
    if (fhist_add(a, b, sign, mem, ret, &notes) != FHIST_OK)
        return env_memory_error(env);
    if (notes & FHIST_MISMATCHED_BOUNDS)
        INFO(env, pos, "mismatched custom buckets were reconciled during %s", sign < 0 ? "subtraction" : "addition");
    return true;
}

/* a + sign * b; false: out of memory. Layouts have been checked. */
static bool add(const struct ext *x, struct value *a, struct value b, double sign)
{
    if (!a->h) {
        a->f += sign * b.f;
        return true;
    }
    struct fhist *h;
    if (!add_noted(env_of(x), x->r->window_mem, range_pos(x->r), a->h, b.h, sign, &h))
        return false;
    a->h = h;
    return true;
}

static bool scale(const struct ext *x, struct value *a, double by, bool divide)
{
    if (!a->h) {
        a->f = divide ? a->f / by : a->f * by;
        return true;
    }
    a->h = divide ? fhist_div(a->h, by, x->r->window_mem) : fhist_scale(a->h, by, x->r->window_mem);
    return a->h || env_memory_error(env_of(x));
}

bool interpolate(struct env *env, struct arena *mem, int32_t pos, struct value p, struct value n, double share, bool counter, struct value *ret)
{
    if (!p.h) {
        ret->h = NULL;
        ret->f = counter && n.f < p.f ? n.f * share : p.f + (n.f - p.f) * share;
        return true;
    }
    struct fhist *h = NULL, *sum = NULL;
    bool reset = counter && fhist_is_reset(n.h, p.h, mem);
    if (!reset && !add_noted(env, mem, pos, n.h, p.h, -1, &h))
        return false;
    if (!(h = fhist_scale(reset ? n.h : h, share, mem)))
        return env_memory_error(env);
    if (!reset && !add_noted(env, mem, pos, p.h, h, 1, &sum))
        return false;
    ret->f = 0;
    ret->h = reset ? h : sum;
    return true;
}

static double float_between(const struct samples *in, size_t i, int64_t t)
{
    double y1 = in->v[i], y2 = in->v[i + 1];
    return y1 + (y2 - y1) * (double)(t - in->t[i]) / (double)(in->t[i + 1] - in->t[i]);
}

bool extend_floats(struct env *env, struct arena *mem, const struct samples *in, int64_t start, int64_t end, bool smoothed, struct samples *ret)
{
    size_t first = 0, last = in->n ? in->n - 1 : 0;
    while (first < last && in->t[first] <= start)
        first++;
    first -= first > 0;
    if (smoothed)
        for (last = 0; last + 1 < in->n && in->t[last] < end;)
            last++;
    if (in->n == 0 || in->t[last] <= start) {
        *ret = (struct samples){0};
        return true;
    }
    int64_t *t = env_alloc(env, mem, (in->n + 2) * sizeof(*t));
    double *v = env_alloc(env, mem, (in->n + 2) * sizeof(*v));
    if (!t || !v)
        return false;
    size_t n = 0;
    t[n] = start;
    v[n++] = smoothed && in->t[first] < start ? float_between(in, first, start) : in->v[first];
    for (size_t i = first; i <= last; i++)
        if (in->t[i] > start && in->t[i] < end) {
            t[n] = in->t[i];
            v[n++] = in->v[i];
        }
    t[n] = end;
    v[n++] = smoothed && last > 0 && in->t[last] > end ? float_between(in, last - 1, end) : in->v[last];
    *ret = (struct samples){.n = n, .t = t, .v = v};
    return true;
}

/* The value at time t between samples i and i + 1. */
static bool value_between(const struct ext *x, size_t i, int64_t t, struct value *ret)
{
    const int64_t *ts = x->in->t;
    double share = (double)(t - ts[i]) / (double)(ts[i + 1] - ts[i]);
    return interpolate(env_of(x), x->r->window_mem, range_pos(x->r), value_at(x, i), value_at(x, i + 1), share, x->r->counter, ret);
}

/* Can samples [from, to) be computed with? Warns when not. */
static bool check_samples(const struct ext *x, size_t from, size_t to)
{
    const struct samples *in = x->in;
    struct env *env = env_of(x);
    int32_t pos = range_pos(x->r);
    if (!in->h)
        return true;
    for (size_t i = from + 1; i < to; i++) {
        if (!in->h[i] != !in->h[from]) {
            WARN(env, pos, "encountered a mix of histograms and floats for metric name %s", quoted(env, x->name));
            return false;
        }
        if (in->h[i] && fhist_is_custom(in->h[i]) != fhist_is_custom(in->h[from])) {
            WARN(env, pos, "vector contains a mix of histograms with exponential and custom buckets schemas for metric name %s",
                 quoted(env, x->name));
            return false;
        }
    }
    if (!in->h[from])
        return true;
    bool gauges = in->h[from]->hint == HISTOGRAM_HINT_GAUGE && in->h[to - 1]->hint == HISTOGRAM_HINT_GAUGE;
    if (!x->r->counter && !gauges)
        WARN(env, pos, "this native histogram metric is not a gauge: %s", quoted(env, x->name));
    for (size_t i = from; x->r->counter && i < to; i++)
        if (in->h[i]->hint == HISTOGRAM_HINT_GAUGE)
            WARN(env, pos, "this native histogram metric is not a counter: %s", quoted(env, x->name));
    return true;
}

static bool put(const struct ext *x, struct value v)
{
    struct range_op *r = x->r;
    if (r->fn == PROMQL_FN_RATE && !scale(x, &v, (double)r->range_ms / 1e3, true))
        return false;
    if (v.h) {
        if (!column_need_hists(r->op.env, r->out, r->out->n - 1, &r->op.grid))
            return false;
        struct fhist *copy = fhist_dup(v.h, r->out->mem);
        if (!copy)
            return env_memory_error(r->op.env);
        copy->hint = HISTOGRAM_HINT_GAUGE;
        x->out->h[x->step] = copy;
    }
    x->out->v[x->step] = v.f;
    bit_set(x->out->present, x->step);
    return true;
}

/* What was counted before resets: a sum of its own, since which bounds have to be reconciled depends on the order. */
struct correction {
    struct value sum;
    bool any;
};

static bool correct(const struct ext *x, struct correction *c, struct value v)
{
    if (c->any)
        return add(x, &c->sum, v, 1);
    *c = (struct correction){v, true};
    return true;
}

/*
 * right - left, and what was counted before each reset from sample `first` to sample hi - 1, prev being the value before `first`; and before one
 * after that, where reset_at_end says so.
 */
static bool put_increase(const struct ext *x, struct value left, struct value right, struct value prev, size_t first, bool reset_at_end)
{
    struct value sum = right;
    struct correction c = {0};
    if (!add(x, &sum, left, -1))
        return false;
    for (size_t i = first; x->r->counter && i < x->hi; i++) {
        struct value cur = value_at(x, i);
        if (is_reset(x, cur, prev) && !correct(x, &c, prev))
            return false;
        prev = cur;
    }
    if (reset_at_end && !correct(x, &c, value_at(x, x->hi - 1)))
        return false;
    return (!c.any || add(x, &sum, c.sum, 1)) && put(x, sum);
}

static bool eval_anchored(const struct ext *x)
{
    size_t from = x->prev ? x->lo - 1 : x->lo;
    if (x->lo == x->hi)
        return true;
    if (x->r->fn == PROMQL_FN_CHANGES || x->r->fn == PROMQL_FN_RESETS) {
        double n = 0;
        for (size_t i = from + 1; i < x->hi; i++) {
            struct value a = value_at(x, i - 1), b = value_at(x, i);
            if (!a.h != !b.h)
                n++;
            else if (x->r->fn == PROMQL_FN_RESETS)
                n += start_is_reset(x->in->t, x->in->start_t, i) || is_reset(x, b, a);
            else
                n += a.h ? !fhist_eq(a.h, b.h) : a.f != b.f && !(isnan(a.f) && isnan(b.f));
        }
        return put(x, (struct value){.f = n});
    }
    if (!check_samples(x, from, x->hi))
        return true;
    struct value left = value_at(x, from);
    return put_increase(x, left, value_at(x, x->hi - 1), left, from + 1, false);
}

/*
 * Of floats each value counts against the one before, the interpolated ones at the ends too: with negative values a reset can be seen there once more, and
 * Prometheus counts it.
 */
static bool put_smoothed_floats(const struct ext *x, double left, double right)
{
    double sum = right - left, prev = left;
    for (size_t i = x->lo; x->r->counter && i < x->hi; i++) {
        double cur = x->in->v[i];
        sum += cur < prev ? prev : 0;
        prev = cur;
    }
    return put(x, (struct value){.f = sum + (x->r->counter && right < prev ? prev : 0)});
}

static bool eval_smoothed(const struct ext *x)
{
    const int64_t *t = x->in->t;
    if (x->lo == x->hi && !(x->prev && x->next))
        return true;
    bool right_between = x->next && (x->lo == x->hi || t[x->hi - 1] != x->end);
    size_t from = x->prev ? x->lo - 1 : x->lo;
    if (!check_samples(x, from, right_between ? x->hi + 1 : x->hi))
        return true;
    struct value left = value_at(x, from), right;
    size_t first = from + 1; /* the first sample whose reset against the one before counts */
    if (x->prev && t[from] != x->start) {
        if (!value_between(x, from, x->start, &left))
            return false;
        first++; /* a reset before sample lo is in the interpolated value already */
    }
    if (right_between) {
        if (!value_between(x, x->hi - 1, x->end, &right))
            return false;
    } else {
        right = value_at(x, x->hi - 1);
    }
    if (!left.h)
        return put_smoothed_floats(x, left.f, right.f);
    struct value prev = first > from + 1 ? value_at(x, MIN(x->lo, x->in->n - 1)) : left;
    bool reset_at_end = right_between && x->r->counter && x->hi > from && !(first > from + 1 && x->lo == x->hi) &&
                        is_reset(x, value_at(x, x->hi), value_at(x, x->hi - 1));
    return put_increase(x, left, right, prev, first, reset_at_end);
}

/* Are there floats and histograms in the range or in the lookback beside it? Rates then have no result, whatever of it they would look at. */
static bool is_mixed(const struct ext *x, int64_t lookback)
{
    const struct samples *in = x->in;
    size_t floats = 0, hists = 0;
    for (size_t i = x->hi; i-- > 0 && in->t[i] > x->start - lookback;) {
        floats += !in->h[i];
        hists += in->h[i] != NULL;
    }
    for (size_t i = x->hi; x->r->smoothed && i < in->n && in->t[i] <= x->end + lookback; i++) {
        floats += !in->h[i];
        hists += in->h[i] != NULL;
    }
    return floats && hists;
}

bool sweep_extended(struct range_op *r, const struct samples *in, struct column *out)
{
    struct ext x = {.r = r, .in = in, .out = out, .name = metric_name(out->labels)};
    const struct grid *g = &r->op.grid;
    int64_t lookback = r->op.env->lookback_ms;
    bool counts = r->fn == PROMQL_FN_CHANGES || r->fn == PROMQL_FN_RESETS;
    for (x.step = 0; x.step < g->n; x.step++) {
        x.end = time_shift_apply(&r->shift, grid_t(g, x.step));
        x.start = x.end - r->range_ms;
        while (x.hi < in->n && in->t[x.hi] <= x.end)
            x.hi++;
        while (x.lo < x.hi && in->t[x.lo] <= x.start)
            x.lo++;
        x.prev = x.lo > 0 && in->t[x.lo - 1] > x.start - lookback;
        x.next = x.hi < in->n && in->t[x.hi] <= x.end + lookback;
        arena_clear(r->window_mem);
        if (!env_work(r->op.env, (x.hi - x.lo) * (in->h ? 64 : 1)))
            return false;
        if (!counts && in->h && is_mixed(&x, lookback)) {
            WARN(r->op.env, range_pos(r), "encountered a mix of histograms and floats for metric name %s", quoted(r->op.env, x.name));
            continue;
        }
        if (!(r->smoothed ? eval_smoothed(&x) : eval_anchored(&x)))
            return false;
    }
    return true;
}

/* The functions that know what to do with the modifiers, alphabetically. */
bool check_extended(struct range_op *r)
{
    bool rate = r->fn == PROMQL_FN_RATE || r->fn == PROMQL_FN_INCREASE || r->fn == PROMQL_FN_DELTA;
    bool count = r->fn == PROMQL_FN_CHANGES || r->fn == PROMQL_FN_RESETS;
    if (r->smoothed && !rate)
        return env_fail(r->op.env, ERR_EXECUTION, "smoothed modifier can only be used with: delta, increase, rate - not with %s",
                        r->call->call.fn->name);
    if (r->anchored && !rate && !count)
        return env_fail(r->op.env, ERR_EXECUTION,
                        "anchored modifier can only be used with: changes, delta, increase, rate, resets - not with %s", r->call->call.fn->name);
    return true;
}
