/*
 * histogram_quantile, histogram_quantiles, histogram_fraction: of native histograms, and of classic ones given as series of buckets.
 *
 * The input is read to its end. Series are put into groups by their labels without le; a group's bucket series are sorted by upper bound once, and each
 * step gathers the counts that are there.
 */
#include "read/promql/engine_int.h"

#include <stdlib.h>
#include <string.h>

#include "base/dtoa.h"

struct bucket_series {
    double upper;
    uint32_t column;
};

struct hgroup {
    struct labels labels; /* without le, with the name */
    struct bucket_series *buckets;
    size_t n, cap;
    uint64_t *natives; /* steps at which one of the group's series has a native histogram */
    uint64_t *classics;
    bool drop_name;
};

/* A quantile asked for. One that changes from step to step has an entry for each of its values, as a label tells them apart. */
struct quantile {
    const double *at;      /* by step */
    uint64_t *steps;       /* at which it counts; NULL: all */
    struct slice text;     /* histogram_quantiles: its label value */
};

struct hist_op {
    struct op op;
    const struct node *call;
    const struct node *arg;
    bool fraction;
    struct op *child;
    double *lower, *upper; /* histogram_fraction */
    struct quantile *q;
    size_t n_q, cap_q;
    struct slice q_label; /* histogram_quantiles */

    struct columns in;
    uint32_t *group_of; /* an input column's group */
    struct groups groups;
    struct hgroup *hgroups;
    struct columns outs;
    struct bucket *scratch;
    struct arena *mem;
    struct op *out;
};

static int32_t vector_pos(const struct hist_op *h)
{
    return h->arg->pos.start;
}

/* --- groups ------------------------------------------------------------------------------------------------------------------------------ */

static bool add_bucket(struct hist_op *h, struct hgroup *g, double upper, size_t column)
{
    if (g->n == g->cap) {
        size_t cap = g->cap ? g->cap * 2 : 16;
        struct bucket_series *p = ENV_ARRAY(h->op.env, struct bucket_series, cap);
        if (!p)
            return false;
        if (g->n)
            memcpy(p, g->buckets, g->n * sizeof(*p));
        g->buckets = p;
        g->cap = cap;
    }
    g->buckets[g->n++] = (struct bucket_series){upper, (uint32_t)column};
    return true;
}

static bool classify(struct hist_op *h, size_t column, struct hgroup *g)
{
    const struct column *c = &h->in.cols[column];
    struct env *env = h->op.env;
    size_t words = grid_words(&h->op.grid);
    g->drop_name |= c->drop_name;
    bool floats = false;
    uint64_t *classic = ENV_ARRAY(env, uint64_t, words);
    if (!classic)
        return false;
    FOR_PRESENT (i, c, &h->op.grid) {
        if (column_is_hist(c, i)) {
            bit_set(g->natives, i);
        } else {
            bit_set(classic, i);
            floats = true;
        }
    }
    if (!floats)
        return true;
    struct slice le = labels_get(c->labels, SL(BUCKET_LABEL));
    double upper;
    if (!dtoa_parse(le, &upper)) {
        WARN(env, vector_pos(h), "bucket label \"le\" is missing or has a malformed value of %s%s", quoted(env, le), for_metric(env, c->labels));
        return true;
    }
    for (size_t w = 0; w < words; w++)
        g->classics[w] |= classic[w];
    return add_bucket(h, g, upper, column);
}

static int cmp_series(const void *a, const void *b)
{
    double x = ((const struct bucket_series *)a)->upper, y = ((const struct bucket_series *)b)->upper;
    return (x > y) - (x < y);
}

static bool make_groups(struct hist_op *h)
{
    struct env *env = h->op.env;
    size_t words = grid_words(&h->op.grid), most = 0;
    h->hgroups = ENV_ARRAY(env, struct hgroup, h->in.n);
    h->group_of = ENV_ARRAY(env, uint32_t, h->in.n);
    if (!h->hgroups || !h->group_of)
        return false;
    for (size_t i = 0; i < h->in.n; i++) {
        struct labels l;
        bool is_new;
        if (!labels_set(env, env->root, h->in.cols[i].labels, SL(BUCKET_LABEL), (struct slice){0}, &l) ||
            !groups_get_labels(env, &h->groups, l, &h->group_of[i], &is_new))
            return false;
        struct hgroup *g = &h->hgroups[h->group_of[i]];
        if (is_new) {
            g->labels = h->groups.items[h->group_of[i]].labels;
            g->natives = ENV_ARRAY(env, uint64_t, words);
            g->classics = ENV_ARRAY(env, uint64_t, words);
            if (!g->natives || !g->classics)
                return false;
        }
        if (!classify(h, i, g))
            return false;
        most = MAX(most, g->n);
    }
    for (size_t i = 0; i < h->groups.n; i++)
        if (h->hgroups[i].n > 1)
            qsort(h->hgroups[i].buckets, h->hgroups[i].n, sizeof(struct bucket_series), cmp_series);
    return (h->scratch = ENV_ARRAY(env, struct bucket, most)) != NULL;
}

