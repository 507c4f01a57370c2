/*
 * Samples and exemplars: what lies outside the accepted times or comes twice inside one series is left out, the rest is kept.
 *
 * Nearly every series of a real request has one sample, no histogram and no exemplar: that case is two comparisons, in the loop of
 * push_check_samples. Everything else goes through check_series.
 */
#include <stdlib.h>

#include "base/assert.h"
#include "base/utf8.h"
#include "write/push.h"

#define EXEMPLAR_RUNES_MAX 128

static void time_error(struct push *p, size_t at, enum err_code code, const char *where, int64_t t, const char *flag)
{
    struct buf *out = push_error_begin(p, at, code);
    if (!out)
        return;
    buf_printf(out, "received a sample whose timestamp is %s, timestamp: %lld series: '", where, (long long)t);
    push_put_cut(out, push_metric_name(&p->req->series[at]), 200);
    buf_putc(out, '\'');
    push_error_end(p, flag);
}

bool push_time_is_accepted(struct push *p, size_t at, int64_t t)
{
    if (t > p->bounds.max) {
        p->discards[REASON_TOO_FAR_IN_FUTURE]++;
        time_error(p, at, ERR_TOO_FAR_IN_FUTURE, "too far in the future", t, "validation.create-grace-period");
        return false;
    }
    if (t >= p->bounds.min)
        return true;
    if (t < p->bounds.past_min) {
        p->discards[REASON_TOO_FAR_IN_PAST]++;
        time_error(p, at, ERR_TOO_FAR_IN_PAST, "too far in the past", t, "validation.past-grace-period");
        return false;
    }
    p->discards[REASON_SAMPLE_TIMESTAMP_TOO_OLD]++;
    time_error(p, at, ERR_SAMPLE_TIMESTAMP_TOO_OLD, "older than the out-of-order time window", t,
               "ingester.out-of-order-time-window");
    return false;
}

struct time_at {
    int64_t t;
    uint32_t i;
};

static int compare_time_at(const void *a, const void *b)
{
    const struct time_at *x = a, *y = b;
    if (x->t != y->t)
        return x->t < y->t ? -1 : 1;
    return (x->i > y->i) - (x->i < y->i);
}

/* Without memory to find out nothing counts as repeated: the head refuses the second one too. */
bool *push_find_repeated(struct push *p, const int64_t *times, size_t stride, size_t n)
{
    const char *base = (const char *)times;
    size_t i = 1;
    while (i < n && *(const int64_t *)(base + i * stride) > *(const int64_t *)(base + (i - 1) * stride))
        i++;
    if (i >= n)
        return NULL;
    struct time_at *sorted = ARENA_ARRAY(&p->scratch, struct time_at, n);
    bool *repeated = arena_zalloc(&p->scratch, n);
    if (!sorted || !repeated)
        return NULL;
    for (i = 0; i < n; i++)
        sorted[i] = (struct time_at){*(const int64_t *)(base + i * stride), (uint32_t)i};
    qsort(sorted, n, sizeof(*sorted), compare_time_at);
    bool any = false;
    for (i = 1; i < n; i++)
        if (sorted[i].t == sorted[i - 1].t)
            any = repeated[sorted[i].i] = true;
    return any ? repeated : NULL;
}

static void check_floats(struct push *p, size_t at)
{
    struct write_series *s = &p->req->series[at];
    struct write_sample *samples = p->req->samples + s->first_sample;
    bool *repeated = push_find_repeated(p, &samples->t, sizeof(*samples), s->n_samples);
    uint32_t kept = 0;
    for (uint32_t i = 0; i < s->n_samples; i++) {
        if (repeated && repeated[i]) {
            p->discards[REASON_SAMPLE_DUPLICATE_TIMESTAMP]++;
            continue;
        }
        if (!push_time_is_accepted(p, at, samples[i].t))
            continue;
        p->latest_ms = MAX(p->latest_ms, samples[i].t);
        samples[kept++] = samples[i];
    }
    s->n_samples = kept;
}

