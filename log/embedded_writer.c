/*
 * The writer: one thread, one LMDB transaction a group, one sync a group.
 *
 *   queue empty -> wait -> linger -> take all that is queued (up to EMBEDDED_GROUP_BYTES) -> room? -> transaction
 *               -> commit (write, sync) -> publish -> done
 *
 * Produces that arrive while a commit runs make the next group, so throughput depends on bytes and syncs, not on the
 * number of producers. Left at that, producers who each wait for their answer fall into two halves, one waiting for
 * the sync of the other, and there are twice the syncs. So the writer lingers before a group for as many produces as
 * were about at the end of the last one, at most half the time that a commit takes: one that comes alone never waits. Each value is copied once, from the producer's memory into LMDB's dirty page; its checksum was
 * made on the producer's thread.
 *
 * When a group fails:
 *   no space      the transaction is aborted by LMDB and the environment is as before. Segments that nobody needs are
 *                 removed and the group tried again; with none left it fails with ERR_NO_SPACE, and so does each
 *                 following one until there is space.
 *   map full      the segment is sealed and the group goes into a new one that is made to hold it.
 *   anything else LMDB may have fallen into its fatal state and the end of the file is in doubt. The segment is sealed
 *                 at the last acknowledged offsets, which later starts keep to (the next segment's first offsets cut
 *                 it off), and the next group begins a new one.
 */
#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/assert.h"
#include "base/clock.h"
#include "base/logger.h"
#include "base/priority.h"
#include "log/embedded_int.h"

#define HOUSEKEEPING_MS 10000
#define SEGMENT_MIN_AGE_MS 60000
#define SEGMENTS_PER_RETENTION                                                                                         \
    12 /* a segment is sealed at this part of the retention period, so that age has whole files to remove */

#define LINGER_MAX_NS 2000000

#define GROUP_TREE_BYTES (16 * 4096) /* tree pages that a commit copies, beside one a partition */

struct group {
    struct plog_produce *head;
    size_t n_records;
    uint64_t value_bytes;
    uint64_t need_bytes; /* in the file, at most */
};

/* --- producers --- */

static const char *reason_of(enum err_code code)
{
    return code == ERR_NO_SPACE ? "no-space" : code == ERR_IO ? "io" : "other";
}

/* Sums and times while the producer's thread has the bytes in its cache, and does not hold up the writer. */
static uint64_t prepare(struct plog_produce *p)
{
    uint64_t value_bytes = log_produce_begin(p);
    p->bytes = 0;
    p->next = NULL;
    for (size_t i = 0; i < p->n; i++) {
        struct plog_record *r = &p->records[i];
        r->value_sum = embedded_value_sum(r->value);
        p->bytes += embedded_record_size(r);
    }
    return value_bytes;
}

static bool enqueue(struct embedded *e, struct plog_produce *p, struct err *err)
{
    uint64_t limit = e->cfg.producer_max_buffered_bytes, waiting;
    pthread_mutex_lock(&e->q_lock);
    bool closing = e->closing;
    bool fits = p->bytes <= limit && e->q_bytes <= limit - p->bytes, enough = false;
    if (fits && !closing) {
        e->q_bytes += p->bytes;
        *e->q_tail = p;
        e->q_tail = &p->next;
        enough = ++e->q_n >= e->q_want || e->q_bytes >= EMBEDDED_GROUP_BYTES;
    }
    waiting = e->q_bytes;
    pthread_mutex_unlock(&e->q_lock);
    if (enough)
        pthread_cond_signal(&e->q_more); /* behind the lock, as below: who wakes finds it free */
    metric_set(e->m.writer.buffered_bytes, (double)waiting);
    if (closing)
        return err_set(err, ERR_UNAVAILABLE, "the log is closing");
    return fits || log_refuse_full(p, waiting, limit, err);
}

bool embedded_produce(struct plog *log, struct plog_produce *p, struct err *err)
{
    struct embedded *e = CONTAINER_OF(log, struct embedded, base);
    size_t n = p->n; /* p may be gone as soon as it is queued */
    metric_add(e->m.writer.input_bytes, (double)prepare(p));
    if (!enqueue(e, p, err)) {
        log_count_failed(n, "buffer-full");
        return false;
    }
    metric_add(e->m.writer.enqueued, (double)n);
    return true;
}

/* --- groups --- */

