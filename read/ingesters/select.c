/*
 * Selects. First every partition names its series, then their chunks are given as they come; see README.md.
 *
 * What is valid until the set's release lies in the ctx's arena (labels, lists, chunks that had to be kept) or in the sets of local ingesters; chunks that pass through
 * lie in the message that is being given, which goes with the next one.
 */
#include <stdlib.h>
#include <string.h>

#include "read/ingesters/ingesters_int.h"

#define LOCAL_BATCH 256

struct fetch_set {
    struct series_set base;
    struct fetch f;
    bool named;   /* all partitions have named their series */
    bool passing; /* of what the last call gave some chunks lie in the message being given */
    size_t given;
    /* Series that are complete without any message: where the walk over the answers stands, and those that became so later. */
    size_t part_at, item_at;
    struct entry **done;
    size_t n_done, done_at, done_cap;
    /* The message being given: of this attempt, from this chunk on. */
    struct attempt *from;
    struct buf msg;
    struct query_stream_response response;
    size_t chunk_at;
};

static struct fetch_set *set_of(struct series_set *base)
{
    return CONTAINER_OF(base, struct fetch_set, base);
}

/* --- the series: QueryStream's first part ------------------------------------------------------------------------------------------- */

static bool list_series(struct fetch *f, struct attempt *a, const struct query_stream_response *r, struct err *err)
{
    struct arena *arena = f->ctx->arena;
    for (size_t i = 0; i < r->n_series; i++) {
        struct entry *e = entry_get(&f->table, arena, r->series[i].labels, true);
        struct listed item = {.entry = e, .state = r->series[i].chunk_count == 0 ? LISTED_OPTIONAL : LISTED_OWED};
        if (!e || !listing_add(&a->listing, arena, item))
            return query_over_memory(f->ctx, err);
    }
    return true;
}

static enum fetch_step complete_if_unique(struct fetch *f, struct attempt *a, struct err *err)
{
    if (listing_is_unique(&a->listing, &f->table))
        return FETCH_COMPLETE;
    err_set(err, ERR_INTERNAL, "the answer names a series twice");
    return FETCH_FAILED;
}

static enum fetch_step stream_message(struct fetch *f, struct attempt *a, struct buf *msg, struct err *err)
{
    struct query_stream_response r;
    if (!query_stream_response_decode(buf_slice(msg), &f->scratch, &r, err) || !list_series(f, a, &r, err))
        return FETCH_FAILED;
    a->has_answer = true;
    if (r.n_chunks && !r.end_of_series) {
        err_set(err, ERR_INTERNAL, "the answer has chunks before the end of the series");
        return FETCH_FAILED;
    }
    if (!r.end_of_series)
        return FETCH_MORE;
    if (r.n_chunks) {
        a->held = *msg;
        *msg = (struct buf){0};
    }
    return complete_if_unique(f, a, err);
}

/* An ingester that does not know the tenant says nothing at all. */
static enum fetch_step stream_end(struct fetch *f, struct attempt *a, struct err *err)
{
    (void)f;
    a->has_all = true;
    if (!a->has_answer)
        return FETCH_COMPLETE;
    err_set(err, ERR_INTERNAL, "the answer ended before the end of the series");
    return FETCH_FAILED;
}

/* --- the series of an ingester of this process: chunks and all ------------------------------------------------------------------------ */

static bool list_local(struct fetch *f, struct attempt *a, const struct series *series, size_t n, struct err *err)
{
    for (size_t i = 0; i < n; i++) {
        struct entry *e = entry_get(&f->table, f->ctx->arena, series[i].labels, false);
        struct listed item = {e, LISTED_OWED, (uint32_t)series[i].n_chunks, series[i].chunks};
        if (!e || !listing_add(&a->listing, f->ctx->arena, item))
            return query_over_memory(f->ctx, err);
    }
    return true;
}

