#include "http_rig.h"

#include <zlib.h>

#define MiB ((size_t)1 << 20)

static void size_of(struct http_request *req, void *arg)
{
    (void)arg;
    uint64_t sum = 0;
    struct slice body = http_body(req);
    for (size_t i = 0; i < body.n; i++)
        sum += (uint8_t)body.p[i];
    struct buf out;
    buf_init(&out, 0);
    buf_printf(&out, "%zu %llu", body.n, (unsigned long long)sum);
    http_respond(req, 200, NULL, &out);
}

static struct buf taken;

static void take(struct http_request *req, void *arg)
{
    (void)arg;
    taken = http_take_body(req);
    cr_assert_eq(http_body(req).n, 0);
    http_respond_status(req, 200);
}

static void refuse(struct http_request *req, enum http_refusal why, uint64_t n_bytes, uint64_t limit_bytes, void *arg)
{
    (void)arg;
    char text[128];
    snprintf(text, sizeof text, "refused %d: %llu > %llu", (int)why, (unsigned long long)n_bytes, (unsigned long long)limit_bytes);
    http_set_header(req, "X-Refused", "yes");
    http_respond_text_error(req, 400, text);
}

/* Answers as many 'x' as ?n says. */
static void many(struct http_request *req, void *arg)
{
    (void)arg;
    size_t n = strtoul(http_param(req, "n").p, NULL, 10);
    struct buf out;
    buf_init(&out, 0);
    for (size_t i = 0; i < n; i++)
        buf_putc(&out, (char)('a' + i % 7));
    http_respond(req, 200, "text/plain", &out);
}

static void too_much(struct http_request *req, void *arg)
{
    (void)arg;
    struct buf out;
    buf_init(&out, 10);
    buf_puts(&out, "more than ten bytes");
    http_respond(req, 200, "text/plain", &out);
}

/* gzip of "hello page\n", made with Python's gzip.compress(b"hello page\n", mtime=0). */
static const unsigned char page_gz[] = {0x1f, 0x8b, 0x08, 0x00, 0x00, 0x00, 0x00, 0x00, 0x02, 0x03, 0xcb, 0x48, 0xcd, 0xc9, 0xc9, 0x57,
                                        0x28, 0x48, 0x4c, 0x4f, 0xe5, 0x02, 0x00, 0x2b, 0x2c, 0x90, 0x3e, 0x0b, 0x00, 0x00, 0x00};

static void page(struct http_request *req, void *arg)
{
    (void)arg;
    http_respond_static(req, "text/html", slice_make(page_gz, sizeof page_gz), true);
}

static const struct http_route routes[] = {
    {HTTP_POST, "/size", HTTP_POOL_QUERY, 0, size_of, ""},
    {HTTP_POST, "/take", HTTP_POOL_INLINE, 0, take, ""},
    {HTTP_POST, "/private", HTTP_POOL_INLINE, HTTP_TENANT, size_of, ""},
    {HTTP_GET, "/many", HTTP_POOL_QUERY, HTTP_GZIP, many, ""},
    {HTTP_GET, "/plain", HTTP_POOL_QUERY, 0, many, ""},
    {HTTP_GET, "/page", HTTP_POOL_INLINE, 0, page, ""},
    {HTTP_GET, "/too-much", HTTP_POOL_INLINE, 0, too_much, ""},
};
static const struct http_route push_routes[] = {{HTTP_POST, "/push", HTTP_POOL_WRITE, HTTP_BIG_BODY, size_of, ""}};

static struct rig rig;

static void start(uint64_t body_memory)
{
    rig_new(&rig);
    rig.cfg.http_max_body_memory_bytes = body_memory;
    struct err err = ERR_NONE;
    rig.server = http_server_new(&rig.cfg, rig.limits, rig_tenant, NULL);
    http_server_add(rig.server, "", routes, sizeof routes / sizeof routes[0], NULL);
    http_server_add(rig.server, "", push_routes, 1, NULL);
    http_server_on_refusal(rig.server, push_routes, refuse);
    cr_assert(http_server_start(rig.server, &err), "%s", err.text);
}

