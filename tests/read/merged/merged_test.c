/*
 * The union of two stores made up here. What they give becomes invalid as early as the interface allows, and is overwritten then; their order, and what they say of themselves,
 * is what each test wants.
 */
#include <criterion/criterion.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/assert.h"
#include "base/clock.h"
#include "model/matcher.h"
#include "read/merged/merged.h"
#include "storage/chunk/chunk.h"

#define SERIES_MAX 3000
#define OF_CHUNK 5
#define CHUNKS_MAX 6

/* Series s has chunk c, if its bit is set: samples at c * 10 s + k s with value s * 1000 + c * 10 + k. */
struct store {
    struct queryable base;
    unsigned char has[SERIES_MAX]; /* bits of chunks */
    int order[SERIES_MAX];         /* the series, as they are given */
    int n;
    bool stays, tells; /* chunks stay valid; the order is by labels, and it says how far it is */
    size_t batch;      /* series that one call gives at most; 0: as many as asked for */
    struct err fail;   /* after fail_after calls */
    int fail_after;
    /* What was seen. */
    int selects, open_sets, other_calls;
    char said[8]; /* of label calls: b egun, e nded, g iven up, at o nce; of both stores in rig.recent */
    struct select_params params;
};

struct store_set {
    struct series_set base;
    struct store *store;
    int at, calls;
    size_t given;
    struct fake_series *batch; /* given by the last call */
    size_t n_batch;
    struct fake_series *kept; /* of earlier ones, when they stay */
    struct arena labels;
    const struct labels *last;
    bool no_chunks;
    size_t limit;
};

struct fake_series {
    struct fake_series *next;
    struct series_chunk chunks[CHUNKS_MAX];
    uint8_t bytes[CHUNKS_MAX][OF_CHUNK * XOR_SAMPLE_MAX_BYTES + 16];
};

static struct store_set *store_set_of(struct series_set *base)
{
    return CONTAINER_OF(base, struct store_set, base);
}

static const struct labels *make_labels(struct arena *a, int s)
{
    struct labels *l = ARENA_NEW(a, struct labels);
    struct label *items = ARENA_ARRAY(a, struct label, 2);
    items[0] = (struct label){SL("__name__"), SL("m")};
    items[1] = (struct label){SL("s"), slice_of(arena_printf(a, "%05d", s))};
    *l = (struct labels){items, 2};
    return l;
}

static void make_series(struct store_set *set, int s, struct fake_series *room, struct series *ret)
{
    set->last = make_labels(&set->labels, s);
    *ret = (struct series){.labels = *set->last, .chunks = room->chunks};
    for (int c = 0; c < CHUNKS_MAX && !set->no_chunks; c++) {
        if (!(set->store->has[s] >> c & 1))
            continue;
        struct xor_appender a;
        xor_appender_init(&a);
        for (int k = 0; k < OF_CHUNK; k++)
            xor_append(&a, room->bytes[c], c * 10000 + k * 1000, s * 1000 + c * 10 + k);
        room->chunks[ret->n_chunks++] = (struct series_chunk){c * 10000, c * 10000 + (OF_CHUNK - 1) * 1000, CHUNK_XOR, slice_make(room->bytes[c], xor_size(&a))};
    }
}

/* Overwrites what is not valid any more. */
static void spoil(struct store_set *s)
{
    for (size_t i = 0; s->batch && i < s->n_batch; i++)
        memset(&s->batch[i], 0xee, sizeof(s->batch[i]));
    free(s->batch);
    s->batch = NULL;
}

static struct fake_series *room_for(struct store_set *s, size_t i)
{
    if (!s->store->stays)
        return &s->batch[i];
    struct fake_series *room = calloc(1, sizeof(*room));
    room->next = s->kept;
    return s->kept = room;
}

static bool store_next(struct series_set *base, struct ctx *ctx, struct series *ret, size_t max, size_t *ret_n, struct err *err)
{
    struct store_set *s = store_set_of(base);
    (void)ctx;
    spoil(s);
    if (s->store->fail.code && s->calls == s->store->fail_after)
        return err_set(err, s->store->fail.code, "%s", s->store->fail.text);
    s->calls++;
    max = s->store->batch ? MIN(max, s->store->batch) : max;
    max = s->limit ? MIN(max, s->limit - s->given) : max;
    s->batch = calloc(max + 1, sizeof(*s->batch));
    s->n_batch = max;
    size_t n = 0;
    for (; n < max && s->at < s->store->n; n++)
        make_series(s, s->store->order[s->at++], room_for(s, n), &ret[n]);
    *ret_n = n;
    s->given += n;
    return true;
}

