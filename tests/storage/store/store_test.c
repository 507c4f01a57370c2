/* Blocks in a bucket against the same blocks opened locally: random ones, at every cut and with every setting that changes how they are read. */
#include "model/query_shard.h"
#include "storage/block/writer_int.h"
#include "tests/storage/store/store_util.h"

#define T0 INT64_C(1763596800000)
#define RANGE 7200000

static struct objstore *bucket;

static void begin(void)
{
    setup();
    mkdir(bucket_dir(), 0755);
    bucket = open_bucket(bucket_dir());
}

static void end(void)
{
    objstore_free(bucket);
    teardown();
}

static int by_labels(const void *a, const void *b)
{
    return labels_cmp(((const struct series *)a)->labels, ((const struct series *)b)->labels);
}

static struct labels random_labels(struct rnd *r, int i)
{
    struct label *l = ARENA_ARRAY(&arena, struct label, 10);
    size_t n = 0;
    l[n++] = (struct label){SL("__name__"), slice_of(arena_printf(&arena, "m%d", (int)rnd_below(r, 20)))};
    l[n++] = (struct label){SL("id"), slice_of(arena_printf(&arena, "%06d", i))};
    for (int k = 0; k < 6; k++)
        if (rnd_below(r, 2))
            l[n++] = (struct label){slice_of(arena_printf(&arena, "l%d", k)), slice_of(arena_printf(&arena, "v%d\xc3\xb8", (int)rnd_below(r, 50)))};
    return (struct labels){l, n};
}

/* n series with up to 6 chunks each of very different lengths; some with none in the middle of the range. */
static size_t random_series(struct rnd *r, size_t n, struct series *ret)
{
    for (size_t i = 0; i < n; i++) {
        size_t n_chunks = 1 + rnd_below(r, 6), k = 0;
        struct series_chunk *chunks = ARENA_ARRAY(&arena, struct series_chunk, n_chunks);
        int64_t t = T0 + (int64_t)rnd_below(r, 1000000);
        for (; k < n_chunks && t < T0 + RANGE - 1000000; k++) {
            chunks[k] = float_chunk(t, 1 + (int64_t)rnd_below(r, 5000), 1 + rnd_below(r, 300), (double)rnd_below(r, 1000));
            if (chunks[k].max_t >= T0 + RANGE)
                break;
            t = chunks[k].max_t + 1 + (int64_t)rnd_below(r, 1000000);
        }
        if (k == 0)
            chunks[k++] = float_chunk(T0, 1000, 10, 1);
        ret[i] = (struct series){random_labels(r, (int)i), chunks, k};
    }
    qsort(ret, n, sizeof(*ret), by_labels);
    return n;
}

static const char *random_block(struct rnd *r, size_t n)
{
    struct series *series = ARENA_ARRAY(&arena, struct series, n);
    return put_block(series, random_series(r, n, series), T0, T0 + RANGE);
}

static struct slice pick(struct rnd *r, const char *const *list, size_t n)
{
    return slice_of(list[rnd_below(r, (uint32_t)n)]);
}

/* Up to 4 matchers of all kinds. */
static size_t random_matchers(struct rnd *r, struct matcher *m)
{
    static const char *const names[] = {"__name__", "l0", "l1", "l2", "l3", "l4", "l5", "id", "none"};
    static const char *const values[] = {"m1", "m7", "v3\xc3\xb8", "v20\xc3\xb8", "000100", "", "none"};
    static const char *const regexes[] = {"m1|m2|m3", ".*", ".+", "v1.*", "m.", "0000[0-4].", "v3\xc3\xb8|", "000001|000002|none", "(?i)M1", ""};
    size_t n = rnd_below(r, 5);
    for (size_t i = 0; i < n; i++) {
        enum matcher_type type = (enum matcher_type)rnd_below(r, 4);
        struct err err = ERR_NONE;
        struct slice value = type == MATCH_EQ || type == MATCH_NEQ ? pick(r, values, ARRAY_LEN(values)) : pick(r, regexes, ARRAY_LEN(regexes));
        cr_assert(matcher_init(&m[i], type, pick(r, names, ARRAY_LEN(names)), value, &err), "%s", err.text);
    }
    return n;
}

