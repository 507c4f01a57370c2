/* Several threads on one query: the answer, what is said beside it, and every error are those of one thread. */
#include <criterion/criterion.h>

#include "crew_fake.h"

static const struct engine_config plain = {.lookback_delta_ms = 300000, .default_evaluation_interval_ms = 60000};

static void both(struct fake_store *s, const struct engine_config *cfg, struct engine_crew *crew, const char *text, bool instant)
{
    struct arena a, b;
    arena_init(&a, 0);
    arena_init(&b, 0);
    struct ctx one = {.arena = &a, .tenant = SL("t")}, many = {.arena = &b, .tenant = SL("t")};
    struct engine_config with = *cfg;
    struct engine_result x, y;
    struct err ex = ERR_NONE, ey = ERR_NONE;
    with.crew = crew;
    bool ok_x = fake_exec(s, cfg, text, instant, &one, &x, &ex), ok_y = fake_exec(s, &with, text, instant, &many, &y, &ey);
    cr_assert(ok_x == ok_y, "%s: %s, with a crew: %s", text, ex.text, ey.text);
    if (ok_x)
        cr_assert(fake_same(&x, &y), "%s: other values with a crew", text);
    else
        cr_assert_str_eq(ex.text, ey.text, "%s", text);
    arena_release(&a);
    arena_release(&b);
}

static void all_queries(size_t threads, size_t min_series, bool stay)
{
    struct fake_store s;
    fake_store_init(&s, 2500, stay);
    struct engine_crew *crew = engine_crew_new(threads, min_series);
    for (size_t i = 0; i < ARRAY_LEN(fake_queries); i++)
        for (int instant = 0; instant < 2; instant++)
            both(&s, &plain, crew, fake_queries[i], instant);
    engine_crew_free(crew);
    arena_release(&s.arena);
}

Test(crew, two_threads_answer_as_one)
{
    all_queries(2, 1024, true);
}

Test(crew, five_threads_from_the_first_series_on_answer_as_one)
{
    all_queries(5, 0, true);
}

Test(crew, chunks_that_are_valid_for_one_call_are_copied)
{
    all_queries(3, 100, false);
}

Test(crew, less_than_two_threads_are_no_crew)
{
    cr_assert_null(engine_crew_new(1, 0));
    engine_crew_free(NULL);
}

Test(crew, limits_end_a_query_with_the_same_error)
{
    struct fake_store s;
    fake_store_init(&s, 1500, true);
    struct engine_crew *crew = engine_crew_new(4, 0);
    for (uint64_t n = 1; n < 3000; n += 211) {
        struct engine_config series = plain, chunks = plain, samples = plain;
        series.max_series = n;
        chunks.max_chunks = n;
        samples.max_samples = n * 70;
        both(&s, &series, crew, fake_queries[0], false);
        both(&s, &chunks, crew, fake_queries[2], false);
        both(&s, &samples, crew, fake_queries[1], true);
    }
    engine_crew_free(crew);
    arena_release(&s.arena);
}

Test(crew, errors_come_in_the_order_of_the_series)
{
    struct fake_store s;
    fake_store_init(&s, 1500, true);
    struct engine_crew *crew = engine_crew_new(4, 0);
    struct series_chunk *c = (struct series_chunk *)s.series[700].chunks;
    c[1].data.n = 9; /* cut off */
    both(&s, &plain, crew, fake_queries[0], false);
    s.fails_after = 600;
    both(&s, &plain, crew, fake_queries[0], false);
    s.fails_after = 800;
    both(&s, &plain, crew, fake_queries[0], false);
    struct engine_config series = plain;
    series.max_series = 650;
    both(&s, &series, crew, fake_queries[0], false);
    engine_crew_free(crew);
    arena_release(&s.arena);
}

Test(crew, memory_of_all_lanes_is_held_against_the_limit)
{
    struct fake_store s;
    fake_store_init(&s, 2500, false);
    struct engine_crew *crew = engine_crew_new(4, 0);
    struct engine_config cfg = plain;
    for (cfg.max_memory_bytes = 4096; cfg.max_memory_bytes < (uint64_t)8 << 20; cfg.max_memory_bytes *= 2)
        for (size_t i = 0; i < ARRAY_LEN(fake_queries); i++) {
            struct arena a;
            arena_init(&a, 0);
            struct ctx ctx = {.arena = &a, .tenant = SL("t")};
            struct engine_result r;
            struct err err = ERR_NONE;
            cfg.crew = crew;
            bool ok = fake_exec(&s, &cfg, fake_queries[i], false, &ctx, &r, &err);
            cr_assert(ok || err.code == ERR_MAX_QUERY_MEMORY || err.code == ERR_EXECUTION, "%s: %s", fake_queries[i], err.text);
            arena_release(&a);
        }
    engine_crew_free(crew);
    arena_release(&s.arena);
}
