/*
 * SeriesResponse (docs/formats.md 8.3), which all data of blocks travels in.
 *
 *     SeriesResponse, one of   2 warning  3 hints  4 stats {1 fetched_index_bytes}  5 streaming_series  6 streaming_chunks
 *                              7 streaming_chunks_estimate {1 estimated_chunk_count}  8 response_hints
 *     streaming_series         1 series {1 labels}  2 is_end_of_series_stream
 *     streaming_chunks         1 series {1 series_index  2 chunks}
 *     AggrChunk                1 min_time  2 max_time  3 raw {1 type  2 data}
 *
 * The numbers of chunk types are this interface's own: XOR 0, histogram 1, float histogram 2.
 */
#include "base/assert.h"
#include "storage/messages/storegateway_int.h"

#define TYPE_OFFSET 1 /* what chunk files add */

/* --- reading --- */

static bool read_raw(const struct reading *m, struct series_chunk *ret)
{
    uint64_t type = 0;
    ret->data = SL("");
    struct proto r = reading_cursor(m);
    while (proto_more(&r)) {
        uint32_t f, wire;
        if (!proto_tag(&r, &f, &wire))
            return false;
        bool ok = f == 1   ? proto_varint_field(&r, wire, "Type", &type)
                  : f == 2 ? proto_bytes_field(&r, wire, "Data", &ret->data)
                           : proto_skip(&r, wire);
        if (!ok)
            return false;
    }
    if (type > CHUNK_FLOAT_HISTOGRAM - TYPE_OFFSET)
        return err_set(m->err, ERR_BAD_DATA, "unknown chunk type %llu", (unsigned long long)type);
    ret->encoding = (enum chunk_encoding)(type + TYPE_OFFSET);
    return true;
}

static bool read_chunk(const struct reading *m, struct series_chunk *ret)
{
    uint64_t min_t = 0, max_t = 0;
    bool has_raw = false;
    struct slice bytes;
    struct proto r = reading_cursor(m);
    while (proto_more(&r)) {
        uint32_t f, wire;
        if (!proto_tag(&r, &f, &wire))
            return false;
        bool ok = true;
        if (f == 3) {
            ok = proto_bytes_field(&r, wire, "Raw", &bytes);
            struct reading inside = reading_inside(m, ok ? bytes : SL(""), "Chunk");
            ok = has_raw = ok && read_raw(&inside, ret);
        } else {
            ok = f == 1   ? proto_varint_field(&r, wire, "MinTime", &min_t)
                 : f == 2 ? proto_varint_field(&r, wire, "MaxTime", &max_t)
                          : proto_skip(&r, wire);
        }
        if (!ok)
            return false;
    }
    if (!has_raw)
        return err_set(m->err, ERR_BAD_DATA, "a chunk without data");
    ret->min_t = (int64_t)min_t;
    ret->max_t = (int64_t)max_t;
    return true;
}

static bool read_chunks_batch(const struct reading *m, struct storegateway_series_response *ret)
{
    size_t n = 0;
    if (!reading_count(m, 1, &n))
        return false;
    struct streamed_chunks *list = ARENA_ARRAY(m->arena, struct streamed_chunks, n);
    if (n && !list)
        return reading_no_memory(m);
    struct proto r = reading_cursor(m);
    for (size_t i = 0;; i++) {
        struct slice bytes;
        bool found;
        if (!proto_find(&r, 1, "Series", &bytes, &found))
            return false;
        if (!found)
            break;
        struct reading inside = reading_inside(m, bytes, "StreamingChunks");
        if (!reading_streamed_chunks(&inside, "AggrChunk", read_chunk, &list[i]))
            return false;
    }
    ret->chunks = n ? list : NULL;
    ret->n_chunks = n;
    return true;
}

static bool read_series_batch(const struct reading *m, struct storegateway_series_response *ret)
{
    size_t n = 0, at = 0;
    if (!reading_count(m, 1, &n))
        return false;
    struct labels *list = ARENA_ARRAY(m->arena, struct labels, n);
    if (n && !list)
        return reading_no_memory(m);
    struct proto r = reading_cursor(m);
    while (proto_more(&r)) {
        uint32_t f, wire;
        uint64_t end;
        struct slice bytes;
        bool ok = proto_tag(&r, &f, &wire);
        if (!ok)
            return false;
        if (f == 1) {
            ok = proto_bytes_field(&r, wire, "Series", &bytes);
            struct reading inside = reading_inside(m, ok ? bytes : SL(""), "StreamingSeries");
            ok = ok && reading_labels(&inside, 1, true, &list[at++]);
        } else if (f == 2) {
            ok = proto_varint_field(&r, wire, "IsEndOfSeriesStream", &end);
            ret->end_of_series = ok && end;
        } else {
            ok = proto_skip(&r, wire);
        }
        if (!ok)
            return false;
    }
    ret->series = n ? list : NULL;
    ret->n_series = n;
    return true;
}

/* The only field of a message of numbers. */
static bool read_field_1(const struct reading *m, uint64_t *ret)
{
    struct proto r = reading_cursor(m);
    while (proto_more(&r)) {
        uint32_t f, wire;
        if (!proto_tag(&r, &f, &wire) ||
            !(f == 1 ? proto_varint_field(&r, wire, "number", ret) : proto_skip(&r, wire)))
            return false;
    }
    return true;
}