/* Upper bound of what a record adds to the file: small values lie in tree pages, large ones in runs of pages. */
static uint64_t file_bytes_of(const struct plog_record *r)
{
    uint64_t n = embedded_record_size(r);
    return n < 2000 ? 2 * n + 64 : (n + 16 + 4095) / 4096 * 4096 + 64;
}

static void group_add(struct group *g, const struct plog_produce *p)
{
    for (size_t i = 0; i < p->n; i++) {
        g->n_records++;
        g->value_bytes += p->records[i].value.n;
        g->need_bytes += file_bytes_of(&p->records[i]);
    }
}

/* Caller holds q_lock. */
static void linger(struct embedded *e)
{
    int64_t wait_ns = MIN(e->commit_ns / 2, LINGER_MAX_NS);
    if (e->q_n >= e->in_flight || wait_ns <= 0)
        return;
    int64_t until_ns = clock_mono_ns() + wait_ns;
    struct timespec until = {.tv_sec = until_ns / 1000000000, .tv_nsec = until_ns % 1000000000};
    e->q_want = e->in_flight;
    while (e->q_n < e->q_want && e->q_bytes < EMBEDDED_GROUP_BYTES && !e->closing)
        if (pthread_cond_timedwait(&e->q_more, &e->q_lock, &until) == ETIMEDOUT)
            break;
    e->q_want = 1;
}

/* Waits for produces or until housekeeping is due. False: closing and nothing left. */
static bool take_group(struct embedded *e, struct group *g)
{
    *g = (struct group){0};
    struct plog_produce **tail = &g->head;
    pthread_mutex_lock(&e->q_lock);
    struct timespec until = {.tv_sec = e->housekeeping_ms / 1000, .tv_nsec = e->housekeeping_ms % 1000 * 1000000};
    while (!e->q_head && !e->closing)
        if (pthread_cond_timedwait(&e->q_more, &e->q_lock, &until) == ETIMEDOUT)
            break;
    if (e->q_head)
        linger(e);
    for (uint64_t bytes = 0; e->q_head && (!g->head || bytes + e->q_head->bytes <= EMBEDDED_GROUP_BYTES);) {
        struct plog_produce *p = e->q_head;
        bytes += p->bytes;
        e->q_head = p->next;
        e->q_n--;
        p->next = NULL;
        *tail = p;
        tail = &p->next;
    }
    if (!e->q_head)
        e->q_tail = &e->q_head;
    bool alive = g->head || !e->closing;
    pthread_mutex_unlock(&e->q_lock);
    g->need_bytes = GROUP_TREE_BYTES + (uint64_t)e->base.n_partitions * 4096;
    for (const struct plog_produce *p = g->head; p; p = p->next)
        group_add(g, p);
    return alive;
}

/* Gives the group's bytes back before any done runs, so that a producer woken by one finds room. */
static void finish_group(struct embedded *e, struct group *g, const struct err *err)
{
    uint64_t bytes = 0, waiting;
    size_t n = 0;
    for (const struct plog_produce *p = g->head; p; p = p->next, n++)
        bytes += p->bytes;
    pthread_mutex_lock(&e->q_lock);
    e->q_bytes -= bytes;
    e->in_flight = n + e->q_n;
    waiting = e->q_bytes;
    pthread_mutex_unlock(&e->q_lock);
    metric_set(e->m.writer.buffered_bytes, (double)waiting);
    int64_t now_ns = clock_mono_ns();
    for (struct plog_produce *p = g->head, *next; p; p = next) {
        next = p->next;
        metric_observe(err ? e->m.writer.latency_failed : e->m.writer.latency_ok, (double)(now_ns - p->queued_ns) / 1e9);
        p->done(p, err);
    }
}

/* --- one transaction --- */

static void restore_offsets(struct embedded *e)
{
    for (int32_t p = 0; p < e->base.n_partitions; p++)
        e->w_next[p] = e->part[p].next; /* written by this thread only, so read without the lock */
}

static int put_record(struct embedded *e, MDB_txn *txn, struct plog_record *r)
{
    r->offset = e->w_next[r->partition];
    uint64_t offset = (uint64_t)r->offset;
    MDB_val key = {sizeof(offset), &offset}, value = {embedded_record_size(r), NULL};
    int rc = mdb_put(txn, e->active->env->dbi[r->partition], &key, &value, MDB_APPEND | MDB_RESERVE);
    if (rc)
        return rc;
    embedded_record_encode(value.mv_data, r);
    e->w_next[r->partition]++;
    return 0;
}

