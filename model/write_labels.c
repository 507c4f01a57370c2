/* Label entries of a scanned series: walking them, telling whether they are canonical, and building a series anew. */
#include "model/proto.h"
#include "model/write_request.h"

/* --- walking --------------------------------------------------------------------------------------------------------
 */

/* LabelPair in any form: fields in any order, repeated (the last one counts), absent, unknown. */
static bool parse_pair(struct slice msg, struct err *err, struct label *ret)
{
    struct proto r = proto_of(msg, "LabelPair", err);
    struct label l = {.name = {"", 0}, .value = {"", 0}};
    while (proto_more(&r)) {
        uint32_t field, wire;
        bool ok;
        if (!proto_tag(&r, &field, &wire))
            return false;
        if (field == 1)
            ok = proto_bytes_field(&r, wire, "Name", &l.name);
        else if (field == 2)
            ok = proto_bytes_field(&r, wire, "Value", &l.value);
        else
            ok = proto_skip(&r, wire);
        if (!ok)
            return false;
    }
    *ret = l;
    return true;
}

/* The next entry of field 1, whatever comes between: 1, 0 at the end, -1. */
static int next_slow(struct write_label_iter *it, struct err *err, struct label *ret)
{
    struct proto r = {.p = it->p, .end = it->end, .message = "TimeSeries", .err = err};
    while (proto_more(&r)) {
        uint32_t field, wire;
        struct slice msg;
        if (!proto_tag(&r, &field, &wire))
            return -1;
        if (field != 1) {
            if (!proto_skip(&r, wire))
                return -1;
            continue;
        }
        if (!proto_bytes_field(&r, wire, "Labels", &msg) || !parse_pair(msg, err, ret))
            return -1;
        it->p = r.p;
        return 1;
    }
    it->p = it->end;
    return 0;
}

/* One entry with lengths below 128 and nothing unusual, which is nearly every entry there is: its size, or 0. */
static inline size_t short_entry(const char *p, const char *end, struct label *ret)
{
    size_t left = (size_t)(end - p);
    if (left < 6 || p[0] != 0x0A || p[2] != 0x0A)
        return 0;
    size_t pair_n = (unsigned char)p[1];
    size_t name_n = (unsigned char)p[3];
    if (pair_n >= 0x80 || pair_n + 2 > left || name_n + 4 > pair_n || p[4 + name_n] != 0x12)
        return 0;
    size_t value_n = (unsigned char)p[5 + name_n];
    if (value_n + name_n + 4 != pair_n)
        return 0;
    *ret = (struct label){.name = {p + 4, name_n}, .value = {p + 6 + name_n, value_n}};
    return pair_n + 2;
}

int write_label_next(struct write_label_iter *it, struct label *ret)
{
    size_t n = short_entry(it->p, it->end, ret);
    if (LIKELY(n)) {
        it->p += n;
        return 1;
    }
    return next_slow(it, NULL, ret);
}

bool write_labels_check(struct slice span, struct err *err)
{
    struct write_label_iter it = write_label_iter(span);
    struct label l;
    int r;
    while ((r = next_slow(&it, err, &l)) > 0)
        ;
    return r == 0;
}

/* --- canonical? -----------------------------------------------------------------------------------------------------
 */

/* A tag of one byte, a shortest length and that many bytes. */
static bool strict_field(const char **p, const char *end, char tag, struct slice *ret)
{
    if (*p == end || **p != tag)
        return false;
    struct proto r = {.p = *p + 1, .end = end, .message = "", .err = NULL};
    uint64_t n;
    const char *start = r.p;
    if (!proto_varint(&r, &n) || (size_t)(r.p - start) != proto_uvarint_size(n) || n > proto_left(&r))
        return false;
    *ret = slice_make(r.p, (size_t)n);
    *p = r.p + n;
    return true;
}

static size_t strict_entry(const char *p, const char *end, struct label *ret)
{
    const char *at = p;
    struct slice pair;
    if (!strict_field(&at, end, 0x0A, &pair))
        return 0;
    const char *in = pair.p;
    if (!strict_field(&in, pair.p + pair.n, 0x0A, &ret->name) ||
        !strict_field(&in, pair.p + pair.n, 0x12, &ret->value) || in != pair.p + pair.n)
        return 0;
    return (size_t)(at - p);
}

