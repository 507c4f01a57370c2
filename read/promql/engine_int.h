/*
 * Inside of the engine: columns, batches, operators, the environment of one query. See README.md for the story.
 *
 * An environment and all that hangs on it belong to one thread; a query whose series are worked on by several has an environment more for each of its lanes
 * (crew_int.h). Everything is freed at once by env_release.
 */
#pragma once

#include <math.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

#include "base/arena.h"
#include "base/assert.h"
#include "base/ctx.h"
#include "base/err.h"
#include "model/labels.h"
#include "read/promql/ast.h"
#include "read/promql/engine.h"
#include "read/promql/kernel_int.h"
#include "read/promql/tally_int.h"
#include "storage/queryable.h"

/* The steps an operator computes. An instant query has n == 1; step_ms is never 0. */
struct grid {
    int64_t start_ms;
    int64_t step_ms;
    size_t n;
};

static inline int64_t grid_t(const struct grid *g, size_t i)
{
    return g->start_ms + (int64_t)i * g->step_ms;
}
static inline int64_t grid_end(const struct grid *g)
{
    return grid_t(g, g->n - 1);
}
static inline size_t grid_words(const struct grid *g)
{
    return (g->n + 63) / 64;
}

/*
 * One series over the steps of a grid. Step i has a value where bit i of present is set: a histogram where h and h[i] are not NULL,
 * else the float v[i]. h is NULL in a series without histograms: the float path tests one pointer a series.
 */
struct column {
    struct labels labels;
    double *v;
    uint64_t *present;
    const struct fhist **h;
    bool drop_name; /* only with delayed name removal: __name__ goes when the result is written */
};

static inline bool bit_get(const uint64_t *b, size_t i)
{
    return b[i >> 6] >> (i & 63) & 1;
}
static inline void bit_set(uint64_t *b, size_t i)
{
    b[i >> 6] |= (uint64_t)1 << (i & 63);
}
static inline void bit_clear(uint64_t *b, size_t i)
{
    b[i >> 6] &= ~((uint64_t)1 << (i & 63));
}
static inline bool column_is_hist(const struct column *c, size_t i)
{
    return c->h && c->h[i];
}
bool column_empty(const struct column *c, const struct grid *g);

/* for (each step i that has a value) */
#define FOR_PRESENT(i, col, grid)                                                                                      \
    for (size_t w_ = 0, nw_ = grid_words(grid); w_ < nw_; w_++)                                                        \
        for (uint64_t bits_ = (col)->present[w_]; bits_; bits_ &= bits_ - 1)                                           \
            for (size_t i = w_ * 64 + (size_t)__builtin_ctzll(bits_), once_ = 1; once_; once_ = 0)

/*
 * What an operator hands up: at most cap series, whose memory belongs to the operator that made the batch and stays valid until its
 * next call. Who receives a batch may overwrite values, presence, h slots and labels in place, and allocate from mem what has to live
 * as long as the batch.
 */
struct batch {
    struct column *cols;
    size_t n;
    size_t cap;
    struct arena *mem;
    const struct fhist ***h_store; /* a spare h column a slot, made when first needed */
    double **v_store;
    uint64_t **present_store;
    struct arena *store; /* of the columns: a long way of the query may have thousands of operators, most of which have ended */
};

struct op;
struct op_ops {
    /* *ret == NULL or a batch of 0 series: the end. */
    bool (*next)(struct op *op, struct batch **ret);
    /* Gives back memory when the end has been seen; NULL: there is nothing worth it. next is not called again. */
    void (*end)(struct op *op);
};

/* First member of every operator's own struct, which lives in env->root. */
struct op {
    const struct op_ops *ops;
    struct env *env;
    struct grid grid;
    struct count_as count; /* as env->count was when it was planned */
    bool unique; /* no two series of the output are equal but for __name__ */
    bool ended;
};

/* An arena of the query, linked so that the sum of all of them can be held against the budget. */
struct mem {
    struct arena arena;
    struct mem *next, *prev;
};

struct set_ref {
    struct series_set *set;
    struct set_ref *next;
};
struct regex_ref {
    struct regex *regex;
    struct regex_ref *next;
};
struct matcher_ref { /* made while the query runs */
    struct matcher matcher;
    struct matcher_ref *next;
};

