/*
 * What the two scans (write_request.c: remote write 1.0, write_symbols.c: the symbol form) share: arrays that grow to
 * size, the bound on them, and messages that are the same in both.
 */
#pragma once

#include "model/proto.h"
#include "model/write_request.h"

/* Field numbers of a series message, and of the series in the request. */
struct scan_form {
    uint32_t series;
    uint32_t samples;
    uint32_t histograms;
    uint32_t exemplars;
    const char *series_message; /* names for texts */
    const char *exemplar_message;
};

struct scan {
    struct write_request *req;
    struct arena *arena;
    struct err *err;
    const struct scan_form *form;
    size_t items_bytes; /* structs so far, copies left behind by growth included */
    size_t cap_samples;
    size_t cap_histograms;
    size_t cap_exemplars;
    bool counted; /* the capacities are exact */
    /* Where the series being scanned begins: in the message (its value) and in the arrays. */
    const char *series_start;
    size_t samples_before;
    size_t histograms_before;
    size_t exemplars_before;
};

/* Memory for n structs, within WRITE_ITEMS_FACTOR and the arena's budget. NULL with the error set. n may be 0. */
void *scan_alloc(struct scan *s, size_t n, size_t size);
bool scan_fail_memory(struct scan *s);

/* Makes room in the three arrays for all that is still to come in the message. */
bool scan_make_room(struct scan *s);

/* A Sample message into the array. */
bool scan_sample(struct scan *s, struct slice msg);
/* A histogram's bytes into the array. */
bool scan_histogram(struct scan *s, struct slice msg);
/* A slot for an exemplar, or NULL with the error set. */
struct write_exemplar *scan_exemplar_slot(struct scan *s);

static inline void scan_begin_series(struct scan *s, const char *start)
{
    s->series_start = start;
    s->samples_before = s->req->n_samples;
    s->histograms_before = s->req->n_histograms;
    s->exemplars_before = s->req->n_exemplars;
}

/* Puts the counts of the series just scanned into it; one without labels is counted and taken back: then false. */
bool scan_end_series(struct scan *s, struct write_series *series);

/* Fields 2, 1000 and 1001 of the request, which both forms have; *ret_known is false for any other field. */
bool scan_request_field(struct scan *s, struct proto *r, uint32_t field, uint32_t wire, bool *ret_known);
