/*
 * The second phase of a select: chunks, batch by batch.
 *
 * What phase 1 leaves behind of a series (select.ahead) is
 *   uvarint number of chunks; of each: varint min_t - max_t of the one before (0 at first), uvarint max_t - min_t,
 *   varint reference - end of the chunk before (in the whole list), uvarint length (0: not known)
 * A reference is segment << 32 | offset, its length all of the chunk's bytes in the segment. Chunks mostly follow each other, so that a reference is one byte.
 *
 * A batch is as many series as fit BATCH_BYTES with the gaps between their chunks, at least one; callers are handed what is ready, in portions of their own. A
 * chunk without a length is read with a guess, and once more by itself when it was larger.
 */
#include <stdlib.h>
#include <string.h>

#include "base/assert.h"
#include "storage/block/bytes.h"
#include "storage/block/crc32c.h"
#include "storage/store/select_int.h"

#define BATCH_BYTES ((size_t)4 << 20)
#define BATCH_SERIES 4096
#define GUESS_BYTES 1280
#define KNOWN_MAX ((uint64_t)1 << 20) /* a longer way to the next chunk is no chunk's length */
#define CHUNK_BYTES_MAX ((uint64_t)256 << 20)
#define SEGMENT_FIRST 8

struct chunk_wanted {
    int64_t min_t, max_t;
    uint64_t ref, length;
    size_t at; /* in the list of the batch */
};

static void put_varint(struct buf *out, int64_t v)
{
    buf_put_uvarint(out, zigzag(v));
}

/* --- between the phases --- */

/* Of the chunk with this reference, when the next one is at `next`. */
static uint64_t length_to(uint64_t ref, uint64_t next)
{
    return next > ref && next >> 32 == ref >> 32 && next - ref <= KNOWN_MAX ? next - ref : 0;
}

bool select_note_chunks(struct store_select *s, size_t n, struct err *err)
{
    const struct index_series *series = &s->series;
    int64_t before = 0;
    buf_put_uvarint(&s->ahead, n);
    for (size_t i = 0; i < series->n_chunks; i++) {
        const struct index_chunk *c = &series->chunks[i];
        if (!select_touches(s, c))
            continue;
        uint64_t length = length_to(c->ref, i + 1 < series->n_chunks ? c[1].ref : s->next_chunk);
        put_varint(&s->ahead, (int64_t)((uint64_t)c->min_t - (uint64_t)before));
        buf_put_uvarint(&s->ahead, (uint64_t)c->max_t - (uint64_t)c->min_t);
        put_varint(&s->ahead, (int64_t)(c->ref - s->ahead_ref));
        buf_put_uvarint(&s->ahead, length);
        before = c->max_t;
        s->ahead_ref = c->ref + length;
    }
    s->ahead_series++;
    return !s->ahead.failed || err_set(err, ERR_MAX_QUERY_MEMORY, "the request used up its memory while reading the chunks of a block");
}

static void want_chunk(struct store_select *s, const struct chunk_wanted *c)
{
    if (s->n_wanted == s->cap_wanted) {
        s->cap_wanted = s->cap_wanted ? 2 * s->cap_wanted : 256;
        s->wanted = realloc(s->wanted, s->cap_wanted * sizeof(*s->wanted));
        ASSERT(s->wanted);
    }
    s->wanted[s->n_wanted++] = *c;
}

/* What reading this chunk adds to a batch that has the ones before it: its bytes, and the gap when it is read along. */
static size_t cost_of(const struct store_select *s, uint64_t ref, uint64_t length)
{
    const struct chunk_wanted *before = s->n_wanted ? &s->wanted[s->n_wanted - 1] : NULL;
    uint64_t end = before ? before->ref + before->length : ref, bytes = length ? length : GUESS_BYTES;
    return bytes + (ref > end && ref >> 32 == end >> 32 && ref - end <= s->b->store->cfg.max_gap_bytes_chunks ? ref - end : 0);
}

/* The chunks of one series from the notes to the list; what reading them adds. */
static size_t take_series(struct store_select *s, size_t *ret_n)
{
    struct dec d = dec_of((const uint8_t *)s->ahead.p + s->ahead_at, s->ahead.n - s->ahead_at);
    size_t n = dec_uvarint(&d), bytes = 0;
    uint64_t t = 0;
    for (size_t i = 0; i < n; i++) {
        uint64_t min_t = t + (uint64_t)dec_varint(&d);
        t = min_t + dec_uvarint(&d);
        uint64_t ref = s->done_ref + (uint64_t)dec_varint(&d), length = dec_uvarint(&d);
        bytes += cost_of(s, ref, length);
        want_chunk(s, &(struct chunk_wanted){(int64_t)min_t, (int64_t)t, ref, length, s->n_wanted});
        s->done_ref = ref + length;
    }
    ASSERT(!d.bad);
    s->ahead_at = (size_t)(d.p - (const uint8_t *)s->ahead.p);
    s->ahead_series--;
    *ret_n = n;
    return bytes;
}

