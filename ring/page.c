/* The page of an instance ring. See page.h. Runs on the route's pool; a request owns all it makes. */
#include "ring/page.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/assert.h"
#include "base/clock.h"
#include "base/json.h"
#include "net/page.h"
#include "ring/snapshot_int.h"

/* A time of 0 is none: Go's first day. */
static void json_time(struct json *j, struct slice key, int64_t s)
{
    char text[CLOCK_RFC3339_MAX] = CLOCK_NO_TIME;
    if (s)
        clock_rfc3339(s, 0, 0, text);
    json_key(j, key);
    json_str(j, slice_of(text));
}

static const char *state_text(const struct ring_snapshot *s, const struct ring_instance *in, int64_t now_ms)
{
    return ring_snapshot_is_healthy(s, in, &ring_op_reporting, now_ms) ? ring_state_name(in->state) : "UNHEALTHY";
}

/* --- JSON ------------------------------------------------------------------------------------------------------------ */

static void json_versions(struct json *j, const struct ring_instance *in)
{
    json_key(j, SL("versions"));
    json_obj(j);
    for (size_t i = 0; i < in->n_versions; i++) {
        char component[24];
        snprintf(component, sizeof(component), "%llu", (unsigned long long)in->versions[i].component);
        json_key(j, slice_of(component));
        json_u64(j, in->versions[i].version);
    }
    json_obj_end(j);
}

static void json_instance(struct json *j, const struct ring_snapshot *s, const struct ring_instance *in, int64_t now_ms)
{
    char heartbeat[CLOCK_RFC3339_MAX];
    clock_rfc3339(in->timestamp_s, 0, 0, heartbeat);
    json_obj(j);
    json_key(j, SL("id"));
    json_str(j, slice_of(in->id));
    json_key(j, SL("state"));
    json_str(j, slice_of(state_text(s, in, now_ms)));
    json_key(j, SL("address"));
    json_str(j, slice_of(in->addr));
    json_key(j, SL("timestamp"));
    json_str(j, slice_of(heartbeat));
    json_time(j, SL("registered_timestamp"), in->registered_s);
    json_key(j, SL("read_only"));
    json_bool(j, in->read_only);
    json_time(j, SL("read_only_updated_timestamp"), in->read_only_updated_s);
    json_key(j, SL("zone"));
    json_str(j, slice_of(in->zone));
    json_key(j, SL("tokens"));
    json_arr(j);
    for (size_t i = 0; i < in->n_tokens; i++)
        json_u64(j, in->tokens[i]);
    json_arr_end(j);
    if (in->n_versions)
        json_versions(j, in);
    json_obj_end(j);
}

static void respond_json(struct http_request *req, const struct ring_snapshot *s, int64_t now_ms)
{
    const struct ring_desc *d = ring_snapshot_desc(s);
    struct buf out;
    struct json j;
    char now[48], day[CLOCK_RFC3339_MAX];
    clock_rfc3339(now_ms / 1000, 0, 0, day);
    snprintf(now, sizeof(now), "%.19s.%03dZ", day, (int)(now_ms % 1000));
    buf_init(&out, 0);
    json_init(&j, &out);
    json_obj(&j);
    json_key(&j, SL("shards"));
    if (d->n == 0) {
        json_put_null(&j);
    } else {
        json_arr(&j);
        for (size_t i = 0; i < d->n; i++)
            json_instance(&j, s, &d->instances[i], now_ms);
        json_arr_end(&j);
    }
    json_key(&j, SL("now"));
    json_str(&j, slice_of(now));
    json_obj_end(&j);
    buf_putc(&out, '\n');
    http_respond(req, 200, "application/json", &out);
}

/* --- HTML ------------------------------------------------------------------------------------------------------------ */

/* Each instance's part of all keys, 0 .. 1, into ret[n]: a token owns what lies between the one before it and itself. */
static void compute_ownership(const struct ring_snapshot *s, double *ret)
{
    for (size_t i = 0; i < s->n_tokens; i++) {
        uint32_t before = s->tokens[i ? i - 1 : s->n_tokens - 1].token;
        uint32_t distance = s->n_tokens == 1 ? UINT32_MAX : s->tokens[i].token - before;
        ret[s->tokens[i].instance] += (double)distance / (double)UINT32_MAX;
    }
}

static void html_since(struct buf *out, int64_t then_s, int64_t now_ms)
{
    char text[CLOCK_RFC3339_MAX];
    if (then_s == 0)
        return;
    clock_rfc3339(then_s, 0, 0, text);
    buf_printf(out, "%s (", text);
    duration_print(MAX(now_ms / 1000 - then_s, 0) * 1000, out);
    buf_puts(out, " ago)");
}

