/*
 * The messages of the gRPC service cortex.Ingester (docs/formats.md 8.2), as queriers write them and ingesters read
 * them, and back.
 *
 * Reading copies nothing: slices point into the message, arrays lie in the caller's arena. Requests are small and come
 * from outside: every length and count is checked and bounded. Writing appends to a buf, in the order and with the
 * bytes of Go's generated code. Unknown fields are passed over. Any thread.
 *
 * Errors: bytes that are no such message are ERR_BAD_DATA in a request and ERR_CORRUPT in an answer, with Go's texts; a
 * full arena is ERR_MAX_QUERY_MEMORY.
 */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/arena.h"
#include "base/buf.h"
#include "base/err.h"
#include "base/slice.h"
#include "model/labels.h"
#include "model/matcher.h"
#include "storage/queryable.h"

#define INGESTER_QUERY_STREAM "/cortex.Ingester/QueryStream"
#define INGESTER_LABEL_NAMES "/cortex.Ingester/LabelNames"
#define INGESTER_LABEL_VALUES "/cortex.Ingester/LabelValues"
#define INGESTER_METRICS_FOR_MATCHERS "/cortex.Ingester/MetricsForLabelMatchers"
#define INGESTER_METRICS_METADATA "/cortex.Ingester/MetricsMetadata"
#define INGESTER_QUERY_EXEMPLARS "/cortex.Ingester/QueryExemplars"
#define INGESTER_USER_STATS "/cortex.Ingester/UserStats"
#define INGESTER_ALL_USER_STATS "/cortex.Ingester/AllUserStats"
#define INGESTER_PUSH "/cortex.Ingester/Push"
#define INGESTER_LABEL_NAMES_AND_VALUES "/cortex.Ingester/LabelNamesAndValues"
#define INGESTER_LABEL_VALUES_CARDINALITY "/cortex.Ingester/LabelValuesCardinality"
#define INGESTER_ACTIVE_SERIES "/cortex.Ingester/ActiveSeries"

/* A matcher as it travels; model/matcher.h makes it work. */
struct matcher_spec {
    enum matcher_type type;
    struct slice name;
    struct slice value;
};

#define MESSAGE_MATCHERS_MAX 1024 /* in one set */
#define MESSAGE_MATCHER_SETS_MAX 128

struct matcher_set {
    const struct matcher_spec *matchers;
    size_t n;
};

/*
 * One shape for all requests that select: QueryRequest, LabelNamesRequest, LabelValuesRequest,
 * MetricsForLabelMatchersRequest, ExemplarQueryRequest. What a request does not have stays zero.
 */
struct ingester_request {
    int64_t start_ms; /* inclusive */
    int64_t end_ms;
    struct matcher_set *sets;
    size_t n_sets; /* QueryRequest: always one. LabelNames, LabelValues: one, or none, which means the same as one
                      without matchers */
    struct slice label_name; /* LabelValues */
    int64_t limit;
    uint64_t chunks_batch; /* QueryStream: series a message with chunks; 0 = the ingester's choice */
};

bool query_request_decode(struct slice message, struct arena *arena, struct ingester_request *ret, struct err *err);
bool label_names_request_decode(struct slice message, struct arena *arena, struct ingester_request *ret,
                                struct err *err);
bool label_values_request_decode(struct slice message, struct arena *arena, struct ingester_request *ret,
                                 struct err *err);
bool metrics_request_decode(struct slice message, struct arena *arena, struct ingester_request *ret, struct err *err);
bool exemplar_request_decode(struct slice message, struct arena *arena, struct ingester_request *ret, struct err *err);

void query_request_put(const struct ingester_request *r, struct buf *out);
void label_names_request_put(const struct ingester_request *r, struct buf *out);
void label_values_request_put(const struct ingester_request *r, struct buf *out);
void metrics_request_put(const struct ingester_request *r, struct buf *out);
void exemplar_request_put(const struct ingester_request *r, struct buf *out);

/* MetricsMetadataRequest. -1 = no limit; metric "" = all. */
struct metadata_request {
    int32_t limit;
    int32_t limit_per_metric;
    struct slice metric;
};
bool metadata_request_decode(struct slice message, struct metadata_request *ret, struct err *err);
void metadata_request_put(const struct metadata_request *r, struct buf *out);

/* --- answers
 * ---------------------------------------------------------------------------------------------------------------- */

/*
 * QueryStreamResponse. A stream is messages with series (labels and how many chunks), the last of them with
 * end_of_series, then messages with chunks, in the order of the series. An unknown tenant: no message at all.
 */
struct streamed_series {
    struct labels labels;
    int64_t chunk_count; /* a good guess: what comes may be more or less, for samples arrive in between */
};
struct streamed_chunks {
    uint64_t series_index; /* the how-manieth series of the stream; every series has its turn, though it may be without
                              chunks */
    const struct series_chunk *chunks;
    size_t n;
};
struct query_stream_response {
    const struct streamed_series *series;
    size_t n_series;
    bool end_of_series;
    const struct streamed_chunks *chunks;
    size_t n_chunks;
};
bool query_stream_response_decode(struct slice message, struct arena *arena, struct query_stream_response *ret,
                                  struct err *err);
/* Parts of one message, in this order. */
void streamed_series_put(const struct labels *labels, int64_t chunk_count, struct buf *out);
void end_of_series_put(struct buf *out);
void streamed_chunks_put(uint64_t series_index, const struct series_chunk *chunks, size_t n, struct buf *out);

/* In what is read here and below, labels of series are in order and have values; those of exemplars may be anything. */

