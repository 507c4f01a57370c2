/* Owners that are behind the log: others are asked first, and they themselves when nobody else answers. */
#include <criterion/criterion.h>

#include "tests/read/ingesters/ingesters_rig.h"

static struct rig rig;
static struct fake *a, *b;

static void setup(void)
{
    rig_new(&rig);
    rig.zone = "a";
    a = rig_add(&rig, "a", 0, 0, 5);
    b = rig_add(&rig, "b", 0, 0, 5);
}

static void teardown(void)
{
    rig_stop(&rig);
}

TestSuite(ingesters_lag, .init = setup, .fini = teardown, .timeout = 60);

#define EXPECT_ALL(n, samples) cr_expect(is_exactly(rig_read(&rig), 0, (n), (samples)), "%s", rig.err.text)

static void lag(int of_a_ms, int of_b_ms)
{
    atomic_store(&a->behind_ms, of_a_ms);
    atomic_store(&b->behind_ms, of_b_ms);
}

static void expect_requests(int of_a, int of_b)
{
    cr_expect_eq(atomic_exchange(&a->requests, 0), of_a, "the first owner");
    cr_expect_eq(atomic_exchange(&b->requests, 0), of_b, "the other");
}

Test(ingesters_lag, another_owner_is_asked_instead)
{
    rig_start(&rig);
    lag(5000, 0);
    EXPECT_ALL(5, 4);
    expect_requests(1, 1);
    lag(1900, 0);
    EXPECT_ALL(5, 4);
    expect_requests(1, 0);
}

Test(ingesters_lag, when_all_lag_the_freshest_answers)
{
    rig_start(&rig);
    lag(70000, 60000);
    EXPECT_ALL(5, 4);
    expect_requests(1, 2);
    lag(60000, 70000);
    EXPECT_ALL(5, 4);
    expect_requests(2, 1);
}

Test(ingesters_lag, one_that_lags_answers_for_one_that_is_dead)
{
    rig_start(&rig);
    lag(60000, 0);
    atomic_store(&b->fail_code, RPC_INTERNAL);
    EXPECT_ALL(5, 4);
    fake_stop(b);
    EXPECT_ALL(5, 4);
}

Test(ingesters_lag, one_that_lags_answers_for_one_that_is_silent)
{
    rig.cfg.hedging_delay = 50;
    rig_start(&rig);
    lag(60000, 0);
    atomic_store(&b->delay_ms, 5000);
    int64_t began = clock_mono_ms();
    EXPECT_ALL(5, 4);
    cr_expect_lt(clock_mono_ms() - began, 2000);
}

Test(ingesters_lag, one_that_lags_takes_over_a_stream_that_breaks)
{
    rig_start(&rig);
    rig.cfg.series_buffer = 1;
    lag(0, 60000);
    atomic_store(&a->break_after, 3);
    EXPECT_ALL(5, 4);
    expect_requests(1, 2);
}

Test(ingesters_lag, the_only_owner_is_not_asked_for_its_lag)
{
    struct fake *only = rig_add(&rig, "a", 1, 5, 5);
    rig_start(&rig);
    atomic_store(&only->behind_ms, 60000);
    EXPECT_ALL(10, 4);
    cr_expect_eq(atomic_load(&only->requests), 1);
}

Test(ingesters_lag, it_does_not_matter_when_the_flag_says_so)
{
    rig.cfg.prefer_owners_within = 0;
    rig_start(&rig);
    lag(60000, 0);
    EXPECT_ALL(5, 4);
    expect_requests(1, 0);
}

/* The client's own bound stays a refusal, whatever is preferred. */
Test(ingesters_lag, more_than_a_client_allows_is_an_error)
{
    struct ctx_tag tags[] = {{SL(READ_LEVEL_TAG), SL("eventual")}, {SL(READ_MAX_DELAY_TAG), SL("10s")}};
    rig.ctx.tags = tags;
    rig.ctx.n_tags = 2;
    rig_start(&rig);
    lag(60000, 5000);
    EXPECT_ALL(5, 4);
    lag(60000, 60000);
    struct read_result *got = rig_read(&rig);
    cr_expect(!got->ok && rig.err.code == ERR_UNAVAILABLE, "%s", rig.err.text);
    cr_expect(strstr(rig.err.text, "too far behind"), "%s", rig.err.text);
    free(got);
}

Test(ingesters_lag, calls_with_one_answer_do_the_same)
{
    const struct slice *values;
    size_t n;
    const struct select_params p = {.max_t = 1000000, .matchers = &rig.matcher, .n_matchers = 1};
    rig_start(&rig);
    lag(5000, 0);
    cr_assert(rig.q->ops->label_values(rig.q, &rig.ctx, SL("s"), &p, &values, &n, &rig.err), "%s", rig.err.text);
    expect_requests(1, 1);
    lag(5000, 6000);
    cr_assert(rig.q->ops->label_names(rig.q, &rig.ctx, &p, &values, &n, &rig.err), "%s", rig.err.text);
    expect_requests(2, 1);
    fake_stop(b);
    cr_assert(rig.q->ops->label_values(rig.q, &rig.ctx, SL("s"), &p, &values, &n, &rig.err), "%s", rig.err.text);
    cr_expect_eq(n, 5);
}
