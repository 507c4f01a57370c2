/* Samples as Prometheus's statistics count them: see tally_int.h. */
#include "read/promql/engine_int.h"

struct fold {
    struct fold *next;
    const struct tally *from;
    struct count_as to;
    bool subquery;
    /* Of a subquery that is an argument (parent.n > 0): */
    struct grid inner, parent;
    int64_t offset_ms, range_ms;
};

struct tally *tally_new(struct env *env, size_t n_steps)
{
    struct tally *t = ENV_NEW(env, struct tally);
    if (!t || !(t->seen = ENV_ARRAY(env, uint64_t, n_steps)) || !(t->read = ENV_ARRAY(env, uint64_t, n_steps)))
        return NULL;
    t->n = n_steps;
    return t;
}

void tally_column(const struct count_as *c, const struct column *col, const struct grid *g)
{
    FOR_PRESENT (i, col, g) {
        uint64_t n = column_is_hist(col, i) ? fhist_size(col->h[i]) : 1;
        tally_add(c, i, n, n);
    }
}

void tally_move(const struct count_as *to, struct tally *lane)
{
    for (size_t i = 0; i < lane->n; i++) {
        tally_add(to, i, lane->seen[i], lane->read[i]);
        lane->seen[i] = lane->read[i] = 0;
    }
}

/* --- folds --------------------------------------------------------------------------------------------------------------------------- */

bool tally_begin(struct env *env, size_t n_steps, struct count_as *ret_outer)
{
    *ret_outer = env->count;
    if (!env->count.tally)
        return true;
    env->count = (struct count_as){.tally = tally_new(env, n_steps)};
    return env->count.tally != NULL;
}

static bool fold_note(struct env *env, const struct fold *what)
{
    if (!what->from || !what->to.tally)
        return true;
    struct fold *f = ENV_NEW(env, struct fold);
    if (!f)
        return false;
    *f = *what;
    if (env->last_fold)
        env->last_fold->next = f;
    else
        env->folds = f;
    env->last_fold = f;
    return true;
}

bool tally_fold_share(struct env *env, struct tally *from)
{
    return fold_note(env, &(struct fold){.from = from, .to = env->count});
}

bool tally_fold_subquery(struct env *env, struct tally *from, const struct grid *inner, const struct grid *g, int64_t offset_ms, int64_t range_ms)
{
    struct fold f = {.from = from, .to = env->count, .subquery = true, .inner = *inner, .offset_ms = offset_ms, .range_ms = range_ms};
    if (g)
        f.parent = *g;
    return fold_note(env, &f);
}

static void fold_share(const struct fold *f)
{
    for (size_t i = 0; i < f->from->n; i++)
        tally_add(&f->to, i, f->from->seen[i] + f->from->seen_each, f->from->read[i]);
}

/* A query that is a subquery: all of it belongs to its one step. */
static void fold_whole(const struct fold *f)
{
    uint64_t seen = f->from->seen_each * f->from->n, read = 0;
    for (size_t i = 0; i < f->from->n; i++) {
        seen += f->from->seen[i];
        read += f->from->read[i];
    }
    tally_add(&f->to, 0, seen, read);
}

/* What is read for a step of the subquery counts at the first step of the function whose window could hold it, if it does. */
static void fold_argument(const struct fold *f)
{
    const struct grid *g = &f->parent;
    for (size_t i = 0; i < f->from->n; i++) {
        int64_t t = grid_t(&f->inner, i) + f->offset_ms;
        size_t step = 0;
        if (g->n > 1 && t > g->start_ms)
            step = MIN((size_t)((t - g->start_ms + g->step_ms - 1) / g->step_ms), g->n - 1);
        if (g->n == 1 || t > grid_t(g, step) - f->range_ms)
            tally_add(&f->to, step, 0, f->from->read[i]);
    }
}

void tally_folds_run(struct env *env)
{
    for (const struct fold *f = env->folds; f; f = f->next) {
        if (!f->subquery)
            fold_share(f);
        else if (f->parent.n)
            fold_argument(f);
        else
            fold_whole(f);
    }
}
