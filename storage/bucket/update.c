/*
 * The bucket index made anew out of what the bucket lists, with as few reads as there are changes: two listings, and for each block or mark that the old index
 * does not know its meta.json and attributes, as many at a time as the caller says. What the old index knows and the listing lacks costs one look each; so a listing that is late cannot
 * take a block away from queriers.
 *
 * Marks are listed before blocks: a compaction marks its sources when its results are there. So an index that says of a block that it goes has what replaces it, however long it took to make.
 */
#include <pthread.h>
#include <stdlib.h>

#include "base/assert.h"
#include "base/parallel.h"
#include "storage/bucket/bucket_int.h"

struct update {
    struct objstore *s;
    const struct ctx *ctx;
    struct slice tenant;
    size_t n_threads;
    const struct ulid *fresh; /* what is being read; sorted */
    pthread_mutex_t lock;     /* while that is: guards what follows; innermost */
    struct arena *arena;      /* of the result */
    struct buf blocks, deletions, partial; /* of the result's items */
    size_t n_new;
};

/* --- items of the result ----------------------------------------------------------------------------------------------------- */

static bool copy(struct arena *arena, struct slice *s)
{
    if (s->n)
        *s = arena_dup(arena, *s);
    return s->n == 0 || s->p;
}

static bool add_block(struct update *u, const struct index_block *from, struct err *err)
{
    struct index_block b = *from;
    bool good = copy(u->arena, &b.segments_format) && copy(u->arena, &b.shard) && copy(u->arena, &b.source);
    struct block_label *labels = b.n_labels ? ARENA_ARRAY(u->arena, struct block_label, b.n_labels) : NULL;
    good = good && (labels || b.n_labels == 0);
    for (size_t i = 0; good && i < b.n_labels; i++) {
        labels[i] = from->labels[i];
        good = copy(u->arena, &labels[i].name) && copy(u->arena, &labels[i].value);
    }
    b.labels = labels;
    if (good)
        buf_put(&u->blocks, &b, sizeof(b));
    return (good && !u->blocks.failed) || bucket_no_memory(err);
}

static bool add_deletion(struct update *u, const struct index_deletion *d, struct err *err)
{
    buf_put(&u->deletions, d, sizeof(*d));
    return !u->deletions.failed || bucket_no_memory(err);
}

/* A fault of one object alone is told; any other ends the update. */
static bool add_partial(struct update *u, const struct ulid *id, struct slice mark, const struct err *why, struct err *err)
{
    if (why->code != ERR_NOT_FOUND && why->code != ERR_CORRUPT)
        return err_set(err, why->code, "%s", why->text);
    struct partial_block p = {*id, mark, *why};
    buf_put(&u->partial, &p, sizeof(p));
    return !u->partial.failed || bucket_no_memory(err);
}

/* --- blocks ------------------------------------------------------------------------------------------------------------------ */

/* "1b6d" and the number of segments, when the files are 000001, 000002, ...; else nothing. */
static uint32_t segments_of(const struct block_meta *meta)
{
    uint32_t n = 0;
    for (size_t i = 0; i < meta->n_files; i++) {
        struct slice path = meta->files[i].path, folder = SL("chunks/");
        char expected[16];
        if (!slice_has_prefix(path, folder))
            continue;
        snprintf(expected, sizeof(expected), "%06u", ++n);
        if (!slice_eq(slice_make(path.p + folder.n, path.n - folder.n), slice_of(expected)))
            return 0;
    }
    return n;
}

void index_block_of_meta(const struct block_meta *meta, int64_t uploaded_at_s, struct index_block *ret)
{
    struct slice shard = block_meta_label(meta, SL(BLOCK_LABEL_SHARD));
    uint32_t segments = segments_of(meta);
    *ret = (struct index_block){
        .id = meta->ulid,
        .min_t = meta->min_t,
        .max_t = meta->max_t,
        .segments_format = segments ? SL("1b6d") : SL(""),
        .segments_num = segments,
        .level = meta->level,
        .uploaded_at_s = uploaded_at_s,
        .shard = shard.p ? shard : SL(""),
        .source = meta->source,
        .labels = meta->labels,
        .n_labels = meta->n_labels,
        .out_of_order = block_meta_is_out_of_order(meta),
    };
}

