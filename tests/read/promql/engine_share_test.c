/* Expressions that a query has twice: kept or, with too little memory for that, evaluated again, the answer is the same. */
#include <criterion/criterion.h>

#include "crew_fake.h"

#define ALL "{i=~\".+\"}"
static const char *const twice[] = {
    "sum(rate(" ALL "[5m]) / rate(" ALL "[5m]))",
    "sum by (group) (" ALL ") / count by (group) (" ALL ")",
    "count(" ALL " unless " ALL ") or vector(1)",
    "sum(" ALL " * on (i) " ALL ")",
    "sum(rate(" ALL "[5m])) + scalar(max(rate(" ALL "[5m])))",
    "sum(" ALL ") + max_over_time(sum(" ALL ")[2m:20s])",
    "max(timestamp(" ALL ") - on (i) " ALL ")",
    "max(-" ALL " + on (i) -(" ALL "))",
};

/* False: that is too little memory. */
static bool ask(struct fake_store *s, uint64_t max_memory_bytes, struct engine_crew *crew, const char *text, struct arena *a, struct engine_result *ret)
{
    struct engine_config cfg = {.lookback_delta_ms = 300000, .default_evaluation_interval_ms = 60000, .max_memory_bytes = max_memory_bytes, .crew = crew};
    struct ctx ctx = {.arena = a, .tenant = SL("t")};
    struct err err = ERR_NONE;
    bool ok = fake_exec(s, &cfg, text, false, &ctx, ret, &err);
    cr_assert(ok || (max_memory_bytes && err.code == ERR_MAX_QUERY_MEMORY), "%s: %s", text, err.text);
    ret->samples_read = 0; /* counted as often as they are read */
    return ok;
}

Test(share, what_is_too_large_to_be_kept_is_evaluated_again)
{
    struct fake_store s;
    fake_store_init(&s, 1500, true);
    struct engine_crew *crew = engine_crew_new(3, 500);
    for (size_t i = 0; i < ARRAY_LEN(twice); i++) {
        struct arena a;
        struct engine_result want, got;
        size_t answers = 0;
        arena_init(&a, 0);
        cr_assert(ask(&s, 0, NULL, twice[i], &a, &want));
        for (uint64_t max = (uint64_t)2 << 20; max < (uint64_t)16 << 20; max += max / 3) {
            struct arena b;
            arena_init(&b, 0);
            if (ask(&s, max, max / 16 % 2 ? crew : NULL, twice[i], &b, &got)) {
                cr_expect(fake_same(&want, &got), "%s", twice[i]);
                answers++;
            }
            arena_release(&b);
        }
        cr_expect(answers, "%s", twice[i]);
        arena_release(&a);
    }
    engine_crew_free(crew);
    arena_release(&s.arena);
}
