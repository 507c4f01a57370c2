/* What writers and readers see of the partitions ring. Shards: the vectors of docs/formats.md 3.4. */
#include <criterion/criterion.h>
#include <stdio.h>
#include <stdlib.h>

#include "partition-ring/lifecycle.h"
#include "partition-ring/partition_view.h"

/* One letter a partition: A, I, P; '-' is none. States changed at second 100, lower case at 900. */
static struct partition_desc *desc_of(const char *states)
{
    struct partition_desc *d = partition_desc_new();
    for (int32_t id = 0; states[id]; id++) {
        char c = states[id];
        if (c == '-')
            continue;
        partition_create(d, id, c >= 'a' ? 900000 : 100000);
        c = (char)(c >= 'a' ? c - 32 : c);
        partition_desc_find(d, id)->state = c == 'A' ? PARTITION_ACTIVE : c == 'I' ? PARTITION_INACTIVE : PARTITION_PENDING;
    }
    return d;
}

static void ids_of(const int32_t *ids, size_t n, char ret[64])
{
    size_t at = 0;
    ret[0] = 0;
    for (size_t i = 0; i < n; i++)
        at += (size_t)snprintf(ret + at, 64 - at, "%d ", ids[i]);
}

Test(partition_view, gives_writers_the_active_and_readers_the_inactive_too)
{
    struct partition_view *v = partition_view_new(desc_of("AIPA-I"));
    struct partition_ring *writers = partition_view_writers(v);
    char ids[64];
    ids_of(partition_ring_members(writers), (size_t)partition_ring_count(writers), ids);
    cr_assert_str_eq(ids, "0 3 ");
    size_t n;
    const int32_t *readers = partition_view_readers(v, &n);
    ids_of(readers, n, ids);
    cr_assert_str_eq(ids, "0 1 3 5 ");
    partition_view_free(v);
}

Test(partition_view, writes_like_the_static_ring_when_all_are_active)
{
    struct partition_view *v = partition_view_new(desc_of("AAAAAAAAAA"));
    struct partition_ring *whole = partition_ring_new_static(10), *writers = partition_view_writers(v);
    struct partition_ring *shard = partition_ring_tenant(writers, SL("user-1"), 3);
    struct partition_ring *want = partition_ring_tenant(whole, SL("user-1"), 3);
    for (uint32_t key = 0; key < 4000000000U; key += 999983) {
        cr_assert_eq(partition_ring_lookup(writers, key), partition_ring_lookup(whole, key));
        cr_assert_eq(partition_ring_lookup(shard, key), partition_ring_lookup(want, key));
    }
    cr_assert_eq(partition_ring_lookup(writers, 3649973271U), 5);
    partition_ring_free(shard);
    partition_ring_free(want);
    partition_ring_free(whole);
    partition_view_free(v);
}

Test(partition_view, passes_inactive_partitions_over_on_the_walk)
{
    struct partition_view *v = partition_view_new(desc_of("AIA"));
    struct partition_ring *whole = partition_ring_new_static(3);
    for (uint32_t key = 0; key < 4000000000U; key += 999983) {
        int32_t got = partition_ring_lookup(partition_view_writers(v), key), all = partition_ring_lookup(whole, key);
        cr_assert(got == 0 || got == 2);
        cr_assert(all == 1 || got == all);
    }
    partition_ring_free(whole);
    partition_view_free(v);
}

Test(partition_view, finds_no_partition_where_none_is_active)
{
    struct partition_view *v = partition_view_new(desc_of("IP"));
    cr_assert_eq(partition_ring_lookup(partition_view_writers(v), 7), -1);
    struct partition_ring *sub = partition_ring_tenant(partition_view_writers(v), SL("t"), 2);
    cr_assert_eq(partition_ring_lookup(sub, 7), -1);
    partition_ring_free(sub);
    partition_view_free(v);
}

Test(partition_view, derives_tokens_that_the_document_leaves_out)
{
    struct partition_desc *d = desc_of("AAA");
    partition_set_tokens(&d->partitions[1], NULL, 0);
    struct partition_view *v = partition_view_new(d);
    cr_assert_eq(partition_ring_lookup(partition_view_writers(v), 3649973271U), 2);
    cr_assert_eq(partition_ring_lookup(partition_view_writers(v), 1612714009U), 1);
    partition_view_free(v);
}

