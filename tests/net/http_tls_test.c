/* HTTP over TLS, asked by curl: bodies both ways, refusals, certificates, and clients that break off. */
#include "tests/net/http_rig.h"
#include "tests/net/tls_rig.h"

static atomic_int canceled;

static void echo(struct http_request *req, void *arg)
{
    (void)arg;
    struct buf out = {0};
    buf_put_slice(&out, http_body(req));
    http_respond(req, 200, "text/plain", &out);
}

static void large(struct http_request *req, void *arg)
{
    (void)arg;
    struct buf out = {0};
    for (int i = 0; i < 400000; i++)
        buf_puts(&out, "0123456789");
    http_respond(req, 200, "text/plain", &out);
}

static void hang(struct http_request *req, void *arg)
{
    (void)arg;
    for (int i = 0; i < 5000 && ctx_check(http_ctx(req), NULL); i++)
        usleep(1000);
    atomic_store(&canceled, ctx_check(http_ctx(req), NULL) ? 2 : 1);
    http_respond_status(req, 204);
}

static const struct http_route routes[] = {
    {.path = "/echo", .methods = HTTP_POST, .handler = echo, .pool = HTTP_POOL_WRITE},
    {.path = "/large", .methods = HTTP_GET, .handler = large, .pool = HTTP_POOL_QUERY},
    {.path = "/hang", .methods = HTTP_GET, .handler = hang, .pool = HTTP_POOL_QUERY},
};

struct tls_http_rig {
    struct rig http;
    struct certs certs;
};

static void setup(struct tls_http_rig *r)
{
    rig_new(&r->http);
    certs_new(&r->certs);
    r->http.cfg.http_tls_cert_path = certs_path(&r->certs, "server.pem");
    r->http.cfg.http_tls_key_path = certs_path(&r->certs, "server.key");
}

static void begin(struct tls_http_rig *r)
{
    rig_start(&r->http, routes, ARRAY_LEN(routes), NULL);
}

static void finish(struct tls_http_rig *r)
{
    rig_stop(&r->http);
    certs_free(&r->certs);
}

/* curl's exit status; the script runs in the folder of the certificates, where $U is the server's URL. */
static int script(struct tls_http_rig *r, const char *text)
{
    char command[1024];
    snprintf(command, sizeof command, "cd %s && U=https://localhost:%d && { %s; } >>log 2>&1", r->certs.dir,
             http_server_port(r->http.server), text);
    int rc = system(command);
    return WEXITSTATUS(rc);
}

Test(http_tls, bodies_come_whole_both_ways)
{
    struct tls_http_rig r;
    setup(&r);
    begin(&r);
    cr_assert_eq(script(&r, "head -c 900000 /dev/urandom >in && curl -sf --cacert ca.pem --data-binary @in $U/echo -o out && cmp in out"), 0);
    cr_assert_eq(script(&r, "curl -sf --cacert ca.pem -H 'Transfer-Encoding: chunked' --data-binary @in $U/echo -o out && cmp in out"), 0);
    cr_assert_eq(script(&r, "curl -sf --cacert ca.pem $U/large -o out && test $(stat -c %s out) = 4000000"), 0);
    cr_assert_eq(script(&r, "curl -sf --cacert ca.pem --limit-rate 3M $U/large -o out && test $(stat -c %s out) = 4000000"), 0);
    finish(&r);
}

Test(http_tls, many_requests_share_a_connection)
{
    struct tls_http_rig r;
    setup(&r);
    begin(&r);
    cr_assert_eq(script(&r, "curl -sf --cacert ca.pem -d x \"$U/echo?[1-50]\" -w '%{num_connects}\\n' >n && grep -c '^x1' n && test $(grep -c '^x0' n) = 49"), 0);
    cr_assert_eq(script(&r, "curl -sf --cacert ca.pem -Z --parallel-max 20 -d x \"$U/echo?[1-200]\" >n && test $(cat n | tr -d '\\n' | wc -c) = 200"), 0);
    finish(&r);
}

