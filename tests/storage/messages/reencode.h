/* Every message of cortex.Ingester by its method: reads it and writes it again. Shared by the test with real bytes and
 * the fuzz target. */
#pragma once

#include <string.h>

#include "base/assert.h"
#include "storage/messages/ingester_messages.h"

typedef bool reencode(struct slice message, struct arena *arena, struct buf *out, struct err *err);

struct reencoder {
    const char *method;
    reencode *request;
    reencode *response;
};

#define REENCODE_REQUEST(prefix, type)                                                                                 \
    static bool re_##prefix##_request(struct slice m, struct arena *a, struct buf *out, struct err *err)               \
    {                                                                                                                  \
        struct type r;                                                                                                 \
        if (!prefix##_request_decode(m, a, &r, err))                                                                   \
            return false;                                                                                              \
        prefix##_request_put(&r, out);                                                                                 \
        return true;                                                                                                   \
    }
REENCODE_REQUEST(query, ingester_request)
REENCODE_REQUEST(label_names, ingester_request)
REENCODE_REQUEST(label_values, ingester_request)
REENCODE_REQUEST(metrics, ingester_request)
REENCODE_REQUEST(exemplar, ingester_request)
REENCODE_REQUEST(label_names_and_values, cardinality_request)
REENCODE_REQUEST(label_values_cardinality, cardinality_request)
REENCODE_REQUEST(active_series, cardinality_request)

static bool re_metadata_request(struct slice m, struct arena *a, struct buf *out, struct err *err)
{
    (void)a;
    struct metadata_request r;
    if (!metadata_request_decode(m, &r, err))
        return false;
    metadata_request_put(&r, out);
    return true;
}

static bool re_user_stats_request(struct slice m, struct arena *a, struct buf *out, struct err *err)
{
    (void)a;
    bool active;
    if (!user_stats_request_decode(m, &active, err))
        return false;
    user_stats_request_put(active, out);
    return true;
}

static bool re_stream(struct slice m, struct arena *a, struct buf *out, struct err *err)
{
    struct query_stream_response r;
    if (!query_stream_response_decode(m, a, &r, err))
        return false;
    for (size_t i = 0; i < r.n_series; i++)
        streamed_series_put(&r.series[i].labels, r.series[i].chunk_count, out);
    if (r.end_of_series)
        end_of_series_put(out);
    for (size_t i = 0; i < r.n_chunks; i++)
        streamed_chunks_put(r.chunks[i].series_index, r.chunks[i].chunks, r.chunks[i].n, out);
    return true;
}

static bool re_strings(struct slice m, struct arena *a, struct buf *out, struct err *err)
{
    const struct slice *list;
    size_t n;
    if (!strings_response_decode(m, a, &list, &n, err))
        return false;
    strings_response_put(list, n, out);
    return true;
}

/* Answers that are a list of elements. */
#define REENCODE_LIST(name, type, decode, put)                                                                         \
    static bool re_##name(struct slice m, struct arena *a, struct buf *out, struct err *err)                           \
    {                                                                                                                  \
        const struct type *list;                                                                                       \
        size_t n;                                                                                                      \
        if (!decode(m, a, &list, &n, err))                                                                             \
            return false;                                                                                              \
        for (size_t i = 0; i < n; i++)                                                                                 \
            put;                                                                                                       \
        return true;                                                                                                   \
    }
REENCODE_LIST(metrics, labels, metrics_response_decode, metrics_response_put(&list[i], out))
REENCODE_LIST(metadata, metric_metadata, metadata_response_decode, metadata_response_put(&list[i], out))
REENCODE_LIST(exemplars, exemplar_series, exemplar_response_decode, exemplar_response_put(&list[i], out))
REENCODE_LIST(users, tenant_stats, users_stats_decode, users_stats_put(list[i].tenant, &list[i].stats, out))
REENCODE_LIST(names_and_values, label_name_values, label_names_and_values_decode,
              label_names_and_values_put(list[i].name, list[i].values, list[i].n, out))
REENCODE_LIST(cardinality, label_cardinality, label_values_cardinality_decode,
              label_values_cardinality_put(list[i].name, list[i].values, list[i].n, out))

static bool re_user_stats(struct slice m, struct arena *a, struct buf *out, struct err *err)
{
    (void)a;
    struct user_stats s;
    if (!user_stats_decode(m, &s, err))
        return false;
    user_stats_put(&s, out);
    return true;
}

static bool re_active_series(struct slice m, struct arena *a, struct buf *out, struct err *err)
{
    struct active_series_response r;
    if (!active_series_decode(m, a, &r, err))
        return false;
    for (size_t i = 0; i < r.n_metrics; i++)
        active_series_put(&r.metrics[i], out);
    active_series_bucket_counts_put(r.bucket_counts, r.n_bucket_counts, out);
    return true;
}

static const struct reencoder reencoders[] = {
    {INGESTER_QUERY_STREAM, re_query_request, re_stream},
    {INGESTER_LABEL_NAMES, re_label_names_request, re_strings},
    {INGESTER_LABEL_VALUES, re_label_values_request, re_strings},
    {INGESTER_METRICS_FOR_MATCHERS, re_metrics_request, re_metrics},
    {INGESTER_METRICS_METADATA, re_metadata_request, re_metadata},
    {INGESTER_QUERY_EXEMPLARS, re_exemplar_request, re_exemplars},
    {INGESTER_USER_STATS, re_user_stats_request, re_user_stats},
    {INGESTER_ALL_USER_STATS, re_user_stats_request, re_users},
    {INGESTER_LABEL_NAMES_AND_VALUES, re_label_names_and_values_request, re_names_and_values},
    {INGESTER_LABEL_VALUES_CARDINALITY, re_label_values_cardinality_request, re_cardinality},
    {INGESTER_ACTIVE_SERIES, re_active_series_request, re_active_series},
};