static bool read_part(const struct reading *m, uint32_t field, struct slice bytes,
                      struct storegateway_series_response *ret)
{
    struct reading inside = reading_inside(m, bytes, m->name);
    *ret = (struct storegateway_series_response){0};
    switch (field) {
    case 2:
        ret->part = STOREGATEWAY_WARNING;
        ret->warning = bytes;
        return true;
    case 3:
        ret->part = STOREGATEWAY_HINTS;
        return reading_queried_any(m, bytes, &ret->queried);
    case 4:
        ret->part = STOREGATEWAY_STATS;
        return read_field_1(&inside, &ret->fetched_index_bytes);
    case 5:
        ret->part = STOREGATEWAY_SERIES_BATCH;
        return read_series_batch(&inside, ret);
    case 6:
        ret->part = STOREGATEWAY_CHUNKS_BATCH;
        return read_chunks_batch(&inside, ret);
    case 7:
        ret->part = STOREGATEWAY_CHUNKS_ESTIMATE;
        return read_field_1(&inside, &ret->estimated_chunks);
    default:
        ret->part = STOREGATEWAY_HINTS;
        return reading_queried(&inside, &ret->queried);
    }
}

/* Of several parts, which a sender must not write, the last one counts, as in every oneof. */
bool storegateway_series_response_decode(struct slice message, struct arena *arena,
                                         struct storegateway_series_response *ret, struct err *err)
{
    struct reading m = {message, "SeriesResponse", arena, err};
    struct storegateway_series_response r = {0};
    struct proto c = reading_cursor(&m);
    while (proto_more(&c)) {
        uint32_t f, wire;
        struct slice bytes;
        if (!proto_tag(&c, &f, &wire))
            return answer_corrupt(err);
        bool known = f >= 2 && f <= 8;
        if (!(known ? proto_bytes_field(&c, wire, "Result", &bytes) && read_part(&m, f, bytes, &r)
                    : proto_skip(&c, wire)))
            return answer_corrupt(err);
    }
    *ret = r;
    return true;
}

/* --- writing --- */

void storegateway_hints_put(const struct ulid *queried, size_t n, struct buf *out)
{
    const struct block_hints h = {.blocks = queried, .n = n};
    put_queried_any(3, SL("type.googleapis.com/hintspb.SeriesResponseHints"), &h, out);
}

static void put_number_message(uint32_t field, uint64_t v, struct buf *out)
{
    size_t begin = proto_put_begin(out, field);
    proto_put_varint(out, 1, v);
    proto_put_end(out, begin);
}

void storegateway_stats_put(uint64_t fetched_index_bytes, struct buf *out)
{
    put_number_message(4, fetched_index_bytes, out);
}

void storegateway_chunks_estimate_put(uint64_t n, struct buf *out)
{
    put_number_message(7, n, out);
}

size_t storegateway_series_begin(struct buf *out)
{
    return proto_put_begin(out, 5);
}

void storegateway_series_add(const struct labels *s, struct buf *out)
{
    put_metric(out, 1, s);
}

void storegateway_series_end(size_t begin, bool end_of_series, struct buf *out)
{
    proto_put_varint(out, 2, end_of_series);
    proto_put_end(out, begin);
}

size_t storegateway_chunks_begin(struct buf *out)
{
    return proto_put_begin(out, 6);
}

static size_t varint_field_size(uint64_t v)
{
    return v ? 1 + proto_uvarint_size(v) : 0;
}

static uint64_t type_of(const struct series_chunk *c)
{
    ASSERT(c->encoding >= CHUNK_XOR && c->encoding <= CHUNK_FLOAT_HISTOGRAM);
    return (uint64_t)c->encoding - TYPE_OFFSET;
}

static size_t raw_size(const struct series_chunk *c)
{
    return varint_field_size(type_of(c)) + (c->data.n ? proto_bytes_size(c->data.n) : 0);
}

static size_t chunk_size(const struct series_chunk *c)
{
    return varint_field_size((uint64_t)c->min_t) + varint_field_size((uint64_t)c->max_t) + proto_bytes_size(raw_size(c));
}

/* Sizes first: the bytes of chunks are most of what is sent, and are to be copied once. */
void storegateway_chunks_add(uint64_t series_index, const struct series_chunk *chunks, size_t n, struct buf *out)
{
    size_t size = varint_field_size(series_index);
    for (size_t i = 0; i < n; i++)
        size += proto_bytes_size(chunk_size(&chunks[i]));
    proto_put_tag(out, 1, PROTO_BYTES);
    buf_put_uvarint(out, size);
    buf_reserve(out, size);
    proto_put_varint(out, 1, series_index);
    for (size_t i = 0; i < n; i++) {
        const struct series_chunk *c = &chunks[i];
        proto_put_tag(out, 2, PROTO_BYTES);
        buf_put_uvarint(out, chunk_size(c));
        proto_put_varint(out, 1, (uint64_t)c->min_t);
        proto_put_varint(out, 2, (uint64_t)c->max_t);
        proto_put_tag(out, 3, PROTO_BYTES);
        buf_put_uvarint(out, raw_size(c));
        proto_put_varint(out, 1, type_of(c));
        proto_put_string(out, 2, c->data);
    }
}

void storegateway_chunks_end(size_t begin, struct buf *out)
{
    proto_put_end(out, begin);
}