static void store_release(struct series_set *base)
{
    struct store_set *s = store_set_of(base);
    spoil(s);
    s->store->open_sets--;
    while (s->kept) {
        struct fake_series *room = s->kept;
        s->kept = room->next;
        free(room);
    }
    arena_release(&s->labels);
    free(s);
}

static bool store_stays(const struct series_set *base)
{
    return CONTAINER_OF(base, const struct store_set, base)->store->stays;
}

static bool store_low(struct series_set *base, struct labels *ret)
{
    struct store_set *s = store_set_of(base);
    if (!s->store->tells || !s->last)
        return false;
    *ret = *s->last;
    return true;
}

static struct series_set *store_select(struct queryable *q, struct ctx *ctx, const struct select_params *p, struct err *err)
{
    static const struct series_set_ops ops = {store_next, store_release};
    static const struct series_set_traits traits = {.chunks_stay = store_stays, .low_water = store_low};
    struct store *store = CONTAINER_OF(q, struct store, base);
    (void)ctx;
    store->selects++;
    store->params = *p;
    if (store->fail.code && store->fail_after < 0) {
        *err = store->fail;
        return NULL;
    }
    struct store_set *s = calloc(1, sizeof(*s));
    *s = (struct store_set){.base = {.ops = &ops, .traits = &traits}, .store = store, .no_chunks = p->no_chunks, .limit = p->limit};
    arena_init(&s->labels, 0);
    store->open_sets++;
    return &s->base;
}

static void say(char what);

static bool store_strings(struct queryable *q, struct ctx *ctx, const struct select_params *p, const struct slice **ret, size_t *ret_n, struct err *err)
{
    struct store *store = CONTAINER_OF(q, struct store, base);
    struct slice *all = ARENA_ARRAY(ctx->arena, struct slice, SERIES_MAX);
    store->other_calls++;
    say('o');
    store->params = *p;
    if (store->fail.code) {
        *err = store->fail;
        return false;
    }
    *ret_n = 0;
    for (int s = 0; s < SERIES_MAX; s++)
        if (store->has[s])
            all[(*ret_n)++] = slice_of(arena_printf(ctx->arena, "%05d", s));
    *ret = all;
    return true;
}

static bool store_values(struct queryable *q, struct ctx *ctx, struct slice name, const struct select_params *p, const struct slice **ret, size_t *ret_n,
                         struct err *err)
{
    (void)name;
    return store_strings(q, ctx, p, ret, ret_n, err);
}

static bool store_metadata(struct queryable *q, struct ctx *ctx, const struct metric_metadata **ret, size_t *ret_n, struct err *err)
{
    (void)ctx, (void)err;
    CONTAINER_OF(q, struct store, base)->other_calls++;
    *ret = NULL;
    *ret_n = 0;
    return true;
}

static bool store_exemplars(struct queryable *q, struct ctx *ctx, const struct select_params *p, const struct exemplar_series **ret, size_t *ret_n, struct err *err)
{
    (void)ctx, (void)p, (void)err;
    CONTAINER_OF(q, struct store, base)->other_calls++;
    *ret = NULL;
    *ret_n = 0;
    return true;
}

static const struct queryable_ops store_ops = {
    .select = store_select, .label_names = store_strings, .label_values = store_values, .metadata = store_metadata, .exemplars = store_exemplars};

struct label_call {
    struct queryable *q;
    struct ctx *ctx;
    struct select_params params;
};

static struct label_call *store_begin(struct queryable *q, struct ctx *ctx, const struct slice *name, const struct select_params *p, struct err *err)
{
    struct label_call *c = malloc(sizeof(*c));
    (void)name, (void)err;
    say('b');
    *c = (struct label_call){q, ctx, *p};
    return c;
}

static bool store_end(struct label_call *c, const struct slice **ret, size_t *ret_n, struct err *err)
{
    struct label_call call = *c;
    free(c);
    say(ret ? 'e' : 'g');
    return !ret || store_strings(call.q, call.ctx, &call.params, ret, ret_n, err);
}