struct annotation {
    struct slice text;
    bool info;
    uint64_t hash;
    size_t n;    /* 0: the text is whole; else how often it came, and at the end that, what follows and the position are written behind it */
    int32_t pos; /* where it came first */
    bool forced; /* from a histogram_quantile, with the next three */
    int64_t min_t, max_t;
    struct bucket_fix fix;
};

struct env {
    const struct engine_config *cfg;
    const struct engine_query *query;
    struct queryable *q;
    struct ctx *ctx;
    struct err *err;
    int64_t lookback_ms;
    struct mem *mems;
    struct arena *root; /* operators, scalar columns, materialised series: what lives to the end of the query */
    struct arena *notes; /* annotations: the root, but for lanes */
    struct crew_run *runs; /* operators whose series several threads work on */
    uint64_t used_bytes;    /* as of the last tick */
    uint64_t outside_bytes; /* of a lane: what the rest of the query uses */
    struct set_ref *sets;
    struct regex_ref *regexes;
    struct matcher_ref *matchers;
    struct annotation *annotations;
    size_t n_annotations, cap_annotations;
    /* While planning: below histogram_count, _sum or _avg; and below what needs buckets, wherever between the two. See mark_resets. */
    bool hist_stats, hist_buckets;
    /* While planning: are start and end of the query, or of the subquery, different? sort() is warned of then, as upstream does, be it one step. */
    bool over_time;
    /* While planning: will the output be the result, or a subquery's samples, as it is? Then MERGE_KINDS gives floats and histograms that meet as two columns, one behind the other. */
    bool straight;
    bool any_pair; /* there are such columns */
    /* While planning: the selector of whose series only these labels are looked at, and the names. See plan_labels.c. */
    const struct node *projected;
    const struct label_names *projection;
    struct shares *shares; /* NULL: nothing comes twice */
    struct count_as count; /* while planning: where the samples that are looked at are counted */
    struct fold *folds, *last_fold;
    uint64_t samples_read;
    uint64_t samples_held; /* in memory now, against cfg->max_samples */
    uint64_t samples_most; /* of a lane's series */
    uint64_t n_series, n_chunks, chunk_bytes;
    struct slice quoted_for; /* what quoted() and for_metric() made last: messages come once a step, for one series after another */
    const char *quoted_text;
    struct slice for_metric_name;
    const char *for_metric_text;
    uint64_t work; /* since the last look at the deadline, see env_work */
    atomic_bool downsampled_refused; /* see struct select_downsampled */
};

/* --- engine_env.c ------------------------------------------------------------------------------------------------------- */

bool env_fail(struct env *env, enum err_code code, const char *fmt, ...) __attribute__((format(printf, 3, 4)));
/* As arena_alloc; NULL with ERR_MAX_QUERY_MEMORY set. */
void *env_alloc(struct env *env, struct arena *a, size_t bytes);
void *env_zalloc(struct env *env, struct arena *a, size_t n, size_t size);
#define ENV_NEW(env, type) ((type *)env_zalloc((env), (env)->root, 1, sizeof(type)))
#define ENV_ARRAY(env, type, n) ((type *)env_zalloc((env), (env)->root, (n), sizeof(type)))
bool env_memory_error(struct env *env);
/* An arena for batches or scratch. NULL with the error set. */
struct arena *env_arena(struct env *env);
/* Frees an arena of env_arena before the end of the query. NULL does nothing. */
void env_arena_end(struct env *env, struct arena *a);
/* Shares out what is left of the budget: before a batch is worked on. Also checks for cancellation. */
bool env_tick(struct env *env);
/*
 * For loops between ticks: counts work, in units of some nanoseconds, and looks at cancellation and deadline every few milliseconds.
 */
#define ENV_WORK_BETWEEN_CHECKS ((uint64_t)1 << 20)
static inline bool env_work(struct env *env, uint64_t units)
{
    if ((env->work += units) < ENV_WORK_BETWEEN_CHECKS)
        return true;
    env->work = 0;
    return ctx_check(env->ctx, env->err);
}
/* A sort that ends early, with false, when the query has to. */
typedef int env_cmp_fn(const void *a, const void *b, const void *arg);
bool env_sort(struct env *env, void *items, size_t n, size_t size, env_cmp_fn *cmp, const void *arg);
bool env_hold_samples(struct env *env, uint64_t n);
bool env_too_many_samples(struct env *env);
void env_release(struct env *env);

