/*
 * The HTTP server under everything at once, as a plain program, because Criterion does not start under TSan:
 *
 *     http_stress [seconds]        many clients, late answers from two threads, clients that break off, streamed answers, scrapes, stops and starts;
 *                                  exits 0 when every answer that was waited for came
 *     http_stress -serve PORT [THREADS [CERT KEY]]
 *                                  a server for wrk: POST /api/v1/push is parked and answered 200 by another thread, /inline answers at once;
 *                                  with TLS where PEM files are given
 *
 * Figures of the second form stand in net/README.md.
 */
#include <arpa/inet.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#include "base/assert.h"
#include "base/clock.h"
#include "base/logger.h"
#include "base/metrics.h"
#include "net/http.h"

#define MAX_HELD 4096
#define N_CLIENTS 12

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t some = PTHREAD_COND_INITIALIZER;
static struct http_request *held[MAX_HELD]; /* guarded by lock */
static size_t n_held;                       /* guarded by lock */
static bool done;                           /* guarded by lock */
static atomic_uint_fast64_t n_good, n_bad;
static atomic_bool stopping;

static void hold(struct http_request *req, void *arg)
{
    (void)arg;
    pthread_mutex_lock(&lock);
    bool room = n_held < MAX_HELD;
    if (room)
        held[n_held++] = req;
    pthread_cond_signal(&some);
    pthread_mutex_unlock(&lock);
    if (!room)
        http_respond_status(req, 503);
}

static void quick(struct http_request *req, void *arg)
{
    (void)arg;
    http_respond_status(req, 200);
}

static void big(struct http_request *req, void *arg)
{
    (void)arg;
    struct buf out;
    buf_init(&out, 0);
    for (int i = 0; i < 3000; i++)
        buf_printf(&out, "%d,", i);
    http_respond(req, 200, "text/plain", &out);
}

static bool stream_next(void *arg, struct buf *out, struct err *err)
{
    static const char zeros[HTTP_PIECE_BYTES];
    size_t *left = arg;
    if (*left == 0)
        return true;
    buf_put(out, zeros, sizeof zeros);
    return --*left != 3 || err_set(err, ERR_TIMEOUT, "enough");
}

/* Of 8 pieces, or broken off after 5 when it is long. */
static void stream(struct http_request *req, void *arg)
{
    (void)arg;
    size_t *left = malloc(sizeof *left);
    ASSERT(left);
    *left = http_path_var(req, "x").n == 1 ? 3 : 8;
    http_respond_stream(req, 200, "text/plain", (struct http_source){stream_next, free, left});
}

/* Now and then so long that the thread that has read it goes behind with it, and the standby has its lane. */
static void slow(struct http_request *req, void *arg)
{
    (void)arg;
    int ms = clock_mono_ns() / 1000 % 16 == 0 ? 80 : 1;
    nanosleep(&(struct timespec){.tv_nsec = ms * 1000000L}, NULL);
    http_respond_status(req, 200);
}

static void metrics(struct http_request *req, void *arg)
{
    (void)arg;
    struct buf out;
    buf_init(&out, 0);
    metrics_write_text(&out, NULL, 0);
    http_respond(req, 200, "text/plain; version=0.0.4", &out);
}

/* The log's thread: answers all that waits, in one go. */
static void *answerer(void *arg)
{
    (void)arg;
    struct http_request *batch[MAX_HELD];
    for (;;) {
        pthread_mutex_lock(&lock);
        while (n_held == 0 && !done)
            pthread_cond_wait(&some, &lock);
        size_t n = n_held;
        memcpy(batch, held, n * sizeof *batch);
        n_held = 0;
        bool end = done && n == 0;
        pthread_mutex_unlock(&lock);
        if (end)
            return NULL;
        for (size_t i = 0; i < n; i++)
            http_respond_status(batch[i], 200);
    }
}

static const struct http_route routes[] = {
    {HTTP_POST, "/api/v1/push", HTTP_POOL_WRITE, HTTP_BIG_BODY, hold, ""},
    {HTTP_ANY, "/inline", HTTP_POOL_INLINE, HTTP_BIG_BODY, quick, ""},
    {HTTP_ANY, "/hold-inline", HTTP_POOL_INLINE, HTTP_BIG_BODY, hold, ""},
    {HTTP_ANY, "/big/{x}", HTTP_POOL_QUERY, HTTP_GZIP, big, ""},
    {HTTP_ANY, "/stream/{x}", HTTP_POOL_QUERY, HTTP_GZIP, stream, ""},
    {HTTP_GET, "/slow", HTTP_POOL_QUERY, 0, slow, ""},
    {HTTP_GET, "/metrics", HTTP_POOL_QUERY, HTTP_GZIP, metrics, ""},
};

static bool no_tenant(void *arg, struct slice header, struct slice *ret_tenant, struct err *err)
{
    (void)arg, (void)header, (void)err;
    *ret_tenant = SL("anonymous");
    return true;
}

static struct http_server *start(struct http_config *cfg)
{
    struct http_limits limits = {.max_body_bytes = 1 << 20, .max_push_body_bytes = 100 << 20};
    struct err err = ERR_NONE;
    struct http_server *s = http_server_new(cfg, limits, no_tenant, NULL);
    http_server_add(s, "", routes, ARRAY_LEN(routes), NULL);
    if (!http_server_start(s, &err)) {
        fprintf(stderr, "%s\n", err.text);
        exit(1);
    }
    return s;
}

