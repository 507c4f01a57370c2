/*
 * Aggregations that keep a fixed amount a group: sum, avg, min, max, count, group, stddev, stdvar; and the two that look at all values,
 * quantile and count_values.
 *
 * The group of a series is found once; then its whole column is added into the group's columns. Input batches are forgotten at once.
 */
#include "read/promql/engine_int.h"

#include <string.h>

#include "base/dtoa.h"
#include "base/utf8.h"

struct agg_group {
    uint64_t *floats;  /* steps that have met a float */
    uint64_t *hists;   /* ... a histogram */
    uint64_t *bad;     /* ... histograms that cannot be added */
    double *a, *b, *c; /* by operator: see accumulate. Of sums b comes with the second series */
    bool started;
    struct mean *means;
    struct hacc **accs; /* sum, avg of histograms: a step's accumulator when it has one */
    struct columns values; /* quantile: the members */
    bool drop_name;
};

struct agg_op {
    struct op op;
    const struct node *node;
    enum aggregate_op kind;
    struct op *child;
    struct group_key key;
    struct label_names labels; /* of the key, for the store */
    struct groups groups;
    struct agg_group *items;
    size_t items_cap;
    double *param;       /* quantile */
    struct slice label;  /* count_values */
    struct arena *scratch;
    uint64_t *hists; /* of the column being added: steps with a histogram */
    struct op *out;
};

static const char *const agg_names[] = {
    [AGG_SUM] = "sum",         [AGG_MIN] = "min",       [AGG_MAX] = "max",         [AGG_AVG] = "avg",
    [AGG_GROUP] = "group",     [AGG_STDDEV] = "stddev", [AGG_STDVAR] = "stdvar",   [AGG_COUNT] = "count",
    [AGG_QUANTILE] = "quantile", [AGG_TOPK] = "topk",   [AGG_BOTTOMK] = "bottomk", [AGG_LIMITK] = "limitk",
    [AGG_LIMIT_RATIO] = "limit_ratio", [AGG_COUNT_VALUES] = "count_values",
};

void note_ignored_histogram(struct env *env, const struct node *n)
{
    bool chooses = n->aggregate.op == AGG_TOPK || n->aggregate.op == AGG_BOTTOMK;
    int32_t pos = chooses ? n->pos.start : n->aggregate.expr->pos.start;
    INFO(env, pos, "ignored histogram in %s aggregation", agg_names[n->aggregate.op]);
}

/* --- groups -------------------------------------------------------------------------------------------------------------------------- */

static bool init_group(struct agg_op *g, struct agg_group *it)
{
    struct env *env = g->op.env;
    size_t n = g->op.grid.n, words = grid_words(&g->op.grid);
    *it = (struct agg_group){0};
    it->floats = ENV_ARRAY(env, uint64_t, words);
    it->hists = ENV_ARRAY(env, uint64_t, words);
    it->bad = ENV_ARRAY(env, uint64_t, words);
    if (!it->floats || !it->hists || !it->bad)
        return false;
    switch (g->kind) {
    case AGG_AVG:
        return (it->means = ENV_ARRAY(env, struct mean, n)) != NULL;
    case AGG_STDDEV:
    case AGG_STDVAR:
        return (it->a = ENV_ARRAY(env, double, n)) && (it->b = ENV_ARRAY(env, double, n)) && (it->c = ENV_ARRAY(env, double, n));
    case AGG_SUM: /* a first value overwrites: no zeros are needed */
        return (it->a = env_alloc(env, env->root, n * sizeof(double))) != NULL;
    default:
        return (it->a = ENV_ARRAY(env, double, n)) != NULL;
    }
}

/* key NULL: all labels make the group. */
static bool group_of(struct agg_op *g, const struct group_key *key, struct labels l, struct agg_group **ret)
{
    struct env *env = g->op.env;
    uint32_t i;
    bool is_new;
    if (!groups_get(env, &g->groups, key, l, &i, &is_new))
        return false;
    if (i >= g->items_cap) {
        size_t cap = g->items_cap ? g->items_cap * 2 : 16;
        struct agg_group *p = ENV_ARRAY(env, struct agg_group, cap);
        if (!p)
            return false;
        if (g->items_cap)
            memcpy(p, g->items, g->items_cap * sizeof(*p));
        g->items = p;
        g->items_cap = cap;
    }
    *ret = &g->items[i];
    return !is_new || (env_hold_samples(env, g->op.grid.n) && init_group(g, *ret));
}

