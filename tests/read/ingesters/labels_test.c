#include <criterion/criterion.h>

#include "tests/read/ingesters/ingesters_rig.h"

static struct rig rig;

static void setup(void)
{
    rig_new(&rig);
    rig.zone = "a";
    for (int i = 0; i < 2; i++) {
        rig_add(&rig, "a", i, 5 * i, 10);
        rig_add(&rig, "b", i, 5 * i, 10);
    }
    rig_start(&rig);
}

static void teardown(void)
{
    rig_stop(&rig);
}

TestSuite(ingesters_labels, .init = setup, .fini = teardown, .timeout = 60);

static struct select_params params(void)
{
    return (struct select_params){.max_t = 1000000, .matchers = &rig.matcher, .n_matchers = 1};
}

Test(ingesters_labels, names_are_sorted_and_unique)
{
    const struct slice *names;
    size_t n;
    struct select_params p = params();
    cr_assert(rig.q->ops->label_names(rig.q, &rig.ctx, &p, &names, &n, &rig.err), "%s", rig.err.text);
    static const char *const want[] = {"__name__", "a-0", "a-1", "s"};
    cr_assert_eq(n, 4);
    for (size_t i = 0; i < n; i++)
        cr_expect(slice_eq(names[i], slice_of(want[i])));
}

Test(ingesters_labels, values_are_sorted_and_unique)
{
    const struct slice *values;
    size_t n;
    struct select_params p = params();
    cr_assert(rig.q->ops->label_values(rig.q, &rig.ctx, SL("s"), &p, &values, &n, &rig.err), "%s", rig.err.text);
    cr_assert_eq(n, 15);
    for (size_t i = 0; i < n; i++)
        cr_expect_eq(atoi(values[i].p), (int)i);
    p.limit = 3;
    cr_assert(rig.q->ops->label_values(rig.q, &rig.ctx, SL("s"), &p, &values, &n, &rig.err));
    cr_assert_eq(n, 3);
}

Test(ingesters_labels, a_failing_owner_is_replaced)
{
    const struct slice *values;
    size_t n;
    struct select_params p = params();
    for (int i = 0; i < 4; i += 2)
        atomic_store(&rig.fakes[i].fail_code, RPC_UNAVAILABLE);
    cr_assert(rig.q->ops->label_values(rig.q, &rig.ctx, SL("s"), &p, &values, &n, &rig.err), "%s", rig.err.text);
    cr_expect_eq(n, 15);
    atomic_store(&rig.fakes[3].fail_code, RPC_UNAVAILABLE);
    cr_expect(!rig.q->ops->label_values(rig.q, &rig.ctx, SL("s"), &p, &values, &n, &rig.err));
    cr_expect_eq(rig.err.code, ERR_UNAVAILABLE);
    cr_expect(strstr(rig.err.text, "partition 1: "), "%s", rig.err.text);
}

Test(ingesters_labels, a_slow_owner_is_hedged)
{
    const struct metric_metadata *m;
    size_t n;
    rig.cfg.hedging_delay = 50;
    atomic_store(&rig.fakes[0].delay_ms, 5000);
    int64_t began = clock_mono_ms();
    cr_assert(rig.q->ops->metadata(rig.q, &rig.ctx, &m, &n, &rig.err), "%s", rig.err.text);
    cr_expect_lt(clock_mono_ms() - began, 2000);
    cr_expect_eq(atomic_load(&rig.fakes[1].requests), 1);
}

Test(ingesters_labels, metadata_is_by_family_and_unique)
{
    const struct metric_metadata *m;
    size_t n;
    cr_assert(rig.q->ops->metadata(rig.q, &rig.ctx, &m, &n, &rig.err), "%s", rig.err.text);
    cr_assert_eq(n, 3);
    cr_expect(slice_eq(m[0].family, SL("a-0")) && slice_eq(m[1].family, SL("a-1")) && slice_eq(m[2].family, SL("m")));
    cr_expect_str_eq(m[2].type, "counter");
    cr_expect(slice_eq(m[2].help, SL("Things.")));
}

Test(ingesters_labels, exemplars_of_one_series_are_put_together)
{
    const struct exemplar_series *s;
    size_t n;
    struct select_params p = params();
    rig.fakes[2].t0 = 50;
    cr_assert(rig.q->ops->exemplars(rig.q, &rig.ctx, &p, &s, &n, &rig.err), "%s", rig.err.text);
    cr_assert_eq(n, 15);
    for (size_t i = 0; i < n; i++) {
        cr_expect_eq(atoi(labels_get(s[i].labels, SL("s")).p), (int)i);
        cr_expect_eq(s[i].n, i >= 5 && i < 10 ? 3 : 2, "series %zu: %zu", i, s[i].n);
        for (size_t k = 1; k < s[i].n; k++)
            cr_expect_lt(s[i].exemplars[k - 1].t, s[i].exemplars[k].t);
    }
}

Test(ingesters_labels, series_without_chunks_come_once)
{
    struct select_params p = params();
    p.no_chunks = true;
    struct read_result *got = read_all(&rig, &rig.ctx, &p, -1, &rig.err);
    cr_expect(is_exactly(got, 0, 15, 0), "%s", rig.err.text);
    p.limit = 4;
    got = read_all(&rig, &rig.ctx, &p, -1, &rig.err);
    cr_expect_eq(got->n, 4);
    free(got);
}
