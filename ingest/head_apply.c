/*
 * Applying a batch of records to a head: bounds, order by shard, and then shard by shard in groups, so that the memory
 * latency of one series hides behind the work on the others. See README.md, "One record".
 */
#include <string.h>

#include "base/assert.h"
#include "base/clock.h"
#include "base/logger.h"
#include "ingest/head_int.h"
#include "ingest/ingest_metrics_int.h"

/* Rows between two stages of the pipeline: enough to cover a memory access by the work on the others, few enough for
 * the line fill buffers. */
#define DISTANCE 16u

struct shard_apply {
    struct head *head;
    const struct limits *limits;
    struct shard *shard;
    const struct head_record *recs;
    struct appender appender;
    struct head_counts *counts;
};

/* --- what a record may hold --- */

/* Decodes the histograms of one row; what is wrong with one is found here, before any lock is taken. */
static void decode_histograms(struct head_record *rec, const struct write_series *s, struct arena *scratch)
{
    if (!rec->histograms)
        rec->histograms = ARENA_ARRAY(scratch, struct decoded_histogram, rec->req->n_histograms);
    if (!rec->histograms)
        memory_exhausted(rec->req->n_histograms * sizeof(struct decoded_histogram));
    for (uint32_t i = 0; i < s->n_histograms; i++) {
        struct decoded_histogram *d = &rec->histograms[s->first_histogram + i];
        struct err err;
        d->t = INT64_MIN;
        d->bad = !histogram_decode_proto(rec->req->histograms[s->first_histogram + i], scratch, &d->h, &d->t, &err);
        if (!d->bad && !is_stale_nan(d->h.sum))
            d->bad = !histogram_validate(&d->h, &err);
    }
}

/* The newest and the first timestamp of a row, into the running ones. */
static void note_times(const struct head_record *rec, const struct write_series *s, int64_t *newest, int64_t *oldest)
{
    for (uint32_t i = 0; i < s->n_samples; i++) {
        int64_t t = rec->req->samples[s->first_sample + i].t;
        *newest = MAX(*newest, t);
        *oldest = MIN(*oldest, t);
    }
    for (uint32_t i = 0; rec->histograms && i < s->n_histograms; i++) {
        if (rec->histograms[s->first_histogram + i].bad)
            continue;
        *newest = MAX(*newest, rec->histograms[s->first_histogram + i].t);
        *oldest = MIN(*oldest, rec->histograms[s->first_histogram + i].t);
    }
}

static void lower_to(_Atomic int64_t *p, int64_t t)
{
    int64_t old = atomic_load_explicit(p, memory_order_relaxed);
    while (t < old && !atomic_compare_exchange_weak(p, &old, t))
        ;
}

static int64_t saturating_sub(int64_t a, int64_t b)
{
    int64_t r;
    return __builtin_sub_overflow(a, b, &r) ? INT64_MIN : r;
}

/* The bounds of each record follow from the samples of those before it; the first record of an empty head measures
 * itself. The oldest sample of all. */
static int64_t set_bounds(struct head *h, const struct limits *limits, struct head_record *recs, size_t n_recs,
                       const struct head_row *rows, size_t n_rows, struct arena *scratch)
{
    int64_t newest = atomic_load_explicit(&h->max_t, memory_order_relaxed);
    int64_t oldest = INT64_MAX;
    int64_t floor = atomic_load_explicit(&h->min_valid, memory_order_relaxed);
    size_t row = 0;
    for (size_t r = 0; r < n_recs; r++) {
        int64_t before = newest;
        for (; row < n_rows && rows[row].record == r; row++) {
            if (rows[row].series->n_histograms)
                decode_histograms(&recs[r], rows[row].series, scratch);
            note_times(&recs[r], rows[row].series, &newest, &oldest);
        }
        int64_t base = before == INT64_MIN ? newest : before;
        recs[r].bounds.min_valid = MAX(floor, head_oldest_in_order(base));
        int64_t window = limits->out_of_order_time_window;
        recs[r].bounds.ooo_min = window > 0 ? MAX(floor, saturating_sub(base, window)) : INT64_MAX;
    }
    atomic_store_explicit(&h->max_t, newest, memory_order_relaxed);
    return MAX(oldest, floor);
}

/* All shards have the batch. The order matters to truncation (truncate.c), which raises min_t. */
static void settle(struct head *h, int64_t oldest)
{
    lower_to(&h->young_min, oldest);
    lower_to(&h->min_t, oldest);
    atomic_store_explicit(&h->settled_t, atomic_load_explicit(&h->max_t, memory_order_relaxed), memory_order_release);
    atomic_store_explicit(&h->applied_ms, clock_mono_ms(), memory_order_relaxed);
}

/* --- new series --- */

static struct slice metric_of(struct slice canonical)
{
    struct write_label_iter it = write_label_iter(canonical);
    struct label l;
    while (write_label_next(&it, &l) == 1)
        if (slice_eq(l.name, SL(METRIC_NAME_LABEL)))
            return l.value;
    return (struct slice){NULL, 0};
}

