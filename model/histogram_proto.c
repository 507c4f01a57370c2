/*
 * The proto message Histogram of remote write (field 4 of a TimeSeries), read and written by hand.
 *
 *    1 count_int uint64 | 2 count_float double      oneof: which one is there decides between the integer and the float form
 *    3 sum double        4 schema sint32            5 zero_threshold double
 *    6 zero_count_int uint64 | 7 zero_count_float double
 *    8 negative_spans    9 negative_deltas sint64   10 negative_counts double
 *   11 positive_spans   12 positive_deltas sint64   13 positive_counts double
 *   14 reset_hint       15 timestamp int64 ms       16 custom_values double
 *   BucketSpan: 1 offset sint32, 2 length uint32
 *
 * The message is walked twice: once to check it and count what repeats, once to fill arrays of exactly that size. A count is
 * therefore never larger than the message's bytes allow (a packed element is at least one byte), and nothing is allocated
 * for a message that is not well formed. Repeated scalars are accepted packed, unpacked and mixed, as any proto parser must.
 */
#include "model/histogram.h"

#include "base/buf.h"
#include "model/proto.h"

enum field {
    F_COUNT_INT = 1,
    F_COUNT_FLOAT,
    F_SUM,
    F_SCHEMA,
    F_ZERO_THRESHOLD,
    F_ZERO_COUNT_INT,
    F_ZERO_COUNT_FLOAT,
    F_NEGATIVE_SPANS,
    F_NEGATIVE_DELTAS,
    F_NEGATIVE_COUNTS,
    F_POSITIVE_SPANS,
    F_POSITIVE_DELTAS,
    F_POSITIVE_COUNTS,
    F_RESET_HINT,
    F_TIMESTAMP,
    F_CUSTOM_VALUES,
    F_END
};

/* The wire type of a lone element; names as Go's generated code spells them, because they are part of error texts. */
static const struct {
    const char *name;
    uint8_t wire;
    bool repeated; /* scalars that may also come packed */
} fields[F_END] = {
    [F_COUNT_INT] = {"CountInt", PROTO_VARINT, false},
    [F_COUNT_FLOAT] = {"CountFloat", PROTO_FIXED64, false},
    [F_SUM] = {"Sum", PROTO_FIXED64, false},
    [F_SCHEMA] = {"Schema", PROTO_VARINT, false},
    [F_ZERO_THRESHOLD] = {"ZeroThreshold", PROTO_FIXED64, false},
    [F_ZERO_COUNT_INT] = {"ZeroCountInt", PROTO_VARINT, false},
    [F_ZERO_COUNT_FLOAT] = {"ZeroCountFloat", PROTO_FIXED64, false},
    [F_NEGATIVE_SPANS] = {"NegativeSpans", PROTO_BYTES, false},
    [F_NEGATIVE_DELTAS] = {"NegativeDeltas", PROTO_VARINT, true},
    [F_NEGATIVE_COUNTS] = {"NegativeCounts", PROTO_FIXED64, true},
    [F_POSITIVE_SPANS] = {"PositiveSpans", PROTO_BYTES, false},
    [F_POSITIVE_DELTAS] = {"PositiveDeltas", PROTO_VARINT, true},
    [F_POSITIVE_COUNTS] = {"PositiveCounts", PROTO_FIXED64, true},
    [F_RESET_HINT] = {"ResetHint", PROTO_VARINT, false},
    [F_TIMESTAMP] = {"Timestamp", PROTO_VARINT, false},
    [F_CUSTOM_VALUES] = {"CustomValues", PROTO_FIXED64, true},
};

/* --- reading ----------------------------------------------------------------------------------------------------------- */

static int64_t unzigzag(uint64_t v)
{
    return (int64_t)((v >> 1) ^ (0 - (v & 1)));
}

static int32_t unzigzag32(uint64_t v)
{
    uint32_t u = (uint32_t)v;
    return (int32_t)((u >> 1) ^ (0 - (u & 1)));
}

