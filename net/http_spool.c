/*
 * Bodies that go to files. The I/O thread copies what arrives into a buffer; when that is full it suspends the connection and gives the buffer to the
 * spool pool, which writes it and resumes. So a slow disk holds up its own client only, never the I/O thread, and memory is HTTP_MAX_SPOOLS buffers.
 *
 * `busy` says whose the buffer is: the pool's while it is true. It becomes false under the request's lock, together with the resumption; the I/O thread
 * takes that lock before it goes on, and so cannot end the request while the pool is still inside MHD_resume_connection. MHD may call once more with
 * what it has already read although the connection is suspended (several chunks in one packet): then nothing is taken.
 *
 * At the stop: `aborting` is looked at under the request's lock, which abandon_all takes for every request afterwards. So when that is through, no job is
 * submitted any more, and stopping the pool ends the last suspension.
 *
 * The file has no name (O_TMPFILE; or it is unlinked where the filesystem has no such thing), so that nothing has to be cleaned up after a crash.
 */
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/clock.h"
#include "net/http_int.h"

#define SPOOL_BUFFER_BYTES ((size_t)256 << 10)

struct http_spool {
    int fd;
    uint64_t written;
    int errnum; /* of the write that failed */
    size_t n;   /* in the buffer */
    atomic_bool busy;
    char buffer[SPOOL_BUFFER_BYTES];
};

/* --- the file -------------------------------------------------------------------------------------------------- */

static int open_unnamed(const char *dir)
{
    int fd = open(dir, O_TMPFILE | O_RDWR | O_CLOEXEC, 0600);
    if (fd >= 0 || (errno != EOPNOTSUPP && errno != EISDIR))
        return fd;
    char path[PATH_MAX];
    if (snprintf(path, sizeof path, "%s/body-XXXXXX", dir) >= (int)sizeof path) {
        errno = ENAMETOOLONG;
        return -1;
    }
    fd = mkostemp(path, O_CLOEXEC);
    if (fd >= 0)
        unlink(path);
    return fd;
}

static void set_moved(struct http_request *req, int64_t now_ms)
{
    atomic_store_explicit(&req->spooled_ms, now_ms, memory_order_relaxed);
}

static void respond_errno(struct http_request *req, int errnum)
{
    struct err err = ERR_NONE;
    err_errno(&err, ERR_IO, errnum, "keeping the request's body");
    http_respond_err(req, &err);
}

bool http_spool_begin(struct http_request *req)
{
    struct http_server *s = req->server;
    struct http_group *g = req->entry->group;
    struct http_spool_place place = {0};
    ASSERT(g->spool);
    if (!g->spool(req, g->arg, &place))
        return false;
    req->limit_bytes = place.max_bytes;
    if (req->declared_bytes > req->limit_bytes) {
        http_refuse(req, HTTP_REFUSED_BODY_TOO_LARGE);
        return false;
    }
    if (atomic_fetch_add(&s->n_spools, 1) >= HTTP_MAX_SPOOLS) {
        atomic_fetch_sub(&s->n_spools, 1);
        http_refuse(req, HTTP_REFUSED_BODY_MEMORY);
        return false;
    }
    struct http_spool *sp = malloc(sizeof *sp);
    ASSERT(sp);
    sp->written = 0;
    sp->errnum = 0;
    sp->n = 0;
    atomic_init(&sp->busy, false);
    sp->fd = open_unnamed(place.dir);
    int errnum = errno;
    req->spool = sp;
    buf_init(&req->body, 1);
    if (sp->fd < 0) {
        respond_errno(req, errnum);
        return false;
    }
    /* From here on the watcher applies no read timeout: that is about requests that come at once. A client that stands still is ended by MHD's idle timeout. */
    set_moved(req, clock_mono_ms());
    return true;
}

void http_spool_free(struct http_request *req)
{
    if (!req->spool)
        return;
    if (req->spool->fd >= 0)
        close(req->spool->fd);
    free(req->spool);
    atomic_fetch_sub(&req->server->n_spools, 1);
}

int http_body_file(const struct http_request *req, uint64_t *ret_bytes)
{
    *ret_bytes = req->spool ? req->spool->written : 0;
    return req->spool ? req->spool->fd : -1;
}

/* --- writing --------------------------------------------------------------------------------------------------- */

static void write_buffer(struct http_spool *sp)
{
    for (size_t done = 0; done < sp->n;) {
        ssize_t k = pwrite(sp->fd, sp->buffer + done, sp->n - done, (off_t)sp->written);
        if (k < 0 && errno == EINTR)
            continue;
        if (k < 0) {
            sp->errnum = errno;
            return;
        }
        done += (size_t)k;
        sp->written += (uint64_t)k;
    }
    sp->n = 0;
}

/* Runs in the pool; has a reference. */
static void write_job(void *job, struct arena *arena)
{
    (void)arena;
    struct http_request *req = job;
    write_buffer(req->spool);
    pthread_mutex_lock(&req->lock);
    set_moved(req, clock_mono_ms());
    atomic_store(&req->spool->busy, false);
    http_lane_resume(req);
    pthread_mutex_unlock(&req->lock);
    http_unref(req);
}

static enum http_spool_step start_write(struct http_request *req)
{
    pthread_mutex_lock(&req->lock);
    bool aborting = atomic_load(&req->server->aborting);
    if (!aborting) {
        MHD_suspend_connection(req->conn);
        set_moved(req, INT64_MAX);
        atomic_store(&req->spool->busy, true);
        atomic_fetch_add_explicit(&req->refs, 1, memory_order_relaxed);
        bool submitted = pool_submit(req->server->spool_pool, write_job, req);
        ASSERT(submitted); /* one job a body at most */
    }
    pthread_mutex_unlock(&req->lock);
    return aborting ? HTTP_SPOOL_CLOSE : HTTP_SPOOL_GOES_ON;
}

/* True when the buffer is the I/O thread's. */
static bool is_ours(struct http_request *req)
{
    if (atomic_load(&req->spool->busy))
        return false;
    pthread_mutex_lock(&req->lock);
    pthread_mutex_unlock(&req->lock);
    return true;
}

enum http_spool_step http_spool_take(struct http_request *req, const char *data, size_t *n)
{
    struct http_spool *sp = req->spool;
    if (!is_ours(req))
        return HTTP_SPOOL_GOES_ON;
    if (sp->errnum) {
        respond_errno(req, sp->errnum);
        return HTTP_SPOOL_FAILED;
    }
    set_moved(req, clock_mono_ms());
    size_t taken = MIN(*n, SPOOL_BUFFER_BYTES - sp->n);
    memcpy(sp->buffer + sp->n, data, taken);
    sp->n += taken;
    *n -= taken;
    req->body_bytes += taken;
    if (req->body_bytes > req->limit_bytes)
        return HTTP_SPOOL_TOO_LARGE;
    return sp->n == SPOOL_BUFFER_BYTES ? start_write(req) : HTTP_SPOOL_GOES_ON;
}

enum http_spool_step http_spool_end(struct http_request *req)
{
    struct http_spool *sp = req->spool;
    if (!is_ours(req))
        return HTTP_SPOOL_GOES_ON;
    if (sp->errnum) {
        respond_errno(req, sp->errnum);
        return HTTP_SPOOL_FAILED;
    }
    return sp->n ? start_write(req) : HTTP_SPOOL_DONE;
}
