/* The flags that rings share, the stores they open, and who this process is. */
#include <criterion/criterion.h>
#include <ifaddrs.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "base/assert.h"
#include "base/metrics.h"
#include "ring/config.h"
#include "ring/desc.h"

static const struct flag_def kv_flags[] = {
#define RING_FLAG "ingester.ring."
#define RING_YAML "ingester.ring."
#define FLAG(...) FLAG_ROW(kv_config, __VA_ARGS__)
#include "ring/kv_flags.def"
#undef FLAG
};
static const struct flag_def member_flags[] = {
#define FLAG(...) FLAG_ROW(ring_member_config, __VA_ARGS__)
#include "ring/member_flags.def"
#undef FLAG
};

struct configs {
    struct flag_set *fs;
    struct kv_config kv;
    struct ring_member_config member;
};

static void parse(struct configs *c, int argc, char **argv)
{
    struct err err = ERR_NONE;
    c->fs = flag_set_new();
    flag_set_add(c->fs, "ring", kv_flags, ARRAY_LEN(kv_flags), &c->kv);
    flag_set_add(c->fs, "ring", member_flags, ARRAY_LEN(member_flags), &c->member);
    cr_assert(flag_set_parse(c->fs, argc, argv, &err), "%s", err.text);
}

/* The row of flags.tsv: flag, type, default, class, values, yaml. */
static bool is_mimirs(const struct flag_def *d, char *row)
{
    static const char *const classes[] = {"basic", "advanced", "experimental"};
    char *field[6] = {0};
    for (int i = 0; i < 6; i++)
        field[i] = strsep(&row, "\t\n");
    if (!field[5] || strcmp(field[0], d->flag) != 0)
        return false;
    cr_expect_str_eq(field[5], d->yaml);
    cr_expect_str_eq(field[3], classes[d->cls]);
    if (field[2][0] != '<' && field[2][0] != '[' && strcmp(field[2], "1m0s") != 0)
        cr_expect_str_eq(field[2], d->def, "%s", d->flag);
    return true;
}

static void expect_mimirs(const struct flag_def *defs, size_t n)
{
    for (size_t i = 0; i < n; i++) {
        FILE *f = fopen(TEST_SHARED_DIR "/mimir/flags.tsv", "r");
        if (!f)
            cr_skip_test("no list of Mimir's flags here");
        char row[1024];
        bool found = false;
        while (!found && fgets(row, sizeof(row), f))
            found = is_mimirs(&defs[i], row);
        cr_expect(found, "%s", defs[i].flag);
        fclose(f);
    }
}

Test(ring_config, flags_are_mimirs)
{
    expect_mimirs(kv_flags, ARRAY_LEN(kv_flags));
    expect_mimirs(member_flags, ARRAY_LEN(member_flags));
}

static struct kv *open_store(const char *store, const char *prefix, const struct kv_stores *stores, struct err *err)
{
    struct configs c;
    char a[64], b[64];
    snprintf(a, sizeof(a), "-ingester.ring.store=%s", store);
    snprintf(b, sizeof(b), "-ingester.ring.prefix=%s", prefix);
    char *argv[] = {"brunn", a, b, NULL};
    parse(&c, 3, argv);
    struct kv *kv = kv_open(&c.kv, &(struct kv_user){"ingester.ring.", "ingester-ring"}, stores, err);
    flag_set_free(c.fs);
    return kv;
}

Test(ring_config, a_store_that_cannot_be_opened_names_its_flag)
{
    static const struct {
        const char *store, *text;
    } cases[] = {
        {"zookeeper", "-ingester.ring.store: there is no store \"zookeeper\"; the stores are consul, etcd, inmemory, memberlist"},
        {"multi", "-ingester.ring.store: multi is not supported; the stores are consul, etcd, inmemory, memberlist"},
        {"memberlist", "-ingester.ring.store is memberlist, which this process does not have"},
        {"etcd", "-ingester.ring.etcd.endpoints is empty; the store etcd needs an address"},
    };
    for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
        struct err err = ERR_NONE;
        cr_assert_null(open_store(cases[i].store, "", &(struct kv_stores){0}, &err));
        cr_assert_eq(err.code, ERR_CONFIG);
        cr_assert_str_eq(err.text, cases[i].text);
    }
}

static enum kv_cas add_instance(void *arg, void **value, struct err *err)
{
    if (*(int *)arg)
        return err_set(err, ERR_NOT_FOUND, "no change detected"), KV_CAS_FAIL;
    if (!*value)
        *value = ring_desc_new();
    ring_desc_add(*value, SL("me"));
    return KV_CAS_STORE;
}

struct heard {
    int n;
    char key[32];
};

static void hear(void *arg, struct slice key, const void *value)
{
    (void)value;
    struct heard *h = arg;
    h->n++;
    snprintf(h->key, sizeof(h->key), "%.*s", SL_FMT(key));
}

static void hear_name(void *arg, struct slice name)
{
    hear(arg, name, NULL);
}

