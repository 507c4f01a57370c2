/*
 * The event thread: all sockets, none of which blocks. A round: under the lock let the core do what is due and take its
 * outbox; without it, connect, read and write. What was read is given to the core under the lock.
 */
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/assert.h"
#include "base/clock.h"
#include "ring/memberlist/memberlist_int.h"

#define IN_MAX_BYTES                                                                                                   \
    ((size_t)32 << 20) /* LZW of what cannot be compressed is up to 1.5 times as large as the state                    \
                        */
#define READ_BYTES 65536
#define EVENTS 64

static void sockaddr_of(const struct gossip_addr *a, struct sockaddr_in6 *ret)
{
    *ret = (struct sockaddr_in6){.sin6_family = AF_INET6, .sin6_port = htons(a->port)};
    if (a->n == 16) {
        memcpy(&ret->sin6_addr, a->ip, 16);
    } else {
        ret->sin6_addr.s6_addr[10] = ret->sin6_addr.s6_addr[11] = 0xff;
        memcpy(ret->sin6_addr.s6_addr + 12, a->ip, 4);
    }
}

/* IPv4 goes by AF_INET: a machine may have IPv6 switched off. */
static socklen_t plain_sockaddr(const struct sockaddr_in6 *in6, struct sockaddr_storage *ret)
{
    if (!IN6_IS_ADDR_V4MAPPED(&in6->sin6_addr)) {
        memcpy(ret, in6, sizeof *in6);
        return sizeof *in6;
    }
    struct sockaddr_in in4 = {.sin_family = AF_INET, .sin_port = in6->sin6_port};
    memcpy(&in4.sin_addr, in6->sin6_addr.s6_addr + 12, 4);
    memcpy(ret, &in4, sizeof in4);
    return sizeof in4;
}

static bool listen_at(struct memberlist *m, const struct gossip_addr *at, struct err *err)
{
    struct sockaddr_in6 in6;
    struct sockaddr_storage sa = {0};
    sockaddr_of(at, &in6);
    socklen_t n = plain_sockaddr(&in6, &sa);
    int one = 1;
    m->listen_fd = socket(sa.ss_family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    if (m->listen_fd < 0)
        return err_errno(err, ERR_IO, errno, "memberlist: socket");
    setsockopt(m->listen_fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one);
    if (bind(m->listen_fd, (struct sockaddr *)&sa, n) != 0 || listen(m->listen_fd, 512) != 0 ||
        getsockname(m->listen_fd, (struct sockaddr *)&sa, &n) != 0)
        return err_errno(err, ERR_IO, errno, "memberlist: listening on port %u", at->port);
    m->port = ntohs(sa.ss_family == AF_INET ? ((struct sockaddr_in *)&sa)->sin_port
                                            : ((struct sockaddr_in6 *)&sa)->sin6_port);
    return true;
}

static bool watch_fd(struct memberlist *m, int fd, uint32_t events, void *ptr, int op)
{
    struct epoll_event ev = {.events = events, .data.ptr = ptr};
    return epoll_ctl(m->epoll_fd, op, fd, &ev) == 0;
}

bool event_init(struct memberlist *m, struct err *err)
{
    struct gossip_addr at;
    struct slice ip = m->cfg.bind_addr[0] ? slice_of(m->cfg.bind_addr) : SL("0.0.0.0");
    char text[80];
    bool is_v6 = memchr(ip.p, ':', ip.n) != NULL;
    snprintf(text, sizeof text, is_v6 ? "[%.*s]:1" : "%.*s:1", SL_FMT(ip));
    if (!addr_from_text(slice_of(text), &at))
        return err_set(err, ERR_CONFIG, "memberlist: bind address %s is no IP address", m->cfg.bind_addr);
    at.port = m->cfg.bind_port;
    if (!listen_at(m, &at, err))
        return false;
    m->epoll_fd = epoll_create1(EPOLL_CLOEXEC);
    m->wake_fd = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);
    if (m->epoll_fd < 0 || m->wake_fd < 0 || !watch_fd(m, m->listen_fd, EPOLLIN, &m->listen_fd, EPOLL_CTL_ADD) ||
        !watch_fd(m, m->wake_fd, EPOLLIN, &m->wake_fd, EPOLL_CTL_ADD))
        return err_errno(err, ERR_IO, errno, "memberlist: epoll");
    return true;
}

