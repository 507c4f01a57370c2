/*
 * QueryStreamResponse (docs/formats.md 8.2), which all data of queries travels in.
 *
 *     QueryStreamResponse      3 streaming_series  4 is_end_of_series_stream  5 streaming_series_chunks
 *     QueryStreamSeries        1 labels  2 chunk_count
 *     QueryStreamSeriesChunks  1 series_index  2 chunks
 *     Chunk                    1 start  2 end  3 encoding  4 data
 *
 * The numbers of encodings are this interface's own: those of chunk files, and three more (XOR 4, histogram 5, float
 * histogram 6).
 */
#include "base/assert.h"
#include "storage/messages/messages_int.h"

#define ENCODING_OFFSET 3

/* --- reading --- */

static bool read_series(const struct reading *m, struct streamed_series *ret)
{
    uint64_t count = 0;
    struct proto r = reading_cursor(m);
    while (proto_more(&r)) {
        uint32_t f, wire;
        if (!proto_tag(&r, &f, &wire) ||
            !(f == 2 ? proto_varint_field(&r, wire, "ChunkCount", &count) : proto_skip(&r, wire)))
            return false;
    }
    ret->chunk_count = (int64_t)count;
    return reading_labels(m, 1, true, &ret->labels);
}

static bool read_chunk(const struct reading *m, struct series_chunk *ret)
{
    uint64_t start = 0, end = 0, encoding = 0;
    struct slice data = SL("");
    struct proto r = reading_cursor(m);
    while (proto_more(&r)) {
        uint32_t f, wire;
        if (!proto_tag(&r, &f, &wire))
            return false;
        bool ok = f == 1   ? proto_varint_field(&r, wire, "StartTimestampMs", &start)
                  : f == 2 ? proto_varint_field(&r, wire, "EndTimestampMs", &end)
                  : f == 3 ? proto_varint_field(&r, wire, "Encoding", &encoding)
                  : f == 4 ? proto_bytes_field(&r, wire, "Data", &data)
                           : proto_skip(&r, wire);
        if (!ok)
            return false;
    }
    if (encoding < CHUNK_XOR + ENCODING_OFFSET || encoding > CHUNK_FLOAT_HISTOGRAM + ENCODING_OFFSET)
        return err_set(m->err, ERR_BAD_DATA, "unknown chunk encoding %llu", (unsigned long long)encoding);
    *ret = (struct series_chunk){(int64_t)start, (int64_t)end, (enum chunk_encoding)(encoding - ENCODING_OFFSET), data};
    return true;
}

/* The elements of the message's two lists; series and chunks have the room. */
static bool read_response(const struct reading *m, struct streamed_series *series, struct streamed_chunks *chunks,
                          struct query_stream_response *ret)
{
    struct proto r = reading_cursor(m);
    while (proto_more(&r)) {
        uint32_t f, wire;
        uint64_t end;
        struct slice bytes;
        bool ok = proto_tag(&r, &f, &wire);
        if (!ok)
            return false;
        if (f == 3) {
            ok = proto_bytes_field(&r, wire, "StreamingSeries", &bytes);
            struct reading inside = reading_inside(m, ok ? bytes : SL(""), "QueryStreamSeries");
            ok = ok && read_series(&inside, &series[ret->n_series++]);
        } else if (f == 4) {
            ok = proto_varint_field(&r, wire, "IsEndOfSeriesStream", &end);
            ret->end_of_series = ok && end;
        } else if (f == 5) {
            ok = proto_bytes_field(&r, wire, "StreamingSeriesChunks", &bytes);
            struct reading inside = reading_inside(m, ok ? bytes : SL(""), "QueryStreamSeriesChunks");
            ok = ok && reading_streamed_chunks(&inside, "Chunk", read_chunk, &chunks[ret->n_chunks++]);
        } else {
            ok = proto_skip(&r, wire);
        }
        if (!ok)
            return false;
    }
    return true;
}

static bool decode(const struct reading *m, struct query_stream_response *ret)
{
    size_t n_series = 0, n_chunks = 0;
    if (!reading_count(m, 3, &n_series) || !reading_count(m, 5, &n_chunks))
        return false;
    struct streamed_series *series = ARENA_ARRAY(m->arena, struct streamed_series, n_series);
    struct streamed_chunks *chunks = ARENA_ARRAY(m->arena, struct streamed_chunks, n_chunks);
    if ((n_series && !series) || (n_chunks && !chunks))
        return reading_no_memory(m);
    struct query_stream_response res = {.series = n_series ? series : NULL, .chunks = n_chunks ? chunks : NULL};
    if (!read_response(m, series, chunks, &res))
        return false;
    *ret = res;
    return true;
}

bool query_stream_response_decode(struct slice message, struct arena *arena, struct query_stream_response *ret,
                                  struct err *err)
{
    struct reading m = {message, "QueryStreamResponse", arena, err};
    return decode(&m, ret) || answer_corrupt(err);
}

/* --- writing --- */

void streamed_series_put(const struct labels *labels, int64_t chunk_count, struct buf *out)
{
    size_t begin = proto_put_begin(out, 3);
    labels_put_canonical(*labels, out);
    proto_put_varint(out, 2, (uint64_t)chunk_count);
    proto_put_end(out, begin);
}

void end_of_series_put(struct buf *out)
{
    proto_put_varint(out, 4, true);
}

static size_t varint_field_size(uint64_t v)
{
    return v ? 1 + proto_uvarint_size(v) : 0;
}

static size_t chunk_size(const struct series_chunk *c)
{
    return varint_field_size((uint64_t)c->min_t) + varint_field_size((uint64_t)c->max_t) + 2 +
           (c->data.n ? proto_bytes_size(c->data.n) : 0);
}

/* Sizes first: the bytes of chunks are most of what is sent, and are to be copied once. */
void streamed_chunks_put(uint64_t series_index, const struct series_chunk *chunks, size_t n, struct buf *out)
{
    size_t size = varint_field_size(series_index);
    for (size_t i = 0; i < n; i++)
        size += proto_bytes_size(chunk_size(&chunks[i]));
    proto_put_tag(out, 5, PROTO_BYTES);
    buf_put_uvarint(out, size);
    buf_reserve(out, size);
    proto_put_varint(out, 1, series_index);
    for (size_t i = 0; i < n; i++) {
        const struct series_chunk *c = &chunks[i];
        ASSERT(c->encoding >= CHUNK_XOR && c->encoding <= CHUNK_FLOAT_HISTOGRAM);
        proto_put_tag(out, 2, PROTO_BYTES);
        buf_put_uvarint(out, chunk_size(c));
        proto_put_varint(out, 1, (uint64_t)c->min_t);
        proto_put_varint(out, 2, (uint64_t)c->max_t);
        proto_put_varint(out, 3, (uint64_t)c->encoding + ENCODING_OFFSET);
        proto_put_string(out, 4, c->data);
    }
}
