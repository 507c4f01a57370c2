/* /ingester/ring on a real server: fields, texts and statuses are those of a live Mimir (http.md 4.2). */
#include "tests/net/http_rig.h"

#include "base/assert.h"
#include "ring/desc.h"
#include "ring/page.h"

#define KEY "ring"
#define NOW_MS 1700000000123

static enum kv_cas fill(void *arg, void **value, struct err *err)
{
    (void)arg, (void)err;
    struct ring_desc *d = *value = ring_desc_new();
    struct ring_instance *in = ring_desc_add(d, SL("mimir-0"));
    in->timestamp_s = NOW_MS / 1000 - 10;
    in->registered_s = NOW_MS / 1000 - 100;
    ring_string_set(&in->addr, SL("10.0.0.1:9095"));
    ring_instance_set_tokens(in, (const uint32_t[]){1, 1073741825}, 2);
    in = ring_desc_add(d, SL("mimir-1<x>"));
    in->timestamp_s = NOW_MS / 1000 - 61;
    in->state = RING_LEAVING;
    in->read_only = true;
    in->read_only_updated_s = NOW_MS / 1000 - 70;
    ring_string_set(&in->zone, SL("zone-a"));
    ring_instance_set_tokens(in, (const uint32_t[]){2147483648}, 1);
    in->versions = malloc(sizeof(*in->versions));
    in->versions[0] = (struct ring_version){1, 9};
    in->n_versions = 1;
    return KV_CAS_STORE;
}

struct fixture {
    struct rig rig;
    struct kv *kv;
    struct ring_page page;
};

static const struct http_route routes[] = {{HTTP_GET | HTTP_POST, "/ingester/ring", HTTP_POOL_QUERY, 0, ring_page, ""}};

static void fixture_new(struct fixture *f, bool filled)
{
    clock_fake_wall_ms(NOW_MS);
    rig_new(&f->rig);
    f->kv = kv_inmemory_new(4);
    if (filled)
        cr_assert(kv_cas(f->kv, SL(KEY), &ring_desc_codec, fill, NULL, NULL));
    f->page = (struct ring_page){
        .title = "Ingesters", .kv = f->kv, .key = KEY, .shown_key = "collectors/" KEY, .heartbeat_timeout_ms = 60000};
    rig_start(&f->rig, routes, 1, &f->page);
}

static void fixture_free(struct fixture *f)
{
    rig_stop(&f->rig);
    kv_free(f->kv);
}

static struct reply get(struct fixture *f, const char *query, const char *accept)
{
    char path[64], headers[64];
    snprintf(path, sizeof path, "/ingester/ring%s", query);
    snprintf(headers, sizeof headers, "Accept: %s\r\n", accept);
    return rig_ask(&f->rig, "GET", path, headers, NULL, 0);
}

static struct reply post(struct fixture *f, const char *form)
{
    return rig_ask(&f->rig, "POST", "/ingester/ring", "Content-Type: application/x-www-form-urlencoded\r\n", form, strlen(form));
}

Test(ring_page, gives_the_instances_as_json)
{
    struct fixture f;
    fixture_new(&f, true);
    struct reply r = get(&f, "", "application/json");
    cr_assert_eq(r.status, 200);
    cr_assert_str_eq(reply_header(&r, "Content-Type"), "application/json");
    cr_assert_str_eq(r.body,
                     "{\"shards\":[{\"id\":\"mimir-0\",\"state\":\"ACTIVE\",\"address\":\"10.0.0.1:9095\",\"timestamp\":\"2023-11-14T22:13:10Z\","
                     "\"registered_timestamp\":\"2023-11-14T22:11:40Z\",\"read_only\":false,\"read_only_updated_timestamp\":"
                     "\"0001-01-01T00:00:00Z\",\"zone\":\"\",\"tokens\":[1,1073741825]},"
                     "{\"id\":\"mimir-1<x>\",\"state\":\"UNHEALTHY\",\"address\":\"\",\"timestamp\":\"2023-11-14T22:12:19Z\","
                     "\"registered_timestamp\":\"0001-01-01T00:00:00Z\",\"read_only\":true,\"read_only_updated_timestamp\":"
                     "\"2023-11-14T22:12:10Z\",\"zone\":\"zone-a\",\"tokens\":[2147483648],\"versions\":{\"1\":9}}],"
                     "\"now\":\"2023-11-14T22:13:20.123Z\"}\n");
    reply_free(&r);
    fixture_free(&f);
}

Test(ring_page, an_empty_ring_has_no_shards)
{
    struct fixture f;
    fixture_new(&f, false);
    struct reply r = get(&f, "", "application/json");
    cr_assert_str_eq(r.body, "{\"shards\":null,\"now\":\"2023-11-14T22:13:20.123Z\"}\n");
    reply_free(&r);
    r = get(&f, "", "text/html");
    cr_assert_eq(r.status, 200);
    reply_free(&r);
    fixture_free(&f);
}

Test(ring_page, shows_people_states_and_ownership)
{
    static const char *const wanted[] = {"<h1>Ingesters</h1>", "class=\"good\">ACTIVE<", "class=\"bad\">UNHEALTHY, read-only<", "mimir-1&lt;x&gt;",
                                         "2023-11-14T22:13:10Z (10s ago)", "75.00%", "25.00%", "Forget"};
    struct fixture f;
    fixture_new(&f, true);
    struct reply r = get(&f, "", "text/html"), with_tokens = get(&f, "?tokens=true", "text/html");
    cr_assert_eq(r.status, 200);
    for (size_t i = 0; i < ARRAY_LEN(wanted); i++)
        cr_assert(strstr(r.body, wanted[i]), "no %s in %s", wanted[i], r.body);
    cr_assert(!strstr(r.body, "1073741825 ") && strstr(with_tokens.body, "1073741825 "));
    cr_assert_null(strstr(r.body, "://"), "nothing of another host");
    reply_free(&r);
    reply_free(&with_tokens);
    fixture_free(&f);
}

Test(ring_page, forgets_an_instance)
{
    struct fixture f;
    fixture_new(&f, true);
    struct reply r = post(&f, "forget=mimir-1%3Cx%3E");
    cr_assert_eq(r.status, 302);
    cr_assert_str_eq(reply_header(&r, "Location"), "#");
    reply_free(&r);
    void *v;
    cr_assert(kv_get(f.kv, SL(KEY), &ring_desc_codec, &v, NULL));
    cr_assert_eq(((struct ring_desc *)v)->n, 1);
    ring_desc_free(v);
    fixture_free(&f);
}

Test(ring_page, says_that_there_is_nobody_to_forget)
{
    static const struct {
        const char *form, *text;
    } cases[] = {
        {"forget=x", "error forgetting instance 'x': failed to CAS-update key collectors/ring: no change detected\n"},
        {"", "error forgetting instance '': failed to CAS-update key collectors/ring: no change detected\n"},
    };
    for (size_t i = 0; i < 2 * ARRAY_LEN(cases); i++) {
        struct fixture f;
        fixture_new(&f, i < ARRAY_LEN(cases));
        struct reply r = post(&f, cases[i % ARRAY_LEN(cases)].form);
        cr_assert_eq(r.status, 500);
        cr_assert_str_eq(r.body, cases[i % ARRAY_LEN(cases)].text);
        reply_free(&r);
        fixture_free(&f);
    }
}
