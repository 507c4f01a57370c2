/*
 * The explorer's files, embedded compressed (assets.S is made by the build) and served to any browser; and what the
 * page must know of this process: where the API is, whether there are tenants, and the names of the functions, out of
 * the one table of them.
 */
#include "app/explorer/explorer.h"

#include <stddef.h>

#include "app/process.h"
#include "base/assert.h"
#include "base/json.h"
#include "net/page.h"
#include "read/promql/ast.h"

#define ASSET(symbol, content_type)                                                                                    \
    extern const char asset_##symbol[], asset_##symbol##_end[];                                                        \
    static void serve_##symbol(struct http_request *req, void *arg)                                                    \
    {                                                                                                                  \
        (void)arg;                                                                                                     \
        respond(req, content_type, asset_##symbol, asset_##symbol##_end);                                              \
    }

static void respond(struct http_request *req, const char *content_type, const char *begin, const char *end)
{
    page_set_headers(req);
    http_set_header(req, "Cache-Control", "no-cache");
    http_respond_static(req, content_type, slice_make(begin, (size_t)(end - begin)), true);
}

ASSET(explore_html, "text/html; charset=utf-8")
ASSET(explore_css, "text/css; charset=utf-8")
ASSET(explore_js, "text/javascript; charset=utf-8")
ASSET(complete_js, "text/javascript; charset=utf-8")
ASSET(plot_js, "text/javascript; charset=utf-8")
ASSET(chart_js, "text/javascript; charset=utf-8")
#undef ASSET

/* The functions that a query may use without asking for experimental ones. */
static const char *const function_names[] = {
#define PROMQL_FUNCTION_0(name) name,
#define PROMQL_FUNCTION_1(name)
#define PROMQL_FUNCTION(id, name, n_args, variadic, returns, experimental, ...) PROMQL_FUNCTION_##experimental(name)
#include "read/promql/functions.def"
#undef PROMQL_FUNCTION
#undef PROMQL_FUNCTION_0
#undef PROMQL_FUNCTION_1
    "sum", "min", "max", "avg", "group", "stddev", "stdvar", "count", "count_values", "bottomk", "topk", "quantile",
};

static void explore_json(struct http_request *req, void *arg)
{
    const struct process *p = arg;
    struct buf out;
    struct json j;
    buf_init(&out, 0);
    json_init(&j, &out);
    json_obj(&j);
    json_key(&j, SL("prefix"));
    json_str(&j, slice_of(p->app.prometheus_http_prefix));
    json_key(&j, SL("multitenancy"));
    json_bool(&j, p->app.multitenancy_enabled);
    json_key(&j, SL("functions"));
    json_arr(&j);
    for (size_t i = 0; i < ARRAY_LEN(function_names); i++)
        json_str(&j, slice_of(function_names[i]));
    json_arr_end(&j);
    json_obj_end(&j);
    page_set_headers(req);
    http_set_header(req, "Cache-Control", "no-cache");
    http_respond(req, 200, "application/json", &out);
}

const struct http_route explorer_routes[] = {
    {HTTP_GET, "/explore", HTTP_POOL_INLINE, 0, serve_explore_html, "Explorer: type a query, see a table and a plot"},
    {HTTP_GET, "/static/explore.css", HTTP_POOL_INLINE, 0, serve_explore_css, ""},
    {HTTP_GET, "/static/explore.js", HTTP_POOL_INLINE, 0, serve_explore_js, ""},
    {HTTP_GET, "/static/complete.js", HTTP_POOL_INLINE, 0, serve_complete_js, ""},
    {HTTP_GET, "/static/plot.js", HTTP_POOL_INLINE, 0, serve_plot_js, ""},
    {HTTP_GET, "/static/chart.js", HTTP_POOL_INLINE, 0, serve_chart_js, ""},
    {HTTP_GET, "/static/explore.json", HTTP_POOL_INLINE, 0, explore_json, ""},
};
const size_t explorer_routes_n = ARRAY_LEN(explorer_routes);
