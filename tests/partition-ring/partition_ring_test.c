/* Vectors: docs/formats.md 3.2 to 3.5, which were checked against a real dskit and Go's math/rand. */
#include <criterion/criterion.h>
#include <openssl/evp.h>
#include <stdlib.h>

#include "ring/go_rand.h"
#include "partition-ring/partition_ring_int.h"

static void tokens_sha256(int32_t partition, char ret[65])
{
    uint32_t tokens[PARTITION_TOKENS];
    partition_tokens(partition, tokens);
    unsigned char be[PARTITION_TOKENS * 4], md[32];
    for (size_t i = 0; i < PARTITION_TOKENS; i++) {
        uint32_t v = __builtin_bswap32(tokens[i]);
        memcpy(be + 4 * i, &v, 4);
    }
    EVP_Digest(be, sizeof(be), md, NULL, EVP_sha256(), NULL);
    for (int i = 0; i < 32; i++)
        snprintf(ret + 2 * i, 3, "%02x", md[i]);
}

Test(partition_tokens, equal_dskits_tokens)
{
    static const struct {
        int32_t partition;
        const char *sha256;
    } cases[] = {
        {0, "25d413a490f0445ec337e761ccc1ace7548685d9f01d5dcdd60ac4f725cbf8a6"},
        {1, "6607f91b5aa34babc4d7c1b6d9f15015511e9131fb2820fedc48b208e80629c4"},
        {2, "724a729310b8c07554b71b8825d2937ae3f365643a606a3bfd9008ac116120a9"},
        {9, "bdd38da3557d55242696ad5d546d51cad465b91f69976b7ec3b8a0938c310026"},
        {99, "a9afd27ed5a27d369c008644828625060cdc0d074a1e3fec0e812d08324e2bec"},
    };
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        char got[65];
        tokens_sha256(cases[i].partition, got);
        cr_assert_str_eq(got, cases[i].sha256, "partition %d", cases[i].partition);
    }
}

Test(partition_tokens, do_not_depend_on_how_many_partitions_there_are)
{
    static uint32_t all[50 * PARTITION_TOKENS];
    partition_tokens_all(50, all);
    for (int32_t p = 0; p < 50; p += 7) {
        uint32_t one[PARTITION_TOKENS];
        partition_tokens(p, one);
        cr_assert_arr_eq(one, all + (size_t)p * PARTITION_TOKENS, sizeof(one), "partition %d", p);
    }
}

Test(go_rand, cooked_table_has_the_known_values)
{
    const uint64_t *c = go_rand_cooked();
    cr_assert_eq((int64_t)c[0], -4181792142133755926);
    cr_assert_eq((int64_t)c[1], -4576982950128230565);
    cr_assert_eq((int64_t)c[2], 1395769623340756751);
    cr_assert_eq((int64_t)c[3], 5333664234075297259);
    cr_assert_eq((int64_t)(c[606] & INT64_MAX), 4152330101494654406);
}

Test(go_rand, seed_1_gives_gos_numbers)
{
    struct go_rand r;
    go_rand_seed(&r, 1);
    cr_assert_eq(go_rand_int63(&r), 5577006791947779410);
    cr_assert_eq(go_rand_int63(&r), 8674665223082153551);
    cr_assert_eq(go_rand_int63(&r), 6129484611666145821);
}

static const struct shard_case {
    const char *tenant;
    int64_t seed;
    uint32_t u32[4];
    int32_t five[5]; /* the first three are the shard of size 3 */
} shard_cases[] = {
    {"user-1", -2965778325353760010, {2297682257, 4074377809, 2396993140, 1924635470}, {0, 2, 3, 1, 9}},
    {"anonymous", 2976284885080932531, {3622216400, 3468181405, 320810268, 4161273047}, {2, 8, 5, 6, 4}},
    {"12345", -9044130686741876628, {1873574761, 3746797388, 3303138762, 3577816815}, {8, 5, 7, 6, 2}},
};