Test(partition_view, reads_a_tenants_shard_and_what_was_in_it)
{
    static const struct {
        const char *states;
        const char *tenant;
        int64_t size, lookback_ms;
        const char *want;
    } cases[] = {
        {"AAAAAAAAAA", "user-1", 3, 0, "0 2 3 "},
        {"AAAAAAAAAA", "user-1", 5, 0, "0 1 2 3 9 "},
        {"AAAAAAAAAA", "12345", 3, 0, "5 7 8 "},
        {"AAAAAAAAAA", "user-1", 3, 200000, "0 2 3 "}, /* nothing changed within */
        {"iAAAAAAAAA", "user-1", 1, 200000, "0 "}, /* 0 is first on the walk; one more beside it is checked below */
        {"AAAAAAAAAA", "user-1", 0, 0, "0 1 2 3 4 5 6 7 8 9 "},
        {"AAAAAAAAAA", "user-1", 99, 0, "0 1 2 3 4 5 6 7 8 9 "},
        {"AIP", "user-1", 0, 0, "0 1 "},
        {"AIP", "user-1", 3, 0, "0 "},
        {"AiP", "user-1", 3, 200000, "0 1 "},
        {"", "user-1", 3, 0, ""},
    };
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        struct partition_view *v = partition_view_new(desc_of(cases[i].states));
        int32_t ids[10];
        size_t n = partition_view_tenant_readers(v, slice_of(cases[i].tenant), cases[i].size, cases[i].lookback_ms, 1000000, ids);
        char got[64];
        ids_of(ids, n, got);
        if (i == 4)
            cr_assert(n == 2 && ids[0] == 0, "%s", got);
        else
            cr_assert_str_eq(got, cases[i].want, "case %zu: %s", i, got);
        partition_view_free(v);
    }
}

static void put_instance(struct ring_desc *d, const char *id, enum ring_state state, int64_t timestamp_s)
{
    struct ring_instance *in = ring_desc_add(d, slice_of(id));
    in->state = (int32_t)state;
    in->timestamp_s = timestamp_s;
}

Test(partition_view, asks_the_healthy_owners_of_a_partition)
{
    struct partition_desc *d = desc_of("AAAA");
    partition_own(d, SL("a-0"), 0, 1000);
    partition_own(d, SL("b-0"), 0, 1000);
    partition_own(d, SL("a-1"), 1, 1000);
    partition_own(d, SL("b-1"), 1, 1000);
    partition_own(d, SL("gone"), 2, 1000);
    partition_own(d, SL("a-0/3"), 3, 1000);
    partition_own(d, SL("a-0/7"), 2, 1000); /* its suffix names another partition */
    struct ring_desc *r = ring_desc_new();
    put_instance(r, "a-0", RING_ACTIVE, 1000);
    put_instance(r, "b-0", RING_LEAVING, 1000);
    put_instance(r, "a-1", RING_ACTIVE, 900); /* silent */
    put_instance(r, "b-1", RING_JOINING, 1000);
    struct ring_config config = {.replication_factor = 1, .heartbeat_timeout_ms = 60000};
    struct ring_snapshot *s = ring_snapshot_new(r, &config);
    struct partition_view *v = partition_view_new(d);
    struct replication_set set = {0};
    cr_assert(partition_view_owners(v, 0, s, 1000000, &set, NULL));
    cr_assert(set.n == 2 && set.max_errors == 1);
    replication_set_release(&set);
    cr_assert(partition_view_owners(v, 3, s, 1000000, &set, NULL));
    cr_assert_str_eq(set.instances[0]->id, "a-0");
    replication_set_release(&set);
    for (int32_t p = 1; p <= 2; p++) {
        struct err err = ERR_NONE;
        cr_assert_not(partition_view_owners(v, p, s, 1000000, &set, &err));
        cr_assert_eq(err.code, ERR_UNAVAILABLE);
    }
    ring_snapshot_free(s);
    partition_view_free(v);
}

static enum kv_cas create_next(void *arg, void **value, struct err *err)
{
    (void)err;
    if (!*value)
        *value = partition_desc_new();
    partition_create(*value, (*(int32_t *)arg)++, 1000);
    return KV_CAS_STORE;
}

Test(partition_watcher, follows_its_key_while_old_views_stay_as_they_are)
{
    struct kv *kv = kv_inmemory_new(4);
    struct partition_watcher *w = partition_watcher_new(kv, SL("p"), NULL);
    struct partition_view *none = partition_watcher_current(w);
    int32_t next = 0;
    cr_assert(kv_cas(kv, SL("p"), &partition_desc_codec, create_next, &next, NULL));
    struct partition_view *one = partition_watcher_current(w);
    cr_assert(kv_cas(kv, SL("p"), &partition_desc_codec, create_next, &next, NULL));
    struct partition_view *two = partition_watcher_current(w);
    partition_watcher_free(w);
    kv_free(kv);
    cr_assert_eq(partition_view_desc(none)->n_partitions, 0);
    cr_assert_eq(partition_view_desc(one)->n_partitions, 1);
    cr_assert_eq(partition_view_desc(two)->n_partitions, 2);
    partition_view_free(none);
    partition_view_free(one);
    partition_view_free(two);
}
