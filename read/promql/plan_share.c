/*
 * Aggregations that a query has more than once are evaluated once.
 *
 * `sum(rate(a[5m])) / (sum(rate(a[5m])) + sum(rate(b[5m])))`: before planning, the aggregations of the tree are hashed and counted, those inside of a
 * repeated one only where they are planned the first time. When one of them is planned its operator goes into a share; one with the same text, for the same
 * steps, then reads from that. The share's columns are kept to the end of the query, and each reader gets copies, since operators change what they get.
 *
 * Only aggregations: what they give is small beside what they read. To keep the series of a repeated selector or rate would take more memory than a query has,
 * where reading them again takes none.
 */
#include <stdlib.h>
#include <string.h>

#include "base/buf.h"
#include "read/promql/engine_int.h"

#define TEXT_MAX ((size_t)1 << 20)

struct repeat {
    const struct node *node;
    uint64_t hash;
};

struct share {
    struct share *next;
    const struct node *node;
    struct grid grid;
    uint64_t hash;
    unsigned flags;
    struct op *op;
    bool drained;
    struct columns cs;
};

struct shares {
    struct repeat *aggregates; /* by node */
    size_t n, cap;
    uint64_t *hashes; /* sorted, each once */
    size_t *counts;
    size_t n_hashes;
    struct share *first;
};

/* --- hashing ------------------------------------------------------------------------------------------------------------------------------ */

static uint64_t mix(uint64_t h, uint64_t v)
{
    h = (h ^ v) * 0x9E3779B97F4A7C15u;
    return h ^ h >> 29;
}

static uint64_t mix_text(uint64_t h, struct slice s)
{
    for (size_t i = 0; i < s.n; i++)
        h = (h ^ (uint8_t)s.p[i]) * 1099511628211u;
    return mix(h, s.n);
}

static bool note_aggregate(struct env *env, struct shares *s, const struct node *n, uint64_t hash)
{
    if (s->n == s->cap) {
        size_t cap = s->cap ? s->cap * 2 : 16;
        struct repeat *more = env_alloc(env, env->root, cap * sizeof(*more));
        if (!more)
            return false;
        if (s->n)
            memcpy(more, s->aggregates, s->n * sizeof(*more));
        s->aggregates = more;
        s->cap = cap;
    }
    s->aggregates[s->n++] = (struct repeat){n, hash};
    return true;
}

static uint64_t hash_selector(uint64_t h, const struct vector_selector *s)
{
    for (size_t i = 0; i < s->n_matchers; i++)
        h = mix_text(mix_text(mix(h, (uint64_t)s->matchers[i].type), s->matchers[i].name), s->matchers[i].value);
    return mix(mix(h, (uint64_t)s->offset_ms), (uint64_t)s->at_ms);
}

size_t node_children(const struct node *n, const struct node *ret[static PROMQL_MAX_ARGS])
{
    size_t k = 0;
    switch (n->kind) {
    case NODE_PAREN:
        ret[k++] = n->paren;
        break;
    case NODE_UNARY:
        ret[k++] = n->unary.expr;
        break;
    case NODE_BINARY:
        ret[k++] = n->binary.lhs;
        ret[k++] = n->binary.rhs;
        break;
    case NODE_CALL:
        for (size_t i = 0; i < n->call.n_args && k < PROMQL_MAX_ARGS; i++)
            ret[k++] = n->call.args[i];
        break;
    case NODE_AGGREGATE:
        ret[k++] = n->aggregate.expr;
        if (n->aggregate.param)
            ret[k++] = n->aggregate.param;
        break;
    case NODE_MATRIX_SELECTOR:
        ret[k++] = n->matrix.selector;
        break;
    case NODE_SUBQUERY:
        ret[k++] = n->subquery.expr;
        break;
    default:
        break;
    }
    return k;
}

