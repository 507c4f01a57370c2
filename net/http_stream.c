/*
 * Answers that are made while they are sent: http_respond_stream.
 *
 * A source makes pieces; there is one piece at a time, in `piece`, which belongs by turns to the I/O thread (sends it) and to a job of the stream pool (makes
 * the next):
 *
 *    MHD asks for bytes and the piece is used up -> the I/O thread suspends the connection and submits the job -> the job fills the piece and resumes.
 *
 * So nobody waits for a slow client: MHD does not ask while the socket takes nothing, and then no job is there. A client that takes nothing at all is closed
 * after -server.http-idle-timeout, as any idle connection is. Suspension and resumption are under the request's lock, as they are for answers (http_respond.c).
 *
 * Each stream has at most one job in the pool, to fill or (when MHD says completed) to release the source, so that the pool's queue needs no more places than
 * there may be streams.
 *
 * Stop: http_server.aborting is set before each live request's lock is taken once. A reader that looked before that has its job in the pool, which
 * is run before the daemons end; one that looks later breaks off. So no connection is left suspended.
 */
#include <stdlib.h>
#include <string.h>
#include <zlib.h>

#include "base/logger.h"
#include "net/http_int.h"

#define PIECE_MAX_BYTES ((size_t)64 << 20) /* what a source may put at once; far more than it is asked for */

struct http_stream {
    struct http_source source;
    struct buf piece; /* the I/O thread's, but while a job fills it */
    size_t at;        /* sent of it */
    struct buf raw;   /* before compression */
    z_stream z;
    bool gzip;
    bool end;      /* the source has; or it broke off */
    bool broken;
    bool released; /* the source; guarded by the request's lock */
};

/* --- pieces ------------------------------------------------------------------------------------------------------ */

/* Deflates raw into piece; last: to the end. */
static bool deflate_piece(struct http_stream *st, bool last)
{
    size_t room = deflateBound(&st->z, st->raw.n) + 64;
    if (!buf_reserve(&st->piece, room))
        return false;
    st->z.next_in = (Bytef *)st->raw.p;
    st->z.avail_in = (uInt)st->raw.n;
    st->z.next_out = (Bytef *)st->piece.p + st->piece.n;
    st->z.avail_out = (uInt)(st->piece.cap - st->piece.n);
    uInt before = st->z.avail_out;
    int rc = deflate(&st->z, last ? Z_FINISH : Z_NO_FLUSH);
    st->piece.n += before - st->z.avail_out;
    return last ? rc == Z_STREAM_END : (rc == Z_OK || rc == Z_BUF_ERROR) && st->z.avail_in == 0;
}

/* One piece of the source, compressed if that is wanted. Sets end when the source has none. */
static bool next_piece(struct http_stream *st, struct err *err)
{
    struct buf *to = st->gzip ? &st->raw : &st->piece;
    size_t before = to->n;
    if (!st->source.next(st->source.arg, to, err))
        return false;
    if (to->failed)
        return err_set(err, ERR_INTERNAL, "a piece of the answer is too large");
    st->end = to->n == before;
    if (st->gzip) {
        if (!deflate_piece(st, st->end))
            return err_set(err, ERR_INTERNAL, "the answer cannot be compressed");
        buf_clear(&st->raw);
    }
    return true;
}

static void fill_piece(struct http_request *req)
{
    struct http_stream *st = req->stream;
    struct err err = ERR_NONE;
    buf_clear(&st->piece);
    st->at = 0;
    while (!st->end && !st->broken && st->piece.n == 0) /* what is compressed may come to nothing yet */
        if (!next_piece(st, &err)) {
            st->broken = true;
            metric_inc(metric_single(http_metrics[HTTP_M_BROKEN_OFF]));
            LOG_DEBUG("an answer breaks off while it is sent", {"path", LOG_SLICE(req->path)}, {"reason", LOG_STR(err.text)});
        }
}

/* A job of the stream pool, with a reference. */
static void fill_job(void *job, struct arena *arena)
{
    (void)arena;
    struct http_request *req = job;
    fill_piece(req);
    pthread_mutex_lock(&req->lock);
    http_lane_resume(req);
    pthread_mutex_unlock(&req->lock);
    http_unref(req);
}

/* MHD asks for bytes, on the I/O thread. */
static ssize_t read_piece(void *cls, uint64_t pos, char *out, size_t max)
{
    (void)pos;
    struct http_request *req = cls;
    struct http_stream *st = req->stream;
    ssize_t ret = 0;
    pthread_mutex_lock(&req->lock); /* behind the job, who may still be inside MHD_resume_connection */
    if (atomic_load(&req->server->aborting) || (st->broken && st->at == st->piece.n)) {
        ret = MHD_CONTENT_READER_END_WITH_ERROR;
    } else if (st->at < st->piece.n) {
        size_t n = MIN(max, st->piece.n - st->at);
        memcpy(out, st->piece.p + st->at, n);
        st->at += n;
        req->sent_bytes += n;
        ret = (ssize_t)n;
    } else if (st->end) {
        ret = MHD_CONTENT_READER_END_OF_STREAM;
    } else {
        atomic_fetch_add_explicit(&req->refs, 1, memory_order_relaxed);
        MHD_suspend_connection(req->conn);
        bool room = pool_submit(req->server->stream_pool, fill_job, req);
        ASSERT(room);
    }
    pthread_mutex_unlock(&req->lock);
    return ret;
}