/* --- floats ---------------------------------------------------------------------------------------------------------------------------- */

/*
 * Runs FIRST at steps whose first float this is, MORE at the others. A word of 64 steps that are all there and all seen before is a plain
 * loop.
 */
#define EACH_FLOAT(FIRST, MORE)                                                                                        \
    for (size_t w = 0; w < words; w++) {                                                                               \
        uint64_t bits = c->present[w] & ~hists[w], seen = it->floats[w];                                               \
        it->floats[w] |= bits;                                                                                         \
        if (bits == UINT64_MAX && seen == UINT64_MAX) {                                                                \
            for (size_t i = w * 64; i < w * 64 + 64; i++) {                                                            \
                double v = c->v[i];                                                                                    \
                MORE;                                                                                                  \
            }                                                                                                          \
            continue;                                                                                                  \
        }                                                                                                              \
        for (; bits; bits &= bits - 1) {                                                                               \
            size_t i = w * 64 + (size_t)__builtin_ctzll(bits);                                                         \
            double v = c->v[i];                                                                                        \
            if (seen & (bits & -bits)) {                                                                               \
                MORE;                                                                                                  \
            } else {                                                                                                   \
                FIRST;                                                                                                 \
            }                                                                                                          \
        }                                                                                                              \
    }

static void accumulate_sum(struct agg_group *it, const struct column *c, const uint64_t *hists, size_t words)
{
    for (size_t w = 0; w < words; w++) {
        uint64_t bits = c->present[w] & ~hists[w], seen = it->floats[w];
        const double *v = c->v + w * 64;
        double *sum = it->a + w * 64, *comp = it->b ? it->b + w * 64 : NULL;
        it->floats[w] |= bits;
        if (bits == UINT64_MAX && seen == UINT64_MAX) {
            kahan_add_each(v, sum, comp, 64);
            continue;
        }
        for (; bits; bits &= bits - 1) {
            unsigned i = (unsigned)__builtin_ctzll(bits);
            if (seen & (bits & -bits)) {
                kahan_add(v[i], &sum[i], &comp[i]);
            } else {
                sum[i] = v[i];
            }
        }
    }
}

static void welford_first(struct agg_group *it, size_t i, double v)
{
    it->a[i] = v;
    it->b[i] = isnan(v) || isinf(v) ? NAN : 0;
    it->c[i] = 1;
}

static void welford_more(struct agg_group *it, size_t i, double v)
{
    it->c[i]++;
    double delta = v - it->a[i];
    it->a[i] += delta / it->c[i];
    it->b[i] += delta * (v - it->a[i]);
}

/* hists: the steps of the column that hold a histogram. */
static void accumulate(enum aggregate_op kind, struct agg_group *it, const struct column *c, const uint64_t *hists, size_t words)
{
    switch (kind) {
    case AGG_SUM:
        accumulate_sum(it, c, hists, words);
        return;
    case AGG_AVG:
        EACH_FLOAT(mean_init(&it->means[i], v), mean_add(&it->means[i], v));
        return;
    case AGG_MIN:
        EACH_FLOAT(it->a[i] = v, it->a[i] = v < it->a[i] || isnan(it->a[i]) ? v : it->a[i]);
        return;
    case AGG_MAX:
        EACH_FLOAT(it->a[i] = v, it->a[i] = v > it->a[i] || isnan(it->a[i]) ? v : it->a[i]);
        return;
    case AGG_STDDEV:
    case AGG_STDVAR:
        EACH_FLOAT(welford_first(it, i, v), welford_more(it, i, v));
        return;
    default:
        return;
    }
}

