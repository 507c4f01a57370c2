/* The server: configuration, listening socket, life cycle. What happens to a call stands in rpc_request.c. */
#include <errno.h>
#include <stdlib.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/logger.h"
#include "net/cluster.h"
#include "net/http.h"
#include "net/rpc/rpc_int.h"

#define DEFAULT_CONNS 4096
#define GRACE_MS 1000 /* for sending the last answers */

const struct flag_def rpc_flags[] = {
#define FLAG(...) FLAG_ROW(rpc_config, __VA_ARGS__)
#include "net/rpc/rpc_flags.def"
#undef FLAG
};
const size_t rpc_flags_n = ARRAY_LEN(rpc_flags);

/* A task for each loop. */
struct for_loop {
    struct rpc_server *server;
    struct rpc_loop *loop;
    int fd;
};

static struct for_loop *for_loop_new(struct rpc_server *s, struct rpc_loop *l, int fd)
{
    struct for_loop *f = calloc(1, sizeof *f);
    ASSERT(f);
    *f = (struct for_loop){.server = s, .loop = l, .fd = fd};
    return f;
}

/* --- life cycle ------------------------------------------------------------------------------------------------ */

struct rpc_server *rpc_server_new(const struct rpc_config *cfg)
{
    struct rpc_server *s = calloc(1, sizeof *s);
    ASSERT(s);
    s->cfg = cfg;
    atomic_init(&s->refs, 1);
    atomic_init(&s->serving, true);
    s->listen_fd = -1;
    s->memory.max_bytes = cfg->grpc_max_request_memory_bytes;
    pthread_mutex_init(&s->lock, NULL);
    pthread_condattr_t attr;
    pthread_condattr_init(&attr);
    pthread_condattr_setclock(&attr, CLOCK_MONOTONIC);
    pthread_cond_init(&s->changed, &attr);
    pthread_condattr_destroy(&attr);
    s->m_conns = metric_get(http_request_families().connections, (const struct slice[]){SL("grpc")});
    s->m_failed_handshakes = metric_get(http_request_families().tls_failed, (const struct slice[]){SL("grpc")});
    rpc_entry_init(&s->other, NULL, NULL, "other");
    rpc_server_add(s, rpc_health_methods, rpc_health_methods_n, s);
    return s;
}

void rpc_server_set_common(struct rpc_server *s, const struct http_config *common)
{
    ASSERT(!s->started);
    s->common = common;
}

void rpc_server_add(struct rpc_server *s, const struct rpc_method *methods, size_t n, void *arg)
{
    ASSERT(!s->started);
    s->entries = realloc(s->entries, (s->n_entries + n) * sizeof *s->entries);
    ASSERT(s->entries || s->n_entries + n == 0);
    for (size_t i = 0; i < n; i++)
        rpc_entry_init(&s->entries[s->n_entries++], &methods[i], arg, methods[i].name);
}

void rpc_server_unref(struct rpc_server *s)
{
    if (atomic_fetch_sub_explicit(&s->refs, 1, memory_order_acq_rel) != 1)
        return;
    free(s->entries);
    tls_context_free(s->tls);
    pthread_cond_destroy(&s->changed);
    pthread_mutex_destroy(&s->lock);
    free(s);
}

void rpc_server_free(struct rpc_server *s)
{
    if (!s)
        return;
    rpc_server_stop(s, 0);
    for (size_t i = 0; i < s->n_loops; i++)
        rpc_loop_unref(s->loops[i]);
    s->n_loops = 0;
    rpc_server_unref(s);
}

void rpc_server_set_serving(struct rpc_server *s, bool serving)
{
    atomic_store(&s->serving, serving);
}

uint16_t rpc_server_port(const struct rpc_server *s)
{
    return s->port;
}

/* --- connections ----------------------------------------------------------------------------------------------- */