static inline bool name_less(struct slice a, struct slice b)
{
    if (a.n && b.n && a.p[0] != b.p[0]) /* spares most calls of memcmp */
        return (unsigned char)a.p[0] < (unsigned char)b.p[0];
    return slice_cmp(a, b) < 0;
}

bool label_span_is_canonical(struct slice span)
{
    if (span.n == 0)
        return true;
    const char *p = span.p;
    const char *end = span.p + span.n;
    struct slice before = {NULL, 0};
    bool first = true;
    while (p < end) {
        struct label l;
        /* A short entry has lengths of one byte each, so it is strict. */
        size_t n = short_entry(p, end, &l);
        if (!n)
            n = strict_entry(p, end, &l);
        if (!n || l.value.n == 0 || (!first && !name_less(before, l.name)))
            return false;
        before = l.name;
        first = false;
        p += n;
    }
    return true;
}

/* --- building anew --------------------------------------------------------------------------------------------------
 */

static uint64_t bits_of(double v)
{
    uint64_t bits;
    memcpy(&bits, &v, 8);
    return bits;
}

/* Size of a Sample message, without tag and length. */
static size_t sample_size(struct write_sample s)
{
    return (bits_of(s.v) ? 9 : 0) + (s.t ? 1 + proto_uvarint_size((uint64_t)s.t) : 0);
}

static char *put_sample(char *out, struct write_sample s)
{
    *out++ = 0x12;
    *out++ = (char)sample_size(s);
    if (bits_of(s.v)) { /* not "v != 0": the sign of -0.0 is kept */
        *out++ = 0x09;
        memcpy(out, &s.v, 8);
        out += 8;
    }
    if (s.t) {
        *out++ = 0x10;
        out = proto_put_uvarint(out, (uint64_t)s.t);
    }
    return out;
}

static size_t labels_size(const struct write_series *s, const struct labels *labels)
{
    if (!labels)
        return s->labels.n;
    size_t n = 0;
    for (size_t i = 0; i < labels->n; i++)
        n += label_canonical_size(labels->items[i]);
    return n;
}

/* Everything behind the labels. */
static size_t rest_size(const struct write_request *req, const struct write_series *s)
{
    size_t n = 0;
    for (uint32_t i = 0; i < s->n_samples; i++)
        n += proto_bytes_size(sample_size(req->samples[s->first_sample + i]));
    for (uint32_t i = 0; i < s->n_exemplars; i++)
        n += proto_bytes_size(req->exemplars[s->first_exemplar + i].raw.n);
    for (uint32_t i = 0; i < s->n_histograms; i++)
        n += proto_bytes_size(req->histograms[s->first_histogram + i].n);
    return n + (s->created_t ? 1 + proto_uvarint_size((uint64_t)s->created_t) : 0);
}

static char *put_rest(char *out, const struct write_request *req, const struct write_series *s)
{
    for (uint32_t i = 0; i < s->n_samples; i++)
        out = put_sample(out, req->samples[s->first_sample + i]);
    for (uint32_t i = 0; i < s->n_exemplars; i++)
        out = proto_put_bytes(out, 0x1A, req->exemplars[s->first_exemplar + i].raw);
    for (uint32_t i = 0; i < s->n_histograms; i++)
        out = proto_put_bytes(out, 0x22, req->histograms[s->first_histogram + i]);
    if (s->created_t) {
        *out++ = 0x30;
        out = proto_put_uvarint(out, (uint64_t)s->created_t);
    }
    return out;
}

bool write_series_rebuild(const struct write_request *req, struct write_series *s, const struct labels *labels,
                          struct arena *arena)
{
    ASSERT(labels || (s->flags & WRITE_SERIES_SPAN_WHOLE));
    size_t labels_n = labels_size(s, labels);
    size_t n = labels_n + rest_size(req, s);
    char *start = arena_alloc(arena, n ? n : 1);
    if (!start)
        return false;
    char *out = start;
    if (labels) {
        for (size_t i = 0; i < labels->n; i++)
            out = label_put_canonical(out, labels->items[i]);
    } else if (labels_n) {
        memcpy(out, s->labels.p, labels_n);
        out += labels_n;
    }
    out = put_rest(out, req, s);
    ASSERT(out == start + n);
    s->raw = slice_make(start, n);
    s->labels = slice_make(start, labels_n);
    s->flags |= WRITE_SERIES_REENCODED | WRITE_SERIES_SPAN_WHOLE;
    return true;
}
