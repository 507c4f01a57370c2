/* Blocks of aggregates: what is in them, what their meta.json says, and that a block which cannot be read makes none. */
#include "storage/downsample/downsample.h"
#include "tests/storage/block/block_util.h"

#define T0 INT64_C(1763596800000) /* begins a day */
#define DAY INT64_C(86400000)
#define N_SERIES 12

/* --- a source --------------------------------------------------------------------------------------------------------------------- */

static struct series_chunk chunk_of(const int64_t *t, const double *v, size_t n)
{
    struct xor_appender a;
    uint8_t *bytes = arena_zalloc(&arena, n * XOR_SAMPLE_MAX_BYTES + 64);
    xor_appender_init(&a);
    for (size_t i = 0; i < n; i++)
        xor_append(&a, bytes, t[i], v[i]);
    return (struct series_chunk){t[0], t[n - 1], CHUNK_XOR, slice_make(bytes, xor_size(&a))};
}

static struct series_chunk histogram_chunk(int64_t t)
{
    static const struct histogram_span span = {0, 1};
    static const int64_t delta = 5;
    struct histogram h = {.count_int = 5, .sum = 1, .positive_spans = &span, .n_positive_spans = 1, .positive_deltas = &delta, .n_positive = 1};
    struct histogram_appender *a = histogram_appender_new(false);
    cr_assert(a && histogram_append(a, t, &h) == HISTOGRAM_APPENDED);
    struct slice bytes = arena_dup(&arena, histogram_appender_bytes(a));
    histogram_appender_free(a);
    return (struct series_chunk){t, t, CHUNK_HISTOGRAM, bytes};
}

/* A source of some series, and what there is of floats in it. Labels with capital letters, and sets of which one begins the other. */
struct source {
    struct block *b;
    struct labels labels[N_SERIES];
    struct downsample_column raw[N_SERIES]; /* without stale markers */
    size_t n_floats;
};

static struct downsample_column make_series(struct rnd *r, int i, struct series *ret)
{
    size_t n = 0, n_chunks = 0, n_kept = 0, cap = 7000;
    int64_t *t = ARENA_ARRAY(&arena, int64_t, cap), *kept_t = ARENA_ARRAY(&arena, int64_t, cap), at = T0 + (int64_t)rnd_below(r, 20000);
    double *v = ARENA_ARRAY(&arena, double, cap), *kept_v = ARENA_ARRAY(&arena, double, cap), before = 0;
    struct series_chunk *chunks = ARENA_ARRAY(&arena, struct series_chunk, 80);
    for (; n < cap && at < T0 + DAY; at += rnd_below(r, 200) ? 15000 : (int64_t)rnd_below(r, 7200000) + 1) {
        before = i % 2 ? before + (double)rnd_below(r, 100) : (double)rnd_below(r, 100000) / 7;
        t[n] = at;
        v[n] = rnd_below(r, 100) ? before : stale_nan();
        if (!is_stale_nan(v[n])) {
            kept_t[n_kept] = at;
            kept_v[n_kept++] = before;
        }
        n++;
    }
    for (size_t from = 0; from < n; from += 120)
        chunks[n_chunks++] = chunk_of(t + from, v + from, MIN((size_t)120, n - from));
    ret->chunks = chunks;
    ret->n_chunks = n_chunks;
    return (struct downsample_column){n_kept, kept_t, kept_v};
}

