/*
 * Which blocks of a select are read as aggregates. storage/downsample/README.md has the rules and why; here is how they are found.
 *
 * Facts, "the tenant has this block" and "this room has it", are sorted by name, so that each block becomes one entry with all that is known of it. Entries are sorted by time
 * and cut into groups that do not overlap; each group is given its resolution, or stays as the samples that were planned. The cost is that of sorting the blocks that the select touches,
 * once for each room; rooms' indexes come from the cache.
 */
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "model/query_shard.h"
#include "read/blocks/blocks_int.h"

#define WANTED_MAX 2 /* aggregates that a select asks for together */

struct entry {
    const struct index_block *known; /* any of those below */
    const struct block *samples;     /* NULL: the tenant has it no more */
    bool marked;                     /* ... or it is being replaced */
    const struct index_block *made[DOWNSAMPLE_RESOLUTIONS][WANTED_MAX]; /* NULL: the room has it not */
};

struct fact {
    const struct index_block *b;
    const struct block *samples; /* NULL: it is a room's, with the next two */
    enum downsample_resolution resolution;
    size_t wanted;
};

struct choice {
    struct fetch *f;
    const struct select_params *p;
    enum downsample_aggregate wanted[WANTED_MAX];
    size_t n_wanted;
    struct place *rooms[DOWNSAMPLE_RESOLUTIONS][WANTED_MAX]; /* any of those wanted NULL: the resolution will not do */
    struct slice metric_name; /* empty: any */
    int64_t now_ms;
    struct fact *facts; /* arena, as what follows */
    size_t n_facts;
    struct entry *entries;
    size_t n_entries;
    struct block *blocks; /* of the result */
    size_t n_blocks;
    struct time_span *spans;
    size_t n_spans;
    bool expired; /* some are read of which there are no samples any more */
};

/* --- resolutions ------------------------------------------------------------------------------------------------------------------ */

/* Windows of this length make up every range that is evaluated. */
static bool divides(int64_t resolution_ms, const struct select_hints *h)
{
    return resolution_ms <= h->max_resolution_ms && h->range_ms > 0 && h->range_ms % resolution_ms == 0 && h->first_ms % resolution_ms == 0 &&
           h->step_ms % resolution_ms == 0;
}

/* A place for each aggregate wanted, with its index; with the first that cannot be read, for whatever reason, the resolution is not used. */
static bool open_rooms(struct choice *c, enum downsample_resolution r)
{
    struct fetch *f = c->f;
    for (size_t i = 0; i < c->n_wanted; i++) {
        struct bucket_name room = downsample_room(f->ctx->tenant, r, c->wanted[i]);
        struct place *p = &f->places[f->n_places];
        *p = (struct place){.name = arena_dup(f->ctx->arena, bucket_name_slice(&room)), .is_room = true, .aggregate = c->wanted[i]};
        if (!p->name.p)
            return false;
        if (!(p->index = index_cache_get(f->q->indexes, f->ctx, p->name, NULL)))
            return true;
        c->rooms[r][i] = p;
        f->n_places++;
    }
    return true;
}

static bool open_all_rooms(struct choice *c)
{
    const struct select_hints *h = c->p->hints;
    int64_t max_ms = downsample_max_resolution_ms(limits_of(c->f->q->limits, c->f->ctx->tenant));
    for (unsigned r = 0; r < DOWNSAMPLE_RESOLUTIONS; r++)
        if (downsample_resolution_ms(r) <= max_ms && divides(downsample_resolution_ms(r), h) && !open_rooms(c, r))
            return false;
    return true;
}

static bool is_open(const struct choice *c, enum downsample_resolution r)
{
    return c->rooms[r][c->n_wanted - 1];
}

/* --- entries ---------------------------------------------------------------------------------------------------------------------------- */