static void compare_randomly(struct rnd *r, struct test_store *t, const char *id, int rounds)
{
    struct block *local = open_block(block_dir(id));
    struct store_block *b = remote_block(t, TENANT, id);
    for (int i = 0; i < rounds; i++) {
        struct matcher m[4];
        struct buf what;
        struct select_params p = EVERYTHING;
        p.n_matchers = random_matchers(r, m);
        p.matchers = m;
        if (rnd_below(r, 2)) {
            p.min_t = T0 + (int64_t)rnd_below(r, RANGE);
            p.max_t = p.min_t + (int64_t)rnd_below(r, RANGE / 4);
        }
        p.no_chunks = rnd_below(r, 4) == 0;
        p.limit = rnd_below(r, 4) ? 0 : 1 + rnd_below(r, 20);
        buf_init(&what, 0);
        for (size_t k = 0; k < p.n_matchers; k++) {
            matcher_print(&m[k], &what);
            buf_putc(&what, ' ');
        }
        expect_same(local, b, &p, buf_cstr(&what));
        if (i % 4 == 0)
            expect_same_labels(local, b, &p, buf_cstr(&what));
        buf_release(&what);
        for (size_t k = 0; k < p.n_matchers; k++)
            matcher_release(&m[k]);
    }
    store_block_unref(b);
    block_close(local);
}

struct setting {
    enum caches caches;
    uint64_t gap, chunks_gap;
    int64_t sampling;
    double preference;
    uint64_t cache_bytes;
};

static const struct setting settings[] = {
    {NO_CACHES, 524288, 0, 32, 0.75, 0},   {NO_CACHES, 0, 1, 1, 0, 0},       {NO_CACHES, 100, 300, 3, 0.001, 0}, {CACHES, 524288, 0, 32, 0.75, 1 << 30},
    {CACHES, 0, 1, 2, 0.01, 1 << 30},      {CACHES, 2000, 100, 7, 0, 200000}, {CACHES, 0, 0, 32, 1000, 64},
};

Test(store, gives_what_the_local_block_gives, .init = begin, .fini = end)
{
    struct rnd r = {1};
    for (size_t i = 0; i < ARRAY_LEN(settings); i++) {
        const struct setting *s = &settings[i];
        struct test_store t;
        store_setup(&t, bucket);
        t.cfg.max_gap_bytes = s->gap;
        t.cfg.max_gap_bytes_chunks = s->chunks_gap;
        t.cfg.postings_sampling = s->sampling;
        t.cfg.series_fetch_preference = s->preference;
        t.index_cfg.inmemory_max_size_bytes = t.chunks_cfg.inmemory_max_size_bytes = s->cache_bytes;
        store_begin(&t, s->caches);
        compare_randomly(&r, &t, random_block(&r, i % 3 == 0 ? 2000 : 300), 60);
        store_end(&t);
    }
}

Test(store, a_block_of_one_series_and_of_none_too, .init = begin, .fini = end)
{
    struct rnd r = {2};
    struct test_store t;
    store_setup(&t, bucket);
    store_begin(&t, CACHES);
    compare_randomly(&r, &t, random_block(&r, 1), 50);
    compare_randomly(&r, &t, random_block(&r, 0), 10);
    store_end(&t);
}