/* --- a batch --- */

static int by_ref(const void *a, const void *b)
{
    const struct chunk_wanted *x = a, *y = b;
    return (x->ref > y->ref) - (x->ref < y->ref);
}

/* A length that is not known is guessed, within what the segment has. */
static bool guess_lengths(struct store_select *s, const struct ctx *ctx, struct err *err)
{
    for (size_t i = 0; i < s->n_wanted; i++) {
        struct chunk_wanted *c = &s->wanted[i];
        uint64_t offset = c->ref & UINT32_MAX, bytes;
        uint32_t segment = (uint32_t)MIN(c->ref >> 32, (uint64_t)UINT32_MAX - 1);
        if (c->length)
            continue;
        if (!block_file_bytes(s->b, ctx, segment, &bytes, err))
            return false;
        if (offset < SEGMENT_FIRST || offset >= bytes)
            return block_corrupt(s->b, segment, offset, "a chunk that is out of its segment", err);
        c->length = MIN(bytes - offset, (uint64_t)GUESS_BYTES);
    }
    return true;
}

/* Which series are in the batch, and how many chunks they have. */
static void plan_batch(struct store_select *s)
{
    size_t bytes = 0, max = MIN(s->ahead_series, (size_t)BATCH_SERIES);
    if (max > s->cap_ready) {
        s->cap_ready = max;
        s->ready = realloc(s->ready, max * sizeof(*s->ready));
        ASSERT(s->ready);
    }
    s->n_wanted = s->ready_at = s->n_ready = 0;
    for (; s->n_ready < max && bytes < BATCH_BYTES; s->n_ready++) {
        s->ready[s->n_ready] = (struct series){0};
        bytes += take_series(s, &s->ready[s->n_ready].n_chunks);
    }
    if (s->ahead_series == 0) {
        buf_clear(&s->ahead);
        s->ahead_at = 0;
    }
}

static bool is_sorted(const struct store_select *s)
{
    for (size_t i = 1; i < s->n_wanted; i++)
        if (s->wanted[i].ref < s->wanted[i - 1].ref)
            return false;
    return true;
}

static bool corrupt(const struct store_select *s, const struct chunk_wanted *c, const char *what, struct err *err)
{
    return block_corrupt(s->b, (uint32_t)(c->ref >> 32), c->ref & UINT32_MAX, what, err);
}

/* uvarint length of the data, encoding, data, CRC-32C. *ret_need: of all of it, when n is less. */
static bool decode(const struct store_select *s, const struct chunk_wanted *c, const uint8_t *p, uint64_t n, struct series_chunk *ret, uint64_t *ret_need,
                   struct err *err)
{
    struct dec d = dec_of(p, n);
    uint64_t data = dec_uvarint(&d), head = (uint64_t)(d.p - p);
    *ret_need = 0;
    if (d.bad && n < UVARINT_MAX_BYTES) {
        *ret_need = UVARINT_MAX_BYTES;
        return true;
    }
    if (d.bad || data > CHUNK_BYTES_MAX)
        return corrupt(s, c, "a chunk of a length that cannot be", err);
    if (n < head + 1 + data + 4) {
        *ret_need = head + 1 + data + 4;
        return true;
    }
    if (crc32c(0, d.p, data + 1) != get_be32(d.p + 1 + data))
        return corrupt(s, c, "the checksum of a chunk does not fit", err);
    if (*d.p < CHUNK_XOR || *d.p > CHUNK_FLOAT_HISTOGRAM)
        return corrupt(s, c, "an encoding that is not known", err);
    *ret = (struct series_chunk){c->min_t, c->max_t, (enum chunk_encoding)*d.p, slice_make(d.p + 1, data)};
    return true;
}

