/* A bucket and a disk that lie: an answer is the right one or an error that names what is damaged; never a short one. */
#include "tests/storage/store/store_util.h"

#define T0 INT64_C(1763596800000)

static struct objstore *bucket;
static struct liar liar;
static const char *id;
static struct buf truth;

static void begin(void)
{
    setup();
    mkdir(bucket_dir(), 0755);
    bucket = open_bucket(bucket_dir());
    liar_init(&liar, bucket);
    struct series series[30];
    for (int i = 0; i < 30; i++) {
        struct series_chunk *chunks = ARENA_ARRAY(&arena, struct series_chunk, 2);
        chunks[0] = float_chunk(T0, 15000, 20, i);
        chunks[1] = float_chunk(T0 + 3600000, 15000, 20, i);
        series[i] = (struct series){labels_of(arena_printf(&arena, "__name__=m,id=%02d,job=j%d,zone=z", i, i % 3)), chunks, 2};
    }
    id = put_block(series, 30, T0, T0 + 7200000);
    struct block *local = open_block(block_dir(id));
    struct err err = ERR_NONE;
    buf_init(&truth, 0);
    cr_assert(select_text(local, &EVERYTHING, &truth, &err));
    block_close(local);
}

static void end(void)
{
    buf_release(&truth);
    objstore_free(bucket);
    teardown();
}

static size_t file_bytes(const char *path)
{
    struct stat st;
    cr_assert_eq(stat(path, &st), 0, "%s", path);
    return (size_t)st.st_size;
}

/* Opens and selects, the local files as they are; ERR_OK when the answer was right. */
static enum err_code ask(enum caches caches, struct err *err)
{
    struct test_store t;
    struct buf text;
    *err = ERR_NONE;
    buf_init(&text, 0);
    store_setup(&t, &liar.base);
    t.index_cfg.inmemory_max_size_bytes = t.chunks_cfg.inmemory_max_size_bytes = 1 << 20;
    store_begin(&t, caches);
    struct store_block *b = try_block(&t, TENANT, id, err);
    if (b && remote_text(b, &EVERYTHING, &text, NULL, err))
        cr_assert(slice_eq(buf_slice(&text), buf_slice(&truth)), "a wrong answer");
    store_block_unref(b);
    store_end(&t);
    buf_release(&text);
    return err->code;
}

static void forget_files(void)
{
    const char *dir = path_of(folder, "sync");
    nftw(dir, util_remove, 8, FTW_DEPTH | FTW_PHYS);
}

/* Each byte of the object with another bit; the local files are made before (warm) or from the damaged object. */
static void flip_all(const char *name, bool warm, enum caches caches, size_t step)
{
    struct err err;
    size_t n = file_bytes(path_of(block_dir(id), name)), seen = 0;
    liar.name = slice_of(name);
    for (size_t at = 0; at < n; at += step) {
        if (!warm)
            forget_files();
        liar.flip_at = (int64_t)at;
        liar.flip_bit = (uint8_t)(at % 8);
        enum err_code code = ask(caches, &err);
        cr_assert(code == ERR_OK || code == ERR_CORRUPT, "%s, byte %zu: %s", name, at, err.text);
        cr_assert(code == ERR_OK || (strstr(err.text, name) && strstr(err.text, id) && strstr(err.text, "offset ")), "%s, byte %zu: %s", name, at, err.text);
        seen += code == ERR_CORRUPT;
    }
    liar.flip_at = -1;
    cr_assert_gt(seen, n / step / 4, "%s: %zu of %zu", name, seen, n / step);
    cr_assert_eq(ask(caches, &err), ERR_OK, "%s", err.text);
}

Test(store_damage, each_byte_of_the_index_at_its_header, .init = begin, .fini = end)
{
    flip_all("index", false, NO_CACHES, 7);
}

Test(store_damage, each_byte_of_the_index_after_it, .init = begin, .fini = end)
{
    struct err err;
    cr_assert_eq(ask(NO_CACHES, &err), ERR_OK, "%s", err.text);
    flip_all("index", true, NO_CACHES, 3);
    flip_all("index", true, CACHES, 13);
}

Test(store_damage, each_byte_of_a_segment, .init = begin, .fini = end)
{
    struct err err;
    cr_assert_eq(ask(NO_CACHES, &err), ERR_OK, "%s", err.text);
    flip_all("chunks/000001", true, NO_CACHES, 5);
    flip_all("chunks/000001", true, CACHES, 17);
}

static void cut_all(const char *name, bool warm, enum caches caches)
{
    struct err err;
    size_t n = file_bytes(path_of(block_dir(id), name));
    liar.name = slice_of(name);
    for (size_t cut = 0; cut < n; cut += 1 + n / 100) {
        if (!warm)
            forget_files();
        liar.cut_at = cut;
        enum err_code code = ask(caches, &err);
        cr_assert(code == ERR_CORRUPT || (warm && code == ERR_OK), "%s, cut at %zu: %s", name, cut, err.text);
        cr_assert(code == ERR_OK || strstr(err.text, name), "%s, cut at %zu: %s", name, cut, err.text);
    }
    liar.cut_at = UINT64_MAX;
}

Test(store_damage, files_that_are_cut, .init = begin, .fini = end)
{
    struct err err;
    cut_all("index", false, NO_CACHES);
    forget_files();
    cr_assert_eq(ask(NO_CACHES, &err), ERR_OK, "%s", err.text);
    for (enum caches c = NO_CACHES; c <= CACHES; c++) {
        cut_all("index", true, c);
        cut_all("chunks/000001", true, c);
    }
}

