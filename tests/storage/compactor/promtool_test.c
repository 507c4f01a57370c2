/*
 * Prometheus's own eyes on a merge: its promtool dumps the sources, which it merges while it reads, and the result; the dumps must be the same. Debian's promtool
 * shows floats alone, that of Prometheus 3 histograms as well: put one first in PATH.
 */
#include "storage/compactor/merge.h"
#include "tests/storage/block/block_util.h"
#include "tests/storage/chunk/build.h"

#define T0 INT64_C(1763596800000)
#define RANGE INT64_C(7200000)
#define SAMPLES 700

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

/* What a series has at a time is the same in every block that has it: counters, which are reset twice, and change their buckets. */
static const struct histogram *histogram_at(int k, bool is_float, bool gauge)
{
    double x = k % 300, y = 2 * (k % 300);
    struct bucket buckets[] = {{k / 170 - 2, x}, {3 + k / 90, y + 1}};
    struct histogram *h = arena_alloc(&arena, sizeof(*h));
    *h = *positive(&arena, is_float, buckets, 2);
    h->hint = gauge ? HISTOGRAM_HINT_GAUGE : HISTOGRAM_HINT_UNKNOWN;
    return h;
}

struct chunks {
    struct series_chunk items[SAMPLES];
    size_t n;
};

static void put_chunk(struct chunks *out, int64_t min_t, int64_t max_t, enum chunk_encoding encoding, struct slice bytes)
{
    out->items[out->n++] = (struct series_chunk){min_t, max_t, encoding, arena_dup(&arena, bytes)};
}

static void put_floats(struct chunks *out, int i, const int *ks, size_t n)
{
    struct xor_appender a;
    uint8_t bytes[SAMPLES * XOR_SAMPLE_MAX_BYTES + 64];
    xor_appender_init(&a);
    for (size_t k = 0; k < n; k++)
        xor_append(&a, bytes, T0 + ks[k] * 10000, i * 1000 + ks[k] * 0.5);
    put_chunk(out, T0 + ks[0] * 10000, T0 + ks[n - 1] * 10000, CHUNK_XOR, slice_make(bytes, xor_size(&a)));
}

static void put_histograms(struct chunks *out, const int *ks, size_t n, bool is_float, bool gauge)
{
    enum chunk_encoding encoding = is_float ? CHUNK_FLOAT_HISTOGRAM : CHUNK_HISTOGRAM;
    struct histogram_appender *a = histogram_appender_new(is_float);
    int64_t min_t = 0, max_t = 0;
    for (size_t k = 0; k < n; k++) {
        int64_t t = T0 + ks[k] * 10000;
        const struct histogram *h = histogram_at(ks[k], is_float, gauge);
        if (histogram_append(a, t, h) == HISTOGRAM_NEW_CHUNK) {
            struct histogram_appender *next = histogram_appender_next(a, is_float);
            put_chunk(out, min_t, max_t, encoding, histogram_appender_bytes(a));
            histogram_appender_free(a);
            a = next;
            cr_assert_eq(histogram_append(a, t, h), HISTOGRAM_APPENDED);
        }
        min_t = histogram_appender_count(a) == 1 ? t : min_t;
        max_t = t;
    }
    put_chunk(out, min_t, max_t, encoding, histogram_appender_bytes(a));
    histogram_appender_free(a);
}

/* A block with some of the samples of each series, in chunks of its own. */
static struct block *part_of_all(struct rnd *r)
{
    struct series s[10];
    for (int i = 0; i < 10; i++) {
        struct chunks *chunks = arena_zalloc(&arena, sizeof(*chunks));
        int ks[SAMPLES], from = 0;
        size_t n = 0;
        while (from < SAMPLES) {
            int to = from + 10 + (int)rnd_below(r, 100);
            n = 0;
            for (int k = from; k < to && k < SAMPLES; k++)
                if (rnd_below(r, 10) < 7)
                    ks[n++] = k;
            from = to + (int)rnd_below(r, 60);
            if (n == 0)
                continue;
            if (i < 4)
                put_floats(chunks, i, ks, n);
            else
                put_histograms(chunks, ks, n, i % 2, i > 7);
        }
        s[i] = (struct series){labels_of(arena_printf(&arena, "__name__=m,i=%d", i)), chunks->items, chunks->n};
    }
    return open_block(write_block(s, 10, meta_of_times(T0, T0 + RANGE)));
}

static struct slice dump(const char *dir)
{
    return run(arena_printf(&arena, "promtool tsdb dump --max-time=%lld %s 2>/dev/null", (long long)(T0 + RANGE - 1), dir));
}

static int by_line(const void *a, const void *b)
{
    return strcmp(*(char *const *)a, *(char *const *)b);
}

/* Blocks are given in no order that can be relied on. */
static size_t lines_of(struct slice text, char ***ret)
{
    size_t n = 0, cap = 1;
    for (size_t i = 0; i < text.n; i++)
        cap += text.p[i] == '\n';
    char **lines = ARENA_ARRAY(&arena, char *, cap), *save = NULL;
    for (char *l = strtok_r((char *)(uintptr_t)text.p, "\n", &save); l; l = strtok_r(NULL, "\n", &save))
        lines[n++] = l;
    qsort(lines, n, sizeof(char *), by_line);
    *ret = lines;
    return n;
}

static void same_dump(uint64_t seed, uint32_t shards)
{
    struct rnd r = {seed};
    struct block *blocks[4];
    struct err err = ERR_NONE;
    struct ctx ctx = test_ctx();
    struct merge_result result;
    char **want, **got;
    const char *out = path_of(folder, "out");
    for (size_t i = 0; i < 4; i++)
        blocks[i] = part_of_all(&r);
    size_t n_want = lines_of(dump(folder), &want);
    mkdir(out, 0777);
    struct merge_params p = {.blocks = blocks, .n_blocks = 4, .dir = out, .shards = shards, .now_ms = T0 + RANGE};
    cr_assert(blocks_merge(&p, &ctx, &arena, &result, &err), "%s", err.text);
    size_t n_got = lines_of(dump(out), &got);
    cr_expect(n_want >= 4 * SAMPLES / 2, "%zu lines", n_want);
    cr_assert_eq(n_got, n_want, "%zu samples, and Prometheus finds %zu in the sources", n_got, n_want);
    for (size_t i = 0; i < n_want; i++)
        cr_assert_str_eq(got[i], want[i]);
    for (size_t i = 0; i < 4; i++)
        block_close(blocks[i]);
}

Test(merge_promtool, dumps_the_same_of_sources_and_result)
{
    if (system("command -v promtool >/dev/null") != 0)
        cr_skip_test("no promtool");
    for (uint64_t seed = 1; seed <= 4; seed++) {
        setup();
        same_dump(seed, seed % 2 ? 0 : 2);
        teardown();
    }
}
