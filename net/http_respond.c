/*
 * Answers. Whoever answers makes the whole MHD_Response on its own thread (compression included); the I/O thread only queues it.
 *
 * The hand-over is the request's state, under its lock: the answerer stores the response and sets ANSWERED; if the connection was PARKED
 * it resumes it, without the lock: the I/O thread wakes at once, and would only run into it and sleep again (a tenth of what a small query costs). So it may
 * have completed the request before the resume has returned, which the answerer's reference outlives; MHD itself looks at the connection no more once
 * the I/O thread can see it resumed, and the daemon lives on until `n_resuming` is 0. If the I/O thread has not parked the connection yet (the handler was
 * quick), it finds ANSWERED and needs no suspension at all.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <zlib.h>

#include "net/http_int.h"

#define INFLATED_MAX_BYTES ((size_t)64 << 20)

/* --- headers --------------------------------------------------------------------------------------------------- */

void http_set_header(struct http_request *req, const char *name, const char *value)
{
    if (req->n_out_headers == req->cap_out_headers) {
        size_t cap = MAX(req->cap_out_headers * 2, (size_t)8);
        struct http_kv *more = ARENA_ARRAY(&req->arena, struct http_kv, cap);
        if (!more)
            return;
        if (req->n_out_headers)
            memcpy(more, req->out_headers, req->n_out_headers * sizeof *more);
        req->out_headers = more;
        req->cap_out_headers = cap;
    }
    struct http_kv kv = {arena_dup(&req->arena, slice_of(name)), arena_dup(&req->arena, slice_of(value))};
    if (kv.name.p && kv.value.p)
        req->out_headers[req->n_out_headers++] = kv;
}

static bool closes(const struct http_request *req)
{
    return atomic_load_explicit(&req->server->stopping, memory_order_relaxed);
}

static void add_headers(struct http_request *req, struct MHD_Response *r)
{
    for (size_t i = 0; i < req->n_out_headers; i++)
        MHD_add_response_header(r, req->out_headers[i].name.p, req->out_headers[i].value.p);
    if (closes(req))
        MHD_add_response_header(r, "Connection", "close");
}

/* --- gzip ------------------------------------------------------------------------------------------------------ */

/* One of the list's items is gzip (or x-gzip), without "q=0". */
bool http_accepts_gzip(const struct http_request *req)
{
    struct slice h = http_header(req, "Accept-Encoding");
    if (h.n == 0)
        return false;
    const char *p = h.p;
    const char *end = h.p + h.n;
    while (p < end) {
        const char *comma = memchr(p, ',', (size_t)(end - p));
        const char *stop = comma ? comma : end;
        while (p < stop && *p == ' ')
            p++;
        struct slice item = slice_make(p, (size_t)(stop - p));
        if (slice_has_prefix(item, SL("gzip"))) {
            const char *q = memmem(item.p, item.n, "q=", 2);
            return !q || strtod(q + 2, NULL) > 0; /* the header's copy ends with a NUL */
        }
        p = stop + 1;
    }
    return false;
}

/* False (and body untouched) when it cannot be made, or would not be shorter. */
static bool gzip_body(struct buf *body)
{
    z_stream z = {0};
    if (body->n > UINT32_MAX || deflateInit2(&z, HTTP_GZIP_LEVEL, Z_DEFLATED, HTTP_GZIP_WINDOW, 8, Z_DEFAULT_STRATEGY) != Z_OK)
        return false;
    struct buf out;
    buf_init(&out, body->n);
    bool ok = buf_reserve(&out, body->n);
    if (ok) {
        z.next_in = (Bytef *)body->p;
        z.avail_in = (uInt)body->n;
        z.next_out = (Bytef *)out.p;
        z.avail_out = (uInt)body->n;
        ok = deflate(&z, Z_FINISH) == Z_STREAM_END;
        out.n = z.total_out;
    }
    deflateEnd(&z);
    if (!ok) {
        buf_release(&out);
        return false;
    }
    buf_release(body);
    *body = out;
    char *exact = realloc(body->p, body->n); /* the answer may wait long for a slow client */
    if (exact) {
        body->p = exact;
        body->cap = body->n;
    }
    return true;
}

