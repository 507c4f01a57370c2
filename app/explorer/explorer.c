/*
 * The explorer's files, embedded compressed (assets.S is made by the build) and served to any browser; and the names of the functions, which
 * it completes, out of the one table of them.
 */
#include "app/explorer/explorer.h"

#include <stddef.h>

#include "base/assert.h"
#include "base/json.h"
#include "read/promql/ast.h"

#define ASSET(symbol) extern const char asset_##symbol[], asset_##symbol##_end[];
ASSET(explore_html)
ASSET(explore_css)
ASSET(explore_js)
ASSET(chart_js)
#undef ASSET

static void respond(struct http_request *req, const char *content_type, const char *begin, const char *end)
{
    http_set_header(req, "Cache-Control", "no-cache");
    http_respond_static(req, content_type, slice_make(begin, (size_t)(end - begin)), true);
}

static void explore_html(struct http_request *req, void *arg)
{
    (void)arg;
    respond(req, "text/html; charset=utf-8", asset_explore_html, asset_explore_html_end);
}

static void explore_css(struct http_request *req, void *arg)
{
    (void)arg;
    respond(req, "text/css; charset=utf-8", asset_explore_css, asset_explore_css_end);
}

static void explore_js(struct http_request *req, void *arg)
{
    (void)arg;
    respond(req, "text/javascript; charset=utf-8", asset_explore_js, asset_explore_js_end);
}

static void chart_js(struct http_request *req, void *arg)
{
    (void)arg;
    respond(req, "text/javascript; charset=utf-8", asset_chart_js, asset_chart_js_end);
}

static void functions_json(struct http_request *req, void *arg)
{
    (void)arg;
    static const char *const names[] = {
#define PROMQL_FUNCTION(id, name, ...) name,
#include "read/promql/functions.def"
#undef PROMQL_FUNCTION
        "sum", "min", "max", "avg", "group", "stddev", "stdvar", "count", "count_values", "bottomk", "topk", "quantile",
    };
    struct buf out;
    struct json j;
    buf_init(&out, 0);
    json_init(&j, &out);
    json_arr(&j);
    for (size_t i = 0; i < ARRAY_LEN(names); i++)
        json_str(&j, slice_of(names[i]));
    json_arr_end(&j);
    http_respond(req, 200, "application/json", &out);
}

const struct http_route explorer_routes[] = {
    {HTTP_GET, "/explore", HTTP_POOL_INLINE, 0, explore_html, "Explorer: type a query, see a table and a plot"},
    {HTTP_GET, "/static/explore.css", HTTP_POOL_INLINE, 0, explore_css, ""},
    {HTTP_GET, "/static/explore.js", HTTP_POOL_INLINE, 0, explore_js, ""},
    {HTTP_GET, "/static/chart.js", HTTP_POOL_INLINE, 0, chart_js, ""},
    {HTTP_GET, "/static/functions.json", HTTP_POOL_INLINE, 0, functions_json, ""},
};
const size_t explorer_routes_n = ARRAY_LEN(explorer_routes);
