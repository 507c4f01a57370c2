/*
 * MHD's callbacks: the way of a request on the I/O thread, whoever is it at the moment (http_lane.c). Facts about libmicrohttpd 0.9.75 that this file stands on:
 *
 *  - The URI callback sees the target as sent, before MHD unescapes it; what it returns is the request's context from then on, and
 *    the completed callback runs once for every context, whatever ends the request.
 *  - An answer can be queued at the first call of the access handler (headers are there, body is not) or at the last one (all is
 *    there), never between. At the first call it closes the connection afterwards. So a request that is refused before its
 *    body keeps its connection only if the body is small and is read and dropped first (HTTP_DRAIN_BYTES); a chunked body that passes the limit
 *    on its way is answered straight on the socket, and MHD is told to close.
 *  - Closing a socket with unread input sends RST, which may destroy the answer on its way. MHD only shuts the sending side down
 *    and closes; a duplicate descriptor, kept by the watcher until the client has ended, keeps the answer alive.
 *  - A suspended connection lives until it is resumed, and then gets the last call of the access handler once more. MHD must not be stopped
 *    while one is suspended. MHD_queue_response from another thread would race with the I/O thread, so it is only called here.
 *  - After each request MHD clears the connection's memory: a large -server.http-conn-memory-bytes costs time as well as memory.
 */
#include <fcntl.h>
#include <limits.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/json.h"
#include "base/logger.h"
#include "base/priority.h"
#include "net/cluster.h"
#include "net/http_int.h"

#define REQUEST_ARENA_BUDGET ((size_t)1 << 30)
#define TENANT_HEADER "X-Scope-OrgID"

/* --- life of a request ----------------------------------------------------------------------------------------- */

static void live_add(struct http_request *req)
{
    struct http_server *s = req->server;
    pthread_mutex_lock(&s->lock);
    req->prev = s->newest;
    *(s->newest ? &s->newest->next : &s->oldest) = req;
    s->newest = req;
    s->n_live++;
    pthread_mutex_unlock(&s->lock);
    if (atomic_load(&s->watcher_idle))
        http_watch_wake(s);
}

static void live_remove(struct http_request *req)
{
    struct http_server *s = req->server;
    pthread_mutex_lock(&s->lock);
    *(req->prev ? &req->prev->next : &s->oldest) = req->next;
    *(req->next ? &req->next->prev : &s->newest) = req->prev;
    if (--s->n_live == 0)
        pthread_cond_broadcast(&s->changed);
    pthread_mutex_unlock(&s->lock);
}

static struct http_request *request_new(struct http_lane *lane, const char *target)
{
    struct http_server *s = http_lane_server(lane);
    struct http_request *req = calloc(1, sizeof *req);
    if (!req)
        return NULL;
    req->server = s;
    req->lane = lane;
    atomic_init(&req->refs, 1);
    atomic_fetch_add(&s->refs, 1);
    pthread_mutex_init(&req->lock, NULL);
    arena_init(&req->arena, REQUEST_ARENA_BUDGET);
    req->target = arena_dup(&req->arena, slice_of(target));
    req->start_ns = clock_mono_ns();
    if (s->cfg->http_read_timeout > 0)
        req->read_deadline_ms = req->start_ns / 1000000 + s->cfg->http_read_timeout;
    if (s->cfg->http_read_header_timeout > 0)
        req->header_deadline_ms = req->start_ns / 1000000 + s->cfg->http_read_header_timeout;
    atomic_init(&req->reading, true);
    req->ctx = (struct ctx){.tenant = SL(""), .canceled = &req->canceled, .arena = &req->arena};
    req->entry = &s->other;
    return req;
}

void http_unref(struct http_request *req)
{
    if (atomic_fetch_sub_explicit(&req->refs, 1, memory_order_acq_rel) != 1)
        return;
    struct http_server *s = req->server;
    if (req->response && req->response != s->empty)
        MHD_destroy_response(req->response);
    if (req->charged_bytes)
        atomic_fetch_sub_explicit(&s->body_bytes, req->charged_bytes, memory_order_relaxed);
    http_stream_free(s, req->stream);
    buf_release(&req->body);
    http_spool_free(req);
    arena_release(&req->arena);
    pthread_mutex_destroy(&req->lock);
    free(req);
    http_server_unref(s);
}

static void *on_uri(void *cls, const char *uri, struct MHD_Connection *conn)
{
    struct http_request *req = request_new(cls, uri);
    if (!req)
        return NULL; /* closed at the first call of on_access */
    req->conn = conn;
    const union MHD_ConnectionInfo *info = MHD_get_connection_info(conn, MHD_CONNECTION_INFO_CONNECTION_FD);
    req->fd = info ? info->connect_fd : -1;
    live_add(req);
    return req;
}