/* On the connection's own I/O thread. */
static void adopt(void *arg)
{
    struct for_loop *f = arg;
    struct rpc_server *s = f->server;
    const struct rpc_config *cfg = s->cfg;
    struct err err = ERR_NONE;
    struct tls *tls = s->tls ? tls_new(s->tls, f->fd, NULL, &err) : NULL;
    struct rpc_conn *c = NULL;
    if (tls || !s->tls)
        c = rpc_conn_new(f->loop, &rpc_server_role, s, f->fd, tls, (uint32_t)cfg->grpc_max_concurrent_streams);
    else
        close(f->fd);
    free(f);
    if (!c) {
        atomic_fetch_sub(&s->n_conns, 1);
        metric_add(s->m_conns, -1);
        return;
    }
    c->keepalive_time_ms = cfg->grpc_keepalive_time;
    c->keepalive_timeout_ms = cfg->grpc_keepalive_timeout;
    c->max_age_ms = cfg->grpc_max_connection_age;
    c->age_grace_ms = cfg->grpc_max_connection_age_grace;
    c->max_idle_ms = cfg->grpc_max_connection_idle;
    c->min_ping_ms = cfg->grpc_min_time_between_pings;
    c->peer_idle_pings = cfg->grpc_ping_without_stream_allowed;
    c->ping_idle = true;
    rpc_conn_flush(c);
}

static void accept_one(struct rpc_server *s, int fd)
{
    struct rpc_loop *l = s->loops[s->next_loop++ % s->n_loops];
    atomic_fetch_add(&s->n_conns, 1);
    metric_add(s->m_conns, 1);
    struct for_loop *f = for_loop_new(s, l, fd);
    if (rpc_loop_post(l, adopt, f))
        return;
    free(f);
    close(fd);
    atomic_fetch_sub(&s->n_conns, 1);
    metric_add(s->m_conns, -1);
}

static void accept_ready(struct rpc_watch *w, uint32_t events)
{
    (void)events;
    struct rpc_server *s = CONTAINER_OF(w, struct rpc_server, listener);
    for (;;) {
        int fd = accept4(s->listen_fd, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC);
        if (fd < 0) {
            if (errno == EMFILE || errno == ENFILE)
                usleep(10000); /* the backlog stays readable: without a pause this would spin */
            return;
        }
        if (atomic_load(&s->n_conns) >= s->conn_limit)
            close(fd);
        else
            accept_one(s, fd);
    }
}

/* --- start ----------------------------------------------------------------------------------------------------- */

static bool check_config(const struct rpc_config *cfg, struct err *err)
{
    if (cfg->grpc_io_threads < 0 || cfg->grpc_io_threads > RPC_MAX_IO_THREADS)
        return err_set(err, ERR_CONFIG, "-server.grpc-io-threads must be between 0 and %d", RPC_MAX_IO_THREADS);
    if (cfg->grpc_workers < 1 || cfg->grpc_workers > 1024)
        return err_set(err, ERR_CONFIG, "-server.grpc.num-workers must be between 1 and 1024");
    if (cfg->grpc_queue < 1)
        return err_set(err, ERR_CONFIG, "-server.grpc-queue must be at least 1");
    if (cfg->grpc_max_concurrent_streams < 1 || cfg->grpc_max_concurrent_streams > INT32_MAX)
        return err_set(err, ERR_CONFIG, "-server.grpc-max-concurrent-streams must be between 1 and %d", INT32_MAX);
    if (cfg->grpc_max_recv_msg_bytes > BUF_MAX_DEFAULT || cfg->grpc_max_send_msg_bytes > BUF_MAX_DEFAULT)
        return err_set(
            err, ERR_CONFIG,
            "-server.grpc-max-recv-msg-size-bytes and -server.grpc-max-send-msg-size-bytes must be at most 1GiB");
    return true;
}

static bool prepare_tls(struct rpc_server *s, struct err *err)
{
    const struct rpc_config *cfg = s->cfg;
    const struct tls_server_config tls = {.cert_path = cfg->grpc_tls_cert_path,
                                          .key_path = cfg->grpc_tls_key_path,
                                          .client_auth = cfg->grpc_tls_client_auth,
                                          .ca_path = cfg->grpc_tls_ca_path,
                                          .min_version = s->common ? s->common->tls_min_version : "",
                                          .cipher_suites = s->common ? s->common->tls_cipher_suites : ""};
    if (!tls_server_wanted(&tls))
        return true;
    s->tls = tls_server_new(&tls, "h2", err);
    return s->tls != NULL;
}

