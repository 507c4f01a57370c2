/* Kernels on plain numbers: means, quantiles, regression, the extrapolation of rates, dates. */
#include "read/promql/kernel_int.h"

#include <stdlib.h>
#include <string.h>

typedef double pair __attribute__((vector_size(16)));
/* Masks of comparisons are kept as 32-bit lanes: compilers for x86-64 without extensions take 64-bit ones apart. */
typedef int32_t pair_bits __attribute__((vector_size(16)));
typedef int64_t pair_of_int64 __attribute__((vector_size(16)));

static inline pair pair_load(const double *p)
{
    pair r;
    memcpy(&r, p, sizeof(r));
    return r;
}

static inline pair pair_choose(pair_bits mask, pair yes, pair no)
{
    return (pair)(((pair_bits)yes & mask) | ((pair_bits)no & ~mask));
}

static inline pair pair_abs(pair a)
{
    return (pair)((pair_bits)a & (pair_bits)(pair_of_int64){INT64_MAX, INT64_MAX});
}

/* Which of the two is the greater is as good as random: choosing without a branch, two at a time, is thrice as fast. */
void kahan_add_each(const double *v, double *sum, double *comp, size_t n)
{
    const pair infinity = {INFINITY, INFINITY};
    size_t i = 0;
    for (; i + 2 <= n; i += 2) {
        pair a = pair_load(sum + i), b = pair_load(v + i), c = pair_load(comp + i), t = a + b;
        pair_bits first = (pair_bits)(pair_abs(a) >= pair_abs(b));
        c += (pair_choose(first, a, b) - t) + pair_choose(first, b, a);
        c = pair_choose((pair_bits)(pair_abs(t) == infinity), (pair){0, 0}, c);
        memcpy(sum + i, &t, sizeof(t));
        memcpy(comp + i, &c, sizeof(c));
    }
    for (; i < n; i++)
        kahan_add(v[i], &sum[i], &comp[i]);
}

bool floats_any_nan(const double *v, size_t n)
{
    pair_bits any = {0};
    size_t i = 0;
    for (; i + 4 <= n; i += 4) {
        pair a = pair_load(v + i), b = pair_load(v + i + 2);
        any |= (pair_bits)(a != a) | (pair_bits)(b != b);
    }
    bool found = (any[0] | any[2]) != 0;
    for (; i < n; i++)
        found |= isnan(v[i]);
    return found;
}

bool floats_ever_fall(const double *v, size_t n)
{
    pair_bits any = {0};
    size_t i = 1;
    for (; i + 4 <= n; i += 4)
        any |= (pair_bits)(pair_load(v + i) < pair_load(v + i - 1)) | (pair_bits)(pair_load(v + i + 2) < pair_load(v + i + 1));
    bool found = (any[0] | any[2]) != 0;
    for (; i < n; i++)
        found |= v[i] < v[i - 1];
    return found;
}

/* The sum is, or would become, infinite. */
void mean_add_slowly(struct mean *m, double v)
{
    m->n++;
    if (!m->incremental) {
        m->incremental = true;
        m->sum /= m->n - 1;
        m->comp /= m->n - 1;
    }
    /* An infinite mean stays what it is under finite values and infinities of its own sign; computing would give NaN. */
    if (isinf(m->sum) && ((isinf(v) && (m->sum > 0) == (v > 0)) || (!isinf(v) && !isnan(v))))
        return;
    double q = (m->n - 1) / m->n;
    m->sum *= q;
    m->comp *= q;
    kahan_add(v / m->n, &m->sum, &m->comp);
}

static int cmp_nan_first(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    if (isnan(x) || isnan(y))
        return isnan(y) - isnan(x);
    return (x > y) - (x < y);
}

double quantile_of(double q, double *values, size_t n)
{
    if (n == 0 || isnan(q))
        return NAN;
    if (q < 0)
        return -INFINITY;
    if (q > 1)
        return INFINITY;
    qsort(values, n, sizeof(*values), cmp_nan_first);
    double rank = q * (double)(n - 1);
    double lower = fmax(0, floor(rank));
    size_t i = (size_t)lower;
    size_t j = i + 1 < n ? i + 1 : n - 1;
    double weight = rank - floor(rank);
    return values[i] * (1 - weight) + values[j] * weight;
}

