/*
 * From a request's target to a route. Patterns are matched on the encoded path, segment by segment, as a Go router that uses encoded paths
 * does: "%2F" inside a segment is not a slash. All of it runs on the I/O thread with no memory but the request's arena.
 */
#include <ctype.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "net/http_int.h"

/* --- entries --------------------------------------------------------------------------------------------------- */

/* The label: runs of other characters than letters and digits become one '_', none at the ends, lower case; "/" is "root". */
static char *label_of(const char *path)
{
    char *label = malloc(strlen(path) + sizeof "root");
    ASSERT(label);
    size_t n = 0;
    for (const char *p = path; *p; p++) {
        if (isalnum((unsigned char)*p))
            label[n++] = (char)tolower((unsigned char)*p);
        else if (n && label[n - 1] != '_')
            label[n++] = '_';
    }
    while (n && label[n - 1] == '_')
        n--;
    label[n] = '\0';
    if (n == 0)
        memcpy(label, "root", sizeof "root");
    return label;
}

/* "/v1/" + "/prometheus" + "/api" without a doubled slash where the parts meet. */
static char *join(const char *const parts[], size_t n_parts)
{
    struct buf out;
    buf_init(&out, 4096);
    for (size_t i = 0; i < n_parts; i++) {
        const char *part = parts[i];
        if (*part == '\0')
            continue;
        if (*part != '/')
            buf_putc(&out, '/');
        if (out.n && out.p[out.n - 1] == '/')
            out.n--;
        buf_puts(&out, part);
    }
    buf_putc(&out, '\0');
    ASSERT(!out.failed);
    size_t n;
    return buf_steal(&out, &n);
}

void http_entry_init(struct http_entry *e, struct http_group *group, const struct http_route *route, const char *path_prefix,
                     const char *prefix)
{
    const char *parts[] = {path_prefix, route->flags & HTTP_PREFIX ? prefix : "", route->path};
    *e = (struct http_entry){.route = route, .group = group};
    e->path = join(parts, ARRAY_LEN(parts));
    e->has_vars = strchr(e->path, '{') != NULL;
    e->label = label_of(e->path);
}

void http_entry_release(struct http_entry *e)
{
    for (size_t i = 0; i < HTTP_METHODS; i++)
        free(e->stats[i]);
    free(e->path);
    free(e->label);
}

/* --- decoding -------------------------------------------------------------------------------------------------- */

static int hex(char c)
{
    if (c >= '0' && c <= '9')
        return c - '0';
    c = (char)(c | 0x20);
    return c >= 'a' && c <= 'f' ? c - 'a' + 10 : -1;
}

bool http_decode(struct arena *a, struct slice in, bool plus, struct slice *ret, struct slice *ret_bad)
{
    if (!in.n || (!memchr(in.p, '%', in.n) && !(plus && memchr(in.p, '+', in.n)))) {
        *ret = slice_make(in.n ? in.p : "", in.n);
        return true;
    }
    char *out = arena_alloc(a, in.n);
    size_t n = 0;
    if (!out) {
        *ret_bad = SL("");
        return false;
    }
    for (size_t i = 0; i < in.n; i++) {
        char c = in.p[i];
        if (c == '%') {
            int high = i + 2 < in.n ? hex(in.p[i + 1]) : -1;
            int low = i + 2 < in.n ? hex(in.p[i + 2]) : -1;
            if (high < 0 || low < 0) {
                *ret_bad = slice_make(in.p + i, MIN(in.n - i, (size_t)3));
                return false;
            }
            c = (char)(high << 4 | low);
            i += 2;
        } else if (c == '+' && plus) {
            c = ' ';
        }
        out[n++] = c;
    }
    *ret = slice_make(out, n);
    return true;
}

/* --- matching -------------------------------------------------------------------------------------------------- */

/* Fills vars (encoded values). Both paths begin with '/'. */
static bool match_pattern(const char *pattern, struct slice path, struct http_kv *vars, size_t *ret_n_vars)
{
    const char *p = path.p;
    const char *end = path.p + path.n;
    size_t n = 0;
    while (*pattern) {
        if (*pattern != '{') {
            if (p == end || *p != *pattern)
                return false;
            p++, pattern++;
            continue;
        }
        const char *close = strchr(pattern, '}');
        ASSERT(close && n < HTTP_MAX_VARS);
        bool rest = close - pattern > 4 && memcmp(close - 3, "...", 3) == 0;
        const char *value = p;
        while (p < end && (rest || *p != '/'))
            p++;
        if (p == value && !rest)
            return false;
        vars[n].name = slice_make(pattern + 1, (size_t)(close - pattern) - 1 - (rest ? 3 : 0));
        vars[n++].value = slice_make(value, (size_t)(p - value));
        pattern = close + 1;
    }
    *ret_n_vars = n;
    return p == end;
}

static bool match_entry(const struct http_entry *e, struct slice path, struct http_kv *vars, size_t *ret_n_vars)
{
    if (e->has_vars)
        return match_pattern(e->path, path, vars, ret_n_vars);
    *ret_n_vars = 0;
    return slice_eq(slice_of(e->path), path);
}

