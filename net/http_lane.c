/*
 * Lanes: each has an MHD daemon with its share of the connections. MHD has no threads of its own here; one thread at a time runs it, who holds the lane's
 * `turn`. Two kinds of threads do:
 *
 *  - Workers of the query pool that have no job wait here (http_lanes_source): one a lane, asleep inside MHD and with the turn. One that has read a query lets go
 *    of the turn, runs the query and comes back to send the answer. So a client that asks for one thing after the other costs no wake-up but that of its own
 *    request: hand-overs between a thread that reads and one that works were two thirds of what a small query cost.
 *  - The standby, a thread of the lane, sees to it while no worker does. It never waits with the turn, never runs a query, and gives way to a worker who wants the turn. The
 *    kernel wakes it for the first event that finds the turn free: MHD's epoll is in an epoll of the standby's, one-shot, and whoever lets go of the turn arms it,
 *    whoever takes it disarms it.
 *
 * So an event is seen at once, whoever runs a query and for however long. No event is lost: the standby, if it does not get the turn, sleeps again unarmed, but then
 * somebody has it, or takes it next, who arms it behind letting go, and arming looks at what is there already. What MHD knows and no event tells (bytes that it has not
 * read yet) nobody leaves behind: the standby goes on until there is none or a worker goes on, and a worker that goes for a query before that wakes it. (Only a connection
 * that has long been idle may be closed some milliseconds late: its time is looked at by who waits inside MHD.)
 *
 * Where several clients ask at a time the standby would have to be woken during most queries. A worker that finds it was gives the next CROWD queries to others and
 * stays here. (A timer that lets the standby come only after a while, 50 us, costs as much as what it saves.)
 *
 * To wake is to make MHD's epoll ready: an eventfd stands in it with no pointer, which MHD passes over (in all its versions so far: "shutdown signal"), and with
 * edges, so that nobody has to read it. Who brings a connection in, or resumes one, pokes the lane: that leaves a mark too.
 */
#include <fcntl.h>
#include <limits.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "base/clock.h"
#include "net/http_int.h"

#define CROWD 128
#define SHORT_NS 1000000 /* of a query whose answer may wait until the thread is back */

/* A connection on its way to MHD. */
struct coming {
    struct coming *next;
    int fd;
    struct sockaddr_storage addr;
    socklen_t addr_n;
};

struct http_lane {
    struct http_server *server;
    pthread_mutex_t turn; /* to run MHD; the only lock under which threads wait for clients */
    struct MHD_Daemon *mhd;
    int mhd_fd;     /* MHD's epoll; a descriptor of our own, since who lets go of the turn arms it behind that, when MHD may have ended */
    int wake_fd;    /* in it, see above */
    int standby_fd; /* the standby's epoll: mhd_fd, one-shot */
    pthread_t standby;
    bool standby_runs;
    bool standby_came; /* since a worker left; guarded by turn */
    size_t crowd;      /* so many queries are given to others; guarded by turn */
    atomic_bool poked;
    atomic_bool wanted; /* the turn, by a worker, which mostly has an answer */
    atomic_bool closed; /* set under `lock` */
    pthread_mutex_t lock; /* after turn */
    struct coming *coming; /* guarded by lock */
};

/* Where this thread comes back to when it has run the query that it holds, and the request whose connection it resumes then. */
static _Thread_local struct http_lane *returns_to;
static _Thread_local struct http_request *to_resume;
static _Thread_local int64_t left_ns;

struct http_server *http_lane_server(const struct http_lane *lane)
{
    return lane->server;
}

static void wake(struct http_lane *lane)
{
    uint64_t one = 1;
    (void)!write(lane->wake_fd, &one, sizeof one);
}

/* Whoever runs MHD takes the mark away first and looks at what there is afterwards. */
static void poke(struct http_lane *lane)
{
    if (!atomic_exchange(&lane->poked, true))
        wake(lane);
}

/* --- resuming ---------------------------------------------------------------------------------------------------- */

void http_lane_resume(struct http_request *req)
{
    MHD_resume_connection(req->conn);
    poke(req->lane);
}

static void resumed(struct http_request *req)
{
    atomic_fetch_sub(&req->server->n_resuming, 1);
    http_unref(req);
}

/* Resumed at once it would wake the standby, to no use: this thread has the turn in a moment. But a large query's memory takes its time to free. */
void http_lane_answered(struct http_request *req)
{
    if (returns_to == req->lane && !to_resume && clock_mono_ns() - left_ns < SHORT_NS) {
        to_resume = req;
    } else {
        returns_to = NULL; /* the standby comes for this, not for a crowd */
        http_lane_resume(req);
        resumed(req);
    }
}

/* This thread has run what it held. Returns what it shall resume, or NULL. */
static struct http_request *come_back(void)
{
    struct http_request *req = to_resume;
    to_resume = NULL;
    returns_to = NULL;
    return req;
}

