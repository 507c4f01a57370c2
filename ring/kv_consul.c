/*
 * The store on Consul, over its HTTP API (libcurl). A document's version is its key's ModifyIndex; a compare-and-swap is PUT ?cas=<index>, which Consul
 * answers true or false.
 *
 *     GET    /v1/kv/<key>[?recurse][&index=N&wait=10s]   200: [{"Key", "Value": base64 or null, "ModifyIndex"}], 404: nothing there
 *     GET    /v1/kv/<prefix>?keys                        200: ["key"], 404: none
 *     PUT    /v1/kv/<key>?cas=N                          200: true or false
 *     DELETE /v1/kv/<key>                                200
 *
 * A watch repeats a blocking query: Consul answers when something has changed since the index that the last answer named (X-Consul-Index), or when the wait is
 * over. An index that goes backwards or is 0 means to begin anew. Reads are never Consul's stale ones, from any server that may lag behind: a watch must
 * not tell an older version after a newer one. -consul.consistent-reads adds the leader's confirmation.
 *
 * Threads: callers' threads, each operation with a connection of its own; each watch keeps one. A watch that is to stop is woken out of its query.
 */
#include <curl/curl.h>
#include <inttypes.h>
#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/assert.h"
#include "base/base64.h"
#include "base/clock.h"
#include "ring/kv_remote_int.h"

#define CAS_TRIES 10
#define WAIT_MS 10000
#define ANSWER_MAX (KV_DOCUMENT_MAX * 3 / 2)

struct consul {
    struct remote remote;
    char *url;                  /* "http://localhost:8500/v1/kv/" */
    struct curl_slist *headers; /* the token, what the bodies are */
    int64_t timeout_ms;
    bool consistent;
    double rate;  /* of a watch's reads, a second; 0: no limit */
    double burst;
};

struct answer {
    long status;
    uint64_t index; /* X-Consul-Index; 0: none */
    struct buf body;
};

static struct consul *consul_of(struct remote *r)
{
    return CONTAINER_OF(r, struct consul, remote);
}

/* --- HTTP ------------------------------------------------------------------------------------------------------------- */

static size_t take_body(char *p, size_t size, size_t n, void *arg)
{
    struct answer *a = arg;
    buf_put(&a->body, p, size * n);
    return a->body.failed ? 0 : size * n;
}

static size_t take_header(char *p, size_t size, size_t n, void *arg)
{
    static const char name[] = "x-consul-index:";
    struct answer *a = arg;
    char number[32];
    size_t len = size * n, skip = sizeof(name) - 1;
    if (len > skip && len - skip < sizeof(number) && strncasecmp(p, name, skip) == 0) {
        memcpy(number, p + skip, len - skip);
        number[len - skip] = 0;
        a->index = strtoull(number, NULL, 10);
    }
    return len;
}

