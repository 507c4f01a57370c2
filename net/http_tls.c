/*
 * TLS before MHD: each connection has a link, with the client's socket and TLS on one side and one end of a socket pair
 * on the other, whose other end MHD serves as if it were the client's. So nothing in the HTTP server knows of TLS, both
 * servers and all clients of this process share one implementation of it (net/tls.h), and plain HTTP pays nothing.
 *
 * Threads: a front is a thread with its epoll, one to a lane (http_lane.c); it owns its links. The watcher hands accepted
 * sockets over through a list under the front's lock. MHD gets its end after the handshake.
 *
 * A link: SHAKING -> PUMPING -> ENDED (MHD has closed: what it said is sent, then our end, and what the client still says
 * is dropped for LINGER_MS at most, lest a reset destroy the answer on its way) -> closed. The client's end (net_end)
 * is passed on to MHD's socket, where the watcher looks for it. What a side does not take at once is kept, PIECE_BYTES at
 * most, and nothing more is read from the other side until it is gone.
 *
 * Costs: three descriptors and some 30 KiB a connection; one more copy and two more system calls for each piece.
 */
#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/logger.h"
#include "net/http_int.h"

#define HANDSHAKE_MS 10000
#define LINGER_MS 1000
#define STOP_MS 1000 /* for sending the last answers */
#define TICK_MS 500
#define PIECE_BYTES 65536
#define ROUNDS 16 /* pieces of one link before others have their turn */
#define EVENTS 64

struct link;

/* One of the two sockets of a link. */
struct link_side {
    struct link *link;
    int fd;
    uint32_t events; /* what epoll waits for; 0: it does not know the socket */
    struct buf kept; /* for this side, not taken yet */
    size_t sent_bytes;
    bool dead; /* takes nothing any more: what is for it is dropped */
};

struct link {
    struct link *prev, *next;
    struct http_front *front;
    struct link_side net, app;
    struct tls *tls;
    size_t lane; /* that shall serve it */
    struct sockaddr_storage addr;
    socklen_t addr_n;
    bool shaking;
    bool net_end; /* the client has sent all */
    bool app_end; /* MHD has closed */
    bool ended;   /* ... and all that it said is sent */
    bool broken;
    int64_t until_ms; /* of the handshake, or of lingering; 0: no limit */
};

struct http_front {
    struct http_server *server;
    pthread_t thread;
    bool runs;
    int epoll_fd, wake_fd;
    struct link *links; /* owned by the thread */

    pthread_mutex_t lock;
    /* Guarded by lock. */
    struct link *incoming;
    bool stop;
};

/* --- sockets --------------------------------------------------------------------------------------------------- */

static ssize_t give(struct link *l, struct link_side *side, const void *p, size_t n)
{
    return side == &l->net ? tls_write(l->tls, p, n) : send(side->fd, p, n, MSG_NOSIGNAL);
}

static ssize_t take(struct link *l, struct link_side *side, void *p, size_t n)
{
    return side == &l->net ? tls_read(l->tls, p, n) : recv(side->fd, p, n, 0);
}

static bool is_temporary(int errnum)
{
    return errnum == EAGAIN || errnum == EWOULDBLOCK || errnum == EINTR;
}

static void wait_for(struct link_side *side, uint32_t events)
{
    if (side->events == events || side->fd < 0)
        return;
    struct epoll_event ev = {.events = events, .data.ptr = side};
    int op = !events ? EPOLL_CTL_DEL : side->events ? EPOLL_CTL_MOD : EPOLL_CTL_ADD;
    if (epoll_ctl(side->link->front->epoll_fd, op, side->fd, &ev) != 0)
        side->link->broken = true;
    side->events = events;
}

/* --- pumping --------------------------------------------------------------------------------------------------- */

static void give_failed(struct link *l, struct link_side *side)
{
    buf_release(&side->kept);
    side->sent_bytes = 0;
    side->dead = true;
    if (side == &l->net)
        l->broken = true;
}

/* False: the side takes no more now. */
static bool give_kept(struct link *l, struct link_side *side)
{
    while (side->sent_bytes < side->kept.n) {
        ssize_t n = give(l, side, side->kept.p + side->sent_bytes, side->kept.n - side->sent_bytes);
        if (n > 0) {
            side->sent_bytes += (size_t)n;
        } else if (n < 0 && is_temporary(errno)) {
            return false;
        } else {
            give_failed(l, side);
            return true;
        }
    }
    buf_release(&side->kept);
    side->sent_bytes = 0;
    return true;
}

/* One piece from one side to the other. False: nothing more can be done now. */
static bool pump_piece(struct link *l, struct link_side *from, struct link_side *to, bool *end)
{
    char piece[PIECE_BYTES];
    if (!give_kept(l, to) || *end || l->broken)
        return false;
    ssize_t n = take(l, from, piece, sizeof piece);
    if (n < 0 && is_temporary(errno))
        return false;
    if (n <= 0) {
        *end = true;
        l->broken = l->broken || (n < 0 && from == &l->net);
        return false;
    }
    if (to->dead)
        return true;
    buf_put(&to->kept, piece, (size_t)n); /* a TLS write that was cut short must be repeated with the same bytes */
    if (to->kept.failed)
        give_failed(l, to);
    return give_kept(l, to);
}

