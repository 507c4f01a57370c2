/*
 * Chunks of any encoding: first byte the encoding, the rest the chunk. Decoding must end in a result or an error within a bounded arena; what was
 * decoded is appended again, by an appender that was resumed half-way, and must come back.
 */
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "base/assert.h"
#include "storage/chunk/chunk.h"

#define BUDGET_BYTES ((size_t)256 << 20)

static bool same(double a, double b)
{
    return memcmp(&a, &b, 8) == 0;
}

static void again_xor(const struct chunk_columns *c, struct arena *arena)
{
    uint8_t *bytes = arena_alloc(arena, c->n * XOR_SAMPLE_MAX_BYTES + 64);
    struct chunk_columns back;
    struct xor_appender a;
    if (!bytes)
        return;
    xor_appender_init(&a);
    for (size_t i = 0; i < c->n; i++) {
        if (i == c->n / 2 && i > 1) {
            struct xor_appender r;
            ASSERT(xor_resume(&r, slice_make(bytes, xor_size(&a))));
            ASSERT(memcmp(&r, &a, sizeof(a)) == 0);
            a = r;
        }
        xor_append(&a, bytes, c->t[i], c->v[i]);
    }
    if (!chunk_decode(CHUNK_XOR, slice_make(bytes, c->n ? xor_size(&a) : 0), arena, &back, NULL)) {
        ASSERT(c->n == 0 || arena->overflow);
        return;
    }
    ASSERT(back.n == c->n);
    for (size_t i = 0; i < c->n; i++)
        ASSERT(back.t[i] == c->t[i] && same(back.v[i], c->v[i]));
}

/* Histograms of a spoilt chunk may be invalid; those that are not go through an appender. */
static void again_histogram(enum chunk_encoding enc, const struct chunk_columns *c)
{
    bool is_float = enc == CHUNK_FLOAT_HISTOGRAM;
    struct histogram_appender *a = histogram_appender_new(is_float);
    for (size_t i = 0; a && i < c->n; i++) {
        if (!is_stale_nan(c->h[i].sum) && !histogram_validate(&c->h[i], NULL))
            continue;
        if (histogram_append(a, c->t[i], &c->h[i]) != HISTOGRAM_NEW_CHUNK)
            continue;
        struct histogram_appender *next = histogram_appender_next(a, is_float);
        struct histogram_appender *resumed = histogram_appender_resume(enc, histogram_appender_bytes(a));
        ASSERT(resumed && slice_eq(histogram_appender_bytes(resumed), histogram_appender_bytes(a)));
        histogram_appender_free(resumed);
        histogram_appender_free(a);
        a = next;
        ASSERT(histogram_append(a, c->t[i], &c->h[i]) == HISTOGRAM_APPENDED);
    }
    histogram_appender_free(a);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    if (size == 0)
        return 0;
    enum chunk_encoding enc = (enum chunk_encoding)(data[0] % 4);
    struct slice bytes = slice_make(data + 1, size - 1);
    struct arena arena;
    struct chunk_columns c;
    struct chunk_samples merged;
    struct err err = ERR_NONE;
    arena_init(&arena, BUDGET_BYTES);
    int n = chunk_count(enc, bytes);
    if (chunk_decode(enc, bytes, &arena, &c, &err)) {
        ASSERT((int)c.n == n && (c.h == NULL) == (enc == CHUNK_XOR));
        if (enc == CHUNK_XOR)
            again_xor(&c, &arena);
        else
            again_histogram(enc, &c);
        if (chunk_columns_merge((struct chunk_columns[]){c, c}, 2, &arena, &merged, NULL))
            ASSERT(merged.n <= c.n);
    } else {
        ASSERT(err.code != ERR_OK && err.text[0]);
    }
    struct xor_appender x;
    (void)xor_resume(&x, bytes);
    arena_release(&arena);
    return 0;
}
