/* Blocks merged: what a plain map of their samples has, they have; and what Mimir's compactor made of Mimir's blocks is made of them here, byte for byte. */
#include "model/query_shard.h"
#include "storage/block/index_writer_int.h"
#include "storage/block/segment_writer_int.h"
#include "storage/compactor/merge.h"
#include "tests/storage/block/block_util.h"
#include "tests/storage/chunk/build.h"

#define T0 INT64_C(1763596800000)

struct point {
    const char *labels;
    int64_t t;
    uint32_t rank;
    double v;
    const struct histogram *h; /* NULL: a float */
};

static struct point *samples_of(struct block *b, uint32_t rank, size_t *ret_n)
{
    struct err err = ERR_NONE;
    struct block_scan *scan = block_scan_new(b, &err);
    struct point *all = ARENA_ARRAY(&arena, struct point, block_meta_of(b)->stats.samples + 1);
    struct series s;
    bool more;
    size_t n = 0;
    cr_assert(scan, "%s", err.text);
    while (block_scan_next(scan, &s, &more, &err) && more) {
        struct buf text = {0};
        labels_print_set(s.labels, &text);
        const char *labels = arena_dup(&arena, buf_slice(&text)).p;
        buf_release(&text);
        for (size_t c = 0; c < s.n_chunks; c++) {
            struct chunk_columns columns;
            cr_assert(chunk_decode(s.chunks[c].encoding, s.chunks[c].data, &arena, &columns, &err), "%s", err.text);
            for (size_t i = 0; i < columns.n; i++)
                all[n++] = (struct point){labels, columns.t[i], rank, columns.v ? columns.v[i] : 0, columns.h ? &columns.h[i] : NULL};
        }
    }
    cr_assert_eq(err.code, ERR_OK, "%s", err.text);
    block_scan_free(scan);
    *ret_n = n;
    return all;
}

static int by_sample(const void *a, const void *b)
{
    const struct point *x = a, *y = b;
    int c = strcmp(x->labels, y->labels);
    if (c)
        return c;
    return x->t != y->t ? (x->t < y->t ? -1 : 1) : (x->rank > y->rank) - (x->rank < y->rank);
}

/* Sorted; of one series and time the first. */
static size_t unite(struct point *s, size_t n)
{
    size_t k = 0;
    qsort(s, n, sizeof(*s), by_sample);
    for (size_t i = 0; i < n; i++)
        if (k == 0 || strcmp(s[i].labels, s[k - 1].labels) != 0 || s[i].t != s[k - 1].t)
            s[k++] = s[i];
    return k;
}

/* Hints say how a sample stands to its neighbours, which are others now. */
static bool same_value(const struct point *x, const struct point *y)
{
    if (!x->h != !y->h)
        return false;
    if (!x->h)
        return memcmp(&x->v, &y->v, 8) == 0;
    cr_expect((x->h->hint == HISTOGRAM_HINT_GAUGE) == (y->h->hint == HISTOGRAM_HINT_GAUGE), "a gauge is one no more, or has become one");
    return same_histogram(x->h, y->h);
}

static struct point *concat(struct point *a, size_t n_a, const struct point *b, size_t n_b)
{
    struct point *all = ARENA_ARRAY(&arena, struct point, n_a + n_b + 1);
    if (n_a)
        memcpy(all, a, n_a * sizeof(*all));
    if (n_b)
        memcpy(all + n_a, b, n_b * sizeof(*all));
    return all;
}

static bool packs; /* merges do */

static struct merge_result merged(struct block **blocks, size_t n, uint32_t shards)
{
    struct err err = ERR_NONE;
    struct ctx ctx = test_ctx();
    struct merge_result r;
    struct merge_params p = {.blocks = blocks, .n_blocks = n, .dir = folder, .shards = shards, .now_ms = T0 + 100000000, .pack = packs};
    cr_assert(blocks_merge(&p, &ctx, &arena, &r, &err), "%s", err.text);
    return r;
}