static struct source make_source(uint64_t seed, bool histograms)
{
    static const char *const names[N_SERIES] = {"A=1", "A=1,B=2", "A=1,B=2,__name__=m", "A=1,__name__=m", "__name__=m", "__name__=m,a=1", "__name__=m,a=1,b=2",
                                                "__name__=m,a=2", "__name__=n", "__name__=n,z=1", "__name__=o", "a=1"};
    struct source s = {0};
    struct rnd r = {seed};
    struct series series[N_SERIES];
    struct block_meta meta = meta_of_times(T0, T0 + DAY);
    struct block_label shard = {SL(BLOCK_LABEL_SHARD), SL("1_of_2")};
    meta.labels = &shard;
    meta.n_labels = 1;
    meta.level = 4;
    for (int i = 0; i < N_SERIES; i++) {
        series[i].labels = s.labels[i] = labels_of(names[i]);
        s.raw[i] = make_series(&r, i, &series[i]);
        s.n_floats += s.raw[i].n;
    }
    if (histograms) {
        struct series_chunk *only = ARENA_NEW(&arena, struct series_chunk);
        *only = histogram_chunk(T0 + 5);
        series[3].chunks = only;
        series[3].n_chunks = 1;
        s.n_floats -= s.raw[3].n;
        s.raw[3].n = 0;
    }
    s.b = open_block(write_block(series, N_SERIES, meta));
    return s;
}

/* --- what is in a result ------------------------------------------------------------------------------------------------------------ */

static const char *dir_of(const char *name)
{
    const char *dir = path_of(folder, name);
    mkdir(dir, 0777);
    return dir;
}

static const char *result_path(const struct downsample_params *p, enum downsample_aggregate a)
{
    return arena_printf(&arena, "%s/%s/%s", p->dir, downsample_aggregate_name(a), block_meta_of(p->source)->ulid.text);
}

static struct downsample_column column_of(const struct series *s)
{
    size_t n = 0;
    struct err err = ERR_NONE;
    int64_t *t = ARENA_ARRAY(&arena, int64_t, 7000);
    double *v = ARENA_ARRAY(&arena, double, 7000);
    for (size_t i = 0; i < s->n_chunks; i++) {
        struct chunk_columns c;
        cr_assert(chunk_decode(s->chunks[i].encoding, s->chunks[i].data, &arena, &c, &err) && c.v);
        cr_assert(c.n <= 120);
        memcpy(t + n, c.t, c.n * 8);
        memcpy(v + n, c.v, c.n * 8);
        n += c.n;
    }
    return (struct downsample_column){n, t, v};
}

/* The block has these series and no other, each the aggregate of the raw column. */
static void expect_result(const char *path, const struct source *src, enum downsample_aggregate a, int64_t resolution_ms)
{
    struct err err = ERR_NONE;
    struct block *b = open_block(path);
    struct block_scan *scan = block_scan_new(b, &err);
    struct series s;
    bool more;
    for (int i = 0; i < N_SERIES; i++) {
        struct downsample_column want, got;
        if (src->raw[i].n == 0 || (a == DOWNSAMPLE_COUNTER && !downsample_is_counter(&src->raw[i])))
            continue;
        cr_assert(downsample_column(a, false, resolution_ms, &src->raw[i], &arena, &want));
        cr_assert(block_scan_next(scan, &s, &more, &err) && more, "%s", err.text);
        cr_assert(labels_eq(s.labels, src->labels[i]), "series %d", i);
        got = column_of(&s);
        cr_assert_eq(got.n, want.n, "series %d: %zu samples, not %zu", i, got.n, want.n);
        cr_assert_arr_eq(got.t, want.t, want.n * 8);
        for (size_t k = 0; k < got.n; k++)
            cr_assert(a == DOWNSAMPLE_SUM ? fabs(got.v[k] - want.v[k]) <= 1e-12 * fabs(want.v[k]) : got.v[k] == want.v[k]);
    }
    cr_assert(block_scan_next(scan, &s, &more, &err) && !more);
    block_scan_free(scan);
    block_close(b);
}

