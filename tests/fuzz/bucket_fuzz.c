/*
 * What a bucket says in JSON: the first byte chooses. The bucket index, as it is or compressed here so that what is mutated is the JSON; the marks. Decoded or
 * refused by name; what was decoded is written, read again and written with the same bytes.
 */
#include <stdint.h>
#include <zlib.h>

#include "base/assert.h"
#include "storage/bucket/bucket.h"

#define BUDGET_BYTES ((size_t)64 << 20)

static void try_index(struct slice gz, struct arena *arena)
{
    struct bucket_index index, again;
    struct err err = ERR_NONE;
    struct buf first = {0}, second = {0};
    if (!bucket_index_decode(gz, arena, &index, &err)) {
        ASSERT((err.code == ERR_CORRUPT || err.code == ERR_NO_MEMORY) && err.text[0]);
        return;
    }
    bucket_index_encode(&index, &first);
    ASSERT(!first.failed && bucket_index_decode(buf_slice(&first), arena, &again, &err));
    bucket_index_encode(&again, &second);
    ASSERT(slice_eq(buf_slice(&first), buf_slice(&second)));
    buf_release(&first);
    buf_release(&second);
}

static void try_zipped(struct slice json, struct arena *arena)
{
    z_stream z = {.next_in = (Bytef *)(uintptr_t)json.p, .avail_in = (uInt)json.n};
    ASSERT(deflateInit2(&z, 1, Z_DEFLATED, 31, 8, Z_DEFAULT_STRATEGY) == Z_OK);
    size_t bound = deflateBound(&z, json.n);
    char *gz = arena_alloc(arena, bound);
    z.next_out = (Bytef *)gz;
    z.avail_out = (uInt)bound;
    ASSERT(deflate(&z, Z_FINISH) == Z_STREAM_END);
    size_t n = z.total_out;
    deflateEnd(&z);
    try_index(slice_make(gz, n), arena);
}

static void try_mark(enum block_mark_kind kind, struct slice json, struct arena *arena)
{
    struct block_mark m, again;
    struct err err = ERR_NONE;
    struct buf first = {0}, second = {0};
    if (!block_mark_decode(kind, json, arena, &m, &err)) {
        ASSERT(err.code == ERR_CORRUPT && err.text[0]);
        return;
    }
    block_mark_encode(kind, &m, &first);
    ASSERT(!first.failed && block_mark_decode(kind, buf_slice(&first), arena, &again, &err));
    block_mark_encode(kind, &again, &second);
    ASSERT(slice_eq(buf_slice(&first), buf_slice(&second)));
    buf_release(&first);
    buf_release(&second);
}

static void try_tenant_mark(struct slice json)
{
    struct tenant_mark m, again;
    struct err err = ERR_NONE;
    struct buf out = {0};
    if (!tenant_mark_decode(json, &m, &err)) {
        ASSERT(err.code == ERR_CORRUPT && err.text[0]);
        return;
    }
    tenant_mark_encode(&m, &out);
    ASSERT(tenant_mark_decode(buf_slice(&out), &again, &err) && m.deletion_time_s == again.deletion_time_s && m.finished_time_s == again.finished_time_s);
    buf_release(&out);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct arena arena;
    if (size == 0)
        return 0;
    struct slice rest = slice_make(data + 1, size - 1);
    arena_init(&arena, BUDGET_BYTES);
    switch (data[0]) {
    case 'g':
        try_index(rest, &arena);
        break;
    case 'j':
        try_zipped(rest, &arena);
        break;
    case 'd':
        try_mark(BLOCK_MARK_DELETION, rest, &arena);
        break;
    case 'n':
        try_mark(BLOCK_MARK_NO_COMPACT, rest, &arena);
        break;
    case 't':
        try_tenant_mark(rest);
        break;
    default:
        break;
    }
    arena_release(&arena);
    return 0;
}
