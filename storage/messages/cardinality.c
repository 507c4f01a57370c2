/*
 * What cardinality analysis asks (docs/formats.md 8.2); all answers are streams of messages.
 *
 *     LabelNamesAndValuesRequest     1 matchers  2 count_method
 *     LabelNamesAndValuesResponse    1 items {1 label_name  2 values}
 *     LabelValuesCardinalityRequest  1 label_names  2 matchers  3 count_method
 *     LabelValuesCardinalityResponse 1 items {1 label_name  2 map<string, uint64>: value, series}
 *     ActiveSeriesRequest            1 matchers  2 type
 *     ActiveSeriesResponse           1 metric {1 labels}  2 bucket_count (packed)
 */
#include "base/assert.h"
#include "storage/messages/messages_int.h"

/* --- requests --- */

/* Field numbers; 0: the message has none. */
struct layout {
    const char *name;
    uint32_t label_names, matchers, active, native_histograms;
};

static const struct layout names_and_values = {"LabelNamesAndValuesRequest", 0, 1, 2, 0};
static const struct layout values_cardinality = {"LabelValuesCardinalityRequest", 1, 2, 3, 0};
static const struct layout active_series = {"ActiveSeriesRequest", 0, 1, 0, 2};

static bool request_decode(const struct layout *l, struct slice message, struct arena *arena,
                           struct cardinality_request *ret, struct err *err)
{
    struct reading m = {message, l->name, arena, err};
    struct cardinality_request req = {0};
    if (!reading_matchers(&m, l->matchers, &req.matchers))
        return false;
    if (l->label_names && !reading_strings(&m, l->label_names, &req.label_names, &req.n_label_names))
        return false;
    struct proto r = reading_cursor(&m);
    while (proto_more(&r)) {
        uint32_t f, wire;
        uint64_t v = 0;
        if (!proto_tag(&r, &f, &wire))
            return false;
        if (f == l->active || f == l->native_histograms) {
            if (!proto_varint_field(&r, wire, "enum", &v))
                return false;
            *(f == l->active ? &req.active : &req.native_histograms) = v == 1;
        } else if (!proto_skip(&r, wire)) {
            return false;
        }
    }
    *ret = req;
    return true;
}

static void request_put(const struct layout *l, const struct cardinality_request *r, struct buf *out)
{
    if (l->label_names)
        for (size_t i = 0; i < r->n_label_names; i++)
            proto_put_element(out, l->label_names, r->label_names[i]);
    put_matchers(out, l->matchers, &r->matchers);
    if (l->active)
        proto_put_varint(out, l->active, r->active);
    if (l->native_histograms)
        proto_put_varint(out, l->native_histograms, r->native_histograms);
}

#define REQUEST(layout_name, prefix)                                                                                   \
    bool prefix##_request_decode(struct slice message, struct arena *arena, struct cardinality_request *ret,           \
                                 struct err *err)                                                                      \
    {                                                                                                                  \
        return request_decode(&layout_name, message, arena, ret, err);                                                 \
    }                                                                                                                  \
    void prefix##_request_put(const struct cardinality_request *r, struct buf *out)                                    \
    {                                                                                                                  \
        request_put(&layout_name, r, out);                                                                             \
    }

REQUEST(names_and_values, label_names_and_values)
REQUEST(values_cardinality, label_values_cardinality)
REQUEST(active_series, active_series)

/* --- answers --- */

/* Calls read for each field 1 of the message; list has n elements of the size. */
typedef bool read_item(const struct reading *m, void *item);

static bool read_items(const struct reading *m, const char *item_name, size_t size, read_item *read, void **ret,
                       size_t *ret_n)
{
    size_t n = 0, at = 0;
    if (!reading_count(m, 1, &n))
        return false;
    char *list = n ? arena_array(m->arena, n, size) : NULL;
    if (n && !list)
        return reading_no_memory(m);
    struct proto r = reading_cursor(m);
    for (;;) {
        struct slice bytes;
        bool found;
        if (!proto_find(&r, 1, "Items", &bytes, &found))
            return false;
        if (!found)
            break;
        struct reading inside = reading_inside(m, bytes, item_name);
        if (!read(&inside, list + size * at++))
            return false;
    }
    *ret = list;
    *ret_n = n;
    return true;
}

static bool read_first_string(const struct reading *m, struct slice *ret)
{
    struct proto r = reading_cursor(m);
    *ret = SL("");
    while (proto_more(&r)) {
        uint32_t f, wire;
        if (!proto_tag(&r, &f, &wire) ||
            !(f == 1 ? proto_bytes_field(&r, wire, "LabelName", ret) : proto_skip(&r, wire)))
            return false;
    }
    return true;
}

static bool read_name_values(const struct reading *m, void *item)
{
    struct label_name_values *v = item;
    return read_first_string(m, &v->name) && reading_strings(m, 2, &v->values, &v->n);
}

bool label_names_and_values_decode(struct slice message, struct arena *arena, const struct label_name_values **ret,
                                   size_t *ret_n, struct err *err)
{
    struct reading m = {message, "LabelNamesAndValuesResponse", arena, err};
    void *list = NULL;
    if (!read_items(&m, "LabelValues", sizeof(struct label_name_values), read_name_values, &list, ret_n))
        return answer_corrupt(err);
    *ret = list;
    return true;
}

void label_names_and_values_put(struct slice name, const struct slice *values, size_t n, struct buf *out)
{
    size_t begin = proto_put_begin(out, 1);
    proto_put_string(out, 1, name);
    for (size_t i = 0; i < n; i++)
        proto_put_element(out, 2, values[i]);
    proto_put_end(out, begin);
}

