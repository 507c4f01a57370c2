/*
 * Dropping metric names, and what follows from it: series that have become equal are merged when they take turns, and are an error when
 * both have a value at one step. Merging needs all series at once, so operators whose series stay different without names (op.unique) are spared it.
 */
#include <string.h>

#include "read/promql/engine_int.h"

bool labels_set(struct env *env, struct arena *a, struct labels l, struct slice name, struct slice value, struct labels *ret)
{
    struct label *items = env_zalloc(env, a, l.n + 1, sizeof(*items));
    if (!items)
        return false;
    size_t n = 0;
    bool put = value.n == 0;
    for (size_t i = 0; i < l.n; i++) {
        int c = slice_cmp(l.items[i].name, name);
        if (c >= 0 && !put) {
            items[n++] = (struct label){name, value};
            put = true;
        }
        if (c != 0)
            items[n++] = l.items[i];
    }
    if (!put)
        items[n++] = (struct label){name, value};
    *ret = (struct labels){items, n};
    return true;
}

bool labels_without_name(struct env *env, struct arena *a, struct labels l, struct labels *ret)
{
    if (env->cfg->type_and_unit_labels) {
        static const struct slice reserved[] = {{"__type__", 8}, {"__unit__", 8}};
        for (size_t i = 0; i < ARRAY_LEN(reserved); i++)
            if (labels_get(l, reserved[i]).n && !labels_set(env, a, l, reserved[i], (struct slice){0}, &l))
                return false;
    }
    *ret = l;
    if (metric_name(l).n == 0)
        return true;
    if (!slice_eq(l.items[0].name, SL(METRIC_NAME_LABEL))) /* names in capitals sort before it */
        return labels_set(env, a, l, SL(METRIC_NAME_LABEL), (struct slice){0}, ret);
    *ret = (struct labels){l.items + 1, l.n - 1};
    return true;
}

bool column_drop_name(struct env *env, struct arena *a, struct column *c)
{
    if (env->cfg->delayed_name_removal) {
        c->drop_name = true;
        return true;
    }
    return labels_without_name(env, a, c->labels, &c->labels);
}

bool fail_same_labelset(struct env *env)
{
    return env_fail(env, ERR_EXECUTION, "vector cannot contain metrics with the same labelset");
}

/* --- merging series that have become equal ------------------------------------------------------------------------------------ */

struct merge_op {
    struct op op;
    struct op *child;
    enum merge_rule rule;
    bool straight; /* see env.straight */
    struct columns cs;
    struct column **beside; /* of a column: the histograms of its label set, once one has met a float; NULL: nowhere */
    struct op *out;
};

/* The histograms, or the floats, of another column; an error where there is one already. */
static bool take_kind(struct env *env, const struct grid *g, struct column *to, const struct column *from, bool hists)
{
    FOR_PRESENT (i, from, g) {
        if (column_is_hist(from, i) != hists)
            continue;
        if (bit_get(to->present, i))
            return fail_same_labelset(env);
        to->v[i] = from->v[i];
        if (to->h)
            to->h[i] = hists ? from->h[i] : NULL;
        bit_set(to->present, i);
    }
    return true;
}

static bool split(struct merge_op *m, size_t index)
{
    struct env *env = m->op.env;
    const struct grid *g = &m->op.grid;
    struct column *c = &m->cs.cols[index], *hists = ENV_NEW(env, struct column);
    if (!m->beside && !(m->beside = ENV_ARRAY(env, struct column *, m->cs.cap)))
        return false;
    if (!hists || !column_alloc(env, env->root, g, true, hists) || !take_kind(env, g, hists, c, true))
        return false;
    hists->labels = c->labels;
    FOR_PRESENT (i, hists, g)
        bit_clear(c->present, i);
    c->h = NULL;
    m->beside[index] = hists;
    return true;
}

static size_t first_step(const struct grid *g, const struct column *c)
{
    for (size_t w = 0; w < grid_words(g); w++)
        if (c->present[w])
            return w * 64 + (size_t)__builtin_ctzll(c->present[w]);
    return g->n;
}

