/*
 * Small chunks of floats put together.
 *
 * A chunk costs some 20 bytes for its first two samples, 7 around its bytes, and 8 to 10 in the index, whatever is in it. Heads cut after 120 samples so that
 * little has to be decoded of what is asked for often; what was merged is asked for seldom, and over longer times.
 */
#include "storage/join/join.h"

/* What a chunk costs beside its bytes, at least: length, encoding and checksum, and its entry in the index. Behind a gap the joined bytes are a little more. */
#define AROUND_BYTES 12

static bool fits(const struct series_chunk *a, const struct series_chunk *b)
{
    if (a->encoding != CHUNK_XOR || b->encoding != CHUNK_XOR || b->min_t <= a->max_t || a->data.n + b->data.n > CHUNK_MAX_BYTES)
        return false;
    int n_a = xor_count(a->data), n_b = xor_count(b->data);
    return n_a > 0 && n_b > 0 && n_a + n_b <= JOIN_PACK_SAMPLES;
}

bool join_pack(struct series_chunk *chunks, size_t *n, struct arena *arena, struct err *err)
{
    size_t n_out = 0;
    for (size_t i = 0; i < *n; i++) {
        struct series_chunk *last = n_out ? &chunks[n_out - 1] : NULL;
        size_t size;
        if (!last || !fits(last, &chunks[i])) {
            chunks[n_out++] = chunks[i];
            continue;
        }
        uint8_t *bytes = arena_alloc(arena, last->data.n + chunks[i].data.n + XOR_JOIN_ROOM);
        if (!bytes)
            return err_set(err, ERR_NO_MEMORY, "no memory to join chunks");
        if (xor_join(last->data, chunks[i].data, bytes, &size) && size < last->data.n + chunks[i].data.n + AROUND_BYTES) {
            last->data = slice_make(bytes, size);
            last->max_t = chunks[i].max_t;
        } else {
            chunks[n_out++] = chunks[i];
        }
    }
    *n = n_out;
    return true;
}