void annotate(struct env *env, bool info, int32_t pos, const char *fmt, ...) __attribute__((format(printf, 4, 5)));
/* Annotations that say how often they came: a warning, and what histogram_quantile says of counts it had to raise at time t. */
void annotate_count(struct env *env, int32_t pos, const char *fmt, ...) __attribute__((format(printf, 3, 4)));
void annotate_forced(struct env *env, int32_t pos, const char *for_metric, int64_t t, const struct bucket_fix *fix);
#define WARN(env, pos, ...) annotate((env), false, (pos), __VA_ARGS__)
#define INFO(env, pos, ...) annotate((env), true, (pos), __VA_ARGS__)
bool annotations_finish(struct env *env, struct engine_result *ret);
/* Those of a lane, as if they had been made here; it has none then. */
void annotations_move(struct env *env, struct env *lane);
/* A Go-quoted copy ("%q") in the root arena, for messages. s lives as long as the query. */
const char *quoted(struct env *env, struct slice s);
/* " for metric name \"x\"" or "". */
const char *for_metric(struct env *env, struct labels l);

/* batches */
#define BATCH_CAP_MAX 256 /* series, in any batch */
struct batch *batch_new(struct env *env, size_t cap);
void batch_end(struct env *env, struct batch *b); /* nothing of it is used any more; NULL does nothing */
size_t batch_cap_for(const struct grid *g);
/* Starts the next batch: no series, mem cleared. */
bool batch_begin(struct env *env, struct batch *b);
/* The next free slot with nothing present, and no histograms; the labels are empty. NULL: out of memory, the error is set. */
struct column *batch_slot(struct env *env, struct batch *b, const struct grid *g);
/* Gives slot i a histogram column, all NULL. Only for the operator that owns the batch: others may have swapped columns. */
bool column_need_hists(struct env *env, struct batch *b, size_t i, const struct grid *g);
/* A column of its own in arena a. */
bool column_alloc(struct env *env, struct arena *a, const struct grid *g, bool hists, struct column *ret);
/* A deep copy but for label strings, which live as long as the query. */
bool column_copy(struct env *env, struct arena *a, const struct grid *g, const struct column *from, struct column *ret);

struct columns {
    struct column *cols;
    size_t n, cap;
};
bool columns_push(struct env *env, struct columns *cs, struct column **ret);
/* Reads an operator to its end into the root arena. */
bool op_drain(struct op *op, struct columns *ret);

static inline bool op_next(struct op *op, struct batch **ret)
{
    *ret = NULL;
    if (op->ended)
        return true;
    if (!op->ops->next(op, ret))
        return false;
    if (!*ret || (*ret)->n == 0) {
        op->ended = true;
        if (op->ops->end)
            op->ops->end(op);
    }
    return true;
}

/* labels */
bool labels_without_name(struct env *env, struct arena *a, struct labels l, struct labels *ret);
/* The operation drops the metric name: now, or flagged when delayed. */
bool column_drop_name(struct env *env, struct arena *a, struct column *c);
/*
 * What of one label set may have values: only one at a step, or also a float and a histogram at one. Upstream's unary minus, label functions and delayed
 * removal of names let that happen: a result shows both (of an instant query the histogram), a subquery takes both, and who else computes with them sees the float, and from then on no
 * histogram of that series.
 */
enum merge_rule { MERGE_TURNS, MERGE_KINDS };
/* A series op whose output names were dropped: merges equal label sets when they may occur. */
struct op *op_merge_names(struct op *child, enum merge_rule rule);
struct op *op_merge(struct op *child, enum merge_rule rule);
bool fail_same_labelset(struct env *env);
struct slice metric_name(struct labels l);
/* A label set in arena a with the name set to value (removed when empty). */
bool labels_set(struct env *env, struct arena *a, struct labels l, struct slice name, struct slice value, struct labels *ret);

/* --- engine_plan.c --------------------------------------------------------------------------------------------------------- */

