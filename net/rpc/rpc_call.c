/*
 * Calls of the client. A call is a stream: the caller makes it and kicks it; the I/O thread submits it and fills `got`,
 * `status` and `closed`; the caller waits for these.
 */
#include <stdio.h>
#include <stdlib.h>

#include "base/base64.h"
#include "base/clock.h"
#include "net/rpc/rpc_client_int.h"

#define ATTEMPTS 2
#define FIXED_HEADERS 12 /* of a request, at most */

struct client_stream *rpc_client_stream_of(struct rpc_stream *st)
{
    return CONTAINER_OF(st, struct client_stream, stream);
}

/* --- the I/O thread -------------------------------------------------------------------------------------------- */

void rpc_client_stream_end(struct rpc_stream *st, int code, struct slice text, bool unprocessed)
{
    pthread_mutex_lock(&st->lock);
    if (!st->has_status) {
        st->has_status = true;
        st->status.code = code;
        snprintf(st->status.text, sizeof st->status.text, "%.*s", SL_FMT(text));
    }
    if (!st->closed) {
        st->closed = true;
        rpc_client_stream_of(st)->unprocessed = unprocessed;
    }
    rpc_stream_changed(st);
    pthread_mutex_unlock(&st->lock);
}

static void reset(struct rpc_stream *st)
{
    st->failed = true;
    if (st->conn)
        nghttp2_submit_rst_stream(st->conn->session, NGHTTP2_FLAG_NONE, st->id, NGHTTP2_CANCEL);
}

/* The connection had gone when the stream came to the I/O thread: another one will do as well. */
static void lost_before(struct rpc_stream *st)
{
    struct client_stream *cs = rpc_client_stream_of(st);
    struct err err = ERR_NONE;
    err_set(&err, ERR_UNAVAILABLE, "the connection was lost before the call was sent");
    bool again = !cs->enqueued_again;
    cs->enqueued_again = true;
    cs->submitted = false;
    if (!again || !rpc_client_enqueue(cs->client, cs, &err))
        rpc_client_stream_end(st, (int)rpc_code_of_err(err.code), slice_of(err.text), true);
}

static void submit(struct rpc_stream *st)
{
    struct client_stream *cs = rpc_client_stream_of(st);
    struct rpc_client *c = cs->client;
    if (!c->conn) {
        lost_before(st);
        return;
    }
    char timeout[16];
    nghttp2_nv *nv = calloc(FIXED_HEADERS + cs->n_metadata, sizeof *nv);
    ASSERT(nv);
    size_t n = 0;
    nv[n++] = rpc_nv(SL(":method"), SL("POST"));
    nv[n++] = rpc_nv(SL(":scheme"), c->owner->cfg.tls.enabled ? SL("https") : SL("http"));
    nv[n++] = rpc_nv(SL(":path"), slice_of(cs->method));
    nv[n++] = rpc_nv(SL(":authority"), slice_of(c->address));
    nv[n++] = rpc_nv(SL("te"), SL("trailers"));
    nv[n++] = rpc_nv(SL("content-type"), SL("application/grpc"));
    nv[n++] = rpc_nv(SL("user-agent"), SL("brunn-grpc/" BRUNN_VERSION));
    if (cs->deadline_ms != RPC_NO_DEADLINE) {
        rpc_timeout_format(cs->deadline_ms - clock_mono_ms(), timeout);
        nv[n++] = rpc_nv(SL("grpc-timeout"), slice_of(timeout));
    }
    nv[n++] = rpc_nv(SL("grpc-accept-encoding"), SL("gzip,snappy"));
    if (c->owner->codec != RPC_CODEC_NONE)
        nv[n++] = rpc_nv(SL("grpc-encoding"), slice_of(rpc_codec_name(c->owner->codec)));
    const char *label = c->owner->cfg.cluster_label;
    if (cs->unary && label && label[0])
        nv[n++] = rpc_nv(SL("x-cluster"), slice_of(label));
    for (size_t i = 0; i < cs->n_metadata; i++)
        nv[n++] = rpc_nv(cs->metadata[i].name, cs->metadata[i].value);
    nghttp2_data_provider body = rpc_conn_body(st);
    int32_t id = nghttp2_submit_request(c->conn->session, NULL, nv, n, &body, st);
    free(nv);
    if (id < 0) {
        rpc_client_stream_end(st, RPC_UNAVAILABLE, SL("the connection takes no more calls"), true);
        c->conn->going_away = true; /* out of stream ids */
        c->conn = NULL;
        rpc_client_set_idle(c);
        return;
    }
    rpc_conn_link(c->conn, st, id);
}

