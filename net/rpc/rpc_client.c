/*
 * The client's end: its connections. Calls are in rpc_call.c.
 *
 * A connection is made by a thread of its own (look-up, connect), so that no caller waits longer than it wants to, and
 * handed to the I/O thread then. Calls that come meanwhile wait in the client's list. States of a client:
 *
 *   IDLE --a call: rpc_client_enqueue--> CONNECTING --adopt--> READY --lost, or GOAWAY: rpc_client_set_idle--> IDLE
 *                                        CONNECTING --connect_failed--> IDLE
 *
 * After a failed attempt calls fail at once until the back-off is over. There is one such thread a client at most.
 */
#include <errno.h>
#include <netdb.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/clock.h"
#include "net/rpc/rpc_client_int.h"

#define CANCEL_POLL_MS 20 /* ctx.canceled is a flag that nobody signals */
#define LOOK_MS 60000     /* without a deadline the clock has no time far enough to wait for */
#define GONE_POLL_MS 50   /* a connecting thread looks so often whether its client is there still */

/* --- life cycle ------------------------------------------------------------------------------------------------ */

static int64_t or_default(int64_t v, int64_t def)
{
    return v > 0 ? v : def;
}

struct rpc_clients *rpc_clients_new(const struct rpc_client_config *cfg)
{
    struct rpc_clients *cs = calloc(1, sizeof *cs);
    ASSERT(cs);
    atomic_init(&cs->refs, 1);
    cs->cfg = (struct rpc_client_config){
        .max_recv_msg_bytes =
            cfg->max_recv_msg_bytes ? MIN(cfg->max_recv_msg_bytes, (uint64_t)BUF_MAX_DEFAULT) : 100 << 20,
        .connect_timeout_ms = or_default(cfg->connect_timeout_ms, 5000),
        .call_timeout_ms = or_default(cfg->call_timeout_ms, 120000),
        .backoff_min_ms = or_default(cfg->backoff_min_ms, 100),
        .backoff_max_ms = or_default(cfg->backoff_max_ms, 10000),
        .keepalive_time_ms = or_default(cfg->keepalive_time_ms, 20000),
        .keepalive_timeout_ms = or_default(cfg->keepalive_timeout_ms, 10000),
        .tls = cfg->tls,
        .cluster_label = cfg->cluster_label,
    };
    cs->codec = rpc_codec_of(slice_of(cfg->compression ? cfg->compression : ""));
    ASSERT(cs->codec != RPC_CODEC_UNKNOWN); /* rpc_client_config_check */
    pthread_mutex_init(&cs->lock, NULL);
    cs->loop = rpc_loop_new();
    struct err err = ERR_NONE;
    bool started = rpc_loop_start(cs->loop, "grpc-client", &err);
    ASSERT(started);
    return cs;
}

static void clients_unref(struct rpc_clients *cs)
{
    if (atomic_fetch_sub_explicit(&cs->refs, 1, memory_order_acq_rel) != 1)
        return;
    rpc_loop_unref(cs->loop);
    tls_context_free(cs->tls);
    pthread_mutex_destroy(&cs->lock);
    free(cs);
}

void rpc_clients_free(struct rpc_clients *cs)
{
    if (!cs)
        return;
    rpc_loop_stop(cs->loop);
    clients_unref(cs);
}

struct rpc_client *rpc_client_new(struct rpc_clients *cs, const char *address)
{
    struct rpc_client *c = calloc(1, sizeof *c);
    ASSERT(c);
    c->owner = cs;
    atomic_fetch_add_explicit(&cs->refs, 1, memory_order_relaxed);
    atomic_init(&c->refs, 1);
    const char *colon = strrchr(address, ':');
    size_t n_host = colon ? (size_t)(colon - address) : strlen(address);
    bool brackets = n_host >= 2 && address[0] == '[' && address[n_host - 1] == ']';
    c->address = strdup(address);
    c->host = brackets ? strndup(address + 1, n_host - 2) : strndup(address, n_host);
    c->port = strdup(colon ? colon + 1 : "9095");
    ASSERT(c->address && c->host && c->port);
    pthread_mutex_init(&c->lock, NULL);
    c->waiting_end = &c->waiting;
    return c;
}

void rpc_client_unref(struct rpc_client *c)
{
    if (atomic_fetch_sub_explicit(&c->refs, 1, memory_order_acq_rel) != 1)
        return;
    pthread_mutex_destroy(&c->lock);
    clients_unref(c->owner);
    free(c->address);
    free(c->host);
    free(c->port);
    free(c);
}

