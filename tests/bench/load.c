/*
 * Sends remote-write 1.0 load to one server and says what it cost that server. Used by tests/bench/ingest; prints one line of JSON.
 *
 *     load --url http://127.0.0.1:PORT/api/v1/push --pid PID [--series N] [--first N] [--scrapes N] [--interval S] [--start S]
 *          [--connections N] [--per-request N] [--settle S]
 *     load --dump FILE [--series N] [--first N] [--scrapes N] [--interval S] [--start S] [--per-request N]
 *
 * --series many from number --first on (0; whole pods of 100): a later run with a higher one is churn.
 *
 * Every body is built before the first is sent, so sending costs next to nothing and the server's CPU can be charged to the samples. A connection
 * is a thread with one request in flight; a series always travels over the same connection, in order. The first scrape, which creates the
 * series, is measured apart. "settled" figures are read --settle seconds after the last answer.
 *
 * CPU is utime + stime of /proc/PID/stat; anonymous memory the Anonymous of smaps_rollup; disk write_bytes of /proc/PID/io.
 * With --dump nothing is sent: the bodies go to a file, scrape by scrape, each behind its length as a uint32.
 * Exit status: 0 all answers were 2xx, 1 some were not (the first error is printed), 2 bad arguments or no connection.
 */
#include <arpa/inet.h>
#include <errno.h>
#include <inttypes.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <pthread.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#include "load_series.h"

#define CONNECTIONS_MAX 64
#define REPLY_MAX 16384

struct options {
    char path[256];
    const char *dump; /* a file to write to instead of sending; or NULL */
    struct sockaddr_in to;
    int pid;
    long series;
    long first;
    long scrapes;
    long interval_s;
    int64_t start_ms;
    long connections;
    long per_request;
    long settle_s;
};

static struct options opt = {.series = 10000, .scrapes = 10, .interval_s = 15, .connections = 4, .per_request = 2000};

static _Noreturn void die(const char *what, const char *detail)
{
    fprintf(stderr, "load: %s %s\n", what, detail);
    exit(2);
}

/* --- the server, from /proc ------------------------------------------------------------------------------------------------- */

struct usage {
    double cpu_s;
    double anon_bytes;
    double rss_bytes; /* with file mappings */
    double write_bytes;
};

/* The number behind "key:" in a file of /proc; 0 when there is none. */
static double proc_field(int pid, const char *file, const char *key)
{
    char path[64], line[256];
    double v = 0;
    size_t n = strlen(key);
    snprintf(path, sizeof(path), "/proc/%d/%s", pid, file);
    FILE *f = fopen(path, "r");
    while (f && fgets(line, sizeof(line), f))
        if (strncmp(line, key, n) == 0 && line[n] == ':')
            v = strtod(line + n + 1, NULL);
    if (f)
        fclose(f);
    return v;
}

static struct usage measure(void)
{
    char path[64], line[1024];
    unsigned long user = 0, sys = 0;
    snprintf(path, sizeof(path), "/proc/%d/stat", opt.pid);
    FILE *f = fopen(path, "r");
    if (!f || !fgets(line, sizeof(line), f))
        die("cannot read", path);
    fclose(f);
    char *p = strrchr(line, ')'); /* the name before may hold anything */
    if (!p || sscanf(p + 1, " %*c %*d %*d %*d %*d %*d %*u %*u %*u %*u %*u %lu %lu", &user, &sys) != 2)
        die("cannot understand", path);
    return (struct usage){.cpu_s = (double)(user + sys) / (double)sysconf(_SC_CLK_TCK),
                          .anon_bytes = proc_field(opt.pid, "smaps_rollup", "Anonymous") * 1024,
                          .rss_bytes = proc_field(opt.pid, "status", "VmRSS") * 1024,
                          .write_bytes = proc_field(opt.pid, "io", "write_bytes")};
}

static double now_s(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + (double)t.tv_nsec * 1e-9;
}

/* --- one connection --------------------------------------------------------------------------------------------------------- */

struct connection {
    pthread_t thread;
    int fd;
    struct block *blocks;
    long n_blocks;
    struct body *bodies;
    long n_bodies;
    uint64_t accepted;
    uint64_t refused;
    uint64_t raw_bytes;
    uint64_t wire_bytes;
    char error[256]; /* the first */
};

