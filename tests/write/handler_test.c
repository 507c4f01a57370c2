/* Pushes over real HTTP into a real log: statuses, headers, and that an answer means stored. */
#include "push_fixture.h"
#include "tests/net/http_rig.h"

#include <ftw.h>

static struct fixture f;
static struct rig rig;
static struct plog *plog;
static struct plog_config plog_cfg;
static struct flag_set *plog_flag_set;
static char dir[] = "/tmp/brunn-write-XXXXXX";

static void start(void)
{
    fixture_start(&f, 1);
    struct err err = ERR_NONE;
    cr_assert(mkdtemp(dir));
    plog_flag_set = flag_set_new();
    flag_set_add(plog_flag_set, "log", plog_flags, plog_flags_n, &plog_cfg);
    plog = plog_open_embedded(&plog_cfg, dir, &err);
    cr_assert(plog, "%s", err.text);
    f.d->log = plog;
    rig_new(&rig);
    rig.server = http_server_new(&rig.cfg, rig.limits, rig_tenant, NULL);
    http_server_add(rig.server, "", write_routes, write_routes_n, f.d);
    http_server_on_refusal(rig.server, write_routes, write_refuse);
    cr_assert(http_server_start(rig.server, &err), "%s", err.text);
}

static int remove_one(const char *path, const struct stat *st, int flag, struct FTW *ftw)
{
    (void)st, (void)flag, (void)ftw;
    return remove(path);
}

static void stop(void)
{
    rig_stop(&rig);
    fixture_stop(&f);
    plog_close(plog);
    flag_set_free(plog_flag_set);
    nftw(dir, remove_one, 16, FTW_DEPTH | FTW_PHYS);
}

TestSuite(handler, .init = start, .fini = stop, .timeout = 60);

static struct reply ask(const char *headers, struct buf body)
{
    char all[1024];
    snprintf(all, sizeof(all), "X-Scope-OrgID: t\r\n%s", headers);
    struct reply r = rig_ask(&rig, "POST", "/api/v1/push", all, body.p ? body.p : "", body.n);
    buf_release(&body);
    return r;
}

static struct buf series_body(const char *name)
{
    struct buf m = {0};
    pb_series(&m, LABELS("__name__", name));
    return compressed(&m);
}

static int64_t log_end(void)
{
    int64_t first, next;
    cr_assert(plog_offsets(plog, 0, &first, &next, NULL));
    return next;
}

Test(handler, an_accepted_push_is_200_without_a_body_and_in_the_log)
{
    struct buf body = series_body("m"), copy = {0};
    buf_put_slice(&copy, buf_slice(&body));
    struct reply r = ask("", body);
    cr_expect_eq(r.status, 200);
    cr_expect_eq(r.n, 0u);
    cr_expect_null(reply_header(&r, "Content-Type"));
    reply_free(&r);
    cr_assert_eq(log_end(), 1);
    for (int i = 0; i < 2; i++) { /* the hint first, then the bytes */
        struct plog_batch b;
        cr_assert(plog_fetch(plog, 0, 0, 1 << 20, 1000, &b, NULL));
        cr_assert_eq(b.n, 1u);
        if (b.records[0].hint)
            cr_expect_eq(((const struct record_hint *)b.records[0].hint)->batch->req.n_series, 1u);
        else
            cr_expect(slice_eq(b.records[0].value, buf_slice(&copy)), "the client's own frame");
        cr_expect(slice_eq(b.records[0].tenant, SL("t")));
        cr_expect_eq(b.records[0].timestamp_ms, NOW_MS);
        plog_batch_release(&b);
    }
    buf_release(&copy);
}

