/*
 * The instant vector selector: it finds each step's sample with one index that only moves forward.
 */
#include "read/promql/crew_int.h"

struct select_op {
    struct op op;
    const struct node *node;
    const struct label_names *labels; /* that are looked at; NULL: all */
    struct time_shift shift;
    enum selected what;
    bool stats; /* see mark_resets */
    struct arena *scratch;
    bool opened;
    struct reader reader;
    struct batch *out;
    struct crew_run *run; /* once there are series enough */
};

static bool select_open(struct select_op *s)
{
    struct env *env = s->op.env;
    int64_t first = time_shift_apply(&s->shift, s->op.grid.start_ms);
    int64_t last = time_shift_apply(&s->shift, grid_end(&s->op.grid));
    s->opened = true;
    if (!(s->out = batch_new(env, batch_cap_for(&s->op.grid))))
        return false;
    if (!(s->scratch = env_arena(env)))
        return false;
    if (s->node->selector.smoothed)
        last += env->lookback_ms;
    /* The lookback window is open on the left. */
    return reader_open(&s->reader, env, &s->node->selector, s->labels, first - env->lookback_ms + 1, last, NULL, NULL);
}

/* A series of floats whose values, not times, are asked for. */
static void select_floats(const struct select_op *s, struct column *c, const struct samples *in)
{
    const struct grid *g = &s->op.grid;
    const int64_t *times = in->t;
    const double *values = in->v;
    double *out = c->v;
    int64_t t = time_shift_apply(&s->shift, g->start_ms), step = s->shift.fixed ? 0 : g->step_ms, lookback = s->op.env->lookback_ms;
    size_t k = 0, n = in->n, steps = g->n;
    for (size_t i = 0; i < steps;) {
        size_t stop = steps - i < 64 ? steps : i + 64;
        uint64_t *word = &c->present[i >> 6], bits = 0;
        for (unsigned b = 0; i < stop; i++, b++, t += step) {
            while (k < n && times[k] <= t)
                k++;
            if (k == 0 || times[k - 1] <= t - lookback)
                continue;
            double v = values[k - 1];
            out[i] = v;
            bits |= (uint64_t)!is_stale_nan(v) << b;
        }
        *word = bits;
    }
}

/* Fills the newest slot of the batch. */
static bool select_series(struct select_op *s, struct column *c, const struct samples *in)
{
    struct env *env = s->op.env;
    const struct grid *g = &s->op.grid;
    size_t k = 0; /* samples up to the step's time */
    if (!in->h && s->what == SELECT_VALUES) {
        select_floats(s, c, in);
        return true;
    }
    for (size_t i = 0; i < g->n; i++) {
        int64_t t = time_shift_apply(&s->shift, grid_t(g, i));
        while (k < in->n && in->t[k] <= t)
            k++;
        if (k == 0 || in->t[k - 1] <= t - env->lookback_ms)
            continue;
        const struct fhist *h = in->h ? in->h[k - 1] : NULL;
        if (h ? h->stale : is_stale_nan(in->v[k - 1]))
            continue;
        bit_set(c->present, i);
        if (s->what != SELECT_VALUES) {
            int64_t ms = s->what == SELECT_TIMES ? in->t[k - 1] : in->start_t ? in->start_t[k - 1] : 0;
            c->v[i] = (double)ms / 1e3;
            continue;
        }
        c->v[i] = in->v[k - 1];
        if (!h)
            continue;
        if (!column_need_hists(env, s->out, s->out->n - 1, g))
            return false;
        c->h[i] = h;
    }
    return true;
}

/* A smoothed selector: the value at each step is interpolated between the samples around it. */
static bool smoothed_value(struct select_op *s, const struct samples *in, size_t k, int64_t t, struct labels labels, struct value *ret, bool *ret_ok)
{
    struct env *env = s->op.env;
    struct value p = {in->v[k - 1], in->h ? in->h[k - 1] : NULL};
    bool next = k < in->n && in->t[k] <= t + env->lookback_ms && in->t[k - 1] != t;
    *ret = p;
    *ret_ok = true;
    if (!next)
        return true;
    struct value n = {in->v[k], in->h ? in->h[k] : NULL};
    const char *name = quoted(env, metric_name(labels));
    *ret_ok = false;
    if (!p.h != !n.h) {
        WARN(env, s->node->pos.start, "encountered a mix of histograms and floats for metric name %s", name);
        return true;
    }
    if (p.h && fhist_is_custom(p.h) != fhist_is_custom(n.h)) {
        WARN(env, s->node->pos.start, "vector contains a mix of histograms with exponential and custom buckets schemas for metric name %s", name);
        return true;
    }
    *ret_ok = true;
    double share = (double)(t - in->t[k - 1]) / (double)(in->t[k] - in->t[k - 1]);
    bool counter = p.h && p.h->hint != HISTOGRAM_HINT_GAUGE && n.h->hint != HISTOGRAM_HINT_GAUGE;
    return interpolate(env, s->out->mem, s->node->pos.start, p, n, share, counter, ret);
}

