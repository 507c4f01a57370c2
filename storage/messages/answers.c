/*
 * The answers of unary calls (docs/formats.md 8.2).
 *
 *     LabelNamesResponse, LabelValuesResponse  1 strings
 *     MetricsForLabelMatchersResponse          1 metric {1 labels}
 *     MetricsMetadataResponse                  1 metadata {1 type  2 family  4 help  5 unit}
 *     ExemplarQueryResponse                    1 timeseries {1 labels  3 exemplars {1 labels  2 value  3 timestamp}}
 *     UserStatsResponse                        1 ingestion_rate  2 num_series  3 api_ingestion_rate  4
 * rule_ingestion_rate UsersStatsResponse                       1 stats {1 user_id  2 data: UserStatsResponse}
 */
#include "base/assert.h"
#include "storage/messages/messages_int.h"

/* Reads the next message's field 1, whatever else there is: true with it, false at the end and (r->err set) when the
 * bytes are no message. */
static bool next_element(struct proto *r, const char *field, struct slice *ret, bool *ret_ok)
{
    *ret_ok = true;
    while (proto_more(r)) {
        uint32_t f, wire;
        *ret_ok = proto_tag(r, &f, &wire) && (f == 1 ? proto_bytes_field(r, wire, field, ret) : proto_skip(r, wire));
        if (!*ret_ok)
            return false;
        if (f == 1)
            return true;
    }
    return false;
}

/* An array with room for each field 1 of the message. */
static bool elements_alloc(const struct reading *m, size_t size, void **ret, size_t *ret_n)
{
    if (!reading_count(m, 1, ret_n))
        return false;
    *ret = *ret_n ? arena_array(m->arena, *ret_n, size) : NULL;
    return !*ret_n || *ret || reading_no_memory(m);
}

/* --- strings and metrics --- */

bool strings_response_decode(struct slice message, struct arena *arena, const struct slice **ret, size_t *ret_n,
                             struct err *err)
{
    struct reading m = {message, "LabelValuesResponse", arena, err};
    return reading_strings(&m, 1, ret, ret_n) || answer_corrupt(err);
}

void strings_response_put(const struct slice *strings, size_t n, struct buf *out)
{
    for (size_t i = 0; i < n; i++)
        proto_put_element(out, 1, strings[i]);
}

bool metrics_response_decode(struct slice message, struct arena *arena, const struct labels **ret, size_t *ret_n,
                             struct err *err)
{
    struct reading m = {message, "MetricsForLabelMatchersResponse", arena, err};
    void *list = NULL;
    size_t n = 0, at = 0;
    bool ok = elements_alloc(&m, sizeof(struct labels), &list, &n);
    struct labels *metrics = list;
    struct proto r = reading_cursor(&m);
    struct slice bytes;
    while (ok && next_element(&r, "Metric", &bytes, &ok)) {
        struct reading inside = reading_inside(&m, bytes, "Metric");
        ok = reading_labels(&inside, 1, true, &metrics[at++]);
    }
    if (!ok)
        return answer_corrupt(err);
    *ret = metrics;
    *ret_n = n;
    return true;
}

void metrics_response_put(const struct labels *metric, struct buf *out)
{
    put_metric(out, 1, metric);
}

/* --- metadata --- */

/* By the wire's numbers. */
static const char *const metric_types[] = {"unknown",        "counter", "gauge", "histogram",
                                           "gaugehistogram", "summary", "info",  "stateset"};

static bool read_metadata(const struct reading *m, struct metric_metadata *ret)
{
    struct proto r = reading_cursor(m);
    uint64_t type = 0;
    *ret = (struct metric_metadata){.family = SL(""), .help = SL(""), .unit = SL("")};
    while (proto_more(&r)) {
        uint32_t f, wire;
        if (!proto_tag(&r, &f, &wire))
            return false;
        bool ok = f == 1   ? proto_varint_field(&r, wire, "Type", &type)
                  : f == 2 ? proto_bytes_field(&r, wire, "MetricFamilyName", &ret->family)
                  : f == 4 ? proto_bytes_field(&r, wire, "Help", &ret->help)
                  : f == 5 ? proto_bytes_field(&r, wire, "Unit", &ret->unit)
                           : proto_skip(&r, wire);
        if (!ok)
            return false;
    }
    ret->type = metric_types[type < ARRAY_LEN(metric_types) ? type : 0];
    return true;
}

