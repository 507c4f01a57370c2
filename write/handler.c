/*
 * POST /api/v1/push over HTTP: which protocol, the distributor's own limits, the answer.
 *
 * The handler runs on the write pool and ends with plog_produce; the answer is sent by pushed(), on a thread of the log, when the records are durable.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/assert.h"
#include "base/clock.h"
#include "base/dtoa.h"
#include "base/utf8.h"
#include "write/push.h"

static http_handler push_handler;

const struct http_route write_routes[] = {
#define ROUTE(methods, path, pool, flags, handler, help) {methods, path, HTTP_POOL_##pool, flags, handler, help},
#include "write/write_routes.def"
#undef ROUTE
};
const size_t write_routes_n = ARRAY_LEN(write_routes);

/* --- Retry-After ---------------------------------------------------------------------------------------------------------------- */

/* A number that differs from call to call; nothing depends on its quality but that clients do not all come back at once. */
static uint64_t jitter_bits(void)
{
    static _Atomic uint64_t counter;
    uint64_t z = atomic_fetch_add_explicit(&counter, 0x9e3779b97f4a7c15, memory_order_relaxed) + (uint64_t)clock_mono_ns();
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9;
    z = (z ^ (z >> 27)) * 0x94d049bb133111eb;
    return z ^ (z >> 31);
}

/* min * 2^(attempt - 1), give or take a half, between min and max. An attempt that is no number from 1 on counts as the first. */
int64_t push_retry_after_s(const struct write_config *cfg, struct slice attempt_header, uint64_t random)
{
    uint64_t attempt = 0;
    for (size_t i = 0; i < attempt_header.n; i++) {
        unsigned digit = (unsigned)(unsigned char)attempt_header.p[i] - '0';
        if (digit > 9) {
            attempt = 0;
            break;
        }
        attempt = MIN(attempt * 10 + digit, 1000);
    }
    double delay = (double)cfg->retry_after_min_backoff;
    const double max = (double)cfg->retry_after_max_backoff;
    for (uint64_t i = 1; i < attempt && delay < max; i++)
        delay *= 2;
    delay = MIN(delay, max);
    delay += delay * 0.5 * ((double)(random >> 11) / (double)(1ULL << 52) - 1);
    delay = MIN(MAX(delay, (double)cfg->retry_after_min_backoff), max);
    return (int64_t)(delay / 1000);
}

/* --- answers ------------------------------------------------------------------------------------------------------------------------ */

static void set_number(struct http_request *http, const char *header, uint64_t n)
{
    char text[24];
    snprintf(text, sizeof(text), "%llu", (unsigned long long)n);
    http_set_header(http, header, text);
}

/* What was decoded, not what was accepted: the client is told about the latter by the status. */
static void set_written_headers(struct http_request *http, const struct push_counts *c)
{
    set_number(http, "X-Prometheus-Remote-Write-Samples-Written", c->samples);
    set_number(http, "X-Prometheus-Remote-Write-Histograms-Written", c->histograms);
    set_number(http, "X-Prometheus-Remote-Write-Exemplars-Written", c->exemplars);
}

/* Bytes that a client sent may stand in a text: every run of bytes that are no UTF-8 becomes one U+FFFD. */
void push_put_valid(struct buf *out, struct slice text)
{
    bool in_run = false;
    for (size_t at = 0; at < text.n;) {
        size_t size;
        uint32_t rune = utf8_decode(slice_make(text.p + at, text.n - at), &size);
        bool bad = rune == 0xfffd && size == 1;
        if (!bad)
            buf_put(out, text.p + at, size);
        else if (!in_run)
            buf_puts(out, "\xef\xbf\xbd");
        in_run = bad;
        at += size;
    }
}

static void answer_error(struct distributor *d, struct http_request *http, enum err_code code, struct slice text)
{
    int status = err_http_status(code);
    if (d->cfg->retry_after_enabled && (status == 429 || status / 100 == 5))
        set_number(http, "Retry-After",
                   (uint64_t)push_retry_after_s(d->cfg, http_header(http, "Retry-Attempt"), jitter_bits()));
    struct buf valid;
    buf_init(&valid, 0);
    push_put_valid(&valid, text);
    http_respond_text_error(http, status, buf_cstr(&valid));
    buf_release(&valid);
}

static void answer(struct push *p)
{
    if (p->version == PUSH_RW2)
        set_written_headers(p->http, &p->decoded);
    if (p->error.code == ERR_OK)
        http_respond_status(p->http, 200);
    else
        answer_error(p->d, p->http, p->error.code, buf_slice(&p->error.text));
}