Test(ring_config, keys_have_the_prefix_in_the_store_only)
{
    struct kv *store = kv_inmemory_new(8);
    struct kv_stores stores = {.inmemory = store};
    struct kv *kv = open_store("inmemory", "collectors/", &stores, NULL);
    struct heard one = {0}, all = {0}, listed = {0};
    int fail = 0;
    struct kv_watch *w = kv_watch_key(kv, SL("ring"), &ring_desc_codec, hear, &one, NULL);
    struct kv_watch *p = kv_watch_prefix(kv, SL("r"), &ring_desc_codec, hear, &all, NULL);
    cr_assert(kv_cas(kv, SL("ring"), &ring_desc_codec, add_instance, &fail, NULL));
    cr_assert_str_eq(one.key, "ring");
    cr_assert_str_eq(all.key, "ring");
    void *v;
    cr_assert(kv_get(store, SL("collectors/ring"), &ring_desc_codec, &v, NULL) && v);
    ring_desc_free(v);
    cr_assert(kv_get(kv, SL("ring"), &ring_desc_codec, &v, NULL) && v);
    ring_desc_free(v);
    cr_assert(kv_list(kv, SL(""), hear_name, &listed, NULL));
    cr_assert_str_eq(listed.key, "ring");
    cr_assert_str_eq(kv->ops->name, "inmemory");
    struct err err = ERR_NONE;
    fail = 1;
    cr_assert_not(kv_cas(kv, SL("ring"), &ring_desc_codec, add_instance, &fail, &err));
    cr_assert_str_eq(err.text, "no change detected");
    cr_assert(kv_delete(kv, SL("ring"), NULL));
    cr_assert_eq(one.n, 2);
    kv_unwatch(kv, w);
    kv_unwatch(kv, p);
    kv_free(kv); /* leaves the store alone */
    kv_free(store);
}

Test(ring_config, operations_are_timed)
{
    struct kv *store = kv_inmemory_new(8);
    struct kv_stores stores = {.inmemory = store};
    struct kv *kv = open_store("inmemory", "collectors/", &stores, NULL);
    int fail = 1;
    void *v;
    kv_cas(kv, SL("ring"), &ring_desc_codec, add_instance, &fail, NULL);
    cr_assert(kv_get(kv, SL("ring"), &ring_desc_codec, &v, NULL));
    struct buf text = {0};
    metrics_write_text(&text, NULL, 0);
    cr_assert(strstr(buf_cstr(&text), "cortex_kv_request_duration_seconds_count{kv_name=\"ingester-ring\",operation=\"CAS\","
                                      "role=\"primary\",status_code=\"500\",type=\"inmemory\"} 1\n"));
    cr_assert(strstr(buf_cstr(&text), "cortex_kv_request_duration_seconds_count{kv_name=\"ingester-ring\",operation=\"GET\","
                                      "role=\"primary\",status_code=\"200\",type=\"inmemory\"} 1\n"));
    buf_release(&text);
    kv_free(kv);
    kv_free(store);
}

/* --- who this process is ------------------------------------------------------------------------------------------------ */

static struct ring_member_config member_of(const char *id, const char *addr, int64_t port)
{
    return (struct ring_member_config){.instance_id = id, .instance_addr = addr, .instance_port = port, .instance_availability_zone = "z"};
}

Test(ring_member, what_is_set_is_taken)
{
    static const struct {
        const char *addr;
        int64_t port;
        const char *want;
    } cases[] = {
        {"10.0.0.1", 0, "10.0.0.1:9095"}, {"host.example", 81, "host.example:81"}, {"2001:db8::1", 1, "[2001:db8::1]:1"},
        {"[2001:db8::1]", 1, "[2001:db8::1]:1"},
    };
    for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
        struct ring_member_config cfg = member_of("ingester-7", cases[i].addr, cases[i].port);
        struct ring_member_identity me;
        cr_assert(ring_member_resolve(&cfg, "x.", 9095, &me, NULL));
        cr_assert_str_eq(me.addr, cases[i].want);
        cr_assert_str_eq(me.id, "ingester-7");
        cr_assert_str_eq(me.zone, "z");
    }
}

Test(ring_member, the_name_is_the_hosts_by_default)
{
    struct ring_member_config cfg = member_of("", "a", 0);
    struct ring_member_identity me;
    char host[256] = "";
    gethostname(host, sizeof(host) - 1);
    cr_assert(ring_member_resolve(&cfg, "x.", 9095, &me, NULL));
    cr_assert_str_eq(me.id, host);
}

Test(ring_member, a_named_interface_gives_its_address)
{
    const char *names[] = {"no-such-interface", "lo"};
    struct ring_member_config cfg = member_of("i", "", 0);
    struct ring_member_identity me;
    cfg.instance_interface_names = (struct flag_list){names, 2};
    cr_assert(ring_member_resolve(&cfg, "x.", 9095, &me, NULL));
    cr_assert_str_eq(me.addr, "127.0.0.1:9095");
    struct err err = ERR_NONE;
    cfg.instance_interface_names = (struct flag_list){names, 1};
    cr_assert_not(ring_member_resolve(&cfg, "x.", 9095, &me, &err));
    cr_assert_eq(err.code, ERR_CONFIG);
    cr_assert(strstr(err.text, "-x.instance-interface-names"), "%s", err.text);
}

Test(ring_member, there_is_an_address_by_default)
{
    struct ring_member_config cfg = member_of("i", "", 0);
    struct ring_member_identity me;
    cr_assert(ring_member_resolve(&cfg, "x.", 9095, &me, NULL));
    cr_assert(strstr(me.addr, ":9095"));
}

Test(ring_member, a_value_that_makes_no_sense_names_its_flag)
{
    char big[300];
    memset(big, 'x', sizeof(big) - 1);
    big[sizeof(big) - 1] = 0;
    const struct {
        struct ring_member_config cfg;
        const char *flag;
    } cases[] = {{member_of(big, "a", 0), "-x.instance-id"}, {member_of("i", big, 0), "-x.instance-addr"},
                 {member_of("i", "a", 65536), "-x.instance-port"}, {member_of("i", "a", -1), "-x.instance-port"}};
    for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
        struct ring_member_identity me;
        struct err err = ERR_NONE;
        cr_assert_not(ring_member_resolve(&cases[i].cfg, "x.", 9095, &me, &err));
        cr_assert_eq(err.code, ERR_CONFIG);
        cr_assert(slice_has_prefix(slice_of(err.text), slice_of(cases[i].flag)), "%s", err.text);
    }
}
