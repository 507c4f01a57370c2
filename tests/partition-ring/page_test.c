/* /ingester/partition-ring on a real server: texts and statuses are those of a live Mimir. */
#include "../net/http_rig.h"

#include <jansson.h>

#include "partition-ring/lifecycle.h"
#include "partition-ring/page.h"

#define KEY "ingester-partitions"

static enum kv_cas fill(void *arg, void **value, struct err *err)
{
    (void)arg, (void)err;
    struct partition_desc *d = *value = partition_desc_new();
    for (int32_t id = 0; id < 3; id++)
        partition_create(d, id, 1700000000000);
    partition_desc_find(d, 0)->state = PARTITION_ACTIVE;
    partition_own(d, SL("zone-b-0"), 0, 1700000000000);
    partition_own(d, SL("zone-a-0"), 0, 1700000000000);
    partition_own(d, SL("<lost>"), 7, 1700000000000);
    partition_set_lock(d, 2, true, 1700000000000);
    return KV_CAS_STORE;
}

struct fixture {
    struct rig rig;
    struct kv *kv;
    struct partition_ring_page page;
};

static void fixture_new(struct fixture *f)
{
    rig_new(&f->rig);
    f->kv = kv_inmemory_new(4);
    cr_assert(kv_cas(f->kv, SL(KEY), &partition_desc_codec, fill, NULL, NULL));
    f->page = (struct partition_ring_page){.kv = f->kv, .key = KEY, .shown_key = "collectors/" KEY};
    rig_start(&f->rig, partition_ring_routes, partition_ring_routes_n, &f->page);
}

static void fixture_free(struct fixture *f)
{
    rig_stop(&f->rig);
    kv_free(f->kv);
}

static struct reply get(struct fixture *f, const char *query, const char *accept)
{
    char path[64], headers[64];
    snprintf(path, sizeof path, "/ingester/partition-ring%s", query);
    snprintf(headers, sizeof headers, "Accept: %s\r\n", accept);
    return rig_ask(&f->rig, "GET", path, headers, NULL, 0);
}

static struct reply post(struct fixture *f, const char *form)
{
    return rig_ask(&f->rig, "POST", "/ingester/partition-ring", "Content-Type: application/x-www-form-urlencoded\r\n", form, strlen(form));
}

Test(partition_ring_page, gives_the_document_as_json)
{
    struct fixture f;
    fixture_new(&f);
    struct reply r = get(&f, "", "application/json");
    cr_assert_eq(r.status, 200);
    cr_assert_str_eq(reply_header(&r, "Content-Type"), "application/json");
    json_t *doc = json_loads(r.body, 0, NULL), *list = json_object_get(doc, "partitions");
    cr_assert_eq(json_array_size(list), 4);
    int id, state, corrupted, locked;
    const char *changed, *owner_a, *owner_b;
    json_t *tokens;
    cr_assert_eq(json_unpack(json_array_get(list, 0), "{s:i,s:b,s:i,s:s,s:b,s:[ss],s:o}", "id", &id, "corrupted", &corrupted, "state", &state,
                             "state_timestamp", &changed, "state_change_locked", &locked, "owner_ids", &owner_a, &owner_b, "tokens", &tokens),
                 0);
    cr_assert(id == 0 && !corrupted && state == 2 && !locked);
    cr_assert_str_eq(changed, "2023-11-14T22:13:20Z");
    cr_assert_str_eq(owner_a, "zone-a-0");
    cr_assert_str_eq(owner_b, "zone-b-0");
    cr_assert(json_array_size(tokens) == 512 && json_integer_value(json_array_get(tokens, 1)) == 8388608);
    cr_assert_eq(json_unpack(json_array_get(list, 3), "{s:i,s:b,s:i,s:s,s:[s]}", "id", &id, "corrupted", &corrupted, "state", &state, "state_timestamp",
                             &changed, "owner_ids", &owner_a),
                 0);
    cr_assert(id == 7 && corrupted && state == 0);
    cr_assert_str_eq(changed, "0001-01-01T00:00:00Z");
    json_decref(doc);
    free(r.body);
    fixture_free(&f);
}

