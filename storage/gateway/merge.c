/*
 * The series of several blocks as one, in order of their labels, in two phases: first the labels of all of them, then their chunks in the same order. Both go batch by batch; the
 * second may begin before the first has ended.
 *
 * Phase 1 is a heap over the parts, each with some series read ahead. For phase 2 each part keeps the numbers of the merged series that it has: 4 bytes a series, given back as
 * they are used. In phase 2 a part's chunks are valid until it is asked for more, so a batch ends where a part would have to be asked again.
 *
 * Bucket reads of several parts happen at the same time: when one has run dry, all that are at least half empty are filled up.
 */
#include <stdlib.h>
#include <string.h>

#include "storage/gateway/gateway_int.h"

#define AHEAD_TOTAL 65536u /* series read ahead, of all parts together */
#define AHEAD_MIN 64u
#define CHUNKS_AHEAD 256u /* series of a part whose chunks are read at once */

/* --- beginning --- */

static void begin_part(void *request, size_t i)
{
    struct request *r = request;
    struct part *p = &r->parts[i];
    size_t ahead = MAX((size_t)AHEAD_MIN, MIN((size_t)r->g->cfg->batch_series_size, AHEAD_TOTAL / r->n));
    p->cap_ahead = ahead;
    p->cap_chunks = CHUNKS_AHEAD;
    p->ahead = ARENA_ARRAY(&p->arena, struct store_series, p->cap_ahead);
    p->chunks = r->p.no_chunks ? NULL : ARENA_ARRAY(&p->arena, struct series, p->cap_chunks);
    if (!p->ahead || (!p->chunks && !r->p.no_chunks)) {
        gateway_no_memory(&p->err);
        return;
    }
    p->select = store_select_new(p->open, &p->ctx, &r->p, &p->err);
    if (p->select && !store_select_series(p->select, &p->ctx, p->ahead, p->cap_ahead, &p->n_ahead, &p->err))
        p->n_ahead = 0;
    p->ended = p->n_ahead == 0;
}

static bool is_half_empty(const struct request *r, const struct part *p)
{
    (void)r;
    return !p->ended && p->n_ahead - p->ahead_at <= p->cap_ahead / 2;
}

static void fill_part(void *request, size_t i)
{
    struct request *r = request;
    struct part *p = &r->parts[i];
    size_t left = p->n_ahead - p->ahead_at, n = 0;
    if (left)
        memmove(p->ahead, p->ahead + p->ahead_at, left * sizeof(*p->ahead));
    p->ahead_at = 0;
    p->n_ahead = left;
    if (!store_select_series(p->select, &p->ctx, p->ahead + left, p->cap_ahead - left, &n, &p->err))
        return;
    p->n_ahead += n;
    p->ended = n == 0;
}

/* --- the heap --- */

static struct labels next_labels(const struct request *r, size_t part)
{
    const struct part *p = &r->parts[part];
    return p->ahead[p->ahead_at].labels;
}

/* Of equal labels the part of the smaller number comes first. */
static bool is_before(const struct request *r, size_t a, size_t b)
{
    int order = labels_cmp(next_labels(r, a), next_labels(r, b));
    return order < 0 || (order == 0 && a < b);
}

static void sift_down(struct request *r, size_t at)
{
    for (;;) {
        size_t smallest = at;
        for (size_t child = 2 * at + 1; child <= 2 * at + 2 && child < r->n_heap; child++)
            if (is_before(r, r->heap[child], r->heap[smallest]))
                smallest = child;
        if (smallest == at)
            return;
        size_t swap = r->heap[at];
        r->heap[at] = r->heap[smallest];
        r->heap[smallest] = swap;
        at = smallest;
    }
}

bool merge_begin(struct request *r, struct err *err)
{
    r->heap = ARENA_ARRAY(r->ctx->arena, size_t, r->n + 1);
    r->chosen = ARENA_ARRAY(r->ctx->arena, size_t, r->n + 1);
    if (!r->heap || !r->chosen)
        return gateway_no_memory(err);
    if (!request_each(r, begin_part, err))
        return false;
    for (size_t i = 0; i < r->n; i++)
        if (!r->parts[i].ended)
            r->heap[r->n_heap++] = i;
    for (size_t i = r->n_heap / 2; i-- > 0;)
        sift_down(r, i);
    return true;
}

