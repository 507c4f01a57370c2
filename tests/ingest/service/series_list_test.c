/* Selects in two phases. */
#include <criterion/criterion.h>

#include "ingest/series_list.h"
#include "tests/ingest/ingester_rig.h"

static struct world *w;
static struct arena arena;
static struct ctx ctx;

static void start(void)
{
    w = world_new();
    w->cfg.head_shards = 8;
    world_start(w);
    arena_init(&arena, 0);
    ctx = (struct ctx){.tenant = SL("t"), .arena = &arena};
}

static void stop(void)
{
    world_free(w);
    arena_release(&arena);
}

TestSuite(series_list, .init = start, .fini = stop, .timeout = 120);

static void consume(void)
{
    int64_t first, next;
    struct err err;
    cr_assert(plog_offsets(w->log, 0, &first, &next, &err) && ingester_wait(w->ing, next, &ctx, &err));
}

/* 600 series with label sets of several shapes, each with 3 samples. */
static void push_many(void)
{
    char text[128];
    for (int64_t t = T0; t < T0 + 3000; t += 1000) {
        for (int i = 0; i < 200; i++) {
            snprintf(text, sizeof(text), "up,instance=%d,zone=%d", i * 7919 % 1000, i % 3);
            world_push(w, "t", text, t, i);
            snprintf(text, sizeof(text), "up,instance=%d", i * 7919 % 1000);
            world_push(w, "t", text, t, i);
            snprintf(text, sizeof(text), "m%d,A=b,z=%s", i % 10, i % 2 ? "long long long text" : "short");
            snprintf(text + strlen(text), sizeof(text) - strlen(text), ",k=%d", i);
            world_push(w, "t", text, t, i);
        }
    }
    consume();
}

static struct series_list *list_of(const struct select_params *p, const struct series_filter *f)
{
    struct series_list *l;
    struct err err;
    cr_assert(ingester_list_series(w->ing, &ctx, p, f, &l, &err), "%s", err.text);
    return l;
}

static struct labels labels_at(const struct series_list *l, size_t i, uint32_t *ret_chunks)
{
    struct labels labels;
    cr_assert(series_list_labels(l, i, &arena, &labels, ret_chunks));
    return labels;
}

static const struct select_params all = {.min_t = INT64_MIN / 4, .max_t = INT64_MAX / 4};
static const struct series_filter sorted = {.sorted = true};

Test(series_list, series_of_all_shards_are_in_order_of_their_labels)
{
    push_many();
    struct series_list *l = list_of(&all, &sorted);
    cr_assert_eq(series_list_len(l), 600);
    uint32_t n_chunks;
    for (size_t i = 1; i < 600; i++)
        cr_assert_lt(labels_cmp(labels_at(l, i - 1, &n_chunks), labels_at(l, i, &n_chunks)), 0, "%zu", i);
    series_list_free(l);
}

/* By the labels of the set's series. */
static size_t find(const struct series_list *l, struct labels labels)
{
    uint32_t n_chunks;
    for (size_t i = 0; i < series_list_len(l); i++)
        if (labels_eq(labels_at(l, i, &n_chunks), labels))
            return i;
    cr_assert_fail("a series is not in the list");
    return 0;
}

Test(series_list, it_has_the_series_and_chunks_of_a_select)
{
    push_many();
    struct series_list *l = list_of(&all, &sorted);
    struct series batch[SERIES_LIST_BATCH], mine[600];
    struct err err;
    size_t n, total = 0;
    for (size_t from = 0; from < 600; from += 100)
        cr_assert(series_list_chunks(l, from, 100, &arena, mine + from, &err));
    struct queryable *q = ingester_queryable(w->ing);
    struct series_set *set = q->ops->select(q, &ctx, &all, &err);
    while (series_set_next(set, &ctx, batch, ARRAY_LEN(batch), &n, &err) && n) {
        for (size_t i = 0; i < n; i++) {
            uint32_t n_chunks;
            size_t at = find(l, batch[i].labels);
            labels_at(l, at, &n_chunks);
            cr_assert_eq(n_chunks, batch[i].n_chunks);
            cr_assert_eq(mine[at].n_chunks, batch[i].n_chunks);
            cr_assert(slice_eq(mine[at].chunks[0].data, batch[i].chunks[0].data));
        }
        total += n;
    }
    cr_expect_eq(total, 600);
    series_set_release(set);
    series_list_free(l);
}

Test(series_list, chunks_can_be_had_without_the_labels)
{
    push_many();
    struct series series[10];
    struct series_list *l = list_of(&all, &sorted);
    series_list_drop_labels(l);
    cr_assert(series_list_chunks(l, 590, 10, &arena, series, NULL));
    cr_expect_eq(series[9].n_chunks, 1);
    series_list_free(l);
}

