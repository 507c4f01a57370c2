/*
 * Series that come from several sources: label sets by their labels, chunks merged by time, lists of strings.
 *
 * Plain data, no state of its own: whoever owns a table is its only user, and memory is the caller's arena.
 */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/arena.h"
#include "base/ctx.h"
#include "model/labels.h"
#include "storage/queryable.h"

/* --- a table of label sets ------------------------------------------------------------------------------------------------------ */

/* First member of what a table has of each label set. */
struct known_labels {
    struct labels labels;
    uint64_t hash;
};

/* Open addressing; no removal. All zero but entry_bytes: empty. */
struct labels_table {
    struct known_labels **slots; /* arena */
    size_t cap;                  /* power of two */
    size_t n;
    size_t entry_bytes; /* of the struct that begins with a struct known_labels */
};

/* Finds, or makes one that is zero otherwise. copy: the labels' bytes are copied when it is made. NULL: the arena is used up. */
void *labels_table_get(struct labels_table *t, struct arena *arena, struct labels labels, bool copy);
/* NULL: there is none. */
void *labels_table_find(const struct labels_table *t, struct labels labels);

/* --- chunks ----------------------------------------------------------------------------------------------------------------------- */

/* Merges two lists by their beginnings into out, which has room for both; of equal chunks one stays. Those of a come first among others that begin together. */
size_t chunks_merge(const struct series_chunk *a, size_t n_a, const struct series_chunk *b, size_t n_b, struct series_chunk *out);
/* Are there two equal ones side by side? */
bool chunks_repeat(const struct series_chunk *chunks, size_t n);

/* --- answers ------------------------------------------------------------------------------------------------------------------------ */

/* Sorts and drops doubles, in place. Returns how many are left. */
size_t strings_sort_unique(struct slice *strings, size_t n);
/* ERR_MAX_SERIES_PER_QUERY with Mimir's text. Returns false. */
bool query_over_series(uint64_t limit, struct err *err);
/* ERR_MAX_QUERY_MEMORY: ctx's arena is used up. Returns false. */
bool query_over_memory(const struct ctx *ctx, struct err *err);
