/* Several compactors in one ring: each tenant and job is somebody's, and one's alone. */
#include "tests/storage/compactor/compactor_util.h"

#define N 3

struct member {
    struct site site;
    struct compactor_ring *ring;
    char id[32];
};

static void join(struct member *m, struct kv *memory, int i)
{
    struct err err = ERR_NONE;
    struct kv_stores stores = {.inmemory = memory};
    site_open(&m->site);
    snprintf(m->id, sizeof(m->id), "compactor-%d", i);
    m->site.kv_cfg.store = "inmemory";
    m->site.member_cfg.instance_id = m->id;
    m->site.member_cfg.instance_addr = "127.0.0.1";
    m->ring = compactor_ring_new(&m->site.cfg, &m->site.kv_cfg, &m->site.member_cfg, &m->site.provider, &stores, (uint16_t)(9095 + i), false, &err);
    cr_assert(m->ring, "%s", err.text);
    cr_assert(compactor_ring_wait(m->ring, &(struct ctx){0}, &err), "%s", err.text);
}

static void leave(struct member *m)
{
    compactor_ring_free(m->ring);
    objstore_free(m->site.store);
    flag_set_free(m->site.flags);
}

/* Watches are told by threads of the store's: until all see all. */
static void settle(struct member *ms, size_t n, struct kv *memory)
{
    (void)memory;
    for (int tries = 0; tries < 500; tries++) {
        size_t owned = 0;
        for (int t = 0; t < 100; t++)
            for (size_t i = 0; i < n; i++)
                owned += compactor_ring_owns_cleaning(ms[i].ring, slice_of(arena_printf(&arena, "tenant-%d", t)));
        if (owned == 100)
            return;
        nanosleep(&(struct timespec){.tv_nsec = 10000000}, NULL);
    }
    cr_assert(false, "the members do not agree");
}

Test(compactor_ring, every_job_is_one_members, .init = begin, .fini = teardown)
{
    static struct member ms[N];
    struct kv *memory = kv_inmemory_new(16);
    size_t jobs[N] = {0};
    for (int i = 0; i < N; i++)
        join(&ms[i], memory, i);
    settle(ms, N, memory);
    for (int k = 0; k < 300; k++) {
        char key[64];
        size_t owners = 0;
        snprintf(key, sizeof(key), "0@1-merge--%d-%d", k, k + 1);
        for (size_t i = 0; i < N; i++) {
            bool mine = compactor_ring_owns_job(ms[i].ring, TENANT, key);
            owners += mine;
            jobs[i] += mine;
            cr_expect(compactor_ring_owns_tenant(ms[i].ring, TENANT), "without a shard size the tenant is everybody's");
        }
        cr_expect_eq(owners, 1, "%s", key);
    }
    for (size_t i = 0; i < N; i++)
        cr_expect(jobs[i] > 50, "%zu of 300 jobs", jobs[i]);
    /* Whoever leaves leaves his work to the others. */
    compactor_ring_leave(ms[0].ring);
    cr_expect(!compactor_ring_owns_tenant(ms[0].ring, TENANT));
    settle(ms, N, memory);
    for (int i = 0; i < N; i++)
        leave(&ms[i]);
    kv_free(memory);
}

Test(compactor_ring, a_tenant_with_a_shard_size_is_that_many_members, .init = begin, .fini = teardown)
{
    static struct member ms[N];
    struct kv *memory = kv_inmemory_new(16);
    for (int i = 0; i < N; i++) {
        join(&ms[i], memory, i);
        ms[i].site.limits.compactor_tenant_shard_size = 1;
    }
    settle(ms, N, memory);
    for (int t = 0; t < 50; t++) {
        size_t owners = 0;
        struct slice tenant = slice_of(arena_printf(&arena, "tenant-%d", t));
        for (size_t i = 0; i < N; i++) {
            bool mine = compactor_ring_owns_tenant(ms[i].ring, tenant);
            owners += mine;
            cr_expect_eq(compactor_ring_owns_job(ms[i].ring, tenant, "any"), mine);
            cr_expect_eq(compactor_ring_owns_cleaning(ms[i].ring, tenant), mine);
        }
        cr_expect_eq(owners, 1);
    }
    for (int i = 0; i < N; i++)
        leave(&ms[i]);
    kv_free(memory);
}

Test(compactor_ring, tenants_that_are_not_allowed_are_nobodys, .init = begin, .fini = teardown)
{
    struct site r;
    static const char *tenant = "tenant-a", *other = "tenant-b";
    site_open(&r);
    r.cfg.enabled_tenants = (struct flag_list){&other, 1};
    site_start(&r);
    cr_expect(!compactor_ring_owns_tenant(r.ring, slice_of(tenant)) && !compactor_ring_owns_cleaning(r.ring, slice_of(tenant)));
    cr_expect(compactor_ring_owns_tenant(r.ring, slice_of(other)));
    r.cfg.disabled_tenants = (struct flag_list){&other, 1};
    cr_expect(!compactor_ring_owns_tenant(r.ring, slice_of(other)));
    site_close(&r);
}

/* --- configuration ------------------------------------------------------------------------------------------------------------------------- */

Test(compactor_config, ranges_divide_each_other, .init = begin, .fini = teardown)
{
    static const struct {
        const char *text[3];
        size_t n;
        bool good;
    } cases[] = {{{"2h", "12h", "24h"}, 3, true}, {{"2h"}, 1, true}, {{"2h", "5h"}, 2, false}, {{"2h", "2h"}, 2, false},
                 {{"12h", "2h"}, 2, false}, {{"0"}, 1, false}, {{"soon"}, 1, false}, {{NULL}, 0, false}};
    for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
        struct compactor_config cfg = {0};
        int64_t ranges[COMPACTOR_RANGES_MAX];
        size_t n;
        struct err err = ERR_NONE;
        cfg.block_ranges = (struct flag_list){(const char **)(uintptr_t)cases[i].text, cases[i].n};
        bool good = compactor_ranges(&cfg, ranges, &n, &err);
        cr_expect(good == cases[i].good && (good || err.code == ERR_CONFIG), "%zu: %s", i, err.text);
        cr_expect(!good || (n == cases[i].n && ranges[0] == 7200000));
    }
}

Test(compactor_config, an_order_that_is_none_is_refused, .init = begin, .fini = teardown)
{
    struct site r;
    struct err err = ERR_NONE;
    site_open(&r);
    site_start(&r);
    r.cfg.compaction_jobs_order = "by-name";
    cr_expect(!compactor_new(&r.cfg, r.ring, &r.provider, r.store, folder, &err) && err.code == ERR_CONFIG);
    site_close(&r);
}
