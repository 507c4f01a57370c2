/* metadata, exemplars, format_query, buildinfo. */
#include <stdlib.h>
#include <string.h>

#include "base/assert.h"
#include "read/api/api_int.h"

/* --- metadata -------------------------------------------------------------------------------------------------------------------------- */

/* A number, or absent: -1. Anything below zero means all. */
static bool param_number(struct http_request *req, const char *name, int64_t *ret)
{
    struct slice text = http_param(req, name);
    *ret = -1;
    if (!text.n)
        return true;
    bool negative = text.p[0] == '-';
    size_t i = negative || text.p[0] == '+';
    int64_t v = 0;
    if (i == text.n)
        return false;
    for (; i < text.n; i++) {
        if (text.p[i] < '0' || text.p[i] > '9' || v > INT64_MAX / 20)
            return false;
        v = v * 10 + (text.p[i] - '0');
    }
    *ret = negative && v ? -1 : v;
    return true;
}

static void put_metadata(struct buf *out, const struct metric_metadata *m)
{
    buf_printf(out, "{\"type\":\"%s\",\"help\":", m->type);
    json_put_quoted(out, m->help);
    buf_puts(out, ",\"unit\":");
    json_put_quoted(out, m->unit);
    buf_putc(out, '}');
}

/* Rows come by family; a family may have several. */
static void put_families(struct buf *out, const struct metric_metadata *m, size_t n, struct slice only, int64_t limit, int64_t per_metric)
{
    int64_t families = 0;
    size_t i = 0;
    buf_puts(out, "{\"status\":\"success\",\"data\":{");
    while (i < n && (limit < 0 || families < limit)) {
        size_t end = i + 1;
        while (end < n && slice_eq(m[end].family, m[i].family))
            end++;
        if (!only.n || slice_eq(only, m[i].family)) {
            if (families++)
                buf_putc(out, ',');
            json_put_quoted(out, m[i].family);
            buf_puts(out, ":[");
            for (size_t k = i; k < end && (per_metric <= 0 || (int64_t)(k - i) < per_metric); k++) {
                if (k > i)
                    buf_putc(out, ',');
                put_metadata(out, &m[k]);
            }
            buf_putc(out, ']');
        }
        i = end;
    }
    buf_puts(out, "}}");
}

static bool run_metadata(struct call *c)
{
    int64_t limit, per_metric;
    const struct metric_metadata *m;
    size_t n;
    bool good = param_number(c->req, "limit", &limit);
    if (!good || !param_number(c->req, "limit_per_metric", &per_metric))
        return err_set(&c->err, ERR_BAD_DATA, "%s must be a number", good ? "limit_per_metric" : "limit");
    if (!c->api->q->ops->metadata(c->api->q, &c->ctx, &m, &n, &c->err))
        return false;
    put_families(&c->body, m, n, http_param(c->req, "metric"), limit, per_metric);
    return true;
}

void metadata_handler(struct http_request *req, void *arg)
{
    serve(req, arg, "metadata", CALL_READS, run_metadata);
}

/* --- exemplars -------------------------------------------------------------------------------------------------------------------------- */

struct exemplar_list {
    struct exemplar_series *items;
    size_t n, cap;
    int64_t start_ms, end_ms;
};

static bool add_exemplars(struct call *c, struct exemplar_list *l, const struct exemplar_series *more, size_t n)
{
    if (l->n + n > l->cap) {
        size_t cap = MAX(l->cap * 2, l->n + n);
        struct exemplar_series *items = ARENA_ARRAY(&c->arena, struct exemplar_series, cap);
        if (!items)
            return err_set(&c->err, ERR_MAX_QUERY_MEMORY, "out of memory for the request");
        if (l->n)
            memcpy(items, l->items, l->n * sizeof(*items));
        l->items = items;
        l->cap = cap;
    }
    if (n)
        memcpy(l->items + l->n, more, n * sizeof(*more));
    l->n += n;
    return true;
}

static bool select_exemplars(struct call *c, const struct vector_selector *s, struct exemplar_list *l)
{
    struct select_params p = {.min_t = l->start_ms, .max_t = l->end_ms, .matchers = s->matchers, .n_matchers = s->n_matchers};
    const struct exemplar_series *found;
    size_t n;
    struct queryable *q = c->api->q;
    return q->ops->exemplars(q, &c->ctx, &p, &found, &n, &c->err) && add_exemplars(c, l, found, n);
}

