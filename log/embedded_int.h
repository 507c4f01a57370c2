/*
 * Private to the embedded back end. What the parts are and who may touch what; the story is in README.md, the bytes on
 * disk in embedded.c.
 *
 *   embedded.c            format; open, close, the vtable
 *   embedded_writer.c     the writer thread: group commit, roll, the answer to a full disk
 *   embedded_fetch.c      fetch, offset by timestamp
 *   embedded_tail.c       hints of the newest records
 *   embedded_segment.c    one segment file: make, load, seal, its LMDB environment
 *   embedded_segments.c   the list of segments: references, open environments, retention
 *   embedded_load.c       from a folder of files to a list of segments, whatever happened to the last process
 *   embedded_meta.c       meta.mdb: committed offsets and a row a segment
 *   embedded_record.c     bytes of one record, checksums
 *   embedded_check.c      walks an LMDB file before LMDB trusts it
 *
 * Locks, by rank (one that holds a lock may take only those below it in this list):
 *   meta.lock   meta.mdb. Held across its I/O: taken by commits of offsets and by the writer at a roll, never by
 *               produce or fetch.
 *   open_lock   opening the environment of a sealed segment for reading. Held across that I/O; writer and produce never
 *               take it.
 *   lock        offsets, segments, hints. Short.
 *   q_lock      the queue of produces. Short.
 */
#pragma once

#include <lmdb.h>
#include <pthread.h>
#include <stdbool.h>
#include <stdint.h>

#include "log/plog_int.h"

#define EMBEDDED_MAX_PARTITIONS 1024
#define EMBEDDED_MIN_SEGMENT_BYTES ((uint64_t)1 << 20)
#define EMBEDDED_MAX_SEGMENT_BYTES ((uint64_t)1 << 36)
#define EMBEDDED_GROUP_BYTES                                                                                           \
    (32 * 1024 * 1024) /* a group is closed when it has reached this; one larger request is a group of its own */
#define EMBEDDED_OPEN_SEGMENTS 16 /* sealed segments kept open for reading; more only while readers hold them */
#define EMBEDDED_MAX_READERS 512  /* concurrent fetches from the active segment */

/*
 * Tests only: called at named points. Returns 0 or an errno or LMDB code that is to happen there; may kill the process.
 */
struct embedded_hooks {
    int (*fault)(void *arg, const char *point);
    void *arg;
};

/* --- segments --- */

/* What a segment holds of one partition: offsets first .. end-1. min_ms > max_ms when it holds none. */
struct seg_part {
    int64_t first;
    int64_t end;
    int64_t min_ms;
    int64_t max_ms;
};

/* An open LMDB environment of a segment. Immutable. */
struct seg_env {
    MDB_env *env;
    bool writable; /* opened by the writer: reads need a transaction, as pages are reused */
    int32_t n_partitions;
    MDB_dbi dbi[]; /* by partition */
};

struct segment {
    uint64_t id;          /* immutable */
    uint64_t map_bytes;   /* immutable: bound of the file's size */
    int32_t n_partitions; /* immutable; partitions added later are not in it */
    int64_t created_ms;   /* immutable */
    /* Guarded by embedded.lock; after sealing immutable down to last_ms. */
    bool sealed;
    uint64_t file_bytes;
    int64_t last_ms;     /* newest timestamp, but not after it was written: what retention by age looks at */
    bool bad;            /* found damaged when opened: readers pass over it */
    bool removed;        /* out of the list, file unlinked */
    int remains;         /* of a removed one: its file, to be freed step by step when nobody reads it any more; else -1 */
    uint32_t refs;       /* one by the list, one by each reader */
    uint64_t used_at;    /* for closing the least recently used environment */
    struct seg_env *env; /* NULL = not open. Replaced only when refs says that nobody reads */
    struct seg_part part[];
};

/* --- hints --- */

struct tail_entry;

/*
 * Hints of one partition, by offset: slot[offset & (cap-1)] for base <= offset < end, NULL where there is none. Guarded
 * by embedded.lock.
 */
