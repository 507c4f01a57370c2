/*
 * What a select over ingesters of other processes costs the querier's thread: 4 partitions, 96,000 series with one chunk each; then the same series in two partitions, so that all
 * of them are merged. The ingesters and the I/O thread are in this process too, but only the time of the thread that reads is shown.
 *
 *     bench_ingesters
 */
#include <time.h>

#include "tests/read/ingesters/ingesters_rig.h"

#define SERIES 24000

static double thread_seconds(void)
{
    struct timespec ts;
    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &ts);
    return (double)ts.tv_sec + (double)ts.tv_nsec / 1e9;
}

static void run(struct rig *r, const char *what)
{
    struct arena arena;
    struct err err = ERR_NONE;
    struct series batch[256];
    size_t n = 1, total = 0;
    arena_init(&arena, 0);
    struct ctx ctx = {.tenant = SL("t"), .arena = &arena, .deadline_ms = clock_mono_ms() + 60000};
    const struct select_params p = {.max_t = 1000000, .matchers = &r->matcher, .n_matchers = 1};
    int64_t began_ns = clock_mono_ns();
    double cpu = thread_seconds();
    struct series_set *set = r->q->ops->select(r->q, &ctx, &p, &err);
    while (set && n && series_set_next(set, &ctx, batch, ARRAY_LEN(batch), &n, &err))
        total += n;
    series_set_release(set);
    cpu = thread_seconds() - cpu;
    printf("%s: %zu series in %.0f ms, %.0f ns of the thread a series, %.0f bytes of arena a series%s%s\n", what, total,
           (double)(clock_mono_ns() - began_ns) / 1e6, cpu * 1e9 / (double)MAX(total, (size_t)1), (double)arena.used_bytes / (double)MAX(total, (size_t)1),
           err.text[0] ? ": " : "", err.text);
    arena_release(&arena);
}

int main(void)
{
    static struct rig disjoint, shared;
    rig_new(&disjoint);
    for (int i = 0; i < 4; i++)
        rig_add(&disjoint, "a", i, SERIES * i, SERIES);
    rig_start(&disjoint);
    run(&disjoint, "first");
    run(&disjoint, "of one partition");
    rig_stop(&disjoint);
    rig_new(&shared);
    for (int i = 0; i < 4; i++)
        rig_add(&shared, "a", i, SERIES * (i / 2), SERIES)->t0 = 100000 * i;
    rig_start(&shared);
    run(&shared, "of two partitions");
    rig_stop(&shared);
    return 0;
}
