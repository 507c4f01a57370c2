/*
 * labels, label values and series: what is there, by name.
 *
 * The strings and label sets of an answer are in the call's arena (or, labels of series, with their sets); the JSON, which is larger, is written while it is sent.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/assert.h"
#include "read/api/api_int.h"

#define BATCH 256

struct label_request {
    int64_t start_ms, end_ms;
    size_t limit;    /* asked for; 0 = none */
    size_t enforced; /* the tenant's, where it is lower; 0 = it is not */
    struct match_sets match;
    bool empty; /* nothing of the range may be seen */
};

/* tenant_limit 0: none. */
static bool read_request(struct call *c, bool prefixed, int64_t tenant_limit, struct label_request *r)
{
    *r = (struct label_request){0};
    if (!param_range(c, &r->start_ms, &r->end_ms) || !param_limit(c, &r->limit) || !param_match_sets(c, prefixed, &r->match))
        return false;
    if (tenant_limit > 0 && (r->limit == 0 || (size_t)tenant_limit < r->limit))
        r->enforced = (size_t)tenant_limit;
    limit_label_time(c, &r->start_ms, &r->end_ms, &r->empty);
    return true;
}

/* The most to answer with; 0 = all. */
static size_t most(const struct label_request *r)
{
    return r->enforced ? r->enforced : r->limit;
}

/* What to ask a store for: one more than is wanted tells that there was more. */
static size_t ask(const struct label_request *r)
{
    size_t n = most(r);
    return n ? n + 1 : 0;
}

static struct select_params select_of(const struct label_request *r, const struct match_set *s)
{
    return (struct select_params){.min_t = r->start_ms,
                                  .max_t = r->end_ms,
                                  .matchers = s ? s->matchers : NULL,
                                  .n_matchers = s ? s->n : 0,
                                  .no_chunks = true,
                                  .limit = ask(r)};
}

static void put_limit_warning(struct buf *out, const struct label_request *r, bool cut, const char *limit_name)
{
    char text[160];
    struct slice s = SL("results truncated due to limit");
    if (!cut)
        return;
    if (r->enforced) {
        int n = snprintf(text, sizeof(text), "results may be truncated due to querier.%s (requested limit: %zu, enforced: %zu)", limit_name,
                         r->limit ? r->limit + 1 : 0, r->enforced);
        s = slice_make(text, (size_t)n);
    }
    put_annotations(out, "warnings", &s, 1);
}

/* --- answers ------------------------------------------------------------------------------------------------------------------------- */

/* An answer that is being written: the call's state. Either strings or series. */
struct listing {
    struct label_request r;
    const struct slice *strings;
    const struct labels *series;
    size_t n, at;
    bool cut, ended;
    const char *limit_name;
    struct series_set **sets; /* whose labels the series are; arena, the sets owned */
    struct select_params *params; /* a select refers to its parameters until its set is released */
    size_t n_sets;
};

static bool listing_more(struct call *c, struct buf *out, struct err *err)
{
    struct listing *l = c->state;
    size_t before = out->n;
    (void)err;
    if (l->ended)
        return true;
    if (l->at == 0)
        buf_puts(out, "{\"status\":\"success\",\"data\":[");
    for (; l->at < l->n && out->n - before < HTTP_PIECE_BYTES; l->at++) {
        if (l->at)
            buf_putc(out, ',');
        if (l->series)
            put_labels(out, l->series[l->at]);
        else
            json_put_quoted(out, l->strings[l->at]);
    }
    if (l->at < l->n)
        return true;
    buf_putc(out, ']');
    put_limit_warning(out, &l->r, l->cut, l->limit_name);
    buf_putc(out, '}');
    l->ended = true;
    return true;
}

static void listing_end(struct call *c)
{
    struct listing *l = c->state;
    for (size_t i = 0; i < l->n_sets; i++)
        series_set_release(l->sets[i]);
    match_sets_release(&l->r.match);
}

typedef bool fill_fn(struct call *c, struct listing *l);

