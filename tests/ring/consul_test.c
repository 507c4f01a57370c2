/*
 * The store on Consul. Consul itself is not to be had here, so this is a server of the tests' own that does what Consul's documentation of /v1/kv says: ModifyIndex,
 * cas, keys, recurse, blocking queries with X-Consul-Index, 404 for what is not there, ACL tokens.
 */
#include "tests/ring/remote_rig.h"

#include "base/assert.h"
#include "base/base64.h"
#include "base/json.h"
#include "tests/net/http_rig.h"

#define PAIRS_MAX 32

struct pair {
    char key[64];
    struct buf value;
    uint64_t modified;
};

static struct consul {
    pthread_mutex_t lock;
    pthread_cond_t changed;
    struct pair pairs[PAIRS_MAX];
    size_t n;
    uint64_t index;
    int gets; /* of a watch */
    int fail; /* so many requests are answered 500 */
    bool consistent; /* the last read asked for it */
    bool stopping;
} consul = {.lock = PTHREAD_MUTEX_INITIALIZER, .changed = PTHREAD_COND_INITIALIZER};

static struct rig rig;

static struct pair *find_pair(struct slice key)
{
    for (size_t i = 0; i < consul.n; i++)
        if (slice_eq(slice_of(consul.pairs[i].key), key))
            return &consul.pairs[i];
    return NULL;
}

static void put_base64(struct json *j, struct slice s)
{
    struct buf out = {0};
    base64_encode(s, true, &out);
    json_str(j, buf_slice(&out));
    buf_release(&out);
}

static void put_pair(struct json *j, const struct pair *p)
{
    json_obj(j);
    json_key(j, SL("LockIndex"));
    json_u64(j, 0);
    json_key(j, SL("Key"));
    json_str(j, slice_of(p->key));
    json_key(j, SL("Flags"));
    json_u64(j, 0);
    json_key(j, SL("Value"));
    put_base64(j, buf_slice(&p->value));
    json_key(j, SL("ModifyIndex"));
    json_u64(j, p->modified);
    json_obj_end(j);
}

/* The answer to a read, and the index that it is true for: of the newest of its keys, or of the store when there are none. */
static bool put_pairs(struct buf *out, struct slice key, bool recurse, bool names, uint64_t *ret_index)
{
    struct json j;
    json_init(&j, out);
    json_arr(&j);
    *ret_index = 0;
    for (size_t i = 0; i < consul.n; i++) {
        const struct pair *p = &consul.pairs[i];
        struct slice own = slice_of(p->key);
        if (recurse || names ? !slice_has_prefix(own, key) : !slice_eq(own, key))
            continue;
        *ret_index = p->modified > *ret_index ? p->modified : *ret_index;
        if (names)
            json_str(&j, own);
        else
            put_pair(&j, p);
    }
    json_arr_end(&j);
    bool any = *ret_index > 0;
    /* The tombstones of a prefix count as well; one index for all is allowed, it only wakes more often. */
    if (!any || recurse)
        *ret_index = consul.index;
    return any;
}

static void wait_change(uint64_t index, struct slice key, bool recurse)
{
    struct timespec until;
    clock_gettime(CLOCK_REALTIME, &until);
    until.tv_sec += 10;
    for (;;) {
        struct buf dropped = {0};
        uint64_t now;
        put_pairs(&dropped, key, recurse, false, &now);
        buf_release(&dropped);
        if (now != index || consul.stopping || pthread_cond_timedwait(&consul.changed, &consul.lock, &until) != 0)
            return;
    }
}

static void serve_get(struct http_request *req, struct slice key)
{
    bool recurse = http_param(req, "recurse").p, names = http_param(req, "keys").p;
    struct slice index = http_param(req, "index");
    uint64_t seen = index.p ? strtoull(index.p, NULL, 10) : 0, now;
    struct buf out = {0};
    pthread_mutex_lock(&consul.lock);
    consul.consistent = http_param(req, "consistent").p;
    consul.gets += index.p != NULL;
    if (seen)
        wait_change(seen, key, recurse);
    bool any = put_pairs(&out, key, recurse, names, &now);
    pthread_mutex_unlock(&consul.lock);
    char number[32];
    snprintf(number, sizeof(number), "%llu", (unsigned long long)now);
    http_set_header(req, "X-Consul-Index", number);
    if (!any)
        buf_clear(&out);
    http_respond(req, any ? 200 : 404, "application/json", &out);
}

