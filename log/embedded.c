/*
 * The embedded back end of the log: one node, LMDB, a folder of segment files.
 *
 * This head is the specification of what is on disk (format 1). Everything is little-endian; LMDB means its data format
 * version 1 (0.9.x), files without sub-folder. "XXH3" is XXH3-64.
 *
 * Folder
 *   LOCK                       empty; flock'ed exclusively by the process that has the log open
 *   meta.mdb                   LMDB environment, see below
 *   <id, 20 digits>.seg        segment, an LMDB environment. Ids ascend; a higher id holds higher offsets of every
 *                              partition
 *   <id>.seg-lock              LMDB's reader table of the segment being written; worthless without its process
 *   <id>.tmp                   a segment being made; worthless
 *
 * Segments
 *   Main tree: key "segment" -> header; names "p00000", "p00001", ... -> one tree a partition (MDB_INTEGERKEY): key u64
 *   offset -> record. One tree a partition, not one tree with the partition in front of the key, because then every put
 *   is an append (MDB_APPEND: no search, no split, tree pages filled to the end), cursors end where the partition ends,
 *   and the keys compare as integers. The price is a tree page more a commit for each partition that is written to.
 *   header   0 u64 XXH3 of what follows, 8 u32 0x47455342 "BSEG", 12 u32 format = 1, 16 u64 id, 24 i64 created (ms),
 *            32 u64 bound of the file's size, 40 u32 number of partitions n, 44 u32 0,
 *            48 n x i64 offset of the first record of each partition
 *   The header is durable, under the final name, before the first record is. Records are only added; when the segment
 *   is complete the file never changes again, and retention removes it whole: nothing is ever deleted inside, so LMDB's
 *   list of free pages stays as short as a commit's few tree pages, and finding room does not become slower with age.
 *   Where segment k+1 exists, records of segment k at or above the first offsets of k+1 are not part of the log: left
 *   by a commit that failed late.
 *
 * Records (values of the partition trees)
 *    0  u64  header sum: XXH3 of bytes 8 .. 40 + key length, seeded with offset ^ partition << 48
 *    8  u64  value sum: XXH3 of the value
 *   16  i64  timestamp, ms
 *   24  u32  version of the value (0, 1, 2)
 *   28  u32  value length
 *   32  u16  key length
 *   34  u8   form: 0 plain, 1 snappy block (enum plog_value_form)
 *   35  u8   format = 1
 *   36  u32  0
 *   40  key (the tenant), value
 *
 * meta.mdb (main tree)
 *   "c" u32be partition, group name ->
 *       0 u64 XXH3 of the key seeded with the offset, 8 i64 last consumed offset
 *   "s" u64be segment id ->
 *       0 u64 XXH3 of what follows seeded with the id, 8 u32 format = 1, 12 u32 partitions n, 16 u64 bound of the
 *       file's size, 24 u64 file size (0 = not complete), 32 i64 created (ms), 40 i64 newest timestamp (ms),
 *       48 n x {i64 first offset, i64 end, i64 oldest timestamp, i64 newest timestamp}
 *   A row comes after its file and goes after it. A row without a file above the newest file means that the file was
 *   lost; else it was retained away. Of a complete segment the row can be made again from the file.
 *
 * What damage is found: bytes of records by their sums, when they are fetched (the record is passed over); tree pages,
 * cut files, headers, before LMDB opens a file of another process (embedded_check.c; the segment is passed over); rows
 * by their sums. Not found: a file that changes while it is open (a read beyond the end of a file that was cut under a
 * running process ends the process, as with any mapped file); an LMDB meta page that fell back to the one before, in a
 * segment without row: its last commit is missing and nothing tells.
 */
#include "log/plog.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <unistd.h>

#include "base/assert.h"
#include "base/clock.h"
#include "base/logger.h"
#include "log/embedded_int.h"

#define SMALL_DISK_BYTES (1024 * 1024)

