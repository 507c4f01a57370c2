/* Arithmetic on native histograms: once two have one layout (kernel_hist_layout.c) an operation is a merge of two sorted lists. */
#include "read/promql/kernel_hist_int.h"

#include <float.h>
#include <string.h>

#include "base/assert.h"

double fhist_bound(int32_t idx, const struct fhist *h)
{
    if (fhist_is_custom(h)) {
        if (idx < 0)
            return -INFINITY;
        return (uint32_t)idx < h->n_custom ? h->custom[idx] : INFINITY;
    }
    if (h->schema <= 0) {
        int64_t e = (int64_t)idx * ((int64_t)1 << -h->schema);
        if (e == 1024)
            return DBL_MAX; /* the last bucket below the one of infinity */
        return ldexp(1, e > 4000 ? 4000 : e < -4000 ? -4000 : (int)e);
    }
    int32_t per_power = 1 << h->schema;
    int32_t frac = idx & (per_power - 1);
    int32_t e = idx >> h->schema;
    if (frac == 0 && e == 1024)
        return DBL_MAX;
    if (h->schema > 8) /* not of a writer's */
        return ldexp(exp2((double)frac / per_power), e);
    return ldexp(fhist_fractions[frac << (8 - h->schema)], e + 1);
}

/* --- lists --------------------------------------------------------------------------------------------------------------------- */

bool blist_alloc(struct blist *l, uint32_t cap, struct arena *a)
{
    l->n = 0;
    l->idx = arena_array(a, cap ? cap : 1, sizeof(*l->idx));
    l->c = arena_array(a, cap ? cap : 1, sizeof(*l->c));
    return l->idx && l->c;
}

static bool blist_dup(const struct blist *from, struct arena *a, struct blist *ret)
{
    struct blist l;
    if (!blist_alloc(&l, from->n, a))
        return false;
    if (from->n) {
        memcpy(l.idx, from->idx, from->n * sizeof(*l.idx));
        memcpy(l.c, from->c, from->n * sizeof(*l.c));
    }
    l.n = from->n;
    *ret = l;
    return true;
}

static bool blist_from(const struct histogram_span *spans, uint32_t n_spans, const int64_t *deltas, const double *counts, uint32_t n,
                       struct arena *a, struct blist *ret)
{
    if (!blist_alloc(ret, n, a))
        return false;
    int64_t idx = 0, cur = 0;
    uint32_t k = 0;
    for (uint32_t s = 0; s < n_spans; s++) {
        idx += spans[s].offset;
        for (uint32_t i = 0; i < spans[s].length && k < n; i++, k++, idx++) {
            double c = counts ? counts[k] : (double)(cur += deltas[k]);
            if (c == 0 || idx > INT32_MAX || idx < INT32_MIN)
                continue;
            ret->idx[ret->n] = (int32_t)idx;
            ret->c[ret->n++] = c;
        }
    }
    return true;
}

static uint32_t size_of(size_t n_spans, size_t n_buckets, size_t n_custom)
{
    /* What upstream's struct takes, and 8 bytes for each span, bucket and bound; of a sample's 16 bytes the time has 8. */
    return (uint32_t)((168 + 8 * (n_spans + n_buckets + n_custom) + 8) / 16);
}

static size_t spans_of(const struct blist *l)
{
    size_t n = l->n > 0;
    for (uint32_t i = 1; i < l->n; i++)
        n += l->idx[i] != l->idx[i - 1] + 1;
    return n;
}

uint32_t fhist_size(const struct fhist *h)
{
    if (h->stored_size)
        return h->stored_size;
    return size_of(spans_of(&h->pos) + spans_of(&h->neg), (size_t)h->pos.n + h->neg.n, h->n_custom);
}

struct fhist *fhist_from(const struct histogram *h, struct arena *a)
{
    struct fhist *f = ARENA_NEW(a, struct fhist);
    if (!f)
        return NULL;
    f->schema = h->schema;
    f->hint = h->hint;
    f->stale = is_stale_nan(h->sum);
    f->zero_threshold = h->zero_threshold;
    f->sum = h->sum;
    f->count = h->is_float ? h->count : (double)h->count_int;
    f->zero_count = h->is_float ? h->zero_count : (double)h->zero_count_int;
    f->custom = h->custom_values;
    f->n_custom = h->n_custom_values;
    f->stored_size = size_of((size_t)h->n_positive_spans + h->n_negative_spans, (size_t)h->n_positive + h->n_negative, h->n_custom_values);
    if (!blist_from(h->positive_spans, h->n_positive_spans, h->is_float ? NULL : h->positive_deltas,
                    h->is_float ? h->positive_counts : NULL, h->n_positive, a, &f->pos) ||
        !blist_from(h->negative_spans, h->n_negative_spans, h->is_float ? NULL : h->negative_deltas,
                    h->is_float ? h->negative_counts : NULL, h->n_negative, a, &f->neg))
        return NULL;
    return f;
}

