/*
 * Functions of range vectors.
 *
 * A series (decoded chunks, or a subquery's column) becomes two arrays, times and values, without stale markers. One sweep then
 * computes all steps: the window (t - range, t] of step i is [lo, hi) in the arrays, and both indexes only move forward. Floats are swept
 * in eval_range_float.c, series with native histograms in eval_range_hist.c, extended range selectors in eval_range_ext.c.
 */
#include "read/promql/eval_range_int.h"

#define SUBQUERY_MAX_STEPS ((size_t)1 << 26)

#include <string.h>

/* --- where the samples come from ---------------------------------------------------------------------------------------------------- */

bool subquery_grid(struct env *env, const struct node *n, const struct grid *g, struct grid *ret)
{
    int64_t step = n->subquery.step_ms ? n->subquery.step_ms : env->cfg->default_evaluation_interval_ms;
    struct time_shift s = time_shift_of(env, n->subquery.at, n->subquery.at_ms, n->subquery.offset_ms);
    int64_t left = time_shift_apply(&s, g->start_ms) - sane_ms(n->subquery.range_ms);
    int64_t end = time_shift_apply(&s, grid_end(g));
    step = step > 0 ? sane_ms(step) : 1;
    int64_t start = step * (left / step);
    if (start <= left)
        start += step;
    *ret = (struct grid){start, step, end >= start ? (size_t)((end - start) / step) + 1 : 0};
    env->over_time = start != end;
    /* One series would be more than fits: say so before anything is allocated. */
    return ret->n <= SUBQUERY_MAX_STEPS || env_too_many_samples(env);
}

/* What the store may know of the windows. */
static bool open_selector(struct range_op *r, int64_t first, int64_t last, int64_t min_t, int64_t max_t)
{
    struct env *env = r->op.env;
    bool plain = !r->anchored && !r->smoothed && !r->start_times && env->query->max_source_resolution_ms > 0;
    struct select_hints windows = {.range_ms = r->range_ms,
                                   .first_ms = first,
                                   .last_ms = last,
                                   .step_ms = r->shift.fixed || r->op.grid.n == 1 ? 0 : r->op.grid.step_ms,
                                   .max_resolution_ms = env->query->max_source_resolution_ms,
                                   .before_ms = INT64_MAX};
    return reader_open(&r->reader, env, &r->selector->selector, r->labels, min_t, max_t, plain ? downsampled_use_of(r->fn) : NULL, &windows);
}

static bool source_open(struct range_op *r)
{
    struct env *env = r->op.env;
    int64_t first = time_shift_apply(&r->shift, r->op.grid.start_ms), last = time_shift_apply(&r->shift, grid_end(&r->op.grid));
    r->opened = true;
    r->out = batch_new(env, batch_cap_for(&r->op.grid));
    r->window_mem = env_arena(env);
    r->series_mem = env_arena(env);
    if (!r->out || !r->window_mem || !r->series_mem)
        return false;
    int64_t before = r->anchored || r->smoothed ? env->lookback_ms : 0, after = r->smoothed ? env->lookback_ms : 0;
    if (r->selector)
        return open_selector(r, first, last, first - before - r->range_ms + 1, last + after);
    if (!r->child)
        return true;
    size_t n = r->child->grid.n;
    r->t = env_alloc(env, env->root, n * sizeof(*r->t));
    r->v = r->t ? env_alloc(env, env->root, n * sizeof(*r->v)) : NULL;
    r->h = r->v ? env_zalloc(env, env->root, n, sizeof(*r->h)) : NULL;
    return r->h != NULL;
}

/* The steps of a subquery skip samples: what chunks say about counter resets between neighbours no longer holds. */
static const struct fhist *without_hint(struct range_op *r, const struct fhist *h)
{
    if (h->hint != HISTOGRAM_HINT_RESET && h->hint != HISTOGRAM_HINT_NOT_RESET)
        return h;
    struct fhist *copy = fhist_copy(h, r->series_mem);
    if (copy)
        copy->hint = HISTOGRAM_HINT_UNKNOWN;
    return copy;
}

