/*
 * Arithmetic on native histograms.
 *
 * Two histograms are first brought to one layout: the coarser schema, the wider zero bucket (widened further when it would end inside a
 * populated bucket), or the bounds both sets of custom buckets have. Then an operation is a merge of two sorted lists.
 */
#include "read/promql/kernel_int.h"

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
    return ldexp(exp2((double)frac / per_power), e);
}

/* --- lists --------------------------------------------------------------------------------------------------------------------- */

static bool blist_alloc(struct blist *l, uint32_t cap, struct arena *a)
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

/* --- one layout for two --------------------------------------------------------------------------------------------------------- */

/* Buckets of a side as arrays that are rewritten in place; comp (compensations) may be NULL. */
struct side {
    uint32_t *n;
    int32_t *idx;
    double *c;
    double *comp;
};

static void side_remap(const struct side *s, int32_t shift, const int32_t *map, uint32_t n_map)
{
    uint32_t out = 0;
    for (uint32_t i = 0; i < *s->n; i++) {
        int32_t idx = s->idx[i];
        if (map)
            idx = map[idx < 0 ? 0 : (uint32_t)idx < n_map ? (uint32_t)idx : n_map - 1];
        else
            idx = ((idx - 1) >> shift) + 1;
        if (out && s->idx[out - 1] == idx) {
            s->c[out - 1] += s->c[i];
            if (s->comp)
                s->comp[out - 1] += s->comp[i];
            continue;
        }
        s->idx[out] = idx;
        s->c[out] = s->c[i];
        if (s->comp)
            s->comp[out] = s->comp[i];
        out++;
    }
    *s->n = out;
}

/* Moves the buckets up to threshold into the zero bucket. */
static void side_absorb(const struct side *s, const struct fhist *layout, double threshold, double *zero, double *zero_comp)
{
    uint32_t k = 0;
    while (k < *s->n && fhist_bound(s->idx[k], layout) <= threshold) {
        *zero += s->c[k];
        if (s->comp)
            *zero_comp += s->comp[k];
        k++;
    }
    if (k == 0)
        return;
    uint32_t left = *s->n - k;
    memmove(s->idx, s->idx + k, left * sizeof(*s->idx));
    memmove(s->c, s->c + k, left * sizeof(*s->c));
    if (s->comp)
        memmove(s->comp, s->comp + k, left * sizeof(*s->comp));
    *s->n = left;
}

/* The smallest threshold >= t that does not lie inside a populated bucket. */
static double list_zero_target(const int32_t *idx, const double *c, uint32_t n, const struct fhist *layout, double t)
{
    for (uint32_t i = 0; i < n; i++) {
        double upper = fhist_bound(idx[i], layout);
        if (upper <= t)
            continue;
        if (fhist_bound(idx[i] - 1, layout) < t && c[i] != 0)
            return upper;
        break;
    }
    return t;
}

static double zero_target(const struct blist *pos, const struct blist *neg, const struct fhist *layout, double t)
{
    for (;;) {
        double next = list_zero_target(pos->idx, pos->c, pos->n, layout, t);
        next = list_zero_target(neg->idx, neg->c, neg->n, layout, next);
        if (next == t)
            return t;
        t = next;
    }
}

static double common_zero_threshold(const struct fhist *l, const struct fhist *r)
{
    double t = fmax(l->zero_threshold, r->zero_threshold);
    for (;;) {
        double next = zero_target(&l->pos, &l->neg, l, t);
        next = zero_target(&r->pos, &r->neg, r, next);
        if (next == t)
            return t;
        t = next;
    }
}

static bool same_bounds(const struct fhist *l, const struct fhist *r)
{
    return l->n_custom == r->n_custom && (l->n_custom == 0 || memcmp(l->custom, r->custom, l->n_custom * sizeof(double)) == 0);
}

