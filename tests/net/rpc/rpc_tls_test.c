/* TLS between our client and our server: who is taken, who is not, and what each is told. */
#include <arpa/inet.h>
#include <criterion/criterion.h>
#include <sys/socket.h>

#include "base/metrics.h"
#include "net/http.h"
#include "tests/net/rpc/rpc_methods.h"
#include "tests/net/tls_rig.h"

struct tls_rpc_rig {
    struct rpc_rig rpc;
    struct certs certs;
};

static void setup(struct tls_rpc_rig *r)
{
    rig_new(&r->rpc);
    certs_new(&r->certs);
    r->rpc.cfg.grpc_tls_cert_path = certs_path(&r->certs, "server.pem");
    r->rpc.cfg.grpc_tls_key_path = certs_path(&r->certs, "server.key");
    r->rpc.client_cfg.tls.enabled = true;
    r->rpc.client_cfg.tls.ca_path = certs_path(&r->certs, "ca.pem");
    r->rpc.client_cfg.connect_timeout_ms = 3000;
    r->rpc.client_cfg.backoff_min_ms = 1;
    r->rpc.client_cfg.backoff_max_ms = 1;
}

static void require_client(struct tls_rpc_rig *r)
{
    r->rpc.cfg.grpc_tls_client_auth = "RequireAndVerifyClientCert";
    r->rpc.cfg.grpc_tls_ca_path = certs_path(&r->certs, "ca.pem");
}

static void show(struct tls_rpc_rig *r, const char *cert, const char *key)
{
    r->rpc.client_cfg.tls.cert_path = certs_path(&r->certs, cert);
    r->rpc.client_cfg.tls.key_path = certs_path(&r->certs, key);
}

static void stop(struct tls_rpc_rig *r)
{
    rig_stop(&r->rpc);
    certs_free(&r->certs);
}

static void expect_answer(struct tls_rpc_rig *r, size_t n)
{
    struct buf request = {0};
    struct buf answer = {0};
    struct rpc_status st = RPC_STATUS_NONE;
    for (size_t i = 0; i < n; i++)
        buf_putc(&request, (char)('a' + i % 26));
    cr_assert(rig_ask(&r->rpc, "/test.Test/Echo", buf_slice(&request), NULL, &answer, &st), "%s", st.text);
    cr_assert(slice_eq(buf_slice(&answer), buf_slice(&request)));
    buf_release(&answer);
    buf_release(&request);
    rpc_status_release(&st);
}

/* A refusal whose text holds this. A server that does not like a client says so after the client has begun; the
 * connection may be closed before the client reads that, and then the next one, after a pause, tells. */
static void expect_refusal(struct tls_rpc_rig *r, const char *text)
{
    struct rpc_status st = RPC_STATUS_NONE;
    for (int i = 0; i < 2000; i++) {
        struct buf answer = {0};
        cr_assert(!rig_ask(&r->rpc, "/test.Test/Echo", SL("x"), NULL, &answer, &st));
        cr_assert_eq(st.code, RPC_UNAVAILABLE, "%d %s", st.code, st.text);
        if (strstr(st.text, text))
            return;
        usleep(10000);
    }
    cr_assert(false, "%s", st.text);
}

static double failed_handshakes(void)
{
    return metric_value(metric_get(http_request_families().tls_failed, (const struct slice[]){SL("grpc")}));
}

Test(rpc_tls, small_and_large_messages_come_through)
{
    struct tls_rpc_rig r;
    setup(&r);
    rig_start(&r.rpc);
    expect_answer(&r, 1);
    expect_answer(&r, 5 << 20);
    const struct rpc_args args = {.method = "/test.Test/Count", .request = SL("3000 5000")};
    struct rpc_stream *stream = rpc_stream_open(r.rpc.client, &args);
    struct rpc_status st = RPC_STATUS_NONE;
    struct buf msg = {0};
    int n = 0;
    for (; rpc_stream_next(stream, &msg, &st) == RPC_NEXT_MESSAGE; n++) {
        cr_assert_eq(atoi(msg.p), n);
        buf_release(&msg);
    }
    cr_assert_eq(n, 3000, "%s", st.text);
    rpc_stream_close(stream);
    stop(&r);
}

Test(rpc_tls, both_sides_prove_who_they_are)
{
    struct tls_rpc_rig r;
    setup(&r);
    require_client(&r);
    show(&r, "client.pem", "client.key");
    rig_start(&r.rpc);
    expect_answer(&r, 100);
    stop(&r);
}

