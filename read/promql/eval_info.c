/*
 * info(v, {matchers}): adds labels of info metrics (target_info, unless the matchers name others) to the series of v.
 *
 * An info series belongs to the series that have the same `instance` and `job`. What v gives is read first, for the values of those two labels select
 * the info series. Each of these is decoded once and put, step by step, into the slot of its identity and name: the newest sample wins the step. A
 * base series then runs over its steps; as long as the same info series win, its values go to one output column. Memory: v, its output, and per
 * identity and info name one time and one number a step.
 *
 * Info series are looked at where the first selector in v looks: its @ and offset, and those of the subqueries around it, apply to them too.
 */
#include "read/promql/engine_int.h"

#include <string.h>

/* Regexes of more alternatives cost more than they save: the label is then compared after reading. */
#define ID_VALUES_MAX 1000

static const struct slice id_labels[] = {{"instance", 8}, {"job", 3}};
#define N_IDS ARRAY_LEN(id_labels)
static const struct group_key id_key = {id_labels, N_IDS, false};

/* Which info series of one name wins at each step, for one identity. */
struct info_slot {
    struct slice name;
    uint32_t *best; /* a step: number of the info series + 1; 0 = none */
    int64_t *t;     /* of its sample */
    struct info_slot *next;
    uint32_t chosen; /* while a base series runs: the winner at the step before */
};

struct info_op {
    struct op op;
    struct op *child;
    struct time_shift shift;
    const struct matcher *names; /* of __name__, and those of other labels */
    const struct matcher *data;
    size_t n_names, n_data;
    bool needs_match; /* a data matcher refuses "": series without info go */

    struct columns base;
    uint64_t *base_any;          /* steps at which v has a value */
    struct groups values[N_IDS]; /* of each identifying label in v */
    struct groups ids;
    struct info_slot **slots; /* an identity: the slots of its info names */
    size_t slots_cap;
    struct labels *infos;
    size_t n_infos, infos_cap;
    struct groups out_groups;
    struct columns outs;
    struct op *out;
};

/* --- v --------------------------------------------------------------------------------------------------------------------------------- */

static bool all_match(const struct matcher *ms, size_t n, struct slice value)
{
    for (size_t i = 0; i < n; i++)
        if (!matcher_matches(&ms[i], value))
            return false;
    return true;
}

/* Info series themselves pass unchanged. */
static bool is_info(const struct info_op *o, struct labels l)
{
    return all_match(o->names, o->n_names, metric_name(l));
}

static bool read_base(struct info_op *o)
{
    struct env *env = o->op.env;
    size_t words = grid_words(&o->op.grid);
    if (!op_drain(o->child, &o->base) || !(o->base_any = ENV_ARRAY(env, uint64_t, words)))
        return false;
    for (size_t i = 0; i < o->base.n; i++) {
        const struct column *c = &o->base.cols[i];
        for (size_t w = 0; w < words; w++)
            o->base_any[w] |= c->present[w];
        for (size_t k = 0; k < N_IDS && !is_info(o, c->labels); k++) {
            struct group_key key = {&id_labels[k], 1, false};
            uint32_t index;
            bool is_new;
            if (labels_get(c->labels, id_labels[k]).n && !groups_get(env, &o->values[k], &key, c->labels, &index, &is_new))
                return false;
        }
    }
    return true;
}

/* --- selecting info series --------------------------------------------------------------------------------------------------------------- */

static void put_literal(struct buf *b, struct slice s)
{
    for (size_t i = 0; i < s.n; i++) {
        if (memchr("\\.+*?()|[]{}^$", s.p[i], 14))
            buf_puts(b, "\\");
        buf_put(b, &s.p[i], 1);
    }
}

/* name=~"value", which lives to the end of the query. */
static bool new_regex(struct env *env, struct slice name, struct slice value, struct matcher *ret)
{
    struct matcher_ref *ref = ENV_NEW(env, struct matcher_ref);
    if (!ref || !matcher_init(&ref->matcher, MATCH_RE, name, value, env->err))
        return false;
    ref->next = env->matchers;
    env->matchers = ref;
    *ret = ref->matcher;
    return true;
}

