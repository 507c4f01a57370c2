/* Samples as Prometheus counts them; tests/e2e/interop and differential hold the numbers against a real one's. */
#include <criterion/criterion.h>

#include "crew_fake.h"

static const struct engine_config cfg = {.lookback_delta_ms = 300000, .default_evaluation_interval_ms = 60000};

#define ALL "{i=~\".+\"}"
static const char *const queries[] = {
    ALL,
    "sum(" ALL ") + sum(" ALL ")",
    "rate(" ALL "[5m])",
    "count(" ALL " @ 200) + sum(" ALL ")",
    "sum(rate(" ALL "[5m] offset 1m)) / sum(rate(" ALL "[5m] offset 1m))",
    "scalar(sum(" ALL " @ 200)) + sum(timestamp(" ALL "))",
    "predict_linear(" ALL "[3m] @ 400, 60)",
    "max_over_time(sum(" ALL ")[2m:20s])",
    "absent_over_time(" ALL "[1m])",
};

static struct engine_counts ask(struct fake_store *s, const char *text, int64_t start, int64_t end, int64_t step, struct arena *a)
{
    struct ctx ctx = {.arena = a, .tenant = SL("t")};
    struct err err = ERR_NONE;
    struct engine_result r;
    cr_assert(fake_exec_at(s, &cfg, text, start, end, step, &ctx, &r, &err), "%s: %s", text, err.text);
    return r.counts;
}

Test(counts, a_step_counts_what_an_instant_query_would)
{
    struct fake_store s;
    fake_store_init(&s, 40, true);
    for (size_t i = 0; i < ARRAY_LEN(queries); i++) {
        struct arena a;
        arena_init(&a, 0);
        struct engine_counts all = ask(&s, queries[i], 100000, FAKE_END_MS, 70000, &a);
        uint64_t seen = 0, read = 0;
        for (size_t k = 0; k < all.n_steps; k++) {
            int64_t t = 100000 + (int64_t)k * 70000;
            struct engine_counts one = ask(&s, queries[i], t, t, 0, &a);
            cr_expect(one.n_steps == 1 && one.seen == all.seen_at[k], "%s at %lld: %llu and %llu", queries[i], (long long)t, (unsigned long long)one.seen,
                      (unsigned long long)all.seen_at[k]);
            seen += all.seen_at[k];
            read += all.read_at[k];
        }
        cr_expect(all.seen == seen && all.read == read && seen > 0, "%s", queries[i]);
        arena_release(&a);
    }
    arena_release(&s.arena);
}

Test(counts, a_window_reads_what_the_one_before_did_not_see)
{
    struct fake_store s;
    struct arena a;
    fake_store_init(&s, 1, true);
    arena_init(&a, 0);
    /* Windows that overlap read each sample once, as one large window does. */
    struct engine_counts many = ask(&s, "count_over_time(" ALL "[2m])", 120000, 600000, 20000, &a);
    struct engine_counts one = ask(&s, "count_over_time(" ALL "[10m])", 600000, 600000, 0, &a);
    cr_expect_eq(many.read, one.seen);
    cr_expect_gt(many.seen, many.read);
    arena_release(&a);
    arena_release(&s.arena);
}

Test(counts, several_threads_count_the_same)
{
    struct fake_store s;
    fake_store_init(&s, 300, true);
    struct engine_config with = cfg;
    with.crew = engine_crew_new(3, 50);
    for (size_t i = 0; i < ARRAY_LEN(queries); i++) {
        struct arena a;
        arena_init(&a, 0);
        struct ctx ctx = {.arena = &a, .tenant = SL("t")};
        struct engine_result x, y;
        struct err err = ERR_NONE;
        cr_assert(fake_exec(&s, &cfg, queries[i], false, &ctx, &x, &err) && fake_exec(&s, &with, queries[i], false, &ctx, &y, &err), "%s", queries[i]);
        cr_expect(fake_same(&x, &y), "%s", queries[i]);
        arena_release(&a);
    }
    engine_crew_free(with.crew);
    arena_release(&s.arena);
}