static bool local_series(struct fetch *f, struct attempt *a, struct err *err)
{
    struct series batch[LOCAL_BATCH];
    size_t n = 1;
    struct queryable *q = a->owner->local;
    struct select_params p = f->params;
    p.labels = NULL; /* all of them say which series are the same */
    a->set = q->ops->select(q, f->ctx, &p, err);
    if (!a->set)
        return false;
    while (n > 0) {
        if (!ctx_check(f->ctx, err) || !series_set_next(a->set, f->ctx, batch, LOCAL_BATCH, &n, err) || !list_local(f, a, batch, n, err))
            return false;
    }
    a->has_all = true;
    return complete_if_unique(f, a, err) == FETCH_COMPLETE;
}

static const struct fetch_ops stream_ops = {INGESTER_QUERY_STREAM, false, stream_message, stream_end, local_series};

/* --- series without chunks: MetricsForLabelMatchers ------------------------------------------------------------------------------------- */

static enum fetch_step metrics_message(struct fetch *f, struct attempt *a, struct buf *msg, struct err *err)
{
    const struct labels *metrics;
    size_t n;
    if (a->has_answer) {
        err_set(err, ERR_INTERNAL, "a second answer to a unary call");
        return FETCH_FAILED;
    }
    a->has_answer = true;
    if (!metrics_response_decode(buf_slice(msg), &f->scratch, &metrics, &n, err))
        return FETCH_FAILED;
    for (size_t i = 0; i < n; i++) {
        struct entry *e = entry_get(&f->table, f->ctx->arena, metrics[i], true);
        if (!e || !listing_add(&a->listing, f->ctx->arena, (struct listed){.entry = e})) {
            query_over_memory(f->ctx, err);
            return FETCH_FAILED;
        }
    }
    return FETCH_MORE;
}

static enum fetch_step metrics_end(struct fetch *f, struct attempt *a, struct err *err)
{
    if (!a->has_answer) {
        err_set(err, ERR_INTERNAL, "no answer to a unary call");
        return FETCH_FAILED;
    }
    a->has_all = true;
    return complete_if_unique(f, a, err);
}

static const struct fetch_ops metrics_ops = {INGESTER_METRICS_FOR_MATCHERS, true, metrics_message, metrics_end, local_series};

/* --- what is complete without a message --------------------------------------------------------------------------------------------------- */

static bool set_give(struct fetch_set *s, struct entry *e, const struct series_chunk *chunks, size_t n, struct series *ret)
{
    e->given = true;
    s->given++;
    *ret = (struct series){e->known.labels, chunks, n};
    return true;
}

/* The answers that came at once owe nothing; the others do from here on. */
static bool settle_all(struct fetch_set *s, struct err *err)
{
    struct fetch *f = &s->f;
    for (size_t i = 0; i < f->n_parts; i++) {
        struct attempt *a = f->parts[i].answered;
        if (!a->has_all)
            listing_settle(&a->listing);
        for (size_t k = 0; a->has_all && k < a->listing.n; k++) {
            struct listed *item = &a->listing.items[k];
            if (item->n_chunks && !entry_keep(item->entry, f->ctx->arena, item->chunks, item->n_chunks, false))
                return query_over_memory(f->ctx, err);
        }
    }
    return true;
}

static bool next_complete(struct fetch_set *s, struct series *ret)
{
    struct fetch *f = &s->f;
    for (; s->part_at < f->n_parts; s->part_at++, s->item_at = 0) {
        const struct attempt *a = f->parts[s->part_at].answered;
        while (a->has_all && s->item_at < a->listing.n) {
            struct entry *e = a->listing.items[s->item_at++].entry;
            if (!e->given && e->owed == 0)
                return set_give(s, e, e->chunks, e->n_chunks, ret);
        }
    }
    while (s->done_at < s->n_done) {
        struct entry *e = s->done[s->done_at++];
        if (!e->given)
            return set_give(s, e, e->chunks, e->n_chunks, ret);
    }
    return false;
}