/* label=~"a|b|c" */
static bool value_matcher(struct info_op *o, size_t k, struct matcher *ret)
{
    struct env *env = o->op.env;
    struct buf b;
    buf_init(&b, 0);
    for (size_t i = 0; i < o->values[k].n; i++) {
        if (i)
            buf_puts(&b, "|");
        put_literal(&b, o->values[k].items[i].labels.items[0].value);
    }
    struct slice text = arena_dup(env->root, buf_slice(&b));
    bool ok = !b.failed && text.p;
    buf_release(&b);
    return ok ? new_regex(env, id_labels[k], text, ret) : env_memory_error(env);
}

static bool open_infos(struct info_op *o, struct reader *r)
{
    struct env *env = o->op.env;
    struct vector_selector sel = {0};
    struct matcher *ms = ENV_ARRAY(env, struct matcher, o->n_names + o->n_data + N_IDS);
    if (!ms)
        return false;
    for (size_t i = 0; i < o->n_names; i++)
        ms[sel.n_matchers++] = o->names[i];
    for (size_t i = 0; i < o->n_data; i++)
        ms[sel.n_matchers++] = o->data[i];
    for (size_t k = 0; k < N_IDS; k++)
        if (o->values[k].n && o->values[k].n <= ID_VALUES_MAX && !value_matcher(o, k, &ms[sel.n_matchers++]))
            return false;
    sel.matchers = ms;
    int64_t first = time_shift_apply(&o->shift, o->op.grid.start_ms);
    return reader_open(r, env, &sel, NULL, first - env->lookback_ms + 1, time_shift_apply(&o->shift, grid_end(&o->op.grid)), NULL, NULL);
}

static bool slot_of(struct info_op *o, struct labels l, struct info_slot **ret)
{
    struct env *env = o->op.env;
    uint32_t id;
    bool is_new;
    if (!groups_get(env, &o->ids, &id_key, l, &id, &is_new))
        return false;
    if (id >= o->slots_cap) {
        size_t cap = o->slots_cap ? o->slots_cap * 2 : 64;
        struct info_slot **p = ENV_ARRAY(env, struct info_slot *, cap);
        if (!p)
            return false;
        if (o->slots_cap)
            memcpy(p, o->slots, o->slots_cap * sizeof(struct info_slot *));
        o->slots = p;
        o->slots_cap = cap;
    }
    for (*ret = o->slots[id]; *ret; *ret = (*ret)->next)
        if (slice_eq((*ret)->name, metric_name(l)))
            return true;
    if (!env_hold_samples(env, o->op.grid.n) || !(*ret = ENV_NEW(env, struct info_slot)))
        return false;
    **ret = (struct info_slot){.name = metric_name(l), .next = o->slots[id]};
    o->slots[id] = *ret;
    (*ret)->best = ENV_ARRAY(env, uint32_t, o->op.grid.n);
    (*ret)->t = (*ret)->best ? ENV_ARRAY(env, int64_t, o->op.grid.n) : NULL;
    return (*ret)->t != NULL;
}

static bool add_info_labels(struct info_op *o, struct labels l)
{
    struct env *env = o->op.env;
    if (o->n_infos == o->infos_cap) {
        size_t cap = o->infos_cap ? o->infos_cap * 2 : 64;
        struct labels *p = ENV_ARRAY(env, struct labels, cap);
        if (!p)
            return false;
        if (o->n_infos)
            memcpy(p, o->infos, o->n_infos * sizeof(*p));
        o->infos = p;
        o->infos_cap = cap;
    }
    struct label *items = ENV_ARRAY(env, struct label, l.n);
    if (!items)
        return false;
    if (l.n)
        memcpy(items, l.items, l.n * sizeof(*items));
    o->infos[o->n_infos++] = (struct labels){items, l.n};
    return true;
}

