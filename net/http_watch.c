/*
 * The watcher: one thread that does what needs no I/O thread.
 *
 *  1. It accepts connections and deals them to the lanes in turn. (MHD could listen itself, but shares unevenly, and its way of
 *     ceasing to accept can abort the process when a connection arrives at that moment.) At the connection limit it stops polling the listening
 *     socket, so that further clients wait in the kernel's queue.
 *  2. Every 100 ms it looks at the sockets of requests that have been running for 50 ms or more, and sets ctx.canceled where the client has gone.
 *  3. It shuts down the sockets of requests that took longer than the read timeout to arrive; of those whose body goes to a file, when the client has gone
 *     (MHD would not notice before its idle timeout).
 *  4. It reads and drops what refused clients still send, for a second at most.
 *
 * After a second with no request alive and nothing to drop it sleeps without a timeout; an eventfd wakes it. (Were it to sleep at once,
 * each request of a client that sends one at a time would have to wake it.)
 *
 * Descriptors of live requests: a request leaves the server's list before MHD closes its socket, so under the list's lock its fd is valid.
 * The poll of step 2 runs without the lock, on descriptors that may meanwhile have been closed and used anew; what it finds only counts for
 * a request that is still parked then, which was parked, with its socket open, all the while.
 */
#include <errno.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/logger.h"
#include "net/http_int.h"

#define TICK_MS 100
#define YOUNG_NS 50000000
#define WATCHED_AT_ONCE 1024
#define ACCEPTED_AT_ONCE 64
#define LINGER_MS 1000
#define AWAKE_MS 1000
#define SPOOL_QUIET_MS 500
#define ACCEPT_PAUSE_MS 100 /* after running out of descriptors */

void http_watch_wake(struct http_server *s)
{
    uint64_t one = 1;
    (void)!write(s->wake_fd, &one, sizeof one);
}

/* --- accepting ------------------------------------------------------------------------------------------------- */

static void hand_over(struct http_server *s, int fd, const struct sockaddr_storage *addr, socklen_t len)
{
    int on = 1;
    setsockopt(fd, SOL_SOCKET, SO_KEEPALIVE, &on, sizeof on);
    size_t i = s->next_lane++ % s->n_lanes;
    if (s->n_fronts)
        http_tls_take(s, i, fd, addr, len);
    else
        http_lane_add(s->lanes[i], fd, (const struct sockaddr *)addr, len);
}

static bool has_room(struct http_server *s)
{
    return atomic_load(&s->n_conns) + atomic_load(&s->n_coming) < s->conn_limit;
}

/* False: out of descriptors or memory, better wait a little. */
static bool accept_some(struct http_server *s)
{
    for (int i = 0; i < ACCEPTED_AT_ONCE && has_room(s); i++) {
        struct sockaddr_storage addr;
        socklen_t len = sizeof addr;
        int fd = accept4(s->listen_fd, (struct sockaddr *)&addr, &len, SOCK_NONBLOCK | SOCK_CLOEXEC);
        if (fd >= 0) {
            hand_over(s, fd, &addr, len);
            continue;
        }
        if (errno != EMFILE && errno != ENFILE && errno != ENOBUFS && errno != ENOMEM)
            return true; /* none left, or one that went away again */
        if (clock_mono_ms() >= s->next_accept_log_ms) {
            s->next_accept_log_ms = clock_mono_ms() + 10000;
            LOG_WARN("cannot accept connections", {"reason", LOG_STR(strerror(errno))});
        }
        return false;
    }
    return true;
}

static void close_listener(struct http_server *s)
{
    pthread_mutex_lock(&s->lock);
    close(s->listen_fd);
    s->listen_fd = -1;
    pthread_cond_broadcast(&s->changed);
    pthread_mutex_unlock(&s->lock);
}

/* --- refused clients ------------------------------------------------------------------------------------------- */

void http_watch_linger(struct http_server *s, int fd)
{
    pthread_mutex_lock(&s->linger_lock);
    bool room = s->n_lingers < HTTP_MAX_LINGERS;
    if (room)
        s->lingers[s->n_lingers++] = (struct http_linger){fd, clock_mono_ms() + LINGER_MS};
    pthread_mutex_unlock(&s->linger_lock);
    if (room)
        http_watch_wake(s);
    else
        close(fd);
}

