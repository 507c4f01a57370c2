/*
 * topk, bottomk, limitk, limit_ratio: aggregations that choose among the input series.
 *
 * topk keeps a heap of at most k values a group and step, the worst at its root; labels are kept only of series that have been in a heap.
 * limitk and limit_ratio decide as a series comes by, and stream.
 */
#include "read/promql/engine_int.h"

#include <stdlib.h>
#include <string.h>

#include <xxhash.h>

#include "base/dtoa.h"

struct entry {
    double v;
    uint32_t series;
};

struct heap {
    struct entry *e;
    uint32_t n, cap;
    double gate; /* the root's value once there are k */
    bool full;
};

struct topk_op {
    struct op op;
    const struct node *node;
    enum aggregate_op kind;
    struct op *child;
    struct group_key key;
    struct groups groups;
    struct heap **heaps; /* of a group: one a step */
    uint32_t **taken;    /* limitk: how many of a group's steps are taken */
    size_t cap;
    double *param;
    struct columns kept; /* labels only, until the end */
    struct op *out;
};

static bool topk_is_worse(const struct topk_op *t, double a, double b)
{
    if (isnan(a) || isnan(b))
        return isnan(a) && !isnan(b);
    return t->kind == AGG_TOPK ? a < b : a > b;
}

static struct labels kept_labels(const struct topk_op *t, uint32_t series)
{
    return t->kept.cols[series].labels;
}

/* Of equal values the one whose labels are later is worse: series come in any order, and the answer is the same in all of them. */
static bool entry_is_worse(const struct topk_op *t, const struct entry *a, const struct entry *b)
{
    if (topk_is_worse(t, a->v, b->v))
        return true;
    return !topk_is_worse(t, b->v, a->v) && labels_cmp(kept_labels(t, a->series), kept_labels(t, b->series)) > 0;
}

static void sift_down(const struct topk_op *t, struct heap *h, uint32_t i)
{
    for (;;) {
        uint32_t worst = i;
        for (uint32_t k = 2 * i + 1; k <= 2 * i + 2 && k < h->n; k++)
            if (entry_is_worse(t, &h->e[k], &h->e[worst]))
                worst = k;
        if (worst == i)
            return;
        struct entry tmp = h->e[i];
        h->e[i] = h->e[worst];
        h->e[worst] = tmp;
        i = worst;
    }
}

static void sift_up(const struct topk_op *t, struct heap *h, uint32_t i)
{
    while (i && entry_is_worse(t, &h->e[i], &h->e[(i - 1) / 2])) {
        struct entry tmp = h->e[i];
        h->e[i] = h->e[(i - 1) / 2];
        h->e[(i - 1) / 2] = tmp;
        i = (i - 1) / 2;
    }
}

static bool heap_push(struct topk_op *t, struct heap *h, struct entry e)
{
    if (h->n == h->cap) {
        uint32_t cap = h->cap ? h->cap * 2 : 8;
        struct entry *p = ENV_ARRAY(t->op.env, struct entry, cap);
        if (!p || !env_hold_samples(t->op.env, cap - h->cap))
            return false;
        if (h->n)
            memcpy(p, h->e, h->n * sizeof(*p));
        h->e = p;
        h->cap = cap;
    }
    h->e[h->n++] = e;
    sift_up(t, h, h->n - 1);
    return true;
}

/* --- groups ----------------------------------------------------------------------------------------------------------------------------- */

static bool group_index(struct topk_op *t, struct labels l, uint32_t *ret)
{
    struct env *env = t->op.env;
    bool is_new;
    if (!groups_get(env, &t->groups, &t->key, l, ret, &is_new))
        return false;
    if (*ret >= t->cap) {
        size_t cap = t->cap ? t->cap * 2 : 16;
        struct heap **heaps = ENV_ARRAY(env, struct heap *, cap);
        uint32_t **taken = ENV_ARRAY(env, uint32_t *, cap);
        if (!heaps || !taken)
            return false;
        if (t->cap) {
            memcpy(heaps, t->heaps, t->cap * sizeof(*heaps));
            memcpy(taken, t->taken, t->cap * sizeof(*taken));
        }
        t->heaps = heaps;
        t->taken = taken;
        t->cap = cap;
    }
    if (!is_new)
        return true;
    if (t->kind == AGG_LIMITK)
        return (t->taken[*ret] = ENV_ARRAY(env, uint32_t, t->op.grid.n)) != NULL;
    return (t->heaps[*ret] = ENV_ARRAY(env, struct heap, t->op.grid.n)) != NULL;
}

/* --- topk, bottomk ---------------------------------------------------------------------------------------------------------------------- */