/* What was in memory before a restart is taken again without a look at the limits (README.md). */
static enum refusal check_limits(const struct shard_apply *a, const struct head_record *rec,
                                 const struct write_series *s)
{
    struct head *h = a->head;
    if (rec->offset <= h->enforce_from)
        return REFUSAL_NONE;
    uint64_t n = atomic_load_explicit(&h->n_series, memory_order_relaxed);
    if (h->totals->max_series &&
        atomic_load_explicit(&h->totals->n_series, memory_order_relaxed) >= h->totals->max_series)
        return REFUSAL_INSTANCE_LIMIT;
    if (a->limits->max_global_series_per_user > 0 && n >= (uint64_t)a->limits->max_global_series_per_user)
        return REFUSAL_USER_LIMIT;
    if (a->limits->max_global_series_per_metric > 0 && metric_counts_get(&h->metrics_counts, metric_of(s->labels)) >=
                                                           (uint64_t)a->limits->max_global_series_per_metric)
        return REFUSAL_METRIC_LIMIT;
    return REFUSAL_NONE;
}

/* The reason for which no sample of the row can be the first of a series; REFUSAL_NONE when there is one that can. */
static enum refusal check_first(const struct head_record *rec, const struct write_series *s)
{
    enum refusal r = REFUSAL_NONE;
    for (uint32_t i = 0; i < s->n_samples; i++)
        if ((r = append_check_new(&rec->bounds, rec->req->samples[s->first_sample + i].t)) == REFUSAL_NONE)
            return r;
    for (uint32_t i = 0; i < s->n_histograms && rec->histograms; i++) {
        const struct decoded_histogram *d = &rec->histograms[s->first_histogram + i];
        enum refusal one = d->bad ? REFUSAL_INVALID_HISTOGRAM : append_check_new(&rec->bounds, d->t);
        if (one == REFUSAL_NONE)
            return one;
        r = one;
    }
    return r;
}

static uint32_t row_create(struct shard_apply *a, const struct head_row *row, const struct head_record *rec)
{
    const struct write_series *s = row->series;
    uint64_t n_samples = (uint64_t)s->n_samples + s->n_histograms;
    if (n_samples == 0)
        return SERIES_NONE;
    enum refusal r = check_first(rec, s);
    if (r == REFUSAL_NONE)
        r = check_limits(a, rec, s);
    uint32_t ref = SERIES_NONE;
    struct slice metric;
    if (r == REFUSAL_NONE && !series_create(a->shard->data, row->hash, s->labels, &ref, &metric))
        r = REFUSAL_MALFORMED;
    if (r != REFUSAL_NONE) {
        a->counts->refused[r] += n_samples;
        return SERIES_NONE;
    }
    metric_counts_add(&a->head->metrics_counts, metric, 1);
    atomic_fetch_add_explicit(&a->head->n_series, 1, memory_order_relaxed);
    atomic_fetch_add_explicit(&a->head->totals->n_series, 1, memory_order_relaxed);
    a->counts->created++;
    return ref;
}

/* --- one series --- */

static void apply_exemplars(struct shard_apply *a, const struct head_record *rec, const struct write_series *s,
                            struct series_hash hash)
{
    for (uint32_t i = 0; i < s->n_exemplars; i++) {
        const struct write_exemplar *x = &rec->req->exemplars[s->first_exemplar + i];
        struct slice labels = x->labels.p ? x->labels : x->raw;
        enum exemplar_result r = exemplars_add(&a->head->exemplars, hash, labels, x->t, x->v);
        a->counts->exemplars += r == EXEMPLAR_STORED;
        if (r == EXEMPLAR_OUT_OF_ORDER && !a->limits->ignore_ooo_exemplars)
            metric_inc(metric_single(ingest_metrics[INGESTER_EXEMPLARS_OOO]));
    }
}

static void apply_row(struct shard_apply *a, const struct head_row *row, uint32_t ref)
{
    const struct head_record *rec = &a->recs[row->record];
    const struct write_series *s = row->series;
    struct shard_data *d = a->shard->data;
    if (UNLIKELY(rec->offset <= a->shard->applied))
        return;
    if (ref == SERIES_NONE || !series_hash_eq(series_hot(d, ref)->hash, row->hash))
        ref = series_find(d, row->hash);
    if (ref == SERIES_NONE && (ref = row_create(a, row, rec)) == SERIES_NONE)
        return;
    uint64_t stored = 0;
    for (uint32_t i = 0; i < s->n_samples; i++) {
        const struct write_sample *sample = &rec->req->samples[s->first_sample + i];
        enum refusal r = append_float(&a->appender, &rec->bounds, ref, sample->t, sample->v);
        a->counts->refused[r]++;
        stored += r == REFUSAL_NONE;
    }
    for (uint32_t i = 0; i < s->n_histograms && rec->histograms; i++) {
        const struct decoded_histogram *x = &rec->histograms[s->first_histogram + i];
        enum refusal r =
            x->bad ? REFUSAL_INVALID_HISTOGRAM : append_histogram(&a->appender, &rec->bounds, ref, x->t, &x->h);
        a->counts->refused[r]++;
        stored += r == REFUSAL_NONE;
    }
    if (stored)
        series_hot(d, ref)->active_s = (uint32_t)(rec->timestamp_ms / 1000);
    a->counts->samples += stored;
    if (UNLIKELY(rec->req->source == 1))
        a->counts->rule_samples += stored;
    if (UNLIKELY(s->n_exemplars))
        apply_exemplars(a, rec, s, row->hash);
}

