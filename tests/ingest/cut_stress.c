/*
 * One writer, readers, a cutter and checkpoints at once, for the thread sanitizer (a plain program: Criterion does not start under it). Every sample follows
 * from series and time, late ones too; readers ask head and blocks together in every way there is, and check that the answer is exact: nothing missing,
 * nothing else, however often it is cut, flushed, truncated, saved and expired meanwhile. Exit 0: all was.
 *
 *     ingest_cut_stress [seconds]      default 5
 */
#include <stdatomic.h>

#include "base/clock.h"
#include "base/logger.h"
#include "ingest/ingester_int.h"
#include "ingest/series_list.h"
#include "tests/ingest/head_rig.h"

#define SERIES 120
#define STEP_MS 60000
#define LATE_STEPS 50 /* late samples stand so many steps before the newest ones, and 7 s behind the step */
#define LATE_MS 7000
#define KEPT_STEPS 700

static struct rig *rig;
static struct ingester *ing;
static atomic_bool stop;
static atomic_int failures;
static atomic_int cuts;
static atomic_int answers;
static _Atomic int64_t written; /* every series has all of its samples of the steps up to this one */

static bool has_late(int series)
{
    return series % 3 == 0;
}

static double value_at(int series, int64_t t)
{
    return (double)(series * 1000003 + (t - T0) / 1000);
}

static void fail(const char *what)
{
    fprintf(stderr, "wrong: %s\n", what);
    atomic_fetch_add(&failures, 1);
}

static void *write_all(void *arg)
{
    (void)arg;
    for (int64_t step = 0; !atomic_load(&stop); step++) {
        int64_t t = T0 + step * STEP_MS;
        for (int i = 0; i < SERIES; i++) {
            char text[64];
            snprintf(text, sizeof(text), "m,i=%d,mod=%d", i, i % 7);
            rig_series(rig, text);
            rig_sample(rig, t, value_at(i, t));
            int64_t late = t - LATE_STEPS * STEP_MS + LATE_MS;
            if (has_late(i) && late >= T0)
                rig_sample(rig, late, value_at(i, late));
        }
        rig_apply(rig);
        struct err err;
        if (!chunk_store_flush(rig->head->chunks, false, &err))
            fail(err.text);
        atomic_store(&written, step);
        /* The machine's speed is not to decide how far the readers fall behind. */
        nanosleep(&(struct timespec){.tv_nsec = 1000000}, NULL);
    }
    return NULL;
}

/* Is there to be a sample? */
static bool expected(int series, int64_t t)
{
    return (t - T0) % STEP_MS == 0 || (has_late(series) && (t - T0) % STEP_MS == LATE_MS);
}

static int64_t next_expected(int series, int64_t t)
{
    do
        t += 1000;
    while (!expected(series, t));
    return t;
}

/* from and to are steps; late samples are there up to `to`, as it lies so far back. */
static void check_series(const struct series *s, struct arena *arena, int64_t from, int64_t to)
{
    struct chunk_columns *cols = ARENA_ARRAY(arena, struct chunk_columns, s->n_chunks + 1);
    struct chunk_samples merged;
    struct err err = ERR_NONE;
    int i = atoi(labels_get(s->labels, SL("i")).p);
    for (size_t k = 0; k < s->n_chunks; k++)
        if (!chunk_decode(s->chunks[k].encoding, s->chunks[k].data, arena, &cols[k], &err))
            fail(err.text);
    if (!chunk_columns_merge(cols, s->n_chunks, arena, &merged, &err))
        fail(err.text);
    int64_t expect = from;
    for (size_t k = 0; k < merged.n; k++) {
        if (merged.t[k] < from || merged.t[k] > to)
            continue;
        if (merged.t[k] != expect || merged.v[k] != value_at(i, merged.t[k])) {
            fprintf(stderr, "series %d: %lld, not %lld\n", i, (long long)(merged.t[k] - T0), (long long)(expect - T0));
            fail("sample");
            return;
        }
        expect = next_expected(i, expect);
    }
    if (expect <= to)
        fail("a sample is missing at the end");
}

static void ask_set(struct ctx *ctx, const struct select_params *p, size_t n_series)
{
    struct err err = ERR_NONE;
    struct queryable *q = ingester_queryable(ing);
    struct series_set *set = q->ops->select(q, ctx, p, &err);
    struct series batch[64];
    size_t n = 0;
    size_t total = 0;
    while (set && series_set_next(set, ctx, batch, 64, &n, &err) && n) {
        total += n;
        for (size_t i = 0; i < n; i++)
            check_series(&batch[i], ctx->arena, p->min_t, p->max_t);
    }
    if (!set || total != n_series)
        fail(err.text[0] ? err.text : "series are missing");
    series_set_release(set);
}

static void ask_list(struct ctx *ctx, const struct select_params *p, size_t n_series)
{
    static const struct series_filter sorted = {.sorted = true};
    struct err err = ERR_NONE;
    struct series_list *l;
    struct series batch[50];
    struct labels labels[SERIES];
    uint32_t n_chunks;
    if (!ingester_list_series(ing, ctx, p, &sorted, &l, &err)) {
        fail(err.text);
        return;
    }
    size_t n = series_list_len(l);
    if (n != n_series)
        fail("series are missing in a list");
    for (size_t i = 0; i < n; i++)
        series_list_labels(l, i, ctx->arena, &labels[i], &n_chunks);
    for (size_t from = 0; from < n; from += 50) {
        size_t some = MIN((size_t)50, n - from);
        if (!series_list_chunks(l, from, some, ctx->arena, batch, &err)) {
            fail(err.text);
            break;
        }
        for (size_t i = 0; i < some; i++) {
            batch[i].labels = labels[from + i];
            check_series(&batch[i], ctx->arena, p->min_t, p->max_t);
        }
    }
    series_list_free(l);
}

