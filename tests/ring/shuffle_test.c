/*
 * Shuffle shards of instance rings. With the tokens of partitions, without zones and lookback, a shard of instances is that of partitions, whose vectors are published
 * (docs/formats.md 3.4); for the rest, the rules of 3.6 one by one.
 */
#include <criterion/criterion.h>
#include <stdio.h>
#include <stdlib.h>

#include "partition-ring/partition_ring.h"
#include "ring/go_rand.h"
#include "ring/ring.h"

#define NOW_S 1000000
#define DAY_S 86400

static struct ring_instance *put(struct ring_desc *d, const char *id, const char *zone, const uint32_t *tokens, size_t n)
{
    struct ring_instance *in = ring_desc_add(d, slice_of(id));
    ring_string_set(&in->zone, slice_of(zone));
    in->timestamp_s = NOW_S;
    in->registered_s = NOW_S - 30 * DAY_S;
    ring_instance_set_tokens(in, tokens, n);
    return in;
}

/* "0" .. "9" with the tokens of partitions 0 .. 9; zones: instance i in zone i modulo that, named "z0"... */
static struct ring_desc *ten(int zones)
{
    struct ring_desc *d = ring_desc_new();
    for (int i = 0; i < 10; i++) {
        uint32_t tokens[PARTITION_TOKENS];
        char id[16], zone[16];
        partition_tokens(i, tokens);
        snprintf(id, sizeof(id), "%d", i);
        snprintf(zone, sizeof(zone), "z%d", zones ? i % zones : 0);
        put(d, id, zones ? zone : "", tokens, PARTITION_TOKENS);
    }
    return d;
}

static struct ring_snapshot *snapshot_of(struct ring_desc *d, bool zones)
{
    struct ring_config config = {.replication_factor = 1, .zone_awareness = zones};
    return ring_snapshot_new(d, &config);
}

static struct ring_instance *at(struct ring_desc *d, int i)
{
    return &d->instances[i];
}

/* The ids of the shard, in order; lookback_s 0: none. Takes d. */
static void shard_ids(struct ring_desc *d, bool zones, const char *tenant, size_t size, int64_t lookback_s, char ret[16])
{
    struct ring_snapshot *s = snapshot_of(d, zones);
    struct ring_snapshot *part = lookback_s ? ring_snapshot_shuffle_lookback(s, slice_of(tenant), size, lookback_s * 1000, NOW_S * 1000LL)
                                            : ring_snapshot_shuffle(s, slice_of(tenant), size);
    const struct ring_desc *p = ring_snapshot_desc(part);
    for (size_t i = 0; i < p->n; i++)
        ret[i] = p->instances[i].id[0];
    ret[p->n] = 0;
    ring_snapshot_free(part);
    ring_snapshot_free(s);
}

#define EXPECT(d, zones, tenant, size, lookback_s, want)                \
    do {                                                                \
        char got_[16];                                                  \
        shard_ids((d), (zones), (tenant), (size), (lookback_s), got_); \
        cr_assert_str_eq(got_, want);                                   \
    } while (0)

Test(shuffle, seeds_are_the_published_ones)
{
    cr_assert_eq(shuffle_seed(SL("user-1"), SL("")), -2965778325353760010);
    cr_assert_eq(shuffle_seed(SL("anonymous"), SL("")), 2976284885080932531);
    cr_assert_eq(shuffle_seed(SL("12345"), SL("")), -9044130686741876628);
    cr_assert_neq(shuffle_seed(SL("12345"), SL("z")), shuffle_seed(SL("12345z"), SL("")));
}

Test(shuffle, shards_are_the_published_ones)
{
    static const struct {
        const char *tenant, *three, *five;
    } cases[] = {{"user-1", "023", "01239"}, {"anonymous", "258", "24568"}, {"12345", "578", "25678"}};
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        EXPECT(ten(0), false, cases[i].tenant, 3, 0, cases[i].three);
        EXPECT(ten(0), false, cases[i].tenant, 5, 0, cases[i].five);
    }
}

Test(shuffle, everyone_belongs_when_the_size_is_0_or_large)
{
    EXPECT(ten(0), false, "user-1", 0, 0, "0123456789");
    EXPECT(ten(0), false, "user-1", 10, 0, "0123456789");
    EXPECT(ten(3), true, "user-1", 99, 0, "0123456789");
    EXPECT(ring_desc_new(), true, "user-1", 3, 0, "");
}

Test(shuffle, read_only_instances_take_in_nothing_new)
{
    struct ring_desc *d = ten(0);
    at(d, 2)->read_only = true;
    at(d, 2)->read_only_updated_s = NOW_S - 1;
    struct ring_desc *all = ring_desc_clone(d);
    EXPECT(d, false, "user-1", 3, 0, "039"); /* its neighbour comes in its place */
    EXPECT(all, false, "user-1", 0, 0, "013456789");
}

