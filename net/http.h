/*
 * HTTP server: libmicrohttpd (epoll, a few I/O threads) in front, worker pools behind. README.md in this folder tells the story of one
 * request; what callers must know:
 *
 * The I/O thread parses headers, finds the route, checks method, tenant and limits *before it takes in the body*, then collects
 * the body (never past the route's limit) and puts the request on the pool that the route names. The handler runs there and answers, at once or
 * later from any thread, with one of the http_respond functions; the I/O thread sends the answer. No thread ever waits for the log or for a
 * slow client.
 *
 * A request owns everything the handler sees (headers, path, body, arena): it stays valid until the answer is given, also when the client has gone
 * or the server has stopped meanwhile. The request must not be touched after the call that answers it.
 *
 * Cancellation: while a request runs its socket is watched (one thread, every 100 ms); when the peer has closed, or the server gives up
 * waiting at its stop, ctx.canceled becomes true. The handler must still respond exactly once.
 *
 * Every answer is counted in cortex_request_duration_seconds{method,route,status_code,ws}, cortex_inflight_requests{method,route},
 * cortex_request_message_bytes, cortex_response_message_bytes, cortex_tcp_connections.
 */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/buf.h"
#include "base/ctx.h"
#include "base/err.h"
#include "base/flags.h"
#include "base/metrics.h"
#include "base/slice.h"

struct http_server;
struct http_request;

struct http_config {
#define FLAG FLAG_FIELD
#include "net/http_flags.def"
#undef FLAG
};
extern const struct flag_def http_flags[];
extern const size_t http_flags_n;

enum http_method {
    HTTP_GET = 1,
    HTTP_POST = 2,
    HTTP_PUT = 4,
    HTTP_DELETE = 8,
    HTTP_HEAD = 16,
    HTTP_OPTIONS = 32,
    HTTP_PATCH = 64,
    HTTP_OTHER = 128, /* whatever else a client sends */
    HTTP_ANY = 255
};

/* Which pool a handler runs on. INLINE handlers run on the I/O thread and must not wait or compute for long. */
enum http_pool { HTTP_POOL_INLINE, HTTP_POOL_WRITE, HTTP_POOL_QUERY };

enum http_route_flag {
    HTTP_TENANT = 1,  /* needs a tenant (X-Scope-OrgID, or the no-auth tenant when multitenancy is off) */
    HTTP_GZIP = 2,    /* the answer may be compressed when the client asks for it */
    HTTP_PREFIX = 4,  /* the path is under -http.prometheus-http-prefix */
    HTTP_BIG_BODY = 8, /* body limit is the push limit (-distributor.max-recv-msg-size), else -query-frontend.max-body-size */
    HTTP_SPOOL = 16   /* the body goes to a file, however large; its table needs http_server_on_spool. No read timeout, no deadline */
};

/* Runs on the route's pool. Must lead to exactly one http_respond*. arg is the one given at registration. */
typedef void http_handler(struct http_request *req, void *arg);

/*
 * One row of a <room>_routes.def. path may have segments in braces, "/api/v1/label/{name}/values"; matched on the encoded path, the
 * variable is percent-decoded. "{rest...}" as the last segment takes all that follows, with its slashes. A literal path goes before one with
 * variables, then the first row counts; rows with the same path and other methods may stand beside each other. The metric's route label is the
 * path with '/' -> '_' and variables by name, as Mimir's.
 */
struct http_route {
    int methods; /* enum http_method bits */
    const char *path;
    enum http_pool pool;
    int flags; /* enum http_route_flag bits */
    http_handler *handler;
    const char *help; /* for the index page and docs/reference/http.md; "" = not listed */
};

/* --- life cycle ------------------------------------------------------------------------------------------------ */

struct http_limits {
    uint64_t max_body_bytes;      /* most routes */
    uint64_t max_push_body_bytes; /* HTTP_BIG_BODY routes */
};