void rpc_client_ref(struct rpc_client *c)
{
    atomic_fetch_add_explicit(&c->refs, 1, memory_order_relaxed);
}

/* --- calls that wait for a connection -------------------------------------------------------------------------- */

/* Needs c->lock. The list's references go to the caller. */
static struct client_stream *take_waiting(struct rpc_client *c)
{
    struct client_stream *first = c->waiting;
    c->waiting = NULL;
    c->waiting_end = &c->waiting;
    for (struct client_stream *cs = first; cs; cs = cs->next_waiting)
        cs->waits = false;
    return first;
}

static void fail_all(struct client_stream *first, const struct err *err)
{
    for (struct client_stream *cs = first; cs;) {
        struct client_stream *next = cs->next_waiting;
        rpc_client_stream_end(&cs->stream, (int)rpc_code_of_err(err->code), slice_of(err->text), false);
        rpc_stream_unref(&cs->stream);
        cs = next;
    }
}

static void kick_all(struct client_stream *first)
{
    for (struct client_stream *cs = first; cs;) {
        struct client_stream *next = cs->next_waiting;
        rpc_loop_kick(&cs->stream);
        rpc_stream_unref(&cs->stream);
        cs = next;
    }
}

void rpc_client_unwait(struct client_stream *cs)
{
    struct rpc_client *c = cs->client;
    pthread_mutex_lock(&c->lock);
    bool waited = cs->waits;
    if (waited) {
        struct client_stream **p = &c->waiting;
        while (*p != cs)
            p = &(*p)->next_waiting;
        *p = cs->next_waiting;
        if (!*p)
            c->waiting_end = p;
        cs->waits = false;
    }
    pthread_mutex_unlock(&c->lock);
    if (waited)
        rpc_stream_unref(&cs->stream);
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
    rpc_client_unref(c);
}

void rpc_client_free(struct rpc_client *c)
{
    if (!c)
        return;
    pthread_mutex_lock(&c->lock);
    c->gone = true;
    struct client_stream *waiting = take_waiting(c);
    pthread_mutex_unlock(&c->lock);
    fail_all(waiting, &(struct err){.code = ERR_UNAVAILABLE, .text = "the client is closed"});
    if (!rpc_loop_post(c->owner->loop, close_conns, c)) /* takes the owner's reference along */
        rpc_client_unref(c);
}

/* --- connecting (a thread of its own) -------------------------------------------------------------------------- */

static bool is_gone(struct rpc_client *c)
{
    pthread_mutex_lock(&c->lock);
    bool gone = c->gone;
    pthread_mutex_unlock(&c->lock);
    return gone;
}

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

/* 0, or the error. */
static int await_connection(struct rpc_client *c, int fd, int64_t until_ms)
{
    struct pollfd p = {.fd = fd, .events = POLLOUT};
    for (;;) {
        int64_t left_ms = until_ms - clock_mono_ms();
        if (left_ms <= 0)
            return ETIMEDOUT;
        if (is_gone(c))
            return ECANCELED;
        int rc = poll(&p, 1, (int)MIN(left_ms, (int64_t)GONE_POLL_MS));
        if (rc < 0 && errno != EINTR)
            return errno;
        int failure = 0;
        socklen_t n = sizeof failure;
        if (rc > 0)
            return getsockopt(fd, SOL_SOCKET, SO_ERROR, &failure, &n) == 0 ? failure : errno;
    }
}

/* Returns the connected socket, or -1 with errno. */
static int connect_one(struct rpc_client *c, const struct addrinfo *a, int64_t until_ms)
{
    int fd = socket(a->ai_family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (fd < 0)
        return -1;
    int failure = connect(fd, a->ai_addr, a->ai_addrlen) == 0 ? 0 : errno;
    if (failure == EINPROGRESS)
        failure = await_connection(c, fd, until_ms);
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
        fd = connect_one(c, a, until_ms);
        if (fd < 0)
            dial_failed(c, "connect: ", connect_reason(errno), err);
    }
    freeaddrinfo(found);
    return fd;
}

/* --- TLS (the same thread) ------------------------------------------------------------------------------------- */