Test(handler, a_partial_write_stores_the_good_and_names_the_bad)
{
    struct buf m = {0};
    pb_series(&m, LABELS("__name__", "a-\xff", "x", "y"));
    pb_series(&m, LABELS("__name__", "good"));
    struct reply r = ask("", compressed(&m));
    cr_expect_eq(r.status, 400);
    cr_expect_str_eq(r.body, "received a series with invalid metric name: 'a- (non-ascii characters removed)' "
                             "(err-mimir-metric-name-invalid)\n");
    cr_expect_str_eq(reply_header(&r, "Content-Type"), "text/plain; charset=utf-8");
    cr_expect_str_eq(reply_header(&r, "X-Content-Type-Options"), "nosniff");
    cr_expect_null(reply_header(&r, "Retry-After"));
    reply_free(&r);
    cr_expect_eq(log_end(), 1);
    cr_expect(metrics_hold("cortex_discarded_samples_total{reason=\"metric_name_invalid\",user=\"t\",group=\"\"} 1") ||
              metrics_hold("cortex_discarded_samples_total{group=\"\",reason=\"metric_name_invalid\",user=\"t\"} 1"));
    cr_expect(metrics_hold("cortex_distributor_received_samples_total{user=\"t\"} 1"));
    cr_expect(metrics_hold("cortex_distributor_samples_in_total{user=\"t\"} 2"));
}

Test(handler, bytes_that_are_no_utf8_do_not_reach_the_answer)
{
    struct buf m = {0};
    pb_series(&m, LABELS("__name__", "m", "a", "x\xff\xfey"));
    struct reply r = ask("", compressed(&m));
    cr_expect_str_eq(r.body, "received a series with invalid value in label 'a': 'x\xef\xbf\xbdy' metric: 'm' "
                             "(err-mimir-label-value-invalid)\n");
    reply_free(&r);
}

Test(handler, an_unknown_message_is_400_and_nothing_is_stored)
{
    struct reply r = ask("Content-Type: application/x-protobuf;proto=foo.Bar\r\n", series_body("m"));
    cr_expect_eq(r.status, 400);
    reply_free(&r);
    cr_expect_eq(log_end(), 0);
}

Test(handler, remote_write_2_says_what_was_decoded)
{
    static const char type[] = "Content-Type: application/x-protobuf;proto=io.prometheus.write.v2.Request\r\n";
    struct buf m = {0}, s = {0};
    const char *symbols[] = {"", "__name__", "m"};
    for (int i = 0; i < 3; i++)
        pb_str(&m, 4, symbols[i]);
    pb_bytes(&s, 1, "\x01\x02", 2);
    pb_sample(&s, 1, NOW_MS);
    pb_sub(&m, 5, &s);
    struct reply r = ask(type, compressed(&m));
    cr_expect_eq(r.status, 200, "%s", r.body);
    cr_expect_str_eq(reply_header(&r, "X-Prometheus-Remote-Write-Samples-Written"), "1");
    cr_expect_str_eq(reply_header(&r, "X-Prometheus-Remote-Write-Histograms-Written"), "0");
    cr_expect_str_eq(reply_header(&r, "X-Prometheus-Remote-Write-Exemplars-Written"), "0");
    reply_free(&r);
    r = ask(type, series_body("m"));
    cr_expect_eq(r.status, 400);
    cr_expect_str_eq(reply_header(&r, "X-Prometheus-Remote-Write-Samples-Written"), "0");
    reply_free(&r);
}

Test(handler, rate_limits_are_429_with_retry_after)
{
    f.limits.request_rate = 0.001;
    f.limits.request_burst_size = 1;
    struct reply r = ask("", series_body("m"));
    cr_expect_eq(r.status, 200);
    reply_free(&r);
    r = ask("Retry-Attempt: 20\r\n", series_body("m"));
    cr_expect_eq(r.status, 429);
    cr_expect_str_eq(r.body,
                     "the request has been rejected because the tenant exceeded the request rate limit, set to 0.001 requests/s across "
                     "all distributors with a maximum allowed burst of 1 (err-mimir-tenant-max-request-rate). To adjust the related "
                     "per-tenant limits, configure -distributor.request-rate-limit and -distributor.request-burst-size, or contact "
                     "your service administrator.\n");
    const char *after = reply_header(&r, "Retry-After");
    cr_assert(after && atoi(after) >= 48 && atoi(after) <= 96);
    reply_free(&r);
    cr_expect(metrics_hold("cortex_discarded_requests_total{reason=\"rate_limited\",user=\"t\"} 1"));
}

Test(handler, the_distributors_own_limits_are_503_with_retry_after)
{
    f.cfg.max_ingestion_rate = 1e-9;
    distributor_count_items(f.d, 100);
    f.d->rate.per_second = 5;
    struct reply r = ask("", series_body("m"));
    cr_expect_eq(r.status, 503);
    cr_expect(strstr(r.body, "because the distributor exceeded the ingestion rate limit (err-mimir-distributor-max-ingestion-rate). To "
                             "adjust the related limit, configure -distributor.instance-limits.max-ingestion-rate, or"), "%s", r.body);
    cr_expect(reply_header(&r, "Retry-After"));
    reply_free(&r);
    cr_expect(metrics_hold("cortex_distributor_instance_rejected_requests_total{reason=\"distributor_max_ingestion_rate\"} 1"));
}