/* count and group do not care what the values are. */
static void accumulate_any(enum aggregate_op kind, struct agg_group *it, const struct column *c, const struct grid *g)
{
    for (size_t w = 0; w < grid_words(g); w++) {
        uint64_t bits = c->present[w];
        double *a = it->a + w * 64;
        size_t n = g->n - w * 64 < 64 ? g->n - w * 64 : 64;
        it->floats[w] |= bits;
        if (kind == AGG_COUNT)
            for (size_t i = 0; i < n; i++)
                a[i] += (double)(bits >> i & 1);
        else
            for (size_t i = 0; i < n; i++)
                a[i] = 1;
    }
}

/* --- histograms ------------------------------------------------------------------------------------------------------------------------------ */

static void note_hist(struct agg_op *g, unsigned notes)
{
    int32_t pos = g->node->aggregate.expr->pos.start;
    if (notes & FHIST_MISMATCHED_BOUNDS)
        INFO(g->op.env, pos, "mismatched custom buckets were reconciled during aggregation");
    if (notes & FHIST_RESET_CONFLICT)
        WARN(g->op.env, pos, "conflicting counter resets during histogram aggregation");
}

static bool accumulate_hist(struct agg_op *g, struct agg_group *it, size_t i, const struct fhist *h)
{
    struct env *env = g->op.env;
    if (!it->accs && !(it->accs = ENV_ARRAY(env, struct hacc *, g->op.grid.n)))
        return false;
    if (bit_get(it->bad, i))
        return true;
    if (!it->accs[i]) {
        if (!(it->accs[i] = ENV_NEW(env, struct hacc)))
            return false;
        bit_set(it->hists, i);
        return hacc_init(it->accs[i], g->kind == AGG_AVG, h, env->root) || env_memory_error(env);
    }
    unsigned notes = 0;
    arena_clear(g->scratch);
    switch (hacc_add(it->accs[i], h, env->root, g->scratch, &notes)) {
    case FHIST_NO_MEMORY:
        return env_memory_error(env);
    case FHIST_INCOMPATIBLE:
        bit_set(it->bad, i);
        WARN(env, g->node->aggregate.expr->pos.start, "vector contains a mix of histograms with exponential and custom buckets schemas");
        return true;
    default:
        note_hist(g, notes);
        return true;
    }
}

static bool accumulate_hists(struct agg_op *g, struct agg_group *it, const struct column *c, uint64_t *hists)
{
    bool sums = g->kind == AGG_SUM || g->kind == AGG_AVG;
    FOR_PRESENT (i, c, &g->op.grid) {
        if (!c->h[i])
            continue;
        bit_set(hists, i);
        if (!sums)
            note_ignored_histogram(g->op.env, g->node);
        else if (!accumulate_hist(g, it, i, c->h[i]))
            return false;
    }
    return true;
}

/* --- quantile, count_values ---------------------------------------------------------------------------------------------------------------------- */

static bool keep_values(struct agg_op *g, struct agg_group *it, const struct column *c, const uint64_t *hists)
{
    struct env *env = g->op.env;
    struct column *copy;
    if (!env_hold_samples(env, g->op.grid.n) || !columns_push(env, &it->values, &copy))
        return false;
    struct column floats = *c;
    floats.h = NULL;
    if (!column_copy(env, env->root, &g->op.grid, &floats, copy))
        return false;
    for (size_t w = 0; w < grid_words(&g->op.grid); w++) {
        copy->present[w] &= ~hists[w];
        it->floats[w] |= copy->present[w];
    }
    return true;
}

static bool finish_quantile(struct agg_op *g, struct agg_group *it)
{
    double *values = env_alloc(g->op.env, g->scratch, (it->values.n + 1) * sizeof(double));
    if (!values)
        return false;
    struct column all = {.present = it->floats};
    FOR_PRESENT (i, &all, &g->op.grid) {
        size_t n = 0;
        for (size_t k = 0; k < it->values.n; k++)
            if (bit_get(it->values.cols[k].present, i))
                values[n++] = it->values.cols[k].v[i];
        if (!env_work(g->op.env, n * 8))
            return false;
        it->a[i] = quantile_of(g->param[i], values, n);
    }
    return true;
}