static struct connection connections[CONNECTIONS_MAX];
static pthread_barrier_t barrier;

static int dial(void)
{
    int one = 1, fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    struct timeval patience = {.tv_sec = 120};
    if (fd < 0 || connect(fd, (struct sockaddr *)&opt.to, sizeof(opt.to)) != 0) {
        if (fd >= 0)
            close(fd);
        return -1;
    }
    setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof(one));
    setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof(patience));
    return fd;
}

static bool send_all(int fd, const char *p, size_t n, int flags)
{
    while (n) {
        ssize_t w = send(fd, p, n, flags | MSG_NOSIGNAL);
        if (w < 0 && errno == EINTR)
            continue;
        if (w < 0)
            return false;
        p += w;
        n -= (size_t)w;
    }
    return true;
}

/* The value of a header in a NUL-terminated block of headers; NULL when it is not there. */
static const char *header(const char *block, const char *name)
{
    size_t n = strlen(name);
    for (const char *p = strstr(block, "\r\n"); p; p = strstr(p, "\r\n")) {
        p += 2;
        if (strncasecmp(p, name, n) == 0 && p[n] == ':')
            return p + n + 1 + strspn(p + n + 1, " ");
    }
    return NULL;
}

/* Reads one answer: its status, and its body as text. 0 when the connection broke, or the answer is of no known length. */
static int read_reply(int fd, char *text)
{
    size_t n = 0, need = 0;
    int status = 0;
    char *body = NULL;
    while (n < REPLY_MAX - 1) {
        ssize_t got = recv(fd, text + n, REPLY_MAX - 1 - n, 0);
        if (got < 0 && errno == EINTR)
            continue;
        if (got <= 0)
            return 0;
        n += (size_t)got;
        text[n] = 0;
        if (!body && (body = strstr(text, "\r\n\r\n"))) {
            body[2] = 0;
            body += 4;
            const char *length = header(text, "Content-Length");
            if (sscanf(text, "HTTP/1.%*d %d", &status) != 1 || (!length && status != 204))
                return 0;
            need = length ? strtoul(length, NULL, 10) : 0;
        }
        if (body && n - (size_t)(body - text) >= need) {
            memmove(text, body, n - (size_t)(body - text) + 1);
            return status;
        }
    }
    return 0;
}

static void note(struct connection *c, int status, const char *text)
{
    if (!c->error[0])
        snprintf(c->error, sizeof(c->error), "%d %.200s", status, text);
    c->error[strcspn(c->error, "\r\n\"\\")] = 0;
}

static void post(struct connection *c, const struct body *b, uint64_t samples)
{
    char head[512], text[REPLY_MAX] = "no answer";
    int n = snprintf(head, sizeof(head),
                     "POST %s HTTP/1.1\r\nHost: 127.0.0.1\r\nUser-Agent: load\r\nContent-Type: application/x-protobuf\r\n"
                     "Content-Encoding: snappy\r\nX-Prometheus-Remote-Write-Version: 0.1.0\r\nContent-Length: %zu\r\n\r\n",
                     opt.path, b->n);
    int status = 0;
    if (c->fd < 0)
        c->fd = dial();
    if (c->fd >= 0 && send_all(c->fd, head, (size_t)n, MSG_MORE) && send_all(c->fd, b->p, b->n, 0))
        status = read_reply(c->fd, text);
    if (status == 0) {
        if (c->fd >= 0)
            close(c->fd);
        c->fd = -1;
    }
    if (status >= 200 && status < 300) {
        c->accepted += samples;
    } else {
        c->refused++;
        note(c, status, text);
    }
}

/* Builds the bodies of scrapes [from, to), waits for the start, sends them. */
static void phase(struct connection *c, long from, long to)
{
    c->n_bodies = 0;
    for (long s = from; s < to; s++)
        for (long b = 0; b < c->n_blocks; b++) {
            struct body *body = &c->bodies[c->n_bodies++];
            *body = block_body(&c->blocks[b], s, opt.start_ms + s * opt.interval_s * 1000);
            c->raw_bytes += body->raw_n;
            c->wire_bytes += body->n;
        }
    pthread_barrier_wait(&barrier); /* built; the main thread measures */
    pthread_barrier_wait(&barrier); /* go */
    for (long i = 0; i < c->n_bodies; i++)
        post(c, &c->bodies[i], (uint64_t)c->blocks[i % c->n_blocks].n);
    pthread_barrier_wait(&barrier); /* sent */
    for (long i = 0; i < c->n_bodies; i++)
        free(c->bodies[i].p);
}

