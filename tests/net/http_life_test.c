#include "http_rig.h"

/* Holds requests for a thread of the test to answer later, as the write path does. */
#define MAX_HELD 512
static pthread_mutex_t held_lock = PTHREAD_MUTEX_INITIALIZER;
static struct http_request *held[MAX_HELD];
static atomic_int n_held;

static void hold(struct http_request *req, void *arg)
{
    (void)arg;
    pthread_mutex_lock(&held_lock);
    held[n_held++] = req;
    pthread_mutex_unlock(&held_lock);
}

static struct http_request *release_one(void)
{
    pthread_mutex_lock(&held_lock);
    struct http_request *req = n_held ? held[--n_held] : NULL;
    pthread_mutex_unlock(&held_lock);
    return req;
}

static atomic_bool gate; /* closed: blocking handlers wait */
static atomic_int n_blocked;

static void block(struct http_request *req, void *arg)
{
    (void)arg;
    n_blocked++;
    while (!gate)
        usleep(1000);
    http_respond_status(req, 204);
}

static atomic_int n_canceled;

static void until_canceled(struct http_request *req, void *arg)
{
    (void)arg;
    struct err err = ERR_NONE;
    int64_t give_up_ms = clock_mono_ms() + 10000;
    while (ctx_check(http_ctx(req), &err) && clock_mono_ms() < give_up_ms)
        usleep(1000);
    if (err.code == ERR_CANCELED)
        n_canceled++;
    http_respond_err(req, &err);
}

static void quick(struct http_request *req, void *arg)
{
    (void)arg;
    http_respond_status(req, 200);
}

static void deadline(struct http_request *req, void *arg)
{
    (void)arg;
    struct buf out;
    buf_init(&out, 0);
    buf_printf(&out, "%d", http_ctx(req)->deadline_ms ? (int)(http_ctx(req)->deadline_ms - clock_mono_ms() + 500) / 1000 : 0);
    http_respond(req, 200, NULL, &out);
}

static _Atomic pthread_t reader; /* who ran the last inline request */
static atomic_int n_by_reader;

static void read_here(struct http_request *req, void *arg)
{
    (void)arg;
    reader = pthread_self();
    http_respond_status(req, 200);
}

static void ask_here(struct http_request *req, void *arg)
{
    (void)arg;
    n_by_reader += pthread_equal(reader, pthread_self()) != 0;
    http_respond_status(req, 200);
}

static const struct http_route routes[] = {
    {HTTP_GET, "/read-here", HTTP_POOL_INLINE, 0, read_here, ""},
    {HTTP_GET, "/ask-here", HTTP_POOL_QUERY, 0, ask_here, ""},
    {HTTP_GET | HTTP_POST, "/hold", HTTP_POOL_WRITE, 0, hold, ""},
    {HTTP_GET | HTTP_POST, "/hold-inline", HTTP_POOL_INLINE, 0, hold, ""},
    {HTTP_GET, "/block", HTTP_POOL_QUERY, 0, block, ""},
    {HTTP_POST, "/block-write", HTTP_POOL_WRITE, 0, block, ""},
    {HTTP_GET, "/until-canceled", HTTP_POOL_QUERY, 0, until_canceled, ""},
    {HTTP_GET | HTTP_POST, "/quick", HTTP_POOL_QUERY, 0, quick, ""},
    {HTTP_GET, "/deadline", HTTP_POOL_WRITE, 0, deadline, ""},
    {HTTP_GET, "/deadline-query", HTTP_POOL_QUERY, 0, deadline, ""},
};

static struct rig rig;

static void configure(void)
{
    rig_new(&rig);
    rig.cfg.http_query_workers = 2;
    rig.cfg.http_query_queue = 5; /* three for one tenant */
    rig.cfg.http_write_workers = 2;
    rig.cfg.http_write_queue = 600;
}

static void start(void)
{
    rig_start(&rig, routes, sizeof routes / sizeof routes[0], NULL);
}

static void setup(void)
{
    configure();
    start();
}

static void teardown(void)
{
    rig_stop(&rig);
}

TestSuite(http_life, .init = setup, .fini = teardown, .timeout = 60);
TestSuite(http_stop, .init = configure, .timeout = 60);