/* Behind the series that the heap's top has just given. */
static bool advance_top(struct request *r, struct err *err)
{
    struct part *p = &r->parts[r->heap[0]];
    if (++p->ahead_at == p->n_ahead && !request_some(r, is_half_empty, fill_part, err))
        return false;
    if (p->ahead_at == p->n_ahead)
        r->heap[0] = r->heap[--r->n_heap];
    sift_down(r, 0);
    return true;
}

/* --- phase 1 --- */

/* Room at the end is made of the room at the beginning first. */
static bool add_member(struct part *p, uint32_t number, struct err *err)
{
    if (p->n_members == p->cap_members && p->members_at >= p->cap_members / 2 && p->cap_members) {
        p->n_members -= p->members_at;
        memmove(p->members, p->members + p->members_at, p->n_members * sizeof(*p->members));
        p->members_at = 0;
    }
    if (p->n_members == p->cap_members) {
        size_t cap = p->cap_members ? 2 * p->cap_members : 256;
        uint32_t *members = realloc(p->members, cap * sizeof(*members));
        if (!members)
            return gateway_no_memory(err);
        p->members = members;
        p->cap_members = cap;
    }
    p->members[p->n_members++] = number;
    return true;
}

static bool limit_exceeded(enum err_code code, const char *what, int64_t limit, const char *unit, const char *id, const char *flag, struct err *err)
{
    metric_inc(METRIC_WITH(gateway_metrics[GATEWAY_DROPPED_QUERIES], GATEWAY_COMPONENT, slice_of(unit)));
    return err_set(err, code,
                   "the query exceeded the maximum number of %s (limit: %lld %s) (err-mimir-%s). Consider reducing the time range and/or number of series selected by the query. "
                   "One way to reduce the number of selected series is to add more label matchers to the query. Otherwise, to adjust the related per-tenant limit, configure -%s, "
                   "or contact your service administrator.",
                   what, (long long)limit, unit, id, flag);
}

static bool check_limits(const struct request *r, struct err *err)
{
    const struct limits *l = limits_of(r->g->limits, downsample_tenant_of(r->ctx->tenant));
    if (l->max_fetched_series_per_query > 0 && r->n_series > (uint64_t)l->max_fetched_series_per_query)
        return limit_exceeded(ERR_MAX_SERIES_PER_QUERY, "series", l->max_fetched_series_per_query, "series", "max-series-per-query", "querier.max-fetched-series-per-query", err);
    if (!r->p.no_chunks && l->max_fetched_chunks_per_query > 0 && r->n_chunks > (uint64_t)l->max_fetched_chunks_per_query)
        return limit_exceeded(ERR_MAX_CHUNKS_PER_QUERY, "chunks", l->max_fetched_chunks_per_query, "chunks", "max-chunks-per-query", "querier.max-fetched-chunks-per-query", err);
    return true;
}

/* The next series, of all parts that have it. */
static bool take_series(struct request *r, struct labels *ret, struct err *err)
{
    *ret = next_labels(r, r->heap[0]);
    if (r->n_series == UINT32_MAX)
        return gateway_no_memory(err);
    uint32_t number = (uint32_t)r->n_series++;
    while (r->n_heap > 0 && labels_eq(next_labels(r, r->heap[0]), *ret)) {
        struct part *p = &r->parts[r->heap[0]];
        r->n_chunks += p->ahead[p->ahead_at].n_chunks;
        if ((!r->p.no_chunks && !add_member(p, number, err)) || !advance_top(r, err))
            return false;
    }
    return check_limits(r, err);
}

bool merge_series(struct request *r, struct labels *ret, size_t max, size_t *ret_n, struct err *err)
{
    size_t n = 0;
    if (!ctx_check(r->ctx, err))
        return false;
    while (n < max && r->n_heap > 0 && (r->p.limit == 0 || r->n_series < r->p.limit))
        if (!take_series(r, &ret[n++], err))
            return false;
    *ret_n = n;
    return true;
}

/* --- phase 2 --- */

static bool is_dry(const struct part *p, uint64_t until)
{
    return p->chunks_at == p->n_chunks && p->members_at < p->n_members && p->members[p->members_at] < until;
}

static bool needs_chunks(const struct request *r, const struct part *p)
{
    return is_dry(p, r->chunks_until);
}

