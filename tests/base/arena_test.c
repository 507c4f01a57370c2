#include "base/arena.h"

#include <criterion/criterion.h>

Test(arena, an_array_of_nothing_is_no_failure)
{
    struct arena a;
    arena_init(&a, 0);
    cr_assert_not_null(ARENA_ARRAY(&a, int, 0));
    cr_assert_not(a.overflow);
    arena_release(&a);
}

Test(arena, rounds_of_one_size_come_to_need_one_block)
{
    struct arena a;
    arena_init(&a, 0);
    char *first[4];
    for (int round = 0; round < 4; round++) {
        arena_rewind(&a);
        cr_expect(!a.overflow);
        first[round] = arena_alloc(&a, 100);
        for (int i = 0; i < 500; i++)
            cr_assert(arena_alloc(&a, 100));
    }
    cr_expect_eq(first[2], first[3], "nothing is allocated any more");
    cr_expect_lt(a.used_bytes, (size_t)150000);
    arena_release(&a);
    cr_expect_eq(a.used_bytes, 0);
}