static void *run(void *arg)
{
    struct connection *c = arg;
    phase(c, 0, 1);
    phase(c, 1, opt.scrapes);
    return NULL;
}

static long block_size(long block)
{
    long left = opt.series - block * opt.per_request;
    return left < opt.per_request ? left : opt.per_request;
}

/* --- into a file ------------------------------------------------------------------------------------------------------------ */

static void dump(void)
{
    long n_blocks = (opt.series + opt.per_request - 1) / opt.per_request;
    struct block *blocks = calloc((size_t)n_blocks, sizeof(*blocks));
    FILE *f = fopen(opt.dump, "wb");
    if (!f || !blocks)
        die("cannot write", opt.dump);
    for (long b = 0; b < n_blocks; b++)
        block_init(&blocks[b], opt.first + b * opt.per_request, block_size(b));
    for (long i = 0; i < opt.scrapes * n_blocks; i++) {
        long scrape = i / n_blocks;
        struct body body = block_body(&blocks[i % n_blocks], scrape, opt.start_ms + scrape * opt.interval_s * 1000);
        uint32_t n = (uint32_t)body.n;
        if (fwrite(&n, sizeof(n), 1, f) != 1 || fwrite(body.p, 1, body.n, f) != body.n)
            die("cannot write", opt.dump);
        free(body.p);
    }
    if (fclose(f) != 0)
        die("cannot write", opt.dump);
    for (long b = 0; b < n_blocks; b++)
        block_release(&blocks[b]);
    free(blocks);
}

/* --- all of them ------------------------------------------------------------------------------------------------------------ */

static void parse_url(const char *url)
{
    unsigned port;
    char host[64];
    if (sscanf(url, "http://%63[0-9.]:%u%255s", host, &port, opt.path) != 3 || port > 65535 ||
        inet_pton(AF_INET, host, &opt.to.sin_addr) != 1)
        die("want http://<IPv4 address>:<port>/<path>, not", url);
    opt.to.sin_family = AF_INET;
    opt.to.sin_port = htons((uint16_t)port);
}

static void parse(int argc, char **argv)
{
    long pid = 0, start_s = 0;
    const struct {
        const char *name;
        long *value;
    } numbers[] = {{"--pid", &pid},
                   {"--series", &opt.series},
                   {"--first", &opt.first},
                   {"--scrapes", &opt.scrapes},
                   {"--interval", &opt.interval_s},
                   {"--start", &start_s},
                   {"--connections", &opt.connections},
                   {"--per-request", &opt.per_request},
                   {"--settle", &opt.settle_s}};
    for (int i = 1; i < argc; i += 2) {
        size_t k = 0;
        char *end;
        if (i + 1 == argc)
            die("no value for", argv[i]);
        if (strcmp(argv[i], "--url") == 0) {
            parse_url(argv[i + 1]);
            continue;
        }
        if (strcmp(argv[i], "--dump") == 0) {
            opt.dump = argv[i + 1];
            continue;
        }
        while (k < sizeof(numbers) / sizeof(numbers[0]) && strcmp(argv[i], numbers[k].name) != 0)
            k++;
        if (k == sizeof(numbers) / sizeof(numbers[0]))
            die("unknown option", argv[i]);
        *numbers[k].value = strtol(argv[i + 1], &end, 10);
        if (*end || *numbers[k].value < 0)
            die("not a number:", argv[i + 1]);
    }
    if ((!opt.dump && (!opt.path[0] || pid == 0)) || opt.series == 0 || opt.scrapes < 2 || opt.connections == 0 ||
        opt.connections > CONNECTIONS_MAX || opt.per_request < POD_SERIES)
        die("need --url and --pid or --dump, 1 to 64 connections, at least 2 scrapes and", "100 samples a request");
    opt.pid = (int)pid;
    opt.first -= opt.first % POD_SERIES;
    opt.per_request -= opt.per_request % POD_SERIES; /* whole pods, so that no histogram is cut */
    opt.start_ms = start_s ? start_s * 1000 : (time(NULL) - opt.interval_s * (opt.scrapes - 1)) * INT64_C(1000);
}

