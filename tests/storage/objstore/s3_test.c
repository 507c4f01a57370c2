/* The store on an S3 server, beside a server of our own that misbehaves when told to (s3_server.py). */
#include <criterion/criterion.h>
#include <curl/curl.h>

#include "base/logger.h"

#define CLAIM(cond, ...) cr_assert(cond, __VA_ARGS__)
#include "suite.h"
#include "server.h"

static size_t take(char *p, size_t size, size_t n, void *arg)
{
    buf_put(arg, p, size * n);
    return size * n;
}

/* Tells the server something: "_calm". The answer, its statistics, is static. */
static const char *tell(const struct server *s, const char *what)
{
    static char text[4096];
    char url[256];
    struct buf out = {0};
    CURL *h = curl_easy_init();
    snprintf(url, sizeof(url), "%s://%s/%s", s->scheme, s->endpoint, what);
    curl_easy_setopt(h, CURLOPT_URL, url);
    curl_easy_setopt(h, CURLOPT_SSL_VERIFYPEER, 0L);
    curl_easy_setopt(h, CURLOPT_WRITEFUNCTION, take);
    curl_easy_setopt(h, CURLOPT_WRITEDATA, &out);
    cr_assert(curl_easy_perform(h) == CURLE_OK, "%s", url);
    curl_easy_cleanup(h);
    snprintf(text, sizeof(text), "%s", buf_cstr(&out));
    buf_release(&out);
    return text;
}

static struct objstore_config config_of(const struct server *s)
{
    struct objstore_config c = plain_config();
    c.backend = "s3";
    c.s3_endpoint = s->endpoint;
    c.s3_access_key_id = "testkey";
    c.s3_secret_access_key = "testsecret";
    c.s3_bucket_name = "bkt";
    c.s3_insecure = true;
    c.s3_part_size = (uint64_t)5 << 20;
    return c;
}

struct rig {
    struct server server;
    struct objstore *store;
};

static struct rig rig_new(void)
{
    struct rig r = {.server = server_start(NULL, NULL)};
    struct objstore_config c = config_of(&r.server);
    r.store = store_open(&c, "");
    return r;
}

static void rig_free(struct rig *r)
{
    objstore_free(r->store);
    server_stop(&r->server);
}

Test(s3, keeps_every_claim, .timeout = 60)
{
    struct rig r = rig_new();
    suite_run(r.store, false);
    rig_free(&r);
}

Test(s3, keeps_every_claim_with_30_percent_errors, .timeout = 120)
{
    struct rig r = rig_new();
    tell(&r.server, "_fault?kind=status&percent=10&times=1000000&status=503");
    tell(&r.server, "_fault?kind=reset&percent=10&times=1000000");
    tell(&r.server, "_fault?kind=cut&percent=10&times=1000000");
    suite_run(r.store, false);
    cr_assert(strstr(tell(&r.server, "_calm"), "\"uploads\": 0"));
    rig_free(&r);
}

Test(s3, keeps_every_claim_with_other_options, .timeout = 60)
{
    struct server server = server_start(NULL, NULL);
    struct objstore_config c = config_of(&server);
    char host[64];
    snprintf(host, sizeof(host), "localhost:%d", server.port); /* bkt.localhost is this machine, too */
    c.s3_endpoint = host;
    c.s3_bucket_lookup_type = "virtual-hosted";
    c.s3_list_objects_version = "v1";
    c.s3_send_content_md5 = true;
    c.s3_max_connections_per_host = 1;
    c.s3_expect_continue_timeout = 0;
    c.s3_trace_enabled = true;
    log_min_level = LOG_LEVEL_WARN;
    c.storage_prefix = "pre";
    struct objstore *s = store_open(&c, "");
    suite_run(s, false);
    objstore_free(s);
    server_stop(&server);
}

