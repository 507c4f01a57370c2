/* Private to net/rpc/rpc_client.c (connections) and net/rpc/rpc_call.c (calls). */
#pragma once

#include "net/rpc/rpc_int.h"

struct rpc_clients {
    struct rpc_client_config cfg; /* immutable, as all */
    struct rpc_loop *loop;
};

#define RPC_NO_DEADLINE INT64_MAX

enum client_state { CLIENT_IDLE, CLIENT_CONNECTING, CLIENT_READY };

struct rpc_client {
    struct rpc_clients *owner;
    atomic_int refs; /* the owner, its connections, its streams */
    char *address, *host, *port;

    pthread_mutex_t lock;
    pthread_cond_t changed; /* lock */
    #define RPC_NO_DEADLINE INT64_MAX

enum client_state state;
    int64_t backoff_ms;  /* the last one; 0 after a success */
    int64_t retry_at_ms; /* calls before fail with `why` */
    struct err why;
    bool gone; /* rpc_client_free was called */

    struct rpc_conn *conn; /* owned by the I/O thread; NULL: none that takes calls */
};

struct client_stream {
    struct rpc_stream stream;
    struct rpc_client *client; /* counted */
    const struct ctx *ctx;
    int64_t deadline_ms;
    char *method;
    struct rpc_kv *metadata; /* names and values in `bytes` */
    size_t n_metadata;
    char *bytes;
    /* Owned by the I/O thread. */
    int http_status;
    bool submitted;
    /* Guarded by stream.lock. */
    bool unprocessed; /* the server has certainly not begun it */
};

extern const struct rpc_role rpc_client_role;

/* rpc_client.c */
void rpc_client_ref(struct rpc_client *c);
void rpc_client_unref(struct rpc_client *c);
/* The next call connects again, unless somebody does already. Any thread. */
void rpc_client_set_idle(struct rpc_client *c);
/* Of a caller's thread: connects, or waits for who does. */
bool rpc_client_connect(struct rpc_client *c, const struct ctx *ctx, int64_t deadline_ms, struct err *err);
void rpc_client_going_away(struct rpc_conn *conn);
void rpc_client_conn_closed(struct rpc_conn *conn);
/* Until when a caller sleeps at most: its deadline, or when it looks at ctx.canceled again. */
int64_t rpc_client_next_look_ms(int64_t deadline_ms, const struct ctx *ctx);
/* ERR_CANCELED or ERR_TIMEOUT. */
bool rpc_client_may_wait(const struct ctx *ctx, int64_t deadline_ms, struct err *err);
