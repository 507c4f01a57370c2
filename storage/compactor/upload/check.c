/*
 * The check of an uploaded block, in the background:
 *
 *     validation.json written ──> block downloaded, opened, read ──┬─ good ──> meta.json put, helpers removed
 *          (again every minute)                                    └─ bad ───> validation.json with the Error
 *
 * The download asks the bucket for meta.json, which is not there yet: it goes through a view that shows the client's in its place. Whatever lies in the
 * block's folder is checked as it is there, not as it was sent.
 *
 * When this process stops in the middle, validation.json grows stale and the block is "uploading" again; likewise when it is killed.
 */
#include <errno.h>
#include <fcntl.h>
#include <ftw.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/logger.h"
#include "storage/block/block.h"
#include "storage/chunk/chunk.h"
#include "storage/compactor/upload/upload_int.h"

#define TRIES 3
#define TRY_PAUSE_MS 1000

struct check {
    struct upload *u;
    struct upload_seat *seat; /* owned */
    struct slice tenant;      /* in the seat */
    char *meta_json;          /* owned */
    size_t meta_json_n;

    /* The heart: a thread that keeps validation.json fresh. */
    pthread_t heart;
    pthread_mutex_t lock;
    pthread_cond_t wake;
    bool ended; /* guarded by lock */
};

/* --- the view ---------------------------------------------------------------------------------------------------------------- */

/* The bucket, with this block's meta.json. */
struct preview {
    struct objstore objstore;
    struct objstore *store;
    struct bucket_name meta;
    struct slice json;
};

static struct preview *preview_of(struct objstore *s)
{
    return CONTAINER_OF(s, struct preview, objstore);
}

static bool is_meta(const struct preview *p, struct slice name)
{
    return slice_eq(name, bucket_name_slice(&p->meta));
}

static bool preview_get(struct objstore *s, const struct ctx *ctx, struct slice name, uint64_t offset, uint64_t n, struct buf *out, struct err *err)
{
    const struct preview *p = preview_of(s);
    if (!is_meta(p, name))
        return objstore_get(p->store, ctx, name, offset, n, out, err);
    if (offset != 0 || n != OBJSTORE_ALL)
        return err_set(err, ERR_OUT_OF_RANGE, "%s: only as a whole", p->meta.text);
    buf_put_slice(out, p->json);
    return !out->failed || err_set(err, ERR_TOO_LARGE, "%s", p->meta.text);
}

static bool preview_attributes(struct objstore *s, const struct ctx *ctx, struct slice name, struct objstore_attributes *ret, struct err *err)
{
    const struct preview *p = preview_of(s);
    if (!is_meta(p, name))
        return objstore_attributes(p->store, ctx, name, ret, err);
    *ret = (struct objstore_attributes){.size = p->json.n, .modified_ms = clock_wall_ms()};
    return true;
}

static bool preview_put(struct objstore *s, const struct ctx *ctx, struct slice name, struct slice bytes, struct err *err)
{
    (void)s, (void)ctx, (void)name, (void)bytes;
    return err_set(err, ERR_PERMISSION, "nothing is written through a preview");
}

static bool preview_put_file(struct objstore *s, const struct ctx *ctx, struct slice name, const char *path, struct err *err)
{
    (void)path;
    return preview_put(s, ctx, name, SL(""), err);
}

static bool preview_remove(struct objstore *s, const struct ctx *ctx, struct slice name, struct err *err)
{
    return preview_put(s, ctx, name, SL(""), err);
}

static bool preview_list(struct objstore *s, const struct ctx *ctx, struct slice prefix, bool delimited, objstore_list_fn *fn, void *arg, struct err *err)
{
    return objstore_list(preview_of(s)->store, ctx, prefix, delimited, fn, arg, err);
}

static void preview_free(struct objstore *s)
{
    (void)s;
}