static void on_completed(void *cls, struct MHD_Connection *conn, void **con_cls, enum MHD_RequestTerminationCode why)
{
    (void)cls, (void)conn, (void)why;
    struct http_request *req = *con_cls;
    if (!req)
        return;
    *con_cls = NULL;
    if (req->stream) {
        if (req->queued)
            http_stats_record(req); /* now it is known how much was sent, and how long it took */
        http_stream_end(req);
    }
    live_remove(req);
    if (req->stats)
        metric_add(req->stats->inflight, -1);
    http_unref(req);
}

/* --- headers --------------------------------------------------------------------------------------------------- */

struct header_copy {
    struct http_request *req;
    size_t cap;
};

static enum MHD_Result copy_header(void *cls, enum MHD_ValueKind kind, const char *key, size_t key_n, const char *value, size_t value_n)
{
    (void)kind;
    struct header_copy *c = cls;
    struct http_request *req = c->req;
    if (req->n_headers == c->cap)
        return MHD_NO;
    struct http_kv *kv = &req->headers[req->n_headers++];
    kv->name = arena_dup(&req->arena, slice_make(key, key_n));
    kv->value = arena_dup(&req->arena, slice_make(value ? value : "", value_n));
    return MHD_YES;
}

/* The handler may outlive the connection, so headers are copied: some 300 bytes. */
static bool copy_headers(struct http_request *req)
{
    struct header_copy c = {.req = req, .cap = (size_t)MHD_get_connection_values_n(req->conn, MHD_HEADER_KIND, NULL, NULL)};
    req->headers = ARENA_ARRAY(&req->arena, struct http_kv, c.cap);
    if (!req->headers && c.cap)
        return false;
    MHD_get_connection_values_n(req->conn, MHD_HEADER_KIND, copy_header, &c);
    return !req->arena.overflow && req->target.p;
}

/* MHD has refused lengths that are no number. */
static void read_length(struct http_request *req)
{
    req->chunked = http_header(req, "Transfer-Encoding").p != NULL;
    struct slice length = http_header(req, "Content-Length");
    if (!req->chunked && length.n)
        req->declared_bytes = strtoull(length.p, NULL, 10);
}

/* --- before the body ------------------------------------------------------------------------------------------- */

static bool check_tenant(struct http_request *req)
{
    struct slice header = http_header(req, TENANT_HEADER);
    for (size_t i = 0; i < req->n_headers; i++) {
        struct http_kv *kv = &req->headers[i];
        if (kv->name.n == sizeof TENANT_HEADER - 1 && strcasecmp(kv->name.p, TENANT_HEADER) == 0 && !slice_eq(kv->value, header)) {
            /* One proxy's header hiding behind another's would be somebody else's data. */
            http_respond_text_error(req, 401, "more than one " TENANT_HEADER " header");
            return false;
        }
    }
    struct err err = ERR_NONE;
    struct slice tenant = SL("");
    if (!req->server->tenant_fn(req->server->tenant_arg, header, &tenant, &err)) {
        http_respond_err(req, &err);
        return false;
    }
    req->ctx.tenant = arena_dup(&req->arena, tenant);
    return true;
}

/* Reserves n more bytes of the memory for bodies. */
static bool charge(struct http_request *req, uint64_t n)
{
    struct http_server *s = req->server;
    uint64_t max = s->cfg->http_max_body_memory_bytes;
    uint64_t before = atomic_fetch_add_explicit(&s->body_bytes, n, memory_order_relaxed);
    if (max && before + n > max) {
        atomic_fetch_sub_explicit(&s->body_bytes, n, memory_order_relaxed);
        return false;
    }
    req->charged_bytes += n;
    return true;
}

/* False: refused. */
static bool admit_body(struct http_request *req)
{
    if (req->declared_bytes > req->limit_bytes) {
        http_refuse(req, HTTP_REFUSED_BODY_TOO_LARGE);
        return false;
    }
    if (req->declared_bytes && !charge(req, req->declared_bytes)) {
        http_refuse(req, HTTP_REFUSED_BODY_MEMORY);
        return false;
    }
    buf_init(&req->body, req->limit_bytes ? req->limit_bytes : 1);
    return true;
}

