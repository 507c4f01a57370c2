/*
 * h </ x and h >/ x: a native histogram without the observations above (below) x.
 *
 * A bucket that x cuts keeps the part that interpolation gives: linear in the zero bucket and in custom buckets, on a logarithmic scale in
 * exponential ones. Count and sum are then estimated anew from the buckets' midpoints; a histogram from which nothing goes stays as it is.
 *
 * Custom buckets without a bound, as upstream treats them: the lowest bucket begins at 0 when its upper bound is positive, and otherwise is
 * kept whole by </ and dropped whole by >/ when x lies inside; the highest is dropped by every </ and kept whole by >/, its
 * observations at its lower bound or at x if that is higher. A lowest bucket that begins at 0 is dropped by >/ with a negative x.
 */
#include "read/promql/kernel_int.h"

struct cut {
    double x;
    bool keep_lower;
    bool custom;
    double count, sum; /* of what is kept */
    bool changed;
};

struct part {
    double count;
    double midpoint;
};

static double midpoint(const struct cut *c, double lo, double up, bool linear)
{
    if (c->custom || linear)
        return (lo + up) / 2;
    return up < 0 || lo < 0 ? -sqrt(lo * up) : sqrt(lo * up);
}

/* How much of [lo, up] lies below x, which is inside. */
static double share_below(const struct cut *c, double lo, double up, bool linear)
{
    if (c->custom || linear)
        return (c->x - lo) / (up - lo);
    double l = log2(fabs(lo)), u = log2(fabs(up)), x = log2(fabs(c->x));
    return lo > 0 || up > 0 ? (x - l) / (u - l) : 1 - (x - u) / (l - u);
}

static struct part cut_bounded(const struct cut *c, double lo, double up, double count, bool linear)
{
    bool below = up <= c->x, above = lo >= c->x;
    if (below || above)
        return (struct part){below == c->keep_lower ? count : 0, midpoint(c, lo, up, linear)};
    double share = share_below(c, lo, up, linear);
    if (c->keep_lower)
        return (struct part){count * share, midpoint(c, lo, c->x, linear)};
    return (struct part){count * (1 - share), midpoint(c, c->x, up, linear)};
}

static struct part cut_custom(const struct cut *c, double lo, double up, double count)
{
    if (isinf(lo) && isinf(up))
        return (struct part){0, 0};
    if (isinf(up))
        return (struct part){c->keep_lower ? 0 : count, fmax(lo, c->x)};
    if (!isinf(lo))
        return cut_bounded(c, lo, up, count, true);
    if (up > 0) {
        if (!c->keep_lower && c->x < 0)
            return (struct part){0, 0};
        return cut_bounded(c, 0, up, count, true);
    }
    if (c->keep_lower)
        return (struct part){count, fmin(up, c->x)};
    return (struct part){c->x >= up || c->x > lo ? 0 : count, up};
}

static void keep(struct cut *c, struct part p, double was)
{
    c->count += p.count;
    c->sum += p.count * p.midpoint;
    c->changed |= p.count != was;
}

static void cut_list(struct cut *c, struct blist *l, const struct fhist *h, bool negative)
{
    uint32_t n = 0;
    for (uint32_t i = 0; i < l->n; i++) {
        double up = fhist_bound(l->idx[i], h), lo = fhist_bound(l->idx[i] - 1, h);
        struct part p;
        if (c->custom)
            p = cut_custom(c, lo, up, l->c[i]);
        else if (negative)
            p = cut_bounded(c, -up, -lo, l->c[i], false);
        else
            p = cut_bounded(c, lo, up, l->c[i], false);
        keep(c, p, l->c[i]);
        if (p.count == 0)
            continue;
        l->idx[n] = l->idx[i];
        l->c[n++] = p.count;
    }
    l->n = n;
}

struct fhist *fhist_trim(const struct fhist *h, double bound, bool keep_lower, struct arena *a)
{
    struct fhist *f = fhist_dup(h, a);
    if (!f)
        return NULL;
    f->stored_size = 0;
    if (isnan(bound)) { /* upstream: buckets are neither kept nor cut, the zero bucket is cut at an unknown place */
        f->pos.n = f->neg.n = 0;
        f->count = f->sum = f->zero_count = h->zero_count > 0 ? NAN : 0;
        return f;
    }
    if (isinf(bound)) {
        if ((bound > 0) == keep_lower)
            return f;
        f->pos.n = f->neg.n = 0;
        f->count = f->sum = f->zero_count = 0;
        return f;
    }
    struct cut c = {.x = bound, .keep_lower = keep_lower, .custom = fhist_is_custom(h)};
    cut_list(&c, &f->pos, h, false);
    cut_list(&c, &f->neg, h, true);
    if (h->zero_count > 0) {
        double lo = h->neg.n || !h->pos.n ? -h->zero_threshold : 0, up = h->pos.n || !h->neg.n ? h->zero_threshold : 0;
        struct part p = cut_bounded(&c, lo, up, h->zero_count, true);
        keep(&c, p, h->zero_count);
        f->zero_count = p.count;
    }
    if (c.changed) {
        f->count = c.count;
        f->sum = c.sum;
    }
    return f;
}
