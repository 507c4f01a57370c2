/* Slabs give back the memory of what is free, and keep what is used. */
#include <criterion/criterion.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include "ingest/slab_int.h"

#define BLOCKS 10000
#define BLOCK_BYTES 200

/* Pages of the region that have memory. */
static size_t pages_there(const struct slabs *s)
{
    size_t n = s->mem.n / SLAB_PAGE, there = 0;
    unsigned char *in = malloc(n);
    cr_assert_not_null(in);
    cr_assert_eq(mincore(s->mem.p, s->mem.n, in), 0);
    for (size_t i = 0; i < n; i++)
        there += in[i] & 1;
    free(in);
    return there;
}

static void fill(struct slabs *s, uint32_t *handles)
{
    for (int i = 0; i < BLOCKS; i++) {
        handles[i] = slab_alloc(s, BLOCK_BYTES);
        memset(slab_ptr(s, handles[i]), i % 251, BLOCK_BYTES);
    }
}

static void check_block(const struct slabs *s, uint32_t handle, int i)
{
    const unsigned char *p = slab_ptr(s, handle);
    for (int at = 0; at < BLOCK_BYTES; at++)
        cr_assert_eq(p[at], i % 251);
}

Test(slab, memory_of_free_runs_goes_back_and_the_rest_stays)
{
    struct slabs s = {0};
    uint32_t handles[BLOCKS];
    fill(&s, handles);
    size_t full = pages_there(&s);
    for (int i = 0; i < BLOCKS; i++)
        if (i % 1000)
            slab_free(&s, handles[i]);
    cr_assert_eq(pages_there(&s), full);
    slabs_give_back(&s);
    cr_assert_lt(pages_there(&s), full / 10);
    for (int i = 0; i < BLOCKS; i += 1000)
        check_block(&s, handles[i], i);
    cr_assert(slabs_verify(&s));
    slabs_release(&s);
}

Test(slab, what_was_given_back_is_used_again_and_given_back_again)
{
    struct slabs s = {0};
    uint32_t handles[BLOCKS];
    for (int round = 0; round < 3; round++) {
        fill(&s, handles);
        size_t full = pages_there(&s);
        for (int i = 0; i < BLOCKS; i++)
            check_block(&s, handles[i], i);
        for (int i = 0; i < BLOCKS; i++)
            slab_free(&s, handles[i]);
        slabs_give_back(&s);
        cr_assert_lt(pages_there(&s), full / 10, "round %d", round);
        slabs_give_back(&s);
        cr_assert(slabs_verify(&s));
    }
    slabs_release(&s);
}
