/* Range functions over series with native histograms, alone or mixed with floats: one window at a time, no kernels inlined. */
#include "base/buf.h"
#include "base/dtoa.h"
#include "read/promql/eval_range_int.h"

struct window {
    struct range_op *r;
    const struct samples *in;
    struct sweep floats; /* the same samples, for windows that turn out to have floats only */
    size_t lo, hi, step;
    size_t n_floats, n_hists;
    struct column *out;
    struct slice name; /* of the series, for messages */
};

static struct env *env_of(const struct window *w)
{
    return w->r->op.env;
}
static int32_t arg_pos(const struct window *w)
{
    return range_pos(w->r);
}

void warn_quantile(struct env *env, double q, int32_t pos)
{
    struct buf b;
    buf_init(&b, 64);
    char text[DTOA_MAX];
    buf_put(&b, text, dtoa_g(q, text));
    WARN(env, pos, "quantile value should be between 0 and 1, got %s", buf_cstr(&b));
    buf_release(&b);
}

static void warn_mixed(const struct window *w)
{
    WARN(env_of(w), arg_pos(w), "encountered a mix of histograms and floats for metric name %s", quoted(env_of(w), w->name));
}

static void warn_schemas(const struct window *w)
{
    WARN(env_of(w), arg_pos(w), "vector contains a mix of histograms with exponential and custom buckets schemas for metric name %s",
         quoted(env_of(w), w->name));
}

static void warn_not_counter(const struct window *w)
{
    WARN(env_of(w), arg_pos(w), "this native histogram metric is not a counter: %s", quoted(env_of(w), w->name));
}

static void warn_not_gauge(const struct window *w)
{
    WARN(env_of(w), arg_pos(w), "this native histogram metric is not a gauge: %s", quoted(env_of(w), w->name));
}

static void note_bounds(const struct window *w, const char *operation)
{
    INFO(env_of(w), arg_pos(w), "mismatched custom buckets were reconciled during %s", operation);
}

static bool put_float(struct window *w, double v)
{
    w->out->v[w->step] = v;
    bit_set(w->out->present, w->step);
    return true;
}

/* h may lie in memory that goes with the window or the series. */
static bool put_hist(struct window *w, const struct fhist *h)
{
    struct range_op *r = w->r;
    if (!h || !column_need_hists(r->op.env, r->out, r->out->n - 1, &r->op.grid))
        return h ? false : env_memory_error(r->op.env);
    if (!(w->out->h[w->step] = fhist_dup(h, r->out->mem)))
        return env_memory_error(r->op.env);
    bit_set(w->out->present, w->step);
    return true;
}

/* 1: added into *h; 0: incompatible, a warning is noted; -1: out of memory. */
static int add_into(struct window *w, struct fhist **h, const struct fhist *r, double sign)
{
    unsigned notes = 0;
    enum fhist_status st = fhist_add(*h, r, sign, w->r->window_mem, h, &notes);
    if (st == FHIST_NO_MEMORY) {
        env_memory_error(env_of(w));
        return -1;
    }
    if (st == FHIST_INCOMPATIBLE) {
        warn_schemas(w);
        return 0;
    }
    if (notes & FHIST_MISMATCHED_BOUNDS)
        note_bounds(w, sign < 0 ? "subtraction" : "addition");
    return 1;
}

/* --- rate, increase, delta ---------------------------------------------------------------------------------------------------------- */

/* Are all histograms of the window fit to be subtracted from each other? Warns when not. */
static bool check_window(struct window *w, const struct fhist *first)
{
    const struct fhist *const *h = w->in->h;
    const struct fhist *last = h[w->hi - 1];
    bool custom = fhist_is_custom(first);
    if (fhist_is_custom(last) != custom) {
        warn_schemas(w);
        return false;
    }
    if (!w->r->counter)
        return true;
    for (size_t i = w->lo + 1; i + 1 < w->hi; i++) {
        if (h[i]->hint == HISTOGRAM_HINT_GAUGE)
            warn_not_counter(w);
        if (fhist_is_custom(h[i]) != custom) {
            warn_schemas(w);
            return false;
        }
    }
    return true;
}

