/* The pages: what is to be done for a tenant, how late it is, and what was set aside. */
#include "tests/net/http_rig.h"
#include "tests/storage/compactor/compactor_util.h"

static void write_index(struct site *s, struct slice tenant)
{
    struct err err = ERR_NONE;
    struct ctx ctx = test_ctx();
    struct bucket_index index;
    cr_assert(bucket_index_update(s->store, &ctx, tenant, NULL, clock_wall_ms() / 1000, 1, &arena, &index, NULL, &err), "%s", err.text);
    cr_assert(bucket_index_write(s->store, &ctx, tenant, &index, &err), "%s", err.text);
}

static struct reply ask(struct rig *rig, const char *path, bool json)
{
    return rig_ask(rig, "GET", path, json ? "Accept: application/json\r\n" : "", NULL, 0);
}

static void has(const struct reply *r, const char *text)
{
    cr_expect(strstr(r->body, text), "%s is not in: %s", text, r->body);
}

static void open_all(struct site *s, struct rig *rig)
{
    site_open(s);
    s->limits.compactor_split_and_merge_shards = 3;
    put_block(s, TENANT, 0, 0);
    put_block(s, TENANT, 0, 1);
    put_block(s, TENANT, 1, 0);
    site_start(s);
    rig_new(rig);
    rig_start(rig, compactor_routes, compactor_routes_n, s->compactor);
}

static void close_all(struct site *s, struct rig *rig)
{
    rig_stop(rig);
    site_close(s);
}

Test(compactor_pages, the_tenants_of_the_bucket, .init = begin, .fini = teardown)
{
    struct site s;
    struct rig rig;
    open_all(&s, &rig);
    struct reply r = ask(&rig, "/compactor/tenants", true);
    cr_expect_eq(r.status, 200);
    has(&r, "{\"now\":\"20");
    has(&r, ",\"tenants\":[\"tenant-a\"]}\n");
    free(r.body);
    struct err err = ERR_NONE;
    cr_assert(compactor_run(s.compactor, &(struct ctx){0}, &err), "%s", err.text);
    r = ask(&rig, "/compactor/tenants", false);
    has(&r, "href=\"tenant/tenant-a/planned_jobs\"");
    has(&r, "<td>0</td><td>0.0</td>");
    free(r.body);
    close_all(&s, &rig);
}

Test(compactor_pages, the_jobs_of_a_tenant, .init = begin, .fini = teardown)
{
    struct site s;
    struct rig rig;
    struct ctx ctx = test_ctx();
    open_all(&s, &rig);
    struct reply r = ask(&rig, "/compactor/tenant/tenant-a/planned_jobs", true);
    cr_expect(r.status == 200 && strcmp(r.body, "Failed to read bucket index for tenant") == 0, "%s", r.body);
    free(r.body);
    struct ulid bad = put_block(&s, TENANT, 0, 2);
    struct block_mark mark = {.block = bad, .time_s = 1700000000, .reason = SL(NO_COMPACT_CRITICAL), .details = SL("a <bad> one")};
    cr_assert(bucket_mark_block(s.store, &ctx, TENANT, BLOCK_MARK_NO_COMPACT, &mark, NULL, NULL));
    write_index(&s, TENANT);
    r = ask(&rig, "/compactor/tenant/tenant-a/planned_jobs", true);
    cr_expect_eq(r.status, 200);
    has(&r, "\"tenant\":\"tenant-a\",\"jobs\":[{\"key\":\"0@17241709254077376921-split-1_of_1-1763596800000-1763604000000\","
            "\"min_time\":\"2025-11-20T00:00:00Z\",\"max_time\":\"2025-11-20T02:00:00Z\",\"blocks\":[\"");
    has(&r, "\"split_jobs_count\":2,\"merge_jobs_count\":0,\"tenant_split_groups\":1,\"tenant_merge_shards\":4,\"lag_hours\":");
    has(&r, "\"reason\":\"critical\",\"details\":\"a <bad> one\",\"since\":\"2023-11-14T22:13:20Z\"}]");
    cr_expect(strstr(strstr(r.body, bad.text) + 1, bad.text) == NULL, "the block is set aside, and in no job");
    free(r.body);
    r = ask(&rig, "/compactor/tenant/tenant-a/planned_jobs", false);
    has(&r, "2 jobs to split, 0 to merge");
    has(&r, "Blocks set aside: 1");
    has(&r, "a &lt;bad&gt; one");
    free(r.body);
    r = ask(&rig, "/compactor/tenant/__mimir_cluster/planned_jobs", true);
    cr_expect(r.status >= 400 && r.status < 500, "%d", r.status);
    free(r.body);
    close_all(&s, &rig);
}

Test(compactor_pages, jobs_are_counted_for_the_cleaner, .init = begin, .fini = teardown)
{
    struct site s;
    struct rig rig;
    struct ctx ctx = test_ctx();
    struct bucket_index index;
    size_t n_split = 9, n_merge = 9;
    open_all(&s, &rig);
    write_index(&s, TENANT);
    cr_assert(bucket_index_read(s.store, &ctx, TENANT, &arena, &index, NULL));
    cr_assert(compactor_estimate_jobs(s.compactor, TENANT, &index, &n_split, &n_merge, NULL));
    cr_expect(n_split == 2 && n_merge == 0);
    s.limits.compactor_split_and_merge_shards = 0;
    cr_assert(compactor_estimate_jobs(s.compactor, TENANT, &index, &n_split, &n_merge, NULL));
    cr_expect(n_split == 0 && n_merge == 1);
    close_all(&s, &rig);
}