/* --- results --------------------------------------------------------------------------------------------------------------------------------- */

/* An output series; q is the index of the quantile. */
static bool output(struct hist_op *h, struct labels l, bool drop_name, size_t q, struct column **ret)
{
    struct env *env = h->op.env;
    if (!columns_push(env, &h->outs, ret) || !column_alloc(env, env->root, &h->op.grid, false, *ret))
        return false;
    (*ret)->labels = l;
    (*ret)->drop_name = drop_name;
    if (!column_drop_name(env, env->root, *ret))
        return false;
    if (h->q_label.n == 0)
        return true;
    return labels_set(env, env->root, (*ret)->labels, h->q_label, h->q[q].text, &(*ret)->labels);
}

static bool is_asked(const struct hist_op *h, size_t q, size_t step)
{
    return h->fraction || !h->q[q].steps || bit_get(h->q[q].steps, step);
}

/* Cumulative counts at a step, by upper bound; series with the same bound (le="0.2", le="2e-1") are added up. */
static size_t gather(struct hist_op *h, const struct hgroup *g, size_t step)
{
    size_t n = 0;
    for (size_t k = 0; k < g->n; k++) {
        const struct column *c = &h->in.cols[g->buckets[k].column];
        if (!bit_get(c->present, step) || column_is_hist(c, step))
            continue;
        if (n && h->scratch[n - 1].upper == g->buckets[k].upper)
            h->scratch[n - 1].count += c->v[step];
        else
            h->scratch[n++] = (struct bucket){g->buckets[k].upper, c->v[step]};
    }
    return n;
}

static bool classic_group(struct hist_op *h, const struct hgroup *g)
{
    struct env *env = h->op.env;
    struct column steps = {.present = g->classics};
    if (g->n == 0)
        return true;
    for (size_t q = 0; q < h->n_q; q++) {
        struct column *out;
        if (!output(h, g->labels, g->drop_name, q, &out))
            return false;
        FOR_PRESENT (i, &steps, &h->op.grid) {
            if (!is_asked(h, q, i))
                continue;
            if (bit_get(g->natives, i)) {
                WARN(env, vector_pos(h), "vector contains a mix of classic and native histograms%s", for_metric(env, g->labels));
                continue;
            }
            size_t n = gather(h, g, i);
            struct bucket_fix fix = {0};
            if (!env_work(env, n * 16))
                return false;
            if (n == 0)
                continue;
            out->v[i] = h->fraction ? bucket_fraction(h->lower[i], h->upper[i], h->scratch, n)
                                    : bucket_quantile(h->q[q].at[i], h->scratch, n, &fix);
            bit_set(out->present, i);
            if (fix.forced)
                annotate_forced(env, vector_pos(h), for_metric(env, g->labels), grid_t(&h->op.grid, i), &fix);
        }
        if (!env_tick(env))
            return false;
    }
    return true;
}

static double native_value(struct hist_op *h, const struct column *c, size_t q, size_t i)
{
    struct env *env = h->op.env;
    bool nan = false, skew = false;
    double v;
    if (h->fraction) {
        v = fhist_fraction(c->h[i], h->lower[i], h->upper[i], &nan);
        if (nan)
            INFO(env, vector_pos(h), "input to histogram_fraction has NaN observations, which are excluded from all fractions%s",
                 for_metric(env, c->labels));
        return v;
    }
    v = fhist_quantile(c->h[i], h->q[q].at[i], h->mem, &nan, &skew);
    if (nan || skew)
        INFO(env, vector_pos(h), "input to histogram_quantile has NaN observations, result is %s%s", nan ? "NaN" : "skewed higher",
             for_metric(env, c->labels));
    return v;
}

static bool native_series(struct hist_op *h, size_t column)
{
    const struct column *c = &h->in.cols[column];
    const struct hgroup *g = &h->hgroups[h->group_of[column]];
    if (!c->h)
        return true;
    for (size_t q = 0; q < h->n_q; q++) {
        struct column *out;
        if (!output(h, c->labels, c->drop_name, q, &out))
            return false;
        FOR_PRESENT (i, c, &h->op.grid) {
            if (!c->h[i] || bit_get(g->classics, i) || !is_asked(h, q, i))
                continue;
            if (!env_work(h->op.env, 256))
                return false;
            out->v[i] = native_value(h, c, q, i);
            bit_set(out->present, i);
        }
    }
    return true;
}

static bool hist_run(struct hist_op *h)
{
    if (!(h->mem = env_arena(h->op.env)) || !op_drain(h->child, &h->in) || !make_groups(h))
        return false;
    for (size_t i = 0; i < h->groups.n; i++)
        if (!classic_group(h, &h->hgroups[i]))
            return false;
    for (size_t i = 0; i < h->in.n; i++)
        if (!native_series(h, i))
            return false;
    return (h->out = op_columns(h->op.env, &h->op.grid, h->outs)) != NULL;
}