/* The last touch of the push and of the distributor. */
static void finish(struct push *p)
{
    struct distributor *d = p->d;
    answer(p);
    int64_t bytes = p->inflight_bytes;
    push_free(p);
    atomic_fetch_sub_explicit(&d->inflight_bytes, bytes, memory_order_relaxed);
    atomic_fetch_sub_explicit(&d->inflight, 1, memory_order_release);
}

static void log_refused(struct push *p, const struct err *err)
{
    push_fail(p, err->code, "send data to partitions: failed pushing to partitions: %s", err->text);
}

/* On a thread of the log. */
static void pushed(struct plog_produce *produce, const struct err *err)
{
    struct push *p = CONTAINER_OF(produce, struct push, produce);
    if (err)
        log_refused(p, err);
    finish(p);
}

/* --- the request ------------------------------------------------------------------------------------------------------------------- */

static struct slice trim(struct slice s)
{
    while (s.n && (s.p[0] == ' ' || s.p[0] == '\t'))
        s = slice_make(s.p + 1, s.n - 1);
    while (s.n && (s.p[s.n - 1] == ' ' || s.p[s.n - 1] == '\t'))
        s.n--;
    return s;
}

/* The part before the separator; *rest is what follows it, p == NULL when there is none. */
static struct slice split(struct slice s, char separator, struct slice *rest)
{
    const char *at = s.n ? memchr(s.p, separator, s.n) : NULL;
    *rest = at ? slice_make(at + 1, s.n - (size_t)(at + 1 - s.p)) : (struct slice){NULL, 0};
    return at ? slice_make(s.p, (size_t)(at - s.p)) : s;
}

/*
 * By Content-Type alone. Anything but application/x-protobuf is taken as 1.0, as Mimir does: old senders do not set it. An unknown message is refused (in
 * Mimir it is refused and stored all the same).
 */
bool push_version_of(struct slice content_type, enum push_version *ret, struct err *err)
{
    struct slice rest, type = trim(content_type);
    *ret = PUSH_RW1;
    struct slice media = split(type, ';', &rest);
    if (!slice_eq(trim(media), SL("application/x-protobuf")))
        return true;
    while (rest.p) {
        struct slice value, more, parameter = split(rest, ';', &rest);
        struct slice name = split(parameter, '=', &value);
        split(value, '=', &more);
        if (!value.p || more.p)
            return err_set(err, ERR_BAD_DATA,
                           "as per https://www.rfc-editor.org/rfc/rfc9110#parameter expected parameters to be key-values, got %.*s in "
                           "%.*s content-type",
                           SL_FMT(parameter), SL_FMT(type));
        if (!slice_eq(trim(name), SL("proto")))
            continue;
        if (slice_eq(trim(value), SL("io.prometheus.write.v2.Request")))
            *ret = PUSH_RW2;
        else if (!slice_eq(trim(value), SL("prometheus.WriteRequest")))
            return err_set(err, ERR_BAD_DATA,
                           "got %.*s content type; expected prometheus.WriteRequest or io.prometheus.write.v2.Request",
                           SL_FMT(type));
        return true;
    }
    return true;
}

static bool instance_limit(enum err_code code, const char *reason, const char *what, const char *flag,
                           struct buf *text)
{
    metric_inc(METRIC_WITH(write_metrics[WRITE_M_INSTANCE_REJECTED], slice_of(reason)));
    buf_printf(text, "the write request has been rejected because the distributor exceeded the %s", what);
    push_put_id(text, code);
    push_put_hint(text, flag, NULL, false);
    return false;
}

/* The distributor's own limits, before anything of the request is looked at. `n` counts this request too. */
static bool within_instance_limits(struct distributor *d, int64_t n, enum err_code *ret_code, struct buf *text)
{
    const struct write_config *cfg = d->cfg;
    if (cfg->max_inflight_push_requests > 0 && n > cfg->max_inflight_push_requests) {
        *ret_code = ERR_DISTRIBUTOR_MAX_INFLIGHT;
        return instance_limit(*ret_code, "distributor_max_inflight_push_requests",
                              "allowed number of inflight push requests",
                              "distributor.instance-limits.max-inflight-push-requests", text);
    }
    if (cfg->max_ingestion_rate > 0 && distributor_rate(d) >= cfg->max_ingestion_rate) {
        *ret_code = ERR_DISTRIBUTOR_MAX_INGESTION_RATE;
        return instance_limit(*ret_code, "distributor_max_ingestion_rate", "ingestion rate limit",
                              "distributor.instance-limits.max-ingestion-rate", text);
    }
    return true;
}

