/*
 * Layouts of native histograms: two of them are brought to the coarser schema, the wider zero bucket (widened further when it would end inside a
 * populated bucket), or the bounds both sets of custom buckets have.
 */
#include <string.h>

#include "read/promql/kernel_hist_int.h"

void fhist_side_remap(const struct side *s, int32_t shift, const int32_t *map, uint32_t n_map)
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
void fhist_side_absorb(const struct side *s, const struct fhist *layout, double threshold, double *zero, double *zero_comp)
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

double fhist_zero_target(const struct blist *pos, const struct blist *neg, const struct fhist *layout, double t)
{
    for (;;) {
        double next = list_zero_target(pos->idx, pos->c, pos->n, layout, t);
        next = list_zero_target(neg->idx, neg->c, neg->n, layout, next);
        if (next == t)
            return t;
        t = next;
    }
}

double fhist_common_zero_threshold(const struct fhist *l, const struct fhist *r)
{
    double t = fmax(l->zero_threshold, r->zero_threshold);
    if (l->zero_threshold == r->zero_threshold)
        return t; /* even inside a populated bucket */
    for (;;) {
        double next = fhist_zero_target(&l->pos, &l->neg, l, t);
        next = fhist_zero_target(&r->pos, &r->neg, r, next);
        if (next == t)
            return t;
        t = next;
    }
}

bool fhist_same_bounds(const struct fhist *l, const struct fhist *r)
{
    return l->n_custom == r->n_custom && (l->n_custom == 0 || memcmp(l->custom, r->custom, l->n_custom * sizeof(double)) == 0);
}

bool fhist_common_bounds(const struct fhist *l, const struct fhist *r, struct arena *a, const double **ret, uint32_t *ret_n)
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
int32_t *fhist_bounds_map(const double *from, uint32_t n_from, const double *to, uint32_t n_to, struct arena *a)
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

struct fhist *fhist_to_bounds(const struct fhist *h, const double *bounds, uint32_t n, struct arena *a)
{
    struct fhist *f = fhist_dup(h, a);
    int32_t *map = f ? fhist_bounds_map(h->custom, h->n_custom, bounds, n, a) : NULL;
    if (!map)
        return NULL;
    struct side pos, neg;
    fhist_sides(f, &pos, &neg);
    fhist_side_remap(&pos, 0, map, h->n_custom + 1);
    f->custom = bounds;
    f->n_custom = n;
    f->stored_size = 0;
    return f;
}

struct fhist *fhist_to_zero_threshold(const struct fhist *h, double threshold, struct arena *a)
{
    struct fhist *f = fhist_dup(h, a);
    if (!f)
        return NULL;
    struct side pos, neg;
    fhist_sides(f, &pos, &neg);
    double unused = 0;
    fhist_side_absorb(&pos, h, threshold, &f->zero_count, &unused);
    fhist_side_absorb(&neg, h, threshold, &f->zero_count, &unused);
    f->zero_threshold = threshold;
    f->stored_size = 0;
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
    fhist_side_remap(&pos, h->schema - schema, NULL, 0);
    fhist_side_remap(&neg, h->schema - schema, NULL, 0);
    f->schema = schema;
    f->stored_size = 0;
    return f;
}

enum fhist_status fhist_align(const struct fhist **l, const struct fhist **r, struct arena *a, unsigned *notes)
{
    if (fhist_is_custom(*l) != fhist_is_custom(*r))
        return FHIST_INCOMPATIBLE;
    if (fhist_is_custom(*l)) {
        if (fhist_same_bounds(*l, *r))
            return FHIST_OK;
        *notes |= FHIST_MISMATCHED_BOUNDS;
        const double *bounds;
        uint32_t n;
        if (!fhist_common_bounds(*l, *r, a, &bounds, &n) || !(*l = fhist_to_bounds(*l, bounds, n, a)) || !(*r = fhist_to_bounds(*r, bounds, n, a)))
            return FHIST_NO_MEMORY;
        return FHIST_OK;
    }
    if ((*l)->zero_threshold != (*r)->zero_threshold) {
        double t = fhist_common_zero_threshold(*l, *r);
        if (!(*l = fhist_to_zero_threshold(*l, t, a)) || !(*r = fhist_to_zero_threshold(*r, t, a)))
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
uint8_t fhist_hint_of_sum(uint8_t l, uint8_t r, unsigned *notes)
{
    if (l == r)
        return l;
    if (l == HISTOGRAM_HINT_GAUGE || r == HISTOGRAM_HINT_GAUGE)
        return HISTOGRAM_HINT_GAUGE;
    if (l != HISTOGRAM_HINT_UNKNOWN && r != HISTOGRAM_HINT_UNKNOWN)
        *notes |= FHIST_RESET_CONFLICT;
    return HISTOGRAM_HINT_UNKNOWN;
}