static bool run_listing(struct call *c, bool prefixed, int64_t tenant_limit, const char *limit_name, fill_fn *fill)
{
    struct listing *l = ARENA_NEW(&c->arena, struct listing);
    if (!l)
        return err_set(&c->err, ERR_MAX_QUERY_MEMORY, "out of memory for the request");
    l->limit_name = limit_name;
    c->state = l;
    if (!read_request(c, prefixed, tenant_limit, &l->r) || !fill(c, l)) {
        listing_end(c);
        return false;
    }
    c->more = listing_more;
    c->end = listing_end;
    return true;
}

/* --- names and values ---------------------------------------------------------------------------------------------------------------- */

static bool ask_strings(struct call *c, struct slice name, const struct select_params *p, const struct slice **ret, size_t *ret_n)
{
    struct queryable *q = c->api->q;
    if (name.p)
        return q->ops->label_values(q, &c->ctx, name, p, ret, ret_n, &c->err);
    return q->ops->label_names(q, &c->ctx, p, ret, ret_n, &c->err);
}

static int by_bytes(const void *a, const void *b)
{
    return slice_cmp(*(const struct slice *)a, *(const struct slice *)b);
}

static bool merge(struct call *c, const struct slice **all, size_t *n_all, const struct slice *more, size_t n_more)
{
    if (*n_all == 0 || n_more == 0) {
        *all = *n_all ? *all : more;
        *n_all += n_more;
        return true;
    }
    struct slice *joined = ARENA_ARRAY(&c->arena, struct slice, *n_all + n_more);
    if (!joined)
        return err_set(&c->err, ERR_MAX_QUERY_MEMORY, "out of memory for the request");
    memcpy(joined, *all, *n_all * sizeof(*joined));
    memcpy(joined + *n_all, more, n_more * sizeof(*joined));
    qsort(joined, *n_all + n_more, sizeof(*joined), by_bytes);
    size_t n = 0;
    for (size_t i = 0; i < *n_all + n_more; i++)
        if (n == 0 || !slice_eq(joined[n - 1], joined[i]))
            joined[n++] = joined[i];
    *all = joined;
    *n_all = n;
    return true;
}

/* name.p NULL: label names. */
static bool fill_strings(struct call *c, struct listing *l, struct slice name)
{
    const struct label_request *r = &l->r;
    for (size_t i = 0; !r->empty && i < MAX(r->match.n, (size_t)1); i++) {
        struct select_params p = select_of(r, r->match.n ? &r->match.sets[i] : NULL);
        const struct slice *some;
        size_t n_some;
        if (!ask_strings(c, name, &p, &some, &n_some) || !merge(c, &l->strings, &l->n, some, n_some))
            return false;
    }
    l->cut = most(r) && l->n > most(r);
    if (l->cut)
        l->n = most(r);
    return true;
}

static bool fill_names(struct call *c, struct listing *l)
{
    return fill_strings(c, l, (struct slice){NULL, 0});
}

static bool fill_values(struct call *c, struct listing *l)
{
    return fill_strings(c, l, http_path_var(c->req, "name"));
}

static bool run_label_names(struct call *c)
{
    return run_listing(c, false, c->limits->max_label_names_limit, "max-label-names-limit", fill_names);
}

static bool run_label_values(struct call *c)
{
    return run_listing(c, false, c->limits->max_label_values_limit, "max-label-values-limit", fill_values);
}

void label_names_handler(struct http_request *req, void *arg)
{
    serve(req, arg, "label_names", CALL_READS, run_label_names);
}

void label_values_handler(struct http_request *req, void *arg)
{
    serve(req, arg, "label_values", CALL_READS, run_label_values);
}

/* --- series --------------------------------------------------------------------------------------------------------------------------- */

/* Label sets of all selectors; they stay valid as long as their series sets. */
struct series_list {
    struct labels *items; /* arena */
    size_t n, cap;
};

static bool list_add(struct call *c, struct series_list *l, struct labels labels)
{
    if (l->n == l->cap) {
        size_t cap = l->cap ? 2 * l->cap : 256;
        struct labels *items = ARENA_ARRAY(&c->arena, struct labels, cap);
        if (!items)
            return err_set(&c->err, ERR_MAX_QUERY_MEMORY, "out of memory for the request");
        if (l->n)
            memcpy(items, l->items, l->n * sizeof(*items));
        l->items = items;
        l->cap = cap;
    }
    l->items[l->n++] = labels;
    return true;
}

