/* Blocks of a real Mimir (shared/mimir/blocks, README.md there): read, verified, compared with what was pushed, and written again. */
#include <jansson.h>

#include "tests/storage/block/block_util.h"

static void need_blocks(void)
{
    if (access(REAL_BLOCKS, R_OK) != 0)
        cr_skip_test("no blocks at %s", REAL_BLOCKS);
}

static void verify_one(const char *dir)
{
    struct err err = ERR_NONE;
    struct block *b = open_block(dir);
    cr_expect(block_verify(b, &err), "%s: %s", dir, err.text);
    block_close(b);
}

Test(block_real, every_block_of_mimir_verifies, .init = setup, .fini = teardown)
{
    need_blocks();
    cr_assert_geq(each_block(REAL_BLOCKS, verify_one), 20);
}

/* --- written again --- */

static void write_again(const char *dir)
{
    struct err err = ERR_NONE;
    struct block *b = open_block(dir);
    const struct block_meta *meta = block_meta_of(b);
    const struct slice *symbols;
    size_t n_symbols = block_symbols(b, &symbols, &arena);
    struct block_writer *w = block_writer_new(folder, meta, symbols, n_symbols, &err);
    cr_assert(w, "%s", err.text);
    struct block_scan *scan = block_scan_new(b, &err);
    struct series s;
    bool more = true;
    while (block_scan_next(scan, &s, &more, &err) && more)
        cr_assert(block_writer_add(w, &s.labels, s.chunks, s.n_chunks, &err), "%s: %s", dir, err.text);
    cr_assert(!more, "%s: %s", dir, err.text);
    block_scan_free(scan);
    struct block_meta written;
    cr_assert(block_writer_finish(w, &arena, &written, &err), "%s", err.text);
    block_writer_free(w);
    const char *copy = path_of(folder, meta->ulid.text);
    static const char *const files[] = {"index", "chunks/000001"};
    for (size_t i = 0; i < ARRAY_LEN(files); i++)
        cr_expect(slice_eq(read_file(path_of(dir, files[i])), read_file(path_of(copy, files[i]))), "%s/%s differs", dir, files[i]);
    cr_expect(memcmp(&written.stats, &meta->stats, sizeof(meta->stats)) == 0, "%s: stats", dir);
    /* Mimir lists one file more where there is a sparse index header. */
    if (meta->n_files == written.n_files)
        cr_expect(slice_eq(read_file(path_of(dir, "meta.json")), read_file(path_of(copy, "meta.json"))), "%s/meta.json differs", dir);
    block_close(b);
    nftw(copy, util_remove, 8, FTW_DEPTH | FTW_PHYS);
}

Test(block_real, written_again_from_its_series_a_block_has_the_same_bytes, .init = setup, .fini = teardown)
{
    need_blocks();
    cr_assert_geq(each_block(REAL_BLOCKS, write_again), 20);
}

Test(block_real, tombstones_have_the_bytes_of_mimirs, .init = setup, .fini = teardown)
{
    need_blocks();
    struct series s = {labels_of("a=b"), (struct series_chunk[]){float_chunk(0, 1, 2, 1)}, 1};
    const char *dir = write_block(&s, 1, meta_of_times(0, 10));
    cr_expect(slice_eq(read_file(path_of(dir, "tombstones")),
                       read_file(REAL_BLOCKS "/ingester-local/after-flush/tenant-a/01M7Y7WR36RNAK3M75MGY89WZT/tombstones")));
}

/* --- the samples that were pushed --- */

/* "name=value,..." -> times of its samples, as the blocks of one tenant have them, and the sum of float values. */
struct found {
    char *key;
    size_t n_floats, n_histograms;
    double *v;
    int64_t *t;
    size_t n, cap;
};

static struct found *found;
static size_t n_found;

static char *key_of(struct labels l)
{
    struct buf b = {0};
    labels_print_set(l, &b);
    char *key = arena_printf(&arena, "%s", buf_cstr(&b));
    buf_release(&b);
    return key;
}

static struct found *found_of(const char *key)
{
    for (size_t i = 0; i < n_found; i++)
        if (strcmp(found[i].key, key) == 0)
            return &found[i];
    found = realloc(found, (n_found + 1) * sizeof(*found));
    found[n_found] = (struct found){.key = arena_printf(&arena, "%s", key)};
    return &found[n_found++];
}

