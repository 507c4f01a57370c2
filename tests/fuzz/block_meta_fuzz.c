/* meta.json of any bytes: decoded within a budget or refused by name; what was decoded is written, read again and written with the same bytes. */
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "base/assert.h"
#include "storage/block/meta.h"

#define BUDGET_BYTES ((size_t)64 << 20)

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct arena arena;
    struct block_meta m, again;
    struct err err = ERR_NONE;
    struct buf first = {0}, second = {0};
    arena_init(&arena, BUDGET_BYTES);
    if (block_meta_decode(slice_make(data, size), &arena, &m, &err)) {
        (void)block_meta_is_out_of_order(&m);
        block_meta_encode(&m, &first);
        ASSERT(!first.failed && block_meta_decode(buf_slice(&first), &arena, &again, &err));
        block_meta_encode(&again, &second);
        ASSERT(slice_eq(buf_slice(&first), buf_slice(&second)));
    } else {
        ASSERT(err.code != ERR_OK && err.text[0]);
    }
    buf_release(&first);
    buf_release(&second);
    arena_release(&arena);
    return 0;
}
