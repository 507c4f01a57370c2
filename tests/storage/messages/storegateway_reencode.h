/* Every message of gatewaypb.StoreGateway by its method: reads it and writes it again. Shared by the test with real bytes and the fuzz target. */
#pragma once

#include "storage/messages/storegateway_messages.h"

typedef bool storegateway_reencode(struct slice message, struct arena *arena, struct buf *out, struct err *err);

struct storegateway_reencoder {
    const char *method;
    storegateway_reencode *request;
    storegateway_reencode *response;
};

#define REENCODE_STOREGATEWAY(name)                                                                                    \
    static bool re_sg_##name##_request(struct slice m, struct arena *a, struct buf *out, struct err *err)              \
    {                                                                                                                  \
        struct storegateway_request r;                                                                                 \
        if (!storegateway_##name##_request_decode(m, a, &r, err))                                                      \
            return false;                                                                                              \
        storegateway_##name##_request_put(&r, out);                                                                    \
        return true;                                                                                                   \
    }
REENCODE_STOREGATEWAY(series)
REENCODE_STOREGATEWAY(label_names)
REENCODE_STOREGATEWAY(label_values)

static bool re_sg_names(struct slice m, struct arena *a, struct buf *out, struct err *err)
{
    struct storegateway_strings s;
    if (!storegateway_strings_decode(m, a, &s, err))
        return false;
    storegateway_label_names_put(&s, out);
    return true;
}

static bool re_sg_values(struct slice m, struct arena *a, struct buf *out, struct err *err)
{
    struct storegateway_strings s;
    if (!storegateway_strings_decode(m, a, &s, err))
        return false;
    storegateway_label_values_put(&s, out);
    return true;
}

/* Warnings, which we never write, become nothing. */
static void re_sg_put(const struct storegateway_series_response *r, struct buf *out)
{
    size_t begin;
    switch (r->part) {
    case STOREGATEWAY_HINTS:
        storegateway_hints_put(r->queried.blocks, r->queried.n, out);
        break;
    case STOREGATEWAY_STATS:
        storegateway_stats_put(r->fetched_index_bytes, out);
        break;
    case STOREGATEWAY_CHUNKS_ESTIMATE:
        storegateway_chunks_estimate_put(r->estimated_chunks, out);
        break;
    case STOREGATEWAY_SERIES_BATCH:
        begin = storegateway_series_begin(out);
        for (size_t i = 0; i < r->n_series; i++)
            storegateway_series_add(&r->series[i], out);
        storegateway_series_end(begin, r->end_of_series, out);
        break;
    case STOREGATEWAY_CHUNKS_BATCH:
        begin = storegateway_chunks_begin(out);
        for (size_t i = 0; i < r->n_chunks; i++)
            storegateway_chunks_add(r->chunks[i].series_index, r->chunks[i].chunks, r->chunks[i].n, out);
        storegateway_chunks_end(begin, out);
        break;
    case STOREGATEWAY_WARNING:
    case STOREGATEWAY_OTHER:
        break;
    }
}

static bool re_sg_series(struct slice m, struct arena *a, struct buf *out, struct err *err)
{
    struct storegateway_series_response r;
    if (!storegateway_series_response_decode(m, a, &r, err))
        return false;
    re_sg_put(&r, out);
    return true;
}

static const struct storegateway_reencoder storegateway_reencoders[] = {
    {STOREGATEWAY_SERIES, re_sg_series_request, re_sg_series},
    {STOREGATEWAY_LABEL_NAMES, re_sg_label_names_request, re_sg_names},
    {STOREGATEWAY_LABEL_VALUES, re_sg_label_values_request, re_sg_values},
};