static bool samples_of_column(struct range_op *r, const struct column *c, struct samples *ret)
{
    const struct grid *g = &r->child->grid;
    size_t n = 0;
    bool hists = false;
    arena_clear(r->series_mem);
    FOR_PRESENT (i, c, g) {
        r->t[n] = grid_t(g, i);
        r->v[n] = c->v[i];
        r->h[n] = NULL;
        if (column_is_hist(c, i)) {
            if (!(r->h[n] = without_hint(r, c->h[i])))
                return env_memory_error(r->op.env);
            hists = true;
        }
        n++;
    }
    *ret = (struct samples){.n = n, .t = r->t, .v = r->v, .h = hists ? r->h : NULL};
    return true;
}

/* Floats, and histograms of the same series, of which some have one time. */
static bool samples_of_pair(struct range_op *r, const struct column *floats, const struct column *hists, struct samples *ret)
{
    struct env *env = r->op.env;
    const struct grid *g = &r->child->grid;
    size_t n = 0;
    arena_clear(r->series_mem);
    int64_t *t = env_alloc(env, r->series_mem, 2 * g->n * sizeof(*t));
    double *v = t ? env_alloc(env, r->series_mem, 2 * g->n * sizeof(*v)) : NULL;
    const struct fhist **h = v ? env_zalloc(env, r->series_mem, 2 * g->n, sizeof(*h)) : NULL;
    if (!h)
        return false;
    for (size_t i = 0; i < g->n; i++) {
        if (bit_get(floats->present, i)) {
            t[n] = grid_t(g, i);
            v[n++] = floats->v[i];
        }
        if (!bit_get(hists->present, i))
            continue;
        t[n] = grid_t(g, i);
        v[n] = 0;
        if (!(h[n++] = without_hint(r, hists->h[i])))
            return env_memory_error(env);
    }
    *ret = (struct samples){.n = n, .t = t, .v = v, .h = h};
    return true;
}

static bool samples_of_series(struct range_op *r, const struct series *s, struct samples *ret)
{
    if (!reader_decode(&r->reader, s, r->series_mem, ret))
        return false;
    strip_stale(&r->reader, ret);
    if (r->start_times && !reader_start_times(&r->reader, s, ret))
        return false;
    if (r->stats)
        mark_resets(ret, r->window_mem);
    return true;
}

/* false in *ret_more: no more series. Histograms of the samples live until the next call. */
static bool source_next(struct range_op *r, struct column *ret_id, struct samples *ret, bool *ret_more)
{
    *ret_more = true;
    if (r->selector) {
        const struct series *s;
        arena_clear(r->series_mem);
        if (!reader_next(&r->reader, r->out->mem, r->out->cap - r->out->n, &s))
            return false;
        if (!(*ret_more = s != NULL))
            return true;
        *ret_id = (struct column){.labels = s->labels};
        return samples_of_series(r, s, ret);
    }
    if (!r->child) {
        *ret_more = false;
        return true;
    }
    if (!r->in || r->in_i == r->in->n) {
        if (!op_next(r->child, &r->in))
            return false;
        r->in_i = 0;
        if (!r->in || r->in->n == 0) {
            *ret_more = false;
            return true;
        }
    }
    const struct column *c = &r->in->cols[r->in_i++];
    *ret_id = (struct column){.labels = c->labels, .drop_name = c->drop_name};
    bool pair = r->op.env->any_pair && r->in_i < r->in->n && labels_eq(c->labels, r->in->cols[r->in_i].labels);
    return pair ? samples_of_pair(r, c, &r->in->cols[r->in_i++], ret) : samples_of_column(r, c, ret);
}

/* --- the operator -------------------------------------------------------------------------------------------------------------------------- */

