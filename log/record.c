/*
 * Records: WriteRequests as values of the log.
 *
 *   version 0, 1   fields 1 timeseries, 2 source, 3 metadata, 1000 skip_label_validation
 *   version 2      fields 4 symbols, 5 timeseries, 2, 1000 (model/write_symbols.c)
 *
 * Decoding gives every series canonical labels and a hash. A record of this program is canonical already and costs a
 * look and a hash a series; other writers are trusted less: labels that are not sorted, have empty values, or are
 * encoded otherwise are built anew, and a series that has none left, or two of one name, is marked
 * WRITE_SERIES_REJECTED: that series, not the record.
 */
#include "log/record.h"

#include <stdatomic.h>
#include <stdlib.h>

#include <snappy-c.h>

#include "base/assert.h"

const uint32_t RECORD_NONE[1];

/* --- batches and hints ----------------------------------------------------------------------------------------------
 */

struct record_batch *record_batch_new(size_t budget_bytes)
{
    struct record_batch *b = calloc(1, sizeof(*b));
    if (!b)
        return NULL;
    atomic_init(&b->refs, 1);
    arena_init(&b->arena, budget_bytes);
    return b;
}

void record_batch_ref(struct record_batch *b)
{
    int before = atomic_fetch_add_explicit(&b->refs, 1, memory_order_relaxed);
    ASSERT(before > 0);
}

void record_batch_unref(struct record_batch *b)
{
    if (!b)
        return;
    /* Release: what this thread read of the batch happens before the free; acquire pairs with the others' releases. */
    int before = atomic_fetch_sub_explicit(&b->refs, 1, memory_order_acq_rel);
    ASSERT(before > 0);
    if (before > 1)
        return;
    arena_release(&b->arena);
    free(b);
}

static void hint_free(struct plog_hint *hint)
{
    struct record_hint *h = (struct record_hint *)hint;
    record_batch_unref(h->batch);
    free(h);
}

struct record_hint *record_hint_new(struct record_batch *batch)
{
    struct record_hint *h = calloc(1, sizeof(*h));
    if (!h)
        return NULL;
    atomic_init(&h->hint.refs, 1);
    h->hint.free = hint_free;
    h->hint.size_bytes = sizeof(*h) + sizeof(*batch) + batch->arena.used_bytes;
    record_batch_ref(batch);
    h->batch = batch;
    return h;
}

/* --- decoding -------------------------------------------------------------------------------------------------------
 */

/*
 * A snappy element of three bytes makes at most 64 bytes, so that no honest block declares more than 64/3 times its
 * size. The check comes before the allocation.
 */
static bool uncompress(struct slice block, struct arena *arena, struct slice *ret, struct err *err)
{
    size_t n;
    if (snappy_uncompressed_length(block.p, block.n, &n) != SNAPPY_OK || n / 22 > block.n)
        return err_set(err, ERR_BAD_DATA, "the record's snappy length is corrupt");
    char *out = arena_alloc(arena, n ? n : 1);
    if (!out)
        return err_set(err, ERR_BAD_DATA, "the record of %zu bytes needs more memory than a record may use", n);
    if (snappy_uncompress(block.p, block.n, out, &n) != SNAPPY_OK)
        return err_set(err, ERR_BAD_DATA, "the record's snappy block is corrupt");
    *ret = slice_make(out, n);
    return true;
}

/* Sorted, without empty values. *ret_valid is false when nothing is left or a name comes twice. */
static bool tidy_labels(struct slice span, struct arena *arena, struct labels *ret, bool *ret_valid, struct err *err)
{
    struct labels l;
    if (!write_labels_check(span, err))
        return false;
    if (!labels_from_span(span, arena, &l))
        return err_set(err, ERR_BAD_DATA, "a series of %zu bytes needs more memory than a record may use", span.n);
    struct label *items = (struct label *)l.items; /* they are ours: labels_from_span has just made them */
    size_t n = 0;
    for (size_t i = 0; i < l.n; i++) {
        if (items[i].value.n)
            items[n++] = items[i];
    }
    if (!labels_sort(items, n))
        return err_set(err, ERR_NO_MEMORY, "no memory to sort %zu labels", n);
    *ret_valid = n > 0;
    for (size_t i = 1; i < n; i++)
        *ret_valid = *ret_valid && !slice_eq(items[i - 1].name, items[i].name);
    *ret = (struct labels){.items = items, .n = n};
    return true;
}