static bool common_bounds(const struct fhist *l, const struct fhist *r, struct arena *a, const double **ret, uint32_t *ret_n)
{
    double *out = arena_array(a, l->n_custom ? l->n_custom : 1, sizeof(double));
    if (!out)
        return false;
    uint32_t n = 0;
    for (uint32_t i = 0, j = 0; i < l->n_custom && j < r->n_custom;) {
        if (l->custom[i] == r->custom[j]) {
            out[n++] = l->custom[i++];
            j++;
        } else if (l->custom[i] < r->custom[j]) {
            i++;
        } else {
            j++;
        }
    }
    *ret = out;
    *ret_n = n;
    return true;
}

/* For each bucket of the old bounds, the overflow bucket included, its bucket among the new ones (a subset of the old). */
static int32_t *bounds_map(const double *from, uint32_t n_from, const double *to, uint32_t n_to, struct arena *a)
{
    int32_t *map = arena_array(a, n_from + 1, sizeof(*map));
    if (!map)
        return NULL;
    uint32_t j = 0;
    for (uint32_t i = 0; i < n_from; i++) {
        while (j < n_to && to[j] < from[i])
            j++;
        map[i] = (int32_t)j;
    }
    map[n_from] = (int32_t)n_to;
    return map;
}

static void fhist_sides(struct fhist *h, struct side *pos, struct side *neg)
{
    *pos = (struct side){&h->pos.n, h->pos.idx, h->pos.c, NULL};
    *neg = (struct side){&h->neg.n, h->neg.idx, h->neg.c, NULL};
}

static struct fhist *to_bounds(const struct fhist *h, const double *bounds, uint32_t n, struct arena *a)
{
    struct fhist *f = fhist_dup(h, a);
    int32_t *map = f ? bounds_map(h->custom, h->n_custom, bounds, n, a) : NULL;
    if (!map)
        return NULL;
    struct side pos, neg;
    fhist_sides(f, &pos, &neg);
    side_remap(&pos, 0, map, h->n_custom + 1);
    f->custom = bounds;
    f->n_custom = n;
    return f;
}

static struct fhist *to_zero_threshold(const struct fhist *h, double threshold, struct arena *a)
{
    struct fhist *f = fhist_dup(h, a);
    if (!f)
        return NULL;
    struct side pos, neg;
    fhist_sides(f, &pos, &neg);
    double unused = 0;
    side_absorb(&pos, h, threshold, &f->zero_count, &unused);
    side_absorb(&neg, h, threshold, &f->zero_count, &unused);
    f->zero_threshold = threshold;
    return f;
}

struct fhist *fhist_to_schema(const struct fhist *h, int32_t schema, struct arena *a)
{
    if (h->schema <= schema || fhist_is_custom(h))
        return fhist_copy(h, a);
    struct fhist *f = fhist_dup(h, a);
    if (!f)
        return NULL;
    struct side pos, neg;
    fhist_sides(f, &pos, &neg);
    side_remap(&pos, h->schema - schema, NULL, 0);
    side_remap(&neg, h->schema - schema, NULL, 0);
    f->schema = schema;
    return f;
}

static enum fhist_status align(const struct fhist **l, const struct fhist **r, struct arena *a, unsigned *notes)
{
    if (fhist_is_custom(*l) != fhist_is_custom(*r))
        return FHIST_INCOMPATIBLE;
    if (fhist_is_custom(*l)) {
        if (same_bounds(*l, *r))
            return FHIST_OK;
        *notes |= FHIST_MISMATCHED_BOUNDS;
        const double *bounds;
        uint32_t n;
        if (!common_bounds(*l, *r, a, &bounds, &n) || !(*l = to_bounds(*l, bounds, n, a)) || !(*r = to_bounds(*r, bounds, n, a)))
            return FHIST_NO_MEMORY;
        return FHIST_OK;
    }
    if ((*l)->zero_threshold != (*r)->zero_threshold) {
        double t = common_zero_threshold(*l, *r);
        if (!(*l = to_zero_threshold(*l, t, a)) || !(*r = to_zero_threshold(*r, t, a)))
            return FHIST_NO_MEMORY;
    }
    if ((*l)->schema != (*r)->schema) {
        int32_t schema = (*l)->schema < (*r)->schema ? (*l)->schema : (*r)->schema;
        if (!(*l = fhist_to_schema(*l, schema, a)) || !(*r = fhist_to_schema(*r, schema, a)))
            return FHIST_NO_MEMORY;
    }
    return FHIST_OK;
}

