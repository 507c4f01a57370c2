/*
 * Binary operators between two vectors, the set operators aside.
 *
 * The "one" side is read to its end and its series are put into groups by match signature, hashed once a series. The "many" side streams;
 * each of its series is combined with the series of its group, whole columns at a time. Where the output's label sets are known to be unique
 * the results stream too; otherwise outputs are found by label set and grow step by step.
 */
#include <string.h>

#include "base/clock.h"
#include "read/promql/engine_int.h"

#define NO_COLUMN UINT32_MAX

struct vector_op {
    struct op op;
    const struct node *node;
    const struct vector_matching *match;
    struct group_key key;
    struct op *many, *one;
    bool swapped; /* one-to-many: the left side is the one side */
    bool stream;
    bool drop_late; /* the result's names go at the end: upstream does so for `bool` alone, and forgets what it was to drop of its sides */
    bool fill_one, fill_many;
    double fill_one_value, fill_many_value;

    bool opened;
    struct columns ones;
    uint32_t *next_of; /* a ones column: the next one of its group */
    struct groups groups;
    uint32_t *first_of;  /* a group: its first ones column */
    uint64_t **matched; /* a group: the steps at which a many series has met it */
    uint64_t *twice;    /* steps at which some group has two ones */
    bool any_twice;

    struct groups out_groups;
    struct columns outs;
    uint64_t **met; /* an output: the steps at which two values met for it, whether a comparison kept the result or not */
    size_t met_cap;
    struct op *out;
    struct batch *batch; /* streaming */
    struct batch *in;
    uint64_t *used, *both;
    uint64_t *hit; /* of the last combine: the steps that count as met */
    uint8_t *note; /* a step: what is to be noted of it; upstream keeps the last */
};

static bool open_one_side(struct vector_op *v)
{
    struct env *env = v->op.env;
    size_t words = grid_words(&v->op.grid);
    v->opened = true;
    if (!op_drain(v->one, &v->ones))
        return false;
    v->next_of = ENV_ARRAY(env, uint32_t, v->ones.n);
    v->first_of = ENV_ARRAY(env, uint32_t, v->ones.n);
    v->matched = ENV_ARRAY(env, uint64_t *, v->ones.n);
    v->used = ENV_ARRAY(env, uint64_t, words);
    v->twice = ENV_ARRAY(env, uint64_t, words);
    v->both = ENV_ARRAY(env, uint64_t, words);
    v->hit = ENV_ARRAY(env, uint64_t, words);
    v->note = ENV_ARRAY(env, uint8_t, v->op.grid.n);
    if (!v->next_of || !v->first_of || !v->matched || !v->used || !v->twice || !v->both || !v->hit || !v->note)
        return false;
    /* From the back, so that each chain is in order. */
    for (size_t i = v->ones.n; i-- > 0;) {
        uint32_t g;
        bool is_new;
        if (!groups_get(env, &v->groups, &v->key, v->ones.cols[i].labels, &g, &is_new))
            return false;
        v->next_of[i] = is_new ? NO_COLUMN : v->first_of[g];
        v->first_of[g] = (uint32_t)i;
        if (is_new && !(v->matched[g] = ENV_ARRAY(env, uint64_t, words)))
            return false;
        const uint64_t *here = v->ones.cols[i].present;
        for (size_t w = 0; w < words; w++) {
            v->twice[w] |= v->matched[g][w] & here[w];
            v->any_twice |= v->twice[w] != 0;
            v->matched[g][w] |= here[w];
        }
    }
    for (size_t g = 0; g < v->groups.n; g++)
        memset(v->matched[g], 0, words * sizeof(uint64_t));
    return true;
}

