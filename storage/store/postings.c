/*
 * From matchers to candidates: lists of postings, read in one go.
 *
 * A matcher that does not match "" asks for series that have the label: the union of the lists of the values that match. One that matches "" is turned round:
 * the lists of the values that do not match are taken away. That is storage/block's way; what differs is that lists cost requests. So first all lists that
 * matchers want are found in the index-header, with their sizes, and nothing is read. The smallest union bounds how many series can match. Where another
 * matcher's lists have more bytes than those series' entries (SERIES_BYTES each, times -...series-fetch-preference), they are not read: the matcher is left
 * to be tried on the labels of the series. What remains is looked up in the cache, and the rest read in ranges that are joined.
 *
 * In the cache a list is: uvarint count, the first reference, and differences, all uvarints: a byte or two a posting.
 */
#include <stdlib.h>
#include <string.h>

#include "base/assert.h"
#include "storage/block/bytes.h"
#include "storage/store/store_int.h"

#define SERIES_BYTES 512.0
#define ROUND_BYTES ((size_t)16 << 20)
#define POSTINGS_TTL_MS ((int64_t)7 * 24 * 3600 * 1000)
#define CACHE_LISTS_MAX 1024 /* that are asked for at once */

static bool over_memory(struct err *err)
{
    return err_set(err, ERR_MAX_QUERY_MEMORY, "the request used up its memory while reading the postings of a block");
}

/* One list that is wanted. */
struct wanted {
    struct header_range range;
    struct postings list; /* in scratch */
    bool found;
};

/* What one matcher wants. */
struct group {
    const struct matcher *matcher; /* NULL: all series */
    bool away;                     /* what it wants is taken away */
    bool is_read;
    struct wanted *lists; /* in scratch */
    size_t n, cap;
    uint64_t bytes;
};

struct finding {
    struct store_block *b;
    struct ctx *ctx;
    struct arena scratch;
    struct group *groups; /* in scratch */
    size_t n;
    struct store_stats *stats;
};

/* --- which lists --- */

struct adding {
    struct finding *f;
    struct group *g;
};

static bool add_entry(void *arg, const struct header_entry *e, struct err *err)
{
    struct adding *a = arg;
    struct group *g = a->g;
    if (g->matcher && matcher_matches(g->matcher, e->value) == g->away)
        return true;
    if (g->n == g->cap) {
        size_t cap = g->cap ? 2 * g->cap : 8;
        struct wanted *lists = ARENA_ARRAY(&a->f->scratch, struct wanted, cap);
        if (!lists)
            return over_memory(err);
        if (g->n)
            memcpy(lists, g->lists, g->n * sizeof(*lists));
        g->lists = lists;
        g->cap = cap;
    }
    struct wanted *w = &g->lists[g->n++];
    *w = (struct wanted){0};
    if (!header_range_of(&a->f->b->header, e, &w->range, err))
        return false;
    g->bytes += w->range.end - w->range.offset;
    return true;
}

static bool add_values(struct finding *f, struct group *g, const struct slice *values, size_t n, const struct header_name *name, struct err *err)
{
    struct adding a = {f, g};
    const struct header *h = &f->b->header;
    for (size_t i = 0; i < n; i++) {
        uint32_t at = 0;
        struct header_entry e;
        if (values[i].n && !header_find_value(h, name, values[i], &at, err))
            return false;
        if (at == 0)
            continue;
        bool good = header_entry_at(h, at, &e);
        ASSERT(good);
        if (!add_entry(&a, &e, err))
            return false;
    }
    return true;
}

static bool add_group(struct finding *f, const struct matcher *m, struct err *err)
{
    struct group *g = &f->groups[f->n++];
    *g = (struct group){.matcher = m, .away = matcher_matches_empty(m)};
    const struct header_name *name = header_find_name(&f->b->header, m->name);
    size_t n;
    const struct slice *values = matcher_named_values(m, !g->away, &n);
    if (!name)
        return true;
    return values ? add_values(f, g, values, n, name, err) : header_each_value(&f->b->header, name, add_entry, &(struct adding){f, g}, err);
}

static bool add_all_postings(struct finding *f, struct err *err)
{
    struct group *g = &f->groups[f->n++];
    struct header_entry e;
    *g = (struct group){0};
    if (!header_entry_at(&f->b->header, f->b->header.table_from, &e))
        return header_corrupt(&f->b->header, (uint64_t)(f->b->header.table - f->b->header.p), "no list of all series", err);
    return add_entry(&(struct adding){f, g}, &e, err);
}

/* --- reading them --- */

static bool decode_cached(struct finding *f, struct slice bytes, struct postings *ret)
{
    struct dec d = dec_of((const uint8_t *)bytes.p, bytes.n);
    uint64_t n = dec_uvarint(&d), ref = 0;
    if (d.bad || n > dec_left(&d))
        return false;
    uint32_t *refs = ARENA_ARRAY(&f->scratch, uint32_t, n + 1);
    if (!refs)
        return false;
    for (size_t i = 0; i < n; i++) {
        uint64_t step = dec_uvarint(&d);
        ref += step;
        if (d.bad || step > UINT32_MAX || ref > UINT32_MAX || (i && step == 0))
            return false;
        refs[i] = (uint32_t)ref;
    }
    *ret = (struct postings){refs, n};
    return dec_left(&d) == 0;
}