static bool read_fixed64(struct proto *r, uint64_t *ret)
{
    if (proto_left(r) < 8)
        return proto_fail_length(r, 8);
    memcpy(ret, r->p, 8);
    r->p += 8;
    return true;
}

static bool read_span(struct slice bytes, struct histogram_span *ret, struct err *err)
{
    static const char *const names[] = {NULL, "Offset", "Length"};
    struct proto r = proto_of(bytes, "BucketSpan", err);
    *ret = (struct histogram_span){0, 0};
    while (proto_more(&r)) {
        uint64_t v;
        uint32_t field, wire;
        if (!proto_tag(&r, &field, &wire))
            return false;
        if (field > 2) {
            if (!proto_skip(&r, wire))
                return false;
            continue;
        }
        if (!proto_varint_field(&r, wire, names[field], &v))
            return false;
        if (field == 1)
            ret->offset = unzigzag32(v);
        else
            ret->length = (uint32_t)v;
    }
    return true;
}

/* What repeats: how many there are (first walk), and where they go (second walk; NULL on the first). */
struct repeated {
    uint32_t n[F_END];
    void *out[F_END];
};

static bool read_element(struct proto *r, uint32_t field, uint64_t *ret)
{
    return fields[field].wire == PROTO_FIXED64 ? read_fixed64(r, ret) : proto_varint(r, ret);
}

static void add_element(struct repeated *rep, uint32_t field, uint64_t v)
{
    if (rep->out[field]) {
        if (fields[field].wire == PROTO_VARINT)
            v = (uint64_t)unzigzag(v);
        memcpy((uint64_t *)rep->out[field] + rep->n[field], &v, 8);
    }
    rep->n[field]++;
}

static bool read_packed(struct proto *r, uint32_t field, struct repeated *rep)
{
    struct slice run = {0};
    if (!proto_bytes(r, &run))
        return false;
    struct proto sub = proto_of(run, r->message, r->err);
    while (proto_more(&sub)) {
        uint64_t v;
        if (!read_element(&sub, field, &v))
            return false;
        add_element(rep, field, v);
    }
    return true;
}

static bool add_span(struct proto *r, uint32_t field, struct repeated *rep)
{
    struct slice bytes = {0};
    struct histogram_span span;
    if (!proto_bytes(r, &bytes) || !read_span(bytes, &span, r->err))
        return false;
    if (rep->out[field])
        ((struct histogram_span *)rep->out[field])[rep->n[field]] = span;
    rep->n[field]++;
    return true;
}

static double as_double(uint64_t bits)
{
    double d;
    memcpy(&d, &bits, 8);
    return d;
}

static void set_scalar(uint32_t field, uint64_t v, struct histogram *h, int64_t *ret_t)
{
    switch (field) {
    case F_COUNT_INT:
        h->count_int = v;
        h->is_float = false;
        break;
    case F_COUNT_FLOAT:
        h->count = as_double(v);
        h->is_float = true;
        break;
    case F_SUM: h->sum = as_double(v); break;
    case F_SCHEMA: h->schema = unzigzag32(v); break;
    case F_ZERO_THRESHOLD: h->zero_threshold = as_double(v); break;
    case F_RESET_HINT: h->hint = v <= HISTOGRAM_HINT_GAUGE ? (uint8_t)v : HISTOGRAM_HINT_UNKNOWN; break;
    case F_TIMESTAMP: *ret_t = (int64_t)v; break;
    default: break;
    }
}

/* The zero count's oneof is kept apart until the form is known: a member of the other form counts as zero, as in Go. */
struct zero_count {
    uint32_t field;
    uint64_t bits;
};

