/*
 * and, unless, or. Only which steps a match group has matters of the other side: one bitmap a group. The side whose values are kept streams.
 */
#include "read/promql/engine_int.h"

struct set_op {
    struct op op;
    enum binary_op kind;
    struct group_key key;
    struct op *lhs, *rhs;
    struct groups groups;
    uint64_t **bits; /* of each group */
    size_t bits_cap;
    bool right_read; /* and, unless: the right side's groups are known */
    bool left_done;  /* or */
};

static bool group_bits(struct set_op *s, const struct column *c, uint64_t **ret)
{
    struct env *env = s->op.env;
    uint32_t g;
    bool is_new;
    if (!groups_get(env, &s->groups, &s->key, c->labels, &g, &is_new))
        return false;
    if (g >= s->bits_cap) {
        size_t cap = s->bits_cap ? s->bits_cap * 2 : 32;
        uint64_t **p = ENV_ARRAY(env, uint64_t *, cap);
        if (!p)
            return false;
        for (size_t i = 0; i < s->bits_cap; i++)
            p[i] = s->bits[i];
        s->bits = p;
        s->bits_cap = cap;
    }
    if (is_new && !(s->bits[g] = ENV_ARRAY(env, uint64_t, grid_words(&s->op.grid))))
        return false;
    *ret = s->bits[g];
    return true;
}

static bool note_groups(struct set_op *s, const struct batch *b)
{
    for (size_t i = 0; i < b->n; i++) {
        uint64_t *bits;
        if (!group_bits(s, &b->cols[i], &bits))
            return false;
        for (size_t w = 0; w < grid_words(&s->op.grid); w++)
            bits[w] |= b->cols[i].present[w];
    }
    return true;
}

static bool read_right(struct set_op *s)
{
    s->right_read = true;
    for (;;) {
        struct batch *b;
        if (!op_next(s->rhs, &b))
            return false;
        if (!b || b->n == 0)
            return true;
        if (!note_groups(s, b))
            return false;
    }
}

/* Keeps the steps whose bits the group has (or has not); drops series that have none left. */
static void mask(struct set_op *s, struct batch *b, bool keep_common)
{
    const struct grid *g = &s->op.grid;
    size_t n = 0;
    for (size_t i = 0; i < b->n; i++) {
        struct column *c = &b->cols[i];
        int64_t k = groups_find(&s->groups, &s->key, c->labels);
        for (size_t w = 0; w < grid_words(g); w++) {
            uint64_t bits = k >= 0 ? s->bits[k][w] : 0;
            c->present[w] &= keep_common ? bits : ~bits;
        }
        if (column_empty(c, g))
            continue;
        /* Slots keep their memory: swap, never overwrite. */
        struct column tmp = b->cols[n];
        b->cols[n] = *c;
        *c = tmp;
        n++;
    }
    b->n = n;
}

static bool masked_next(struct set_op *s, struct op *from, bool keep_common, struct batch **ret)
{
    do {
        if (!op_next(from, ret))
            return false;
        if (!*ret || (*ret)->n == 0)
            return true;
        mask(s, *ret, keep_common);
    } while ((*ret)->n == 0);
    return true;
}

static bool set_next(struct op *op, struct batch **ret)
{
    struct set_op *s = (struct set_op *)op;
    if (s->kind != OP_OR) {
        if (!s->right_read && !read_right(s))
            return false;
        return masked_next(s, s->lhs, s->kind == OP_AND, ret);
    }
    if (!s->left_done) {
        if (!op_next(s->lhs, ret))
            return false;
        if (*ret && (*ret)->n)
            return note_groups(s, *ret);
        s->left_done = true;
    }
    return masked_next(s, s->rhs, false, ret);
}

static const struct op_ops set_ops = {.next = set_next};

struct op *plan_set_op(struct env *env, const struct node *n, const struct grid *g)
{
    struct set_op *s = (struct set_op *)op_new(env, sizeof(*s), &set_ops, g);
    if (!s)
        return NULL;
    const struct vector_matching *m = n->binary.matching;
    s->kind = n->binary.op;
    s->key = (struct group_key){m->labels, m->n_labels, !m->on};
    if (!(s->lhs = plan_vector(env, n->binary.lhs, g)) || !(s->rhs = plan_vector(env, n->binary.rhs, g)))
        return NULL;
    s->op.unique = s->kind != OP_OR && s->lhs->unique;
    if (s->kind != OP_OR || g->n == 1)
        return &s->op;
    /* a or a offset 1h: one label set on both sides, at steps that take turns. */
    struct op *merged = op_merge(&s->op, MERGE_TURNS);
    if (merged)
        merged->unique = false;
    return merged;
}
