/* The door: runs a query and writes its result into the caller's arena. */
#include "read/promql/engine.h"

#include <stdlib.h>
#include <string.h>

#include "read/promql/engine_int.h"

struct result {
    struct env *env;
    struct result_series *series;
    size_t n, cap;
    const int64_t *all_t; /* the times of all steps: shared by the series that have a value at each */
};

static bool result_push(struct result *r, struct result_series **ret)
{
    if (r->n == r->cap) {
        size_t cap = r->cap ? r->cap * 2 : 16;
        struct result_series *p = env_zalloc(r->env, r->env->ctx->arena, cap, sizeof(*p));
        if (!p)
            return false;
        if (r->n)
            memcpy(p, r->series, r->n * sizeof(*p));
        r->series = p;
        r->cap = cap;
    }
    *ret = &r->series[r->n++];
    return true;
}

static size_t count_present(const struct column *c, const struct grid *g)
{
    size_t n = 0;
    for (size_t w = 0; w < grid_words(g); w++)
        n += (size_t)__builtin_popcountll(c->present[w]);
    return n;
}

static const int64_t *all_times(struct result *r, const struct grid *g)
{
    if (r->all_t)
        return r->all_t;
    int64_t *t = env_alloc(r->env, r->env->ctx->arena, g->n * sizeof(*t));
    for (size_t i = 0; t && i < g->n; i++)
        t[i] = grid_t(g, i);
    return r->all_t = t;
}

static bool result_labels(struct env *env, struct labels l, struct labels *ret)
{
    *ret = labels_dup(env->ctx->arena, l);
    return (l.n == 0 || ret->items) || env_memory_error(env);
}

static bool result_add(struct result *r, const struct grid *g, const struct column *c)
{
    struct env *env = r->env;
    struct arena *a = env->ctx->arena;
    size_t n = count_present(c, g);
    if (n == 0)
        return true;
    if (!env_hold_samples(env, n))
        return false;
    struct result_series *s;
    if (!result_push(r, &s) || !result_labels(env, c->labels, &s->labels))
        return false;
    double *v = env_alloc(env, a, n * sizeof(*v));
    if (!v)
        return false;
    if (n == g->n && !c->h) {
        memcpy(v, c->v, n * sizeof(*v));
        *s = (struct result_series){.labels = s->labels, .t = all_times(r, g), .v = v, .n = n};
        return s->t != NULL;
    }
    int64_t *t = env_alloc(env, a, n * sizeof(*t));
    const struct histogram **h = t && c->h ? env_zalloc(env, a, n, sizeof(*h)) : NULL;
    if (!t || (c->h && !h))
        return false;
    bool any_hist = false;
    size_t k = 0;
    FOR_PRESENT (i, c, g) {
        t[k] = grid_t(g, i);
        v[k] = c->v[i];
        if (column_is_hist(c, i)) {
            if (!(h[k] = fhist_to_histogram(c->h[i], a)))
                return env_memory_error(env);
            any_hist = true;
        }
        k++;
    }
    *s = (struct result_series){.labels = s->labels, .t = t, .v = v, .h = any_hist ? h : NULL, .n = n};
    return true;
}

static int cmp_series(const void *a, const void *b, const void *arg)
{
    (void)arg;
    return labels_cmp(((const struct result_series *)a)->labels, ((const struct result_series *)b)->labels);
}

static bool result_sort(struct result *r)
{
    return env_sort(r->env, r->series, r->n, sizeof(*r->series), cmp_series, NULL);
}

/* With delayed name removal the names go now, and series that become equal are put together. */
static struct op *drop_names_now(struct env *env, struct op *op)
{
    struct columns cs;
    if (!op_drain(op, &cs))
        return NULL;
    bool dropped = false;
    for (size_t i = 0; i < cs.n; i++) {
        if (!cs.cols[i].drop_name)
            continue;
        if (!labels_without_name(env, env->root, cs.cols[i].labels, &cs.cols[i].labels))
            return NULL;
        dropped = true;
    }
    op = op_columns(env, &op->grid, cs);
    return dropped ? op_merge(op, MERGE_KINDS) : op;
}

/* The points of a series of floats and of one of histograms, in the order of time; of one time the float comes first. */
static bool join_points(struct env *env, struct result_series *to, const struct result_series *hists)
{
    struct arena *a = env->ctx->arena;
    size_t n = to->n + hists->n, i = 0, k = 0;
    int64_t *t = env_alloc(env, a, n * sizeof(*t));
    double *v = env_alloc(env, a, n * sizeof(*v));
    const struct histogram **h = env_zalloc(env, a, n, sizeof(*h));
    if (!t || !v || !h)
        return false;
    for (size_t at = 0; at < n; at++) {
        bool hist = i == to->n || (k < hists->n && hists->t[k] < to->t[i]);
        t[at] = hist ? hists->t[k] : to->t[i];
        v[at] = hist ? 0 : to->v[i];
        h[at] = hist ? hists->h[k] : NULL;
        *(hist ? &k : &i) += 1;
    }
    *to = (struct result_series){.labels = to->labels, .t = t, .v = v, .h = h, .n = n};
    return true;
}