Test(shuffle, readers_ask_a_read_only_instance_within_the_lookback)
{
    struct ring_desc *d = ten(0);
    at(d, 2)->read_only = true;
    at(d, 2)->read_only_updated_s = NOW_S - 100;
    struct ring_desc *before = ring_desc_clone(d), *unknown = ring_desc_clone(d);
    EXPECT(d, false, "user-1", 3, 200, "0239");     /* it and the neighbour that has its part now */
    EXPECT(before, false, "user-1", 3, 50, "039"); /* it had nothing since */
    at(unknown, 2)->read_only_updated_s = 0;
    EXPECT(unknown, false, "user-1", 3, 50, "0239");
}

Test(shuffle, readers_ask_whoever_had_the_part_of_a_new_instance)
{
    struct ring_desc *d = ten(0);
    char before[16], now[16];
    struct ring_desc *without = ring_desc_clone(d);
    ring_desc_remove(without, at(without, 2));
    shard_ids(without, false, "user-1", 3, 0, before);
    at(d, 2)->registered_s = NOW_S - 100;
    shard_ids(d, false, "user-1", 3, 200, now);
    for (const char *p = before; *p; p++)
        cr_assert(strchr(now, *p), "%s lacks %c of %s", now, *p, before);
    cr_assert(strchr(now, '2'));
}

Test(shuffle, the_whole_ring_is_asked_when_all_are_new)
{
    struct ring_desc *d = ten(0);
    for (int i = 0; i < 10; i++)
        at(d, i)->registered_s = NOW_S - 100;
    struct ring_desc *unknown = ring_desc_clone(d);
    EXPECT(d, false, "user-1", 3, 200, "0123456789");
    for (int i = 0; i < 10; i++)
        at(unknown, i)->registered_s = 0;
    EXPECT(unknown, false, "user-1", 3, 200, "023");
}

static size_t count_zone(const struct ring_desc *d, const char *zone)
{
    size_t n = 0;
    for (size_t i = 0; i < d->n; i++)
        n += strcmp(d->instances[i].zone, zone) == 0;
    return n;
}

Test(shuffle, each_zone_gives_its_share)
{
    struct ring_snapshot *s = snapshot_of(ten(3), true); /* zones of 4, 3 and 3 */
    for (size_t size = 1; size <= 9; size++) {
        struct ring_snapshot *part = ring_snapshot_shuffle(s, SL("user-1"), size);
        const struct ring_desc *d = ring_snapshot_desc(part);
        size_t share = (size + 2) / 3;
        cr_assert(count_zone(d, "z0") == share && count_zone(d, "z1") == share && count_zone(d, "z2") == share);
        ring_snapshot_free(part);
    }
    ring_snapshot_free(s);
}

Test(shuffle, a_shard_keeps_most_of_itself_when_one_leaves)
{
    char before[16], after[16];
    for (int t = 0; t < 20; t++) {
        char tenant[24];
        snprintf(tenant, sizeof(tenant), "tenant-%d", t);
        struct ring_desc *d = ten(0), *less = ten(0);
        ring_desc_remove(less, at(less, 4));
        shard_ids(d, false, tenant, 4, 0, before);
        shard_ids(less, false, tenant, 4, 0, after);
        int lost = 0;
        for (const char *p = before; *p; p++)
            lost += !strchr(after, *p);
        cr_assert_leq(lost, 1, "%s became %s", before, after);
    }
}

Test(shuffle, a_shard_is_a_ring_of_its_own)
{
    struct ring_snapshot *s = snapshot_of(ten(0), false);
    struct ring_snapshot *part = ring_snapshot_shuffle(s, SL("user-1"), 3);
    ring_snapshot_free(s);
    for (uint32_t key = 0; key < 4000000000U; key += 100000007) {
        struct replication_set set;
        cr_assert(ring_snapshot_get(part, key, &ring_op_write, NOW_S * 1000LL, &set, NULL));
        cr_assert(set.n == 1 && strchr("023", set.instances[0]->id[0]));
        replication_set_release(&set);
    }
    ring_snapshot_free(part);
}

Test(ring_zones, an_excluded_zone_is_as_if_it_were_not_there)
{
    const char *excluded[] = {"z1", "none"};
    struct ring_config config = {.replication_factor = 3, .zone_awareness = true, .excluded_zones = excluded, .n_excluded_zones = 2};
    struct ring_snapshot *s = ring_snapshot_new(ten(3), &config);
    const struct ring_desc *d = ring_snapshot_desc(s);
    cr_assert(d->n == 7 && count_zone(d, "z1") == 0);
    struct replication_set set;
    cr_assert(ring_snapshot_get_all(s, &ring_op_read, NOW_S * 1000LL, &set, NULL));
    cr_assert_eq(set.n, 7);
    replication_set_release(&set);
    ring_snapshot_free(s);
}
