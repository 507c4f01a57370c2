/*
 * The union of two sets of series: those that both have come out once.
 *
 * A series of one side waits in a table until the other side gives it too, or is known not to have it: because that one has ended, or because its low water has passed the series.
 * The side whose low water is lower is read; one whose low water is not known is read to its end first. So
 *
 *   - heads of this process, in no order, are read whole before the blocks pass by. Their chunks stay valid, so what waits is a reference: some 100 bytes a series.
 *   - ingesters and store-gateways of other processes give series in the order of labels: they are read side by side, and what waits is the few series by which one is ahead
 *     of the other, with copies of their chunks.
 *   - any other order is right as well, but more may wait: copies are counted against the query's memory.
 *
 * Why not a merge of two sorted lists: a head has its series in the order of their making, and sorting 100,000 label sets costs more than hashing them, and would cost it for every query.
 * Cost (tests/bench/merged.c, release build): 1.5 us of the query's thread and 130 bytes of arena a series of ten labels that both have; decoding its chunks takes some ten times as
 * long. When one side turns out to have nothing, the other's series pass through for a nanosecond.
 *
 * A batch of one side is read to its end before its next one is fetched, and none is fetched in a call that has given something: so chunks pass through without a copy.
 */
#include <stdlib.h>
#include <string.h>

#include "read/merged/merged_int.h"

#define BATCH 256

/* A series that waits, or waited. */
struct waiting {
    struct known_labels known; /* labels of the side's set */
    struct waiting *next;      /* of its side's queue, or of what is freed */
    const struct series_chunk *chunks;
    size_t n_chunks;
    void *copy; /* chunks and their bytes; owned */
    size_t copy_bytes;
    const struct side *side;
    bool given;
};

struct side {
    struct series_set *set; /* owned */
    struct series batch[BATCH];
    size_t at, n;
    bool ended;
    bool stays;      /* chunks of the batch are valid until the release */
    bool has_low;
    struct labels low;
    struct waiting *first, **last; /* the queue, in the order in which they came; given ones may stand in it */
};

struct merged_set {
    struct series_set base;
    struct side sides[2]; /* recent, stored */
    struct labels_table table; /* of struct waiting */
    struct waiting *spent;     /* given in the last call: their copies go with the next one */
    size_t copies_bytes;
    size_t limit, given;
    bool started;
    bool passed;         /* something waits that low waters may have passed */
    struct side *only;   /* the other one has no series: this one's pass through */
    struct arena lists;  /* merged lists of chunks, of one call */
};

static struct merged_set *set_of(struct series_set *base)
{
    return CONTAINER_OF(base, struct merged_set, base);
}

static struct side *other_side(struct merged_set *s, const struct side *side)
{
    return side == &s->sides[0] ? &s->sides[1] : &s->sides[0];
}

/* --- waiting ------------------------------------------------------------------------------------------------------------------------------ */

/* Chunks and bytes in one piece. */
static bool copy_chunks(struct merged_set *s, const struct ctx *ctx, struct waiting *w, const struct series *from, struct err *err)
{
    size_t bytes = from->n_chunks * sizeof(*from->chunks);
    for (size_t i = 0; i < from->n_chunks; i++)
        bytes += from->chunks[i].data.n;
    size_t budget = ctx->arena->budget_bytes;
    if (budget && s->copies_bytes + bytes + ctx->arena->used_bytes > budget)
        return query_over_memory(ctx, err);
    struct series_chunk *chunks = malloc(bytes + 1);
    if (!chunks)
        return err_set(err, ERR_NO_MEMORY, "out of memory");
    char *data = (char *)(chunks + from->n_chunks);
    for (size_t i = 0; i < from->n_chunks; i++) {
        chunks[i] = from->chunks[i];
        chunks[i].data = slice_make(data, from->chunks[i].data.n);
        if (from->chunks[i].data.n)
            memcpy(data, from->chunks[i].data.p, from->chunks[i].data.n);
        data += from->chunks[i].data.n;
    }
    w->copy = chunks;
    w->copy_bytes = bytes;
    w->chunks = chunks;
    s->copies_bytes += bytes;
    return true;
}

static void free_copy(struct merged_set *s, struct waiting *w)
{
    free(w->copy);
    w->copy = NULL;
    s->copies_bytes -= w->copy_bytes;
    w->copy_bytes = 0;
}

static bool keep(struct merged_set *s, struct side *side, const struct ctx *ctx, const struct series *x, struct waiting *w, struct err *err)
{
    w->side = side;
    w->n_chunks = x->n_chunks;
    *side->last = w;
    side->last = &w->next;
    if (!side->stays && x->n_chunks)
        return copy_chunks(s, ctx, w, x, err);
    w->chunks = x->chunks;
    return true;
}

