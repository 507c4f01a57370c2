/* Histogram chunks with random series: what is appended comes back, from whole, resumed, cut short and spoilt bytes. */
#include <criterion/criterion.h>
#include <stdlib.h>

#include "base/assert.h"
#include "tests/storage/chunk/build.h"
#include "tests/storage/chunk/compare.h"
#include "tests/storage/chunk/cut.h"
#include "tests/storage/chunk/random.h"

static struct arena arena;

static void setup(void)
{
    arena_init(&arena, 0);
}

static void teardown(void)
{
    arena_release(&arena);
}

TestSuite(histogram_random, .init = setup, .fini = teardown);

static struct slice bytes_of(const struct histogram_appender *a)
{
    return histogram_appender_bytes(a);
}

#define WIDTH 24

struct model {
    struct rnd r;
    bool is_float;
    bool gauge;
    bool custom;
    double counts[2][WIDTH];
    double zero;
    int64_t t;
    double sum;
};

static const double model_bounds[WIDTH] = {0.5, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16, 17, 18, 19, 20, 21, 22, 23};

static size_t model_side(struct model *m, int side, struct bucket *out)
{
    size_t n = 0;
    for (int i = 0; i < WIDTH; i++)
        if (m->counts[side][i] != 0 || rnd_below(&m->r, 4) == 0)
            out[n++] = (struct bucket){m->custom ? i : i - 7, m->counts[side][i]};
    return n;
}

static struct histogram *model_next(struct model *m)
{
    struct bucket b[2][WIDTH];
    size_t n[2] = {0, 0};
    if (rnd_below(&m->r, 60) == 0)
        memset(m->counts, 0, sizeof(m->counts)); /* restart */
    if (rnd_below(&m->r, 40) == 0)
        return stale(&arena, m->is_float);
    for (int side = 0; side < (m->custom ? 1 : 2); side++) {
        for (uint64_t k = rnd_below(&m->r, 4); k > 0; k--) {
            double *c = &m->counts[side][rnd_below(&m->r, WIDTH)];
            double step = m->is_float ? (double)rnd_below(&m->r, 800) / 8 : (double)rnd_below(&m->r, 1000);
            *c = m->gauge ? step : *c + step;
        }
        n[side] = model_side(m, side, b[side]);
    }
    m->zero = m->custom ? 0 : m->zero + (double)rnd_below(&m->r, 2);
    struct histogram *h = build(&arena, m->is_float, m->zero, b[0], n[0], b[1], n[1]);
    m->sum += (double)rnd_below(&m->r, 100) / 4;
    h->sum = rnd_below(&m->r, 50) ? m->sum : NAN;
    h->hint = m->gauge ? HISTOGRAM_HINT_GAUGE : HISTOGRAM_HINT_UNKNOWN;
    if (m->custom) {
        h->schema = HISTOGRAM_CUSTOM_BUCKETS;
        h->zero_threshold = 0;
        h->custom_values = model_bounds;
        h->n_custom_values = WIDTH;
    } else if (rnd_below(&m->r, 100) == 0) {
        h->schema = 2;
    }
    return h;
}

static struct model model_of(uint64_t round)
{
    return (struct model){.r = {round * 77 + 1}, .is_float = round & 1, .gauge = round & 2, .custom = round & 4, .t = 1700000000000};
}

Test(histogram_random, random_series_come_back)
{
    for (uint64_t round = 0; round < 64; round++) {
        static struct cut_series s;
        static struct sample all[400];
        struct model m = model_of(round);
        size_t n = 0, at = 0;
        for (; n < 400; n++) {
            m.t += 1 + (int64_t)rnd_below(&m.r, 30000);
            all[n] = (struct sample){.t = m.t, .is_histogram = true, .h = *model_next(&m)};
            cut_histogram(&s, all[n].t, &all[n].h);
        }
        cut_close(&s);
        for (size_t c = 0; c < s.n_done; c++) {
            struct chunk_columns cols;
            struct err err = ERR_NONE;
            cr_assert(chunk_decode(s.done[c].enc, slice_make(s.done[c].p, s.done[c].n), &arena, &cols, &err), "%s", err.text);
            for (size_t i = 0; i < cols.n; i++, at++) {
                cr_assert_eq(cols.t[i], all[at].t);
                cr_assert(same_histogram(&cols.h[i], &all[at].h), "round %lu sample %zu", round, at);
                cr_assert(is_stale_nan(cols.h[i].sum) || histogram_validate(&cols.h[i], &err) || isnan(cols.h[i].sum), "%s", err.text);
            }
        }
        cr_assert_eq(at, n);
        cut_release(&s);
        arena_clear(&arena);
    }
}

