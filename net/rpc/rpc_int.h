/* Private to net/rpc, its fuzz target and its tests. */
#pragma once

#include <nghttp2/nghttp2.h>
#include <pthread.h>
#include <stdatomic.h>

#include "base/arena.h"
#include "base/assert.h"
#include "base/metrics.h"
#include "base/pool.h"
#include "net/rpc/rpc.h"
#include "net/tls.h"

#define RPC_HEAD_BYTES 5                 /* of a message on the wire: compressed flag, length (big-endian) */
#define RPC_WINDOW_BYTES (1 << 20)       /* flow control of one stream */
#define RPC_CONN_WINDOW_BYTES (16 << 20) /* ... of one connection */
#define RPC_SEND_BUFFER_BYTES (1u << 20) /* rpc_send waits above */
#define RPC_RECV_BUFFER_BYTES (1u << 20) /* the peer's window is not opened further above */
#define RPC_MAX_METADATA_BYTES (64u << 10)
#define RPC_MAX_IO_THREADS 16
#define RPC_HANDSHAKE_MS 10000 /* a client may take so long for a TLS handshake */
#define RPC_WRITE_BYTES (128u << 10) /* frames are collected up to this before a write */

/* --- status and headers (rpc_text.c) --- */
/* grpc-timeout: up to 8 digits and one of H M S m u n. False: malformed. Less than a millisecond is one. */
bool rpc_timeout_parse(struct slice s, int64_t *ret_ms);
void rpc_timeout_format(int64_t ms, char ret[16]);
void rpc_percent_encode(struct slice in, struct buf *out);
void rpc_percent_decode(struct slice in, struct buf *out);

/* --- compressed messages (rpc_compress.c) --- */
enum rpc_codec { RPC_CODEC_NONE, RPC_CODEC_GZIP, RPC_CODEC_SNAPPY, RPC_CODEC_UNKNOWN };
/* Of a grpc-encoding; "" is NONE. */
enum rpc_codec rpc_codec_of(struct slice name);
const char *rpc_codec_name(enum rpc_codec codec);
/* Appends to out, never past its maximum. False: malformed, or out has failed because there was more. */
bool rpc_decompress(enum rpc_codec codec, struct slice in, struct buf *out);
/* GZIP or SNAPPY. Appends to out. */
void rpc_compress(enum rpc_codec codec, struct slice in, struct buf *out);

/* --- messages out of DATA bytes (rpc_frames.c) --- */
/* Bytes that all requests of a server hold together. */
struct rpc_memory {
    atomic_uint_fast64_t used_bytes;
    uint64_t max_bytes; /* 0 = no limit; immutable */
};

/* Owned by the I/O thread. */
struct rpc_frames {
    uint8_t head[RPC_HEAD_BYTES];
    size_t n_head;
    uint32_t want_bytes;
    uint64_t max_bytes; /* of a message, inflated or not */
    enum rpc_codec codec; /* the peer's grpc-encoding */
    struct buf body;
    struct rpc_memory *memory; /* NULL: not counted */
    uint64_t charged_bytes;
};
/*
 * Takes bytes from the front of in. True: *ret_done says whether f->body is a whole message now (take it with
 * rpc_frames_take before the next call), else in is used up. False: the stream is broken, *ret_code and err say why.
 */
bool rpc_frames_feed(struct rpc_frames *f, struct slice *in, bool *ret_done, int *ret_code, struct err *err);
struct buf rpc_frames_take(struct rpc_frames *f);
bool rpc_frames_between(const struct rpc_frames *f); /* no message has been begun */
void rpc_frames_release(struct rpc_frames *f);

/* --- I/O thread (rpc_loop.c) --- */
/* Something that epoll reports. */
struct rpc_watch {
    void (*ready)(struct rpc_watch *w, uint32_t events);
};

typedef void rpc_task_fn(void *arg);

struct rpc_task {
    struct rpc_task *next;
    rpc_task_fn *fn;
    void *arg;
};

struct rpc_conn;
struct rpc_loop {
    atomic_int refs; /* the owner, and each stream */
    pthread_t thread;
    bool runs; /* owner */
    int epoll_fd;
    int wake_fd;
    struct rpc_watch wake;
    struct rpc_conn *conns; /* owned by the I/O thread */

    pthread_mutex_t lock; /* the innermost: taken with a stream's lock held, never the other way */
    struct rpc_stream *kicked, **kicked_end;
    struct rpc_task *tasks, **tasks_end;
    bool stop;
};