/* For each index the next sample that is below the one before it; n and n + 1 stop a loop. NULL when there is no such sample. */
static bool find_resets(struct range_op *r, const struct samples *in, const uint32_t **ret)
{
    struct env *env = r->op.env;
    *ret = NULL;
    if (!in->start_t && !floats_ever_fall(in->v, in->n))
        return true;
    if (in->n + 2 > r->resets_cap) {
        r->resets_cap = (in->n + 2) * 2;
        if (!(r->resets = env_alloc(env, env->root, r->resets_cap * sizeof(*r->resets))))
            return false;
    }
    size_t next = in->n;
    r->resets[in->n] = r->resets[in->n + 1] = (uint32_t)in->n;
    for (size_t i = in->n; i-- > 1;) {
        if (in->v[i] < in->v[i - 1] || start_is_reset(in->t, in->start_t, i))
            next = i;
        r->resets[i] = (uint32_t)next;
    }
    *ret = r->resets;
    return true;
}

static bool reserve_slide(struct range_op *r, size_t n)
{
    if (n <= r->slide_cap)
        return true;
    r->slide_cap = n * 2;
    r->slide = env_alloc(r->op.env, r->op.env->root, r->slide_cap * sizeof(struct partial_sum));
    return r->slide != NULL;
}

static bool prepare(struct range_op *r, const struct samples *in, struct sweep *ret)
{
    struct env *env = r->op.env;
    *ret = (struct sweep){.r = r, .t = in->t, .v = in->v, .n = in->n, .start_t = in->start_t};
    if (r->counter && !find_resets(r, in, &ret->next_reset))
        return false;
    if (!reserve_slide(r, in->n))
        return false;
    if ((r->needs_values || in->h) && in->n > r->values_cap) {
        r->values_cap = in->n * 2;
        r->values = env_alloc(env, env->root, r->values_cap * sizeof(double));
        r->float_v = r->values ? env_alloc(env, env->root, r->values_cap * sizeof(double)) : NULL;
        r->float_t = r->float_v ? env_alloc(env, env->root, r->values_cap * sizeof(int64_t)) : NULL;
        return r->float_t != NULL;
    }
    return true;
}

static bool has_counter_suffix(struct slice name)
{
    return slice_has_suffix(name, SL("_total")) || slice_has_suffix(name, SL("_sum")) || slice_has_suffix(name, SL("_count")) ||
           slice_has_suffix(name, SL("_bucket"));
}

static void note_non_counter(struct range_op *r, const struct column *c)
{
    struct slice name = metric_name(c->labels);
    if (name.n == 0 || has_counter_suffix(name) || slice_eq(name, r->noted_name))
        return;
    r->noted_name = name;
    INFO(r->op.env, range_pos(r), "metric might not be a counter, name does not end in _total/_sum/_count/_bucket: %s",
         quoted(r->op.env, name));
}

/* The factors are looked at where a window has samples; NaN passes, as it does upstream. */
static bool check_smoothing(struct range_op *r, const struct samples *in)
{
    const struct grid *g = &r->op.grid;
    for (size_t i = 0, k = 0; i < g->n; i++) {
        int64_t end = time_shift_apply(&r->shift, grid_t(g, i));
        while (k < in->n && in->t[k] <= end)
            k++;
        if (k == 0 || in->t[k - 1] <= end - r->range_ms)
            continue;
        if (r->param[i] <= 0 || r->param[i] >= 1)
            return env_fail(r->op.env, ERR_EXECUTION, "invalid smoothing factor. Expected: 0 < sf < 1, got: %f", r->param[i]);
        if (r->param2[i] <= 0 || r->param2[i] >= 1)
            return env_fail(r->op.env, ERR_EXECUTION, "invalid trend factor. Expected: 0 < tf < 1, got: %f", r->param2[i]);
    }
    return true;
}

/* What the sample at i counts for: a histogram as much as it takes, an aggregate as many samples as it stands for where those are known, else one. */
static uint64_t size_of_sample(const struct samples *in, size_t i)
{
    if (in->counted)
        return (uint64_t)(in->counted[i] - (i ? in->counted[i - 1] : 0));
    return in->h && in->h[i] ? fhist_size(in->h[i]) : 1;
}