/* Entries and chunks that are larger than what is guessed, the last chunk of a segment among them. */
Test(store, what_is_larger_than_guessed_is_read_again, .init = begin, .fini = end)
{
    enum { SERIES = 40, CHUNKS = 200 };
    struct rnd r = {3};
    struct series *series = ARENA_ARRAY(&arena, struct series, SERIES);
    for (int i = 0; i < SERIES; i++) {
        struct series_chunk *chunks = ARENA_ARRAY(&arena, struct series_chunk, CHUNKS);
        for (int k = 0; k < CHUNKS; k++) {
            chunks[k] = float_chunk(T0 + k * 10000, 1, i == SERIES - 1 ? 1000 : 5, 0);
            if (i == SERIES - 1) { /* noise does not compress */
                uint8_t *bytes = arena_alloc(&arena, 1000 * XOR_SAMPLE_MAX_BYTES + 64);
                struct xor_appender a;
                xor_appender_init(&a);
                for (int j = 0; j < 1000; j++)
                    xor_append(&a, bytes, T0 + k * 10000 + j, rnd_double(&r, 0));
                chunks[k].data = slice_make(bytes, xor_size(&a));
            }
        }
        series[i] = (struct series){labels_of(arena_printf(&arena, "__name__=m,id=%03d", i)), chunks, CHUNKS};
    }
    const char *id = put_block(series, SERIES, T0, T0 + RANGE);
    for (enum caches c = NO_CACHES; c <= CACHES; c++) {
        struct test_store t;
        struct select_params p = EVERYTHING;
        store_setup(&t, bucket);
        store_begin(&t, c);
        struct block *local = open_block(block_dir(id));
        struct store_block *b = remote_block(&t, TENANT, id);
        double before = metric_value(t.store->refetches), chunks_before = metric_value(t.store->chunk_refetches);
        expect_same(local, b, &p, "everything");
        cr_expect_eq(metric_value(t.store->refetches) - before, 1); /* the last: others lie in the range that their neighbours joined */
        cr_expect_eq(metric_value(t.store->chunk_refetches) - chunks_before, 1);
        p.max_t = T0 + 100000;
        expect_same(local, b, &p, "a part of the chunks");
        store_block_unref(b);
        block_close(local);
        store_end(&t);
    }
}

/* Of such series every tenth: entries and chunks that are larger than guessed with gaps behind them, which no cache has. */
Test(store, what_is_larger_is_not_taken_from_a_gap, .init = begin, .fini = end)
{
    enum { SERIES = 60, CHUNKS = 150 };
    struct err err = ERR_NONE;
    struct matcher m;
    struct series *series = ARENA_ARRAY(&arena, struct series, SERIES);
    for (int i = 0; i < SERIES; i++) {
        struct series_chunk *chunks = ARENA_ARRAY(&arena, struct series_chunk, CHUNKS);
        for (int k = 0; k < CHUNKS; k++)
            chunks[k] = float_chunk(T0 + k * 40000, 1000, 30 + (size_t)(k * 7 + i) % 9, k);
        series[i] = (struct series){labels_of(arena_printf(&arena, "__name__=m,id=%03d,l0=v%d", i, i % 10)), chunks, CHUNKS};
    }
    const char *id = put_block(series, SERIES, T0, T0 + RANGE);
    cr_assert(matcher_init(&m, MATCH_EQ, SL("l0"), SL("v7"), &err));
    for (enum caches c = NO_CACHES; c <= CACHES; c++) {
        struct test_store t;
        store_setup(&t, bucket);
        store_begin(&t, c);
        struct block *local = open_block(block_dir(id));
        struct store_block *b = remote_block(&t, TENANT, id);
        double before = metric_value(t.store->refetches);
        for (int round = 0; round < 2; round++) {
            struct select_params p = {.min_t = T0 + 1000000, .max_t = T0 + 2000000, .matchers = &m, .n_matchers = 1};
            expect_same(local, b, &p, "a part of the chunks");
            p.max_t = INT64_MAX;
            expect_same(local, b, &p, "more of them");
        }
        cr_expect_leq(metric_value(t.store->refetches) - before, 4, "one a select teaches it the size");
        store_block_unref(b);
        block_close(local);
        store_end(&t);
    }
    matcher_release(&m);
}

