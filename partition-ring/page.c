/* The page of the partitions ring. See page.h. Runs on the query pool; a request owns all it makes. */
#include "partition-ring/page.h"

#include <errno.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/assert.h"
#include "base/clock.h"
#include "base/json.h"
#include "net/page.h"
#include "partition-ring/lifecycle.h"
#include "partition-ring/partition_desc.h"

static http_handler partition_ring_handler;

const struct http_route partition_ring_routes[] = {
#define ROUTE(methods, path, pool, flags, handler, help) {methods, path, HTTP_POOL_##pool, flags, handler, help},
#include "partition-ring/partition_ring_routes.def"
#undef ROUTE
};
const size_t partition_ring_routes_n = ARRAY_LEN(partition_ring_routes);

/* --- what is shown --------------------------------------------------------------------------------------------------- */

/* One line: a partition of the document, or one that only owners speak of. */
struct row {
    int32_t id;
    const struct partition *partition; /* NULL: there is none ("corrupted") */
    double ownership;                  /* part of all tokens' ranges, 0 .. 1 */
};

struct rows {
    struct row *rows; /* owned; ids ascending */
    size_t n;
};

static int compare_rows(const void *a, const void *b)
{
    const struct row *x = a, *y = b;
    return (x->id > y->id) - (x->id < y->id);
}

struct owned_token {
    uint32_t token;
    uint32_t row;
};

static int compare_tokens(const void *a, const void *b)
{
    const struct owned_token *x = a, *y = b;
    return (x->token > y->token) - (x->token < y->token);
}

/* A token owns what lies between the one before it, of all partitions whatever their state, and itself. */
static void compute_ownership(struct rows *r)
{
    size_t n = 0, at = 0;
    for (size_t i = 0; i < r->n; i++)
        n += r->rows[i].partition ? r->rows[i].partition->n_tokens : 0;
    struct owned_token *all = malloc((n + 1) * sizeof(*all));
    ASSERT(all);
    for (size_t i = 0; i < r->n; i++)
        for (size_t t = 0; r->rows[i].partition && t < r->rows[i].partition->n_tokens; t++)
            all[at++] = (struct owned_token){r->rows[i].partition->tokens[t], (uint32_t)i};
    qsort(all, n, sizeof(*all), compare_tokens);
    for (size_t i = 0; i < n; i++) {
        uint32_t distance = n == 1 ? UINT32_MAX : all[i].token - all[i ? i - 1 : n - 1].token;
        r->rows[all[i].row].ownership += (double)distance / (double)UINT32_MAX;
    }
    free(all);
}

static void rows_make(const struct partition_desc *d, struct rows *ret)
{
    ret->rows = calloc(d->n_partitions + d->n_owners + 1, sizeof(*ret->rows));
    ASSERT(ret->rows);
    ret->n = 0;
    for (size_t i = 0; i < d->n_partitions; i++)
        ret->rows[ret->n++] = (struct row){.id = d->partitions[i].id, .partition = &d->partitions[i]};
    for (size_t i = 0; i < d->n_owners; i++)
        if (!partition_desc_find(d, d->owners[i].partition))
            ret->rows[ret->n++] = (struct row){.id = d->owners[i].partition};
    qsort(ret->rows, ret->n, sizeof(*ret->rows), compare_rows);
    size_t n = 0;
    for (size_t i = 0; i < ret->n; i++)
        if (!n || ret->rows[n - 1].id != ret->rows[i].id)
            ret->rows[n++] = ret->rows[i];
    ret->n = n;
    compute_ownership(ret);
}

/* --- JSON ------------------------------------------------------------------------------------------------------------ */