struct tail {
    struct tail_entry **slot;
    uint32_t cap;
    int64_t base;
    int64_t end;
};

/* --- meta.mdb --- */

struct meta_store {
    pthread_mutex_t lock;
    MDB_env *env; /* NULL after a fatal error: reopened by the next call */
    MDB_dbi dbi;
    char *path;
};

/* --- the log --- */

struct embedded_part {
    int64_t next;        /* offset of the next record to become durable */
    int64_t needed_from; /* retention keeps what is not below */
    struct tail tail;
    pthread_cond_t more; /* next has grown, or woken */
    bool woken;          /* the fetch that waits, or else the next, does not */
};

struct embedded_metrics {
    struct log_writer_metrics writer;
    struct metric *segments, *size_bytes, *commits, *commit_records, *commit_seconds, *hint_bytes, *fetched_hints, *fetched_disk,
        *corrupt_segments, *corrupt_records;
};

struct embedded {
    struct plog base;
    struct plog_config cfg; /* immutable */
    struct embedded_hooks hooks;
    char *dir; /* immutable */
    int dir_fd;
    int lock_fd; /* flock of <dir>/LOCK while open */
    struct embedded_metrics m;
    struct meta_store meta;

    pthread_mutex_t q_lock;
    pthread_cond_t q_more;
    struct plog_produce *q_head; /* guarded by q_lock, as are the next six */
    struct plog_produce **q_tail;
    uint64_t q_bytes; /* queued or being written */
    size_t q_n;       /* queued */
    size_t q_want;    /* the writer sleeps until so many are */
    bool closing;
    pthread_t writer;

    pthread_mutex_t lock;
    struct segment **segs; /* guarded by lock, by id; only the writer changes the list */
    size_t n_segs;
    size_t cap_segs;
    uint64_t use_clock;                                          /* guarded by lock */
    struct tail_entry *tail_oldest, *tail_newest, *tail_dropped; /* guarded by lock */
    uint64_t tail_bytes;

    pthread_mutex_t open_lock;

    /* Owned by the writer (before it starts: by open). */
    struct segment *active; /* last of segs and not sealed, or NULL: made by the next group */
    uint64_t next_id;
    int64_t *w_next;         /* by partition: next while a group is being built */
    size_t in_flight;        /* produces of the last group and those that had come when it was done */
    int64_t commit_ns;       /* how long the last commit took */
    int64_t housekeeping_ms; /* monotonic: when retention runs next */
    bool refusing;           /* last group failed: logged once, and again when it works */

    struct embedded_part part[]; /* by partition; guarded by lock */
};

static inline int embedded_fault(const struct embedded *e, const char *point)
{
    return e->hooks.fault ? e->hooks.fault(e->hooks.arg, point) : 0;
}

/* embedded.c */
struct plog *embedded_open_hooked(const struct plog_config *cfg, const char *dir, const struct embedded_hooks *hooks,
                                  struct err *err);
/* What an LMDB code means: full disk or map, damage, or the machine. `what` begins the text. Returns false. */
bool embedded_mdb_err(const struct embedded *e, struct err *err, int rc, const char *what);

/* embedded_record.c: the value of a record in LMDB (layout in embedded.c). */
#define RECORD_HEADER_BYTES 40
size_t embedded_record_size(const struct plog_record *r);
uint64_t embedded_value_sum(struct slice value);
void embedded_record_encode(char *dst, const struct plog_record *r);
/* Checks the header and, when asked, the value; slices of ret point into raw. False: damaged. */
bool embedded_record_decode(struct slice raw, int32_t partition, int64_t offset, bool check_value,
                            struct plog_record *ret);

/* embedded_check.c. check_free_list: for files that will be written. ERR_CORRUPT names the path and the page. */
bool embedded_check_file(const char *path, bool check_free_list, struct err *err);

