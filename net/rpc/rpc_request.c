/*
 * A call on the server's end. READING (the I/O thread takes in headers and message) -> dispatched (the handler has a
 * reference) -> finished (a status is set, by the handler, or by the server in its place) -> closed (the HTTP/2 stream
 * has ended; the connection's reference goes). Freed by the last owner.
 */
#include <stdio.h>
#include <stdlib.h>

#include "base/clock.h"
#include "base/logger.h"
#include "net/cluster.h"
#include "net/http.h"
#include "net/rpc/rpc_int.h"

#define ARENA_BUDGET_BYTES (1u << 30)

static struct rpc_request *request_of(struct rpc_stream *st)
{
    return CONTAINER_OF(st, struct rpc_request, stream);
}

/* --- metrics --------------------------------------------------------------------------------------------------- */

static struct metric *duration_series(const struct rpc_entry *e, int code)
{
    char name[RPC_CODE_NAME_MAX];
    const struct slice values[] = {SL("gRPC"), e->label, slice_of(rpc_code_name(code, name)), SL("false")};
    return metric_get(http_request_families().duration, values);
}

void rpc_entry_init(struct rpc_entry *e, const struct rpc_method *m, void *arg, const char *label)
{
    const struct http_families f = http_request_families();
    *e = (struct rpc_entry){.method = m, .arg = arg, .label = slice_of(label), .streams = m && m->streams};
    const struct slice values[] = {SL("gRPC"), e->label};
    e->inflight = metric_get(f.inflight, values);
    e->received = metric_get(f.received, values);
    e->sent = metric_get(f.sent, values);
    e->ok = duration_series(e, RPC_OK);
}

static void record(struct rpc_request *req, int code, uint64_t sent_bytes)
{
    if (!req->counted)
        return; /* it went before its headers were complete */
    double seconds = (double)(clock_mono_ns() - req->start_ns) / 1e9;
    const struct rpc_entry *e = req->entry;
    metric_observe(code == RPC_OK ? e->ok : duration_series(e, code), seconds);
    metric_observe(e->received, (double)req->body.n);
    metric_observe(e->sent, (double)sent_bytes);
    metric_add(e->inflight, -1);
    char name[RPC_CODE_NAME_MAX];
    LOG_DEBUG("gRPC call", {"method", LOG_SLICE(req->path)}, {"code", LOG_STR(rpc_code_name(code, name))},
              {"seconds", LOG_F64(seconds)});
}

/* --- finishing ------------------------------------------------------------------------------------------------- */

/* True when this was the end of the request; the first one counts. msg may be NULL; any thread. */
static bool finish(struct rpc_request *req, struct buf *msg, int code, struct slice text, struct slice details)
{
    struct rpc_stream *st = &req->stream;
    pthread_mutex_lock(&st->lock);
    bool first = !req->finished;
    if (first) {
        req->finished = true;
        if (msg && msg->n > req->server->cfg->grpc_max_send_msg_bytes) {
            code = RPC_RESOURCE_EXHAUSTED;
            text = SL("grpc: trying to send message larger than max");
        } else if (msg && !st->closed) {
            req->sent_bytes += msg->n;
            rpc_queue_push(&st->out, msg, false);
        }
        st->status.code = code;
        snprintf(st->status.text, sizeof st->status.text, "%.*s", SL_FMT(text));
        buf_put_slice(&st->status.details, details);
        st->out_end = true;
        st->has_status = true;
        pthread_cond_broadcast(&st->changed);
        code = st->status.code;
    }
    uint64_t sent_bytes = req->sent_bytes;
    pthread_mutex_unlock(&st->lock);
    if (msg)
        buf_release(msg);
    if (first)
        record(req, code, sent_bytes);
    return first;
}

static void finish_by_handler(struct rpc_request *req, struct buf *msg, int code, struct slice text,
                              struct slice details)
{
    if (finish(req, msg, code, text, details))
        rpc_loop_kick(&req->stream);
    rpc_stream_unref(&req->stream);
}

void rpc_respond(struct rpc_request *req, struct buf *msg)
{
    finish_by_handler(req, msg, RPC_OK, SL(""), SL(""));
}

void rpc_finish(struct rpc_request *req, int code, struct slice text, struct slice details)
{
    finish_by_handler(req, NULL, code, text, details);
}

void rpc_finish_err(struct rpc_request *req, const struct err *err)
{
    finish_by_handler(req, NULL, (int)rpc_code_of_err(err->code), slice_of(err->text), SL(""));
}

