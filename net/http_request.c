/* What a handler reads of its request. Runs on the thread that owns the request at the moment; no locks. */
#include <stdlib.h>
#include <string.h>
#include <strings.h>

#include "net/http_int.h"

struct ctx *http_ctx(struct http_request *req)
{
    return &req->ctx;
}

enum http_method http_method(const struct http_request *req)
{
    return req->method;
}

struct slice http_path(const struct http_request *req)
{
    return req->path;
}

struct slice http_query(const struct http_request *req)
{
    return req->query;
}

struct slice http_body(const struct http_request *req)
{
    return buf_slice(&req->body);
}

bool http_content_length(const struct http_request *req, uint64_t *ret)
{
    *ret = req->declared_bytes;
    return !req->chunked;
}

struct buf http_take_body(struct http_request *req)
{
    struct buf body = req->body;
    req->body = (struct buf){.max = body.max};
    return body;
}

struct slice http_header(const struct http_request *req, const char *name)
{
    size_t n = strlen(name);
    for (size_t i = 0; i < req->n_headers; i++)
        if (req->headers[i].name.n == n && strncasecmp(req->headers[i].name.p, name, n) == 0)
            return req->headers[i].value;
    return (struct slice){NULL, 0};
}

struct slice http_path_var(const struct http_request *req, const char *name)
{
    for (size_t i = 0; i < req->n_vars; i++)
        if (slice_eq(req->vars[i].name, slice_of(name)))
            return req->vars[i].value;
    return (struct slice){NULL, 0};
}

/* --- parameters ------------------------------------------------------------------------------------------------ */

/* The first thing that was wrong. */
static void params_fail(struct http_request *req, const char *fmt, struct slice what)
{
    if (req->params_err)
        return;
    req->params_err = ARENA_NEW(&req->arena, struct err);
    if (!req->params_err)
        return;
    if (what.n)
        err_set(req->params_err, ERR_BAD_DATA, "%s \"%.*s\"", fmt, SL_FMT(what));
    else
        err_set(req->params_err, ERR_BAD_DATA, "%s", fmt);
}

static void parse_pair(struct http_request *req, struct slice pair)
{
    if (pair.n == 0)
        return;
    if (memchr(pair.p, ';', pair.n)) {
        params_fail(req, "invalid semicolon separator in query", SL(""));
        return;
    }
    const char *eq = memchr(pair.p, '=', pair.n);
    size_t n_name = eq ? (size_t)(eq - pair.p) : pair.n;
    struct slice value = eq ? slice_make(eq + 1, pair.n - n_name - 1) : SL("");
    struct http_kv *kv = &req->params[req->n_params];
    struct slice bad;
    if (http_decode(&req->arena, slice_make(pair.p, n_name), true, &kv->name, &bad) &&
        http_decode(&req->arena, value, true, &kv->value, &bad))
        req->n_params++;
    else
        params_fail(req, "invalid URL escape", bad);
}

static void parse_pairs(struct http_request *req, struct slice text, size_t max_params)
{
    if (text.n == 0)
        return;
    const char *p = text.p;
    const char *end = text.p + text.n;
    while (p < end) {
        const char *amp = memchr(p, '&', (size_t)(end - p));
        const char *stop = amp ? amp : end;
        if (req->n_params == max_params) {
            params_fail(req, "too many parameters", SL(""));
            return;
        }
        parse_pair(req, slice_make(p, (size_t)(stop - p)));
        p = stop + 1;
    }
}

static size_t count_pairs(struct slice text)
{
    size_t n = 1;
    for (size_t i = 0; i < text.n; i++)
        n += text.p[i] == '&';
    return n;
}

static bool has_form_body(const struct http_request *req)
{
    static const char form[] = "application/x-www-form-urlencoded";
    struct slice type = http_header(req, "Content-Type");
    size_t n = sizeof form - 1;
    if (!(req->method & (HTTP_POST | HTTP_PUT | HTTP_PATCH)) || type.n < n || strncasecmp(type.p, form, n) != 0)
        return false;
    return type.n == n || type.p[n] == ';' || type.p[n] == ' ';
}

static void parse_params(struct http_request *req)
{
    if (req->params_parsed)
        return;
    req->params_parsed = true;
    struct slice form = has_form_body(req) ? http_body(req) : SL("");
    size_t max_params = MIN(count_pairs(form) + count_pairs(req->query), (size_t)HTTP_MAX_PARAMS);
    req->params = ARENA_ARRAY(&req->arena, struct http_kv, max_params);
    if (!req->params) {
        params_fail(req, "too many parameters", SL(""));
        return;
    }
    parse_pairs(req, form, max_params);
    parse_pairs(req, req->query, max_params);
}

struct slice http_param(struct http_request *req, const char *name)
{
    parse_params(req);
    for (size_t i = 0; i < req->n_params; i++)
        if (slice_eq(req->params[i].name, slice_of(name)))
            return req->params[i].value;
    return (struct slice){NULL, 0};
}

size_t http_params(struct http_request *req, const char *name, const struct slice **ret_values)
{
    parse_params(req);
    size_t n = 0;
    for (size_t i = 0; i < req->n_params; i++)
        n += slice_eq(req->params[i].name, slice_of(name));
    struct slice *values = n ? ARENA_ARRAY(&req->arena, struct slice, n) : NULL;
    *ret_values = values;
    if (!values)
        return 0;
    n = 0;
    for (size_t i = 0; i < req->n_params; i++)
        if (slice_eq(req->params[i].name, slice_of(name)))
            values[n++] = req->params[i].value;
    return n;
}

bool http_params_check(struct http_request *req, struct err *err)
{
    parse_params(req);
    if (!req->params_err)
        return true;
    if (err)
        *err = *req->params_err;
    return false;
}
