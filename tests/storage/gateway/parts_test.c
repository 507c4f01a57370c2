/* Parts of the store-gateway by themselves: gates, work that is done together, what is ours by the ring. */
#include <criterion/criterion.h>
#include <string.h>
#include <unistd.h>

#include "base/clock.h"
#include "storage/gateway/gateway_int.h"

/* --- gates --- */

static struct gate gate;

static void *enter_later(void *arg)
{
    usleep(50000);
    gate_leave(arg);
    return NULL;
}

Test(gateway_gate, lets_in_so_many_and_the_next_when_one_leaves)
{
    struct ctx ctx = {0};
    struct err err = ERR_NONE;
    pthread_t thread;
    gateway_metrics_register();
    gate_init(&gate, "test", 2, 5000);
    cr_assert(gate_enter(&gate, &ctx, &err) && gate_enter(&gate, &ctx, &err));
    int64_t since_ms = clock_mono_ms();
    pthread_create(&thread, NULL, enter_later, &gate);
    cr_expect(gate_enter(&gate, &ctx, &err), "%s", err.text);
    cr_expect(clock_mono_ms() - since_ms >= 40);
    pthread_join(thread, NULL);
    gate_leave(&gate);
    gate_leave(&gate);
    gate_release(&gate);
}

Test(gateway_gate, sends_away_who_has_waited_too_long_or_does_not_want_any_more)
{
    atomic_bool canceled = true;
    struct ctx ctx = {0}, gone = {.canceled = &canceled};
    struct err err = ERR_NONE;
    gateway_metrics_register();
    gate_init(&gate, "test", 1, 30);
    cr_assert(gate_enter(&gate, &ctx, &err));
    cr_expect(!gate_enter(&gate, &ctx, &err));
    cr_expect_eq(err.code, ERR_UNAVAILABLE);
    cr_expect_str_eq(err.text, "timeout waiting for concurrency gate");
    cr_expect(!gate_enter(&gate, &gone, &err));
    cr_expect_eq(err.code, ERR_CANCELED);
    gate_leave(&gate);
    cr_expect(gate_enter(&gate, &ctx, &err));
    gate_leave(&gate);
    gate_release(&gate);
}

/* --- together --- */

struct counts {
    _Atomic int of[500];
};

static void count(void *arg, size_t i)
{
    struct counts *c = arg;
    atomic_fetch_add(&c->of[i], 1);
    if (i % 50 == 0)
        usleep(1000);
}

Test(gateway_together, does_each_once_with_any_number_of_threads)
{
    static struct counts c;
    static const size_t threads[] = {0, 1, 3, 40};
    static const int64_t alone_us[] = {0, 2500, 1000000};
    for (size_t t = 0; t < ARRAY_LEN(threads) * ARRAY_LEN(alone_us); t++) {
        size_t n_threads = threads[t / ARRAY_LEN(alone_us)];
        struct pool *pool = n_threads ? pool_new("test", n_threads, 8, 1 << 16) : NULL;
        for (size_t n = 0; n <= 500; n += 125) {
            memset(&c, 0, sizeof(c));
            together(pool, alone_us[t % ARRAY_LEN(alone_us)], n, count, &c);
            for (size_t i = 0; i < 500; i++)
                cr_assert_eq(c.of[i], i < n);
        }
        pool_stop(pool);
    }
}

/* Each waits until all have come: helpers call each other. */
static void meet(void *arg, size_t i)
{
    (void)i;
    atomic_int *here = arg;
    for (atomic_fetch_add(here, 1); atomic_load(here) < 4;)
        usleep(100);
}

Test(gateway_together, helpers_call_the_next_one)
{
    struct pool *pool = pool_new("test", 3, 8, 1 << 16);
    atomic_int here = 0;
    together(pool, 0, 4, meet, &here);
    cr_expect_eq(here, 4);
    pool_stop(pool);
}

static void note_thread(void *arg, size_t i)
{
    ((pthread_t *)arg)[i] = pthread_self();
}

Test(gateway_together, does_alone_what_is_done_soon)
{
    struct pool *pool = pool_new("test", 3, 8, 1 << 16);
    pthread_t by[100];
    together(pool, INT64_C(3600000000), ARRAY_LEN(by), note_thread, by);
    for (size_t i = 0; i < ARRAY_LEN(by); i++)
        cr_expect(pthread_equal(by[i], pthread_self()));
    pool_stop(pool);
}

/* --- what is ours --- */

#define NOW_MS INT64_C(1700000000000)