/* Whether the path holds a slash and one of these after it: there may be a prefix before and more behind. */
static bool is_excluded_path(struct slice path, const char *const *items, size_t n)
{
    for (size_t i = 0; i < n; i++) {
        struct slice item = slice_of(items[i] + (items[i][0] == '/'));
        for (size_t at = 0; at + item.n < path.n; at++)
            if (path.p[at] == '/' && memcmp(path.p + at + 1, item.p, item.n) == 0)
                return true;
    }
    return false;
}

static bool check_cluster(struct http_request *req)
{
    static const char *const always[] = {"metrics", "ready", "debug/pprof"};
    const struct http_config *cfg = req->server->cfg;
    const struct flag_list *paths = &cfg->http_cluster_validation_excluded_paths;
    if (!cfg->http_cluster_validation_enabled || is_excluded_path(req->path, always, ARRAY_LEN(always)) ||
        is_excluded_path(req->path, paths->items, paths->n))
        return true;
    const char *agent = http_header(req, "User-Agent").p; /* headers' copies end with a NUL */
    for (size_t i = 0; agent && i < req->server->n_excluded_agents; i++)
        if (regexec(&req->server->excluded_agents[i], agent, 0, NULL, 0) == 0)
            return true;
    struct err err = ERR_NONE;
    struct slice route = slice_of(req->entry->label);
    if (cluster_label_check(cfg, "http", cfg->http_cluster_validation_soft, route, http_header(req, "X-Cluster"), &err))
        return true;
    struct buf body = {0};
    struct json j;
    json_init(&j, &body);
    json_obj(&j);
    json_key(&j, SL("cluster_validation_error_message"));
    json_str(&j, slice_of(err.text));
    json_key(&j, SL("route"));
    json_str(&j, route);
    json_obj_end(&j);
    http_respond(req, 511, "application/json", &body);
    return false;
}

static void admit(struct http_request *req)
{
    struct http_server *s = req->server;
    if (!http_route_request(req) || !check_cluster(req))
        return;
    const struct http_route *route = req->entry->route;
    req->limit_bytes = route->flags & HTTP_BIG_BODY ? s->limits.max_push_body_bytes : s->limits.max_body_bytes;
    if (s->cfg->http_write_timeout > 0 && route->pool != HTTP_POOL_QUERY && !(route->flags & HTTP_SPOOL))
        req->ctx.deadline_ms = req->start_ns / 1000000 + s->cfg->http_write_timeout;
    if (route->flags & HTTP_TENANT && !check_tenant(req))
        return;
    (void)(route->flags & HTTP_SPOOL ? http_spool_begin(req) : admit_body(req));
}

static enum MHD_Result queue_answer(struct http_request *req)
{
    if (!req->stream)
        http_stats_record(req);
    req->queued = true;
    if (!req->response)
        return MHD_NO; /* no memory for it: the connection is closed */
    return MHD_queue_response(req->conn, (unsigned)req->status, req->response);
}

/* An answer before the body closes the connection; see the file head. */
static void keep_readable(struct http_request *req)
{
    int fd = fcntl(req->fd, F_DUPFD_CLOEXEC, 0);
    if (fd >= 0)
        http_watch_linger(req->server, fd);
}

static enum MHD_Result begin(struct http_request *req, const char *method)
{
    http_lane_another(req->lane);
    req->begun = true;
    atomic_store_explicit(&req->has_headers, true, memory_order_relaxed);
    req->method = http_method_parse(method);
    bool copied = copy_headers(req);
    read_length(req);
    if (copied)
        admit(req);
    else
        http_respond_text_error(req, 431, "headers too large");
    req->stats = http_stats_get(req->server, req->entry, req->method);
    metric_add(req->stats->inflight, 1);
    if (req->state != HTTP_STATE_ANSWERED)
        return MHD_YES;
    bool has_body = req->chunked || req->declared_bytes;
    bool drain = !req->chunked && req->declared_bytes <= HTTP_DRAIN_BYTES && !http_header(req, "Expect").p;
    if (!has_body || drain)
        return MHD_YES; /* queued at the last call: the connection goes on */
    keep_readable(req);
    return queue_answer(req);
}

/* --- the body -------------------------------------------------------------------------------------------------- */

/* Answered while the client is in the middle of its body. */
static enum MHD_Result end_in_body(struct http_request *req)
{
    http_stats_record(req);
    keep_readable(req);
    http_send_raw(req);
    return MHD_NO;
}

/* The client is in the middle of a chunked body that may not go on. */
static enum MHD_Result refuse_in_body(struct http_request *req, enum http_refusal why)
{
    http_refuse(req, why);
    return end_in_body(req);
}

#define PIECE_BYTES ((uint64_t)64 << 10)
#define PROMISE_BYTES ((uint64_t)1 << 20)

