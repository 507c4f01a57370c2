/* Random series, floats and histograms, through a block and back; and what Prometheus's own tool says of them. */
#include "storage/block/writer_int.h"
#include "tests/storage/block/block_util.h"
#include "tests/storage/chunk/build.h"

#define T0 INT64_C(1763596800000)
#define RANGE 7200000

static int by_labels(const void *a, const void *b)
{
    return labels_cmp(((const struct series *)a)->labels, ((const struct series *)b)->labels);
}

static struct series_chunk random_floats(struct rnd *r, int64_t *t, size_t n)
{
    struct xor_appender a;
    uint8_t *bytes = arena_zalloc(&arena, n * XOR_SAMPLE_MAX_BYTES + 64);
    struct series_chunk c = {.min_t = *t + 1, .encoding = CHUNK_XOR};
    double v = 0;
    xor_appender_init(&a);
    for (size_t i = 0; i < n; i++) {
        *t += 1 + (int64_t)rnd_below(r, 1000);
        if (i == 0)
            c.min_t = *t;
        v = rnd_double(r, v);
        xor_append(&a, bytes, *t, v);
    }
    c.max_t = *t;
    c.data = slice_make(bytes, xor_size(&a));
    return c;
}

static struct series_chunk random_histograms(struct rnd *r, int64_t *t, size_t n, bool is_float)
{
    struct histogram_appender *a = histogram_appender_new(is_float);
    struct series_chunk c = {.encoding = is_float ? CHUNK_FLOAT_HISTOGRAM : CHUNK_HISTOGRAM};
    double x = 1, y = 1;
    for (size_t i = 0; i < n; i++) {
        x += (double)rnd_below(r, 5);
        y += (double)rnd_below(r, 9);
        struct bucket buckets[] = {{-2, x}, {3, y}};
        *t += 1 + (int64_t)rnd_below(r, 1000);
        if (i == 0)
            c.min_t = *t;
        cr_assert_eq(histogram_append(a, *t, positive(&arena, is_float, buckets, 2)), HISTOGRAM_APPENDED);
    }
    c.max_t = *t;
    c.data = arena_dup(&arena, histogram_appender_bytes(a));
    histogram_appender_free(a);
    return c;
}

static struct labels random_labels(struct rnd *r)
{
    struct label *l = ARENA_ARRAY(&arena, struct label, 8);
    size_t n = 0;
    l[n++] = (struct label){SL("__name__"), slice_of(arena_printf(&arena, "m%d", (int)rnd_below(r, 20)))};
    for (int i = 0; i < 6; i++)
        if (rnd_below(r, 2))
            l[n++] = (struct label){slice_of(arena_printf(&arena, "l%d", i)), slice_of(arena_printf(&arena, "v%d\xc3\xb8", (int)rnd_below(r, 50)))};
    return (struct labels){l, n};
}

static size_t random_series(struct rnd *r, size_t n, bool only_floats, struct series **ret)
{
    struct series *s = ARENA_ARRAY(&arena, struct series, n);
    size_t k = 0;
    for (size_t i = 0; i < n; i++) {
        size_t n_chunks = 1 + rnd_below(r, 5);
        int64_t t = T0 + (int64_t)rnd_below(r, 10000);
        struct series_chunk *chunks = ARENA_ARRAY(&arena, struct series_chunk, n_chunks);
        int kind = only_floats ? 0 : (int)rnd_below(r, 4);
        for (size_t c = 0; c < n_chunks; c++)
            chunks[c] = kind < 2 ? random_floats(r, &t, 1 + rnd_below(r, 120)) : random_histograms(r, &t, 1 + rnd_below(r, 30), kind == 3);
        s[i] = (struct series){random_labels(r), chunks, n_chunks};
    }
    qsort(s, n, sizeof(*s), by_labels);
    for (size_t i = 0; i < n; i++)
        if (i == 0 || labels_cmp(s[i].labels, s[k - 1].labels) != 0)
            s[k++] = s[i];
    *ret = s;
    return k;
}

/* Chunks compare by their bytes. */
static bool same_series(const struct series *a, const struct series *b)
{
    if (!labels_eq(a->labels, b->labels) || a->n_chunks != b->n_chunks)
        return false;
    for (size_t i = 0; i < a->n_chunks; i++)
        if (a->chunks[i].min_t != b->chunks[i].min_t || a->chunks[i].max_t != b->chunks[i].max_t ||
            a->chunks[i].encoding != b->chunks[i].encoding || !slice_eq(a->chunks[i].data, b->chunks[i].data))
            return false;
    return true;
}

Test(block_random, series_come_back_as_they_were_written, .init = setup, .fini = teardown)
{
    struct rnd r = {42};
    for (int round = 0; round < 30; round++) {
        struct series *want, got;
        struct err err = ERR_NONE;
        size_t n = random_series(&r, 1 + rnd_below(&r, 300), false, &want), i = 0;
        struct block *b = open_block(write_block(want, n, meta_of_times(T0, T0 + RANGE)));
        cr_assert(block_verify(b, &err), "%s", err.text);
        struct block_scan *scan = block_scan_new(b, &err);
        for (bool more = true; block_scan_next(scan, &got, &more, &err) && more; i++)
            cr_assert(i < n && same_series(&got, &want[i]), "series %zu of round %d", i, round);
        cr_expect(i == n && err.code == ERR_OK, "%zu of %zu series", i, n);
        block_scan_free(scan);
        block_close(b);
    }
}

/* --- promtool --- */