static int begin_request(const char *head)
{
    int fd = rig_connect(&rig);
    rig_send(fd, head, strlen(head));
    return fd;
}
#define GET(path) ("GET " path " HTTP/1.1\r\nHost: x\r\n\r\n")

static void expect_status(int fd, int status)
{
    struct reply r = rig_read(fd);
    cr_expect_eq(r.status, status, "got %d %s", r.status, r.body ? r.body : "");
    reply_free(&r);
}

Test(http_life, another_thread_may_answer_later_on_any_kind_of_route)
{
    static const char *const heads[] = {GET("/hold"), GET("/hold-inline"),
                                        "POST /hold-inline HTTP/1.1\r\nHost: x\r\nContent-Length: 3\r\n\r\nabc"};
    for (size_t i = 0; i < 3; i++) {
        int fd = begin_request(heads[i]);
        EVENTUALLY(n_held == 1);
        struct pollfd p = {.fd = fd, .events = POLLIN};
        cr_expect_eq(poll(&p, 1, 50), 0, "no answer yet");
        struct http_request *req = release_one();
        cr_expect_eq(http_body(req).n, i == 2 ? 3 : 0);
        http_respond_text_error(req, 418, "late");
        expect_status(fd, 418);
        close(fd);
    }
}

static atomic_bool answering;

static void *answerer(void *arg)
{
    (void)arg;
    while (answering || n_held) {
        struct http_request *req = release_one();
        if (req)
            http_respond_status(req, 200);
        else
            usleep(100);
    }
    return NULL;
}

/* rig_read's buffer is static: clients in threads read with their own. */
static void *client(void *arg)
{
    const char *head = arg;
    int fd = rig_connect(&rig);
    intptr_t good = 0;
    char in[1024];
    for (int i = 0; i < 100; i++) {
        rig_send(fd, head, strlen(head));
        size_t n = 0;
        while (n < sizeof in - 1 && rig_read_more(fd, in, sizeof in - 1, &n)) {
            in[n] = '\0';
            if (strstr(in, "\r\n\r\n"))
                break;
        }
        in[n] = '\0';
        good += strncmp(in, "HTTP/1.1 200", 12) == 0;
    }
    close(fd);
    return (void *)good;
}

Test(http_life, many_connections_are_answered_from_another_thread)
{
    answering = true;
    pthread_t answerers[2], clients[64];
    for (int i = 0; i < 2; i++)
        pthread_create(&answerers[i], NULL, answerer, NULL);
    for (int i = 0; i < 64; i++)
        pthread_create(&clients[i], NULL, client,
                       i % 2 ? (void *)"POST /hold HTTP/1.1\r\nHost: x\r\nContent-Length: 10\r\n\r\n0123456789" : (void *)GET("/hold-inline"));
    intptr_t good = 0;
    for (int i = 0; i < 64; i++) {
        void *one;
        pthread_join(clients[i], &one);
        good += (intptr_t)one;
    }
    answering = false;
    for (int i = 0; i < 2; i++)
        pthread_join(answerers[i], NULL);
    cr_expect_eq(good, 6400);
}

Test(http_life, a_client_that_goes_away_cancels_its_request)
{
    int fd = begin_request(GET("/until-canceled"));
    EVENTUALLY(metrics_hold("cortex_inflight_requests{method=\"GET\",route=\"until_canceled\"} 1\n"));
    int64_t before = clock_mono_ms();
    close(fd);
    EVENTUALLY(n_canceled == 1);
    cr_expect_lt(clock_mono_ms() - before, 1500);
    EVENTUALLY(metrics_hold("route=\"until_canceled\",status_code=\"499\",ws=\"false\"} 1\n"));
    cr_expect(metrics_hold("brunn_http_canceled_requests_total 1\n"));
}

Test(http_life, a_client_that_stays_is_not_canceled_though_it_has_sent_more)
{
    int fd = begin_request("GET /hold HTTP/1.1\r\nHost: x\r\n\r\nGET /quick HTTP/1.1\r\nHost: x\r\n\r\n");
    EVENTUALLY(n_held == 1);
    usleep(400000);
    struct http_request *req = release_one();
    cr_expect_not(atomic_load(http_ctx(req)->canceled));
    http_respond_status(req, 204);
    expect_status(fd, 204);
    expect_status(fd, 200);
    close(fd);
}