static bool select_smoothed(struct select_op *s, struct column *c, const struct samples *all)
{
    struct env *env = s->op.env;
    const struct grid *g = &s->op.grid;
    struct samples in = *all;
    strip_stale(&s->reader, &in);
    size_t k = 0;
    for (size_t i = 0; i < g->n; i++) {
        int64_t t = time_shift_apply(&s->shift, grid_t(g, i));
        while (k < in.n && in.t[k] <= t)
            k++;
        struct value v;
        bool ok;
        if (k == 0 || in.t[k - 1] <= t - env->lookback_ms)
            continue;
        if (!smoothed_value(s, &in, k, t, c->labels, &v, &ok))
            return false;
        if (!ok)
            continue;
        bit_set(c->present, i);
        c->v[i] = v.f;
        if (!v.h)
            continue;
        if (!column_need_hists(env, s->out, s->out->n - 1, g))
            return false;
        c->h[i] = v.h;
    }
    return true;
}

static bool select_one(struct op *op, const struct series *series)
{
    struct select_op *s = (struct select_op *)op;
    struct samples in;
    if (!reader_decode(&s->reader, series, s->out->mem, &in) ||
        (s->what == SELECT_START_TIMES && !reader_start_times(&s->reader, series, &in)))
        return false;
    struct column *c = batch_slot(op->env, s->out, &op->grid);
    if (!c)
        return false;
    c->labels = series->labels;
    if (s->stats)
        mark_resets(&in, s->scratch);
    bool smoothed = s->node->selector.smoothed && s->what == SELECT_VALUES; /* anchored means nothing here */
    if (!(smoothed ? select_smoothed(s, c, &in) : select_series(s, c, &in)))
        return false;
    if (op->count.tally && !smoothed) /* upstream does not count those that it smoothes */
        tally_column(&op->count, c, &op->grid);
    if (column_empty(c, &op->grid))
        s->out->n--;
    return true;
}

static struct op *select_copy(const struct op *op, struct env *env, size_t cap, struct batch **ret_out)
{
    const struct select_op *from = (const struct select_op *)op;
    struct select_op *s = (struct select_op *)op_new(env, sizeof(*s), op->ops, &op->grid);
    if (!s)
        return NULL;
    s->node = from->node;
    s->shift = from->shift;
    s->what = from->what;
    s->stats = from->stats;
    if (!(s->scratch = env_arena(env)) || !(s->out = *ret_out = batch_new(env, cap)) ||
        !reader_open_lane(&s->reader, env, from->reader.min_t, from->reader.max_t))
        return NULL;
    return &s->op;
}

static const struct lane_ops select_lanes = {.copy = select_copy, .one = select_one};

static bool select_next(struct op *op, struct batch **ret)
{
    struct select_op *s = (struct select_op *)op;
    if (!s->opened && !select_open(s))
        return false;
    if (!batch_begin(op->env, s->out))
        return false;
    bool alone = s->what == SELECT_START_TIMES && op->env->query->start_times;
    if (!s->run && !alone && run_wanted(op, &s->reader) && !(s->run = run_new(op, &s->reader, &select_lanes)))
        return false;
    if (s->run)
        return run_next(s->run, ret);
    while (s->out->n < s->out->cap) {
        const struct series *series;
        if (!reader_next(&s->reader, s->out->mem, s->out->cap - s->out->n, &series))
            return false;
        if (!series)
            break;
        if (!select_one(op, series))
            return false;
    }
    *ret = s->out;
    return true;
}

static void select_end(struct op *op)
{
    struct select_op *s = (struct select_op *)op;
    run_end(s->run);
    s->run = NULL;
    batch_end(op->env, s->out);
    env_arena_end(op->env, s->scratch);
    reader_end(&s->reader);
}

static const struct op_ops select_ops = {.next = select_next, .end = select_end};

/* Do the matchers let only one metric name through? */
static bool one_name(const struct vector_selector *sel)
{
    for (size_t i = 0; i < sel->n_matchers; i++)
        if (sel->matchers[i].type == MATCH_EQ && slice_eq(sel->matchers[i].name, SL(METRIC_NAME_LABEL)))
            return true;
    return false;
}

bool selector_is_unique(const struct node *n)
{
    return one_name(&n->selector);
}

struct op *plan_selector(struct env *env, const struct node *n, const struct grid *g, enum selected what)
{
    const struct vector_selector *sel = &n->selector;
    if (is_nothing(n))
        return op_columns(env, g, (struct columns){0});
    struct select_op *s = (struct select_op *)op_new(env, sizeof(*s), &select_ops, g);
    if (!s)
        return NULL;
    s->node = n;
    s->labels = projection_of(env, n);
    s->shift = time_shift_of(env, sel->at, sel->at_ms, sel->offset_ms);
    s->what = what;
    s->stats = env->hist_stats && !env->hist_buckets;
    s->op.unique = one_name(sel);
    return (struct op *)s;
}
