/* The distributors' ring: its entry, and the shares of rate limits that follow it. */
#include "push_fixture.h"

#include "ring/lifecycler.h"

static struct fixture f;
static struct flag_set *flags;
static struct kv_config kv_cfg;
static struct ring_member_config member;
static struct kv_stores stores;

static void start(void)
{
    fixture_start(&f, 1);
    flags = flag_set_new();
    flag_set_add(flags, "kv", distributor_kv_flags, distributor_kv_flags_n, &kv_cfg);
    flag_set_add(flags, "member", distributor_member_flags, distributor_member_flags_n, &member);
    stores.inmemory = kv_inmemory_new(8);
    kv_cfg.store = "inmemory";
    member.instance_id = "distributor-a";
    member.instance_addr = "10.0.0.1";
    f.limits.ingestion_rate = 10;
    f.limits.ingestion_burst_size = 100;
}

static void stop(void)
{
    fixture_stop(&f);
    kv_free(stores.inmemory);
    flag_set_free(flags);
}

TestSuite(distributor_ring, .init = start, .fini = stop, .timeout = 60);

static void join(void)
{
    struct err err = ERR_NONE;
    cr_assert(distributor_join(f.d, &kv_cfg, &member, &stores, 9095, &err), "%s", err.text);
}

static struct ring_desc *stored(void)
{
    void *d = NULL;
    cr_assert(kv_get(stores.inmemory, SL("collectors/distributor"), &ring_desc_codec, &d, NULL));
    return d;
}

static enum kv_cas add_another(void *arg, void **value, struct err *err)
{
    (void)err;
    struct ring_instance *in = ring_desc_add(*value, SL("distributor-b"));
    in->timestamp_s = *(const int64_t *)arg;
    return KV_CAS_STORE;
}

static void another_beat_at(int64_t ms)
{
    int64_t s = ms / 1000;
    cr_assert(kv_cas(stores.inmemory, SL("collectors/distributor"), &ring_desc_codec, add_another, &s, NULL));
}

static void expect_healthy(int64_t n)
{
    for (int64_t until = clock_mono_ms() + 20000; distributor_n_healthy(f.d) != n && clock_mono_ms() < until;)
        nanosleep(&(struct timespec){.tv_nsec = 10000000}, NULL);
    cr_expect_eq(distributor_n_healthy(f.d), n);
}

Test(distributor_ring, a_distributor_without_a_ring_is_alone)
{
    cr_expect_eq(distributor_n_healthy(f.d), 1);
    cr_expect_null(distributor_ring(f.d));
    distributor_leave(f.d);
}

Test(distributor_ring, has_our_entry_until_we_leave)
{
    join();
    struct ring_desc *d = stored();
    cr_assert_eq(d->n, 1u);
    cr_expect_str_eq(d->instances[0].id, "distributor-a");
    cr_expect_str_eq(d->instances[0].addr, "10.0.0.1:9095");
    cr_expect_eq(d->instances[0].state, RING_ACTIVE);
    cr_expect_eq(d->instances[0].n_tokens, 1u);
    ring_desc_free(d);
    distributor_leave(f.d);
    d = stored();
    cr_expect(!d || d->n == 0);
    if (d)
        ring_desc_free(d);
    cr_expect_eq(distributor_n_healthy(f.d), 1);
}

Test(distributor_ring, the_healthy_ones_are_counted_as_they_come_and_go)
{
    join();
    expect_healthy(1);
    another_beat_at(NOW_MS);
    expect_healthy(2);
    another_beat_at(NOW_MS - 3600000);
    expect_healthy(1);
}

static enum err_code push_samples(int n)
{
    struct buf message = {0}, s = {0};
    pb_labels(&s, LABELS("__name__", "up"));
    for (int i = 0; i < n; i++)
        pb_sample(&s, 1, NOW_MS + i);
    pb_sub(&message, 1, &s);
    struct push *p = push_of(&f, &message);
    enum err_code code = p->error.code;
    push_done(&f, p);
    return code;
}

Test(distributor_ring, a_rate_is_shared_and_a_burst_is_not)
{
    f.limits.ingestion_rate = 1000;
    f.limits.ingestion_burst_size = 1000;
    join();
    another_beat_at(NOW_MS);
    expect_healthy(2);
    cr_expect_eq(push_samples(1000), ERR_OK);
    int64_t begin_ms = clock_mono_ms();
    while (push_samples(100) != ERR_OK)
        nanosleep(&(struct timespec){.tv_nsec = 2000000}, NULL);
    int64_t took_ms = clock_mono_ms() - begin_ms; /* half of 1000 a second: 200 ms, alone it would be 100 */
    cr_expect_geq(took_ms, 180, "%lld", (long long)took_ms);
}

Test(distributor_ring, what_cannot_be_is_an_error_and_changes_nothing)
{
    struct err err = ERR_NONE;
    kv_cfg.store = "paper";
    cr_expect(!distributor_join(f.d, &kv_cfg, &member, &stores, 9095, &err) && err.code == ERR_CONFIG);
    kv_cfg.store = "inmemory";
    member.heartbeat_period = 0;
    cr_expect(!distributor_join(f.d, &kv_cfg, &member, &stores, 9095, &err) && err.code == ERR_CONFIG);
    cr_expect_null(distributor_ring(f.d));
    member.heartbeat_period = 15000;
    join();
}