/* Series of one label set, which come one behind the other, become one; in a vector the histogram stays. */
static bool join_pairs(struct result *r, bool vector)
{
    size_t n = 0;
    for (size_t i = 0; i < r->n; i++) {
        struct result_series *s = &r->series[i], *last = n ? &r->series[n - 1] : NULL;
        if (!last || labels_cmp(last->labels, s->labels) != 0)
            r->series[n++] = *s;
        else if (vector)
            *last = *s;
        else if (!join_points(r->env, last, s))
            return false;
    }
    r->n = n;
    return true;
}

static bool exec_vector(struct env *env, const struct node *n, const struct grid *g, struct result *r)
{
    env->straight = true;
    struct op *op = plan_vector(env, n, g);
    if (op && env->cfg->delayed_name_removal)
        op = drop_names_now(env, op);
    if (!op)
        return false;
    for (;;) {
        struct batch *b;
        if (!op_next(op, &b))
            return false;
        if (!b || b->n == 0)
            return true;
        for (size_t i = 0; i < b->n; i++)
            if (!result_add(r, g, &b->cols[i]))
                return false;
    }
}

static bool extend_result(struct env *env, struct arena *mem, struct reader *reader, const struct vector_selector *sel, int64_t start,
                          int64_t end, struct samples *s)
{
    strip_stale(reader, s);
    for (size_t i = 0; s->h && i < s->n; i++)
        if (s->h[i])
            return env_fail(env, ERR_EXECUTION, "%s modifier is not supported with histograms", sel->anchored ? "anchored" : "smoothed");
    return extend_floats(env, mem, s, start, end, sel->smoothed, s);
}

/* m[5m] as an instant query: the samples themselves. */
static bool exec_matrix_selector(struct env *env, const struct node *n, struct result *r)
{
    const struct vector_selector *sel = &unwrap(n->matrix.selector)->selector;
    struct time_shift shift = time_shift_of(env, sel->at, sel->at_ms, sel->offset_ms);
    int64_t end = time_shift_apply(&shift, env->query->start_ms);
    struct reader reader;
    int64_t start = end - sane_ms(n->matrix.range_ms);
    bool extended = sel->anchored || sel->smoothed;
    if (!reader_open(&reader, env, sel, NULL, start + 1 - (extended ? env->lookback_ms : 0), end + (sel->smoothed ? env->lookback_ms : 0), NULL, NULL))
        return false;
    struct arena *mem = env_arena(env), *batch = env_arena(env);
    if (!mem || !batch)
        return false;
    for (;;) {
        const struct series *series;
        struct samples s;
        arena_clear(mem);
        if (reader_is_empty(&reader))
            arena_rewind(batch);
        if (!env_tick(env) || !reader_next(&reader, batch, SIZE_MAX, &series))
            return false;
        if (!series)
            return true;
        if (!reader_decode(&reader, series, mem, &s))
            return false;
        if (extended && !extend_result(env, mem, &reader, sel, start, end, &s))
            return false;
        /* A grid of one step a sample would not do: times are the samples' own. */
        struct arena *a = env->ctx->arena;
        int64_t *t = env_zalloc(env, a, s.n, sizeof(*t));
        double *v = env_zalloc(env, a, s.n, sizeof(*v));
        const struct histogram **h = s.h ? env_zalloc(env, a, s.n, sizeof(*h)) : NULL;
        if (!t || !v || (s.h && !h))
            return false;
        size_t k = 0;
        uint64_t size = 0;
        for (size_t i = 0; i < s.n; i++) {
            bool hist = s.h && s.h[i];
            if (hist ? s.h[i]->stale : is_stale_nan(s.v[i]))
                continue;
            t[k] = s.t[i];
            v[k] = s.v[i];
            size += hist ? fhist_size(s.h[i]) : 1;
            if (hist && !(h[k] = fhist_to_histogram(s.h[i], a)))
                return env_memory_error(env);
            k++;
        }
        struct result_series *out;
        if (k == 0)
            continue;
        if (env->count.tally)
            tally_add(&env->count, 0, size, size);
        if (!env_hold_samples(env, k) || !result_push(r, &out) || !result_labels(env, series->labels, &out->labels))
            return false;
        *out = (struct result_series){.labels = out->labels, .t = t, .v = v, .h = h, .n = k};
    }
}

static bool exec_matrix(struct env *env, const struct node *n, const struct grid *g, struct result *r)
{
    n = unwrap(n);
    if (n->kind == NODE_MATRIX_SELECTOR)
        return is_nothing(unwrap(n->matrix.selector)) || exec_matrix_selector(env, n, r);
    struct grid inner;
    if (!subquery_grid(env, n, g, &inner))
        return false;
    env->hist_buckets = true;
    struct count_as outer;
    if (inner.n == 0)
        return true;
    if (!tally_begin(env, inner.n, &outer))
        return false;
    bool ok = exec_vector(env, n->subquery.expr, &inner, r);
    struct tally *tally = env->count.tally;
    env->count = outer;
    return ok && tally_fold_subquery(env, tally, &inner, NULL, 0, 0);
}

