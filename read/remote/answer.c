/* An answer's life: series taken out of sets, encoded into the spill, and sorted. */
#include <stdlib.h>
#include <string.h>

#include "base/assert.h"
#include "read/remote/remote_int.h"

#define BATCH 64

const char *remote_content_type(enum remote_form form)
{
    return form == REMOTE_CHUNKS ? "application/x-streamed-protobuf; proto=prometheus.ChunkedReadResponse" : "application/x-protobuf";
}

struct remote_answer *remote_answer_new(enum remote_form form, size_t n_queries, const struct remote_limits *limits, const char *spill_dir)
{
    struct remote_answer *a = calloc(1, sizeof(*a));
    struct result *results = calloc(n_queries + 1, sizeof(*results));
    ASSERT(a && results);
    a->results = results;
    a->n_results = n_queries;
    pthread_mutex_init(&a->lock, NULL);
    a->form = form;
    a->limits = *limits;
    spill_init(&a->spill, spill_dir, limits->max_answer_bytes);
    join_init(&a->join, limits->max_memory_bytes);
    arena_init(&a->decoded, limits->max_memory_bytes);
    return a;
}

void remote_answer_free(struct remote_answer *a)
{
    if (!a)
        return;
    for (size_t i = 0; i < a->n_results; i++)
        free(a->results[i].entries);
    free(a->results);
    spill_release(&a->spill);
    join_release(&a->join);
    arena_release(&a->decoded);
    buf_release(&a->raw);
    buf_release(&a->window);
    buf_release(&a->frame);
    pthread_mutex_destroy(&a->lock);
    free(a);
}

struct remote_stats remote_answer_stats(const struct remote_answer *a)
{
    struct remote_stats s = a->stats;
    s.spilled = a->spill.fd >= 0;
    return s;
}

/* --- limits ------------------------------------------------------------------------------------------------------------------- */

static bool over(enum err_code code, const char *what, uint64_t limit, const char *unit, const char *id, const char *flag, struct err *err)
{
    return err_set(err, code,
                   "the query exceeded the %s (limit: %llu %s) (err-mimir-%s). Consider reducing the time range and/or number of series selected by the query. "
                   "One way to reduce the number of selected series is to add more label matchers to the query. Otherwise, to adjust the related per-tenant "
                   "limit, configure -%s, or contact your service administrator.",
                   what, (unsigned long long)limit, unit, id, flag);
}

static bool check_limits(const struct remote_answer *a, struct err *err)
{
    const struct remote_limits *l = &a->limits;
    if (l->max_series && a->stats.series > l->max_series)
        return over(ERR_MAX_SERIES_PER_QUERY, "maximum number of series", l->max_series, "series", "max-series-per-query",
                    "querier.max-fetched-series-per-query", err);
    if (l->max_chunks && a->stats.chunks > l->max_chunks)
        return over(ERR_MAX_CHUNKS_PER_QUERY, "maximum number of chunks", l->max_chunks, "chunks", "max-chunks-per-query",
                    "querier.max-fetched-chunks-per-query", err);
    if (l->max_chunk_bytes && a->stats.chunk_bytes > l->max_chunk_bytes)
        return over(ERR_MAX_CHUNK_BYTES_PER_QUERY, "aggregated chunks size limit", l->max_chunk_bytes, "bytes", "max-chunks-bytes-per-query",
                    "querier.max-fetched-chunk-bytes-per-query", err);
    return true;
}

/* --- results ------------------------------------------------------------------------------------------------------------------- */

static bool out_of_memory(struct err *err)
{
    return err_set(err, ERR_MAX_QUERY_MEMORY, "out of memory for the series of a remote read");
}

static struct entry *entry_new(struct remote_answer *a, struct result *r)
{
    if (r->n == r->cap) {
        size_t cap = r->cap ? 2 * r->cap : 256;
        a->memory_bytes += (cap - r->cap) * sizeof(*r->entries);
        if (a->limits.max_memory_bytes && a->memory_bytes > a->limits.max_memory_bytes)
            return NULL;
        struct entry *more = realloc(r->entries, cap * sizeof(*more));
        if (!more)
            return NULL;
        r->entries = more;
        r->cap = cap;
    }
    return &r->entries[r->n];
}

static int by_labels(const void *a, const void *b)
{
    return labels_cmp(((const struct entry *)a)->labels, ((const struct entry *)b)->labels);
}