/* As Prometheus's engine says it; see engine_config.prometheus_errors. */
static bool fail_duplicate_prometheus(struct vector_op *v, struct labels group, bool many, struct labels a, struct labels b)
{
    if (many)
        return env_fail(v->op.env, ERR_EXECUTION,
                        "multiple matches for labels: many-to-one matching must be explicit (group_left/group_right)");
    struct buf g, x, y;
    buf_init(&g, 4096);
    buf_init(&x, 4096);
    buf_init(&y, 4096);
    labels_print_set(group, &g);
    labels_print_set(a, &x);
    labels_print_set(b, &y);
    bool ordered = slice_cmp(buf_slice(&x), buf_slice(&y)) <= 0;
    env_fail(v->op.env, ERR_EXECUTION,
             "found duplicate series for the match group %s on the %s hand-side of the operation: [%s, %s];many-to-many matching not allowed: "
             "matching labels must be unique on one side",
             buf_cstr(&g), v->swapped ? "left" : "right", buf_cstr(ordered ? &x : &y), buf_cstr(ordered ? &y : &x));
    buf_release(&g);
    buf_release(&x);
    buf_release(&y);
    return false;
}

static bool fail_duplicate(struct vector_op *v, struct labels group, bool many, size_t step, struct labels a, struct labels b)
{
    if (v->op.env->cfg->prometheus_errors)
        return fail_duplicate_prometheus(v, group, many, a, b);
    char when[CLOCK_RFC3339_MAX];
    int64_t t = grid_t(&v->op.grid, step);
    clock_rfc3339(t / 1000, (int32_t)(t % 1000) * 1000000, t % 1000 ? 3 : 0, when);
    struct buf g, x, y;
    buf_init(&g, 4096);
    buf_init(&x, 4096);
    buf_init(&y, 4096);
    labels_print(group, &g);
    labels_print(a, &x);
    labels_print(b, &y);
    env_fail(v->op.env, ERR_EXECUTION,
             "found duplicate series for the match group %s on the %s side of the operation at timestamp %s: %s and %s", buf_cstr(&g),
             many == v->swapped ? "right" : "left", when, buf_cstr(&x), buf_cstr(&y));
    buf_release(&g);
    buf_release(&x);
    buf_release(&y);
    return false;
}

static size_t first_common(const uint64_t *a, const uint64_t *b, size_t words, bool *ret_any)
{
    for (size_t w = 0; w < words; w++)
        if (a[w] & b[w]) {
            *ret_any = true;
            return w * 64 + (size_t)__builtin_ctzll(a[w] & b[w]);
        }
    *ret_any = false;
    return 0;
}

/*
 * Two ones of a group at a step are an error as soon as there is any many series at that step, or a fill value, whether or not it would have met
 * them: upstream collects the one side of a step before it looks at the other. bits: the steps at which there is a partner.
 */
static bool check_ones(struct vector_op *v, const uint64_t *bits)
{
    bool any;
    size_t words = grid_words(&v->op.grid), step = first_common(v->twice, bits, words, &any);
    if (!any)
        return true;
    for (size_t g = 0; g < v->groups.n; g++) {
        const struct column *first = NULL;
        for (uint32_t k = v->first_of[g]; k != NO_COLUMN; k = v->next_of[k]) {
            const struct column *one = &v->ones.cols[k];
            if (bit_get(one->present, step) && first)
                return fail_duplicate(v, v->groups.items[g].labels, false, step, first->labels, one->labels);
            if (bit_get(one->present, step))
                first = one;
        }
    }
    ASSERT(false && "a step with two ones has them");
    return false;
}

/* Labels of the result of many with one (which may be missing). */
static bool result_labels_of(struct vector_op *v, struct labels many, const struct column *one, struct labels *ret)
{
    struct env *env = v->op.env;
    struct labels l = many;
    bool drops = drops_name(v->node) && !v->drop_late;
    if (drops && !labels_without_name(env, env->root, l, &l))
        return false;
    if (v->match->card == CARD_ONE_TO_ONE) {
        struct label *items = ENV_ARRAY(env, struct label, l.n);
        if (!items)
            return false;
        size_t n = 0;
        for (size_t i = 0; i < l.n; i++) {
            bool named = false;
            for (size_t k = 0; k < v->match->n_labels; k++)
                named |= slice_eq(l.items[i].name, v->match->labels[k]);
            if (named == v->match->on)
                items[n++] = l.items[i];
        }
        l = (struct labels){items, n};
    }
    for (size_t i = 0; i < v->match->n_include; i++) {
        struct slice name = v->match->include[i];
        if (!labels_set(env, env->root, l, name, one ? labels_get(one->labels, name) : (struct slice){0}, &l))
            return false;
    }
    *ret = l;
    return true;
}