static void expect_meta(const char *path, const struct block_meta *from, enum downsample_aggregate a, int64_t resolution_ms, bool histograms)
{
    struct block *b = open_block(path);
    const struct block_meta *m = block_meta_of(b);
    cr_expect(strcmp(m->ulid.text, from->ulid.text) == 0 && m->min_t == from->min_t && m->max_t == from->max_t && m->level == from->level);
    cr_expect(m->n_sources == from->n_sources && strcmp(m->sources[0].text, from->sources[0].text) == 0);
    cr_expect(m->n_parents == 1 && strcmp(m->parents[0].ulid.text, from->ulid.text) == 0);
    cr_expect_eq(m->resolution_ms, resolution_ms);
    cr_expect(slice_eq(block_meta_label(m, SL(DOWNSAMPLE_LABEL)), slice_of(downsample_aggregate_name(a))));
    cr_expect(slice_eq(block_meta_label(m, SL(BLOCK_LABEL_SHARD)), SL("1_of_2")) && m->n_labels == 3);
    cr_expect(slice_eq(block_meta_label(m, SL(DOWNSAMPLE_HISTOGRAMS_LABEL)), histograms ? SL(",m,") : SL(",")));
    cr_expect_eq(m->n_hints == 1 && slice_eq(m->hints[0], SL(DOWNSAMPLE_HINT_HISTOGRAMS)), histograms);
    block_close(b);
}

static struct downsample_stats make(const struct downsample_params *p)
{
    struct err err = ERR_NONE;
    struct ctx ctx = {0};
    struct downsample_stats stats;
    cr_assert(downsample_block(p, &ctx, &stats, &err), "%s", err.text);
    cr_assert(downsample_verify(p, &stats, &ctx, &err), "%s", err.text);
    return stats;
}

Test(downsample_block, has_the_aggregates_of_each_series, .init = setup, .fini = teardown)
{
    for (int histograms = 0; histograms < 2; histograms++) {
        struct source src = make_source(3, histograms);
        struct downsample_params p = {.source = src.b, .resolution = DOWNSAMPLE_5M, .dir = dir_of(histograms ? "out-h" : "out")};
        struct downsample_stats stats = make(&p);
        cr_expect_eq(stats.samples, src.n_floats);
        cr_expect_eq(stats.histograms, (uint64_t)histograms);
        for (unsigned a = 0; a < DOWNSAMPLE_AGGREGATES; a++) {
            expect_result(result_path(&p, a), &src, a, 300000);
            expect_meta(result_path(&p, a), block_meta_of(src.b), a, 300000, histograms);
        }
        block_close(src.b);
    }
}

Test(downsample_block, of_an_hour_is_made_of_those_of_five_minutes, .init = setup, .fini = teardown)
{
    struct source src = make_source(5, true);
    struct downsample_params fine = {.source = src.b, .resolution = DOWNSAMPLE_5M, .dir = dir_of("fine")};
    make(&fine);
    for (unsigned a = 0; a < DOWNSAMPLE_AGGREGATES; a++) {
        struct downsample_params p = {.source = open_block(result_path(&fine, a)), .again = true, .only = a, .resolution = DOWNSAMPLE_1H, .dir = dir_of("coarse")};
        struct downsample_stats stats = make(&p);
        cr_expect(a != DOWNSAMPLE_COUNT || stats.samples == src.n_floats);
        expect_result(result_path(&p, a), &src, a, 3600000);
        expect_meta(result_path(&p, a), block_meta_of(src.b), a, 3600000, true);
        block_close(p.source);
    }
    block_close(src.b);
}

Test(downsample_block, is_the_same_to_the_byte_when_it_is_made_twice, .init = setup, .fini = teardown)
{
    struct source src = make_source(9, true);
    struct downsample_params one = {.source = src.b, .resolution = DOWNSAMPLE_1H, .dir = dir_of("one")}, two = one;
    two.dir = dir_of("two");
    make(&one);
    make(&two);
    for (unsigned a = 0; a < DOWNSAMPLE_AGGREGATES; a++) {
        static const char *const files[] = {"meta.json", "index", "chunks/000001"};
        for (size_t i = 0; i < ARRAY_LEN(files); i++)
            cr_expect(slice_eq(read_file(path_of(result_path(&one, a), files[i])), read_file(path_of(result_path(&two, a), files[i]))), "%s", files[i]);
    }
    block_close(src.b);
}

