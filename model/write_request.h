/*
 * A write request as a scan of its bytes: no object tree, nothing copied, every slice points into the message.
 *
 * write_request_scan walks prometheus.WriteRequest (remote write 1.0, also Mimir's records of version 0 and 1) once. What it
 * notes of a series: its whole message, the span of its label entries, its samples, histograms and exemplars. Labels are not
 * looked into: a series whose span hash is known needs no second look. write_request_scan_v2 does the same for the symbol form
 * (remote write 2.0 and records of version 2), building canonical label spans in the arena.
 *
 * Cost: about 40 ns a series of 11 labels with one sample. Memory: 1 struct write_series a series and 16 B a sample, from the arena.
 * Bounds: every length is checked against the message; counts are bounded by the message's size.
 */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/arena.h"
#include "base/err.h"
#include "base/slice.h"
#include "model/labels.h"

struct write_sample {
    int64_t t;
    double v;
};

struct write_exemplar {
    struct slice raw;    /* the Exemplar message */
    struct slice labels; /* span of its label entries; p == NULL when they are not contiguous: then walk raw */
    int64_t t;
    double v;
};

struct write_metadata {
    uint32_t type; /* MetricType: 0 unknown 1 counter 2 gauge 3 histogram 4 gaugehistogram 5 summary 6 info 7 stateset */
    struct slice raw;
    struct slice family;
    struct slice help;
    struct slice unit;
};

enum write_series_flag {
    WRITE_SERIES_SPAN_WHOLE = 1, /* labels is one contiguous run of field 1 */
    WRITE_SERIES_CANONICAL = 2,  /* labels is known to be canonical (see model/labels.h) and validated */
    WRITE_SERIES_REENCODED = 4,  /* labels (and raw) were built anew in the arena: raw is no longer a part of the message */
    WRITE_SERIES_REJECTED = 8,   /* validation refused it: not in the record, not for the head */
};

struct write_series {
    struct slice raw;    /* the TimeSeries message, without its tag and length */
    struct slice labels; /* span of its label entries */
    struct series_hash hash;
    uint32_t flags;
    uint32_t token;
    uint32_t first_sample; /* index into write_request.samples */
    uint32_t n_samples;
    uint32_t first_histogram; /* index into write_request.histograms: raw Histogram messages */
    uint32_t n_histograms;
    uint32_t first_exemplar;
    uint32_t n_exemplars;
    int64_t created_t; /* field 6, 0 = absent */
};

struct write_request {
    struct slice message; /* what was scanned */
    struct write_series *series;
    size_t n_series;
    struct write_sample *samples;
    size_t n_samples;
    struct slice *histograms;
    size_t n_histograms;
    struct write_exemplar *exemplars;
    size_t n_exemplars;
    struct write_metadata *metadata;
    size_t n_metadata;
    uint32_t source; /* 0 API, 1 RULE, 2 OTLP */
    bool skip_label_validation;       /* field 1000 */
    bool skip_label_count_validation; /* field 1001 */
};

/* Errors are ERR_BAD_DATA with the wording of mimir/http.md 1.2: "unexpected EOF", "proto: wrong wireType = 3 for field Timeseries", ... */
bool write_request_scan(struct slice message, struct arena *arena, struct write_request *ret, struct err *err);

enum write_symbols { WRITE_SYMBOLS_RW2, WRITE_SYMBOLS_RECORD_V2 };
/* RECORD_V2: references below 64 are Mimir's common symbols, and metadata names are taken as they are. */
bool write_request_scan_v2(struct slice message, enum write_symbols symbols, struct arena *arena, struct write_request *ret,
                           struct err *err);

/* Walks the label entries of a span or of a whole TimeSeries/Exemplar message; other fields are passed over. */
struct write_label_iter {
    const char *p;
    const char *end;
};
static inline struct write_label_iter write_label_iter(struct slice span) { return (struct write_label_iter){span.p, span.p + span.n}; }
/* 1 a label, 0 the end, -1 malformed bytes. */
int write_label_next(struct write_label_iter *it, struct label *ret);

/* Is this span canonical: one run, shortest varints, sorted, unique, no empty values? */
bool label_span_is_canonical(struct slice span);
