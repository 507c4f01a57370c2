/*
 * Selects: the sorted answers of several store-gateways as one. First all of them name their series, then chunks are read along; see README.md.
 *
 * A source is an answered attempt. Its head is its next series; the smallest head is given next, with the chunks that all sources with that head have for it. Sources
 * are looked through one after the other: most heads are the same series, and so the same pointer, and a heap would compare more labels than it spares up to some
 * dozens of sources.
 *
 * Chunks stay in the sources' own messages. So a message is only replaced by the next one when nothing of this call has been given yet: else the call ends with what it has.
 */
#include <stdlib.h>
#include <string.h>

#include "read/blocks/blocks_int.h"

struct blocks_set {
    struct series_set base;
    struct fetch f;
    bool named; /* all store-gateways have named their series */
    size_t given;
    struct labels last; /* of what was given */
    struct arena lists; /* merged lists of chunks, of one call */
};

static struct blocks_set *set_of(struct series_set *base)
{
    return CONTAINER_OF(base, struct blocks_set, base);
}

/* --- the series: the first part of an answer ----------------------------------------------------------------------------------------------- */

static bool add_name(struct fetch *f, struct attempt *a, struct labels labels, struct err *err)
{
    struct arena *arena = f->ctx->arena;
    if (a->n == a->cap) {
        size_t cap = a->cap ? a->cap * 2 : 64;
        struct name **names = ARENA_ARRAY(arena, struct name *, cap);
        if (!names)
            return query_over_memory(f->ctx, err);
        if (a->n)
            memcpy(names, a->names, a->n * sizeof(*names));
        a->names = names;
        a->cap = cap;
    }
    struct name *name = labels_table_get(&f->names, arena, labels, true);
    if (!name)
        return query_over_memory(f->ctx, err);
    if (a->n && labels_cmp(a->names[a->n - 1]->known.labels, name->known.labels) >= 0)
        return err_set(err, ERR_INTERNAL, "the answer has series out of order");
    a->names[a->n++] = name;
    return true;
}

static bool add_series(struct fetch *f, struct attempt *a, const struct storegateway_series_response *r, struct err *err)
{
    int64_t max = f->params.no_chunks ? 0 : limits_of(f->q->limits, f->ctx->tenant)->max_fetched_series_per_query;
    for (size_t i = 0; i < r->n_series; i++)
        if (!add_name(f, a, r->series[i], err))
            return false;
    return max <= 0 || f->names.n <= (uint64_t)max || query_over_series((uint64_t)max, err);
}

static bool add_found(struct fetch *f, struct attempt *a, const struct block_hints *queried, struct err *err)
{
    struct ulid *blocks = ARENA_ARRAY(f->ctx->arena, struct ulid, a->found.n + queried->n + 1);
    if (!blocks)
        return query_over_memory(f->ctx, err);
    if (a->found.n)
        memcpy(blocks, a->found.blocks, a->found.n * sizeof(*blocks));
    if (queried->n)
        memcpy(blocks + a->found.n, queried->blocks, queried->n * sizeof(*blocks));
    a->found = (struct gateway_found){blocks, a->found.n + queried->n};
    return true;
}

static enum fetch_step series_message(struct fetch *f, struct attempt *a, const struct buf *msg, struct err *err)
{
    struct storegateway_series_response r;
    if (!storegateway_series_response_decode(buf_slice(msg), &f->scratch, &r, err))
        return FETCH_FAILED;
    switch (r.part) {
    case STOREGATEWAY_HINTS:
        return add_found(f, a, &r.queried, err) ? FETCH_MORE : FETCH_FAILED;
    case STOREGATEWAY_SERIES_BATCH:
        a->has_answer = true;
        if (!add_series(f, a, &r, err))
            return FETCH_FAILED;
        return r.end_of_series ? FETCH_COMPLETE : FETCH_MORE;
    case STOREGATEWAY_CHUNKS_BATCH:
        err_set(err, ERR_INTERNAL, "the answer has chunks before the end of the series");
        return FETCH_FAILED;
    default:
        return FETCH_MORE;
    }
}

/* A store-gateway that does not know the tenant says nothing at all: then it has none of the blocks. */
static enum fetch_step series_end(struct fetch *f, struct attempt *a, struct err *err)
{
    (void)f;
    if (!a->has_answer && a->found.n == 0)
        return FETCH_COMPLETE;
    err_set(err, ERR_INTERNAL, "the answer ended before the end of the series");
    return FETCH_FAILED;
}

static bool local_series(struct fetch *f, struct attempt *a, const struct block_hints *blocks, struct err *err)
{
    const struct local_gateway *g = &f->q->local;
    a->window = calloc(LOCAL_WINDOW, sizeof(*a->window));
    ASSERT(a->window);
    a->set = g->ops->select(g->gateway, blocks_attempt_ctx(f, a), &f->params, blocks, &a->found, err);
    return a->set;
}

static const struct fetch_ops series_ops = {
    .method = STOREGATEWAY_SERIES,
    .put = storegateway_series_request_put,
    .message = series_message,
    .end = series_end,
    .local = local_series,
};