static void pump(struct link *l)
{
    bool net_had_ended = l->net_end;
    bool goes_on = true;
    for (int i = 0; i < ROUNDS && goes_on && !l->broken; i++) {
        bool up = pump_piece(l, &l->net, &l->app, &l->net_end);
        bool down = pump_piece(l, &l->app, &l->net, &l->app_end);
        goes_on = up || down;
    }
    if (l->net_end && !net_had_ended)
        shutdown(l->app.fd, SHUT_WR);
    if (l->app_end && !l->net.kept.n && !l->ended) {
        l->ended = true;
        l->app.dead = true;
        l->until_ms = clock_mono_ms() + LINGER_MS;
        tls_end(l->tls);
        shutdown(l->net.fd, SHUT_WR);
    }
    bool reads_net = !l->net_end && !l->app.kept.n;
    bool reads_app = !l->app_end && !l->net.kept.n;
    wait_for(&l->net, (reads_net ? (uint32_t)EPOLLIN : 0) | (l->net.kept.n ? (uint32_t)EPOLLOUT : 0));
    wait_for(&l->app, (reads_app ? (uint32_t)EPOLLIN : 0) | (l->app.kept.n ? (uint32_t)EPOLLOUT : 0));
}

/* --- handshake ------------------------------------------------------------------------------------------------- */

static void count_failure(struct link *l, const struct err *err)
{
    char peer[TLS_PEER_MAX];
    metric_inc(METRIC_WITH(http_metrics[HTTP_M_TLS_FAILED], SL("http")));
    LOG_DEBUG("HTTP client failed to connect", {"peer", LOG_STR(tls_peer(l->net.fd, peer))}, {"err", LOG_ERR(err)});
    l->broken = true;
}

static void stop_shaking(struct link *l)
{
    struct http_server *s = l->front->server;
    if (!l->shaking)
        return;
    l->shaking = false;
    l->until_ms = 0;
    atomic_fetch_sub(&s->n_coming, 1);
    if (atomic_load(&s->watcher_wants_conns))
        http_watch_wake(s);
}

static void give_to_mhd(struct link *l)
{
    struct http_server *s = l->front->server;
    int pair[2];
    stop_shaking(l);
    if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0, pair) != 0) {
        l->broken = true;
        return;
    }
    l->app.fd = pair[0];
    http_lane_add(s->lanes[l->lane], pair[1], (const struct sockaddr *)&l->addr, l->addr_n);
}

static void shake(struct link *l)
{
    struct err err = ERR_NONE;
    switch (tls_handshake(l->tls, &err)) {
    case TLS_DONE:
        give_to_mhd(l);
        if (!l->broken)
            pump(l);
        break;
    case TLS_WANT_READ:
        wait_for(&l->net, EPOLLIN);
        break;
    case TLS_WANT_WRITE:
        wait_for(&l->net, EPOLLOUT);
        break;
    case TLS_FAILED:
        count_failure(l, &err);
        break;
    }
}

/* --- links ----------------------------------------------------------------------------------------------------- */

static void link_close(struct link *l)
{
    stop_shaking(l);
    if (l->prev)
        l->prev->next = l->next;
    else
        l->front->links = l->next;
    if (l->next)
        l->next->prev = l->prev;
    wait_for(&l->net, 0); /* a child process may hold the sockets for a moment longer, and epoll would go on telling of them */
    wait_for(&l->app, 0);
    tls_free(l->tls);
    close(l->net.fd);
    if (l->app.fd >= 0)
        close(l->app.fd);
    buf_release(&l->net.kept);
    buf_release(&l->app.kept);
    free(l);
}

static void link_step(struct link *l)
{
    if (l->shaking)
        shake(l);
    else
        pump(l);
    if (l->broken || (l->ended && l->net_end))
        link_close(l);
}

static void link_begin(struct http_front *f, struct link *l)
{
    struct err err = ERR_NONE;
    l->front = f;
    l->next = f->links;
    if (l->next)
        l->next->prev = l;
    f->links = l;
    l->until_ms = clock_mono_ms() + HANDSHAKE_MS;
    l->tls = tls_new(f->server->tls, l->net.fd, NULL, &err);
    if (l->tls)
        link_step(l);
    else
        link_close(l);
}

static void close_late(struct http_front *f)
{
    int64_t now_ms = clock_mono_ms();
    for (struct link *l = f->links; l;) {
        struct link *next = l->next;
        if (l->until_ms && now_ms > l->until_ms) {
            if (l->shaking)
                count_failure(l, &(struct err){.code = ERR_TIMEOUT, .text = "TLS handshake: i/o timeout"});
            link_close(l);
        }
        l = next;
    }
}

