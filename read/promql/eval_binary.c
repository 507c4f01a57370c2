/* Binary operators on two values, and between a vector and a scalar. Two vectors: eval_match.c. */
#include "read/promql/engine_int.h"

static const char *const op_texts[] = {
    [OP_ADD] = "+",   [OP_SUB] = "-",   [OP_MUL] = "*",   [OP_DIV] = "/",    [OP_MOD] = "%",  [OP_POW] = "^",       [OP_ATAN2] = "atan2",
    [OP_EQ] = "==",   [OP_NEQ] = "!=",  [OP_GTR] = ">",   [OP_LSS] = "<",    [OP_GTE] = ">=", [OP_LTE] = "<=",      [OP_AND] = "and",
    [OP_OR] = "or",   [OP_UNLESS] = "unless", [OP_TRIM_UPPER] = "</", [OP_TRIM_LOWER] = ">/",
};

const char *op_symbol(enum binary_op op)
{
    return op_texts[op];
}

double binary_float(enum binary_op op, double l, double r, bool *ret_keep)
{
    *ret_keep = true;
    switch (op) {
    case OP_ADD:
        return l + r;
    case OP_SUB:
        return l - r;
    case OP_MUL:
        return l * r;
    case OP_DIV:
        return l / r;
    case OP_MOD:
        return fmod(l, r);
    case OP_POW:
        return pow(l, r);
    case OP_ATAN2:
        return atan2(l, r);
    case OP_EQ:
        *ret_keep = l == r;
        return l;
    case OP_NEQ:
        *ret_keep = l != r;
        return l;
    case OP_GTR:
        *ret_keep = l > r;
        return l;
    case OP_LSS:
        *ret_keep = l < r;
        return l;
    case OP_GTE:
        *ret_keep = l >= r;
        return l;
    case OP_LTE:
        *ret_keep = l <= r;
        return l;
    default:
        *ret_keep = false;
        return l;
    }
}

/* Arithmetic on whole columns, for the compiler to vectorise. */
void arith_columns(enum binary_op op, const double *l, const double *r, double *out, size_t n)
{
#define LOOP(expr)                                                                                                     \
    for (size_t i = 0; i < n; i++)                                                                                     \
        out[i] = (expr);                                                                                               \
    return
    switch (op) {
    case OP_ADD:
        LOOP(l[i] + r[i]);
    case OP_SUB:
        LOOP(l[i] - r[i]);
    case OP_MUL:
        LOOP(l[i] * r[i]);
    case OP_DIV:
        LOOP(l[i] / r[i]);
    case OP_MOD:
        LOOP(fmod(l[i], r[i]));
    case OP_POW:
        LOOP(pow(l[i], r[i]));
    default:
        LOOP(atan2(l[i], r[i]));
    }
#undef LOOP
}

/* --- two values --------------------------------------------------------------------------------------------------------------------- */

/* What is noted, from BINARY_NOTED on: the types of both sides as two bits, then what else there is. */
enum { NOTE_LEFT_HIST = 1, NOTE_RIGHT_HIST = 2, NOTE_LAYOUT = 4, NOTE_RESETS = 5 };

static int note_types(struct value l, struct value r)
{
    return BINARY_NOTED + (l.h ? NOTE_LEFT_HIST : 0) + (r.h ? NOTE_RIGHT_HIST : 0);
}

static void note_step(struct env *env, const struct node *n, int noted)
{
    const char *op = op_symbol(n->binary.op);
    int note = noted - BINARY_NOTED;
    if (note == NOTE_LAYOUT)
        WARN(env, n->pos.start, "incompatible bucket layout encountered for binary operator %s", op);
    else if (note == NOTE_RESETS)
        WARN(env, n->pos.start, "conflicting counter resets during histogram %s", n->binary.op == OP_ADD ? "addition" : "subtraction");
    else
        INFO(env, n->pos.start, "incompatible sample types encountered for binary operator \"%s\": %s %s %s", op,
             note & NOTE_LEFT_HIST ? "histogram" : "float", op, note & NOTE_RIGHT_HIST ? "histogram" : "float");
}