struct list_key {
    uint8_t bytes[1 + BLOCK_KEY_BYTES + 8];
};

static struct list_key key_of(const struct store_block *b, uint64_t offset)
{
    struct list_key k = {{'P'}};
    memcpy(k.bytes + 1, b->key, BLOCK_KEY_BYTES);
    put_be32(k.bytes + 1 + BLOCK_KEY_BYTES, (uint32_t)(offset >> 32));
    put_be32(k.bytes + 5 + BLOCK_KEY_BYTES, (uint32_t)offset);
    return k;
}

static void put_cached(struct finding *f, uint64_t offset, const struct postings *list)
{
    struct store *s = f->b->store;
    struct list_key k = key_of(f->b, offset);
    struct buf bytes;
    if (!s->index_cache)
        return;
    buf_init(&bytes, 0);
    buf_put_uvarint(&bytes, list->n);
    for (size_t i = 0; i < list->n; i++)
        buf_put_uvarint(&bytes, list->refs[i] - (i ? list->refs[i - 1] : 0));
    if (!bytes.failed) {
        cache_put(s->index_cache, CACHE_POSTINGS, slice_make(k.bytes, sizeof(k.bytes)), buf_slice(&bytes), POSTINGS_TTL_MS);
        metric_add(s->postings_bytes, (double)(4 * list->n));
        metric_add(s->postings_cached_bytes, (double)bytes.n);
    }
    buf_release(&bytes);
}

struct asking {
    struct finding *f;
    struct wanted **lists;
};

static void found_list(void *arg, size_t i, struct slice value)
{
    struct asking *a = arg;
    struct wanted *w = a->lists[i];
    w->found = decode_cached(a->f, value, &w->list);
    if (w->found)
        a->f->stats->cached_bytes += value.n;
}

static bool ask_cache(struct finding *f, struct wanted **lists, size_t n, struct err *err)
{
    struct list_key keys[CACHE_LISTS_MAX];
    struct slice slices[CACHE_LISTS_MAX];
    for (size_t from = 0; f->b->store->index_cache && from < n; from += CACHE_LISTS_MAX) {
        size_t part = MIN(n - from, (size_t)CACHE_LISTS_MAX);
        struct asking a = {f, lists + from};
        for (size_t i = 0; i < part; i++) {
            keys[i] = key_of(f->b, lists[from + i]->range.offset);
            slices[i] = slice_make(keys[i].bytes, sizeof(keys[i].bytes));
        }
        if (!ctx_check(f->ctx, err))
            return false;
        cache_get_multi(f->b->store->index_cache, f->ctx, CACHE_POSTINGS, slices, part, found_list, &a);
        if (f->scratch.overflow)
            return over_memory(err);
    }
    return true;
}

static bool decode_list(struct finding *f, struct wanted *w, const uint8_t *p, size_t n, struct err *err)
{
    size_t need;
    struct index *ix = &f->b->header.index;
    if (!index_postings_decode(ix, w->range.offset, p, n, &f->scratch, &w->list, &need, err))
        return false;
    /* Lists in another order than entries: first the length, then as much. */
    for (int tries = 0; need && tries < 2; tries++) {
        struct buf bytes;
        buf_init(&bytes, need);
        bool good = fetch_one(f->b, f->ctx, FETCH_POSTINGS, FILE_INDEX, w->range.offset, need, &bytes, f->stats, err) &&
                    index_postings_decode(ix, w->range.offset, (const uint8_t *)bytes.p, bytes.n, &f->scratch, &w->list, &need, err);
        buf_release(&bytes);
        if (!good)
            return false;
    }
    if (need)
        return index_corrupt(ix, w->range.offset, "postings that change while they are read", err);
    put_cached(f, w->range.offset, &w->list);
    w->found = true;
    return true;
}

/* As many lists as go into a round, at least one. */
static bool read_round(struct finding *f, struct fetch *fetch, struct wanted **lists, size_t *n, struct err *err)
{
    struct fetch_place at = {0};
    size_t k = 0, bytes;
    fetch_clear(fetch);
    for (; k < *n && (k == 0 || fetch->total + (lists[k]->range.end - lists[k]->range.offset) <= ROUND_BYTES); k++)
        fetch_want(fetch, FILE_INDEX, lists[k]->range.offset, lists[k]->range.end, f->b->store->cfg.max_gap_bytes);
    if (!fetch_read(f->b, f->ctx, FETCH_POSTINGS, fetch, f->stats, err))
        return false;
    for (size_t i = 0; i < k; i++) {
        const uint8_t *p = fetch_find(fetch, &at, FILE_INDEX, lists[i]->range.offset, &bytes);
        ASSERT(p);
        if (!decode_list(f, lists[i], p, MIN(bytes, lists[i]->range.end - lists[i]->range.offset), err))
            return false;
    }
    *n = k;
    return true;
}

