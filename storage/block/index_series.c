/*
 * A series entry: uvarint length, payload, CRC-32C of the payload. The payload is
 *   uvarint n, n x (uvarint name, uvarint value)                  references of symbols
 *   uvarint m, varint min_t, uvarint max_t - min_t, uvarint ref   the first chunk
 *   (m - 1) x (uvarint min_t - previous max_t, uvarint max_t - min_t, varint ref - previous ref)
 */
#include <stdlib.h>

#include "base/assert.h"
#include "storage/block/bytes.h"
#include "storage/block/crc32c.h"
#include "storage/block/index.h"

void index_series_release(struct index_series *s)
{
    free(s->labels);
    free(s->symbols);
    free(s->chunks);
    *s = (struct index_series){0};
}

static bool no_memory(const struct index *ix, struct err *err)
{
    return err_set(err, ERR_NO_MEMORY, "%s: no memory for a series", ix->path);
}

static bool reserve_labels(struct index_series *s, size_t n)
{
    if (n <= s->cap_labels)
        return true;
    struct label *labels = realloc(s->labels, n * sizeof(*labels));
    if (labels)
        s->labels = labels;
    uint32_t *symbols = realloc(s->symbols, 2 * n * sizeof(*symbols));
    if (symbols)
        s->symbols = symbols;
    if (!labels || !symbols)
        return false;
    s->cap_labels = n;
    return true;
}

static bool reserve_chunks(struct index_series *s, size_t n)
{
    if (n <= s->cap_chunks)
        return true;
    struct index_chunk *chunks = realloc(s->chunks, n * sizeof(*chunks));
    if (!chunks)
        return false;
    s->chunks = chunks;
    s->cap_chunks = n;
    return true;
}

static bool read_labels(const struct index *ix, struct dec *d, uint64_t at, struct index_series *s, struct err *err)
{
    uint64_t n = dec_uvarint(d);
    if (d->bad || n > dec_left(d) / 2)
        return index_corrupt(ix, at, "a series with more labels than bytes", err);
    if (!reserve_labels(s, n))
        return no_memory(ix, err);
    for (size_t i = 0; i < n; i++) {
        uint64_t name = dec_uvarint(d), value = dec_uvarint(d);
        uint32_t *symbols = &s->symbols[2 * i];
        if (d->bad || !index_symbol_of_ref(ix, name, &symbols[0]) || !index_symbol_of_ref(ix, value, &symbols[1]))
            return index_corrupt(ix, at, "a series with a label that is no symbol", err);
        /* Symbols are in order, so that their positions compare as they do. */
        if (i && symbols[0] <= symbols[-2])
            return index_corrupt(ix, at, "a series with labels out of order", err);
        s->labels[i] = (struct label){index_symbol(ix, symbols[0]), index_symbol(ix, symbols[1])};
    }
    s->n_labels = n;
    return true;
}

static int by_min_t(const void *a, const void *b)
{
    const struct index_chunk *x = a, *y = b;
    if (x->min_t != y->min_t)
        return x->min_t < y->min_t ? -1 : 1;
    return (x->ref > y->ref) - (x->ref < y->ref);
}

static bool read_chunks(const struct index *ix, struct dec *d, uint64_t at, struct index_series *s, struct err *err)
{
    uint64_t n = dec_uvarint(d);
    if (d->bad || n > dec_left(d) / 3)
        return index_corrupt(ix, at, "a series with more chunks than bytes", err);
    if (!reserve_chunks(s, n))
        return no_memory(ix, err);
    uint64_t t = 0, ref = 0;
    bool sorted = true;
    s->overlapping = false;
    for (size_t i = 0; i < n; i++) {
        /* Unsigned, because a chunk that begins before the end of the one before it was written as a difference that wraps. */
        uint64_t min_t = t + (i ? dec_uvarint(d) : (uint64_t)dec_varint(d));
        t = min_t + dec_uvarint(d);
        ref = i ? ref + (uint64_t)dec_varint(d) : dec_uvarint(d);
        struct index_chunk *c = &s->chunks[i];
        *c = (struct index_chunk){(int64_t)min_t, (int64_t)t, ref};
        if (d->bad || c->max_t < c->min_t)
            return index_corrupt(ix, at, "a series with a chunk that ends before it begins", err);
        s->overlapping |= i && c->min_t <= c[-1].max_t;
        sorted &= !i || c->min_t >= c[-1].min_t;
    }
    s->n_chunks = n;
    if (!sorted)
        qsort(s->chunks, n, sizeof(*s->chunks), by_min_t);
    return dec_left(d) == 0 || index_corrupt(ix, at, "a series with bytes behind its last chunk", err);
}

bool index_series_decode(const struct index *ix, uint64_t offset, const uint8_t *p, size_t n, struct index_series *ret, size_t *ret_need,
                         struct err *err)
{
    uint64_t left = offset >= ix->series_from && offset < ix->series_to ? ix->series_to - offset : 0;
    struct dec d = dec_of(p, MIN(n, left));
    uint64_t n_payload = dec_uvarint(&d), n_head = (uint64_t)(d.p - p);
    *ret_need = 0;
    if (left == 0)
        return index_corrupt(ix, offset, "a reference that is out of the series", err);
    if (d.bad && n < MIN(left, UVARINT_MAX_BYTES)) {
        *ret_need = MIN(left, UVARINT_MAX_BYTES);
        return true;
    }
    if (d.bad || n_payload > left || left - n_payload < n_head + 4)
        return index_corrupt(ix, offset, "a series that is cut short", err);
    if (dec_left(&d) < n_payload + 4) {
        *ret_need = n_head + n_payload + 4;
        return true;
    }
    d.end = d.p + n_payload;
    if (!ix->no_checksums && crc32c(0, d.p, n_payload) != get_be32(d.end))
        return index_corrupt(ix, offset + n_head, "the checksum does not fit", err);
    ret->end = offset + n_head + n_payload + 4;
    return read_labels(ix, &d, offset, ret, err) && read_chunks(ix, &d, offset, ret, err);
}

bool index_series_read(const struct index *ix, uint32_t ref, struct index_series *ret, struct err *err)
{
    uint64_t at = ix->version == 1 ? ref : (uint64_t)ref * INDEX_SERIES_ALIGN;
    size_t need;
    if (at < ix->series_from || at >= ix->series_to)
        return index_corrupt(ix, at, "a reference that is out of the series", err);
    if (!index_series_decode(ix, at, ix->p + at, ix->series_to - at, ret, &need, err))
        return false;
    ASSERT(need == 0);
    return true;
}