/* --- what comes in messages ------------------------------------------------------------------------------------------------------------------ */

/*
 * The partition whose next series is the smallest. Ingesters send series sorted by labels; then a series of two partitions comes from both at nearly the same time, and its
 * chunks are kept for a moment only. Other orders are no worse for the answer, only for memory.
 */
static struct part *next_part(struct fetch *f)
{
    struct part *best = NULL;
    const struct entry *smallest = NULL;
    for (size_t i = 0; i < f->n_parts; i++) {
        struct attempt *a = f->parts[i].answered;
        const struct listed *item = a->has_all ? NULL : listing_next(&a->listing);
        if (!item || (best && labels_cmp(item->entry->known.labels, smallest->known.labels) >= 0))
            continue;
        best = &f->parts[i];
        smallest = item->entry;
    }
    return best;
}

static bool reserve_done(struct fetch_set *s, size_t more, struct err *err)
{
    if (s->done_at == s->n_done)
        s->done_at = s->n_done = 0;
    if (s->n_done + more <= s->done_cap)
        return true;
    struct entry **done = ARENA_ARRAY(s->f.ctx->arena, struct entry *, s->n_done + more);
    if (!done)
        return query_over_memory(s->f.ctx, err);
    if (s->n_done)
        memcpy(done, s->done, s->n_done * sizeof(*done));
    s->done = done;
    s->done_cap = s->n_done + more;
    return true;
}

/* Nothing more will come of it from this partition. */
static void forgive(struct fetch_set *s, struct listed *item)
{
    item->state = LISTED_SETTLED;
    if (--item->entry->owed == 0 && item->entry->n_chunks)
        s->done[s->n_done++] = item->entry;
}

/* A local ingester took over: all its chunks are there. */
static bool settle_local(struct fetch_set *s, struct attempt *a, struct err *err)
{
    for (size_t i = 0; i < a->listing.n; i++) {
        struct listed *item = &a->listing.items[i];
        if (item->state == LISTED_SETTLED)
            continue;
        if (item->n_chunks && !entry_keep(item->entry, s->f.ctx->arena, item->chunks, item->n_chunks, false))
            return query_over_memory(s->f.ctx, err);
        forgive(s, item);
    }
    return true;
}

/* Another attempt takes the place of `old`, which is freed. */
static bool take_other(struct fetch_set *s, struct part *p, struct attempt *old, struct err *err)
{
    struct attempt *a = p->answered;
    bool ok = reserve_done(s, old->listing.n + a->listing.n, err);
    if (ok) {
        listing_replace(&old->listing, &a->listing, &s->f.table, s->done, &s->n_done);
        ok = !a->has_all || settle_local(s, a, err);
    }
    attempt_free(&s->f, old);
    return ok;
}

static bool broken(struct fetch_set *s, struct part *p, const struct err *why, struct err *err)
{
    struct attempt *old;
    return ingesters_fetch_replace(&s->f, p, why, &old, err) == FETCH_NEXT_OTHER && take_other(s, p, old, err);
}

/* The stream is over; whatever was promised and did not come is missing. */
static bool take_end(struct fetch_set *s, struct part *p, struct err *err)
{
    struct attempt *a = p->answered;
    struct err why = ERR_NONE;
    if (!reserve_done(s, a->listing.n, err))
        return false;
    for (size_t i = 0; i < a->listing.n; i++)
        if (a->listing.items[i].state == LISTED_OWED) {
            err_set(&why, ERR_INTERNAL, "the answer ended before the chunks of all series had come");
            return broken(s, p, &why, err);
        }
    for (size_t i = 0; i < a->listing.n; i++)
        if (a->listing.items[i].state == LISTED_OPTIONAL)
            forgive(s, &a->listing.items[i]);
    return true;
}