static bool fail_two_infos(struct env *env, struct labels a, struct labels b, int64_t t)
{
    struct buf x, y;
    buf_init(&x, 4096);
    buf_init(&y, 4096);
    labels_print(a, &x);
    labels_print(b, &y);
    env_fail(env, ERR_EXECUTION, "found duplicate series for info metric: existing %s @ %lld, new %s @ %lld", buf_cstr(&x), (long long)t,
             buf_cstr(&y), (long long)t);
    buf_release(&x);
    buf_release(&y);
    return false;
}

/* The newest info series competes for the steps of its slot. Steps without any base value do not matter. */
static bool place_info(struct info_op *o, struct info_slot *slot, const struct samples *in)
{
    struct env *env = o->op.env;
    const struct grid *g = &o->op.grid;
    struct labels labels = o->infos[o->n_infos - 1];
    size_t k = 0;
    for (size_t i = 0; i < g->n; i++) {
        int64_t t = time_shift_apply(&o->shift, grid_t(g, i));
        while (k < in->n && in->t[k] <= t)
            k++;
        if (k == 0 || in->t[k - 1] <= t - env->lookback_ms)
            continue;
        const struct fhist *h = in->h ? in->h[k - 1] : NULL;
        if (h ? h->stale : is_stale_nan(in->v[k - 1]))
            continue;
        if (o->op.count.tally)
            tally_add(&o->op.count, i, 1, 1);
        if (!bit_get(o->base_any, i))
            continue;
        if (h)
            return env_fail(env, ERR_EXECUTION, "info sample should be float");
        if (slot->best[i] && slot->t[i] == in->t[k - 1])
            return fail_two_infos(env, o->infos[slot->best[i] - 1], labels, slot->t[i]);
        if (slot->best[i] && slot->t[i] > in->t[k - 1])
            continue;
        slot->best[i] = (uint32_t)o->n_infos;
        slot->t[i] = in->t[k - 1];
    }
    return true;
}

/* Does an identifying label have a value that v has? A label that v does not have at all may be anything. */
static bool is_wanted(const struct info_op *o, struct labels l)
{
    for (size_t k = 0; k < N_IDS; k++) {
        struct group_key key = {&id_labels[k], 1, false};
        if (o->values[k].n && groups_find(&o->values[k], &key, l) < 0)
            return false;
    }
    return true;
}

static bool read_infos(struct info_op *o)
{
    struct env *env = o->op.env;
    struct reader r;
    struct arena *mem = env_arena(env), *batch = env_arena(env);
    bool any = false;
    for (size_t k = 0; k < N_IDS; k++)
        any |= o->values[k].n > 0;
    if (!any)
        return true;
    if (!mem || !batch || !open_infos(o, &r))
        return false;
    for (;;) {
        const struct series *s;
        struct samples in;
        struct info_slot *slot;
        arena_clear(mem);
        if (reader_is_empty(&r))
            arena_rewind(batch);
        if (!reader_next(&r, batch, SIZE_MAX, &s))
            return false;
        if (!s)
            return true;
        if (!is_wanted(o, s->labels))
            continue;
        if (!reader_decode(&r, s, mem, &in) || !add_info_labels(o, s->labels) || !slot_of(o, s->labels, &slot) || !place_info(o, slot, &in))
            return false;
    }
}

/* --- joining ---------------------------------------------------------------------------------------------------------------------------------- */

/* Without data matchers all labels are added, else those they name. */
static bool adds_label(const struct info_op *o, struct slice name)
{
    if (slice_eq(name, SL(METRIC_NAME_LABEL)))
        return false;
    for (size_t i = 0; i < o->n_data; i++)
        if (slice_eq(o->data[i].name, name))
            return true;
    return o->n_data == 0;
}

