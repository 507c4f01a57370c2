/* Lookups, replication sets, and following a key. Tokens: instance i of n has i*10, so that the owner of key i*10-1 is i. */
#include <criterion/criterion.h>
#include <stdio.h>
#include <stdlib.h>

#include "ring/ring.h"

#define NOW_MS 1000000

static void put(struct ring_desc *d, const char *id, const char *zone, enum ring_state state, uint32_t token, int64_t age_s)
{
    struct ring_instance *in = ring_desc_add(d, slice_of(id));
    ring_string_set(&in->zone, slice_of(zone));
    in->state = (int32_t)state;
    in->timestamp_s = NOW_MS / 1000 - age_s;
    ring_instance_set_tokens(in, &token, 1);
}

/* "a:x:A " = instance a in zone x, ACTIVE; lower case state: its heartbeat is too old. Tokens 10, 20, ... */
static struct ring_snapshot *snapshot_of(const char *spec, size_t rf, bool zones)
{
    static const char states[] = "ALPJX";
    struct ring_desc *d = ring_desc_new();
    uint32_t token = 0;
    for (const char *p = spec; *p; p += 6) {
        char id[2] = {p[0], 0}, zone[2] = {p[2], 0};
        bool old = p[4] >= 'a';
        char state = (char)(old ? p[4] - 32 : p[4]);
        put(d, id, p[2] == '-' ? "" : zone, (enum ring_state)(strchr(states, state) - states), token += 10, old ? 61 : 60);
    }
    struct ring_config config = {.replication_factor = rf, .heartbeat_timeout_ms = 60000, .zone_awareness = zones};
    return ring_snapshot_new(d, &config);
}

static void name_set(const struct replication_set *set, char ret[32])
{
    size_t n = 0;
    for (size_t i = 0; i < set->n; i++)
        ret[n++] = set->instances[i]->id[0];
    ret[n] = 0;
}

Test(ring_lookup, finds_the_replicas_of_a_key)
{
    static const struct {
        const char *spec;
        size_t rf;
        bool zones;
        uint32_t key;
        bool read;
        const char *want; /* NULL: too few */
        size_t max_errors;
    } cases[] = {
        {"a:-:A b:-:A c:-:A ", 1, false, 9, false, "a", 0},
        {"a:-:A b:-:A c:-:A ", 1, false, 10, false, "b", 0}, /* a token owns the keys below it */
        {"a:-:A b:-:A c:-:A ", 1, false, 30, false, "a", 0}, /* around the end */
        {"a:-:A b:-:A c:-:A d:-:A ", 3, false, 15, false, "bcd", 1},
        {"a:-:A b:-:A c:-:A d:-:A ", 3, false, 25, false, "cda", 1},
        {"a:-:A b:-:a c:-:A d:-:A ", 3, false, 5, false, "ac", 0}, /* a dead one is not replaced */
        {"a:-:a b:-:a c:-:A d:-:A ", 3, false, 5, false, NULL, 0},
        {"a:-:A b:-:L c:-:A d:-:A ", 3, false, 5, false, "acd", 0}, /* one that leaves is: four chosen, quorum three */
        {"a:-:A b:-:L c:-:A d:-:A ", 3, false, 5, true, "abc", 1},
        {"a:-:A b:-:J c:-:A d:-:A ", 3, false, 5, true, "acd", 0},
        {"a:x:A b:x:A c:y:A d:z:A ", 3, true, 5, false, "acd", 1}, /* one of each zone */
        {"a:x:L b:x:A c:y:A d:z:A ", 3, true, 5, false, "bcd", 0},
        {"a:-:A ", 1, false, 5, true, "a", 0},
        {"a:-:A ", 3, false, 5, false, NULL, 0},
        {"", 1, false, 5, true, NULL, 0},
    };
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        struct ring_snapshot *s = snapshot_of(cases[i].spec, cases[i].rf, cases[i].zones);
        struct replication_set set = {0};
        struct err err = ERR_NONE;
        bool ok = ring_snapshot_get(s, cases[i].key, cases[i].read ? &ring_op_read : &ring_op_write, NOW_MS, &set, &err);
        cr_assert_eq(ok, cases[i].want != NULL, "case %zu: %s", i, err.text);
        cr_assert_eq(err.code, ok ? ERR_OK : ERR_UNAVAILABLE);
        char names[32];
        name_set(&set, names);
        if (ok) {
            cr_assert_str_eq(names, cases[i].want, "case %zu", i);
            cr_assert_eq(set.max_errors, cases[i].max_errors, "case %zu", i);
        }
        replication_set_release(&set);
        ring_snapshot_free(s);
    }
}

