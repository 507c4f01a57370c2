/*
 * Writes an index as a stream: header and symbols at open, series as they come, postings and tables at finish. Byte for byte what Prometheus writes for
 * the same symbols and series.
 *
 * Memory: the symbols with 16 bytes each, 24 bytes a pair of name and value, 8 bytes a series, 4 bytes a label of a series (all of these arrays double),
 * and at finish 32 bytes a pair and at most INDEX_POSTINGS_BUFFER more, or 4 bytes a series where that is more. One thread.
 */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/buf.h"
#include "base/err.h"
#include "base/slice.h"
#include "model/labels.h"
#include "storage/block/index.h"
#include "storage/block/out_int.h"

#define INDEX_POSTINGS_BUFFER ((size_t)64 << 20)

struct index_pair {
    uint32_t name, value; /* positions of symbols */
    uint32_t n;           /* series that have it */
};

struct written_series {
    uint32_t ref;
    uint32_t n_labels;
};

struct index_writer {
    struct out out;
    char *text;          /* owned: all symbols, one behind the other */
    uint64_t *text_at;   /* owned: n_symbols + 1 */
    uint32_t *symbol_slots; /* owned: hash table of position + 1 */
    uint32_t n_symbols, symbol_mask;
    struct index_pair *pairs; /* owned */
    uint32_t n_pairs, cap_pairs;
    uint32_t *pair_slots; /* owned: hash table of index + 1 */
    uint32_t pair_mask;
    struct written_series *series; /* owned */
    size_t n_series, cap_series;
    uint32_t *ids; /* owned: pairs of all series, one behind the other */
    size_t n_ids, cap_ids;
    uint32_t *current; /* owned: the pairs of the series at hand */
    size_t cap_current;
    struct buf entry;
    uint64_t series_from;
    size_t postings_buffer; /* bytes */
};

bool index_writer_open(struct index_writer *w, const char *dir, const struct slice *symbols, size_t n_symbols, struct err *err);
/* ERR_INTERNAL when the series is not behind the last one, or has a label that is no symbol. */
bool index_writer_add(struct index_writer *w, const struct labels *labels, const struct index_chunk *chunks, size_t n_chunks, struct err *err);
bool index_writer_finish(struct index_writer *w, uint64_t *ret_size, struct err *err);
void index_writer_release(struct index_writer *w);