/* --- life ---------------------------------------------------------------------------------------------------------- */

static void release_job(void *job, struct arena *arena)
{
    (void)arena;
    struct http_request *req = job;
    req->stream->source.release(req->stream->source.arg);
    http_unref(req);
}

void http_stream_end(struct http_request *req)
{
    struct http_stream *st = req->stream;
    bool here = false;
    pthread_mutex_lock(&req->lock);
    if (!st->released) {
        st->released = true;
        here = atomic_load(&req->server->aborting);
        if (!here) { /* a source may be much memory, or sets of other processes' series: not the I/O thread's to take down */
            atomic_fetch_add_explicit(&req->refs, 1, memory_order_relaxed);
            bool room = pool_submit(req->server->stream_pool, release_job, req);
            ASSERT(room);
        }
    }
    pthread_mutex_unlock(&req->lock);
    if (here)
        st->source.release(st->source.arg);
}

void http_stream_free(struct http_server *s, struct http_stream *st)
{
    if (!st)
        return;
    ASSERT(st->released);
    if (st->gzip)
        deflateEnd(&st->z);
    buf_release(&st->piece);
    buf_release(&st->raw);
    free(st);
    atomic_fetch_sub(&s->n_streams, 1);
}

static struct http_stream *stream_new(struct http_server *s, struct http_source source)
{
    struct http_stream *st = NULL;
    if (atomic_fetch_add(&s->n_streams, 1) < HTTP_MAX_STREAMS)
        st = calloc(1, sizeof *st);
    if (!st) {
        atomic_fetch_sub(&s->n_streams, 1);
        return NULL;
    }
    st->source = source;
    buf_init(&st->piece, PIECE_MAX_BYTES);
    buf_init(&st->raw, PIECE_MAX_BYTES);
    return st;
}

/* Abandons a stream that MHD never saw. */
static void drop(struct http_server *s, struct http_stream *st)
{
    st->released = true;
    st->source.release(st->source.arg);
    http_stream_free(s, st);
}

/* Compresses from the beginning; what is there already becomes the first of it. */
static void begin_gzip(struct http_request *req, struct http_stream *st)
{
    http_set_header(req, "Vary", "Accept-Encoding");
    if (!http_accepts_gzip(req) || deflateInit2(&st->z, HTTP_GZIP_LEVEL, Z_DEFLATED, HTTP_GZIP_WINDOW, 8, Z_DEFAULT_STRATEGY) != Z_OK)
        return;
    st->gzip = true;
    struct buf empty = st->raw;
    st->raw = st->piece;
    st->piece = empty;
    if (!deflate_piece(st, false))
        st->broken = true;
    buf_clear(&st->raw);
    http_set_header(req, "Content-Encoding", "gzip");
}

static void refuse(struct http_request *req, struct http_source source)
{
    source.release(source.arg);
    http_set_header(req, "Retry-After", "1");
    http_respond_text_error(req, 503, "too many answers are being sent, try again later");
}

static void respond(struct http_request *req, int status, const char *content_type, struct http_stream *st)
{
    struct http_server *s = req->server;
    struct err err = ERR_NONE;
    bool good = true;
    while (good && !st->end && st->piece.n < HTTP_PIECE_BYTES)
        good = next_piece(st, &err);
    if (!good || st->end) { /* it failed in time for a status, or it is no longer than one piece */
        struct buf body = st->piece;
        st->piece = (struct buf){0};
        drop(s, st);
        if (good) {
            http_respond(req, status, content_type, &body);
        } else {
            buf_release(&body);
            http_respond_err(req, &err);
        }
        return;
    }
    if (content_type)
        http_set_header(req, "Content-Type", content_type);
    if (req->entry->route && req->entry->route->flags & HTTP_GZIP)
        begin_gzip(req, st);
    struct MHD_Response *r = MHD_create_response_from_callback(MHD_SIZE_UNKNOWN, 64 << 10, read_piece, req, NULL);
    if (!http_answer_stream(req, status, r, st))
        drop(s, st);
}

void http_respond_stream(struct http_request *req, int status, const char *content_type, struct http_source source)
{
    struct http_stream *st = stream_new(req->server, source);
    if (!st) {
        refuse(req, source);
        return;
    }
    /* The source may look at the request's ctx until it is released, also where the server has answered in its place. */
    atomic_fetch_add_explicit(&req->refs, 1, memory_order_relaxed);
    respond(req, status, content_type, st);
    http_unref(req);
}
