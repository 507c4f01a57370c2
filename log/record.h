/*
 * Records of the log: tenant as the key, a WriteRequest as the value, in Mimir's versions 0, 1 and 2 (docs/formats.md
 * section 2).
 *
 * Also the hint that a distributor gives to an ingester of its own process: the parsed request with each series' hash,
 * so that the ingester neither decompresses nor scans nor hashes again.
 */
#pragma once

#include "log/plog.h"
#include "model/write_request.h"

#define RECORD_VERSION_MAX 2

/* A parsed push: shared by the records that were made of it. Immutable once produced. */
struct record_batch {
    _Atomic int refs;
    struct arena arena; /* holds the message and everything in req */
    struct write_request req;
    uint64_t hash_seed; /* what the series' hashes were made with */
    bool hashed;        /* every series that is not rejected has hash and canonical labels */
};
struct record_batch *record_batch_new(size_t budget_bytes); /* one reference; NULL: no memory */
void record_batch_ref(struct record_batch *b);
void record_batch_unref(struct record_batch *b); /* NULL is fine */

/* The part of a batch that one record holds. */
struct record_hint {
    struct plog_hint hint; /* first member: struct plog_hint * of a record is one of these */
    struct record_batch *batch;
    const uint32_t *series; /* indexes into batch->req.series, in the batch's arena; NULL = all that are not rejected */
    size_t n_series;
    const uint32_t *metadata; /* indexes into batch->req.metadata; NULL = all */
    size_t n_metadata;
};
/* One reference; takes a further one of the batch. hint.size_bytes is what the batch's arena holds by now: make hints
 * last. NULL: no memory. */
struct record_hint *record_hint_new(struct record_batch *batch);

/*
 * Decodes a record of any version into a request whose series all have canonical labels and hashes (seed), but for
 * those marked WRITE_SERIES_REJECTED: no labels left without the empty ones, or two of one name. Uses nothing but the
 * record's bytes, which must outlive ret. A series without samples, histograms and exemplars makes no series in a head.
 *
 * ERR_BAD_DATA on bytes that are none, on an unsupported version ("received a record with an unsupported version: 3,
 * max supported version: 2") and on a record without a key.
 */
bool record_decode(const struct plog_record *rec, uint64_t seed, struct arena *arena, struct write_request *ret,
                   struct err *err);

/*
 * Encodes the named series and metadata of req as a value of version 0: series bytes are copied, not re-encoded. As in
 * struct record_hint, NULL names all series that are not rejected (all metadata), whatever n is; RECORD_NONE with n ==
 * 0 names none. Field 1001 is never written, as in Mimir.
 */
extern const uint32_t RECORD_NONE[1];
void record_encode_v0(const struct write_request *req, const uint32_t *series, size_t n_series,
                      const uint32_t *metadata, size_t n_metadata, struct buf *out);
/* At least the size of what record_encode_v0 writes, to reserve it at once; arguments as there. */
size_t record_encoded_size_max(const struct write_request *req, const uint32_t *series, size_t n_series,
                               const uint32_t *metadata, size_t n_metadata);
