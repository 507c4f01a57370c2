/* The cluster's label on gRPC calls; status and details as a live Mimir 3 gave them (grpc/50 and 51 of its captures). */
#include <criterion/criterion.h>

#include "base/metrics.h"
#include "net/http.h"
#include "tests/net/rpc/rpc_methods.h"

static const char *const additional[] = {"old-name"};

struct cluster_rig {
    struct rpc_rig rpc;
    struct http_config common;
};

static void setup(struct cluster_rig *r, const char *client_label)
{
    rig_new(&r->rpc);
    r->common = (struct http_config){.cluster_validation_label = "probe-c"};
    r->rpc.cfg.grpc_cluster_validation_enabled = true;
    r->rpc.client_cfg.cluster_label = client_label;
}

static void begin(struct cluster_rig *r)
{
    struct err err = ERR_NONE;
    r->rpc.server = rpc_server_new(&r->rpc.cfg);
    rpc_server_set_common(r->rpc.server, &r->common);
    rpc_server_add(r->rpc.server, test_methods, ARRAY_LEN(test_methods), &r->rpc.seen);
    cr_assert(rpc_server_start(r->rpc.server, &err), "%s", err.text);
    snprintf(r->rpc.address, sizeof r->rpc.address, "127.0.0.1:%d", rpc_server_port(r->rpc.server));
    r->rpc.clients = rpc_clients_new(&r->rpc.client_cfg);
    r->rpc.client = rpc_client_new(r->rpc.clients, r->rpc.address);
}

static void expect(struct cluster_rig *r, const char *method, struct slice request, int code, const char *text)
{
    struct buf answer = {0};
    struct rpc_status st = RPC_STATUS_NONE;
    rig_ask(&r->rpc, method, request, NULL, &answer, &st);
    cr_assert_eq(st.code, code, "%d %s", st.code, st.text);
    if (text)
        cr_assert_str_eq(st.text, text);
    buf_release(&answer);
    rpc_status_release(&st);
}

Test(rpc_cluster, the_own_label_is_good_and_additional_ones_too)
{
    static const char *const good[] = {"probe-c", "old-name"};
    for (size_t i = 0; i < ARRAY_LEN(good); i++) {
        struct cluster_rig r;
        setup(&r, good[i]);
        r.common.cluster_validation_additional_labels = (struct flag_list){.items = (const char **)(uintptr_t)additional, .n = 1};
        begin(&r);
        expect(&r, "/test.Test/Echo", SL("x"), RPC_OK, NULL);
        rig_stop(&r.rpc);
    }
}

Test(rpc_cluster, a_wrong_label_and_none_are_refused_with_mimirs_details)
{
    static const char details[] =
        "\x08\x09\x12\x5c"
        "rejected request with wrong cluster validation label \"other\" - it should be one of [probe-c]"
        "\x1a\x2f\x0a\x29type.googleapis.com/grpcutil.ErrorDetails\x12\x02\x08\x01";
    struct cluster_rig r;
    setup(&r, "other");
    begin(&r);
    struct buf answer = {0};
    struct rpc_status st = RPC_STATUS_NONE;
    cr_assert(!rig_ask(&r.rpc, "/test.Test/Echo", SL("x"), NULL, &answer, &st));
    cr_assert_eq(st.code, RPC_FAILED_PRECONDITION);
    cr_assert_str_eq(st.text, "rejected request with wrong cluster validation label \"other\" - it should be one of [probe-c]");
    cr_assert(slice_eq(buf_slice(&st.details), slice_make(details, sizeof details - 1)));
    rpc_status_release(&st);
    struct buf text = {0};
    metrics_write_text(&text, NULL, 0);
    cr_assert(strstr(buf_cstr(&text), "cortex_server_invalid_cluster_validation_label_requests_total{protocol=\"grpc\",method=\"/test.Test/Echo\","
                                      "cluster_validation_label=\"probe-c\",request_cluster_validation_label=\"other\"} 1"));
    buf_release(&text);
    rig_stop(&r.rpc);
    setup(&r, NULL);
    begin(&r);
    expect(&r, "/test.Test/Echo", SL("x"), RPC_FAILED_PRECONDITION,
           "rejected request with empty cluster validation label - it should be one of [probe-c]");
    rig_stop(&r.rpc);
}

Test(rpc_cluster, streams_and_health_need_no_label)
{
    struct cluster_rig r;
    setup(&r, NULL);
    begin(&r);
    expect(&r, "/test.Test/Count", SL("1 5"), RPC_OK, NULL);
    expect(&r, "/grpc.health.v1.Health/Check", SL(""), RPC_OK, NULL);
    rig_stop(&r.rpc);
}

Test(rpc_cluster, only_unary_calls_carry_the_label)
{
    struct cluster_rig r;
    setup(&r, "probe-c");
    begin(&r);
    for (int unary = 0; unary < 2; unary++) {
        const struct rpc_args args = {.method = "/test.Test/Echo", .request = SL("x"), .unary = unary};
        struct rpc_stream *stream = rpc_stream_open(r.rpc.client, &args);
        struct rpc_status st = RPC_STATUS_NONE;
        struct buf msg = {0};
        while (rpc_stream_next(stream, &msg, &st) == RPC_NEXT_MESSAGE)
            buf_release(&msg);
        cr_assert_eq(st.code, unary ? RPC_OK : RPC_FAILED_PRECONDITION, "%s", st.text);
        rpc_status_release(&st);
        rpc_stream_close(stream);
    }
    rig_stop(&r.rpc);
}

Test(rpc_cluster, soft_validation_serves_all)
{
    struct cluster_rig r;
    setup(&r, "other");
    r.rpc.cfg.grpc_cluster_validation_soft = true;
    begin(&r);
    expect(&r, "/test.Test/Echo", SL("x"), RPC_OK, NULL);
    rig_stop(&r.rpc);
}

Test(rpc_cluster, flags_that_make_no_sense_are_refused)
{
    static const struct {
        const char *label;
        bool enabled, soft;
        const char *text;
    } cases[] = {
        {"", true, false, "cluster validation: grpc: validation cannot be enabled if cluster validation label is not configured"},
        {"a", false, true, "cluster validation: grpc: validation must be enabled if soft validation is configured"},
    };
    for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
        struct cluster_rig r;
        setup(&r, NULL);
        r.common.cluster_validation_label = cases[i].label;
        r.rpc.cfg.grpc_cluster_validation_enabled = cases[i].enabled;
        r.rpc.cfg.grpc_cluster_validation_soft = cases[i].soft;
        struct err err = ERR_NONE;
        r.rpc.server = rpc_server_new(&r.rpc.cfg);
        rpc_server_set_common(r.rpc.server, &r.common);
        cr_assert_not(rpc_server_start(r.rpc.server, &err));
        cr_assert_str_eq(err.text, cases[i].text);
        rpc_server_free(r.rpc.server);
        flag_set_free(r.rpc.flags);
    }
}
