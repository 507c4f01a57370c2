/*
 * What a select over store-gateways of other processes costs the querier's thread: 50,000 series with a chunk in each of 12 blocks; then each series in one of 12 blocks only, as the blocks of a
 * compactor's shards have them. The store-gateways and the I/O thread are in this process too, but only the time of the thread that reads is shown.
 *
 *     bench_read_blocks
 */
#define FAKE_SERIES_MAX 50000

#include <time.h>

#include "tests/read/blocks/blocks_rig.h"

static double thread_seconds(void)
{
    struct timespec ts;
    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &ts);
    return (double)ts.tv_sec + (double)ts.tv_nsec / 1e9;
}

static void run(struct rig *r, const char *what, size_t n_gateways)
{
    struct arena arena;
    struct err err = ERR_NONE;
    struct series batch[256];
    size_t n = 1, total = 0, chunks = 0;
    arena_init(&arena, 0);
    struct ctx ctx = {.tenant = SL("t"), .arena = &arena, .deadline_ms = clock_mono_ms() + 60000};
    double cpu = thread_seconds();
    struct series_set *set = r->q->ops->select(r->q, &ctx, &r->params, &err);
    while (set && n && series_set_next(set, &ctx, batch, ARRAY_LEN(batch), &n, &err)) {
        total += n;
        for (size_t i = 0; i < n; i++)
            chunks += batch[i].n_chunks;
    }
    series_set_release(set);
    cpu = thread_seconds() - cpu;
    printf("%s, %zu store-gateways: %zu series, %zu chunks, %.0f ns of the thread a series, %.0f bytes of arena a series%s%s\n", what, n_gateways, total, chunks,
           cpu * 1e9 / (double)MAX(total, (size_t)1), (double)arena.used_bytes / (double)MAX(total, (size_t)1), err.text[0] ? ": " : "", err.text);
    arena_release(&arena);
}

static void run_with(size_t n_gateways, bool disjoint)
{
    static struct rig rig;
    rig_new(&rig);
    rig.replication = 1;
    for (int i = 0; i < 12; i++) {
        struct fake_block *b = rig_block(&rig, disjoint ? i : 0, FAKE_SERIES_MAX - (disjoint ? i : 0), 100000 * (1 + i));
        b->stride = disjoint ? 12 : 1;
    }
    for (size_t i = 0; i < n_gateways; i++)
        rig_gateway(&rig, "a");
    rig_start(&rig);
    run(&rig, disjoint ? "each series in one block" : "each series in 12 blocks", n_gateways);
    rig_stop(&rig);
}

int main(void)
{
    for (int disjoint = 0; disjoint < 2; disjoint++)
        for (size_t n = 1; n <= FAKES_MAX; n += n == 1 ? 2 : 3)
            run_with(n, disjoint);
    return 0;
}