bool metadata_response_decode(struct slice message, struct arena *arena, const struct metric_metadata **ret,
                              size_t *ret_n, struct err *err)
{
    struct reading m = {message, "MetricsMetadataResponse", arena, err};
    void *list = NULL;
    size_t n = 0, at = 0;
    bool ok = elements_alloc(&m, sizeof(struct metric_metadata), &list, &n);
    struct metric_metadata *metadata = list;
    struct proto r = reading_cursor(&m);
    struct slice bytes;
    while (ok && next_element(&r, "Metadata", &bytes, &ok)) {
        struct reading inside = reading_inside(&m, bytes, "MetricMetadata");
        ok = read_metadata(&inside, &metadata[at++]);
    }
    if (!ok)
        return answer_corrupt(err);
    *ret = metadata;
    *ret_n = n;
    return true;
}

static uint64_t type_number(const char *type)
{
    for (size_t i = 0; i < ARRAY_LEN(metric_types); i++)
        if (strcmp(type, metric_types[i]) == 0)
            return i;
    return 0;
}

void metadata_response_put(const struct metric_metadata *m, struct buf *out)
{
    size_t begin = proto_put_begin(out, 1);
    proto_put_varint(out, 1, type_number(m->type));
    proto_put_string(out, 2, m->family);
    proto_put_string(out, 4, m->help);
    proto_put_string(out, 5, m->unit);
    proto_put_end(out, begin);
}

/* --- exemplars --- */

static bool read_exemplar(const struct reading *m, struct exemplar *ret)
{
    struct proto r = reading_cursor(m);
    uint64_t t = 0;
    ret->v = 0;
    while (proto_more(&r)) {
        uint32_t f, wire;
        if (!proto_tag(&r, &f, &wire))
            return false;
        bool ok = f == 2   ? proto_double_field(&r, wire, "Value", &ret->v)
                  : f == 3 ? proto_varint_field(&r, wire, "TimestampMs", &t)
                           : proto_skip(&r, wire);
        if (!ok)
            return false;
    }
    ret->t = (int64_t)t;
    return reading_labels(m, 1, false, &ret->labels);
}

static bool read_exemplars(const struct reading *m, struct exemplar_series *ret)
{
    size_t n = 0, at = 0;
    if (!reading_labels(m, 1, true, &ret->labels) || !reading_count(m, 3, &n))
        return false;
    struct exemplar *list = ARENA_ARRAY(m->arena, struct exemplar, n);
    if (n && !list)
        return reading_no_memory(m);
    struct proto r = reading_cursor(m);
    for (;;) {
        struct slice bytes;
        bool found;
        if (!proto_find(&r, 3, "Exemplars", &bytes, &found))
            return false;
        if (!found)
            break;
        struct reading inside = reading_inside(m, bytes, "Exemplar");
        if (!read_exemplar(&inside, &list[at++]))
            return false;
    }
    ret->exemplars = n ? list : NULL;
    ret->n = n;
    return true;
}

bool exemplar_response_decode(struct slice message, struct arena *arena, const struct exemplar_series **ret,
                              size_t *ret_n, struct err *err)
{
    struct reading m = {message, "ExemplarQueryResponse", arena, err};
    void *list = NULL;
    size_t n = 0, at = 0;
    bool ok = elements_alloc(&m, sizeof(struct exemplar_series), &list, &n);
    struct exemplar_series *series = list;
    struct proto r = reading_cursor(&m);
    struct slice bytes;
    while (ok && next_element(&r, "Timeseries", &bytes, &ok)) {
        struct reading inside = reading_inside(&m, bytes, "TimeSeries");
        ok = read_exemplars(&inside, &series[at++]);
    }
    if (!ok)
        return answer_corrupt(err);
    *ret = series;
    *ret_n = n;
    return true;
}

