/*
 * One HTTP/2 connection and its nghttp2 session, of either end. All on the connection's I/O thread.
 *
 * nghttp2 is used in memory: bytes read from the socket (rpc_io.c) are fed to it, and the frames it makes are collected
 * into `out`, which goes to the socket. No frame is made while `out` is not written, so that a peer that does not read costs
 * RPC_WRITE_BYTES and what its streams have queued.
 *
 * The session opens the peer's windows only as we consume: the connection's at once, a stream's as its messages find
 * readers (rpc_conn_consume).
 */
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/base64.h"
#include "base/clock.h"
#include "net/rpc/rpc_int.h"

nghttp2_nv rpc_nv(struct slice name, struct slice value)
{
    return (nghttp2_nv){.name = (uint8_t *)(uintptr_t)name.p,
                        .value = (uint8_t *)(uintptr_t)value.p,
                        .namelen = name.n,
                        .valuelen = value.n,
                        .flags = NGHTTP2_NV_FLAG_NONE};
}

/* --- streams --------------------------------------------------------------------------------------------------- */

void rpc_conn_link(struct rpc_conn *c, struct rpc_stream *st, int32_t id)
{
    rpc_stream_ref(st);
    st->conn = c;
    st->id = id;
    st->next = c->streams;
    if (st->next)
        st->next->prev = st;
    c->streams = st;
    c->n_streams++;
}

void rpc_conn_unlink(struct rpc_stream *st, uint32_t h2_error, bool conn_lost)
{
    struct rpc_conn *c = st->conn;
    if (st->prev)
        st->prev->next = st->next;
    else
        c->streams = st->next;
    if (st->next)
        st->next->prev = st->prev;
    st->prev = st->next = NULL;
    if (--c->n_streams == 0)
        c->idle_ms = clock_mono_ms();
    st->role->closed(st, h2_error, conn_lost);
    st->conn = NULL;
    rpc_stream_unref(st);
}

void rpc_conn_consume(struct rpc_stream *st)
{
    pthread_mutex_lock(&st->lock);
    bool room = st->got.bytes <= RPC_RECV_BUFFER_BYTES;
    pthread_mutex_unlock(&st->lock);
    if (!room || !st->conn || st->unconsumed_bytes == 0)
        return;
    nghttp2_session_consume_stream(st->conn->session, st->id, st->unconsumed_bytes);
    st->unconsumed_bytes = 0;
}

/* Copies from the queued messages into a DATA frame. Needs st->lock. */
static size_t take_out(struct rpc_stream *st, uint8_t *to, size_t cap)
{
    size_t n = 0;
    while (n < cap && st->out.first) {
        struct rpc_msg *m = st->out.first;
        size_t total = m->body.n + RPC_HEAD_BYTES;
        size_t piece;
        if (m->sent_bytes < RPC_HEAD_BYTES) {
            piece = MIN(cap - n, RPC_HEAD_BYTES - m->sent_bytes);
            memcpy(to + n, m->head + m->sent_bytes, piece);
        } else {
            piece = MIN(cap - n, total - m->sent_bytes);
            if (piece)
                memcpy(to + n, m->body.p + (m->sent_bytes - RPC_HEAD_BYTES), piece);
        }
        n += piece;
        m->sent_bytes += piece;
        if (m->sent_bytes == total) {
            struct buf body = rpc_queue_pop(&st->out);
            buf_release(&body);
        }
    }
    return n;
}

/* The status as trailers, which the server sends last. Needs st->lock. */
static int submit_trailers(struct rpc_conn *c, struct rpc_stream *st)
{
    char code[16];
    int n_code = snprintf(code, sizeof code, "%d", st->status.code);
    struct buf text = {0};
    struct buf details = {0};
    rpc_percent_encode(slice_of(st->status.text), &text);
    base64_encode(buf_slice(&st->status.details), false, &details);
    nghttp2_nv nv[3] = {rpc_nv(SL("grpc-status"), slice_make(code, (size_t)n_code))};
    size_t n = 1;
    if (text.n)
        nv[n++] = rpc_nv(SL("grpc-message"), buf_slice(&text));
    if (details.n)
        nv[n++] = rpc_nv(SL("grpc-status-details-bin"), buf_slice(&details));
    int rc = nghttp2_submit_trailer(c->session, st->id, nv, n);
    buf_release(&text);
    buf_release(&details);
    return rc;
}