/* embedded_meta.c */
bool meta_open(struct embedded *e, struct err *err);
void meta_close(struct embedded *e);
bool meta_put_group(struct embedded *e, struct slice group, int32_t partition, int64_t offset, struct err *err);
bool meta_get_group(struct embedded *e, struct slice group, int32_t partition, int64_t *ret_offset, struct err *err);
bool meta_put_segment(struct embedded *e, const struct segment *seg, struct err *err);
bool meta_delete_segment(struct embedded *e, uint64_t id, struct err *err);
/*
 * fn gets a segment of its own (file not looked at; sealed as the row says) or, partition by partition, the highest
 * committed offsets.
 */
struct meta_visitor {
    void (*segment)(void *arg, struct segment *seg);
    void (*committed)(void *arg, int32_t partition, int64_t offset);
    void *arg;
};
bool meta_visit(struct embedded *e, const struct meta_visitor *v, struct err *err);

/* embedded_segment.c */
char *segment_path(const struct embedded *e, uint64_t id, const char *suffix); /* malloc'ed */
struct segment *segment_new(uint64_t id, int32_t n_partitions);
void segment_free(struct embedded *e, struct segment *seg); /* closes its environment */
/*
 * Makes file and row; first offsets are e->w_next. need_bytes: what the first group takes. Leaves nothing behind on
 * failure.
 */
struct segment *segment_create(struct embedded *e, uint64_t need_bytes, struct err *err);
/*
 * Reads header and records of a file of unknown state. ERR_CORRUPT when it is damaged; seg->sealed is set on success.
 */
struct segment *segment_scan(struct embedded *e, uint64_t id, struct err *err);
/* Opens for reading, after embedded_check_file. */
struct seg_env *segment_env_open(struct embedded *e, const struct segment *seg, bool writable, struct err *err);
void segment_env_close(struct embedded *e, uint64_t id, struct seg_env *env);

/* embedded_segments.c */
void segments_append(struct embedded *e, struct segment *seg); /* takes the list's reference over */
/*
 * The first segment that holds records of the partition at or above offset, with a reference; NULL when none. Caller
 * holds e->lock.
 */
struct segment *segments_find(struct embedded *e, int32_t partition, int64_t offset);
/*
 * The environment of a segment that the caller holds a reference of. NULL: ERR_CORRUPT (now passed over by all) or a
 * retriable error.
 */
struct seg_env *segments_env(struct embedded *e, struct segment *seg, struct err *err);
void segments_unref(struct embedded *e, struct segment *seg);
int64_t segments_first(const struct embedded *e, int32_t partition); /* first retained offset; caller holds e->lock */
uint64_t segments_bytes(struct embedded *e);
/*
 * Writer only. Removes what age and size say; then for each further call of _oldest one that is not needed, false when
 * there is none. now: its space is needed at once.
 */
void segments_retain(struct embedded *e);
bool segments_remove_oldest(struct embedded *e, bool now, const char *reason);
void segments_publish_metrics(struct embedded *e);

/* embedded_load.c */
bool embedded_load(struct embedded *e, struct err *err);

/* embedded_tail.c; caller holds e->lock but for tail_free_dropped and tail_release. */
void tail_append(struct embedded *e, const struct plog_record *r);
/* Moves hints of consecutive records from `offset` on into the batch; false when the first has none. */
bool tail_take(struct embedded *e, int32_t partition, int64_t offset, size_t max_bytes, struct plog_batch *ret);
/* What tail_append pushed out: taken under the lock, freed without it. */
struct tail_entry *tail_dropped(struct embedded *e);
void tail_free_dropped(struct tail_entry *list);
void tail_release(struct embedded *e);

/* embedded_fetch.c */
bool embedded_fetch(struct plog *log, int32_t partition, int64_t offset, size_t max_bytes, int64_t timeout_ms,
                    struct plog_batch *ret, struct err *err);
bool embedded_offset_at(struct plog *log, int32_t partition, int64_t t, int64_t *ret_offset, struct err *err);

/* embedded_writer.c */
void *embedded_writer_main(void *arg);
bool embedded_produce(struct plog *log, struct plog_produce *p, struct err *err);