/* --- giving ------------------------------------------------------------------------------------------------------------------------------------ */

static void free_spent(struct merged_set *s)
{
    for (struct waiting *w = s->spent, *next; w; w = next) {
        next = w->next;
        free_copy(s, w);
    }
    s->spent = NULL;
}

/* The waiting series together with the other side's, which is at hand. */
static bool join(struct merged_set *s, const struct ctx *ctx, struct waiting *w, const struct series *x, struct series *ret, struct err *err)
{
    w->given = true; /* it is taken off its queue, with its copy, when that has come to it */
    *ret = (struct series){.labels = w->known.labels};
    if (w->n_chunks + x->n_chunks == 0)
        return true;
    struct series_chunk *all = ARENA_ARRAY(&s->lists, struct series_chunk, w->n_chunks + x->n_chunks);
    if (!all)
        return query_over_memory(ctx, err);
    const bool first = w->side == &s->sides[0];
    ret->n_chunks = first ? chunks_merge(w->chunks, w->n_chunks, x->chunks, x->n_chunks, all) : chunks_merge(x->chunks, x->n_chunks, w->chunks, w->n_chunks, all);
    ret->chunks = all;
    return true;
}

/* A series of a side's batch is given, or waits. *ret_n: 0 or 1. */
static bool take(struct merged_set *s, struct side *side, const struct ctx *ctx, const struct series *x, struct series *ret, size_t *ret_n, struct err *err)
{
    bool alone = other_side(s, side)->ended;
    struct waiting *w = alone ? labels_table_find(&s->table, x->labels) : labels_table_get(&s->table, ctx->arena, x->labels, false);
    *ret_n = !w || w->side;
    if (!w && !alone)
        return query_over_memory(ctx, err);
    if (!w) {
        *ret = *x;
        return true;
    }
    if (!w->side)
        return keep(s, side, ctx, x, w, err);
    if (w->side == side || w->given)
        return err_set(err, ERR_INTERNAL, "a store of series has named one of them twice");
    return join(s, ctx, w, x, ret, err);
}

/* Has the other side nothing more to say of this series? */
static bool is_passed(const struct side *other, const struct waiting *w)
{
    return other->ended || (other->has_low && other->at == other->n && labels_cmp(w->known.labels, other->low) < 0);
}

/*
 * The head of the side's queue, when it is given already or can be. Copies of what was given in this call must live until the next one; they are freed then. *ret_n: 0 or 1.
 */
static bool take_head(struct merged_set *s, struct side *side, struct series *ret, size_t *ret_n)
{
    struct waiting *w = side->first;
    *ret_n = 0;
    if (!w || (!w->given && !is_passed(other_side(s, side), w)))
        return false;
    side->first = w->next;
    if (!side->first)
        side->last = &side->first;
    if (!w->given) {
        w->given = true;
        *ret = (struct series){w->known.labels, w->chunks, w->n_chunks};
        *ret_n = 1;
    }
    w->next = s->spent;
    s->spent = w;
    return true;
}

static size_t give_passed(struct merged_set *s, struct series *ret, size_t max)
{
    size_t n = 0, k;
    for (size_t i = 0; i < 2; i++)
        while (n < max && take_head(s, &s->sides[i], &ret[n], &k))
            n += k;
    s->passed = n == max;
    return n;
}

/* --- reading ----------------------------------------------------------------------------------------------------------------------------------------- */

static bool fetch(struct merged_set *s, struct side *side, struct ctx *ctx, struct err *err)
{
    const struct series_set_traits *traits = side->set->traits;
    side->at = 0;
    if (!ctx_check(ctx, err) || !series_set_next(side->set, ctx, side->batch, BATCH, &side->n, err))
        return false;
    side->ended = side->n == 0;
    side->stays = traits && traits->chunks_stay && traits->chunks_stay(side->set);
    side->has_low = traits && traits->low_water && traits->low_water(side->set, &side->low);
    s->passed = true;
    return true;
}

/* Both have ended: NULL. */
static struct side *next_side(struct merged_set *s)
{
    struct side *recent = &s->sides[0], *stored = &s->sides[1];
    if (recent->ended || stored->ended)
        return recent->ended && stored->ended ? NULL : recent->ended ? stored : recent;
    if (!recent->has_low || !stored->has_low)
        return recent->has_low ? stored : recent;
    return labels_cmp(recent->low, stored->low) <= 0 ? recent : stored;
}