/* --- the turn ---------------------------------------------------------------------------------------------------- */

static void arm(struct http_lane *lane, uint32_t events)
{
    struct epoll_event ev = {.events = events};
    (void)epoll_ctl(lane->standby_fd, EPOLL_CTL_MOD, lane->mhd_fd, &ev);
}

static void leave(struct http_lane *lane)
{
    pthread_mutex_unlock(&lane->turn);
    arm(lane, EPOLLIN | EPOLLONESHOT);
}

static void take_coming(struct http_lane *lane)
{
    struct http_server *s = lane->server;
    pthread_mutex_lock(&lane->lock);
    struct coming *c = lane->coming;
    lane->coming = NULL;
    pthread_mutex_unlock(&lane->lock);
    while (c) {
        struct coming *next = c->next;
        (void)MHD_add_connection(lane->mhd, c->fd, (const struct sockaddr *)&c->addr, c->addr_n); /* closes it on failure */
        atomic_fetch_sub(&s->n_coming, 1);
        if (atomic_load(&s->watcher_wants_conns))
            http_watch_wake(s);
        free(c);
        c = next;
    }
}

/* With the turn. */
static void run_mhd(struct http_lane *lane, int timeout_ms)
{
    if (atomic_exchange(&lane->poked, false))
        take_coming(lane);
    if (!atomic_load(&lane->closed)) /* behind the mark, which whoever closes may have found there */
        (void)MHD_run_wait(lane->mhd, timeout_ms);
}

/* With the turn: until when there may be nothing to do; -1: for ever. */
static int quiet_ms(struct http_lane *lane)
{
    MHD_UNSIGNED_LONG_LONG ms;
    if (atomic_load(&lane->poked))
        return 0;
    return MHD_get_timeout(lane->mhd, &ms) == MHD_YES ? (int)MIN(ms, (MHD_UNSIGNED_LONG_LONG)INT_MAX) : -1;
}

/* --- who takes it ------------------------------------------------------------------------------------------------ */

static void *standby_main(void *arg)
{
    struct http_lane *lane = arg;
    int timeout_ms = -1;
    while (!atomic_load(&lane->closed)) {
        struct epoll_event ev;
        (void)epoll_wait(lane->standby_fd, &ev, 1, timeout_ms);
        timeout_ms = -1;
        if (atomic_load(&lane->closed) || atomic_load(&lane->wanted) || pthread_mutex_trylock(&lane->turn) != 0)
            continue;
        lane->standby_came = true;
        do {
            run_mhd(lane, 0);
            timeout_ms = quiet_ms(lane);
        } while (timeout_ms == 0 && !atomic_load(&lane->wanted));
        leave(lane);
    }
    return NULL;
}

/* The standby lets go after the piece that it reads, however many there are: a big body takes a millisecond or more. */
static void take_turn(struct http_lane *lane)
{
    atomic_store(&lane->wanted, true);
    pthread_mutex_lock(&lane->turn);
    atomic_store(&lane->wanted, false);
}

/* With the turn, which the worker may have taken for the first time. */
static void begin_wait(struct http_lane *lane)
{
    arm(lane, 0);
    if (returns_to == lane && lane->standby_came)
        lane->crowd = CROWD;
    struct http_request *req = come_back();
    if (req) {
        MHD_resume_connection(req->conn);
        resumed(req);
    }
}

static bool worker_waits(void *arg, size_t i, bool block)
{
    struct http_lane *lane = ((struct http_server *)arg)->lanes[i];
    take_turn(lane);
    begin_wait(lane);
    bool open;
    while ((open = !atomic_load(&lane->closed)) && !fair_pool_holds()) {
        run_mhd(lane, block ? -1 : 0);
        if (!block && quiet_ms(lane) != 0)
            break;
    }
    bool unfinished = open && fair_pool_holds() && quiet_ms(lane) == 0;
    lane->standby_came = false;
    returns_to = fair_pool_holds() ? lane : NULL;
    left_ns = clock_mono_ns();
    leave(lane);
    if (unfinished)
        wake(lane);
    return open;
}

static void worker_leaves(void *arg, size_t i)
{
    (void)arg, (void)i;
    struct http_request *req = come_back();
    if (req) {
        http_lane_resume(req);
        resumed(req);
    }
}

struct fair_pool_source http_lanes_source(struct http_server *s)
{
    return (struct fair_pool_source){.wait = worker_waits, .leave = worker_leaves, .arg = s, .n = s->n_lanes};
}

bool http_lane_submit(struct http_request *req, pool_fn *fn)
{
    struct http_lane *lane = req->lane;
    struct fair_pool *p = req->server->query_pool;
    if (lane->crowd == 0)
        return fair_pool_submit_here(p, req->ctx.tenant, fn, req);
    lane->crowd--;
    return fair_pool_submit(p, req->ctx.tenant, fn, req);
}