static bool read_field(struct proto *r, uint32_t field, uint32_t wire, struct histogram *h, int64_t *ret_t,
                       struct zero_count *zero, struct repeated *rep)
{
    uint64_t v;
    if (field >= F_END)
        return proto_skip(r, wire);
    if (fields[field].repeated && wire == PROTO_BYTES)
        return read_packed(r, field, rep);
    if (wire != fields[field].wire)
        return proto_fail_wire(r, wire, fields[field].name);
    if (wire == PROTO_BYTES)
        return add_span(r, field, rep);
    if (!read_element(r, field, &v))
        return false;
    if (fields[field].repeated)
        add_element(rep, field, v);
    else if (field == F_ZERO_COUNT_INT || field == F_ZERO_COUNT_FLOAT)
        *zero = (struct zero_count){field, v};
    else
        set_scalar(field, v, h, ret_t);
    return true;
}

static bool walk(struct slice msg, struct histogram *h, int64_t *ret_t, struct zero_count *zero, struct repeated *rep,
                 struct err *err)
{
    struct proto r = proto_of(msg, "Histogram", err);
    while (proto_more(&r)) {
        uint32_t field, wire;
        if (!proto_tag(&r, &field, &wire) || !read_field(&r, field, wire, h, ret_t, zero, rep))
            return false;
    }
    return true;
}

static bool allocate(struct repeated *rep, struct arena *arena)
{
    static const uint8_t all[] = {F_NEGATIVE_SPANS, F_NEGATIVE_DELTAS, F_NEGATIVE_COUNTS, F_POSITIVE_SPANS,
                                  F_POSITIVE_DELTAS, F_POSITIVE_COUNTS, F_CUSTOM_VALUES};
    for (size_t i = 0; i < sizeof(all); i++) {
        uint8_t f = all[i];
        if (rep->n[f] && !(rep->out[f] = arena_array(arena, rep->n[f], 8)))
            return false;
        rep->n[f] = 0;
    }
    return true;
}

bool histogram_decode_proto(struct slice msg, struct arena *arena, struct histogram *ret, int64_t *ret_t, struct err *err)
{
    _Static_assert(sizeof(struct histogram_span) == 8, "all repeated elements are 8 bytes");
    struct histogram h = {0};
    struct zero_count zero = {0, 0};
    struct repeated rep = {0};
    int64_t t = 0;
    if (msg.n > UINT32_MAX)
        return err_set(err, ERR_BAD_DATA, "histogram message of %zu bytes is too large", msg.n);
    if (!walk(msg, &h, &t, &zero, &rep, err))
        return false;
    uint32_t n_before = 0;
    for (unsigned f = 0; f < F_END; f++)
        n_before += rep.n[f];
    if (n_before) {
        if (!allocate(&rep, arena))
            return err_set(err, ERR_NO_MEMORY, "not enough memory for a histogram of %u elements", n_before);
        if (!walk(msg, &h, &t, &zero, &rep, err))
            return false;
    }
    if (h.is_float)
        h.zero_count = zero.field == F_ZERO_COUNT_FLOAT ? as_double(zero.bits) : 0;
    else
        h.zero_count_int = zero.field == F_ZERO_COUNT_INT ? zero.bits : 0;
    unsigned positive = h.is_float ? F_POSITIVE_COUNTS : F_POSITIVE_DELTAS;
    unsigned negative = h.is_float ? F_NEGATIVE_COUNTS : F_NEGATIVE_DELTAS;
    h.positive_spans = rep.out[F_POSITIVE_SPANS];
    h.n_positive_spans = rep.n[F_POSITIVE_SPANS];
    h.negative_spans = rep.out[F_NEGATIVE_SPANS];
    h.n_negative_spans = rep.n[F_NEGATIVE_SPANS];
    h.positive_deltas = rep.out[positive];
    h.n_positive = rep.n[positive];
    h.negative_deltas = rep.out[negative];
    h.n_negative = rep.n[negative];
    h.custom_values = rep.out[F_CUSTOM_VALUES];
    h.n_custom_values = rep.n[F_CUSTOM_VALUES];
    *ret = h;
    *ret_t = t;
    return true;
}

/* --- writing ----------------------------------------------------------------------------------------------------------- */

static uint64_t zigzag(int64_t v)
{
    return ((uint64_t)v << 1) ^ (uint64_t)(v >> 63);
}

