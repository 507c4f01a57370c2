/* The store-gateway's pages on a real server: fields and statuses are those of a live Mimir (http.md 4.4). */
#include "tests/net/http_rig.h"

#include <jansson.h>

#define CLAIM(cond, ...) cr_assert(cond, __VA_ARGS__)
#include "tests/storage/gateway/gateway_rig.h"

static struct gw_rig gw;
static struct rig http;
static struct ulid ids[2];

static void setup(void)
{
    static const struct gw_series one = {"__name__=m", 0, 1000, 10, 1};
    gw_new(&gw);
    ids[0] = gw_block(&gw, "tenant-a", &one, 1, 0, 7200000);
    ids[1] = gw_block(&gw, "tenant-a", &one, 1, 0, 7200000);
    gw_mark(&gw, "tenant-a", &ids[1], 7200);
    gw_index(&gw, "tenant-a");
    struct gateway *g = gw_start(&gw, 0);
    rig_new(&http);
    rig_start(&http, gateway_routes, gateway_routes_n, g);
}

static void teardown(void)
{
    rig_stop(&http);
    gw_free(&gw);
}

static struct reply ask(const char *method, const char *path, const char *accept)
{
    char headers[64];
    snprintf(headers, sizeof(headers), "Accept: %s\r\n", accept);
    return rig_ask(&http, method, path, headers, NULL, 0);
}

static json_t *ask_json(const char *path)
{
    struct reply r = ask("GET", path, "application/json");
    cr_assert_eq(r.status, 200, "%d %s", r.status, r.body);
    json_t *doc = json_loads(r.body, 0, NULL);
    cr_assert(doc, "%s", r.body);
    reply_free(&r);
    return doc;
}

static void expect_html(const char *path, const char *const *wanted, size_t n)
{
    struct reply r = ask("GET", path, "text/html");
    cr_assert_eq(r.status, 200);
    for (size_t i = 0; i < n; i++)
        cr_expect(strstr(r.body, wanted[i]), "no %s in %s", wanted[i], r.body);
    reply_free(&r);
}

Test(gateway_pages, lists_tenants, .init = setup, .fini = teardown)
{
    json_t *doc = ask_json("/store-gateway/tenants");
    cr_expect(json_string_value(json_object_get(doc, "now")));
    cr_assert_eq(json_array_size(json_object_get(doc, "tenants")), 1);
    cr_expect_str_eq(json_string_value(json_array_get(json_object_get(doc, "tenants"), 0)), "tenant-a");
    json_decref(doc);
    static const char *const wanted[] = {"<a href=\"tenant/tenant-a/blocks\">tenant-a</a></td><td>1<"};
    expect_html("/store-gateway/tenants", wanted, 1);
}

Test(gateway_pages, an_empty_bucket_has_no_tenants, .init = setup, .fini = teardown)
{
    gw_shell("rm -r %s/tenant-a", gw.bucket_dir);
    json_t *doc = ask_json("/store-gateway/tenants");
    cr_expect_null(json_object_get(doc, "tenants"));
    json_decref(doc);
}

Test(gateway_pages, lists_a_tenants_blocks, .init = setup, .fini = teardown)
{
    json_t *doc = ask_json("/store-gateway/tenant/tenant-a/blocks");
    json_t *metas = json_object_get(doc, "metas");
    cr_expect_str_eq(json_string_value(json_object_get(doc, "tenant")), "tenant-a");
    cr_assert_eq(json_array_size(metas), 1);
    cr_expect_str_eq(json_string_value(json_object_get(json_array_get(metas, 0), "ulid")), ids[0].text);
    json_decref(doc);
    doc = ask_json("/store-gateway/tenant/tenant-a/blocks?show_deleted=on");
    cr_expect_eq(json_array_size(json_object_get(doc, "metas")), 2);
    json_decref(doc);
    doc = ask_json("/store-gateway/tenant/nobody/blocks");
    cr_expect(json_is_array(json_object_get(doc, "metas")) && json_array_size(json_object_get(doc, "metas")) == 0);
    json_decref(doc);
    const char *const wanted[] = {ids[0].text, "1970-01-01T02:00:00Z", "receive", "served here"};
    expect_html("/store-gateway/tenant/tenant-a/blocks", wanted, ARRAY_LEN(wanted));
    static const char *const marked[] = {"marked for deletion</span>"};
    expect_html("/store-gateway/tenant/tenant-a/blocks?show_deleted=on", marked, 1);
}

Test(gateway_pages, shows_a_block_whose_meta_cannot_be_read, .init = setup, .fini = teardown)
{
    gw_shell("rm %s/tenant-a/%s/meta.json", gw.bucket_dir, ids[0].text);
    const char *const wanted[] = {ids[0].text, "class=\"bad\""};
    expect_html("/store-gateway/tenant/tenant-a/blocks", wanted, ARRAY_LEN(wanted));
}

static void expect_prepared(const char *want)
{
    struct reply r = ask("GET", "/store-gateway/prepare-shutdown", "*/*");
    cr_expect_eq(r.status, 200);
    cr_expect_str_eq(r.body, want);
    cr_expect_str_eq(reply_header(&r, "Content-Type"), "text/plain");
    reply_free(&r);
}

static void expect_status(const char *method, int status)
{
    struct reply r = ask(method, "/store-gateway/prepare-shutdown", "*/*");
    cr_expect_eq(r.status, status, "%s: %d", method, r.status);
    reply_free(&r);
}

Test(gateway_pages, prepares_a_stop_that_is_for_good, .init = setup, .fini = teardown)
{
    expect_prepared("unset\n");
    expect_status("POST", 204);
    expect_status("POST", 204);
    expect_prepared("set\n");
    expect_status("DELETE", 204);
    expect_prepared("unset\n");
    expect_status("PUT", 405);
}

static size_t in_ring(void)
{
    void *ring = NULL;
    cr_assert(kv_get(gw.memory, SL("collectors/store-gateway"), &ring_desc_codec, &ring, NULL));
    size_t n = ring ? ((struct ring_desc *)ring)->n : 0;
    ring_desc_free(ring);
    return n;
}

/* The flag says to stay, the switch says to go; it survives a restart, and is for one stop. */
Test(gateway_pages, leaves_the_ring_when_that_was_prepared, .init = setup, .fini = teardown)
{
    gw.ring.sharding.unregister_on_shutdown = false;
    gw_start(&gw, 1);
    cr_expect_eq(in_ring(), 2);
    gw_stop(&gw, 1);
    cr_expect_eq(in_ring(), 2, "LEAVING, with its tokens");
    gw_shell("touch %s/sync-1/shutdown-requested.txt", gw.dir);
    gw_start(&gw, 1);
    gw_stop(&gw, 1);
    cr_expect_eq(in_ring(), 1);
    char marker[256];
    snprintf(marker, sizeof(marker), "%s/sync-1/shutdown-requested.txt", gw.dir);
    cr_expect(access(marker, F_OK) != 0);
}