static const struct objstore_ops preview_ops = {
    .name = "preview",
    .is_view = true,
    .get = preview_get,
    .attributes = preview_attributes,
    .put = preview_put,
    .put_file = preview_put_file,
    .remove = preview_remove,
    .list = preview_list,
    .free = preview_free,
};

/* --- a block in a folder ------------------------------------------------------------------------------------------------------ */

static int remove_one(const char *path, const struct stat *st, int type, struct FTW *ftw)
{
    (void)st, (void)type, (void)ftw;
    return remove(path);
}

/* What meta.json counts, for clients that left it out. */
static bool count_stats(const char *dir, struct block_stats *ret, struct err *err)
{
    struct series series;
    bool more = true;
    struct block *b = block_open(dir, err);
    struct block_scan *scan = b ? block_scan_new(b, err) : NULL;
    bool good = scan != NULL;
    *ret = (struct block_stats){0};
    while (good && (good = block_scan_next(scan, &series, &more, err)) && more) {
        ret->series++;
        ret->chunks += series.n_chunks;
        for (size_t i = 0; i < series.n_chunks; i++) {
            const struct series_chunk *chunk = &series.chunks[i];
            uint64_t n = (uint64_t)MAX(chunk_count(chunk->encoding, chunk->data), 0);
            ret->samples += n;
            *(chunk->encoding == CHUNK_XOR ? &ret->float_samples : &ret->histogram_samples) += n;
        }
    }
    block_scan_free(scan);
    block_close(b);
    return good;
}

/* In the folder, where block_open looks for it. */
static bool rewrite_meta(const char *dir, const struct block_meta *meta, struct err *err)
{
    char path[PATH_MAX + 64];
    struct buf out = {.max = UPLOAD_META_MAX_BYTES * 2};
    snprintf(path, sizeof(path), "%s/" BUCKET_META, dir);
    upload_meta_encode(meta, &out);
    int fd = open(path, O_WRONLY | O_TRUNC | O_CLOEXEC);
    bool good = fd >= 0 && !out.failed && write(fd, out.p, out.n) == (ssize_t)out.n;
    good = good || err_errno(err, ERR_IO, errno, "writing %s", path);
    if (fd >= 0)
        close(fd);
    buf_release(&out);
    return good;
}

/* Series and their labels, without a look at the chunks. */
static bool read_index_only(const struct block *b, struct err *err)
{
    struct labels labels;
    const uint32_t *symbols;
    bool more = true;
    struct block_scan *scan = block_scan_new(b, err);
    bool good = scan != NULL;
    while (good && more)
        good = block_scan_next_labels(scan, &labels, &symbols, &more, err);
    block_scan_free(scan);
    return good;
}

static bool has_stats(const struct block_meta *m)
{
    return m->stats.series || m->stats.chunks || m->stats.samples;
}

/* Version 1 of the index is read by this build, and by no Mimir. */
static bool check_index_version(const char *dir, struct err *err)
{
    char path[PATH_MAX + 64], head[5] = {0};
    snprintf(path, sizeof(path), "%s/index", dir);
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    bool good = fd >= 0 && pread(fd, head, sizeof(head), 0) == (ssize_t)sizeof(head);
    if (fd >= 0)
        close(fd);
    if (!good)
        return err_set(err, ERR_CORRUPT, "the index is too short");
    return head[4] == 2 || err_set(err, ERR_CORRUPT, "the index has version %d; only version 2 can be uploaded", head[4]);
}

/* meta gets the counts that it lacks. */
static bool verify(struct check *c, const char *dir, struct block_meta *meta, struct err *err)
{
    bool with_chunks = limits_of(c->u->parts.limits, c->tenant)->compactor_block_upload_verify_chunks;
    if (!check_index_version(dir, err))
        return false;
    if (!has_stats(meta) && (!count_stats(dir, &meta->stats, err) || !rewrite_meta(dir, meta, err)))
        return false;
    struct block *b = block_open(dir, err);
    bool good = b && (with_chunks ? block_verify(b, err) : read_index_only(b, err));
    block_close(b);
    return good;
}