static bool add_output(struct vector_op *v, struct labels l)
{
    struct env *env = v->op.env;
    struct column *c;
    size_t i = v->outs.n;
    if (i == v->met_cap) {
        size_t cap = i ? i * 2 : 16;
        uint64_t **met = ENV_ARRAY(env, uint64_t *, cap);
        if (!met)
            return false;
        if (i)
            memcpy(met, v->met, i * sizeof(*met));
        v->met = met;
        v->met_cap = cap;
    }
    if (!(v->met[i] = ENV_ARRAY(env, uint64_t, grid_words(&v->op.grid))) || !columns_push(env, &v->outs, &c) ||
        !env_hold_samples(env, v->op.grid.n) || !column_alloc(env, env->root, &v->op.grid, false, c))
        return false;
    c->labels = l;
    return true;
}

/* *ret_met: see vector_op.met. */
static bool output_column(struct vector_op *v, struct labels l, struct column **ret, uint64_t **ret_met)
{
    uint32_t i;
    bool is_new;
    if (!groups_get_labels(v->op.env, &v->out_groups, l, &i, &is_new))
        return false;
    if (is_new && !add_output(v, v->out_groups.items[i].labels))
        return false;
    *ret = &v->outs.cols[i];
    *ret_met = v->met[i];
    (*ret)->drop_name = v->drop_late;
    return true;
}

/* A comparison gives the many side's own histogram, and a sum may share its custom bounds: they live no longer than the batch. */
static bool put_value(struct vector_op *v, struct column *out, const struct column *many, size_t i, struct value val)
{
    bool theirs = val.h && many && many->h && val.h == many->h[i];
    bool shared = theirs || (val.h && fhist_is_custom(val.h));
    if (shared && !v->stream && !(val.h = fhist_dup(val.h, v->op.env->root)))
        return env_memory_error(v->op.env);
    out->v[i] = val.f;
    if (val.h && !out->h && !(out->h = env_zalloc(v->op.env, v->op.env->root, v->op.grid.n, sizeof(*out->h))))
        return false;
    if (out->h)
        out->h[i] = val.h;
    bit_set(out->present, i);
    return true;
}

static bool fail_met_twice(struct vector_op *v, const struct column *out, const struct column *many, size_t step)
{
    if (v->match->card == CARD_ONE_TO_ONE && many)
        return fail_duplicate(v, out->labels, true, step, many->labels, many->labels);
    return env_fail(v->op.env, ERR_EXECUTION, "multiple matches for labels: grouping labels must ensure unique matches");
}

/*
 * Combines the steps of `bits`, into v->hit those that count as met. many or one may be NULL: then their fill value stands in. met is NULL
 * when streaming: nothing can meet twice then.
 */
