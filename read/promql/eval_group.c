/*
 * Groups: a hash table from label sets, or from the labels that a by / without / on / ignoring clause keeps, to small numbers. The key of a
 * series is hashed straight from its labels; a label set is only built for the first series of a group.
 */
#include "read/promql/engine_int.h"

#include <string.h>

#include <xxhash.h>

static bool listed(const struct group_key *key, struct slice name)
{
    for (size_t i = 0; i < key->n; i++)
        if (slice_eq(key->names[i], name))
            return true;
    return false;
}

static bool in_key(const struct group_key *key, struct slice name)
{
    if (!key)
        return true;
    if (!key->exclude)
        return listed(key, name);
    return !listed(key, name) && !slice_eq(name, SL(METRIC_NAME_LABEL));
}

static uint64_t mix(uint64_t h, struct slice s)
{
    return XXH3_64bits_withSeed(s.n ? s.p : "", s.n, h);
}

static uint64_t key_hash(const struct group_key *key, struct labels l)
{
    uint64_t h = 0x9E3779B97F4A7C15ULL;
    for (size_t i = 0; i < l.n; i++)
        if (in_key(key, l.items[i].name))
            h = mix(mix(h, l.items[i].name), l.items[i].value);
    return h;
}

/* Are the labels of l that are in the key those of the group? */
static bool key_matches(const struct group_key *key, struct labels l, struct labels group)
{
    size_t j = 0;
    for (size_t i = 0; i < l.n; i++) {
        if (!in_key(key, l.items[i].name))
            continue;
        if (j == group.n || !slice_eq(l.items[i].name, group.items[j].name) || !slice_eq(l.items[i].value, group.items[j].value))
            return false;
        j++;
    }
    return j == group.n;
}

static bool grow_table(struct env *env, struct groups *gs)
{
    size_t size = gs->table_size ? gs->table_size * 2 : 64;
    uint32_t *t = ENV_ARRAY(env, uint32_t, size);
    if (!t)
        return false;
    for (size_t i = 0; i < gs->n; i++) {
        size_t k = gs->items[i].hash & (size - 1);
        while (t[k])
            k = (k + 1) & (size - 1);
        t[k] = (uint32_t)i + 1;
    }
    gs->table = t;
    gs->table_size = size;
    return true;
}

static bool add_group(struct env *env, struct groups *gs, const struct group_key *key, struct labels l, uint64_t hash)
{
    if (gs->n == gs->cap) {
        size_t cap = gs->cap ? gs->cap * 2 : 32;
        struct group *p = ENV_ARRAY(env, struct group, cap);
        if (!p)
            return false;
        if (gs->n)
            memcpy(p, gs->items, gs->n * sizeof(*p));
        gs->items = p;
        gs->cap = cap;
    }
    struct label *items = ENV_ARRAY(env, struct label, l.n);
    if (!items)
        return false;
    size_t n = 0;
    for (size_t i = 0; i < l.n; i++)
        if (in_key(key, l.items[i].name))
            items[n++] = l.items[i];
    gs->items[gs->n] = (struct group){.labels = {items, n}, .hash = hash, .index = (uint32_t)gs->n};
    gs->n++;
    return true;
}

/* The place in the table: of the group, or the free one where it belongs. */
static size_t probe(const struct groups *gs, const struct group_key *key, struct labels l, uint64_t hash)
{
    size_t mask = gs->table_size - 1;
    size_t k = hash & mask;
    while (gs->table[k]) {
        const struct group *g = &gs->items[gs->table[k] - 1];
        if (g->hash == hash && key_matches(key, l, g->labels))
            break;
        k = (k + 1) & mask;
    }
    return k;
}

bool groups_get(struct env *env, struct groups *gs, const struct group_key *key, struct labels l, uint32_t *ret_index, bool *ret_new)
{
    if ((gs->n + 1) * 2 > gs->table_size && !grow_table(env, gs))
        return false;
    uint64_t hash = key_hash(key, l);
    size_t k = probe(gs, key, l, hash);
    *ret_new = gs->table[k] == 0;
    if (*ret_new) {
        if (!add_group(env, gs, key, l, hash))
            return false;
        gs->table[k] = (uint32_t)gs->n;
    }
    *ret_index = gs->table[k] - 1;
    return true;
}

bool groups_get_labels(struct env *env, struct groups *gs, struct labels l, uint32_t *ret_index, bool *ret_new)
{
    return groups_get(env, gs, NULL, l, ret_index, ret_new);
}

int64_t groups_find(const struct groups *gs, const struct group_key *key, struct labels l)
{
    if (gs->n == 0)
        return -1;
    size_t k = probe(gs, key, l, key_hash(key, l));
    return (int64_t)gs->table[k] - 1;
}