Test(store_damage, a_bucket_that_fails_fails_the_select, .init = begin, .fini = end)
{
    struct err err;
    for (enum caches c = NO_CACHES; c <= CACHES; c++) {
        size_t failed = 0;
        for (int i = 0;; i++, failed++) {
            forget_files();
            atomic_store(&liar.fail_in, i);
            enum err_code code = ask(c, &err);
            if (code == ERR_OK)
                break;
            cr_assert_eq(code, ERR_UNAVAILABLE, "%s", err.text);
        }
        cr_assert_geq(failed, 6); /* TOC, symbols, table, postings, series, chunks */
    }
}

Test(store_damage, a_block_that_is_not_there, .init = begin, .fini = end)
{
    struct err err = ERR_NONE;
    struct test_store t;
    store_setup(&t, bucket);
    store_begin(&t, NO_CACHES);
    cr_expect(!try_block(&t, TENANT, "01M7Y7WR36RNAK3M75MGY89WZT", &err));
    cr_expect_eq(err.code, ERR_NOT_FOUND, "%s", err.text);
    store_end(&t);
}

/* --- local files --- */

/* Damages the file in every way; it is made anew, with the same bytes where same says so, and answers are right. */
static void damage_local(const char *name, bool same)
{
    struct err err;
    cr_assert_eq(ask(NO_CACHES, &err), ERR_OK, "%s", err.text);
    const char *path = path_of(arena_printf(&arena, "%s/sync/t1/%s", folder, id), name);
    struct slice good = read_file(path);
    char *bad = arena_alloc(&arena, good.n);
    for (size_t at = 0; at < good.n; at += 1 + good.n / 200) {
        memcpy(bad, good.p, good.n);
        bad[at] ^= (char)(1 << at % 8);
        write_file(path, slice_make(bad, good.n));
        cr_assert_eq(ask(NO_CACHES, &err), ERR_OK, "%s, byte %zu: %s", name, at, err.text);
        cr_assert(!same || slice_eq(read_file(path), good), "%s, byte %zu", name, at);
        write_file(path, slice_make(good.p, at));
        cr_assert_eq(ask(NO_CACHES, &err), ERR_OK, "%s, cut at %zu: %s", name, at, err.text);
        cr_assert(slice_eq(read_file(path), good), "%s, cut at %zu", name, at);
    }
}

Test(store_damage, a_damaged_index_header_is_made_anew, .init = begin, .fini = end)
{
    damage_local("index-header", true);
}

/* Some bits of gzip's own header mean nothing. */
Test(store_damage, a_damaged_sparse_header_is_made_anew, .init = begin, .fini = end)
{
    damage_local("sparse-index-header", false);
}

Test(store_damage, a_sparse_header_of_another_block_is_not_believed, .init = begin, .fini = end)
{
    struct err err;
    struct series one = {labels_of("__name__=other,id=00,zone=z"), (struct series_chunk[]){float_chunk(T0, 15000, 20, 1)}, 1};
    const char *first = id, *path = arena_printf(&arena, "%s/sync/t1/%s/sparse-index-header", folder, id);
    struct buf keep = truth;
    cr_assert_eq(ask(NO_CACHES, &err), ERR_OK, "%s", err.text);
    id = put_block(&one, 1, T0, T0 + 7200000);
    struct block *local = open_block(block_dir(id));
    buf_init(&truth, 0);
    cr_assert(select_text(local, &EVERYTHING, &truth, &err));
    block_close(local);
    cr_assert_eq(ask(NO_CACHES, &err), ERR_OK, "%s", err.text);
    struct slice other = read_file(arena_printf(&arena, "%s/sync/t1/%s/sparse-index-header", folder, id));
    buf_release(&truth);
    truth = keep;
    id = first;
    write_file(path, other);
    cr_assert_eq(ask(NO_CACHES, &err), ERR_OK, "%s", err.text);
    cr_assert(!slice_eq(read_file(path), other));
}

Test(store_damage, prepare_makes_the_files_once, .init = begin, .fini = end)
{
    struct err err = ERR_NONE;
    struct test_store t;
    struct ctx ctx = test_ctx();
    struct ulid ulid;
    store_setup(&t, &liar.base);
    store_begin(&t, NO_CACHES);
    cr_assert(ulid_parse(slice_of(id), &ulid));
    cr_assert(store_block_prepare(t.store, &ctx, TENANT, &ulid, dir_of(&t, TENANT, id), &err), "%s", err.text);
    uint64_t gets = atomic_load(&liar.gets);
    cr_assert_gt(gets, 0);
    cr_assert(store_block_prepare(t.store, &ctx, TENANT, &ulid, dir_of(&t, TENANT, id), &err), "%s", err.text);
    struct store_block *b = remote_block(&t, TENANT, id);
    cr_expect_eq(atomic_load(&liar.gets), gets);
    cr_expect_str_eq(store_block_id(b)->text, id);
    cr_expect_eq(store_block_index_bytes(b), file_bytes(path_of(block_dir(id), "index")));
    cr_expect_eq(store_block_header_bytes(b), file_bytes(path_of(dir_of(&t, TENANT, id), "index-header")));
    store_block_unref(b);
    store_end(&t);
}
