/* A server on a free loopback port and a plain client on real sockets, for the tests of net/. */
#pragma once

#include <arpa/inet.h>
#include <criterion/criterion.h>
#include <errno.h>
#include <netinet/in.h>
#include <poll.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/metrics.h"
#include "net/http.h"

#define UNUSED __attribute__((unused))

struct rig {
    struct http_config cfg;
    struct flag_set *flags;
    struct http_server *server;
    struct http_limits limits;
};

static bool rig_tenant(void *arg, struct slice header, struct slice *ret_tenant, struct err *err)
{
    (void)arg;
    if (header.n == 0)
        return err_set(err, ERR_UNAUTHENTICATED, "no org id");
    if (slice_eq(header, SL("a|b")))
        return err_set(err, ERR_TOO_MANY_TENANTS, "too many tenant IDs present in the request. max: 1 actual: 2");
    *ret_tenant = header;
    return true;
}

UNUSED static void rig_new(struct rig *r)
{
    *r = (struct rig){.limits = {.max_body_bytes = 1 << 20, .max_push_body_bytes = 4 << 20}};
    r->flags = flag_set_new();
    flag_set_add(r->flags, "HTTP server", http_flags, http_flags_n, &r->cfg);
    r->cfg.http_listen_address = "127.0.0.1";
    r->cfg.http_listen_port = 0;
    r->cfg.http_io_threads = 2;
}

UNUSED static void rig_start(struct rig *r, const struct http_route *routes, size_t n, void *arg)
{
    struct err err = ERR_NONE;
    r->server = http_server_new(&r->cfg, r->limits, rig_tenant, NULL);
    http_server_add(r->server, "/prometheus", routes, n, arg);
    cr_assert(http_server_start(r->server, &err), "%s", err.text);
}

UNUSED static void rig_stop(struct rig *r)
{
    http_server_stop(r->server, 5000);
    http_server_free(r->server);
    flag_set_free(r->flags);
}

static int rig_connect(const struct rig *r)
{
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    struct sockaddr_in a = {.sin_family = AF_INET, .sin_port = htons(http_server_port(r->server)), .sin_addr = {htonl(INADDR_LOOPBACK)}};
    struct timeval timeout = {.tv_sec = 20};
    setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &timeout, sizeof timeout);
    cr_assert_eq(connect(fd, (struct sockaddr *)&a, sizeof a), 0, "connect: %s", strerror(errno));
    return fd;
}

static void rig_send(int fd, const void *p, size_t n)
{
    for (size_t sent = 0; sent < n;) {
        ssize_t k = send(fd, (const char *)p + sent, n - sent, MSG_NOSIGNAL);
        if (k <= 0)
            return; /* the server may have closed; what it said is still to be read */
        sent += (size_t)k;
    }
}

struct reply {
    int status; /* 0: the connection ended before an answer */
    char head[8192];
    char *body; /* NUL-terminated */
    size_t n;
};

static bool rig_read_more(int fd, char *p, size_t cap, size_t *n)
{
    ssize_t k = *n < cap ? recv(fd, p + *n, cap - *n, 0) : -1;
    if (k > 0)
        *n += (size_t)k;
    return k > 0;
}

/* The value of a header, or NULL; valid until the next call. */
UNUSED static const char *reply_header(const struct reply *r, const char *name)
{
    static char value[2048];
    size_t n = strlen(name);
    for (const char *p = strchr(r->head, '\n'); p; p = strchr(p, '\n')) {
        p++;
        if (strncasecmp(p, name, n) == 0 && p[n] == ':') {
            const char *end = strstr(p, "\r\n");
            snprintf(value, sizeof value, "%.*s", (int)(end - p - (ssize_t)n - 2), p + n + 2);
            return value;
        }
    }
    return NULL;
}

/* Reads one answer with Content-Length; the connection may be used on. */
static struct reply rig_read(int fd)
{
    static char buf[1 << 20];
    struct reply r = {0};
    size_t n = 0;
    char *end = NULL;
    /* Byte by byte in the head, so that nothing of the next answer is taken. */
    while (n < sizeof r.head - 1 && !end) {
        if (!rig_read_more(fd, buf, n + 1, &n))
            return r;
        buf[n] = '\0';
        end = n >= 4 && memcmp(buf + n - 4, "\r\n\r\n", 4) == 0 ? buf + n : NULL;
        if (end && strncmp(buf, "HTTP/1.1 100", 12) == 0) {
            n = 0;
            end = NULL;
        }
    }
    memcpy(r.head, buf, n + 1);
    sscanf(r.head, "HTTP/1.1 %d", &r.status);
    const char *length = reply_header(&r, "Content-Length");
    size_t want = length ? strtoul(length, NULL, 10) : 0;
    r.body = malloc(want + 1);
    while (r.n < want && rig_read_more(fd, r.body, want, &r.n))
        ;
    r.body[r.n] = '\0';
    return r;
}

/* One request on a connection of its own. headers: lines with \r\n, or "". */
UNUSED static struct reply rig_ask(const struct rig *rig, const char *method, const char *path, const char *headers, const void *body,
                                   size_t n_body)
{
    int fd = rig_connect(rig);
    char head[8192];
    int n = snprintf(head, sizeof head, "%s %s HTTP/1.1\r\nHost: x\r\n%s", method, path, headers);
    if (body)
        n += snprintf(head + n, sizeof head - (size_t)n, "Content-Length: %zu\r\n", n_body);
    n += snprintf(head + n, sizeof head - (size_t)n, "\r\n");
    rig_send(fd, head, (size_t)n);
    rig_send(fd, body, body ? n_body : 0);
    struct reply r = rig_read(fd);
    close(fd);
    return r;
}

UNUSED static void reply_free(struct reply *r)
{
    free(r->body);
    r->body = NULL;
}

/* Whether the exposition holds this text. */
UNUSED static bool metrics_hold(const char *text)
{
    struct buf out;
    buf_init(&out, 0);
    metrics_write_text(&out, NULL, 0);
    bool found = strstr(buf_cstr(&out), text) != NULL;
    buf_release(&out);
    return found;
}

/* Waits up to ten seconds for cond. */
#define EVENTUALLY(cond)                                                                                               \
    do {                                                                                                               \
        int64_t until_ = clock_mono_ms() + 10000;                                                                      \
        while (!(cond) && clock_mono_ms() < until_)                                                                    \
            usleep(1000);                                                                                              \
        cr_assert(cond);                                                                                               \
    } while (0)