/* Made with the first connection; a certificate that is not there yet is a failed attempt like others. */
static struct tls_context *tls_of(struct rpc_clients *cs, struct err *err)
{
    pthread_mutex_lock(&cs->lock);
    if (!cs->tls)
        cs->tls = tls_client_new(&cs->cfg.tls, "h2", err);
    struct tls_context *tls = cs->tls;
    pthread_mutex_unlock(&cs->lock);
    return tls;
}

static bool shake(struct rpc_client *c, struct tls *tls, int fd, int64_t until_ms, struct err *err)
{
    for (;;) {
        enum tls_result result = tls_handshake(tls, err);
        if (result == TLS_DONE || result == TLS_FAILED)
            return result == TLS_DONE;
        if (clock_mono_ms() >= until_ms)
            return err_set(err, ERR_UNAVAILABLE, "TLS handshake: i/o timeout");
        if (is_gone(c))
            return err_set(err, ERR_UNAVAILABLE, "the client is closed");
        struct pollfd p = {.fd = fd, .events = result == TLS_WANT_READ ? POLLIN : POLLOUT};
        poll(&p, 1, GONE_POLL_MS);
    }
}

/* NULL: no handshake; err says why. */
static struct tls *encrypt(struct rpc_client *c, int fd, int64_t until_ms, struct err *err)
{
    struct err why = ERR_NONE;
    struct tls_context *ctx = tls_of(c->owner, &why);
    struct tls *tls = ctx ? tls_new(ctx, fd, c->host, &why) : NULL;
    if (tls && shake(c, tls, fd, until_ms, &why))
        return tls;
    tls_free(tls);
    err_set(err, ERR_UNAVAILABLE, "connection error: %s: %s", c->address, why.text);
    return NULL;
}

bool rpc_client_config_check(const struct rpc_client_config *cfg, struct err *err)
{
    if (cfg->compression && rpc_codec_of(slice_of(cfg->compression)) == RPC_CODEC_UNKNOWN)
        return err_set(err, ERR_CONFIG, "unsupported compression type: %s", cfg->compression);
    struct tls_context *tls = cfg->tls.enabled ? tls_client_new(&cfg->tls, "h2", err) : NULL;
    bool fine = tls || !cfg->tls.enabled;
    tls_context_free(tls);
    return fine;
}

/* --- connecting ------------------------------------------------------------------------------------------------ */

struct connected {
    struct rpc_client *client; /* counted; the connection's reference */
    int fd;
    struct tls *tls;
};

static void connected_free(struct connected *d)
{
    if (d->fd >= 0) {
        tls_free(d->tls);
        close(d->fd);
    }
    rpc_client_unref(d->client);
    free(d);
}

void rpc_client_set_idle(struct rpc_client *c)
{
    pthread_mutex_lock(&c->lock);
    if (c->state == CLIENT_READY)
        c->state = CLIENT_IDLE;
    pthread_mutex_unlock(&c->lock);
}

static void back_off_locked(struct rpc_client *c, const struct err *why)
{
    const struct rpc_client_config *cfg = &c->owner->cfg;
    c->backoff_ms = c->backoff_ms ? MIN(c->backoff_ms * 2, cfg->backoff_max_ms) : cfg->backoff_min_ms;
    c->retry_at_ms = clock_mono_ms() + c->backoff_ms;
    c->why = *why;
}

static void connect_failed(struct rpc_client *c, const struct err *why)
{
    pthread_mutex_lock(&c->lock);
    c->state = CLIENT_IDLE;
    back_off_locked(c, why);
    struct client_stream *waiting = take_waiting(c);
    pthread_mutex_unlock(&c->lock);
    fail_all(waiting, why);
}

/* On the I/O thread. */
static void adopt(void *arg)
{
    struct connected *d = arg;
    struct rpc_client *c = d->client;
    struct rpc_conn *conn = NULL;
    if (!is_gone(c)) {
        conn = rpc_conn_new(c->owner->loop, &rpc_client_role, c, d->fd, d->tls, 0);
        d->fd = -1;
    }
    if (!conn) {
        connect_failed(c, &(struct err){.code = ERR_UNAVAILABLE, .text = "the client is closed"});
        connected_free(d);
        return;
    }
    free(d);
    c->conn = conn;
    conn->keepalive_time_ms = c->owner->cfg.keepalive_time_ms;
    conn->keepalive_timeout_ms = c->owner->cfg.keepalive_timeout_ms;
    pthread_mutex_lock(&c->lock);
    c->state = CLIENT_READY;
    struct client_stream *waiting = take_waiting(c);
    pthread_mutex_unlock(&c->lock);
    kick_all(waiting);
    rpc_conn_flush(conn);
}