static const struct queryable_ops early_ops = {
    .select = store_select, .label_names = store_strings, .label_values = store_values, .label_begin = store_begin, .label_end = store_end};

/* --- the rig ---------------------------------------------------------------------------------------------------------------------------------- */

static struct rig {
    struct store recent, stored;
    struct merged_config cfg;
    struct limits limits;
    struct limits_provider provider;
    struct queryable *q;
    struct arena arena;
    struct ctx ctx;
    struct err err;
    struct select_params params;
    int64_t now_ms;
    unsigned seed;
} rig;

#define HOUR_MS 3600000

static void say(char what)
{
    size_t n = strlen(rig.recent.said);
    if (n + 1 < sizeof(rig.recent.said))
        rig.recent.said[n] = what;
}

static void setup(void)
{
    memset(&rig, 0, sizeof(rig));
    rig.recent.base.ops = rig.stored.base.ops = &store_ops;
    rig.cfg.query_store_after = 12 * HOUR_MS;
    rig.limits.query_ingesters_within = 13 * HOUR_MS;
    rig.provider.defaults = &rig.limits;
    rig.q = merged_queryable_new(&(struct merged_parts){&rig.cfg, &rig.provider, &rig.recent.base, &rig.stored.base});
    arena_init(&rig.arena, 0);
    rig.ctx = (struct ctx){.tenant = SL("t"), .arena = &rig.arena};
    rig.now_ms = clock_wall_ms();
    rig.params = (struct select_params){.min_t = 0, .max_t = rig.now_ms};
    rig.seed = 7;
}

static void teardown(void)
{
    cr_expect_eq(rig.recent.open_sets, 0);
    cr_expect_eq(rig.stored.open_sets, 0);
    merged_queryable_free(rig.q);
    arena_release(&rig.arena);
}

TestSuite(merged, .init = setup, .fini = teardown, .timeout = 120);

static void put(struct store *s, int series, unsigned chunks)
{
    if (!s->has[series])
        s->order[s->n++] = series;
    s->has[series] |= (unsigned char)chunks;
}

static int compare_ints(const void *a, const void *b)
{
    return *(const int *)a - *(const int *)b;
}

static void sort_store(struct store *s)
{
    qsort(s->order, (size_t)s->n, sizeof(s->order[0]), compare_ints);
}

static void shuffle_store(struct store *s)
{
    for (int i = s->n - 1; i > 0; i--) {
        int k = rand_r(&rig.seed) % (i + 1), t = s->order[i];
        s->order[i] = s->order[k];
        s->order[k] = t;
    }
}

/* Reads it all. What each series had, as bits of chunks; a series that comes twice, a chunk that does, or a wrong sample aborts. */
struct got {
    unsigned char has[SERIES_MAX];
    bool seen[SERIES_MAX];
    int n;
};

static int number_of(struct labels l)
{
    struct slice s = labels_get(l, SL("s"));
    char text[6] = "";
    ASSERT(s.n == 5);
    memcpy(text, s.p, 5);
    return atoi(text);
}

static void check_series(const struct series *x, struct got *got)
{
    int s = number_of(x->labels);
    ASSERT(s >= 0 && s < SERIES_MAX && !got->seen[s]);
    got->seen[s] = true;
    got->n++;
    for (size_t i = 0; i < x->n_chunks; i++) {
        int64_t t[OF_CHUNK];
        double v[OF_CHUNK];
        int c = (int)(x->chunks[i].min_t / 10000);
        ASSERT(xor_decode(x->chunks[i].data, t, v, OF_CHUNK) == OF_CHUNK);
        ASSERT(i == 0 || x->chunks[i - 1].min_t < x->chunks[i].min_t);
        for (int k = 0; k < OF_CHUNK; k++)
            ASSERT(t[k] == c * 10000 + k * 1000 && v[k] == s * 1000 + c * 10 + k);
        got->has[s] |= (unsigned char)(1u << c);
    }
}

static bool read_union(size_t max, struct got *got)
{
    struct series batch[300];
    struct labels *all = calloc(SERIES_MAX, sizeof(*all));
    memset(got, 0, sizeof(*got));
    struct series_set *set = rig.q->ops->select(rig.q, &rig.ctx, &rig.params, &rig.err);
    size_t n = 1;
    bool ok = set != NULL;
    while (ok && n) {
        int before = got->n;
        ok = series_set_next(set, &rig.ctx, batch, max, &n, &rig.err);
        ASSERT(!ok || n <= max);
        for (size_t i = 0; ok && i < n; i++) {
            all[before + (int)i] = batch[i].labels;
            check_series(&batch[i], got);
        }
    }
    for (int i = 0; i < got->n; i++)
        number_of(all[i]); /* labels are valid to the end */
    series_set_release(set);
    free(all);
    return ok;
}

