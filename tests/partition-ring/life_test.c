/*
 * Whole lives of partitions: several ingesters in two zones, one store, a clock that we turn. Each step polls all of them, as their threads would, and
 * looks at what writers and readers see.
 */
#include <criterion/criterion.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "base/metrics.h"
#include "partition-ring/lifecycler.h"
#include "partition-ring/partition_view.h"

#define KEY "partitions"
#define MINUTE_MS 60000
#define HOUR_MS (60 * MINUTE_MS)
#define INGESTERS_MAX 8

struct world {
    int64_t now_ms;
    struct kv *kv;
    struct partition_watcher *watcher;
    struct partition_lifecycler *ingesters[INGESTERS_MAX]; /* zone a: 0 .. 3 own partitions 0 .. 3; zone b: 4 .. 7 the same */
};

static int64_t now_of(void *arg)
{
    return ((struct world *)arg)->now_ms;
}

static void start(struct world *w, int i, bool create)
{
    char owner[32];
    snprintf(owner, sizeof owner, "ingester-zone-%c-%d", i < 4 ? 'a' : 'b', i % 4);
    struct partition_lifecycler_config config = {
        .key = KEY,
        .owner = owner,
        .partition = i % 4,
        .rules = {.min_owners = 2, .min_owners_ms = 10000, .delete_inactive_ms = 13 * HOUR_MS},
        .poll_ms = PARTITION_POLL_MS,
        .create_on_start = create,
    };
    struct lifecycler_env env = {.now_ms = now_of, .arg = w};
    w->ingesters[i] = partition_lifecycler_new(w->kv, &config, &env);
}

/* As SIGTERM does it. */
static void stop(struct world *w, int i)
{
    cr_assert(partition_lifecycler_stop(w->ingesters[i], NULL));
    partition_lifecycler_free(w->ingesters[i]);
    w->ingesters[i] = NULL;
}

static void pass(struct world *w, int64_t ms)
{
    for (int64_t end = w->now_ms + ms; w->now_ms < end;) {
        w->now_ms += ms > HOUR_MS ? 10 * MINUTE_MS : PARTITION_POLL_MS;
        for (int i = 0; i < INGESTERS_MAX; i++) {
            bool joined;
            if (w->ingesters[i])
                cr_assert(partition_lifecycler_poll(w->ingesters[i], &joined, NULL));
        }
    }
}

/* What the views say: a letter a partition (Pending, Active, Inactive, L = Active but locked, - = none), and how many owners. */
static void see(struct world *w, const char *states, const char *owners)
{
    char got_states[8] = "----", got_owners[8] = "0000";
    for (int tries = 0; tries < 2000; tries++) { /* the watcher's thread may be behind */
        struct partition_view *v = partition_watcher_current(w->watcher);
        const struct partition_desc *d = partition_view_desc(v);
        for (int32_t p = 0; p < 4; p++) {
            const struct partition *in = partition_desc_find(d, p);
            got_states[p] = !in                              ? '-'
                            : in->state == PARTITION_ACTIVE  ? (in->locked ? 'L' : 'A')
                            : in->state == PARTITION_PENDING ? 'P'
                                                             : 'I';
            got_owners[p] = (char)('0' + partition_desc_count_owners(d, p, INT64_MAX));
        }
        partition_view_free(v);
        if (strcmp(got_states, states) == 0 && strcmp(got_owners, owners) == 0)
            return;
        usleep(1000);
    }
    cr_assert_fail("%s %s, not %s %s", got_states, got_owners, states, owners);
}

static void world_new(struct world *w)
{
    *w = (struct world){.now_ms = 1700000000000, .kv = kv_inmemory_new(4)};
    w->watcher = partition_watcher_new(w->kv, SL(KEY), NULL);
}

static void world_free(struct world *w)
{
    for (int i = 0; i < INGESTERS_MAX; i++)
        if (w->ingesters[i])
            stop(w, i);
    partition_watcher_free(w->watcher);
    kv_free(w->kv);
}

static size_t readers(struct world *w)
{
    struct partition_view *v = partition_watcher_current(w->watcher);
    size_t n;
    partition_view_readers(v, &n);
    partition_view_free(v);
    return n;
}

