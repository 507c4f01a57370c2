/*
 * Everything in a block read once. Beyond what every reading checks (checksums, bounds), what only the whole can show: series ascend and are those of
 * the list of all series; each list of postings names exactly the series with that label; chunks lie in order within the block's times, decode, and have the
 * times the index says; the counts of meta.json are true.
 *
 * Memory: the references of all series, and one list of postings. Every series is decoded once, and once more for each of its labels.
 */
#include <stdlib.h>

#include "storage/block/block_int.h"
#include "storage/block/bytes.h"

#define FORGET_BYTES ((size_t)32 << 20) /* of chunks, and FORGET_SERIES, between two times that what was read is let go */
#define FORGET_SERIES 262144
#define CHECK_EVERY 1024 /* series, or lists of postings, between two looks at the deadline */

struct checking {
    struct block *b;
    const struct ctx *ctx; /* NULL: it takes as long as it takes */
    struct arena arena; /* of the list or the chunk at hand */
    struct index_series series, before;
    struct block_stats stats;
    uint64_t n_labels; /* of all series */
    size_t n_bytes;    /* of chunks, since the pages were let go */
    size_t n_read;     /* series, likewise */
};

static bool may_go_on(const struct checking *k, size_t i, struct err *err)
{
    return !k->ctx || i % CHECK_EVERY || ctx_check(k->ctx, err);
}

static void count_read(struct checking *k, size_t n_bytes, size_t n_series)
{
    k->n_bytes += n_bytes;
    k->n_read += n_series;
    if (k->n_bytes < FORGET_BYTES && k->n_read < FORGET_SERIES)
        return;
    block_forget_pages(k->b);
    k->n_bytes = k->n_read = 0;
}

static bool check_chunk(struct checking *k, const struct index_chunk *c, struct err *err)
{
    struct series_chunk chunk;
    struct chunk_columns columns;
    const struct index *ix = &k->b->index;
    if (c->min_t < k->b->meta.min_t || c->max_t >= k->b->meta.max_t)
        return err_set(err, ERR_CORRUPT, "%s: a chunk of the times %lld to %lld is out of the block's", ix->path, (long long)c->min_t, (long long)c->max_t);
    if (!block_read_chunk(k->b, c, &chunk, err))
        return false;
    arena_clear(&k->arena);
    if (!chunk_decode(chunk.encoding, chunk.data, &k->arena, &columns, err))
        return err_prefix(err, "%s: offset %u: ", k->b->segments[c->ref >> 32].path, (uint32_t)c->ref);
    if (columns.n == 0 || columns.t[0] != c->min_t || columns.t[columns.n - 1] != c->max_t)
        return err_set(err, ERR_CORRUPT, "%s: offset %u: a chunk with other times than the index says", k->b->segments[c->ref >> 32].path, (uint32_t)c->ref);
    for (size_t i = 1; i < columns.n; i++)
        if (columns.t[i] <= columns.t[i - 1])
            return err_set(err, ERR_CORRUPT, "%s: offset %u: a chunk with samples out of order", k->b->segments[c->ref >> 32].path, (uint32_t)c->ref);
    count_read(k, chunk.data.n, 0);
    k->stats.chunks++;
    k->stats.samples += columns.n;
    if (chunk.encoding == CHUNK_XOR)
        k->stats.float_samples += columns.n;
    else
        k->stats.histogram_samples += columns.n;
    return true;
}

static bool check_series(struct checking *k, uint32_t ref, bool first, struct err *err)
{
    struct index_series *s = &k->series;
    const struct index *ix = &k->b->index;
    uint64_t at = ix->version == 1 ? ref : (uint64_t)ref * INDEX_SERIES_ALIGN;
    if (!index_series_read(ix, ref, s, err))
        return false;
    if (!first && labels_cmp((struct labels){k->before.labels, k->before.n_labels}, (struct labels){s->labels, s->n_labels}) >= 0)
        return index_corrupt(ix, at, "series out of order", err);
    if (s->n_labels == 0 || s->n_chunks == 0)
        return index_corrupt(ix, at, "a series without labels or chunks", err);
    if (s->overlapping)
        return index_corrupt(ix, at, "a series with chunks that are out of order", err);
    for (size_t i = 0; i < s->n_chunks; i++)
        if (!check_chunk(k, &s->chunks[i], err))
            return false;
    count_read(k, 0, 1);
    k->stats.series++;
    k->n_labels += s->n_labels;
    struct index_series swap = k->before;
    k->before = k->series;
    k->series = swap;
    return true;
}