/* LabelNamesResponse and LabelValuesResponse. */
bool strings_response_decode(struct slice message, struct arena *arena, const struct slice **ret, size_t *ret_n,
                             struct err *err);
void strings_response_put(const struct slice *strings, size_t n, struct buf *out);

/* MetricsForLabelMatchersResponse: put one metric after the other. */
bool metrics_response_decode(struct slice message, struct arena *arena, const struct labels **ret, size_t *ret_n,
                             struct err *err);
void metrics_response_put(const struct labels *metric, struct buf *out);

bool metadata_response_decode(struct slice message, struct arena *arena, const struct metric_metadata **ret,
                              size_t *ret_n, struct err *err);
void metadata_response_put(const struct metric_metadata *m, struct buf *out);

bool exemplar_response_decode(struct slice message, struct arena *arena, const struct exemplar_series **ret,
                              size_t *ret_n, struct err *err);
void exemplar_response_put(const struct exemplar_series *s, struct buf *out);

struct user_stats {
    double ingestion_rate;
    uint64_t num_series;
    double api_ingestion_rate;
    double rule_ingestion_rate;
};
/* *ret_active: series counted are the active ones (UserStatsRequest.count_method). */
bool user_stats_request_decode(struct slice message, bool *ret_active, struct err *err);
void user_stats_request_put(bool active, struct buf *out);
bool user_stats_decode(struct slice message, struct user_stats *ret, struct err *err);
void user_stats_put(const struct user_stats *stats, struct buf *out);
struct tenant_stats {
    struct slice tenant;
    struct user_stats stats;
};
bool users_stats_decode(struct slice message, struct arena *arena, const struct tenant_stats **ret, size_t *ret_n,
                        struct err *err);
/* One entry of UsersStatsResponse. */
void users_stats_put(struct slice tenant, const struct user_stats *stats, struct buf *out);

/* --- cardinality: streams of messages
 * ----------------------------------------------------------------------------------------- */

/* LabelNamesAndValuesRequest, LabelValuesCardinalityRequest, ActiveSeriesRequest. What a request does not have stays
 * zero. */
struct cardinality_request {
    struct matcher_set matchers;
    const struct slice *label_names; /* LabelValuesCardinality */
    size_t n_label_names;
    bool active;            /* count active series only: the two of labels */
    bool native_histograms; /* ActiveSeries: only those, with their numbers of buckets */
};
bool label_names_and_values_request_decode(struct slice message, struct arena *arena, struct cardinality_request *ret,
                                           struct err *err);
bool label_values_cardinality_request_decode(struct slice message, struct arena *arena, struct cardinality_request *ret,
                                             struct err *err);
bool active_series_request_decode(struct slice message, struct arena *arena, struct cardinality_request *ret,
                                  struct err *err);
void label_names_and_values_request_put(const struct cardinality_request *r, struct buf *out);
void label_values_cardinality_request_put(const struct cardinality_request *r, struct buf *out);
void active_series_request_put(const struct cardinality_request *r, struct buf *out);

/* A name may be there again in a later message of the stream, with more values. */
struct label_name_values {
    struct slice name;
    const struct slice *values;
    size_t n;
};
bool label_names_and_values_decode(struct slice message, struct arena *arena, const struct label_name_values **ret,
                                   size_t *ret_n, struct err *err);
void label_names_and_values_put(struct slice name, const struct slice *values, size_t n, struct buf *out);

struct label_value_count {
    struct slice value;
    uint64_t series;
};
struct label_cardinality {
    struct slice name;
    const struct label_value_count *values;
    size_t n;
};
bool label_values_cardinality_decode(struct slice message, struct arena *arena, const struct label_cardinality **ret,
                                     size_t *ret_n, struct err *err);
void label_values_cardinality_put(struct slice name, const struct label_value_count *values, size_t n, struct buf *out);

struct active_series_response {
    const struct labels *metrics;
    size_t n_metrics;
    const uint64_t *bucket_counts; /* as many, when native histograms were asked for; else none */
    size_t n_bucket_counts;
};
bool active_series_decode(struct slice message, struct arena *arena, struct active_series_response *ret,
                          struct err *err);
/* Parts of one message: its metrics, then the buckets of all of them. */
void active_series_put(const struct labels *metric, struct buf *out);
void active_series_bucket_counts_put(const uint64_t *counts, size_t n, struct buf *out);

/* --- errors
 * ---------------------------------------------------------------------------------------------------------------------
 */

/* ErrorDetails.cause: why an ingester refused, for programs. */
enum error_cause {
    ERROR_CAUSE_UNKNOWN = 0,
    ERROR_CAUSE_REPLICAS_DID_NOT_MATCH = 1,
    ERROR_CAUSE_TOO_MANY_CLUSTERS = 2,
    ERROR_CAUSE_BAD_DATA = 3,
    ERROR_CAUSE_INGESTION_RATE_LIMITED = 4,
    ERROR_CAUSE_REQUEST_RATE_LIMITED = 5,
    ERROR_CAUSE_INSTANCE_LIMIT = 6,
    ERROR_CAUSE_SERVICE_UNAVAILABLE = 7,
    ERROR_CAUSE_TSDB_UNAVAILABLE = 8,
    ERROR_CAUSE_TOO_BUSY = 9,
    ERROR_CAUSE_CIRCUIT_BREAKER_OPEN = 10,
    ERROR_CAUSE_METHOD_NOT_ALLOWED = 11,
};
/* The bytes of the google.rpc.Status that travels beside an error's code and text. */
void error_details_put(int code, struct slice text, enum error_cause cause, struct buf *out);