static int32_t writers(struct world *w)
{
    struct partition_view *v = partition_watcher_current(w->watcher);
    int32_t n = partition_ring_count(partition_view_writers(v));
    partition_view_free(v);
    return n;
}

Test(partition_life, out_from_two_to_four_and_back_in)
{
    struct world w;
    world_new(&w);
    start(&w, 0, true);
    start(&w, 4, true);
    pass(&w, PARTITION_POLL_MS);
    see(&w, "P---", "2000");
    cr_assert(readers(&w) == 0 && writers(&w) == 0);
    pass(&w, 10000);
    see(&w, "P---", "2000"); /* since 10 s, not for longer than that */
    pass(&w, PARTITION_POLL_MS);
    see(&w, "A---", "2000");
    start(&w, 1, true);
    pass(&w, MINUTE_MS);
    see(&w, "AP--", "2100"); /* one owner is not enough */
    start(&w, 5, true);
    start(&w, 2, true);
    start(&w, 6, true);
    pass(&w, MINUTE_MS);
    see(&w, "AAA-", "2220");
    cr_assert(readers(&w) == 3 && writers(&w) == 3);

    /* In again: prepare-partition-downscale of both zones' ingester 2; later their pods go. */
    cr_assert(partition_lifecycler_change_state(w.ingesters[2], PARTITION_INACTIVE, NULL));
    cr_assert(partition_lifecycler_change_state(w.ingesters[6], PARTITION_INACTIVE, NULL));
    pass(&w, PARTITION_POLL_MS);
    see(&w, "AAI-", "2220");
    cr_assert(readers(&w) == 3 && writers(&w) == 2);
    pass(&w, 14 * HOUR_MS);
    see(&w, "AAI-", "2220"); /* it has owners */
    partition_lifecycler_set_remove_owner_on_stop(w.ingesters[2], true);
    stop(&w, 2);
    pass(&w, 14 * HOUR_MS);
    see(&w, "AAI-", "2210");
    partition_lifecycler_set_remove_owner_on_stop(w.ingesters[6], true);
    stop(&w, 6);
    pass(&w, PARTITION_POLL_MS);
    see(&w, "AA--", "2200");
    world_free(&w);
}

Test(partition_life, inactive_partition_without_owners_stays_for_as_long_as_queries_reach_back)
{
    struct world w;
    world_new(&w);
    for (int i = 0; i < 2; i++) {
        start(&w, i, true);
        start(&w, 4 + i, true);
    }
    pass(&w, MINUTE_MS);
    see(&w, "AA--", "2200");
    cr_assert(partition_lifecycler_change_state(w.ingesters[1], PARTITION_INACTIVE, NULL));
    for (int i = 1; i <= 5; i += 4) {
        partition_lifecycler_set_remove_owner_on_stop(w.ingesters[i], true);
        stop(&w, i);
    }
    pass(&w, 12 * HOUR_MS);
    see(&w, "AI--", "2000");
    cr_assert(readers(&w) == 2 && writers(&w) == 1);
    pass(&w, 2 * HOUR_MS);
    see(&w, "A---", "2000");
    start(&w, 1, true); /* the same number again: a new partition, with the same tokens */
    start(&w, 5, true);
    pass(&w, MINUTE_MS);
    see(&w, "AA--", "2200");
    world_free(&w);
}

Test(partition_life, restart_keeps_state_and_ownership)
{
    struct world w;
    world_new(&w);
    start(&w, 0, true);
    start(&w, 4, true);
    pass(&w, MINUTE_MS);
    stop(&w, 4);
    pass(&w, MINUTE_MS);
    see(&w, "A---", "2000");
    start(&w, 4, true);
    pass(&w, PARTITION_POLL_MS);
    see(&w, "A---", "2000");
    struct partition_view *v = partition_watcher_current(w.watcher);
    cr_assert_eq(partition_desc_find_owner(partition_view_desc(v), SL("ingester-zone-b-0"))->updated_s, 1700000005);
    partition_view_free(v);
    world_free(&w);
}