static int by_offset(const void *a, const void *b)
{
    const struct wanted *const *x = a, *const *y = b;
    return ((*x)->range.offset > (*y)->range.offset) - ((*x)->range.offset < (*y)->range.offset);
}

/* All lists of the groups that are read. */
static bool read_lists(struct finding *f, struct err *err)
{
    size_t n = 0, missing = 0;
    for (size_t i = 0; i < f->n; i++)
        n += f->groups[i].is_read ? f->groups[i].n : 0;
    struct wanted **lists = ARENA_ARRAY(&f->scratch, struct wanted *, n + 1);
    if (!lists)
        return over_memory(err);
    n = 0;
    for (size_t i = 0; i < f->n; i++)
        for (size_t k = 0; f->groups[i].is_read && k < f->groups[i].n; k++)
            lists[n++] = &f->groups[i].lists[k];
    f->stats->postings_touched += n;
    for (size_t i = 0; i < n; i++)
        f->stats->postings_touched_bytes += lists[i]->range.end - lists[i]->range.offset;
    if (!ask_cache(f, lists, n, err))
        return false;
    for (size_t i = 0; i < n; i++)
        if (!lists[i]->found)
            lists[missing++] = lists[i];
    qsort(lists, missing, sizeof(struct wanted *), by_offset);
    struct fetch fetch = {0};
    bool good = true;
    for (size_t from = 0, k; good && from < missing; from += k) {
        k = missing - from;
        good = read_round(f, &fetch, lists + from, &k, err);
    }
    fetch_release(&fetch);
    return good;
}

/* --- which groups, and putting them together --- */

static int smallest_first(const void *a, const void *b)
{
    const struct group *x = a, *y = b;
    if (x->away != y->away)
        return x->away - y->away;
    return (x->bytes > y->bytes) - (x->bytes < y->bytes);
}

/* Groups in order: those that ask, the smallest first; those that take away. */
static void choose(struct finding *f)
{
    double preference = f->b->store->cfg.series_fetch_preference;
    qsort(f->groups, f->n, sizeof(*f->groups), smallest_first);
    double series_bytes = (double)f->groups[0].bytes / 4 * SERIES_BYTES;
    for (size_t i = 0; i < f->n; i++)
        f->groups[i].is_read = i == 0 || preference <= 0 || (double)f->groups[i].bytes <= series_bytes * preference;
}

static bool unite(struct finding *f, struct group *g, struct postings *ret, struct err *err)
{
    struct postings *lists = ARENA_ARRAY(&f->scratch, struct postings, g->n + 1);
    if (!lists)
        return over_memory(err);
    for (size_t i = 0; i < g->n; i++)
        lists[i] = g->lists[i].list;
    return postings_unite(lists, g->n, &f->scratch, ret, err);
}

static bool put_together(struct finding *f, struct candidates *ret, struct err *err)
{
    struct postings found, other;
    ret->pending = ARENA_ARRAY(f->ctx->arena, const struct matcher *, f->n + 1);
    if (!ret->pending)
        return over_memory(err);
    if (!unite(f, &f->groups[0], &found, err))
        return false;
    for (size_t i = 1; i < f->n && found.n; i++) {
        struct group *g = &f->groups[i];
        if (!g->is_read) {
            ret->pending[ret->n_pending++] = g->matcher;
            continue;
        }
        if (!unite(f, g, &other, err))
            return false;
        postings_restrict(&found, &other, !g->away);
    }
    uint32_t *refs = ARENA_ARRAY(f->ctx->arena, uint32_t, found.n + 1);
    if (!refs)
        return over_memory(err);
    if (found.n)
        memcpy(refs, found.refs, found.n * sizeof(*refs));
    ret->postings = (struct postings){refs, found.n};
    return true;
}

static bool find(struct finding *f, const struct matcher *const *ms, size_t n_ms, struct candidates *ret, struct err *err)
{
    bool asks = false;
    f->groups = ARENA_ARRAY(&f->scratch, struct group, n_ms + 1);
    if (!f->groups)
        return over_memory(err);
    for (size_t i = 0; i < n_ms; i++) {
        if (!ctx_check(f->ctx, err) || !add_group(f, ms[i], err))
            return false;
        const struct group *g = &f->groups[f->n - 1];
        if (!g->away && g->n == 0)
            return true; /* no series at all */
        asks |= !g->away;
        f->n -= g->away && g->n == 0;
    }
    if (!asks && !add_all_postings(f, err))
        return false;
    choose(f);
    return read_lists(f, err) && put_together(f, ret, err);
}

bool postings_find(struct store_block *b, struct ctx *ctx, const struct matcher *const *ms, size_t n_ms, struct candidates *ret, struct store_stats *stats,
                   struct err *err)
{
    struct finding f = {.b = b, .ctx = ctx, .stats = stats};
    *ret = (struct candidates){0};
    arena_init(&f.scratch, ctx->arena->budget_bytes);
    bool good = find(&f, ms, n_ms, ret, err);
    arena_release(&f.scratch);
    return good;
}