static void json_row(struct json *j, const struct partition_desc *d, const struct row *r)
{
    const struct partition *p = r->partition;
    char changed[CLOCK_RFC3339_MAX] = CLOCK_NO_TIME;
    if (p)
        clock_rfc3339(p->state_s, 0, 0, changed);
    json_obj(j);
    json_key(j, SL("id"));
    json_i64(j, r->id);
    json_key(j, SL("corrupted"));
    json_bool(j, !p);
    json_key(j, SL("state"));
    json_i64(j, p ? p->state : PARTITION_UNKNOWN);
    json_key(j, SL("state_timestamp"));
    json_str(j, slice_of(changed));
    json_key(j, SL("state_change_locked"));
    json_bool(j, p && p->locked);
    json_key(j, SL("owner_ids"));
    json_arr(j);
    for (size_t i = 0; i < d->n_owners; i++) /* sorted by id */
        if (d->owners[i].partition == r->id)
            json_str(j, slice_of(d->owners[i].id));
    json_arr_end(j);
    json_key(j, SL("tokens"));
    json_arr(j);
    for (size_t i = 0; p && i < p->n_tokens; i++)
        json_u64(j, p->tokens[i]);
    json_arr_end(j);
    json_obj_end(j);
}

static void respond_json(struct http_request *req, const struct partition_desc *d, const struct rows *r)
{
    struct buf out;
    struct json j;
    buf_init(&out, 0);
    json_init(&j, &out);
    json_obj(&j);
    json_key(&j, SL("partitions"));
    json_arr(&j);
    for (size_t i = 0; i < r->n; i++)
        json_row(&j, d, &r->rows[i]);
    json_arr_end(&j);
    json_obj_end(&j);
    http_respond(req, 200, "application/json", &out);
}

/* --- HTML ------------------------------------------------------------------------------------------------------------ */

static void button(struct buf *out, int32_t id, const char *action, const char *name, const char *value, const char *text)
{
    buf_printf(out,
               "<form method=\"post\"><input type=\"hidden\" name=\"action\" value=\"%s\">"
               "<input type=\"hidden\" name=\"partition_id\" value=\"%d\">"
               "<input type=\"hidden\" name=\"%s\" value=\"%s\"><button>%s</button></form>\n",
               action, id, name, value, text);
}

/* The change that a person may want; others are the lifecyclers' business. */
static void buttons(struct buf *out, const struct partition *p)
{
    bool active = p->state == PARTITION_ACTIVE;
    const char *to = active ? "PartitionInactive" : "PartitionActive";
    if (!p->locked) {
        button(out, p->id, "change_state", "partition_state", to, active ? "Make inactive" : "Make active");
        button(out, p->id, "change_state_and_lock", "partition_state", to, active ? "Make inactive and lock" : "Make active and lock");
    }
    button(out, p->id, "state_change_lock", "locked", p->locked ? "false" : "true", p->locked ? "Unlock the state" : "Lock the state");
}

static void html_row(struct buf *out, const struct partition_desc *d, const struct row *r, int64_t now_s, bool tokens)
{
    const struct partition *p = r->partition;
    char changed[CLOCK_RFC3339_MAX] = "";
    const char *look = !p ? "bad" : p->state == PARTITION_ACTIVE ? "good" : "";
    if (p)
        clock_rfc3339(p->state_s, 0, 0, changed);
    buf_printf(out, "<tr><td>%d</td><td class=\"%s\">%s%s</td><td>%s", r->id, look,
               p ? partition_state_name(p->state) + strlen("Partition") : "Corrupt: it has owners and is not there",
               p && p->locked ? ", locked" : "", changed);
    if (p) {
        buf_puts(out, " (");
        duration_print(MAX(now_s - p->state_s, 0) * 1000, out);
        buf_puts(out, " ago)");
    }
    buf_puts(out, "</td><td>");
    for (size_t i = 0, n = 0; i < d->n_owners; i++) {
        if (d->owners[i].partition != r->id)
            continue;
        buf_puts(out, n++ ? "<br>" : "");
        page_text(out, slice_of(d->owners[i].id));
    }
    buf_printf(out, "</td><td>%zu</td><td>%.2f%%</td><td>", p ? p->n_tokens : 0, r->ownership * 100);
    if (p)
        buttons(out, p);
    buf_puts(out, "</td></tr>\n");
    if (!tokens || !p)
        return;
    buf_puts(out, "<tr><td></td><td colspan=\"6\">");
    for (size_t i = 0; i < p->n_tokens; i++)
        buf_printf(out, "%u ", p->tokens[i]);
    buf_puts(out, "</td></tr>\n");
}