static int by_min_t_then_ulid(const void *a, const void *b)
{
    const struct block_meta *x = block_meta_of(*(struct block *const *)a), *y = block_meta_of(*(struct block *const *)b);
    if (x->min_t != y->min_t)
        return x->min_t < y->min_t ? -1 : 1;
    return strcmp(x->ulid.text, y->ulid.text);
}

/* Merges and compares with the map; closes the blocks. */
static struct merge_result check_merge(struct block **blocks, size_t n, uint32_t shards)
{
    struct point *want = NULL, *got = NULL;
    size_t n_want = 0, n_got = 0, k;
    struct err err = ERR_NONE;
    qsort(blocks, n, sizeof(struct block *), by_min_t_then_ulid);
    for (size_t i = 0; i < n; i++) {
        struct ctx ctx = test_ctx();
        cr_assert(merge_check_source(blocks[i], &ctx, &err), "%s", err.text);
        const struct point *s = samples_of(blocks[i], (uint32_t)i, &k);
        want = concat(want, n_want, s, k);
        n_want += k;
    }
    size_t n_all = n_want;
    n_want = unite(want, n_want);
    struct merge_result r = merged(blocks, n, shards);
    cr_expect_eq(r.stats.samples_in, n_all);
    cr_expect_eq(r.stats.samples_out, n_want);
    cr_expect_eq(r.stats.duplicates, n_all - n_want);
    for (size_t i = 0; i < r.n_blocks; i++) {
        struct block *b = open_block(path_of(folder, r.blocks[i].ulid.text));
        cr_assert(block_verify(b, &err), "%s", err.text);
        const struct point *s = samples_of(b, 0, &k);
        got = concat(got, n_got, s, k);
        n_got += k;
        if (shards) {
            struct block_scan *scan = block_scan_new(b, NULL);
            struct series series;
            bool more;
            while (block_scan_next(scan, &series, &more, NULL) && more)
                cr_expect_eq(query_shard_hash(series.labels) % shards + 1, r.shards[i]);
            block_scan_free(scan);
        }
        block_close(b);
    }
    cr_assert_eq(unite(got, n_got), n_want, "%zu of %zu samples", n_got, n_want);
    for (size_t i = 0; i < n_want; i++)
        cr_assert(strcmp(got[i].labels, want[i].labels) == 0 && got[i].t == want[i].t && same_value(&got[i], &want[i]), "%s at %lld",
                  want[i].labels, (long long)want[i].t);
    for (size_t i = 0; i < n; i++)
        block_close(blocks[i]);
    return r;
}

/* --- random blocks ------------------------------------------------------------------------------------------------------------ */

static struct series_chunk random_floats(struct rnd *r, int64_t *t, size_t n)
{
    struct xor_appender a;
    uint8_t *bytes = arena_zalloc(&arena, n * XOR_SAMPLE_MAX_BYTES + 64);
    struct series_chunk c = {.encoding = CHUNK_XOR};
    double v = 0;
    xor_appender_init(&a);
    for (size_t i = 0; i < n; i++) {
        *t += 1 + (int64_t)rnd_below(r, 20);
        if (i == 0)
            c.min_t = *t;
        v = rnd_double(r, v);
        xor_append(&a, bytes, *t, v);
    }
    c.max_t = *t;
    c.data = slice_make(bytes, xor_size(&a));
    return c;
}