#ifdef BRUNN_LIBS3
Test(s3, keeps_every_claim_with_signature_v2, .timeout = 60)
{
    struct server server = server_start(NULL, NULL);
    struct objstore_config c = config_of(&server);
    c.s3_signature_version = "v2";
    struct objstore *s = store_open(&c, "");
    suite_run(s, true);
    tell(&server, "_fault?kind=status&times=2&status=503");
    tell(&server, "_fault?kind=reset&times=1");
    tell(&server, "_fault?kind=cut&method=GET&times=1");
    put(s, "a", "0123456789");
    expect(s, "a", 0, OBJSTORE_ALL, ">0123456789");
    expect(s, "a", 2, 3, ">234");
    tell(&server, "_calm");
    tell(&server, "_fault?kind=slow&times=1");
    struct ctx soon = {.deadline_ms = clock_mono_ms() + 300};
    struct err err = ERR_NONE;
    cr_assert(!objstore_put(s, &soon, SL("a"), SL("x"), &err) && err.code == ERR_TIMEOUT, "%s", err.text);
    cr_assert(clock_mono_ms() - soon.deadline_ms < 100, "%lld ms late", (long long)(clock_mono_ms() - soon.deadline_ms));
    objstore_free(s);
    server_stop(&server);
}
#endif

/* Each fault once: the call takes another try and gives the right bytes. */
Test(s3, no_fault_gives_wrong_or_short_bytes, .timeout = 60)
{
    static const char *const kinds[] = {"status&status=500", "status&status=502", "status&status=503", "status&status=429", "status&status=408",
                                        "reset", "cut", "short", "lie"};
    struct rig r = rig_new();
    put(r.store, "a", "0123456789");
    for (size_t i = 0; i < ARRAY_LEN(kinds); i++) {
        char fault[128];
        snprintf(fault, sizeof(fault), "_fault?kind=%s&times=2", kinds[i]);
        tell(&r.server, fault);
        expect(r.store, "a", 2, 5, ">23456");
        tell(&r.server, "_calm");
        tell(&r.server, fault);
        expect(r.store, "a", 0, OBJSTORE_ALL, ">0123456789");
        tell(&r.server, "_calm");
    }
    tell(&r.server, "_fault?kind=whole");
    expect(r.store, "a", 2, 5, "!IO");
    tell(&r.server, "_fault?kind=broken&times=2");
    expect_names(r.store, "", false, "a ");
    tell(&r.server, "_fault?kind=stale&times=1"); /* may be, and is told as the server tells it */
    expect_names(r.store, "", false, "");
    rig_free(&r);
}

Test(s3, what_is_forbidden_is_tried_once, .timeout = 60)
{
    struct rig r = rig_new();
    struct objstore_config c = config_of(&r.server);
    struct err err = ERR_NONE;
    c.s3_secret_access_key = "another";
    struct objstore *s = store_open(&c, "");
    cr_assert(!objstore_put(s, &no_hurry, SL("x"), SL("y"), &err) && err.code == ERR_PERMISSION, "%s", err.text);
    cr_assert(strstr(err.text, "SignatureDoesNotMatch"), "%s", err.text);
    cr_assert(strstr(tell(&r.server, "_stats"), "\"requests\": 1,"));
    objstore_free(s);
    rig_free(&r);
}

Test(s3, a_missing_bucket_is_no_missing_object, .timeout = 60)
{
    struct server server = server_start(NULL, NULL);
    struct objstore_config c = config_of(&server);
    struct objstore_attributes a;
    struct err err = ERR_NONE;
    c.s3_bucket_name = "none";
    struct objstore *s = store_open(&c, "");
    cr_assert(!objstore_attributes(s, &no_hurry, SL("x"), &a, &err) && err.code == ERR_IO, "%s", err.text);
    expect(s, "x", 0, OBJSTORE_ALL, "!IO");
    objstore_free(s);
    server_stop(&server);
}

static void make_big(char path[], size_t n)
{
    int fd = mkstemp(path);
    cr_assert(fd >= 0);
    close(fd);
    make_file(path, n);
}

/* The answer to the completion is lost, or is an error with status 200: the object is there once and whole. */
Test(s3, uploads_in_parts_survive_faults, .timeout = 60)
{
    static const char *const faults[] = {"lost&method=POST&match=uploadId", "late&method=POST&match=uploadId", "reset&method=POST&match=uploads",
                                         "status&method=PUT&match=partNumber=2&times=3", "cut&method=POST"};
    struct rig r = rig_new();
    char path[] = "/tmp/objstore-big-XXXXXX";
    struct objstore_attributes a;
    struct err err = ERR_NONE;
    make_big(path, 11 << 20);
    for (size_t i = 0; i < ARRAY_LEN(faults); i++) {
        char fault[128], name[16];
        snprintf(fault, sizeof(fault), "_fault?kind=%s", faults[i]);
        snprintf(name, sizeof(name), "big/%zu", i);
        tell(&r.server, fault);
        cr_assert(objstore_put_file(r.store, &no_hurry, slice_of(name), path, &err), "%s: %s", faults[i], err.text);
        cr_assert(objstore_attributes(r.store, &no_hurry, slice_of(name), &a, &err) && a.size == 11 << 20, "%s: %s", faults[i], err.text);
        tell(&r.server, "_calm");
    }
    unlink(path);
    rig_free(&r);
}

