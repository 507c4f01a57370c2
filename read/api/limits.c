/*
 * The tenant's limits on queries: size of the text, experimental parts, range of time.
 *
 * Range of time, as Mimir counts it: the total length is that of the steps widened by the ranges of selectors and subqueries, lookback not
 * counted, and moved by offsets; the partial length counts the lookback, too. A range of 2h ending at t reads (t-2h, t], which is one
 * millisecond less than 2h.
 */
#include "read/api/api_int.h"

#include <stdio.h>

#include "base/assert.h"
#include "base/clock.h"

#define ADJUST ". To adjust the related per-tenant limit, configure -%s, or contact your service administrator."

bool limit_expression(struct call *c, struct slice text)
{
    int64_t max = c->limits->max_query_expression_size_bytes;
    metric_observe(METRIC_WITH(api_metrics[API_M_EXPRESSION_BYTES], c->ctx.tenant), (double)text.n);
    if (max <= 0 || text.n <= (uint64_t)max)
        return true;
    metric_inc(METRIC_WITH(api_metrics[API_M_REJECTED], SL("max-query-expression-size-bytes"), c->ctx.tenant));
    return err_set(&c->err, ERR_MAX_QUERY_EXPRESSION_SIZE,
                   "the raw query size in bytes exceeds the limit (query size: %zu, limit: %lld) (err-mimir-max-query-expression-size-bytes)" ADJUST,
                   text.n, (long long)max, "query-frontend.max-query-expression-size-bytes");
}

/* --- experimental parts ------------------------------------------------------------------------------------------------------------ */

static bool list_has(struct flag_list list, struct slice name)
{
    for (size_t i = 0; i < list.n; i++) {
        struct slice item = slice_of(list.items[i]);
        if (slice_eq(item, name) || slice_eq(item, SL("all")))
            return true;
    }
    return false;
}

static bool is_allowed(void *arg, enum promql_experimental kind, struct slice name)
{
    const struct limits *l = arg;
    return list_has(kind == PROMQL_EXPERIMENTAL_MODIFIER ? l->enabled_promql_extended_range_selectors : l->enabled_promql_experimental_functions,
                    name);
}

struct promql_parse_options parse_options(struct call *c)
{
    return (struct promql_parse_options){.allowed = is_allowed, .arg = (void *)c->limits};
}

/* --- time ---------------------------------------------------------------------------------------------------------------------------- */

struct span {
    int64_t min_t;
    int64_t max_t;
    bool any;
};

static int64_t sat_sub(int64_t a, int64_t b)
{
    int64_t r;
    if (__builtin_sub_overflow(a, b, &r))
        return b > 0 ? INT64_MIN : INT64_MAX;
    return r;
}

static void move(enum at_kind at, int64_t at_ms, int64_t offset_ms, const struct engine_query *q, int64_t *start, int64_t *end)
{
    if (at == AT_TIMESTAMP)
        *start = *end = at_ms;
    else if (at != AT_NONE)
        *start = *end = at == AT_START ? q->start_ms : q->end_ms;
    *start = sat_sub(*start, offset_ms);
    *end = sat_sub(*end, offset_ms);
}

/* Widens s by what n reads when its values are wanted from start to end; reach: the range of a matrix selector, or the lookback. */
static void add_reads(const struct node *n, const struct engine_query *q, int64_t lookback_ms, int64_t start, int64_t end, struct span *s);

static void add_selector(const struct vector_selector *v, int64_t reach_ms, const struct engine_query *q, int64_t start, int64_t end,
                         struct span *s)
{
    move(v->at, v->at_ms, v->offset_ms, q, &start, &end);
    if (reach_ms > 0)
        start = sat_sub(start, reach_ms - 1);
    s->min_t = s->any ? MIN(s->min_t, start) : start;
    s->max_t = s->any ? MAX(s->max_t, end) : end;
    s->any = true;
}

static void add_reads(const struct node *n, const struct engine_query *q, int64_t lookback_ms, int64_t start, int64_t end, struct span *s)
{
    switch (n->kind) {
    case NODE_NUMBER:
    case NODE_STRING: return;
    case NODE_PAREN: add_reads(n->paren, q, lookback_ms, start, end, s); return;
    case NODE_UNARY: add_reads(n->unary.expr, q, lookback_ms, start, end, s); return;
    case NODE_BINARY:
        add_reads(n->binary.lhs, q, lookback_ms, start, end, s);
        add_reads(n->binary.rhs, q, lookback_ms, start, end, s);
        return;
    case NODE_CALL:
        for (size_t i = 0; i < n->call.n_args; i++)
            add_reads(n->call.args[i], q, lookback_ms, start, end, s);
        return;
    case NODE_AGGREGATE:
        add_reads(n->aggregate.expr, q, lookback_ms, start, end, s);
        if (n->aggregate.param)
            add_reads(n->aggregate.param, q, lookback_ms, start, end, s);
        return;
    case NODE_VECTOR_SELECTOR: add_selector(&n->selector, lookback_ms, q, start, end, s); return;
    case NODE_MATRIX_SELECTOR: add_selector(&n->matrix.selector->selector, n->matrix.range_ms, q, start, end, s); return;
    case NODE_SUBQUERY:
        move(n->subquery.at, n->subquery.at_ms, n->subquery.offset_ms, q, &start, &end);
        add_reads(n->subquery.expr, q, lookback_ms, sat_sub(start, n->subquery.range_ms), end, s);
        return;
    }
}

