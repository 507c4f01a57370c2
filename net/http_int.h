/* Private to net/http*.c. */
#pragma once

#include <microhttpd.h>
#include <pthread.h>
#include <regex.h>
#include <stdatomic.h>
#include <sys/socket.h>

#include "base/arena.h"
#include "base/assert.h"
#include "base/metrics.h"
#include "base/fair_pool.h"
#include "base/pool.h"
#include "net/http.h"
#include "net/tls.h"

#define METRICS_ROOM http
#define METRICS_DEF "net/http_metrics.def"
#include "base/metrics_table.h"

#define HTTP_METHODS 8           /* bits of enum http_method */
#define HTTP_STATS_STATUSES 16   /* statuses of one route and method whose series are kept at hand */
#define HTTP_MAX_VARS 8          /* variables in one pattern */
#define HTTP_MAX_PARAMS 65536    /* parameters of one request */
#define HTTP_MAX_IO_THREADS 16
#define HTTP_MAX_LINGERS 256     /* refused connections whose client is still sending */
#define HTTP_DRAIN_BYTES (256 << 10) /* a refused body up to this is read and dropped, so that the connection can go on */
/* 18 MB of JSON numbers: level 1 takes a third of the time of level 6 and gives a sixth more bytes. */
#define HTTP_GZIP_LEVEL 1
#define HTTP_GZIP_WINDOW (15 + 16) /* 16: gzip header */
#define HTTP_GZIP_MIN_BYTES 1400 /* below this an answer fits a packet anyway */

struct http_kv {
    struct slice name;
    struct slice value;
};

/* Series of one route and method. Immutable but for the table of durations: grows under http_server.stats_lock, read without. */
struct http_stats {
    struct metric *inflight;
    struct metric *received;
    struct metric *sent;
    struct {
        atomic_int status; /* 0 = free; released after metric is set */
        struct metric *metric;
    } durations[HTTP_STATS_STATUSES];
};

/* A table given to http_server_add. Immutable after start. */
struct http_group {
    const struct http_route *routes;
    void *arg;
    http_refuse_fn *refuse; /* NULL: the defaults */
    http_spool_fn *spool;   /* NULL: none of its routes is HTTP_SPOOL */
    struct http_group *next;
};

/* One route of the server. Immutable after start, but stats. */
struct http_entry {
    const struct http_route *route; /* NULL in the entry "other" */
    struct http_group *group;
    char *path; /* with all prefixes */
    bool has_vars;
    char *label; /* of the metrics */
    _Atomic(struct http_stats *) stats[HTTP_METHODS];
};

enum http_state {
    HTTP_STATE_READING,  /* the I/O thread takes in headers and body */
    HTTP_STATE_RUNNING,  /* given to the handler; the I/O thread has not let go of the connection yet */
    HTTP_STATE_PARKED,   /* given to the handler; the connection is suspended */
    HTTP_STATE_ANSWERED, /* `response` waits for the I/O thread, or was sent */
};

struct http_lane;

/*
 * One request. Two owners: the connection (until MHD says that the request is completed) and, from dispatch to answer, the handler. Freed by
 * whoever is last.
 */
struct http_request {
    struct http_server *server;
    atomic_int refs;
    struct http_request *prev, *next; /* server's list of live requests; guarded by server->lock */

    /* Owned by who runs the lane, who alone may touch MHD's connection but for resuming it. */
    struct MHD_Connection *conn;
    struct http_lane *lane; /* of the connection; immutable */
    bool begun;
    bool queued;           /* the answer has been given to MHD */
    bool raw_answer;       /* ... or to the socket, see http_conn.c */
    uint64_t drained_bytes; /* of a refused body */
    struct http_stats *stats;

    /* Set by the I/O thread before dispatch, immutable afterwards; read by the handler, and by the watcher where noted. */
    struct arena arena;
    struct ctx ctx;
    atomic_bool canceled;
    int fd;                   /* watcher: valid while on the list */
    int64_t start_ns;
    int64_t read_deadline_ms; /* watcher; 0 = none */
    int64_t header_deadline_ms; /* watcher; 0 = none of its own */
    atomic_bool has_headers;  /* watcher */
    atomic_bool reading;      /* watcher; the request is not complete yet */
    atomic_int_least64_t spooled_ms; /* watcher; when the body that goes to a file last moved, 0: none does, INT64_MAX: while it is written */
    enum http_method method;
    struct slice target; /* as sent */
    struct slice path;   /* undecoded */
    struct slice query;
    bool chunked;
    uint64_t declared_bytes; /* Content-Length */
    uint64_t limit_bytes;
    struct http_kv *headers;
    size_t n_headers;
    struct http_kv vars[HTTP_MAX_VARS];
    size_t n_vars;
    struct http_entry *entry;

