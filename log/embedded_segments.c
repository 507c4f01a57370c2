/*
 * The list of segments, oldest first: who reads which, which are open, which may go.
 *
 * A reader takes a reference under e->lock, reads without a lock, and gives it back. Only the writer appends to and
 * removes from the list. A removed segment's file is unlinked at once; its environment lives until the last reader is
 * gone, and then its blocks are freed, by nobody whom a push waits for (256 MiB take 60 ms) unless they are needed now. An environment is closed only when the list holds the only reference, so the pointer that a reader got stays
 * good.
 */
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/assert.h"
#include "base/clock.h"
#include "base/logger.h"
#include "log/embedded_int.h"

void segments_append(struct embedded *e, struct segment *seg)
{
    pthread_mutex_lock(&e->lock);
    if (e->n_segs == e->cap_segs) {
        e->cap_segs = e->cap_segs ? 2 * e->cap_segs : 64;
        e->segs = reallocarray(e->segs, e->cap_segs, sizeof(*e->segs));
        ASSERT(e->segs);
    }
    ASSERT(e->n_segs == 0 || e->segs[e->n_segs - 1]->id < seg->id);
    e->segs[e->n_segs++] = seg;
    pthread_mutex_unlock(&e->lock);
}

/*
 * Ends ascend with the list, so this is a binary search; segments of fewer partitions come first and hold nothing of
 * the later ones.
 */
struct segment *segments_find(struct embedded *e, int32_t partition, int64_t offset)
{
    size_t lo = 0, hi = e->n_segs;
    while (lo < hi) {
        size_t mid = lo + (hi - lo) / 2;
        const struct segment *seg = e->segs[mid];
        if (partition < seg->n_partitions && seg->part[partition].end > offset)
            hi = mid;
        else
            lo = mid + 1;
    }
    for (; lo < e->n_segs; lo++) {
        struct segment *seg = e->segs[lo];
        if (!seg->bad && seg->part[partition].end > MAX(seg->part[partition].first, offset)) {
            seg->refs++;
            seg->used_at = ++e->use_clock;
            return seg;
        }
    }
    return NULL;
}

int64_t segments_first(const struct embedded *e, int32_t partition)
{
    for (size_t i = 0; i < e->n_segs; i++) {
        const struct segment *seg = e->segs[i];
        if (partition < seg->n_partitions && !seg->bad && seg->part[partition].end > seg->part[partition].first)
            return seg->part[partition].first;
    }
    return e->part[partition].next;
}

uint64_t segments_bytes(struct embedded *e)
{
    uint64_t sum = 0;
    for (size_t i = 0; i < e->n_segs; i++)
        sum += e->segs[i]->file_bytes;
    return sum;
}

/* --- open environments --- */

/* Sealed, open and read by nobody: the least recently used one when there are too many. Caller holds e->lock. */
static struct segment *idle_to_close(struct embedded *e)
{
    size_t n_open = 0;
    struct segment *idlest = NULL;
    for (size_t i = 0; i < e->n_segs; i++) {
        struct segment *seg = e->segs[i];
        if (!seg->sealed || !seg->env)
            continue;
        n_open++;
        if (seg->refs == 1 && (!idlest || seg->used_at < idlest->used_at))
            idlest = seg;
    }
    return n_open > EMBEDDED_OPEN_SEGMENTS ? idlest : NULL;
}

/* Opens a sealed segment and stores its environment; caller holds e->open_lock. */
static struct seg_env *open_sealed(struct embedded *e, struct segment *seg, struct err *err)
{
    struct err why = ERR_NONE;
    struct seg_env *env = segment_env_open(e, seg, false, &why);
    pthread_mutex_lock(&e->lock);
    seg->env = env;
    bool removed = !env && seg->removed;
    bool newly_bad = !env && !removed && why.code == ERR_CORRUPT && !seg->bad;
    seg->bad |= newly_bad;
    struct segment *idle = env ? idle_to_close(e) : NULL;
    struct seg_env *idle_env = idle ? idle->env : NULL;
    uint64_t idle_id = idle ? idle->id : 0;
    if (idle)
        idle->env = NULL;
    pthread_mutex_unlock(&e->lock);
    segment_env_close(e, idle_id, idle_env);
    if (env)
        return env;
    if (removed) { /* its file was unlinked while we were about to open it */
        err_set(err, ERR_NOT_FOUND, "the segment was removed by retention");
        return NULL;
    }
    LOG_ERROR("cannot open a segment of the log", {"dir", LOG_STR(e->dir)}, {"segment", LOG_U64(seg->id)},
              {"err", LOG_ERR(&why)});
    if (newly_bad)
        metric_inc(e->m.corrupt_segments);
    if (err)
        *err = why;
    return NULL;
}

