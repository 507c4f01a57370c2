/* Chunks, strings, and the end of a query's memory. */
#include <stdlib.h>

#include "read/series/series.h"

static bool same_chunk(const struct series_chunk *a, const struct series_chunk *b)
{
    return a->min_t == b->min_t && a->max_t == b->max_t && a->encoding == b->encoding && slice_eq(a->data, b->data);
}

size_t chunks_merge(const struct series_chunk *a, size_t n_a, const struct series_chunk *b, size_t n_b, struct series_chunk *out)
{
    size_t i = 0, j = 0, k = 0;
    while (i < n_a || j < n_b) {
        bool first = j == n_b || (i < n_a && a[i].min_t <= b[j].min_t);
        const struct series_chunk *c = first ? &a[i++] : &b[j++];
        if (k && same_chunk(&out[k - 1], c))
            continue;
        out[k++] = *c;
    }
    return k;
}

bool chunks_repeat(const struct series_chunk *chunks, size_t n)
{
    for (size_t i = 1; i < n; i++)
        if (same_chunk(&chunks[i - 1], &chunks[i]))
            return true;
    return false;
}

static int compare_slices(const void *a, const void *b)
{
    return slice_cmp(*(const struct slice *)a, *(const struct slice *)b);
}

size_t strings_sort_unique(struct slice *strings, size_t n)
{
    size_t k = 0;
    qsort(strings, n, sizeof(*strings), compare_slices);
    for (size_t i = 0; i < n; i++)
        if (k == 0 || !slice_eq(strings[k - 1], strings[i]))
            strings[k++] = strings[i];
    return k;
}

bool query_over_memory(const struct ctx *ctx, struct err *err)
{
    return err_set(err, ERR_MAX_QUERY_MEMORY,
                   "the query exceeded the maximum allowed estimated amount of memory consumed by a single query (limit: %zu bytes)",
                   ctx->arena->budget_bytes);
}

bool query_over_series(uint64_t limit, struct err *err)
{
    return err_set(err, ERR_MAX_SERIES_PER_QUERY,
                   "the query exceeded the maximum number of series (limit: %llu series) (err-mimir-max-series-per-query). Consider reducing the time range and/or number of "
                   "series selected by the query. One way to reduce the number of selected series is to add more label matchers to the query. Otherwise, to adjust the "
                   "related per-tenant limit, configure -querier.max-fetched-series-per-query, or contact your service administrator.",
                   (unsigned long long)limit);
}