static ssize_t read_body(nghttp2_session *session, int32_t id, uint8_t *to, size_t cap, uint32_t *flags,
                         nghttp2_data_source *source, void *arg)
{
    (void)session;
    (void)id;
    struct rpc_stream *st = source->ptr;
    ssize_t rc;
    pthread_mutex_lock(&st->lock);
    size_t n = take_out(st, to, cap);
    if (n)
        pthread_cond_broadcast(&st->changed);
    if (!st->out.first && st->out_end) {
        *flags |= NGHTTP2_DATA_FLAG_EOF;
        if (st->role->server) {
            *flags |= NGHTTP2_DATA_FLAG_NO_END_STREAM;
            submit_trailers(arg, st);
        }
        rc = (ssize_t)n;
    } else {
        rc = n ? (ssize_t)n : NGHTTP2_ERR_DEFERRED;
    }
    pthread_mutex_unlock(&st->lock);
    return rc;
}

nghttp2_data_provider rpc_conn_body(struct rpc_stream *st)
{
    return (nghttp2_data_provider){.source.ptr = st, .read_callback = read_body};
}

/* --- nghttp2's callbacks --------------------------------------------------------------------------------------- */

static struct rpc_stream *stream_of(nghttp2_session *session, int32_t id)
{
    return id ? nghttp2_session_get_stream_user_data(session, id) : NULL;
}

static int on_begin_headers(nghttp2_session *session, const nghttp2_frame *frame, void *arg)
{
    (void)session;
    struct rpc_conn *c = arg;
    if (frame->hd.type == NGHTTP2_HEADERS && frame->headers.cat == NGHTTP2_HCAT_REQUEST && c->role->server)
        c->role->begin(c, frame->hd.stream_id);
    return 0;
}

static int on_header(nghttp2_session *session, const nghttp2_frame *frame, const uint8_t *name, size_t n_name,
                     const uint8_t *value, size_t n_value, uint8_t flags, void *arg)
{
    (void)flags;
    (void)arg;
    struct rpc_stream *st = stream_of(session, frame->hd.stream_id);
    if (!st || st->failed)
        return 0;
    st->n_headers_bytes += n_name + n_value + 32;
    if (st->n_headers_bytes > RPC_MAX_METADATA_BYTES ||
        !st->role->header(st, slice_make(name, n_name), slice_make(value, n_value)))
        return NGHTTP2_ERR_TEMPORAL_CALLBACK_FAILURE;
    return 0;
}

/* As other gRPC servers do: two pings too soon are borne, the third ends the connection. */
static void count_ping(struct rpc_conn *c)
{
    int64_t now_ms = clock_mono_ms();
    bool soon = c->peer_ping_ms && now_ms - c->peer_ping_ms < c->min_ping_ms;
    bool idle = c->n_streams == 0 && !c->peer_idle_pings;
    c->peer_ping_ms = now_ms;
    if (!c->role->server || !c->min_ping_ms || (!soon && !idle) || ++c->ping_strikes <= 2)
        return;
    static const char why[] = "too_many_pings"; /* which gRPC clients know, and then ping less */
    nghttp2_submit_goaway(c->session, NGHTTP2_FLAG_NONE, nghttp2_session_get_last_proc_stream_id(c->session),
                          NGHTTP2_ENHANCE_YOUR_CALM, (const uint8_t *)why, sizeof why - 1);
    c->doomed = true;
}

static int on_frame_recv(nghttp2_session *session, const nghttp2_frame *frame, void *arg)
{
    struct rpc_conn *c = arg;
    c->heard = true;
    if (frame->hd.type == NGHTTP2_PING && frame->hd.flags & NGHTTP2_FLAG_ACK)
        c->ping_ms = 0;
    else if (frame->hd.type == NGHTTP2_PING)
        count_ping(c);
    if (frame->hd.type == NGHTTP2_GOAWAY) {
        c->going_away = true;
        c->role->going_away(c);
    }
    struct rpc_stream *st = stream_of(session, frame->hd.stream_id);
    if (!st || (frame->hd.type != NGHTTP2_HEADERS && frame->hd.type != NGHTTP2_DATA))
        return 0;
    bool end = frame->hd.flags & NGHTTP2_FLAG_END_STREAM;
    if (end)
        st->peer_done = true;
    if (st->failed)
        return 0;
    if (frame->hd.type == NGHTTP2_HEADERS)
        st->role->headers_done(st);
    if (end && !st->failed)
        st->role->end(st);
    return 0;
}

