/*
 * The client's end: connections, calls and streams.
 *
 * A connection is made by the thread that needs it first (look-up, connect; others wait for it up to their deadline), then handed to the I/O thread. States of a client:
 * IDLE -> CONNECTING (one caller connects) -> READY (the I/O thread has the connection) -> IDLE (it was lost, or the server says GOAWAY). After a
 * failed attempt calls fail at once until the back-off is over.
 *
 * A call is a stream: the caller makes it and kicks it; the I/O thread submits it and fills `got`, `status` and `closed`; the caller waits for these.
 */
#include <errno.h>
#include <netdb.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#include "base/clock.h"
#include "net/rpc/rpc_int.h"

#define CANCEL_POLL_MS 20 /* ctx.canceled is a flag that nobody signals */
#define ATTEMPTS 2

struct rpc_clients {
    struct rpc_client_config cfg; /* immutable, as all */
    struct rpc_loop *loop;
};

enum client_state { CLIENT_IDLE, CLIENT_CONNECTING, CLIENT_READY };

struct rpc_client {
    struct rpc_clients *owner;
    atomic_int refs; /* the owner, its connections, its streams */
    char *address, *host, *port;

    pthread_mutex_t lock;
    pthread_cond_t changed; /* lock */
    enum client_state state;
    int64_t backoff_ms;  /* the last one; 0 after a success */
    int64_t retry_at_ms; /* calls before fail with `why` */
    struct err why;
    bool gone; /* rpc_client_free was called */

    struct rpc_conn *conn; /* owned by the I/O thread; NULL: none that takes calls */
};

struct client_stream {
    struct rpc_stream stream;
    struct rpc_client *client; /* counted */
    const struct ctx *ctx;
    int64_t deadline_ms;
    char *method;
    struct rpc_kv *metadata; /* names and values in `bytes` */
    size_t n_metadata;
    char *bytes;
    /* Owned by the I/O thread. */
    int http_status;
    bool submitted;
    /* Guarded by stream.lock. */
    bool unprocessed; /* the server has certainly not begun it */
};

static const struct rpc_role client_role;

static struct client_stream *client_of(struct rpc_stream *st)
{
    return CONTAINER_OF(st, struct client_stream, stream);
}

/* --- life cycle ------------------------------------------------------------------------------------------------ */

static int64_t or_default(int64_t v, int64_t def)
{
    return v > 0 ? v : def;
}

struct rpc_clients *rpc_clients_new(const struct rpc_client_config *cfg)
{
    struct rpc_clients *cs = calloc(1, sizeof *cs);
    ASSERT(cs);
    cs->cfg = (struct rpc_client_config){
        .max_recv_msg_bytes = cfg->max_recv_msg_bytes ? MIN(cfg->max_recv_msg_bytes, (uint64_t)BUF_MAX_DEFAULT) : 100 << 20,
        .connect_timeout_ms = or_default(cfg->connect_timeout_ms, 5000),
        .call_timeout_ms = or_default(cfg->call_timeout_ms, 120000),
        .backoff_min_ms = or_default(cfg->backoff_min_ms, 100),
        .backoff_max_ms = or_default(cfg->backoff_max_ms, 10000),
        .keepalive_time_ms = or_default(cfg->keepalive_time_ms, 20000),
        .keepalive_timeout_ms = or_default(cfg->keepalive_timeout_ms, 10000),
    };
    cs->loop = rpc_loop_new();
    struct err err = ERR_NONE;
    bool started = rpc_loop_start(cs->loop, "grpc-client", &err);
    ASSERT(started);
    return cs;
}

void rpc_clients_free(struct rpc_clients *cs)
{
    if (!cs)
        return;
    rpc_loop_stop(cs->loop);
    rpc_loop_unref(cs->loop);
    free(cs);
}

struct rpc_client *rpc_client_new(struct rpc_clients *cs, const char *address)
{
    struct rpc_client *c = calloc(1, sizeof *c);
    ASSERT(c);
    c->owner = cs;
    atomic_init(&c->refs, 1);
    const char *colon = strrchr(address, ':');
    size_t n_host = colon ? (size_t)(colon - address) : strlen(address);
    bool brackets = n_host >= 2 && address[0] == '[' && address[n_host - 1] == ']';
    c->address = strdup(address);
    c->host = brackets ? strndup(address + 1, n_host - 2) : strndup(address, n_host);
    c->port = strdup(colon ? colon + 1 : "9095");
    ASSERT(c->address && c->host && c->port);
    pthread_mutex_init(&c->lock, NULL);
    pthread_condattr_t attr;
    pthread_condattr_init(&attr);
    pthread_condattr_setclock(&attr, CLOCK_MONOTONIC);
    pthread_cond_init(&c->changed, &attr);
    pthread_condattr_destroy(&attr);
    return c;
}

