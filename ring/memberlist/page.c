/* The page of the gossip. See page.h. Runs on the query pool; copies what it shows under the lock and writes it
 * without. */
#include "ring/memberlist/page.h"

#include <stdio.h>
#include <stdlib.h>
#include <time.h>

#include "base/assert.h"
#include "base/clock.h"
#include "net/page.h"
#include "ring/memberlist/page_int.h"

static http_handler memberlist_handler;

const struct http_route memberlist_routes[] = {
#define ROUTE(methods, path, pool, flags, handler, help) {methods, path, HTTP_POOL_##pool, flags, handler, help},
#include "ring/memberlist/memberlist_routes.def"
#undef ROUTE
};
const size_t memberlist_routes_n = ARRAY_LEN(memberlist_routes);

/* --- a copy ------------------------------------------------------------------------------------------------------- */

static int by_name(const void *a, const void *b)
{
    return strcmp(((const struct node *)a)->name, ((const struct node *)b)->name);
}

static int by_key(const void *a, const void *b)
{
    return strcmp(((const struct entry *)a)->key, ((const struct entry *)b)->key);
}

void snapshot_take(struct memberlist *m, struct snapshot *ret)
{
    *ret = (struct snapshot){.now_ms = clock_mono_ms()};
    pthread_mutex_lock(&m->lock);
    const struct core *c = &m->core;
    ret->cfg = &m->cfg;
    ret->own_name = c->name;
    ret->awareness = c->awareness;
    ret->nodes = must(calloc(c->n_nodes + 1, sizeof *ret->nodes));
    for (size_t i = 0; i < c->n_nodes; i++) {
        ret->nodes[ret->n_nodes] = *c->nodes[i];
        ret->nodes[ret->n_nodes++].name = must(strdup(c->nodes[i]->name));
    }
    ret->entries = must(calloc(MEMBERLIST_KEYS_MAX, sizeof *ret->entries));
    for (size_t i = 0; i < MEMBERLIST_KEYS_MAX; i++) {
        const struct entry *e = &c->entries[i];
        if (!e->key)
            continue;
        ret->entries[ret->n_entries] = *e;
        ret->entries[ret->n_entries].value = must(e->codec->clone(e->value));
        ret->entries[ret->n_entries++].key = must(strdup(e->key));
    }
    pthread_mutex_unlock(&m->lock);
    qsort(ret->nodes, ret->n_nodes, sizeof *ret->nodes, by_name);
    qsort(ret->entries, ret->n_entries, sizeof *ret->entries, by_key);
}

void snapshot_release(struct snapshot *s)
{
    for (size_t i = 0; i < s->n_nodes; i++)
        free(s->nodes[i].name);
    for (size_t i = 0; i < s->n_entries; i++) {
        s->entries[i].codec->free(s->entries[i].value);
        free(s->entries[i].key);
    }
    free(s->nodes);
    free(s->entries);
}

void snapshot_encode(const struct entry *e, struct buf *out)
{
    buf_init(out, 0);
    e->codec->encode(e->value, out);
}

/* --- HTML --------------------------------------------------------------------------------------------------------- */

static const char *const state_names[] = {"alive", "suspect", "dead", "left"};

static void html_member(struct buf *out, const struct snapshot *s, const struct node *n)
{
    char addr[64];
    bool is_self = strcmp(n->name, s->own_name) == 0;
    bool has_zone = n->meta_n >= 3 && n->meta[0] == 1 && n->meta_n >= 3 + (uint8_t)n->meta[2];
    addr_to_text(&n->addr, addr, sizeof addr);
    buf_puts(out, "<tr><td>");
    page_text(out, slice_of(n->name));
    buf_printf(out, "%s</td><td>%s</td><td class=\"%s\">%s</td><td>%u</td><td>", is_self ? " (this one)" : "", addr,
               n->state == NODE_ALIVE ? "good" : "bad", state_names[n->state], n->incarnation);
    duration_print((s->now_ms - n->changed_ms) / 1000 * 1000, out);
    buf_puts(out, "</td><td>");
    if (has_zone)
        page_text(out, (struct slice){n->meta + 3, (uint8_t)n->meta[2]});
    buf_printf(out, "%s</td></tr>\n", has_zone && n->meta[1] == MEMBERLIST_BRIDGE ? " (bridge)" : "");
}

static void html_key(struct buf *out, const struct entry *e)
{
    struct buf value, link;
    size_t tombstones = 0;
    snapshot_encode(e, &value);
    buf_init(&link, 0);
    page_text(&link, slice_of(e->key));
    e->codec->remove_tombstones(e->value, INT64_MIN, NULL, &tombstones); /* removes none */
    buf_puts(out, "<tr><td>");
    buf_put_slice(out, buf_slice(&link));
    buf_printf(out, "%s</td><td>%s</td><td>%llu</td><td>%zu</td><td>%zu</td><td>", e->deleted ? " (deleted)" : "",
               e->codec->id, (unsigned long long)e->version, value.n, tombstones);
    static const char *const formats[] = {"json", "json-pretty"};
    for (size_t i = 0; i < ARRAY_LEN(formats); i++)
        buf_printf(out, "<a href=\"?viewKey=%.*s&amp;format=%s\">%s</a> ", SL_FMT(buf_slice(&link)), formats[i],
                   formats[i]);
    buf_printf(out, "<a href=\"?downloadKey=%.*s\">download</a></td></tr>\n", SL_FMT(buf_slice(&link)));
    buf_release(&value);
    buf_release(&link);
}

