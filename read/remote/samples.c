/*
 * SAMPLES: one snappy block of ReadResponse { 1 results { 1 timeseries { 1 labels, 2 samples, 4 histograms } } }.
 *
 * In the spill a body is the samples and histograms of a series, in order of time. All lengths are known when the last series is there, so that the message can be
 * made piece by piece. So can the block: a snappy block is the length of the whole, and then elements which refer back to at most 64 KiB before; the elements of
 * blocks of 64 KiB, one behind the other, are therefore the elements of the whole (which is what snappy's own compressor does).
 */
#include <snappy-c.h>

#include "base/assert.h"
#include "model/histogram.h"
#include "model/proto_put.h"
#include "read/remote/remote_int.h"

#define FRAGMENT_BYTES ((size_t)64 << 10)

/* --- encoding ---------------------------------------------------------------------------------------------------------------- */

static void put_float(struct buf *out, int64_t t, double v)
{
    size_t sample = proto_put_begin(out, 2);
    proto_put_double(out, 1, v);
    proto_put_varint(out, 2, (uint64_t)t);
    proto_put_end(out, sample);
}

static void put_histogram(struct buf *out, int64_t t, const struct histogram *h)
{
    size_t histogram = proto_put_begin(out, 4);
    histogram_encode_proto(h, t, out);
    proto_put_end(out, histogram);
}

bool samples_put(struct remote_answer *a, const struct remote_query *q, const struct series_chunk *chunks, size_t n, uint64_t *ret_n, struct err *err)
{
    struct buf *out = spill_tail(&a->spill);
    *ret_n = 0;
    for (size_t i = 0; i < n; i++) {
        struct chunk_columns c;
        arena_clear(&a->decoded);
        if (!chunk_decode(chunks[i].encoding, chunks[i].data, &a->decoded, &c, err))
            return false;
        for (size_t k = 0; k < c.n; k++) {
            if (c.t[k] < q->start_ms || c.t[k] > q->end_ms)
                continue;
            if (c.v)
                put_float(out, c.t[k], c.v[k]);
            else
                put_histogram(out, c.t[k], &c.h[k]);
            ++*ret_n;
        }
        if (!spill_flush(&a->spill, err)) /* a long series is more than belongs into memory */
            return false;
    }
    return true;
}

/* --- lengths ------------------------------------------------------------------------------------------------------------------- */

static uint64_t field_bytes(uint64_t n)
{
    return 1 + proto_uvarint_size(n) + n;
}

uint64_t samples_series_bytes(const struct entry *e)
{
    return field_bytes(e->n_labels + e->n_body);
}

bool samples_finish(struct remote_answer *a, struct err *err)
{
    a->total_bytes = 0;
    for (size_t i = 0; i < a->n_results; i++)
        a->total_bytes += field_bytes(a->results[i].n_bytes);
    return a->total_bytes <= UINT32_MAX || err_set(err, ERR_EXECUTION, "the answer is larger than a snappy block can be");
}

/* --- reading out --------------------------------------------------------------------------------------------------------------- */

/* Appends up to n bytes of the entry at hand to raw; its own tag and length first. */
static bool take_entry(struct remote_answer *a, const struct entry *e, size_t n, struct err *err)
{
    uint64_t all = e->n_labels + e->n_body;
    if (a->at == 0) {
        proto_put_tag(&a->raw, 1, PROTO_BYTES);
        buf_put_uvarint(&a->raw, all);
    }
    size_t some = (size_t)MIN((uint64_t)n, all - a->at);
    if (!spill_read(&a->spill, e->at + a->at, some, &a->raw, err))
        return false;
    a->at += some;
    if (a->at == all) {
        a->entry++;
        a->at = 0;
    }
    return true;
}

/* Appends to raw until it has a fragment, or the message ends. */
static bool fill_raw(struct remote_answer *a, struct err *err)
{
    while (a->result < a->n_results && a->raw.n < FRAGMENT_BYTES) {
        const struct result *r = &a->results[a->result];
        if (!a->begun) {
            proto_put_tag(&a->raw, 1, PROTO_BYTES);
            buf_put_uvarint(&a->raw, r->n_bytes);
            a->begun = true;
        } else if (a->entry == r->n) {
            a->result++;
            a->entry = 0;
            a->begun = false;
        } else if (!take_entry(a, &r->entries[a->entry], FRAGMENT_BYTES - a->raw.n, err)) {
            return false;
        }
    }
    return !a->raw.failed || err_set(err, ERR_NO_MEMORY, "no memory for a piece of a remote read");
}

/* Compresses the first n bytes of raw, and drops the length that a block begins with. */
static bool put_fragment(struct remote_answer *a, size_t n, struct buf *out, struct err *err)
{
    size_t room = snappy_max_compressed_length(n);
    if (!buf_reserve(out, room))
        return err_set(err, ERR_NO_MEMORY, "no memory for a piece of a remote read");
    bool good = snappy_compress(a->raw.p, n, out->p + out->n, &room) == SNAPPY_OK;
    ASSERT(good);
    size_t skip = proto_uvarint_size(n);
    memmove(out->p + out->n, out->p + out->n + skip, room - skip);
    out->n += room - skip;
    memmove(a->raw.p, a->raw.p + n, a->raw.n - n);
    a->raw.n -= n;
    return true;
}

bool samples_next(struct remote_answer *a, size_t piece_bytes, struct buf *out, struct err *err)
{
    size_t before = out->n;
    if (!a->headed)
        buf_put_uvarint(out, a->total_bytes);
    a->headed = true;
    while (out->n - before < piece_bytes) {
        if (!fill_raw(a, err))
            return false;
        if (a->raw.n == 0)
            return true;
        if (!put_fragment(a, MIN(a->raw.n, FRAGMENT_BYTES), out, err))
            return false;
    }
    return true;
}
