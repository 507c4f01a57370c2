/* Samples sorted by way of files: with buffers and pieces so small that every path is taken, they come out as a plain sort has them. */
#include <criterion/criterion.h>
#include <stdlib.h>
#include <unistd.h>

#include "app/tools/samples_int.h"
#include "base/assert.h"

#define RANGE 1000
#define N_SERIES 50

struct expected {
    uint32_t series;
    uint32_t order;
    int64_t t;
};

static int compare(const void *a, const void *b)
{
    const struct expected *x = a, *y = b;
    int64_t p = x->t < 0 ? (x->t - RANGE + 1) / RANGE : x->t / RANGE, q = y->t < 0 ? (y->t - RANGE + 1) / RANGE : y->t / RANGE;
    if (p != q)
        return p < q ? -1 : 1;
    if (x->series != y->series)
        return x->series < y->series ? -1 : 1;
    if (x->t != y->t)
        return x->t < y->t ? -1 : 1;
    return x->order < y->order ? -1 : 1;
}

/* Series i sorts as the i-th. */
static void add(struct samples *s, uint32_t i, int64_t t, double v)
{
    char text[16];
    struct err err = ERR_NONE;
    snprintf(text, sizeof(text), "%04u", i);
    struct label items[] = {{SL("__name__"), SL("m")}, {SL("n"), slice_of(text)}, {SL("o"), i % 2 ? SL("odd") : SL("even")}};
    cr_assert(samples_add(s, (struct labels){items, 2 + i % 2}, t, v, &err), "%s", err.text);
}

static void check(size_t n, size_t buffer_bytes, size_t piece)
{
    char dir[] = "/tmp/samples-test-XXXXXX";
    struct samples s;
    struct err err = ERR_NONE;
    struct expected *all = calloc(n, sizeof(*all));
    cr_assert(all && mkdtemp(dir));
    samples_init(&s, dir, RANGE);
    s.buffer_bytes = buffer_bytes;
    s.piece = piece;
    srand(7);
    for (size_t i = 0; i < n; i++) {
        all[i] = (struct expected){(uint32_t)rand() % N_SERIES, (uint32_t)i, rand() % (10 * RANGE) - 3 * RANGE};
        add(&s, all[i].series, all[i].t, (double)i);
    }
    qsort(all, n, sizeof(*all), compare);
    cr_assert(samples_sort(&s, &err), "%s", err.text);
    size_t at = 0;
    for (size_t r = 0; r < s.n_ranges; r++) {
        struct sorted q;
        struct record record;
        bool more = true;
        cr_assert(sorted_open(&q, &s, &s.ranges[r], &err), "%s", err.text);
        while (sorted_next(&q, &record, &more, &err) && more) {
            struct label room[3];
            struct labels l = samples_labels(&s, record.series, room);
            cr_assert(at < n && record.t == all[at].t && (size_t)record.v == all[at].order, "sample %zu", at);
            cr_assert(strtoul(labels_get(l, SL("n")).p, NULL, 10) == all[at].series && l.n == 2 + all[at].series % 2);
            cr_assert(record.t >= q.min_t && record.t <= q.max_t);
            at++;
        }
        sorted_close(&q);
    }
    cr_assert_eq(at, n);
    samples_release(&s);
    cr_expect(rmdir(dir) == 0, "files are left");
    free(all);
}

Test(samples, come_out_sorted_from_memory)
{
    check(20000, SAMPLES_BUFFER_BYTES, SAMPLES_PIECE);
}

Test(samples, come_out_sorted_from_files)
{
    check(20000, 1000, SAMPLES_PIECE);
}

Test(samples, come_out_sorted_from_runs)
{
    check(20000, 50000, 100);
    check(20000, 1000, 7);
}

Test(samples, symbols_of_a_range_are_its_series_alone)
{
    char dir[] = "/tmp/samples-test-XXXXXX";
    struct samples s;
    struct sorted q;
    struct err err = ERR_NONE;
    struct arena arena;
    const struct slice *symbols;
    size_t n;
    cr_assert(mkdtemp(dir));
    arena_init(&arena, 0);
    samples_init(&s, dir, RANGE);
    add(&s, 3, 5, 1);
    add(&s, 8, 5 + RANGE, 1);
    cr_assert(samples_sort(&s, &err) && sorted_open(&q, &s, &s.ranges[0], &err) && sorted_symbols(&q, &arena, &symbols, &n, &err), "%s", err.text);
    static const char *const expected[] = {"0003", "__name__", "m", "n", "o", "odd"};
    cr_assert_eq(n, ARRAY_LEN(expected));
    for (size_t i = 0; i < n; i++)
        cr_expect(slice_eq(symbols[i], slice_of(expected[i])));
    sorted_close(&q);
    samples_release(&s);
    arena_release(&arena);
    rmdir(dir);
}
