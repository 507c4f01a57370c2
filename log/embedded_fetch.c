/*
 * Reading: from the hints of the newest records, from sealed segments without a copy, from the active segment with one.
 *
 * Any thread. The lock is held to find the segment and to take hints; reading is done without it, on a reference to the
 * segment. A sealed segment's file never changes, so slices may point into its mapping as long as the batch pins the
 * segment. In the active segment LMDB reuses pages two commits later, so its bytes are copied inside a read
 * transaction.
 */
#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "base/assert.h"
#include "base/clock.h"
#include "base/logger.h"
#include "log/embedded_int.h"

struct pin {
    struct embedded *e;
    struct segment *seg;
};

/* What one look into a segment is to find. */
struct scan {
    struct embedded *e;
    struct segment *seg;
    struct seg_env *env;
    int32_t partition;
    int64_t from; /* first offset that is wanted */
    int64_t end;  /* first one that is not there yet */
    bool sealed;
};

static void unpin(void *arg)
{
    struct pin *pin = arg;
    segments_unref(pin->e, pin->seg);
    free(pin);
}

static bool batch_push(struct plog_batch *b, size_t *cap, const struct plog_record *r)
{
    if (b->n == *cap) {
        size_t more = *cap ? 2 * *cap : 16;
        struct plog_record *records = ARENA_ARRAY(&b->arena, struct plog_record, more);
        if (!records)
            return false;
        if (b->n)
            memcpy(records, b->records, b->n * sizeof(*records));
        b->records = records;
        *cap = more;
    }
    b->records[b->n++] = *r;
    return true;
}

static bool copy_bytes(struct arena *arena, struct plog_record *r)
{
    struct slice tenant = arena_dup(arena, r->tenant), value = arena_dup(arena, r->value);
    bool ok = (tenant.p || !r->tenant.n) && (value.p || !r->value.n);
    r->tenant = tenant;
    r->value = value;
    return ok;
}

static void report_damaged(const struct scan *s, int64_t offset)
{
    metric_inc(s->e->m.corrupt_records);
    LOG_ERROR("a record of the log is damaged and is passed over", {"dir", LOG_STR(s->e->dir)},
              {"segment", LOG_U64(s->seg->id)}, {"partition", LOG_I64(s->partition)}, {"offset", LOG_I64(offset)});
}

/* Reads records into ret; *ret_next is the offset after the last one that was looked at. Returns an LMDB code. */
static int scan_cursor(const struct scan *s, MDB_cursor *cursor, size_t max_bytes, struct plog_batch *ret,
                       int64_t *ret_next)
{
    uint64_t from = (uint64_t)s->from;
    MDB_val key = {sizeof(from), &from}, value;
    size_t cap = 0, bytes = 0;
    int rc = mdb_cursor_get(cursor, &key, &value, MDB_SET_RANGE);
    for (; rc == 0; rc = mdb_cursor_get(cursor, &key, &value, MDB_NEXT)) {
        int64_t offset;
        memcpy(&offset, key.mv_data, sizeof(offset));
        if (offset >= s->end || (ret->n && bytes + value.mv_size > max_bytes))
            return 0;
        *ret_next = offset + 1;
        struct plog_record r;
        if (!embedded_record_decode(slice_make(value.mv_data, value.mv_size), s->partition, offset, true, &r)) {
            report_damaged(s, offset);
            continue;
        }
        bytes += value.mv_size;
        if ((!s->sealed && !copy_bytes(&ret->arena, &r)) || !batch_push(ret, &cap, &r)) {
            *ret_next = offset; /* out of memory: what is there goes out */
            return ret->n ? 0 : ENOMEM;
        }
    }
    if (rc == MDB_NOTFOUND)
        *ret_next = s->end;
    return rc == MDB_NOTFOUND ? 0 : rc;
}

static int scan_read(const struct scan *s, size_t max_bytes, struct plog_batch *ret, int64_t *ret_next)
{
    MDB_txn *txn = NULL;
    MDB_cursor *cursor = NULL;
    int rc = embedded_fault(s->e, "read");
    if (rc == 0)
        rc = mdb_txn_begin(s->env->env, NULL, MDB_RDONLY, &txn);
    if (rc == 0)
        rc = mdb_cursor_open(txn, s->env->dbi[s->partition], &cursor);
    if (rc == 0)
        rc = scan_cursor(s, cursor, max_bytes, ret, ret_next);
    if (cursor)
        mdb_cursor_close(cursor);
    if (txn)
        mdb_txn_abort(txn);
    return rc;
}