void binary_note_steps(struct env *env, const struct node *n, const uint8_t *notes, size_t n_steps)
{
    for (size_t i = 0; i < n_steps; i++)
        if (notes[i])
            note_step(env, n, notes[i]);
}

static int hist_sum(struct env *env, struct arena *mem, const struct node *n, struct value l, struct value r, struct value *ret)
{
    bool add = n->binary.op == OP_ADD;
    const char *what = add ? "addition" : "subtraction";
    unsigned notes = 0;
    struct fhist *h;
    enum fhist_status st = fhist_add(l.h, r.h, add ? 1 : -1, mem, &h, &notes);
    if (st == FHIST_NO_MEMORY) {
        env_memory_error(env);
        return -1;
    }
    if (st == FHIST_INCOMPATIBLE)
        return BINARY_NOTED + NOTE_LAYOUT;
    if (notes & FHIST_RESET_CONFLICT) /* upstream treats this warning as it does the others: no result */
        return BINARY_NOTED + NOTE_RESETS;
    if (notes & FHIST_MISMATCHED_BOUNDS)
        INFO(env, n->pos.start, "mismatched custom buckets were reconciled during %s", what);
    *ret = (struct value){.h = h};
    return 1;
}

static int hist_result(struct env *env, const struct fhist *h, struct value *ret)
{
    if (!h) {
        env_memory_error(env);
        return -1;
    }
    *ret = (struct value){.h = h};
    return 1;
}

static int compare_result(const struct node *n, bool keep, struct value kept, struct value *ret)
{
    if (n->binary.return_bool) {
        *ret = (struct value){.f = keep};
        return 1;
    }
    *ret = kept;
    return keep;
}

static int with_hists(struct env *env, struct arena *mem, const struct node *n, struct value l, struct value r, struct value kept,
                      struct value *ret)
{
    enum binary_op op = n->binary.op;
    if (l.h && r.h) {
        if (op == OP_ADD || op == OP_SUB)
            return hist_sum(env, mem, n, l, r, ret);
        if (op == OP_EQ || op == OP_NEQ)
            return compare_result(n, fhist_eq(l.h, r.h) == (op == OP_EQ), kept, ret);
        return note_types(l, r);
    }
    if (op == OP_MUL)
        return hist_result(env, l.h ? fhist_scale(l.h, r.f, mem) : fhist_scale(r.h, l.f, mem), ret);
    if (l.h && op == OP_DIV)
        return hist_result(env, fhist_div(l.h, r.f, mem), ret);
    if (l.h && op_is_trim(op))
        return hist_result(env, fhist_trim(l.h, r.f, op == OP_TRIM_UPPER, mem), ret);
    return note_types(l, r);
}

int binary_values(struct env *env, struct arena *mem, const struct node *n, struct value l, struct value r, bool keep_right,
                  struct value *ret)
{
    struct value kept = keep_right ? r : l;
    enum binary_op op = n->binary.op;
    if (l.h || r.h)
        return with_hists(env, mem, n, l, r, kept, ret);
    if (op_is_trim(op))
        return note_types(l, r);
    bool keep;
    double v = binary_float(op, l.f, r.f, &keep);
    if (op_is_comparison(op))
        return compare_result(n, keep, kept, ret);
    *ret = (struct value){.f = v};
    return 1;
}

bool drops_name(const struct node *n)
{
    enum binary_op op = n->binary.op;
    return n->binary.return_bool || op <= OP_ATAN2;
}

/* --- a vector and a scalar ------------------------------------------------------------------------------------------------------------- */

struct scalar_op {
    struct op op;
    const struct node *node;
    struct op *child;
    double *scalar;
    bool scalar_left;
    uint8_t *notes; /* a step: what is to be noted of it */
};

#define COMPARE(OP)                                                                                                    \
    for (size_t i = 0; i < n; i++)                                                                                     \
        keep |= (uint64_t)(l[i] OP r[i]) << i;                                                                         \
    return keep