/* Its marks count from the first moment: what took its place is there. */
static bool add_room_facts(struct choice *c, enum downsample_resolution r, size_t wanted)
{
    const struct bucket_index *index = index_snapshot_index(c->rooms[r][wanted]->index);
    size_t n_marked;
    struct ulid *marked = blocks_plan_deleted(c->f->ctx->arena, index, INT64_MAX, &n_marked);
    for (size_t i = 0; marked && i < index->n_blocks; i++) {
        const struct index_block *b = &index->blocks[i];
        if (blocks_plan_touches(c->p, b) && !blocks_plan_is_young(c->f->q, b, c->now_ms) && !blocks_plan_is_in(marked, n_marked, &b->id))
            c->facts[c->n_facts++] = (struct fact){.b = b, .resolution = r, .wanted = wanted};
    }
    return marked;
}

static bool collect_facts(struct choice *c)
{
    size_t n = c->f->n_blocks;
    for (size_t i = 1; i < c->f->n_places; i++)
        n += index_snapshot_index(c->f->places[i].index)->n_blocks;
    c->facts = ARENA_ARRAY(c->f->ctx->arena, struct fact, n + 1);
    if (!c->facts)
        return false;
    for (size_t i = 0; i < c->f->n_blocks; i++)
        c->facts[c->n_facts++] = (struct fact){.b = c->f->blocks[i].in_index, .samples = &c->f->blocks[i]};
    for (unsigned r = 0; r < DOWNSAMPLE_RESOLUTIONS; r++)
        for (size_t i = 0; is_open(c, r) && i < c->n_wanted; i++)
            if (!add_room_facts(c, r, i))
                return false;
    return true;
}

static int by_id(const void *a, const void *b)
{
    return strcmp(((const struct fact *)a)->b->id.text, ((const struct fact *)b)->b->id.text);
}

static int by_time(const void *a, const void *b)
{
    const struct index_block *x = ((const struct entry *)a)->known, *y = ((const struct entry *)b)->known;
    return x->min_t != y->min_t ? (x->min_t < y->min_t ? -1 : 1) : strcmp(x->id.text, y->id.text);
}

static bool make_entries(struct choice *c)
{
    size_t n_marked;
    struct ulid *marked = blocks_plan_deleted(c->f->ctx->arena, index_snapshot_index(c->f->places[0].index), INT64_MAX, &n_marked);
    c->entries = ARENA_ARRAY(c->f->ctx->arena, struct entry, c->n_facts + 1);
    if (!marked || !c->entries)
        return false;
    if (c->n_facts)
        qsort(c->facts, c->n_facts, sizeof(*c->facts), by_id);
    for (size_t i = 0; i < c->n_facts; i++) {
        const struct fact *fact = &c->facts[i];
        if (i == 0 || by_id(&c->facts[i - 1], fact) != 0)
            c->entries[c->n_entries++] = (struct entry){.known = fact->b, .marked = blocks_plan_is_in(marked, n_marked, &fact->b->id)};
        struct entry *e = &c->entries[c->n_entries - 1];
        if (fact->samples)
            e->samples = fact->samples;
        else
            e->made[fact->resolution][fact->wanted] = fact->b;
    }
    if (c->n_entries)
        qsort(c->entries, c->n_entries, sizeof(*c->entries), by_time);
    return true;
}

/* --- groups: entries whose times overlap ---------------------------------------------------------------------------------------------- */

struct group {
    const struct entry *e;
    size_t n;
    int64_t min_t, max_t;
    bool has_samples;
};

/* By time, or by series: no sample can be in both. */
static bool are_disjoint(const struct index_block *x, const struct index_block *y)
{
    struct query_shard a, b;
    if (x->max_t <= y->min_t || y->max_t <= x->min_t)
        return true;
    return query_shard_parse(x->shard, &a) && query_shard_parse(y->shard, &b) && a.count == b.count && a.index != b.index;
}

static bool is_settled(const struct group *g)
{
    for (size_t i = 0; i < g->n; i++) {
        if ((g->e[i].samples != NULL) != g->has_samples || (g->has_samples && g->e[i].marked))
            return false;
        for (size_t k = 0; k < i; k++)
            if (!are_disjoint(g->e[i].known, g->e[k].known))
                return false;
    }
    return true;
}

static bool has_all(const struct choice *c, const struct group *g, enum downsample_resolution r)
{
    for (size_t i = 0; i < g->n; i++)
        for (size_t k = 0; k < c->n_wanted; k++) {
            const struct index_block *b = g->e[i].made[r][k], *known = g->e[i].known;
            if (!b || b->min_t != known->min_t || b->max_t != known->max_t || !downsample_is_all_of(b, c->metric_name))
                return false;
        }
    return true;
}