static void take_sample(struct found *f, int64_t t, bool is_float, double v)
{
    if (f->n == f->cap) {
        f->cap = f->cap ? 2 * f->cap : 64;
        f->t = realloc(f->t, f->cap * sizeof(*f->t));
        f->v = realloc(f->v, f->cap * sizeof(*f->v));
    }
    f->t[f->n] = t;
    f->v[f->n++] = v;
    f->n_floats += is_float;
    f->n_histograms += !is_float;
}

static void take_block(const char *dir)
{
    struct err err = ERR_NONE;
    struct block *b = open_block(dir);
    struct ctx ctx = test_ctx();
    struct select_params p = EVERYTHING;
    struct series_set *set = block_select(b, &ctx, &p, &err);
    struct series s;
    size_t n;
    cr_assert(set, "%s", err.text);
    while (series_set_next(set, &ctx, &s, 1, &n, &err) && n) {
        struct found *f = found_of(key_of(s.labels));
        for (size_t i = 0; i < s.n_chunks; i++) {
            struct chunk_columns c;
            cr_assert(chunk_decode(s.chunks[i].encoding, s.chunks[i].data, &arena, &c, &err), "%s", err.text);
            for (size_t k = 0; k < c.n; k++)
                take_sample(f, c.t[k], c.h == NULL, c.h ? c.h[k].sum : c.v[k]);
        }
    }
    cr_assert_eq(err.code, ERR_OK, "%s: %s", dir, err.text);
    series_set_release(set);
    block_close(b);
}

static bool has_sample(const struct found *f, int64_t t, double v)
{
    for (size_t i = 0; i < f->n; i++)
        if (f->t[i] == t && (same_bits(f->v[i], v) || (isnan(v) && isnan(f->v[i]))))
            return true;
    return false;
}

static double number_of(json_t *v)
{
    return json_is_string(v) ? strtod(json_string_value(v), NULL) : json_number_value(v);
}

static struct labels labels_of_json(json_t *o)
{
    struct label *items = ARENA_ARRAY(&arena, struct label, json_object_size(o) + 1);
    size_t n = 0;
    const char *name;
    json_t *value;
    json_object_foreach(o, name, value)
        items[n++] = (struct label){slice_of(name), slice_of(json_string_value(value))};
    cr_assert(labels_sort(items, n));
    return (struct labels){items, n};
}

static void check_expected(json_t *series)
{
    const char *key = key_of(labels_of_json(json_object_get(series, "labels")));
    json_t *floats = json_object_get(series, "floats"), *histograms = json_object_get(series, "histograms"), *s;
    struct found *f = found_of(key);
    size_t i;
    cr_expect_eq(f->n_floats, json_array_size(floats), "%s: %zu floats", key, f->n_floats);
    cr_expect_eq(f->n_histograms, json_array_size(histograms), "%s: %zu histograms", key, f->n_histograms);
    json_array_foreach(floats, i, s)
    {
        json_t *v = json_array_get(s, 1);
        if (json_is_number(v))
            cr_expect(has_sample(f, json_integer_value(json_array_get(s, 0)), number_of(v)), "%s: sample %zu", key, i);
    }
}

Test(block_real, the_level_1_blocks_have_the_samples_that_were_pushed, .init = setup, .fini = teardown)
{
    need_blocks();
    json_error_t error;
    json_t *root = json_load_file(REAL_BLOCKS "/expected.json", 0, &error), *list;
    cr_assert(root, "%s", error.text);
    const char *tenant;
    json_object_foreach(root, tenant, list)
    {
        if (strcmp(tenant, "tenant-a") != 0 && strcmp(tenant, "tenant-b") != 0)
            continue;
        n_found = 0;
        cr_assert_gt(each_block(path_of(REAL_BLOCKS "/level1", tenant), take_block), 1);
        size_t i, n_samples = 0, n_with = n_found;
        json_t *series;
        json_array_foreach(list, i, series) check_expected(series);
        for (size_t k = 0; k < n_found; k++)
            n_samples += found[k].n;
        cr_expect(n_with == json_array_size(list) && n_found == n_with && n_samples > 0, "%s: %zu series", tenant, n_with);
        for (size_t k = 0; k < n_found; k++) {
            free(found[k].t);
            free(found[k].v);
        }
    }
    free(found);
    json_decref(root);
}