static bool check_once(struct check *c, struct block_meta *meta, struct err *err)
{
    struct preview p = {.objstore = {&preview_ops},
                        .store = c->u->parts.bucket,
                        .meta = bucket_block_file(c->tenant, &c->seat->block, BUCKET_META),
                        .json = slice_make(c->meta_json, c->meta_json_n)};
    char dir[PATH_MAX], block_dir[PATH_MAX + ULID_TEXT_LEN + 2];
    if (!upload_size_allowed(c->u, c->tenant, meta, err))
        return false;
    snprintf(dir, sizeof(dir), "%.*s/check-XXXXXX", (int)sizeof(dir) - 16, c->u->dir);
    if (!mkdtemp(dir))
        return err_errno(err, ERR_IO, errno, "failed to create temporary block directory");
    snprintf(block_dir, sizeof(block_dir), "%s/%s", dir, c->seat->block.text);
    bool good = bucket_download_block(&p.objstore, &c->u->ctx, c->tenant, &c->seat->block, dir, err) && verify(c, block_dir, meta, err);
    (void)nftw(dir, remove_one, 8, FTW_DEPTH | FTW_PHYS); /* the next start removes what stays */
    return good;
}

/* --- the thread ----------------------------------------------------------------------------------------------------------------- */

static void *beat(void *arg)
{
    struct check *c = arg;
    int64_t period_ms = c->u->parts.heartbeat_ms > 0 ? c->u->parts.heartbeat_ms : UPLOAD_HEARTBEAT_MS;
    pthread_mutex_lock(&c->lock);
    while (!c->ended) {
        int64_t until_ms = clock_mono_ms() + period_ms;
        struct timespec until = {.tv_sec = until_ms / 1000, .tv_nsec = until_ms % 1000 * 1000000};
        if (pthread_cond_timedwait(&c->wake, &c->lock, &until) != ETIMEDOUT)
            continue;
        pthread_mutex_unlock(&c->lock);
        struct err err = ERR_NONE;
        if (!upload_write_validation(c->u, &c->u->ctx, c->tenant, &c->seat->block, "", &err))
            LOG_WARN("validation.json could not be renewed", {"user", LOG_SLICE(c->tenant)}, {"err", LOG_ERR(&err)});
        pthread_mutex_lock(&c->lock);
    }
    pthread_mutex_unlock(&c->lock);
    return NULL;
}

static void stop_heart(struct check *c)
{
    pthread_mutex_lock(&c->lock);
    c->ended = true;
    pthread_cond_broadcast(&c->wake);
    pthread_mutex_unlock(&c->lock);
    pthread_join(c->heart, NULL);
}

/* False when this process stops. */
static bool pause_before_next_try(struct check *c)
{
    for (int64_t until_ms = clock_mono_ms() + TRY_PAUSE_MS; clock_mono_ms() < until_ms;) {
        if (atomic_load(&c->u->canceled))
            return false;
        usleep(20000);
    }
    return true;
}

/* Faults that may go away are not the block's; three times, each after all the store's own tries. */
static bool check_block(struct check *c, struct block_meta *meta, struct err *err)
{
    for (int i = 1;; i++) {
        *err = ERR_NONE;
        struct block_stats said = meta->stats;
        if (check_once(c, meta, err))
            return true;
        meta->stats = said;
        bool again = i < TRIES && (err->code == ERR_UNAVAILABLE || err->code == ERR_TIMEOUT || err->code == ERR_IO);
        if (!again || !pause_before_next_try(c))
            return false;
    }
}

