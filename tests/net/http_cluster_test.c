/* The cluster's label on HTTP requests. */
#include "base/assert.h"
#include "tests/net/http_rig.h"

static void hello(struct http_request *req, void *arg)
{
    (void)arg;
    http_respond_static(req, "text/plain", SL("hello"), false);
}

static const struct http_route routes[] = {
    {.path = "/x/{name}", .methods = HTTP_GET, .handler = hello, .pool = HTTP_POOL_QUERY},
    {.path = "/metrics", .methods = HTTP_GET, .handler = hello, .pool = HTTP_POOL_QUERY},
    {.path = "/open/door", .methods = HTTP_GET, .handler = hello, .pool = HTTP_POOL_QUERY},
};

static const char *const paths[] = {"open"};
static const char *const agents[] = {"^Probe/[0-9]+"};

static void begin(struct rig *r)
{
    rig_new(r);
    r->cfg.http_cluster_validation_enabled = true;
    r->cfg.cluster_validation_label = "a";
    r->cfg.http_cluster_validation_excluded_paths = (struct flag_list){.items = (const char **)(uintptr_t)paths, .n = 1};
    r->cfg.http_cluster_validation_excluded_agents = (struct flag_list){.items = (const char **)(uintptr_t)agents, .n = 1};
    rig_start(r, routes, ARRAY_LEN(routes), NULL);
}

Test(http_cluster, requests_of_others_are_refused)
{
    static const struct {
        const char *path, *headers;
        int status;
        const char *body;
    } cases[] = {
        {"/x/1", "X-Cluster: a\r\n", 200, "hello"},
        {"/x/1", "X-Cluster: b\"\r\n", 511,
         "{\"cluster_validation_error_message\":\"rejected request with wrong cluster validation label \\\"b\\\\\\\"\\\" - it should be one of "
         "[a]\",\"route\":\"x_name\"}"},
        {"/x/1", "", 511,
         "{\"cluster_validation_error_message\":\"rejected request with empty cluster validation label - it should be one of "
         "[a]\",\"route\":\"x_name\"}"},
        {"/metrics", "", 200, "hello"},
        {"/open/door", "", 200, "hello"},
        {"/x/1", "User-Agent: Probe/12 (x)\r\n", 200, "hello"},
        {"/x/1", "User-Agent: Probe/\r\n", 511, NULL},
        {"/nowhere", "", 404, NULL},
    };
    struct rig r;
    begin(&r);
    for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
        struct reply reply = rig_ask(&r, "GET", cases[i].path, cases[i].headers, NULL, 0);
        cr_assert_eq(reply.status, cases[i].status, "%s %s: %d", cases[i].path, cases[i].headers, reply.status);
        if (cases[i].body)
            cr_assert_str_eq(reply.body, cases[i].body);
        reply_free(&reply);
    }
    cr_assert(metrics_hold("cortex_server_invalid_cluster_validation_label_requests_total{protocol=\"http\",method=\"x_name\","));
    rig_stop(&r);
}

Test(http_cluster, a_bad_expression_is_an_error_at_the_start)
{
    static const char *const bad[] = {"("};
    struct rig r;
    rig_new(&r);
    r.cfg.http_cluster_validation_excluded_agents = (struct flag_list){.items = (const char **)(uintptr_t)bad, .n = 1};
    struct err err = ERR_NONE;
    r.server = http_server_new(&r.cfg, r.limits, rig_tenant, NULL);
    cr_assert_not(http_server_start(r.server, &err));
    cr_assert(strstr(err.text, "bad regular expression \"(\""), "%s", err.text);
    rig_stop(&r);
}