    /* Owned by the I/O thread until dispatch, then by the handler until it has answered. */
    struct buf body;
    uint64_t body_bytes;    /* received */
    struct http_spool *spool; /* NULL: the body is in `body` */
    uint64_t charged_bytes; /* against server->body_bytes; given back when the request is freed */
    struct http_kv *params;
    size_t n_params;
    bool params_parsed;
    struct err *params_err; /* NULL: fine */
    struct http_kv *out_headers;
    size_t n_out_headers;
    size_t cap_out_headers;

    pthread_mutex_t lock; /* the answer. Rank: after server->lock */
    _Atomic enum http_state state; /* changed under lock */
    bool dispatched; /* the handler owns a reference; guarded by lock */
    bool abandoned;  /* answered by the server's stop; guarded by lock */
    int status;
    struct MHD_Response *response; /* owned; until the request is freed */
    struct http_stream *stream;    /* owned likewise; NULL: the answer was whole when it was given */
    uint64_t sent_bytes;
    struct slice raw_body; /* of a small answer made on the I/O thread, for http_send_raw */
};

struct http_linger {
    int fd;
    int64_t until_ms;
};

struct http_server {
    const struct http_config *cfg;
    struct http_limits limits;
    http_tenant_fn *tenant_fn;
    void *tenant_arg;
    atomic_int refs; /* the owner, and each request */

    struct http_group *groups;
    struct http_entry *entries; /* in order of registration */
    size_t n_entries;
    struct http_entry other; /* what has no route, or not this method */
    pthread_mutex_t stats_lock;

    bool started;
    bool stopped;
    size_t n_lanes;
    struct http_lane *lanes[HTTP_MAX_IO_THREADS];
    struct MHD_Response *empty; /* status without body and headers; shared by all threads */
    struct pool *write_pool;
    struct fair_pool *query_pool; /* tenants take turns */
    struct pool *spool_pool;  /* NULL: no route wants it */
    atomic_size_t n_spools;
    struct pool *stream_pool; /* makes the pieces of answers that are sent meanwhile */
    atomic_size_t n_streams;
    uint16_t port;
    size_t conn_limit;
    atomic_size_t n_conns;
    struct http_front *fronts[HTTP_MAX_IO_THREADS]; /* TLS; as many as I/O threads, or none */
    size_t n_fronts;
    atomic_size_t n_coming; /* connections at a front or a lane that MHD does not know of yet */
    struct tls_context *tls; /* NULL: plain */
    regex_t *excluded_agents; /* cluster validation; immutable after start */
    size_t n_excluded_agents;
    struct metric *m_conns;
    atomic_uint_fast64_t body_bytes; /* charged by all requests */

    atomic_size_t n_resuming; /* answers whose connection is still to be resumed; grows under a request's lock */
    atomic_bool stopping; /* no new connections; answers close theirs */
    atomic_bool aborting; /* running requests are answered 503 */
    pthread_mutex_t lock; /* the list of live requests */
    pthread_cond_t changed; /* lock; the list became empty, or the listen socket was closed */
    struct http_request *oldest, *newest;
    size_t n_live;

    /* The watcher's; owned by its thread, but for the atomics and for `lingers`, which linger_lock guards. */
    pthread_t watcher;
    bool watcher_runs;
    atomic_bool watcher_stop;
    atomic_bool watcher_wants_conns; /* sleeps because of the connection limit */
    atomic_bool watcher_idle;        /* sleeps without a timeout */
    int wake_fd;
    atomic_int listen_fd;
    size_t next_lane;
    int64_t awake_until_ms;
    int64_t next_accept_log_ms;
    pthread_mutex_t linger_lock;
    struct http_linger lingers[HTTP_MAX_LINGERS];
    size_t n_lingers;
};