/* The fault of an exemplar, or REASON_N. */
static enum discard_reason exemplar_fault(const struct push *p, const struct write_exemplar *e)
{
    struct write_label_iter it = write_label_iter(e->labels);
    struct label l;
    size_t n_labels = 0, n_valid = 0, runes = 0;
    while (write_label_next(&it, &l) == 1) {
        n_labels++;
        if (l.name.n == 0 || l.value.n == 0)
            continue;
        n_valid++;
        runes += utf8_count(l.name) + utf8_count(l.value);
    }
    if (n_labels == 0)
        return REASON_EXEMPLAR_LABELS_MISSING;
    if (e->t == 0)
        return REASON_EXEMPLAR_TIMESTAMP_INVALID;
    if (runes > EXEMPLAR_RUNES_MAX)
        return REASON_EXEMPLAR_LABELS_TOO_LONG;
    if (n_valid == 0)
        return REASON_EXEMPLAR_LABELS_BLANK;
    if (e->t < p->bounds.exemplar_min)
        return REASON_EXEMPLAR_TOO_OLD;
    return e->t > p->bounds.max ? REASON_EXEMPLAR_TOO_FAR_IN_FUTURE : REASON_N;
}

void push_check_exemplars(struct push *p, size_t at)
{
    struct write_series *s = &p->req->series[at];
    struct write_exemplar *exemplars = p->req->exemplars + s->first_exemplar;
    const int64_t most = p->limits->max_exemplars_per_series_per_request;
    if (most > 0 && s->n_exemplars > most) {
        p->discards[REASON_TOO_MANY_EXEMPLARS] += s->n_exemplars - (uint64_t)most;
        s->n_exemplars = (uint32_t)most;
    }
    uint32_t kept = 0;
    for (uint32_t i = 0; i < s->n_exemplars; i++) {
        enum discard_reason fault = exemplar_fault(p, &exemplars[i]);
        if (fault != REASON_N)
            p->discards[fault]++;
        else
            exemplars[kept++] = exemplars[i];
    }
    s->n_exemplars = kept;
}

/* Left with nothing that can be stored: not in the record. */
static void drop_series(struct push *p, struct write_series *s)
{
    s->flags |= WRITE_SERIES_REJECTED;
    p->n_rejected++;
}

/* Any series but the plainest. */
static bool check_series(struct push *p, size_t at)
{
    struct write_series *s = &p->req->series[at];
    const uint32_t n_samples = s->n_samples, n_histograms = s->n_histograms, n_exemplars = s->n_exemplars;
    const size_t n_reencoded = p->n_reencoded;
    arena_clear(&p->scratch);
    if (n_samples)
        check_floats(p, at);
    if (n_histograms && !push_check_histograms(p, at))
        return false;
    if (n_exemplars)
        push_check_exemplars(p, at);
    if (s->n_samples == 0 && s->n_histograms == 0 && (n_samples || n_histograms || s->n_exemplars == 0)) {
        drop_series(p, s);
        return true;
    }
    p->accepted.samples += s->n_samples;
    p->accepted.histograms += s->n_histograms;
    p->accepted.exemplars += s->n_exemplars;
    /* A histogram of lower resolution has counted itself as re-encoded. */
    bool changed = s->n_samples != n_samples || s->n_histograms != n_histograms || s->n_exemplars != n_exemplars ||
                   p->n_reencoded != n_reencoded;
    if (!changed)
        return true;
    p->n_reencoded++;
    if (!write_series_rebuild(p->req, s, NULL, &p->batch->arena))
        return push_fail(p, ERR_BAD_DATA, "the push request needs too much memory for its size");
    return true;
}

bool push_check_samples(struct push *p)
{
    struct write_request *req = p->req;
    const int64_t min = p->bounds.min, max = p->bounds.max;
    int64_t latest = INT64_MIN;
    uint64_t plain = 0;
    for (size_t i = 0; i < req->n_series; i++) {
        struct write_series *s = &req->series[i];
        if (UNLIKELY(s->flags & WRITE_SERIES_REJECTED))
            continue;
        if (LIKELY(s->n_samples == 1 && (s->n_histograms | s->n_exemplars) == 0)) {
            int64_t t = req->samples[s->first_sample].t;
            if (LIKELY(t >= min && t <= max)) {
                latest = MAX(latest, t);
                plain++;
                continue;
            }
        }
        if (!check_series(p, i))
            return false;
    }
    p->accepted.samples += plain;
    p->latest_ms = MAX(p->latest_ms, latest);
    return true;
}