/* The heart has stopped, so that nothing is written behind this. Where it cannot be written, what is there grows stale, and finish may be called again. */
static void end_check(struct check *c, bool good, const struct block_meta *meta, const struct err *why)
{
    struct err err = ERR_NONE;
    if (good) {
        if (!upload_complete(c->u, &c->u->ctx, c->tenant, meta, &err))
            LOG_WARN("an uploaded block could not be completed", {"user", LOG_SLICE(c->tenant)}, {"block", LOG_STR(meta->ulid.text)}, {"err", LOG_ERR(&err)});
        return;
    }
    if (atomic_load(&c->u->canceled))
        return; /* nothing is known of the block */
    metric_inc(METRIC_WITH(upload_metrics[UPLOAD_REFUSED], c->tenant));
    LOG_WARN("an uploaded block is refused", {"user", LOG_SLICE(c->tenant)}, {"block", LOG_STR(c->seat->block.text)}, {"err", LOG_ERR(why)});
    if (!upload_write_validation(c->u, &c->u->ctx, c->tenant, &c->seat->block, why->text, &err))
        LOG_WARN("validation.json could not be written", {"user", LOG_SLICE(c->tenant)}, {"err", LOG_ERR(&err)});
}

static void check_free(struct check *c)
{
    pthread_cond_destroy(&c->wake);
    pthread_mutex_destroy(&c->lock);
    free(c->meta_json);
    free(c);
}

/* Another check may begin before what this one found can be seen: whoever has seen it is not told that too many run. */
static void run_check(void *job, struct arena *arena)
{
    struct check *c = job;
    struct upload *u = c->u;
    struct block_meta meta;
    struct err err = ERR_NONE;
    bool good = block_meta_decode(slice_make(c->meta_json, c->meta_json_n), arena, &meta, &err) && check_block(c, &meta, &err);
    stop_heart(c);
    metric_add(metric_single(upload_metrics[UPLOAD_CHECKS]), -1);
    atomic_fetch_sub(&u->n_checks, 1);
    end_check(c, good, &meta, &err);
    struct upload_seat *seat = c->seat;
    check_free(c);
    upload_seat_leave(u, seat);
}

static struct check *check_new(struct upload *u, struct slice meta, struct upload_seat *seat)
{
    struct check *c = calloc(1, sizeof(*c));
    ASSERT(c);
    c->u = u;
    c->seat = seat;
    c->tenant = slice_of(seat->tenant);
    c->meta_json = slice_strdup(meta);
    c->meta_json_n = meta.n;
    pthread_mutex_init(&c->lock, NULL);
    pthread_condattr_t attr;
    pthread_condattr_init(&attr);
    pthread_condattr_setclock(&attr, CLOCK_MONOTONIC);
    pthread_cond_init(&c->wake, &attr);
    pthread_condattr_destroy(&attr);
    return c;
}

bool upload_start_check(struct upload_call *call, struct slice meta, struct upload_seat *seat)
{
    struct upload *u = call->u;
    int64_t limit = u->parts.cfg->max_block_upload_validation_concurrency;
    size_t max = limit > 0 ? (size_t)MIN(limit, (int64_t)UPLOAD_CHECKS_MAX) : UPLOAD_CHECKS_MAX;
    char text[96];
    struct err err = ERR_NONE;
    if (atomic_fetch_add(&u->n_checks, 1) >= max) {
        atomic_fetch_sub(&u->n_checks, 1);
        snprintf(text, sizeof(text), "too many block upload validations in progress, limit is %zu", max);
        return upload_refuse(call, 429, text);
    }
    struct check *c = check_new(u, meta, seat);
    int rc = 0;
    if (!upload_write_validation(u, call->ctx, call->tenant, &call->block, "", &err) || (rc = pthread_create(&c->heart, NULL, beat, c)) != 0) {
        if (rc)
            err_errno(&err, ERR_INTERNAL, rc, "a thread for the check");
        check_free(c);
        atomic_fetch_sub(&u->n_checks, 1);
        return upload_fail(call, "a check could not be started", &err);
    }
    metric_add(metric_single(upload_metrics[UPLOAD_CHECKS]), 1);
    bool submitted = pool_submit(u->checks, run_check, c);
    ASSERT(submitted); /* not more than its queue has room for */
    return true;
}
