/* Our client against our server, on loopback. */
#include <arpa/inet.h>
#include <criterion/criterion.h>
#include <sys/socket.h>

#include "base/metrics.h"
#include "net/rpc/rpc_int.h"
#include "tests/net/rpc/rpc_methods.h"

#define EVENTUALLY(cond)                                                                                               \
    do {                                                                                                               \
        int64_t until_ = clock_mono_ms() + 10000;                                                                      \
        while (!(cond) && clock_mono_ms() < until_)                                                                    \
            usleep(1000);                                                                                              \
        cr_assert(cond);                                                                                               \
    } while (0)

static bool metrics_hold(const char *text)
{
    struct buf out = {0};
    metrics_write_text(&out, NULL, 0);
    bool found = strstr(buf_cstr(&out), text) != NULL;
    buf_release(&out);
    return found;
}

/* One call that must end with this code and, unless NULL, text. */
static void expect(struct rpc_rig *r, const char *method, struct slice request, int code, const char *text)
{
    struct buf answer = {0};
    struct rpc_status st = RPC_STATUS_NONE;
    bool fine = rig_ask(r, method, request, NULL, &answer, &st);
    cr_assert_eq(st.code, code, "code %d: %s", st.code, st.text);
    cr_assert_eq(fine, code == RPC_OK);
    if (text)
        cr_assert_str_eq(st.text, text);
    buf_release(&answer);
    rpc_status_release(&st);
}

Test(rpc, a_unary_call_is_answered)
{
    struct rpc_rig r;
    rig_new(&r);
    rig_start(&r);
    const char *const methods[] = {"/test.Test/Echo", "/test.Test/Nap", "/test.Test/Later"};
    for (size_t i = 0; i < ARRAY_LEN(methods); i++) {
        struct buf answer = {0};
        struct rpc_status st = RPC_STATUS_NONE;
        cr_assert(rig_ask(&r, methods[i], SL("hello"), NULL, &answer, &st), "%s", st.text);
        cr_assert(slice_eq(buf_slice(&answer), SL("hello")));
        buf_release(&answer);
        rpc_status_release(&st);
    }
    expect(&r, "/test.Test/Echo", SL(""), RPC_OK, "");
    rig_stop(&r);
}

Test(rpc, metadata_reach_the_handler)
{
    struct rpc_rig r;
    rig_new(&r);
    rig_start(&r);
    const struct rpc_kv metadata[] = {{SL("x-scope-orgid"), SL("team-a")}, {SL("other"), SL("b")}};
    const struct rpc_args args = {.method = "/test.Test/Tenant", .metadata = metadata, .n_metadata = 2};
    struct buf answer = {0};
    struct rpc_status st = RPC_STATUS_NONE;
    cr_assert(rpc_call(r.client, &args, &answer, &st));
    cr_assert(slice_eq(buf_slice(&answer), SL("team-a/b")));
    buf_release(&answer);
    rpc_status_release(&st);
    rig_stop(&r);
}

Test(rpc, errors_carry_code_text_and_details)
{
    struct rpc_rig r;
    rig_new(&r);
    rig_start(&r);
    struct buf answer = {0};
    struct rpc_status st = RPC_STATUS_NONE;
    cr_assert(!rig_ask(&r, "/test.Test/Refuse", SL(""), NULL, &answer, &st));
    cr_assert_eq(st.code, RPC_FAILED_PRECONDITION);
    cr_assert_str_eq(st.text, "100% \"f\xc3\xbcr\"\nnothing");
    cr_assert(slice_eq(buf_slice(&st.details), SL("\x08\x09\x00\xff")));
    rpc_status_release(&st);
    expect(&r, "/test.Test/Http", SL(""), 422, "unprocessable");
    expect(&r, "/test.Test/Missing", SL(""), RPC_UNIMPLEMENTED, "unknown method /test.Test/Missing");
    rig_stop(&r);
}

