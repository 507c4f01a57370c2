/*
 * A tenant that is to be deleted, round by round:
 *
 *     marked ──(index removed, then downsampled blocks, then all others)──> finished_time set ──(-compactor.tenant-cleanup-delay)──> nothing left
 *
 * The index goes first, so that nobody is led to blocks that go one after the other. Blocks that come in between (an ingester that had not seen the mark)
 * are found by the next round, and the time of the delay begins anew. The mark goes last of all: while it is there ingesters do not ship the tenant's blocks.
 */
#include "base/logger.h"
#include "storage/compactor/cleaner/cleaner_int.h"

/* ret_n: how many there were. */
static bool remove_all_blocks(struct tenant_turn *t, size_t *ret_n, struct err *err)
{
    const struct ulid *blocks;
    if (!bucket_blocks(t->c->parts.bucket, t->ctx, t->tenant, &t->arena, &blocks, ret_n, err))
        return false;
    size_t n_failed = cleaner_remove_blocks(t, blocks, *ret_n);
    if (n_failed == 0) {
        cleaner_forget_metrics(t->tenant);
        return true;
    }
    metric_set(METRIC_WITH(cleaner_metrics[CLEANER_BLOCKS], t->tenant), (double)n_failed);
    metric_set(METRIC_WITH(cleaner_metrics[CLEANER_MARKED], t->tenant), 0);
    return ctx_check(t->ctx, err) && err_set(err, ERR_IO, "%zu of %zu blocks of a deleted tenant could not be removed", n_failed, *ret_n);
}

static bool remove_rest(struct tenant_turn *t, struct err *err)
{
    struct bucket_name mark = bucket_tenant_file(t->tenant, BUCKET_MARKERS BUCKET_TENANT_DELETION_MARK);
    LOG_INFO("removing what is left of a deleted tenant", {"user", LOG_SLICE(t->tenant)});
    return cleaner_remove_folder(t, "", err) && objstore_remove(t->c->parts.bucket, t->ctx, bucket_name_slice(&mark), err);
}

bool cleaner_delete_tenant(struct tenant_turn *t, const struct tenant_mark *mark, struct err *err)
{
    struct objstore *bucket = t->c->parts.bucket;
    struct bucket_name index = bucket_tenant_file(t->tenant, BUCKET_INDEX);
    size_t n_blocks;
    if (!objstore_remove(bucket, t->ctx, bucket_name_slice(&index), err) || !cleaner_delete_rooms(t, err) || !remove_all_blocks(t, &n_blocks, err))
        return false;
    if (n_blocks > 0 || mark->finished_time_s == 0) {
        struct tenant_mark finished = {mark->deletion_time_s, t->now_s};
        LOG_INFO("all blocks of a deleted tenant are removed", {"user", LOG_SLICE(t->tenant)}, {"blocks", LOG_U64(n_blocks)});
        return bucket_write_tenant_mark(bucket, t->ctx, t->tenant, &finished, err);
    }
    if ((t->now_s - mark->finished_time_s) * 1000 < t->c->parts.cfg->tenant_cleanup_delay)
        return true;
    return remove_rest(t, err);
}
