/*
 * One writer, several readers, checkpoints and truncation at once, for the thread sanitizer (a plain program: Criterion
 * does not start under it). The writer pushes a value that follows from series and time; readers check that what they
 * see is right and without holes. Exit 0: all was.
 *
 *     ingest_head_stress [seconds]      default 5
 */
#include <pthread.h>
#include <stdatomic.h>

#include "base/clock.h"
#include "tests/ingest/head_rig.h"

#define SERIES 600
#define STEP_MS 15000

static struct rig *rig;
static atomic_bool stop;
static atomic_int failures;
static _Atomic int64_t written_until; /* every series has its sample at every step up to here */

static double value_at(int series, int64_t t)
{
    return (double)(series * 1000003 + (t - T0) / STEP_MS);
}

static void fail(const char *what)
{
    fprintf(stderr, "wrong: %s\n", what);
    atomic_fetch_add(&failures, 1);
}

/* The first series live throughout; the rest come and go, so that truncation has work. */
static void *write_all(void *arg)
{
    (void)arg;
    for (int64_t t = T0; !atomic_load(&stop); t += STEP_MS) {
        for (int i = 0; i < SERIES; i++) {
            char text[64];
            if (i < SERIES / 2)
                snprintf(text, sizeof(text), "live,i=%d,mod=%d", i, i % 7);
            else
                snprintf(text, sizeof(text), "passing,i=%d,gen=%lld", i, (long long)((t - T0) / (STEP_MS * 20)));
            rig_series(rig, text);
            rig_sample(rig, t, value_at(i, t));
            if (i % 50 == 0)
                rig_exemplar(rig, "trace_id=x", t, 1);
        }
        rig_apply(rig);
        struct err err;
        if (!chunk_store_flush(rig->head->chunks, false, &err))
            fail(err.text);
        atomic_store(&written_until, t);
    }
    return NULL;
}

static void check_series(const struct series *s, struct arena *arena, int64_t from, int64_t to)
{
    int i = atoi(labels_get(s->labels, SL("i")).p);
    int64_t expect = from;
    for (size_t k = 0; k < s->n_chunks; k++) {
        struct chunk_columns cols;
        struct err err;
        if (!chunk_decode(s->chunks[k].encoding, s->chunks[k].data, arena, &cols, &err)) {
            fail(err.text);
            return;
        }
        for (size_t x = 0; x < cols.n; x++) {
            if (cols.t[x] < from || cols.t[x] > to)
                continue;
            if (cols.t[x] != expect || cols.v[x] != value_at(i, cols.t[x])) {
                fprintf(stderr, "series %d at step %lld: expected step %lld, value %g for %g\n", i,
                        (long long)((cols.t[x] - T0) / STEP_MS), (long long)((expect - T0) / STEP_MS), cols.v[x],
                        value_at(i, cols.t[x]));
                fail("sample");
                return;
            }
            expect += STEP_MS;
        }
    }
    if (expect <= to)
        fail("a sample is missing");
}

static void *read_some(void *arg)
{
    unsigned seed = (unsigned)(uintptr_t)arg;
    while (!atomic_load(&stop)) {
        int64_t to = atomic_load(&written_until);
        if (to < T0 + 10 * STEP_MS)
            continue;
        int64_t back = (int64_t)(rand_r(&seed) % 100) * STEP_MS;
        int64_t from = MAX(T0, to - back);
        struct arena arena;
        arena_init(&arena, 0);
        struct ctx ctx = {.tenant = SL("t"), .arena = &arena};
        struct err err;
        struct matcher m[2];
        matcher_init(&m[0], MATCH_EQ, SL(METRIC_NAME_LABEL), SL("live"), &err);
        matcher_init(&m[1], MATCH_RE, SL("mod"), SL("[0-4]"), &err);
        struct select_params p = {
            .min_t = from, .max_t = to, .matchers = m, .n_matchers = 1 + (size_t)(rand_r(&seed) % 2)};
        struct series_set *set = head_select(rig->head, &ctx, &p, &err);
        struct series batch[64];
        size_t n;
        size_t total = 0;
        while (series_set_next(set, &ctx, batch, 64, &n, &err) && n) {
            total += n;
            for (size_t i = 0; i < n; i++)
                check_series(&batch[i], &arena, from, to);
        }
        if (p.n_matchers == 1 && total != SERIES / 2)
            fail("series are missing");
        series_set_release(set);
        const struct slice *list;
        const struct exemplar_series *xs;
        if (!head_label_values(rig->head, &ctx, SL("gen"), &p, &list, &n, &err) ||
            !head_exemplars(rig->head, &ctx, &p, &xs, &n, &err))
            fail(err.text);
        head_count_active(rig->head, (uint32_t)(T0 / 1000));
        matcher_release(&m[0]);
        matcher_release(&m[1]);
        arena_release(&arena);
    }
    return NULL;
}

static void *keep(void *arg)
{
    (void)arg;
    for (int round = 0; !atomic_load(&stop); round++) {
        uint64_t bytes;
        struct err err;
        if (!head_checkpoint(rig->head, -1, &bytes, &err))
            fail(err.text);
        int64_t cutoff = atomic_load(&written_until) - 200 * STEP_MS;
        if (round % 3 == 0 && cutoff > T0)
            rig_truncate(rig, cutoff);
    }
    return NULL;
}

int main(int argc, char **argv)
{
    int seconds = argc > 1 ? atoi(argv[1]) : 5;
    pthread_t threads[5];
    rig = rig_new(4);
    rig->limits.max_global_exemplars_per_user = 100;
    rig->limits.max_global_series_per_user = 0;
    pthread_create(&threads[0], NULL, write_all, NULL);
    pthread_create(&threads[1], NULL, keep, NULL);
    for (uintptr_t i = 2; i < 5; i++)
        pthread_create(&threads[i], NULL, read_some, (void *)i);
    struct timespec pause = {.tv_sec = seconds};
    nanosleep(&pause, NULL);
    atomic_store(&stop, true);
    for (int i = 0; i < 5; i++)
        pthread_join(threads[i], NULL);
    printf("%lld steps, %llu series, %d failures\n", (long long)((atomic_load(&written_until) - T0) / STEP_MS),
           (unsigned long long)atomic_load(&rig->head->n_series), atomic_load(&failures));
    rig_free(rig);
    return atomic_load(&failures) != 0;
}
