/* Ingesters of this process. */
#include <criterion/criterion.h>

#include "log/last_produced.h"
#include "log/plog_int.h"
#include "tests/read/ingesters/ingesters_rig.h"

static struct rig rig;

/* A store with the series of a struct fake, asked directly. */
struct store {
    struct queryable base;
    struct fake *fake;
    struct err fails;
    int fails_after; /* calls on a set; -1: at the select */
    int selects, open;
    int behind_ms; /* how far it lags */
};

struct store_set {
    struct series_set base;
    struct store *store;
    struct arena arena;
    int at, calls;
};

static bool store_next(struct series_set *base, struct ctx *ctx, struct series *ret, size_t max, size_t *ret_n, struct err *err)
{
    struct store_set *s = CONTAINER_OF(base, struct store_set, base);
    const struct store *store = s->store;
    (void)ctx;
    *ret_n = 0;
    if (store->fails.code != ERR_OK && s->calls++ == store->fails_after)
        return err_set(err, store->fails.code, "%s", store->fails.text);
    for (; s->at < store->fake->n && *ret_n < max && *ret_n < 30; s->at++) {
        struct fake_labels *room = ARENA_NEW(&s->arena, struct fake_labels);
        struct series_chunk *chunk = ARENA_NEW(&s->arena, struct series_chunk);
        uint8_t *bytes = arena_alloc(&s->arena, FAKE_SAMPLES * XOR_SAMPLE_MAX_BYTES + 16);
        fake_chunk(store->fake, fake_series(store->fake, s->at), bytes, chunk);
        ret[(*ret_n)++] = (struct series){fake_labels(store->fake, fake_series(store->fake, s->at), room), chunk, 1};
    }
    return true;
}

static void store_release(struct series_set *base)
{
    struct store_set *s = CONTAINER_OF(base, struct store_set, base);
    s->store->open--;
    arena_release(&s->arena);
    free(s);
}

static const struct series_set_ops store_set_ops = {store_next, store_release};

static struct series_set *store_select(struct queryable *q, struct ctx *ctx, const struct select_params *p, struct err *err)
{
    struct store *store = CONTAINER_OF(q, struct store, base);
    (void)p;
    store->selects++;
    struct read_wish wish = read_wish_of(ctx, 0);
    if (wish.prefer_delay_ms && store->behind_ms > wish.prefer_delay_ms) {
        read_lag_err(store->behind_ms, err);
        return NULL;
    }
    if (store->fails.code != ERR_OK && store->fails_after < 0) {
        err_set(err, store->fails.code, "%s", store->fails.text);
        return NULL;
    }
    struct store_set *s = calloc(1, sizeof(*s));
    *s = (struct store_set){.base = {.ops = &store_set_ops}, .store = store};
    arena_init(&s->arena, 0);
    store->open++;
    return &s->base;
}

static const struct queryable_ops store_ops = {.select = store_select};

static struct store stores[2];

static void setup(void)
{
    rig_new(&rig);
    memset(stores, 0, sizeof(stores));
    for (int i = 0; i < 2; i++)
        stores[i].base.ops = &store_ops;
}

static void teardown(void)
{
    cr_expect_eq(stores[0].open + stores[1].open, 0);
    rig_stop(&rig);
}

TestSuite(ingesters_local, .init = setup, .fini = teardown, .timeout = 60);

static void make_local(struct store *s, struct fake *f)
{
    s->fake = f;
    rig.local[rig.n_local++] = (struct local_ingester){f->id, &s->base};
}

#define EXPECT_ALL(n, samples) cr_expect(is_exactly(rig_read(&rig), 0, (n), (samples)), "%s", rig.err.text)

Test(ingesters_local, the_only_partition_is_passed_through)
{
    make_local(&stores[0], rig_add(&rig, "a", 0, 0, 100));
    rig_start(&rig);
    EXPECT_ALL(100, 4);
    cr_expect_eq(atomic_load(&rig.fakes[0].requests), 0);
    stores[0].fails = (struct err){.code = ERR_UNAVAILABLE, .text = "not serving"};
    stores[0].fails_after = -1;
    struct read_result *got = rig_read(&rig);
    cr_expect(!got->ok && rig.err.code == ERR_UNAVAILABLE);
    free(got);
}

Test(ingesters_local, one_that_lags_leaves_the_answer_to_others)
{
    make_local(&stores[0], rig_add(&rig, "a", 0, 0, 5));
    struct fake *other = rig_add(&rig, "b", 0, 0, 5);
    rig_start(&rig);
    stores[0].behind_ms = 5000;
    EXPECT_ALL(5, 4);
    cr_expect_eq(stores[0].selects, 1);
    cr_expect_eq(atomic_load(&other->requests), 1);
    atomic_store(&other->behind_ms, 6000);
    EXPECT_ALL(5, 4);
    cr_expect_eq(stores[0].selects, 3);
    fake_stop(other);
    EXPECT_ALL(5, 4);
    cr_expect_eq(stores[0].selects, 5);
}

Test(ingesters_local, local_partitions_share_series)
{
    make_local(&stores[0], rig_add(&rig, "a", 0, 0, 100));
    make_local(&stores[1], rig_add(&rig, "a", 1, 0, 100));
    rig.fakes[1].t0 = 90000;
    rig_start(&rig);
    EXPECT_ALL(100, 8);
    cr_expect_eq(atomic_load(&rig.fakes[0].requests) + atomic_load(&rig.fakes[1].requests), 0);
}