/* "a:A b:J": instance a is ACTIVE, b JOINING; lower case: its heartbeat is too old. Tokens lie anywhere. */
static struct ring_snapshot *snapshot_of(const char *spec)
{
    static const char states[] = "ALPJX";
    struct ring_desc *d = ring_desc_new();
    for (const char *p = spec; *p; p += p[3] ? 4 : 3) {
        struct ring_instance *in = ring_desc_add(d, slice_make(p, 1));
        bool old = p[2] >= 'a';
        in->state = (int32_t)(strchr(states, old ? p[2] - 32 : p[2]) - states);
        in->timestamp_s = NOW_MS / 1000 - (old ? 61 : 1);
        uint32_t tokens[64];
        for (uint32_t i = 0; i < 64; i++)
            tokens[i] = ((uint32_t)p[0] * 64u + i) * 2654435761u;
        ring_instance_set_tokens(in, tokens, 64);
    }
    struct ring_config config = {.replication_factor = 1, .heartbeat_timeout_ms = 60000};
    return ring_snapshot_new(d, &config);
}

/* Of 200 blocks, how many shall be at `self`. */
static size_t count_ours(const char *spec, const char *self, bool here)
{
    struct ring_snapshot *s = snapshot_of(spec);
    struct ownership o = {.ring = s, .self = self, .now_ms = NOW_MS};
    const struct ring_instance *in = ring_desc_find(ring_snapshot_desc(s), slice_of(self));
    size_t n = 0;
    o.healthy = in && ring_snapshot_is_healthy(s, in, &ring_op_blocks_owner_sync, NOW_MS);
    for (int64_t i = 0; i < 200; i++) {
        struct ulid id = ulid_new(i * 7200000);
        n += ownership_of_block(&o, s, &id, here);
    }
    ring_snapshot_free(s);
    return n;
}

Test(gateway_owner, new_blocks_are_shared_with_everybody_who_is_alive)
{
    cr_expect_eq(count_ours("a:A", "a", false), 200);
    size_t half = count_ours("a:A b:A", "a", false);
    cr_expect(half > 20 && half < 180, "%zu", half);
    half = count_ours("a:J b:A", "a", false);
    cr_expect(half > 20 && half < 180, "a newcomer loads its own before it is asked: %zu", half);
    half = count_ours("a:A b:P", "a", false);
    cr_expect(half > 20 && half < 180, "who is PENDING will have some: %zu", half);
}

Test(gateway_owner, blocks_stay_until_another_can_be_asked)
{
    cr_expect_eq(count_ours("a:A b:J", "a", true), 200);
    cr_expect_eq(count_ours("a:A b:L", "a", true), 200);
    cr_expect_eq(count_ours("a:A b:a", "a", true), 200);
    size_t half = count_ours("a:A b:A", "a", true);
    cr_expect(half > 20 && half < 180, "%zu", half);
}

Test(gateway_owner, nothing_changes_for_one_that_is_not_in_the_ring_or_not_alive)
{
    static const char *specs[] = {"b:A", "a:a b:A", "a:X b:A", "a:P b:A"};
    for (size_t i = 0; i < ARRAY_LEN(specs); i++) {
        cr_expect_eq(count_ours(specs[i], "a", true), 200, "%s", specs[i]);
        cr_expect_eq(count_ours(specs[i], "a", false), 0, "%s", specs[i]);
    }
}

static uint64_t print_of(const char *spec, int64_t now_ms)
{
    struct ring_snapshot *s = snapshot_of(spec);
    uint64_t h = ring_fingerprint(s, now_ms);
    ring_snapshot_free(s);
    return h;
}

Test(gateway_owner, heartbeats_do_not_change_the_ring_but_their_end_does)
{
    cr_expect_eq(print_of("a:A b:A", NOW_MS), print_of("a:A b:A", NOW_MS + 20000));
    cr_expect_neq(print_of("a:A b:A", NOW_MS), print_of("a:A b:A", NOW_MS + 90000));
    cr_expect_neq(print_of("a:A b:A", NOW_MS), print_of("a:A b:J", NOW_MS));
    cr_expect_neq(print_of("a:A b:A", NOW_MS), print_of("a:A c:A", NOW_MS));
    cr_expect_eq(print_of("a:A b:P", NOW_MS), print_of("a:A", NOW_MS));
}

/* --- tenants --- */

Test(gateway_tenants, are_those_that_are_enabled_and_not_disabled)
{
    static const char *a[] = {"a"}, *b[] = {"b"};
    const struct gateway_config none = {0}, only_a = {.enabled_tenants = {a, 1}}, not_b = {.disabled_tenants = {b, 1}};
    cr_expect(tenant_is_allowed(&none, SL("b")));
    cr_expect(tenant_is_allowed(&only_a, SL("a")) && !tenant_is_allowed(&only_a, SL("b")));
    cr_expect(tenant_is_allowed(&not_b, SL("a")) && !tenant_is_allowed(&not_b, SL("b")));
}
