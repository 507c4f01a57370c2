/* Sums and means of many native histograms, compensated, in an accumulator that takes on the layout of what is added. */
#include <string.h>

#include "read/promql/kernel_hist_int.h"

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
        if (fhist_same_bounds(&view, *h))
            return FHIST_OK;
        *notes |= FHIST_MISMATCHED_BOUNDS;
        const double *bounds;
        uint32_t n;
        if (!fhist_common_bounds(&view, *h, a, &bounds, &n))
            return FHIST_NO_MEMORY;
        int32_t *map = fhist_bounds_map(view.custom, view.n_custom, bounds, n, scratch);
        if (!map || !(*h = fhist_to_bounds(*h, bounds, n, scratch)))
            return FHIST_NO_MEMORY;
        fhist_side_remap(&pos, 0, map, view.n_custom + 1);
        acc->h.custom = bounds;
        acc->h.n_custom = n;
        return FHIST_OK;
    }
    if (view.zero_threshold != (*h)->zero_threshold) {
        double t = fhist_common_zero_threshold(&view, *h);
        if (!(*h = fhist_to_zero_threshold(*h, t, scratch)))
            return FHIST_NO_MEMORY;
        fhist_side_absorb(&pos, &view, t, &acc->h.zero_count, &acc->zero_comp);
        fhist_side_absorb(&neg, &view, t, &acc->h.zero_count, &acc->zero_comp);
        acc->h.zero_threshold = t;
    }
    if ((*h)->schema > acc->h.schema && !(*h = fhist_to_schema(*h, acc->h.schema, scratch)))
        return FHIST_NO_MEMORY;
    if ((*h)->schema < acc->h.schema) {
        fhist_side_remap(&pos, acc->h.schema - (*h)->schema, NULL, 0);
        fhist_side_remap(&neg, acc->h.schema - (*h)->schema, NULL, 0);
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
    uint8_t hint = fhist_hint_of_sum(acc->h.hint, h->hint, notes);
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
    f->stored_size = 0;
    return f;
}