Test(http_life, answering_a_client_that_has_gone_is_safe)
{
    for (int i = 0; i < 20; i++) {
        int fd = begin_request(GET("/hold"));
        EVENTUALLY(n_held == 1);
        struct linger rst = {.l_onoff = 1, .l_linger = 0};
        setsockopt(fd, SOL_SOCKET, SO_LINGER, &rst, sizeof rst);
        close(fd);
        struct http_request *req = release_one();
        if (i % 2)
            EVENTUALLY(atomic_load(http_ctx(req)->canceled));
        http_respond_text_error(req, 200, "nobody listens");
    }
    EVENTUALLY(metrics_hold("cortex_inflight_requests{method=\"GET\",route=\"hold\"} 0\n"));
}

Test(http_life, a_full_pool_answers_at_once_and_the_other_pool_goes_on)
{
    int fds[5];
    for (int i = 0; i < 5; i++) {
        fds[i] = begin_request(GET("/block"));
        if (i < 2)
            EVENTUALLY(n_blocked == i + 1); /* both workers are busy, then three wait */
    }
    EVENTUALLY(metrics_hold("brunn_http_pool_queued_requests{pool=\"query\"} 3\n"));
    int64_t before = clock_mono_ms();
    struct reply r = rig_ask(&rig, "GET", "/quick", "", NULL, 0);
    cr_expect_eq(r.status, 429);
    cr_expect_str_eq(r.body, "too many outstanding requests\n");
    cr_expect_lt(clock_mono_ms() - before, 1000);
    reply_free(&r);
    r = rig_ask(&rig, "GET", "/deadline", "", NULL, 0);
    cr_expect_eq(r.status, 200);
    reply_free(&r);
    gate = true;
    for (int i = 0; i < 5; i++) {
        expect_status(fds[i], 204);
        close(fds[i]);
    }
}

Test(http_life, requests_that_are_no_queries_have_a_deadline)
{
    struct reply r = rig_ask(&rig, "GET", "/deadline", "", NULL, 0);
    cr_expect_str_eq(r.body, "120");
    reply_free(&r);
    r = rig_ask(&rig, "GET", "/deadline-query", "", NULL, 0);
    cr_expect_str_eq(r.body, "0");
    reply_free(&r);
}

/* --- limits of connections ------------------------------------------------------------------------------------- */

Test(http_stop, connections_past_the_limit_wait_until_another_ends)
{
    rig.cfg.http_conn_limit = 4;
    start();
    int fds[6];
    for (int i = 0; i < 6; i++) {
        fds[i] = begin_request(GET("/quick"));
        if (i < 4)
            expect_status(fds[i], 200);
    }
    struct pollfd p = {.fd = fds[4], .events = POLLIN};
    cr_expect_eq(poll(&p, 1, 300), 0, "the fifth waits");
    close(fds[0]);
    close(fds[1]);
    expect_status(fds[4], 200);
    expect_status(fds[5], 200);
    for (int i = 2; i < 6; i++)
        close(fds[i]);
    rig_stop(&rig);
}

Test(http_stop, a_slow_sender_is_cut_off)
{
    rig.cfg.http_read_timeout = 300;
    start();
    int slow = begin_request("POST /quick HTTP/1.1\r\nHost: x\r\nContent-Length: 1000\r\n\r\nab");
    int trickle = begin_request("POST /quick HTTP/1.1\r\nHost: x\r\nContent-Length: 1000\r\n\r\nab");
    int64_t before = clock_mono_ms();
    for (int i = 0; i < 12; i++) {
        rig_send(trickle, "x", 1);
        usleep(50000);
    }
    expect_status(slow, 0);
    expect_status(trickle, 0);
    cr_expect_lt(clock_mono_ms() - before, 3000);
    close(slow);
    close(trickle);
    EVENTUALLY(metrics_hold("cortex_inflight_requests{method=\"POST\",route=\"quick\"} 0\n"));
    rig_stop(&rig);
}