Test(rpc, health_is_served)
{
    struct rpc_rig r;
    rig_new(&r);
    rig_start(&r);
    const struct slice known[] = {SL(""), SL("\x0a\x09test.Test"), SL("\x0a\x15grpc.health.v1.Health")};
    for (size_t i = 0; i < ARRAY_LEN(known); i++) {
        struct buf answer = {0};
        struct rpc_status st = RPC_STATUS_NONE;
        cr_assert(rig_ask(&r, "/grpc.health.v1.Health/Check", known[i], NULL, &answer, &st), "%s", st.text);
        cr_assert(slice_eq(buf_slice(&answer), SL("\x08\x01")));
        buf_release(&answer);
    }
    rpc_server_set_serving(r.server, false);
    struct buf answer = {0};
    struct rpc_status st = RPC_STATUS_NONE;
    cr_assert(rig_ask(&r, "/grpc.health.v1.Health/Check", SL(""), NULL, &answer, &st));
    cr_assert(slice_eq(buf_slice(&answer), SL("\x08\x02")));
    buf_release(&answer);
    expect(&r, "/grpc.health.v1.Health/Check", SL("\x0a\x03xyz"), RPC_NOT_FOUND, "unknown service");
    expect(&r, "/grpc.health.v1.Health/Check", SL("\x0a\x7fxyz"), RPC_INTERNAL, NULL);
    expect(&r, "/grpc.health.v1.Health/Watch", SL(""), RPC_UNIMPLEMENTED, NULL);
    rig_stop(&r);
}

Test(rpc, ten_thousand_messages_come_in_order)
{
    struct rpc_rig r;
    rig_new(&r);
    rig_start(&r);
    const struct rpc_args args = {.method = "/test.Test/Count", .request = SL("10000 2000")};
    struct rpc_stream *stream = rpc_stream_open(r.client, &args);
    struct rpc_status st = RPC_STATUS_NONE;
    struct buf msg = {0};
    int n = 0;
    for (; rpc_stream_next(stream, &msg, &st) == RPC_NEXT_MESSAGE; n++) {
        cr_assert_eq(msg.n, 2000);
        cr_assert_eq(atoi(msg.p), n);
        buf_release(&msg);
    }
    cr_assert_eq(st.code, RPC_OK, "%s", st.text);
    cr_assert_eq(n, 10000);
    cr_assert_eq(rpc_stream_next(stream, &msg, &st), RPC_NEXT_END);
    rpc_stream_close(stream);
    rig_stop(&r);
}

Test(rpc, a_stream_kept_open_is_answered_and_lives_until_it_is_closed)
{
    struct rpc_rig r;
    rig_new(&r);
    r.client_cfg.call_timeout_ms = 50; /* is not for such streams */
    rig_start(&r);
    const struct rpc_args hang = {.method = "/test.Test/Hang", .request = SL("x"), .keep_open = true};
    struct rpc_stream *stream = rpc_stream_open(r.client, &hang);
    EVENTUALLY(atomic_load(&r.seen.running) == 1);
    usleep(150000);
    cr_assert_eq(atomic_load(&r.seen.running), 1);
    rpc_stream_close(stream);
    EVENTUALLY(atomic_load(&r.seen.canceled) == 1);
    rig_stop(&r);
}

Test(rpc, a_stream_kept_open_ends_when_the_server_ends_it)
{
    struct rpc_rig r;
    rig_new(&r);
    r.cfg.grpc_max_concurrent_streams = 4;
    rig_start(&r);
    for (int i = 0; i < 20; i++) { /* an ended stream gives its place back */
        const struct rpc_args args = {.method = "/test.Test/Count", .request = SL("3 10"), .keep_open = true};
        struct rpc_stream *stream = rpc_stream_open(r.client, &args);
        struct rpc_status st = RPC_STATUS_NONE;
        struct buf msg = {0};
        int n = 0;
        for (; rpc_stream_next(stream, &msg, &st) == RPC_NEXT_MESSAGE; n++)
            buf_release(&msg);
        cr_assert_eq(n, 3);
        cr_assert_eq(st.code, RPC_OK, "%s", st.text);
        rpc_stream_close(stream);
    }
    expect(&r, "/test.Test/Refuse", SL(""), RPC_FAILED_PRECONDITION, NULL);
    rig_stop(&r);
}

