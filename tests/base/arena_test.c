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