static uint64_t hash_own(const struct node *n)
{
    uint64_t h = mix(0, (uint64_t)n->kind);
    switch (n->kind) {
    case NODE_NUMBER:
        return mix(h, (uint64_t)(int64_t)(fabs(n->number.value) < 1e15 ? n->number.value * 1e3 : 0));
    case NODE_STRING:
        return mix_text(h, n->string);
    case NODE_BINARY:
        return mix(h, (uint64_t)n->binary.op);
    case NODE_CALL:
        return mix(h, (uint64_t)n->call.fn->id);
    case NODE_AGGREGATE:
        for (size_t i = 0; i < n->aggregate.n_grouping; i++)
            h = mix_text(h, n->aggregate.grouping[i]);
        return mix(h, (uint64_t)n->aggregate.op * 2 + n->aggregate.without);
    case NODE_VECTOR_SELECTOR:
        return hash_selector(h, &n->selector);
    case NODE_MATRIX_SELECTOR:
        return mix(h, (uint64_t)n->matrix.range_ms);
    case NODE_SUBQUERY:
        return mix(mix(h, (uint64_t)n->subquery.range_ms), (uint64_t)n->subquery.step_ms);
    default:
        return h;
    }
}

/* Equal trees have equal hashes; that others have not is not promised. */
static bool hash_node(struct env *env, struct shares *s, const struct node *n, uint64_t *ret)
{
    const struct node *children[PROMQL_MAX_ARGS];
    size_t k = node_children(n, children);
    uint64_t h = hash_own(n), child;
    for (size_t i = 0; i < k; i++) {
        if (!hash_node(env, s, children[i], &child))
            return false;
        h = mix(h, child);
    }
    *ret = h;
    return n->kind != NODE_AGGREGATE || note_aggregate(env, s, n, h);
}

/* --- counting ----------------------------------------------------------------------------------------------------------------------------- */

static int by_node(const void *a, const void *b)
{
    uintptr_t x = (uintptr_t)((const struct repeat *)a)->node, y = (uintptr_t)((const struct repeat *)b)->node;
    return (x > y) - (x < y);
}

static int by_hash(const void *a, const void *b)
{
    uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;
    return (x > y) - (x < y);
}

static const struct repeat *repeat_of(const struct shares *s, const struct node *n)
{
    struct repeat key = {.node = n};
    return s ? bsearch(&key, s->aggregates, s->n, sizeof(key), by_node) : NULL;
}

static size_t *count_of(const struct shares *s, uint64_t hash)
{
    return s->counts + ((const uint64_t *)bsearch(&hash, s->hashes, s->n_hashes, sizeof(hash), by_hash) - s->hashes);
}

/* From above: what is inside of a repeated aggregation is planned with the first of them only. */
static void count(const struct shares *s, const struct node *n)
{
    const struct node *children[PROMQL_MAX_ARGS];
    if (n->kind == NODE_AGGREGATE && (*count_of(s, repeat_of(s, n)->hash))++ > 0)
        return;
    size_t k = node_children(n, children);
    for (size_t i = 0; i < k; i++)
        count(s, children[i]);
}

bool shares_find(struct env *env, const struct node *n)
{
    uint64_t hash;
    struct shares s = {0};
    if (!hash_node(env, &s, n, &hash))
        return false;
    if (s.n < 2)
        return true;
    qsort(s.aggregates, s.n, sizeof(*s.aggregates), by_node);
    struct shares *kept = ENV_NEW(env, struct shares);
    if (!kept || !(s.hashes = ENV_ARRAY(env, uint64_t, s.n)) || !(s.counts = ENV_ARRAY(env, size_t, s.n)))
        return false;
    for (size_t i = 0; i < s.n; i++)
        s.hashes[i] = s.aggregates[i].hash;
    qsort(s.hashes, s.n, sizeof(*s.hashes), by_hash);
    for (size_t i = 0; i < s.n; i++)
        if (i == 0 || s.hashes[i] != s.hashes[s.n_hashes - 1])
            s.hashes[s.n_hashes++] = s.hashes[i];
    if (s.n_hashes == s.n)
        return true; /* nothing comes twice */
    count(&s, n);
    *kept = s;
    env->shares = kept;
    return true;
}

