/*
 * The merge as a whole: blocks in order, their scans in a heap by labels, and a writer for each result. What it makes appears block by block when it is
 * complete, and is removed again when a later one fails.
 */
#include "storage/compactor/merge.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/assert.h"
#include "storage/compactor/merge_int.h"
#include "storage/compactor/tree_int.h"

#define CHECK_EVERY 128 /* series between two looks at the deadline */

struct source {
    struct block *b;
    struct block_scan *scan; /* owned */
    struct series series;    /* at hand */
    struct label *labels;    /* owned: a copy of those before, to see that they ascend */
    size_t n_labels, cap_labels;
    uint32_t rank;
};

struct merge {
    const struct merge_params *p;
    const struct ctx *ctx;
    struct arena *arena; /* the caller's: metas */
    struct source *sources; /* owned, n_blocks; in order of rank */
    struct source **heap;   /* owned */
    size_t n_heap;
    struct merge_symbols symbols;
    struct join joined;
    uint32_t n_results;
    struct block_writer **writers; /* owned; NULL: nothing goes there */
    struct ulid *ulids;            /* owned */
    struct block_meta common;      /* what all results have */
};

static bool no_memory(struct err *err)
{
    return err_set(err, ERR_NO_MEMORY, "no memory to merge blocks");
}

/* --- what is known before ----------------------------------------------------------------------------------------------------- */

static int by_min_t_then_ulid(const void *a, const void *b)
{
    const struct block_meta *x = block_meta_of(((const struct source *)a)->b), *y = block_meta_of(((const struct source *)b)->b);
    if (x->min_t != y->min_t)
        return x->min_t < y->min_t ? -1 : 1;
    return strcmp(x->ulid.text, y->ulid.text);
}

static int by_text(const void *a, const void *b)
{
    return strcmp(((const struct ulid *)a)->text, ((const struct ulid *)b)->text);
}

/* The sources of all sources, sorted, each once. */
static bool unite_sources(struct merge *m, struct err *err)
{
    size_t n = 0, n_unique = 0;
    for (size_t i = 0; i < m->p->n_blocks; i++)
        n += block_meta_of(m->sources[i].b)->n_sources;
    struct ulid *all = ARENA_ARRAY(m->arena, struct ulid, n + 1);
    if (!all)
        return no_memory(err);
    n = 0;
    for (size_t i = 0; i < m->p->n_blocks; i++) {
        const struct block_meta *meta = block_meta_of(m->sources[i].b);
        if (meta->n_sources)
            memcpy(all + n, meta->sources, meta->n_sources * sizeof(*all));
        n += meta->n_sources;
    }
    qsort(all, n, sizeof(*all), by_text);
    for (size_t i = 0; i < n; i++)
        if (n_unique == 0 || strcmp(all[n_unique - 1].text, all[i].text) != 0)
            all[n_unique++] = all[i];
    m->common.sources = all;
    m->common.n_sources = n_unique;
    return true;
}

static bool make_common_meta(struct merge *m, struct err *err)
{
    struct block_parent *parents = ARENA_ARRAY(m->arena, struct block_parent, m->p->n_blocks);
    if (!parents)
        return no_memory(err);
    const struct block_meta *first = block_meta_of(m->sources[0].b);
    m->common = (struct block_meta){.min_t = first->min_t,
                                    .max_t = first->max_t,
                                    .has_thanos = true,
                                    .resolution_ms = first->resolution_ms,
                                    .source = SL("compactor"),
                                    .parents = parents,
                                    .n_parents = m->p->n_blocks};
    for (size_t i = 0; i < m->p->n_blocks; i++) {
        const struct block_meta *meta = block_meta_of(m->sources[i].b);
        parents[i] = (struct block_parent){meta->ulid, meta->min_t, meta->max_t};
        m->common.min_t = MIN(m->common.min_t, meta->min_t);
        m->common.max_t = MAX(m->common.max_t, meta->max_t);
        m->common.level = MAX(m->common.level, meta->level + 1);
    }
    return unite_sources(m, err);
}

static int by_name(const void *a, const void *b)
{
    return slice_cmp(((const struct block_label *)a)->name, ((const struct block_label *)b)->name);
}

/* The labels of the result, with its shard when there are any. */
static bool make_labels(struct merge *m, uint32_t result, struct block_meta *meta, struct err *err)
{
    size_t n = m->p->n_labels;
    struct block_label *labels = ARENA_ARRAY(m->arena, struct block_label, n + 1);
    if (!labels)
        return no_memory(err);
    if (n)
        memcpy(labels, m->p->labels, n * sizeof(*labels));
    if (m->p->shards) {
        const char *shard = arena_printf(m->arena, "%u_of_%u", result + 1, m->p->shards);
        if (!shard)
            return no_memory(err);
        labels[n++] = (struct block_label){SL(BLOCK_LABEL_SHARD), slice_of(shard)};
        qsort(labels, n, sizeof(*labels), by_name);
    }
    meta->labels = labels;
    meta->n_labels = n;
    return true;
}