/* Buckets come and go, counts fall back, some are gauges. A sample that does not fit ends the chunk. */
static struct series_chunk random_histograms(struct rnd *r, int64_t *t, size_t n, bool is_float, bool gauge)
{
    struct histogram_appender *a = histogram_appender_new(is_float);
    struct series_chunk c = {.encoding = is_float ? CHUNK_FLOAT_HISTOGRAM : CHUNK_HISTOGRAM};
    double x = (double)rnd_below(r, 30), y = 1;
    int32_t at = (int32_t)rnd_below(r, 4);
    for (size_t i = 0; i < n; i++) {
        x += (double)rnd_below(r, 5);
        y += (double)rnd_below(r, 9);
        if (rnd_below(r, 20) == 0)
            at = (int32_t)rnd_below(r, 6);
        struct bucket buckets[] = {{at - 2, x}, {at + 3, y}};
        int64_t next = *t + 1 + (int64_t)rnd_below(r, 20);
        struct histogram h = *positive(&arena, is_float, buckets, 2);
        h.hint = gauge ? HISTOGRAM_HINT_GAUGE : HISTOGRAM_HINT_UNKNOWN;
        if (histogram_append(a, next, &h) != HISTOGRAM_APPENDED)
            break;
        if (i == 0)
            c.min_t = next;
        *t = next;
    }
    c.max_t = *t;
    c.data = arena_dup(&arena, histogram_appender_bytes(a));
    histogram_appender_free(a);
    return c;
}

static int by_labels(const void *a, const void *b)
{
    return labels_cmp(((const struct series *)a)->labels, ((const struct series *)b)->labels);
}

/* Few names, few times: that much meets. */
static struct block *random_block(struct rnd *r)
{
    size_t n = 1 + rnd_below(r, 30), k = 0;
    int64_t from = T0 + 1000 * (int64_t)rnd_below(r, 5), max_t = from;
    struct series *s = ARENA_ARRAY(&arena, struct series, n);
    for (size_t i = 0; i < n; i++) {
        size_t n_chunks = 1 + rnd_below(r, 6);
        int64_t t = from + (int64_t)rnd_below(r, 1000);
        struct series_chunk *chunks = ARENA_ARRAY(&arena, struct series_chunk, n_chunks);
        for (size_t c = 0; c < n_chunks; c++) {
            size_t kind = rnd_below(r, 6);
            chunks[c] = kind < 3 ? random_floats(r, &t, 1 + rnd_below(r, 150))
                                 : random_histograms(r, &t, 1 + rnd_below(r, 40), kind == 4, kind == 5);
        }
        max_t = t > max_t ? t : max_t;
        s[i] = (struct series){labels_of(arena_printf(&arena, "__name__=m%d,a=%d", (int)rnd_below(r, 4), (int)rnd_below(r, 5))), chunks, n_chunks};
    }
    qsort(s, n, sizeof(*s), by_labels);
    for (size_t i = 0; i < n; i++)
        if (i == 0 || labels_cmp(s[i].labels, s[k - 1].labels) != 0)
            s[k++] = s[i];
    return open_block(write_block(s, k, meta_of_times(T0, max_t + 1)));
}

static void random_round(uint64_t seed)
{
    struct rnd r = {seed};
    struct block *blocks[6];
    size_t n = 1 + rnd_below(&r, 5);
    static const uint32_t shards[] = {0, 1, 2, 4, 16};
    for (size_t i = 0; i < n; i++)
        blocks[i] = random_block(&r);
    check_merge(blocks, n, shards[rnd_below(&r, ARRAY_LEN(shards))]);
}

Test(merge, has_what_a_map_of_the_samples_has)
{
    for (uint64_t seed = 1; seed <= 40; seed++) {
        setup();
        packs = seed % 2;
        random_round(seed);
        teardown();
    }
}

/* --- what is copied and what is not ---------------------------------------------------------------------------------------------- */

static struct block *one_series(int64_t t, size_t n, double v, int64_t min_t, int64_t max_t)
{
    struct series_chunk *chunk = ARENA_NEW(&arena, struct series_chunk);
    *chunk = float_chunk(t, 1000, n, v);
    struct series s = {labels_of("__name__=m,a=b"), chunk, 1};
    return open_block(write_block(&s, 1, meta_of_times(min_t, max_t)));
}

