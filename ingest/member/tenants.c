/* The pages of the ingester's tenants and of one tenant's head; the fields and texts of the JSON are Mimir's. */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>

#include "base/clock.h"
#include "base/json.h"
#include "ingest/member/member_int.h"
#include "net/page.h"

#define TIME_MAX (CLOCK_RFC3339_MAX + 24)
#define YEAR_9999_MS (INT64_C(253370764800) * 1000)

/* "2026-11-21T04:57:12Z (1795237032493)"; the ends of what fits have names. */
static struct slice time_text(int64_t ms, char out[static TIME_MAX])
{
    char date[CLOCK_RFC3339_MAX];
    if (ms == INT64_MAX)
        return SL("math.MaxInt64");
    if (ms == INT64_MIN)
        return SL("math.MinInt64");
    if (ms < YEAR_9999_MS && clock_rfc3339(ms / 1000, (int32_t)(ms % 1000) * 1000000, 0, date))
        snprintf(out, TIME_MAX, "%s (%" PRId64 ")", date, ms);
    else
        snprintf(out, TIME_MAX, "%" PRId64, ms);
    return slice_of(out);
}

static void json_time(struct json *j, const char *name, int64_t ms)
{
    char text[TIME_MAX];
    json_key(j, slice_of(name));
    json_str(j, time_text(ms, text));
}

static void json_now(struct json *j)
{
    char text[CLOCK_RFC3339_MAX];
    int64_t ns = clock_wall_ns();
    clock_rfc3339(ns / 1000000000, (int32_t)(ns % 1000000000), 9, text);
    json_key(j, SL("Now"));
    json_str(j, slice_of(text));
}

static void html_time(struct buf *out, const char *before, int64_t ms)
{
    char text[TIME_MAX];
    buf_puts(out, before);
    page_text(out, time_text(ms, text));
}

/* --- all tenants --- */

static void json_tenant(struct json *j, const struct ingester_tenant *t)
{
    json_obj(j);
    json_key(j, SL("Tenant"));
    json_str(j, t->tenant);
    json_key(j, SL("Blocks"));
    json_i64(j, 0);
    json_time(j, "MinTime", t->min_t);
    json_time(j, "MaxTime", t->max_t);
    json_key(j, SL("PastGracePeriod"));
    json_i64(j, t->past_grace_ms * 1000000);
    json_key(j, SL("FutureGracePeriod"));
    json_i64(j, t->future_grace_ms * 1000000);
    json_key(j, SL("Warning"));
    json_str(j, SL(""));
    json_obj_end(j);
}

static void tenants_json(struct http_request *req, const struct ingester_tenant *list, size_t n)
{
    struct buf out;
    struct json j;
    buf_init(&out, 0);
    json_init(&j, &out);
    json_obj(&j);
    json_now(&j);
    json_key(&j, SL("Tenants"));
    if (n) {
        json_arr(&j);
        for (size_t i = 0; i < n; i++)
            json_tenant(&j, &list[i]);
        json_arr_end(&j);
    } else {
        json_put_null(&j);
    }
    json_obj_end(&j);
    http_respond(req, 200, "application/json", &out);
}

static void tenants_html(struct http_request *req, const struct ingester_tenant *list, size_t n)
{
    struct buf out;
    buf_init(&out, 0);
    page_begin(req, &out, "Ingester tenants");
    buf_puts(&out, "<h1>Tenants of this ingester</h1>\n<div class=\"pane\"><table>\n"
                   "<tr><th>Tenant</th><th>Series</th><th>Oldest sample</th><th>Newest sample</th></tr>\n");
    for (size_t i = 0; i < n; i++) {
        buf_puts(&out, "<tr><td><a href=\"tsdb/");
        page_text(&out, list[i].tenant);
        buf_puts(&out, "\">");
        page_text(&out, list[i].tenant);
        buf_printf(&out, "</a></td><td>%" PRIu64, list[i].num_series);
        html_time(&out, "</td><td>", list[i].min_t);
        html_time(&out, "</td><td>", list[i].max_t);
        buf_puts(&out, "</td></tr>\n");
    }
    buf_puts(&out, n ? "</table></div>\n" : "<tr><td colspan=\"4\">none</td></tr></table></div>\n");
    page_end(req, &out);
}

void tenants_page(struct http_request *req, void *arg)
{
    struct member *m = arg;
    size_t n;
    struct ingester_tenant *list = ingester_tenants(m->ing, &n);
    if (page_wants_json(req))
        tenants_json(req, list, n);
    else
        tenants_html(req, list, n);
    free(list);
}

/* --- one tenant --- */

static void tenant_json(struct http_request *req, const struct ingester_tenant *t)
{
    struct buf out;
    struct json j;
    buf_init(&out, 0);
    json_init(&j, &out);
    json_obj(&j);
    json_now(&j);
    json_key(&j, SL("Tenant"));
    json_str(&j, t->tenant);
    json_key(&j, SL("Head"));
    json_obj(&j);
    json_time(&j, "MinTime", t->min_t);
    json_time(&j, "MaxTime", t->max_t);
    json_key(&j, SL("NumSeries"));
    json_u64(&j, t->num_series);
    json_time(&j, "AppendableMinValidTime", t->min_valid);
    /* Out-of-order samples lie beside those in order, and have no range of their own here. */
    json_time(&j, "MinOOOTime", INT64_MAX);
    json_time(&j, "MaxOOOTime", INT64_MIN);
    json_obj_end(&j);
    json_key(&j, SL("Blocks"));
    json_put_null(&j);
    json_obj_end(&j);
    http_respond(req, 200, "application/json", &out);
}

static void tenant_html(struct http_request *req, const struct ingester_tenant *t)
{
    struct buf out;
    buf_init(&out, 0);
    page_begin(req, &out, "Ingester tenant");
    buf_puts(&out, "<h1>Tenant ");
    page_text(&out, t->tenant);
    buf_printf(&out, "</h1>\n<div class=\"pane\"><table>\n<tr><th>Series</th><td>%" PRIu64, t->num_series);
    html_time(&out, "</td></tr>\n<tr><th>Oldest sample</th><td>", t->min_t);
    html_time(&out, "</td></tr>\n<tr><th>Newest sample</th><td>", t->max_t);
    html_time(&out, "</td></tr>\n<tr><th>Oldest time taken in order</th><td>", t->min_valid);
    buf_puts(&out, "</td></tr>\n</table></div>\n");
    page_end(req, &out);
}

void tenant_page(struct http_request *req, void *arg)
{
    struct member *m = arg;
    struct ingester_tenant t;
    struct slice tenant = http_path_var(req, "tenant");
    if (!ingester_tenant(m->ing, tenant, &t)) {
        struct buf out;
        buf_init(&out, 0);
        buf_puts(&out, "TSDB not found for tenant ");
        buf_put_slice(&out, tenant);
        http_respond(req, 404, "text/plain; charset=utf-8", &out);
    } else if (page_wants_json(req)) {
        tenant_json(req, &t);
    } else {
        tenant_html(req, &t);
    }
}