/* http_lane.c: who runs MHD, and when. */
struct http_server *http_lane_server(const struct http_lane *lane);
bool http_lanes_start(struct http_server *s, struct err *err);
/* No connection is suspended, or will be. Closes all. */
void http_lanes_stop(struct http_server *s);
void http_lanes_free(struct http_server *s);
/* Any thread. Takes over the socket. */
void http_lane_add(struct http_lane *lane, int fd, const struct sockaddr *addr, socklen_t len);
/* Any thread: the request's connection is suspended no more. */
void http_lane_resume(struct http_request *req);
/* The same for one that has been answered, but where the calling thread is going to see to the lane next, not before that. Takes over a reference, and one of n_resuming. */
void http_lane_answered(struct http_request *req);
/* Whoever runs the lane: a query goes to the pool, and is this thread's to run if that is a worker and nobody else wants anything. */
bool http_lane_submit(struct http_request *req, pool_fn *fn);
/* There is another request: no query shall wait for what is to be done for it. */
void http_lane_another(struct http_lane *lane);
/* What the query pool's workers do while they have no job. */
struct fair_pool_source http_lanes_source(struct http_server *s);

/* http_conn.c: MHD's callbacks; whoever runs a lane runs them. */
struct MHD_Daemon *http_conn_start_mhd(struct http_lane *lane); /* NULL: no memory, no descriptors */
void http_unref(struct http_request *req);
void http_server_unref(struct http_server *s);

/* http_route.c */
void http_entry_init(struct http_entry *e, struct http_group *group, const struct http_route *route, const char *path_prefix,
                     const char *prefix);
void http_entry_release(struct http_entry *e);
/* Splits req->target into path and query, and finds the route. False: answered (301, 400, 404, 405). */
bool http_route_request(struct http_request *req);
/* Percent-decodes into the arena; plus: '+' is a blank. False: *ret_bad is the bad escape (up to 3 bytes). */
bool http_decode(struct arena *a, struct slice in, bool plus, struct slice *ret, struct slice *ret_bad);

/* http_stats.c */
struct http_stats *http_stats_get(struct http_server *s, struct http_entry *e, enum http_method method);
void http_stats_record(struct http_request *req);
const char *http_method_name(enum http_method m);
enum http_method http_method_parse(const char *name);

/* http_respond.c */
/* The server answers in the handler's place: 503, state becomes ANSWERED, the handler's own answer will be dropped. Needs req->lock. */
void http_abandon_locked(struct http_request *req);
/* Sends a small answer past MHD, for the one moment at which MHD takes none: in the middle of a body. */
void http_send_raw(struct http_request *req);
void http_refuse(struct http_request *req, enum http_refusal why);

bool http_accepts_gzip(const struct http_request *req);
/* Takes over r; the stream too, or returns false: the server has answered in the handler's place. */
bool http_answer_stream(struct http_request *req, int status, struct MHD_Response *r, struct http_stream *stream);

/* http_stream.c */
/* MHD has completed the request (which is still on the list of live ones): the source is released, here or soon. */
void http_stream_end(struct http_request *req);
void http_stream_free(struct http_server *s, struct http_stream *st);

/* http_spool.c: bodies that go to files. The I/O thread runs all but what the pool does. */
enum http_spool_step {
    HTTP_SPOOL_GOES_ON, /* taken; or the connection is suspended until the buffer has been written, and the caller is called again */
    HTTP_SPOOL_DONE,    /* http_spool_end: all is in the file */
    HTTP_SPOOL_TOO_LARGE,
    HTTP_SPOOL_FAILED, /* the file could not be written; answered */
    HTTP_SPOOL_CLOSE,  /* the server stops */
};
bool http_spool_begin(struct http_request *req); /* false: answered */
/* Takes what it can of *n bytes and leaves the rest in *n. */
enum http_spool_step http_spool_take(struct http_request *req, const char *data, size_t *n);
enum http_spool_step http_spool_end(struct http_request *req);
void http_spool_free(struct http_request *req);

/* http_watch.c */
bool http_watch_start(struct http_server *s, struct err *err);
void http_watch_stop(struct http_server *s);
void http_watch_wake(struct http_server *s);
/* Keeps the socket of a refused request open until its client has stopped sending, so that it can read the answer. */
void http_watch_linger(struct http_server *s, int fd);

/* http_tls.c: what stands before MHD when TLS is served. */
bool http_tls_start(struct http_server *s, struct err *err);
/* After MHD's end: sends what it has said, and ends. */
void http_tls_stop(struct http_server *s);
/* Takes over a connection that was accepted: handshake, and then to the lane of this number. */
void http_tls_take(struct http_server *s, size_t lane, int fd, const struct sockaddr_storage *addr, socklen_t len);