/* What the counter reset hint of a sum is; a reset met with an explicit non-reset is a conflict. */
static uint8_t hint_of_sum(uint8_t l, uint8_t r, unsigned *notes)
{
    if (l == r)
        return l;
    if (l == HISTOGRAM_HINT_GAUGE || r == HISTOGRAM_HINT_GAUGE)
        return HISTOGRAM_HINT_GAUGE;
    if (l != HISTOGRAM_HINT_UNKNOWN && r != HISTOGRAM_HINT_UNKNOWN)
        *notes |= FHIST_RESET_CONFLICT;
    return HISTOGRAM_HINT_UNKNOWN;
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
    uint8_t hint = sign < 0 ? HISTOGRAM_HINT_GAUGE : hint_of_sum(l->hint, r->hint, notes);
    enum fhist_status st = align(&l, &r, a, notes);
    if (st != FHIST_OK)
        return st;
    struct fhist *f = fhist_copy(l, a);
    if (!f || !blist_add(&l->pos, &r->pos, sign, a, &f->pos) || !blist_add(&l->neg, &r->neg, sign, a, &f->neg))
        return FHIST_NO_MEMORY;
    f->hint = hint;
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
        f->pos.n = f->neg.n = 0; /* infinitely many in every bucket says nothing: upstream drops them */
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
           l->zero_threshold == r->zero_threshold && same_bits(l->zero_count, r->zero_count) && same_bounds(l, r) &&
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
        /* The new zero bucket must not end inside a populated old bucket. */
        if (zero_target(&prev->pos, &prev->neg, prev, cur->zero_threshold) != cur->zero_threshold)
            return true;
    }
    unsigned notes = 0;
    if (align(&cur, &prev, a, &notes) != FHIST_OK)
        return true;
    return cur->zero_count < prev->zero_count || blist_went_down(&cur->pos, &prev->pos) || blist_went_down(&cur->neg, &prev->neg);
}

/* --- sums and means -------------------------------------------------------------------------------------------------------------------- */

static bool side_reserve(struct hacc_side *s, uint32_t n, struct arena *a)
{
    if (n <= s->cap)
        return true;
    uint32_t cap = s->cap ? s->cap : 16;
    while (cap < n)
        cap *= 2;
    int32_t *idx = arena_array(a, cap, sizeof(*idx));
    double *c = arena_array(a, cap, sizeof(*c)), *comp = arena_array(a, cap, sizeof(*comp));
    if (!idx || !c || !comp)
        return false;
    if (s->n) {
        memcpy(idx, s->idx, s->n * sizeof(*idx));
        memcpy(c, s->c, s->n * sizeof(*c));
        memcpy(comp, s->comp, s->n * sizeof(*comp));
    }
    *s = (struct hacc_side){s->n, cap, idx, c, comp};
    return true;
}

static bool side_set(struct hacc_side *s, const struct blist *l, struct arena *a)
{
    s->n = 0;
    if (!side_reserve(s, l->n, a))
        return false;
    for (uint32_t i = 0; i < l->n; i++) {
        s->idx[i] = l->idx[i];
        s->c[i] = l->c[i];
        s->comp[i] = 0;
    }
    s->n = l->n;
    return true;
}

bool hacc_init(struct hacc *acc, bool mean, const struct fhist *first, struct arena *a)
{
    struct hacc_side pos = acc->pos, neg = acc->neg; /* room of an earlier use is kept */
    *acc = (struct hacc){.mean = mean, .hints_seen = (uint8_t)(1 << first->hint), .n = 1, .h = *first, .pos = pos, .neg = neg};
    if (first->n_custom) {
        double *custom = arena_array(a, first->n_custom, sizeof(double));
        if (!custom)
            return false;
        memcpy(custom, first->custom, first->n_custom * sizeof(double));
        acc->h.custom = custom;
    }
    return side_set(&acc->pos, &first->pos, a) && side_set(&acc->neg, &first->neg, a);
}

static struct side acc_side(struct hacc_side *s)
{
    return (struct side){&s->n, s->idx, s->c, s->comp};
}

