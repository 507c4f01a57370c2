/* What the bucket lists: tenants, blocks, files, marks. A listing is collected whole, then sorted. */
#include <stdlib.h>

#include "base/assert.h"
#include "model/tenant.h"
#include "storage/bucket/bucket_int.h"

/* Fixed-size items in a buffer, moved into the arena at the end. */
struct collected {
    struct buf items;
    size_t item_size;
    size_t prefix_n; /* bytes of a name that all have */
    struct slice suffix;
    size_t max_items;
    struct arena *arena;
    bool no_memory;
    bool too_many;
};

static bool add(struct collected *c, const void *item)
{
    buf_put(&c->items, item, c->item_size);
    c->no_memory |= c->items.failed;
    c->too_many = c->max_items && c->items.n > c->max_items * c->item_size;
    return !c->no_memory && !c->too_many;
}

/* Sorted by cmp, and each once: a listing in pages may name one twice when objects come and go. */
static bool finish(struct collected *c, bool listed, int (*cmp)(const void *, const void *), const void **ret, size_t *ret_n, struct err *err)
{
    size_t n = c->items.n / c->item_size, kept = 0;
    char *items = c->items.p;
    if (listed && (c->no_memory || c->too_many))
        listed = c->too_many ? err_set(err, ERR_BAD_DATA, "more than %zu objects in one folder", c->max_items) : bucket_no_memory(err);
    if (listed && n)
        qsort(items, n, c->item_size, cmp);
    for (size_t i = 0; listed && i < n; i++)
        if (kept == 0 || cmp(items + (kept - 1) * c->item_size, items + i * c->item_size) != 0)
            memmove(items + kept++ * c->item_size, items + i * c->item_size, c->item_size);
    void *copy = listed ? arena_array(c->arena, kept + 1, c->item_size) : NULL;
    if (listed && !copy)
        listed = bucket_no_memory(err);
    if (listed) {
        if (kept)
            memcpy(copy, items, kept * c->item_size);
        *ret = copy;
        *ret_n = kept;
    }
    buf_release(&c->items);
    return listed;
}

static struct slice behind(const struct collected *c, struct slice name)
{
    ASSERT(name.n >= c->prefix_n);
    return slice_make(name.p + c->prefix_n, name.n - c->prefix_n);
}

static bool list_below(struct objstore *s, const struct ctx *ctx, const struct bucket_name *folder, bool delimited, objstore_list_fn *fn,
                       struct collected *c, struct err *err)
{
    c->prefix_n = folder->n;
    return objstore_list(s, ctx, bucket_name_slice(folder), delimited, fn, c, err);
}

/* --- tenants ----------------------------------------------------------------------------------------------------------------- */

static bool add_tenant(void *arg, struct slice name, bool is_prefix, const struct objstore_attributes *attributes)
{
    (void)attributes;
    struct collected *c = arg;
    if (is_prefix && name.n)
        name.n--;
    if (!is_prefix || !tenant_id_valid(name, NULL))
        return true;
    struct slice id = arena_dup(c->arena, name);
    c->no_memory |= !id.p;
    return !c->no_memory && add(c, &id);
}

static int by_slice(const void *a, const void *b)
{
    return slice_cmp(*(const struct slice *)a, *(const struct slice *)b);
}

bool bucket_tenants(struct objstore *s, const struct ctx *ctx, struct arena *arena, const struct slice **ret, size_t *ret_n, struct err *err)
{
    struct collected c = {.item_size = sizeof(struct slice), .arena = arena};
    bool listed = objstore_list(s, ctx, SL(""), true, add_tenant, &c, err);
    const void *items;
    if (!finish(&c, listed, by_slice, &items, ret_n, err))
        return false;
    *ret = items;
    return true;
}

bool bucket_tenants_marked(struct objstore *s, const struct ctx *ctx, struct arena *arena, const struct bucket_tenant **ret, size_t *ret_n,
                           struct err *err)
{
    const struct slice *ids;
    size_t n;
    if (!bucket_tenants(s, ctx, arena, &ids, &n, err))
        return false;
    struct bucket_tenant *tenants = ARENA_ARRAY(arena, struct bucket_tenant, n + 1);
    if (!tenants)
        return bucket_no_memory(err);
    for (size_t i = 0; i < n; i++) {
        struct bucket_name mark = bucket_tenant_file(ids[i], BUCKET_MARKERS BUCKET_TENANT_DELETION_MARK);
        tenants[i].id = ids[i];
        if (!bucket_exists(s, ctx, &mark, &tenants[i].to_be_deleted, err))
            return false;
    }
    *ret = tenants;
    *ret_n = n;
    return true;
}