/* --- the chunks ---------------------------------------------------------------------------------------------------------------------------- */

static void close_message(struct attempt *a)
{
    a->n_chunks = a->chunk_at = 0;
    buf_release(&a->msg);
}

/* Series must come in their order, each once: what is skipped could not be told from what is missing. */
static bool check_chunks(struct attempt *a, struct err *why)
{
    size_t n = 0;
    for (size_t i = 0; i < a->n_chunks; i++) {
        if (a->chunks[i].series_index != a->next_index || a->next_index >= a->n)
            return err_set(why, ERR_INTERNAL, "the answer has chunks of series %llu where those of %llu are due", (unsigned long long)a->chunks[i].series_index,
                           (unsigned long long)a->next_index);
        a->next_index++;
        n += a->chunks[i].n;
    }
    metric_add(metric_single(blocks_metrics[BLOCKS_M_CHUNKS]), (double)n);
    return true;
}

static bool open_message(struct attempt *a, struct err *why)
{
    struct storegateway_series_response r;
    arena_clear(&a->decoded);
    if (!storegateway_series_response_decode(buf_slice(&a->msg), &a->decoded, &r, why))
        return false;
    if (r.part == STOREGATEWAY_SERIES_BATCH && r.n_series)
        return err_set(why, ERR_INTERNAL, "the answer has series after their end");
    a->chunks = r.chunks;
    a->n_chunks = r.part == STOREGATEWAY_CHUNKS_BATCH ? r.n_chunks : 0;
    a->chunk_at = 0;
    return check_chunks(a, why);
}

/* The next message. */
static bool read_message(struct fetch *f, struct attempt *a, struct err *why)
{
    struct rpc_status st = RPC_STATUS_NONE;
    close_message(a);
    if (!blocks_hedge_wait(f, a, why))
        return false;
    if (rpc_stream_next(a->stream, &a->msg, &st) == RPC_NEXT_MESSAGE) {
        blocks_attempt_count_bytes(a, a->msg.n);
        return open_message(a, why);
    }
    blocks_attempt_count(f, a, st.code);
    if (st.code == RPC_OK)
        err_set(why, ERR_INTERNAL, "the answer ended before the chunks of all series had come");
    else
        peer_err_of_status(&st, why);
    rpc_status_release(&st);
    return false;
}

/* Are the chunks of its head there? */
static bool has_chunks(struct attempt *a)
{
    while (a->chunk_at < a->n_chunks && a->chunks[a->chunk_at].series_index < a->at)
        a->chunk_at++;
    return a->chunk_at < a->n_chunks;
}

static bool load(struct fetch *f, struct attempt *a, struct err *why)
{
    while (!has_chunks(a))
        if (!read_message(f, a, why))
            return false;
    return true;
}

static bool load_local(const struct fetch *f, struct attempt *a, struct err *why)
{
    a->win_at = 0;
    a->win_n = 0;
    if (!series_set_next(a->set, f->ctx, a->window, LOCAL_WINDOW, &a->win_n, why))
        return false;
    a->ended = a->win_n == 0;
    return true;
}

/* --- heads ------------------------------------------------------------------------------------------------------------------------------------ */

/* NULL: it has no more. */
static const struct labels *head_of(const struct attempt *a)
{
    if (a->window)
        return a->win_at < a->win_n ? &a->window[a->win_at].labels : NULL;
    return a->at < a->n ? &a->names[a->at]->known.labels : NULL;
}

static int compare_heads(const struct labels *a, const struct labels *b)
{
    return a->items == b->items && a->n == b->n ? 0 : labels_cmp(*a, *b);
}

/* The series that is given next; the sources that have it get its head_id. NULL: there is none. */
static const struct labels *smallest_head(struct fetch *f)
{
    const struct labels *smallest = NULL;
    for (struct attempt *a = f->answered; a; a = a->next) {
        const struct labels *head = head_of(a);
        int c = !head ? 1 : !smallest ? -1 : compare_heads(head, smallest);
        if (c < 0) {
            smallest = head;
            f->head_id++;
        }
        a->head_id = c <= 0 ? f->head_id : 0;
    }
    return smallest;
}

/* A source that has to read before that can be given: first those of this process, whose heads are not known before. NULL: all is there. */
static struct attempt *unready(const struct fetch *f, const struct labels *head)
{
    for (struct attempt *a = f->answered; a; a = a->next)
        if (a->window && !a->ended && a->win_at == a->win_n)
            return a;
    for (struct attempt *a = f->answered; a && head && !f->params.no_chunks; a = a->next)
        if (!a->window && a->head_id == f->head_id && !has_chunks(a))
            return a;
    return NULL;
}

/* Takes the head's chunks off the source. */
static void take(struct attempt *a, const struct series_chunk **ret, size_t *ret_n)
{
    *ret = NULL;
    *ret_n = 0;
    if (a->window) {
        const struct series *s = &a->window[a->win_at++];
        *ret = s->chunks;
        *ret_n = s->n_chunks;
        a->last = s->labels;
        a->has_last = true;
        return;
    }
    a->at++;
    if (a->chunk_at < a->n_chunks) {
        *ret = a->chunks[a->chunk_at].chunks;
        *ret_n = a->chunks[a->chunk_at++].n;
    }
}