/* Counts the samples of each window, and of them those that the window before did not have: it ended where this one's new ones begin. */
static inline __attribute__((always_inline)) void count_each_window(const struct range_op *r, const struct samples *in, bool ones)
{
    const struct grid *g = &r->op.grid;
    const int64_t *t = in->counted ? in->count_t : in->t;
    int64_t lookback = r->op.env->lookback_ms, more = r->anchored || r->smoothed ? lookback : 0, later = r->smoothed ? lookback : 0;
    size_t n = in->counted ? in->n_counts : in->n, lo = 0, hi = 0;
    uint64_t seen = 0;
    for (size_t i = 0; i < g->n; i++) {
        int64_t at = time_shift_apply(&r->shift, grid_t(g, i)), start = at - r->range_ms - more, end = at + later;
        size_t old = hi;
        uint64_t added = 0;
        for (; hi < n && t[hi] <= end; hi++)
            added += ones ? 1 : size_of_sample(in, hi);
        seen += added;
        for (; lo < hi && t[lo] <= start; lo++)
            seen -= ones ? 1 : size_of_sample(in, lo);
        tally_add(&r->op.count, i, seen, !r->selector ? 0 : lo <= old ? added : seen);
    }
}

static void count_windows(const struct range_op *r, const struct samples *in)
{
    if (in->h || in->counted)
        count_each_window(r, in, false);
    else
        count_each_window(r, in, true);
}

static bool range_series(struct range_op *r, const struct column *id, const struct samples *in)
{
    const struct grid *g = &r->op.grid;
    if (r->op.count.tally)
        count_windows(r, in);
    struct column *c = batch_slot(r->op.env, r->out, g);
    if (!c)
        return false;
    c->labels = id->labels;
    c->drop_name = id->drop_name;
    struct sweep s;
    if (!prepare(r, in, &s) || (r->param2 && !check_smoothing(r, in)))
        return false;
    if (r->anchored || r->smoothed) {
        if (!sweep_extended(r, in, c))
            return false;
    } else if (!(in->h ? sweep_hists(&s, in, c) : in->counted ? sweep_downsampled(&s, in, c) : sweep_floats(&s, c))) {
        return false;
    }
    if (column_empty(c, g)) {
        r->out->n--;
        return true;
    }
    if (r->fn == PROMQL_FN_RATE || r->fn == PROMQL_FN_INCREASE) {
        bool floats = !c->h;
        if (c->h)
            FOR_PRESENT (i, c, g)
                floats |= !c->h[i];
        if (floats)
            note_non_counter(r, c);
    }
    if (r->fn == PROMQL_FN_LAST_OVER_TIME || r->fn == PROMQL_FN_FIRST_OVER_TIME)
        return true;
    return column_drop_name(r->op.env, r->out->mem, c);
}

static bool range_one(struct op *op, const struct series *s)
{
    struct range_op *r = (struct range_op *)op;
    struct column id = {.labels = s->labels};
    struct samples in;
    arena_clear(r->series_mem);
    return samples_of_series(r, s, &in) && (in.n == 0 || range_series(r, &id, &in)) && ctx_check(op->env->ctx, op->env->err);
}

static struct op *range_copy(const struct op *op, struct env *env, size_t cap, struct batch **ret_out)
{
    const struct range_op *from = (const struct range_op *)op;
    struct range_op *r = (struct range_op *)op_new(env, sizeof(*r), op->ops, &op->grid);
    if (!r)
        return NULL;
    r->call = from->call;
    r->arg = from->arg;
    r->fn = from->fn;
    r->counter = from->counter;
    r->anchored = from->anchored;
    r->smoothed = from->smoothed;
    r->stats = from->stats;
    r->range_ms = from->range_ms;
    r->shift = from->shift;
    r->param = from->param; /* shared, read only */
    r->param2 = from->param2;
    r->selector = from->selector;
    r->needs_values = from->needs_values;
    if (!(r->out = *ret_out = batch_new(env, cap)) || !(r->window_mem = env_arena(env)) || !(r->series_mem = env_arena(env)) ||
        !reader_open_lane(&r->reader, env, from->reader.min_t, from->reader.max_t))
        return NULL;
    r->reader.use = from->reader.use;
    r->reader.downsampled = from->reader.downsampled;
    return &r->op;
}