bool rpc_send(struct rpc_request *req, struct buf *msg, struct err *err)
{
    struct rpc_stream *st = &req->stream;
    bool fine = msg->n <= req->server->cfg->grpc_max_send_msg_bytes ||
                err_set(err, ERR_TOO_MANY_REQUESTS, "grpc: trying to send message larger than max (%zu vs. %llu)",
                        msg->n, (unsigned long long)req->server->cfg->grpc_max_send_msg_bytes);
    pthread_mutex_lock(&st->lock);
    while (fine && !st->closed && !req->finished && st->out.bytes > RPC_SEND_BUFFER_BYTES && ctx_check(&req->ctx, NULL))
        rpc_stream_wait(st, req->ctx.deadline_ms ? req->ctx.deadline_ms : clock_mono_ms() + 60000);
    if (fine && (st->closed || req->finished))
        fine = err_set(err, ERR_CANCELED, "context canceled");
    fine = fine && ctx_check(&req->ctx, err);
    if (fine) {
        req->sent_bytes += msg->n;
        rpc_queue_push(&st->out, msg, false);
    }
    pthread_mutex_unlock(&st->lock);
    buf_release(msg);
    if (fine)
        rpc_loop_kick(st);
    return fine;
}

struct ctx *rpc_ctx(struct rpc_request *req)
{
    return &req->ctx;
}

struct slice rpc_body(const struct rpc_request *req)
{
    return buf_slice(&req->body);
}

struct slice rpc_metadata(const struct rpc_request *req, const char *name)
{
    for (size_t i = 0; i < req->n_metadata; i++)
        if (slice_eq(req->metadata[i].name, slice_of(name)))
            return req->metadata[i].value;
    return (struct slice){NULL, 0};
}

/* --- on the I/O thread ----------------------------------------------------------------------------------------- */

/* Begins the answer, or goes on with it. */
static void server_kick(struct rpc_stream *st)
{
    if (!st->conn)
        return;
    nghttp2_session *session = st->conn->session;
    pthread_mutex_lock(&st->lock);
    bool has_out = st->out.first != NULL;
    bool end = st->out_end;
    pthread_mutex_unlock(&st->lock);
    if (!has_out && !end)
        return;
    if (st->begun) {
        nghttp2_session_resume_data(session, st->id); /* fails when nothing was deferred, which is fine */
        return;
    }
    st->begun = true;
    const nghttp2_nv nv[] = {
        rpc_nv(SL(":status"), SL("200")),
        rpc_nv(SL("content-type"), SL("application/grpc")),
        rpc_nv(SL("grpc-accept-encoding"), SL("identity,gzip,snappy")),
    };
    nghttp2_data_provider body = rpc_conn_body(st);
    nghttp2_submit_response(session, st->id, nv, ARRAY_LEN(nv), &body);
}

void rpc_request_abort(struct rpc_stream *st, int code, struct slice text)
{
    struct rpc_request *req = request_of(st);
    st->failed = true;
    atomic_store_explicit(&req->canceled, true, memory_order_relaxed);
    finish(req, NULL, code, text, SL(""));
    server_kick(st);
}

static void server_begin(struct rpc_conn *c, int32_t id)
{
    struct rpc_server *s = c->owner;
    struct rpc_request *req = calloc(1, sizeof *req);
    ASSERT(req);
    rpc_stream_init(&req->stream, &rpc_server_role, c->loop);
    atomic_fetch_add_explicit(&s->refs, 1, memory_order_relaxed);
    req->server = s;
    req->entry = &s->other;
    req->start_ns = clock_mono_ns();
    req->stream.in.max_bytes = s->cfg->grpc_max_recv_msg_bytes;
    req->stream.in.memory = &s->memory;
    arena_init(&req->arena, ARENA_BUDGET_BYTES);
    req->ctx = (struct ctx){.arena = &req->arena, .canceled = &req->canceled, .tenant = SL("")};
    pthread_mutex_lock(&s->lock);
    s->n_live++;
    pthread_mutex_unlock(&s->lock);
    rpc_conn_link(c, &req->stream, id);
    nghttp2_session_set_stream_user_data(c->session, id, &req->stream);
    rpc_stream_unref(&req->stream); /* the connection's reference is left */
}