/* After a read error: a damaged segment is passed over from now on, anything else is the caller's to retry. */
static bool give_up_segment(const struct scan *s, int rc, struct err *err)
{
    struct err why = ERR_NONE;
    embedded_mdb_err(s->e, &why, rc, "reading a segment");
    if (why.code != ERR_CORRUPT) {
        if (err)
            *err = why;
        return false;
    }
    LOG_ERROR("a segment of the log is damaged and is passed over", {"dir", LOG_STR(s->e->dir)},
              {"segment", LOG_U64(s->seg->id)}, {"err", LOG_ERR(&why)});
    metric_inc(s->e->m.corrupt_segments);
    pthread_mutex_lock(&s->e->lock);
    s->seg->bad = true;
    pthread_mutex_unlock(&s->e->lock);
    return true;
}

/*
 * One look into the segment that holds `*offset` or what comes after it. True with ret->n == 0: nothing readable there,
 * *offset has moved on. Called with a reference on s->seg, which is given to the batch or back.
 */
static bool read_segment(struct scan *s, size_t max_bytes, struct plog_batch *ret, int64_t *offset, struct err *err)
{
    struct err why = ERR_NONE;
    int64_t next = s->end;
    bool ok = true;
    s->env = segments_env(s->e, s->seg, &why);
    if (s->env) {
        if (s->env->writable)
            s->sealed = false; /* sealed a moment ago, but still the writer's environment: its mapping ends with it */
        int rc = scan_read(s, max_bytes, ret, &next);
        ok = rc == 0 || ret->n > 0 || give_up_segment(s, rc, err);
    } else if (why.code != ERR_CORRUPT && why.code != ERR_NOT_FOUND) {
        ok = false;
        if (err)
            *err = why;
    }
    *offset = next;
    if (ok && ret->n && s->sealed) {
        struct pin *pin = malloc(sizeof(*pin));
        ASSERT(pin);
        *pin = (struct pin){s->e, s->seg};
        ret->pin = pin;
        ret->unpin = unpin;
    } else {
        segments_unref(s->e, s->seg);
    }
    return ok;
}

/* Waits until a record at offset can be there; caller holds e->lock. */
static void wait_for_more(struct embedded *e, struct embedded_part *part, int64_t offset, int64_t until_ns)
{
    struct timespec until = {.tv_sec = until_ns / 1000000000, .tv_nsec = until_ns % 1000000000};
    while (part->next <= offset && !part->woken)
        if (pthread_cond_timedwait(&part->more, &e->lock, &until) == ETIMEDOUT)
            return;
    if (part->next <= offset)
        part->woken = false;
}

/*
 * Looks at hints, then segments, from *offset on until there is a record or the end. Called with e->lock held; returns
 * without.
 */
static bool fetch_from(struct embedded *e, int32_t partition, size_t max_bytes, int64_t *offset, struct plog_batch *ret,
                       struct err *err)
{
    const struct embedded_part *part = &e->part[partition];
    while (*offset < part->next) {
        if (tail_take(e, partition, *offset, max_bytes, ret)) {
            pthread_mutex_unlock(&e->lock);
            *offset += (int64_t)ret->n;
            metric_add(e->m.fetched_hints, (double)ret->n);
            return true;
        }
        struct scan s = {.e = e, .partition = partition, .seg = segments_find(e, partition, *offset)};
        if (!s.seg) { /* what was there is lost */
            *offset = part->next;
            break;
        }
        s.from = MAX(*offset, s.seg->part[partition].first);
        s.end = s.seg->part[partition].end;
        s.sealed = s.seg->sealed;
        pthread_mutex_unlock(&e->lock);
        if (!read_segment(&s, max_bytes, ret, offset, err))
            return false;
        if (ret->n) {
            metric_add(e->m.fetched_disk, (double)ret->n);
            return true;
        }
        pthread_mutex_lock(&e->lock);
    }
    pthread_mutex_unlock(&e->lock);
    return true;
}