static void serve_put(struct http_request *req, struct slice key)
{
    uint64_t want = strtoull(http_param(req, "cas").p, NULL, 10);
    struct buf out = {0};
    pthread_mutex_lock(&consul.lock);
    struct pair *p = find_pair(key);
    bool ok = (p ? p->modified : 0) == want;
    if (ok && !p) {
        cr_assert_lt(consul.n, (size_t)PAIRS_MAX);
        p = &consul.pairs[consul.n++];
        *p = (struct pair){0};
        snprintf(p->key, sizeof(p->key), "%.*s", SL_FMT(key));
    }
    if (ok) {
        buf_clear(&p->value);
        buf_put_slice(&p->value, http_body(req));
        p->modified = ++consul.index;
        pthread_cond_broadcast(&consul.changed);
    }
    pthread_mutex_unlock(&consul.lock);
    buf_puts(&out, ok ? "true\n" : "false\n");
    http_respond(req, 200, "application/json", &out);
}

static void serve_delete(struct http_request *req, struct slice key)
{
    struct buf out = {0};
    pthread_mutex_lock(&consul.lock);
    struct pair *p = find_pair(key);
    if (p) {
        buf_release(&p->value);
        *p = consul.pairs[--consul.n];
        consul.index++;
        pthread_cond_broadcast(&consul.changed);
    }
    pthread_mutex_unlock(&consul.lock);
    buf_puts(&out, "true\n");
    http_respond(req, 200, "application/json", &out);
}

static void serve(struct http_request *req, void *arg)
{
    (void)arg;
    struct slice key = http_path_var(req, "key");
    pthread_mutex_lock(&consul.lock);
    bool fails = consul.fail > 0 && consul.fail-- > 0;
    pthread_mutex_unlock(&consul.lock);
    if (fails)
        http_respond_text_error(req, 500, "No cluster leader");
    else if (!slice_eq(http_header(req, "X-Consul-Token"), SL("secret")))
        http_respond_text_error(req, 403, "Permission denied");
    else if (http_method(req) == HTTP_PUT)
        serve_put(req, key);
    else if (http_method(req) == HTTP_DELETE)
        serve_delete(req, key);
    else
        serve_get(req, key);
}

static const struct http_route routes[] = {
    {HTTP_GET | HTTP_PUT | HTTP_DELETE, "/v1/kv/{key...}", HTTP_POOL_QUERY, 0, serve, ""}};

static void start_server(int64_t port)
{
    rig_new(&rig);
    rig.cfg.http_listen_port = port;
    consul.stopping = false;
    rig_start(&rig, routes, 1, NULL);
}

static void stop_server(void)
{
    pthread_mutex_lock(&consul.lock);
    consul.stopping = true;
    pthread_cond_broadcast(&consul.changed);
    pthread_mutex_unlock(&consul.lock);
    rig_stop(&rig);
}

static void setup(void)
{
    consul.index = 7;
    start_server(0);
}

static void teardown(void)
{
    stop_server();
    for (size_t i = 0; i < consul.n; i++)
        buf_release(&consul.pairs[i].value);
}

TestSuite(kv_consul, .init = setup, .fini = teardown);

static char host[64];

static struct kv_config config_of(void)
{
    snprintf(host, sizeof(host), "127.0.0.1:%d", http_server_port(rig.server));
    return (struct kv_config){.store = "consul",
                              .prefix = "test/",
                              .consul_host = host,
                              .consul_acl_token = "secret",
                              .consul_http_client_timeout = 20000,
                              .consul_watch_rate_limit = 0,
                              .consul_watch_burst_size = 1,
                              .consul_cas_retry_delay = 10};
}

static struct kv *open_with(const struct kv_config *cfg)
{
    struct err err = ERR_NONE;
    struct kv *kv = kv_open(cfg, &(struct kv_user){"test.", "test"}, &(struct kv_stores){0}, &err);
    cr_assert(kv, "%s", err.text);
    return kv;
}

static struct kv *open_store(void)
{
    struct kv_config cfg = config_of();
    return open_with(&cfg);
}

STORE_CLAIMS(kv_consul)

Test(kv_consul, a_watch_survives_a_restart_of_the_server)
{
    struct kv *a = open_store();
    struct heard h = HEARD_NOTHING;
    add(a, "ring", "x");
    struct kv_watch *w = kv_watch_key(a, SL("ring"), &ring_desc_codec, hear, &h, NULL);
    int port = http_server_port(rig.server);
    stop_server();
    nap_ms(300);
    start_server(port);
    add(a, "ring", "y");
    expect_hearing(&h, "x,y,");
    cr_assert_eq(h.n, 2, "what was told before the restart is not told again: %d", h.n);
    kv_unwatch(a, w);
    kv_free(a);
}