static bool disk_is_full(const struct embedded *e)
{
    struct statvfs st;
    return statvfs(e->dir, &st) == 0 && (uint64_t)st.f_bavail * st.f_frsize < SMALL_DISK_BYTES;
}

bool embedded_mdb_err(const struct embedded *e, struct err *err, int rc, const char *what)
{
    switch (rc) {
    case MDB_MAP_FULL:
        return err_set(err, ERR_NO_SPACE, "%s: the file in %s has reached its bound", what, e->dir);
    case MDB_CORRUPTED:
    case MDB_PAGE_NOTFOUND:
    case MDB_INVALID:
    case MDB_VERSION_MISMATCH:
    case MDB_BAD_VALSIZE:
    case MDB_INCOMPATIBLE:
        return err_set(err, ERR_CORRUPT, "%s: a file in %s is damaged: %s", what, e->dir, mdb_strerror(rc));
    case MDB_TXN_FULL:
        return err_set(err, ERR_TOO_LARGE, "%s: the request has too many records for one commit", what);
    case MDB_READERS_FULL:
        return err_set(err, ERR_UNAVAILABLE, "%s: more than %d fetches at once", what, EMBEDDED_MAX_READERS);
    case ENOMEM:
        return err_set(err, ERR_NO_MEMORY, "%s in %s: out of memory or address space", what, e->dir);
    case EIO: /* LMDB's word for a short write as well, which is how a disk that fills up shows first */
        if (disk_is_full(e))
            rc = ENOSPC;
        break;
    default:
        break;
    }
    if (rc > 0)
        return err_errno(err, ERR_IO, rc, "%s in %s", what, e->dir);
    return err_set(err, ERR_IO, "%s in %s: %s", what, e->dir, mdb_strerror(rc));
}

/* --- the small functions of the door --- */

static struct embedded *self(struct plog *log)
{
    return CONTAINER_OF(log, struct embedded, base);
}

static bool embedded_offsets(struct plog *log, int32_t partition, int64_t *ret_first, int64_t *ret_next,
                             struct err *err)
{
    (void)err;
    struct embedded *e = self(log);
    pthread_mutex_lock(&e->lock);
    *ret_first = segments_first(e, partition);
    *ret_next = e->part[partition].next;
    pthread_mutex_unlock(&e->lock);
    return true;
}

static bool embedded_commit(struct plog *log, struct slice group, int32_t partition, int64_t offset, struct err *err)
{
    return meta_put_group(self(log), group, partition, offset, err);
}

static bool embedded_committed(struct plog *log, struct slice group, int32_t partition, int64_t *ret_offset,
                               struct err *err)
{
    return meta_get_group(self(log), group, partition, ret_offset, err);
}

static void embedded_set_needed_from(struct plog *log, int32_t partition, int64_t offset)
{
    struct embedded *e = self(log);
    pthread_mutex_lock(&e->lock);
    e->part[partition].needed_from = offset;
    pthread_mutex_unlock(&e->lock);
}

static void embedded_wake(struct plog *log, int32_t partition)
{
    struct embedded *e = self(log);
    pthread_mutex_lock(&e->lock);
    e->part[partition].woken = true;
    pthread_cond_broadcast(&e->part[partition].more);
    pthread_mutex_unlock(&e->lock);
}

/* --- life cycle --- */

static void release(struct embedded *e)
{
    tail_release(e);
    for (size_t i = 0; i < e->n_segs; i++) {
        ASSERT(e->segs[i]->refs == 1); /* batches are released before the log is closed */
        segment_free(e, e->segs[i]);
    }
    free(e->segs);
    meta_close(e);
    for (int32_t p = 0; p < e->base.n_partitions; p++)
        pthread_cond_destroy(&e->part[p].more);
    pthread_cond_destroy(&e->q_more);
    pthread_mutex_destroy(&e->q_lock);
    pthread_mutex_destroy(&e->lock);
    pthread_mutex_destroy(&e->open_lock);
    if (e->lock_fd >= 0)
        close(e->lock_fd);
    if (e->dir_fd >= 0)
        close(e->dir_fd);
    free(e->w_next);
    free(e->dir);
    free(e);
}