/* Series must come in their order, each once: what is skipped could not be told from what is missing. */
static bool check_chunks(struct attempt *a, const struct query_stream_response *r, struct err *err)
{
    if (r->n_series)
        return err_set(err, ERR_INTERNAL, "the answer has series after their end");
    for (size_t i = 0; i < r->n_chunks; i++) {
        uint64_t at = r->chunks[i].series_index;
        if (at >= a->listing.n || at < a->next_index)
            return err_set(err, ERR_INTERNAL, "the answer has chunks of series %llu out of order", (unsigned long long)at);
        a->next_index = at + 1;
    }
    return true;
}

/* Opens s->msg. *ret_ok false: it is no good, and why says so. */
static bool open_message(struct fetch_set *s, struct attempt *a, bool held, struct err *why)
{
    struct fetch *f = &s->f;
    arena_clear(&f->scratch);
    if (!query_stream_response_decode(buf_slice(&s->msg), &f->scratch, &s->response, why))
        return false;
    if (held)
        s->response.n_series = 0; /* they were listed when it came */
    if (!check_chunks(a, &s->response, why))
        return false;
    size_t n = 0;
    for (size_t i = 0; i < s->response.n_chunks; i++)
        n += s->response.chunks[i].n;
    metric_add(METRIC_WITH(ingesters_metrics[INGESTERS_M_CHUNKS], ENGINE_LABEL), (double)n);
    s->from = a;
    s->chunk_at = 0;
    return true;
}

static void close_message(struct fetch_set *s)
{
    s->from = NULL;
    s->response = (struct query_stream_response){0};
    buf_release(&s->msg);
}

static bool take_message(struct fetch_set *s, struct part *p, bool held, struct err *err)
{
    struct err why = ERR_NONE;
    if (open_message(s, p->answered, held, &why))
        return true;
    close_message(s);
    return broken(s, p, &why, err);
}

/* The next message, or a change of owner. *ret_end: nothing is owed any more. */
static bool advance(struct fetch_set *s, bool *ret_end, struct err *err)
{
    close_message(s);
    struct part *p = next_part(&s->f);
    *ret_end = !p;
    if (!p)
        return true;
    struct attempt *a = p->answered;
    if (a->held.p) {
        s->msg = a->held;
        a->held = (struct buf){0};
        return take_message(s, p, true, err);
    }
    struct attempt *old;
    switch (fetch_next(&s->f, p, &s->msg, &old, err)) {
    case FETCH_NEXT_MESSAGE:
        return take_message(s, p, false, err);
    case FETCH_NEXT_END:
        return take_end(s, p, err);
    case FETCH_NEXT_OTHER:
        return take_other(s, p, old, err);
    default:
        return false;
    }
}

/* The series of the message that are complete with it, into ret. */
static bool give_message(struct fetch_set *s, struct series *ret, size_t max, size_t *n, struct err *err)
{
    struct arena *arena = s->f.ctx->arena;
    while (*n < max && s->chunk_at < s->response.n_chunks) {
        const struct streamed_chunks *c = &s->response.chunks[s->chunk_at++];
        struct listed *item = &s->from->listing.items[c->series_index];
        struct entry *e = item->entry;
        if (item->state == LISTED_SETTLED)
            continue;
        item->state = LISTED_SETTLED;
        bool last = --e->owed == 0;
        if (last && e->n_chunks == 0) {
            if (c->n)
                set_give(s, e, c->chunks, c->n, &ret[(*n)++]);
            s->passing |= c->n > 0;
            continue;
        }
        if (!entry_keep(e, arena, c->chunks, c->n, true))
            return query_over_memory(s->f.ctx, err);
        if (last)
            set_give(s, e, e->chunks, e->n_chunks, &ret[(*n)++]);
    }
    return true;
}

/* --- the set ------------------------------------------------------------------------------------------------------------------------------------ */