Test(http_stop, slow_headers_are_cut_off_by_a_limit_of_their_own)
{
    rig.cfg.http_read_header_timeout = 200;
    start();
    int slow = begin_request("POST /quick HTTP/1.1\r\nHost: x\r\nX-A");
    int body = begin_request("POST /quick HTTP/1.1\r\nHost: x\r\nContent-Length: 4\r\n\r\nab");
    int64_t before = clock_mono_ms();
    expect_status(slow, 0);
    cr_expect_lt(clock_mono_ms() - before, 3000);
    rig_send(body, "cd", 2); /* a slow body has -server.http-read-timeout */
    expect_status(body, 200);
    close(slow);
    close(body);
    rig_stop(&rig);
}

Test(http_stop, an_idle_connection_is_closed)
{
    rig.cfg.http_idle_timeout = 1000;
    start();
    int fd = begin_request(GET("/quick"));
    expect_status(fd, 200);
    int64_t before = clock_mono_ms();
    expect_status(fd, 0);
    cr_expect_lt(clock_mono_ms() - before, 5000);
    close(fd);
    rig_stop(&rig);
}

/* --- start and stop -------------------------------------------------------------------------------------------- */

static void expect_start_error(const char *address, int64_t port, const char *text)
{
    struct http_config cfg = rig.cfg;
    cfg.http_listen_address = address;
    cfg.http_listen_port = port;
    struct err err = ERR_NONE;
    struct http_server *s = http_server_new(&cfg, rig.limits, rig_tenant, NULL);
    http_server_add(s, "", routes, 1, NULL);
    cr_expect_not(http_server_start(s, &err));
    cr_expect_str_eq(err.text, text);
    http_server_free(s);
}

Test(http_stop, start_errors_name_the_address)
{
    start();
    char text[128];
    snprintf(text, sizeof text, "listen tcp 127.0.0.1:%d: address already in use", http_server_port(rig.server));
    expect_start_error("127.0.0.1", http_server_port(rig.server), text);
    expect_start_error("1.2.3.4.5", 80, "listen tcp 1.2.3.4.5:80: no such host");
    expect_start_error("192.0.2.1", 8080, "listen tcp 192.0.2.1:8080: cannot assign requested address");
    expect_start_error("127.0.0.1", 70000, "listen tcp 127.0.0.1:70000: invalid port");
    rig_stop(&rig);
}

Test(http_stop, the_empty_address_takes_all_of_the_machine)
{
    rig.cfg.http_listen_address = "";
    start();
    struct reply r = rig_ask(&rig, "GET", "/quick", "", NULL, 0);
    cr_expect_eq(r.status, 200);
    reply_free(&r);
    rig_stop(&rig);
}

static void *stop_it(void *arg)
{
    http_server_stop(rig.server, *(int64_t *)arg);
    return NULL;
}

Test(http_stop, a_stop_waits_for_running_requests_and_takes_no_new_ones)
{
    start();
    int idle = begin_request(GET("/quick"));
    expect_status(idle, 200);
    int fd = begin_request(GET("/hold"));
    EVENTUALLY(n_held == 1);
    int64_t timeout_ms = 10000;
    pthread_t t;
    pthread_create(&t, NULL, stop_it, &timeout_ms);
    struct sockaddr_in a = {.sin_family = AF_INET, .sin_port = htons(http_server_port(rig.server)), .sin_addr = {htonl(INADDR_LOOPBACK)}};
    bool refused = false;
    for (int i = 0; i < 1000 && !refused; i++) {
        int other = socket(AF_INET, SOCK_STREAM, 0);
        refused = connect(other, (struct sockaddr *)&a, sizeof a) != 0;
        close(other);
        usleep(1000);
    }
    cr_expect(refused);
    http_respond_status(release_one(), 200);
    struct reply r = rig_read(fd);
    cr_expect_eq(r.status, 200);
    cr_expect(strcasestr(r.head, "Connection: close"));
    reply_free(&r);
    pthread_join(t, NULL);
    expect_status(idle, 0);
    close(fd);
    close(idle);
    rig_stop(&rig);
}