/* The base's labels and those of the chosen info series; the base's own stay. Info series of several names must not contradict each other. */
static bool joined_labels(struct info_op *o, struct labels base, const struct info_slot *slots, struct labels *ret)
{
    struct env *env = o->op.env;
    *ret = base;
    for (const struct info_slot *s = slots; s; s = s->next) {
        struct labels info = s->chosen ? o->infos[s->chosen - 1] : (struct labels){0};
        for (size_t i = 0; i < info.n; i++) {
            struct label l = info.items[i];
            if (!adds_label(o, l.name) || labels_get(base, l.name).n)
                continue;
            struct slice have = labels_get(*ret, l.name);
            if (have.n && !slice_eq(have, l.value))
                return env_fail(env, ERR_EXECUTION, "conflicting label: %.*s", SL_FMT(l.name));
            if (!have.n && !labels_set(env, env->root, *ret, l.name, l.value, ret))
                return false;
        }
    }
    return true;
}

static bool output_of(struct info_op *o, const struct column *base, struct labels l, uint32_t *ret)
{
    struct env *env = o->op.env;
    bool is_new;
    if (!groups_get_labels(env, &o->out_groups, l, ret, &is_new))
        return false;
    if (is_new) {
        struct column *c;
        if (!env_hold_samples(env, o->op.grid.n) || !columns_push(env, &o->outs, &c) ||
            !column_alloc(env, env->root, &o->op.grid, false, c))
            return false;
        c->labels = o->out_groups.items[*ret].labels;
    }
    o->outs.cols[*ret].drop_name |= base->drop_name;
    return true;
}

static bool put_step(struct info_op *o, struct column *out, const struct column *base, size_t i)
{
    struct env *env = o->op.env;
    if (bit_get(out->present, i))
        return fail_same_labelset(env);
    if (column_is_hist(base, i) && !out->h && !(out->h = ENV_ARRAY(env, const struct fhist *, o->op.grid.n)))
        return false;
    if (out->h)
        out->h[i] = column_is_hist(base, i) ? base->h[i] : NULL;
    out->v[i] = base->v[i];
    bit_set(out->present, i);
    return true;
}

/* Takes over the winners of a step; says whether they are others than before, and whether there is one at all. */
static bool choose(struct info_slot *slots, size_t i, bool *ret_any)
{
    bool changed = false;
    *ret_any = false;
    for (struct info_slot *s = slots; s; s = s->next) {
        changed |= s->chosen != s->best[i];
        s->chosen = s->best[i];
        *ret_any |= s->chosen != 0;
    }
    return changed;
}

static bool join_series(struct info_op *o, const struct column *base)
{
    bool pass = is_info(o, base->labels);
    int64_t id = pass ? -1 : groups_find(&o->ids, &id_key, base->labels);
    struct info_slot *slots = id < 0 ? NULL : o->slots[id];
    uint32_t out = UINT32_MAX;
    for (struct info_slot *s = slots; s; s = s->next)
        s->chosen = 0;
    FOR_PRESENT (i, base, &o->op.grid) {
        bool any;
        bool changed = choose(slots, i, &any);
        if (!any && !pass && o->needs_match)
            continue;
        if (changed || out == UINT32_MAX) {
            struct labels l;
            if (!joined_labels(o, base->labels, slots, &l) || !output_of(o, base, l, &out))
                return false;
        }
        if (!put_step(o, &o->outs.cols[out], base, i))
            return false;
    }
    return true;
}

static bool info_next(struct op *op, struct batch **ret)
{
    struct info_op *o = (struct info_op *)op;
    if (!o->out) {
        if (!read_base(o) || !read_infos(o))
            return false;
        for (size_t i = 0; i < o->base.n; i++)
            if (!env_tick(op->env) || !join_series(o, &o->base.cols[i]))
                return false;
        if (!(o->out = op_columns(op->env, &op->grid, o->outs)))
            return false;
    }
    return op_next(o->out, ret);
}

static const struct op_ops info_ops = {.next = info_next};

/* --- plan --------------------------------------------------------------------------------------------------------------------------------------- */