static bool hist_next(struct op *op, struct batch **ret)
{
    struct hist_op *h = (struct hist_op *)op;
    if (!h->out && !hist_run(h))
        return false;
    return op_next(h->out, ret);
}

static const struct op_ops hist_ops = {.next = hist_next};

static bool add_quantile(struct hist_op *h, const double *at, uint64_t *steps)
{
    if (h->n_q == h->cap_q) {
        size_t cap = MAX((size_t)4, h->cap_q * 2);
        struct quantile *q = ENV_ARRAY(h->op.env, struct quantile, cap);
        if (!q)
            return false;
        if (h->n_q)
            memcpy(q, h->q, h->n_q * sizeof(*q));
        h->q = q;
        h->cap_q = cap;
    }
    h->q[h->n_q++] = (struct quantile){.at = at, .steps = steps};
    return true;
}

/* Evaluates an argument and warns of values that are no quantiles. */
static bool quantile_at(struct hist_op *h, const struct node *arg, double **ret)
{
    struct env *env = h->op.env;
    if (!eval_scalar(env, arg, &h->op.grid, ret))
        return false;
    const double *at = *ret;
    for (size_t i = 0; i < h->op.grid.n; i++)
        if (!(at[i] >= 0 && at[i] <= 1) && (i == 0 || at[i] != at[i - 1]))
            warn_quantile(env, at[i], arg->pos.start);
    return true;
}

/* The quantile as a label value: as OpenMetrics writes le, so that it reads as a float. */
static bool quantile_text(struct hist_op *h, double q, struct slice *ret)
{
    char text[DTOA_MAX + 2];
    size_t n = dtoa_g(q + 0.0, text); /* -0 is written 0.0 */
    bool plain = !isnan(q) && !isinf(q);
    for (size_t i = 0; i < n; i++)
        plain &= text[i] != '.' && text[i] != 'e';
    if (plain) {
        text[n++] = '.';
        text[n++] = '0';
    }
    *ret = arena_dup(h->op.env->root, slice_make(text, n));
    return ret->p || env_memory_error(h->op.env);
}

/* One of histogram_quantiles' arguments: an entry for each value that it has. */
static bool plan_labelled(struct hist_op *h, const struct node *arg)
{
    struct env *env = h->op.env;
    size_t first = h->n_q, n = h->op.grid.n;
    double *at;
    if (!quantile_at(h, arg, &at))
        return false;
    size_t same = 1;
    while (same < n && (at[same] == at[0] || (isnan(at[same]) && isnan(at[0]))))
        same++;
    if (same == n)
        return add_quantile(h, at, NULL) && quantile_text(h, at[0], &h->q[first].text);
    for (size_t i = 0; i < n; i++) {
        struct slice text;
        size_t k = first;
        if (!quantile_text(h, at[i], &text))
            return false;
        while (k < h->n_q && !slice_eq(h->q[k].text, text))
            k++;
        uint64_t *steps = k < h->n_q ? h->q[k].steps : ENV_ARRAY(env, uint64_t, grid_words(&h->op.grid));
        if (!steps || (k == h->n_q && !add_quantile(h, at, steps)))
            return false;
        h->q[k].text = text;
        bit_set(steps, i);
    }
    return true;
}

static bool plan_args(struct hist_op *h)
{
    struct env *env = h->op.env;
    struct node **args = h->call->call.args;
    double *at;
    switch (h->call->call.fn->id) {
    case PROMQL_FN_HISTOGRAM_FRACTION:
        h->fraction = true;
        h->n_q = 1;
        h->arg = args[2];
        return eval_scalar(env, args[0], &h->op.grid, &h->lower) && eval_scalar(env, args[1], &h->op.grid, &h->upper);
    case PROMQL_FN_HISTOGRAM_QUANTILE:
        h->arg = args[1];
        return quantile_at(h, args[0], &at) && add_quantile(h, at, NULL);
    default:
        h->arg = args[0];
        if (!eval_string(env, args[1], &h->q_label))
            return false;
        for (size_t k = 2; k < h->call->call.n_args; k++)
            if (!plan_labelled(h, args[k]))
                return false;
        return true;
    }
}

struct op *plan_histogram_quantile(struct env *env, const struct node *call, const struct grid *g)
{
    struct hist_op *h = (struct hist_op *)op_new(env, sizeof(*h), &hist_ops, g);
    if (!h)
        return NULL;
    h->call = call;
    bool buckets = env->hist_buckets;
    env->hist_buckets = true;
    bool ok = plan_args(h) && (h->child = plan_vector(env, h->arg, g));
    env->hist_buckets = buckets;
    if (!ok)
        return NULL;
    /* Names that go late are not looked at before, in an instant query, nor is anything else. */
    bool at_once = !env->cfg->delayed_name_removal || env->over_time;
    return h->q_label.n && at_once ? op_merge(&h->op, MERGE_TURNS) : op_merge_names(&h->op, MERGE_TURNS);
}
