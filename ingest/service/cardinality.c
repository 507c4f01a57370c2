/* Statistics of tenants, and the streams of cardinality analysis. These look at everything the head has, whatever its
 * time. */
#include <stdlib.h>

#include "ingest/service/service_int.h"

static const struct select_params everything = {.min_t = INT64_MIN, .max_t = INT64_MAX, .no_chunks = true};

/* --- statistics --- */

static struct user_stats stats_of(const struct ingester_user_stats *s, bool active)
{
    return (struct user_stats){
        .ingestion_rate = s->api_ingestion_rate + s->rule_ingestion_rate,
        .num_series = active ? s->active_series : s->num_series,
        .api_ingestion_rate = s->api_ingestion_rate,
        .rule_ingestion_rate = s->rule_ingestion_rate,
    };
}

/* An unknown tenant has an empty answer. */
bool user_stats(struct call *c)
{
    bool active;
    struct ingester_user_stats s;
    if (!user_stats_request_decode(rpc_body(c->req), &active, &c->err))
        return call_unreadable(c);
    if (ingester_user_stats(c->service->ing, c->ctx->tenant, &s)) {
        struct user_stats stats = stats_of(&s, active);
        user_stats_put(&stats, &c->out);
    }
    return true;
}

bool all_user_stats(struct call *c)
{
    bool active;
    size_t n;
    if (!user_stats_request_decode(rpc_body(c->req), &active, &c->err))
        return call_unreadable(c);
    struct ingester_tenant *tenants = ingester_tenants(c->service->ing, &n);
    for (size_t i = 0; i < n; i++) {
        struct ingester_user_stats s;
        if (!ingester_user_stats(c->service->ing, tenants[i].tenant, &s))
            continue;
        struct user_stats stats = stats_of(&s, active);
        users_stats_put(tenants[i].tenant, &stats, &c->out);
    }
    free(tenants);
    return true;
}

/* --- labels --- */

static bool count_values(struct call *c, struct slice name, const struct select_params *p, bool active,
                         const struct value_count **ret, size_t *ret_n)
{
    return ingester_count_values(c->service->ing, c->ctx, name, p->matchers, p->n_matchers,
                                 active ? call_active_since_s(c) : 0, ret, ret_n, &c->err);
}

/* How many of the values fit into a message. */
static size_t values_of_message(const struct value_count *values, size_t n)
{
    size_t bytes = 0, i = 0;
    while (i < n && bytes < CALL_MESSAGE_BYTES)
        bytes += values[i++].value.n + 16;
    return i;
}

/* A name with many values has items in several messages. */
static bool put_values(struct call *c, struct slice name, const struct value_count *values, size_t n)
{
    struct slice *texts = ARENA_ARRAY(c->ctx->arena, struct slice, n + 1);
    if (!texts)
        return err_set(&c->err, ERR_MAX_QUERY_MEMORY, "no memory for label values");
    for (size_t i = 0; i < n; i++)
        texts[i] = values[i].value;
    for (size_t from = 0; from < n;) {
        size_t some = values_of_message(values + from, n - from);
        label_names_and_values_put(name, texts + from, some, &c->out);
        from += some;
        if (c->out.n >= CALL_MESSAGE_BYTES && !call_send(c))
            return false;
    }
    return true;
}

bool label_names_and_values(struct call *c)
{
    struct cardinality_request r;
    struct select_params p = everything;
    const struct slice *names;
    size_t n;
    struct queryable *q = ingester_queryable(c->service->ing);
    if (!label_names_and_values_request_decode(rpc_body(c->req), c->ctx->arena, &r, &c->err))
        return call_unreadable(c);
    if (!call_matchers(c, &r.matchers, &p.matchers, &p.n_matchers) ||
        !q->ops->label_names(q, c->ctx, &p, &names, &n, &c->err))
        return false;
    for (size_t i = 0; i < n; i++) {
        const struct value_count *values;
        size_t n_values;
        if (!ctx_check(c->ctx, &c->err) || !count_values(c, names[i], &p, r.active, &values, &n_values) ||
            !put_values(c, names[i], values, n_values))
            return false;
    }
    return c->out.n == 0 || call_send(c);
}

bool label_values_cardinality(struct call *c)
{
    struct cardinality_request r;
    struct select_params p = everything;
    if (!label_values_cardinality_request_decode(rpc_body(c->req), c->ctx->arena, &r, &c->err))
        return call_unreadable(c);
    if (!call_matchers(c, &r.matchers, &p.matchers, &p.n_matchers))
        return false;
    for (size_t i = 0; i < r.n_label_names; i++) {
        const struct value_count *values;
        size_t n;
        if (!ctx_check(c->ctx, &c->err) || !count_values(c, r.label_names[i], &p, r.active, &values, &n))
            return false;
        struct label_value_count *counts = ARENA_ARRAY(c->ctx->arena, struct label_value_count, n + 1);
        if (!counts)
            return err_set(&c->err, ERR_MAX_QUERY_MEMORY, "no memory for label values");
        for (size_t k = 0; k < n; k++)
            counts[k] = (struct label_value_count){values[k].value, values[k].series};
        for (size_t from = 0; from < n;) {
            size_t some = values_of_message(values + from, n - from);
            label_values_cardinality_put(r.label_names[i], counts + from, some, &c->out);
            from += some;
            if (c->out.n >= CALL_MESSAGE_BYTES && !call_send(c))
                return false;
        }
    }
    return c->out.n == 0 || call_send(c);
}

/* --- active series --- */

/* Messages of as many series as one take gives: their buckets stand behind their labels. */
static bool send_active(struct call *c, struct series_list *list, bool buckets, struct arena *scratch)
{
    size_t n = series_list_len(list);
    for (size_t from = 0; from < n; from += SERIES_LIST_BATCH) {
        size_t some = MIN((size_t)SERIES_LIST_BATCH, n - from);
        uint64_t counts[SERIES_LIST_BATCH];
        arena_clear(scratch);
        for (size_t i = 0; i < some; i++) {
            struct labels labels;
            uint32_t n_chunks;
            if (!series_list_labels(list, from + i, scratch, &labels, &n_chunks))
                return err_set(&c->err, ERR_MAX_QUERY_MEMORY, "no memory for active series");
            active_series_put(&labels, &c->out);
        }
        if (buckets) {
            if (!series_list_buckets(list, from, some, scratch, counts))
                return err_set(&c->err, ERR_MAX_QUERY_MEMORY, "no memory for active series");
            active_series_bucket_counts_put(counts, some, &c->out);
        }
        if (!call_send(c))
            return false;
    }
    return true;
}

bool active_series(struct call *c)
{
    struct cardinality_request r;
    struct select_params p = everything;
    struct series_filter filter = {.sorted = true, .active_since_s = call_active_since_s(c)};
    struct series_list *list;
    if (!active_series_request_decode(rpc_body(c->req), c->ctx->arena, &r, &c->err))
        return call_unreadable(c);
    filter.native_histograms = r.native_histograms;
    if (!call_sharded_matchers(c, &r.matchers, &filter, &p.matchers, &p.n_matchers) ||
        !ingester_list_series(c->service->ing, c->ctx, &p, &filter, &list, &c->err))
        return false;
    if (!list)
        return true;
    struct arena scratch;
    arena_init(&scratch, c->ctx->arena->budget_bytes);
    bool ok = send_active(c, list, r.native_histograms, &scratch);
    series_list_free(list);
    arena_release(&scratch);
    return ok;
}