bool bucket_read_meta(struct objstore *s, const struct ctx *ctx, struct slice tenant, const struct ulid *block, struct arena *arena,
                      struct block_meta *ret, struct err *err)
{
    struct bucket_name name = bucket_block_file(tenant, block, BUCKET_META);
    struct buf json;
    struct block_meta m;
    bool good = bucket_get_small(s, ctx, &name, BLOCK_META_MAX_BYTES, &json, err);
    if (good && !block_meta_decode(buf_slice(&json), arena, &m, err))
        good = err_prefix(err, "%s: ", name.text);
    buf_release(&json);
    if (good && ulid_cmp(&m.ulid, block) != 0)
        good = err_set(err, ERR_CORRUPT, "%s: it is the meta.json of block %s", name.text, m.ulid.text);
    if (good)
        *ret = m;
    return good;
}

static bool read_new_block(void *arg, size_t i, struct err *err)
{
    struct update *u = arg;
    const struct ulid *id = &u->fresh[i];
    struct bucket_name name = bucket_block_file(u->tenant, id, BUCKET_META);
    struct objstore_attributes attributes;
    struct arena scratch;
    struct block_meta meta;
    struct index_block b;
    struct err why = ERR_NONE;
    arena_init(&scratch, 0);
    bool there = bucket_read_meta(u->s, u->ctx, u->tenant, id, &scratch, &meta, &why) &&
                 objstore_attributes(u->s, u->ctx, bucket_name_slice(&name), &attributes, &why);
    if (there)
        index_block_of_meta(&meta, attributes.modified_ms / 1000, &b);
    pthread_mutex_lock(&u->lock);
    u->n_new += there;
    bool good = there ? add_block(u, &b, err) : add_partial(u, id, SL(""), &why, err);
    pthread_mutex_unlock(&u->lock);
    arena_release(&scratch);
    return good;
}

/* Items that begin with a ULID, from here on. */
static void sort_from(struct buf *items, size_t from, size_t item_size)
{
    if (items->n > from)
        qsort(items->p + from, (items->n - from) / item_size, item_size, ulid_cmp);
}

/* Those that are not known. What comes out is in their order, whoever was read first. */
static bool read_fresh(struct update *u, const struct ulid *listed, size_t n, const bool *known, parallel_fn *read, struct arena *lists, struct err *err)
{
    struct ulid *fresh = ARENA_ARRAY(lists, struct ulid, n + 1);
    size_t n_fresh = 0, blocks = u->blocks.n, deletions = u->deletions.n, partial = u->partial.n;
    if (!fresh)
        return bucket_no_memory(err);
    for (size_t i = 0; i < n; i++)
        if (!known[i])
            fresh[n_fresh++] = listed[i];
    u->fresh = fresh;
    bool good = parallel_run(n_fresh, u->n_threads, read, u, err);
    _Static_assert(offsetof(struct index_block, id) == 0 && offsetof(struct index_deletion, block) == 0 && offsetof(struct partial_block, id) == 0, "by ULID");
    sort_from(&u->blocks, blocks, sizeof(struct index_block));
    sort_from(&u->deletions, deletions, sizeof(struct index_deletion));
    sort_from(&u->partial, partial, sizeof(struct partial_block));
    return good;
}

/* Of the old index's blocks, what is listed or still there. ret_known[i]: the i-th listed one is old. */
static bool take_old_blocks(struct update *u, const struct bucket_index *old, const struct ulid *listed, size_t n, bool *ret_known, struct err *err)
{
    for (size_t i = 0; i < old->n_blocks; i++) {
        size_t at = ulid_find(listed, n, &old->blocks[i].id);
        bool there = at < n && !ret_known[at];
        struct bucket_name name = bucket_block_file(u->tenant, &old->blocks[i].id, BUCKET_META);
        if (at < n)
            ret_known[at] = true;
        else if (!bucket_exists(u->s, u->ctx, &name, &there, err))
            return false;
        if (there && !add_block(u, &old->blocks[i], err))
            return false;
    }
    return true;
}

static bool update_blocks(struct update *u, const struct bucket_index *old, struct arena *lists, struct err *err)
{
    const struct ulid *listed;
    size_t n;
    if (!bucket_blocks(u->s, u->ctx, u->tenant, lists, &listed, &n, err))
        return false;
    bool *known = arena_zalloc(lists, n + 1);
    if (!known)
        return bucket_no_memory(err);
    return take_old_blocks(u, old, listed, n, known, err) && read_fresh(u, listed, n, known, read_new_block, lists, err);
}