static void expect_union(size_t max, const char *what)
{
    static struct got got;
    cr_expect(read_union(max, &got), "%s: %s", what, rig.err.text);
    for (int s = 0; s < SERIES_MAX; s++) {
        unsigned want = rig.recent.has[s] | rig.stored.has[s];
        cr_assert(got.seen[s] == (want != 0) && got.has[s] == (rig.params.no_chunks ? 0 : want), "%s: series %d has %x, not %x", what, s, got.has[s], want);
    }
}

/* --- who is asked ----------------------------------------------------------------------------------------------------------------------------------- */

Test(merged, only_the_side_that_has_the_range_is_asked)
{
    static const struct {
        int64_t from_h, to_h; /* before now, in hours and a half */
        bool recent, stored;
    } cases[] = {{1, 0, true, false}, {11, 0, true, false}, {13, 0, true, true}, {24, 0, true, true}, {24, 14, false, true}, {24, 12, true, true}, {12, 12, true, true}};
    for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
        rig.recent.selects = rig.stored.selects = 0;
        rig.params.min_t = rig.now_ms - cases[i].from_h * HOUR_MS - HOUR_MS / 2;
        rig.params.max_t = rig.now_ms - cases[i].to_h * HOUR_MS - HOUR_MS / 2;
        expect_union(10, "empty");
        cr_expect_eq(rig.recent.selects, cases[i].recent, "%zu", i);
        cr_expect_eq(rig.stored.selects, cases[i].stored, "%zu", i);
    }
}

Test(merged, each_side_is_asked_for_its_part_of_the_range)
{
    expect_union(10, "empty");
    cr_expect(llabs(rig.recent.params.min_t - (rig.now_ms - 13 * HOUR_MS)) < 10000);
    cr_expect_eq(rig.recent.params.max_t, rig.now_ms);
    cr_expect_eq(rig.stored.params.min_t, 0);
    cr_expect(llabs(rig.stored.params.max_t - (rig.now_ms - 12 * HOUR_MS)) < 10000);
}

Test(merged, zero_means_always)
{
    rig.cfg.query_store_after = 0;
    rig.limits.query_ingesters_within = 0;
    for (int hours = 0; hours < 48; hours += 6) {
        rig.recent.selects = rig.stored.selects = 0;
        rig.params.min_t = rig.now_ms - (hours + 1) * HOUR_MS;
        rig.params.max_t = rig.now_ms - hours * HOUR_MS;
        expect_union(10, "empty");
        cr_expect(rig.recent.selects == 1 && rig.stored.selects == 1);
        cr_expect_eq(rig.recent.params.min_t, rig.params.min_t);
        cr_expect_eq(rig.stored.params.max_t, rig.params.max_t);
    }
}

Test(merged, flags_that_leave_a_gap_are_refused)
{
    cr_expect(merged_config_check(&rig.cfg, &rig.limits, &rig.err));
    rig.cfg.query_store_after = 13 * HOUR_MS;
    cr_expect(!merged_config_check(&rig.cfg, &rig.limits, &rig.err));
    cr_expect(strstr(rig.err.text, "-querier.query-ingesters-within"));
    rig.limits.query_ingesters_within = 0;
    cr_expect(merged_config_check(&rig.cfg, &rig.limits, &rig.err));
    rig.limits.query_ingesters_within = 1;
    rig.cfg.query_store_after = 0;
    cr_expect(merged_config_check(&rig.cfg, &rig.limits, &rig.err));
}

Test(merged, one_side_alone_gives_its_own_set)
{
    put(&rig.recent, 1, 3);
    rig.params.min_t = rig.now_ms - HOUR_MS;
    struct series_set *set = rig.q->ops->select(rig.q, &rig.ctx, &rig.params, &rig.err);
    cr_expect_eq(set->ops->next, store_next);
    series_set_release(set);
}

/* --- the union ---------------------------------------------------------------------------------------------------------------------------------------- */