static bool start_threads(struct rpc_server *s, struct err *err)
{
    size_t n = (size_t)s->cfg->grpc_io_threads;
    if (n == 0)
        n = MIN(MAX((size_t)sysconf(_SC_NPROCESSORS_ONLN) / 2, (size_t)1), (size_t)4);
    for (size_t i = 0; i < n; i++) {
        s->loops[s->n_loops++] = rpc_loop_new();
        if (!rpc_loop_start(s->loops[i], "grpc-io", err))
            return false;
    }
    s->listener.ready = accept_ready;
    if (!rpc_loop_watch(s->loops[0], s->listen_fd, &s->listener, EPOLLIN))
        return err_errno(err, ERR_INTERNAL, errno, "epoll");
    return true;
}

bool rpc_server_start(struct rpc_server *s, struct err *err)
{
    ASSERT(!s->started);
    const struct rpc_config *cfg = s->cfg;
    if (!check_config(cfg, err) || !prepare_tls(s, err) ||
        !cluster_config_check(s->common, "grpc", cfg->grpc_cluster_validation_enabled, cfg->grpc_cluster_validation_soft, err))
        return false;
    int fd;
    if (!http_listen(s->cfg->grpc_listen_address, s->cfg->grpc_listen_port, &fd, &s->port, err))
        return false;
    s->started = true; /* from here on rpc_server_stop has something to do */
    s->listen_fd = fd;
    s->conn_limit = s->cfg->grpc_conn_limit > 0 ? (size_t)s->cfg->grpc_conn_limit : DEFAULT_CONNS;
    metric_set(metric_get(http_request_families().connections_limit, (const struct slice[]){SL("grpc")}),
               (double)s->conn_limit);
    s->pool = pool_new("grpc", (size_t)s->cfg->grpc_workers, (size_t)s->cfg->grpc_queue, 0);
    if (start_threads(s, err))
        return true;
    rpc_server_stop(s, 0);
    return false;
}

/* --- stop ------------------------------------------------------------------------------------------------------ */

static void on_each_loop(struct rpc_server *s, rpc_task_fn *fn)
{
    for (size_t i = 0; i < s->n_loops; i++) {
        struct for_loop *f = for_loop_new(s, s->loops[i], -1);
        if (!s->loops[i]->runs || !rpc_loop_post(s->loops[i], fn, f))
            free(f);
    }
}

static void drain(void *arg)
{
    struct for_loop *f = arg;
    if (f->loop == f->server->loops[0] && f->server->listen_fd >= 0) {
        close(f->server->listen_fd);
        f->server->listen_fd = -1;
    }
    for (struct rpc_conn *c = f->loop->conns; c;) {
        struct rpc_conn *next = c->next;
        rpc_conn_go_away(c);
        rpc_conn_flush(c);
        c = next;
    }
    free(f);
}

static void abort_calls(void *arg)
{
    struct for_loop *f = arg;
    for (struct rpc_conn *c = f->loop->conns; c;) {
        struct rpc_conn *next = c->next;
        for (struct rpc_stream *st = c->streams; st;) {
            struct rpc_stream *after = st->next;
            rpc_request_abort(st, RPC_UNAVAILABLE, SL("the server is stopping"));
            st = after;
        }
        rpc_conn_flush(c);
        c = next;
    }
    free(f);
}

static void wait_idle(struct rpc_server *s, int64_t timeout_ms)
{
    int64_t until_ms = clock_mono_ms() + timeout_ms;
    struct timespec until = {.tv_sec = until_ms / 1000, .tv_nsec = until_ms % 1000 * 1000000};
    pthread_mutex_lock(&s->lock);
    while (s->n_live && clock_mono_ms() < until_ms)
        pthread_cond_timedwait(&s->changed, &s->lock, &until);
    pthread_mutex_unlock(&s->lock);
}

void rpc_server_stop(struct rpc_server *s, int64_t timeout_ms)
{
    if (!s->started || s->stopped)
        return;
    s->stopped = true;
    atomic_store(&s->serving, false);
    on_each_loop(s, drain);
    wait_idle(s, timeout_ms);
    on_each_loop(s, abort_calls);
    wait_idle(s, GRACE_MS);
    for (size_t i = 0; i < s->n_loops; i++)
        rpc_loop_stop(s->loops[i]);
    pool_stop(s->pool);
    s->pool = NULL;
    if (s->listen_fd >= 0)
        close(s->listen_fd);
    s->listen_fd = -1;
}