/* A copy of the chunk, resumed. */
static struct histogram_appender *copy(const struct histogram_appender *a)
{
    struct slice b = bytes_of(a);
    char *exact = malloc(b.n);
    memcpy(exact, b.p, b.n);
    struct histogram_appender *r = histogram_appender_resume(
        histogram_appender_is_float(a) ? CHUNK_FLOAT_HISTOGRAM : CHUNK_HISTOGRAM, slice_make(exact, b.n));
    free(exact);
    cr_assert(r);
    cr_assert_eq(histogram_appender_count(r), histogram_appender_count(a));
    cr_assert_eq(histogram_appender_last_t(r), histogram_appender_last_t(a));
    return r;
}

Test(histogram_random, resumed_after_any_sample_it_goes_on_with_the_same_bytes)
{
    for (uint64_t round = 0; round < 16; round++) {
        struct model m = model_of(round);
        struct histogram_appender *a = histogram_appender_new(m.is_float), *b = histogram_appender_new(m.is_float);
        for (int i = 0; i < 300; i++) {
            struct histogram *h = model_next(&m);
            m.t += 15000;
            enum histogram_append_result ra = histogram_append(a, m.t, h), rb = histogram_append(b, m.t, h);
            cr_assert_eq(ra, rb);
            if (ra == HISTOGRAM_NEW_CHUNK) {
                struct histogram_appender *na = histogram_appender_next(a, m.is_float), *nb = histogram_appender_next(b, m.is_float);
                histogram_append(na, m.t, h);
                histogram_append(nb, m.t, h);
                histogram_appender_free(a);
                histogram_appender_free(b);
                a = na;
                b = nb;
            }
            cr_assert(slice_eq(bytes_of(a), bytes_of(b)), "round %lu sample %d", round, i);
            struct histogram_appender *r = copy(b);
            histogram_appender_free(b);
            b = r;
        }
        cr_assert_gt(histogram_appender_memory(a), bytes_of(a).n);
        histogram_appender_free(a);
        histogram_appender_free(b);
        arena_clear(&arena);
    }
}

/* Decodes and resumes a copy of exactly n bytes, under a budget; nothing but harm can go wrong. */
static bool try_decode(enum chunk_encoding enc, const void *p, size_t n)
{
    char *exact = malloc(n ? n : 1);
    struct arena small;
    struct chunk_columns cols;
    struct err err = ERR_NONE;
    arena_init(&small, 64 << 20);
    memcpy(exact, p, n);
    bool ok = chunk_decode(enc, slice_make(exact, n), &small, &cols, &err);
    cr_assert(ok || err.text[0]);
    histogram_appender_free(histogram_appender_resume(enc, slice_make(exact, n)));
    arena_release(&small);
    free(exact);
    return ok;
}

Test(histogram_random, cut_short_it_is_an_error)
{
    for (uint64_t round = 0; round < 8; round++) {
        struct model m = model_of(round);
        struct histogram_appender *a = histogram_appender_new(m.is_float);
        do
            m.t += 15000;
        while (histogram_append(a, m.t, model_next(&m)) == HISTOGRAM_APPENDED && histogram_appender_count(a) < 60);
        for (size_t cut = 0; cut < bytes_of(a).n; cut++)
            cr_assert(!try_decode(m.is_float ? CHUNK_FLOAT_HISTOGRAM : CHUNK_HISTOGRAM, bytes_of(a).p, cut), "%zu", cut);
        histogram_appender_free(a);
    }
}

Test(histogram_random, spoilt_bytes_are_read_without_harm)
{
    for (uint64_t round = 0; round < 8; round++) {
        struct model m = model_of(round);
        struct histogram_appender *a = histogram_appender_new(m.is_float);
        do
            m.t += 15000;
        while (histogram_append(a, m.t, model_next(&m)) == HISTOGRAM_APPENDED && histogram_appender_count(a) < 60);
        uint8_t b[8192];
        size_t n = bytes_of(a).n;
        cr_assert_leq(n, sizeof(b));
        for (int k = 0; k < 2000; k++) {
            memcpy(b, bytes_of(a).p, n);
            for (uint64_t x = 1 + rnd_below(&m.r, 4); x > 0; x--)
                b[rnd_below(&m.r, rnd_below(&m.r, 2) ? n : MIN(n, (size_t)24))] = (uint8_t)rnd_next(&m.r);
            try_decode(CHUNK_HISTOGRAM, b, n);
            try_decode(CHUNK_FLOAT_HISTOGRAM, b, n);
        }
        histogram_appender_free(a);
    }
}
