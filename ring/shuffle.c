/*
 * Shuffle sharding of an instance ring (docs/formats.md 3.6): which instances are a tenant's.
 *
 * Each zone (or the ring as a whole, when it does not know of zones) is walked by itself: a generator that is seeded with tenant and zone gives a place, and
 * the first instance from there on that is not chosen yet is. So the shard hardly changes when others come and go. With a lookback the walk goes on past instances
 * that are new or read-only, to the one that had their part before.
 *
 * Cost: a copy of the zone's tokens, a step of the generator and a walk for each instance chosen, and copies of these. Callers keep the result for as
 * long as they use the snapshot.
 */
#include <stdlib.h>
#include <string.h>

#include "base/assert.h"
#include "ring/desc_int.h"
#include "ring/go_rand.h"
#include "ring/snapshot_int.h"

struct shuffle {
    const struct ring_snapshot *from;
    struct slice tenant;
    int64_t lookback_until_s; /* 0: no lookback */
    bool *chosen;             /* of each instance */
    struct owned_token *tokens; /* of the zone that is walked */
    size_t n_tokens;
};

/* Takes in nothing new, so it has nothing that a reader without a lookback asks for, or became so before the lookback. */
static bool is_excluded(const struct shuffle *sh, const struct ring_instance *in)
{
    if (!in->read_only)
        return false;
    return sh->lookback_until_s == 0 || (in->read_only_updated_s > 0 && in->read_only_updated_s < sh->lookback_until_s);
}

/* Within the lookback somebody else had its part. */
static bool is_recent(const struct shuffle *sh, const struct ring_instance *in)
{
    return sh->lookback_until_s > 0 && (in->registered_s >= sh->lookback_until_s || in->read_only ||
                                        in->read_only_updated_s >= sh->lookback_until_s);
}

/* One of the shard's instances, and those that stand beside it because they are recent. False: there is nobody left. */
static bool choose_one(struct shuffle *sh, uint32_t key)
{
    size_t at = ring_search_token(sh->tokens, sh->n_tokens, key);
    for (size_t i = 0; i < sh->n_tokens; i++) {
        uint32_t who = sh->tokens[at].instance;
        const struct ring_instance *in = &sh->from->desc->instances[who];
        at = at + 1 < sh->n_tokens ? at + 1 : 0;
        if (sh->chosen[who] || is_excluded(sh, in))
            continue;
        sh->chosen[who] = true;
        if (!is_recent(sh, in))
            return true;
    }
    return false;
}

/* zone NULL: the whole ring. Returns how many instances there are in it. */
static size_t take_zone(struct shuffle *sh, const char *zone)
{
    const struct ring_desc *d = sh->from->desc;
    size_t n = 0;
    sh->n_tokens = 0;
    for (size_t i = 0; i < sh->from->n_tokens; i++)
        if (!zone || strcmp(d->instances[sh->from->tokens[i].instance].zone, zone) == 0)
            sh->tokens[sh->n_tokens++] = sh->from->tokens[i];
    for (size_t i = 0; i < d->n; i++)
        n += !zone || strcmp(d->instances[i].zone, zone) == 0;
    return n;
}

static void choose_all(struct shuffle *sh, const char *zone)
{
    const struct ring_desc *d = sh->from->desc;
    for (size_t i = 0; i < d->n; i++)
        if (!zone || strcmp(d->instances[i].zone, zone) == 0)
            sh->chosen[i] = !is_excluded(sh, &d->instances[i]);
}

static void choose_in_zone(struct shuffle *sh, const char *zone, size_t size)
{
    if (size == 0 || size >= take_zone(sh, zone)) {
        choose_all(sh, zone);
        return;
    }
    struct go_rand rng;
    go_rand_seed(&rng, shuffle_seed(sh->tenant, slice_of(zone)));
    for (size_t i = 0; i < size && choose_one(sh, go_rand_u32(&rng)); i++)
        ;
}

/* The zone of the first instance of each number is the number's. */
static void choose_in_each_zone(struct shuffle *sh, size_t size)
{
    const struct ring_snapshot *s = sh->from;
    size_t share = size / s->n_zones + (size % s->n_zones != 0);
    uint32_t next = 0;
    for (size_t i = 0; i < s->desc->n; i++)
        if (s->zones[i] == next) {
            next++;
            choose_in_zone(sh, s->desc->instances[i].zone, share);
        }
}

/* Everyone came within the lookback: whoever had a part before is not there any more, so anyone may have it. */
static bool is_all_recent(const struct shuffle *sh)
{
    const struct ring_desc *d = sh->from->desc;
    int64_t oldest_s = INT64_MAX;
    for (size_t i = 0; i < d->n; i++)
        oldest_s = MIN(oldest_s, d->instances[i].registered_s);
    return sh->lookback_until_s > 0 && d->n > 0 && oldest_s > 0 && oldest_s >= sh->lookback_until_s;
}

static struct ring_snapshot *copy_chosen(const struct shuffle *sh)
{
    const struct ring_desc *d = sh->from->desc;
    struct ring_desc *part = ring_desc_new();
    size_t n = 0;
    for (size_t i = 0; i < d->n; i++)
        n += sh->chosen[i];
    ring_desc_reserve(part, n);
    for (size_t i = 0; i < d->n; i++)
        if (sh->chosen[i])
            ring_instance_copy(ring_desc_add(part, slice_of(d->instances[i].id)), &d->instances[i]);
    return ring_snapshot_new(part, &sh->from->config);
}

static struct ring_snapshot *shuffle(struct ring_snapshot *s, struct slice tenant, size_t size, int64_t lookback_until_s)
{
    struct shuffle sh = {.from = s, .tenant = tenant, .lookback_until_s = lookback_until_s};
    if (is_all_recent(&sh))
        return ring_snapshot_ref(s);
    sh.chosen = calloc(s->desc->n + 1, sizeof(*sh.chosen));
    sh.tokens = malloc((s->n_tokens + 1) * sizeof(*sh.tokens));
    ASSERT(sh.chosen && sh.tokens);
    if (s->config.zone_awareness && size > 0 && s->n_zones > 0)
        choose_in_each_zone(&sh, size);
    else
        choose_in_zone(&sh, NULL, size);
    struct ring_snapshot *part = copy_chosen(&sh);
    free(sh.chosen);
    free(sh.tokens);
    return part;
}

struct ring_snapshot *ring_snapshot_shuffle(struct ring_snapshot *s, struct slice tenant, size_t size)
{
    return shuffle(s, tenant, size, 0);
}

struct ring_snapshot *ring_snapshot_shuffle_lookback(struct ring_snapshot *s, struct slice tenant, size_t size, int64_t lookback_ms,
                                                     int64_t now_ms)
{
    ASSERT(lookback_ms > 0);
    return shuffle(s, tenant, size, MAX((now_ms - lookback_ms) / 1000, 1));
}
