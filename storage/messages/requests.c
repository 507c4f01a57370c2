/*
 * The requests that select (docs/formats.md 8.2). One reader for the five of them: a table a message says which of its
 * fields is what.
 *
 *     QueryRequest                    1 start  2 end  3 matchers                      100 streaming_chunks_batch_size
 *     LabelNamesRequest               1 start  2 end  3 LabelMatchers                   4 limit
 *     LabelValuesRequest  1 name      2 start  3 end  4 LabelMatchers                   5 limit
 *     MetricsForLabelMatchersRequest  1 start  2 end  3 repeated LabelMatchers          4 limit
 *     ExemplarQueryRequest            1 start  2 end  3 repeated LabelMatchers
 *     LabelMatchers                   1 matchers
 *
 * QueryRequest's 4 and 5 (projections) are wishes that may be ignored, and are.
 */
#include "base/assert.h"
#include "storage/messages/messages_int.h"

enum sets {
    SETS_BARE, /* the matchers stand in the request itself: always one set */
    SETS_ONE,  /* a LabelMatchers, or none */
    SETS_MANY,
};

/* Field numbers; 0: the message has none. */
struct layout {
    const char *name;
    uint32_t start, end, matchers, label_name, limit, chunks_batch;
    enum sets sets;
};

static const struct layout query = {"QueryRequest", 1, 2, 3, 0, 0, 100, SETS_BARE};
static const struct layout label_names = {"LabelNamesRequest", 1, 2, 3, 0, 4, 0, SETS_ONE};
static const struct layout label_values = {"LabelValuesRequest", 2, 3, 4, 1, 5, 0, SETS_ONE};
static const struct layout metrics = {"MetricsForLabelMatchersRequest", 1, 2, 3, 0, 4, 0, SETS_MANY};
static const struct layout exemplars = {"ExemplarQueryRequest", 1, 2, 3, 0, 0, 0, SETS_MANY};

/* One more LabelMatchers. Where there can be one only, they are merged, as protobuf wants it. */
static bool read_set(const struct reading *m, const struct layout *l, struct slice bytes, size_t *at,
                     struct ingester_request *ret)
{
    struct reading inside = reading_inside(m, bytes, "LabelMatchers");
    struct matcher_set *set = &ret->sets[l->sets == SETS_ONE ? 0 : *at];
    (*at)++;
    return reading_matchers(&inside, 1, set);
}

static bool read_fields(const struct reading *m, const struct layout *l, struct ingester_request *ret)
{
    struct proto r = reading_cursor(m);
    size_t at = 0;
    while (proto_more(&r)) {
        uint32_t f, wire;
        uint64_t v = 0;
        struct slice bytes;
        if (!proto_tag(&r, &f, &wire))
            return false;
        bool ok = true;
        if (f == l->start) {
            ok = proto_varint_field(&r, wire, "Start", &v);
            ret->start_ms = (int64_t)v;
        } else if (f == l->end) {
            ok = proto_varint_field(&r, wire, "End", &v);
            ret->end_ms = (int64_t)v;
        } else if (f == l->limit) {
            ok = proto_varint_field(&r, wire, "Limit", &v);
            ret->limit = (int64_t)v;
        } else if (f == l->chunks_batch) {
            ok = proto_varint_field(&r, wire, "StreamingChunksBatchSize", &ret->chunks_batch);
        } else if (f == l->label_name) {
            ok = proto_bytes_field(&r, wire, "LabelName", &ret->label_name);
        } else if (f == l->matchers && l->sets != SETS_BARE) {
            ok = proto_bytes_field(&r, wire, "Matchers", &bytes) && read_set(m, l, bytes, &at, ret);
        } else {
            ok = proto_skip(&r, wire);
        }
        if (!ok)
            return false;
    }
    return true;
}