static bool set_next(struct series_set *base, struct ctx *ctx, struct series *ret, size_t max, size_t *ret_n, struct err *err)
{
    struct fetch_set *s = set_of(base);
    size_t n = 0;
    bool end = false;
    s->f.ctx = ctx;
    s->passing = false;
    *ret_n = 0;
    if (!s->named && (!ingesters_fetch_finish(&s->f, ctx, err) || !settle_all(s, err)))
        return false;
    s->named = true;
    if (s->f.params.limit)
        max = MIN(max, s->f.params.limit - s->given);
    while (n < max && next_complete(s, &ret[n]))
        n++;
    while (n == 0 && max && !end) {
        if (!give_message(s, ret, max, &n, err))
            return false;
        if (n == 0 && !advance(s, &end, err))
            return false;
        while (n < max && next_complete(s, &ret[n]))
            n++;
    }
    *ret_n = n;
    return true;
}

static void set_release(struct series_set *base)
{
    struct fetch_set *s = set_of(base);
    close_message(s);
    ingesters_fetch_release(&s->f);
    free(s);
}

static bool set_chunks_stay(const struct series_set *base)
{
    return !CONTAINER_OF(base, const struct fetch_set, base)->passing;
}

/*
 * The smallest of the series that are still owed, if those of each partition come in the order of their labels. A series of several partitions is given with the last of them, so
 * it is not below what that one owes. Series that are complete without a message come in any order: while there are some nothing is known.
 */
static bool set_low_water(struct series_set *base, struct labels *ret)
{
    struct fetch_set *s = set_of(base);
    struct fetch *f = &s->f;
    if (!s->named || s->part_at < f->n_parts || s->done_at < s->n_done)
        return false;
    for (size_t i = 0; i < f->n_parts; i++) {
        struct attempt *a = f->parts[i].answered;
        if (!a->has_all && listing_next(&a->listing) && !listing_is_sorted(&a->listing))
            return false;
    }
    struct part *p = next_part(f);
    if (p)
        *ret = listing_next(&p->answered->listing)->entry->known.labels;
    return p;
}

static const struct series_set_ops set_ops = {set_next, set_release};
static const struct series_set_traits set_traits = {.chunks_stay = set_chunks_stay, .low_water = set_low_water};

/* A call to one partition of this process that has no other owner is that ingester's own. */
static struct series_set *pass_on(const struct fetch *f, struct ctx *ctx, const struct select_params *p, bool *ret_done, struct err *err)
{
    *ret_done = f->n_parts == 1 && f->parts[0].n_owners == 1 && f->parts[0].owners[0].local;
    if (!*ret_done)
        return NULL;
    struct queryable *q = f->parts[0].owners[0].local;
    return q->ops->select(q, ctx, p, err);
}

static bool put_request(struct fetch *f, struct ctx *ctx, const struct select_params *p, struct err *err)
{
    struct ingester_request r = {.chunks_batch = f->q->cfg->series_buffer};
    if (!request_matchers(ctx, p, &r))
        return query_over_memory(ctx, err);
    if (p->no_chunks) {
        r.limit = p->limit > INT64_MAX ? INT64_MAX : (int64_t)p->limit;
        metrics_request_put(&r, &f->request);
    } else {
        query_request_put(&r, &f->request);
    }
    return !f->request.failed || err_set(err, ERR_NO_MEMORY, "out of memory");
}

struct series_set *ingesters_select(struct queryable *q, struct ctx *ctx, const struct select_params *p, struct err *err)
{
    struct fetch_set *s = calloc(1, sizeof(*s));
    ASSERT(s);
    s->base.ops = &set_ops;
    s->base.traits = &set_traits;
    bool done = false;
    struct series_set *other = NULL;
    bool ok = ingesters_fetch_init(&s->f, ingesters_of(q), ctx, p->no_chunks ? &metrics_ops : &stream_ops, p, err);
    if (ok)
        other = pass_on(&s->f, ctx, p, &done, err);
    if (!ok || done || !put_request(&s->f, ctx, p, err)) {
        set_release(&s->base);
        return other;
    }
    ingesters_fetch_start(&s->f);
    return &s->base;
}
