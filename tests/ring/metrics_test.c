/* What /metrics says of a ring and of this process in it. */
#include <criterion/criterion.h>
#include <string.h>

#include "base/clock.h"
#include "base/metrics.h"
#include "ring/lifecycler.h"
#include "ring/ring.h"

#define NOW_MS 1700000000000

static bool metrics_hold(const char *text)
{
    struct buf out = {0};
    metrics_write_text(&out, NULL, 0);
    bool found = strstr(buf_cstr(&out), text) != NULL;
    buf_release(&out);
    return found;
}

static void put(struct ring_desc *d, const char *id, enum ring_state state, int64_t age_s, uint32_t token)
{
    struct ring_instance *in = ring_desc_add(d, slice_of(id));
    in->state = (int32_t)state;
    in->timestamp_s = NOW_MS / 1000 - age_s;
    ring_instance_set_tokens(in, (const uint32_t[]){token, token + 1}, 2);
}

static enum kv_cas fill(void *arg, void **value, struct err *err)
{
    (void)arg, (void)err;
    struct ring_desc *d = *value = ring_desc_new();
    put(d, "a", RING_ACTIVE, 1, 10);
    put(d, "b", RING_ACTIVE, 30, 20);
    put(d, "c", RING_LEAVING, 5, 30);
    put(d, "d", RING_ACTIVE, 100, 40);
    put(d, "e", RING_PENDING, 90, 50);
    put(d, "f", (enum ring_state)77, 1, 60); /* a state of the future */
    return KV_CAS_STORE;
}

Test(ring_metrics, members_are_counted_by_state)
{
    clock_fake_wall_ms(NOW_MS);
    struct kv *kv = kv_inmemory_new(2);
    struct ring_config config = {.replication_factor = 3, .heartbeat_timeout_ms = 60000, .name = "ingester"};
    struct ring *r = ring_new(kv, SL("ring"), &config, NULL);
    cr_assert(metrics_hold("cortex_ring_members{name=\"ingester\",state=\"ACTIVE\"} 0\n"));
    cr_assert(kv_cas(kv, SL("ring"), &ring_desc_codec, fill, NULL, NULL));
    static const char *const wanted[] = {
        "cortex_ring_members{name=\"ingester\",state=\"ACTIVE\"} 2\n",
        "cortex_ring_members{name=\"ingester\",state=\"LEAVING\"} 1\n",
        "cortex_ring_members{name=\"ingester\",state=\"PENDING\"} 0\n",
        "cortex_ring_members{name=\"ingester\",state=\"JOINING\"} 0\n",
        "cortex_ring_members{name=\"ingester\",state=\"Unhealthy\"} 3\n",
        "cortex_ring_oldest_member_timestamp{name=\"ingester\",state=\"ACTIVE\"} 1.69999997e+09\n",
        "cortex_ring_oldest_member_timestamp{name=\"ingester\",state=\"Unhealthy\"} 1.6999999e+09\n",
        "cortex_ring_tokens_total{name=\"ingester\"} 12\n",
    };
    for (size_t i = 0; i < sizeof(wanted) / sizeof(wanted[0]); i++)
        cr_assert(metrics_hold(wanted[i]), "%s", wanted[i]);
    ring_free(r);
    cr_assert_not(metrics_hold("cortex_ring_members{"));
    kv_free(kv);
}

Test(ring_metrics, a_member_counts_its_heartbeats_and_tokens)
{
    struct kv *kv = kv_inmemory_new(2);
    struct lifecycler_config config = {
        .name = "ingester", .key = "ring", .id = "a", .addr = "a:1", .zone = "", .n_tokens = 8, .heartbeat_period_ms = 1000};
    struct lifecycler *l = lifecycler_new(kv, &config, &lifecycler_env_system);
    cr_assert(metrics_hold("cortex_ring_member_tokens_to_own{name=\"ingester\"} 8\n"));
    cr_assert(lifecycler_register(l, RING_ACTIVE, NULL));
    cr_assert(lifecycler_heartbeat(l, NULL));
    cr_assert(metrics_hold("cortex_ring_member_heartbeats_total{name=\"ingester\"} 2\n"));
    cr_assert(metrics_hold("cortex_member_consul_heartbeats_total{name=\"ingester\"} 2\n"));
    cr_assert(metrics_hold("cortex_ring_member_tokens_owned{name=\"ingester\"} 8\n"));
    cr_assert(metrics_hold("cortex_lifecycler_read_only{name=\"ingester\"} 0\n"));
    cr_assert(lifecycler_set_read_only(l, true, NULL));
    cr_assert(metrics_hold("cortex_lifecycler_read_only{name=\"ingester\"} 1\n"));
    lifecycler_free(l);
    kv_free(kv);
}