/* Blocks first: their store-gateways are asked already, and when they have nothing there is nothing to merge. */
static bool start(struct merged_set *s, struct ctx *ctx, struct err *err)
{
    struct side *recent = &s->sides[0], *stored = &s->sides[1];
    s->started = true;
    if (!fetch(s, stored, ctx, err))
        return false;
    if (stored->ended) {
        s->only = recent;
        return true;
    }
    if (!fetch(s, recent, ctx, err))
        return false;
    if (recent->ended)
        s->only = stored;
    return true;
}

static bool pass_through(struct side *side, struct ctx *ctx, struct arena *mem, struct series *ret, size_t max, size_t *ret_n, struct err *err)
{
    if (side->at == side->n)
        return series_set_next_in(side->set, ctx, mem, ret, max, ret_n, err);
    *ret_n = MIN(max, side->n - side->at);
    memcpy(ret, side->batch + side->at, *ret_n * sizeof(*ret));
    side->at += *ret_n;
    return true;
}

/* Would all of this side's batch wait, since the other is to be read to its end first? */
static bool is_early(struct merged_set *s, const struct side *side)
{
    const struct side *recent = &s->sides[0];
    return side != recent && !recent->ended && !recent->has_low;
}

/* What the batches at hand have, up to max. */
static bool give_batches(struct merged_set *s, struct ctx *ctx, struct series *ret, size_t max, size_t *n, struct err *err)
{
    for (size_t i = 0; i < 2; i++) {
        struct side *side = &s->sides[i];
        while (*n < max && side->at < side->n && !is_early(s, side)) {
            size_t k;
            if (!take(s, side, ctx, &side->batch[side->at], &ret[*n], &k, err))
                return false;
            side->at++;
            *n += k;
        }
    }
    return true;
}

static bool give(struct merged_set *s, struct ctx *ctx, struct series *ret, size_t max, size_t *n, struct err *err)
{
    while (*n == 0) {
        if (!give_batches(s, ctx, ret, max, n, err))
            return false;
        if (s->passed)
            *n += give_passed(s, ret + *n, max - *n);
        if (*n)
            return true;
        struct side *side = next_side(s);
        if (!side)
            return true;
        if (!fetch(s, side, ctx, err))
            return false;
    }
    return true;
}

/* --- the set ------------------------------------------------------------------------------------------------------------------------------------------ */

static bool set_next_in(struct series_set *base, struct ctx *ctx, struct arena *mem, struct series *ret, size_t max, size_t *ret_n, struct err *err)
{
    struct merged_set *s = set_of(base);
    size_t n = 0;
    *ret_n = 0;
    free_spent(s);
    arena_clear(&s->lists);
    if (s->limit)
        max = MIN(max, s->limit - s->given);
    if (!s->started && !start(s, ctx, err))
        return false;
    if (max && !(s->only ? pass_through(s->only, ctx, mem, ret, max, &n, err) : give(s, ctx, ret, max, &n, err)))
        return false;
    s->given += n;
    *ret_n = n;
    return true;
}

static bool set_next(struct series_set *base, struct ctx *ctx, struct series *ret, size_t max, size_t *ret_n, struct err *err)
{
    return set_next_in(base, ctx, ctx->arena, ret, max, ret_n, err);
}

/* What passes through stays as long as its own set says. */
static bool chunks_stay(const struct series_set *base)
{
    const struct merged_set *s = CONTAINER_OF(base, const struct merged_set, base);
    const struct series_set *from = s->only ? s->only->set : NULL;
    return from && from->traits && from->traits->chunks_stay && from->traits->chunks_stay(from);
}

static void set_release(struct series_set *base)
{
    struct merged_set *s = set_of(base);
    free_spent(s);
    for (size_t i = 0; i < 2; i++) {
        for (struct waiting *w = s->sides[i].first; w; w = w->next)
            free_copy(s, w);
        series_set_release(s->sides[i].set);
    }
    arena_release(&s->lists);
    free(s);
}

struct series_set *merged_set_new(struct ctx *ctx, struct series_set *recent, struct series_set *stored, size_t limit)
{
    static const struct series_set_ops ops = {set_next, set_release};
    static const struct series_set_traits traits = {.chunks_stay = chunks_stay, .next_in = set_next_in};
    struct merged_set *s = calloc(1, sizeof(*s));
    ASSERT(s);
    s->base.ops = &ops;
    s->base.traits = &traits;
    s->limit = limit;
    s->table.entry_bytes = sizeof(struct waiting);
    s->sides[0].set = recent;
    s->sides[1].set = stored;
    for (size_t i = 0; i < 2; i++)
        s->sides[i].last = &s->sides[i].first;
    arena_init(&s->lists, ctx->arena->budget_bytes);
    return &s->base;
}