static bool gunzip(struct slice in, struct buf *out)
{
    z_stream z = {.next_in = (Bytef *)(uintptr_t)in.p, .avail_in = (uInt)in.n};
    if (inflateInit2(&z, HTTP_GZIP_WINDOW) != Z_OK)
        return false;
    int rc = Z_OK;
    while (rc == Z_OK && buf_reserve(out, MAX(in.n, (size_t)4096))) {
        size_t room = out->cap - out->n;
        z.next_out = (Bytef *)out->p + out->n;
        z.avail_out = (uInt)MIN(room, (size_t)UINT32_MAX);
        uInt before = z.avail_out;
        rc = inflate(&z, Z_NO_FLUSH);
        out->n += before - z.avail_out;
    }
    inflateEnd(&z);
    return rc == Z_STREAM_END;
}

/* --- the hand-over --------------------------------------------------------------------------------------------- */

/* Takes over r, and the stream unless it returns false: the server has answered already. */
static bool answer_with(struct http_request *req, int status, struct MHD_Response *r, struct slice body, struct http_stream *stream)
{
    struct http_server *s = req->server;
    pthread_mutex_lock(&req->lock);
    bool owned = req->dispatched;
    bool taken = !req->abandoned;
    bool parked = taken && req->state == HTTP_STATE_PARKED;
    req->dispatched = false;
    if (!taken) {
        if (r && r != s->empty)
            MHD_destroy_response(r);
    } else {
        ASSERT(req->state != HTTP_STATE_ANSWERED);
        req->status = status;
        req->response = r;
        req->stream = stream;
        req->raw_body = body;
        req->sent_bytes = body.n;
        req->state = HTTP_STATE_ANSWERED;
        if (parked)
            atomic_fetch_add(&s->n_resuming, 1);
    }
    pthread_mutex_unlock(&req->lock);
    if (parked)
        http_lane_answered(req);
    else if (owned)
        http_unref(req);
    return taken;
}

static void answer(struct http_request *req, int status, struct MHD_Response *r, struct slice body)
{
    (void)answer_with(req, status, r, body, NULL);
}

bool http_answer_stream(struct http_request *req, int status, struct MHD_Response *r, struct http_stream *stream)
{
    if (r)
        add_headers(req, r);
    return answer_with(req, status, r, SL(""), stream);
}

void http_abandon_locked(struct http_request *req)
{
    static const char text[] = "the server is stopping\n";
    bool parked = req->state == HTTP_STATE_PARKED;
    atomic_store(&req->canceled, true);
    req->abandoned = true;
    req->status = 503;
    req->raw_body = slice_make(text, sizeof text - 1);
    req->sent_bytes = req->raw_body.n;
    req->response = MHD_create_response_from_buffer(sizeof text - 1, (void *)(uintptr_t)text, MHD_RESPMEM_PERSISTENT);
    if (req->response) {
        MHD_add_response_header(req->response, "Content-Type", "text/plain; charset=utf-8");
        MHD_add_response_header(req->response, "Connection", "close");
    }
    req->state = HTTP_STATE_ANSWERED;
    metric_inc(METRIC_WITH(http_metrics[HTTP_M_REFUSED], SL("stopping")));
    if (parked)
        http_lane_resume(req);
}

/* body's bytes go to MHD, which frees them. */
static void answer_owned(struct http_request *req, int status, struct buf *body)
{
    size_t n;
    char *p = buf_steal(body, &n);
    struct MHD_Response *r = MHD_create_response_from_buffer(n, p, p ? MHD_RESPMEM_MUST_FREE : MHD_RESPMEM_PERSISTENT);
    if (r)
        add_headers(req, r);
    else
        free(p);
    answer(req, status, r, slice_make(p, n));
}

void http_respond(struct http_request *req, int status, const char *content_type, struct buf *body)
{
    if (body->failed) {
        buf_release(body);
        body->failed = false;
        http_respond_text_error(req, 500, "the answer is too large");
        return;
    }
    if (content_type)
        http_set_header(req, "Content-Type", content_type);
    if (req->entry->route && req->entry->route->flags & HTTP_GZIP) {
        http_set_header(req, "Vary", "Accept-Encoding");
        if (body->n > HTTP_GZIP_MIN_BYTES && http_accepts_gzip(req) && gzip_body(body))
            http_set_header(req, "Content-Encoding", "gzip");
    }
    answer_owned(req, status, body);
}