/* Reads it by itself, into memory that lives as long as the batch. */
static bool read_larger(struct store_select *s, const struct ctx *ctx, const struct chunk_wanted *c, uint64_t need, struct series_chunk *ret, struct err *err)
{
    uint64_t offset = c->ref & UINT32_MAX, bytes;
    uint32_t segment = (uint32_t)(c->ref >> 32);
    for (int tries = 0; need && tries < 2; tries++) {
        struct buf larger;
        if (!block_file_bytes(s->b, ctx, segment, &bytes, err))
            return false;
        if (need == UVARINT_MAX_BYTES)
            need = MIN(need, bytes - MIN(offset, bytes));
        if (offset >= bytes || need > bytes - offset)
            return corrupt(s, c, "a chunk that is cut short", err);
        metric_inc(s->b->store->chunk_refetches);
        buf_init(&larger, need);
        bool good = fetch_one(s->b, ctx, FETCH_CHUNKS, segment, offset, need, &larger, &s->stats, err);
        struct slice kept = good ? arena_dup(&s->larger, buf_slice(&larger)) : (struct slice){0};
        buf_release(&larger);
        if (!good)
            return false;
        if (!kept.p)
            return err_set(err, ERR_NO_MEMORY, "no memory to read a block");
        if (!decode(s, c, (const uint8_t *)kept.p, kept.n, ret, &need, err))
            return false;
    }
    return need == 0 || corrupt(s, c, "a chunk that is cut short", err);
}

static bool decode_all(struct store_select *s, const struct ctx *ctx, struct err *err)
{
    struct fetch_place at = {0};
    for (size_t i = 0; i < s->n_wanted; i++) {
        const struct chunk_wanted *c = &s->wanted[i];
        struct series_chunk *ret = &s->chunks[c->at];
        uint64_t need;
        size_t n;
        const uint8_t *p = fetch_find(&s->fetched, &at, (uint32_t)(c->ref >> 32), c->ref & UINT32_MAX, &n);
        ASSERT(p);
        if (!decode(s, c, p, n, ret, &need, err))
            return false;
        if (need && !read_larger(s, ctx, c, need, ret, err))
            return false;
    }
    return true;
}

static bool read_chunks(struct store_select *s, const struct ctx *ctx, struct err *err)
{
    struct fetch *f = &s->fetched;
    if (!guess_lengths(s, ctx, err))
        return false;
    if (!is_sorted(s))
        qsort(s->wanted, s->n_wanted, sizeof(*s->wanted), by_ref);
    fetch_clear(f);
    for (size_t i = 0; i < s->n_wanted; i++) {
        const struct chunk_wanted *c = &s->wanted[i];
        uint64_t offset = c->ref & UINT32_MAX;
        if (offset < SEGMENT_FIRST || c->ref >> 32 >= FILE_INDEX)
            return corrupt(s, c, "a chunk that is out of its segment", err);
        fetch_want(f, (uint32_t)(c->ref >> 32), offset, offset + c->length, s->b->store->cfg.max_gap_bytes_chunks);
    }
    return fetch_read(s->b, ctx, FETCH_CHUNKS, f, &s->stats, err) && decode_all(s, ctx, err);
}

static bool read_batch(struct store_select *s, const struct ctx *ctx, struct err *err)
{
    if (!ctx_check(ctx, err))
        return false;
    arena_clear(&s->larger);
    plan_batch(s);
    if (s->n_wanted > s->cap_chunks) {
        s->cap_chunks = MAX(s->n_wanted, 2 * s->cap_chunks);
        s->chunks = realloc(s->chunks, s->cap_chunks * sizeof(*s->chunks));
        ASSERT(s->chunks);
    }
    if (!read_chunks(s, ctx, err)) {
        s->n_ready = 0;
        return false;
    }
    const struct series_chunk *at = s->chunks;
    for (size_t i = 0; i < s->n_ready; i++) {
        s->ready[i].chunks = at;
        at += s->ready[i].n_chunks;
    }
    s->stats.chunks_touched += s->n_wanted;
    for (size_t i = 0; i < s->n_wanted; i++)
        s->stats.chunks_touched_bytes += s->chunks[i].data.n;
    return true;
}

bool store_select_chunks(struct store_select *s, struct ctx *ctx, struct series *ret, size_t max, size_t *ret_n, struct err *err)
{
    ASSERT(!s->params.no_chunks);
    *ret_n = 0;
    if (s->ready_at == s->n_ready && !read_batch(s, ctx, err))
        return false;
    while (*ret_n < max && s->ready_at < s->n_ready)
        ret[(*ret_n)++] = s->ready[s->ready_at++];
    return true;
}

void select_release_chunks(struct store_select *s)
{
    fetch_release(&s->fetched);
    free(s->ready);
    free(s->wanted);
    free(s->chunks);
    arena_release(&s->larger);
}
