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
    struct op *out;
};

/* Two series of one label set may only take turns. */
static bool merge_into(struct env *env, const struct grid *g, struct column *to, const struct column *from)
{
    for (size_t w = 0; w < grid_words(g); w++)
        if (to->present[w] & from->present[w])
            return fail_same_labelset(env);
    if (from->h && !to->h && !(to->h = ENV_ARRAY(env, const struct fhist *, g->n)))
        return false;
    FOR_PRESENT (i, from, g) {
        to->v[i] = from->v[i];
        if (from->h)
            to->h[i] = from->h[i];
        bit_set(to->present, i);
    }
    to->drop_name |= from->drop_name;
    return true;
}

static bool merge_columns(struct env *env, const struct grid *g, struct columns *cs)
{
    struct groups gs = {0};
    size_t n = 0;
    for (size_t i = 0; i < cs->n; i++) {
        uint32_t index;
        bool is_new;
        if (!env_work(env, 64 + g->n / 16) || !groups_get_labels(env, &gs, cs->cols[i].labels, &index, &is_new))
            return false;
        if (is_new)
            cs->cols[n++] = cs->cols[i];
        else if (!merge_into(env, g, &cs->cols[index], &cs->cols[i]))
            return false;
    }
    cs->n = n;
    return true;
}

static bool merge_next(struct op *op, struct batch **ret)
{
    struct merge_op *m = (struct merge_op *)op;
    if (!m->out) {
        struct columns cs;
        if (!op_drain(m->child, &cs) || !merge_columns(op->env, &op->grid, &cs))
            return false;
        if (!(m->out = op_columns(op->env, &op->grid, cs)))
            return false;
    }
    return op_next(m->out, ret);
}

static const struct op_ops merge_ops = {.next = merge_next};

struct op *op_merge(struct op *child)
{
    if (!child)
        return NULL;
    struct merge_op *m = (struct merge_op *)op_new(child->env, sizeof(*m), &merge_ops, &child->grid);
    if (m) {
        m->child = child;
        m->op.unique = true;
    }
    return (struct op *)m;
}

struct op *op_merge_names(struct op *child)
{
    if (!child || child->unique || child->env->cfg->delayed_name_removal)
        return child;
    return op_merge(child);
}