static bool add_metadata(struct rpc_request *req, struct slice name, struct slice value)
{
    if (req->n_metadata == req->cap_metadata) {
        size_t cap = req->cap_metadata ? req->cap_metadata * 2 : 16;
        struct rpc_kv *grown = ARENA_ARRAY(&req->arena, struct rpc_kv, cap);
        if (!grown)
            return false;
        if (req->n_metadata)
            memcpy(grown, req->metadata, req->n_metadata * sizeof *grown);
        req->metadata = grown;
        req->cap_metadata = cap;
    }
    req->metadata[req->n_metadata++] = (struct rpc_kv){.name = name, .value = value};
    return true;
}

static bool server_header(struct rpc_stream *st, struct slice name, struct slice value)
{
    struct rpc_request *req = request_of(st);
    int64_t timeout_ms;
    if (req->dispatched)
        return false;
    struct slice own = arena_dup(&req->arena, value);
    if (slice_eq(name, SL(":path")))
        req->path = own;
    else if (slice_eq(name, SL(":method")))
        req->method = own;
    else if (slice_eq(name, SL("content-type")))
        req->content_type = own;
    else if (slice_eq(name, SL("grpc-encoding")))
        req->encoding = own;
    else if (slice_eq(name, SL("grpc-timeout"))) {
        if (!rpc_timeout_parse(value, &timeout_ms))
            return false;
        req->ctx.deadline_ms = clock_mono_ms() + timeout_ms;
    } else if (name.n && name.p[0] != ':') {
        return add_metadata(req, arena_dup(&req->arena, name), own);
    }
    return true;
}

/* An answer of plain HTTP, for what is no gRPC. */
static void refuse_http(struct rpc_stream *st, struct slice status)
{
    st->failed = true;
    st->begun = true;
    finish(request_of(st), NULL, RPC_UNKNOWN, SL(""), SL(""));
    const nghttp2_nv nv[] = {rpc_nv(SL(":status"), status)};
    nghttp2_submit_response(st->conn->session, st->id, nv, ARRAY_LEN(nv), NULL);
}

/* google.rpc.Status {1 code, 2 message, 3 details Any {1 type_url, 2 value}} with grpcutil.ErrorDetails {1 cause: 1 =
 * wrong label} in it, by which Mimir's clients know this refusal. */
static void refuse_cluster(struct rpc_stream *st, const struct err *err)
{
    static const char type[] = "type.googleapis.com/grpcutil.ErrorDetails";
    struct slice text = slice_of(err->text);
    struct buf details = {0};
    buf_puts(&details, "\x08\x09\x12");
    buf_put_uvarint(&details, text.n);
    buf_put_slice(&details, text);
    buf_putc(&details, 0x1a);
    buf_put_uvarint(&details, sizeof type - 1 + 6);
    buf_putc(&details, 0x0a);
    buf_put_uvarint(&details, sizeof type - 1);
    buf_puts(&details, type);
    buf_puts(&details, "\x12\x02\x08\x01");
    st->failed = true;
    finish(request_of(st), NULL, RPC_FAILED_PRECONDITION, text, buf_slice(&details));
    server_kick(st);
    buf_release(&details);
}

/* Probes of the health service know no label. */
static bool wrong_cluster(const struct rpc_request *req, struct err *err)
{
    const struct rpc_server *s = req->server;
    return s->cfg->grpc_cluster_validation_enabled && !req->entry->streams &&
           !slice_has_prefix(req->path, SL("/grpc.health.v1.Health/")) &&
           !cluster_label_check(s->common, "grpc", s->cfg->grpc_cluster_validation_soft, req->path,
                                rpc_metadata(req, "x-cluster"), err);
}

/* Called at the headers, and again at trailers, which a request should not have. */
static void server_headers_done(struct rpc_stream *st)
{
    struct rpc_request *req = request_of(st);
    struct rpc_server *s = req->server;
    struct err err = ERR_NONE;
    if (req->entry->method)
        return;
    for (size_t i = 0; i < s->n_entries && !req->entry->method; i++)
        if (slice_eq(req->path, slice_of(s->entries[i].method->name)))
            req->entry = &s->entries[i];
    req->counted = true;
    metric_add(req->entry->inflight, 1);
    if (!slice_eq(req->method, SL("POST"))) {
        refuse_http(st, SL("405"));
    } else if (!slice_has_prefix(req->content_type, SL("application/grpc"))) {
        refuse_http(st, SL("415"));
    } else if (!req->entry->method) {
        char *text = arena_printf(&req->arena, "unknown method %.*s", SL_FMT(req->path));
        rpc_request_abort(st, RPC_UNIMPLEMENTED, slice_of(text));
    } else if (rpc_codec_of(req->encoding) == RPC_CODEC_UNKNOWN) {
        char *text = arena_printf(&req->arena, "grpc: Decompressor is not installed for grpc-encoding \"%.*s\"",
                                  SL_FMT(req->encoding));
        rpc_request_abort(st, RPC_UNIMPLEMENTED, slice_of(text));
    } else if (wrong_cluster(req, &err)) {
        refuse_cluster(st, &err);
    }
    st->in.codec = rpc_codec_of(req->encoding);
}