/* plan_tree.c: the tree without what it can do without; nodes that had to change are in the arena. NULL: out of memory. */
const struct node *plan_simplify(const struct node *n, struct arena *a);
/* A selector of which that has found that it selects nothing. */
bool is_nothing(const struct node *n);
/* plan_share.c: finds the expressions that come more than once. Before planning; false: out of memory. */
bool shares_find(struct env *env, const struct node *n);
/* How often the expression is asked for, and which others are the same (*ret_hash, when the result is more than 1). */
size_t shares_uses(const struct env *env, const struct node *n, uint64_t *ret_hash);
/* Expressions that differ; 0 when none comes twice. */
size_t shares_count(const struct env *env);
/* plan_labels.c: the selector of whose series an aggregation looks at no labels but those it groups by; NULL: there is none. */
const struct node *plan_projection(const struct env *env, const struct node *aggregate);
/* The names, when that is the selector that is being planned; else NULL, for all of them. */
static inline const struct label_names *projection_of(const struct env *env, const struct node *selector)
{
    return env->projected == selector ? env->projection : NULL;
}
/* What is evaluated for a node, in the order of the text; returns how many. */
size_t node_children(const struct node *n, const struct node *ret[static PROMQL_MAX_ARGS]);
/* Plans an expression by the function given, or reads from one that has been planned. */
struct op *plan_shared(struct env *env, const struct node *n, const struct grid *g, struct op *(*plan)(struct env *, const struct node *, const struct grid *));
const struct node *unwrap(const struct node *n);
struct op *plan_vector(struct env *env, const struct node *n, const struct grid *g);
/* A column of g->n doubles in the root arena, all present. */
bool eval_scalar(struct env *env, const struct node *n, const struct grid *g, double **ret);
/*
 * The least and the greatest value at any step, by which upstream judges an aggregation's parameter (as Go does it: NaN but for an infinity); true: one is NaN.
 */
bool scalar_extremes(const double *v, size_t n, double *ret_least, double *ret_most);
bool eval_string(struct env *env, const struct node *n, struct slice *ret);
bool is_invariant(const struct node *n);
struct op *op_new(struct env *env, size_t size, const struct op_ops *ops, const struct grid *g);
/* For operators whose result is computed as a whole: hands out cs in batches. */
struct op *op_columns(struct env *env, const struct grid *g, struct columns cs);

/* --- eval_*.c: one constructor an operator ------------------------------------------------------------------------------------ */

/* What a selector's values are: the samples', or, for timestamp() and start_timestamp(), the seconds of their times. */
enum selected { SELECT_VALUES, SELECT_TIMES, SELECT_START_TIMES };
struct op *plan_selector(struct env *env, const struct node *n, const struct grid *g, enum selected what);
struct op *plan_range_call(struct env *env, const struct node *call, const struct grid *g);
bool function_takes_range(const struct node *call);
struct op *plan_absent_over_time(struct env *env, const struct node *call, const struct grid *g);
struct op *plan_map_call(struct env *env, const struct node *call, const struct grid *g);
struct op *plan_negate(struct env *env, const struct node *n, const struct grid *g);
struct op *plan_vector_scalar(struct env *env, const struct node *n, const struct grid *g);
struct op *plan_binary(struct env *env, const struct node *n, const struct grid *g);
struct op *plan_set_op(struct env *env, const struct node *n, const struct grid *g);
struct op *plan_aggregate(struct env *env, const struct node *n, const struct grid *g);
/* "ignored histogram in min aggregation" */
void note_ignored_histogram(struct env *env, const struct node *aggregate);
void warn_quantile(struct env *env, double q, int32_t pos);
struct op *plan_aggregate_k(struct env *env, const struct node *n, const struct grid *g);
struct op *plan_label_call(struct env *env, const struct node *call, const struct grid *g);
struct op *plan_sort(struct env *env, const struct node *call, const struct grid *g);
struct op *plan_absent(struct env *env, const struct node *call, const struct grid *g);
struct op *plan_histogram_quantile(struct env *env, const struct node *call, const struct grid *g);
struct op *plan_info(struct env *env, const struct node *call, const struct grid *g);
bool eval_scalar_call(struct env *env, const struct node *call, const struct grid *g, double *out);
double binary_float(enum binary_op op, double l, double r, bool *ret_keep);
const char *op_symbol(enum binary_op op);
/* Does the result lose the metric name? */
bool drops_name(const struct node *binary);
/* Arithmetic on whole columns: out[i] = l[i] op r[i]. out may be l or r. */
void arith_columns(enum binary_op op, const double *l, const double *r, double *out, size_t n);
static inline bool op_is_comparison(enum binary_op op)
{
    return op >= OP_EQ && op <= OP_LTE;
}
static inline bool op_is_set(enum binary_op op)
{
    return op >= OP_AND && op <= OP_UNLESS;
}
static inline bool op_is_trim(enum binary_op op)
{
    return op == OP_TRIM_UPPER || op == OP_TRIM_LOWER;
}
/* Labels of the one series that absent() gives: those the selector fixes. */
bool absent_labels(struct env *env, const struct node *arg, struct labels *ret);