static struct fhist acc_view(const struct hacc *acc)
{
    struct fhist v = acc->h;
    v.pos = (struct blist){acc->pos.n, acc->pos.idx, acc->pos.c};
    v.neg = (struct blist){acc->neg.n, acc->neg.idx, acc->neg.c};
    return v;
}

/* As align, the accumulator in place. */
static enum fhist_status acc_align(struct hacc *acc, const struct fhist **h, struct arena *a, struct arena *scratch, unsigned *notes)
{
    struct fhist view = acc_view(acc);
    struct side pos = acc_side(&acc->pos), neg = acc_side(&acc->neg);
    if (fhist_is_custom(&view) != fhist_is_custom(*h))
        return FHIST_INCOMPATIBLE;
    if (fhist_is_custom(&view)) {
        if (same_bounds(&view, *h))
            return FHIST_OK;
        *notes |= FHIST_MISMATCHED_BOUNDS;
        const double *bounds;
        uint32_t n;
        if (!common_bounds(&view, *h, a, &bounds, &n))
            return FHIST_NO_MEMORY;
        int32_t *map = bounds_map(view.custom, view.n_custom, bounds, n, scratch);
        if (!map || !(*h = to_bounds(*h, bounds, n, scratch)))
            return FHIST_NO_MEMORY;
        side_remap(&pos, 0, map, view.n_custom + 1);
        acc->h.custom = bounds;
        acc->h.n_custom = n;
        return FHIST_OK;
    }
    if (view.zero_threshold != (*h)->zero_threshold) {
        double t = common_zero_threshold(&view, *h);
        if (!(*h = to_zero_threshold(*h, t, scratch)))
            return FHIST_NO_MEMORY;
        side_absorb(&pos, &view, t, &acc->h.zero_count, &acc->zero_comp);
        side_absorb(&neg, &view, t, &acc->h.zero_count, &acc->zero_comp);
        acc->h.zero_threshold = t;
    }
    if ((*h)->schema > acc->h.schema && !(*h = fhist_to_schema(*h, acc->h.schema, scratch)))
        return FHIST_NO_MEMORY;
    if ((*h)->schema < acc->h.schema) {
        side_remap(&pos, acc->h.schema - (*h)->schema, NULL, 0);
        side_remap(&neg, acc->h.schema - (*h)->schema, NULL, 0);
        acc->h.schema = (*h)->schema;
    }
    return FHIST_OK;
}

static bool side_would_overflow(const struct hacc_side *s, const struct blist *l)
{
    uint32_t i = 0;
    for (uint32_t j = 0; j < l->n; j++) {
        while (i < s->n && s->idx[i] < l->idx[j])
            i++;
        if (isinf((i < s->n && s->idx[i] == l->idx[j] ? s->c[i] : 0) + l->c[j]))
            return true;
    }
    return false;
}

static void side_divide(struct hacc_side *s, double by)
{
    for (uint32_t i = 0; i < s->n; i++) {
        s->c[i] /= by;
        s->comp[i] /= by;
    }
}

static void side_multiply(struct hacc_side *s, double by)
{
    for (uint32_t i = 0; i < s->n; i++) {
        s->c[i] *= by;
        s->comp[i] *= by;
    }
}

static void acc_to_incremental(struct hacc *acc)
{
    acc->incremental = true;
    acc->h.count /= acc->n;
    acc->h.sum /= acc->n;
    acc->h.zero_count /= acc->n;
    acc->count_comp /= acc->n;
    acc->sum_comp /= acc->n;
    acc->zero_comp /= acc->n;
    side_divide(&acc->pos, acc->n);
    side_divide(&acc->neg, acc->n);
}

static void acc_weigh(struct hacc *acc, double q)
{
    acc->h.count *= q;
    acc->h.sum *= q;
    acc->h.zero_count *= q;
    acc->count_comp *= q;
    acc->sum_comp *= q;
    acc->zero_comp *= q;
    side_multiply(&acc->pos, q);
    side_multiply(&acc->neg, q);
}

