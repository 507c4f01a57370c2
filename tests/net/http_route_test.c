#include "http_rig.h"

/* Answers "<path>|<var name>|<var rest>|<tenant>|<param a>|<header X-A>". */
static void echo(struct http_request *req, void *arg)
{
    (void)arg;
    struct buf out;
    buf_init(&out, 0);
    buf_put_slice(&out, http_path(req));
    buf_putc(&out, '|');
    buf_put_slice(&out, http_path_var(req, "name"));
    buf_putc(&out, '|');
    buf_put_slice(&out, http_path_var(req, "rest"));
    buf_putc(&out, '|');
    buf_put_slice(&out, http_ctx(req)->tenant);
    buf_putc(&out, '|');
    buf_put_slice(&out, http_param(req, "a"));
    buf_putc(&out, '|');
    buf_put_slice(&out, http_header(req, "x-a"));
    http_respond(req, 200, "text/plain", &out);
}

/* All values of m, joined by commas, or the error. */
static void list(struct http_request *req, void *arg)
{
    (void)arg;
    struct err err = ERR_NONE;
    if (!http_params_check(req, &err)) {
        http_respond_err(req, &err);
        return;
    }
    const struct slice *values;
    size_t n = http_params(req, "m", &values);
    struct buf out;
    buf_init(&out, 0);
    for (size_t i = 0; i < n; i++) {
        buf_put_slice(&out, values[i]);
        buf_putc(&out, ',');
    }
    http_respond(req, 200, NULL, &out);
}

static void root(struct http_request *req, void *arg)
{
    http_set_header(req, "X-Arg", arg);
    http_respond_status(req, 204);
}

static const struct http_route routes[] = {
    {HTTP_GET, "/", HTTP_POOL_INLINE, 0, root, "Index"},
    {HTTP_GET, "/label/{name}/values", HTTP_POOL_QUERY, HTTP_PREFIX | HTTP_TENANT, echo, ""},
    {HTTP_GET | HTTP_POST, "/label/fixed/values", HTTP_POOL_QUERY, HTTP_PREFIX, root, ""},
    {HTTP_GET | HTTP_POST, "/echo", HTTP_POOL_WRITE, HTTP_TENANT, echo, ""},
    {HTTP_DELETE, "/echo", HTTP_POOL_INLINE, 0, root, ""},
    {HTTP_GET, "/static/{rest...}", HTTP_POOL_INLINE, 0, echo, ""},
    {HTTP_GET | HTTP_POST, "/list", HTTP_POOL_INLINE, 0, list, ""},
    {HTTP_ANY, "/any", HTTP_POOL_INLINE, 0, root, ""},
};

static struct rig rig;

static void setup(void)
{
    rig_new(&rig);
    rig_start(&rig, routes, sizeof routes / sizeof routes[0], "arg");
}

static void teardown(void)
{
    rig_stop(&rig);
}

TestSuite(http_route, .init = setup, .fini = teardown);

struct want {
    const char *method, *path, *headers, *body;
    int status;
    const char *answer;   /* body */
    const char *header;   /* "Name: value" */
};

static void check(const struct want *w, size_t n)
{
    for (size_t i = 0; i < n; i++) {
        struct reply r = rig_ask(&rig, w[i].method, w[i].path, w[i].headers ? w[i].headers : "", w[i].body, w[i].body ? strlen(w[i].body) : 0);
        cr_expect_eq(r.status, w[i].status, "%s %s: %d %s", w[i].method, w[i].path, r.status, r.body);
        if (w[i].answer)
            cr_expect_str_eq(r.body, w[i].answer, "%s %s: '%s'", w[i].method, w[i].path, r.body);
        if (w[i].header)
            cr_expect(strcasestr(r.head, w[i].header), "%s %s: no '%s' in %s", w[i].method, w[i].path, w[i].header, r.head);
        reply_free(&r);
    }
}
#define CHECK(...)                                                                                                     \
    do {                                                                                                               \
        static const struct want cases_[] = {__VA_ARGS__};                                                             \
        check(cases_, sizeof cases_ / sizeof cases_[0]);                                                               \
    } while (0)

#define T "X-Scope-OrgID: t1\r\n"

