/* A source looked through before it is merged, so that a merge which fails later has only this machine to blame. */
#include <stdlib.h>
#include <string.h>

#include "storage/compactor/merge_int.h"

#define CHECK_EVERY 128

struct check {
    struct block *b;
    struct arena arena; /* of the chunk at hand */
    struct arena labels[2]; /* of the series at hand and the one before, in turns */
    struct block_stats stats;
    size_t n_bytes; /* of chunks, since the pages were let go */
};

static bool bad(const struct check *k, enum err_code code, const char *what, struct err *err)
{
    return err_set(err, code, "block %s: %s", block_meta_of(k->b)->ulid.text, what);
}

static bool check_samples(const struct check *k, const struct chunk_columns *c, struct err *err)
{
    struct err why = ERR_NONE;
    for (size_t i = 1; i < c->n; i++)
        if (c->t[i] <= c->t[i - 1])
            return bad(k, ERR_OUT_OF_RANGE, "a chunk with samples out of order", err);
    for (size_t i = 0; c->h && i < c->n; i++)
        if (!histogram_validate(&c->h[i], &why))
            return err_set(err, ERR_CORRUPT, "block %s: a histogram that is none: %s", block_meta_of(k->b)->ulid.text, why.text);
    return true;
}

static bool check_chunk(struct check *k, const struct series_chunk *chunk, struct err *err)
{
    struct chunk_columns c;
    const struct block_meta *meta = block_meta_of(k->b);
    arena_clear(&k->arena);
    if (!chunk_decode(chunk->encoding, chunk->data, &k->arena, &c, err))
        return err_prefix(err, "block %s: ", meta->ulid.text);
    if (!check_samples(k, &c, err))
        return false;
    if (c.n == 0 || c.t[0] != chunk->min_t || c.t[c.n - 1] != chunk->max_t)
        return bad(k, ERR_CORRUPT, "a chunk with other times than the index says", err);
    if (chunk->min_t < meta->min_t || chunk->max_t >= meta->max_t)
        return bad(k, ERR_CORRUPT, "a chunk that is out of the block's times", err);
    k->stats.chunks++;
    k->stats.samples += c.n;
    k->n_bytes += chunk->data.n;
    if (k->n_bytes >= MERGE_FORGET_BYTES) {
        block_forget_pages(k->b);
        k->n_bytes = 0;
    }
    return true;
}

static bool check_all(struct check *k, struct block_scan *scan, const struct ctx *ctx, struct err *err)
{
    struct series s;
    struct labels before = {0};
    bool more;
    for (size_t n = 0;; n++) {
        if (n % CHECK_EVERY == 0 && !ctx_check(ctx, err))
            return false;
        if (!block_scan_next(scan, &s, &more, err))
            return false;
        if (!more)
            return true;
        if (s.labels.n == 0 || s.n_chunks == 0 || (n && labels_cmp(before, s.labels) >= 0))
            return bad(k, ERR_CORRUPT, "series out of order, or without labels or chunks", err);
        for (size_t i = 0; i < s.n_chunks; i++)
            if (!check_chunk(k, &s.chunks[i], err))
                return false;
        arena_clear(&k->labels[n % 2]);
        before = labels_dup(&k->labels[n % 2], s.labels);
        k->stats.series++;
    }
}

bool merge_check_source(struct block *b, const struct ctx *ctx, struct err *err)
{
    struct check k = {.b = b};
    const struct block_stats *said = &block_meta_of(b)->stats;
    arena_init(&k.arena, 0);
    arena_init(&k.labels[0], 0);
    arena_init(&k.labels[1], 0);
    struct block_scan *scan = block_scan_new(b, err);
    bool good = scan && check_all(&k, scan, ctx, err);
    block_scan_free(scan);
    block_forget_pages(b);
    arena_release(&k.arena);
    arena_release(&k.labels[0]);
    arena_release(&k.labels[1]);
    if (good && (k.stats.series != said->series || k.stats.chunks != said->chunks || k.stats.samples != said->samples))
        return bad(&k, ERR_CORRUPT, "meta.json counts other series, chunks or samples than there are", err);
    return good;
}