static uint64_t zigzag32(int32_t v)
{
    return ((uint32_t)v << 1) ^ (uint32_t)(v >> 31);
}

static void put_tag(struct buf *out, unsigned field, enum proto_wire wire)
{
    buf_put_uvarint(out, field << 3 | wire);
}

static void put_varint(struct buf *out, unsigned field, uint64_t v, bool even_zero)
{
    if (v == 0 && !even_zero)
        return;
    put_tag(out, field, PROTO_VARINT);
    buf_put_uvarint(out, v);
}

/* Minus zero is written: it is not the default, and the sign would be lost otherwise. */
static void put_double(struct buf *out, unsigned field, double v, bool even_zero)
{
    uint64_t bits;
    memcpy(&bits, &v, 8);
    if (bits == 0 && !even_zero)
        return;
    put_tag(out, field, PROTO_FIXED64);
    buf_put(out, &bits, 8);
}

static void put_spans(struct buf *out, unsigned field, const struct histogram_span *spans, uint32_t n)
{
    for (uint32_t i = 0; i < n; i++) {
        uint64_t offset = zigzag32(spans[i].offset);
        size_t size = (offset ? 1 + proto_uvarint_size(offset) : 0) + (spans[i].length ? 1 + proto_uvarint_size(spans[i].length) : 0);
        put_tag(out, field, PROTO_BYTES);
        buf_put_uvarint(out, size);
        put_varint(out, 1, offset, false);
        put_varint(out, 2, spans[i].length, false);
    }
}

static void put_doubles(struct buf *out, unsigned field, const double *v, uint32_t n)
{
    if (n == 0)
        return;
    put_tag(out, field, PROTO_BYTES);
    buf_put_uvarint(out, (uint64_t)n * 8);
    buf_put(out, v, (size_t)n * 8);
}

static void put_deltas(struct buf *out, unsigned field, const int64_t *v, uint32_t n)
{
    if (n == 0)
        return;
    size_t size = 0;
    for (uint32_t i = 0; i < n; i++)
        size += proto_uvarint_size(zigzag(v[i]));
    put_tag(out, field, PROTO_BYTES);
    buf_put_uvarint(out, size);
    for (uint32_t i = 0; i < n; i++)
        buf_put_uvarint(out, zigzag(v[i]));
}

void histogram_encode_proto(const struct histogram *h, int64_t t, struct buf *out)
{
    if (h->is_float)
        put_double(out, F_COUNT_FLOAT, h->count, true);
    else
        put_varint(out, F_COUNT_INT, h->count_int, true);
    put_double(out, F_SUM, h->sum, false);
    put_varint(out, F_SCHEMA, zigzag32(h->schema), false);
    put_double(out, F_ZERO_THRESHOLD, h->zero_threshold, false);
    if (h->is_float)
        put_double(out, F_ZERO_COUNT_FLOAT, h->zero_count, true);
    else
        put_varint(out, F_ZERO_COUNT_INT, h->zero_count_int, true);
    put_spans(out, F_NEGATIVE_SPANS, h->negative_spans, h->n_negative_spans);
    if (h->is_float)
        put_doubles(out, F_NEGATIVE_COUNTS, h->negative_counts, h->n_negative);
    else
        put_deltas(out, F_NEGATIVE_DELTAS, h->negative_deltas, h->n_negative);
    put_spans(out, F_POSITIVE_SPANS, h->positive_spans, h->n_positive_spans);
    if (h->is_float)
        put_doubles(out, F_POSITIVE_COUNTS, h->positive_counts, h->n_positive);
    else
        put_deltas(out, F_POSITIVE_DELTAS, h->positive_deltas, h->n_positive);
    put_varint(out, F_RESET_HINT, h->hint, false);
    put_varint(out, F_TIMESTAMP, (uint64_t)t, false);
    put_doubles(out, F_CUSTOM_VALUES, h->custom_values, h->n_custom_values);
}