/* Each chunk of each series goes to one side, or to both. */
static void split(int n, int percent_recent, int percent_stored)
{
    for (int s = 0; s < n; s++)
        for (int c = 0; c < CHUNKS_MAX; c++) {
            if (rand_r(&rig.seed) % 100 < percent_recent)
                put(&rig.recent, s, 1u << c);
            if (rand_r(&rig.seed) % 100 < percent_stored)
                put(&rig.stored, s, 1u << c);
        }
}

Test(merged, any_split_gives_what_one_store_would)
{
    char what[128];
    for (int i = 0; i < 150; i++) {
        memset(rig.recent.has, 0, sizeof(rig.recent.has));
        memset(rig.stored.has, 0, sizeof(rig.stored.has));
        rig.recent.n = rig.stored.n = 0;
        static const int percents[] = {0, 3, 20, 50, 100};
        split(1 + rand_r(&rig.seed) % 1500, percents[rand_r(&rig.seed) % 5], percents[rand_r(&rig.seed) % 5]);
        struct store *stores[] = {&rig.recent, &rig.stored};
        for (int k = 0; k < 2; k++) {
            stores[k]->tells = rand_r(&rig.seed) % 2;
            stores[k]->stays = rand_r(&rig.seed) % 2;
            stores[k]->batch = rand_r(&rig.seed) % 2 ? 0 : 1 + (size_t)rand_r(&rig.seed) % 40;
            stores[k]->tells ? sort_store(stores[k]) : shuffle_store(stores[k]);
        }
        rig.params.no_chunks = rand_r(&rig.seed) % 8 == 0;
        size_t max = 1 + (size_t)rand_r(&rig.seed) % 300;
        snprintf(what, sizeof(what), "round %d: %d%s%s %d%s%s max %zu", i, rig.recent.n, rig.recent.tells ? " tells" : "", rig.recent.stays ? " stays" : "", rig.stored.n,
                 rig.stored.tells ? " tells" : "", rig.stored.stays ? " stays" : "", max);
        expect_union(max, what);
    }
}

/* Both sides by labels: what waits is what one is ahead of the other, whatever the number of series. */
Test(merged, two_sorted_sides_are_read_in_step)
{
    struct arena small;
    split(SERIES_MAX, 90, 90);
    rig.recent.tells = rig.stored.tells = true;
    sort_store(&rig.recent);
    sort_store(&rig.stored);
    rig.recent.batch = rig.stored.batch = 20;
    arena_init(&small, 1 << 20); /* the chunks alone are 1.6 MB a side */
    rig.ctx.arena = &small;
    expect_union(100, "in step");
    rig.recent.tells = false;
    static struct got got;
    cr_expect(!read_union(100, &got), "read to the end it is too much");
    cr_expect_eq(rig.err.code, ERR_MAX_QUERY_MEMORY);
    arena_release(&small);
}

Test(merged, a_store_whose_order_is_a_lie_is_found_out)
{
    static struct got got;
    split(2000, 60, 60);
    rig.recent.tells = rig.stored.tells = true;
    sort_store(&rig.recent);
    shuffle_store(&rig.stored);
    rig.recent.batch = rig.stored.batch = 10;
    cr_expect(!read_union(100, &got));
    cr_expect_eq(rig.err.code, ERR_INTERNAL);
}

Test(merged, a_limit_of_series_is_kept)
{
    static struct got got;
    split(500, 40, 40);
    rig.params.limit = 77;
    cr_expect(read_union(30, &got));
    cr_expect_eq(got.n, 77);
    for (int s = 0; s < SERIES_MAX; s++)
        cr_expect(!got.seen[s] || got.has[s] == (rig.recent.has[s] | rig.stored.has[s]), "what is given is whole");
    cr_expect(rig.recent.params.limit == 0 && rig.stored.params.limit == 0);
    rig.params.no_chunks = true;
    cr_expect(read_union(30, &got));
    cr_expect_eq(got.n, 77);
    cr_expect(rig.recent.params.limit == 77 && rig.stored.params.limit == 77);
}

Test(merged, a_failure_of_either_side_fails_the_call)
{
    static struct got got;
    split(1000, 50, 50);
    struct store *stores[] = {&rig.recent, &rig.stored};
    for (int k = 0; k < 2; k++)
        for (int after = -1; after < 4; after++) {
            stores[k]->fail = (struct err){.code = ERR_UNAVAILABLE, .text = "made up"};
            stores[k]->fail_after = after;
            stores[k]->batch = 50;
            cr_expect(!read_union(64, &got), "%d %d", k, after);
            cr_expect_str_eq(rig.err.text, "made up");
            stores[k]->fail.code = ERR_OK;
        }
    expect_union(64, "afterwards");
}