static void client_unref(struct rpc_client *c)
{
    if (atomic_fetch_sub_explicit(&c->refs, 1, memory_order_acq_rel) != 1)
        return;
    pthread_cond_destroy(&c->changed);
    pthread_mutex_destroy(&c->lock);
    free(c->address);
    free(c->host);
    free(c->port);
    free(c);
}

static void client_ref(struct rpc_client *c)
{
    atomic_fetch_add_explicit(&c->refs, 1, memory_order_relaxed);
}

/* All connections of the client, also those that go away. */
static void close_conns(void *arg)
{
    struct rpc_client *c = arg;
    for (struct rpc_conn *conn = c->owner->loop->conns; conn;) {
        struct rpc_conn *next = conn->next;
        if (conn->owner == c)
            rpc_conn_close(conn);
        conn = next;
    }
    client_unref(c);
}

void rpc_client_free(struct rpc_client *c)
{
    if (!c)
        return;
    pthread_mutex_lock(&c->lock);
    c->gone = true;
    pthread_mutex_unlock(&c->lock);
    if (!rpc_loop_post(c->owner->loop, close_conns, c)) /* takes the owner's reference along */
        client_unref(c);
}

/* --- connecting (a caller's thread) ---------------------------------------------------------------------------- */

static bool dial_failed(struct rpc_client *c, const char *what, const char *why, struct err *err)
{
    return err_set(err, ERR_UNAVAILABLE, "connection error: dial tcp %s: %s%s", c->address, what, why);
}

static const char *connect_reason(int errnum)
{
    switch (errnum) {
    case ECONNREFUSED:
        return "connection refused";
    case ETIMEDOUT:
        return "i/o timeout";
    case EHOSTUNREACH:
        return "no route to host";
    case ENETUNREACH:
        return "network is unreachable";
    default:
        return strerror(errnum);
    }
}

