/*
 * Checkpoint images with checksums switched off: whatever passes the loader's checks is appended to, asked, and
 * dropped. Seeds: tests/fuzz/corpus/checkpoint, made by make_checkpoint_corpus.
 */
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "ingest/checkpoint_int.h"
#include "ingest/ingest_metrics_int.h"
#include "ingest/query_int.h"

static bool read_bytes(void *arg, void *p, size_t n, uint64_t off)
{
    memcpy(p, (const char *)arg + off, n);
    return true;
}

static const char *folder(void)
{
    static char dir[64];
    if (!dir[0]) {
        strcpy(dir, "/tmp/brunn-fuzz-XXXXXX");
        if (!mkdtemp(dir))
            abort();
    }
    return dir;
}

static void append_all(struct shard_data *d, struct arena *arena)
{
    struct chunk_store *cs = chunk_store_new(folder(), NULL);
    struct appender a = {.data = d, .chunks = cs, .scratch = arena};
    struct append_bounds b = {.min_valid = INT64_MIN, .ooo_min = INT64_MIN};
    uint32_t n = MIN(d->n_series, 200u);
    for (uint32_t ref = 0; ref < n; ref++) {
        int64_t t = series_hot(d, ref)->app.t;
        for (int i = 1; i < 40; i++) {
            append_float(&a, &b, ref, saturating_add(t, i * 1000), i);
            append_float(&a, &b, ref, t < 0 ? t : t - i * 10, i);
        }
        struct histogram h = {.schema = 1, .sum = stale_nan()};
        append_histogram(&a, &b, ref, saturating_add(t, 100000), &h);
        append_float(&a, &b, ref, saturating_add(t, 8000000), 1);
    }
    struct slice metric;
    uint32_t ref;
    series_create(d, (struct series_hash){1, 2}, SL("\x0A\x06\x0A\x01x\x12\x01y"), &ref, &metric);
    chunk_store_free(cs);
}

static void ask_all(struct shard_data *d, struct arena *arena)
{
    struct err err;
    for (uint32_t ref = 0; ref < MIN(d->n_series, 200u); ref++) {
        struct labels l;
        enum chunk_encoding enc;
        int64_t min_t;
        series_materialise_labels(d, ref, arena, &l);
        series_overlaps(d, ref, 0, INT64_MAX);
        struct slice bytes = series_open_chunk(d, ref, &enc, &min_t);
        struct chunk_columns cols;
        if (bytes.n)
            chunk_decode(enc, bytes, arena, &cols, &err);
    }
    static const enum matcher_type types[] = {MATCH_EQ, MATCH_NEQ, MATCH_RE, MATCH_NRE};
    for (size_t i = 0; i < ARRAY_LEN(types); i++) {
        struct matcher m;
        const uint32_t *refs;
        size_t n;
        if (!matcher_init(&m, types[i], SL("job"), SL("a.*|b"), &err))
            abort();
        postings_select(d, &m, 1, arena, &refs, &n);
        matcher_release(&m);
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    ingest_metrics_register();
    struct ckpt_source src = {.read = read_bytes, .arg = (void *)(uintptr_t)data, .size = size, .skip_sums = true};
    struct ckpt_section *sections;
    uint32_t n;
    struct err err;
    struct arena arena;
    if (!ckpt_read_table(&src, 1, &sections, &n, &err))
        return 0;
    arena_init(&arena, 64 << 20);
    int64_t applied;
    struct shard_data *d = ckpt_read_shard(&src, sections, n, 0, 1, &applied, &err);
    if (d) {
        ask_all(d, &arena);
        append_all(d, &arena);
        ask_all(d, &arena);
        if (!shard_data_verify(d))
            abort();
        shard_data_unref(d);
    }
    struct exemplars x;
    struct metadata_store m;
    exemplars_init(&x);
    metadata_init(&m);
    for (uint32_t i = 0; i < n; i++) {
        struct slice bytes = slice_make(data + sections[i].off, sections[i].len);
        if (sections[i].kind == CKPT_EXEMPLARS)
            exemplars_load(&x, bytes);
        if (sections[i].kind == CKPT_METADATA)
            metadata_load(&m, bytes);
    }
    exemplars_release(&x);
    metadata_release(&m);
    free(sections);
    arena_release(&arena);
    return 0;
}
