/*
 * A block out of the bucket: meta.json, everything else, the marks below it, their copies. With meta.json the block is gone for whoever looks; the deletion mark
 * below markers/ is the last thing to go, so that the next run of the cleaner finds what this one did not finish.
 */
#include "storage/bucket/bucket_int.h"

static bool remove_file(struct objstore *s, const struct ctx *ctx, struct slice tenant, const struct ulid *block, const char *file, struct err *err)
{
    struct bucket_name name = bucket_block_file(tenant, block, file);
    return objstore_remove(s, ctx, bucket_name_slice(&name), err);
}

static bool remove_mark(struct objstore *s, const struct ctx *ctx, struct slice tenant, const struct ulid *block, enum block_mark_kind kind,
                        struct err *err)
{
    struct bucket_name global = bucket_global_mark(tenant, block, block_mark_file(kind));
    return remove_file(s, ctx, tenant, block, block_mark_file(kind), err) && objstore_remove(s, ctx, bucket_name_slice(&global), err);
}

static bool is_mark(struct slice name)
{
    return slice_eq(name, SL(BUCKET_DELETION_MARK)) || slice_eq(name, SL(BUCKET_NO_COMPACT_MARK));
}

static bool remove_rest(struct objstore *s, const struct ctx *ctx, struct slice tenant, const struct ulid *block, struct arena *arena,
                        struct err *err)
{
    const struct bucket_object *files;
    size_t n;
    if (!bucket_block_files(s, ctx, tenant, block, arena, &files, &n, err))
        return false;
    for (size_t i = 0; i < n; i++)
        if (!is_mark(files[i].name) && !remove_file(s, ctx, tenant, block, files[i].name.p, err))
            return false;
    return true;
}

bool bucket_delete_block(struct objstore *s, const struct ctx *ctx, struct slice tenant, const struct ulid *block, struct err *err)
{
    struct arena arena;
    arena_init(&arena, 0);
    bool good = remove_file(s, ctx, tenant, block, BUCKET_META, err) && remove_rest(s, ctx, tenant, block, &arena, err) &&
                remove_mark(s, ctx, tenant, block, BLOCK_MARK_NO_COMPACT, err) && remove_mark(s, ctx, tenant, block, BLOCK_MARK_DELETION, err);
    arena_release(&arena);
    return good;
}
