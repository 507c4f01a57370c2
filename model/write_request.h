/*
 * A write request as a scan of its bytes: no object tree, nothing copied, every slice points into the message.
 *
 * write_request_scan walks prometheus.WriteRequest (remote write 1.0, also Mimir's records of version 0 and 1) once.
 * What it notes of a series: its whole message, the span of its label entries, its samples, histograms and exemplars.
 * Labels are not looked into: a series whose span hash is known needs no second look. write_request_scan_v2 does the
 * same for the symbol form (remote write 2.0 and records of version 2), building canonical label spans in the arena.
 *
 * Cost: 30 ns a series of 11 labels with one sample whose bytes are in the cache (tests/bench/scan.c); the symbol form:
 * eight times that.
 *
 * Memory: 88 B a series and 16 B a sample, from the arena, allocated after a count pass over the message's top level;
 * when a series has more than one sample, or a histogram or an exemplar comes, the rest of the message is counted once
 * more and the arrays are made to size.
 *
 * Bounds: every length is checked against the message. An empty message costs two bytes on the wire, so that
 *
 *   - series without any label are counted (n_unlabelled_*) and not kept;
 *   - all structs together may take WRITE_ITEMS_FACTOR times the message's size, else the message is refused (a real
 *     request takes half of it, the least valid one that can be thought of 8 times);
 *   - symbols, which one message may refer to any number of times, may expand to WRITE_SYMBOLS_FACTOR times its size.
 *
 * The arena's budget may be tighter; when it is used up the answer is ERR_BAD_DATA, since the same request would never
 * succeed.
 */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/arena.h"
#include "base/err.h"
#include "base/slice.h"
#include "model/labels.h"

#define WRITE_ITEMS_FACTOR 16
#define WRITE_ITEMS_FREE ((size_t)64 << 10) /* allowed whatever the message's size is */
#define WRITE_SYMBOLS_FACTOR 32
#define WRITE_SYMBOLS_FREE ((size_t)64 << 20)

struct write_sample {
    int64_t t;
    double v;
};

struct write_exemplar {
    struct slice raw;    /* the Exemplar message */
    struct slice labels; /* span of its label entries, or raw itself when they are not contiguous: walk it either way */
    int64_t t;
    double v;
};

struct write_metadata {
    uint32_t type;    /* 0 unknown 1 counter 2 gauge 3 histogram 4 gaugehistogram 5 summary 6 info 7 stateset */
    struct slice raw; /* the MetricMetadata message (remote write 1.0's, also after write_request_scan_v2) */
    struct slice family;
    struct slice help;
    struct slice unit;
};

enum write_series_flag {
    WRITE_SERIES_SPAN_WHOLE = 1, /* labels is one contiguous run of field 1 */
    WRITE_SERIES_CANONICAL = 2,  /* labels is known to be canonical (see model/labels.h) and validated */
    WRITE_SERIES_REENCODED = 4,  /* labels and raw were built anew in the arena, and are no part of the message */
    WRITE_SERIES_REJECTED = 8,   /* validation refused it: not in the record, not for the head */
};

struct write_series {
    struct slice raw;    /* the TimeSeries message, without its tag and length */
    struct slice labels; /* span of its label entries; raw itself without WRITE_SERIES_SPAN_WHOLE: walk it either way */
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
    uint32_t source;                  /* 0 API, 1 RULE, 2 OTLP */
    bool skip_label_validation;       /* field 1000 */
    bool skip_label_count_validation; /* field 1001 */
    /* Series with no labels at all. They cannot be stored and are not in the arrays. */
    size_t n_unlabelled_series;
    size_t n_unlabelled_samples; /* histograms too */
    size_t n_unlabelled_exemplars;
};

/* Errors are ERR_BAD_DATA with the wording of docs/mimir-http.md 1.2: "unexpected EOF", "proto: wrong wireType = 3 for field
 * Timeseries", ... */
bool write_request_scan(struct slice message, struct arena *arena, struct write_request *ret, struct err *err);

enum write_symbols { WRITE_SYMBOLS_RW2, WRITE_SYMBOLS_RECORD_V2 };
/*
 * RECORD_V2: references below 64 are Mimir's common symbols; metadata names are taken as they are, duplicates are kept,
 * and a series that is there only for its metadata does not become a write_series. RW2: suffixes of histograms and
 * summaries are cut off the family's name, and the first metadata of a family is kept. Either way the result has the
 * form of remote write 1.0: each series is WRITE_SERIES_REENCODED, its labels in the order of the message, its raw a
 * TimeSeries of 1.0 whose beginning is the labels, without its metadata. Bits of values are kept.
 */
bool write_request_scan_v2(struct slice message, enum write_symbols symbols, struct arena *arena,
                           struct write_request *ret, struct err *err);

/* Walks the label entries of a span or of a whole TimeSeries/Exemplar message; other fields are passed over. */
struct write_label_iter {
    const char *p;
    const char *end;
};
static inline struct write_label_iter write_label_iter(struct slice span)
{
    return (struct write_label_iter){span.p, span.p ? span.p + span.n : NULL};
}
/* 1 a label, 0 the end, -1 malformed bytes. */
int write_label_next(struct write_label_iter *it, struct label *ret);

/* Walks it all; what is malformed has the texts of write_request_scan. */
bool write_labels_check(struct slice span, struct err *err);

/* Is this span canonical: one run, shortest varints, sorted, unique, no empty values? */
bool label_span_is_canonical(struct slice span);

/*
 * Builds a series anew in the arena, after labels were sorted, cut or dropped, or samples were refused: labels as given
 * (NULL: those it has), and the samples, exemplars and histograms that its counts now name. A caller that drops some
 * moves the rest together in req's arrays and lowers the count; one that changes a histogram replaces its slice. Sets
 * raw, labels (the beginning of raw) and the flags REENCODED and SPAN_WHOLE; hash and CANONICAL are the caller's.
 * Values other than +0.0 and times other than 0 are written; unknown fields are not. False: no memory.
 */
bool write_series_rebuild(const struct write_request *req, struct write_series *s, const struct labels *labels,
                          struct arena *arena);