Test(shuffle_shard, equals_dskits_shards)
{
    struct partition_ring *r = partition_ring_new_static(10);
    for (size_t i = 0; i < sizeof(shard_cases) / sizeof(shard_cases[0]); i++) {
        const struct shard_case *c = &shard_cases[i];
        cr_assert_eq(partition_shuffle_seed(slice_of(c->tenant)), c->seed, "%s", c->tenant);
        struct go_rand rng;
        go_rand_seed(&rng, c->seed);
        for (int k = 0; k < 4; k++)
            cr_assert_eq(go_rand_u32(&rng), c->u32[k], "%s", c->tenant);
        int32_t got[5];
        cr_assert_eq(partition_shuffle_shard(r, slice_of(c->tenant), 5, got), 5);
        cr_assert_arr_eq(got, c->five, sizeof(got), "%s", c->tenant);
        cr_assert_eq(partition_shuffle_shard(r, slice_of(c->tenant), 3, got), 3);
        cr_assert_arr_eq(got, c->five, 3 * sizeof(got[0]), "%s", c->tenant);
    }
    partition_ring_free(r);
}

static int32_t only_member(int32_t n_partitions, const char *tenant)
{
    struct partition_ring *r = partition_ring_new_static(n_partitions);
    struct partition_ring *sub = partition_ring_tenant(r, slice_of(tenant), 1);
    cr_assert_eq(partition_ring_count(sub), 1);
    int32_t got = partition_ring_members(sub)[0];
    partition_ring_free(sub);
    partition_ring_free(r);
    return got;
}

Test(shuffle_shard, of_one_partition_is_the_one_a_live_mimir_chose)
{
    cr_assert_eq(only_member(3, "tenant-one"), 0);
    cr_assert_eq(only_member(5, "tenant-one"), 3);
}

Test(partition_ring, lookup_finds_the_owner)
{
    static const struct {
        int32_t n;
        uint32_t key;
        int32_t want;
    } cases[] = {{3, 3649973271, 2}, {10, 3649973271, 5}, {3, 1612714009, 1}, {10, 1612714009, 6}, {1, 7, 0}};
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        struct partition_ring *r = partition_ring_new_static(cases[i].n);
        cr_assert_eq(partition_ring_lookup(r, cases[i].key), cases[i].want, "case %zu", i);
        partition_ring_free(r);
    }
}

/* The owner by the rule itself: the smallest token strictly above the key, else the smallest of all. */
static int32_t slow_lookup(const int32_t *members, int32_t n, const uint32_t *all, uint32_t key)
{
    uint64_t best = UINT64_MAX;
    int32_t owner = -1;
    for (int32_t m = 0; m < n; m++) {
        for (size_t i = 0; i < PARTITION_TOKENS; i++) {
            uint64_t token = all[(size_t)members[m] * PARTITION_TOKENS + i];
            uint64_t rank = token > key ? token : token + (1ULL << 32);
            if (rank < best) {
                best = rank;
                owner = members[m];
            }
        }
    }
    return owner;
}

Test(partition_ring, lookup_equals_the_rule_on_whole_rings_and_shards)
{
    static uint32_t all[13 * PARTITION_TOKENS];
    partition_tokens_all(13, all);
    struct partition_ring *r = partition_ring_new_static(13);
    struct partition_ring *sub = partition_ring_tenant(r, SL("user-1"), 4);
    cr_assert_eq(partition_ring_count(sub), 4);
    struct partition_ring *rings[] = {r, sub};
    partition_ring_free(r); /* the shard does not need it */
    r = partition_ring_new_static(13);
    rings[0] = r;
    uint32_t key = 12345;
    for (int i = 0; i < 4000; i++) {
        key = key * 1664525U + 1013904223U;
        uint32_t keys[] = {key, all[(size_t)key % (13 * PARTITION_TOKENS)], 0, UINT32_MAX};
        for (size_t k = 0; k < (i ? 2u : 4u); k++)
            for (size_t j = 0; j < 2; j++)
                cr_assert_eq(partition_ring_lookup(rings[j], keys[k]),
                             slow_lookup(partition_ring_members(rings[j]), partition_ring_count(rings[j]), all, keys[k]));
    }
    partition_ring_free(sub);
    partition_ring_free(r);
}

Test(partition_ring, tenant_with_no_limit_shares_the_whole_ring)
{
    struct partition_ring *r = partition_ring_new_static(4);
    struct partition_ring *a = partition_ring_tenant(r, SL("t"), 0);
    struct partition_ring *b = partition_ring_tenant(r, SL("t"), 4);
    cr_assert(a == r && b == r);
    partition_ring_free(a);
    partition_ring_free(b);
    partition_ring_free(r);
}

Test(partition_ring, refuses_impossible_numbers_of_partitions)
{
    struct err err = ERR_NONE;
    cr_assert_null(partition_ring_new(0, &err));
    cr_assert_eq(err.code, ERR_CONFIG);
    cr_assert_null(partition_ring_new(PARTITIONS_MAX + 1, &err));
}
