/*
 * From a folder of files to a list of segments and the next offsets, whatever happened to the last process.
 *
 * Each segment is one of
 *   sealed, with its row   believed without opening it (its size is compared); checked when a reader opens it
 *   unsealed or no row      checked and read through, then its row is written: at most the newest one, and older ones
 *                           after a full disk
 *   damaged                 logged, counted, left where it is, passed over
 * Then: a segment ends at latest where the next one begins (a failed commit may have left records that were never
 * acknowledged); files that a process was making (.tmp) and lock files go; rows of files that retention removed go.
 *
 * An offset is never given out twice. When the newest segments are damaged or lost, their records cannot be counted; so
 * the next offset jumps by the bound of what they could hold (their size in bytes), and it is always above every
 * committed offset. Nothing is appended to a file of an earlier process: the first group makes a new segment.
 */
#include <dirent.h>
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/assert.h"
#include "base/logger.h"
#include "log/embedded_int.h"

struct ids {
    uint64_t *id;
    size_t n;
    size_t cap;
};

struct load {
    struct embedded *e;
    struct segment **row; /* by id, as the key order of meta.mdb gives them */
    size_t n_rows;
    size_t cap_rows;
    struct ids files;
    int64_t *next;      /* by partition: end of what has been loaded so far */
    int64_t *committed; /* by partition: one above the highest committed offset */
};

/* --- what is there --- */

static void on_row(void *arg, struct segment *seg)
{
    struct load *l = arg;
    if (l->n_rows == l->cap_rows) {
        l->cap_rows = l->cap_rows ? 2 * l->cap_rows : 64;
        l->row = reallocarray(l->row, l->cap_rows, sizeof(struct segment *));
        ASSERT(l->row);
    }
    l->row[l->n_rows++] = seg;
}

static void on_committed(void *arg, int32_t partition, int64_t offset)
{
    struct load *l = arg;
    if (partition >= 0 && partition < l->e->base.n_partitions && offset < INT64_MAX)
        l->committed[partition] = MAX(l->committed[partition], offset + 1);
}

static void ids_push(struct ids *ids, uint64_t id)
{
    if (ids->n == ids->cap) {
        ids->cap = ids->cap ? 2 * ids->cap : 64;
        ids->id = reallocarray(ids->id, ids->cap, sizeof(*ids->id));
        ASSERT(ids->id);
    }
    ids->id[ids->n++] = id;
}

static int id_cmp(const void *a, const void *b)
{
    uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;
    return (x > y) - (x < y);
}

/*
 * "<20 digits>.seg" is a segment; of the same form with .tmp or .seg-lock: left by a process that is gone. Other names
 * are not ours.
 */
static void visit_name(struct load *l, const char *name)
{
    char *end;
    size_t digits = strspn(name, "0123456789");
    if (digits != 20)
        return;
    errno = 0;
    uint64_t id = strtoull(name, &end, 10);
    if (errno || id == UINT64_MAX)
        return;
    if (strcmp(end, ".seg") == 0) {
        ids_push(&l->files, id);
    } else if (strcmp(end, ".tmp") == 0 || strcmp(end, ".seg-lock") == 0) {
        if (unlinkat(l->e->dir_fd, name, 0) != 0)
            LOG_WARN("cannot remove a left-over file", {"dir", LOG_STR(l->e->dir)}, {"file", LOG_STR(name)},
                     {"err", LOG_STR(strerror(errno))});
    }
}

static bool read_dir(struct load *l, struct err *err)
{
    DIR *d = opendir(l->e->dir);
    if (!d)
        return err_errno(err, ERR_IO, errno, "reading the folder %s", l->e->dir);
    const struct dirent *entry;
    while ((errno = 0, entry = readdir(d)))
        visit_name(l, entry->d_name);
    int e = errno;
    closedir(d);
    if (e)
        return err_errno(err, ERR_IO, e, "reading the folder %s", l->e->dir);
    if (l->files.n)
        qsort(l->files.id, l->files.n, sizeof(*l->files.id), id_cmp);
    return true;
}

/* --- one segment --- */

/* Takes the row with this id out of the list; NULL when there is none. */
static struct segment *take_row(struct load *l, uint64_t id)
{
    for (size_t i = 0; i < l->n_rows; i++) {
        struct segment *row = l->row[i];
        if (row && row->id == id) {
            l->row[i] = NULL;
            return row;
        }
    }
    return NULL;
}

static uint64_t file_size(const struct embedded *e, uint64_t id)
{
    char *path = segment_path(e, id, ".seg");
    struct stat st;
    uint64_t n = stat(path, &st) == 0 ? (uint64_t)st.st_size : 0;
    free(path);
    return n;
}

/*
 * Records that can no longer be counted: a record takes more than one byte, so no partition has more of them than the
 * file had bytes. Without a row the segment began where the one before it ended. A whole segment that comes later knows
 * better (load_one).
 */
static void jump(struct load *l, const struct segment *row, uint64_t size_bytes)
{
    struct embedded *e = l->e;
    uint64_t span = MAX(size_bytes, MAX(e->cfg.embedded_segment_bytes, row ? row->map_bytes : 0));
    for (int32_t p = 0; p < e->base.n_partitions; p++) {
        int64_t first = row && p < row->n_partitions ? row->part[p].first : l->next[p];
        if (row && row->sealed && p < row->n_partitions)
            l->next[p] = row->part[p].end; /* it had been counted */
        else
            l->next[p] = first + (int64_t)MIN(span, (uint64_t)INT64_MAX / 4);
    }
}

