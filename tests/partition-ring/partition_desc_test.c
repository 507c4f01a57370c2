/* The partitions ring's document: real values of a Mimir, the rules of docs/formats.md 4.3, the laws of merging. */
#include <criterion/criterion.h>
#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>

#include "partition-ring/partition_desc.h"
#include "partition-ring/partition_ring.h"

#define RINGS TEST_SHARED_DIR "/mimir/rings/"

static struct partition_desc *read_value(const char *dir)
{
    char path[512];
    snprintf(path, sizeof(path), RINGS "%s/collectors__ingester-partitions.snappy.bin", dir);
    FILE *f = fopen(path, "rb");
    cr_assert(f, "%s", path);
    static char bytes[1 << 20];
    size_t n = fread(bytes, 1, sizeof(bytes), f);
    fclose(f);
    struct err err = ERR_NONE;
    struct partition_desc *d = partition_desc_codec.decode(slice_make(bytes, n), &err);
    cr_assert(d, "%s", err.text);
    return d;
}

static json_t *read_index(const char *dir, json_t **ret_all)
{
    char path[512];
    snprintf(path, sizeof(path), RINGS "%s/index.json", dir);
    *ret_all = json_load_file(path, 0, NULL);
    cr_assert(*ret_all);
    size_t at;
    json_t *row;
    json_array_foreach (*ret_all, at, row)
        if (strcmp(json_string_value(json_object_get(row, "codec")), "partitionRingDesc") == 0)
            return json_object_get(row, "value");
    return NULL;
}

static void check_value(const char *dir)
{
    struct partition_desc *d = read_value(dir);
    json_t *all, *want = read_index(dir, &all);
    cr_assert(want);
    const json_t *partitions = json_object_get(want, "partitions"), *owners = json_object_get(want, "owners");
    cr_assert_eq(d->n_partitions, json_object_size(partitions));
    cr_assert_eq(d->n_owners, json_object_size(owners));
    const char *key;
    json_t *row;
    json_object_foreach ((json_t *)partitions, key, row) {
        const struct partition *p = partition_desc_find(d, atoi(key));
        cr_assert(p, "%s", key);
        uint32_t tokens[PARTITION_TOKENS];
        partition_tokens(p->id, tokens);
        cr_assert_eq(p->n_tokens, PARTITION_TOKENS);
        cr_assert_arr_eq(p->tokens, tokens, sizeof(tokens), "Mimir's tokens are ours");
    }
    struct buf out = {0};
    partition_desc_codec.encode(d, &out);
    struct partition_desc *again = partition_desc_codec.decode(buf_slice(&out), NULL);
    cr_assert(partition_desc_eq(d, again));
    buf_release(&out);
    partition_desc_free(again);
    partition_desc_free(d);
    json_decref(all);
}

Test(partition_desc, decodes_and_writes_the_values_of_a_real_mimir)
{
    static const char *const dirs[] = {"kv-1-all-active", "kv-2-b-read-only", "kv-3-b-left", "kv-4-c-left"};
    for (size_t i = 0; i < 4; i++)
        check_value(dirs[i]);
}

Test(partition_desc, knows_the_states_that_mimir_went_through)
{
    struct partition_desc *before = read_value("kv-1-all-active"), *after = read_value("kv-2-b-read-only");
    cr_assert_eq(partition_desc_find(before, 1)->state, PARTITION_ACTIVE);
    cr_assert_eq(partition_desc_find(after, 1)->state, PARTITION_INACTIVE);
    cr_assert_gt(partition_desc_find(after, 1)->state_s, partition_desc_find(before, 1)->state_s);
    cr_assert_eq(partition_desc_find_owner(before, SL("mimir-1"))->partition, 1);
    cr_assert_eq(partition_desc_count_owners(before, 1, INT64_MAX), 1);
    /* And the later one wins, whichever comes first. */
    struct partition_desc *change = partition_desc_merge(before, after, false, 0);
    cr_assert(change && change->n_partitions == 1 && change->partitions[0].id == 1);
    cr_assert(partition_desc_eq(before, after));
    partition_desc_free(change);
    partition_desc_free(before);
    partition_desc_free(after);
}

