/*
 * The index file of a block, read from its bytes (docs/formats.md 6.3): all of them in one mapping (index_open), or sections and entries as they come from
 * elsewhere (what is called decode), for readers of blocks in object stores.
 *
 *   BAAAD700 (BE32)  version u8  symbols  series  [label indices]  postings lists  [label index table]  postings offset table  TOC (52 bytes)
 *
 * Version 2 is what is written today; 3 has the same layout. In version 1 series are not aligned: references of series are byte offsets instead of
 * offsets / 16, and references of symbols are byte offsets instead of positions. Label indices are what only old blocks have; nothing reads them.
 *
 * index_open checks TOC, symbols and postings offset table, and keeps 4 bytes a symbol and a table entry. Series and postings lists are checked at each
 * reading. Whatever is wrong is ERR_CORRUPT with path, offset and what was expected there. Immutable after open; any thread.
 */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/arena.h"
#include "base/err.h"
#include "base/slice.h"
#include "model/labels.h"
#include "model/matcher.h"

#define INDEX_MAGIC UINT32_C(0xBAAAD700)
#define INDEX_HEADER_BYTES 5
#define INDEX_TOC_BYTES 52
#define INDEX_SERIES_ALIGN 16

/* One label name with its run of entries in the postings offset table. */
struct index_name {
    struct slice name;
    uint32_t first;
    uint32_t n;
};

struct index {
    const char *path; /* for messages; not owned */
    const uint8_t *p; /* not owned */
    size_t n;
    uint8_t version;
    bool no_checksums; /* for fuzzing alone: what gets past a checksum is what a checksum's keeper has written, and must be safe too */
    uint64_t series_from, series_to, postings_from, postings_to;
    uint64_t symbols_from;  /* offset of the section; symbol_at counts from here */
    uint32_t *symbol_at;    /* owned */
    uint32_t n_symbols;
    uint64_t entries_from;  /* likewise for the postings offset table */
    uint32_t *entry_at;     /* owned */
    uint32_t n_entries;
    struct index_name *names; /* owned; in order, without the "" of all postings */
    size_t n_names, cap_names;
    uint64_t all_postings;    /* offset of the list of all series */
};

/* Offsets of the sections, from the last bytes of the file. */
struct index_toc {
    uint64_t symbols, series, label_indices, label_indices_table, postings, postings_table;
};

/* INDEX_TOC_BYTES at toc, which end an index of index_bytes: checks them, and takes over where series and postings lie. */
bool index_decode_toc(struct index *ix, const uint8_t *toc, uint64_t index_bytes, struct index_toc *ret, struct err *err);
/* Checks the symbols at this offset of ix->p, which end by `end`, and makes their table. */
bool index_open_symbols(struct index *ix, uint64_t offset, uint64_t end, struct err *err);

bool index_open(struct index *ix, const char *path, const void *p, size_t n, bool no_checksums, struct err *err);
void index_release(struct index *ix);
bool index_corrupt(const struct index *ix, uint64_t offset, const char *what, struct err *err); /* false */
bool index_checksum(const struct index *ix, uint64_t offset, uint64_t n, struct err *err); /* those bytes against the BE32 behind them */

struct slice index_symbol(const struct index *ix, uint32_t i);
/* A reference, as it stands in a series, to the symbol's position. */
bool index_symbol_of_ref(const struct index *ix, uint64_t ref, uint32_t *ret);
const struct index_name *index_find_name(const struct index *ix, struct slice name); /* NULL: no series has it */
struct slice index_entry_value(const struct index *ix, uint32_t entry, uint64_t *ret_offset);
bool index_find_value(const struct index *ix, const struct index_name *name, struct slice value, uint32_t *ret_entry);

/* --- series: index_series.c --- */

struct index_chunk {
    int64_t min_t, max_t;
    uint64_t ref;
};

/* One series decoded; reused from read to read. Zero-initialised by its owner. */
struct index_series {
    struct label *labels; /* owned; slices of the index */
    uint32_t *symbols;    /* owned; 2 a label: the positions of its name and value */
    size_t n_labels, cap_labels;
    struct index_chunk *chunks; /* owned; by min_t */
    size_t n_chunks, cap_chunks;
    bool overlapping; /* chunks were not in order, or share times: old blocks have such series, and readers merge them */
    uint64_t end;     /* offset behind it */
};
bool index_series_read(const struct index *ix, uint32_t ref, struct index_series *ret, struct err *err);
/*
 * The entry at this offset of the index, of which the first n bytes are at p. *ret_need 0: it was read; else it has so many bytes, and n is too few. Needs
 * nothing of ix but its symbols and where its series lie.
 */
bool index_series_decode(const struct index *ix, uint64_t offset, const uint8_t *p, size_t n, struct index_series *ret, size_t *ret_need,
                         struct err *err);
void index_series_release(struct index_series *s);

/* --- postings: index_postings.c --- */

struct postings {
    uint32_t *refs; /* ascending */
    size_t n;
};
bool index_postings_read(const struct index *ix, uint64_t offset, struct arena *arena, struct postings *ret, struct err *err);
/* As index_series_decode. */
bool index_postings_decode(const struct index *ix, uint64_t offset, const uint8_t *p, size_t n_bytes, struct arena *arena, struct postings *ret,
                           size_t *ret_need, struct err *err);
/* Keeps in a what is in b (keep), or what is not. */
void postings_restrict(struct postings *a, const struct postings *b, bool keep);
/* The union of n lists, which are used up. False: the scratch is. */
bool postings_unite(struct postings *lists, size_t n, struct arena *scratch, struct postings *ret, struct err *err);
/* The values that m itself names, where the wanted ones (that match, or that do not) are exactly those: NULL when all must be tried. "" may be one. */
const struct slice *matcher_named_values(const struct matcher *m, bool wants_matching, size_t *ret_n);
/* The series that all matchers match. scratch is for the work, the answer is in arena. ERR_MAX_QUERY_MEMORY when one of them is used up. */
bool index_postings_match(const struct index *ix, const struct matcher *ms, size_t n_ms, struct arena *scratch, struct arena *arena,
                          struct postings *ret, struct err *err);