/* The labels go with the set. */
static void sort_result(struct result *r)
{
    bool sorted = true;
    for (size_t i = 1; i < r->n && sorted; i++)
        sorted = by_labels(&r->entries[i - 1], &r->entries[i]) <= 0;
    if (!sorted)
        qsort(r->entries, r->n, sizeof(*r->entries), by_labels);
    for (size_t i = 0; i < r->n; i++)
        r->entries[i].labels = (struct labels){0};
}

/* --- series --------------------------------------------------------------------------------------------------------------------- */

/* Its chunks that touch the range, in order and without overlaps: a->join.out. */
static bool join_chunks(struct remote_answer *a, const struct remote_query *q, const struct series *s, struct err *err)
{
    join_start(&a->join);
    for (size_t i = 0; i < s->n_chunks; i++) {
        const struct series_chunk *c = &s->chunks[i];
        a->stats.chunks++;
        a->stats.chunk_bytes += c->data.n;
        if (c->max_t >= q->start_ms && c->min_t <= q->end_ms && !join_put(&a->join, 0, c, 1, err))
            return false;
    }
    return check_limits(a, err) && join_finish(&a->join, err);
}

static bool put_body(struct remote_answer *a, const struct remote_query *q, uint64_t *ret_n, struct err *err)
{
    if (a->form == REMOTE_SAMPLES)
        return samples_put(a, q, a->join.out, a->join.n_out, ret_n, err);
    frames_put(a, a->join.out, a->join.n_out);
    *ret_n = a->join.n_out;
    return true;
}

/* Labels and body go to the spill; a series that has nothing in the range is no entry (its labels stay behind in the spill, which harms nobody). */
static bool take_series(struct remote_answer *a, struct result *r, const struct remote_query *q, const struct series *s, struct err *err)
{
    struct entry *e = entry_new(a, r);
    uint64_t n = 0;
    if (!e)
        return out_of_memory(err);
    a->stats.series++;
    if (!join_chunks(a, q, s, err))
        return false;
    *e = (struct entry){.labels = s->labels, .at = spill_size(&a->spill)};
    labels_put_canonical(s->labels, spill_tail(&a->spill));
    e->n_labels = (uint32_t)(spill_size(&a->spill) - e->at);
    if (!put_body(a, q, &n, err))
        return false;
    e->n_body = spill_size(&a->spill) - e->at - e->n_labels;
    if (a->form == REMOTE_SAMPLES)
        a->stats.samples += n;
    if (n || (q->only_series && a->form == REMOTE_SAMPLES)) {
        r->n++;
        r->n_bytes += a->form == REMOTE_SAMPLES ? samples_series_bytes(e) : 0;
    }
    return spill_flush(&a->spill, err);
}

static bool take_batch(struct remote_answer *a, struct result *r, const struct remote_query *q, const struct series *batch, size_t n, struct err *err)
{
    bool good = true;
    pthread_mutex_lock(&a->lock);
    for (size_t i = 0; good && i < n; i++)
        good = take_series(a, r, q, &batch[i], err);
    pthread_mutex_unlock(&a->lock);
    return good;
}

bool remote_answer_add(struct remote_answer *a, size_t i, const struct remote_query *q, struct series_set *set, struct ctx *ctx, struct err *err)
{
    struct series batch[BATCH];
    ASSERT(i < a->n_results);
    for (size_t n = 1; set && n > 0;)
        if (!ctx_check(ctx, err) || !series_set_next(set, ctx, batch, BATCH, &n, err) || !take_batch(a, &a->results[i], q, batch, n, err))
            return false;
    sort_result(&a->results[i]);
    return true;
}

bool remote_answer_finish(struct remote_answer *a, struct err *err)
{
    spill_finish(&a->spill);
    join_release(&a->join); /* the answer may wait long for its client */
    join_init(&a->join, 0);
    arena_release(&a->decoded);
    arena_init(&a->decoded, 0);
    return a->form == REMOTE_CHUNKS || samples_finish(a, err);
}

bool remote_answer_next(struct remote_answer *a, size_t piece_bytes, struct buf *out, struct err *err)
{
    return a->form == REMOTE_CHUNKS ? frames_next(a, piece_bytes, out, err) : samples_next(a, piece_bytes, out, err);
}