void http_tls_take(struct http_server *s, size_t lane, int fd, const struct sockaddr_storage *addr, socklen_t len)
{
    struct http_front *f = s->fronts[lane];
    struct link *l = calloc(1, sizeof *l);
    ASSERT(l);
    *l = (struct link){.lane = lane, .addr = *addr, .addr_n = len, .shaking = true};
    l->net = (struct link_side){.link = l, .fd = fd};
    l->app = (struct link_side){.link = l, .fd = -1};
    int on = 1;
    setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
    atomic_fetch_add(&s->n_coming, 1);
    pthread_mutex_lock(&f->lock);
    l->next = f->incoming;
    f->incoming = l;
    pthread_mutex_unlock(&f->lock);
    uint64_t one = 1;
    (void)!write(f->wake_fd, &one, sizeof one);
}

/* --- the thread ------------------------------------------------------------------------------------------------ */

/* Returns whether the front shall end. */
static bool take_incoming(struct http_front *f)
{
    uint64_t wakes;
    (void)!read(f->wake_fd, &wakes, sizeof wakes);
    pthread_mutex_lock(&f->lock);
    struct link *l = f->incoming;
    f->incoming = NULL;
    bool stop = f->stop;
    pthread_mutex_unlock(&f->lock);
    while (l) {
        struct link *next = l->next;
        l->next = NULL;
        link_begin(f, l);
        l = next;
    }
    return stop;
}

/* A link has two sockets in one batch of events, and closes with the first: the second's event must not be looked at. */
static bool step_events(struct http_front *f, struct epoll_event *events, int n)
{
    bool woken = false;
    for (int i = 0; i < n; i++) {
        struct link_side *side = events[i].data.ptr;
        if (!side) {
            woken = true;
            continue;
        }
        struct link *l = side->link;
        for (int k = i + 1; k < n; k++)
            if (events[k].data.ptr == &l->net || events[k].data.ptr == &l->app) {
                events[k] = events[n - 1];
                n--;
                k--;
            }
        link_step(l);
    }
    return woken && take_incoming(f);
}

static void *run(void *arg)
{
    struct http_front *f = arg;
    int64_t stop_at_ms = INT64_MAX;
    int64_t next_tick_ms = clock_mono_ms() + TICK_MS;
    while (clock_mono_ms() < stop_at_ms && (f->links || stop_at_ms == INT64_MAX)) {
        struct epoll_event events[EVENTS];
        int64_t sleep_ms = MIN(next_tick_ms, stop_at_ms) - clock_mono_ms();
        int n = epoll_wait(f->epoll_fd, events, EVENTS, f->links || stop_at_ms != INT64_MAX ? (int)MAX(sleep_ms, (int64_t)0) : -1);
        if (step_events(f, events, n))
            stop_at_ms = clock_mono_ms() + STOP_MS;
        if (clock_mono_ms() >= next_tick_ms) {
            close_late(f);
            next_tick_ms = clock_mono_ms() + TICK_MS;
        }
    }
    while (f->links)
        link_close(f->links);
    return NULL;
}

static struct http_front *front_new(struct http_server *s)
{
    struct http_front *f = calloc(1, sizeof *f);
    ASSERT(f);
    f->server = s;
    f->epoll_fd = epoll_create1(EPOLL_CLOEXEC);
    f->wake_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    pthread_mutex_init(&f->lock, NULL);
    return f;
}

static void front_free(struct http_front *f)
{
    if (f->epoll_fd >= 0)
        close(f->epoll_fd);
    if (f->wake_fd >= 0)
        close(f->wake_fd);
    pthread_mutex_destroy(&f->lock);
    free(f);
}

static bool front_start(struct http_front *f, struct err *err)
{
    struct epoll_event ev = {.events = EPOLLIN, .data.ptr = NULL};
    if (f->epoll_fd < 0 || f->wake_fd < 0 || epoll_ctl(f->epoll_fd, EPOLL_CTL_ADD, f->wake_fd, &ev) != 0)
        return err_errno(err, ERR_INTERNAL, errno, "epoll");
    int rc = pthread_create(&f->thread, NULL, run, f);
    if (rc)
        return err_errno(err, ERR_INTERNAL, rc, "cannot start an HTTP TLS thread");
    pthread_setname_np(f->thread, "http-tls");
    f->runs = true;
    return true;
}

bool http_tls_start(struct http_server *s, struct err *err)
{
    if (!s->tls)
        return true;
    for (size_t i = 0; i < s->n_lanes; i++) {
        s->fronts[s->n_fronts++] = front_new(s);
        if (!front_start(s->fronts[i], err))
            return false;
    }
    return true;
}

void http_tls_stop(struct http_server *s)
{
    for (size_t i = 0; i < s->n_fronts; i++) {
        struct http_front *f = s->fronts[i];
        uint64_t one = 1;
        pthread_mutex_lock(&f->lock);
        f->stop = true;
        pthread_mutex_unlock(&f->lock);
        if (f->runs) {
            (void)!write(f->wake_fd, &one, sizeof one);
            pthread_join(f->thread, NULL);
        }
        front_free(f);
    }
    s->n_fronts = 0;
}
