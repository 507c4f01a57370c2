/*
 * Merging instance rings (docs/formats.md 4.2).
 *
 * Each instance is a register of its own that the newest heartbeat wins; at the same second LEFT wins over everything else. Only tokens concern
 * two instances at once: when two claim one, the same one must give in on every node, whatever the order in which they heard of it.
 */
#include <stdlib.h>
#include <string.h>

#include "base/assert.h"
#include "ring/codec.h"
#include "ring/desc_int.h"

/* The ids of instances that were changed; they point into the local document. */
struct updates {
    const char **ids;
    size_t n;
};

static bool incoming_wins(const struct ring_instance *local, const struct ring_instance *in)
{
    int64_t local_time = local ? local->timestamp_s : 0;
    bool local_left = local && local->state == RING_LEFT;
    return in->timestamp_s > local_time || (in->timestamp_s == local_time && in->state == RING_LEFT && !local_left);
}

static bool tokens_eq(const struct ring_instance *a, const struct ring_instance *b)
{
    return a->n_tokens == b->n_tokens && (!a->n_tokens || memcmp(a->tokens, b->tokens, a->n_tokens * sizeof(*a->tokens)) == 0);
}

static void drop_tokens(struct ring_instance *in)
{
    free(in->tokens);
    in->tokens = NULL;
    in->n_tokens = 0;
}

/* Returns true when tokens of living instances changed. */
static bool take_incoming(struct ring_desc *local, const struct ring_desc *incoming, struct updates *u)
{
    bool tokens_changed = false;
    for (size_t i = 0; i < incoming->n; i++) {
        const struct ring_instance *in = &incoming->instances[i];
        struct ring_instance *mine = ring_desc_find(local, slice_of(in->id));
        if (!incoming_wins(mine, in))
            continue;
        mine = mine ? mine : ring_desc_add(local, slice_of(in->id));
        if (in->state != RING_LEFT && !tokens_eq(mine, in))
            tokens_changed = true;
        ring_instance_copy(mine, in);
        if (mine->state == RING_LEFT)
            drop_tokens(mine);
        u->ids[u->n++] = mine->id;
    }
    return tokens_changed;
}

/* What the wanted state lacks was removed on purpose. */
static void bury_missing(struct ring_desc *local, const struct ring_desc *wanted, int64_t now_s, struct updates *u)
{
    for (size_t i = 0; i < local->n; i++) {
        struct ring_instance *mine = &local->instances[i];
        if (mine->state == RING_LEFT || ring_desc_find(wanted, slice_of(mine->id)))
            continue;
        mine->state = RING_LEFT;
        mine->timestamp_s = now_s;
        drop_tokens(mine);
        u->ids[u->n++] = mine->id;
    }
}

struct claim {
    uint32_t token;
    bool leaving;
    size_t instance; /* position: the order of ids */
};

/* The better claim first: who stays before who leaves, then the smaller id. */
static int compare_claims(const void *a, const void *b)
{
    const struct claim *x = a, *y = b;
    if (x->token != y->token)
        return x->token < y->token ? -1 : 1;
    if (x->leaving != y->leaving)
        return x->leaving ? 1 : -1;
    return (x->instance > y->instance) - (x->instance < y->instance);
}

static void drop_token(struct ring_instance *in, uint32_t token)
{
    uint32_t *at = bsearch(&token, in->tokens, in->n_tokens, sizeof(token), ring_compare_u32);
    ASSERT(at);
    in->n_tokens--;
    memmove(at, at + 1, (in->n_tokens - (size_t)(at - in->tokens)) * sizeof(*at));
}

static void resolve_conflicts(struct ring_desc *d)
{
    size_t n = 0;
    for (size_t i = 0; i < d->n; i++)
        n += d->instances[i].n_tokens;
    if (n == 0)
        return;
    struct claim *claims = malloc(n * sizeof(*claims));
    ASSERT(claims);
    n = 0;
    for (size_t i = 0; i < d->n; i++) {
        const struct ring_instance *in = &d->instances[i];
        if (in->state == RING_LEFT)
            continue;
        for (size_t t = 0; t < in->n_tokens; t++)
            claims[n++] = (struct claim){in->tokens[t], in->state == RING_LEAVING, i};
    }
    qsort(claims, n, sizeof(*claims), compare_claims);
    for (size_t i = 1; i < n; i++)
        if (claims[i].token == claims[i - 1].token)
            drop_token(&d->instances[claims[i].instance], claims[i].token);
    free(claims);
}

struct ring_desc *ring_desc_merge(struct ring_desc *local, const struct ring_desc *incoming, bool local_cas, int64_t now_s)
{
    size_t most = local->n + incoming->n;
    if (most == 0)
        return NULL;
    struct updates u = {.ids = malloc(most * sizeof(*u.ids))};
    ASSERT(u.ids);
    if (take_incoming(local, incoming, &u))
        resolve_conflicts(local);
    if (local_cas)
        bury_missing(local, incoming, now_s, &u);
    struct ring_desc *change = u.n ? ring_desc_new() : NULL;
    for (size_t i = 0; i < u.n; i++)
        ring_instance_copy(ring_desc_add(change, slice_of(u.ids[i])), ring_desc_find(local, slice_of(u.ids[i])));
    free(u.ids);
    return change;
}

void ring_desc_remove_tombstones(struct ring_desc *d, int64_t limit_s, size_t *ret_removed, size_t *ret_left)
{
    size_t removed = 0, left = 0;
    for (size_t i = d->n; i-- > 0;) {
        struct ring_instance *in = &d->instances[i];
        if (in->state != RING_LEFT)
            continue;
        if (limit_s != INT64_MAX && in->timestamp_s >= limit_s) {
            left++;
            continue;
        }
        ring_desc_remove(d, in);
        removed++;
    }
    if (ret_removed)
        *ret_removed = removed;
    if (ret_left)
        *ret_left = left;
}

static void codec_content(const void *value, kv_name_fn *fn, void *arg)
{
    const struct ring_desc *d = value;
    for (size_t i = 0; i < d->n; i++)
        fn(arg, slice_of(d->instances[i].id));
}

static bool codec_is_empty(const void *value)
{
    return ((const struct ring_desc *)value)->n == 0;
}

KV_CODEC_FUNCTIONS(struct ring_desc, ring_desc)

const struct kv_codec ring_desc_codec = KV_CODEC("ringDesc", codec_content, codec_is_empty);