Test(partition_desc, refuses_damaged_bytes)
{
    static const struct slice cases[] = {
        SL("\x0a\x05\x08\x01"),
        SL("\x0a\x0d\x08\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01\x12\x00"), /* a negative id */
        SL("\x0a\x06\x08\x80\x80\x01\x12\x00"),                             /* PARTITIONS_MAX */
        SL("\x12\x06\x0a\x02" "a\0" "\x12\x00"),
        SL("\x0a\x06\x08\x01\x12\x02\x0a\x05"),
    };
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        struct err err = ERR_NONE;
        cr_assert_null(partition_desc_decode(cases[i], &err), "case %zu", i);
        cr_assert_eq(err.code, ERR_CORRUPT);
    }
}

static void put(struct partition_desc *d, int32_t id, int64_t state_s, enum partition_state state, int64_t locked_s)
{
    struct partition *p = partition_desc_add(d, id);
    p->state = (int32_t)state;
    p->state_s = state_s;
    p->locked_s = locked_s;
    p->locked = locked_s % 2 == 1;
    uint32_t tokens[2] = {(uint32_t)id * 10 + 1, (uint32_t)id * 10 + 2};
    partition_set_tokens(p, tokens, 2);
}

static void put_owner(struct partition_desc *d, const char *id, int32_t partition, int64_t updated_s, enum partition_owner_state state)
{
    struct partition_owner *o = partition_desc_add_owner(d, slice_of(id));
    o->partition = partition;
    o->updated_s = updated_s;
    o->state = (int32_t)state;
}

Test(partition_merge, takes_the_newer_state_and_deleted_at_the_same_second)
{
    static const struct {
        int64_t local_s;
        enum partition_state local;
        int64_t in_s;
        enum partition_state in;
        bool taken;
    } cases[] = {
        {10, PARTITION_PENDING, 11, PARTITION_ACTIVE, true},    {10, PARTITION_ACTIVE, 9, PARTITION_INACTIVE, false},
        {10, PARTITION_ACTIVE, 10, PARTITION_INACTIVE, false},  {10, PARTITION_ACTIVE, 10, PARTITION_DELETED, true},
        {10, PARTITION_DELETED, 10, PARTITION_DELETED, false},  {10, PARTITION_DELETED, 10, PARTITION_ACTIVE, false},
        {10, PARTITION_DELETED, 11, PARTITION_PENDING, true},
    };
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        struct partition_desc *local = partition_desc_new(), *in = partition_desc_new();
        put(local, 3, cases[i].local_s, cases[i].local, 0);
        put(in, 3, cases[i].in_s, cases[i].in, 0);
        struct partition_desc *change = partition_desc_merge(local, in, false, 0);
        cr_assert_eq(change != NULL, cases[i].taken, "case %zu", i);
        cr_assert_eq(local->partitions[0].state, (int)(cases[i].taken ? cases[i].in : cases[i].local), "case %zu", i);
        partition_desc_free(change);
        partition_desc_free(local);
        partition_desc_free(in);
    }
}

Test(partition_merge, takes_the_lock_apart_from_the_state_and_never_tokens)
{
    struct partition_desc *local = partition_desc_new(), *in = partition_desc_new();
    put(local, 3, 20, PARTITION_ACTIVE, 4);
    put(in, 3, 10, PARTITION_PENDING, 5);
    uint32_t other = 77;
    partition_set_tokens(&in->partitions[0], &other, 1);
    struct partition_desc *change = partition_desc_merge(local, in, false, 0);
    const struct partition *p = &local->partitions[0];
    cr_assert(p->state == PARTITION_ACTIVE && p->state_s == 20 && p->locked && p->locked_s == 5 && p->n_tokens == 2);
    cr_assert(partition_desc_eq(change, local));
    partition_desc_free(change);
    partition_desc_free(local);
    partition_desc_free(in);
}