Test(partition_ring_page, shows_people_states_owners_and_buttons)
{
    static const char *const wanted[] = {"zone-a-0<br>zone-b-0", "Active", "Pending, locked", "&lt;lost&gt;", "Make inactive and lock",
                                         "Unlock the state", "33.33%"};
    struct fixture f;
    fixture_new(&f);
    struct reply r = get(&f, "", "text/html"), with_tokens = get(&f, "?tokens=true", "text/html");
    cr_assert_eq(r.status, 200);
    for (size_t i = 0; i < sizeof wanted / sizeof *wanted; i++)
        cr_assert(strstr(r.body, wanted[i]), "no %s in %s", wanted[i], r.body);
    cr_assert(!strstr(r.body, " 8388608 ") && strstr(with_tokens.body, " 8388608 "));
    free(r.body);
    free(with_tokens.body);
    fixture_free(&f);
}

Test(partition_ring_page, answers_changes_as_mimir_does)
{
#define CAS "failed to CAS-update key collectors/ingester-partitions: fn returned error: "
    static const struct {
        const char *form;
        int status;
        const char *text;
    } cases[] = {
        {"action=change_state&partition_id=0&partition_state=PartitionInactive", 302, ""},
        {"action=change_state&partition_id=0&partition_state=PartitionInactive", 302, ""}, /* it is so already */
        {"action=change_state&partition_id=0&partition_state=PartitionActive", 302, ""},
        {"action=nonsense&partition_id=0", 302, ""},
        {"", 302, ""},
        {"action=change_state&partition_id=0&partition_state=PartitionPending", 400,
         "failed to change partition state: " CAS "change partition state from Active to Pending: partition state change not allowed"},
        {"action=change_state&partition_id=0&partition_state=Inactive", 400, "invalid partition state"},
        {"action=change_state&partition_id=9&partition_state=PartitionInactive", 400,
         "failed to change partition state: " CAS "the partition does not exist"},
        {"action=change_state&partition_id=4294967296&partition_state=PartitionInactive", 400,
         "failed to change partition state: " CAS "the partition does not exist"},
        {"action=change_state&partition_id=x&partition_state=PartitionInactive", 400,
         "invalid partition ID: strconv.Atoi: parsing \"x\": invalid syntax"},
        {"action=state_change_lock&partition_id=", 400, "invalid partition ID: strconv.Atoi: parsing \"\": invalid syntax"},
        {"action=state_change_lock&partition_id=99999999999999999999&locked=true", 400,
         "invalid partition ID: strconv.Atoi: parsing \"99999999999999999999\": value out of range"},
        {"action=change_state&partition_id=2&partition_state=PartitionActive", 400,
         "failed to change partition state: " CAS "partition state change is locked"},
        {"action=change_state_and_lock&partition_id=2&partition_state=PartitionInactive", 400,
         "failed to change partition state: " CAS "partition state change is locked"},
        {"action=state_change_lock&partition_id=2&locked=foo", 400, "invalid locked value: strconv.ParseBool: parsing \"foo\": invalid syntax"},
        {"action=state_change_lock&partition_id=9&locked=true", 400, "failed to lock partition state change: " CAS "the partition does not exist"},
        {"action=state_change_lock&partition_id=2&locked=F", 302, ""},
        {"action=change_state_and_lock&partition_id=2&partition_state=PartitionInactive", 302, ""},
        {"action=change_state&partition_id=2&partition_state=PartitionActive", 400,
         "failed to change partition state: " CAS "partition state change is locked"},
    };
    struct fixture f;
    fixture_new(&f);
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        struct reply r = post(&f, cases[i].form);
        size_t n = strlen(cases[i].text);
        cr_assert_eq(r.status, cases[i].status, "%s: %d %s", cases[i].form, r.status, r.body);
        cr_assert(strncmp(r.body, cases[i].text, n) == 0 && strcmp(r.body + n, n ? "\n" : "") == 0, "%s: %s", cases[i].form, r.body);
        if (r.status == 302)
            cr_assert_str_eq(reply_header(&r, "Location"), "#");
        free(r.body);
    }
    void *d;
    cr_assert(kv_get(f.kv, SL(KEY), &partition_desc_codec, &d, NULL));
    cr_assert_eq(partition_desc_find(d, 0)->state, PARTITION_ACTIVE);
    cr_assert_eq(partition_desc_find(d, 1)->state, PARTITION_PENDING);
    cr_assert(partition_desc_find(d, 2)->state == PARTITION_INACTIVE && partition_desc_find(d, 2)->locked);
    partition_desc_free(d);
    fixture_free(&f);
}
