/*
 * Seeds for the fuzz targets of blocks: writes a small block of ours into <folder>.
 *
 *     block_make_corpus /tmp/x && cp /tmp/x/<ULID>/index tests/fuzz/corpus/block_index/ ...
 */
#include <stdio.h>

#include "base/assert.h"
#include "storage/block/block.h"

static void add(struct block_writer *w, const char *metric, const char *name, const char *value, int64_t t, const struct histogram *h)
{
    uint8_t bytes[256];
    struct err err = ERR_NONE;
    struct xor_appender a;
    struct label labels[] = {{SL("__name__"), slice_of(metric)}, {slice_of(name), slice_of(value)}};
    struct histogram_appender *ha = histogram_appender_new(false);
    xor_appender_init(&a);
    for (int64_t i = 0; i < 4; i++)
        xor_append(&a, bytes, t + 10 * i, (double)i * 1.5);
    ASSERT(ha && histogram_append(ha, t + 100, h) == HISTOGRAM_APPENDED);
    struct series_chunk chunks[] = {{t, t + 30, CHUNK_XOR, slice_make(bytes, xor_size(&a))},
                                    {t + 100, t + 100, CHUNK_HISTOGRAM, histogram_appender_bytes(ha)}};
    if (!block_writer_add(w, &(struct labels){labels, 2}, chunks, 2, &err))
        fprintf(stderr, "%s\n", err.text);
    histogram_appender_free(ha);
}

int main(int argc, char **argv)
{
    if (argc != 2)
        return fprintf(stderr, "usage: block_make_corpus <folder>\n"), 1;
    struct err err = ERR_NONE;
    struct slice symbols[] = {SL("1"), SL("2"), SL("__name__"), SL("a"), SL("b"), SL("x"), SL("y")};
    struct ulid ulid = ulid_new(1000);
    struct block_meta meta = {.ulid = ulid, .max_t = 1000, .level = 1, .sources = &ulid, .n_sources = 1, .has_thanos = true, .source = SL("test")};
    struct block_writer *w = block_writer_new(argv[1], &meta, symbols, ARRAY_LEN(symbols), &err);
    struct histogram_span span = {1, 1};
    int64_t delta = 3;
    struct histogram h = {.schema = 1, .zero_threshold = 0.25, .count_int = 3, .sum = 9, .positive_spans = &span, .n_positive_spans = 1,
                          .positive_deltas = &delta, .n_positive = 1};
    if (!w)
        return fprintf(stderr, "%s\n", err.text), 1;
    add(w, "a", "x", "1", 0, &h);
    add(w, "a", "x", "2", 5, &h);
    add(w, "b", "y", "2", 9, &h);
    bool good = block_writer_finish(w, NULL, NULL, &err);
    if (!good)
        fprintf(stderr, "%s\n", err.text);
    block_writer_free(w);
    return !good;
}