/*
 * Parses X-Scope-OrgID: returns true and the tenant, or false with ERR_UNAUTHENTICATED / ERR_TOO_MANY_TENANTS / ERR_BAD_DATA. Given by app, so
 * that net knows nothing of tenants. header.p == NULL: header absent.
 */
typedef bool http_tenant_fn(void *arg, struct slice header, struct slice *ret_tenant, struct err *err);

struct http_server *http_server_new(const struct http_config *cfg, struct http_limits limits, http_tenant_fn *tenant_fn,
                                    void *tenant_arg);
/* Before start. The table must outlive the server. prefix is put before rows with HTTP_PREFIX. */
void http_server_add(struct http_server *s, const char *prefix, const struct http_route *routes, size_t n, void *arg);
/* Why the server itself refuses a request that has a route. */
enum http_refusal {
    HTTP_REFUSED_BODY_TOO_LARGE, /* past the route's limit; default 413 "http: request body too large" */
    HTTP_REFUSED_QUEUE_FULL,     /* the pool's queue; default 503, on the query pool 429 "too many outstanding requests" */
    HTTP_REFUSED_BODY_MEMORY,    /* -server.http-max-body-memory-bytes is used up; default 503 */
};
/*
 * A room's own words for refusals: fn must respond before it returns. Runs on an I/O thread; there is no body. n_bytes is the Content-Length, or what
 * had come of a chunked body; limit_bytes the route's limit. arg is the one of http_server_add.
 */
typedef void http_refuse_fn(struct http_request *req, enum http_refusal why, uint64_t n_bytes, uint64_t limit_bytes, void *arg);
/* For the rows of a table that was added before. */
void http_server_on_refusal(struct http_server *s, const struct http_route *routes, http_refuse_fn *fn);
/*
 * HTTP_SPOOL: bodies that may be larger than memory. fn runs on an I/O thread when the headers are there and must not wait: it says where the body is to be
 * kept and how large it may be, or responds and returns false. What has come is written to an unnamed file by a pool of its own, 256 KiB at a time, while the
 * connection stands still; the handler is called when all is there. At most HTTP_MAX_SPOOLS bodies at once, further ones are refused (HTTP_REFUSED_BODY_MEMORY).
 */
struct http_spool_place {
    const char *dir;
    uint64_t max_bytes;
};
#define HTTP_MAX_SPOOLS 64
typedef bool http_spool_fn(struct http_request *req, void *arg, struct http_spool_place *ret);
void http_server_on_spool(struct http_server *s, const struct http_route *routes, http_spool_fn *fn);
/* Binds, starts threads. Errors name the address: "listen tcp 0.0.0.0:8080: address already in use". */
bool http_server_start(struct http_server *s, struct err *err);
uint16_t http_server_port(const struct http_server *s); /* the bound port, also when the flag was 0 */
/*
 * Stops accepting, waits for running requests up to timeout_ms, cancels and answers (503) those that are left, closes all connections and joins the
 * pools. A handler that answers later still may, also after http_server_free: its answer is dropped.
 */
void http_server_stop(struct http_server *s, int64_t timeout_ms);
void http_server_free(struct http_server *s);
/* Each registered route in order: for the index page and the reference. */
void http_server_each_route(const struct http_server *s, void (*fn)(const struct http_route *r, const char *full_path, void *arg),
                            void *arg);

/* --- reading a request (handler's thread; slices live until the response) ---------------------------------------------- */

/*
 * tenant, deadline (-server.http-write-timeout from the request's start; none on the query pool, whose handlers set their own), canceled; its arena is
 * the request's own, of at most 1 GiB.
 */
