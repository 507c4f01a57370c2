/*
 * A TSDB block: a folder <ULID>/ of chunks/000001..., index, meta.json, tombstones, byte-compatible with Prometheus and Mimir (docs/formats.md 6).
 *
 * Writing streams: symbols first, then series in the order of their labels, each with its chunks; memory is the symbols, 8 bytes a series, 4 bytes a
 * label of a series and a bounded buffer (README.md). Nothing is visible before block_writer_finish has synced everything and renamed the folder; a
 * writer that is dropped leaves nothing behind. Reading maps the files and checks every checksum and every bound before it believes a byte: a damaged
 * file is ERR_CORRUPT that names file and offset.
 *
 * A reader may be used by any number of threads; a writer and an iterator by one.
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
#include "storage/block/meta.h"
#include "storage/block/ulid.h"
#include "storage/queryable.h"

/* --- writing ---------------------------------------------------------------------------------------------------------------- */

struct block_writer;

/*
 * Writes <dir>/<ulid>. symbols: sorted, unique, every label name and value that will come (a superset is fine), read during the call. meta holds what the
 * writer cannot know: times, compaction, labels, source; ulid too. Stats and files are the writer's.
 * ERR_CONFLICT when the block is there already; ERR_TOO_LARGE, here or later, when it outgrows what an index can say.
 */
struct block_writer *block_writer_new(const char *dir, const struct block_meta *meta, const struct slice *symbols, size_t n_symbols,
                                      struct err *err);
/* Series in strictly ascending order of labels; chunks by time, not overlapping, within the block's times; else ERR_INTERNAL, and the writer is done for. */
bool block_writer_add(struct block_writer *w, const struct labels *labels, const struct series_chunk *chunks, size_t n_chunks, struct err *err);
/* Makes the block durable and visible. ret_meta: as written, strings in the arena; may be NULL. */
bool block_writer_finish(struct block_writer *w, struct arena *arena, struct block_meta *ret_meta, struct err *err);
/* Removes what an unfinished writer has made. NULL is fine. */
void block_writer_free(struct block_writer *w);
/* Clears away what writers of a killed process left in dir. For the start, when no writer is at work there. */
bool block_remove_unfinished(const char *dir, struct err *err);

/* --- reading ---------------------------------------------------------------------------------------------------------------- */

struct block;

/*
 * Maps the folder; nobody may change its files while they are mapped (removing them is fine). Checks meta.json, TOC, symbols, postings table; series,
 * postings and chunks are checked when they are read. A block with tombstones in it (samples that Prometheus was told to delete) is ERR_BAD_DATA.
 */
struct block *block_open(const char *dir, struct err *err);
void block_close(struct block *b); /* NULL is fine */
const struct block_meta *block_meta_of(const struct block *b);
/*
 * Takes the pages that were read out of this process's memory; the system keeps them as it likes, and what is read again comes back. For who goes over a large
 * block once: what it has read would otherwise count as its memory until the block is closed. Any thread.
 */
void block_forget_pages(const struct block *b);
/*
 * Everything read once: every checksum, every order, every reference, and the counts and times of meta.json; the first fault. Chunks of a series that
 * overlap are a fault here, though every reader copes with them.
 */
bool block_verify(struct block *b, struct err *err);
/* The same, broken off when ctx ends. */
bool block_verify_within(struct block *b, const struct ctx *ctx, struct err *err);

/*
 * Series by ascending labels, with the chunks that touch [min_t, max_t]; a series_set as of any store (storage/queryable.h). Bytes point into the
 * mapping: they, and those of names and values, are valid until block_close.
 */
struct series_set *block_select(struct block *b, struct ctx *ctx, const struct select_params *p, struct err *err);
bool block_label_names(struct block *b, struct ctx *ctx, const struct select_params *p, const struct slice **ret, size_t *ret_n, struct err *err);
bool block_label_values(struct block *b, struct ctx *ctx, struct slice name, const struct select_params *p, const struct slice **ret, size_t *ret_n,
                        struct err *err);
/* All symbols in order, for whoever merges blocks; *ret NULL when the arena is used up. */
size_t block_symbols(const struct block *b, const struct slice **ret, struct arena *arena);
size_t block_n_symbols(const struct block *b);
struct slice block_symbol(const struct block *b, size_t i); /* in order; i < block_n_symbols */

/*
 * All series in order of their labels with all their chunks, for whoever merges or verifies blocks: the memory is that of one series, which is valid until
 * the next call. *ret_more false: the end. The block must outlive the scan; a scan is used by one thread.
 */
struct block_scan;
struct block_scan *block_scan_new(const struct block *b, struct err *err);
bool block_scan_next(struct block_scan *s, struct series *ret, bool *ret_more, struct err *err);
/* The same without chunks, which are not read: labels, and the numbers of their symbols, two a label. */
bool block_scan_next_labels(struct block_scan *s, struct labels *ret, const uint32_t **ret_symbols, bool *ret_more, struct err *err);
void block_scan_free(struct block_scan *s); /* NULL is fine */