static bool value_text(struct agg_op *g, const struct column *c, size_t i, struct slice *ret)
{
    struct buf b;
    buf_init(&b, 1 << 20);
    if (column_is_hist(c, i)) {
        fhist_print(c->h[i], &b);
    } else {
        char text[DTOA_MAX];
        buf_put(&b, text, dtoa_fixed(c->v[i], text));
    }
    *ret = arena_dup(g->op.env->root, buf_slice(&b));
    bool ok = !b.failed && ret->p;
    buf_release(&b);
    return ok || env_memory_error(g->op.env);
}

/* Every value makes a group of its own: the group's labels, and the value as one more. */
static bool count_values(struct agg_op *g, const struct column *c)
{
    struct env *env = g->op.env;
    struct groups one = {0};
    uint32_t index;
    bool is_new;
    if (!groups_get(env, &one, &g->key, c->labels, &index, &is_new))
        return false;
    struct agg_group *it = NULL;
    uint64_t last = 0;
    FOR_PRESENT (i, c, &g->op.grid) {
        uint64_t bits;
        memcpy(&bits, &c->v[i], sizeof(bits));
        if (!it || column_is_hist(c, i) || bits != last) {
            struct slice value;
            struct labels l;
            if (!value_text(g, c, i, &value) || !labels_set(env, env->root, one.items[0].labels, g->label, value, &l) ||
                !group_of(g, g->key.exclude ? &g->key : NULL, l, &it)) /* without() may take the new label away again */
                return false;
        }
        last = column_is_hist(c, i) ? ~bits : bits;
        it->a[i]++;
        bit_set(it->floats, i);
    }
    return true;
}

/* --- the operator ------------------------------------------------------------------------------------------------------------------------------- */

static bool add_column(struct agg_op *g, const struct column *c)
{
    const struct grid *grid = &g->op.grid;
    size_t words = grid_words(grid);
    struct agg_group *it;
    if (g->kind == AGG_COUNT_VALUES)
        return count_values(g, c);
    if (!group_of(g, &g->key, c->labels, &it))
        return false;
    it->drop_name |= c->drop_name;
    if (g->kind == AGG_COUNT || g->kind == AGG_GROUP) {
        accumulate_any(g->kind, it, c, grid);
        return true;
    }
    memset(g->hists, 0, words * sizeof(*g->hists));
    if (c->h && !accumulate_hists(g, it, c, g->hists))
        return false;
    if (g->kind == AGG_QUANTILE)
        return keep_values(g, it, c, g->hists);
    if (g->kind == AGG_SUM && it->started && !it->b && !(it->b = ENV_ARRAY(g->op.env, double, grid->n)))
        return false;
    it->started = true;
    accumulate(g->kind, it, c, g->hists, words);
    return true;
}

static double finish_float(const struct agg_op *g, const struct agg_group *it, size_t i)
{
    switch (g->kind) {
    case AGG_SUM:
        return isinf(it->a[i]) ? it->a[i] : it->a[i] + (it->b ? it->b[i] : 0);
    case AGG_AVG:
        return mean_result(&it->means[i]);
    case AGG_STDVAR:
        return it->b[i] / it->c[i];
    case AGG_STDDEV:
        return sqrt(it->b[i] / it->c[i]);
    default:
        return it->a[i];
    }
}

static bool finish_group(struct agg_op *g, struct agg_group *it, struct labels labels, struct column *out)
{
    struct env *env = g->op.env;
    const struct grid *grid = &g->op.grid;
    if (g->kind == AGG_QUANTILE && !finish_quantile(g, it))
        return false;
    *out = (struct column){.labels = labels, .drop_name = it->drop_name, .present = it->floats};
    if (!(out->v = it->a) && !(out->v = ENV_ARRAY(env, double, grid->n)))
        return false;
    FOR_PRESENT (i, out, grid)
        out->v[i] = finish_float(g, it, i);
    if (!it->accs)
        return true;
    if (!(out->h = ENV_ARRAY(env, const struct fhist *, grid->n)))
        return false;
    struct column hists = {.present = it->hists};
    FOR_PRESENT (i, &hists, grid) {
        if (bit_get(it->floats, i)) {
            WARN(env, g->node->aggregate.expr->pos.start, "encountered a mix of histograms and floats for aggregation");
            bit_clear(out->present, i);
            continue;
        }
        if (bit_get(it->bad, i))
            continue;
        if (!(out->h[i] = hacc_result(it->accs[i], env->root)))
            return env_memory_error(env);
        out->v[i] = 0;
        bit_set(out->present, i);
    }
    return true;
}

