/* Many blocks with random series in them, against a merge that is made the simple way: everything in one list, sorted. */
#include <criterion/criterion.h>

#define CLAIM(cond, ...) cr_assert(cond, __VA_ARGS__)
#include "tests/storage/chunk/random.h"
#include "tests/storage/gateway/gateway_rig.h"

#define BLOCKS 12u
#define NAMES 900u

static struct gw_rig rig;
static char names[NAMES][48];

/* A chunk of a series, in all blocks together. */
struct piece {
    size_t name;
    int64_t min_t, max_t;
};
static struct piece pieces[BLOCKS * NAMES];
static size_t n_pieces;

static int compare_names(const void *a, const void *b)
{
    return strcmp(a, b);
}

static int compare_pieces(const void *a, const void *b)
{
    const struct piece *x = a, *y = b;
    if (x->name != y->name)
        return x->name < y->name ? -1 : 1;
    if (x->min_t != y->min_t)
        return x->min_t < y->min_t ? -1 : 1;
    return (x->max_t > y->max_t) - (x->max_t < y->max_t);
}

/* Some blocks have nearly all series, some few; some blocks overlap. */
static void fill(struct rnd *rnd)
{
    static struct gw_series all[NAMES];
    for (size_t i = 0; i < NAMES; i++)
        snprintf(names[i], sizeof(names[i]), "__name__=m%zu,x=%03llu", i % 3, (unsigned long long)i / 3);
    qsort(names, NAMES, sizeof(names[0]), compare_names);
    n_pieces = 0;
    for (size_t b = 0; b < BLOCKS; b++) {
        uint64_t one_in = 1 + rnd_below(rnd, 8);
        int64_t begin = (int64_t)(b / 3) * 7200000;
        size_t n = 0;
        for (size_t i = 0; i < NAMES; i++) {
            if (rnd_below(rnd, one_in) != 0)
                continue;
            int64_t t = begin + (int64_t)rnd_below(rnd, 3600000);
            size_t samples = 1 + (size_t)rnd_below(rnd, 20);
            all[n++] = (struct gw_series){names[i], t, 1000, samples, (double)i};
            pieces[n_pieces++] = (struct piece){i, t, t + ((int64_t)samples - 1) * 1000};
        }
        if (n)
            gw_block(&rig, "t", all, n, begin, begin + 7200000);
    }
    gw_index(&rig, "t");
    qsort(pieces, n_pieces, sizeof(pieces[0]), compare_pieces);
}

static char *expected(int64_t min_t, int64_t max_t)
{
    struct buf out = {0};
    size_t last = SIZE_MAX;
    for (size_t i = 0; i < n_pieces; i++) {
        if (pieces[i].min_t > max_t || pieces[i].max_t < min_t)
            continue;
        if (pieces[i].name != last) {
            if (last != SIZE_MAX)
                buf_putc(&out, '\n');
            labels_print_set(gw_labels(&rig, names[pieces[i].name]), &out);
        }
        buf_printf(&out, " %lld-%lld", (long long)pieces[i].min_t, (long long)pieces[i].max_t);
        last = pieces[i].name;
    }
    if (last != SIZE_MAX)
        buf_putc(&out, '\n');
    char *text = arena_printf(&rig.arena, "%.*s", (int)out.n, out.n ? out.p : "");
    buf_release(&out);
    return text;
}

Test(gateway_merge, gives_what_a_simple_merge_gives)
{
    struct rnd rnd = {88172645463325252u};
    struct gateway_found found;
    struct err err = ERR_NONE;
    gw_new(&rig);
    fill(&rnd);
    rig.cfg.batch_series_size = 64;
    struct gateway *g = gw_start(&rig, 0);
    static const int64_t ranges[][2] = {{0, INT64_MAX}, {1800000, 9000000}, {7200000, 7200000}, {100000000, 200000000}};
    static const size_t batches[] = {1, 3, 64};
    for (size_t i = 0; i < ARRAY_LEN(ranges); i++) {
        const struct select_params p = {.min_t = ranges[i][0], .max_t = ranges[i][1]};
        const char *want = expected(ranges[i][0], ranges[i][1]);
        for (size_t b = 0; b < ARRAY_LEN(batches); b++) {
            const char *got = gw_select(&rig, g, "t", &p, &GW_ALL, &found, batches[b], &err);
            cr_assert(got, "%s", err.text);
            cr_expect(strcmp(got, want) == 0, "range %zu, batches of %zu: %zu bytes, not %zu", i, batches[b], strlen(got), strlen(want));
        }
    }
    gw_free(&rig);
}

/* All shards together are the whole, and no two have the same series. */
Test(gateway_merge, shards_of_a_query_are_the_whole)
{
    struct rnd rnd = {991};
    struct gateway_found found;
    struct err err = ERR_NONE;
    size_t total = 0;
    gw_new(&rig);
    fill(&rnd);
    struct gateway *g = gw_start(&rig, 0);
    for (int i = 1; i <= 4; i++) {
        struct matcher m;
        char shard[32];
        snprintf(shard, sizeof(shard), "%d_of_4", i);
        matcher_init(&m, MATCH_EQ, SL("__query_shard__"), slice_of(shard), NULL);
        const struct select_params p = {.min_t = 0, .max_t = INT64_MAX, .matchers = &m, .n_matchers = 1};
        const char *got = gw_select(&rig, g, "t", &p, &GW_ALL, &found, 10, &err);
        cr_assert(got, "%s", err.text);
        total += strlen(got);
        matcher_release(&m);
    }
    cr_expect_eq(total, strlen(expected(0, INT64_MAX)));
    gw_free(&rig);
}
