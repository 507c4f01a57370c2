/*
 * A shard of a head: series, symbols, postings, open chunks. The data holds no pointers (but for the open histogram
 * chunks, whose appenders belong to storage/chunk): everything is an index into a growable region, so that a checkpoint
 * is the regions as they are.
 *
 *     slots     open addressing, linear; 8 B: 32 bits of the series hash, ref + 1
 *     hot       64 B a series, one cache line: all that an append touches, and the whole hash
 *     cold      16 B a series: where its labels, its full chunks and its out-of-order samples are
 *     labels    u32 each: the symbols of a series' labels in order of label name
 *     symbols   20 B each: a label name, or a value under a name, with the postings of that pair
 *     symslots  open addressing; 8 B: hash, symbol + 1
 *     strings   pages of 64 KiB that never move: u32 length, bytes, 4-byte aligned
 *     slabs     open chunks, lists of full chunks, out-of-order samples, postings of more than two refs
 *
 * Two series are the same when their 128-bit keyed hashes are (model/labels.h says why that is enough): label bytes are
 * neither kept apart nor compared. 32 bits stand in the slot, so a miss hardly ever leaves the table; the whole hash is
 * compared in the hot line that the append needs anyway. Refs are dense, 0 .. n_series - 1, in order of creation, and
 * never reused: postings stay sorted by appending, "all series" needs no postings. Series leave only by the shard being
 * built anew (truncate.c), which makes a new shard_data and drops the old one when its last reader is done.
 *
 * Budget in bytes a series, with 11 labels and 8 shards, as tests/bench/head.c measures it (1M series x 10 samples,
 * 200k x 60):
 *
 *     hot                64    64
 *     slots              17    21    8 B at a load of 3/8 to 3/4
 *     cold               16    16
 *     labels             46    46    4 B a label
 *     symbols, symslots   6     6    20 B + about 12 B of slot a pair, shared by the shard's series that have it
 *     strings             4     4    4 B + the text, likewise
 *     slabs             177   364    postings 57 (4 B a label, lists grow by a half); the rest is the open chunk:
 *                                    16 B + 1..9 B a sample, rounded up to its class, and 20 B of room
 *     together          330   521    resident: 325, 520 (the goal is 600, the limit 800)
 *
 * A label value of which every series has its own costs 20 + 12 + 4 B and its text more.
 *
 * Owned by: see the lock of each member; struct shard has the locks.
 */
#pragma once

#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

#include "ingest/chunk_store_int.h"
#include "ingest/region_int.h"
#include "ingest/slab_int.h"
#include "model/labels.h"
#include "storage/chunk/chunk.h"

#define CHUNK_RANGE_MS (2 * 3600 * 1000LL)
#define OOO_CHUNK_SAMPLES 32
#define OPEN_CHUNK_FIRST_BYTES 48
#define OPEN_CHUNK_CUT_BYTES (CHUNK_MAX_BYTES - 19) /* docs/formats.md 6.7 */
#define SERIES_MAX_LABELS 65535

enum series_flag {
    SERIES_HISTOGRAM = 1, /* the open chunk is of histograms: hot.chunk is index + 1 into shard_data.hists */
};

struct series_hot {
    struct xor_appender app; /* app.t is the newest timestamp, whatever the encoding; of histograms app.v is the open
                                chunk's oldest one */
    struct series_hash hash;
    uint32_t next_at_ms; /* cut before a sample this long (or longer) after the start of the chunk's 2 h range */
    uint32_t chunk;      /* slab of the open chunk, 0 = none */
    uint32_t active_s;   /* when its newest sample was produced, seconds since the epoch */
    uint16_t n_labels;
    uint8_t flags;
    uint8_t chunk_units; /* size of the open chunk's slab, 16 bytes each */
};
_Static_assert(sizeof(struct series_hot) == 64, "the hot part of a series is one cache line");

struct series_cold {
    uint32_t labels; /* index into labels */
    uint32_t chunks; /* slab: struct chunk_entry[] */
    uint32_t n_chunks;
    uint32_t ooo; /* slab: struct ooo_block, 0 = none */
};

struct ooo_sample {
    int64_t t;
    double v;
};

/* Out-of-order samples that fill no chunk yet, sorted, at most OOO_CHUNK_SAMPLES. */
struct ooo_block {
    uint32_t n;
    uint32_t unused;
    struct ooo_sample samples[];
};

struct series_slot {
    uint32_t tag; /* upper half of the hash's low half; the slot's place comes from the lower one */
    uint32_t ref; /* + 1; 0 = free */
};

#define SYMBOL_IS_NAME UINT32_MAX
#define SYMBOL_FIRST_SLOTS 64u

/*
 * A label name (name == SYMBOL_IS_NAME) or a value under the name. `list` of n sorted u32: of a value the refs of the
 * series that have the pair; of a name its values' symbols. Up to two stand in the struct: most pairs of high
 * cardinality have one.
 */
struct symbol {
    uint32_t name;
    uint32_t string;
    uint32_t n;
    uint32_t list[2]; /* n <= 2: the entries; else slab and capacity */
};

struct symbol_slot {
    uint32_t hash;
    uint32_t symbol; /* + 1; 0 = free */
};

#define STRING_PAGE ((size_t)64 << 10)

struct strings {
    char **pages;
    size_t n_pages;
    size_t cap_pages;
    uint64_t used; /* bytes of the address space 0 .. n_pages * STRING_PAGE */
};