/* --- sharing ------------------------------------------------------------------------------------------------------------------------------ */

static bool same_text(const struct node *a, const struct node *b)
{
    struct buf x, y;
    buf_init(&x, TEXT_MAX);
    buf_init(&y, TEXT_MAX);
    promql_print(a, &x);
    promql_print(b, &y);
    bool same = !x.failed && !y.failed && slice_eq(buf_slice(&x), buf_slice(&y));
    buf_release(&x);
    buf_release(&y);
    return same;
}

static unsigned flags_of(const struct env *env)
{
    return (unsigned)env->hist_stats | (unsigned)env->hist_buckets << 1 | (unsigned)env->over_time << 2;
}

static bool same_grid(const struct grid *a, const struct grid *b)
{
    return a->start_ms == b->start_ms && a->step_ms == b->step_ms && a->n == b->n;
}

struct shared_op {
    struct op op;
    struct share *share;
    size_t i;
    struct batch *out;
};

static bool copy_into(struct shared_op *s, const struct column *from)
{
    const struct grid *g = &s->op.grid;
    struct column *to = batch_slot(s->op.env, s->out, g);
    if (!to)
        return false;
    to->labels = from->labels;
    to->drop_name = from->drop_name;
    memcpy(to->v, from->v, g->n * sizeof(*to->v));
    memcpy(to->present, from->present, grid_words(g) * sizeof(*to->present));
    if (!from->h)
        return true;
    if (!column_need_hists(s->op.env, s->out, s->out->n - 1, g))
        return false;
    memcpy(to->h, from->h, g->n * sizeof(*to->h));
    return true;
}

static bool shared_next(struct op *op, struct batch **ret)
{
    struct shared_op *s = (struct shared_op *)op;
    struct share *share = s->share;
    if (!share->drained && !op_drain(share->op, &share->cs))
        return false;
    share->drained = true;
    if (!s->out && !(s->out = batch_new(op->env, batch_cap_for(&op->grid))))
        return false;
    if (!batch_begin(op->env, s->out))
        return false;
    while (s->i < share->cs.n && s->out->n < s->out->cap)
        if (!copy_into(s, &share->cs.cols[s->i++]))
            return false;
    *ret = s->out;
    return true;
}

static void shared_end(struct op *op)
{
    batch_end(op->env, ((struct shared_op *)op)->out);
}

static const struct op_ops shared_ops = {.next = shared_next, .end = shared_end};

static struct op *reader_of(struct env *env, struct share *share)
{
    struct shared_op *s = (struct shared_op *)op_new(env, sizeof(*s), &shared_ops, &share->grid);
    if (!s)
        return NULL;
    s->share = share;
    s->op.unique = share->op->unique;
    return &s->op;
}

size_t shares_uses(const struct env *env, const struct node *n, uint64_t *ret_hash)
{
    const struct repeat *r = env->shares ? repeat_of(env->shares, n) : NULL;
    if (!r)
        return 1;
    *ret_hash = r->hash;
    return *count_of(env->shares, r->hash);
}

size_t shares_count(const struct env *env)
{
    return env->shares ? env->shares->n_hashes : 0;
}

struct op *plan_shared(struct env *env, const struct node *n, const struct grid *g, struct op *(*plan)(struct env *, const struct node *, const struct grid *))
{
    uint64_t hash;
    if (shares_uses(env, n, &hash) < 2)
        return plan(env, n, g);
    unsigned flags = flags_of(env);
    for (struct share *s = env->shares->first; s; s = s->next)
        if (s->hash == hash && s->flags == flags && same_grid(&s->grid, g))
            return same_text(s->node, n) ? reader_of(env, s) : plan(env, n, g);
    struct share *s = ENV_NEW(env, struct share);
    if (!s || !(s->op = plan(env, n, g)))
        return NULL;
    s->node = n;
    s->grid = *g;
    s->hash = hash;
    s->flags = flags;
    s->next = env->shares->first;
    env->shares->first = s;
    return reader_of(env, s);
}