static const struct lane_ops range_lanes = {.copy = range_copy, .one = range_one};

static bool range_next(struct op *op, struct batch **ret)
{
    struct range_op *r = (struct range_op *)op;
    if (!r->opened && !source_open(r))
        return false;
    if (!batch_begin(op->env, r->out))
        return false;
    if (!r->run && r->selector && !r->start_times && run_wanted(op, &r->reader) && !(r->run = run_new(op, &r->reader, &range_lanes)))
        return false;
    if (r->run)
        return run_next(r->run, ret);
    while (r->out->n < r->out->cap) {
        struct column id;
        struct samples in;
        bool more;
        /* Labels of what is in our batch may lie in the child's: no new child batch before ours is handed out. */
        if (r->child && r->out->n && r->in && r->in_i == r->in->n)
            break;
        if (!source_next(r, &id, &in, &more))
            return false;
        if (!more)
            break;
        if (in.n && !range_series(r, &id, &in))
            return false;
        if (op->env->ctx->deadline_ms || op->env->ctx->canceled)
            if (!ctx_check(op->env->ctx, op->env->err))
                return false;
    }
    *ret = r->out;
    return true;
}

static void range_end(struct op *op)
{
    struct range_op *r = (struct range_op *)op;
    run_end(r->run);
    r->run = NULL;
    batch_end(op->env, r->out);
    env_arena_end(op->env, r->series_mem);
    env_arena_end(op->env, r->window_mem);
    if (r->selector)
        reader_end(&r->reader);
}

static const struct op_ops range_ops = {.next = range_next, .end = range_end};

static bool plan_source(struct range_op *r)
{
    struct env *env = r->op.env;
    const struct node *n = r->arg;
    if (n->kind == NODE_MATRIX_SELECTOR) {
        const struct node *sel = unwrap(n->matrix.selector);
        r->selector = is_nothing(sel) ? NULL : sel;
        r->labels = projection_of(env, sel);
        r->anchored = sel->selector.anchored;
        r->smoothed = sel->selector.smoothed;
        r->stats = env->hist_stats && !env->hist_buckets;
        r->start_times = env->query->start_times && (r->counter || r->fn == PROMQL_FN_IRATE || r->fn == PROMQL_FN_RESETS);
        if (!check_extended(r))
            return false;
        r->range_ms = sane_ms(n->matrix.range_ms);
        r->shift = time_shift_of(env, sel->selector.at, sel->selector.at_ms, sel->selector.offset_ms);
        r->source_unique = selector_is_unique(sel);
        return true;
    }
    if (n->kind != NODE_SUBQUERY)
        return env_fail(env, ERR_EXECUTION, "expected a range vector");
    r->range_ms = sane_ms(n->subquery.range_ms);
    r->shift = time_shift_of(env, n->subquery.at, n->subquery.at_ms, n->subquery.offset_ms);
    struct grid inner;
    bool over_time = env->over_time;
    if (!subquery_grid(env, n, &r->op.grid, &inner))
        return false;
    r->source_unique = true;
    bool buckets = env->hist_buckets, straight = env->straight;
    env->hist_buckets = true; /* resets are looked for anew, in the buckets */
    env->straight = true;
    struct count_as outer = env->count;
    struct tally *tally = NULL;
    if (inner.n && tally_begin(env, inner.n, &outer)) {
        tally = env->count.tally;
        r->child = plan_vector(env, n->subquery.expr, &inner);
    }
    env->count = outer;
    env->straight = straight;
    env->hist_buckets = buckets;
    env->over_time = over_time;
    if (inner.n == 0)
        return true;
    if (!r->child || !tally_fold_subquery(env, tally, &inner, &r->op.grid, sane_ms(n->subquery.offset_ms), r->range_ms))
        return false;
    r->source_unique = r->child->unique;
    return true;
}