Test(ring_lookup, finds_the_healthy_replicas_of_a_block_however_few)
{
    static const struct {
        const char *spec;
        size_t rf;
        bool zones;
        const struct ring_op *op;
        const char *want; /* for key 5; NULL: none is healthy */
    } cases[] = {
        {"a:-:A ", 3, false, &ring_op_blocks_read, "a"}, /* fewer instances than replicas */
        {"a:-:A b:-:A c:-:A d:-:A ", 3, false, &ring_op_blocks_read, "abc"},
        {"a:-:a b:-:a c:-:A d:-:A ", 3, false, &ring_op_blocks_read, "c"}, /* the dead are not replaced */
        {"a:-:a b:-:a c:-:a d:-:A ", 3, false, &ring_op_blocks_read, NULL},
        {"a:-:J b:-:A c:-:A d:-:A ", 3, false, &ring_op_blocks_read, "bcd"}, /* the next still has what a newcomer loads */
        {"a:-:L b:-:A c:-:A d:-:A ", 3, false, &ring_op_blocks_read, "bcd"},
        {"a:-:J b:-:A c:-:L d:-:A ", 3, false, &ring_op_blocks_owner_sync, "abc"},
        {"a:-:P b:-:A c:-:a d:-:A ", 3, false, &ring_op_blocks_owner_sync, "b"},
        {"a:-:J b:-:A c:-:L d:-:A ", 3, false, &ring_op_blocks_owner_read, "b"},
        {"a:-:J b:-:L c:-:P d:-:A ", 3, false, &ring_op_blocks_owner_read, NULL},
        {"a:x:A b:x:A c:y:A d:z:a ", 3, true, &ring_op_blocks_read, "ac"}, /* one of each zone */
        {"a:x:a b:x:A c:y:a d:z:a ", 3, true, &ring_op_blocks_read, NULL},
        {"", 3, false, &ring_op_blocks_read, NULL},
    };
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        struct ring_snapshot *s = snapshot_of(cases[i].spec, cases[i].rf, cases[i].zones);
        struct replication_set set = {0};
        struct err err = ERR_NONE;
        bool ok = ring_snapshot_get_healthy(s, 5, cases[i].op, NOW_MS, &set, &err);
        cr_assert_eq(ok, cases[i].want != NULL, "case %zu: %s", i, err.text);
        cr_assert_eq(err.code, ok ? ERR_OK : ERR_UNAVAILABLE);
        char names[32];
        name_set(&set, names);
        cr_assert_str_eq(names, ok ? cases[i].want : "", "case %zu", i);
        cr_assert(!ok || set.max_errors == set.n - 1);
        replication_set_release(&set);
        ring_snapshot_free(s);
    }
}

Test(ring_lookup, finds_whom_to_ask_for_everything)
{
    static const struct {
        const char *spec;
        size_t rf;
        bool zones;
        const char *want;
        size_t max_errors, max_zones;
    } cases[] = {
        {"a:-:A b:-:A c:-:A d:-:A ", 3, false, "abcd", 1, 0},
        {"a:-:A b:-:a c:-:A d:-:A ", 3, false, "acd", 0, 0},
        {"a:-:A b:-:a c:-:a d:-:A ", 3, false, NULL, 0, 0},
        {"a:-:A b:-:A ", 1, false, "ab", 0, 0},
        {"a:-:A b:-:J ", 1, false, NULL, 0, 0},
        {"a:x:A b:x:A c:y:A d:z:A ", 3, true, "abcd", 0, 1},
        {"a:x:A b:x:a c:y:A d:z:A ", 3, true, "cd", 0, 0}, /* the whole zone is out */
        {"a:x:A b:x:a c:y:a d:z:A ", 3, true, NULL, 0, 0},
        {"a:x:A c:y:A ", 2, true, "ac", 0, 1},
        {"", 3, true, NULL, 0, 0},
    };
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        struct ring_snapshot *s = snapshot_of(cases[i].spec, cases[i].rf, cases[i].zones);
        struct replication_set set = {0};
        bool ok = ring_snapshot_get_all(s, &ring_op_read, NOW_MS, &set, NULL);
        cr_assert_eq(ok, cases[i].want != NULL, "case %zu", i);
        char names[32];
        name_set(&set, names);
        if (ok) {
            cr_assert_str_eq(names, cases[i].want, "case %zu", i);
            cr_assert(set.max_errors == cases[i].max_errors && set.max_unavailable_zones == cases[i].max_zones, "case %zu", i);
            cr_assert_eq(set.zone_aware, cases[i].zones);
        }
        replication_set_release(&set);
        ring_snapshot_free(s);
    }
}

static enum kv_cas add_instance(void *arg, void **value, struct err *err)
{
    (void)err;
    if (!*value)
        *value = ring_desc_new();
    put(*value, arg, "", RING_ACTIVE, 7, 0);
    return KV_CAS_STORE;
}

Test(ring, follows_its_key_while_old_snapshots_stay_as_they_are)
{
    struct kv *kv = kv_inmemory_new(4);
    struct ring_config config = {.replication_factor = 1};
    struct ring *r = ring_new(kv, SL("ring"), &config, NULL);
    struct ring_snapshot *none = ring_current(r);
    char a[] = "a", b[] = "b";
    cr_assert(kv_cas(kv, SL("ring"), &ring_desc_codec, add_instance, a, NULL));
    struct ring_snapshot *one = ring_current(r);
    cr_assert(kv_cas(kv, SL("ring"), &ring_desc_codec, add_instance, b, NULL));
    struct ring_snapshot *two = ring_current(r);
    ring_free(r);
    kv_free(kv);
    cr_assert_eq(ring_snapshot_desc(none)->n, 0);
    cr_assert_eq(ring_snapshot_desc(one)->n, 1);
    cr_assert_eq(ring_snapshot_desc(two)->n, 2);
    ring_snapshot_free(none);
    ring_snapshot_free(one);
    ring_snapshot_free(two);
}