/* The room's chunks, as what they are. NULL: memory is used up. */
static const struct series_chunk *as_aggregates(struct blocks_set *s, const struct place *p, const struct series_chunk *chunks, size_t n)
{
    struct series_chunk *copy = ARENA_ARRAY(&s->lists, struct series_chunk, n + 1);
    for (size_t i = 0; copy && i < n; i++) {
        copy[i] = chunks[i];
        copy[i].encoding = CHUNK_OF_AGGREGATE(p->aggregate);
    }
    return copy;
}

static bool drop_repeated(struct blocks_set *s, struct series *ret)
{
    if (!chunks_repeat(ret->chunks, ret->n_chunks))
        return true;
    struct series_chunk *once = ARENA_ARRAY(&s->lists, struct series_chunk, ret->n_chunks);
    if (!once)
        return false;
    ret->n_chunks = chunks_merge(ret->chunks, ret->n_chunks, NULL, 0, once);
    ret->chunks = once;
    return true;
}

/* The head with the chunks of all its sources. False: memory is used up. */
static bool give(struct blocks_set *s, const struct labels *head, struct series *ret)
{
    *ret = (struct series){.labels = *head};
    for (struct attempt *a = s->f.answered; a; a = a->next) {
        const struct series_chunk *chunks;
        size_t n;
        if (a->head_id != s->f.head_id)
            continue;
        take(a, &chunks, &n);
        if (a->place->is_room && !(chunks = as_aggregates(s, a->place, chunks, n)))
            return false;
        if (ret->n_chunks == 0) {
            ret->chunks = chunks;
            ret->n_chunks = n;
            continue;
        }
        struct series_chunk *all = ARENA_ARRAY(&s->lists, struct series_chunk, ret->n_chunks + n);
        if (!all)
            return false;
        ret->n_chunks = chunks_merge(ret->chunks, ret->n_chunks, chunks, n, all);
        ret->chunks = all;
    }
    return drop_repeated(s, ret);
}

/* --- the set ----------------------------------------------------------------------------------------------------------------------------------- */

static bool read_on(struct blocks_set *s, struct attempt *a, struct err *err)
{
    struct err why = ERR_NONE;
    if (!ctx_check(s->f.ctx, err))
        return false;
    if (a->window ? load_local(&s->f, a, &why) : load(&s->f, a, &why))
        return true;
    return blocks_fetch_take_over(&s->f, a, &why, err);
}

static bool give_all(struct blocks_set *s, struct series *ret, size_t max, size_t *n, struct err *err)
{
    struct fetch *f = &s->f;
    while (*n < max) {
        const struct labels *head = smallest_head(f);
        struct attempt *a = unready(f, head);
        if (a && *n)
            return true; /* what was given lies in its message */
        if (a && !read_on(s, a, err))
            return false;
        if (a)
            continue;
        if (!head)
            return true;
        if (!give(s, head, &ret[*n]))
            return query_over_memory(f->ctx, err);
        *n += ret[*n].n_chunks > 0 || f->params.no_chunks;
    }
    return true;
}

static bool set_next(struct series_set *base, struct ctx *ctx, struct series *ret, size_t max, size_t *ret_n, struct err *err)
{
    struct blocks_set *s = set_of(base);
    size_t n = 0;
    *ret_n = 0;
    s->f.ctx = ctx;
    if (!s->named && !blocks_fetch_finish(&s->f, ctx, err))
        return false;
    s->named = true;
    if (s->f.params.limit)
        max = MIN(max, s->f.params.limit - s->given);
    arena_clear(&s->lists);
    if (!give_all(s, ret, max, &n, err))
        return false;
    s->given += n;
    if (n)
        s->last = ret[n - 1].labels;
    *ret_n = n;
    return true;
}

static void set_release(struct series_set *base)
{
    struct blocks_set *s = set_of(base);
    blocks_fetch_release(&s->f);
    arena_release(&s->lists);
    free(s);
}

/* The last series that was given: those to come are above it. */
static bool set_low_water(struct series_set *base, struct labels *ret)
{
    const struct blocks_set *s = set_of(base);
    *ret = s->last;
    return s->given > 0;
}

static const struct series_set_ops set_ops = {.next = set_next, .release = set_release};
static const struct series_set_traits set_traits = {.low_water = set_low_water};

struct series_set *blocks_select(struct queryable *q, struct ctx *ctx, const struct select_params *p, struct err *err)
{
    struct blocks_set *s = calloc(1, sizeof(*s));
    ASSERT(s);
    s->base.ops = &set_ops;
    s->base.traits = &set_traits;
    arena_init(&s->lists, ctx->arena->budget_bytes);
    if (blocks_fetch_init(&s->f, blocks_of(q), ctx, &series_ops, p, err) && blocks_fetch_start(&s->f, err))
        return &s->base;
    set_release(&s->base);
    return NULL;
}
