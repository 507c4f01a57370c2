#include "http_rig.h"

#include <fcntl.h>
#include <sys/stat.h>

#define MiB ((size_t)1 << 20)

static struct rig rig;
static char dir[64];
static uint64_t max_bytes;
static atomic_int n_called;

/* Answers size and checksum of the file, read by its path as an object store would. */
static void sum(struct http_request *req, void *arg)
{
    (void)arg;
    atomic_fetch_add(&n_called, 1);
    uint64_t n, at = 0, s = 0;
    char path[64];
    snprintf(path, sizeof path, "/proc/self/fd/%d", http_body_file(req, &n));
    int fd = open(path, O_RDONLY);
    cr_assert_geq(fd, 0);
    static _Thread_local uint8_t piece[65536];
    for (ssize_t k; (k = read(fd, piece, sizeof piece)) > 0;)
        for (ssize_t i = 0; i < k; i++)
            s += (++at % 1000) * piece[i];
    close(fd);
    cr_assert_eq(at, n);
    cr_assert_eq(http_body(req).n, 0);
    struct buf out;
    buf_init(&out, 0);
    buf_printf(&out, "%llu %llu", (unsigned long long)n, (unsigned long long)s);
    http_respond(req, 200, NULL, &out);
}

static bool place(struct http_request *req, void *arg, struct http_spool_place *ret)
{
    (void)arg;
    if (slice_eq(http_path_var(req, "what"), SL("no"))) {
        http_respond_text_error(req, 400, "not here");
        return false;
    }
    *ret = (struct http_spool_place){dir, max_bytes};
    if (slice_eq(http_path_var(req, "what"), SL("nowhere")))
        ret->dir = "/nonexistent";
    return true;
}

static const struct http_route routes[] = {
    {HTTP_POST, "/keep/{what}", HTTP_POOL_QUERY, HTTP_SPOOL, sum, ""},
    {HTTP_POST, "/inline/{what}", HTTP_POOL_INLINE, HTTP_SPOOL, sum, ""},
};

static void setup(void)
{
    strcpy(dir, "/tmp/http-spool-XXXXXX");
    cr_assert(mkdtemp(dir));
    max_bytes = 64 * MiB;
    rig_new(&rig);
    rig.cfg.http_read_timeout = 300;
    struct err err = ERR_NONE;
    rig.server = http_server_new(&rig.cfg, rig.limits, rig_tenant, NULL);
    http_server_add(rig.server, "", routes, 2, NULL);
    http_server_on_spool(rig.server, routes, place);
    cr_assert(http_server_start(rig.server, &err), "%s", err.text);
}

static void teardown(void)
{
    rig_stop(&rig);
    cr_expect_eq(rmdir(dir), 0, "nothing is left in the folder");
}

TestSuite(http_spool, .init = setup, .fini = teardown);

static char *bytes(size_t n, char want[64])
{
    uint8_t *p = malloc(n + 1);
    uint64_t s = 0;
    for (size_t i = 0; i < n; i++) {
        p[i] = (uint8_t)(i * 31 + i / 253);
        s += ((i + 1) % 1000) * p[i];
    }
    snprintf(want, 64, "%zu %llu", n, (unsigned long long)s);
    return (char *)p;
}

static void expect_kept(const char *path, size_t n)
{
    char want[64];
    char *body = bytes(n, want);
    struct reply r = rig_ask(&rig, "POST", path, "", body, n);
    cr_expect_eq(r.status, 200, "%zu bytes: %d", n, r.status);
    cr_expect_str_eq(r.body, want);
    reply_free(&r);
    free(body);
}

Test(http_spool, bodies_of_any_size_are_in_the_file_whole)
{
    static const size_t sizes[] = {0, 1, 65536, 262143, 262144, 262145, 524288, 3 * 1048576 + 7, 40 << 20};
    for (size_t i = 0; i < sizeof sizes / sizeof sizes[0]; i++) {
        expect_kept("/keep/x", sizes[i]);
        expect_kept("/inline/x", sizes[i]);
    }
}

static void send_chunked(int fd, const char *body, size_t n, size_t step)
{
    char head[128];
    int k = snprintf(head, sizeof head, "POST /keep/x HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n");
    rig_send(fd, head, (size_t)k);
    struct buf out;
    buf_init(&out, 0);
    for (size_t at = 0; at < n; at += step) {
        size_t piece = n - at < step ? n - at : step;
        buf_printf(&out, "%zx\r\n", piece);
        buf_put(&out, body + at, piece);
        buf_puts(&out, "\r\n");
    }
    buf_puts(&out, "0\r\n\r\n");
    rig_send(fd, out.p, out.n);
    buf_release(&out);
}

Test(http_spool, chunks_of_all_sizes_arrive_in_order)
{
    static const size_t steps[] = {7, 1000, 65536, 262144, 300001};
    char want[64];
    char *body = bytes(3 * MiB + 11, want);
    for (size_t i = 0; i < sizeof steps / sizeof steps[0]; i++) {
        int fd = rig_connect(&rig);
        send_chunked(fd, body, 3 * MiB + 11, steps[i]);
        struct reply r = rig_read(fd);
        cr_expect_eq(r.status, 200, "chunks of %zu: %d", steps[i], r.status);
        cr_expect_str_eq(r.body, want);
        reply_free(&r);
        close(fd);
    }
    free(body);
}