/* The increase over the window. 1, 0 for no result, -1 for an error. */
static int hist_delta(struct window *w, struct fhist **ret)
{
    const struct fhist *const *h = w->in->h;
    struct arena *a = w->r->window_mem;
    const struct fhist *first = h[w->lo], *last = h[w->hi - 1];
    bool counter = w->r->counter;
    if (counter && (first->hint == HISTOGRAM_HINT_GAUGE || last->hint == HISTOGRAM_HINT_GAUGE))
        warn_not_counter(w);
    if (!counter && (first->hint != HISTOGRAM_HINT_GAUGE || last->hint != HISTOGRAM_HINT_GAUGE))
        warn_not_gauge(w);
    struct fhist zero;
    const int64_t *t = w->in->t, *start_t = w->in->start_t;
    if (counter && (start_is_reset(t, start_t, w->lo + 1) || fhist_is_reset(h[w->lo + 1], first, a))) {
        /* The first sample is on the far side of a reset: its buckets do not matter, nor their layout. */
        const struct fhist *second = h[w->lo + 1];
        zero = (struct fhist){.schema = second->schema, .zero_threshold = second->zero_threshold, .custom = second->custom,
                              .n_custom = second->n_custom};
        first = &zero;
    }
    if (!check_window(w, first))
        return 0;
    struct fhist *sum = fhist_copy(last, a);
    if (!sum) {
        env_memory_error(env_of(w));
        return -1;
    }
    int ok = add_into(w, &sum, first, -1);
    const struct fhist *prev = first;
    for (size_t i = w->lo + 1; counter && ok == 1 && i < w->hi; i++) {
        if (start_is_reset(t, start_t, i) || fhist_is_reset(h[i], prev, a))
            ok = add_into(w, &sum, prev, 1);
        prev = h[i];
    }
    if (ok == 1 && counter && start_t)
        note_overlap(&w->floats, w->lo, w->hi);
    if (ok == 1)
        sum->hint = HISTOGRAM_HINT_GAUGE;
    *ret = sum;
    return ok;
}

/* The window's first sample counts from zero: it is added to what the others, if there are any, have made of it. */
static bool window_rate_started(struct window *w, struct fhist *delta)
{
    const struct fhist *first = w->in->h[w->lo];
    struct arena *a = w->r->window_mem;
    int ok = 1;
    if (delta)
        ok = add_into(w, &delta, first, 1);
    else if (!(delta = fhist_copy(first, a)))
        return env_memory_error(env_of(w));
    if (ok <= 0)
        return ok == 0;
    return put_hist(w, fhist_scale(delta, start_factor(&w->floats, w->lo, w->hi - w->lo, w->step), a));
}

static bool window_rate(struct window *w)
{
    struct range_op *r = w->r;
    if (w->n_floats && w->n_hists) {
        warn_mixed(w);
        return true;
    }
    bool started = starts_in_window(&w->floats, w->lo, w->step);
    if (w->n_hists < 2)
        return started ? window_rate_started(w, NULL) : true;
    struct fhist *delta = NULL;
    int ok = hist_delta(w, &delta);
    if (ok <= 0)
        return ok == 0;
    if (started)
        return window_rate_started(w, delta);
    int64_t end = time_shift_apply(&r->shift, grid_t(&r->op.grid, w->step));
    struct rate_window rw = {.start_t = end - r->range_ms, .end_t = end, .first_t = w->in->t[w->lo], .last_t = w->in->t[w->hi - 1],
                             .n = w->n_hists, .first = w->in->h[w->lo]->count, .delta = delta->count, .counter = r->counter};
    double factor = rate_factor(&rw);
    if (r->fn == PROMQL_FN_RATE)
        factor /= (double)r->range_ms / 1e3;
    return put_hist(w, fhist_scale(delta, factor, r->window_mem));
}

/* --- irate, idelta -------------------------------------------------------------------------------------------------------------------- */

static bool window_irate(struct window *w)
{
    struct range_op *r = w->r;
    bool rate = r->fn == PROMQL_FN_IRATE;
    if (w->hi - w->lo < 2)
        return true;
    const struct fhist *prev = w->in->h[w->hi - 2], *last = w->in->h[w->hi - 1];
    int64_t interval = w->in->t[w->hi - 1] - w->in->t[w->hi - 2];
    if (!prev && !last) {
        double v;
        return !window_floats(&w->floats, w->lo, w->hi, w->step, &v) || put_float(w, v);
    }
    if (!prev || !last) {
        warn_mixed(w);
        return true;
    }
    if (rate && (last->hint == HISTOGRAM_HINT_GAUGE || prev->hint == HISTOGRAM_HINT_GAUGE))
        warn_not_counter(w);
    if (!rate && (last->hint != HISTOGRAM_HINT_GAUGE || prev->hint != HISTOGRAM_HINT_GAUGE))
        warn_not_gauge(w);
    struct fhist *d = fhist_copy(last, r->window_mem);
    if (!d)
        return env_memory_error(r->op.env);
    bool reset = rate && (start_is_reset(w->in->t, w->in->start_t, w->hi - 1) || fhist_is_reset(last, prev, r->window_mem));
    if (!reset) {
        int ok = add_into(w, &d, prev, -1);
        if (ok <= 0)
            return ok == 0;
    }
    d->hint = HISTOGRAM_HINT_GAUGE;
    return put_hist(w, rate ? fhist_div(d, (double)interval / 1e3, r->window_mem) : d);
}

/* --- sums -------------------------------------------------------------------------------------------------------------------------------- */

static bool window_sum(struct window *w)
{
    struct range_op *r = w->r;
    if (w->n_floats && w->n_hists) {
        warn_mixed(w);
        return true;
    }
    struct hacc acc = {0};
    if (!hacc_init(&acc, r->fn == PROMQL_FN_AVG_OVER_TIME, w->in->h[w->lo], r->window_mem))
        return env_memory_error(r->op.env);
    unsigned notes = 0;
    for (size_t i = w->lo + 1; i < w->hi; i++) {
        enum fhist_status st = hacc_add(&acc, w->in->h[i], r->window_mem, r->window_mem, &notes);
        if (st == FHIST_NO_MEMORY)
            return env_memory_error(r->op.env);
        if (st == FHIST_INCOMPATIBLE) {
            warn_schemas(w);
            return true;
        }
    }
    if (notes & FHIST_MISMATCHED_BOUNDS)
        note_bounds(w, "aggregation");
    if (notes & FHIST_RESET_CONFLICT)
        WARN(r->op.env, arg_pos(w), "conflicting counter resets during histogram aggregation");
    return put_hist(w, hacc_result(&acc, r->window_mem));
}