Test(merge, copies_chunks_that_touch_no_others, .init = setup, .fini = teardown)
{
    struct block *blocks[] = {one_series(T0, 100, 1, T0, T0 + 7200000), one_series(T0 + 7200000, 100, 7, T0 + 7200000, T0 + 14400000)};
    struct merge_result r = check_merge(blocks, 2, 0);
    cr_expect(r.n_blocks == 1 && r.stats.chunks_copied == 2 && r.stats.chunks_merged == 0 && r.stats.chunks_encoded == 0);
}

Test(merge, keeps_one_of_chunks_that_are_the_same, .init = setup, .fini = teardown)
{
    struct block *blocks[] = {one_series(T0, 100, 1, T0, T0 + 7200000), one_series(T0, 100, 1, T0, T0 + 7200000), one_series(T0, 100, 1, T0, T0 + 7200000)};
    struct merge_result r = check_merge(blocks, 3, 0);
    cr_expect(r.stats.chunks_copied == 1 && r.stats.chunks_merged == 0 && r.stats.duplicates == 200);
}

Test(merge, encodes_what_overlaps_in_chunks_of_120_samples, .init = setup, .fini = teardown)
{
    struct block *blocks[] = {one_series(T0, 200, 1, T0, T0 + 7200000), one_series(T0 + 500, 160, 1, T0, T0 + 7200000)};
    struct merge_result r = check_merge(blocks, 2, 0);
    cr_expect(r.stats.chunks_merged == 2 && r.stats.chunks_encoded == 3 && r.blocks[0].stats.chunks == 3 && r.blocks[0].stats.samples == 360);
}

Test(merge, packs_chunks_that_follow_each_other_up_to_360_samples, .init = setup, .fini = teardown)
{
    struct block *blocks[5];
    packs = true;
    for (int i = 0; i < 5; i++)
        blocks[i] = one_series(T0 + i * 7200000, i == 4 ? 1 : 120, 0, T0 + i * 7200000, T0 + (i + 1) * 7200000);
    struct merge_result r = check_merge(blocks, 5, 0);
    cr_expect(r.blocks[0].stats.chunks == 2 && r.blocks[0].stats.samples == 481, "%llu chunks", (unsigned long long)r.blocks[0].stats.chunks);
}

Test(merge, makes_no_block_of_a_shard_without_series, .init = setup, .fini = teardown)
{
    struct block *blocks[] = {one_series(T0, 100, 1, T0, T0 + 7200000)};
    struct merge_result r = check_merge(blocks, 1, 16);
    cr_expect_eq(r.n_blocks, 1);
}

Test(merge, says_in_meta_json_where_the_block_comes_from, .init = setup, .fini = teardown)
{
    struct block *blocks[] = {one_series(T0, 100, 1, T0, T0 + 7200000), one_series(T0 + 7200000, 100, 7, T0 + 7200000, T0 + 14400000)};
    struct ulid a = block_meta_of(blocks[0])->ulid, b = block_meta_of(blocks[1])->ulid;
    struct block_meta m = check_merge(blocks, 2, 0).blocks[0];
    cr_expect(m.level == 2 && m.n_sources == 2 && m.n_parents == 2 && m.min_t == T0 && m.max_t == T0 + 14400000 && m.n_hints == 0);
    cr_expect(strcmp(m.parents[0].ulid.text, a.text) == 0 && strcmp(m.parents[1].ulid.text, b.text) == 0 && m.parents[1].min_t == T0 + 7200000);
    cr_expect(slice_eq(m.source, SL("compactor")) && m.n_labels == 0 && m.has_thanos);
}

static size_t count_entries(const char *path)
{
    size_t n = 0;
    DIR *d = opendir(path);
    for (struct dirent *e; (e = readdir(d)) != NULL;)
        n += e->d_name[0] != '.';
    closedir(d);
    return n;
}

