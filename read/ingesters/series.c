/*
 * The series of a select, by labels, and what each partition still owes of them.
 *
 * A partition names its series first and gives their chunks afterwards. All partitions have named theirs before the first chunk is read, so it is known of each series
 * how many partitions will give chunks for it: nearly always one, and then the chunks pass through; else they are kept until the last has come.
 */
#include <string.h>

#include "read/ingesters/ingesters_int.h"

/* --- chunks that are kept ---------------------------------------------------------------------------------------------------------- */

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
    /* The kept ones come first, as readers let the first win. */
    size_t n_all = chunks_merge(e->chunks, e->n_chunks, fresh, n, all);
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

bool listing_is_sorted(struct listing *l)
{
    if (l->sorted < l->next + 1)
        l->sorted = l->next + 1;
    while (l->sorted < l->n && labels_cmp(l->items[l->sorted - 1].entry->known.labels, l->items[l->sorted].entry->known.labels) < 0)
        l->sorted++;
    return l->sorted >= l->n;
}

struct listed *listing_next(struct listing *l)
{
    while (l->next < l->n && l->items[l->next].state == LISTED_SETTLED)
        l->next++;
    return l->next < l->n ? &l->items[l->next] : NULL;
}