struct ctx *http_ctx(struct http_request *req);
enum http_method http_method(const struct http_request *req);
struct slice http_path(const struct http_request *req);
struct slice http_body(const struct http_request *req);
/* The bytes of the body become the caller's (buf_release, or free(p)); http_body is empty afterwards. They may outlive the answer. */
struct buf http_take_body(struct http_request *req);
/* HTTP_SPOOL: the file with the body, and its size; closed after the answer. "/proc/self/fd/<n>" is a path of it. http_body is empty then. */
int http_body_file(const struct http_request *req, uint64_t *ret_bytes);
/* What the client has declared; false when it sends in chunks. */
bool http_content_length(const struct http_request *req, uint64_t *ret);
struct slice http_query(const struct http_request *req); /* what follows the '?', undecoded */
struct slice http_header(const struct http_request *req, const char *name); /* p == NULL when absent */
struct slice http_path_var(const struct http_request *req, const char *name);
/*
 * First value of a parameter: of a form body (POST, PUT or PATCH with application/x-www-form-urlencoded), else of the URL; the order of Go's
 * Request.FormValue. p == NULL when absent. Pairs with a bad escape are left out.
 */
struct slice http_param(struct http_request *req, const char *name);
/* All values, in order; returns how many. */
size_t http_params(struct http_request *req, const char *name, const struct slice **ret_values);
/* Whether all parameters could be read; else ERR_BAD_DATA with Go's text: invalid URL escape "%zz". */
bool http_params_check(struct http_request *req, struct err *err);

/* --- answering (any thread; exactly one of the respond functions) ------------------------------------------------------ */

void http_set_header(struct http_request *req, const char *name, const char *value); /* copied; before responding */
/* Takes over body's bytes; body is empty afterwards. content_type NULL: no such header. */
void http_respond(struct http_request *req, int status, const char *content_type, struct buf *body);
void http_respond_status(struct http_request *req, int status);
/* As Go's http.Error: text/plain; charset=utf-8, X-Content-Type-Options: nosniff, text and a newline. */
void http_respond_text_error(struct http_request *req, int status, const char *text);
/* The same with the text of err and the status of its code. */
void http_respond_err(struct http_request *req, const struct err *err);
/* A body that lives as long as the process (embedded pages); may be pre-compressed: gzip says so. */
void http_respond_static(struct http_request *req, const char *content_type, struct slice body, bool gzip);

/*
 * An answer that is made while it is sent, so that no more than a piece of it is in memory. The source is asked for piece after piece: at first on the thread that
 * responds, then on threads of the stream pool, one at a time, whenever the client has taken what was there; it must not wait long. An answer of less than
 * HTTP_PIECE_BYTES is sent whole, as http_respond does it. At most HTTP_MAX_STREAMS at once, further ones are refused with 503.
 */
#define HTTP_PIECE_BYTES ((size_t)256 << 10)
#define HTTP_MAX_STREAMS 1024
struct http_source {
    /*
     * Appends the next piece to out, about HTTP_PIECE_BYTES; nothing at all means the end, and it is not asked again. False: the answer is that error when nothing
     * has been sent yet; later the connection is closed within the answer, so that the client sees that it is not whole. Sources look at their deadline here.
     */
    bool (*next)(void *arg, struct buf *out, struct err *err);
    void (*release)(void *arg); /* exactly once; on any thread. Until it returns the request's ctx is valid */
    void *arg;
};
void http_respond_stream(struct http_request *req, int status, const char *content_type, struct http_source source);

/* --- for servers of other protocols (net/rpc) ------------------------------------------------------------------------------ */

/* The listening socket, not blocking; address "" = all, port 0 = a free one. Errors as those of http_server_start. */
bool http_listen(const char *address, int64_t port, int *ret_fd, uint16_t *ret_port, struct err *err);

/* The families of requests, which all protocols count in. Registered by the first who asks. */
struct http_families {
    struct metric_family *duration;          /* method, route, status_code, ws */
    struct metric_family *inflight;          /* method, route */
    struct metric_family *received;          /* method, route */
    struct metric_family *sent;              /* method, route */
    struct metric_family *connections;       /* protocol */
    struct metric_family *connections_limit; /* protocol */
    struct metric_family *tls_failed;        /* protocol */
    struct metric_family *wrong_cluster;     /* protocol, method, cluster_validation_label, request_cluster_validation_label */
};
struct http_families http_request_families(void);
