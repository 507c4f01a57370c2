/*
 * What a query has more than once is evaluated once.
 *
 * `rate(a[5m]) / (rate(a[5m]) + sum(rate(b[5m])))`: before planning, the expressions of the tree that give series are hashed and counted, those inside of a
 * repeated one only where they are planned the first time. When one of them is planned its operator goes into a share; one with the same text, for the same
 * steps, then reads from that. The share's columns are kept to the end of the query, and each reader gets copies, since operators change what they get.
 *
 * What is no aggregation may be too large to be kept: a share takes at most a quarter of the memory that the query has left. Past it the reader that came first
 * goes on from where keeping ended, and each of the others evaluates for itself. A share that has got one reader only (the other place had other steps) keeps
 * nothing: batches are handed through.
 */
#include <stdlib.h>
#include <string.h>

#include "base/buf.h"
#include "read/promql/engine_int.h"

#define TEXT_MAX ((size_t)1 << 20)
#define KEPT_MAX ((uint64_t)256 << 20) /* of one share */
#define HISTOGRAM_BYTES 512 /* some */
#define SAME_HASH_MAX 8 /* shares that are looked at: their texts are compared */

struct repeat {
    const struct node *node;
    uint64_t hash;
};

enum share_state {
    SHARE_FRESH,
    SHARE_THROUGH, /* the owner has all of it, batch by batch */
    SHARE_KEPT,    /* cs is all of it */
    SHARE_BROKEN,  /* cs is what was kept before it became too much: the owner's alone */
};

typedef struct op *plan_fn(struct env *, const struct node *, const struct grid *);

struct shared_op;

struct share {
    struct share *next; /* of the same hash */
    const struct node *node;
    struct grid grid;
    unsigned flags;
    struct op *op;
    plan_fn *plan;
    enum share_state state;
    const struct shared_op *owner;
    size_t readers;
    struct columns cs;
    struct tally *tally; /* of what it reads; its readers are counted when they are planned */
};