/*
 * One binary operation on two values, float or histogram: a value in *ret, none since a comparison filtered it out, none since the values do not go
 * together (which was annotated, and to upstream is as if the two had never met), or an error.
 */
enum { BINARY_ERROR = -1, BINARY_FILTERED = 0, BINARY_VALUE = 1, BINARY_NOTED = 2 /* and more: what to note */ };
/* notes: of each step what is to be noted, or 0; upstream keeps only the last of a step. */
void binary_note_steps(struct env *env, const struct node *n, const uint8_t *notes, size_t n_steps);
struct value {
    double f;
    const struct fhist *h;
};
int binary_values(struct env *env, struct arena *mem, const struct node *n, struct value l, struct value r, bool keep_right,
                  struct value *ret);

/* --- groups: series that share the values of some labels (eval_group.c) --------------------------------------------------------- */

/* Which labels make the key: those named (by / on), or all but those named and __name__ (without / ignoring). */
struct group_key {
    const struct slice *names;
    size_t n;
    bool exclude;
};

struct group {
    struct labels labels;
    uint64_t hash;
    uint32_t index;
};

struct groups {
    struct group *items;
    size_t n, cap;
    uint32_t *table; /* index + 1, 0 = free */
    size_t table_size;
};
/* Finds or adds the group of a series; *ret_new says which. */
bool groups_get(struct env *env, struct groups *gs, const struct group_key *key, struct labels l, uint32_t *ret_index, bool *ret_new);
/* -1 when there is none. */
int64_t groups_find(const struct groups *gs, const struct group_key *key, struct labels l);
bool groups_get_labels(struct env *env, struct groups *gs, struct labels l, uint32_t *ret_index, bool *ret_new);

/* --- samples of one series (reader.c, eval_downsampled.c) ---------------------------------------------------------------------------------------------- */

struct samples {
    size_t n;
    const int64_t *t;
    const double *v;
    const struct fhist *const *h; /* NULL: floats only */
    const int64_t *start_t;       /* start timestamps, 0 where there is none; NULL: of no sample */
    /* Where aggregates stand for samples, and their number matters: how many there are up to each of these times. NULL: they are what they are. */
    const double *counted;
    const int64_t *count_t;
    size_t n_counts;
};

struct downsampled_use;

#define READER_SERIES 64

struct reader {
    struct env *env;
    struct series_set *set;
    struct series *buf; /* READER_SERIES of them, from its opening to its end: a query may have 10^4 selectors that wait */
    size_t n, i;
    uint64_t n_series; /* that reader_next has given */
    int64_t min_t, max_t; /* both inclusive: what is decoded is clipped to it */
    struct arena *mem;    /* for the columns, which grow and are reused */
    size_t cap;
    int64_t *t;
    double *v;
    const struct fhist **h;
    struct arena *scratch; /* of one decode */
    /* eval_downsampled.c: what aggregates may be used for, NULL: nothing; what the store said of them; columns of counts */
    const struct downsampled_use *use;
    struct select_downsampled downsampled;
    struct reader *counts;
};
void reader_end(struct reader *r); /* its memory; the series set stays */
/* use NULL: samples alone; else what the windows are, as far as the engine knows it. */
/* labels: those that are looked at, NULL: all. */
bool reader_open(struct reader *r, struct env *env, const struct vector_selector *sel, const struct label_names *labels, int64_t min_t, int64_t max_t, const struct downsampled_use *use,
                 struct select_hints *windows);
/* A vector selector that lets one metric name through: names do not tell its series apart. */
bool selector_is_unique(const struct node *n);
/* Scratch for the decoding of series that come from elsewhere, in env. */
bool reader_open_lane(struct reader *r, struct env *env, int64_t min_t, int64_t max_t);
/* Counts a series against the query's limits; reader_next does. */
bool reader_charge(struct reader *r, const struct series *s);
/*
 * *ret == NULL: the end. What of a series is made for this query lies in mem, and series are had several at once: whoever clears mem now and then, as batch_begin does, says for how
 * many series there is room until then, and has taken them all.
 */