static void html_instance(struct buf *out, const struct ring_snapshot *s, const struct ring_instance *in, double owned, int64_t now_ms)
{
    const char *state = state_text(s, in, now_ms);
    const char *look = strcmp(state, "UNHEALTHY") == 0 ? "bad" : in->state == RING_ACTIVE ? "good" : "";
    buf_puts(out, "<tr><td>");
    page_text(out, slice_of(in->id));
    buf_puts(out, "</td><td>");
    page_text(out, slice_of(in->zone));
    buf_printf(out, "</td><td class=\"%s\">%s%s</td><td>", look, state, in->read_only ? ", read-only" : "");
    page_text(out, slice_of(in->addr));
    buf_puts(out, "</td><td>");
    html_since(out, in->registered_s, now_ms);
    buf_puts(out, "</td><td>");
    html_since(out, in->timestamp_s, now_ms);
    buf_printf(out, "</td><td>%zu</td><td>%.2f%%</td><td><form method=\"post\"><button name=\"forget\" value=\"", in->n_tokens,
               owned * 100);
    page_text(out, slice_of(in->id));
    buf_puts(out, "\">Forget</button></form></td></tr>\n");
}

static void html_tokens(struct buf *out, const struct ring_instance *in)
{
    buf_puts(out, "<tr><td></td><td colspan=\"8\">");
    for (size_t i = 0; i < in->n_tokens; i++)
        buf_printf(out, "%u ", in->tokens[i]);
    buf_puts(out, "</td></tr>\n");
}

static void respond_html(struct http_request *req, const struct ring_page *page, const struct ring_snapshot *s, int64_t now_ms)
{
    const struct ring_desc *d = ring_snapshot_desc(s);
    bool tokens = slice_eq(http_param(req, "tokens"), SL("true"));
    double *owned = calloc(d->n + 1, sizeof(*owned));
    ASSERT(owned);
    compute_ownership(s, owned);
    struct buf out;
    buf_init(&out, 0);
    page_begin(req, &out, page->title);
    buf_puts(&out, "<h1>");
    page_text(&out, slice_of(page->title));
    buf_puts(&out, "</h1>\n<p>Instances that have not sent a heartbeat for long are unhealthy. Forget takes an instance out of the ring; one that is "
                   "alive comes back with its next heartbeat.</p>\n<div class=\"pane\"><table>\n<tr><th>Instance</th><th>Zone</th><th>State</th>"
                   "<th>Address</th><th>Registered</th><th>Heartbeat</th><th>Tokens</th><th>Ownership</th><th></th></tr>\n");
    for (size_t i = 0; i < d->n; i++) {
        html_instance(&out, s, &d->instances[i], owned[i], now_ms);
        if (tokens)
            html_tokens(&out, &d->instances[i]);
    }
    buf_printf(&out, "</table></div>\n<p><a href=\"?tokens=%s\">%s tokens</a></p>\n", tokens ? "false" : "true", tokens ? "Hide" : "Show");
    free(owned);
    page_end(req, &out);
}

static void respond_page(struct http_request *req, const struct ring_page *page)
{
    void *value = NULL;
    struct err err = ERR_NONE;
    if (!kv_get(page->kv, slice_of(page->key), &ring_desc_codec, &value, &err)) {
        http_respond_text_error(req, 500, err.text);
        return;
    }
    struct ring_config config = {.replication_factor = 1, .heartbeat_timeout_ms = page->heartbeat_timeout_ms};
    struct ring_snapshot *s = ring_snapshot_new(value ? value : ring_desc_new(), &config);
    int64_t now_ms = clock_wall_ms();
    if (page_wants_json(req))
        respond_json(req, s, now_ms);
    else
        respond_html(req, page, s, now_ms);
    ring_snapshot_free(s);
}

/* --- forgetting ------------------------------------------------------------------------------------------------------ */

static enum kv_cas forget(void *arg, void **value, struct err *err)
{
    struct ring_instance *in = *value ? ring_desc_find(*value, *(const struct slice *)arg) : NULL;
    if (!in) {
        err_set(err, ERR_NOT_FOUND, "no change detected");
        return KV_CAS_FAIL;
    }
    ring_desc_remove(*value, in);
    return KV_CAS_STORE;
}

static void respond_forget(struct http_request *req, const struct ring_page *page)
{
    struct slice id = http_param(req, "forget");
    struct err err = ERR_NONE;
    if (kv_cas(page->kv, slice_of(page->key), &ring_desc_codec, forget, &id, &err)) {
        http_set_header(req, "Location", "#");
        http_respond_status(req, 302);
        return;
    }
    struct buf text;
    buf_init(&text, 0);
    buf_printf(&text, "error forgetting instance '%.*s': failed to CAS-update key %s: %s", SL_FMT(id), page->shown_key, err.text);
    http_respond_text_error(req, 500, buf_cstr(&text));
    buf_release(&text);
}

void ring_page(struct http_request *req, void *arg)
{
    if (http_method(req) == HTTP_POST)
        respond_forget(req, arg);
    else
        respond_page(req, arg);
}