static void client_kick(struct rpc_stream *st)
{
    pthread_mutex_lock(&st->lock);
    bool wants_reset = st->reset;
    pthread_mutex_unlock(&st->lock);
    struct client_stream *cs = rpc_client_stream_of(st);
    if (!cs->submitted && !wants_reset) {
        cs->submitted = true;
        submit(st);
    } else if (wants_reset && !st->failed) {
        reset(st);
    } else {
        rpc_conn_consume(st);
    }
}

static void take_status(struct rpc_stream *st, struct slice value)
{
    int code = 0;
    bool fine = value.n > 0 && value.n <= 9;
    for (size_t i = 0; fine && i < value.n; i++) {
        fine = value.p[i] >= '0' && value.p[i] <= '9';
        code = code * 10 + (value.p[i] - '0');
    }
    st->status.code = fine ? code : RPC_UNKNOWN;
    st->has_status = true;
}

static bool client_header(struct rpc_stream *st, struct slice name, struct slice value)
{
    struct client_stream *cs = rpc_client_stream_of(st);
    pthread_mutex_lock(&st->lock);
    if (slice_eq(name, SL(":status"))) {
        cs->http_status = value.n == 3 ? (value.p[0] - '0') * 100 + (value.p[1] - '0') * 10 + (value.p[2] - '0') : 0;
    } else if (slice_eq(name, SL("grpc-status"))) {
        take_status(st, value);
    } else if (slice_eq(name, SL("grpc-message"))) {
        struct buf text = {.max = sizeof st->status.text - 1};
        rpc_percent_decode(slice_make(value.p, MIN(value.n, text.max)), &text);
        snprintf(st->status.text, sizeof st->status.text, "%.*s", SL_FMT(buf_slice(&text)));
        buf_release(&text);
    } else if (slice_eq(name, SL("grpc-status-details-bin"))) {
        buf_clear(&st->status.details);
        if (!base64_decode(value, &st->status.details))
            buf_clear(&st->status.details);
    }
    pthread_mutex_unlock(&st->lock);
    if (slice_eq(name, SL("grpc-encoding")))
        st->in.codec = rpc_codec_of(value);
    return true;
}

static void client_headers_done(struct rpc_stream *st)
{
    (void)st; /* what they say is used when the stream closes */
}

static void client_message(struct rpc_stream *st, struct buf *msg)
{
    pthread_mutex_lock(&st->lock);
    if (!st->closed)
        rpc_queue_push(&st->got, msg, false);
    rpc_stream_changed(st);
    pthread_mutex_unlock(&st->lock);
}

static void client_broken(struct rpc_stream *st, int code, struct slice text)
{
    rpc_client_stream_end(st, code, text, false);
    reset(st);
}

/* The codes that gRPC gives to HTTP statuses without grpc-status. */
static int code_of_http(int status)
{
    switch (status) {
    case 400:
        return RPC_INTERNAL;
    case 401:
        return RPC_UNAUTHENTICATED;
    case 403:
        return RPC_PERMISSION_DENIED;
    case 404:
        return RPC_UNIMPLEMENTED;
    case 429:
    case 502:
    case 503:
    case 504:
        return RPC_UNAVAILABLE;
    default:
        return RPC_UNKNOWN;
    }
}

static void client_closed(struct rpc_stream *st, uint32_t h2_error, bool conn_lost)
{
    struct client_stream *cs = rpc_client_stream_of(st);
    char text[96];
    if (conn_lost) {
        const char *reason = st->conn->tls ? tls_reason(st->conn->tls) : "";
        snprintf(text, sizeof text, "the connection was lost%s%s", reason[0] ? ": " : "", reason);
        rpc_client_stream_end(st, RPC_UNAVAILABLE, slice_of(text), false);
    } else if (h2_error == NGHTTP2_NO_ERROR) {
        snprintf(text, sizeof text, "unexpected HTTP status code received from server: %d", cs->http_status);
        rpc_client_stream_end(st, cs->http_status == 200 ? RPC_INTERNAL : code_of_http(cs->http_status),
                   cs->http_status == 200 ? SL("server closed the stream without sending trailers") : slice_of(text),
                   false);
    } else {
        snprintf(text, sizeof text, "stream terminated by RST_STREAM with error code: %s",
                 nghttp2_http2_strerror(h2_error));
        int code = h2_error == NGHTTP2_REFUSED_STREAM        ? RPC_UNAVAILABLE
                   : h2_error == NGHTTP2_CANCEL              ? RPC_CANCELED
                   : h2_error == NGHTTP2_ENHANCE_YOUR_CALM   ? RPC_RESOURCE_EXHAUSTED
                   : h2_error == NGHTTP2_INADEQUATE_SECURITY ? RPC_PERMISSION_DENIED
                                                             : RPC_INTERNAL;
        rpc_client_stream_end(st, code, slice_of(text), h2_error == NGHTTP2_REFUSED_STREAM);
    }
}

