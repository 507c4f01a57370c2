/*
 * gRPC over HTTP/2 (nghttp2): a server and a client, for calls with one request message and one answer (unary) or many
 * (server streaming). Messages are bytes here; the rooms above encode them. README.md in this folder tells the story of
 * one call.
 *
 * Server: I/O threads own the connections and collect the request (never past -server.grpc-max-recv-msg-size-bytes);
 * the handler runs on a pool and answers, at once or later from any thread, with rpc_respond or rpc_send... and
 * rpc_finish. A request stays valid until it is finished, also when its client has gone (ctx.canceled is true then) or
 * the server has stopped; it must be finished exactly once and not be touched afterwards.
 *
 * Client: rpc_call and rpc_stream_next block the calling thread, never longer than the deadline; rpc_stream_open never
 * blocks. One connection to an address carries many calls. One thread can have many calls run, and wait for whichever
 * has something first: rpc_stream_wait_any.
 *
 * Answers are counted in the families of net/http.h with method="gRPC", route="/pkg.Service/Method" and status_code =
 * the name of the code.
 */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/buf.h"
#include "base/ctx.h"
#include "base/err.h"
#include "base/flags.h"
#include "base/slice.h"
#include "net/tls.h"

/* The numbers are gRPC's. Other numbers travel as they are: Mimir's httpgrpc puts HTTP statuses there. */
enum rpc_code {
    RPC_OK = 0,
    RPC_CANCELED = 1,
    RPC_UNKNOWN = 2,
    RPC_INVALID_ARGUMENT = 3,
    RPC_DEADLINE_EXCEEDED = 4,
    RPC_NOT_FOUND = 5,
    RPC_ALREADY_EXISTS = 6,
    RPC_PERMISSION_DENIED = 7,
    RPC_RESOURCE_EXHAUSTED = 8,
    RPC_FAILED_PRECONDITION = 9,
    RPC_ABORTED = 10,
    RPC_OUT_OF_RANGE = 11,
    RPC_UNIMPLEMENTED = 12,
    RPC_INTERNAL = 13,
    RPC_UNAVAILABLE = 14,
    RPC_DATA_LOSS = 15,
    RPC_UNAUTHENTICATED = 16
};

#define RPC_CODE_NAME_MAX 24
/* "OK", "InvalidArgument", ..., as Go prints them; a number for other codes. Writes into ret and returns it. */
const char *rpc_code_name(int code, char ret[RPC_CODE_NAME_MAX]);
enum rpc_code rpc_code_of_err(enum err_code code);

/* How a call ended. Owned by the caller. */
struct rpc_status {
    int code;
    char text[ERR_TEXT_MAX];
    struct buf details; /* bytes of a google.rpc.Status (grpc-status-details-bin); empty when none came */
};
#define RPC_STATUS_NONE ((struct rpc_status){.code = RPC_OK})
void rpc_status_release(struct rpc_status *st);

struct rpc_kv {
    struct slice name; /* lower case */
    struct slice value;
};

/* --- server ---------------------------------------------------------------------------------------------------- */

struct rpc_config {
#define FLAG FLAG_FIELD
#include "net/rpc/rpc_flags.def"
#undef FLAG
};
extern const struct flag_def rpc_flags[];
extern const size_t rpc_flags_n;

struct rpc_server;
struct rpc_request;

/* Runs on the server's pool; must lead to exactly one rpc_respond or rpc_finish*. */
typedef void rpc_handler(struct rpc_request *req, void *arg);

struct rpc_method {
    const char *name; /* "/pkg.Service/Method" */
    rpc_handler *handler;
    bool streams; /* it has many answers. The cluster's label is not looked for then, as Mimir's clients send it with unary calls only */
};

struct http_config;
/* cfg must outlive the server. The service grpc.health.v1.Health is there from the start. */
struct rpc_server *rpc_server_new(const struct rpc_config *cfg);
/* Before start: what both servers have in common stands among the HTTP server's flags (TLS versions, cipher suites,
 * cluster labels). Without this call the defaults hold. common must outlive the server. */
void rpc_server_set_common(struct rpc_server *s, const struct http_config *common);
/* Before start. The table must outlive the server. */
void rpc_server_add(struct rpc_server *s, const struct rpc_method *methods, size_t n, void *arg);
/* Errors name the address: "listen tcp 0.0.0.0:9095: address already in use", or the TLS file. */
bool rpc_server_start(struct rpc_server *s, struct err *err);
uint16_t rpc_server_port(const struct rpc_server *s);
/* What Health/Check answers; serving from the start. Any thread. */
void rpc_server_set_serving(struct rpc_server *s, bool serving);
/*
 * Takes no new connections and calls (GOAWAY), waits for running calls up to timeout_ms, cancels and answers
 * (UNAVAILABLE) those that are left, closes the connections and joins I/O threads and pool. A handler's other threads
 * may finish a request later: that answer is dropped.
 */
void rpc_server_stop(struct rpc_server *s, int64_t timeout_ms);
void rpc_server_free(struct rpc_server *s);

