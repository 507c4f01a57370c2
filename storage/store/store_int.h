/* What the files of the room share. */
#pragma once

#include <pthread.h>
#include <stdatomic.h>

#include "base/pool.h"
#include "storage/block/index.h"
#include "storage/store/store.h"

#define METRICS_ROOM store
#define METRICS_DEF "storage/store/store_metrics.def"
#include "base/metrics_table.h"

#define STORE_COMPONENT "store-gateway"

/* --- the index-header: header.c, header_build.c, header_sparse.c --- */

#define HEADER_MAGIC UINT32_C(0xBAAAD792)
#define HEADER_FIXED_BYTES 14 /* before the symbols */
#define HEADER_TOC_BYTES 20
#define HEADER_FILE "index-header"
#define HEADER_SPARSE_FILE "sparse-index-header"
#define HEADER_SYMBOL_SAMPLING 32

/* A label name and its sampled entries in the postings offset table, the first and the last one among them. */
struct header_name {
    struct slice name; /* in the mapping */
    uint32_t first, n; /* in sample_at */
};

/* Immutable after open, but for the table of symbols. */
struct header {
    char *path;         /* owned */
    const uint8_t *p;   /* the mapping */
    size_t n;
    struct index index; /* its path is the object's, for what is decoded from the bucket; symbols are in the mapping */
    uint64_t index_bytes;
    uint64_t postings_end;          /* of the last list in the index */
    uint32_t table_from, table_end; /* offsets, from the table's length word, of the first entry and of what is behind the last one */
    const uint8_t *table;           /* the length word */
    struct header_name *names;      /* owned; in order, without the "" of all postings */
    size_t n_names;
    uint32_t *sample_at; /* owned; n_samples, offsets like table_from */
    size_t n_samples;
    uint32_t sampling;
    pthread_mutex_t symbols_lock;
    atomic_bool has_symbols; /* the table of symbols was made: released by who made it, acquired by readers */
};

/* One entry of the postings offset table. */
struct header_entry {
    struct slice name, value;
    uint64_t offset;
    uint32_t next; /* where the next one is; table_end: there is none */
};

/* Where a list of postings lies in the index. end: at the latest. */
struct header_range {
    uint64_t offset, end;
};

/* Maps and checks; the samples are still to be found. index_name: "<tenant>/<ULID>/index", copied. */
bool header_open(struct header *h, const char *path, const char *index_name, struct err *err);
/* Samples out of the sparse header's bytes, or by a walk over the whole table. */
bool header_load_sparse(struct header *h, struct slice file, struct err *err);
bool header_find_samples(struct header *h, uint32_t sampling, struct err *err);
bool header_encode_sparse(const struct header *h, struct buf *out, struct err *err);
void header_release(struct header *h);
bool header_corrupt(const struct header *h, uint64_t offset, const char *what, struct err *err); /* false */

bool header_entry_at(const struct header *h, uint32_t at, struct header_entry *ret);
const struct header_name *header_find_name(const struct header *h, struct slice name); /* NULL: no series has it */
/* *ret_at 0: there is no such value. */
bool header_find_value(const struct header *h, const struct header_name *name, struct slice value, uint32_t *ret_at, struct err *err);
bool header_range_of(const struct header *h, const struct header_entry *e, struct header_range *ret, struct err *err);
/* Each value in order; false of fn ends the walk with its error. */
typedef bool header_value_fn(void *arg, const struct header_entry *e, struct err *err);
bool header_each_value(const struct header *h, const struct header_name *name, header_value_fn *fn, void *arg, struct err *err);
/* Makes index.symbol_at, once. Any thread. */
bool header_need_symbols(struct header *h, struct err *err);

/* Makes the file from the bucket: beside, synced, checked, renamed. */
bool header_build(struct store *s, const struct ctx *ctx, struct slice index_name, const char *dir, struct err *err);
bool header_write_file(const char *dir, const char *name, struct slice bytes, struct err *err);

/* --- the store and its blocks: store.c --- */

struct store_metrics_of {
    struct metric *requested_bytes, *requested_ranges, *expanded_bytes, *expanded_ranges;
};

