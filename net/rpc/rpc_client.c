/*
 * The client's end: its connections. Calls are in rpc_call.c.
 *
 * A connection is made by the thread that needs it first (look-up, connect; others wait for it up to their deadline),
 * then handed to the I/O thread. States of a client: IDLE -> CONNECTING (one caller connects) -> READY (the I/O thread
 * has the connection) -> IDLE (it was lost, or the server says GOAWAY). After a failed attempt calls fail at once until
 * the back-off is over.
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
#include "net/rpc/rpc_client_int.h"

#define CANCEL_POLL_MS 20 /* ctx.canceled is a flag that nobody signals */
#define LOOK_MS 60000     /* without a deadline the clock has no time far enough to wait for */

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
        .max_recv_msg_bytes =
            cfg->max_recv_msg_bytes ? MIN(cfg->max_recv_msg_bytes, (uint64_t)BUF_MAX_DEFAULT) : 100 << 20,
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

void rpc_client_unref(struct rpc_client *c)
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

void rpc_client_ref(struct rpc_client *c)
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
    rpc_client_unref(c);
}

void rpc_client_free(struct rpc_client *c)
{
    if (!c)
        return;
    pthread_mutex_lock(&c->lock);
    c->gone = true;
    pthread_mutex_unlock(&c->lock);
    if (!rpc_loop_post(c->owner->loop, close_conns, c)) /* takes the owner's reference along */
        rpc_client_unref(c);
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

void rpc_client_set_idle(struct rpc_client *c)
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
        conn = rpc_conn_new(c->owner->loop, &rpc_client_role, c, d->fd, 0);
    free(d);
    if (!conn) {
        rpc_client_set_idle(c);
        rpc_client_unref(c);
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
        rpc_client_ref(c);
        pthread_mutex_lock(&c->lock); /* READY before the I/O thread may say IDLE */
        c->state = CLIENT_READY;
        pthread_mutex_unlock(&c->lock);
        ready = rpc_loop_post(c->owner->loop, adopt, d);
        if (!ready) {
            free(d);
            close(fd);
            rpc_client_unref(c);
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

bool rpc_client_connect(struct rpc_client *c, const struct ctx *ctx, int64_t deadline_ms, struct err *err)
{
    pthread_mutex_lock(&c->lock);
    bool fine = rpc_client_may_wait(ctx, deadline_ms, err);
    while (fine && c->state == CLIENT_CONNECTING) {
        int64_t until_ms = rpc_client_next_look_ms(deadline_ms, ctx);
        struct timespec ts = {.tv_sec = until_ms / 1000, .tv_nsec = until_ms % 1000 * 1000000};
        pthread_cond_timedwait(&c->changed, &c->lock, &ts);
        fine = rpc_client_may_wait(ctx, deadline_ms, err);
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

/* --- the connection's end (I/O thread)
 * --------------------------------------------------------------------------------------- */

void rpc_client_going_away(struct rpc_conn *conn)
{
    struct rpc_client *c = conn->owner;
    if (c->conn == conn) {
        c->conn = NULL;
        rpc_client_set_idle(c);
    }
}

void rpc_client_conn_closed(struct rpc_conn *conn)
{
    rpc_client_going_away(conn);
    rpc_client_unref(conn->owner);
}