/* Adds l[i] / divisor to the side, making room where it has no such bucket. */
static bool side_add(struct hacc_side *s, const struct blist *l, double divisor, struct arena *a)
{
    uint32_t missing = 0, i = 0;
    for (uint32_t j = 0; j < l->n; j++) {
        while (i < s->n && s->idx[i] < l->idx[j])
            i++;
        missing += !(i < s->n && s->idx[i] == l->idx[j]);
    }
    if (missing) {
        if (!side_reserve(s, s->n + missing, a))
            return false;
        /* From the back: each bucket moves once. */
        uint32_t to = s->n + missing, from = s->n, j = l->n;
        while (j > 0) {
            if (from > 0 && s->idx[from - 1] >= l->idx[j - 1]) {
                bool same = s->idx[from - 1] == l->idx[j - 1];
                to--, from--;
                s->idx[to] = s->idx[from];
                s->c[to] = s->c[from];
                s->comp[to] = s->comp[from];
                j -= same;
                continue;
            }
            to--, j--;
            s->idx[to] = l->idx[j];
            s->c[to] = s->comp[to] = 0;
        }
        s->n += missing;
    }
    i = 0;
    for (uint32_t j = 0; j < l->n; j++, i++) {
        while (s->idx[i] < l->idx[j])
            i++;
        kahan_add(l->c[j] / divisor, &s->c[i], &s->comp[i]);
    }
    return true;
}

enum fhist_status hacc_add(struct hacc *acc, const struct fhist *h, struct arena *a, struct arena *scratch, unsigned *notes)
{
    uint8_t hint = hint_of_sum(acc->h.hint, h->hint, notes);
    acc->hints_seen |= (uint8_t)(1 << h->hint);
    if (acc->hints_seen >> HISTOGRAM_HINT_RESET & acc->hints_seen >> HISTOGRAM_HINT_NOT_RESET & 1)
        *notes |= FHIST_RESET_CONFLICT;
    enum fhist_status st = acc_align(acc, &h, a, scratch, notes);
    if (st != FHIST_OK)
        return st;
    acc->h.hint = hint;
    if (acc->mean && !acc->incremental &&
        (isinf(acc->h.count + h->count) || isinf(acc->h.sum + h->sum) || isinf(acc->h.zero_count + h->zero_count) ||
         side_would_overflow(&acc->pos, &h->pos) || side_would_overflow(&acc->neg, &h->neg)))
        acc_to_incremental(acc);
    acc->n++;
    double divisor = 1;
    if (acc->incremental) {
        divisor = acc->n;
        acc_weigh(acc, (acc->n - 1) / acc->n);
    }
    kahan_add(h->count / divisor, &acc->h.count, &acc->count_comp);
    kahan_add(h->sum / divisor, &acc->h.sum, &acc->sum_comp);
    kahan_add(h->zero_count / divisor, &acc->h.zero_count, &acc->zero_comp);
    if (!side_add(&acc->pos, &h->pos, divisor, a) || !side_add(&acc->neg, &h->neg, divisor, a))
        return FHIST_NO_MEMORY;
    return FHIST_OK;
}

static bool side_result(const struct hacc_side *s, double divisor, struct arena *a, struct blist *ret)
{
    if (!blist_alloc(ret, s->n, a))
        return false;
    for (uint32_t i = 0; i < s->n; i++) {
        double c = s->c[i] / divisor + s->comp[i] / divisor;
        if (c == 0)
            continue;
        ret->idx[ret->n] = s->idx[i];
        ret->c[ret->n++] = c;
    }
    return true;
}

struct fhist *hacc_result(const struct hacc *acc, struct arena *a)
{
    double d = acc->mean && !acc->incremental ? acc->n : 1;
    struct fhist *f = fhist_copy(&acc->h, a);
    if (!f || !side_result(&acc->pos, d, a, &f->pos) || !side_result(&acc->neg, d, a, &f->neg))
        return NULL;
    f->count = acc->h.count / d + acc->count_comp / d;
    f->sum = acc->h.sum / d + acc->sum_comp / d;
    f->zero_count = acc->h.zero_count / d + acc->zero_comp / d;
    return f;
}
