/* Columns of overlapping chunks as one: sorted, each time once, the first in the list wins. */
#include <criterion/criterion.h>
#include <stdlib.h>

#include "storage/chunk/chunk.h"
#include "tests/storage/chunk/random.h"

#define COLS 12
#define MAX 200

struct fixture {
    struct arena arena;
    struct chunk_columns cols[COLS];
    size_t n;
};

static void setup(struct fixture *f)
{
    memset(f, 0, sizeof(*f));
    arena_init(&f->arena, 0);
}

static void add_floats(struct fixture *f, size_t n, const int64_t *t, const double *v)
{
    struct chunk_columns *c = &f->cols[f->n++];
    *c = (struct chunk_columns){n, ARENA_ARRAY(&f->arena, int64_t, n + 1), ARENA_ARRAY(&f->arena, double, n + 1), NULL};
    memcpy(c->t, t, n * 8);
    memcpy(c->v, v, n * 8);
}

static void add_histograms(struct fixture *f, size_t n, const int64_t *t, double sum)
{
    struct chunk_columns *c = &f->cols[f->n++];
    *c = (struct chunk_columns){n, ARENA_ARRAY(&f->arena, int64_t, n), NULL, ARENA_ARRAY(&f->arena, struct histogram, n)};
    memcpy(c->t, t, n * 8);
    for (size_t i = 0; i < n; i++)
        c->h[i] = (struct histogram){.sum = sum + (double)i, .hint = i ? HISTOGRAM_HINT_NOT_RESET : HISTOGRAM_HINT_UNKNOWN};
}

static struct chunk_samples merge(struct fixture *f)
{
    struct chunk_samples s;
    struct err err = ERR_NONE;
    cr_assert(chunk_columns_merge(f->cols, f->n, &f->arena, &s, &err), "%s", err.text);
    return s;
}

Test(merge, nothing_is_nothing)
{
    struct fixture f;
    setup(&f);
    cr_assert_eq(merge(&f).n, 0);
    add_floats(&f, 0, (int64_t[]){0}, (double[]){0});
    cr_assert_eq(merge(&f).n, 0);
    arena_release(&f.arena);
}

Test(merge, one_column_of_floats_is_shared)
{
    struct fixture f;
    setup(&f);
    add_floats(&f, 0, (int64_t[]){0}, (double[]){0});
    add_floats(&f, 3, (int64_t[]){1, 2, 3}, (double[]){1, 2, 3});
    struct chunk_samples s = merge(&f);
    cr_assert(s.n == 3 && s.t == f.cols[1].t && s.v == f.cols[1].v && !s.h);
    arena_release(&f.arena);
}

Test(merge, on_equal_times_the_first_column_wins)
{
    struct fixture f;
    setup(&f);
    add_floats(&f, 3, (int64_t[]){10, 20, 30}, (double[]){1, 2, 3});
    add_floats(&f, 4, (int64_t[]){5, 10, 20, 40}, (double[]){-5, -10, -20, -40});
    struct chunk_samples s = merge(&f);
    cr_assert_eq(s.n, 5);
    cr_assert_arr_eq(s.t, ((int64_t[]){5, 10, 20, 30, 40}), 40);
    cr_assert_arr_eq(s.v, ((double[]){-5, 1, 2, 3, -40}), 40);
    arena_release(&f.arena);
}

Test(merge, times_that_do_not_grow_within_a_column_are_left_out)
{
    struct fixture f;
    setup(&f);
    add_floats(&f, 5, (int64_t[]){10, 30, 20, 30, 40}, (double[]){1, 2, 3, 4, 5});
    struct chunk_samples s = merge(&f);
    cr_assert_eq(s.n, 3);
    cr_assert_arr_eq(s.t, ((int64_t[]){10, 30, 40}), 24);
    arena_release(&f.arena);
}

Test(merge, floats_and_histograms_mix)
{
    struct fixture f;
    setup(&f);
    add_histograms(&f, 3, (int64_t[]){10, 20, 30}, 100);
    add_floats(&f, 2, (int64_t[]){15, 30}, (double[]){1, 2});
    struct chunk_samples s = merge(&f);
    cr_assert_eq(s.n, 4);
    cr_assert(s.h[0]->sum == 100 && !s.h[1] && s.v[1] == 1 && s.h[2]->sum == 101 && s.h[3]->sum == 102);
    arena_release(&f.arena);
}

Test(merge, a_histogram_behind_another_chunks_sample_forgets_that_it_is_no_reset)
{
    struct fixture f;
    setup(&f);
    add_histograms(&f, 4, (int64_t[]){10, 20, 30, 40}, 0);
    add_histograms(&f, 1, (int64_t[]){25}, 100);
    struct chunk_samples s = merge(&f);
    static const uint8_t want[] = {HISTOGRAM_HINT_UNKNOWN, HISTOGRAM_HINT_NOT_RESET, HISTOGRAM_HINT_UNKNOWN, HISTOGRAM_HINT_UNKNOWN,
                                   HISTOGRAM_HINT_NOT_RESET};
    cr_assert_eq(s.n, 5);
    for (size_t i = 0; i < 5; i++)
        cr_assert_eq(s.h[i]->hint, want[i], "%zu", i);
    arena_release(&f.arena);
}

Test(merge, random_columns_agree_with_a_plain_search)
{
    struct rnd r = {5};
    for (int round = 0; round < 500; round++) {
        struct fixture f;
        setup(&f);
        size_t n = rnd_below(&r, COLS + 1);
        int64_t range = 1 + (int64_t)rnd_below(&r, 2000);
        for (size_t c = 0; c < n; c++) {
            int64_t t[MAX];
            double v[MAX];
            size_t k = rnd_below(&r, MAX);
            int64_t at = (int64_t)rnd_below(&r, (uint64_t)range);
            for (size_t i = 0; i < k; i++) {
                at += 1 + (int64_t)rnd_below(&r, 7);
                t[i] = at;
                v[i] = (double)(c * 1000 + i);
            }
            add_floats(&f, k, t, v);
        }
        struct chunk_samples s = merge(&f);
        size_t found = 0;
        for (int64_t at = 0; at < range + MAX * 8; at++) {
            double want = -1;
            for (size_t c = n; c-- > 0;)
                for (size_t i = 0; i < f.cols[c].n; i++)
                    if (f.cols[c].t[i] == at)
                        want = f.cols[c].v[i];
            if (want < 0)
                continue;
            cr_assert_lt(found, s.n);
            cr_assert(s.t[found] == at && s.v[found] == want);
            found++;
        }
        cr_assert_eq(found, s.n);
        arena_release(&f.arena);
    }
}

Test(merge, a_full_arena_is_an_error)
{
    struct fixture f;
    setup(&f);
    struct arena small;
    struct chunk_samples s;
    struct err err = ERR_NONE;
    static int64_t t[MAX];
    static double v[MAX];
    for (int64_t i = 0; i < MAX; i++)
        t[i] = i;
    for (int i = 0; i < COLS; i++)
        add_floats(&f, MAX, t, v);
    arena_init(&small, 1024);
    cr_assert(!chunk_columns_merge(f.cols, f.n, &small, &s, &err));
    cr_assert_eq(err.code, ERR_NO_MEMORY);
    arena_release(&small);
    arena_release(&f.arena);
}
