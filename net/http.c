#include "net/http.h"

#include <errno.h>
#include <sched.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <time.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/logger.h"
#include "net/cluster.h"
#include "net/http_int.h"

#define MAX_CONNS 20000
#define ABORT_GRACE_MS 1000 /* for sending the last answers */
#define SPOOL_WORKERS 2

const struct flag_def http_flags[] = {
#define FLAG(...) FLAG_ROW(http_config, __VA_ARGS__)
#include "net/http_flags.def"
#undef FLAG
};
const size_t http_flags_n = ARRAY_LEN(http_flags);

/* --- life cycle ------------------------------------------------------------------------------------------------ */

struct http_server *http_server_new(const struct http_config *cfg, struct http_limits limits, http_tenant_fn *tenant_fn,
                                    void *tenant_arg)
{
    http_metrics_register();
    struct http_server *s = calloc(1, sizeof *s);
    ASSERT(s);
    s->cfg = cfg;
    s->limits = limits;
    s->tenant_fn = tenant_fn;
    s->tenant_arg = tenant_arg;
    atomic_init(&s->refs, 1);
    atomic_init(&s->listen_fd, -1);
    s->wake_fd = -1;
    pthread_mutex_init(&s->lock, NULL);
    pthread_mutex_init(&s->stats_lock, NULL);
    pthread_mutex_init(&s->linger_lock, NULL);
    pthread_condattr_t attr;
    pthread_condattr_init(&attr);
    pthread_condattr_setclock(&attr, CLOCK_MONOTONIC);
    pthread_cond_init(&s->changed, &attr);
    pthread_condattr_destroy(&attr);
    s->empty = MHD_create_response_from_buffer(0, (void *)(uintptr_t) "", MHD_RESPMEM_PERSISTENT);
    ASSERT(s->empty);
    s->other.label = strdup("other");
    s->m_conns = METRIC_WITH(http_metrics[HTTP_M_CONNECTIONS], SL("http"));
    return s;
}

void http_server_unref(struct http_server *s)
{
    if (atomic_fetch_sub_explicit(&s->refs, 1, memory_order_acq_rel) != 1)
        return;
    for (size_t i = 0; i < s->n_entries; i++)
        http_entry_release(&s->entries[i]);
    http_entry_release(&s->other);
    free(s->entries);
    for (struct http_group *g = s->groups; g;) {
        struct http_group *next = g->next;
        free(g);
        g = next;
    }
    for (size_t i = 0; i < s->n_excluded_agents; i++)
        regfree(&s->excluded_agents[i]);
    free(s->excluded_agents);
    tls_context_free(s->tls);
    MHD_destroy_response(s->empty);
    http_lanes_free(s);
    if (s->wake_fd >= 0)
        close(s->wake_fd);
    pthread_cond_destroy(&s->changed);
    pthread_mutex_destroy(&s->linger_lock);
    pthread_mutex_destroy(&s->stats_lock);
    pthread_mutex_destroy(&s->lock);
    free(s);
}

void http_server_free(struct http_server *s)
{
    if (!s)
        return;
    http_server_stop(s, 0);
    http_server_unref(s);
}

/* --- routes ---------------------------------------------------------------------------------------------------- */

void http_server_add(struct http_server *s, const char *prefix, const struct http_route *routes, size_t n, void *arg)
{
    ASSERT(!s->started);
    struct http_group *g = calloc(1, sizeof *g);
    ASSERT(g);
    *g = (struct http_group){.routes = routes, .arg = arg, .next = s->groups};
    s->groups = g;
    s->entries = realloc(s->entries, (s->n_entries + n + 1) * sizeof *s->entries);
    ASSERT(s->entries);
    for (size_t i = 0; i < n; i++)
        http_entry_init(&s->entries[s->n_entries++], g, &routes[i], s->cfg->http_path_prefix ? s->cfg->http_path_prefix : "",
                        prefix ? prefix : "");
}

void http_server_on_refusal(struct http_server *s, const struct http_route *routes, http_refuse_fn *fn)
{
    ASSERT(!s->started);
    for (struct http_group *g = s->groups; g; g = g->next)
        if (g->routes == routes)
            g->refuse = fn;
}

void http_server_on_spool(struct http_server *s, const struct http_route *routes, http_spool_fn *fn)
{
    ASSERT(!s->started);
    for (struct http_group *g = s->groups; g; g = g->next)
        if (g->routes == routes)
            g->spool = fn;
}

