/*
 * Records of the log: the first byte is the version (0 to 3) and, in its highest bit, whether the value is compressed;
 * the rest is the value.
 *
 * Beside what the sanitizers see: every series that is not rejected is canonical and has its hash; what is decoded,
 * written as version 0 and decoded again is the same.
 */
#include "base/assert.h"
#include "log/record.h"

#define SEED 42

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n);

static void check_series(const struct write_request *req)
{
    for (size_t i = 0; i < req->n_series; i++) {
        const struct write_series *s = &req->series[i];
        if (s->flags & WRITE_SERIES_REJECTED)
            continue;
        ASSERT((s->flags & WRITE_SERIES_CANONICAL) && label_span_is_canonical(s->labels) && s->labels.n);
        ASSERT(series_hash_eq(s->hash, series_hash_of(s->labels, SEED)));
        ASSERT(s->first_sample + s->n_samples <= req->n_samples);
        ASSERT(s->first_histogram + s->n_histograms <= req->n_histograms);
        ASSERT(s->first_exemplar + s->n_exemplars <= req->n_exemplars);
    }
}

static void check_again(const struct write_request *req, struct arena *arena)
{
    struct buf out = {0};
    record_encode_v0(req, NULL, 0, NULL, 0, &out);
    ASSERT(out.n <= record_encoded_size_max(req, NULL, 0, NULL, 0));
    struct plog_record rec = {.tenant = SL("t"), .value = buf_slice(&out)};
    struct write_request again;
    ASSERT(record_decode(&rec, SEED, arena, &again, NULL));
    size_t j = 0;
    for (size_t i = 0; i < req->n_series; i++) {
        const struct write_series *s = &req->series[i];
        if (s->flags & WRITE_SERIES_REJECTED)
            continue;
        ASSERT(j < again.n_series);
        const struct write_series *b = &again.series[j++];
        ASSERT(series_hash_eq(s->hash, b->hash) && s->n_samples == b->n_samples && s->n_histograms == b->n_histograms);
    }
    ASSERT(j == again.n_series && again.n_metadata == req->n_metadata && again.source == req->source);
    buf_release(&out);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n)
{
    if (n < 1)
        return 0;
    struct plog_record rec = {
        .tenant = SL("t"),
        .version = data[0] & 3,
        .form = data[0] & 0x80 ? PLOG_SNAPPY : PLOG_PLAIN,
        .value = slice_make(data + 1, n - 1),
    };
    struct arena arena;
    arena_init(&arena, 256 << 20);
    struct write_request req;
    struct err err = ERR_NONE;
    if (record_decode(&rec, SEED, &arena, &req, &err)) {
        check_series(&req);
        check_again(&req, &arena);
    } else {
        ASSERT(err.code == ERR_BAD_DATA && err.text[0]);
    }
    arena_release(&arena);
    return 0;
}