/* -distributor.request-rate-limit */
static bool request_rate_allows(struct push *p)
{
    const struct limits *l = p->limits;
    if (l->request_rate <= 0)
        return true;
    struct write_tenant *t = p->tenant;
    const double share = l->request_rate / (double)distributor_n_healthy(p->d);
    pthread_mutex_lock(&t->lock);
    bool ok = token_bucket_take(&t->requests, clock_mono_ns(), share, (double)l->request_burst_size, 1);
    pthread_mutex_unlock(&t->lock);
    if (ok)
        return true;
    metric_inc(METRIC_WITH(write_metrics[WRITE_M_DISCARDED_REQUESTS], SL("rate_limited"), t->name));
    char rate[DTOA_MAX];
    int rate_n = (int)dtoa_g(l->request_rate, rate);
    push_fail(p, ERR_TENANT_MAX_REQUEST_RATE,
              "the request has been rejected because the tenant exceeded the request rate limit, set to %.*s requests/s across all "
              "distributors with a maximum allowed burst of %lld",
              rate_n, rate, (long long)l->request_burst_size);
    push_put_hint(&p->error.text, "distributor.request-rate-limit", "distributor.request-burst-size", true);
    return false;
}

static bool header_is_true(struct http_request *http, const char *name)
{
    return slice_eq(http_header(http, name), SL("true"));
}

/* NULL: out of memory, or too many tenants at one time. */
static struct push *push_of_request(struct distributor *d, struct http_request *http)
{
    struct write_tenant *tenant = write_tenants_get(d->tenants, http_ctx(http)->tenant, clock_mono_ms());
    struct push *p = tenant ? push_new(d, tenant) : NULL;
    if (!p) {
        write_tenants_put(d->tenants, tenant);
        return NULL;
    }
    p->http = http;
    p->skip_names_header =
        d->cfg->skip_label_name_validation_header && header_is_true(http, "X-Mimir-SkipLabelNameValidation");
    p->skip_count_header =
        d->cfg->skip_label_count_validation_header && header_is_true(http, "X-Mimir-SkipLabelCountValidation");
    return p;
}

/* Prepares and produces. True: the answer will come from the log's thread. */
static bool push_request(struct push *p)
{
    bool ok = request_rate_allows(p);
    if (ok) {
        p->body = http_take_body(p->http);
        ok = push_prepare(p);
    }
    push_count(p);
    arena_release(&p->scratch); /* nothing of it is needed while the log works */
    if (!ok || p->produce.n == 0)
        return false;
    p->produce.done = pushed;
    struct err err = ERR_NONE;
    if (plog_produce(p->d->log, &p->produce, &err))
        return true;
    log_refused(p, &err);
    return false;
}

/* An answer to a request that did not become a push. */
static void refuse(struct distributor *d, struct http_request *http, enum push_version version, enum err_code code,
                   struct slice text)
{
    if (version == PUSH_RW2)
        set_written_headers(http, &(struct push_counts){0});
    answer_error(d, http, code, text);
    atomic_fetch_sub_explicit(&d->inflight, 1, memory_order_release);
}

static void push_handler(struct http_request *http, void *arg)
{
    struct distributor *d = arg;
    int64_t n = atomic_fetch_add_explicit(&d->inflight, 1, memory_order_relaxed) + 1;
    enum push_version version = PUSH_RW1;
    struct err err = ERR_NONE;
    if (!push_version_of(http_header(http, "Content-Type"), &version, &err) || !ctx_check(http_ctx(http), &err)) {
        refuse(d, http, version, err.code, slice_of(err.text));
        return;
    }
    enum err_code code = ERR_OK;
    struct buf text;
    buf_init(&text, 0);
    if (!within_instance_limits(d, n, &code, &text)) {
        refuse(d, http, version, code, buf_slice(&text));
        buf_release(&text);
        return;
    }
    buf_release(&text);
    struct push *p = push_of_request(d, http);
    if (!p) {
        refuse(d, http, version, ERR_UNAVAILABLE, SL("the distributor has no room for another tenant"));
        return;
    }
    p->version = version;
    if (!push_request(p))
        finish(p);
}

void write_refuse(struct http_request *http, enum http_refusal why, uint64_t n_bytes, uint64_t limit_bytes, void *arg)
{
    struct distributor *d = arg;
    enum push_version version = PUSH_RW1;
    push_version_of(http_header(http, "Content-Type"), &version, NULL);
    if (version == PUSH_RW2)
        set_written_headers(http, &(struct push_counts){0});
    if (why != HTTP_REFUSED_BODY_TOO_LARGE) {
        answer_error(d, http, ERR_UNAVAILABLE, SL("the distributor is too busy to take another push request"));
        return;
    }
    struct buf text;
    buf_init(&text, 0);
    push_put_too_large(&text, n_bytes, "compressed", limit_bytes);
    answer_error(d, http, ERR_MESSAGE_TOO_LARGE, buf_slice(&text));
    buf_release(&text);
}
