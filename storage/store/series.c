/*
 * The first phase of a select: series entries, window by window.
 *
 * A window is as many candidates as fit WINDOW_BYTES with the gaps between them, each with a guess of its bytes. One that is larger is read once more by
 * itself; the guess grows, and the candidates behind it are read again with it: at most some seven times a select.
 *
 * What lies behind an entry is nearly always in the window too: the entry of the next series, whose first chunk begins where the last one of this series ends.
 * So the lengths of chunks, which the index does not say, are known without another request.
 */
#include <stdlib.h>
#include <string.h>

#include "base/assert.h"
#include "storage/block/bytes.h"
#include "storage/store/select_int.h"

#define WINDOW_BYTES ((size_t)4 << 20)
#define GUESS_BYTES 512
#define GUESS_BYTES_MAX ((size_t)64 << 10)
#define NEXT_BYTES 128 /* of the next entry, up to its first chunk */
#define SERIES_BYTES_MAX ((size_t)64 << 20)
#define CHECK_EVERY 256

static bool over_memory(struct err *err)
{
    return err_set(err, ERR_MAX_QUERY_MEMORY, "the request used up its memory while reading the series of a block");
}

/* --- windows --- */

static uint64_t offset_of(uint32_t ref)
{
    return (uint64_t)ref * INDEX_SERIES_ALIGN;
}

static bool read_window(struct store_select *s, const struct ctx *ctx, struct err *err)
{
    const struct index *ix = &s->b->header.index;
    const struct postings *p = &s->found.postings;
    struct fetch *w = &s->window;
    uint64_t max_gap = s->b->store->cfg.max_gap_bytes;
    fetch_clear(w);
    s->window_at = (struct fetch_place){0};
    for (s->loaded = s->at; s->loaded < p->n; s->loaded++) {
        uint64_t from = offset_of(p->refs[s->loaded]), to = MIN(from + s->guess_bytes, ix->series_to);
        if (from < ix->series_from || from >= ix->series_to)
            return index_corrupt(ix, from, "a reference that is out of the series", err);
        uint64_t end = w->n ? w->groups[w->n - 1].to : from;
        if (w->n && w->total + (to - end <= max_gap + s->guess_bytes ? to - end : s->guess_bytes) > WINDOW_BYTES)
            break;
        fetch_want(w, FILE_INDEX, from, to, max_gap);
    }
    return fetch_read(s->b, ctx, FETCH_SERIES, w, &s->stats, err);
}

/* The reference of the first chunk of the entry at p, of which perhaps not all is there; 0: it cannot be told. It is only a guess of a length: no checksum. */
static uint64_t first_chunk(const uint8_t *p, size_t n)
{
    struct dec d = dec_of(p, n);
    dec_uvarint(&d);
    uint64_t labels = dec_uvarint(&d);
    for (uint64_t i = 0; i < 2 * labels && !d.bad && labels < n; i++)
        dec_uvarint(&d);
    uint64_t chunks = dec_uvarint(&d);
    dec_varint(&d);
    dec_uvarint(&d);
    uint64_t ref = dec_uvarint(&d);
    return d.bad || chunks == 0 || labels >= n ? 0 : ref;
}

static void grow_guess(struct store_select *s, size_t need)
{
    size_t before = s->guess_bytes;
    while (s->guess_bytes < need + NEXT_BYTES && s->guess_bytes < GUESS_BYTES_MAX)
        s->guess_bytes *= 2;
    if (s->guess_bytes > before)
        s->loaded = s->at + 1; /* the window ends here */
}

/* The entry as far as the window has it. */
static bool decode(struct store_select *s, const struct ctx *ctx, uint64_t offset, struct err *err)
{
    const struct index *ix = &s->b->header.index;
    size_t n, need;
    const uint8_t *p = fetch_find(&s->window, &s->window_at, FILE_INDEX, offset, &n);
    ASSERT(p);
    s->next_chunk = 0;
    if (!index_series_decode(ix, offset, p, n, &s->series, &need, err))
        return false;
    for (int tries = 0; need && tries < 2; tries++) {
        metric_inc(s->b->store->refetches);
        if (need > SERIES_BYTES_MAX)
            return index_corrupt(ix, offset, "a series of a length that cannot be", err);
        grow_guess(s, need);
        n = MIN(need + NEXT_BYTES, ix->series_to - offset);
        if (!fetch_one(s->b, ctx, FETCH_SERIES, FILE_INDEX, offset, n, &s->refetched, &s->stats, err))
            return false;
        p = (const uint8_t *)s->refetched.p;
        if (!index_series_decode(ix, offset, p, n, &s->series, &need, err))
            return false;
    }
    if (need)
        return index_corrupt(ix, offset, "a series that changes while it is read", err);
    s->stats.series_touched_bytes += s->series.end - offset;
    uint64_t next = (s->series.end + INDEX_SERIES_ALIGN - 1) / INDEX_SERIES_ALIGN * INDEX_SERIES_ALIGN;
    if (next < offset + n && next < ix->series_to)
        s->next_chunk = first_chunk(p + (next - offset), n - (next - offset));
    return true;
}