/* Three calls that end one after the other, and one that never does. */
Test(rpc, one_thread_waits_for_many_streams)
{
    struct rpc_rig r;
    rig_new(&r);
    rig_start(&r);
    static const char *const methods[] = {"/test.Test/Hang", "/test.Test/Nap", "/test.Test/Later", "/test.Test/Echo"};
    struct rpc_stream *streams[5] = {0};
    for (size_t i = 0; i < 4; i++)
        streams[i] = rpc_stream_open(r.client, &(struct rpc_args){.method = methods[i], .request = SL("x")});
    int messages = 0;
    for (int left = 3; left > 0;) {
        int i = rpc_stream_wait_any(streams, 5, 10000);
        cr_assert(i >= 1 && i <= 3, "%d", i);
        struct rpc_status st = RPC_STATUS_NONE;
        struct buf msg = {0};
        if (rpc_stream_next(streams[i], &msg, &st) == RPC_NEXT_MESSAGE) {
            messages++;
            buf_release(&msg);
            continue;
        }
        cr_assert_eq(st.code, RPC_OK, "%s", st.text);
        rpc_stream_close(streams[i]);
        streams[i] = NULL;
        left--;
    }
    cr_assert_eq(messages, 3);
    int64_t before_ms = clock_mono_ms();
    cr_assert_eq(rpc_stream_wait_any(streams, 5, 50), -1);
    cr_assert_geq(clock_mono_ms() - before_ms, 49);
    cr_assert_eq(rpc_stream_wait_any(streams, 5, 0), -1);
    rpc_stream_close(streams[0]);
    rig_stop(&r);
}

Test(rpc, a_cancellation_and_a_deadline_wake_who_waits_for_many)
{
    struct rpc_rig r;
    rig_new(&r);
    rig_start(&r);
    atomic_bool canceled = false;
    const struct ctx ctx = {.deadline_ms = clock_mono_ms() + 100};
    const struct ctx other = {.canceled = &canceled};
    struct rpc_stream *streams[2];
    streams[0] = rpc_stream_open(r.client, &(struct rpc_args){.method = "/test.Test/Hang", .ctx = &other});
    streams[1] = rpc_stream_open(r.client, &(struct rpc_args){.method = "/test.Test/Hang", .ctx = &ctx});
    cr_assert_eq(rpc_stream_wait_any(streams, 2, 10000), 1);
    atomic_store(&canceled, true);
    cr_assert_eq(rpc_stream_wait_any(streams, 1, 10000), 0);
    static const int codes[] = {RPC_CANCELED, RPC_DEADLINE_EXCEEDED};
    for (size_t i = 0; i < 2; i++) {
        struct rpc_status st = RPC_STATUS_NONE;
        struct buf msg = {0};
        cr_assert_eq(rpc_stream_next(streams[i], &msg, &st), RPC_NEXT_END);
        cr_assert_eq(st.code, codes[i], "%s", st.text);
        rpc_stream_close(streams[i]);
    }
    rig_stop(&r);
}