static void fill_chunks(void *request, size_t i)
{
    struct request *r = request;
    struct part *p = &r->parts[i];
    p->chunks_at = 0;
    p->n_chunks = 0;
    size_t want = MIN(p->cap_chunks, p->n_members - p->members_at);
    if (store_select_chunks(p->select, &p->ctx, p->chunks, want, &p->n_chunks, &p->err) && p->n_chunks == 0)
        err_set(&p->err, ERR_INTERNAL, "series without an answer for their chunks");
}

static int compare_chunks(const void *a, const void *b)
{
    const struct series_chunk *x = a, *y = b;
    if (x->min_t != y->min_t)
        return x->min_t < y->min_t ? -1 : 1;
    return (x->max_t > y->max_t) - (x->max_t < y->max_t);
}

/* The parts that have the series, and all of its chunks. *ret_dry: a part has to be asked first. */
static void count_chunks(const struct request *r, uint64_t number, size_t *ret_parts, size_t *ret_chunks, bool *ret_dry)
{
    *ret_parts = *ret_chunks = 0;
    *ret_dry = false;
    for (size_t i = 0; i < r->n; i++) {
        const struct part *p = &r->parts[i];
        if (p->members_at == p->n_members || p->members[p->members_at] != number)
            continue;
        *ret_dry |= p->chunks_at == p->n_chunks;
        *ret_parts += 1;
        *ret_chunks += *ret_dry ? 0 : p->chunks[p->chunks_at].n_chunks;
    }
}

/* Chunks of several blocks, by their beginning. Parts are by time, so they mostly are already. */
static void sort_chunks(struct series_chunk *chunks, size_t n)
{
    size_t i = 1;
    while (i < n && compare_chunks(&chunks[i - 1], &chunks[i]) <= 0)
        i++;
    if (i < n)
        qsort(chunks, n, sizeof(*chunks), compare_chunks);
}

/* The chunks of merged series `number`. */
static bool take_chunks(struct request *r, uint64_t number, struct series *ret, bool *ret_dry, struct err *err)
{
    size_t n_parts, n_chunks, n = 0;
    *ret = (struct series){0};
    count_chunks(r, number, &n_parts, &n_chunks, ret_dry);
    if (*ret_dry)
        return true;
    struct series_chunk *all = n_parts > 1 ? ARENA_ARRAY(&r->scratch, struct series_chunk, n_chunks + 1) : NULL;
    if (n_parts > 1 && !all)
        return gateway_no_memory(err);
    for (size_t i = 0; i < r->n && n_parts > 0; i++) {
        struct part *p = &r->parts[i];
        if (p->members_at == p->n_members || p->members[p->members_at] != number)
            continue;
        p->members_at++;
        const struct series *own = &p->chunks[p->chunks_at++];
        *ret = (struct series){.chunks = own->chunks, .n_chunks = own->n_chunks};
        if (all && own->n_chunks)
            memcpy(all + n, own->chunks, own->n_chunks * sizeof(*all));
        n += own->n_chunks;
    }
    if (all) {
        sort_chunks(all, n);
        *ret = (struct series){.chunks = all, .n_chunks = n};
    }
    return true;
}

bool merge_chunks(struct request *r, struct series *ret, size_t max, size_t *ret_n, struct err *err)
{
    size_t n = 0;
    bool dry = false;
    *ret_n = 0;
    arena_clear(&r->scratch);
    r->chunks_until = MIN(r->n_series, r->chunks_at + max);
    if (r->chunks_at == r->chunks_until)
        return true;
    if (!ctx_check(r->ctx, err) || !request_some(r, needs_chunks, fill_chunks, err))
        return false;
    while (r->chunks_at < r->chunks_until) {
        if (!take_chunks(r, r->chunks_at, &ret[n], &dry, err))
            return false;
        if (dry)
            break;
        r->chunks_at++;
        n++;
    }
    ASSERT(n > 0);
    *ret_n = n;
    return true;
}

uint64_t merge_index_bytes(const struct request *r)
{
    uint64_t n = 0;
    for (size_t i = 0; i < r->n; i++) {
        const struct store_stats *s = r->parts[i].select ? store_select_stats(r->parts[i].select) : NULL;
        n += s ? s->postings_fetched_bytes + s->series_fetched_bytes : 0;
    }
    return n;
}