/* What is inside looks where `outer` says, unless it has an @ of its own. */
static struct time_shift shift_within(struct time_shift outer, struct time_shift inner)
{
    if (!inner.fixed) {
        inner.fixed = outer.fixed;
        inner.at_ms = outer.at_ms;
        inner.offset_ms = sane_ms(inner.offset_ms + outer.offset_ms);
    }
    return inner;
}

/* The shift of the first selector in the tree, in the order of the text. */
static bool first_shift(const struct env *env, const struct node *n, struct time_shift *shift)
{
    switch (n->kind) {
    case NODE_PAREN:
        return first_shift(env, n->paren, shift);
    case NODE_UNARY:
        return first_shift(env, n->unary.expr, shift);
    case NODE_BINARY:
        return first_shift(env, n->binary.lhs, shift) || first_shift(env, n->binary.rhs, shift);
    case NODE_CALL:
        for (size_t i = 0; i < n->call.n_args; i++)
            if (first_shift(env, n->call.args[i], shift))
                return true;
        return false;
    case NODE_AGGREGATE:
        return first_shift(env, n->aggregate.expr, shift) || (n->aggregate.param && first_shift(env, n->aggregate.param, shift));
    case NODE_MATRIX_SELECTOR:
        return first_shift(env, n->matrix.selector, shift);
    case NODE_SUBQUERY: {
        struct time_shift s = shift_within(*shift, time_shift_of(env, n->subquery.at, n->subquery.at_ms, n->subquery.offset_ms));
        bool found = first_shift(env, n->subquery.expr, &s);
        if (found)
            *shift = s;
        return found;
    }
    case NODE_VECTOR_SELECTOR:
        *shift = shift_within(*shift, time_shift_of(env, n->selector.at, n->selector.at_ms, n->selector.offset_ms));
        return true;
    default:
        return false;
    }
}

/*
 * Which names info metrics have: what the matchers say when one of them is positive; of all that end in _info those that are not excluded;
 * without any matcher of names target_info.
 */
static bool plan_names(struct info_op *o, const struct vector_selector *sel)
{
    struct matcher *ms = ENV_ARRAY(o->op.env, struct matcher, sel->n_matchers + 1);
    bool positive = false;
    if (!ms)
        return false;
    o->names = ms;
    for (size_t i = 0; i < sel->n_matchers; i++) {
        if (!slice_eq(sel->matchers[i].name, SL(METRIC_NAME_LABEL)))
            continue;
        ms[o->n_names++] = sel->matchers[i];
        positive |= sel->matchers[i].type == MATCH_EQ || sel->matchers[i].type == MATCH_RE;
    }
    if (o->n_names == 0)
        ms[o->n_names++] = (struct matcher){.type = MATCH_EQ, .name = SL(METRIC_NAME_LABEL), .value = SL("target_info")};
    else if (!positive)
        return new_regex(o->op.env, SL(METRIC_NAME_LABEL), SL(".+_info"), &ms[o->n_names++]);
    return true;
}

static bool plan_data(struct info_op *o, const struct vector_selector *sel)
{
    struct matcher *ms = ENV_ARRAY(o->op.env, struct matcher, sel->n_matchers);
    if (!ms)
        return false;
    o->data = ms;
    for (size_t i = 0; i < sel->n_matchers; i++) {
        if (slice_eq(sel->matchers[i].name, SL(METRIC_NAME_LABEL)))
            continue;
        ms[o->n_data++] = sel->matchers[i];
        o->needs_match |= !matcher_matches_empty(&sel->matchers[i]);
    }
    return true;
}

struct op *plan_info(struct env *env, const struct node *call, const struct grid *g)
{
    static const struct vector_selector nothing;
    const struct vector_selector *sel = call->call.n_args > 1 ? &unwrap(call->call.args[1])->selector : &nothing;
    struct info_op *o = (struct info_op *)op_new(env, sizeof(*o), &info_ops, g);
    if (!o || !(o->child = plan_vector(env, call->call.args[0], g)))
        return NULL;
    if (!plan_names(o, sel) || !plan_data(o, sel))
        return NULL;
    first_shift(env, call->call.args[0], &o->shift);
    return &o->op;
}