static void build(void)
{
    long n_blocks = (opt.series + opt.per_request - 1) / opt.per_request;
    if (opt.connections > n_blocks)
        opt.connections = n_blocks;
    for (long i = 0; i < opt.connections; i++) {
        struct connection *c = &connections[i];
        long most = n_blocks / opt.connections + 1;
        c->fd = dial();
        c->blocks = calloc((size_t)most, sizeof(*c->blocks));
        c->bodies = calloc((size_t)(most * opt.scrapes), sizeof(*c->bodies));
        if (c->fd < 0 || !c->blocks || !c->bodies)
            die("cannot set up a connection:", strerror(errno));
    }
    for (long b = 0; b < n_blocks; b++) {
        struct connection *c = &connections[b % opt.connections];
        block_init(&c->blocks[c->n_blocks++], opt.first + b * opt.per_request, block_size(b));
    }
}

static struct connection total(void)
{
    struct connection t = {0};
    for (long i = 0; i < opt.connections; i++) {
        struct connection *c = &connections[i];
        t.accepted += c->accepted;
        t.refused += c->refused;
        t.raw_bytes += c->raw_bytes;
        t.wire_bytes += c->wire_bytes;
        if (!t.error[0])
            memcpy(t.error, c->error, sizeof(t.error));
    }
    return t;
}

static void release(void)
{
    for (long i = 0; i < opt.connections; i++) {
        struct connection *c = &connections[i];
        if (c->fd >= 0)
            close(c->fd);
        for (long b = 0; b < c->n_blocks; b++)
            block_release(&c->blocks[b]);
        free(c->blocks);
        free(c->bodies);
    }
}

int main(int argc, char **argv)
{
    struct usage before = {0}, first = {0}, after = {0};
    double wall = 0;
    parse(argc, argv);
    if (opt.dump) {
        dump();
        return 0;
    }
    build();
    pthread_barrier_init(&barrier, NULL, (unsigned)opt.connections + 1);
    for (long i = 0; i < opt.connections; i++)
        if (pthread_create(&connections[i].thread, NULL, run, &connections[i]))
            die("cannot start", "a thread");
    for (int p = 0; p < 2; p++) {
        pthread_barrier_wait(&barrier);
        if (p == 0)
            before = measure();
        double start = now_s();
        pthread_barrier_wait(&barrier);
        pthread_barrier_wait(&barrier);
        wall += now_s() - start;
        if (p == 0)
            first = measure();
        else
            after = measure();
    }
    for (long i = 0; i < opt.connections; i++)
        pthread_join(connections[i].thread, NULL);
    sleep((unsigned)opt.settle_s);
    struct usage settled = measure();
    struct connection t = total();
    uint64_t sent = (uint64_t)opt.series * (uint64_t)opt.scrapes;
    printf("{\"samples\":%" PRIu64 ",\"accepted\":%" PRIu64 ",\"refused_requests\":%" PRIu64 ",\"error\":\"%s\",\"wall_s\":%.3f,"
           "\"raw_bytes\":%" PRIu64 ",\"wire_bytes\":%" PRIu64 ",\"cpu_first_s\":%.2f,\"cpu_sending_s\":%.2f,\"cpu_settled_s\":%.2f,"
           "\"anon_before\":%.0f,\"anon_after\":%.0f,\"anon_settled\":%.0f,\"rss_before\":%.0f,\"rss_settled\":%.0f,"
           "\"write_bytes\":%.0f}\n",
           sent, t.accepted, t.refused, t.error, wall, t.raw_bytes, t.wire_bytes, first.cpu_s - before.cpu_s,
           after.cpu_s - before.cpu_s, settled.cpu_s - before.cpu_s, before.anon_bytes, after.anon_bytes, settled.anon_bytes,
           before.rss_bytes, settled.rss_bytes, settled.write_bytes - before.write_bytes);
    pthread_barrier_destroy(&barrier);
    release();
    return t.refused ? 1 : 0;
}
