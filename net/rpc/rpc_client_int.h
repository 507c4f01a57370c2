/* Private to net/rpc/rpc_client.c (connections) and net/rpc/rpc_call.c (calls). */
#pragma once

#include "net/rpc/rpc_int.h"

struct rpc_clients {
    atomic_int refs;              /* the owner, and each client: a connecting thread may outlive rpc_clients_free */
    struct rpc_client_config cfg; /* immutable, as the rest */
    enum rpc_codec codec; /* of requests */
    struct rpc_loop *loop;
    pthread_mutex_t lock;
    struct tls_context *tls; /* guarded by lock until it is set, immutable from then on; NULL: none made yet */
};

#define RPC_NO_DEADLINE INT64_MAX

enum client_state { CLIENT_IDLE, CLIENT_CONNECTING, CLIENT_READY };

struct rpc_client {
    struct rpc_clients *owner;
    atomic_int refs; /* the owner, its connections, its streams, its connecting thread */
    char *address, *host, *port;

    pthread_mutex_t lock; /* never held together with a stream's */
    /* Guarded by lock. */
    enum client_state state;
    struct client_stream *waiting, **waiting_end; /* while CONNECTING; counted */
    int64_t backoff_ms;  /* the last one; 0 after a success */
    int64_t retry_at_ms; /* calls before fail with `why` */
    struct err why;
    bool gone; /* rpc_client_free was called */

    struct rpc_conn *conn; /* owned by the I/O thread; NULL: none that takes calls */
};

/* A call, as its caller and the I/O thread see it. */
struct client_stream {
    struct rpc_stream stream;
    struct rpc_client *client; /* counted */
    const struct ctx *ctx;
    int64_t deadline_ms;
    bool unary;
    char *method;
    struct rpc_kv *metadata; /* names and values in `bytes` */
    size_t n_metadata;
    char *bytes;
    /* Owned by the I/O thread. */
    int http_status;
    bool submitted;
    bool enqueued_again; /* its connection had gone before it was submitted: a second one is asked for, once */
    /* Guarded by stream.lock. */
    bool unprocessed; /* the server has certainly not begun it */
    /* Guarded by client->lock. */
    bool waits;
    struct client_stream *next_waiting;
};

extern const struct rpc_role rpc_client_role;

/* rpc_client.c */
void rpc_client_ref(struct rpc_client *c);
void rpc_client_unref(struct rpc_client *c);
/* The next call connects again, unless somebody does already. Any thread. */
void rpc_client_set_idle(struct rpc_client *c);
/* The stream will be kicked when there is a connection, or ended when there is none to be had. False: at once, and the
 * stream is the caller's to end. Never blocks; any thread. */
bool rpc_client_enqueue(struct rpc_client *c, struct client_stream *cs, struct err *err);
/* For streams that are given up. */
void rpc_client_unwait(struct client_stream *cs);
void rpc_client_going_away(struct rpc_conn *conn);
void rpc_client_conn_closed(struct rpc_conn *conn);
/* Until when a caller sleeps at most: its deadline, or when it looks at ctx.canceled again. */
int64_t rpc_client_next_look_ms(int64_t deadline_ms, const struct ctx *ctx);
/* ERR_CANCELED or ERR_TIMEOUT. */
bool rpc_client_may_wait(const struct ctx *ctx, int64_t deadline_ms, struct err *err);
/* rpc_call.c */
struct client_stream *rpc_client_stream_of(struct rpc_stream *st);
/* The first end of a stream counts. Any thread. */
void rpc_client_stream_end(struct rpc_stream *st, int code, struct slice text, bool unprocessed);