/* Which of up to 64 comparisons hold. */
static uint64_t compare_word(enum binary_op op, const double *l, const double *r, size_t n)
{
    uint64_t keep = 0;
    switch (op) {
    case OP_EQ:
        COMPARE(==);
    case OP_NEQ:
        COMPARE(!=);
    case OP_GTR:
        COMPARE(>);
    case OP_LSS:
        COMPARE(<);
    case OP_GTE:
        COMPARE(>=);
    default:
        COMPARE(<=);
    }
}

static void compare_column(const struct scalar_op *s, struct column *c)
{
    const struct grid *g = &s->op.grid;
    for (size_t w = 0; w < grid_words(g); w++) {
        const double *l = c->v + w * 64, *r = s->scalar + w * 64;
        size_t n = g->n - w * 64 < 64 ? g->n - w * 64 : 64;
        uint64_t keep = c->present[w] ? compare_word(s->node->binary.op, s->scalar_left ? r : l, s->scalar_left ? l : r, n) : 0;
        if (!s->node->binary.return_bool)
            c->present[w] &= keep;
        else
            for (size_t i = 0; i < n; i++)
                c->v[w * 64 + i] = (double)(keep >> i & 1);
    }
}

static bool scalar_column(struct scalar_op *s, struct batch *b, size_t slot)
{
    struct env *env = s->op.env;
    const struct grid *g = &s->op.grid;
    struct column *c = &b->cols[slot];
    const struct node *n = s->node;
    if (!c->h && n->binary.op <= OP_ATAN2) {
        arith_columns(n->binary.op, s->scalar_left ? s->scalar : c->v, s->scalar_left ? c->v : s->scalar, c->v, g->n);
        return true;
    }
    if (!c->h && op_is_comparison(n->binary.op)) {
        compare_column(s, c);
        return true;
    }
    FOR_PRESENT (i, c, g) {
        struct value vec = {c->v[i], c->h ? c->h[i] : NULL}, sc = {s->scalar[i], NULL}, out = {0};
        int got = s->scalar_left ? binary_values(env, b->mem, n, sc, vec, true, &out) : binary_values(env, b->mem, n, vec, sc, false, &out);
        if (got < 0)
            return false;
        if (got >= BINARY_NOTED)
            s->notes[i] = (uint8_t)got;
        if (got != BINARY_VALUE) {
            bit_clear(c->present, i);
            continue;
        }
        c->v[i] = out.f;
        if (c->h)
            c->h[i] = out.h;
    }
    return true;
}

static bool scalar_next(struct op *op, struct batch **ret)
{
    struct scalar_op *s = (struct scalar_op *)op;
    if (!op_next(s->child, ret))
        return false;
    if (!*ret || (*ret)->n == 0)
        binary_note_steps(op->env, s->node, s->notes, op->grid.n);
    for (size_t i = 0; *ret && i < (*ret)->n; i++) {
        if (!scalar_column(s, *ret, i))
            return false;
        if (drops_name(s->node) && !column_drop_name(op->env, (*ret)->mem, &(*ret)->cols[i]))
            return false;
    }
    return true;
}

static const struct op_ops scalar_ops = {.next = scalar_next};

struct op *plan_vector_scalar(struct env *env, const struct node *n, const struct grid *g)
{
    struct scalar_op *s = (struct scalar_op *)op_new(env, sizeof(*s), &scalar_ops, g);
    if (!s || !(s->notes = ENV_ARRAY(env, uint8_t, g->n)))
        return NULL;
    s->node = n;
    s->scalar_left = n->binary.lhs->type == VALUE_SCALAR;
    bool buckets = env->hist_buckets;
    env->hist_buckets |= op_is_trim(n->binary.op);
    bool ok = eval_scalar(env, s->scalar_left ? n->binary.lhs : n->binary.rhs, g, &s->scalar) &&
              (s->child = plan_vector(env, s->scalar_left ? n->binary.rhs : n->binary.lhs, g));
    env->hist_buckets = buckets;
    if (!ok)
        return NULL;
    s->op.unique = s->child->unique;
    return drops_name(n) ? op_merge_names(&s->op, MERGE_TURNS) : &s->op;
}