/* The answer is complete although our side is open still (keep_open, or a refusal before all was sent): HTTP/2 would
 * keep the stream until both sides have ended. */
static void end_half_open(struct rpc_stream *st)
{
    client_closed(st, NGHTTP2_NO_ERROR, false);
    st->failed = true;
    nghttp2_submit_rst_stream(st->conn->session, NGHTTP2_FLAG_NONE, st->id, NGHTTP2_NO_ERROR);
}

static void client_end(struct rpc_stream *st)
{
    if (!rpc_frames_between(&st->in))
        client_broken(st, RPC_INTERNAL, SL("the answer ended in the middle of a message"));
    else if (nghttp2_session_get_stream_local_close(st->conn->session, st->id) == 0)
        end_half_open(st);
}

static void client_free(struct rpc_stream *st)
{
    struct client_stream *cs = rpc_client_stream_of(st);
    struct rpc_client *c = cs->client;
    rpc_stream_release(st);
    free(cs->method);
    free(cs->metadata);
    free(cs->bytes);
    free(cs);
    rpc_client_unref(c);
}

const struct rpc_role rpc_client_role = {
    .server = false,
    .header = client_header,
    .headers_done = client_headers_done,
    .message = client_message,
    .end = client_end,
    .broken = client_broken,
    .closed = client_closed,
    .kick = client_kick,
    .conn_closed = rpc_client_conn_closed,
    .going_away = rpc_client_going_away,
    .free = client_free,
};

/* --- calls (a caller's thread) --------------------------------------------------------------------------------- */

static void copy_metadata(struct client_stream *cs, const struct rpc_args *args)
{
    size_t n = 1;
    for (size_t i = 0; i < args->n_metadata; i++)
        n += args->metadata[i].name.n + args->metadata[i].value.n;
    cs->bytes = malloc(n);
    cs->metadata = calloc(args->n_metadata + 1, sizeof *cs->metadata);
    ASSERT(cs->bytes && cs->metadata);
    cs->n_metadata = args->n_metadata;
    char *p = cs->bytes;
    for (size_t i = 0; i < 2 * args->n_metadata; i++) {
        struct slice from = i % 2 ? args->metadata[i / 2].value : args->metadata[i / 2].name;
        if (from.n)
            memcpy(p, from.p, from.n);
        *(i % 2 ? &cs->metadata[i / 2].value : &cs->metadata[i / 2].name) = slice_make(p, from.n);
        p += from.n;
    }
}

static int64_t call_deadline_ms(const struct rpc_client *c, const struct rpc_args *args)
{
    if (args->ctx && args->ctx->deadline_ms)
        return args->ctx->deadline_ms;
    return args->keep_open ? RPC_NO_DEADLINE : clock_mono_ms() + c->owner->cfg.call_timeout_ms;
}

static struct rpc_stream *open_stream(struct rpc_client *c, const struct rpc_args *args, int64_t deadline_ms)
{
    struct client_stream *cs = calloc(1, sizeof *cs);
    ASSERT(cs);
    struct rpc_stream *st = &cs->stream;
    rpc_stream_init(st, &rpc_client_role, c->owner->loop);
    rpc_client_ref(c);
    cs->client = c;
    cs->ctx = args->ctx;
    cs->deadline_ms = deadline_ms;
    cs->unary = args->unary;
    cs->method = strdup(args->method);
    ASSERT(cs->method);
    copy_metadata(cs, args);
    st->in.max_bytes = c->owner->cfg.max_recv_msg_bytes;
    struct buf body = {0};
    struct err err = ERR_NONE;
    enum rpc_codec codec = c->owner->codec;
    if (codec == RPC_CODEC_NONE)
        buf_put_slice(&body, args->request);
    else
        rpc_compress(codec, args->request, &body);
    if (body.failed) {
        rpc_client_stream_end(st, RPC_RESOURCE_EXHAUSTED, SL("no memory for the request"), false);
        return st;
    }
    rpc_queue_push(&st->out, &body, codec != RPC_CODEC_NONE);
    st->out_end = !args->keep_open;
    if (!rpc_client_may_wait(args->ctx, deadline_ms, &err) || !rpc_client_enqueue(c, cs, &err))
        rpc_client_stream_end(st, (int)rpc_code_of_err(err.code), slice_of(err.text), false);
    return st;
}