static bool blist_to_spans(const struct blist *l, struct arena *a, const struct histogram_span **ret_spans, uint32_t *ret_n)
{
    struct histogram_span *spans = arena_array(a, l->n ? l->n : 1, sizeof(*spans));
    if (!spans)
        return false;
    uint32_t n = 0;
    for (uint32_t i = 0; i < l->n; i++) {
        if (i && l->idx[i] == l->idx[i - 1] + 1)
            spans[n - 1].length++;
        else
            spans[n++] = (struct histogram_span){.offset = i ? l->idx[i] - l->idx[i - 1] - 1 : l->idx[i], .length = 1};
    }
    *ret_spans = spans;
    *ret_n = n;
    return true;
}

struct histogram *fhist_to_histogram(const struct fhist *h, struct arena *a)
{
    struct fhist *d = fhist_dup(h, a);
    struct histogram *out = d ? ARENA_NEW(a, struct histogram) : NULL;
    if (!out)
        return NULL;
    out->schema = h->schema;
    out->hint = h->hint;
    out->is_float = true;
    out->zero_threshold = h->zero_threshold;
    out->zero_count = h->zero_count;
    out->count = h->count;
    out->sum = h->sum;
    out->positive_counts = d->pos.c;
    out->negative_counts = d->neg.c;
    out->n_positive = d->pos.n;
    out->n_negative = d->neg.n;
    out->custom_values = d->custom;
    out->n_custom_values = d->n_custom;
    if (!blist_to_spans(&d->pos, a, &out->positive_spans, &out->n_positive_spans) ||
        !blist_to_spans(&d->neg, a, &out->negative_spans, &out->n_negative_spans))
        return NULL;
    return out;
}

struct fhist *fhist_copy(const struct fhist *h, struct arena *a)
{
    struct fhist *f = arena_alloc(a, sizeof(*f));
    if (f)
        *f = *h;
    return f;
}

struct fhist *fhist_dup(const struct fhist *h, struct arena *a)
{
    struct fhist *f = fhist_copy(h, a);
    if (!f || !blist_dup(&h->pos, a, &f->pos) || !blist_dup(&h->neg, a, &f->neg))
        return NULL;
    if (h->n_custom) {
        double *custom = arena_array(a, h->n_custom, sizeof(double));
        if (!custom)
            return NULL;
        memcpy(custom, h->custom, h->n_custom * sizeof(double));
        f->custom = custom;
    }
    return f;
}

/* --- operations ------------------------------------------------------------------------------------------------------------------- */

static bool blist_add(const struct blist *l, const struct blist *r, double sign, struct arena *a, struct blist *ret)
{
    if (!blist_alloc(ret, l->n + r->n, a))
        return false;
    uint32_t i = 0, j = 0;
    while (i < l->n || j < r->n) {
        int32_t idx;
        double c;
        if (j >= r->n || (i < l->n && l->idx[i] < r->idx[j])) {
            idx = l->idx[i];
            c = l->c[i++];
        } else if (i >= l->n || r->idx[j] < l->idx[i]) {
            idx = r->idx[j];
            c = sign * r->c[j++];
        } else {
            idx = l->idx[i];
            c = l->c[i++] + sign * r->c[j++];
        }
        if (c == 0)
            continue;
        ret->idx[ret->n] = idx;
        ret->c[ret->n++] = c;
    }
    return true;
}