Test(handler, a_body_over_the_limit_gets_the_distributors_words)
{
    struct buf big = {0};
    buf_reserve(&big, 5 << 20);
    memset(big.p, 'x', 5 << 20);
    big.n = 5 << 20;
    struct reply r = ask("", big);
    cr_expect_eq(r.status, 400);
    cr_expect(strstr(r.body, "message size of 5242880 bytes (compressed) is larger than the allowed limit of 4194304 bytes "
                             "(err-mimir-distributor-max-write-message-size)"), "%s", r.body);
    reply_free(&r);
}

/* About 80 KB that snappy cannot make smaller. */
static struct buf noisy_body(uint32_t *state)
{
    struct buf m = {0};
    for (int i = 0; i < 1000; i++) {
        char value[81];
        for (int k = 0; k < 80; k++) {
            *state = *state * 1664525u + 1013904223u;
            value[k] = (char)('0' + (*state >> 24) % 64);
        }
        value[80] = 0;
        pb_series(&m, LABELS("__name__", "m", "x", value));
    }
    return compressed(&m);
}

Test(handler, a_full_log_is_503_with_retry_after)
{
    plog_close(plog);
    plog_cfg.embedded_segment_bytes = 1 << 20;
    plog_cfg.embedded_max_size_bytes = 2 << 20;
    struct err err = ERR_NONE;
    plog = plog_open_embedded(&plog_cfg, dir, &err);
    cr_assert(plog, "%s", err.text);
    f.d->log = plog;
    int n = 0, status = 0;
    for (uint32_t state = 1; n < 60 && status != 503; n++) {
        struct reply r = ask("", noisy_body(&state));
        status = r.status;
        cr_expect(status == 200 || status == 503, "%d %s", status, r.body);
        if (status == 503) {
            cr_expect(strstr(r.body, "send data to partitions: failed pushing to partitions: "), "%s", r.body);
            cr_expect(reply_header(&r, "Retry-After"));
        }
        reply_free(&r);
    }
    cr_expect_eq(status, 503);
    cr_expect_eq(log_end(), n - 1);
}

struct sender {
    pthread_t thread;
    int id;
    int ok;
};

static void *send_many(void *arg)
{
    struct sender *s = arg;
    for (int i = 0; i < 50; i++) {
        struct buf m = {0};
        char value[32];
        for (int k = 0; k < 20; k++) {
            snprintf(value, sizeof(value), "%d", s->id * 1000 + (i * 7 + k) % 60);
            pb_series(&m, LABELS("__name__", "m", "i", value));
        }
        struct buf body = compressed(&m);
        int fd = rig_connect(&rig);
        char head[256], reply[64] = "";
        int n = snprintf(head, sizeof(head), "POST /api/v1/push HTTP/1.1\r\nHost: x\r\nX-Scope-OrgID: t%d\r\nContent-Length: %zu\r\n\r\n",
                         s->id % 2, body.n);
        rig_send(fd, head, (size_t)n);
        rig_send(fd, body.p, body.n);
        ssize_t got = recv(fd, reply, sizeof(reply) - 1, 0);
        s->ok += got > 12 && memcmp(reply, "HTTP/1.1 200", 12) == 0;
        close(fd);
        buf_release(&body);
    }
    return NULL;
}

Test(handler, many_senders_at_once_are_all_stored)
{
    struct sender senders[6];
    for (int i = 0; i < 6; i++) {
        senders[i] = (struct sender){.id = i};
        pthread_create(&senders[i].thread, NULL, send_many, &senders[i]);
    }
    for (int i = 0; i < 6; i++) {
        pthread_join(senders[i].thread, NULL);
        cr_expect_eq(senders[i].ok, 50);
    }
    cr_expect_eq(log_end(), 300);
    EVENTUALLY(atomic_load(&f.d->inflight) == 0);
    cr_expect_eq(atomic_load(&f.d->inflight_bytes), 0);
}