Test(rpc_tls, a_client_without_a_certificate_is_refused)
{
    struct tls_rpc_rig r;
    setup(&r);
    require_client(&r);
    rig_start(&r.rpc);
    expect_refusal(&r, "certificate required");
    cr_assert_geq(failed_handshakes(), 1);
    stop(&r);
}

Test(rpc_tls, a_client_of_another_authority_is_refused)
{
    struct tls_rpc_rig r;
    setup(&r);
    require_client(&r);
    show(&r, "stranger.pem", "stranger.key");
    rig_start(&r.rpc);
    expect_refusal(&r, "unknown ca");
    stop(&r);
}

Test(rpc_tls, a_certificate_that_is_only_asked_for_may_be_anybodys)
{
    static const char *const kinds[] = {"RequestClientCert", "RequireAnyClientCert"};
    for (size_t i = 0; i < ARRAY_LEN(kinds); i++) {
        struct tls_rpc_rig r;
        setup(&r);
        r.rpc.cfg.grpc_tls_client_auth = kinds[i];
        show(&r, "stranger.pem", "stranger.key");
        rig_start(&r.rpc);
        expect_answer(&r, 10);
        stop(&r);
    }
}

Test(rpc_tls, a_server_of_another_authority_is_not_trusted)
{
    struct tls_rpc_rig r;
    setup(&r);
    r.rpc.client_cfg.tls.ca_path = certs_path(&r.certs, "other.pem");
    rig_start(&r.rpc);
    expect_refusal(&r, "certificate verify failed");
    stop(&r);
}

Test(rpc_tls, an_expired_certificate_is_not_trusted_unless_nothing_is_checked)
{
    struct tls_rpc_rig r;
    setup(&r);
    r.rpc.cfg.grpc_tls_cert_path = certs_path(&r.certs, "late.pem");
    r.rpc.cfg.grpc_tls_key_path = certs_path(&r.certs, "late.key");
    rig_start(&r.rpc);
    expect_refusal(&r, "certificate has expired");
    rpc_client_free(r.rpc.client);
    rpc_clients_free(r.rpc.clients);
    r.rpc.client_cfg.tls.insecure_skip_verify = true;
    r.rpc.clients = rpc_clients_new(&r.rpc.client_cfg);
    r.rpc.client = rpc_client_new(r.rpc.clients, r.rpc.address);
    expect_answer(&r, 10);
    stop(&r);
}

Test(rpc_tls, the_name_must_be_the_certificates)
{
    struct tls_rpc_rig r;
    setup(&r);
    r.rpc.client_cfg.tls.server_name = "elsewhere.example";
    rig_start(&r.rpc);
    expect_refusal(&r, "hostname mismatch");
    rpc_client_free(r.rpc.client);
    rpc_clients_free(r.rpc.clients);
    r.rpc.client_cfg.tls.server_name = "localhost";
    r.rpc.clients = rpc_clients_new(&r.rpc.client_cfg);
    r.rpc.client = rpc_client_new(r.rpc.clients, r.rpc.address);
    expect_answer(&r, 10);
    stop(&r);
}

Test(rpc_tls, plain_and_encrypted_do_not_meet)
{
    struct tls_rpc_rig r;
    setup(&r);
    r.rpc.client_cfg.tls.enabled = false;
    rig_start(&r.rpc);
    expect_refusal(&r, "the connection was lost");
    cr_assert_geq(failed_handshakes(), 1);
    stop(&r);
    setup(&r);
    r.rpc.cfg.grpc_tls_cert_path = r.rpc.cfg.grpc_tls_key_path = "";
    rig_start(&r.rpc);
    expect_refusal(&r, "TLS handshake");
    stop(&r);
}

Test(rpc_tls, a_renewed_certificate_is_shown_at_the_next_handshake)
{
    struct tls_rpc_rig r;
    setup(&r);
    rig_start(&r.rpc);
    expect_answer(&r, 10);
    rpc_client_free(r.rpc.client);
    rpc_clients_free(r.rpc.clients);
    certs_run(&r.certs, "cp stranger.key server.key; cp stranger.pem server.pem");
    r.rpc.clients = rpc_clients_new(&r.rpc.client_cfg);
    r.rpc.client = rpc_client_new(r.rpc.clients, r.rpc.address);
    expect_refusal(&r, "certificate verify failed");
    certs_run(&r.certs, "cp other.pem ca.pem"); /* the client's authorities too */
    usleep(20000);
    expect_answer(&r, 10);
    certs_run(&r.certs, "echo nonsense >server.pem"); /* the server keeps what it has */
    rpc_client_free(r.rpc.client);
    r.rpc.client = rpc_client_new(r.rpc.clients, r.rpc.address);
    expect_answer(&r, 10);
    stop(&r);
}

