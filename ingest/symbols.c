/* Symbols of a shard: interned label names and values, with their postings. Layout: shard_int.h. */
#include <string.h>

#define XXH_INLINE_ALL
#include <xxhash.h>

#include "base/assert.h"
#include "ingest/shard_int.h"

/* --- strings --- */

struct slice string_at(const struct shard_data *d, uint32_t string)
{
    uint64_t off = (uint64_t)string * 4;
    const char *p = d->strings.pages[off / STRING_PAGE] + off % STRING_PAGE;
    uint32_t n;
    memcpy(&n, p, sizeof(n));
    return slice_make(p + sizeof(n), n);
}

static void string_page_add(struct strings *s, size_t n_pages)
{
    while (s->n_pages + n_pages > s->cap_pages) {
        s->cap_pages = MAX((size_t)4, s->cap_pages * 2);
        s->pages = xrealloc(s->pages, s->cap_pages * sizeof(*s->pages));
    }
    char *p = xmalloc(n_pages * STRING_PAGE);
    /* A string longer than a page gets pages that lie behind each other; only the first of them is ever asked for. */
    for (size_t i = 0; i < n_pages; i++)
        s->pages[s->n_pages + i] = i == 0 ? p : NULL;
    s->n_pages += n_pages;
}

static uint32_t string_add(struct shard_data *d, struct slice text)
{
    struct strings *s = &d->strings;
    size_t need = (sizeof(uint32_t) + text.n + 3) & ~(size_t)3;
    uint64_t end = (uint64_t)s->n_pages * STRING_PAGE;
    if (end - s->used < need) {
        /* Cleared, because pages are written to checkpoints whole. */
        if (end > s->used)
            memset(s->pages[s->n_pages - 1] + s->used % STRING_PAGE, 0, end - s->used);
        s->used = end;
        string_page_add(s, (need + STRING_PAGE - 1) / STRING_PAGE);
    }
    ASSERT(s->used / 4 < UINT32_MAX);
    char *p = s->pages[s->used / STRING_PAGE] + s->used % STRING_PAGE;
    uint32_t n = (uint32_t)text.n;
    memset(p + need - 4, 0, 4);
    memcpy(p, &n, sizeof(n));
    memcpy(p + sizeof(n), text.p, text.n);
    uint32_t string = (uint32_t)(s->used / 4);
    s->used += need;
    /* What is left of the pages of a long string is never used: its later pages have no address of their own. */
    if (need > STRING_PAGE) {
        memset(p + need, 0, (size_t)((uint64_t)s->n_pages * STRING_PAGE - s->used));
        s->used = (uint64_t)s->n_pages * STRING_PAGE;
    }
    return string;
}

/* --- the table of symbols --- */

static struct symbol_slot *slots_of(const struct shard_data *d)
{
    return (struct symbol_slot *)(void *)d->symslots.p;
}

static uint32_t slots_mask(const struct shard_data *d)
{
    return (uint32_t)(d->symslots.n / sizeof(struct symbol_slot)) - 1;
}

static uint32_t symbol_hash(const struct shard_data *d, uint32_t name, struct slice text)
{
    return (uint32_t)XXH3_64bits_withSeed(text.p, text.n, d->seed + name);
}

static uint32_t find_hashed(const struct shard_data *d, uint32_t hash, uint32_t name, struct slice text)
{
    const struct symbol_slot *slots = slots_of(d);
    uint32_t mask = slots_mask(d);
    for (uint32_t i = hash & mask; slots[i].symbol; i = (i + 1) & mask) {
        if (slots[i].hash != hash)
            continue;
        const struct symbol *s = symbol_at(d, slots[i].symbol - 1);
        if (s->name == name && slice_eq(string_at(d, s->string), text))
            return slots[i].symbol - 1;
    }
    return SYMBOL_NONE;
}

uint32_t symbol_find(const struct shard_data *d, uint32_t name, struct slice text)
{
    return find_hashed(d, symbol_hash(d, name, text), name, text);
}

static void slot_put(struct shard_data *d, uint32_t hash, uint32_t symbol)
{
    struct symbol_slot *slots = slots_of(d);
    uint32_t mask = slots_mask(d);
    uint32_t i = hash & mask;
    while (slots[i].symbol)
        i = (i + 1) & mask;
    slots[i] = (struct symbol_slot){.hash = hash, .symbol = symbol + 1};
}

static void slots_double(struct shard_data *d)
{
    struct region old = d->symslots;
    size_t n = old.n / sizeof(struct symbol_slot);
    d->symslots = (struct region){0};
    region_remake(&d->symslots, old.n * 2);
    const struct symbol_slot *from = (const struct symbol_slot *)(const void *)old.p;
    for (size_t i = 0; i < n; i++)
        if (from[i].symbol)
            slot_put(d, from[i].hash, from[i].symbol - 1);
    region_release(&old);
}

bool symbols_index(struct shard_data *d)
{
    size_t n = SYMBOL_FIRST_SLOTS;
    while (n * 3 < ((size_t)d->n_symbols + 1) * 4)
        n *= 2;
    region_remake(&d->symslots, n * sizeof(struct symbol_slot));
    for (uint32_t i = 0; i < d->n_symbols; i++) {
        const struct symbol *s = symbol_at(d, i);
        uint32_t hash = symbol_hash(d, s->name, string_at(d, s->string));
        if (find_hashed(d, hash, s->name, string_at(d, s->string)) != SYMBOL_NONE)
            return false;
        slot_put(d, hash, i);
    }
    return true;
}

uint32_t symbol_intern(struct shard_data *d, uint32_t name, struct slice text)
{
    uint32_t hash = symbol_hash(d, name, text);
    uint32_t found = find_hashed(d, hash, name, text);
    if (found != SYMBOL_NONE)
        return found;
    if ((uint64_t)(d->n_symbols + 1) * 4 > (uint64_t)(slots_mask(d) + 1) * 3)
        slots_double(d);
    uint32_t id = d->n_symbols++;
    struct symbol *s = region_extend(&d->symbols, sizeof(*s));
    s->name = name;
    s->string = string_add(d, text);
    slot_put(d, hash, id);
    if (name == SYMBOL_IS_NAME)
        d->n_names++;
    else
        symbol_list_add(d, name, id);
    return id;
}

/* --- lists --- */

void symbol_list_add(struct shard_data *d, uint32_t symbol, uint32_t entry)
{
    struct symbol *s = symbol_at(d, symbol);
    if (s->n < 2) {
        s->list[s->n++] = entry;
        return;
    }
    if (s->n == 2) {
        uint32_t slab = slab_alloc(&d->slabs, 4 * sizeof(uint32_t));
        memcpy(slab_ptr(&d->slabs, slab), s->list, 2 * sizeof(uint32_t));
        s->list[0] = slab;
        s->list[1] = (uint32_t)(slab_size(&d->slabs, slab) / sizeof(uint32_t));
    } else if (s->n == s->list[1]) {
        size_t used = s->n * sizeof(uint32_t);
        s->list[0] = slab_move(&d->slabs, s->list[0], used + used / 2, used);
        s->list[1] = (uint32_t)(slab_size(&d->slabs, s->list[0]) / sizeof(uint32_t));
    }
    uint32_t *list = slab_ptr(&d->slabs, s->list[0]);
    list[s->n++] = entry;
}