Test(downsample_block, without_floats_is_there_and_empty, .init = setup, .fini = teardown)
{
    struct series_chunk chunk = histogram_chunk(T0 + 1);
    struct series s = {labels_of("__name__=h"), &chunk, 1};
    struct block *b = open_block(write_block(&s, 1, meta_of_times(T0, T0 + DAY)));
    struct downsample_params p = {.source = b, .resolution = DOWNSAMPLE_5M, .dir = dir_of("out")}, again;
    struct downsample_stats stats = make(&p);
    cr_expect(stats.series == 0 && stats.histograms == 1);
    again = (struct downsample_params){.source = open_block(result_path(&p, DOWNSAMPLE_COUNT)), .again = true, .only = DOWNSAMPLE_COUNT,
                                       .resolution = DOWNSAMPLE_1H, .dir = dir_of("again")};
    make(&again);
    block_close(again.source);
    block_close(b);
}

Test(downsample_block, that_cannot_be_read_makes_none, .init = setup, .fini = teardown)
{
    struct source src = make_source(21, false);
    const char *chunks = arena_printf(&arena, "%s/%s/chunks/000001", folder, block_meta_of(src.b)->ulid.text);
    struct slice whole = read_file(chunks);
    char id[ULID_TEXT_LEN + 1];
    strcpy(id, block_meta_of(src.b)->ulid.text);
    block_close(src.b);
    for (size_t at = 50; at < whole.n; at += whole.n / 23) {
        struct err err = ERR_NONE;
        struct ctx ctx = {0};
        struct downsample_stats stats;
        char *bytes = arena_alloc(&arena, whole.n);
        memcpy(bytes, whole.p, whole.n);
        bytes[at] = (char)(bytes[at] ^ 8);
        write_file(chunks, slice_make(bytes, whole.n));
        struct block *b = open_block(path_of(folder, id));
        struct downsample_params p = {.source = b, .resolution = DOWNSAMPLE_5M, .dir = dir_of("out")};
        cr_expect(!downsample_block(&p, &ctx, &stats, &err) && err.code == ERR_CORRUPT, "byte %zu: %s", at, err.text);
        cr_expect_neq(access(result_path(&p, DOWNSAMPLE_COUNT), F_OK), 0);
        block_close(b);
    }
}

Test(downsample_block, is_verified_against_the_samples_that_were_read, .init = setup, .fini = teardown)
{
    struct source src = make_source(33, false);
    struct err err = ERR_NONE;
    struct ctx ctx = {0};
    struct downsample_params p = {.source = src.b, .resolution = DOWNSAMPLE_5M, .dir = dir_of("out")};
    struct downsample_stats stats = make(&p);
    stats.samples++;
    cr_expect(!downsample_verify(&p, &stats, &ctx, &err) && err.code == ERR_INTERNAL, "%s", err.text);
    stats.samples--;
    cr_assert(downsample_verify(&p, &stats, &ctx, &err));
    const char *chunks = path_of(result_path(&p, DOWNSAMPLE_MAX), "chunks/000001");
    cr_assert_eq(truncate(chunks, 40), 0);
    cr_expect(!downsample_verify(&p, &stats, &ctx, &err));
    block_close(src.b);
}

static size_t lines_of(const char *command)
{
    size_t n = 0;
    int c;
    FILE *p = popen(command, "r");
    cr_assert(p);
    while ((c = fgetc(p)) != EOF)
        n += c == '\n';
    cr_expect_eq(pclose(p), 0, "%s", command);
    return n;
}

Test(downsample_block, is_a_block_to_prometheus, .init = setup, .fini = teardown)
{
    if (system("command -v promtool >/dev/null") != 0)
        cr_skip_test("no promtool");
    struct source src = make_source(41, true);
    struct downsample_params p = {.source = src.b, .resolution = DOWNSAMPLE_5M, .dir = dir_of("out")};
    struct downsample_stats stats = make(&p);
    for (unsigned a = 0; a < DOWNSAMPLE_AGGREGATES; a++) {
        const char *dir = path_of(p.dir, downsample_aggregate_name(a));
        size_t n = lines_of(arena_printf(&arena, "promtool tsdb dump --max-time=%lld %s 2>/dev/null", (long long)(T0 + DAY - 1), dir));
        cr_expect_eq(n, stats.samples_out[a], "%s: %zu samples of %zu", downsample_aggregate_name(a), n, (size_t)stats.samples_out[a]);
    }
    block_close(src.b);
}