static bool combine(struct vector_op *v, struct column *out, uint64_t *met, struct arena *mem, const struct column *many,
                    const struct column *one, const uint64_t *bits)
{
    const struct grid *g = &v->op.grid;
    size_t words = grid_words(g);
    enum binary_op op = v->node->binary.op;
    struct column steps = {.present = (uint64_t *)bits};
    bool plain = op <= OP_ATAN2 && many && one && !many->h && !one->h && !out->h;
    memcpy(v->hit, bits, words * sizeof(*bits));
    if (plain && column_empty(out, g)) {
        const struct column *l = v->swapped ? one : many, *r = v->swapped ? many : one;
        arith_columns(op, l->v, r->v, out->v, g->n);
        memcpy(out->present, bits, words * sizeof(*bits));
        if (met)
            memcpy(met, bits, words * sizeof(*bits));
        return true;
    }
    FOR_PRESENT (i, &steps, g) {
        struct value m = many ? (struct value){many->v[i], many->h ? many->h[i] : NULL} : (struct value){v->fill_many_value, NULL};
        struct value o = one ? (struct value){one->v[i], one->h ? one->h[i] : NULL} : (struct value){v->fill_one_value, NULL};
        struct value res = {0};
        int got = v->swapped ? binary_values(v->op.env, mem, v->node, o, m, false, &res)
                             : binary_values(v->op.env, mem, v->node, m, o, false, &res);
        if (got == BINARY_ERROR)
            return false;
        if (got >= BINARY_NOTED) {
            v->note[i] = (uint8_t)got;
            bit_clear(v->hit, i);
            continue;
        }
        if (met && bit_get(met, i))
            return fail_met_twice(v, out, many, i);
        if (met)
            bit_set(met, i);
        if (got == BINARY_VALUE && !put_value(v, out, many, i, res))
            return false;
    }
    return true;
}

/* Combines one many series with its group. In streaming mode out is its slot, else outputs are looked up. */
static bool combine_many(struct vector_op *v, const struct column *many, struct column *stream_out, struct arena *mem)
{
    size_t words = grid_words(&v->op.grid);
    int64_t g = groups_find(&v->groups, &v->key, many->labels);
    memset(v->used, 0, words * sizeof(*v->used));
    if (v->any_twice && !check_ones(v, many->present))
        return false;
    for (uint32_t k = g >= 0 ? v->first_of[g] : NO_COLUMN; k != NO_COLUMN; k = v->next_of[k]) {
        const struct column *one = &v->ones.cols[k];
        bool any;
        first_common(many->present, one->present, words, &any);
        if (!any)
            continue;
        for (size_t w = 0; w < words; w++)
            v->both[w] = many->present[w] & one->present[w];
        struct column *out = stream_out;
        uint64_t *met = NULL;
        struct labels l;
        if (!out && (!result_labels_of(v, many->labels, one, &l) || !output_column(v, l, &out, &met)))
            return false;
        if (!combine(v, out, met, mem, many, one, v->both))
            return false;
        for (size_t w = 0; w < words; w++) {
            v->used[w] |= v->both[w];
            v->matched[g][w] |= v->hit[w];
        }
    }
    if (!v->fill_one)
        return true;
    bool any = false;
    for (size_t w = 0; w < words; w++)
        any |= (v->both[w] = many->present[w] & ~v->used[w]) != 0;
    struct labels l;
    struct column *out;
    uint64_t *met;
    return !any || (result_labels_of(v, many->labels, NULL, &l) && output_column(v, l, &out, &met) &&
                    combine(v, out, met, mem, many, NULL, v->both));
}

/* fill on the many side: what of the one side has met nobody. */
static bool combine_unmatched(struct vector_op *v)
{
    size_t words = grid_words(&v->op.grid);
    for (size_t g = 0; g < v->groups.n; g++)
        for (uint32_t k = v->first_of[g]; k != NO_COLUMN; k = v->next_of[k]) {
            const struct column *one = &v->ones.cols[k];
            bool any = false;
            for (size_t w = 0; w < words; w++)
                any |= (v->both[w] = one->present[w] & ~v->matched[g][w]) != 0;
            struct labels l;
            struct column *out;
            uint64_t *met;
            if (any && (!result_labels_of(v, v->groups.items[g].labels, one, &l) || !output_column(v, l, &out, &met) ||
                        !combine(v, out, met, v->op.env->root, NULL, one, v->both)))
                return false;
        }
    return true;
}

static bool table_run(struct vector_op *v)
{
    for (;;) {
        if (!op_next(v->many, &v->in))
            return false;
        if (!v->in || v->in->n == 0)
            break;
        for (size_t i = 0; i < v->in->n; i++)
            if (!combine_many(v, &v->in->cols[i], NULL, v->op.env->root))
                return false;
    }
    if (v->fill_many && !combine_unmatched(v))
        return false;
    binary_note_steps(v->op.env, v->node, v->note, v->op.grid.n);
    return (v->out = op_columns(v->op.env, &v->op.grid, v->outs)) != NULL;
}