/* One connection's life: up to 50 requests, the last perhaps broken off. */
static void one_connection(uint16_t port, unsigned *seed)
{
    static const char *const heads[] = {
        "POST /api/v1/push HTTP/1.1\r\nHost: x\r\nContent-Length: 20000\r\n\r\n", "GET /inline HTTP/1.1\r\nHost: x\r\n\r\n",
        "POST /hold-inline HTTP/1.1\r\nHost: x\r\nContent-Length: 20000\r\n\r\n",
        "GET /big/1 HTTP/1.1\r\nHost: x\r\nAccept-Encoding: gzip\r\n\r\n", "GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n",
        "GET /stream/1 HTTP/1.1\r\nHost: x\r\n\r\n", "GET /stream/12 HTTP/1.1\r\nHost: x\r\nAccept-Encoding: gzip\r\n\r\n",
        "GET /slow HTTP/1.1\r\nHost: x\r\n\r\n", "GET /none HTTP/1.1\r\nHost: x\r\n\r\n"};
    static const char body[20000];
    struct sockaddr_in a = {.sin_family = AF_INET, .sin_port = htons(port), .sin_addr = {htonl(INADDR_LOOPBACK)}};
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    struct timeval timeout = {.tv_sec = 20};
    int on = 1;
    setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &timeout, sizeof timeout);
    setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
    if (connect(fd, (struct sockaddr *)&a, sizeof a) != 0) {
        close(fd);
        return;
    }
    for (int i = 0; i < 50; i++) {
        const char *head = heads[(unsigned)rand_r(seed) % ARRAY_LEN(heads)];
        bool post = head[0] == 'P';
        if (send(fd, head, strlen(head), MSG_NOSIGNAL) < 0 || (post && send(fd, body, sizeof body, MSG_NOSIGNAL) < 0))
            break;
        if (rand_r(seed) % 20 == 0)
            break; /* gone, whatever the server does with it */
        char in[65536];
        ssize_t n = recv(fd, in, sizeof in - 1, 0);
        bool good = n > 12 && memcmp(in, "HTTP/1.1 ", 9) == 0;
        /* Answers longer than one read end the connection: this client only wants to know that they begin. */
        atomic_fetch_add(good ? &n_good : atomic_load(&stopping) ? &n_good : &n_bad, 1);
        bool streamed = strstr(head, "/stream/") != NULL;
        for (int k = rand_r(seed) % 60; streamed && k > 0 && recv(fd, in, sizeof in, 0) > 0; k--)
            ; /* all of it, or what this client has patience for */
        if (!good || n > 1000 || streamed)
            break;
    }
    close(fd);
}

static void *client(void *arg)
{
    uint16_t port = *(uint16_t *)arg;
    unsigned seed = (unsigned)clock_mono_ns();
    while (!atomic_load(&stopping))
        one_connection(port, &seed);
    return NULL;
}

static void round_of(struct http_config *cfg, int ms, int64_t stop_ms)
{
    struct http_server *s = start(cfg);
    uint16_t port = http_server_port(s);
    atomic_store(&stopping, false);
    pthread_t clients[N_CLIENTS];
    for (int i = 0; i < N_CLIENTS; i++)
        pthread_create(&clients[i], NULL, client, &port);
    usleep((unsigned)ms * 1000);
    atomic_store(&stopping, true);
    http_server_stop(s, stop_ms);
    for (int i = 0; i < N_CLIENTS; i++)
        pthread_join(clients[i], NULL);
    http_server_free(s);
}

static int stress(struct http_config *cfg, int seconds)
{
    cfg->http_io_threads = 2;
    cfg->http_listen_address = "127.0.0.1";
    cfg->http_listen_port = 0;
    pthread_t answerers[2];
    for (int i = 0; i < 2; i++)
        pthread_create(&answerers[i], NULL, answerer, NULL);
    int64_t until_ms = clock_mono_ms() + seconds * 1000;
    for (int round = 0; clock_mono_ms() < until_ms; round++)
        round_of(cfg, 200 + round % 5 * 50, round % 3 ? 2000 : 0);
    pthread_mutex_lock(&lock);
    done = true;
    pthread_cond_broadcast(&some);
    pthread_mutex_unlock(&lock);
    for (int i = 0; i < 2; i++)
        pthread_join(answerers[i], NULL);
    printf("%llu answers, %llu missing\n", (unsigned long long)n_good, (unsigned long long)n_bad);
    return n_bad == 0 && n_good > 0 ? 0 : 1;
}

_Noreturn static void serve(struct http_config *cfg, int port, int io_threads)
{
    cfg->http_listen_port = port;
    cfg->http_io_threads = io_threads;
    pthread_t t;
    pthread_create(&t, NULL, answerer, NULL);
    start(cfg);
    for (;;)
        pause();
}

int main(int argc, char **argv)
{
    signal(SIGPIPE, SIG_IGN);
    log_min_level = LOG_LEVEL_ERROR;
    struct http_config cfg = {0};
    struct flag_set *flags = flag_set_new();
    flag_set_add(flags, "HTTP server", http_flags, http_flags_n, &cfg);
    if (argc > 2 && strcmp(argv[1], "-serve") == 0) {
        if (getenv("CONN_MEMORY"))
            cfg.http_conn_memory_bytes = strtoull(getenv("CONN_MEMORY"), NULL, 10);
        if (argc > 5) {
            cfg.http_tls_cert_path = argv[4];
            cfg.http_tls_key_path = argv[5];
        }
        serve(&cfg, atoi(argv[2]), argc > 3 ? atoi(argv[3]) : 0);
    }
    int rc = stress(&cfg, argc > 1 ? atoi(argv[1]) : 5);
    flag_set_free(flags);
    return rc;
}