/* On the pool. */
static void handle(void *job, struct arena *arena)
{
    (void)arena;
    struct rpc_request *req = job;
    struct err err = ERR_NONE;
    if (!ctx_check(&req->ctx, &err)) /* nobody waits any more */
        rpc_finish_err(req, &err);
    else
        req->entry->method->handler(req, req->entry->arg);
}

static void dispatch(struct rpc_request *req)
{
    struct rpc_stream *st = &req->stream;
    req->dispatched = true;
    rpc_stream_ref(st);
    if (!req->server->pool) {
        handle(req, NULL);
    } else if (!pool_submit(req->server->pool, handle, req)) {
        rpc_stream_unref(st);
        rpc_request_abort(st, RPC_RESOURCE_EXHAUSTED, SL("too many outstanding requests"));
    }
}

/* The request is complete with its first message, as in other gRPC servers: a client may keep its side open for as long
 * as it wants the answers. */
static void server_message(struct rpc_stream *st, struct buf *msg)
{
    struct rpc_request *req = request_of(st);
    if (req->has_body) {
        rpc_request_abort(st, RPC_INTERNAL, SL("a second request message; the method takes one"));
        return;
    }
    req->has_body = true;
    req->body = *msg;
    buf_init(msg, 0);
    dispatch(req);
}

static void server_end(struct rpc_stream *st)
{
    struct rpc_request *req = request_of(st);
    if (!req->has_body || !rpc_frames_between(&st->in))
        rpc_request_abort(st, RPC_INTERNAL, SL("the request ended before its message was complete"));
}

static void server_closed(struct rpc_stream *st, uint32_t h2_error, bool conn_lost)
{
    (void)h2_error;
    (void)conn_lost;
    struct rpc_request *req = request_of(st);
    struct rpc_server *s = req->server;
    atomic_store_explicit(&req->canceled, true, memory_order_relaxed);
    pthread_mutex_lock(&st->lock);
    st->closed = true;
    bool finished = req->finished;
    rpc_queue_clear(&st->out);
    pthread_cond_broadcast(&st->changed);
    pthread_mutex_unlock(&st->lock);
    if (!finished && !req->dispatched) /* no handler will */
        finish(req, NULL, RPC_CANCELED, SL("context canceled"), SL(""));
    pthread_mutex_lock(&s->lock);
    if (--s->n_live == 0)
        pthread_cond_broadcast(&s->changed);
    pthread_mutex_unlock(&s->lock);
}

static void server_conn_closed(struct rpc_conn *c)
{
    struct rpc_server *s = c->owner;
    atomic_fetch_sub(&s->n_conns, 1);
    metric_add(s->m_conns, -1);
}

static void server_going_away(struct rpc_conn *c)
{
    (void)c; /* its calls go on; the connection is closed after them */
}

static void server_handshake_failed(struct rpc_conn *c, const struct err *err)
{
    struct rpc_server *s = c->owner;
    char peer[TLS_PEER_MAX];
    metric_inc(s->m_failed_handshakes);
    LOG_DEBUG("gRPC client failed to connect", {"peer", LOG_STR(tls_peer(c->fd, peer))}, {"err", LOG_ERR(err)});
}

static void server_free(struct rpc_stream *st)
{
    struct rpc_request *req = request_of(st);
    struct rpc_server *s = req->server;
    rpc_stream_release(st); /* gives back to s->memory */
    buf_release(&req->body);
    arena_release(&req->arena);
    free(req);
    rpc_server_unref(s);
}

const struct rpc_role rpc_server_role = {
    .server = true,
    .begin = server_begin,
    .header = server_header,
    .headers_done = server_headers_done,
    .message = server_message,
    .end = server_end,
    .broken = rpc_request_abort,
    .closed = server_closed,
    .kick = server_kick,
    .conn_closed = server_conn_closed,
    .going_away = server_going_away,
    .handshake_failed = server_handshake_failed,
    .free = server_free,
};