/* --- one shard --- */

/*
 * The line that the next sample goes to, and the first one, which has the count. Always inline: gcc 12 takes a function
 * that only prefetches for one without effects, and leaves out its calls.
 */
static inline __attribute__((always_inline)) void prefetch_chunk(const struct shard_data *d, uint32_t ref)
{
    if (ref == SERIES_NONE)
        return;
    const struct series_hot *hot = series_hot(d, ref);
    if (!hot->chunk || (hot->flags & SERIES_HISTOGRAM))
        return;
    const char *p = slab_ptr(&d->slabs, hot->chunk);
    __builtin_prefetch(p, 1);
    __builtin_prefetch(p + xor_size(&hot->app), 1);
}

/*
 * A pipeline: while row i is appended, the chunk of row i + DISTANCE is on its way from memory, the hot line of the one
 * DISTANCE further and the table slot of the one after that. What is fetched early is a hint: a row before may have
 * made the series or moved its chunk, and apply_row looks again.
 */
static void apply_shard(struct shard_apply *a, const struct head_row *rows, size_t n)
{
    const struct shard_data *d = a->shard->data;
    uint32_t refs[4 * DISTANCE]; /* of row i at i % (4 * DISTANCE) */
    for (size_t step = 0; step < n + 3 * DISTANCE; step++) {
        if (step < n)
            __builtin_prefetch(slot_first(d, rows[step].hash));
        size_t at = step - DISTANCE; /* wraps around where there is none, and is not below n then */
        if (at < n) {
            uint32_t ref = series_probe(d, rows[at].hash);
            refs[at % (4 * DISTANCE)] = ref;
            if (ref != SERIES_NONE)
                __builtin_prefetch(series_hot(d, ref), 1);
        }
        at -= DISTANCE;
        if (at < n)
            prefetch_chunk(d, refs[at % (4 * DISTANCE)]);
        at -= DISTANCE;
        if (at < n)
            apply_row(a, &rows[at], refs[at % (4 * DISTANCE)]);
    }
}

/* A counting sort: stable, so that the records of a series stay in order. starts has n_shards + 1 places. */
static void sort_rows(const struct head *h, const struct head_row *rows, struct head_row *sorted, size_t n,
                      size_t *starts)
{
    memset(starts, 0, (h->n_shards + 1) * sizeof(*starts));
    for (size_t i = 0; i < n; i++)
        starts[head_shard_of(h, rows[i].hash) + 1]++;
    for (uint32_t s = 0; s < h->n_shards; s++)
        starts[s + 1] += starts[s];
    size_t at[HEAD_MAX_SHARDS];
    memcpy(at, starts, h->n_shards * sizeof(*at));
    for (size_t i = 0; i < n; i++)
        sorted[at[head_shard_of(h, rows[i].hash)]++] = rows[i];
}

static void lock_and_apply(struct shard_apply *a, const struct head_row *rows, size_t n, int64_t last_offset)
{
    struct shard *s = a->shard;
    pthread_mutex_lock(&s->writer);
    if (n) {
        pthread_rwlock_wrlock(&s->lock);
        a->appender.data = s->data;
        apply_shard(a, rows, n);
        pthread_rwlock_unlock(&s->lock);
    }
    s->applied = MAX(s->applied, last_offset);
    pthread_mutex_unlock(&s->writer);
}

void head_apply(struct head *h, const struct limits *limits, struct head_record *recs, size_t n_recs,
                const struct head_row *rows, struct head_row *sorted, size_t n_rows, struct arena *scratch,
                struct head_counts *ret)
{
    int64_t oldest = set_bounds(h, limits, recs, n_recs, rows, n_rows, scratch);
    if (n_rows && limits->max_global_exemplars_per_user != (int64_t)h->exemplars.cap)
        exemplars_resize(&h->exemplars, (uint32_t)MIN(MAX(limits->max_global_exemplars_per_user, 0), UINT32_MAX / 2));
    size_t starts[HEAD_MAX_SHARDS + 1];
    sort_rows(h, rows, sorted, n_rows, starts);
    *ret = (struct head_counts){0};
    struct shard_apply a = {.head = h,
                            .limits = limits,
                            .recs = recs,
                            .counts = ret,
                            .appender = {.chunks = h->chunks, .scratch = scratch}};
    for (uint32_t i = 0; i < h->n_shards; i++) {
        a.shard = &h->shards[i];
        lock_and_apply(&a, sorted + starts[i], starts[i + 1] - starts[i], recs[n_recs - 1].offset);
    }
    ret->ooo_samples = a.appender.ooo_samples;
    ret->chunks_created = a.appender.chunks_created;
    ret->refused[REFUSAL_NONE] = 0;
    settle(h, oldest);
    atomic_fetch_add_explicit(&h->changes, 1, memory_order_release);
}