Test(http_route, paths_lead_to_handlers_with_decoded_variables)
{
    CHECK({"GET", "/", NULL, NULL, 204, "", "X-Arg: arg"}, {"GET", "/echo?a=1", T, NULL, 200, "/echo|||t1|1|", "Content-Type: text/plain"},
          {"GET", "/prometheus/label/a%2Fb%20c+d/values", T "X-A: y\r\n", NULL, 200, "/prometheus/label/a%2Fb%20c+d/values|a/b c+d||t1||y", NULL},
          {"GET", "/prometheus/label/fixed/values", NULL, NULL, 204, NULL, NULL},
          {"GET", "/static/js/app.js", NULL, NULL, 200, "/static/js/app.js||js/app.js|||", NULL},
          {"GET", "/static/", NULL, NULL, 200, "/static/|||||", NULL}, {"GET", "http://host:80/any?x", NULL, NULL, 204, NULL, NULL});
}

Test(http_route, unknown_paths_are_404_as_go_writes_it)
{
    CHECK({"GET", "/nope", NULL, NULL, 404, "404 page not found\n", "X-Content-Type-Options: nosniff"},
          {"GET", "/echo/", NULL, NULL, 404, "404 page not found\n", "Content-Type: text/plain; charset=utf-8"},
          {"GET", "/label/x/values", NULL, NULL, 404, NULL, NULL}, {"GET", "/prometheus/label/values", NULL, NULL, 404, NULL, NULL},
          {"POST", "/nope", NULL, "body", 404, "404 page not found\n", NULL}, {"OPTIONS", "*", NULL, NULL, 404, NULL, NULL});
}

Test(http_route, wrong_methods_are_405_with_allow_and_a_reason)
{
    CHECK({"PUT", "/echo", NULL, "x", 405, "method PUT is not allowed here, use GET, POST, DELETE\n", "Allow: GET, POST, DELETE"},
          {"POST", "/", NULL, NULL, 405, "method POST is not allowed here, use GET\n", "Allow: GET"},
          {"POST", "/prometheus/label/x/values", NULL, NULL, 405, NULL, "Allow: GET"}, {"HEAD", "/", NULL, NULL, 405, NULL, "Allow: GET"},
          {"OPTIONS", "/any", NULL, NULL, 204, NULL, NULL}, {"FOO", "/any", NULL, NULL, 204, NULL, NULL});
}

Test(http_route, unclean_paths_are_301_to_the_cleaned_path)
{
    CHECK({"GET", "//echo?a=1&b=%20", NULL, NULL, 301, "", "Location: /echo?a=1&b=%20\r\n"},
          {"GET", "/prometheus/label//values", NULL, NULL, 301, NULL, "Location: /prometheus/label/values\r\n"},
          {"GET", "/a/./b/../c/", NULL, NULL, 301, NULL, "Location: /a/c/\r\n"}, {"GET", "/../..", NULL, NULL, 301, NULL, "Location: /\r\n"},
          {"GET", "//evil.example/x", NULL, NULL, 301, NULL, "Location: /evil.example/x\r\n"},
          {"POST", "/api//push", NULL, "x", 301, NULL, "Location: /api/push\r\n"});
}

Test(http_route, tenant_is_checked_before_the_handler)
{
    CHECK({"GET", "/echo", NULL, NULL, 401, "no org id\n", NULL}, {"POST", "/echo", NULL, "body", 401, "no org id\n", NULL},
          {"GET", "/echo", "X-Scope-OrgID: a|b\r\n", NULL, 422, NULL, NULL},
          {"GET", "/echo", T "x-scope-orgid: t2\r\n", NULL, 401, "more than one X-Scope-OrgID header\n", NULL},
          {"GET", "/echo", T T, NULL, 200, "/echo|||t1||", NULL}, {"DELETE", "/echo", NULL, NULL, 204, NULL, NULL});
}

#define FORM "Content-Type: application/x-www-form-urlencoded; charset=utf-8\r\n"

