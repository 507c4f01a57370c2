/*
 * Series in parallel: the batches of a selector or range function made by several threads, consumed in the order of the series.
 *
 * A run belongs to one operator. It has lanes, each with a copy of the operator, an environment of its own (arenas, error, annotations) and room for some
 * series with their encoded chunks. The query's thread fills lanes from the series set in turn; it and its helpers, threads of the engine's crew, work on
 * whatever lane is filled; the query's thread hands the lanes' batches up in the order in which they were filled. What is counted in the query's
 * environment (series, chunks, samples, annotations) is counted when a batch is handed up. So answers and errors are those of one thread, whatever
 * the number of helpers, and none of them has to come: a helper that finds nothing to do goes.
 *
 *   locks   run->lock guards the states of lanes; a lane's other fields belong to whoever has it: the query's thread while it is FREE, DONE or HELD,
 *           the thread that made it RUNNING.
 *   memory  lanes are charged to the query at its next tick; each may take what was left when it was filled.
 *   life    the run is freed by the last of the query and the helpers' jobs; jobs that begin after run_end find it closed. run_end waits for running lanes only.
 */
#pragma once

#include "read/promql/engine_int.h"

#define LANE_SERIES 64

struct crew_run;

/* What an operator has to give. */
struct lane_ops {
    /* A copy of op that works in env: scratch memory of its own, and a batch of cap series in *ret_out. NULL: the error is in env. */
    struct op *(*copy)(const struct op *op, struct env *env, size_t cap, struct batch **ret_out);
    /* One series into the copy's batch. */
    bool (*one)(struct op *copy, const struct series *s);
};

/* Is a crew there, are there series enough for it, and is memory? Asked before each batch. */
bool run_wanted(const struct op *op, const struct reader *r);
/* reader: where series come from; the operator does not read it any more. NULL: no memory, the error is set. */
struct crew_run *run_new(struct op *op, struct reader *reader, const struct lane_ops *ops);
/* As op_ops.next. */
bool run_next(struct crew_run *run, struct batch **ret);
/* Takes the run out of the query's environment. NULL does nothing. */
void run_end(struct crew_run *run);
/* Bytes of all lanes of the query's runs. */
uint64_t runs_used_bytes(const struct env *env);
/* Ends those that have not come to their end. */
void runs_release(struct env *env);