static void embedded_close(struct plog *log)
{
    struct embedded *e = self(log);
    pthread_mutex_lock(&e->q_lock);
    e->closing = true;
    pthread_cond_signal(&e->q_more);
    pthread_mutex_unlock(&e->q_lock);
    pthread_join(e->writer, NULL);
    release(e);
}

static const struct plog_ops embedded_ops = {
    .close = embedded_close,
    .produce = embedded_produce,
    .fetch = embedded_fetch,
    .offsets = embedded_offsets,
    .offset_at = embedded_offset_at,
    .commit = embedded_commit,
    .committed = embedded_committed,
    .set_needed_from = embedded_set_needed_from,
    .wake = embedded_wake,
};

static bool check_config(const struct plog_config *cfg, struct err *err)
{
    if (cfg->embedded_partitions < 1 || cfg->embedded_partitions > EMBEDDED_MAX_PARTITIONS)
        return err_set(err, ERR_CONFIG, "-ingest-storage.embedded.partitions=%" PRId64 " must be 1 to %d",
                       cfg->embedded_partitions, EMBEDDED_MAX_PARTITIONS);
    if (cfg->embedded_segment_bytes < EMBEDDED_MIN_SEGMENT_BYTES ||
        cfg->embedded_segment_bytes > EMBEDDED_MAX_SEGMENT_BYTES)
        return err_set(err, ERR_CONFIG,
                       "-ingest-storage.embedded.segment-size-bytes=%" PRIu64 " must be 1 MiB to 64 GiB",
                       cfg->embedded_segment_bytes);
    if (cfg->producer_max_buffered_bytes == 0 || cfg->producer_max_buffered_bytes > EMBEDDED_MAX_SEGMENT_BYTES)
        return err_set(err, ERR_CONFIG,
                       "-ingest-storage.kafka.producer-max-buffered-bytes=%" PRIu64 " must be 1 byte to 64 GiB",
                       cfg->producer_max_buffered_bytes);
    if (cfg->embedded_max_size_bytes && cfg->embedded_max_size_bytes < 2 * cfg->embedded_segment_bytes)
        return err_set(err, ERR_CONFIG,
                       "-ingest-storage.embedded.max-size-bytes=%" PRIu64
                       " must be 0 or hold two segments (-ingest-storage.embedded."
                       "segment-size-bytes=%" PRIu64 ")",
                       cfg->embedded_max_size_bytes, cfg->embedded_segment_bytes);
    return true;
}

static void init_locks(struct embedded *e)
{
    pthread_condattr_t attr;
    pthread_condattr_init(&attr);
    pthread_condattr_setclock(&attr, CLOCK_MONOTONIC);
    pthread_mutex_init(&e->q_lock, NULL);
    pthread_mutex_init(&e->lock, NULL);
    pthread_mutex_init(&e->open_lock, NULL);
    pthread_cond_init(&e->q_more, &attr);
    e->q_want = 1;
    for (int32_t p = 0; p < e->base.n_partitions; p++)
        pthread_cond_init(&e->part[p].more, &attr);
    pthread_condattr_destroy(&attr);
}

static void init_metrics(struct embedded *e)
{
    struct log_writer_metrics writer;
    log_writer_metrics_init(&writer, e->cfg.producer_max_buffered_bytes);
    e->m = (struct embedded_metrics){
        .writer = writer,
        .segments = metric_single(log_metrics[LOG_SEGMENTS]),
        .size_bytes = metric_single(log_metrics[LOG_SIZE_BYTES]),
        .commits = metric_single(log_metrics[LOG_COMMITS]),
        .commit_records = metric_single(log_metrics[LOG_COMMIT_RECORDS]),
        .commit_seconds = metric_single(log_metrics[LOG_COMMIT_SECONDS]),
        .hint_bytes = metric_single(log_metrics[LOG_HINT_BYTES]),
        .fetched_hints = log_metric(LOG_FETCHED_RECORDS, "hint"),
        .fetched_disk = log_metric(LOG_FETCHED_RECORDS, "segment"),
        .corrupt_segments = metric_single(log_metrics[LOG_CORRUPT_SEGMENTS]),
        .corrupt_records = metric_single(log_metrics[LOG_CORRUPT_RECORDS]),
    };
}