/* The coarsest resolution that will do; DOWNSAMPLE_RESOLUTIONS: none. */
static unsigned resolution_of(const struct choice *c, const struct group *g)
{
    for (unsigned r = DOWNSAMPLE_RESOLUTIONS; r-- > 0 && g->max_t <= c->p->hints->before_ms;)
        if (is_open(c, r) && has_all(c, g, r) && is_settled(g))
            return r;
    return DOWNSAMPLE_RESOLUTIONS;
}

static void take_samples(struct choice *c, const struct group *g)
{
    for (size_t i = 0; i < g->n; i++)
        if (g->e[i].samples)
            c->blocks[c->n_blocks++] = *g->e[i].samples;
}

static void take_aggregates(struct choice *c, const struct group *g, enum downsample_resolution r)
{
    for (size_t i = 0; i < g->n; i++)
        for (size_t k = 0; k < c->n_wanted; k++)
            c->blocks[c->n_blocks++] = (struct block){.in_index = g->e[i].made[r][k], .place = c->rooms[r][k]};
    c->spans[c->n_spans++] = (struct time_span){g->min_t, g->max_t};
    c->expired |= !g->has_samples;
    metric_add(METRIC_WITH(blocks_metrics[BLOCKS_M_DOWNSAMPLED], slice_of(downsample_resolution_name(r))), (double)g->n);
}

static bool choose(struct choice *c)
{
    c->blocks = ARENA_ARRAY(c->f->ctx->arena, struct block, c->n_entries * WANTED_MAX + 1);
    c->spans = ARENA_ARRAY(c->f->ctx->arena, struct time_span, c->n_entries + 1);
    if (!c->blocks || !c->spans)
        return false;
    for (size_t from = 0, to; from < c->n_entries; from = to) {
        const struct index_block *first = c->entries[from].known;
        struct group g = {.e = &c->entries[from], .min_t = first->min_t, .max_t = first->max_t};
        for (to = from; to < c->n_entries && (to == from || c->entries[to].known->min_t < g.max_t); to++) {
            g.max_t = MAX(g.max_t, c->entries[to].known->max_t);
            g.has_samples |= c->entries[to].samples != NULL;
        }
        g.n = to - from;
        unsigned r = resolution_of(c, &g);
        if (r == DOWNSAMPLE_RESOLUTIONS)
            take_samples(c, &g);
        else
            take_aggregates(c, &g, r);
    }
    return true;
}

/* --- the whole ------------------------------------------------------------------------------------------------------------------------------ */

static struct slice metric_name_of(const struct select_params *p)
{
    for (size_t i = 0; i < p->n_matchers; i++)
        if (p->matchers[i].type == MATCH_EQ && slice_eq(p->matchers[i].name, SL(METRIC_NAME_LABEL)))
            return p->matchers[i].value;
    return SL("");
}

bool blocks_plan_downsampled(struct fetch *f, const struct select_params *p)
{
    const struct select_hints *h = p->hints;
    struct choice c = {.f = f, .p = p, .metric_name = metric_name_of(p), .now_ms = clock_wall_ms()};
    f->params.hints = NULL; /* it is of this call alone */
    if (!h)
        return true;
    for (unsigned a = 0; a < DOWNSAMPLE_AGGREGATES; a++)
        if (h->aggregates & 1u << a) {
            if (c.n_wanted == WANTED_MAX)
                return true;
            c.wanted[c.n_wanted++] = a;
        }
    if (c.n_wanted == 0)
        return true;
    if (!open_all_rooms(&c))
        return false;
    if (f->n_places == 1)
        return true;
    if (!collect_facts(&c) || !make_entries(&c) || !choose(&c))
        return false;
    f->blocks = c.blocks;
    f->n_blocks = c.n_blocks;
    f->refused = c.n_spans && !c.expired ? h->ret->refused : NULL;
    h->ret->spans = c.spans;
    h->ret->n = c.n_spans;
    return true;
}