Test(http_route, parameters_come_from_the_form_then_from_the_url)
{
    CHECK({"GET", "/list?m=1&x=2&m=a%20b+c&m", NULL, NULL, 200, "1,a b c,,", NULL},
          {"POST", "/list?m=url", FORM, "m=f%2B1&m=f2&&%6D=%00", 200, NULL, NULL}, {"POST", "/list?m=url", FORM, "m=f%2B1", 200, "f+1,url,", NULL},
          {"POST", "/list?m=url", NULL, "m=f", 200, "url,", NULL}, {"GET", "/list", FORM, NULL, 200, "", NULL},
          {"GET", "/list?m=%zz", NULL, NULL, 400, "invalid URL escape \"%zz\"\n", NULL},
          {"GET", "/list?m=1%2", NULL, NULL, 400, "invalid URL escape \"%2\"\n", NULL},
          {"POST", "/list", FORM, "m=1;m=2", 400, "invalid semicolon separator in query\n", NULL});
}

Test(http_route, a_bad_escape_in_the_path_is_400)
{
    CHECK({"GET", "/prometheus/label/%zz/values", T, NULL, 400, NULL, NULL}, {"GET", "/static/%", NULL, NULL, 400, NULL, NULL});
}

Test(http_route, several_requests_on_one_connection)
{
    int fd = rig_connect(&rig);
    const char *three = "GET /any HTTP/1.1\r\nHost: x\r\n\r\nPOST /nope HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\n\r\nabcdeGET /static/x "
                        "HTTP/1.1\r\nHost: x\r\n\r\n";
    rig_send(fd, three, strlen(three));
    static const int statuses[] = {204, 404, 200};
    for (int i = 0; i < 3; i++) {
        struct reply r = rig_read(fd);
        cr_expect_eq(r.status, statuses[i], "%d: %d", i, r.status);
        reply_free(&r);
    }
    close(fd);
}

Test(http_route, answers_are_counted_by_route)
{
    CHECK({"GET", "/echo?a=1", T, NULL, 200, NULL, NULL}, {"GET", "/prometheus/label/x/values", T, NULL, 200, NULL, NULL},
          {"GET", "/", NULL, NULL, 204, NULL, NULL}, {"PUT", "/echo", NULL, NULL, 405, NULL, NULL}, {"POST", "/echo", T, "0123456789", 200, NULL, NULL});
    EVENTUALLY(metrics_hold("cortex_inflight_requests{method=\"POST\",route=\"echo\"} 0\n"));
    static const char *const lines[] = {
        "cortex_request_duration_seconds_count{method=\"GET\",route=\"echo\",status_code=\"200\",ws=\"false\"} 1\n",
        "cortex_request_duration_seconds_count{method=\"GET\",route=\"prometheus_label_name_values\",status_code=\"200\",ws=\"false\"} 1\n",
        "cortex_request_duration_seconds_count{method=\"GET\",route=\"root\",status_code=\"204\",ws=\"false\"} 1\n",
        "cortex_request_duration_seconds_count{method=\"PUT\",route=\"other\",status_code=\"405\",ws=\"false\"} 1\n",
        "cortex_request_message_bytes_sum{method=\"POST\",route=\"echo\"} 10\n",
        "cortex_response_message_bytes_sum{method=\"GET\",route=\"echo\"} 13\n",
        "cortex_tcp_connections{protocol=\"http\"} 0\n",
    };
    for (size_t i = 0; i < sizeof lines / sizeof lines[0]; i++)
        EVENTUALLY(metrics_hold(lines[i]));
}

static void collect(const struct http_route *r, const char *path, void *arg)
{
    (void)r;
    strcat(arg, path);
    strcat(arg, " ");
}

Test(http_route, routes_are_listed_with_their_prefix)
{
    char all[1024] = "";
    http_server_each_route(rig.server, collect, all);
    cr_assert_str_eq(all, "/ /prometheus/label/{name}/values /prometheus/label/fixed/values /echo /echo /static/{rest...} /list /any ");
}

Test(http_route_prefix, the_path_prefix_goes_before_all_routes)
{
    rig_new(&rig);
    rig.cfg.http_path_prefix = "/v1/";
    rig_start(&rig, routes, sizeof routes / sizeof routes[0], "arg");
    CHECK({"GET", "/v1/", NULL, NULL, 204, NULL, NULL}, {"GET", "/v1/prometheus/label/x/values", T, NULL, 200, NULL, NULL},
          {"GET", "/any", NULL, NULL, 404, NULL, NULL});
    rig_stop(&rig);
}