/*
 * A row that fits its file is believed. The file may be a little shorter than noted: pages that were given back are not
 * written.
 */
static bool row_holds(const struct segment *row, uint64_t size_bytes)
{
    return row && row->sealed && size_bytes + 1024 * 4096 >= row->file_bytes && size_bytes > 0;
}

static bool load_one(struct load *l, uint64_t id, struct err *err)
{
    struct embedded *e = l->e;
    struct segment *row = take_row(l, id), *seg = NULL;
    uint64_t size_bytes = file_size(e, id);
    struct err why = ERR_NONE;
    if (row_holds(row, size_bytes)) {
        seg = row;
        row = NULL;
    } else if ((seg = segment_scan(e, id, &why))) {
        if (!meta_put_segment(e, seg, &why))
            LOG_WARN("cannot note what a segment holds", {"dir", LOG_STR(e->dir)}, {"err", LOG_ERR(&why)});
    } else if (why.code != ERR_CORRUPT) {
        segment_free(e, row);
        if (err)
            *err = why;
        return false;
    } else {
        LOG_ERROR("a segment of the log is damaged and is passed over", {"err", LOG_ERR(&why)});
        metric_inc(e->m.corrupt_segments);
        jump(l, row, size_bytes);
    }
    if (seg && seg->n_partitions > e->base.n_partitions) {
        err_set(err, ERR_CONFIG,
                "the log in %s has %" PRId32 " partitions, -ingest-storage.embedded.partitions=%" PRId32
                " would lose some",
                e->dir, seg->n_partitions, e->base.n_partitions);
        segment_free(e, seg);
        segment_free(e, row);
        return false;
    }
    segment_free(e, row);
    if (seg) {
        for (int32_t p = 0; p < seg->n_partitions; p++)
            l->next[p] = seg->part[p].end;
        segments_append(e, seg);
    }
    e->next_id = id + 1;
    return true;
}

/* --- all of them --- */

/* Rows whose file is gone: removed by retention, or, above the newest file, lost. */
static bool settle_rows(struct load *l, struct err *err)
{
    struct embedded *e = l->e;
    for (size_t i = 0; i < l->n_rows; i++) {
        struct segment *row = l->row[i];
        if (!row)
            continue;
        if (row->n_partitions > e->base.n_partitions)
            return err_set(err, ERR_CONFIG,
                           "the log in %s has %" PRId32 " partitions, -ingest-storage.embedded.partitions=%" PRId32
                           " would lose some",
                           e->dir, row->n_partitions, e->base.n_partitions);
        if (row->id >= e->next_id) {
            LOG_ERROR("a segment of the log is missing", {"dir", LOG_STR(e->dir)}, {"segment", LOG_U64(row->id)});
            metric_inc(e->m.corrupt_segments);
            jump(l, row, 0);
            e->next_id = row->id + 1;
        }
        struct err why = ERR_NONE;
        if (!meta_delete_segment(e, row->id, &why))
            LOG_WARN("cannot delete a segment's row", {"dir", LOG_STR(e->dir)}, {"err", LOG_ERR(&why)});
    }
    return true;
}

/* What a failed commit left beyond the acknowledged end is not part of the log. */
static void clip_ends(struct embedded *e)
{
    for (size_t i = 0; i + 1 < e->n_segs; i++) {
        struct segment *seg = e->segs[i];
        const struct segment *next = e->segs[i + 1];
        for (int32_t p = 0; p < MIN(seg->n_partitions, next->n_partitions); p++)
            seg->part[p].end = MAX(seg->part[p].first, MIN(seg->part[p].end, next->part[p].first));
    }
}

static void set_offsets(struct load *l)
{
    struct embedded *e = l->e;
    int32_t n = e->base.n_partitions;
    for (int32_t p = 0; p < n; p++) {
        e->part[p].next = MAX(l->next[p], l->committed[p]);
        e->w_next[p] = e->part[p].next;
    }
    for (int32_t p = 0; p < n; p++)
        e->part[p].needed_from = segments_first(e, p);
}

static bool load_all(struct load *l, struct err *err)
{
    struct meta_visitor v = {.segment = on_row, .committed = on_committed, .arg = l};
    if (!read_dir(l, err) || !meta_visit(l->e, &v, err))
        return false;
    for (size_t i = 0; i < l->files.n; i++)
        if (!load_one(l, l->files.id[i], err))
            return false;
    if (!settle_rows(l, err))
        return false;
    clip_ends(l->e);
    set_offsets(l);
    return true;
}

bool embedded_load(struct embedded *e, struct err *err)
{
    struct load l = {.e = e};
    l.next = calloc((size_t)e->base.n_partitions, sizeof(*l.next));
    l.committed = calloc((size_t)e->base.n_partitions, sizeof(*l.committed));
    ASSERT(l.next && l.committed);
    bool ok = load_all(&l, err);
    for (size_t i = 0; i < l.n_rows; i++)
        segment_free(e, l.row[i]);
    free(l.row);
    free(l.files.id);
    free(l.next);
    free(l.committed);
    return ok;
}