static void ask_values(struct ctx *ctx, const struct select_params *p)
{
    struct err err = ERR_NONE;
    struct queryable *q = ingester_queryable(ing);
    const struct slice *list;
    size_t n;
    if (!q->ops->label_values(q, ctx, SL("mod"), p, &list, &n, &err) || n != 7)
        fail("values are missing");
    if (!q->ops->label_names(q, ctx, p, &list, &n, &err) || n != 3)
        fail("names are missing");
}

static void *read_some(void *arg)
{
    unsigned seed = (unsigned)(uintptr_t)arg;
    struct matcher m[2];
    struct err err;
    matcher_init(&m[0], MATCH_EQ, SL(METRIC_NAME_LABEL), SL("m"), &err);
    matcher_init(&m[1], MATCH_RE, SL("mod"), SL("[0-4]"), &err);
    size_t some = 0;
    for (int i = 0; i < SERIES; i++)
        some += i % 7 < 5;
    while (!atomic_load(&stop)) {
        int64_t last = atomic_load(&written) - LATE_STEPS;
        if (last < 10)
            continue;
        int64_t to = last - rand_r(&seed) % 20;
        int64_t from = MAX((int64_t)0, to - rand_r(&seed) % 300);
        struct arena arena;
        arena_init(&arena, 0);
        struct ctx ctx = {.tenant = SL("t"), .arena = &arena};
        struct select_params p = {.min_t = T0 + MAX(from, (int64_t)0) * STEP_MS,
                                  .max_t = T0 + MAX(to, (int64_t)0) * STEP_MS,
                                  .matchers = m,
                                  .n_matchers = 1 + (size_t)(rand_r(&seed) % 2)};
        size_t n_series = p.n_matchers == 1 ? SERIES : some;
        switch (rand_r(&seed) % 5) {
        case 0:
        case 1:
            ask_set(&ctx, &p, n_series);
            break;
        case 2:
        case 3:
            ask_list(&ctx, &p, n_series);
            break;
        default:
            p.n_matchers = 1;
            ask_values(&ctx, &p);
        }
        arena_release(&arena);
        atomic_fetch_add(&answers, 1);
    }
    matcher_release(&m[0]);
    matcher_release(&m[1]);
    return NULL;
}

static void save(struct cut_pace *pace)
{
    uint64_t bytes;
    struct err err;
    pthread_mutex_lock(&ing->checkpoint_lock);
    if (!head_save(rig->head, ing->blocks, -1, pace, &bytes, &err))
        fail(err.text);
    pthread_mutex_unlock(&ing->checkpoint_lock);
}

static void *cut_all(void *arg)
{
    (void)arg;
    struct cut_pace pace = {.share = 0.9};
    for (int round = 0; !atomic_load(&stop);) {
        int64_t cut = head_cut_ready(rig->head);
        struct cut_result r;
        struct err err;
        if (cut == INT64_MIN) {
            nanosleep(&(struct timespec){.tv_nsec = 1000000}, NULL);
            continue;
        }
        if (++round % 4 == 0)
            cut = CUT_ALL;
        if (!head_cut(rig->head, ing->blocks, false, cut, &pace, &r, &err))
            fail(err.text);
        save(&pace);
        atomic_fetch_add(&cuts, 1);
        /* Readers do not go back so far. */
        local_blocks_expire(ing->blocks, T0 + (atomic_load(&written) - KEPT_STEPS) * STEP_MS);
    }
    return NULL;
}

static void *checkpoint_all(void *arg)
{
    (void)arg;
    while (!atomic_load(&stop)) {
        save(NULL);
        head_count_active(rig->head, (uint32_t)(T0 / 1000));
        nanosleep(&(struct timespec){.tv_nsec = 3000000}, NULL);
    }
    return NULL;
}

int main(int argc, char **argv)
{
    int seconds = argc > 1 ? atoi(argv[1]) : 5;
    pthread_t threads[6];
    struct err err;
    struct ingest_config cfg = {0};
    struct limits_provider limits = {0};
    log_min_level = LOG_LEVEL_ERROR;
    rig = rig_new(4);
    rig->limits.max_global_series_per_user = 0;
    rig->limits.out_of_order_time_window = 24 * HOUR_MS;
    limits.defaults = &rig->limits;
    struct flag_set *flags = flag_set_new();
    flag_set_add(flags, "ingest", ingest_flags, ingest_flags_n, &cfg);
    cfg.retention_period = 1; /* of the time that local_blocks_expire is given */
    ing = ingester_new(&cfg, &limits, NULL, 0, rig->dir, "ingester-0", RIG_SEED, &err);
    if (!ing) {
        fprintf(stderr, "%s\n", err.text);
        return 1;
    }
    tenants_add(&ing->tenants, rig->head);
    atomic_store(&written, -1);
    pthread_create(&threads[0], NULL, write_all, NULL);
    pthread_create(&threads[1], NULL, cut_all, NULL);
    pthread_create(&threads[2], NULL, checkpoint_all, NULL);
    for (uintptr_t i = 3; i < 6; i++)
        pthread_create(&threads[i], NULL, read_some, (void *)i);
    nanosleep(&(struct timespec){.tv_sec = seconds}, NULL);
    atomic_store(&stop, true);
    for (int i = 0; i < 6; i++)
        pthread_join(threads[i], NULL);
    printf("%lld steps, %d cuts, %d answers, %d failures\n", (long long)atomic_load(&written), atomic_load(&cuts), atomic_load(&answers),
           atomic_load(&failures));
    ingester_free(ing);
    rig->head = NULL;
    rig_free(rig);
    flag_set_free(flags);
    return atomic_load(&failures) != 0;
}