/* Returns the connected socket, or -1 with errno. */
static int connect_one(const struct addrinfo *a, int64_t until_ms)
{
    int fd = socket(a->ai_family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (fd < 0)
        return -1;
    int failure = connect(fd, a->ai_addr, a->ai_addrlen) == 0 ? 0 : errno;
    if (failure == EINPROGRESS) {
        struct pollfd p = {.fd = fd, .events = POLLOUT};
        socklen_t n = sizeof failure;
        int rc;
        do
            rc = poll(&p, 1, (int)MIN(MAX(until_ms - clock_mono_ms(), (int64_t)0), (int64_t)INT32_MAX));
        while (rc < 0 && errno == EINTR);
        if (rc == 0)
            failure = ETIMEDOUT;
        else if (rc < 0 || getsockopt(fd, SOL_SOCKET, SO_ERROR, &failure, &n) != 0)
            failure = errno;
    }
    if (failure == 0)
        return fd;
    close(fd);
    errno = failure;
    return -1;
}

static int dial(struct rpc_client *c, int64_t until_ms, struct err *err)
{
    struct addrinfo hints = {.ai_family = AF_UNSPEC, .ai_socktype = SOCK_STREAM};
    struct addrinfo *found = NULL;
    int rc = getaddrinfo(c->host, c->port, &hints, &found);
    if (rc) {
        dial_failed(c, "lookup: ", rc == EAI_NONAME ? "no such host" : gai_strerror(rc), err);
        return -1;
    }
    int fd = -1;
    for (struct addrinfo *a = found; a && fd < 0; a = a->ai_next) {
        fd = connect_one(a, until_ms);
        if (fd < 0)
            dial_failed(c, "connect: ", connect_reason(errno), err);
    }
    freeaddrinfo(found);
    return fd;
}

struct connected {
    struct rpc_client *client; /* counted; the connection's reference */
    int fd;
};

static void set_idle(struct rpc_client *c)
{
    pthread_mutex_lock(&c->lock);
    if (c->state == CLIENT_READY)
        c->state = CLIENT_IDLE;
    pthread_mutex_unlock(&c->lock);
}

/* On the I/O thread. */
static void adopt(void *arg)
{
    struct connected *d = arg;
    struct rpc_client *c = d->client;
    pthread_mutex_lock(&c->lock);
    bool gone = c->gone;
    pthread_mutex_unlock(&c->lock);
    struct rpc_conn *conn = NULL;
    if (gone)
        close(d->fd);
    else
        conn = rpc_conn_new(c->owner->loop, &client_role, c, d->fd, 0);
    free(d);
    if (!conn) {
        set_idle(c);
        client_unref(c);
        return;
    }
    c->conn = conn;
    conn->keepalive_time_ms = c->owner->cfg.keepalive_time_ms;
    conn->keepalive_timeout_ms = c->owner->cfg.keepalive_timeout_ms;
    rpc_conn_flush(conn);
}

/* The state is CONNECTING, which makes this thread the only one here. */
static bool connect_now(struct rpc_client *c, int64_t deadline_ms, struct err *err)
{
    const struct rpc_client_config *cfg = &c->owner->cfg;
    int64_t until_ms = MIN(deadline_ms, clock_mono_ms() + cfg->connect_timeout_ms);
    struct err why = ERR_NONE;
    int fd = dial(c, until_ms, &why);
    bool ready = false;
    if (fd >= 0) {
        struct connected *d = calloc(1, sizeof *d);
        ASSERT(d);
        *d = (struct connected){.client = c, .fd = fd};
        client_ref(c);
        pthread_mutex_lock(&c->lock); /* READY before the I/O thread may say IDLE */
        c->state = CLIENT_READY;
        pthread_mutex_unlock(&c->lock);
        ready = rpc_loop_post(c->owner->loop, adopt, d);
        if (!ready) {
            free(d);
            close(fd);
            client_unref(c);
            err_set(&why, ERR_UNAVAILABLE, "the client is closed");
        }
    }
    pthread_mutex_lock(&c->lock);
    if (ready) {
        c->backoff_ms = 0;
    } else {
        c->state = CLIENT_IDLE;
        c->backoff_ms = c->backoff_ms ? MIN(c->backoff_ms * 2, cfg->backoff_max_ms) : cfg->backoff_min_ms;
        c->retry_at_ms = clock_mono_ms() + c->backoff_ms;
        c->why = why;
        err_set(err, why.code, "%s", why.text);
    }
    pthread_cond_broadcast(&c->changed);
    pthread_mutex_unlock(&c->lock);
    return ready;
}

static int64_t next_look_ms(int64_t deadline_ms, const struct ctx *ctx)
{
    return ctx && ctx->canceled ? MIN(deadline_ms, clock_mono_ms() + CANCEL_POLL_MS) : deadline_ms;
}

/* ERR_CANCELED or ERR_TIMEOUT. */
static bool may_wait(const struct ctx *ctx, int64_t deadline_ms, struct err *err)
{
    if (ctx && !ctx_check(ctx, err))
        return false;
    return clock_mono_ms() < deadline_ms || err_set(err, ERR_TIMEOUT, "context deadline exceeded");
}

static bool ensure_connection(struct rpc_client *c, const struct ctx *ctx, int64_t deadline_ms, struct err *err)
{
    pthread_mutex_lock(&c->lock);
    bool fine = may_wait(ctx, deadline_ms, err);
    while (fine && c->state == CLIENT_CONNECTING) {
        int64_t until_ms = next_look_ms(deadline_ms, ctx);
        struct timespec ts = {.tv_sec = until_ms / 1000, .tv_nsec = until_ms % 1000 * 1000000};
        pthread_cond_timedwait(&c->changed, &c->lock, &ts);
        fine = may_wait(ctx, deadline_ms, err);
    }
    bool connect_here = false;
    if (fine && c->state == CLIENT_IDLE) {
        if (clock_mono_ms() < c->retry_at_ms)
            fine = err_set(err, c->why.code, "%s", c->why.text);
        else
            connect_here = true;
    }
    if (connect_here)
        c->state = CLIENT_CONNECTING;
    pthread_mutex_unlock(&c->lock);
    return connect_here ? connect_now(c, deadline_ms, err) : fine;
}

/* --- the I/O thread -------------------------------------------------------------------------------------------- */

/* The first end counts. */
static void end_stream(struct rpc_stream *st, int code, struct slice text, bool unprocessed)
{
    pthread_mutex_lock(&st->lock);
    if (!st->has_status) {
        st->has_status = true;
        st->status.code = code;
        snprintf(st->status.text, sizeof st->status.text, "%.*s", SL_FMT(text));
    }
    if (!st->closed) {
        st->closed = true;
        client_of(st)->unprocessed = unprocessed;
    }
    pthread_cond_broadcast(&st->changed);
    pthread_mutex_unlock(&st->lock);
}

static void reset(struct rpc_stream *st)
{
    st->failed = true;
    if (st->conn)
        nghttp2_submit_rst_stream(st->conn->session, NGHTTP2_FLAG_NONE, st->id, NGHTTP2_CANCEL);
}

static void submit(struct rpc_stream *st)
{
    struct client_stream *cs = client_of(st);
    struct rpc_client *c = cs->client;
    if (!c->conn) {
        end_stream(st, RPC_UNAVAILABLE, SL("the connection was lost before the call was sent"), true);
        return;
    }
    char timeout[16];
    rpc_timeout_format(cs->deadline_ms - clock_mono_ms(), timeout);
    nghttp2_nv *nv = calloc(8 + cs->n_metadata, sizeof *nv);
    ASSERT(nv);
    size_t n = 0;
    nv[n++] = rpc_nv(SL(":method"), SL("POST"));
    nv[n++] = rpc_nv(SL(":scheme"), SL("http"));
    nv[n++] = rpc_nv(SL(":path"), slice_of(cs->method));
    nv[n++] = rpc_nv(SL(":authority"), slice_of(c->address));
    nv[n++] = rpc_nv(SL("te"), SL("trailers"));
    nv[n++] = rpc_nv(SL("content-type"), SL("application/grpc"));
    nv[n++] = rpc_nv(SL("user-agent"), SL("brunn-grpc/" BRUNN_VERSION));
    nv[n++] = rpc_nv(SL("grpc-timeout"), slice_of(timeout));
    for (size_t i = 0; i < cs->n_metadata; i++)
        nv[n++] = rpc_nv(cs->metadata[i].name, cs->metadata[i].value);
    nghttp2_data_provider body = rpc_conn_body(st);
    int32_t id = nghttp2_submit_request(c->conn->session, NULL, nv, n, &body, st);
    free(nv);
    if (id < 0) {
        end_stream(st, RPC_UNAVAILABLE, SL("the connection takes no more calls"), true);
        c->conn->going_away = true; /* out of stream ids */
        c->conn = NULL;
        set_idle(c);
        return;
    }
    rpc_conn_link(c->conn, st, id);
}

static void client_kick(struct rpc_stream *st)
{
    pthread_mutex_lock(&st->lock);
    bool wants_reset = st->reset;
    pthread_mutex_unlock(&st->lock);
    struct client_stream *cs = client_of(st);
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
    struct client_stream *cs = client_of(st);
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
        if (!rpc_base64_decode(value, &st->status.details))
            buf_clear(&st->status.details);
    }
    pthread_mutex_unlock(&st->lock);
    if (slice_eq(name, SL("grpc-encoding")))
        st->in.gzip = slice_eq(value, SL("gzip"));
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
        rpc_queue_push(&st->got, msg);
    pthread_cond_broadcast(&st->changed);
    pthread_mutex_unlock(&st->lock);
}

