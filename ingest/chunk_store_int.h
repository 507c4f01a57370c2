/*
 * Chunk store: the full chunks of one tenant, in files that are appended to and read through mappings.
 *
 * File <dir>/NNNNNN (number in decimal, from 000001), little endian:
 *     0   16  magic "BRUNNCHUNKS\0", u32 version 1
 *     then chunks, each 4-byte aligned:
 *     0   u32  low half of XXH3-64 of the bytes from 4 to the end of the data
 *     4   u32  length of the data
 *     8   u16  number of samples
 *    10   u8   encoding (enum chunk_encoding)
 *    11   u8   flags: 1 = out of order
 *    12   data in Prometheus's encoding, zero bytes up to the next multiple of 4
 * What lies past the length that the tenant's checkpoint names is cut off at start: it is written again by the replay.
 * A file is rolled at 64 MiB or, from 1 MiB on, when its samples span four hours, so that truncation can take whole
 * files away. Some of these are kept as <dir>/spare-N, and become new ones: files that are unlinked hold up the log's syncs (base/big_file.h).
 *
 * Appends go to a tail in memory and never fail; chunk_store_flush writes the tail out. At a full disk the tail stays,
 * readers are served from it, and the writer stops consuming when it is over CHUNK_TAIL_MAX. Nothing is ever written
 * through the mapping: a full disk is an error code, not a SIGBUS.
 *
 * Threads: appends by the head's writer; flush and checkpoint by any one thread at a time (`io`); reads by any thread.
 * `lock` guards the list of files and the tail; it is not held across I/O.
 */
#pragma once

#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

#include "base/arena.h"
#include "base/err.h"
#include "base/resident.h"
#include "base/slice.h"
#include "storage/chunk/chunk.h"

#define CHUNK_FILE_HEADER 16u
#define CHUNK_HEADER 12u
#define CHUNK_FILE_BYTES (64u << 20)
#define CHUNK_FILE_MAP ((size_t)192 << 20) /* reserved addresses of a file that still grows */
#define CHUNK_FILE_RESIDENT ((size_t)2 << 20) /* of what readers have touched of a file, so much stays in the page tables */
#define CHUNK_FILE_SPAN_MS (4 * 3600 * 1000ULL)
#define CHUNK_FILE_SHORT (1u << 20) /* a file is not rolled for its span while it is shorter than this */
#define CHUNK_SPARES_MAX 4          /* files that are kept to be written over */
#define CHUNK_TAIL_FLUSH (256u << 10)
#define CHUNK_TAIL_MAX (32u << 20)
#define CHUNK_MAX_DATA (16u << 20)

enum chunk_flag { CHUNK_OUT_OF_ORDER = 1 };

/* Where a full chunk is: 24 bytes, in the series' list. */
struct chunk_entry {
    int64_t min_t;
    uint32_t span_ms; /* max_t - min_t */
    uint32_t file;
    uint32_t pos;
    uint16_t count;
    uint8_t encoding;
    uint8_t flags;
};

/* Of one file, as a checkpoint keeps it. */
struct chunk_file_state {
    uint32_t number;
    uint32_t len;
    int64_t min_t;
    int64_t max_t;
};

struct chunk_file {
    uint32_t number;          /* immutable */
    int fd;                   /* -1: not made yet, or finished and synced; io */
    char *_Atomic map;        /* NULL until the first flush; writer: flusher, readers any */
    size_t map_bytes;         /* with map */
    struct resident_map *resident; /* with map */
    _Atomic uint32_t flushed; /* bytes in the file; release by the flusher, acquire by readers */
    uint32_t len;             /* with the tail; lock */
    uint32_t synced;          /* io */
    int64_t min_t;            /* lock */
    int64_t max_t;            /* lock */
    _Atomic int refs;         /* the store's and one a pin */
    bool dead;                /* no series refers to it; lock */
    bool left_out;            /* dead, and the checkpoint being written does not name it; io */
};

struct chunk_tail_block;

