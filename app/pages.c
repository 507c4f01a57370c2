/* Pages that every process has: index, readiness, metrics, configuration, modules. */
#include <stdio.h>
#include <string.h>

#include "app/modules.h"
#include "base/assert.h"
#include "base/clock.h"
#include "base/json.h"
#include "base/metrics.h"
#include "net/page.h"

static http_handler page_index, page_ready, page_metrics, page_config, page_services;

const struct http_route page_routes[] = {
#define ROUTE(methods, path, pool, flags, handler, help) {methods, path, HTTP_POOL_##pool, flags, handler, help},
#include "app/page_routes.def"
#undef ROUTE
};
const size_t page_routes_n = ARRAY_LEN(page_routes);

/* Those of the modules that are here are shown. */
static const struct {
    struct page_link link;
    unsigned roles;
} nav[] = {
    {{"explore", "Explore"}, ROLE_QUERIER},
    {{"services", "Modules"}, ALL_ROLES},
    {{"ingester/ring", "Ingesters"}, LOG_ROLES},
    {{"ingester/partition-ring", "Partitions"}, LOG_ROLES},
    {{"store-gateway/tenants", "Store-gateway"}, ROLE_STORE_GATEWAY},
    {{"compactor/tenants", "Compactor"}, ROLE_COMPACTOR},
    {{"config?mode=diff", "Configuration"}, ALL_ROLES},
    {{"metrics", "Metrics"}, ALL_ROLES},
};

void app_pages_start(const struct process *p)
{
    static struct page_link links[ARRAY_LEN(nav)];
    static struct page_frame frame = {.brand = "Brunn", .style = "static/explore.css", .links = links};
    frame.n_links = 0;
    for (size_t i = 0; i < ARRAY_LEN(nav); i++)
        if (nav[i].roles & p->roles)
            links[frame.n_links++] = nav[i].link;
    page_set_frame(&frame);
}

/* --- index -----------------------------------------------------------------------------------------------------------
 */

static void index_row(const struct http_route *r, const char *path, void *arg)
{
    struct buf *out = arg;
    if (!r->help[0])
        return;
    bool link = (r->methods & HTTP_GET) && !strchr(path, '{');
    buf_puts(out, "<tr><td>");
    if (link) /* relative, so that it also works behind a proxy's path */
        buf_printf(out, "<a href=\"%s\">%s</a>", path[1] ? path + 1 : ".", path);
    else
        buf_puts(out, path);
    buf_printf(out, "</td><td><p>%s</p></td></tr>\n", r->help);
}

static void page_index(struct http_request *req, void *arg)
{
    struct process *p = arg;
    struct buf out;
    buf_init(&out, 0);
    page_begin(req, &out, "");
    buf_puts(&out, "<h1>Brunn " BRUNN_VERSION "</h1>\n"
                   "<p><a href=\"explore\"><b>Explore metrics</b></a>: type a query, see a table and a plot.</p>\n"
                   "<h2>Endpoints</h2>\n<div class=\"pane\"><table>\n");
    http_server_each_route(p->server, index_row, &out);
    buf_puts(&out, "</table></div>\n");
    page_end(req, &out);
}

/* --- readiness
 * --------------------------------------------------------------------------------------------------------- */

static void page_ready(struct http_request *req, void *arg)
{
    struct process *p = arg;
    struct buf out;
    buf_init(&out, 0);
    if (atomic_load(&p->stopping)) {
        buf_puts(&out, "Application is stopping");
        http_respond(req, 503, "text/plain; charset=utf-8", &out);
        return;
    }
    buf_puts(&out, "Some services are not Running:\n");
    size_t heading = out.n;
    for (size_t i = 0; i < process_n_modules(); i++) {
        if (!process_has_module(p, i))
            continue;
        struct err detail = ERR_NONE;
        enum module_state s = process_module_state(p, i, &detail);
        if (s == MODULE_RUNNING)
            continue;
        buf_printf(&out, "%s%s: %s", out.n == heading ? "" : "\n", process_module_name(i), module_state_name(s));
        if (detail.text[0])
            buf_printf(&out, " (%s)", detail.text);
    }
    if (out.n > heading) {
        http_respond_text_error(req, 503, buf_cstr(&out));
        buf_release(&out);
        return;
    }
    buf_clear(&out);
    buf_puts(&out, "ready");
    http_respond(req, 200, "text/plain", &out);
}

/* --- metrics
 * ------------------------------------------------------------------------------------------------------------- */

static void page_metrics(struct http_request *req, void *arg)
{
    (void)arg;
    const struct slice *names;
    size_t n = http_params(req, "name[]", &names);
    struct buf out;
    buf_init(&out, 0);
    metrics_write_text(&out, names, n);
    http_respond(req, 200, "text/plain; version=0.0.4; charset=utf-8; escaping=underscores", &out);
}

/* --- configuration
 * --------------------------------------------------------------------------------------------------------- */

static void page_config(struct http_request *req, void *arg)
{
    struct process *p = arg;
    struct slice mode = http_param(req, "mode");
    enum flag_dump dump = slice_eq(mode, SL("diff"))       ? FLAG_DUMP_DIFF
                          : slice_eq(mode, SL("defaults")) ? FLAG_DUMP_DEFAULTS
                                                           : FLAG_DUMP_ALL;
    struct buf out;
    buf_init(&out, 0);
    flag_set_print_yaml(p->flags, dump, &out);
    http_respond(req, 200, "text/plain; charset=utf-8", &out);
}

/* --- modules
 * ------------------------------------------------------------------------------------------------------------- */

static void services_json(struct process *p, struct buf *out)
{
    char now[CLOCK_RFC3339_MAX];
    int64_t ns = clock_wall_ns();
    clock_rfc3339(ns / 1000000000, (int32_t)(ns % 1000000000), 9, now);
    struct json j;
    json_init(&j, out);
    json_obj(&j);
    json_key(&j, SL("now"));
    json_str(&j, slice_of(now));
    json_key(&j, SL("services"));
    json_arr(&j);
    for (size_t i = 0; i < process_n_modules(); i++) {
        if (!process_has_module(p, i))
            continue;
        json_obj(&j);
        json_key(&j, SL("name"));
        json_str(&j, slice_of(process_module_name(i)));
        json_key(&j, SL("status"));
        json_str(&j, slice_of(module_state_name(process_module_state(p, i, NULL))));
        json_obj_end(&j);
    }
    json_arr_end(&j);
    json_obj_end(&j);
}

static void services_html(struct process *p, struct http_request *req)
{
    struct buf out;
    buf_init(&out, 0);
    page_begin(req, &out, "Modules");
    buf_puts(&out, "<h1>Modules</h1>\n<div class=\"pane\"><table>\n<tr><th>Module</th><th>State</th></tr>\n");
    for (size_t i = 0; i < process_n_modules(); i++) {
        if (!process_has_module(p, i))
            continue;
        enum module_state s = process_module_state(p, i, NULL);
        const char *look = s == MODULE_RUNNING ? "good" : s == MODULE_FAILED ? "bad" : "";
        buf_printf(&out, "<tr><td>%s</td><td class=\"%s\">%s</td></tr>\n", process_module_name(i), look,
                   module_state_name(s));
    }
    buf_puts(&out, "</table></div>\n");
    page_end(req, &out);
}

static void page_services(struct http_request *req, void *arg)
{
    if (!page_wants_json(req)) {
        services_html(arg, req);
        return;
    }
    struct buf out;
    buf_init(&out, 0);
    services_json(arg, &out);
    http_respond(req, 200, "application/json", &out);
}