Test(store, several_segments, .init = begin, .fini = end)
{
    struct rnd r = {4};
    size_t n = 500;
    struct series *series = ARENA_ARRAY(&arena, struct series, n);
    random_series(&r, n, series);
    struct err err = ERR_NONE;
    struct block_meta meta = meta_of_times(T0, T0 + RANGE);
    struct block_writer *w = writer_for(series, n, &meta);
    block_writer_set_sizes(w, 20000, 1 << 20);
    for (size_t i = 0; i < n; i++)
        cr_assert(block_writer_add(w, &series[i].labels, series[i].chunks, series[i].n_chunks, &err), "%s", err.text);
    cr_assert(block_writer_finish(w, &arena, NULL, &err), "%s", err.text);
    block_writer_free(w);
    mkdir(path_of(bucket_dir(), "t1"), 0755);
    cr_assert_eq(rename(path_of(folder, meta.ulid.text), block_dir(meta.ulid.text)), 0);
    cr_assert_eq(access(path_of(block_dir(meta.ulid.text), "chunks/000010"), R_OK), 0);
    for (enum caches c = NO_CACHES; c <= CACHES; c++) {
        struct test_store t;
        store_setup(&t, bucket);
        store_begin(&t, c);
        compare_randomly(&r, &t, meta.ulid.text, 40);
        store_end(&t);
    }
}

/* --- phases --- */

static void put_chunks(const struct series *s, struct buf *out)
{
    for (size_t j = 0; j < s->n_chunks; j++) {
        buf_printf(out, " %lld-%lld:%d:", (long long)s->chunks[j].min_t, (long long)s->chunks[j].max_t, (int)s->chunks[j].encoding);
        for (size_t k = 0; k < s->chunks[j].data.n; k++)
            buf_printf(out, "%02x", (uint8_t)s->chunks[j].data.p[k]);
    }
}

Test(store, all_series_may_come_before_all_chunks, .init = begin, .fini = end)
{
    struct rnd r = {5};
    struct ctx ctx = test_ctx();
    struct err err = ERR_NONE;
    struct test_store t;
    struct buf want, got;
    const char *id = random_block(&r, 700);
    store_setup(&t, bucket);
    store_begin(&t, NO_CACHES);
    struct block *local = open_block(block_dir(id));
    struct store_block *b = remote_block(&t, TENANT, id);
    struct select_params p = {.min_t = T0 + 1000000, .max_t = T0 + 4000000};
    struct store_select *s = store_select_new(b, &ctx, &p, &err);
    cr_assert(s, "%s", err.text);
    store_block_unref(b); /* the select holds it */
    struct store_series *list = ARENA_ARRAY(&arena, struct store_series, 700);
    size_t n = 0, given, at = 0;
    do {
        cr_assert(store_select_series(s, &ctx, list + n, 33, &given, &err), "%s", err.text);
        n += given;
    } while (given);
    buf_init(&want, 0);
    buf_init(&got, 0);
    for (;;) {
        struct series batch[50];
        cr_assert(store_select_chunks(s, &ctx, batch, ARRAY_LEN(batch), &given, &err), "%s", err.text);
        if (given == 0)
            break;
        for (size_t i = 0; i < given; i++, at++) {
            cr_assert_eq(batch[i].n_chunks, list[at].n_chunks);
            labels_print_set(list[at].labels, &got);
            put_chunks(&batch[i], &got);
            buf_putc(&got, '\n');
        }
    }
    cr_assert_eq(at, n);
    cr_assert(select_text(local, &p, &want, &err));
    cr_assert(slice_eq(buf_slice(&want), buf_slice(&got)));
    const struct store_stats *stats = store_select_stats(s);
    cr_expect_eq(stats->series_touched, 700);
    cr_expect_gt(stats->chunks_touched, n);
    buf_release(&want);
    buf_release(&got);
    store_select_free(s);
    block_close(local);
    store_end(&t);
}