Test(partition_merge, buries_what_a_local_cas_lacks)
{
    struct partition_desc *local = partition_desc_new(), *wanted = partition_desc_new();
    put(local, 1, 10, PARTITION_ACTIVE, 0);
    put(local, 2, 10, PARTITION_INACTIVE, 0);
    put_owner(local, "a", 1, 10, PARTITION_OWNER_ACTIVE);
    put_owner(local, "b", 2, 10, PARTITION_OWNER_ACTIVE);
    put(wanted, 1, 10, PARTITION_ACTIVE, 0);
    put_owner(wanted, "a", 1, 10, PARTITION_OWNER_ACTIVE);
    struct partition_desc *change = partition_desc_merge(local, wanted, true, 50);
    cr_assert(change->n_partitions == 1 && change->n_owners == 1);
    const struct partition *p = partition_desc_find(local, 2);
    cr_assert(p->state == PARTITION_DELETED && p->state_s == 50 && p->n_tokens == 2);
    const struct partition_owner *b = partition_desc_find_owner(local, SL("b"));
    cr_assert(b->state == PARTITION_OWNER_DELETED && b->updated_s == 50);
    size_t removed, left;
    partition_desc_remove_tombstones(local, 50, &removed, &left);
    cr_assert(removed == 0 && left == 2);
    partition_desc_remove_tombstones(local, 51, &removed, &left);
    cr_assert(removed == 2 && left == 0 && local->n_partitions == 1 && local->n_owners == 1);
    partition_desc_free(change);
    partition_desc_free(local);
    partition_desc_free(wanted);
}

/* What is written at one time is a function of the time, but for Deleted. */
static struct partition_desc *random_state(unsigned *seed)
{
    static const char *const ids[] = {"a", "b", "c"};
    struct partition_desc *d = partition_desc_new();
    for (int i = 0; i < 3; i++) {
        int64_t t = rand_r(seed) % 4 + 1;
        if (rand_r(seed) % 3)
            put(d, i, t, rand_r(seed) % 4 ? (enum partition_state)(1 + t % 3) : PARTITION_DELETED, rand_r(seed) % 4);
        t = rand_r(seed) % 4 + 1;
        if (rand_r(seed) % 3)
            put_owner(d, ids[i], (int32_t)t, t, rand_r(seed) % 4 ? PARTITION_OWNER_ACTIVE : PARTITION_OWNER_DELETED);
    }
    return d;
}

static struct partition_desc *merged(const struct partition_desc *a, const struct partition_desc *b)
{
    struct partition_desc *c = partition_desc_clone(a);
    partition_desc_free(partition_desc_merge(c, b, false, 0));
    return c;
}

static void check_laws(const struct partition_desc *a, const struct partition_desc *b, const struct partition_desc *c)
{
    struct partition_desc *ab = merged(a, b), *ba = merged(b, a), *bc = merged(b, c);
    cr_assert(partition_desc_eq(ab, ba), "commutative");
    struct partition_desc *ab_c = merged(ab, c), *a_bc = merged(a, bc);
    cr_assert(partition_desc_eq(ab_c, a_bc), "associative");
    struct partition_desc *twice = merged(ab, b);
    cr_assert(partition_desc_eq(twice, ab), "idempotent");
    struct partition_desc *copy = partition_desc_clone(a), *change = partition_desc_merge(copy, b, false, 0);
    struct partition_desc *told = change ? merged(a, change) : partition_desc_clone(a);
    cr_assert(partition_desc_eq(told, ab), "the change is all there is to tell");
    struct partition_desc *all[] = {ab, ba, bc, ab_c, a_bc, twice, copy, change, told};
    for (size_t i = 0; i < sizeof(all) / sizeof(all[0]); i++)
        partition_desc_free(all[i]);
}

Test(partition_merge, is_commutative_associative_and_idempotent)
{
    unsigned seed = 1;
    for (int i = 0; i < 20000; i++) {
        struct partition_desc *a = random_state(&seed), *b = random_state(&seed), *c = random_state(&seed);
        check_laws(a, b, c);
        partition_desc_free(a);
        partition_desc_free(b);
        partition_desc_free(c);
    }
}

static void join(void *arg, struct slice name)
{
    struct buf *b = arg;
    buf_put_slice(b, name);
    buf_putc(b, ' ');
}

Test(partition_desc, names_its_content)
{
    struct partition_desc *d = partition_desc_new();
    put(d, 12, 1, PARTITION_ACTIVE, 0);
    put(d, 2, 1, PARTITION_ACTIVE, 0);
    put_owner(d, "ingester-2", 2, 1, PARTITION_OWNER_ACTIVE);
    struct buf b = {0};
    partition_desc_codec.content(d, join, &b);
    cr_assert_str_eq(buf_cstr(&b), "2 12 ingester-2 ");
    buf_release(&b);
    partition_desc_free(d);
}