/* True while the client may still be sending. */
static bool drop_input(const struct http_linger *l, int64_t now_ms)
{
    char sink[16384];
    for (int i = 0; i < 64; i++) {
        ssize_t n = recv(l->fd, sink, sizeof sink, MSG_DONTWAIT);
        if (n == 0 || (n < 0 && errno != EAGAIN && errno != EINTR))
            return false;
        if (n < 0)
            break;
    }
    return now_ms < l->until_ms;
}

static void drop_all_input(struct http_server *s, int64_t now_ms)
{
    pthread_mutex_lock(&s->linger_lock);
    for (size_t i = s->n_lingers; i-- > 0;)
        if (!drop_input(&s->lingers[i], now_ms)) {
            close(s->lingers[i].fd);
            s->lingers[i] = s->lingers[--s->n_lingers];
        }
    pthread_mutex_unlock(&s->linger_lock);
}

/* --- running requests ------------------------------------------------------------------------------------------ */

struct watched {
    struct http_request *reqs[WATCHED_AT_ONCE]; /* a reference each */
    struct pollfd fds[WATCHED_AT_ONCE];
    size_t n;
};

static void check_watched(struct watched *w)
{
    int n_gone = w->n ? poll(w->fds, w->n, 0) : 0;
    for (size_t i = 0; i < w->n; i++) {
        struct http_request *req = w->reqs[i];
        if (n_gone > 0 && w->fds[i].revents & (POLLRDHUP | POLLHUP | POLLERR) && req->state == HTTP_STATE_PARKED &&
            !atomic_exchange(&req->canceled, true))
            metric_inc(metric_single(http_metrics[HTTP_M_CANCELED]));
        http_unref(req);
    }
    w->n = 0;
}

/* The client has ended, and nothing of what it sent is left to be read. */
static bool has_ended(int fd)
{
    struct pollfd p = {.fd = fd, .events = POLLRDHUP};
    int left = 0;
    return poll(&p, 1, 0) == 1 && (p.revents & (POLLHUP | POLLERR) || ioctl(fd, FIONREAD, &left) != 0 || left == 0);
}

static bool is_late(const struct http_request *req, int64_t now_ms)
{
    int64_t spooled_ms = atomic_load_explicit(&req->spooled_ms, memory_order_relaxed);
    if (spooled_ms)
        return now_ms > spooled_ms && now_ms - spooled_ms > SPOOL_QUIET_MS && has_ended(req->fd);
    bool has_headers = atomic_load_explicit(&req->has_headers, memory_order_relaxed);
    return (req->read_deadline_ms && now_ms > req->read_deadline_ms) ||
           (req->header_deadline_ms && !has_headers && now_ms > req->header_deadline_ms);
}

/* Requests stand in order of their start. Those past the first WATCHED_AT_ONCE that run have their turn when those are gone. */
static void watch_requests(struct http_server *s, struct watched *w)
{
    int64_t now_ns = clock_mono_ns();
    pthread_mutex_lock(&s->lock);
    for (struct http_request *req = s->oldest; req && now_ns - req->start_ns >= YOUNG_NS; req = req->next) {
        if (atomic_load_explicit(&req->reading, memory_order_relaxed)) {
            if (is_late(req, now_ns / 1000000))
                shutdown(req->fd, SHUT_RDWR); /* the I/O thread sees the end and closes */
        } else if (req->state == HTTP_STATE_PARKED && w->n < WATCHED_AT_ONCE && !atomic_load(&req->canceled)) {
            atomic_fetch_add_explicit(&req->refs, 1, memory_order_relaxed);
            w->fds[w->n] = (struct pollfd){.fd = req->fd, .events = POLLRDHUP};
            w->reqs[w->n++] = req;
        }
    }
    pthread_mutex_unlock(&s->lock);
    check_watched(w);
}

/* --- the thread ------------------------------------------------------------------------------------------------ */

