/*
 * How many samples a query looks at, as Prometheus's statistics count them (samples.totalQueryableSamples and samplesRead of the API): at each step those that it
 * would look at were it an instant query, however often they were looked at before, and those of them that are new at the step. Only where the query asks.
 *
 * What counts is a selector and a function of ranges, each into the tally of the steps that it is planned for. What lies inside of a subquery, or of an
 * expression that several readers share, has a tally of its own, which is folded into those around it when the query is done: of a subquery only what is new
 * (its samples are counted when the function above looks at its points), of a share as often as it has readers. Folds are noted when what they fold is
 * planned, so that those inside come before those around them.
 */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct env;
struct grid;
struct column;

struct tally {
    size_t n;       /* steps */
    uint64_t *seen; /* of each step */
    uint64_t *read; /* of them those that no step before saw */
    uint64_t seen_each; /* at every step, of what does not depend on it */
};

/* Where an operator's samples go. spread: it has one step that stands for all of the tally's. */
struct count_as {
    struct tally *tally; /* NULL: nobody asks */
    bool spread;
};

struct fold;

/* In the arena of the query or, for a lane, of that; NULL: out of memory. */
struct tally *tally_new(struct env *env, size_t n_steps);
/* `new` of the `seen` samples at an operator's step are seen for the first time. */
static inline void tally_add(const struct count_as *c, size_t step, uint64_t seen, uint64_t new)
{
    *(c->spread ? &c->tally->seen_each : &c->tally->seen[step]) += seen;
    c->tally->read[step] += new;
}
/* A selector's series: one sample at each step that has a value. */
void tally_column(const struct count_as *c, const struct column *col, const struct grid *g);
/* A lane's, which is empty then. */
void tally_move(const struct count_as *to, struct tally *lane);
/* Below, while planning, what counts goes into a tally of its own; *ret_outer is to be put back into env->count. False: out of memory. */
bool tally_begin(struct env *env, size_t n_steps, struct count_as *ret_outer);
/* Notes that at the end `from` goes into env->count, for one reader more. from NULL does nothing. */
bool tally_fold_share(struct env *env, struct tally *from);
/* The same of a subquery's expression. g: the steps of the function it is an argument of, whose windows end offset_ms before them; NULL: it is the query itself. */
bool tally_fold_subquery(struct env *env, struct tally *from, const struct grid *inner, const struct grid *g, int64_t offset_ms, int64_t range_ms);
void tally_folds_run(struct env *env);