static void respond_html(struct http_request *req, const struct snapshot *s)
{
    struct buf out;
    buf_init(&out, 0);
    page_begin(req, &out, "Memberlist");
    buf_printf(&out, "<h1>Memberlist</h1>\n<p>This member is %s.</p>\n<h2>Members</h2>\n<div class=\"pane\"><table>\n",
               s->awareness ? "missing answers" : "well");
    buf_puts(&out,
             "<tr><th>Name</th><th>Address</th><th>State</th><th>Incarnation</th><th>For</th><th>Zone</th></tr>\n");
    for (size_t i = 0; i < s->n_nodes; i++)
        html_member(&out, s, &s->nodes[i]);
    buf_puts(&out, "</table></div>\n<h2>Keys</h2>\n<div class=\"pane\"><table>\n<tr><th>Key</th><th>Codec</th>"
                   "<th>Version here</th><th>Bytes</th><th>Tombstones</th><th></th></tr>\n");
    for (size_t i = 0; i < s->n_entries; i++)
        html_key(&out, &s->entries[i]);
    buf_puts(&out, "</table></div>\n");
    page_end(req, &out);
}

/* --- one key ------------------------------------------------------------------------------------------------------ */

static const struct entry *find(const struct snapshot *s, struct slice key)
{
    for (size_t i = 0; i < s->n_entries; i++)
        if (slice_eq(slice_of(s->entries[i].key), key))
            return &s->entries[i];
    return NULL;
}

static void respond_key(struct http_request *req, const struct memberlist_page *page, const struct entry *e)
{
    struct buf out, compact;
    struct json j;
    buf_init(&out, 0);
    buf_init(&compact, 0);
    json_init(&j, &compact);
    view_json(page, e, &j);
    if (slice_eq(http_param(req, "format"), SL("json")))
        buf_put_slice(&out, buf_slice(&compact));
    else
        json_indent(buf_slice(&compact), &out);
    buf_putc(&out, '\n');
    buf_release(&compact);
    http_respond(req, 200, "text/plain; charset=utf-8", &out);
}

static void respond_download(struct http_request *req, const struct entry *e)
{
    struct buf out, name;
    snapshot_encode(e, &out);
    buf_init(&name, 0);
    buf_printf(&name, "attachment; filename=%llu-%s", (unsigned long long)e->version, e->key);
    for (size_t i = 0; i < name.n; i++)
        if ((uint8_t)name.p[i] < ' ')
            name.p[i] = '_'; /* others chose the key */
    http_set_header(req, "Content-Disposition", buf_cstr(&name));
    buf_release(&name);
    http_respond(req, 200, "application/octet-stream", &out);
}

/* Upstream keeps messages when it is told to; here there never are any. */
static void respond_message(struct http_request *req, struct slice id)
{
    bool ok = id.n > 0;
    for (size_t i = id.n && (id.p[0] == '-' || id.p[0] == '+'); i < id.n; i++)
        ok &= id.p[i] >= '0' && id.p[i] <= '9';
    if (ok) {
        http_respond_text_error(req, 404, "message not found");
        return;
    }
    struct buf out;
    buf_init(&out, 0);
    buf_puts(&out, "strconv.Atoi: parsing ");
    json_put_quoted(&out, id);
    buf_puts(&out, ": invalid syntax");
    http_respond_text_error(req, 400, buf_cstr(&out));
    buf_release(&out);
}

/* --- which one ---------------------------------------------------------------------------------------------------- */

static void respond(struct http_request *req, const struct memberlist_page *page, const struct snapshot *s)
{
    struct slice view = http_param(req, "viewKey"), download = http_param(req, "downloadKey");
    const struct entry *e = download.p ? find(s, download) : view.p ? find(s, view) : NULL;
    if ((download.p || view.p) && !e) {
        http_respond_text_error(req, 404, "value not found");
    } else if (download.p) {
        respond_download(req, e);
    } else if (view.p) {
        respond_key(req, page, e);
    } else if (page_wants_json(req)) {
        struct buf out;
        buf_init(&out, 0);
        status_json(s, &out);
        http_respond(req, 200, "application/json", &out);
    } else {
        respond_html(req, s);
    }
}

static void memberlist_handler(struct http_request *req, void *arg)
{
    const struct memberlist_page *page = arg;
    if (!page->m) {
        struct buf out;
        buf_init(&out, 0);
        buf_puts(&out, "This instance doesn't use memberlist.");
        http_respond(req, 200, "text/plain", &out);
        return;
    }
    struct slice message = http_param(req, "viewMsg");
    bool shows_key = http_param(req, "viewKey").p || http_param(req, "downloadKey").p;
    if (message.p && !shows_key) {
        respond_message(req, message);
        return;
    }
    if (slice_eq(http_param(req, "deleteMessages"), SL("true")) && !shows_key) {
        http_set_header(req, "Location", "?deleteMessages=false");
        http_respond_status(req, 302);
        return;
    }
    struct snapshot s;
    snapshot_take(page->m, &s);
    respond(req, page, &s);
    snapshot_release(&s);
}
