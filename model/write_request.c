/*
 * The scan of remote write 1.0 (also the log's records of version 0 and 1).
 *
 *   WriteRequest   1 timeseries | 2 source | 3 metadata | 1000, 1001 skip_label(_count)_validation
 *   TimeSeries     1 labels | 2 samples | 3 exemplars | 4 histograms | 6 created_timestamp
 *
 * Senders put labels first, then one sample: both have a loop of their own that compares bytes, and everything else
 * takes the general way. The loop over the labels only hops from entry to entry (a chain of eleven loads is what a
 * series costs), so labels that are malformed inside are found by whoever walks them: write_label_next says -1,
 * write_labels_check says why.
 */
#include "model/write_scan_int.h"

/* write_request.h names this number, and the bound on a request's memory is made with it in mind. */
_Static_assert(sizeof(struct write_series) == 88, "struct write_series has grown");

static const struct scan_form rw1 = {
    .series = 1,
    .samples = 2,
    .histograms = 4,
    .exemplars = 3,
    .series_message = "TimeSeries",
    .exemplar_message = "Exemplar",
};

/*
 * Notes where the label entries of a message lie. p is behind the entry just read; a second run of entries makes the
 * span the whole message.
 */
struct label_run {
    const char *start;
    const char *end;
    bool broken;
};

static inline void label_run_add(struct label_run *run, const char *start, const char *end)
{
    if (!run->start)
        run->start = start;
    else if (run->end != start)
        run->broken = true;
    run->end = end;
}

static struct slice label_run_span(const struct label_run *run, struct slice msg)
{
    if (run->broken)
        return msg;
    return run->start ? slice_make(run->start, (size_t)(run->end - run->start)) : slice_make(msg.p, 0);
}

static bool scan_exemplar(struct scan *s, struct slice msg)
{
    struct write_exemplar *ex = scan_exemplar_slot(s);
    if (!ex)
        return false;
    *ex = (struct write_exemplar){.raw = msg};
    struct proto r = proto_of(msg, "Exemplar", s->err);
    struct label_run run = {0};
    while (proto_more(&r)) {
        const char *start = r.p;
        uint32_t field, wire;
        struct slice pair;
        uint64_t t = 0;
        bool ok;
        if (!proto_tag(&r, &field, &wire))
            return false;
        if (field == 1) {
            ok = proto_bytes_field(&r, wire, "Labels", &pair);
            label_run_add(&run, start, r.p);
        } else if (field == 2) {
            ok = proto_double_field(&r, wire, "Value", &ex->v);
        } else if (field == 3) {
            ok = proto_varint_field(&r, wire, "TimestampMs", &t);
            ex->t = (int64_t)t;
        } else {
            ok = proto_skip(&r, wire);
        }
        if (!ok)
            return false;
    }
    ex->labels = label_run_span(&run, msg);
    return true;
}

/* One field of a series that is not a label. */
static bool scan_series_field(struct scan *s, struct proto *r, uint32_t field, uint32_t wire,
                              struct write_series *series)
{
    struct slice msg;
    uint64_t t;
    switch (field) {
    case 2:
        return proto_bytes_field(r, wire, "Samples", &msg) && scan_sample(s, msg);
    case 3:
        return proto_bytes_field(r, wire, "Exemplars", &msg) && scan_exemplar(s, msg);
    case 4:
        return proto_bytes_field(r, wire, "Histograms", &msg) && scan_histogram(s, msg);
    case 6:
        if (!proto_varint_field(r, wire, "CreatedTimestamp", &t))
            return false;
        series->created_t = (int64_t)t;
        return true;
    default:
        return proto_skip(r, wire);
    }
}

/* Hops over entries "0A length<128 ...". Returns where the first other field, or an entry that ends too late, begins.
 */
static inline const char *hop_labels(const char *p, const char *end)
{
    while (end - p >= 2 && p[0] == 0x0A && !(p[1] & 0x80)) {
        const char *next = p + 2 + p[1];
        if (UNLIKELY(next > end))
            break;
        p = next;
    }
    return p;
}

static bool scan_series(struct scan *s, struct slice msg, struct write_series *series)
{
    struct proto r = proto_of(msg, "TimeSeries", s->err);
    struct label_run run = {0};
    const char *behind = hop_labels(r.p, r.end);
    if (LIKELY(behind != r.p)) {
        label_run_add(&run, r.p, behind);
        r.p = behind;
    }
    while (proto_more(&r)) {
        const char *start = r.p;
        uint32_t field, wire;
        if (!proto_tag(&r, &field, &wire))
            return false;
        if (UNLIKELY(field == 1)) {
            struct slice pair;
            if (!proto_bytes_field(&r, wire, "Labels", &pair))
                return false;
            r.p = hop_labels(r.p, r.end);
            label_run_add(&run, start, r.p);
        } else if (!scan_series_field(s, &r, field, wire, series)) {
            return false;
        }
    }
    series->raw = msg;
    series->labels = label_run_span(&run, msg);
    series->flags = run.broken ? 0 : WRITE_SERIES_SPAN_WHOLE;
    return true;
}

