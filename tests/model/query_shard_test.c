#include <criterion/criterion.h>
#include <stdlib.h>
#include <string.h>

#include "model/query_shard.h"

Test(query_shard, is_read_from_its_text)
{
    struct query_shard s;
    cr_expect(query_shard_parse(SL("2_of_16"), &s) && s.index == 1 && s.count == 16);
    cr_expect(query_shard_parse(SL("1_of_1"), &s) && s.index == 0 && s.count == 1);
    const char *const bad[] = {"", "0_of_2", "3_of_2", "1_of_", "_of_2", "1of2", "1_of_2x", "-1_of_2", "1_of_4294967296", "1_OF_2"};
    for (size_t i = 0; i < sizeof(bad) / sizeof(*bad); i++)
        cr_expect(!query_shard_parse(slice_of(bad[i]), &s), "%s", bad[i]);
}

/* XXH64, seed 0, of "__name__\xffup\xffjob\xffa\xff". */
Test(query_shard, hash_is_xxh64_of_all_texts)
{
    struct label items[] = {{SL("__name__"), SL("up")}, {SL("job"), SL("a")}};
    cr_expect_eq(query_shard_hash((struct labels){items, 2}), UINT64_C(0x55F2B049CE4A394F));
}

/* The same whether the bytes fit the buffer or not: a long value that is cut by nothing but the buffer's end. */
Test(query_shard, hash_of_long_labels_goes_on_where_the_buffer_ends)
{
    char *value = malloc(5000);
    uint64_t seen[3];
    size_t n[] = {1000, 1020, 5000};
    memset(value, 'v', 5000);
    for (size_t i = 0; i < 3; i++) {
        struct label items[] = {{SL("a"), slice_make(value, n[i])}, {SL("b"), SL("c")}};
        seen[i] = query_shard_hash((struct labels){items, 2});
    }
    cr_expect_eq(seen[0], UINT64_C(0x9F7745685C0A06B7));
    cr_expect_eq(seen[1], UINT64_C(0x1905B6D28A3804BB));
    cr_expect_eq(seen[2], UINT64_C(0x6A702D91344AE252));
    free(value);
}
