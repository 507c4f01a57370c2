/* /memberlist and the metrics of a member, on a real server. */
#include "../../net/http_rig.h"

#include <jansson.h>

#include "ring/desc.h"
#include "ring/memberlist/page.h"

#define KEY "collectors/ring"

static enum kv_cas put(void *arg, void **value, struct err *err)
{
    (void)arg, (void)err;
    uint32_t tokens[] = {1, 2, 3};
    if (!*value)
        *value = ring_desc_new();
    struct ring_instance *in = ring_desc_add(*value, SL("mimir-0"));
    ring_string_set(&in->addr, SL("127.0.0.1:9095"));
    ring_string_set(&in->zone, SL("zone-a"));
    in->timestamp_s = clock_wall_ms() / 1000;
    ring_instance_set_tokens(in, tokens, 3);
    ring_desc_add(*value, SL("gone"))->timestamp_s = clock_wall_ms() / 1000;
    return KV_CAS_STORE;
}

static enum kv_cas take_away(void *arg, void **value, struct err *err)
{
    (void)arg, (void)err;
    ring_desc_remove(*value, ring_desc_find(*value, SL("gone")));
    return KV_CAS_STORE;
}

struct fixture {
    struct rig rig;
    struct memberlist *m;
    struct memberlist_page page;
};

static void fixture_new(struct fixture *f)
{
    struct memberlist_config cfg;
    struct kv_codecs codecs = {.codecs = {&ring_desc_codec}, .n = 1};
    struct err err = ERR_NONE;
    memberlist_config_default(&cfg);
    cfg.node_name = "n<0>";
    cfg.randomize_node_name = false;
    cfg.bind_addr = "127.0.0.1";
    cfg.bind_port = 0;
    cfg.zone = "zone-a";
    cfg.role = MEMBERLIST_BRIDGE;
    f->m = memberlist_new(&cfg, &codecs, &err);
    cr_assert(f->m && memberlist_start(f->m, &err), "%s", err.text);
    memberlist_metrics_export(f->m);
    cr_assert(kv_cas(memberlist_kv(f->m), SL(KEY), &ring_desc_codec, put, NULL, NULL));
    cr_assert(kv_cas(memberlist_kv(f->m), SL(KEY), &ring_desc_codec, take_away, NULL, NULL));
    f->page = (struct memberlist_page){.m = f->m};
    rig_new(&f->rig);
    rig_start(&f->rig, memberlist_routes, memberlist_routes_n, &f->page);
}

static void fixture_free(struct fixture *f)
{
    rig_stop(&f->rig);
    memberlist_free(f->m);
}

static struct reply get(struct fixture *f, const char *query, const char *headers)
{
    char path[128];
    snprintf(path, sizeof path, "/memberlist%s", query);
    return rig_ask(&f->rig, "GET", path, headers, NULL, 0);
}

Test(memberlist_page, gives_members_and_keys_as_json)
{
    struct fixture f;
    fixture_new(&f);
    struct reply r = get(&f, "", "Accept: application/json\r\n");
    cr_assert_str_eq(reply_header(&r, "Content-Type"), "application/json");
    json_t *doc = json_loads(r.body, 0, NULL), *member = json_array_get(json_object_get(doc, "SortedMembers"), 0);
    const char *name, *addr, *meta, *codec, *updated, *role;
    int port, state, pmax, version, deleted, size;
    cr_assert_eq(json_unpack(member, "{s:s,s:s,s:i,s:s,s:i,s:i}", "Name", &name, "Addr", &addr, "Port", &port, "Meta",
                             &meta, "State", &state, "PMax", &pmax),
                 0);
    cr_assert_str_eq(name, "n<0>");
    cr_assert_str_eq(addr, "127.0.0.1");
    cr_assert_str_eq(meta, "AQIGem9uZS1h");
    cr_assert(port == memberlist_port(f.m) && state == 0 && pmax == 5);
    cr_assert_eq(json_unpack(doc, "{s:{s:{s:i,s:s,s:b,s:s}},s:i,s:{s:s}}", "Store", KEY, "Version", &version, "CodecID",
                             &codec, "Deleted", &deleted, "UpdateTime", &updated, "TotalStoreSize", &size,
                             "ZoneAwareRouting", "Role", &role),
                 0);
    cr_assert(version == 2 && !deleted && size > 30);
    cr_assert_str_eq(codec, "ringDesc");
    cr_assert_str_eq(updated, "0001-01-01T00:00:00Z");
    cr_assert_str_eq(role, "bridge");
    json_decref(doc);
    reply_free(&r);
    fixture_free(&f);
}

Test(memberlist_page, shows_people_members_and_keys)
{
    static const char *const wanted[] = {"n&lt;0&gt; (this one)", "alive", "zone-a (bridge)",
                                         "viewKey=collectors/ring&amp;format=json-pretty", "ringDesc"};
    struct fixture f;
    fixture_new(&f);
    struct reply r = get(&f, "", "");
    for (size_t i = 0; i < sizeof wanted / sizeof *wanted; i++)
        cr_assert(strstr(r.body, wanted[i]), "no %s in %s", wanted[i], r.body);
    reply_free(&r);
    fixture_free(&f);
}