Test(s3, failed_uploads_are_aborted, .timeout = 60)
{
    struct rig r = rig_new();
    char path[] = "/tmp/objstore-big-XXXXXX";
    struct err err = ERR_NONE;
    make_big(path, 11 << 20);
    tell(&r.server, "_fault?kind=status&status=400&method=PUT&match=partNumber=2&times=100");
    struct ctx soon = {.deadline_ms = clock_mono_ms() + 1500};
    cr_assert(!objstore_put_file(r.store, &soon, SL("big"), path, &err));
    const char *stats = tell(&r.server, "_calm");
    cr_assert(strstr(stats, "\"uploads\": 0"), "%s", stats);
    expect(r.store, "big", 0, 1, "!NOT_FOUND");
    /* The abort fails as well: the next file's upload does it. */
    tell(&r.server, "_fault?kind=slow&method=PUT&match=partNumber=2&times=100");
    tell(&r.server, "_fault?kind=slow&method=DELETE&times=1");
    soon.deadline_ms = clock_mono_ms() + 500;
    cr_assert(!objstore_put_file(r.store, &soon, SL("big"), path, &err) && err.code == ERR_TIMEOUT, "%s", err.text);
    cr_assert(clock_mono_ms() - soon.deadline_ms < 150, "%lld ms late", (long long)(clock_mono_ms() - soon.deadline_ms));
    tell(&r.server, "_calm");
    cr_assert(objstore_put_file(r.store, &no_hurry, SL("big"), path, &err), "%s", err.text);
    stats = tell(&r.server, "_calm");
    cr_assert(strstr(stats, "\"uploads\": 0"), "%s", stats);
    unlink(path);
    rig_free(&r);
}

static void *cancel_soon(void *arg)
{
    struct timespec t = {.tv_nsec = 300000000};
    nanosleep(&t, NULL);
    atomic_store((atomic_bool *)arg, true);
    return NULL;
}

Test(s3, a_canceled_call_returns_at_once, .timeout = 60)
{
    static const char *const faults[] = {"_fault?kind=slow&times=1", "_fault?kind=trickle&times=1", "_fault?kind=status&status=503&times=1000"};
    struct rig r = rig_new();
    put(r.store, "a", "0123456789");
    for (size_t i = 0; i < ARRAY_LEN(faults); i++) {
        atomic_bool canceled = false;
        struct ctx ctx = {.canceled = &canceled};
        struct err err = ERR_NONE;
        struct buf out = {0};
        pthread_t thread;
        tell(&r.server, faults[i]);
        int64_t start_ms = clock_mono_ms();
        pthread_create(&thread, NULL, cancel_soon, &canceled);
        cr_assert(!objstore_get(r.store, &ctx, SL("a"), 0, OBJSTORE_ALL, &out, &err) && err.code == ERR_CANCELED, "%s", err.text);
        int64_t ms = clock_mono_ms() - start_ms;
        pthread_join(thread, NULL);
        cr_assert(ms < 400, "%s: %lld ms", faults[i], (long long)ms);
        cr_assert_eq(out.n, 0);
        buf_release(&out);
        tell(&r.server, "_calm");
    }
    rig_free(&r);
}

Test(s3, a_silent_server_is_given_up_and_tried_again, .timeout = 60)
{
    struct server server = server_start(NULL, NULL);
    struct objstore_config c = config_of(&server);
    c.s3_response_header_timeout = 300;
    struct objstore *s = store_open(&c, "");
    put(s, "a", "0123456789");
    int64_t start_ms = clock_mono_ms();
    tell(&server, "_fault?kind=slow&times=1");
    tell(&server, "_fault?kind=trickle&times=1");
    expect(s, "a", 0, OBJSTORE_ALL, ">0123456789");
    cr_assert(clock_mono_ms() - start_ms < 3000);
    objstore_free(s);
    server_stop(&server);
}