Test(ingesters_local, the_local_owner_comes_before_its_zone)
{
    rig.zone = "b";
    make_local(&stores[0], rig_add(&rig, "a", 0, 0, 100));
    rig_add(&rig, "b", 0, 0, 100);
    rig_add(&rig, "b", 1, 100, 100);
    rig_start(&rig);
    EXPECT_ALL(200, 4);
    cr_expect_eq(atomic_load(&rig.fakes[1].requests), 0);
    cr_expect_eq(stores[0].selects, 1);
}

Test(ingesters_local, series_of_local_and_remote_partitions_are_put_together)
{
    make_local(&stores[0], rig_add(&rig, "a", 0, 0, 300));
    struct fake *f = rig_add(&rig, "a", 1, 0, 300);
    f->t0 = 90000;
    f->batch = 7;
    rig_start(&rig);
    EXPECT_ALL(300, 8);
}

Test(ingesters_local, a_local_owner_that_does_not_serve_is_replaced)
{
    make_local(&stores[0], rig_add(&rig, "a", 0, 0, 100));
    rig_add(&rig, "b", 0, 0, 100);
    stores[0].fails = (struct err){.code = ERR_UNAVAILABLE, .text = "not serving"};
    rig_start(&rig);
    for (stores[0].fails_after = -1; stores[0].fails_after < 4; stores[0].fails_after++)
        EXPECT_ALL(100, 4);
}

Test(ingesters_local, a_local_owner_takes_over_from_another_process)
{
    struct fake *f = rig_add(&rig, "a", 0, 0, 300);
    f->batch = 10;
    struct fake *local = rig_add(&rig, "b", 0, 0, 300);
    struct fake *shared = rig_add(&rig, "a", 1, 0, 300);
    shared->t0 = 90000;
    make_local(&stores[0], local);
    stores[0].fails = (struct err){.code = ERR_UNAVAILABLE, .text = "not serving"};
    stores[0].fails_after = -1;
    rig_start(&rig);
    for (int i = 0; i < 33; i++) {
        atomic_store(&f->break_after, -1);
        const struct select_params p = {.max_t = 1000000, .matchers = &rig.matcher, .n_matchers = 1};
        struct series batch[16];
        size_t n;
        int total = 0;
        atomic_store(&f->break_after, i);
        stores[0].fails.code = ERR_UNAVAILABLE;
        struct series_set *set = rig.q->ops->select(rig.q, &rig.ctx, &p, &rig.err);
        while (series_set_next(set, &rig.ctx, batch, 16, &n, &rig.err) && n) {
            stores[0].fails.code = ERR_OK;
            total += (int)n;
            for (size_t k = 0; k < n; k++)
                cr_expect_eq(batch[k].n_chunks, 2);
        }
        series_set_release(set);
        /* Until the first series is given the local one fails, and the other can but be asked once more. */
        cr_expect(total == 300 || i < 4, "%d: %d %s", i, total, rig.err.text);
    }
}

/* --- strong reads -------------------------------------------------------------------------------------------------------------------- */

Test(ingesters_local, offsets_are_asked_for_by_strong_reads_only)
{
    struct ingesters_consistency c = {.last_produced = NULL, .partitions = rig.partitions};
    rig_add(&rig, "a", 0, 0, 1);
    rig_publish(&rig);
    const struct ctx_tag eventual = {SL(READ_LEVEL_TAG), SL("eventual")};
    cr_expect(ingesters_consistency(&c, &rig.ctx, &rig.err));
    rig.ctx.tags = &eventual;
    rig.ctx.n_tags = 1;
    cr_expect(ingesters_consistency(&c, &rig.ctx, &rig.err));
    const struct ctx_tag given[] = {{SL(READ_LEVEL_TAG), SL("strong")}, {SL(READ_OFFSETS_TAG), SL("v1=0:5")}};
    rig.ctx.tags = given;
    rig.ctx.n_tags = 2;
    cr_expect(ingesters_consistency(&c, &rig.ctx, &rig.err));
    cr_expect_eq(rig.ctx.n_tags, 2);
}

static bool log_ends(struct plog *log, const int32_t *partitions, size_t n, int64_t *ret_next, struct err *err)
{
    (void)log;
    for (size_t i = 0; i < n; i++)
        ret_next[i] = partitions[i] * 100;
    return !atomic_load(&rig.canceled) || err_set(err, ERR_UNAVAILABLE, "brokers are away");
}

Test(ingesters_local, a_strong_read_is_told_the_offsets_of_all_read_partitions)
{
    static const struct plog_ops ops = {.ends = log_ends};
    static struct plog log = {&ops, 8};
    static const struct plog_config cfg = {.kafka_offset_poll_interval = 1000};
    for (int i = 0; i < 4; i++)
        rig_add(&rig, "a", i, 0, 1);
    partition_desc_find(rig.partition_doc, 2)->state = PARTITION_PENDING;
    partition_desc_find(rig.partition_doc, 3)->state = PARTITION_INACTIVE;
    rig_publish(&rig);
    struct last_produced *lp = last_produced_new(&log, &cfg);
    struct ingesters_consistency c = {.last_produced = lp, .partitions = rig.partitions};
    const struct ctx_tag strong = {SL(READ_LEVEL_TAG), SL("strong")};
    rig.ctx.tags = &strong;
    rig.ctx.n_tags = 1;
    cr_expect(ingesters_consistency(&c, &rig.ctx, &rig.err), "%s", rig.err.text);
    struct slice text = ctx_tag_find(&rig.ctx, SL(READ_OFFSETS_TAG));
    cr_expect(slice_eq(text, SL("v1=0:-1,1:99,3:299")), "%.*s", SL_FMT(text));
    cr_expect(slice_eq(ctx_tag_find(&rig.ctx, SL(READ_LEVEL_TAG)), SL("strong")));
    last_produced_free(lp);
}