Test(merged, a_canceled_query_ends)
{
    static struct got got;
    atomic_bool canceled = true;
    split(1000, 50, 50);
    rig.ctx.canceled = &canceled;
    cr_expect(!read_union(64, &got));
    cr_expect_eq(rig.err.code, ERR_CANCELED);
}

Test(merged, a_set_that_is_released_half_way_frees_what_waits)
{
    struct series batch[10];
    size_t n;
    split(2000, 50, 50);
    rig.recent.tells = rig.stored.tells = true;
    sort_store(&rig.recent);
    sort_store(&rig.stored);
    for (int calls = 0; calls < 50; calls += 7) {
        struct series_set *set = rig.q->ops->select(rig.q, &rig.ctx, &rig.params, &rig.err);
        for (int i = 0; i < calls; i++)
            cr_expect(series_set_next(set, &rig.ctx, batch, 10, &n, &rig.err));
        series_set_release(set);
    }
}

/* --- the other calls ---------------------------------------------------------------------------------------------------------------------------------- */

Test(merged, names_and_values_of_both_sides_once)
{
    const struct slice *strings;
    size_t n, expected = 0;
    split(300, 5, 5);
    for (int s = 0; s < SERIES_MAX; s++)
        expected += rig.recent.has[s] || rig.stored.has[s];
    cr_expect(rig.q->ops->label_names(rig.q, &rig.ctx, &rig.params, &strings, &n, &rig.err));
    cr_expect_eq(n, expected);
    cr_expect(rig.q->ops->label_values(rig.q, &rig.ctx, SL("s"), &rig.params, &strings, &n, &rig.err));
    cr_expect_eq(n, expected);
    for (size_t i = 1; i < n; i++)
        cr_expect(slice_cmp(strings[i - 1], strings[i]) < 0);
    rig.params.limit = 4;
    cr_expect(rig.q->ops->label_names(rig.q, &rig.ctx, &rig.params, &strings, &n, &rig.err));
    cr_expect_eq(n, 4);
    rig.params.min_t = rig.now_ms - HOUR_MS;
    rig.stored.other_calls = 0;
    cr_expect(rig.q->ops->label_names(rig.q, &rig.ctx, &rig.params, &strings, &n, &rig.err));
    cr_expect_eq(rig.stored.other_calls, 0);
    rig.recent.fail = (struct err){.code = ERR_UNAVAILABLE, .text = "made up"};
    cr_expect(!rig.q->ops->label_values(rig.q, &rig.ctx, SL("s"), &rig.params, &strings, &n, &rig.err));
}

Test(merged, who_can_begin_a_label_call_works_while_the_other_side_is_asked)
{
    const struct slice *strings;
    size_t n, expected = 0;
    split(300, 5, 5);
    for (int s = 0; s < SERIES_MAX; s++)
        expected += rig.recent.has[s] || rig.stored.has[s];
    rig.stored.base.ops = &early_ops;
    cr_expect(rig.q->ops->label_names(rig.q, &rig.ctx, &rig.params, &strings, &n, &rig.err));
    cr_expect(n == expected && strcmp(rig.recent.said, "boeo") == 0, "%s", rig.recent.said);
    memset(rig.recent.said, 0, sizeof(rig.recent.said));
    rig.recent.fail = (struct err){.code = ERR_UNAVAILABLE, .text = "made up"};
    cr_expect(!rig.q->ops->label_values(rig.q, &rig.ctx, SL("s"), &rig.params, &strings, &n, &rig.err));
    cr_expect_str_eq(rig.recent.said, "bog");
}

Test(merged, metadata_and_exemplars_are_the_ingesters)
{
    const struct metric_metadata *m;
    const struct exemplar_series *e;
    size_t n;
    cr_expect(rig.q->ops->metadata(rig.q, &rig.ctx, &m, &n, &rig.err));
    cr_expect(rig.q->ops->exemplars(rig.q, &rig.ctx, &rig.params, &e, &n, &rig.err));
    cr_expect_eq(rig.recent.other_calls, 2);
    cr_expect_eq(rig.stored.other_calls, 0);
}