Test(http_stop, what_still_runs_at_the_deadline_is_canceled_and_answered_and_may_answer_after_the_end)
{
    start();
    int fds[10];
    for (int i = 0; i < 10; i++)
        fds[i] = begin_request(i % 2 ? GET("/hold") : GET("/hold-inline"));
    EVENTUALLY(n_held == 10);
    int canceled = begin_request(GET("/until-canceled"));
    EVENTUALLY(metrics_hold("cortex_inflight_requests{method=\"GET\",route=\"until_canceled\"} 1\n"));
    http_server_stop(rig.server, 100);
    for (int i = 0; i < 10; i++) {
        expect_status(fds[i], 503);
        close(fds[i]);
    }
    expect_status(canceled, 503);
    close(canceled);
    cr_expect_eq(n_canceled, 1);
    http_respond_status(release_one(), 200);
    http_server_free(rig.server);
    for (struct http_request *req; (req = release_one());) {
        cr_expect(atomic_load(http_ctx(req)->canceled));
        cr_expect_eq(http_path(req).p[0], '/');
        http_respond_text_error(req, 200, "too late");
    }
    flag_set_free(rig.flags);
}

Test(http_stop, queued_requests_are_not_begun_after_the_deadline)
{
    start();
    int fds[4];
    for (int i = 0; i < 4; i++) {
        fds[i] = begin_request(GET("/block"));
        if (i < 2)
            EVENTUALLY(n_blocked == i + 1);
    }
    EVENTUALLY(metrics_hold("brunn_http_pool_queued_requests{pool=\"query\"} 2\n"));
    int64_t timeout_ms = 50;
    pthread_t t;
    pthread_create(&t, NULL, stop_it, &timeout_ms);
    for (int i = 0; i < 4; i++) {
        expect_status(fds[i], 503);
        close(fds[i]);
    }
    gate = true;
    pthread_join(t, NULL);
    cr_expect_eq(n_blocked, 2);
    rig_stop(&rig);
}

Test(http_stop, stopping_under_load_is_clean)
{
    for (int round = 0; round < 5; round++) {
        if (round)
            configure();
        start();
        answering = true;
        pthread_t answerers[2];
        for (int i = 0; i < 2; i++)
            pthread_create(&answerers[i], NULL, answerer, NULL);
        int fds[32];
        for (int i = 0; i < 32; i++)
            fds[i] = rig_connect(&rig);
        for (int k = 0; k < 20; k++)
            for (int i = 0; i < 32; i++)
                rig_send(fds[i], GET("/hold"), strlen(GET("/hold")));
        usleep((unsigned)round * 3000);
        http_server_stop(rig.server, round % 2 ? 0 : 1000);
        answering = false;
        for (int i = 0; i < 2; i++)
            pthread_join(answerers[i], NULL);
        for (int i = 0; i < 32; i++)
            close(fds[i]);
        http_server_free(rig.server);
        flag_set_free(rig.flags);
    }
}

Test(http_stop, who_reads_a_query_runs_it)
{
    rig.cfg.http_io_threads = 1;
    start();
    int fd = rig_connect(&rig);
    for (int i = 0; i < 200; i++)
        for (int k = 0; k < 2; k++) {
            const char *head = k ? GET("/ask-here") : GET("/read-here");
            rig_send(fd, head, strlen(head));
            expect_status(fd, 200);
        }
    cr_assert_gt(n_by_reader, 0); /* all but a few; which, is up to the kernel */
    close(fd);
    rig_stop(&rig);
}

Test(http_stop, a_long_query_holds_up_nobody_who_shares_its_lane)
{
    rig.cfg.http_io_threads = 1;
    start();
    for (unsigned round = 0; round < 3; round++) {
        gate = false;
        n_blocked = 0;
        int fd = begin_request(GET("/block"));
        EVENTUALLY(n_blocked == 1);
        for (int i = 0; i < 20; i++) {
            struct reply r = rig_ask(&rig, "GET", i % 2 ? "/quick" : "/read-here", "", NULL, 0);
            cr_assert_eq(r.status, 200);
            reply_free(&r);
            usleep(round * 10000); /* from the second round on it goes behind meanwhile */
        }
        gate = true;
        expect_status(fd, 204);
        close(fd);
    }
    rig_stop(&rig);
}