Test(http_spool, a_connection_goes_on_after_a_body)
{
    char want[64];
    char *body = bytes(700000, want);
    int fd = rig_connect(&rig);
    for (int i = 0; i < 5; i++) {
        const char *head = "POST /keep/x HTTP/1.1\r\nHost: x\r\nContent-Length: 700000\r\n\r\n";
        rig_send(fd, head, strlen(head));
        rig_send(fd, body, 700000);
        struct reply r = rig_read(fd);
        cr_expect_eq(r.status, 200);
        cr_expect_str_eq(r.body, want);
        reply_free(&r);
    }
    close(fd);
    free(body);
}

Test(http_spool, what_the_room_refuses_is_refused_before_the_body)
{
    int fd = rig_connect(&rig);
    const char *head = "POST /keep/no HTTP/1.1\r\nHost: x\r\nContent-Length: 30000000\r\n\r\n";
    rig_send(fd, head, strlen(head));
    struct reply r = rig_read(fd);
    cr_expect_eq(r.status, 400);
    cr_expect_str_eq(r.body, "not here\n");
    reply_free(&r);
    close(fd);
}

Test(http_spool, more_than_the_room_allows_is_413_declared_or_not)
{
    max_bytes = MiB;
    char want[64];
    char *body = bytes(2 * MiB, want);
    struct reply r = rig_ask(&rig, "POST", "/keep/x", "", body, 2 * MiB);
    cr_expect_eq(r.status, 413);
    reply_free(&r);
    int fd = rig_connect(&rig);
    send_chunked(fd, body, 2 * MiB, 65536);
    r = rig_read(fd);
    cr_expect_eq(r.status, 413);
    reply_free(&r);
    close(fd);
    free(body);
    cr_expect_eq(n_called, 0);
}

Test(http_spool, a_folder_that_is_not_there_is_an_error_with_its_reason)
{
    char want[64];
    char *body = bytes(1000, want);
    struct reply r = rig_ask(&rig, "POST", "/keep/nowhere", "", body, 1000);
    cr_expect_eq(r.status, 500);
    cr_expect_str_eq(r.body, "keeping the request's body: No such file or directory\n");
    reply_free(&r);
    free(body);
}

Test(http_spool, a_slow_client_is_no_reason_to_give_up)
{
    int fd = rig_connect(&rig);
    const char *head = "POST /keep/x HTTP/1.1\r\nHost: x\r\nContent-Length: 3\r\n\r\n";
    rig_send(fd, head, strlen(head));
    for (int i = 0; i < 3; i++) {
        usleep(300000); /* three times the read timeout altogether */
        rig_send(fd, "\1", 1);
    }
    struct reply r = rig_read(fd);
    cr_expect_eq(r.status, 200);
    cr_expect_str_eq(r.body, "3 6");
    reply_free(&r);
    close(fd);
}

Test(http_spool, clients_that_leave_in_the_middle_leave_nothing)
{
    char want[64];
    char *body = bytes(2 * MiB, want);
    for (size_t i = 0; i < 200; i++) {
        int fd = rig_connect(&rig);
        const char *head = "POST /keep/x HTTP/1.1\r\nHost: x\r\nContent-Length: 3000000\r\n\r\n";
        rig_send(fd, head, strlen(head));
        rig_send(fd, body, i * 10000);
        close(fd);
    }
    EVENTUALLY(metrics_hold("cortex_inflight_requests{method=\"POST\",route=\"keep_what\"} 0\n"));
    free(body);
    expect_kept("/keep/x", MiB); /* there are seats again */
}

static void *stop_soon(void *arg)
{
    usleep(*(useconds_t *)arg);
    http_server_stop(rig.server, 0);
    return NULL;
}

Test(http_spool, the_server_stops_in_the_middle_of_bodies)
{
    useconds_t delay = 20000;
    pthread_t t;
    char want[64];
    char *body = bytes(8 * MiB, want);
    int fds[8];
    for (size_t i = 0; i < 8; i++)
        fds[i] = rig_connect(&rig);
    pthread_create(&t, NULL, stop_soon, &delay);
    for (size_t i = 0; i < 8; i++) {
        const char *head = "POST /keep/x HTTP/1.1\r\nHost: x\r\nContent-Length: 64000000\r\n\r\n";
        rig_send(fds[i], head, strlen(head));
        rig_send(fds[i], body, 8 * MiB);
    }
    pthread_join(t, NULL);
    for (size_t i = 0; i < 8; i++)
        close(fds[i]);
    free(body);
}

Test(http_spool, too_many_bodies_at_once_are_refused)
{
    int fds[HTTP_MAX_SPOOLS];
    const char *head = "POST /keep/x HTTP/1.1\r\nHost: x\r\nContent-Length: 10\r\n\r\n";
    for (size_t i = 0; i < HTTP_MAX_SPOOLS; i++) {
        fds[i] = rig_connect(&rig);
        rig_send(fds[i], head, strlen(head));
    }
    EVENTUALLY(metrics_hold("cortex_inflight_requests{method=\"POST\",route=\"keep_what\"} 64\n"));
    struct reply r = rig_ask(&rig, "POST", "/keep/x", "", "1234567890", 10);
    cr_expect_eq(r.status, 503);
    reply_free(&r);
    rig_send(fds[0], "1234567890", 10);
    r = rig_read(fds[0]);
    cr_expect_eq(r.status, 200);
    reply_free(&r);
    EVENTUALLY(metrics_hold("cortex_inflight_requests{method=\"POST\",route=\"keep_what\"} 63\n"));
    expect_kept("/keep/x", 10);
    for (size_t i = 0; i < HTTP_MAX_SPOOLS; i++)
        close(fds[i]);
}