static void setup(void)
{
    start(0);
}

static void teardown(void)
{
    rig_stop(&rig);
}

TestSuite(http_body, .init = setup, .fini = teardown);

static char *bytes(size_t n)
{
    char *p = malloc(n);
    memset(p, 1, n);
    return p;
}

static void expect_size(const char *path, size_t n)
{
    char *body = bytes(n + 1);
    char want[64];
    snprintf(want, sizeof want, "%zu %zu", n, n);
    struct reply r = rig_ask(&rig, "POST", path, "", body, n);
    cr_expect_eq(r.status, 200, "%zu bytes: %d %s", n, r.status, r.body);
    cr_expect_str_eq(r.body, want);
    reply_free(&r);
    free(body);
}

Test(http_body, bodies_up_to_the_limit_arrive_whole)
{
    static const size_t sizes[] = {0, 1, 100, 32767, 65536, 70000, 300000, 1 << 20};
    for (size_t i = 0; i < sizeof sizes / sizeof sizes[0]; i++)
        expect_size("/size", sizes[i]);
    expect_size("/push", 4 * MiB);
}

Test(http_body, a_declared_body_past_the_limit_is_refused_at_once_and_the_answer_arrives)
{
    /* Nothing of the body is sent before the answer comes. */
    int fd = rig_connect(&rig);
    const char *head = "POST /size HTTP/1.1\r\nHost: x\r\nContent-Length: 1048577\r\n\r\n";
    rig_send(fd, head, strlen(head));
    struct reply r = rig_read(fd);
    cr_expect_eq(r.status, 413);
    cr_expect_str_eq(r.body, "http: request body too large\n");
    cr_expect(strcasestr(r.head, "Connection: close"));
    reply_free(&r);
    close(fd);
    /* All of it is sent before the answer is read: it must not be lost to a reset. */
    char *body = bytes(2 * MiB);
    for (int i = 0; i < 20; i++) {
        r = rig_ask(&rig, "POST", "/size", "", body, 2 * MiB);
        cr_expect_eq(r.status, 413, "round %d: %d", i, r.status);
        reply_free(&r);
    }
    free(body);
    EVENTUALLY(metrics_hold("brunn_http_refused_requests_total{reason=\"body_too_large\"} 21\n"));
}

Test(http_body, the_route_may_choose_the_words_of_a_refusal)
{
    char *body = bytes(5 * MiB);
    struct reply r = rig_ask(&rig, "POST", "/push", "", body, 5 * MiB);
    cr_expect_eq(r.status, 400);
    cr_expect_str_eq(r.body, "refused 0: 5242880 > 4194304\n");
    cr_expect_str_eq(reply_header(&r, "X-Refused"), "yes");
    reply_free(&r);
    free(body);
}

/* n_chunks of 64 KiB each; ends the body when `end`. */
static void send_chunks(int fd, size_t n_chunks, bool end)
{
    char *chunk = bytes(65536);
    for (size_t i = 0; i < n_chunks; i++) {
        rig_send(fd, "10000\r\n", 7);
        rig_send(fd, chunk, 65536);
        rig_send(fd, "\r\n", 2);
    }
    if (end)
        rig_send(fd, "0\r\n\r\n", 5);
    free(chunk);
}

static struct reply ask_chunked(const char *path, size_t n_chunks)
{
    int fd = rig_connect(&rig);
    char head[256];
    int n = snprintf(head, sizeof head, "POST %s HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n", path);
    rig_send(fd, head, (size_t)n);
    send_chunks(fd, n_chunks, true);
    struct reply r = rig_read(fd);
    close(fd);
    return r;
}

Test(http_body, chunked_bodies_arrive_whole_up_to_the_limit)
{
    struct reply r = ask_chunked("/size", 16);
    cr_expect_eq(r.status, 200);
    cr_expect_str_eq(r.body, "1048576 1048576");
    reply_free(&r);
    r = ask_chunked("/size", 0);
    cr_expect_str_eq(r.body, "0 0");
    reply_free(&r);
}