enum fetch_kind { FETCH_POSTINGS, FETCH_SERIES, FETCH_CHUNKS, FETCH_KINDS };

struct store {
    struct store_config cfg;
    struct objstore *bucket;
    struct cache *index_cache, *chunks_cache;
    uint64_t ask_bucket_bytes; /* index-headers from this size on ask the bucket for a sparse header */
    struct pool *fetchers;
    struct store_metrics_of kinds[FETCH_KINDS];
    struct metric *refetches, *chunk_refetches, *loads, *load_failures, *load_duration, *unloads, *postings_bytes, *postings_cached_bytes, *built;
};

#define BLOCK_KEY_BYTES 16

struct store_block {
    struct store *store;
    atomic_uint refs;
    struct ulid id;
    char *prefix;                  /* owned; "<tenant>/<ULID>/" */
    uint8_t key[BLOCK_KEY_BYTES];  /* a hash of it, for the caches */
    struct header header;
    pthread_mutex_t lock;
    uint64_t *segment_bytes; /* owned; guarded by lock; n_segments of them, 0 = not known yet */
    size_t n_segments;
};

#define OBJECT_NAME_MAX 256
#define FILE_INDEX UINT32_MAX /* as a file; others are segments from 0 */
/* The name of a file of the block. */
struct slice block_object(const struct store_block *b, uint32_t file, char name[static OBJECT_NAME_MAX]);
bool block_file_bytes(struct store_block *b, const struct ctx *ctx, uint32_t file, uint64_t *ret, struct err *err);
bool block_corrupt(const struct store_block *b, uint32_t file, uint64_t offset, const char *what, struct err *err); /* false */

/* --- ranges: fetch.c --- */

/* Ranges of one file that were joined. */
struct fetch_group {
    uint32_t file;
    uint64_t from, to;
    size_t at; /* of its bytes in fetch.bytes */
    size_t first_range; /* in fetch.ranges; the next group's, or n_ranges, ends them */
};

struct fetch_range {
    uint64_t from, to;
    uint64_t n_wanted;
};

/* What is read at once; reused from time to time, zero-initialised by its owner. */
struct fetch {
    struct fetch_group *groups; /* owned */
    size_t n, cap;
    struct fetch_range *ranges; /* owned; what is wanted of the groups, in their order; those with a small gap are one */
    size_t n_ranges, cap_ranges;
    uint8_t *bytes; /* owned */
    size_t cap_bytes;
    size_t total;    /* bytes of all groups */
    size_t n_wanted, wanted_bytes;
};

void fetch_clear(struct fetch *f);
void fetch_release(struct fetch *f);
/*
 * In ascending order of file and from; joined with the one before where the gap is not larger than max_gap. Returns the group. Bytes of larger gaps are not
 * to be looked at: with a cache they may not be there.
 */
size_t fetch_want(struct fetch *f, uint32_t file, uint64_t from, uint64_t to, uint64_t max_gap);
bool fetch_read(struct store_block *b, const struct ctx *ctx, enum fetch_kind kind, struct fetch *f, struct store_stats *stats, struct err *err);
/* How far a walk over what was read has come; zero-initialised. */
struct fetch_place {
    size_t group, range;
};
/* The bytes at this place, which is not before the one asked for last: *ret_n of them were wanted in one piece. NULL: it is not there. */
const uint8_t *fetch_find(const struct fetch *f, struct fetch_place *at, uint32_t file, uint64_t offset, size_t *ret_n);
/* One range that turned out to be larger; ERR_CORRUPT when the file is shorter. */
bool fetch_one(struct store_block *b, const struct ctx *ctx, enum fetch_kind kind, uint32_t file, uint64_t from, uint64_t n, struct buf *out,
               struct store_stats *stats, struct err *err);

/* --- postings.c --- */

/* The candidates: series that match all matchers but those that are left to be tried on the series themselves. */
struct candidates {
    struct postings postings;       /* in the arena */
    const struct matcher **pending; /* in the arena */
    size_t n_pending;
};
bool postings_find(struct store_block *b, struct ctx *ctx, const struct matcher *const *ms, size_t n_ms, struct candidates *ret, struct store_stats *stats,
                   struct err *err);