/* False, with an error: n series are more than a query may have. */
static bool may_have(struct call *c, size_t n)
{
    int64_t max = c->limits->max_fetched_series_per_query;
    if (max <= 0 || n <= (size_t)max)
        return true;
    return err_set(&c->err, ERR_MAX_SERIES_PER_QUERY,
                   "the query exceeded the maximum number of series (limit: %lld series) (err-mimir-max-series-per-query). Consider reducing the "
                   "time range and/or number of series selected by the query. One way to reduce the number of selected series is to add more "
                   "label matchers to the query. Otherwise, to adjust the related per-tenant limit, configure "
                   "-querier.max-fetched-series-per-query, or contact your service administrator.",
                   (long long)max);
}

/* The series of one selector, of which each comes once; no more than are wanted, and one. */
static bool drain(struct call *c, const struct label_request *r, struct series_list *l, struct series_set *set)
{
    struct series batch[BATCH];
    size_t before = l->n, wanted = r->match.n == 1 ? ask(r) : 0;
    for (;;) {
        size_t n;
        if (!ctx_check(&c->ctx, &c->err) || !series_set_next(set, &c->ctx, batch, BATCH, &n, &c->err))
            return false;
        for (size_t i = 0; i < n && !(wanted && l->n == wanted); i++)
            if (!list_add(c, l, batch[i].labels))
                return false;
        bool enough = wanted && l->n == wanted;
        if (!may_have(c, l->n - before - enough))
            return false;
        if (n == 0 || enough)
            return true;
    }
}

static int compare_labels(const void *a, const void *b)
{
    return labels_cmp(*(const struct labels *)a, *(const struct labels *)b);
}

/* By labels, each once: Prometheus merges several selectors so, Mimir also sorts the series of one. What comes sorted costs one look. */
static void sort_unique(struct series_list *l)
{
    bool sorted = true;
    size_t n = 0;
    for (size_t i = 1; i < l->n && sorted; i++)
        sorted = labels_cmp(l->items[i - 1], l->items[i]) < 0;
    if (sorted)
        return;
    qsort(l->items, l->n, sizeof(*l->items), compare_labels);
    for (size_t i = 0; i < l->n; i++)
        if (n == 0 || !labels_eq(l->items[n - 1], l->items[i]))
            l->items[n++] = l->items[i];
    l->n = n;
}

static bool fill_series(struct call *c, struct listing *l)
{
    const struct label_request *r = &l->r;
    struct series_list list = {0};
    struct queryable *q = c->api->q;
    l->sets = ARENA_ARRAY(&c->arena, struct series_set *, r->match.n);
    l->params = ARENA_ARRAY(&c->arena, struct select_params, r->match.n);
    if (!l->sets || !l->params)
        return err_set(&c->err, ERR_MAX_QUERY_MEMORY, "out of memory for the request");
    for (size_t i = 0; !r->empty && i < r->match.n; i++) {
        l->params[i] = select_of(r, &r->match.sets[i]);
        if (r->match.n > 1)
            l->params[i].limit = 0; /* which of them come first of all is not known yet */
        struct series_set *set = q->ops->select(q, &c->ctx, &l->params[i], &c->err);
        if (!set)
            return false;
        l->sets[l->n_sets++] = set;
        if (!drain(c, r, &list, set))
            return false;
    }
    sort_unique(&list);
    l->series = list.items;
    l->cut = most(r) && list.n > most(r);
    l->n = l->cut ? most(r) : list.n;
    return may_have(c, l->n);
}

static bool run_series(struct call *c)
{
    const struct slice *texts;
    if (http_params(c->req, "match[]", &texts) == 0)
        return err_set(&c->err, ERR_BAD_DATA, "no match[] parameter provided");
    return run_listing(c, true, c->limits->max_series_query_limit, "max-series-query-limit", fill_series);
}

void series_handler(struct http_request *req, void *arg)
{
    serve(req, arg, "series", CALL_READS, run_series);
}