static bool read_value_count(const struct reading *m, struct label_value_count *ret)
{
    struct proto r = reading_cursor(m);
    *ret = (struct label_value_count){SL(""), 0};
    while (proto_more(&r)) {
        uint32_t f, wire;
        if (!proto_tag(&r, &f, &wire))
            return false;
        bool ok = f == 1   ? proto_bytes_field(&r, wire, "LabelValueSeries key", &ret->value)
                  : f == 2 ? proto_varint_field(&r, wire, "LabelValueSeries value", &ret->series)
                           : proto_skip(&r, wire);
        if (!ok)
            return false;
    }
    return true;
}

static bool read_cardinality(const struct reading *m, void *item)
{
    struct label_cardinality *c = item;
    const struct slice *entries = NULL;
    if (!read_first_string(m, &c->name) || !reading_strings(m, 2, &entries, &c->n))
        return false;
    struct label_value_count *values = ARENA_ARRAY(m->arena, struct label_value_count, c->n);
    if (c->n && !values)
        return reading_no_memory(m);
    for (size_t i = 0; i < c->n; i++) {
        struct reading inside = reading_inside(m, entries[i], "LabelValueSeriesEntry");
        if (!read_value_count(&inside, &values[i]))
            return false;
    }
    c->values = values;
    return true;
}

bool label_values_cardinality_decode(struct slice message, struct arena *arena, const struct label_cardinality **ret,
                                     size_t *ret_n, struct err *err)
{
    struct reading m = {message, "LabelValuesCardinalityResponse", arena, err};
    void *list = NULL;
    if (!read_items(&m, "LabelValueSeriesCount", sizeof(struct label_cardinality), read_cardinality, &list, ret_n))
        return answer_corrupt(err);
    *ret = list;
    return true;
}

void label_values_cardinality_put(struct slice name, const struct label_value_count *values, size_t n, struct buf *out)
{
    size_t begin = proto_put_begin(out, 1);
    proto_put_string(out, 1, name);
    for (size_t i = 0; i < n; i++) {
        size_t entry = proto_put_begin(out, 2); /* entries of maps have both fields always */
        proto_put_element(out, 1, values[i].value);
        proto_put_varint_element(out, 2, values[i].series);
        proto_put_end(out, entry);
    }
    proto_put_end(out, begin);
}

/* --- ActiveSeriesResponse --- */

static bool read_active_metric(const struct reading *m, void *item)
{
    return reading_labels(m, 1, true, item);
}

/* Numbers, packed or one at a time; first only counted (to == NULL), then stored. */
static bool read_numbers(const struct reading *m, uint32_t field, uint64_t *to, size_t *ret_n)
{
    size_t n = 0;
    struct proto r = reading_cursor(m);
    while (proto_more(&r)) {
        uint32_t f, wire;
        uint64_t v;
        struct slice packed;
        if (!proto_tag(&r, &f, &wire))
            return false;
        if (f != field) {
            if (!proto_skip(&r, wire))
                return false;
        } else if (wire == PROTO_VARINT) {
            if (!proto_varint(&r, to ? &to[n] : &v))
                return false;
            n++;
        } else {
            if (!proto_bytes_field(&r, wire, "BucketCount", &packed))
                return false;
            struct proto list = proto_of(packed, m->name, m->err);
            for (; proto_more(&list); n++)
                if (!proto_varint(&list, to ? &to[n] : &v))
                    return false;
        }
    }
    *ret_n = n;
    return true;
}

bool active_series_decode(struct slice message, struct arena *arena, struct active_series_response *ret,
                          struct err *err)
{
    struct reading m = {message, "ActiveSeriesResponse", arena, err};
    void *list = NULL;
    struct active_series_response res = {0};
    if (!read_items(&m, "Metric", sizeof(struct labels), read_active_metric, &list, &res.n_metrics) ||
        !read_numbers(&m, 2, NULL, &res.n_bucket_counts))
        return answer_corrupt(err);
    uint64_t *counts = ARENA_ARRAY(arena, uint64_t, res.n_bucket_counts);
    if (res.n_bucket_counts && !counts)
        return reading_no_memory(&m);
    if (res.n_bucket_counts && !read_numbers(&m, 2, counts, &res.n_bucket_counts))
        return answer_corrupt(err);
    res.metrics = list;
    res.bucket_counts = res.n_bucket_counts ? counts : NULL;
    *ret = res;
    return true;
}

void active_series_put(const struct labels *metric, struct buf *out)
{
    put_metric(out, 1, metric);
}

void active_series_bucket_counts_put(const uint64_t *counts, size_t n, struct buf *out)
{
    if (n == 0)
        return;
    size_t begin = proto_put_begin(out, 2);
    for (size_t i = 0; i < n; i++)
        buf_put_uvarint(out, counts[i]);
    proto_put_end(out, begin);
}

/* --- errors --- */

/* google.rpc.Status {1 code  2 message  3 details: Any {1 type_url  2 value}}, with cortexpb.ErrorDetails {1 cause} as
 * the value. */
void error_details_put(int code, struct slice text, enum error_cause cause, struct buf *out)
{
    proto_put_varint(out, 1, (uint64_t)code);
    proto_put_string(out, 2, text);
    size_t any = proto_put_begin(out, 3);
    proto_put_string(out, 1, SL("type.googleapis.com/cortexpb.ErrorDetails"));
    size_t value = proto_put_begin(out, 2);
    proto_put_varint(out, 1, (uint64_t)cause);
    proto_put_end(out, value);
    proto_put_end(out, any);
}