/* The state is CONNECTING, which makes this thread the only one here. */
static void *connect_now(void *arg)
{
    struct rpc_client *c = arg;
    struct err why = ERR_NONE;
    int64_t until_ms = clock_mono_ms() + c->owner->cfg.connect_timeout_ms;
    struct connected *d = calloc(1, sizeof *d);
    ASSERT(d);
    rpc_client_ref(c);
    *d = (struct connected){.client = c, .fd = dial(c, until_ms, &why)};
    bool fine = d->fd >= 0;
    if (fine && c->owner->cfg.tls.enabled) {
        d->tls = encrypt(c, d->fd, until_ms, &why);
        fine = d->tls != NULL;
    }
    if (fine && !rpc_loop_post(c->owner->loop, adopt, d))
        fine = err_set(&why, ERR_UNAVAILABLE, "the client is closed");
    if (!fine) {
        connect_failed(c, &why);
        connected_free(d);
    }
    rpc_client_unref(c);
    return NULL;
}

static void start_connecting(struct rpc_client *c)
{
    pthread_t thread;
    pthread_attr_t attr;
    rpc_client_ref(c);
    pthread_attr_init(&attr);
    pthread_attr_setdetachstate(&attr, PTHREAD_CREATE_DETACHED);
    int rc = pthread_create(&thread, &attr, connect_now, c);
    pthread_attr_destroy(&attr);
    if (rc == 0)
        return;
    struct err err = ERR_NONE;
    err_errno(&err, ERR_UNAVAILABLE, rc, "creating a thread");
    connect_failed(c, &err);
    rpc_client_unref(c);
}

bool rpc_client_enqueue(struct rpc_client *c, struct client_stream *cs, struct err *err)
{
    bool fine = true;
    bool connect_here = false;
    pthread_mutex_lock(&c->lock);
    bool ready = c->state == CLIENT_READY;
    if (c->state == CLIENT_IDLE) {
        if (clock_mono_ms() < c->retry_at_ms)
            fine = err_set(err, c->why.code, "%s", c->why.text);
        else
            connect_here = true;
    }
    if (connect_here)
        c->state = CLIENT_CONNECTING;
    if (fine && !ready) {
        rpc_stream_ref(&cs->stream);
        cs->waits = true;
        cs->next_waiting = NULL;
        *c->waiting_end = cs;
        c->waiting_end = &cs->next_waiting;
    }
    pthread_mutex_unlock(&c->lock);
    if (connect_here)
        start_connecting(c);
    if (ready)
        rpc_loop_kick(&cs->stream);
    return fine;
}

int64_t rpc_client_next_look_ms(int64_t deadline_ms, const struct ctx *ctx)
{
    return MIN(deadline_ms, clock_mono_ms() + (ctx && ctx->canceled ? CANCEL_POLL_MS : LOOK_MS));
}

bool rpc_client_may_wait(const struct ctx *ctx, int64_t deadline_ms, struct err *err)
{
    if (ctx && !ctx_check(ctx, err))
        return false;
    return clock_mono_ms() < deadline_ms || err_set(err, ERR_TIMEOUT, "context deadline exceeded");
}

/* --- the connection's end (I/O thread) -------------------------------------------------------------------------- */

void rpc_client_going_away(struct rpc_conn *conn)
{
    struct rpc_client *c = conn->owner;
    if (c->conn == conn) {
        c->conn = NULL;
        rpc_client_set_idle(c);
    }
}

/* A server that closes before it has said anything (it may not like our certificate) is as good as none. */
static void count_closing(struct rpc_conn *conn)
{
    struct rpc_client *c = conn->owner;
    const char *reason = conn->tls ? tls_reason(conn->tls) : "";
    struct err why = ERR_NONE;
    err_set(&why, ERR_UNAVAILABLE, "connection error: %s: closed before the server preface was received%s%s", c->address,
            reason[0] ? ": " : "", reason);
    pthread_mutex_lock(&c->lock);
    if (conn->heard)
        c->backoff_ms = 0;
    else if (!c->gone)
        back_off_locked(c, &why);
    pthread_mutex_unlock(&c->lock);
}

void rpc_client_conn_closed(struct rpc_conn *conn)
{
    count_closing(conn);
    rpc_client_going_away(conn);
    rpc_client_unref(conn->owner);
}
