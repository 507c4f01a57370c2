/* Answers that are made while they are sent. */
#include <zlib.h>

#include "tests/net/http_rig.h"

#define PIECE_BYTES (200 << 10)

/* Pieces whose bytes tell their place. */
struct pieces {
    size_t n_pieces;  /* to be made */
    size_t piece_bytes;
    size_t fails_at;  /* piece; SIZE_MAX: never */
    atomic_size_t n_made;
    atomic_int released;
};

static struct rig rig;
static struct pieces src;

static char byte_at(size_t i)
{
    return (char)('a' + (i / 7 + i / 1000) % 26);
}

static bool next(void *arg, struct buf *out, struct err *err)
{
    struct pieces *p = arg;
    size_t at = atomic_load(&p->n_made);
    if (at == p->fails_at)
        return err_set(err, ERR_TIMEOUT, "no more");
    if (at == p->n_pieces)
        return true;
    for (size_t i = 0; i < p->piece_bytes; i++)
        buf_putc(out, byte_at(at * p->piece_bytes + i));
    atomic_fetch_add(&p->n_made, 1);
    return true;
}

static void released(void *arg)
{
    atomic_fetch_add(&((struct pieces *)arg)->released, 1);
}

static void handler(struct http_request *req, void *arg)
{
    http_set_header(req, "X-Own", "yes");
    http_respond_stream(req, 200, "text/x", (struct http_source){next, released, arg});
}

static const struct http_route routes[] = {
    {HTTP_GET, "/query", HTTP_POOL_QUERY, 0, handler, ""},
    {HTTP_GET, "/inline", HTTP_POOL_INLINE, 0, handler, ""},
    {HTTP_GET, "/gzip", HTTP_POOL_QUERY, HTTP_GZIP, handler, ""},
};

static void setup(void)
{
    rig_new(&rig);
    src = (struct pieces){.n_pieces = 50, .piece_bytes = PIECE_BYTES, .fails_at = SIZE_MAX};
    rig_start(&rig, routes, sizeof routes / sizeof *routes, &src);
}

static void teardown(void)
{
    if (rig.server)
        rig_stop(&rig);
    cr_expect_eq(atomic_load(&src.released), 1);
}

TestSuite(http_stream, .init = setup, .fini = teardown, .timeout = 60);

static int ask(const char *path, const char *headers)
{
    char text[512];
    int fd = rig_connect(&rig);
    int n = snprintf(text, sizeof text, "GET %s HTTP/1.1\r\nHost: x\r\n%s\r\n", path, headers);
    rig_send(fd, text, (size_t)n);
    return fd;
}

static bool read_all(int fd, char *p, size_t n)
{
    for (size_t got = 0; got < n;) {
        ssize_t k = recv(fd, p + got, n - got, 0);
        if (k <= 0)
            return false;
        got += (size_t)k;
    }
    return true;
}

static bool read_line(int fd, char *line, size_t cap)
{
    size_t n = 0;
    while (n + 1 < cap && read_all(fd, line + n, 1)) {
        line[++n] = '\0';
        if (n >= 2 && line[n - 2] == '\r' && line[n - 1] == '\n') {
            line[n - 2] = '\0';
            return true;
        }
    }
    return false;
}

/* The head of an answer; then its chunks into out. True: its end was there. */
static bool read_chunked(int fd, struct reply *head, struct buf *out)
{
    static char chunk[1 << 20];
    char line[256];
    *head = rig_read(fd);
    free(head->body);
    head->body = NULL;
    while (read_line(fd, line, sizeof line)) {
        size_t n = strtoul(line, NULL, 16);
        cr_assert_leq(n, sizeof chunk);
        if (!read_all(fd, chunk, n) || !read_line(fd, line, sizeof line))
            return false;
        if (n == 0)
            return true;
        buf_put(out, chunk, n);
    }
    return false;
}

static void check_bytes(const struct buf *b, size_t n)
{
    cr_assert_eq(b->n, n);
    for (size_t i = 0; i < n; i++)
        if (b->p[i] != byte_at(i))
            cr_assert(false, "byte %zu", i);
}

Test(http_stream, a_short_answer_is_sent_whole)
{
    src.n_pieces = 1;
    struct reply r = rig_ask(&rig, "GET", "/query", "", NULL, 0);
    cr_expect_eq(r.status, 200);
    cr_expect_eq(r.n, src.piece_bytes);
    cr_expect_str_eq(reply_header(&r, "Content-Length"), "204800");
    cr_expect_str_eq(reply_header(&r, "X-Own"), "yes");
    reply_free(&r);
}