Test(series_list, a_series_without_samples_in_the_range_is_not_listed)
{
    world_push(w, "t", "old", T0, 1);
    world_push(w, "t", "new", T0 + HOUR_MS, 1);
    consume();
    struct series_list *l = list_of(&(struct select_params){.min_t = T0 + 1, .max_t = INT64_MAX / 4}, &sorted);
    uint32_t n_chunks;
    cr_assert_eq(series_list_len(l), 1);
    cr_expect(slice_eq(labels_get(labels_at(l, 0, &n_chunks), SL("__name__")), SL("new")));
    series_list_free(l);
}

Test(series_list, the_limit_keeps_the_first_in_order)
{
    push_many();
    struct select_params p = all;
    p.limit = 3;
    struct series_list *l = list_of(&p, &sorted);
    uint32_t n_chunks;
    cr_assert_eq(series_list_len(l), 3);
    cr_expect(slice_eq(labels_at(l, 0, &n_chunks).items[0].name, SL("A")));
    series_list_free(l);
}

Test(series_list, query_shards_are_disjoint_and_together_everything)
{
    push_many();
    size_t together = 0;
    for (uint64_t i = 0; i < 7; i++) {
        struct series_filter f = {.shard = {i, 7}};
        struct series_list *l = list_of(&all, &f);
        cr_expect(series_list_len(l) > 40, "%zu", series_list_len(l));
        together += series_list_len(l);
        series_list_free(l);
    }
    cr_expect_eq(together, 600);
}

Test(series_list, active_series_have_samples_that_were_produced_lately)
{
    world_push(w, "t", "up", T0, 1); /* produced at T0, the rig's time */
    consume();
    for (int later = 0; later < 2; later++) {
        struct series_filter f = {.active_since_s = (uint32_t)(T0 / 1000 + later)};
        struct series_list *l = list_of(&all, &f);
        cr_expect_eq(series_list_len(l), later ? 0 : 1);
        series_list_free(l);
    }
}

Test(series_list, a_tenant_that_is_not_there_is_told_from_one_without_such_series)
{
    world_push(w, "t", "up", T0, 1);
    consume();
    struct series_list *l;
    struct err err;
    struct matcher m;
    cr_assert(matcher_init(&m, MATCH_EQ, SL("a"), SL("b"), &err));
    struct select_params p = all;
    p.matchers = &m;
    p.n_matchers = 1;
    l = list_of(&p, &sorted);
    cr_assert(l);
    cr_expect_eq(series_list_len(l), 0);
    series_list_free(l);
    matcher_release(&m);
    ctx.tenant = SL("nobody");
    cr_expect_null(list_of(&all, &sorted));
}

Test(series_list, a_full_arena_is_an_error)
{
    push_many();
    struct arena small;
    struct series_list *l;
    struct err err;
    arena_init(&small, 8 << 10);
    ctx.arena = &small;
    cr_expect_not(ingester_list_series(w->ing, &ctx, &all, &sorted, &l, &err));
    cr_expect_eq(err.code, ERR_MAX_QUERY_MEMORY);
    arena_release(&small);
}

Test(series_list, values_are_counted_over_all_shards)
{
    push_many();
    const struct value_count *counts;
    size_t n;
    struct err err;
    cr_assert(ingester_count_values(w->ing, &ctx, SL("zone"), NULL, 0, 0, &counts, &n, &err));
    cr_assert_eq(n, 3);
    static const uint64_t expected[] = {67, 67, 66};
    for (size_t i = 0; i < 3; i++) {
        cr_expect_eq(counts[i].value.p[0], (char)('0' + i));
        cr_expect_eq(counts[i].series, expected[i]);
    }
}

Test(series_list, values_are_counted_where_matchers_match)
{
    push_many();
    const struct value_count *counts;
    size_t n;
    struct err err;
    struct matcher m;
    cr_assert(matcher_init(&m, MATCH_EQ, SL("__name__"), SL("m3"), &err));
    cr_assert(ingester_count_values(w->ing, &ctx, SL("z"), &m, 1, 0, &counts, &n, &err));
    cr_assert_eq(n, 1);
    cr_expect(slice_eq(counts[0].value, SL("long long long text")));
    cr_expect_eq(counts[0].series, 20);
    cr_assert(ingester_count_values(w->ing, &ctx, SL("zone"), &m, 1, 0, &counts, &n, &err));
    cr_expect_eq(n, 0);
    matcher_release(&m);
}

Test(series_list, values_of_series_that_are_not_active_are_not_counted)
{
    world_push(w, "t", "up,a=b", T0, 1);
    consume();
    const struct value_count *counts;
    size_t n;
    struct err err;
    cr_assert(ingester_count_values(w->ing, &ctx, SL("a"), NULL, 0, (uint32_t)(T0 / 1000), &counts, &n, &err));
    cr_expect_eq(n, 1);
    cr_assert(ingester_count_values(w->ing, &ctx, SL("a"), NULL, 0, (uint32_t)(T0 / 1000) + 1, &counts, &n, &err));
    cr_expect_eq(n, 0);
}
