/* What a client sends as meta.json: whatever is let through is one that storage/block reads, with the ULID and the source that are ours. */
#include "base/assert.h"
#include "storage/compactor/upload/upload_int.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n)
{
    static const char *items[] = {"2h", "24h"};
    static const struct compactor_config cfg = {.block_ranges = {items, 2}};
    static const struct limits limit_values = {.compactor_block_upload_max_block_size_bytes = 1 << 30};
    static const struct limits_provider limits = {&limit_values};
    struct upload u = {.parts = {.cfg = &cfg, .limits = &limits}};
    struct ulid block;
    struct arena arena;
    struct block_meta meta, again;
    struct err err = ERR_NONE;
    int status = 0;
    ASSERT(ulid_parse(SL("01M7Y7WR36RNAK3M75MGY89WZT"), &block));
    arena_init(&arena, (size_t)64 << 20);
    if (upload_meta_clean(&u, SL("t"), &block, slice_make(data, n), &arena, &meta, &status, &err)) {
        struct buf out = {.max = (size_t)64 << 20};
        upload_meta_encode(&meta, &out);
        ASSERT(!out.failed && block_meta_decode(buf_slice(&out), &arena, &again, &err));
        ASSERT(slice_eq(slice_of(again.ulid.text), slice_of(block.text)) && slice_eq(again.source, SL("upload")) && again.n_parents == 0);
        ASSERT(again.n_files == meta.n_files && again.n_labels == meta.n_labels && again.min_t == meta.min_t && again.max_t == meta.max_t);
        buf_release(&out);
    } else {
        ASSERT((status == 400 || status == 422) && err.text[0]);
    }
    arena_release(&arena);
    return 0;
}