struct rpc_loop *rpc_loop_new(void);
bool rpc_loop_start(struct rpc_loop *l, const char *name, struct err *err);
/* Runs the tasks that are there, closes all connections, joins. */
void rpc_loop_stop(struct rpc_loop *l);
void rpc_loop_unref(struct rpc_loop *l);
/* fn(arg) runs on the I/O thread. False: the loop has ended, fn will not run. */
bool rpc_loop_post(struct rpc_loop *l, rpc_task_fn *fn, void *arg);
/* The I/O thread will look at the stream. */
void rpc_loop_kick(struct rpc_stream *st);
/* What a loop without a thread does when it is kicked (fuzzing). */
void rpc_loop_turn(struct rpc_loop *l);
bool rpc_loop_watch(struct rpc_loop *l, int fd, struct rpc_watch *w, uint32_t events);

/* --- streams (rpc_stream.c, rpc_wait.c) --- */
struct rpc_msg {
    struct rpc_msg *next;
    uint8_t head[RPC_HEAD_BYTES];
    size_t sent_bytes; /* head included */
    struct buf body;
};

struct rpc_queue {
    struct rpc_msg *first, **end;
    size_t bytes;
};

/* What differs between the server's end and the client's. All run on the I/O thread. */
struct rpc_role {
    bool server;
    void (*begin)(struct rpc_conn *conn, int32_t id);                             /* the peer opened a stream */
    bool (*header)(struct rpc_stream *st, struct slice name, struct slice value); /* false: reset the stream */
    void (*headers_done)(struct rpc_stream *st);
    void (*message)(struct rpc_stream *st, struct buf *msg);
    void (*end)(struct rpc_stream *st);                                 /* the peer has sent all */
    void (*broken)(struct rpc_stream *st, int code, struct slice text); /* its bytes are no messages */
    void (*closed)(struct rpc_stream *st, uint32_t h2_error, bool conn_lost);
    void (*kick)(struct rpc_stream *st);
    void (*conn_closed)(struct rpc_conn *conn);
    void (*going_away)(struct rpc_conn *conn);
    void (*handshake_failed)(struct rpc_conn *conn, const struct err *err); /* server; the connection is closed next */
    void (*free)(struct rpc_stream *st);
};

struct rpc_waiter;
struct rpc_stream {
    atomic_int refs; /* its connection, its handler or caller, and the loop while kicked */
    const struct rpc_role *role;
    struct rpc_loop *loop; /* counted */

    /* Owned by the I/O thread. */
    struct rpc_conn *conn; /* NULL before and after */
    int32_t id;
    struct rpc_stream *prev, *next;
    struct rpc_frames in;
    size_t n_headers_bytes;
    bool begun;     /* our HEADERS are submitted */
    bool peer_done; /* the peer has sent all */
    bool failed;    /* nothing more is taken from the peer */
    size_t unconsumed_bytes;

    /* Guarded by loop->lock. */
    bool kicked;
    struct rpc_stream *next_kicked;

    pthread_mutex_t lock;
    pthread_cond_t changed; /* lock */
    /* Guarded by lock. */
    struct rpc_queue out;
    bool out_end;         /* nothing follows; on the server's end status is set */
    struct rpc_queue got;      /* client: messages that wait for the reader */
    struct rpc_waiter *waiter; /* client: a thread in rpc_stream_wait_any */
    bool closed;
    bool reset; /* the I/O thread shall reset it */
    bool has_status;
    struct rpc_status status;
};

void rpc_stream_init(struct rpc_stream *st, const struct rpc_role *role, struct rpc_loop *loop);
void rpc_stream_release(struct rpc_stream *st);
void rpc_stream_ref(struct rpc_stream *st);
void rpc_stream_unref(struct rpc_stream *st);
/* Waits for `changed` until a time of the monotonic clock. Needs st->lock. */
void rpc_stream_wait(struct rpc_stream *st, int64_t until_ms);
/* Wakes who waits for it. Needs st->lock. */
void rpc_stream_changed(struct rpc_stream *st);
/* Takes over body. packed: it is compressed. */
void rpc_queue_push(struct rpc_queue *q, struct buf *body, bool packed);
struct buf rpc_queue_pop(struct rpc_queue *q);
void rpc_queue_clear(struct rpc_queue *q);

/* --- connections (rpc_conn.c, rpc_io.c); all on the I/O thread --- */
struct rpc_conn {
    struct rpc_watch watch;
    struct rpc_loop *loop;
    const struct rpc_role *role;
    void *owner; /* struct rpc_server or struct rpc_client; the role's */
    int fd;      /* -1: in memory, what it sends is dropped (fuzzing) */
    nghttp2_session *session;
    struct rpc_conn *prev, *next;
    struct rpc_stream *streams;
    size_t n_streams;
    struct buf out;
    size_t out_sent;
    bool wants_out;  /* epoll waits for EPOLLOUT */
    bool doomed; /* closed when what is collected has been written */
    bool going_away; /* we sent GOAWAY, or got it */
    int64_t born_ms;
    int64_t heard_ms;
    int64_t ping_ms; /* when the ping was sent; 0 = none is out */
    int64_t keepalive_time_ms;
    int64_t keepalive_timeout_ms;
    int64_t max_age_ms;     /* 0 = none */
    int64_t age_grace_ms;   /* 0 = none */
    int64_t max_idle_ms;    /* 0 = none */
    int64_t idle_ms;        /* since when no stream has been there */
    int64_t min_ping_ms;    /* between pings of the peer; 0 = any */
    int64_t peer_ping_ms;   /* its last one */
    unsigned ping_strikes;  /* pings that came too soon, since anything was sent */
    bool peer_idle_pings;   /* it may ping without a stream */
    bool ping_idle;     /* also while no stream runs */
    bool heard;         /* a frame at least */
    struct tls *tls;    /* NULL: plain */
    bool shaking;       /* the handshake goes on; nothing else does */
};