struct chunk_store {
    char *dir;
    pthread_mutex_t io;
    pthread_mutex_t lock;
    struct chunk_file **files; /* by number; the last is appended to */
    size_t n_files;
    uint32_t next_number;
    struct chunk_tail_block *tail_first;
    struct chunk_tail_block *tail_last;
    _Atomic size_t tail_bytes;
    size_t tail_max;             /* CHUNK_TAIL_MAX; less in tests */
    _Atomic int64_t retry_at_ms; /* after a failed flush: not before this (monotonic) */
    bool dir_dirty;              /* a file was made since the folder was synced; io */
    unsigned n_spares;           /* spare-0 ...; io */
};

/* Removes every file of the folder (made when absent). */
struct chunk_store *chunk_store_new(const char *dir, struct err *err);
/* Opens what a checkpoint names, cuts it to length, removes the rest. */
struct chunk_store *chunk_store_open(const char *dir, const struct chunk_file_state *files, size_t n, struct err *err);
void chunk_store_free(struct chunk_store *cs);

/* The head's writer. */
struct chunk_entry chunk_store_append(struct chunk_store *cs, enum chunk_encoding enc, uint8_t flags, int count,
                                      struct slice data, int64_t min_t, int64_t max_t);
/* Writes the tail to its files when it is long enough, or in any case with `all`. */
bool chunk_store_flush(struct chunk_store *cs, bool all, struct err *err);
/* Must the writer wait until the disk takes bytes again? */
static inline bool chunk_store_stalled(const struct chunk_store *cs)
{
    return atomic_load_explicit(&cs->tail_bytes, memory_order_relaxed) >= cs->tail_max;
}

/* For a checkpoint: everything appended so far is made durable; *ret (to free) says what the files are. */
bool chunk_store_sync(struct chunk_store *cs, struct chunk_file_state **ret, size_t *ret_n, struct err *err);
/* After the checkpoint that followed is durable: takes away the files that it did not name. */
void chunk_store_unlink_dead(struct chunk_store *cs);
/* A mark between the chunks appended so far and those to come (chunk_below). */
uint64_t chunk_store_mark(struct chunk_store *cs);
static inline bool chunk_below(const struct chunk_entry *e, uint64_t mark)
{
    return ((uint64_t)e->file << 32 | e->pos) < mark;
}

/* Files that series still refer to, for chunk_store_drop: a byte for each number from `first` on. */
struct chunk_files_used {
    uint32_t first;
    uint32_t n;
    uint8_t *used;
};
/* Of the files there are now; none is used. */
void chunk_files_used_init(struct chunk_files_used *u, struct chunk_store *cs);
void chunk_files_used_release(struct chunk_files_used *u);
static inline void chunk_files_use(struct chunk_files_used *u, uint32_t file)
{
    if (file - u->first < u->n)
        u->used[file - u->first] = 1;
}
/*
 * No series refers to the files that are not used; only those below the mark are looked at: whatever was appended later may not have
 * been seen. How many go with the next checkpoint.
 */
size_t chunk_store_drop(struct chunk_store *cs, const struct chunk_files_used *u, uint64_t mark);
/* Nobody refers to any chunk, and the folder is gone: begins anew with the next number. Those who read go on with what they have pinned. */
void chunk_store_forget(struct chunk_store *cs);
uint64_t chunk_store_disk_bytes(struct chunk_store *cs);

/* What a reader holds so that files stay mapped. Owned by one thread. */
struct chunk_pins {
    struct chunk_store *cs;
    struct chunk_file **files;
    size_t n;
};
void chunk_pins_init(struct chunk_pins *pins, struct chunk_store *cs);
void chunk_pins_release(struct chunk_pins *pins);

enum chunk_read { CHUNK_READ_OK, CHUNK_READ_CORRUPT, CHUNK_READ_NO_MEMORY };
/* The data of a chunk: in the mapping, or copied to the arena when it is not on disk yet. */
enum chunk_read chunk_store_read(struct chunk_pins *pins, const struct chunk_entry *e, struct arena *arena,
                                 struct slice *ret);
/* Asks for the first lines of chunks that are read soon. */
void chunk_pins_fetch(const struct chunk_pins *pins, const struct chunk_entry *e, size_t n);
/* The same of pinned files alone, which may be gone from the store, and are on disk as a whole. Any thread. */
enum chunk_read chunk_pins_read(const struct chunk_pins *pins, const struct chunk_entry *e, struct slice *ret);
