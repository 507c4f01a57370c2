/* A segment of chunks of any bytes, checksums not looked at: a chunk read at every offset, and decoded. */
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "base/assert.h"
#include "storage/block/segment_int.h"

#define BUDGET_BYTES ((size_t)16 << 20)
#define OFFSETS_MAX 4096
#define DECODED_MAX 32

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct segment s;
    struct err err = ERR_NONE;
    int decoded = 0;
    if (!segment_open(&s, "000001", data, size, true, &err)) {
        ASSERT(err.code == ERR_CORRUPT && err.text[0]);
        return 0;
    }
    for (uint32_t at = 0; at < size + 2 && at < OFFSETS_MAX; at++) {
        enum chunk_encoding encoding;
        struct slice bytes;
        struct chunk_columns columns;
        struct arena arena;
        err = ERR_NONE;
        if (!segment_chunk(&s, at, &encoding, &bytes, &err)) {
            ASSERT(err.code == ERR_CORRUPT && err.text[0]);
            continue;
        }
        ASSERT((const uint8_t *)bytes.p > data && (const uint8_t *)bytes.p + bytes.n + 4 <= data + size);
        if (decoded++ >= DECODED_MAX)
            continue;
        arena_init(&arena, BUDGET_BYTES);
        ASSERT(chunk_decode(encoding, bytes, &arena, &columns, &err) || err.code != ERR_OK);
        arena_release(&arena);
    }
    return 0;
}