void linear_regression(const int64_t *t, const double *v, size_t n, int64_t intercept_t, double *ret_slope, double *ret_intercept)
{
    double sum_x = 0, c_x = 0, sum_y = 0, c_y = 0, sum_xy = 0, c_xy = 0, sum_x2 = 0, c_x2 = 0;
    bool constant = true;
    for (size_t i = 0; i < n; i++) {
        constant &= v[i] == v[0];
        double x = (double)(t[i] - intercept_t) / 1e3;
        kahan_add(x, &sum_x, &c_x);
        kahan_add(v[i], &sum_y, &c_y);
        kahan_add(x * v[i], &sum_xy, &c_xy);
        kahan_add(x * x, &sum_x2, &c_x2);
    }
    if (constant) {
        *ret_slope = isinf(v[0]) ? NAN : 0;
        *ret_intercept = isinf(v[0]) ? NAN : v[0];
        return;
    }
    sum_x += c_x;
    sum_y += c_y;
    sum_xy += c_xy;
    sum_x2 += c_x2;
    double dn = (double)n;
    double cov = sum_xy - sum_x * sum_y / dn;
    double var = sum_x2 - sum_x * sum_x / dn;
    *ret_slope = cov / var;
    *ret_intercept = sum_y / dn - *ret_slope * sum_x / dn;
}

void rate_times_of(int64_t before, int64_t span, int64_t after, size_t n, struct rate_times *ret)
{
    double sampled = (double)span / 1e3, gaps = (double)(n - 1);
    double to_start = (double)before / 1e3;
    double to_end = (double)after / 1e3;
    /* A gap much longer than the usual distance means that the series begins or ends inside the range. Mostly that is out of the question. */
    if (to_start * gaps < sampled * 1.09 && to_end * gaps < sampled * 1.09) {
        *ret = (struct rate_times){sampled, to_start, to_end};
        return;
    }
    double average = sampled / gaps, threshold = average * 1.1;
    *ret = (struct rate_times){sampled, to_start >= threshold ? average / 2 : to_start, to_end >= threshold ? average / 2 : to_end};
}

double rate_factor(const struct rate_window *w)
{
    struct rate_times t;
    rate_times_of(w->first_t - w->start_t, w->last_t - w->first_t, w->end_t - w->last_t, w->n, &t);
    bool bounded = w->counter && w->delta > 0 && w->first >= 0;
    return rate_factor_at(&t, bounded ? rate_to_zero(&t, w->first, w->delta) : t.to_start);
}

/* Days since 1970-01-01 to a civil date, by counting 400-year eras that begin on the first of March. */
void date_parts_of(int64_t seconds, struct date_parts *ret)
{
    /* Counted from 730,692,556 times 400 years before 1 March of year 0: 400 years are 146,097 days. */
    const int64_t eras = 730692556, days_to_1970 = 719468;
    uint64_t whole = (uint64_t)seconds + 86400 * (uint64_t)(eras * 146097 + days_to_1970);
    int64_t rest = (int64_t)(whole % 86400), days = (int64_t)(whole / 86400) - eras * 146097 - days_to_1970;
    ret->hour = (int)(rest / 3600);
    ret->minute = (int)(rest % 3600 / 60);
    ret->weekday = (int)(((days + 4) % 7 + 7) % 7);
    int64_t z = days + days_to_1970;
    int64_t era = (z >= 0 ? z : z - 146096) / 146097;
    int64_t doe = z - era * 146097;
    int64_t yoe = (doe - doe / 1460 + doe / 36524 - doe / 146096) / 365;
    int64_t doy = doe - (365 * yoe + yoe / 4 - yoe / 100);
    int64_t mp = (5 * doy + 2) / 153;
    ret->day = (int)(doy - (153 * mp + 2) / 5 + 1);
    ret->month = (int)(mp < 10 ? mp + 3 : mp - 9);
    int64_t year = yoe + era * 400 + (ret->month <= 2);
    ret->year = year;
    bool leap = (year % 4 == 0 && year % 100 != 0) || year % 400 == 0;
    static const int lengths[] = {31, 28, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31};
    ret->days_in_month = lengths[ret->month - 1] + (ret->month == 2 && leap);
    ret->yearday = ret->day;
    for (int m = 1; m < ret->month; m++)
        ret->yearday += lengths[m - 1] + (m == 2 && leap);
}
