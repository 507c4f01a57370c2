/* The series of cortex_request_* by route and method, found once and then kept beside the route. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

#include "base/clock.h"
#include "base/logger.h"
#include "net/http_int.h"

#define METRICS_ROOM http
#define METRICS_DEF "net/http_metrics.def"
#define METRICS_DEFINE_ONLY
#include "base/metrics_table.h"

static const char *const method_names[HTTP_METHODS] = {"GET", "POST", "PUT", "DELETE", "HEAD", "OPTIONS", "PATCH", "other"};

struct http_families http_request_families(void)
{
    http_metrics_register();
    return (struct http_families){.duration = http_metrics[HTTP_M_DURATION],
                                  .inflight = http_metrics[HTTP_M_INFLIGHT],
                                  .received = http_metrics[HTTP_M_RECEIVED],
                                  .sent = http_metrics[HTTP_M_SENT],
                                  .connections = http_metrics[HTTP_M_CONNECTIONS],
                                  .connections_limit = http_metrics[HTTP_M_CONNECTIONS_LIMIT],
                                  .tls_failed = http_metrics[HTTP_M_TLS_FAILED],
                                  .wrong_cluster = http_metrics[HTTP_M_WRONG_CLUSTER]};
}

static size_t method_index(enum http_method m)
{
    return (size_t)__builtin_ctz((unsigned)m);
}

const char *http_method_name(enum http_method m)
{
    return method_names[method_index(m)];
}

/* HTTP's methods are case-sensitive. */
enum http_method http_method_parse(const char *name)
{
    for (size_t i = 0; i + 1 < HTTP_METHODS; i++)
        if (strcmp(method_names[i], name) == 0)
            return (enum http_method)(1 << i);
    return HTTP_OTHER;
}

static struct http_stats *stats_new(const struct http_entry *e, enum http_method method)
{
    struct http_stats *st = calloc(1, sizeof *st);
    ASSERT(st);
    const struct slice values[] = {slice_of(http_method_name(method)), slice_of(e->label)};
    st->inflight = metric_get(http_metrics[HTTP_M_INFLIGHT], values);
    st->received = metric_get(http_metrics[HTTP_M_RECEIVED], values);
    st->sent = metric_get(http_metrics[HTTP_M_SENT], values);
    return st;
}

struct http_stats *http_stats_get(struct http_server *s, struct http_entry *e, enum http_method method)
{
    size_t i = method_index(method);
    struct http_stats *st = atomic_load_explicit(&e->stats[i], memory_order_acquire);
    if (LIKELY(st != NULL))
        return st;
    pthread_mutex_lock(&s->stats_lock);
    st = atomic_load_explicit(&e->stats[i], memory_order_relaxed);
    if (!st) {
        st = stats_new(e, method);
        atomic_store_explicit(&e->stats[i], st, memory_order_release);
    }
    pthread_mutex_unlock(&s->stats_lock);
    return st;
}

static struct metric *find_duration(struct http_stats *st, int status)
{
    for (size_t i = 0; i < HTTP_STATS_STATUSES; i++) {
        int at = atomic_load_explicit(&st->durations[i].status, memory_order_acquire);
        if (at == status)
            return st->durations[i].metric;
        if (at == 0)
            break;
    }
    return NULL;
}

static struct metric *duration_series(struct http_request *req)
{
    struct metric *m = find_duration(req->stats, req->status);
    if (LIKELY(m != NULL))
        return m;
    char status[16];
    snprintf(status, sizeof status, "%d", req->status);
    m = METRIC_WITH(http_metrics[HTTP_M_DURATION], slice_of(http_method_name(req->method)), slice_of(req->entry->label),
                    slice_of(status), SL("false"));
    pthread_mutex_lock(&req->server->stats_lock);
    for (size_t i = 0; i < HTTP_STATS_STATUSES && !find_duration(req->stats, req->status); i++)
        if (atomic_load_explicit(&req->stats->durations[i].status, memory_order_relaxed) == 0) {
            req->stats->durations[i].metric = m;
            atomic_store_explicit(&req->stats->durations[i].status, req->status, memory_order_release);
        }
    pthread_mutex_unlock(&req->server->stats_lock);
    return m;
}

/* At most 10 lines a second about answers of 500 and above: overload must not become a flood of log lines. */
static bool may_log(void)
{
    static atomic_int_fast64_t second;
    static atomic_int lines;
    int64_t now = clock_mono_ms() / 1000;
    if (atomic_exchange_explicit(&second, now, memory_order_relaxed) != now)
        atomic_store_explicit(&lines, 0, memory_order_relaxed);
    return atomic_fetch_add_explicit(&lines, 1, memory_order_relaxed) < 10;
}

void http_stats_record(struct http_request *req)
{
    double seconds = (double)(clock_mono_ns() - req->start_ns) / 1e9;
    metric_observe(duration_series(req), seconds);
    metric_observe(req->stats->received, (double)req->body_bytes);
    metric_observe(req->stats->sent, (double)req->sent_bytes);
    if (req->status >= 500 && may_log())
        LOG_WARN("request failed", {"method", LOG_STR(http_method_name(req->method))}, {"path", LOG_SLICE(req->path)},
                 {"status", LOG_I64(req->status)}, {"seconds", LOG_F64(seconds)},
                 {"answer", LOG_SLICE(slice_make(req->raw_body.p, MIN(req->raw_body.n, (size_t)256)))});
    else
        LOG_DEBUG("request", {"method", LOG_STR(http_method_name(req->method))}, {"path", LOG_SLICE(req->path)},
                  {"status", LOG_I64(req->status)}, {"seconds", LOG_F64(seconds)});
}