static bool request_decode(const struct layout *l, struct slice message, struct arena *arena,
                           struct ingester_request *ret, struct err *err)
{
    struct reading m = {message, l->name, arena, err};
    struct ingester_request req = {.label_name = SL(""), .n_sets = 1};
    if (l->sets != SETS_BARE && !reading_count(&m, l->matchers, &req.n_sets))
        return false;
    if (l->sets == SETS_ONE && req.n_sets > 1)
        req.n_sets = 1;
    if (req.n_sets > MESSAGE_MATCHER_SETS_MAX)
        return err_set(err, ERR_BAD_DATA, "more than %d sets of matchers", MESSAGE_MATCHER_SETS_MAX);
    /* One place more than there may be sets, so that the pointer is never NULL. */
    req.sets = arena_zalloc(arena, (req.n_sets + 1) * sizeof(*req.sets));
    if (!req.sets)
        return reading_no_memory(&m);
    if (!read_fields(&m, l, &req) || (l->sets == SETS_BARE && !reading_matchers(&m, l->matchers, &req.sets[0])))
        return false;
    *ret = req;
    return true;
}

static void request_put(const struct layout *l, const struct ingester_request *r, struct buf *out)
{
    if (l->label_name)
        proto_put_string(out, l->label_name, r->label_name);
    proto_put_varint(out, l->start, (uint64_t)r->start_ms);
    proto_put_varint(out, l->end, (uint64_t)r->end_ms);
    ASSERT(l->sets == SETS_MANY || r->n_sets <= 1);
    for (size_t i = 0; i < r->n_sets; i++) {
        if (l->sets == SETS_BARE) {
            put_matchers(out, l->matchers, &r->sets[i]);
            continue;
        }
        size_t begin = proto_put_begin(out, l->matchers);
        put_matchers(out, 1, &r->sets[i]);
        proto_put_end(out, begin);
    }
    if (l->limit)
        proto_put_varint(out, l->limit, (uint64_t)r->limit);
    if (l->chunks_batch)
        proto_put_varint(out, l->chunks_batch, r->chunks_batch);
}

#define REQUEST(layout_name, prefix)                                                                                   \
    bool prefix##_request_decode(struct slice message, struct arena *arena, struct ingester_request *ret,              \
                                 struct err *err)                                                                      \
    {                                                                                                                  \
        return request_decode(&layout_name, message, arena, ret, err);                                                 \
    }                                                                                                                  \
    void prefix##_request_put(const struct ingester_request *r, struct buf *out)                                       \
    {                                                                                                                  \
        request_put(&layout_name, r, out);                                                                             \
    }

REQUEST(query, query)
REQUEST(label_names, label_names)
REQUEST(label_values, label_values)
REQUEST(metrics, metrics)
REQUEST(exemplars, exemplar)

/* --- MetricsMetadataRequest: 1 limit (sint32)  2 limit_per_metric (sint32)  3 metric --- */

bool metadata_request_decode(struct slice message, struct metadata_request *ret, struct err *err)
{
    struct proto r = proto_of(message, "MetricsMetadataRequest", err);
    uint64_t limit = 0, per_metric = 0;
    struct slice metric = SL("");
    while (proto_more(&r)) {
        uint32_t f, wire;
        if (!proto_tag(&r, &f, &wire))
            return false;
        bool ok = f == 1   ? proto_varint_field(&r, wire, "Limit", &limit)
                  : f == 2 ? proto_varint_field(&r, wire, "LimitPerMetric", &per_metric)
                  : f == 3 ? proto_bytes_field(&r, wire, "Metric", &metric)
                           : proto_skip(&r, wire);
        if (!ok)
            return false;
    }
    *ret = (struct metadata_request){(int32_t)proto_zigzag((uint32_t)limit),
                                     (int32_t)proto_zigzag((uint32_t)per_metric), metric};
    return true;
}

void metadata_request_put(const struct metadata_request *r, struct buf *out)
{
    proto_put_zigzag(out, 1, r->limit);
    proto_put_zigzag(out, 2, r->limit_per_metric);
    proto_put_string(out, 3, r->metric);
}

/* --- UserStatsRequest: 1 count_method --- */

bool user_stats_request_decode(struct slice message, bool *ret_active, struct err *err)
{
    struct proto r = proto_of(message, "UserStatsRequest", err);
    uint64_t method = 0;
    while (proto_more(&r)) {
        uint32_t f, wire;
        if (!proto_tag(&r, &f, &wire) ||
            !(f == 1 ? proto_varint_field(&r, wire, "CountMethod", &method) : proto_skip(&r, wire)))
            return false;
    }
    *ret_active = method == 1;
    return true;
}

void user_stats_request_put(bool active, struct buf *out)
{
    proto_put_varint(out, 1, active);
}
