/* One living tenant's turn: the order of its steps, and why it is safe to break off between any two of them, stands in cleaner.h. */
#include <stdlib.h>
#include <string.h>

#include "base/logger.h"
#include "storage/compactor/cleaner/cleaner_int.h"
#include "storage/compactor/upload/upload.h"

/* --- sets of blocks -------------------------------------------------------------------------------------------------- */

static int by_id(const void *a, const void *b)
{
    return memcmp(((const struct ulid *)a)->text, ((const struct ulid *)b)->text, ULID_TEXT_LEN);
}

bool ulid_set_has(const struct ulid_set *s, const struct ulid *id)
{
    return s->n && bsearch(id, s->ids, s->n, sizeof(*id), by_id);
}

void ulid_set_sort(struct ulid_set *s)
{
    if (s->n)
        qsort(s->ids, s->n, sizeof(*s->ids), by_id);
}

static bool set_alloc(struct ulid_set *s, size_t n, struct arena *arena, struct err *err)
{
    s->n = n;
    s->ids = ARENA_ARRAY(arena, struct ulid, n + 1);
    return s->ids || err_set(err, ERR_NO_MEMORY, "the bucket index needs too much memory");
}

bool ulid_set_of_blocks(const struct bucket_index *index, struct arena *arena, struct ulid_set *ret, struct err *err)
{
    if (!set_alloc(ret, index->n_blocks, arena, err))
        return false;
    for (size_t i = 0; i < index->n_blocks; i++)
        ret->ids[i] = index->blocks[i].id;
    ulid_set_sort(ret);
    return true;
}

bool ulid_set_of_deletions(const struct bucket_index *index, struct arena *arena, struct ulid_set *ret, struct err *err)
{
    if (!set_alloc(ret, index->n_deletions, arena, err))
        return false;
    for (size_t i = 0; i < index->n_deletions; i++)
        ret->ids[i] = index->deletions[i].block;
    ulid_set_sort(ret);
    return true;
}

/* --- the index read and updated ------------------------------------------------------------------------------------------ */

static bool read_index(struct tenant_turn *t, struct err *err)
{
    struct err why = ERR_NONE;
    t->has_old = bucket_index_read(t->c->parts.bucket, t->ctx, t->tenant, &t->arena, &t->old, &why);
    if (t->has_old)
        return true;
    t->old = (struct bucket_index){0};
    if (why.code == ERR_CORRUPT)
        LOG_WARN("a bucket index is damaged and is made anew", {"user", LOG_SLICE(t->tenant)}, {"err", LOG_ERR(&why)});
    else if (why.code != ERR_NOT_FOUND)
        return err_set(err, why.code, "%s", why.text);
    return cleaner_copy_marks(t, err);
}

static void log_partial(const struct tenant_turn *t)
{
    for (size_t i = 0; i < t->found.n_partial; i++) {
        const struct partial_block *p = &t->found.partial[i];
        if (p->why.code == ERR_CORRUPT)
            LOG_WARN("a block is left out of the bucket index", {"user", LOG_SLICE(t->tenant)}, {"block", LOG_STR(p->id.text)},
                     {"mark", LOG_SLICE(p->mark)}, {"err", LOG_ERR(&p->why)});
    }
}

/* What an upload by HTTP left when its process ended between putting meta.json and tidying up. */
static void drop_upload_leftovers(struct tenant_turn *t)
{
    static const char *const files[] = {UPLOAD_META_FILE, UPLOAD_VALIDATION_FILE};
    struct ulid_set before;
    if (t->found.n_new == 0 || !ulid_set_of_blocks(&t->old, &t->arena, &before, NULL))
        return;
    for (size_t i = 0; i < t->index.n_blocks; i++) {
        const struct index_block *b = &t->index.blocks[i];
        if (!slice_eq(b->source, SL("upload")) || ulid_set_has(&before, &b->id))
            continue;
        for (size_t k = 0; k < ARRAY_LEN(files); k++) {
            struct bucket_name name = bucket_block_file(t->tenant, &b->id, files[k]);
            (void)objstore_remove(t->c->parts.bucket, t->ctx, bucket_name_slice(&name), NULL); /* harmless where it stays */
        }
    }
}