Test(memberlist_page, shows_and_gives_a_key)
{
    struct fixture f;
    fixture_new(&f);
    struct reply r = get(&f, "?viewKey=collectors%2Fring&format=json", "");
    cr_assert_str_eq(reply_header(&r, "Content-Type"), "text/plain; charset=utf-8");
    json_t *doc = json_loads(r.body, 0, NULL);
    const char *addr, *zone, *id;
    int token, state;
    cr_assert_eq(json_unpack(doc, "{s:{s:{s:s,s:s,s:[i,i,i],s:s},s:{s:i}}}", "ingesters", "mimir-0", "addr", &addr,
                             "zone", &zone, "tokens", &token, &token, &token, "id", &id, "gone", "state", &state),
                 0);
    cr_assert(strcmp(addr, "127.0.0.1:9095") == 0 && strcmp(zone, "zone-a") == 0 && token == 3 && state == RING_LEFT);
    json_decref(doc);
    reply_free(&r);
    r = get(&f, "?viewKey=collectors/ring", "");
    cr_assert(strstr(r.body, "{\n    \"ingesters\": {\n        \"gone\": {\n            \"timestamp\": "), "%s",
              r.body);
    reply_free(&r);
    r = get(&f, "?downloadKey=collectors/ring", "");
    cr_assert_str_eq(reply_header(&r, "Content-Type"), "application/octet-stream");
    cr_assert_str_eq(reply_header(&r, "Content-Disposition"), "attachment; filename=2-collectors/ring");
    struct ring_desc *d = ring_desc_codec.decode((struct slice){r.body, r.n}, NULL);
    cr_assert(d && ring_desc_find(d, SL("mimir-0")));
    ring_desc_free(d);
    reply_free(&r);
    fixture_free(&f);
}

Test(memberlist_page, answers_other_wishes_as_mimir_does)
{
    static const struct {
        const char *query;
        int status;
        const char *body;
    } cases[] = {
        {"?viewKey=nothing", 404, "value not found\n"},
        {"?downloadKey=nothing", 404, "value not found\n"},
        {"?viewMsg=1", 404, "message not found\n"},
        {"?viewMsg=x", 400, "strconv.Atoi: parsing \"x\": invalid syntax\n"},
        {"?deleteMessages=true", 302, ""},
    };
    struct fixture f;
    fixture_new(&f);
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        struct reply r = get(&f, cases[i].query, "");
        cr_assert_eq(r.status, cases[i].status, "%s: %d", cases[i].query, r.status);
        cr_assert_str_eq(r.body, cases[i].body);
        if (r.status == 302)
            cr_assert_str_eq(reply_header(&r, "Location"), "?deleteMessages=false");
        reply_free(&r);
    }
    f.page.m = NULL;
    struct reply r = get(&f, "", "");
    cr_assert_str_eq(r.body, "This instance doesn't use memberlist.");
    reply_free(&r);
    fixture_free(&f);
}

Test(memberlist_metrics, tell_of_the_member_under_mimirs_names)
{
    static const char *const wanted[] = {
        "memberlist_client_cas_attempt_total 2\n",
        "memberlist_client_cas_success_total 2\n",
        "memberlist_client_cas_failure_total 0\n",
        "memberlist_client_cluster_members_count 1\n",
        "memberlist_client_cluster_node_health_score 0\n",
        "memberlist_client_kv_store_count 1\n",
        "memberlist_client_kv_store_value_tombstones{key=\"collectors/ring\"} 1\n",
        "memberlist_client_kv_store_value_tombstones_removed_total{key=\"collectors/ring\"} 0\n",
        "memberlist_client_messages_in_broadcast_queue{queue=\"gossip\"} 0\n",
        "memberlist_client_received_broadcasts_total 0\n",
        "memberlist_tcp_transport_unknown_connections_total 1\n",
    };
    struct fixture f;
    fixture_new(&f);
    struct sockaddr_in to = {
        .sin_family = AF_INET, .sin_port = htons(memberlist_port(f.m)), .sin_addr = {htonl(INADDR_LOOPBACK)}};
    int fd = socket(AF_INET, SOCK_STREAM, 0);
    char byte = 'G';
    cr_assert_eq(connect(fd, (struct sockaddr *)&to, sizeof to), 0);
    cr_assert_eq(send(fd, &byte, 1, MSG_NOSIGNAL), 1);
    cr_assert_eq(recv(fd, &byte, 1, 0), 0);
    close(fd);
    for (size_t i = 0; i < sizeof wanted / sizeof *wanted; i++)
        EVENTUALLY(metrics_hold(wanted[i]));
    fixture_free(&f);
    cr_assert(metrics_hold("memberlist_client_cas_attempt_total 2\n")); /* a member that is gone is not asked */
}