Test(rpc_tls, a_client_that_says_nothing_does_not_stop_the_others)
{
    struct tls_rpc_rig r;
    setup(&r);
    r.rpc.cfg.grpc_io_threads = 1;
    rig_start(&r.rpc);
    struct sockaddr_in a = {
        .sin_family = AF_INET, .sin_port = htons(rpc_server_port(r.rpc.server)), .sin_addr = {htonl(INADDR_LOOPBACK)}};
    int fds[8];
    for (size_t i = 0; i < ARRAY_LEN(fds); i++) {
        fds[i] = socket(AF_INET, SOCK_STREAM, 0);
        cr_assert_eq(connect(fds[i], (struct sockaddr *)&a, sizeof a), 0);
        cr_assert_eq(send(fds[i], "\x16\x03\x01", 3, 0), 3);
    }
    expect_answer(&r, 10);
    for (size_t i = 0; i < ARRAY_LEN(fds); i++)
        close(fds[i]);
    stop(&r);
}

Test(rpc_tls, bad_options_are_named)
{
    struct tls_rpc_rig r;
    setup(&r);
    const struct {
        struct tls_server_config cfg;
        const char *text;
    } cases[] = {
        {{.cert_path = "/nowhere/x.pem", .key_path = "/nowhere/x.key"}, "cannot load the TLS certificate \"/nowhere/x.pem\""},
        {{.cert_path = "x"}, "a TLS certificate is given without its key"},
        {{.key_path = "x"}, "a TLS key is given without its certificate"},
        {{.cert_path = "x", .key_path = "x", .client_auth = "Maybe"}, "invalid TLS client auth type: \"Maybe\""},
        {{.cert_path = "x", .key_path = "x", .ca_path = "x"}, "client CA's have been configured without a Client Auth Policy"},
        {{.cert_path = "x", .key_path = "x", .min_version = "1.2"}, "unknown TLS version: \"1.2\""},
        {{.cert_path = "x", .key_path = "x", .cipher_suites = "TLS_NOTHING"}, "cipher suite \"TLS_NOTHING\" not recognized"},
        {{.cert_path = r.rpc.cfg.grpc_tls_cert_path, .key_path = certs_path(&r.certs, "client.key")}, "cannot load the TLS key"},
    };
    for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
        struct err err = ERR_NONE;
        cr_assert_null(tls_server_new(&cases[i].cfg, "h2", &err));
        cr_assert(strstr(err.text, cases[i].text), "%s", err.text);
    }
    struct err err = ERR_NONE;
    struct rpc_client_config bad = {.tls = {.enabled = true, .ca_path = "/nowhere/ca.pem"}};
    cr_assert(rpc_client_config_check(&r.rpc.client_cfg, &err), "%s", err.text);
    cr_assert_not(rpc_client_config_check(&bad, &err));
    flag_set_free(r.rpc.flags);
    certs_free(&r.certs);
}

Test(rpc_tls, cipher_suites_and_versions_can_be_chosen)
{
    static const struct {
        const char *client_suites, *client_version, *server_suites, *server_version;
    } cases[] = {
        {"TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256", "", "", ""},
        {"", "VersionTLS13", "TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256, TLS_AES_128_GCM_SHA256", "VersionTLS12"},
        {"", "", "TLS_AES_128_GCM_SHA256", ""},
        {"TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305", "VersionTLS12", "", "VersionTLS13"},
    };
    for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
        struct tls_rpc_rig r;
        setup(&r);
        struct http_config common = {.tls_min_version = cases[i].server_version, .tls_cipher_suites = cases[i].server_suites};
        r.rpc.client_cfg.tls.cipher_suites = cases[i].client_suites;
        r.rpc.client_cfg.tls.min_version = cases[i].client_version;
        struct err err = ERR_NONE;
        r.rpc.server = rpc_server_new(&r.rpc.cfg);
        rpc_server_set_common(r.rpc.server, &common);
        rpc_server_add(r.rpc.server, test_methods, ARRAY_LEN(test_methods), &r.rpc.seen);
        cr_assert(rpc_server_start(r.rpc.server, &err), "%s", err.text);
        snprintf(r.rpc.address, sizeof r.rpc.address, "localhost:%d", rpc_server_port(r.rpc.server));
        r.rpc.clients = rpc_clients_new(&r.rpc.client_cfg);
        r.rpc.client = rpc_client_new(r.rpc.clients, r.rpc.address);
        expect_answer(&r, 10);
        stop(&r);
    }
}
