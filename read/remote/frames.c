/*
 * STREAMED_XOR_CHUNKS. In the spill a body is the chunks of a series as fields 2 of ChunkedSeries; read out, it becomes frames:
 *
 *     uvarint length of data | big endian CRC-32C of data | data = ChunkedReadResponse { 1 ChunkedSeries { 1 labels, 2 chunks }  2 query_index }
 *
 * A frame holds one series, or a part of it with its labels repeated. It ends behind the chunk with which the sizes of the labels and chunks (as messages, without
 * tags and lengths) reach REMOTE_FRAME_BYTES, as Prometheus counts.
 */
#include <arpa/inet.h>

#include "base/assert.h"
#include "model/proto_put.h"
#include "read/remote/remote_int.h"
#include "storage/block/crc32c.h"

#define WINDOW_BYTES ((size_t)256 << 10)
#define HEADER_MAX 11 /* tag and length of a field */

void frames_put(struct remote_answer *a, const struct series_chunk *chunks, size_t n)
{
    struct buf *out = spill_tail(&a->spill);
    for (size_t i = 0; i < n; i++) {
        size_t chunk = proto_put_begin(out, 2);
        proto_put_varint(out, 1, (uint64_t)chunks[i].min_t);
        proto_put_varint(out, 2, (uint64_t)chunks[i].max_t);
        proto_put_varint(out, 3, (uint64_t)chunks[i].encoding); /* the numbers of TSDB encodings */
        proto_put_string(out, 4, chunks[i].data);
        proto_put_end(out, chunk);
    }
}

/* --- reading out ------------------------------------------------------------------------------------------------------------ */

/* The spill's bytes [at, at + n) in memory; end: where the series ends, past which nothing is read ahead. */
static const char *view(struct remote_answer *a, uint64_t at, size_t n, uint64_t end, struct err *err)
{
    if (at < a->window_at || at + n > a->window_at + a->window.n) {
        buf_clear(&a->window);
        a->window_at = at;
        if (!spill_read(&a->spill, at, (size_t)MIN((uint64_t)MAX(n, WINDOW_BYTES), end - at), &a->window, err))
            return NULL;
    }
    return a->window.p + (at - a->window_at);
}

/* Sizes of the label messages, as the cutting rule counts them. */
static uint64_t label_sizes(struct slice canonical)
{
    uint64_t sum = 0;
    struct proto p = proto_of(canonical, "ChunkedSeries", NULL);
    while (proto_more(&p)) {
        uint32_t f, wire;
        struct slice label;
        bool good = proto_tag(&p, &f, &wire) && proto_bytes(&p, &label);
        ASSERT(good); /* we wrote it */
        sum += label.n;
    }
    return sum;
}

/* The tag and length of the chunk at hand: the size of the whole field, and of the message in it. */
static bool chunk_size(struct remote_answer *a, uint64_t at, uint64_t end, size_t *ret_field, size_t *ret_message, struct err *err)
{
    size_t n = (size_t)MIN((uint64_t)HEADER_MAX, end - at);
    const char *bytes = view(a, at, n, end, err);
    if (!bytes)
        return false;
    struct proto p = proto_of(slice_make(bytes, n), "ChunkedSeries", NULL);
    uint32_t f, wire;
    uint64_t length;
    bool good = proto_tag(&p, &f, &wire) && proto_varint(&p, &length) && length <= end - at;
    if (!good)
        return err_set(err, ERR_IO, "the file of a large remote read has changed");
    *ret_message = (size_t)length;
    *ret_field = (size_t)(p.p - bytes) + (size_t)length;
    return true;
}

static void put_frame(struct remote_answer *a, struct buf *out)
{
    /* The series' tag and length stand before what the frame holds already. */
    struct buf *series = &a->frame;
    size_t query = a->result ? 1 + proto_uvarint_size(a->result) : 0;
    size_t n = proto_bytes_size(series->n) + query;
    buf_put_uvarint(out, n);
    size_t crc_at = out->n;
    buf_put(out, "\0\0\0\0", 4);
    size_t data_at = out->n;
    proto_put_element(out, 1, buf_slice(series));
    if (query)
        proto_put_varint_element(out, 2, a->result);
    if (out->failed)
        return;
    ASSERT(out->n - data_at == n);
    uint32_t crc = htonl(crc32c(0, out->p + data_at, n));
    memcpy(out->p + crc_at, &crc, 4);
}

/* One frame of the entry at hand. */
static bool next_frame(struct remote_answer *a, const struct entry *e, struct buf *out, struct err *err)
{
    uint64_t body = e->at + e->n_labels, end = body + e->n_body;
    buf_clear(&a->frame);
    if (!spill_read(&a->spill, e->at, e->n_labels, &a->frame, err))
        return false;
    int64_t left = (int64_t)REMOTE_FRAME_BYTES - (int64_t)label_sizes(buf_slice(&a->frame));
    while (body + a->at < end) {
        size_t field = 0, message = 0;
        if (!chunk_size(a, body + a->at, end, &field, &message, err))
            return false;
        const char *bytes = view(a, body + a->at, field, end, err);
        if (!bytes)
            return false;
        buf_put(&a->frame, bytes, field);
        a->at += field;
        left -= (int64_t)message;
        if (left <= 0)
            break;
    }
    put_frame(a, out);
    return (!out->failed && !a->frame.failed) || err_set(err, ERR_NO_MEMORY, "no memory for a frame");
}

bool frames_next(struct remote_answer *a, size_t piece_bytes, struct buf *out, struct err *err)
{
    size_t before = out->n;
    while (a->result < a->n_results && out->n - before < piece_bytes) {
        const struct result *r = &a->results[a->result];
        if (a->entry == r->n) {
            a->result++;
            a->entry = 0;
            continue;
        }
        const struct entry *e = &r->entries[a->entry];
        if (!next_frame(a, e, out, err))
            return false;
        if (a->at == e->n_body) {
            a->entry++;
            a->at = 0;
        }
    }
    return true;
}