/* A listener whose backlog is full: connecting gets no answer, as from a machine that is gone. */
Test(rpc, opening_a_stream_does_not_wait_for_a_connection)
{
    int fd = socket(AF_INET, SOCK_STREAM, 0);
    struct sockaddr_in addr = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t n = sizeof addr;
    cr_assert_eq(bind(fd, (struct sockaddr *)&addr, sizeof addr), 0);
    cr_assert_eq(listen(fd, 0), 0);
    cr_assert_eq(getsockname(fd, (struct sockaddr *)&addr, &n), 0);
    int fillers[8];
    for (size_t i = 0; i < ARRAY_LEN(fillers); i++) {
        fillers[i] = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0);
        connect(fillers[i], (struct sockaddr *)&addr, sizeof addr);
    }
    struct rpc_rig r;
    rig_new(&r);
    rig_start(&r);
    char address[64];
    snprintf(address, sizeof address, "127.0.0.1:%d", ntohs(addr.sin_port));
    struct rpc_client *frozen = rpc_client_new(r.clients, address);
    int64_t before_ms = clock_mono_ms();
    struct rpc_stream *streams[3];
    streams[0] = rpc_stream_open(frozen, &(struct rpc_args){.method = "/test.Test/Echo"});
    streams[1] = rpc_stream_open(frozen, &(struct rpc_args){.method = "/test.Test/Echo"});
    streams[2] = rpc_stream_open(r.client, &(struct rpc_args){.method = "/test.Test/Echo"});
    cr_assert_eq(rpc_stream_wait_any(streams, 3, 3000), 2);
    cr_assert_lt(clock_mono_ms() - before_ms, 3000);
    rpc_stream_close(streams[0]);
    rpc_client_free(frozen); /* ends the one that waits still */
    struct rpc_status st = RPC_STATUS_NONE;
    struct buf msg = {0};
    cr_assert_eq(rpc_stream_next(streams[1], &msg, &st), RPC_NEXT_END);
    cr_assert_eq(st.code, RPC_UNAVAILABLE);
    rpc_stream_close(streams[1]);
    rpc_stream_close(streams[2]);
    for (size_t i = 0; i < ARRAY_LEN(fillers); i++)
        close(fillers[i]);
    close(fd);
    rig_stop(&r);
}

Test(rpc, requests_may_be_compressed)
{
    static const char *const names[] = {"gzip", "snappy"};
    for (size_t i = 0; i < ARRAY_LEN(names); i++) {
        struct rpc_rig r;
        rig_new(&r);
        r.client_cfg.compression = names[i];
        struct err err = ERR_NONE;
        cr_assert(rpc_client_config_check(&r.client_cfg, &err));
        rig_start(&r);
        struct buf request = {0};
        for (int k = 0; k < 50000; k++)
            buf_printf(&request, "line %d\n", k * 7919);
        static const size_t sizes[] = {0, 1, 65535, 65536, 65537, 400000};
        for (size_t k = 0; k < ARRAY_LEN(sizes); k++) {
            struct slice part = slice_make(request.p, sizes[k]);
            struct buf answer = {0};
            struct rpc_status st = RPC_STATUS_NONE;
            cr_assert(rig_ask(&r, "/test.Test/Echo", part, NULL, &answer, &st), "%s", st.text);
            cr_assert(slice_eq(buf_slice(&answer), part));
            buf_release(&answer);
        }
        buf_release(&request);
        rig_stop(&r);
    }
    struct err err = ERR_NONE;
    cr_assert_not(rpc_client_config_check(&(struct rpc_client_config){.compression = "zstd"}, &err));
    cr_assert_str_eq(err.text, "unsupported compression type: zstd");
}

Test(rpc, a_compressed_request_may_not_grow_past_the_limit)
{
    static const char *const names[] = {"gzip", "snappy"};
    for (size_t i = 0; i < ARRAY_LEN(names); i++) {
        struct rpc_rig r;
        rig_new(&r);
        r.client_cfg.compression = names[i];
        r.cfg.grpc_max_recv_msg_bytes = 100000;
        rig_start(&r);
        char *zeros = calloc(1, 100001);
        expect(&r, "/test.Test/Echo", slice_make(zeros, 100000), RPC_OK, NULL);
        expect(&r, "/test.Test/Echo", slice_make(zeros, 100001), RPC_RESOURCE_EXHAUSTED,
               "grpc: received message after decompression larger than max (100000)");
        free(zeros);
        rig_stop(&r);
    }
}

