/* Target and form body of a request, up to the first NUL and after it: routing, cleaning, redirects, escapes, parameters. */
#include <stdlib.h>
#include <string.h>

#include "net/http_int.h"

static void nothing(struct http_request *req, void *arg)
{
    (void)req, (void)arg;
}

static bool any_tenant(void *arg, struct slice header, struct slice *ret_tenant, struct err *err)
{
    (void)arg, (void)header, (void)err;
    *ret_tenant = SL("t");
    return true;
}

static const struct http_route routes[] = {
    {HTTP_GET, "/", HTTP_POOL_INLINE, 0, nothing, ""},
    {HTTP_POST, "/a", HTTP_POOL_INLINE, 0, nothing, ""},
    {HTTP_POST, "/a/{x}/b/{y}", HTTP_POOL_INLINE, HTTP_PREFIX, nothing, ""},
    {HTTP_POST, "/s/{rest...}", HTTP_POOL_INLINE, 0, nothing, ""},
};

static struct http_server *server(void)
{
    static struct http_server *s;
    static struct http_config cfg = {.http_path_prefix = ""};
    if (!s) {
        s = http_server_new(&cfg, (struct http_limits){.max_body_bytes = 1 << 20}, any_tenant, NULL);
        http_server_add(s, "/p", routes, ARRAY_LEN(routes), NULL);
    }
    return s;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n)
{
    struct http_server *s = server();
    struct http_request *req = calloc(1, sizeof *req);
    static struct http_kv form[] = {{{"Content-Type", 12}, {"application/x-www-form-urlencoded", 33}}};
    atomic_init(&req->refs, 1);
    atomic_fetch_add(&s->refs, 1);
    pthread_mutex_init(&req->lock, NULL);
    arena_init(&req->arena, 0);
    req->server = s;
    req->entry = &s->other;
    req->method = HTTP_POST;
    req->headers = form;
    req->n_headers = 1;
    const uint8_t *nul = n ? memchr(data, 0, n) : NULL;
    size_t n_target = nul ? (size_t)(nul - data) : n;
    req->target = arena_dup(&req->arena, slice_make(data, n_target));
    buf_init(&req->body, 0);
    if (nul)
        buf_put(&req->body, nul + 1, n - n_target - 1);
    if (http_route_request(req)) {
        size_t sum = 0;
        for (size_t i = 0; i < req->n_vars; i++)
            sum += http_path_var(req, i ? "y" : "x").n;
        ASSERT(sum <= n_target);
    } else {
        ASSERT(req->state == HTTP_STATE_ANSWERED && req->status >= 300);
    }
    struct err err = ERR_NONE;
    const struct slice *values;
    (void)http_params_check(req, &err);
    size_t n_values = http_params(req, "m", &values);
    for (size_t i = 0; i < n_values; i++)
        ASSERT(values[i].n <= n);
    http_unref(req);
    return 0;
}