void http_lane_another(struct http_lane *lane)
{
    if (!fair_pool_holds())
        return;
    lane->crowd = CROWD;
    fair_pool_offer();
}

/* --- connections ------------------------------------------------------------------------------------------------- */

void http_lane_add(struct http_lane *lane, int fd, const struct sockaddr *addr, socklen_t len)
{
    struct coming *c = malloc(sizeof *c);
    ASSERT(c && len <= sizeof c->addr);
    *c = (struct coming){.fd = fd, .addr_n = len};
    memcpy(&c->addr, addr, len);
    pthread_mutex_lock(&lane->lock);
    bool open = !atomic_load(&lane->closed);
    if (open) {
        atomic_fetch_add(&lane->server->n_coming, 1);
        c->next = lane->coming;
        lane->coming = c;
    }
    pthread_mutex_unlock(&lane->lock);
    if (open) {
        poke(lane);
    } else {
        close(fd);
        free(c);
    }
}

/* --- life -------------------------------------------------------------------------------------------------------- */

static bool start(struct http_lane *lane)
{
    struct epoll_event wake = {.events = EPOLLIN | EPOLLET}, one = {.events = EPOLLIN | EPOLLONESHOT};
    lane->wake_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    lane->standby_fd = epoll_create1(EPOLL_CLOEXEC);
    lane->mhd = http_conn_start_mhd(lane);
    if (!lane->mhd || lane->wake_fd < 0 || lane->standby_fd < 0)
        return false;
    lane->mhd_fd = fcntl(MHD_get_daemon_info(lane->mhd, MHD_DAEMON_INFO_EPOLL_FD)->epoll_fd, F_DUPFD_CLOEXEC, 0);
    if (lane->mhd_fd < 0 || epoll_ctl(lane->mhd_fd, EPOLL_CTL_ADD, lane->wake_fd, &wake) != 0 || epoll_ctl(lane->standby_fd, EPOLL_CTL_ADD, lane->mhd_fd, &one) != 0)
        return false;
    lane->standby_runs = pthread_create(&lane->standby, NULL, standby_main, lane) == 0;
    if (lane->standby_runs)
        pthread_setname_np(lane->standby, "http-io");
    return lane->standby_runs;
}

bool http_lanes_start(struct http_server *s, struct err *err)
{
    size_t wanted = (size_t)s->cfg->http_io_threads;
    if (wanted == 0)
        wanted = MIN(MAX((size_t)sysconf(_SC_NPROCESSORS_ONLN) / 2, (size_t)1), (size_t)4);
    for (size_t i = 0; i < wanted; i++) {
        struct http_lane *lane = calloc(1, sizeof *lane);
        ASSERT(lane);
        lane->server = s;
        lane->mhd_fd = lane->wake_fd = lane->standby_fd = -1;
        pthread_mutex_init(&lane->turn, NULL);
        pthread_mutex_init(&lane->lock, NULL);
        s->lanes[s->n_lanes++] = lane;
        if (!start(lane))
            return err_set(err, ERR_INTERNAL, "cannot start an HTTP thread");
    }
    return true;
}

static void drop_coming(struct http_lane *lane)
{
    for (struct coming *c = lane->coming, *next; c; c = next) {
        next = c->next;
        close(c->fd);
        atomic_fetch_sub(&lane->server->n_coming, 1);
        free(c);
    }
    lane->coming = NULL;
}

static void stop(struct http_lane *lane)
{
    struct epoll_event end = {.events = EPOLLIN};
    pthread_mutex_lock(&lane->lock);
    atomic_store(&lane->closed, true);
    pthread_mutex_unlock(&lane->lock);
    wake(lane); /* a worker comes out of MHD */
    if (lane->standby_runs) {
        (void)epoll_ctl(lane->standby_fd, EPOLL_CTL_ADD, lane->wake_fd, &end);
        pthread_join(lane->standby, NULL);
    }
    pthread_mutex_lock(&lane->turn);
    drop_coming(lane);
    if (lane->mhd)
        MHD_stop_daemon(lane->mhd);
    pthread_mutex_unlock(&lane->turn);
}

void http_lanes_stop(struct http_server *s)
{
    for (size_t i = 0; i < s->n_lanes; i++)
        stop(s->lanes[i]);
}

void http_lanes_free(struct http_server *s)
{
    for (size_t i = 0; i < s->n_lanes; i++) {
        struct http_lane *lane = s->lanes[i];
        int fds[] = {lane->mhd_fd, lane->wake_fd, lane->standby_fd};
        for (size_t k = 0; k < ARRAY_LEN(fds); k++)
            if (fds[k] >= 0)
                close(fds[k]);
        pthread_mutex_destroy(&lane->turn);
        pthread_mutex_destroy(&lane->lock);
        free(lane);
    }
}