static void client_broken(struct rpc_stream *st, int code, struct slice text)
{
    end_stream(st, code, text, false);
    reset(st);
}

static void client_end(struct rpc_stream *st)
{
    if (!rpc_frames_between(&st->in))
        client_broken(st, RPC_INTERNAL, SL("the answer ended in the middle of a message"));
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
    struct client_stream *cs = client_of(st);
    char text[96];
    if (conn_lost) {
        end_stream(st, RPC_UNAVAILABLE, SL("the connection was lost"), false);
    } else if (h2_error == NGHTTP2_NO_ERROR) {
        snprintf(text, sizeof text, "unexpected HTTP status code received from server: %d", cs->http_status);
        end_stream(st, cs->http_status == 200 ? RPC_INTERNAL : code_of_http(cs->http_status),
                   cs->http_status == 200 ? SL("server closed the stream without sending trailers") : slice_of(text), false);
    } else {
        snprintf(text, sizeof text, "stream terminated by RST_STREAM with error code: %s", nghttp2_http2_strerror(h2_error));
        int code = h2_error == NGHTTP2_REFUSED_STREAM       ? RPC_UNAVAILABLE
                   : h2_error == NGHTTP2_CANCEL             ? RPC_CANCELED
                   : h2_error == NGHTTP2_ENHANCE_YOUR_CALM  ? RPC_RESOURCE_EXHAUSTED
                   : h2_error == NGHTTP2_INADEQUATE_SECURITY ? RPC_PERMISSION_DENIED
                                                            : RPC_INTERNAL;
        end_stream(st, code, slice_of(text), h2_error == NGHTTP2_REFUSED_STREAM);
    }
}