/* --- whose histograms were left out ------------------------------------------------------------------------------------------------ */

/* The label of a block whose metrics of these names have histograms, each twice. */
static struct slice label_of(const struct slice *names, size_t n)
{
    struct series *series = ARENA_ARRAY(&arena, struct series, 2 * n);
    struct series_chunk *chunk = ARENA_NEW(&arena, struct series_chunk);
    *chunk = histogram_chunk(T0 + 1);
    for (size_t i = 0; i < 2 * n; i++) {
        struct label *l = ARENA_ARRAY(&arena, struct label, 2);
        l[0] = (struct label){SL(METRIC_NAME_LABEL), names[i / 2]};
        l[1] = (struct label){SL("s"), i % 2 ? SL("b") : SL("a")};
        series[i] = (struct series){{l, 2}, chunk, 1};
    }
    struct block *b = open_block(write_block(series, 2 * n, meta_of_times(T0, T0 + DAY)));
    struct downsample_params p = {.source = b, .resolution = DOWNSAMPLE_5M, .dir = dir_of("out")};
    make(&p);
    struct block *made = open_block(result_path(&p, DOWNSAMPLE_MAX));
    struct slice label = arena_dup(&arena, block_meta_label(block_meta_of(made), SL(DOWNSAMPLE_HISTOGRAMS_LABEL)));
    block_close(made);
    block_close(b);
    return label;
}

Test(downsample_block, names_the_metrics_whose_histograms_it_left_out, .init = setup, .fini = teardown)
{
    struct slice two[] = {SL("latency"), SL("size")}, comma[] = {SL("a,b")}, many[200];
    for (size_t i = 0; i < ARRAY_LEN(many); i++)
        many[i] = slice_of(arena_printf(&arena, "metric_%03zu", i));
    cr_expect(slice_eq(label_of(two, 2), SL(",latency,size,")));
    cr_expect(slice_eq(label_of(comma, 1), SL("*")));
    cr_expect(slice_eq(label_of(many, ARRAY_LEN(many)), SL("*")));
}

Test(downsample_block, is_all_there_is_of_a_metric_that_has_no_histograms)
{
    static const struct {
        const char *label, *name;
        bool all;
    } cases[] = {{",", "m", true},  {",", "", true},         {",latency,size,", "late", true}, {",latency,size,", "latency", false}, {",latency,size,", "size", false},
                 {"*", "m", false}, {",latency,", "", false}, {"*", "", false}};
    for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
        struct block_label l = {SL(DOWNSAMPLE_HISTOGRAMS_LABEL), slice_of(cases[i].label)};
        struct index_block b = {.labels = &l, .n_labels = 1};
        cr_expect_eq(downsample_is_all_of(&b, slice_of(cases[i].name)), cases[i].all, "%s of %s", cases[i].name, cases[i].label);
    }
    struct index_block without = {0};
    cr_expect_not(downsample_is_all_of(&without, SL("m")));
}

Test(downsample_rooms, are_told_from_tenants)
{
    enum downsample_resolution r;
    enum downsample_aggregate a;
    struct bucket_name room = downsample_room(SL("t"), DOWNSAMPLE_1H, DOWNSAMPLE_MAX);
    cr_expect(downsample_room_of(bucket_name_slice(&room), &r, &a) && r == DOWNSAMPLE_1H && a == DOWNSAMPLE_MAX);
    cr_expect(slice_eq(downsample_tenant_of(bucket_name_slice(&room)), SL("t")) && slice_eq(downsample_tenant_of(SL("t")), SL("t")));
    static const char *const others[] = {"t", "", "t/", "t/downsampled", "t/downsampled/", "t/downsampled/7m-sum", "t/other/5m-sum", "/downsampled/5m-sum", "t/downsampled/5m-sum/x"};
    for (size_t i = 0; i < ARRAY_LEN(others); i++)
        cr_expect_not(downsample_room_of(slice_of(others[i]), &r, &a), "%s", others[i]);
}