/* --- changes, resets ------------------------------------------------------------------------------------------------------------------------ */

static bool differs(struct window *w, size_t i)
{
    const struct fhist *a = w->in->h[i - 1], *b = w->in->h[i];
    double x = w->in->v[i - 1], y = w->in->v[i];
    if (!a != !b)
        return true;
    if (w->r->fn == PROMQL_FN_RESETS)
        return start_is_reset(w->in->t, w->in->start_t, i) || (a ? fhist_is_reset(b, a, w->r->window_mem) : y < x);
    return a ? !fhist_eq(a, b) : y != x && !(isnan(x) && isnan(y));
}

static bool window_changes(struct window *w)
{
    size_t n = 0;
    for (size_t i = w->lo + 1; i < w->hi; i++)
        n += differs(w, i);
    return put_float(w, (double)n);
}

/* --- functions that only know floats ------------------------------------------------------------------------------------------------------------ */

static bool window_floats_only(struct window *w)
{
    struct range_op *r = w->r;
    if (w->n_floats == 0)
        return true;
    if (w->n_hists)
        INFO(r->op.env, arg_pos(w), "ignored histograms in a range containing both floats and histograms for metric name %s",
             quoted(r->op.env, w->name));
    size_t n = 0;
    for (size_t i = w->lo; i < w->hi; i++) {
        if (w->in->h[i])
            continue;
        r->float_t[n] = w->in->t[i];
        r->float_v[n++] = w->in->v[i];
    }
    struct sweep s = {.r = r, .t = r->float_t, .v = r->float_v, .n = n};
    double v;
    return !window_floats(&s, 0, n, w->step, &v) || put_float(w, v);
}

static bool window_eval(struct window *w)
{
    const struct samples *in = w->in;
    double v;
    switch (w->r->fn) {
    case PROMQL_FN_COUNT_OVER_TIME:
        return put_float(w, (double)(w->hi - w->lo));
    case PROMQL_FN_PRESENT_OVER_TIME:
        return put_float(w, 1);
    case PROMQL_FN_TS_OF_FIRST_OVER_TIME:
        return put_float(w, (double)in->t[w->lo] / 1e3);
    case PROMQL_FN_TS_OF_LAST_OVER_TIME:
        return put_float(w, (double)in->t[w->hi - 1] / 1e3);
    case PROMQL_FN_FIRST_OVER_TIME:
        return in->h[w->lo] ? put_hist(w, in->h[w->lo]) : put_float(w, in->v[w->lo]);
    case PROMQL_FN_LAST_OVER_TIME:
        return in->h[w->hi - 1] ? put_hist(w, in->h[w->hi - 1]) : put_float(w, in->v[w->hi - 1]);
    case PROMQL_FN_CHANGES:
    case PROMQL_FN_RESETS:
        return window_changes(w);
    case PROMQL_FN_IRATE:
    case PROMQL_FN_IDELTA:
        return window_irate(w);
    case PROMQL_FN_RATE:
    case PROMQL_FN_INCREASE:
    case PROMQL_FN_DELTA:
    case PROMQL_FN_SUM_OVER_TIME:
    case PROMQL_FN_AVG_OVER_TIME:
        if (w->n_hists == 0)
            return !window_floats(&w->floats, w->lo, w->hi, w->step, &v) || put_float(w, v);
        return w->r->fn == PROMQL_FN_SUM_OVER_TIME || w->r->fn == PROMQL_FN_AVG_OVER_TIME ? window_sum(w) : window_rate(w);
    default:
        return window_floats_only(w);
    }
}

bool sweep_hists(const struct sweep *s, const struct samples *in, struct column *out)
{
    struct range_op *r = s->r;
    struct window w = {.r = r, .in = in, .floats = *s, .out = out, .name = metric_name(out->labels)};
    const struct grid *g = &r->op.grid;
    for (w.step = 0; w.step < g->n; w.step++) {
        int64_t end = time_shift_apply(&r->shift, grid_t(g, w.step));
        while (w.hi < in->n && in->t[w.hi] <= end)
            w.n_hists += in->h[w.hi++] != NULL;
        while (w.lo < w.hi && in->t[w.lo] <= end - r->range_ms)
            w.n_hists -= in->h[w.lo++] != NULL;
        w.n_floats = w.hi - w.lo - w.n_hists;
        if (w.lo == w.hi)
            continue;
        arena_clear(r->window_mem);
        if (!env_work(r->op.env, (w.hi - w.lo) * 64) || !window_eval(&w))
            return false;
    }
    return ctx_check(r->op.env->ctx, r->op.env->err);
}