static bool has_work(struct http_server *s)
{
    pthread_mutex_lock(&s->lock);
    bool live = s->n_live > 0;
    pthread_mutex_unlock(&s->lock);
    pthread_mutex_lock(&s->linger_lock);
    bool lingers = s->n_lingers > 0;
    pthread_mutex_unlock(&s->linger_lock);
    return live || lingers;
}

/* Fills fds for the next poll: wake, listener, refused clients. */
static size_t fill_fds(struct http_server *s, struct pollfd *fds, bool may_accept)
{
    fds[0] = (struct pollfd){.fd = s->wake_fd, .events = POLLIN};
    fds[1] = (struct pollfd){.fd = may_accept && has_room(s) ? s->listen_fd : -1, .events = POLLIN};
    size_t n = 2;
    pthread_mutex_lock(&s->linger_lock);
    for (size_t i = 0; i < s->n_lingers; i++)
        fds[n++] = (struct pollfd){.fd = s->lingers[i].fd, .events = POLLIN};
    pthread_mutex_unlock(&s->linger_lock);
    return n;
}

/* How long to sleep. Announces a long sleep first and looks for work afterwards, so that whoever adds work either is seen or wakes us. */
static int sleep_ms(struct http_server *s, bool paused)
{
    if (paused)
        return ACCEPT_PAUSE_MS;
    if (clock_mono_ms() < s->awake_until_ms)
        return TICK_MS;
    atomic_store(&s->watcher_idle, true);
    if (!has_work(s))
        return -1;
    atomic_store(&s->watcher_idle, false);
    return TICK_MS;
}

static void *watch(void *arg)
{
    struct http_server *s = arg;
    struct watched *w = calloc(1, sizeof *w);
    ASSERT(w);
    struct pollfd fds[2 + HTTP_MAX_LINGERS];
    bool paused = false;
    int64_t next_tick_ms = 0;
    while (!atomic_load(&s->watcher_stop)) {
        if (atomic_load(&s->stopping) && s->listen_fd >= 0)
            close_listener(s);
        atomic_store(&s->watcher_wants_conns, true); /* a spare wake is cheap, a lost one is a client that waits */
        size_t n = fill_fds(s, fds, !paused);
        if (fds[1].fd >= 0)
            atomic_store(&s->watcher_wants_conns, false);
        (void)poll(fds, n, sleep_ms(s, paused));
        atomic_store(&s->watcher_idle, false);
        paused = false;
        uint64_t wakes;
        if (fds[0].revents) {
            (void)!read(s->wake_fd, &wakes, sizeof wakes);
            s->awake_until_ms = clock_mono_ms() + AWAKE_MS;
        }
        if (fds[1].fd >= 0 && fds[1].revents && !atomic_load(&s->stopping))
            paused = !accept_some(s);
        int64_t now_ms = clock_mono_ms();
        drop_all_input(s, now_ms);
        if (now_ms >= next_tick_ms) {
            watch_requests(s, w);
            next_tick_ms = now_ms + TICK_MS;
        }
    }
    free(w);
    return NULL;
}

bool http_watch_start(struct http_server *s, struct err *err)
{
    s->wake_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    if (s->wake_fd < 0)
        return err_errno(err, ERR_INTERNAL, errno, "eventfd");
    int rc = pthread_create(&s->watcher, NULL, watch, s);
    if (rc)
        return err_errno(err, ERR_INTERNAL, rc, "cannot start the HTTP watcher thread");
    pthread_setname_np(s->watcher, "http-watch");
    s->watcher_runs = true;
    return true;
}

void http_watch_stop(struct http_server *s)
{
    if (s->watcher_runs) {
        atomic_store(&s->watcher_stop, true);
        http_watch_wake(s);
        pthread_join(s->watcher, NULL);
        s->watcher_runs = false;
    }
    for (size_t i = 0; i < s->n_lingers; i++)
        close(s->lingers[i].fd);
    s->n_lingers = 0;
    if (s->listen_fd >= 0)
        close(s->listen_fd);
    s->listen_fd = -1;
}
