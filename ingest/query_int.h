/*
 * Reading a head: what the queryable asks for, for one tenant. Any thread; the head's locks are taken here.
 */
#pragma once

#include "ingest/head_int.h"
#include "storage/queryable.h"

/*
 * The refs of the shard's series that all matchers match, ascending, in the arena. The caller holds the shard's lock or
 * a swapped-out data. False: the arena is full.
 */
bool postings_select(const struct shard_data *d, const struct matcher *matchers, size_t n, struct arena *arena,
                     const uint32_t **ret, size_t *ret_n);

/* Has the series a sample in [min_t, max_t], as far as chunks tell? */
bool series_overlaps(const struct shard_data *d, uint32_t ref, int64_t min_t, int64_t max_t);
/* Its chunks in that range, without a look at the disk. */
uint32_t series_count_chunks(const struct shard_data *d, uint32_t ref, int64_t min_t, int64_t max_t);
/* Its labels; the strings live as long as d. False: the arena is full. */
bool series_materialise_labels(const struct shard_data *d, uint32_t ref, struct arena *arena, struct labels *ret);

/* Before refs[0] is looked at, under the shard's lock: asks for the lines of those that come after it, of n in all. */
void series_fetch_ahead(const struct shard_data *d, const uint32_t *refs, size_t n);

/*
 * Chunks of series on their way to a query: what has to be taken under the shard's lock is taken by series_take_chunks.
 * Full chunks are only named then, since looking at them may read the disk; series_read_full_chunks does that when the
 * lock is gone. Bytes live as long as the taker and the arena.
 */
struct chunk_taker {
    struct head *head;
    struct chunk_pins pins;
    int64_t min_t;
    int64_t max_t;
    uint64_t mark;      /* 0 = all chunks; else only full ones below the mark and older than `cut`: those that a cut takes */
    int64_t cut;
    uint64_t n_samples; /* handed out so far */
    uint64_t n_damaged; /* left out so far */
};
void chunk_taker_init(struct chunk_taker *s, struct head *h, int64_t min_t, int64_t max_t);
void chunk_taker_release(struct chunk_taker *s);

/* Of one series; to be zeroed before. */
struct taken_chunks {
    struct series_chunk *chunks; /* room for all; open and late ones stand in it, and at last all by min_t */
    size_t n_chunks;
    const struct chunk_entry *full; /* copied */
    size_t n_full;
    const struct shard_data *from;
};
/* False: the arena is full. A damaged chunk is counted and left out: the rest of the series is still good. */
bool series_take_chunks(struct chunk_taker *s, const struct shard_data *d, uint32_t ref, struct arena *arena,
                        struct taken_chunks *out);
/* Before taken[0] is read: asks for chunks of those that come after it, of n in all. */
void taken_fetch_ahead(const struct chunk_taker *s, const struct taken_chunks *taken, size_t n);
bool series_read_full_chunks(struct chunk_taker *s, struct taken_chunks *taken, struct arena *arena);

/* Is the entry one of those that a cut takes out of the head? */
static inline bool chunk_in_cut(const struct chunk_entry *e, uint64_t mark, int64_t cut)
{
    return chunk_below(e, mark) && e->min_t + e->span_ms < cut;
}

bool query_memory_error(const struct ctx *ctx, struct err *err);

struct series_set *head_select(struct head *h, struct ctx *ctx, const struct select_params *p, struct err *err);
/*
 * Of a set of head_select, before its first next: the chunks that it has of these series, none of those that it does not have. It will not give them again, and
 * counts them as given. ret[i].labels are left alone. False: the arena is full.
 */
#define HEAD_SET_TAKE_MAX 256u
bool head_set_take(struct series_set *set, struct arena *mem, const struct series_hash *hashes, size_t n, struct series *ret);
bool head_label_names(struct head *h, struct ctx *ctx, const struct select_params *p, const struct slice **ret,
                      size_t *ret_n, struct err *err);
bool head_label_values(struct head *h, struct ctx *ctx, struct slice name, const struct select_params *p,
                       const struct slice **ret, size_t *ret_n, struct err *err);
bool head_exemplars(struct head *h, struct ctx *ctx, const struct select_params *p, const struct exemplar_series **ret,
                    size_t *ret_n, struct err *err);