static bool agg_run(struct agg_op *g)
{
    struct env *env = g->op.env;
    if (!(g->scratch = env_arena(env)) || !(g->hists = ENV_ARRAY(env, uint64_t, grid_words(&g->op.grid))))
        return false;
    for (;;) {
        struct batch *b;
        if (!op_next(g->child, &b))
            return false;
        if (!b || b->n == 0)
            break;
        for (size_t i = 0; i < b->n; i++)
            if (!add_column(g, &b->cols[i]))
                return false;
    }
    struct columns cs = {0};
    for (size_t i = 0; i < g->groups.n; i++) {
        struct column *c;
        if (!env_work(env, g->op.grid.n) || !columns_push(env, &cs, &c) || !finish_group(g, &g->items[i], g->groups.items[i].labels, c))
            return false;
    }
    return (g->out = op_columns(env, &g->op.grid, cs)) != NULL;
}

static bool agg_next(struct op *op, struct batch **ret)
{
    struct agg_op *g = (struct agg_op *)op;
    if (!g->out && !agg_run(g))
        return false;
    return op_next(g->out, ret);
}

static const struct op_ops agg_ops = {.next = agg_next};

static bool plan_quantile(struct agg_op *g)
{
    struct env *env = g->op.env;
    const struct node *param = g->node->aggregate.param;
    if (!eval_scalar(env, param, &g->op.grid, &g->param))
        return false;
    double least, most;
    if (scalar_extremes(g->param, g->op.grid.n, &least, &most))
        warn_quantile(env, NAN, param->pos.start);
    if (most > 1)
        warn_quantile(env, most, param->pos.start);
    if (least < 0)
        warn_quantile(env, least, param->pos.start);
    return true;
}

static bool names_output(const struct node *n)
{
    if (n->aggregate.without)
        return false;
    for (size_t i = 0; i < n->aggregate.n_grouping; i++)
        if (slice_eq(n->aggregate.grouping[i], SL(METRIC_NAME_LABEL)))
            return true;
    return false;
}

static struct op *plan_input(struct agg_op *a)
{
    struct env *env = a->op.env;
    const struct node *before = env->projected;
    const struct label_names *names = env->projection;
    a->labels = (struct label_names){a->key.names, a->key.n};
    env->projected = plan_projection(env, a->node);
    env->projection = &a->labels;
    struct op *child = plan_vector(env, a->node->aggregate.expr, &a->op.grid);
    env->projected = before;
    env->projection = names;
    return child;
}

struct op *plan_aggregate(struct env *env, const struct node *n, const struct grid *g)
{
    struct agg_op *a = (struct agg_op *)op_new(env, sizeof(*a), &agg_ops, g);
    if (!a)
        return NULL;
    a->node = n;
    a->kind = n->aggregate.op;
    a->key = (struct group_key){n->aggregate.grouping, n->aggregate.n_grouping, n->aggregate.without};
    if (a->kind == AGG_QUANTILE && !plan_quantile(a))
        return NULL;
    if (a->kind == AGG_COUNT_VALUES) {
        if (!eval_string(env, n->aggregate.param, &a->label))
            return NULL;
        if (a->label.n == 0 || !utf8_valid(a->label)) {
            env_fail(env, ERR_EXECUTION, "invalid label name %s", quoted(env, a->label));
            return NULL;
        }
    }
    if (!(a->child = plan_input(a)))
        return NULL;
    a->op.unique = !names_output(n) && a->kind != AGG_COUNT_VALUES;
    return &a->op;
}
