/* What the shipper asks and says, and what may go. */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/logger.h"
#include "ingest/blocks/folders_int.h"
#include "ingest/blocks/local_blocks_int.h"

/* --- shipping --- */

void local_blocks_expect_shipper(struct local_blocks *lb)
{
    pthread_mutex_lock(&lb->lock);
    lb->has_shipper = true;
    pthread_mutex_unlock(&lb->lock);
}

struct local_block_info *local_blocks_list(struct local_blocks *lb, struct slice tenant, size_t *ret_n)
{
    size_t n = 0;
    pthread_mutex_lock(&lb->lock);
    struct tenant_blocks *t = blocks_of(lb, tenant, false);
    struct local_block_info *list = t && t->n ? blocks_calloc(t->n, sizeof(*list)) : NULL;
    for (size_t i = 0; t && i < t->n; i++) {
        const struct local_block *b = t->blocks[i];
        if (b->pending)
            continue;
        struct local_block_info *x = &list[n++];
        *x = (struct local_block_info){.ulid = b->ulid,
                                       .min_t = b->min_t,
                                       .max_t = b->max_t,
                                       .out_of_order = b->out_of_order,
                                       .shipped_ms = b->shipped_ms,
                                       .damaged = b->damaged,
                                       .bytes = b->bytes};
        blocks_path(lb, tenant, "", &b->ulid, x->path, sizeof(x->path));
    }
    pthread_mutex_unlock(&lb->lock);
    if (n == 0) {
        free(list);
        list = NULL;
    }
    *ret_n = n;
    return list;
}

struct slice *local_blocks_tenants(struct local_blocks *lb, size_t *ret_n)
{
    size_t n = 0;
    size_t bytes = 0;
    pthread_mutex_lock(&lb->lock);
    for (size_t i = 0; i < lb->n; i++) {
        n += lb->tenants[i]->n > 0;
        bytes += lb->tenants[i]->tenant.n;
    }
    struct slice *list = n ? blocks_calloc(1, n * sizeof(*list) + bytes) : NULL;
    char *text = (char *)(list + n);
    n = 0;
    for (size_t i = 0; list && i < lb->n; i++) {
        struct slice name = lb->tenants[i]->tenant;
        if (!lb->tenants[i]->n)
            continue;
        memcpy(text, name.p, name.n);
        list[n++] = slice_make(text, name.n);
        text += name.n;
    }
    pthread_mutex_unlock(&lb->lock);
    *ret_n = n;
    return list;
}

void local_blocks_set_shipped(struct local_blocks *lb, struct slice tenant, const struct ulid *block, int64_t at_ms)
{
    pthread_mutex_lock(&lb->lock);
    struct local_block *b = block_of(blocks_of(lb, tenant, false), block);
    if (b)
        b->shipped_ms = at_ms;
    pthread_mutex_unlock(&lb->lock);
}

/* --- upkeep --- */

/* Under lock. */
static bool may_go(const struct local_blocks *lb, const struct local_block *b, int64_t now_ms)
{
    if (b->pending || (lb->has_shipper && !b->shipped_ms))
        return false;
    if (b->damaged && b->shipped_ms && b->max_t <= now_ms - lb->store_has_it_ms)
        return true;
    return lb->retention_ms > 0 && (lb->has_shipper ? b->shipped_ms : b->max_t) <= now_ms - lb->retention_ms;
}

static struct local_block *take_expired(struct local_blocks *lb, int64_t now_ms)
{
    struct local_block *found = NULL;
    pthread_mutex_lock(&lb->lock);
    for (size_t i = 0; !found && i < lb->n; i++) {
        struct tenant_blocks *t = lb->tenants[i];
        for (size_t k = 0; !found && k < t->n; k++) {
            if (!may_go(lb, t->blocks[k], now_ms))
                continue;
            found = t->blocks[k];
            blocks_unlist(t, k);
        }
    }
    pthread_mutex_unlock(&lb->lock);
    return found;
}

/* First out of sight by a rename: half a folder would be a damaged block at the next start. */
static void delete_folder(struct local_blocks *lb, const struct local_block *b)
{
    struct slice tenant = b->tenant->tenant;
    char from[4096];
    char to[4096];
    struct err err;
    blocks_tenant_path(lb, tenant, DELETING, to, sizeof(to));
    bool ok = folder_make(to, &err);
    blocks_path(lb, tenant, "", &b->ulid, from, sizeof(from));
    blocks_path(lb, tenant, DELETING, &b->ulid, to, sizeof(to));
    if (ok && rename(from, to) != 0)
        ok = err_errno(&err, ERR_IO, errno, "renaming %s", from);
    ok = ok && folder_remove(to, &err);
    if (!ok)
        LOG_WARN("an old block could not be deleted; the next start tries again", {"block", LOG_STR(from)}, {"err", LOG_ERR(&err)});
}

size_t local_blocks_expire(struct local_blocks *lb, int64_t now_ms)
{
    size_t n = 0;
    for (struct local_block *b; (b = take_expired(lb, now_ms)); n++) {
        LOG_INFO("a block was kept for the retention period", {"tenant", LOG_SLICE(b->tenant->tenant)}, {"block", LOG_STR(b->ulid.text)});
        delete_folder(lb, b);
        metric_inc(metric_single(local_blocks_metrics[BLOCKS_RETENTIONS]));
        local_block_unref(b);
    }
    return n;
}

bool local_blocks_waiting(struct local_blocks *lb, struct slice tenant)
{
    bool waiting = false;
    pthread_mutex_lock(&lb->lock);
    struct tenant_blocks *t = blocks_of(lb, tenant, false);
    for (size_t i = 0; t && i < t->n; i++)
        waiting |= t->blocks[i]->pending || (lb->has_shipper && !t->blocks[i]->shipped_ms);
    pthread_mutex_unlock(&lb->lock);
    return waiting;
}