static void put_escaped(struct buf *out, struct slice key)
{
    static const char plain[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-._~/";
    for (size_t i = 0; i < key.n; i++) {
        if (key.p[i] && strchr(plain, key.p[i]))
            buf_putc(out, key.p[i]);
        else
            buf_printf(out, "%%%02X", (unsigned char)key.p[i]);
    }
}

/* A handle for one request after another. */
static CURL *handle_new(const struct consul *c)
{
    CURL *h = curl_easy_init();
    ASSERT(h);
    curl_easy_setopt(h, CURLOPT_NOSIGNAL, 1L);
    curl_easy_setopt(h, CURLOPT_TIMEOUT_MS, (long)c->timeout_ms);
    curl_easy_setopt(h, CURLOPT_HTTPHEADER, c->headers);
    curl_easy_setopt(h, CURLOPT_WRITEFUNCTION, take_body);
    curl_easy_setopt(h, CURLOPT_HEADERFUNCTION, take_header);
    return h;
}

/* What the next request is. The body is not copied. */
static void set_request(const struct consul *c, CURL *h, const char *method, struct slice key, const char *query, struct slice body,
                        struct answer *a)
{
    struct buf url;
    buf_init(&url, 0);
    buf_puts(&url, c->url);
    put_escaped(&url, key);
    buf_puts(&url, query);
    curl_easy_setopt(h, CURLOPT_URL, buf_cstr(&url)); /* copied */
    buf_release(&url);
    curl_easy_setopt(h, CURLOPT_HTTPGET, 1L);
    if (body.p) {
        curl_easy_setopt(h, CURLOPT_POSTFIELDS, body.p);
        curl_easy_setopt(h, CURLOPT_POSTFIELDSIZE_LARGE, (curl_off_t)body.n);
    }
    curl_easy_setopt(h, CURLOPT_CUSTOMREQUEST, method);
    curl_easy_setopt(h, CURLOPT_WRITEDATA, a);
    curl_easy_setopt(h, CURLOPT_HEADERDATA, a);
    a->status = 0;
    a->index = 0;
    buf_clear(&a->body);
    a->body.max = ANSWER_MAX;
}

/* Only 200 and 404 are answers. */
static bool check_answer(CURL *h, CURLcode code, struct answer *a, struct err *err)
{
    if (code == CURLE_OPERATION_TIMEDOUT)
        return err_set(err, ERR_TIMEOUT, "consul: %s", curl_easy_strerror(code));
    if (code == CURLE_WRITE_ERROR)
        return err_set(err, ERR_TOO_LARGE, "consul: the answer is larger than %zu bytes", ANSWER_MAX);
    if (code != CURLE_OK)
        return err_set(err, ERR_UNAVAILABLE, "consul: %s", curl_easy_strerror(code));
    curl_easy_getinfo(h, CURLINFO_RESPONSE_CODE, &a->status);
    if (a->status == 200 || a->status == 404)
        return true;
    enum err_code class = a->status == 401 || a->status == 403   ? ERR_UNAUTHENTICATED
                          : a->status == 413                     ? ERR_TOO_LARGE
                          : a->status >= 500 || a->status == 429 ? ERR_UNAVAILABLE
                                                                 : ERR_INTERNAL;
    struct slice text = buf_slice(&a->body);
    return err_set(err, class, "consul: HTTP status %ld: %.*s", a->status, (int)MIN(text.n, (size_t)200), text.p ? text.p : "");
}

static bool request(struct consul *c, const char *method, struct slice key, const char *query, struct slice body, struct answer *a,
                    struct err *err)
{
    CURL *h = handle_new(c);
    set_request(c, h, method, key, query, body, a);
    bool ok = check_answer(h, curl_easy_perform(h), a, err);
    curl_easy_cleanup(h);
    return ok;
}

/* --- JSON ------------------------------------------------------------------------------------------------------------- */

/* Called with the bytes of a value, which live during the call. */
typedef void pair_fn(void *arg, struct slice key, struct slice bytes, uint64_t version);

static bool read_pair(const json_t *pair, pair_fn *fn, void *arg)
{
    const json_t *key = json_object_get(pair, "Key"), *value = json_object_get(pair, "Value");
    json_int_t version = json_integer_value(json_object_get(pair, "ModifyIndex"));
    if (!json_is_string(key) || version <= 0)
        return false;
    struct buf bytes;
    buf_init(&bytes, KV_DOCUMENT_MAX);
    bool ok = json_is_null(value) ||
              (json_is_string(value) && base64_decode(slice_make(json_string_value(value), json_string_length(value)), &bytes));
    if (ok)
        fn(arg, slice_make(json_string_value(key), json_string_length(key)), buf_slice(&bytes), (uint64_t)version);
    buf_release(&bytes);
    return ok;
}

/* The answer is a list; NULL and ERR_CORRUPT otherwise. */
static json_t *load_list(const struct answer *a, struct err *err)
{
    json_error_t why;
    json_t *list = json_loadb(a->body.p ? a->body.p : "", a->body.n, JSON_ALLOW_NUL, &why);
    if (json_is_array(list))
        return list;
    json_decref(list);
    err_set(err, ERR_CORRUPT, "consul: the answer is no JSON list");
    return NULL;
}

static bool read_pairs(const struct answer *a, pair_fn *fn, void *arg, struct err *err)
{
    if (a->status == 404)
        return true;
    json_t *list = load_list(a, err);
    if (!list)
        return false;
    bool ok = true;
    for (size_t i = 0; ok && i < json_array_size(list); i++)
        ok = read_pair(json_array_get(list, i), fn, arg);
    json_decref(list);
    return ok || err_set(err, ERR_CORRUPT, "consul: the answer has an entry without key, value or index");
}

/* --- operations ------------------------------------------------------------------------------------------------------- */

static void take_document(void *arg, struct slice key, struct slice bytes, uint64_t version)
{
    (void)key;
    struct remote_document *doc = arg;
    buf_clear(&doc->bytes);
    buf_put_slice(&doc->bytes, bytes);
    doc->version = version;
}

static bool consul_read(struct remote *r, struct slice key, struct remote_document *ret, struct err *err)
{
    struct consul *c = consul_of(r);
    struct answer a = {0};
    bool ok = request(c, "GET", key, c->consistent ? "?consistent" : "", slice_of(NULL), &a, err) &&
              read_pairs(&a, take_document, ret, err);
    buf_release(&a.body);
    return ok;
}

static bool consul_write(struct remote *r, struct slice key, struct slice bytes, uint64_t version, bool *ret_conflict, struct err *err)
{
    struct answer a = {0};
    char query[32];
    snprintf(query, sizeof(query), "?cas=%" PRIu64, version);
    bool ok = request(consul_of(r), "PUT", key, query, slice_make(bytes.p ? bytes.p : "", bytes.n), &a, err);
    *ret_conflict = !slice_has_prefix(buf_slice(&a.body), SL("true"));
    buf_release(&a.body);
    return ok;
}

static bool consul_remove(struct remote *r, struct slice key, struct err *err)
{
    struct answer a = {0};
    bool ok = request(consul_of(r), "DELETE", key, "", slice_of(NULL), &a, err);
    buf_release(&a.body);
    return ok;
}

static bool consul_list(struct remote *r, struct slice prefix, kv_name_fn *fn, void *arg, struct err *err)
{
    struct answer a = {0};
    json_t *list = NULL;
    bool ok = request(consul_of(r), "GET", prefix, "?keys", slice_of(NULL), &a, err) &&
              (a.status == 404 || (list = load_list(&a, err)));
    for (size_t i = 0; i < json_array_size(list); i++) {
        const json_t *key = json_array_get(list, i);
        if (json_is_string(key))
            fn(arg, slice_make(json_string_value(key), json_string_length(key)));
    }
    json_decref(list);
    buf_release(&a.body);
    return ok;
}

/* --- watches ---------------------------------------------------------------------------------------------------------- */

/* The state of one watch's queries. */
struct query {
    CURLM *multi;
    CURL *h;
    struct answer a;
    uint64_t index;
    double tokens; /* of the rate limit */
    int64_t counted_ms;
};

/* Waits until another read may be made; false when the watch is to stop. */
static bool wait_turn(const struct consul *c, struct kv_watch *w, struct query *q)
{
    if (c->rate <= 0)
        return !watch_stopping(w);
    for (;;) {
        int64_t now_ms = clock_mono_ms();
        q->tokens = MIN(c->burst, q->tokens + (double)(now_ms - q->counted_ms) * c->rate / 1000);
        q->counted_ms = now_ms;
        if (q->tokens >= 1)
            break;
        if (!watch_sleep(w, (int64_t)((1 - q->tokens) * 1000 / c->rate) + 1))
            return false;
    }
    q->tokens -= 1;
    return !watch_stopping(w);
}

/* Until it is answered; false with ERR_CANCELED when the watch is to stop. */
static bool perform(struct kv_watch *w, struct query *q, struct err *err)
{
    int running = 1, left;
    CURLcode code = CURLE_FAILED_INIT;
    curl_multi_add_handle(q->multi, q->h);
    while (running && !watch_stopping(w) && curl_multi_perform(q->multi, &running) == CURLM_OK && running)
        curl_multi_poll(q->multi, NULL, 0, 1000, NULL);
    for (CURLMsg *m; (m = curl_multi_info_read(q->multi, &left));)
        if (m->msg == CURLMSG_DONE)
            code = m->data.result;
    curl_multi_remove_handle(q->multi, q->h);
    if (watch_stopping(w))
        return err_set(err, ERR_CANCELED, "the watch ends");
    return check_answer(q->h, code, &q->a, err);
}

static void tell_pair(void *arg, struct slice key, struct slice bytes, uint64_t version)
{
    watch_tell(arg, key, bytes, version);
}

/* One blocking query and what it brings. */
static bool follow_once(const struct consul *c, struct kv_watch *w, struct query *q, struct err *err)
{
    char query[128];
    snprintf(query, sizeof(query), "?index=%" PRIu64 "&wait=%" PRId64 "ms%s%s", q->index, MIN(WAIT_MS, c->timeout_ms / 2),
             w->is_prefix ? "&recurse" : "", c->consistent ? "&consistent" : "");
    set_request(c, q->h, "GET", watch_key(w), query, slice_of(NULL), &q->a);
    if (!perform(w, q, err))
        return false;
    if (q->a.index == 0)
        return err_set(err, ERR_CORRUPT, "consul: the answer has no X-Consul-Index");
    if (q->a.index == q->index)
        return true; /* nothing new */
    watch_snapshot_begin(w);
    if (!read_pairs(&q->a, tell_pair, w, err))
        return false;
    watch_snapshot_end(w);
    q->index = q->a.index < q->index ? 0 : q->a.index;
    return true;
}

static void set_transport(struct kv_watch *w, void *transport)
{
    pthread_mutex_lock(&w->lock);
    w->transport = transport;
    pthread_mutex_unlock(&w->lock);
}

static bool consul_follow(struct remote *r, struct kv_watch *w, struct err *err)
{
    struct consul *c = consul_of(r);
    struct query q = {.multi = curl_multi_init(), .h = handle_new(c), .tokens = c->burst, .counted_ms = clock_mono_ms()};
    ASSERT(q.multi);
    set_transport(w, q.multi);
    while (wait_turn(c, w, &q) && follow_once(c, w, &q, err))
        ;
    set_transport(w, NULL);
    curl_easy_cleanup(q.h);
    curl_multi_cleanup(q.multi);
    buf_release(&q.a.body);
    return false;
}

static void consul_wake(struct kv_watch *w)
{
    if (w->transport)
        curl_multi_wakeup(w->transport);
}

/* --- life cycle ------------------------------------------------------------------------------------------------------- */

static void consul_free(struct remote *r)
{
    struct consul *c = consul_of(r);
    curl_slist_free_all(c->headers);
    free(c->url);
    free(c);
}

static const struct remote_ops consul_ops = {
    .name = "consul",
    .read = consul_read,
    .write = consul_write,
    .remove = consul_remove,
    .list = consul_list,
    .follow = consul_follow,
    .wake = consul_wake,
    .free = consul_free,
};

static bool check_config(const struct kv_config *cfg, const char *flag, struct err *err)
{
    if (!cfg->consul_host[0])
        return err_set(err, ERR_CONFIG, "-%sconsul.hostname is empty; the store consul needs an address", flag);
    if (cfg->consul_http_client_timeout <= 0)
        return err_set(err, ERR_CONFIG, "-%sconsul.client-timeout must be greater than 0", flag);
    if (cfg->consul_watch_rate_limit > 0 && cfg->consul_watch_burst_size < 1)
        return err_set(err, ERR_CONFIG, "-%sconsul.watch-burst-size must be at least 1 with a rate limit", flag);
    if (cfg->consul_cas_retry_delay < 0)
        return err_set(err, ERR_CONFIG, "-%sconsul.cas-retry-delay must not be negative", flag);
    if (strpbrk(cfg->consul_acl_token, "\r\n"))
        return err_set(err, ERR_CONFIG, "-%sconsul.acl-token holds a line break", flag);
    return true;
}

static void add_header(struct consul *c, const char *name, const char *value)
{
    struct buf line = {0};
    buf_printf(&line, "%s: %s", name, value);
    c->headers = curl_slist_append(c->headers, buf_cstr(&line));
    ASSERT(c->headers);
    buf_release(&line);
}

static void init_curl(void)
{
    CURLcode code = curl_global_init(CURL_GLOBAL_DEFAULT);
    ASSERT(code == CURLE_OK);
}

struct kv *kv_consul_new(const struct kv_config *cfg, const char *flag, struct err *err)
{
    static pthread_once_t once = PTHREAD_ONCE_INIT;
    if (!check_config(cfg, flag, err))
        return NULL;
    pthread_once(&once, init_curl);
    struct consul *c = calloc(1, sizeof(*c));
    ASSERT(c);
    remote_init(&c->remote, &consul_ops, CAS_TRIES, cfg->consul_cas_retry_delay);
    struct buf url = {0};
    buf_printf(&url, "%s%s/v1/kv/", strstr(cfg->consul_host, "://") ? "" : "http://", cfg->consul_host);
    buf_putc(&url, 0);
    size_t n;
    ASSERT(!url.failed);
    c->url = buf_steal(&url, &n);
    add_header(c, "Content-Type", "application/octet-stream");
    if (cfg->consul_acl_token[0])
        add_header(c, "X-Consul-Token", cfg->consul_acl_token);
    c->timeout_ms = cfg->consul_http_client_timeout;
    c->consistent = cfg->consul_consistent_reads;
    c->rate = cfg->consul_watch_rate_limit;
    c->burst = (double)cfg->consul_watch_burst_size;
    return &c->remote.kv;
}