Test(rpc, a_reader_that_does_not_come_makes_the_sender_wait)
{
    struct rpc_rig r;
    rig_new(&r);
    rig_start(&r);
    const struct rpc_args args = {.method = "/test.Test/Count", .request = SL("1000 100000")};
    struct rpc_stream *stream = rpc_stream_open(r.client, &args);
    struct buf msg = {0};
    struct rpc_status st = RPC_STATUS_NONE;
    cr_assert_eq(rpc_stream_next(stream, &msg, &st), RPC_NEXT_MESSAGE);
    buf_release(&msg);
    usleep(300000);
    int sent = atomic_load(&r.seen.sent);
    cr_assert_lt(sent, 100, "%d of 1000 were taken though nobody read", sent);
    expect(&r, "/test.Test/Echo", SL("others go on"), RPC_OK, "");
    int n = 1;
    for (; rpc_stream_next(stream, &msg, &st) == RPC_NEXT_MESSAGE; n++)
        buf_release(&msg);
    cr_assert_eq(st.code, RPC_OK);
    cr_assert_eq(n, 1000);
    rpc_stream_close(stream);
    rig_stop(&r);
}

Test(rpc, fifty_megabytes_go_both_ways)
{
    struct rpc_rig r;
    rig_new(&r);
    rig_start(&r);
    size_t n = 50u << 20;
    char *big = malloc(n);
    for (size_t i = 0; i < n; i++)
        big[i] = (char)(i * 31 >> 3);
    struct buf answer = {0};
    struct rpc_status st = RPC_STATUS_NONE;
    cr_assert(rig_ask(&r, "/test.Test/Echo", slice_make(big, n), NULL, &answer, &st), "%s", st.text);
    cr_assert(slice_eq(buf_slice(&answer), slice_make(big, n)));
    buf_release(&answer);
    free(big);
    rig_stop(&r);
}

Test(rpc, messages_past_the_limits_are_refused)
{
    struct rpc_rig r;
    rig_new(&r);
    r.cfg.grpc_max_recv_msg_bytes = 1000;
    r.cfg.grpc_max_send_msg_bytes = 2000;
    r.client_cfg.max_recv_msg_bytes = 1500;
    rig_start(&r);
    char body[200000] = {0};
    expect(&r, "/test.Test/Echo", slice_make(body, 1000), RPC_OK, "");
    expect(&r, "/test.Test/Echo", slice_make(body, 1001), RPC_RESOURCE_EXHAUSTED,
           "grpc: received message larger than max (1001 vs. 1000)");
    expect(&r, "/test.Test/Echo", slice_make(body, sizeof body), RPC_RESOURCE_EXHAUSTED, NULL);
    const char *const requests[] = {"1 1501", "1 2001"};
    for (size_t i = 0; i < ARRAY_LEN(requests); i++) {
        const struct rpc_args args = {.method = "/test.Test/Count", .request = slice_of(requests[i])};
        struct rpc_stream *stream = rpc_stream_open(r.client, &args);
        struct rpc_status st = RPC_STATUS_NONE;
        struct buf msg = {0};
        cr_assert_eq(rpc_stream_next(stream, &msg, &st), RPC_NEXT_END);
        cr_assert_eq(st.code, RPC_RESOURCE_EXHAUSTED, "%d %s", st.code, st.text);
        rpc_status_release(&st);
        rpc_stream_close(stream);
    }
    expect(&r, "/test.Test/Echo", SL("still here"), RPC_OK, "");
    rig_stop(&r);
}

Test(rpc, memory_of_all_requests_is_bounded)
{
    struct rpc_rig r;
    rig_new(&r);
    r.cfg.grpc_max_request_memory_bytes = 10000;
    rig_start(&r);
    char body[20000] = {0};
    for (int i = 0; i < 5; i++) {
        expect(&r, "/test.Test/Echo", slice_make(body, sizeof body), RPC_RESOURCE_EXHAUSTED, NULL);
        expect(&r, "/test.Test/Echo", slice_make(body, 9000), RPC_OK, "");
        EVENTUALLY(atomic_load(&r.server->memory.used_bytes) == 0);
    }
    rig_stop(&r);
}

