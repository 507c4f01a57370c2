/* Tenant deletion and the page of blocks over HTTP. */
#include "tests/net/http_rig.h"

#include "base/assert.h"
#include "net/page.h"
#include "storage/compactor/cleaner/cleaner.h"

static const struct flag_def bucket_flags[] = {
#define OBJSTORE_FLAG "blocks-storage."
#define OBJSTORE_YAML "blocks_storage."
#define FLAG(...) FLAG_ROW(objstore_config, __VA_ARGS__)
#include "storage/objstore/objstore_flags.def"
#undef FLAG
};

static struct rig rig;
static struct compactor_config cfg = {.cleanup_concurrency = 2, .deletion_delay = 1000, .tenant_cleanup_delay = 1000};
static struct limits limit_values;
static struct limits_provider limits = {&limit_values};
static struct objstore *store;
static struct cleaner *cleaner;
static const struct ctx no_hurry;
static char dir[64];

#define BLOCK "01M7Y7WR36RNAK3M75MGY89WZT"
#define NOW_MS ((int64_t)1795200000 * 1000)

static bool owns(void *arg, struct slice tenant)
{
    (void)arg, (void)tenant;
    return true;
}

static void count_mark(const char *reason)
{
    (void)reason;
}

static void put(const char *name, const char *bytes)
{
    cr_assert(objstore_put(store, &no_hurry, slice_of(name), slice_of(bytes), NULL));
}

static void setup(void)
{
    static const struct page_frame frame = {.brand = "Brunn", .style = "style.css"};
    struct objstore_config bucket;
    struct flag_set *flags = flag_set_new();
    struct err err = ERR_NONE;
    strcpy(dir, "/tmp/cleaner-routes-XXXXXX");
    cr_assert(mkdtemp(dir));
    flag_set_add(flags, "Blocks", bucket_flags, ARRAY_LEN(bucket_flags), &bucket);
    store = objstore_open(&bucket, "blocks-storage.", dir, &err);
    cr_assert(store, "%s", err.text);
    flag_set_free(flags);
    struct cleaner_parts parts = {.cfg = &cfg, .limits = &limits, .bucket = store, .owns = owns, .count_mark = count_mark};
    cleaner = cleaner_new(&parts);
    clock_fake_wall_ms(NOW_MS);
    page_set_frame(&frame);
    rig_new(&rig);
    rig_start(&rig, cleaner_routes, cleaner_routes_n, cleaner);
    put("t/" BLOCK "/chunks/000001", "chunks");
    put("t/" BLOCK "/index", "index");
    put("t/" BLOCK "/meta.json", "{\"ulid\":\"" BLOCK "\",\"minTime\":1795100000000,\"maxTime\":1795107200000,\"compaction\":{\"level\":3,\"sources\":[\"" BLOCK
                                 "\"]},\"version\":1,\"thanos\":{\"labels\":{\"__compactor_shard_id__\":\"1_of_2\"},\"source\":\"<b>\"}}");
}

static void teardown(void)
{
    char command[128];
    rig_stop(&rig);
    cleaner_free(cleaner);
    objstore_free(store);
    clock_fake_wall_ms(0);
    snprintf(command, sizeof(command), "rm -rf %s", dir);
    cr_assert_eq(system(command), 0);
}

TestSuite(cleaner_routes, .init = setup, .fini = teardown);

static void expect(const char *method, const char *path, const char *headers, int status, const char *text)
{
    struct reply r = rig_ask(&rig, method, path, headers, strcmp(method, "POST") == 0 ? "" : NULL, 0);
    cr_expect_eq(r.status, status, "%s: %d %s", path, r.status, r.body);
    if (text)
        cr_expect_str_eq(r.body, text, "%s: %s", path, r.body);
    reply_free(&r);
}

static void round_at(int64_t now_ms)
{
    struct err err = ERR_NONE;
    clock_fake_wall_ms(now_ms);
    cr_assert(cleaner_run(cleaner, &no_hurry, &err), "%s", err.text);
}

Test(cleaner_routes, a_tenant_is_deleted_and_says_when_that_is_done)
{
    static const char *const tenant = "X-Scope-OrgID: t\r\n";
    expect("GET", "/compactor/delete_tenant_status", tenant, 200, "{\"tenant_id\":\"t\",\"blocks_deleted\":false}");
    expect("GET", "/compactor/delete_tenant", tenant, 405, NULL);
    expect("POST", "/compactor/delete_tenant", "", 401, "no org id\n");
    expect("POST", "/compactor/delete_tenant", tenant, 200, "");
    struct buf mark = {0};
    cr_assert(objstore_get(store, &no_hurry, SL("t/markers/tenant-deletion-mark.json"), 0, OBJSTORE_ALL, &mark, NULL));
    cr_expect(slice_eq(buf_slice(&mark), SL("{\"deletion_time\":1795200000}")), "%s", buf_cstr(&mark));
    buf_release(&mark);
    expect("GET", "/compactor/delete_tenant_status", tenant, 200, "{\"tenant_id\":\"t\",\"blocks_deleted\":false}");
    round_at(NOW_MS);
    expect("GET", "/compactor/delete_tenant_status", tenant, 200, "{\"tenant_id\":\"t\",\"blocks_deleted\":true}");
    expect("GET", "/compactor/delete_tenant_status", "X-Scope-OrgID: nobody\r\n", 200, "{\"tenant_id\":\"nobody\",\"blocks_deleted\":true}");
    expect("POST", "/compactor/delete_tenant", tenant, 200, ""); /* once more: fine */
}

Test(cleaner_routes, blocks_are_shown_with_their_sizes)
{
    expect("GET", "/compactor/tenant/t/blocks", "", 404, "the tenant has no bucket index\n");
    struct block_mark aside = {.time_s = 5, .reason = SL("critical")};
    cr_assert(ulid_parse(SL(BLOCK), &aside.block));
    cr_assert(bucket_mark_block(store, &no_hurry, SL("t"), BLOCK_MARK_NO_COMPACT, &aside, NULL, NULL));
    round_at(NOW_MS);
    struct reply r = rig_ask(&rig, "GET", "/compactor/tenant/t/blocks", "Accept: application/json\r\n", NULL, 0);
    cr_expect_eq(r.status, 200);
    cr_expect(strstr(r.body, "\"block_id\":\"" BLOCK "\",\"min_time\":\"2026-11-19T14:53:20Z\",\"max_time\":\"2026-11-19T16:53:20Z\""), "%s", r.body);
    cr_expect(strstr(r.body, "\"no_compact\":\"critical\""), "%s", r.body);
    cr_expect(strstr(r.body, "\"size_bytes\":") && strstr(r.body, "\"compaction_level\":3,\"source\":\"<b>\",\"compactor_shard_id\":\"1_of_2\""), "%s", r.body);
    reply_free(&r);
    r = rig_ask(&rig, "GET", "/compactor/tenant/t/blocks", "", NULL, 0);
    cr_expect_eq(r.status, 200);
    cr_expect(strstr(r.body, "<code>" BLOCK "</code>") && strstr(r.body, "&lt;b&gt;") && !strstr(r.body, "<td><b>"), "%s", r.body);
    reply_free(&r);
    expect("GET", "/compactor/tenant/__mimir_cluster/blocks", "", 400, NULL);
    expect("GET", "/compactor/tenant/..%2Fx/blocks", "", 400, NULL);
}