void http_server_each_route(const struct http_server *s, void (*fn)(const struct http_route *r, const char *full_path, void *arg),
                            void *arg)
{
    for (size_t i = 0; i < s->n_entries; i++)
        fn(s->entries[i].route, s->entries[i].path, arg);
}

uint16_t http_server_port(const struct http_server *s)
{
    return s->port;
}

/* --- start ----------------------------------------------------------------------------------------------------- */

/* A connection with TLS takes three descriptors. */
static size_t sane_conn_limit(int64_t wanted, bool tls)
{
    if (wanted > 0)
        return (size_t)wanted;
    struct rlimit files;
    if (getrlimit(RLIMIT_NOFILE, &files) != 0 || files.rlim_cur == RLIM_INFINITY)
        return MAX_CONNS;
    return MIN(MAX((size_t)files.rlim_cur / 4 * (tls ? 1 : 3), (size_t)16), (size_t)MAX_CONNS);
}

static size_t n_workers(int64_t wanted, size_t a_core, size_t at_least)
{
    return wanted > 0 ? (size_t)wanted : MAX((size_t)sysconf(_SC_NPROCESSORS_ONLN) * a_core, at_least);
}

static double queued(void *pool)
{
    return (double)pool_queued(pool);
}

static double queued_queries(void *pool)
{
    return (double)fair_pool_queued(pool);
}

static struct metric *queued_series(const char *name)
{
    return METRIC_WITH(http_metrics[HTTP_M_POOL_QUEUED], slice_of(name));
}

static bool check_config(const struct http_config *cfg, struct err *err)
{
    if (cfg->http_conn_memory_bytes < 4096 || cfg->http_conn_memory_bytes > 16 << 20)
        return err_set(err, ERR_CONFIG, "-server.http-conn-memory-bytes must be between 4KiB and 16MiB");
    if (cfg->http_io_threads < 0 || cfg->http_io_threads > HTTP_MAX_IO_THREADS)
        return err_set(err, ERR_CONFIG, "-server.http-io-threads must be between 0 and %d", HTTP_MAX_IO_THREADS);
    if (!cluster_config_check(cfg, "http", cfg->http_cluster_validation_enabled, cfg->http_cluster_validation_soft, err))
        return false;
    if (cfg->http_write_queue < 1 || cfg->http_query_queue < 1)
        return err_set(err, ERR_CONFIG, "-server.http-write-queue and -server.http-query-queue must be at least 1");
    if (cfg->http_write_workers < 0 || cfg->http_write_workers > 1024 || cfg->http_query_workers < 0 || cfg->http_query_workers > 1024)
        return err_set(err, ERR_CONFIG, "-server.http-write-workers and -server.http-query-workers must be between 0 and 1024");
    return true;
}

static bool prepare_agents(struct http_server *s, struct err *err)
{
    const struct flag_list *agents = &s->cfg->http_cluster_validation_excluded_agents;
    s->excluded_agents = calloc(agents->n + 1, sizeof *s->excluded_agents);
    ASSERT(s->excluded_agents);
    for (; s->n_excluded_agents < agents->n; s->n_excluded_agents++)
        if (regcomp(&s->excluded_agents[s->n_excluded_agents], agents->items[s->n_excluded_agents], REG_EXTENDED | REG_NOSUB) != 0)
            return err_set(err, ERR_CONFIG, "-server.cluster-validation.http.excluded-user-agents: bad regular expression \"%s\"",
                           agents->items[s->n_excluded_agents]);
    return true;
}

static bool prepare_tls(struct http_server *s, struct err *err)
{
    const struct http_config *cfg = s->cfg;
    const struct tls_server_config tls = {.cert_path = cfg->http_tls_cert_path,
                                          .key_path = cfg->http_tls_key_path,
                                          .client_auth = cfg->http_tls_client_auth,
                                          .ca_path = cfg->http_tls_ca_path,
                                          .min_version = cfg->tls_min_version,
                                          .cipher_suites = cfg->tls_cipher_suites};
    if (!tls_server_wanted(&tls))
        return true;
    s->tls = tls_server_new(&tls, "http/1.1", err);
    return s->tls != NULL;
}