/* A series that is offered step by step. */
struct candidate {
    const struct column *c;
    int64_t kept;     /* its place in topk_op.kept, -1 = none yet */
    int64_t compared; /* the kept series that its labels were last compared with, -1 = none: often the same from step to step */
    bool earlier;     /* and they come before that one's */
};

/* Do its labels come before those of the heap's root? */
static bool comes_before_root(const struct topk_op *t, const struct heap *h, struct candidate *x)
{
    if (x->compared != (int64_t)h->e[0].series) {
        x->compared = h->e[0].series;
        x->earlier = labels_cmp(x->c->labels, kept_labels(t, h->e[0].series)) < 0;
    }
    return x->earlier;
}

static bool offer(struct topk_op *t, struct heap *h, size_t step, double v, struct candidate *x)
{
    const struct column *c = x->c;
    double k = t->param[step];
    if (k < 1 || (h->full && topk_is_worse(t, v, h->gate)))
        return true;
    if (h->full && !topk_is_worse(t, h->gate, v) && !comes_before_root(t, h, x))
        return true;
    if (x->kept < 0) {
        struct column *copy;
        struct env *env = t->op.env;
        struct label *items = ENV_ARRAY(env, struct label, c->labels.n);
        if (!items || !columns_push(env, &t->kept, &copy))
            return false;
        if (c->labels.n)
            memcpy(items, c->labels.items, c->labels.n * sizeof(*items));
        *copy = (struct column){.labels = {items, c->labels.n}, .drop_name = c->drop_name};
        x->kept = (int64_t)t->kept.n - 1;
    }
    struct entry e = {v, (uint32_t)x->kept};
    if (h->full) {
        h->e[0] = e;
        sift_down(t, h, 0);
    } else {
        if (!heap_push(t, h, e))
            return false;
        h->full = (double)h->n + 1 > k; /* k need not be whole */
    }
    h->gate = h->e[0].v;
    return true;
}

static bool topk_column(struct topk_op *t, const struct column *c)
{
    uint32_t g;
    if (!group_index(t, c->labels, &g))
        return false;
    struct candidate x = {.c = c, .kept = -1, .compared = -1};
    FOR_PRESENT (i, c, &t->op.grid) {
        if (t->param[i] < 1)
            continue;
        if (column_is_hist(c, i))
            note_ignored_histogram(t->op.env, t->node);
        else if (!offer(t, &t->heaps[g][i], i, c->v[i], &x))
            return false;
    }
    return true;
}

static int cmp_entries(const void *pa, const void *pb, void *arg)
{
    const struct entry *a = pa, *b = pb;
    return entry_is_worse(arg, a, b) - entry_is_worse(arg, b, a);
}

/* The kept series with their values. An instant query shows each group from its best value down. */
static bool topk_finish(struct topk_op *t)
{
    struct env *env = t->op.env;
    const struct grid *grid = &t->op.grid;
    struct columns out = {0};
    uint32_t *place = ENV_ARRAY(env, uint32_t, t->kept.n);
    if (!place)
        return false;
    for (size_t g = 0; g < t->groups.n; g++)
        for (size_t i = 0; i < grid->n; i++) {
            struct heap *h = &t->heaps[g][i];
            if (!env_work(env, (uint64_t)h->n * 4 + 1))
                return false;
            if (h->n > 1 && grid->n == 1)
                qsort_r(h->e, h->n, sizeof(*h->e), cmp_entries, t);
            for (uint32_t k = 0; k < h->n; k++) {
                uint32_t s = h->e[k].series;
                struct column *c;
                if (place[s] == 0) {
                    if (!columns_push(env, &out, &c) || !column_alloc(env, env->root, grid, false, c))
                        return false;
                    c->labels = t->kept.cols[s].labels;
                    c->drop_name = t->kept.cols[s].drop_name;
                    place[s] = (uint32_t)out.n;
                }
                c = &out.cols[place[s] - 1];
                c->v[i] = h->e[k].v;
                bit_set(c->present, i);
            }
        }
    return (t->out = op_columns(env, grid, out)) != NULL;
}

static bool topk_next(struct op *op, struct batch **ret)
{
    struct topk_op *t = (struct topk_op *)op;
    while (!t->out) {
        struct batch *b;
        if (!op_next(t->child, &b))
            return false;
        if (!b || b->n == 0) {
            if (!topk_finish(t))
                return false;
            break;
        }
        for (size_t i = 0; i < b->n; i++)
            if (!topk_column(t, &b->cols[i]))
                return false;
    }
    return op_next(t->out, ret);
}

static const struct op_ops topk_ops = {.next = topk_next};

/* --- limitk, limit_ratio ---------------------------------------------------------------------------------------------------------------------- */

/* A length as upstream's label sets hold it: a byte, or 255 and three. */
static uint8_t *put_length(uint8_t *p, size_t n)
{
    if (n < 255) {
        *p++ = (uint8_t)n;
        return p;
    }
    *p++ = 255;
    for (int shift = 0; shift < 24; shift += 8)
        *p++ = (uint8_t)(n >> shift);
    return p;
}

