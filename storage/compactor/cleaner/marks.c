/* Marks: made by retention, copied where only half of them was written, taken away where they are about nothing. */
#include <stdlib.h>
#include <string.h>

#include "base/buf.h"
#include "base/logger.h"
#include "storage/compactor/cleaner/cleaner_int.h"

/*
 * A block that was completed after it was marked: by how much the clocks of the store and of this process may differ. A larger margin would mean to read the
 * mark of every block that was compacted soon after it came, in each round. Before a block is removed its mark is read in any case.
 */
#define CLOCK_MARGIN_S 60

/* --- copies ------------------------------------------------------------------------------------------------------------ */

static bool copy_mark(struct tenant_turn *t, const struct ulid *block, enum block_mark_kind kind, struct err *err)
{
    struct arena arena;
    struct block_mark mark;
    struct err why = ERR_NONE;
    arena_init(&arena, 0);
    bool good = true;
    if (bucket_read_mark(t->c->parts.bucket, t->ctx, t->tenant, block, kind, &arena, &mark, &why))
        good = bucket_mark_block(t->c->parts.bucket, t->ctx, t->tenant, kind, &mark, NULL, err);
    else if (why.code == ERR_CORRUPT)
        LOG_WARN("a mark of a block cannot be read", {"user", LOG_SLICE(t->tenant)}, {"err", LOG_ERR(&why)});
    else if (why.code != ERR_NOT_FOUND)
        good = err_set(err, why.code, "%s", why.text);
    arena_release(&arena);
    return good;
}

bool cleaner_copy_marks(struct tenant_turn *t, struct err *err)
{
    const struct ulid *blocks;
    size_t n;
    if (!bucket_blocks(t->c->parts.bucket, t->ctx, t->tenant, &t->arena, &blocks, &n, err))
        return false;
    for (size_t i = 0; i < n; i++)
        if (!copy_mark(t, &blocks[i], BLOCK_MARK_DELETION, err) || !copy_mark(t, &blocks[i], BLOCK_MARK_NO_COMPACT, err))
            return false;
    return true;
}

/* --- void marks ---------------------------------------------------------------------------------------------------------- */

/*
 * Whether the mark says that the block had been given up; it has a meta.json now, so that is not true. A copy without the mark itself is what this
 * function's caller left when it was broken off: whoever removes a block takes its meta.json away first.
 */
static bool is_void(struct tenant_turn *t, const struct ulid *block)
{
    struct arena arena;
    struct block_mark mark;
    struct err err = ERR_NONE;
    arena_init(&arena, 0);
    bool is = bucket_read_mark(t->c->parts.bucket, t->ctx, t->tenant, block, BLOCK_MARK_DELETION, &arena, &mark, &err)
                  ? slice_has_prefix(mark.details, SL(CLEANER_GIVEN_UP))
                  : err.code == ERR_NOT_FOUND;
    arena_release(&arena);
    struct bucket_name meta = bucket_block_file(t->tenant, block, BUCKET_META);
    struct objstore_attributes attributes;
    return is && objstore_attributes(t->c->parts.bucket, t->ctx, bucket_name_slice(&meta), &attributes, NULL);
}

static int by_block(const void *a, const void *b)
{
    return memcmp((*(const struct index_block *const *)a)->id.text, (*(const struct index_block *const *)b)->id.text, ULID_TEXT_LEN);
}

static bool remove_mark(struct tenant_turn *t, const struct ulid *block, struct err *err)
{
    struct bucket_name own = bucket_block_file(t->tenant, block, BUCKET_DELETION_MARK);
    struct bucket_name copy = bucket_global_mark(t->tenant, block, BUCKET_DELETION_MARK);
    return objstore_remove(t->c->parts.bucket, t->ctx, bucket_name_slice(&own), err) &&
           objstore_remove(t->c->parts.bucket, t->ctx, bucket_name_slice(&copy), err);
}

static bool drop_void_mark(struct tenant_turn *t, const struct ulid *block)
{
    struct err err = ERR_NONE;
    if (!is_void(t, block))
        return false;
    if (remove_mark(t, block, &err)) {
        metric_inc(metric_single(cleaner_metrics[CLEANER_VOID_MARKS]));
        LOG_INFO("a block that seemed to be given up is complete; its deletion mark is taken away", {"user", LOG_SLICE(t->tenant)},
                 {"block", LOG_STR(block->text)});
    } else {
        LOG_WARN("a void deletion mark could not be taken away", {"user", LOG_SLICE(t->tenant)}, {"err", LOG_ERR(&err)});
    }
    return true;
}

/* By id. NULL: no memory. */
static const struct index_block **sorted_blocks(struct tenant_turn *t)
{
    const struct index_block **all = ARENA_ARRAY(&t->arena, const struct index_block *, t->index.n_blocks + 1);
    for (size_t i = 0; all && i < t->index.n_blocks; i++)
        all[i] = &t->index.blocks[i];
    if (all && t->index.n_blocks)
        qsort(all, t->index.n_blocks, sizeof(*all), by_block);
    return all;
}

void cleaner_drop_void_marks(struct tenant_turn *t)
{
    struct index_deletion *kept = ARENA_ARRAY(&t->arena, struct index_deletion, t->index.n_deletions + 1);
    const struct index_block **blocks = sorted_blocks(t);
    int64_t delay_ms = t->c->parts.cfg->deletion_delay;
    size_t n = 0;
    if (!kept || !blocks)
        return;
    for (size_t i = 0; i < t->index.n_deletions; i++) {
        const struct index_deletion *d = &t->index.deletions[i];
        const struct index_block key = {.id = d->block}, *key_p = &key;
        const struct index_block **b = t->index.n_blocks ? bsearch(&key_p, blocks, t->index.n_blocks, sizeof(*blocks), by_block) : NULL;
        bool goes_now = (t->now_s - d->time_s) * 1000 >= delay_ms;
        bool look = b && (goes_now || (*b)->uploaded_at_s + CLOCK_MARGIN_S >= d->time_s);
        if (!look || !drop_void_mark(t, &d->block))
            kept[n++] = *d;
    }
    t->index.deletions = kept;
    t->index.n_deletions = n;
}