static bool is_match(const struct store_select *s)
{
    struct labels labels = {s->series.labels, s->series.n_labels};
    for (size_t i = 0; i < s->found.n_pending; i++)
        if (!matchers_match(s->found.pending[i], 1, labels))
            return false;
    return s->shard.count == 0 || query_shard_hash(labels) % s->shard.count == s->shard.index;
}

bool select_next(struct store_select *s, struct ctx *ctx, bool *ret_more, struct err *err)
{
    for (*ret_more = false; !*ret_more && s->at < s->found.postings.n; s->at++) {
        if (s->at % CHECK_EVERY == 0 && !ctx_check(ctx, err))
            return false;
        if (s->at >= s->loaded && !read_window(s, ctx, err))
            return false;
        if (!decode(s, ctx, offset_of(s->found.postings.refs[s->at]), err))
            return false;
        s->stats.series_touched++;
        *ret_more = is_match(s);
    }
    if (!*ret_more)
        fetch_release(&s->window); /* the second phase may take long */
    return true;
}

/* --- phase 1 --- */

static bool give_labels(const struct store_select *s, struct ctx *ctx, struct store_series *ret, struct err *err)
{
    size_t n = s->series.n_labels;
    struct label *labels = ARENA_ARRAY(ctx->arena, struct label, n + 1);
    if (!labels)
        return over_memory(err);
    if (n)
        memcpy(labels, s->series.labels, n * sizeof(*labels));
    ret->labels = (struct labels){labels, n};
    return true;
}

bool store_select_series(struct store_select *s, struct ctx *ctx, struct store_series *ret, size_t max, size_t *ret_n, struct err *err)
{
    *ret_n = 0;
    if (s->params.limit)
        max = MIN(max, s->params.limit - s->given);
    while (*ret_n < max) {
        bool more;
        size_t n = 0;
        if (!select_next(s, ctx, &more, err))
            return false;
        if (!more)
            break;
        for (size_t i = 0; i < s->series.n_chunks; i++)
            n += select_touches(s, &s->series.chunks[i]);
        if (n == 0)
            continue;
        struct store_series *series = &ret[*ret_n];
        series->n_chunks = (uint32_t)n;
        if (!give_labels(s, ctx, series, err) || (!s->params.no_chunks && !select_note_chunks(s, n, err)))
            return false;
        ++*ret_n;
        s->given++;
    }
    return true;
}

/* --- life --- */

/* Sets the shard aside; what remains is in scratch. */
static bool take_shard(struct store_select *s, struct arena *scratch, const struct matcher *const **ret, size_t *ret_n, struct err *err)
{
    const struct matcher **rest = ARENA_ARRAY(scratch, const struct matcher *, s->params.n_matchers + 1);
    if (!rest)
        return over_memory(err);
    *ret_n = 0;
    for (size_t i = 0; i < s->params.n_matchers; i++) {
        const struct matcher *m = &s->params.matchers[i];
        if (m->type != MATCH_EQ || !slice_eq(m->name, SL(QUERY_SHARD_LABEL)))
            rest[(*ret_n)++] = m;
        else if (!query_shard_parse(m->value, &s->shard))
            return err_set(err, ERR_BAD_DATA, "invalid query shard \"%.*s\"", SL_FMT(m->value));
    }
    *ret = rest;
    return true;
}

struct store_select *store_select_new(struct store_block *b, struct ctx *ctx, const struct select_params *p, struct err *err)
{
    struct store_select *s = calloc(1, sizeof(*s));
    const struct matcher *const *ms = NULL;
    size_t n = 0;
    ASSERT(s);
    s->b = store_block_ref(b);
    s->params = *p;
    s->guess_bytes = GUESS_BYTES;
    buf_init(&s->refetched, SERIES_BYTES_MAX + NEXT_BYTES);
    buf_init(&s->ahead, ctx->arena->budget_bytes);
    arena_init(&s->larger, 0);
    if (header_need_symbols(&b->header, err) && take_shard(s, ctx->arena, &ms, &n, err) && postings_find(b, ctx, ms, n, &s->found, &s->stats, err))
        return s;
    store_select_free(s);
    return NULL;
}

const struct store_stats *store_select_stats(const struct store_select *s)
{
    return &s->stats;
}

void store_select_free(struct store_select *s)
{
    if (!s)
        return;
    select_release_chunks(s);
    fetch_release(&s->window);
    index_series_release(&s->series);
    buf_release(&s->refetched);
    buf_release(&s->ahead);
    store_block_unref(s->b);
    free(s);
}