struct shard_data {
    _Atomic int refs;
    uint64_t seed; /* of the symbols' hashes */
    uint32_t n_series;
    uint32_t n_symbols;
    uint32_t n_names;
    uint64_t n_full_chunks;
    uint64_t n_ooo_blocks;
    struct region slots;
    struct region hot;
    struct region cold;
    struct region labels;
    struct region symbols;
    struct region symslots;
    struct strings strings;
    struct slabs slabs;
    struct histogram_appender **hists; /* NULL = free place */
    uint32_t n_hists;
    uint32_t cap_hists;
    uint32_t free_hist; /* where to look for a free place */
    struct chunk_pins *_Atomic held; /* once it is swapped out: the chunk files of then, for its last readers. Writer: truncation (release), readers any (acquire) */
};

struct shard {
    pthread_mutex_t writer;  /* held by whoever changes the data, and by the checkpoint */
    pthread_rwlock_t lock;   /* shared: readers; exclusive: while the data changes under them */
    struct shard_data *data; /* changed with writer + lock exclusive; read with either */
    int64_t applied;         /* last offset applied; writer */
};

void shard_init(struct shard *s, uint64_t seed);
void shard_release(struct shard *s);

struct shard_data *shard_data_new(uint64_t seed);
void shard_data_ref(struct shard_data *d);
void shard_data_unref(struct shard_data *d); /* NULL is fine */
/* Bytes in use, for the bench and the metrics. */
struct shard_memory {
    size_t slots, hot, cold, labels, symbols, symslots, strings, slabs, hists;
};
void shard_data_memory(const struct shard_data *d, struct shard_memory *ret);

static inline struct series_hot *series_hot(const struct shard_data *d, uint32_t ref)
{
    return (struct series_hot *)(void *)d->hot.p + ref;
}

static inline struct series_cold *series_cold(const struct shard_data *d, uint32_t ref)
{
    return (struct series_cold *)(void *)d->cold.p + ref;
}

static inline const uint32_t *series_labels(const struct shard_data *d, uint32_t ref)
{
    return (const uint32_t *)(const void *)d->labels.p + series_cold(d, ref)->labels;
}

static inline struct symbol *symbol_at(const struct shard_data *d, uint32_t symbol)
{
    return (struct symbol *)(void *)d->symbols.p + symbol;
}

/* --- series --- */

#define SERIES_NONE UINT32_MAX

static inline uint32_t slot_mask(const struct shard_data *d)
{
    return (uint32_t)(d->slots.n / sizeof(struct series_slot)) - 1;
}

/* Slots are chosen by the low bits of hash.lo, shards by its high ones. */
static inline struct series_slot *slot_first(const struct shard_data *d, struct series_hash h)
{
    return (struct series_slot *)(void *)d->slots.p + ((uint32_t)h.lo & slot_mask(d));
}

/* The ref of a candidate: 32 bits of the hash agree; the caller compares the rest with hot->hash. SERIES_NONE when
 * there is none. */
uint32_t series_probe(const struct shard_data *d, struct series_hash h);
/* The whole look-up. */
uint32_t series_find(const struct shard_data *d, struct series_hash h);
/* Makes the tables of series and of symbols anew, after a load; false when a series or a symbol is there twice. */
bool shard_data_index(struct shard_data *d);
bool symbols_index(struct shard_data *d);
/*
 * Makes a series that is not there out of its canonical labels. No sample in it yet: app.t == INT64_MIN. False on bytes
 * that are no labels (the shard is unchanged but for symbols that nobody uses). metric: the value of __name__, in the
 * shard's strings; may be empty.
 */
bool series_create(struct shard_data *d, struct series_hash h, struct slice canonical, uint32_t *ret_ref,
                   struct slice *ret_metric);
/* For truncation: a series with labels that are symbols of this shard already. */
uint32_t series_add(struct shard_data *d, struct series_hash h, const uint32_t *symbols, uint16_t n);

/* --- symbols and postings --- */

struct slice string_at(const struct shard_data *d, uint32_t string);
static inline struct slice symbol_text(const struct shard_data *d, uint32_t symbol)
{
    return string_at(d, symbol_at(d, symbol)->string);
}
#define SYMBOL_NONE UINT32_MAX
/* name: a name's symbol, or SYMBOL_IS_NAME to look for a name. SYMBOL_NONE when there is none. */
uint32_t symbol_find(const struct shard_data *d, uint32_t name, struct slice text);
uint32_t symbol_intern(struct shard_data *d, uint32_t name, struct slice text);
static inline const uint32_t *symbol_list(const struct shard_data *d, const struct symbol *s)
{
    return s->n <= 2 ? s->list : slab_ptr(&d->slabs, s->list[0]);
}
void symbol_list_add(struct shard_data *d, uint32_t symbol, uint32_t entry);

/* --- chunks --- */

/* Puts an entry at the end of a series' list of full chunks. */
void series_add_chunk(struct shard_data *d, uint32_t ref, struct chunk_entry e);
static inline const struct chunk_entry *series_chunks(const struct shard_data *d, const struct series_cold *c)
{
    return c->n_chunks ? slab_ptr(&d->slabs, c->chunks) : NULL;
}
/* The bytes and the oldest timestamp of the open chunk; {NULL, 0} when there is none. */
struct slice series_open_chunk(const struct shard_data *d, uint32_t ref, enum chunk_encoding *ret_enc,
                               int64_t *ret_min_t);
uint32_t hist_put(struct shard_data *d, struct histogram_appender *a);
static inline struct histogram_appender **hist_at(const struct shard_data *d, uint32_t handle)
{
    return &d->hists[handle - 1];
}