Test(http_stream, a_long_answer_arrives_whole_and_the_connection_goes_on)
{
    const char *paths[] = {"/query", "/inline"};
    for (size_t i = 0; i < 2; i++) {
        atomic_store(&src.n_made, 0);
        atomic_store(&src.released, 0);
        struct buf b = {0};
        struct reply r;
        int fd = ask(paths[i], "");
        cr_expect(read_chunked(fd, &r, &b));
        cr_expect_eq(r.status, 200);
        cr_expect_str_eq(reply_header(&r, "Transfer-Encoding"), "chunked");
        cr_expect_str_eq(reply_header(&r, "Content-Type"), "text/x");
        check_bytes(&b, src.n_pieces * src.piece_bytes);
        buf_release(&b);
        rig_send(fd, "GET /nowhere HTTP/1.1\r\nHost: x\r\n\r\n", 35);
        r = rig_read(fd);
        cr_expect_eq(r.status, 404);
        reply_free(&r);
        close(fd);
        EVENTUALLY(atomic_load(&src.released) == 1);
    }
    cr_expect(metrics_hold("cortex_request_duration_seconds_count{method=\"GET\",route=\"query\",status_code=\"200\",ws=\"false\"} 1"));
    cr_expect(metrics_hold("cortex_response_message_bytes_sum{method=\"GET\",route=\"query\"} 1.024e+07"));
}

Test(http_stream, a_long_answer_is_compressed_as_it_goes)
{
    struct buf b = {0}, plain = {0};
    struct reply r;
    int fd = ask("/gzip", "Accept-Encoding: gzip\r\n");
    cr_expect(read_chunked(fd, &r, &b));
    cr_expect_str_eq(reply_header(&r, "Content-Encoding"), "gzip");
    size_t n = src.n_pieces * src.piece_bytes;
    cr_expect_lt(b.n, n / 4);
    cr_assert(buf_reserve(&plain, n + 1));
    z_stream z = {.next_in = (Bytef *)b.p, .avail_in = (uInt)b.n, .next_out = (Bytef *)plain.p, .avail_out = (uInt)n + 1};
    cr_assert_eq(inflateInit2(&z, 15 + 16), Z_OK);
    cr_expect_eq(inflate(&z, Z_FINISH), Z_STREAM_END);
    plain.n = z.total_out;
    inflateEnd(&z);
    check_bytes(&plain, n);
    buf_release(&b);
    buf_release(&plain);
    close(fd);
}

Test(http_stream, a_slow_client_holds_the_source_back)
{
    src.n_pieces = 5000; /* a gigabyte */
    int fd = ask("/query", "");
    size_t before;
    do { /* until the kernel's buffers are full */
        before = atomic_load(&src.n_made);
        usleep(300000);
    } while (before == 0 || atomic_load(&src.n_made) != before);
    cr_expect_lt(before * src.piece_bytes, (size_t)64 << 20);
    char some[65536];
    cr_expect(read_all(fd, some, sizeof some));
    close(fd);
    EVENTUALLY(atomic_load(&src.released) == 1); /* the client has gone */
    cr_expect_lt(atomic_load(&src.n_made), 1000);
}

Test(http_stream, what_fails_at_first_is_an_error)
{
    src.fails_at = 1;
    struct reply r = rig_ask(&rig, "GET", "/query", "", NULL, 0);
    cr_expect_eq(r.status, 503);
    cr_expect_str_eq(r.body, "no more\n");
    reply_free(&r);
}

Test(http_stream, what_fails_later_ends_without_an_end)
{
    src.fails_at = 10;
    struct buf b = {0};
    struct reply r;
    int fd = ask("/query", "");
    cr_expect(!read_chunked(fd, &r, &b));
    cr_expect_eq(r.status, 200);
    check_bytes(&b, 10 * src.piece_bytes);
    buf_release(&b);
    close(fd);
    EVENTUALLY(metrics_hold("brunn_http_broken_off_answers_total 1"));
    EVENTUALLY(atomic_load(&src.released) == 1);
}

Test(http_stream, the_server_stops_beside_a_client_that_takes_nothing)
{
    src.n_pieces = 5000;
    int fd = ask("/query", "");
    EVENTUALLY(atomic_load(&src.n_made) > 2);
    int64_t began = clock_mono_ms();
    http_server_stop(rig.server, 300);
    cr_expect_lt(clock_mono_ms() - began, 5000);
    rig_stop(&rig);
    rig.server = NULL;
    close(fd);
}