bool embedded_fetch(struct plog *log, int32_t partition, int64_t offset, size_t max_bytes, int64_t timeout_ms,
                    struct plog_batch *ret, struct err *err)
{
    struct embedded *e = CONTAINER_OF(log, struct embedded, base);
    struct embedded_part *part = &e->part[partition];
    *ret = (struct plog_batch){0};
    arena_init(&ret->arena, 0);
    offset = MAX(offset, 0);
    pthread_mutex_lock(&e->lock);
    if (offset > part->next) {
        int64_t next = part->next;
        pthread_mutex_unlock(&e->lock);
        return err_set(err, ERR_NOT_FOUND,
                       "offset %" PRId64 " is beyond the end of partition %" PRId32 ", which is %" PRId64, offset,
                       partition, next);
    }
    /* After damaged records with nothing behind them it waits as at the end: no caller turns in circles. */
    int64_t until_ns = clock_mono_ns() + MIN(MAX(timeout_ms, 0), 86400 * 1000LL) * 1000000;
    for (int64_t from = -1; offset != from && !ret->n;) {
        from = offset;
        wait_for_more(e, part, offset, until_ns);
        if (!fetch_from(e, partition, max_bytes, &offset, ret, err)) {
            plog_batch_release(ret);
            return false;
        }
        pthread_mutex_lock(&e->lock);
    }
    ret->complete_ms = offset >= part->next ? clock_mono_ms() : 0;
    pthread_mutex_unlock(&e->lock);
    ret->next_offset = offset;
    return true;
}

/* --- by time --- */

/* First record of a segment with timestamp >= t; -1 when none. Headers only: one page a record. */
static int scan_time(const struct scan *s, int64_t t, int64_t *ret_offset)
{
    MDB_txn *txn = NULL;
    MDB_cursor *cursor = NULL;
    MDB_val key, value;
    int rc = mdb_txn_begin(s->env->env, NULL, MDB_RDONLY, &txn);
    if (rc == 0)
        rc = mdb_cursor_open(txn, s->env->dbi[s->partition], &cursor);
    *ret_offset = -1;
    while (rc == 0 && (rc = mdb_cursor_get(cursor, &key, &value, MDB_NEXT)) == 0) {
        int64_t offset;
        struct plog_record r;
        memcpy(&offset, key.mv_data, sizeof(offset));
        if (offset >= s->end)
            break;
        if (embedded_record_decode(slice_make(value.mv_data, value.mv_size), s->partition, offset, false, &r) &&
            r.timestamp_ms >= t) {
            *ret_offset = offset;
            break;
        }
    }
    if (cursor)
        mdb_cursor_close(cursor);
    if (txn)
        mdb_txn_abort(txn);
    return rc == MDB_NOTFOUND ? 0 : rc;
}

/* The oldest segment from `offset` on whose newest record is not before t, with a reference. Caller holds e->lock. */
static struct segment *find_time(struct embedded *e, int32_t partition, int64_t offset, int64_t t)
{
    for (size_t i = 0; i < e->n_segs; i++) {
        struct segment *seg = e->segs[i];
        if (partition >= seg->n_partitions || seg->bad)
            continue;
        const struct seg_part *part = &seg->part[partition];
        if (part->end > MAX(part->first, offset) && part->max_ms >= t) {
            seg->refs++;
            return seg;
        }
    }
    return NULL;
}

bool embedded_offset_at(struct plog *log, int32_t partition, int64_t t, int64_t *ret_offset, struct err *err)
{
    struct embedded *e = CONTAINER_OF(log, struct embedded, base);
    int64_t offset = 0, found = -1;
    pthread_mutex_lock(&e->lock);
    for (;;) {
        int64_t next = e->part[partition].next;
        struct scan s = {.e = e, .partition = partition, .seg = find_time(e, partition, offset, t)};
        if (s.seg)
            s.end = s.seg->part[partition].end;
        pthread_mutex_unlock(&e->lock);
        if (!s.seg) {
            *ret_offset = next;
            return true;
        }
        struct err why = ERR_NONE;
        s.env = segments_env(e, s.seg, &why);
        int rc = s.env ? scan_time(&s, t, &found) : 0;
        bool ok = rc == 0 || give_up_segment(&s, rc, err);
        if (!s.env && why.code != ERR_CORRUPT && why.code != ERR_NOT_FOUND) {
            ok = false;
            if (err)
                *err = why;
        }
        segments_unref(e, s.seg);
        if (!ok)
            return false;
        if (found >= 0) {
            *ret_offset = found;
            return true;
        }
        offset = s.end; /* damaged or removed meanwhile: look further */
        pthread_mutex_lock(&e->lock);
    }
}