/* The request's deadline (grpc-timeout), cancellation and arena; the tenant is empty: it is the handler's to set. */
struct ctx *rpc_ctx(struct rpc_request *req);
struct slice rpc_body(const struct rpc_request *req);
/* First metadata of this lower-case name, as it came ("-bin" values are still base64); p == NULL when absent. */
struct slice rpc_metadata(const struct rpc_request *req, const char *name);

/*
 * One message of a streamed answer. Takes over msg's bytes. Waits while more than a mebibyte is not sent yet; false
 * (the message is dropped, the request still to be finished) when the client has gone, the deadline has passed or the
 * server gave up: ERR_CANCELED or ERR_TIMEOUT. One thread at a time.
 */
bool rpc_send(struct rpc_request *req, struct buf *msg, struct err *err);
/* The one message of a unary answer, and OK. Takes over msg's bytes. */
void rpc_respond(struct rpc_request *req, struct buf *msg);
/* The end of a stream (RPC_OK), or an error. text is percent-encoded as needed; details: bytes of a google.rpc.Status,
 * or empty. */
void rpc_finish(struct rpc_request *req, int code, struct slice text, struct slice details);
void rpc_finish_err(struct rpc_request *req, const struct err *err);

/* --- client ---------------------------------------------------------------------------------------------------- */

struct rpc_client_config {
    uint64_t max_recv_msg_bytes;  /* 0: 100 MiB */
    int64_t connect_timeout_ms;   /* 0: 5 s */
    int64_t call_timeout_ms;      /* of calls without a deadline; 0: 2 min */
    int64_t backoff_min_ms;       /* after a failed connection attempt calls fail at once for so long; 0: 100 ms */
    int64_t backoff_max_ms;       /* ... doubled with each failure up to this; 0: 10 s */
    int64_t keepalive_time_ms;    /* a ping when nothing came for so long while calls run; 0: 20 s */
    int64_t keepalive_timeout_ms; /* 0: 10 s */
    const char *compression;      /* of requests: "gzip", "snappy"; NULL or "": none. Answers are taken with either */
    const char *cluster_label;    /* sent with unary calls; NULL or "": none. Must outlive the clients */
    struct tls_client_config tls; /* all zero: plain. Its strings must outlive the clients */
};
/* Whether TLS' files can be read and its words and the compression are known. Files that cannot be read at this time are
 * no error without this call: a client that cannot connect says why. The compression must be known. */
bool rpc_client_config_check(const struct rpc_client_config *cfg, struct err *err);

/* An I/O thread for the connections of many clients. */
struct rpc_clients;
struct rpc_clients *rpc_clients_new(const struct rpc_client_config *cfg); /* cfg is copied */
void rpc_clients_free(struct rpc_clients *cs);                            /* after all its clients and streams */

/* Calls to one address "host:port". Connects with the first call, and again when the connection has gone. Any thread.
 */
struct rpc_client;
struct rpc_client *rpc_client_new(struct rpc_clients *cs, const char *address);
void rpc_client_free(struct rpc_client *c); /* running calls end with UNAVAILABLE */

struct rpc_args {
    const char *method; /* "/pkg.Service/Method" */
    struct slice request;
    const struct rpc_kv *metadata;
    size_t n_metadata;
    const struct ctx *ctx; /* deadline and cancellation; may be NULL */
    /* Streams only: our side is not ended after the request, for methods that live as long as it is open (etcd's Watch).
     * Without a deadline in ctx the stream has none. */
    bool keep_open;
    /* Streams only: the method has one answer, so what goes with unary calls (the cluster's label) goes with it. */
    bool unary;
};

/*
 * A unary call. True: code RPC_OK and the answer's bytes in ret_answer (the caller's, buf_release). A refused
 * connection is RPC_UNAVAILABLE. Blocks until the answer, the deadline or the cancellation. A call that the server
 * certainly did not begin is tried a second time. ret_status is released first and then set.
 */
bool rpc_call(struct rpc_client *c, const struct rpc_args *args, struct buf *ret_answer, struct rpc_status *ret_status);

/*
 * A call with many answers, or one. Never NULL, never blocks: connecting is the client's affair, and what goes wrong is
 * told by rpc_stream_next. The request is copied. ctx must live as long as the stream. A reader that does not come keeps at most about 2 MiB (and one message) waiting here;
 * then the server waits.
 */
struct rpc_stream;
struct rpc_stream *rpc_stream_open(struct rpc_client *c, const struct rpc_args *args);
enum rpc_next { RPC_NEXT_MESSAGE, RPC_NEXT_END };
/* The next message (ret_msg is the caller's), or the end with ret_status: RPC_OK or what went wrong. One thread at a
 * time. */
enum rpc_next rpc_stream_next(struct rpc_stream *st, struct buf *ret_msg, struct rpc_status *ret_status);
/*
 * Waits until one of streams[0..n) has something: its next rpc_stream_next returns at once, with a message or the end
 * (a deadline that has passed and a cancellation are ends). Returns the smallest index of such a stream, or -1 after
 * timeout_ms. NULL entries are skipped; 0 only looks. One thread at a time waits for a stream. Costs a lock a stream.
 */
int rpc_stream_wait_any(struct rpc_stream *const streams[], size_t n, int64_t timeout_ms);
/* Cancels what still runs. NULL is fine. */
void rpc_stream_close(struct rpc_stream *st);
