/*
 * A connection's socket, plain or with TLS: reading into the session, writing what it makes. On the connection's I/O
 * thread; nothing here waits.
 */
#include <errno.h>
#include <sys/epoll.h>
#include <sys/socket.h>

#include "base/clock.h"
#include "net/rpc/rpc_int.h"

#define READ_BYTES 65536
#define READS 16 /* of one connection before others have their turn */

bool rpc_conn_feed(struct rpc_conn *c, struct slice in)
{
    c->heard_ms = clock_mono_ms();
    ssize_t n = nghttp2_session_mem_recv(c->session, (const uint8_t *)in.p, in.n);
    return n >= 0 && (size_t)n == in.n;
}

static bool collect(struct rpc_conn *c)
{
    while (c->out.n < RPC_WRITE_BYTES) {
        const uint8_t *p;
        ssize_t n = nghttp2_session_mem_send(c->session, &p);
        if (n < 0)
            return false;
        if (n == 0)
            return true;
        buf_put(&c->out, p, (size_t)n);
    }
    return !c->out.failed;
}

static bool want_out(struct rpc_conn *c, bool wants)
{
    if (c->wants_out == wants)
        return true;
    struct epoll_event ev = {.events = EPOLLIN | EPOLLRDHUP | (wants ? (uint32_t)EPOLLOUT : 0), .data.ptr = &c->watch};
    c->wants_out = wants;
    return epoll_ctl(c->loop->epoll_fd, EPOLL_CTL_MOD, c->fd, &ev) == 0;
}

static ssize_t give_out(struct rpc_conn *c, const void *p, size_t n)
{
    return c->tls ? tls_write(c->tls, p, n) : send(c->fd, p, n, MSG_NOSIGNAL);
}

static ssize_t take_in(struct rpc_conn *c, void *p, size_t n)
{
    return c->tls ? tls_read(c->tls, p, n) : recv(c->fd, p, n, 0);
}

/* False: the connection is broken. *ret_full: the socket takes no more now. */
static bool write_out(struct rpc_conn *c, bool *ret_full)
{
    *ret_full = false;
    while (c->out_sent < c->out.n && c->fd >= 0) {
        ssize_t n = give_out(c, c->out.p + c->out_sent, c->out.n - c->out_sent);
        if (n >= 0) {
            c->out_sent += (size_t)n;
        } else if (errno == EAGAIN || errno == EWOULDBLOCK) {
            *ret_full = true;
            return true;
        } else if (errno != EINTR) {
            return false;
        }
    }
    buf_clear(&c->out);
    c->out_sent = 0;
    return true;
}

bool rpc_conn_flush(struct rpc_conn *c)
{
    if (c->shaking && !c->going_away)
        return true;
    bool full = false;
    bool fine = !c->shaking && write_out(c, &full);
    while (fine && !full) {
        fine = collect(c);
        if (c->out.n == 0)
            break;
        fine = fine && write_out(c, &full);
    }
    if (fine && c->fd >= 0)
        fine = want_out(c, full);
    bool over = !full && !nghttp2_session_want_read(c->session) && !nghttp2_session_want_write(c->session);
    over = over || (c->doomed && !full);
    if (fine && !over && !(c->going_away && !full && c->n_streams == 0 && !nghttp2_session_want_write(c->session)))
        return true;
    rpc_conn_close(c);
    return false;
}

/* The server's end of a handshake; the client's is done before there is a connection here. False: c is closed. */
static bool shake(struct rpc_conn *c)
{
    struct err err = ERR_NONE;
    enum tls_result result = tls_handshake(c->tls, &err);
    if (result == TLS_FAILED)
        c->role->handshake_failed(c, &err);
    if (result == TLS_FAILED || !want_out(c, result == TLS_WANT_WRITE)) {
        rpc_conn_close(c);
        return false;
    }
    c->shaking = result != TLS_DONE;
    return true;
}

void rpc_conn_ready(struct rpc_watch *w, uint32_t events)
{
    struct rpc_conn *c = CONTAINER_OF(w, struct rpc_conn, watch);
    if (c->shaking && (!shake(c) || c->shaking))
        return;
    char piece[READ_BYTES];
    bool fine = true;
    bool over = false;
    for (int i = 0; fine && !over && i < READS && events & (EPOLLIN | EPOLLRDHUP | EPOLLHUP | EPOLLERR); i++) {
        ssize_t n = take_in(c, piece, sizeof piece);
        if (n > 0)
            fine = rpc_conn_feed(c, slice_make(piece, (size_t)n));
        else if (n < 0 && (errno == EAGAIN || errno == EINTR))
            break;
        else
            over = true;
        if (!c->tls && n < (ssize_t)sizeof piece) /* TLS gives a record at a time */
            break;
    }
    if (!rpc_conn_flush(c)) /* a broken session has its GOAWAY to say */
        return;
    if (!fine || over)
        rpc_conn_close(c);
}
