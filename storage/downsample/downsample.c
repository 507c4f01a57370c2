/* Names, and samples of a column: windows found, each folded into one sample or thinned to the few that a counter needs. */
#include "storage/downsample/downsample.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

#include "base/assert.h"
#include "model/histogram.h"

/* --- names ------------------------------------------------------------------------------------------------------------------ */

static const struct {
    const char *name;
    int64_t ms;
} resolutions[DOWNSAMPLE_RESOLUTIONS] = {{"5m", INT64_C(300000)}, {"1h", INT64_C(3600000)}};
static const char *const aggregates[DOWNSAMPLE_AGGREGATES] = {"count", "sum", "min", "max", "counter"};

const char *downsample_resolution_name(enum downsample_resolution r)
{
    return resolutions[r].name;
}

int64_t downsample_resolution_ms(enum downsample_resolution r)
{
    return resolutions[r].ms;
}

const char *downsample_aggregate_name(enum downsample_aggregate a)
{
    return aggregates[a];
}

int64_t downsample_after_ms(const struct limits *l, enum downsample_resolution r)
{
    return r == DOWNSAMPLE_5M ? l->compactor_downsample_5m_after : l->compactor_downsample_1h_after;
}

int64_t downsample_retention_ms(const struct limits *l, enum downsample_resolution r)
{
    int64_t own = r == DOWNSAMPLE_5M ? l->compactor_downsample_5m_retention : l->compactor_downsample_1h_retention;
    return own > 0 ? own : l->compactor_blocks_retention_period;
}

int64_t downsample_max_resolution_ms(const struct limits *l)
{
    return l->compactor_downsample_enabled ? l->querier_max_source_resolution : 0;
}

static void folder_name(enum downsample_resolution r, enum downsample_aggregate a, char *ret, size_t size)
{
    snprintf(ret, size, "%s-%s", resolutions[r].name, aggregates[a]);
}

struct bucket_name downsample_room(struct slice tenant, enum downsample_resolution r, enum downsample_aggregate a)
{
    char folder[16], path[32];
    folder_name(r, a, folder, sizeof(folder));
    snprintf(path, sizeof(path), DOWNSAMPLE_FOLDER "%s", folder);
    return bucket_tenant_file(tenant, path);
}

bool downsample_room_parse(struct slice folder, enum downsample_resolution *ret_r, enum downsample_aggregate *ret_a)
{
    for (unsigned r = 0; r < DOWNSAMPLE_RESOLUTIONS; r++)
        for (unsigned a = 0; a < DOWNSAMPLE_AGGREGATES; a++) {
            char name[16];
            folder_name(r, a, name, sizeof(name));
            if (!slice_eq(folder, slice_of(name)))
                continue;
            *ret_r = r;
            *ret_a = a;
            return true;
        }
    return false;
}

/* --- windows ---------------------------------------------------------------------------------------------------------------- */

/* The number of the window that t lies in, by its end: (end - 1) * R < t <= end * R. */
static int64_t window_of(int64_t t, int64_t resolution_ms)
{
    return t / resolution_ms + (t % resolution_ms > 0);
}

/* Where the window ends that begins with sample `from`. */
static size_t window_end(const struct downsample_column *c, size_t from, int64_t resolution_ms)
{
    size_t to = from + 1;
    int64_t window = window_of(c->t[from], resolution_ms);
    while (to < c->n && window_of(c->t[to], resolution_ms) == window)
        to++;
    return to;
}

/* Neumaier's compensated addition; an infinite sum has no compensation. The same as that of sum_over_time. */
static double sum_of(const double *v, size_t n)
{
    double sum = 0, comp = 0;
    for (size_t i = 0; i < n; i++) {
        double t = sum + v[i];
        if (isinf(t))
            comp = 0;
        else if (fabs(sum) >= fabs(v[i]))
            comp += (sum - t) + v[i];
        else
            comp += (v[i] - t) + sum;
        sum = t;
    }
    return isinf(sum) ? sum : sum + comp;
}

static double extreme_of(const double *v, size_t n, bool max)
{
    double best = v[0];
    for (size_t i = 1; i < n; i++)
        if (isnan(best) || (max ? v[i] > best : v[i] < best))
            best = v[i];
    return best;
}

static double fold(enum downsample_aggregate a, bool again, const double *v, size_t n)
{
    switch (a) {
    case DOWNSAMPLE_COUNT: return again ? sum_of(v, n) : (double)n;
    case DOWNSAMPLE_SUM: return sum_of(v, n);
    case DOWNSAMPLE_MIN: return extreme_of(v, n, false);
    case DOWNSAMPLE_MAX: return extreme_of(v, n, true);
    case DOWNSAMPLE_COUNTER:
    case DOWNSAMPLE_AGGREGATES: break;
    }
    ASSERT(false);
    return 0;
}

/* --- counters --------------------------------------------------------------------------------------------------------------- */

/*
 * NaN counts as a fall on both of its sides: no comparison with it is true, so that a reader sees no fall there either, but would see one between the samples around
 * it if it were left out.
 */
static bool falls(const double *v, size_t i)
{
    return !(v[i] >= v[i - 1]);
}

static bool is_kept(const double *v, size_t i, size_t from, size_t to)
{
    return i == from || i == to - 1 || falls(v, i) || falls(v, i + 1);
}

bool downsample_is_counter(const struct downsample_column *raw)
{
    size_t n = 0;
    for (size_t i = 1; i < raw->n; i++)
        n += falls(raw->v, i);
    return n < DOWNSAMPLE_FALLS_MIN || n <= raw->n / DOWNSAMPLE_FALLS_ONE_IN;
}

/* --- columns ---------------------------------------------------------------------------------------------------------------- */

bool downsample_column(enum downsample_aggregate a, bool again, int64_t resolution_ms, const struct downsample_column *in, struct arena *arena,
                       struct downsample_column *ret)
{
    size_t n = 0;
    int64_t *t = ARENA_ARRAY(arena, int64_t, in->n + 1);
    double *v = ARENA_ARRAY(arena, double, in->n + 1);
    if (!t || !v)
        return false;
    for (size_t from = 0, to; from < in->n; from = to) {
        to = window_end(in, from, resolution_ms);
        if (a != DOWNSAMPLE_COUNTER) {
            t[n] = in->t[to - 1];
            v[n++] = fold(a, again, in->v + from, to - from);
            continue;
        }
        for (size_t i = from; i < to; i++) {
            if (!is_kept(in->v, i, from, to))
                continue;
            t[n] = in->t[i];
            v[n++] = in->v[i];
        }
    }
    *ret = (struct downsample_column){n, t, v};
    return true;
}
