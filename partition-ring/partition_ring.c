/*
 * The ring itself: tokens in order, an index over their top bits, and the tenants' shuffle shards.
 *
 * Layout: tokens[] ascending, owners[] beside it. The index has a power of two of buckets, about one a token: bucket b holds the position of the
 * first token >= b << shift, so a lookup is one load and a step or two, not a binary search whose branches are all misses. A sub-ring is a
 * ring of its own with fewer tokens: 8 bytes a token, 4 KiB a partition of the shard.
 */
#include "partition-ring/partition_ring.h"

#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

#include "base/assert.h"
#include "ring/go_rand.h"
#include "partition-ring/partition_desc.h"
#include "partition-ring/partition_ring_int.h"

struct ring_token {
    uint32_t token;
    int32_t owner;
};

struct partition_ring {
    _Atomic int refs;
    int32_t n;
    int32_t *members; /* owned; ascending */
    size_t n_tokens;
    struct ring_token *tokens; /* owned */
    uint32_t *index;           /* owned; 2^(32 - shift) + 1 entries */
    uint32_t shift;
};

static int compare_tokens(const void *a, const void *b)
{
    const struct ring_token *x = a, *y = b;
    if (x->token != y->token)
        return x->token < y->token ? -1 : 1;
    return (x->owner > y->owner) - (x->owner < y->owner);
}

static void build_index(struct partition_ring *r)
{
    uint32_t bits = 1;
    while (((size_t)1 << bits) < r->n_tokens)
        bits++;
    r->shift = 32 - bits;
    size_t n = (size_t)1 << bits;
    r->index = malloc(n * sizeof(*r->index));
    ASSERT(r->index);
    uint32_t at = 0;
    for (size_t b = 0; b < n; b++) {
        while (at < r->n_tokens && r->tokens[at].token < (uint32_t)b << r->shift)
            at++;
        r->index[b] = at;
    }
}

static struct partition_ring *ring_alloc(int32_t n, size_t n_tokens)
{
    struct partition_ring *r = calloc(1, sizeof(*r));
    ASSERT(r);
    atomic_init(&r->refs, 1);
    r->n = n;
    r->n_tokens = n_tokens;
    r->members = malloc(((size_t)n + 1) * sizeof(*r->members)); /* + 1: there may be none */
    r->tokens = malloc((n_tokens + 1) * sizeof(*r->tokens));
    ASSERT(r->members && r->tokens);
    return r;
}

struct partition_ring *partition_ring_new_static(int32_t n_partitions)
{
    ASSERT(n_partitions > 0 && n_partitions <= PARTITIONS_MAX);
    size_t n_tokens = (size_t)n_partitions * PARTITION_TOKENS;
    struct partition_ring *r = ring_alloc(n_partitions, n_tokens);
    uint32_t *all = malloc(n_tokens * sizeof(*all));
    ASSERT(all);
    partition_tokens_all(n_partitions, all);
    for (int32_t p = 0; p < n_partitions; p++)
        r->members[p] = p;
    for (size_t i = 0; i < n_tokens; i++)
        r->tokens[i] = (struct ring_token){all[i], (int32_t)(i / PARTITION_TOKENS)};
    free(all);
    qsort(r->tokens, n_tokens, sizeof(*r->tokens), compare_tokens);
    build_index(r);
    return r;
}

static bool is_written(const struct partition *p)
{
    return p->state == PARTITION_ACTIVE && p->n_tokens;
}

struct partition_ring *partition_ring_new_active(const struct partition_desc *d)
{
    int32_t n = 0;
    size_t n_tokens = 0;
    for (size_t i = 0; i < d->n_partitions; i++) {
        n += is_written(&d->partitions[i]);
        n_tokens += is_written(&d->partitions[i]) ? d->partitions[i].n_tokens : 0;
    }
    struct partition_ring *r = ring_alloc(n, n_tokens);
    size_t member = 0, at = 0;
    for (size_t i = 0; i < d->n_partitions; i++) {
        const struct partition *p = &d->partitions[i];
        if (!is_written(p))
            continue;
        r->members[member++] = p->id;
        for (size_t t = 0; t < p->n_tokens; t++)
            r->tokens[at++] = (struct ring_token){p->tokens[t], p->id};
    }
    qsort(r->tokens, n_tokens, sizeof(*r->tokens), compare_tokens);
    build_index(r);
    return r;
}