/* --- blocks and their marks -------------------------------------------------------------------------------------------------- */

static bool add_block(void *arg, struct slice name, bool is_prefix, const struct objstore_attributes *attributes)
{
    (void)attributes;
    struct collected *c = arg;
    struct slice folder = behind(c, name);
    struct ulid block;
    if (!is_prefix || folder.n != ULID_TEXT_LEN + 1 || !ulid_of_folder(slice_make(folder.p, ULID_TEXT_LEN), &block))
        return true;
    return add(c, &block);
}

static bool add_mark(void *arg, struct slice name, bool is_prefix, const struct objstore_attributes *attributes)
{
    (void)attributes;
    struct collected *c = arg;
    struct slice file = behind(c, name);
    struct ulid block;
    if (is_prefix || file.n != ULID_TEXT_LEN + 1 + c->suffix.n || file.p[ULID_TEXT_LEN] != '-' || !slice_has_suffix(file, c->suffix) ||
        !ulid_of_folder(slice_make(file.p, ULID_TEXT_LEN), &block))
        return true;
    return add(c, &block);
}

static bool list_ulids(struct objstore *s, const struct ctx *ctx, const struct bucket_name *folder, objstore_list_fn *fn, struct collected *c,
                       const struct ulid **ret, size_t *ret_n, struct err *err)
{
    const void *items;
    c->item_size = sizeof(struct ulid);
    bool listed = list_below(s, ctx, folder, true, fn, c, err);
    if (!finish(c, listed, ulid_cmp, &items, ret_n, err))
        return false;
    *ret = items;
    return true;
}

bool bucket_blocks(struct objstore *s, const struct ctx *ctx, struct slice tenant, struct arena *arena, const struct ulid **ret, size_t *ret_n,
                   struct err *err)
{
    struct bucket_name folder = bucket_tenant_file(tenant, "");
    struct collected c = {.arena = arena};
    return list_ulids(s, ctx, &folder, add_block, &c, ret, ret_n, err);
}

bool bucket_list_marks(struct objstore *s, const struct ctx *ctx, struct slice tenant, enum block_mark_kind kind, struct arena *arena,
                       const struct ulid **ret, size_t *ret_n, struct err *err)
{
    struct bucket_name folder = bucket_tenant_file(tenant, BUCKET_MARKERS);
    struct collected c = {.arena = arena, .suffix = slice_of(block_mark_file(kind))};
    return list_ulids(s, ctx, &folder, add_mark, &c, ret, ret_n, err);
}

/* --- files of a block -------------------------------------------------------------------------------------------------------- */

static bool add_file(void *arg, struct slice name, bool is_prefix, const struct objstore_attributes *attributes)
{
    struct collected *c = arg;
    if (is_prefix)
        return true;
    struct bucket_object object = {arena_dup(c->arena, behind(c, name)), attributes->size, attributes->modified_ms};
    c->no_memory |= !object.name.p;
    return !c->no_memory && add(c, &object);
}

static int by_name(const void *a, const void *b)
{
    return slice_cmp(((const struct bucket_object *)a)->name, ((const struct bucket_object *)b)->name);
}

bool bucket_block_files(struct objstore *s, const struct ctx *ctx, struct slice tenant, const struct ulid *block, struct arena *arena,
                        const struct bucket_object **ret, size_t *ret_n, struct err *err)
{
    struct bucket_name folder = bucket_block_file(tenant, block, "");
    struct collected c = {.item_size = sizeof(struct bucket_object), .arena = arena, .max_items = BUCKET_BLOCK_FILES_MAX};
    bool listed = list_below(s, ctx, &folder, false, add_file, &c, err);
    const void *items;
    if (!finish(&c, listed, by_name, &items, ret_n, err))
        return false;
    *ret = items;
    return true;
}