Test(rpc, a_deadline_ends_both_sides)
{
    struct rpc_rig r;
    rig_new(&r);
    rig_start(&r);
    struct ctx ctx = {.deadline_ms = clock_mono_ms() + 100};
    struct buf answer = {0};
    struct rpc_status st = RPC_STATUS_NONE;
    cr_assert(!rig_ask(&r, "/test.Test/Hang", SL(""), &ctx, &answer, &st));
    cr_assert_eq(st.code, RPC_DEADLINE_EXCEEDED, "%s", st.text);
    cr_assert_leq(clock_mono_ms(), ctx.deadline_ms + 1000);
    EVENTUALLY(atomic_load(&r.seen.canceled) == 1);
    EVENTUALLY(metrics_hold("cortex_inflight_requests{method=\"gRPC\",route=\"/test.Test/Hang\"} 0"));
    rig_stop(&r);
}

struct hanging {
    struct rpc_rig *rig;
    atomic_bool canceled;
    struct rpc_status st;
};

static void *hang_here(void *arg)
{
    struct hanging *h = arg;
    struct ctx ctx = {.canceled = &h->canceled};
    struct buf answer = {0};
    rig_ask(h->rig, "/test.Test/Hang", SL(""), &ctx, &answer, &h->st);
    buf_release(&answer);
    return NULL;
}

Test(rpc, a_canceled_call_cancels_its_handler)
{
    struct rpc_rig r;
    rig_new(&r);
    rig_start(&r);
    struct hanging h = {.rig = &r};
    pthread_t thread;
    pthread_create(&thread, NULL, hang_here, &h);
    EVENTUALLY(atomic_load(&r.seen.running) == 1);
    atomic_store(&h.canceled, true);
    pthread_join(thread, NULL);
    cr_assert_eq(h.st.code, RPC_CANCELED);
    EVENTUALLY(atomic_load(&r.seen.canceled) == 1);
    EVENTUALLY(metrics_hold("route=\"/test.Test/Hang\",status_code=\"Canceled\",ws=\"false\"} 1"));
    rig_stop(&r);
}

Test(rpc, a_closed_stream_wakes_its_sender)
{
    struct rpc_rig r;
    rig_new(&r);
    rig_start(&r);
    const struct rpc_args args = {.method = "/test.Test/Count", .request = SL("1000000 100000")};
    struct rpc_stream *stream = rpc_stream_open(r.client, &args);
    struct buf msg = {0};
    struct rpc_status st = RPC_STATUS_NONE;
    cr_assert_eq(rpc_stream_next(stream, &msg, &st), RPC_NEXT_MESSAGE);
    buf_release(&msg);
    rpc_stream_close(stream);
    EVENTUALLY(atomic_load(&r.seen.canceled) == 1);
    rig_stop(&r);
}

Test(rpc, a_lost_connection_cancels_its_handlers)
{
    struct rpc_rig r;
    rig_new(&r);
    rig_start(&r);
    struct hanging h = {.rig = &r};
    pthread_t thread;
    pthread_create(&thread, NULL, hang_here, &h);
    EVENTUALLY(atomic_load(&r.seen.running) == 1);
    rpc_client_free(r.client);
    r.client = NULL;
    pthread_join(thread, NULL);
    cr_assert_eq(h.st.code, RPC_UNAVAILABLE);
    EVENTUALLY(atomic_load(&r.seen.canceled) == 1);
    rig_stop(&r);
}

Test(rpc, a_stop_answers_calls_that_run)
{
    struct rpc_rig r;
    rig_new(&r);
    rig_start(&r);
    struct hanging h = {.rig = &r};
    pthread_t thread;
    pthread_create(&thread, NULL, hang_here, &h);
    EVENTUALLY(atomic_load(&r.seen.running) == 1);
    rpc_server_stop(r.server, 50);
    pthread_join(thread, NULL);
    cr_assert_eq(h.st.code, RPC_UNAVAILABLE);
    cr_assert_str_eq(h.st.text, "the server is stopping");
    cr_assert_eq(atomic_load(&r.seen.canceled), 1);
    rig_stop(&r);
}

struct napping {
    struct rpc_rig *rig;
    struct rpc_status st;
};