static bool scan_metadata(struct scan *s, struct slice msg, struct write_metadata *m)
{
    struct proto r = proto_of(msg, "MetricMetadata", s->err);
    *m = (struct write_metadata){.raw = msg, .family = {"", 0}, .help = {"", 0}, .unit = {"", 0}};
    while (proto_more(&r)) {
        uint32_t field, wire;
        uint64_t type = 0;
        bool ok;
        if (!proto_tag(&r, &field, &wire))
            return false;
        if (field == 1) {
            ok = proto_varint_field(&r, wire, "Type", &type);
            m->type = (uint32_t)type;
        } else if (field == 2) {
            ok = proto_bytes_field(&r, wire, "MetricFamilyName", &m->family);
        } else if (field == 4) {
            ok = proto_bytes_field(&r, wire, "Help", &m->help);
        } else if (field == 5) {
            ok = proto_bytes_field(&r, wire, "Unit", &m->unit);
        } else {
            ok = proto_skip(&r, wire);
        }
        if (!ok)
            return false;
    }
    return true;
}

/* Series and metadata entries at the top level, up to the first malformed field. */
static void count_top(struct slice message, size_t *ret_series, size_t *ret_metadata)
{
    struct proto r = proto_of(message, "", NULL);
    size_t n_series = 0, n_metadata = 0;
    while (proto_more(&r)) {
        uint32_t field, wire;
        if (!proto_tag(&r, &field, &wire))
            break;
        n_series += field == 1 && wire == PROTO_BYTES;
        n_metadata += field == 3 && wire == PROTO_BYTES;
        if (!proto_skip(&r, wire))
            break;
    }
    *ret_series = n_series;
    *ret_metadata = n_metadata;
}

static bool scan_top_field(struct scan *s, struct proto *r, uint32_t field, uint32_t wire)
{
    struct write_request *req = s->req;
    struct slice msg;
    bool known;
    switch (field) {
    case 1: {
        scan_begin_series(s, r->p);
        struct write_series *series = &req->series[req->n_series];
        *series = (struct write_series){0};
        if (!proto_bytes_field(r, wire, "Timeseries", &msg) || !scan_series(s, msg, series))
            return false;
        req->n_series += scan_end_series(s, series);
        return true;
    }
    case 3:
        return proto_bytes_field(r, wire, "Metadata", &msg) && scan_metadata(s, msg, &req->metadata[req->n_metadata++]);
    case 4:
    case 5:
        if (wire != PROTO_BYTES)
            return proto_fail_wire(r, wire, field == 4 ? "SymbolsRW2" : "TimeseriesRW2");
        return err_set(s->err, ERR_BAD_DATA, "proto: Remote Write 2.0 field %s in non-Remote Write 2.0 message",
                       field == 4 ? "Symbols" : "Timeseries");
    default:
        if (!scan_request_field(s, r, field, wire, &known))
            return false;
        return known || proto_skip(r, wire);
    }
}

bool write_request_scan(struct slice message, struct arena *arena, struct write_request *ret, struct err *err)
{
    *ret = (struct write_request){.message = message};
    if (message.n > UINT32_MAX) /* indexes are 32 bits wide */
        return err_set(err, ERR_BAD_DATA, "the write request of %zu bytes is too large", message.n);
    size_t n_series, n_metadata;
    count_top(message, &n_series, &n_metadata);
    struct scan s = {.req = ret, .arena = arena, .err = err, .form = &rw1};
    /* One more than counted: the scan clears a struct before it knows that the entry is whole. */
    ret->series = scan_alloc(&s, n_series + 1, sizeof(*ret->series));
    ret->metadata = ret->series ? scan_alloc(&s, n_metadata + 1, sizeof(*ret->metadata)) : NULL;
    ret->samples = ret->metadata ? scan_alloc(&s, n_series, sizeof(*ret->samples)) : NULL;
    if (!ret->samples)
        return false;
    s.cap_samples = n_series;
    struct proto r = proto_of(message, "WriteRequest", err);
    while (proto_more(&r)) {
        uint32_t field, wire;
        if (!proto_tag(&r, &field, &wire) || !scan_top_field(&s, &r, field, wire))
            return false;
    }
    return true;
}