static bool exec_scalar(struct env *env, const struct node *n, const struct grid *g, bool instant, struct result *r,
                        struct engine_result *ret)
{
    double *v;
    if (!eval_scalar(env, n, g, &v))
        return false;
    if (instant) {
        ret->scalar = v[0];
        ret->scalar_t = g->start_ms;
        return true;
    }
    struct column c;
    if (!column_alloc(env, env->root, g, false, &c))
        return false;
    c.v = v;
    for (size_t i = 0; i < g->n; i++)
        bit_set(c.present, i);
    return result_add(r, g, &c);
}

/* The samples that were counted, if they were. */
static bool result_counts(struct env *env, struct engine_result *ret)
{
    const struct tally *t = env->count.tally;
    if (!t)
        return true;
    tally_folds_run(env);
    uint64_t *seen = env_alloc(env, env->ctx->arena, t->n * sizeof(*seen)), *read = env_alloc(env, env->ctx->arena, t->n * sizeof(*read));
    if (!seen || !read)
        return false;
    ret->counts = (struct engine_counts){.seen_at = seen, .read_at = read, .n_steps = t->n};
    for (size_t i = 0; i < t->n; i++) {
        ret->counts.seen += seen[i] = t->seen[i] + t->seen_each;
        ret->counts.read += read[i] = t->read[i];
    }
    return true;
}

static bool exec(struct env *env, const struct engine_query *q, struct engine_result *ret)
{
    bool instant = q->step_ms == 0;
    struct grid g = {q->start_ms, instant ? 1 : q->step_ms, instant ? 1 : (size_t)((q->end_ms - q->start_ms) / q->step_ms) + 1};
    struct result r = {.env = env};
    const struct node *n = plan_simplify(q->expr, env->root);
    bool ok;
    if (!n)
        return env_memory_error(env);
    if (q->count_samples && !(env->count.tally = tally_new(env, g.n)))
        return false;
    if (!shares_find(env, n))
        return false;
    ret->type = n->type;
    switch (n->type) {
    case VALUE_STRING:
        ok = instant ? eval_string(env, n, &ret->string) : env_fail(env, ERR_EXECUTION, "a range query cannot give a string");
        if (ok)
            ret->string = arena_dup(env->ctx->arena, ret->string);
        break;
    case VALUE_SCALAR:
        ok = exec_scalar(env, n, &g, instant, &r, ret);
        break;
    case VALUE_MATRIX:
        ok = instant ? exec_matrix(env, n, &g, &r) : env_fail(env, ERR_EXECUTION, "a range query cannot give a range vector");
        break;
    default:
        ok = exec_vector(env, n, &g, &r);
    }
    if (!ok)
        return false;
    if (!instant)
        ret->type = VALUE_MATRIX;
    if (env->any_pair && !join_pairs(&r, ret->type == VALUE_VECTOR))
        return false;
    if (ret->type == VALUE_MATRIX && !result_sort(&r))
        return false;
    ret->series = r.series;
    ret->n_series = r.n;
    return result_counts(env, ret) && annotations_finish(env, ret);
}

/* *ret_refused: it failed since the aggregates that it read will not do. */
static bool exec_once(const struct engine_config *cfg, struct queryable *q, struct ctx *ctx, const struct engine_query *query, struct engine_result *ret,
                      bool *ret_refused, struct err *err)
{
    struct env env = {.cfg = cfg, .query = query, .q = q, .ctx = ctx, .err = err, .over_time = query->end_ms > query->start_ms};
    env.lookback_ms = query->lookback_delta_ms ? query->lookback_delta_ms : cfg->lookback_delta_ms;
    *ret = (struct engine_result){0};
    env.root = env.notes = env_arena(&env);
    bool ok = env.root && env_tick(&env) && exec(&env, query, ret);
    ret->samples_read = env.samples_read;
    *ret_refused = !ok && atomic_load_explicit(&env.downsampled_refused, memory_order_relaxed);
    env_release(&env);
    return ok;
}

bool engine_exec(const struct engine_config *cfg, struct queryable *q, struct ctx *ctx, const struct engine_query *query,
                 struct engine_result *ret, struct err *err)
{
    bool refused;
    if (exec_once(cfg, q, ctx, query, ret, &refused, err))
        return true;
    if (!refused)
        return false;
    struct engine_query of_samples = *query;
    of_samples.max_source_resolution_ms = 0;
    *err = ERR_NONE;
    bool ok = exec_once(cfg, q, ctx, &of_samples, ret, &refused, err);
    ret->run_again = true;
    return ok;
}