/* --- sources -------------------------------------------------------------------------------------------------------------------- */

static bool is_less(const struct source *x, const struct source *y)
{
    int c = labels_cmp(x->series.labels, y->series.labels);
    return c < 0 || (c == 0 && x->rank < y->rank);
}

static void sift_down(struct source **heap, size_t n, size_t i)
{
    for (;;) {
        size_t least = i, l = 2 * i + 1;
        if (l < n && is_less(heap[l], heap[least]))
            least = l;
        if (l + 1 < n && is_less(heap[l + 1], heap[least]))
            least = l + 1;
        if (least == i)
            return;
        struct source *s = heap[i];
        heap[i] = heap[least];
        heap[least] = s;
        i = least;
    }
}

/* The slices stay where they are, in the mapping, but the scan's array is used again. */
static bool remember_labels(struct source *s, struct err *err)
{
    size_t n = s->series.labels.n;
    if (n > s->cap_labels) {
        struct label *labels = realloc(s->labels, n * sizeof(*labels));
        if (!labels)
            return no_memory(err);
        s->labels = labels;
        s->cap_labels = n;
    }
    if (n)
        memcpy(s->labels, s->series.labels.items, n * sizeof(*s->labels));
    s->n_labels = n;
    return true;
}

static bool source_next(struct source *s, bool *ret_more, struct err *err)
{
    bool first = s->cap_labels == 0;
    if (!block_scan_next(s->scan, &s->series, ret_more, err))
        return false;
    if (!*ret_more)
        return true;
    if (!first && labels_cmp((struct labels){s->labels, s->n_labels}, s->series.labels) >= 0)
        return err_set(err, ERR_CORRUPT, "block %s: series out of order", block_meta_of(s->b)->ulid.text);
    return remember_labels(s, err);
}

static bool open_sources(struct merge *m, struct err *err)
{
    bool more;
    for (size_t i = 0; i < m->p->n_blocks; i++) {
        struct source *s = &m->sources[i];
        s->rank = (uint32_t)i;
        s->scan = block_scan_new(s->b, err);
        if (!s->scan || !source_next(s, &more, err))
            return false;
        if (more)
            m->heap[m->n_heap++] = s;
    }
    for (size_t i = m->n_heap; i-- > 0;)
        sift_down(m->heap, m->n_heap, i);
    return true;
}

/* --- results -------------------------------------------------------------------------------------------------------------------- */

static bool open_writer(struct merge *m, uint32_t result, struct err *err)
{
    size_t n;
    struct block_meta meta = m->common;
    meta.ulid = m->ulids[result] = ulid_new(m->p->now_ms);
    if (m->symbols.series[result] == 0)
        return true;
    if (!make_labels(m, result, &meta, err))
        return false;
    struct slice *symbols = merge_symbols_of(&m->symbols, result, &n);
    if (!symbols)
        return no_memory(err);
    m->writers[result] = block_writer_new(m->p->dir, &meta, symbols, n, err);
    free(symbols);
    return m->writers[result] != NULL;
}

/*
 * One series: those at the top of the heap with the same labels, whose chunks are put in order of rank. Their labels and chunks are used until the series is
 * written, so that they are advanced after that.
 */
static bool merge_one(struct merge *m, struct source **same, struct err *err)
{
    size_t n = 0;
    struct labels labels = m->heap[0]->series.labels;
    join_start(&m->joined);
    while (m->n_heap && labels_eq(m->heap[0]->series.labels, labels)) {
        struct source *s = same[n++] = m->heap[0];
        if (!join_put(&m->joined, s->rank, s->series.chunks, s->series.n_chunks, err))
            return false;
        m->heap[0] = m->heap[--m->n_heap];
        sift_down(m->heap, m->n_heap, 0);
    }
    uint32_t result = merge_shard_of(labels, m->n_results);
    if (!join_finish(&m->joined, err))
        return err_prefix(err, "block %s: ", block_meta_of(same[0]->b)->ulid.text);
    if (m->p->pack && !join_pack(m->joined.out, &m->joined.n_out, &m->joined.encoded, err))
        return false;
    m->joined.stats.series += m->joined.n_out > 0;
    if (m->joined.n_out && !block_writer_add(m->writers[result], &labels, m->joined.out, m->joined.n_out, err))
        return false;
    for (size_t i = 0; i < n; i++) {
        bool more;
        if (!source_next(same[i], &more, err))
            return false;
        if (!more)
            continue;
        size_t at = m->n_heap++;
        m->heap[at] = same[i];
        for (; at > 0 && is_less(m->heap[at], m->heap[(at - 1) / 2]); at = (at - 1) / 2) {
            m->heap[at] = m->heap[(at - 1) / 2];
            m->heap[(at - 1) / 2] = same[i];
        }
    }
    return true;
}