static void conn_free(struct conn *c)
{
    close(c->fd);
    buf_release(&c->in);
    buf_release(&c->out);
    free(c);
}

void event_release(struct memberlist *m)
{
    while (m->conns) {
        struct conn *c = m->conns;
        m->conns = c->next;
        conn_free(c);
    }
    int fds[] = {m->listen_fd, m->epoll_fd, m->wake_fd};
    for (size_t i = 0; i < ARRAY_LEN(fds); i++)
        if (fds[i] >= 0)
            close(fds[i]);
}

void event_wake(struct memberlist *m)
{
    uint64_t one = 1;
    ssize_t n = write(m->wake_fd, &one, sizeof one);
    (void)n; /* full means that it is awake */
}

/* --- connections -------------------------------------------------------------------------------------------------- */

static struct conn *conn_new(struct memberlist *m, int fd, enum conn_kind kind, int64_t timeout_ms)
{
    struct conn *c = must(calloc(1, sizeof *c));
    c->fd = fd;
    c->kind = kind;
    c->deadline_ms = clock_mono_ms() + timeout_ms;
    buf_init(&c->in, IN_MAX_BYTES);
    buf_init(&c->out, 0);
    c->next = m->conns;
    m->conns = c;
    if (kind == CONN_IN)
        m->n_conns_in++;
    else
        m->n_conns_out++;
    return c;
}

static void count_failed(struct memberlist *m, enum conn_kind kind)
{
    pthread_mutex_lock(&m->lock);
    if (kind == CONN_IN)
        m->core.stats.packets_in_errors++;
    else if (kind == CONN_OUT_PACKET)
        m->core.stats.packets_out_errors++;
    else
        m->core.stats.streams_failed++;
    pthread_mutex_unlock(&m->lock);
}

/* A join that ended, well or not, is news for the join thread. */
static void join_done(struct memberlist *m, bool ok)
{
    pthread_mutex_lock(&m->lock);
    m->joined |= ok;
    m->joins_ok += ok;
    m->joins_done++;
    pthread_cond_broadcast(&m->changed);
    pthread_mutex_unlock(&m->lock);
}

static void conn_fail(struct memberlist *m, struct conn *c)
{
    if (c->dead)
        return;
    c->dead = true;
    count_failed(m, c->kind);
    if (c->is_join)
        join_done(m, false);
}