Test(kv_consul, a_watch_begins_anew_when_the_index_goes_backwards)
{
    struct kv *a = open_store();
    struct heard h = HEARD_NOTHING;
    consul.index = 1000;
    add(a, "ring", "x");
    struct kv_watch *w = kv_watch_key(a, SL("ring"), &ring_desc_codec, hear, &h, NULL);
    pthread_mutex_lock(&consul.lock);
    consul.index = 10; /* as after a restore from a backup */
    find_pair(SL("test/ring"))->modified = 10;
    pthread_cond_broadcast(&consul.changed);
    pthread_mutex_unlock(&consul.lock);
    add(a, "ring", "y");
    expect_hearing(&h, "x,y,");
    kv_unwatch(a, w);
    kv_free(a);
}

Test(kv_consul, an_answer_of_500_is_tried_again)
{
    struct kv *a = open_store();
    consul.fail = 2;
    add(a, "ring", "x");
    expect_ids(a, "ring", "x,");
    cr_assert_eq(consul.fail, 0);
    kv_free(a);
}

Test(kv_consul, a_wrong_token_is_an_error_at_once)
{
    struct kv_config cfg = config_of();
    cfg.consul_acl_token = "wrong";
    struct kv *a = open_with(&cfg);
    struct err err = ERR_NONE;
    void *v;
    cr_assert_not(kv_get(a, SL("ring"), &ring_desc_codec, &v, &err));
    cr_assert_eq(err.code, ERR_UNAUTHENTICATED);
    cr_assert_str_eq(err.text, "consul: HTTP status 403: Permission denied\n");
    kv_free(a);
}

Test(kv_consul, consistent_reads_are_asked_for_when_wanted)
{
    struct kv_config cfg = config_of();
    struct kv *a = open_with(&cfg);
    expect_ids(a, "ring", "-");
    cr_assert_not(consul.consistent);
    kv_free(a);
    cfg.consul_consistent_reads = true;
    a = open_with(&cfg);
    expect_ids(a, "ring", "-");
    cr_assert(consul.consistent);
    kv_free(a);
}

Test(kv_consul, a_watch_reads_no_faster_than_its_limit)
{
    struct kv_config cfg = config_of();
    cfg.consul_watch_rate_limit = 5;
    struct kv *a = open_with(&cfg);
    struct kv *b = open_store();
    struct heard h = HEARD_NOTHING;
    struct kv_watch *w = kv_watch_key(a, SL("ring"), &ring_desc_codec, hear, &h, NULL);
    int64_t start_ms = clock_mono_ms();
    char id[16], last[256] = "";
    for (int i = 0; i < 20; i++) {
        snprintf(id, sizeof(id), "i%02d", i);
        add(b, "ring", id);
        nap_ms(20);
        snprintf(last + strlen(last), sizeof(last) - strlen(last), "%s,", id);
    }
    expect_hearing(&h, last);
    int64_t most = 2 + (clock_mono_ms() - start_ms) * 5 / 1000;
    cr_assert_leq(consul.gets, (int)most);
    kv_unwatch(a, w);
    kv_free(a);
    kv_free(b);
}

Test(kv_consul, keys_are_escaped)
{
    struct kv *a = open_store();
    add(a, "a key?with%odd#signs", "x");
    cr_assert(find_pair(SL("test/a key?with%odd#signs")));
    kv_free(a);
}

static void answer_text(struct http_request *req, void *arg)
{
    struct buf out = {0};
    buf_puts(&out, *(const char **)arg);
    http_set_header(req, "X-Consul-Index", "9");
    http_respond(req, 200, "application/json", &out);
}

Test(kv_consul, answers_that_make_no_sense_are_errors)
{
    static const char *const texts[] = {"", "nonsense", "{}", "[1]", "[{\"Key\":\"test/ring\"}]",
                                        "[{\"Key\":\"test/ring\",\"Value\":\"?\",\"ModifyIndex\":3}]",
                                        "[{\"Key\":\"test/ring\",\"Value\":\"AAAAA\",\"ModifyIndex\":3}]",
                                        "[{\"Key\":\"test/ring\",\"Value\":\"\",\"ModifyIndex\":-3}]"};
    static const struct http_route odd[] = {{HTTP_GET, "/v1/kv/{key...}", HTTP_POOL_QUERY, 0, answer_text, ""}};
    const char *text = NULL;
    stop_server();
    rig_new(&rig);
    rig_start(&rig, odd, 1, &text);
    struct kv *a = open_store();
    for (size_t i = 0; i < ARRAY_LEN(texts); i++) {
        struct err err = ERR_NONE;
        void *v;
        text = texts[i];
        cr_assert_not(kv_get(a, SL("ring"), &ring_desc_codec, &v, &err), "%s", text);
        cr_assert_eq(err.code, ERR_CORRUPT, "%s", text);
    }
    kv_free(a);
}