static int64_t length_of(const struct node *expr, const struct engine_query *q, int64_t lookback_ms)
{
    struct span s = {0};
    add_reads(expr, q, lookback_ms, q->start_ms, q->end_ms, &s);
    int64_t reads = s.any ? sat_sub(s.max_t, s.min_t) : 0;
    return MAX(reads, q->end_ms - q->start_ms);
}

/* 2h4m59.999s, as Go prints durations. */
static const char *go_duration(int64_t ms, char out[64])
{
    int n = 0;
    int64_t s = ms / 1000;
    if (s >= 3600)
        n += snprintf(out + n, 64 - (size_t)n, "%lldh", (long long)(s / 3600));
    if (s >= 60)
        n += snprintf(out + n, 64 - (size_t)n, "%lldm", (long long)(s / 60 % 60));
    if (ms > 0 && ms < 1000)
        snprintf(out + n, 64 - (size_t)n, "%lldms", (long long)ms);
    else if (ms % 1000 == 0)
        snprintf(out + n, 64 - (size_t)n, "%llds", (long long)(s % 60));
    else
        snprintf(out + n, 64 - (size_t)n, "%gs", (double)(ms % 60000) / 1000);
    return out;
}

static bool too_long(struct call *c, enum err_code code, const char *what, int64_t length_ms, int64_t limit_ms, const char *id, const char *flag)
{
    char length[64], limit[64];
    metric_inc(METRIC_WITH(api_metrics[API_M_REJECTED], slice_of(id), c->ctx.tenant));
    return err_set(&c->err, code, "the %squery time range exceeds the limit (query length: %s, limit: %s) (err-mimir-%s)" ADJUST, what,
                   go_duration(length_ms, length), go_duration(limit_ms, limit), id, flag);
}

bool limit_query_time(struct call *c, const struct node *expr, struct engine_query *q, bool *ret_empty)
{
    const struct limits *l = c->limits;
    *ret_empty = false;
    if (l->max_total_query_length > 0) {
        int64_t length = length_of(expr, q, 0);
        if (length > l->max_total_query_length)
            return too_long(c, ERR_MAX_TOTAL_QUERY_LENGTH, "total ", length, l->max_total_query_length, "max-total-query-length",
                            "query-frontend.max-total-query-length");
    }
    if (l->max_query_lookback > 0) {
        int64_t oldest = clock_wall_ms() - l->max_query_lookback;
        *ret_empty = q->end_ms < oldest;
        if (q->start_ms < oldest && !*ret_empty)
            q->start_ms = oldest;
    }
    if (l->max_partial_query_length > 0 && !*ret_empty) {
        int64_t length = length_of(expr, q, q->lookback_delta_ms);
        if (length > l->max_partial_query_length)
            return too_long(c, ERR_MAX_QUERY_LENGTH, "", length, l->max_partial_query_length, "max-query-length",
                            "querier.max-partial-query-length");
    }
    return true;
}

bool limit_read_time(struct call *c, int64_t *start_ms, int64_t end_ms, bool *ret_empty)
{
    const struct limits *l = c->limits;
    *ret_empty = *start_ms > end_ms;
    if (*ret_empty)
        return true;
    int64_t length = sat_sub(end_ms, *start_ms);
    if (l->max_total_query_length > 0 && length > l->max_total_query_length)
        return too_long(c, ERR_MAX_TOTAL_QUERY_LENGTH, "total ", length, l->max_total_query_length, "max-total-query-length",
                        "query-frontend.max-total-query-length");
    if (l->max_query_lookback > 0)
        *start_ms = MAX(*start_ms, clock_wall_ms() - l->max_query_lookback);
    *ret_empty = *start_ms > end_ms;
    length = *ret_empty ? 0 : sat_sub(end_ms, *start_ms);
    if (l->max_partial_query_length > 0 && length > l->max_partial_query_length)
        return too_long(c, ERR_MAX_QUERY_LENGTH, "", length, l->max_partial_query_length, "max-query-length", "querier.max-partial-query-length");
    return true;
}

void limit_label_time(struct call *c, int64_t *start_ms, int64_t *end_ms, bool *ret_empty)
{
    const struct limits *l = c->limits;
    int64_t now = clock_wall_ms();
    if (l->max_query_lookback > 0)
        *start_ms = MAX(*start_ms, now - l->max_query_lookback);
    int64_t end = *end_ms == INT64_MAX ? now : *end_ms;
    if (l->max_labels_query_length > 0)
        *start_ms = MAX(*start_ms, sat_sub(end, l->max_labels_query_length));
    *ret_empty = *start_ms > *end_ms;
}