void http_respond_status(struct http_request *req, int status)
{
    struct http_server *s = req->server;
    if (req->n_out_headers == 0 && !closes(req)) {
        answer(req, status, s->empty, SL(""));
        return;
    }
    struct buf none;
    buf_init(&none, 0);
    answer_owned(req, status, &none);
}

void http_respond_text_error(struct http_request *req, int status, const char *text)
{
    struct buf body;
    buf_init(&body, 1 << 20);
    buf_puts(&body, text);
    buf_putc(&body, '\n');
    if (body.failed)
        buf_release(&body);
    http_set_header(req, "Content-Type", "text/plain; charset=utf-8");
    http_set_header(req, "X-Content-Type-Options", "nosniff");
    answer_owned(req, status, &body);
}

void http_respond_err(struct http_request *req, const struct err *err)
{
    http_respond_text_error(req, err_http_status(err->code), err->text);
}

void http_respond_static(struct http_request *req, const char *content_type, struct slice body, bool gzip)
{
    if (gzip && !http_accepts_gzip(req)) {
        struct buf plain;
        buf_init(&plain, INFLATED_MAX_BYTES);
        if (gunzip(body, &plain)) {
            http_respond(req, 200, content_type, &plain);
        } else {
            buf_release(&plain);
            http_respond_text_error(req, 500, "the page cannot be decompressed");
        }
        return;
    }
    if (content_type)
        http_set_header(req, "Content-Type", content_type);
    if (gzip) {
        http_set_header(req, "Vary", "Accept-Encoding");
        http_set_header(req, "Content-Encoding", "gzip");
    }
    struct MHD_Response *r = MHD_create_response_from_buffer(body.n, (void *)(uintptr_t)body.p, MHD_RESPMEM_PERSISTENT);
    if (r)
        add_headers(req, r);
    answer(req, 200, r, body);
}

/* --- refusals -------------------------------------------------------------------------------------------------- */

void http_refuse(struct http_request *req, enum http_refusal why)
{
    static const char *const reasons[] = {[HTTP_REFUSED_BODY_TOO_LARGE] = "body_too_large",
                                          [HTTP_REFUSED_QUEUE_FULL] = "queue_full",
                                          [HTTP_REFUSED_BODY_MEMORY] = "body_memory"};
    metric_inc(METRIC_WITH(http_metrics[HTTP_M_REFUSED], slice_of(reasons[why])));
    struct http_group *g = req->entry->group;
    if (g->refuse) {
        uint64_t n_bytes = req->chunked ? req->body_bytes : req->declared_bytes;
        g->refuse(req, why, n_bytes, req->limit_bytes, g->arg);
        return;
    }
    if (why == HTTP_REFUSED_BODY_TOO_LARGE) {
        http_respond_text_error(req, 413, "http: request body too large");
    } else if (why == HTTP_REFUSED_QUEUE_FULL && req->entry->route->pool == HTTP_POOL_QUERY) {
        http_respond_text_error(req, 429, "too many outstanding requests");
    } else {
        http_set_header(req, "Retry-After", "1");
        http_respond_text_error(req, 503,
                                why == HTTP_REFUSED_QUEUE_FULL ? "too many requests are waiting, try again later"
                                                               : "too many request bodies are held in memory, try again later");
    }
}

void http_send_raw(struct http_request *req)
{
    struct buf out;
    buf_init(&out, 1 << 20);
    buf_printf(&out, "HTTP/1.1 %d %s\r\nConnection: close\r\nContent-Length: %zu\r\n", req->status,
               MHD_get_reason_phrase_for((unsigned)req->status), req->raw_body.n);
    for (size_t i = 0; i < req->n_out_headers; i++)
        buf_printf(&out, "%s: %s\r\n", req->out_headers[i].name.p, req->out_headers[i].value.p);
    buf_puts(&out, "\r\n");
    buf_put_slice(&out, req->raw_body);
    /* Nothing of this connection waits in the kernel's buffer (an earlier answer was sent whole), so a small answer fits; what does not is lost. */
    if (!out.failed)
        (void)!send(req->fd, out.p, out.n, MSG_DONTWAIT | MSG_NOSIGNAL);
    buf_release(&out);
}