/* Returns 0 when the group is durable, else an LMDB code and nothing has changed but w_next. */
static int commit_group(struct embedded *e, const struct group *g)
{
    MDB_txn *txn = NULL;
    int rc = embedded_fault(e, "begin");
    if (rc == 0)
        rc = mdb_txn_begin(e->active->env->env, NULL, 0, &txn);
    for (struct plog_produce *p = g->head; p && rc == 0; p = p->next)
        for (size_t i = 0; i < p->n && rc == 0; i++)
            rc = put_record(e, txn, &p->records[i]);
    if (rc == 0)
        rc = embedded_fault(e, "commit");
    if (rc) {
        if (txn)
            mdb_txn_abort(txn);
        return rc;
    }
    int64_t start_ns = clock_mono_ns();
    rc = mdb_txn_commit(txn); /* aborts by itself when it fails */
    e->commit_ns = clock_mono_ns() - start_ns;
    metric_observe(e->m.commit_seconds, (double)e->commit_ns / 1e9);
    if (rc == 0)
        rc = embedded_fault(e, "committed");
    return rc;
}

static uint64_t env_bytes(MDB_env *env)
{
    MDB_envinfo info;
    MDB_stat stat;
    if (mdb_env_info(env, &info) || mdb_env_stat(env, &stat))
        return 0;
    return ((uint64_t)info.me_last_pgno + 1) * stat.ms_psize;
}

/* The group is durable: makes it visible to readers. */
static void publish_group(struct embedded *e, const struct group *g)
{
    struct segment *seg = e->active;
    uint64_t bytes = env_bytes(seg->env->env);
    pthread_mutex_lock(&e->lock);
    seg->file_bytes = bytes;
    for (struct plog_produce *p = g->head; p; p = p->next) {
        for (size_t i = 0; i < p->n; i++) {
            const struct plog_record *r = &p->records[i];
            struct seg_part *sp = &seg->part[r->partition];
            sp->end = e->part[r->partition].next = r->offset + 1;
            sp->min_ms = MIN(sp->min_ms, r->timestamp_ms);
            sp->max_ms = MAX(sp->max_ms, r->timestamp_ms);
            tail_append(e, r);
        }
    }
    struct tail_entry *dropped = tail_dropped(e);
    double hint_bytes = (double)e->tail_bytes;
    pthread_mutex_unlock(&e->lock);
    for (int32_t p = 0; p < e->base.n_partitions; p++)
        pthread_cond_broadcast(&e->part[p].more);
    tail_free_dropped(dropped);
    metric_set(e->m.hint_bytes, hint_bytes);
    metric_inc(e->m.commits);
    metric_add(e->m.commit_records, (double)g->n_records);
    metric_add(e->m.writer.sent_bytes, (double)g->value_bytes);
}

/* --- segments --- */

static void writer_seal(struct embedded *e)
{
    struct segment *seg = e->active;
    if (!seg)
        return;
    e->active = NULL;
    int64_t now_ms = clock_wall_ms(), newest = INT64_MIN;
    for (int32_t p = 0; p < seg->n_partitions; p++)
        newest = MAX(newest, seg->part[p].max_ms);
    struct seg_env *env = NULL;
    pthread_mutex_lock(&e->lock);
    seg->last_ms = newest == INT64_MIN ? now_ms : MIN(newest, now_ms);
    seg->sealed = true;
    if (seg->refs == 1) { /* else the last reader closes it */
        env = seg->env;
        seg->env = NULL;
    }
    pthread_mutex_unlock(&e->lock);
    segment_env_close(e, seg->id, env);
    embedded_fault(e, "seal");
    struct err err = ERR_NONE;
    if (!meta_put_segment(e, seg, &err)) /* not lost: a start without the row reads the file */
        LOG_WARN("cannot note that a segment of the log is complete", {"dir", LOG_STR(e->dir)}, {"err", LOG_ERR(&err)});
}

static bool active_is_empty(const struct embedded *e)
{
    for (int32_t p = 0; p < e->active->n_partitions; p++)
        if (e->active->part[p].end > e->active->part[p].first)
            return false;
    return true;
}

static uint64_t log_bytes(struct embedded *e)
{
    pthread_mutex_lock(&e->lock);
    uint64_t n = segments_bytes(e);
    pthread_mutex_unlock(&e->lock);
    return n;
}