static bool check_all_series(struct checking *k, struct err *err)
{
    struct arena arena;
    struct postings all;
    arena_init(&arena, 0);
    bool good = index_postings_read(&k->b->index, k->b->index.all_postings, &arena, &all, err);
    for (size_t i = 0; good && i < all.n; i++)
        good = may_go_on(k, i, err) && check_series(k, all.refs[i], i == 0, err);
    arena_release(&arena);
    return good;
}

static bool has_label(const struct index_series *s, struct slice name, struct slice value)
{
    return slice_eq(labels_get((struct labels){s->labels, s->n_labels}, name), value);
}

/* A reference is a series when it reads as one: its checksum and form say so. */
static bool check_list(struct checking *k, struct slice name, uint32_t entry, uint64_t *n_total, struct err *err)
{
    struct postings p;
    uint64_t offset;
    const struct index *ix = &k->b->index;
    struct slice value = index_entry_value(ix, entry, &offset);
    arena_clear(&k->arena);
    if (!index_postings_read(ix, offset, &k->arena, &p, err))
        return false;
    for (size_t i = 0; i < p.n; i++) {
        if (!index_series_read(ix, p.refs[i], &k->series, err))
            return false;
        if (!has_label(&k->series, name, value))
            return index_corrupt(ix, offset, "postings that name a series without the label", err);
        count_read(k, 0, 1);
    }
    *n_total += p.n;
    return true;
}

/* When no list names a series wrongly and all together are as long as the labels of all series, none is missing. */
static bool check_postings(struct checking *k, struct err *err)
{
    const struct index *ix = &k->b->index;
    uint64_t n_total = 0;
    for (size_t i = 0; i < ix->n_names; i++)
        for (uint32_t e = 0; e < ix->names[i].n; e++)
            if (!may_go_on(k, e, err) || !check_list(k, ix->names[i].name, ix->names[i].first + e, &n_total, err))
                return false;
    return n_total == k->n_labels || index_corrupt(ix, ix->postings_from, "postings that do not name every series with its labels", err);
}

static bool check_count(const struct checking *k, const char *what, uint64_t found, uint64_t said, struct err *err)
{
    return found == said || err_set(err, ERR_CORRUPT, "%s/meta.json: %llu %s, and there are %llu", k->b->dir, (unsigned long long)said, what,
                                    (unsigned long long)found);
}

/* Blocks of older programs do not count floats and histograms apart. */
static bool check_stats(const struct checking *k, struct err *err)
{
    const struct block_stats *said = &k->b->meta.stats, *found = &k->stats;
    bool apart = said->float_samples || said->histogram_samples;
    return check_count(k, "series", found->series, said->series, err) && check_count(k, "chunks", found->chunks, said->chunks, err) &&
           check_count(k, "samples", found->samples, said->samples, err) &&
           (!apart || (check_count(k, "float samples", found->float_samples, said->float_samples, err) &&
                       check_count(k, "histogram samples", found->histogram_samples, said->histogram_samples, err)));
}

bool block_verify(struct block *b, struct err *err)
{
    return block_verify_within(b, NULL, err);
}

bool block_verify_within(struct block *b, const struct ctx *ctx, struct err *err)
{
    struct checking k = {.b = b, .ctx = ctx};
    arena_init(&k.arena, 0);
    bool good = check_all_series(&k, err) && check_postings(&k, err) && check_stats(&k, err);
    index_series_release(&k.series);
    index_series_release(&k.before);
    arena_release(&k.arena);
    return good;
}