static int connect_to(const struct gossip_addr *to)
{
    struct sockaddr_in6 in6;
    struct sockaddr_storage sa = {0};
    sockaddr_of(to, &in6);
    socklen_t n = plain_sockaddr(&in6, &sa);
    int one = 1, fd = socket(sa.ss_family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    if (fd < 0)
        return -1;
    setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
    if (connect(fd, (struct sockaddr *)&sa, n) != 0 && errno != EINPROGRESS) {
        close(fd);
        return -1;
    }
    return fd;
}

/* Takes o->bytes over. */
static void send_out(struct memberlist *m, struct outgoing *o)
{
    bool allowed = !m->cfg.may_reach || m->cfg.may_reach(m->cfg.may_reach_arg, o->to.port);
    int fd = allowed && m->n_conns_out < m->cfg.max_connections_out ? connect_to(&o->to) : -1;
    if (fd < 0) {
        buf_release(&o->bytes);
        count_failed(m, o->is_stream ? CONN_OUT_STREAM : CONN_OUT_PACKET);
        if (o->is_join)
            join_done(m, false);
        return;
    }
    struct conn *c = conn_new(m, fd, o->is_stream ? CONN_OUT_STREAM : CONN_OUT_PACKET,
                              o->is_stream ? m->cfg.stream_timeout_ms : m->cfg.packet_dial_timeout_ms);
    c->out = o->bytes;
    c->is_join = o->is_join;
    c->writing = true;
    if (!watch_fd(m, fd, EPOLLOUT, c, EPOLL_CTL_ADD))
        conn_fail(m, c);
}

static void accept_all(struct memberlist *m)
{
    for (int i = 0; i < EVENTS; i++) {
        int fd = accept4(m->listen_fd, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC);
        if (fd < 0)
            return;
        if (m->n_conns_in >= m->cfg.max_connections_in) {
            close(fd);
            count_failed(m, CONN_IN);
            continue;
        }
        struct conn *c = conn_new(m, fd, CONN_IN, m->cfg.stream_timeout_ms);
        if (!watch_fd(m, fd, EPOLLIN, c, EPOLL_CTL_ADD))
            conn_fail(m, c);
    }
}

static void conn_write(struct memberlist *m, struct conn *c)
{
    if (c->kind == CONN_OUT_PACKET && !c->dialed) {
        c->dialed = true;
        c->deadline_ms = clock_mono_ms() + m->cfg.packet_write_timeout_ms;
    }
    while (c->out_at < c->out.n) {
        ssize_t n = send(c->fd, c->out.p + c->out_at, c->out.n - c->out_at, MSG_NOSIGNAL);
        if (n < 0 && (errno == EAGAIN || errno == EINTR))
            return;
        if (n <= 0) {
            conn_fail(m, c);
            return;
        }
        c->out_at += (size_t)n;
    }
    c->writing = false;
    if (c->kind != CONN_OUT_STREAM)
        c->dead = true; /* all said: a packet has no answer, and an answer is the end */
    else if (!watch_fd(m, c->fd, EPOLLIN, c, EPOLL_CTL_MOD))
        conn_fail(m, c);
}

/* Values may have changed: the notify thread looks. */
static void tell_watchers(struct memberlist *m, uint64_t version_before)
{
    if (m->core.version != version_before)
        pthread_cond_broadcast(&m->changed);
}

static void on_packet(struct memberlist *m, struct conn *c)
{
    pthread_mutex_lock(&m->lock);
    uint64_t before = m->core.version;
    core_on_packet(&m->core, (struct slice){c->in.p + 1, c->in.n - 1});
    tell_watchers(m, before);
    pthread_mutex_unlock(&m->lock);
    c->dead = true;
}

/* As much of a stream as came: perhaps it is all. */
static void on_stream(struct memberlist *m, struct conn *c)
{
    size_t need = 0, skip = c->kind == CONN_IN ? 1 : 0;
    struct slice in = {c->in.p + skip, c->in.n - skip};
    pthread_mutex_lock(&m->lock);
    uint64_t before = m->core.version;
    enum wire_result r = WIRE_BAD;
    if (!m->core.left)
        r = c->kind == CONN_IN ? core_on_stream(&m->core, in, &c->out, &need) : core_on_reply(&m->core, in, &need);
    tell_watchers(m, before);
    pthread_mutex_unlock(&m->lock);
    if (r == WIRE_SHORT) {
        c->need_bytes = need + skip;
        return;
    }
    if (r == WIRE_BAD || c->out.failed) {
        conn_fail(m, c);
        return;
    }
    if (c->kind == CONN_OUT_STREAM || !c->out.n) {
        c->dead = true;
        if (c->is_join)
            join_done(m, true);
        return;
    }
    c->writing = true;
    if (!watch_fd(m, c->fd, EPOLLOUT, c, EPOLL_CTL_MOD))
        conn_fail(m, c);
}

/* False when there is no more for now. */
static bool read_some(struct memberlist *m, struct conn *c)
{
    if (!buf_reserve(&c->in, READ_BYTES)) {
        conn_fail(m, c);
        return false;
    }
    ssize_t n = recv(c->fd, c->in.p + c->in.n, READ_BYTES, 0);
    if (n < 0 && (errno == EAGAIN || errno == EINTR))
        return false;
    if (n > 0) {
        c->in.n += (size_t)n;
        return true;
    }
    if (n == 0 && c->kind == CONN_IN && c->in.n && c->in.p[0] == WIRE_FRAME_PACKET)
        on_packet(m, c);
    else
        conn_fail(m, c);
    return false;
}

static void conn_unknown(struct memberlist *m, struct conn *c)
{
    c->dead = true;
    pthread_mutex_lock(&m->lock);
    m->core.stats.unknown_connections++;
    pthread_mutex_unlock(&m->lock);
}

static void conn_read(struct memberlist *m, struct conn *c)
{
    while (!c->dead && !c->writing && read_some(m, c)) {
        bool is_packet = c->kind == CONN_IN && c->in.p[0] == WIRE_FRAME_PACKET;
        if (c->kind == CONN_IN && !is_packet && c->in.p[0] != WIRE_FRAME_STREAM)
            conn_unknown(m, c);
        else if (is_packet && c->in.n > CORE_PACKET_MAX_BYTES + 1024)
            conn_fail(m, c);
        else if (!is_packet && c->in.n >= c->need_bytes)
            on_stream(m, c);
    }
}

/* Closes what has ended or takes too long. */
static void sweep(struct memberlist *m)
{
    int64_t now_ms = clock_mono_ms();
    for (struct conn **at = &m->conns; *at;) {
        struct conn *c = *at;
        if (!c->dead && c->deadline_ms <= now_ms)
            conn_fail(m, c);
        if (!c->dead) {
            at = &c->next;
            continue;
        }
        *at = c->next;
        if (c->kind == CONN_IN)
            m->n_conns_in--;
        else
            m->n_conns_out--;
        conn_free(c);
    }
}

/* --- the loop ----------------------------------------------------------------------------------------------------- */

/* Takes the outbox; returns how long to sleep, -1 when it is time to stop. */
static int round_start(struct memberlist *m, struct outgoing *ret_out, size_t *ret_n)
{
    pthread_mutex_lock(&m->lock);
    uint64_t before = m->core.version;
    core_tick(&m->core, clock_mono_ms(), clock_wall_ms());
    tell_watchers(m, before);
    *ret_n = m->core.n_outbox;
    memcpy(ret_out, m->core.outbox, *ret_n * sizeof *ret_out);
    m->core.n_outbox = 0;
    m->n_out = m->n_conns_out + *ret_n;
    int64_t sleep_ms = core_next_ms(&m->core) - clock_mono_ms();
    bool stop = m->stopping;
    if (m->core.leaving || m->core.local_queue.n)
        pthread_cond_broadcast(&m->changed); /* memberlist_leave may wait for what was told */
    pthread_mutex_unlock(&m->lock);
    if (stop)
        return -1;
    return (int)MAX(0, MIN(sleep_ms, m->conns || *ret_n ? 100 : 1000));
}

static void handle(struct memberlist *m, const struct epoll_event *ev)
{
    uint64_t drained;
    if (ev->data.ptr == &m->listen_fd) {
        accept_all(m);
    } else if (ev->data.ptr == &m->wake_fd) {
        ssize_t n = read(m->wake_fd, &drained, sizeof drained);
        (void)n;
    } else {
        struct conn *c = ev->data.ptr;
        if (c->dead)
            return;
        if (c->writing)
            conn_write(m, c);
        else
            conn_read(m, c);
    }
}

void *event_main(void *arg)
{
    struct memberlist *m = arg;
    struct outgoing *out = must(malloc(CORE_OUTBOX_MAX * sizeof *out));
    struct epoll_event events[EVENTS];
    for (;;) {
        size_t n_out;
        int sleep_ms = round_start(m, out, &n_out);
        for (size_t i = 0; i < n_out; i++) {
            if (sleep_ms < 0)
                buf_release(&out[i].bytes);
            else
                send_out(m, &out[i]);
        }
        if (sleep_ms < 0)
            break;
        int n = epoll_wait(m->epoll_fd, events, EVENTS, sleep_ms);
        for (int i = 0; i < n; i++)
            handle(m, &events[i]);
        sweep(m);
    }
    free(out);
    return NULL;
}