/*
 * At once for what was declared, up to 1 MiB: the kernel gives no memory for pages that nobody has written. From there, or where nothing was declared from 64 KiB, by doublings to
 * what was declared, or the limit: a client gets little memory for bytes that it only promises.
 */
static bool make_room(struct http_request *req, size_t more)
{
    struct buf *b = &req->body;
    if (b->cap - b->n >= more)
        return true;
    uint64_t end = req->chunked ? req->limit_bytes : req->declared_bytes;
    uint64_t least = req->chunked ? PIECE_BYTES : MAX(PIECE_BYTES, MIN(end, PROMISE_BYTES));
    uint64_t want = MAX(MAX((uint64_t)b->cap * 2, least), (uint64_t)(b->n + more));
    want = MIN(want, MAX(end, (uint64_t)(b->n + more)));
    return buf_reserve(b, (size_t)want - b->n);
}

static enum MHD_Result take_body(struct http_request *req, const char *data, size_t n)
{
    if (req->state == HTTP_STATE_ANSWERED) {
        req->drained_bytes += n;
        return MHD_YES; /* at most HTTP_DRAIN_BYTES */
    }
    if (req->read_deadline_ms && clock_mono_ms() > req->read_deadline_ms) {
        metric_inc(METRIC_WITH(http_metrics[HTTP_M_REFUSED], SL("read_timeout")));
        return MHD_NO;
    }
    req->body_bytes += n;
    if (req->body_bytes > req->limit_bytes)
        return refuse_in_body(req, HTTP_REFUSED_BODY_TOO_LARGE);
    if (req->chunked && !charge(req, n))
        return refuse_in_body(req, HTTP_REFUSED_BODY_MEMORY);
    if (!make_room(req, n))
        return refuse_in_body(req, HTTP_REFUSED_BODY_MEMORY);
    buf_put(&req->body, data, n);
    if (req->body.n > PIECE_BYTES)
        sched_yield(); /* a big body takes a millisecond or more; who waits for the core comes between its pieces */
    return MHD_YES;
}

/* Leaves in *n what there is no room for yet: the connection is suspended then. */
static enum MHD_Result spool_body(struct http_request *req, const char *data, size_t *n)
{
    switch (http_spool_take(req, data, n)) {
    case HTTP_SPOOL_TOO_LARGE:
        return refuse_in_body(req, HTTP_REFUSED_BODY_TOO_LARGE);
    case HTTP_SPOOL_FAILED:
        return end_in_body(req);
    case HTTP_SPOOL_CLOSE:
        return MHD_NO;
    default:
        return MHD_YES;
    }
}

/* --- to the handler and back ----------------------------------------------------------------------------------- */

static void run_handler(void *job, struct arena *arena)
{
    (void)arena; /* requests have one of their own: it lives until the answer, which may come from elsewhere */
    struct http_request *req = job;
    pthread_mutex_lock(&req->lock);
    bool abandoned = req->abandoned;
    if (abandoned)
        req->dispatched = false;
    pthread_mutex_unlock(&req->lock);
    if (abandoned)
        http_unref(req);
    else
        req->entry->route->handler(req, req->entry->group->arg);
}

/* Lets go of the connection until the answer comes, unless it is there already. */
static enum MHD_Result park(struct http_request *req)
{
    pthread_mutex_lock(&req->lock);
    if (req->state == HTTP_STATE_RUNNING && atomic_load(&req->server->aborting))
        http_abandon_locked(req);
    bool answered = req->state == HTTP_STATE_ANSWERED;
    if (!answered) {
        MHD_suspend_connection(req->conn);
        req->state = HTTP_STATE_PARKED;
    }
    pthread_mutex_unlock(&req->lock);
    return answered ? queue_answer(req) : MHD_YES;
}

static enum MHD_Result dispatch(struct http_request *req)
{
    struct http_server *s = req->server;
    enum http_pool where = req->entry->route->pool;
    atomic_store_explicit(&req->reading, false, memory_order_relaxed);
    pthread_mutex_lock(&req->lock);
    req->state = HTTP_STATE_RUNNING;
    req->dispatched = true;
    atomic_fetch_add_explicit(&req->refs, 1, memory_order_relaxed);
    pthread_mutex_unlock(&req->lock);
    if (where == HTTP_POOL_WRITE)
        priority_short_work(clock_mono_ms());
    if (where == HTTP_POOL_INLINE)
        run_handler(req, NULL);
    else if (where == HTTP_POOL_WRITE ? !pool_submit(s->write_pool, run_handler, req)
                                      : !http_lane_submit(req, run_handler))
        http_refuse(req, HTTP_REFUSED_QUEUE_FULL);
    return park(req);
}