static uint8_t *put_text(uint8_t *p, struct slice s)
{
    p = put_length(p, s.n);
    if (s.n)
        memcpy(p, s.p, s.n);
    return p + s.n;
}

/* Where a series lies between 0 and 1: the XXH64 of upstream's label sets, so that the same series are chosen. */
static bool ratio_place(struct env *env, struct labels l, double *ret)
{
    size_t size = 0;
    for (size_t i = 0; i < l.n; i++)
        size += l.items[i].name.n + l.items[i].value.n + 8;
    uint8_t small[512], *bytes = small, *p;
    if (size > sizeof(small) && !(bytes = env_alloc(env, env->root, size)))
        return false;
    p = bytes;
    for (size_t i = 0; i < l.n; i++)
        p = put_text(put_text(p, l.items[i].name), l.items[i].value);
    *ret = (double)XXH64(bytes, (size_t)(p - bytes), 0) / (double)UINT64_MAX;
    return true;
}

static bool in_ratio(double ratio, double place)
{
    return ratio >= 0 ? place < ratio : place >= 1 + ratio;
}

static bool limit_column(struct topk_op *t, struct column *c)
{
    if (t->kind == AGG_LIMIT_RATIO) {
        double place;
        if (!ratio_place(t->op.env, c->labels, &place))
            return false;
        FOR_PRESENT (i, c, &t->op.grid)
            if (!in_ratio(t->param[i], place))
                bit_clear(c->present, i);
        return true;
    }
    uint32_t g;
    if (!group_index(t, c->labels, &g))
        return false;
    FOR_PRESENT (i, c, &t->op.grid) {
        if (t->taken[g][i] + 1 > t->param[i])
            bit_clear(c->present, i);
        else
            t->taken[g][i]++;
    }
    return true;
}

static bool limit_next(struct op *op, struct batch **ret)
{
    struct topk_op *t = (struct topk_op *)op;
    if (!op_next(t->child, ret))
        return false;
    for (size_t i = 0; *ret && i < (*ret)->n; i++)
        if (!limit_column(t, &(*ret)->cols[i]))
            return false;
    return true;
}

static const struct op_ops limit_ops = {.next = limit_next};

/* --- plan ---------------------------------------------------------------------------------------------------------------------------------------- */

static void note_ratio(struct topk_op *t, double r, double to)
{
    char text[DTOA_MAX];
    int n = (int)dtoa_g(r, text);
    WARN(t->op.env, t->node->aggregate.param->pos.start, "ratio value should be between -1 and 1, got %.*s, capping to %g", n, text, to);
}

static bool check_params(struct topk_op *t)
{
    struct env *env = t->op.env;
    bool ratio = t->kind == AGG_LIMIT_RATIO;
    double least, most;
    bool any_nan = scalar_extremes(t->param, t->op.grid.n, &least, &most);
    if (ratio ? least == 0 && most == 0 : most < 1)
        return true; /* nothing is chosen, whatever else is wrong */
    if (any_nan)
        return env_fail(env, ERR_EXECUTION, "%s value is NaN", ratio ? "Ratio" : "Parameter");
    char text[DTOA_MAX];
    if (!ratio && least < -0x1p63)
        return env_fail(env, ERR_EXECUTION, "Scalar value %.*s underflows int64", (int)dtoa_g(least, text), text);
    if (!ratio && most >= 0x1p63)
        return env_fail(env, ERR_EXECUTION, "Scalar value %.*s overflows int64", (int)dtoa_g(most, text), text);
    if (ratio && most > 1)
        note_ratio(t, most, 1);
    if (ratio && least < -1)
        note_ratio(t, least, -1);
    for (size_t i = 0; ratio && i < t->op.grid.n; i++)
        t->param[i] = fmax(fmin(t->param[i], 1), -1);
    return true;
}

struct op *plan_aggregate_k(struct env *env, const struct node *n, const struct grid *g)
{
    bool top = n->aggregate.op == AGG_TOPK || n->aggregate.op == AGG_BOTTOMK;
    struct topk_op *t = (struct topk_op *)op_new(env, sizeof(*t), top ? &topk_ops : &limit_ops, g);
    if (!t)
        return NULL;
    t->node = n;
    t->kind = n->aggregate.op;
    t->key = (struct group_key){n->aggregate.grouping, n->aggregate.n_grouping, n->aggregate.without};
    if (!eval_scalar(env, n->aggregate.param, g, &t->param) || !check_params(t))
        return NULL;
    if (!(t->child = plan_vector(env, n->aggregate.expr, g)))
        return NULL;
    t->op.unique = t->child->unique;
    return &t->op;
}