/* --- the end of a turn --------------------------------------------------------------------------------------------------- */

/* Whether nothing of the tenant is left that a bucket index or a mark would be about. */
static bool is_empty(const struct tenant_turn *t)
{
    return t->index.n_blocks == 0 && t->index.n_deletions == 0 && t->found.n_partial == 0;
}

static bool remove_remains(struct tenant_turn *t, struct err *err)
{
    struct bucket_name name = bucket_tenant_file(t->tenant, BUCKET_INDEX);
    return objstore_remove(t->c->parts.bucket, t->ctx, bucket_name_slice(&name), err) && cleaner_remove_folder(t, "debug/metas/", err);
}

static void count_jobs(struct tenant_turn *t)
{
    const struct cleaner_parts *p = &t->c->parts;
    size_t split, merge;
    struct err err = ERR_NONE;
    if (!p->estimate)
        return;
    if (!p->estimate(p->estimate_arg, t->tenant, &t->index, &split, &merge, &err)) {
        metric_inc(metric_single(cleaner_metrics[CLEANER_JOBS_FAILED]));
        LOG_WARN("compaction jobs of a tenant could not be counted", {"user", LOG_SLICE(t->tenant)}, {"err", LOG_ERR(&err)});
        return;
    }
    metric_set(METRIC_WITH(cleaner_metrics[CLEANER_JOBS], SL("split"), t->tenant), (double)split);
    metric_set(METRIC_WITH(cleaner_metrics[CLEANER_JOBS], SL("merge"), t->tenant), (double)merge);
}

static void show(struct tenant_turn *t)
{
    if (t->is_room)
        return;
    if (is_empty(t)) {
        cleaner_forget_metrics(t->tenant);
        return;
    }
    size_t n_partial = 0;
    for (size_t i = 0; i < t->found.n_partial; i++)
        n_partial += t->found.partial[i].mark.n == 0; /* the others are marks that cannot be read */
    metric_set(METRIC_WITH(cleaner_metrics[CLEANER_BLOCKS], t->tenant), (double)t->index.n_blocks);
    metric_set(METRIC_WITH(cleaner_metrics[CLEANER_MARKED], t->tenant), (double)t->index.n_deletions);
    metric_set(METRIC_WITH(cleaner_metrics[CLEANER_PARTIALS], t->tenant), (double)n_partial);
    metric_set(METRIC_WITH(cleaner_metrics[CLEANER_INDEX_UPDATED], t->tenant), (double)t->now_s);
    count_jobs(t);
}

bool cleaner_clean(struct tenant_turn *t, struct err *err)
{
    struct objstore *bucket = t->c->parts.bucket;
    size_t n_readers = (size_t)MAX(t->c->parts.cfg->update_blocks_concurrency, (int64_t)1);
    if (!read_index(t, err) || !bucket_index_update(bucket, t->ctx, t->tenant, &t->old, t->now_s, n_readers, &t->arena, &t->index, &t->found, err))
        return false;
    log_partial(t);
    cleaner_drop_void_marks(t);
    cleaner_hold_late_marks(t);
    cleaner_apply_retention(t);
    cleaner_remove_marked(t);
    cleaner_remove_partial(t);
    cleaner_drop_orphan_marks(t);
    drop_upload_leftovers(t);
    if (!ctx_check(t->ctx, err)) /* what was broken off is not published as if it were whole */
        return false;
    if (!(is_empty(t) ? remove_remains(t, err) : bucket_index_write(bucket, t->ctx, t->tenant, &t->index, err)))
        return false;
    show(t);
    return true;
}