/* --- deletion marks ---------------------------------------------------------------------------------------------------------- */

static bool read_new_mark(void *arg, size_t i, struct err *err)
{
    struct update *u = arg;
    const struct ulid *id = &u->fresh[i];
    struct arena scratch;
    struct block_mark m;
    struct err why = ERR_NONE;
    arena_init(&scratch, 0);
    bool there = bucket_read_global_mark(u->s, u->ctx, u->tenant, id, BLOCK_MARK_DELETION, &scratch, &m, &why);
    arena_release(&scratch);
    pthread_mutex_lock(&u->lock);
    bool good = there ? add_deletion(u, &(struct index_deletion){*id, m.time_s}, err)
                      : why.code == ERR_NOT_FOUND || add_partial(u, id, SL(BUCKET_DELETION_MARK), &why, err); /* gone since it was listed */
    pthread_mutex_unlock(&u->lock);
    return good;
}

static bool take_old_marks(struct update *u, const struct bucket_index *old, const struct ulid *listed, size_t n, bool *ret_known, struct err *err)
{
    for (size_t i = 0; i < old->n_deletions; i++) {
        const struct index_deletion *d = &old->deletions[i];
        size_t at = ulid_find(listed, n, &d->block);
        bool there = at < n && !ret_known[at];
        struct bucket_name name = bucket_global_mark(u->tenant, &d->block, BUCKET_DELETION_MARK);
        if (at < n)
            ret_known[at] = true;
        else if (!bucket_exists(u->s, u->ctx, &name, &there, err))
            return false;
        if (there && !add_deletion(u, d, err))
            return false;
    }
    return true;
}

static bool update_marks(struct update *u, const struct bucket_index *old, struct arena *lists, struct err *err)
{
    const struct ulid *listed;
    size_t n;
    if (!bucket_list_marks(u->s, u->ctx, u->tenant, BLOCK_MARK_DELETION, lists, &listed, &n, err))
        return false;
    bool *known = arena_zalloc(lists, n + 1);
    if (!known)
        return bucket_no_memory(err);
    return take_old_marks(u, old, listed, n, known, err) && read_fresh(u, listed, n, known, read_new_mark, lists, err);
}

/* --- all of it --------------------------------------------------------------------------------------------------------------- */

static const void *moved(struct update *u, const struct buf *items, size_t item_size, size_t *ret_n)
{
    void *p = arena_array(u->arena, items->n / item_size + 1, item_size);
    if (p && items->n)
        memcpy(p, items->p, items->n);
    *ret_n = items->n / item_size;
    return p;
}

static bool finish(struct update *u, int64_t now_s, struct bucket_index *ret, struct bucket_update *ret_update, struct err *err)
{
    struct bucket_index index = {.updated_at_s = now_s};
    struct bucket_update update = {.n_new = u->n_new};
    index.blocks = moved(u, &u->blocks, sizeof(*index.blocks), &index.n_blocks);
    index.deletions = moved(u, &u->deletions, sizeof(*index.deletions), &index.n_deletions);
    update.partial = moved(u, &u->partial, sizeof(*update.partial), &update.n_partial);
    if (!index.blocks || !index.deletions || !update.partial)
        return bucket_no_memory(err);
    *ret = index;
    if (ret_update)
        *ret_update = update;
    return true;
}

bool bucket_index_update(struct objstore *s, const struct ctx *ctx, struct slice tenant, const struct bucket_index *old, int64_t now_s, size_t n_threads,
                         struct arena *arena, struct bucket_index *ret, struct bucket_update *ret_update, struct err *err)
{
    static const struct bucket_index nothing;
    struct update u = {.s = s, .ctx = ctx, .tenant = tenant, .n_threads = n_threads, .arena = arena};
    struct arena lists;
    u.blocks.max = u.deletions.max = u.partial.max = BUCKET_INDEX_MAX_BYTES;
    pthread_mutex_init(&u.lock, NULL);
    arena_init(&lists, 0);
    old = old ? old : &nothing;
    bool good = update_marks(&u, old, &lists, err) && update_blocks(&u, old, &lists, err) && finish(&u, now_s, ret, ret_update, err);
    arena_release(&lists);
    pthread_mutex_destroy(&u.lock);
    buf_release(&u.blocks);
    buf_release(&u.deletions);
    buf_release(&u.partial);
    return good;
}