static struct seg_env *env_of(struct embedded *e, const struct segment *seg)
{
    pthread_mutex_lock(&e->lock);
    struct seg_env *env = seg->env;
    pthread_mutex_unlock(&e->lock);
    return env;
}

struct seg_env *segments_env(struct embedded *e, struct segment *seg, struct err *err)
{
    struct seg_env *env = env_of(e, seg);
    if (env)
        return env;
    pthread_mutex_lock(&e->open_lock); /* two must not open the same file twice */
    env = env_of(e, seg);
    if (!env)
        env = open_sealed(e, seg, err);
    pthread_mutex_unlock(&e->open_lock);
    return env;
}

void segments_unref(struct embedded *e, struct segment *seg)
{
    struct seg_env *env = NULL;
    pthread_mutex_lock(&e->lock);
    ASSERT(seg->refs > 0);
    bool last = --seg->refs == 0;
    uint64_t id = seg->id; /* without the lock the segment may be gone: another reader may be the last one */
    if (seg->refs == 1 && !seg->removed && seg->sealed && seg->env &&
        seg->env->writable) { /* the next reader opens it as what it is now */
        env = seg->env;
        seg->env = NULL;
    }
    pthread_mutex_unlock(&e->lock);
    segment_env_close(e, id, env);
    if (last)
        segment_free(e, seg);
}

/* --- retention --- */

/* The newest segment stays: the next offsets are read from it at a start. Caller holds e->lock. */
static bool oldest_is_free(const struct embedded *e)
{
    if (e->n_segs < 2 || !e->segs[0]->sealed)
        return false;
    const struct segment *seg = e->segs[0];
    for (int32_t p = 0; p < seg->n_partitions; p++)
        if (seg->part[p].end > seg->part[p].first && seg->part[p].end > e->part[p].needed_from)
            return false;
    return true;
}

bool segments_remove_oldest(struct embedded *e, bool now, const char *reason)
{
    pthread_mutex_lock(&e->lock);
    struct segment *seg = oldest_is_free(e) ? e->segs[0] : NULL;
    if (seg) {
        e->n_segs--;
        memmove(e->segs, e->segs + 1, e->n_segs * sizeof(*e->segs));
        seg->removed = true;
    }
    pthread_mutex_unlock(&e->lock);
    if (!seg)
        return false;
    /* The file before its row: a row without a file below the oldest segment is swept at the next start. */
    char *path = segment_path(e, seg->id, ".seg");
    embedded_fault(e, "retention-unlink");
    if (!now)
        seg->remains = open(path, O_WRONLY | O_CLOEXEC);
    if (unlink(path) != 0 && errno != ENOENT)
        LOG_ERROR("cannot remove a segment of the log", {"path", LOG_STR(path)}, {"err", LOG_STR(strerror(errno))});
    embedded_fault(e, "retention-row");
    struct err err = ERR_NONE;
    if (!meta_delete_segment(e, seg->id, &err))
        LOG_WARN("cannot delete a segment's row; the next start does", {"path", LOG_STR(path)}, {"err", LOG_ERR(&err)});
    LOG_INFO("removed a segment of the log", {"path", LOG_STR(path)}, {"reason", LOG_STR(reason)});
    free(path);
    metric_inc(log_metric(LOG_REMOVED_SEGMENTS, reason));
    segments_unref(e, seg);
    return true;
}

static const char *retention_says(struct embedded *e, int64_t now_ms)
{
    const char *reason = NULL;
    pthread_mutex_lock(&e->lock);
    uint64_t max_bytes = e->cfg.embedded_retention_size_bytes;
    if (e->n_segs > 1) {
        if (max_bytes && segments_bytes(e) > max_bytes)
            reason = "size";
        else if (e->cfg.embedded_retention_period > 0 &&
                 e->segs[0]->last_ms < now_ms - e->cfg.embedded_retention_period)
            reason = "age";
    }
    pthread_mutex_unlock(&e->lock);
    return reason;
}

void segments_retain(struct embedded *e)
{
    const char *reason;
    while ((reason = retention_says(e, clock_wall_ms())) && segments_remove_oldest(e, false, reason))
        continue;
    segments_publish_metrics(e);
}

void segments_publish_metrics(struct embedded *e)
{
    pthread_mutex_lock(&e->lock);
    double n = (double)e->n_segs, bytes = (double)segments_bytes(e);
    pthread_mutex_unlock(&e->lock);
    metric_set(e->m.segments, n);
    metric_set(e->m.size_bytes, bytes);
}
