/* Parameters of requests: times, durations, limits, selectors; the texts of their errors are those that Mimir's query-frontend gives. */
#include "read/api/api_int.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "base/dtoa.h"

/* What clients send for "from the beginning" and "to the end". */
#define TIME_MIN "-292273086-05-16T16:47:06Z"
#define TIME_MAX "292277025-08-18T07:12:54.999999999Z"

/* --- times ------------------------------------------------------------------------------------------------------------------------ */

static bool digits(const char **p, const char *end, int n, int *ret)
{
    int v = 0;
    for (int i = 0; i < n; i++, (*p)++) {
        if (*p == end || **p < '0' || **p > '9')
            return false;
        v = v * 10 + (**p - '0');
    }
    *ret = v;
    return true;
}

static bool literal(const char **p, const char *end, char c)
{
    if (*p == end || **p != c)
        return false;
    (*p)++;
    return true;
}

/* .123456789 -> 123 */
static bool fraction_ms(const char **p, const char *end, int *ret_ms)
{
    *ret_ms = 0;
    if (!literal(p, end, '.'))
        return true;
    const char *start = *p;
    for (int scale = 100; *p < end && **p >= '0' && **p <= '9'; (*p)++, scale /= 10)
        *ret_ms += (**p - '0') * scale;
    return *p > start;
}

static bool zone_seconds(const char **p, const char *end, int *ret)
{
    *ret = 0;
    if (literal(p, end, 'Z'))
        return true;
    bool minus = *p < end && **p == '-';
    int h, m;
    if (!(minus || (*p < end && **p == '+')))
        return false;
    (*p)++;
    if (!digits(p, end, 2, &h) || !literal(p, end, ':') || !digits(p, end, 2, &m) || h > 24 || m > 59)
        return false;
    *ret = (h * 3600 + m * 60) * (minus ? -1 : 1);
    return true;
}

static int days_in_month(int year, int month)
{
    static const int days[] = {31, 28, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31};
    bool leap = (year % 4 == 0 && year % 100 != 0) || year % 400 == 0;
    return days[month - 1] + (month == 2 && leap);
}

static bool parse_rfc3339(struct slice text, int64_t *ret_ms)
{
    const char *p = text.p;
    const char *end = text.p + text.n;
    struct tm tm = {0};
    int ms, zone;
    bool ok = digits(&p, end, 4, &tm.tm_year) && literal(&p, end, '-') && digits(&p, end, 2, &tm.tm_mon) && literal(&p, end, '-') &&
              digits(&p, end, 2, &tm.tm_mday) && literal(&p, end, 'T') && digits(&p, end, 2, &tm.tm_hour) && literal(&p, end, ':') &&
              digits(&p, end, 2, &tm.tm_min) && literal(&p, end, ':') && digits(&p, end, 2, &tm.tm_sec) && fraction_ms(&p, end, &ms) &&
              zone_seconds(&p, end, &zone) && p == end;
    if (!ok || tm.tm_mon < 1 || tm.tm_mon > 12 || tm.tm_mday < 1 || tm.tm_mday > days_in_month(tm.tm_year, tm.tm_mon) || tm.tm_hour > 23 ||
        tm.tm_min > 59 || tm.tm_sec > 59)
        return false;
    tm.tm_year -= 1900;
    tm.tm_mon -= 1;
    *ret_ms = ((int64_t)timegm(&tm) - zone) * 1000 + ms;
    return true;
}

bool parse_time(struct slice text, int64_t *ret_ms, struct err *err)
{
    double v;
    if (dtoa_parse(text, &v)) {
        double whole = trunc(v);
        if (isfinite(v) && fabs(whole) < 9e15) {
            *ret_ms = (int64_t)whole * 1000 + (int64_t)round((v - whole) * 1000);
            return true;
        }
    } else if (parse_rfc3339(text, ret_ms)) {
        return true;
    } else if (slice_eq(text, SL(TIME_MIN)) || slice_eq(text, SL(TIME_MAX))) {
        *ret_ms = text.p[0] == '-' ? INT64_MIN : INT64_MAX;
        return true;
    }
    return err_set(err, ERR_BAD_DATA, "cannot parse \"%.*s\" to a valid timestamp", SL_FMT(text));
}

bool parse_duration(struct slice text, int64_t *ret_ms, struct err *err)
{
    double v;
    if (dtoa_parse(text, &v) && !isnan(v)) {
        if (v * 1e9 > 0x1p63 || v * 1e9 < -0x1p63)
            return err_set(err, ERR_BAD_DATA, "cannot parse \"%.*s\" to a valid duration. It overflows int64", SL_FMT(text));
        *ret_ms = (int64_t)(v * 1000);
        return true;
    }
    if (promql_parse_duration(text, ret_ms))
        return true;
    return err_set(err, ERR_BAD_DATA, "cannot parse \"%.*s\" to a valid duration", SL_FMT(text));
}

/* --- parameters ------------------------------------------------------------------------------------------------------------------- */

bool invalid_param(struct call *c, const char *name)
{
    return err_prefix(&c->err, "invalid parameter \"%s\": ", name);
}

bool param_range(struct call *c, int64_t *ret_start_ms, int64_t *ret_end_ms)
{
    struct slice start = http_param(c->req, "start");
    struct slice end = http_param(c->req, "end");
    *ret_start_ms = INT64_MIN;
    *ret_end_ms = INT64_MAX;
    if (start.n && !parse_time(start, ret_start_ms, &c->err))
        return invalid_param(c, "start");
    if (end.n && !parse_time(end, ret_end_ms, &c->err))
        return invalid_param(c, "end");
    if (*ret_end_ms < *ret_start_ms) {
        err_set(&c->err, ERR_BAD_DATA, "end timestamp must not be before start time");
        return invalid_param(c, "end");
    }
    return true;
}

bool param_limit(struct call *c, size_t *ret)
{
    struct slice text = http_param(c->req, "limit");
    size_t v = 0;
    *ret = 0;
    for (size_t i = 0; i < text.n; i++) {
        if (text.p[i] < '0' || text.p[i] > '9' || v > SIZE_MAX / 20)
            return err_set(&c->err, ERR_BAD_DATA, "limit parameter must be greater than or equal to 0, got %.*s", SL_FMT(text));
        v = v * 10 + (size_t)(text.p[i] - '0');
    }
    *ret = v;
    return true;
}

static bool selects_something(struct match_set s)
{
    for (size_t i = 0; i < s.n; i++)
        if (!matcher_matches_empty(&s.matchers[i]))
            return true;
    return false;
}

bool param_match_sets(struct call *c, bool prefixed, struct match_sets *ret)
{
    const struct slice *texts;
    size_t n = http_params(c->req, "match[]", &texts);
    *ret = (struct match_sets){0};
    ret->sets = ARENA_ARRAY(&c->arena, struct match_set, n + 1);
    bool ok = ret->sets || err_set(&c->err, ERR_BAD_DATA, "too many selectors");
    for (size_t i = 0; i < n && ok; i++) {
        struct match_set *s = &ret->sets[ret->n];
        if (!promql_parse_selector(texts[i], &c->arena, &s->matchers, &s->n, &c->err)) {
            ok = false;
            break;
        }
        ret->n++;
        ok = selects_something(*s) || err_set(&c->err, ERR_BAD_DATA, "match[] must contain at least one non-empty matcher");
    }
    return ok || (prefixed ? invalid_param(c, "match[]") : false);
}

void match_sets_release(struct match_sets *m)
{
    for (size_t i = 0; i < m->n; i++)
        promql_release_matchers(m->sets[i].matchers, m->sets[i].n);
    m->n = 0;
}