/* Sets entry and vars when path and method fit; returns the methods that the path has. */
static int find_entry(struct http_request *req)
{
    struct http_server *s = req->server;
    int methods = 0;
    for (int pass = 0; pass < 2; pass++) {
        for (size_t i = 0; i < s->n_entries; i++) {
            struct http_entry *e = &s->entries[i];
            if (e->has_vars != (pass == 1) || !match_entry(e, req->path, req->vars, &req->n_vars))
                continue;
            methods |= e->route->methods;
            if (e->route->methods & (int)req->method) {
                req->entry = e;
                return methods;
            }
        }
        if (methods)
            break; /* a literal path hides patterns */
    }
    return methods;
}

static bool decode_vars(struct http_request *req)
{
    for (size_t i = 0; i < req->n_vars; i++) {
        struct slice bad;
        if (!http_decode(&req->arena, req->vars[i].value, false, &req->vars[i].value, &bad))
            return false;
    }
    return true;
}

/* --- the path's form ------------------------------------------------------------------------------------------- */

/* An absolute target ("GET http://host/path", as proxies get it) loses scheme and host. */
static struct slice without_host(struct slice target)
{
    const char *sep = target.n && target.p[0] != '/' ? memmem(target.p, target.n, "://", 3) : NULL;
    if (!sep)
        return target;
    const char *host = sep + 3;
    const char *end = target.p + target.n;
    const char *path = host;
    while (path < end && *path != '/' && *path != '?')
        path++;
    return slice_make(path, (size_t)(end - path));
}

static bool is_clean(struct slice path)
{
    for (size_t i = 0; i < path.n; i++) {
        if (path.p[i] != '/')
            continue;
        struct slice rest = slice_make(path.p + i + 1, path.n - i - 1);
        if (slice_has_prefix(rest, SL("/")) || slice_eq(rest, SL(".")) || slice_eq(rest, SL("..")) ||
            slice_has_prefix(rest, SL("./")) || slice_has_prefix(rest, SL("../")))
            return false;
    }
    return true;
}

/* Empty segments and "." go, ".." takes the segment before it; a slash at the end stays. out has room for path.n + 1 bytes. */
static size_t clean_path(struct slice path, char *out)
{
    size_t n = 0;
    const char *p = path.p;
    const char *end = path.p + path.n;
    while (p < end) {
        const char *start = ++p; /* past the '/' */
        while (p < end && *p != '/')
            p++;
        struct slice segment = slice_make(start, (size_t)(p - start));
        if (slice_eq(segment, SL(".."))) {
            while (n && out[--n] != '/')
                ;
        } else if (segment.n && !slice_eq(segment, SL("."))) {
            out[n++] = '/';
            memcpy(out + n, segment.p, segment.n);
            n += segment.n;
        }
    }
    if (n == 0 || path.p[path.n - 1] == '/')
        out[n++] = '/';
    return n;
}

static void redirect_to_clean(struct http_request *req)
{
    char *location = arena_alloc(&req->arena, req->path.n + req->query.n + 3);
    if (!location) {
        http_respond_text_error(req, 500, "out of memory");
        return;
    }
    size_t n = clean_path(req->path, location);
    if (req->query.n) {
        location[n++] = '?';
        memcpy(location + n, req->query.p, req->query.n);
        n += req->query.n;
    }
    location[n] = '\0';
    http_set_header(req, "Location", location);
    http_respond_status(req, 301);
}

static void refuse_method(struct http_request *req, int methods)
{
    struct buf allow;
    buf_init(&allow, 256);
    for (int bit = 1; bit < HTTP_OTHER; bit <<= 1)
        if (methods & bit)
            buf_printf(&allow, "%s%s", allow.n ? ", " : "", http_method_name((enum http_method)bit));
    http_set_header(req, "Allow", buf_cstr(&allow));
    char text[512];
    snprintf(text, sizeof text, "method %s is not allowed here, use %s", http_method_name(req->method), buf_cstr(&allow));
    buf_release(&allow);
    http_respond_text_error(req, 405, text);
}

bool http_route_request(struct http_request *req)
{
    struct slice target = without_host(req->target);
    const char *mark = target.n ? memchr(target.p, '?', target.n) : NULL;
    req->path = slice_make(target.p, mark ? (size_t)(mark - target.p) : target.n);
    if (mark)
        req->query = slice_make(mark + 1, target.n - req->path.n - 1);
    if (req->path.n == 0)
        req->path = SL("/");
    if (req->path.p[0] != '/') { /* "*", or nonsense */
        http_respond_text_error(req, 404, "404 page not found");
        return false;
    }
    if (!is_clean(req->path)) {
        redirect_to_clean(req);
        return false;
    }
    int methods = find_entry(req);
    if (req->entry == &req->server->other) {
        if (methods)
            refuse_method(req, methods);
        else
            http_respond_text_error(req, 404, "404 page not found");
        return false;
    }
    if (!decode_vars(req)) {
        req->entry = &req->server->other;
        http_respond_text_error(req, 400, "400 Bad Request: invalid URL escape in the path");
        return false;
    }
    return true;
}