static void client_going_away(struct rpc_conn *conn)
{
    struct rpc_client *c = conn->owner;
    if (c->conn == conn) {
        c->conn = NULL;
        set_idle(c);
    }
}

static void client_conn_closed(struct rpc_conn *conn)
{
    client_going_away(conn);
    client_unref(conn->owner);
}

static void client_free(struct rpc_stream *st)
{
    struct client_stream *cs = client_of(st);
    struct rpc_client *c = cs->client;
    rpc_stream_release(st);
    free(cs->method);
    free(cs->metadata);
    free(cs->bytes);
    free(cs);
    client_unref(c);
}

static const struct rpc_role client_role = {
    .server = false,
    .header = client_header,
    .headers_done = client_headers_done,
    .message = client_message,
    .end = client_end,
    .broken = client_broken,
    .closed = client_closed,
    .kick = client_kick,
    .conn_closed = client_conn_closed,
    .going_away = client_going_away,
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

static int64_t call_deadline_ms(const struct rpc_client *c, const struct ctx *ctx)
{
    return ctx && ctx->deadline_ms ? ctx->deadline_ms : clock_mono_ms() + c->owner->cfg.call_timeout_ms;
}

static struct rpc_stream *open_stream(struct rpc_client *c, const struct rpc_args *args, int64_t deadline_ms)
{
    struct client_stream *cs = calloc(1, sizeof *cs);
    ASSERT(cs);
    struct rpc_stream *st = &cs->stream;
    rpc_stream_init(st, &client_role, c->owner->loop);
    client_ref(c);
    cs->client = c;
    cs->ctx = args->ctx;
    cs->deadline_ms = deadline_ms;
    cs->method = strdup(args->method);
    ASSERT(cs->method);
    copy_metadata(cs, args);
    st->in.max_bytes = c->owner->cfg.max_recv_msg_bytes;
    struct buf body = {0};
    struct err err = ERR_NONE;
    if (!ensure_connection(c, args->ctx, cs->deadline_ms, &err)) {
        end_stream(st, (int)rpc_code_of_err(err.code), slice_of(err.text), false);
        return st;
    }
    buf_put_slice(&body, args->request);
    if (body.failed) {
        end_stream(st, RPC_RESOURCE_EXHAUSTED, SL("no memory for the request"), false);
        return st;
    }
    rpc_queue_push(&st->out, &body);
    st->out_end = true;
    rpc_loop_kick(st);
    return st;
}

struct rpc_stream *rpc_stream_open(struct rpc_client *c, const struct rpc_args *args)
{
    return open_stream(c, args, call_deadline_ms(c, args->ctx));
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
    struct client_stream *cs = client_of(st);
    struct err err = ERR_NONE;
    bool gave_up = false;
    pthread_mutex_lock(&st->lock);
    while (!st->got.first && !st->closed) {
        if (may_wait(cs->ctx, cs->deadline_ms, &err)) {
            rpc_stream_wait(st, next_look_ms(cs->deadline_ms, cs->ctx));
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
    if (running)
        rpc_loop_kick(st);
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
    *ret_again = client_of(st)->unprocessed;
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
    int64_t deadline_ms = call_deadline_ms(c, args->ctx);
    bool again = true;
    bool fine = false;
    for (int i = 0; i < ATTEMPTS && again && !fine; i++)
        fine = try_call(c, args, deadline_ms, ret_answer, ret_status, &again);
    return fine;
}