static void *nap_here(void *arg)
{
    struct napping *n = arg;
    struct buf answer = {0};
    rig_ask(n->rig, "/test.Test/Nap", SL("x"), NULL, &answer, &n->st);
    buf_release(&answer);
    return NULL;
}

Test(rpc, a_stop_lets_short_calls_end)
{
    struct rpc_rig r;
    rig_new(&r);
    rig_start(&r);
    expect(&r, "/test.Test/Echo", SL(""), RPC_OK, "");
    struct napping n[4];
    pthread_t threads[4];
    for (size_t i = 0; i < 4; i++) {
        n[i] = (struct napping){.rig = &r};
        pthread_create(&threads[i], NULL, nap_here, &n[i]);
    }
    EVENTUALLY(metrics_hold("cortex_inflight_requests{method=\"gRPC\",route=\"/test.Test/Nap\"} 4"));
    rpc_server_stop(r.server, 5000);
    for (size_t i = 0; i < 4; i++) {
        pthread_join(threads[i], NULL);
        cr_assert_eq(n[i].st.code, RPC_OK, "%d %s", n[i].st.code, n[i].st.text);
    }
    rig_stop(&r);
}

Test(rpc, two_hundred_calls_share_a_connection)
{
    struct rpc_rig r;
    rig_new(&r);
    r.cfg.grpc_max_concurrent_streams = 100;
    rig_start(&r);
    static struct napping n[200];
    pthread_t threads[200];
    for (size_t i = 0; i < 200; i++) {
        n[i] = (struct napping){.rig = &r};
        pthread_create(&threads[i], NULL, nap_here, &n[i]);
    }
    for (size_t i = 0; i < 200; i++) {
        pthread_join(threads[i], NULL);
        cr_assert_eq(n[i].st.code, RPC_OK, "%d %s", n[i].st.code, n[i].st.text);
    }
    cr_assert(metrics_hold("cortex_tcp_connections{protocol=\"grpc\"} 1"));
    rig_stop(&r);
}

Test(rpc, a_full_queue_is_resource_exhausted)
{
    struct rpc_rig r;
    rig_new(&r);
    r.cfg.grpc_workers = 1;
    r.cfg.grpc_queue = 1;
    rig_start(&r);
    struct hanging h[2];
    pthread_t threads[2];
    for (size_t i = 0; i < 2; i++) {
        h[i] = (struct hanging){.rig = &r};
        pthread_create(&threads[i], NULL, hang_here, &h[i]);
        if (i == 0)
            EVENTUALLY(atomic_load(&r.seen.running) == 1);
    }
    EVENTUALLY(metrics_hold("cortex_inflight_requests{method=\"gRPC\",route=\"/test.Test/Hang\"} 2"));
    usleep(50000);
    expect(&r, "/test.Test/Echo", SL("x"), RPC_RESOURCE_EXHAUSTED, "too many outstanding requests");
    for (size_t i = 0; i < 2; i++)
        atomic_store(&h[i].canceled, true);
    for (size_t i = 0; i < 2; i++)
        pthread_join(threads[i], NULL);
    rig_stop(&r);
}

Test(rpc, a_refused_connection_is_unavailable_and_a_new_server_is_found)
{
    struct rpc_rig r;
    rig_new(&r);
    rig_start(&r);
    expect(&r, "/test.Test/Echo", SL("x"), RPC_OK, "");
    r.cfg.grpc_listen_port = rpc_server_port(r.server);
    rpc_server_stop(r.server, 100);
    rpc_server_free(r.server);
    char text[128];
    snprintf(text, sizeof text, "connection error: dial tcp %s: connect: connection refused", r.address);
    EVENTUALLY(({
        struct buf answer = {0};
        struct rpc_status st = RPC_STATUS_NONE;
        cr_assert(!rig_ask(&r, "/test.Test/Echo", SL("x"), NULL, &answer, &st));
        cr_assert_eq(st.code, RPC_UNAVAILABLE);
        strcmp(st.text, text) == 0;
    }));
    rig_serve(&r);
    EVENTUALLY(({
        struct buf answer = {0};
        struct rpc_status st = RPC_STATUS_NONE;
        bool fine = rig_ask(&r, "/test.Test/Echo", SL("x"), NULL, &answer, &st);
        buf_release(&answer);
        fine;
    }));
    rig_stop(&r);
}