struct rpc_stream *rpc_stream_open(struct rpc_client *c, const struct rpc_args *args)
{
    return open_stream(c, args, call_deadline_ms(c, args));
}

/* Ends the stream from here. Needs st->lock. */
static void give_up_locked(struct rpc_stream *st, const struct err *err)
{
    st->closed = true;
    st->reset = true;
    rpc_status_release(&st->status);
    st->has_status = true;
    st->status.code = (int)rpc_code_of_err(err->code);
    snprintf(st->status.text, sizeof st->status.text, "%s", err->text);
    rpc_queue_clear(&st->got);
}

enum rpc_next rpc_stream_next(struct rpc_stream *st, struct buf *ret_msg, struct rpc_status *ret_status)
{
    struct client_stream *cs = rpc_client_stream_of(st);
    struct err err = ERR_NONE;
    bool gave_up = false;
    pthread_mutex_lock(&st->lock);
    while (!st->got.first && !st->closed) {
        if (rpc_client_may_wait(cs->ctx, cs->deadline_ms, &err)) {
            rpc_stream_wait(st, rpc_client_next_look_ms(cs->deadline_ms, cs->ctx));
        } else {
            give_up_locked(st, &err);
            gave_up = true;
        }
    }
    enum rpc_next next = st->got.first ? RPC_NEXT_MESSAGE : RPC_NEXT_END;
    bool room_again = false;
    if (next == RPC_NEXT_MESSAGE) {
        bool full = st->got.bytes > RPC_RECV_BUFFER_BYTES;
        *ret_msg = rpc_queue_pop(&st->got);
        room_again = full && st->got.bytes <= RPC_RECV_BUFFER_BYTES;
    } else {
        rpc_status_release(ret_status);
        ret_status->code = st->status.code;
        memcpy(ret_status->text, st->status.text, sizeof ret_status->text);
        buf_put_slice(&ret_status->details, buf_slice(&st->status.details));
    }
    pthread_mutex_unlock(&st->lock);
    if (gave_up)
        rpc_client_unwait(cs);
    if (gave_up || room_again)
        rpc_loop_kick(st);
    return next;
}

void rpc_stream_close(struct rpc_stream *st)
{
    if (!st)
        return;
    pthread_mutex_lock(&st->lock);
    bool running = !st->closed;
    if (running)
        give_up_locked(st, &(struct err){.code = ERR_CANCELED, .text = "context canceled"});
    pthread_mutex_unlock(&st->lock);
    if (running) {
        rpc_client_unwait(rpc_client_stream_of(st));
        rpc_loop_kick(st);
    }
    rpc_stream_unref(st);
}

/* *ret_again: the server has certainly not begun it. */
static bool try_call(struct rpc_client *c, const struct rpc_args *args, int64_t deadline_ms, struct buf *ret_answer,
                     struct rpc_status *ret_status, bool *ret_again)
{
    struct rpc_stream *st = open_stream(c, args, deadline_ms);
    struct buf answer = {0};
    struct buf extra = {0};
    bool has_answer = rpc_stream_next(st, &answer, ret_status) == RPC_NEXT_MESSAGE;
    bool more = has_answer && rpc_stream_next(st, &extra, ret_status) == RPC_NEXT_MESSAGE;
    buf_release(&extra);
    if (more || (!has_answer && ret_status->code == RPC_OK)) {
        rpc_status_release(ret_status);
        ret_status->code = RPC_INTERNAL;
        snprintf(ret_status->text, sizeof ret_status->text, "%s answer to a unary call", more ? "a second" : "no");
    }
    pthread_mutex_lock(&st->lock);
    *ret_again = rpc_client_stream_of(st)->unprocessed;
    pthread_mutex_unlock(&st->lock);
    rpc_stream_close(st);
    if (ret_status->code == RPC_OK)
        *ret_answer = answer;
    else
        buf_release(&answer);
    return ret_status->code == RPC_OK;
}

bool rpc_call(struct rpc_client *c, const struct rpc_args *args, struct buf *ret_answer, struct rpc_status *ret_status)
{
    struct rpc_args unary = *args;
    unary.keep_open = false;
    unary.unary = true;
    int64_t deadline_ms = call_deadline_ms(c, &unary);
    bool again = true;
    bool fine = false;
    for (int i = 0; i < ATTEMPTS && again && !fine; i++)
        fine = try_call(c, &unary, deadline_ms, ret_answer, ret_status, &again);
    return fine;
}