static bool overlap(const struct grid *g, const struct column *a, const struct column *b)
{
    for (size_t w = 0; w < grid_words(g); w++)
        if (a->present[w] & b->present[w])
            return true;
    return false;
}

static bool merge_into(struct merge_op *m, size_t index, const struct column *from)
{
    struct env *env = m->op.env;
    const struct grid *g = &m->op.grid;
    struct column *to = &m->cs.cols[index];
    if (first_step(g, from) < first_step(g, to)) /* as upstream, where a series is what its first sample says */
        to->drop_name = from->drop_name;
    if (overlap(g, to, from)) {
        if (m->rule == MERGE_TURNS)
            return fail_same_labelset(env);
        if ((!m->beside || !m->beside[index]) && !split(m, index))
            return false;
    }
    if (m->beside && m->beside[index])
        return take_kind(env, g, to, from, false) && take_kind(env, g, m->beside[index], from, true);
    if (from->h && !to->h && !(to->h = ENV_ARRAY(env, const struct fhist *, g->n)))
        return false;
    return take_kind(env, g, to, from, false) && (!from->h || take_kind(env, g, to, from, true));
}

/* As upstream, which reads floats first and then never gets past a histogram that it has not read. */
static bool floats_first(struct merge_op *m, struct column *c, const struct column *hists)
{
    const struct grid *g = &m->op.grid;
    if (!(c->h = ENV_ARRAY(m->op.env, const struct fhist *, g->n)))
        return false;
    FOR_PRESENT (i, hists, g) {
        if (bit_get(c->present, i))
            return true;
        c->h[i] = hists->h[i];
        bit_set(c->present, i);
    }
    return true;
}

static bool put_pairs(struct merge_op *m)
{
    struct columns cs = {0};
    struct column *to;
    for (size_t i = 0; i < m->cs.n; i++) {
        struct column *hists = m->beside[i];
        if (hists && !m->straight && !floats_first(m, &m->cs.cols[i], hists))
            return false;
        if (!columns_push(m->op.env, &cs, &to))
            return false;
        *to = m->cs.cols[i];
        if (!hists || !m->straight)
            continue;
        if (!columns_push(m->op.env, &cs, &to))
            return false;
        *to = *hists;
        to->drop_name = m->cs.cols[i].drop_name;
        m->op.env->any_pair = true;
    }
    m->cs = cs;
    return true;
}

static bool merge_columns(struct merge_op *m)
{
    struct env *env = m->op.env;
    struct columns *cs = &m->cs;
    struct groups gs = {0};
    size_t n = 0;
    for (size_t i = 0; i < cs->n; i++) {
        uint32_t index;
        bool is_new;
        if (!env_work(env, 64 + m->op.grid.n / 16) || !groups_get_labels(env, &gs, cs->cols[i].labels, &index, &is_new))
            return false;
        if (is_new)
            cs->cols[n++] = cs->cols[i];
        else if (!merge_into(m, index, &cs->cols[i]))
            return false;
    }
    cs->n = n;
    return !m->beside || put_pairs(m);
}

static bool merge_next(struct op *op, struct batch **ret)
{
    struct merge_op *m = (struct merge_op *)op;
    if (!m->out && (!op_drain(m->child, &m->cs) || !merge_columns(m) || !(m->out = op_columns(op->env, &op->grid, m->cs))))
        return false;
    return op_next(m->out, ret);
}

static const struct op_ops merge_ops = {.next = merge_next};

struct op *op_merge(struct op *child, enum merge_rule rule)
{
    if (!child)
        return NULL;
    struct merge_op *m = (struct merge_op *)op_new(child->env, sizeof(*m), &merge_ops, &child->grid);
    if (m) {
        m->child = child;
        m->rule = rule;
        m->straight = child->env->straight;
        m->op.unique = true;
    }
    return (struct op *)m;
}

struct op *op_merge_names(struct op *child, enum merge_rule rule)
{
    if (!child || child->unique || child->env->cfg->delayed_name_removal)
        return child;
    return op_merge(child, rule);
}