static int on_data(nghttp2_session *session, uint8_t flags, int32_t id, const uint8_t *p, size_t n, void *arg)
{
    (void)flags;
    (void)arg;
    struct rpc_stream *st = stream_of(session, id);
    nghttp2_session_consume_connection(session, n);
    if (!st || st->failed)
        return 0;
    struct slice in = slice_make(p, n);
    while (in.n && !st->failed) {
        int code = RPC_INTERNAL;
        bool done;
        struct err err = ERR_NONE;
        if (!rpc_frames_feed(&st->in, &in, &done, &code, &err)) {
            st->failed = true;
            st->role->broken(st, code, slice_of(err.text));
        } else if (done) {
            struct buf body = rpc_frames_take(&st->in);
            st->role->message(st, &body);
            buf_release(&body);
        }
    }
    st->unconsumed_bytes += n;
    rpc_conn_consume(st);
    return 0;
}

static int on_stream_close(nghttp2_session *session, int32_t id, uint32_t error_code, void *arg)
{
    (void)arg;
    struct rpc_stream *st = stream_of(session, id);
    if (st)
        rpc_conn_unlink(st, error_code, false);
    return 0;
}

/* An answer that went out before all of the request came: the client may stop sending. */
static int on_frame_send(nghttp2_session *session, const nghttp2_frame *frame, void *arg)
{
    struct rpc_conn *c = arg;
    if (frame->hd.type == NGHTTP2_HEADERS || frame->hd.type == NGHTTP2_DATA)
        c->ping_strikes = 0;
    if (!c->role->server || !(frame->hd.flags & NGHTTP2_FLAG_END_STREAM) ||
        (frame->hd.type != NGHTTP2_HEADERS && frame->hd.type != NGHTTP2_DATA))
        return 0;
    struct rpc_stream *st = stream_of(session, frame->hd.stream_id);
    if (st && !st->peer_done)
        nghttp2_submit_rst_stream(session, NGHTTP2_FLAG_NONE, frame->hd.stream_id, NGHTTP2_NO_ERROR);
    return 0;
}

static int new_session(struct rpc_conn *c)
{
    nghttp2_session_callbacks *cb;
    nghttp2_option *option;
    if (nghttp2_session_callbacks_new(&cb) != 0)
        return NGHTTP2_ERR_NOMEM;
    nghttp2_session_callbacks_set_on_begin_headers_callback(cb, on_begin_headers);
    nghttp2_session_callbacks_set_on_header_callback(cb, on_header);
    nghttp2_session_callbacks_set_on_frame_recv_callback(cb, on_frame_recv);
    nghttp2_session_callbacks_set_on_data_chunk_recv_callback(cb, on_data);
    nghttp2_session_callbacks_set_on_stream_close_callback(cb, on_stream_close);
    nghttp2_session_callbacks_set_on_frame_send_callback(cb, on_frame_send);
    int rc = nghttp2_option_new(&option);
    if (rc == 0) {
        nghttp2_option_set_no_auto_window_update(option, 1);
        nghttp2_option_set_no_closed_streams(option, 1);
        rc = c->role->server ? nghttp2_session_server_new2(&c->session, cb, c, option)
                             : nghttp2_session_client_new2(&c->session, cb, c, option);
        nghttp2_option_del(option);
    }
    nghttp2_session_callbacks_del(cb);
    return rc;
}

