/*
 * Which symbols the results need: the symbols of all blocks are united in one pass over their sorted tables, then the labels of all series are read once, and
 * each marks its symbols in the result that it will go to. So an index gets the strings it uses, not all that its sources happened to have.
 */
#include <stdlib.h>
#include <string.h>

#include "base/assert.h"
#include "storage/compactor/merge_int.h"

#define CHECK_EVERY 4096

static bool no_memory(struct err *err)
{
    return err_set(err, ERR_NO_MEMORY, "no memory for the symbols of a merge");
}

/* --- the union --- */

/* Where the merge of the tables stands in one of them. */
struct table {
    struct block *b;
    size_t at, n;
    struct slice next;
    uint32_t *number_of; /* owned: of each symbol of the block its number in the union */
};

static void sift_down(struct table **heap, size_t n, size_t i)
{
    for (;;) {
        size_t least = i, l = 2 * i + 1;
        if (l < n && slice_cmp(heap[l]->next, heap[least]->next) < 0)
            least = l;
        if (l + 1 < n && slice_cmp(heap[l + 1]->next, heap[least]->next) < 0)
            least = l + 1;
        if (least == i)
            return;
        struct table *t = heap[i];
        heap[i] = heap[least];
        heap[least] = t;
        i = least;
    }
}

static bool add_symbol(struct merge_symbols *m, struct slice s, struct err *err)
{
    if (m->n && slice_eq(m->all[m->n - 1], s))
        return true;
    if (m->n == UINT32_MAX)
        return err_set(err, ERR_TOO_LARGE, "more symbols than an index can have");
    if (m->n == m->cap) {
        size_t cap = MAX(m->cap * 2, 1024);
        struct slice *all = realloc(m->all, cap * sizeof(*all));
        if (!all)
            return no_memory(err);
        m->all = all;
        m->cap = cap;
    }
    m->all[m->n++] = s;
    return true;
}

/* "" comes first: all of Mimir's indexes have it. */
static bool unite(struct merge_symbols *m, struct table *tables, size_t n, struct err *err)
{
    struct table **heap = calloc(n, sizeof(*heap));
    if (!heap)
        return no_memory(err);
    size_t n_heap = 0;
    for (size_t i = 0; i < n; i++) {
        if (tables[i].n == 0)
            continue;
        tables[i].next = block_symbol(tables[i].b, 0);
        heap[n_heap++] = &tables[i];
    }
    for (size_t i = n_heap; i-- > 0;)
        sift_down(heap, n_heap, i);
    bool good = add_symbol(m, SL(""), err);
    while (good && n_heap) {
        struct table *t = heap[0];
        good = add_symbol(m, t->next, err);
        t->number_of[t->at++] = (uint32_t)(m->n - 1);
        if (t->at < t->n)
            t->next = block_symbol(t->b, t->at);
        else
            heap[0] = heap[--n_heap];
        sift_down(heap, n_heap, 0);
    }
    free(heap);
    return good;
}

/* --- what is used --- */

static inline void mark(uint64_t *used, uint32_t symbol)
{
    used[symbol / 64] |= UINT64_C(1) << symbol % 64;
}

static bool mark_block(struct merge_symbols *m, const struct table *t, const struct ctx *ctx, struct err *err)
{
    struct labels labels;
    const uint32_t *symbols;
    struct block_scan *scan = block_scan_new(t->b, err);
    bool good = scan != NULL, more = true;
    for (size_t n = 0; good; n++) {
        good = (n % CHECK_EVERY || ctx_check(ctx, err)) && block_scan_next_labels(scan, &labels, &symbols, &more, err);
        if (!good || !more)
            break;
        uint32_t result = merge_shard_of(labels, m->n_results);
        for (size_t i = 0; i < 2 * labels.n; i++)
            mark(m->used[result], t->number_of[symbols[i]]);
        m->series[result]++;
    }
    block_scan_free(scan);
    block_forget_pages(t->b);
    return good;
}

static bool make_bits(struct merge_symbols *m, struct err *err)
{
    m->used = calloc(m->n_results, sizeof(*m->used));
    m->series = calloc(m->n_results, sizeof(*m->series));
    bool good = m->used && m->series;
    for (uint32_t i = 0; good && i < m->n_results; i++)
        good = (m->used[i] = calloc(m->n / 64 + 1, sizeof(uint64_t))) != NULL;
    return good || no_memory(err);
}

bool merge_symbols_read(struct merge_symbols *m, struct block *const *blocks, size_t n, uint32_t n_results, const struct ctx *ctx, struct err *err)
{
    *m = (struct merge_symbols){.n_results = n_results};
    struct table *tables = calloc(n, sizeof(*tables));
    if (!tables)
        return no_memory(err);
    bool good = true;
    for (size_t i = 0; good && i < n; i++) {
        tables[i] = (struct table){.b = blocks[i], .n = block_n_symbols(blocks[i])};
        tables[i].number_of = calloc(tables[i].n + 1, sizeof(uint32_t));
        good = tables[i].number_of || no_memory(err);
    }
    good = good && unite(m, tables, n, err) && make_bits(m, err);
    for (size_t i = 0; good && i < n; i++)
        good = mark_block(m, &tables[i], ctx, err);
    for (size_t i = 0; i < n; i++)
        free(tables[i].number_of);
    free(tables);
    return good;
}

struct slice *merge_symbols_of(const struct merge_symbols *m, uint32_t result, size_t *ret_n)
{
    const uint64_t *used = m->used[result];
    size_t words = m->n / 64 + 1, n = 0;
    for (size_t w = 0; w < words; w++)
        n += (size_t)__builtin_popcountll(used[w]);
    struct slice *list = malloc((n + 1) * sizeof(*list));
    if (!list)
        return NULL;
    size_t at = 0;
    list[at++] = m->all[0];
    for (size_t w = 0; w < words; w++)
        for (uint64_t bits = used[w]; bits; bits &= bits - 1) {
            size_t i = 64 * w + (size_t)__builtin_ctzll(bits);
            if (i) /* no label is "", and yet somebody's file may say so */
                list[at++] = m->all[i];
        }
    *ret_n = at;
    return list;
}

void merge_symbols_release(struct merge_symbols *m)
{
    for (uint32_t i = 0; m->used && i < m->n_results; i++)
        free(m->used[i]);
    free(m->used);
    free(m->series);
    free(m->all);
    *m = (struct merge_symbols){0};
}