/* The whole request is there. */
static enum MHD_Result on_end(struct http_request *req)
{
    enum http_spool_step step = req->spool && atomic_load(&req->state) == HTTP_STATE_READING ? http_spool_end(req) : HTTP_SPOOL_DONE;
    if (step == HTTP_SPOOL_CLOSE)
        return MHD_NO;
    if (step == HTTP_SPOOL_GOES_ON)
        return MHD_YES;
    atomic_store_explicit(&req->reading, false, memory_order_relaxed);
    enum http_state state = atomic_load(&req->state);
    if (state == HTTP_STATE_READING)
        return dispatch(req);
    return state == HTTP_STATE_ANSWERED ? queue_answer(req) : MHD_NO;
}

static enum MHD_Result on_access(void *cls, struct MHD_Connection *conn, const char *url, const char *method, const char *version,
                                 const char *data, size_t *n_data, void **con_cls)
{
    (void)cls, (void)conn, (void)url, (void)version;
    struct http_request *req = *con_cls;
    if (!req || req->queued)
        return MHD_NO;
    if (!req->begun)
        return begin(req, method);
    if (*n_data && req->spool && req->state != HTTP_STATE_ANSWERED)
        return spool_body(req, data, n_data);
    if (*n_data) {
        size_t n = *n_data;
        *n_data = 0;
        return take_body(req, data, n);
    }
    return on_end(req);
}

/* --- daemons --------------------------------------------------------------------------------------------------- */

static void on_connection(void *cls, struct MHD_Connection *conn, void **socket_context, enum MHD_ConnectionNotificationCode what)
{
    (void)conn, (void)socket_context;
    struct http_server *s = cls;
    bool opened = what == MHD_CONNECTION_NOTIFY_STARTED;
    metric_add(s->m_conns, opened ? 1 : -1);
    if (opened)
        atomic_fetch_add(&s->n_conns, 1);
    else
        atomic_fetch_sub(&s->n_conns, 1);
    if (!opened && atomic_load(&s->watcher_wants_conns))
        http_watch_wake(s);
}

/* The path stays encoded: http_route.c decodes variables itself, and only those. */
static size_t keep_escaped(void *cls, struct MHD_Connection *conn, char *text)
{
    (void)cls, (void)conn;
    return strlen(text);
}

/* Mostly about clients that break off; what matters (no descriptors) the watcher sees itself. */
__attribute__((format(printf, 2, 0))) static void on_log(void *cls, const char *fmt, va_list args)
{
    (void)cls;
    if (LOG_LEVEL_DEBUG < log_min_level)
        return;
    char text[512];
    int n = vsnprintf(text, sizeof text, fmt, args);
    if (n < 0)
        return;
    text[strcspn(text, "\n")] = '\0';
    LOG_DEBUG("libmicrohttpd", {"text", LOG_STR(text)});
}

static void on_panic(void *cls, const char *file, unsigned line, const char *why)
{
    (void)cls;
    LOG_ERROR("libmicrohttpd gives up", {"file", LOG_STR(file)}, {"line", LOG_U64(line)}, {"reason", LOG_STR(why)});
    abort();
}

struct MHD_Daemon *http_conn_start_mhd(struct http_lane *lane)
{
    struct http_server *s = http_lane_server(lane);
    MHD_set_panic_func(on_panic, NULL);
    unsigned idle_s = (unsigned)MIN((s->cfg->http_idle_timeout + 999) / 1000, (int64_t)INT_MAX);
    return MHD_start_daemon(MHD_USE_EPOLL | MHD_ALLOW_SUSPEND_RESUME | MHD_USE_NO_LISTEN_SOCKET | MHD_USE_ERROR_LOG, 0, NULL, NULL,
                            on_access, s, MHD_OPTION_EXTERNAL_LOGGER, on_log, NULL, MHD_OPTION_URI_LOG_CALLBACK, on_uri, lane,
                            MHD_OPTION_UNESCAPE_CALLBACK, keep_escaped, NULL, MHD_OPTION_NOTIFY_COMPLETED, on_completed, NULL,
                            MHD_OPTION_NOTIFY_CONNECTION, on_connection, s, MHD_OPTION_CONNECTION_LIMIT, (unsigned)s->conn_limit,
                            MHD_OPTION_CONNECTION_TIMEOUT, idle_s, MHD_OPTION_CONNECTION_MEMORY_LIMIT, (size_t)s->cfg->http_conn_memory_bytes,
                            MHD_OPTION_END);
}