static bool canonicalise(const struct write_request *req, struct write_series *s, struct arena *arena, struct err *err)
{
    if ((s->flags & WRITE_SERIES_SPAN_WHOLE) && label_span_is_canonical(s->labels)) {
        s->flags |= WRITE_SERIES_CANONICAL;
        return true;
    }
    struct labels labels;
    bool valid = false;
    if (!tidy_labels(s->labels, arena, &labels, &valid, err))
        return false;
    if (!valid) {
        s->flags |= WRITE_SERIES_REJECTED;
        return true;
    }
    if (!write_series_rebuild(req, s, &labels, arena))
        return err_set(err, ERR_BAD_DATA, "a series of %zu bytes needs more memory than a record may use", s->raw.n);
    s->flags |= WRITE_SERIES_CANONICAL;
    return true;
}

bool record_decode(const struct plog_record *rec, uint64_t seed, struct arena *arena, struct write_request *ret,
                   struct err *err)
{
    if (rec->tenant.n == 0) /* Mimir ingests it for the tenant "", whose files then lie between those of all others */
        return err_set(err, ERR_BAD_DATA, "received a record without a key: it belongs to no tenant");
    if (rec->version > RECORD_VERSION_MAX)
        return err_set(err, ERR_BAD_DATA,
                       "received a record with an unsupported version: %u, max supported version: %d",
                       (unsigned)rec->version, RECORD_VERSION_MAX);
    struct slice message = rec->value;
    if (rec->form == PLOG_SNAPPY && !uncompress(rec->value, arena, &message, err))
        return false;
    bool ok = rec->version == 2 ? write_request_scan_v2(message, WRITE_SYMBOLS_RECORD_V2, arena, ret, err)
                                : write_request_scan(message, arena, ret, err);
    for (size_t i = 0; ok && i < ret->n_series; i++)
        ok = canonicalise(ret, &ret->series[i], arena, err);
    if (!ok)
        return false;
    struct series_hasher hasher;
    series_hasher_init(&hasher, seed);
    for (size_t i = 0; i < ret->n_series; i++) {
        if (!(ret->series[i].flags & WRITE_SERIES_REJECTED))
            ret->series[i].hash = series_hasher_hash(&hasher, ret->series[i].labels);
    }
    return true;
}

/* --- encoding -------------------------------------------------------------------------------------------------------
 */

static void put_message(struct buf *out, char tag, struct slice msg)
{
    buf_putc(out, tag);
    buf_put_uvarint(out, msg.n);
    buf_put_slice(out, msg);
}

void record_encode_v0(const struct write_request *req, const uint32_t *series, size_t n_series,
                      const uint32_t *metadata, size_t n_metadata, struct buf *out)
{
    if (!series)
        n_series = req->n_series;
    if (!metadata)
        n_metadata = req->n_metadata;
    for (size_t i = 0; i < n_series; i++) {
        const struct write_series *s = &req->series[series ? series[i] : i];
        if (series || !(s->flags & WRITE_SERIES_REJECTED))
            put_message(out, 0x0A, s->raw);
    }
    if (req->source) {
        buf_putc(out, 0x10);
        buf_put_uvarint(out, req->source);
    }
    for (size_t i = 0; i < n_metadata; i++)
        put_message(out, 0x1A, req->metadata[metadata ? metadata[i] : i].raw);
    if (req->skip_label_validation)
        buf_put(out, "\xC0\x3E\x01", 3);
}

size_t record_encoded_size_max(const struct write_request *req, const uint32_t *series, size_t n_series,
                               const uint32_t *metadata, size_t n_metadata)
{
    const size_t overhead = 1 + 10; /* a tag and the longest length */
    if (!series)
        n_series = req->n_series;
    if (!metadata)
        n_metadata = req->n_metadata;
    size_t n = 1 + 10 + 3; /* source, skip_label_validation */
    for (size_t i = 0; i < n_series; i++)
        n += overhead + req->series[series ? series[i] : i].raw.n;
    for (size_t i = 0; i < n_metadata; i++)
        n += overhead + req->metadata[metadata ? metadata[i] : i].raw.n;
    return n;
}
