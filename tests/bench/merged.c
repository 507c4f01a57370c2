/*
 * What the union of recent and stored data costs: 100,000 series of ten labels and 4 KiB of chunks on each side, which lie in memory, so that only the union itself
 * takes time.
 *
 *     bench_merged
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "base/assert.h"
#include "base/clock.h"
#include "read/merged/merged.h"

#define SERIES 100000
#define LABELS 10
#define CHUNKS 12
#define CHUNK_BYTES 340

struct store {
    struct queryable base;
    struct series *series; /* as they are given */
    size_t n;
    bool stays, tells;
};

struct set {
    struct series_set base;
    const struct store *store;
    size_t at;
};

static bool set_next(struct series_set *base, struct ctx *ctx, struct series *ret, size_t max, size_t *ret_n, struct err *err)
{
    struct set *s = CONTAINER_OF(base, struct set, base);
    (void)ctx, (void)err;
    *ret_n = MIN(max, s->store->n - s->at);
    memcpy(ret, s->store->series + s->at, *ret_n * sizeof(*ret));
    s->at += *ret_n;
    return true;
}

static void set_release(struct series_set *base)
{
    free(CONTAINER_OF(base, struct set, base));
}

static bool stays(const struct series_set *base)
{
    return CONTAINER_OF(base, const struct set, base)->store->stays;
}

static bool low_water(struct series_set *base, struct labels *ret)
{
    const struct set *s = CONTAINER_OF(base, struct set, base);
    if (!s->store->tells || s->at == 0)
        return false;
    *ret = s->store->series[s->at - 1].labels;
    return true;
}

static struct series_set *store_select(struct queryable *q, struct ctx *ctx, const struct select_params *p, struct err *err)
{
    static const struct series_set_ops ops = {set_next, set_release};
    static const struct series_set_traits traits = {.chunks_stay = stays, .low_water = low_water};
    (void)ctx, (void)p, (void)err;
    struct set *s = calloc(1, sizeof(*s));
    ASSERT(s);
    *s = (struct set){.base = {.ops = &ops, .traits = &traits}, .store = CONTAINER_OF(q, struct store, base)};
    return &s->base;
}

static const struct queryable_ops store_ops = {.select = store_select};

/* Label sets of its own, as two sources have them. */
static struct series *make_series(struct arena *a, int64_t t0)
{
    struct series *all = ARENA_ARRAY(a, struct series, SERIES);
    for (size_t i = 0; i < SERIES; i++) {
        struct label *items = ARENA_ARRAY(a, struct label, LABELS);
        struct series_chunk *chunks = ARENA_ARRAY(a, struct series_chunk, CHUNKS);
        items[0] = (struct label){SL("__name__"), slice_of(arena_printf(a, "http_requests_total"))};
        for (int k = 1; k < LABELS; k++)
            items[k] = (struct label){slice_of(arena_printf(a, "label_%d", k)), slice_of(arena_printf(a, "value-%d-%06zu", k, k == 3 ? i : i % 7))};
        for (int k = 0; k < CHUNKS; k++)
            chunks[k] = (struct series_chunk){t0 + k * 1000, t0 + k * 1000 + 900, CHUNK_XOR, {arena_zalloc(a, CHUNK_BYTES), CHUNK_BYTES}};
        all[i] = (struct series){{items, LABELS}, chunks, CHUNKS};
    }
    return all;
}

static int by_labels(const void *a, const void *b)
{
    return labels_cmp(((const struct series *)a)->labels, ((const struct series *)b)->labels);
}

static void shuffle(struct series *s)
{
    unsigned seed = 1;
    for (size_t i = SERIES - 1; i > 0; i--) {
        size_t k = (size_t)rand_r(&seed) % (i + 1);
        struct series t = s[i];
        s[i] = s[k];
        s[k] = t;
    }
}

/* Of this thread: the machine may be busy. */
static double thread_ms(void)
{
    struct timespec ts;
    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &ts);
    return (double)ts.tv_sec * 1e3 + (double)ts.tv_nsec / 1e6;
}

static void run(struct queryable *q, const char *what)
{
    double best = 1e9;
    size_t used = 0, total = 0;
    for (int round = 0; round < 3; round++) {
        struct arena arena;
        struct err err = ERR_NONE;
        struct series batch[256];
        size_t n = 1;
        arena_init(&arena, 0);
        struct ctx ctx = {.tenant = SL("t"), .arena = &arena};
        const struct select_params p = {.max_t = clock_wall_ms()};
        double began = thread_ms();
        struct series_set *set = q->ops->select(q, &ctx, &p, &err);
        for (total = 0; set && n && series_set_next(set, &ctx, batch, ARRAY_LEN(batch), &n, &err);)
            total += n;
        series_set_release(set);
        best = MIN(best, thread_ms() - began);
        used = arena.used_bytes;
        arena_release(&arena);
    }
    printf("%-55s %7zu series in %6.1f ms, %4.0f ns and %3zu bytes of arena a series\n", what, total, best, best * 1e6 / (double)total, used / total);
}

int main(void)
{
    struct arena a;
    arena_init(&a, 0);
    struct store recent = {{&store_ops}, make_series(&a, 50000), SERIES, false, true};
    struct store stored = {{&store_ops}, make_series(&a, 0), SERIES, false, true};
    const struct merged_config cfg = {.query_store_after = 0};
    const struct limits limits = {.query_ingesters_within = 0};
    const struct limits_provider provider = {&limits};
    struct queryable *q = merged_queryable_new(&(struct merged_parts){&cfg, &provider, &recent.base, &stored.base});
    qsort(recent.series, SERIES, sizeof(*recent.series), by_labels);
    qsort(stored.series, SERIES, sizeof(*stored.series), by_labels);
    run(&recent.base, "one side, asked directly");
    run(q, "both by labels, side by side");
    shuffle(recent.series);
    recent.tells = false;
    run(q, "recent in any order, copied");
    recent.stays = true;
    run(q, "recent in any order, its chunks stay");
    stored.n = 0;
    run(q, "recent only, though both are asked");
    merged_queryable_free(q);
    arena_release(&a);
    return 0;
}
