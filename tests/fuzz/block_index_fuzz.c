/*
 * An index of any bytes, checksums not looked at (else nothing would get past them): opened, every symbol, name, value, series and list of postings
 * read, matchers tried. Each step ends in an answer or in a named error, within the memory given.
 */
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "base/assert.h"
#include "storage/block/index.h"

#define BUDGET_BYTES ((size_t)64 << 20)
#define SERIES_MAX 2000

static const struct {
    enum matcher_type type;
    const char *name, *value;
} matchers[] = {{MATCH_EQ, "__name__", "a"}, {MATCH_RE, "x", "1|2|"}, {MATCH_NEQ, "x", "1"}, {MATCH_NRE, "__name__", "b.*"}, {MATCH_RE, "y", ".+"}};

static void check_result(bool good, const struct err *err)
{
    ASSERT(good || (err->code != ERR_OK && err->text[0]));
}

static void try_matchers(const struct index *ix)
{
    for (size_t i = 0; i < ARRAY_LEN(matchers); i++) {
        struct arena arena, scratch;
        struct matcher m;
        struct postings p;
        struct err err = ERR_NONE;
        arena_init(&arena, BUDGET_BYTES);
        arena_init(&scratch, BUDGET_BYTES);
        ASSERT(matcher_init(&m, matchers[i].type, slice_of(matchers[i].name), slice_of(matchers[i].value), NULL));
        bool good = index_postings_match(ix, &m, 1, &scratch, &arena, &p, &err);
        check_result(good, &err);
        for (size_t k = 1; good && k < p.n; k++)
            ASSERT(p.refs[k] > p.refs[k - 1]);
        matcher_release(&m);
        arena_release(&scratch);
        arena_release(&arena);
    }
}

static void read_series(const struct index *ix, uint32_t ref, struct index_series *s)
{
    struct err err = ERR_NONE;
    bool good = index_series_read(ix, ref, s, &err);
    check_result(good, &err);
    for (size_t i = 1; good && i < s->n_labels; i++)
        ASSERT(slice_cmp(s->labels[i - 1].name, s->labels[i].name) < 0);
    for (size_t i = 0; good && i < s->n_chunks; i++)
        ASSERT(s->chunks[i].min_t <= s->chunks[i].max_t && (i == 0 || s->chunks[i - 1].min_t <= s->chunks[i].min_t));
}

static void read_all(const struct index *ix)
{
    struct arena arena;
    struct postings all;
    struct err err = ERR_NONE;
    struct index_series s = {0};
    arena_init(&arena, BUDGET_BYTES);
    bool good = index_postings_read(ix, ix->all_postings, &arena, &all, &err);
    check_result(good, &err);
    for (size_t i = 0; good && i < all.n && i < SERIES_MAX; i++)
        read_series(ix, all.refs[i], &s);
    for (uint64_t at = ix->series_from; at < ix->series_to && at < ix->series_from + SERIES_MAX; at++)
        read_series(ix, (uint32_t)(ix->version == 1 ? at : at / INDEX_SERIES_ALIGN), &s);
    index_series_release(&s);
    arena_release(&arena);
}

static void look_up(const struct index *ix)
{
    for (uint32_t i = 1; i < ix->n_symbols; i++)
        ASSERT(slice_cmp(index_symbol(ix, i - 1), index_symbol(ix, i)) < 0);
    for (size_t i = 0; i < ix->n_names; i++) {
        const struct index_name *name = &ix->names[i];
        uint64_t offset;
        uint32_t entry;
        ASSERT(index_find_name(ix, name->name) == name);
        for (uint32_t k = 0; k < name->n; k++)
            ASSERT(index_find_value(ix, name, index_entry_value(ix, name->first + k, &offset), &entry) && entry == name->first + k);
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct index ix;
    struct err err = ERR_NONE;
    bool good = index_open(&ix, "index", data, size, true, &err);
    check_result(good, &err);
    if (!good)
        return 0;
    look_up(&ix);
    read_all(&ix);
    try_matchers(&ix);
    index_release(&ix);
    return 0;
}