/* Makes the folder, and its name durable. Its parent must be there. */
static bool make_dir(struct embedded *e, struct err *err)
{
    if (mkdir(e->dir, 0750) != 0)
        return errno == EEXIST || err_errno(err, ERR_IO, errno, "making the log's folder %s", e->dir);
    char *up = NULL;
    ASSERT(asprintf(&up, "%s/..", e->dir) > 0);
    int fd = open(up, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    bool ok = fd >= 0 && fsync(fd) == 0;
    if (!ok)
        err_errno(err, ERR_IO, errno, "making the name of %s durable", e->dir);
    if (fd >= 0)
        close(fd);
    free(up);
    return ok;
}

/* Takes the folder for this process alone. */
static bool take_dir(struct embedded *e, struct err *err)
{
    e->dir_fd = open(e->dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (e->dir_fd < 0)
        return err_errno(err, ERR_IO, errno, "opening the log's folder %s", e->dir);
    e->lock_fd = openat(e->dir_fd, "LOCK", O_RDWR | O_CREAT | O_CLOEXEC, 0640);
    if (e->lock_fd < 0)
        return err_errno(err, ERR_IO, errno, "opening %s/LOCK", e->dir);
    if (flock(e->lock_fd, LOCK_EX | LOCK_NB) == 0)
        return true;
    if (errno == EWOULDBLOCK)
        return err_set(err, ERR_CONFLICT, "the log in %s is in use by another process", e->dir);
    return err_errno(err, ERR_IO, errno, "locking %s/LOCK", e->dir);
}

static bool start(struct embedded *e, struct err *err)
{
    if (!make_dir(e, err) || !take_dir(e, err) || !meta_open(e, err))
        return false;
    if (fsync(e->dir_fd) != 0) /* meta.mdb's name, when it is new */
        return err_errno(err, ERR_IO, errno, "syncing the folder %s", e->dir);
    if (!embedded_load(e, err))
        return false;
    segments_publish_metrics(e);
    e->housekeeping_ms = clock_mono_ms();
    int rc = pthread_create(&e->writer, NULL, embedded_writer_main, e);
    return rc == 0 || err_errno(err, ERR_NO_MEMORY, rc, "starting the log's writer");
}

struct plog *embedded_open_hooked(const struct plog_config *cfg, const char *dir, const struct embedded_hooks *hooks,
                                  struct err *err)
{
    if (!check_config(cfg, err))
        return NULL;
    size_t n = (size_t)cfg->embedded_partitions;
    struct embedded *e = calloc(1, sizeof(*e) + n * sizeof(struct embedded_part));
    ASSERT(e);
    e->base.ops = &embedded_ops;
    atomic_init(&e->base.n_partitions, (int32_t)n);
    e->cfg = *cfg;
    if (hooks)
        e->hooks = *hooks;
    e->dir = strdup(dir);
    e->w_next = calloc(n, sizeof(*e->w_next));
    ASSERT(e->dir && e->w_next);
    e->dir_fd = e->lock_fd = -1;
    e->q_tail = &e->q_head;
    init_locks(e);
    init_metrics(e);
    if (!start(e, err)) {
        release(e);
        return NULL;
    }
    LOG_INFO("opened the log", {"dir", LOG_STR(e->dir)}, {"partitions", LOG_I64(n)}, {"segments", LOG_U64(e->n_segs)});
    return &e->base;
}

struct plog *plog_open_embedded(const struct plog_config *cfg, const char *dir, struct err *err)
{
    return embedded_open_hooked(cfg, dir, NULL, err);
}
