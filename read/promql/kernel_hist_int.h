/* Native histograms: what the files kernel_hist*.c share. See kernel_int.h for the type. */
#pragma once

#include "read/promql/kernel_int.h"

/* kernel_hist_bounds.c */
extern const double fhist_fractions[256];

bool blist_alloc(struct blist *l, uint32_t cap, struct arena *a);

/* Buckets of a side as arrays that are rewritten in place; comp (compensations) may be NULL. */
struct side {
    uint32_t *n;
    int32_t *idx;
    double *c;
    double *comp;
};

/* --- kernel_hist_layout.c: bringing two histograms to one layout -------------------------------------------------------------------- */

/* New indexes: by halving the resolution `shift` times, or by a map of custom buckets. Buckets that meet are added up. */
void fhist_side_remap(const struct side *s, int32_t shift, const int32_t *map, uint32_t n_map);
/* Moves the buckets up to threshold into the zero bucket. */
void fhist_side_absorb(const struct side *s, const struct fhist *layout, double threshold, double *zero, double *zero_comp);
/* The smallest threshold >= t that does not lie inside a populated bucket; of one histogram, and of both for their wider one. */
double fhist_zero_target(const struct blist *pos, const struct blist *neg, const struct fhist *layout, double t);
double fhist_common_zero_threshold(const struct fhist *l, const struct fhist *r);
bool fhist_same_bounds(const struct fhist *l, const struct fhist *r);
/* The custom bounds that both have. */
bool fhist_common_bounds(const struct fhist *l, const struct fhist *r, struct arena *a, const double **ret, uint32_t *ret_n);
/* For each bucket of the old bounds, the overflow bucket included, its bucket among the new ones (a subset of the old). */
int32_t *fhist_bounds_map(const double *from, uint32_t n_from, const double *to, uint32_t n_to, struct arena *a);
struct fhist *fhist_to_bounds(const struct fhist *h, const double *bounds, uint32_t n, struct arena *a);
struct fhist *fhist_to_zero_threshold(const struct fhist *h, double threshold, struct arena *a);
/* Replaces l and r by histograms of one layout, where theirs differ. */
enum fhist_status fhist_align(const struct fhist **l, const struct fhist **r, struct arena *a, unsigned *notes);
/* What the counter reset hint of a sum is; a reset met with an explicit non-reset is a conflict. */
uint8_t fhist_hint_of_sum(uint8_t l, uint8_t r, unsigned *notes);