Test(store, query_shards_are_disjoint_and_together_everything, .init = begin, .fini = end)
{
    enum { SHARDS = 5 };
    struct rnd r = {6};
    struct test_store t;
    struct err err = ERR_NONE;
    const char *id = random_block(&r, 600);
    store_setup(&t, bucket);
    store_begin(&t, CACHES);
    struct store_block *b = remote_block(&t, TENANT, id);
    size_t total = 0;
    for (int i = 1; i <= SHARDS + 1; i++) {
        struct ctx ctx = test_ctx();
        struct matcher m[2];
        struct store_series list[700];
        size_t n;
        struct select_params p = EVERYTHING;
        cr_assert(matcher_init(&m[0], MATCH_EQ, SL("__query_shard__"), slice_of(arena_printf(&arena, "%d_of_%d", i, SHARDS)), &err));
        cr_assert(matcher_init(&m[1], MATCH_RE, SL("__name__"), SL("m.*"), &err));
        p.matchers = m;
        p.n_matchers = i % 2 ? 2 : 1;
        p.no_chunks = true;
        struct store_select *s = store_select_new(b, &ctx, &p, &err);
        if (i > SHARDS) {
            cr_assert(!s && err.code == ERR_BAD_DATA);
        } else {
            cr_assert(s && store_select_series(s, &ctx, list, ARRAY_LEN(list), &n, &err), "%s", err.text);
            for (size_t k = 0; k < n; k++)
                cr_assert_eq(query_shard_hash(list[k].labels) % SHARDS, (uint64_t)i - 1);
            total += n;
        }
        store_select_free(s);
        matcher_release(&m[0]);
        matcher_release(&m[1]);
    }
    cr_expect_eq(total, 600);
    store_block_unref(b);
    store_end(&t);
}

/* --- what is read --- */

Test(store, a_second_select_reads_nothing_from_the_bucket, .init = begin, .fini = end)
{
    struct rnd r = {7};
    struct liar l;
    struct test_store t;
    struct err err = ERR_NONE;
    struct matcher m;
    struct buf first, second;
    struct store_stats stats;
    const char *id = random_block(&r, 1000);
    liar_init(&l, bucket);
    store_setup(&t, &l.base);
    store_begin(&t, CACHES);
    struct store_block *b = remote_block(&t, TENANT, id);
    struct select_params p = EVERYTHING;
    cr_assert(matcher_init(&m, MATCH_RE, SL("l1"), SL("v1.*"), &err));
    p.matchers = &m;
    p.n_matchers = 1;
    buf_init(&first, 0);
    buf_init(&second, 0);
    cr_assert(remote_text(b, &p, &first, &stats, &err), "%s", err.text);
    cr_expect(stats.postings_fetched_bytes && stats.series_fetched_bytes && stats.chunks_fetched_bytes);
    cr_expect(stats.postings_fetched && stats.series_fetched >= stats.series_touched && stats.chunks_fetched >= stats.chunks_touched);
    uint64_t gets = atomic_load(&l.gets);
    cr_assert(remote_text(b, &p, &second, &stats, &err), "%s", err.text);
    cr_expect_eq(atomic_load(&l.gets), gets);
    cr_expect(!stats.postings_fetched_bytes && !stats.series_fetched_bytes && !stats.chunks_fetched_bytes && stats.cached_bytes);
    cr_expect(!stats.postings_fetched && !stats.series_fetched && !stats.chunks_fetched);
    cr_expect(slice_eq(buf_slice(&first), buf_slice(&second)));
    buf_release(&first);
    buf_release(&second);
    matcher_release(&m);
    store_block_unref(b);
    store_end(&t);
}

