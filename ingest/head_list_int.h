/*
 * The series of one head, listed and sorted without holding a lock: what series_list.h promises of the part that a head has, and where a cut takes its
 * series from. 24 bytes a series, 8 bytes a label until head_list_drop_labels. Used by one thread.
 */
#pragma once

#include "ingest/query_int.h"
#include "ingest/series_list.h"

struct head_list;

/* Only the chunks that a cut takes; strings stay the head's. */
struct head_list_cut {
    uint64_t mark;
    int64_t cut;
};

/* Items lie in ctx->arena, which must outlive the list. cut: NULL = all chunks. NULL: out of memory or time. */
struct head_list *head_list_new(struct head *h, struct ctx *ctx, const struct select_params *p, const struct series_filter *f,
                                const struct head_list_cut *cut, struct err *err);
void head_list_free(struct head_list *l); /* NULL is fine */
size_t head_list_len(const struct head_list *l);
uint64_t head_list_samples(const struct head_list *l); /* handed out so far */
uint64_t head_list_damaged(const struct head_list *l); /* chunks left out so far */
/* As in series_list.h. */
bool head_list_labels(const struct head_list *l, size_t i, struct arena *arena, struct labels *ret, uint32_t *ret_chunks);
void head_list_drop_labels(struct head_list *l);
/* False: the arena is full. */
bool head_list_chunks(struct head_list *l, size_t from, size_t n, struct arena *arena, struct series *ret);
bool head_list_buckets(struct head_list *l, size_t from, size_t n, struct arena *arena, uint64_t *ret);
/* All names and values of the list's labels, sorted, each once; malloc'ed, texts as long as the list. */
struct slice *head_list_symbols(const struct head_list *l, size_t *ret_n);
