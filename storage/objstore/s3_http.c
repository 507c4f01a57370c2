/* One request to an S3 server: signed, sent, its answer judged. See s3_int.h. */
#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <strings.h>
#include <unistd.h>

#include "base/assert.h"
#include "base/clock.h"
#include "base/logger.h"
#include "storage/objstore/s3_int.h"

void s3_escape(struct buf *out, struct slice s, bool keep_slashes)
{
    static const char plain[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-._~";
    for (size_t i = 0; i < s.n; i++) {
        if (s.p[i] && (strchr(plain, s.p[i]) || (keep_slashes && s.p[i] == '/')))
            buf_putc(out, s.p[i]);
        else
            buf_printf(out, "%%%02X", (unsigned char)s.p[i]);
    }
}

/* --- one exchange ---------------------------------------------------------------------------------------------------- */

struct exchange {
    struct s3 *s;
    const struct ctx *ctx;
    struct s3_request *r;
    struct s3_answer *a;
    CURL *easy;
    uint64_t sent;      /* bytes of the body */
    bool out_full;      /* the answer is larger than there is room for */
    bool range_ignored; /* 200 on a range */
    bool local_failed;  /* the file could not be read */
    curl_off_t moved;   /* bytes, when they were last counted */
    int64_t moved_ms;
    char text[CURL_ERROR_SIZE];
};

static size_t give_body(char *p, size_t size, size_t n, void *arg)
{
    struct exchange *x = arg;
    struct s3_request *r = x->r;
    size_t room = size * n;
    if (r->fd < 0) {
        room = MIN(room, r->body.n - (size_t)x->sent);
        if (room)
            memcpy(p, r->body.p + x->sent, room);
    } else {
        ssize_t got = pread(r->fd, p, (size_t)MIN((uint64_t)room, r->file_n - x->sent), (off_t)(r->file_offset + x->sent));
        x->local_failed = got < 0 || (got == 0 && x->sent < r->file_n);
        if (x->local_failed)
            return CURL_READFUNC_ABORT;
        room = (size_t)got;
    }
    x->sent += room;
    return room;
}

/* libcurl begins a body anew when a kept connection turns out to be closed. */
static int seek_body(void *arg, curl_off_t offset, int origin)
{
    struct exchange *x = arg;
    if (origin != SEEK_SET || offset < 0)
        return CURL_SEEKFUNC_CANTSEEK;
    x->sent = (uint64_t)offset;
    return CURL_SEEKFUNC_OK;
}

static bool status_is_good(long status)
{
    return status >= 200 && status < 300;
}

static size_t take_body(char *p, size_t size, size_t n, void *arg)
{
    struct exchange *x = arg;
    struct s3_answer *a = x->a;
    long status = 0;
    curl_easy_getinfo(x->easy, CURLINFO_RESPONSE_CODE, &status);
    if (!status_is_good(status)) {
        size_t room = S3_ERROR_BODY_MAX - MIN(a->body.n, S3_ERROR_BODY_MAX);
        buf_put(&a->body, p, MIN(room, size * n)); /* the rest of an error is of no use */
        return size * n;
    }
    x->range_ignored = x->r->range && status != 206;
    struct buf *out = x->r->out ? x->r->out : &a->body;
    size_t max = out->max ? out->max : BUF_MAX_DEFAULT;
    x->out_full = size * n > max - out->n;
    if (x->range_ignored || x->out_full || !buf_reserve(out, size * n)) {
        x->out_full = !x->range_ignored;
        return 0;
    }
    buf_put(out, p, size * n);
    return size * n;
}

/* The value of the header when it has this name; p NULL else. */
static struct slice header_value(struct slice line, const char *name)
{
    size_t n = strlen(name);
    if (line.n <= n || line.p[n] != ':' || strncasecmp(line.p, name, n) != 0)
        return (struct slice){0};
    line = slice_make(line.p + n + 1, line.n - n - 1);
    while (line.n && (line.p[0] == ' ' || line.p[0] == '\t'))
        line.p++, line.n--;
    while (line.n && strchr("\r\n \t", line.p[line.n - 1]))
        line.n--;
    return line;
}

/* Cut, without quotes. */
static void copy_value(char *ret, size_t cap, struct slice v)
{
    if (v.n >= 2 && v.p[0] == '"' && v.p[v.n - 1] == '"')
        v = slice_make(v.p + 1, v.n - 2);
    snprintf(ret, cap, "%.*s", (int)MIN(v.n, cap), v.p);
}

/* "bytes 0-9/100" or "bytes * /100" (without the blank). */
static void read_content_range(struct s3_answer *a, struct slice v)
{
    char text[96];
    uint64_t first, last, total;
    copy_value(text, sizeof(text), v);
    if (sscanf(text, "bytes %" SCNu64 "-%" SCNu64 "/%" SCNu64, &first, &last, &total) == 3) {
        a->range_first = first;
        a->range_total = total;
    } else if (sscanf(text, "bytes */%" SCNu64, &total) == 1) {
        a->range_total = total;
    }
}

static void answer_clear(struct s3_answer *a)
{
    struct buf body = a->body;
    *a = (struct s3_answer){.body = body, .length = UINT64_MAX, .range_first = UINT64_MAX, .range_total = UINT64_MAX};
    buf_clear(&a->body);
    a->body.max = S3_ANSWER_MAX;
}

static size_t take_header(char *p, size_t size, size_t n, void *arg)
{
    struct exchange *x = arg;
    struct s3_answer *a = x->a;
    struct slice line = slice_make(p, size * n), v;
    char text[64];
    if (slice_has_prefix(line, SL("HTTP/")))
        answer_clear(a); /* another answer's begin: before it was 100 Continue */
    else if ((v = header_value(line, "ETag")).p)
        copy_value(a->etag, sizeof(a->etag), v);
    else if ((v = header_value(line, "Content-Length")).p) {
        copy_value(text, sizeof(text), v);
        sscanf(text, "%" SCNu64, &a->length);
    } else if ((v = header_value(line, "Content-Range")).p)
        read_content_range(a, v);
    else if ((v = header_value(line, "Last-Modified")).p) {
        copy_value(text, sizeof(text), v);
        a->modified_ms = MAX((int64_t)curl_getdate(text, NULL), 0) * 1000;
    } else if ((v = header_value(line, "x-amz-bucket-region")).p)
        copy_value(a->region, sizeof(a->region), v);
    return size * n;
}

static int count_bytes(void *arg, curl_off_t down_total, curl_off_t down, curl_off_t up_total, curl_off_t up)
{
    struct exchange *x = arg;
    (void)down_total, (void)up_total;
    if (down + up != x->moved) {
        x->moved = down + up;
        x->moved_ms = clock_mono_ms();
    }
    return 0;
}

#define SET(option, value)                                                                                             \
    do {                                                                                                               \
        CURLcode set_ = curl_easy_setopt(x->easy, option, value);                                                      \
        ASSERT(set_ == CURLE_OK);                                                                                      \
    } while (0)

static void set_connection(struct exchange *x)
{
    const struct s3_config *c = &x->s->cfg;
    SET(CURLOPT_NOSIGNAL, 1L);
    SET(CURLOPT_PROTOCOLS_STR, "http,https");
    SET(CURLOPT_HTTP_VERSION, (long)CURL_HTTP_VERSION_1_1);
    SET(CURLOPT_QUICK_EXIT, 1L); /* a call that is canceled does not wait for a name server */
    SET(CURLOPT_CONNECTTIMEOUT_MS, (long)c->connect_ms);
    SET(CURLOPT_EXPECT_100_TIMEOUT_MS, (long)MAX(c->continue_ms, 1));
    if (c->idle_ms)
        SET(CURLOPT_MAXAGE_CONN, (long)MAX(c->idle_ms / 1000, 1));
    SET(CURLOPT_CONNECT_TO, c->connect_to);
    SET(CURLOPT_SSLVERSION, (long)CURL_SSLVERSION_TLSv1_2);
    SET(CURLOPT_SSL_VERIFYPEER, c->skip_verify ? 0L : 1L);
    SET(CURLOPT_SSL_VERIFYHOST, c->skip_verify ? 0L : 2L);
    if (c->ca_path[0]) {
        SET(CURLOPT_CAINFO, c->ca_path);
        SET(CURLOPT_CAPATH, NULL);
    }
    if (c->cert_path[0]) {
        SET(CURLOPT_SSLCERT, c->cert_path);
        SET(CURLOPT_SSLKEY, c->key_path);
    }
}

static void set_url(struct exchange *x)
{
    struct buf url;
    buf_init(&url, 0);
    buf_puts(&url, x->s->cfg.base_url);
    s3_escape(&url, x->r->name, true);
    if (x->r->query[0])
        buf_printf(&url, "?%s", x->r->query);
    SET(CURLOPT_URL, buf_cstr(&url)); /* copied */
    SET(CURLOPT_PATH_AS_IS, 1L);
    buf_release(&url);
}

/* The headers of the exchange; to be freed after it. */
static struct curl_slist *headers_of(const struct exchange *x)
{
    const struct s3_config *c = &x->s->cfg;
    char line[512];
    struct curl_slist *l = NULL;
    snprintf(line, sizeof(line), "x-amz-content-sha256: %s", x->r->sha256);
    l = curl_slist_append(l, line);
    if (x->r->content_type) {
        snprintf(line, sizeof(line), "Content-Type: %s", x->r->content_type);
        l = curl_slist_append(l, line);
    }
    if (x->r->md5[0]) {
        snprintf(line, sizeof(line), "Content-MD5: %s", x->r->md5);
        l = curl_slist_append(l, line);
    }
    for (const struct curl_slist *h = c->headers; h; h = h->next)
        l = curl_slist_append(l, h->data);
    for (const struct curl_slist *h = x->r->makes_object ? c->object_headers : NULL; h; h = h->next)
        l = curl_slist_append(l, h->data);
    ASSERT(l);
    return s3_sign(c, x->r, l);
}

static void set_request(struct exchange *x, struct curl_slist *headers)
{
    struct s3_request *r = x->r;
    set_url(x);
    if (strcmp(r->method, "HEAD") == 0) {
        SET(CURLOPT_NOBODY, 1L);
    } else if (strcmp(r->method, "PUT") == 0) {
        SET(CURLOPT_UPLOAD, 1L);
        SET(CURLOPT_INFILESIZE_LARGE, (curl_off_t)(r->fd >= 0 ? r->file_n : r->body.n));
        SET(CURLOPT_READFUNCTION, give_body);
        SET(CURLOPT_READDATA, x);
        SET(CURLOPT_SEEKFUNCTION, seek_body);
        SET(CURLOPT_SEEKDATA, x);
    } else if (strcmp(r->method, "POST") == 0) {
        SET(CURLOPT_POST, 1L);
        SET(CURLOPT_POSTFIELDS, r->body.p ? r->body.p : "");
        SET(CURLOPT_POSTFIELDSIZE_LARGE, (curl_off_t)r->body.n);
    } else if (strcmp(r->method, "GET") != 0) {
        SET(CURLOPT_CUSTOMREQUEST, r->method);
    }
    if (r->range)
        SET(CURLOPT_RANGE, r->range);
    SET(CURLOPT_HTTPHEADER, headers);
    SET(CURLOPT_WRITEFUNCTION, take_body);
    SET(CURLOPT_WRITEDATA, x);
    SET(CURLOPT_HEADERFUNCTION, take_header);
    SET(CURLOPT_HEADERDATA, x);
    SET(CURLOPT_XFERINFOFUNCTION, count_bytes);
    SET(CURLOPT_XFERINFODATA, x);
    SET(CURLOPT_NOPROGRESS, 0L);
    SET(CURLOPT_ERRORBUFFER, x->text);
}

/* How long the socket may be waited for before somebody must be asked whether the answer is still wanted. */
static int patience_ms(const struct exchange *x)
{
    int64_t ms = 500, now_ms = clock_mono_ms();
    if (x->ctx->canceled)
        ms = OBJSTORE_LOOK_MS;
    if (x->ctx->deadline_ms)
        ms = MIN(ms, x->ctx->deadline_ms - now_ms);
    if (x->s->cfg.silence_ms)
        ms = MIN(ms, x->moved_ms + x->s->cfg.silence_ms - now_ms);
    return (int)MAX(ms, 1);
}

/* Runs the exchange to its end. False: err says that it was not waited for. */
static bool run(struct exchange *x, CURLM *multi, CURLcode *ret_code, struct err *err)
{
    int running = 1, left;
    bool ok = true;
    curl_multi_add_handle(multi, x->easy);
    x->moved_ms = clock_mono_ms();
    while (ok && curl_multi_perform(multi, &running) == CURLM_OK && running) {
        ok = ctx_check(x->ctx, err);
        if (ok && x->s->cfg.silence_ms && clock_mono_ms() - x->moved_ms >= x->s->cfg.silence_ms)
            ok = err_set(err, ERR_TIMEOUT, "the server was silent for %" PRId64 " ms", x->s->cfg.silence_ms);
        if (ok)
            curl_multi_poll(multi, NULL, 0, patience_ms(x), NULL);
    }
    *ret_code = CURLE_FAILED_INIT;
    for (const CURLMsg *m; (m = curl_multi_info_read(multi, &left));)
        if (m->msg == CURLMSG_DONE)
            *ret_code = m->data.result;
    curl_multi_remove_handle(multi, x->easy); /* closes the connection in the midst of an exchange */
    return ok;
}

/* --- judging ------------------------------------------------------------------------------------------------------------ */

static bool judge_transport(const struct exchange *x, CURLcode code, struct err *err)
{
    const char *text = x->text[0] ? x->text : curl_easy_strerror(code);
    switch (code) {
    case CURLE_OK:
        return true;
    case CURLE_WRITE_ERROR:
        if (x->range_ignored)
            return err_set(err, ERR_IO, "the server gave the whole object for a range");
        if (x->out_full)
            return err_set(err, ERR_TOO_LARGE, "the object is larger than there is room for");
        return err_set(err, ERR_UNAVAILABLE, "%s", text);
    case CURLE_ABORTED_BY_CALLBACK:
    case CURLE_READ_ERROR:
        return err_set(err, ERR_IO, "the local file cannot be read, or became shorter");
    case CURLE_OPERATION_TIMEDOUT:
        return err_set(err, ERR_TIMEOUT, "%s", text);
    case CURLE_PEER_FAILED_VERIFICATION:
    case CURLE_SSL_CERTPROBLEM:
    case CURLE_SSL_CACERT_BADFILE:
    case CURLE_SSL_CIPHER:
    case CURLE_SSL_ISSUER_ERROR:
    case CURLE_URL_MALFORMAT:
    case CURLE_UNSUPPORTED_PROTOCOL:
    case CURLE_OUT_OF_MEMORY:
        return err_set(err, ERR_IO, "%s", text); /* another try would say the same */
    default:
        return err_set(err, ERR_UNAVAILABLE, "%s", text);
    }
}

static bool any_of(const char *code, const char *const *codes, size_t n)
{
    for (size_t i = 0; i < n; i++)
        if (strcmp(code, codes[i]) == 0)
            return true;
    return false;
}

/* The class of an answer, by S3's error code first, then by the status. */
static enum err_code class_of(long status, const char *code)
{
    static const char *const passing[] = {"RequestTimeout", "SlowDown", "InternalError", "ServiceUnavailable", "OperationAborted",
                                          "BadDigest", "XAmzContentSHA256Mismatch", "IncompleteBody", "SlowDownRead", "SlowDownWrite"};
    static const char *const barred[] = {"ExpiredToken", "InvalidToken", "AccessDenied", "InvalidAccessKeyId", "SignatureDoesNotMatch"};
    if (any_of(code, passing, ARRAY_LEN(passing)) || status == 408 || status >= 502 || status == 500)
        return ERR_UNAVAILABLE;
    if (any_of(code, barred, ARRAY_LEN(barred)) || status == 401 || status == 403)
        return ERR_PERMISSION;
    if (status == 429)
        return ERR_TOO_MANY_REQUESTS;
    if (status == 416)
        return ERR_OUT_OF_RANGE;
    if (status == 404)
        return strcmp(code, "NoSuchBucket") == 0 ? ERR_IO : ERR_NOT_FOUND;
    return ERR_IO;
}

static bool judge_answer(const struct exchange *x, struct err *err)
{
    struct s3_answer *a = x->a;
    if (status_is_good(a->status))
        return true;
    s3_error_parse(buf_slice(&a->body), &a->error);
    enum err_code class = class_of(a->status, a->error.code);
    if (class == ERR_NOT_FOUND)
        return err_set(err, class, "there is no such object");
    if (a->status >= 300 && a->status < 400)
        return err_set(err, class, "the bucket is elsewhere (HTTP status %ld): its region is %s, the one here %s", a->status,
                       a->region[0] ? a->region : "not told", x->s->cfg.region);
    return err_set(err, class, "HTTP status %ld: %s%s%s", a->status, a->error.code, a->error.message[0] ? ": " : "", a->error.message);
}

static void trace(const struct exchange *x, int64_t start_ms, bool ok, const struct err *err)
{
    LOG_INFO("S3 request", {"method", LOG_STR(x->r->method)}, {"object", LOG_SLICE(x->r->name)}, {"query", LOG_STR(x->r->query)},
             {"range", LOG_STR(x->r->range ? x->r->range : "")}, {"status", LOG_I64(x->a->status)},
             {"ms", LOG_I64(clock_mono_ms() - start_ms)}, {"err", LOG_STR(ok ? "" : err->text)});
}

static bool exchange(struct exchange *x, CURLM *multi, struct err *err)
{
    CURLcode code = CURLE_OK;
    set_connection(x);
    struct curl_slist *headers = headers_of(x);
    set_request(x, headers);
    bool ok = run(x, multi, &code, err) && judge_transport(x, code, err);
    if (ok) {
        curl_easy_getinfo(x->easy, CURLINFO_RESPONSE_CODE, &x->a->status);
        ok = judge_answer(x, err);
    }
    /* Keeps the connections, which are the multi handle's. */
    curl_easy_reset(x->easy);
    curl_slist_free_all(headers);
    return ok;
}

bool s3_send(struct s3 *s, const struct ctx *ctx, struct s3_request *r, struct s3_answer *a, struct err *err)
{
    struct err why = ERR_NONE;
    int64_t start_ms = clock_mono_ms();
    answer_clear(a);
    if (!r->sha256[0] && !s3_hash_body(s, ctx, r, err))
        return false;
    struct s3_lane *l = s3_lane_take(s, ctx, err);
    if (!l)
        return false;
    struct exchange x = {.s = s, .ctx = ctx, .r = r, .a = a, .easy = l->easy};
    bool ok = exchange(&x, l->multi, &why);
    s3_lane_give(s, l);
    if (ok)
        atomic_store_explicit(&s->bucket_seen, true, memory_order_relaxed);
    if (s->cfg.trace)
        trace(&x, start_ms, ok, &why);
    return ok || err_set(err, why.code, "%s", why.text);
}

bool s3_send_again(struct s3 *s, const struct ctx *ctx, struct s3_request *r, struct s3_answer *a, struct err *err)
{
    struct objstore_tries t = {0};
    struct err why = ERR_NONE;
    bool ok;
    do {
        ok = s3_send(s, ctx, r, a, &why);
    } while (!ok && objstore_try_again(&t, ctx, &why));
    return ok || err_set(err, why.code, "%s", why.text);
}

void s3_answer_release(struct s3_answer *a)
{
    buf_release(&a->body);
}
