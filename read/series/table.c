/* Label sets by their hashes. */
#include <stdlib.h>
#include <string.h>

#include "read/series/series.h"

#define TABLE_MIN 256

static size_t slot_of(const struct labels_table *t, uint64_t hash, struct labels labels)
{
    size_t at = hash & (t->cap - 1);
    while (t->slots[at] && !(t->slots[at]->hash == hash && labels_eq(t->slots[at]->labels, labels)))
        at = (at + 1) & (t->cap - 1);
    return at;
}

static bool table_grow(struct labels_table *t, struct arena *arena)
{
    struct labels_table bigger = *t;
    bigger.cap = t->cap ? t->cap * 2 : TABLE_MIN;
    bigger.slots = arena_zalloc(arena, bigger.cap * sizeof(*bigger.slots));
    if (!bigger.slots)
        return false;
    for (size_t i = 0; i < t->cap; i++) {
        struct known_labels *e = t->slots[i];
        if (!e)
            continue;
        size_t at = e->hash & (bigger.cap - 1);
        while (bigger.slots[at])
            at = (at + 1) & (bigger.cap - 1);
        bigger.slots[at] = e;
    }
    *t = bigger;
    return true;
}

void *labels_table_get(struct labels_table *t, struct arena *arena, struct labels labels, bool copy)
{
    if (t->n * 2 >= t->cap && !table_grow(t, arena))
        return NULL;
    uint64_t hash = labels_hash(labels);
    size_t at = slot_of(t, hash, labels);
    if (t->slots[at])
        return t->slots[at];
    struct known_labels *e = arena_zalloc(arena, t->entry_bytes);
    if (!e)
        return NULL;
    e->hash = hash;
    e->labels = copy ? labels_dup(arena, labels) : labels;
    if (arena->overflow)
        return NULL;
    t->slots[at] = e;
    t->n++;
    return e;
}

void *labels_table_find(const struct labels_table *t, struct labels labels)
{
    return t->n ? t->slots[slot_of(t, labels_hash(labels), labels)] : NULL;
}