/* --- late marks ------------------------------------------------------------------------------------------------------------- */

void cleaner_hold_late_marks(struct tenant_turn *t)
{
    struct ulid_set published;
    struct index_deletion *all = ARENA_ARRAY(&t->arena, struct index_deletion, t->index.n_deletions + 1);
    int64_t delay_ms = t->c->parts.cfg->deletion_delay;
    int64_t earliest_s = t->now_s - (delay_ms - MIN(delay_ms, CLEANER_READERS_STALE_MS)) / 1000;
    if (!all || !ulid_set_of_deletions(&t->old, &t->arena, &published, NULL))
        return; /* what was not published is not removed in this round in any case */
    for (size_t i = 0; i < t->index.n_deletions; i++) {
        all[i] = t->index.deletions[i];
        if (!ulid_set_has(&published, &all[i].block))
            all[i].time_s = MAX(all[i].time_s, earliest_s);
    }
    t->index.deletions = all;
}

/* --- marks of blocks that are gone ------------------------------------------------------------------------------------------ */

static bool is_gone(struct tenant_turn *t, const struct ulid *block)
{
    const struct bucket_object *files;
    size_t n;
    struct arena arena;
    struct objstore_attributes attributes;
    struct err err = ERR_NONE;
    struct bucket_name meta = bucket_block_file(t->tenant, block, BUCKET_META);
    if (objstore_attributes(t->c->parts.bucket, t->ctx, bucket_name_slice(&meta), &attributes, &err) || err.code != ERR_NOT_FOUND)
        return false;
    arena_init(&arena, 0);
    bool gone = bucket_block_files(t->c->parts.bucket, t->ctx, t->tenant, block, &arena, &files, &n, NULL) && n == 0;
    arena_release(&arena);
    return gone;
}

void cleaner_drop_orphan_marks(struct tenant_turn *t)
{
    const struct ulid *marked;
    size_t n;
    struct ulid_set blocks;
    struct err err = ERR_NONE;
    if (!bucket_list_marks(t->c->parts.bucket, t->ctx, t->tenant, BLOCK_MARK_NO_COMPACT, &t->arena, &marked, &n, &err)) {
        LOG_WARN("no-compact marks of a tenant could not be listed", {"user", LOG_SLICE(t->tenant)}, {"err", LOG_ERR(&err)});
        return;
    }
    if (!ulid_set_of_blocks(&t->index, &t->arena, &blocks, NULL))
        return;
    for (size_t i = 0; i < n; i++) {
        struct bucket_name copy = bucket_global_mark(t->tenant, &marked[i], BUCKET_NO_COMPACT_MARK);
        if (!ulid_set_has(&blocks, &marked[i]) && is_gone(t, &marked[i]))
            (void)objstore_remove(t->c->parts.bucket, t->ctx, bucket_name_slice(&copy), NULL); /* again in the next round */
    }
}

/* --- retention --------------------------------------------------------------------------------------------------------------- */

/* True: there is a new mark, which ret is for the index. */
static bool mark_expired(struct tenant_turn *t, const struct index_block *b, int64_t retention_ms, struct index_deletion *ret)
{
    struct buf details = {.max = 256};
    buf_puts(&details, "block exceeding retention of ");
    duration_print(retention_ms, &details);
    struct block_mark mark = {.block = b->id, .time_s = t->now_s, .details = buf_slice(&details)};
    struct err err = ERR_NONE;
    bool is_new = false;
    if (!bucket_mark_block(t->c->parts.bucket, t->ctx, t->tenant, BLOCK_MARK_DELETION, &mark, &is_new, &err))
        LOG_WARN("a block that is older than the retention period could not be marked for deletion", {"user", LOG_SLICE(t->tenant)},
                 {"block", LOG_STR(b->id.text)}, {"err", LOG_ERR(&err)});
    buf_release(&details);
    if (!is_new)
        return false;
    t->c->parts.count_mark("retention");
    LOG_INFO("marked a block for deletion: it is older than the retention period", {"user", LOG_SLICE(t->tenant)}, {"block", LOG_STR(b->id.text)},
             {"max_time", LOG_I64(b->max_t)});
    *ret = (struct index_deletion){b->id, t->now_s};
    return true;
}

void cleaner_apply_retention(struct tenant_turn *t)
{
    int64_t retention_ms = t->retention_ms;
    struct ulid_set marked;
    if (retention_ms <= 0 || !ulid_set_of_deletions(&t->index, &t->arena, &marked, NULL))
        return;
    size_t n = t->index.n_deletions;
    struct index_deletion *all = ARENA_ARRAY(&t->arena, struct index_deletion, n + t->index.n_blocks + 1);
    if (!all)
        return;
    if (n)
        memcpy(all, t->index.deletions, n * sizeof(*all));
    for (size_t i = 0; i < t->index.n_blocks && ctx_check(t->ctx, NULL); i++) {
        const struct index_block *b = &t->index.blocks[i];
        if (b->max_t < t->now_s * 1000 - retention_ms && !ulid_set_has(&marked, &b->id) && mark_expired(t, b, retention_ms, &all[n]))
            n++;
    }
    t->index.deletions = all;
    t->index.n_deletions = n;
}