static bool begin_session(struct rpc_conn *c, uint32_t max_streams)
{
    nghttp2_settings_entry settings[] = {
        {NGHTTP2_SETTINGS_INITIAL_WINDOW_SIZE, RPC_WINDOW_BYTES},
        {NGHTTP2_SETTINGS_MAX_HEADER_LIST_SIZE, RPC_MAX_METADATA_BYTES},
        {NGHTTP2_SETTINGS_MAX_CONCURRENT_STREAMS, max_streams},
        {NGHTTP2_SETTINGS_ENABLE_PUSH, 0},
    };
    size_t n = c->role->server ? ARRAY_LEN(settings) - 1 : ARRAY_LEN(settings);
    return new_session(c) == 0 && nghttp2_submit_settings(c->session, NGHTTP2_FLAG_NONE, settings, n) == 0 &&
           nghttp2_session_set_local_window_size(c->session, NGHTTP2_FLAG_NONE, 0, RPC_CONN_WINDOW_BYTES) == 0;
}

/* --- life cycle ------------------------------------------------------------------------------------------------ */

struct rpc_conn *rpc_conn_new(struct rpc_loop *loop, const struct rpc_role *role, void *owner, int fd,
                              struct tls *tls, uint32_t max_streams)
{
    struct rpc_conn *c = calloc(1, sizeof *c);
    ASSERT(c);
    int64_t now = clock_mono_ms();
    *c = (struct rpc_conn){
        .watch.ready = rpc_conn_ready, .loop = loop, .role = role, .owner = owner, .fd = fd, .tls = tls, .shaking = tls && role->server, .born_ms = now, .heard_ms = now, .idle_ms = now};
    int on = 1;
    if (fd >= 0)
        setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
    if (!begin_session(c, max_streams) || (fd >= 0 && !rpc_loop_watch(loop, fd, &c->watch, EPOLLIN | EPOLLRDHUP))) {
        nghttp2_session_del(c->session);
        tls_free(tls);
        if (fd >= 0)
            close(fd);
        free(c);
        return NULL;
    }
    c->next = loop->conns;
    if (c->next)
        c->next->prev = c;
    loop->conns = c;
    return c;
}

void rpc_conn_close(struct rpc_conn *c)
{
    while (c->streams)
        rpc_conn_unlink(c->streams, NGHTTP2_NO_ERROR, true);
    if (c->prev)
        c->prev->next = c->next;
    else
        c->loop->conns = c->next;
    if (c->next)
        c->next->prev = c->prev;
    nghttp2_session_del(c->session);
    if (c->tls)
        tls_end(c->tls);
    buf_release(&c->out);
    c->role->conn_closed(c);
    tls_free(c->tls);
    if (c->fd >= 0) {
        /* A child process may hold the socket for a moment longer, and epoll would go on telling of it. */
        epoll_ctl(c->loop->epoll_fd, EPOLL_CTL_DEL, c->fd, NULL);
        close(c->fd);
    }
    free(c);
}

void rpc_conn_go_away(struct rpc_conn *c)
{
    if (c->going_away)
        return;
    c->going_away = true;
    nghttp2_submit_goaway(c->session, NGHTTP2_FLAG_NONE, nghttp2_session_get_last_proc_stream_id(c->session),
                          NGHTTP2_NO_ERROR, NULL, 0);
}

void rpc_conn_tick(struct rpc_conn *c, int64_t now_ms)
{
    if (c->shaking && now_ms - c->born_ms > RPC_HANDSHAKE_MS) {
        c->role->handshake_failed(c, &(struct err){.code = ERR_TIMEOUT, .text = "TLS handshake: i/o timeout"});
        rpc_conn_close(c);
        return;
    }
    bool old = c->max_age_ms && now_ms - c->born_ms > c->max_age_ms;
    bool idle = c->max_idle_ms && c->n_streams == 0 && now_ms - c->idle_ms > c->max_idle_ms;
    bool too_old = old && c->age_grace_ms && now_ms - c->born_ms - c->max_age_ms > c->age_grace_ms;
    if (too_old || (c->ping_ms && now_ms - c->ping_ms > c->keepalive_timeout_ms)) {
        rpc_conn_close(c);
        return;
    }
    if (old || idle)
        rpc_conn_go_away(c);
    if (!c->ping_ms && c->keepalive_time_ms && now_ms - c->heard_ms > c->keepalive_time_ms &&
        (c->ping_idle || c->n_streams)) {
        c->ping_ms = now_ms;
        nghttp2_submit_ping(c->session, NGHTTP2_FLAG_NONE, NULL);
    }
    rpc_conn_flush(c);
}
