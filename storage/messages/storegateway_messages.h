/*
 * The messages of the gRPC service gatewaypb.StoreGateway (docs/formats.md 8.3), as queriers write them and store-gateways
 * read them, and back.
 *
 * As in ingester_messages.h: reading copies nothing but block ids, arrays lie in the caller's arena, every length and count
 * is checked; writing appends to a buf with the bytes of Go's generated code; unknown fields are passed over. Bytes that
 * are no such message are ERR_BAD_DATA in a request and ERR_CORRUPT in an answer; a full arena is ERR_MAX_QUERY_MEMORY.
 * Any thread.
 *
 * Which blocks a request is about and which an answer comes from are its hints. They are there twice, as a
 * google.protobuf.Any (hints) and as a field of their own (response_hints, request_hints): we write what Mimir 3 writes,
 * and read either.
 */
#pragma once

#include "storage/block/ulid.h"
#include "storage/messages/ingester_messages.h"

#define STOREGATEWAY_SERIES "/gatewaypb.StoreGateway/Series"
#define STOREGATEWAY_LABEL_NAMES "/gatewaypb.StoreGateway/LabelNames"
#define STOREGATEWAY_LABEL_VALUES "/gatewaypb.StoreGateway/LabelValues"

/* Metadata of a call, beside x-scope-orgid; a store-gateway wants the tenant in both. */
#define STOREGATEWAY_TENANT_METADATA "__org_id__"
/* block_hints' index_s as a decimal number. */
#define STOREGATEWAY_INDEX_METADATA "__bktidx_updated_at__"

/*
 * A list of blocks. all: no list was given, which means every block of the tenant. index_s: when the bucket index was made by which they were chosen; 0: not known. It goes as
 * STOREGATEWAY_INDEX_METADATA, not in the message.
 */
struct block_hints {
    bool all;
    const struct ulid *blocks;
    size_t n;
    int64_t index_s;
};

/* --- requests ------------------------------------------------------------------------------------------------------ */

/* SeriesRequest, LabelNamesRequest, LabelValuesRequest. What a request does not have stays zero. */
struct storegateway_request {
    int64_t min_t; /* inclusive, ms */
    int64_t max_t; /* inclusive */
    struct matcher_set matchers;
    struct block_hints blocks;
    bool skip_chunks;        /* Series */
    uint64_t chunks_batch;   /* Series: series a message with chunks; 0 = the store-gateway's choice */
    struct slice label_name; /* LabelValues */
    int64_t limit;           /* LabelNames, LabelValues; 0 = none */
};

/* Hints that are no list of block ids (__block_id, equal to one or matching "A|B|...") are ERR_BAD_DATA. */
bool storegateway_series_request_decode(struct slice message, struct arena *arena, struct storegateway_request *ret,
                                        struct err *err);
bool storegateway_label_names_request_decode(struct slice message, struct arena *arena,
                                             struct storegateway_request *ret, struct err *err);
bool storegateway_label_values_request_decode(struct slice message, struct arena *arena,
                                              struct storegateway_request *ret, struct err *err);
void storegateway_series_request_put(const struct storegateway_request *r, struct buf *out);
void storegateway_label_names_request_put(const struct storegateway_request *r, struct buf *out);
void storegateway_label_values_request_put(const struct storegateway_request *r, struct buf *out);

/* --- the stream of Series ------------------------------------------------------------------------------------------ */

/*
 * SeriesResponse, each message one of these. A stream is: the hints; messages with series in order of their labels, the last
 * of them with end_of_series, and the statistics directly before that last one; unless chunks were skipped or there are no
 * series: an estimate of how many chunks will come, and messages with chunks, in the order of the series. An unknown tenant:
 * no message at all.
 */
enum storegateway_part {
    STOREGATEWAY_OTHER, /* nothing known: pass over it */
    STOREGATEWAY_WARNING,
    STOREGATEWAY_HINTS,
    STOREGATEWAY_STATS,
    STOREGATEWAY_SERIES_BATCH,
    STOREGATEWAY_CHUNKS_BATCH,
    STOREGATEWAY_CHUNKS_ESTIMATE,
};

struct storegateway_series_response {
    enum storegateway_part part;
    struct slice warning;
    struct block_hints queried; /* the blocks that the answer comes from; never all */
    uint64_t fetched_index_bytes;
    const struct labels *series; /* in order of their names and with values, each */
    size_t n_series;
    bool end_of_series;
    /* Chunks have the encodings of chunk files. Those of one series are by their beginning and may overlap, also entirely, when several blocks have them. */
    const struct streamed_chunks *chunks;
    size_t n_chunks;
    uint64_t estimated_chunks;
};
bool storegateway_series_response_decode(struct slice message, struct arena *arena,
                                         struct storegateway_series_response *ret, struct err *err);

/* Whole messages. */
void storegateway_hints_put(const struct ulid *queried, size_t n, struct buf *out);
void storegateway_stats_put(uint64_t fetched_index_bytes, struct buf *out);
void storegateway_chunks_estimate_put(uint64_t n, struct buf *out);

/* A message that grows: begin, add (as often as wanted), end; out holds nothing else meanwhile. */
size_t storegateway_series_begin(struct buf *out);
void storegateway_series_add(const struct labels *series, struct buf *out);
void storegateway_series_end(size_t begin, bool end_of_series, struct buf *out);
size_t storegateway_chunks_begin(struct buf *out);
void storegateway_chunks_add(uint64_t series_index, const struct series_chunk *chunks, size_t n, struct buf *out);
void storegateway_chunks_end(size_t begin, struct buf *out);

/* --- the answers of LabelNames and LabelValues ---------------------------------------------------------------------- */

struct storegateway_strings {
    const struct slice *strings;
    size_t n;
    const struct slice *warnings;
    size_t n_warnings;
    struct block_hints queried; /* never all */
};
/* The two messages have the same fields; only the name of the type of their hints differs. */
bool storegateway_strings_decode(struct slice message, struct arena *arena, struct storegateway_strings *ret,
                                 struct err *err);
void storegateway_label_names_put(const struct storegateway_strings *s, struct buf *out);
void storegateway_label_values_put(const struct storegateway_strings *s, struct buf *out);