Test(merge, leaves_nothing_behind_when_it_is_broken_off, .init = setup, .fini = teardown)
{
    struct block *blocks[] = {one_series(T0, 100, 1, T0, T0 + 7200000), one_series(T0, 90, 1, T0, T0 + 7200000)};
    atomic_bool canceled = true;
    struct ctx ctx = {.canceled = &canceled};
    struct err err = ERR_NONE;
    struct merge_result r;
    struct merge_params p = {.blocks = blocks, .n_blocks = 2, .dir = folder, .shards = 4, .now_ms = T0};
    cr_expect(!blocks_merge(&p, &ctx, &arena, &r, &err) && err.code == ERR_CANCELED);
    cr_expect_eq(count_entries(folder), 2);
    block_close(blocks[0]);
    block_close(blocks[1]);
}

/* --- sources that are not what they should be ------------------------------------------------------------------------------------- */

Test(merge, a_bit_that_fell_over_is_found_in_the_source, .init = setup, .fini = teardown)
{
    struct block *whole_block = one_series(T0, 100, 1, T0, T0 + 7200000);
    const char *dir = path_of(folder, block_meta_of(whole_block)->ulid.text);
    block_close(whole_block);
    static const char *const files[] = {"index", "chunks/000001"};
    for (size_t f = 0; f < ARRAY_LEN(files); f++) {
        const char *path = path_of(dir, files[f]);
        struct slice whole = read_file(path);
        for (size_t i = 0; i < whole.n; i++) {
            struct ctx ctx = {0};
            struct err err = ERR_NONE;
            char *bytes = arena_alloc(&arena, whole.n);
            memcpy(bytes, whole.p, whole.n);
            bytes[i] = (char)(bytes[i] ^ 1);
            write_file(path, slice_make(bytes, whole.n));
            struct block *b = block_open(dir, &err);
            if (!b || !merge_check_source(b, &ctx, &err))
                cr_expect(err.code == ERR_CORRUPT || err.code == ERR_BAD_DATA, "%s %zu: %s", files[f], i, err.text);
            block_close(b);
        }
        write_file(path, whole);
    }
}

/* As writers of long ago made them: the second chunk begins within the first. */
static struct block *overlapping_block(void)
{
    struct err err = ERR_NONE;
    struct index_writer w = {0};
    struct segment_writer chunks;
    struct slice symbols[] = {SL("__name__"), SL("m")};
    struct label name = {SL("__name__"), SL("m")};
    struct series_chunk parts[] = {float_chunk(T0, 1000, 100, 1), float_chunk(T0 + 50000, 1000, 100, 51)};
    struct index_chunk entries[2];
    uint64_t refs[2], size;
    struct block_meta meta = meta_of_times(T0, T0 + 7200000);
    meta.stats = (struct block_stats){.samples = 200, .float_samples = 200, .series = 1, .chunks = 2};
    const char *dir = path_of(folder, meta.ulid.text), *chunks_dir = path_of(dir, "chunks");
    cr_assert(mkdir(dir, 0777) == 0 && mkdir(chunks_dir, 0777) == 0);
    segment_writer_init(&chunks, chunks_dir);
    cr_assert(segment_writer_add(&chunks, parts, 2, refs, &err) && segment_writer_finish(&chunks, &err), "%s", err.text);
    segment_writer_release(&chunks);
    for (size_t i = 0; i < 2; i++)
        entries[i] = (struct index_chunk){parts[i].min_t, parts[i].max_t, refs[i]};
    cr_assert(index_writer_open(&w, dir, symbols, 2, &err) && index_writer_add(&w, &(struct labels){&name, 1}, entries, 2, &err) &&
                  index_writer_finish(&w, &size, &err), "%s", err.text);
    index_writer_release(&w);
    struct buf json = {0};
    block_meta_encode(&meta, &json);
    write_file(path_of(dir, "meta.json"), buf_slice(&json));
    buf_release(&json);
    return open_block(dir);
}