/* The answer in the middle of a body must reach a client that goes on sending. */
Test(http_tls, refusals_reach_the_client)
{
    struct tls_http_rig r;
    setup(&r);
    begin(&r);
    cr_assert_eq(script(&r, "head -c 3000000 /dev/zero >in; "
                            "for h in 'X-A: b' 'Transfer-Encoding: chunked'; do test $(curl -s --cacert ca.pem -H \"$h\" -H Expect: "
                            "--data-binary @in $U/echo -o out -w '%{http_code}') = 413 || exit 9; done"), 0);
    finish(&r);
}

Test(http_tls, a_client_that_goes_away_cancels_its_request)
{
    struct tls_http_rig r;
    setup(&r);
    begin(&r);
    cr_assert_eq(script(&r, "curl -s --cacert ca.pem -m 0.5 $U/hang"), 28);
    for (int i = 0; i < 3000 && !atomic_load(&canceled); i++)
        usleep(1000);
    cr_assert_eq(atomic_load(&canceled), 1);
    finish(&r);
}

Test(http_tls, certificates_are_checked)
{
    struct tls_http_rig r;
    setup(&r);
    r.http.cfg.http_tls_client_auth = "RequireAndVerifyClientCert";
    r.http.cfg.http_tls_ca_path = certs_path(&r.certs, "ca.pem");
    begin(&r);
    cr_assert_eq(script(&r, "curl -sf --cacert ca.pem --cert client.pem --key client.key -d x $U/echo"), 0);
    cr_assert_neq(script(&r, "curl -sf --cacert ca.pem -d x $U/echo"), 0);
    cr_assert_neq(script(&r, "curl -sf --cacert ca.pem --cert stranger.pem --key stranger.key -d x $U/echo"), 0);
    cr_assert_neq(script(&r, "curl -sf --cacert ca.pem --cert late.pem --key late.key -d x $U/echo"), 0);
    cr_assert_eq(script(&r, "curl -sf --cacert other.pem --cert client.pem --key client.key -d x $U/echo"), 60);
    cr_assert_neq(script(&r, "curl -sf http://localhost:${U#*localhost:}"), 0);
    cr_assert(metrics_hold("brunn_tls_failed_handshakes_total{protocol=\"http\"}"));
    finish(&r);
}

Test(http_tls, a_renewed_certificate_is_shown_at_the_next_handshake)
{
    struct tls_http_rig r;
    setup(&r);
    begin(&r);
    cr_assert_eq(script(&r, "curl -sf --cacert ca.pem -d x $U/echo"), 0);
    cr_assert_eq(script(&r, "cp stranger.key server.key; cp stranger.pem server.pem; curl -sf --cacert other.pem -d x $U/echo"), 0);
    finish(&r);
}

Test(http_tls, idle_handshakes_count_against_the_limit_and_hold_nobody_up)
{
    struct tls_http_rig r;
    setup(&r);
    r.http.cfg.http_conn_limit = 5;
    r.http.cfg.http_io_threads = 1;
    begin(&r);
    int fds[5];
    for (size_t i = 0; i < 4; i++)
        fds[i] = rig_connect(&r.http);
    cr_assert_eq(script(&r, "curl -sf --cacert ca.pem -d x $U/echo"), 0);
    fds[4] = rig_connect(&r.http);
    cr_assert_eq(script(&r, "curl -sf -m 0.5 --cacert ca.pem -d x $U/echo"), 28);
    for (size_t i = 0; i < 5; i++)
        close(fds[i]);
    cr_assert_eq(script(&r, "curl -sf -m 5 --cacert ca.pem -d x $U/echo"), 0);
    finish(&r);
}

Test(http_tls, a_stop_lets_running_requests_end)
{
    struct tls_http_rig r;
    setup(&r);
    begin(&r);
    cr_assert_eq(script(&r, "(curl -s --cacert ca.pem $U/hang -w '%{http_code}' >code) & sleep 0.3"), 0);
    http_server_stop(r.http.server, 100);
    cr_assert_eq(script(&r, "sleep 0.2; grep 503 code"), 0);
    finish(&r);
}
