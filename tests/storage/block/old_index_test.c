/*
 * Indexes of version 1, which nobody writes any more (docs/formats.md 6.3): made here by hand, with the label indices that old writers added and readers
 * pass over.
 */
#include "storage/block/crc32c.h"
#include "storage/block/index.h"
#include "tests/storage/block/block_util.h"

static struct buf out;

static void be(uint64_t v, int bytes)
{
    while (bytes--)
        buf_putc(&out, (char)(v >> 8 * bytes));
}

static void string(const char *s)
{
    buf_put_uvarint(&out, strlen(s));
    buf_puts(&out, s);
}

static void checksum_from(size_t at)
{
    be(crc32c(0, out.p + at, out.n - at), 4);
}

/* BE32 length before what was written from `at` on, which began with 4 bytes for it. */
static void section_end(size_t at)
{
    size_t n = out.n - at - 4;
    for (int i = 0; i < 4; i++)
        out.p[at + (size_t)i] = (char)(n >> (24 - 8 * i));
    checksum_from(at + 4);
}

static size_t begin(uint32_t count)
{
    size_t at = out.n;
    be(0, 4);
    be(count, 4);
    return at;
}

static size_t list(const uint32_t *refs, uint32_t n)
{
    while (out.n % 4)
        buf_putc(&out, 0);
    size_t at = begin(n);
    for (uint32_t i = 0; i < n; i++)
        be(refs[i], 4);
    section_end(at);
    return at;
}

static void entry(uint64_t parts, const char *name, const char *value, size_t offset)
{
    buf_put_uvarint(&out, parts);
    string(name);
    if (value)
        string(value);
    buf_put_uvarint(&out, offset);
}

/* One chunk each, at the times 5 to 9. */
static uint32_t put_series(size_t name, size_t value)
{
    uint32_t ref = (uint32_t)out.n;
    buf_putc(&out, 8);
    size_t at = out.n;
    buf_putc(&out, 1);
    buf_put_uvarint(&out, name);
    buf_put_uvarint(&out, value);
    buf_putc(&out, 1);
    buf_putc(&out, 10);
    buf_putc(&out, 4);
    buf_put_uvarint(&out, 300);
    cr_assert_eq(out.n - at, 8);
    checksum_from(at);
    return ref;
}

/* {a="x"} and {a="y"} */
static void make_version_1(void)
{
    size_t toc[6], symbols[3], lists[3], at;
    uint32_t refs[2];
    be(INDEX_MAGIC, 4);
    buf_putc(&out, 1);
    toc[0] = at = begin(3);
    for (int i = 0; i < 3; i++) {
        symbols[i] = out.n;
        string((const char *[]){"a", "x", "y"}[i]);
    }
    section_end(at);
    toc[1] = out.n;
    for (int i = 0; i < 2; i++)
        refs[i] = put_series(symbols[0], symbols[1 + i]);
    toc[2] = at = begin(1);
    be(2, 4);
    be(symbols[1], 4);
    be(symbols[2], 4);
    section_end(at);
    toc[4] = out.n;
    lists[0] = list(refs, 2);
    lists[1] = list(&refs[0], 1);
    lists[2] = list(&refs[1], 1);
    toc[3] = at = begin(1);
    entry(1, "a", NULL, toc[2]);
    section_end(at);
    toc[5] = at = begin(3);
    entry(2, "", "", lists[0]);
    entry(2, "a", "x", lists[1]);
    entry(2, "a", "y", lists[2]);
    section_end(at);
    at = out.n;
    for (int i = 0; i < 6; i++)
        be(toc[i], 8);
    checksum_from(at);
}

Test(block_old_index, of_version_1_is_read_with_references_as_offsets, .init = setup, .fini = teardown)
{
    struct index ix;
    struct err err = ERR_NONE;
    struct matcher m;
    struct postings p;
    struct index_series s = {0};
    make_version_1();
    cr_assert(index_open(&ix, "old", out.p, out.n, false, &err), "%s", err.text);
    cr_expect_eq(ix.version, 1);
    cr_assert(matcher_init(&m, MATCH_NEQ, SL("a"), SL("x"), &err));
    cr_assert(index_postings_match(&ix, &m, 1, &arena, &arena, &p, &err), "%s", err.text);
    cr_assert_eq(p.n, 1);
    cr_assert(index_series_read(&ix, p.refs[0], &s, &err), "%s", err.text);
    cr_expect(s.n_labels == 1 && slice_eq(s.labels[0].name, SL("a")) && slice_eq(s.labels[0].value, SL("y")));
    cr_expect(s.n_chunks == 1 && s.chunks[0].min_t == 5 && s.chunks[0].max_t == 9 && s.chunks[0].ref == 300);
    cr_expect(!index_series_read(&ix, p.refs[0] + 1, &s, &err) && err.code == ERR_CORRUPT);
    matcher_release(&m);
    index_series_release(&s);
    index_release(&ix);
    buf_release(&out);
}

/* Chunks that begin before the one ahead of them has ended: compactors of old have left such blocks. */
Test(block_old_index, chunks_that_overlap_are_read_in_order_and_marked, .init = setup, .fini = teardown)
{
    struct series s = {labels_of("a=b"), (struct series_chunk[]){float_chunk(50, 1, 3, 1), float_chunk(60, 1, 3, 1)}, 2};
    const char *dir = write_block(&s, 1, meta_of_times(0, 100)), *path = path_of(dir, "index");
    struct slice whole = read_file(path);
    struct err err = ERR_NONE;
    struct index ix;
    struct index_series series = {0};
    struct postings all;
    cr_assert(index_open(&ix, path, whole.p, whole.n, false, &err));
    cr_assert(index_postings_read(&ix, ix.all_postings, &arena, &all, &err));
    size_t at = 16 * (size_t)all.refs[0];
    char *bytes = (char *)(uintptr_t)whole.p;
    /* The payload: 1 label of 2 references, 2 chunks; 50 (as 100), 2, 8; then 60 - 52, which becomes 0. */
    cr_assert_eq(bytes[at + 8], 8);
    bytes[at + 8] = 0;
    uint32_t crc = __builtin_bswap32(crc32c(0, bytes + at + 1, (uint8_t)bytes[at]));
    memcpy(bytes + at + 1 + (uint8_t)bytes[at], &crc, 4);
    cr_assert(index_series_read(&ix, all.refs[0], &series, &err), "%s", err.text);
    cr_expect(series.overlapping && series.chunks[1].min_t == 52);
    write_file(path, whole);
    struct block *b = open_block(dir);
    cr_expect(!block_verify(b, &err) && err.code == ERR_CORRUPT && strstr(err.text, "out of order"), "%s", err.text);
    block_close(b);
    index_series_release(&series);
    index_release(&ix);
}