Test(partition_life, downscale_that_is_taken_back_is_as_if_it_had_not_been)
{
    struct world w;
    world_new(&w);
    start(&w, 0, true);
    start(&w, 4, true);
    pass(&w, MINUTE_MS);
    cr_assert(partition_lifecycler_change_state(w.ingesters[0], PARTITION_INACTIVE, NULL));
    pass(&w, MINUTE_MS);
    see(&w, "I---", "2000");
    cr_assert(partition_lifecycler_change_state(w.ingesters[4], PARTITION_ACTIVE, NULL));
    pass(&w, MINUTE_MS);
    see(&w, "A---", "2000");
    world_free(&w);
}

static enum kv_cas set_lock(void *arg, void **value, struct err *err)
{
    (void)err;
    const bool *locked = arg;
    cr_assert(partition_set_lock(*value, 0, *locked, 1700000000000));
    return KV_CAS_STORE;
}

Test(partition_life, lock_holds_every_change_but_deletion)
{
    struct world w;
    bool yes = true, no = false;
    world_new(&w);
    start(&w, 0, true);
    start(&w, 4, true);
    pass(&w, PARTITION_POLL_MS);
    cr_assert(kv_cas(w.kv, SL(KEY), &partition_desc_codec, set_lock, &yes, NULL));
    pass(&w, MINUTE_MS);
    see(&w, "P---", "2000");
    cr_assert(kv_cas(w.kv, SL(KEY), &partition_desc_codec, set_lock, &no, NULL));
    pass(&w, PARTITION_POLL_MS);
    see(&w, "A---", "2000");
    cr_assert(kv_cas(w.kv, SL(KEY), &partition_desc_codec, set_lock, &yes, NULL));
    struct err err = ERR_NONE;
    cr_assert_not(partition_lifecycler_change_state(w.ingesters[0], PARTITION_INACTIVE, &err));
    cr_assert(err.code == ERR_CONFLICT && strcmp(err.text, PARTITION_STATE_LOCKED) == 0, "%s", err.text);
    see(&w, "L---", "2000");
    cr_assert(kv_cas(w.kv, SL(KEY), &partition_desc_codec, set_lock, &no, NULL));
    cr_assert(partition_lifecycler_change_state(w.ingesters[0], PARTITION_INACTIVE, NULL));
    cr_assert(kv_cas(w.kv, SL(KEY), &partition_desc_codec, set_lock, &yes, NULL));
    for (int i = 0; i <= 4; i += 4) {
        partition_lifecycler_set_remove_owner_on_stop(w.ingesters[i], true);
        stop(&w, i);
    }
    start(&w, 1, true);
    pass(&w, 14 * HOUR_MS);
    see(&w, "-P--", "0100");
    world_free(&w);
}

Test(partition_life, is_told_by_the_metrics)
{
    struct world w;
    world_new(&w);
    for (int i = 0; i < 2; i++) {
        start(&w, i, true);
        start(&w, 4 + i, true);
    }
    start(&w, 2, true);
    pass(&w, MINUTE_MS);
    cr_assert(partition_lifecycler_change_state(w.ingesters[1], PARTITION_INACTIVE, NULL));
    see(&w, "AIP-", "2210");
    static const char *const wanted[] = {
        "cortex_partition_ring_partitions{name=\"ingester-partitions\",state=\"Active\"} 1\n",
        "cortex_partition_ring_partitions{name=\"ingester-partitions\",state=\"Inactive\"} 1\n",
        "cortex_partition_ring_partitions{name=\"ingester-partitions\",state=\"Pending\"} 1\n",
        "cortex_partition_ring_lifecycler_reconciles_total{name=\"ingester-partitions\",type=\"owned-partition\"} 60\n",
        "cortex_partition_ring_lifecycler_reconciles_total{name=\"ingester-partitions\",type=\"other-partitions\"} 60\n",
    };
    partition_watcher_free(w.watcher); /* its thread has set the gauges when it is gone */
    w.watcher = NULL;
    struct buf text;
    buf_init(&text, 0);
    metrics_write_text(&text, NULL, 0);
    for (size_t i = 0; i < sizeof wanted / sizeof *wanted; i++)
        cr_assert(strstr(buf_cstr(&text), wanted[i]), "%s", buf_cstr(&text));
    buf_release(&text);
    world_free(&w);
}