/* Keeps to -max-size-bytes: first by removing what nobody needs, then by refusing. */
static bool within_max_size(struct embedded *e, uint64_t need_bytes, struct err *err)
{
    uint64_t max = e->cfg.embedded_max_size_bytes, now;
    if (!max)
        return true;
    while ((now = log_bytes(e)) + need_bytes > max)
        if (!segments_remove_oldest(e, false, "size"))
            return err_set(err, ERR_NO_SPACE,
                           "the log in %s is full: it has %" PRIu64
                           " bytes that are still needed, and -ingest-storage.embedded.max-size-bytes=%" PRIu64,
                           e->dir, now, max);
    return true;
}

static bool ready_segment(struct embedded *e, uint64_t need_bytes, struct err *err)
{
    if (e->active && e->active->file_bytes + need_bytes > e->cfg.embedded_segment_bytes && !active_is_empty(e)) {
        writer_seal(e);
        segments_retain(e);
    }
    if (!within_max_size(e, need_bytes, err))
        return false;
    if (e->active)
        return true;
    struct segment *seg = segment_create(e, need_bytes, err);
    if (!seg)
        return false;
    seg->file_bytes = env_bytes(seg->env->env);
    segments_append(e, seg);
    e->active = seg;
    return true;
}

/*
 * Drops an environment in doubt. The segment keeps what was acknowledged; with nothing in it is just an empty file that
 * retention removes.
 */
static void abandon_segment(struct embedded *e, int rc)
{
    LOG_ERROR("a commit failed; the log goes on in a new segment", {"dir", LOG_STR(e->dir)},
              {"segment", LOG_U64(e->active->id)}, {"err", LOG_STR(mdb_strerror(rc))});
    writer_seal(e);
}

/* One attempt. *ret_again: something was changed that makes another one worth while. */
static bool try_group(struct embedded *e, const struct group *g, bool *ret_again, struct err *err)
{
    struct err why = ERR_NONE;
    *ret_again = false;
    restore_offsets(e);
    int rc = 0;
    if (ready_segment(e, g->need_bytes, &why)) {
        rc = commit_group(e, g);
        if (rc == 0)
            return true;
        embedded_mdb_err(e, &why, rc, "writing records");
    }
    restore_offsets(e);
    if (rc == MDB_MAP_FULL || rc == MDB_TXN_FULL) {
        *ret_again = !active_is_empty(e);
        writer_seal(e);
    } else if (why.code == ERR_NO_SPACE) {
        *ret_again = segments_remove_oldest(e, true, "no-space");
    } else if (rc) {
        abandon_segment(e, rc);
    }
    if (err)
        *err = why;
    return false;
}

static void note_state(struct embedded *e, bool ok, const struct err *err)
{
    if (!ok && !e->refusing)
        LOG_ERROR("the log refuses records", {"dir", LOG_STR(e->dir)}, {"err", LOG_ERR(err)});
    else if (ok && e->refusing)
        LOG_INFO("the log takes records again", {"dir", LOG_STR(e->dir)});
    e->refusing = !ok;
}

static void write_group(struct embedded *e, struct group *g)
{
    struct err err = ERR_NONE;
    bool again = false, ok = g->n_records == 0;
    if (!ok) {
        do
            ok = try_group(e, g, &again, &err);
        while (!ok && again);
        note_state(e, ok, &err);
        if (ok)
            publish_group(e, g);
        else
            log_count_failed(g->n_records, reason_of(err.code));
    }
    finish_group(e, g, ok ? NULL : &err);
}

/* A segment that has become old is sealed so that it can go one day; then retention. */
static void housekeeping(struct embedded *e)
{
    int64_t now_ms = clock_mono_ms();
    if (now_ms < e->housekeeping_ms)
        return;
    e->housekeeping_ms = now_ms + HOUSEKEEPING_MS;
    int64_t period = e->cfg.embedded_retention_period;
    int64_t max_age = MAX(period / SEGMENTS_PER_RETENTION, SEGMENT_MIN_AGE_MS);
    if (period > 0 && e->active && clock_wall_ms() - e->active->created_ms > max_age && !active_is_empty(e))
        writer_seal(e);
    segments_retain(e);
}

void *embedded_writer_main(void *arg)
{
    struct embedded *e = arg;
    pthread_setname_np(pthread_self(), "log-writer");
    priority_prompt(gettid()); /* every push waits for it */
    struct group g;
    while (take_group(e, &g)) {
        if (g.head)
            write_group(e, &g);
        housekeeping(e);
    }
    writer_seal(e);
    return NULL;
}