enum fhist_status fhist_add(const struct fhist *l, const struct fhist *r, double sign, struct arena *a, struct fhist **ret, unsigned *notes)
{
    uint8_t hint = fhist_hint_of_sum(l->hint, r->hint, notes); /* a difference is a gauge, but a conflict is noted of it too */
    enum fhist_status st = fhist_align(&l, &r, a, notes);
    if (st != FHIST_OK)
        return st;
    struct fhist *f = fhist_copy(l, a);
    if (!f || !blist_add(&l->pos, &r->pos, sign, a, &f->pos) || !blist_add(&l->neg, &r->neg, sign, a, &f->neg))
        return FHIST_NO_MEMORY;
    f->stored_size = 0;
    f->hint = sign < 0 ? HISTOGRAM_HINT_GAUGE : hint;
    f->count = l->count + sign * r->count;
    f->sum = l->sum + sign * r->sum;
    f->zero_count = l->zero_count + sign * r->zero_count;
    *ret = f;
    return FHIST_OK;
}

static void blist_apply(struct blist *l, double factor, bool divide)
{
    uint32_t n = 0;
    for (uint32_t i = 0; i < l->n; i++) {
        double c = divide ? l->c[i] / factor : l->c[i] * factor;
        if (c == 0)
            continue;
        l->idx[n] = l->idx[i];
        l->c[n++] = c;
    }
    l->n = n;
}

static struct fhist *apply(const struct fhist *h, double factor, bool divide, struct arena *a)
{
    struct fhist *f = fhist_dup(h, a);
    if (!f)
        return NULL;
    f->count = divide ? h->count / factor : h->count * factor;
    f->sum = divide ? h->sum / factor : h->sum * factor;
    f->zero_count = divide ? h->zero_count / factor : h->zero_count * factor;
    if (divide && factor == 0)
        f->stored_size = f->pos.n = f->neg.n = 0; /* infinitely many in every bucket says nothing: upstream drops them */
    blist_apply(&f->pos, factor, divide);
    blist_apply(&f->neg, factor, divide);
    if (factor < 0)
        f->hint = HISTOGRAM_HINT_GAUGE;
    return f;
}

struct fhist *fhist_scale(const struct fhist *h, double factor, struct arena *a)
{
    return apply(h, factor, false, a);
}

struct fhist *fhist_div(const struct fhist *h, double divisor, struct arena *a)
{
    return apply(h, divisor, true, a);
}

static bool same_bits(double a, double b)
{
    return memcmp(&a, &b, sizeof(a)) == 0;
}

static bool blist_eq(const struct blist *l, const struct blist *r)
{
    if (l->n != r->n)
        return false;
    for (uint32_t i = 0; i < l->n; i++)
        if (l->idx[i] != r->idx[i] || !same_bits(l->c[i], r->c[i]))
            return false;
    return true;
}

bool fhist_eq(const struct fhist *l, const struct fhist *r)
{
    return l->schema == r->schema && same_bits(l->count, r->count) && same_bits(l->sum, r->sum) &&
           l->zero_threshold == r->zero_threshold && same_bits(l->zero_count, r->zero_count) && fhist_same_bounds(l, r) &&
           blist_eq(&l->pos, &r->pos) && blist_eq(&l->neg, &r->neg);
}

static bool blist_went_down(const struct blist *cur, const struct blist *prev)
{
    uint32_t i = 0;
    for (uint32_t j = 0; j < prev->n; j++) {
        while (i < cur->n && cur->idx[i] < prev->idx[j])
            i++;
        double c = i < cur->n && cur->idx[i] == prev->idx[j] ? cur->c[i] : 0;
        if (c < prev->c[j])
            return true;
    }
    return false;
}

bool fhist_is_reset(const struct fhist *cur, const struct fhist *prev, struct arena *a)
{
    if (cur->hint == HISTOGRAM_HINT_RESET)
        return true;
    if (cur->hint == HISTOGRAM_HINT_NOT_RESET)
        return false;
    if (cur->count < prev->count || fhist_is_custom(cur) != fhist_is_custom(prev))
        return true;
    if (!fhist_is_custom(cur)) {
        if (cur->schema > prev->schema || cur->zero_threshold < prev->zero_threshold)
            return true;
        /* A wider zero bucket must not end inside a populated old bucket. */
        if (cur->zero_threshold > prev->zero_threshold &&
            fhist_zero_target(&prev->pos, &prev->neg, prev, cur->zero_threshold) != cur->zero_threshold)
            return true;
    }
    unsigned notes = 0;
    if (fhist_align(&cur, &prev, a, &notes) != FHIST_OK)
        return true;
    return cur->zero_count < prev->zero_count || blist_went_down(&cur->pos, &prev->pos) || blist_went_down(&cur->neg, &prev->neg);
}