void exemplar_response_put(const struct exemplar_series *s, struct buf *out)
{
    size_t begin = proto_put_begin(out, 1);
    labels_put_canonical(s->labels, out);
    for (size_t i = 0; i < s->n; i++) {
        size_t exemplar = proto_put_begin(out, 3);
        labels_put_canonical(s->exemplars[i].labels, out);
        proto_put_double(out, 2, s->exemplars[i].v);
        proto_put_varint(out, 3, (uint64_t)s->exemplars[i].t);
        proto_put_end(out, exemplar);
    }
    proto_put_end(out, begin);
}

/* --- statistics --- */

static bool read_user_stats(struct proto *r, struct user_stats *ret)
{
    while (proto_more(r)) {
        uint32_t f, wire;
        if (!proto_tag(r, &f, &wire))
            return false;
        bool ok = f == 1   ? proto_double_field(r, wire, "IngestionRate", &ret->ingestion_rate)
                  : f == 2 ? proto_varint_field(r, wire, "NumSeries", &ret->num_series)
                  : f == 3 ? proto_double_field(r, wire, "ApiIngestionRate", &ret->api_ingestion_rate)
                  : f == 4 ? proto_double_field(r, wire, "RuleIngestionRate", &ret->rule_ingestion_rate)
                           : proto_skip(r, wire);
        if (!ok)
            return false;
    }
    return true;
}

bool user_stats_decode(struct slice message, struct user_stats *ret, struct err *err)
{
    struct proto r = proto_of(message, "UserStatsResponse", err);
    struct user_stats stats = {0};
    if (!read_user_stats(&r, &stats))
        return answer_corrupt(err);
    *ret = stats;
    return true;
}

void user_stats_put(const struct user_stats *stats, struct buf *out)
{
    proto_put_double(out, 1, stats->ingestion_rate);
    proto_put_varint(out, 2, stats->num_series);
    proto_put_double(out, 3, stats->api_ingestion_rate);
    proto_put_double(out, 4, stats->rule_ingestion_rate);
}

static bool read_tenant_stats(const struct reading *m, struct tenant_stats *ret)
{
    struct proto r = reading_cursor(m);
    *ret = (struct tenant_stats){.tenant = SL("")};
    while (proto_more(&r)) {
        uint32_t f, wire;
        struct slice data;
        bool ok = proto_tag(&r, &f, &wire);
        if (ok && f == 2) {
            ok = proto_bytes_field(&r, wire, "Data", &data);
            struct proto inside = proto_of(ok ? data : SL(""), "UserStatsResponse", m->err);
            ok = ok && read_user_stats(&inside, &ret->stats);
        } else if (ok) {
            ok = f == 1 ? proto_bytes_field(&r, wire, "UserId", &ret->tenant) : proto_skip(&r, wire);
        }
        if (!ok)
            return false;
    }
    return true;
}

bool users_stats_decode(struct slice message, struct arena *arena, const struct tenant_stats **ret, size_t *ret_n,
                        struct err *err)
{
    struct reading m = {message, "UsersStatsResponse", arena, err};
    void *list = NULL;
    size_t n = 0, at = 0;
    bool ok = elements_alloc(&m, sizeof(struct tenant_stats), &list, &n);
    struct tenant_stats *stats = list;
    struct proto r = reading_cursor(&m);
    struct slice bytes;
    while (ok && next_element(&r, "Stats", &bytes, &ok)) {
        struct reading inside = reading_inside(&m, bytes, "UserIDStatsResponse");
        ok = read_tenant_stats(&inside, &stats[at++]);
    }
    if (!ok)
        return answer_corrupt(err);
    *ret = stats;
    *ret_n = n;
    return true;
}

void users_stats_put(struct slice tenant, const struct user_stats *stats, struct buf *out)
{
    size_t begin = proto_put_begin(out, 1);
    proto_put_string(out, 1, tenant);
    size_t data = proto_put_begin(out, 2);
    user_stats_put(stats, out);
    proto_put_end(out, data);
    proto_put_end(out, begin);
}
