/*
 * The I/O thread: waits in epoll for its connections and for its eventfd, by which other threads hand it tasks and
 * streams to look at. Tasks run before kicks, so that a connection handed over by a task is there for the calls that
 * were made after it.
 */
#include <errno.h>
#include <stdlib.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "base/clock.h"
#include "net/rpc/rpc_int.h"

#define TICK_MS 1000
#define EVENTS 64
#define KICKS 256 /* in one round, so that busy senders do not keep the thread from reading */

static void woken(struct rpc_watch *w, uint32_t events)
{
    (void)events;
    struct rpc_loop *l = CONTAINER_OF(w, struct rpc_loop, wake);
    uint64_t n;
    ssize_t got = read(l->wake_fd, &n, sizeof n);
    (void)got; /* only that it happened counts */
}

struct rpc_loop *rpc_loop_new(void)
{
    struct rpc_loop *l = calloc(1, sizeof *l);
    ASSERT(l);
    atomic_init(&l->refs, 1);
    l->epoll_fd = l->wake_fd = -1;
    l->wake.ready = woken;
    l->kicked_end = &l->kicked;
    l->tasks_end = &l->tasks;
    pthread_mutex_init(&l->lock, NULL);
    return l;
}

void rpc_loop_unref(struct rpc_loop *l)
{
    if (!l || atomic_fetch_sub_explicit(&l->refs, 1, memory_order_acq_rel) != 1)
        return;
    if (l->epoll_fd >= 0)
        close(l->epoll_fd);
    if (l->wake_fd >= 0)
        close(l->wake_fd);
    pthread_mutex_destroy(&l->lock);
    free(l);
}

bool rpc_loop_watch(struct rpc_loop *l, int fd, struct rpc_watch *w, uint32_t events)
{
    struct epoll_event ev = {.events = events, .data.ptr = w};
    return epoll_ctl(l->epoll_fd, EPOLL_CTL_ADD, fd, &ev) == 0;
}

static void wake(struct rpc_loop *l)
{
    uint64_t one = 1;
    ssize_t n = write(l->wake_fd, &one, sizeof one);
    (void)n; /* fails only when the counter is full, and then the thread wakes anyway */
}

bool rpc_loop_post(struct rpc_loop *l, rpc_task_fn *fn, void *arg)
{
    struct rpc_task *t = calloc(1, sizeof *t);
    ASSERT(t);
    *t = (struct rpc_task){.fn = fn, .arg = arg};
    pthread_mutex_lock(&l->lock);
    bool runs = !l->stop;
    if (runs) {
        *l->tasks_end = t;
        l->tasks_end = &t->next;
        wake(l);
    }
    pthread_mutex_unlock(&l->lock);
    if (!runs)
        free(t);
    return runs;
}

void rpc_loop_kick(struct rpc_stream *st)
{
    struct rpc_loop *l = st->loop;
    pthread_mutex_lock(&l->lock);
    if (!l->stop && !st->kicked) {
        bool first = !l->kicked;
        st->kicked = true;
        st->next_kicked = NULL;
        rpc_stream_ref(st);
        *l->kicked_end = st;
        l->kicked_end = &st->next_kicked;
        if (first)
            wake(l);
    }
    pthread_mutex_unlock(&l->lock);
}

static void run_tasks(struct rpc_task *tasks)
{
    while (tasks) {
        struct rpc_task *t = tasks;
        tasks = t->next;
        t->fn(t->arg);
        free(t);
    }
}

/* Each stream is taken off under the lock, so that it may be kicked again from then on. */
static void run_kicks(struct rpc_loop *l, size_t max)
{
    for (size_t n = 0;; n++) {
        pthread_mutex_lock(&l->lock);
        struct rpc_stream *st = l->kicked;
        if (st && n == max) {
            wake(l);
            st = NULL;
        } else if (st) {
            l->kicked = st->next_kicked;
            if (!l->kicked)
                l->kicked_end = &l->kicked;
            st->kicked = false;
        }
        pthread_mutex_unlock(&l->lock);
        if (!st)
            return;
        st->role->kick(st);
        struct rpc_conn *c = st->conn;
        if (c)
            rpc_conn_flush(c);
        rpc_stream_unref(st);
    }
}

/* Returns whether the loop shall end. */
static bool run_inbox(struct rpc_loop *l, size_t max_kicks)
{
    pthread_mutex_lock(&l->lock);
    struct rpc_task *tasks = l->tasks;
    l->tasks = NULL;
    l->tasks_end = &l->tasks;
    bool stop = l->stop;
    pthread_mutex_unlock(&l->lock);
    run_tasks(tasks);
    run_kicks(l, max_kicks);
    return stop;
}

void rpc_loop_turn(struct rpc_loop *l)
{
    run_inbox(l, SIZE_MAX);
}

static void tick(struct rpc_loop *l, int64_t now_ms)
{
    for (struct rpc_conn *c = l->conns; c;) {
        struct rpc_conn *next = c->next;
        rpc_conn_tick(c, now_ms);
        c = next;
    }
}

static void *run(void *arg)
{
    struct rpc_loop *l = arg;
    int64_t next_tick_ms = clock_mono_ms() + TICK_MS;
    bool stop = false;
    while (!stop) {
        struct epoll_event events[EVENTS];
        int n = epoll_wait(l->epoll_fd, events, EVENTS, (int)MAX(next_tick_ms - clock_mono_ms(), (int64_t)0));
        for (int i = 0; i < n; i++) {
            struct rpc_watch *w = events[i].data.ptr;
            w->ready(w, events[i].events);
        }
        stop = run_inbox(l, KICKS);
        int64_t now = clock_mono_ms();
        if (now >= next_tick_ms) {
            tick(l, now);
            next_tick_ms = now + TICK_MS;
        }
    }
    while (l->conns)
        rpc_conn_close(l->conns);
    run_inbox(l, SIZE_MAX); /* streams that were kicked meanwhile have no connection any more */
    return NULL;
}

bool rpc_loop_start(struct rpc_loop *l, const char *name, struct err *err)
{
    l->epoll_fd = epoll_create1(EPOLL_CLOEXEC);
    l->wake_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    if (l->epoll_fd < 0 || l->wake_fd < 0 || !rpc_loop_watch(l, l->wake_fd, &l->wake, EPOLLIN))
        return err_errno(err, ERR_INTERNAL, errno, "epoll");
    int rc = pthread_create(&l->thread, NULL, run, l);
    if (rc)
        return err_errno(err, ERR_INTERNAL, rc, "creating a thread");
    pthread_setname_np(l->thread, name);
    l->runs = true;
    return true;
}

void rpc_loop_stop(struct rpc_loop *l)
{
    if (!l || !l->runs)
        return;
    pthread_mutex_lock(&l->lock);
    l->stop = true;
    wake(l);
    pthread_mutex_unlock(&l->lock);
    pthread_join(l->thread, NULL);
    l->runs = false;
}