Test(http_body, chunked_bodies_are_refused_when_they_pass_the_limit)
{
    for (int i = 0; i < 10; i++) {
        struct reply r = ask_chunked("/size", 40);
        cr_expect_eq(r.status, 413, "round %d: %d", i, r.status);
        cr_expect_str_eq(r.body, "http: request body too large\n");
        cr_expect_str_eq(reply_header(&r, "Content-Type"), "text/plain; charset=utf-8");
        reply_free(&r);
    }
    struct reply r = ask_chunked("/push", 100);
    cr_expect_eq(r.status, 400);
    cr_expect_eq(strncmp(r.body, "refused 0: ", 11), 0, "%s", r.body);
    reply_free(&r);
    EVENTUALLY(metrics_hold("route=\"size\",status_code=\"413\",ws=\"false\"} 10\n"));
    EVENTUALLY(metrics_hold("cortex_inflight_requests{method=\"POST\",route=\"size\"} 0\n"));
}

Test(http_body, a_refused_small_body_does_not_cost_the_connection)
{
    int fd = rig_connect(&rig);
    for (int i = 0; i < 3; i++) {
        char head[256];
        int n = snprintf(head, sizeof head, "POST /private HTTP/1.1\r\nHost: x\r\n%sContent-Length: 100000\r\n\r\n",
                         i == 2 ? "X-Scope-OrgID: t\r\n" : "");
        char *body = bytes(100000);
        rig_send(fd, head, (size_t)n);
        rig_send(fd, body, 100000);
        free(body);
        struct reply r = rig_read(fd);
        cr_expect_eq(r.status, i == 2 ? 200 : 401, "%d: %d", i, r.status);
        reply_free(&r);
    }
    close(fd);
}

Test(http_body, a_refused_request_that_expects_continue_is_answered_without_its_body)
{
    int fd = rig_connect(&rig);
    const char *head = "POST /private HTTP/1.1\r\nHost: x\r\nExpect: 100-continue\r\nContent-Length: 1000\r\n\r\n";
    rig_send(fd, head, strlen(head));
    struct reply r = rig_read(fd);
    cr_expect_eq(r.status, 401);
    reply_free(&r);
    close(fd);
    fd = rig_connect(&rig);
    head = "POST /size HTTP/1.1\r\nHost: x\r\nExpect: 100-continue\r\nContent-Length: 4\r\n\r\n";
    rig_send(fd, head, strlen(head));
    usleep(20000);
    rig_send(fd, "\1\1\1\1", 4);
    r = rig_read(fd);
    cr_expect_str_eq(r.body, "4 4");
    reply_free(&r);
    close(fd);
}

Test(http_body, the_handler_may_take_the_bytes)
{
    struct reply r = rig_ask(&rig, "POST", "/take", "", "hello", 5);
    cr_expect_eq(r.status, 200);
    cr_expect_eq(taken.n, 5);
    cr_expect_eq(memcmp(taken.p, "hello", 5), 0);
    buf_release(&taken);
    reply_free(&r);
}

Test(http_body_memory, bodies_beyond_the_memory_for_all_are_refused_and_memory_comes_back)
{
    start(100000);
    char *body = bytes(MiB);
    struct reply r = rig_ask(&rig, "POST", "/size", "", body, 100001);
    cr_expect_eq(r.status, 503);
    cr_expect_str_eq(reply_header(&r, "Retry-After"), "1");
    reply_free(&r);
    r = ask_chunked("/size", 3);
    cr_expect_eq(r.status, 503);
    reply_free(&r);
    for (int i = 0; i < 10; i++)
        expect_size("/size", 60000);
    free(body);
    rig_stop(&rig);
}

/* --- answers --------------------------------------------------------------------------------------------------- */

static size_t inflated(const struct reply *r, char *out, size_t cap)
{
    z_stream z = {.next_in = (Bytef *)r->body, .avail_in = (uInt)r->n, .next_out = (Bytef *)out, .avail_out = (uInt)cap};
    cr_assert_eq(inflateInit2(&z, 15 + 16), Z_OK);
    cr_assert_eq(inflate(&z, Z_FINISH), Z_STREAM_END);
    inflateEnd(&z);
    return z.total_out;
}