static void respond_html(struct http_request *req, const struct partition_desc *d, const struct rows *r)
{
    struct buf out;
    bool tokens = slice_eq(http_param(req, "tokens"), SL("true"));
    int64_t now_s = clock_wall_ms() / 1000;
    buf_init(&out, 0);
    page_begin(req, &out, "Partitions");
    buf_puts(&out, "<h1>Partitions</h1>\n<p>Active partitions take in writes; active and inactive ones are asked by queries. An inactive partition "
                   "without owners goes after <code>-ingester.partition-ring.delete-inactive-partition-after</code>. A locked state is changed by "
                   "nobody until it is unlocked.</p>\n<div class=\"pane\"><table>\n<tr><th>Partition</th><th>State</th><th>Since</th>"
                   "<th>Owners</th><th>Tokens</th><th>Ownership</th><th></th></tr>\n");
    for (size_t i = 0; i < r->n; i++)
        html_row(&out, d, &r->rows[i], now_s, tokens);
    buf_printf(&out, "</table></div>\n<p><a href=\"?tokens=%s\">%s tokens</a></p>\n", tokens ? "false" : "true", tokens ? "Hide" : "Show");
    page_end(req, &out);
}

static void respond_page(struct http_request *req, const struct partition_ring_page *page)
{
    void *value = NULL;
    struct err err = ERR_NONE;
    if (!kv_get(page->kv, slice_of(page->key), &partition_desc_codec, &value, &err)) {
        http_respond_text_error(req, 500, err.text);
        return;
    }
    struct partition_desc *d = value ? value : partition_desc_new();
    struct rows rows;
    rows_make(d, &rows);
    if (page_wants_json(req))
        respond_json(req, d, &rows);
    else
        respond_html(req, d, &rows);
    free(rows.rows);
    partition_desc_free(d);
}

/* --- changes --------------------------------------------------------------------------------------------------------- */

struct change {
    bool is_lock;
    int32_t id;
    enum partition_state to;
    bool locked;
};

static enum kv_cas do_change(void *arg, void **value, struct err *err)
{
    const struct change *c = arg;
    bool changed = false;
    if (!*value)
        *value = partition_desc_new();
    if (c->is_lock) {
        if (!partition_desc_find(*value, c->id)) {
            err_set(err, ERR_NOT_FOUND, PARTITION_NOT_THERE);
            return KV_CAS_FAIL;
        }
        changed = partition_set_lock(*value, c->id, c->locked, clock_wall_ms());
    } else if (!partition_change_state(*value, c->id, c->to, clock_wall_ms(), &changed, err)) {
        return KV_CAS_FAIL;
    }
    return changed ? KV_CAS_STORE : KV_CAS_KEEP;
}

void partition_ring_wrap_error(const char *shown_key, struct err *err)
{
    char text[sizeof err->text];
    bool of_fn = err->code == ERR_NOT_FOUND || err->code == ERR_CONFLICT;
    snprintf(text, sizeof text, "%s", err->text);
    err_set(err, err->code, "failed to CAS-update key %s: %s%s", shown_key, of_fn ? "fn returned error: " : "", text);
}

static bool change(struct http_request *req, const struct partition_ring_page *page, const char *what, struct change *c)
{
    struct err err = ERR_NONE;
    if (kv_cas(page->kv, slice_of(page->key), &partition_desc_codec, do_change, c, &err))
        return true;
    partition_ring_wrap_error(page->shown_key, &err);
    char text[sizeof err.text + 64];
    snprintf(text, sizeof text, "failed to %s: %s", what, err.text);
    http_respond_text_error(req, 400, text);
    return false;
}