struct partition_ring *partition_ring_new(int32_t n_partitions, struct err *err)
{
    if (n_partitions < 1 || n_partitions > PARTITIONS_MAX) {
        err_set(err, ERR_CONFIG, "the number of partitions must be between 1 and %d, not %d", PARTITIONS_MAX, n_partitions);
        return NULL;
    }
    return partition_ring_new_static(n_partitions);
}

struct partition_ring *partition_ring_ref(struct partition_ring *r)
{
    atomic_fetch_add_explicit(&r->refs, 1, memory_order_relaxed);
    return r;
}

void partition_ring_free(struct partition_ring *r)
{
    if (!r || atomic_fetch_sub_explicit(&r->refs, 1, memory_order_acq_rel) != 1)
        return;
    free(r->members);
    free(r->tokens);
    free(r->index);
    free(r);
}

int32_t partition_ring_count(const struct partition_ring *r)
{
    return r->n;
}

const int32_t *partition_ring_members(const struct partition_ring *r)
{
    return r->members;
}

/* Index of the first token strictly greater than the key; the first one when there is none. */
static size_t ring_search(const struct partition_ring *r, uint32_t key)
{
    size_t i = r->index[key >> r->shift];
    while (i < r->n_tokens && r->tokens[i].token <= key)
        i++;
    return i < r->n_tokens ? i : 0;
}

int32_t partition_ring_lookup(const struct partition_ring *r, uint32_t token)
{
    if (r->n <= 1)
        return r->n ? r->members[0] : -1;
    return r->tokens[ring_search(r, token)].owner;
}

int64_t partition_shuffle_seed(struct slice tenant)
{
    return shuffle_seed(tenant, SL(""));
}

int32_t partition_shuffle_shard(const struct partition_ring *r, struct slice tenant, int32_t size, int32_t *ret)
{
    ASSERT(size > 0 && size <= r->n);
    struct go_rand rng;
    go_rand_seed(&rng, partition_shuffle_seed(tenant));
    bool *chosen = calloc((size_t)PARTITIONS_MAX, sizeof(*chosen));
    ASSERT(chosen);
    int32_t n = 0;
    while (n < size) {
        size_t at = ring_search(r, go_rand_u32(&rng));
        /* Every partition here is ACTIVE and some are not chosen yet, so the walk ends. */
        while (chosen[r->tokens[at].owner])
            at = at + 1 < r->n_tokens ? at + 1 : 0;
        chosen[r->tokens[at].owner] = true;
        ret[n++] = r->tokens[at].owner;
    }
    free(chosen);
    return n;
}

static int compare_i32(const void *a, const void *b)
{
    int32_t x = *(const int32_t *)a, y = *(const int32_t *)b;
    return (x > y) - (x < y);
}

struct partition_ring *partition_ring_tenant(struct partition_ring *r, struct slice tenant, int64_t shard_size)
{
    if (shard_size <= 0 || shard_size >= r->n)
        return partition_ring_ref(r);
    int32_t n = (int32_t)shard_size;
    int32_t *members = malloc((size_t)n * sizeof(*members));
    ASSERT(members);
    partition_shuffle_shard(r, tenant, n, members);
    qsort(members, (size_t)n, sizeof(*members), compare_i32);
    /* 512 each, but for partitions that another program gave fewer or more. */
    size_t n_tokens = 0, at = 0;
    for (size_t i = 0; i < r->n_tokens; i++)
        n_tokens += bsearch(&r->tokens[i].owner, members, (size_t)n, sizeof(*members), compare_i32) != NULL;
    struct partition_ring *sub = ring_alloc(n, n_tokens);
    memcpy(sub->members, members, (size_t)n * sizeof(*members));
    for (size_t i = 0; i < r->n_tokens; i++)
        if (bsearch(&r->tokens[i].owner, members, (size_t)n, sizeof(*members), compare_i32))
            sub->tokens[at++] = r->tokens[i];
    free(members);
    build_index(sub);
    return sub;
}