/* One series of many, without a cache: a list of postings, 512 bytes of series, one chunk or two. */
Test(store, one_series_costs_little, .init = begin, .fini = end)
{
    struct rnd r = {8};
    struct test_store t;
    struct err err = ERR_NONE;
    struct matcher m;
    struct buf text;
    struct store_stats stats;
    const char *id = random_block(&r, 3000);
    store_setup(&t, bucket);
    store_begin(&t, NO_CACHES);
    struct store_block *b = remote_block(&t, TENANT, id);
    struct select_params p = EVERYTHING;
    cr_assert(matcher_init(&m, MATCH_EQ, SL("id"), SL("000777"), &err));
    p.matchers = &m;
    p.n_matchers = 1;
    buf_init(&text, 0);
    cr_assert(remote_text(b, &p, &text, &stats, &err), "%s", err.text);
    cr_expect_eq(stats.postings_fetched_bytes, 16);
    cr_expect_eq(stats.series_fetched_bytes, 512);
    cr_expect(stats.postings_fetched == 1 && stats.series_fetched == 1);
    cr_expect_eq(stats.chunks_fetched, stats.chunks_touched);
    cr_expect_eq(stats.series_touched, 1);
    cr_expect_lt(stats.chunks_fetched_bytes, text.n);
    buf_release(&text);
    matcher_release(&m);
    store_block_unref(b);
    store_end(&t);
}

/* {id="...", __name__=~".+"}: the second would read all postings to keep one series. */
Test(store, postings_that_do_not_pay_are_not_read, .init = begin, .fini = end)
{
    struct rnd r = {9};
    struct test_store t;
    struct err err = ERR_NONE;
    struct matcher m[2];
    struct buf text;
    struct store_stats stats;
    const char *id = random_block(&r, 3000);
    store_setup(&t, bucket);
    store_begin(&t, NO_CACHES);
    struct store_block *b = remote_block(&t, TENANT, id);
    struct select_params p = EVERYTHING;
    cr_assert(matcher_init(&m[0], MATCH_RE, SL("__name__"), SL(".+"), &err));
    cr_assert(matcher_init(&m[1], MATCH_EQ, SL("id"), SL("000777"), &err));
    p.matchers = m;
    p.n_matchers = 2;
    buf_init(&text, 0);
    cr_assert(remote_text(b, &p, &text, &stats, &err), "%s", err.text);
    cr_expect(text.n);
    cr_expect_eq(stats.postings_fetched_bytes, 16);
    buf_release(&text);
    matcher_release(&m[0]);
    matcher_release(&m[1]);
    store_block_unref(b);
    store_end(&t);
}

/* --- budgets --- */

Test(store, memory_that_is_used_up_is_an_error, .init = begin, .fini = end)
{
    struct rnd r = {10};
    struct test_store t;
    const char *id = random_block(&r, 3000);
    store_setup(&t, bucket);
    store_begin(&t, NO_CACHES);
    struct store_block *b = remote_block(&t, TENANT, id);
    for (size_t budget = 1000; budget < 600000; budget *= 3) {
        struct arena small;
        struct err err = ERR_NONE;
        struct ctx ctx = {.arena = &small};
        struct series batch[100];
        size_t n = 0;
        arena_init(&small, budget);
        struct series_set *set = store_block_select(b, &ctx, &EVERYTHING, NULL, &err);
        while (set && series_set_next(set, &ctx, batch, ARRAY_LEN(batch), &n, &err) && n)
            ;
        cr_expect_eq(err.code, ERR_MAX_QUERY_MEMORY, "%zu: %s", budget, err.text);
        series_set_release(set);
        arena_release(&small);
    }
    store_block_unref(b);
    store_end(&t);
}

Test(store, a_canceled_query_ends, .init = begin, .fini = end)
{
    struct rnd r = {11};
    struct test_store t;
    atomic_bool canceled;
    struct err err = ERR_NONE;
    struct ctx ctx = test_ctx();
    const char *id = random_block(&r, 100);
    store_setup(&t, bucket);
    store_begin(&t, NO_CACHES);
    struct store_block *b = remote_block(&t, TENANT, id);
    atomic_init(&canceled, true);
    ctx.canceled = &canceled;
    cr_expect(!store_block_select(b, &ctx, &EVERYTHING, NULL, &err));
    cr_expect_eq(err.code, ERR_CANCELED);
    store_block_unref(b);
    store_end(&t);
}