/* Its lines; "" when it fails. */
static struct slice run(const char *command)
{
    struct buf b = {0};
    char part[4096];
    size_t n;
    FILE *p = popen(command, "r");
    cr_assert(p);
    while ((n = fread(part, 1, sizeof(part), p)) > 0)
        buf_put(&b, part, n);
    cr_expect(pclose(p) == 0, "%s: %.*s", command, SL_FMT(buf_slice(&b)));
    struct slice s = arena_dup(&arena, buf_slice(&b));
    buf_release(&b);
    return s;
}

/* The lines of `promtool tsdb dump`: labels, value, time. Its values are %v of Go, so that they are compared as numbers. */
static void check_dump(struct slice dump, const struct series *s, size_t n)
{
    const char *p = dump.p, *end = dump.p + dump.n;
    for (size_t i = 0; i < n; i++) {
        struct buf labels = {0};
        labels_print_set(s[i].labels, &labels);
        for (size_t k = 0; k < s[i].n_chunks; k++) {
            struct chunk_columns c;
            cr_assert(chunk_decode(s[i].chunks[k].encoding, s[i].chunks[k].data, &arena, &c, NULL));
            for (size_t j = 0; j < c.n; j++) {
                char *after;
                cr_assert(p + labels.n < end && memcmp(p, labels.p, labels.n) == 0, "%.40s", p);
                double v = strtod(p + labels.n, &after);
                cr_expect(v == c.v[j] || (isnan(v) && isnan(c.v[j])), "%.80s", p);
                cr_expect_eq(strtoll(after, &after, 10), c.t[j]);
                cr_assert_eq(*after, '\n');
                p = after + 1;
            }
        }
        buf_release(&labels);
    }
    cr_expect_eq(p, end, "more samples than were written");
}

Test(block_random, promtool_lists_analyzes_and_dumps_what_was_written, .init = setup, .fini = teardown)
{
    if (system("command -v promtool >/dev/null") != 0)
        cr_skip_test("no promtool");
    struct rnd r = {7};
    struct series *s;
    size_t n = random_series(&r, 200, true, &s);
    struct block_meta meta = meta_of_times(T0, T0 + RANGE);
    write_block(s, n, meta);
    struct slice list = run(arena_printf(&arena, "promtool tsdb list %s 2>&1", folder));
    cr_expect(strstr(list.p, meta.ulid.text), "%.*s", SL_FMT(list));
    struct slice analysis = run(arena_printf(&arena, "promtool tsdb analyze %s 2>&1", folder));
    cr_expect(strstr(analysis.p, arena_printf(&arena, "Series: %zu\n", n)), "%.*s", SL_FMT(analysis));
    /* Without a time it would look for a write-ahead log behind the last block. */
    check_dump(run(arena_printf(&arena, "promtool tsdb dump --max-time=%lld %s 2>&1", (long long)(T0 + RANGE - 1), folder)), s, n);
}

Test(block_random, promtool_reads_histograms_and_many_segments, .init = setup, .fini = teardown)
{
    if (system("command -v promtool >/dev/null") != 0)
        cr_skip_test("no promtool");
    struct rnd r = {8};
    struct series *s;
    struct err err = ERR_NONE;
    size_t n = random_series(&r, 100, false, &s);
    struct block_meta meta = meta_of_times(T0, T0 + RANGE);
    struct block_writer *w = writer_for(s, n, &meta);
    block_writer_set_sizes(w, 4096, 64);
    for (size_t i = 0; i < n; i++)
        cr_assert(block_writer_add(w, &s[i].labels, s[i].chunks, s[i].n_chunks, &err), "%s", err.text);
    cr_assert(block_writer_finish(w, &arena, &meta, &err), "%s", err.text);
    block_writer_free(w);
    cr_expect_gt(meta.n_files, 5);
    struct slice analysis = run(arena_printf(&arena, "promtool tsdb analyze %s 2>&1", folder));
    cr_expect(strstr(analysis.p, arena_printf(&arena, "Series: %zu\n", n)), "%.*s", SL_FMT(analysis));
}

static size_t n_made;

static void verify_made(const char *dir)
{
    struct err err = ERR_NONE;
    struct block *b = open_block(dir);
    struct buf text = {0};
    struct select_params p = EVERYTHING;
    cr_expect(block_verify(b, &err), "%s: %s", dir, err.text);
    cr_expect(select_text(b, &p, &text, &err), "%s", err.text);
    cr_expect(strstr(buf_cstr(&text), "{__name__=\"made\", i=\"3\"} "), "%s", buf_cstr(&text));
    n_made += block_meta_of(b)->stats.samples;
    buf_release(&text);
    block_close(b);
}

/* Debian's Prometheus still writes label indices, and no out_of_order and thanos in meta.json. */
Test(block_random, blocks_that_prometheus_made_are_read, .init = setup, .fini = teardown)
{
    if (system("command -v promtool >/dev/null") != 0)
        cr_skip_test("no promtool");
    struct buf text = {0};
    for (int i = 0; i < 5; i++)
        for (int t = 0; t < 300; t++)
            buf_printf(&text, "made{i=\"%d\"} %d %d\n", i, t * i, 1763596800 + 60 * t);
    buf_puts(&text, "# EOF\n");
    write_file(path_of(folder, "text"), buf_slice(&text));
    buf_release(&text);
    run(arena_printf(&arena, "promtool tsdb create-blocks-from openmetrics %s/text %s/data 2>&1", folder, folder));
    cr_expect_geq(each_block(path_of(folder, "data"), verify_made), 2);
    cr_expect_eq(n_made, 1500);
}