bool http_server_start(struct http_server *s, struct err *err)
{
    ASSERT(!s->started);
    if (!check_config(s->cfg, err) || !prepare_agents(s, err) || !prepare_tls(s, err))
        return false;
    int fd;
    if (!http_listen(s->cfg->http_listen_address, s->cfg->http_listen_port, &fd, &s->port, err))
        return false;
    s->listen_fd = fd;
    s->started = true; /* from here on http_server_stop has something to do */
    s->conn_limit = sane_conn_limit(s->cfg->http_conn_limit, s->tls != NULL);
    metric_set(METRIC_WITH(http_metrics[HTTP_M_CONNECTIONS_LIMIT], SL("http")), (double)s->conn_limit);
    if (!http_lanes_start(s, err)) {
        http_server_stop(s, 0);
        return false;
    }
    s->write_pool = pool_new("http-write", n_workers(s->cfg->http_write_workers, 1, 2), (size_t)s->cfg->http_write_queue, 0);
    struct fair_pool_source source = http_lanes_source(s);
    s->query_pool = fair_pool_new_at("http-query", n_workers(s->cfg->http_query_workers, 2, 4), (size_t)s->cfg->http_query_queue, 0, &source);
    s->stream_pool = pool_new("http-stream", n_workers(0, 1, 2), HTTP_MAX_STREAMS, 0);
    for (size_t i = 0; i < s->n_entries && !s->spool_pool; i++)
        if (s->entries[i].route->flags & HTTP_SPOOL)
            s->spool_pool = pool_new("http-spool", SPOOL_WORKERS, HTTP_MAX_SPOOLS, 0);
    metric_set_callback(queued_series("write"), queued, s->write_pool);
    metric_set_callback(queued_series("query"), queued_queries, s->query_pool);
    if (http_tls_start(s, err) && http_watch_start(s, err))
        return true;
    http_server_stop(s, 0);
    return false;
}

/* --- stop ------------------------------------------------------------------------------------------------------ */

/* Waits until the listener is closed and no request lives, until the deadline at most. */
static void wait_until_quiet(struct http_server *s, int64_t timeout_ms)
{
    int64_t until_ns = clock_mono_ns() + timeout_ms * 1000000;
    struct timespec until = {.tv_sec = until_ns / 1000000000, .tv_nsec = until_ns % 1000000000};
    pthread_mutex_lock(&s->lock);
    int rc = 0;
    while ((s->n_live > 0 || (s->watcher_runs && s->listen_fd >= 0)) && rc == 0)
        rc = pthread_cond_timedwait(&s->changed, &s->lock, &until);
    pthread_mutex_unlock(&s->lock);
}

static void abandon_all(struct http_server *s)
{
    atomic_store(&s->aborting, true);
    pthread_mutex_lock(&s->lock);
    size_t n = 0;
    for (struct http_request *req = s->oldest; req; req = req->next) {
        pthread_mutex_lock(&req->lock);
        if (req->state == HTTP_STATE_RUNNING || req->state == HTTP_STATE_PARKED) {
            http_abandon_locked(req);
            n++;
        }
        pthread_mutex_unlock(&req->lock);
    }
    pthread_mutex_unlock(&s->lock);
    if (n)
        LOG_WARN("HTTP requests were still running at the stop and were answered 503", {"requests", LOG_U64(n)});
}

/* After abandon_all, behind which no answer resumes a connection any more. */
static void wait_for_resumes(const struct http_server *s)
{
    while (atomic_load(&s->n_resuming) > 0)
        sched_yield();
}

void http_server_stop(struct http_server *s, int64_t timeout_ms)
{
    if (!s->started || s->stopped)
        return;
    s->stopped = true;
    atomic_store(&s->stopping, true);
    if (s->watcher_runs)
        http_watch_wake(s);
    wait_until_quiet(s, timeout_ms);
    /* Also when all was quiet: an idle connection may send a request at any moment. After this no connection is or becomes suspended. */
    abandon_all(s);
    wait_until_quiet(s, ABORT_GRACE_MS);
    pool_stop(s->spool_pool); /* its jobs resume connections */
    s->spool_pool = NULL;
    pool_stop(s->stream_pool); /* likewise */
    s->stream_pool = NULL;
    http_watch_stop(s);
    wait_for_resumes(s);
    http_lanes_stop(s);
    http_tls_stop(s);
    metric_set_callback(queued_series("write"), NULL, NULL);
    metric_set_callback(queued_series("query"), NULL, NULL);
    pool_stop(s->write_pool);
    fair_pool_stop(s->query_pool);
    s->write_pool = NULL;
    s->query_pool = NULL;
}