struct shares {
    struct arena *mem;    /* of these arrays; given back at once when nothing comes twice */
    struct repeat *nodes; /* by node */
    size_t n, cap;
    uint64_t *hashes; /* sorted, each once */
    size_t *counts;
    struct share **made;
    size_t n_hashes;
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

static bool note_node(struct env *env, struct shares *s, const struct node *n, uint64_t hash)
{
    if (s->n == s->cap) {
        size_t cap = s->cap ? s->cap * 2 : 16;
        struct repeat *more = env_alloc(env, s->mem, cap * sizeof(*more));
        if (!more)
            return false;
        if (s->n)
            memcpy(more, s->nodes, s->n * sizeof(*more));
        s->nodes = more;
        s->cap = cap;
    }
    s->nodes[s->n++] = (struct repeat){n, hash};
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

/*
 * Expressions that are planned by plan_vector. Quantiles of histograms say how many counts they had to raise, and would say half as many; what is
 * below them is shared.
 */
static bool may_be_shared(const struct node *n)
{
    if (n->type != VALUE_VECTOR)
        return false;
    switch (n->kind) {
    case NODE_CALL:
        return n->call.fn->id != PROMQL_FN_HISTOGRAM_QUANTILE && n->call.fn->id != PROMQL_FN_HISTOGRAM_QUANTILES && n->call.fn->id != PROMQL_FN_VECTOR;
    case NODE_VECTOR_SELECTOR:
        return !is_nothing(n);
    case NODE_AGGREGATE:
    case NODE_BINARY:
        return true;
    case NODE_UNARY:
        return n->unary.negative;
    default:
        return false;
    }
}

/* A selector that its parent reads by itself, or only looks at. parent: the next above that is no parenthesis; NULL: there is none. */
static bool taken_by_parent(const struct node *parent, const struct node *n)
{
    if (!parent || n->kind != NODE_VECTOR_SELECTOR)
        return false;
    if (parent->kind == NODE_MATRIX_SELECTOR)
        return true;
    if (parent->kind != NODE_CALL)
        return false;
    int fn = parent->call.fn->id;
    return fn == PROMQL_FN_TIMESTAMP || fn == PROMQL_FN_START_TIMESTAMP || (fn == PROMQL_FN_INFO && n != unwrap(parent->call.args[0]));
}

/* Equal trees have equal hashes; that others have not is not promised. */
static bool hash_node(struct env *env, struct shares *s, const struct node *parent, const struct node *n, uint64_t *ret)
{
    const struct node *children[PROMQL_MAX_ARGS];
    size_t k = node_children(n, children);
    uint64_t h = hash_own(n), child;
    for (size_t i = 0; i < k; i++) {
        if (!hash_node(env, s, n->kind == NODE_PAREN ? parent : n, children[i], &child))
            return false;
        h = mix(h, child);
    }
    *ret = h;
    return !may_be_shared(n) || taken_by_parent(parent, n) || note_node(env, s, n, h);
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
    return s ? bsearch(&key, s->nodes, s->n, sizeof(key), by_node) : NULL;
}

static size_t place_of(const struct shares *s, uint64_t hash)
{
    return (size_t)((const uint64_t *)bsearch(&hash, s->hashes, s->n_hashes, sizeof(hash), by_hash) - s->hashes);
}

static size_t *count_of(const struct shares *s, uint64_t hash)
{
    return &s->counts[place_of(s, hash)];
}

/* From above: what is inside of a repeated expression is planned with the first of them only. */
static void count(const struct shares *s, const struct node *n)
{
    const struct node *children[PROMQL_MAX_ARGS];
    const struct repeat *r = repeat_of(s, n);
    if (r && (*count_of(s, r->hash))++ > 0)
        return;
    size_t k = node_children(n, children);
    for (size_t i = 0; i < k; i++)
        count(s, children[i]);
}

/* False: out of memory. */
static bool count_all(struct env *env, struct shares *s, const struct node *n)
{
    if (s->n < 2)
        return true;
    qsort(s->nodes, s->n, sizeof(*s->nodes), by_node);
    s->hashes = env_zalloc(env, s->mem, s->n, sizeof(*s->hashes));
    if (!s->hashes)
        return false;
    for (size_t i = 0; i < s->n; i++)
        s->hashes[i] = s->nodes[i].hash;
    qsort(s->hashes, s->n, sizeof(*s->hashes), by_hash);
    for (size_t i = 0; i < s->n; i++)
        if (i == 0 || s->hashes[i] != s->hashes[s->n_hashes - 1])
            s->hashes[s->n_hashes++] = s->hashes[i];
    if (s->n_hashes == s->n)
        return true;
    s->counts = env_zalloc(env, s->mem, s->n_hashes, sizeof(*s->counts));
    s->made = env_zalloc(env, s->mem, s->n_hashes, sizeof(*s->made));
    if (!s->counts || !s->made)
        return false;
    count(s, n);
    return true;
}

bool shares_find(struct env *env, const struct node *n)
{
    uint64_t hash;
    struct shares s = {.mem = env_arena(env)};
    if (!s.mem || !hash_node(env, &s, NULL, n, &hash) || !count_all(env, &s, n))
        return false;
    if (s.n_hashes == s.n || s.n < 2) { /* nothing comes twice */
        env_arena_end(env, s.mem);
        return true;
    }
    env->shares = ENV_NEW(env, struct shares);
    if (env->shares)
        *env->shares = s;
    return env->shares != NULL;
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
    return (unsigned)env->hist_stats | (unsigned)env->hist_buckets << 1 | (unsigned)env->over_time << 2 | (unsigned)env->straight << 3;
}

static bool same_grid(const struct grid *a, const struct grid *b)
{
    return a->start_ms == b->start_ms && a->step_ms == b->step_ms && a->n == b->n;
}

struct shared_op {
    struct op op;
    struct share *share;
    struct op *own; /* once the share is broken, of those that do not own it */
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

/* Keeps what the operator gives, in whole batches, until it is too much. */
static bool keep(struct env *env, struct share *share)
{
    uint64_t max = env->cfg->max_memory_bytes, kept = 0;
    uint64_t most = max == 0 ? KEPT_MAX : max > env->used_bytes ? MIN((max - env->used_bytes) / 4, KEPT_MAX) : 0;
    while (share->state == SHARE_FRESH) {
        struct batch *b;
        if (!op_next(share->op, &b))
            return false;
        if (!b || b->n == 0) {
            share->state = SHARE_KEPT;
            return true;
        }
        for (size_t i = 0; i < b->n; i++) {
            struct column *c;
            if (!columns_push(env, &share->cs, &c) || !column_copy(env, env->root, &share->grid, &b->cols[i], c))
                return false;
            kept += share->grid.n * (sizeof(*c->v) + (c->h ? sizeof(*c->h) + HISTOGRAM_BYTES : 0)) + c->labels.n * sizeof(struct label) + sizeof(*c);
        }
        if (kept > most)
            share->state = SHARE_BROKEN;
    }
    return true;
}

static bool start(struct shared_op *s)
{
    struct share *share = s->share;
    if (share->state != SHARE_FRESH)
        return true;
    share->owner = s;
    if (share->readers > 1)
        return keep(s->op.env, share);
    share->state = SHARE_THROUGH;
    return true;
}

static unsigned flags_set(struct env *env, unsigned flags)
{
    unsigned before = flags_of(env);
    env->hist_stats = flags & 1;
    env->hist_buckets = flags & 2;
    env->over_time = flags & 4;
    env->straight = flags & 8;
    return before;
}

/* Too large to be kept: evaluated again. */
static bool plan_own(struct shared_op *s)
{
    struct env *env = s->op.env;
    struct share *share = s->share;
    unsigned before = flags_set(env, share->flags);
    struct count_as count = env->count;
    env->count = (struct count_as){0}; /* what the owner reads is counted for all */
    s->own = share->plan(env, share->node, &share->grid);
    env->count = count;
    flags_set(env, before);
    return s->own != NULL;
}

static bool shared_next(struct op *op, struct batch **ret)
{
    struct shared_op *s = (struct shared_op *)op;
    struct share *share = s->share;
    if (!start(s))
        return false;
    if (share->state == SHARE_BROKEN && share->owner != s)
        return (s->own || plan_own(s)) && op_next(s->own, ret);
    if (share->state == SHARE_THROUGH || (share->state == SHARE_BROKEN && s->i == share->cs.n))
        return op_next(share->op, ret);
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
    share->readers++;
    return tally_fold_share(env, share->tally) ? &s->op : NULL;
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

struct op *plan_shared(struct env *env, const struct node *n, const struct grid *g, plan_fn *plan)
{
    uint64_t hash;
    if (shares_uses(env, n, &hash) < 2)
        return plan(env, n, g);
    unsigned flags = flags_of(env);
    struct share **made = &env->shares->made[place_of(env->shares, hash)];
    size_t looked_at = 0;
    for (struct share *s = *made; s; s = s->next) {
        if (++looked_at > SAME_HASH_MAX)
            return plan(env, n, g);
        if (s->flags != flags || !same_grid(&s->grid, g) || s->state == SHARE_THROUGH || s->state == SHARE_BROKEN)
            continue;
        if (same_text(s->node, n))
            return reader_of(env, s);
    }
    struct share *s = ENV_NEW(env, struct share);
    struct count_as outer;
    if (!s || !tally_begin(env, g->n, &outer))
        return NULL;
    s->tally = env->count.tally;
    s->op = plan(env, n, g);
    env->count = outer;
    if (!s->op)
        return NULL;
    s->node = n;
    s->grid = *g;
    s->flags = flags;
    s->plan = plan;
    s->next = *made;
    *made = s;
    return reader_of(env, s);
}
