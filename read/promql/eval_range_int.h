/* Range functions: what the files eval_range*.c share. */
#pragma once

#include "read/promql/crew_int.h"

/* Function and its float kernel. */
#define RANGE_KERNELS(X)                                                                                               \
    X(RATE, k_rate)                                                                                                    \
    X(INCREASE, k_rate)                                                                                                \
    X(DELTA, k_rate)                                                                                                   \
    X(IRATE, k_irate)                                                                                                  \
    X(IDELTA, k_irate)                                                                                                 \
    X(SUM_OVER_TIME, k_sum)                                                                                            \
    X(AVG_OVER_TIME, k_avg)                                                                                            \
    X(COUNT_OVER_TIME, k_count)                                                                                        \
    X(PRESENT_OVER_TIME, k_present)                                                                                    \
    X(FIRST_OVER_TIME, k_first)                                                                                        \
    X(LAST_OVER_TIME, k_last)                                                                                          \
    X(TS_OF_FIRST_OVER_TIME, k_ts_first)                                                                               \
    X(TS_OF_LAST_OVER_TIME, k_ts_last)                                                                                 \
    X(MIN_OVER_TIME, k_min)                                                                                            \
    X(MAX_OVER_TIME, k_max)                                                                                            \
    X(TS_OF_MIN_OVER_TIME, k_ts_min)                                                                                   \
    X(TS_OF_MAX_OVER_TIME, k_ts_max)                                                                                   \
    X(CHANGES, k_changes)                                                                                              \
    X(RESETS, k_resets)                                                                                                \
    X(STDDEV_OVER_TIME, k_stdvar)                                                                                      \
    X(STDVAR_OVER_TIME, k_stdvar)                                                                                      \
    X(DERIV, k_deriv)                                                                                                  \
    X(PREDICT_LINEAR, k_deriv)                                                                                         \
    X(DOUBLE_EXPONENTIAL_SMOOTHING, k_smoothing)                                                                       \
    X(QUANTILE_OVER_TIME, k_quantile)                                                                                  \
    X(MAD_OVER_TIME, k_mad)

struct range_op {
    struct op op;
    const struct node *call;
    const struct node *arg; /* the range vector */
    int fn;
    bool counter;
    bool start_times; /* the function looks at start timestamps, and there may be some */
    bool anchored, smoothed;
    bool stats; /* only count and sum are asked for: see mark_resets */
    bool opened;
    int64_t range_ms;
    struct time_shift shift;
    double *param, *param2;

    const struct node *selector; /* either series of the store ... */
    const struct label_names *labels; /* that are looked at; NULL: all */
    struct reader reader;
    struct op *child; /* ... or of a subquery; neither: there is nothing in any window */
    struct batch *in;
    size_t in_i;
    int64_t *t;
    double *v;
    const struct fhist **h;
    bool source_unique;

    struct crew_run *run; /* once the selector has given series enough */
    struct batch *out;
    struct arena *series_mem; /* histograms of the series being worked on */
    struct arena *window_mem; /* and of one window */
    uint32_t *resets;
    size_t resets_cap;
    bool needs_values;
    double *values;   /* scratch of one window */
    double *float_v;  /* the floats of a mixed window */
    int64_t *float_t;
    size_t values_cap;
    void *slide; /* scratch of a series: see eval_range_slide.c */
    size_t slide_cap;
    struct slice noted_name;
};

/* One series on its way through the sweep. */
struct sweep {
    struct range_op *r;
    const int64_t *t;
    const double *v;
    size_t n;
    const uint32_t *next_reset; /* of a counter that was reset */
    const int64_t *start_t;     /* as of struct samples */
};

/* Where annotations point at. Upstream puts a selector without a position in the place of a subquery: they point at the query's begin. */
static inline int32_t range_pos(const struct range_op *r)
{
    return r->arg->kind == NODE_SUBQUERY ? 0 : r->arg->pos.start;
}

struct range_op *range_op_new(struct env *env, const struct node *call, const struct grid *g);
/* False: the query was cancelled or ran out of time. */
bool sweep_floats(const struct sweep *s, struct column *out);
/* A sum of some values: kahan_add's state. */
struct partial_sum {
    double sum, comp;
};
/* The same as sweep_floats for functions whose windows share work. False: this one, or this series, is not among them. */
bool slide_floats(const struct sweep *s, struct column *out);
bool function_slides(int fn);
/* The same of a series that is partly aggregates, where the number of samples matters. */
bool sweep_downsampled(const struct sweep *s, const struct samples *in, struct column *out);
/* rate, increase or delta of a window that stands for n samples. */
bool rate_of_window(const struct sweep *s, size_t lo, size_t hi, size_t step, size_t n, double *out);
/* One window of floats through the function's kernel. */
bool window_floats(const struct sweep *s, size_t lo, size_t hi, size_t step, double *out);
/*
 * eval_range_start.c: rate and increase where samples have start timestamps. A start inside the window, before its first sample, is a sample of value
 * zero: nothing is extrapolated to the left, and one sample is enough.
 */
bool starts_in_window(const struct sweep *s, size_t lo, size_t step);
/* The factor, per second for rate, of such a window of n >= 1 samples from lo on. */
double start_factor(const struct sweep *s, size_t lo, size_t n, size_t step);
/* Warns when a sample of the window started before the sample before it ended. */
void note_overlap(const struct sweep *s, size_t lo, size_t hi);
/* A series of an extended range selector. */
bool sweep_extended(struct range_op *r, const struct samples *in, struct column *out);
bool check_extended(struct range_op *r);
/* A series that has histograms. The column is the newest of r->out. */
bool sweep_hists(const struct sweep *s, const struct samples *in, struct column *out);