Test(merge, mends_blocks_whose_chunks_overlap, .init = setup, .fini = teardown)
{
    struct ctx ctx = test_ctx();
    struct err err = ERR_NONE;
    struct block *b = overlapping_block();
    cr_expect(!block_verify(b, NULL));
    cr_assert(merge_check_source(b, &ctx, &err), "%s", err.text);
    struct merge_result r = merged(&b, 1, 0);
    cr_expect(r.n_blocks == 1 && r.stats.samples_out == 150 && r.stats.duplicates == 50);
    struct block *mended = open_block(path_of(folder, r.blocks[0].ulid.text));
    cr_expect(block_verify(mended, &err), "%s", err.text);
    block_close(mended);
    block_close(b);
}

/* --- Mimir's own -------------------------------------------------------------------------------------------------------------------- */

#define COMPACTED TEST_SHARED_DIR "/mimir/blocks/compacted"

static const char *find_block(const char *tenant, const char *ulid)
{
    return arena_printf(&arena, COMPACTED "/%s/%s", tenant, ulid);
}

static void same_files(const char *a, const char *b)
{
    static const char *const files[] = {"index", "chunks/000001"};
    for (size_t i = 0; i < ARRAY_LEN(files); i++)
        cr_expect(slice_eq(read_file(path_of(a, files[i])), read_file(path_of(b, files[i]))), "%s differs from Mimir's %s", files[i], b);
}

/* What Mimir's compactor made is made again out of its parents. */
static void make_again(const char *dir)
{
    struct err err = ERR_NONE;
    struct block *theirs = open_block(dir), *parents[16];
    const struct block_meta *m = block_meta_of(theirs);
    if (m->level < 2) {
        block_close(theirs);
        return;
    }
    const char *tenant = strstr(dir, "tenant-b") ? "tenant-b" : "tenant-a";
    struct slice shard = block_meta_label(m, SL(BLOCK_LABEL_SHARD));
    for (size_t i = 0; i < m->n_parents; i++)
        parents[i] = open_block(find_block(tenant, m->parents[i].ulid.text));
    bool split = m->level == 2;
    struct ctx ctx = test_ctx();
    struct merge_result r;
    struct merge_params p = {.blocks = parents, .n_blocks = m->n_parents, .dir = folder, .shards = split ? 2 : 0, .now_ms = T0};
    struct block_label labels[4];
    for (size_t i = 0; i < m->n_labels; i++)
        if (!split || !slice_eq(m->labels[i].name, SL(BLOCK_LABEL_SHARD)))
            labels[p.n_labels++] = m->labels[i];
    p.labels = labels;
    cr_assert(blocks_merge(&p, &ctx, &arena, &r, &err), "%s", err.text);
    for (size_t i = 0; i < r.n_blocks; i++) {
        struct block_meta *ours = &r.blocks[i];
        if (!slice_eq(block_meta_label(ours, SL(BLOCK_LABEL_SHARD)), shard))
            continue;
        same_files(path_of(folder, ours->ulid.text), dir);
        /* But for the ULID and the sparse header, which is the upload's, meta.json is Mimir's too. */
        struct block_meta known = *m;
        known.ulid = ours->ulid;
        if (known.n_files > ours->n_files)
            known.n_files = ours->n_files;
        struct buf x = {0}, y = {0};
        block_meta_encode(&known, &x);
        block_meta_encode(ours, &y);
        cr_expect_str_eq(buf_cstr(&y), buf_cstr(&x));
        buf_release(&x);
        buf_release(&y);
    }
    for (size_t i = 0; i < m->n_parents; i++)
        block_close(parents[i]);
    block_close(theirs);
}

Test(merge, makes_of_mimirs_blocks_what_mimirs_compactor_makes, .init = setup, .fini = teardown)
{
    cr_expect_eq(each_block(COMPACTED, make_again), 26);
}