Test(s3, options_of_objects_are_sent, .timeout = 60)
{
    struct rig r = rig_new();
    struct objstore_config c = config_of(&r.server);
    c.s3_sse_type = "SSE-KMS";
    c.s3_sse_kms_key_id = "key-1";
    c.s3_sse_kms_encryption_context = "{\"a\":\"b\"}";
    c.s3_storage_class = "STANDARD_IA";
    c.s3_session_token = "token/+=";
    c.s3_send_content_md5 = true;
    struct objstore *s = store_open(&c, "");
    put(s, "a", "x");
    static const char *const want[] = {"\"x-amz-server-side-encryption\": \"aws:kms\"", "\"x-amz-server-side-encryption-aws-kms-key-id\": \"key-1\"",
                                       "\"x-amz-server-side-encryption-context\": \"eyJhIjoiYiJ9\"", "\"x-amz-storage-class\": \"STANDARD_IA\"",
                                       "\"x-amz-security-token\": \"token/+=\"", "\"content-md5\": \"nd1OkKgJacxBfp8alKinOw==\""};
    const char *stats = tell(&r.server, "_stats");
    for (size_t i = 0; i < ARRAY_LEN(want) - 1; i++)
        cr_assert(strstr(stats, want[i]), "%s has no %s", stats, want[i]);
    cr_assert(strstr(stats, "\"content-md5\": "), "%s", stats);
    objstore_free(s);
    rig_free(&r);
}

Test(s3, a_wrong_etag_is_noticed, .timeout = 60)
{
    struct rig r = rig_new();
    struct objstore_config c = config_of(&r.server);
    struct err err = ERR_NONE;
    c.s3_send_content_md5 = true;
    struct objstore *s = store_open(&c, "");
    tell(&r.server, "_fault?kind=other&times=2");
    put(s, "a", "x");
    tell(&r.server, "_fault?kind=other&times=1000");
    struct ctx soon = {.deadline_ms = clock_mono_ms() + 500};
    cr_assert(!objstore_put(s, &soon, SL("a"), SL("y"), &err) && strstr(err.text, "ETag"), "%s", err.text);
    objstore_free(s);
    rig_free(&r);
}

Test(s3, connections_are_kept, .timeout = 60)
{
    struct rig r = rig_new();
    for (int i = 0; i < 50; i++)
        put(r.store, "a", "x");
    const char *stats = tell(&r.server, "_stats");
    cr_assert(strstr(stats, "\"connections\": 2,"), "%s", stats); /* the other is this question's */
    rig_free(&r);
}

Test(s3, the_servers_certificate_is_checked, .timeout = 60)
{
    char dir[] = "/tmp/objstore-tls-XXXXXX", cert[64], key[64], command[512];
    cr_assert(mkdtemp(dir));
    snprintf(cert, sizeof(cert), "%s/cert", dir);
    snprintf(key, sizeof(key), "%s/key", dir);
    snprintf(command, sizeof(command),
             "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 2 -subj /CN=store.test -addext "
             "subjectAltName=DNS:store.test -keyout '%s' -out '%s' 2>/dev/null", key, cert);
    cr_assert(system(command) == 0);
    struct server server = server_start(cert, key);
    struct objstore_config c = config_of(&server);
    struct err err = ERR_NONE;
    c.s3_insecure = false;
    struct objstore *s = store_open(&c, "");
    cr_assert(!objstore_put(s, &no_hurry, SL("a"), SL("x"), &err) && err.code == ERR_IO, "an unknown authority: %s", err.text);
    objstore_free(s);
    c.s3_tls_ca_path = cert;
    s = store_open(&c, "");
    cr_assert(!objstore_put(s, &no_hurry, SL("a"), SL("x"), &err) && err.code == ERR_IO, "another name: %s", err.text);
    objstore_free(s);
    c.s3_tls_server_name = "store.test";
    s = store_open(&c, "");
    put(s, "a", "x");
    expect(s, "a", 0, OBJSTORE_ALL, ">x");
    objstore_free(s);
    c.s3_tls_ca_path = c.s3_tls_server_name = "";
    c.s3_insecure_skip_verify = true;
    s = store_open(&c, "");
    put(s, "a", "x");
    objstore_free(s);
    server_stop(&server);
    remove_tree(dir);
}