Test(rpc, an_old_connection_is_replaced_without_a_failed_call)
{
    struct rpc_rig r;
    rig_new(&r);
    r.cfg.grpc_max_connection_age = 1;
    rig_start(&r);
    int64_t until = clock_mono_ms() + 3500;
    while (clock_mono_ms() < until)
        expect(&r, "/test.Test/Echo", SL("x"), RPC_OK, "");
    rig_stop(&r);
}

Test(rpc, a_peer_that_does_not_answer_pings_is_closed)
{
    struct rpc_rig r;
    rig_new(&r);
    r.cfg.grpc_keepalive_time = 100;
    r.cfg.grpc_keepalive_timeout = 100;
    rig_start(&r);
    int fd = socket(AF_INET, SOCK_STREAM, 0);
    struct sockaddr_in a = {
        .sin_family = AF_INET, .sin_port = htons(rpc_server_port(r.server)), .sin_addr = {htonl(INADDR_LOOPBACK)}};
    cr_assert_eq(connect(fd, (struct sockaddr *)&a, sizeof a), 0);
    char piece[256];
    ssize_t n;
    do
        n = recv(fd, piece, sizeof piece, 0);
    while (n > 0);
    cr_assert_eq(n, 0);
    close(fd);
    expect(&r, "/test.Test/Echo", SL("x"), RPC_OK, "");
    sleep(3); /* our client answers its pings */
    expect(&r, "/test.Test/Echo", SL("x"), RPC_OK, "");
    rig_stop(&r);
}

Test(rpc, a_port_in_use_is_a_start_error)
{
    struct rpc_rig r;
    rig_new(&r);
    rig_start(&r);
    struct rpc_config cfg = r.cfg;
    cfg.grpc_listen_port = rpc_server_port(r.server);
    struct rpc_server *second = rpc_server_new(&cfg);
    struct err err = ERR_NONE;
    char text[128];
    snprintf(text, sizeof text, "listen tcp 127.0.0.1:%d: address already in use", (int)cfg.grpc_listen_port);
    cr_assert(!rpc_server_start(second, &err));
    cr_assert_str_eq(err.text, text);
    rpc_server_free(second);
    rig_stop(&r);
}

Test(rpc, answers_are_counted_by_method_and_code)
{
    struct rpc_rig r;
    rig_new(&r);
    rig_start(&r);
    expect(&r, "/test.Test/Echo", SL("abc"), RPC_OK, "");
    expect(&r, "/test.Test/Refuse", SL(""), RPC_FAILED_PRECONDITION, NULL);
    expect(&r, "/test.Test/Nobody", SL(""), RPC_UNIMPLEMENTED, NULL);
    cr_assert(metrics_hold("cortex_request_duration_seconds_count{method=\"gRPC\",route=\"/test.Test/"
                           "Echo\",status_code=\"OK\",ws=\"false\"} 1"));
    cr_assert(metrics_hold("route=\"/test.Test/Refuse\",status_code=\"FailedPrecondition\",ws=\"false\"} 1"));
    cr_assert(metrics_hold("route=\"other\",status_code=\"Unimplemented\",ws=\"false\"} 1"));
    cr_assert(metrics_hold("cortex_request_message_bytes_sum{method=\"gRPC\",route=\"/test.Test/Echo\"} 3"));
    cr_assert(metrics_hold("cortex_response_message_bytes_sum{method=\"gRPC\",route=\"/test.Test/Echo\"} 3"));
    cr_assert(metrics_hold("cortex_inflight_requests{method=\"gRPC\",route=\"/test.Test/Echo\"} 0"));
    rig_stop(&r);
}