static bool plan_params(struct range_op *r)
{
    struct env *env = r->op.env;
    struct node **args = r->call->call.args;
    const struct grid *g = &r->op.grid;
    switch (r->fn) {
    case PROMQL_FN_QUANTILE_OVER_TIME:
        return eval_scalar(env, args[0], g, &r->param);
    case PROMQL_FN_PREDICT_LINEAR:
        return eval_scalar(env, args[1], g, &r->param);
    case PROMQL_FN_DOUBLE_EXPONENTIAL_SMOOTHING:
        return eval_scalar(env, args[1], g, &r->param) && eval_scalar(env, args[2], g, &r->param2);
    default:
        return true;
    }
}

struct range_op *range_op_new(struct env *env, const struct node *call, const struct grid *g)
{
    struct range_op *r = (struct range_op *)op_new(env, sizeof(*r), &range_ops, g);
    if (!r)
        return NULL;
    r->call = call;
    r->fn = call->call.fn->id;
    r->arg = unwrap(call->call.args[r->fn == PROMQL_FN_QUANTILE_OVER_TIME ? 1 : 0]);
    r->counter = r->fn == PROMQL_FN_RATE || r->fn == PROMQL_FN_INCREASE;
    r->needs_values = r->fn == PROMQL_FN_QUANTILE_OVER_TIME || r->fn == PROMQL_FN_MAD_OVER_TIME;
    if (!plan_source(r) || !plan_params(r))
        return NULL;
    r->op.unique = r->source_unique;
    return r;
}

struct op *plan_range_call(struct env *env, const struct node *call, const struct grid *g)
{
    struct range_op *r = range_op_new(env, call, g);
    if (!r || r->fn == PROMQL_FN_LAST_OVER_TIME || r->fn == PROMQL_FN_FIRST_OVER_TIME)
        return (struct op *)r;
    return op_merge_names(&r->op, MERGE_TURNS);
}

/* --- absent_over_time ------------------------------------------------------------------------------------------------------------------------ */

struct absent_range_op {
    struct op op;
    struct range_op *source;
    struct op *out;
};

static bool absent_range_run(struct absent_range_op *a, struct column *c)
{
    struct range_op *r = a->source;
    const struct grid *g = &a->op.grid;
    if (!source_open(r))
        return false;
    for (size_t i = 0; i < g->n; i++) {
        bit_set(c->present, i);
        c->v[i] = 1;
    }
    for (;;) {
        struct column id;
        struct samples in;
        bool more;
        if (r->selector && reader_is_empty(&r->reader))
            arena_rewind(r->out->mem);
        if (!source_next(r, &id, &in, &more))
            return false;
        if (!more)
            return true;
        if (r->op.count.tally)
            count_windows(r, &in);
        for (size_t i = 0, k = 0; i < g->n; i++) {
            int64_t end = time_shift_apply(&r->shift, grid_t(g, i));
            while (k < in.n && in.t[k] <= end)
                k++;
            if (k && in.t[k - 1] > end - r->range_ms)
                bit_clear(c->present, i);
        }
    }
}

static bool absent_range_next(struct op *op, struct batch **ret)
{
    struct absent_range_op *a = (struct absent_range_op *)op;
    if (!a->out) {
        struct columns cs = {0};
        struct column *c;
        if (!columns_push(op->env, &cs, &c) || !column_alloc(op->env, op->env->root, &op->grid, false, c) ||
            !absent_labels(op->env, a->source->arg, &c->labels) || !absent_range_run(a, c))
            return false;
        if (column_empty(c, &op->grid))
            cs.n = 0;
        if (!(a->out = op_columns(op->env, &op->grid, cs)))
            return false;
    }
    return op_next(a->out, ret);
}

static const struct op_ops absent_range_ops = {.next = absent_range_next};

struct op *plan_absent_over_time(struct env *env, const struct node *call, const struct grid *g)
{
    struct absent_range_op *a = (struct absent_range_op *)op_new(env, sizeof(*a), &absent_range_ops, g);
    if (!a || !(a->source = range_op_new(env, call, g)))
        return NULL;
    a->op.unique = true;
    return &a->op;
}