/* Settings and defaults are the role's; fd and tls (NULL: plain) are the connection's from now on.
 * NULL: closed again. A server's end begins with the handshake, a client's comes with it done. */
struct rpc_conn *rpc_conn_new(struct rpc_loop *loop, const struct rpc_role *role, void *owner, int fd,
                              struct tls *tls, uint32_t max_streams);
void rpc_conn_close(struct rpc_conn *c);
void rpc_conn_link(struct rpc_conn *c, struct rpc_stream *st, int32_t id);
void rpc_conn_unlink(struct rpc_stream *st, uint32_t h2_error, bool conn_lost);
/* Bytes that came. False: the connection must be closed. */
bool rpc_conn_feed(struct rpc_conn *c, struct slice in);
/* What epoll says of its socket. */
void rpc_conn_ready(struct rpc_watch *w, uint32_t events);
/* Sends what there is to send; closes the connection (false) when it is broken or done. */
bool rpc_conn_flush(struct rpc_conn *c);
void rpc_conn_go_away(struct rpc_conn *c);
/* About each second. May close c. */
void rpc_conn_tick(struct rpc_conn *c, int64_t now_ms);
/* The body of st's HEADERS: st->out. */
nghttp2_data_provider rpc_conn_body(struct rpc_stream *st);
void rpc_conn_consume(struct rpc_stream *st);
/* A header field whose bytes live until the submit call. */
nghttp2_nv rpc_nv(struct slice name, struct slice value);

/* --- server --- */
struct rpc_entry {
    const struct rpc_method *method;
    void *arg;
    bool streams;
    struct slice label;
    struct metric *inflight, *received, *sent;
    struct metric *ok; /* duration of the usual status */
};

struct rpc_server {
    const struct rpc_config *cfg;
    const struct http_config *common; /* NULL: not given */
    atomic_int refs;           /* the owner, and each request */
    struct rpc_entry *entries; /* immutable after start */
    size_t n_entries;
    struct rpc_entry other;
    struct pool *pool; /* NULL: handlers run on the I/O thread (fuzzing) */
    struct rpc_loop *loops[RPC_MAX_IO_THREADS];
    size_t n_loops;
    size_t next_loop; /* owned by the first I/O thread, which accepts */
    struct rpc_watch listener;
    int listen_fd; /* the same */
    uint16_t port;
    size_t conn_limit;
    atomic_size_t n_conns;
    bool started, stopped;
    atomic_bool serving;
    struct rpc_memory memory;
    struct metric *m_conns;
    struct metric *m_failed_handshakes;
    struct tls_context *tls; /* NULL: plain */

    pthread_mutex_t lock;
    pthread_cond_t changed; /* lock */
    size_t n_live;          /* streams; guarded by lock */
};

struct rpc_request {
    struct rpc_stream stream;
    struct rpc_server *server; /* counted */
    struct rpc_entry *entry;
    struct arena arena;
    struct ctx ctx;
    atomic_bool canceled;
    int64_t start_ns;
    struct slice path, method, content_type, encoding;
    struct rpc_kv *metadata; /* in the arena; immutable after dispatch */
    size_t n_metadata, cap_metadata;
    struct buf body;
    bool has_body;
    bool finished;       /* guarded by stream.lock */
    bool counted;        /* in the metrics; set by the I/O thread before dispatch */
    bool dispatched;     /* the handler owns a reference; I/O thread */
    uint64_t sent_bytes; /* guarded by stream.lock */
};

extern const struct rpc_role rpc_server_role;
void rpc_server_unref(struct rpc_server *s);
/* rpc_request.c */
void rpc_entry_init(struct rpc_entry *e, const struct rpc_method *m, void *arg, const char *label);
/* The server answers in the handler's place; the handler's own answer will be dropped. I/O thread. */
void rpc_request_abort(struct rpc_stream *st, int code, struct slice text);
/* rpc_health.c */
extern const struct rpc_method rpc_health_methods[];
extern const size_t rpc_health_methods_n;