/* Results take the place of the many side's columns. */
static bool stream_batch(struct vector_op *v, struct batch **ret)
{
    struct env *env = v->op.env;
    const struct grid *g = &v->op.grid;
    if (!v->batch && !(v->batch = batch_new(env, BATCH_CAP_MAX)))
        return false;
    do {
        if (!op_next(v->many, &v->in) || !batch_begin(env, v->batch))
            return false;
        if (!v->in || v->in->n == 0) {
            binary_note_steps(v->op.env, v->node, v->note, g->n);
            break;
        }
        ASSERT(v->in->n <= v->batch->cap);
        for (size_t i = 0; i < v->in->n; i++) {
            const struct column *many = &v->in->cols[i];
            struct column *out = batch_slot(env, v->batch, g);
            if (!out)
                return false;
            out->labels = many->labels;
            out->drop_name = v->drop_late;
            if (drops_name(v->node) && !v->drop_late && !labels_without_name(env, v->batch->mem, out->labels, &out->labels))
                return false;
            if (!combine_many(v, many, out, v->batch->mem))
                return false;
            if (column_empty(out, g))
                v->batch->n--;
        }
    } while (v->batch->n == 0);
    *ret = v->batch;
    return true;
}

/* Nothing will match, but what the other side has to report is reported. */
static bool read_for_errors(struct op *op)
{
    struct batch *b;
    do {
        if (!op_next(op, &b))
            return false;
    } while (b && b->n);
    return true;
}

static bool vector_next(struct op *op, struct batch **ret)
{
    struct vector_op *v = (struct vector_op *)op;
    if (!v->opened && !open_one_side(v))
        return false;
    if (v->any_twice && (v->fill_one || v->fill_many) && !check_ones(v, v->twice))
        return false;
    if (v->ones.n == 0 && !v->fill_one)
        return read_for_errors(v->many);
    if (v->stream)
        return stream_batch(v, ret);
    if (!v->out && !table_run(v))
        return false;
    return op_next(v->out, ret);
}

static void vector_end(struct op *op)
{
    batch_end(op->env, ((struct vector_op *)op)->batch);
}

static const struct op_ops vector_ops = {.next = vector_next, .end = vector_end};

struct op *plan_binary(struct env *env, const struct node *n, const struct grid *g)
{
    struct vector_op *v = (struct vector_op *)op_new(env, sizeof(*v), &vector_ops, g);
    if (!v)
        return NULL;
    const struct vector_matching *m = n->binary.matching;
    v->node = n;
    v->match = m;
    v->drop_late = env->cfg->delayed_name_removal && n->binary.return_bool;
    v->key = (struct group_key){m->labels, m->n_labels, !m->on};
    v->swapped = m->card == CARD_ONE_TO_MANY;
    /* Upstream swaps the sides of group_right before it looks at the fill values: fill_left always fills the many side. We follow. */
    v->fill_one = m->has_fill_right;
    v->fill_many = m->has_fill_left;
    v->fill_one_value = m->fill_right;
    v->fill_many_value = m->fill_left;
    bool buckets = env->hist_buckets;
    env->hist_buckets |= op_is_trim(n->binary.op);
    bool ok = (v->many = plan_vector(env, v->swapped ? n->binary.rhs : n->binary.lhs, g)) &&
              (v->one = plan_vector(env, v->swapped ? n->binary.lhs : n->binary.rhs, g));
    env->hist_buckets = buckets;
    if (!ok)
        return NULL;
    bool same_labels = m->card == CARD_ONE_TO_ONE ? !m->on && m->n_labels == 0 : m->n_include == 0;
    v->stream = same_labels && v->many->unique && !v->fill_one && !v->fill_many;
    v->op.unique = drops_name(n) || v->many->unique;
    return &v->op;
}
