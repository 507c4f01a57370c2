/*
 * Spoilt files. Every byte of a small block is changed: each time there is an error with a code and a text, or the very same answer (padding, the version of
 * the index). What the disk does to a block must never look like other data.
 */
#include "storage/block/crc32c.h"
#include "tests/storage/block/block_util.h"

static const char *small_block(void)
{
    struct series s[3];
    static const char *const labels[] = {"__name__=a,x=1", "__name__=a,x=2", "__name__=b,y=2"};
    for (size_t i = 0; i < 3; i++) {
        struct series_chunk *chunks = ARENA_ARRAY(&arena, struct series_chunk, 2);
        chunks[0] = float_chunk(0, 10, 5, (double)i);
        chunks[1] = float_chunk(50, 10, 5, (double)i);
        s[i] = (struct series){labels_of(labels[i]), chunks, 2};
    }
    return write_block(s, 3, meta_of_times(0, 1000));
}

/* What the block says, or the error; false: an error without a name. */
static bool answer(const char *dir, struct buf *out, struct err *err)
{
    struct block *b = block_open(dir, err);
    if (!b)
        return false;
    struct select_params p = EVERYTHING;
    struct ctx ctx = test_ctx();
    const struct slice *values;
    size_t n = 0;
    bool good = select_text(b, &p, out, err) && block_label_values(b, &ctx, SL("x"), &p, &values, &n, err) && block_verify(b, err);
    for (size_t i = 0; good && i < n; i++)
        buf_printf(out, "%.*s;", SL_FMT(values[i]));
    block_close(b);
    return good;
}

static void flip_all(const char *name, bool same_answer)
{
    const char *dir = small_block(), *path = path_of(dir, name);
    struct slice whole = read_file(path);
    struct err err = ERR_NONE;
    struct buf want = {0}, got = {0};
    cr_assert(answer(dir, &want, &err), "%s", err.text);
    for (size_t bit = 0; bit < 8 * whole.n; bit++) {
        struct arena mark = arena;
        arena_init(&arena, 0);
        char *bytes = malloc(whole.n);
        memcpy(bytes, whole.p, whole.n);
        bytes[bit / 8] = (char)(bytes[bit / 8] ^ (1 << bit % 8));
        write_file(path, slice_make(bytes, whole.n));
        err = ERR_NONE;
        buf_clear(&got);
        if (!answer(dir, &got, &err))
            cr_expect(err.code != ERR_OK && strlen(err.text) > 10, "%s: bit %zu: an error without a name", name, bit);
        else if (same_answer)
            cr_expect(slice_eq(buf_slice(&got), buf_slice(&want)), "%s: bit %zu: another answer", name, bit);
        free(bytes);
        arena_release(&arena);
        arena = mark;
    }
    buf_release(&want);
    buf_release(&got);
}

Test(block_damage, of_one_bit_of_the_index_is_an_error_or_no_damage, .init = setup, .fini = teardown)
{
    flip_all("index", true);
}

Test(block_damage, of_one_bit_of_a_segment_is_an_error_or_no_damage, .init = setup, .fini = teardown)
{
    flip_all("chunks/000001", true);
}

Test(block_damage, of_one_bit_of_the_tombstones_is_an_error, .init = setup, .fini = teardown)
{
    flip_all("tombstones", true);
}

/* It has no checksum, and a digit may become another; the samples are still what the index says. */
Test(block_damage, of_one_bit_of_meta_json_changes_no_sample, .init = setup, .fini = teardown)
{
    flip_all("meta.json", true);
}

static void cut_all(const char *name)
{
    const char *dir = small_block(), *path = path_of(dir, name);
    struct slice whole = read_file(path);
    struct err err;
    for (size_t n = 0; n < whole.n; n++) {
        struct buf got = {0};
        write_file(path, slice_make(whole.p, n));
        err = ERR_NONE;
        /* Behind the last brace of meta.json there is nothing but a newline. */
        bool good = answer(dir, &got, &err);
        cr_expect(n + 1 == whole.n && whole.p[n] == '\n' ? good : !good && err.code == ERR_CORRUPT, "%s cut at %zu: %s", name, n, err.text);
        buf_release(&got);
    }
}

Test(block_damage, a_file_that_was_cut_is_an_error, .init = setup, .fini = teardown)
{
    cut_all("index");
    cut_all("chunks/000001");
    cut_all("tombstones");
    cut_all("meta.json");
}

Test(block_damage, a_file_that_is_missing_is_an_error_that_names_it, .init = setup, .fini = teardown)
{
    static const char *const files[] = {"index", "meta.json", "chunks/000001"};
    for (size_t i = 0; i < ARRAY_LEN(files); i++) {
        const char *dir = small_block();
        struct err err = ERR_NONE;
        cr_assert(unlink(path_of(dir, files[i])) == 0);
        cr_expect_null(block_open(dir, &err));
        cr_expect(err.code == (i < 2 ? ERR_NOT_FOUND : ERR_CORRUPT) && strstr(err.text, i < 2 ? files[i] : "chunks"), "%s", err.text);
    }
}

Test(block_damage, a_block_with_deleted_samples_is_refused, .init = setup, .fini = teardown)
{
    /* Written by Prometheus's format: series 7 without the times 0 to 4. The checksum is that of the three bytes. */
    const char *dir = small_block();
    struct err err = ERR_NONE;
    static const char stones[] = "\x01\x30\xBA\x30\x01\x07\x00\x08";
    struct buf b = {0};
    buf_put(&b, stones, 8);
    uint32_t crc = __builtin_bswap32(crc32c(0, stones + 5, 3));
    buf_put(&b, &crc, 4);
    write_file(path_of(dir, "tombstones"), buf_slice(&b));
    buf_release(&b);
    cr_expect_null(block_open(dir, &err));
    cr_expect(err.code == ERR_BAD_DATA && strstr(err.text, "deleted"), "%s", err.text);
}