/* Those of every selector in the expression. */
static bool collect_exemplars(struct call *c, const struct node *n, struct exemplar_list *l)
{
    switch (n->kind) {
    case NODE_NUMBER:
    case NODE_STRING: return true;
    case NODE_PAREN: return collect_exemplars(c, n->paren, l);
    case NODE_UNARY: return collect_exemplars(c, n->unary.expr, l);
    case NODE_BINARY: return collect_exemplars(c, n->binary.lhs, l) && collect_exemplars(c, n->binary.rhs, l);
    case NODE_CALL:
        for (size_t i = 0; i < n->call.n_args; i++)
            if (!collect_exemplars(c, n->call.args[i], l))
                return false;
        return true;
    case NODE_AGGREGATE:
        return collect_exemplars(c, n->aggregate.expr, l) && (!n->aggregate.param || collect_exemplars(c, n->aggregate.param, l));
    case NODE_VECTOR_SELECTOR: return select_exemplars(c, &n->selector, l);
    case NODE_MATRIX_SELECTOR: return select_exemplars(c, &n->matrix.selector->selector, l);
    case NODE_SUBQUERY: return collect_exemplars(c, n->subquery.expr, l);
    }
    ASSERT(false && "node kind");
    return false;
}

static int by_labels(const void *a, const void *b)
{
    return labels_cmp(((const struct exemplar_series *)a)->labels, ((const struct exemplar_series *)b)->labels);
}

static void put_exemplars(struct buf *out, const struct exemplar_series *s)
{
    buf_puts(out, "{\"seriesLabels\":");
    put_labels(out, s->labels);
    buf_puts(out, ",\"exemplars\":[");
    for (size_t i = 0; i < s->n; i++) {
        buf_puts(out, i ? ",{\"labels\":" : "{\"labels\":");
        put_labels(out, s->exemplars[i].labels);
        buf_puts(out, ",\"value\":");
        put_value(out, s->exemplars[i].v);
        buf_puts(out, ",\"timestamp\":");
        put_timestamp(out, s->exemplars[i].t);
        buf_putc(out, '}');
    }
    buf_puts(out, "]}");
}

static bool param_exemplar_time(struct call *c, const char *name, int64_t absent, int64_t *ret_ms)
{
    struct slice text = http_param(c->req, name);
    *ret_ms = absent;
    if (!text.n || parse_time(text, ret_ms, &c->err))
        return true;
    err_prefix(&c->err, "invalid time value for '%s': ", name);
    return invalid_param(c, name);
}

static bool run_exemplars(struct call *c)
{
    struct exemplar_list l = {0};
    if (!param_exemplar_time(c, "start", INT64_MIN, &l.start_ms) || !param_exemplar_time(c, "end", INT64_MAX, &l.end_ms))
        return false;
    if (l.end_ms < l.start_ms)
        return err_set(&c->err, ERR_BAD_DATA, "end timestamp must not be before start timestamp");
    struct node *n = promql_parse(http_param(c->req, "query"), NULL, &c->arena, &c->err);
    if (!n)
        return false;
    bool ok = collect_exemplars(c, n, &l);
    promql_release(n);
    if (!ok)
        return false;
    if (l.n)
        qsort(l.items, l.n, sizeof(*l.items), by_labels);
    buf_puts(&c->body, "{\"status\":\"success\",\"data\":[");
    for (size_t i = 0; i < l.n; i++) {
        if (i && labels_eq(l.items[i - 1].labels, l.items[i].labels)) /* two selectors found it */
            continue;
        if (i)
            buf_putc(&c->body, ',');
        put_exemplars(&c->body, &l.items[i]);
    }
    buf_puts(&c->body, "]}");
    return true;
}

void exemplars_handler(struct http_request *req, void *arg)
{
    serve(req, arg, "query_exemplars", CALL_READS, run_exemplars);
}

/* --- format_query, buildinfo ------------------------------------------------------------------------------------------------------------ */

static bool run_format(struct call *c)
{
    struct node *n = promql_parse(http_param(c->req, "query"), NULL, &c->arena, &c->err);
    if (!n)
        return invalid_param(c, "query");
    struct buf pretty;
    buf_init(&pretty, c->api->cfg->max_response_bytes);
    promql_pretty(n, &pretty);
    promql_release(n);
    buf_puts(&c->body, "{\"status\":\"success\",\"data\":");
    json_put_quoted(&c->body, buf_slice(&pretty));
    buf_putc(&c->body, '}');
    c->body.failed = c->body.failed || pretty.failed;
    buf_release(&pretty);
    return true;
}

void format_handler(struct http_request *req, void *arg)
{
    serve(req, arg, "format_query", CALL_LOCAL, run_format);
}

/* Grafana takes a server for Mimir by `application` and `features`; what is not there is said not to be. */
void buildinfo_handler(struct http_request *req, void *arg)
{
    (void)arg;
    struct buf body;
    buf_init(&body, 0);
    buf_puts(&body, "{\"status\":\"success\",\"data\":{\"application\":\"Grafana Mimir\",\"version\":\"" BRUNN_VERSION
                    "\",\"revision\":\"\",\"branch\":\"\",\"goVersion\":\"\",\"features\":{\"ruler_config_api\":\"false\","
                    "\"alertmanager_config_api\":\"false\",\"query_sharding\":\"false\",\"federated_rules\":\"false\"}}}");
    http_respond(req, 200, "application/json", &body);
}