/* The error of Go's strconv, which the answer contains. */
static bool refuse_value(struct http_request *req, const char *what, const char *fn, struct slice text, const char *why)
{
    struct buf out;
    buf_init(&out, 0);
    buf_printf(&out, "invalid %s: strconv.%s: parsing ", what, fn);
    json_put_quoted(&out, text);
    buf_printf(&out, ": %s", why);
    http_respond_text_error(req, 400, buf_cstr(&out));
    buf_release(&out);
    return false;
}

/* As Go's Atoi; a number that no partition can have is -1. */
static bool parse_id(struct http_request *req, int32_t *ret)
{
    struct slice text = http_param(req, "partition_id");
    char digits[32], *end;
    size_t sign = text.n && (text.p[0] == '-' || text.p[0] == '+');
    bool ok = text.n > sign;
    for (size_t i = sign; i < text.n; i++)
        ok &= text.p[i] >= '0' && text.p[i] <= '9';
    if (!ok)
        return refuse_value(req, "partition ID", "Atoi", text, "invalid syntax");
    snprintf(digits, sizeof digits, "%.*s", (int)MIN(text.n, sizeof digits - 1), text.p);
    errno = 0;
    long long v = strtoll(digits, &end, 10);
    if (errno || text.n >= sizeof digits)
        return refuse_value(req, "partition ID", "Atoi", text, "value out of range");
    *ret = v >= 0 && v <= INT32_MAX ? (int32_t)v : -1;
    return true;
}

static bool parse_state(struct http_request *req, enum partition_state *ret)
{
    struct slice text = http_param(req, "partition_state");
    for (int s = PARTITION_UNKNOWN; s < PARTITION_STATES; s++) {
        if (!slice_eq(text, slice_of(partition_state_name(s))))
            continue;
        *ret = (enum partition_state)s;
        return true;
    }
    http_respond_text_error(req, 400, "invalid partition state");
    return false;
}

static bool parse_locked(struct http_request *req, bool *ret)
{
    static const char *const words[] = {"0", "f", "F", "false", "FALSE", "False", "1", "t", "T", "true", "TRUE", "True"};
    struct slice text = http_param(req, "locked");
    for (size_t i = 0; i < ARRAY_LEN(words); i++) {
        if (!slice_eq(text, slice_of(words[i])))
            continue;
        *ret = i >= ARRAY_LEN(words) / 2;
        return true;
    }
    return refuse_value(req, "locked value", "ParseBool", text, "invalid syntax");
}

/* False when the answer was given. */
static bool act(struct http_request *req, const struct partition_ring_page *page)
{
    struct slice action = http_param(req, "action");
    struct change c = {0};
    bool and_lock = slice_eq(action, SL("change_state_and_lock"));
    if (and_lock || slice_eq(action, SL("change_state"))) {
        if (!parse_id(req, &c.id) || !parse_state(req, &c.to) || !change(req, page, "change partition state", &c))
            return false;
        c.is_lock = c.locked = true;
        return !and_lock || change(req, page, "lock partition state change", &c);
    }
    if (!slice_eq(action, SL("state_change_lock")))
        return true; /* upstream's way: what is unknown changes nothing */
    c.is_lock = true;
    return parse_id(req, &c.id) && parse_locked(req, &c.locked) && change(req, page, "lock partition state change", &c);
}

static void partition_ring_handler(struct http_request *req, void *arg)
{
    if (http_method(req) != HTTP_POST) {
        respond_page(req, arg);
        return;
    }
    if (!act(req, arg))
        return;
    http_set_header(req, "Location", "#"); /* the browser comes back with a GET */
    http_respond_status(req, 302);
}
