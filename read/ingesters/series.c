/*
 * The series of a select, by labels, and what each partition still owes of them.
 *
 * A partition names its series first and gives their chunks afterwards. All partitions have named theirs before the first chunk is read, so it is known of each series
 * how many partitions will give chunks for it: nearly always one, and then the chunks pass through; else they are kept until the last has come.
 */
#include <string.h>

#include "read/ingesters/ingesters_int.h"

#define TABLE_MIN 256

/* --- the table ------------------------------------------------------------------------------------------------------------------- */

static size_t slot_of(const struct entry_table *t, uint64_t hash, struct labels labels)
{
    size_t at = hash & (t->cap - 1);
    while (t->slots[at] && !(t->slots[at]->hash == hash && labels_eq(t->slots[at]->labels, labels)))
        at = (at + 1) & (t->cap - 1);
    return at;
}

static bool table_grow(struct entry_table *t, struct arena *arena)
{
    struct entry_table bigger = *t;
    bigger.cap = t->cap ? t->cap * 2 : TABLE_MIN;
    bigger.slots = arena_zalloc(arena, bigger.cap * sizeof(*bigger.slots));
    if (!bigger.slots)
        return false;
    for (size_t i = 0; i < t->cap; i++) {
        struct entry *e = t->slots[i];
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

struct entry *entry_get(struct entry_table *t, struct arena *arena, struct labels labels, bool copy)
{
    if (t->n * 2 >= t->cap && !table_grow(t, arena))
        return NULL;
    uint64_t hash = labels_hash(labels);
    size_t at = slot_of(t, hash, labels);
    if (t->slots[at])
        return t->slots[at];
    struct entry *e = ARENA_NEW(arena, struct entry);
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

/* --- chunks that are kept ---------------------------------------------------------------------------------------------------------- */

static bool same_chunk(const struct series_chunk *a, const struct series_chunk *b)
{
    return a->min_t == b->min_t && a->max_t == b->max_t && a->encoding == b->encoding && slice_eq(a->data, b->data);
}

/* Merges by time; the kept ones come first among equals, as readers let the first win. */
static size_t merge_chunks(const struct entry *e, const struct series_chunk *chunks, size_t n, struct series_chunk *out)
{
    size_t i = 0, j = 0, k = 0;
    while (i < e->n_chunks || j < n) {
        bool kept = j == n || (i < e->n_chunks && e->chunks[i].min_t <= chunks[j].min_t);
        const struct series_chunk *c = kept ? &e->chunks[i++] : &chunks[j++];
        if (k && same_chunk(&out[k - 1], c))
            continue;
        out[k++] = *c;
    }
    return k;
}

bool entry_keep(struct entry *e, struct arena *arena, const struct series_chunk *chunks, size_t n, bool copy)
{
    if (!copy && e->n_chunks == 0) {
        e->chunks = chunks;
        e->n_chunks = n;
        return true;
    }
    struct series_chunk *all = ARENA_ARRAY(arena, struct series_chunk, e->n_chunks + n + 1);
    struct series_chunk *fresh = ARENA_ARRAY(arena, struct series_chunk, n + 1);
    if (!all || !fresh)
        return false;
    for (size_t i = 0; i < n; i++) {
        fresh[i] = chunks[i];
        if (copy)
            fresh[i].data = arena_dup(arena, chunks[i].data);
    }
    if (arena->overflow)
        return false;
    size_t n_all = merge_chunks(e, fresh, n, all);
    metric_add(METRIC_WITH(ingesters_metrics[INGESTERS_M_CHUNKS_DEDUPED], ENGINE_LABEL), (double)(e->n_chunks + n - n_all));
    e->chunks = all;
    e->n_chunks = n_all;
    return true;
}

/* --- listings ---------------------------------------------------------------------------------------------------------------------- */

bool listing_add(struct listing *l, struct arena *arena, struct listed item)
{
    if (l->n == l->cap) {
        size_t cap = l->cap ? l->cap * 2 : 64;
        struct listed *items = ARENA_ARRAY(arena, struct listed, cap);
        if (!items)
            return false;
        if (l->n)
            memcpy(items, l->items, l->n * sizeof(*items));
        l->items = items;
        l->cap = cap;
    }
    l->items[l->n++] = item;
    return true;
}

bool listing_is_unique(const struct listing *l, struct entry_table *t)
{
    t->mark++;
    for (size_t i = 0; i < l->n; i++) {
        if (l->items[i].entry->mark == t->mark)
            return false;
        l->items[i].entry->mark = t->mark;
    }
    return true;
}

void listing_settle(struct listing *l)
{
    for (size_t i = 0; i < l->n; i++)
        if (l->items[i].state != LISTED_SETTLED)
            l->items[i].entry->owed++;
}

/* One series of the new listing; marks say what the old one knew of it. */
static void take_over(struct listed *to, uint32_t settled, uint32_t open)
{
    struct entry *e = to->entry;
    if (e->mark == settled || (e->mark != open && e->given))
        to->state = LISTED_SETTLED;
    else if (e->mark == open)
        e->mark = 0; /* the debt goes from one to the other */
    else
        e->owed++;
}

void listing_replace(struct listing *from, struct listing *to, struct entry_table *t, struct entry **done, size_t *n_done)
{
    uint32_t settled = ++t->mark;
    uint32_t open = ++t->mark;
    for (size_t i = 0; i < from->n; i++)
        from->items[i].entry->mark = from->items[i].state == LISTED_SETTLED ? settled : open;
    for (size_t i = 0; i < to->n; i++)
        take_over(&to->items[i], settled, open);
    for (size_t i = 0; i < from->n; i++) {
        struct entry *e = from->items[i].entry;
        if (e->mark != open)
            continue;
        e->mark = 0;
        if (--e->owed == 0 && e->n_chunks)
            done[(*n_done)++] = e;
    }
}

struct listed *listing_next(struct listing *l)
{
    while (l->next < l->n && l->items[l->next].state == LISTED_SETTLED)
        l->next++;
    return l->next < l->n ? &l->items[l->next] : NULL;
}