static void forget_pages(struct merge *m)
{
    for (size_t i = 0; i < m->p->n_blocks; i++)
        block_forget_pages(m->p->blocks[i]);
    m->joined.n_bytes = 0;
}

static bool merge_all(struct merge *m, struct err *err)
{
    struct source **same = calloc(m->p->n_blocks, sizeof(*same));
    bool good = same || no_memory(err);
    for (size_t n = 0; good && m->n_heap; n++) {
        good = (n % CHECK_EVERY || ctx_check(m->ctx, err)) && merge_one(m, same, err);
        if (m->joined.n_bytes >= MERGE_FORGET_BYTES)
            forget_pages(m);
    }
    free(same);
    return good;
}

static bool finish_all(struct merge *m, struct merge_result *ret, struct err *err)
{
    for (uint32_t i = 0; i < m->n_results; i++) {
        if (!m->writers[i])
            continue;
        if (!ctx_check(m->ctx, err) || !block_writer_finish(m->writers[i], m->arena, &ret->blocks[ret->n_blocks], err))
            return false;
        block_writer_free(m->writers[i]);
        m->writers[i] = NULL;
        ret->shards[ret->n_blocks++] = m->p->shards ? i + 1 : 0;
    }
    return true;
}

static void remove_results(const struct merge *m, struct merge_result *ret)
{
    for (size_t i = 0; i < ret->n_blocks; i++) {
        char path[4096];
        snprintf(path, sizeof(path), "%s/%s", m->p->dir, ret->blocks[i].ulid.text);
        tree_remove(path, NULL);
    }
    ret->n_blocks = 0;
}

/* --- life ------------------------------------------------------------------------------------------------------------------------- */

static bool merge_init(struct merge *m, struct merge_result *ret, struct err *err)
{
    size_t n = m->p->n_blocks;
    m->sources = calloc(n, sizeof(*m->sources));
    m->heap = calloc(n, sizeof(*m->heap));
    m->writers = calloc(m->n_results, sizeof(struct block_writer *));
    m->ulids = calloc(m->n_results, sizeof(*m->ulids));
    ret->blocks = ARENA_ARRAY(m->arena, struct block_meta, m->n_results);
    ret->shards = ARENA_ARRAY(m->arena, uint32_t, m->n_results);
    if (!m->sources || !m->heap || !m->writers || !m->ulids || !ret->blocks || !ret->shards)
        return no_memory(err);
    for (size_t i = 0; i < n; i++)
        m->sources[i].b = m->p->blocks[i];
    qsort(m->sources, n, sizeof(*m->sources), by_min_t_then_ulid);
    return make_common_meta(m, err);
}

static void merge_release(struct merge *m)
{
    for (size_t i = 0; m->sources && i < m->p->n_blocks; i++) {
        block_scan_free(m->sources[i].scan);
        free(m->sources[i].labels);
    }
    for (uint32_t i = 0; m->writers && i < m->n_results; i++)
        block_writer_free(m->writers[i]);
    free(m->sources);
    free(m->heap);
    free(m->writers);
    free(m->ulids);
    merge_symbols_release(&m->symbols);
    join_release(&m->joined);
}

static bool run(struct merge *m, struct merge_result *ret, struct err *err)
{
    bool good = merge_init(m, ret, err) && merge_symbols_read(&m->symbols, m->p->blocks, m->p->n_blocks, m->n_results, m->ctx, err);
    for (uint32_t i = 0; good && i < m->n_results; i++)
        good = open_writer(m, i, err);
    return good && open_sources(m, err) && merge_all(m, err) && finish_all(m, ret, err);
}

bool blocks_merge(const struct merge_params *p, const struct ctx *ctx, struct arena *arena, struct merge_result *ret, struct err *err)
{
    ASSERT(p->n_blocks >= 1 && p->n_blocks <= MERGE_MAX_BLOCKS && p->shards <= MERGE_MAX_SHARDS);
    struct merge m = {.p = p, .ctx = ctx, .arena = arena, .n_results = MAX(p->shards, 1)};
    *ret = (struct merge_result){0};
    join_init(&m.joined, 0);
    bool good = run(&m, ret, err);
    ret->stats = m.joined.stats;
    SLOW_ASSERT(!good || ret->stats.samples_in == ret->stats.samples_out + ret->stats.duplicates);
    if (!good)
        remove_results(&m, ret);
    merge_release(&m);
    return good;
}
