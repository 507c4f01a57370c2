/* Names and values of labels, series, metadata, exemplars: one answer each. */
#include <stdlib.h>

#include "ingest/service/service_int.h"

static bool no_memory(struct call *c)
{
    return err_set(&c->err, ERR_MAX_QUERY_MEMORY, "no memory for the answer");
}

/* The request's only set of matchers, its range and its limit. */
static bool one_select(struct call *c, const struct ingester_request *r, struct select_params *ret)
{
    static const struct matcher_set none;
    *ret = (struct select_params){.min_t = r->start_ms, .max_t = r->end_ms, .no_chunks = true};
    ret->limit = r->limit > 0 ? (size_t)r->limit : 0;
    return call_matchers(c, r->n_sets ? &r->sets[0] : &none, &ret->matchers, &ret->n_matchers);
}

bool label_names(struct call *c)
{
    struct ingester_request r;
    struct select_params p;
    const struct slice *names;
    size_t n;
    struct queryable *q = ingester_queryable(c->service->ing);
    if (!label_names_request_decode(rpc_body(c->req), c->ctx->arena, &r, &c->err))
        return call_unreadable(c);
    if (!one_select(c, &r, &p) || !q->ops->label_names(q, c->ctx, &p, &names, &n, &c->err))
        return false;
    strings_response_put(names, n, &c->out);
    return true;
}

bool label_values(struct call *c)
{
    struct ingester_request r;
    struct select_params p;
    const struct slice *values;
    size_t n;
    struct queryable *q = ingester_queryable(c->service->ing);
    if (!label_values_request_decode(rpc_body(c->req), c->ctx->arena, &r, &c->err))
        return call_unreadable(c);
    if (!one_select(c, &r, &p) || !q->ops->label_values(q, c->ctx, r.label_name, &p, &values, &n, &c->err))
        return false;
    strings_response_put(values, n, &c->out);
    return true;
}

/* --- series of several sets of matchers: the union, by labels --- */

static bool list_set(struct call *c, const struct ingester_request *r, size_t set, struct series_list **ret)
{
    static const struct series_filter by_labels = {.sorted = true};
    struct select_params p = {.min_t = r->start_ms, .max_t = r->end_ms, .no_chunks = true};
    p.limit = r->limit > 0 ? (size_t)r->limit : 0;
    return call_matchers(c, &r->sets[set], &p.matchers, &p.n_matchers) &&
           ingester_list_series(c->service->ing, c->ctx, &p, &by_labels, ret, &c->err);
}

static int compare_labels(const void *a, const void *b)
{
    return labels_cmp(*(const struct labels *)a, *(const struct labels *)b);
}

static bool put_union(struct call *c, struct series_list *const *lists, size_t n_lists, int64_t limit)
{
    size_t total = 0, n = 0;
    for (size_t i = 0; i < n_lists; i++)
        total += lists[i] ? series_list_len(lists[i]) : 0;
    struct labels *all = ARENA_ARRAY(c->ctx->arena, struct labels, total + 1);
    if (!all)
        return no_memory(c);
    for (size_t i = 0; i < n_lists; i++) {
        uint32_t n_chunks;
        for (size_t k = 0; lists[i] && k < series_list_len(lists[i]); k++)
            if (!series_list_labels(lists[i], k, c->ctx->arena, &all[n++], &n_chunks))
                return no_memory(c);
    }
    if (n_lists > 1 && n)
        qsort(all, n, sizeof(*all), compare_labels);
    int64_t put = 0;
    for (size_t i = 0; i < n && (limit <= 0 || put < limit); i++) {
        if (i > 0 && labels_eq(all[i - 1], all[i]))
            continue;
        metrics_response_put(&all[i], &c->out);
        put++;
    }
    return true;
}

bool metrics_for_label_matchers(struct call *c)
{
    struct ingester_request r;
    struct series_list *lists[MESSAGE_MATCHER_SETS_MAX];
    size_t n = 0;
    if (!metrics_request_decode(rpc_body(c->req), c->ctx->arena, &r, &c->err))
        return call_unreadable(c);
    while (n < r.n_sets && list_set(c, &r, n, &lists[n]))
        n++;
    bool ok = n == r.n_sets && put_union(c, lists, n, r.limit);
    while (n > 0)
        series_list_free(lists[--n]);
    return ok;
}

/* --- metadata --- */

bool metrics_metadata(struct call *c)
{
    struct metadata_request r;
    const struct metric_metadata *all;
    size_t n;
    struct queryable *q = ingester_queryable(c->service->ing);
    if (!metadata_request_decode(rpc_body(c->req), &r, &c->err))
        return call_unreadable(c);
    if (!q->ops->metadata(q, c->ctx, &all, &n, &c->err))
        return false;
    int64_t families = 0, of_family = 0;
    for (size_t i = 0; i < n && r.limit != 0; i++) {
        if (r.metric.n && !slice_eq(all[i].family, r.metric))
            continue;
        bool next = families == 0 || !slice_eq(all[i].family, all[i - 1].family);
        families += next;
        of_family = next ? 1 : of_family + 1;
        if (r.limit > 0 && families > r.limit)
            break;
        if (r.limit_per_metric <= 0 || of_family <= r.limit_per_metric)
            metadata_response_put(&all[i], &c->out);
    }
    return true;
}

/* --- exemplars --- */

static int compare_exemplar_series(const void *a, const void *b)
{
    return labels_cmp(((const struct exemplar_series *)a)->labels, ((const struct exemplar_series *)b)->labels);
}

bool query_exemplars(struct call *c)
{
    struct ingester_request r;
    const struct exemplar_series *of_set[MESSAGE_MATCHER_SETS_MAX];
    size_t n_of_set[MESSAGE_MATCHER_SETS_MAX];
    struct queryable *q = ingester_queryable(c->service->ing);
    if (!exemplar_request_decode(rpc_body(c->req), c->ctx->arena, &r, &c->err))
        return call_unreadable(c);
    size_t total = 0;
    for (size_t i = 0; i < r.n_sets; i++) {
        struct select_params p = {.min_t = r.start_ms, .max_t = r.end_ms};
        if (!call_matchers(c, &r.sets[i], &p.matchers, &p.n_matchers) ||
            !q->ops->exemplars(q, c->ctx, &p, &of_set[i], &n_of_set[i], &c->err))
            return false;
        total += n_of_set[i];
    }
    struct exemplar_series *all = ARENA_ARRAY(c->ctx->arena, struct exemplar_series, total + 1);
    if (!all)
        return no_memory(c);
    size_t n = 0;
    for (size_t i = 0; i < r.n_sets; i++)
        for (size_t k = 0; k < n_of_set[i]; k++)
            all[n++] = of_set[i][k];
    if (r.n_sets > 1 && n)
        qsort(all, n, sizeof(*all), compare_exemplar_series);
    for (size_t i = 0; i < n; i++)
        if (i == 0 ||
            !labels_eq(all[i - 1].labels, all[i].labels)) /* a series of two sets has the same exemplars twice */
            exemplar_response_put(&all[i], &c->out);
    return true;
}
