/*
 * Spread-minimising tokens (docs/formats.md 3.2): partition n gets its 512 tokens by cutting pieces off the largest ranges of the partitions below
 * it, so that ownership stays as even as 512 tokens allow, and adding a partition moves no token of another.
 *
 * A simulation from partition 0 upwards. State: for each partition a max-heap of its tokens by the size of the range they own, and
 * one max-heap of partitions by ownership. All comparisons and roundings are those of the rule, for a token is a number that other
 * programs compute too: any deviation would send series to partitions that nobody else expects.
 */
#include <stdlib.h>

#include "base/assert.h"
#include "partition-ring/partition_ring_int.h"

#define RING_SIZE 4294967296.0
#define LAST_MULTIPLE 4294967288U /* the highest token there is: tokens are multiples of 8 */

/* A token and the one before it on the ring; it owns what lies between. */
struct token_range {
    uint32_t token;
    uint32_t prev;
};

struct instance {
    int32_t id;
    double ownership; /* whole numbers below 2^53: exact */
    struct token_range ranges[PARTITION_TOKENS]; /* max-heap */
};

static uint32_t range_size(struct token_range t)
{
    return t.token - t.prev;
}

/* Ties go to the higher token. */
static bool range_above(struct token_range a, struct token_range b)
{
    uint32_t sa = range_size(a), sb = range_size(b);
    return sa != sb ? sa > sb : a.token > b.token;
}

/* Ties go to the higher id. */
static bool instance_above(const struct instance *a, const struct instance *b)
{
    return a->ownership != b->ownership ? a->ownership > b->ownership : a->id > b->id;
}

static void ranges_sift_down(struct token_range *h, size_t n, size_t i)
{
    struct token_range moving = h[i];
    for (size_t child; (child = 2 * i + 1) < n; i = child) {
        if (child + 1 < n && range_above(h[child + 1], h[child]))
            child++;
        if (!range_above(h[child], moving))
            break;
        h[i] = h[child];
    }
    h[i] = moving;
}

static void instances_sift_down(struct instance **h, size_t n, size_t i)
{
    struct instance *moving = h[i];
    for (size_t child; (child = 2 * i + 1) < n; i = child) {
        if (child + 1 < n && instance_above(h[child + 1], h[child]))
            child++;
        if (!instance_above(h[child], moving))
            break;
        h[i] = h[child];
    }
    h[i] = moving;
}

static void instances_push(struct instance **h, size_t *n, struct instance *x)
{
    size_t i = (*n)++;
    for (size_t parent; i > 0 && instance_above(x, h[parent = (i - 1) / 2]); i = parent)
        h[i] = h[parent];
    h[i] = x;
}

static void first_instance(struct instance *in)
{
    const uint32_t step = (uint32_t)(RING_SIZE / PARTITION_TOKENS);
    in->id = 0;
    in->ownership = RING_SIZE;
    for (uint32_t i = 0; i < PARTITION_TOKENS; i++) {
        uint32_t token = (PARTITION_TOKENS - 1 - i) * step; /* equal sizes: falling tokens are a heap */
        in->ranges[i] = (struct token_range){token, token - step};
    }
}

/* Cuts `want` off the start of the range; returns the new token's range. */
static struct token_range range_cut(struct token_range *t, uint32_t want)
{
    uint32_t room = LAST_MULTIPLE - t->prev;
    uint32_t token = room < want ? want - room : t->prev + want;
    struct token_range cut = {token, t->prev};
    t->prev = token;
    return cut;
}

/*
 * The tokens of instance n out of the heap of all below it. `aside` takes, for the rest of this round, those whose largest range is
 * too small to be cut.
 */
static void next_instance(struct instance *in, int32_t id, struct instance **heap, size_t *n_heap, struct instance **aside)
{
    const double optimal = RING_SIZE / (double)(id + 1);
    size_t n_aside = 0;
    in->id = id;
    in->ownership = 0;
    for (uint32_t added = 0; added < PARTITION_TOKENS;) {
        uint32_t want = (uint32_t)(optimal - in->ownership) / (PARTITION_TOKENS - added) / 8 * 8;
        ASSERT(*n_heap > 0);
        struct instance *donor = heap[0];
        ASSERT(donor->ownership > want);
        if (range_size(donor->ranges[0]) <= want) {
            aside[n_aside++] = donor;
            heap[0] = heap[--*n_heap];
            if (*n_heap)
                instances_sift_down(heap, *n_heap, 0);
            continue;
        }
        struct token_range cut = range_cut(&donor->ranges[0], want);
        double taken = range_size(cut);
        in->ranges[added++] = cut;
        in->ownership += taken;
        donor->ownership -= taken;
        ranges_sift_down(donor->ranges, PARTITION_TOKENS, 0);
        instances_sift_down(heap, *n_heap, 0);
    }
    while (n_aside)
        instances_push(heap, n_heap, aside[--n_aside]);
    for (size_t i = PARTITION_TOKENS / 2; i-- > 0;)
        ranges_sift_down(in->ranges, PARTITION_TOKENS, i);
    instances_push(heap, n_heap, in);
}

static int compare_u32(const void *a, const void *b)
{
    uint32_t x = *(const uint32_t *)a, y = *(const uint32_t *)b;
    return (x > y) - (x < y);
}

static void sorted_tokens(const struct instance *in, uint32_t ret[PARTITION_TOKENS])
{
    for (size_t i = 0; i < PARTITION_TOKENS; i++)
        ret[i] = in->ranges[i].token;
    qsort(ret, PARTITION_TOKENS, sizeof(*ret), compare_u32);
}

/* Calls for partitions from..n-1; ret holds (n - from) times 512 tokens. */
static void simulate(int32_t n, int32_t from, uint32_t *ret)
{
    size_t count = (size_t)n;
    struct instance *all = malloc(count * sizeof(*all));
    struct instance **heap = malloc(2 * count * sizeof(struct instance *));
    ASSERT(all && heap); /* 4 KiB a partition, at start only */
    struct instance **aside = heap + count;
    size_t n_heap = 0;
    first_instance(&all[0]);
    instances_push(heap, &n_heap, &all[0]);
    for (int32_t id = 1; id < n; id++)
        next_instance(&all[id], id, heap, &n_heap, aside);
    for (int32_t id = from; id < n; id++)
        sorted_tokens(&all[id], ret + (size_t)(id - from) * PARTITION_TOKENS);
    free(heap);
    free(all);
}

void partition_tokens_all(int32_t n, uint32_t *ret)
{
    ASSERT(n > 0 && n <= PARTITIONS_MAX);
    simulate(n, 0, ret);
}

void partition_tokens(int32_t partition, uint32_t ret[PARTITION_TOKENS])
{
    ASSERT(partition >= 0 && partition < PARTITIONS_MAX);
    simulate(partition + 1, partition, ret);
}
