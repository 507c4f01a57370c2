/*
 * The scan of push bodies after decompression: the first byte is the form (remote write 1.0, 2.0, record of version 2),
 * the rest the message.
 *
 * Beside what the sanitizers see: memory stays within the bounds that write_request.h promises; the ways to walk labels
 * agree with each other; a series built anew holds what the old one held.
 */
#include <stdlib.h>

#include "base/assert.h"
#include "model/histogram.h"
#include "model/proto.h"
#include "model/write_request.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n);

static void check_labels(struct slice span)
{
    struct arena arena;
    arena_init(&arena, 0);
    struct write_label_iter it = write_label_iter(span);
    struct label l;
    size_t n = 0;
    int r;
    while ((r = write_label_next(&it, &l)) > 0)
        n++;
    ASSERT((r == 0) == write_labels_check(span, NULL));
    struct labels all;
    ASSERT((r == 0) == labels_from_span(span, &arena, &all));
    if (r == 0) {
        ASSERT(all.n == n);
        struct buf again = {0}, text = {0};
        labels_put_canonical(all, &again);
        if (label_span_is_canonical(span))
            ASSERT(slice_eq(buf_slice(&again), span));
        labels_print(all, &text);
        labels_print_set(all, &text);
        buf_release(&again);
        buf_release(&text);
    } else {
        ASSERT(!label_span_is_canonical(span));
    }
    arena_release(&arena);
}

static void check_histograms(const struct write_request *req)
{
    struct arena arena;
    arena_init(&arena, 64 << 20);
    for (size_t i = 0; i < req->n_histograms; i++) {
        struct histogram h;
        int64_t t;
        if (histogram_decode_proto(req->histograms[i], &arena, &h, &t, NULL))
            (void)histogram_validate(&h, NULL);
    }
    arena_release(&arena);
}

/* Rebuilds a series and scans the result. */
static void check_rebuild(const struct write_request *req, struct write_series s)
{
    struct arena arena;
    arena_init(&arena, 0);
    struct labels labels;
    if (labels_from_span(s.labels, &arena, &labels)) {
        ASSERT(write_series_rebuild(req, &s, &labels, &arena));
        size_t n = proto_bytes_size(s.raw.n);
        char *p = malloc(n);
        proto_put_bytes(p, 0x0A, s.raw);
        struct write_request again;
        ASSERT(write_request_scan(slice_make(p, n), &arena, &again, NULL));
        ASSERT(again.n_series == (labels.n > 0) && again.n_unlabelled_series == (labels.n == 0));
        if (labels.n) {
            const struct write_series *b = &again.series[0];
            ASSERT(slice_eq(b->raw, s.raw) && slice_eq(b->labels, s.labels));
            ASSERT(b->n_samples == s.n_samples && b->n_histograms == s.n_histograms && b->n_exemplars == s.n_exemplars);
            ASSERT(b->created_t == s.created_t);
            for (uint32_t i = 0; i < s.n_samples; i++)
                ASSERT(memcmp(&again.samples[i], &req->samples[s.first_sample + i], sizeof(struct write_sample)) == 0);
        }
        free(p);
    }
    arena_release(&arena);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n)
{
    if (n < 1)
        return 0;
    struct slice message = slice_make(data + 1, n - 1);
    struct arena arena;
    arena_init(&arena, 0);
    struct write_request req;
    struct err err = ERR_NONE;
    unsigned form = data[0] % 3;
    bool ok = form == 0 ? write_request_scan(message, &arena, &req, &err)
                        : write_request_scan_v2(message, form == 1 ? WRITE_SYMBOLS_RW2 : WRITE_SYMBOLS_RECORD_V2,
                                                &arena, &req, &err);
    ASSERT(ok == (err.code == ERR_OK) && (ok || err.text[0]));
    size_t max = WRITE_ITEMS_FACTOR * message.n + WRITE_ITEMS_FREE;
    if (form != 0)
        max += 3 * (WRITE_SYMBOLS_FACTOR * message.n + WRITE_SYMBOLS_FREE) + 2 * message.n;
    ASSERT(arena.used_bytes <= 2 * max + (1 << 20));
    if (ok) {
        for (size_t i = 0; i < req.n_series; i++) {
            check_labels(req.series[i].labels);
            check_rebuild(&req, req.series[i]);
        }
        for (size_t i = 0; i < req.n_exemplars; i++)
            check_labels(req.exemplars[i].labels);
        check_histograms(&req);
    }
    arena_release(&arena);
    return 0;
}
