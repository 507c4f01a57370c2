/*
 * Private to app/tools/: samples in any order, given back block range by block range, sorted by series and time, in bounded memory.
 *
 * Symbols (label names and values) and series (numbers of symbols) stay in memory: 16 bytes and the text a symbol, 8 bytes a label of a series, and hash tables
 * of 4 bytes an entry. Samples go into a file a range, of 24 bytes each; all ranges together buffer SAMPLES_BUFFER_BYTES. A range is read in pieces of
 * SAMPLES_PIECE records (sorting one takes twice its size); a piece is sorted, and where there is more than one they go into files again and are merged from there.
 */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

#include "base/arena.h"
#include "base/buf.h"
#include "base/err.h"
#include "model/labels.h"

#define SAMPLES_BUFFER_BYTES ((size_t)64 << 20)
#define SAMPLES_PIECE ((size_t)2 << 20)
#define SAMPLES_RANGES_MAX 200000 /* 45 years of two hours */
#define SAMPLES_LIMIT UINT32_C(0x7FFFFFFF) /* of symbols and of series */

/* A sample in a range's file, and in memory. */
struct record {
    uint32_t series; /* its number; its rank, once the range is read */
    uint32_t order;  /* within the piece: on equal times the first one wins */
    int64_t t;
    double v;
};

struct range {
    int64_t number; /* of the range: time / range_ms, rounded down */
    struct buf pending;
    uint64_t n_records; /* pending ones too */
    bool on_disk;
};

struct series_row {
    size_t first; /* in ids */
    uint32_t n;   /* labels */
    uint32_t rank;
};

struct samples {
    const char *dir; /* of the files; not owned */
    int64_t range_ms;
    size_t buffer_bytes, piece; /* as above; small in tests */
    struct arena text;
    struct slice *symbols; /* owned */
    uint32_t n_symbols, cap_symbols;
    uint32_t *symbol_slots; /* owned: number + 1 */
    uint32_t symbol_mask;
    uint32_t *symbol_ranks; /* owned; made by samples_sort */
    uint32_t *by_rank;      /* owned: symbols */
    struct series_row *series; /* owned */
    uint32_t n_series, cap_series;
    uint32_t *series_slots; /* owned */
    uint32_t series_mask;
    uint32_t *series_by_rank; /* owned; made by samples_sort */
    uint32_t *ids;            /* owned: symbols of all series, name and value by turns */
    size_t n_ids, cap_ids;
    struct range *ranges; /* owned; by number */
    size_t n_ranges, cap_ranges;
    size_t last_range; /* which most samples go to */
    size_t pending_bytes;
    uint64_t n_samples;
};

void samples_init(struct samples *s, const char *dir, int64_t range_ms);
void samples_release(struct samples *s);
bool samples_add(struct samples *s, struct labels labels, int64_t t, double v, struct err *err);
/* After the last one: ranks. */
bool samples_sort(struct samples *s, struct err *err);
/* The labels of the series of this rank, in room for OPENMETRICS_LABELS_MAX. */
struct labels samples_labels(const struct samples *s, uint32_t rank, struct label *room);

/* --- one range, sorted (sorted.c) ------------------------------------------------------------------------------------------------- */

struct run {
    FILE *file;          /* NULL: all of it is in memory */
    struct record *records; /* owned */
    size_t n, at;
};

struct sorted {
    struct samples *s;
    const struct range *range;
    struct run *runs; /* owned */
    size_t n_runs;
    size_t *heap; /* owned: runs by their first record */
    size_t n_heap;
    uint8_t *used;   /* owned: bit by rank, whether the range has the series */
    int64_t min_t, max_t;
};

bool sorted_open(struct sorted *q, struct samples *s, struct range *range, struct err *err);
/* By rank, time, and the order in which they came. *ret_more false: the end. */
bool sorted_next(struct sorted *q, struct record *ret, bool *ret_more, struct err *err);
/* The symbols of the range's series, in order; in the arena. */
bool sorted_symbols(const struct sorted *q, struct arena *arena, const struct slice **ret, size_t *ret_n, struct err *err);
void sorted_close(struct sorted *q); /* its files go; also half-open */
void samples_path(const struct samples *s, const struct range *range, int run, char *out, size_t cap); /* run < 0: the range's own */