Test(http_body, answers_are_compressed_only_when_asked_for_and_worth_it)
{
    static const struct {
        const char *path, *headers;
        bool gzip, vary;
    } cases[] = {
        {"/many?n=5000", "Accept-Encoding: gzip\r\n", true, true},
        {"/many?n=5000", "Accept-Encoding: deflate, gzip;q=0.5\r\n", true, true},
        {"/many?n=5000", "Accept-Encoding: gzip;q=0\r\n", false, true},
        {"/many?n=5000", "Accept-Encoding: deflate\r\n", false, true},
        {"/many?n=5000", "", false, true},
        {"/many?n=1000", "Accept-Encoding: gzip\r\n", false, true},
        {"/plain?n=5000", "Accept-Encoding: gzip\r\n", false, false},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        struct reply r = rig_ask(&rig, "GET", cases[i].path, cases[i].headers, NULL, 0);
        cr_expect_eq(reply_header(&r, "Content-Encoding") != NULL, cases[i].gzip, "case %zu", i);
        cr_expect_eq(reply_header(&r, "Vary") != NULL, cases[i].vary, "case %zu", i);
        if (cases[i].gzip) {
            char out[5001];
            cr_expect_eq(inflated(&r, out, sizeof out), 5000);
            cr_expect_eq(memcmp(out, "abcdefgabc", 10), 0);
        }
        reply_free(&r);
    }
}

Test(http_body, a_large_answer_arrives_whole)
{
    int fd = rig_connect(&rig);
    const char *head = "GET /plain?n=20000000 HTTP/1.1\r\nHost: x\r\n\r\n";
    rig_send(fd, head, strlen(head));
    struct reply r = rig_read(fd);
    cr_assert_eq(r.n, 20000000);
    for (size_t i = 0; i < r.n; i++)
        if (r.body[i] != (char)('a' + i % 7))
            cr_assert_fail("byte %zu", i);
    reply_free(&r);
    close(fd);
}

Test(http_body, a_page_kept_compressed_is_sent_as_the_client_can_read_it)
{
    struct reply r = rig_ask(&rig, "GET", "/page", "", NULL, 0);
    cr_expect_str_eq(r.body, "hello page\n");
    reply_free(&r);
    r = rig_ask(&rig, "GET", "/page", "Accept-Encoding: gzip\r\n", NULL, 0);
    cr_expect_eq(r.n, sizeof page_gz);
    cr_expect_str_eq(reply_header(&r, "Content-Encoding"), "gzip");
    reply_free(&r);
}

Test(http_body, an_answer_past_its_buffer_is_500)
{
    struct reply r = rig_ask(&rig, "GET", "/too-much", "", NULL, 0);
    cr_expect_eq(r.status, 500);
    reply_free(&r);
}

Test(http_body, malformed_requests_are_refused_and_the_server_lives_on)
{
    static const char *const bad[] = {
        "GARBAGE\r\n\r\n",
        "POST /size HTTP/1.1\r\nHost: x\r\nContent-Length: abc\r\n\r\n",
        "POST /size HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
        "POST /size HTTP/1.1\r\nHost: x\r\nContent-Length: 99999999999999999999999\r\n\r\n",
        "\0\0\0\0",
    };
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
        int fd = rig_connect(&rig);
        rig_send(fd, bad[i], strlen(bad[i]));
        shutdown(fd, SHUT_WR);
        struct reply r = rig_read(fd);
        cr_expect(r.status == 0 || r.status >= 400, "%zu: %d", i, r.status);
        reply_free(&r);
        close(fd);
    }
    /* Headers beyond the connection's memory. */
    int fd = rig_connect(&rig);
    rig_send(fd, "GET /many HTTP/1.1\r\nX: ", 23);
    char *junk = bytes(200000);
    memset(junk, 'a', 200000);
    rig_send(fd, junk, 200000);
    struct reply r = rig_read(fd);
    cr_expect(r.status == 431 || r.status == 0, "%d", r.status);
    reply_free(&r);
    free(junk);
    close(fd);
    expect_size("/size", 10);
}