bool reader_next(struct reader *r, struct arena *mem, size_t room, const struct series **ret);
/* None has been had and not been given. */
static inline bool reader_is_empty(const struct reader *r)
{
    return r->i == r->n;
}
/* Histograms are made in hist_mem. Stale markers are kept as they are: floats by their bits, histograms by fhist.stale. */
bool reader_decode(struct reader *r, const struct series *s, struct arena *hist_mem, struct samples *ret);

/* Decodes a chunk of floats behind the first *n samples of the columns. */
bool reader_floats(struct reader *r, const struct series_chunk *c, size_t *n);
/* Puts the samples from `before` on between those before them, where they begin earlier than those end. */
bool reader_merge(struct reader *r, size_t before, size_t *n);

/* Takes the stale markers out, in the reader's own columns. */
void strip_stale(struct reader *r, struct samples *s);
/* What aggregates are good for in a function of ranges; NULL: for nothing. */
const struct downsampled_use *downsampled_use_of(int fn);
unsigned downsampled_aggregates(const struct downsampled_use *use); /* as in struct select_hints */
bool downsampled_in(const struct series *s);
/* A series that has some. */
bool downsampled_decode(struct reader *r, const struct series *s, struct samples *ret);

/* Fills in start_t. It is valid until the next series is decoded. */
bool reader_start_times(struct reader *r, const struct series *series, struct samples *s);
/*
 * Do start timestamps say that the count began anew between samples i - 1 and i? One that lies at the sample before is how deltas are written, but also
 * how OpenTelemetry continues a series whose start is unknown: then the sample before has its own time, or none, as its start.
 */
static inline bool start_is_reset(const int64_t *t, const int64_t *start_t, size_t i)
{
    if (!start_t)
        return false;
    int64_t prev_t = t[i - 1], prev_start = start_t[i - 1], start = start_t[i];
    if (start == 0 || start >= t[i] || start < prev_t)
        return false;
    return start > prev_t || (prev_start != 0 && prev_start < prev_t);
}
/* A start before the sample before, of which that sample does not know. */
static inline bool start_overlaps(const int64_t *t, const int64_t *start_t, size_t i)
{
    return start_t[i] != 0 && start_t[i] < t[i - 1] && start_t[i] != start_t[i - 1];
}
/*
 * Where only count and sum of histograms are asked for upstream decodes chunks with an iterator that finds counter resets on the fly, and with that the
 * hints of a sum may conflict and be warned of. This gives the samples of a series the hints that iterator would, and takes the buckets away as it
 * does: what they would be warned of is not, and resets of gauges show in their counts only.
 */
void mark_resets(struct samples *s, struct arena *scratch);
/* The samples of m[range] anchored or smoothed over [start, end], values at both ends included. false: out of memory. */
bool extend_floats(struct env *env, struct arena *mem, const struct samples *in, int64_t start, int64_t end, bool smoothed, struct samples *ret);
/* Between two samples of one type; share is how far from p to n, pos where annotations point at. false: out of memory. */
bool interpolate(struct env *env, struct arena *mem, int32_t pos, struct value p, struct value n, double share, bool counter, struct value *ret);

/* The steps of a subquery's expression that the windows of all steps of g need; n == 0 when there are none. Sets env->over_time for that expression. */
bool subquery_grid(struct env *env, const struct node *n, const struct grid *g, struct grid *ret);

/* Where a step looks: @ and offset applied. */
struct time_shift {
    bool fixed;
    int64_t at_ms;
    int64_t offset_ms;
};
struct time_shift time_shift_of(const struct env *env, enum at_kind at, int64_t at_ms, int64_t offset_ms);
/* Times and durations of a query's text, kept where adding a few of them cannot overflow. */
static inline int64_t sane_ms(int64_t ms)
{
    const int64_t max = (int64_t)1 << 60;
    return ms > max ? max : ms < -max ? -max : ms;
}
static inline int64_t time_shift_apply(const struct time_shift *s, int64_t t)
{
    return (s->fixed ? s->at_ms : t) - s->offset_ms;
}
